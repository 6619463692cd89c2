package proxy

import (
	"bytes"
	"errors"
	"math"
	"strings"

	"github.com/tidwall/redcon"

	"nearside/policy"
	"nearside/proxy/origin"
)

// answerLocal answers a command itself.
func (s *session) answerLocal(raw []byte) {
	d := &s.d
	if !d.Cmd.ArityOK(len(s.args)) {
		s.replyError(errArity(d.Cmd.Name))
		return
	}
	s.p.m.local.Inc()
	switch d.Cmd.Name { // the others ask for the rights of what they do
	case "ping", "hello", "readonly", "readwrite", "asking":
		if !s.mayRun(d.Cmd.Name) {
			return
		}
	}
	switch name := d.Cmd.Name; {
	case name == "ping":
		switch {
		case len(s.args) > 2:
			s.replyError(errArity("ping"))
		case len(s.args) == 2:
			s.replyRaw(redcon.AppendBulk(nil, s.args[1]))
		default:
			s.replyString(replyPong)
		}
	case name == "select":
		s.selectDB()
	case name == "hello":
		s.hello()
	case name == "auth":
		s.auth()
	case name == "readonly", name == "readwrite", name == "asking":
		s.answerFixed(raw)
	case name == "quit":
		s.replyString(replyOK)
		s.quit = true
	case name == "reset":
		s.reset()
	case name == "info":
		s.info(raw)
	case name == "nearside" || strings.HasPrefix(name, "nearside|"):
		s.nearside()
	case name == "client" || strings.HasPrefix(name, "client|"):
		s.client(raw)
	default:
		// The table says local and no case here does: pass it on rather than lose it.
		s.forward(raw)
	}
	switch d.Cmd.Name {
	case "select", "hello", "auth", "reset", "client|setname", "client|setinfo":
		s.publish()
	}
}

func allowedUnauthed(c *policy.Command) bool {
	if c == nil {
		return false
	}
	switch c.Name {
	case "auth", "hello", "quit", "reset":
		return true
	}
	return false
}

// parseDB reads SELECT's argument as Redis does.
func parseDB(args [][]byte) (n int, ok bool) {
	if len(args) != 2 {
		return 0, false
	}
	v, ok := parseLength(args[1])
	if !ok || v < 0 || v > 1<<15 {
		return 0, false
	}
	return int(v), true
}

// selectDB is real: the origin is asked whether the database exists.
func (s *session) selectDB() {
	if !s.p.cfg.Embedded {
		if n, _ := parseDB(s.args); s.mayRun("select") && s.awaitAnswers() { // what was sent belongs to the old database
			s.db = n
			s.p.databases.Store(n, struct{}{})
			s.replyString(replyOK)
		}
		return
	}
	switch v, ok := parseLength(s.args[1]); {
	case !ok:
		s.replyError(errNotInteger)
		return
	case v < math.MinInt32 || v > math.MaxInt32:
		s.replyError(errIntRange)
		return
	}
	n, ok := parseDB(s.args)
	if !ok {
		s.replyError(errDBIndex)
		return
	}
	if err := s.p.databaseExists(s, n); err != nil {
		s.replyOriginError(err)
		return
	}
	if !s.awaitAnswers() { // what was sent belongs to the old database
		return
	}
	s.db = n
	s.replyString(replyOK)
}

// hello is HELLO [version [AUTH user password] [SETNAME name]].
func (s *session) hello() {
	proto, user, pass, name := s.proto, "", "", s.name
	withAuth := false
	args := s.args[1:]
	if len(args) > 0 {
		v, ok := parseLength(args[0])
		if !ok {
			s.replyError(errProtoNumber)
			return
		}
		if v != 2 && v != 3 {
			s.replyError(errNoProto)
			return
		}
		proto = int(v)
		args = args[1:]
	}
	for len(args) > 0 {
		switch {
		case policy.Is(args[0], "auth") && len(args) >= 3:
			withAuth, user, pass = true, string(args[1]), string(args[2])
			args = args[3:]
		case policy.Is(args[0], "setname") && len(args) >= 2:
			if !validName(args[1]) {
				s.replyError(errClientName)
				return
			}
			if len(args[1]) > maxName {
				s.replyError(errLongName)
				return
			}
			name = string(args[1])
			args = args[2:]
		default:
			s.replyError("ERR Syntax error in HELLO option '" + string(args[0]) + "'")
			return
		}
	}
	if !s.authed && !withAuth {
		s.replyError("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time")
		return
	}
	if proto != s.proto && (s.pushes() || s.settled) {
		s.replyError("ERR nearside: HELLO cannot change the protocol version of a connection that is subscribed, monitors, tracks, or has set CLIENT NO-EVICT or the like; send it before")
		return
	}
	if !s.awaitAnswers() {
		return
	}
	if withAuth {
		if line := s.authenticate(user, pass, nil); line != "" {
			s.replyError(line)
			return
		}
	}
	facts, err := s.p.facts()
	if err != nil {
		s.replyOriginError(err)
		return
	}
	if proto != s.proto {
		s.proto = proto
		s.forgetWires()
		if s.pin != nil {
			// The owned connection speaks the old protocol version.
			s.unpinDirty()
		}
	}
	s.name = name
	b := appendMap(nil, proto, 7)
	b = redcon.AppendBulkString(b, "server")
	b = redcon.AppendBulkString(b, "redis")
	b = redcon.AppendBulkString(b, "version")
	b = redcon.AppendBulkString(b, facts.version)
	b = redcon.AppendBulkString(b, "proto")
	b = redcon.AppendInt(b, int64(proto))
	b = redcon.AppendBulkString(b, "id")
	b = redcon.AppendInt(b, int64(s.id))
	b = redcon.AppendBulkString(b, "mode")
	b = redcon.AppendBulkString(b, facts.mode)
	b = redcon.AppendBulkString(b, "role")
	b = redcon.AppendBulkString(b, facts.role)
	b = redcon.AppendBulkString(b, "modules")
	b = redcon.AppendArray(b, 0)
	s.replyRaw(b)
}

// unpinDirty closes the owned connection.
func (s *session) unpinDirty() {
	s.unwatchPin()
	pin := s.pin
	s.pin = nil
	if s.watching { // EXEC must not run as if nothing had been watched
		s.tx.lost = true
	}
	s.track, s.monitor, s.watching, s.target = false, false, false, false
	s.unsettle()
	s.redirectsTo(nil)
	s.monitors.Store(false)
	s.caching = caching{}
	s.subs.forget(s)
	s.disclaim(pin)
	s.p.origin.Unpin(pin.conn, false)
}

func (s *session) auth() {
	if !s.awaitAnswers() {
		return
	}
	user, pass := "default", string(s.args[1])
	switch len(s.args) {
	case 2:
	case 3:
		user, pass = string(s.args[1]), string(s.args[2])
	default:
		s.replyError(errSyntax)
		return
	}
	if line := s.authenticate(user, pass, s.args); line != "" {
		s.replyError(line)
		return
	}
	s.replyString(replyOK)
}

// authenticate lets Redis verify the credentials and makes the session act as
// that user. args is the AUTH as the client sent it, for Redis to answer in its
// own words. It returns the error to answer, or "".
func (s *session) authenticate(user, pass string, args [][]byte) string {
	p := s.p
	if args == nil {
		args = [][]byte{[]byte("AUTH"), []byte(user), []byte(pass)}
	}
	guarded := p.cfg.ProtectedMode && s.remote() && !s.identified()
	if guarded && user == "default" {
		// Redis takes any password for a default user that needs none, but not from
		// an AUTH of one argument.
		args = [][]byte{[]byte("AUTH"), []byte(pass)}
	}
	b, err := p.verifier.ask(appendArgs(nil, args))
	if err != nil {
		return p.originError(err)
	}
	if string(b) != replyOK {
		p.m.authFailures.Inc()
		if guarded && bytes.Contains(b, []byte("without any password configured")) {
			return errNeedless
		}
		return strings.TrimPrefix(strings.TrimRight(string(b), "\r\n"), "-")
	}
	if user == p.origin.User() {
		p.origin.Learn(pass)
		user, pass = "", ""
	}
	if (user != s.user || pass != s.pass) && (s.pushes() || s.settled) {
		return "ERR nearside: AUTH as another user is not possible while subscribed, monitoring or tracking, or with CLIENT NO-EVICT and the like; RESET first"
	}
	s.authed = true
	if user != s.user || pass != s.pass {
		s.become(user, pass)
		s.forgetWires()
		if s.pin != nil {
			s.unpinDirty()
		}
	}
	return ""
}

// reset puts the connection back to how it began.
func (s *session) reset() {
	if !s.awaitAnswers() {
		return
	}
	if s.pin != nil {
		if s.subscribed() { // nobody counts it as a subscriber once this is answered
			_, _ = s.p.callOwned(s.pin.conn, []byte("*1\r\n$5\r\nRESET\r\n"), 1)
		}
		s.unpinDirty()
	}
	s.keep(-s.tx.kept)
	s.tx = transaction{}
	s.db, s.proto, s.name = 0, 2, ""
	s.become("", "")
	s.authed = s.p.cfg.DefaultUser != "none"
	if s.replies != replySkip { // which Redis leaves as it is: it speaks of this command
		s.replies = replyOn
	}
	s.forgetWires()
	s.replyString("+RESET\r\n")
}

// answerFixed answers READONLY, READWRITE and ASKING as the origin does. What they
// ask for holds anyway: nearside is the only node that the client sees, and a master.
func (s *session) answerFixed(raw []byte) {
	if s.user != "" { // who may lack the right
		b, err := s.callPrivate(raw)
		if err != nil {
			s.replyOriginError(err)
			return
		}
		s.replyRaw(b)
		return
	}
	b, err := s.p.fixedReply(s.d.Cmd.Name, s.args)
	if err != nil {
		s.replyOriginError(err)
		return
	}
	s.replyRaw(b)
}

// databaseExists asks the origin once for each database.
func (p *Proxy) databaseExists(s *session, n int) error {
	if n == 0 || n == p.cfg.CacheDB || n == p.cfg.LocksDB {
		return nil
	}
	if _, ok := p.databases.Load(n); ok {
		return nil
	}
	if most := p.missing.Load(); most > 0 && int64(n) >= most {
		return &origin.RefusedError{Line: errDBIndex}
	}
	c, err := p.origin.Pin(p.ctx, s.group(n, false))
	if err != nil {
		var refused *origin.RefusedError
		if errors.As(err, &refused) && strings.Contains(refused.Line, "out of range") {
			p.missing.Store(int64(n)) // they are numbered without gaps
			return &origin.RefusedError{Line: errDBIndex}
		}
		return err
	}
	p.origin.Unpin(c, true)
	p.databases.Store(n, struct{}{})
	return nil
}

// info passes INFO on and appends nearside's section.
func (s *session) info(raw []byte) {
	if !s.awaitAnswers() {
		return
	}
	own := s.infoSection(s.args[1:])
	if own && len(s.args) == 2 && policy.Is(s.args[1], "nearside") {
		if !s.mayRun("info") {
			return
		}
		s.replyRaw(textReply(s.proto, s.p.infoText()))
		return
	}
	b, err := s.call(s.homeDB(), raw)
	if err != nil {
		s.replyOriginError(err)
		return
	}
	if !own {
		s.replyRaw(b)
		return
	}
	text, ok := infoBody(b)
	if !ok {
		s.replyRaw(b)
		return
	}
	s.replyRaw(textReply(s.proto, text+"\r\n"+s.p.infoText()))
}

// homeDB is where commands without keys go.
func (s *session) homeDB() int {
	if s.db == 0 {
		return s.p.cfg.LocksDB
	}
	return s.db
}

// infoSection tells whether INFO's arguments ask for nearside's section.
func (s *session) infoSection(sections [][]byte) bool {
	if len(sections) == 0 {
		return true
	}
	for _, a := range sections {
		for _, name := range []string{"nearside", "all", "default", "everything"} {
			if policy.Is(a, name) {
				return true
			}
		}
	}
	return false
}

// infoBody takes the text out of INFO's reply, bulk or verbatim.
func infoBody(b []byte) (string, bool) {
	value, null, _, ok := origin.Bulk(b)
	if !ok || null {
		return "", false
	}
	if b[0] == '=' {
		value = bytes.TrimPrefix(value, []byte("txt:"))
	}
	return string(value), true
}

func validName(name []byte) bool {
	for _, c := range name {
		if c < '!' || c > '~' {
			return false
		}
	}
	return true
}

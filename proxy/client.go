package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tidwall/redcon"

	"nearside/policy"
)

// replyMode is what CLIENT REPLY has set.
type replyMode uint8

const (
	replyOn replyMode = iota
	replyOff
	replySkipNext // the next command's reply is skipped
	replySkip     // this command's reply is skipped
)

func (s *session) muted() bool { return s.replies == replyOff || s.replies == replySkip }

// nextReply goes on to the reply of the next command. An empty one is a command, too.
func (s *session) nextReply() {
	switch s.replies {
	case replySkipNext:
		s.replies = replySkip
	case replySkip:
		s.replies = replyOn
	}
}

// client answers CLIENT and its subcommands about nearside's own clients.
func (s *session) client(raw []byte) {
	args := s.args
	sub := ""
	if len(args) > 1 {
		sub = policy.Word(args[1]) // it has no NUL
	}
	if !s.mayRun("client|" + sub) {
		return
	}
	switch sub {
	case "id":
		s.replyRaw(redcon.AppendInt(nil, int64(s.id)))
	case "getname":
		if s.name == "" {
			s.replyRaw(appendNull(nil, s.proto))
		} else {
			s.replyRaw(redcon.AppendBulkString(nil, s.name))
		}
	case "setname":
		if !validName(args[2]) {
			s.replyError(errClientName)
			return
		}
		if len(args[2]) > maxName {
			s.replyError(errLongName)
			return
		}
		s.name = string(args[2])
		s.replyString(replyOK)
	case "setinfo":
		s.setInfo()
	case "info":
		s.publish()
		s.replyRaw(textReply(s.proto, s.describe(s)+"\n"))
	case "list":
		s.listClients()
	case "reply":
		s.setReply()
	case "kill":
		s.killClients()
	case "help":
		s.forward(raw)
	case "unblock":
		s.unblock()
	case "pause":
		s.setPause()
	case "unpause":
		s.unpause()
	case "":
		s.forward(raw) // Redis says what is missing
	default:
		s.clientState(raw)
	}
}

// clientState is a subcommand that sets something on its connection at Redis, as far
// as is known: NO-EVICT, NO-TOUCH, CAPA, IMPORT-SOURCE, and what newer servers have. It
// runs on a connection of the session's own, to which that binds the session.
func (s *session) clientState(raw []byte) {
	if s.unknownToRedis6() {
		return
	}
	s.private(raw)
	s.publish()
}

// unknownToRedis6 answers a subcommand of CLIENT that Redis does not have before 7.0,
// where COMMAND INFO tells of no subcommands: all that nearside does not answer itself.
func (s *session) unknownToRedis6() bool {
	facts, err := s.p.facts()
	switch {
	case err != nil:
		s.replyOriginError(err)
		return true
	case facts.major > 0 && facts.major < 7:
		s.replyError(s.unknownClient())
		return true
	}
	return false
}

// unknownClient is Redis's error for a subcommand of CLIENT that it does not have.
func (s *session) unknownClient() string {
	text := s.set.policy.UnknownSubcommand(s.args)
	if s.set.policy.Old() { // it has this one by heart
		name, _, _ := strings.Cut(text, ". Try ")
		return name + ". Try CLIENT HELP"
	}
	return text
}

// errSubSyntax is Redis's error for a subcommand with too many arguments.
func errSubSyntax(args [][]byte) string {
	sub, _, _ := strings.Cut(string(args[1][:min(len(args[1]), 128)]), "\x00")
	return "ERR unknown subcommand or wrong number of arguments for '" + sub + "'. Try " + strings.ToUpper(string(args[0])) + " HELP."
}

// maxName bounds what a client says of itself: CLIENT LIST repeats it to everybody.
const maxName = 4 << 10

// setInfo keeps what a client library says of itself, if the origin is of a
// version that knows CLIENT SETINFO; else the origin's own error is the answer. The
// origin's connection, which many share, never hears of it.
func (s *session) setInfo() {
	facts, err := s.p.facts()
	switch {
	case err != nil: // without HELLO the version is not known
		s.replyOriginError(err)
		return
	case !facts.atLeast7(2):
		s.replyError(s.unknownClient())
		return
	case len(s.args) != 4:
		s.replyError(errArity("client|setinfo"))
		return
	}
	if len(s.args[3]) > maxName {
		s.replyError(errLongName)
		return
	}
	if !validName(s.args[3]) {
		option, _, _ := strings.Cut(string(s.args[2]), "\x00")
		s.replyError("ERR " + option + " cannot contain spaces, newlines or special characters.")
		return
	}
	switch value := string(s.args[3]); policy.Word(s.args[2]) {
	case "lib-name":
		s.libName = value
	case "lib-ver":
		s.libVer = value
	default:
		name, _, _ := strings.Cut(string(s.args[2]), "\x00")
		s.replyError("ERR Unrecognized option '" + name + "'")
		return
	}
	s.replyString(replyOK)
}

func (s *session) setReply() {
	switch {
	case policy.Is(s.args[2], "on"):
		s.replies = replyOn
		s.replyString(replyOK)
	case policy.Is(s.args[2], "off"):
		s.replies = replyOff
	case policy.Is(s.args[2], "skip"):
		if s.replies != replyOff {
			s.replies = replySkipNext
		}
	default:
		s.replyError(errSyntax)
	}
}

// seen is what other sessions may read of a session.
type seen struct {
	name, user, lib, ver       string
	db, proto                  int
	channels, patterns, shards int
	monitor, track, bcast      bool
	noEvict, noTouch           bool
}

func (v *seen) pubsub() bool { return v.channels+v.patterns+v.shards > 0 }

// publish lets other sessions see the current state.
func (s *session) publish() {
	user := s.user
	if user == "" {
		user = s.p.origin.User()
	}
	s.public.Store(&seen{
		name: s.name, user: user, lib: s.libName, ver: s.libVer, db: s.db, proto: s.proto,
		channels: len(s.subs.channels), patterns: len(s.subs.patterns), shards: len(s.subs.shards),
		monitor: s.monitor, track: s.track, bcast: s.track && s.bcast, noEvict: s.noEvict, noTouch: s.noTouch,
	})
}

// seen returns what is known of another session.
func (s *session) seen() *seen {
	if v := s.public.Load(); v != nil {
		return v
	}
	return &seen{user: s.p.origin.User(), proto: 2}
}

// noteMulti lets other sessions see how many commands are queued.
func (s *session) noteMulti() {
	n := int32(0)
	if s.tx.open {
		n = int32(s.tx.n) + 1
	}
	s.queuedN.Store(n)
}

// addrs are the addresses of both ends, as Redis spells them.
func (s *session) addrs() (addr, laddr string) {
	if l := s.sock.LocalAddr(); l != nil && l.Network() == "unix" {
		path := l.String() + ":0"
		return path, path
	}
	return addrString(s.sock.RemoteAddr()), addrString(s.sock.LocalAddr())
}

// flags are the letters of CLIENT LIST.
func (s *session) flags(v *seen) string {
	unix := false
	if l := s.sock.LocalAddr(); l != nil {
		unix = l.Network() == "unix"
	}
	flags := ""
	for _, f := range []struct {
		set    bool
		letter string
	}{
		{v.monitor, "O"},
		{v.pubsub(), "P"},
		{s.queuedN.Load() > 0, "x"},
		{s.blocked.is() || s.pausing.Load(), "b"},
		{v.track, "t"},
		{v.bcast, "B"},
		{unix, "U"},
		{v.noEvict, "e"},
		{v.noTouch, "T"},
	} {
		if f.set {
			flags += f.letter
		}
	}
	if flags == "" {
		return "N"
	}
	return flags
}

// emptySession is about what a session takes that holds nothing.
const emptySession = 5 << 10

// describe is another session's line in CLIENT LIST, or the session's own, with
// the fields of Redis 7.0. Sizes are nearside's own: what of the client's bytes it holds.
func (s *session) describe(o *session) string {
	v := o.seen()
	cmd := "NULL"
	if c := o.last.Load(); c != nil {
		cmd = c.Name
	}
	redir := int64(-1)
	if v.track {
		redir = int64(o.redirect.Load())
	}
	qbuf, qfree, argv := o.unread.Load(), int64(0), 0
	if o == s {
		qbuf, qfree = int64(len(s.in)), int64(cap(s.in)-len(s.in))
		for _, a := range s.args {
			argv += len(a)
		}
	}
	q := &o.q
	q.mu.Lock()
	rbs, obl, oll, omem, events := cap(q.out), len(q.out), len(q.full), q.size, "r"
	if q.sending {
		events = "rw"
	}
	q.mu.Unlock()
	addr, laddr := o.addrs()
	idle := (clockNow() - o.active.Load()) / int64(time.Second)
	line := fmt.Sprintf("id=%d addr=%s laddr=%s fd=0 name=%s age=%d idle=%d flags=%s db=%d sub=%d psub=%d ssub=%d multi=%d qbuf=%d qbuf-free=%d argv-mem=%d multi-mem=0 rbs=%d rbp=%d obl=%d oll=%d omem=%d tot-mem=%d events=%s cmd=%s user=%s redir=%d resp=%d",
		o.id, addr, laddr, v.name, int(time.Since(o.begun).Seconds()), idle, o.flags(v), v.db, v.channels, v.patterns, v.shards, o.queuedN.Load()-1,
		qbuf, qfree, argv, rbs, rbs, obl, oll, max(0, omem-int64(obl)), emptySession+o.account.bytes(), events, cmd, v.user, redir, v.proto)
	if facts := s.p.server.Load(); facts != nil && facts.atLeast7(2) {
		line += " lib-name=" + v.lib + " lib-ver=" + v.ver
	}
	return line
}

// listClients is CLIENT LIST [TYPE type | ID id …].
func (s *session) listClients() {
	list := slices.DeleteFunc(s.p.sessionList(), func(o *session) bool { return o.shutOnce.Load() }) // killed ones are gone
	switch rest := s.args[2:]; {
	case len(rest) == 0:
	case len(rest) == 2 && policy.Is(rest[0], "type"):
		keep := s.ofType(rest[1])
		if keep == nil {
			return
		}
		list = slices.DeleteFunc(list, func(o *session) bool { return !keep(o) })
	case len(rest) > 1 && policy.Is(rest[0], "id"):
		var named []*session
		for _, a := range rest[1:] { // in that order, and again if named again
			id, ok := parseLength(a)
			if !ok {
				s.replyError("ERR Invalid client ID")
				return
			}
			if i, ok := slices.BinarySearchFunc(list, uint64(max(id, 0)), func(o *session, id uint64) int { return cmp.Compare(o.id, id) }); ok {
				named = append(named, list[i])
			}
		}
		list = named
	default:
		s.replyError(errSyntax)
		return
	}
	s.publish()
	var text strings.Builder
	for _, o := range list {
		text.WriteString(s.describe(o))
		text.WriteByte('\n')
	}
	s.replyRaw(textReply(s.proto, text.String()))
}

// ofType is the filter for a client type; nil, with the error answered, for a
// type that does not exist. Replicas and masters are not nearside's clients.
func (s *session) ofType(word []byte) func(*session) bool {
	switch policy.Word(word) {
	case "normal":
		return func(o *session) bool { return !o.seen().pubsub() }
	case "pubsub":
		return func(o *session) bool { return o.seen().pubsub() }
	case "master", "replica", "slave":
		return func(*session) bool { return false }
	}
	name, _, _ := strings.Cut(string(word), "\x00")
	s.replyError("ERR Unknown client type '" + name + "'")
	return nil
}

// killClients is CLIENT KILL addr, and CLIENT KILL with the filters ID, ADDR,
// LADDR, TYPE, USER and SKIPME, of nearside's clients.
func (s *session) killClients() {
	args := s.args[2:]
	if len(args) == 1 { // the old form answers OK or an error
		n := s.kill(func(o *session) bool { addr, _ := o.addrs(); return addr == string(args[0]) }, false)
		if n == 0 {
			s.replyError("ERR No such client")
		} else {
			s.replyString(replyOK)
		}
		return
	}
	filters := map[string]func(*session) bool{} // of an option given twice the last counts
	skipMe := true
	for i := 0; i < len(args); i += 2 {
		if i+1 == len(args) {
			s.replyError(errSyntax)
			return
		}
		option, value := policy.Word(args[i]), string(args[i+1])
		switch option {
		case "id":
			id, ok := parseLength(args[i+1])
			if !ok || id <= 0 {
				s.replyError("ERR client-id should be greater than 0")
				return
			}
			filters[option] = func(o *session) bool { return o.id == uint64(id) }
		case "addr":
			filters[option] = func(o *session) bool { addr, _ := o.addrs(); return addr == value }
		case "laddr":
			filters[option] = func(o *session) bool { _, laddr := o.addrs(); return laddr == value }
		case "user":
			if !s.p.userExists(value) {
				s.replyError("ERR No such user '" + value + "'")
				return
			}
			filters[option] = func(o *session) bool { return o.seen().user == value }
		case "type":
			filter := s.ofType(args[i+1])
			if filter == nil {
				return
			}
			filters[option] = filter
		case "skipme":
			switch {
			case policy.Is(args[i+1], "yes"):
				skipMe = true
			case policy.Is(args[i+1], "no"):
				skipMe = false
			default:
				s.replyError(errSyntax)
				return
			}
		default:
			s.replyError(errSyntax)
			return
		}
	}
	n := s.kill(func(o *session) bool {
		for _, f := range filters {
			if !f(o) {
				return false
			}
		}
		return true
	}, skipMe)
	s.replyRaw(redcon.AppendInt(nil, int64(n)))
}

// userExists asks Redis for an ACL user. Where nearside may not ask, every name
// counts as one.
func (p *Proxy) userExists(name string) bool {
	ctx, cancel := context.WithTimeout(p.ctx, factsTimeout)
	defer cancel()
	err := p.origin.Control().Do(ctx, "ACL", "GETUSER", name).Err()
	return !errors.Is(err, redis.Nil)
}

func (s *session) kill(match func(*session) bool, skipMe bool) (n int) {
	for _, o := range s.p.sessionList() {
		if o.shutOnce.Load() || !match(o) || o == s && skipMe {
			continue
		}
		n++
		if o == s {
			s.quit = true // after the answer
		} else {
			o.shut()
		}
	}
	return n
}

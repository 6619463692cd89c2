package proxy

import (
	"bytes"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tidwall/redcon"

	"nearside/policy"
	"nearside/proxy/origin"
)

// transaction is a client's MULTI from its first command to EXEC or DISCARD.
// It runs as a real transaction on the pinned connection. Where its commands
// need several databases, SELECTs are inserted, and their replies are taken
// out of EXEC's array; what nearside answers itself joins the array at its place.
type transaction struct {
	open  bool
	dirty bool   // a command was refused here: EXEC must abort
	lost  bool   // the connection with the WATCH or MULTI is gone
	why   string // there never was one: the error

	mayWrite bool // a command queued so far may write
	locals   bool // there are commands of nearside's own
	subs     []txSub

	before  int          // the session's database at MULTI
	db      int          // the connection's database at MULTI
	items   []txItem     // what EXEC's array is made of; nil while it can be passed on as it comes
	n       int          // commands queued so far
	kept    int          // bytes counted for all this
	counted int          // of these, for the lists
	refused *atomic.Bool // Redis did not accept the MULTI
	writes  []uint32
	all     writeAll
	fence   policy.Fence
}

// txSub is a SUBSCRIBE or UNSUBSCRIBE of one channel.
type txSub struct {
	command string
	names   [][]byte
	at      int // its element of EXEC's array
}

// txItem is one element that the client sees in EXEC's array.
type txItem struct {
	inserted int    // elements in front of it that nobody asked for
	own      []byte // answered by nearside: takes no element
	raw      []byte // a command of nearside's own that runs when EXEC has
	parts    int    // elements that are merged into it; 0: one, as it comes
	merge    func([][]byte) []byte
}

// transactionCommand runs WATCH, UNWATCH, MULTI, EXEC and DISCARD outside MULTI.
func (s *session) transactionCommand(raw []byte) {
	t := &s.tx
	switch name := s.d.Cmd.Name; name {
	case "exec", "discard":
		switch {
		case !s.mayRun(name):
		case name == "exec":
			s.replyError(errExecNoMulti)
		default:
			s.replyError(errDiscardNo)
		}
		return
	case "unwatch":
		if !s.watching && !s.mayRun(name) {
			return
		}
		t.lost = false
		if !s.watching {
			s.replyString(replyOK)
			return
		}
	}
	if t.lost { // EXEC will say so
		if s.d.Cmd.Name == "multi" {
			why := t.why
			s.openTransaction(true)
			t.why = why
		}
		s.replyString(replyOK)
		return
	}
	db := s.d.DB
	if err := s.acquire(db); err != nil {
		s.failTransaction(err)
		return
	}
	switch s.d.Cmd.Name {
	case "watch":
		s.watching = true
		s.watchKeys(raw)
		return
	case "unwatch":
		s.watching = false
	case "multi":
		s.openMulti(raw)
		return
	}
	s.sendPinned(s.slot(), -1, raw, 1)
}

// failTransaction deals with a WATCH or MULTI that has no connection. Behind it,
// perhaps in the same chunk, come commands that must run guarded and together or
// not at all. So MULTI is answered OK, its commands an error, and EXEC aborts, which
// every client knows; a plain error would let them run one by one.
func (s *session) failTransaction(err error) {
	if s.begunAnew(err) {
		return
	}
	s.p.m.originErrors.Inc()
	if s.d.Cmd.Name == "multi" {
		s.openTransaction(true)
		s.tx.why = s.p.originError(err)
		s.replyString(replyOK)
		return
	}
	s.tx.lost = s.tx.lost || s.d.Cmd.Name == "watch"
	s.replyError(s.p.originError(err))
}

// openMulti opens a transaction, and closes it again if Redis does not accept that.
func (s *session) openMulti(raw []byte) {
	s.openTransaction(false)
	refused := new(atomic.Bool)
	s.tx.refused = refused
	sl := s.slot()
	sl.finish = func(_ *slot, b []byte, err error) []byte {
		if err != nil { // the transaction is lost, and EXEC will say so (failTransaction)
			return []byte(replyOK)
		}
		if b[0] == '-' {
			refused.Store(true)
		}
		return b
	}
	s.sendPinned(sl, -1, raw, 1)
	if !s.acl.fetches.Load() { // this user may lack the right: nothing must run outside MULTI unnoticed
		s.awaitAnswers()
	}
}

// inMulti tells whether a transaction is open, as far as is known.
func (s *session) inMulti() bool {
	if s.tx.open && s.tx.refused != nil && s.tx.refused.Load() {
		s.keep(-s.tx.kept)
		s.tx = transaction{}
	}
	return s.tx.open
}

// loseWatch notes that a WATCH is gone with its connection: the transaction
// that relies on it must abort. Other commands go on.
func (s *session) loseWatch() {
	s.tx.lost = true
	s.watching = false
	if !s.needsPin() {
		s.unpin()
	}
}

// watchKeys sends a WATCH whose keys may live in two databases as one per database.
func (s *session) watchKeys(raw []byte) {
	keys := slices.Clone(s.d.Keys)
	dbs := []int{}
	for _, k := range keys {
		if !slices.Contains(dbs, k.DB) {
			dbs = append(dbs, k.DB)
		}
	}
	if len(dbs) <= 1 {
		if line, err := s.selectPinned(s.d.DB); err != nil {
			s.replyOriginError(err)
		} else if line != nil {
			s.replyError(errSelectRefused(line))
		} else {
			s.sendPinned(s.slot(), s.d.DB, raw, 1)
		}
		return
	}
	var req []byte
	for _, db := range dbs {
		args := [][]byte{s.args[0]}
		for _, k := range keys {
			if k.DB == db {
				args = append(args, s.args[k.Pos])
			}
		}
		if s.user != "" { // it may not SELECT: each step before the next
			if !s.watchApart(db, appendArgs(nil, args)) {
				return
			}
			continue
		}
		req = appendArgs(appendSelect(req, db), args)
		s.pin.db = db
	}
	if req == nil {
		s.replyString(replyOK)
		return
	}
	sl := s.slot()
	sl.finish = func(_ *slot, b []byte, err error) []byte {
		if err != nil {
			return appendError(nil, s.p.originError(err))
		}
		var one []byte
		for i := 0; len(b) > 0; i++ { // one refusal is the answer to the whole
			if one, b = origin.Split(b); one[0] == '-' {
				if i%2 == 0 {
					return appendError(nil, errSelectRefused(one))
				}
				break
			}
		}
		return one
	}
	s.submit(sl, s.pin.conn, req, 2*len(dbs))
}

// watchApart sends a WATCH for one database's keys and reports whether Redis has
// accepted it; if not it answers the client.
func (s *session) watchApart(db int, req []byte) bool {
	line, err := s.selectPinned(db)
	if line != nil {
		s.replyError(errSelectRefused(line))
		return false
	}
	if err == nil {
		line, err = s.callPinned(db, req)
	}
	switch {
	case err != nil:
		s.replyOriginError(err)
	case line[0] == '-':
		s.replyRaw(line)
	default:
		return true
	}
	return false
}

func (s *session) openTransaction(lost bool) {
	s.tx = transaction{open: true, lost: lost, before: s.db}
	if s.pin != nil {
		s.tx.db = s.pin.db
	}
}

// inTransaction handles a command between MULTI and EXEC.
func (s *session) inTransaction(raw []byte) {
	t, d := &s.tx, &s.d
	name := ""
	if d.Cmd != nil {
		name = d.Cmd.Name
	}
	if !t.lost && s.pin.conn.Err() != nil {
		t.lost = true
	}
	switch {
	case name == "exec": // with a wrong number of arguments as well: Redis aborts then
		s.exec(raw)
	case (name == "discard" || name == "multi" || name == "watch" || name == "reset") && !d.Cmd.ArityOK(len(s.args)):
		s.abortLater(errArity(name), true) // Redis stays in MULTI
	case name == "discard":
		s.discard(raw)
	case name == "multi":
		s.abortLater(errNestedMulti, false)
	case name == "watch":
		s.abortLater(errWatchInMulti, false)
	case name == "quit" || name == "reset":
		s.answerLocal(raw)
	case t.lost:
		why := t.why
		if why == "" {
			why = "ERR nearside: the connection to Redis that held this transaction was lost"
		}
		s.replyError(why + "; EXEC will abort")
	case d.Route == policy.RouteRefused:
		s.abortLater(d.Err, true)
	case s.proto == 2 && len(t.subs) > 0 && (policy.Lookup(s.args) == nil || t.mayHear(d.Cmd)):
		s.abortLater("ERR nearside: in RESP2 a command that may cause messages cannot stand behind SUBSCRIBE inside MULTI: they would be written into EXEC's array; use RESP3 or another connection", true)
	case d.Route == policy.RouteSplit || d.Route == policy.RouteView:
		s.queueJoined(raw)
	case name == "select":
		s.queueSelect(raw)
	case d.Route == policy.RoutePin && d.Cmd.Pin == policy.PinSub && d.Cmd.ArityOK(len(s.args)):
		s.queueSubscribe(raw)
	case name == "monitor": // Redis refuses it when EXEC runs
		s.queueCommand(raw)
	case name == "client|getredir" || name == "client|trackinginfo":
		s.queueLocal(raw)
	case d.Route == policy.RouteLocal && name != "info" && name != "ping":
		s.queueLocal(raw)
	case d.Route == policy.RoutePin && (d.Cmd.Pin == policy.PinSub || d.Cmd.Pin == policy.PinMonitor || d.Cmd.Pin == policy.PinTracking):
		s.abortLater("ERR nearside: "+name+" inside MULTI is not supported; send it before MULTI", true)
	default:
		s.queueCommand(raw)
	}
}

// weighTransaction counts what the transaction makes nearside remember.
func (s *session) weighTransaction() {
	if t := &s.tx; t.open {
		n := txItemBytes*len(t.items) + 8*len(t.writes)
		s.keep(n - t.counted)
		t.kept += n - t.counted
		t.counted = n
	}
}

// abortLater answers an error; with dirty EXEC aborts, as Redis does after a
// command that it could not queue.
func (s *session) abortLater(text string, dirty bool) {
	if dirty {
		s.tx.dirty = true
	}
	s.replyError(text)
}

// queueCommand queues an ordinary command.
func (s *session) queueCommand(raw []byte) {
	t, d := &s.tx, &s.d
	s.collectEffects()
	if d.Route == policy.RouteCache {
		s.bypass(bypassMulti)
	}
	if d.Foreign {
		s.claim()
		if d.Cmd == nil { // and EXEC's reply will not tell what it has set
			s.settle()
		}
	}
	if d.DB != s.pin.db { // sendPinned inserts a SELECT
		t.special(txItem{inserted: 1})
	} else {
		t.plain()
	}
	s.sendPinned(s.slot(), d.DB, raw, 1)
}

// collectEffects notes what the queued command will change when EXEC runs.
func (s *session) collectEffects() {
	t := &s.tx
	var sl slot
	sl.s, sl.gen = s, s.set.gen
	s.effects(&sl)
	if s.d.Effect == 0 && (s.d.Route == policy.RouteCache || s.d.Route == policy.RouteSplit) {
		s.observe(&sl) // EXEC shows Redis's own state: nothing older must follow it
	}
	t.writes = append(t.writes, sl.writes...)
	t.all = max(t.all, sl.all)
	t.fence |= sl.fence
}

// plain counts a command whose reply is passed on as it comes.
func (t *transaction) plain() {
	t.n++
	if t.items != nil {
		t.items = append(t.items, txItem{})
	}
}

// special adds an element that needs work, after as many plain ones as came before.
func (t *transaction) special(item txItem) {
	if t.items == nil {
		t.items = make([]txItem, t.n, t.n+8)
	}
	t.n++
	t.items = append(t.items, item)
}

// queueSelect is the client's own SELECT inside MULTI.
func (s *session) queueSelect(raw []byte) {
	n, ok := parseDB(s.args)
	if !ok { // Redis says what is wrong with it, when EXEC runs
		s.tx.plain()
		s.sendPinned(s.slot(), -1, raw, 1)
		return
	}
	if err := s.p.databaseExists(s, n); err != nil { // EXEC will say so, and the database stays
		s.tx.special(txItem{own: appendError(nil, s.p.originError(err))})
		s.replyString(replyQueued)
		return
	}
	s.db = n
	s.pin.db = n
	s.tx.plain()
	s.sendPinned(s.slot(), -1, raw, 1)
}

// txItemBytes is what a txItem takes beside its reply, spare room of the slice included.
const txItemBytes = 128

// queueLocal answers QUEUED and keeps nearside's own reply for EXEC.
func (s *session) queueLocal(raw []byte) {
	if d := &s.d; d.Cmd != nil && !d.Cmd.ArityOK(len(s.args)) {
		s.abortLater(errArity(d.Cmd.Name), true)
		return
	}
	switch name := s.d.Cmd.Name; {
	case isClient(s.d.Cmd) && s.d.MaySet && name != "client|setinfo" && !s.set.policy.Old():
		s.abortLater("ERR nearside: this subcommand of CLIENT is not supported inside MULTI; send it before MULTI", true)
		return
	case name == "client" || name == "client|help": // Redis answers; it alone knows which subcommands there are
		s.queueCommand(raw)
		return
	}
	if name := s.d.Cmd.Name; name == "auth" || name == "hello" && !s.sameHello() {
		s.abortLater("ERR nearside: "+name+" inside MULTI is not supported; send it before MULTI", true)
		return
	}
	if line := s.refusal(rightOf(s.args, s.d.Cmd.Name)); line != nil {
		s.abortLater(string(cause(line)), true)
		return
	}
	n := len(raw)
	if !s.reserve(int64(n)) {
		s.abortLater(errBusyBuffers, true)
		return
	}
	s.kept += int64(n)
	s.tx.kept += n
	s.tx.special(txItem{raw: bytes.Clone(raw)})
	s.tx.locals = true
	s.replyString(replyQueued)
}

// sameHello tells whether a HELLO changes neither protocol version nor user: the
// array that EXEC answers is in one version, and the commands in it are of one user.
func (s *session) sameHello() bool {
	if len(s.args) < 2 {
		return true
	}
	v, ok := parseLength(s.args[1])
	if ok && v != int64(s.proto) {
		return false
	}
	return !slices.ContainsFunc(s.args[2:], func(a []byte) bool { return policy.Is(a, "auth") })
}

// queueSubscribe queues SUBSCRIBE and its relatives. Redis puts one confirmation
// per channel into EXEC's array, which is an array still if that is one.
func (s *session) queueSubscribe(raw []byte) {
	name := s.d.Cmd.Name
	if name == "ssubscribe" { // Redis refuses it when EXEC runs
		s.queueCommand(raw)
		return
	}
	un := strings.Contains(name, "unsub")
	set := s.subs.set(name)
	if len(s.args) > 2 || len(s.args) == 1 && len(*set)+len(s.tx.subs) > 1 || s.needsView(un, set) {
		s.abortLater("ERR nearside: "+name+" of several channels, or of keyspace notifications, inside MULTI is not supported; send it before MULTI", true)
		return
	}
	sub := txSub{command: name, at: s.tx.n}
	for _, a := range s.args[1:] {
		sub.names = append(sub.names, bytes.Clone(a))
	}
	s.tx.subs = append(s.tx.subs, sub)
	s.tx.plain()
	s.sendPinned(s.slot(), -1, raw, 1)
}

// mayHear tells whether a command behind the transaction's SUBSCRIBE may cause a
// message to the client itself. RESP2 writes such a message between the elements
// of EXEC's array, does not count it, and nobody can tell it from the reply to an
// LRANGE of three.
func (t *transaction) mayHear(c *policy.Command) bool {
	switch {
	case c.Pin == policy.PinSub:
		return false
	case publishes(c), strings.HasPrefix(c.Name, "eval"), strings.HasPrefix(c.Name, "fcall"):
		return true
	}
	for _, sub := range t.subs {
		if !strings.Contains(sub.command, "unsub") && hearsEvents(sub.command, sub.names[0]) {
			return true
		}
	}
	return false
}

// hearsEvents tells whether a subscription gets what Redis publishes by itself, for any
// command: keyspace notifications and invalidations.
func hearsEvents(command string, name []byte) bool {
	for _, own := range []string{"__key", "__redis__:invalidate"} {
		if command == "subscribe" && bytes.HasPrefix(name, []byte(own)) {
			return true
		}
		literal := name
		if at := bytes.IndexAny(name, "*?[\\"); at >= 0 {
			literal = name[:at]
		}
		n := min(len(literal), len(own))
		if command == "psubscribe" && string(literal[:n]) == own[:n] {
			return true
		}
	}
	return false
}

// applySubs notes what the transaction has subscribed to. Redis may have refused a
// subscription in EXEC's array, which is nil if it was too large to be looked at.
func (s *session) applySubs(t *transaction, executed bool, array []byte) {
	if len(t.subs) == 0 {
		return
	}
	_, rest, _ := origin.Elements(array)
	at := 0
	for _, sub := range t.subs {
		if !executed {
			break
		}
		one := []byte(replyOK)
		for ; array != nil && at <= sub.at; at++ {
			one, rest = origin.Split(rest)
		}
		if !isError(one) {
			s.subs.keep(s, s.subs.set(sub.command).change(strings.Contains(sub.command, "unsub"), sub.names))
		}
	}
	s.publish()
	s.endSubscribed()
}

// runLocals runs nearside's own commands of a transaction that Redis has executed.
func (s *session) runLocals(t *transaction) {
	for i := range t.items {
		it := &t.items[i]
		if it.raw == nil {
			continue
		}
		complete, args, _, _, err := redcon.ReadNextCommand(it.raw, nil)
		if err != nil || !complete { // it was understood before
			it.own = appendError(nil, errSyntax)
			continue
		}
		s.args = args
		s.decide()
		it.own = s.capture(it.raw)
	}
}

// capture runs a local command and returns its reply instead of sending it.
func (s *session) capture(raw []byte) []byte {
	got := []byte{}
	s.captured = &got
	if s.d.Route == policy.RoutePin { // CLIENT GETREDIR, CLIENT TRACKINGINFO
		s.tracking(raw)
	} else {
		s.answerLocal(raw)
	}
	s.captured = nil
	return got
}

// queueJoined queues a command whose keys live in both databases, as one
// command per database whose replies are merged when EXEC answers.
func (s *session) queueJoined(raw []byte) {
	if s.d.Cmd.Name == "flushdb" && !s.p.cfg.CacheExclusive {
		s.abortLater(errFlushQueued, true)
		return
	}
	plan, ok := s.plan()
	if !ok { // Redis says what is wrong with it, when EXEC runs
		s.d.DB = s.p.cfg.LocksDB
		s.queueCommand(raw)
		return
	}
	s.collectEffects()
	var req []byte
	for _, part := range plan.parts {
		req = append(appendSelect(req, part.db), part.req...)
		s.pin.db = part.db
	}
	item := txItem{parts: 2 * len(plan.parts), merge: func(replies [][]byte) []byte {
		own := replies[:0:0]
		for i := 1; i < len(replies); i += 2 { // the SELECTs' OKs go
			own = append(own, replies[i])
		}
		return plan.merge(own)
	}}
	s.tx.special(item)
	s.tx.locals = s.tx.locals || s.d.Cmd.Name == "randomkey" // mergeRandom may have to ask
	sl := s.slot()
	sl.strip, sl.joined = 2*len(plan.parts)-1, true
	s.submit(sl, s.pin.conn, req, 2*len(plan.parts))
}

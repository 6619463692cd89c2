package proxy

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/redcon"

	"nearside/policy"
	"nearside/proxy/origin"
)

// A client's own CLIENT TRACKING runs at Redis, on the session's pinned
// connection: Redis keeps the table and pushes the invalidations there. What is
// nearside's part:
//
//   - CLIENT CACHING YES or NO is for the next command. A SELECT that nearside
//     inserts would eat it, so it is said again behind that SELECT; and a command
//     that nearside answers elsewhere takes it away, as it does at Redis.
//   - REDIRECT names another of nearside's clients. That one is made to pin a
//     connection, whose number at Redis is what Redis is told.

// caching is what CLIENT CACHING has asked for.
type caching struct {
	state cachingState
	req   []byte // the CLIENT CACHING as the client sent it
}

type cachingState uint8

const (
	cachingNone  cachingState = iota
	cachingArmed              // for the next command that is not CLIENT
	cachingSpent              // by a command that Redis has not seen on the pinned connection
)

// spendCaching is called behind a command that has left the flag armed.
func (s *session) spendCaching() {
	if !isClient(s.d.Cmd) {
		s.caching.state = cachingSpent
	}
}

func isClient(c *policy.Command) bool {
	return c != nil && (c.Name == "client" || strings.HasPrefix(c.Name, "client|"))
}

// tracking runs CLIENT TRACKING and its relatives.
func (s *session) tracking(raw []byte) {
	switch s.d.Cmd.Name {
	case "client|getredir":
		if !s.mayRun("client|getredir") {
			return
		}
		if s.track {
			s.replyRaw(redcon.AppendInt(nil, int64(s.redirect.Load())))
		} else {
			s.replyString(":-1\r\n")
		}
		return
	case "client|caching":
		if !s.track {
			break
		}
		if policy.Is(s.args[2], "yes") || policy.Is(s.args[2], "no") {
			s.caching = caching{cachingArmed, bytes.Clone(raw)}
		}
		s.sendPinned(s.slot(), -1, raw, 1)
		return
	case "client|trackinginfo":
		if !s.track {
			break
		}
		if s.captured != nil { // EXEC waits for it
			b, err := s.callPinned(-1, raw)
			if err != nil {
				b = appendError(nil, s.p.originError(err))
			}
			if own := s.redirect.Load(); own != 0 {
				b = renumber(b, "$8\r\nredirect\r\n:", own)
			}
			s.replyRaw(b)
			return
		}
		sl := s.slot()
		if own := s.redirect.Load(); own != 0 {
			sl.finish = func(_ *slot, b []byte, err error) []byte {
				if err != nil {
					return appendError(nil, s.p.originError(err))
				}
				return renumber(b, "$8\r\nredirect\r\n:", own)
			}
		}
		s.sendPinned(sl, -1, raw, 1)
		return
	case "client|tracking":
		s.startTracking(raw)
		return
	}
	s.forward(raw) // without tracking any connection gives the right answer
}

// startTracking runs CLIENT TRACKING ON and OFF.
func (s *session) startTracking(raw []byte) {
	if !s.track && !policy.Is(s.args[2], "on") && !policy.Is(s.args[2], "off") {
		s.forward(raw)
		return
	}
	if err := s.acquire(s.d.DB); err != nil {
		s.replyOriginError(err)
		return
	}
	var target *session
	if at, id := redirection(s.args); at > 0 {
		t, number, problem := s.redirectTo(id)
		if problem != "" {
			s.replyError(problem)
			return
		}
		args := slices.Clone(s.args)
		args[at] = strconv.AppendInt(nil, number, 10)
		raw = appendArgs(nil, args)
		target = t
	}
	reply, err := s.callPinned(s.d.DB, raw)
	if err != nil {
		target.untarget(s)
		s.replyOriginError(err)
		return
	}
	if string(reply) == replyOK {
		on := policy.Is(s.args[2], "on")
		if on && !s.track {
			s.track = true
			s.watchPin()
		}
		s.track = on
		s.bcast = slices.ContainsFunc(s.args[3:], func(a []byte) bool { return policy.Is(a, "bcast") })
		if !on {
			s.caching = caching{}
			target.untarget(s)
			target = nil
		}
		s.redirectsTo(target)
		s.publish()
	} else {
		target.untarget(s)
	}
	s.replyRaw(reply)
}

// redirectsTo notes the session that Redis sends this one's invalidations to, which
// redirectTo has prepared, or nil; the one before is let go.
func (s *session) redirectsTo(t *session) {
	before := s.redirected
	s.redirected = t
	if t == nil {
		s.redirect.Store(0)
	} else {
		s.redirect.Store(t.id)
	}
	before.untarget(s)
}

// redirection finds the id behind CLIENT TRACKING's REDIRECT, at 0 if there is
// none or if Redis will find fault with the arguments before or instead.
func redirection(args [][]byte) (at int, id uint64) {
	for i := 3; i < len(args); i++ {
		more := i+1 < len(args)
		switch {
		case policy.Is(args[i], "redirect") && more:
			i++
			n, ok := parseLength(args[i])
			if at > 0 {
				return at, id // Redis looks for the first one, then refuses the second
			}
			if !ok {
				return 0, 0
			}
			at, id = i, uint64(n)
		case policy.Is(args[i], "prefix") && more:
			i++
		case policy.Is(args[i], "bcast"), policy.Is(args[i], "optin"), policy.Is(args[i], "optout"), policy.Is(args[i], "noloop"):
		default:
			return at, id
		}
	}
	return at, id
}

// postedTime bounds how long a session waits for what it asks of another one.
const postedTime = 2 * time.Second

// redirectTo makes the session with that id ready to get invalidations and returns
// the number of its pinned connection at Redis. Unless there is a problem, untarget
// must follow sooner or later.
func (s *session) redirectTo(id uint64) (t *session, number int64, problem string) {
	for _, o := range s.p.sessionList() {
		if o.id == id {
			t = o
		}
	}
	if t == nil {
		return nil, 0, "ERR The client ID you want redirect to does not exist"
	}
	t.targeted.Add(1)
	var err error
	if t == s {
		number, err = s.becomeTarget()
	} else if !t.post(s.p.ctx, postedTime, func() { number, err = t.becomeTarget() }) {
		t.untarget(s)
		return nil, 0, "ERR nearside: the client to redirect to is busy; try again"
	}
	switch {
	case err != nil:
		problem = s.p.originError(err)
	case number == 0:
		problem = "ERR nearside: Redis does not tell the id of the connection to redirect to; its user needs the right to CLIENT ID"
	default:
		return t, number, ""
	}
	t.untarget(s)
	return nil, 0, problem
}

// becomeTarget pins a connection for what other sessions redirect here.
func (s *session) becomeTarget() (number int64, err error) {
	if s.targeted.Load() == 0 { // who has asked waits no more
		return 0, nil
	}
	if err := s.acquire(s.homeDB()); err != nil {
		return 0, err
	}
	s.target = true
	s.watchPin()
	ctx, cancel := context.WithTimeout(s.p.ctx, postedTime)
	defer cancel()
	return s.pin.conn.ID(ctx), nil
}

// untarget is called when by's invalidations do not go to t any more. When nobody's
// do, t gives back the connection that it has pinned for them.
func (s *session) untarget(by *session) {
	if s == nil || s.targeted.Add(-1) > 0 {
		return
	}
	if s == by {
		s.endTarget()
	} else {
		s.postOnly(s.endTarget)
	}
}

// endTarget gives the connection back that was pinned for redirected invalidations.
func (s *session) endTarget() {
	if !s.target || s.targeted.Load() > 0 {
		return
	}
	s.target = false
	if s.pin == nil || s.pushes() {
		return
	}
	s.unwatchPin()
	if s.needsPin() || s.blocked.is() { // later, or at the end of the batch at hand
		return
	}
	if s.awaitAnswers() {
		s.unpin()
	}
}

// redirBroken begins the push that says that the target of a redirection is gone.
const redirBroken = ">2\r\n$21\r\ntracking-redir-broken\r\n:"

// ownRedirect puts nearside's number of a client in the place of Redis's.
func (s *session) ownRedirect(frame []byte) []byte {
	if own := s.redirect.Load(); own != 0 && bytes.HasPrefix(frame, []byte(redirBroken)) {
		return renumber(frame, redirBroken, own)
	}
	return frame
}

// renumber replaces the number behind the first occurrence of head.
func renumber(b []byte, head string, n uint64) []byte {
	at := bytes.Index(b, []byte(head))
	if at < 0 {
		return b
	}
	at += len(head)
	end := bytes.IndexByte(b[at:], '\r')
	if end < 0 {
		return b
	}
	out := strconv.AppendUint(bytes.Clone(b[:at]), n, 10)
	return append(out, b[at+end:]...)
}

// blockedOn is the connection on which a session waits at Redis.
type blockedOn struct {
	mu   sync.Mutex
	conn *origin.Conn
}

func (b *blockedOn) begin(c *origin.Conn) {
	b.mu.Lock()
	b.conn = c
	b.mu.Unlock()
}

// end waits for a CLIENT UNBLOCK that is under way: it must not hit who uses the
// connection next.
func (b *blockedOn) end() {
	b.mu.Lock()
	b.conn = nil
	b.mu.Unlock()
}

// is tells whether the session waits at Redis.
func (b *blockedOn) is() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conn != nil
}

// unblock is CLIENT UNBLOCK id [TIMEOUT|ERROR] for a session that waits at Redis:
// Redis itself ends the wait there and gives the reply.
func (s *session) unblock() {
	if len(s.args) > 4 {
		s.replyError(errSubSyntax(s.args))
		return
	}
	how := "TIMEOUT"
	if len(s.args) == 4 {
		switch {
		case policy.Is(s.args[3], "timeout"):
		case policy.Is(s.args[3], "error"):
			how = "ERROR"
		default:
			s.replyError("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
			return
		}
	}
	id, ok := parseLength(s.args[2])
	if !ok {
		s.replyError(errNotInteger)
		return
	}
	if !s.awaitAnswers() {
		return
	}
	for _, o := range s.p.sessionList() {
		if o.id == uint64(id) {
			s.replyRaw(s.unblockAt(o, how))
			return
		}
	}
	s.replyString(":0\r\n")
}

func (s *session) unblockAt(o *session, how string) []byte {
	b := &o.blocked
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn == nil {
		return []byte(":0\r\n")
	}
	number := b.conn.ID(s.p.ctx)
	if number == 0 {
		if b.conn.Err() != nil {
			return []byte(":0\r\n")
		}
		return appendError(nil, "ERR nearside: Redis does not tell the id of the blocked connection; its user needs the right to CLIENT ID")
	}
	// As the session's own user, who may lack the right.
	reply, err := s.call(s.homeDB(), origin.AppendCommand(nil, "CLIENT", "UNBLOCK", strconv.FormatInt(number, 10), how))
	if err != nil {
		return appendError(nil, s.p.originError(err))
	}
	return reply
}

// lookahead walks through what a blocked client has sent in advance.
type lookahead struct {
	frames framer
	at     int
	done   bool
}

// quit tells, once, whether there is a QUIT.
func (l *lookahead) quit(s *session) bool {
	for !l.done {
		kind, n, _ := l.frames.next(s.in[l.at:], s.authed)
		if kind == frameMore {
			return false
		}
		frame := s.in[l.at : l.at+n]
		l.at += n
		switch kind {
		case frameBad:
			l.done = true // what comes behind it is never looked at
		case frameInline:
			word := bytes.Fields(frame)
			l.done = len(word) == 1 && bytes.EqualFold(word[0], []byte("quit"))
		case frameArray:
			l.done = isQuit(frame)
		}
		if l.done && kind != frameBad {
			return true
		}
	}
	return false
}

func isQuit(frame []byte) bool {
	return len(frame) == len("*1\r\n$4\r\nquit\r\n") && bytes.EqualFold(frame, []byte("*1\r\n$4\r\nquit\r\n"))
}

// unblockTries bounds how often a wait is ended that has perhaps not begun yet.
const unblockTries = 100

// endBlock ends the session's own wait at Redis, since its client has sent QUIT
// ("TIMEOUT") or nearside ends ("ERROR"). Redis gives the reply that a timeout would give,
// or an error, or the element if there was one, so nothing is popped for nobody. It
// reports false when the session had to be ended.
func (s *session) endBlock(how string) bool {
	ctx, cancel := context.WithTimeout(s.p.ctx, postedTime)
	defer cancel()
	number := s.pin.conn.ID(ctx)
	for try := 0; number != 0 && try < unblockTries && ctx.Err() == nil; try++ {
		n, err := s.p.origin.Control().Do(ctx, "CLIENT", "UNBLOCK", number, how).Int()
		if err != nil {
			break
		}
		if n == 1 || s.answered() {
			return true
		}
		// The blocking command, on another connection, has not arrived yet.
		select {
		case <-ctx.Done():
		case <-time.After(time.Millisecond):
		}
	}
	if s.answered() {
		return true
	}
	s.leave()
	return false
}

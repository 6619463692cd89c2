package proxy

import (
	"errors"

	"nearside/policy"
	"nearside/proxy/origin"
)

// dispatch sends one request on its way. s.args and raw are valid until it
// returns.
func (s *session) dispatch(raw []byte) {
	s.nextReply()
	s.adopt()
	if policy.Closes(s.args[0]) {
		s.p.log.Warn("closing a client that speaks HTTP, as Redis does: a browser may have been tricked into it", "client", s.id)
		s.quit = true
		return
	}
	s.carryOut(raw)
	if s.moved == movedOnce {
		s.moved = movedTwice // then it is answered
		s.carryOut(raw)
	}
	s.moved = notMoved
}

// moved says that the request at hand was decided by what one server process has told
// of its commands, and then met another one, before anything of it was sent.
type moved uint8

const (
	notMoved moved = iota
	movedOnce
	movedTwice
)

// begunAnew tells whether the error of a request that could not be sent is to be
// followed by another try.
func (s *session) begunAnew(err error) bool {
	if s.moved != notMoved || !errors.Is(err, errMoved) || s.captured != nil {
		return false
	}
	s.moved = movedOnce
	return true
}

// carryOut decides a request and sends it on its way.
func (s *session) carryOut(raw []byte) {
	s.decide()
	s.start()
	d := &s.d
	if len(raw) >= aloneSize {
		d.Alone = true
	}
	s.last.Store(d.Cmd)
	if !s.authed && !allowedUnauthed(d.Cmd) {
		s.path = pathRefused
		s.refuseUnauthed()
		return
	}
	if s.inPubSub() && !s.allowedSubscribed(d) {
		return
	}
	if s.p.paused.Load() && !s.awaitPause() {
		return
	}
	if s.inMulti() {
		s.tx.mayWrite = s.tx.mayWrite || mayWrite(d.Cmd)
		s.inTransaction(raw)
		s.weighTransaction()
		return
	}
	if s.watching && s.pin.conn.Err() != nil {
		s.loseWatch()
	}
	// Whatever is not a look-up may wait for somebody: a read behind it in the
	// same batch must not be judged by the clock of before.
	s.waited = s.waited || d.Route != policy.RouteCache
	if d.Route != policy.RouteCache && len(d.Keys) > 0 {
		s.passed.note(s)
	}
	switch d.Route {
	case policy.RouteLocal:
		if d.Cmd.Name != "ping" && d.Cmd.Name != "echo" { // some ask the origin
			s.blocking()
		}
		s.answerLocal(raw)
	case policy.RouteCache:
		if s.pinsData() {
			s.forwardPinned(raw)
		} else {
			s.cached(raw)
		}
	case policy.RoutePass:
		switch {
		case d.Private:
			s.private(raw)
		case s.pinsData() || s.subscribed() && publishes(d.Cmd):
			s.forwardPinned(raw)
		case d.Cmd != nil && d.Cmd.Flags.Has(policy.FlagAllowBusy):
			s.forwardBusy(raw)
		default:
			s.forward(raw)
		}
	case policy.RoutePin:
		s.blocking()
		s.pinnedCommand(raw)
	case policy.RouteSplit, policy.RouteView:
		if s.monitor && s.p.refusesMonitors() {
			d.DB = s.p.cfg.LocksDB
			s.forwardPinned(raw)
		} else {
			s.joined(raw)
		}
	case policy.RouteRefused:
		if d.Cmd != nil { // else there is no such command
			s.p.m.refused.Inc()
		}
		s.replyError(d.Err)
	}
}

// refuseUnauthed answers a client that must authenticate first. Redis looks at
// the command before it looks at the client.
func (s *session) refuseUnauthed() {
	switch cmd := s.d.Cmd; {
	case cmd == nil:
		s.replyError(s.unknownError())
	case !cmd.ArityOK(len(s.args)):
		s.replyError(errArity(cmd.Name))
	case cmd.Name == "exec":
		s.replyError("EXECABORT Transaction discarded because of: " + errNoAuth)
	default:
		s.replyError(errNoAuth)
	}
}

// publishes tells whether a command sends messages: a subscriber's own come to it
// before the reply, which only one connection can keep in order.
func publishes(c *policy.Command) bool {
	return c != nil && (c.Name == "publish" || c.Name == "spublish")
}

// unknownError is Redis's error for the command at hand, which it does not have.
func (s *session) unknownError() string {
	if s.d.Err != "" {
		return s.d.Err
	}
	return s.set.policy.UnknownCommand(s.args)
}

// decide asks policy, and the origin about a command that policy has never heard of.
func (s *session) decide() {
	if !s.p.learning.met.Load() && s.authed {
		s.blocking()
		s.p.meetFirst()
	}
	s.set.policy.Decide(&s.d, s.db, s.args)
	if s.d.MaySet && s.authed { // of what is unknown as well
		s.decideStrange(&s.d, s.args)
	}
	if s.d.AskForm != "" && s.authed {
		s.blocking()
		if s.p.learnForm(s.d.AskForm) {
			s.set.policy.Decide(&s.d, s.db, s.args)
		}
	}
}

// decideStrange decides again once the origin has said what a name is.
func (s *session) decideStrange(d *policy.Decision, args [][]byte) {
	if _, ok := s.set.policy.Ask(d, args); !ok {
		return
	}
	s.blocking()
	if s.p.learn(d, args) {
		s.set.policy.Decide(d, s.db, args)
	}
}

// group names the connections for a database.
func (s *session) group(db int, lock bool) origin.Group {
	return origin.Group{DB: db, Proto: s.proto, Lock: lock, User: s.user, Password: s.pass}
}

// wire returns the connection that the session uses for a database, a shared one
// unless the command at hand, or an unanswered one before it, must be alone.
func (s *session) wire(db int, lock bool) (*origin.Conn, error) {
	if s.d.Alone || s.inLane || s.p.limits.narrow.Load() {
		if c, err := s.laneFor(db, lock); c != nil || err != nil {
			return c, err
		}
	}
	return s.sharedWire(db, lock)
}

// sharedWire returns the shared connection that the session uses for a database.
// It is the same one for all the session's life unless it breaks, so that what
// is sent on it takes effect in order.
func (s *session) sharedWire(db int, lock bool) (*origin.Conn, error) {
	free := &s.wires[int(s.id)%len(s.wires)] // when all are taken by other kinds
	for i := range s.wires {
		w := &s.wires[i]
		if w.conn == nil {
			free = w
			continue
		}
		if w.db == db && w.lock == lock {
			if w.conn.Stalled() && s.d.Cmd != nil && !s.heldBack() {
				return s.pastStalled(w.conn)
			}
			if w.conn.Err() == nil {
				return w.conn, nil
			}
			free = w
			break
		}
	}
	s.waited = true // for a dial
	s.blocking()
	c, err := s.p.origin.Shared(s.p.ctx, s.group(db, lock), s.id)
	s.at = s.p.clock()
	if err != nil {
		return nil, err
	}
	if s.set.policy.Outdated(&s.d, s.args) {
		return nil, errMoved
	}
	*free = wire{db: db, lock: lock, conn: c}
	if c.Stalled() && s.d.Cmd != nil && !s.heldBack() {
		return s.pastStalled(c)
	}
	return c, nil
}

// forgetWires drops the remembered connections, when protocol or user change.
func (s *session) forgetWires() { s.wires = [len(s.wires)]wire{} }

// forward passes one stateless command through.
func (s *session) forward(raw []byte) {
	d := &s.d
	if s.captured != nil { // EXEC waits for it
		b, err := s.call(d.DB, raw)
		if err != nil {
			b = appendError(nil, s.p.originError(err))
		}
		s.replyRaw(b)
		return
	}
	c, err := s.wire(d.DB, d.Lock)
	if err != nil {
		s.replyOriginError(err)
		return
	}
	if !s.follow(c) {
		return
	}
	sl := s.slot()
	s.effects(sl)
	if sl.all == writeEvery {
		s.learns(sl)
	}
	sl.movable(d, raw)
	s.submit(sl, c, raw, 1)
}

// follow makes sure that a command sent on c takes effect after all earlier
// ones of the session: those on other connections must have been answered.
func (s *session) follow(c *origin.Conn) bool {
	if !s.async {
		return true
	}
	if s.inOrder(c) {
		return true
	}
	if s.pin != nil && c == s.pin.conn {
		return s.awaitAnswers()
	}
	return s.awaitPrivate()
}

// effects prepares a slot for what policy says that the command changes.
func (s *session) effects(sl *slot) {
	d := &s.d
	sl.fence = d.Fence
	sl.nilIsNo = d.Fence == policy.FenceLock && s.answersNo()
	if d.Effect == 0 {
		if readScripts[d.Cmd.Name] {
			s.observe(sl)
		}
		s.wrote = s.wrote || publishes(d.Cmd) // Redis replicates messages, too
		return
	}
	s.wrote = true
	if d.Effect&policy.WritesKeys != 0 {
		for i := range d.Keys {
			if k := &d.Keys[i]; k.Write && s.p.keeps(k) {
				sl.writes = append(sl.writes, s.p.l1.Slot(s.args[k.Pos]))
				s.counts.wrote(k.Rule, d.Cmd)
			}
		}
	}
	switch {
	case d.Effect&policy.WritesAll != 0:
		sl.all = writeEvery
		sl.untold = s.p.untold(d.Cmd)
	case d.Effect&policy.WritesUnnamed != 0:
		sl.all = writeHidden
	}
}

// readScripts may read the value of a key past the near cache and tell it.
var readScripts = map[string]bool{"eval_ro": true, "evalsha_ro": true, "fcall_ro": true}

// answersNo tells whether a null or 0 is the answer of this lock acquisition to
// one who comes too late. With GET a null is the value there was before.
func (s *session) answersNo() bool {
	switch s.d.Cmd.Name {
	case "setnx":
		return true
	case "set":
		for _, a := range s.args[3:] {
			if policy.Is(a, "get") {
				return false
			}
		}
		return true
	}
	return false
}

// submit puts a slot into the queue and its request onto a connection.
func (s *session) submit(sl *slot, c *origin.Conn, req []byte, replies int) {
	s.enter(sl, c)
	s.transmit(sl, c, req, replies)
}

// enter begins a slot and puts it into the queue.
func (s *session) enter(sl *slot, c *origin.Conn) {
	sl.begin()
	sl.via = c
	s.push(&sl.pending, c)
	s.sentInLane()
	sl.widen() // behind push: from there on grace sees the slot
}

// transmit hands the request of a slot that is in the queue to a connection.
func (s *session) transmit(sl *slot, c *origin.Conn, req []byte, replies int) {
	s.touch(c)
	sl.op.sent = s.at
	var err error
	if s.gives(req) {
		err = s.giveTo(sl, c, nil, req, replies)
	} else {
		err = s.sendOn(c, req, replies, sl)
	}
	if err == nil {
		return
	}
	if errors.Is(err, origin.ErrRetired) {
		err = s.sendAnew(sl, c, req, replies)
	}
	if err != nil {
		sl.Reply(nil, err, nil)
	}
}

// sendAnew sends what was to go on a shared connection that has just been closed for
// being unused: nothing was sent there.
func (s *session) sendAnew(sl *slot, old *origin.Conn, req []byte, replies int) error {
	for range retiredTries {
		s.blocking()
		c, err := s.p.origin.Shared(s.p.ctx, old.Group(), s.id)
		if err != nil {
			return err
		}
		s.q.mu.Lock()
		if s.q.via == old {
			s.q.via = c
		}
		if sl.fetch != nil {
			sl.fetch.via = c
		}
		s.q.mu.Unlock()
		s.touch(c)
		if err = c.Send(req, replies, sl); !errors.Is(err, origin.ErrRetired) {
			return err
		}
	}
	return origin.ErrRetired
}

// retiredTries bounds how often somebody has the bad luck that a connection is closed
// for being unused in the moment in which it is to be used.
const retiredTries = 3

// sendOn is c.Send, for which the reader leaves its loop if that has to wait.
func (s *session) sendOn(c *origin.Conn, req []byte, replies int, sl *slot) error {
	if s.polled() {
		if err := c.TrySend(req, replies, sl); err != origin.ErrFull { //nolint:errorlint // never wrapped
			return err
		}
		s.blocking()
		s.flushOrigin()
	}
	return c.Send(req, replies, sl)
}

// giveTo sends head and the request at hand, which takes the read buffer along; the
// session goes on with a fresh one.
func (s *session) giveTo(sl *slot, c *origin.Conn, head, req []byte, replies int) error {
	n := s.give()
	s.gave = true
	return c.SendOwned(head, req, replies, sl, func() { s.p.budget.Release(n) })
}

func (s *session) touch(c *origin.Conn) {
	for _, t := range s.touched {
		if t == c {
			return
		}
	}
	s.touched = append(s.touched, c)
}

func (s *session) replyOriginError(err error) {
	if s.begunAnew(err) {
		return
	}
	s.p.m.originErrors.Inc()
	s.replyError(s.p.originError(err))
}

// keeps tells whether the near cache may hold something of a key.
func (p *Proxy) keeps(k *policy.Key) bool {
	return k.Rule != nil && k.Rule.Kind == policy.CacheRule && k.DB == p.cfg.CacheDB
}

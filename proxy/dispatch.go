package proxy

import (
	"nearside/policy"
	"nearside/proxy/origin"
)

// dispatch sends one request on its way. s.args and raw are valid until it
// returns.
func (s *session) dispatch(raw []byte) {
	switch s.reply {
	case replySkipNext:
		s.reply = replySkip
	case replySkip:
		s.reply = replyOn
	}
	s.decide()
	d := &s.d
	if d.Cmd == nil && looksLikeHTTP(s.args[0]) {
		s.p.log.Warn("closing a client that speaks HTTP, as Redis does: a browser may have been tricked into it", "client", s.id)
		s.quit = true
		return
	}
	s.last.Store(d.Cmd)
	if !s.authed && !allowedUnauthed(d.Cmd) {
		s.refuseUnauthed()
		return
	}
	if s.inPubSub() && !s.allowedSubscribed(d) {
		return
	}
	if s.tx.open {
		s.inTransaction(raw)
		return
	}
	if s.watch && s.pin.conn.Err() != nil {
		s.loseWatch()
	}
	switch d.Route {
	case policy.RouteLocal:
		s.answerLocal(raw)
	case policy.RouteCache:
		if s.pinsData() {
			s.forwardPinned(raw)
		} else {
			s.cached(raw)
		}
	case policy.RoutePass:
		if s.pinsData() || s.subscribed() && publishes(d.Cmd) {
			s.forwardPinned(raw)
		} else {
			s.forward(raw)
		}
	case policy.RoutePin:
		s.pinnedCommand(raw)
	case policy.RouteSplit, policy.RouteView:
		s.joined(raw)
	case policy.RouteRefused:
		s.p.m.refused.Inc()
		s.replyError(d.Err)
	}
}

// refuseUnauthed answers a client that must authenticate first. Redis looks at
// the command before it looks at the client.
func (s *session) refuseUnauthed() {
	switch cmd := s.d.Cmd; {
	case cmd == nil:
		s.replyError(errUnknown(s.args))
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

// decide asks policy, and the origin about a command that policy has never heard of.
func (s *session) decide() {
	s.p.policy.Decide(&s.d, s.db, s.args)
	if s.d.Cmd == nil && s.authed && s.p.learn(s.args[0]) {
		s.p.policy.Decide(&s.d, s.db, s.args)
	}
}

// group names the connections for a database.
func (s *session) group(db int, lock bool) origin.Group {
	return origin.Group{DB: db, Proto: s.proto, Lock: lock, User: s.user, Password: s.pass}
}

// wire returns the shared connection that the session uses for a database.
// It is the same one for all the session's life unless it breaks, so that what
// is sent on it takes effect in order.
func (s *session) wire(db int, lock bool) (*origin.Conn, error) {
	free := &s.wires[int(s.id)%len(s.wires)] // when all are taken by other kinds
	for i := range s.wires {
		w := &s.wires[i]
		if w.conn == nil {
			free = w
			continue
		}
		if w.db == db && w.lock == lock {
			if w.conn.Err() == nil {
				return w.conn, nil
			}
			free = w
			break
		}
	}
	c, err := s.p.origin.Shared(s.p.ctx, s.group(db, lock), s.id)
	if err != nil {
		return nil, err
	}
	*free = wire{db: db, lock: lock, conn: c}
	return c, nil
}

// forgetWires drops the remembered connections, when protocol or user change.
func (s *session) forgetWires() { s.wires = [len(s.wires)]wire{} }

// forward passes one stateless command through.
func (s *session) forward(raw []byte) {
	d := &s.d
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
	s.submit(sl, c, raw, 1)
}

// follow makes sure that a command sent on c takes effect after all earlier
// ones of the session: those on other connections must have been answered.
func (s *session) follow(c *origin.Conn) bool {
	if !s.async {
		return true
	}
	q := &s.q
	q.mu.Lock()
	same := q.unanswered == 0 || !q.mixed && q.via == c
	q.mu.Unlock()
	return same || s.awaitAnswers()
}

// effects prepares a slot for what policy says that the command changes.
func (s *session) effects(sl *slot) {
	d := &s.d
	sl.fence = d.Fence
	if d.Effect == 0 {
		return
	}
	if d.Effect&policy.WritesKeys != 0 {
		for i := range d.Keys {
			if k := &d.Keys[i]; k.Write && s.p.keeps(k) {
				sl.writes = append(sl.writes, s.p.l1.Slot(s.args[k.Pos]))
				s.counts.wrote(s, k.Rule, d.Cmd)
			}
		}
	}
	switch {
	case d.Effect&policy.WritesAll != 0:
		sl.all = writeEvery
	case d.Effect&policy.WritesUnnamed != 0:
		sl.all = writeHidden
	}
}

// submit puts a slot into the queue and its request onto a connection.
func (s *session) submit(sl *slot, c *origin.Conn, req []byte, replies int) {
	sl.begin()
	s.push(sl, c)
	s.transmit(sl, c, req, replies)
}

// transmit hands the request of a slot that is in the queue to a connection.
func (s *session) transmit(sl *slot, c *origin.Conn, req []byte, replies int) {
	s.touch(c)
	if err := c.Send(req, replies, sl); err != nil {
		sl.Reply(nil, err, nil)
	}
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
	s.p.m.originErrors.Inc()
	s.replyError(s.p.originError(err))
}

// keeps tells whether the near cache may hold something of a key.
func (p *Proxy) keeps(k *policy.Key) bool {
	return k.Rule != nil && k.Rule.Kind == policy.CacheRule && k.DB == p.cfg.CacheDB
}

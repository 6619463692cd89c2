package proxy

import (
	"nearside/policy"
	"nearside/proxy/origin"
)

// How long a session's commands take.

// timing is a session's part in this: the command at hand, and how long it takes.
type timing struct {
	cmd    *policy.Command
	path   path
	waits  bool       // it may wait by design
	pushed bool       // it has a slot, whose answer counts it
	readAt int64      // when the batch was read
	at     int64      // the clock after the last thing that took its time
	times  batchTimes // of what the reader has answered itself
}

// clock is what commands are timed by, in nanoseconds: cheaper than clockNow,
// and it may stand still while the machine sleeps. 0 if nothing is timed.
func (p *Proxy) clock() int64 {
	if !p.timed {
		return 0
	}
	return p.origin.Now()
}

// answeredAt is the clock of when a batch of answers was read; without a batch it is now.
func (p *Proxy) answeredAt(batch *origin.Batch) int64 {
	if batch == nil || batch.At() == 0 {
		return p.clock()
	}
	return batch.At()
}

// settleTimes counts what the reader has answered itself.
func (s *session) settleTimes() {
	if s.times.used > 0 {
		s.times.settle(&s.p.m.latency, s.p.clock()-s.readAt)
	}
}

// note begins the op of the command at hand.
func (s *session) note(o *op) {
	*o = op{cmd: s.cmd, path: s.path, timed: s.p.timed && !s.health, waits: s.waits, read: s.readAt}
	if s.p.slow.on() && o.timed && !o.waits && s.d.Cmd == s.cmd { // else these are other arguments
		if len(s.d.Keys) > 0 {
			o.rule = s.d.Keys[0].Rule
		}
		o.shape.note(o.cmd, s.args, s.d.Keys)
	}
}

// start notes which command is at hand, and which way it goes as far as it is known.
func (s *session) start() {
	s.cmd, s.pushed = s.d.Cmd, false
	s.path, s.waits = wayOf(&s.d)
	if s.path != pathRefused && (s.tx.open || s.path < pathPinned && s.pinsData()) {
		s.path, s.waits = pathPinned, false
	}
}

// wayOf is the way of a decided command, which may turn out to be a hit, and
// whether it waits by design.
func wayOf(d *policy.Decision) (_ path, waits bool) {
	switch d.Route {
	case policy.RouteLocal:
		return pathLocal, false
	case policy.RouteCache:
		return pathMiss, false
	case policy.RoutePass:
		return pathPassed, false
	case policy.RouteRefused:
		return pathRefused, false
	case policy.RoutePin:
		switch d.Cmd.Pin {
		case policy.PinBlock:
			return pathBlocked, true
		case policy.PinSub, policy.PinMonitor:
			return pathPinned, true
		}
	}
	return pathPinned, false
}

// tick reads the session's clocks, after whatever took its time.
func (s *session) tick() {
	s.now = clockNow()
	s.at = s.p.clock()
}

// restart makes what follows count from now: what has passed was somebody's wish.
func (s *session) restart() {
	s.tick()
	s.readAt = s.at
}

// answeredHere counts the command at hand, whose reply, if it has one, is in the output.
func (s *session) answeredHere() {
	p := s.p
	if !p.timed || s.health {
		return
	}
	before := s.at
	if s.path != pathHit {
		s.at = p.clock()
	}
	if p.latencies {
		s.times.add(&p.m.latency, cellOf(s.cmd, s.path), s.at-s.readAt)
	}
	if !p.slow.on() || s.waits || s.at-s.readAt < p.slow.threshold {
		return
	}
	var o op
	s.note(&o)
	o.sent, o.answered = before, s.at
	p.slow.add(&o, s.at, s.whoIsSlow())
}

// leave counts a command whose reply has been put into the output. It is called
// with q.mu held.
func (q *queue) leave(s *session, sl *slot) {
	p, o := s.p, &sl.op
	if !o.timed {
		return
	}
	took := max(q.at-o.read, 0)
	if p.latencies {
		q.times.add(&p.m.latency, cellOf(o.cmd, o.path), took)
	}
	if p.slow.on() && !o.waits && took >= p.slow.threshold {
		p.slow.add(o, q.at, s.whoIsSlow())
	}
}

// whoIsSlow is the client as the slow log names it.
func (s *session) whoIsSlow() slowClient {
	addr, _ := s.addrs()
	return slowClient{id: s.id, addr: addr, name: s.seen().name}
}

package proxy

import (
	"nearside/policy"
	"nearside/proxy/origin"
)

// How long a session's commands take.

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

// Note describes the command at hand.
func (s *session) Note(o *op) {
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
		if d.Private {
			return pathPinned, false
		}
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
	if p.env.latencies {
		s.times.add(&p.m.latency, cellOf(s.cmd, s.path), s.at-s.readAt)
	}
	if !p.slow.on() || s.waits || s.at-s.readAt < p.slow.threshold {
		return
	}
	var o op
	s.Note(&o)
	o.sent, o.answered = before, s.at
	p.slow.add(&o, s.at, s.Who())
}

// Who is the client as the slow log names it.
func (s *session) Who() slowClient {
	addr, _ := s.addrs()
	return slowClient{id: s.id, addr: addr, name: s.seen().name}
}

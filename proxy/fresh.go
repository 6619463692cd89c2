package proxy

import (
	"time"

	"nearside/policy"
	"nearside/proxy/link"
)

// Whether a hit may be served is the link's to say. This is where a session asks it.

// fenceWait bounds how long a hit waits for a PING to be answered; then the read
// goes to the origin, which is never wrong.
const fenceWait = 200 * time.Millisecond

// fresh tells whether the near cache may be used now (link.OK), after waiting
// for a fence if there is one, or why not. With s.parks set, the request is to be
// begun again later and there is no verdict yet.
func (s *session) fresh() link.Verdict {
	p := s.p
	waited := s.afterFence
	s.afterFence = fenceUnknown
	v := p.link.Verdict(s.now)
	switch v {
	case link.OK:
	case link.Fenced:
		if waited == fencePassed { // another one has been raised since the request came
			return link.OK
		}
		if waited == fenceUnknown {
			p.m.fenceWaits.Inc()
			if s.mayPark() {
				s.parks = true
				return v
			}
			if s.awaitLink(p.link.Wait) {
				return link.OK
			}
		}
		s.bypass(bypassFence)
	case link.Stale:
		s.bypass(bypassStale)
	default:
		s.bypass(bypassDown)
	}
	return v
}

// sync makes what the near cache holds as new as a read at the origin sent now,
// for rules with consistency: fenced. One PING is enough for all requests of a
// batch: they had all been read before it was sent.
func (s *session) sync() bool {
	s.p.m.syncWaits.Inc()
	s.synced = s.awaitLink(s.p.link.Sync)
	if !s.synced {
		s.bypass(bypassFence)
	}
	return s.synced
}

// awaitLink waits for a PING, letting out what the session has done so far.
func (s *session) awaitLink(wait func(time.Duration) bool) bool {
	s.blocking()
	s.flushOrigin()
	s.flushReplies()
	ok := wait(fenceWait)
	s.tick()
	return ok
}

func anyFenced(keys []policy.Key) bool {
	for i := range keys {
		if keys[i].Rule.Fenced {
			return true
		}
	}
	return false
}

package proxy

import (
	"math"
	"time"

	"nearside/policy"
	"nearside/proxy/link"
)

// Whether a hit may be served is the link's to say. This is where a session asks it.

// fenceWait bounds how long a hit waits for a PING to be answered; then the read
// goes to the origin, which is never wrong.
const fenceWait = 200 * time.Millisecond

// fresh tells whether the near cache may be used now (link.OK), after waiting
// for a fence if there is one, or why not. With s.parks() set, the request is to be
// begun again later and there is no verdict yet.
func (s *session) fresh() link.Verdict {
	p := s.p
	waited := s.parked
	s.parked = notParked
	v := p.link.Verdict(s.now)
	switch v {
	case link.OK:
	case link.Fenced:
		if waited == parkPassed { // another one has been raised since the request came
			return link.OK
		}
		if waited == notParked {
			p.m.fenceWaits.Inc()
			if s.mayRestart() {
				s.parkIn(&s.p.parking)
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
func (s *session) awaitLink(wait func(time.Duration, <-chan struct{}) bool) (ok bool) {
	s.block(func(closed <-chan struct{}) { ok = wait(fenceWait, closed) })
	return ok
}

// mayRestart tells whether the request at hand can be begun again: nothing may
// remember that it was begun before.
func (s *session) mayRestart() bool {
	return s.mayPark() && s.replies == replyOn && s.captured == nil && s.caching.state != cachingArmed
}

// initParking makes the lot where reads wait for fences. The link's reader lets them go,
// with the PONG or the loss of the link, or the clock does.
func (p *Proxy) initParking() {
	p.parking = lot{clock: p.origin.Now, longest: fenceWait, wanted: p.link.Raised, check: func(number uint64) {
		switch p.link.Verdict(clockNow()) {
		case link.Fenced:
			p.unparkPassed() // maybe by others that were raised since
		case link.OK:
			p.parking.release(number, parkPassed)
		default:
			p.unparkLost()
		}
	}}
}

// unparkPassed lets those go on whose fence has passed; the link's reader calls it.
func (p *Proxy) unparkPassed() { p.parking.release(p.link.Passed(), parkPassed) }

// unparkLost lets all go on: nothing that comes on this link will pass their fence.
func (p *Proxy) unparkLost() { p.parking.release(math.MaxUint64, parkFailed) }

func anyFenced(keys []policy.Key) bool {
	for i := range keys {
		if keys[i].Rule.Fenced {
			return true
		}
	}
	return false
}

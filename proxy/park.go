package proxy

import (
	"math"
	"sync"
	"time"

	"nearside/proxy/link"
)

// A session that must wait for a fence would take its loop's goroutine along, and
// with every lock that is taken all sessions that read would do so at once. Instead
// it goes back to before the request, and its loop runs it again when the fence has
// passed. Nobody reads from it meanwhile.
type parking struct {
	mu    sync.Mutex
	list  []*session
	clock *time.Timer
	armed bool // clock is running
}

// How waiting for a fence went.
type fenced uint8

const (
	fenceUnknown fenced = iota // it has not waited
	fencePassed
	fenceFailed
)

// mayPark tells whether the request at hand can be begun again: nothing may
// remember that it was begun before.
func (s *session) mayPark() bool {
	return s.polled() && s.reply == replyOn && s.captured == nil && s.caching.state != cachingArmed
}

// unparked tells whether the read buffer begins with a request that has waited for a fence.
func (s *session) unparked() bool { return s.afterFence != fenceUnknown }

// park waits for the fences raised until now. The caller has taken the source and
// may not touch the session any more. Who ends the wait is the link's reader, with
// the PONG or the loss of the link, or the clock: no goroutine waits.
func (p *Proxy) park(s *session) {
	fence := p.link.Raised()
	k := &p.parking
	k.mu.Lock()
	s.fence, s.parkedAt = fence, p.origin.Now()
	k.list = append(k.list, s)
	if !k.armed {
		k.arm(p, fenceWait)
	}
	k.mu.Unlock()
	// What has come since the session was told to wait has not found it in the list.
	switch p.link.Verdict(clockNow()) {
	case link.Fenced:
		p.unparkPassed() // maybe by others that were raised since
	case link.OK:
		p.unpark(fence, fencePassed)
	default:
		p.unpark(fence, fenceFailed)
	}
}

// arm has overdue called after a while. mu is held.
func (k *parking) arm(p *Proxy, after time.Duration) {
	k.armed = true
	if k.clock == nil {
		k.clock = time.AfterFunc(after, p.unparkOverdue)
		return
	}
	k.clock.Reset(after)
}

// unparkPassed lets those go on whose fence has passed; the link's reader calls it.
func (p *Proxy) unparkPassed() { p.unpark(p.link.Passed(), fencePassed) }

// unparkLost lets all go on: nothing that comes on this link will pass their fence.
func (p *Proxy) unparkLost() { p.unpark(math.MaxUint64, fenceFailed) }

// unpark lets those go on that wait for fences up to a number.
func (p *Proxy) unpark(upTo uint64, how fenced) {
	p.unparkIf(how, func(s *session) bool { return s.fence <= upTo })
}

// unparkOverdue lets those go on, past the near cache, that have waited for too long.
func (p *Proxy) unparkOverdue() {
	now := p.origin.Now()
	p.unparkIf(fenceFailed, func(s *session) bool { return now-s.parkedAt >= int64(fenceWait) })
	k := &p.parking
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.armed = len(k.list) > 0; k.armed { // they are in the order of their coming, nearly
		k.arm(p, max(fenceWait-time.Duration(now-k.list[0].parkedAt), time.Millisecond))
	}
}

func (p *Proxy) unparkIf(how fenced, over func(*session) bool) {
	k := &p.parking
	k.mu.Lock()
	defer k.mu.Unlock()
	rest := k.list[:0]
	for _, s := range k.list {
		if !over(s) {
			rest = append(rest, s)
			continue
		}
		s.afterFence = how
		if !s.src.Return() {
			go s.run()
		}
	}
	clear(k.list[len(rest):])
	k.list = rest
}

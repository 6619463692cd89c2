package proxy

import "sync"

// A session that must wait for a fence would take its loop's goroutine along, and
// with every lock that is taken all sessions that read would do so at once. Instead
// it goes back to before the request, and its loop runs it again when the fence has
// passed. Nobody reads from it meanwhile.
type parking struct {
	mu     sync.Mutex
	list   []*session
	waiter bool // somebody waits for those in list
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
// may not touch the session any more.
func (p *Proxy) park(s *session) {
	s.fence = p.link.Raised()
	k := &p.parking
	k.mu.Lock()
	k.list = append(k.list, s)
	start := !k.waiter
	k.waiter = true
	k.mu.Unlock()
	if start {
		p.wg.Go(p.awaitFences) // the session is counted there, too: it is not over
	}
}

// unparkPassed lets those go on whose fence has passed; the link's reader calls it.
func (p *Proxy) unparkPassed() { p.unpark(p.link.Passed(), fencePassed) }

// unpark lets those go on that wait for fences up to a number, and tells the
// greatest number that others wait for, 0 if nobody does.
func (p *Proxy) unpark(upTo uint64, how fenced) (more uint64) {
	k := &p.parking
	k.mu.Lock()
	defer k.mu.Unlock()
	rest := k.list[:0]
	for _, s := range k.list {
		if s.fence > upTo {
			rest = append(rest, s)
			more = max(more, s.fence)
			continue
		}
		s.afterFence = how
		if !s.src.Return() {
			go s.run()
		}
	}
	clear(k.list[len(rest):])
	k.list = rest
	return more
}

// awaitFences sees to it that nobody is parked for longer than fenceWait, or once
// the link is down.
func (p *Proxy) awaitFences() {
	k := &p.parking
	for {
		upTo := p.unpark(p.link.Passed(), fencePassed)
		if upTo == 0 {
			k.mu.Lock()
			k.waiter = len(k.list) > 0
			again := k.waiter
			k.mu.Unlock()
			if again {
				continue
			}
			return
		}
		how := fenceFailed
		if p.link.WaitFor(upTo, fenceWait) {
			how = fencePassed
		}
		p.unpark(upTo, how)
	}
}

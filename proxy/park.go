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

// park waits for the fences raised until now. The caller has taken the source and
// may not touch the session any more.
func (p *Proxy) park(s *session) {
	k := &p.parking
	k.mu.Lock()
	k.list = append(k.list, s)
	start := !k.waiter
	k.waiter = true
	k.mu.Unlock()
	if start {
		p.wg.Go(p.unpark) // the session is counted there, too: it is not over
	}
}

// unpark waits for all that are parked, until there are none.
func (p *Proxy) unpark() {
	k := &p.parking
	for {
		k.mu.Lock()
		list := k.list
		k.list = nil
		k.waiter = len(list) > 0
		k.mu.Unlock()
		if len(list) == 0 {
			return
		}
		// After the list was taken: it waits for what was raised before.
		result := fenceFailed
		if p.link.Wait(fenceWait) {
			result = fencePassed
		}
		for _, s := range list {
			s.afterFence = result
			if !s.src.Return() {
				go s.run()
			}
		}
	}
}

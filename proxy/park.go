package proxy

import (
	"sync"
	"time"
)

// A lot is where conns wait for something that others bring about, with a number
// that only grows. A conn that waited on its loop's goroutine would take that along, and
// with every lock that is taken all that read would do so at once. Instead it goes back
// to before the request, and its loop runs it again when the number has come. Nobody
// reads from it meanwhile, and no goroutine waits.
type lot struct {
	clock   func() int64
	longest time.Duration // that a conn waits
	wanted  func() uint64 // the number that a conn which comes now waits for
	check   func(uint64)  // lets those go who have come too late to be told; see park

	mu    sync.Mutex
	list  []*conn
	timer *time.Timer
	armed bool // timer is running
}

// parkResult is how waiting in a lot went.
type parkResult uint8

const (
	notParked parkResult = iota // it has not waited
	parkPassed
	parkFailed
)

// mayPark tells whether the reader is one that should not wait.
func (c *conn) mayPark() bool { return c.polled() }

// parkIn has the request at hand begun again when the lot lets the conn go: nothing may remember
// that it was begun before.
func (c *conn) parkIn(l *lot) { c.lot = l }

// parks tells whether the request at hand is to be begun again later.
func (c *conn) parks() bool { return c.lot != nil }

// unparked tells whether the read buffer begins with a request that has waited in a lot.
func (c *conn) unparked() bool { return c.parked != notParked }

// park takes a conn. The caller has taken the source and may not touch the conn any more.
func (l *lot) park(c *conn) {
	number := l.wanted()
	l.mu.Lock()
	c.ticket, c.parkedAt = number, l.clock()
	l.list = append(l.list, c)
	if !l.armed {
		l.arm(l.longest)
	}
	l.mu.Unlock()
	// What has come since the conn was told to wait has not found it in the list.
	l.check(number)
}

// arm has overdue called after a while. mu is held.
func (l *lot) arm(after time.Duration) {
	l.armed = true
	if l.timer == nil {
		l.timer = time.AfterFunc(after, l.overdue)
		return
	}
	l.timer.Reset(after)
}

// release lets those go on that wait for numbers up to one.
func (l *lot) release(upTo uint64, how parkResult) {
	l.releaseIf(how, func(c *conn) bool { return c.ticket <= upTo })
}

// overdue lets those go on, with parkFailed, that have waited for too long.
func (l *lot) overdue() {
	now := l.clock()
	l.releaseIf(parkFailed, func(c *conn) bool { return now-c.parkedAt >= int64(l.longest) })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.armed = len(l.list) > 0; l.armed { // they are in the order of their coming, nearly
		l.arm(max(l.longest-time.Duration(now-l.list[0].parkedAt), time.Millisecond))
	}
}

func (l *lot) releaseIf(how parkResult, over func(*conn) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := l.list[:0]
	for _, c := range l.list {
		if !over(c) {
			rest = append(rest, c)
			continue
		}
		c.parked = how
		if !c.src.Return() {
			go c.run()
		}
	}
	clear(l.list[len(rest):])
	l.list = rest
}

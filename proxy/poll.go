package proxy

import (
	"time"

	"nearside/proxy/internal/loop"
)

// A conn that waits for its client has no goroutine where the platform has
// loops (internal/loop): a loop reads what has come and runs it, and at the end of
// a round lets out together what the conns of that round asked of the origin.
// What cannot go so has a goroutine of its own for as long as it needs
// one: unfinished requests, MULTI, subscribers, blocking commands, TLS.

// join puts a new session into a loop's care, unless that cannot be.
func (c *conn) join() {
	if c.env.loops == nil {
		return
	}
	sock, err := loop.Detach(c.sock)
	if err != nil {
		return
	}
	c.src = c.env.loops.Pick(c.id).NewSource(sock, c)
	c.sock = sock
}

// How a step ended.
type stepped uint8

const (
	rests  stepped = iota // nobody reads: the session belongs to whoever claims it
	turns                 // there is more, but others have their turn first
	stays                 // it needs a goroutine of its own
	closes                // it is to end
	parks                 // it goes on when its lot lets it go
)

// looped is what a conn has of the loop that looks after it.
type looped struct {
	src  *loop.Source // nil: the conn always has a goroutine
	turn *loop.Turn   // the reader runs on the loop's goroutine, or did when its turn began

	lot      *lot       // the request at hand is to be begun again when that lets the conn go
	parked   parkResult // … which it has, or not
	ticket   uint64     // what it waits for there; the lot's, while it has the conn
	parkedAt int64

	alone    int // how long the last stay on a goroutine of its own was, in batches
	patience int // batches until it may rest
	unlocked int // batches without a command for locks, while it is urgent
}

// mostSteps is how often a session is read from before others have their turn.
const mostSteps = 4

// step reads what has come and runs it, without ever waiting for the client. The
// caller holds the source.
func (c *conn) step(t *loop.Turn) stepped {
	c.turn = t
	for range mostSteps {
		more := len(c.in) > 0 // it was parked; what has come meanwhile was reported to nobody
		if !more {
			buf := t.Buffer()
			n, err := c.src.TryRead(buf)
			if err != nil && err != loop.ErrNothing { //nolint:errorlint // never wrapped
				c.turn = nil
				return stays // run finds it once more
			}
			if n > 0 {
				c.in, c.lent, c.off, c.since = buf[:n], true, 0, time.Time{}
				c.restart()
			}
			more = n == len(buf)
		} else {
			c.tick() // it has been waiting since it was read
		}
		if len(c.in) > 0 {
			c.active.Store(c.now)
			on := c.batch()
			whole := c.off == len(c.in)
			c.giveBack(on && !whole)
			switch {
			case !on:
				c.turn = nil
				return closes
			case c.lot != nil:
				c.turn = nil
				return parks
			case !whole:
				c.turn = nil
				return stays
			case c.restful() && (more || c.src.HungUp()):
				continue
			}
		}
		c.turn = nil      // before it belongs to somebody else
		if !c.restful() { // looked at after each wake, not only after each batch
			return stays
		}
		if t.Left() { // it may have waited for its client
			c.src.Unwait()
		}
		if c.src.Rest() {
			return rests
		}
		c.turn = t // something has come meanwhile
	}
	c.turn = nil
	return turns
}

// dropIn parts with the read buffer.
func (c *conn) dropIn() {
	c.charge(-c.inHeld())
	c.in, c.off, c.lent = nil, 0, false
}

// giveBack parts with the loop's buffer, and keeps what is not understood yet.
func (c *conn) giveBack(keep bool) {
	rest := c.in[c.off:]
	c.dropIn()
	if keep {
		c.in = append(make([]byte, 0, max(inIdle, len(rest))), rest...)
		c.charge(c.inHeld())
	}
	if c.unread.Load() != 0 {
		c.unread.Store(0)
	}
}

// mostUnlocked is the number of batches without a command for locks after which a
// session is one of many again.
const mostUnlocked = 16

// hurry has the loop look more often for sessions that take and release locks, so
// that these do not wait until all others have been served.
func (c *conn) hurry(locks bool) {
	switch {
	case locks:
		c.unlocked = 0
		c.src.SetUrgent(true)
	case c.unlocked < mostUnlocked:
		c.unlocked++
		if c.unlocked == mostUnlocked {
			c.src.SetUrgent(false)
		}
	}
}

// What a conn's reader, or its session, waits for, and what ends that. Each
// wait ends, whatever the client, Redis or another client does:
//
//	bytes of a request           they come; the client leaves; request_timeout for an unfinished one, idle_timeout
//	read                         if set; shut or stop from outside (both end the Read)
//	answers, or room for more    an answer; the loss of the connection, with which the answer is an error; shut.
//	awaitAnswers, awaitRoom      Of a shared or pinned connection that gives none the watchdog says when it
//	                             is lost (origin/watchdog.go): origin_timeout, unless Redis holds the client back
//	a blocking command           its answer; the client leaves or sends QUIT; CLIENT UNBLOCK or KILL; the connection's
//	awaitBlocked                 loss; nearside ends. How long it may take is the client's wish: no bound
//	the reply of a call          the same as of any answer; callOwned, DialBusy, facts, learn and Control's
//	call, callOwned              questions have deadlines as well
//	a connection                 origin's DialTimeout and Timeout for the handshake; with max_pinned out: an error at once
//	Shared, Pin, Lane
//	a slow client                write_timeout without progress, or the budget's end: shut
//	write, send
//	room in the budget           somebody gives back; request_timeout; being the one that holds most: refused
//	budget.reserve
//	a fence, a fresh proof       the PONG; the link's loss; max_staleness, after which the read goes to Redis
//	park, sync
//	room for another fetch       a fetch is answered, as any request is
//	awaitRefill
//	CLIENT PAUSE (nearside's)    its end, UNPAUSE; the client leaves; nearside ends
//	awaitPause
//	a call posted to another     postedTime
//	post
//
// A subscription, a monitor, CLIENT TRACKING and WATCH keep a pinned connection for as long
// as the client stays, wishes it, and has the connection; being the target of a
// redirection for as long as somebody redirects (tracking.go). max_pinned bounds all.

// polled tells whether the reader runs on its loop's goroutine.
func (c *conn) polled() bool { return c.turn != nil && !c.turn.Left() }

// restful tells whether the session can do without a goroutine until its client
// sends something.
func (c *conn) restful() bool {
	return !c.quit && !c.h.Stays() && !c.stopping.Load() && !c.posted.any.Load()
}

// Ready runs the session on its loop's goroutine (loop.Owner).
func (c *conn) Ready(t *loop.Turn) {
	defer c.crashed()
	switch c.step(t) {
	case rests: // nothing of the session may be touched any more
	case turns:
		c.src.Again(t)
	case stays:
		c.src.Take()
		c.alone = min(2*c.alone+1, mostAlone)
		c.patience = c.alone / 2
		if t.Left() {
			c.run()
		} else {
			go c.run()
		}
	case parks:
		c.src.Take()
		lot := c.lot
		c.lot = nil
		lot.park(c)
	case closes:
		c.src.Take()
		if t.Left() {
			c.end()
		} else {
			go c.end()
		}
	}
}

// Woken runs the session on a goroutine of its own: something was done to it (loop.Owner).
func (c *conn) Woken() { c.run() }

// mostAlone bounds how many batches a session that needed a goroutine of its own
// keeps it for, the more the more often: going back and forth costs system calls.
const mostAlone = 64

// rest gives the session back to its loop, from a goroutine of its own, which is to
// end then. It reports false when that has to go on.
func (c *conn) rest() bool {
	if c.src == nil || c.off < len(c.in) || !c.restful() {
		return false
	}
	if c.patience > 0 {
		c.patience--
		return false
	}
	c.dropIn()
	if c.unread.Load() != 0 {
		c.unread.Store(0)
	}
	c.deadline(0) // for the next time that it waits
	c.src.Unwait()
	if c.src.Return() {
		return true
	}
	c.in = make([]byte, 0, inIdle)
	return false
}

// wake has somebody notice what was done to the session.
func (c *conn) wake() {
	if c.src != nil {
		c.src.Wake()
	}
}

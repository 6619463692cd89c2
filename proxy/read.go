package proxy

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"
)

// Reading from the client on a goroutine of the conn's own, and the read buffer.

// input is what has been read from the client.
type input struct {
	in     []byte // bytes read; in[off:] is not understood yet
	off    int
	since  time.Time // the unfinished request has since then grown from
	mark   int       // this size
	frames framer
	lent   bool         // in is the loop's buffer
	unread atomic.Int64 // bytes of unfinished requests when it last waited for more
}

// patientFor is how much of an unfinished request must come within RequestTimeout.
const patientFor = 16 << 10

// Sizes of the read buffer: what an idle client keeps, and beyond what a
// larger one is given back. What is larger than inIdle counts as held.
const (
	inIdle  = 4 << 10
	inLarge = 32 << 10
)

// read waits for more bytes.
func (c *conn) read() bool {
	if c.off > 0 {
		c.in = c.in[:copy(c.in[:cap(c.in)], c.in[c.off:])]
		c.off = 0
		c.since = time.Time{}
	}
	if !c.room() {
		return false
	}
	unfinished := len(c.in) > 0
	if n := int64(len(c.in)); n != c.unread.Load() {
		c.unread.Store(n)
	}
	switch {
	case unfinished:
		if c.since.IsZero() || len(c.in)-c.mark >= patientFor {
			c.since, c.mark = time.Now(), len(c.in)
		}
		c.deadline(time.Until(c.since.Add(c.env.limits().requestTimeout)))
	case c.env.limits().idleTimeout > 0 && !c.h.Patient():
		c.deadline(c.env.limits().idleTimeout)
	}
	if c.stopping.Load() {
		return false
	}
	if c.runPosted() {
		return c.read()
	}
	n, err := c.sock.Read(c.in[len(c.in):cap(c.in)])
	c.in = c.in[:len(c.in)+n]
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && (c.runPosted() || !unfinished && !c.overdue()) {
		return c.read()
	}
	if n > 0 {
		if unfinished {
			c.deadline(0)
		}
		return true
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && !c.stopping.Load() {
		c.env.m.timedOut.Inc()
	}
	return false
}

// overdue tells whether the client is idle for too long, when the time for a read is over:
// it may have been waiting for an answer, or idle_timeout may be another one by now.
func (c *conn) overdue() bool {
	if c.stopping.Load() {
		return true
	}
	now, timeout := clockNow(), c.env.limits().idleTimeout
	switch {
	case c.busy():
		c.active.Store(now)
	case timeout > 0 && now-c.active.Load() >= int64(timeout):
		return true
	}
	c.deadline(0)
	return false
}

func (c *conn) deadline(d time.Duration) {
	var t time.Time
	if d != 0 {
		t = time.Now().Add(d)
	}
	// An error means that the connection is gone, which the next Read says.
	_ = c.sock.SetReadDeadline(t)
}

// trusted is the part of a request that must have come before room is made for
// all of it. It is also what of a large request is copied on its way in.
const trusted = 16

// room makes room in the read buffer. It doubles at most, whatever length the
// client has announced, until a good part of that has really come.
func (c *conn) room() bool {
	size := cap(c.in)
	switch {
	case len(c.in) == 0 && size > inLarge:
		c.resize(inIdle)
	case len(c.in) == size:
		grown := 2 * size
		if want := c.frames.want(); want > size && (want < grown || want >= giveSize && len(c.in) >= want/trusted) {
			grown = want
			if want >= giveSize && c.frames.args > 1 { // little follows a large argument
				grown += max(inIdle, want/64)
			}
		}
		if more := int64(max(grown, inIdle)-inIdle) - c.inHeld(); grown > inLarge {
			if !c.reserve(more) {
				c.h.TooBusy()
				return false
			}
			c.charge(-more) // resize counts it
		}
		c.resize(grown)
	}
	return true
}

// resize gives the read buffer another size.
func (c *conn) resize(size int) {
	c.charge(int64(max(size, inIdle)-inIdle) - c.inHeld())
	in := make([]byte, len(c.in), size)
	copy(in, c.in)
	c.in, c.lent = in, false
}

// inHeld is what the read buffer counts for: what is beyond an idle client'c. The
// loop'c, which a session that waits may keep for a while, counts like a goroutine's stack: not.
func (c *conn) inHeld() int64 {
	if c.lent {
		return 0
	}
	return int64(max(cap(c.in), inIdle) - inIdle)
}

func (c *conn) charge(n int64) { c.env.budget.add(&c.account, n) }

// reserve is budget.reserve for this client.
func (c *conn) reserve(n int64) bool { return c.env.budget.reserve(&c.account, debts{c}, n) }

// debts is the conn as its budget sees it.
type debts struct{ *conn }

func (d debts) holdsMost() bool         { return d.env.worst() == d.conn }
func (d debts) patience() time.Duration { return d.env.limits().requestTimeout }
func (d debts) over() bool              { return d.shutOnce.Load() || d.env.ctx.Err() != nil }

// giveSize is the length from which a request is not copied on its way but takes the
// read buffer along.
const giveSize = 256 << 10

// gives tells whether req is the request at hand and most of the read buffer.
func (c *conn) gives(req []byte) bool {
	n := len(req)
	return n >= giveSize && n >= cap(c.in)/2 && c.off >= n && &req[0] == &c.in[c.off-n]
}

// give parts with the read buffer, whose n bytes are in transit from then on: the budget's
// Release gives them back. The conn goes on with a fresh one.
func (c *conn) give() (n int64) {
	n = int64(cap(c.in) - inIdle) // as resize has counted it
	rest := c.in[c.off:]
	c.in = append(make([]byte, 0, max(inIdle, len(rest))), rest...)
	c.off = 0
	c.since = time.Time{}
	c.charge(int64(cap(c.in) - inIdle))
	c.env.budget.handOver(&c.account, n)
	return n
}

// maxAhead is how much a client may send in advance while it is waited for and its
// departure can still be noticed.
const maxAhead = 64 << 10

// How watch ended.
type watched uint8

const (
	watchedOut  watched = iota // what was waited for has come
	watchedStop                // nearside ends
	watchedLeft                // the client has left, or cannot be waited for any more
)

// watch reads ahead from the client until all its requests are answered, with answers, or until next
// says that it is enough. next is called at each turn, and says how long the next one may take; 0: without
// end. So a client that leaves is noticed. What it sends in advance is kept.
func (c *conn) watch(answers bool, next func() (patience time.Duration, enough bool)) watched {
	c.deadline(0) // idle_timeout is not for those who wait
	q := &c.q
	for {
		c.runPosted()
		if c.stopping.Load() { // the deadline may have been set before it was taken away
			return watchedStop
		}
		patience, enough := next()
		if enough {
			break
		}
		q.mu.Lock()
		if answers && q.unanswered == 0 || q.closed {
			q.mu.Unlock()
			break
		}
		if len(c.in)-c.off > maxAhead { // its departure is noticed afterwards
			q.waitFor(patience)
			q.mu.Unlock()
			continue
		}
		q.kick = answers
		q.mu.Unlock()
		if len(c.in) == cap(c.in) && !c.room() {
			return watchedLeft
		}
		if patience > 0 {
			c.deadline(patience)
			if c.posted.any.Load() || c.stopping.Load() { // whose deadline this may have been
				continue
			}
		}
		n, err := c.sock.Read(c.in[len(c.in):cap(c.in)])
		c.in = c.in[:len(c.in)+n]
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			if !errors.Is(err, io.EOF) {
				c.env.m.readErrors.Inc()
			}
			return watchedLeft
		}
	}
	c.deadline(0)
	c.restart()
	return watchedOut
}

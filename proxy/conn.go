package proxy

import (
	"context"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"nearside/proxy/internal/loop"
)

// A conn is one client's socket: requests in, replies out in order. What is not marked
// otherwise belongs to the reader, which is a loop's goroutine or one of the conn's own (see loops.go).
type conn struct {
	id    uint64
	env   *environ
	h     handler
	sock  net.Conn
	nb    nonblocking // sock without waiting, where the platform has it
	begun time.Time

	input
	output
	looped
	clocks

	account  account // of the budget
	posted   posted  // what others ask the reader to do
	active   atomic.Int64
	served   atomic.Int64 // when a request was last dealt with
	stopping atomic.Bool  // nearside ends
	owed     atomic.Bool  // and then the client waited for something
	shutOnce atomic.Bool
	gone     chan struct{} // closed when the socket is
	ended    chan struct{} // closed when the reader has ended

	quit bool // it ends after the request at hand
	left bool // the client left while it was waited for
}

// clocks are what the reader's clocks have shown last.
type clocks struct {
	now    int64 // of clockNow, read once per batch and after each wait
	at     int64 // of environ.clock, after the last thing that took its time
	readAt int64 // when the batch was read
	pushed bool  // the request at hand has a place in the queue, whose answer counts it
}

// environ is what all conns of a nearside share.
type environ struct {
	ctx       context.Context // ends when nearside has
	budget    *budget
	buffers   bufferPool
	loops     *loop.Group // nil: goroutines for everything
	m         *meters
	slow      *slowlog
	latencies bool // are counted
	timed     bool // commands are timed, for that or to find slow ones
	limits    func() *clientLimits
	clock     func() int64 // what commands are timed by; see Proxy.clock
	slowClock func() int64 // of the time for which a subscriber may be behind
	worst     func() *conn // that holds most of the budget
	log       *slog.Logger
}

// clientLimits are what the configuration allows one client.
type clientLimits struct {
	maxRequest     int64
	maxOutstanding int
	replyBuffer    int64
	requestTimeout time.Duration
	writeTimeout   time.Duration
	idleTimeout    time.Duration
}

// handler is whom a conn's requests are for. The conn's reader calls it.
type handler interface {
	// BatchBegin is called before the requests of a batch.
	BatchBegin()
	// Serve runs one request. It reports false if the conn is to end. raw is valid until it returns.
	Serve(kind frameKind, raw []byte) bool
	// ProtocolError answers what is no request.
	ProtocolError(problem string)
	// TooBusy answers a request for which the budget has no room.
	TooBusy()
	// BatchEnd lets out what the requests have asked of others. It reports false if the conn is to end.
	BatchEnd() bool
	// Ahead lets out what the requests so far have asked of others, since the reader is about to wait.
	Ahead()
	// Authenticated tells whether the client may send large requests.
	Authenticated() bool
	// Stays tells whether the client needs a goroutine of its own while it sends nothing.
	Stays() bool
	// Unsolicited tells whether there may be something to send that answers no request.
	Unsolicited() bool
	// Patient tells whether idle_timeout is not for this client.
	Patient() bool
	// Closed is called when the reader has ended and the socket is closed.
	Closed()

	// Answered is called when an answer has come and nothing is outstanding, by whoever brought it.
	Answered()
	// NewPending makes a place in the queue of replies, with the handler's own part around it.
	NewPending() *pending
	// Note describes the request at hand.
	Note(o *op)
	// Who is the client as the slow log names it. Anybody may ask.
	Who() slowClient
}

// init makes a conn of a socket. h may be the conn's owner.
func (c *conn) init(id uint64, sock net.Conn, env *environ, h handler) {
	c.id, c.env, c.h, c.sock, c.begun = id, env, h, sock, time.Now()
	c.gone, c.ended = make(chan struct{}), make(chan struct{})
	c.q.cond.L = &c.q.mu
	c.join()
	if c.src == nil {
		c.nb.init(sock)
	}
	c.active.Store(clockNow())
	c.served.Store(c.active.Load())
}

// run reads from the client until that is gone, nearside closes the conn, or
// its loop takes it.
func (c *conn) run() {
	defer c.crashed()
	if c.in == nil {
		c.in = make([]byte, 0, inIdle)
	}
	for !c.quit && (c.unparked() || c.read()) {
		if c.unparked() {
			c.tick() // it has been waiting since it was read
		} else {
			c.restart()
		}
		c.active.Store(c.now)
		if !c.batch() {
			break
		}
		if c.rest() {
			return
		}
	}
	c.end()
}

// end lets the last replies out and closes the conn.
func (c *conn) end() {
	defer c.crashed()
	c.drainOut()
	if c.stopping.Load() {
		c.lingerClose()
	}
	c.close()
}

// batch runs every request that has arrived whole, and lets its effects out.
func (c *conn) batch() bool {
	c.h.BatchBegin()
	if c.async && !c.h.Unsolicited() && c.quiet() {
		c.async = false
	}
	for count := 1; ; count++ {
		kind, n, problem := c.frames.next(c.in[c.off:], c.h.Authenticated())
		if kind == frameMore {
			if count > 1 {
				c.served.Store(c.now)
			}
			break
		}
		if kind == frameBad {
			c.h.ProtocolError(problem)
			return false
		}
		raw := c.in[c.off : c.off+n]
		c.off += n
		if !c.h.Serve(kind, raw) {
			return false
		}
		if c.lot != nil {
			c.off -= n
			break
		}
		c.parked = notParked // it may not have been asked for
		if count%32 == 0 {   // a long batch must not answer by an old clock
			c.tick()
		}
	}
	return c.h.BatchEnd() && c.flushReplies()
}

// tick reads the clocks, after whatever took its time.
func (c *conn) tick() {
	c.now = clockNow()
	c.at = c.env.clock()
}

// restart makes what follows count from now: what has passed was somebody's wish.
func (c *conn) restart() {
	c.tick()
	c.readAt = c.at
}

// blocking is called before the reader waits for anything: if that is a
// loop's goroutine, another one takes the loop's part.
func (c *conn) blocking() {
	if t := c.turn; t != nil && !t.Left() {
		t.Leave()
	}
}

// block waits by calling wait, which should end when closed does: the socket is closed then.
// What the client has asked for and is owed so far is let out before, and the clocks are read after.
func (c *conn) block(wait func(closed <-chan struct{})) {
	c.blocking()
	c.h.Ahead()
	c.flushReplies()
	wait(c.gone)
	c.tick()
}

// shut closes the conn from outside its reader.
func (c *conn) shut() {
	if c.shutOnce.Swap(true) {
		return
	}
	q := &c.q
	q.mu.Lock()
	q.closed = true
	c.charge(-q.size)
	q.full, q.out = nil, nil
	c.env.budget.gone(q.size)
	q.size = 0
	q.times.settle(&c.env.m.latency)
	q.cond.Broadcast()
	q.mu.Unlock()
	_ = c.sock.Close() // nothing is left to be said to this client
	close(c.gone)
	c.wake()
}

// close ends the conn; the reader calls it last.
func (c *conn) close() {
	c.h.Ahead()
	c.shut()
	c.settleTimes()
	c.charge(-c.inHeld())
	c.h.Closed()
	close(c.ended)
}

// stop makes the reader end after what it has read so far.
func (c *conn) stop() {
	c.owed.Store(c.owes())
	c.stopping.Store(true)
	c.interrupt()
}

// interrupt has the reader look around, wherever it waits for its client.
func (c *conn) interrupt() {
	// Wakes the reader out of its Read. An error means that the connection is
	// gone, and then Read has returned as well.
	_ = c.sock.SetReadDeadline(longAgo)
	c.q.mu.Lock()
	c.q.cond.Broadcast()
	c.q.mu.Unlock()
	c.wake()
}

// linger is how long a client may be silent that has got its last answer and does not close.
const linger = time.Second

// idle tells whether the client has had all its answers for a while: then nothing of
// them can be on its way any more. That it has asked long ago is not enough, for the
// answer may have taken as long. Where nothing is timed nobody is known to be idle.
func (c *conn) idle() bool {
	if len(c.in) != c.off || c.owed.Load() {
		return false
	}
	c.q.mu.Lock()
	answered := c.q.at
	c.q.mu.Unlock()
	return time.Duration(clockNow()-max(c.active.Load(), c.served.Load())) > linger &&
		time.Duration(c.env.clock()-answered) > linger
}

// owes tells whether the client waits for anything: answers, or what was not sent yet.
func (c *conn) owes() bool {
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n > 0 || q.sending || len(q.out)+len(q.full) > 0
}

// busy tells whether the client waits for anything, or has been answered since this
// was asked last: for idle_timeout it has been idle since now at the earliest.
func (c *conn) busy() bool {
	owes := c.owes()
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	answered := q.popped != q.noticed
	q.noticed = q.popped
	return owes || answered
}

// lingerClose is the last thing that a conn does for its client when nearside ends.
func (c *conn) lingerClose() {
	half, ok := c.sock.(interface{ CloseWrite() error })
	if !ok || c.left || c.idle() || half.CloseWrite() != nil {
		return
	}
	drop := make([]byte, inIdle)
	for c.sock.SetReadDeadline(time.Now().Add(linger)) == nil {
		if _, err := c.sock.Read(drop); err != nil {
			return // it has closed, or is silent, or drain has closed it
		}
	}
}

// crashed keeps one client's bug from ending all others.
func (c *conn) crashed() {
	if r := recover(); r != nil {
		c.env.log.Error("a session crashed; please report this", "client", c.id, "panic", r, "stack", string(debug.Stack()))
		if c.turn != nil {
			c.giveBack(false)
			c.turn = nil
		}
		if c.src != nil {
			c.src.Take()
		}
		c.close()
	}
}

// posted are the calls that others want the reader to make, since much of what a client
// has belongs to its reader alone.
type posted struct {
	any  atomic.Bool
	mu   sync.Mutex
	list []func()
}

// post makes the reader run f and waits for that, at most for patience. It reports false
// when the conn has ended or is busy with something else for too long; then f
// may still run, and nothing of what it sets may be looked at.
func (c *conn) post(ctx context.Context, patience time.Duration, f func()) bool {
	done := make(chan struct{})
	c.postOnly(func() { f(); close(done) })
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-c.ended:
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// postOnly makes the reader run f, if not nil, and look around.
func (c *conn) postOnly(f func()) {
	e := &c.posted
	e.mu.Lock()
	if f != nil {
		e.list = append(e.list, f)
	}
	e.any.Store(true)
	c.interrupt() // within mu: runPosted takes the deadline away again
	e.mu.Unlock()
}

// postIfFree makes the reader run f when it can, unless it has something to run already.
func (c *conn) postIfFree(f func()) {
	e := &c.posted
	e.mu.Lock()
	free := len(e.list) == 0
	e.mu.Unlock()
	if free {
		c.postOnly(f)
	}
}

// runPosted does what others have asked for, and tells whether there was anything.
// It runs right before and after every Read.
func (c *conn) runPosted() bool {
	e := &c.posted
	if !e.any.Load() {
		return false
	}
	e.mu.Lock()
	list := e.list
	e.list = nil
	e.any.Store(false)
	c.deadline(0)
	e.mu.Unlock()
	for _, f := range list {
		f()
	}
	return true
}

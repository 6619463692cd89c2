package proxy

import (
	"sync"
	"time"

	"nearside/proxy/origin"
)

// A pending reply is the place of one request in the queue of replies, from
// the moment it was read until its answer has been put into the output. The
// handler has more around it: what to do with the answer.
type pending struct {
	next  *pending
	owner interface{ Recycle() } // what it is a part of

	done      bool     // the answer is known and waits for earlier ones
	reply     []byte   // the answer while it waits
	parts     [][]byte // more of it
	overtaken bool     // later reads may overtake it: a cacheable read
	mute      bool     // the answer is not sent
	replaced  bool     // another pending reply has taken its place
	reserved  int64    // what the budget counts for the answer, as in transit
	op        op       // what it is, and how long it takes
}

// A way is something on which requests take effect in the order in which they were sent: a connection to Redis.
type way any

// queue holds the replies in the order of the requests: pending ones, and the bytes
// that can be sent.
//
// Three parties meet here. The conn's reader adds pending replies. The readers of
// origin connections answer them, in any order when cached reads went several
// ways, and never wait. Whoever finds bytes to send and nobody sending becomes
// the sender until nothing is left.
type queue struct {
	mu   sync.Mutex
	cond sync.Cond // the reader waits for answers or for room

	head, tail *pending
	n          int // of pending replies
	popped     int // pending replies that were there before and are gone
	noticed    int // of these, known to session.busy
	unanswered int // pending replies whose answer is not known yet
	writes     int // of these, all that are not cacheable reads
	held       int // who holds back all but cacheable reads

	// via is the way of all unanswered requests; mixed says that there are
	// several (cacheable reads only).
	via   way
	mixed bool

	full [][]byte // bytes to send: full buffers and large replies, then
	out  []byte   // the buffer that small replies are appended to
	size int64    // bytes in full, out and waiting answers

	sending bool
	waiting bool // the reader waits on cond
	kick    bool // the reader waits in Read, to be woken when all is answered
	closed  bool
	free    *pending
	frees   int

	slowSince int64 // since when more than softPushBacklog is unsent

	credit int64 // in transit until now: the next that is counted is not counted again

	// How long commands take: see op.go.
	at    int64       // when the answer came that lets replies out
	times answerTimes // of answers not counted yet
}

// outChunk is the size beyond which the output buffer is closed and a new one
// begun, so that a long queue of replies is never copied to grow.
const outChunk = 64 << 10

// pend returns a place for the answer of the request at hand, which is not in the queue yet.
func (c *conn) pend() *pending {
	q := &c.q
	q.mu.Lock()
	sl := q.takeFree()
	q.mu.Unlock()
	if sl == nil {
		sl = c.h.NewPending()
	}
	c.h.Note(&sl.op)
	return sl
}

// push puts a pending reply at the end of the queue; via is the way on which its
// request went.
func (c *conn) push(sl *pending, via way) {
	sl.op.sent = c.at
	c.pushed = true
	q := &c.q
	q.mu.Lock()
	if q.held > 0 && !sl.overtaken {
		c.awaitUnheld()
	}
	c.detachOut()
	if q.unanswered == 0 {
		q.via, q.mixed = via, false
	} else if q.via != via {
		q.mixed = true
	}
	q.unanswered++
	if !sl.overtaken {
		q.writes++
	}
	q.link(sl)
	q.mu.Unlock()
}

// hold holds back all requests but cacheable reads until unhold, unless one is already sent.
// The caller brings the answer to a request of the conn's, which is to be sent again in its place.
func (c *conn) hold() bool {
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.writes > 0 {
		return false
	}
	q.held++
	q.mixed = true
	return true
}

// unhold is called before that answer is brought, which wakes the reader.
func (c *conn) unhold() {
	c.q.mu.Lock()
	c.q.held--
	c.q.mu.Unlock()
}

// awaitUnheld waits until nobody holds requests back. The caller is the
// conn's reader and holds q.mu.
func (c *conn) awaitUnheld() {
	q := &c.q
	q.mu.Unlock()
	c.blocking()
	c.h.Ahead()
	q.mu.Lock()
	for q.held > 0 && !q.closed {
		q.wait()
	}
}

// replace puts other pending replies in the place of unanswered ones, whose requests have gone on
// the way to. change returns what takes a reply's place, itself if nothing does; more is false
// where the next ones must not be looked at. It reports false if nobody waits any more.
func (c *conn) replace(to way, change func(*pending) (_ *pending, more bool)) bool {
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	changed, all := false, true
	for at := &q.head; *at != nil; at = &(*at).next {
		sl := *at
		if sl.done {
			continue
		}
		other, more := change(sl)
		if !more {
			all = false
			break
		}
		if other == sl {
			continue
		}
		changed, sl.replaced = true, true
		other.next = sl.next
		if *at = other; q.tail == sl {
			q.tail = other
		}
	}
	switch {
	case !changed:
	case all && !q.mixed:
		q.via = to
	default:
		q.mixed = true
	}
	return true
}

// uses tells whether something unanswered may have gone on a way.
func (c *conn) uses(w way) bool {
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.unanswered > 0 && (q.mixed || q.via == w)
}

// apart notes that an unanswered cacheable read may be on any connection.
func (c *conn) apart() {
	q := &c.q
	q.mu.Lock()
	q.mixed = true
	q.mu.Unlock()
}

func (q *queue) link(sl *pending) {
	sl.next = nil
	if q.tail == nil {
		q.head = sl
	} else {
		q.tail.next = sl
	}
	q.tail = sl
	q.n++
}

// detachOut moves what the reader has collected by itself in front of what
// comes from now on. The caller holds q.mu and is the session's reader.
func (c *conn) detachOut() {
	if c.async {
		return
	}
	c.async = true
	if len(c.wbuf) > 0 && !c.q.closed { // closing has given everything back
		c.q.emit(c, c.wbuf, false)
		c.wbuf = c.wbuf[:0]
	}
}

// answer records a slot's reply, which came at a time of Proxy.clock. With owned, b
// is kept and not copied.
func (c *conn) answer(sl *pending, b []byte, owned bool, at int64) {
	if c.settleAnswer(sl, b, owned, at) {
		c.h.Answered()
	}
}

// settleAnswer tells whether nothing is outstanding any more.
func (c *conn) settleAnswer(sl *pending, b []byte, owned bool, at int64) bool {
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if sl.replaced { // another one has its place, and answers the client
		c.env.budget.Release(sl.reserved)
		sl.reserved, sl.parts = 0, nil
		return false
	}
	q.at, sl.op.answered = at, at
	q.unanswered--
	if !sl.overtaken {
		q.writes--
	}
	if sl.mute {
		b, owned, sl.parts = nil, false, nil
	}
	q.credit, sl.reserved = sl.reserved, 0
	q.settleSlot(c, sl, b, owned)
	if q.credit > 0 { // more than there is to send
		c.env.budget.Release(q.credit)
		q.credit = 0
	}
	if q.waiting {
		q.cond.Signal()
	}
	if q.kick && q.unanswered == 0 {
		q.kick = false
		// Wakes the reader out of its Read. An error means that the
		// connection is gone, and then Read has returned as well.
		_ = c.sock.SetReadDeadline(longAgo)
	}
	return q.unanswered == 0
}

// longAgo as a deadline ends a Read at once.
var longAgo = time.Unix(1, 0)

func (q *queue) settleSlot(c *conn, sl *pending, b []byte, owned bool) {
	if q.closed {
		// Nobody will be told; the slot only had to be counted.
		q.leave(c, sl)
		return
	}
	sl.done = true
	if sl != q.head {
		if owned {
			sl.reply = b
		} else {
			sl.reply = append([]byte(nil), b...)
		}
		q.grow(c, int64(len(b)))
		for _, part := range sl.parts {
			q.grow(c, int64(len(part)))
		}
		return
	}
	q.emit(c, b, owned)
	for _, part := range sl.parts {
		q.emit(c, part, true)
	}
	q.pop(c)
	for q.head != nil && q.head.done {
		sl := q.head
		q.grow(c, -int64(len(sl.reply)))
		q.emit(c, sl.reply, true)
		for _, part := range sl.parts {
			q.grow(c, -int64(len(part)))
			q.emit(c, part, true)
		}
		q.pop(c)
	}
}

// pop takes the first slot out, whose reply is in the output, and keeps it for reuse.
func (q *queue) pop(c *conn) {
	sl := q.head
	q.head = sl.next
	if q.head == nil {
		q.tail = nil
	}
	q.n--
	q.popped++
	q.leave(c, sl)
	q.recycle(sl)
}

func (q *queue) recycle(sl *pending) {
	if q.frees == maxFree {
		return
	}
	sl.owner.Recycle()
	sl.next = q.free
	q.free = sl
	q.frees++
}

// maxFree is the number of pending replies that a conn keeps for reuse.
const maxFree = 128

// takeFree returns a pending reply for reuse, nil if there is none.
func (q *queue) takeFree() *pending {
	sl := q.free
	if sl != nil {
		q.free = sl.next
		q.frees--
	}
	return sl
}

// emit appends bytes to the output.
func (q *queue) emit(c *conn, b []byte, owned bool) {
	if len(b) == 0 {
		return
	}
	q.grow(c, int64(len(b)))
	if owned && len(b) > origin.TakeSize {
		if len(q.out) > 0 {
			q.full = append(q.full, q.out)
			q.out = nil
		}
		q.full = append(q.full, b)
		return
	}
	if len(q.out)+len(b) > outChunk && len(q.out) > 0 {
		q.full = append(q.full, q.out)
		q.out = nil
	}
	if q.out == nil {
		q.out = c.env.buffers.get()
	}
	q.out = append(q.out, b...)
}

func (q *queue) grow(c *conn, n int64) {
	q.size += n
	if q.credit > 0 && n > 0 {
		known := min(n, q.credit)
		q.credit -= known
		c.env.budget.handBack(&c.account, known)
		n -= known
	}
	c.env.budget.add(&c.account, n)
}

// local queues a reply that is known at once, behind all earlier ones.
func (c *conn) local(b []byte) { c.queueLocalReply(b, false) }

// localShared is local for bytes that nobody will ever change.
func (c *conn) localShared(b []byte) { c.queueLocalReply(b, true) }

func (c *conn) queueLocalReply(b []byte, owned bool) {
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if q.n == 0 {
		q.emit(c, b, owned)
		return
	}
	sl := q.takeFree()
	if sl == nil {
		sl = c.h.NewPending()
	}
	if !c.pushed { // the first reply of the command at hand
		c.h.Note(&sl.op)
		sl.op.sent, sl.op.answered = c.at, c.at
		c.pushed = true
	}
	q.link(sl)
	q.settleSlot(c, sl, b, owned)
}

// pushOut sends a frame that answers no request (a pub/sub message, an
// invalidation), between two replies. It reports false when the client is so
// slow that Redis would close it.
func (c *conn) pushOut(frame []byte) bool {
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return true
	}
	q.emit(c, frame, false)
	return q.size <= maxPushBacklog && !c.slowTooLong()
}

// Redis's client-output-buffer-limit for the class pubsub: what must not be unsent
// at any time, and what not for so long.
const (
	maxPushBacklog  = 32 << 20
	softPushBacklog = 8 << 20
	softPushTime    = 60 * time.Second
)

// slowTooLong tells whether a subscriber has been behind by more than
// softPushBacklog for softPushTime. The caller holds q.mu.
func (c *conn) slowTooLong() bool {
	q := &c.q
	if q.size <= softPushBacklog {
		q.slowSince = 0
		return false
	}
	now := c.env.slowClock()
	if q.slowSince == 0 {
		q.slowSince = now
		time.AfterFunc(softPushTime+time.Second, c.closeIfSlow) // no further message need come
		return false
	}
	return now-q.slowSince > int64(softPushTime)
}

// closeIfSlow closes a subscriber that has not caught up.
func (c *conn) closeIfSlow() {
	q := &c.q
	q.mu.Lock()
	slow := !q.closed && q.slowSince != 0 && c.slowTooLong()
	q.mu.Unlock()
	if slow {
		c.closeSlow()
	}
}

// closeSlow closes a client that does not read its messages.
func (c *conn) closeSlow() {
	c.env.log.Warn("closing a client that does not read its messages", "client", c.id, "backlog", c.account.bytes())
	c.env.m.slowClosed.Inc()
	c.shut()
}

// awaitAnswers waits until every request sent to the origin has been answered.
// It reports false when the session is closed.
func (c *conn) awaitAnswers() bool {
	if !c.async {
		return true
	}
	c.h.Ahead()
	c.sendOut()
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.unanswered > 0 && !q.closed {
		c.blocking()
	}
	for q.unanswered > 0 && !q.closed {
		q.wait()
	}
	c.tick()
	return !q.closed
}

// wait waits until something about the queue changes, or for the reader to look around.
func (q *queue) wait() {
	q.waiting = true
	q.cond.Wait()
	q.waiting = false
}

// waitFor is wait for so long at most; 0: without end.
func (q *queue) waitFor(patience time.Duration) {
	if patience > 0 {
		timer := time.AfterFunc(patience, func() {
			q.mu.Lock()
			q.cond.Broadcast()
			q.mu.Unlock()
		})
		defer timer.Stop()
	}
	q.wait()
}

// inOrder tells whether a request on that way takes effect after all that are unanswered.
func (c *conn) inOrder(on way) bool {
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.unanswered == 0 || !q.mixed && q.via == on
}

// sameLane tells whether all unanswered requests went on that way.
func (c *conn) sameLane(on way) bool {
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.mixed && q.via == on
}

// mayOvertake tells whether a cacheable read may be looked up before the earlier
// requests are answered: only past cacheable reads.
func (c *conn) mayOvertake() bool {
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.writes == 0
}

// answered tells whether nothing is outstanding.
func (c *conn) answered() bool {
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.unanswered == 0
}

// becomeAsync makes all output go through the queue, since there may be something to
// send at any time from now on.
func (c *conn) becomeAsync() {
	q := &c.q
	q.mu.Lock()
	c.detachOut()
	q.mu.Unlock()
}

// leave counts a request whose reply has been put into the output. It is called
// with q.mu held.
func (q *queue) leave(c *conn, sl *pending) {
	env, o := c.env, &sl.op
	if !o.timed {
		return
	}
	took := max(q.at-o.read, 0)
	if env.latencies {
		q.times.add(&env.m.latency, cellOf(o.cmd, o.path), took)
	}
	if env.slow.on() && !o.waits && took >= env.slow.threshold {
		env.slow.add(o, q.at, c.h.Who())
	}
}

// awaitRoom waits while too many requests of the session are unanswered or too
// much of its output is unsent. That is the backpressure: meanwhile nothing is
// read from the client.
func (c *conn) awaitRoom() bool {
	if !c.async {
		return true
	}
	q := &c.q
	q.mu.Lock()
	full := q.n >= c.env.limits().maxOutstanding || q.size > c.env.limits().replyBuffer
	closed := q.closed
	q.mu.Unlock()
	if !full || closed {
		return !closed
	}
	c.blocking()
	c.h.Ahead()
	c.sendOut()
	q.mu.Lock()
	defer q.mu.Unlock()
	for (q.n > c.env.limits().maxOutstanding/2 || q.size > c.env.limits().replyBuffer/2) && !q.closed {
		q.wait()
	}
	c.tick()
	return !q.closed
}

// quiet tells whether nothing is outstanding or unsent, so that the reader may
// write by itself again. The caller is the reader.
func (c *conn) quiet() bool {
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n == 0 && !q.sending && len(q.out) == 0 && len(q.full) == 0
}

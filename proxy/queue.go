package proxy

import (
	"sync"
	"time"

	"nearside/proxy/origin"
)

// queue holds a session's replies in the order of its requests: slots of
// requests that are not answered yet, and the bytes that can be sent.
//
// Three parties meet here. The session's reader adds slots. The readers of
// origin connections answer them, in any order when cached reads went several
// ways, and never wait. Whoever finds bytes to send and nobody sending becomes
// the sender until nothing is left.
type queue struct {
	mu   sync.Mutex
	cond sync.Cond // the reader waits for answers or for room

	head, tail *slot
	n          int // slots
	popped     int // slots that were there before and are gone
	noticed    int // of these, known to session.busy
	unanswered int // slots whose answer is not known yet
	writes     int // of these, all that are not cacheable reads

	// via is the origin connection that all unanswered slots went to; mixed
	// says that there are several (cacheable reads only).
	via   *origin.Conn
	mixed bool

	lane laneHold

	full [][]byte // bytes to send: full buffers and large replies, then
	out  []byte   // the buffer that small replies are appended to
	size int64    // bytes in full, out and waiting answers

	sending bool
	waiting bool // the reader waits on cond
	kick    bool // the reader waits in Read, to be woken when all is answered
	closed  bool
	free    *slot
	frees   int

	slowSince int64 // since when more than softPushBacklog is unsent

	credit int64 // in transit until now: the next that is counted is not counted again

	// How long commands take: see op.go.
	at      int64       // when the answer came that lets replies out
	total   int64       // bytes ever put into the output
	gone    int64       // of these, bytes that the client has taken
	times   answerTimes // of answers not counted yet
	late    []*slowOp   // slow already; the client has not taken their replies
	oldest  *slot       // of the other commands whose replies it has not taken; at most maxMarked of them
	newest  *slot
	marked  int
	stalled bool // the client did not take all at once
	told    bool // … and one of these commands has been told to be slow since
}

// outChunk is the size beyond which the output buffer is closed and a new one
// begun, so that a long queue of replies is never copied to grow.
const outChunk = 64 << 10

// slot returns a fresh slot that is not in the queue yet.
func (s *session) slot() *slot {
	q := &s.q
	q.mu.Lock()
	sl := q.takeFree()
	q.mu.Unlock()
	if sl == nil {
		sl = &slot{s: s}
	}
	sl.writes = sl.inline[:0]
	sl.gen = s.set.gen
	sl.mute = s.muted()
	s.note(&sl.op)
	return sl
}

// push puts a slot at the end of the queue; via is the connection whose answer
// it waits for.
func (s *session) push(sl *slot, via *origin.Conn) {
	sl.op.sent = s.at
	s.pushed = true
	q := &s.q
	q.mu.Lock()
	s.detachOut()
	if q.unanswered == 0 {
		q.via, q.mixed = via, false
	} else if q.via != via {
		q.mixed = true
	}
	q.unanswered++
	sl.via = via
	q.lane.asked = false
	if !sl.read {
		q.writes++
	}
	q.link(sl)
	q.mu.Unlock()
}

// apart notes that an unanswered cacheable read may be on any connection.
func (s *session) apart() {
	q := &s.q
	q.mu.Lock()
	q.mixed = true
	q.mu.Unlock()
}

func (q *queue) link(sl *slot) {
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
func (s *session) detachOut() {
	if s.async {
		return
	}
	s.async = true
	if len(s.wbuf) > 0 && !s.q.closed { // closing has given everything back
		s.q.emit(s, s.wbuf, false)
		s.wbuf = s.wbuf[:0]
	}
	for i, o := range s.late {
		s.q.hold(s, o)
		s.late[i] = nil
	}
	s.late = s.late[:0]
}

// answer records a slot's reply, which came at a time of Proxy.clock. With owned, b
// is kept and not copied.
func (s *session) answer(sl *slot, b []byte, owned bool, at int64) {
	q := &s.q
	q.mu.Lock()
	s.answerLocked(sl, b, owned, at)
	lane := q.freeLane()
	q.mu.Unlock()
	if lane != nil {
		s.p.origin.Unpin(lane, true)
	}
}

func (s *session) answerLocked(sl *slot, b []byte, owned bool, at int64) {
	q := &s.q
	if sl.moving.away { // another slot has its place, and answers the client
		s.p.budget.Release(sl.reserved)
		sl.reserved, sl.parts = 0, nil
		return
	}
	q.at, sl.op.answered = at, at
	q.unanswered--
	if !sl.read {
		q.writes--
	}
	if sl.mute {
		b, owned, sl.parts = nil, false, nil
	}
	q.credit, sl.reserved = sl.reserved, 0
	q.settleSlot(s, sl, b, owned)
	if q.credit > 0 { // more than there is to send
		s.p.budget.Release(q.credit)
		q.credit = 0
	}
	if q.waiting {
		q.cond.Signal()
	}
	if q.kick && q.unanswered == 0 {
		q.kick = false
		// Wakes the reader out of its Read. An error means that the
		// connection is gone, and then Read has returned as well.
		_ = s.conn.SetReadDeadline(longAgo)
	}
}

// longAgo as a deadline ends a Read at once.
var longAgo = time.Unix(1, 0)

func (q *queue) settleSlot(s *session, sl *slot, b []byte, owned bool) {
	if q.closed {
		// Nobody will be told; the slot only had to be counted.
		q.leave(s, sl)
		return
	}
	sl.done = true
	if sl != q.head {
		if owned {
			sl.reply = b
		} else {
			sl.reply = append([]byte(nil), b...)
		}
		q.grow(s, int64(len(b)))
		for _, part := range sl.parts {
			q.grow(s, int64(len(part)))
		}
		return
	}
	q.emit(s, b, owned)
	for _, part := range sl.parts {
		q.emit(s, part, true)
	}
	q.pop(s)
	for q.head != nil && q.head.done {
		sl := q.head
		q.grow(s, -int64(len(sl.reply)))
		q.emit(s, sl.reply, true)
		for _, part := range sl.parts {
			q.grow(s, -int64(len(part)))
			q.emit(s, part, true)
		}
		q.pop(s)
	}
}

// pop takes the first slot out, whose reply is in the output, and keeps it for reuse.
func (q *queue) pop(s *session) {
	sl := q.head
	q.head = sl.next
	if q.head == nil {
		q.tail = nil
	}
	q.n--
	q.popped++
	if !q.leave(s, sl) {
		q.recycle(sl)
	}
}

func (q *queue) recycle(sl *slot) {
	if q.frees == maxFree {
		return
	}
	req := sl.moving.req
	*sl = slot{s: sl.s, next: q.free}
	sl.moving.req = req
	q.free = sl
	q.frees++
}

// maxFree is the number of slots that a session keeps for reuse.
const maxFree = 128

// takeFree returns a slot for reuse, nil if there is none.
func (q *queue) takeFree() *slot {
	sl := q.free
	if sl != nil {
		q.free = sl.next
		q.frees--
	}
	return sl
}

// emit appends bytes to the output.
func (q *queue) emit(s *session, b []byte, owned bool) {
	if len(b) == 0 {
		return
	}
	q.grow(s, int64(len(b)))
	q.total += int64(len(b))
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
		q.out = s.p.buffers.get()
	}
	q.out = append(q.out, b...)
}

func (q *queue) grow(s *session, n int64) {
	q.size += n
	if q.credit > 0 && n > 0 {
		known := min(n, q.credit)
		q.credit -= known
		s.p.budget.handBack(s, known)
		n -= known
	}
	s.p.budget.add(s, n)
}

// local queues a reply that is known at once, behind all earlier ones.
func (s *session) local(b []byte) { s.queueLocalReply(b, false) }

// localShared is local for bytes that nobody will ever change.
func (s *session) localShared(b []byte) { s.queueLocalReply(b, true) }

func (s *session) queueLocalReply(b []byte, owned bool) {
	q := &s.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if q.n == 0 {
		q.emit(s, b, owned)
		q.markLocal(s)
		return
	}
	sl := q.takeFree()
	if sl == nil {
		sl = &slot{s: s}
	}
	if !s.pushed { // the first reply of the command at hand
		s.note(&sl.op)
		sl.op.sent, sl.op.answered = s.at, s.at
		s.pushed = true
	}
	q.link(sl)
	q.settleSlot(s, sl, b, owned)
}

// pushOut sends a frame that answers no request (a pub/sub message, an
// invalidation), between two replies. It reports false when the client is so
// slow that Redis would close it.
func (s *session) pushOut(frame []byte) bool {
	q := &s.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return true
	}
	q.emit(s, frame, false)
	return q.size <= maxPushBacklog && !s.slowTooLong()
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
func (s *session) slowTooLong() bool {
	q := &s.q
	if q.size <= softPushBacklog {
		q.slowSince = 0
		return false
	}
	now := s.p.slowClock()
	if q.slowSince == 0 {
		q.slowSince = now
		time.AfterFunc(softPushTime+time.Second, s.closeIfSlow) // no further message need come
		return false
	}
	return now-q.slowSince > int64(softPushTime)
}

// closeIfSlow closes a subscriber that has not caught up.
func (s *session) closeIfSlow() {
	q := &s.q
	q.mu.Lock()
	slow := !q.closed && q.slowSince != 0 && s.slowTooLong()
	q.mu.Unlock()
	if slow {
		s.closeSlow()
	}
}

// closeSlow closes a client that does not read its messages.
func (s *session) closeSlow() {
	s.p.log.Warn("closing a client that does not read its messages", "client", s.id, "backlog", s.held.Load())
	s.p.m.slowClosed.Inc()
	s.shut()
}

// awaitAnswers waits until every request sent to the origin has been answered.
// It reports false when the session is closed.
func (s *session) awaitAnswers() bool {
	if !s.async {
		return true
	}
	s.flushOrigin()
	s.sendOut()
	q := &s.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.unanswered > 0 && !q.closed {
		s.blocking()
	}
	for q.unanswered > 0 && !q.closed {
		q.wait()
	}
	s.tick()
	return !q.closed
}

func (q *queue) wait() {
	q.waiting = true
	q.cond.Wait()
	q.waiting = false
}

// awaitRoom waits while too many requests of the session are unanswered or too
// much of its output is unsent. That is the backpressure: meanwhile nothing is
// read from the client.
func (s *session) awaitRoom() bool {
	if !s.async {
		return true
	}
	q := &s.q
	q.mu.Lock()
	full := q.n >= s.p.conf().MaxOutstanding || q.size > s.p.conf().ReplyBuffer
	closed := q.closed
	q.mu.Unlock()
	if !full || closed {
		return !closed
	}
	s.blocking()
	s.flushOrigin()
	s.sendOut()
	q.mu.Lock()
	defer q.mu.Unlock()
	for (q.n > s.p.conf().MaxOutstanding/2 || q.size > s.p.conf().ReplyBuffer/2) && !q.closed {
		q.wait()
	}
	s.tick()
	return !q.closed
}

// quiet tells whether nothing is outstanding or unsent, so that the reader may
// write by itself again. The caller is the reader.
func (s *session) quiet() bool {
	q := &s.q
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n == 0 && !q.sending && len(q.out) == 0 && len(q.full) == 0
}

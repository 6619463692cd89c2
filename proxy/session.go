package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/tidwall/redcon"

	"nearside/policy"
	"nearside/proxy/internal/loop"
	"nearside/proxy/origin"
)

// A session is one client connection and its state. Its reader, a loop's goroutine
// or one of its own (see poll.go), reads requests, decides them and sends them on; answers come back on the goroutines
// of the origin's connections (see queue). What is not marked otherwise belongs
// to the reader.
type session struct {
	p     *Proxy
	set   *ruleset // that the request at hand is decided by
	id    uint64
	conn  net.Conn
	nb    nonblocking // conn without waiting, where the platform has it
	begun time.Time

	// What the client said about itself.
	db      int
	proto   int
	name    string
	libName string
	libVer  string
	user    string // ACL user it acts as; "" is nearside's own
	pass    string
	acl     *aclUser // the same user's part in the near cache
	authed  bool
	reply   replyMode
	quit    bool
	health  bool // nearside's own health check: not counted

	// Reading.
	in       []byte // bytes read; in[off:] is not understood yet
	off      int
	since    time.Time // the unfinished request has since then grown from
	mark     int       // this size
	frames   framer
	args     [][]byte
	d        policy.Decision
	now      int64 // the proxy's clock, read once per batch
	waited   bool  // now is of before something that took its time
	synced   bool  // a PING that was sent after the batch had been read has been answered
	scratch  []byte
	id1      []byte // near cache key under construction
	kept     int64  // bytes counted for what the client wants remembered
	argsHeld int64  // bytes counted for very many arguments
	gave     bool   // the request at hand went to the origin with its buffer
	last     atomic.Pointer[policy.Command]
	active   atomic.Int64 // proxy clock of the last request
	served   atomic.Int64 // proxy clock when a request was last dealt with

	// Writing. While async is false nothing is outstanding and the reader
	// writes by itself from wbuf; otherwise everything goes through q.
	q        queue
	async    bool
	wbuf     []byte
	captured *[]byte      // a local reply that EXEC will send
	held     atomic.Int64 // bytes of the budget

	// Origin connections in use.
	wires   [4]wire
	touched []*origin.Conn // written to since the last flush
	pin     *pinned        // owned connection, or nil
	tx      transaction
	watch   bool // WATCH is in force
	subs    subscriptions
	view    keyView // of keyspace notifications
	track   bool    // CLIENT TRACKING is on
	target  bool    // another session's invalidations are redirected to this one's pinned connection
	bcast   bool
	noEvict bool
	caching caching
	monitor bool

	unwatch chan struct{} // closed when the loss of the pinned connection no longer matters

	monitors atomic.Bool          // monitor, for the pinned connection's reader
	redirect atomic.Uint64        // the session that CLIENT TRACKING redirects to; 0: none
	solo     atomic.Uint64        // odd while a slot is begun that is not in the queue
	blocked  blockedOn            // for CLIENT UNBLOCK of other sessions
	pausing  atomic.Bool          // CLIENT PAUSE holds it back
	queuedN  atomic.Int32         // commands queued since MULTI, plus 1; 0: no MULTI
	unread   atomic.Int64         // bytes of unfinished requests when it last waited for more
	errands  errands              // what other sessions ask the reader to do
	public   atomic.Pointer[seen] // for CLIENT LIST of other sessions
	gone     bool                 // the client left while it was blocked
	stopping atomic.Bool          // nearside ends
	shutOnce atomic.Bool
	ended    chan struct{} // closed when the reader has ended

	src        *loop.Source // nil: the session always has a goroutine
	turn       *loop.Turn   // the reader runs on the loop's goroutine, or did when its turn began
	parks      bool         // the request at hand is to be begun again when a fence has passed
	afterFence fenced       // … which it has, or not
	fence      uint64       // … with this number (parking)

	lent     bool // in is the loop's buffer
	alone    int  // how long the last stay on a goroutine of its own was, in batches
	patience int  // batches until it may rest
	unlocked int  // batches without a command for locks, while it is urgent
	counted  bool // among Proxy.clients
	counts   ruleCounts
	passed   passed
	timing
}

// wire remembers the shared connection of one kind.
type wire struct {
	db   int
	lock bool
	conn *origin.Conn
}

// patientFor is how much of an unfinished request must come within RequestTimeout.
const patientFor = 16 << 10

// Sizes of the read buffer: what an idle client keeps, and beyond what a
// larger one is given back. What is larger than inIdle counts as held.
const (
	inIdle  = 4 << 10
	inLarge = 32 << 10
)

// keepOut is the size beyond which the reader's own output buffer is given back.
const keepOut = 16 << 10

func (p *Proxy) newSession(conn net.Conn) *session {
	s := &session{
		p: p, id: p.nextID.Add(1), conn: conn, begun: time.Now(), proto: 2, ended: make(chan struct{}),
		authed: p.cfg.DefaultUser != "none", acl: &p.users.own,
	}
	s.adopt()
	s.q.cond.L = &s.q.mu
	if s.join(); s.src == nil {
		s.nb.init(conn)
	}
	s.active.Store(clockNow())
	s.served.Store(s.active.Load())
	return s
}

// serve runs the session from its beginning.
func (s *session) serve() {
	defer s.crashed()
	if !s.handshake() {
		s.close()
		return
	}
	if s.rest() {
		return
	}
	s.run()
}

// run reads from the client until that is gone, nearside closes the session, or
// its loop takes it.
func (s *session) run() {
	defer s.crashed()
	if s.in == nil {
		s.in = make([]byte, 0, inIdle)
	}
	for !s.quit && s.read() {
		s.restart()
		s.active.Store(s.now)
		if !s.batch() {
			break
		}
		if s.rest() {
			return
		}
	}
	s.end()
}

// end lets the last replies out and closes the session.
func (s *session) end() {
	defer s.crashed()
	s.drainOut()
	if s.stopping.Load() {
		s.farewell()
	}
	s.close()
}

// read waits for more bytes.
func (s *session) read() bool {
	if s.off > 0 {
		s.in = s.in[:copy(s.in[:cap(s.in)], s.in[s.off:])]
		s.off = 0
		s.since = time.Time{}
	}
	if !s.room() {
		return false
	}
	unfinished := len(s.in) > 0
	if n := int64(len(s.in)); n != s.unread.Load() {
		s.unread.Store(n)
	}
	switch {
	case unfinished:
		if s.since.IsZero() || len(s.in)-s.mark >= patientFor {
			s.since, s.mark = time.Now(), len(s.in)
		}
		s.deadline(time.Until(s.since.Add(s.p.conf().RequestTimeout)))
	case s.p.conf().IdleTimeout > 0 && !s.subscribed() && !s.monitor:
		s.deadline(s.p.conf().IdleTimeout)
	}
	if s.stopping.Load() {
		return false
	}
	if s.runErrand() {
		return s.read()
	}
	n, err := s.conn.Read(s.in[len(s.in):cap(s.in)])
	s.in = s.in[:len(s.in)+n]
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && s.runErrand() {
		return s.read()
	}
	if n > 0 {
		if unfinished {
			s.deadline(0)
		}
		return true
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && !s.stopping.Load() {
		s.p.m.timedOut.Inc()
	}
	return false
}

func (s *session) deadline(d time.Duration) {
	var t time.Time
	if d != 0 {
		t = time.Now().Add(d)
	}
	// An error means that the connection is gone, which the next Read says.
	_ = s.conn.SetReadDeadline(t)
}

// trusted is the part of a request that must have come before room is made for
// all of it. It is also what of a large request is copied on its way in.
const trusted = 16

// room makes room in the read buffer. It doubles at most, whatever length the
// client has announced, until a good part of that has really come.
func (s *session) room() bool {
	size := cap(s.in)
	switch {
	case len(s.in) == 0 && size > inLarge:
		s.resize(inIdle)
	case len(s.in) == size:
		grown := 2 * size
		if want := s.frames.want(); want > size && (want < grown || want >= giveSize && len(s.in) >= want/trusted) {
			grown = want
			if want >= giveSize && s.frames.args > 1 { // little follows a large argument
				grown += max(inIdle, want/64)
			}
		}
		if more := int64(max(grown, inIdle)-inIdle) - s.inHeld(); grown > inLarge {
			if !s.p.budget.reserve(s, more) {
				s.replyError(errBusyBuffers)
				return false
			}
			s.charge(-more) // resize counts it
		}
		s.resize(grown)
	}
	return true
}

// resize gives the read buffer another size.
func (s *session) resize(size int) {
	s.charge(int64(max(size, inIdle)-inIdle) - s.inHeld())
	in := make([]byte, len(s.in), size)
	copy(in, s.in)
	s.in, s.lent = in, false
}

// inHeld is what the read buffer counts for: what is beyond an idle client's. The
// loop's, which a session that waits may keep for a while, counts like a goroutine's stack: not.
func (s *session) inHeld() int64 {
	if s.lent {
		return 0
	}
	return int64(max(cap(s.in), inIdle) - inIdle)
}

func (s *session) charge(n int64) { s.p.budget.add(s, n) }

// keep counts what the session remembers at its client's wish.
func (s *session) keep(n int) {
	s.kept += int64(n)
	s.charge(int64(n))
}

// batch runs every request that has arrived whole, and lets its effects out.
func (s *session) batch() bool {
	s.synced = false
	if s.async && !s.pushes() && s.quiet() {
		s.async = false
	}
	for count := 1; ; count++ {
		kind, n, problem := s.frames.next(s.in[s.off:], s.authed)
		if kind == frameMore {
			if count > 1 {
				s.served.Store(s.now)
			}
			break
		}
		if kind == frameBad {
			s.replyError("ERR Protocol error: " + problem)
			s.p.m.protocolErrors.Inc()
			return false
		}
		raw := s.in[s.off : s.off+n]
		if len(s.wbuf) == 0 {
			s.first = s.off
		}
		s.off += n
		if !s.request(kind, raw) {
			return false
		}
		if s.parks {
			s.off -= n
			break
		}
		if count%32 == 0 { // a long batch must not answer by an old clock
			s.tick()
		}
	}
	if s.pin != nil && !s.needsPin() {
		if !s.awaitAnswers() {
			return false
		}
		s.unpin()
	}
	s.flushBatch()
	s.counts.flush(s)
	s.passed.flush(s)
	if cap(s.scratch) > keepOut {
		s.scratch = nil
	}
	if cap(s.id1) > keepOut {
		s.id1 = nil
	}
	return s.flushReplies()
}

// request runs one frame.
func (s *session) request(kind frameKind, raw []byte) bool {
	switch kind {
	case frameSkip:
		return true
	case frameInline:
		args, ok := splitInline(trimLine(raw))
		if !ok {
			s.replyError("ERR Protocol error: unbalanced quotes in request")
			return false
		}
		if len(args) == 0 {
			return true
		}
		s.args, raw = args, appendArgs(nil, args)
	case frameArray:
		if s.frames.count > manyArgs {
			defer s.forgetArgs()
			if s.args = nil; !s.reserveArgs() {
				s.replyError(errBusyBuffers)
				return false
			}
		}
		complete, args, _, _, err := redcon.ReadNextCommand(raw, s.args[:0])
		if err != nil || !complete || len(args) == 0 {
			// The framer has checked all that redcon checks.
			s.replyError("ERR Protocol error: invalid request")
			return false
		}
		s.args = args
	}
	if s.async && !s.awaitRoom() {
		return false
	}
	s.dispatch(raw)
	if !s.pushed && !s.parks {
		s.answeredHere()
	}
	if s.gave { // nothing may hold on to what was given away
		clear(s.args[:cap(s.args)])
		s.gave = false
		s.flushOrigin()
	}
	if s.caching.state == cachingArmed {
		s.spendCaching()
	}
	if s.tx.open || s.queuedN.Load() != 0 {
		s.noteMulti()
	}
	return !s.quit
}

// A request of very many arguments takes several times its bytes while it runs.
const (
	manyArgs = 1024
	argBytes = 80 // a slice, a policy.Key, a counter
)

// reserveArgs counts what the arguments of the request at hand will take.
func (s *session) reserveArgs() bool {
	n := int64(s.frames.count) * argBytes
	if !s.p.budget.reserve(s, n) {
		return false
	}
	s.argsHeld = n
	s.args = make([][]byte, 0, s.frames.count)
	return true
}

// forgetArgs gives back what reserveArgs has counted.
func (s *session) forgetArgs() {
	s.charge(-s.argsHeld)
	s.argsHeld = 0
	s.args, s.d.Keys = nil, nil
}

// trimLine cuts the line's end as Redis does: \n, and \r before it.
func trimLine(line []byte) []byte {
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line
}

func appendArgs(b []byte, args [][]byte) []byte {
	b = redcon.AppendArray(b, len(args))
	for _, a := range args {
		b = redcon.AppendBulk(b, a)
	}
	return b
}

// Replies that are known at once.

// out sends a finished reply, in its place behind the answers still to come.
func (s *session) replyRaw(b []byte) {
	switch {
	case s.captured != nil:
		*s.captured = append(*s.captured, b...)
	case s.muted():
	case s.async:
		s.local(b)
	default:
		s.wbuf = append(s.wbuf, b...)
		if len(s.wbuf) > outChunk {
			s.flushReplies()
		}
	}
}

// replyShared is replyRaw for bytes that nobody will ever change. Large ones are
// not copied, so that many slow clients of one hot value hold it once.
func (s *session) replyShared(b []byte) {
	switch {
	case len(b) <= origin.TakeSize || s.captured != nil || s.muted():
		s.replyRaw(b)
	case s.async:
		s.localShared(b)
	case s.flushReplies():
		_ = s.writeHeld(b) // with an error the session is shut
	}
}

// writeHeld writes for the reader; what the client does not take at once is
// counted while it waits.
func (s *session) writeHeld(b []byte) error {
	n, ok := s.tryWrite(b)
	if ok {
		return nil
	}
	s.blocking()
	s.charge(int64(len(b)))
	out := s.p.clock()
	err := s.write(b[n:])
	s.charge(-int64(len(b)))
	s.tookLong(out)
	return err
}

func (s *session) replyError(text string) {
	s.scratch = appendError(s.scratch[:0], text)
	s.p.m.localErrors.Inc()
	s.replyRaw(s.scratch)
}

func (s *session) replyString(text string) { s.replyRaw([]byte(text)) }

// flushReplies sends the reader's own output or whatever the queue can send.
func (s *session) flushReplies() bool {
	if s.async {
		s.sendOut()
		return true
	}
	s.times.settle(s)
	if len(s.wbuf) == 0 {
		return true
	}
	err := s.writeHeld(s.wbuf)
	if len(s.late) > 0 {
		s.letGo(s.p.clock())
	}
	if cap(s.wbuf) > keepOut {
		s.wbuf = nil
	} else {
		s.wbuf = s.wbuf[:0]
	}
	return err == nil
}

// drainOut lets the last replies out before the connection closes: what the
// origin still owes, then what the client has not taken.
func (s *session) drainOut() {
	if !s.quit && !s.async {
		s.flushReplies()
		return
	}
	if s.gone { // nothing is owed to it
		return
	}
	s.awaitAnswers()
	s.flushReplies()
	q := &s.q
	q.mu.Lock()
	for s.async && !q.closed && (q.sending || len(q.out)+len(q.full) > 0) {
		if q.sending {
			q.wait()
			continue
		}
		q.mu.Unlock()
		s.sendOut()
		q.mu.Lock()
	}
	q.mu.Unlock()
}

// flushBatch is flushOrigin at the end of a batch: a loop writes once for all
// sessions of a round. Locks do not wait for that.
func (s *session) flushBatch() {
	if !s.polled() {
		s.flushOrigin()
		return
	}
	locks := false
	for i, c := range s.touched {
		if c.Group().Lock {
			locks = true
			c.FlushNow()
		} else {
			s.src.Loop().Defer(c)
		}
		s.touched[i] = nil
	}
	s.touched = s.touched[:0]
	s.hurry(locks)
}

// flushOrigin writes what the session has given to origin connections.
func (s *session) flushOrigin() {
	for i, c := range s.touched {
		c.Flush()
		s.touched[i] = nil
	}
	s.touched = s.touched[:0]
}

// shut closes the session from outside its reader.
func (s *session) shut() {
	if s.shutOnce.Swap(true) {
		return
	}
	q := &s.q
	q.mu.Lock()
	q.closed = true
	s.charge(-q.size)
	q.full, q.out = nil, nil
	s.p.budget.gone(q.size)
	q.size = 0
	q.times.settle(s.p)
	q.untaken(s)
	q.cond.Broadcast()
	q.mu.Unlock()
	_ = s.conn.Close() // nothing is left to be said to this client
	s.wake()
}

// close ends the session; the reader calls it last.
func (s *session) close() {
	s.flushOrigin()
	s.shut()
	s.abandon()
	s.counts.flush(s)
	s.passed.flush(s)
	s.times.settle(s)
	s.letGo(s.p.clock())
	s.charge(-s.inHeld() - s.kept - s.argsHeld)
	s.kept, s.argsHeld = 0, 0
	s.p.users.leave(s.acl)
	s.p.forget(s)
	close(s.ended)
	if s.counted {
		s.p.clients.Add(-1)
		s.p.wg.Done()
	}
}

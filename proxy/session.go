package proxy

import (
	"net"
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
	inLane  bool           // the session holds a lane, or has held one lately
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

	unwatch    chan struct{} // closed when the loss of the pinned connection no longer matters
	redirected *session      // the one that redirect names

	monitors atomic.Bool          // monitor, for the pinned connection's reader
	redirect atomic.Uint64        // the session that CLIENT TRACKING redirects to; 0: none
	targeted atomic.Int32         // how many sessions redirect, or are about to redirect, to this one
	solo     atomic.Uint64        // odd while a slot is begun that is not in the queue
	blocked  blockedOn            // for CLIENT UNBLOCK of other sessions
	pausing  atomic.Bool          // CLIENT PAUSE holds it back
	queuedN  atomic.Int32         // commands queued since MULTI, plus 1; 0: no MULTI
	unread   atomic.Int64         // bytes of unfinished requests when it last waited for more
	errands  errands              // what other sessions ask the reader to do
	public   atomic.Pointer[seen] // for CLIENT LIST of other sessions
	gone     bool                 // the client left while it was blocked
	stopping atomic.Bool          // nearside ends
	owed     atomic.Bool          // and then the client waited for something
	shutOnce atomic.Bool
	ended    chan struct{} // closed when the reader has ended

	src        *loop.Source // nil: the session always has a goroutine
	turn       *loop.Turn   // the reader runs on the loop's goroutine, or did when its turn began
	parks      bool         // the request at hand is to be begun again when a fence has passed
	afterFence fenced       // … which it has, or not
	fence      uint64       // … with this number, and it has waited since; both are parking's
	parkedAt   int64

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

func (p *Proxy) newSession(conn net.Conn) *session {
	s := &session{
		p: p, id: p.nextID.Add(1), conn: conn, begun: time.Now(), proto: 2, ended: make(chan struct{}),
		authed: p.cfg.DefaultUser != "none", acl: &p.users.own,
	}
	s.adopt()
	s.frames.limits = &p.limits
	s.q.cond.L = &s.q.mu
	s.join()
	if s.src == nil {
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
	for !s.quit && (s.unparked() || s.read()) {
		if s.unparked() {
			s.tick() // it has been waiting since it was read
		} else {
			s.restart()
		}
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
		s.afterFence = fenceUnknown // it may not have been asked for
		if count%32 == 0 {          // a long batch must not answer by an old clock
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
	if s.inLane {
		s.leaveLane()
	}
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
	s.leaveLane()
	s.redirectsTo(nil)
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

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
	"nearside/proxy/origin"
)

// A session is one client connection and its state. Its reader goroutine reads
// requests, decides them and sends them on; answers come back on the goroutines
// of the origin's connections (see queue). What is not marked otherwise belongs
// to the reader.
type session struct {
	p     *Proxy
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
	authed  bool
	reply   replyMode
	quit    bool
	health  bool // nearside's own health check: not counted

	// Reading.
	in      []byte // bytes read; in[off:] is not understood yet
	off     int
	frames  framer
	args    [][]byte
	d       policy.Decision
	now     int64 // the proxy's clock, read once per batch
	scratch []byte
	id1     []byte // near cache key under construction
	last    atomic.Pointer[policy.Command]
	active  atomic.Int64 // proxy clock of the last request

	// Writing. While async is false nothing is outstanding and the reader
	// writes by itself from wbuf; otherwise everything goes through q.
	q     queue
	async bool
	wbuf  []byte
	held  atomic.Int64 // bytes of the budget

	// Origin connections in use.
	wires   [4]wire
	touched []*origin.Conn // written to since the last flush
	pin     *pinned        // owned connection, or nil
	tx      transaction
	watch   bool // WATCH is in force
	subs    subscriptions
	track   bool // CLIENT TRACKING is on
	monitor bool

	// ownsPushes is the connection whose loss closes the session; watched is
	// the one that a goroutine was started for.
	ownsPushes atomic.Pointer[origin.Conn]
	watched    *pinned

	public   atomic.Pointer[seen] // for CLIENT LIST of other sessions
	gone     bool                 // the client left while it was blocked
	stopping atomic.Bool          // nearside ends
	shutOnce atomic.Bool
	ended    chan struct{} // closed when the reader has ended
	counts   ruleCounts
}

// wire remembers the shared connection of one kind.
type wire struct {
	db   int
	lock bool
	conn *origin.Conn
}

// Sizes of the read buffer: what an idle client keeps, and beyond what a
// larger one is given back.
const (
	inIdle  = 4 << 10
	inLarge = 64 << 10
)

func (p *Proxy) newSession(conn net.Conn) *session {
	s := &session{
		p: p, id: p.nextID.Add(1), conn: conn, begun: time.Now(), proto: 2, ended: make(chan struct{}),
		authed: p.cfg.DefaultUser != "none",
		frames: framer{maxRequest: p.cfg.MaxRequest, maxBulk: min(p.cfg.MaxRequest, 512<<20), maxArgs: max(1024, min(p.cfg.MaxRequest/64, 1<<20))},
	}
	s.q.cond.L = &s.q.mu
	s.nb.init(conn)
	s.active.Store(clockNow())
	return s
}

// serve runs the session until the client is gone or nearside closes it.
func (s *session) serve() {
	defer s.close()
	s.in = make([]byte, 0, inIdle)
	for s.read() {
		s.now = clockNow()
		s.active.Store(s.now)
		if !s.batch() {
			break
		}
	}
	s.drainOut()
}

// read waits for more bytes.
func (s *session) read() bool {
	if s.off > 0 {
		s.in = s.in[:copy(s.in[:cap(s.in)], s.in[s.off:])]
		s.off = 0
	}
	if !s.room() {
		return false
	}
	unfinished := len(s.in) > 0
	switch {
	case unfinished:
		s.deadline(s.p.cfg.RequestTimeout)
	case s.p.cfg.IdleTimeout > 0 && !s.subscribed():
		s.deadline(s.p.cfg.IdleTimeout)
	}
	if s.stopping.Load() {
		return false
	}
	n, err := s.conn.Read(s.in[len(s.in):cap(s.in)])
	s.in = s.in[:len(s.in)+n]
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
	if d > 0 {
		t = time.Now().Add(d)
	}
	// An error means that the connection is gone, which the next Read says.
	_ = s.conn.SetReadDeadline(t)
}

// room makes room in the read buffer. It doubles at most, whatever length the
// client has announced, so that memory follows bytes that really came.
func (s *session) room() bool {
	size := cap(s.in)
	switch {
	case len(s.in) == 0 && size > inLarge:
		s.charge(-int64(size))
		s.in = make([]byte, 0, inIdle)
	case len(s.in) == size:
		grown := 2 * size
		if want := s.frames.want(); want > size && want < grown {
			grown = want
		}
		if grown > inLarge && !s.p.budget.fits(int64(grown)) {
			s.replyError(errBusyBuffers)
			return false
		}
		in := make([]byte, len(s.in), grown)
		copy(in, s.in)
		if size > inLarge {
			s.charge(-int64(size))
		}
		if grown > inLarge {
			s.charge(int64(grown))
		}
		s.in = in
	}
	return true
}

func (s *session) charge(n int64) { s.p.budget.add(s, n) }

// batch runs every request that has arrived whole, and lets its effects out.
func (s *session) batch() bool {
	if s.async && !s.pushes() && s.quiet() {
		s.async = false
	}
	for count := 1; ; count++ {
		kind, n, problem := s.frames.next(s.in[s.off:], s.authed)
		if kind == frameMore {
			break
		}
		if kind == frameBad {
			s.replyError("ERR Protocol error: " + problem)
			s.p.m.protocolErrors.Inc()
			return false
		}
		raw := s.in[s.off : s.off+n]
		s.off += n
		if !s.request(kind, raw) {
			return false
		}
		if count%32 == 0 { // a long batch must not answer by an old clock
			s.now = clockNow()
		}
	}
	if s.pin != nil && !s.needsPin() {
		if !s.awaitAnswers() {
			return false
		}
		s.unpin()
	}
	s.flushOrigin()
	s.counts.flush(s)
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
	return !s.quit
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
	if len(s.wbuf) == 0 {
		return true
	}
	err := s.write(s.wbuf)
	if cap(s.wbuf) > inLarge {
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
	if s.blockedAway() {
		return
	}
	s.awaitAnswers()
	s.flushReplies()
	q := &s.q
	q.mu.Lock()
	for s.async && q.sending && !q.closed {
		q.wait()
	}
	q.mu.Unlock()
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
	q.size = 0
	q.full, q.out = nil, nil
	q.cond.Broadcast()
	q.mu.Unlock()
	_ = s.conn.Close() // nothing is left to be said to this client
}

// close ends the session; the reader calls it last.
func (s *session) close() {
	s.flushOrigin()
	s.shut()
	s.abandon()
	s.counts.flush(s)
	if c := cap(s.in); c > inLarge {
		s.charge(-int64(c))
	}
	s.p.forget(s)
	close(s.ended)
}

// stop makes the reader end after what it has read so far.
func (s *session) stop() {
	s.stopping.Store(true)
	// An error means that the connection is gone already.
	_ = s.conn.SetReadDeadline(longAgo)
}

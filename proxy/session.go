package proxy

import (
	"net"
	"sync/atomic"

	"github.com/tidwall/redcon"

	"nearside/policy"
	"nearside/proxy/origin"
)

// A session is one client: what it has said about itself, and what is under way for
// it. What is not marked otherwise belongs to the conn's reader.
type session struct {
	conn
	p   *Proxy
	set *ruleset // that the request at hand is decided by

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
	replies replyMode
	health  bool // nearside's own health check: not counted

	// The request at hand.
	args     [][]byte
	d        policy.Decision
	cmd      *policy.Command
	path     path
	waits    bool // it may wait by design
	waited   bool // now is of before something that took its time
	synced   bool // a PING that was sent after the batch had been read has been answered
	scratch  []byte
	id1      []byte  // near cache key under construction
	kept     int64   // bytes counted for what the client wants remembered
	argsHeld int64   // bytes counted for very many arguments
	gave     bool    // the request at hand went to the origin with its buffer
	captured *[]byte // a local reply that EXEC will send
	last     atomic.Pointer[policy.Command]

	// Origin connections in use.
	wires    [4]wire
	lane     laneHold
	inLane   bool           // the session holds a lane, or has held one lately
	touched  []*origin.Conn // written to since the last flush
	pin      *pinned        // owned connection, or nil
	tx       transaction
	watching bool // WATCH is in force
	wrote    bool // it has sent what Redis may replicate: WAIT has something to wait for
	subs     subscriptions
	view     keyView // of keyspace notifications
	track    bool    // CLIENT TRACKING is on
	target   bool    // another session's invalidations are redirected to this one's pinned connection
	bcast    bool
	caching  caching
	monitor  bool

	privacy // of the owned connection: private.go

	unwatch    chan struct{} // closed when the loss of the pinned connection no longer matters
	redirected *session      // the one that redirect names

	monitors atomic.Bool          // monitor, for the pinned connection's reader
	redirect atomic.Uint64        // the session that CLIENT TRACKING redirects to; 0: none
	targeted atomic.Int32         // how many sessions redirect, or are about to redirect, to this one
	solo     atomic.Uint64        // odd while a slot is begun that is not in the queue
	blocked  blockedOn            // for CLIENT UNBLOCK of other sessions
	pausing  atomic.Bool          // CLIENT PAUSE holds it back
	queuedN  atomic.Int32         // commands queued since MULTI, plus 1; 0: no MULTI
	public   atomic.Pointer[seen] // for CLIENT LIST of other sessions

	counted bool // among Proxy.clients
	counts  ruleCounts
	sampler sampler // picks hits for the auditor
	passed  passed
}

// wire remembers the shared connection of one kind.
type wire struct {
	db   int
	lock bool
	conn *origin.Conn
}

func (p *Proxy) newSession(sock net.Conn) *session {
	s := &session{p: p, proto: 2, authed: p.cfg.DefaultUser != "none", acl: &p.users.own}
	s.counts.m = p.m
	s.frames.more = p.manyArgs
	s.init(p.nextID.Add(1), sock, &p.env, s)
	s.adopt()
	s.frames.limits = &p.limits
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

// BatchBegin, Serve and what follows are for the session's conn (handler).
func (s *session) BatchBegin() { s.synced = false }

// ProtocolError answers what is no request.
func (s *session) ProtocolError(problem string) {
	s.p.m.protocolErrors.Inc()
	s.replyError("ERR Protocol error: " + problem)
}

// TooBusy answers a request for which there is no room.
func (s *session) TooBusy() { s.replyError(errBusyBuffers) }

// BatchEnd lets the effects of a batch out, and gives back what it leaves.
func (s *session) BatchEnd() bool {
	if s.pin != nil && !s.needsPin() && !s.keepsPrivate() {
		if !s.awaitAnswers() {
			return false
		}
		s.unpin()
	}
	s.flushBatch()
	if s.inLane {
		s.leaveLane()
	}
	s.counts.flush()
	s.passed.flush(s)
	if cap(s.scratch) > keepOut {
		s.scratch = nil
	}
	if cap(s.id1) > keepOut {
		s.id1 = nil
	}
	return true
}

// Ahead lets out what was asked of the origin.
func (s *session) Ahead() { s.flushOrigin() }

// Authenticated tells whether the client has shown who it is, or need not.
func (s *session) Authenticated() bool { return s.authed }

// Stays tells whether something of the session may have to be noticed at any time.
func (s *session) Stays() bool { return s.pin != nil || s.tx.open || s.watching || s.pushes() }

// Unsolicited tells whether the origin may send what answers no request.
func (s *session) Unsolicited() bool { return s.pushes() }

// Patient tells whether the client waits for messages.
func (s *session) Patient() bool { return s.subscribed() || s.monitor }

// NewPending makes a slot.
func (s *session) NewPending() *pending {
	sl := &slot{s: s}
	sl.owner = sl
	return &sl.pending
}

// Answered gives the lane back.
func (s *session) Answered() {
	if s.lane.conn.Load() != nil {
		s.freeLane()
	}
}

// Closed gives back what the session has.
func (s *session) Closed() {
	s.abandon()
	s.leaveLane()
	s.redirectsTo(nil)
	s.counts.flush()
	s.passed.flush(s)
	s.charge(-s.kept - s.argsHeld)
	s.kept, s.argsHeld = 0, 0
	s.p.users.leave(s.acl)
	s.p.forget(s)
	if s.counted {
		s.p.clients.Add(-1)
		s.p.wg.Done()
	}
}

// Serve runs one request.
func (s *session) Serve(kind frameKind, raw []byte) bool {
	switch kind {
	case frameSkip:
		s.nextReply()
		return true
	case frameInline:
		args, ok := splitInline(trimLine(raw))
		if !ok {
			s.replyError("ERR Protocol error: unbalanced quotes in request")
			return false
		}
		if len(args) == 0 {
			s.nextReply()
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
	if !s.pushed && !s.parks() {
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
	if !s.reserve(n) {
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

// keep counts what the session remembers at its client's wish.
func (s *session) keep(n int) {
	s.kept += int64(n)
	s.charge(int64(n))
}

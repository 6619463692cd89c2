package proxy

import (
	"slices"
	"sync/atomic"

	"nearside/policy"
	"nearside/proxy/origin"
)

// Redis may hold one client back and answer all others: CLIENT PAUSE WRITE, given
// before each planned failover, does so with whoever has sent a write. On a connection
// that many sessions share such a write holds up everything behind it. So when a
// connection has stalled (origin.Conn.Stalled) and as long as it is,
//
//   - what is not held back goes elsewhere, on a connection that no write is sent on,
//     unless something of its own session is unanswered on the stalled one: that it
//     must follow;
//   - the reads that were sent behind what is held back, and in front of which nothing
//     else of their sessions waits, are sent once more there; of two answers the first
//     one counts, and nothing but reads is ever sent twice;
//   - writes go where they went, and wait. Redis knows when they may go on.

// mostMovable is the size of a request that a slot remembers. A longer one waits for as
// long as what is in front of it is held back.
const mostMovable = 160

// moving is a read's request, for the case that it must be sent once more.
type moving struct {
	fate  uint32 // of a fetch, atomic: who takes the answer
	ready bool   // it may be moved; set before the slot is in the queue, or with its lock
	plain bool   // it has been moved here, and is a plain read now
	n     uint8
	req   *[mostMovable]byte // kept when the slot is used again
}

const (
	fateOpen      = 0
	fateTaken     = 1 // an answer has come
	fateElsewhere = 2 // it was sent once more
)

// take reports whether an answer is for this slot. That of a plain read may be taken
// twice: conn.answer, which has the queue's lock anyway, drops it if the slot was replaced.
func (sl *slot) take() bool {
	return sl.fetch == nil || !sl.moving.ready || atomic.CompareAndSwapUint32(&sl.moving.fate, fateOpen, fateTaken)
}

// harmless are commands without keys that may be run twice as reads may.
var harmless = map[string]bool{"ping": true, "echo": true, "time": true, "lastsave": true}

// movable remembers the request of a slot that is to be sent, if it is a read and
// nothing else.
func (sl *slot) movable(d *policy.Decision, raw []byte) {
	if sl.all != writeNamed || !sl.seen && len(sl.writes) > 0 || d.Effect != 0 || d.Fence != 0 || d.Alone || d.Cmd == nil || len(raw) > mostMovable || !d.Cmd.Flags.Has(policy.FlagReadonly) && !harmless[d.Cmd.Name] {
		return
	}
	if sl.moving.req == nil {
		sl.moving.req = new([mostMovable]byte)
	}
	sl.moving.n = uint8(copy(sl.moving.req[:], raw))
	sl.moving.ready = true
	sl.seen = true // nothing changes it once it is in the queue: see widen
}

// fetchMovable is movable for a fetch, which remembers its request anyway.
func (s *session) fetchMovable(sl *slot) {
	s.q.mu.Lock()
	sl.moving.ready = true
	s.q.mu.Unlock()
}

// request is what is sent once more.
func (sl *slot) request() []byte {
	if sl.fetch != nil {
		return sl.fetch.plain
	}
	return sl.moving.req[:sl.moving.n]
}

// heldBack tells whether Redis may hold the command at hand back, or nearside must not
// say that it does not.
func (s *session) heldBack() bool {
	return s.d.Effect != 0 || s.d.Alone || mayWrite(s.d.Cmd)
}

// pastStalled returns the connection for a command that is not held back while the
// session's own is stalled.
func (s *session) pastStalled(c *origin.Conn) (*origin.Conn, error) {
	g := c.Group()
	g.Reads = true
	s.waited = true // for a dial, perhaps
	s.blocking()
	r, err := s.p.origin.Shared(s.p.ctx, g, s.id)
	if err != nil {
		return nil, err
	}
	if !s.inOrder(r) {
		err = c.Err()
		return c, err // it follows what is there
	}
	return r, nil
}

// passStalled sends what waits on a stalled connection, and may, elsewhere.
func (p *Proxy) passStalled(c *origin.Conn) {
	g := c.Group()
	if g.Reads || g.Alone {
		return
	}
	g.Reads = true
	for _, s := range p.sessionList() {
		if !s.uses(c) {
			continue
		}
		r, err := p.origin.Shared(p.ctx, g, s.id)
		if err != nil {
			p.log.Warn("a connection to Redis is stalled, and none can be made for what is not held back", "err", err)
			return
		}
		s.moveReads(c, r)
	}
}

// moveReads sends the session's unanswered reads on c once more, on r, up to the first
// request that cannot be.
func (s *session) moveReads(c, r *origin.Conn) {
	var moved []*slot
	waits := s.replace(r, func(p *pending) (*pending, bool) {
		sl := p.owner.(*slot)
		if sl.via != c || sl.overtaken && !sl.moving.ready {
			// Elsewhere; or it waits for another session's fetch, or its own is not sent yet: then it
			// is the last one here.
			return p, true
		}
		if !sl.moving.ready || sl.fetch != nil && !atomic.CompareAndSwapUint32(&sl.moving.fate, fateOpen, fateElsewhere) {
			return p, false
		}
		next := sl.again(r)
		moved = append(moved, next)
		return &next.pending, true
	})
	if !waits {
		return
	}
	for _, sl := range moved {
		if err := r.Send(sl.request(), 1, sl); err != nil {
			sl.Reply(nil, err, nil)
		}
	}
	r.Flush()
}

// again is the slot that takes sl's place; sl itself is left to the answer that still
// comes. The caller holds q.mu.
func (sl *slot) again(via *origin.Conn) *slot {
	t := sl.s.NewPending().owner.(*slot)
	t.overtaken, t.mute = sl.overtaken, sl.mute
	t.finish, t.gen, t.fence, t.writes = sl.finish, sl.gen, sl.fence, slices.Clone(sl.writes)
	t.seen, t.nilIsNo, t.all, t.fetch, t.stale, t.via = sl.seen, sl.nilIsNo, sl.all, sl.fetch, sl.stale, via
	t.op = op{cmd: sl.op.cmd, rule: sl.op.rule, path: sl.op.path, timed: sl.op.timed, waits: sl.op.waits, shape: sl.op.shape, read: sl.op.read, sent: sl.s.p.clock()}
	t.moving.n, t.moving.req = sl.moving.n, sl.moving.req
	t.moving.plain = true
	return t
}

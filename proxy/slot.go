package proxy

import (
	"bytes"

	"nearside/policy"
	"nearside/proxy/l1"
	"nearside/proxy/link"
	"nearside/proxy/origin"
)

// A slot is a pending reply with what its command does to the near cache. It is
// what the origin's connection answers to (origin.Sink) and what a fetch of
// another session fills (l1.Waiter).
type slot struct {
	pending
	s *session

	// What is to happen when the answer comes.
	finish  finisher
	strip   int          // replies of inserted commands in front of the answer
	selects bool         // the first of these is a SELECT's
	joined  bool         // they are, in turn, of SELECTs and of the command's other parts
	gen     uint64       // of the rules that the request was decided by
	fence   policy.Fence // raise a fence before the client learns the answer
	writes  []uint32     // L1 counters of the keys it writes
	seen    bool         // it only read the keys in writes, past the near cache
	nilIsNo bool         // a null or 0 says that the lock is another's
	all     writeAll     // what it does to everything
	untold  bool         // and Redis tells nobody
	fetch   *fetch       // of a cached read
	via     *origin.Conn // where it was sent
	moving  moving       // for a read that a stalled connection must not hold up
	stale   *staleRead   // what it may be answered with if the origin fails
	inline  [2]uint32    // backs writes: most commands write one or two keys
}

// Recycle forgets everything but whose slot it is.
func (sl *slot) Recycle() {
	*sl = slot{s: sl.s, pending: pending{owner: sl}, moving: moving{req: sl.moving.req}}
}

// slot returns a fresh slot that is not in the queue yet.
func (s *session) slot() *slot {
	sl := s.pend().owner.(*slot)
	sl.writes = sl.inline[:0]
	sl.gen = s.set.gen
	sl.mute = s.muted()
	return sl
}

// A finisher turns what the origin answered into what the client gets. It runs
// on the reading goroutine of the origin's connection and must not block.
type finisher func(sl *slot, b []byte, err error) []byte

// writeAll says what a write of more than its named keys does to the L1.
type writeAll uint8

const (
	writeNamed  writeAll = iota // nothing
	writeHidden                 // it may write keys it does not name, and Redis will report them: suspend hits
	writeEvery                  // it may change everything: flush
)

// ReplyOwned takes a large answer and what the budget counts for it (origin.Owner).
func (sl *slot) ReplyOwned(b []byte, reserved int64, batch *origin.Batch) {
	if !sl.take() {
		sl.s.p.budget.Release(reserved)
		return
	}
	sl.reserved = reserved
	sl.replied(b, nil, batch)
}

// TakesParts tells whether the answer is passed on as it comes (origin.PartsOwner).
func (sl *slot) TakesParts() bool { return sl.finish == nil && sl.fetch == nil }

// ReplyParts takes a very long answer in pieces (origin.PartsOwner).
func (sl *slot) ReplyParts(parts [][]byte, reserved int64, batch *origin.Batch) {
	if !sl.take() {
		sl.s.p.budget.Release(reserved)
		return
	}
	parts[0] = sl.stripped(parts[0])
	fenced := sl.settle(parts[0], nil)
	sl.reserved, sl.parts = reserved, parts[1:]
	s := sl.s // answered, the slot may be another request's
	s.answer(&sl.pending, parts[0], true, s.p.answeredAt(batch))
	s.p.budget.gone(reserved) // the pieces are too small to be noticed when they are
	s.letOut(batch, fenced)
}

// Reply takes the origin's answer (origin.Sink).
func (sl *slot) Reply(b []byte, err error, batch *origin.Batch) {
	if sl.take() {
		sl.replied(b, err, batch)
	}
}

func (sl *slot) replied(b []byte, err error, batch *origin.Batch) {
	s := sl.s
	owned := len(b) > origin.TakeSize
	if err == nil {
		b = sl.stripped(b)
	}
	if sl.fetch != nil && err == nil && !sl.moving.plain {
		var again bool
		if b, again = sl.fetch.refused(s.p, b); again && s.hold() {
			s.p.budget.Release(sl.reserved)
			sl.reserved = 0
			go s.refetch(sl)
			return
		}
	}
	switch {
	case sl.finish != nil:
		b = sl.finish(sl, b, err)
	case err != nil:
		b = appendError(nil, s.p.originError(err))
	}
	ends := err == nil && len(b) > 0 && b[0] == '-' && bytes.HasPrefix(b, []byte(protocolError))
	fenced := sl.settle(b, err)
	s.answer(&sl.pending, b, owned, s.p.answeredAt(batch))
	s.letOut(batch, fenced)
	if ends {
		s.stop()
	}
}

// stripped takes the replies of inserted commands away, whose errors are not the
// client's, but for one: behind a SELECT that is refused nothing can be right.
func (sl *slot) stripped(b []byte) []byte {
	var failed, one []byte
	for i := range sl.strip {
		if one, b = origin.Split(b); one[0] != '-' || failed != nil {
			continue
		}
		switch {
		case sl.joined && i%2 == 1:
			failed = one
		case (sl.joined || sl.selects && i == 0) && refusalOf(one) != refusedNow && refusalOf(one) != refusedFull:
			failed = appendError(nil, errSelectRefused(one))
		}
	}
	if failed != nil && len(b) > 0 {
		return failed
	}
	return b
}

// protocolError begins the error with which Redis closes a connection: the
// request was larger than proto-max-bulk-len. The client must see the same.
const protocolError = "-ERR Protocol error: "

// letOut has an answer sent, and then the PING for the fence that it has raised, if
// it has: the client does not wait for that.
func (s *session) letOut(batch *origin.Batch, fenced bool) {
	if batch == nil {
		s.Flush()
		if fenced {
			s.p.link.Ping()
		}
		return
	}
	batch.Add(s)
	if fenced {
		batch.Add(&s.p.fencePing)
	}
}

// fencePing is the PING for the fences that a batch of answers has raised (origin.Flusher).
type fencePing struct{ link *link.Link }

// Flush sends it.
func (f *fencePing) Flush() { f.link.Ping() }

// Filled takes the answer of a fetch that another session led (l1.Waiter).
func (sl *slot) Filled(reply []byte, err error) {
	s := sl.s // answered, the slot may be another request's
	sl.overtake()
	if err != nil {
		reply = appendError(nil, s.p.originError(err))
	}
	// A reply of this size is the callee's for good (origin.Sink), so nobody changes it.
	s.answer(&sl.pending, reply, len(reply) > origin.TakeSize, s.p.clock())
	s.Flush()
}

// begin counts the keys as being written, before the command is sent.
func (sl *slot) begin() {
	c := sl.s.p.l1
	if !sl.seen {
		for _, w := range sl.writes {
			c.BeginWrite(w)
		}
	}
	switch sl.all {
	case writeHidden:
		if sl.s.p.linked {
			c.Suspend()
		} else { // nobody will report what it writes
			sl.all = writeEvery
			sl.beginAll()
		}
	case writeEvery:
		sl.beginAll()
	}
}

// beginAll begins what may change everything, rights among it.
func (sl *slot) beginAll() {
	p := sl.s.p
	p.l1.BeginAll()
	p.users.changing.Add(1)
	p.users.epoch.Add(1)
}

// widen makes a slot that was decided by rules of before a reload count as writing
// everything: what it names may be cached by now, which begin could not know.
func (sl *slot) widen() {
	if !sl.overtaken && !sl.seen && sl.all == writeNamed && sl.outdated() {
		sl.all = writeEvery
		sl.beginAll()
	}
}

// overtake outdates everything if the slot was decided by rules of before a
// reload: what its client learns now may be newer than what is cached by other rules.
func (sl *slot) overtake() {
	if sl.outdated() {
		sl.s.p.l1.InvalidateAll(fromReload)
	}
}

// beginAlone and settleAlone are begin and settle for a slot that is not in the queue.
func (sl *slot) beginAlone() {
	sl.s.solo.Add(1)
	sl.begin()
	sl.widen()
}

func (sl *slot) settleAlone(b []byte, err error) {
	if sl.settle(b, err) {
		sl.s.p.link.Ping()
	}
	sl.s.solo.Add(1)
}

// settle ends what begin began, when the outcome is known or known to be
// unknown, and raises the fences, all of it before the client is answered. It tells
// whether it has raised one, whose PING is the caller's to send.
func (sl *slot) settle(b []byte, err error) (fenced bool) {
	p := sl.s.p
	sl.overtake()
	for _, w := range sl.writes {
		switch {
		case !sl.seen:
			p.l1.EndWrite(w)
		case err == nil:
			// The client has seen Redis's own state; an older entry, whose
			// invalidation is still on its way, must not follow it.
			p.l1.InvalidateSlot(w, fromRead)
		}
	}
	if sl.fence&p.current().fences != 0 && (sl.fence != policy.FenceLock || err != nil || !sl.nilIsNo || !refusedLock(b)) {
		p.link.Raise()
		fenced = true
	}
	// Hits come back only now, when the fence already holds them.
	switch sl.all {
	case writeHidden:
		p.l1.Resume()
	case writeEvery:
		p.users.epoch.Add(1)
		p.users.changing.Add(-1)
		p.l1.EndAll()
	}
	if sl.untold && err == nil && !isError(b) {
		p.announce()
	}
	return fenced
}

// refusedLock tells whether SET NX or SETNX was answered "no": then the client
// has learned nothing about what the holder wrote. What a script means by null is
// its own matter: Redisson's answers null for a lock that was acquired.
func refusedLock(b []byte) bool {
	switch string(bytes.TrimSuffix(b, []byte("\r\n"))) {
	case "$-1", "*-1", "_", ":0":
		return true
	}
	return false
}

// fetch is what a cached read remembers until its reply comes.
type fetch struct {
	flight *l1.Flight // of a single key; nil for MGET
	sent   int64      // when the request was sent, on the proxy's clock
	id     []byte     // the near cache's key
	key    []byte
	rule   *policy.Rule
	many   []manyKey    // the keys of an MGET
	user   *aclUser     // who asked
	via    *origin.Conn // where it was sent
	permit refills      // where it is counted; nil: nowhere
	keeps  bool         // an MGET whose values may be kept for GET
	plain  []byte       // the request as the client sent it, should the two-step form be refused
}

// manyKey is one key of an MGET.
type manyKey struct {
	id, key []byte
	rule    *policy.Rule
	stamp   l1.Stamp
}

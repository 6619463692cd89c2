package proxy

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/tidwall/redcon"

	"nearside/policy"
)

// op is what is remembered of a command until its reply has been sent, to tell how
// long it took. Times are those of Proxy.clock.
type op struct {
	cmd   *policy.Command // nil: unknown
	rule  *policy.Rule    // of its first key, or nil
	path  path
	timed bool // not nearside's own
	waits bool // by design: never slow
	shape argShape

	read     int64 // the batch of requests that it came with was read
	sent     int64 // it was given to a connection of the origin
	answered int64 // the reply was read
}

// timing is a session's part in this: the command at hand, and how long it takes.
type timing struct {
	cmd    *policy.Command
	path   path
	waits  bool       // it may wait by design
	pushed bool       // it has a slot, whose answer counts it
	readAt int64      // when the batch was read
	at     int64      // the clock after the last thing that took its time
	first  int        // where the first request stands whose reply is in wbuf
	times  batchTimes // of what the reader has answered itself
	late   []*slowOp  // of wbuf
}

// slowOp is an op that was slow when its reply was put into the output. It waits
// until the client has taken the reply.
type slowOp struct {
	op
	out int64 // when the reply was put into the output: behind earlier ones perhaps
	end int64 // where the reply ends in the stream of the queue's output
}

// argShape is what is kept of a command's arguments: keys, or their beginnings, and
// the sizes of all others, whose bytes nobody may see in a log.
type argShape struct {
	argc  uint32 // all of them, the name included
	kept  uint8
	bytes [62]byte
}

const (
	keptKey   = 40 // bytes of a key that are kept
	shapeHead = 5  // most bytes of a size: arguments are below 512 MiB
)

// note keeps the arguments of a command.
func (h *argShape) note(cmd *policy.Command, args [][]byte, keys []policy.Key) {
	*h = argShape{argc: uint32(len(args))}
	if !namesKeys(cmd) {
		keys = nil // they are guessed
	}
	at, key := 0, 0
	for i := words(cmd); i < len(args) && at+shapeHead <= len(h.bytes); i++ {
		for key < len(keys) && keys[key].Pos < i {
			key++
		}
		size := uint64(len(args[i])) << 1
		if key == len(keys) || keys[key].Pos != i {
			at += binary.PutUvarint(h.bytes[at:], size)
		} else {
			at += binary.PutUvarint(h.bytes[at:], size|1)
			at += copy(h.bytes[at:], args[i][:min(len(args[i]), keptKey)])
		}
		h.kept++
	}
}

// namesKeys tells whether it is known which arguments of a command are keys. Of
// what policy does not know it takes every argument for one.
func namesKeys(cmd *policy.Command) bool {
	return policy.FamilyOf(cmd) != policy.Other && (cmd.First > 0 || cmd.Flags.Has(policy.FlagMovableKeys))
}

// words is how many arguments the command's name takes.
func words(cmd *policy.Command) int {
	if cmd != nil && strings.IndexByte(cmd.Name, '|') >= 0 {
		return 2
	}
	return 1
}

// list are the arguments as a slow log shows them.
func (h *argShape) list(cmd *policy.Command) []string {
	list := strings.Split(commandName(cmd), "|")
	b := h.bytes[:]
	for range h.kept {
		size, n := binary.Uvarint(b)
		b = b[n:]
		if size&1 == 0 {
			list = append(list, fmt.Sprintf("(%d bytes)", size>>1))
			continue
		}
		have := min(int(size>>1), keptKey, len(b))
		key := string(b[:have])
		if more := int(size>>1) - have; more > 0 {
			key += fmt.Sprintf("... (%d more bytes)", more)
		}
		list = append(list, key)
		b = b[have:]
	}
	if more := int(h.argc) - words(cmd) - int(h.kept); more > 0 {
		list = append(list, fmt.Sprintf("... (%d more arguments)", more))
	}
	return list
}

// commandName is what a command is called in a log: never by the client's own
// words, which may be anything.
func commandName(cmd *policy.Command) string {
	if cmd == nil {
		return "unknown"
	}
	return cmd.Name
}

// note begins the op of the command at hand.
func (s *session) note(o *op) {
	*o = op{cmd: s.cmd, path: s.path, timed: s.p.timed && !s.health, waits: s.waits, read: s.readAt}
	if s.p.slow.on() && o.timed && !o.waits && s.d.Cmd == s.cmd { // else these are other arguments
		if len(s.d.Keys) > 0 {
			o.rule = s.d.Keys[0].Rule
		}
		o.shape.note(o.cmd, s.args, s.d.Keys)
	}
}

// start notes which command is at hand, and which way it goes as far as it is known.
func (s *session) start() {
	s.cmd, s.pushed = s.d.Cmd, false
	s.path, s.waits = wayOf(&s.d)
	if s.path != pathRefused && (s.tx.open || s.path < pathPinned && s.pinsData()) {
		s.path, s.waits = pathPinned, false
	}
}

// wayOf is the way of a decided command, which may turn out to be a hit, and
// whether it waits by design.
func wayOf(d *policy.Decision) (_ path, waits bool) {
	switch d.Route {
	case policy.RouteLocal:
		return pathLocal, false
	case policy.RouteCache:
		return pathMiss, false
	case policy.RoutePass:
		if d.Private {
			return pathPinned, false
		}
		return pathPassed, false
	case policy.RouteRefused:
		return pathRefused, false
	case policy.RoutePin:
		switch d.Cmd.Pin {
		case policy.PinBlock:
			return pathBlocked, true
		case policy.PinSub, policy.PinMonitor:
			return pathPinned, true
		}
	}
	return pathPinned, false
}

// tick reads the session's clocks, after whatever took its time.
func (s *session) tick() {
	s.now = clockNow()
	s.at = s.p.clock()
}

// restart makes what follows count from now: what has passed was somebody's wish.
func (s *session) restart() {
	s.tick()
	s.readAt = s.at
}

// answeredHere counts the command at hand, whose reply, if it has one, is in the output.
func (s *session) answeredHere() {
	p := s.p
	if !p.timed || s.health {
		return
	}
	before := s.at
	if s.path != pathHit {
		s.at = p.clock()
	}
	if p.latencies {
		s.times.add(s, cellOf(s.cmd, s.path))
	}
	if !p.slow.on() || s.waits || s.at-s.readAt < p.slow.threshold {
		return
	}
	o := &slowOp{out: s.at}
	s.note(&o.op)
	o.sent, o.answered = before, s.at
	if !s.async && len(s.late) < slowEntries {
		s.late = append(s.late, o)
		return
	}
	q := &s.q
	q.mu.Lock()
	q.hold(s, o)
	q.mu.Unlock()
}

// tookLong is called when the client did not take the reader's output at once.
// What it was sent first has taken longest.
func (s *session) tookLong(out int64) {
	p := s.p
	now := p.clock()
	if p.slow.on() && !s.health && now-s.readAt >= p.slow.threshold && len(s.late) == 0 {
		o := &slowOp{out: out}
		o.op = s.opAt(s.first)
		o.sent, o.answered = out, out
		p.slow.add(s, o, now)
	}
	s.letGo(now)
	s.restart()
}

// opAt is what is known of a request that stands in the read buffer still, and
// that the reader has answered itself.
func (s *session) opAt(first int) op {
	o := op{read: s.readAt, path: pathLocal}
	complete, args, _, _, err := redcon.ReadNextCommand(s.in[min(first, s.off):s.off], nil)
	if err != nil || !complete || len(args) == 0 {
		return o
	}
	var d policy.Decision
	s.set.policy.Decide(&d, s.db, args)
	o.cmd = d.Cmd
	if o.path, _ = wayOf(&d); o.path == pathMiss {
		o.path = pathHit
	}
	if len(d.Keys) > 0 {
		o.rule = d.Keys[0].Rule
	}
	o.shape.note(o.cmd, args, d.Keys)
	return o
}

// letGo finishes the slow commands whose replies the client has taken.
func (s *session) letGo(now int64) {
	for i, o := range s.late {
		s.p.slow.add(s, o, now)
		s.late[i] = nil
	}
	s.late = s.late[:0]
}

// What follows is called with q.mu held, unless it says otherwise.

// For how many replies it is remembered how long a client keeps them waiting; and,
// of those that have no slot, how many bytes lie between two at least.
const (
	maxMarked   = 64
	markedEvery = 16 << 10
)

// leave counts a command whose reply has been put into the output. It is kept in
// mind if it was slow, or if the client could make it so; in the latter case with
// its slot, and leave says so.
func (q *queue) leave(s *session, sl *slot) (kept bool) {
	p, o := s.p, &sl.op
	if !o.timed {
		return false
	}
	took := max(q.at-o.read, 0)
	if p.latencies {
		q.times.add(p, cellOf(o.cmd, o.path), took)
	}
	switch {
	case !p.slow.on() || o.waits:
	case took >= p.slow.threshold:
		q.hold(s, &slowOp{op: *o, out: q.at})
	case !sl.mute && !q.closed:
		return q.mark(sl, q.at)
	}
	return false
}

// mark keeps a slot until the client has taken its reply, which was put into the
// output at a time and ends it; not if there are many already.
func (q *queue) mark(sl *slot, out int64) bool {
	if q.marked == maxMarked {
		return false
	}
	q.marked++
	*sl = slot{s: sl.s, op: sl.op, out: out, end: q.total}
	if q.oldest == nil {
		q.oldest = sl
	} else {
		q.newest.next = sl
	}
	q.newest = sl
	return true
}

// markLocal is leave for a reply that had no slot: it is counted elsewhere. One in
// so many bytes will do.
func (q *queue) markLocal(s *session) {
	if !s.p.slow.on() || s.waits || q.marked > 0 && q.total-q.newest.end < markedEvery {
		return
	}
	sl := q.takeFree()
	if sl == nil {
		sl = &slot{s: s}
	}
	s.note(&sl.op)
	sl.op.sent, sl.op.answered = s.at, s.at
	if !q.mark(sl, s.at) {
		q.recycle(sl)
	}
}

// hold keeps a slow command, whose reply ends the output, until the client has
// taken it; of more than are remembered in the end nobody waits for that.
func (q *queue) hold(s *session, o *slowOp) {
	if len(q.late) >= slowEntries {
		s.p.slow.add(s, o, o.out)
		return
	}
	o.end = q.total
	q.late = append(q.late, o)
	if q.closed {
		q.untaken(s)
	} else {
		q.taken(s)
	}
}

// taken looks for commands whose replies the client has taken.
func (q *queue) taken(s *session) {
	for q.oldest != nil && q.gone >= q.oldest.end {
		q.unmark(s)
	}
	for len(q.late) > 0 && q.gone >= q.late[0].end {
		s.p.slow.add(s, q.late[0], s.p.clock())
		q.late[0] = nil
		q.late = q.late[1:]
	}
}

// unmark lets the oldest of the marked commands go, and tells if it has become
// slow by the client's slowness; of several that wait together the first will do.
func (q *queue) unmark(s *session) {
	sl := q.oldest
	q.oldest = sl.next
	q.marked--
	if q.stalled && !q.told {
		if now := s.p.clock(); sl.op.timed && now-sl.op.read >= s.p.slow.threshold {
			s.p.slow.add(s, &slowOp{op: sl.op, out: sl.out}, now)
			q.told = true
		}
	}
	q.recycle(sl)
}

// untaken lets go of the commands whose replies nobody will take any more.
func (q *queue) untaken(s *session) {
	for q.oldest != nil {
		q.unmark(s)
	}
	for _, o := range q.late {
		s.p.slow.add(s, o, s.p.clock())
	}
	q.late = nil
}

// stall notes that the client has not taken all at once. The caller is the one
// who sends, without q.mu.
func (s *session) stall() {
	s.q.mu.Lock()
	s.q.stalled = true
	s.q.mu.Unlock()
}

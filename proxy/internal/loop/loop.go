package loop

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Flusher is something to be let out at the end of a round.
type Flusher interface {
	// FlushNow writes what is buffered. It should not wait.
	FlushNow()
}

// Loop runs the owners of those sources that have received something. Its
// goroutine is the one that holds the turn: an even number while it looks after the
// loop's own things, an odd one while it runs an owner or lets out what is
// buffered. An odd turn can be taken away; then the goroutine ends when it is through.
type Loop struct {
	g     *Group
	watch watch
	turn  atomic.Uint64

	// The turn's holder's.
	ready  []*Source
	next   int
	first  []*Source // urgent ones, before the rest of ready
	nextUp int
	ran    int // owners since the last flush
	others int // owners since the last look for urgent ones

	mu      sync.Mutex
	touched []Flusher // since the last flush
	late    []*Source // that have more to be read
	members map[int]*Source
	over    bool   // nobody comes to late any more
	seen    uint64 // the turn when the supervisor looked last

	urgent atomic.Int32 // members that are
}

// Turn is one call of Ready.
type Turn struct {
	loop *Loop
	n    uint64
	left bool
	buf  []byte
}

// BufferSize is the size of Turn.Buffer.
const BufferSize = 16 << 10

// Buffer is for what is read during the call. It stays the caller's after Leave.
func (t *Turn) Buffer() []byte { return t.buf }

// Leave is called before the owner waits for anything: another goroutine takes the loop's part.
func (t *Turn) Leave() {
	if t.left {
		return
	}
	t.left = true
	if l := t.loop; !l.takeOver(t.n) {
		// The turn was taken away before: whoever has it may wait for sockets, and
		// knows nothing of what has been deferred since then.
		l.g.wg.Go(l.writeOut)
	}
}

// Left tells whether another goroutine is the loop now.
func (t *Turn) Left() bool { return t.left }

// Defer has f let out what it has buffered at the end of the round.
func (l *Loop) Defer(f Flusher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.touched {
		if g == f {
			return
		}
	}
	l.touched = append(l.touched, f)
}

func (l *Loop) again(s *Source, t *Turn) {
	l.mu.Lock()
	if l.over {
		l.mu.Unlock()
		s.Wake()
		return
	}
	ring := len(l.late) == 0 // else it has been rung, or is not needed
	l.late = append(l.late, s)
	l.mu.Unlock()
	if !ring {
		return
	}
	if t == nil || l.turn.Load() != t.n { // the caller has lost its turn, and the loop may wait
		l.watch.interrupt()
	}
}

// end hands those whose turn does not come any more to goroutines of their own. What
// else is in the loop's care is woken when it is closed.
func (l *Loop) end() {
	l.mu.Lock()
	l.over = true
	left := l.late
	l.late = nil
	l.mu.Unlock()
	for _, s := range left {
		s.Wake()
	}
}

// flushEvery is the number of owners after which what they have buffered is let
// out although more wait.
const flushEvery = 32

// urgentEvery is the number of owners that are not urgent after which the loop looks
// for those that are: however many these are, the others have their turn between two looks.
const urgentEvery = 4

// pop is the next source to be dealt with, nil at the end of a round.
func (l *Loop) pop() (s *Source) {
	list, at := &l.first, &l.nextUp
	if *at == len(*list) {
		list, at = &l.ready, &l.next
		l.others++
	}
	if *at == len(*list) {
		return nil
	}
	s = (*list)[*at]
	(*list)[*at] = nil
	*at++
	return s
}

// run goes on until the turn is lost or the group ends.
func (l *Loop) run(n uint64) {
	t := &Turn{loop: l, n: n, buf: make([]byte, BufferSize)}
	if !l.flush(t) {
		return
	}
	for {
		s := l.pop()
		if s == nil {
			if l.ran > 0 && !l.flush(t) {
				return
			}
			if !l.wait() {
				return
			}
			continue // those who sent may be gone already
		}
		if !s.claim() {
			continue
		}
		l.ran++
		t.n++
		l.turn.Store(t.n)
		s.owner.Ready(t)
		if !l.turn.CompareAndSwap(t.n, t.n+1) {
			l.writeOut() // what this owner has left behind after that
			return
		}
		t.n++
		if l.others >= urgentEvery && l.urgent.Load() > 0 {
			l.others = 0
			l.lookUrgent()
		}
		if l.ran == flushEvery && !l.flush(t) {
			return
		}
	}
}

// flush lets out what the owners have buffered; false if the turn was lost meanwhile.
func (l *Loop) flush(t *Turn) bool {
	l.ran = 0
	t.n++
	l.turn.Store(t.n) // a write may block after all
	l.writeOut()
	if !l.turn.CompareAndSwap(t.n, t.n+1) {
		return false
	}
	t.n++
	return true
}

func (l *Loop) writeOut() {
	for {
		l.mu.Lock()
		n := len(l.touched)
		if n == 0 {
			l.mu.Unlock()
			return
		}
		f := l.touched[n-1]
		l.touched[n-1] = nil
		l.touched = l.touched[:n-1]
		l.mu.Unlock()
		f.FlushNow()
	}
}

// takeOver makes another goroutine the loop's, if the turn is still that one.
func (l *Loop) takeOver(n uint64) bool {
	if !l.turn.CompareAndSwap(n, n+1) {
		return false
	}
	l.g.wg.Go(func() { l.run(n + 1) })
	return true
}

// forget is called when a source's socket is closed; its number may be another's from then on.
func (l *Loop) forget(fd int, urgent bool) {
	l.mu.Lock()
	delete(l.members, fd)
	l.mu.Unlock()
	if urgent {
		l.urgent.Add(-1)
	}
	l.watch.remove(fd, urgent)
}

// Group is a number of loops and what keeps them going.
type Group struct {
	loops []*Loop
	wg    sync.WaitGroup
}

// Start starts n loops, which run until ctx is done and Wait has returned. It
// fails where the platform cannot.
func Start(ctx context.Context, n int) (*Group, error) {
	g := &Group{}
	for range n {
		l := &Loop{g: g, members: map[int]*Source{}}
		if err := l.watch.open(); err != nil {
			for _, l := range g.loops {
				l.watch.release()
			}
			return nil, err
		}
		g.loops = append(g.loops, l)
	}
	for _, l := range g.loops {
		g.wg.Go(func() { l.run(0) })
	}
	g.wg.Go(func() { g.supervise(ctx) })
	return g, nil
}

// Wait returns when all goroutines of the group have ended. Closed sources may be
// closed before or after.
func (g *Group) Wait() { g.wg.Wait() }

// Pick is the n-th loop, modulo their number.
func (g *Group) Pick(n uint64) *Loop { return g.loops[n%uint64(len(g.loops))] }

// Members is the number of sockets in the loops' care.
func (g *Group) Members() (n int) {
	for _, l := range g.loops {
		l.mu.Lock()
		n += len(l.members)
		l.mu.Unlock()
	}
	return n
}

// superviseEvery is how long an owner may hold its loop, to twice as long.
const superviseEvery = 10 * time.Millisecond

// supervise takes the turn from goroutines that have been with one owner for
// too long, and ends the loops.
func (g *Group) supervise(ctx context.Context) {
	tick := time.NewTicker(superviseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			for _, l := range g.loops {
				l.watch.close()
			}
			return
		case <-tick.C:
		}
		for _, l := range g.loops {
			n := l.turn.Load()
			if n%2 == 1 && n == l.seen {
				l.takeOver(n)
			}
			l.seen = n
		}
	}
}

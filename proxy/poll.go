package proxy

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"nearside/proxy/origin"
)

// A goroutine for each connection costs a speculative read, a park and a wake
// for each request, and with one request at a time each goroutine writes to the
// origin for itself. So where the platform has epoll, a session that waits for
// its client has no goroutine: a poller runs whichever sessions have received
// something, one after the other, and then lets everything that they asked of
// the origin out at once (measured: 50 clients without pipelining, 7 to 9 µs of
// CPU per request with goroutines, 5.5 to 6 so).
//
//	epoll ── poller ── step ──┬── read, batch ── rest: nobody reads; the poller looks again
//	                          ├── blocking(): another goroutine becomes the poller,
//	                          │   this one stays with the session
//	                          └── run(): a goroutine of the session's own, with Go's own
//	                              network poller: unfinished requests, MULTI, subscribers …
//
// Nothing may wait on a poller's goroutine. What is about to wait says so by
// blocking; what forgot to is found out by the supervisor, which then has another
// goroutine go on with the other sessions.

// Who reads from a session's client.
const (
	readerOwn   int32 = iota // a goroutine of the session's own
	readerIdle               // nobody: the poller will when something comes
	readerRuns               // somebody does at this moment
	readerAgain              // … and something has come since it began
)

// claim is the poller's: something has come. It reports whether the caller is
// to run the session.
func (s *session) claim() bool {
	for {
		switch s.reader.Load() {
		case readerIdle:
			if s.reader.CompareAndSwap(readerIdle, readerRuns) {
				return true
			}
		case readerRuns:
			if s.reader.CompareAndSwap(readerRuns, readerAgain) {
				return false
			}
		default:
			return false
		}
	}
}

// wake sees to it that somebody notices what has been done to the session: its
// connection was closed, or its read deadline is over.
func (s *session) wake() {
	for {
		switch s.reader.Load() {
		case readerIdle:
			if s.reader.CompareAndSwap(readerIdle, readerOwn) {
				go s.run()
				return
			}
		case readerRuns:
			if s.reader.CompareAndSwap(readerRuns, readerAgain) {
				return
			}
		default: // whoever reads notices
			return
		}
	}
}

// How a step ended.
type stepped uint8

const (
	rests  stepped = iota // nobody reads: the session belongs to whoever claims it
	stays                 // it needs a goroutine of its own
	closes                // it is to end
)

// mostSteps is how often a session is read from before others have their turn.
const mostSteps = 8

// step reads what has come and runs it, without ever waiting for the client.
// The caller owns the reader, in readerRuns.
func (s *session) step() stepped {
	for range mostSteps {
		if s.off < len(s.in) || !s.restful() {
			return stays
		}
		s.in, s.off, s.since = s.in[:0], 0, time.Time{}
		if cap(s.in) > inLarge {
			s.resize(inIdle)
		}
		n, err := s.nb.read(s.in[:cap(s.in)])
		s.in = s.in[:n]
		switch {
		case errors.Is(err, errNothing):
		case err != nil || n == 0: // run finds out what it is
			return stays
		default:
			s.now = clockNow()
			s.active.Store(s.now)
			if !s.batch() {
				return closes
			}
			if n == cap(s.in) || s.off < len(s.in) || !s.restful() {
				continue
			}
		}
		if s.unread.Load() != 0 {
			s.unread.Store(0)
		}
		s.in, s.off = s.in[:0], 0
		if s.reader.CompareAndSwap(readerRuns, readerIdle) {
			return rests
		}
		s.reader.Store(readerRuns) // something came meanwhile
	}
	return stays
}

// restful tells whether the session can do without a goroutine until its client
// sends something.
func (s *session) restful() bool {
	return !s.quit && !s.hungUp.Load() && s.pin == nil && !s.tx.open && !s.watch && !s.pushes() && !s.stopping.Load() && !s.errands.any.Load()
}

// rest gives the session to its poller, from a goroutine of its own, which is to
// end then. It reports false when there still is something to be done.
func (s *session) rest() bool {
	if s.poller == nil || s.off < len(s.in) || !s.restful() || !s.poller.add(s) {
		return false
	}
	s.reader.Store(readerRuns)
	switch s.step() {
	case rests:
		return true
	case closes:
		s.quit = true
	}
	s.reader.Store(readerOwn)
	return false
}

// poller runs the sessions that have received something. Its goroutine is the
// one that holds the turn: an even number while it looks after the poller's own
// things, an odd one while it runs a session or writes to the origin. An odd turn
// can be taken away, and then the goroutine ends when it is through.
type poller struct {
	p     *Proxy
	watch watch
	turn  atomic.Uint64

	// The turn's holder's.
	ready []*session
	next  int
	ran   int // sessions since the last flush

	mu      sync.Mutex
	touched []*origin.Conn // written to since the last flush
	members map[int]*session
	seen    uint64 // the turn when the supervisor looked last
}

// flushEvery is the number of sessions after which what they asked of the origin
// is let out although more wait.
const flushEvery = 32

// run polls until the turn is lost or nearside ends.
func (pl *poller) run(turn uint64) {
	if turn = pl.flush(turn); turn == lostTurn {
		return
	}
	for {
		if pl.next == len(pl.ready) {
			if pl.ran > 0 {
				if turn = pl.flush(turn); turn == lostTurn {
					return
				}
			}
			if !pl.wait() {
				return
			}
			continue // those who sent may be gone already
		}
		s := pl.ready[pl.next]
		pl.ready[pl.next] = nil
		pl.next++
		if !s.claim() {
			continue
		}
		pl.ran++
		pl.turn.Store(turn + 1)
		s.runPolled(turn + 1)
		if !pl.turn.CompareAndSwap(turn+1, turn+2) {
			pl.writeOut() // what this session has left behind after that
			return
		}
		turn += 2
		if pl.ran == flushEvery {
			if turn = pl.flush(turn); turn == lostTurn {
				return
			}
		}
	}
}

// lostTurn is no turn: another goroutine is the poller now.
const lostTurn = ^uint64(0)

// flush writes out what the sessions have asked of the origin.
func (pl *poller) flush(turn uint64) uint64 {
	pl.ran = 0
	pl.turn.Store(turn + 1) // a write may block
	pl.writeOut()
	if !pl.turn.CompareAndSwap(turn+1, turn+2) {
		return lostTurn
	}
	return turn + 2
}

func (pl *poller) writeOut() {
	for {
		pl.mu.Lock()
		n := len(pl.touched)
		if n == 0 {
			pl.mu.Unlock()
			return
		}
		c := pl.touched[n-1]
		pl.touched[n-1] = nil
		pl.touched = pl.touched[:n-1]
		pl.mu.Unlock()
		c.FlushNow()
	}
}

// collect takes over from a session what it has written to; locks do not wait.
func (pl *poller) collect(s *session) {
	if len(s.touched) == 0 {
		return
	}
	pl.mu.Lock()
	for i, c := range s.touched {
		if c.Group().Lock || pl.touches(c) {
			continue
		}
		pl.touched = append(pl.touched, c)
		s.touched[i] = nil
	}
	pl.mu.Unlock()
	for i, c := range s.touched {
		if c != nil && c.Group().Lock {
			c.FlushNow()
		}
		s.touched[i] = nil
	}
	s.touched = s.touched[:0]
}

func (pl *poller) touches(c *origin.Conn) bool {
	for _, t := range pl.touched {
		if t == c {
			return true
		}
	}
	return false
}

// takeOver makes another goroutine the poller, if the turn is still that one.
func (pl *poller) takeOver(turn uint64) {
	if pl.turn.CompareAndSwap(turn, turn+1) {
		pl.p.wg.Go(func() { pl.run(turn + 1) })
	}
}

// supervise takes the turn from a goroutine that has been with one session for
// longer than superviseEvery.
func (p *Proxy) supervise() {
	tick := time.NewTicker(superviseEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
		}
		for _, pl := range p.pollers {
			turn := pl.turn.Load()
			if turn%2 == 1 && turn == pl.seen {
				pl.takeOver(turn)
			}
			pl.seen = turn
		}
	}
}

const superviseEvery = 10 * time.Millisecond

// runPolled runs a session on the poller's goroutine, in its turn.
func (s *session) runPolled(turn uint64) {
	s.polled, s.turn = true, turn
	defer s.crashed()
	switch s.step() {
	case rests: // nothing of the session may be touched any more
		return
	case stays:
		s.reader.Store(readerOwn)
		if s.polled {
			s.polled = false
			go s.run()
			return
		}
		s.run() // this goroutine is the poller's no longer
	case closes:
		s.reader.Store(readerOwn)
		if s.polled {
			s.polled = false
			go s.end()
			return
		}
		s.end()
	}
}

// blocking is called before the session's reader waits for anything: if it runs
// on the poller's goroutine, another one takes the poller's part.
func (s *session) blocking() {
	if s.polled {
		s.polled = false
		s.poller.takeOver(s.turn)
	}
}

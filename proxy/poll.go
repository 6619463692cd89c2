package proxy

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"

	"nearside/proxy/internal/loop"
)

// A session that waits for its client has no goroutine where the platform has
// loops (internal/loop): a loop reads what has come and runs it, and at the end of
// a round lets out together what the sessions of that round asked of the origin.
// What cannot go so has a goroutine of the session's own for as long as it needs
// one: unfinished requests, MULTI, subscribers, blocking commands, TLS.

// startLoops starts as many loops as leave other work room. Where there are none,
// sessions and origin connections have goroutines.
func (p *Proxy) startLoops() {
	g, err := loop.Start(p.ctx, max(1, runtime.GOMAXPROCS(0)/2))
	if err != nil {
		p.log.Debug("every connection has a goroutine of its own", "err", err)
		return
	}
	p.loops = g
	p.origin.UseLoops(g)
}

// join puts a new session into a loop's care, unless that cannot be.
func (s *session) join() {
	p := s.p
	if p.loops == nil {
		return
	}
	if _, ok := s.conn.(*tlsConn); ok {
		return
	}
	sock, err := loop.Detach(s.conn)
	if err != nil {
		return
	}
	s.src = p.loops.Pick(s.id).NewSource(sock, s)
	s.conn = sock
}

// closeIdle closes those sessions in the loops' care whose clients have sent nothing
// for idle_timeout; a goroutine of a session's own keeps that deadline itself. Who
// waits for an answer is not idle meanwhile.
func (p *Proxy) closeIdle(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if timeout := p.conf().IdleTimeout; timeout > 0 {
			p.closeIdleSince(clockNow() - int64(timeout))
		}
	}
}

func (p *Proxy) closeIdleSince(then int64) {
	for _, s := range p.sessionList() {
		switch {
		case s.src == nil || !s.src.Idle() || s.active.Load() >= then:
		case s.busy():
			s.active.Store(clockNow())
		default:
			p.m.timedOut.Inc()
			s.shut()
		}
	}
}

// How a step ended.
type stepped uint8

const (
	rests  stepped = iota // nobody reads: the session belongs to whoever claims it
	turns                 // there is more, but others have their turn first
	stays                 // it needs a goroutine of its own
	closes                // it is to end
	parks                 // it goes on when a fence has passed
)

// mostSteps is how often a session is read from before others have their turn.
const mostSteps = 4

// step reads what has come and runs it, without ever waiting for the client. The
// caller holds the source.
func (s *session) step(t *loop.Turn) stepped {
	s.turn = t
	for range mostSteps {
		more := len(s.in) > 0 // it was parked; what has come meanwhile was reported to nobody
		if !more {
			buf := t.Buffer()
			n, err := s.src.TryRead(buf)
			if err != nil && err != loop.ErrNothing { //nolint:errorlint // never wrapped
				s.turn = nil
				return stays // run finds it once more
			}
			if n > 0 {
				s.in, s.lent, s.off, s.since = buf[:n], true, 0, time.Time{}
				s.restart()
			}
			more = n == len(buf)
		} else {
			s.tick() // it has been waiting since it was read
		}
		if len(s.in) > 0 {
			s.active.Store(s.now)
			on := s.batch()
			whole := s.off == len(s.in)
			s.giveBack(on && !whole)
			switch {
			case !on:
				s.turn = nil
				return closes
			case s.parks:
				s.parks = false
				s.turn = nil
				return parks
			case !whole:
				s.turn = nil
				return stays
			case s.restful() && (more || s.src.HungUp()):
				continue
			}
		}
		s.turn = nil      // before it belongs to somebody else
		if !s.restful() { // looked at after each wake, not only after each batch
			return stays
		}
		if t.Left() { // it may have waited for its client
			s.src.Unwait()
		}
		if s.src.Rest() {
			return rests
		}
		s.turn = t // something has come meanwhile
	}
	s.turn = nil
	return turns
}

// dropIn parts with the read buffer.
func (s *session) dropIn() {
	s.charge(-s.inHeld())
	s.in, s.off, s.lent = nil, 0, false
}

// giveBack parts with the loop's buffer, and keeps what is not understood yet.
func (s *session) giveBack(keep bool) {
	rest := s.in[s.off:]
	s.dropIn()
	if keep {
		s.in = append(make([]byte, 0, max(inIdle, len(rest))), rest...)
		s.charge(s.inHeld())
	}
	if s.unread.Load() != 0 {
		s.unread.Store(0)
	}
}

// mostUnlocked is the number of batches without a command for locks after which a
// session is one of many again.
const mostUnlocked = 16

// hurry has the loop look more often for sessions that take and release locks, so
// that these do not wait until all others have been served.
func (s *session) hurry(locks bool) {
	switch {
	case locks:
		s.unlocked = 0
		s.src.SetUrgent(true)
	case s.unlocked < mostUnlocked:
		s.unlocked++
		if s.unlocked == mostUnlocked {
			s.src.SetUrgent(false)
		}
	}
}

// What a session's reader, or somebody on its behalf, waits for, and what ends that. Each
// wait ends, whatever the client, Redis or another client does:
//
//	bytes of a request           they come; the client leaves; request_timeout for an unfinished one, idle_timeout
//	read                         if set; shut or stop from outside (both end the Read)
//	answers, or room for more    an answer; the loss of the connection, with which the answer is an error; shut.
//	awaitAnswers, awaitRoom      Of a shared or pinned connection that gives none the watchdog says when it
//	                             is lost (origin/watchdog.go): origin_timeout, unless Redis holds the client back
//	a blocking command           its answer; the client leaves or sends QUIT; CLIENT UNBLOCK or KILL; the connection's
//	awaitBlocked                 loss; nearside ends. How long it may take is the client's wish: no bound
//	the reply of a call          the same as of any answer; callOwned, DialBusy, facts, learn and Control's
//	call, callOwned              questions have deadlines as well
//	a connection                 origin's DialTimeout and Timeout for the handshake; with max_pinned out: an error at once
//	Shared, Pin, Lane
//	a slow client                write_timeout without progress, or the budget's end: shut
//	write, send
//	room in the budget           somebody gives back; request_timeout; being the one that holds most: refused
//	budget.reserve
//	a fence, a fresh proof       the PONG; the link's loss; max_staleness, after which the read goes to Redis
//	park, sync
//	room for another fetch       a fetch is answered, as any request is
//	awaitRefill
//	CLIENT PAUSE (nearside's)    its end, UNPAUSE; the client leaves; nearside ends
//	awaitPause
//	another session's errand     errandTime
//	errand
//
// A subscription, a monitor, CLIENT TRACKING and WATCH keep a pinned connection for as long
// as the client stays, wishes it, and has the connection; being the target of a
// redirection for as long as somebody redirects (tracking.go). max_pinned bounds all.

// blocking is called before the session's reader waits for anything: if that is a
// loop's goroutine, another one takes the loop's part.
func (s *session) blocking() {
	if t := s.turn; t != nil && !t.Left() {
		t.Leave()
	}
}

// polled tells whether the reader runs on its loop's goroutine.
func (s *session) polled() bool { return s.turn != nil && !s.turn.Left() }

// restful tells whether the session can do without a goroutine until its client
// sends something.
func (s *session) restful() bool {
	return !s.quit && s.pin == nil && !s.tx.open && !s.watch && !s.pushes() && !s.stopping.Load() && !s.errands.any.Load()
}

// Ready runs the session on its loop's goroutine (loop.Owner).
func (s *session) Ready(t *loop.Turn) {
	defer s.crashed()
	switch s.step(t) {
	case rests: // nothing of the session may be touched any more
	case turns:
		s.src.Again(t)
	case stays:
		s.src.Take()
		s.alone = min(2*s.alone+1, mostAlone)
		s.patience = s.alone / 2
		if t.Left() {
			s.run()
		} else {
			go s.run()
		}
	case parks:
		s.src.Take()
		s.p.park(s)
	case closes:
		s.src.Take()
		if t.Left() {
			s.end()
		} else {
			go s.end()
		}
	}
}

// Woken runs the session on a goroutine of its own: something was done to it (loop.Owner).
func (s *session) Woken() { s.run() }

// mostAlone bounds how many batches a session that needed a goroutine of its own
// keeps it for, the more the more often: going back and forth costs system calls.
const mostAlone = 64

// rest gives the session back to its loop, from a goroutine of its own, which is to
// end then. It reports false when that has to go on.
func (s *session) rest() bool {
	if s.src == nil || s.off < len(s.in) || !s.restful() {
		return false
	}
	if s.patience > 0 {
		s.patience--
		return false
	}
	s.dropIn()
	if s.unread.Load() != 0 {
		s.unread.Store(0)
	}
	s.deadline(0) // for the next time that it waits
	s.src.Unwait()
	if s.src.Return() {
		return true
	}
	s.in = make([]byte, 0, inIdle)
	return false
}

// wake has somebody notice what was done to the session.
func (s *session) wake() {
	if s.src != nil {
		s.src.Wake()
	}
}

// crashed keeps one session's bug from ending all others.
func (s *session) crashed() {
	if r := recover(); r != nil {
		s.p.log.Error("a session crashed; please report this", "client", s.id, "panic", r, "stack", string(debug.Stack()))
		if s.turn != nil {
			s.giveBack(false)
			s.turn = nil
		}
		if s.src != nil {
			s.src.Take()
		}
		s.close()
	}
}

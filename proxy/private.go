package proxy

import (
	"sync/atomic"
	"time"

	"nearside/policy"
)

// What is not known to be harmless on a connection that others share (policy/learn.go)
// runs on one of the session's own, the pinned connection. From then on that is
// foreign: no other session ever gets it. The session keeps it until it ends or has
// not needed it for privateIdle; while more than half of max_pinned is out, only until
// everything is answered.
//
// If the command may have set something there for later commands (policy.Decision.MaySet)
// and Redis did not refuse it, the session is settled: its data commands use that
// connection from then on, until RESET. A loss of that connection ends the session, as
// it would at Redis.

// privateIdle is for how long a session keeps a foreign connection without need.
const privateIdle = time.Minute

// privacy is what is remembered of that.
type privacy struct {
	moved            moved        // the request at hand
	settled          bool         // data commands use the pinned connection
	noEvict, noTouch bool         // CLIENT NO-EVICT and NO-TOUCH are on there
	setsOther        bool         // something else was set there, which nothing but RESET takes back
	privateAt        atomic.Int64 // clockNow when a foreign connection was last used; 0: none is to be let go
}

// unsettle forgets what was set on a connection that is gone.
func (y *privacy) unsettle() {
	y.settled, y.noEvict, y.noTouch, y.setsOther = false, false, false, false
	y.privateAt.Store(0)
}

// private runs a command on a connection that the session owns.
func (s *session) private(raw []byte) {
	d := &s.d
	s.blocking()
	if s.monitor { // its connection answers no more
		s.replyError("ERR nearside: this command is not possible on a connection that monitors; RESET first")
		return
	}
	if err := s.acquire(d.DB); err != nil {
		s.replyOriginError(err)
		return
	}
	switch line, err := s.selectPinned(d.DB); {
	case err != nil:
		s.replyOriginError(err)
		return
	case line != nil:
		s.replyError(errSelectRefused(line))
		return
	}
	s.p.m.private.Inc()
	if d.Foreign {
		s.claim()
	}
	sl := s.slot()
	s.effects(sl)
	switch {
	case d.MaySet:
	case !d.Foreign: // it may block, and leaves the connection as it was
		s.sendBlocking(sl, raw)
		return
	default:
		s.sendPinned(sl, d.DB, raw, 1)
		return
	}
	accepted := new(atomic.Bool) // if the client has left, the answer may still come
	sl.finish = func(_ *slot, b []byte, err error) []byte {
		if err != nil {
			return appendError(nil, s.p.originError(err))
		}
		accepted.Store(!isError(b))
		return b
	}
	s.sendBlocking(sl, raw)
	if accepted.Load() && s.pin != nil {
		s.claim()
		s.settle()
	}
}

// disclaim counts a pinned connection that the session parts with.
func (s *session) disclaim(pin *pinned) {
	s.privateAt.Store(0)
	if pin.foreign {
		s.p.learning.foreign.Add(-1)
	}
}

// settle makes later data commands use the pinned connection, unless the command has
// just taken back all that was set there.
func (s *session) settle() {
	on := len(s.args) > 2 && !policy.Is(s.args[2], "off")
	switch s.clientSub() {
	case "no-evict":
		s.noEvict = on
	case "no-touch":
		s.noTouch = on
	default:
		s.setsOther = true // nothing tells what would take it back
	}
	if s.settled = s.noEvict || s.noTouch || s.setsOther; s.settled {
		s.privateAt.Store(0)
		s.watchPin()
	} else {
		s.unwatchIfQuiet()
	}
}

// clientSub is the subcommand of a CLIENT.
func (s *session) clientSub() string {
	if !isClient(s.d.Cmd) || len(s.args) < 2 {
		return ""
	}
	return policy.Word(s.args[1])
}

// unwatchIfQuiet ends watchPin where nothing is to be missed on the connection.
func (s *session) unwatchIfQuiet() {
	if !s.pushes() {
		s.unwatchPin()
	}
}

// claim makes the pinned connection foreign.
func (s *session) claim() {
	if !s.pin.foreign {
		s.pin.foreign = true
		s.p.learning.foreign.Add(1)
	}
	s.privateAt.Store(max(clockNow(), 1))
}

// awaitPrivate is awaitAnswers for a session that waits for what may block on its
// foreign connection: it watches the client meanwhile, whose departure ends the wait.
func (s *session) awaitPrivate() bool {
	if s.pin == nil || !s.pin.foreign || s.answered() {
		return s.awaitAnswers()
	}
	s.blocking()
	s.flushOrigin()
	s.sendOut()
	s.awaitBlocked()
	return !s.quit && s.awaitAnswers()
}

// callPrivate runs a command on the pinned connection, which is foreign then, and
// waits for its reply.
func (s *session) callPrivate(raw []byte) ([]byte, error) {
	if err := s.acquire(s.d.DB); err != nil {
		return nil, err
	}
	s.claim()
	s.p.m.private.Inc()
	return s.callPinned(-1, raw)
}

// keepsPrivate tells whether the session keeps a foreign connection that it does not
// need at the moment.
func (s *session) keepsPrivate() bool {
	return s.pin.foreign && s.pin.conn.Err() == nil && !s.p.origin.Crowded()
}

// dropPrivates has sessions close foreign connections that they have not needed for a while.
func (p *Proxy) dropPrivates() {
	then := clockNow() - int64(p.cfg.privateIdle)
	for _, s := range p.sessionList() {
		if at := s.privateAt.Load(); at != 0 && at < then {
			s.postIfFree(s.dropPrivate) // else the next tick asks again
		}
	}
}

// dropPrivate closes a foreign connection that is not needed.
func (s *session) dropPrivate() {
	switch now := clockNow(); {
	case s.pin == nil || s.privateAt.Load() >= now-int64(s.p.cfg.privateIdle):
	case s.needsPin() || !s.answered():
		s.privateAt.Store(now)
	default:
		s.unpin()
	}
}

// sendBlocking sends a command on the pinned connection that may wait there, for as
// long as the client stays.
func (s *session) sendBlocking(sl *slot, raw []byte) {
	conn := s.pin.conn
	conn.MayBlock(true)
	s.blocked.begin(conn)
	s.sendPinned(sl, s.d.DB, raw, 1)
	s.flushOrigin()
	s.sendOut()
	s.awaitBlocked()
	s.blocked.end()
	conn.MayBlock(false)
}

// blockPinned is sendBlocking for a command whose answer is passed on.
func (s *session) blockPinned(raw []byte) {
	sl := s.slot()
	s.effects(sl)
	s.sendBlocking(sl, raw)
}

// lostPrivate tells whether the pinned connection is broken and nothing depends on it.
func (s *session) lostPrivate() bool {
	return s.pin != nil && s.pin.foreign && !s.needsPin() && s.pin.conn.Err() != nil
}

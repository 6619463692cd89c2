package proxy

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"nearside/proxy/origin"
)

// A lane is an origin connection that a session has to itself as long as a command
// is unanswered behind which nobody else's may wait: a script that is not known to
// end, of which Redis says -BUSY to everybody but those whose commands stand behind it
// on its own connection; a FLUSHALL, for which Redis 8 blocks the client that asked; a
// request or a reply so large that Redis may close the connection for it.
//
// The session's next commands follow in the lane, so that their order needs no waiting,
// until all are answered. Then whoever takes the last answer gives the lane back, and the
// session uses the shared connections again.
//
// Locks whose scripts are known to end (policy) stay on the locks' own connections.

// laneHold is a session's lane.
type laneHold struct {
	conn atomic.Pointer[origin.Conn] // changed under mu

	mu    sync.Mutex // before the queue's
	asked bool       // the reader is about to send something there
}

// aloneSize is the size of a request from which on it goes in a lane: the smallest
// proto-max-bulk-len that Redis allows. One that is larger than Redis takes is
// answered with an error and a closed connection.
const aloneSize = 1 << 20

// laneFor returns the connection for a command that must be alone, or follows one that
// must. nil: it goes where others go.
func (s *session) laneFor(db int, lock bool) (*origin.Conn, error) {
	g := s.group(db, lock)
	if c := s.heldLane(g); c != nil {
		return c, nil
	}
	if !s.d.Alone && (!s.p.limits.narrow.Load() || smallReply(s.d.Cmd, s.args)) {
		return nil, nil
	}
	if !s.awaitAnswers() { // in the lane of another database, or elsewhere
		return nil, origin.ErrLost
	}
	s.leaveLane()
	c := s.p.origin.TryLane(g)
	if c == nil {
		s.waited = true // for a dial
		s.blocking()
		var err error
		c, err = s.p.origin.Lane(s.p.ctx, g)
		s.at = s.p.clock()
		if errors.Is(err, origin.ErrTooManyPinned) {
			g.Alone = true
			return s.p.origin.Shared(s.p.ctx, g, s.id)
		}
		if err != nil {
			return nil, err
		}
	}
	s.inLane = true
	s.lane.mu.Lock()
	s.lane.conn.Store(c)
	s.lane.asked = true
	s.lane.mu.Unlock()
	return c, nil
}

// heldLane returns the session's lane, which then stays its own until the next push,
// if it still has one that does for g.
func (s *session) heldLane(g origin.Group) *origin.Conn {
	if !s.inLane {
		return nil
	}
	s.lane.mu.Lock()
	defer s.lane.mu.Unlock()
	c := s.lane.conn.Load()
	if c == nil {
		s.inLane = false
		return nil
	}
	g.Lock = c.Group().Lock // a lane is as good for locks
	if c.Group() != g || c.Err() != nil {
		return nil
	}
	s.lane.asked = true
	return c
}

// leaveLane gives the lane back unless something is unanswered: then the answer does.
func (s *session) leaveLane() {
	s.sentInLane()
	s.freeLane()
	if s.lane.conn.Load() == nil {
		s.inLane = false
	}
}

// sentInLane is called when what heldLane was asked for is in the queue, or will not be.
func (s *session) sentInLane() {
	if s.inLane {
		s.lane.mu.Lock()
		s.lane.asked = false
		s.lane.mu.Unlock()
	}
}

// freeLane gives the lane back if the session does not need it any more.
func (s *session) freeLane() {
	s.lane.mu.Lock()
	c := s.lane.conn.Load()
	if c == nil || s.lane.asked || !s.answered() {
		s.lane.mu.Unlock()
		return
	}
	s.lane.conn.Store(nil)
	s.lane.mu.Unlock()
	s.p.origin.Unpin(c, true)
}

// forwardBusy passes SCRIPT KILL, FUNCTION KILL or FUNCTION STATS on, which Redis answers
// while it is busy with a script: on a connection on which nothing can be in front
// of it, and which can be made while all other commands are refused.
func (s *session) forwardBusy(raw []byte) {
	if !s.awaitAnswers() {
		return
	}
	s.blocking()
	ctx, cancel := context.WithTimeout(s.p.ctx, 2*s.p.cfg.OriginTimeout)
	defer cancel()
	c, err := s.p.origin.DialBusy(ctx, s.group(0, false))
	if err != nil {
		s.replyOriginError(err)
		return
	}
	defer c.Close(errSessionGone)
	b, err := c.Call(ctx, raw, 1)
	switch {
	case err == nil:
		s.replyRaw(b)
	case ctx.Err() != nil:
		s.replyOriginError(origin.ErrTimeout)
	default:
		s.replyOriginError(err)
	}
}

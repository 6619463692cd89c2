package proxy

import (
	"context"
	"errors"

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

// laneHold is a session's lane; it belongs to its queue.
type laneHold struct {
	conn  *origin.Conn
	asked bool // the reader is about to send something there
}

// aloneSize is the size of a request from which on it goes in a lane: the smallest
// proto-max-bulk-len that Redis allows. One that is larger than Redis takes is
// answered with an error and a closed connection.
const aloneSize = 1 << 20

// lane returns the connection for a command that must be alone, or follows one that
// must. nil: it goes where others go.
func (s *session) lane(db int, lock bool) (*origin.Conn, error) {
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
	s.q.mu.Lock()
	s.q.lane = laneHold{c, true}
	s.q.mu.Unlock()
	return c, nil
}

// heldLane returns the session's lane, which then stays its own until the next push,
// if it still has one that does for g.
func (s *session) heldLane(g origin.Group) *origin.Conn {
	if !s.inLane {
		return nil
	}
	q := &s.q
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.lane.conn
	if c == nil {
		s.inLane = false
		return nil
	}
	g.Lock = c.Group().Lock // a lane is as good for locks
	if c.Group() != g || c.Err() != nil {
		return nil
	}
	q.lane.asked = true
	return c
}

// leaveLane gives the lane back unless something is unanswered: then the answer does.
func (s *session) leaveLane() {
	q := &s.q
	q.mu.Lock()
	q.lane.asked = false
	c := q.freeLane()
	if q.lane.conn == nil {
		s.inLane = false
	}
	q.mu.Unlock()
	if c != nil {
		s.p.origin.Unpin(c, true)
	}
}

// freeLane takes the lane out if the session does not need it any more. The caller
// holds q.mu and gives the connection back.
func (q *queue) freeLane() *origin.Conn {
	c := q.lane.conn
	if c == nil || q.unanswered > 0 || q.lane.asked {
		return nil
	}
	q.lane.conn = nil
	return c
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

package proxy

import (
	"errors"
	"io"
	"os"

	"github.com/tidwall/redcon"

	"nearside/policy"
	"nearside/proxy/origin"
)

// pinned is an origin connection that the session owns for a while.
type pinned struct {
	conn *origin.Conn
	db   int // the database selected there
}

// needsPin tells whether the pinned connection must be kept.
func (s *session) needsPin() bool {
	return s.tx.open || s.watch || s.pushes()
}

// pinsData tells whether data commands must use the pinned connection: a read
// answered elsewhere would be hidden from WATCH or from Redis's tracking table.
func (s *session) pinsData() bool { return s.watch || s.track }

// pushes tells whether the origin may send what answers no request.
func (s *session) pushes() bool { return s.subscribed() || s.track || s.monitor }

// acquire makes sure that the session has a pinned connection and that
// everything it sent elsewhere has been answered.
func (s *session) acquire(db int) error {
	if s.pin != nil {
		s.follow(s.pin.conn)
		return s.pin.conn.Err()
	}
	if !s.awaitAnswers() {
		return origin.ErrLost
	}
	c, err := s.p.origin.Pin(s.p.ctx, s.group(db, false))
	if err != nil {
		return err
	}
	s.pin = &pinned{conn: c, db: db}
	c.SetPush(s.outOfBand)
	return nil
}

// unpin gives the connection back; the caller has awaited all answers.
func (s *session) unpin() {
	s.unwatchPin()
	pin := s.pin
	s.pin = nil
	pin.conn.Reselect(pin.db)
	s.p.origin.Unpin(pin.conn, pin.conn.Err() == nil)
}

// abandon closes what the session owned, whatever state it is in: at the end
// of the session nobody must be left waiting at the origin in its name.
func (s *session) abandon() {
	s.unwatchPin()
	if pin := s.pin; pin != nil {
		s.pin = nil
		pin.conn.Close(errSessionGone)
		s.p.origin.Unpin(pin.conn, false)
	}
}

var errSessionGone = errors.New("the client is gone")

// sendPinned sends a command on the pinned connection, in database db; -1 says
// that the database does not matter. In front of a command for another
// database a SELECT is inserted, whose reply the slot takes out again.
func (s *session) sendPinned(sl *slot, db int, raw []byte, replies int) {
	req := raw
	if db >= 0 && db != s.pin.db {
		s.scratch = append(appendSelect(s.scratch[:0], db), raw...)
		req = s.scratch
		s.pin.db = db
		sl.strip = 1
		if replies > 0 {
			replies++
		}
	}
	s.submit(sl, s.pin.conn, req, replies)
}

func appendSelect(b []byte, db int) []byte {
	b = append(b, "*2\r\n$6\r\nSELECT\r\n"...)
	return redcon.AppendBulkString(b, itoa(db))
}

// forwardPinned passes a data command through on the pinned connection.
func (s *session) forwardPinned(raw []byte) {
	if err := s.acquire(s.d.DB); err != nil {
		s.replyOriginError(err)
		return
	}
	sl := s.slot()
	if s.d.Route == policy.RouteCache {
		s.counts.missed(s, s.d.Keys)
		s.p.m.bypass(bypassPinned)
		s.observe(sl)
	} else {
		s.effects(sl)
	}
	s.sendPinned(sl, s.d.DB, raw, 1)
}

// pinnedCommand is a command that needs a connection of its own.
func (s *session) pinnedCommand(raw []byte) {
	switch s.d.Cmd.Pin {
	case policy.PinTx:
		s.transactionCommand(raw)
	case policy.PinBlock:
		s.block(raw)
	case policy.PinSub:
		s.subscribe(raw)
	case policy.PinMonitor:
		s.startMonitor(raw)
	case policy.PinTracking:
		s.tracking(raw)
	}
}

// callPinned sends a command on the pinned connection and waits for its reply.
func (s *session) callPinned(db int, raw []byte) ([]byte, error) {
	if err := s.acquire(db); err != nil {
		return nil, err
	}
	if !s.awaitAnswers() {
		return nil, origin.ErrLost
	}
	b, err := s.pin.conn.Call(s.p.ctx, raw, 1)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// block runs a command that may wait at the origin, for as long as the client
// stays: when it goes away the origin's connection is closed at once, so that
// no element is popped for nobody.
func (s *session) block(raw []byte) {
	if err := s.acquire(s.d.DB); err != nil {
		s.replyOriginError(err)
		return
	}
	sl := s.slot()
	s.effects(sl)
	s.sendPinned(sl, s.d.DB, raw, 1)
	s.flushOrigin()
	s.sendOut()
	s.awaitBlocked()
}

// maxBehindBlock is how much a blocked client may send in advance while its
// departure can still be noticed.
const maxBehindBlock = 64 << 10

// awaitBlocked waits for the answer of a blocking command and watches the
// client meanwhile. What the client sends in advance is kept.
func (s *session) awaitBlocked() {
	s.deadline(0) // idle_timeout is not for those who wait
	q := &s.q
	for {
		q.mu.Lock()
		if q.unanswered == 0 || q.closed {
			q.mu.Unlock()
			break
		}
		if len(s.in)-s.off > maxBehindBlock {
			q.wait()
			q.mu.Unlock()
			continue
		}
		q.kick = true
		q.mu.Unlock()
		if len(s.in) == cap(s.in) && !s.room() {
			s.quit = true
			return
		}
		n, err := s.conn.Read(s.in[len(s.in):cap(s.in)])
		s.in = s.in[:len(s.in)+n]
		if err != nil && (s.stopping.Load() || !errors.Is(err, os.ErrDeadlineExceeded)) {
			if !s.stopping.Load() && err != io.EOF {
				s.p.m.readErrors.Inc()
			}
			s.quit = true
			s.gone = true
			s.abandon()
			return
		}
	}
	s.deadline(0)
	s.now = clockNow()
}

// blockedAway tells whether the client left while it was blocked, so that
// nothing is owed to it any more.
func (s *session) blockedAway() bool { return s.gone }

// startMonitor makes the session a monitor: from its OK on the origin sends lines.
func (s *session) startMonitor(raw []byte) {
	if s.monitor { // Redis does not answer a second one
		return
	}
	if err := s.acquire(s.d.DB); err != nil {
		s.replyOriginError(err)
		return
	}
	s.monitor = true
	s.watchPin()
	s.pin.conn.SetMonitor()
	s.sendPinned(s.slot(), -1, raw, 1)
}

// tracking runs CLIENT TRACKING and its relatives.
func (s *session) tracking(raw []byte) {
	if s.d.Cmd.Name != "client|tracking" {
		if s.track {
			s.sendPinned(s.slot(), -1, raw, 1)
		} else {
			s.forward(raw)
		}
		return
	}
	for _, a := range s.args[3:] {
		if foldEqual(a, "redirect") {
			s.replyError("ERR nearside: CLIENT TRACKING with REDIRECT is not supported; use RESP3 (HELLO 3), where invalidations come on the same connection")
			return
		}
	}
	reply, err := s.callPinned(s.d.DB, raw)
	if err != nil {
		s.replyOriginError(err)
		return
	}
	if string(reply) == replyOK {
		on := foldEqual(s.args[2], "on")
		if on && !s.track {
			s.track = true
			s.watchPin()
		}
		s.track = on
	}
	s.replyRaw(reply)
}

// watchPin closes the session when the connection that pushes to it is lost,
// as Redis would close it: the client could miss something silently.
func (s *session) watchPin() {
	if s.unwatch != nil {
		return
	}
	s.becomeAsync()
	c, stop := s.pin.conn, make(chan struct{})
	s.unwatch = stop
	go func() {
		select {
		case <-stop:
		case <-c.Done():
			select {
			case <-stop: // the session gave it up itself
			default:
				s.p.log.Info("closing a client whose subscription connection to Redis was lost", "client", s.id)
				s.shut()
			}
		}
	}()
}

// unwatchPin ends watchPin, before the connection is given away or closed.
func (s *session) unwatchPin() {
	if s.unwatch != nil {
		close(s.unwatch)
		s.unwatch = nil
	}
}

// becomeAsync makes all output go through the queue, since the origin may send
// at any time from now on.
func (s *session) becomeAsync() {
	q := &s.q
	q.mu.Lock()
	s.detachOut()
	q.mu.Unlock()
}

// outOfBand takes what the origin sends without being asked.
func (s *session) outOfBand(frame []byte, batch *origin.Batch) {
	if s.p.fenceMessages && !s.monitor {
		// The client learns that something happened: hits must not be older.
		s.p.link.Fence()
	}
	if !s.pushOut(frame) {
		s.p.log.Warn("closing a client that does not read its messages", "client", s.id, "backlog", maxPushBacklog)
		s.p.m.slowClosed.Inc()
		s.shut()
		return
	}
	batch.Add(s)
}

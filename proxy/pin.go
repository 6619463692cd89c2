package proxy

import (
	"context"
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
// answered elsewhere would be hidden from WATCH or from Redis's tracking table. And
// Redis lets a monitor do little; what, it says itself.
func (s *session) pinsData() bool { return s.watch || s.track || s.monitor }

// pushes tells whether the origin may send what answers no request.
func (s *session) pushes() bool { return s.subscribed() || s.track || s.monitor || s.target }

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
	s.blocking()
	c, err := s.p.origin.Pin(s.p.ctx, s.group(db, false))
	if err != nil {
		return err
	}
	s.at = s.p.clock()
	s.pin = &pinned{conn: c, db: db}
	c.SetPush(s.outOfBand)
	c.AskID() // for CLIENT UNBLOCK and REDIRECT; answered with the first command
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
	if replies > 0 {
		var n int
		if s.scratch, n = s.lead(s.scratch[:0], db); n > 0 && s.gives(raw) {
			sl.strip = n
			s.enter(sl, s.pin.conn)
			s.touch(s.pin.conn)
			if err := s.give(sl, s.pin.conn, s.scratch, raw, replies+n); err != nil {
				sl.Reply(nil, err, nil)
			}
			return
		} else if n > 0 {
			s.scratch = append(s.scratch, raw...)
			req = s.scratch
			sl.strip = n
			replies += n
		}
	}
	s.submit(sl, s.pin.conn, req, replies)
}

// lead appends what must go in front of a command for database db on the pinned
// connection, and tells how many replies that has.
func (s *session) lead(b []byte, db int) (_ []byte, n int) {
	selects := db >= 0 && db != s.pin.db
	if selects {
		b = appendSelect(b, db)
		s.pin.db = db
		n++
	}
	switch s.caching.state {
	case cachingArmed:
		if isClient(s.d.Cmd) {
			break // Redis keeps the flag for the command after it
		}
		if selects && !s.tx.open { // the SELECT has eaten the flag
			b = append(b, s.caching.req...)
			n++
		}
		s.caching.state = cachingNone
	case cachingSpent:
		if !selects && !s.tx.open {
			b = append(b, "*1\r\n$4\r\nPING\r\n"...)
			n++
		}
		s.caching.state = cachingNone
	}
	if s.d.Cmd != nil && s.d.Cmd.Name == "wait" && !s.tx.open {
		// WAIT waits for the replication offset that its own connection has seen
		// last. Any command brings this one up to date with the session's writes.
		b = append(b, "*1\r\n$4\r\nPING\r\n"...)
		n++
	}
	return b, n
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
	if !s.selectPinned(s.d.DB) {
		return
	}
	sl := s.slot()
	if s.d.Route == policy.RouteCache {
		s.counts.missed(s, s.d.Keys)
		s.bypass(bypassPinned)
		s.observe(sl)
	} else {
		s.effects(sl)
	}
	s.sendPinned(sl, s.d.DB, raw, 1)
}

// selectPinned selects a database on the pinned connection for a client's own
// user, who may lack the right to: then its command must not run in another one.
// Nearside's own user has that right, or there would be no connection.
func (s *session) selectPinned(db int) bool {
	if s.user == "" || db == s.pin.db {
		return true
	}
	b, err := s.callPinned(db, appendSelect(nil, db))
	switch {
	case err != nil:
		s.replyOriginError(err)
		return false
	case string(b) != replyOK:
		s.replyRaw(b)
		return false
	}
	s.pin.db = db
	return true
}

// pinnedCommand is a command that needs a connection of its own.
func (s *session) pinnedCommand(raw []byte) {
	if s.monitor && s.d.Cmd.Pin != policy.PinMonitor {
		s.replyError("ERR nearside: " + s.d.Cmd.Name + " is not possible on a connection that monitors; RESET first")
		return
	}
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
	return s.p.callOwned(s.pin.conn, raw, 1)
}

// callOwned sends a request that does not block on an owned connection and waits
// for its replies, at most so long that the origin must be taken for silent.
func (p *Proxy) callOwned(c *origin.Conn, req []byte, replies int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(p.ctx, 2*p.cfg.OriginTimeout)
	defer cancel()
	b, err := c.Call(ctx, req, replies)
	if err != nil && ctx.Err() != nil {
		c.Close(origin.ErrTimeout)
		err = origin.ErrTimeout
	}
	return b, err
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

// maxBehindBlock is how much a blocked client may send in advance while its
// departure can still be noticed.
const maxBehindBlock = 64 << 10

// awaitBlocked waits for the answer of a blocking command and watches the
// client meanwhile. What the client sends in advance is kept.
func (s *session) awaitBlocked() {
	s.deadline(0) // idle_timeout is not for those who wait
	q := &s.q
	ahead := lookahead{frames: s.frames, at: s.off}
	for {
		s.runErrand()
		if s.stopping.Load() { // the deadline may have been set before it was taken away
			s.wakeBlocked()
			return
		}
		if ahead.quit(s) && !s.endBlock("TIMEOUT") {
			return
		}
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
			s.leave()
			return
		}
		n, err := s.conn.Read(s.in[len(s.in):cap(s.in)])
		s.in = s.in[:len(s.in)+n]
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			if !errors.Is(err, io.EOF) {
				s.p.m.readErrors.Inc()
			}
			s.leave()
			return
		}
	}
	s.deadline(0)
	s.restart()
}

// leave ends a session that is blocked, without a word.
func (s *session) leave() {
	s.quit = true
	s.gone = true
	s.abandon()
}

// startMonitor makes the session a monitor: from its OK on the origin sends lines.
func (s *session) startMonitor(raw []byte) {
	if s.monitor { // Redis does not answer a second one
		return
	}
	if err := s.acquire(s.d.DB); err != nil {
		s.replyOriginError(err)
		return
	}
	s.pin.conn.ID(s.p.ctx)
	if !s.awaitAnswers() { // nothing may be outstanding
		return
	}
	s.monitor = true
	s.monitors.Store(true)
	s.publish()
	s.watchPin()
	s.pin.conn.SetMonitor()
	s.sendPinned(s.slot(), -1, raw, 1)
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
	fenced := s.p.current().fenceMessages && !s.monitors.Load()
	if fenced { // the client learns that something happened: hits must not be older
		s.p.link.Raise()
	}
	frame, second := s.ownRedirect(frame), []byte(nil)
	if s.view.on.Load() {
		frame, second = s.view.show(s.p, frame)
	}
	if !s.pushOut(frame) || second != nil && !s.pushOut(second) {
		s.closeSlow()
	}
	s.letOut(batch, fenced)
}

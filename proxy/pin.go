package proxy

import (
	"context"
	"errors"
	"time"

	"github.com/tidwall/redcon"

	"nearside/policy"
	"nearside/proxy/origin"
)

// pinned is an origin connection that the session owns for a while.
type pinned struct {
	conn *origin.Conn
	db   int // the database selected there
	// It has carried what nearside does not know: no other session gets it (private.go).
	foreign bool
}

// needsPin tells whether the pinned connection must be kept.
func (s *session) needsPin() bool {
	return s.tx.open || s.watching || s.settled || s.pushes()
}

// pinsData tells whether data commands must use the pinned connection: a read
// answered elsewhere would be hidden from WATCH or from Redis's tracking table, or
// not be under what the client has set there. And Redis lets a monitor do little;
// what, it says itself.
func (s *session) pinsData() bool { return s.watching || s.track || s.settled || s.monitor }

// pushes tells whether the origin may send what answers no request.
func (s *session) pushes() bool { return s.subscribed() || s.track || s.monitor || s.target }

// acquire makes sure that the session has a pinned connection and that
// everything it sent elsewhere has been answered.
func (s *session) acquire(db int) error {
	if s.lostPrivate() {
		s.unpin()
	}
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
	if s.set.policy.Outdated(&s.d, s.args) {
		s.p.origin.Unpin(c, true)
		return errMoved
	}
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
	s.disclaim(pin)
	pin.conn.Reselect(pin.db)
	s.p.origin.Unpin(pin.conn, !pin.foreign && pin.conn.Err() == nil)
}

// abandon closes what the session owned, whatever state it is in: at the end
// of the session nobody must be left waiting at the origin in its name.
func (s *session) abandon() {
	s.unwatchPin()
	if pin := s.pin; pin != nil {
		s.pin = nil
		s.disclaim(pin)
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
		n, before := 0, s.pin.db
		if s.scratch, n = s.lead(s.scratch[:0], db); n > 0 && s.gives(raw) {
			sl.strip, sl.selects = n, s.pin.db != before
			s.enter(sl, s.pin.conn)
			s.touch(s.pin.conn)
			if err := s.giveTo(sl, s.pin.conn, s.scratch, raw, replies+n); err != nil {
				sl.Reply(nil, err, nil)
			}
			return
		} else if n > 0 {
			s.scratch = append(s.scratch, raw...)
			req = s.scratch
			sl.strip, sl.selects = n, s.pin.db != before
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
	switch line, err := s.selectPinned(s.d.DB); {
	case err != nil:
		s.replyOriginError(err)
		return
	case line != nil && s.track:
		s.replyError(errSelectRefused(line))
		return
	case line != nil: // elsewhere WATCH sees as well what it changes
		if s.d.Route == policy.RouteCache {
			s.bypass(bypassPinned)
			s.readThrough(raw)
		} else {
			s.forward(raw)
		}
		return
	}
	sl := s.slot()
	if s.d.Route == policy.RouteCache {
		s.counts.missed(s.d.Keys)
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
// line is Redis's refusal.
func (s *session) selectPinned(db int) (line []byte, err error) {
	if s.user == "" {
		return nil, nil
	}
	return s.trySelect(db)
}

// trySelect selects a database on the pinned connection before anything is sent there.
func (s *session) trySelect(db int) (line []byte, err error) {
	if db == s.pin.db {
		return nil, nil
	}
	b, err := s.callPinned(db, appendSelect(nil, db))
	switch {
	case err != nil:
		return nil, err
	case string(b) != replyOK:
		return b, nil
	}
	s.pin.db = db
	return nil, nil
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
		s.runBlocking(raw)
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

// runBlocking runs a command that may wait at the origin, for as long as the client
// stays: when it goes away the origin's connection is closed at once, so that
// no element is popped for nobody.
func (s *session) runBlocking(raw []byte) {
	if err := s.acquire(s.d.DB); err != nil {
		s.replyOriginError(err)
		return
	}
	if waitsForWrites(s.d.Cmd) && !s.leadWait() {
		return
	}
	switch line, err := s.selectPinned(s.d.DB); {
	case err != nil:
		s.replyOriginError(err)
		return
	case line != nil:
		s.replyError(errSelectRefused(line))
		return
	}
	if s.d.Foreign {
		s.claim()
	}
	s.blockPinned(raw)
}

// awaitBlocked waits for the answer of a blocking command and watches the
// client meanwhile. What the client sends in advance is kept.
func (s *session) awaitBlocked() {
	ahead := lookahead{frames: s.frames, at: s.off}
	failed := false
	how := s.watch(true, func() (time.Duration, bool) {
		failed = ahead.quit(s) && !s.endBlock("TIMEOUT")
		return 0, failed
	})
	switch {
	case failed: // endBlock has ended the session
	case how == watchedStop:
		s.wakeBlocked()
	case how == watchedLeft:
		s.leave()
	}
}

// leave ends a session that is blocked, without a word.
func (s *session) leave() {
	s.quit = true
	s.left = true
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

// outOfBand takes what the origin sends without being asked.
func (s *session) outOfBand(frame []byte, batch *origin.Batch) {
	fenced := s.p.current().fenceMessages && !s.monitors.Load()
	if fenced { // the client learns that something happened: hits must not be older
		s.p.link.Raise()
	}
	frame = s.ownRedirect(frame)
	if !s.view.on.Load() {
		if !s.pushOut(frame) {
			s.closeSlow()
		}
		s.letOut(batch, fenced)
		return
	}
	for _, shown := range s.view.show(s.p, frame) {
		if !s.pushOut(shown) {
			s.closeSlow()
			break
		}
	}
	s.letOut(batch, fenced)
}

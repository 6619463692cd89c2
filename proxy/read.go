package proxy

import (
	"errors"
	"io"
	"os"
	"time"
)

// Reading from the client on a goroutine of the session's own, and the read buffer.

// patientFor is how much of an unfinished request must come within RequestTimeout.
const patientFor = 16 << 10

// Sizes of the read buffer: what an idle client keeps, and beyond what a
// larger one is given back. What is larger than inIdle counts as held.
const (
	inIdle  = 4 << 10
	inLarge = 32 << 10
)

// read waits for more bytes.
func (s *session) read() bool {
	if s.off > 0 {
		s.in = s.in[:copy(s.in[:cap(s.in)], s.in[s.off:])]
		s.off = 0
		s.since = time.Time{}
	}
	if !s.room() {
		return false
	}
	unfinished := len(s.in) > 0
	if n := int64(len(s.in)); n != s.unread.Load() {
		s.unread.Store(n)
	}
	switch {
	case unfinished:
		if s.since.IsZero() || len(s.in)-s.mark >= patientFor {
			s.since, s.mark = time.Now(), len(s.in)
		}
		s.deadline(time.Until(s.since.Add(s.p.conf().RequestTimeout)))
	case s.p.conf().IdleTimeout > 0 && !s.subscribed() && !s.monitor:
		s.deadline(s.p.conf().IdleTimeout)
	}
	if s.stopping.Load() {
		return false
	}
	if s.runErrand() {
		return s.read()
	}
	n, err := s.conn.Read(s.in[len(s.in):cap(s.in)])
	s.in = s.in[:len(s.in)+n]
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && (s.runErrand() || !unfinished && !s.overdue()) {
		return s.read()
	}
	if n > 0 {
		if unfinished {
			s.deadline(0)
		}
		return true
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && !s.stopping.Load() {
		s.p.m.timedOut.Inc()
	}
	return false
}

// overdue tells whether the client is idle for too long, when the time for a read is over:
// it may have been waiting for an answer, or idle_timeout may be another one by now.
func (s *session) overdue() bool {
	if s.stopping.Load() {
		return true
	}
	now, timeout := clockNow(), s.p.conf().IdleTimeout
	switch {
	case s.busy():
		s.active.Store(now)
	case timeout > 0 && now-s.active.Load() >= int64(timeout):
		return true
	}
	s.deadline(0)
	return false
}

func (s *session) deadline(d time.Duration) {
	var t time.Time
	if d != 0 {
		t = time.Now().Add(d)
	}
	// An error means that the connection is gone, which the next Read says.
	_ = s.conn.SetReadDeadline(t)
}

// trusted is the part of a request that must have come before room is made for
// all of it. It is also what of a large request is copied on its way in.
const trusted = 16

// room makes room in the read buffer. It doubles at most, whatever length the
// client has announced, until a good part of that has really come.
func (s *session) room() bool {
	size := cap(s.in)
	switch {
	case len(s.in) == 0 && size > inLarge:
		s.resize(inIdle)
	case len(s.in) == size:
		grown := 2 * size
		if want := s.frames.want(); want > size && (want < grown || want >= giveSize && len(s.in) >= want/trusted) {
			grown = want
			if want >= giveSize && s.frames.args > 1 { // little follows a large argument
				grown += max(inIdle, want/64)
			}
		}
		if more := int64(max(grown, inIdle)-inIdle) - s.inHeld(); grown > inLarge {
			if !s.reserve(more) {
				s.replyError(errBusyBuffers)
				return false
			}
			s.charge(-more) // resize counts it
		}
		s.resize(grown)
	}
	return true
}

// resize gives the read buffer another size.
func (s *session) resize(size int) {
	s.charge(int64(max(size, inIdle)-inIdle) - s.inHeld())
	in := make([]byte, len(s.in), size)
	copy(in, s.in)
	s.in, s.lent = in, false
}

// inHeld is what the read buffer counts for: what is beyond an idle client's. The
// loop's, which a session that waits may keep for a while, counts like a goroutine's stack: not.
func (s *session) inHeld() int64 {
	if s.lent {
		return 0
	}
	return int64(max(cap(s.in), inIdle) - inIdle)
}

func (s *session) charge(n int64) { s.p.budget.add(&s.account, n) }

// reserve is budget.reserve for this client.
func (s *session) reserve(n int64) bool { return s.p.budget.reserve(&s.account, debts{s}, n) }

// debts is the session as its budget sees it.
type debts struct{ *session }

func (d debts) holdsMost() bool         { return d.p.worst() == d.session }
func (d debts) patience() time.Duration { return d.p.conf().RequestTimeout }
func (d debts) over() bool              { return d.shutOnce.Load() || d.p.ctx.Err() != nil }

// keep counts what the session remembers at its client's wish.
func (s *session) keep(n int) {
	s.kept += int64(n)
	s.charge(int64(n))
}

package link

import (
	"log/slog"
	"time"
)

// maxInflight bounds the PINGs that wait for an answer. One comes per interval, and those beyond it are not sent: the ones
// under way tell as much when they are answered.
const maxInflight = 64

// keepPinging writes PINGs and checks until the session is over.
func (s *session) keepPinging() {
	ping := time.NewTicker(s.terms.ping)
	defer ping.Stop()
	check := time.NewTicker(max(s.terms.maxStaleness/2, 1))
	defer check.Stop()
	s.pings.Store(true) // first: see Link.Ping
	s.ping(false)
	for {
		select {
		case <-s.ended:
			return
		case <-ping.C:
			if s.inflight.Load() < maxInflight {
				s.ping(false)
			}
		case <-s.l.kick:
			s.l.kicked.Store(false) // before looking: a fence that is raised after the look kicks again
			s.pingForFences()
		case <-check.C:
			s.check()
		}
	}
}

// ping draws a number, then takes the time, then writes: see "Fences" and "The proof". Of two that do so at once the later
// one may be written first; prove puts up with that. forFence: the caller has counted it in fencing.
func (s *session) ping(forFence bool) {
	l := s.l
	l.count.pings.Add(1)
	s.inflight.Add(1)
	seq := l.sent.Add(1)
	at := l.cfg.Now()
	s.conn.Ask(func(reply []byte, err error) { s.pong(seq, at, forFence, reply, err) }, "PING")
}

// pong takes the answer of PING seq, which was sent at that time.
func (s *session) pong(seq uint64, at int64, forFence bool, reply []byte, err error) {
	l := s.l
	s.inflight.Add(-1)
	if err != nil {
		l.end(s, "connection lost: "+err.Error())
		return
	}
	if string(reply) == "+PONG\r\n" {
		if l.prove(s, seq, at) && l.cfg.Proven != nil {
			l.cfg.Proven()
		}
		l.count.pongs.Add(1)
		l.count.roundTrip.Store(l.cfg.Now() - at)
		s.refused("")
	} else {
		l.alive(s)
		s.refused(firstLine(reply))
	}
	if forFence {
		s.fencing.Add(-1)
		s.pingForFences() // for those that were turned away meanwhile
	}
}

// refused logs what PING is answered with, when that changes.
func (s *session) refused(with string) {
	if with == s.refusal {
		return
	}
	s.refusal = with
	if with == "" {
		s.say(slog.LevelInfo, "PING on the link is answered again")
		return
	}
	s.say(slog.LevelWarn, "PING on the link is refused, freshness cannot be proven", slog.String("answer", with))
}

// prove takes PING seq as answered with PONG: everything that was written before it was sent is known. It reports
// false if s is not the connection that may speak.
func (l *Link) prove(s *session, seq uint64, at int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur != s {
		return false
	}
	s.watchdog.Reset(s.terms.patience)
	if seq > l.passed.Load() { // else a later one has overtaken it on its way out, and has proven more
		s.proof = at
		l.proof.Store(at)
		l.passed.Store(seq)
		l.publish(s)
	}
	if !s.wasServed {
		s.wasServed = true
		l.state = StateUp
		s.say(slog.LevelInfo, "link up", slog.String("source", l.source), slog.String("run_id", l.runID), slog.String("role", l.role))
	}
	l.wakeAll()
	return true
}

// publish says until when hits may be served: MaxStaleness after the older one of the proof and the check. Called with mu held.
func (l *Link) publish(s *session) {
	if s.proof == never {
		return
	}
	oldest := s.proof
	if s.mayRole || s.mayInfo {
		oldest = min(oldest, s.checked)
	}
	l.proven.Store(oldest)
	l.until.Store(oldest + int64(s.terms.maxStaleness))
}

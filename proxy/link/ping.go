package link

import (
	"log/slog"
	"time"
)

// The line is the right to write on the connection. Whoever has it writes one exchange, a PING or a check, and the answer gives
// it back: nothing else on the link is unanswered when a PING is written, which the proof rests on.

// keepPinging has PINGs and checks written until the session is over.
func (s *session) keepPinging() {
	ping := time.NewTicker(s.terms.ping)
	defer ping.Stop()
	check := time.NewTicker(max(s.terms.maxStaleness/2, 1))
	defer check.Stop()
	s.pings.Store(true) // first: see Link.Ping
	s.prove1()
	for {
		select {
		case <-s.ended:
			return
		case <-ping.C:
			s.prove1()
		case <-s.l.kick:
			s.l.kicked.Store(false) // before looking: a fence that is raised after the look kicks again
			s.write(true)
		case <-check.C:
			s.checkDue.Store(true)
			s.write(true)
		}
	}
}

// prove1 has freshness proven once, from now.
func (s *session) prove1() {
	raiseTo(&s.l.asked, s.l.sent.Load()+1)
	s.write(true)
}

// write writes what is due, if the line is free: a check, a PING if somebody waits for one, or both as one exchange. If it is not
// free, who gives it back looks again:
//
//	fence:   raised
//	fence:   the line is taken
//	reader:  PONG: gives the line back; looks, and finds the fence
//
// Without pings it is for a check only.
func (s *session) write(pings bool) {
	for s.checkDue.Load() || pings && s.l.wanted() > s.l.passed.Load() {
		if !s.line.CompareAndSwap(false, true) {
			return
		}
		check, ping := s.checkDue.Swap(false), pings && s.l.wanted() > s.l.passed.Load()
		if check = check && s.check(!ping); ping {
			s.ping()
		}
		if check || ping {
			return
		}
		s.line.Store(false)
	}
}

// release gives the line back and looks for what has become due meanwhile.
func (s *session) release(pings bool) {
	s.line.Store(false)
	s.write(pings)
}

// ping draws a number, then takes the time, then writes: see "Fences" and "The proof". The caller has the line.
func (s *session) ping() {
	l := s.l
	l.count.pings.Add(1)
	seq := l.sent.Add(1)
	if s.first == 0 {
		s.first = seq
	}
	s.sentAt[seq%maxSteps] = l.cfg.Now()
	if s.threads.asks() {
		s.conn.Queue(func(reply []byte, err error) {
			if err == nil { // else the PING has it too
				s.sawThreads(reply)
			}
		}, "CONFIG", "GET", threadsParameter)
	}
	s.conn.Ask(func(reply []byte, err error) { s.pong(seq, reply, err) }, "PING")
}

// pong takes the answer of PING seq.
func (s *session) pong(seq uint64, reply []byte, err error) {
	l := s.l
	switch {
	case err != nil:
		l.end(s, "connection lost: "+err.Error())
		return
	case string(reply) != "+PONG\r\n":
		s.doubt = true
		l.undraw(s)
		s.refused(firstLine(reply))
		s.release(false) // those who wait get a PING with the next interval, or by their own hand
		return
	}
	l.count.pongs.Add(1)
	l.count.roundTrip.Store(l.cfg.Now() - s.sentAt[seq%maxSteps])
	s.refused("")
	if s.doubt {
		s.doubt = false
		l.undraw(s)
	} else if l.prove(s, seq) && l.cfg.Proven != nil {
		l.cfg.Proven()
	}
	s.threadsOff(seq)
	s.release(true)
}

// undraw takes back the number of the last PING, whose answer proves nothing: the next one will have it. Whoever waits for it or a
// later one waits longer than it must, never shorter.
func (l *Link) undraw(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur == s { // else the number may be another connection's
		s.watchdog.Reset(s.terms.patience)
		l.sent.Add(^uint64(0))
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

// prove takes PING seq as answered with PONG. If it ends a sequence that is a proof everything that was acknowledged before the
// first one of that was sent is known. It reports false if nothing is proven, or s is not the connection that may speak.
func (l *Link) prove(s *session, seq uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur != s {
		return false
	}
	s.watchdog.Reset(s.terms.patience)
	need := s.threads.need()
	if seq+1 < s.first+need {
		return false
	}
	proven := seq + 1 - need
	if proven <= l.passed.Load() {
		return false // threads were off until now
	}
	s.proof = s.sentAt[proven%maxSteps]
	l.proof.Store(s.proof)
	l.passed.Store(proven)
	l.publish(s)
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

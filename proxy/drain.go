package proxy

import "time"

// The end of nearside: nobody new is let in, and everybody gets the answers to
// all requests that were read. What a client has sent beyond those was never
// carried out, and it sees the connection close.
//
// A client that is idle is closed at once. The others are told that nothing more
// comes (FIN) when their last answer is written, and what they still send is
// dropped unread until they close: a connection closed over unread bytes is reset,
// and answers on their way are lost with it.
//
// Who waits at Redis by BLPOP and the like is woken there, by CLIENT UNBLOCK, with
// the error that Redis itself gives when it ends such waits. Hanging up instead
// could lose the element that Redis had just popped for it.

// linger is how long a client may be silent that has got its last answer and does not close.
const linger = time.Second

// drain ends all sessions, within Config.Drain.
func (p *Proxy) drain() {
	p.mu.Lock()
	p.ending = true
	p.mu.Unlock()
	begun := time.Now()
	list := p.sessionList()
	for _, s := range list {
		s.stop()
	}
	deadline := time.NewTimer(p.conf().Drain)
	defer deadline.Stop()
	done := make(chan struct{})
	go func() {
		for _, s := range p.sessionList() {
			<-s.ended
		}
		close(done)
	}()
	select {
	case <-done:
		p.log.Info("every client has got its answers", "clients", len(list), "took", time.Since(begun).Round(time.Millisecond))
	case <-deadline.C:
		left := p.sessionList()
		p.log.Warn("the time for draining is over: closing clients that have not got all their answers", "clients", len(left), "drain", p.conf().Drain)
		p.cancel() // who waits for the origin waits no more
		for _, s := range left {
			s.shut()
		}
		<-done
	}
}

// stop makes the reader end after what it has read so far.
func (s *session) stop() {
	s.owed.Store(s.owes())
	s.stopping.Store(true)
	// An error means that the connection is gone already.
	_ = s.conn.SetReadDeadline(longAgo)
	s.wake()
}

// idle tells whether the client has had all its answers for a while: then nothing of
// them can be on its way any more. That it has asked long ago is not enough, for the
// answer may have taken as long. Where nothing is timed nobody is known to be idle.
func (s *session) idle() bool {
	if len(s.in) != s.off || s.owed.Load() {
		return false
	}
	s.q.mu.Lock()
	answered := s.q.at
	s.q.mu.Unlock()
	return time.Duration(clockNow()-max(s.active.Load(), s.served.Load())) > linger &&
		time.Duration(s.p.clock()-answered) > linger
}

// owes tells whether the client waits for anything: answers, or what was not sent yet.
func (s *session) owes() bool {
	q := &s.q
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n > 0 || q.sending || len(q.out)+len(q.full) > 0
}

// busy tells whether the client waits for anything, or has been answered since this
// was asked last: for idle_timeout it has been idle since now at the earliest.
func (s *session) busy() bool {
	owes := s.owes()
	q := &s.q
	q.mu.Lock()
	defer q.mu.Unlock()
	answered := q.popped != q.noticed
	q.noticed = q.popped
	return owes || answered
}

// farewell is the last thing that a session does for its client when nearside ends.
func (s *session) farewell() {
	half, ok := s.conn.(interface{ CloseWrite() error })
	if !ok || s.gone || s.idle() || half.CloseWrite() != nil {
		return
	}
	drop := make([]byte, inIdle)
	for s.conn.SetReadDeadline(time.Now().Add(linger)) == nil {
		if _, err := s.conn.Read(drop); err != nil {
			return // it has closed, or is silent, or drain has closed it
		}
	}
}

// wakeBlocked ends the session's wait at Redis, because nearside ends.
func (s *session) wakeBlocked() {
	if s.endBlock("ERROR") {
		s.awaitAnswers()
	}
}

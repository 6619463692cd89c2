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

// wakeBlocked ends the session's wait at Redis, because nearside ends.
func (s *session) wakeBlocked() {
	if s.endBlock("ERROR") {
		s.awaitAnswers()
	}
}

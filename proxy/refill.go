package proxy

// refills bounds the fetches for the near cache that are under way. After a
// flush or a gap of the link every hot key is missed at once; what all sessions
// together ask the origin for must leave it time for everything else.
type refills chan struct{}

// awaitRefill waits until one more fetch may be sent, and returns where done gives
// that back: a reload may change the bound meanwhile.
func (s *session) awaitRefill() (permit refills) {
	p, r := s.p, s.set.refills
	select {
	case r <- struct{}{}:
		return r
	default:
	}
	p.m.refillWaits.Inc()
	// Among the fetches that are waited for may be this session's own.
	s.waited = true
	s.block(func(closed <-chan struct{}) {
		select {
		case r <- struct{}{}:
			permit = r
		case <-closed:
		case <-p.ctx.Done(): // the request will fail at once
		}
	})
	return permit
}

// done lets the next fetch go; it never blocks.
func (r refills) done() {
	if r != nil {
		<-r
	}
}

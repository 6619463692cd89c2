package proxy

// How what is in a queue's output gets to the client.

// take hands the bytes to send to the one sender; ok is false when there is
// nothing to send or somebody else is sending.
func (q *queue) take() (full [][]byte, out []byte, ok bool) {
	if q.closed || len(q.out) == 0 && len(q.full) == 0 {
		return nil, nil, false
	}
	full, out = q.full, q.out
	q.full, q.out = nil, nil
	return full, out, true
}

// Flush sends what can be sent without waiting (origin.Flusher); if the client
// does not take it at once, a goroutine of its own goes on.
func (s *session) Flush() { s.send(atOnce) }

// sendOut sends what there is, waiting for a slow client; for the reader.
func (s *session) sendOut() {
	s.settleTimes()
	s.send(asReader)
}

// sender says how somebody sends.
type sender uint8

const (
	atOnce   sender = iota // without waiting
	asReader               // waiting, as the session's reader, which may have a loop to give up first
	aside                  // waiting, on a goroutine for that
)

// send makes the caller the sender, if there is something to send and nobody
// is sending, until nothing is left.
func (s *session) send(as sender) {
	q := &s.q
	q.mu.Lock()
	q.times.settle(&s.p.m.latency)
	if q.sending {
		q.mu.Unlock()
		return
	}
	for {
		full, out, ok := q.take()
		if !ok {
			break
		}
		q.sending = true
		q.mu.Unlock()
		if !s.tryAll(&full, &out) {
			if as == atOnce {
				go s.finishSend(full, out)
				return
			}
			if as == asReader {
				s.blocking()
			}
			s.writeAll(full, out)
		}
		q.mu.Lock()
	}
	q.sending = false
	if q.waiting {
		q.cond.Signal()
	}
	q.mu.Unlock()
}

// finishSend goes on sending for somebody who must not wait.
func (s *session) finishSend(full [][]byte, out []byte) {
	s.writeAll(full, out)
	q := &s.q
	q.mu.Lock()
	q.sending = false
	if q.waiting {
		q.cond.Signal()
	}
	q.mu.Unlock()
	s.send(aside)
}

// tryAll writes without waiting; it leaves what the client did not take.
func (s *session) tryAll(full *[][]byte, out *[]byte) bool {
	for len(*full) > 0 {
		b := (*full)[0]
		n, ok := s.tryWrite(b)
		s.sent(n)
		if !ok {
			(*full)[0] = b[n:]
			return false
		}
		(*full)[0] = nil // or the array would hold on to it
		*full = (*full)[1:]
		s.p.budget.gone(int64(len(b)))
	}
	n, ok := s.tryWrite(*out)
	s.sent(n)
	if !ok {
		*out = (*out)[n:]
		return false
	}
	s.p.buffers.put(*out)
	*out = nil
	return true
}

func (s *session) writeAll(full [][]byte, out []byte) {
	for i, b := range full {
		if s.write(b) != nil {
			return
		}
		s.sent(len(b))
		full[i] = nil // or the array would hold on to it
		s.p.budget.gone(int64(len(b)))
	}
	if s.write(out) == nil {
		s.sent(len(out))
		s.p.buffers.put(out)
	}
}

func (s *session) sent(n int) {
	if n == 0 {
		return
	}
	q := &s.q
	q.mu.Lock()
	if !q.closed { // closing has given everything back
		q.grow(s, -int64(n))
		if q.slowSince != 0 && q.size <= softPushBacklog {
			q.slowSince = 0
		}
	}
	if q.waiting {
		q.cond.Signal()
	}
	q.mu.Unlock()
}

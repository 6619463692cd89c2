package proxy

import "nearside/proxy/origin"

// keepOut is the size beyond which the reader's own output buffer is given back.
const keepOut = 16 << 10

// Replies that are known at once.

// replyRaw sends a finished reply, in its place behind the answers still to come.
func (s *session) replyRaw(b []byte) {
	switch {
	case s.captured != nil:
		*s.captured = append(*s.captured, b...)
	case s.muted():
	case s.async:
		s.local(b)
	default:
		s.wbuf = append(s.wbuf, b...)
		if len(s.wbuf) > outChunk {
			s.flushReplies()
		}
	}
}

// replyShared is replyRaw for bytes that nobody will ever change. Large ones are
// not copied, so that many slow clients of one hot value hold it once.
func (s *session) replyShared(b []byte) {
	switch {
	case len(b) <= origin.TakeSize || s.captured != nil || s.muted():
		s.replyRaw(b)
	case s.async:
		s.localShared(b)
	case s.flushReplies():
		_ = s.writeHeld(b) // with an error the session is shut
	}
}

// writeHeld writes for the reader; what the client does not take at once is
// counted while it waits.
func (s *session) writeHeld(b []byte) error {
	n, ok := s.tryWrite(b)
	if ok {
		return nil
	}
	s.blocking()
	s.charge(int64(len(b)))
	err := s.write(b[n:])
	s.charge(-int64(len(b)))
	s.restart() // what comes next is not late because of this
	return err
}

func (s *session) replyError(text string) {
	s.scratch = appendError(s.scratch[:0], text)
	s.p.m.localErrors.Inc()
	s.replyRaw(s.scratch)
}

func (s *session) replyString(text string) { s.replyRaw([]byte(text)) }

// flushReplies sends the reader's own output or whatever the queue can send.
func (s *session) flushReplies() bool {
	if s.async {
		s.sendOut()
		return true
	}
	s.settleTimes()
	if len(s.wbuf) == 0 {
		return true
	}
	err := s.writeHeld(s.wbuf)
	if cap(s.wbuf) > keepOut {
		s.wbuf = nil
	} else {
		s.wbuf = s.wbuf[:0]
	}
	return err == nil
}

// drainOut lets the last replies out before the connection closes: what the
// origin still owes, then what the client has not taken.
func (s *session) drainOut() {
	if !s.quit && !s.async {
		s.flushReplies()
		return
	}
	if s.gone { // nothing is owed to it
		return
	}
	s.awaitAnswers()
	s.flushReplies()
	q := &s.q
	q.mu.Lock()
	for s.async && !q.closed && (q.sending || len(q.out)+len(q.full) > 0) {
		if q.sending {
			q.wait()
			continue
		}
		q.mu.Unlock()
		s.sendOut()
		q.mu.Lock()
	}
	q.mu.Unlock()
}

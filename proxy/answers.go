package proxy

import "nearside/proxy/origin"

// Replies that are known at once.

// replyRaw sends a finished reply, in its place behind the answers still to come.
func (s *session) replyRaw(b []byte) {
	switch {
	case s.captured != nil:
		*s.captured = append(*s.captured, b...)
	case s.muted():
	default:
		s.reply(b)
	}
}

// replyShared is replyRaw for bytes that nobody will ever change. Large ones are
// not copied, so that many slow clients of one hot value hold it once.
func (s *session) replyShared(b []byte) {
	if len(b) <= origin.TakeSize || s.captured != nil || s.muted() {
		s.replyRaw(b)
		return
	}
	s.conn.replyShared(b)
}

func (s *session) replyError(text string) {
	s.scratch = appendError(s.scratch[:0], text)
	s.p.m.localErrors.Inc()
	s.replyRaw(s.scratch)
}

func (s *session) replyString(text string) { s.replyRaw([]byte(text)) }

package proxy

import (
	"time"

	"github.com/tidwall/redcon"

	"nearside/policy"
)

// slowlogCommand is NEARSIDE SLOWLOG GET [count] | LEN | RESET, with Redis's replies.
// An entry has three elements more than Redis's: the microseconds in the queue and at
// the origin, and the path.
func (s *session) slowlogCommand() {
	l := &s.p.slow
	sub, rest := s.args[2], s.args[3:]
	switch {
	case policy.Is(sub, "len") && len(rest) == 0:
		if s.mayRun("nearside|slowlog len") {
			s.replyRaw(redcon.AppendInt(nil, int64(l.len())))
		}
	case policy.Is(sub, "reset") && len(rest) == 0:
		if s.mayRun("nearside|slowlog reset") {
			l.reset()
			s.replyString(replyOK)
		}
	case policy.Is(sub, "get") && len(rest) <= 1:
		n := int64(slowDefault)
		if len(rest) == 1 {
			var ok bool
			if n, ok = parseLength(rest[0]); !ok || n < -1 {
				s.replyError("ERR count should be greater than or equal to -1")
				return
			}
		}
		if s.mayRun("nearside|slowlog get") {
			s.replyRaw(appendSlow(nil, l.latest(n)))
		}
	case policy.Is(sub, "len"), policy.Is(sub, "reset"), policy.Is(sub, "get"):
		s.replyError(errArity("nearside|slowlog"))
	default:
		s.replyError(errUnknownSub("nearside", string(sub)))
	}
}

func appendSlow(b []byte, list []*slowEntry) []byte {
	b = redcon.AppendArray(b, len(list))
	for _, e := range list {
		b = redcon.AppendArray(b, 9)
		b = redcon.AppendInt(b, e.id)
		b = redcon.AppendInt(b, e.at.Unix())
		b = redcon.AppendInt(b, e.took.Microseconds())
		b = redcon.AppendArray(b, len(e.args))
		for _, a := range e.args {
			b = redcon.AppendBulkString(b, a)
		}
		b = redcon.AppendBulkString(b, e.addr)
		b = redcon.AppendBulkString(b, e.name)
		for _, d := range []time.Duration{e.queue, e.origin} {
			b = redcon.AppendInt(b, d.Microseconds())
		}
		b = redcon.AppendBulkString(b, e.path.String())
	}
	return b
}

package proxy

import (
	"bytes"

	"nearside/policy"
	"nearside/proxy/origin"
)

// WAIT and WAITAOF wait until replicas, or disks, have what their own connection has
// written: Redis notes for each connection the replication offset after its last write
// (before 7.2: after its last command). The session's writes went elsewhere. So something
// that moves the offset goes ahead, on the connection that will wait: its own offset is then
// beyond all that the session has been answered.
//
// For WAIT that is a message on a channel that nobody listens to, which Redis sends its
// replicas. It does not get into the append-only file, and without replicas moves
// nothing; for WAITAOF it is a key of nearside's own, which is gone a millisecond later.
//
// A session that has written nothing has nothing to wait for, and needs no lead. One
// that has needs it each time: the connection may be another than last time. Inside MULTI
// neither command waits, and nothing goes ahead.

// waitName is the channel, and the key. A shard channel, where there are such, since
// no pattern matches it: PSUBSCRIBE * does not show it. And not the link's channel,
// whose messages are invalidations.
const waitName = policy.OwnPrefix + "wait"

// waitLeads are the requests that may go ahead of WAIT, in the order in which they are tried.
var waitLeads = [][]byte{
	origin.AppendCommand(nil, "SPUBLISH", waitName, ""),
	origin.AppendCommand(nil, "PUBLISH", waitName, ""),
}

// waitaofLeads are those of WAITAOF.
var waitaofLeads = [][]byte{origin.AppendCommand(nil, "SET", waitName, "", "PX", "1")}

// oldWaitLeads are those before 7.2, where any command does: this one answers at once, and
// the client must have the right to it.
var oldWaitLeads = [][]byte{origin.AppendCommand(nil, "WAIT", "0", "1")}

// waitsForWrites tells whether a command waits for what the session has written.
func waitsForWrites(c *policy.Command) bool {
	return c != nil && (c.Name == "wait" || c.Name == "waitaof")
}

// leadWait brings the pinned connection up to date with the session's writes. If that
// is not possible, the client is told and the answer is false: WAIT would not be true.
func (s *session) leadWait() bool {
	if !s.wrote {
		return true
	}
	leads, right := waitLeads, "+publish &"+waitName
	if s.d.Cmd.Name == "waitaof" {
		leads, right = waitaofLeads, "+set ~"+waitName
	} else if f, err := s.p.facts(); err == nil && !f.atLeast7(2) {
		leads = oldWaitLeads
	}
	var b []byte
	for _, lead := range leads {
		var err error
		if b, err = s.callPinned(s.d.DB, lead); err != nil {
			s.replyOriginError(err)
			return false
		}
		switch {
		case !isError(b):
			return true
		case !bytes.HasPrefix(b, []byte("-NOPERM")) && !bytes.HasPrefix(b, []byte("-ERR unknown command")):
			s.replyRaw(b)
			return false
		}
	}
	s.replyError("NOPERM nearside: " + s.d.Cmd.Name + " needs a right by which Redis is told what to wait for: ACL SETUSER … " + right + " (" + errorText(b) + ")")
	return false
}

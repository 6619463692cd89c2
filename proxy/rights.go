package proxy

import (
	"bytes"

	"nearside/proxy/origin"
)

// What nearside answers itself Redis has no say in, so a client that acts as a
// Redis user of its own is asked about: for each such command that reaches beyond
// the client there is a form that Redis refuses for its arguments if the user may
// run it, and with NOPERM if not. Clients that act as nearside's own user may do
// what nearside may.
var probes = map[string][]byte{
	"client|list":      origin.AppendCommand(nil, "CLIENT", "LIST", "ID", "0"),
	"client|kill":      origin.AppendCommand(nil, "CLIENT", "KILL", "ID", "0"),
	"client|pause":     origin.AppendCommand(nil, "CLIENT", "PAUSE", "x"),
	"client|unpause":   origin.AppendCommand(nil, "CLIENT", "PAUSE", "x"), // UNPAUSE has no arguments that could be wrong
	"client|no-evict":  origin.AppendCommand(nil, "CLIENT", "NO-EVICT", "x"),
	"nearside|flush":   origin.AppendCommand(nil, "FLUSHALL", "x"), // nobody else's right is nearer
	"nearside|keys":    origin.AppendCommand(nil, "SCAN", "x"),     // of NEARSIDE STATS, the part that names keys
	"nearside|slowlog": origin.AppendCommand(nil, "FLUSHALL", "x"),
}

// mayRun asks Redis whether the session's user may run a command of probes, and
// answers the client if not.
func (s *session) mayRun(name string) bool {
	probe, ok := probes[name]
	if !ok || s.user == "" {
		return true
	}
	if !s.awaitAnswers() {
		return false
	}
	b, err := s.call(s.homeDB(), probe)
	switch {
	case err != nil:
		s.replyOriginError(err)
		return false
	case bytes.HasPrefix(b, []byte("-NOPERM")):
		s.replyRaw(b)
		return false
	}
	return true
}

// mayName tells whether the client may learn what keys there are, in doubt not.
func (s *session) mayName() bool {
	if s.user == "" {
		return true
	}
	if !s.awaitAnswers() {
		return false
	}
	b, err := s.call(s.homeDB(), probes["nearside|keys"])
	return err == nil && !bytes.HasPrefix(b, []byte("-NOPERM"))
}

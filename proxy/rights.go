package proxy

import "bytes"

// What nearside answers itself Redis has no say in, so a client that acts as a
// Redis user of its own is asked about: for each such command that reaches beyond
// the client there is a form that Redis refuses for its arguments if the user may
// run it, and with NOPERM if not. Clients that act as nearside's own user may do
// what nearside may.
var probes = map[string][]string{
	"list":     {"CLIENT", "LIST", "ID", "0"},
	"kill":     {"CLIENT", "KILL", "ID", "0"},
	"pause":    {"CLIENT", "PAUSE", "x"},
	"unpause":  {"CLIENT", "PAUSE", "x"}, // UNPAUSE has no arguments that could be wrong
	"no-evict": {"CLIENT", "NO-EVICT", "x"},
	"flush":    {"FLUSHALL", "x"}, // NEARSIDE FLUSH: nobody else's right is nearer
}

// mayRun asks Redis whether the session's user may run a command of probes, and
// answers the client if not.
func (s *session) mayRun(name string) bool {
	probe, ok := probes[name]
	if !ok || s.user == "" {
		return true
	}
	args := make([][]byte, len(probe))
	for i, a := range probe {
		args[i] = []byte(a)
	}
	if !s.awaitAnswers() {
		return false
	}
	b, err := s.call(s.homeDB(), appendArgs(nil, args))
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

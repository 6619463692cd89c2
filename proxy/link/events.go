package link

import (
	"strings"
)

// What notify-keyspace-events must say: K has events sent by key, A stands for all kinds of them. What A leaves out is
// not needed: m (a look-up found nothing, no change) and n (a key is new, which its own event tells as well).
const (
	needEvents = "KA"
	allEvents  = "g$lshztxe" // A; d, of modules, is in A too but need not be
)

// enoughEvents says whether every change of a key has an event with these flags.
func enoughEvents(flags string) bool {
	if !strings.Contains(flags, "K") {
		return false
	}
	if strings.Contains(flags, "A") {
		return true
	}
	for _, kind := range allEvents {
		if !strings.ContainsRune(flags, kind) {
			return false
		}
	}
	return true
}

// withEvents adds what is missing to the flags and takes nothing away.
func withEvents(flags string) string {
	all := needEvents
	for _, f := range flags {
		if !strings.ContainsRune(all+allEvents+"d", f) {
			all += string(f)
		}
	}
	return all
}

const eventsParameter = "notify-keyspace-events"

// parseEvents reads the reply to CONFIG GET notify-keyspace-events.
func parseEvents(reply []byte) (flags string, ok bool) {
	return parseParameter(reply, eventsParameter)
}

// parseParameter reads the reply to CONFIG GET of one parameter.
func parseParameter(reply []byte, parameter string) (value string, ok bool) {
	p := parser{rest: reply}
	n, ok := p.length('%')
	if ok {
		n *= 2
	} else if n, ok = p.length('*'); !ok {
		return "", false
	}
	if n != 2 {
		return "", false
	}
	name, ok := p.text()
	if !ok || string(name) != parameter {
		return "", false
	}
	text, ok := p.text()
	return string(text), ok && p.end() == nil
}

// readyEvents returns nil when notify-keyspace-events says enough, after having set it if that is allowed.
func (s *session) readyEvents() error {
	reply, err := s.ask("CONFIG", "GET", eventsParameter)
	if err != nil {
		return err
	}
	err = judgeEvents(reply)
	if err == nil || !s.l.cfg.SetEvents {
		return err
	}
	flags, ok := parseEvents(reply)
	if !ok {
		return err
	}
	return s.setEvents(flags)
}

// setEvents adds to the flags. Somebody else may change them between a look and a CONFIG SET: so the CONFIG GET in the same
// MULTI tells what was really replaced, and what that had more is added as well.
func (s *session) setEvents(flags string) error {
	for range 3 {
		want := withEvents(flags)
		var reply []byte
		for _, args := range [][]string{
			{"MULTI"},
			{"CONFIG", "GET", eventsParameter},
			{"CONFIG", "SET", eventsParameter, want},
			{"EXEC"},
		} {
			var err error
			if reply, err = s.ask(args...); err != nil {
				return err
			}
			if len(reply) == 0 || reply[0] == '-' {
				// Whether a transaction is open now does not matter: the connection is given up.
				return refused("nearside may not set %s to %s: %s was answered %s", eventsParameter, want, args[0], firstLine(reply))
			}
		}
		replaced, ok := parseReplaced(reply)
		if !ok {
			return refused("nearside could not set %s to %s: EXEC was answered %q", eventsParameter, want, firstLine(reply))
		}
		more := withEvents(want + replaced)
		if len(more) == len(want) {
			return nil
		}
		flags = more
	}
	return refused("somebody else keeps changing %s", eventsParameter)
}

// parseReplaced reads the reply to EXEC of CONFIG GET and CONFIG SET.
func parseReplaced(reply []byte) (flags string, ok bool) {
	p := parser{rest: reply}
	if n, ok := p.length('*'); !ok || n != 2 {
		return "", false
	}
	const done = "+OK\r\n"
	get, ok := strings.CutSuffix(string(p.rest), done)
	if !ok {
		return "", false
	}
	return parseEvents([]byte(get))
}

// judgeEvents says what is wrong with the reply to CONFIG GET notify-keyspace-events. Without the answer nothing is known of what
// Redis does not tell: hits stay off.
func judgeEvents(reply []byte) error {
	flags, ok := parseEvents(reply)
	switch {
	case denied(reply):
		return refused("CONFIG GET is not permitted: whether %s is enough cannot be known, so hits stay off", eventsParameter)
	case !ok:
		return refused("CONFIG GET %s was answered %q", eventsParameter, firstLine(reply))
	case !enoughEvents(flags):
		return refused("%s is %q, which is not enough, so hits stay off: CONFIG SET %[1]s %[3]s, or cache.keyspace_events: set", eventsParameter, flags, withEvents(flags))
	}
	return nil
}

package link

import (
	"bytes"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
)

// How many PONGs in sequence are a proof where the origin's io-threads are on: see "The proof" in the package's
// documentation.
const (
	plainSteps  = 1 // io-threads make no difference, or are off
	redisSteps  = 2 // Redis 8
	valkeySteps = 3 // Valkey 8 and 9, and what is not known
	maxSteps    = valkeySteps
)

const threadsParameter = "io-threads"

// threading is what the link knows of the threads that write the origin's replies. Before the first PING it belongs to
// drive, then to whoever has the line.
type threading struct {
	server  string // as it calls itself
	steps   uint64 // PONGs that are a proof while io-threads are on
	varies  bool   // their number can be changed while the server runs
	on      bool   // they are on, or nobody knows
	count   int    // what CONFIG GET said last; 0: nothing
	may     bool   // CONFIG GET is permitted
	offFrom uint64 // not 0: they are off, and when this PING is answered one PONG is enough
}

// need is the number of PONGs in sequence that are a proof now.
func (t *threading) need() uint64 {
	if t.on {
		return t.steps
	}
	return plainSteps
}

// asks says whether each PING must have the question with it. Where threads cannot be switched on later the checks ask, in case that
// this is not known rightly. Where the answer has been "on" the most is demanded anyway.
func (t *threading) asks() bool { return t.varies && t.may && !t.on }

// why is for an operator to read; "" where one PONG is enough.
func (t *threading) why() string {
	switch {
	case t.need() == plainSteps:
		return ""
	case t.count > 1:
		return fmt.Sprintf("%s, %s is %d", t.server, threadsParameter, t.count)
	case !t.may:
		return fmt.Sprintf("%s, and CONFIG GET is not permitted: %s may be on", t.server, threadsParameter)
	case t.count == 1:
		return fmt.Sprintf("%s, %s was on until now", t.server, threadsParameter)
	}
	return fmt.Sprintf("%s, and it does not say what %s is", t.server, threadsParameter)
}

// learnThreads asks what the origin is and how many threads it has. Keyspace notifications are written when a key changes, in order
// with all replies: threads make no difference to them.
func (s *session) learnThreads() error {
	t := &s.threads
	if s.byKeyspace() {
		t.steps = plainSteps
		s.explainSteps(plainSteps)
		return nil
	}
	info, err := s.ask("INFO", "server")
	if err != nil {
		return err
	}
	if denied(info) {
		hello, err := s.ask("HELLO", "3") // needs no right
		if err != nil {
			return err
		}
		t.threadsOf(serverByHello(hello))
	} else {
		t.threadsOf(serverByInfo(info))
	}
	if t.steps > plainSteps {
		t.on, t.may = true, true
		reply, err := s.ask("CONFIG", "GET", threadsParameter)
		if err != nil {
			return err
		}
		t.first(reply)
	}
	s.explainSteps(plainSteps)
	return nil
}

// first takes the first answer to CONFIG GET. Nothing has been proven on this connection: "off" counts at once, since the first
// PING is sent later.
func (t *threading) first(reply []byte) {
	n, ok := parseThreads(reply)
	t.count, t.may = n, !denied(reply)
	t.on = !ok || n != 1
}

// sawThreads takes a later answer. "On" counts at once, for the PING that was asked together with it as well. "Off" does when as
// many PINGs as are a proof with threads have been answered since: until then there may be writes from before that are
// acknowledged and not told.
func (s *session) sawThreads(reply []byte) {
	t := &s.threads
	was := t.need()
	n, ok := parseThreads(reply)
	switch {
	case ok && n == 1:
		t.count = 1
		if t.on && t.offFrom == 0 {
			t.offFrom = s.l.sent.Load() + t.steps
		}
	case ok || denied(reply):
		t.count, t.may = n, !denied(reply)
		t.on, t.offFrom = true, 0
	default: // as -BUSY: the PING that comes with it is answered so, too
		return
	}
	s.explainSteps(was)
}

// threadsOff takes PING seq as answered.
func (s *session) threadsOff(seq uint64) {
	t := &s.threads
	if t.offFrom == 0 || seq < t.offFrom {
		return
	}
	was := t.need()
	t.on, t.offFrom = false, 0
	s.explainSteps(was)
}

// explainSteps tells Stats, and the log if the number is another one.
func (s *session) explainSteps(was uint64) {
	now, why := s.threads.need(), s.threads.why()
	s.l.mu.Lock()
	if s.l.cur == s {
		s.l.steps, s.l.whySteps = int(now), why
	}
	s.l.mu.Unlock()
	if now != was {
		s.say(slog.LevelInfo, "another number of PINGs is a proof from now on", slog.Uint64("pings", now), slog.String("reason", why))
	}
}

// parseThreads reads the reply to CONFIG GET io-threads. It is not ok where the server does not know the parameter.
func parseThreads(reply []byte) (n int, ok bool) {
	value, ok := parseParameter(reply, threadsParameter)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(value)
	return n, err == nil && n > 0
}

// A server is what the origin says that it is.
type server struct {
	name, version string
	major         int // 0: not known
}

func (v server) String() string { return v.name + " " + v.version }

// threadsOf notes what io-threads mean on that server.
func (t *threading) threadsOf(v server) {
	t.server, t.steps, t.varies = v.String(), valkeySteps, true
	switch {
	case v.name == "Redis" && v.major == 8:
		t.steps, t.varies = redisSteps, false
	case v.name == "Redis" && v.major > 8:
		t.steps = redisSteps
	case v.name == "Valkey" && v.major == 8:
		t.varies = false
	case v.major > 0 && v.major < 8:
		t.steps, t.varies = plainSteps, false
	}
}

// serverByInfo reads INFO server. Forks say that they are Redis too, of the version that they came from, and tell their own in a
// field of their own.
func serverByInfo(reply []byte) server {
	p := parser{rest: reply}
	text, _ := p.text()
	var redis, valkey, fork string
	for line := range bytes.Lines(text) {
		field, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		switch of, isVersion := bytes.CutSuffix(field, []byte("_version")); {
		case string(field) == "redis_version":
			redis = string(value)
		case string(field) == "valkey_version":
			valkey = string(value)
		case isVersion && string(of) != "gcc", string(field) == "server_name" && string(value) != "valkey":
			fork = string(field) + " " + string(value)
		}
	}
	switch {
	case fork != "":
		return server{name: "an unknown server,", version: fork}
	case valkey != "":
		return serverOf("Valkey", valkey)
	}
	return serverOf("Redis", redis)
}

// serverByHello reads the reply to HELLO. Valkey with extended-redis-compatibility says there that it is Redis 7.2.4.
func serverByHello(reply []byte) server {
	field := func(name string) string {
		_, rest, ok := bytes.Cut(reply, fmt.Appendf(nil, "$%d\r\n%s\r\n", len(name), name))
		p := parser{rest: rest}
		text, is := p.text()
		if !ok || !is {
			return ""
		}
		return string(text)
	}
	version := field("version")
	switch name := field("server"); {
	case name == "valkey":
		return serverOf("Valkey", version)
	case name == "redis" && version == "7.2.4":
		return server{name: "Redis or Valkey", version: version}
	case name == "redis":
		return serverOf("Redis", version)
	}
	return server{name: "an unknown server", version: version}
}

func serverOf(name, version string) server {
	digits, _, _ := strings.Cut(version, ".")
	major, err := strconv.Atoi(digits)
	if err != nil || major < 1 {
		return server{name: "an unknown server,", version: name + " " + version}
	}
	return server{name, version, major}
}

package proxy

import (
	"strings"

	"nearside/policy"
)

// subscriptions are what the session listens to, as Redis has confirmed it.
type subscriptions struct {
	channels, patterns, shards names

	kept int // bytes counted for them
}

// names is a set of channels or patterns.
type names map[string]struct{}

// nameBytes is about what a name takes beside its own bytes.
const nameBytes = 32

// change adds the names to a set, or with un takes them out (all without any
// name), and returns by how many bytes the set has grown.
func (n *names) change(un bool, list [][]byte) (bytes int) {
	if *n == nil {
		*n = names{}
	}
	if un && len(list) == 0 {
		for name := range *n {
			bytes -= len(name) + nameBytes
		}
		clear(*n)
	}
	for _, name := range list {
		_, has := (*n)[string(name)]
		switch {
		case un && has:
			delete(*n, string(name))
			bytes -= len(name) + nameBytes
		case !un && !has:
			(*n)[string(name)] = struct{}{}
			bytes += len(name) + nameBytes
		}
	}
	return bytes
}

func (u *subscriptions) keep(s *session, bytes int) {
	u.kept += bytes
	s.keep(bytes)
}

func (u *subscriptions) forget(s *session) {
	s.keep(-u.kept)
	*u = subscriptions{}
	s.view.forget(s)
}

func (u *subscriptions) count() int { return len(u.channels) + len(u.patterns) + len(u.shards) }

func (s *session) subscribed() bool { return s.subs.count() > 0 }

// inPubSub tells whether Redis would restrict the session to pub/sub commands.
func (s *session) inPubSub() bool { return s.proto == 2 && s.subscribed() }

// set returns the set that a command works on.
func (u *subscriptions) set(name string) *names {
	switch name {
	case "psubscribe", "punsubscribe":
		return &u.patterns
	case "ssubscribe", "sunsubscribe":
		return &u.shards
	}
	return &u.channels
}

// allowedSubscribed answers what a RESP2 client may not send while subscribed.
func (s *session) allowedSubscribed(d *policy.Decision) bool {
	if d.Cmd != nil {
		if d.Cmd.Pin == policy.PinSub {
			return true
		}
		switch d.Cmd.Name {
		case "quit", "reset":
			return true
		case "ping":
			if d.Cmd.ArityOK(len(s.args)) && s.mayRun("ping") {
				s.pingSubscribed()
			}
			return false
		}
	}
	s.path = pathRefused
	switch { // Redis looks at the command first
	case d.Cmd == nil:
		s.replyError(s.unknownError())
		return false
	case !d.Cmd.ArityOK(len(s.args)) && d.Cmd.Name != "exec":
		s.replyError(errArity(d.Cmd.Name))
		return false
	}
	prefix := "ERR"
	if d.Cmd.Name == "exec" {
		prefix = "EXECABORT Transaction discarded because of:"
		if !d.Cmd.ArityOK(len(s.args)) {
			s.replyError(prefix + strings.TrimPrefix(errArity("exec"), "ERR"))
			return false
		}
	}
	s.replyError(prefix + " Can't execute '" + d.Cmd.Name + "': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context")
	return false
}

// subscribe runs SUBSCRIBE and its relatives. Redis confirms each channel by a
// frame of its own, or refuses the whole command by one error.
func (s *session) subscribe(raw []byte) {
	name := s.d.Cmd.Name
	un := strings.Contains(name, "unsub")
	set := s.subs.set(name)
	frames := len(s.args) - 1
	if un && frames == 0 {
		frames = max(1, len(*set))
	}
	if err := s.acquire(s.d.DB); err != nil {
		s.replyOriginError(err)
		return
	}
	if !s.awaitAnswers() { // from here on arrays may be messages
		return
	}
	if s.proto == 2 {
		s.pin.conn.SetSubscribed(true)
	}
	if !un {
		s.watchPin()
	}
	if s.needsView(un, set) {
		s.subscribeViewed(un, set)
		s.endSubscribed()
		return
	}
	refused := false
	sl := s.slot()
	sl.finish = func(_ *slot, b []byte, err error) []byte {
		if err != nil {
			b = appendError(nil, s.p.originError(err))
		}
		refused = b[0] == '-'
		sl.mute = sl.mute && refused // CLIENT REPLY OFF is not for confirmations
		return b
	}
	// Negative: so many replies, or a single error instead.
	s.sendPinned(sl, -1, raw, -frames)
	if !s.awaitAnswers() {
		return
	}
	if !refused {
		s.subs.keep(s, set.change(un, s.args[1:]))
		s.publish()
	}
	s.endSubscribed()
}

// endSubscribed lets the connection go back if nothing is subscribed to any more.
func (s *session) endSubscribed() {
	if s.subscribed() {
		return
	}
	s.view.forget(s)
	s.pin.conn.SetSubscribed(false)
	if !s.pushes() {
		s.unwatchPin()
	}
}

// pingSubscribed answers PING as Redis does in RESP2's pub/sub mode.
func (s *session) pingSubscribed() {
	switch len(s.args) {
	case 1:
		s.replyString("*2\r\n$4\r\npong\r\n$0\r\n\r\n")
	case 2:
		s.replyRaw(appendArgs(nil, [][]byte{[]byte("pong"), s.args[1]}))
	default:
		s.replyError(errArity("ping"))
	}
}

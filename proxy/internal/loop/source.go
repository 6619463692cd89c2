package loop

import "sync/atomic"

// Owner is whom a Source's bytes are for.
type Owner interface {
	// Ready is called on the loop's goroutine when something has come, or the
	// source was woken. It holds the source and must end with Rest, Again or Take;
	// it must not wait unless it has called Turn.Leave.
	Ready(t *Turn)
	// Woken runs on a goroutine of its own and holds the source, as after Take,
	// when Wake found nobody reading.
	Woken()
}

// Who reads from a source.
const (
	taken int32 = iota // a goroutine of the owner's
	idle               // nobody: the loop will when something comes
	runs               // the owner's Ready does at this moment
	again              // … and something has come since it began
)

// Source is a Socket in a loop's care.
type Source struct {
	*Socket
	loop   *Loop
	owner  Owner
	state  atomic.Int32
	hungUp atomic.Bool
	member bool // of the loop's; the holder's
	urgent bool // the holder's, and the socket's lock's
}

// NewSource puts a socket into l's care. Its owner holds it, as after Take, until it rests.
func (l *Loop) NewSource(s *Socket, owner Owner) *Source {
	return &Source{Socket: s, loop: l, owner: owner}
}

// Loop is the one that it was made for.
func (s *Source) Loop() *Loop { return s.loop }

// SetUrgent says whether the source is to be looked for more often than others:
// not at the end of a round only. For who holds it.
func (s *Source) SetUrgent(urgent bool) {
	switch {
	case urgent == s.urgent:
	case s.member:
		s.loop.move(s, urgent)
	default:
		s.urgent = urgent
	}
}

// HungUp tells whether the other side has closed its half or all of it: then no
// further event will tell that there is an end behind what can be read. It is also true
// once the other side has sent urgent data, before which a read ends although more has come.
func (s *Source) HungUp() bool { return s.hungUp.Load() }

// claim is the loop's: something has come. It reports whether the caller is to
// call Ready.
func (s *Source) claim() bool {
	for {
		switch s.state.Load() {
		case idle:
			if s.state.CompareAndSwap(idle, runs) {
				return true
			}
		case runs:
			if s.state.CompareAndSwap(runs, again) {
				return false
			}
		default:
			return false
		}
	}
}

// Rest lets go of the source until something comes. It reports false if something
// has come since Ready began: then the caller still holds it, and is to read on.
// After true, nothing of the owner may be touched that its holder alone may touch.
func (s *Source) Rest() bool {
	if s.state.CompareAndSwap(runs, idle) {
		return true
	}
	s.state.Store(runs)
	return false
}

// Again lets go of the source for the sake of the others; Ready is called again in
// the next round. t is nil outside of Ready.
func (s *Source) Again(t *Turn) {
	s.state.Store(idle)
	s.loop.again(s, t)
}

// Take keeps the source for a goroutine of the owner's own.
func (s *Source) Take() { s.state.Store(taken) }

// Return is the end of Take: Ready is called in the next round, since what came
// until now was reported to nobody. After true, nothing of the owner may be touched
// that its holder alone may touch. It reports false if the loop cannot watch the
// socket; then the caller still holds it.
func (s *Source) Return() bool {
	if !s.member && !s.loop.add(s) {
		return false
	}
	s.member = true
	s.Again(nil)
	return true
}

// Wake sees to it that the owner notices what was done to it or to its socket.
func (s *Source) Wake() {
	for {
		switch s.state.Load() {
		case idle:
			if s.state.CompareAndSwap(idle, taken) {
				go s.owner.Woken()
				return
			}
		case runs:
			if s.state.CompareAndSwap(runs, again) {
				return
			}
		default: // whoever reads notices
			return
		}
	}
}

// Idle tells whether nobody reads from it; for tests.
func (s *Source) Idle() bool { return s.state.Load() == idle }

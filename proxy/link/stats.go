package link

import (
	"sync/atomic"
	"time"
)

// Stats are counts since New.
type Stats struct {
	Pushes     uint64 // push frames
	Keys       uint64 // keys that CLIENT TRACKING told of
	Events     uint64 // keyspace notifications of changes
	Messages   uint64 // messages on Channel
	Nulls      uint64 // pushes that invalidated everything
	Silents    uint64 // checks that found a command that the source is silent about
	Pings      uint64
	Pongs      uint64
	Checks     uint64 // checks answered
	Connects   uint64 // times that changes were reported again
	Reconnects uint64 // of these, after the first
	Fences     uint64
	Syncs      uint64        // reads that waited for a PING of their own
	RoundTrip  time.Duration // of the last PING answered with PONG
	Steps      int           // PONGs in sequence that are a proof: 1, or more where io-threads are on or may be; 0 before the first connection
	WhySteps   string        // if more than one, why
	Role       string        // of the server, when the link last came up; "" if not permitted
	Down       string        // why it is down; "" while it is not
	Silent     string        // what the link cannot notice, and why, or why the origin's answers keep hits off; "" if nothing
}

type counters struct {
	pushes, keys, nulls, silent atomic.Uint64
	events, messages            atomic.Uint64
	pings, pongs, checks        atomic.Uint64
	connects, fences, syncs     atomic.Uint64
	roundTrip                   atomic.Int64
}

// Stats returns the counts.
func (l *Link) Stats() Stats {
	c := &l.count
	st := Stats{
		Pushes:    c.pushes.Load(),
		Keys:      c.keys.Load(),
		Events:    c.events.Load(),
		Messages:  c.messages.Load(),
		Nulls:     c.nulls.Load(),
		Silents:   c.silent.Load(),
		Pings:     c.pings.Load(),
		Pongs:     c.pongs.Load(),
		Checks:    c.checks.Load(),
		Connects:  c.connects.Load(),
		Fences:    c.fences.Load(),
		Syncs:     c.syncs.Load(),
		RoundTrip: time.Duration(c.roundTrip.Load()),
	}
	if st.Connects > 1 {
		st.Reconnects = st.Connects - 1
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	st.Role, st.Silent = l.role, l.silent
	st.Steps, st.WhySteps = l.steps, l.whySteps
	if l.state != StateUp {
		st.Down = l.down
	}
	return st
}

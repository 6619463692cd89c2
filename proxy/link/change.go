package link

import (
	"context"
	"slices"
	"time"
)

// terms are what of the configuration can change while the link runs (Change). A
// connection keeps those that it began with.
type terms struct {
	prefixes     []string
	ping         time.Duration
	maxStaleness time.Duration
	patience     time.Duration // without any answer for so long the connection counts as lost
}

// termsOf puts the defaults in.
func termsOf(prefixes []string, ping, maxStaleness time.Duration) *terms {
	if maxStaleness <= 0 {
		maxStaleness = time.Second
	}
	if ping <= 0 {
		ping = 100 * time.Millisecond
	}
	return &terms{
		prefixes:     prefixes,
		ping:         max(min(ping, maxStaleness/2), 1),
		maxStaleness: maxStaleness,
		patience:     max(3*maxStaleness, 3*time.Second),
	}
}

func (t *terms) equal(o *terms) bool {
	return slices.Equal(t.prefixes, o.prefixes) && t.ping == o.ping && t.maxStaleness == o.maxStaleness
}

// Change gives the link other prefixes, interval and bound, and calls swap, in
// which the caller begins to rely on them. If anything is different hits stop first,
// and they are served again when a new connection has been through everything that
// a reconnect does. No connection is made before swap has returned:
//
//	link:    the prefix p: is gone; a new connection is up, without it
//	session: by the old rules p:1 is cached still: read, stored
//	other:   writes p:1; Redis has nobody to tell
//	session: by the old rules: a hit
//
// Adding prefixes to those of a living connection would spare some milliseconds
// without hits. But Redis takes none away and refuses those that overlap, so the
// other way would be needed as well. One call at a time; swap must not call the link.
func (l *Link) Change(prefixes []string, ping, maxStaleness time.Duration, swap func()) (changed bool) {
	next := termsOf(prefixes, ping, maxStaleness)
	if l.terms.Load().equal(next) {
		swap()
		return false
	}
	held := make(chan struct{})
	l.mu.Lock()
	l.held = held
	s := l.cur
	l.mu.Unlock()
	if s != nil {
		l.end(s, changedTerms)
	}
	l.terms.Store(next)
	l.window.Store(2 * int64(next.maxStaleness))
	swap()
	l.mu.Lock()
	l.held = nil
	l.mu.Unlock()
	close(held)
	return true
}

const changedTerms = "the configuration has changed"

// begin makes s the connection that may speak, by the terms of that moment, but not
// while they are changing.
func (l *Link) begin(ctx context.Context, s *session) {
	for !l.tryBegin(s) {
		l.mu.Lock()
		held := l.held
		l.mu.Unlock()
		if held == nil {
			continue
		}
		select {
		case <-held:
		case <-ctx.Done(): // attend says so
			return
		}
	}
}

// tryBegin reports false while the terms are changing.
func (l *Link) tryBegin(s *session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.over { // it pushed nonsense while it was dialled
		l.state = StateDown
		return true
	}
	if l.held != nil {
		return false
	}
	l.cur, s.terms = s, l.terms.Load()
	s.watchdog = time.AfterFunc(s.terms.patience, func() {
		l.end(s, "no answer for "+s.terms.patience.String())
	})
	return true
}

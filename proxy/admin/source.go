package admin

import (
	"context"
	"io"
	"time"
)

// Source is what the endpoints report. Every method may be called from many
// goroutines at once.
type Source interface {
	// WriteMetrics writes everything that is counted, as Prometheus text.
	WriteMetrics(w io.Writer)
	// CacheMetrics is what each cache rule did, by its name (RuleNames).
	CacheMetrics() map[string]RuleMetrics
	// Health performs the self test: a real set, get and delete of a key of its
	// own, the way a client would do it.
	Health(ctx context.Context) Health
	// Status is the state of the moment; it does no I/O.
	Status() Status
	// Reload reads the configuration again and returns what has changed. With an
	// error, which is for the operator to read, nothing has.
	Reload() ([]string, error)
}

// RuleMetrics is what one cache rule did since nearside began and, where windows
// are kept, in the current and in the last one.
type RuleMetrics struct {
	Counts
	CurrentHour *Window `json:"currentHour,omitempty"`
	LastHour    *Window `json:"lastHour,omitempty"`
}

// Window is what a cache rule did in one window of time, which is an hour unless
// it is configured otherwise.
type Window struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"` // of the current window: its end to come
	Counts
}

// Counts is what a cache rule did in some time.
type Counts struct {
	Hits          uint64  `json:"hits"`
	Misses        uint64  `json:"misses"`
	Sets          uint64  `json:"sets"`
	Dels          uint64  `json:"dels"`
	TotalRequests uint64  `json:"totalRequests"`
	HitRate       float64 `json:"hitRate"` // percent; 0 while nothing was asked
}

// NewCounts adds what follows from the four.
func NewCounts(hits, misses, sets, dels uint64) Counts {
	return Counts{Hits: hits, Misses: misses, Sets: sets, Dels: dels, TotalRequests: hits + misses, HitRate: HitRate(hits, misses)}
}

// Less is what was counted since an earlier time.
func (c Counts) Less(before Counts) Counts {
	return NewCounts(c.Hits-before.Hits, c.Misses-before.Misses, c.Sets-before.Sets, c.Dels-before.Dels)
}

// Health is the outcome of one self test.
type Health struct {
	Error string   // why it failed; "" when it passed
	Notes []string // what an operator should know all the same
	Link  *Link    // where changes are learned from, and whether hits may be answered; nil: nothing is said
}

// Status is the state of the moment.
type Status struct {
	Ready    bool   // the listeners are open and it is not shutting down
	Draining bool   // it is shutting down
	Origin   Origin // Redis
	Link     Link   // where changes are learned from
}

// Origin is the state of the Redis behind nearside.
type Origin struct {
	Up      bool
	Address string // without credentials
	Error   string // the last error while it is down
}

// Link is the state of the source of invalidations.
type Link struct {
	Source    string        // tracking, keyspace, none, embedded
	State     string        // down, connecting, up, bypassed, none, embedded
	Up        bool          // hits may be answered
	Error     string        // why it is down
	Staleness time.Duration // no hit of this moment is older than that
	Bound     time.Duration // and none ever will be than that; 0: unbounded
	Proof     int           // PINGs, one after the other, that prove it; 0: there is no connection
	ProofWhy  string        // if more than one, why
}

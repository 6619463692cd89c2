package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Report is what a run found.
type Report struct {
	Reads, Writes, Errors, Unknown atomic.Int64
	Locks, Contended               atomic.Int64 // acquisitions; attempts that found the lock taken
	Linear                         int          // operations given to porcupine
	Cycles                         map[string]int
	Compared                       int64 // keys compared after quiet
	Hits, Asked                    [2]int64
	Pushes, Dropped                [2]int64
	Notes                          map[string]int // what is no violation, but worth a look
	Took                           time.Duration

	mu      sync.Mutex
	kinds   map[string]int
	first   map[string]string
	visible []time.Duration
	stalest [2]time.Duration // healthy, under faults
}

func newReport() *Report {
	return &Report{Cycles: map[string]int{}, Notes: map[string]int{}, kinds: map[string]int{}, first: map[string]string{}}
}

func (r *Report) violation(kind, trace string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kinds[kind]++
	if r.first[kind] == "" {
		r.first[kind] = trace
	}
}

func (r *Report) note(what, trace string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Notes[what]++
	if r.Notes[what] == 1 {
		r.first["note: "+what] = trace
	}
}

func (r *Report) stale(d time.Duration, faulty bool) {
	i := 0
	if faulty {
		i = 1
	}
	r.mu.Lock()
	r.stalest[i] = max(r.stalest[i], d)
	r.mu.Unlock()
}

func (r *Report) saw(d time.Duration) {
	r.mu.Lock()
	r.visible = append(r.visible, d)
	r.mu.Unlock()
}

// Violations is their number, of some kinds or of all.
func (r *Report) Violations(kinds ...string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for k, c := range r.kinds {
		if len(kinds) == 0 || slices.Contains(kinds, k) {
			n += c
		}
	}
	return n
}

func (r *Report) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "took            %v\n", r.Took.Round(time.Millisecond))
	fmt.Fprintf(&b, "operations      %d reads, %d writes, %d errors (%d of them writes of unknown outcome), %d for porcupine\n",
		r.Reads.Load(), r.Writes.Load(), r.Errors.Load(), r.Unknown.Load(), r.Linear)
	fmt.Fprintf(&b, "locks           %d acquisitions, %d contended attempts\n", r.Locks.Load(), r.Contended.Load())
	for i := range r.Hits {
		fmt.Fprintf(&b, "nearside %s      %d hits of %d (%.1f %%)", viaNames[i+1], r.Hits[i], r.Asked[i], 100*float64(r.Hits[i])/float64(max(1, r.Asked[i])))
		if r.Pushes[i] > 0 { // they are counted only where the relay looks into what it carries
			fmt.Fprintf(&b, ", %d invalidations, %d of them swallowed", r.Pushes[i], r.Dropped[i])
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "cycles          %s; %d comparisons after quiet\n", counts(r.Cycles), r.Compared)
	slices.Sort(r.visible)
	if n := len(r.visible); n > 0 {
		fmt.Fprintf(&b, "write elsewhere to visible, healthy: p50 %v, p99 %v, max %v of %d\n",
			r.visible[n/2], r.visible[n*99/100], r.visible[n-1], n)
	}
	fmt.Fprintf(&b, "oldest answer   overwritten %v before it was asked for while healthy, %v under faults\n", r.stalest[0], r.stalest[1])
	fmt.Fprintf(&b, "notes           %s\n", counts(r.Notes))
	fmt.Fprintf(&b, "violations      %s\n", counts(r.kinds))
	for _, k := range sorted(r.first) {
		fmt.Fprintf(&b, "--- first %s\n%s\n", k, r.first[k])
	}
	return b.String()
}

func counts(m map[string]int) string {
	if len(m) == 0 {
		return "none"
	}
	var parts []string
	for _, k := range sorted(m) {
		parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(parts, ", ")
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

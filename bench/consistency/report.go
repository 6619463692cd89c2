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
	Ways                           map[string]int // of writing
	Compared                       int64          // keys compared after quiet
	Audited                        int64          // hits that nearside has compared itself, and confirmed
	Hits, Asked                    [2]int64
	Pushes, Dropped                [2]int64
	Notes                          map[string]int // what is no violation, but worth a look
	Figures                        []string       // of scale runs
	Took                           time.Duration

	violated chan struct{} // closed at the first violation

	mu      sync.Mutex
	kinds   map[string]int
	first   map[string]string
	visible []time.Duration
	stalest [2]time.Duration // healthy, under faults
}

func newReport() *Report {
	return &Report{
		Cycles: map[string]int{}, Ways: map[string]int{}, Notes: map[string]int{}, violated: make(chan struct{}),
		kinds: map[string]int{}, first: map[string]string{},
	}
}

func (r *Report) violation(kind, trace string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.kinds) == 0 {
		close(r.violated)
	}
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

func (r *Report) judged(operations int) {
	r.mu.Lock()
	r.Linear += operations
	r.mu.Unlock()
}

func (r *Report) wrote(way string) {
	r.mu.Lock()
	r.Ways[way]++
	r.mu.Unlock()
}

func (r *Report) cycle(fault string) {
	r.mu.Lock()
	r.Cycles[fault]++
	r.mu.Unlock()
}

// add adds another run's report.
func (r *Report) add(o *Report) {
	r.Reads.Add(o.Reads.Load())
	r.Writes.Add(o.Writes.Load())
	r.Errors.Add(o.Errors.Load())
	r.Unknown.Add(o.Unknown.Load())
	r.Locks.Add(o.Locks.Load())
	r.Contended.Add(o.Contended.Load())
	r.mu.Lock()
	defer r.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	r.Linear += o.Linear
	r.Compared += o.Compared
	r.Audited += o.Audited
	for i := range r.Hits {
		r.Hits[i] += o.Hits[i]
		r.Asked[i] += o.Asked[i]
		r.Pushes[i] += o.Pushes[i]
		r.Dropped[i] += o.Dropped[i]
		r.stalest[i] = max(r.stalest[i], o.stalest[i])
	}
	for _, m := range []struct{ to, from map[string]int }{{r.Cycles, o.Cycles}, {r.Ways, o.Ways}, {r.Notes, o.Notes}, {r.kinds, o.kinds}} {
		for k, n := range m.from {
			m.to[k] += n
		}
	}
	for k, trace := range o.first {
		if r.first[k] == "" {
			r.first[k] = trace
		}
	}
	r.visible = append(r.visible, o.visible...)
	r.Figures = append(r.Figures, o.Figures...)
}

// figure adds a line of what was measured.
func (r *Report) figure(format string, a ...any) {
	r.mu.Lock()
	r.Figures = append(r.Figures, fmt.Sprintf(format, a...))
	r.mu.Unlock()
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
	for _, line := range r.Figures {
		fmt.Fprintln(&b, line)
	}
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
	fmt.Fprintf(&b, "cycles          %s\n", counts(r.Cycles))
	fmt.Fprintf(&b, "compared        %d keys after quiet; %d hits by the auditor\n", r.Compared, r.Audited)
	fmt.Fprintf(&b, "writes          %s\n", counts(r.Ways))
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

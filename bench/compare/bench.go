package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"
)

// figure names something that is measured.
type figure int

const (
	fRate        figure = iota // requests per second, closed loop
	fCPU                       // processor time of the peer per request, µs
	fOriginCPU                 // of the Redis behind it
	fClientCPU                 // of the load generator, closed loop
	fP50                       // latency, µs
	fP99                       //
	fP999                      //
	fLate                      // p99 of the generator's own lateness, µs
	fHits                      // percent of the reads that the near cache answered
	fAllocs                    // heap objects per request
	fRSS                       // MiB
	fOriginReads               // reads that reached Redis, percent of those asked
	fWriteP50                  // latency of the writes, µs
	fRoundTrip                 // p50 of a PING at Redis under the same load, µs
	fLockP99                   // latency of a lock cycle beside the load, µs
	fReady                     // ms until a process answers
	fBytes                     // of memory for each thing that the row is about
	fOwnBytes                  // the same as the process accounts for it
	fOthers                    // percent of the machine's processors that went to processes not of the harness
	figures
)

// names of the columns.
var figureNames = [figures]string{
	"requests/s", "CPU µs", "Redis µs", "client µs", "p50 µs", "p99 µs", "p99.9 µs", "late µs", "hits %", "allocs", "RSS MiB",
	"Redis reads %", "write p50 µs", "round trip µs", "lock p99 µs", "ready ms", "bytes", "accounted", "others %",
}

func (f figure) String() string { return figureNames[f] }

// sample is what one measurement gave; what it did not measure is NaN.
type sample [figures]float64

func newSample() sample {
	var s sample
	for i := range s {
		s[i] = math.NaN()
	}
	return s
}

// latencies takes the percentiles of a result.
func (s *sample) latencies(r *result) {
	s[fP50], s[fP99], s[fP999] = r.micros(50), r.micros(99), r.micros(99.9)
	if r.Late.TotalCount() > 0 {
		s[fLate] = float64(r.Late.ValueAtPercentile(99)) / 1e3
	}
}

// series are the samples of one case, by round.
type series []sample

func (s series) of(f figure) []float64 {
	v := make([]float64, len(s))
	for i := range s {
		v[i] = s[i][f]
	}
	return v
}

// measured reports whether any round has the figure.
func (s series) measured(f figure) bool {
	return slices.ContainsFunc(s.of(f), func(v float64) bool { return !math.IsNaN(v) })
}

// testCase is what is compared with the other cases of its row.
type testCase struct {
	name    string
	measure func(ctx context.Context) (sample, error)
}

// row is one question: its cases are measured in turn, round by round.
type row struct {
	name, title string
	repeat      string // how somebody else would do it
	cases       []testCase
	got         map[string]series
	curve       map[string]*result // the last round's latencies, for the plots
	failed      map[string]error
}

// bench is one run of the harness.
type bench struct {
	lab      *lab
	rounds   int
	slice    time.Duration
	binaries binaries
	external []*peer
	known    map[string]*peer
	rows     []*row
	say      func(format string, args ...any)
	seeds    uint64
	args     string // the flags of the run
	failures []error
}

// seed is another one for every generator, the same ones in every run.
func (b *bench) seed() uint64 {
	b.seeds++
	return b.seeds
}

// do measures a row. The order of its cases rotates from round to round. A case
// that fails, or cannot take its load, is left out of the row from then on; the
// report says so, and the rest of the run is not lost.
func (b *bench) do(ctx context.Context, r *row) error {
	begin := time.Now()
	r.got, r.failed = map[string]series{}, map[string]error{}
	for round := range b.rounds {
		for _, c := range rotate(r.cases, round) {
			s := newSample()
			if r.failed[c.name] == nil {
				var err error
				runtime.GC() // the harness's own, so that it does not come in between
				at, before := time.Now(), b.lab.accounted()
				s, err = c.measure(ctx)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					r.failed[c.name], s = err, newSample()
					if !errors.Is(err, errOverload) {
						b.failures = append(b.failures, fmt.Errorf("%s, %s: %w", r.name, c.name, err))
					}
				}
				s[fOthers] = 100 * max(0, 1-(b.lab.accounted()-before).Seconds()/(time.Since(at).Seconds()*float64(runtime.NumCPU())))
			}
			r.got[c.name] = append(r.got[c.name], s)
		}
	}
	b.rows = append(b.rows, r)
	b.say("%s: %v\n%s", r.name, time.Since(begin).Round(time.Second), r.text())
	return nil
}

// row finds what was measured.
func (b *bench) row(name string) *row {
	for _, r := range b.rows {
		if r.name == name {
			return r
		}
	}
	return nil
}

// strangers is what share of the processors, in percent, went to processes not
// of the harness, over all measurements.
func (b *bench) strangers() spread {
	var all []float64
	for _, r := range b.rows {
		for _, s := range r.got {
			all = append(all, s.of(fOthers)...)
		}
	}
	return over(all)
}

// rotate starts the order at another one every round.
func rotate[T any](all []T, round int) []T {
	if len(all) == 0 {
		return nil
	}
	at := round % len(all)
	return slices.Concat(all[at:], all[:at])
}

package main

import (
	"fmt"
	"math"
	"strings"
)

// target is one thing that nearside is to reach. Its value is a ratio of two
// cases of the same row in the same run, or a figure of its own.
type target struct {
	what    string
	atLeast bool
	limit   float64
	value   func(v view) []float64 // by round
}

// view finds what was measured; where nothing was, it gives nothing.
type view struct {
	b    *bench
	near string // the nearside that is judged
}

func (v view) of(rowName, name string, f figure) []float64 {
	r := v.b.row(rowName)
	if r == nil {
		return nil
	}
	return r.got[name].of(f)
}

// against is nearside's figure divided by another case's.
func against(rowName, other string, f figure) func(view) []float64 {
	return func(v view) []float64 { return ratios(v.of(rowName, v.near, f), v.of(rowName, other, f)) }
}

// between is one case's figure divided by another's.
func between(rowName, a, b string, f figure) func(view) []float64 {
	return func(v view) []float64 { return ratios(v.of(rowName, a, f), v.of(rowName, b, f)) }
}

// itself is a figure that is no ratio.
func itself(rowName, name string, f figure) func(view) []float64 {
	return func(v view) []float64 {
		if name == "" {
			return v.of(rowName, v.near, f)
		}
		return v.of(rowName, name, f)
	}
}

// fenceDelay is by how much the p99 of hits grows beside lock cycles, in round trips.
func fenceDelay(v view) []float64 {
	with, without := v.of("fences", fenceCase(true), fP99), v.of("fences", fenceCase(false), fP99)
	trips := v.of("fences", fenceCase(true), fRoundTrip)
	d := make([]float64, min(len(with), len(without), len(trips)))
	for i := range d {
		d[i] = max(with[i]-without[i], 0) / trips[i]
	}
	return d
}

// originReads is how many reads reach Redis per read that does so directly.
func originReads(rowName string) func(view) []float64 {
	return against(rowName, "direct", fOriginReads)
}

// noise is what allocations per request may be and still count as none: the
// comparison of one hit in 10,000 with Redis, PINGs on the link, and readings
// of /metrics allocate too.
const noise = 0.05

var targets = []target{
	{"hit, 1 deep: throughput / Redis on the same machine", true, 1.2, against("hit1", "redis", fRate)},
	{"hit, 1 deep: CPU per request / bare redcon", false, 1.15, against("hit1", "redcon", fCPU)},
	{"hit, 16 deep: throughput / bare redcon", true, 0.85, against("hit16", "redcon", fRate)},
	{"hit, 16 deep: CPU per request / bare redcon", false, 1.5, against("hit16", "redcon", fCPU)},
	{"hit, one connection: p50 / Redis on the same machine", false, 1.1, against("one-hit", "redis", fP50)},
	{"hit: p99 with 1,000,000 entries / with 1,000", false, 1.5, between("keys", keysCase(1000000), keysCase(hotKeys), fP99)},
	{"pass-through, 1 deep: throughput / nutcracker", true, 1.0, against("pass1", "nutcracker", fRate)},
	{"pass-through, 1 deep: CPU per request / nutcracker", false, 1.5, against("pass1", "nutcracker", fCPU)},
	{"pass-through, 16 deep: throughput / nutcracker", true, 1.2, against("pass16", "nutcracker", fRate)},
	{"pass-through, 16 deep: CPU per request / nutcracker", false, 1.0, against("pass16", "nutcracker", fCPU)},
	{"pass-through, one connection: p50 / nutcracker", false, 0.9, against("one-pass", "nutcracker", fP50)},
	{"lock cycle while the cache is saturated: p99 / haproxy", false, 1.05, against("lock-busy", "haproxy", fP99)},
	{"far origin, 1 % writes: p50 of reads / direct", false, 0.1, against("far-500-1", "direct", fP50)},
	{"far origin, 1 % writes: reads at Redis / direct", false, 0.02, originReads("far-500-1")},
	{"hit beside 500 locks/s: throughput / without", true, 0.9, between("fences", fenceCase(true), fenceCase(false), fRate)},
	{"hit beside 500 locks/s: p99 more than without, in origin round trips", false, 1, fenceDelay},
	{"hit beside 20,000 external invalidations/s: throughput / without", true, 0.8, between("storm", stormCase, calmCase, fRate)},
	{"hit, 1 deep: throughput with all observation on / off", true, 0.97, between(observeName(1), observedCase, unobservedCase, fRate)},
	{"hit, 16 deep: throughput with all observation on / off", true, 0.97, between(observeName(16), observedCase, unobservedCase, fRate)},
	{"allocations per hit (0, and up to 0.05 of other work)", false, noise, itself("hit1", "", fAllocs)},
	{"bytes per entry beyond key and reply", false, 280, itself("entry", "nearside", fBytes)},
	{"bytes per idle connection", false, 24 << 10, itself("idle", "nearside", fBytes)},
	{"hit, 10,000 connections of which 1,000 are active: p99 / 1,000 connections", false, 1.5, between("active", activeCase(10000), activeCase(1000), fP99)},
}

// finding is a target and what became of it.
type finding struct {
	target
	got spread
}

// met reports whether the median reaches the target; what was not measured does not.
func (f finding) met() bool {
	if f.atLeast {
		return f.got.Mid >= f.limit
	}
	return f.got.Mid <= f.limit
}

func (f finding) word() string {
	switch {
	case math.IsNaN(f.got.Mid):
		return "not measured"
	case f.met():
		return "met"
	default:
		return "**not met**"
	}
}

func (f finding) wanted() string {
	if f.atLeast {
		return "≥ " + digits3(f.limit)
	}
	return "≤ " + digits3(f.limit)
}

func judge(v view) []finding {
	var all []finding
	for _, t := range targets {
		all = append(all, finding{t, over(t.value(v))})
	}
	return all
}

// verdictTable is Markdown. Targets whose row was not run are left out.
func verdictTable(all []finding) string {
	var s strings.Builder
	s.WriteString("| target | wanted | median | least to greatest | |\n| --- | --- | --- | --- | --- |\n")
	left := 0
	for _, f := range all {
		if math.IsNaN(f.got.Mid) {
			left++
			continue
		}
		fmt.Fprintf(&s, "| %s | %s | %s | %s to %s | %s |\n", f.what, f.wanted(), digits3(f.got.Mid), digits3(f.got.Min), digits3(f.got.Max), f.word())
	}
	if left > 0 {
		fmt.Fprintf(&s, "\n%d targets were not measured in this run.\n", left)
	}
	return s.String()
}

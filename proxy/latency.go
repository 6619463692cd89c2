package proxy

import (
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"nearside/policy"
)

// path is the way that a command took.
type path uint8

const (
	pathHit     path = iota // answered from the near cache
	pathMiss                // a read under a cache rule that went to Redis
	pathPassed              // passed on a shared connection
	pathPinned              // passed on a connection of the client's own, or one taken for it
	pathBlocked             // … where it may wait by design: BLPOP, XREAD BLOCK, WAIT
	pathLocal               // answered by nearside
	pathRefused             // refused by nearside
	paths
)

var pathNames = [paths]string{"hit", "miss", "passed", "pinned", "blocked", "local", "refused"}

func (w path) String() string { return pathNames[w] }

// bounds are the histograms' buckets: from 10 µs to 10 s.
var bounds = [...]time.Duration{
	10 * time.Microsecond, 25 * time.Microsecond, 50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	500 * time.Millisecond, time.Second, 10 * time.Second,
}

// bucket finds the one that a duration in nanoseconds belongs to.
func bucket(d int64) uint8 {
	for i, bound := range bounds {
		if d <= int64(bound) {
			return uint8(i)
		}
	}
	return uint8(len(bounds))
}

// histogram counts durations. The library's own takes a lock and one observation
// at a time, which is too much for a hit.
type histogram struct {
	counts [len(bounds) + 1]atomic.Uint64
	sum    atomic.Int64 // ns
}

func (h *histogram) add(bucket uint8, n uint64, sum int64) {
	h.counts[bucket].Add(n)
	h.sum.Add(sum)
}

// cell is one histogram among those of a latency.
type cell uint16

func cellOf(cmd *policy.Command, w path) cell {
	return cell(policy.FamilyOf(cmd))*cell(paths) + cell(w)
}

// latency is how long commands take, by what they are about and the way they took.
type latency [policy.Families * int(paths)]histogram

// write writes what has been used, in Prometheus's form.
func (l *latency) write(w io.Writer) {
	const name = "nearside_command_duration_seconds"
	for i := range l {
		h := &l[i]
		var count uint64
		var counts [len(bounds) + 1]uint64
		for b := range h.counts {
			counts[b] = h.counts[b].Load()
			count += counts[b]
		}
		if count == 0 {
			continue
		}
		labels := fmt.Sprintf("family=%q,path=%q", policy.Family(i/int(paths)), path(i%int(paths)))
		count = 0
		for b, n := range counts {
			count += n
			le := "+Inf"
			if b < len(bounds) {
				le = seconds(int64(bounds[b]))
			}
			fmt.Fprintf(w, "%s_bucket{%s,le=%q} %d\n", name, labels, le, count)
		}
		fmt.Fprintf(w, "%s_sum{%s} %s\n%s_count{%s} %d\n", name, labels, seconds(h.sum.Load()), name, labels, count)
	}
}

// seconds writes nanoseconds as seconds.
func seconds(ns int64) string {
	return strconv.FormatFloat(float64(ns)/float64(time.Second), 'f', -1, 64)
}

// batchTimes collects what the reader has answered itself until it is let out, all
// of which has then taken equally long: from when the batch was read.
type batchTimes struct {
	used  int
	cells [8]cell
	n     [8]uint64
}

// add collects one command; d is how long it has taken so far.
func (t *batchTimes) add(l *latency, c cell, d int64) {
	for i := t.used - 1; i >= 0; i-- {
		if t.cells[i] == c {
			t.n[i]++
			return
		}
	}
	if t.used == len(t.cells) {
		t.settle(l, d)
	}
	t.cells[t.used], t.n[t.used] = c, 1
	t.used++
}

// settle counts what was collected, which took d.
func (t *batchTimes) settle(l *latency, d int64) {
	b := bucket(d)
	for i := range t.used {
		l[t.cells[i]].add(b, t.n[i], int64(t.n[i])*d)
	}
	t.used = 0
}

// answerTimes collects what origin connections have answered, for as long as it
// falls into one bucket.
type answerTimes struct {
	cell   cell
	bucket uint8
	n      uint64
	sum    int64
}

func (t *answerTimes) add(l *latency, c cell, d int64) {
	if b := bucket(d); t.n == 0 || c != t.cell || b != t.bucket {
		t.settle(l)
		t.cell, t.bucket = c, b
	}
	t.n++
	t.sum += d
}

func (t *answerTimes) settle(l *latency) {
	if t.n > 0 {
		l[t.cell].add(t.bucket, t.n, t.sum)
		t.n, t.sum = 0, 0
	}
}

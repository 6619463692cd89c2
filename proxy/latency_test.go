package proxy

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
)

// commands is the number of commands counted of a family on a path.
func (n *nearside) commands(family string, w path) (count uint64) {
	for f := range policy.Families {
		if family == "" || policy.Family(f).String() == family {
			h := &n.m.latency[f*int(paths)+int(w)]
			for b := range h.counts {
				count += h.counts[b].Load()
			}
		}
	}
	return count
}

// Every command is counted once, by what it is about and the way it took.
func TestCommandPaths(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.Deny = []string{"flushall"} })
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "x")
	n.warm(c, "GET", "product:1")
	want(t, c, "PONG", "PING")
	for _, tt := range []struct {
		family string
		path   path
		args   []string
	}{
		{"string", pathHit, []string{"GET", "product:1"}},
		{"string", pathMiss, []string{"GET", "product:2"}},
		{"hash", pathMiss, []string{"HGETALL", "product:h"}},
		{"string", pathPassed, []string{"GET", "other"}},
		{"string", pathPassed, []string{"SET", "lock:1", "me", "NX"}},
		{"string", pathPinned, []string{"MSET", "product:1", "y", "other", "y"}},
		{"list", pathBlocked, []string{"BLPOP", "list", "0.01"}},
		{"connection", pathLocal, []string{"PING"}},
		{"connection", pathLocal, []string{"CLIENT", "ID"}},
		{"server", pathRefused, []string{"SYNC"}},
		{"server", pathRefused, []string{"FLUSHALL"}},
		{"other", pathRefused, []string{"NOSUCH"}},
		{"transaction", pathPinned, []string{"MULTI"}},
		{"connection", pathPinned, []string{"PING"}},
		{"string", pathPinned, []string{"GET", "product:1"}},
		{"transaction", pathPinned, []string{"EXEC"}},
		{"transaction", pathPinned, []string{"WATCH", "product:1"}},
		{"string", pathPinned, []string{"GET", "product:1"}},
		{"transaction", pathPinned, []string{"UNWATCH"}},
		{"pubsub", pathPinned, []string{"SUBSCRIBE", "news"}},
		{"string", pathRefused, []string{"GET", "product:1"}},
		{"connection", pathLocal, []string{"RESET"}},
	} {
		before, all := n.commands(tt.family, tt.path), n.allCommands()
		c.Do(tt.args...)
		n.eventually(fmt.Sprintf("%v is counted as %s, %v", tt.args, tt.family, tt.path), func() bool { return n.commands(tt.family, tt.path) == before+1 })
		if now := n.allCommands(); now != all+1 {
			t.Errorf("%v is counted %d times", tt.args, now-all)
		}
	}

	// Pipelined, mixed, some answered at once while others are outstanding.
	before := n.allCommands()
	const rounds = 50
	for i := range rounds {
		c.Write(redistest.Command("GET", "product:1") + redistest.Command("SET", "other", "x") + redistest.Command("PING") +
			redistest.Command("GET", fmt.Sprint("product:", i%7)) + redistest.Command("CLIENT", "REPLY", "SKIP") + redistest.Command("GET", "other") + redistest.Command("PING"))
		for range 5 {
			c.Read()
		}
	}
	n.eventually("all are counted", func() bool { return n.allCommands() == before+7*rounds })
}

func (n *nearside) allCommands() (sum uint64) {
	for w := range paths {
		sum += n.commands("", w)
	}
	return sum
}

// What nobody switched on is not measured.
func TestNoLatency(t *testing.T) {
	n := start(t, redistest.Start(t), func(c *Config) { c.NoLatency, c.Slow = true, -1 })
	n.traffic()
	if n.allCommands() != 0 || strings.Contains(n.metrics(), "nearside_command_duration_seconds") || n.slow.len() != 0 || n.clock() != 0 {
		t.Errorf("%d commands are counted, %d are slow", n.allCommands(), n.slow.len())
	}
}

// The form is the one that histogram_quantile reads: cumulative, with +Inf, _sum and _count.
func TestHistogram(t *testing.T) {
	var l latency
	durations := []time.Duration{0, 10 * time.Microsecond, 11 * time.Microsecond, time.Millisecond, 300 * time.Millisecond, 10 * time.Second, time.Hour}
	var sum time.Duration
	for _, d := range durations {
		l[cellOf(policy.Lookup([][]byte{[]byte("hget")}), pathMiss)].add(bucket(int64(d)), 1, int64(d))
		sum += d
	}
	var b strings.Builder
	l.write(&b)
	last, lastBound, lines := uint64(0), math.Inf(-1), 0
	for _, m := range regexp.MustCompile(`(?m)^nearside_command_duration_seconds_bucket\{family="hash",path="miss",le="(.*)"\} (\d+)$`).FindAllStringSubmatch(b.String(), -1) {
		bound, err := strconv.ParseFloat(m[1], 64)
		if err != nil || bound <= lastBound {
			t.Errorf("le=%q comes after %v", m[1], lastBound)
		}
		lastBound = bound
		var n uint64
		for _, d := range durations {
			if d.Seconds() <= bound {
				n++
			}
		}
		if got, _ := strconv.ParseUint(m[2], 10, 64); got != n || got < last {
			t.Errorf("le=%q has %s of %d", m[1], m[2], n)
		}
		last = n
		lines++
	}
	if lines != len(bounds)+1 || !math.IsInf(lastBound, 1) || last != uint64(len(durations)) {
		t.Errorf("%d buckets: %s", lines, b.String())
	}
	for _, line := range []string{fmt.Sprintf("_sum{family=%q,path=%q} %v\n", "hash", "miss", sum.Seconds()), fmt.Sprintf("_count{family=%q,path=%q} %d\n", "hash", "miss", len(durations))} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("no %s in %s", line, b.String())
		}
	}
	if n := strings.Count(b.String(), "\n"); n != lines+2 {
		t.Errorf("what was not used is written: %s", b.String())
	}
}

// BenchmarkObserved compares hits and pass-through with everything measured and
// with nothing measured, in turn, and reports the medians' ratio: above 1 would
// mean that measuring makes them faster.
func BenchmarkObserved(b *testing.B) {
	redis := redistest.Start(b)
	with := start(b, redis, nil)
	without := start(b, redis, func(c *Config) { c.NoLatency, c.Slow = true, -1 })
	c := with.dial()
	c.Do("SET", "product:1", "value of sixteen")
	c.Do("SET", "plain", "value of sixteen")
	for _, key := range []string{"product:1", "plain"} {
		for _, deep := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/%d", key, deep), func(b *testing.B) {
				batch := bytes.Repeat([]byte(redistest.Command("GET", key)), deep)
				replies := make([]byte, len("$16\r\nvalue of sixteen\r\n")*deep)
				var conns [2]net.Conn
				for i, n := range []*nearside{without, with} {
					if key == "product:1" {
						n.warm(n.dial(), "GET", key)
					}
					conn, err := net.Dial("tcp", n.addr)
					if err != nil {
						b.Fatal(err)
					}
					b.Cleanup(func() { conn.Close() })
					conns[i] = conn
				}
				var took [2][]time.Duration
				for b.Loop() {
					for i, conn := range conns {
						begun := time.Now()
						for range 50 {
							if _, err := conn.Write(batch); err != nil {
								b.Fatal(err)
							}
							if _, err := io.ReadFull(conn, replies); err != nil {
								b.Fatal(err)
							}
						}
						took[i] = append(took[i], time.Since(begun))
					}
				}
				var median [2]time.Duration
				for i := range took {
					slices.Sort(took[i])
					median[i] = took[i][len(took[i])/2]
				}
				b.ReportMetric(float64(median[0])/float64(median[1]), "throughput-ratio")
			})
		}
	}
}

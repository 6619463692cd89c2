package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nearside/bench/internal/sources"
)

var ownPID = os.Getpid()

// TestMain lets the test binary be what the harness starts itself as.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && (os.Args[1] == "-floor" || os.Args[1] == "-ceiling" || os.Args[1] == "-relay" || os.Args[1] == "-embedded") {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// answerer answers every request of one byte-exact kind; it calls before each answer.
func answerer(t *testing.T, size int, answer string, before func(n int)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, size)
				for n := 0; ; n++ {
					if _, err := io.ReadFull(c, b); err != nil {
						return
					}
					before(n)
					if _, err := io.WriteString(c, answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

const pingSize = len("*1\r\n$4\r\nPING\r\n")

// TestNoCoordinatedOmission stalls the endpoint once. Whoever measures from when
// a request could be sent sees one slow answer; what was due meanwhile was slow, too.
func TestNoCoordinatedOmission(t *testing.T) {
	const stall = 200 * time.Millisecond
	addr := answerer(t, pingSize, "+PONG\r\n", func(n int) {
		if n == 100 {
			time.Sleep(stall) // the endpoint's fault that the test is about
		}
	})
	g, err := newGenerator(addr, 1, 0, pings(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	const rate = 1000
	res, err := g.run(t.Context(), load{Rate: rate, For: 800 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if res.Done != res.Started || res.Done < rate/2 || res.Requests != res.Done {
		t.Fatalf("%d of %d operations are done, %d requests", res.Done, res.Started, res.Requests)
	}
	slow := int64(0)
	for _, bar := range res.Latency[classRead].Distribution() {
		if bar.From > int64(stall)/4 {
			slow += bar.Count
		}
	}
	if want := int64(rate * stall.Seconds() / 2); slow < want {
		t.Errorf("%d operations were slow, at least %d were due during the stall", slow, want)
	}
	// The rate does not follow the endpoint.
	if got, want := float64(res.Started), rate*0.8; got < 0.8*want || got > 1.2*want {
		t.Errorf("%v operations were due, want about %v", got, want)
	}
}

func TestGeneratorSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct{ answer, want string }{
		"garbage":      {"HTTP/1.1 400\r\n", "not the replies"},
		"two for one":  {"+A\r\n+B\r\n", "not the replies"},
		"closed early": {"", "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := answerer(t, pingSize, c.answer, func(int) {})
			if c.answer == "" {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				addr = ln.Addr().String()
				go func() {
					if c, err := ln.Accept(); err == nil {
						_, _ = io.ReadFull(c, make([]byte, pingSize))
						c.Close()
					}
				}()
			}
			g, err := newGenerator(addr, 1, 0, pings(), 1)
			if err != nil {
				t.Fatal(err)
			}
			defer g.close()
			if _, err := g.run(t.Context(), load{For: 100 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// installed skips a test whose programs are missing, but not in CI, which has them.
func installed(t *testing.T, programs ...string) {
	t.Helper()
	if err := need(programs...); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// TestRelayDelays: each way, in order, not less and not much more.
func TestRelayDelays(t *testing.T) {
	installed(t, "redis-server")
	l := newTestLab(t)
	origin, err := l.redis("redis")
	if err != nil {
		t.Fatal(err)
	}
	const delay = 2 * time.Millisecond
	far, err := l.far(origin, delay)
	if err != nil {
		t.Fatal(err)
	}
	g, err := newGenerator(far.addr, 4, 0, pings(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	res, err := g.run(t.Context(), load{For: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if least := time.Duration(res.Latency[classRead].Min()); least < 2*delay-50*time.Microsecond {
		t.Errorf("a round trip took %v, less than twice %v", least, delay)
	}
	if mid := time.Duration(res.Latency[classRead].ValueAtPercentile(50)); mid > 4*delay {
		t.Errorf("a round trip takes %v, much more than twice %v", mid, delay)
	}
	// A reply much larger than any buffer, in one piece.
	big := strings.Repeat("0123456789", 500000)
	c, err := dial(far.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if _, err := c.do("SET", "k", big); err != nil {
		t.Fatal(err)
	}
	if got, err := c.do("GET", "k"); err != nil || got != big {
		t.Errorf("%d bytes came back of %d: %v", len(got), len(big), err)
	}
}

func newTestLab(t *testing.T) *lab {
	t.Helper()
	raiseFiles()
	l, err := newLab()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

// TestSmoke runs a tiny part of everything: two kinds of row, a report, -quick, -check.
func TestSmoke(t *testing.T) {
	installed(t, "redis-server", "redis-benchmark", "nutcracker", "haproxy")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	bin := filepath.Join(t.TempDir(), "nearside")
	if err := sources.Release(ctx, bin); err != nil {
		t.Fatal(err)
	}
	b := &bench{
		lab: newTestLab(t), rounds: 1, slice: 50 * time.Millisecond, binaries: binaries{{"nearside", bin}},
		say: func(format string, args ...any) { t.Log("\n" + fmt.Sprintf(format, args...)) },
	}
	for _, name := range []string{"hit", "locks", "storm", "observe"} {
		picked, err := pickScenarios(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := picked[0].run(ctx, b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for _, err := range b.failures {
		t.Error(err)
	}
	near := b.row("hit1").got["nearside"][0]
	if near[fRate] <= 0 || near[fCPU] <= 0 || near[fP50] <= 0 || near[fP99] < near[fP50] || near[fHits] < 99 || near[fRSS] < 5 {
		t.Errorf("nearside: %v", near)
	}
	if origin := near[fOriginCPU]; origin > near[fCPU]/2 {
		t.Errorf("Redis works %v µs for a hit", origin)
	}
	if redcon := b.row("hit16").got["redcon"][0]; redcon[fCPU] <= 0 || redcon[fCPU] > near[fCPU] {
		t.Errorf("16 deep, the floor takes %v µs", redcon[fCPU])
	}
	dir := t.TempDir()
	if err := b.report(dir, machine(), versions(ctx, b.binaries), time.Second, 0); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	rows, err := pickQuick("pass16")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := quick(ctx, &out, rows, binaries{{"old", bin}, {"new", bin}}, 1, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); !strings.Contains(s, "old / nutcracker") || !strings.Contains(s, "new / old") {
		t.Error(s)
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// closedLoad is one run of redis-benchmark: every connection sends its next
// requests when the last ones are answered.
type closedLoad struct {
	Conns    int
	Pipeline int
	Keys     int      // what __rand_int__ in the command is below
	Command  []string // as on redis-benchmark's command line
	Size     int      // bytes of a reply, or of a written value; only to guess how long a run takes
}

func (l closedLoad) args(addr string, n int) []string {
	host, port, _ := net.SplitHostPort(addr)
	a := []string{
		"-h", host, "-p", port, "--csv", "-c", strconv.Itoa(l.Conns), "-P", strconv.Itoa(l.Pipeline),
		"-r", strconv.Itoa(max(l.Keys, 1)), "-n", strconv.Itoa(n),
	}
	return append(a, l.Command...)
}

// shell is the same as somebody would type it.
func (l closedLoad) shell() string {
	a := []string{"redis-benchmark", "-p", "PORT", "-c", strconv.Itoa(l.Conns), "-P", strconv.Itoa(l.Pipeline), "-r", strconv.Itoa(max(l.Keys, 1)), "-n", "N"}
	return strings.Join(append(a, l.Command...), " ")
}

// closedResult is what one run of redis-benchmark found.
type closedResult struct {
	PerSecond     float64
	P50, P95, P99 float64       // milliseconds
	CPU           time.Duration // redis-benchmark's own
}

// run sends n requests.
func (l closedLoad) run(ctx context.Context, addr string, n int) (closedResult, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "redis-benchmark", l.args(addr, n)...)
	out, err := cmd.Output()
	if err != nil {
		var e *exec.ExitError
		if errors.As(err, &e) {
			return closedResult{}, fmt.Errorf("redis-benchmark: %w: %s%s", err, e.Stderr, out)
		}
		return closedResult{}, err
	}
	r, err := parseClosed(string(out))
	r.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return r, err
}

// parseClosed reads the last line that redis-benchmark --csv prints: "test",
// "rps", then latencies in milliseconds: average, least, p50, p95, p99, greatest.
// The test's name is the command, its quotes not escaped.
func parseClosed(out string) (closedResult, error) {
	out = strings.TrimSpace(out)
	line := out[strings.LastIndexByte(out, '\n')+1:]
	f := strings.Split(line, `","`)
	if len(f) < 8 {
		return closedResult{}, fmt.Errorf("redis-benchmark printed no row: %q", out)
	}
	var v [7]float64
	for i, s := range f[len(f)-7:] {
		var err error
		if v[i], err = strconv.ParseFloat(strings.TrimSuffix(s, `"`), 64); err != nil {
			return closedResult{}, fmt.Errorf("redis-benchmark's row %q: %w", line, err)
		}
	}
	return closedResult{PerSecond: v[0], P50: v[3], P95: v[4], P99: v[5]}, nil
}

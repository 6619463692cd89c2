package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// report writes the results into dir: README.md, the pictures, and the ratios
// that bench-check compares with.
func (b *bench) report(dir, machine, versions string, took, stolen time.Duration) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Pictures of rows that this run did not have would be of another run.
	old, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil {
		return err
	}
	for _, path := range old {
		_ = os.Remove(path)
	}
	charts, err := b.charts(dir)
	if err != nil {
		return err
	}
	strangers := b.strangers()
	var s strings.Builder
	fmt.Fprintf(&s, `# nearside, measured against what one would take instead

Written by %s on %s. %s.
%s.
%d rounds, each of which measures every peer once for %v, in an order that rotates; the run took %v.
Processes not of the harness took %s %% of the processors (median of the measurements, at most %s %%; "others" in the tables), and the host gave %.1f %% to other machines:
where that is much, latencies say little.
A figure is the median of the rounds, ± half of what lies between the least and the greatest. Everything is on loopback of one machine, so Redis, the proxy and the load
share its processors: read figures as ratios within one table.

`, "`"+b.command()+"`", time.Now().UTC().Format("2006-01-02"), machine, versions, b.rounds, b.slice, took.Round(time.Second),
		digits3(strangers.Mid), digits3(strangers.Max),
		100*stolen.Seconds()/(took.Seconds()*float64(runtime.NumCPU())))
	if strangers.Mid > quietShare {
		s.WriteString("**The machine was not quiet during this run. Latencies and throughput are provisional; CPU per request suffers less.**\n\n")
	}
	fmt.Fprintf(&s, "## Targets\n\nRatios are taken round by round.\n\n%s\n", verdictTable(judge(view{b, b.binaries[0].name})))
	s.WriteString(legend)
	for _, c := range charts {
		if !strings.HasPrefix(c.file, "latency-") {
			s.WriteString(c.markdown())
		}
	}
	s.WriteString("\n## Tables\n\n")
	for _, r := range b.rows {
		s.WriteString(r.markdown() + "\n")
		for _, c := range charts {
			if c.file == "latency-"+r.name+".svg" {
				s.WriteString(c.markdown() + "\n")
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte(strings.TrimRight(s.String(), "\n")+"\n"), 0o644); err != nil {
		return err
	}
	recorded := recordRatios(b)
	if len(recorded.CPU) == 0 {
		return nil
	}
	return recorded.write(filepath.Join(dir, ratiosFile))
}

// quietShare is how much of the processors, in percent, strangers may take
// before the report warns of its own figures.
const quietShare = 10

// command is how to repeat the run.
func (b *bench) command() string {
	if b.args == "" {
		return "make bench"
	}
	return "make bench ARGS='" + b.args + "'"
}

const legend = "## Who is measured, and how\n\n" + `- **redis**: Redis itself, asked directly. **nutcracker** and **haproxy** (mode tcp, its own number of threads) stand in front of the same Redis. **redcon** is a bare redcon server
  that answers GET with a constant: the floor of nearside's design. **ceiling** is the least that any server can do: a loop that looks at no request, answers each with a constant and
  never sleeps, so that nobody has to wake it; what it reaches is what redis-benchmark and the machine's network can do. **nearside** is what make build builds, with ` + "`configs/nearside.yaml`" + `, only addresses changed, in
  front of a Redis of its own; where the sample's bounds are too small for a row, the row says what was changed. "In the process" are caches of client libraries.
- Requests per second, CPU, Redis (CPU of the Redis behind the peer) and client (CPU of the load) are of a closed loop of redis-benchmark. It has one thread: with two
  processors it is often what limits the throughput of a peer that is faster or has more threads, and what a peer takes of its processor it loses. CPU per request does not depend on that.
- Latencies are of an open loop: requests are due at random times of a fixed rate, far below what the peers can do, and count from when they were due (no coordinated
  omission). "late" is the generator's own part in them, p99. In tables that say so the loop is closed.
- CPU is user and system time of the process, by its clock, in µs per request. RSS is taken after the round. Allocations are nearside's, from its metrics.

`

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"nearside/bench/internal/sources"
)

func main() { os.Exit(run()) }

// binary is one nearside to measure.
type binary struct{ name, path string }

// binaries is the flag -nearside, given once or more: PATH or name=PATH.
type binaries []binary

func (b *binaries) String() string { return fmt.Sprint(*b) }

func (b *binaries) Set(s string) error {
	name, path, ok := strings.Cut(s, "=")
	if !ok {
		name, path = "nearside", s
		if len(*b) > 0 {
			name = fmt.Sprintf("nearside-%d", len(*b)+1)
		}
	}
	for _, other := range *b {
		if other.name == name {
			return fmt.Errorf("%q is given twice", name)
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return err
	}
	*b = append(*b, binary{name, path})
	return nil
}

// outsiders is the flag -peer.
type outsiders []*peer

func (o *outsiders) String() string { return "" }

func (o *outsiders) Set(s string) error {
	p, err := external(s)
	if err != nil {
		return err
	}
	*o = append(*o, p)
	return nil
}

type options struct {
	quick, scenarios string
	all, check       bool
	out              string
	rounds           int
	slice            time.Duration
	tolerance        float64
	binaries         binaries
	external         outsiders

	// What the harness starts itself as.
	floor, ceiling, relay, embedded, target string
	delay                                   time.Duration
}

func run() int {
	var o options
	flag.StringVar(&o.scenarios, "run", "", "only these scenarios, with commas: "+scenarioNames())
	flag.BoolVar(&o.all, "all", false, "all scenarios, not only those that the targets need")
	flag.StringVar(&o.out, "out", "", "directory of the report; without -run or -quick: bench/results")
	flag.StringVar(&o.quick, "quick", "", "only these of pass1, hit1, hit16, pass16: printed, no report")
	flag.BoolVar(&o.check, "check", false, "compare CPU per request with what is recorded, and fail if it is worse")
	flag.Float64Var(&o.tolerance, "tolerance", 0.15, "-check: by how large a share it may be worse")
	flag.IntVar(&o.rounds, "rounds", 5, "how often every peer is measured")
	flag.DurationVar(&o.slice, "slice", time.Second, "length of one measurement; -quick and -check use 450ms if it is not given")
	flag.Var(&o.binaries, "nearside", "a nearside to measure instead of building one: PATH or name=PATH; may be given again")
	flag.Var(&o.external, "peer", "another endpoint, name=host:port,pid, in the rows of 50 connections; it is written to (keys product:... and plain:...)")
	flag.StringVar(&o.floor, "floor", "", "be the bare redcon server at this address (used by the harness itself, as the next five)")
	flag.StringVar(&o.ceiling, "ceiling", "", "be the least that a server can do at this address")
	flag.StringVar(&o.relay, "relay", "", "be a slow network at this address")
	flag.StringVar(&o.embedded, "embedded", "", "be this client library's cache: rueidis, go-redis")
	flag.StringVar(&o.target, "target", "", "of -relay and -embedded")
	flag.DurationVar(&o.delay, "delay", 0, "of -relay, each way")
	flag.Parse()
	sliced := false
	flag.Visit(func(f *flag.Flag) { sliced = sliced || f.Name == "slice" })
	if (o.quick != "" || o.check) && !sliced {
		o.slice = 450 * time.Millisecond
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		return 1
	}
	return 0
}

func (o *options) run(ctx context.Context) error {
	switch {
	case o.floor != "":
		return floor(o.floor)
	case o.ceiling != "":
		return serveCeiling(ctx, o.ceiling)
	case o.relay != "":
		return serveRelay(ctx, o.relay, o.target, o.delay)
	case o.embedded != "":
		return serveEmbedded(ctx, o.embedded, o.target, os.Stdin, os.Stdout)
	}
	raiseFiles()
	// Generators hold a thread each, and must not wait for each other.
	runtime.GOMAXPROCS(max(8, runtime.NumCPU()))
	programs := []string{"redis-server", "redis-benchmark", "nutcracker"}
	if o.quick == "" && !o.check {
		programs = append(programs, "haproxy")
	}
	if err := need(programs...); err != nil {
		return err
	}
	if len(o.binaries) == 0 {
		dir, err := os.MkdirTemp("", "compare")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "nearside")
		if err := sources.Release(ctx, path); err != nil {
			return err
		}
		o.binaries = binaries{{"nearside", path}}
	}
	switch {
	case o.quick != "":
		rows, err := pickQuick(o.quick)
		if err != nil {
			return err
		}
		_, err = quick(ctx, os.Stdout, rows, o.binaries, o.rounds, o.slice)
		return err
	case o.check:
		return check(ctx, os.Stdout, filepath.Join(results(), ratiosFile), o.binaries[0], o.rounds, o.slice, o.tolerance)
	default:
		return o.full(ctx)
	}
}

// need reports which of the programs are not installed.
func need(programs ...string) error {
	var missing []error
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, fmt.Errorf("%s is not installed: try \"make bench-deps\"", name))
		}
	}
	return errors.Join(missing...)
}

// results is where the report is kept.
func results() string { return filepath.Join(sources.Dir(), "bench", "results") }

// args are the flags that decide what is measured.
func (o *options) args() string {
	var a []string
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "run", "rounds", "slice":
			a = append(a, "-"+f.Name, f.Value.String())
		case "all":
			a = append(a, "-all")
		}
	})
	return strings.Join(a, " ")
}

// full runs scenarios and writes the report.
func (o *options) full(ctx context.Context) error {
	out := o.out
	if out == "" && o.scenarios == "" {
		out = results()
	}
	if o.all {
		o.scenarios = "all"
	}
	picked, err := pickScenarios(o.scenarios)
	if err != nil {
		return err
	}
	l, err := newLab()
	if err != nil {
		return err
	}
	defer l.close()
	b := &bench{lab: l, args: o.args(), rounds: o.rounds, slice: o.slice, binaries: o.binaries, external: o.external, say: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}}
	begin := time.Now()
	_, lost := processors()
	for _, s := range picked {
		b.say("== %s: %s", s.name, s.about)
		if err := s.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	took := time.Since(begin)
	_, now := processors()
	fmt.Print(verdictTable(judge(view{b, b.binaries[0].name})))
	if out != "" {
		if err := b.report(out, machine(), versions(ctx, o.binaries), took, now-lost); err != nil {
			return err
		}
	}
	return errors.Join(b.failures...)
}

package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"nearside/bench/internal/sources"
)

// silent is go-redis's logger: connections that break are the purpose here.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

func init() { redis.SetLogger(silent{}) }

func main() { os.Exit(run()) }

func run() int {
	cfg := Defaults()
	cfg.Log = os.Stderr
	flag.IntVar(&cfg.Cycles, "cycles", 0, "fault cycles; 0: as many as fit into -duration")
	flag.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "of all chance")
	flag.DurationVar(&cfg.Duration, "duration", cfg.Duration, "of the traffic under faults")
	flag.DurationVar(&cfg.Linear, "linear", cfg.Linear, "length of the phase that porcupine judges")
	flag.BoolVar(&cfg.Faults, "faults", cfg.Faults, "inject faults")
	var race bool
	flag.BoolVar(&race, "race", false, "build nearside with the race detector")
	flag.StringVar(&cfg.Binary, "nearside", "", "a nearside to check instead of building one")
	flag.IntVar(&cfg.Keys, "keys", cfg.Keys, "number of keys")
	flag.Float64Var(&cfg.Skew, "skew", cfg.Skew, "1: all keys are used alike; more: some much more often")
	flag.IntVar(&cfg.Writers, "writers", cfg.Writers, "through A, through B and directly each")
	flag.IntVar(&cfg.Readers, "readers", cfg.Readers, "through A and through B each")
	flag.IntVar(&cfg.Contenders, "contenders", cfg.Contenders, "for locks, through A, through B and directly each")
	flag.DurationVar(&cfg.MaxStaleness, "max-staleness", cfg.MaxStaleness, "nearside's cache.max_staleness")
	flag.DurationVar(&cfg.Ping, "ping", cfg.Ping, "nearside's cache.ping")
	flag.DurationVar(&cfg.Slack, "slack", cfg.Slack, "allowed beyond max_staleness")
	flag.IntVar(&cfg.Sabotage.DropPush, "drop-push", 0, "sabotage: swallow one of so many invalidations")
	flag.StringVar((*string)(&cfg.Mode), "mode", string(cfg.Mode), "tracking, keyspace, fenced or fenced-keyspace")
	flag.Func("only", "one fault by its name; may be given several times", func(name string) error {
		cfg.Only = append(cfg.Only, name)
		return nil
	})
	flag.IntVar(&cfg.From, "from", 0, "number of the first fault")
	flag.DurationVar(&cfg.LinkLag, "link-lag", 0, "that the link is always behind")
	flag.DurationVar(&cfg.Jitter, "jitter", 0, "by which any chunk may come late, on all connections")
	flag.DurationVar(&cfg.Sabotage.DelayPush, "delay-push", 0, "sabotage: invalidations come so much later than the PONGs after them")
	flag.DurationVar(&cfg.Sabotage.AddPTTL, "add-pttl", 0, "sabotage: a fetch is told a life longer by this")
	flag.BoolVar(&cfg.Sabotage.Thief, "thief", false, "sabotage: somebody deletes locks and counts in ledgers")
	flag.BoolVar(&cfg.StopEarly, "stop-early", false, "end at the first violation")
	soakCycles := flag.Int("soak", 0, "so many cycles, in several groups and all modes")
	groups := flag.Int("groups", 3, "of a soak, side by side")
	flag.StringVar(&cfg.Server, "server", "", "redis6, redis7, redis8, valkey8, valkey9 or a program's path; \"\": the redis-server in PATH")
	flag.IntVar(&cfg.Threads, "io-threads", 0, "of the server; 0: its default")
	flag.IntVar(&cfg.Strong, "strong", 0, "so many strong reads of keys that have just been written, and nothing else, for no longer than -duration")
	trials := flag.String("trials", "", "try the proof of freshness without nearside, on SERVER/THREADS, with a comma between, or all")
	trialTime := flag.Duration("trial-time", time.Minute, "at most for each trial of the old proof, four times that for the new one")
	scale := flag.String("scale", "", "measure, with a comma between: latency, storm, ttl, linear, or all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *trials != "" {
		if err := runTrials(ctx, os.Stdout, *trials, *trialTime); err != nil {
			fmt.Fprintln(os.Stderr, "consistency:", err)
			return 2
		}
		return 0
	}
	if cfg.Binary == "" {
		dir, err := os.MkdirTemp("", "consistency")
		if err != nil {
			fmt.Fprintln(os.Stderr, "consistency:", err)
			return 2
		}
		defer os.RemoveAll(dir)
		cfg.Binary = filepath.Join(dir, "nearside")
		var flags []string
		if race {
			flags = append(flags, "-race")
		}
		if err := sources.Build(ctx, cfg.Binary, flags...); err != nil {
			fmt.Fprintln(os.Stderr, "consistency:", err)
			return 2
		}
	}
	var rep *Report
	var err error
	switch {
	case cfg.Strong > 0:
		cfg.Mode = Fenced
		rep, err = Run(ctx, cfg)
	case *scale != "":
		rep, err = runScale(ctx, cfg, *scale)
	case *soakCycles > 0:
		rep, err = runSoak(ctx, cfg, *soakCycles, *groups)
	default:
		rep, err = Run(ctx, cfg)
	}
	if rep != nil {
		fmt.Print(rep)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "consistency:", err)
		return 2
	}
	if rep.Violations() > 0 {
		return 1
	}
	return 0
}

// runSoak soaks in groups that share one build of nearside.
func runSoak(ctx context.Context, cfg Config, cycles, groups int) (*Report, error) {
	cfg.Linear = time.Second
	return (&soak{cycles: cycles, groups: groups, base: cfg}).run(ctx)
}

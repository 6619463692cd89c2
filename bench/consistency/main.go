package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/redis/go-redis/v9"
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
	flag.BoolVar(&cfg.Race, "race", cfg.Race, "build nearside with the race detector")
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
	flag.DurationVar(&cfg.Sabotage.DelayPush, "delay-push", 0, "sabotage: invalidations come so much later than the PONGs after them")
	flag.DurationVar(&cfg.Sabotage.AddPTTL, "add-pttl", 0, "sabotage: a fetch is told a life longer by this")
	flag.BoolVar(&cfg.Sabotage.Thief, "thief", false, "sabotage: somebody deletes locks and counts in ledgers")
	flag.BoolVar(&cfg.StopEarly, "stop-early", false, "end at the first violation")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	rep, err := Run(ctx, cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, "consistency:", err)
		return 2
	}
	fmt.Print(rep)
	if rep.Violations() > 0 {
		return 1
	}
	return 0
}

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a run is made of.
type Config struct {
	Seed     uint64
	Cycles   int           // of faults; 0: as many as Duration allows
	Duration time.Duration // of the traffic, when Cycles is 0
	Linear   time.Duration // of the phase for porcupine
	Faults   bool
	Race     bool   // build nearside with -race
	Binary   string // a nearside that is there already

	Keys         int
	Skew         float64 // 1: all keys are used alike; more: some are used much more often
	Writers      int     // per way
	Readers      int     // per nearside
	Contenders   int     // per way
	MaxStaleness time.Duration
	Ping         time.Duration
	Slack        time.Duration
	TTLSlack     time.Duration // beyond Redis's own 2 ms
	WritePause   time.Duration // mean
	ReadPause    time.Duration
	LockPause    time.Duration

	Sabotage  sabotage
	StopEarly bool // at the first violation
	Log       io.Writer
}

// Defaults are fit for two cores.
func Defaults() Config {
	return Config{
		Seed: 1, Duration: 30 * time.Second, Linear: 5 * time.Second, Faults: true, Keys: 160, Skew: 3, Writers: 2, Readers: 3, Contenders: 2,
		MaxStaleness: 300 * time.Millisecond, Ping: 50 * time.Millisecond, Slack: 20 * time.Millisecond, TTLSlack: 2 * time.Millisecond,
		WritePause: 4 * time.Millisecond, LockPause: 8 * time.Millisecond, ReadPause: 100 * time.Microsecond, Log: io.Discard,
	}
}

// check is one run.
type check struct {
	cfg   Config
	lim   limits
	rep   *Report
	start time.Time
	rand  *rand.Rand // of the run's own goroutine

	redis   *redisServer
	near    [2]*nearside
	admin   *client // at Redis itself, database 1
	ledgers *client // database 0

	// Writers hold gate, readers hold readers: what concerns all keys at once takes them.
	gate, readers sync.RWMutex

	slots []pick
	locks []atomic.Pointer[guardian]
	seq   atomic.Int64

	oldMu sync.Mutex
	old   []string // keys that were given up

	faulty   atomic.Int32
	faultEnd atomic.Int64
	worldAt  atomic.Int64
}

func (c *check) now() time.Duration { return time.Since(c.start) }

func (c *check) healthy() bool { return c.faulty.Load() == 0 }

func (c *check) quietFor() time.Duration { return c.now() - time.Duration(c.faultEnd.Load()) }

func (c *check) newKey(slot int) *key {
	if slot%4 == 3 {
		return newKey(fmt.Sprintf("product:h%d:%d", slot, c.seq.Add(1)), true, c.now())
	}
	return newKey(fmt.Sprintf("product:s%d:%d", slot, c.seq.Add(1)), false, c.now())
}

// Run runs everything and reports. An error means that it could not be run.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	dir, err := os.MkdirTemp("", "consistency")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bin := cfg.Binary
	if bin == "" {
		if bin, err = build(ctx, dir, cfg.Race); err != nil {
			return nil, err
		}
	}
	c := &check{
		cfg: cfg, rep: newReport(), start: time.Now(), rand: rand.New(rand.NewPCG(cfg.Seed, 1)),
		lim:   limits{bound: cfg.MaxStaleness + cfg.Slack, ttl: 2*time.Millisecond + cfg.TTLSlack},
		slots: make([]pick, cfg.Keys), locks: make([]atomic.Pointer[guardian], 2),
	}
	c.faultEnd.Store(int64(-time.Hour))
	c.worldAt.Store(int64(-time.Hour))
	if c.redis, err = newRedis(dir); err != nil {
		return nil, err
	}
	defer func() { c.redis.p.kill() }()
	for i := range c.near {
		if c.near[i], err = newNearside(viaNames[i+1], bin, dir, c.redis.addr, cfg); err != nil {
			return nil, err
		}
		defer c.near[i].p.kill()
		defer c.near[i].relay.close()
	}
	c.admin = c.client(direct, 3, 1, "admin")
	defer c.admin.Close()
	c.ledgers = c.client(direct, 3, 0, "auditor")
	defer c.ledgers.Close()
	for i := range c.slots {
		c.slots[i].Store(c.newKey(i))
	}
	for i := range c.locks {
		c.locks[i].Store(c.newGuardian())
	}
	if err := c.traffic(ctx); err != nil {
		return nil, err
	}
	if cfg.Linear > 0 && !c.stop() {
		c.linear(ctx, cfg.Linear)
	}
	for i, n := range c.near {
		c.rep.Hits[i], c.rep.Asked[i], _ = n.hits(ctx)
		c.rep.Pushes[i], c.rep.Dropped[i] = n.relay.pushes.Load(), n.relay.dropped.Load()
		if n.p.out.raced() || !n.p.alive() {
			c.rep.violation(kindRace, fmt.Sprintf("nearside %s:\n%s", n.name, n.p.out))
		}
	}
	c.rep.Took = c.now()
	return c.rep, nil
}

func (c *check) stop() bool { return c.cfg.StopEarly && c.rep.Violations() > 0 }

func (c *check) traffic(ctx context.Context) error {
	work, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for via := range 3 {
		for n := range c.cfg.Writers {
			wg.Go(func() { c.writer(work, via, n) })
		}
		for n := range c.cfg.Contenders {
			wg.Go(func() { c.contender(work, via, n) })
		}
		if via == direct {
			continue
		}
		for n := range c.cfg.Readers {
			wg.Go(func() { c.reader(work, via, n) })
		}
	}
	for n := range pairs {
		wg.Go(func() { c.pairWriter(work, n) })
	}
	wg.Go(func() { c.prober(work) })
	if c.cfg.Sabotage.Thief {
		wg.Go(func() { c.thief(work) })
	}

	pause(ctx, 1200*time.Millisecond) // healthy
	for cycle := 0; ctx.Err() == nil && !c.stop(); cycle++ {
		if c.cfg.Cycles > 0 && cycle >= c.cfg.Cycles || c.cfg.Cycles == 0 && c.now() > c.cfg.Duration {
			break
		}
		name := "quiet"
		if c.cfg.Faults {
			f := faults[cycle%len(faults)]
			name = f.name
			c.faulty.Add(1)
			err := f.do(c, ctx, c.rand)
			c.faultEnd.Store(int64(c.now()))
			c.faulty.Add(-1)
			if err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			c.recovered(ctx)
			pause(ctx, time.Duration(100+c.rand.IntN(400))*time.Millisecond)
		} else {
			pause(ctx, time.Second)
		}
		c.converged(ctx)
		c.rep.Cycles[name]++
		fmt.Fprintf(c.cfg.Log, "%7.1fs cycle %d: %s; %d reads, %d writes, %d violations\n",
			c.now().Seconds(), cycle+1, name, c.rep.Reads.Load(), c.rep.Writes.Load(), c.rep.Violations())
		pause(ctx, 300*time.Millisecond)
	}
	return ctx.Err()
}

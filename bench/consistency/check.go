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

// Mode is how the nearsides learn of changes, and what their rule promises.
type Mode string

// The modes.
const (
	Tracking       Mode = "tracking"
	Keyspace       Mode = "keyspace"
	Fenced         Mode = "fenced" // consistency: fenced, by tracking
	FencedKeyspace Mode = "fenced-keyspace"
)

// Modes are all of them.
var Modes = []Mode{Tracking, Keyspace, Fenced, FencedKeyspace}

func (m Mode) keyspace() bool { return m == Keyspace || m == FencedKeyspace }
func (m Mode) fenced() bool   { return m == Fenced || m == FencedKeyspace }

// Config is what a run is made of.
type Config struct {
	Seed     uint64
	Mode     Mode
	Cycles   int           // of faults; 0: as many as Duration allows
	Duration time.Duration // of the traffic, when Cycles is 0
	Linear   time.Duration // of the phase for porcupine
	Faults   bool
	From     int      // the first of the faults
	Only     []string // names of faults; nil: all
	Warm     time.Duration
	Between  time.Duration // healthy time after each cycle
	Binary   string        // nearside
	Server   string        // by name; "": the redis-server in PATH
	Threads  int           // its io-threads; 0: its default

	Keys         int
	Skew         float64 // 1: all keys are used alike; more: some are used much more often
	Writers      int     // per way
	Readers      int     // per nearside
	Contenders   int     // per way
	Locks        int
	Probers      int
	Strong       int // so many strong reads and nothing else (strong.go), for no longer than Duration
	MaxStaleness time.Duration
	Ping         time.Duration
	Slack        time.Duration
	TTLSlack     time.Duration // beyond Redis's own 2 ms
	WritePause   time.Duration // mean
	ReadPause    time.Duration
	LockPause    time.Duration
	ProbePause   time.Duration
	MemoryMiB    int
	AuditOneIn   int
	LinkLag      time.Duration // that the link is always behind: honest, and what makes races wide
	Jitter       time.Duration // the same for single chunks on all connections

	Sabotage  sabotage
	StopEarly bool // at the first violation
	Log       io.Writer
}

// Defaults are fit for two cores.
func Defaults() Config {
	return Config{
		Seed: 1, Mode: Tracking, Duration: 30 * time.Second, Linear: 5 * time.Second, Faults: true, Warm: 1200 * time.Millisecond,
		Keys: 160, Skew: 3, Writers: 2, Readers: 3, Contenders: 2, Locks: 2, Probers: 1,
		MaxStaleness: 300 * time.Millisecond, Ping: 50 * time.Millisecond, Slack: 20 * time.Millisecond, TTLSlack: 2 * time.Millisecond,
		WritePause: 4 * time.Millisecond, LockPause: 8 * time.Millisecond, ReadPause: 100 * time.Microsecond, ProbePause: 5 * time.Millisecond,
		MemoryMiB: 64, AuditOneIn: 10, Log: io.Discard,
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
	other   *redisServer // with other data; started when it is needed
	dir     string
	near    [2]*nearside
	admin   *client // at Redis itself, database 1
	scratch *client // another database
	ledgers *client // database 0

	// Writers hold gate, readers hold readers: what concerns all keys at once takes them.
	gate, readers sync.RWMutex

	slots []pick
	locks []atomic.Pointer[guardian]
	seq   atomic.Int64

	oldMu sync.Mutex
	old   []*key // that were given up

	swapped map[*key]version // what SWAPDB would bring back

	calm     atomic.Bool // nothing is done that raises fences: with them few hits are as old as they may be
	faulty   atomic.Int32
	faultEnd atomic.Int64
	worldAt  atomic.Int64
}

func (c *check) now() time.Duration { return time.Since(c.start) }

func (c *check) healthy() bool { return c.faulty.Load() == 0 }

func (c *check) quietFor() time.Duration { return c.now() - time.Duration(c.faultEnd.Load()) }

// newKey makes a key for a slot. Half of the slots are strings, a quarter
// hashes, the rest lists and counters. Half of the strings are asked for by MGET too.
func (c *check) newKey(slot int) *key {
	kind := [8]int{aString, aString, aHash, aList, aString, aString, aHash, aCounter}[slot%8]
	k := newKey(fmt.Sprintf("product:%s%d:%d", letters[kind], slot, c.seq.Add(1)), kind, c.now())
	k.mixed = slot%8 >= 4 && (kind == aString || kind == aCounter)
	return k
}

// Run runs everything and reports. An error means that it could not be run.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	c, err := newCheck(cfg)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if cfg.Strong > 0 {
		if err := c.strong(ctx); err != nil {
			return nil, err
		}
		c.sum(ctx)
		return c.rep, nil
	}
	if cfg.Cycles > 0 || cfg.Duration > 0 {
		if err := c.traffic(ctx); err != nil {
			return nil, err
		}
	}
	if cfg.Linear > 0 && !c.stop() {
		end := c.now() + cfg.Linear
		c.linear(ctx, func() bool { return c.now() < end })
	}
	c.sum(ctx)
	return c.rep, nil
}

// newCheck starts Redis and two nearsides.
func newCheck(cfg Config) (_ *check, err error) {
	c := &check{
		cfg: cfg, rep: newReport(), start: time.Now(), rand: rand.New(rand.NewPCG(cfg.Seed, 1)),
		lim:   limits{bound: cfg.MaxStaleness + cfg.Slack, ttl: 2*time.Millisecond + cfg.TTLSlack, fenced: cfg.Mode.fenced()},
		slots: make([]pick, cfg.Keys), locks: make([]atomic.Pointer[guardian], cfg.Locks),
	}
	c.faultEnd.Store(int64(-time.Hour))
	c.worldAt.Store(int64(-time.Hour))
	if c.dir, err = os.MkdirTemp("", "consistency"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.redis, err = c.newRedis("redis"); err != nil {
		return nil, err
	}
	for i := range c.near {
		if c.near[i], err = newNearside(viaNames[i+1], cfg.Binary, c.dir, c.redis.addr, &cfg); err != nil {
			return nil, err
		}
	}
	c.admin = c.client(direct, 3, 1, "admin")
	c.scratch = c.client(direct, 3, scratchDB, "admin")
	c.ledgers = c.client(direct, 3, 0, "auditor")
	for i := range c.slots {
		c.slots[i].Store(c.newKey(i))
	}
	for i := range c.locks {
		c.locks[i].Store(c.newGuardian())
	}
	return c, nil
}

func (c *check) close() {
	for _, cl := range []*client{c.admin, c.scratch, c.ledgers} {
		if cl != nil {
			cl.Close()
		}
	}
	for _, n := range c.near {
		if n != nil {
			if n.p != nil {
				n.p.Kill()
			}
			n.relay.close()
		}
	}
	for _, s := range []*redisServer{c.redis, c.other} {
		if s != nil && s.p != nil {
			s.p.Kill()
		}
	}
	_ = os.RemoveAll(c.dir)
}

// sum adds what the nearsides say themselves.
func (c *check) sum(ctx context.Context) {
	for i, n := range c.near {
		c.rep.Hits[i], c.rep.Asked[i], _ = n.hits(ctx)
		c.rep.Pushes[i], c.rep.Dropped[i] = n.relay.pushes.Load(), n.relay.dropped.Load()
		if n.p.Out.Raced() || !n.p.Alive() {
			c.rep.violation(kindRace, fmt.Sprintf("nearside %s:\n%s", n.name, &n.p.Out))
			continue
		}
		audit, err := n.metrics(ctx)
		if err != nil {
			c.rep.note("/metrics could not be read", err.Error())
		}
		c.rep.Audited += int64(audit[`nearside_audit_total{result="equal"}`])
		if found := audit[`nearside_audit_inconsistent_total{prefix="product:"}`]; found > 0 {
			c.rep.violation(kindAudit, fmt.Sprintf("nearside %s has found %v hits that Redis does not confirm\n%s", n.name, found, n.p.Out.LastWords()))
		}
	}
	c.rep.Took = c.now()
}

func (c *check) stop() bool { return c.cfg.StopEarly && c.rep.Violations() > 0 }

// work starts everybody who reads, writes and locks; they end with ctx.
func (c *check) work(ctx context.Context, wg *sync.WaitGroup) {
	for via := range 3 {
		for n := range c.cfg.Writers {
			wg.Go(func() { c.writer(ctx, via, n) })
		}
		for n := range c.cfg.Contenders {
			wg.Go(func() { c.contender(ctx, via, n) })
		}
		if via == direct {
			continue
		}
		for n := range c.cfg.Readers {
			wg.Go(func() { c.reader(ctx, via, n) })
		}
	}
	for n := range pairs {
		wg.Go(func() { c.pairWriter(ctx, n) })
	}
	for n := range c.cfg.Probers {
		wg.Go(func() { c.prober(ctx, n) })
	}
	if c.cfg.Sabotage.Thief {
		wg.Go(func() { c.thief(ctx) })
	}
}

func (c *check) traffic(ctx context.Context) error {
	work, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	c.work(work, &wg)
	can := c.faults()
	c.healthyFor(ctx, c.cfg.Warm)
	for cycle := 0; ctx.Err() == nil && !c.stop(); cycle++ {
		if c.cfg.Cycles > 0 && cycle >= c.cfg.Cycles || c.cfg.Cycles == 0 && c.now() > c.cfg.Duration {
			break
		}
		name := "quiet"
		c.calm.Store(c.rand.IntN(2) == 0)
		if len(can) > 0 {
			f := can[(c.cfg.From+cycle)%len(can)]
			name = f.name
			c.faulty.Add(1)
			err := f.do(c, ctx, c.rand)
			c.faultEnd.Store(int64(c.now()))
			c.faulty.Add(-1)
			if err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			c.recovered(ctx, name)
			pause(ctx, time.Duration(c.rand.IntN(300))*time.Millisecond)
		} else {
			c.healthyFor(ctx, time.Second)
		}
		if c.stop() {
			break
		}
		c.converged(ctx)
		c.rep.cycle(name)
		c.healthyFor(ctx, c.cfg.Between)
		fmt.Fprintf(c.cfg.Log, "%7.1fs %s cycle %d: %s; %d reads, %d writes, %d violations\n",
			c.now().Seconds(), c.cfg.Mode, cycle+1, name, c.rep.Reads.Load(), c.rep.Writes.Load(), c.rep.Violations())
	}
	return ctx.Err()
}

// healthyFor lets the traffic go on, until there is a violation if that is the end.
func (c *check) healthyFor(ctx context.Context, d time.Duration) {
	var violated chan struct{}
	if c.cfg.StopEarly {
		violated = c.rep.violated
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	case <-violated:
	}
}

// faults are those that this run is to have.
func (c *check) faults() []fault {
	if !c.cfg.Faults {
		return nil
	}
	if c.cfg.Only == nil {
		return faults
	}
	var some []fault
	for _, f := range faults {
		for _, name := range c.cfg.Only {
			if f.name == name {
				some = append(some, f)
			}
		}
	}
	return some
}

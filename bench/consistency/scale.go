package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"nearside/bench/internal/scrape"
)

// The scale runs measure what the promises cost and how far they hold: at
// nearside's own defaults, with 51 contenders for locks at it all the time.

// measures are the scale runs in their order; each has a nearside pair of its own.
var measures = []struct {
	name string
	mode Mode
	do   func(*check, context.Context) error
}{
	{"latency", Tracking, (*check).latency},
	{"storm", Tracking, (*check).storm},
	{"ttl", Tracking, (*check).lives},
	{"linear", Tracking, (*check).linearMillion},
	{"linear", Fenced, (*check).linearMillion},
}

// runScale runs those that are named, or all.
func runScale(ctx context.Context, cfg Config, what string) (*Report, error) {
	cfg.MaxStaleness, cfg.Ping, cfg.Slack = time.Second, 100*time.Millisecond, 20*time.Millisecond
	cfg.MemoryMiB, cfg.Keys, cfg.Locks, cfg.Contenders, cfg.LockPause = 256, 1, 8, 17, 30*time.Millisecond
	cfg.ProbePause = time.Millisecond
	cfg.Sabotage.Count = true
	total := newReport()
	for _, m := range measures {
		if what != "all" && !slices.Contains(strings.Split(what, ","), m.name) {
			continue
		}
		cfg.Mode = m.mode
		fmt.Fprintf(cfg.Log, "measuring: %s, %s\n", m.name, m.mode)
		rep, err := measureOne(ctx, cfg, m.do)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", m.name, m.mode, err)
		}
		rep.figure("%s: %d locks acquired by %d contenders, %d attempts too late, every ledger right, never two holders", m.name, rep.Locks.Load(), 3*cfg.Contenders, rep.Contended.Load())
		total.add(rep)
		total.Took += rep.Took
	}
	return total, nil
}

func measureOne(ctx context.Context, cfg Config, do func(*check, context.Context) error) (*Report, error) {
	c, err := newCheck(cfg)
	if err != nil {
		return nil, err
	}
	defer c.close()
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for via := range 3 {
		for n := range cfg.Contenders {
			wg.Go(func() { c.contender(work, via, n) })
		}
	}
	c.recovered(ctx, "start")
	err = do(c, ctx)
	cancel()
	wg.Wait()
	if err != nil {
		return nil, err
	}
	c.audit(ctx, c.ledgers)
	c.sum(ctx)
	return c.rep, ctx.Err()
}

// percentiles of durations, sorted by this.
func percentiles(all []time.Duration) string {
	if len(all) == 0 {
		return "nothing"
	}
	slices.Sort(all)
	n := len(all)
	return fmt.Sprintf("p50 %v, p99 %v, max %v of %d", all[n/2].Round(time.Microsecond), all[n*99/100].Round(time.Microsecond), all[n-1].Round(time.Microsecond), n)
}

// latency measures how soon a write at Redis itself is seen while all is well,
// and how old the proof of freshness is. Fences would hide the first: so for
// that time nobody takes locks.
func (c *check) latency(ctx context.Context) error {
	c.calm.Store(true)
	pause(ctx, 1500*time.Millisecond)
	work, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for n := range 2 {
		wg.Go(func() { c.prober(work, n) })
	}
	var bounds []time.Duration
	cl := c.client(viaA, 3, 0, "bound")
	defer cl.Close()
	for work.Err() == nil {
		d, err := c.bound(ctx, cl)
		if err != nil {
			return err
		}
		bounds = append(bounds, d)
		pause(work, 2*time.Millisecond)
	}
	wg.Wait()
	c.calm.Store(false)
	pause(ctx, 2*time.Second) // some locks, for the ledgers
	c.calm.Store(true)
	pause(ctx, 500*time.Millisecond)
	link, err := c.near[0].metrics(ctx)
	if err != nil {
		return err
	}
	trip := time.Duration(link["nearside_link_round_trip_seconds"] * float64(time.Second))
	c.rep.figure("latency: a write at Redis until it is seen through nearside: %s", percentiles(c.rep.visible))
	c.rep.figure("latency: age of the proof: %s; ping %v, round trip %v", percentiles(bounds), c.cfg.Ping, trip)
	if p99 := bounds[len(bounds)*99/100]; p99 > 2*c.cfg.Ping+trip {
		c.rep.violation(kindCount, fmt.Sprintf("the proof is older than %v for more than 1 %% of the time: p99 %v", 2*c.cfg.Ping+trip, p99))
	}
	return nil
}

// bound asks nearside how old a hit can be.
func (c *check) bound(ctx context.Context, cl *client) (time.Duration, error) {
	info, err := cl.Do(ctx, "INFO", "nearside").Text()
	if err != nil {
		return 0, err
	}
	const name = "link_staleness_bound_ms:"
	_, rest, ok := strings.Cut(info, name)
	if !ok {
		return 0, fmt.Errorf("INFO nearside has no %s", name)
	}
	text, _, _ := strings.Cut(rest, "\r\n")
	ms, err := strconv.ParseFloat(text, 64)
	return time.Duration(ms * float64(time.Millisecond)), err
}

// linearMillion gives porcupine a million operations.
func (c *check) linearMillion(ctx context.Context) error {
	began := c.now()
	c.linear(ctx, func() bool { return c.rep.Linear < 1e6 })
	where := "all through one nearside"
	if c.lim.fenced {
		where = "through both nearsides and at Redis itself, the rule fenced"
	}
	c.rep.figure("linear: %d operations in %v, %s: %d histories of keys that are not linearizable", c.rep.Linear,
		(c.now() - began).Round(time.Second), where, c.rep.Violations(kindLinear))
	return nil
}

// Storm: so many writes a second at Redis itself, of so many keys, for so long.
const (
	stormRate = 20000
	stormKeys = 20000
	stormLong = 30 * time.Second
	stormDeep = 100 // writes in one batch
	stormWays = 2   // writers; each has keys of its own
)

// stormKey is a key whose value is the number of its version.
type stormKey struct {
	mu   sync.Mutex
	acks []time.Duration // of each version
}

func stormName(i int) string { return fmt.Sprint("product:storm:", i) }

// storm writes 20,000 times a second at Redis itself what both nearsides hold and are asked for.
func (c *check) storm(ctx context.Context) error {
	keys := make([]stormKey, stormKeys)
	work, cancel := context.WithTimeout(ctx, stormLong)
	defer cancel()
	var before [2]scrape.Series
	var keysBefore [2]int64
	c.calm.Store(true)
	pause(ctx, time.Second) // what contenders have set off has arrived
	for i, n := range c.near {
		var err error
		if before[i], err = n.metrics(ctx); err != nil {
			return err
		}
		keysBefore[i] = n.relay.keys.Load()
	}
	c.calm.Store(false)
	began := c.now()
	var wg sync.WaitGroup
	for n := range stormWays {
		wg.Go(func() { c.stormWriter(work, n, keys) })
	}
	for via := viaA; via <= viaB; via++ {
		for n := range 3 {
			wg.Go(func() { c.stormReader(work, via, n, keys) })
		}
	}
	wg.Wait()
	long := c.now() - began
	c.calm.Store(true)
	pause(ctx, c.lim.bound+time.Second)
	writes := c.rep.Writes.Load()
	c.rep.figure("storm: %d writes at Redis itself in %v, %.0f/s; %d reads, %.0f/s", writes, long.Round(time.Millisecond), float64(writes)/long.Seconds(),
		c.rep.Reads.Load(), float64(c.rep.Reads.Load())/long.Seconds())
	c.rep.figure("storm: oldest answer overwritten %v before it was asked for; the bound is %v", c.rep.stalest[0], c.cfg.MaxStaleness)
	for i, n := range c.near {
		now, err := n.metrics(ctx)
		if err != nil {
			return err
		}
		more := func(name string) float64 { return now[name] - before[i][name] }
		received, applied := more(`nearside_link_received_total{source="tracking"}`), more(`nearside_invalidations_total{source="tracking"}`)
		sent := n.relay.keys.Load() - keysBefore[i]
		hits, misses := more(`nearside_cache_hits_total{prefix="product:"}`), more(`nearside_cache_misses_total{prefix="product:"}`)
		c.rep.figure("storm: nearside %s: Redis told of %d keys, %.0f received, %.0f applied; %.0f hits of %.0f reads (%.1f %%, %.0f/s)",
			n.name, sent, received, applied, hits, hits+misses, 100*hits/(hits+misses), hits/long.Seconds())
		if float64(sent) != received || received != applied {
			c.rep.violation(kindCount, fmt.Sprintf("nearside %s: %d keys on the link, %v received, %v applied", n.name, sent, received, applied))
		}
		if hits == 0 {
			c.rep.violation(kindCount, fmt.Sprintf("nearside %s answered nothing itself", n.name))
		}
	}
	var all []*key
	for i := range stormKeys {
		all = append(all, newKey(stormName(i), aString, 0))
	}
	at := c.client(direct, 3, 1, "quiet check")
	defer at.Close()
	truth := c.values(ctx, at, all)
	for n := range c.near {
		cl := c.client(n+1, 3, 1, "quiet check")
		for i, v := range c.values(ctx, cl, all) {
			c.rep.Compared++
			if v != truth[i] {
				c.rep.violation(kindConvergence, fmt.Sprintf("%s is %q at Redis and %q by %s", all[i].name, truth[i].payload, v.payload, cl.name))
			}
		}
		cl.Close()
	}
	c.rep.figure("storm: %d values compared with Redis after quiet, %d different", c.rep.Compared, c.rep.Violations(kindConvergence))
	return nil
}

func (c *check) stormWriter(ctx context.Context, n int, keys []stormKey) {
	r := rand.New(rand.NewPCG(c.cfg.Seed, uint64(n)))
	cl := c.client(direct, 3, 1, fmt.Sprintf("storm %d", n))
	defer cl.Close()
	tick := time.NewTicker(time.Second * stormDeep * stormWays / stormRate)
	defer tick.Stop()
	begun := time.Now()
	for done := 0; ctx.Err() == nil; {
		// What a late tick has missed is made up for.
		for due := int(time.Since(begun).Seconds() * stormRate / stormWays); done < due && ctx.Err() == nil; done += stormDeep {
			batch := map[int]int{}
			p := cl.Pipeline()
			for len(batch) < stormDeep {
				i := r.IntN(stormKeys/stormWays)*stormWays + n
				if _, twice := batch[i]; twice {
					continue
				}
				k := &keys[i]
				k.mu.Lock()
				v := len(k.acks)
				k.acks = append(k.acks, never)
				k.mu.Unlock()
				batch[i] = v
				p.Set(context.WithoutCancel(ctx), stormName(i), v, 0)
			}
			if _, err := p.Exec(context.WithoutCancel(ctx)); err != nil {
				c.rep.violation(kindLost, "a write failed: "+err.Error())
				return
			}
			now := c.now()
			for i, v := range batch {
				keys[i].mu.Lock()
				keys[i].acks[v] = now
				keys[i].mu.Unlock()
			}
			c.rep.Writes.Add(int64(len(batch)))
		}
		<-tick.C
	}
}

func (c *check) stormReader(ctx context.Context, via, n int, keys []stormKey) {
	r := rand.New(rand.NewPCG(c.cfg.Seed, uint64(100*via+n)))
	cl := c.client(via, 2+n%2, 1, fmt.Sprintf("storm reader %d", n))
	defer cl.Close()
	seen := make([]int, stormKeys)
	for i := range seen {
		seen[i] = -1 // no version
	}
	for ctx.Err() == nil {
		var is [16]int
		p := cl.Pipeline()
		for x := range is {
			// Some are asked for much more often than they are written.
			f := r.Float64()
			is[x] = int(f * f * f * f * stormKeys)
			p.Do(context.WithoutCancel(ctx), "GET", stormName(is[x]))
		}
		from := c.now()
		got, _ := p.Exec(context.WithoutCancel(ctx)) // nil is no version yet
		for x, cmd := range got {
			text, _ := cmd.(interface{ Text() (string, error) }).Text()
			v, err := strconv.Atoi(text)
			if err != nil {
				v = -1
			}
			c.rep.Reads.Add(1)
			c.judgeStorm(&keys[is[x]], is[x], v, seen[is[x]], from, cl)
			seen[is[x]] = max(seen[is[x]], v)
		}
	}
}

// judgeStorm compares a version with what was due.
func (c *check) judgeStorm(k *stormKey, i, v, seen int, from time.Duration, cl *client) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case v >= len(k.acks):
		c.rep.violation(kindPhantom, fmt.Sprintf("%s is version %d by %s, of %d", stormName(i), v, cl.name, len(k.acks)))
	case v < seen && seen < len(k.acks):
		c.rep.violation(kindMonotonic, fmt.Sprintf("%s is version %d by %s, after %d", stormName(i), v, cl.name, seen))
	case v+1 < len(k.acks) && k.acks[v+1] < from:
		d := from - k.acks[v+1]
		c.rep.stale(d, false)
		if d > c.lim.bound {
			c.rep.violation(kindBound, fmt.Sprintf("%s is version %d by %s, which was overwritten %v before", stormName(i), v, cl.name, d))
		}
	}
}

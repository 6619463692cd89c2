package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

type fault struct {
	name string
	do   func(c *check, ctx context.Context, r *rand.Rand) error
}

// faults are what can befall a deployment. The first ones come first in a short run.
var faults = []fault{
	{"cut all", func(c *check, ctx context.Context, r *rand.Rand) error { return c.cut(ctx, r, everyone) }},
	{"cut link", func(c *check, ctx context.Context, r *rand.Rand) error { return c.cut(ctx, r, onlyLink) }},
	{"blackhole link", func(c *check, ctx context.Context, r *rand.Rand) error { return c.hole(ctx, r, onlyLink) }},
	{"restart empty", (*check).restartEmpty},
	{"freeze", (*check).freeze},
	{"half-close all", func(c *check, ctx context.Context, r *rand.Rand) error { return c.halfClose(ctx, r, everyone) }},
	{"half-close link", func(c *check, ctx context.Context, r *rand.Rand) error { return c.halfClose(ctx, r, onlyLink) }},
	{"delay", (*check).slow},
	{"flush", (*check).flush},
	{"restart with old data", (*check).restartOld},
	{"evict", (*check).evict},
	{"blackhole all", func(c *check, ctx context.Context, r *rand.Rand) error { return c.hole(ctx, r, everyone) }},
}

// some chooses A, B or both.
func (c *check) some(r *rand.Rand) []*nearside {
	switch r.IntN(3) {
	case 0:
		return c.near[:1]
	case 1:
		return c.near[1:]
	}
	return c.near[:]
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (c *check) cut(ctx context.Context, r *rand.Rand, s scope) error {
	some := c.some(r)
	// Some times at once again, sometimes not for a while.
	long := time.Duration(r.IntN(2)) * (c.cfg.MaxStaleness + 200*time.Millisecond)
	for _, n := range some {
		if long > 0 {
			n.relay.refuse.Store(int32(s))
		}
		n.relay.cut(s)
	}
	pause(ctx, long)
	for _, n := range some {
		n.relay.refuse.Store(int32(nobody))
	}
	return nil
}

func (c *check) hole(ctx context.Context, r *rand.Rand, s scope) error {
	some := c.some(r)
	for _, n := range some {
		n.relay.blackhole.Store(int32(s))
	}
	pause(ctx, 2*c.cfg.MaxStaleness+time.Duration(r.IntN(400))*time.Millisecond)
	for _, n := range some {
		n.relay.blackhole.Store(int32(nobody))
	}
	return nil
}

func (c *check) halfClose(ctx context.Context, r *rand.Rand, s scope) error {
	for _, n := range c.some(r) {
		n.relay.halfClose(s)
	}
	pause(ctx, c.cfg.MaxStaleness)
	return nil
}

func (c *check) slow(ctx context.Context, r *rand.Rand) error {
	some := c.some(r)
	for _, n := range some {
		n.relay.delay.Store(int64(50 * time.Millisecond))
	}
	pause(ctx, 2*c.cfg.MaxStaleness)
	for _, n := range some {
		n.relay.delay.Store(0)
	}
	return nil
}

func (c *check) freeze(ctx context.Context, _ *rand.Rand) error {
	c.redis.signal(syscall.SIGSTOP)
	pause(ctx, 1500*time.Millisecond)
	c.redis.signal(syscall.SIGCONT)
	return nil
}

// everything runs a change of all keys while nobody writes: it becomes each
// key's next version. Readers go on.
func (c *check) everything(how string, via int, called time.Duration, do func() error, after func(k *key) (version, bool)) error {
	for i := range c.slots {
		k := c.slots[i].Load()
		v, _ := after(k)
		v.call, v.via, v.how = called, via, how
		k.begin(v)
	}
	err := do()
	now := c.now()
	c.worldAt.Store(int64(now))
	for i := range c.slots {
		k := c.slots[i].Load()
		if err != nil {
			c.replace(i, k)
			continue
		}
		k.mu.Lock()
		k.vs[len(k.vs)-1].ack = now
		if via == viaA || via == viaB {
			k.acked[via] = k.base + len(k.vs) - 1
		}
		k.mu.Unlock()
	}
	for i := range c.locks {
		c.giveUp(i, c.locks[i].Load())
	}
	return err
}

func gone(*key) (version, bool) { return version{absent: true}, true }

func (c *check) restartEmpty(ctx context.Context, _ *rand.Rand) error {
	killed := c.now()
	c.redis.p.kill()
	c.gate.Lock() // when all writes that were under way have failed
	defer c.gate.Unlock()
	pause(ctx, 100*time.Millisecond)
	c.redis.forget()
	return c.everything("restart empty", world, killed, c.redis.start, gone)
}

func (c *check) restartOld(ctx context.Context, _ *rand.Rand) error {
	c.gate.Lock()
	err := c.admin.Save(ctx).Err()
	saved := map[*key]version{}
	for i := range c.slots {
		k := c.slots[i].Load()
		saved[k] = k.last()
	}
	c.gate.Unlock()
	if err != nil {
		return err
	}
	pause(ctx, c.cfg.MaxStaleness+200*time.Millisecond)
	killed := c.now()
	c.redis.p.kill()
	c.gate.Lock()
	defer c.gate.Unlock()
	return c.everything("restart with old data", world, killed, c.redis.start, func(k *key) (version, bool) {
		if v, ok := saved[k]; ok {
			return v, true
		}
		return gone(k)
	})
}

func (c *check) flush(ctx context.Context, r *rand.Rand) error {
	via := r.IntN(3)
	cl := c.client(via, 3, 1, "flusher")
	defer cl.Close()
	c.gate.Lock()
	defer c.gate.Unlock()
	return c.everything("FLUSHDB", via, c.now(), func() error { return cl.FlushDB(ctx).Err() }, gone)
}

// evict makes Redis throw away about half of its keys.
func (c *check) evict(ctx context.Context, _ *rand.Rand) error {
	c.gate.Lock()
	defer c.gate.Unlock()
	called := c.now()
	c.worldAt.Store(int64(never))
	for i := range c.slots {
		c.slots[i].Load().begin(version{absent: true, call: called, via: world, how: "evicted"})
	}
	junk := strings.Repeat("x", 1000)
	fill := func(n int) error {
		p := c.admin.Pipeline()
		for i := range n {
			p.Set(ctx, fmt.Sprint("junk:", i), junk, 0)
		}
		_, err := p.Exec(ctx)
		return err
	}
	if err := fill(2000); err != nil {
		return err
	}
	info, err := c.admin.Info(ctx, "memory").Result()
	if err != nil {
		return err
	}
	var used int64
	for line := range strings.Lines(info) {
		_, _ = fmt.Sscanf(line, "used_memory:%d", &used)
	}
	for _, kv := range [][2]string{{"maxmemory-policy", "allkeys-random"}, {"maxmemory", fmt.Sprint(used - 1<<20)}} {
		if err := c.admin.ConfigSet(ctx, kv[0], kv[1]).Err(); err != nil {
			return err
		}
	}
	_ = fill(50)
	if err := c.admin.ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		return err
	}
	evicted := 0
	for i := range c.slots {
		k := c.slots[i].Load()
		n, err := c.admin.Exists(ctx, k.name).Result()
		switch {
		case err != nil:
			return err
		case n == 0:
			k.end(c.now(), 0)
			evicted++
		default:
			k.undo()
		}
	}
	for i := range c.locks {
		c.giveUp(i, c.locks[i].Load())
	}
	c.worldAt.Store(int64(c.now()))
	// Half of a pair may be gone: make them whole, and let it be known.
	for n := range pairs {
		a, b := pairNames(n)
		if err := c.admin.MSet(ctx, a, "whole", b, "whole").Err(); err != nil {
			return err
		}
	}
	p := c.admin.Pipeline()
	for i := range 2000 {
		p.Del(ctx, fmt.Sprint("junk:", i))
	}
	_, err = p.Exec(ctx)
	return err
}

// recovered waits until both nearsides answer from the near cache again.
func (c *check) recovered(ctx context.Context) {
	for _, n := range c.near {
		began := c.now()
		cl := newClient(n.addr, 3, 0)
		before, _, _ := n.hits(ctx)
		for ctx.Err() == nil {
			err := cl.Get(ctx, "product:alive").Err()
			if err == nil || errors.Is(err, redis.Nil) {
				if now, _, err := n.hits(ctx); err == nil && now > before {
					break
				}
			}
			if c.now()-began > 10*time.Second {
				c.rep.violation(kindRecovery, fmt.Sprintf("no hits through %s for 10 s after the fault (last error: %v)\n%s", n.name, err, lastWords(n.p.out.String())))
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		_ = cl.Close()
	}
}

// converged compares every key everywhere, after a moment in which nobody wrote.
func (c *check) converged(ctx context.Context) {
	c.gate.Lock()
	defer c.gate.Unlock()
	c.readers.Lock()
	defer c.readers.Unlock()
	pause(ctx, c.lim.bound)
	at := c.client(direct, 3, 1, "quiet check")
	defer at.Close()
	var ways []*client
	for n := range c.near {
		cl := c.client(n+1, 2+c.rand.IntN(2), c.rand.IntN(2), "quiet check")
		defer cl.Close()
		ways = append(ways, cl)
	}
	hashes := map[string]bool{}
	var names []string
	keys := map[string]*key{}
	for i := range c.slots {
		k := c.slots[i].Load()
		hashes[k.name] = k.hash
		keys[k.name] = k
		names = append(names, k.name)
	}
	c.oldMu.Lock()
	for _, name := range c.old {
		hashes[name] = strings.HasPrefix(name, "product:h")
		names = append(names, name)
	}
	c.oldMu.Unlock()
	for n := range pairs {
		a, b := pairNames(n)
		names = append(names, a, b)
	}
	for _, name := range names {
		for _, cl := range ways {
			var before, got, after string
			ok := false
			var err error
			for range 4 { // an expiry or a late write may come between
				if before, err = value(ctx, at, name, hashes[name]); err != nil {
					break
				}
				for range 2 {
					if got, err = value(ctx, cl, name, hashes[name]); err != nil {
						break
					}
				}
				if err != nil {
					break
				}
				if after, err = value(ctx, at, name, hashes[name]); err != nil {
					break
				}
				if ok = got == before || got == after; ok {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			c.rep.Compared++
			if err != nil && ctx.Err() == nil {
				c.rep.violation(kindRecovery, fmt.Sprintf("%s after quiet by %s: %v", name, cl.name, err))
			} else if !ok {
				c.rep.violation(kindConvergence, fmt.Sprintf("%s is %.60q at Redis and %.60q by %s", name, before, got, cl.name))
			}
		}
		if k := keys[name]; k != nil {
			from := c.now()
			got, err := value(ctx, at, name, k.hash)
			o := observation{payload: got, absent: got == "", from: from, to: c.now(), cmd: "read", who: at.name}
			k.mu.Lock()
			last := k.base + len(k.vs) - 1
			k.mu.Unlock()
			if d := k.judge(&o, view{}, last, c.lim); err == nil && d.kind != "" {
				c.rep.violation(kindLost, "at Redis itself: "+d.trace)
			}
		}
	}
	c.audit(ctx, c.ledgers)
}

func value(ctx context.Context, cl *client, name string, hash bool) (string, error) {
	if hash {
		m, err := cl.HGetAll(ctx, name).Result()
		return m["a"], err
	}
	s, err := cl.Get(ctx, name).Result()
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	return s, err
}

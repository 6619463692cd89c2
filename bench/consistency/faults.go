package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"
)

type fault struct {
	name string
	do   func(c *check, ctx context.Context, r *rand.Rand) error
}

// on makes a fault for some of a relay's connections.
func on(s scope, do func(*check, context.Context, *rand.Rand, scope) error) func(*check, context.Context, *rand.Rand) error {
	return func(c *check, ctx context.Context, r *rand.Rand) error { return do(c, ctx, r, s) }
}

// faults are what can befall a deployment.
var faults = []fault{
	{"cut all", on(everyone, (*check).cut)},
	{"wrong server", (*check).wrongServer},
	{"blackhole link", on(onlyLink, (*check).hole)},
	{"busy script", (*check).busy},
	{"swapdb", (*check).swap},
	{"half-close link", on(onlyLink, (*check).halfClose)},
	{"restart empty", (*check).restartEmpty},
	{"jitter", (*check).jitter},
	{"kill clients", (*check).killClients},
	{"cut link", on(onlyLink, (*check).cut)},
	{"demote", (*check).demote},
	{"half-close data", on(onlyData, (*check).halfClose)},
	{"flush", (*check).flush},
	{"freeze Redis", (*check).freeze},
	{"overflow the link", (*check).overflow},
	{"cut data", on(onlyData, (*check).cut)},
	{"restart with old data", (*check).restartOld},
	{"freeze nearside", (*check).freezeNearside},
	{"evict", (*check).evict},
	{"blackhole data", on(onlyData, (*check).hole)},
	{"delay", (*check).slow},
	{"half-close all", on(everyone, (*check).halfClose)},
	{"blackhole all", on(everyone, (*check).hole)},
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
	pause(ctx, 3*c.cfg.MaxStaleness/2+time.Duration(r.IntN(400))*time.Millisecond)
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

// slow delays everything by the same time, jitter each chunk by another.
func (c *check) slow(ctx context.Context, r *rand.Rand) error {
	return c.lag(ctx, r, func(n *nearside, d time.Duration) { n.relay.delay.Store(int64(d)) })
}

func (c *check) jitter(ctx context.Context, r *rand.Rand) error {
	return c.lag(ctx, r, func(n *nearside, d time.Duration) { n.relay.jitter.Store(int64(max(d, c.cfg.Jitter))) })
}

func (c *check) lag(ctx context.Context, r *rand.Rand, set func(*nearside, time.Duration)) error {
	some := c.some(r)
	for _, n := range some {
		set(n, 50*time.Millisecond)
	}
	pause(ctx, 2*c.cfg.MaxStaleness)
	for _, n := range some {
		set(n, 0)
	}
	return nil
}

func (c *check) freeze(ctx context.Context, _ *rand.Rand) error {
	c.redis.p.Signal(syscall.SIGSTOP)
	pause(ctx, 3*c.cfg.MaxStaleness)
	c.redis.p.Signal(syscall.SIGCONT)
	return nil
}

// freezeNearside is what a machine does that is moved or short of CPU.
func (c *check) freezeNearside(ctx context.Context, r *rand.Rand) error {
	some := c.some(r)
	for _, n := range some {
		n.p.Signal(syscall.SIGSTOP)
	}
	pause(ctx, 3*c.cfg.MaxStaleness/2)
	for _, n := range some {
		n.p.Signal(syscall.SIGCONT)
	}
	return nil
}

// busy has a script keep Redis from doing anything else.
func (c *check) busy(ctx context.Context, _ *rand.Rand) error {
	cl := c.client(direct, 3, 0, "script")
	defer cl.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cl.Eval(ctx, "while true do end", nil).Err() // it is killed
	}()
	pause(ctx, 100*time.Millisecond+2*c.cfg.MaxStaleness)
	for {
		_ = c.ledgers.ScriptKill(ctx).Err() // NOTBUSY before it has begun: asked again
		select {
		case <-ended:
			return nil
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// killClients closes every connection at Redis, the writers' own included.
func (c *check) killClients(ctx context.Context, r *rand.Rand) error {
	for range 1 + r.IntN(3) {
		if err := c.ledgers.Do(ctx, "CLIENT", "KILL", "TYPE", "normal").Err(); err != nil {
			return err
		}
		pause(ctx, time.Duration(r.IntN(100))*time.Millisecond)
	}
	return nil
}

// overflow has more to say to links than Redis is willing to hold for them, so
// that it closes them itself.
func (c *check) overflow(ctx context.Context, r *rand.Rand) error {
	some := c.some(r)
	for _, n := range some {
		n.relay.narrow.Store(true)
		n.relay.cut(onlyLink) // the one that follows is narrow
	}
	c.recovered(ctx, "a new link")
	if err := c.admin.ConfigSet(ctx, "client-output-buffer-limit", "normal 65536 0 0 pubsub 65536 0 0").Err(); err != nil {
		return err
	}
	var links []string // as Redis knows them
	for _, n := range some {
		n.relay.blackhole.Store(int32(onlyLink))
		links = append(links, n.relay.linkAddrs()...)
	}
	long := strings.Repeat("x", 4000)
	for i, end := 0, c.now()+10*time.Second; ; i++ {
		p := c.admin.Pipeline()
		for j := range 200 {
			p.Set(ctx, fmt.Sprintf("product:junk:%s:%d", long, j), i, time.Second)
		}
		if _, err := p.Exec(ctx); err != nil {
			return err
		}
		list, err := c.admin.ClientList(ctx).Result()
		if err != nil {
			return err
		}
		held := 0
		for _, addr := range links {
			held += strings.Count(list, " addr="+addr+" ")
		}
		if held == 0 {
			break
		}
		if c.now() > end || ctx.Err() != nil {
			return fmt.Errorf("of %d links Redis holds on to %d", len(links), held)
		}
	}
	for _, n := range some {
		n.relay.blackhole.Store(int32(nobody))
		n.relay.narrow.Store(false)
	}
	return c.admin.ConfigSet(ctx, "client-output-buffer-limit", "normal 0 0 0 pubsub 33554432 8388608 60").Err()
}

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// recovered waits until both nearsides answer from the near cache again.
func (c *check) recovered(ctx context.Context, after string) {
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
				c.rep.violation(kindRecovery, fmt.Sprintf("no hits through %s for 10 s after %s (last error: %v)\n%s", n.name, after, err, n.p.Out.LastWords()))
				break
			}
			time.Sleep(5 * time.Millisecond)
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
	keys := c.everyKey()
	truth := c.values(ctx, at, keys)
	for n := range c.near {
		cl := c.client(n+1, 2+c.rand.IntN(2), c.rand.IntN(2), "quiet check")
		c.values(ctx, cl, keys) // has what is not there yet fetched
		got := c.values(ctx, cl, keys)
		for i, k := range keys {
			c.rep.Compared++
			if truth[i] != got[i] {
				c.compare(ctx, at, cl, k)
			}
		}
		cl.Close()
	}
	for i := range c.slots {
		k := c.slots[i].Load()
		from := c.now()
		got := c.values(ctx, at, []*key{k})[0]
		o := observation{payload: got.payload, absent: got.absent, from: from, to: c.now(), cmd: "read", who: at.name}
		k.mu.Lock()
		last := k.base + len(k.vs) - 1
		k.mu.Unlock()
		if d := k.judge(&o, view{}, last, c.lim); got.err == "" && d.kind != "" {
			c.rep.violation(kindLost, "at Redis itself: "+d.trace)
		}
	}
	c.audit(ctx, c.ledgers)
}

// everyKey is all that anybody reads: the keys in use, those given up, and the pairs.
func (c *check) everyKey() []*key {
	var keys []*key
	for i := range c.slots {
		keys = append(keys, c.slots[i].Load())
	}
	c.oldMu.Lock()
	keys = append(keys, c.old...)
	c.oldMu.Unlock()
	for n := range pairs {
		a, b := pairNames(n)
		keys = append(keys, newKey(a, aString, 0), newKey(b, aString, 0))
	}
	return keys
}

// compare looks at a key again that was not the same everywhere: an expiry may have come between.
func (c *check) compare(ctx context.Context, at, cl *client, k *key) {
	var before, got, after value
	for range 4 {
		before = c.values(ctx, at, []*key{k})[0]
		got = c.values(ctx, cl, []*key{k})[0]
		after = c.values(ctx, at, []*key{k})[0]
		if got == before || got == after {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	switch {
	case ctx.Err() != nil:
	case before.err+got.err+after.err != "":
		c.rep.violation(kindRecovery, fmt.Sprintf("%s after quiet: %q at Redis, %q by %s", k.name, before.err+after.err, got.err, cl.name))
	default:
		c.rep.violation(kindConvergence, fmt.Sprintf("%s is %s at Redis and %s by %s", k.name,
			show(before.payload, before.absent), show(got.payload, got.absent), cl.name))
	}
}

// value is what a key holds.
type value struct {
	payload string
	absent  bool
	err     string
}

// values reads keys whole, each as its kind wants it.
func (c *check) values(ctx context.Context, cl *client, keys []*key) []value {
	out := make([]value, len(keys))
	cmds := make([]*redis.Cmd, len(keys))
	p := cl.Pipeline()
	for i, k := range keys {
		cmds[i] = p.Do(ctx, asks[k.kind][0].on(k)...)
	}
	_, _ = p.Exec(ctx) // each command has its own error
	for i, k := range keys {
		answer, err := cmds[i].Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			out[i].err = err.Error()
			continue
		}
		o := observation{absent: answer == nil}
		if answer != nil {
			asks[k.kind][0].tell(&o, answer)
		}
		out[i] = value{payload: o.payload, absent: o.absent}
	}
	return out
}

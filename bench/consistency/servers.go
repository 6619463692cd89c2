package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// What changes all keys at once, or the server that holds them.

// everything runs a change of all keys while nobody writes: it becomes each
// key's next version. Readers go on. It returns what every key was before.
func (c *check) everything(change version, do func() error, after func(k *key) version) (before map[*key]version, err error) {
	before = map[*key]version{}
	numbers := make([]int, len(c.slots))
	if change.call == 0 {
		change.call = c.now()
	}
	for i := range c.slots {
		k := c.slots[i].Load()
		before[k] = k.last()
		v := after(k)
		v.call, v.via, v.how, v.silent = change.call, change.via, change.how, change.silent
		numbers[i] = k.begin(v)
	}
	c.worldAt.Store(int64(never))
	err = do()
	now := c.now()
	c.worldAt.Store(int64(now))
	for i := range c.slots {
		k := c.slots[i].Load()
		if err != nil {
			c.replace(i, k)
		} else {
			k.end(numbers[i], now, 0)
		}
	}
	for i := range c.locks {
		c.giveUp(i, c.locks[i].Load())
	}
	return before, err
}

func gone(*key) version { return version{absent: true} }

// as makes every key what it was at some time before, and nothing if it was not there then.
func as(saved map[*key]version) func(*key) version {
	return func(k *key) version {
		if v, ok := saved[k]; ok {
			return v
		}
		return version{absent: true}
	}
}

func (c *check) restartEmpty(ctx context.Context, _ *rand.Rand) error {
	killed := c.now()
	c.redis.p.Kill()
	c.gate.Lock() // when all writes that were under way have failed
	defer c.gate.Unlock()
	pause(ctx, 100*time.Millisecond)
	c.redis.forget()
	c.swapped = nil
	_, err := c.everything(version{call: killed, via: world, how: "restart empty"}, c.redis.start, gone)
	return err
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
	c.redis.p.Kill()
	c.gate.Lock()
	defer c.gate.Unlock()
	_, err = c.everything(version{call: killed, via: world, how: "restart with old data"}, c.redis.start, as(saved))
	return err
}

func (c *check) flush(ctx context.Context, r *rand.Rand) error {
	via := r.IntN(3)
	cl := c.client(via, 3, 1, "flusher")
	defer cl.Close()
	c.gate.Lock()
	defer c.gate.Unlock()
	// No keyspace notification tells of it; through a nearside that one knows.
	_, err := c.everything(version{via: via, how: "FLUSHDB", silent: c.cfg.Mode.keyspace()}, func() error { return cl.FlushDB(ctx).Err() }, gone)
	return err
}

// swap exchanges the database for what the last exchange has put away.
func (c *check) swap(ctx context.Context, r *rand.Rand) error {
	via := r.IntN(3)
	cl := c.client(via, 3, 0, "swapper")
	defer cl.Close()
	c.gate.Lock()
	defer c.gate.Unlock()
	before, err := c.everything(version{via: via, how: "SWAPDB", silent: true}, func() error {
		return cl.Do(ctx, "SWAPDB", 1, swappedDB).Err()
	}, as(c.swapped))
	c.swapped = before
	return err
}

// another starts a second server, which is empty.
func (c *check) another() (err error) {
	if c.other == nil {
		c.other, err = c.newRedis("other")
	}
	return err
}

// wrongServer has the address lead to another server for a while, for all new
// connections. Which of the old ones are cut is by chance: those of the data only,
// so that the link still speaks to the right one, or all.
func (c *check) wrongServer(ctx context.Context, r *rand.Rand) error {
	if err := c.another(); err != nil {
		return err
	}
	c.gate.Lock()
	defer c.gate.Unlock()
	s := []scope{everyone, onlyData}[r.IntN(2)]
	saved, err := c.everything(version{via: world, how: "another server", silent: true}, func() error { return c.move(ctx, c.other.addr, s) }, gone)
	if err != nil {
		return err
	}
	pause(ctx, c.lim.bound+200*time.Millisecond) // readers see to it that it is noticed
	_, err = c.everything(version{via: world, how: "the right server again", silent: true}, func() error { return c.move(ctx, c.redis.addr, s) }, as(saved))
	return err
}

// move redirects the relays, and returns when both nearsides have met the new server.
func (c *check) move(ctx context.Context, addr string, cut scope) error {
	for _, n := range c.near {
		n.relay.redirect(addr)
		n.relay.cut(cut)
	}
	for _, n := range c.near {
		// Somebody must want something that is not in the near cache.
		cl := newClient(n.addr, 3, 1)
		for i := 0; n.relay.reached.Load() == 0; i++ {
			_ = cl.Get(ctx, fmt.Sprintf("product:nobody:%d:%d", c.seq.Add(1), i)).Err()
			pause(ctx, time.Millisecond)
			if ctx.Err() != nil {
				break
			}
		}
		_ = cl.Close()
	}
	return ctx.Err()
}

// demote makes Redis a replica of another server, whose data it takes, and a master again.
func (c *check) demote(ctx context.Context, _ *rand.Rand) error {
	if err := c.another(); err != nil {
		return err
	}
	c.gate.Lock()
	defer c.gate.Unlock()
	host, port, _ := strings.Cut(c.other.addr, ":")
	c.swapped = nil
	// A replica is silent about what it loads. Nearside learns of it from the role and from the replication's flush.
	_, err := c.everything(version{via: world, how: "REPLICAOF", silent: true}, func() error {
		if err := c.admin.Do(ctx, "REPLICAOF", host, port).Err(); err != nil {
			return err
		}
		for end := c.now() + 20*time.Second; ; {
			info, err := c.admin.Info(ctx, "replication").Result()
			if err == nil && strings.Contains(info, "master_link_status:up") {
				return nil
			}
			pause(ctx, 10*time.Millisecond)
			if ctx.Err() != nil || c.now() > end {
				return errors.New("the replica does not get its data")
			}
		}
	}, gone)
	if err != nil {
		return err
	}
	pause(ctx, c.lim.bound)
	if err := c.admin.Do(ctx, "REPLICAOF", "NO", "ONE").Err(); err != nil {
		return err
	}
	pause(ctx, c.lim.bound) // until the role has been noticed, and all that the replica was asked meanwhile forgotten
	return nil
}

// evict makes Redis throw away about half of its keys.
func (c *check) evict(ctx context.Context, _ *rand.Rand) error {
	c.gate.Lock()
	defer c.gate.Unlock()
	called := c.now()
	c.worldAt.Store(int64(never))
	numbers := make([]int, len(c.slots))
	for i := range c.slots {
		numbers[i] = c.slots[i].Load().begin(version{absent: true, call: called, via: world, how: "evicted"})
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
	for i := range c.slots {
		k := c.slots[i].Load()
		n, err := c.admin.Exists(ctx, k.name).Result()
		switch {
		case err != nil:
			return err
		case n == 0:
			k.end(numbers[i], c.now(), 0)
		default:
			k.undo()
		}
	}
	c.swapped = nil // some of it may have been thrown away too
	if err := c.scratch.Do(ctx, "FLUSHDB").Err(); err != nil {
		return err
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

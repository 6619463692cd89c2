package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// guardian is one lock, the ledger of its acquisitions and the cached value
// that it guards. When the outcome of one of its commands is unknown, it is
// given up and another takes its place.
type guardian struct {
	lock, ledger, guarded string

	holders atomic.Int32
	given   atomic.Bool
	count   atomic.Int64 // what the ledger says; the lock's holder's, if the lock is one
	value   atomic.Value // string: what is guarded; the lock's holder's, too
}

func (c *check) newGuardian() *guardian {
	n := c.seq.Add(1)
	g := &guardian{lock: fmt.Sprint("lock:", n), ledger: fmt.Sprint("ledger:", n), guarded: fmt.Sprint("product:guarded:", n)}
	g.value.Store("")
	return g
}

func (c *check) giveUp(slot int, g *guardian) {
	g.given.Store(true)
	c.locks[slot].CompareAndSwap(g, c.newGuardian())
}

const release = `if redis.call("get",KEYS[1]) == ARGV[1] then return redis.call("del",KEYS[1]) else return 0 end`

func (c *check) contender(ctx context.Context, via, n int) {
	r := rand.New(rand.NewPCG(c.cfg.Seed, uint64(9000+100*via+n)))
	cl := c.client(via, 2+n%2, 0, fmt.Sprintf("contender %d", n))
	defer cl.Close()
	cached := cl
	if via == direct {
		cached = c.client(via, 2+n%2, 1, fmt.Sprintf("contender %d", n))
		defer cached.Close()
	}
	for run := ctx; run.Err() == nil; {
		ctx := context.WithoutCancel(run) // what was begun is finished
		var err error
		c.gate.RLock()
		if !c.calm.Load() {
			err = c.contend(ctx, cl, cached, r)
		}
		c.gate.RUnlock()
		if err != nil {
			c.rep.Errors.Add(1)
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(time.Duration(r.IntN(int(2 * c.cfg.LockPause))))
	}
}

func (c *check) contend(ctx context.Context, cl, cached *client, r *rand.Rand) (err error) {
	slot := r.IntN(len(c.locks))
	g := c.locks[slot].Load()
	defer func() {
		if err != nil && !unsent(err) {
			c.giveUp(slot, g)
		}
	}()
	token := c.payload(r)
	switch err := cl.Do(ctx, "SET", g.lock, token, "NX", "PX", 60000).Err(); {
	case errors.Is(err, redis.Nil):
		c.rep.Contended.Add(1)
		return nil
	case err != nil:
		return err
	}
	if n := g.holders.Add(1); n != 1 {
		c.rep.violation(kindLock, fmt.Sprintf("%s: %d holders, the last is %s", g.lock, n, cl.name))
	}
	c.rep.Locks.Add(1)
	defer func() {
		if err != nil { // sent or not: it is still held
			c.giveUp(slot, g)
		}
	}()
	n, err := cl.Incr(ctx, g.ledger).Result()
	if err != nil {
		return err
	}
	if want := g.count.Add(1); n != want {
		c.rep.violation(kindLock, fmt.Sprintf("%s: the ledger says %d, %d acquisitions are known; %s", g.lock, n, want, cl.name))
		g.count.Store(n)
	}
	asked := c.now()
	got, err := cached.Get(ctx, g.guarded).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	if got != g.value.Load() {
		c.rep.violation(kindGuarded, fmt.Sprintf("%s: %s, holding the lock, read %q at %v..%v where the last holder wrote %q",
			g.guarded, cached.name, got, asked, c.now(), g.value.Load()))
	}
	if err := cached.Set(ctx, g.guarded, token, 0).Err(); err != nil {
		return err
	}
	g.value.Store(token)
	if r.IntN(4) == 0 {
		time.Sleep(time.Duration(r.IntN(int(2 * time.Millisecond))))
	}
	g.holders.Add(-1)
	gone, err := cl.Eval(ctx, release, []string{g.lock}, token).Int()
	if err == nil && gone != 1 {
		c.rep.violation(kindLock, fmt.Sprintf("%s: %s held it and could not release it: %d", g.lock, cl.name, gone))
	}
	return err
}

// thief breaks locks and ledgers, to see that it is noticed.
func (c *check) thief(ctx context.Context) {
	at := c.client(direct, 3, 0, "thief")
	defer at.Close()
	for n := 0; ctx.Err() == nil; n++ {
		g := c.locks[n%len(c.locks)].Load()
		if n%10 == 9 {
			at.Incr(ctx, g.ledger)
		} else {
			at.Del(ctx, g.lock)
		}
		pause(ctx, 5*time.Millisecond)
	}
}

// audit compares every ledger with what was counted, when nobody holds a lock.
func (c *check) audit(ctx context.Context, at *client) {
	for i := range c.locks {
		g := c.locks[i].Load()
		n, err := at.Get(ctx, g.ledger).Int64()
		if err != nil && !errors.Is(err, redis.Nil) {
			continue
		}
		if want := g.count.Load(); n != want && !g.given.Load() {
			c.rep.violation(kindLock, fmt.Sprintf("%s: after quiet the ledger says %d, %d acquisitions are known", g.lock, n, want))
		}
	}
}

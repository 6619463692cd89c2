package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"
)

// strongWorkers write and read at the same time; half of them write behind long replies (see raw.fatSet).
const strongWorkers = 128

// strong asks for what has just been written: each worker writes a key of its own at Redis itself and reads it through nearside A as
// soon as that is acknowledged, while slow commands and writers in batches keep Redis busy. The rule is fenced, so the answer is the
// value written, whether nearside has been told yet or not. Then it reads once more, which is a hit.
//
//	worker:  SET k 7 at Redis → +OK;  GET k at A → 7 (not 6);  GET k at A → 7, a hit
func (c *check) strong(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := c.admin.Set(ctx, "big", make([]byte, fatSize), 0).Err(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	var workers sync.WaitGroup
	for n := range strongWorkers {
		workers.Go(func() {
			if err := c.strongWorker(ctx, n); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("worker %d: %w", n, err))
			}
		})
	}
	for n := range 2 {
		wg.Go(func() { c.keepBusy(ctx, n) })
		wg.Go(func() { c.pipelined(ctx, n) })
	}
	workers.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	c.rep.figure("strong reads: %d, %d of them stale", c.rep.Reads.Load(), c.rep.Violations(kindFenced))
	return nil
}

func (c *check) strongWorker(ctx context.Context, n int) error {
	at, err := dialRaw(c.redis.addr)
	if err != nil {
		return err
	}
	defer at.Close()
	through, err := dialRaw(c.near[0].addr)
	if err != nil {
		return err
	}
	defer through.Close()
	for _, conn := range []*raw{at, through} {
		if f, err := conn.ask("SELECT", "1"); err != nil || string(f) != "+OK\r\n" {
			return fmt.Errorf("SELECT was answered %q: %w", f, err)
		}
		if err := conn.SetDeadline(time.Now().Add(time.Hour)); err != nil {
			return err
		}
	}
	key := fmt.Sprint("product:strong:", n)
	r := rand.New(rand.NewPCG(c.cfg.Seed, uint64(n)))
	for i := 0; ctx.Err() == nil && c.rep.Reads.Load() < int64(c.cfg.Strong) && c.now() < c.cfg.Duration && !c.stop(); i++ {
		value := strconv.Itoa(i)
		if n%2 == 0 {
			err = at.fatSet(r, key, value)
		} else {
			_, err = at.ask("SET", key, value)
		}
		if err != nil {
			return fmt.Errorf("SET at Redis: %w", err)
		}
		c.rep.Writes.Add(1)
		want := fmt.Sprintf("$%d\r\n%s\r\n", len(value), value)
		for range 2 {
			f, err := through.ask("GET", key)
			if err != nil {
				return fmt.Errorf("GET through A: %w", err)
			}
			if f[0] == '-' {
				return fmt.Errorf("GET through A was answered %q", f)
			}
			c.rep.Reads.Add(1)
			if string(f) != want {
				c.rep.violation(kindFenced, fmt.Sprintf("GET %s through A was answered %q after %s was acknowledged at Redis itself", key, f, value))
			}
		}
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// A million keys that live for 100 to 500 ms each, read at once, in the middle
// of their lives and as soon as they must have ended.
const (
	livesKeys = 1_000_000
	livesDeep = 200 // keys of one batch, which end together
	livesWays = 4   // who write and read their own batches
)

// visit is when a batch is to be read.
type visit struct {
	first  int
	lo, hi time.Duration // the keys' end lies between
	at     time.Duration
}

// lived is what became of it.
type lived struct {
	mu                   sync.Mutex
	alive, missed, ended int
	late                 []time.Duration // of the reads after the end
	mortal               int             // values served after it
}

// lives gives a million keys a life each. Whoever has reads to do writes no more
// before they are done, so that none comes late.
func (c *check) lives(ctx context.Context) error {
	var wg sync.WaitGroup
	var l lived
	began := c.now()
	errs := make(chan error, livesWays)
	for n := range livesWays {
		wg.Go(func() { errs <- c.live(ctx, n, &l) })
	}
	wg.Wait()
	for range livesWays {
		if err := <-errs; err != nil {
			return err
		}
	}
	c.rep.figure("ttl: %d keys that lived for 100 to 500 ms, in %v: %d reads during their lives found %d alive; %d reads after their end (%s later) were served %d values",
		livesKeys, (c.now() - began).Round(time.Second), l.alive+l.missed, l.alive, l.ended, percentiles(l.late), l.mortal)
	if l.alive < livesKeys {
		c.rep.violation(kindCount, fmt.Sprintf("%d reads found a key alive: too few to tell anything", l.alive))
	}
	for _, n := range c.near {
		hits, asked, err := n.hits(ctx)
		if err != nil {
			return err
		}
		c.rep.figure("ttl: nearside %s: %d hits of %d reads (%.1f %%)", n.name, hits, asked, 100*float64(hits)/float64(asked))
		if hits < livesKeys/2 {
			c.rep.violation(kindCount, fmt.Sprintf("nearside %s answered %d reads itself: too few to tell anything", n.name, hits))
		}
	}
	return nil
}

func (c *check) live(ctx context.Context, n int, l *lived) error {
	r := rand.New(rand.NewPCG(c.cfg.Seed, uint64(77+n)))
	at := c.client(direct, 3, 1, fmt.Sprintf("life giver %d", n))
	defer at.Close()
	var ways []*client
	defer func() { closeAll(ways) }()
	for via := viaA; via <= viaB; via++ {
		cl := c.client(via, 2+n%2, 1, fmt.Sprintf("lives %d", n))
		ways = append(ways, cl)
	}
	var todo []visit // in the order of time
	for next := n * livesDeep; next < livesKeys || len(todo) > 0; {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case len(todo) > 0 && (todo[0].at <= c.now() || next >= livesKeys):
			pause(ctx, todo[0].at-c.now())
			for _, cl := range ways {
				c.visit(ctx, cl, todo[0], l)
			}
			todo = todo[1:]
		default:
			v, err := c.bear(ctx, at, next, time.Duration(100+r.IntN(401))*time.Millisecond)
			if err != nil {
				return err
			}
			next += livesWays * livesDeep
			now := c.now()
			for _, v.at = range []time.Duration{now, (now + v.lo) / 2, v.hi + c.lim.ttl} {
				i, _ := slices.BinarySearchFunc(todo, v, func(a, b visit) int { return int(a.at - b.at) })
				todo = slices.Insert(todo, i, v)
			}
		}
	}
	return nil
}

func liveName(i int) string { return fmt.Sprint("product:life:", i) }

// bear writes a batch at Redis itself.
func (c *check) bear(ctx context.Context, at *client, first int, px time.Duration) (visit, error) {
	p := at.Pipeline()
	for i := range livesDeep {
		p.Set(ctx, liveName(first+i), "alive", px)
	}
	called := c.now()
	_, err := p.Exec(ctx)
	c.rep.Writes.Add(livesDeep)
	return visit{first: first, lo: called + px, hi: c.now() + px}, err
}

// visit reads a batch.
func (c *check) visit(ctx context.Context, cl *client, v visit, l *lived) {
	p := cl.Pipeline()
	got := make([]*redis.StringCmd, livesDeep)
	for i := range got {
		got[i] = p.Get(ctx, liveName(v.first+i))
	}
	from := c.now()
	_, _ = p.Exec(ctx) // each command has its own error
	to := c.now()
	c.rep.Reads.Add(livesDeep)
	over := from > v.hi+c.lim.ttl
	l.mu.Lock()
	defer l.mu.Unlock()
	if over {
		l.late = append(l.late, from-v.hi)
	}
	for i, g := range got {
		_, err := g.Result()
		switch {
		case err == nil && over:
			l.mortal++
			l.ended++
			c.rep.violation(kindTTL, fmt.Sprintf("%s by %s at %v..%v, which ended at %v at the latest", liveName(v.first+i), cl.name, from, to, v.hi))
		case err == nil:
			l.alive++
		case !errors.Is(err, redis.Nil):
			c.rep.Errors.Add(1)
			c.rep.note("error without a fault", err.Error())
		case over:
			l.ended++
		default:
			l.missed++
			if to < v.lo-c.lim.ttl {
				c.rep.violation(kindLost, fmt.Sprintf("no %s by %s at %v..%v, which lives until %v", liveName(v.first+i), cl.name, from, to, v.lo))
			}
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/redis/go-redis/v9"
)

// A register in porcupine's terms. '?' is a write of unknown outcome: it may
// take effect at any time after its call, or never.
type input struct {
	op  byte // r, w, d, a
	val string
}

var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		st, i := state.(string), in.(input)
		switch i.op {
		case 'w':
			return true, i.val
		case 'd':
			return true, ""
		case 'a':
			return true, st + i.val
		}
		return out.(string) == st, st
	},
	DescribeOperation: func(in, out any) string { i := in.(input); return fmt.Sprintf("%c %s -> %v", i.op, i.val, out) },
}

// linear has everybody write and read through A, or anywhere if the rule is
// fenced, in rounds with keys of their own, so that no history grows long. It
// goes on for as long as more says so.
func (c *check) linear(ctx context.Context, more func() bool) {
	const clients, keys = 12, 12
	var all []*client
	defer func() { closeAll(all) }()
	for n := range clients {
		via, db := viaA, n/2%2
		if c.lim.fenced {
			via = n % 3
		}
		if via == direct {
			db = 1
		}
		cl := c.client(via, 2+n%2, db, fmt.Sprintf("linear %d", n))
		all = append(all, cl)
	}
	for round := 0; more() && ctx.Err() == nil && !c.stop(); round++ {
		hist := make([][]porcupine.Operation, keys)
		var mu sync.Mutex
		var wg sync.WaitGroup
		for n, cl := range all {
			r := rand.New(rand.NewPCG(c.cfg.Seed, uint64(20000+1000*round+n)))
			wg.Go(func() {
				for range 150 {
					c.linearOp(ctx, cl, n, round, r, func(k int, op porcupine.Operation) {
						mu.Lock()
						hist[k] = append(hist[k], op)
						mu.Unlock()
					}, keys)
				}
			})
		}
		wg.Wait()
		for k := range hist {
			c.rep.judged(len(hist[k]))
			switch porcupine.CheckOperationsTimeout(register, hist[k], 20*time.Second) {
			case porcupine.Illegal:
				c.rep.violation(kindLinear, fmt.Sprintf("%s, %d operations: %s", linearName(round, k), len(hist[k]), describe(hist[k])))
			case porcupine.Unknown:
				c.rep.note("porcupine took too long", linearName(round, k))
			}
		}
	}
}

func linearName(round, k int) string { return fmt.Sprintf("product:linear:%d:%d", round, k) }

func (c *check) linearOp(ctx context.Context, cl *client, n, round int, r *rand.Rand, rec func(int, porcupine.Operation), keys int) {
	k := r.IntN(keys)
	key := linearName(round, k)
	i := input{op: 'r'}
	var out string
	var err error
	call := c.now()
	var also int
	var second string
	v := c.payload(r)[:headLen]
	switch x := r.IntN(100); {
	case x < 5:
		i = input{'w', v}
		err = cl.Set(ctx, key, v, 0).Err()
	case x < 8:
		i = input{'w', v}
		_, err = cl.TxPipelined(ctx, func(p redis.Pipeliner) error { p.Set(ctx, key, v, 0); return nil })
	case x < 11:
		i = input{'w', v}
		err = cl.Eval(ctx, `return redis.call('SET', KEYS[1], ARGV[1])`, []string{key}, v).Err()
	case x < 13:
		i = input{'d', ""}
		err = cl.Del(ctx, key).Err()
	case x < 15:
		i = input{'a', v}
		err = cl.Append(ctx, key, v).Err()
	case x < 25:
		also = r.IntN(keys)
		var got []any
		if got, err = cl.MGet(ctx, key, linearName(round, also)).Result(); err == nil {
			out, _ = got[0].(string)
			second, _ = got[1].(string)
			if also != k {
				rec(also, porcupine.Operation{ClientId: n, Input: i, Call: int64(call), Output: second, Return: int64(c.now())})
			}
		}
	default:
		out, err = cl.Get(ctx, key).Result()
	}
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	ret := c.now()
	if err != nil {
		c.rep.Errors.Add(1)
		if i.op == 'r' {
			return
		}
		c.rep.note("error without a fault", err.Error())
		ret = never
	}
	rec(k, porcupine.Operation{ClientId: n, Input: i, Call: int64(call), Output: out, Return: int64(ret)})
}

func describe(ops []porcupine.Operation) string {
	s := ""
	for i, op := range ops {
		if i == 60 {
			return s + "\n    …"
		}
		s += fmt.Sprintf("\n    %v..%v client %d: %s", time.Duration(op.Call), time.Duration(op.Return), op.ClientId,
			register.DescribeOperation(op.Input, op.Output))
	}
	return s
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// clientTimeout is longer than Redis is ever frozen.
const clientTimeout = 3 * time.Second

func newClient(addr string, proto, db int) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: addr, Protocol: proto, DB: db, PoolSize: 1, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
		DialTimeout: time.Second, ReadTimeout: clientTimeout, WriteTimeout: clientTimeout, PoolTimeout: 2 * clientTimeout,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// client is one connection of a worker's own.
type client struct {
	*redis.Client
	via  int
	name string
}

func (c *client) Close() { _ = c.Client.Close() }

func (c *check) client(via, proto, db int, name string) *client {
	return &client{newClient(c.addr(via), proto, db), via, fmt.Sprintf("%s via %s (RESP%d, db %d)", name, viaNames[via], proto, db)}
}

func (c *check) addr(via int) string {
	if via == direct {
		return c.redis.addr
	}
	return c.near[via-1].addr
}

// unsent tells whether an error means that a command cannot have been executed.
func unsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// payload makes a value that was never written before. Its first bytes tell it from all others.
func (c *check) payload(r *rand.Rand) string {
	return fmt.Sprintf("%0*d", headLen, c.seq.Add(1)) + strings.Repeat("·", 1+r.IntN(24))
}

const headLen = 12

// slot chooses a key, some of them much more often than others: only a key
// that nobody writes for a while can be stale for long.
func (c *check) slot(r *rand.Rand) int {
	return int(math.Pow(r.Float64(), c.cfg.Skew) * float64(len(c.slots)))
}

func (c *check) writer(ctx context.Context, via, n int) {
	r := rand.New(rand.NewPCG(c.cfg.Seed, uint64(100+10*via+n)))
	db := 1
	if via != direct && n%2 == 0 {
		db = 0
	}
	cl := c.client(via, 2+n%2, db, fmt.Sprintf("writer %d", n))
	defer cl.Close()
	for run := ctx; run.Err() == nil; {
		ctx := context.WithoutCancel(run) // what was begun is finished
		c.gate.RLock()
		ok := c.write(ctx, cl, r)
		c.gate.RUnlock()
		if !ok {
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(time.Duration(r.IntN(int(2 * c.cfg.WritePause))))
	}
}

func (c *check) write(ctx context.Context, cl *client, r *rand.Rand) bool {
	i := c.slot(r)
	k := c.slots[i].Load()
	k.turn.Lock()
	defer k.turn.Unlock()
	if c.slots[i].Load() != k {
		return true
	}
	last := k.last()
	v := version{payload: c.payload(r), via: cl.via, lo: last.lo, hi: last.hi}
	fresh := v // of a write that takes the old life away
	fresh.lo, fresh.hi = 0, 0
	present := last.certain() && !last.absent
	px := time.Duration(40+r.IntN(400)) * time.Millisecond
	ms := int(px / time.Millisecond)

	switch x := r.IntN(100); {
	case x < 8: // DEL
		v = version{absent: true, via: cl.via, how: "DEL"}
		if r.IntN(2) == 0 {
			v.how = "UNLINK"
		}
		return c.run(ctx, cl, i, k, v, 0, nil, v.how, k.name)
	case x < 18 && present: // PEXPIRE, EXPIRE
		v = version{payload: last.payload, via: cl.via, how: "PEXPIRE"}
		if r.IntN(10) == 0 {
			v.how = "EXPIRE"
			return c.run(ctx, cl, i, k, v, time.Second, is(1), "EXPIRE", k.name, 1)
		}
		return c.run(ctx, cl, i, k, v, px, is(1), "PEXPIRE", k.name, ms)
	case x < 25 && present:
		return c.rename(ctx, cl, r, i, k, last)
	}
	if k.hash {
		if !last.certain() { // HSET would keep the life, if there still is one
			v = version{absent: true, via: cl.via, how: "DEL"}
			return c.run(ctx, cl, i, k, v, 0, nil, "DEL", k.name)
		}
		switch r.IntN(3) {
		case 0:
			fresh.how = "EVAL HSET"
			return c.run(ctx, cl, i, k, fresh, 0, nil, "EVAL", `return redis.call('HSET', KEYS[1], 'a', ARGV[1], 'b', ARGV[1])`, 1, k.name, v.payload)
		case 1:
			fresh.how = "MULTI HSET HSET EXEC"
			return c.tx(ctx, cl, i, k, fresh, 0, []any{"HSET", k.name, "a", v.payload}, []any{"HSET", k.name, "b", v.payload})
		}
		fresh.how = "HSET"
		return c.run(ctx, cl, i, k, fresh, 0, nil, "HSET", k.name, "a", v.payload, "b", v.payload)
	}
	switch x := r.IntN(100); {
	case x < 20:
		fresh.how = "SET PX"
		return c.run(ctx, cl, i, k, fresh, px, is("OK"), "SET", k.name, v.payload, "PX", ms)
	case x < 35 && last.certain() && len(last.payload) < 300:
		fresh.how = "APPEND"
		n := len(last.payload)
		fresh.payload = last.payload + v.payload
		return c.run(ctx, cl, i, k, fresh, 0, is(n+len(v.payload)), "APPEND", k.name, v.payload)
	case x < 45:
		fresh.how = "EVAL SET"
		return c.run(ctx, cl, i, k, fresh, 0, nil, "EVAL", `return redis.call('SET', KEYS[1], ARGV[1])`, 1, k.name, v.payload)
	case x < 50:
		fresh.how = "EVAL SET, undeclared"
		if cl.Options().DB == 1 {
			return c.run(ctx, cl, i, k, fresh, 0, nil, "EVAL", `return redis.call('SET', ARGV[1], ARGV[2])`, 0, k.name, v.payload)
		}
		fallthrough
	case x < 60:
		fresh.how = "MULTI DEL SET EXEC"
		return c.tx(ctx, cl, i, k, fresh, 0, []any{"DEL", k.name}, []any{"SET", k.name, v.payload})
	case x < 65:
		fresh.how = "MULTI SET PX EXEC"
		return c.tx(ctx, cl, i, k, fresh, px, []any{"SET", k.name, v.payload, "PX", ms})
	case x < 70:
		fresh.how = "GETSET"
		return c.run(ctx, cl, i, k, fresh, 0, nil, "GETSET", k.name, v.payload)
	}
	fresh.how = "SET"
	return c.run(ctx, cl, i, k, fresh, 0, is("OK"), "SET", k.name, v.payload)
}

// is makes a test for a reply that is known beforehand.
func is(want any) func(any) bool {
	return func(got any) bool { return fmt.Sprint(got) == fmt.Sprint(want) }
}

// run sends one write and enters it into the history.
func (c *check) run(ctx context.Context, cl *client, slot int, k *key, v version, px time.Duration, want func(any) bool, args ...any) bool {
	c.begin(k, v, px)
	got, err := cl.Do(ctx, args...).Result()
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	ok := c.ended(slot, k, px, err)
	if ok && want != nil && !want(got) {
		c.rep.violation(kindReply, fmt.Sprintf("%v by %s was answered %v", args, cl.name, got))
	}
	return ok
}

func (c *check) tx(ctx context.Context, cl *client, slot int, k *key, v version, px time.Duration, cmds ...[]any) bool {
	c.begin(k, v, px)
	_, err := cl.TxPipelined(ctx, func(p redis.Pipeliner) error {
		for _, args := range cmds {
			p.Do(ctx, args...)
		}
		return nil
	})
	return c.ended(slot, k, px, err)
}

func (c *check) begin(k *key, v version, px time.Duration) {
	v.call = c.now()
	v.lo, v.hi = 0, 0
	if px > 0 {
		v.lo, v.hi = v.call+px, never
	}
	k.begin(v)
}

func (c *check) ended(slot int, k *key, px time.Duration, err error) bool {
	if err == nil {
		k.end(c.now(), px)
		c.rep.Writes.Add(1)
		return true
	}
	c.failed(slot, k, err)
	return false
}

// failed deals with a write that was answered with an error or not at all.
func (c *check) failed(slot int, k *key, err error) {
	c.rep.Errors.Add(1)
	if unsent(err) {
		k.undo()
		return
	}
	c.rep.Unknown.Add(1)
	if c.healthy() && c.quietFor() > clientTimeout {
		c.rep.note("error without a fault", fmt.Sprint(k.name, ": ", err))
	}
	c.replace(slot, k)
}

// replace takes a key out of use of which nothing is known any more.
func (c *check) replace(slot int, k *key) {
	k.retire()
	c.slots[slot].Store(c.newKey(slot))
	c.oldMu.Lock()
	c.old = append(c.old, k.name)
	if len(c.old) > 200 {
		c.old = c.old[100:]
	}
	c.oldMu.Unlock()
}

func (c *check) rename(ctx context.Context, cl *client, r *rand.Rand, i int, k *key, last version) bool {
	j := r.IntN(len(c.slots))
	to := c.slots[j].Load()
	if to == k || to.hash != k.hash || !to.turn.TryLock() {
		return true
	}
	defer to.turn.Unlock()
	if c.slots[j].Load() != to {
		return true
	}
	c.begin(to, version{payload: last.payload, via: cl.via, how: "RENAME from " + k.name}, 0)
	c.begin(k, version{absent: true, via: cl.via, how: "RENAME to " + to.name}, 0)
	err := cl.Rename(ctx, k.name, to.name).Err()
	if err != nil && strings.Contains(err.Error(), "no such key") {
		c.rep.violation(kindReply, fmt.Sprintf("RENAME of %s, which exists, by %s: %v", k.name, cl.name, err))
	}
	ok := c.ended(i, k, 0, err)
	switch {
	case ok:
		to.end(c.now(), 0)
	case unsent(err):
		to.undo()
	default:
		c.replace(j, to)
	}
	return ok
}

// reader reads through one nearside and compares.
type reader struct {
	c      *check
	cl     *client
	r      *rand.Rand
	floors map[string][]floor // by command
}

type floor struct {
	k *key
	n int
}

func (c *check) reader(ctx context.Context, via, n int) {
	rd := &reader{
		c: c, cl: c.client(via, 2+n%2, n/2%2, fmt.Sprintf("reader %d", n)),
		r: rand.New(rand.NewPCG(c.cfg.Seed, uint64(1000+100*via+n))), floors: map[string][]floor{},
	}
	for _, cmd := range []string{"GET", "GETRANGE", "HGETALL"} {
		rd.floors[cmd] = make([]floor, len(c.slots))
	}
	defer rd.cl.Close()
	for run := ctx; run.Err() == nil; {
		ctx := context.WithoutCancel(run) // what was begun is finished
		c.readers.RLock()
		ok := rd.read(ctx)
		c.readers.RUnlock()
		if !ok {
			c.rep.Errors.Add(1)
			time.Sleep(10 * time.Millisecond)
		}
		if p := int(2 * c.cfg.ReadPause); p > 0 {
			time.Sleep(time.Duration(rd.r.IntN(p)))
		}
	}
}

func (rd *reader) read(ctx context.Context) bool {
	i := rd.c.slot(rd.r)
	if rd.r.IntN(3) == 0 {
		i = rd.r.IntN(len(rd.c.slots))
	}
	k := rd.c.slots[i].Load()
	switch x := rd.r.IntN(100); {
	case k.hash:
		return rd.hgetall(ctx, i, k)
	case x < 15:
		return rd.mget(ctx, i, k)
	case x < 20:
		return rd.pair(ctx)
	case x < 30:
		w, from := k.look(rd.cl.via), rd.c.now()
		got, err := rd.cl.GetRange(ctx, k.name, 0, headLen-1).Result()
		return rd.judge(i, k, w, "GETRANGE", from, got, headLen, got == "", err)
	}
	w, from := k.look(rd.cl.via), rd.c.now()
	got, err := rd.cl.Get(ctx, k.name).Result()
	absent := errors.Is(err, redis.Nil)
	if absent {
		err = nil
	}
	return rd.judge(i, k, w, "GET", from, got, 0, absent, err)
}

func (rd *reader) judge(i int, k *key, w view, cmd string, from time.Duration, got string, prefix int, absent bool, err error) bool {
	c := rd.c
	if err != nil {
		return false
	}
	c.rep.Reads.Add(1)
	name := cmd
	if cmd == "MGET" {
		name = "GET" // answered from the same entries
	}
	f := &rd.floors[name][i]
	if f.k != k {
		*f = floor{k: k}
	}
	o := observation{payload: got, prefix: prefix, absent: absent, from: from, to: c.now(), via: rd.cl.via, cmd: cmd, who: rd.cl.name}
	d := k.judge(&o, w, f.n, c.lim)
	f.n = max(f.n, d.seen)
	if d.kind != "" {
		c.rep.violation(d.kind, d.trace)
	} else if d.stale > 0 {
		c.rep.stale(d.stale, !c.healthy() || c.quietFor() < time.Second)
	}
	return true
}

func (rd *reader) mget(ctx context.Context, i int, k *key) bool {
	slots, keys := []int{i}, []*key{k}
	for len(keys) < 4 {
		j := rd.r.IntN(len(rd.c.slots))
		if o := rd.c.slots[j].Load(); !o.hash {
			slots, keys = append(slots, j), append(keys, o)
		}
	}
	var names []string
	var ws []view
	for _, k := range keys {
		names, ws = append(names, k.name), append(ws, k.look(rd.cl.via))
	}
	from := rd.c.now()
	got, err := rd.cl.MGet(ctx, names...).Result()
	if err != nil {
		return false
	}
	for n := range keys {
		s, ok := got[n].(string)
		rd.judge(slots[n], keys[n], ws[n], "MGET", from, s, 0, !ok, nil)
	}
	return true
}

func (rd *reader) hgetall(ctx context.Context, i int, k *key) bool {
	w, from := k.look(rd.cl.via), rd.c.now()
	got, err := rd.cl.HGetAll(ctx, k.name).Result()
	if err == nil && (len(got) != 0 && len(got) != 2 || got["a"] != got["b"]) {
		rd.c.rep.violation(kindTorn, fmt.Sprintf("HGETALL %s by %s: %v", k.name, rd.cl.name, got))
		return true
	}
	return rd.judge(i, k, w, "HGETALL", from, got["a"], 0, len(got) == 0, err)
}

// Pairs are written together only, so an MGET must not find them different.
const pairs = 4

func pairNames(n int) (string, string) {
	return fmt.Sprintf("product:pair:%d:a", n), fmt.Sprintf("product:pair:%d:b", n)
}

func (rd *reader) pair(ctx context.Context) bool {
	n := rd.r.IntN(pairs)
	a, b := pairNames(n)
	if rd.r.IntN(2) == 0 {
		return rd.cl.Get(ctx, a).Err() == nil
	}
	got, err := rd.cl.MGet(ctx, a, b).Result()
	if err != nil {
		return false
	}
	rd.c.rep.Reads.Add(1)
	if got[0] != got[1] {
		text := fmt.Sprintf("MGET %s %s by %s at %v: %v", a, b, rd.cl.name, rd.c.now(), got)
		// Pairs with an even number are written through A only.
		if n%2 == 0 && rd.cl.via == viaA && rd.c.now()-time.Duration(rd.c.worldAt.Load()) > rd.c.lim.bound {
			rd.c.rep.violation(kindTorn, text)
		} else if rd.c.now()-time.Duration(rd.c.worldAt.Load()) > rd.c.lim.bound {
			rd.c.rep.note("torn MGET of a pair written elsewhere", text)
		}
	}
	return true
}

func (c *check) pairWriter(ctx context.Context, n int) {
	r := rand.New(rand.NewPCG(c.cfg.Seed, uint64(5000+n)))
	via := viaA
	if n%2 == 1 {
		via = direct
	}
	cl := c.client(via, 2+n/2%2, 1, "pair writer")
	defer cl.Close()
	a, b := pairNames(n)
	for run := ctx; run.Err() == nil; {
		ctx := context.WithoutCancel(run) // what was begun is finished
		c.gate.RLock()
		v := c.payload(r)
		var err error
		if n < 2 {
			err = cl.Do(ctx, "MSET", a, v, b, v).Err()
		} else {
			_, err = cl.TxPipelined(ctx, func(p redis.Pipeliner) error {
				p.Set(ctx, a, v, 0)
				p.Set(ctx, b, v, 0)
				return nil
			})
		}
		c.gate.RUnlock()
		if err != nil {
			time.Sleep(20 * time.Millisecond)
		} else {
			c.rep.Writes.Add(1)
		}
		time.Sleep(time.Duration(r.IntN(int(80 * time.Millisecond))))
	}
}

// prober measures how long a write made at Redis itself takes to be seen.
func (c *check) prober(ctx context.Context) {
	at, cl := c.client(direct, 3, 1, "prober"), c.client(viaA, 3, 0, "prober")
	defer at.Close()
	defer cl.Close()
	for n, run := 0, ctx; run.Err() == nil; n++ {
		ctx := context.WithoutCancel(run)
		func() {
			c.gate.RLock()
			defer c.gate.RUnlock()
			name, want := fmt.Sprintf("product:probe:%d", n%8), fmt.Sprint(n)
			cl.Get(ctx, name)
			cl.Get(ctx, name)
			fault := c.faultEnd.Load()
			quiet := c.healthy() && c.quietFor() > time.Second
			if at.Set(ctx, name, want, 0).Err() != nil {
				return
			}
			acked := c.now()
			for c.healthy() || c.now()-acked <= c.lim.bound {
				asked := c.now()
				if got, err := cl.Get(ctx, name).Result(); err == nil && got == want {
					if quiet && c.healthy() && c.faultEnd.Load() == fault {
						c.rep.saw(c.now() - acked)
					}
					return
				} else if err != nil {
					return
				} else if asked > acked+c.lim.bound {
					c.rep.violation(kindBound, fmt.Sprintf("GET %s by %s at %v got %q; %q was acknowledged at Redis itself at %v", name, cl.name, asked, got, want, acked))
					return
				}
			}
		}()
		time.Sleep(5 * time.Millisecond)
	}
}

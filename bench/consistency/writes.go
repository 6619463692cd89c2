package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// writer is one client that writes.
type writer struct {
	c    *check
	cl   *client
	away *client // the same way, at a database where nothing is cached
	r    *rand.Rand
}

// awayDB is where MOVE moves keys to, swappedDB what SWAPDB swaps in.
const (
	awayDB    = 2
	scratchDB = 3
	swappedDB = 4
)

func (c *check) writer(ctx context.Context, via, n int) {
	db := 1
	if via != direct && n%2 == 0 {
		db = 0
	}
	w := &writer{
		c: c, r: rand.New(rand.NewPCG(c.cfg.Seed, uint64(100+10*via+n))),
		cl:   c.client(via, 2+n%2, db, fmt.Sprintf("writer %d", n)),
		away: c.client(via, 2+n%2, awayDB, fmt.Sprintf("writer %d", n)),
	}
	defer w.cl.Close()
	defer w.away.Close()
	for run := ctx; run.Err() == nil; {
		ctx := context.WithoutCancel(run) // what was begun is finished
		c.gate.RLock()
		ok := w.write(ctx)
		c.gate.RUnlock()
		if !ok {
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(time.Duration(w.r.IntN(int(2 * c.cfg.WritePause))))
	}
}

// job is one write of one key, whose turn it is.
type job struct {
	*writer
	ctx  context.Context
	slot int
	k    *key
	last version
	text string        // a payload that was never written before
	px   time.Duration // the life to give, for those that give one
}

func (j *job) ms() int { return int(j.px / time.Millisecond) }

func (w *writer) write(ctx context.Context) bool {
	c := w.c
	i := c.slot(w.r)
	k := c.slots[i].Load()
	k.turn.Lock()
	defer k.turn.Unlock()
	if c.slots[i].Load() != k {
		return true
	}
	j := &job{
		writer: w, ctx: ctx, slot: i, k: k, last: k.last(), text: c.payload(w.r),
		px: time.Duration(40+w.r.IntN(400)) * time.Millisecond,
	}
	sum := 0
	var fit [64]*way
	n := 0
	for x := range ways {
		y := &ways[x]
		if strings.Contains(y.kinds, letters[k.kind]) && (y.allows == nil || y.allows(j)) {
			fit[n] = y
			n++
			sum += y.share
		}
	}
	x := w.r.IntN(sum)
	for _, y := range fit[:n] {
		if x -= y.share; x < 0 {
			c.rep.wrote(y.name)
			return y.do(j)
		}
	}
	return true
}

// version completes a version that this writer is about to write.
func (j *job) version(v version, px time.Duration) version {
	v.call, v.via = j.c.now(), j.cl.via
	if px > 0 {
		v.lo, v.hi = v.call+px, never
	}
	return v
}

// run sends one write and enters it into the history.
func (j *job) run(v version, px time.Duration, want func(any) bool, args ...any) bool {
	v.how = commandName(args)
	n := j.k.begin(j.version(v, px))
	got, err := j.cl.Do(j.ctx, args...).Result()
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	ok := j.ended(n, px, err, refused(err))
	if ok && want != nil && !want(got) {
		j.c.rep.violation(kindReply, fmt.Sprintf("%v by %s at %v was answered %v; before: %s %s", args, j.cl.name, j.c.now(), got, j.last.how, show(j.last.payload, j.last.absent)))
	}
	return ok
}

// commandName is how a trace names a write.
func commandName(args []any) string {
	s := fmt.Sprint(args[0])
	if args[0] == "EVAL" && args[2] == 0 {
		s += " without keys"
	}
	for _, a := range args[2:] {
		if w, ok := a.(string); ok && (w == "PX" || w == "EX" || w == "GET" || w == "n") {
			s += " " + w
		}
	}
	return s
}

func (j *job) tx(v version, px time.Duration, cmds ...[]any) bool {
	v.how = "MULTI"
	for _, args := range cmds {
		v.how += " " + fmt.Sprint(args[0])
	}
	v.how += " EXEC"
	n := j.k.begin(j.version(v, px))
	_, err := j.cl.TxPipelined(j.ctx, func(p redis.Pipeliner) error {
		for _, args := range cmds {
			p.Do(j.ctx, args...)
		}
		return nil
	})
	return j.ended(n, px, err, false)
}

// ended enters the outcome of the newest write.
func (j *job) ended(n int, px time.Duration, err error, refused bool) bool {
	if err == nil {
		j.k.end(n, j.c.now(), px)
		j.c.rep.Writes.Add(1)
		return true
	}
	j.c.failed(j.slot, j.k, err, refused)
	return false
}

// refused tells whether Redis itself says that it has not executed a single command.
func refused(err error) bool {
	var said redis.Error
	if !errors.As(err, &said) {
		return false
	}
	for _, code := range []string{"BUSY ", "LOADING ", "READONLY ", "MASTERDOWN "} {
		if strings.HasPrefix(said.Error(), code) {
			return true
		}
	}
	return false
}

// failed deals with a write that was answered with an error or not at all.
func (c *check) failed(slot int, k *key, err error, refused bool) {
	c.rep.Errors.Add(1)
	if refused || unsent(err) {
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
	c.old = append(c.old, k)
	if len(c.old) > 200 {
		c.old = c.old[100:]
	}
	c.oldMu.Unlock()
}

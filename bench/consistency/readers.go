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

// reader reads through one nearside and compares.
type reader struct {
	c      *check
	cl     *client
	r      *rand.Rand
	floors map[string][]floor // by command: what this client has seen
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

// A question is one read of one key: the command, and how its answer is an observation.
type question struct {
	cmd  string
	args []any
	tell func(o *observation, answer any) // nil answers have been dealt with
}

// asks are the questions that can be asked of each kind of key; the first ones are asked more often.
var asks = [kindsOfKeys][]question{
	aString: {
		{"GET", nil, text},
		{"GET", nil, text},
		{"GET", nil, text},
		{"GET", nil, text},
		{"GETRANGE", []any{0, headLen - 1}, func(o *observation, a any) { o.part = front; text(o, a); o.absent = o.payload == "" }},
		{"STRLEN", nil, func(o *observation, a any) { o.part = size; o.size = number(a); o.absent = o.size == 0 }},
		{"EXISTS", nil, exists},
	},
	aHash: {
		{"HGETALL", nil, func(o *observation, a any) {
			fields := pairsOf(a)
			o.payload, o.absent = hashPayload(fields), len(fields) == 0
		}},
		{"HGETALL", nil, func(o *observation, a any) {
			fields := pairsOf(a)
			o.payload, o.absent = hashPayload(fields), len(fields) == 0
		}},
		{"HGET", []any{"a"}, func(o *observation, a any) { o.part = field; text(o, a) }},
		{"EXISTS", nil, exists},
	},
	aList: {
		{"LRANGE", []any{0, -1}, func(o *observation, a any) { o.payload = join(a); o.absent = o.payload == "" }},
		{"LRANGE", []any{0, -1}, func(o *observation, a any) { o.payload = join(a); o.absent = o.payload == "" }},
		{"EXISTS", nil, exists},
	},
	aCounter: {{"GET", nil, text}, {"GET", nil, text}, {"EXISTS", nil, exists}},
}

func text(o *observation, a any) { o.payload, _ = a.(string) }

func exists(o *observation, a any) { o.part = being; o.absent = number(a) == 0 }

func number(a any) int {
	n, _ := a.(int64)
	return int(n)
}

func join(a any) string {
	all, _ := a.([]any)
	parts := make([]string, len(all))
	for i := range all {
		parts[i], _ = all[i].(string)
	}
	return strings.Join(parts, ",")
}

// pairsOf reads a hash's fields, which come as a map in RESP3 and as a list in RESP2.
func pairsOf(a any) map[string]string {
	fields := map[string]string{}
	switch a := a.(type) {
	case map[any]any:
		for k, v := range a {
			fields[fmt.Sprint(k)] = fmt.Sprint(v)
		}
	case []any:
		for i := 0; i+1 < len(a); i += 2 {
			fields[fmt.Sprint(a[i])] = fmt.Sprint(a[i+1])
		}
	}
	return fields
}

// hashPayload is a hash as a version's payload; one whose fields do not fit together is like none that was ever written.
func hashPayload(fields map[string]string) string {
	n := fields["n"]
	if n == "" {
		n = "0"
	}
	if fields["a"] != fields["b"] {
		return fmt.Sprintf("torn: a=%s b=%s", fields["a"], fields["b"])
	}
	return fields["a"] + "#" + n
}

func (q *question) on(k *key) []any { return append([]any{q.cmd, k.name}, q.args...) }

// read asks one question, or several in one batch or one MGET.
func (rd *reader) read(ctx context.Context) bool {
	switch x := rd.r.IntN(100); {
	case x < 5:
		return rd.pair(ctx)
	case x < 15:
		return rd.mget(ctx)
	case x < 25:
		return rd.ask(ctx, 2+rd.r.IntN(5))
	}
	return rd.ask(ctx, 1)
}

// asked is a question on its way.
type asked struct {
	q    *question
	slot int
	k    *key
	w    view
	cmd  *redis.Cmd
}

func (rd *reader) choose() (int, *key) {
	i := rd.c.slot(rd.r)
	if rd.r.IntN(3) == 0 {
		i = rd.r.IntN(len(rd.c.slots))
	}
	return i, rd.c.slots[i].Load()
}

// ask asks n questions in one batch.
func (rd *reader) ask(ctx context.Context, n int) bool {
	all := make([]asked, n)
	p := rd.cl.Pipeline()
	for i := range all {
		a := &all[i]
		a.slot, a.k = rd.choose()
		can := asks[a.k.kind]
		a.q = &can[rd.r.IntN(len(can))]
		a.w = a.k.look(rd.cl.via)
		a.cmd = p.Do(ctx, a.q.on(a.k)...)
	}
	from := rd.c.now()
	_, _ = p.Exec(ctx) // each command has its own error
	to := rd.c.now()
	ok := true
	for i := range all {
		a := &all[i]
		answer, err := a.cmd.Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			ok = false
			continue
		}
		o := observation{from: from, to: to, via: rd.cl.via, cmd: a.q.cmd, who: rd.cl.name, absent: answer == nil}
		if answer != nil {
			a.q.tell(&o, answer)
		}
		rd.judge(a.slot, a.k, a.w, &o)
	}
	return ok
}

func (rd *reader) judge(slot int, k *key, w view, o *observation) {
	c := rd.c
	c.rep.Reads.Add(1)
	fs := rd.floors[o.cmd]
	if fs == nil {
		fs = make([]floor, len(c.slots))
		rd.floors[o.cmd] = fs
	}
	f := &fs[slot]
	if f.k != k {
		*f = floor{k: k}
	}
	d := k.judge(o, w, f.n, c.lim)
	f.n = max(f.n, d.seen)
	switch {
	case d.kind == kindMonotonic && k.mixed:
		// A limit that proxy/CONSISTENCY.md states: see TestOldReplyComesLast.
		c.rep.note("a read went back within the bound, GET and MGET of one key overlapping", d.trace)
		return
	case d.kind != "":
		c.rep.violation(d.kind, d.trace)
		return
	case d.stale > 0:
		c.rep.stale(d.stale, !c.healthy() || c.quietFor() < time.Second)
	}
	if c.lim.fenced {
		k.saw(d.seen)
	}
}

// mget reads several keys, each from the entry that a GET uses too.
func (rd *reader) mget(ctx context.Context) bool {
	var all []asked
	command := []any{"MGET"}
	for range 40 {
		i, k := rd.choose()
		if !k.mixed {
			continue
		}
		all = append(all, asked{slot: i, k: k, w: k.look(rd.cl.via)})
		command = append(command, k.name)
		if len(all) == 4 {
			break
		}
	}
	if len(all) == 0 {
		return true
	}
	from := rd.c.now()
	answer, err := rd.cl.Do(ctx, command...).Slice()
	to := rd.c.now()
	if err != nil {
		return false
	}
	for i := range all {
		a := &all[i]
		s, ok := answer[i].(string)
		rd.judge(a.slot, a.k, a.w, &observation{payload: s, absent: !ok, from: from, to: to, via: rd.cl.via, cmd: "GET", who: rd.cl.name + " in an MGET"})
	}
	return true
}

// Pairs are written together only. How is by their number: through A for even
// ones, directly for odd ones; by MSET for the first two, by MULTI for the others.
const pairs = 4

func pairNames(n int) (string, string) {
	return fmt.Sprintf("product:pair:%d:a", n), fmt.Sprintf("product:pair:%d:b", n)
}

// pair looks for pairs that an MGET finds different. Single GETs make the
// entries of a pair of different age, which is how that could come about.
func (rd *reader) pair(ctx context.Context) bool {
	n := rd.r.IntN(pairs)
	a, b := pairNames(n)
	switch rd.r.IntN(4) {
	case 0:
		return rd.cl.Get(ctx, a).Err() == nil
	case 1:
		return rd.cl.Get(ctx, b).Err() == nil
	}
	got, err := rd.cl.MGet(ctx, a, b).Result()
	if err != nil {
		return false
	}
	rd.c.rep.Reads.Add(1)
	if got[0] == got[1] || rd.c.now()-time.Duration(rd.c.worldAt.Load()) <= rd.c.lim.bound {
		return true
	}
	text := fmt.Sprintf("MGET %s %s by %s at %v: %v", a, b, rd.cl.name, rd.c.now(), got)
	switch {
	case n%2 == 0 && rd.cl.via == viaA:
		rd.c.rep.violation(kindTorn, text)
	default:
		rd.c.rep.note("MGET of a pair written elsewhere in two states", text)
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
func (c *check) prober(ctx context.Context, number int) {
	at, cl := c.client(direct, 3, 1, "prober"), c.client(viaA+number%2, 3, 0, "prober")
	defer at.Close()
	defer cl.Close()
	for n, run := 0, ctx; run.Err() == nil; n++ {
		ctx := context.WithoutCancel(run)
		func() {
			c.gate.RLock()
			defer c.gate.RUnlock()
			name, want := fmt.Sprintf("product:probe:%d:%d", number, n%8), fmt.Sprint(n)
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
				} else if asked > acked+c.lim.bound || c.lim.fenced && asked > acked {
					c.rep.violation(kindBound, fmt.Sprintf("GET %s by %s at %v got %q; %q was acknowledged at Redis itself at %v", name, cl.name, asked, got, want, acked))
					return
				}
			}
		}()
		time.Sleep(c.cfg.ProbePause)
	}
}

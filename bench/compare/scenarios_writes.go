package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// writeRate is the storm's, in writes per second.
const writeRate = 20000

// storms are what is written at Redis while hits are measured.
var storms = []struct {
	name, prefix string
	key          chooser
}{
	{calmCase, "", nil},
	{stormCase, hotPrefix, above(uniform(100000), 1000000)},
	{"20,000/s on the keys that are read", hotPrefix, uniform(hotKeys)},
	{"20,000/s under no rule", coldPrefix, uniform(hotKeys)},
}

const (
	calmCase  = "nothing is written"
	stormCase = "20,000/s under the same rule"
)

// above moves a choice up by n.
func above(c chooser, n int) chooser { return func(r *source) int { return n + c(r) } }

// runStorm asks what invalidations cost those who read. The writes are made at
// Redis itself, 16 in a batch, in the database of the near cache.
func runStorm(ctx context.Context, b *bench) error {
	near, err := b.first()
	if err != nil {
		return err
	}
	r := &row{name: "storm", title: "GET answered from the near cache while 20,000 keys per second are written at Redis, 50 connections"}
	for _, s := range storms {
		r.cases = append(r.cases, testCase{s.name, func(ctx context.Context) (sample, error) {
			out := newSample()
			hits, err := newGenerator(near.addr, 50, 0, gets(hotPrefix, uniform(hotKeys), 1), b.seed())
			if err != nil {
				return out, err
			}
			defer hits.close()
			var writes *generator
			if s.key != nil {
				const deep = 16
				if writes, err = newGenerator(near.origin.addr, 4, 0, sets(s.prefix, s.key, deep, defaultSize), b.seed()); err != nil {
					return out, err
				}
				defer writes.close()
				if err := writes.choose(ctx, 1); err != nil {
					return out, err
				}
			}
			beside := func(l load) (*result, error) {
				streams := []*stream{{g: hits, l: l}}
				if writes != nil {
					streams = append(streams, &stream{g: writes, l: load{Rate: writeRate / 16, For: l.For}})
				}
				err := together(ctx, streams...)
				return streams[0].res, err
			}
			if _, err := hits.run(ctx, load{For: b.slice / 5}); err != nil { // what an earlier storm left behind
				return out, err
			}
			look, err := near.look()
			if err != nil {
				return out, err
			}
			before, err := near.usage()
			if err != nil {
				return out, err
			}
			closed, err := beside(load{For: b.slice})
			if err != nil {
				return out, err
			}
			after, err := near.usage()
			if err != nil {
				return out, err
			}
			out[fRate] = closed.PerSecond()
			after.minus(before).into(&out, near, float64(closed.Requests))
			if err := look(&out, int(closed.Requests)); err != nil {
				return out, err
			}
			open, err := beside(load{Rate: rate1, For: b.slice})
			if err != nil {
				return out, err
			}
			out.latencies(open)
			r.keep(s.name, open)
			return out, nil
		}})
	}
	return b.do(ctx, r)
}

// choose selects a database on all connections of the generator.
func (g *generator) choose(ctx context.Context, db int) error {
	w := g.work
	defer func() { g.work = w }()
	request := appendRequest(nil, "SELECT", strconv.Itoa(db))
	g.work = workload{request: func(b []byte, _ *source, _, _, _ int) []byte { return append(b, request...) }}
	// A closed loop uses every connection at once.
	res, err := g.run(ctx, load{For: time.Millisecond})
	if err != nil {
		return err
	}
	if res.Errors > 0 {
		return fmt.Errorf("SELECT: %s", res.First)
	}
	return nil
}

// farKeys are what is read over a distance, some of them much more than others.
const farKeys = 1000

const farRate = 10000

// runFar is the origin that the verdict speaks of.
func runFar(ctx context.Context, b *bench) error {
	return b.farRow(ctx, 500*time.Microsecond, 0.01)
}

func runFarAll(ctx context.Context, b *bench) error {
	for _, delay := range []time.Duration{500 * time.Microsecond, 250 * time.Microsecond} {
		for _, writes := range []float64{0.01, 0.1} {
			if err := b.farRow(ctx, delay, writes); err != nil {
				return err
			}
		}
	}
	return nil
}

func farName(delay time.Duration, writes float64) string {
	return fmt.Sprintf("far-%d-%g", delay.Microseconds(), 100*writes)
}

// farRow reads and writes at an origin that is delay away each way.
func (b *bench) farRow(ctx context.Context, delay time.Duration, writes float64) error {
	r := &row{
		name: farName(delay, writes),
		title: fmt.Sprintf("Reads of 1,000 keys, zipf 1.0, and %g %% writes, of an origin %v away each way; %s operations per second on 50 connections",
			100*writes, delay, thousands(farRate)),
	}
	work := mix(hotPrefix, zipf(farKeys), writes, defaultSize)
	var started []*peer
	defer func() { b.lab.release(started...) }()
	// distant is a Redis and the way to it.
	distant := func(name string) (origin, way *peer, err error) {
		if origin, err = b.lab.redis(name); err != nil {
			return nil, nil, err
		}
		if way, err = b.lab.far(origin, delay); err != nil {
			return nil, nil, err
		}
		started = append(started, way, origin)
		return origin, way, nil
	}
	origin, way, err := distant("direct")
	if err != nil {
		return err
	}
	if err := origin.seed(hotPrefix, farKeys, defaultSize); err != nil {
		return err
	}
	direct := &peer{name: "direct", addr: way.addr, origin: origin, kind: kindRedis}
	r.cases = append(r.cases, b.farCase(r, direct, work))
	for _, bin := range b.binaries {
		origin, way, err := distant("redis of far " + bin.name)
		if err != nil {
			return err
		}
		near, err := b.lab.nearside("far "+bin.name, bin.path, way, nil)
		if err != nil {
			return err
		}
		started = append([]*peer{near}, started...)
		near.name, near.origin = bin.name, origin
		if err := near.seed(hotPrefix, farKeys, defaultSize); err != nil {
			return err
		}
		r.cases = append(r.cases, b.farCase(r, near, work))
	}
	for _, kind := range []string{"rueidis", "go-redis"} {
		origin, way, err := distant("redis of " + kind)
		if err != nil {
			return err
		}
		if err := origin.seed(hotPrefix, farKeys, defaultSize); err != nil {
			return err
		}
		e, err := b.lab.startEmbedded(kind, way.addr, origin)
		if err != nil {
			return err
		}
		started = append([]*peer{e.peer}, started...)
		r.cases = append(r.cases, b.farEmbedded(e, writes))
	}
	return b.do(ctx, r)
}

func (b *bench) farCase(r *row, p *peer, work workload) testCase {
	return testCase{p.name, func(ctx context.Context) (sample, error) {
		out := newSample()
		g, err := newGenerator(p.addr, 50, 0, work, b.seed())
		if err != nil {
			return out, err
		}
		defer g.close()
		if _, err := g.run(ctx, load{Rate: farRate, For: b.slice / 5}); err != nil {
			return out, err
		}
		look, err := p.look()
		if err != nil {
			return out, err
		}
		before, err := p.usage()
		if err != nil {
			return out, err
		}
		asked, err := p.origin.getCalls()
		if err != nil {
			return out, err
		}
		res, err := g.run(ctx, load{Rate: farRate, For: 2 * b.slice})
		if err != nil {
			return out, err
		}
		if res.Errors > 0 {
			return out, fmt.Errorf("%d error replies, the first: %s", res.Errors, res.First)
		}
		after, err := p.usage()
		if err != nil {
			return out, err
		}
		now, err := p.origin.getCalls()
		if err != nil {
			return out, err
		}
		after.minus(before).into(&out, p, float64(res.Requests))
		out.latencies(res)
		out[fWriteP50] = res.classMicros(classWrite, 50)
		out[fOriginReads] = 100 * float64(now-asked) / float64(res.Latency[classRead].TotalCount())
		r.keep(p.name, res)
		err = look(&out, int(res.Requests))
		return out, err
	}}
}

func (b *bench) farEmbedded(e *embedded, writes float64) testCase {
	o := embeddedOrder{For: 2 * b.slice, Rate: farRate, Keys: farKeys, Zipf: true, Writes: writes}
	return testCase{e.name, func(ctx context.Context) (sample, error) {
		// As much as it can: the keys that are seldom read must be there, too.
		if _, _, err := e.order(ctx, embeddedOrder{For: b.slice / 2, Keys: farKeys, Zipf: true}); err != nil {
			return newSample(), err
		}
		asked, err := e.origin.getCalls()
		if err != nil {
			return newSample(), err
		}
		out, a, err := e.order(ctx, o)
		if err != nil {
			return out, err
		}
		now, err := e.origin.getCalls()
		if err != nil {
			return out, err
		}
		out[fWriteP50] = a.WriteP50
		out[fOriginReads] = 100 * float64(now-asked) / (float64(a.Ops) * (1 - writes))
		return out, nil
	}}
}

// getCalls is how often a Redis has executed GET.
func (p *peer) getCalls() (int64, error) {
	c, err := dial(p.addr)
	if err != nil {
		return 0, err
	}
	defer c.close()
	info, err := c.do("INFO", "commandstats")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(info, "cmdstat_get:calls=")
	if !ok {
		return 0, nil
	}
	n, _, _ := strings.Cut(rest, ",")
	return strconv.ParseInt(n, 10, 64)
}

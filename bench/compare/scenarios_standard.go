package main

import (
	"context"
	"fmt"
)

// Rates of the open loops, in requests per second: far below what any peer can
// do, since latencies near the limit say how near it is, and nothing else.
const (
	rate1   = 20000.0
	rate16  = 100000.0
	rate128 = 200000.0
)

func openRate(pipeline int) float64 {
	switch pipeline {
	case 1:
		return rate1
	case 16:
		return rate16
	default:
		return rate128
	}
}

// standardRow measures the named peers, all with the same load.
func (b *bench) standardRow(ctx context.Context, name, title string, s standard, peers ...string) error {
	all, err := b.peers(peers...)
	if err != nil {
		return err
	}
	r := &row{name: name, title: title, repeat: s.closed.shell()}
	if s.closed.Conns >= manyConns {
		r.repeat = ""
		r.title += " (closed loop by the generator)"
	}
	for _, p := range all {
		r.cases = append(r.cases, b.standardCase(r, p, s))
	}
	return b.do(ctx, r)
}

func rand1(prefix string) string { return prefix + "__rand_int__" }

// reads is GET of hot or cold keys.
func reads(prefix string, conns, pipeline, keys, size int, rate float64) standard {
	return standard{
		closed: closedLoad{Conns: conns, Pipeline: pipeline, Keys: keys, Command: []string{"GET", rand1(prefix)}, Size: size},
		work:   gets(prefix, uniform(keys), pipeline),
		rate:   rate / float64(pipeline), size: size, reads: true,
	}
}

func hitName(pipeline int) string  { return fmt.Sprintf("hit%d", pipeline) }
func passName(pipeline int) string { return fmt.Sprintf("pass%d", pipeline) }

func (b *bench) hitRow(ctx context.Context, pipeline int) error {
	return b.standardRow(ctx, hitName(pipeline), fmt.Sprintf("GET answered from the near cache, 50 connections, %d deep", pipeline),
		reads(hotPrefix, 50, pipeline, hotKeys, defaultSize, openRate(pipeline)),
		names([]string{"redis", "nutcracker", "haproxy", "redcon", "ceiling", "nearside"}, b.outsiders())...)
}

func (b *bench) passRow(ctx context.Context, pipeline int) error {
	return b.standardRow(ctx, passName(pipeline), fmt.Sprintf("GET passed through, 50 connections, %d deep", pipeline),
		reads(coldPrefix, 50, pipeline, hotKeys, defaultSize, openRate(pipeline)),
		names([]string{"redis", "nutcracker", "haproxy", "nearside"}, b.outsiders())...)
}

func runHits(ctx context.Context, b *bench) error {
	for _, pipeline := range []int{1, 16} {
		if err := b.hitRow(ctx, pipeline); err != nil {
			return err
		}
	}
	return b.embeddedRow(ctx)
}

func runPass(ctx context.Context, b *bench) error {
	for _, pipeline := range []int{1, 16} {
		if err := b.passRow(ctx, pipeline); err != nil {
			return err
		}
	}
	return nil
}

func runDeep(ctx context.Context, b *bench) error {
	if err := b.hitRow(ctx, 128); err != nil {
		return err
	}
	return b.passRow(ctx, 128)
}

func runSets(ctx context.Context, b *bench) error {
	for _, pipeline := range []int{1, 16} {
		s := standard{
			closed: closedLoad{Conns: 50, Pipeline: pipeline, Keys: hotKeys, Command: []string{"SET", rand1(coldPrefix), value(defaultSize)}},
			work:   sets(coldPrefix, uniform(hotKeys), pipeline, defaultSize), rate: openRate(pipeline) / float64(pipeline),
		}
		// The generator tells reads from writes; here the writes are what the row is about.
		s.work.class = nil
		err := b.standardRow(ctx, fmt.Sprintf("set%d", pipeline), fmt.Sprintf("SET passed through, 50 connections, %d deep", pipeline), s,
			names([]string{"redis", "nutcracker", "haproxy", "nearside"}, b.outsiders())...)
		if err != nil {
			return err
		}
	}
	return nil
}

func runBatch(ctx context.Context, b *bench) error {
	command := []string{"MGET"}
	for range 10 {
		command = append(command, rand1(hotPrefix))
	}
	peers := []string{"redis", "nutcracker", "nearside"}
	err := b.standardRow(ctx, "mget", "MGET of 10 keys of the near cache, 50 connections", standard{
		closed: closedLoad{Conns: 50, Pipeline: 1, Keys: hotKeys, Command: command},
		work:   multiGets(hotPrefix, uniform(hotKeys), 10), rate: rate1 / 2, reads: true,
	}, peers...)
	if err != nil {
		return err
	}
	return b.standardRow(ctx, "hgetall", "HGETALL of 20 fields from the near cache, 50 connections", standard{
		closed: closedLoad{Conns: 50, Pipeline: 1, Keys: hashKeys, Command: []string{"HGETALL", rand1(hashPrefix)}},
		work:   hashes(hashPrefix, uniform(hashKeys)), rate: rate1 / 2, reads: true,
	}, peers...)
}

func runValues(ctx context.Context, b *bench) error {
	for _, v := range sizes {
		err := b.standardRow(ctx, fmt.Sprintf("value%d", v.size), fmt.Sprintf("GET of %s from the near cache, 50 connections, %d keys", v.name, v.keys),
			reads(sizePrefix(v.size), 50, 1, v.keys, v.size, v.rate), "redis", "nutcracker", "haproxy", "redcon", "nearside")
		if err != nil {
			return err
		}
	}
	return nil
}

func runConnections(ctx context.Context, b *bench) error {
	for _, conns := range []int{1, 1000, 10000} {
		rate := rate1
		if conns == 1 {
			rate = 5000 // one connection has one request on its way
		}
		err := b.standardRow(ctx, fmt.Sprintf("conns%d", conns), fmt.Sprintf("GET answered from the near cache, %s connections", thousands(int64(conns))),
			reads(hotPrefix, conns, 1, hotKeys, defaultSize, rate), "redis", "nutcracker", "haproxy", "redcon", "nearside")
		if err != nil {
			return err
		}
	}
	return nil
}

// runOne is one connection in a closed loop of the generator: redis-benchmark's
// latencies have a resolution of a whole microsecond only, and less precision.
func runOne(ctx context.Context, b *bench) error {
	for _, what := range []struct{ name, title, prefix string }{
		{"one-hit", "GET answered from the near cache, one connection, closed loop by the generator", hotPrefix},
		{"one-pass", "GET passed through, one connection, closed loop by the generator", coldPrefix},
	} {
		peers, err := b.peers("redis", "nutcracker", "haproxy", "nearside")
		if err != nil {
			return err
		}
		r := &row{name: what.name, title: what.title}
		for _, p := range peers {
			r.cases = append(r.cases, testCase{p.name, func(ctx context.Context) (sample, error) {
				out := newSample()
				g, err := newGenerator(p.addr, 1, 0, gets(what.prefix, uniform(hotKeys), 1), b.seed())
				if err != nil {
					return out, err
				}
				defer g.close()
				err = g.closedInto(ctx, &out, p, b.slice)
				return out, err
			}})
		}
		if err := b.do(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// embeddedRow is hits of client libraries' own caches.
func (b *bench) embeddedRow(ctx context.Context) error {
	r := &row{name: "embedded", title: fmt.Sprintf("The other kind of answer: hits of a client library's own cache, %d goroutines; the CPU includes the caller", callers)}
	var started []*peer
	defer func() { b.lab.release(started...) }()
	for _, kind := range []string{"rueidis", "go-redis"} {
		origin, err := b.peer("redis")
		if err != nil {
			return err
		}
		e, err := b.lab.startEmbedded(kind, origin.addr, origin)
		if err != nil {
			return err
		}
		started = append(started, e.peer)
		r.cases = append(r.cases, testCase{e.name, func(ctx context.Context) (sample, error) {
			warm := embeddedOrder{For: b.slice / 5, Keys: hotKeys}
			if _, _, err := e.order(ctx, warm); err != nil {
				return newSample(), err
			}
			out, a, err := e.order(ctx, embeddedOrder{For: b.slice, Keys: hotKeys})
			out[fRate] = float64(a.Ops) / a.Elapsed.Seconds()
			return out, err
		}})
	}
	return b.do(ctx, r)
}

// runKeys asks whether many entries make hits slower.
func runKeys(ctx context.Context, b *bench) error { return b.keysRow(ctx, 1000000) }

func runKeysAll(ctx context.Context, b *bench) error { return b.keysRow(ctx, 100000, 1000000) }

func (b *bench) keysRow(ctx context.Context, counts ...int) error {
	r := &row{
		name:   "keys",
		title:  "GET answered from the near cache, by the number of keys, 50 connections; above 1,000: " + bigNote,
		repeat: reads(hotPrefix, 50, 1, 1000000, defaultSize, rate1).closed.shell(),
	}
	near, err := b.first()
	if err != nil {
		return err
	}
	small := *near
	small.name = keysCase(hotKeys)
	r.cases = append(r.cases, b.standardCase(r, &small, reads(hotPrefix, 50, 1, hotKeys, defaultSize, rate1)))
	var started []*peer
	defer func() { b.lab.release(started...) }()
	for _, n := range counts {
		origin, p, err := b.pair(keysCase(n), b.binaries[0], big)
		if err != nil {
			return err
		}
		started = append(started, p, origin)
		if err := p.seed(hotPrefix, n, defaultSize); err != nil {
			return err
		}
		r.cases = append(r.cases, b.standardCase(r, p, reads(hotPrefix, 50, 1, n, defaultSize, rate1)))
	}
	return b.do(ctx, r)
}

func keysCase(n int) string { return "nearside, " + thousands(int64(n)) + " keys" }

// runActive asks whether connections that say nothing make the others slower.
func runActive(ctx context.Context, b *bench) error {
	near, err := b.first()
	if err != nil {
		return err
	}
	r := &row{name: "active", title: "GET answered from the near cache, 1,000 active connections of 1,000 and of 10,000"}
	for _, conns := range []int{1000, 10000} {
		r.cases = append(r.cases, testCase{activeCase(conns), func(ctx context.Context) (sample, error) {
			out := newSample()
			if err := near.quiet(ctx); err != nil {
				return out, err
			}
			g, err := newGenerator(near.addr, conns, 1000, gets(hotPrefix, uniform(hotKeys), 1), b.seed())
			if err != nil {
				return out, err
			}
			defer g.close()
			res, err := g.open(ctx, near, &out, rate1, 2*b.slice)
			if err != nil {
				return out, err
			}
			r.keep(activeCase(conns), res)
			if rss, err := residentBytes(near.pid); err == nil {
				out[fRSS] = float64(rss) / (1 << 20)
			}
			return out, nil
		}})
	}
	return b.do(ctx, r)
}

func activeCase(conns int) string { return thousands(int64(conns)) + " connections" }

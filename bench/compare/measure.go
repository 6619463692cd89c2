package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"nearside/bench/internal/proc"
)

// standard is a load that a peer is measured with in both ways: a closed loop
// by redis-benchmark for throughput and processor time, and an open one by the
// generator for latencies.
type standard struct {
	closed closedLoad
	work   workload
	rate   float64 // operations per second of the open loop
	size   int     // of the values, for the floor's constant
	reads  bool    // every reply must be there, and nearside's come from the near cache
}

// manyConns is from where redis-benchmark is not used: it would spend its time
// on connecting, which counts as throughput there.
const manyConns = 1000

// standardCase measures a peer.
func (b *bench) standardCase(r *row, p *peer, s standard) testCase {
	n := 0
	return testCase{p.name, func(ctx context.Context) (sample, error) {
		if p.kind == kindFloor {
			if err := p.constant(s.size); err != nil {
				return sample{}, err
			}
		}
		if n == 0 && s.closed.Conns < manyConns {
			var err error
			if n, err = calibrate(ctx, s.closed, p, b.slice); err != nil {
				return sample{}, err
			}
		}
		out := newSample()
		var err error
		if s.closed.Conns < manyConns {
			out, err = measureClosed(ctx, s.closed, p, n)
		}
		if err != nil {
			return out, err
		}
		if err := p.quiet(ctx); err != nil {
			return out, err
		}
		g, err := newGenerator(p.addr, s.closed.Conns, 0, s.work, b.seed())
		if err != nil {
			return out, err
		}
		defer g.close()
		if s.closed.Conns >= manyConns {
			if err := g.closedInto(ctx, &out, p, b.slice); err != nil {
				return out, err
			}
		}
		// Here no connection is made meanwhile, which would count as allocations.
		res, err := g.open(ctx, p, &out, s.rate, b.slice)
		if err != nil {
			return out, err
		}
		if err := s.check(res); err != nil {
			return out, err
		}
		r.keep(p.name, res)
		if p.pid != 0 {
			rss, err := residentBytes(p.pid)
			if err != nil {
				return out, err
			}
			out[fRSS] = float64(rss) / (1 << 20)
		}
		return out, nil
	}}
}

// check says what is wrong with the replies.
func (s standard) check(r *result) error {
	if r.Errors > 0 {
		return fmt.Errorf("%d error replies, the first: %s", r.Errors, r.First)
	}
	if s.reads && r.Nulls > 0 {
		return fmt.Errorf("%d of %d keys are not there", r.Nulls, r.Requests)
	}
	return nil
}

// keep remembers the latencies for the plots.
func (r *row) keep(name string, res *result) {
	if r.curve == nil {
		r.curve = map[string]*result{}
	}
	if old := r.curve[name]; old != nil {
		for class, h := range res.Latency {
			old.Latency[class].Merge(h)
		}
		return
	}
	r.curve[name] = res
}

// open warms the connections and puts an open load on. Beside the latencies it
// looks at what nearside itself counts.
func (g *generator) open(ctx context.Context, p *peer, out *sample, rate float64, d time.Duration) (*result, error) {
	if _, err := g.run(ctx, load{Rate: rate, For: d / 5}); err != nil {
		return nil, err
	}
	look, err := p.look()
	if err != nil {
		return nil, err
	}
	res, err := g.run(ctx, load{Rate: rate, For: d})
	if err != nil {
		return nil, err
	}
	out.latencies(res)
	return res, look(out, int(res.Requests))
}

// closedInto measures a closed loop with the generator, connections made.
func (g *generator) closedInto(ctx context.Context, out *sample, p *peer, d time.Duration) error {
	if _, err := g.run(ctx, load{For: d / 5}); err != nil {
		return err
	}
	before, err := p.usage()
	if err != nil {
		return err
	}
	res, err := g.run(ctx, load{For: d})
	if err != nil {
		return err
	}
	if res.Errors > 0 {
		return fmt.Errorf("%d error replies, the first: %s", res.Errors, res.First)
	}
	after, err := p.usage()
	if err != nil {
		return err
	}
	out[fRate] = res.PerSecond()
	after.minus(before).into(out, p, float64(res.Requests))
	out.latencies(res)
	return nil
}

// into sets the processor times per request.
func (u usage) into(out *sample, p *peer, requests float64) {
	if p.pid != 0 {
		out[fCPU] = u.cpu.Seconds() * 1e6 / requests
	}
	if p.origin != nil {
		out[fOriginCPU] = u.originCPU.Seconds() * 1e6 / requests
	}
}

// calibrate finds how many requests take about d; it warms the peer too.
func calibrate(ctx context.Context, l closedLoad, p *peer, d time.Duration) (int, error) {
	n := max(4000*min(l.Pipeline, 16)/max(l.Size>>12, 1), 4*l.Conns*l.Pipeline)
	r, err := l.run(ctx, p.addr, n)
	if err != nil {
		return 0, err
	}
	return max(int(r.PerSecond*d.Seconds()), 4*l.Conns*l.Pipeline), nil
}

// names of nearside's series.
const (
	mHits    = "nearside_cache_hits_total"
	mMisses  = "nearside_cache_misses_total"
	mMallocs = "go_memstats_mallocs_total"
	mClients = "nearside_clients"
	mHeap    = "go_memstats_heap_alloc_bytes"
	mBytes   = "nearside_cache_bytes"
	mEntries = "nearside_cache_entries"
)

// measureClosed sends n requests with redis-benchmark.
func measureClosed(ctx context.Context, l closedLoad, p *peer, n int) (sample, error) {
	out := newSample()
	before, err := p.usage()
	if err != nil {
		return out, err
	}
	r, err := l.run(ctx, p.addr, n)
	if err != nil {
		return out, err
	}
	after, err := p.usage()
	if err != nil {
		return out, err
	}
	out[fRate] = r.PerSecond
	out[fClientCPU] = r.CPU.Seconds() * 1e6 / float64(n)
	after.minus(before).into(&out, p, float64(n))
	return out, nil
}

// look reads nearside's own counters now, and again when the returned function
// is called. Of other peers it sees nothing.
func (p *peer) look() (func(out *sample, requests int) error, error) {
	if p.kind != kindNearside {
		return func(*sample, int) error { return nil }, nil
	}
	// Two readings: what one costs is not the requests' doing.
	first, err := p.metrics(mMallocs)
	if err != nil {
		return nil, err
	}
	before, err := p.metrics(mMallocs, mHits, mMisses)
	if err != nil {
		return nil, err
	}
	return func(out *sample, requests int) error {
		after, err := p.metrics(mMallocs, mHits, mMisses)
		if err != nil {
			return err
		}
		own := before[mMallocs] - first[mMallocs]
		out[fAllocs] = max(after[mMallocs]-before[mMallocs]-own, 0) / float64(requests)
		if hits, misses := after[mHits]-before[mHits], after[mMisses]-before[mMisses]; hits+misses > 0 {
			out[fHits] = 100 * hits / (hits + misses)
		}
		return nil
	}, nil
}

// constant tells the floor how long its replies are to be.
func (p *peer) constant(size int) error {
	c, err := dial(p.addr)
	if err != nil {
		return err
	}
	defer c.close()
	_, err = c.do("CONSTANT", strconv.Itoa(size))
	return err
}

// quiet waits until nearside has seen that all earlier clients are gone: it
// would count them among those that it may have.
func (p *peer) quiet(ctx context.Context) error {
	if p.kind != kindNearside {
		return nil
	}
	end := time.Now().Add(proc.StartLimit)
	for {
		m, err := p.metrics(mClients)
		if err != nil {
			return err
		}
		if m[mClients] == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s still has %v clients", p.name, m[mClients])
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// stream is one of several loads at the same time.
type stream struct {
	g   *generator
	l   load
	res *result
}

// together runs streams at the same time, each on a thread of its own.
func together(ctx context.Context, streams ...*stream) error {
	errs := make([]error, len(streams))
	var wg sync.WaitGroup
	for i, s := range streams {
		wg.Go(func() { s.res, errs[i] = s.g.run(ctx, s.l) })
	}
	wg.Wait()
	for i, s := range streams {
		if errs[i] == nil && s.res.Errors > 0 {
			errs[i] = fmt.Errorf("%d error replies, the first: %s", s.res.Errors, s.res.First)
		}
	}
	return errors.Join(errs...)
}

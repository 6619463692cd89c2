package main

import (
	"context"
	"fmt"
)

// Lock cycles per second where they are not the load itself.
const lockRate = 500

// runLocks measures SET NX PX and the release script, as one operation.
func runLocks(ctx context.Context, b *bench) error {
	alone := &row{name: "lock", title: "The lock cycle (SET NX PX, then EVAL of the release script), 1,000 cycles per second on 50 connections; latencies of the whole cycle"}
	busy := &row{name: "lock-busy", title: fmt.Sprintf("The lock cycle, %d per second, while 50 connections, 16 deep, read as much as they get; latencies of the whole cycle", lockRate)}
	peers, err := b.peers(names([]string{"redis", "nutcracker", "haproxy", "nearside"}, b.outsiders())...)
	if err != nil {
		return err
	}
	for _, p := range peers {
		alone.cases = append(alone.cases, b.lockCase(alone, p, 1000, false))
		busy.cases = append(busy.cases, b.lockCase(busy, p, lockRate, true))
	}
	if err := b.do(ctx, alone); err != nil {
		return err
	}
	return b.do(ctx, busy)
}

func (b *bench) lockCase(r *row, p *peer, rate float64, saturated bool) testCase {
	return testCase{p.name, func(ctx context.Context) (sample, error) {
		out := newSample()
		cycles, err := b.lockGenerator(p, 50)
		if err != nil {
			return out, err
		}
		defer cycles.close()
		streams := []*stream{{g: cycles, l: load{Rate: rate, For: 2 * b.slice}}}
		if saturated {
			hits, err := newGenerator(p.addr, 50, 0, gets(hotPrefix, uniform(hotKeys), 16), b.seed())
			if err != nil {
				return out, err
			}
			defer hits.close()
			streams = append(streams, &stream{g: hits, l: load{For: 2 * b.slice}})
		}
		if err := together(ctx, streams...); err != nil {
			return out, err
		}
		out.latencies(streams[0].res)
		if saturated {
			out[fRate] = streams[1].res.PerSecond()
		}
		if n := streams[0].res.Nulls; n > 0 {
			return out, fmt.Errorf("%d locks were not given although nobody held them", n)
		}
		r.keep(p.name, streams[0].res)
		return out, nil
	}}
}

// lockGenerator goes through lock cycles, on locks that nobody used before: one
// that was left behind would be held for its whole life.
func (b *bench) lockGenerator(p *peer, conns int) (*generator, error) {
	seed := b.seed()
	return newGenerator(p.addr, conns, 0, locks(int(seed)*1000), seed)
}

// runFences asks what acquisitions, each of which raises a fence, cost those who
// only read.
func runFences(ctx context.Context, b *bench) error {
	near, err := b.first()
	if err != nil {
		return err
	}
	r := &row{name: "fences", title: fmt.Sprintf("GET answered from the near cache beside %d lock cycles per second, which raise fences; 50 connections", lockRate)}
	for _, with := range []bool{false, true} {
		r.cases = append(r.cases, testCase{fenceCase(with), func(ctx context.Context) (sample, error) {
			return b.besideLocks(ctx, r, near, fenceCase(with), with)
		}})
	}
	// What of it the locks themselves cost: they take processors that hits share.
	origin, unfenced, err := b.pair("unfenced", b.binaries[0], map[string]string{"  link: ": "auto\n  fence: []"})
	if err != nil {
		return err
	}
	defer b.lab.release(unfenced, origin)
	if err := unfenced.fill(); err != nil {
		return err
	}
	r.cases = append(r.cases, testCase{unfencedCase, func(ctx context.Context) (sample, error) {
		return b.besideLocks(ctx, r, unfenced, unfencedCase, true)
	}})
	return b.do(ctx, r)
}

// unfencedCase is one of a nearside that breaks its promise.
var unfencedCase = fenceCase(true) + ", cache.fence: []"

func fenceCase(with bool) string {
	if with {
		return fmt.Sprintf("%d locks/s", lockRate)
	}
	return "no locks"
}

func (b *bench) besideLocks(ctx context.Context, r *row, near *peer, name string, with bool) (sample, error) {
	out := newSample()
	hits, err := newGenerator(near.addr, 50, 0, gets(hotPrefix, uniform(hotKeys), 1), b.seed())
	if err != nil {
		return out, err
	}
	defer hits.close()
	// What a round trip takes meanwhile is asked of Redis itself.
	trips, err := newGenerator(near.origin.addr, 1, 0, pings(), b.seed())
	if err != nil {
		return out, err
	}
	defer trips.close()
	cycles, err := b.lockGenerator(near, 20)
	if err != nil {
		return out, err
	}
	defer cycles.close()
	beside := func(l load) (*result, *result, *result, error) {
		main := &stream{g: hits, l: l}
		trip := &stream{g: trips, l: load{Rate: 200, For: l.For}}
		streams := []*stream{main, trip}
		if with {
			streams = append(streams, &stream{g: cycles, l: load{Rate: lockRate, For: l.For}})
		}
		err := together(ctx, streams...)
		return main.res, trip.res, streams[len(streams)-1].res, err
	}
	closed, _, _, err := beside(load{For: b.slice})
	if err != nil {
		return out, err
	}
	out[fRate] = closed.PerSecond()
	open, trip, cycle, err := beside(load{Rate: rate1, For: 2 * b.slice})
	if err != nil {
		return out, err
	}
	out.latencies(open)
	out[fRoundTrip] = trip.micros(50)
	if with {
		out[fLockP99] = cycle.micros(99)
	}
	r.keep(name, open)
	return out, nil
}

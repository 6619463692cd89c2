package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// runMemory measures what entries and connections take, in fresh processes.
func runMemory(ctx context.Context, b *bench) error {
	entries := &row{name: "entry", title: fmt.Sprintf("Memory of one entry beyond key and reply: heap in use, 200,000 entries of 16 B, with GOGC=5; %s", bigNote)}
	entries.cases = []testCase{{"nearside", b.entryBytes}}
	if err := b.do(ctx, entries); err != nil {
		return err
	}
	idle := &row{name: "idle", title: "Memory (RSS) of one of 10,000 connections that have each sent one GET and say nothing more"}
	idle.cases = []testCase{{"nearside", b.idleBytes}}
	return b.do(ctx, idle)
}

func (b *bench) entryBytes(context.Context) (sample, error) {
	const n = 200000
	out := newSample()
	// A collector that is always at work leaves little between what is in use
	// and what the process has.
	origin, p, err := b.pair("entries", b.binaries[0], big, "GOGC=5")
	if err != nil {
		return out, err
	}
	defer b.lab.release(p, origin)
	if err := p.seed(hotPrefix, 1000, defaultSize); err != nil {
		return out, err
	}
	before, err := p.metrics(mHeap, mBytes, mEntries)
	if err != nil {
		return out, err
	}
	if err := p.seed(hotPrefix, n, defaultSize); err != nil {
		return out, err
	}
	after, err := p.metrics(mHeap, mBytes, mEntries)
	if err != nil {
		return out, err
	}
	more := after[mEntries] - before[mEntries]
	if more < n/2 {
		return out, fmt.Errorf("only %v of %d entries were kept", more, n)
	}
	payload := float64(len(keyName(hotPrefix, 0)) + len(bulk(value(defaultSize))))
	out[fBytes] = (after[mHeap]-before[mHeap])/more - payload
	out[fOwnBytes] = (after[mBytes]-before[mBytes])/more - payload
	return out, nil
}

func (b *bench) idleBytes(ctx context.Context) (sample, error) {
	const n = 10000
	out := newSample()
	origin, p, err := b.pair("idle", b.binaries[0], nil)
	if err != nil {
		return out, err
	}
	defer b.lab.release(p, origin)
	if err := p.seed(hotPrefix, hotKeys, defaultSize); err != nil {
		return out, err
	}
	if err := p.quiet(ctx); err != nil {
		return out, err
	}
	before, err := residentBytes(p.pid)
	if err != nil {
		return out, err
	}
	g, err := newGenerator(p.addr, n, 0, gets(hotPrefix, uniform(hotKeys), 1), b.seed())
	if err != nil {
		return out, err
	}
	defer g.close()
	// A closed loop begins on every connection, however short it is.
	if _, err := g.run(ctx, load{For: time.Millisecond}); err != nil {
		return out, err
	}
	after, err := residentBytes(p.pid)
	if err != nil {
		return out, err
	}
	out[fBytes] = float64(after-before) / n
	return out, nil
}

// runFlush empties the database every second.
func runFlush(ctx context.Context, b *bench) error {
	r := &row{name: "flush", title: "Reads of 1,000 keys and 5 % writes while FLUSHDB is sent to Redis every second; 20,000 operations per second on 50 connections"}
	origin, near, err := b.pair("flushed", b.binaries[0], nil)
	if err != nil {
		return err
	}
	defer b.lab.release(near, origin)
	direct, err := b.lab.redis("redis")
	if err != nil {
		return err
	}
	defer b.lab.release(direct)
	near.name = "nearside"
	for _, p := range []*peer{direct, near} {
		for _, flushed := range []bool{false, true} {
			name := p.name
			if flushed {
				name += ", FLUSHDB"
			}
			r.cases = append(r.cases, testCase{name, func(ctx context.Context) (sample, error) { return b.flushCase(ctx, p, flushed) }})
		}
	}
	return b.do(ctx, r)
}

func (b *bench) flushCase(ctx context.Context, p *peer, flushed bool) (sample, error) {
	out := newSample()
	at := p
	if p.origin != nil {
		at = p.origin
	}
	c, err := dial(at.addr)
	if err != nil {
		return out, err
	}
	defer c.close()
	if p.kind == kindNearside {
		if _, err := c.do("SELECT", "1"); err != nil {
			return out, err
		}
	}
	g, err := newGenerator(p.addr, 50, 0, mix(hotPrefix, uniform(hotKeys), 0.05, defaultSize), b.seed())
	if err != nil {
		return out, err
	}
	defer g.close()
	look, err := p.look()
	if err != nil {
		return out, err
	}
	const times = 3
	done := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		every := time.NewTicker(b.slice)
		defer every.Stop()
		for {
			select {
			case <-stop:
				done <- nil
				return
			case <-every.C:
				if !flushed {
					continue
				}
				if _, err := c.do("FLUSHDB"); err != nil {
					done <- err
					return
				}
			}
		}
	}()
	res, err := g.run(ctx, load{Rate: rate1, For: times * b.slice})
	close(stop)
	if err != nil {
		return out, err
	}
	if err := <-done; err != nil {
		return out, err
	}
	if res.Errors > 0 {
		return out, fmt.Errorf("%d error replies, the first: %s", res.Errors, res.First)
	}
	out.latencies(res)
	out[fWriteP50] = res.classMicros(classWrite, 50)
	err = look(&out, int(res.Requests))
	return out, err
}

// runCold starts processes and looks at their first seconds.
func runCold(ctx context.Context, b *bench) error {
	const keys = 100000
	r := &row{name: "cold", title: fmt.Sprintf("A cold start: %s keys in Redis, read with zipf 1.0, 10,000 reads per second on 50 connections, from the first moment on; sample configuration", thousands(keys))}
	origin, err := b.lab.redis("redis of cold")
	if err != nil {
		return err
	}
	defer b.lab.release(origin)
	filler, err := b.lab.nearside("filler", b.binaries[0].path, origin, nil)
	if err != nil {
		return err
	}
	err = filler.seed(hotPrefix, keys, defaultSize)
	b.lab.release(filler)
	if err != nil {
		return err
	}
	seconds := []string{"first second", "second second", "third second"}
	// All seconds are of one process: the first case starts it and measures all.
	var got []sample
	for i, name := range seconds {
		r.cases = append(r.cases, testCase{name, func(ctx context.Context) (sample, error) {
			if len(got) == 0 {
				var err error
				if got, err = b.coldStart(ctx, origin, keys, len(seconds)); err != nil {
					return sample{}, err
				}
			}
			s := got[i]
			if r.last(len(seconds)) {
				got = nil
			}
			return s, nil
		}})
	}
	return b.do(ctx, r)
}

// last reports whether all other cases have one sample more than this one.
func (r *row) last(cases int) bool {
	n := 0
	for _, s := range r.got {
		n += len(s)
	}
	return n%cases == cases-1
}

func (b *bench) coldStart(ctx context.Context, origin *peer, keys, seconds int) ([]sample, error) {
	began := time.Now()
	p, err := b.lab.nearside("cold", b.binaries[0].path, origin, nil)
	if err != nil {
		return nil, err
	}
	defer b.lab.release(p)
	ready := time.Since(began)
	g, err := newGenerator(p.addr, 50, 0, gets(hotPrefix, zipf(keys), 1), b.seed())
	if err != nil {
		return nil, err
	}
	defer g.close()
	var all []sample
	for i := range seconds {
		look, err := p.look()
		if err != nil {
			return nil, err
		}
		res, err := g.run(ctx, load{Rate: 10000, For: time.Second})
		if err != nil {
			return nil, err
		}
		if res.Errors > 0 || res.Nulls > 0 {
			return nil, fmt.Errorf("%d errors (%s), %d keys are missing", res.Errors, strings.TrimSpace(res.First), res.Nulls)
		}
		s := newSample()
		s.latencies(res)
		if i == 0 {
			s[fReady] = float64(ready.Microseconds()) / 1e3
		}
		if err := look(&s, int(res.Requests)); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

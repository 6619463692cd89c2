package main

import (
	"context"
	"fmt"
	"time"
)

// unobserved takes everything out of the sample configuration that only looks on:
// latencies, the slow log, the audit, reports, touching. The admin port stays, since
// the harness asks it; nobody reads it meanwhile.
var unobserved = map[string]string{
	"  max_staleness: ":      "1s\n  audit: {one_in: 0}\n  touch: \"off\"",
	`    - prefix: "stats:"`: "\nobserve: {latency: false}\nslow: 0s\nreport: 0s",
}

// observed is everything on: what is on by default, touching too, which is so only
// where Redis evicts by use, and a reader of /metrics every second.
var observed = map[string]string{"  max_staleness: ": "1s\n  touch: 30s"}

const (
	observedCase   = "everything on"
	unobservedCase = "everything off"
	scrapeEvery    = time.Second
)

// runObserve asks what it costs that nearside explains itself.
func runObserve(ctx context.Context, b *bench) error {
	for _, pipeline := range []int{1, 16} {
		if err := b.observeRow(ctx, pipeline); err != nil {
			return err
		}
	}
	return nil
}

func observeName(pipeline int) string { return fmt.Sprintf("observe%d", pipeline) }

func (b *bench) observeRow(ctx context.Context, pipeline int) error {
	s := reads(hotPrefix, 50, pipeline, hotKeys, defaultSize, openRate(pipeline))
	r := &row{
		name:   observeName(pipeline),
		title:  fmt.Sprintf("GET answered from the near cache, 50 connections, %d deep, with latencies, slow log, audit, touching and a scrape every second, and without", pipeline),
		repeat: s.closed.shell(),
	}
	var started []*peer
	defer func() { b.lab.release(started...) }()
	for _, on := range []bool{true, false} {
		name, change := unobservedCase, unobserved
		if on {
			name, change = observedCase, observed
		}
		origin, p, err := b.pair(name, b.binaries[0], change)
		if err != nil {
			return err
		}
		started = append(started, p, origin)
		if err := p.fill(); err != nil {
			return err
		}
		c := b.standardCase(r, p, s)
		if on {
			c.measure = p.scraped(c.measure)
		}
		r.cases = append(r.cases, c)
	}
	return b.do(ctx, r)
}

// scraped reads /metrics all the while.
func (p *peer) scraped(measure func(context.Context) (sample, error)) func(context.Context) (sample, error) {
	return func(ctx context.Context) (sample, error) {
		ended, stop := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			tick := time.NewTicker(scrapeEvery)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
					_, _ = p.metrics(mHits) // one that fails is missed by nobody
				}
			}
		}()
		defer func() { close(stop); <-ended }()
		return measure(ctx)
	}
}

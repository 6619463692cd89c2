package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// A soak is many cycles of faults: several groups of a Redis and two nearsides
// side by side, each of which takes up one stint after the other. The modes
// alternate, and so does where in the list of faults a stint begins.
type soak struct {
	cycles int
	groups int
	base   Config
}

// stintCycles are few enough for all modes to have their turn in a short soak.
const stintCycles = 12

// stints cuts the soak into runs.
func (s *soak) stints() []Config {
	var all []Config
	for done := 0; done < s.cycles; done += stintCycles {
		n := len(all)
		cfg := s.base
		cfg.Seed += uint64(n)
		cfg.Mode = Modes[n%len(Modes)]
		cfg.Cycles = min(stintCycles, s.cycles-done)
		// Half of the list, so that every mode meets every fault in two of its turns.
		cfg.From = (n/len(Modes) + n) % 2 * stintCycles
		if n/2%2 == 1 { // some keys are hardly ever written or read
			cfg.Keys, cfg.Skew = 800, 1
		}
		all = append(all, cfg)
	}
	return all
}

// run runs it. An error of one stint ends all.
func (s *soak) run(ctx context.Context) (*Report, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	todo := make(chan Config)
	total := newReport()
	began := time.Now()
	out := &lines{w: s.base.Log}
	var wg sync.WaitGroup
	var mu sync.Mutex
	cycles := 0
	for range s.groups {
		wg.Go(func() {
			for cfg := range todo {
				cfg.Log = out
				rep, err := Run(ctx, cfg)
				if err != nil && ctx.Err() == nil {
					cancel(fmt.Errorf("%s, seed %d, from %d: %w", cfg.Mode, cfg.Seed, cfg.From, err))
				}
				if err != nil {
					return
				}
				mu.Lock()
				cycles += cfg.Cycles
				n := cycles
				mu.Unlock()
				total.add(rep)
				fmt.Fprintf(out, "%7.1fs %d of %d cycles; %s, seed %d: %d violations\n", time.Since(began).Seconds(), n, s.cycles, cfg.Mode, cfg.Seed, rep.Violations())
			}
		})
	}
	stints := s.stints()
	for i := range stints {
		select {
		case todo <- stints[i]:
		case <-ctx.Done():
		}
	}
	close(todo)
	wg.Wait()
	total.Took = time.Since(began)
	return total, context.Cause(ctx)
}

// lines keeps what several groups say apart, and says only how stints ended and
// where violations are.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) Write(b []byte) (int, error) {
	if s := string(b); strings.Contains(s, " cycle ") && strings.HasSuffix(s, " 0 violations\n") {
		return len(b), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

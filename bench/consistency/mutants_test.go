package main

import (
	"testing"
	"time"
)

// TestMutantsApply wants every mutant's text in nearside's sources, without building any.
func TestMutantsApply(t *testing.T) {
	for i := range mutants {
		if _, err := mutants[i].patch(t.TempDir()); err != nil {
			t.Error(err)
		}
	}
}

// TestMutants breaks nearside in its sources and wants it noticed.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("builds nearside several times")
	}
	for i := range mutants {
		m := &mutants[i]
		t.Run(m.name, func(t *testing.T) {
			bin, err := m.build(t.Context(), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			cfg := m.config(bin)
			began := time.Now()
			rep, err := Run(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			took := time.Since(began)
			if rep.Violations(m.want...) == 0 {
				t.Fatalf("no violation of %v, which must be noticed\n%s", m.want, rep)
			}
			t.Logf("found after %v: %s", took.Round(100*time.Millisecond), counts(rep.kinds))
			// The same conditions are no trouble to nearside itself.
			if cfg.Binary, err = nearsideBinary(); err != nil {
				t.Fatal(err)
			}
			cfg.Duration, cfg.Linear = min(cfg.Duration, 2*time.Second), min(cfg.Linear, 2*time.Second)
			if cfg.Strong > 0 {
				cfg.Duration = 20 * time.Second
			}
			if rep, err = Run(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			if n := rep.Violations(); n != 0 {
				t.Errorf("%d violations by nearside itself:\n%s", n, rep)
			}
		})
	}
}

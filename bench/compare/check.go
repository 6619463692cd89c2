package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

const ratiosFile = "ratios.json"

// recorded are ratios of an earlier run: CPU per request of nearside and of
// another peer with the same load.
type recorded struct {
	CPU map[string]float64 `json:"cpu_per_request"`
}

// checked are the ratios that are worth keeping: who else is measured where.
var checked = map[string]string{"hit1": "redcon", "hit16": "redcon", "pass1": "nutcracker", "pass16": "nutcracker"}

func ratioName(row, other string) string { return row + " / " + other }

func recordRatios(b *bench) recorded {
	r := recorded{map[string]float64{}}
	for name, other := range checked {
		if row := b.row(name); row != nil {
			s := ratio(row.got[b.binaries[0].name].of(fCPU), row.got[other].of(fCPU))
			if s.Mid == s.Mid {
				r.CPU[ratioName(name, other)] = float64(int(s.Mid*1000+0.5)) / 1000
			}
		}
	}
	return r
}

func (r recorded) write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

func readRatios(path string) (recorded, error) {
	var r recorded
	b, err := os.ReadFile(path)
	if err != nil {
		return r, fmt.Errorf("nothing is recorded yet, run \"make bench\": %w", err)
	}
	err = json.Unmarshal(b, &r)
	return r, err
}

// worse names the ratios that have grown beyond the tolerance, which is a share.
func (r recorded) worse(now map[string]spread, tolerance float64) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(r.CPU)) {
		if s, ok := now[name]; ok && !(s.Mid <= r.CPU[name]*(1+tolerance)) {
			names = append(names, name)
		}
	}
	return names
}

// check measures the ratios again. What seems worse is measured once more, with
// twice the rounds, before it is called so: machines have bad moments.
func check(ctx context.Context, out io.Writer, path string, bin binary, rounds int, slice time.Duration, tolerance float64) error {
	old, err := readRatios(path)
	if err != nil {
		return err
	}
	now := map[string]spread{}
	again := func(rows []quickRow, rounds int) error {
		got, err := quick(ctx, io.Discard, rows, binaries{bin}, rounds, slice)
		for name, byPeer := range got {
			other := checked[name]
			now[ratioName(name, other)] = ratio(byPeer[bin.name].of(fCPU), byPeer[other].of(fCPU))
		}
		return err
	}
	if err := again(quickRows, rounds); err != nil {
		return err
	}
	if doubtful := old.worse(now, tolerance); len(doubtful) > 0 {
		rows := slices.DeleteFunc(slices.Clone(quickRows), func(r quickRow) bool {
			return !slices.Contains(doubtful, ratioName(r.name, checked[r.name]))
		})
		fmt.Fprintf(out, "once more: %s\n", strings.Join(doubtful, ", "))
		if err := again(rows, 2*rounds); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, "CPU per request, recorded and now:")
	for _, name := range slices.Sorted(maps.Keys(old.CPU)) {
		fmt.Fprintf(out, "  %-20s %.3f  %s\n", name, old.CPU[name], now[name])
	}
	if bad := old.worse(now, tolerance); len(bad) > 0 {
		return errors.New("more than " + fmt.Sprintf("%.0f %%", 100*tolerance) + " worse: " + strings.Join(bad, ", "))
	}
	return nil
}

package main

import (
	"bufio"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"nearside/bench/internal/sources"
)

// The race detector watches nearside, too.
var nearsideBinary = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(buildDir, "nearside")
	return bin, sources.Build(testContext, bin, "-race")
})

func runCheck(t *testing.T, cfg Config) *Report {
	t.Helper()
	var err error
	if cfg.Binary, err = nearsideBinary(); err != nil {
		t.Fatal(err)
	}
	cfg.Log = t.Output()
	rep, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + rep.String())
	return rep
}

// TestSoak is the short version of make soak: fifty cycles in all modes.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	cfg := Defaults()
	cfg.Seed = uint64(time.Now().UnixNano())
	cfg.Linear = time.Second
	t.Logf("seed %d", cfg.Seed)
	var err error
	if cfg.Binary, err = nearsideBinary(); err != nil {
		t.Fatal(err)
	}
	cfg.Log = t.Output()
	const cycles = 50
	rep, err := (&soak{cycles: cycles, groups: 3, base: cfg}).run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + rep.String())
	if n := rep.Violations(); n != 0 {
		t.Errorf("%d violations", n)
	}
	// What has not been exercised has not been checked.
	for i, hits := range rep.Hits {
		if hits < 10000 {
			t.Errorf("the nearsides %s answered %d reads themselves, want 10000 and more", viaNames[i+1], hits)
		}
	}
	if rep.Reads.Load() < 50000 || rep.Writes.Load() < 5000 || rep.Locks.Load() < 500 || rep.Linear < 5000 || rep.Compared < 10000 || rep.Audited < 1000 {
		t.Error("too little was done")
	}
	done := 0
	for _, n := range rep.Cycles {
		done += n
	}
	if len(rep.Cycles) != len(faults) || done != cycles {
		t.Errorf("%d cycles of faults: %v, want %d of %d kinds", done, rep.Cycles, cycles, len(faults))
	}
	for i := range ways {
		if rep.Ways[ways[i].name] == 0 {
			t.Errorf("nobody has written by %s", ways[i].name)
		}
	}
}

// TestCatches breaks nearside and wants it noticed.
func TestCatches(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	for _, test := range []struct {
		name string
		sab  sabotage
		keys int
		want []string
	}{
		{"lost invalidations", sabotage{DropPush: 400}, 800, []string{kindBound, kindConvergence}},
		{"invalidations after their PONGs", sabotage{DelayPush: 600 * time.Millisecond}, 800, []string{kindBound}},
		{"ignored deadlines", sabotage{AddPTTL: 3 * time.Second}, 160, []string{kindTTL}},
		{"stolen locks", sabotage{Thief: true}, 160, []string{kindLock}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := Defaults()
			cfg.Faults, cfg.Linear, cfg.StopEarly = false, 0, true
			cfg.Duration, cfg.AuditOneIn = 30*time.Second, 0
			cfg.Sabotage = test.sab
			rarely(&cfg)
			cfg.Keys = test.keys
			if rep := runCheck(t, cfg); rep.Violations(test.want...) == 0 {
				t.Errorf("no violation of %v, which must be noticed", test.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	const ms = time.Millisecond
	lim := limits{bound: 100 * ms, ttl: 4 * ms}
	k := newKey("k", aString, 0)
	put := func(v version, ack, px time.Duration) {
		if px > 0 {
			v.lo = v.call + px
		}
		k.end(k.begin(v), ack, px)
	}
	put(version{payload: "one", call: 10 * ms}, 11*ms, 0)
	put(version{payload: "two", call: 20 * ms, via: viaA}, 21*ms, 0)
	put(version{payload: "three", call: 30 * ms}, 31*ms, 200*ms)
	for _, test := range []struct {
		got   string
		at    time.Duration
		own   int
		floor int
		want  string
	}{
		{"three", 40 * ms, 2, 3, ""},
		{"two", 40 * ms, 2, 2, ""},
		{"two", 40 * ms, 2, 3, kindMonotonic},
		{"one", 40 * ms, 2, 0, kindOwnWrite},
		{"one", 40 * ms, 0, 0, ""},
		{"two", 132 * ms, 0, 0, kindBound},
		{"two", 131 * ms, 0, 0, ""},
		{"three", 234 * ms, 0, 0, ""},
		{"three", 236 * ms, 0, 0, kindTTL},
		{"", 40 * ms, 0, 0, ""},
		{"", 140 * ms, 0, 0, kindBound},
		{"", 230 * ms, 3, 3, ""}, // expired
		{"four", 40 * ms, 0, 0, kindPhantom},
	} {
		o := observation{payload: test.got, absent: test.got == "", from: test.at, to: test.at + ms}
		if d := k.judge(&o, view{own: test.own}, test.floor, lim); d.kind != test.want {
			t.Errorf("%q at %v, own %d, floor %d: %q, want %q\n%s", test.got, test.at, test.own, test.floor, d.kind, test.want, d.trace)
		}
	}
	k.retire()
	o := observation{payload: "four"}
	if d := k.judge(&o, view{}, 0, lim); d.kind != "" {
		t.Errorf("a key of which nothing is known: %s", d.kind)
	}
}

func TestRegister(t *testing.T) {
	op := func(client int, call, ret int64, i input, out string) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Call: call, Return: ret, Input: i, Output: out}
	}
	hist := []porcupine.Operation{
		op(0, 0, 10, input{'w', "a"}, ""),
		op(1, 20, 30, input{'w', "b"}, ""),
		op(2, 25, 26, input{'r', ""}, "b"),
		op(0, 27, 28, input{'r', ""}, "b"),
	}
	if !porcupine.CheckOperations(register, hist) {
		t.Error("a right history is refused")
	}
	hist[3].Output = "a" // after somebody has seen the newer value
	if porcupine.CheckOperations(register, hist) {
		t.Error("a wrong history passes")
	}
}

func TestFrames(t *testing.T) {
	frames := []string{
		"+OK\r\n", ":-5\r\n", "$3\r\na\r\n\r\n", "$-1\r\n", "_\r\n", "*-1\r\n", "*0\r\n", ",1.5\r\n", "-ERR x\r\n",
		">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n", ">2\r\n$10\r\ninvalidate\r\n_\r\n",
		"%1\r\n$1\r\na\r\n*2\r\n:1\r\n#t\r\n", "*2\r\n$3\r\nabc\r\n:300\r\n",
	}
	in := bufio.NewReader(strings.NewReader(strings.Join(frames, "")))
	for _, want := range frames {
		got, err := readFrame(in, nil)
		if err != nil || string(got) != want {
			t.Fatalf("%q, %v, want %q", got, err, want)
		}
		if isInvalidation(got) != strings.HasPrefix(want, ">2") {
			t.Errorf("%q: invalidation %v", got, isInvalidation(got))
		}
	}
	for in, want := range map[string]string{
		"*2\r\n$3\r\nabc\r\n:300\r\n": "*2\r\n$3\r\nabc\r\n:1300\r\n",
		"*2\r\n$3\r\nabc\r\n:-1\r\n":  "*2\r\n$3\r\nabc\r\n:-1\r\n",
		"+OK\r\n":                     "+OK\r\n",
	} {
		if got := exaggerate([]byte(in), time.Second); string(got) != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

package main

import (
	"bytes"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSpread(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		in   []float64
		want spread
	}{
		{[]float64{3, 1, 2}, spread{2, 1, 3}},
		{[]float64{4, 1, 2, 3}, spread{2.5, 1, 4}},
		{[]float64{nan, 5, nan}, spread{5, 5, 5}},
	} {
		if got := over(c.in); got != c.want {
			t.Errorf("over(%v) = %v, want %v", c.in, got, c.want)
		}
	}
	if got := over([]float64{nan}); !math.IsNaN(got.Mid) {
		t.Errorf("of nothing: %v", got)
	}
	// Round by round: what slowed a whole round cancels out.
	if got, want := ratio([]float64{2, 20, 200}, []float64{1, 10, 100}), (spread{2, 2, 2}); got != want {
		t.Errorf("ratio = %v, want %v", got, want)
	}
	if got := ratios([]float64{1, 1}, []float64{0, 2}); !math.IsNaN(got[0]) || got[1] != 0.5 {
		t.Errorf("divided by nothing: %v", got)
	}
	if got := ratio([]float64{1, 2, 3}, nil); !math.IsNaN(got.Mid) {
		t.Errorf("against nothing: %v", got)
	}
}

func TestFigures(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0.00", 0.00123: "0.0012", 0.5: "0.50", 12.34: "12.3", 123.4: "123", 1234567: "1,234,567", -1234: "-1,234", 999.6: "1000",
	} {
		if got := digits3(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	for want, s := range map[string]spread{"100 ±20%": {100, 90, 130}, "1.00": {1, 1, 1}, "1.00 (0.50 to 20.0)": {1, 0.5, 20}, "-": over(nil)} {
		if got := s.short(); got != want {
			t.Errorf("short: %s, want %s", got, want)
		}
	}
}

func TestRotate(t *testing.T) {
	all := []string{"a", "b", "c"}
	for round, want := range []string{"abc", "bca", "cab", "abc"} {
		if got := strings.Join(rotate(all, round), ""); got != want {
			t.Errorf("round %d: %s, want %s", round, got, want)
		}
	}
}

// TestReplies cuts a stream at every place: nothing may depend on where reads end.
func TestReplies(t *testing.T) {
	stream := "+OK\r\n:12\r\n$5\r\nab\r\nc\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n*3\r\n$1\r\na\r\n*2\r\n:1\r\n$-1\r\n+x\r\n-ERR no\r\n"
	const want = 9
	for cut := range len(stream) + 1 {
		var r replies
		got := r.feed([]byte(stream[:cut])) + r.feed([]byte(stream[cut:]))
		if got != want || r.Nulls != 3 || r.Errors != 1 || r.First != "ERR no" || r.Broken {
			t.Fatalf("cut at %d: %d replies, %+v", cut, got, r)
		}
	}
	var one replies
	n := 0
	for i := range len(stream) {
		n += one.feed([]byte(stream[i : i+1]))
	}
	if n != want {
		t.Errorf("byte by byte: %d replies", n)
	}
	var bad replies
	bad.feed([]byte("HTTP/1.1 200 OK\r\n"))
	if !bad.Broken {
		t.Error("HTTP is taken for RESP")
	}
}

// TestWorkloadsAreWellFormed has every request read back by a parser.
func TestWorkloadsAreWellFormed(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for name, w := range map[string]workload{
		"gets": gets(hotPrefix, uniform(1000), 3), "sets": sets(coldPrefix, uniform(1000), 1, 16), "mix": mix(hotPrefix, zipf(10), 0.5, 340),
		"mget": multiGets(hotPrefix, uniform(1000), 10), "hashes": hashes(hashPrefix, uniform(3)), "pings": pings(), "locks": locks(1000),
	} {
		for range 100 {
			class := classRead
			if w.class != nil {
				class = w.class(r)
			}
			for step := range w.stepCount() {
				b := w.request(nil, r, class, 42, step)
				var p replies // a request is an array, as a reply may be
				if got := p.feed(b); got != 1 || p.pending != 0 || p.skip != 0 || len(p.line) > 0 {
					t.Fatalf("%s, step %d: %q is %d requests", name, step, b, got)
				}
			}
		}
	}
	if got, want := string(appendKey(nil, "p:", 1203)), "$14\r\np:000000001203\r\n"; got != want || keyName("p:", 1203) != want[5:19] {
		t.Errorf("key %q, %q", got, keyName("p:", 1203))
	}
}

func TestZipf(t *testing.T) {
	const n, draws = 100, 200000
	r := rand.New(rand.NewPCG(7, 7))
	key := zipf(n)
	var count [n]float64
	for range draws {
		count[key(r)]++
	}
	harmonic := 0.0
	for i := range n {
		harmonic += 1 / float64(i+1)
	}
	for _, i := range []int{0, 1, 9, 99} {
		want := draws / harmonic / float64(i+1)
		if math.Abs(count[i]-want) > 5*math.Sqrt(want) {
			t.Errorf("key %d: %v times, want about %.0f", i, count[i], want)
		}
	}
}

func TestParseClosed(t *testing.T) {
	const head = "WARNING: Could not fetch server CONFIG\n" + `"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"` + "\n"
	got, err := parseClosed(head + `"SET a,"b:__rand_int__","76923.08","0.391","0.104","0.343","0.703","0.911","1.199"` + "\n")
	if want := (closedResult{PerSecond: 76923.08, P50: 0.343, P95: 0.703, P99: 0.911}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", head, `"a","b","c","d","e","f","g","h"`} {
		if _, err := parseClosed(bad); err == nil {
			t.Errorf("%q is taken for a result", bad)
		}
	}
}

func TestRewrite(t *testing.T) {
	const text = "redis: redis://a   # the origin\ncache:\n  memory: 64MiB # bytes\n"
	got, err := rewrite(text, map[string]string{"redis: ": "redis://b", "  memory: ": "1GiB"})
	if want := "redis: redis://b\ncache:\n  memory: 1GiB\n"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := rewrite(text, map[string]string{"listen: ": "x"}); err == nil {
		t.Error("a line that is not there was replaced")
	}
}

func TestParseProcessors(t *testing.T) {
	idle, stolen := parseProcessors("cpu  100 10 50 10000 7 3 2 5 0 0")
	if idle != 10007*tick || stolen != 5*tick {
		t.Errorf("idle %v, stolen %v", idle, stolen)
	}
}

// fakeBench is a run with made-up figures.
func fakeBench() *bench {
	fill := func(r *row, name string, f figure, v ...float64) {
		r.cases = append(r.cases, testCase{name: name})
		for _, x := range v {
			s := newSample()
			s[f] = x
			r.got[name] = append(r.got[name], s)
		}
	}
	hit := &row{name: "hit1", title: "Hits", got: map[string]series{}}
	fill(hit, "redcon", fCPU, 10, 20, 10)
	fill(hit, "nearside", fCPU, 11, 22, 12)
	pass := &row{name: "pass1", title: "Passed", got: map[string]series{}, failed: map[string]error{"haproxy": errOverload}}
	fill(pass, "nutcracker", fCPU, 10, 10, 10)
	fill(pass, "haproxy", fCPU)
	fill(pass, "nearside", fCPU, 16, 16, 16)
	return &bench{rounds: 3, binaries: binaries{{name: "nearside"}}, rows: []*row{hit, pass}}
}

func TestVerdict(t *testing.T) {
	b := fakeBench()
	words := map[string]string{}
	for _, f := range judge(view{b, "nearside"}) {
		words[f.what] = f.word()
	}
	for what, want := range map[string]string{
		"hit, 1 deep: CPU per request / bare redcon":         "met",
		"pass-through, 1 deep: CPU per request / nutcracker": "**not met**",
		"pass-through, 1 deep: throughput / nutcracker":      "not measured",
		"bytes per entry beyond key and reply":               "not measured",
	} {
		if words[what] != want {
			t.Errorf("%s: %s, want %s", what, words[what], want)
		}
	}
	table := verdictTable(judge(view{b, "nearside"}))
	if !strings.Contains(table, "| hit, 1 deep: CPU per request / bare redcon | ≤ 1.15 | 1.10 | 1.10 to 1.20 | met |") {
		t.Error(table)
	}
}

func TestTargetsAreDistinct(t *testing.T) {
	seen := map[string]bool{}
	for _, x := range targets {
		if seen[x.what] || x.limit <= 0 {
			t.Errorf("%q, limit %v", x.what, x.limit)
		}
		seen[x.what] = true
	}
}

func TestFenceDelay(t *testing.T) {
	b := fakeBench()
	r := &row{name: "fences", got: map[string]series{}}
	for _, with := range []bool{false, true} {
		s := newSample()
		s[fP99], s[fRoundTrip] = 100, 50
		if with {
			s[fP99] = 125
		}
		r.got[fenceCase(with)] = series{s}
	}
	b.rows = append(b.rows, r)
	if got := fenceDelay(view{b, "nearside"}); !slices.Equal(got, []float64{0.5}) {
		t.Errorf("%v round trips", got)
	}
}

func TestReport(t *testing.T) {
	dir := t.TempDir()
	b := fakeBench()
	for _, name := range []string{"redcon", "nearside"} {
		res := &result{}
		for i := range res.Latency {
			res.Latency[i] = newHistogram()
			for v := range int64(1000) {
				_ = res.Latency[i].RecordValue(1000 * (v + 1))
			}
		}
		b.rows[0].keep(name, res)
	}
	if err := b.report(dir, "a machine", "programs", time.Minute, 0); err != nil {
		t.Fatal(err)
	}
	text := read(t, filepath.Join(dir, "README.md"))
	for _, want := range []string{"a machine", "`make bench`", "| nearside | 12.0 ±46% |", "haproxy: too much load.", "![Latency: hit1](latency-hit1.svg)", "![Processor time of the peer itself, 1 deep](cpu-1.svg)"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	if strings.Contains(text, "not quiet") {
		t.Error("a quiet machine is called loud")
	}
	for _, series := range b.rows[0].got {
		for i := range series {
			series[i][fOthers] = 50
		}
	}
	if err := b.report(dir, "a machine", "programs", time.Minute, 0); err != nil {
		t.Fatal(err)
	}
	if loud := read(t, filepath.Join(dir, "README.md")); !strings.Contains(loud, "not quiet") || !strings.Contains(loud, "took 50.0 %") {
		t.Error("a loud machine is called quiet")
	}
	if svg := read(t, filepath.Join(dir, "cpu-1.svg")); !strings.Contains(svg, "redcon") || !strings.Contains(svg, "</svg>") {
		t.Error("the picture names no redcon")
	}
	got, err := readRatios(filepath.Join(dir, ratiosFile))
	if err != nil || got.CPU["hit1 / redcon"] != 1.1 || got.CPU["pass1 / nutcracker"] != 1.6 || len(got.CPU) != 2 {
		t.Errorf("recorded %v, %v", got, err)
	}
}

func TestWorse(t *testing.T) {
	old := recorded{map[string]float64{"a": 1, "b": 1, "c": 1, "d": 1}}
	now := map[string]spread{"a": {Mid: 1.14}, "b": {Mid: 1.16}, "c": {Mid: 0.5}, "d": {Mid: math.NaN()}}
	if got := old.worse(now, 0.15); !slices.Equal(got, []string{"b", "d"}) {
		t.Errorf("worse: %v", got)
	}
}

func TestBinaries(t *testing.T) {
	self := filepath.Join(t.TempDir(), "x")
	write(t, self, "")
	var b binaries
	for _, s := range []string{self, "old=" + self, self} {
		if err := b.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	if b[0].name != "nearside" || b[1].name != "old" || b[2].name != "nearside-3" {
		t.Errorf("%v", b)
	}
	if b.Set("old="+self) == nil || b.Set(self+"-missing") == nil {
		t.Error("a doubled name or a missing file is accepted")
	}
}

func TestFlagsOfOthers(t *testing.T) {
	for _, bad := range []string{"", "x", "x=", "=a:1", "x=127.0.0.1:1,no", "x=127.0.0.1:1,0"} {
		if _, err := external(bad); err == nil {
			t.Errorf("-peer %q is accepted", bad)
		}
	}
	if _, err := pickQuick("hit1,nothing"); err == nil {
		t.Error("an unknown row is accepted")
	}
	if _, err := pickScenarios("hit,nothing"); err == nil {
		t.Error("an unknown scenario is accepted")
	}
	quick, err := pickScenarios("")
	if err != nil || len(quick) == 0 || len(quick) == len(scenarios) {
		t.Errorf("the default are %d scenarios, %v", len(quick), err)
	}
}

func TestCPUTime(t *testing.T) {
	before, err := cpuTime(ownPID)
	if err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for began := time.Now(); time.Since(began) < 20*time.Millisecond; {
		sum += uint64(len(bytes.Repeat([]byte{1}, 100)))
	}
	after, err := cpuTime(ownPID)
	if err != nil || after-before < time.Millisecond || sum == 0 {
		t.Errorf("20 ms of work are %v, %v", after-before, err)
	}
	if _, err := cpuTime(1 << 22); err == nil {
		t.Error("a process that cannot be there has used time")
	}
}

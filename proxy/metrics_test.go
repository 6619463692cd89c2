package proxy

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
)

// traffic sends something on every path, and returns the client.
func (n *nearside) traffic() *redistest.Client {
	n.t.Helper()
	c := n.dial()
	c.Do("SET", "product:1", "x")
	n.warm(c, "GET", "product:1")
	n.warm(c, "GET", "product:none")
	for _, args := range [][]string{
		{"HGETALL", "product:h"},
		{"MGET", "product:1", "other"},
		{"SET", "lock:1", "me", "NX"},
		{"PING"},
		{"SYNC"},
		{"NOSUCH", "x"},
		{"MULTI"},
		{"GET", "product:1"},
		{"EXEC"},
		{"BLPOP", "list", "0.01"},
		{"EVAL", "return 1", "0"},
		{"LPUSH", "list", "x"},
	} {
		c.Do(args...)
	}
	return c
}

// metrics is what Prometheus would read.
func (n *nearside) metrics() string {
	var b bytes.Buffer
	n.WriteMetrics(&b)
	return b.String()
}

// series is the value of one series, "" if there is none.
func (n *nearside) series(name string) string {
	_, rest, _ := strings.Cut("\n"+n.metrics(), "\n"+name+" ")
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

var update = flag.Bool("update", false, "write what is generated into metrics/METRICS.md")

const (
	metricsReference = "metrics/METRICS.md"
	metricsBegin     = "<!-- generated from proxy/families.go: go test ./proxy -run TestMetricsReference -update -->\n"
	metricsEnd       = "<!-- end of what is generated -->\n"
)

// The table in the reference is that of the families.
func TestMetricsReference(t *testing.T) {
	b, err := os.ReadFile(metricsReference)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), metricsBegin)
	_, after, closed := strings.Cut(rest, metricsEnd)
	if !ok || !closed {
		t.Fatal("the reference has no place for the table")
	}
	table := "| metric | type | what |\n| --- | --- | --- |\n"
	for _, f := range families {
		if strings.HasPrefix(f.name, "nearside_") {
			table += "| `" + f.name + "` | " + f.kind + " | " + strings.TrimSuffix(f.help, ".") + " |\n"
		}
	}
	want := before + metricsBegin + "\n" + table + "\n" + metricsEnd + after
	if *update {
		if err := os.WriteFile(metricsReference, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(b) != want {
		t.Error("the reference is not what families.go says; run go test ./proxy -run TestMetricsReference -update")
	}
}

// Every family says what it is, has its line in the reference and follows
// Prometheus's rules; the reference names no other.
func TestMetrics(t *testing.T) {
	n := start(t, redistest.Start(t), func(c *Config) {
		c.Version = `v1 "x"`
		c.Rules = append(c.Rules, policy.Rule{Kind: policy.CacheRule, Prefix: "odd\"\\\n\xff\x00é:", TTL: time.Hour, MaxReply: 1 << 20})
	})
	n.traffic()
	var text string
	n.eventually("the hits' times are counted", func() bool {
		text = n.metrics()
		return strings.Contains(text, `nearside_command_duration_seconds_count{family="string",path="hit"}`)
	})

	reference, err := os.ReadFile(metricsReference)
	if err != nil {
		t.Fatal(err)
	}
	documented, seen := map[string]bool{}, map[string]bool{}
	for _, name := range regexp.MustCompile("`nearside_[a-z_]+`").FindAllString(string(reference), -1) {
		documented[strings.Trim(name, "`")] = true
	}
	for _, prefix := range []string{"process_", "go_"} {
		if !strings.Contains(string(reference), "`"+prefix+"…`") {
			t.Errorf("the reference does not tell of %s…", prefix)
		}
	}
	var family string
	var order []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			family = f[2]
			order = append(order, family)
			if len(f) < 4 {
				t.Errorf("%s has no help", family)
			}
			if familyByName[family] == nil {
				t.Errorf("%s is not in the table of families", family)
			}
			seen[family] = true
			if strings.HasPrefix(family, "nearside_") && !documented[family] {
				t.Errorf("%s is not in the reference", family)
			}
		case strings.HasPrefix(line, "# TYPE "):
			if f[2] != family {
				t.Errorf("%s stands under %s", line, family)
			}
		case !strings.HasPrefix(line, family):
			t.Errorf("%s stands under %s", line, family)
		}
	}
	if !slices.IsSorted(order) || len(slices.Compact(slices.Clone(order))) != len(order) {
		t.Errorf("not in order, or doubled: %v", order)
	}
	for name := range documented {
		if !seen[name] {
			t.Errorf("the reference names %s, which does not exist", name)
		}
	}
	for _, f := range families {
		if strings.HasPrefix(f.name, "nearside_") && !seen[f.name] {
			t.Errorf("%s is in the table, but there is no such metric", f.name)
		}
	}
	for _, series := range []string{
		`nearside_link_reconnects_total counter`, `nearside_cache_hits_total counter`, `nearside_clients gauge`, `nearside_command_duration_seconds histogram`,
	} {
		if !strings.Contains(text, "# TYPE "+series+"\n") {
			t.Errorf("no TYPE %s", series)
		}
	}
	if !strings.Contains(text, `{prefix="odd\"\\\n\\xff\\0é:"}`) {
		t.Error("an odd prefix is not quoted as Prometheus wants it")
	}
	promtool(t, text)
}

// promtool reads metrics as Prometheus would, and has an eye on its rules.
func promtool(t *testing.T, text string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("NEARSIDE_CHECKERS") == "required" {
			t.Fatal(err)
		}
		t.Skip("promtool is not installed; make packages installs it")
	}
	cmd := exec.CommandContext(t.Context(), path, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// The library's own words about its metrics must not come twice, nor must what a
// newer version of it has be without any.
func TestWriteFamilies(t *testing.T) {
	var b strings.Builder
	writeFamilies(&b, "# HELP go_threads\n# TYPE go_threads gauge\ngo_threads 1\nz_total{a=\"b c\"} 2\ngo_gc_forced_count 3\n\na 4\nz_total{a=\"c\"} 5\n")
	const want = "# HELP a As the metrics library has it.\n# TYPE a gauge\na 4\n" +
		"# HELP go_gc_forced_total Garbage collections that the program asked for.\n# TYPE go_gc_forced_total counter\ngo_gc_forced_total 3\n" +
		"# HELP go_threads Threads of the operating system that Go has made.\n# TYPE go_threads gauge\ngo_threads 1\n" +
		"# HELP z_total As the metrics library has it.\n# TYPE z_total counter\nz_total{a=\"b c\"} 2\nz_total{a=\"c\"} 5\n"
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What a rule did and holds.
func TestRuleMetrics(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.traffic()
	held := func() (entries, size int64) {
		for _, r := range n.rules().All() {
			if r.Prefix == "product:" {
				return n.l1.Held(r.ID)
			}
		}
		return 0, 0
	}
	n.settleCache()
	entries, size := held()
	if got := n.series(`nearside_cache_entries{prefix="product:"}`); got != fmt.Sprint(entries) || entries < 2 {
		t.Errorf("entries %s, held are %d", got, entries)
	}
	if got := n.series(`nearside_cache_bytes{prefix="product:"}`); got != fmt.Sprint(size) || size < 100 {
		t.Errorf("bytes %s, held are %d", got, size)
	}
	if got := n.series(`nearside_cache_entries{prefix="stats:"}`); got != "0" {
		t.Errorf("of another rule %s are held", got)
	}
	n.eventually("the negative hits are counted", func() bool { return n.series(`nearside_cache_negative_hits_total{prefix="product:"}`) == "1" })
	want(t, c, "OK", "WATCH", "product:1")
	want(t, c, "x", "GET", "product:1")
	if got := n.series(`nearside_cache_bypassed_total{prefix="product:",reason="pinned"}`); got != "1" {
		t.Errorf("%s reads were passed by for the WATCH", got)
	}
	if got := n.series("nearside_max_staleness_seconds"); got != "1" {
		t.Errorf("max_staleness is %s", got)
	}
	if !strings.Contains(n.metrics(), `nearside_build_info{version="unknown",goversion="go1.`) {
		t.Error("it does not say what it is")
	}
}

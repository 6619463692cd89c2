package proxy

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"nearside/proxy/admin"
	"nearside/proxy/internal/redistest"
)

// logBuffer takes a log that several goroutines write.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// reports are the reports logged since the last call.
func (l *logBuffer) reports(t *testing.T) (all []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		if got["msg"] == "cache report" {
			all = append(all, got)
		}
	}
	l.b.Reset()
	return all
}

func TestReports(t *testing.T) {
	var log logBuffer
	n := start(t, redistest.Start(t), func(c *Config) { c.Log = slog.New(slog.NewJSONHandler(&log, nil)) })
	at := time.Now()
	var r reporter // one that nobody else advances
	r.init(n.Proxy, at)
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "v")
	n.warm(c, "GET", "product:1")
	product := n.cacheMeters()[0]
	n.eventually("the hit is counted", func() bool { return product.hits.Get() == 1 })
	misses := product.misses.Get()

	r.advance(at.Add(5*time.Minute - 1))
	if got := log.reports(t); got != nil {
		t.Errorf("too early: %v", got)
	}
	r.advance(at.Add(5 * time.Minute))
	rate := float64(int64(admin.HitRate(1, misses)*100+0.5)) / 100
	counts := map[string]any{"hit_rate": rate, "hits": 1.0, "misses": float64(misses), "sets": 1.0, "dels": 0.0}
	report := map[string]any{"prefix": "product:", "interval": 3e11, "since_start": counts}
	for name, v := range counts {
		report[name] = v
	}
	got := log.reports(t)
	if len(got) != 1 {
		t.Fatalf("reports: %v", got)
	}
	for _, name := range []string{"time", "level", "msg"} {
		delete(got[0], name)
	}
	if !reflect.DeepEqual(got[0], report) {
		t.Errorf("report %v, want %v", got[0], report)
	}

	r.advance(at.Add(10 * time.Minute)) // nothing has happened
	if got := log.reports(t); got != nil {
		t.Errorf("without traffic: %v", got)
	}
	want(t, c, "1", "DEL", "product:1")
	r.advance(at.Add(15 * time.Minute))
	got = log.reports(t)
	if len(got) != 1 || got[0]["dels"] != 1.0 || got[0]["hits"] != 0.0 || got[0]["since_start"].(map[string]any)["hits"] != 1.0 {
		t.Errorf("the third interval: %v", got)
	}

	r.interval = -1
	want(t, c, "0", "DEL", "product:1")
	r.advance(at.Add(time.Hour))
	if got := log.reports(t); got != nil {
		t.Errorf("switched off: %v", got)
	}
}

func TestWindows(t *testing.T) {
	n := start(t, redistest.Start(t), nil)
	hits := n.cacheMeters()[0].hits
	var r reporter
	clock := time.Date(2026, 3, 1, 10, 20, 0, 0, time.FixedZone("", 5*3600+1800)) // 04:50 UTC
	r.init(n.Proxy, clock)
	hour := func(h, m int) time.Time { return time.Date(2026, 3, 1, h, m, 0, 0, time.UTC) }
	shows := func(current, last admin.Window) {
		t.Helper()
		m := r.metrics(clock)["product"]
		if m.Hits != hits.Get() || *m.CurrentHour != current || m.LastHour == nil != last.Since.IsZero() || m.LastHour != nil && *m.LastHour != last {
			t.Errorf("at %v: %+v, current %+v, last %+v", clock, m.Counts, m.CurrentHour, m.LastHour)
		}
	}
	ofHits := func(n uint64) admin.Counts { return admin.NewCounts(n, 0, 0, 0) }
	r.interval = -1 // no reports
	hits.Add(3)
	shows(admin.Window{Since: hour(4, 50), Until: hour(5, 0), Counts: ofHits(3)}, admin.Window{})
	if due := r.due(clock); !due.Equal(clock.Add(time.Minute)) {
		t.Errorf("due at %v", due)
	}
	clock = clock.Add(9*time.Minute + 30*time.Second)
	if due := r.due(clock); !due.Equal(hour(5, 0)) {
		t.Errorf("due at %v, not with the hour", due)
	}
	hits.Add(2)
	clock = hour(5, 0)
	r.advance(clock)
	hits.Add(1)
	clock = hour(5, 59)
	shows(admin.Window{Since: hour(5, 0), Until: hour(6, 0), Counts: ofHits(1)}, admin.Window{Since: hour(4, 50), Until: hour(5, 0), Counts: ofHits(5)})
	clock = hour(6, 0) // whoever asks first begins the window
	shows(admin.Window{Since: hour(6, 0), Until: hour(7, 0)}, admin.Window{Since: hour(5, 0), Until: hour(6, 0), Counts: ofHits(1)})
	clock = hour(5, 30) // the clock is set back
	hits.Add(1)
	shows(admin.Window{Since: hour(6, 0), Until: hour(7, 0), Counts: ofHits(1)}, admin.Window{Since: hour(5, 0), Until: hour(6, 0), Counts: ofHits(1)})
	clock = hour(9, 10) // nobody has looked for hours
	shows(admin.Window{Since: hour(9, 0), Until: hour(10, 0)}, admin.Window{Since: hour(6, 0), Until: hour(9, 0), Counts: ofHits(1)})
}

// A rule that has been gone for a while has its counts back, and what it had counted
// before is not counted again.
func TestReportsOfRuleThatComesBack(t *testing.T) {
	var log logBuffer
	n := start(t, redistest.Start(t), func(c *Config) { c.Log = slog.New(slog.NewJSONHandler(&log, nil)) })
	hour := func(h, m int) time.Time { return time.Date(2026, 3, 1, h, m, 0, 0, time.UTC) }
	var r reporter
	r.init(n.Proxy, hour(5, 30))
	rule := *n.rules().Match([]byte("product:1"))
	n.m.rule(rule.ID).hits.Add(1000)
	r.advance(hour(6, 0))
	n.mustReload(withoutRule("product:"))
	n.m.rule(rule.ID).hits.Add(10) // read before the reload, counted after it
	r.advance(hour(7, 0))
	if _, ok := r.metrics(hour(7, 1))["product"]; ok {
		t.Error("a rule that is gone is shown")
	}
	n.mustReload(withRule(rule))
	n.m.rule(rule.ID).hits.Add(1)
	m := r.metrics(hour(7, 2))["product"]
	if m.Hits != 1011 || m.CurrentHour.Hits != 1 || m.LastHour.Hits != 10 {
		t.Errorf("%d hits, %d in this hour, %d in the last", m.Hits, m.CurrentHour.Hits, m.LastHour.Hits)
	}
	log.reports(t)
	r.advance(hour(7, 5))
	if got := log.reports(t); len(got) != 1 || got[0]["hits"] != 1.0 {
		t.Errorf("reported: %v", got)
	}
}

// Rules whose prefixes differ in the last colon only are told apart.
func TestMetricsOfRulesThatLookAlike(t *testing.T) {
	prefixes := []string{"", "*", "a", "a:", "a::", "b:"}
	n := launch(t, redistest.Start(t).URL(), func(c *Config) {
		c.Rules = nil
		for _, prefix := range prefixes {
			c.Rules = append(c.Rules, cacheRule(prefix, time.Hour))
		}
	})
	for i, m := range n.cacheMeters() {
		m.hits.Add(i + 1)
	}
	got := n.CacheMetrics()
	for i, name := range []string{"", "*", "a", "a:", "a::", "b"} {
		if got[name].Hits != uint64(i+1) {
			t.Errorf("%q has %d hits, want %d", name, got[name].Hits, i+1)
		}
	}
}

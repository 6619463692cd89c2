package proxy

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

// get asks an HTTP endpoint of a proxy.
func (n *nearside) get(path string) (status int, body string) {
	n.t.Helper()
	resp, err := http.Get("http://" + n.AdminAddr().String() + path)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestEndpoints(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.Admin = "127.0.0.1:0" })
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "x")
	n.warm(c, "GET", "product:1")
	want(t, c, "1", "DEL", "product:1")
	want(t, c, "(nil)", "GET", "product:1")
	n.eventually("the hits are counted", func() bool { return n.hits() > 0 })

	var report struct {
		Timestamp string
		Metrics   map[string]struct {
			Hits, Misses, Sets, Dels, TotalRequests, HitRate float64
			CurrentHour                                      *struct{ Hits float64 }
		}
	}
	if _, body := n.get("/cache/metrics"); json.Unmarshal([]byte(body), &report) != nil {
		t.Fatalf("/cache/metrics is %s", body)
	}
	product := report.Metrics["product"]
	if product.Hits < 1 || product.Misses < 2 || product.Sets != 1 || product.Dels != 1 ||
		product.TotalRequests != product.Hits+product.Misses || product.HitRate <= 0 || product.HitRate >= 100 {
		t.Errorf("product: %+v", product)
	}
	if product.CurrentHour == nil {
		t.Error("product has no current window")
	}
	for _, name := range []string{"products", "balance", "coupon", "stats"} {
		if _, ok := report.Metrics[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}

	for path, expected := range map[string]string{
		"/healthz": `"status":"`, "/readyz": `"up":true`, "/": "nearside",
		"/cache/health": `"status":"healthy","test":"passed"`,
		"/metrics":      `nearside_cache_hits_total{prefix="product:"}`,
	} {
		if status, body := n.get(path); status != 200 || !strings.Contains(body, expected) {
			t.Errorf("%s answered %d without %s: %s", path, status, expected, body)
		}
	}

	redis.Kill()
	n.eventually("the self test fails", func() bool {
		status, body := n.get("/cache/health")
		return status == 503 && strings.Contains(body, `"status":"unhealthy"`) && strings.Contains(body, `"error":"`)
	})
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, _ := n.get(path); status != 200 {
			t.Errorf("%s answers %d while Redis is down", path, status)
		}
	}
	n.eventually("the body reports it, and why, of Redis and of the link", func() bool {
		_, body := n.get("/readyz")
		return strings.Contains(body, `"up":false`) && strings.Count(body, "connection refused") == 2
	})
	if _, body := n.get("/cache/health"); !strings.Contains(body, "the link is down: origin unreachable") {
		t.Errorf("/cache/health does not say why the link is down: %s", body)
	}
	if got := n.dial().Do("NEARSIDE", "STATS"); !strings.Contains(got, "link_error:origin unreachable") {
		t.Errorf("STATS does not say why the link is down: %s", got)
	}
	redis.Restart()
	n.eventually("healthy again", func() bool { status, _ := n.get("/cache/health"); return status == 200 })
	if _, body := n.get("/readyz"); strings.Contains(body, "refused") {
		t.Errorf("/readyz speaks of what is over: %s", body)
	}
}

func TestNearsideCommand(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	has := func(parts []string, args ...string) {
		t.Helper()
		got := c.Do(args...)
		for _, part := range parts {
			if !strings.Contains(got, part) {
				t.Errorf("%v lacks %q: %s", args, part, got)
			}
		}
	}
	want(t, c, "OK", "SET", "product:1", "x", "EX", "100")
	has([]string{`rule:cache "product:"`, "redis_db:1", "fetched from Redis", "reason:absent"}, "NEARSIDE", "EXPLAIN", "product:1")
	n.warm(c, "GET", "product:1")
	has([]string{"answered from the near cache", "reason:hit", "staleness_bound_ms:", "expires_in_ms:"}, "NEARSIDE", "EXPLAIN", "product:1")
	has([]string{`rule:locks "lock:"`, "redis_db:0", "never cached"}, "nearside", "explain", "lock:1")
	has([]string{"rule:none"}, "NEARSIDE", "EXPLAIN", "other")
	has([]string{"rule:none", "looks_like:product:", "reason:no_rule"}, "NEARSIDE", "EXPLAIN", "keyv::keyv:product:1")
	has([]string{"# Nearside", "link_state:up", "link_source:tracking", "cache_rule:prefix=\"product:\"", "lock_rule:prefix=\"lock:\""}, "NEARSIDE", "STATS")
	has([]string{"EXPLAIN [<command>] <key> [<arg> ...]", "FLUSH [<pattern>]"}, "NEARSIDE", "HELP")
	has([]string{"# Server", "# Nearside", "redis_version:"}, "INFO")
	if got := c.Do("INFO", "nearside"); strings.Contains(got, "# Server") || !strings.Contains(got, "# Nearside") {
		t.Errorf("INFO nearside is %s", got)
	}
	if got := c.Do("INFO", "clients"); strings.Contains(got, "# Nearside") {
		t.Errorf("INFO clients is %s", got)
	}
	for _, flush := range [][]string{{"NEARSIDE", "FLUSH"}, {"NEARSIDE", "FLUSH", "*"}, {"NEARSIDE", "FLUSH", "product:1"}, {"NEARSIDE", "FLUSH", "prod*"}, {"NEARSIDE", "FLUSH", "product:1?*"}} {
		n.warm(c, "GET", "product:1")
		want(t, c, "OK", flush...)
		has([]string{"reason:overtaken"}, "NEARSIDE", "EXPLAIN", "product:1")
	}
	n.warm(c, "GET", "product:1")
	want(t, c, "OK", "NEARSIDE", "FLUSH", "stats:*")
	has([]string{"reason:hit"}, "NEARSIDE", "EXPLAIN", "product:1")
	want(t, c, "-ERR unknown subcommand 'NOSUCH'. Try NEARSIDE HELP.", "NEARSIDE", "NOSUCH")
	want(t, c, "-ERR wrong number of arguments for 'nearside' command", "NEARSIDE")
	want(t, c, "-ERR wrong number of arguments for 'nearside|explain' command", "NEARSIDE", "EXPLAIN")
}

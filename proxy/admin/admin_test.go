package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Source that says what it is told to.
type fake struct {
	rules  map[string]RuleMetrics
	health Health
	status Status
	hold   chan struct{} // if set, Health waits for it
	asked  chan struct{} // if set, closed when Health is asked

	reloads int
	changes []string
	refusal error
}

func (f *fake) WriteMetrics(w io.Writer)             { fmt.Fprint(w, "nearside_up 1\n") }
func (f *fake) CacheMetrics() map[string]RuleMetrics { return f.rules }
func (f *fake) Status() Status                       { return f.status }

func (f *fake) Reload() ([]string, error) { f.reloads++; return f.changes, f.refusal }

func (f *fake) Health(context.Context) Health {
	if f.hold != nil {
		close(f.asked)
		<-f.hold
	}
	return f.health
}

var quiet = slog.New(slog.DiscardHandler)

const secret = "a-token-of-the-tests"

// server is New without an error.
func server(t *testing.T, cfg Config, src Source) *Server {
	t.Helper()
	cfg.Log = quiet
	s, err := New(cfg, src)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// plain is a server that asks for no token.
func plain(t *testing.T, addr string, src Source) *Server {
	t.Helper()
	return server(t, Config{Addr: addr}, src)
}

func ask(t *testing.T, s *Server, method, path, host string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody)
	r.Host = host
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, r)
	return w
}

// undated decodes a JSON body and checks and removes its timestamp.
func undated(t *testing.T, body []byte) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if ts, ok := m["timestamp"].(string); ok {
		at, err := time.Parse(time.RFC3339, ts)
		if err != nil || time.Since(at) > time.Minute {
			t.Errorf("timestamp %q: %v", ts, err)
		}
		delete(m, "timestamp")
	}
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestRoutes(t *testing.T) {
	up := Status{
		Ready:  true,
		Origin: Origin{Up: true, Address: "127.0.0.1:6379"},
		Link:   Link{Source: "tracking", Up: true, Staleness: 12345 * time.Microsecond, Bound: time.Second},
	}
	down := Status{
		Ready:  true,
		Origin: Origin{Address: "127.0.0.1:6379", Error: "connection refused"},
		Link:   Link{Source: "tracking", Staleness: time.Hour, Bound: time.Second},
	}
	upJSON := `"link":{"boundMs":1000,"source":"tracking","stalenessMs":12.345,"up":true},"origin":{"address":"127.0.0.1:6379","up":true}`
	downJSON := `"link":{"boundMs":1000,"source":"tracking","stalenessMs":null,"up":false},"origin":{"address":"127.0.0.1:6379","error":"connection refused","up":false}`

	tests := []struct {
		name, path string
		src        fake
		code       int
		body       string // JSON with its keys sorted and without timestamp, or the text
	}{
		{"metrics", "/metrics", fake{}, 200, "nearside_up 1\n"},
		{"no rules", "/cache/metrics", fake{}, 200, `{"metrics":{}}`},
		{
			"rules", "/cache/metrics",
			fake{rules: map[string]RuleMetrics{"product": {Counts: NewCounts(3, 1, 1, 0)}}},
			200, `{"metrics":{"product":{"dels":0,"hitRate":75,"hits":3,"misses":1,"sets":1,"totalRequests":4}}}`,
		},
		{"healthy", "/cache/health", fake{}, 200, `{"status":"healthy","test":"passed"}`},
		{
			"notes", "/cache/health",
			fake{health: Health{Notes: []string{"SWAPDB is not seen"}, Link: &Link{Source: "keyspace", State: "down", Bound: time.Second}}},
			200, `{"link":{"boundMs":1000,"source":"keyspace","stalenessMs":null,"state":"down","up":false},"notes":["SWAPDB is not seen"],"status":"healthy","test":"passed"}`,
		},
		{
			"unhealthy", "/cache/health",
			fake{health: Health{Error: "get: not what was set"}},
			503, `{"error":"get: not what was set","status":"unhealthy","test":"failed"}`,
		},
		{"alive", "/healthz", fake{status: up}, 200, `{` + upJSON + `,"status":"alive"}`},
		{"alive without Redis", "/healthz", fake{status: down}, 200, `{` + downJSON + `,"status":"alive"}`},
		{"ready", "/readyz", fake{status: up}, 200, `{` + upJSON + `,"status":"ready"}`},
		{"ready without Redis", "/readyz", fake{status: down}, 200, `{` + downJSON + `,"status":"ready"}`},
		{
			"not ready", "/readyz",
			fake{status: Status{Link: Link{Source: "none"}}},
			503, `{"link":{"boundMs":null,"source":"none","stalenessMs":null,"up":false},"origin":{"address":"","up":false},"status":"not ready"}`,
		},
		{
			"draining", "/readyz",
			fake{status: Status{Ready: true, Draining: true, Link: Link{Source: "none"}}},
			503, `{"link":{"boundMs":null,"source":"none","stalenessMs":null,"up":false},"origin":{"address":"","up":false},"status":"draining"}`,
		},
		{"unknown", "/nothing", fake{}, 404, "404 page not found\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := ask(t, plain(t, "127.0.0.1:9380", &tt.src), http.MethodGet, tt.path, "127.0.0.1:9380")
			body := w.Body.String()
			if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
				body = undated(t, w.Body.Bytes())
			}
			if w.Code != tt.code || body != tt.body {
				t.Errorf("got %d %s\nwant %d %s", w.Code, body, tt.code, tt.body)
			}
			if w.Header().Get("Cache-Control") != "no-store" {
				t.Error("the answer may be cached")
			}
		})
	}
}

func TestIndexListsEveryPath(t *testing.T) {
	s := plain(t, "127.0.0.1:9380", &fake{status: Status{Ready: true}})
	w := ask(t, s, http.MethodGet, "/", "localhost")
	if ct := w.Header().Get("Content-Type"); w.Code != 200 || ct != "text/html; charset=utf-8" {
		t.Fatalf("%d %s", w.Code, ct)
	}
	for _, path := range []string{"/metrics", "/cache/metrics", "/cache/health", "/healthz", "/readyz"} {
		if !strings.Contains(w.Body.String(), `href="`+path+`"`) {
			t.Errorf("no link to %s", path)
		}
		if got := ask(t, s, http.MethodGet, path, "localhost").Code; got != 200 {
			t.Errorf("%s answers %d", path, got)
		}
	}
}

func TestWrongMethod(t *testing.T) {
	s := plain(t, "127.0.0.1:9380", &fake{})
	for _, path := range []string{"/", "/metrics", "/cache/metrics", "/cache/health", "/healthz", "/readyz"} {
		w := ask(t, s, http.MethodPost, path, "localhost")
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("POST %s: %d, Allow %q", path, w.Code, w.Header().Get("Allow"))
		}
	}
}

func TestHost(t *testing.T) {
	tests := []struct {
		listen string
		remote bool
		host   string
		fine   bool
	}{
		{"127.0.0.1:9380", false, "127.0.0.1:9380", true},
		{"127.0.0.1:9380", false, "localhost:9380", true},
		{"127.0.0.1:9380", false, "LOCALHOST.", true},
		{"127.0.0.1:9380", false, "[::1]:9380", true},
		{"127.0.0.1:9380", false, "[::1]", true},
		{"127.0.0.1:9380", false, "10.1.2.3", true},
		{"127.0.0.1:9380", false, "", true},
		{"127.0.0.1:9380", false, "evil.example:9380", false},
		{"127.0.0.1:9380", false, "localhost.evil.example", false},
		{"127.0.0.1:9380", false, "127.0.0.1.evil.example", false},
		{"cache.internal:9380", true, "cache.internal:9380", true},
		{"cache.internal:9380", true, "evil.example", false},
		{"10.1.2.3:9380", true, "evil.example", false},
		{"0.0.0.0:9380", true, "nearside.default.svc:9380", true},
		{":9380", true, "nearside:9380", true},
	}
	for _, tt := range tests {
		token := ""
		if tt.remote {
			token = secret
		}
		w := ask(t, server(t, Config{Addr: tt.listen, Token: token}, &fake{}), http.MethodGet, "/healthz", tt.host)
		if fine := w.Code == 200; fine != tt.fine || !fine && w.Code != http.StatusForbidden {
			t.Errorf("listening on %s, Host %q: %d", tt.listen, tt.host, w.Code)
		}
	}
}

func TestListenRefusesOtherMachines(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0", "example.com:0", "10.0.0.1:0"} {
		err := plain(t, addr, &fake{}).Listen()
		want := "admin address " + addr + " can be reached from other machines: that needs an admin token"
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if err := plain(t, "nonsense", &fake{}).Listen(); err == nil {
		t.Error("nonsense is no address")
	}
	s := server(t, Config{Addr: "0.0.0.0:0", Token: secret}, &fake{})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// start runs a server; the returned function ends it and waits.
func start(t *testing.T, src Source) (s *Server, stop func() error) {
	t.Helper()
	s = plain(t, "127.0.0.1:0", src)
	if s.Addr() != nil {
		t.Error("an address before Listen")
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	return s, stop
}

func get(t *testing.T, url string) (code int, body string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestServe(t *testing.T) {
	s, stop := start(t, &fake{})
	if code, body := get(t, "http://"+s.Addr().String()+"/metrics"); code != 200 || body != "nearside_up 1\n" {
		t.Errorf("%d %q", code, body)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Addr().String())
	if err == nil {
		c.Close()
		t.Error("it listens on after its end")
	}
}

// The end: a self test is under way when the context is cancelled. It is
// answered, and only then Serve returns.
func TestServeLetsRequestsEnd(t *testing.T) {
	src := &fake{hold: make(chan struct{}), asked: make(chan struct{})}
	s, stop := start(t, src)
	answered := make(chan int, 1)
	go func() {
		code, _ := get(t, "http://"+s.Addr().String()+"/cache/health")
		answered <- code
	}()
	<-src.asked
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	select {
	case err := <-ended:
		t.Fatalf("Serve returned (%v) while a request was under way", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(src.hold)
	if code := <-answered; code != 200 {
		t.Errorf("answered %d", code)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestServeBeforeListen(t *testing.T) {
	if err := plain(t, "127.0.0.1:0", &fake{}).Serve(t.Context()); err == nil {
		t.Error("no error")
	}
}

func TestRuleName(t *testing.T) {
	for prefix, want := range map[string]string{
		"": "*", "product:": "product", "a:b:": "a:b", "product": "product", ":": ":", "a::": "a:",
	} {
		if got := RuleName(prefix); got != want {
			t.Errorf("%q: got %q, want %q", prefix, got, want)
		}
	}
}

func TestRuleNames(t *testing.T) {
	for _, names := range [][2]string{
		{"product: lock:", "product lock"}, {"a a:", "a a:"}, {"a: a", "a: a"}, {"a: a::", "a a::"}, {"a a: a:: b:", "a a: a:: b"}, {": ::", ": ::"},
	} {
		if got := strings.Join(RuleNames(strings.Fields(names[0])), " "); got != names[1] {
			t.Errorf("%s: got %s, want %s", names[0], got, names[1])
		}
	}
	if got := RuleNames([]string{"", "*", "a:"}); !slices.Equal(got, []string{"", "*", "a"}) {
		t.Errorf("got %q", got)
	}
}

func TestHitRate(t *testing.T) {
	for _, tt := range []struct {
		hits, misses uint64
		want         float64
	}{{0, 0, 0}, {0, 5, 0}, {1, 3, 25}, {7, 0, 100}} {
		if got := HitRate(tt.hits, tt.misses); got != tt.want {
			t.Errorf("%d, %d: %v", tt.hits, tt.misses, got)
		}
	}
}

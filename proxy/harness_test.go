package proxy

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
	"nearside/proxy/link"
)

// sampleRules are the rules of the sample configuration.
func sampleRules() []policy.Rule {
	var rules []policy.Rule
	for _, p := range []string{"lock:", "recharge:balance:", "use:balance:", "pay:order:"} {
		rules = append(rules, policy.Rule{Kind: policy.LockRule, Prefix: p})
	}
	for _, p := range []string{"product:", "products:", "balance:", "coupon:", "stats:"} {
		rules = append(rules, policy.Rule{Kind: policy.CacheRule, Prefix: p, TTL: time.Hour, MaxReply: 1 << 20, Negative: true})
	}
	return rules
}

// nearside is a proxy under test.
type nearside struct {
	*Proxy
	t    testing.TB
	addr string
	stop func()
}

// start runs a proxy in front of a Redis until the test ends, and waits until it may answer hits.
func start(t testing.TB, redis *redistest.Server, change func(*Config)) *nearside {
	t.Helper()
	n := launch(t, redis.URL(), change)
	n.awaitLink()
	return n
}

// launch is start without waiting for the link.
func launch(t testing.TB, url string, change func(*Config)) *nearside {
	t.Helper()
	cfg := Config{
		Listen: []string{"127.0.0.1:0"}, Redis: url, Rules: sampleRules(), CacheDB: 1,
		Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if change != nil {
		change(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	select {
	case <-p.Ready():
	case err := <-done:
		cancel()
		t.Fatalf("Run: %v", err)
	}
	n := &nearside{Proxy: p, t: t, addr: p.Addrs()[0].String()}
	stopped := false
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Run does not end")
		}
	}
	t.Cleanup(n.stop)
	return n
}

// testWriter sends the log of a proxy to the test's own. What comes after the
// test's end is dropped, since testing panics on it.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// awaitLink waits until hits are allowed.
func (n *nearside) awaitLink() {
	n.t.Helper()
	n.eventually("the link is up", func() bool { return n.link.Verdict(clockNow()) == link.OK })
}

// eventually waits for a state that no event announces.
func (n *nearside) eventually(what string, ok func() bool) {
	n.t.Helper()
	deadline := time.Now().Add(redistest.Timeout)
	for !ok() {
		if time.Now().After(deadline) {
			n.t.Fatalf("never came true: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// dial connects a client.
func (n *nearside) dial() *redistest.Client {
	n.t.Helper()
	c := redistest.Dial(n.t, n.addr)
	n.t.Cleanup(c.Close)
	return c
}

// warm reads a key until it is a hit.
func (n *nearside) warm(c *redistest.Client, args ...string) string {
	n.t.Helper()
	var got string
	n.eventually("a hit of "+strings.Join(args, " "), func() bool {
		before := n.hits()
		got = c.Do(args...)
		n.settleCache()
		return n.hits() > before
	})
	return got
}

// hits is the sum over all rules.
func (n *nearside) hits() (sum uint64) {
	for _, r := range n.cacheMeters() {
		sum += r.hits.Get()
	}
	return sum
}

// bypassed is the sum over all rules.
func (n *nearside) bypassed(reason bypassReason) (sum uint64) {
	if reason >= bypassNoRule {
		return n.m.bypassed[reason].Get()
	}
	for _, r := range n.cacheMeters() {
		sum += r.bypassed[reason].Get()
	}
	return sum
}

// coalesced is the sum over all rules.
func (n *nearside) coalesced() (sum uint64) {
	for _, r := range n.cacheMeters() {
		sum += r.coalesced.Get()
	}
	return sum
}

// want fails the test unless a command has the expected reply.
func want(t testing.TB, c *redistest.Client, expected string, args ...string) {
	t.Helper()
	if got := c.Do(args...); got != expected {
		t.Fatalf("%s answered %q, want %q", strings.Join(args, " "), got, expected)
	}
}

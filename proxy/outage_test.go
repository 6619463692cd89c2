package proxy

import (
	"strings"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
	"nearside/proxy/link"
)

func lenientRules(stale time.Duration) func(*Config) {
	return func(c *Config) {
		c.Rules = []policy.Rule{
			{Kind: policy.CacheRule, Prefix: "lenient:", TTL: time.Hour, MaxReply: 1 << 20, Negative: true, StaleIfError: stale},
			{Kind: policy.CacheRule, Prefix: "strict:", TTL: time.Hour, MaxReply: 1 << 20, Negative: true},
		}
	}
}

func (n *nearside) staleServed() uint64 { return n.cacheMeters()[0].stale.Get() }

func answeredError(reply string) bool {
	return strings.HasPrefix(reply, "ERR") || strings.HasPrefix(reply, "(error)") || strings.HasPrefix(reply, "-")
}

// Redis is gone: rules with stale_if_error answer what they hold, others say so.
func TestStaleIfError(t *testing.T) {
	redis, relay, n := heldBack(t, lenientRules(time.Minute))
	c, writer := n.dial(), n.dial()
	for _, key := range []string{"lenient:1", "lenient:2", "lenient:written", "strict:1"} {
		want(t, c, "OK", "SET", key, "old")
		n.warm(c, "GET", key)
	}
	n.warm(c, "MGET", "lenient:1", "lenient:2") // Redis has said that it may be answered
	held := relay.HoldRequest("lenient:written")
	writer.Send("SET", "lenient:written", "new")
	<-held.Arrived
	redis.Kill()
	held.Release()
	if got := writer.Read(); !answeredError(got) {
		t.Errorf("SET answered %s", got)
	}
	n.eventually("the link is down", func() bool { return n.link.Verdict(clockNow()) == link.Down })

	want(t, c, "old", "GET", "lenient:1")
	if got := c.Do("MGET", "lenient:1", "lenient:2"); strings.Count(got, "old") != 2 {
		t.Errorf("MGET answered %s", got)
	}
	if got := n.staleServed(); got != 3 {
		t.Errorf("%d entries counted as served stale, not 3", got)
	}
	for _, cmd := range [][]string{{"GET", "strict:1"}, {"GET", "lenient:unknown"}, {"MGET", "lenient:1", "strict:1"}, {"GET", "elsewhere"}} {
		if got := c.Do(cmd...); !answeredError(got) {
			t.Errorf("%v answered %s", cmd, got)
		}
	}
	// A write of unknown outcome: what was before it may be wrong for its writer.
	if got := c.Do("GET", "lenient:written"); !answeredError(got) {
		t.Errorf("after a write of unknown outcome GET answered %s", got)
	}
	want(t, c, "old", "GET", "lenient:1")
	if got := c.Do("NEARSIDE", "EXPLAIN", "lenient:1"); !strings.Contains(got, "stale_if_error:1m0s") {
		t.Errorf("EXPLAIN: %s", got)
	}

	// Back, with other data: the old value is never seen again.
	redis.Restart()
	redis.DoDB(1, "SET", "lenient:1", "new")
	n.eventually("Redis is asked again", func() bool { return c.Do("GET", "lenient:1") == "new" })
	n.awaitLink()
	for range 100 {
		want(t, c, "new", "GET", "lenient:1")
	}
}

// Past stale_if_error nothing is served, and nothing past its own end ever.
func TestStaleIfErrorEnds(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, lenientRules(1500*time.Millisecond))
	c := n.dial()
	want(t, c, "OK", "SET", "lenient:1", "old")
	set := time.Now()
	want(t, c, "OK", "SET", "lenient:brief", "old", "PX", "400")
	n.warm(c, "GET", "lenient:1")
	n.warm(c, "GET", "lenient:brief")
	redis.Kill()
	n.eventually("the link is down", func() bool { return n.link.Verdict(clockNow()) == link.Down })
	proven, _ := n.link.Proven()
	ended := false
	for {
		before := clockNow()
		got := c.Do("GET", "lenient:1")
		if got == "old" && before-proven > int64(1500*time.Millisecond) {
			t.Fatal("served past stale_if_error")
		}
		asked := time.Now()
		if c.Do("GET", "lenient:brief") == "old" && asked.Sub(set) > 420*time.Millisecond {
			t.Fatal("served past its TTL")
		}
		if answeredError(got) {
			ended = true
			break
		}
	}
	if !ended || n.staleServed() == 0 {
		t.Error("nothing was served stale at all")
	}
}

// A busy Redis cannot answer either.
func TestStaleIfBusy(t *testing.T) {
	redis := redistest.Start(t, "--busy-reply-threshold", "50")
	n := start(t, redis, func(c *Config) {
		lenientRules(time.Minute)(c)
		c.MaxStaleness = 200 * time.Millisecond
		c.Ping = 20 * time.Millisecond
	})
	c := n.dial()
	for _, key := range []string{"lenient:1", "strict:1"} {
		want(t, c, "OK", "SET", key, "old")
		n.warm(c, "GET", key)
	}
	script := redistest.Dial(t, redis.Addr)
	defer script.Close()
	script.Send("EVAL", "while true do end", "0")
	n.eventually("freshness cannot be proven", func() bool { return n.link.Verdict(clockNow()) != link.OK })
	n.eventually("the stale value is served", func() bool { return c.Do("GET", "lenient:1") == "old" })
	if got := c.Do("GET", "strict:1"); !strings.Contains(got, "BUSY") {
		t.Errorf("the strict rule answered %s", got)
	}
	want(t, redistest.Dial(t, redis.Addr), "OK", "SCRIPT", "KILL")
	n.awaitLink()
	want(t, c, "old", "GET", "strict:1")
}

// A Redis that is frozen costs one reader a timeout now and then, not each of them.
func TestStaleFromFrozenRedis(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) {
		lenientRules(time.Minute)(c)
		c.OriginTimeout = 500 * time.Millisecond
		c.MaxStaleness = 200 * time.Millisecond
		c.Ping = 20 * time.Millisecond
	})
	c := n.dial()
	want(t, c, "OK", "SET", "lenient:1", "old")
	n.warm(c, "GET", "lenient:1")
	redis.Stop()
	defer redis.Continue()
	n.eventually("freshness cannot be proven", func() bool { return n.link.Verdict(clockNow()) != link.OK })
	want(t, c, "old", "GET", "lenient:1") // after a timeout
	missed := n.cacheMeters()[0].misses.Get()
	const reads = 50
	for range reads {
		want(t, c, "old", "GET", "lenient:1")
	}
	if got := n.cacheMeters()[0].misses.Get() - missed; got > reads/2 {
		t.Errorf("%d of %d reads went to the frozen Redis", got, reads)
	}
	redis.Continue()
	n.awaitLink()
	redis.DoDB(1, "SET", "lenient:1", "new")
	n.eventually("the new value is seen", func() bool { return c.Do("GET", "lenient:1") == "new" })
}

package proxy

import (
	"strings"
	"testing"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
)

// fencedRules are two rules that differ in their consistency only.
func fencedRules(c *Config) {
	c.Rules = []policy.Rule{
		{Kind: policy.CacheRule, Prefix: "fenced:", TTL: 1e12, MaxReply: 1 << 20, Negative: true, Fenced: true},
		{Kind: policy.CacheRule, Prefix: "bounded:", TTL: 1e12, MaxReply: 1 << 20, Negative: true},
	}
}

// A write acknowledged elsewhere is seen by every fenced read that begins after
// it, even while its invalidation is still on its way. Guard: sync.
func TestFencedReadSeesWritesMadeElsewhere(t *testing.T) {
	for _, read := range []string{"GET", "MGET"} {
		t.Run(read, func(t *testing.T) {
			redis, relay, n := heldBack(t, fencedRules)
			c := n.dial()
			for _, key := range []string{"fenced:1", "bounded:1"} {
				want(t, c, "OK", "SET", key, "old")
				n.warm(c, "GET", key)
			}
			held := relay.HoldReply("invalidate")
			defer held.Release()
			redis.DoDB(1, "MSET", "fenced:1", "new", "bounded:1", "new")
			<-held.Arrived
			// The control: without a fence the old value is what the bound allows.
			if got := c.Do(read, "bounded:1"); !strings.Contains(got, "old") {
				t.Fatalf("bounded: %s; this test shows nothing", got)
			}
			if got := c.Do(read, "fenced:1"); !strings.Contains(got, "new") {
				t.Errorf("fenced: %s after the write was acknowledged", got)
			}
		})
	}
}

// A fenced read does not join a fetch that may have been answered before a write
// that the reader knows of. Guard: UnderWay.
func TestFencedReadJoinsNoOlderFetch(t *testing.T) {
	redis, relay, n := heldBack(t, func(c *Config) {
		fencedRules(c)
		c.OriginConnections = 1
	})
	first, second := n.dial(), n.dial()
	want(t, first, "1", "HSET", "fenced:1", "f", "old")
	want(t, first, "1", "HLEN", "fenced:1") // the user's first fetch is not pipelined with others
	fetch := relay.HoldReply("$3\r\nold")
	defer fetch.Release()
	first.Send("HGET", "fenced:1", "f")
	<-fetch.Arrived
	push := relay.HoldReply("invalidate")
	defer push.Release()
	redis.DoDB(1, "HSET", "fenced:1", "f", "new")
	<-push.Arrived
	joined := n.coalesced()
	second.Send("HGET", "fenced:1", "f")
	n.eventually("the second read has gone to Redis itself", func() bool { return n.bypassed(bypassFence) > 0 })
	fetch.Release()
	if got := second.Read(); got != "new" {
		t.Errorf("read %s", got)
	}
	if n.coalesced() != joined {
		t.Error("the second read joined the fetch")
	}
	first.Read()
}

// Fenced hits are hits: Redis sees a PING, and no read. One PING is enough for a
// whole pipeline.
func TestFencedHits(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, fencedRules)
	c := n.dial()
	want(t, c, "OK", "SET", "fenced:1", "v")
	n.warm(c, "GET", "fenced:1")
	gets, syncs, hits := redis.Calls("get"), n.link.Stats().Syncs, n.hits()
	const reads = 100
	c.Write(strings.Repeat(redistest.Command("GET", "fenced:1"), reads))
	for range reads {
		if got := c.Read(); got != "v" {
			t.Fatalf("read %s", got)
		}
	}
	if got := n.link.Stats().Syncs - syncs; got == 0 || got > 3 { // the pipeline may arrive in pieces
		t.Errorf("%d reads of one pipeline waited %d times", reads, got)
	}
	if got := redis.Calls("get") - gets; got != 0 {
		t.Errorf("%d reads went to Redis", got)
	}
	n.eventually("the hits are counted", func() bool { return n.hits()-hits == reads })
	if got := c.Do("NEARSIDE", "EXPLAIN", "fenced:1"); !strings.Contains(got, "consistency:fenced") {
		t.Errorf("EXPLAIN: %s", got)
	}
}

// With an embedded origin every write passes through nearside: nothing to wait for.
func TestFencedEmbedded(t *testing.T) {
	redis := redistest.Start(t)
	n := launch(t, redis.URL(), func(c *Config) {
		fencedRules(c)
		c.Embedded = true
	})
	c := n.dial()
	want(t, c, "OK", "SET", "fenced:1", "v")
	n.warm(c, "GET", "fenced:1")
}

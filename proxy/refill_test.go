package proxy

import (
	"fmt"
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

// fetchesSeen counts the fetches that have reached Redis.
func fetchesSeen(relay *redistest.Relay) (n int) {
	for _, e := range relay.Log() {
		if e.Request {
			n += strings.Count(e.Bytes, "PTTL")
		}
	}
	return n
}

// When everything is missed at once, no more than Refills fetches are under way,
// and locks do not wait for any of them.
func TestRefillsAreBounded(t *testing.T) {
	const limit, clients = 4, 12
	_, relay, n := heldBack(t, func(c *Config) {
		c.Refills = limit
		c.OriginConnections = 1
	})
	first := n.dial()
	want(t, first, "OK", "SET", "product:0", "v0")
	want(t, first, "v0", "GET", "product:0") // the user's first fetch is not pipelined with others
	for i := 1; i <= clients; i++ {
		want(t, first, "OK", "SET", fmt.Sprintf("product:%d", i), "v")
	}
	before := fetchesSeen(relay)
	held := relay.HoldReply("$1\r\nv")
	defer held.Release()
	var cs []*redistest.Client
	for i := 1; i <= clients; i++ {
		c := n.dial()
		c.Send("GET", fmt.Sprintf("product:%d", i))
		cs = append(cs, c)
	}
	<-held.Arrived
	n.eventually("the others wait", func() bool { return n.m.refillWaits.Get() == clients-limit })
	if got := fetchesSeen(relay) - before; got > limit {
		t.Errorf("%d fetches are under way, not %d", got, limit)
	}
	want(t, n.dial(), "OK", "SET", "lock:a", "t", "NX", "PX", "5000")
	held.Release()
	for i, c := range cs {
		if got := c.Read(); got != "v" {
			t.Errorf("client %d read %s", i, got)
		}
	}
	if got := len(n.current().refills); got != 0 {
		t.Errorf("%d permits are lost", got)
	}
}

// One session's own pipeline of misses is longer than the bound.
func TestRefillsOfOnePipeline(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.Refills = 2 })
	c := n.dial()
	want(t, c, "(nil)", "GET", "product:0")
	var b strings.Builder
	const reads = 50
	for i := range reads {
		b.WriteString(redistest.Command("GET", fmt.Sprintf("product:p%d", i)))
		b.WriteString(redistest.Command("MGET", fmt.Sprintf("product:q%d", i), fmt.Sprintf("product:r%d", i)))
	}
	c.Write(b.String())
	for range reads {
		if got := c.Read(); got != "(nil)" {
			t.Fatalf("GET answered %s", got)
		}
		if got := c.Read(); !strings.Contains(got, "(nil)") {
			t.Fatalf("MGET answered %s", got)
		}
	}
	n.eventually("all permits are back", func() bool { return len(n.current().refills) == 0 })
}

// Permits come back when fetches fail.
func TestRefillsFail(t *testing.T) {
	_, relay, n := heldBack(t, func(c *Config) { c.Refills = 2 })
	c := n.dial()
	want(t, c, "(nil)", "GET", "product:0")
	for i := range 3 {
		reconnects := n.link.Stats().Reconnects
		held := relay.HoldRequest("PTTL")
		c.Write(redistest.Command("GET", fmt.Sprintf("product:%d", i)) + redistest.Command("MGET", fmt.Sprintf("product:m%d", i)))
		<-held.Arrived
		relay.Cut()
		held.Release()
		c.Read()
		c.Read()
		n.eventually("the link was made anew", func() bool { return n.link.Stats().Reconnects > reconnects })
		n.awaitLink()
		n.eventually("all permits are back", func() bool { return len(n.current().refills) == 0 })
	}
}

package main

import (
	"context"
	"testing"
	"time"
)

// TestOldReplyComesLast orders two fetches of one key, a GET's and an MGET's, on
// two connections to Redis: the older reply comes last, while the news of the
// write between them is still on its way. For that long a client may read the
// newer value and then the older one; this is the limit that proxy/CONSISTENCY.md states.
// With the news it is over, and under a fenced rule it never happens.
func TestOldReplyComesLast(t *testing.T) {
	for _, mode := range []Mode{Tracking, Fenced} {
		t.Run(string(mode), func(t *testing.T) { oldReplyComesLast(t, mode) })
	}
}

func oldReplyComesLast(t *testing.T, mode Mode) {
	t.Helper()
	cfg := Defaults()
	cfg.Mode, cfg.MaxStaleness, cfg.LinkLag = mode, 2*time.Second, 100*time.Millisecond
	if mode == Tracking {
		cfg.LinkLag = 700 * time.Millisecond
	}
	var err error
	if cfg.Binary, err = nearsideBinary(); err != nil {
		t.Fatal(err)
	}
	c, err := newCheck(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	ctx, n := t.Context(), c.near[0]
	c.recovered(ctx, "start")
	const key = "product:slow"
	set := func(value string) time.Duration {
		if err := c.admin.Set(ctx, key, value, 0).Err(); err != nil {
			t.Fatal(err)
		}
		return c.now()
	}
	set("old")
	for known := 0.0; known == 0; { // until that is no news any more
		got, err := n.metrics(ctx)
		if err != nil {
			t.Fatal(err)
		}
		known = got[`nearside_link_received_total{source="tracking"}`]
	}
	held := &catch{word: []byte(key + "\r\n"), holds: make(chan struct{}), release: make(chan struct{})}
	n.relay.catch.Store(held)
	first := c.client(viaA, 3, 1, "first")
	defer first.Close()
	got := make(chan string, 1)
	go func() { s, _ := first.Get(ctx, key).Result(); got <- s }()
	<-held.holds
	acked := set("new")
	second := c.otherWire(t, key)
	defer second.Close()
	close(held.release)
	if s := <-got; s != "old" && s != "new" {
		t.Errorf("first GET: %q", s)
	}
	back := 0
	for {
		asked := c.now()
		s, err := second.Get(ctx, key).Result()
		switch {
		case err != nil:
			t.Fatal(err)
		case s == "new" && asked > acked+cfg.LinkLag+cfg.Slack:
			t.Logf("%d reads went back to the older value", back)
			return
		case s == "new":
		case mode == Fenced:
			t.Fatalf("%q %v after the newer value was acknowledged and read, under a fenced rule", s, asked-acked)
		case asked > acked+cfg.MaxStaleness+cfg.Slack:
			t.Fatalf("%q %v after the newer value was acknowledged", s, asked-acked)
		default:
			back++
		}
	}
}

// otherWire is a client whose commands nearside sends on a connection that is
// not held, and which has read the newer value by an MGET there.
func (c *check) otherWire(t *testing.T, key string) *client {
	t.Helper()
	for range 8 {
		cl := c.client(viaA, 3, 1, "second")
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		all, err := cl.MGet(ctx, key, "product:another").Result()
		cancel()
		if err == nil {
			if all[0] != "new" {
				t.Fatalf("MGET: %v", all)
			}
			return cl
		}
		cl.Close()
	}
	t.Fatal("all clients share one connection to Redis")
	return nil
}

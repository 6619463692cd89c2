//go:build linux

package proxy

import (
	"fmt"
	"testing"

	"nearside/proxy/internal/redistest"
)

// warmed is a nearside behind a relay, and a client of it whose product:1 is cached.
func warmed(t *testing.T) (*redistest.Relay, *nearside, *redistest.Client) {
	t.Helper()
	_, relay, n := heldBack(t, nil)
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "v")
	n.warm(c, "GET", "product:1")
	return relay, n, c
}

// parks has a client read a key while the answer to the link's PINGs is held back and a
// fence is raised, until its session is parked.
func (n *nearside) parks(relay *redistest.Relay, c *redistest.Client, key string) *redistest.Held {
	n.t.Helper()
	held := relay.HoldReply("+PONG")
	<-held.Arrived
	n.link.Fence()
	c.Send("GET", key)
	n.eventually("the session is parked", func() bool {
		n.parking.mu.Lock()
		defer n.parking.mu.Unlock()
		return len(n.parking.list) == 1
	})
	return held
}

// A session whose fence has passed may be woken before its loop comes to it: by the
// end of nearside, or by what another session asks of it. Its request is answered
// nevertheless, without a further byte from the client. Guard: unparked in run.
func TestWokenBehindAFence(t *testing.T) {
	for _, ends := range []bool{false, true} {
		t.Run(fmt.Sprint("ends=", ends), func(t *testing.T) {
			relay, n, c := warmed(t)
			held := n.parks(relay, c, "product:1")
			defer held.Release()
			n.parking.mu.Lock()
			s := n.parking.list[0]
			n.parking.list = nil
			n.parking.mu.Unlock()
			s.stopping.Store(ends)
			s.parked = parkPassed
			go s.Woken() // as Wake does after Return
			if got := c.Read(); got != "v" {
				t.Errorf("answered %s", got)
			}
			if ends {
				if got := c.Closed(); got != "" {
					t.Errorf("it got %q", got)
				}
				return
			}
			held.Release()
			want(t, c, "PONG", "PING")
		})
	}
}

// That a fence has passed is for the request that has waited for it and for no later
// one, also if that one did not go by the near cache in the end. Guard: parked in batch.
func TestPassedFenceIsForOneRequest(t *testing.T) {
	_, relay, n := heldBack(t, nil)
	c := n.dial()
	for _, key := range []string{"product:1", "balance:1"} {
		want(t, c, "OK", "SET", key, "v")
		n.warm(c, "GET", key)
	}
	held := n.parks(relay, c, "product:1")
	n.takeOut(n.rules().Match([]byte("product:1")))
	held.Release()
	if got := c.Read(); got != "v" {
		t.Fatalf("answered %s", got)
	}
	before := n.m.fenceWaits.Get()
	held = relay.HoldReply("+PONG")
	defer held.Release()
	<-held.Arrived
	n.link.Fence()
	want(t, c, "v", "GET", "balance:1")
	if n.m.fenceWaits.Get() == before {
		t.Error("the next read did not wait for the next fence")
	}
}

// parkIdle parks a session whose client has sent nothing, as if it had been told just
// before to wait for what has been raised until now.
func (n *nearside) parkIdle(c *redistest.Client) {
	n.t.Helper()
	want(n.t, c, "PONG", "PING")
	s := n.sessionList()[0]
	n.eventually("the session waits for its client", s.src.Idle)
	s.src.Take()
	n.parking.park(&s.conn)
}

// The fence passes between the look that finds it and the
// parking: nobody would let the session go but the clock. Guard: the look in park.
func TestFencePassesBeforeParking(t *testing.T) {
	n := start(t, redistest.Start(t), nil)
	c := n.dial()
	n.link.Fence()
	raised := n.link.Raised()
	n.eventually("the fence has passed", func() bool { return n.link.Passed() >= raised })
	n.parkIdle(c)
	n.parking.mu.Lock()
	parked := len(n.parking.list)
	n.parking.mu.Unlock()
	if parked != 0 {
		t.Fatal("it waits for a fence that has passed")
	}
	want(t, c, "PONG", "PING")
}

// When the link is lost those who wait for a fence go on at once, past the near cache.
func TestLinkLostWhileParked(t *testing.T) {
	relay, n, c := warmed(t)
	held := n.parks(relay, c, "product:1")
	defer held.Release()
	n.link.Drop("for the test")
	n.parking.mu.Lock()
	parked := len(n.parking.list) // Drop has let it go before it returned
	n.parking.mu.Unlock()
	if parked != 0 {
		t.Fatal("it waits for what nobody will answer")
	}
	if got := c.Read(); got != "v" {
		t.Errorf("answered %s", got)
	}
}

// A PING that nobody answers is not waited for longer than fenceWait.
func TestParkedForTooLong(t *testing.T) {
	relay, n, c := warmed(t)
	bypassed := n.m.rule(n.rules().Match([]byte("product:1")).ID).bypassed[bypassFence]
	for range 2 { // the clock is set anew
		held := n.parks(relay, c, "product:1")
		before := bypassed.Get()
		if got := c.Read(); got != "v" {
			t.Errorf("answered %s", got)
		}
		if bypassed.Get() == before {
			t.Error("it was not passed by the near cache")
		}
		held.Release()
	}
}

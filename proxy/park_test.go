//go:build linux

package proxy

import (
	"testing"

	"nearside/proxy/internal/redistest"
)

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
		_, relay, n := heldBack(t, nil)
		c := n.dial()
		want(t, c, "OK", "SET", "product:1", "v")
		n.warm(c, "GET", "product:1")
		held := n.parks(relay, c, "product:1")
		defer held.Release()
		n.parking.mu.Lock()
		s := n.parking.list[0]
		n.parking.list = nil
		n.parking.mu.Unlock()
		s.stopping.Store(ends)
		s.afterFence = fencePassed
		go s.Woken() // as Wake does after Return
		if got := c.Read(); got != "v" {
			t.Errorf("the end: %t; answered %s", ends, got)
		}
		if ends {
			if got := c.Closed(); got != "" {
				t.Errorf("it got %q", got)
			}
		} else {
			held.Release()
			want(t, c, "PONG", "PING")
		}
	}
}

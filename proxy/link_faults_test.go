package proxy

import (
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
	"nearside/proxy/link"
)

// What can happen to the link and to the server behind it, with each source.

// onRelay starts a nearside behind a relay and says which of its connections is the link.
func onRelay(t *testing.T, redis *redistest.Server, change func(*Config)) (relay *redistest.Relay, n *nearside, linkConn int) {
	t.Helper()
	relay = redistest.NewRelay(t, redis.Addr)
	n = launch(t, relay.URL(), change)
	n.awaitLink()
	_, linkConn = relay.Find(link.Channel, true)
	return relay, n, linkConn
}

// told is how the bytes of a source's invalidations can be recognised.
var told = map[string]string{link.ModeTracking: "invalidate", link.ModeKeyspace: "pmessage"}

// The link still seems to be open, and nothing comes through it any more.
func TestHalfOpenLink(t *testing.T) {
	bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
		const bound = 500 * time.Millisecond
		relay, n, _ := onRelay(t, redis, linked(source, maxStaleness(bound)))
		c := n.dial()
		want(t, c, "OK", "SET", "product:1", "old")
		n.warm(c, "GET", "product:1")
		held := relay.HoldReply(told[source]) // and everything behind it
		redis.DoDB(1, "SET", "product:1", "new")
		written := time.Now()
		for c.Do("GET", "product:1") != "new" {
			if time.Since(written) > bound {
				t.Fatalf("the old value was served %v after it was overwritten", time.Since(written))
			}
		}
		<-held.Arrived
		n.eventually("hits are off", func() bool { return n.link.Verdict(clockNow()) != link.OK })
		// The link finds out by itself, long before TCP would.
		n.eventually("the link is made anew", func() bool { return n.link.Stats().Reconnects == 1 })
		n.awaitLink()
		if got := n.warm(c, "GET", "product:1"); got != "new" {
			t.Errorf("read %q afterwards", got)
		}
	})
}

// Redis is frozen: what was cached is not served past the bound, and what a client
// has written when it goes on is seen by whoever reads after that.
func TestFrozenRedis(t *testing.T) {
	bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
		const bound = 400 * time.Millisecond
		n := start(t, redis, linked(source, maxStaleness(bound), func(c *Config) { c.OriginTimeout = time.Minute }))
		c, direct := n.dial(), redistest.Dial(t, redis.Addr)
		defer direct.Close()
		want(t, direct, "OK", "SELECT", "1")
		want(t, c, "OK", "SET", "product:1", "old")
		n.warm(c, "GET", "product:1")
		redis.Stop()
		frozen := time.Now()
		direct.Send("SET", "product:1", "new") // runs as soon as Redis goes on
		n.eventually("hits are off", func() bool { return n.link.Verdict(clockNow()) != link.OK })
		if took := time.Since(frozen); took > bound+100*time.Millisecond {
			t.Errorf("hits were served for %v", took)
		}
		hits := n.hits()
		c.Send("GET", "product:1")
		n.eventually("the read was passed on", func() bool { return n.bypassed(bypassStale)+n.bypassed(bypassDown) > 0 })
		redis.Continue()
		if got := direct.Read(); got != "OK" {
			t.Fatalf("SET answered %s", got)
		}
		if got := c.Read(); got != "old" && got != "new" { // one of the two was first
			t.Errorf("the read that waited was answered %q", got)
		}
		if n.hits() != hits {
			t.Error("it was a hit")
		}
		if !n.link.Sync(redistest.Timeout, nil) {
			n.awaitLink() // the link was given up meanwhile
		}
		want(t, c, "new", "GET", "product:1")
		n.awaitLink()
		if got := n.warm(c, "GET", "product:1"); got != "new" {
			t.Errorf("read %q afterwards", got)
		}
	})
}

// The master becomes another's replica, and so has other data.
func TestDemotedMaster(t *testing.T) {
	bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
		other := redistest.Start(t)
		other.DoDB(1, "SET", "product:1", "the new master's")
		n := start(t, redis, linked(source, maxStaleness(500*time.Millisecond)))
		c := n.dial()
		want(t, c, "OK", "SET", "product:1", "old")
		n.warm(c, "GET", "product:1")
		redis.Do("REPLICAOF", "127.0.0.1", other.Port)
		n.eventually("the replica has the new data", func() bool { return redis.DoDB(1, "GET", "product:1") == "the new master's" })
		copied := time.Now()
		for c.Do("GET", "product:1") != "the new master's" {
			if time.Since(copied) > 500*time.Millisecond {
				t.Fatalf("the old value was served %v later", time.Since(copied))
			}
		}
		if source == link.ModeKeyspace {
			// A replica does not tell when it copies all data anew.
			n.eventually("hits are off", func() bool { return n.link.Verdict(clockNow()) == link.Down && n.link.Stats().Silent != "" })
		} else {
			n.awaitLink()
			other.DoDB(1, "SET", "product:1", "replicated")
			n.eventually("what is replicated is told of", func() bool { return c.Do("GET", "product:1") == "replicated" })
		}
		redis.Do("REPLICAOF", "NO", "ONE")
		n.awaitLink()
		redis.DoDB(1, "SET", "product:1", "master again")
		n.eventually("it is the master again", func() bool { return c.Do("GET", "product:1") == "master again" })
	})
}

// Demoted and promoted again between two checks: the role is what it was, the data is not.
func TestDemotedAndPromotedBetweenChecks(t *testing.T) {
	bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
		other := redistest.Start(t)
		other.DoDB(1, "SET", "product:1", "the other's")
		n := start(t, redis, linked(source, maxStaleness(20*time.Second))) // a check every 10 s
		c := n.dial()
		want(t, c, "OK", "SET", "product:1", "old")
		n.warm(c, "GET", "product:1")
		checks := n.link.Stats().Checks
		redis.Do("REPLICAOF", "127.0.0.1", other.Port)
		n.eventually("the data is the other's", func() bool { return redis.DoDB(1, "GET", "product:1") == "the other's" })
		redis.Do("REPLICAOF", "NO", "ONE")
		promoted := time.Now()
		if n.link.Stats().Checks != checks {
			t.Skip("the machine is too slow: there was a check in between")
		}
		for c.Do("GET", "product:1") != "the other's" {
			if time.Since(promoted) > 20*time.Second {
				t.Fatal("the old value is still served")
			}
		}
	})
}

// Killed, and started again with other data, on the same port.
func TestRestartedWithOtherData(t *testing.T) {
	bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
		n := start(t, redis, linked(source))
		c := n.dial()
		want(t, c, "OK", "SET", "product:1", "old")
		n.warm(c, "GET", "product:1")
		generation := n.l1.Stats().Generation
		redis.Kill()
		n.eventually("hits are off", func() bool { return n.link.Verdict(clockNow()) == link.Down })
		redis.Restart()
		redis.DoDB(1, "SET", "product:1", "new")
		n.eventually("Redis answers again", func() bool { got := c.Do("GET", "product:1"); return got != "" && got[0] != '-' })
		want(t, c, "new", "GET", "product:1")
		n.awaitLink()
		if got := n.warm(c, "GET", "product:1"); got != "new" || n.l1.Stats().Generation == generation {
			t.Errorf("read %q", got)
		}
	})
}

// The address leads to another server, and the link still talks to the old one,
// which is well and says nothing of the other's data.
func TestLinkTalksToTheOldServer(t *testing.T) {
	bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
		other := redistest.Start(t, "--notify-keyspace-events", "KA")
		relay, n, linkConn := onRelay(t, redis, linked(source))
		c := n.dial()
		want(t, c, "OK", "SET", "product:1", "old")
		n.warm(c, "GET", "product:1")
		other.DoDB(1, "SET", "product:1", "of the other server")
		relay.Redirect(other.Addr)
		relay.CutAllBut(linkConn)
		reconnects := n.link.Stats().Reconnects
		n.eventually("a data connection has met the other server", func() bool {
			c.Do("SET", "other", "1")
			return n.link.Stats().Reconnects > reconnects
		})
		n.awaitLink()
		want(t, c, "of the other server", "GET", "product:1")
		n.warm(c, "GET", "product:1")
		other.DoDB(1, "SET", "product:1", "newer")
		n.eventually("the link is the other server's", func() bool { return c.Do("GET", "product:1") == "newer" })
	})
}

// The link is cut while a change is made, and Redis has nobody to tell.
func TestGapEndsInFlush(t *testing.T) {
	bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
		relay, n, linkConn := onRelay(t, redis, linked(source))
		c := n.dial()
		want(t, c, "OK", "SET", "product:1", "old")
		n.warm(c, "GET", "product:1")
		held := relay.HoldRequest(link.Channel) // of the reconnect
		relay.CutConn(linkConn)
		<-held.Arrived
		if v := n.link.Verdict(clockNow()); v != link.Down {
			t.Errorf("the verdict is %s", v)
		}
		redis.DoDB(1, "SET", "product:1", "new")
		want(t, c, "new", "GET", "product:1")
		held.Release()
		n.awaitLink()
		want(t, c, "new", "GET", "product:1")
	})
}

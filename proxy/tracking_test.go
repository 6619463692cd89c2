package proxy

import (
	"fmt"
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

// tracker is a client that has said HELLO 3.
func (n *nearside) tracker(proto string) *redistest.Client {
	c := n.dial()
	c.Do("HELLO", proto)
	return c
}

// invalidated fails the test unless the next thing that comes is this invalidation.
func invalidated(t *testing.T, c *redistest.Client, keys ...string) {
	t.Helper()
	want := ">[invalidate [" + strings.Join(keys, " ") + "]]"
	if len(keys) == 0 {
		want = ">[invalidate (nil)]"
	}
	if got := c.Read(); got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}

// At database 0 a client tracks the keys of both databases.
func TestTrackingModes(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	write := func(key string) {
		db := 0
		if strings.HasPrefix(key, "product:") {
			db = 1
		}
		redis.DoDB(db, "SET", key, "direct")
	}
	keys := []string{"product:1", "lock:1", "other"}

	t.Run("default", func(t *testing.T) {
		c, other := n.tracker("3"), n.dial()
		want(t, c, "OK", "CLIENT", "TRACKING", "ON")
		for _, key := range keys {
			c.Do("GET", key)
			write(key)
			invalidated(t, c, key)
			c.Do("GET", key)
			want(t, other, "OK", "SET", key, "through")
			invalidated(t, c, key)
			c.Do("GET", key)
			want(t, c, "OK", "SET", key, "own")
			invalidated(t, c, key) // without NOLOOP
		}
		t.Log("a read of both databases at once")
		want(t, c, "[own own own]", "MGET", keys[0], keys[1], keys[2])
		for _, key := range keys {
			write(key)
			invalidated(t, c, key)
		}
		c.Do("MGET", keys[0], keys[1])
		redis.Do("FLUSHALL")
		invalidated(t, c)
		want(t, c, "PONG", "PING")
	})
	t.Run("NOLOOP", func(t *testing.T) {
		c := n.tracker("3")
		want(t, c, "OK", "CLIENT", "TRACKING", "ON", "NOLOOP")
		for _, key := range keys {
			c.Do("GET", key)
			want(t, c, "OK", "SET", key, "own")
		}
		c.Do("MGET", keys[0], keys[1])
		want(t, c, "2", "DEL", keys[0], keys[1])
		want(t, c, "OK", "MSET", keys[0], "own", keys[1], "own")
		c.Do("GET", keys[0])
		write(keys[0])
		invalidated(t, c, keys[0])
		want(t, c, "PONG", "PING")
	})
	t.Run("OPTIN", func(t *testing.T) {
		c := n.tracker("3")
		want(t, c, "OK", "CLIENT", "TRACKING", "ON", "OPTIN")
		for _, key := range keys {
			c.Do("GET", key)
			write(key) // not asked for
		}
		for _, key := range append(keys, keys...) {
			want(t, c, "OK", "CLIENT", "CACHING", "YES")
			c.Do("GET", key) // at another database than the one before
			write(key)
			invalidated(t, c, key)
		}
		t.Log("the flag is for one command, whoever answers it")
		for _, between := range [][]string{{"PING"}, {"GET", "nothing"}, {"NOSUCHCOMMAND"}, {"ECHO", "x"}, {"SELECT", "0"}, {"DBSIZE"}} {
			for _, key := range keys {
				want(t, c, "OK", "CLIENT", "CACHING", "YES")
				c.Do(between...)
				c.Do("GET", key)
				write(key)
			}
		}
		t.Log("CLIENT commands leave it alone")
		want(t, c, "OK", "CLIENT", "CACHING", "YES")
		c.Do("CLIENT", "GETNAME")
		c.Do("CLIENT", "TRACKINGINFO")
		c.Do("GET", keys[0])
		write(keys[0])
		invalidated(t, c, keys[0])
		t.Log("a transaction of both databases, as rueidis sends it")
		c.Write(redistest.Command("CLIENT", "CACHING", "YES") + redistest.Command("MULTI") + redistest.Command("PTTL", keys[0]) + redistest.Command("GET", keys[0]) +
			redistest.Command("GET", keys[1]) + redistest.Command("EXEC"))
		for range 6 {
			c.Read()
		}
		for _, key := range keys[:2] {
			write(key)
			invalidated(t, c, key)
		}
		want(t, c, "OK", "CLIENT", "CACHING", "YES")
		c.Do("MGET", keys[0], keys[1])
		for _, key := range keys[:2] {
			write(key)
			invalidated(t, c, key)
		}
		want(t, c, "PONG", "PING")
	})
	t.Run("OPTOUT", func(t *testing.T) {
		c := n.tracker("3")
		want(t, c, "OK", "CLIENT", "TRACKING", "ON", "OPTOUT")
		for _, key := range append(keys, keys...) {
			c.Do("GET", key)
			write(key)
			invalidated(t, c, key)
			want(t, c, "OK", "CLIENT", "CACHING", "NO")
			c.Do("GET", key)
			write(key)
		}
		want(t, c, "PONG", "PING")
	})
	t.Run("BCAST", func(t *testing.T) {
		c, all := n.tracker("3"), n.tracker("3")
		want(t, c, "OK", "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "product:", "PREFIX", "lock:", "NOLOOP")
		want(t, all, "OK", "CLIENT", "TRACKING", "ON", "BCAST")
		for _, key := range keys {
			write(key)
			if key != "other" {
				invalidated(t, c, key)
			}
			invalidated(t, all, key)
		}
		want(t, c, "OK", "SET", "product:1", "own")
		invalidated(t, all, "product:1")
		want(t, c, "PONG", "PING")
		want(t, c, "OK", "CLIENT", "TRACKING", "OFF")
		want(t, all, "OK", "CLIENT", "TRACKING", "OFF")
	})
	n.eventually("only those are left whose tracking is on", func() bool { return n.origin.Stats().Pinned == 4 })
}

// What CLIENT TRACKING and its relatives say is what Redis says.
func TestTrackingAnswers(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	for _, proto := range []string{"2", "3"} {
		d := redistest.Dial(t, redis.Addr)
		t.Cleanup(d.Close)
		d.Do("HELLO", proto)
		c := n.tracker(proto)
		for _, line := range []string{
			"GETREDIR", "TRACKINGINFO", "CACHING YES", "CACHING X", "TRACKING", "TRACKING X", "TRACKING OFF", "TRACKING ON X",
			"TRACKING ON PREFIX a", "TRACKING ON BCAST OPTIN", "TRACKING ON OPTIN OPTOUT", "TRACKING ON REDIRECT", "TRACKING ON REDIRECT x",
			"TRACKING ON REDIRECT 0", "TRACKING ON REDIRECT 987654321", "TRACKING ON REDIRECT -1", "TRACKING ON REDIRECT 987654321 X", "TRACKING ON X REDIRECT 987654321",
			"TRACKING ON REDIRECT 987654321 REDIRECT 1", "TRACKING ON BCAST PREFIX a PREFIX ab", "TRACKINGINFO",
			"TRACKING ON OPTIN", "TRACKINGINFO", "GETREDIR", "CACHING NO", "CACHING YES", "TRACKINGINFO", "TRACKING ON OPTOUT", "TRACKING ON BCAST", "CACHING", "CACHING X",
			"TRACKING OFF", "GETREDIR", "TRACKINGINFO",
			"TRACKING ON BCAST PREFIX b PREFIX a NOLOOP", "TRACKINGINFO", "TRACKING ON BCAST PREFIX a", "TRACKING ON BCAST PREFIX c", "TRACKINGINFO", "TRACKING ON", "CACHING YES", "TRACKING OFF X", "TRACKINGINFO", "TRACKING OFF",
			"TRACKINGINFO", "GETREDIR",
		} {
			args := append([]string{"CLIENT"}, strings.Fields(line)...)
			if a, b := d.Do(args...), c.Do(args...); a != b {
				t.Errorf("RESP%s %v: Redis answers %s, nearside %s", proto, args, a, b)
			}
		}
	}
	n.eventually("all connections are given back", func() bool { return n.origin.Stats().Pinned == 0 })
}

// REDIRECT speaks of nearside's clients.
func TestTrackingRedirect(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	write := func() { redis.DoDB(1, "SET", "product:1", "direct") }
	message := "[message __redis__:invalidate [product:1]]"

	t.Run("RESP2, subscribed before", func(t *testing.T) {
		sub, c := n.dial(), n.dial()
		id := sub.Do("CLIENT", "ID")
		want(t, sub, "[subscribe __redis__:invalidate 1]", "SUBSCRIBE", "__redis__:invalidate")
		want(t, c, "OK", "CLIENT", "TRACKING", "ON", "REDIRECT", id)
		want(t, c, id, "CLIENT", "GETREDIR")
		want(t, c, "[flags [on] redirect "+id+" prefixes []]", "CLIENT", "TRACKINGINFO")
		for range 3 {
			c.Do("GET", "product:1")
			write()
			if got := sub.Read(); got != message {
				t.Fatalf("got %s", got)
			}
		}
		redis.Do("FLUSHALL")
		if got := sub.Read(); got != "[message __redis__:invalidate (nil)]" {
			t.Fatalf("got %s", got)
		}
		want(t, c, "OK", "CLIENT", "TRACKING", "OFF")
		want(t, c, "-1", "CLIENT", "GETREDIR")
		want(t, sub, "[pong ]", "PING")
	})
	t.Run("RESP2, subscribed afterwards", func(t *testing.T) {
		sub, c := n.dial(), n.dial()
		id := sub.Do("CLIENT", "ID")
		want(t, c, "OK", "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "product:", "REDIRECT", id)
		want(t, c, "[flags [on bcast] redirect "+id+" prefixes [product:]]", "CLIENT", "TRACKINGINFO")
		write() // to nobody
		want(t, sub, "PONG", "PING")
		want(t, sub, "direct", "GET", "product:1")
		want(t, sub, "[subscribe other 1]", "SUBSCRIBE", "other")
		write()
		if got := sub.Read(); got != message {
			t.Fatalf("got %s", got)
		}
		want(t, sub, "[unsubscribe other 0]", "UNSUBSCRIBE", "other")
		want(t, sub, "direct", "GET", "product:1")
		want(t, sub, "[subscribe other 1]", "SUBSCRIBE", "other")
		write()
		if got := sub.Read(); got != message {
			t.Fatalf("got %s", got)
		}
	})
	t.Run("RESP3", func(t *testing.T) {
		target, c := n.tracker("3"), n.tracker("3")
		id := target.Do("CLIENT", "ID")
		want(t, c, "OK", "CLIENT", "TRACKING", "ON", "REDIRECT", id)
		for range 3 {
			c.Do("GET", "product:1")
			write()
			invalidated(t, target, "product:1")
			want(t, target, "direct", "GET", "product:1")
		}
		c.Do("GET", "product:1")
		target.Close()
		n.eventually("the target is gone", func() bool { return !strings.Contains(c.Do("CLIENT", "LIST", "ID", id), "id=") })
		write()
		if got := c.Read(); got != ">[tracking-redir-broken "+id+"]" {
			t.Fatalf("got %s", got)
		}
		want(t, c, "{flags {on broken_redirect} redirect "+id+" prefixes []}", "CLIENT", "TRACKINGINFO")
		want(t, c, "-ERR The client ID you want redirect to does not exist", "CLIENT", "TRACKING", "ON", "REDIRECT", id)
	})
	t.Run("to itself", func(t *testing.T) {
		c := n.tracker("3")
		id := c.Do("CLIENT", "ID")
		want(t, c, "OK", "CLIENT", "TRACKING", "ON", "REDIRECT", id)
		c.Do("GET", "product:1")
		write()
		invalidated(t, c, "product:1")
		want(t, c, id, "CLIENT", "GETREDIR")
	})
	t.Run("busy targets", func(t *testing.T) {
		target, c := n.tracker("3"), n.tracker("3")
		id := target.Do("CLIENT", "ID")
		target.Write(redistest.Command("BLPOP", "queue", "0") + redistest.Command("MULTI") + redistest.Command("PING"))
		n.eventually("it blocks at Redis", func() bool { return blocked(redis) == 1 })
		want(t, c, "OK", "CLIENT", "TRACKING", "ON", "REDIRECT", id)
		c.Do("GET", "product:1")
		write()
		invalidated(t, target, "product:1")
		want(t, c, "1", "RPUSH", "queue", "x")
		for _, expected := range []string{"[queue x]", "OK", "QUEUED"} {
			if got := target.Read(); got != expected {
				t.Fatalf("got %s, want %s", got, expected)
			}
		}
		want(t, n.tracker("3"), "OK", "CLIENT", "TRACKING", "ON", "REDIRECT", id)
		want(t, target, "[PONG]", "EXEC")
	})
	t.Run("many at once", func(t *testing.T) {
		target := n.tracker("3")
		id := target.Do("CLIENT", "ID")
		var list []*redistest.Client
		for i := range 20 {
			c := n.tracker("3")
			c.Write(redistest.Command("CLIENT", "TRACKING", "ON", "REDIRECT", id) + redistest.Command("GET", fmt.Sprint("product:many", i)))
			list = append(list, c)
			target.Send("PING")
		}
		for _, c := range list {
			if got := c.Read(); got != "OK" {
				t.Fatal(got)
			}
			c.Read()
			if got := target.Read(); got != "PONG" {
				t.Fatal(got)
			}
		}
		for i := range list {
			key := fmt.Sprint("product:many", i)
			redis.DoDB(1, "SET", key, "x")
			invalidated(t, target, key)
		}
	})
}

package proxy

import (
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

func TestTransactions(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	for _, proto := range []string{"2", "3"} {
		t.Run("RESP"+proto, func(t *testing.T) {
			redis.Do("FLUSHALL")
			c := n.dial()
			c.Do("HELLO", proto)

			t.Log("keys of both databases, in one chunk")
			c.Write(redistest.Command("MULTI") + redistest.Command("SET", "product:1", "a") + redistest.Command("SET", "lock:1", "b") +
				redistest.Command("GET", "product:1") + redistest.Command("EXEC") + redistest.Command("GET", "product:1"))
			for i, expected := range []string{"OK", "QUEUED", "QUEUED", "QUEUED", "[OK OK a]", "a"} {
				if got := c.Read(); got != expected {
					t.Fatalf("reply %d is %s, want %s", i, got, expected)
				}
			}
			if a, b := redis.DoDB(1, "GET", "product:1"), redis.DoDB(0, "GET", "lock:1"); a != "a" || b != "b" {
				t.Errorf("Redis has %s and %s", a, b)
			}

			t.Log("commands of both databases at once, and nearside's own")
			for _, args := range [][]string{{"MULTI"}, {"MGET", "product:1", "lock:1"}, {"DBSIZE"}, {"CLIENT", "GETNAME"}, {"PING"}, {"DEL", "product:1", "lock:1", "none"}} {
				if got := c.Do(args...); got != "QUEUED" && got != "OK" {
					t.Fatalf("%v answered %s", args, got)
				}
			}
			want(t, c, "[[a b] 2 (nil) PONG 2]", "EXEC")

			t.Log("the joined keyspace, walked inside")
			for _, args := range [][]string{{"MSET", "product:s", "a", "lock:s", "b"}, {"MULTI"}, {"SCAN", "0", "COUNT", "100"}, {"SCAN", "1", "COUNT", "100"}, {"SCAN", "x"}, {"RANDOMKEY"}, {"KEYS", "*:s"}, {"DEL", "product:s", "lock:s"}} {
				if got := c.Do(args...); got != "QUEUED" && got != "OK" {
					t.Fatalf("%v answered %s", args, got)
				}
			}
			got := c.Do("EXEC")
			if !strings.HasPrefix(got, "[[1 [product:s]] [0 [lock:s]] -ERR invalid cursor ") || !strings.HasSuffix(got, " 2]") {
				t.Errorf("EXEC answered %s", got)
			}

			t.Log("errors")
			want(t, c, redis.Do("EXEC"), "EXEC")
			want(t, c, redis.Do("DISCARD"), "DISCARD")
			want(t, c, "OK", "MULTI")
			want(t, c, "-ERR MULTI calls can not be nested", "MULTI")
			want(t, c, "-ERR WATCH inside MULTI is not allowed", "WATCH", "x")
			want(t, c, "QUEUED", "SET", "product:1", "x")
			want(t, c, "QUEUED", "LPUSH", "product:1", "x")
			want(t, c, "[OK -WRONGTYPE Operation against a key holding the wrong kind of value]", "EXEC")
			for _, bad := range [][]string{{"GET"}, {"NOSUCHCOMMAND"}, {"RENAME", "product:1", "lock:1"}, {"SHUTDOWN"}} {
				want(t, c, "OK", "MULTI")
				want(t, c, "QUEUED", "SET", "product:1", "never")
				if got := c.Do(bad...); !strings.HasPrefix(got, "-") {
					t.Fatalf("%v answered %s", bad, got)
				}
				want(t, c, "-EXECABORT Transaction discarded because of previous errors.", "EXEC")
				want(t, c, "x", "GET", "product:1")
			}
			want(t, c, "OK", "MULTI")
			want(t, c, "QUEUED", "SET", "product:1", "never")
			want(t, c, "OK", "DISCARD")
			want(t, c, "x", "GET", "product:1")

			t.Log("SELECT inside")
			want(t, c, "OK", "MULTI")
			want(t, c, "QUEUED", "SELECT", "7")
			want(t, c, "QUEUED", "SET", "product:1", "seven")
			want(t, c, "[OK OK]", "EXEC")
			want(t, c, "seven", "GET", "product:1")
			want(t, c, "OK", "MULTI")
			want(t, c, "QUEUED", "SELECT", "0")
			want(t, c, "OK", "DISCARD")
			want(t, c, "seven", "GET", "product:1")
			want(t, c, "OK", "SELECT", "0")

			t.Log("WATCH of keys of both databases, aborted by writers direct and through")
			other := n.dial()
			for _, write := range []func(){
				func() { redis.DoDB(1, "SET", "product:1", "direct") },
				func() { redis.DoDB(0, "SET", "lock:1", "direct") },
				func() { want(t, other, "OK", "SET", "product:1", "through") },
			} {
				want(t, c, "OK", "WATCH", "product:1", "lock:1")
				write()
				want(t, c, "OK", "MULTI")
				want(t, c, "QUEUED", "SET", "product:1", "mine")
				want(t, c, "(nil)", "EXEC")
			}
			want(t, c, "OK", "WATCH", "product:1", "lock:1")
			want(t, c, "OK", "UNWATCH")
			want(t, other, "OK", "SET", "product:1", "through")
			want(t, c, "OK", "MULTI")
			want(t, c, "QUEUED", "SET", "product:1", "mine")
			want(t, c, "[OK]", "EXEC")
			want(t, other, "mine", "GET", "product:1")
		})
	}
	n.eventually("no connection stays pinned", func() bool { return n.origin.Stats().Pinned == 0 })
}

// A transaction whose connection is lost ends in EXECABORT, and the client stays.
func TestTransactionLost(t *testing.T) {
	_, relay, n := heldBack(t, nil)
	for _, watched := range []bool{false, true} {
		c := n.dial()
		if watched {
			want(t, c, "OK", "WATCH", "product:1")
		}
		want(t, c, "OK", "MULTI")
		want(t, c, "QUEUED", "SET", "product:1", "never")
		relay.Cut()
		n.eventually("the lost connection is noticed", func() bool { return strings.HasPrefix(c.Do("SET", "product:2", "never"), "-") })
		if got := c.Do("EXEC"); !strings.HasPrefix(got, "-EXECABORT") {
			t.Errorf("EXEC answered %s", got)
		}
		n.awaitLink()
		want(t, c, "(nil)", "GET", "product:1")
		// A WATCH lost before MULTI.
		want(t, c, "OK", "WATCH", "product:1")
		relay.Cut()
		n.awaitDown(c)
		want(t, c, "OK", "MULTI")
		if got := c.Do("EXEC"); !strings.HasPrefix(got, "-EXECABORT") {
			t.Errorf("EXEC after a lost WATCH answered %s", got)
		}
		want(t, c, "OK", "MULTI")
		want(t, c, "[]", "EXEC")
	}
}

// awaitDown waits until a session that watches has lost its connection.
func (n *nearside) awaitDown(*redistest.Client) {
	n.t.Helper()
	n.eventually("the pinned connection is lost", func() bool { return n.origin.Stats().Pinned == 0 })
	n.awaitLink()
}

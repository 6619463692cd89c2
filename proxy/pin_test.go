package proxy

import (
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

func TestBlocking(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c, other := n.dial(), n.dial()
	want(t, c, "(nil)", "BLPOP", "queue", "0.01")
	c.Write(redistest.Command("BLPOP", "queue", "0") + redistest.Command("GET", "product:1") + redistest.Command("PING"))
	n.eventually("it blocks at Redis", func() bool { return strings.Contains(redis.Do("INFO", "clients"), "blocked_clients:1") })
	want(t, other, "1", "RPUSH", "queue", "element")
	for _, expected := range []string{"[queue element]", "(nil)", "PONG"} {
		if got := c.Read(); got != expected {
			t.Fatalf("got %s, want %s", got, expected)
		}
	}
	n.eventually("the connection is given back", func() bool { return n.origin.Stats().Pinned == 0 })

	// A client that goes away while it is blocked takes nothing with it.
	c.Send("BLPOP", "queue", "0")
	n.eventually("it blocks at Redis", func() bool { return strings.Contains(redis.Do("INFO", "clients"), "blocked_clients:1") })
	c.Close()
	n.eventually("nobody blocks any more", func() bool { return strings.Contains(redis.Do("INFO", "clients"), "blocked_clients:0") })
	want(t, other, "1", "RPUSH", "queue", "kept")
	want(t, other, "kept", "LPOP", "queue")
}

func TestBlockingWriteOfCachedKey(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c, other := n.dial(), n.dial()
	c.Send("BLPOP", "stats:queue", "0")
	n.eventually("it blocks at Redis", func() bool { return strings.Contains(redis.Do("INFO", "clients"), "blocked_clients:1") })
	want(t, other, "0", "LLEN", "stats:queue")
	redis.DoDB(1, "RPUSH", "stats:queue", "a", "b")
	if got := c.Read(); got != "[stats:queue a]" {
		t.Fatalf("BLPOP answered %s", got)
	}
	want(t, other, "1", "LLEN", "stats:queue")
}

func TestPubSub(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	for _, proto := range []string{"2", "3"} {
		t.Run("RESP"+proto, func(t *testing.T) {
			sub, pub := n.dial(), n.dial()
			sub.Do("HELLO", proto)
			open, push := "[", ">["
			if proto == "2" {
				push = "["
			}
			sub.Send("SUBSCRIBE", "a", "b")
			for _, expected := range []string{"subscribe a 1]", "subscribe b 2]"} {
				if got := sub.Read(); got != push+expected {
					t.Fatalf("got %s, want %s", got, push+expected)
				}
			}
			want(t, sub, push+"psubscribe c* 3]", "PSUBSCRIBE", "c*")
			want(t, pub, "1", "PUBLISH", "a", "hello")
			if got := sub.Read(); got != push+"message a hello]" {
				t.Fatalf("got %s", got)
			}
			want(t, pub, "1", "PUBLISH", "cat", "purr")
			if got := sub.Read(); got != push+"pmessage c* cat purr]" {
				t.Fatalf("got %s", got)
			}
			if proto == "2" {
				want(t, sub, open+"pong ]", "PING")
				want(t, sub, open+"pong x]", "PING", "x")
				want(t, sub, "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context", "GET", "product:1")
			} else {
				want(t, sub, "PONG", "PING")
				want(t, sub, "(nil)", "GET", "product:1")
			}
			want(t, sub, push+"unsubscribe a 2]", "UNSUBSCRIBE", "a")
			want(t, sub, push+"unsubscribe b 1]", "UNSUBSCRIBE")
			want(t, sub, push+"unsubscribe (nil) 1]", "UNSUBSCRIBE")
			want(t, sub, push+"punsubscribe c* 0]", "PUNSUBSCRIBE", "c*")
			want(t, sub, "(nil)", "GET", "product:1")
			want(t, pub, "0", "PUBLISH", "a", "nobody")
			n.eventually("the connection is given back", func() bool { return n.origin.Stats().Pinned == 0 })
		})
	}
}

// A refused SUBSCRIBE of several channels is one error.
func TestSubscribeRefused(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all", "resetchannels")
	n := start(t, redis, nil)
	c := n.dial()
	want(t, c, "OK", "AUTH", "bob", "pw")
	if got := c.Do("SUBSCRIBE", "a", "b", "c"); !strings.HasPrefix(got, "-NOPERM") {
		t.Fatalf("got %s", got)
	}
	want(t, c, "bob", "ACL", "WHOAMI")
}

// A lost subscription is a closed connection, as at Redis: the client could
// have missed a message.
func TestSubscriptionLost(t *testing.T) {
	_, relay, n := heldBack(t, nil)
	sub, c := n.dial(), n.dial()
	sub.Do("SUBSCRIBE", "a")
	want(t, c, "OK", "SET", "x", "1")
	reconnects := n.link.Stats().Reconnects
	relay.Cut()
	sub.Closed()
	n.eventually("the link was made anew", func() bool { return n.link.Stats().Reconnects > reconnects })
	n.awaitLink()
	want(t, c, "1", "GET", "x")
}

func TestMonitor(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	want(t, c, "OK", "MONITOR")
	redis.Do("ECHO", "seen")
	n.eventually("the monitor sees it", func() bool { return strings.Contains(c.Read(), `"ECHO" "seen"`) })
}

func TestClientTracking(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	c.Do("HELLO", "3")
	want(t, c, "OK", "SELECT", "1")
	want(t, c, "OK", "CLIENT", "TRACKING", "ON")
	want(t, c, "(nil)", "GET", "product:1")
	redis.DoDB(1, "SET", "product:1", "x")
	if got := c.Read(); got != ">[invalidate [product:1]]" {
		t.Fatalf("got %s", got)
	}
	want(t, c, "OK", "CLIENT", "TRACKING", "OFF")
	want(t, c, "x", "GET", "product:1")
	n.eventually("the connection is given back", func() bool { return n.origin.Stats().Pinned == 0 })
}

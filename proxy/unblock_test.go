package proxy

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// CLIENT UNBLOCK ends the wait of one of nearside's clients with the bytes that
// Redis gives for it.
func TestClientUnblock(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	redis.Do("XGROUP", "CREATE", "stream", "g", "$", "MKSTREAM")
	waits := [][]string{
		{"BLPOP", "queue", "0"},
		{"BRPOP", "queue", "product:q", "0"},
		{"BLMOVE", "queue", "other", "LEFT", "RIGHT", "0"},
		{"BLMPOP", "0", "1", "queue", "LEFT"},
		{"BZPOPMIN", "stats:z", "0"},
		{"BZMPOP", "0", "1", "z", "MIN"},
		{"XREAD", "BLOCK", "0", "STREAMS", "stream", "$"},
		{"XREADGROUP", "GROUP", "g", "me", "BLOCK", "0", "STREAMS", "stream", ">"},
		{"WAIT", "1", "0"},
	}
	waits[1] = []string{"BRPOP", "queue", "0"}
	for _, proto := range []string{"2", "3"} {
		for _, how := range [][]string{nil, {"TIMEOUT"}, {"error"}} {
			for _, args := range waits {
				t.Run(fmt.Sprint("RESP", proto, how, args), func(t *testing.T) {
					got := make([]string, 2)
					for i, addr := range []string{redis.Addr, n.addr} {
						c, other := redistest.Dial(t, addr), redistest.Dial(t, addr)
						t.Cleanup(c.Close)
						t.Cleanup(other.Close)
						c.Do("HELLO", proto)
						id := c.Do("CLIENT", "ID")
						c.Send(args...)
						n.eventually("it blocks at Redis", func() bool { return blocked(redis) == 1 })
						want(t, other, "1", append([]string{"CLIENT", "UNBLOCK", id}, how...)...)
						c.Send("QUIT")
						got[i] = c.Closed()
						if blocked(redis) != 0 {
							t.Error("somebody still blocks")
						}
					}
					if got[0] != got[1] {
						t.Errorf("Redis answers %q, nearside %q", got[0], got[1])
					}
				})
			}
		}
	}
	c := n.dial()
	id := c.Do("CLIENT", "ID")
	for _, args := range [][]string{{id}, {"999999"}, {"x"}, {id, "x"}, {"-1"}, {"0"}, {id, "TIMEOUT", "x"}} {
		args = append([]string{"CLIENT", "UNBLOCK"}, args...)
		want(t, c, redis.Do(args...), args...)
	}
	n.eventually("no connection stays pinned", func() bool { return n.origin.Stats().Pinned == 0 })
}

// A session that blocks more than once on the same origin connection.
func TestClientUnblockAgain(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c, other := n.dial(), n.dial()
	id := c.Do("CLIENT", "ID")
	for i := range 20 {
		c.Write(redistest.Command("BLPOP", "a", "0") + redistest.Command("BLPOP", "b", "0"))
		for _, how := range []string{"TIMEOUT", "ERROR"} {
			n.eventually("it is unblocked", func() bool { return other.Do("CLIENT", "UNBLOCK", id, how) == "1" })
		}
		if a, b := c.Read(), c.Read(); a != "(nil)" || b != "-UNBLOCKED client unblocked via CLIENT UNBLOCK" {
			t.Fatalf("%d: %s, %s", i, a, b)
		}
	}
	want(t, c, "PONG", "PING")
	want(t, other, "0", "CLIENT", "UNBLOCK", id)
}

// QUIT behind a blocking command ends the wait at once.
func TestQuitBehindBlocking(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	other := n.dial()
	for i, behind := range []string{"*1\r\n$4\r\nQUIT\r\n", "quit\r\n", redistest.Command("SET", "x", "1") + redistest.Command("quit") + redistest.Command("PING")} {
		for _, split := range []bool{false, true} {
			c := n.dial()
			head := redistest.Command("BLPOP", "queue", "0")
			if split {
				c.Write(head)
				n.eventually("it blocks at Redis", func() bool { return blocked(redis) == 1 })
				c.Write(behind[:3])
				c.Write(behind[3:])
			} else {
				c.Write(head + behind)
			}
			expected := "*-1\r\n+OK\r\n"
			if i == 2 {
				expected = "*-1\r\n+OK\r\n+OK\r\n"
			}
			if got := c.Closed(); got != expected {
				t.Errorf("%q: got %q", behind, got)
			}
			if blocked(redis) != 0 {
				t.Error("somebody still blocks")
			}
			want(t, other, "1", "RPUSH", "queue", "kept")
			want(t, other, "kept", "LPOP", "queue")
		}
	}
	n.eventually("no connection stays pinned", func() bool { return n.origin.Stats().Pinned == 0 })
}

// A thousand blocked clients: every element is got by somebody who lives, and
// when all are killed nobody blocks at Redis a second later.
func TestThousandBlocked(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	const clients, killed = 1000, 600
	conns := make([]*redistest.Client, clients)
	var all sync.WaitGroup
	for i := range conns {
		conns[i] = redistest.Dial(t, n.addr)
		conns[i].Send("BLPOP", "queue", "0")
	}
	n.eventually("all block at Redis", func() bool { return blocked(redis) == clients })
	other := n.dial()
	want(t, other, "OK", "SET", "product:1", "x")
	n.warm(other, "GET", "product:1") // and nobody else waits

	kill := func(list []*redistest.Client, left int) {
		t.Helper()
		begun := time.Now()
		for _, c := range list {
			// As a killed process: no goodbye.
			_ = c.Conn.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
		n.eventually("the dead do not block", func() bool { return blocked(redis) == left })
		if took := time.Since(begun); took > time.Second {
			t.Errorf("%d killed clients blocked for %v", len(list), took)
		} else {
			t.Logf("%d killed clients blocked for %v", len(list), took)
		}
	}
	kill(conns[:killed], clients-killed)

	ledger := map[string]int{}
	var mu sync.Mutex
	for _, c := range conns[killed:] {
		all.Go(func() {
			got, err := c.TryRead()
			if err != nil {
				t.Errorf("a living client: %v", err)
			}
			mu.Lock()
			ledger[got]++
			mu.Unlock()
		})
	}
	for i := range clients - killed {
		if i%2 == 0 {
			other.Do("RPUSH", "queue", "e"+strconv.Itoa(i))
		} else {
			redis.Do("RPUSH", "queue", "e"+strconv.Itoa(i))
		}
	}
	all.Wait()
	for i := range clients - killed {
		if e := fmt.Sprintf("[queue e%d]", i); ledger[e] != 1 {
			t.Errorf("%s was got %d times", e, ledger[e])
		}
	}
	for _, c := range conns[killed:] {
		c.Send("BLPOP", "queue", "0")
	}
	n.eventually("they block at Redis again", func() bool { return blocked(redis) == clients-killed })
	kill(conns[killed:], 0)
	for i := range 100 {
		want(t, other, strconv.Itoa(i+1), "RPUSH", "queue", strconv.Itoa(i))
	}
	if got := strings.Count(redis.Do("LRANGE", "queue", "0", "-1"), " ") + 1; got != 100 {
		t.Errorf("%d of 100 elements are left", got)
	}
	n.eventually("no connection stays pinned", func() bool { return n.origin.Stats().Pinned == 0 })
}

// Beyond max_pinned a clear error, and everybody else goes on.
func TestMaxPinned(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.MaxPinned = 5 })
	var waiting []*redistest.Client
	for range 5 {
		c := n.dial()
		c.Send("BLPOP", "queue", "0")
		waiting = append(waiting, c)
	}
	n.eventually("they block at Redis", func() bool { return blocked(redis) == 5 })
	c := n.dial()
	for _, args := range [][]string{{"BLPOP", "queue", "0"}, {"SUBSCRIBE", "x"}, {"CLIENT", "TRACKING", "ON"}, {"WATCH", "x"}, {"BLPOP", "queue", "0"}} {
		if got := c.Do(args...); !strings.HasPrefix(got, "-ERR nearside: max_pinned (5)") {
			t.Errorf("%v answered %s", args, got)
		}
	}
	want(t, c, "OK", "UNWATCH")
	want(t, c, "OK", "MULTI") // as failTransaction says
	if got := c.Do("SET", "product:1", "never"); !strings.HasPrefix(got, "-ERR nearside: max_pinned (5)") {
		t.Errorf("a command in MULTI answered %s", got)
	}
	if got := c.Do("EXEC"); !strings.HasPrefix(got, "-EXECABORT") {
		t.Errorf("EXEC answered %s", got)
	}
	want(t, c, "OK", "SET", "product:1", "x")
	want(t, c, "x", "GET", "product:1")
	want(t, c, "1", "RPUSH", "queue", "a")
	n.eventually("one has been served", func() bool { return blocked(redis) == 4 })
	n.eventually("there is room again", func() bool { return c.Do("WATCH", "x") == "OK" })
	for _, w := range waiting {
		w.Close()
	}
	n.eventually("all else is given back", func() bool { return n.origin.Stats().Pinned == 1 })
}

package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// settled waits until nothing of what clients did is left.
func (n *nearside) settled() {
	n.t.Helper()
	n.eventually("nothing is left", func() bool {
		st := n.origin.Stats()
		return n.clients.Load() == 0 && len(n.sessionList()) == 0 && st.Pinned == 0 && n.budget.used.Load() == 0 && n.budget.transit.Load() == 0
	})
}

// In RESP2 a message looks like the reply to many a command. What EXEC answers is
// EXEC's reply, whatever it looks like.
func TestExecLooksLikeMessage(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	redis.Do("SET", "m", "message")
	redis.Do("SET", "p", "pmessage")
	redis.Do("RPUSH", "l", "message", "c", "x")
	for _, lines := range [][]string{
		{"MULTI", "GET m", "ECHO x", "SUBSCRIBE c", "EXEC", "PING"},
		{"MULTI", "GET m", "ECHO x", "ECHO y", "SUBSCRIBE c", "EXEC", "PING"},
		{"MULTI", "GET p", "ECHO x", "ECHO y", "PSUBSCRIBE c", "EXEC", "PING"},
		{"MULTI", "LRANGE l 0 -1", "SUBSCRIBE c", "EXEC", "PING"},
		{"MULTI", "SUBSCRIBE c", "LRANGE l 0 -1", "EXEC", "PING"},
		{"MULTI", "SUBSCRIBE c", "UNSUBSCRIBE c", "EXEC", "LRANGE l 0 -1", "MULTI", "GET m", "ECHO x", "UNSUBSCRIBE", "EXEC", "PING"},
		{"MULTI", "PSUBSCRIBE c*", "PUNSUBSCRIBE c*", "GET m", "EXEC", "MGET m m m", "PING"},
		{"MULTI", "GET m", "ECHO x", "UNSUBSCRIBE c", "EXEC", "LRANGE l 0 -1", "PING"},
		{"SUBSCRIBE c", "UNSUBSCRIBE c", "LRANGE l 0 -1", "PING"},
	} {
		for _, proto := range []string{"2", "3"} {
			raw := cmds(append([]string{"HELLO " + proto}, lines...)...) + quit
			if want, got := transcript(t, redis.Addr, raw, false), transcript(t, n.addr, raw, false); tail(got) != tail(want) {
				t.Errorf("RESP%s %s\n is answered %q\nby Redis with %q", proto, lines, tail(got), tail(want))
			}
		}
	}
	n.settled()
}

// tail is a transcript without the answer to HELLO.
func tail(s string) string {
	_, s, _ = strings.Cut(s, "$7\r\nmodules\r\n*0\r\n")
	return s
}

// Three hundred of these had used up max_pinned.
func TestExecLooksLikeMessageForever(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.MaxPinned = 4 })
	redis.Do("SET", "m", "message")
	for range 20 {
		c := n.dial()
		c.Write(cmds("MULTI", "GET m", "ECHO x", "SUBSCRIBE c", "EXEC"))
		for range 4 {
			c.Read()
		}
		if got := c.Read(); got != "[message x [subscribe c 1]]" {
			t.Fatalf("EXEC answered %s", got)
		}
		c.Close()
		n.settled()
	}
}

// A message that a RESP2 client's own transaction would cause stands between the
// elements of EXEC's array, uncounted: what may cause one is refused there.
func TestSubscribeInsideMultiRESP2(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, "--notify-keyspace-events", "AKE")
	n := start(t, redis, nil)
	for _, lines := range [][]string{
		{"SUBSCRIBE c", "PUBLISH c x"},
		{"SUBSCRIBE c", "EVAL return(1) 0"},
		{"SUBSCRIBE __redis__:invalidate", "GET x"},
		{"PSUBSCRIBE *", "SET x 1"},
		{"PSUBSCRIBE __k*", "GET x"},
		{"PSUBSCRIBE c", "PSUBSCRIBE _?ey*", "GET x"},
	} {
		c := n.dial()
		want(t, c, "OK", "SELECT", "7") // at 0 patterns of keyspace notifications are refused themselves
		want(t, c, "OK", "MULTI")
		for i, l := range lines {
			got := c.Do(strings.Fields(l)...)
			if refused := strings.HasPrefix(got, "-ERR nearside: in RESP2"); refused != (i == len(lines)-1) {
				t.Errorf("%s: %s answered %s", lines, l, got)
			}
		}
		if got := c.Do("EXEC"); !strings.HasPrefix(got, "-EXECABORT") {
			t.Errorf("%s: EXEC answered %s", lines, got)
		}
		want(t, c, "0", "PUBLISH", "c", "x")
		c.Close()
	}
}

// A monitor that is subscribed, and one that watches, get all their replies.
func TestMonitorAnswers(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	redis.Do("SET", "m", "message")
	for _, lines := range [][]string{
		{"HELLO 3", "SUBSCRIBE c", "MONITOR", "RESET", "ECHO still"},
		{"HELLO 3", "SUBSCRIBE c", "PSUBSCRIBE d", "MONITOR", "HELLO 3", "RESET", "ECHO still"},
		{"HELLO 3", "CLIENT TRACKING ON", "MONITOR", "RESET", "ECHO still"},
		{"WATCH k", "MONITOR", "GET k", "SET k v", "RESET", "ECHO still"},
		{"MONITOR", "GET k", "GET product:1", "SET lock:1 v NX", "PUBLISH c x", "RESET", "ECHO still"},
		{"WATCH k", "MONITOR", "GET k", "RESET", "GET m", "ECHO still"},
	} {
		c, d := n.dial(), redistest.Dial(t, redis.Addr)
		c.Write(cmds(lines...))
		d.Write(cmds(lines...))
		a, b := answers(c), answers(d)
		d.Close()
		if a != b {
			t.Errorf("%s\n is answered %s\nby Redis with %s", lines, a, b)
		}
		c.Close()
	}
	n.settled()
}

// answers reads until "still" and leaves a monitor's lines and HELLO's map out.
func answers(c *redistest.Client) string {
	var list []string
	for {
		got := c.Read()
		if !strings.Contains(got, " [") && !strings.HasPrefix(got, "{server") {
			list = append(list, got)
		}
		if got == "still" {
			return strings.Join(list, " | ")
		}
	}
}

// A client that is redirected to has a connection for that as long as somebody
// redirects to it, and no longer.
func TestRedirectionLetsGo(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	pinned := func(k int) {
		t.Helper()
		n.eventually(fmt.Sprint(k, " are pinned"), func() bool { return n.origin.Stats().Pinned == k })
	}
	c := n.dial()
	var targets []*redistest.Client
	var ids []string
	for range 20 {
		o := n.dial()
		targets = append(targets, o)
		ids = append(ids, o.Do("CLIENT", "ID"))
	}
	for _, id := range ids {
		want(t, c, "OK", "CLIENT", "TRACKING", "ON", "REDIRECT", id)
		want(t, c, id, "CLIENT", "GETREDIR")
	}
	pinned(2) // it and the last one
	want(t, c, "OK", "CLIENT", "TRACKING", "ON")
	pinned(1)
	// Refused ones pin nobody.
	for _, id := range ids {
		if got := c.Do("CLIENT", "TRACKING", "ON", "REDIRECT", id, "PREFIX", "a"); !strings.HasPrefix(got, "-ERR") {
			t.Fatal(got)
		}
	}
	pinned(1)
	want(t, c, "OK", "CLIENT", "TRACKING", "OFF")
	pinned(0)
	// Two redirect to one; one stays.
	d := n.dial()
	for _, o := range []*redistest.Client{c, d} {
		want(t, o, "OK", "CLIENT", "TRACKING", "ON", "REDIRECT", ids[0])
	}
	want(t, targets[0], "[subscribe __redis__:invalidate 1]", "SUBSCRIBE", "__redis__:invalidate")
	pinned(3)
	c.Close()
	pinned(2)
	want(t, d, "(nil)", "GET", "k")
	redis.Do("SET", "k", "v")
	if got := targets[0].Read(); got != "[message __redis__:invalidate [k]]" {
		t.Errorf("got %s", got)
	}
	want(t, d, "RESET", "RESET")
	pinned(1) // the subscription
	want(t, targets[0], "[unsubscribe __redis__:invalidate 0]", "UNSUBSCRIBE")
	pinned(0)
	// A target that blocks keeps its connection for that.
	targets[1].Send("BLPOP", "queue", "0")
	n.eventually("it blocks", func() bool { return blocked(redis) == 1 })
	want(t, d, "OK", "CLIENT", "TRACKING", "ON", "REDIRECT", ids[1])
	want(t, d, "OK", "CLIENT", "TRACKING", "OFF")
	redis.Do("RPUSH", "queue", "x")
	if got := targets[1].Read(); got != "[queue x]" {
		t.Errorf("got %s", got)
	}
	pinned(0)
	// To oneself.
	want(t, d, "OK", "CLIENT", "TRACKING", "ON", "REDIRECT", d.Do("CLIENT", "ID"))
	pinned(1)
	want(t, d, "OK", "CLIENT", "TRACKING", "OFF")
	pinned(0)
	d.Close()
	for _, o := range targets {
		o.Close()
	}
	n.settled()
}

// Pushes that Redis 6.0 and 7.0 put between the elements of EXEC's array, or in the
// middle of an MGET's, arrive, and the replies behind them are the right ones.
func TestPushesInsideReplies(t *testing.T) {
	for _, name := range redistest.All {
		t.Run(name.String(), func(t *testing.T) {
			t.Parallel()
			redis := redistest.StartNamed(t, name, "--notify-keyspace-events", "AKE")
			n := start(t, redis, nil)
			c := n.dial()
			c.Do("HELLO", "3")
			for _, l := range []struct {
				line, want string
				pushes     int
			}{
				{"SUBSCRIBE c", ">[subscribe c 1]", 0},
				{"CLIENT TRACKING ON", "OK", 0},
				{"GET k", "(nil)", 0},
				{"MULTI", "OK", 0},
				{"PUBLISH c x", "QUEUED", 0},
				{"SET k v", "QUEUED", 0},
				{"GET product:1", "QUEUED", 0},
				{"PSUBSCRIBE e*", "QUEUED", 0},
				{"EXEC", "[1 OK (nil) >[psubscribe e* 2]]", 2},
				{"GET k", "v", 0},
				{"SUBSCRIBE __keyevent@5__:expired", ">[subscribe __keyevent@5__:expired 3]", 0},
				{"DEBUG SET-ACTIVE-EXPIRE 0", "OK", 0},
				{"SELECT 5", "OK", 0},
				{"MSET a 1 b 2 c 3", "OK", 0},
				{"PEXPIREAT b 1", "1", -1},
				{"ECHO still", "still", 0},
			} {
				c.Send(strings.Fields(l.line)...)
				if strings.HasPrefix(l.line, "DEBUG") && name == redistest.Redis6 {
					c.Read()
					continue
				}
				var got string
				pushes := 0
				for {
					got = c.Read()
					if !strings.HasPrefix(got, ">[message") && !strings.HasPrefix(got, ">[invalidate") && !strings.HasPrefix(got, ">[pmessage") {
						break
					}
					pushes++
				}
				if got != l.want {
					t.Fatalf("%s answered %s, want %s", l.line, got, l.want)
				}
				for l.pushes > pushes {
					if got := c.Read(); !strings.HasPrefix(got, ">[message") && !strings.HasPrefix(got, ">[invalidate") {
						t.Fatalf("behind %s came %s", l.line, got)
					}
					pushes++
				}
			}
			c.Close()
			n.settled()
		})
	}
}

// A walk over very many databases leaves few connections, and never has very many.
func TestWalkOverDatabases(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, "--databases", "4000")
	n := start(t, redis, nil)
	c, d := n.dial(), n.dial()
	most := 0
	for db := 0; db < 4000; db += 4 {
		for _, o := range []*redistest.Client{c, d} {
			want(t, o, "OK", "SELECT", itoa(db))
			want(t, o, "(nil)", "GET", "x")
		}
		st := n.origin.Stats()
		most = max(most, st.Shared+st.Idle+st.Pinned)
	}
	if most > 700 {
		t.Errorf("there were %d connections", most)
	}
	n.eventually("few stay", func() bool { return n.origin.Stats().Shared <= 70 })
	want(t, c, "(nil)", "GET", "x")
	want(t, d, "OK", "SET", "x", "1")
}

// A reply that gets lost on a pinned connection, which Redis keeps open and idle, is not
// waited for for ever; a wait that the client wishes is.
func TestLostReplyOnPinnedConnection(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	relay := redistest.NewRelay(t, redis.Addr)
	n := launch(t, relay.URL(), func(c *Config) { c.OriginTimeout = 500 * time.Millisecond })
	n.awaitLink()
	blocks, pauses := n.dial(), n.dial()
	blocks.Send("BLPOP", "q", "0")
	held := relay.HoldReply("*1\r\n$5\r\nheld!")
	c := n.dial()
	c.Write(redistest.Command("MULTI") + redistest.Command("ECHO", "held!") + redistest.Command("EXEC"))
	<-held.Arrived
	begun := time.Now()
	c.Read()
	c.Read()
	if got := c.Read(); !strings.Contains(got, "origin_timeout") {
		t.Errorf("EXEC is answered %q", got)
	}
	want(t, c, "PONG", "PING")
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	// What Redis holds back goes on waiting: EXEC of a write while writes are paused.
	redis.Do("CLIENT", "PAUSE", "2500", "WRITE")
	pauses.Write(redistest.Command("MULTI") + redistest.Command("SET", "x", "1") + redistest.Command("EXEC"))
	for _, expected := range []string{"OK", "QUEUED", "[OK]"} {
		if got := pauses.Read(); got != expected {
			t.Errorf("got %s, want %s", got, expected)
		}
	}
	redis.Do("RPUSH", "q", "e")
	if got := blocks.Read(); got != "[q e]" {
		t.Errorf("BLPOP answered %s", got)
	}
}

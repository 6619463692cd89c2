package proxy

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// cmds encodes commands that are written with blanks.
func cmds(list ...string) (raw string) {
	for _, l := range list {
		raw += redistest.Command(strings.Fields(l)...)
	}
	return raw
}

// Locks that are acquired with a null for an answer. Guard: nilIsNo.
func TestLockHandedOverOtherWays(t *testing.T) {
	redisson := "if ((redis.call('exists', KEYS[1]) == 0) or (redis.call('hexists', KEYS[1], ARGV[2]) == 1)) then redis.call('hincrby', KEYS[1], ARGV[2], 1); redis.call('pexpire', KEYS[1], ARGV[1]); return nil; end; return redis.call('pttl', KEYS[1]);"
	for name, take := range map[string][]string{
		"SET NX GET": {"SET", "recharge:balance:7", "b", "NX", "GET", "PX", "10000"},
		"Redisson":   {"EVAL", redisson, "1", "recharge:balance:7", "10000", "b"},
	} {
		t.Run(name, func(t *testing.T) {
			redis, relay, b := heldBack(t, nil)
			a := start(t, redis, nil)
			o, h := a.dial(), b.dial()
			want(t, o, "OK", "SET", "balance:7", "100")
			b.warm(h, "GET", "balance:7")
			held := relay.HoldReply("invalidate")
			want(t, o, "OK", "SET", "balance:7", "150")
			<-held.Arrived
			h.Do(take...)
			want(t, h, "150", "GET", "balance:7")
			held.Release()
		})
	}
}

// A client that connects while nearside ends must not hold it up. Guard: ending in enrol.
func TestConnectAtTheEnd(t *testing.T) {
	redis := redistest.Start(t)
	for range 10 {
		n := launch(t, redis.URL(), nil)
		n.awaitLink()
		var mu sync.Mutex
		var conns []net.Conn
		var wg sync.WaitGroup
		connected := make(chan struct{}, 1)
		for range 16 {
			wg.Go(func() {
				for {
					c, err := net.Dial("tcp", n.addr)
					if err != nil {
						return
					}
					mu.Lock()
					conns = append(conns, c)
					mu.Unlock()
					select {
					case connected <- struct{}{}:
					default:
					}
				}
			})
		}
		<-connected
		n.stop()
		wg.Wait()
		for _, c := range conns {
			_ = c.Close()
		}
	}
}

// A read behind a command that took long must not be judged by the clock of
// before it. Guard: waited.
func TestClockAfterSlowCommand(t *testing.T) {
	for _, slow := range []string{"MGET other product:1", "DBSIZE", "INFO server"} {
		t.Run(slow, func(t *testing.T) {
			redis, relay, n := heldBack(t, func(c *Config) { c.MaxStaleness, c.Ping = 100*time.Millisecond, 10*time.Millisecond })
			redis.DoDB(1, "SET", "product:1", "old")
			c := n.dial()
			n.warm(c, "GET", "product:1")
			name, _, _ := strings.Cut(slow, " ")
			held, push := relay.HoldRequest(name), relay.HoldReply("invalidate")
			c.Write(cmds(slow, "GET product:1"))
			<-held.Arrived
			redis.DoDB(1, "SET", "product:1", "new")
			<-push.Arrived // with it, every PONG: the proof gets no younger
			n.eventually("the proof is too old", func() bool { return !n.link.Fresh(clockNow()) })
			held.Release()
			c.Read()
			if got := c.Read(); got != "new" {
				t.Errorf("GET behind it answered %s", got)
			}
			push.Release()
		})
	}
}

// A user who may not SELECT must not write into the wrong database.
func TestUserWithoutSelect(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all", "-select")
	redis.DoDB(1, "SET", "product:1", "right")
	n := start(t, redis, nil)
	c := n.dial()
	want(t, c, "OK", "AUTH", "bob", "pw")
	want(t, c, "right", "GET", "product:1")
	want(t, c, "OK", "WATCH", "lock:a")
	want(t, c, "right", "GET", "product:1")
	want(t, c, "OK", "SET", "product:1", "new")
	if got := redis.DoDB(0, "EXISTS", "product:1"); got != "0" {
		t.Error("written into database 0")
	}
	if got := redis.DoDB(1, "GET", "product:1"); got != "new" {
		t.Errorf("database 1 has %s", got)
	}
}

// A WATCH over two databases of which one part is refused is refused.
func TestWatchPartlyRefused(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~lock:*", "&*", "+@all")
	n := start(t, redis, nil)
	c := n.dial()
	want(t, c, "OK", "AUTH", "bob", "pw")
	for _, keys := range [][]string{{"WATCH", "product:1", "lock:a"}, {"WATCH", "lock:a", "product:1"}} {
		if got := c.Do(keys...); !strings.HasPrefix(got, "-NOPERM") {
			t.Errorf("%v answered %s", keys, got)
		}
	}
}

// A MULTI that Redis refuses opens nothing; one that is lost aborts at EXEC.
func TestMultiRefused(t *testing.T) {
	redis, relay, n := heldBack(t, nil)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all", "-multi")
	redis.DoDB(1, "SET", "product:1", "old")
	c, r := n.dial(), n.dial()
	n.warm(r, "GET", "product:1")
	want(t, c, "OK", "AUTH", "bob", "pw")
	if got := c.Do("MULTI"); !strings.HasPrefix(got, "-NOPERM") {
		t.Fatalf("MULTI answered %s", got)
	}
	held := relay.HoldReply("invalidate")
	want(t, c, "OK", "SET", "product:1", "new")
	want(t, r, "new", "GET", "product:1")
	held.Release()

	d := n.dial()
	lost := relay.HoldRequest("MULTI")
	d.Send("MULTI")
	<-lost.Arrived
	relay.Cut()
	if got := d.Read(); got != "OK" {
		t.Fatalf("a lost MULTI answered %s", got)
	}
	lost.Release()
	n.awaitLink()
	if got := d.Do("SET", "other", "never"); !strings.HasPrefix(got, "-") {
		t.Errorf("a command of a lost transaction answered %s", got)
	}
	if got := d.Do("EXEC"); !strings.HasPrefix(got, "-EXECABORT") {
		t.Errorf("EXEC of a lost transaction answered %s", got)
	}
	want(t, d, "(nil)", "GET", "other")
}

// A MULTI or WATCH that has no connection must not let the commands behind it run
// one by one, or unguarded.
func TestNoConnectionForMulti(t *testing.T) {
	redis, relay, n := heldBack(t, nil)
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "before")
	for _, chunk := range [][]string{{"MULTI", "SET product:1 never", "EXEC"}, {"WATCH product:1", "MULTI", "SET product:1 never", "EXEC"}} {
		relay.Refuse(true)
		relay.Cut()
		n.eventually("what was cut is noticed", func() bool { return n.origin.Stats().Idle == 0 })
		c.Write(cmds(chunk...))
		var last string
		for range chunk {
			last = c.Read()
		}
		if !strings.HasPrefix(last, "-EXECABORT") {
			t.Errorf("%v: EXEC answered %s", chunk, last)
		}
		relay.Refuse(false)
		n.awaitLink()
		want(t, c, "before", "GET", "product:1")
	}
	if got := redis.DoDB(1, "GET", "product:1"); got != "before" {
		t.Errorf("Redis has %s", got)
	}
}

// What monitors answers no more: nothing else may wait on its connection.
func TestMonitorAndOthers(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	for _, before := range []string{"WATCH a", "PING"} {
		c := n.dial()
		c.Write(cmds(before, "MONITOR", "MULTI", "WATCH a", "BLPOP q 1", "SUBSCRIBE ch", "PING hello"))
		n.eventually("PING is answered", func() bool { return c.Read() == "hello" })
	}
	c := n.dial()
	c.Do("HELLO", "3")
	want(t, c, "OK", "MONITOR")
	c.Send("CLIENT", "TRACKING", "ON")
	c.Close()
	n.eventually("nothing stays", func() bool { return n.origin.Stats().Pinned == 2 }) // the two above
}

// Before SUBSCRIBE changes what counts as a reply, all replies must be there.
func TestSubscribeBehindArrays(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("RPUSH", "l", "message", "a", "b")
	n := start(t, redis, nil)
	c := n.dial()
	c.Write(cmds("WATCH k", "LRANGE l 0 -1", "SUBSCRIBE ch", "PING x"))
	for _, expected := range []string{"OK", "[message a b]", "[subscribe ch 1]", "[pong x]"} {
		if got := c.Read(); got != expected {
			t.Fatalf("got %s, want %s", got, expected)
		}
	}
}

// A denied fetch is sent again as a plain read, in its place.
func TestDeniedFetchKeepsOrder(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "near", "on", ">pw", "~*", "&*", "+@all", "-pttl")
	redis.DoDB(1, "SET", "product:1", "old")
	n := launch(t, "redis://near:pw@"+redis.Addr, nil)
	n.awaitLink()
	c := n.dial()
	c.Write(cmds("GET product:1", "SET product:1 new", "GET product:1"))
	for _, expected := range []string{"old", "OK", "new"} {
		if got := c.Read(); got != expected {
			t.Errorf("got %s, want %s", got, expected)
		}
	}
}

// A client who has seen Redis's own state gets nothing older afterwards, however
// it has seen it. Guard: observe.
func TestNothingOlderAfterward(t *testing.T) {
	for _, reads := range [][]string{
		{"MULTI", "GET product:1", "EXEC"},
		{"MGET other product:1"},
		{"EVAL_RO return(redis.call('get',KEYS[1])) 1 product:1"},
		{"WATCH x", "GET product:1", "UNWATCH"},
	} {
		t.Run(reads[0], func(t *testing.T) {
			redis, relay, n := heldBack(t, nil)
			redis.DoDB(1, "SET", "product:1", "old")
			c := n.dial()
			n.warm(c, "GET", "product:1")
			push := relay.HoldReply("invalidate")
			redis.DoDB(1, "SET", "product:1", "new")
			<-push.Arrived
			saw := ""
			for _, r := range reads {
				saw += c.Do(strings.Fields(r)...)
			}
			if !strings.Contains(saw, "new") {
				t.Fatalf("%v answered %s", reads, saw)
			}
			want(t, c, "new", "GET", "product:1")
			push.Release()
		})
	}
}

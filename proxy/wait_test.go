package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// replicated starts a server and its replica, which follows.
func replicated(t *testing.T, server redistest.Name, args ...string) (redis, replica *redistest.Server) {
	t.Helper()
	redis = redistest.StartNamed(t, server, append(args, "--repl-diskless-sync-delay", "0")...)
	replica = redistest.StartNamed(t, server, "--replicaof", "127.0.0.1", redis.Port)
	(&nearside{t: t}).eventually("the replica follows", func() bool { return strings.Contains(redis.Do("INFO", "replication"), "state=online") })
	return redis, replica
}

// TestWait: WAIT speaks of the session's own writes, wherever they were sent: with a replica that stands
// still none has them, on whatever connection nearside asks.
func TestWait(t *testing.T) {
	for _, server := range redistest.All {
		t.Run(server.String(), func(t *testing.T) {
			t.Parallel()
			redis, replica := replicated(t, server)
			n := start(t, redis, nil)
			c := n.dial()
			for _, write := range [][]string{
				{"SET", "product:1", "a"},
				{"SET", "lock:1", "a", "NX"},
				{"MSET", "product:1", "b", "plain", "c"},
				{"DEL", "product:1", "plain"},
				{"EVAL", "return redis.call('incr', 'n')", "0"},
				{"XADD", "s", "*", "f", "v"},
				{"FLUSHDB"},
			} {
				if got := c.Do(write...); strings.HasPrefix(got, "-") {
					t.Fatalf("%v answered %s", write, got)
				}
				want(t, c, "1", "WAIT", "1", "0")
				replica.Stop()
				if got := c.Do(write...); strings.HasPrefix(got, "-") {
					t.Fatalf("%v answered %s", write, got)
				}
				want(t, c, "0", "WAIT", "1", "30")
				want(t, c, "0", "WAIT", "1", "30") // and again: the connection may be another
				want(t, c, "0", "WAIT", "0", "0")  // no replica is waited for
				want(t, n.dial(), "PONG", "PING")  // nobody else waits
				c.Send("WAIT", "1", "0")           // without end …
				c.Send("ECHO", "behind")           // … and what comes behind it waits
				replica.Continue()                 // … until the replica goes on
				if got := c.Read(); got != "1" {
					t.Errorf("%v: WAIT answered %s once the replica goes on", write, got)
				}
				if got := c.Read(); got != "behind" {
					t.Errorf("ECHO answered %s", got)
				}
			}
			// In a transaction of its own.
			replica.Stop()
			want(t, c, "OK", "MULTI")
			want(t, c, "QUEUED", "SET", "lock:2", "a")
			want(t, c, "[OK]", "EXEC")
			want(t, c, "0", "WAIT", "1", "30")
			replica.Continue()
			want(t, c, "1", "WAIT", "1", "0")
			n.eventually("no connection stays pinned", func() bool { return n.origin.Stats().Pinned == 0 })
		})
	}
}

// TestWaitLead: what goes ahead of WAIT invalidates nothing and is seen by no subscriber of patterns.
func TestWaitLead(t *testing.T) {
	for _, server := range []redistest.Name{redistest.Debian, redistest.Redis8} {
		t.Run(server.String(), func(t *testing.T) {
			t.Parallel()
			redis, _ := replicated(t, server)
			n := start(t, redis, nil)
			sub, c, monitor := n.dial(), n.dial(), redistest.Dial(t, redis.Addr)
			defer monitor.Close()
			sub.Do("PSUBSCRIBE", "*")
			want(t, c, "OK", "SET", "lock:1", "v")
			n.warm(c, "GET", "product:1")
			before := n.link.Stats()
			want(t, c, "1", "WAIT", "1", "0")
			hits := n.hits()
			want(t, c, "(nil)", "GET", "product:1")
			if n.hits() != hits+1 {
				t.Error("WAIT has invalidated something")
			}
			if after := n.link.Stats(); after.Keys != before.Keys {
				t.Errorf("the link was told of %d keys", after.Keys-before.Keys)
			}
			c.Do("PUBLISH", "end", "x")
			if got := sub.Read(); got != "[pmessage * end x]" {
				t.Errorf("a subscriber got %s", got)
			}
		})
	}
}

// TestWaitWithoutWrite: a session that has written nothing waits for nothing, and needs no right to publish.
func TestWaitWithoutWrite(t *testing.T) {
	t.Parallel()
	redis, replica := replicated(t, redistest.Redis8)
	n := start(t, redis, nil)
	replica.Stop()
	defer replica.Continue()
	redis.Do("SET", "k", "others'")
	redis.Do("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+wait", "+auth")
	for _, addr := range []string{redis.Addr, n.addr} {
		c := redistest.Dial(t, addr)
		want(t, c, "OK", "AUTH", "reader", "pw")
		want(t, c, "others'", "GET", "k")
		want(t, c, "1", "WAIT", "1", "30")
		c.Close()
	}
}

// TestWaitRights: a user that may not send the message is told what it lacks, and WAIT does not lie.
func TestWaitRights(t *testing.T) {
	for _, server := range redistest.All {
		t.Run(server.String(), func(t *testing.T) {
			t.Parallel()
			redis, replica := replicated(t, server)
			old := server == redistest.Debian || server == redistest.Redis6
			n := start(t, redis, nil)
			replica.Stop()
			defer replica.Continue()
			for name, rights := range map[string][]string{"neither": nil, "publish": {"+publish"}, "spublish": {"+spublish"}, "both": {"+@pubsub"}} {
				if name == "spublish" && server == redistest.Redis6 {
					continue
				}
				args := append([]string{"ACL", "SETUSER", name, "on", ">pw", "~*", "+set", "+wait"}, rights...)
				if server != redistest.Redis6 {
					args = append(args, "&nearside:wait")
				}
				if got := redis.Do(args...); got != "OK" {
					t.Fatal(got)
				}
				c := n.dial()
				want(t, c, "OK", "AUTH", name, "pw")
				want(t, c, "OK", "SET", "lock:1", "v")
				got := c.Do("WAIT", "1", "30")
				if name == "neither" && !old {
					if !strings.HasPrefix(got, "-NOPERM nearside: wait needs a right") || !strings.Contains(got, "+publish &nearside:wait") {
						t.Errorf("WAIT without the right answered %s", got)
					}
				} else if got != "0" {
					t.Errorf("WAIT with %s answered %s", name, got)
				}
			}
		})
	}
}

// TestWaitAOF: the answer comes when the session's writes are on disk.
func TestWaitAOF(t *testing.T) {
	for _, server := range []redistest.Name{redistest.Redis8, redistest.Valkey8, redistest.Valkey9} {
		t.Run(server.String(), func(t *testing.T) {
			t.Parallel()
			redis, replica := replicated(t, server)
			for _, s := range []*redistest.Server{redis, replica} { // appendfsync everysec
				s.Do("CONFIG", "SET", "appendonly", "yes")
			}
			n := start(t, redis, nil)
			c, other := n.dial(), n.dial()
			n.eventually("the file is begun", func() bool { return strings.Contains(redis.Do("INFO", "persistence"), "aof_rewrite_in_progress:0") })
			// A replica that has written to its disk, and one that stands still.
			want(t, c, "OK", "SET", "product:1", "w")
			want(t, c, "[1 1]", "WAITAOF", "1", "1", "0")
			replica.Stop()
			defer replica.Continue()
			want(t, c, "OK", "SET", "product:1", "x")
			if got := c.Do("WAITAOF", "0", "1", "30"); !strings.HasSuffix(got, " 0]") {
				t.Errorf("WAITAOF with a replica that stands still answered %s", got)
			}
			c.Send("WAITAOF", "1", "0", "0")
			want(t, other, "OK", "SET", "product:2", "v") // on no connection that others share
			if got := c.Read(); got != "[1 0]" {
				t.Errorf("WAITAOF answered %s", got)
			}
			want(t, c, "-ERR wrong number of arguments for 'waitaof' command", "WAITAOF", "1", "0")
			want(t, c, redis.Do("WAITAOF", "1", "0", "x"), "WAITAOF", "1", "0", "x")
			n.eventually("nothing is left", func() bool { return redis.Do("KEYS", "nearside:*") == "[]" })
			redis.Do("ACL", "SETUSER", "u", "on", ">pw", "~lock:*", "+@all")
			want(t, c, "OK", "AUTH", "u", "pw")
			if got := c.Do("WAITAOF", "1", "0", "0"); !strings.HasPrefix(got, "-NOPERM nearside: waitaof needs a right") || !strings.Contains(got, "~nearside:wait") {
				t.Errorf("WAITAOF without the right answered %s", got)
			}
			n.eventually("no connection stays pinned", func() bool { return n.origin.Stats().Pinned == 0 })
		})
	}
}

// TestWaitAOFSecond: Redis writes to disk once a second at most, so three times take at least as long as
// lies between the first and the third. (Valkey's own WAITAOF does not wait for that.)
func TestWaitAOFSecond(t *testing.T) {
	for _, replica := range []bool{false, true} { // a message would not do without one
		t.Run(fmt.Sprint("replica ", replica), func(t *testing.T) {
			t.Parallel()
			var redis *redistest.Server
			if replica {
				redis, _ = replicated(t, redistest.Redis8)
			} else {
				redis = redistest.StartNamed(t, redistest.Redis8)
			}
			redis.Do("CONFIG", "SET", "appendonly", "yes")
			n := start(t, redis, nil)
			c := n.dial()
			n.eventually("the file is begun", func() bool { return strings.Contains(redis.Do("INFO", "persistence"), "aof_rewrite_in_progress:0") })
			began := time.Now()
			for range 3 {
				want(t, c, "OK", "SET", "product:1", "v")
				want(t, c, "[1 0]", "WAITAOF", "1", "0", "0")
			}
			if took := time.Since(began); took < 900*time.Millisecond {
				t.Errorf("three times on disk within %v", took)
			}
			// The next time is most of a second away.
			want(t, c, "OK", "SET", "product:1", "v")
			want(t, c, "[0 0]", "WAITAOF", "1", "0", "30")
			want(t, c, "[0 0]", "WAITAOF", "1", "0", "30")
		})
	}
}

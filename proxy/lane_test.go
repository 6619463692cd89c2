package proxy

import (
	"strings"
	"sync"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
)

// soon bounds what takes as long as busy-reply-threshold at Redis itself.
const soon = 3 * time.Second

// A script without an end holds up nobody for longer than at Redis: each command of
// each other client is answered BUSY, and SCRIPT KILL gets through, whatever goes on.
func TestEndlessScript(t *testing.T) {
	const library = "#!lua name=l\nredis.register_function('endless', function() while true do end end)"
	endless := map[string][]string{
		"EVAL":           {"EVAL", "while true do end", "0"},
		"EVAL of a lock": {"EVAL", "while true do end", "1", "lock:1"},
		"EVALSHA":        {"EVALSHA", "694a5fe1ddb97a4c6a1bf299d9537c7d3d0f84e7", "0"}, // as below
		"EVAL_RO":        {"EVAL_RO", "while true do end", "0"},
		"FCALL":          {"FCALL", "endless", "0"},
		"FCALL_RO":       {"FCALL_RO", "endless", "0"},
		"in MULTI":       nil,
	}
	for name, script := range endless {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t, "--busy-reply-threshold", "100")
			n := start(t, redis, nil)
			if strings.HasPrefix(name, "FCALL") {
				if name == "FCALL_RO" {
					redis.Do("FUNCTION", "LOAD", strings.Replace(library, "('endless', function() while true do end end)", "{function_name='endless', callback=function() while true do end end, flags={'no-writes'}}", 1))
				} else {
					redis.Do("FUNCTION", "LOAD", library)
				}
			}
			if name == "EVALSHA" {
				script[1] = redis.Do("SCRIPT", "LOAD", "while true do end") // nearside has not seen its source
			}
			commands := [][]string{
				{"GET", "x"},
				{"SET", "x", "1"},
				{"GET", "product:1"},
				{"SET", "lock:1", "me", "NX"},
				{"DEL", "lock:2"},
				{"MGET", "x", "product:1"},
				{"EVAL", "return 1", "0"},
				{"EVAL", "return redis.call('DEL', KEYS[1])", "1", "lock:2"},
				{"EVAL", "for i=1,2 do end", "0"},
				{"FLUSHALL"},
				{"BLPOP", "q", "1"},
				{"CONFIG", "GET", "port"},
			}
			var others []*redistest.Client
			for range 2 { // one for each shared connection at least, that have been used before and not
				for range commands {
					others = append(others, n.dial())
				}
			}
			for i, c := range others {
				if i%2 == 0 {
					c.Do("GET", "x")
				}
			}
			c := n.dial()
			if script == nil {
				c.Write(cmds("MULTI") + redistest.Command("EVAL", "while true do end", "0") + cmds("EXEC"))
			} else {
				c.Send(script...)
			}
			n.eventually("Redis is busy", func() bool { return strings.HasPrefix(redis.Do("GET", "x"), "-BUSY") })
			begun := time.Now()
			var wg sync.WaitGroup
			for i, o := range others {
				args := commands[i%len(commands)]
				o.Send(args...)
				wg.Go(func() {
					got, err := o.TryRead()
					if err != nil || !strings.HasPrefix(got, "-BUSY Redis is busy running a script") {
						t.Errorf("%s is answered %q, %v after %s", args, got, err, time.Since(begun))
					}
				})
			}
			wg.Wait()
			if took := time.Since(begun); took > soon {
				t.Errorf("BUSY took %s", took)
			}
			begun = time.Now()
			kill, killer := "SCRIPT", n.dial()
			if strings.HasPrefix(name, "FCALL") {
				kill = "FUNCTION"
				if got := killer.Do("FUNCTION", "STATS"); !strings.Contains(got, "endless") {
					t.Errorf("FUNCTION STATS: %s", got)
				}
			}
			want(t, killer, "OK", kill, "KILL")
			killer.Close()
			if took := time.Since(begun); took > soon {
				t.Errorf("the kill took %s", took)
			}
			if script == nil {
				c.Read()
				c.Read()
			}
			if got := c.Read(); !strings.Contains(got, "ERR Error running script") && !strings.Contains(got, "killed by user") && !strings.Contains(got, "ERR Error") {
				t.Errorf("the script is answered %s", got)
			}
			for _, o := range others {
				want(t, o, "PONG", "PING")
				o.Close()
			}
			c.Close()
			n.settled()
		})
	}
}

// Another user, of whom there is no connection yet, can end a script.
func TestScriptKillOfAnotherUser(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, "--busy-reply-threshold", "100")
	redis.Do("ACL", "SETUSER", "admin", "on", ">pw", "+@all", "~*")
	n := start(t, redis, nil)
	c, admin := n.dial(), n.dial()
	want(t, admin, "OK", "AUTH", "admin", "pw")
	c.Send("EVAL", "while true do end", "0")
	n.eventually("Redis is busy", func() bool { return strings.HasPrefix(redis.Do("GET", "x"), "-BUSY") })
	want(t, admin, "OK", "SCRIPT", "KILL")
	c.Read()
	want(t, admin, "-NOTBUSY No scripts in execution right now.", "SCRIPT", "KILL")
}

// What follows a script in one session takes effect behind it, and the replies come in
// order, in a lane and out of it.
func TestOrderAroundLanes(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	const slow = "local n = 0 for i = 1, 20000 do n = n + i end return redis.call('GET', KEYS[1])"
	var wg sync.WaitGroup
	for k := range 4 {
		c := n.dial()
		wg.Go(func() {
			key := []string{"x:", "product:", "lock:", "y:"}[k]
			for i := range 200 {
				v := strings.Repeat("v", i+1)
				var raw, expected string
				for range 3 {
					raw += redistest.Command("SET", key, v) + redistest.Command("EVAL", slow, "1", key) + redistest.Command("GET", key) + redistest.Command("APPEND", key, "!") +
						redistest.Command("GET", key) + redistest.Command("EVAL", slow, "1", key) + redistest.Command("EVAL", "return redis.call('GET', KEYS[1])", "1", key)
					expected += "OK " + v + " " + v + " " + itoa(i+2) + " " + v + "! " + v + "! " + v + "! "
				}
				c.Write(raw)
				got := ""
				for range 21 {
					one, err := c.TryRead()
					if err != nil {
						t.Error(err)
						return
					}
					got += one + " "
				}
				if got != expected {
					t.Errorf("%s: got %.300s, want %.300s", key, got, expected)
					return
				}
			}
			c.Close()
		})
	}
	wg.Wait()
	n.settled()
}

// Where max_pinned leaves no room for lanes, scripts share a connection.
func TestNoRoomForLanes(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.MaxPinned = 1 })
	blocks := n.dial()
	blocks.Send("BLPOP", "q", "0")
	n.eventually("it blocks", func() bool { return blocked(redis) == 1 })
	for range 4 {
		want(t, n.dial(), "3", "EVAL", "local n = 0 for i = 1, 2 do n = n + i end return n", "0")
	}
}

// FLUSHALL and FLUSHDB block their own client only: Redis 8 frees the memory in the
// background, and everybody else goes on.
func TestFlushBlocksItself(t *testing.T) {
	for _, line := range []string{"FLUSHALL", "FLUSHALL SYNC", "FLUSHDB SYNC"} {
		t.Run(line, func(t *testing.T) {
			redis := redistest.StartNamed(t, redistest.Redis8)
			n := start(t, redis, func(c *Config) { c.OriginConnections = 1 })
			c, other := n.dial(), n.dial()
			want(t, c, "OK", "SELECT", "5")
			want(t, other, "OK", "SELECT", "5")
			redis.DoDB(5, "DEBUG", "POPULATE", "1000000")
			c.Send(strings.Fields(line)...)
			n.eventually("it blocks at Redis", func() bool { return blocked(redis) == 1 })
			want(t, other, "(nil)", "GET", "x")
			want(t, other, "OK", "SET", "x", "1")
			if blocked(redis) != 1 {
				t.Fatal("it was over too soon to show anything")
			}
			if got := c.Read(); got != "OK" {
				t.Errorf("%s answered %s", line, got)
			}
		})
	}
}

// A request that Redis closes its connection for costs nobody else a reply, and its
// client sees what it would see at Redis.
func TestTooLargeForRedis(t *testing.T) {
	t.Run("known", func(t *testing.T) { t.Parallel(); tooLargeForRedis(t, true) })
	t.Run("not known", func(t *testing.T) { t.Parallel(); tooLargeForRedis(t, false) })
}

func tooLargeForRedis(t *testing.T, known bool) {
	t.Helper()
	redis := redistest.Start(t, "--proto-max-bulk-len", "1mb")
	if !known {
		redis.Do("ACL", "SETUSER", "default", "-config|get")
	}
	n := start(t, redis, func(c *Config) { c.OriginConnections = 1 })
	var stop sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		c := n.dial()
		stop.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				c.Write(redistest.Command("SET", "k", "v") + redistest.Command("GET", "k") + redistest.Command("INCR", "n"))
				for range 3 {
					if got, err := c.TryRead(); err != nil || got[0] == '-' {
						t.Errorf("somebody else lost a reply: %s %v", got, err)
						return
					}
				}
			}
		})
	}
	if known {
		n.eventually("the limit is known", func() bool { return n.limits.bulk.Load() == 1<<20 })
	}
	for _, size := range []int{1<<20 - 100, 1 << 20, 1<<20 + 1, 3 << 20} {
		for _, key := range []string{"big", "product:big"} {
			raw := redistest.Command("SET", key, strings.Repeat("x", size)) + redistest.Command("STRLEN", key)
			got := transcript(t, n.addr, raw, false)
			const refused = "-ERR Protocol error: invalid bulk length\r\n"
			ok := false
			switch {
			case size <= 1<<20:
				ok = got == "+OK\r\n:"+itoa(size)+"\r\n"
			case known:
				ok = got == refused
			default: // a RST may overtake the error, as it may at Redis
				ok = strings.HasPrefix(got, refused) || strings.HasPrefix(got, "-ERR nearside: the connection to Redis")
			}
			if !ok {
				t.Errorf("%d bytes: %.100q", size, got)
			}
		}
	}
	close(done)
	stop.Wait()
}

// A reply that exceeds client-output-buffer-limit costs its own session the connection,
// and nobody else a reply.
func TestOutputLimit(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, "--client-output-buffer-limit", "normal 256kb 0 0")
	n := start(t, redis, func(c *Config) { c.OriginConnections = 1 })
	n.eventually("the limit is known", n.limits.narrow.Load)
	redis.Do("SET", "big", strings.Repeat("x", 16<<20))
	redis.DoDB(1, "SET", "product:big", strings.Repeat("x", 16<<20))
	var others sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		c := n.dial()
		others.Go(func() {
			defer c.Close()
			for {
				select {
				case <-done:
					return
				default:
				}
				c.Write(redistest.Command("SET", "k", "v") + redistest.Command("GET", "k") + redistest.Command("INCR", "n") + redistest.Command("GET", "product:1"))
				for range 4 {
					if got, err := c.TryRead(); err != nil || got[0] == '-' {
						t.Errorf("somebody else lost a reply: %s %v", got, err)
						return
					}
				}
			}
		})
	}
	for _, args := range [][]string{{"GET", "big"}, {"GETRANGE", "big", "0", "-1"}, {"SET", "big", "x", "GET"}, {"GET", "product:big"}, {"MGET", "product:big", "product:1"}, {"EVAL", "return string.rep('x', 2^24)", "0"}} {
		redis.Do("SET", "big", strings.Repeat("x", 16<<20))
		c := n.dial()
		c.Send(args...)
		if got, err := c.TryRead(); err == nil && !strings.HasPrefix(got, "-ERR nearside: the connection to Redis") && len(got) < 16<<20 {
			t.Errorf("%s is answered %.100q", args, got)
		}
		c.Close()
	}
	close(done)
	others.Wait()
	n.settled()
}

// Redis evicts the client that takes most memory; that must not be a shared connection.
func TestClientEviction(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	c.Do("GET", "x")
	c.Do("GET", "product:1")
	kept := 0
	for line := range strings.Lines(redis.Do("CLIENT", "LIST")) {
		if strings.Contains(line, "cmd=get ") || strings.Contains(line, "cmd=exec ") {
			if strings.Contains(line, " flags=e ") {
				kept++
			}
		}
	}
	if kept != 2 {
		t.Errorf("%d of the two shared connections are exempt", kept)
	}
}

func TestLimited(t *testing.T) {
	for classes, want := range map[string]bool{
		"normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60": false, "slave 1 1 1 normal 0 0 60": false, "": false, "normal": false,
		"normal 1 0 0 slave 0 0 0": true, "slave 0 0 0 normal 0 1 60": true,
	} {
		if limited(classes) != want {
			t.Errorf("%q", classes)
		}
	}
	for name := range smallReplies {
		if policy.Lookup([][]byte{[]byte(name)}) == nil {
			t.Errorf("there is no %s", name)
		}
	}
}

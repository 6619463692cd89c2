package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"nearside/proxy/internal/redistest"
)

// lateness is for how long tests make something late, and half of it is what counts as slow.
const lateness = 100 * time.Millisecond

func slowly(c *Config) { c.Slow = lateness / 2 }

// slowOf returns the newest slow command of a name, waiting for it.
func (n *nearside) slowOf(command string) (found *slowEntry) {
	n.t.Helper()
	n.eventually(command+" was slow", func() bool {
		for _, e := range n.slow.latest(-1) {
			if e.command == command {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// check compares an entry with where its time must have gone: "queue" or "origin".
func (e *slowEntry) check(t *testing.T, w path, where string, args ...string) {
	t.Helper()
	for name, d := range map[string]time.Duration{"queue": e.queue, "origin": e.origin} {
		if late := d >= lateness; late != (name == where) {
			t.Errorf("%v: %v in %s", e.args, d, name)
		}
	}
	if e.took != e.queue+e.origin || e.path != w || !reflect.DeepEqual(e.args, args) {
		t.Errorf("%v took %v of %v by %v, want %v by %v", e.args, e.took, e.queue+e.origin, e.path, args, w)
	}
}

// Redis answers late, on every way to it.
func TestSlowOrigin(t *testing.T) {
	server := redistest.Start(t)
	relay, n, _ := onRelay(t, server, slowly)
	c := n.dial()
	want(t, c, "OK", "CLIENT", "SETNAME", "shop")
	want(t, c, "[(nil) (nil)]", "MGET", "product:3", "product:4") // Redis is asked once whether it may be cached
	want(t, c, "[(nil)]", "MGET", "product:seen")                 // what Redis is asked once is not what is late
	for _, tt := range []struct {
		path path
		want string
		args []string
		list []string
	}{
		{pathPassed, "OK", []string{"SET", "other:1", "secret"}, []string{"set", "other:1", "(6 bytes)"}},
		{pathMiss, "(nil)", []string{"GET", "product:late"}, []string{"get", "product:late"}},
		{pathMiss, "[(nil) (nil)]", []string{"MGET", "product:x", "product:late2"}, []string{"mget", "product:x", "product:late2"}},
		{pathPinned, "OK", []string{"MSET", "product:y", "secret", "other:2", "secret"}, []string{"mset", "product:y", "(6 bytes)", "other:2", "(6 bytes)"}},
		{pathLocal, "", []string{"INFO", "late"}, []string{"info", "(4 bytes)"}},
	} {
		t.Run(tt.args[0], func(t *testing.T) {
			held := relay.HoldRequest(tt.args[1])
			c.Send(tt.args...)
			<-held.Arrived
			time.Sleep(lateness) // it is lateness that is tested
			held.Release()
			if got := c.Read(); got != tt.want {
				t.Errorf("%v answered %s", tt.args, got)
			}
			e := n.slowOf(strings.ToLower(tt.args[0]))
			e.check(t, tt.path, "origin", tt.list...)
			if e.name != "shop" || e.addr != c.Conn.LocalAddr().String() {
				t.Errorf("%s %s is not the client", e.addr, e.name)
			}
			if strings.HasPrefix(tt.args[1], "product:") != (e.prefix == "product:") {
				t.Errorf("rule %q", e.prefix)
			}
			if n.series(fmt.Sprintf("nearside_slow_commands_total{path=%q}", tt.path)) == "0" {
				t.Error("it is not counted")
			}
		})
	}
}

// Commands behind a slow one of the same client: what nearside makes them wait
// for is its queue, whatever the way.
func TestSlowQueue(t *testing.T) {
	server := redistest.Start(t)
	relay, n, _ := onRelay(t, server, slowly)
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "x")
	n.warm(c, "GET", "product:1")
	held := relay.HoldRequest("other:1")
	c.Write(redistest.Command("SET", "other:1", "x") + redistest.Command("GET", "product:1") + redistest.Command("PING") + redistest.Command("STRLEN", "product:1"))
	<-held.Arrived
	time.Sleep(lateness)
	held.Release()
	for _, want := range []string{"OK", "x", "PONG", "1"} {
		if got := c.Read(); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	n.slowOf("set").check(t, pathPassed, "origin", "set", "other:1", "(1 bytes)")
	n.slowOf("get").check(t, pathHit, "queue", "get", "product:1")
	n.slowOf("ping").check(t, pathLocal, "queue", "ping")
	n.slowOf("strlen").check(t, pathMiss, "queue", "strlen", "product:1")
}

// A reply that is ready waits for an earlier one.
func TestSlowOrder(t *testing.T) {
	s, client := bareSession(t, slowly)
	go func() { _, _ = io.Copy(io.Discard, client) }()
	n := &nearside{Proxy: s.p, t: t}
	command := func(args ...string) {
		s.args = nil
		for _, a := range args {
			s.args = append(s.args, []byte(a))
		}
		s.decide()
		s.start()
	}
	s.restart()
	command("GET", "product:1")
	first := s.slot()
	first.overtaken = true
	s.push(&first.pending, nil)
	command("STRLEN", "product:2")
	second := s.slot()
	second.overtaken = true
	s.push(&second.pending, nil)
	command("PING")
	s.replyString(replyPong)
	second.Reply([]byte(":1\r\n"), nil, nil)
	time.Sleep(lateness)
	first.Reply([]byte("+x\r\n"), nil, nil)
	n.slowOf("get").check(t, pathMiss, "origin", "get", "product:1")
	n.slowOf("strlen").check(t, pathMiss, "queue", "strlen", "product:2")
	n.slowOf("ping").check(t, pathLocal, "queue", "ping")
}

// A client that does not read makes none of its own commands slow, nor those behind them.
func TestSlowClient(t *testing.T) {
	server := redistest.Start(t)
	n := start(t, server, slowly)
	value := strings.Repeat("x", 1<<19)
	for _, key := range []string{"product:1", "other"} {
		want(t, n.dial(), "OK", "SET", key, value)
	}
	n.warm(n.dial(), "GET", "product:1")
	for _, args := range [][]string{{"GET", "product:1"}, {"GETRANGE", "other", "0", "-1"}} {
		c := n.narrow()
		const times = 20
		var request strings.Builder
		for range times {
			request.WriteString(redistest.Command(args...))
		}
		request.WriteString(redistest.Command("PING"))
		go func() { _, _ = io.WriteString(c.Conn, request.String()) }() // with an error no reply comes
		n.eventually("the client holds up what it is sent", func() bool { return n.budget.used.Load() > 1<<19 })
		time.Sleep(2 * lateness) // it is lateness that is tested
		n.slow.reset()           // what waited for room in the client's output was in the queue
		for range times {
			if c.Read() != value {
				t.Fatal("another value")
			}
		}
		want(t, c, "PONG", "PING")
		for _, e := range n.slow.latest(-1) {
			if e.origin >= lateness {
				t.Errorf("%v: %v at the origin", e.args, e.origin)
			}
		}
	}
}

// narrow is a client whose socket takes little.
func (n *nearside) narrow() *redistest.Client {
	n.t.Helper()
	c := n.dial()
	if err := c.Conn.(*net.TCPConn).SetReadBuffer(16 << 10); err != nil {
		n.t.Fatal(err)
	}
	return c
}

// What waits by design is not slow.
func TestNotSlow(t *testing.T) {
	server := redistest.Start(t)
	n := start(t, server, func(c *Config) { c.Slow = 500 * time.Millisecond })
	c, admin := n.dial(), n.dial()
	c.Write(redistest.Command("BLPOP", "list", "0.6") + redistest.Command("GET", "product:1") + redistest.Command("WAIT", "1", "600") + redistest.Command("XREAD", "BLOCK", "600", "STREAMS", "s", "$"))
	for range 4 {
		c.Read()
	}
	want(t, admin, "OK", "CLIENT", "PAUSE", "600")
	want(t, c, "(nil)", "GET", "product:1")
	want(t, c, "OK", "SET", "product:1", "x")
	for _, e := range n.slow.latest(-1) {
		t.Errorf("%v took %v", e.args, e.took)
	}
}

// The replies have the form that Redis's own have, and three elements more.
func TestSlowlogShape(t *testing.T) {
	server := redistest.Start(t)
	server.Do("CONFIG", "SET", "slowlog-log-slower-than", "0")
	n := start(t, server, func(c *Config) { c.Slow = time.Microsecond })
	ctx := context.Background()
	for _, proto := range []int{2, 3} {
		own := speaking(t, n.addr, proto)
		theirs := speaking(t, server.Addr, proto)
		for _, c := range []*redis.Client{own, theirs} {
			if err := c.Set(ctx, "product:1", "value", 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
		ours, err := own.Do(ctx, "NEARSIDE", "SLOWLOG", "GET", -1).Slice()
		if err != nil {
			t.Fatal(err)
		}
		known, err := theirs.Do(ctx, "SLOWLOG", "GET", -1).Slice()
		if err != nil {
			t.Fatal(err)
		}
		a, b := entryOf(t, ours, "set"), entryOf(t, known, "set")
		if len(b) != 6 || len(a) != 9 {
			t.Fatalf("%v\n%v", a, b)
		}
		for i := range b {
			if reflect.TypeOf(a[i]) != reflect.TypeOf(b[i]) {
				t.Errorf("element %d is %T, Redis's %T", i, a[i], b[i])
			}
		}
		if sum := a[6].(int64) + a[7].(int64); a[2].(int64) < sum || a[2].(int64) > sum+1 || a[8] != "passed" {
			t.Errorf("%v of %d", a, sum)
		}
	}

	c, r := n.dial(), redistest.Dial(t, server.Addr)
	defer r.Close()
	for _, args := range [][]string{{"GET", "x"}, {"GET", "-2"}, {"GET", "0"}, {"RESET"}} {
		got, expected := c.Do(append([]string{"NEARSIDE", "SLOWLOG"}, args...)...), r.Do(append([]string{"SLOWLOG"}, args...)...)
		if got != expected {
			t.Errorf("%v: %s, Redis %s", args, got, expected)
		}
	}
	n = start(t, server, func(c *Config) { c.Slow = time.Hour }) // nothing more
	c = n.dial()
	want(t, c, "PONG", "PING")
	n.slow.add(&op{}, 0, slowClient{})
	want(t, c, "1", "NEARSIDE", "SLOWLOG", "LEN")
	want(t, c, "OK", "NEARSIDE", "SLOWLOG", "RESET")
	want(t, c, "0", "NEARSIDE", "SLOWLOG", "LEN")
	want(t, c, "-ERR unknown subcommand 'NOSUCH'. Try NEARSIDE HELP.", "NEARSIDE", "SLOWLOG", "NOSUCH")
	for _, args := range [][]string{{}, {"GET", "1", "2"}, {"LEN", "x"}, {"RESET", "x"}} {
		want(t, c, "-ERR wrong number of arguments for 'nearside|slowlog' command", append([]string{"NEARSIDE", "SLOWLOG"}, args...)...)
	}
	if got := c.Do("SLOWLOG", "GET", "1"); !strings.Contains(got, "SLOWLOG") && !strings.Contains(got, "slowlog") && !strings.Contains(got, " ") {
		t.Errorf("Redis's own SLOWLOG answers %s", got)
	}
}

func speaking(t *testing.T, addr string, proto int) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr, Protocol: proto, DisableIdentity: true})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// entryOf finds a command's entry in a slow log.
func entryOf(t *testing.T, list []any, command string) []any {
	t.Helper()
	for _, e := range list {
		if entry := e.([]any); entry[3].([]any)[0] == command {
			return entry
		}
	}
	t.Fatalf("no %s in %v", command, list)
	return nil
}

// 128 are kept, the newest; ids go on after RESET.
func TestSlowlogRing(t *testing.T) {
	s, _ := bareSession(t, nil)
	l := &s.p.slow
	for range 300 {
		l.add(&op{}, 0, slowClient{})
	}
	list := l.latest(-1)
	if l.len() != slowEntries || len(list) != slowEntries || list[0].id != 299 || list[slowEntries-1].id != 300-slowEntries {
		t.Errorf("%d entries from %d to %d", len(list), list[0].id, list[len(list)-1].id)
	}
	if list := l.latest(3); len(list) != 3 || list[2].id != 297 {
		t.Errorf("the newest three: %v", list)
	}
	l.reset()
	if l.len() != 0 || len(l.latest(10)) != 0 {
		t.Error("something is left")
	}
	l.add(&op{}, 0, slowClient{})
	if list := l.latest(10); len(list) != 1 || list[0].id != 300 {
		t.Errorf("after the reset: %v", list)
	}
}

// At most ten lines a second, and one for the rest.
func TestSlowLines(t *testing.T) {
	var log safeBuffer
	s, _ := bareSession(t, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	for range 50 {
		s.p.slow.add(&op{}, 0, slowClient{})
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		s.p.slow.run(ctx, s.p.log)
		close(done)
	}()
	n := &nearside{Proxy: s.p, t: t}
	n.eventually("all are written or counted", func() bool { return len(s.p.slow.lines) == 0 })
	cancel()
	<-done
	if text := log.String(); strings.Count(text, `msg="slow command"`) != slowLines || !strings.Contains(text, "left_out=40") {
		t.Errorf("%s", text)
	}
}

// safeBuffer is a buffer for a log.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// No value, password or script is kept, and no key gets into the log.
func TestSlowlogSecrets(t *testing.T) {
	server := redistest.Start(t)
	var log safeBuffer
	n := start(t, server, func(c *Config) {
		c.Slow = time.Microsecond
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	})
	c := n.dial()
	for _, args := range [][]string{
		{"AUTH", "secret"},
		{"AUTH", "default", "secret"},
		{"HELLO", "2", "AUTH", "default", "secret"},
		{"ACL", "SETUSER", "eve", "on", ">secret"},
		{"CONFIG", "SET", "masterauth", "secret"},
		{"CONFIG", "SET", "masterauth", ""},
		{"EVAL", "return 'secret'", "1", "key:1", "secret"},
		{"SET", "key:2", "secret"},
		{"HSET", "key:3", "secret", "secret"},
		{"MSET", "product:1", "secret", "key:4", "secret"},
		{"secret", "secret"},
		{"ACL", "secret"},
		{"MIGRATE", "127.0.0.1", "1", "key:5", "0", "1", "AUTH", "secret"},
		{"PUBLISH", "news", "secret"},
		{"MULTI"},
		{"SET", "key:6", "secret"},
		{"CLIENT", "SETINFO", "secret", "secret"},
		{"EXEC"},
		{"SET", strings.Repeat("k", 100), strings.Repeat("secret", 1000), "EX", "60"},
		append([]string{"DEL"}, strings.Fields(strings.Repeat("key:7 ", 40))...),
	} {
		c.Do(args...)
	}
	n.slowOf("del") // the last one
	var all strings.Builder
	for _, e := range n.slow.latest(-1) {
		fmt.Fprintf(&all, "%q\n", e.args)
	}
	for _, expected := range []string{
		`["auth" "(6 bytes)"]`, `["auth" "(7 bytes)" "(6 bytes)"]`, `["acl" "setuser" "(3 bytes)" "(2 bytes)" "(7 bytes)"]`,
		`["config" "set" "(10 bytes)" "(6 bytes)"]`, `["eval" "(15 bytes)" "(1 bytes)" "key:1" "(6 bytes)"]`, `["unknown" "(6 bytes)"]`,
		`["mset" "product:1" "(6 bytes)" "key:4" "(6 bytes)"]`, `["hset" "key:3" "(6 bytes)" "(6 bytes)"]`,
		fmt.Sprintf(`["set" "%s... (60 more bytes)" "(6000 bytes)" "(2 bytes)" "(2 bytes)"]`, strings.Repeat("k", 40)),
		`"key:7" "... (`,
	} {
		if !strings.Contains(all.String(), expected) {
			t.Errorf("no %s in\n%s", expected, all.String())
		}
	}
	if strings.Contains(all.String(), "secret") {
		t.Errorf("a secret is kept:\n%s", all.String())
	}
	n.eventually("the log has something", func() bool { return strings.Contains(log.String(), "slow command") })
	n.stop()
	for _, word := range []string{"secret", "key:", "product:1", "kkk"} {
		if strings.Contains(log.String(), word) {
			t.Errorf("%s is in the log:\n%s", word, log.String())
		}
	}
}

// The rights are those of Redis's SLOWLOG.
func TestSlowlogRights(t *testing.T) {
	server := redistest.Start(t)
	server.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all", "-slowlog|get", "-slowlog|reset")
	n := start(t, server, nil)
	bob := n.as("bob", "pw")
	for _, args := range [][]string{{"GET"}, {"RESET"}} {
		if got := bob.Do(append([]string{"NEARSIDE", "SLOWLOG"}, args...)...); !strings.HasPrefix(got, "-NOPERM") {
			t.Errorf("%v answered %s", args, got)
		}
	}
	want(t, bob, "0", "NEARSIDE", "SLOWLOG", "LEN")
}

// A hit that a fence holds back waits in nearside's queue, and is counted once.
func TestSlowFence(t *testing.T) {
	server := redistest.Start(t)
	relay, n, _ := onRelay(t, server, func(c *Config) { slowly(c); c.MaxStaleness = time.Minute; c.Ping = time.Minute })
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "x")
	n.warm(c, "GET", "product:1")
	hits := n.commands("string", pathHit)
	held := relay.HoldReply("PONG")
	n.link.Fence()
	c.Send("GET", "product:1")
	<-held.Arrived
	time.Sleep(lateness)
	held.Release()
	if got := c.Read(); got != "x" {
		t.Fatal(got)
	}
	n.slowOf("get").check(t, pathHit, "queue", "get", "product:1")
	n.eventually("the hit is counted", func() bool { return n.commands("string", pathHit) == hits+1 })
}

package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// bothAnswer sends the same commands to a Redis and to a nearside, all of them before
// the first reply is read if the sockets take them, and compares every byte.
func bothAnswer(t *testing.T, redis *redistest.Server, n *nearside, request []byte) {
	t.Helper()
	var got [2][]byte
	for i, addr := range []string{redis.Addr, n.addr} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(2 * redistest.Timeout))
		written := make(chan error, 1)
		go func() {
			_, err := c.Write(append(request[:len(request):len(request)], quit...))
			written <- err
		}()
		select { // unread, until the other side takes no more or all is written
		case err := <-written:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(500 * time.Millisecond):
		}
		if got[i], err = io.ReadAll(bufio.NewReaderSize(c, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got[0], got[1]) {
		at := 0
		for at < min(len(got[0]), len(got[1])) && got[0][at] == got[1][at] {
			at++
		}
		t.Errorf("Redis answers %d bytes, nearside %d; they differ from byte %d on: %.60q and %.60q", len(got[0]), len(got[1]), at, got[0][at:], got[1][at:])
	}
}

// TestUnusualAsRedis: many pipelined commands unread, values of 10 MB, binary and
// empty keys and values.
func TestUnusualAsRedis(t *testing.T) {
	redis, behind := redistest.Start(t), redistest.Start(t)
	n := start(t, behind, nil)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	ten := string(pattern(10 << 20))
	mega := ten[:1<<20]
	repeat := func(times int, args ...string) string { return strings.Repeat(redistest.Command(args...), times) }
	for name, request := range map[string]string{
		"100,000 GETs":        redistest.Command("SET", "k", "v") + repeat(100_000, "GET", "k"),
		"100,000 hits":        redistest.Command("SET", "product:k", "v") + repeat(100_000, "GET", "product:k"),
		"100,000 INCRs":       repeat(100_000, "INCR", "product:n"),
		"100,000 of each way": strings.Repeat(redistest.Command("INCR", "lock:n")+redistest.Command("GET", "product:x")+redistest.Command("PING")+redistest.Command("INCR", "n"), 25_000),
		"100,000 errors":      repeat(100_000, "NOSUCH", "x"),
		"100,000 inline":      strings.Repeat("GET k\r\n", 100_000),
		"10 MB": redistest.Command("SET", "ten", ten) + redistest.Command("APPEND", "ten", "end") + repeat(2, "GET", "ten") +
			redistest.Command("SET", "product:ten", ten) + repeat(2, "GET", "product:ten") + redistest.Command("MGET", "product:ten", "ten") +
			redistest.Command("RPUSH", "product:l", "a", ten, "b") + redistest.Command("LRANGE", "product:l", "0", "-1") +
			redistest.Command("MULTI") + redistest.Command("SET", "product:ten", ten[1:]) + redistest.Command("GET", "product:ten") + redistest.Command("EXEC") +
			redistest.Command("EVAL", "return ARGV[1]", "0", ten),
		"a key of 1 MB": redistest.Command("SET", mega, "v") + redistest.Command("GET", mega) + redistest.Command("SET", "product:"+mega, "v") + repeat(2, "GET", "product:"+mega) +
			redistest.Command("MGET", mega, "product:"+mega) + redistest.Command("DEL", mega, "product:"+mega),
		"binary": redistest.Command("SET", string(all), string(all)) + repeat(2, "GET", string(all)) + redistest.Command("SET", "product:"+string(all), string(all)) +
			repeat(3, "GET", "product:"+string(all)) + redistest.Command("SET", "product:\r\n", "$3\r\nabc\r\n") + repeat(2, "GET", "product:\r\n") +
			redistest.Command("MGET", "product:\r\n", string(all)) + redistest.Command("EXISTS", "product:\x00") + redistest.Command("SET", "product:\x00", "") + repeat(2, "GET", "product:\x00") +
			redistest.Command("DEL", "product:\r\n", string(all), "product:\x00", "product:"+string(all)),
		"empty": redistest.Command("SET", "", "") + repeat(2, "GET", "") + redistest.Command("SET", "product:", "") + repeat(3, "GET", "product:") + redistest.Command("STRLEN", "") +
			redistest.Command("MGET", "", "product:", "") + redistest.Command("HSET", "product:hash", "", "") + repeat(2, "HGETALL", "product:hash") + redistest.Command("", "x") + redistest.Command("") +
			redistest.Command("DEL", "", "product:"),
	} {
		t.Run(name, func(t *testing.T) { bothAnswer(t, redis, n, []byte(request)) })
	}
	n.eventually("all buffers are given back", func() bool { return n.budget.used.Load() == 0 && n.budget.transit.Load() == 0 })
}

// TestDeny: what the configuration denies is refused wherever it comes from, and
// nothing else.
func TestDeny(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.Deny = []string{"debug", "config|set", "keys", "client|list", "get"} })
	c := n.dial()
	for _, args := range [][]string{{"DEBUG", "SLEEP", "0"}, {"config", "SET", "hz", "10"}, {"KEYS", "*"}, {"CLIENT", "LIST"}, {"GET", "product:1"}, {"get", "k"}} {
		name := strings.ToLower(args[0])
		if name == "config" || name == "client" {
			name += "|" + strings.ToLower(args[1])
		}
		if got := c.Do(args...); !strings.HasPrefix(got, "-NOPERM nearside: '") || !strings.Contains(got, strings.Split(name, "|")[0]) {
			t.Errorf("%v is answered %q", args, got)
		}
	}
	want(t, c, "OK", "SET", "k", "v")
	want(t, c, "1", "STRLEN", "k")
	if got := c.Do("CONFIG", "GET", "hz"); !strings.Contains(got, "10") {
		t.Errorf("CONFIG GET is answered %q", got)
	}
	want(t, c, "OK", "MULTI")
	if got := c.Do("GET", "k"); !strings.HasPrefix(got, "-NOPERM") {
		t.Errorf("GET inside MULTI is answered %q", got)
	}
	want(t, c, "-"+errExecAbort, "EXEC")
}

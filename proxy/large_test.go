package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// pattern is n bytes in which a missing or doubled part shows.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// bulkStream sends SETs and reads GETs without holding more than a piece.
type bulkStream struct {
	t testing.TB
	c net.Conn
	r *bufio.Reader
}

func newBulkStream(t testing.TB, addr string) *bulkStream {
	t.Helper()
	network, address := "tcp", addr
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, address = "unix", path
	}
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(4 * redistest.Timeout))
	return &bulkStream{t, c, bufio.NewReaderSize(c, 256<<10)}
}

// set sends SET key with n bytes of piece over and over.
func (b *bulkStream) set(key string, piece []byte, n int, options ...string) string {
	b.t.Helper()
	_, _ = fmt.Fprintf(b.c, "*%d\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n", 3+len(options), len(key), key, n)
	for n > 0 {
		m := min(n, len(piece))
		if _, err := b.c.Write(piece[:m]); err != nil {
			b.t.Fatal(err)
		}
		n -= m
	}
	tail := "\r\n"
	for _, o := range options {
		tail += fmt.Sprintf("$%d\r\n%s\r\n", len(o), o)
	}
	_, _ = io.WriteString(b.c, tail)
	return b.line()
}

func (b *bulkStream) line() string {
	b.t.Helper()
	line, err := b.r.ReadString('\n')
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimRight(line, "\r\n")
}

// get asks for key and compares the value with piece over and over.
func (b *bulkStream) get(key string, piece []byte, n int) {
	b.t.Helper()
	_, _ = io.WriteString(b.c, redistest.Command("GET", key))
	b.value(piece, n)
}

func (b *bulkStream) value(piece []byte, n int) {
	b.t.Helper()
	if head := b.line(); head != "$"+strconv.Itoa(n) {
		b.t.Fatalf("GET answers %.200q", head)
	}
	buf := make([]byte, len(piece))
	for n > 0 {
		m := min(n, len(piece))
		if _, err := io.ReadFull(b.r, buf[:m]); err != nil {
			b.t.Fatal(err)
		}
		if !bytes.Equal(buf[:m], piece[:m]) {
			b.t.Fatal("the value came back changed")
		}
		n -= m
	}
	if end := b.line(); end != "" {
		b.t.Fatalf("the value is followed by %.50q", end)
	}
}

// TestLargeValues: values far above every buffer go there and back whole, on every
// way a request can take, and nothing stays counted.
func TestLargeValues(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.Buffers, c.MaxRequest = 256<<20, 128<<20 })
	piece := pattern(1 << 20)
	const size = 70<<20 + 12345
	for _, key := range []string{"large", "lock:large", "product:large"} {
		b := newBulkStream(t, n.addr)
		if got := b.set(key, piece, size, "PX", "100000"); got != "+OK" {
			t.Fatalf("SET %s answers %q", key, got)
		}
		b.get(key, piece, size)
		b.get(key, piece, size)
	}
	b := newBulkStream(t, n.addr)
	for _, step := range []string{"MULTI", "SELECT 0"} { // a SELECT goes in front
		_, _ = io.WriteString(b.c, step+"\r\n")
		b.line()
	}
	if got := b.set("product:tx", piece, size); got != "+QUEUED" {
		t.Fatalf("SET inside MULTI answers %q", got)
	}
	_, _ = io.WriteString(b.c, redistest.Command("GET", "product:tx")+redistest.Command("EXEC"))
	for _, want := range []string{"+QUEUED", "*3", "+OK", "+OK"} {
		if got := b.line(); got != want {
			t.Fatalf("answers %q, want %q", got, want)
		}
	}
	b.value(piece, size)
	b.set("large", piece, 300<<10) // pipelined behind each other, small ones between
	var all bytes.Buffer
	for i := range 100 {
		all.WriteString(redistest.Command("SET", "p"+strconv.Itoa(i), string(piece[i:300<<10+i])) + redistest.Command("PING"))
	}
	go func() { _, _ = b.c.Write(all.Bytes()) }()
	for range 100 {
		if ok, pong := b.line(), b.line(); ok != "+OK" || pong != "+PONG" {
			t.Fatalf("answers %q, %q", ok, pong)
		}
	}
	if got := redis.Do("GET", "p99"); got != string(piece[99:300<<10+99]) {
		t.Error("p99 holds something else")
	}
	n.eventually("all buffers are given back", func() bool { return n.budget.used.Load() == 0 && n.budget.transit.Load() == 0 })
}

// TestLargeReplyDoesNotFit: a reply beyond the budget is an error for who asked;
// the connection that all share stays in order, and others notice nothing.
func TestLargeReplyDoesNotFit(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("SET", "large", string(pattern(20<<20)))
	redis.DoDB(1, "SET", "product:large", string(pattern(20<<20)))
	redis.Do("EVAL", "for i = 1, 1000000 do redis.call('rpush', KEYS[1], i) end", "1", "list")
	redis.Do("EVAL", "for i = 1, 100000 do redis.call('hset', KEYS[1], i, ARGV[1]) end", "1", "hash", strings.Repeat("f", 100))
	n := start(t, redis, func(c *Config) { c.Buffers, c.MaxRequest, c.OriginConnections = 8<<20, 4<<20, 1 })
	other := n.dial()
	for proto := 2; proto <= 3; proto++ {
		c := n.dial()
		c.Do("HELLO", strconv.Itoa(proto))
		for _, args := range [][]string{
			{"GET", "large"}, {"LRANGE", "list", "0", "-1"}, {"HGETALL", "hash"}, {"GET", "product:large"}, {"MGET", "large", "large"}, {"EVAL", "return {1, {2, redis.call('get', KEYS[1])}, 'x'}", "1", "large"},
		} {
			c.Send(args...)
			c.Send("ECHO", "behind it")
			other.Send("ECHO", "another's")
			if got := c.Read(); got != "-"+errLargeReply {
				t.Errorf("RESP%d: %s is answered %.200q", proto, args[0], got)
			}
			if got := c.Read(); got != "behind it" {
				t.Errorf("RESP%d: behind %s comes %.200q", proto, args[0], got)
			}
			if got := other.Read(); got != "another's" {
				t.Errorf("another client is answered %.200q", got)
			}
		}
		want(t, c, "OK", "MULTI")
		want(t, c, "QUEUED", "SET", "tx", "done")
		want(t, c, "QUEUED", "GET", "large")
		want(t, c, "-"+errLargeReply, "EXEC")
		want(t, c, "done", "GET", "tx")
		c.Do("DEL", "tx")
	}
	n.eventually("all buffers are given back", func() bool { return n.budget.used.Load() == 0 && n.budget.transit.Load() == 0 })
}

// TestLargeArray: a million elements come through as they are.
func TestLargeArray(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("EVAL", "for i = 1, 1000000 do redis.call('rpush', KEYS[1], i) end", "1", "list")
	redis.DoDB(1, "EVAL", "for i = 1, 1000000 do redis.call('rpush', KEYS[1], i) end", "1", "product:list")
	n := start(t, redis, nil)
	for _, key := range []string{"list", "product:list"} {
		b := newBulkStream(t, n.addr)
		_, _ = io.WriteString(b.c, redistest.Command("LRANGE", key, "0", "-1"))
		if got := b.line(); got != "*1000000" {
			t.Fatalf("LRANGE answers %.100q", got)
		}
		for i := 1; i <= 1_000_000; i++ {
			b.line()
			if got := b.line(); got != strconv.Itoa(i) {
				t.Fatalf("element %d is %.100q", i, got)
			}
		}
	}
	n.eventually("all buffers are given back", func() bool { return n.budget.used.Load() == 0 && n.budget.transit.Load() == 0 })
}

// TestArrayHeldOnce: a reply of very many elements is not copied to grow either.
func TestArrayHeldOnce(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("EVAL", "for i = 1, 1000000 do redis.call('rpush', KEYS[1], ARGV[1]) end", "1", "list", strings.Repeat("e", 60))
	p := startProcess(t, redis, "buffers: 256MiB\n")
	before, _ := p.memory()
	b := newBulkStream(t, p.addr)
	const size = 1_000_000 * (5 + 62)
	_, _ = io.WriteString(b.c, redistest.Command("LRANGE", "list", "0", "-1"))
	if got := b.line(); got != "*1000000" {
		t.Fatalf("LRANGE answers %.100q", got)
	}
	if n, err := io.CopyN(io.Discard, b.r, size); err != nil {
		t.Fatal(n, err)
	}
	_, peak := p.memory()
	t.Logf("LRANGE of %d MiB: %d MiB before, at most %d MiB", size>>20, before>>20, peak>>20)
	if most := before + size + size/8 + 32<<20; peak > most {
		t.Errorf("the process held %d MiB, more than one copy: %d MiB", peak>>20, most>>20)
	}
}

// TestHalfGigabyte: a value of Redis's own limit, 512 MB, is held once on its way
// there and once on its way back. NEARSIDE_SOAK=1 runs it at that size.
func TestHalfGigabyte(t *testing.T) {
	size, limits := 96<<20, "buffers: 256MiB\nmax_request: 128MiB\n"
	if os.Getenv("NEARSIDE_SOAK") != "" {
		size, limits = 512<<20-1<<10, "buffers: 1200MiB\nmax_request: 512MiB\n"
	}
	redis := redistest.Start(t)
	p := startProcess(t, redis, limits)
	before, _ := p.memory()
	piece := pattern(1 << 20)
	runtime.GC()
	b := newBulkStream(t, p.addr)
	for _, key := range []string{"huge", "product:huge"} {
		begun := time.Now()
		if got := b.set(key, piece, size); got != "+OK" {
			t.Fatalf("SET answers %q", got)
		}
		_, afterSet := p.memory()
		took := time.Since(begun)
		begun = time.Now()
		b.get(key, piece, size)
		_, afterGet := p.memory()
		t.Logf("%s of %d MiB: %d MiB before; SET in %v, at most %d MiB; GET in %v, at most %d MiB", key, size>>20, before>>20, took, afterSet>>20, time.Since(begun), afterGet>>20)
	}
	_, peak := p.memory()
	if most := before + int64(size) + int64(size)/8 + 32<<20; peak > most {
		t.Errorf("the process held %d MiB, more than one copy: %d MiB", peak>>20, most>>20)
	}
	p.eventually("all buffers are given back", func() bool { return p.info("nearside_buffer_bytes") == 0 })
}

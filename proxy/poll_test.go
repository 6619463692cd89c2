//go:build linux

package proxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nearside/proxy/internal/redistest"
)

// oneLoop makes all sessions share one loop.
func oneLoop(t *testing.T) {
	t.Helper()
	old := runtime.GOMAXPROCS(1)
	t.Cleanup(func() { runtime.GOMAXPROCS(old) })
}

// A session whose reader must wait gives the loop to another goroutine first.
// Guard: blocking.
func TestLoopIsHandedOver(t *testing.T) {
	oneLoop(t)
	_, relay, n := heldBack(t, nil)
	waiting, other := n.dial(), n.dial()
	want(t, waiting, "OK", "SET", "lock:a", "mine", "NX")
	want(t, other, "PONG", "PING")
	held := relay.HoldRequest("SET\r\n$9\r\nproduct:1")
	waiting.Write(redistest.Command("SET", "product:1", "2") + redistest.Command("EVAL", release, "1", "lock:a", "mine"))
	<-held.Arrived
	n.eventually("the session waits before the script", n.waits)
	for range 100 {
		want(t, other, "PONG", "PING")
		want(t, other, "OK", "SET", "lock:b", "t")
	}
	held.Release()
	if a, b := waiting.Read(), waiting.Read(); a != "OK" || b != "1" {
		t.Errorf("answered %s, %s", a, b)
	}
}

// stuckHandler is a log that does not return from one message.
type stuckHandler struct {
	slog.Handler
	arrived, release chan struct{}
}

func (h *stuckHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *stuckHandler) Handle(ctx context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "HTTP") {
		close(h.arrived)
		<-h.release
	}
	return h.Handler.Handle(ctx, r)
}

// Where nobody has thought of blocking, others still are served. Guard: supervise.
func TestLoopIsTakenOver(t *testing.T) {
	oneLoop(t)
	redis := redistest.Start(t)
	stuck := &stuckHandler{slog.DiscardHandler, make(chan struct{}), make(chan struct{})}
	n := start(t, redis, func(c *Config) { c.Log = slog.New(stuck) })
	browser, other := n.dial(), n.dial()
	want(t, browser, "PONG", "PING")
	want(t, other, "PONG", "PING")
	browser.Write("POST / HTTP/1.1\r\n")
	<-stuck.arrived
	for range 100 {
		want(t, other, "PONG", "PING")
		want(t, other, "OK", "SET", "k", "v")
	}
	close(stuck.release)
	if got := browser.Closed(); got != "" {
		t.Errorf("the browser got %q", got)
	}
	want(t, other, "PONG", "PING")
}

// What comes together with the client's last request is not forgotten: no edge
// tells of it again. Guard: hungUp.
func TestLoopSeesTheEnd(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	for i := range 300 {
		c, err := net.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(redistest.Timeout))
		if i%2 == 0 { // a session that rests
			_, _ = io.WriteString(c, "PING\r\n")
			_, _ = io.ReadFull(c, make([]byte, len("+PONG\r\n")))
		}
		_, _ = io.WriteString(c, "PING\r\n")
		_ = c.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(c)
		if string(got) != "+PONG\r\n" || err != nil {
			t.Fatalf("connection %d: %q, %v", i, got, err)
		}
		_ = c.Close()
	}
	n.eventually("all sessions have ended", func() bool { return n.clients.Load() == 0 })
	if known := n.env.loops.Members(); known > 4 { // connections to the origin
		t.Errorf("the loops still know %d sockets", known)
	}
}

// An idle client costs no goroutine, also after it needed one.
func TestIdleSessionsHaveNoGoroutine(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	before := runtime.NumGoroutine()
	const clients = 200
	for i := range clients {
		c := n.dial()
		switch i % 4 {
		case 0:
			want(t, c, "PONG", "PING")
		case 1: // a request in two pieces
			c.Write("*1\r\n$4\r\nPI")
			n.eventually("the piece has come", func() bool {
				list := n.sessionList()
				return len(list) > i && list[i].unread.Load() > 0
			})
			c.Write("NG\r\n")
			if got := c.Read(); got != "PONG" {
				t.Fatalf("answered %s", got)
			}
		case 2:
			want(t, c, "OK", "MULTI")
			want(t, c, "QUEUED", "PING")
			c.Do("EXEC")
		case 3:
			want(t, c, "OK", "SET", "k", "v")
		}
	}
	n.eventually("their goroutines have ended", func() bool { return runtime.NumGoroutine() < before+clients/4 })
	for _, s := range n.sessionList() {
		n.eventually("the session rests", s.src.Idle)
	}
}

// A client that waits for its answer is not idle, however long that takes.
func TestIdleTimeoutWaitsForAnswers(t *testing.T) {
	for _, looped := range []bool{true, false} {
		t.Run(fmt.Sprint("looped=", looped), func(t *testing.T) {
			_, relay, n := heldBack(t, func(c *Config) { c.IdleTimeout = 300 * time.Millisecond })
			c := n.dial()
			want(t, c, "OK", "SET", "a", "v")
			rest := n.sessionList()[0].src.Idle
			if !looped { // an owned connection keeps the session's goroutine
				want(t, c, "OK", "WATCH", "b")
				rest = func() bool { return true }
			}
			held := relay.HoldReply("$1\r\nv")
			defer held.Release()
			c.Send("GETSET", "a", "v") // a read would be sent once more, elsewhere
			<-held.Arrived
			n.eventually("the session waits for its client", rest)
			for begun := time.Now(); time.Since(begun) < 4*n.conf().IdleTimeout; time.Sleep(time.Millisecond) {
				n.closeIdleSince(clockNow() - int64(n.conf().IdleTimeout)) // as once a second
			}
			held.Release()
			if got := c.Read(); got != "v" {
				t.Errorf("the client reads %q", got)
			}
			want(t, c, "PONG", "PING")
			for n.m.timedOut.Get() == 0 { // and then it is
				n.closeIdleSince(clockNow() - int64(n.conf().IdleTimeout))
				time.Sleep(time.Millisecond)
			}
			if got := c.Closed(); got != "" {
				t.Errorf("it got %q", got)
			}
		})
	}
}

// Nor is one that was just answered, although it asked long ago: its time begins anew
// when that is noticed.
func TestIdleTimeoutCountsFromTheAnswer(t *testing.T) {
	_, relay, n := heldBack(t, nil)
	c := n.dial()
	want(t, c, "OK", "SET", "a", "v")
	s := n.sessionList()[0]
	held := relay.HoldReply("$1\r\nv")
	defer held.Release()
	c.Send("GET", "a")
	<-held.Arrived
	n.eventually("the session waits for its client", s.src.Idle)
	held.Release()
	if got := c.Read(); got != "v" {
		t.Fatalf("the client reads %q", got)
	}
	n.eventually("nothing is owed", func() bool { return !s.owes() })
	n.closeIdleSince(clockNow()) // whoever has asked before now is idle for too long
	want(t, c, "PONG", "PING")
	n.eventually("the session waits for its client", s.src.Idle)
	n.closeIdleSince(clockNow())
	if got := c.Closed(); got != "" {
		t.Errorf("it got %q", got)
	}
}

// A longer idle_timeout, or none, is good for those who were idle already.
func TestReloadIdleTimeout(t *testing.T) {
	const short = 200 * time.Millisecond
	n := start(t, redistest.Start(t), func(c *Config) { c.IdleTimeout = short })
	c := n.dial()
	want(t, c, "OK", "WATCH", "a") // keeps the goroutine, which has set a deadline
	n.mustReload(func(c *Config) { c.IdleTimeout = 0 })
	time.Sleep(short + short/2)
	want(t, c, "PONG", "PING")
}

// idle_timeout closes whom a loop looks after, too, but no subscriber.
func TestIdleSessionsAreClosed(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	idle, subscriber := n.dial(), n.dial()
	want(t, idle, "PONG", "PING")
	want(t, subscriber, "[subscribe news 1]", "SUBSCRIBE", "news")
	n.eventually("the idle one rests", n.sessionList()[0].src.Idle)
	n.closeIdleSince(n.sessionList()[0].active.Load())
	want(t, idle, "PONG", "PING") // not longer than that
	n.eventually("the idle one rests", n.sessionList()[0].src.Idle)
	n.closeIdleSince(n.sessionList()[0].active.Load() + 1)
	if got := idle.Closed(); got != "" {
		t.Errorf("it got %q", got)
	}
	if list := n.sessionList(); n.m.timedOut.Get() != 1 || len(list) == 0 || list[len(list)-1].shutOnce.Load() {
		t.Errorf("%d timed out", n.m.timedOut.Get())
	}
}

// While Redis reads nothing, sessions that want to send it more wait on goroutines of
// their own: what needs no Redis is answered, however many they are. Guard: sendOn.
func TestSilentOriginHoldsNoLoop(t *testing.T) {
	oneLoop(t)
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.OriginConnections, c.Drain = 1, time.Millisecond })
	other := n.dial()
	want(t, other, "PONG", "PING")
	clients := make([]*redistest.Client, 100)
	for i := range clients {
		clients[i] = n.dial()
		want(t, clients[i], "OK", "SET", "k", "v")
	}
	redis.Stop()
	defer redis.Continue()
	set := redistest.Command("SET", "k", strings.Repeat("x", 12<<10))
	for range 2 { // one waits for the socket, and one for room
		fills := n.dial()
		for stuck := false; !stuck; {
			_ = fills.Conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			_, err := io.WriteString(fills.Conn, set)
			stuck = err != nil
		}
	}
	for _, c := range clients {
		c.Write(set)
	}
	begun := time.Now()
	for range 100 {
		want(t, other, "PONG", "PING")
	}
	if took := time.Since(begun); took > 10*time.Millisecond*time.Duration(len(clients)/2) { // the supervisor's patience is no answer
		t.Errorf("100 PINGs took %v", took)
	}
}

// A session that has waited for its client on the loop's goroutine rests with one
// descriptor. Guard: Unwait in step.
func TestRestingSessionHasOneDescriptor(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	descriptors := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	pusher := n.dial()
	block := func(c *redistest.Client) {
		t.Helper()
		c.Send("BLPOP", "queue", "0")
		n.eventually("it is blocked", func() bool {
			for _, s := range n.sessionList() {
				if s.blocked.is() {
					return true
				}
			}
			return false
		})
		time.Sleep(5 * time.Millisecond) // … and reads
		want(t, pusher, "1", "LPUSH", "queue", "v")
		if got := c.Read(); got != "[queue v]" {
			t.Fatalf("answered %s", got)
		}
	}
	clients := make([]*redistest.Client, 10)
	for i := range clients {
		clients[i] = n.dial()
		want(t, clients[i], "PONG", "PING")
	}
	block(clients[0]) // the connection to Redis is there afterwards
	before := descriptors()
	for _, c := range clients[1:] {
		block(c)
	}
	n.eventually("their second descriptors are closed", func() bool { return descriptors() <= before+2 })
}

// A read ends at urgent data, though there is more. Redis, which asks for levels, does
// not notice. Guard: EPOLLPRI.
func TestUrgentData(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	for i := range 100 {
		c, err := net.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(redistest.Timeout))
		_, _ = io.WriteString(c, "PING\r\n")
		_, _ = io.ReadFull(c, make([]byte, 7))
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			_ = unix.Sendto(int(fd), []byte("PING\r\n!"), unix.MSG_OOB, nil)
			_, _ = unix.Write(int(fd), []byte("PING\r\n"))
		})
		if _, err := io.ReadFull(c, make([]byte, 14)); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		_ = c.Close()
	}
}

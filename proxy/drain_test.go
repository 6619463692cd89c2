package proxy

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// Clients pipeline while the real thing gets SIGTERM: whatever had an effect was answered.
func TestDrainUnderLoad(t *testing.T) {
	redis := redistest.Start(t)
	for round := range 3 {
		p := startProcess(t, redis, "")
		const clients, deep = 10, 16
		var answered [clients]int
		var total atomic.Int64
		var wg sync.WaitGroup
		for i := range answered {
			c := redistest.Dial(t, p.addr)
			counter := fmt.Sprintf("count:%d:%d", round, i)
			if i%2 == 1 {
				counter = fmt.Sprintf("product:count:%d:%d", round, i)
			}
			batch := strings.Repeat(redistest.Command("INCR", counter)+redistest.Command("GET", "product:none"), deep)
			wg.Go(func() { // it sends on and on, whatever has been answered
				for {
					if _, err := io.WriteString(c.Conn, batch); err != nil {
						return
					}
				}
			})
			wg.Go(func() {
				defer c.Close()
				for {
					a, err := c.TryRead()
					if err != nil {
						return
					}
					answered[i]++
					if a != strconv.Itoa(answered[i]) {
						t.Errorf("INCR is answered %s, not %d", a, answered[i])
					}
					total.Add(1)
					if b, err := c.TryRead(); err != nil {
						return
					} else if b != "(nil)" {
						t.Errorf("GET is answered %s", b)
					}
				}
			})
		}
		p.eventually("there is load", func() bool { return total.Load() > 5000 })
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		<-p.ended
		for i, n := range answered {
			db, key := 0, fmt.Sprintf("count:%d:%d", round, i)
			if i%2 == 1 {
				db, key = 1, "product:"+key
			}
			if got := redis.DoDB(db, "GET", key); got != strconv.Itoa(n) {
				t.Errorf("client %d: %s INCRs were carried out and %d answered", i, got, n)
			}
		}
		t.Logf("%d answers, none lost", total.Load())
	}
}

// withAdmin starts the HTTP endpoints, too.
func withAdmin(c *Config) { c.Admin = "127.0.0.1:0" }

// What is outstanding is waited for; meanwhile nobody is let in, and /readyz says why.
func TestDrainFinishes(t *testing.T) {
	_, relay, n := heldBack(t, withAdmin)
	busy := n.dial()
	want(t, busy, "OK", "SET", "a", "b")
	idle := n.dial()
	want(t, idle, "PONG", "PING")
	for _, s := range n.sessionList() {
		s.active.Add(-int64(2 * linger))
	}
	held := relay.HoldReply("late")
	defer held.Release()
	busy.Write(redistest.Command("SET", "a", "late") + redistest.Command("GET", "a") + redistest.Command("INCR", "n") + "*1\r\n$4\r\nPI")
	<-held.Arrived
	stopped := make(chan struct{})
	go func() { n.stop(); close(stopped) }()
	if got := idle.Closed(); got != "" {
		t.Errorf("the idle client reads %q", got)
	}
	if code, body := n.get("/readyz"); code != 503 || !strings.Contains(body, `"status":"draining"`) {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, _ := n.get("/healthz"); code != 200 {
		t.Errorf("/healthz: %d", code)
	}
	if c, err := new(net.Dialer).DialContext(t.Context(), "tcp", n.addr); err == nil {
		_ = c.Close()
		t.Error("a new client is let in")
	}
	select {
	case <-stopped:
		t.Fatal("it ended before the answer was there")
	default:
	}
	held.Release()
	if got := busy.Closed(); got != "+OK\r\n$4\r\nlate\r\n:1\r\n" {
		t.Errorf("the client read %q", got)
	}
	busy.Close()
	<-stopped
}

// An answer that took long is as new as any other: a client that has asked long ago is not
// idle when it comes, and what it has sent since must not cost it the answer.
func TestDrainAfterSlowAnswer(t *testing.T) {
	redis, relay, n := heldBack(t, func(c *Config) { c.Drain = 20 * time.Second })
	const size = 1 << 20 // more than the client's kernel takes by itself
	redis.Do("SET", "a", strings.Repeat("x", size))
	c := n.dial()
	held := relay.HoldReply("xxxx")
	defer held.Release()
	c.Send("GET", "a")
	<-held.Arrived
	s := n.sessionList()[0]
	s.active.Add(-int64(2 * linger)) // so long ago
	s.served.Add(-int64(2 * linger))
	stopped := make(chan struct{})
	go func() { n.stop(); close(stopped) }()
	n.eventually("nearside ends", s.stopping.Load)
	c.Send("PING") // is not read any more
	held.Release()
	n.eventually("the answer is on its way", func() bool {
		s.q.mu.Lock()
		defer s.q.mu.Unlock()
		return s.q.n == 0 && s.q.size == 0
	})
	select { // it has been closed, or the client is waited for
	case <-s.ended:
	case <-time.After(linger / 10):
	}
	if got := c.Closed(); len(got) != len("$1048576\r\n")+size+len("\r\n") {
		t.Errorf("the client read %d bytes", len(got)) // the rest was lost by a reset
	}
	c.Close()
	<-stopped
}

// Who waits at Redis is woken as Redis does it, and nothing is popped for nobody.
func TestDrainWakesBlocked(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	c.Write(redistest.Command("BLPOP", "queue", "0") + redistest.Command("BLPOP", "other", "0") + redistest.Command("INCR", "n"))
	n.eventually("it waits", func() bool { return strings.Contains(redis.Do("INFO", "clients"), "blocked_clients:1\r\n") })
	stopped := make(chan struct{})
	go func() { n.stop(); close(stopped) }()
	got := c.Closed()
	if want := strings.Repeat("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n", 2) + ":1\r\n"; got != want {
		t.Errorf("read %q, want %q", got, want)
	}
	c.Close()
	<-stopped
	redis.Do("RPUSH", "queue", "x")
	if got := redis.Do("LRANGE", "queue", "0", "-1"); got != "[x]" {
		t.Errorf("the queue has %s", got)
	}
}

// A client that does not take its answers is closed when time is over, and the log says so.
func TestDrainDeadline(t *testing.T) {
	var log bytes.Buffer
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) {
		c.Drain, c.ReplyBuffer = 100*time.Millisecond, 64<<20
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	c := n.dial()
	want(t, c, "OK", "SET", "a", strings.Repeat("x", 16<<20))
	c.Send("GET", "a")
	n.eventually("the answer is there", func() bool { return n.budget.used.Load() > 1<<20 })
	begun := time.Now()
	n.stop()
	if took := time.Since(begun); took < 100*time.Millisecond || took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
	if !strings.Contains(log.String(), "the time for draining is over") || !strings.Contains(log.String(), "clients=1") {
		t.Errorf("the log says %s", &log)
	}
}

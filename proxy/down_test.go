package proxy

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// readers ask for one cached key all the time and note when they were answered
// by a hit last, as far as the proxy's counters tell.
func (n *nearside) lastHit(stop <-chan struct{}) (last func() time.Time) {
	var at atomic.Int64
	go func() {
		before := n.hits()
		for {
			select {
			case <-stop:
				return
			case <-time.After(500 * time.Microsecond):
			}
			now := time.Now()
			if h := n.hits(); h != before {
				before = h
				at.Store(now.UnixNano())
			}
		}
	}()
	return func() time.Time { return time.Unix(0, at.Load()) }
}

// askAll keeps reading a cached key on a connection of its own until stop.
func (n *nearside) askAll(stop *atomic.Bool, wg *sync.WaitGroup) {
	c := n.dial()
	wg.Go(func() {
		for !stop.Load() {
			if _, err := io.WriteString(c.Conn, redistest.Command("GET", "product:hot")); err != nil {
				n.t.Errorf("a reader: %v", err)
				return
			}
			got, err := c.TryRead()
			if err != nil || got != "hot" && got != "(nil)" && !strings.HasPrefix(got, "-ERR nearside: ") {
				n.t.Errorf("a reader was answered %q, %v", got, err)
				return
			}
		}
	})
}

// TestRedisKilled: Redis dies with clients at work. Every outstanding command is
// answered once, nobody is disconnected, hits end within the bound, and when
// Redis is back the same connections work again.
func TestRedisKilled(t *testing.T) {
	redis := redistest.Start(t)
	const staleness = 200 * time.Millisecond
	n := start(t, redis, func(c *Config) {
		c.MaxStaleness, c.Ping, c.OriginTimeout = staleness, 20*time.Millisecond, 500*time.Millisecond
	})
	redis.DoDB(1, "SET", "product:hot", "hot")
	c := n.dial()
	n.warm(c, "GET", "product:hot")
	var stop atomic.Bool
	var wg sync.WaitGroup
	done := make(chan struct{})
	last := n.lastHit(done)
	for range 4 {
		n.askAll(&stop, &wg)
	}

	// 50 clients with 40 requests each that Redis will never answer.
	const clients, each = 50, 40
	conns := make([]*redistest.Client, clients)
	for i := range conns {
		conns[i] = n.dial()
		want(t, conns[i], "PONG", "PING")
	}
	redis.Stop()
	for i, c := range conns {
		for j := range each {
			switch j % 4 {
			case 0:
				c.Send("ECHO", fmt.Sprintf("%d.%d", i, j))
			case 1:
				c.Send("SET", "lock:"+strconv.Itoa(i), "x", "NX", "PX", "1000")
			case 2:
				c.Send("GET", "product:"+strconv.Itoa(i))
			case 3:
				c.Send("PING", strconv.Itoa(j))
			}
		}
	}
	killed := time.Now()
	redis.Kill()
	for i, c := range conns {
		for j := range each {
			got := c.Read()
			if j%4 == 3 {
				if got != strconv.Itoa(j) {
					t.Fatalf("client %d: reply %d is %q", i, j, got)
				}
			} else if !strings.HasPrefix(got, "-ERR nearside: ") {
				t.Fatalf("client %d: reply %d is %q", i, j, got)
			}
		}
		want(t, c, "alone", "PING", "alone") // nothing more came, and it is open
	}
	if took := time.Since(killed); took > 2*time.Second {
		t.Errorf("the errors took %v", took)
	}
	begun := time.Now()
	if got := c.Do("GET", "other"); !strings.HasPrefix(got, "-ERR nearside: ") {
		t.Errorf("answered %q", got)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("an error took %v", took)
	}
	for time.Since(killed) < 2*staleness { // hits would still be counted
		time.Sleep(10 * time.Millisecond)
	}
	if late := last().Sub(killed); late > staleness+20*time.Millisecond {
		t.Errorf("a hit was served %v after the kill", late)
	}

	redis.Restart()
	for i, c := range conns {
		n.eventually("the same connection works again", func() bool { return c.Do("ECHO", "x") == "x" })
		want(t, c, "OK", "SET", "product:"+strconv.Itoa(i), "new")
		want(t, c, "new", "GET", "product:"+strconv.Itoa(i))
	}
	stop.Store(true)
	wg.Wait()
	close(done)
	want(t, c, "(nil)", "GET", "product:hot") // the new Redis is empty
	n.awaitLink()
	n.warm(c, "GET", "product:1")
	for _, c := range conns {
		c.Close()
	}
	n.eventually("all buffers are given back", func() bool { return n.budget.used.Load() == 0 })
}

// TestRedisStopped: Redis freezes. Commands fail within origin_timeout, hits end
// within the bound, and afterwards every reply belongs to its request.
func TestRedisStopped(t *testing.T) {
	redis := redistest.Start(t)
	const staleness, timeout = 200 * time.Millisecond, 500 * time.Millisecond
	n := start(t, redis, func(c *Config) {
		c.MaxStaleness, c.Ping, c.OriginTimeout = staleness, 20*time.Millisecond, timeout
	})
	redis.DoDB(1, "SET", "product:hot", "hot")
	c := n.dial()
	n.warm(c, "GET", "product:hot")
	var stop, wrong atomic.Bool
	var wg sync.WaitGroup
	done := make(chan struct{})
	last := n.lastHit(done)
	for range 4 {
		n.askAll(&stop, &wg)
	}
	var slowest, errors, echoes atomic.Int64
	for i := range 16 {
		c := n.dial()
		wg.Go(func() {
			for j := 0; !stop.Load() && !wrong.Load(); j++ {
				begun := time.Now()
				var batch strings.Builder
				for k := range 5 {
					batch.WriteString(redistest.Command("ECHO", fmt.Sprintf("%d.%d.%d", i, j, k)))
				}
				if _, err := io.WriteString(c.Conn, batch.String()); err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				for k := range 5 {
					got, err := c.TryRead()
					switch {
					case err != nil:
						t.Errorf("client %d: %v", i, err)
						return
					case got == fmt.Sprintf("%d.%d.%d", i, j, k):
						echoes.Add(1)
					case strings.HasPrefix(got, "-ERR nearside: "):
						errors.Add(1)
					default:
						wrong.Store(true)
						t.Errorf("client %d: reply %d.%d is %q", i, j, k, got)
						return
					}
				}
				took := int64(time.Since(begun))
				for old := slowest.Load(); took > old && !slowest.CompareAndSwap(old, took); old = slowest.Load() {
				}
			}
		})
	}
	for round := range 3 {
		n.eventually("echoes flow", func() bool { return echoes.Load() > int64(500*(round+1)) })
		stopped := time.Now()
		redis.Stop()
		errorsBefore := errors.Load()
		n.eventually("errors come", func() bool { return errors.Load() >= errorsBefore+16 })
		if took := time.Since(stopped); took > timeout+timeout/10+300*time.Millisecond {
			t.Errorf("the errors took %v", took)
		}
		want(t, c, "PONG", "PING")
		for time.Since(stopped) < 2*staleness {
			time.Sleep(10 * time.Millisecond)
		}
		if late := last().Sub(stopped); late > staleness+20*time.Millisecond {
			t.Errorf("a hit was served %v after Redis stopped", late)
		}
		redis.Continue()
		before := echoes.Load()
		n.eventually("it recovers", func() bool { return echoes.Load() > before+100 })
		n.awaitLink()
		n.eventually("hits come back", func() bool { return last().After(stopped.Add(2 * staleness)) })
	}
	stop.Store(true)
	wg.Wait()
	close(done)
	// A dial and a request each wait for as long as origin_timeout and a tenth.
	if took := time.Duration(slowest.Load()); took > 2*(timeout+timeout/10)+500*time.Millisecond {
		t.Errorf("the slowest request took %v", took)
	}
	t.Logf("the slowest request took %v; %d echoes, %d errors", time.Duration(slowest.Load()), echoes.Load(), errors.Load())
}

// TestNothingLeaks: however a session ends, its buffers, its place, its
// connections to Redis and its goroutines are given back.
func TestNothingLeaks(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	big := strings.Repeat("v", 300_000)
	redis.Do("SET", "big", big)
	redis.DoDB(1, "SET", "product:big", big)
	ways := map[string]func(c *redistest.Client){
		"normal": func(c *redistest.Client) { want(t, c, big, "GET", "big"); want(t, c, big, "GET", "product:big") },
		"quit":   func(c *redistest.Client) { want(t, c, "OK", "SET", "k", big); want(t, c, "OK", "QUIT"); c.Closed() },
		"protocol error": func(c *redistest.Client) {
			c.Write(strings.Repeat(redistest.Command("GET", "big"), 3) + "*x\r\n")
			c.Closed()
		},
		"unfinished":      func(c *redistest.Client) { c.Write(setHead(10<<20) + big) },
		"unfinished args": func(c *redistest.Client) { c.Write("*100000\r\n" + strings.Repeat("$1\r\nx\r\n", 90_000)) },
		"many args": func(c *redistest.Client) {
			c.Write("*5001\r\n$3\r\nDEL\r\n" + strings.Repeat("$9\r\nproduct:x\r\n", 5000))
		},
		"unread": func(c *redistest.Client) { c.Write(strings.Repeat(redistest.Command("GET", "big"), 50)) },
		"unread hits": func(c *redistest.Client) {
			go func() { _, _ = io.WriteString(c.Conn, strings.Repeat(redistest.Command("GET", "product:big"), 50)) }()
		},
		"blocked":          func(c *redistest.Client) { c.Send("BLPOP", "never", "0"); c.Write(strings.Repeat("PING\r\n", 100)) },
		"subscribed":       func(c *redistest.Client) { c.Do("SUBSCRIBE", "ch", strings.Repeat("c", 1000)) },
		"subscribed resp3": func(c *redistest.Client) { c.Do("HELLO", "3"); c.Do("SUBSCRIBE", "ch"); want(t, c, "PONG", "PING") },
		"unsubscribed": func(c *redistest.Client) {
			c.Do("SUBSCRIBE", "ch")
			c.Do("UNSUBSCRIBE", "ch")
			want(t, c, "PONG", "PING")
		},
		"reset":         func(c *redistest.Client) { c.Do("SUBSCRIBE", "ch"); want(t, c, "RESET", "RESET") },
		"monitor":       func(c *redistest.Client) { want(t, c, "OK", "MONITOR") },
		"watch":         func(c *redistest.Client) { want(t, c, "OK", "WATCH", "product:big") },
		"multi":         func(c *redistest.Client) { c.Do("MULTI"); c.Do("CLIENT", "INFO"); c.Do("SET", "k", big) },
		"multi exec":    func(c *redistest.Client) { c.Do("MULTI"); c.Do("CLIENT", "INFO"); c.Do("EXEC") },
		"multi discard": func(c *redistest.Client) { c.Do("MULTI"); c.Do("CLIENT", "INFO"); c.Do("DISCARD") },
		"multi reset":   func(c *redistest.Client) { c.Do("MULTI"); c.Do("CLIENT", "INFO"); c.Do("RESET") },
		"killed": func(c *redistest.Client) {
			id := c.Do("CLIENT", "ID")
			c.Write(setHead(1<<20) + big)
			n.dial().Do("CLIENT", "KILL", "ID", id)
		},
		"killed by itself": func(c *redistest.Client) {
			c.Do("CLIENT", "KILL", "ID", c.Do("CLIENT", "ID"), "SKIPME", "no")
			c.Closed()
		},
		"reply off": func(c *redistest.Client) {
			c.Send("CLIENT", "REPLY", "OFF")
			c.Write(strings.Repeat(redistest.Command("GET", "big"), 20))
		},
	}
	for name, end := range ways {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				c := redistest.Dial(t, n.addr)
				end(c)
				c.Close()
			}
		})
	}
	n.eventually("only killers are left", func() bool { return n.clients.Load() <= 3 })
	n.eventually("all buffers are given back", func() bool { return n.budget.used.Load() == 0 })
	n.eventually("no connection is pinned", func() bool { return n.origin.Stats().Pinned == 0 })
	for _, s := range n.sessionList() {
		if held := s.account.bytes(); held != 0 {
			t.Errorf("a session holds %d bytes", held)
		}
	}
}

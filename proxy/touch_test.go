package proxy

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// idle is for how many seconds Redis believes a key of the cache's database unused; -1: it is gone.
func idle(redis *redistest.Server, key string) int {
	n, err := strconv.Atoi(redis.DoDB(1, "OBJECT", "IDLETIME", key))
	if err != nil {
		return -1
	}
	return n
}

// Keys that are answered from the near cache all the time are the longest unused
// ones to a Redis that evicts by LRU, unless they are touched.
func TestTouchedKeysSurviveEviction(t *testing.T) {
	for _, touched := range []bool{true, false} {
		t.Run(fmt.Sprint("touch=", touched), func(t *testing.T) {
			redis := redistest.Start(t, "--maxmemory-policy", "allkeys-lru", "--maxmemory-samples", "64")
			ticks := make(chan time.Time)
			n := start(t, redis, func(c *Config) {
				c.Touch, c.touchTicks, c.MaxStaleness = -1, ticks, time.Minute
				if touched {
					c.Touch = time.Second
				}
			})
			c := n.dial()
			const hot = 300 // in three batches
			var keys []string
			for i := range hot {
				keys = append(keys, fmt.Sprint("product:", i))
				want(t, c, "OK", "SET", keys[i], "v")
			}
			n.reported(hot)
			for _, key := range keys {
				n.warm(c, "GET", key)
			}
			hitAll := func() {
				before := n.hits()
				for _, key := range keys {
					want(t, c, "v", "GET", key)
				}
				n.eventually("all are hits", func() bool { return n.hits() == before+hot })
			}
			age := func(key string) {
				n.eventually("Redis thinks it is unused", func() bool { return idle(redis, key) >= 2 })
			}
			age(keys[0])
			for i := range 2000 {
				redis.DoDB(1, "SET", fmt.Sprint("cold:", i), strings.Repeat("x", 2000))
			}
			age("cold:1999")
			hitAll()
			if got := idle(redis, keys[0]); got < 2 {
				t.Fatalf("idle for %d s: hits touch it already", got)
			}
			turn := func() {
				before := n.touch.epoch.Load()
				ticks <- time.Time{}
				n.eventually("the interval has begun", func() bool { return n.touch.epoch.Load() != before })
			}
			if touched {
				turn()
				n.eventually("all are touched", func() bool { return n.touch.touched.Get() == hot })
				if got := idle(redis, keys[0]); got != 0 {
					t.Errorf("touched, and idle for %d s", got)
				}
				turn() // nothing was hit meanwhile
				hitAll()
				hitAll() // once in an interval
				turn()
				n.eventually("all are touched again", func() bool { return n.touch.touched.Get() == 2*hot })
			}
			used := 0
			for line := range strings.Lines(redis.Do("INFO", "memory")) {
				if text, ok := strings.CutPrefix(line, "used_memory:"); ok {
					used, _ = strconv.Atoi(strings.TrimSpace(text))
				}
			}
			redis.Do("CONFIG", "SET", "maxmemory", strconv.Itoa(used))
			for i := range 500 {
				redis.Do("SET", fmt.Sprint("storm:", i), strings.Repeat("x", 2000))
			}
			left := 0
			for _, key := range keys {
				left += map[string]int{"1": 1}[redis.DoDB(1, "EXISTS", key)]
			}
			if touched && left < hot || !touched && left > hot/2 {
				t.Errorf("%d of %d hot keys are left", left, hot)
			}
			if n.touch.dropped.Get() != 0 {
				t.Errorf("%d dropped", n.touch.dropped.Get())
			}
		})
	}
}

// Touching follows the origin's policy, however that may be learned.
func TestTouchAuto(t *testing.T) {
	for name, denied := range map[string]string{"INFO": "-config", "CONFIG GET": "-info"} {
		t.Run(name, func(t *testing.T) {
			redis := redistest.Start(t)
			redis.Do("ACL", "SETUSER", "svc", "on", ">svc", "~*", "&*", "+@all", denied)
			n := launch(t, "redis://svc:svc@"+redis.Addr, nil)
			n.awaitLink()
			becomes := func(interval time.Duration) {
				t.Helper()
				n.touch.look()
				n.eventually(fmt.Sprint("the interval is ", interval), func() bool {
					n.touch.mu.Lock()
					defer n.touch.mu.Unlock()
					return n.touch.interval == interval && (n.touch.epoch.Load() != 0) == (interval != 0)
				})
			}
			redis.Do("CONFIG", "SET", "maxmemory", "100mb")
			for _, policy := range []string{"allkeys-lru", "noeviction", "volatile-lfu", "volatile-ttl", "allkeys-lfu"} {
				redis.Do("CONFIG", "SET", "maxmemory-policy", policy)
				if strings.HasSuffix(policy, "-lru") || strings.HasSuffix(policy, "-lfu") {
					becomes(touchAuto)
				} else {
					becomes(0)
				}
			}
			redis.Do("CONFIG", "SET", "maxmemory", "0")
			becomes(0)
		})
	}
}

// What is put on the list, and how much of it.
func TestTouchList(t *testing.T) {
	n := start(t, redistest.Start(t), func(c *Config) { c.Touch = -1 }) // its goroutine does nothing
	n.touch.set(time.Millisecond)                                       // 10 keys
	c := n.dial()
	for range 3 {
		n.warm(c, "GET", "product:none")
	}
	if got := n.touch.turn(); len(got) != 0 {
		t.Errorf("what is not there: %q", got)
	}
	want(t, c, "OK", "SET", "product:1", "v")
	n.warm(c, "GET", "product:1")
	n.warm(c, "STRLEN", "product:1")
	n.warm(c, "MGET", "product:1", "product:1")
	if got := n.touch.turn(); len(got) != 1 || string(got[0]) != "product:1" {
		t.Errorf("to be touched: %q", got)
	}
	for i := range 25 {
		n.warm(c, "GET", fmt.Sprint("product:", i))
		if i != 1 {
			want(t, c, "OK", "SET", fmt.Sprint("product:", i), "v")
			n.warm(c, "GET", fmt.Sprint("product:", i))
		}
	}
	if got, dropped := len(n.touch.turn()), n.touch.dropped.Get(); got != 10 || dropped != 15 {
		t.Errorf("%d on the list, %d dropped", got, dropped)
	}
	n.touch.set(1000 * time.Hour)
	if n.touch.most != touchMost {
		t.Errorf("a long interval has room for %d keys", n.touch.most)
	}
	n.touch.set(0)
	n.warm(c, "GET", "product:1")
	if len(n.touch.list.ends) != 0 {
		t.Error("switched off, and a key is on the list")
	}
}

// Keys of users who may see more than nearside's own do not keep others from being touched.
func TestTouchForOtherUsers(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "svc", "on", ">svc", "~product:open*", "&*", "+@all")
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all")
	redis.DoDB(1, "MSET", "product:open", "v", "product:secret", "v")
	ticks := make(chan time.Time)
	n := launch(t, "redis://svc:svc@"+redis.Addr, func(c *Config) { c.Touch, c.touchTicks = time.Second, ticks })
	n.awaitLink()
	own, bob := n.dial(), n.dial()
	want(t, bob, "OK", "AUTH", "bob", "pw")
	n.warm(own, "GET", "product:open")
	n.warm(bob, "GET", "product:open")
	n.warm(bob, "GET", "product:secret")
	ticks <- time.Time{}
	n.eventually("both are dealt with", func() bool { return n.touch.touched.Get() == 1 && n.touch.dropped.Get() == 1 })
}

// BenchmarkTouchedHit is BenchmarkHit with touching switched off and on, by turns.
func BenchmarkTouchedHit(b *testing.B) {
	n := start(b, redistest.Start(b), func(c *Config) { c.Touch, c.MaxStaleness = -1, time.Minute })
	c := n.dial()
	c.Do("SET", "product:1", "value of sixteen")
	n.warm(c, "GET", "product:1")
	s := n.detached()
	request := []byte(redistest.Command("GET", "product:1"))
	const round = 1000
	var took [2]time.Duration
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		n.touch.set(time.Duration(i%2) * time.Second)
		s.now = clockNow()
		begun := time.Now()
		for range round {
			kind, size, _ := s.frames.next(request, true)
			if !s.Serve(kind, request[:size]) || len(s.wbuf) == 0 {
				b.Fatal("no reply")
			}
			s.wbuf = s.wbuf[:0]
		}
		took[i%2] += time.Since(begun)
	}
	rounds := float64(b.N) / 2 * round
	b.ReportMetric(float64(took[0])/rounds, "ns/off")
	b.ReportMetric(float64(took[1])/rounds, "ns/on")
}

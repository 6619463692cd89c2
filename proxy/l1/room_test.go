package l1

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// exact compares the accounts with what is really held.
func exact(t *testing.T, c *Cache) {
	t.Helper()
	c.Wait()
	var entries, bytes, policy int64
	rules := make([][2]int64, len(c.held))
	c.Each(func(e *Entry) bool {
		entries++
		bytes += e.cost()
		policy += max(e.cost(), c.limits.Load().share)
		rules[e.Rule()][0]++
		rules[e.Rule()][1] += e.cost()
		return true
	})
	for rule, want := range rules {
		if n, size := c.Held(rule); n != want[0] || size != want[1] {
			t.Errorf("rule %d holds %d entries, %d bytes; accounted: %d, %d", rule, want[0], want[1], n, size)
		}
	}
	s := c.Stats()
	if s.Entries != entries || s.Bytes != bytes || s.Queued != 0 || c.room.queuedBytes.Load() != 0 {
		t.Errorf("held: %d entries, %d bytes; accounted: %+v, queued bytes %d", entries, bytes, s, c.room.queuedBytes.Load())
	}
	if used := c.store.MaxCost() - c.store.RemainingCost(); used != policy {
		t.Errorf("the policy counts %d, held are %d", used, policy)
	}
}

// bounded runs traffic and watches the bounds meanwhile.
func bounded(t *testing.T, c *Cache, traffic func(r *rand.Rand)) {
	t.Helper()
	var workers, watch sync.WaitGroup
	var done atomic.Bool
	watch.Go(func() {
		for !done.Load() {
			if s := c.Stats(); s.Bytes > s.MaxBytes || s.MaxCount > 0 && s.Entries > s.MaxCount {
				t.Errorf("bound exceeded: %+v", s)
				return
			}
			runtime.Gosched()
		}
	})
	for i := range 8 {
		workers.Go(func() { traffic(rand.New(rand.NewPCG(uint64(i), 1))) })
	}
	workers.Wait()
	done.Store(true)
	watch.Wait()
}

func TestBounds(t *testing.T) {
	long := strings.Repeat("x", 20_000)
	for name, cfg := range map[string]Config{
		"memory":    {Memory: 1 << 20},
		"entries":   {Memory: 1 << 20, MaxEntries: 100},
		"one entry": {Memory: 1 << 20, MaxEntries: 1},
		"tiny":      {Memory: 3_000},
	} {
		t.Run(name, func(t *testing.T) {
			var evicted atomic.Int64
			cfg.Evicted = func(_, n int) { evicted.Add(int64(n)) }
			c := newCache(t, cfg)
			bounded(t, c, func(r *rand.Rand) {
				for range 5_000 {
					key := fmt.Sprint(r.IntN(300))
					putWith(c, key, long[:r.IntN(1+r.IntN(len(long)))], note(c, key))
					get(c, fmt.Sprint(r.IntN(300)))
					if r.IntN(10) == 0 {
						c.Invalidate([]byte(key), FirstSource)
					}
				}
			})
			exact(t, c)
			s := c.Stats()
			if s.Puts == 0 || s.Evicted != uint64(evicted.Load()) {
				t.Errorf("evicted %d: %+v", evicted.Load(), s)
			}
			c.Close()
			if s := c.Stats(); s.Bytes != 0 || s.Entries != 0 || s.Evicted != uint64(evicted.Load()) {
				t.Errorf("after Close: evicted %d, %+v", evicted.Load(), s)
			}
		})
	}
}

func TestQueueIsBounded(t *testing.T) {
	c, release := stall(t)
	c.room.maxQueued = c.room.queued.Load() + 1
	if !putWith(c, "a", "", note(c, "a")) || putWith(c, "b", "", note(c, "b")) {
		t.Error("the queue's bound does not hold")
	}
	if n := c.Stats().Dropped[DropQueue]; n != 1 {
		t.Errorf("%d counted", n)
	}
	release()
	exact(t, c)
}

func TestTooBig(t *testing.T) {
	c := newCache(t, Config{Memory: 1 << 20})
	if putWith(c, "k", strings.Repeat("x", 1<<16), note(c, "k")) {
		t.Error("stored")
	}
	if n := c.Stats().Dropped[DropTooBig]; n != 1 {
		t.Errorf("%d counted", n)
	}
}

// Entries grow by updates, of which ristretto evicts nothing, until nothing
// more fits. New ones must find room all the same.
func TestGrownEntriesMakeRoom(t *testing.T) {
	c := newCache(t, Config{Memory: 1 << 20})
	n := int(c.limits.Load().maxCost / 1_500)
	for size := 1_000; size <= 4_000; size += 1_000 {
		for i := range n {
			key := fmt.Sprint(i)
			putWith(c, key, strings.Repeat("x", size), note(c, key))
			c.Wait()
			if c.room.stuck(5_000) {
				break
			}
		}
	}
	if !c.room.stuck(5_000) {
		t.Fatal("there is room: nothing was tested")
	}
	exact(t, c)
	for i := range 1_000 {
		key := fmt.Sprint("new", i)
		if putWith(c, key, strings.Repeat("y", 5_000), note(c, key)) {
			exact(t, c)
			return
		}
		c.Wait()
	}
	t.Errorf("still no room: %+v", c.Stats())
}

func TestCloseAgainstTraffic(t *testing.T) {
	for range 50 {
		c := newCache(t, Config{Memory: 1 << 20, MaxEntries: 50})
		var wg sync.WaitGroup
		var done atomic.Bool
		ready := make(chan struct{}, 4)
		for i, traffic := range []func(key string){
			func(key string) { putWith(c, key, "v", note(c, key)) },
			func(key string) { putWith(c, key, "v", note(c, key)) },
			func(key string) { get(c, key) },
			func(string) { c.Each(func(*Entry) bool { return true }) },
		} {
			wg.Go(func() {
				for n := 0; !done.Load(); n++ {
					traffic(fmt.Sprint(i, n%100))
					if n == 20 {
						ready <- struct{}{}
					}
				}
			})
		}
		for range cap(ready) {
			<-ready
		}
		c.Close()
		c.Close()
		c.Wait()
		done.Store(true)
		wg.Wait()
		if s := c.Stats(); s.Bytes != 0 || s.Entries != 0 {
			t.Fatalf("%+v", s)
		}
		if _, miss := get(c, "k"); miss != Closed || putWith(c, "k", "v", note(c, "k")) {
			t.Fatal("open after Close")
		}
	}
}

// TestOverhead measures the constant of the same name.
func TestOverhead(t *testing.T) {
	const idAndReply = 32 + 128
	worst := 0.0
	for _, n := range []int{20_000, 60_000, 120_000, 200_000} {
		c := newCache(t, Config{Memory: 256 << 20})
		before := heap()
		for i := range n {
			key := fmt.Sprintf("key:%012d", i)
			putWith(c, key, strings.Repeat("x", 128), note(c, key))
			if i%1_000 == 0 {
				c.Wait()
			}
		}
		c.Wait()
		if held := c.Stats().Entries; held != int64(n) {
			t.Fatalf("%d of %d held", held, n)
		}
		per := float64(heap()-before)/float64(n) - idAndReply
		t.Logf("%d entries: %.0f bytes each beyond id and reply", n, per)
		worst = max(worst, per)
		c.Close()
	}
	if worst > overhead*1.05 { // the heap is counted with all that the test itself leaves there
		t.Errorf("%.0f bytes, accounted %d", worst, overhead)
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

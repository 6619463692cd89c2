package proxy

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// One invalidation in a hundred is lost: the auditor finds out in no time.
func TestAuditFindsLeak(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a few seconds of load")
	}
	findLeak(t, Audit{OneIn: 4, PerSecond: 1 << 30}, 100, 500, 30*time.Second)
}

// One invalidation in 10,000 is lost, which no log and no other metric shows:
// the auditor finds out within a minute.
//
// The arithmetic. With a loss rate p every key is stale for a share p of the time
// between its writes, so p is the share of stale hits as well, and that of
// differing comparisons too, less those whose key is written again before the
// proof (up to half of max_staleness later). To find one with a probability of
// 95 % takes ln(20)/p comparisons, that is 3/1e-4 = 30,000, 500 a second for a
// minute. Here there are 24 losses in a minute, and 4000 comparisons a second meet
// about half of them before the next write of their key does, so that the test
// fails for bad luck once in some 10,000 runs. The default of 20 a second takes 25
// minutes.
func TestAuditFindsRareLeak(t *testing.T) {
	if os.Getenv("NEARSIDE_AUDIT_LOAD") == "" {
		t.Skip("up to a minute of load: set NEARSIDE_AUDIT_LOAD")
	}
	for run := range 3 {
		t.Run(strconv.Itoa(run), func(t *testing.T) { findLeak(t, Audit{OneIn: 5, PerSecond: 4000}, 10_000, 20_000, time.Minute) })
	}
}

// findLeak loses one in so many invalidations under load and waits for the
// auditor's finding.
func findLeak(t *testing.T, audit Audit, loseOneIn, keys int, limit time.Duration) {
	t.Helper()
	redis, relay, n := auditFor(t, func(c *Config) { c.Audit = audit })
	key := func() string { return "product:" + strconv.Itoa(rand.IntN(keys)) }
	stop := make(chan struct{})
	var writes atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	const deep = 64
	loop := func(addr string, request func() string) {
		wg.Go(func() {
			c := redistest.Dial(t, addr)
			defer c.Close()
			want(t, c, "OK", "SELECT", "1")
			for {
				select {
				case <-stop:
					return
				default:
				}
				var batch strings.Builder
				for range deep {
					batch.WriteString(request())
				}
				c.Write(batch.String())
				for range deep {
					c.Read()
				}
			}
		})
	}
	for range 2 {
		loop(n.addr, func() string { return redistest.Command("GET", key()) })
	}
	n.eventually("most is cached", func() bool { return n.l1.Stats().Entries > int64(keys)*9/10 })
	relay.losing(func(string) bool { return rand.IntN(loseOneIn) == 0 })
	// Not at full speed, since what is written all the time is not stale for long:
	// each key every five seconds.
	begin := time.Now()
	wg.Go(func() {
		c := redistest.Dial(t, redis.Addr)
		defer c.Close()
		want(t, c, "OK", "SELECT", "1")
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			due := int64(time.Since(begin).Seconds() * float64(keys) / 5)
			for ; writes.Load() < due; writes.Add(1) {
				c.Send("SET", key(), strconv.FormatInt(writes.Load(), 10))
				c.Read()
			}
		}
	})
	hits, compared := n.hits(), n.audits(auditEqual)
	for n.audits(auditInconsistent) == 0 {
		if time.Since(begin) > limit {
			t.Fatalf("nothing was found in %s: %d of %d invalidations lost, %v", limit, relay.lost.Load(), relay.lost.Load()+relay.kept.Load(), n.auditLines())
		}
		time.Sleep(time.Millisecond) // as eventually does, with another limit
	}
	took := time.Since(begin)
	t.Logf("found after %s: 1 in %d lost, %d of %d by then; %d writes, %d hits, %d comparisons",
		took.Round(time.Millisecond), loseOneIn, relay.lost.Load(), relay.lost.Load()+relay.kept.Load(), writes.Load(), n.hits()-hits, n.audits(auditEqual)-compared)
	if n.quarantine.count.Load() != 1 {
		t.Error("the rule is not out")
	}
}

package proxy

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
)

// reloadsUnderLoad is how often the configuration is replaced in TestReloadUnderLoad.
const reloadsUnderLoad = 100

// variants of the rules and limits that a reload goes through. Seen from the cache's database,
// where the sessions of the test are, no key moves.
func variants() []func(*Config) {
	commands := cacheRule("b:", time.Hour)
	commands.Commands = map[string]bool{"get": true}
	fenced := cacheRule("b:", time.Hour)
	fenced.Fenced = true
	return []func(*Config){
		withRule(cacheRule("a:", time.Hour)),
		withRule(cacheRule("a:", 30*time.Millisecond)),
		withRule(cacheRule("b:", time.Minute)),
		withRule(commands),
		withRule(fenced),
		withoutRule("b:"),
		withRule(policy.Rule{Kind: policy.LockRule, Prefix: "b:"}),
		withRule(cacheRule("a:1", time.Hour)), // within a:
		withoutRule("a:1"),
		withRule(cacheRule("", time.Hour)), // every key: another prefix on the link
		withoutRule(""),
		withoutRule("a:"),
		func(c *Config) { c.Memory = 1 << 20 },
		func(c *Config) { c.Memory, c.Refills = 64<<20, 3 },
		func(c *Config) { c.Refills, c.MaxOutstanding = 128, 20 },
		func(c *Config) { c.MaxStaleness = 2 * time.Second },
		func(c *Config) { c.MaxStaleness, c.MaxOutstanding = time.Second, 1024 },
		func(c *Config) { c.Deny = []string{"debug"} },
		func(c *Config) { c.Deny = nil },
	}
}

// Every reply under load is checked while the configuration is replaced all the time. Each
// writer has keys of its own, whose values count up: a read through nearside must never be
// older than what its own session has written or anybody has read.
func TestReloadUnderLoad(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.Audit = Audit{OneIn: 10, PerSecond: 1000} })
	const sessions, keys = 12, 4
	var seen [keys * 2]atomic.Int64 // the newest value of each key that was answered to anybody
	name := func(k int) string { return []string{"a:", "b:"}[k%2] + strconv.Itoa(k) }
	for k := range seen {
		redis.DoDB(1, "SET", name(k), "0")
	}
	var writing [len(seen)]sync.Mutex // one writer of a key at a time, so that values count up
	stop := make(chan struct{})
	var ops, locks atomic.Int64
	var wg sync.WaitGroup
	fail := func(format string, a ...any) { t.Errorf(format, a...) }
	clients := make([]*redistest.Client, sessions)
	for i := range clients {
		clients[i] = n.dial()
		want(t, clients[i], "OK", "SELECT", "1")
	}
	note := func(k int, v int64) {
		for old := seen[k].Load(); old < v && !seen[k].CompareAndSwap(old, v); old = seen[k].Load() {
		}
	}
	for i, c := range clients {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 1)) //nolint:gosec // a test must be repeatable
			read := func(k int, floor int64, reply string) {
				v, err := strconv.ParseInt(reply, 10, 64)
				if err != nil || v < floor {
					fail("%s is answered %q, %d was known before", name(k), reply, floor)
				}
				note(k, v)
			}
			for {
				select {
				case <-stop:
					return
				default:
				}
				k := rnd.IntN(len(seen))
				ops.Add(1)
				switch rnd.IntN(8) {
				case 0: // a write
					writing[k].Lock()
					v := seen[k].Load() + 1
					if got := c.Do("SET", name(k), strconv.FormatInt(v, 10)); got != "OK" {
						fail("SET answered %s", got)
					}
					note(k, v)
					read(k, v, c.Do("GET", name(k)))
					writing[k].Unlock()
				case 1: // in a transaction
					writing[k].Lock()
					v := seen[k].Load() + 1
					c.Write(redistest.Command("WATCH", name(k)) + redistest.Command("MULTI"))
					if a, b := c.Read(), c.Read(); a+b != "OKOK" {
						fail("WATCH, MULTI answered %s %s", a, b)
					}
					c.Write(redistest.Command("SET", name(k), strconv.FormatInt(v, 10)) + redistest.Command("GET", name(k)) + redistest.Command("EXEC") + redistest.Command("GET", name(k)))
					a, b, e := c.Read(), c.Read(), c.Read()
					if a+b != "QUEUEDQUEUED" || e != fmt.Sprintf("[OK %d]", v) {
						fail("a transaction answered %s %s %s, want %d", a, b, e, v)
					}
					note(k, v)
					read(k, v, c.Read())
					writing[k].Unlock()
				case 2: // a lock
					lock := "lock:" + strconv.Itoa(i)
					if got := c.Do("SET", lock, "me", "NX", "PX", "60000"); got != "OK" {
						fail("the lock is answered %s", got)
					}
					if got := c.Do("EVAL", "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end", "1", lock, "me"); got != "1" {
						fail("its release is answered %s", got)
					}
					locks.Add(1)
				case 3: // a pipeline
					var floors [8]int64
					var b strings.Builder
					for j := range floors {
						floors[j] = seen[(k+j)%len(seen)].Load()
						b.WriteString(redistest.Command("GET", name((k+j)%len(seen))))
						b.WriteString(redistest.Command("SET", fmt.Sprintf("b:own:%d", i), strconv.Itoa(j)))
						b.WriteString(redistest.Command("GET", fmt.Sprintf("b:own:%d", i)))
					}
					c.Write(b.String())
					for j := range floors {
						read((k+j)%len(seen), floors[j], c.Read())
						if a, own := c.Read(), c.Read(); a != "OK" || own != strconv.Itoa(j) {
							fail("in a pipeline, %d is answered %s %s", j, a, own)
						}
					}
				case 4: // several at once
					l := (k + 1) % len(seen)
					f1, f2 := seen[k].Load(), seen[l].Load()
					a, b, _ := strings.Cut(strings.Trim(c.Do("MGET", name(k), name(l)), "[]"), " ")
					read(k, f1, a)
					read(l, f2, b)
				default:
					floor := seen[k].Load()
					read(k, floor, c.Do("GET", name(k)))
				}
			}
		})
	}
	hits := n.hits()
	all := variants()
	rnd := rand.New(rand.NewPCG(7, 7)) //nolint:gosec // as above
	done := 0
	for i := 0; done < reloadsUnderLoad; i++ {
		change := all[i%len(all)]
		if i >= len(all) {
			change = all[rnd.IntN(len(all))]
		}
		changes, err := n.tryReload(change)
		if err != nil {
			t.Errorf("reload: %v", err)
			break
		}
		if len(changes) > 0 {
			done++
			before := ops.Load()
			n.eventually("the load goes on", func() bool { return ops.Load() > before+80 })
		}
	}
	close(stop)
	wg.Wait()
	for i, c := range clients {
		if got := c.Do("PING"); got != "PONG" {
			t.Errorf("client %d reads %s", i, got)
		}
	}
	if got := n.audits(auditInconsistent); got != 0 {
		t.Errorf("%d hits were not what Redis had", got)
	}
	if lost := n.m.localErrors.Get() + n.m.originErrors.Get(); lost != 0 {
		t.Errorf("%d errors", lost)
	}
	t.Logf("%d reloads, %d operations, %d locks, %d hits, audit: %d equal", done, ops.Load(), locks.Load(), n.hits()-hits, n.audits(auditEqual))
}

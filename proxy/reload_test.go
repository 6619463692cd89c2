package proxy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
	"nearside/proxy/link"
)

// mustReload changes the configuration in force.
func (n *nearside) mustReload(change func(*Config)) []Change {
	n.t.Helper()
	changes, err := n.tryReload(change)
	if err != nil {
		n.t.Fatal(err)
	}
	return changes
}

func (n *nearside) tryReload(change func(*Config)) ([]Change, error) {
	cfg := *n.conf()
	cfg.Rules = slices.Clone(cfg.Rules)
	change(&cfg)
	return n.Reload(cfg)
}

func cacheRule(prefix string, ttl time.Duration) policy.Rule {
	return policy.Rule{Kind: policy.CacheRule, Prefix: prefix, TTL: ttl, MaxReply: 1 << 20, Negative: true}
}

// withoutRule takes a rule away.
func withoutRule(prefix string) func(*Config) {
	return func(c *Config) {
		c.Rules = slices.DeleteFunc(c.Rules, func(r policy.Rule) bool { return r.Prefix == prefix })
	}
}

func withRule(r policy.Rule) func(*Config) {
	return func(c *Config) { withoutRule(r.Prefix)(c); c.Rules = append(c.Rules, r) }
}

// unlinked makes hits depend on what goes through this nearside and on nothing else:
// there is no link that would report a change.
func unlinked(c *Config) { c.Link = link.ModeNone }

// atCache is a client at the cache's database, where no key moves when rules change.
func (n *nearside) atCache() *redistest.Client {
	n.t.Helper()
	c := n.dial()
	want(n.t, c, "OK", "SELECT", "1")
	want(n.t, c, "(nil)", "GET", "product:warm") // its user's first fetch
	return c
}

// A write that was decided while its key had no rule and is answered when it has one.
// Guard: overtake in settle.
func TestReloadOverWrite(t *testing.T) {
	_, relay, n := heldBack(t, unlinked)
	writer, reader := n.atCache(), n.atCache()
	want(t, writer, "OK", "SET", "new:1", "old")
	held := relay.HoldRequest("newer")
	defer held.Release()
	writer.Send("SET", "new:1", "newer")
	<-held.Arrived
	begun := time.Now()
	n.mustReload(withRule(cacheRule("new:", time.Hour)))
	if took := time.Since(begun); took < graceTime {
		t.Errorf("the reload waited %s for a write that is under way", took)
	}
	if got := n.warm(reader, "GET", "new:1"); got != "old" {
		t.Fatal(got)
	}
	held.Release()
	if got := writer.Read(); got != "OK" {
		t.Fatal(got)
	}
	want(t, writer, "newer", "GET", "new:1")
	want(t, reader, "newer", "GET", "new:1")
}

// While such a write is under way nothing is cached, until it is answered.
// Guard: Suspend and grace in swap.
func TestReloadWaitsForWrites(t *testing.T) {
	_, relay, n := heldBack(t, unlinked)
	writer, reader, joiner := n.atCache(), n.atCache(), n.dial()
	want(t, writer, "OK", "SET", "new:1", "old")
	for write, send := range map[string]func(){
		"newer": func() { writer.Send("SET", "new:1", "newer") },
		"apart": func() { joiner.Send("MSET", "product:1", "apart", "lock:1", "x") }, // not in the session's queue
	} {
		n.mustReload(withoutRule("new:"))
		held := relay.HoldRequest(write)
		send()
		<-held.Arrived
		reloaded := make(chan error, 1)
		go func() {
			_, err := n.tryReload(withRule(cacheRule("new:", time.Hour)))
			reloaded <- err
		}()
		n.eventually("the rule is there", func() bool { return n.rules().Match([]byte("new:1")) != nil })
		hits := n.hits()
		for range 3 {
			reader.Do("GET", "new:1")
			n.settleCache()
		}
		if n.hits() != hits {
			t.Error("hits while an older write is under way")
		}
		select {
		case err := <-reloaded:
			t.Fatalf("the reload did not wait: %v", err)
		default:
		}
		held.Release()
		if err := <-reloaded; err != nil {
			t.Fatal(err)
		}
		if write == "apart" {
			joiner.Read()
			continue
		}
		writer.Read()
		want(t, writer, write, "GET", "new:1")
		n.warm(reader, "GET", "new:1")
	}
}

// A write that was decided before the reload and is sent after it. Guard: widen.
func TestReloadBeforeSend(t *testing.T) {
	_, relay, n := heldBack(t, unlinked)
	writer, reader := n.atCache(), n.atCache()
	control := n.dial()
	want(t, writer, "OK", "SET", "new:1", "old")
	want(t, control, "OK", "CLIENT", "PAUSE", "100000", "WRITE")
	writer.Send("SET", "new:1", "newer")
	n.eventually("the write waits", func() bool {
		return slices.ContainsFunc(n.sessionList(), func(s *session) bool { return s.pausing.Load() })
	})
	n.mustReload(withRule(cacheRule("new:", time.Hour)))
	n.warm(reader, "GET", "new:1")
	held := relay.HoldRequest("newer")
	defer held.Release()
	want(t, control, "OK", "CLIENT", "UNPAUSE")
	<-held.Arrived
	hits := n.hits()
	want(t, reader, "old", "GET", "new:1")
	if n.hits() != hits {
		t.Error("a hit while the write is under way")
	}
	held.Release()
	if got := writer.Read(); got != "OK" {
		t.Fatal(got)
	}
	want(t, reader, "newer", "GET", "new:1")
}

// A fetch that was decided by the old rules and is begun after the reload: nobody
// finds its reply, which may stay longer than the new rules allow. Guards: the
// generation in cacheID and overtake in settle, of which either is enough here.
func TestReloadBeforeFetch(t *testing.T) {
	n := start(t, redistest.Start(t), nil)
	slow, other, control := n.atCache(), n.atCache(), n.dial()
	want(t, other, "OK", "SET", "product:1", "v")
	want(t, control, "OK", "CLIENT", "PAUSE", "100000", "ALL")
	slow.Send("GET", "product:1")
	n.eventually("the read waits", func() bool {
		return slices.ContainsFunc(n.sessionList(), func(s *session) bool { return s.pausing.Load() })
	})
	n.mustReload(withRule(cacheRule("product:", time.Minute)))
	n.pause.end()
	n.sessionNudge()
	if got := slow.Read(); got != "v" {
		t.Fatal(got)
	}
	n.settleCache()
	hits := n.hits()
	want(t, other, "v", "GET", "product:1")
	if n.hits() != hits {
		t.Error("it was found")
	}
	n.settleCache()
	want(t, slow, "v", "GET", "product:1")
	if n.hits() != hits+1 {
		t.Error("the session keeps to the old rules")
	}
}

// A fetch that was begun by the old rules and is answered by the new ones: nobody
// finds its reply, and nobody joins it. Guards: Suspend and InvalidateAll in swap, and the generation in
// cacheID.
func TestReloadOverFetch(t *testing.T) {
	_, relay, n := heldBack(t, unlinked)
	slow, other := n.atCache(), n.atCache()
	want(t, other, "OK", "SET", "product:1", "old")
	held := relay.HoldReply("old")
	defer held.Release()
	slow.Send("GET", "product:1")
	<-held.Arrived

	n.mustReload(withoutRule("product:"))
	want(t, other, "OK", "SET", "product:1", "new") // by rules that know of no cached key
	n.mustReload(withRule(cacheRule("product:", time.Hour)))
	joined := n.coalesced()
	want(t, other, "new", "GET", "product:1")
	if n.coalesced() != joined {
		t.Error("it joined a fetch of other rules")
	}
	held.Release()
	if got := slow.Read(); got != "old" {
		t.Fatal(got)
	}
	n.settleCache()
	want(t, slow, "new", "GET", "product:1")
}

// What is cached by the old rules ends with them; counters do not.
func TestReloadForgets(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "v")
	n.warm(c, "GET", "product:1")
	id, hits := n.rules().Match([]byte("product:1")).ID, n.hits()
	changes := n.mustReload(withRule(cacheRule("product:", time.Minute)))
	if len(changes) != 1 || changes[0].Key != `cache.rules["product:"]` || !strings.HasPrefix(changes[0].Old, "ttl 1h0m0s,") || !strings.HasPrefix(changes[0].New, "ttl 1m0s,") {
		t.Errorf("%+v", changes)
	}
	want(t, c, "v", "GET", "product:1")
	if n.hits() != hits {
		t.Error("the entry with the old ttl is served")
	}
	n.warm(c, "GET", "product:1")
	if left := n.entry("product:1").Deadline - clockNow(); left > int64(time.Minute) {
		t.Errorf("it stays for %s", time.Duration(left))
	}
	n.mustReload(withoutRule("product:"))
	n.mustReload(withRule(cacheRule("product:", time.Hour)))
	if r := n.rules().Match([]byte("product:1")); r.ID != id || n.m.rule(id).hits.Get() < hits {
		t.Errorf("rule %d has %d hits; before it was %d with %d", r.ID, n.m.rule(id).hits.Get(), id, hits)
	}
	// What concerns no rule forgets nothing.
	n.awaitLink()
	n.warm(c, "GET", "product:1")
	hits = n.hits()
	n.mustReload(func(c *Config) { c.MaxClients, c.Fence = 99, []string{"locks"} })
	want(t, c, "v", "GET", "product:1")
	if n.hits() != hits+1 {
		t.Error("everything is forgotten")
	}
}

// Keys under a rule that comes or goes move between the databases for who is at 0.
func TestReloadMovesKeys(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	want(t, c, "OK", "SET", "new:1", "locks")
	n.mustReload(withRule(cacheRule("new:", time.Hour)))
	want(t, c, "(nil)", "GET", "new:1")
	want(t, c, "OK", "SET", "new:1", "cache")
	if a, b := redis.DoDB(0, "GET", "new:1"), redis.DoDB(1, "GET", "new:1"); a != "locks" || b != "cache" {
		t.Errorf("%s, %s", a, b)
	}
	n.mustReload(withoutRule("new:"))
	want(t, c, "locks", "GET", "new:1")
}

// A transaction that is open at a reload stays what it was.
func TestReloadInTransaction(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	want(t, c, "OK", "WATCH", "new:0")
	n.mustReload(withRule(cacheRule("new:", time.Hour)))
	want(t, c, "OK", "MULTI")
	want(t, c, "QUEUED", "SET", "new:1", "a")
	n.mustReload(withRule(cacheRule("new:", time.Minute)))
	want(t, c, "QUEUED", "SET", "new:2", "b")
	want(t, c, "[OK OK]", "EXEC")
	if got := redis.DoDB(0, "MGET", "new:1", "new:2"); got != "[a b]" {
		t.Errorf("%s", got)
	}
	want(t, c, "OK", "SET", "new:1", "c")
	if got := redis.DoDB(1, "GET", "new:1"); got != "c" {
		t.Errorf("afterwards it keeps to the old rules: %s", got)
	}
}

// EXEC of a transaction whose keys were not cached when they were queued.
func TestReloadOverExec(t *testing.T) {
	_, _, n := heldBack(t, unlinked)
	writer, reader := n.atCache(), n.atCache()
	want(t, writer, "OK", "SET", "new:1", "old")
	want(t, writer, "OK", "MULTI")
	want(t, writer, "QUEUED", "SET", "new:1", "newer")
	n.mustReload(withRule(cacheRule("new:", time.Hour)))
	n.warm(reader, "GET", "new:1")
	want(t, writer, "[OK]", "EXEC")
	want(t, reader, "newer", "GET", "new:1")
}

// A walk over the keys goes on over reloads: every key that is there all the time and
// does not move is seen.
func TestReloadInScan(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	const keys = 300
	for i := range keys {
		c.Do("SET", fmt.Sprintf("a:%d", i), "x")            // stays where it is
		c.Do("SET", fmt.Sprintf("product:%d", i), "x")      // and so do these
		redis.DoDB(1, "SET", fmt.Sprintf("a:b:%d", i), "x") // in view while there is the rule
	}
	for _, first := range []bool{true, false} {
		for steps := range 6 { // the reload comes at another place of the walk each time
			if first {
				n.mustReload(withRule(cacheRule("a:b:", time.Hour)))
			} else {
				n.mustReload(withoutRule("a:b:"))
			}
			seen := map[string]bool{}
			cursor := "0"
			for i := 0; i == 0 || cursor != "0"; i++ {
				if i == steps*3 {
					if first {
						n.mustReload(withoutRule("a:b:"))
					} else {
						n.mustReload(withRule(cacheRule("a:b:", time.Hour)))
					}
				}
				if i > 10*keys {
					t.Fatal("the walk does not end")
				}
				var list string
				cursor, list, _ = strings.Cut(strings.Trim(c.Do("SCAN", cursor, "MATCH", "a:*", "COUNT", "20"), "[]"), " ")
				for _, k := range strings.Fields(strings.Trim(list, "[]")) {
					seen[k] = true
				}
			}
			for i := range keys {
				if !seen[fmt.Sprintf("a:%d", i)] {
					t.Fatalf("a:%d is missed (rule first %v, reload after %d steps)", i, first, steps*3)
				}
			}
		}
	}
}

// What cannot change is refused as a whole, whatever else is asked for.
func TestReloadIsAllOrNothing(t *testing.T) {
	n := start(t, redistest.Start(t), nil)
	before := n.current()
	for name, change := range map[string]func(*Config){
		"listen":             func(c *Config) { c.Listen = []string{"127.0.0.1:1"} },
		"redis":              func(c *Config) { c.Redis = "redis://:secret@127.0.0.1:1" },
		"cache.db":           func(c *Config) { c.CacheDB = 2 },
		"origin_connections": func(c *Config) { c.OriginConnections = 9 },
		"max_pinned":         func(c *Config) { c.MaxPinned = 9 },
	} {
		_, err := n.tryReload(func(c *Config) { withoutRule("product:")(c); c.MaxClients = 1; change(c) })
		fixed, ok := errors.AsType[*RestartError](err)
		if !ok || !slices.Equal(fixed.Keys, []string{name}) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*Config){
		"a rule twice": func(c *Config) { c.Rules = append(c.Rules, c.Rules[0]) },
		"no ttl":       func(c *Config) { c.Rules = append(c.Rules, policy.Rule{Kind: policy.CacheRule, Prefix: "x:"}) },
		"too many rules": func(c *Config) {
			for i := range spareRules + 1 {
				c.Rules = append(c.Rules, cacheRule(fmt.Sprintf("x%d:", i), time.Hour))
			}
		},
	} {
		if _, err := n.tryReload(func(c *Config) { c.MaxClients = 1; change(c) }); err == nil {
			t.Errorf("%s is no error", name)
		}
	}
	if n.current() != before {
		t.Error("something has changed")
	}
	if changes, err := n.tryReload(func(*Config) {}); err != nil || changes != nil || n.current() != before {
		t.Errorf("nothing to change: %v, %v", changes, err)
	}
}

// Limits reach sessions that are there already.
func TestReloadLimits(t *testing.T) {
	n := start(t, redistest.Start(t), nil)
	c := n.dial()
	want(t, c, "OK", "SET", "a", strings.Repeat("x", 4000))
	n.mustReload(func(c *Config) {
		c.MaxRequest, c.Deny, c.MaxClients, c.Audit.OneIn = 2000, []string{"debug"}, 1, 1
	})
	if got := c.Do("DEBUG", "SLEEP", "0"); !strings.HasPrefix(got, "-") {
		t.Errorf("DEBUG answered %s", got)
	}
	want(t, c, "OK", "SET", "product:1", "v")
	n.warm(c, "GET", "product:1")
	n.eventually("hits are audited", func() bool { c.Do("GET", "product:1"); return n.m.auditSamples.Get() > 0 })
	second := redistest.Dial(t, n.addr)
	defer second.Close()
	if got := second.Closed(); !strings.Contains(got, "max number of clients") {
		t.Errorf("a second client reads %q", got)
	}
	c.Send("SET", "a", strings.Repeat("x", 4000))
	if got := c.Closed(); !strings.HasPrefix(got, "-ERR Protocol error") {
		t.Errorf("a request beyond max_request is answered %q", got)
	}
}

// What the metrics say of the configuration is what is in force.
func TestReloadMetrics(t *testing.T) {
	n := start(t, redistest.Start(t), nil)
	n.mustReload(func(c *Config) { c.MaxStaleness, c.Memory, c.Buffers = 3*time.Second, 32<<20, 256<<20 })
	for name, want := range map[string]string{
		"nearside_max_staleness_seconds": "3", "nearside_cache_limit_bytes": "33554432", "nearside_buffer_limit_bytes": "268435456",
	} {
		if got := n.series(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// A smaller memory is kept to at once, a larger one is used.
func TestReloadMemory(t *testing.T) {
	n := start(t, redistest.Start(t), func(c *Config) { c.Memory = 8 << 20 })
	c := n.dial()
	fill := func() {
		for i := range 400 {
			c.Do("SET", fmt.Sprintf("product:%d", i), strings.Repeat("x", 20000))
			c.Do("GET", fmt.Sprintf("product:%d", i))
		}
		n.settleCache()
	}
	fill()
	if got := n.l1.Stats().Bytes; got < 4<<20 {
		t.Fatalf("%d bytes", got)
	}
	n.mustReload(func(c *Config) { c.Memory, c.MaxEntries = 1<<20, 40 })
	n.eventually("what is too much is gone", func() bool { return n.l1.Stats().Bytes <= 1<<20 && n.l1.Stats().Entries <= 40 })
	fill()
	if s := n.l1.Stats(); s.Bytes > 1<<20 || s.Entries > 40 || s.Entries < 10 {
		t.Errorf("%d bytes, %d entries", s.Bytes, s.Entries)
	}
	n.mustReload(func(c *Config) { c.Memory, c.MaxEntries = 8<<20, 0 })
	fill()
	if s := n.l1.Stats(); s.Bytes < 4<<20 {
		t.Errorf("%d bytes of 8 MiB are used", s.Bytes)
	}
}

// Hits of a new prefix come only when changes of its keys are reported.
func TestReloadNewPrefixIsReported(t *testing.T) {
	redis, relay, n := heldBack(t, nil)
	c := n.atCache()
	want(t, c, "OK", "SET", "new:1", "old")
	held := relay.HoldRequest("TRACKING")
	defer held.Release()
	n.mustReload(withRule(cacheRule("new:", time.Hour)))
	<-held.Arrived
	hits := n.hits()
	for range 3 {
		want(t, c, "old", "GET", "new:1")
		n.settleCache()
	}
	if n.hits() != hits {
		t.Error("hits before Redis reports changes")
	}
	held.Release()
	n.awaitLink()
	n.warm(c, "GET", "new:1")
	n.invalidatedBy(func() { redis.DoDB(1, "SET", "new:1", "new") })
	want(t, c, "new", "GET", "new:1")
}

// sessionNudge wakes who is paused.
func (n *nearside) sessionNudge() {
	for _, s := range n.sessionList() {
		if s.pausing.Load() {
			s.postOnly(nil)
		}
	}
}

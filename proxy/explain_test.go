package proxy

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
	"nearside/proxy/l1"
	"nearside/proxy/link"
)

// explained is what EXPLAIN says under one name, "" if it says nothing.
func explained(c *redistest.Client, name string, command ...string) string {
	c.Send(append([]string{"NEARSIDE", "EXPLAIN"}, command...)...)
	return field(c.Raw, name)
}

// field reads an array of simple strings and finds the one that begins with a name;
// an error it returns.
func field(raw func(int) string, name string) (found string) {
	line := func() string {
		var b strings.Builder
		for !strings.HasSuffix(b.String(), "\r\n") {
			b.WriteString(raw(1))
		}
		return strings.TrimSpace(b.String())
	}
	head := line()
	if head[0] != '*' {
		return head
	}
	n, _ := strconv.Atoi(head[1:])
	for range n {
		if value, ok := strings.CutPrefix(line(), "+"+name+":"); ok {
			found = value
		}
	}
	return found
}

var reasonCounts = regexp.MustCompile(`(?m)^nearside_cache_(?:bypassed|lookup_misses)_total\{[^}]*reason="(\w+)"[^}]*\} (\d+)$`)

// counted is how often the metrics have seen each reason.
func (n *nearside) counted() map[string]int {
	var text strings.Builder
	n.WriteMetrics(&text)
	got := map[string]int{"hit": int(n.hits())}
	for _, m := range reasonCounts.FindAllStringSubmatch(text.String(), -1) {
		count, _ := strconv.Atoi(m[2])
		got[m[1]] += count
	}
	return got
}

// reported waits until Redis has told of so many changes: a report that comes late
// outdates what has been read since.
func (n *nearside) reported(changes uint64) {
	n.t.Helper()
	n.eventually("Redis has reported the changes", func() bool { return n.link.Stats().Keys >= changes })
}

// whys are the codes that a test has met.
type whys map[string]bool

// agree asks EXPLAIN for a command's reason, runs the command, and wants the
// metrics to have counted that reason and no other.
func (w whys) agree(n *nearside, c *redistest.Client, reason string, command ...string) {
	n.t.Helper()
	n.settleCache()
	before := n.counted()
	if got := explained(c, "reason", command...); got != reason {
		n.t.Errorf("%s: EXPLAIN says %q, want %q", clip(command), got, reason)
	}
	if after := n.counted(); after[reason] != before[reason] {
		n.t.Errorf("%s: EXPLAIN itself is counted", clip(command))
	}
	c.Do(command...)
	n.eventually("the metrics say "+reason, func() bool { return n.counted()[reason] > before[reason] })
	for other, count := range n.counted() {
		if other != reason && count != before[other] {
			n.t.Errorf("%s: counted as %s, too", clip(command), other)
		}
	}
	w[reason] = true
}

func clip(command []string) string {
	all := strings.Join(command, " ")
	return all[:min(len(all), 60)]
}

// Every reason code, on a real Redis: what EXPLAIN says is what the metrics count
// when the command comes, and metrics/METRICS.md has it.
func TestEveryReason(t *testing.T) {
	seen := whys{}
	redis, relay, n := heldBack(t, func(c *Config) {
		c.MaxStaleness = 20 * time.Second
		c.Rules = append(sampleRules(),
			policy.Rule{Kind: policy.CacheRule, Prefix: "short:", TTL: 20 * time.Millisecond, MaxReply: 1 << 20},
			policy.Rule{Kind: policy.CacheRule, Prefix: "gets:", TTL: time.Hour, MaxReply: 1 << 20, Commands: map[string]bool{"get": true}})
	})
	c, other := n.dial(), n.dial()
	want(t, c, "OK", "SET", "product:1", "v")
	want(t, c, "OK", "SET", "product:2", "v")
	n.reported(2)

	seen.agree(n, c, "absent", "GET", "product:2")
	n.warm(c, "GET", "product:1")
	seen.agree(n, c, "hit", "GET", "product:1")
	seen.agree(n, c, "absent", "STRLEN", "product:1")
	want(t, c, "OK", "NEARSIDE", "FLUSH", "product:1")
	seen.agree(n, c, "overtaken", "GET", "product:1")
	other.Send("BLPOP", "product:list", "0")
	n.eventually("the key is being written", func() bool { return explained(c, "reason", "LLEN", "product:list") == "writing" })
	seen.agree(n, c, "writing", "LLEN", "product:list")
	want(t, c, "1", "RPUSH", "product:list", "x")
	other.Read()
	want(t, c, "OK", "SET", "short:1", "v")
	c.Do("GET", "short:1")
	n.eventually("it has expired", func() bool { n.settleCache(); return explained(c, "reason", "short:1") == "expired" })
	seen.agree(n, c, "expired", "GET", "short:1")
	n.l1.Suspend()
	seen.agree(n, c, "suspended", "GET", "product:1")
	n.l1.Resume()

	want(t, other, "OK", "WATCH", "some")
	seen.agree(n, other, "pinned", "GET", "product:1")
	want(t, other, "OK", "UNWATCH")

	long := "product:" + strings.Repeat("x", maxCachedRequest)
	seen.agree(n, c, "too_large", "GET", long)
	many := []string{"MGET"}
	for i := range maxMany + 1 {
		many = append(many, "product:"+strconv.Itoa(i))
	}
	seen.agree(n, c, "too_many_keys", many...)
	seen.agree(n, c, "no_rule", "GET", "unheard:of")
	seen.agree(n, c, "no_rule", "MGET", "product:1", "unheard:of")
	seen.agree(n, c, "lock_rule", "GET", "lock:1")
	want(t, other, "OK", "SELECT", "2")
	seen.agree(n, other, "other_db", "GET", "product:1")
	want(t, other, "OK", "SELECT", "0")
	seen.agree(n, c, "not_cacheable", "TTL", "product:1")
	seen.agree(n, c, "command_not_listed", "STRLEN", "gets:1")
	want(t, c, "1", "HSET", "product:hash", "f", "v")
	n.current().policy.SetHashFieldTTL(true) // as for Redis 7.4
	seen.agree(n, c, "hash_field_ttl", "HGETALL", "product:hash")
	n.current().policy.SetHashFieldTTL(false)

	n.takeOut(n.rules().Match([]byte("stats:1")))
	seen.agree(n, c, "audit", "GET", "stats:1")

	// In one write, behind a SET that is not answered yet.
	explained(c, "reason", "coupon:1") // so that Redis need not be asked for the right to it in between
	before := n.counted()["order"]
	c.Write(redistest.Command("SET", "coupon:1", "v") + redistest.Command("NEARSIDE", "EXPLAIN", "coupon:1") + redistest.Command("GET", "coupon:1"))
	c.Read()
	if got := field(c.Raw, "reason"); got != "order" {
		t.Errorf("behind a write: %q", got)
	}
	c.Read()
	if got := n.counted()["order"]; got != before+1 {
		t.Errorf("order was counted %d times", got-before)
	}
	seen["order"] = true

	before = n.counted()["multi"]
	for _, command := range []string{"MULTI", "NEARSIDE EXPLAIN product:1", "GET product:1"} {
		c.Do(strings.Fields(command)...)
	}
	if got := c.Do("EXEC"); !strings.Contains(got, "reason:multi ") {
		t.Errorf("inside MULTI: %s", got)
	}
	if got := n.counted()["multi"]; got != before+1 {
		t.Errorf("multi was counted %d times", got-before)
	}
	seen["multi"] = true

	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all", "-pttl")
	bob := n.dial()
	want(t, bob, "OK", "AUTH", "bob", "pw")
	n.eventually("the rights are proven", func() bool { return n.users.proven(clockNow()) })
	bob.Do("GET", "product:1")
	seen.agree(n, bob, "user", "GET", "product:1")

	n.full.until.Store(clockNow() + int64(time.Hour))
	seen.agree(n, c, "origin_full", "GET", "product:absent")
	seen.agree(n, c, "origin_full", "MGET", "product:absent")
	n.full.until.Store(0)

	for reason, command := range map[string]string{"write": "SET product:1 w", "local": "PING product:1", "refused": "SHUTDOWN NOSAVE"} {
		if got := explained(c, "reason", strings.Fields(command)...); got != reason {
			t.Errorf("%s: %q", command, got)
		}
		seen[reason] = true
	}
	want(t, c, "v", "GET", "product:1") // nothing of that was done

	// The link says nothing any more, and a fence waits for it.
	held := relay.HoldReply("invalidate")
	redis.DoDB(1, "SET", "balance:1", "v")
	<-held.Arrived
	n.link.Fence()
	seen.agree(n, c, "fence", "GET", "product:1")
	held.Release()
	n.stop()

	_, relay, n = heldBack(t, func(c *Config) { c.MaxStaleness = time.Second })
	held = relay.HoldReply("invalidate")
	c = n.dial()
	want(t, c, "OK", "SET", "product:1", "v")
	<-held.Arrived
	n.eventually("the proof is too old", func() bool { return n.link.Verdict(clockNow()) == link.Stale })
	seen.agree(n, c, "stale", "GET", "product:1")
	held.Release()
	n.stop()

	n = launch(t, redistest.Start(t).URL(), linked(link.ModeKeyspace))
	seen.agree(n, n.dial(), "link_down", "GET", "product:1")

	seen[l1.Closed.String()] = true // nobody is left to ask
	reference, err := os.ReadFile(metricsReference)
	if err != nil {
		t.Fatal(err)
	}
	for code, meaning := range meanings {
		if !seen[code] {
			t.Errorf("%s is not tested", code)
		}
		if !strings.Contains(string(reference), "\n| `"+code+"` | ") {
			t.Errorf("%s (%s) has no row in the reference", code, meaning)
		}
	}
	for code := range n.counted() {
		if meanings[code] == "" {
			t.Errorf("the metrics have the reason %s, which EXPLAIN does not know", code)
		}
	}
}

func TestExplainTakesCommands(t *testing.T) {
	n := start(t, redistest.Start(t), func(c *Config) { c.Deny = []string{"keys"} })
	c := n.dial()
	for _, test := range []struct{ command, name, want string }{
		{"product:1", "command", "get"},
		{"ping", "command", "get"}, // alone it is a key
		{"hgetall product:1", "command", "hgetall"},
		{"hgetall product:1", "redis_db", "1"},
		{"hgetall product:1", "rule", `cache "product:"`},
		{"get lock:1", "rule", `locks "lock:"`},
		{"get lock:1", "route", "passed to Redis on the locks' own connections: a lock is never cached"},
		{"get other", "rule", "none"},
		{"mget product:1 other", "redis_db", "0,1"},
		{"mget product:1 other", "decided_by_key", "2"},
		{"mget product:1 other", "cached", "no"},
		{"blpop q 0", "route", "passed to Redis on a connection of the session's own"},
		{"keys *", "meaning", "nearside refuses the command: NOPERM nearside: 'keys' is denied by the configuration"},
		{"unheard product:1", "", `-ERR nearside: EXPLAIN takes one key, or a command with its arguments: unknown command 'unheard'`},
		{"get a b", "", "-ERR wrong number of arguments for 'get' command"},
	} {
		got := explained(c, test.name, strings.Fields(test.command)...)
		if got != test.want {
			t.Errorf("EXPLAIN %s: %s is %q, want %q", test.command, test.name, got, test.want)
		}
	}
}

// What EXPLAIN says of a hit: its size, its age and its rest of life.
func TestExplainHit(t *testing.T) {
	n := start(t, redistest.Start(t), nil)
	c := n.dial()
	want(t, c, "1", "HSET", "balance:7", "a", "1")
	want(t, c, "1", "PEXPIRE", "balance:7", "100000")
	n.reported(2)
	n.warm(c, "HGETALL", "balance:7")
	for name, form := range map[string]string{
		"cached": "yes", "reason": "hit", "age_ms": `\d+`, "expires_in_ms": `9\d{4}`, "bytes": "18", "negative": "false",
		"staleness_bound_ms": `\d+\.\d{3}`, "last_invalidation": "write", "last_invalidation_of": "key", "last_invalidation_ms_ago": `\d+`,
	} {
		if got := explained(c, name, "HGETALL", "balance:7"); !regexp.MustCompile("^(" + form + ")$").MatchString(got) {
			t.Errorf("%s is %q", name, got)
		}
	}
}

// Who outdated a key last.
func TestLastInvalidation(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.Link = link.ModeTracking })
	c := n.dial()
	says := func(source, scope string) {
		t.Helper()
		n.eventually("the last invalidation is by "+source, func() bool {
			return explained(c, "last_invalidation", "product:1") == source && explained(c, "last_invalidation_of", "product:1") == scope
		})
	}
	says("gap", "everything") // the link came up
	redis.DoDB(1, "SET", "product:1", "w")
	says("tracking", "key")
	reports := n.link.Stats().Keys
	want(t, c, "OK", "SET", "product:1", "v")
	says("write", "key")
	n.eventually("Redis has reported the write", func() bool { return n.link.Stats().Keys > reports })
	says("write", "key") // still: that was its echo
	redis.Do("PUBLISH", link.Channel, "product:1")
	says("channel", "key")
	want(t, c, "OK", "NEARSIDE", "FLUSH", "product:*")
	says("operator", "rule")
	redis.DoDB(5, "FLUSHDB")
	says("flush", "everything")
	n.takeOut(n.rules().Match([]byte("product:1")))
	says("audit", "rule")
	want(t, c, "OK", "NEARSIDE", "AUDIT", "RESTORE", "product:")
	want(t, c, "OK", "WATCH", "product:1")
	c.Do("GET", "product:1")
	want(t, c, "OK", "UNWATCH")
	says("read", "key")
	want(t, c, "OK", "FLUSHALL")
	says("write", "everything")
}

// Why the last fetch of a key left nothing.
func TestLastFetch(t *testing.T) {
	n := start(t, redistest.Start(t), func(c *Config) {
		c.Rules = []policy.Rule{{Kind: policy.CacheRule, Prefix: "k:", TTL: time.Hour, MaxReply: 100}}
	})
	c := n.dial()
	says := func(key, fetch string) {
		t.Helper()
		n.settleCache()
		if got := explained(c, "last_fetch", key); got != fetch {
			t.Errorf("%s: %q, want %q", key, got, fetch)
		}
	}
	c.Do("GET", "k:none")
	says("k:none", "not kept: negative_off")
	c.Do("SET", "k:long", strings.Repeat("x", 200))
	c.Do("GET", "k:long")
	says("k:long", "not kept: too_large")
	if got := explained(c, "reason", "k:long"); got != "absent" {
		t.Errorf("the reason is %s", got)
	}
	c.Do("RPUSH", "k:list", "x")
	c.Do("GET", "k:list")
	says("k:list", "not kept: error")
	c.Do("SET", "k:long", "short")
	n.reported(3)
	c.Do("GET", "k:long")
	says("k:long", "")
	slot := n.l1.Note([]byte("k:over"), 1)
	n.l1.InvalidateSlot(n.l1.Slot([]byte("k:over")), fromOperator)
	n.l1.Put(l1.Fill{ID: []byte("k:over"), Key: []byte("k:over"), Stamp: slot, Rule: 1, Now: 1, Deadline: 2})
	says("k:over", "not kept: overtaken")
}

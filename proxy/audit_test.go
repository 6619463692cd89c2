package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
	"nearside/proxy/l1"
	"nearside/proxy/link"
)

// everyHit has all hits audited.
func everyHit(c *Config) { c.Audit = Audit{OneIn: 1, PerSecond: 1 << 30} }

// auditFor starts a nearside whose link leaks.
func auditFor(t testing.TB, change func(*Config)) (*redistest.Server, *leakyRelay, *nearside) {
	t.Helper()
	redis := redistest.Start(t)
	relay := newLeakyRelay(t, redis)
	n := launch(t, relay.url(), change)
	n.awaitLink()
	return redis, relay, n
}

func (n *nearside) audits(r auditResult) uint64 { return n.m.audited[r].Get() }

// audited waits until every sample has come to an end.
func (n *nearside) auditsEnded() {
	n.t.Helper()
	n.eventually("all samples are decided", func() bool {
		sum := uint64(0)
		for r := range auditResults {
			sum += n.audits(r)
		}
		return sum == n.m.auditSamples.Get()
	})
}

// Whatever can be cached can be audited: the read that the auditor sends is the
// one that the client sent.
func TestAuditEqual(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~product:*", "+@all")
	n := start(t, redis, func(c *Config) {
		everyHit(c)
		c.Rules = append(c.Rules, policy.Rule{Kind: policy.CacheRule, Prefix: "fenced:", TTL: time.Hour, MaxReply: 1 << 20, Negative: true, Fenced: true})
	})
	own, bob := n.dial(), n.as("bob", "pw")
	long := strings.Repeat("x", 200<<10)
	for _, args := range [][]string{
		{"MSET", "product:s", "hello", "product:s2", "", "product:odd\x00\r\n*1", "v", "fenced:1", "v", "product:long", long},
		{"HSET", "product:h", "a", "1", "b", "2"},
		{"RPUSH", "product:l", "x", "y", "z"},
		{"SADD", "product:set", "m", "n"},
		{"ZADD", "product:z", "1", "one", "2", "two"},
		{"GEOADD", "product:g", "13.36", "38.11", "p", "15.08", "37.5", "c"},
		{"XADD", "product:x", "1-1", "f", "v"},
	} {
		own.Do(args...)
	}
	for _, args := range [][]string{
		{"GET", "product:s"},
		{"gEt", "product:s2"},
		{"GET", "product:odd\x00\r\n*1"},
		{"GET", "product:long"},
		{"GET", "fenced:1"},
		{"GET", "product:none"},
		{"MGET", "product:s", "product:none", "product:s2"},
		{"GETRANGE", "product:s", "-3", "-1"},
		{"EXISTS", "product:s"},
		{"HGETALL", "product:h"},
		{"HMGET", "product:h", "a", ""},
		{"HGETALL", "product:none"},
		{"LRANGE", "product:l", "0", "-1"},
		{"SMEMBERS", "product:set"},
		{"ZRANGE", "product:z", "0", "-1", "WITHSCORES"},
		{"ZSCORE", "product:z", "one"},
		{"GEOSEARCH", "product:g", "FROMMEMBER", "p", "BYRADIUS", "200", "km", "WITHCOORD"},
		{"XRANGE", "product:x", "-", "+"},
		{"BITFIELD_RO", "product:s", "GET", "u8", "0"},
		{"SORT_RO", "product:set", "ALPHA"},
	} {
		for _, proto := range []string{"2", "3"} {
			for name, c := range map[string]*redistest.Client{"own": own, "bob": bob} {
				if name == "bob" && strings.HasPrefix(args[1], "fenced:") {
					continue
				}
				c.Do("HELLO", proto)
				samples, equal := n.m.auditSamples.Get(), n.audits(auditEqual)
				n.warm(c, args...)
				n.auditsEnded()
				if more := n.m.auditSamples.Get() - samples; more == 0 || n.audits(auditEqual)-equal != more {
					t.Errorf("%.40q in RESP%s as %s: of %d samples %d are equal: %v", args, proto, name, more, n.audits(auditEqual)-equal, n.auditLines())
				}
			}
		}
	}
}

// A change that is not reported is found, whatever it was; the rule is taken out
// of the cache, the others are not, and it can be put back.
func TestAuditFindsLostInvalidation(t *testing.T) {
	for _, test := range []struct {
		name   string
		before []string
		read   []string
		write  []string
	}{
		{"changed", []string{"SET", "product:1", "oldsecret"}, []string{"GET", "product:1"}, []string{"SET", "product:1", "newsecret"}},
		{"came to be", []string{"DEL", "product:1"}, []string{"GET", "product:1"}, []string{"SET", "product:1", "newsecret"}},
		{"gone", []string{"SET", "product:1", "oldsecret"}, []string{"GET", "product:1"}, []string{"DEL", "product:1"}},
		{"another type", []string{"SET", "product:1", "oldsecret"}, []string{"GET", "product:1"}, []string{"EVAL", "redis.call('del', KEYS[1]) return redis.call('rpush', KEYS[1], 'v')", "1", "product:1"}},
		{"a field", []string{"HSET", "product:1", "a", "oldsecret", "b", "x"}, []string{"HGETALL", "product:1"}, []string{"HSET", "product:1", "a", "newsecret"}},
		{"swapped fields", []string{"HSET", "product:1", "a", "1", "b", "2"}, []string{"HGETALL", "product:1"}, []string{"HSET", "product:1", "a", "2", "b", "1"}},
		{"a list turned round", []string{"RPUSH", "product:1", "a", "b"}, []string{"LRANGE", "product:1", "0", "-1"}, []string{"SORT", "product:1", "ALPHA", "DESC", "STORE", "product:1"}},
		{"in an MGET", []string{"SET", "product:1", "oldsecret"}, []string{"MGET", "balance:1", "product:1"}, []string{"SET", "product:1", "newsecret"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log lockedBuffer
			redis, relay, n := auditFor(t, func(c *Config) {
				everyHit(c)
				c.Admin = "127.0.0.1:0"
				c.Log = slog.New(slog.NewTextHandler(&log, nil))
			})
			c, control := n.dial(), redistest.Dial(t, redis.Addr)
			defer control.Close()
			control.Do("SELECT", "1")
			want(t, c, "OK", "MSET", "balance:1", "b")
			c.Do(test.before...)
			old := n.warm(c, test.read...)
			n.warm(c, "GET", "balance:1")
			n.auditsEnded()
			relay.losing(func(key string) bool { return key == "product:1" })
			if got := redis.DoDB(1, test.write...); strings.HasPrefix(got, "-") {
				t.Fatal(got)
			}
			n.eventually("the invalidation is lost", func() bool { return relay.lost.Load() > 0 })
			relay.losing(func(string) bool { return false })
			want(t, c, old, test.read...)
			n.eventually("the rule is out", func() bool {
				return n.m.rule(n.rules().Match([]byte("product:1")).ID).inconsistent.Get() > 0 && n.quarantine.count.Load() == 1
			})

			now := control.Do(test.read...)
			if test.name != "in an MGET" && now == old {
				t.Fatal("nothing has changed: this test shows nothing")
			}
			bypassed := n.bypassed(bypassAudit)
			for range 3 {
				want(t, c, control.Do(test.read...), test.read...)
				want(t, c, control.Do("MGET", "balance:1", "product:1"), "MGET", "balance:1", "product:1")
			}
			if got := n.bypassed(bypassAudit) - bypassed; got != 6 {
				t.Errorf("%d reads went past the near cache, not 6", got)
			}
			n.warm(c, "GET", "balance:1") // another rule is not concerned
			for args, parts := range map[string][]string{
				"EXPLAIN product:1": {"reason:audit", "taken_out:"},
				"AUDIT":             {"audit:on", "inconsistent:1", "rules_out:1", `rule_out:prefix="product:",since=2`, "found=1"},
			} {
				got := c.Do(append([]string{"NEARSIDE"}, strings.Fields(args)...)...)
				for _, part := range parts {
					if !strings.Contains(got, part) {
						t.Errorf("%s lacks %q: %s", args, part, got)
					}
				}
			}
			if status, body := n.get("/cache/health"); status != 200 || !strings.Contains(body, "AUDIT") {
				t.Errorf("health: %d %s", status, body)
			}
			var metrics strings.Builder
			n.WriteMetrics(&metrics)
			for _, line := range []string{`nearside_audit_inconsistent_total{prefix="product:"} 1`, `nearside_audit_inconsistent_total{prefix="balance:"} 0`, "nearside_audit_rules_out 1", `nearside_audit_total{result="inconsistent"} 1`} {
				if !strings.Contains(metrics.String(), line+"\n") {
					t.Errorf("the metrics lack %s", line)
				}
			}
			text := log.text()
			if strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, "rule=product:") || !strings.Contains(text, "link=tracking") ||
				!strings.Contains(text, "command="+strings.ToLower(strings.Replace(test.read[0], "MGET", "get", 1))) || !strings.Contains(text, "key_hash="+keyHash([]byte("product:1"))) {
				t.Errorf("the log says %s", text)
			}
			if strings.Contains(text, "product:1") || strings.Contains(text, "secret") {
				t.Errorf("the log tells a key or a value: %s", text)
			}

			want(t, c, "OK", "NEARSIDE", "AUDIT", "restore", "product:")
			hits := n.hits()
			want(t, c, now, test.read...) // from an empty cache
			if test.name != "in an MGET" && n.hits() != hits {
				t.Error("the cache was not empty after RESTORE")
			}
			if !strings.HasPrefix(now, "-") { // errors are not kept
				n.warm(c, test.read...)
			}
			n.auditsEnded()
			if n.audits(auditInconsistent) != 1 || n.quarantine.count.Load() != 0 {
				t.Errorf("after RESTORE: %v", n.auditLines())
			}
		})
	}
}

// RESTORE needs the right to FLUSH, a rule, and that it is out.
func TestAuditCommand(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+info", "+@connection")
	n := start(t, redis, nil)
	own, reader := n.dial(), n.as("reader", "pw")
	for _, test := range []struct {
		c    *redistest.Client
		args string
		want string
	}{
		{own, "AUDIT RESTORE product:", `-ERR nearside: the rule "product:" is not taken out of the cache`},
		{own, "AUDIT RESTORE lock:", `-ERR nearside: no cache rule has the prefix "lock:"`},
		{own, "AUDIT RESTORE", "-ERR wrong number of arguments for 'nearside|audit' command"},
		{own, "AUDIT RESTORE a b", "-ERR wrong number of arguments for 'nearside|audit' command"},
		{own, "AUDIT NOSUCH", "-ERR unknown subcommand 'NOSUCH'. Try NEARSIDE HELP."},
	} {
		want(t, test.c, test.want, append([]string{"NEARSIDE"}, strings.Fields(test.args)...)...)
	}
	want(t, own, "OK", "SET", "product:1", "v")
	n.warm(own, "GET", "product:1")
	e, rule := n.entry("product:1"), n.rules().Match([]byte("product:1"))
	n.takeOut(rule)
	n.takeOut(rule)
	if n.l1.Current(n.l1.Stamped(e)) {
		t.Error("a session that has passed the check still finds the entry")
	}
	if got := reader.Do("NEARSIDE", "AUDIT", "RESTORE", "product:"); !strings.HasPrefix(got, "-NOPERM") {
		t.Errorf("a reader may RESTORE: %s", got)
	}
	if got := reader.Do("NEARSIDE", "AUDIT"); !strings.Contains(got, "audit:off: one_in is 0") || !strings.Contains(got, "rules_out:1") {
		t.Errorf("AUDIT says %s", got)
	}
	want(t, own, "OK", "NEARSIDE", "AUDIT", "RESTORE", "product:")
	if n.quarantine.count.Load() != 0 {
		t.Error("it is still out")
	}
}

// A reply that was fetched before a rule was taken out, and comes after, is not
// served after RESTORE. Guard: InvalidateRule in restore.
func TestAuditRestoreFromEmpty(t *testing.T) {
	_, relay, n := heldBack(t, func(c *Config) { c.OriginConnections = 1 })
	c, other := n.dial(), n.dial()
	want(t, c, "OK", "SET", "product:1", "v")
	want(t, c, "(nil)", "GET", "product:2") // the user's first fetch is not pipelined with others
	rule := n.rules().Match([]byte("product:1"))
	held := relay.HoldReply("$1\r\nv")
	defer held.Release()
	// Its check came before the rule was taken out, its stamp is of after.
	n.takeOut(rule)
	n.quarantine.out[rule.ID].Store(0)
	n.quarantine.count.Store(0)
	c.Send("GET", "product:1")
	<-held.Arrived
	n.quarantine.out[rule.ID].Store(1)
	n.quarantine.count.Store(1)
	held.Release()
	if got := c.Read(); got != "v" {
		t.Fatal(got)
	}
	n.settleCache()
	hits := n.hits()
	want(t, other, "OK", "NEARSIDE", "AUDIT", "RESTORE", "product:")
	want(t, other, "v", "GET", "product:1")
	if n.hits() != hits {
		t.Error("an entry from before is served")
	}
}

// byHand is an auditor that the test moves on, step by step.
func (n *nearside) byHand() *auditor {
	return &auditor{p: n.Proxy, samples: make(chan *l1.Entry, maxSamples), answers: make(chan *question, maxAsked)}
}

// entry is what the near cache holds of a key.
func (n *nearside) entry(key string) (found *l1.Entry) {
	n.t.Helper()
	n.settleCache()
	n.l1.Each(func(e *l1.Entry) bool {
		if string(e.Key()) == key && n.l1.Current(n.l1.Stamped(e)) {
			found = e
		}
		return found == nil
	})
	if found == nil {
		n.t.Fatalf("nothing is cached of %s", key)
	}
	return found
}

// proven waits until everything up to a time is known.
func (n *nearside) proven(at int64) {
	n.t.Helper()
	n.eventually("proven", func() bool { p, known := n.link.Proven(); return known && p >= at })
}

func manual(c *Config) {
	c.Audit.PerSecond = 1 << 30
	c.MaxStaleness = 4 * time.Second // hits and suspicions outlast what the tests hold back
}

// A difference is a suspicion until the link has proven that nothing explains it.
func TestAuditWaitsForTheProof(t *testing.T) {
	for _, lost := range []bool{true, false} {
		t.Run(fmt.Sprintf("lost=%t", lost), func(t *testing.T) {
			redis, relay, n := auditFor(t, manual)
			c, a := n.dial(), n.byHand()
			want(t, c, "OK", "SET", "product:1", "old")
			n.warm(c, "GET", "product:1")
			e := n.entry("product:1")
			relay.losing(func(string) bool { return lost })
			relay.freeze()
			redis.DoDB(1, "SET", "product:1", "new")
			want(t, c, "old", "GET", "product:1")
			a.ask(t.Context(), e)
			q := <-a.answers
			if q.result != auditDiffers {
				t.Fatalf("result %d", q.result)
			}
			a.answered(q)
			a.judge()
			if p, _ := n.link.Proven(); p >= q.at || len(a.suspects) != 1 || n.audits(auditInconsistent) != 0 {
				t.Fatalf("decided without a proof: %v", n.auditLines())
			}
			relay.thaw()
			n.proven(q.at)
			a.judge()
			expected := map[bool]auditResult{true: auditInconsistent, false: auditOvertaken}[lost]
			if len(a.suspects) != 0 || n.audits(expected) != 1 || n.quarantine.holds([]policy.Key{{Rule: n.rules().Match([]byte("product:1"))}}) != lost {
				t.Errorf("%v", n.auditLines())
			}
		})
	}
}

// A key that is changed between the hit and the answer is no finding, whichever
// comes first, the invalidation or the answer.
func TestAuditOvertaken(t *testing.T) {
	for _, first := range []string{"before the question", "before the answer", "before the proof", "link lost"} {
		t.Run(first, func(t *testing.T) {
			redis, relay, n := heldBack(t, manual)
			c, a := n.dial(), n.byHand()
			want(t, c, "OK", "SET", "product:1", "old")
			n.warm(c, "GET", "product:1")
			e := n.entry("product:1")
			write := func() { redis.DoDB(1, "SET", "product:1", "new") }
			switch first {
			case "before the question":
				n.invalidatedBy(write)
				a.ask(t.Context(), e)
			case "before the answer":
				answer := relay.HoldReply("$3\r\nnew\r\n")
				defer answer.Release()
				push := relay.HoldReply("invalidate")
				defer push.Release()
				write()
				<-push.Arrived
				a.ask(t.Context(), e)
				<-answer.Arrived
				n.invalidatedBy(push.Release)
				answer.Release()
				a.answered(<-a.answers)
			case "before the proof", "link lost":
				push := relay.HoldReply("invalidate")
				defer push.Release()
				write()
				<-push.Arrived
				a.ask(t.Context(), e)
				q := <-a.answers
				a.answered(q)
				a.judge()
				if len(a.suspects) != 1 {
					t.Fatalf("no suspicion: %v", n.auditLines())
				}
				if first == "link lost" {
					n.link.Drop("the test says so")
					push.Release()
					n.awaitLink()
				} else {
					n.invalidatedBy(push.Release)
				}
				n.proven(q.at)
				a.judge()
			}
			if a.asked != 0 && first == "before the question" {
				t.Error("a question was sent whose answer says nothing")
			}
			if n.audits(auditOvertaken) != 1 || len(a.suspects) != 0 || n.quarantine.count.Load() != 0 {
				t.Errorf("%v", n.auditLines())
			}
		})
	}
}

// A key that has expired at the origin without a report is no finding.
func TestAuditExpired(t *testing.T) {
	for _, when := range []string{"before the question", "before the answer", "before the proof"} {
		t.Run(when, func(t *testing.T) {
			redis, relay, n := auditFor(t, manual)
			c, a := n.dial(), n.byHand()
			relay.losing(func(string) bool { return true })
			redis.DoDB(1, "SET", "product:1", "v", "PX", "400")
			n.warm(c, "GET", "product:1")
			e := n.entry("product:1")
			gone := func() {
				n.eventually("it has expired", func() bool { return redis.DoDB(1, "GET", "product:1") == "(nil)" })
				if now := clockNow(); now < e.Deadline {
					t.Fatalf("Redis has expired the key %s before the deadline", time.Duration(e.Deadline-now))
				}
			}
			switch when {
			case "before the question":
				gone()
				a.ask(t.Context(), e)
			case "before the answer":
				a.ask(t.Context(), e)
				q := <-a.answers
				if q.result != auditEqual {
					t.Fatalf("result %d", q.result)
				}
				gone()
				q = &question{e: e, name: "get", answers: a.answers}
				q.Reply([]byte("$-1\r\n"), nil, nil) // as if it had been asked just before the end
				a.answered(<-a.answers)
			case "before the proof":
				a.suspects = append(a.suspects, &question{e: e, at: 1 << 62})
				a.judge()
				if len(a.suspects) != 1 {
					t.Fatalf("%v", n.auditLines())
				}
				gone()
				a.judge()
			}
			if n.audits(auditExpired) != 1 || n.audits(auditInconsistent) != 0 || len(a.suspects) != 0 {
				t.Errorf("%v", n.auditLines())
			}
		})
	}
}

// Without an answer nothing can be said: an error, a lost connection, a right
// that nearside's own user lacks.
func TestAuditInconclusive(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "svc", "on", ">svc", "~*", "&*", "+@all")
	relay := redistest.NewRelay(t, redis.Addr)
	n := launch(t, "redis://svc:svc@"+relay.Addr, func(c *Config) {
		manual(c)
		c.OriginConnections = 1
	})
	n.awaitLink()
	c, a := n.dial(), n.byHand()
	want(t, c, "OK", "SET", "product:1", "v")
	n.warm(c, "GET", "product:1")
	e := n.entry("product:1")
	redis.Do("ACL", "SETUSER", "svc", "-get")
	a.ask(t.Context(), e)
	a.answered(<-a.answers)
	redis.Do("ACL", "SETUSER", "svc", "+get")
	if n.audits(auditInconclusive) != 1 {
		t.Errorf("NOPERM: %v", n.auditLines())
	}
	held := relay.HoldRequest("GET")
	defer held.Release()
	held2 := relay.HoldRequest("get")
	defer held2.Release()
	a.ask(t.Context(), e)
	<-held2.Arrived
	_, linkConn := relay.Find("TRACKING", true)
	relay.CutAllBut(linkConn)
	held2.Release()
	a.answered(<-a.answers)
	if n.audits(auditInconclusive) != 2 {
		t.Errorf("lost connection: %v", n.auditLines())
	}
	relay.Refuse(true)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	a.ask(ended, e)
	relay.Refuse(false)
	if n.audits(auditInconclusive) != 3 || len(a.suspects) != 0 {
		t.Errorf("no connection: %v", n.auditLines())
	}
}

// Redis may give the elements of a hash or set in another order without a write.
func TestAuditRehashedOrder(t *testing.T) {
	for _, test := range []struct {
		add  string
		step string
		read []string
	}{
		{"HSET", "HEXISTS", []string{"HGETALL", "HKEYS", "HVALS"}},
		{"SADD", "SISMEMBER", []string{"SMEMBERS"}},
	} {
		for _, proto := range []string{"2", "3"} {
			t.Run(test.add+proto, func(t *testing.T) {
				redis := redistest.Start(t)
				n := start(t, redis, everyHit)
				c, direct := n.dial(), redistest.Dial(t, redis.Addr)
				defer direct.Close()
				c.Do("HELLO", proto)
				direct.Do("SELECT", "1")
				direct.Do("HELLO", proto)
				// 512 elements turn it into a table; growing beyond a power of two, it is
				// rehashed a bucket at a time, by every look-up.
				for i := range 2049 {
					args := []string{test.add, "product:1", "f" + strconv.Itoa(i)}
					if test.add == "HSET" {
						args = append(args, "v"+strconv.Itoa(i))
					}
					direct.Do(args...)
				}
				n.proven(clockNow()) // the last invalidation has come
				before := map[string]string{}
				for _, read := range test.read {
					before[read] = c.Do(read, "product:1")
				}
				n.settleCache()
				for range 5000 {
					direct.Do(test.step, "product:1", "f1")
				}
				for _, read := range test.read {
					if direct.Do(read, "product:1") == before[read] {
						t.Fatalf("%s: the order has not changed: this test shows nothing", read)
					}
					hits := n.hits()
					want(t, c, before[read], read, "product:1")
					// A large reply is sent before its batch is counted.
					n.eventually(read+" was a hit", func() bool { return n.hits() > hits })
				}
				n.auditsEnded()
				if got := n.audits(auditEqual); got != uint64(len(test.read)) || got != n.m.auditSamples.Get() {
					t.Errorf("%v", n.auditLines())
				}
			})
		}
	}
}

func TestRepliesAgree(t *testing.T) {
	for _, test := range []struct {
		name, a, b string
		want       bool
	}{
		{"get", "$1\r\na\r\n", "$1\r\na\r\n", true},
		{"get", "$1\r\na\r\n", "$1\r\nb\r\n", false},
		{"lrange", "*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\nb\r\n$1\r\na\r\n", false},
		{"smembers", "*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\nb\r\n$1\r\na\r\n", true},
		{"smembers", "~2\r\n$1\r\na\r\n$1\r\nb\r\n", "~2\r\n$1\r\nb\r\n$1\r\na\r\n", true},
		{"smembers", "~2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\nb\r\n$1\r\na\r\n", false},
		{"smembers", "*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\nb\r\n$1\r\nb\r\n", false},
		{"hvals", "*3\r\n$1\r\na\r\n$1\r\na\r\n$1\r\nb\r\n", "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nb\r\n", false},
		{"hvals", "*3\r\n$1\r\na\r\n$1\r\na\r\n$1\r\nb\r\n", "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\na\r\n", true},
		{"hgetall", "*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n", "*4\r\n$1\r\nb\r\n$1\r\n2\r\n$1\r\na\r\n$1\r\n1\r\n", true},
		{"hgetall", "*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n", "*4\r\n$1\r\na\r\n$1\r\n2\r\n$1\r\nb\r\n$1\r\n1\r\n", false},
		{"hgetall", "%2\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n", "%2\r\n$1\r\nb\r\n$1\r\n2\r\n$1\r\na\r\n$1\r\n1\r\n", true},
		{"hgetall", "%2\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n", "%2\r\n$1\r\na\r\n$1\r\n2\r\n$1\r\nb\r\n$1\r\n1\r\n", false},
		{"smembers", "*0\r\n", "*1\r\n$0\r\n\r\n", false},
		{"smembers", "*0\r\n", "+OK\r", false},
		{"smembers", "-ER\r\n", "*0\r\n1", false},
	} {
		if got := repliesAgree(test.name, []byte(test.a), []byte(test.b)); got != test.want {
			t.Errorf("%s %q %q: %t", test.name, test.a, test.b, got)
		}
	}
}

// One hit in so many is picked, by each session, and no more are asked about
// than allowed.
func TestAuditLimits(t *testing.T) {
	redis := redistest.Start(t)
	const oneIn, each, clients, perSecond = 10, 2000, 10, 3
	n := start(t, redis, func(c *Config) { c.Audit = Audit{OneIn: oneIn, PerSecond: perSecond} })
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "v")
	n.warm(c, "GET", "product:1")
	gets, begin := redis.Calls("get"), clockNow()
	for range clients {
		c := n.dial()
		c.Write(strings.Repeat(redistest.Command("GET", "product:1"), each))
		for range each {
			if got := c.Read(); got != "v" {
				t.Fatal(got)
			}
		}
	}
	n.auditsEnded()
	took := time.Duration(clockNow() - begin)
	// Five standard deviations: sqrt(20000 * 0.1 * 0.9) is 42.
	if got := n.m.auditSamples.Get(); got < 2000-212 || got > 2000+212 {
		t.Errorf("of %d hits %d were picked", each*clients, got)
	}
	if got, most := redis.Calls("get")-gets, 1+int(perSecond*(took+auditBurst)/time.Second); got > most || got == 0 {
		t.Errorf("%d reads in %s, at most %d are allowed", got, took, most)
	}
	if n.audits(auditDropped) == 0 || n.audits(auditInconsistent) != 0 {
		t.Errorf("%v", n.auditLines())
	}
}

// What is waited for is bounded; beyond it samples are dropped, and nobody waits.
func TestAuditIsBounded(t *testing.T) {
	redis, relay, n := auditFor(t, manual)
	c, a := n.dial(), n.byHand()
	want(t, c, "OK", "SET", "product:1", "old")
	n.warm(c, "GET", "product:1")
	e := n.entry("product:1")
	for range maxSamples + 5 {
		a.offer(e)
	}
	if got := n.audits(auditDropped); got != 5 || len(a.samples) != maxSamples {
		t.Errorf("%d dropped, %d queued", got, len(a.samples))
	}
	relay.freeze()
	redis.DoDB(1, "SET", "product:1", "new")
	for range maxSuspects + 7 {
		a.ask(t.Context(), e)
		a.answered(<-a.answers)
	}
	if got := n.audits(auditDropped); got != 12 || len(a.suspects) != maxSuspects {
		t.Errorf("%d dropped, %d suspects", got, len(a.suspects))
	}
	relay.thaw()
}

// Where nothing is promised nothing is audited, nor without a wish.
func TestAuditOff(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"link none": func(c *Config) { everyHit(c); c.Link = link.ModeNone },
		"embedded":  func(c *Config) { everyHit(c); c.Embedded = true },
		"one_in 0":  func(c *Config) { c.Audit.OneIn = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, redistest.Start(t), change)
			c := n.dial()
			want(t, c, "OK", "SET", "product:1", "v")
			for range 100 {
				n.warm(c, "GET", "product:1")
			}
			if got := n.m.auditSamples.Get(); got != 0 {
				t.Errorf("%d samples", got)
			}
			if got := c.Do("NEARSIDE", "AUDIT"); !strings.Contains(got, "audit:off") {
				t.Errorf("AUDIT says %s", got)
			}
		})
	}
}

// No false alarm, whatever goes on: writers elsewhere and here at full speed,
// short lives, flushes, lost connections.
func TestAuditFindsNothingUnderLoad(t *testing.T) {
	redis, relay, n := heldBack(t, func(c *Config) { c.Audit = Audit{OneIn: 2, PerSecond: 1 << 30} })
	stop := make(chan struct{})
	var wg sync.WaitGroup
	loop := func(addr string, step func(c *redistest.Client, i int)) {
		wg.Go(func() {
			c := redistest.Dial(t, addr)
			defer c.Close()
			c.Do("SELECT", "1")
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					step(c, i)
				}
			}
		})
	}
	write := func(c *redistest.Client, i int) {
		k := strconv.Itoa(i % 40)
		v := strconv.Itoa(i)
		for _, args := range [][]string{
			{"SET", "product:" + k, v},
			{"SET", "balance:" + k, v, "PX", strconv.Itoa(5 + i%200)},
			{"HSET", "stats:" + k, "f" + strconv.Itoa(i%700), v},
			{"SADD", "coupon:" + k, v},
		} {
			c.Send(args...)
		}
		if i%500 == 0 {
			c.Send("DEL", "coupon:"+k)
		} else {
			c.Send("PING")
		}
		for range 5 {
			c.Read()
		}
	}
	loop(redis.Addr, write)
	loop(n.addr, write)
	reads := func(c *redistest.Client, i int) {
		// The same keys several times in a row, so that there are hits, and some that nobody writes.
		k := strconv.Itoa(i / 4 % 50)
		for _, args := range [][]string{{"GET", "product:" + k}, {"GET", "balance:" + k}, {"HGETALL", "stats:" + k}, {"SMEMBERS", "coupon:" + k}, {"MGET", "product:" + k, "balance:" + k}} {
			c.Send(args...)
		}
		for range 5 {
			c.Read()
		}
	}
	for range 3 {
		loop(n.addr, reads)
	}
	each := 2500 // comparisons between two disturbances: some seconds in all
	if testing.Short() {
		each = 200
	}
	for i := range 8 {
		before := n.audits(auditEqual)
		n.eventually("audits go on", func() bool { return n.audits(auditEqual) > before+uint64(each) })
		switch i % 4 {
		case 1:
			_, linkConn := relay.Find("TRACKING", true)
			relay.CutConn(linkConn) // the first time; later it does nothing
			n.link.Drop("the test says so")
			n.awaitLink()
		case 3:
			redis.DoDB(1, "FLUSHDB")
		}
	}
	close(stop)
	wg.Wait()
	n.auditsEnded()
	t.Log(n.auditLines())
	if n.audits(auditInconsistent) != 0 || n.audits(auditOvertaken) == 0 {
		t.Errorf("%v", n.auditLines())
	}
}

// text is what has been logged so far.
func (l *lockedBuffer) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

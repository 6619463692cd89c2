package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
	"nearside/proxy/link"
)

// The sources that have a connection: each test that takes one holds for both.
var linkSources = []string{link.ModeTracking, link.ModeKeyspace}

// bySource runs a test with each source and a Redis that offers it.
func bySource(t *testing.T, test func(t *testing.T, redis *redistest.Server, source string)) {
	t.Helper()
	for _, source := range linkSources {
		t.Run(source, func(t *testing.T) {
			test(t, redistest.Start(t, "--notify-keyspace-events", "KA"), source)
		})
	}
}

// linked configures the source, with a bound that no test comes to by itself
// unless it sets another one.
func linked(source string, more ...func(*Config)) func(*Config) {
	return func(c *Config) {
		c.Link = source
		for _, m := range more {
			m(c)
		}
	}
}

func maxStaleness(d time.Duration) func(*Config) { return func(c *Config) { c.MaxStaleness = d } }

// reason is why a GET would or would not be a hit.
func (n *nearside) reason(c *redistest.Client, key string) string {
	n.t.Helper()
	n.settleCache()
	for _, line := range strings.Split(c.Do("NEARSIDE", "EXPLAIN", key), " ") {
		if why, ok := strings.CutPrefix(line, "reason:"); ok {
			return strings.TrimSuffix(why, "]")
		}
	}
	return ""
}

func TestLinkSeesExternalWrites(t *testing.T) {
	bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
		n := start(t, redis, linked(source))
		c := n.dial()
		if got := n.link.Source(); got != source {
			t.Fatalf("the source is %s", got)
		}
		for i := range 20 {
			value := fmt.Sprint(i)
			redis.DoDB(1, "SET", "product:1", value)
			n.eventually("the new value is seen", func() bool { return c.Do("GET", "product:1") == value })
			if got := n.warm(c, "GET", "product:1"); got != value {
				t.Fatalf("read %q after %q", got, value)
			}
		}
		redis.DoDB(1, "SET", "product:1", "soon gone", "PX", "20")
		n.eventually("an expired value is gone", func() bool { return c.Do("GET", "product:1") == "(nil)" })
	})
}

// Prefixes in which Redis would see a pattern, and the one that is in every key.
// The key in odd is under no rule and must be passed over.
func TestLinkPrefixes(t *testing.T) {
	tests := []struct{ prefix, key, odd string }{
		{"product:", "product:1", "productx:1"},
		{"a*b:", "a*b:1", "axxb:1"},
		{"a?b:", "a?b:1", "axb:1"},
		{"a[bc]:", "a[bc]:1", "ab:1"},
		{`a\b:`, `a\b:1`, `ab:1`},
		{`a\*:`, `a\*:1`, `a*:1`},
		{"[^x]-", "[^x]-1", "y1"},
		{"\x00\xff\r\n:", "\x00\xff\r\n:*", "\x00:1"},
		{"", "any key", ""},
		{"", "*", ""},
	}
	bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
		for _, test := range tests {
			t.Run(fmt.Sprintf("%q", test.prefix), func(t *testing.T) {
				n := start(t, redis, linked(source, func(c *Config) {
					c.Rules = []policy.Rule{{Kind: policy.CacheRule, Prefix: test.prefix, TTL: time.Hour, MaxReply: 1 << 20, Negative: true}}
				}))
				c := n.dial()
				redis.DoDB(1, "SET", test.key, "old")
				if got := n.warm(c, "GET", test.key); got != "old" {
					t.Fatalf("read %q", got)
				}
				before := n.link.Stats()
				if test.odd != "" {
					redis.DoDB(1, "SET", test.odd, "v")
				}
				redis.DoDB(1, "SET", test.key, "new")
				n.eventually("the new value is seen", func() bool { return c.Do("GET", test.key) == "new" })
				after := n.link.Stats()
				if got := after.Keys + after.Events - before.Keys - before.Events; got != 1 {
					t.Errorf("told of %d keys", got)
				}
				redis.DoDB(1, "DEL", test.key, test.odd)
			})
		}
	})
}

// recorder is a link on its own, whose invalidations are written down.
type recorder struct {
	*link.Link
	mu   sync.Mutex
	keys map[string]bool
	all  int
}

func record(t *testing.T, n *nearside, cfg link.Config) *recorder {
	t.Helper()
	r := &recorder{keys: map[string]bool{}}
	cfg.Dial, cfg.DB = n.dialLink, n.cfg.CacheDB
	if cfg.Now == nil {
		cfg.Now = clockNow
	}
	cfg.Invalidate = func(_ link.Cause, key []byte) { r.mu.Lock(); r.keys[string(key)] = true; r.mu.Unlock() }
	cfg.InvalidateAll = func(link.Cause, string) { r.mu.Lock(); r.all++; r.mu.Unlock() }
	r.Link = link.New(cfg)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(t.Context()) }()
	t.Cleanup(func() {
		r.Close()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	n.eventually("the recording link is up", func() bool { return r.Verdict(cfg.Now()) == link.OK })
	return r
}

// begin forgets what was recorded, when all that was written before has been.
func (r *recorder) begin(n *nearside) {
	n.t.Helper()
	r.checks(n)
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.keys)
	r.all = 0
}

// checks waits until a check that was sent after the call has been answered.
func (r *recorder) checks(n *nearside) {
	n.t.Helper()
	c := r.Stats().Checks
	n.eventually("the link has checked", func() bool { return r.Stats().Checks >= c+2 })
}

// missed are the keys that were not told of, by themselves or with all others.
func (r *recorder) missed(changed []string) (missed []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range changed {
		if r.all == 0 && !r.keys[key] {
			missed = append(missed, key)
		}
	}
	return missed
}

// contents is what reads that can be cached show of database 1.
func contents(c *redistest.Client) map[string]string {
	all := map[string]string{}
	for _, key := range list(c.Do("KEYS", "*")) {
		if kind := c.Do("TYPE", key); kind == "stream" { // consumer groups are in DUMP
			all[key] = kind + c.Do("XRANGE", key, "-", "+")
		} else {
			all[key] = kind + c.Do("DUMP", key)
		}
	}
	return all
}

// everyWrite are the commands of Redis 7.0 that change keys, in the ways in which
// they do; DUMP stands for the value of a key, PORT for another server's. What
// stands before ~ is done before anybody watches.
const everyWrite = `
SET s new|SET s new EX 100|SET s new KEEPTTL|GETSET s q|GETDEL s|SETEX s 10 v|PSETEX s 10000 v|SETNX fresh v
MSET s 1 q 2|MSETNX u 1 v 2|APPEND s xx|SETRANGE s 1 zz|SETBIT s 3 1|BITFIELD s SET u8 0 255|BITOP AND dest s n|BITOP AND s no no2
INCR n|INCRBY n 2|INCRBYFLOAT n 1.5|DECR n|DECRBY n 3|DEL s|UNLINK s|EXPIRE s -1|PEXPIREAT s 1|EXPIREAT s 1|PEXPIRE s 0|GETEX s PXAT 1
RENAME s s2|RENAME s n|RENAMENX s s3|COPY s s4|COPY s n REPLACE|SELECT 2;SET m v;COPY m s DB 1 REPLACE
MOVE s 2|SELECT 2;SET m v;MOVE m 1|RESTORE r 0 DUMP|RESTORE n 0 DUMP REPLACE|RESTORE n 1 DUMP REPLACE ABSTTL
SORT l STORE sorted|SORT no STORE s|LPUSH l 9|RPUSH l 9|LPUSHX l 9|RPUSHX l 9|LPOP l|RPOP l 2|LREM l 0 1|LTRIM l 0 0|LTRIM l 5 6|LSET l 0 x
LINSERT l BEFORE 1 q|RPOPLPUSH l l2|LMOVE l l2 LEFT RIGHT|LMPOP 1 l LEFT|BLPOP l 1|BRPOP l 1|BLMOVE l l2 LEFT RIGHT 1|BLMPOP 1 1 l LEFT|BRPOPLPUSH l l2 1
SADD st q|SREM st a|SPOP st|SPOP st 2|SPOP st 100|SMOVE st st2 a|SINTERSTORE s3 st st2|SUNIONSTORE s st st2|SDIFFSTORE st st st
HSET h f 9|HSETNX h q 9|HMSET h f 3|HINCRBY h f 1|HINCRBYFLOAT h f 1.5|HDEL h f|HDEL h f g
ZADD z 9 a|ZADD z INCR 9 a|ZINCRBY z 1 a|ZREM z a|ZREM z a b c|ZPOPMIN z|ZPOPMAX z 2|BZPOPMIN z 1|BZPOPMAX z 1|ZMPOP 1 z MIN|BZMPOP 1 1 z MIN
ZREMRANGEBYSCORE z 0 1|ZREMRANGEBYRANK z 0 1|ZREMRANGEBYLEX z - +|ZRANGESTORE zz z 0 -1|ZUNIONSTORE zz 1 z|ZINTERSTORE z 2 z no|ZDIFFSTORE z 2 z z
GEOADD geo 15 37 q|GEORADIUS geo 13 38 100 km STORE gs|GEORADIUSBYMEMBER geo p 1 km STORE gs|GEOSEARCHSTORE gs geo FROMLONLAT 13 38 BYRADIUS 100 km
XADD x 3-1 f v|XADD x MAXLEN 1 3-1 f v|XDEL x 1-1|XTRIM x MAXLEN 1|XTRIM x MINID 2|XGROUP CREATE newx g 0 MKSTREAM
PFADD hll q r|PFMERGE hll hll2|PFMERGE new hll hll2|PFCOUNT hll|PFDEBUG GETREG hll|PFDEBUG TODENSE hll
MULTI;SET s 1;DEL n;EXEC|MULTI;FLUSHDB;EXEC|MULTI;SWAPDB 1 2;EXEC|FLUSHDB|FLUSHDB ASYNC|FLUSHALL|FLUSHALL SYNC|SWAPDB 1 2|SWAPDB 0 1
EVAL redis.call('set','s','lua') 0|EVAL redis.call('flushdb') 0|EVAL redis.call('pfcount','hll') 0|EVAL redis.call('flushall') 0
DEBUG POPULATE 3 pop|SET s rdb;SAVE;SET s abc~DEBUG RELOAD NOSAVE|SET s rdb;SAVE;DEL s~DEBUG RELOAD NOSAVE|SET late v;SAVE;DEL late~DEBUG RELOAD NOSAVE MERGE
SET s rdb;SAVE;SET s abc~DEBUG RELOAD NOSAVE NOFLUSH MERGE|SET late v;SAVE;DEL late~DEBUG RELOAD NOSAVE NOFLUSH MERGE|EVAL redis.call('swapdb',1,2) 0
MIGRATE 127.0.0.1 PORT s 3 1000|MIGRATE 127.0.0.1 PORT  3 1000 KEYS s n
PEXPIRE s 1;DEBUG SLEEP 0.01;EXISTS s|PEXPIRE s 1;DEBUG SLEEP 0.3
CONFIG SET maxmemory-policy allkeys-lru;CONFIG SET maxmemory 1;CONFIG SET maxmemory 0;CONFIG SET maxmemory-policy noeviction
CONFIG SET notify-keyspace-events K;SET s unseen;CONFIG SET notify-keyspace-events KA
SET s old;CONFIG SET notify-keyspace-events K;SET s unseen;CONFIG RESETSTAT;CONFIG SET notify-keyspace-events KA`

// newerWrites are those of servers after Redis 7.0.
const newerWrites = `
HSETEX h FIELDS 1 f 9|HSETEX h PX 100000 FIELDS 1 f 9|HGETDEL h FIELDS 1 f|HGETDEL h FIELDS 2 f g|HGETEX h PXAT 1 FIELDS 1 f|HPEXPIRE h 0 FIELDS 1 f
HEXPIRE h 100 FIELDS 1 f|HPEXPIREAT h 1 FIELDS 2 f g|HEXPIRE h 100 FIELDS 1 f~HPERSIST h FIELDS 1 f|HPEXPIRE h 1 FIELDS 1 f;DEBUG SLEEP 0.01;HGET h f;DEBUG SLEEP 0.3
VADD vec VALUES 2 1 2 e|VADD vec VALUES 2 1 2 e~VREM vec e|VADD vec VALUES 2 1 2 e~VSETATTR vec e {}|VADD vec VALUES 2 1 2 e~VADD vec VALUES 2 3 4 e
SET s new IFEQ abc|DELIFEQ s abc|XDELEX x IDS 1 1-1|MSETEX 2 s 1 n 2|FLUSHDB SYNC|SWAPDB 0 1`

const sampleData = `SET s abc|SET n 5|RPUSH l 3 1 2|SADD st a b c|SADD st2 b c d|HSET h f 1 g 2|ZADD z 1 a 2 b 3 c|XADD x 1-1 f v|XADD x 2-1 f v
GEOADD geo 13.3 38.1 p|PFADD hll a b c|PFADD hll2 d e`

// Whatever command changes a key, each source tells of it or the next check finds
// out. Guards: the patterns and kinds of events asked for, and the lists of
// commands that a source is silent about.
func TestEveryWriteIsNoticed(t *testing.T) {
	for _, name := range []redistest.Name{redistest.Redis6, redistest.Debian, redistest.Redis8, redistest.Valkey8, redistest.Valkey9} {
		t.Run(string(name), func(t *testing.T) {
			t.Parallel()
			everyWriteIsNoticed(t, name)
		})
	}
}

func everyWriteIsNoticed(t *testing.T, name redistest.Name) {
	t.Helper()
	redis := redistest.StartNamed(t, name, "--notify-keyspace-events", "KA")
	elsewhere := redistest.StartNamed(t, name)
	n := launch(t, redis.URL(), func(c *Config) { c.Link = link.ModeNone })
	recorders := map[string]*recorder{}
	for _, source := range linkSources {
		recorders[source] = record(t, n, link.Config{Mode: source, MaxStaleness: 40 * time.Millisecond})
	}
	split := func(text string) []string {
		return slices.DeleteFunc(strings.FieldsFunc(text, func(r rune) bool { return r == '|' || r == '\n' }), func(s string) bool { return s == "" })
	}
	looked := 0
	for _, line := range append(split(everyWrite), split(newerWrites)...) {
		for _, db := range []string{"0", "1", "2"} {
			c := redistest.Dial(t, redis.Addr)
			c.Do("SELECT", db)
			for _, key := range list(c.Do("KEYS", "*")) {
				c.Do("DEL", key)
			}
			c.Close()
		}
		elsewhere.Do("FLUSHALL")
		c := redistest.Dial(t, redis.Addr)
		want(t, c, "OK", "SELECT", "1")
		for _, set := range split(sampleData) {
			if got := c.Do(strings.Fields(set)...); strings.HasPrefix(got, "-") {
				t.Fatalf("%s answered %s", set, got)
			}
		}
		first, then, two := strings.Cut(line, "~")
		if !two {
			first, then = "", line
		}
		unknown := false
		run := func(command string) {
			args := strings.Split(command, " ")
			if args[0] == "EVAL" {
				args = []string{"EVAL", args[1], "0"}
			}
			for i, a := range args {
				switch a {
				case "DUMP":
					args[i] = c.Do("DUMP", "s")
				case "PORT":
					args[i] = elsewhere.Port
				}
			}
			got := c.Do(args...)
			// Other servers lack some commands or options.
			unknown = unknown || strings.HasPrefix(got, "-ERR unknown command") || strings.HasPrefix(got, "-ERR syntax error") || strings.HasPrefix(got, "-ERR Unsupported option") ||
				name == redistest.Redis6 && strings.HasPrefix(got, "-ERR wrong number")
			if strings.HasPrefix(got, "-") && !unknown {
				t.Errorf("%s answered %s", command, got)
			}
		}
		for _, command := range strings.Split(first, ";") {
			if command != "" {
				run(command)
			}
		}
		before := contents(c)
		for _, r := range recorders {
			r.begin(n)
		}
		for _, command := range strings.Split(then, ";") {
			run(command)
		}
		if unknown {
			if name == redistest.Debian && strings.Contains(everyWrite, line) {
				t.Errorf("the server does not know %s", line)
			}
			c.Close()
			continue
		}
		looked++
		c.Do("SELECT", "1")
		after := contents(c)
		c.Close()
		var changed []string
		for key := range before {
			if after[key] != before[key] {
				changed = append(changed, key)
			}
		}
		for key := range after {
			if _, old := before[key]; !old {
				changed = append(changed, key)
			}
		}
		if len(changed) == 0 {
			t.Errorf("%s has changed nothing", line)
		}
		for source, r := range recorders {
			if len(r.missed(changed)) > 0 { // now, or by the next check
				r.checks(n)
			}
			if missed := r.missed(changed); len(missed) > 0 {
				t.Errorf("%s, %s: not told of %v", source, line, missed)
			}
		}
	}
	t.Logf("%d ways to change keys", looked)
}

// A command that a source says nothing about changes what hits say within MaxStaleness.
func TestSilentCommandsEndHits(t *testing.T) {
	for source, commands := range map[string][]string{
		link.ModeTracking: {"SWAPDB 1 7", "DEBUG RELOAD NOSAVE NOFLUSH MERGE"},
		link.ModeKeyspace: {"SWAPDB 1 7", "FLUSHDB", "FLUSHALL", "DEBUG RELOAD NOSAVE NOFLUSH MERGE", "DEBUG RELOAD NOSAVE"},
	} {
		for _, command := range commands {
			t.Run(source+" "+command, func(t *testing.T) {
				redis := redistest.Start(t, "--notify-keyspace-events", "KA")
				const bound = 300 * time.Millisecond
				n := start(t, redis, linked(source, maxStaleness(bound)))
				c := n.dial()
				after := "(nil)"
				if strings.HasPrefix(command, "DEBUG") { // loads what was saved
					after = "saved"
					redis.DoDB(1, "SET", "product:1", after)
					redis.Do("SAVE")
				}
				want(t, c, "OK", "SET", "product:1", "v")
				n.warm(c, "GET", "product:1")
				redis.DoDB(1, strings.Fields(command)...)
				done := time.Now()
				for c.Do("GET", "product:1") != after {
					if time.Since(done) > bound {
						t.Fatalf("the old value was served %v after %s", time.Since(done), command)
					}
				}
				n.eventually("it is counted", func() bool { return n.link.Stats().Silents == 1 })
				n.warm(c, "GET", "product:1")
			})
		}
	}
}

// notify-keyspace-events is not enough at first, is put right, and is taken away again.
func TestKeyspaceEventsChecked(t *testing.T) {
	redis := redistest.Start(t, "--notify-keyspace-events", "Ex")
	const bound = 400 * time.Millisecond
	n := launch(t, redis.URL(), linked(link.ModeKeyspace, maxStaleness(bound), func(c *Config) { c.Admin = "127.0.0.1:0" }))
	c := n.dial()
	const advice = `CONFIG SET notify-keyspace-events KAE`
	n.eventually("it says what to set", func() bool { return strings.Contains(n.link.Stats().Silent, advice) })
	want(t, c, "OK", "SET", "product:1", "v")
	if got := n.reason(c, "product:1"); got != "link_down" {
		t.Errorf("reads are passed through because of %q", got)
	}
	if health := n.Health(t.Context()); !slices.ContainsFunc(health.Notes, func(s string) bool { return strings.Contains(s, advice) }) || health.Link.State == "up" {
		t.Errorf("health says %q, link %+v", health.Notes, health.Link)
	}
	if got := redis.Do("CONFIG", "GET", "notify-keyspace-events"); !strings.HasSuffix(got, " xE]") {
		t.Errorf("the flags are %s now", got)
	}

	redis.Do("CONFIG", "SET", "notify-keyspace-events", "KEA")
	n.awaitLink()
	n.warm(c, "GET", "product:1")

	// Nobody tells of the next write.
	generation := n.l1.Stats().Generation
	redis.Do("CONFIG", "SET", "notify-keyspace-events", "KEg")
	taken := time.Now()
	redis.DoDB(1, "SET", "product:1", "unseen")
	for c.Do("GET", "product:1") != "unseen" {
		if time.Since(taken) > bound {
			t.Fatalf("the old value was served %v after the flags were taken away", time.Since(taken))
		}
	}
	n.eventually("hits are off", func() bool { return n.link.Verdict(clockNow()) == link.Down })
	redis.DoDB(1, "SET", "product:1", "unseen too")
	redis.Do("CONFIG", "SET", "notify-keyspace-events", "KEA")
	n.awaitLink()
	want(t, c, "unseen too", "GET", "product:1")
	if n.l1.Stats().Generation == generation {
		t.Error("it came back without a flush")
	}
}

// Off and on again between two checks, in one transaction: only the count of CONFIG SET tells.
func TestKeyspaceEventsOffAndOn(t *testing.T) {
	redis := redistest.Start(t, "--notify-keyspace-events", "KA")
	const bound = 400 * time.Millisecond
	n := start(t, redis, linked(link.ModeKeyspace, maxStaleness(bound)))
	c, direct := n.dial(), redistest.Dial(t, redis.Addr)
	defer direct.Close()
	want(t, c, "OK", "SET", "product:1", "old")
	n.warm(c, "GET", "product:1")
	reconnects := n.link.Stats().Reconnects
	for _, args := range [][]string{
		{"SELECT", "1"},
		{"MULTI"},
		{"CONFIG", "SET", "notify-keyspace-events", ""},
		{"SET", "product:1", "unseen"},
		{"CONFIG", "SET", "notify-keyspace-events", "KA"},
		{"EXEC"},
	} {
		direct.Do(args...)
	}
	done := time.Now()
	for c.Do("GET", "product:1") != "unseen" {
		if time.Since(done) > bound {
			t.Fatalf("the old value was served after %v", time.Since(done))
		}
	}
	if got := n.link.Stats().Reconnects; got != reconnects {
		t.Errorf("%d reconnects", got-reconnects)
	}
}

// With keyspace_events: set the link adds what is missing, now and later.
func TestKeyspaceEventsSet(t *testing.T) {
	redis := redistest.Start(t, "--notify-keyspace-events", "Exm")
	n := start(t, redis, linked(link.ModeKeyspace, func(c *Config) { c.KeyspaceEvents = "set" }))
	flags := func() string {
		_, flags, _ := strings.Cut(strings.Trim(redis.Do("CONFIG", "GET", "notify-keyspace-events"), "[]"), " ")
		return flags
	}
	if got := flags(); got != "AKEm" {
		t.Errorf("the flags are %q", got)
	}
	redis.Do("CONFIG", "SET", "notify-keyspace-events", "m")
	n.eventually("they are set again", func() bool { return flags() == "AKm" })
	n.awaitLink()
	c := n.dial()
	n.warm(c, "GET", "product:1")
	redis.DoDB(1, "SET", "product:1", "new")
	n.eventually("writes are seen", func() bool { return c.Do("GET", "product:1") == "new" })
}

// documentedRights are the rights of the four lines that configs/OPERATIONS.md gives.
func documentedRights(t *testing.T) (rights []string) {
	t.Helper()
	b, err := os.ReadFile("../configs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if r, ok := strings.CutPrefix(line, "ACL SETUSER nearside "); ok {
			r, _, _ = strings.Cut(r, " # ")
			rights = append(rights, strings.TrimSpace(strings.TrimPrefix(r, "on >secret ")))
		}
	}
	if len(rights) != 4 {
		t.Fatalf("the document gives %q", rights)
	}
	return rights
}

// What the Redis user of nearside may do decides which source is taken.
func TestLinkRights(t *testing.T) {
	// The rights that the document gives nearside's user, the events' for each rule, and what the
	// client of this test needs.
	doc := documentedRights(t)
	link1, rest, events := doc[0], doc[1], doc[2]
	link2 := " "
	for _, word := range strings.Fields(events) {
		if pattern, ok := strings.CutSuffix(word, "product:*"); ok {
			for _, prefix := range []string{"product:", "products:", "balance:", "coupon:", "stats:"} {
				link2 += pattern + prefix + "* "
			}
			continue
		}
		link2 += word + " "
	}
	clients := " " + rest + " " + doc[3] + " +get +echo"
	tests := map[string]struct {
		mode, rights string
		source       string // that comes up; "" is none
		silent       string
	}{
		"all":                  {"auto", "&* +@all", "tracking", ""},
		"documented":           {"auto", link1 + clients, "tracking", ""},
		"documented, keyspace": {"keyspace", link1 + link2 + clients, "keyspace", ""},
		"no tracking":          {"auto", "&* +@all -client|tracking", "keyspace", ""},
		"insists":              {"tracking", "&* +@all -client|tracking", "", "CLIENT TRACKING was refused: -NOPERM"},
		"no channel":           {"auto", "resetchannels +@all", "tracking", "SUBSCRIBE nearside:invalidate is not permitted"},
		"no patterns":          {"keyspace", "resetchannels &__keyspace@1__:* +@all", "", "PSUBSCRIBE __keyspace@1__:"},
		"no CONFIG":            {"keyspace", "&* +@all -config", "", "CONFIG GET is not permitted"},
		"no INFO":              {"keyspace", "&* +@all -info", "", "INFO is not permitted"},
		"no INFO, tracking":    {"auto", "&* +@all -info", "tracking", "INFO is not permitted: SWAPDB"},
		"neither":              {"auto", "&* +@all -client|tracking -config", "", "CLIENT TRACKING was refused: -NOPERM"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			redis := redistest.Start(t, "--notify-keyspace-events", "KA")
			rights := append([]string{"ACL", "SETUSER", "near", "on", ">secret", "~*", "resetchannels"}, strings.Fields(test.rights)...)
			if got := redis.Do(rights...); got != "OK" {
				t.Fatalf("ACL SETUSER answered %s", got)
			}
			n := launch(t, "redis://near:secret@"+redis.Addr, linked(test.mode))
			if test.source == "" {
				n.eventually("it says why not", func() bool { return strings.Contains(n.link.Stats().Silent, test.silent) })
				if v := n.link.Verdict(clockNow()); v != link.Down {
					t.Errorf("the verdict is %s", v)
				}
				return
			}
			n.awaitLink()
			if got := n.link.Source(); got != test.source {
				t.Errorf("the source is %s", got)
			}
			if got := n.link.Stats().Silent; (test.silent == "") != (got == "") || !strings.Contains(got, test.silent) {
				t.Errorf("it cannot notice: %q", got)
			}
			c := n.dial()
			n.warm(c, "GET", "product:1")
			redis.DoDB(1, "SET", "product:1", "new")
			n.eventually("writes are seen", func() bool { return c.Do("GET", "product:1") == "new" })
		})
	}
}

// The right to listen is taken away while the link is up: Redis closes the
// connection, and hits stay off until the right is back.
func TestChannelRightTakenAway(t *testing.T) {
	redis := redistest.Start(t, "--notify-keyspace-events", "KA")
	redis.Do("ACL", "SETUSER", "near", "on", ">secret", "~*", "&*", "+@all")
	n := launch(t, "redis://near:secret@"+redis.Addr, linked(link.ModeKeyspace))
	n.awaitLink()
	redis.Do("ACL", "SETUSER", "near", "resetchannels")
	n.eventually("hits are off", func() bool {
		return n.link.Verdict(clockNow()) == link.Down && strings.Contains(n.link.Stats().Silent, "PSUBSCRIBE")
	})
	redis.Do("ACL", "SETUSER", "near", "&*")
	n.awaitLink()
	if got := n.link.Stats().Silent; got != "" {
		t.Errorf("it cannot notice: %q", got)
	}
}

func TestChannelMessages(t *testing.T) {
	bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
		n := start(t, redis, linked(source))
		c := n.dial()
		keys := []string{"product:1", "product:2", "products:1", "balance:1"}
		tests := []struct {
			message string
			gone    []string
		}{
			{"product:1", []string{"product:1"}},
			{"product:1*", []string{"product:1", "product:2"}}, // whole rules
			{"prod*", []string{"product:1", "product:2", "products:1"}},
			{"*", keys},
			{"lock:*", nil},
			{"nothing", nil},
		}
		for i, test := range tests {
			for _, key := range keys {
				n.warm(c, "GET", key)
			}
			redis.Do("PUBLISH", link.Channel, test.message)
			n.eventually("the message has come", func() bool { return n.m.invalidations["channel"].Get() == uint64(i+1) })
			for _, key := range keys {
				want := "hit"
				if slices.Contains(test.gone, key) {
					want = "overtaken"
				}
				if got := n.reason(c, key); got != want {
					t.Errorf("after %q, %s: %q, want %q", test.message, key, got, want)
				}
			}
		}
		if got := n.link.Stats().Messages; got != uint64(len(tests)) {
			t.Errorf("%d messages received", got)
		}
	})
}

// What the origin says nothing about, the nearside through which it went tells the
// others: here the checks, which would find it as well, come in half an hour.
func TestOtherNearsidesAreTold(t *testing.T) {
	commands := map[string][][]string{
		link.ModeTracking: {{"SWAPDB", "1", "7"}},
		link.ModeKeyspace: {{"SWAPDB", "1", "7"}, {"FLUSHALL"}, {"FLUSHDB"}, {"flushdb", "async"}},
	}
	bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
		a := start(t, redis, linked(source, maxStaleness(time.Hour)))
		b := start(t, redis, linked(source, maxStaleness(time.Hour)))
		writer, reader := a.dial(), b.dial()
		for i, command := range commands[source] {
			want(t, writer, "OK", "SET", "product:1", "v")
			b.eventually("the value is there", func() bool { return reader.Do("GET", "product:1") == "v" })
			b.warm(reader, "GET", "product:1")
			want(t, writer, "OK", command...)
			want(t, writer, "(nil)", "GET", "product:1")
			b.eventually(fmt.Sprintf("%v is seen", command), func() bool { return reader.Do("GET", "product:1") == "(nil)" })
			a.eventually("it is counted", func() bool { return a.m.published.Get() == uint64(i+1) })
		}
		// What failed is not told, nor what Redis tells by itself.
		writer.Do("SWAPDB", "1", "99")
		if source == link.ModeTracking {
			want(t, writer, "OK", "FLUSHALL")
		}
		want(t, writer, "OK", "SET", "product:1", "v")
		if got := a.m.published.Get(); got != uint64(len(commands[source])) {
			t.Errorf("%d messages published", got)
		}
		if got := a.m.publishErrors.Get(); got != 0 {
			t.Errorf("%d errors", got)
		}
	})
}

// The client does not notice that the others cannot be told.
func TestOtherNearsidesCannotBeTold(t *testing.T) {
	redis, relay, n := heldBack(t, nil)
	redis.Do("ACL", "SETUSER", "default", "-publish")
	c := n.dial()
	want(t, c, "OK", "SWAPDB", "1", "7")
	n.eventually("it is counted", func() bool { return n.m.publishErrors.Get() == 1 })

	redis.Do("ACL", "SETUSER", "default", "+publish")
	held := relay.HoldRequest("publish")
	want(t, c, "OK", "SWAPDB", "1", "7") // answered while the message is held back
	<-held.Arrived
	for range 100 {
		want(t, c, "OK", "SWAPDB", "1", "7")
	}
	held.Release()
	n.eventually("one message is for all of them", func() bool { return n.m.published.Get() == 2 })
}

// Whatever the link has received has reached the near cache, and is told by source.
func TestReceivedIsApplied(t *testing.T) {
	bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
		n := start(t, redis, linked(source, func(c *Config) { c.Admin = "127.0.0.1:0" }))
		before := n.l1.Stats().Invalidations
		gaps := n.m.invalidations["gap"].Get()
		var writers sync.WaitGroup
		const each = 500
		for w := range 4 {
			writers.Go(func() {
				c := redistest.Dial(t, redis.Addr)
				defer c.Close()
				c.Do("SELECT", "1")
				for i := range each {
					c.Send("SET", fmt.Sprintf("product:%d:%d", w, i), "v")
				}
				for range each {
					c.Read()
				}
				for i := range 10 {
					c.Do("PUBLISH", link.Channel, fmt.Sprintf("product:%d", i))
				}
			})
		}
		writers.Wait()
		if !n.link.Sync(redistest.Timeout, nil) {
			t.Fatal("the link is not in step")
		}
		st := n.link.Stats()
		received := map[string]uint64{"tracking": st.Keys, "keyspace": st.Events, "channel": st.Messages, "flush": st.Nulls, "silent": st.Silents}
		var sum uint64
		for name, count := range received {
			if got := n.m.invalidations[name].Get(); got != count {
				t.Errorf("%s: %d received, %d applied", name, count, got)
			}
			sum += count
		}
		if received[source] != 4*each || received["channel"] != 40 {
			t.Errorf("received %v", received)
		}
		if n.m.invalidations["gap"].Get() != gaps {
			t.Error("the link was lost meanwhile")
		}
		if got := n.l1.Stats().Invalidations - before; got != sum {
			t.Errorf("%d received, the near cache counts %d", sum, got)
		}

		// The same numbers for those who look from outside.
		var text strings.Builder
		n.WriteMetrics(&text)
		for _, line := range []string{
			fmt.Sprintf("nearside_link_received_total{source=%q} %d\n", source, 4*each),
			fmt.Sprintf("nearside_invalidations_total{source=%q} %d\n", source, 4*each),
			fmt.Sprintf("nearside_link_source{source=%q} 1\n", source),
			"nearside_link_state{state=\"up\"} 1\n",
			"nearside_link_blind 0\n",
		} {
			if !strings.Contains(text.String(), line) {
				t.Errorf("the metrics lack %s", line)
			}
		}
		info := n.dial().Do("INFO", "nearside")
		for _, line := range []string{"link_source:" + source, "link_state:up", "link_staleness_bound_ms:", fmt.Sprintf("link_invalidations:%d", 4*each+40)} {
			if !strings.Contains(info, line) {
				t.Errorf("INFO lacks %s: %s", line, info)
			}
		}
		var health struct {
			Link struct {
				Source, State        string
				Up                   bool
				StalenessMs, BoundMs *float64
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), redistest.Timeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.AdminAddr().String()+"/cache/health", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || json.Unmarshal(body, &health) != nil {
			t.Fatalf("%s, %v", body, err)
		}
		if l := health.Link; l.Source != source || l.State != "up" || !l.Up || l.StalenessMs == nil || l.BoundMs == nil || *l.BoundMs != 1000 {
			t.Errorf("/cache/health says %s", body)
		}
	})
}

// skewed is a clock that a test can set forward and back.
type skewed struct{ by atomic.Int64 }

func (s *skewed) now() int64 { return clockNow() + s.by.Load() }

// A machine that slept, or a clock that was set, with a real Redis: nothing is
// served on the proof from before, and it heals by itself.
func TestLinkClockJumps(t *testing.T) {
	bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
		n := launch(t, redis.URL(), func(c *Config) { c.Link = link.ModeNone })
		for _, jump := range []time.Duration{8 * time.Hour, -30 * time.Second} {
			clock := &skewed{}
			r := record(t, n, link.Config{Mode: source, MaxStaleness: 2 * time.Second, Now: clock.now})
			clock.by.Add(int64(jump))
			if v := r.Verdict(clock.now()); v != link.Stale {
				t.Errorf("%v: the verdict is %s", jump, v)
			}
			n.eventually("hits are back", func() bool { return r.Verdict(clock.now()) == link.OK })
			if d, known := r.Bound(clock.now()); !known || d > 2*time.Second {
				t.Errorf("%v: bound %v, %v", jump, d, known)
			}
			if got := r.Stats().Reconnects; got != 0 {
				t.Errorf("%v: %d reconnects", jump, got)
			}
		}
	})
}

package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

var routeNames = []string{"pass", "cache", "local", "pin", "split", "view", "refused"}

// spelt spells a decision without its keys.
func spelt(d *Decision) string {
	out := []string{routeNames[d.Route]}
	if d.Route != RouteLocal && d.Route != RouteSplit && d.Route != RouteView && d.Route != RouteRefused {
		out = append(out, fmt.Sprint("db", d.DB))
	}
	add := func(on bool, word string) {
		if on {
			out = append(out, word)
		}
	}
	add(d.Route == RoutePin && d.Cmd.Pin != PinNone, [...]string{"", "tx", "block", "sub", "monitor", "tracking"}[pinOf(d)])
	add(d.Lock, "lock")
	add(d.Effect&WritesKeys != 0, "W")
	add(d.Effect&WritesAll != 0, "ALL")
	add(d.Effect&WritesUnnamed != 0, "UNNAMED")
	add(d.Fence&FenceLock != 0, "fence-lock")
	add(d.Fence&FenceScript != 0, "fence-script")
	return strings.Join(out, " ")
}

func pinOf(d *Decision) Pin {
	if d.Cmd == nil {
		return PinNone
	}
	return d.Cmd.Pin
}

func TestDecide(t *testing.T) {
	p := New(shop(t, 0, 1), Options{Deny: []string{"KEYS", "config|set", "debug", "ft.search", "client|no-touch"}})
	p.Learn("hexpire", -6, []string{"write", "denyoom", "fast"}, 1, 1, 1)
	p.Learn("waitaof", 4, []string{"blocking", "noscript"}, 0, 0, 0)
	p.Learn("client|setinfo", 4, nil, 0, 0, 0)
	p.Learn("json.get", -2, []string{"readonly", "module"}, 1, 1, 1)
	p.Learn("json.set", -4, []string{"write", "module"}, 1, 1, 1)
	p.Learn("odd.cmd", -1, []string{"module"}, 0, 0, 0)
	p.Learn("mod.all", -2, []string{"write", "movablekeys"}, 0, 0, 0)
	p.Learn("get", 9, nil, 0, 0, 0)
	for _, c := range []struct {
		session int
		request string
		want    string
	}{
		// reads
		{0, "GET product:1", "cache db1"},
		{1, "GET product:1", "cache db1"},
		{2, "GET product:1", "pass db2"},
		{0, "get other", "pass db0"},
		{0, "GET lock:1", "pass db0 lock"},
		{0, "GET product:lock:1", "pass db0 lock"},
		{1, "GET product:lock:1", "pass db1"},
		{1, "GET other", "pass db1"},
		{0, "GET", "pass db0"},
		{0, "GET a b", "pass db0"},
		{0, "HGETALL product:1", "cache db1"},
		{0, "EXISTS product:1", "cache db1"},
		{0, "EXISTS product:1 product:2", "pass db1"},
		{0, "EXISTS product:1 x", "split"},
		{0, "MGET product:1 balance:2", "cache db1"},
		{0, "MGET product:1 x", "split"},
		{0, "MGET x y", "pass db0"},
		{1, "MGET product:1 x", "pass db1"},
		{0, "TTL product:1", "pass db1"},
		{0, "PFCOUNT product:1", "pass db1 W"},
		{0, "SRANDMEMBER product:1", "pass db1"},
		{0, "SSCAN product:1 0", "pass db1"},
		{0, "XREAD STREAMS product:1 0", "pass db1"},
		{0, "SINTER product:1 product:2", "pass db1"},
		{0, "SINTER product:1 x", "refused"},
		{0, "SORT_RO products:1", "cache db1"},
		{0, "SORT_RO products:1 BY products:w_*", "pass db1"},
		{0, "SORT_RO products:1 BY w_*", "refused"},
		{0, "SORT products:1 BY nosort GET #", "pass db1"},
		{0, "SORT ids BY *", "refused"},
		{0, "SORT ids BY w_* GET o_*->f", "pass db0"},
		{5, "SORT ids BY *", "pass db5"},
		{0, "SORT products:1 STORE products:2", "pass db1 W"},
		{0, "SORT products:1 STORE x", "refused"},
		// writes
		{0, "SET product:1 v", "pass db1 W"},
		{0, "SET other v", "pass db0 W"},
		{0, "SET other v NX PX 5", "pass db0 W fence-lock"},
		{0, "SET product:1 v nx", "pass db1 W fence-lock"},
		{0, "SETNX other v", "pass db0 W fence-lock"},
		{0, "SET lock:1 v NX", "pass db0 lock W fence-lock"},
		{0, "SET lock:1 v", "pass db0 lock W fence-lock"},
		{7, "SET lock:1 v", "pass db7 W"},
		{0, "INCR lock:1", "pass db0 lock W fence-lock"},
		{0, "DEL lock:1", "pass db0 lock W"},
		{0, "PEXPIRE lock:1 5", "pass db0 lock W"},
		{0, "DEL lock:1 product:1", "split lock W"},
		{0, "MSET a 1 product:1 2", "split W"},
		{0, "MSETNX a 1 product:1 2", "refused"},
		{0, "RENAME a product:1", "refused"},
		{3, "RENAME a product:1", "pass db3 W"},
		{0, "TOUCH product:1", "pass db1"},
		{0, "GETEX product:1", "pass db1 W"},
		{0, "SET product:1", "pass db1 W UNNAMED fence-script"},
		{0, "ZUNIONSTORE product:1 x product:2", "pass db1 W UNNAMED fence-script"},
		{0, "ZUNION x product:2", "pass db1"},
		{0, "XGROUP CREATE product:1 g $", "pass db1 W"},
		{0, "XREADGROUP GROUP g c STREAMS product:1 >", "pass db1 W"},
		{0, "COPY a b", "pass db0 W"},
		{0, "COPY a product:1", "refused"},
		{0, "COPY a product:1 DB 1", "pass db0 W ALL"},
		{0, "COPY a product:1 DB 0", "refused"},
		{1, "COPY product:1 product:2 DB 0", "refused"},
		{4, "COPY a b DB 0", "pass db4 W ALL"},
		{0, "MOVE a 3", "pass db0 W ALL"},
		{5, "MOVE product:1 0", "refused"},
		{0, "RESTORE product:1 0 x", "pass db1 W"},
		// everything
		{0, "FLUSHALL", "pass db0 ALL"},
		{0, "FLUSHDB", "view ALL"},
		{1, "FLUSHDB", "pass db1 ALL"},
		{0, "SWAPDB 0 1", "pass db0 ALL"},
		{0, "FUNCTION LOAD x", "pass db0 ALL"},
		{0, "FUNCTION LIST", "pass db0"},
		{0, "ACL SETUSER x", "pass db0 ALL"},
		{0, "ACL WHOAMI", "pass db0"},
		{0, "SCAN 0", "view"},
		{0, "DBSIZE", "view"},
		{3, "SCAN 0", "pass db3"},
		// pinned
		{0, "BLPOP product:1 0", "pin db1 block W"},
		{0, "BLPOP product:1 x 0", "refused"},
		{0, "BLPOP lock:1 0", "pin db0 block lock W fence-lock"},
		{0, "XREAD BLOCK 0 STREAMS product:1 0", "pin db1 block"},
		{0, "WAIT 1 0", "pin db0 block"},
		{0, "WAITAOF 1 0 0", "pin db0 block"},
		{0, "MULTI", "pin db0 tx"},
		{0, "MULTI x", "pass db0"},
		{0, "WATCH product:1 x", "pin db1 tx"},
		{1, "EXEC", "pin db1 tx"},
		{0, "SUBSCRIBE product:1", "pin db0 sub"},
		{0, "MONITOR", "pin db0 monitor"},
		{0, "CLIENT TRACKING on", "pin db0 tracking"},
		// local
		{0, "PING", "local"},
		{0, "PING a b c", "local"},
		{0, "SELECT", "local"},
		{0, "CLIENT ID", "local"},
		{0, "CLIENT", "local"},
		{0, "CLIENT SETINFO lib-name x", "local"},
		{0, "CLIENT zzz", "local"},
		{0, "INFO", "local"},
		{0, "nearside stats", "local"},
		{0, "ECHO x", "pass db0"},
		{0, "COMMAND", "pass db0"},
		{0, "COMMAND COUNT", "pass db0"},
		// refused
		{0, "SHUTDOWN", "refused"},
		{0, "REPLICAOF a b", "refused"},
		{0, "SCRIPT DEBUG yes", "refused"},
		{0, "KEYS *", "refused"},
		{0, "CONFIG SET a b", "refused"},
		{0, "CONFIG GET a", "pass db0"},
		{0, "DEBUG SLEEP 0", "refused"},
		{0, "FT.SEARCH x", "refused"},
		{0, "CLIENT NO-TOUCH on", "refused"},
		// unknown and learned
		{0, "NOSUCH product:1 x", "pass db1 W UNNAMED fence-script"},
		{0, "NOSUCH x lock:1", "pass db0 lock W UNNAMED fence-lock fence-script"},
		{3, "NOSUCH lock:1", "pass db3 W UNNAMED fence-script"},
		{0, "NOSUCH", "pass db0 W UNNAMED fence-script"},
		{0, "XGROUP NOSUCH product:1", "pass db1 W UNNAMED fence-script"},
		{0, "HEXPIRE product:1 1 FIELDS 1 f", "pass db1 W"},
		{0, "HEXPIRE product:1", "pass db1 W UNNAMED fence-script"},
		{0, "JSON.GET product:1", "pass db1"},
		{0, "json.set product:1 . 1", "pass db1 W"},
		{0, "ODD.CMD product:1", "pass db1 W UNNAMED fence-script"},
		{0, "MOD.ALL product:1", "pass db1 W UNNAMED fence-script"},
	} {
		var d Decision
		p.Decide(&d, c.session, split(c.request))
		if got := spelt(&d); got != c.want {
			t.Errorf("%d> %s: %s, want %s", c.session, c.request, got, c.want)
		}
		if (d.Route == RouteRefused) != (d.Err != "") || strings.ContainsAny(d.Err, "\r\n") {
			t.Errorf("%s: error %q", c.request, d.Err)
		}
	}
}

func TestDecideScripts(t *testing.T) {
	p := New(shop(t, 0, 1), Options{})
	acquire := keepingScripts["redsync touch or set"]
	const sha = "B70C2384248F88E6B75B9F89241A180F856AD852" // of release
	for _, c := range []struct {
		request []string
		want    string
	}{
		{[]string{"EVALSHA", sha, "1", "lock:1", "t"}, "pass db0 lock W UNNAMED fence-lock fence-script"},
		{[]string{"EVAL", release, "1", "lock:1", "t"}, "pass db0 lock W"},
		{[]string{"EVALSHA", sha, "1", "lock:1", "t"}, "pass db0 lock W"},
		{[]string{"EVAL", acquire, "1", "lock:1", "t", "5"}, "pass db0 lock W fence-lock"},
		{[]string{"EVAL", acquire, "1", "product:1", "t", "5"}, "pass db1 W"},
		{[]string{"EVAL", acquire, "2", "product:1", "x"}, "refused"},
		{[]string{"EVAL", "return redis.call('get', 'x')", "0"}, "pass db0 UNNAMED fence-script"},
		{[]string{"EVAL", "return 1", "0"}, "pass db0"},
		{[]string{"EVAL", "x", "1", "product:1"}, "pass db1 W"},
		{[]string{"EVAL", "redis", "1", "product:1"}, "pass db1 W UNNAMED fence-script"},
		{[]string{"EVAL", "x", "nonsense", "product:1"}, "pass db1 W UNNAMED fence-script"},
		{[]string{"EVAL_RO", "redis", "1", "product:1"}, "pass db1"},
		{[]string{"FCALL", "f", "1", "product:1"}, "pass db1 W UNNAMED fence-script"},
		{[]string{"FCALL", "f", "1", "lock:1"}, "pass db0 lock W UNNAMED fence-lock fence-script"},
		{[]string{"FCALL_RO", "f", "1", "product:1"}, "pass db1"},
		{[]string{"SCRIPT", "LOAD", "return KEYS[1]"}, "pass db0"},
		{[]string{"SCRIPT", "FLUSH"}, "pass db0"},
	} {
		var d Decision
		p.Decide(&d, 0, bytesOf(c.request...))
		if got := spelt(&d); got != c.want {
			t.Errorf("%q: %s, want %s", c.request, got, c.want)
		}
	}
}

func TestDecideSameDatabase(t *testing.T) {
	p := New(shop(t, 0, 0), Options{})
	for request, want := range map[string]string{
		"MGET product:1 x": "pass db0", "MGET product:1": "cache db0", "SCAN 0": "pass db0", "FLUSHDB": "pass db0 ALL",
		"RENAME a product:1": "pass db0 W", "SORT ids BY *": "pass db0", "COPY a product:1 DB 0": "pass db0 W ALL",
	} {
		var d Decision
		p.Decide(&d, 0, split(request))
		if got := spelt(&d); got != want {
			t.Errorf("%s: %s, want %s", request, got, want)
		}
	}
}

func TestDecideKeepsWhatTheRuleNames(t *testing.T) {
	rule := cacheRule("p:")
	rule.Commands = map[string]bool{"get": true, "hget": true}
	p := New(mustRules(t, 0, 1, rule), Options{HashFieldTTL: true})
	for request, want := range map[string]Route{
		"GET p:1": RouteCache, "MGET p:1 p:2": RouteCache, "HGET p:1 f": RoutePass, "STRLEN p:1": RoutePass,
	} {
		var d Decision
		p.Decide(&d, 0, split(request))
		if d.Route != want {
			t.Errorf("%s: %s", request, routeNames[d.Route])
		}
	}
	p.SetHashFieldTTL(false)
	var d Decision
	p.Decide(&d, 0, split("HGET p:1 f"))
	if d.Route != RouteCache {
		t.Errorf("HGET where fields cannot expire: %s", routeNames[d.Route])
	}
}

func TestErrors(t *testing.T) {
	p := New(shop(t, 0, 1), Options{Deny: []string{"Debug"}})
	for request, want := range map[string]string{
		"SHUTDOWN nosave":   "ERR nearside: SHUTDOWN is refused here; send it to Redis itself",
		"SCRIPT DEBUG yes":  "ERR nearside: SCRIPT DEBUG is refused here; send it to Redis itself",
		"debug object x":    "NOPERM nearside: 'debug' is denied by the configuration",
		"RENAME a product:": "CROSSDB Keys in request don't live in the same database (nearside keeps 'a' in database 0 and 'product:' in database 1)",
	} {
		var d Decision
		p.Decide(&d, 0, split(request))
		if d.Err != want {
			t.Errorf("%s: %q", request, d.Err)
		}
	}
	var d Decision
	p.Decide(&d, 0, bytesOf("RENAME", "a\r\n-ERR", "product:"+strings.Repeat("x", 999)))
	if strings.ContainsAny(d.Err, "\r\n") || len(d.Err) > 300 {
		t.Errorf("%q", d.Err)
	}
}

func TestKeysOfADecision(t *testing.T) {
	p := New(shop(t, 0, 1), Options{})
	var d Decision
	p.Decide(&d, 0, split("DEL product:1 lock:2 x"))
	p.Decide(&d, 0, split("MSET product:1 a lock:2 b")) // Keys is used again
	rules := p.Rules().All()
	want := []Key{{1, 1, rules[3], true}, {3, 0, rules[0], true}}
	if !slices.Equal(d.Keys, want) || !d.Lock {
		t.Errorf("%+v", d.Keys)
	}
	p.Decide(&d, 0, nil)
	if d.Cmd != nil || len(d.Keys) != 0 || d.Effect != 0 {
		t.Errorf("an empty request: %+v", d)
	}
}

func TestLearnWhileDeciding(t *testing.T) {
	p := New(shop(t, 0, 1), Options{})
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			var d Decision
			for i := range 200 {
				p.Learn(fmt.Sprintf("mod%d.c%d", n, i), 2, []string{"readonly", "module"}, 1, 1, 1)
				p.Decide(&d, 0, split(fmt.Sprintf("MOD%d.C%d product:1", n, i)))
				if d.Cmd == nil || d.Effect != 0 {
					t.Errorf("what was learned is not known")
				}
				p.Decide(&d, 0, bytesOf("EVAL", fmt.Sprintf("return %d", i), "0"))
			}
		})
	}
	wg.Wait()
}

func FuzzDecide(f *testing.F) {
	for _, s := range []string{"GET product:1", "EVAL redis 1 a", "COPY a b DB 0", "SORT a BY", "SET a b", "client", "SCRIPT LOAD", "nosuch", "MGET", "xread block"} {
		f.Add(s, 0)
		f.Add(s, 1)
	}
	p := New(shop(f, 0, 1), Options{Deny: []string{"config|set", "x"}})
	p.Learn("learned", -1, []string{"write"}, 2, -1, 2)
	f.Fuzz(func(t *testing.T, line string, session int) {
		if session < 0 {
			return
		}
		args := bytesOf(strings.Split(line, " ")...)
		var d Decision
		p.Decide(&d, session, args)
		for _, k := range d.Keys {
			if k.Pos < 1 || k.Pos >= len(args) {
				t.Fatalf("position %d", k.Pos)
			}
			if d.Route == RouteCache && (k.Rule == nil || k.Rule.Kind != CacheRule || k.DB != 1 || k.Write) {
				t.Fatalf("cached: %+v", k)
			}
			if k.DB != d.DB && d.Route <= RouteCache && d.Cmd != nil && d.Cmd.Name != "copy" {
				t.Fatalf("a key of another database is passed: %+v", d)
			}
		}
		if d.Route == RouteCache && (d.Effect != 0 || d.Fence != 0 || d.Lock || d.DB != 1) {
			t.Fatalf("a cached write: %+v", d)
		}
		if d.Route == RouteRefused && d.Err == "" {
			t.Fatal("refused without a word")
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	p := New(shop(b, 0, 1), Options{})
	for _, c := range []struct{ name, request string }{
		{"Get", "GET product:12345"},
		{"GetPass", "GET session:12345"},
		{"SetNX", "SET lock:1 token NX PX 30000"},
		{"MGet10", "MGET product:1 product:2 product:3 product:4 product:5 product:6 product:7 product:8 product:9 product:10"},
		{"Hset", "HSET product:1 f v"},
		{"EvalSHA", "EVALSHA b70c2384248f88e6b75b9f89241a180f856ad852 1 lock:1 token"},
	} {
		args := split(c.request)
		b.Run(c.name, func(b *testing.B) { benchmarkDecide(b, p, args) })
	}
	b.Run("Eval", func(b *testing.B) { benchmarkDecide(b, p, bytesOf("EVAL", release, "1", "lock:1", "token")) })
}

// BenchmarkDecideGet is the hot path: no allocations.
func BenchmarkDecideGet(b *testing.B) {
	benchmarkDecide(b, New(shop(b, 0, 1), Options{}), split("GET product:12345"))
}

func benchmarkDecide(b *testing.B, p *Policy, args [][]byte) {
	b.Helper()
	b.ReportAllocs()
	var d Decision
	for b.Loop() {
		p.Decide(&d, 0, args)
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	p := New(shop(t, 0, 1), Options{})
	var d Decision
	for _, args := range [][][]byte{
		split("GET product:1"), split("SET lock:1 t NX PX 5"), split("MGET product:1 x"), split("CLIENT ID"), split("ZUNIONSTORE d 2 a b"),
		bytesOf("EVAL", release, "1", "lock:1", "t"), split("EVALSHA b70c2384248f88e6b75b9f89241a180f856ad852 1 lock:1 t"), split("NOSUCH x"),
	} {
		p.Decide(&d, 0, args)
		if n := testing.AllocsPerRun(100, func() { p.Decide(&d, 0, args) }); n != 0 {
			t.Errorf("%s: %v allocations", args[0], n)
		}
	}
}

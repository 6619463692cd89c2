package proxy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
)

// cacheRules makes cache rules of prefixes, beside one lock rule.
func cacheRules(prefixes ...string) []policy.Rule {
	rules := []policy.Rule{{Kind: policy.LockRule, Prefix: "lock:"}}
	for _, p := range prefixes {
		rules = append(rules, policy.Rule{Kind: policy.CacheRule, Prefix: p, TTL: time.Hour, MaxReply: 1 << 20, Negative: true})
	}
	return rules
}

// keysOf returns all keys of a database, sorted.
func keysOf(t *testing.T, redis *redistest.Server, db int) []string {
	t.Helper()
	return list(redis.DoDB(db, "KEYS", "*"))
}

// viewModel is what two databases hold, and which of it a session at database 0 sees.
type viewModel struct {
	rules *policy.Rules
	held  [2]map[string]bool // the locks' database, the cache's
}

func newViewModel(t *testing.T, rules []policy.Rule) *viewModel {
	t.Helper()
	r, err := policy.NewRules(0, 1, rules)
	if err != nil {
		t.Fatal(err)
	}
	return &viewModel{rules: r, held: [2]map[string]bool{{}, {}}}
}

// cached is the model's own idea of where a key lives: the longest prefix decides.
func (m *viewModel) cached(key string) bool {
	longest, cached := -1, false
	for _, r := range m.rules.All() {
		if strings.HasPrefix(key, r.Prefix) && len(r.Prefix) > longest {
			longest, cached = len(r.Prefix), r.Kind == policy.CacheRule
		}
	}
	return cached
}

func (m *viewModel) view() (keys []string) {
	for db, held := range m.held {
		for key := range held {
			if m.cached(key) == (db == 1) && !strings.HasPrefix(key, "nearside:") {
				keys = append(keys, key)
			}
		}
	}
	slices.Sort(keys)
	return keys
}

// flushed is what FLUSHDB at database 0 does to the model.
func (m *viewModel) flushed() {
	for key := range m.held[1] {
		if m.cached(key) && !strings.HasPrefix(key, "nearside:") {
			delete(m.held[1], key)
		}
	}
	m.held[0] = map[string]bool{}
}

func (m *viewModel) stored(db int) (keys []string) {
	for key := range m.held[db] {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// TestViewAgrees: KEYS, a whole walk by SCAN with any options and RANDOMKEY show the
// same keys, those of the model, whatever both databases hold; and FLUSHDB deletes these.
func TestViewAgrees(t *testing.T) {
	for _, server := range redistest.All {
		t.Run(server.String(), func(t *testing.T) {
			t.Parallel()
			redis := redistest.StartNamed(t, server)
			for _, prefixes := range [][]string{
				{"product:", "products:", "stats:"},
				{"p*[x]:"},
				{`a\?-^]`, `a\?-^`, `a\?-b`},
				{""},
				{"product:", "lock:cached:", "p"},
				nil,
			} {
				redis.Do("FLUSHALL")
				n := start(t, redis, func(c *Config) { c.Rules = cacheRules(prefixes...) })
				checkView(t, redis, n, newViewModel(t, cacheRules(prefixes...)), prefixes)
				n.stop()
			}
		})
	}
}

func checkView(t *testing.T, redis *redistest.Server, n *nearside, m *viewModel, prefixes []string) {
	t.Helper()
	c := n.dial()
	starts := append([]string{"", "lock:", "lock:cached:", "nearside:", "other:", "p", "pxx:", "a?", `a\`}, prefixes...)
	random := func() string { return starts[rand.IntN(len(starts))] + strconv.Itoa(rand.IntN(200)) }
	for round := range 6 {
		for range []int{0, 3, 40, 400, 1500, 60}[round] {
			db, key := rand.IntN(2), random()
			m.held[db][key] = true
		}
		var fill [2]strings.Builder
		for db := range m.held {
			d := redistest.Dial(t, redis.Addr)
			fill[db].WriteString(redistest.Command("SELECT", strconv.Itoa(db)))
			keys := m.stored(db)
			for _, key := range keys {
				fill[db].WriteString(redistest.Command("SET", key, "v"))
			}
			d.Write(fill[db].String())
			for range len(keys) + 1 {
				d.Read()
			}
			d.Close()
		}
		view := m.view()
		if got := list(c.Do("KEYS", "*")); !slices.Equal(got, view) {
			t.Fatalf("%q: KEYS shows %d keys, want %d", prefixes, len(got), len(view))
		}
		for _, options := range [][]string{nil, {"COUNT", "1000"}, {"MATCH", "*", "TYPE", "string"}, {"count", "3", "match", "*"}} {
			if got := scan(t, c, options...); !slices.Equal(got, view) {
				t.Fatalf("%q: SCAN %v shows %d keys, want %d", prefixes, options, len(got), len(view))
			}
		}
		seen := map[string]bool{}
		for i := range 40 {
			got := c.Do("RANDOMKEY")
			if i%8 == 0 { // inside MULTI, too
				want(t, c, "OK", "MULTI")
				want(t, c, "QUEUED", "RANDOMKEY")
				got = strings.Trim(c.Do("EXEC"), "[]")
			}
			if ok := slices.Contains(view, got); ok != (len(view) > 0) || len(view) == 0 && got != "(nil)" {
				t.Fatalf("%q: RANDOMKEY is %q, with %d keys in view", prefixes, got, len(view))
			}
			seen[got] = true
		}
		if len(view) > 30 && len(seen) < 5 {
			t.Errorf("%q: 40 random keys of %d are %d different ones", prefixes, len(view), len(seen))
		}
		if round%2 == 1 || round == 4 {
			want(t, c, "OK", [][]string{{"FLUSHDB"}, {"flushdb", "async"}, {"FLUSHDB"}}[round%3]...)
			m.flushed()
			for db := range m.held {
				if got, expected := keysOf(t, redis, db), m.stored(db); !slices.Equal(got, expected) {
					t.Fatalf("%q: FLUSHDB leaves %d keys in database %d, want %d", prefixes, len(got), db, len(expected))
				}
			}
			want(t, c, "[]", "KEYS", "*")
			want(t, c, "(nil)", "RANDOMKEY")
		}
	}
}

// TestRandomKeyAmongHidden: one key is in view and very many are not.
func TestRandomKeyAmongHidden(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	redis.DoDB(1, "DEBUG", "POPULATE", "5000", "hidden")
	redis.DoDB(0, "DEBUG", "POPULATE", "5000", "product")
	c := n.dial()
	want(t, c, "(nil)", "RANDOMKEY")
	redis.DoDB(1, "SET", "product:one", "v")
	want(t, c, "product:one", "RANDOMKEY")
	want(t, c, "OK", "MULTI")
	want(t, c, "QUEUED", "RANDOMKEY")
	want(t, c, "[product:one]", "EXEC")
	want(t, c, "[product:one]", "KEYS", "*")
	if got := scan(t, c); !slices.Equal(got, []string{"product:one"}) {
		t.Errorf("SCAN shows %v", got)
	}
}

// TestCursors: a cursor means what it means to the server behind.
func TestCursors(t *testing.T) {
	for _, server := range redistest.All {
		t.Run(server.String(), func(t *testing.T) {
			t.Parallel()
			redis := redistest.StartNamed(t, server)
			n := start(t, redis, nil)
			c := n.dial()
			var all []string
			for i := range 100 {
				for _, key := range []string{fmt.Sprint("product:", i), fmt.Sprint("plain:", i)} {
					all = append(all, key)
					want(t, c, "OK", "SET", key, "v")
				}
			}
			slices.Sort(all)
			for _, begin := range []string{
				"0", "", "+0", "-0", "00", "000000000000000000000000", " 0", "\t\n\v\f\r 0", "0\x00", "\x00", "0\x00x", "\x00x", " ", "+", "-", "+-0", "- 0",
				"0 ", "0x0", "x", "1e3", "18446744073709551616", "-18446744073709551616", "99999999999999999999999", "\xa00", "0\n",
			} {
				// The same at Redis: an error, or all keys.
				direct := redis.Do("SCAN", begin, "COUNT", "1000")
				if strings.HasPrefix(direct, "-") {
					want(t, c, direct, "SCAN", begin, "COUNT", "1000")
					want(t, c, direct, "SCAN", begin)
					continue
				}
				for _, spell := range []string{"%s", "+%s", "0%s", " %s", "%s\x00", "%s\x00x"} {
					if got := walkSpelt(c, begin, spell, n, redis); got != nil && !slices.Equal(got, all) {
						t.Errorf("a walk from %q, cursors spelt %q, shows %d keys, want %d", begin, spell, len(got), len(all))
					}
				}
			}
			for _, options := range [][]string{{"MATCH"}, {"COUNT", "0"}, {"COUNT", "x"}, {"bogus", "1"}, {"COUNT", "MATCH"}, {"COUNT", "MATCH", "MATCH", "x"}, {"MATCH", "product:1", "bogus"}} {
				args := append([]string{"SCAN", "0"}, options...)
				want(t, c, redis.Do(args...), args...)
			}
			// A word that looks like an option and stands where its value does.
			if got := scan(t, c, "COUNT", "1000", "MATCH", "match", "MATCH", "product:1"); !slices.Equal(got, []string{"product:1"}) {
				t.Errorf("the last MATCH counts: %v", got)
			}
			if direct := redis.Do("SCAN", "0", "TYPE", "match", "MATCH", "plain:1"); !strings.HasPrefix(direct, "-") {
				if got := scan(t, c, "TYPE", "match", "MATCH", "product:1"); len(got) != 0 {
					t.Errorf("no key is of the type match: %v", got)
				}
			}
		})
	}
}

// walkSpelt walks with every cursor after the first spelt in some way; nil if the server does not take that.
func walkSpelt(c *redistest.Client, begin, spell string, n *nearside, redis *redistest.Server) (keys []string) {
	n.t.Helper()
	if strings.HasPrefix(redis.Do("SCAN", fmt.Sprintf(spell, "1")), "-") {
		if got := c.Do("SCAN", fmt.Sprintf(spell, "3")); !strings.HasPrefix(got, "-ERR invalid cursor") {
			n.t.Errorf("the server takes no cursor spelt %q, nearside answers %s", spell, got)
		}
		return nil
	}
	cursor := begin
	for range 10_000 {
		reply := c.Do("SCAN", cursor, "COUNT", "7")
		head, rest, _ := strings.Cut(strings.TrimPrefix(reply, "["), " ")
		keys = append(keys, list(strings.TrimSuffix(rest, "]"))...)
		if head == "0" {
			slices.Sort(keys)
			return slices.Compact(keys)
		}
		if strings.HasPrefix(reply, "-") {
			break
		}
		cursor = fmt.Sprintf(spell, head)
	}
	n.t.Errorf("a walk from %q, cursors spelt %q, does not end", begin, spell)
	return nil
}

// TestFlushDBOptions: a FLUSHDB that Redis refuses does nothing at all.
func TestFlushDBOptions(t *testing.T) {
	for _, server := range redistest.All {
		t.Run(server.String(), func(t *testing.T) {
			t.Parallel()
			redis := redistest.StartNamed(t, server)
			n := start(t, redis, nil)
			c := n.dial()
			for _, args := range [][]string{{"FLUSHDB", "x"}, {"FLUSHDB", "ASYNC", "SYNC"}, {"FLUSHDB", "SYNC"}, {"FLUSHDB", "async"}, {"FLUSHDB", ""}, {"FlushDB"}} {
				want(t, c, "OK", "MSET", "product:1", "v", "plain", "v")
				redis.DoDB(1, "SET", "unrelated:1", "x")
				direct := redis.DoDB(5, args...)
				want(t, c, direct, args...)
				left := "2"
				if direct == "OK" {
					left = "0"
				}
				want(t, c, left, "EXISTS", "product:1", "plain")
				if got := redis.DoDB(1, "GET", "unrelated:1"); got != "x" {
					t.Errorf("%v: unrelated:1 is %s", args, got)
				}
			}
			// Inside MULTI it is refused, and nothing of the transaction runs.
			want(t, c, "OK", "SET", "product:1", "v")
			want(t, c, "OK", "MULTI")
			want(t, c, "QUEUED", "SET", "plain", "never")
			if got := c.Do("FLUSHDB"); !strings.Contains(got, "cache.exclusive") {
				t.Errorf("FLUSHDB inside MULTI answered %s", got)
			}
			if got := c.Do("EXEC"); !strings.HasPrefix(got, "-EXECABORT") {
				t.Errorf("EXEC answered %s", got)
			}
			want(t, c, "1", "EXISTS", "product:1", "plain")
			// At any other database it is Redis's own, inside MULTI, too.
			want(t, c, "OK", "SELECT", "1")
			want(t, c, "OK", "MULTI")
			want(t, c, "QUEUED", "FLUSHDB")
			want(t, c, "[OK]", "EXEC")
			if got := redis.DoDB(1, "DBSIZE"); got != "0" {
				t.Errorf("database 1 has %s keys", got)
			}
		})
	}
}

// TestFlushDBExclusive: both databases go, in one step, inside MULTI as well.
func TestFlushDBExclusive(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.CacheExclusive = true })
	c := n.dial()
	for _, multi := range []bool{false, true} {
		want(t, c, "OK", "MSET", "product:1", "v", "plain", "v")
		redis.DoDB(1, "SET", "unrelated:1", "x")
		if multi {
			want(t, c, "OK", "MULTI")
			want(t, c, "QUEUED", "FLUSHDB")
			want(t, c, "[OK]", "EXEC")
		} else {
			want(t, c, "OK", "FLUSHDB")
		}
		want(t, c, "0", "DBSIZE")
	}
}

// TestFlushDBOneDatabase: where there is one database only it is Redis's own.
func TestFlushDBOneDatabase(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.CacheDB = 0 })
	c := n.dial()
	want(t, c, "OK", "MSET", "product:1", "v", "plain", "v")
	want(t, c, "OK", "FLUSHDB")
	want(t, c, "0", "DBSIZE")
	if got := redis.Calls("unlink"); got != 0 {
		t.Errorf("%d UNLINKs", got)
	}
}

// TestFlushDBRights: the client needs FLUSHDB and nothing else, and without it nothing is deleted.
func TestFlushDBRights(t *testing.T) {
	for _, server := range redistest.All {
		t.Run(server.String(), func(t *testing.T) {
			t.Parallel()
			redis := redistest.StartNamed(t, server)
			redis.Do("ACL", "SETUSER", "may", "on", ">pw", "~nothing", "+flushdb", "+randomkey")
			redis.Do("ACL", "SETUSER", "maynot", "on", ">pw", "~*", "+@all", "-flushdb", "-randomkey")
			n := start(t, redis, nil)
			own := n.dial()
			c := n.dial()
			fill := func() {
				want(t, own, "OK", "MSET", "product:1", "v", "plain", "v")
				redis.DoDB(1, "SET", "unrelated:1", "x")
			}
			fill()
			want(t, c, "OK", "AUTH", "maynot", "pw")
			for _, name := range []string{"FLUSHDB", "RANDOMKEY"} {
				if got := c.Do(name); !strings.HasPrefix(got, "-NOPERM") {
					t.Errorf("%s without the right answered %s", name, got)
				}
			}
			want(t, own, "2", "EXISTS", "product:1", "plain")
			want(t, c, "OK", "AUTH", "may", "pw")
			if got := c.Do("RANDOMKEY"); got != "product:1" && got != "plain" {
				t.Errorf("RANDOMKEY answered %s", got)
			}
			want(t, c, "OK", "FLUSHDB")
			want(t, own, "0", "EXISTS", "product:1", "plain")
			if got := redis.DoDB(1, "KEYS", "*"); got != "[unrelated:1]" {
				t.Errorf("the cache's database has %s", got)
			}
			if server != redistest.Valkey9 {
				return
			}
			// A user that is kept to some databases.
			fill()
			for user, db := range map[string]string{"only0": "0", "only1": "1"} {
				if got := redis.Do("ACL", "SETUSER", user, "on", ">pw", "~*", "+@all", "resetdbs", "db="+db); got != "OK" {
					t.Fatal(got)
				}
				want(t, c, "OK", "AUTH", user, "pw")
				if got := c.Do("FLUSHDB"); !strings.HasPrefix(got, "-NOPERM") {
					t.Errorf("FLUSHDB by %s answered %s", user, got)
				}
				want(t, own, "2", "EXISTS", "product:1", "plain")
			}
		})
	}
}

// TestFlushDBUnlinkRefused: nearside's own user lacks a right, which the client is told.
func TestFlushDBUnlinkRefused(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	want(t, c, "OK", "MSET", "product:1", "v", "plain", "v")
	redis.Do("ACL", "SETUSER", "default", "-unlink")
	got := c.Do("FLUSHDB")
	if !strings.HasPrefix(got, "-NOPERM nearside: FLUSHDB has emptied database 0, but of the cache rules' keys in database 1 it has unlinked only 0; send it again (") ||
		!strings.Contains(got, "unlink") {
		t.Errorf("FLUSHDB answered %s", got)
	}
	want(t, c, "(nil)", "GET", "plain")
	want(t, c, "v", "GET", "product:1")
	redis.Do("ACL", "SETUSER", "default", "+unlink")
	want(t, c, "OK", "FLUSHDB")
	want(t, c, "(nil)", "GET", "product:1")
}

// TestFlushDBMeanwhile: while a FLUSHDB walks, others are served by Redis and not from what is
// about to go; a client that leaves does not stop it.
func TestFlushDBMeanwhile(t *testing.T) {
	for _, leaves := range []bool{false, true} {
		t.Run(fmt.Sprint("leaves ", leaves), func(t *testing.T) {
			redis, relay, n := heldBack(t, nil)
			redis.DoDB(1, "DEBUG", "POPULATE", "3000", "product")
			redis.DoDB(1, "DEBUG", "POPULATE", "3000", "unrelated")
			other, c := n.dial(), n.dial()
			other.Do("HELLO", "3") // on connections that the relay holds nothing back of
			want(t, other, "OK", "SET", "product:mine", "v")
			n.warm(other, "GET", "product:mine")
			held := relay.HoldRequest("$6\r\nUNLINK\r\n")
			c.Send("FLUSHDB")
			<-held.Arrived
			hits := n.hits()
			want(t, other, "PONG", "PING")
			if got := other.Do("GET", "product:mine"); n.hits() != hits || got != "v" && got != "(nil)" {
				t.Errorf("%s was answered from the near cache, %d hits", got, n.hits()-hits)
			}
			want(t, other, "OK", "SET", "lock:new", "v") // written meanwhile: behind the FLUSHDB of its database it stays
			if leaves {
				c.Close()
			}
			held.Release()
			if !leaves {
				if got := c.Read(); got != "OK" {
					t.Errorf("FLUSHDB answered %s", got)
				}
			}
			n.eventually("all of the view is gone", func() bool { return redis.DoDB(1, "DBSIZE") == "3000" })
			n.eventually("its keys are out of the near cache", func() bool { return other.Do("GET", "product:mine") == "(nil)" })
			want(t, other, "v", "GET", "lock:new")
		})
	}
}

// TestFlushDBLost: Redis is lost in the middle, and the client is told how far it came.
func TestFlushDBLost(t *testing.T) {
	redis, relay, n := heldBack(t, nil)
	redis.DoDB(1, "DEBUG", "POPULATE", "3000", "product")
	c := n.dial()
	want(t, c, "OK", "SET", "plain", "v")
	held := relay.HoldRequest("$6\r\nUNLINK\r\n")
	c.Send("FLUSHDB")
	<-held.Arrived
	relay.Cut()
	held.Release()
	if got := c.Read(); !strings.HasPrefix(got, "-ERR nearside: FLUSHDB has emptied database 0, but of the cache rules' keys in database 1") || !strings.Contains(got, "was lost") {
		t.Errorf("FLUSHDB answered %s", got)
	}
	n.awaitLink()
	n.eventually("FLUSHDB works again", func() bool { return c.Do("FLUSHDB") == "OK" })
	want(t, c, "[]", "KEYS", "*")
	if got := redis.DoDB(1, "DBSIZE"); got != "0" {
		t.Errorf("the cache's database has %s keys", got)
	}
}

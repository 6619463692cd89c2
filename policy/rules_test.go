package policy

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"
)

// cacheRule and lockRule make rules for tests.
func cacheRule(prefix string) Rule {
	return Rule{Kind: CacheRule, Prefix: prefix, TTL: time.Minute, MaxReply: 1 << 20}
}

func lockRule(prefix string) Rule { return Rule{Kind: LockRule, Prefix: prefix} }

func mustRules(t testing.TB, locksDB, cacheDB int, rules ...Rule) *Rules {
	t.Helper()
	r, err := NewRules(locksDB, cacheDB, rules)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// shop is the configuration of the design's example, and a lock inside a cache rule.
func shop(t testing.TB, locksDB, cacheDB int) *Rules {
	t.Helper()
	return mustRules(t, locksDB, cacheDB,
		lockRule("lock:"), lockRule("pay:order:"), lockRule("product:lock:"),
		cacheRule("product:"), cacheRule("products:"), cacheRule("balance:"), cacheRule("pay:"))
}

func TestNewRulesErrors(t *testing.T) {
	noTTL, noSize, command := cacheRule("a:"), cacheRule("a:"), cacheRule("a:")
	noTTL.TTL, noSize.MaxReply = 0, 0
	command.Commands = map[string]bool{"get": true, "set": true, "zzz": true}
	for _, c := range []struct {
		locks, cache int
		rules        []Rule
		want         string
	}{
		{0, 1, []Rule{lockRule("a:"), lockRule("b:"), lockRule("a:")}, `lock rule "a:" stands twice (rules 1 and 3)`},
		{0, 1, []Rule{cacheRule("a:"), cacheRule("a:")}, `cache rule "a:" stands twice (rules 1 and 2)`},
		{0, 1, []Rule{lockRule(""), cacheRule("")}, `lock rule "" and cache rule "" have the same prefix (rules 1 and 2)`},
		{0, 1, []Rule{noTTL}, `cache rule "a:": ttl must be greater than 0, not 0s`},
		{0, 1, []Rule{noSize}, `cache rule "a:": max_reply must be greater than 0, not 0`},
		{0, 1, []Rule{command}, `cache rule "a:": "set" is not a command whose answers can be kept`},
		{0, 1, []Rule{{Prefix: "a:"}}, `rule "a:": neither a lock rule nor a cache rule`},
		{0, -1, nil, `a database has no negative number: locks 0, cache -1`},
	} {
		_, err := NewRules(c.locks, c.cache, c.rules)
		if err == nil || err.Error() != c.want {
			t.Errorf("error %v, want %s", err, c.want)
		}
	}
}

func TestRulesAreNumberedAndCopied(t *testing.T) {
	given := []Rule{lockRule("b"), cacheRule("a")}
	r := mustRules(t, 2, 3, given...)
	given[0].Prefix = "z"
	if all := r.All(); len(all) != 2 || all[0].ID != 1 || all[1].ID != 2 || all[0].Prefix != "b" {
		t.Errorf("%v", r.All())
	}
	if r.LocksDB() != 2 || r.CacheDB() != 3 {
		t.Error("the databases are mixed up")
	}
}

func TestPrefixes(t *testing.T) {
	for _, c := range []struct{ rules, want []string }{
		{[]string{"b:", "a:", "a:b:", "a"}, []string{"a", "b:"}},
		{[]string{"a:", ""}, []string{""}},
		{[]string{"product:", "products:", "product:x"}, []string{"product:", "products:"}},
		{nil, nil},
	} {
		rules := []Rule{lockRule("lock:")}
		for _, p := range c.rules {
			rules = append(rules, cacheRule(p))
		}
		if got := mustRules(t, 0, 1, rules...).Prefixes(); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.rules, got, c.want)
		}
	}
}

func TestWhereKeysLive(t *testing.T) {
	for _, c := range []struct {
		locks, cache, session int
		key                   string
		db                    int
		rule                  string
	}{
		{0, 1, 0, "product:1", 1, "product:"},
		{0, 1, 0, "product:lock:1", 0, "product:lock:"},
		{0, 1, 0, "pay:1", 1, "pay:"},
		{0, 1, 0, "pay:order:1", 0, "pay:order:"},
		{0, 1, 0, "other", 0, "none"},
		{0, 1, 0, "lock:x", 0, "lock:"},
		{0, 1, 0, "", 0, "none"},
		{0, 1, 1, "product:1", 1, "product:"},
		{0, 1, 1, "product:lock:1", 1, "none"},
		{0, 1, 1, "lock:x", 1, "none"},
		{0, 1, 1, "other", 1, "none"},
		{0, 1, 5, "product:1", 5, "none"},
		{0, 1, 5, "lock:x", 5, "none"},
		{3, 4, 0, "lock:x", 3, "lock:"},
		{3, 4, 0, "product:1", 4, "product:"},
		{3, 4, 3, "lock:x", 3, "lock:"},
		{3, 4, 3, "product:1", 3, "none"},
		{3, 4, 4, "product:1", 4, "product:"},
		{0, 0, 0, "product:1", 0, "product:"},
		{0, 0, 0, "lock:x", 0, "lock:"},
		{2, 2, 2, "product:1", 2, "product:"},
		{2, 2, 2, "lock:x", 2, "lock:"},
	} {
		r := shop(t, c.locks, c.cache)
		db, rule := r.place([]byte(c.key), c.session)
		name := "none"
		if rule != nil {
			name = rule.Prefix
		}
		if db != c.db || name != c.rule || db != r.DBOf([]byte(c.key), c.session) {
			t.Errorf("%+v: database %d, rule %q", c, db, name)
		}
	}
}

func TestInView(t *testing.T) {
	r := shop(t, 0, 1)
	for _, c := range []struct {
		key  string
		db   int
		want bool
	}{
		{"product:1", 1, true},
		{"product:1", 0, false},
		{"x", 0, true},
		{"x", 1, false},
		{"lock:1", 1, false},
		{"lock:1", 0, true},
		{"product:lock:1", 0, true},
		{"product:lock:1", 1, false},
		{"x", 7, false},
	} {
		if got := r.InView([]byte(c.key), c.db); got != c.want {
			t.Errorf("%s in %d: %v", c.key, c.db, got)
		}
	}
	if same := shop(t, 1, 1); !same.InView([]byte("x"), 1) || !same.InView([]byte("product:1"), 1) {
		t.Error("one database is not its own view")
	}
}

func TestPatternDBs(t *testing.T) {
	r := shop(t, 0, 1)
	for pattern, want := range map[string]string{
		"*":                      "[0 1]",
		"product:*":              "[0 1]", // product:lock: lies inside
		"product:1*":             "[1]",
		"product:lock:*":         "[0]",
		"products:*":             "[1]",
		"prod*":                  "[0 1]",
		"balance:*":              "[1]",
		"bal[a]nce:*":            "[0 1]",
		`b\alance:*`:             "[1]",
		"other:*":                "[0]",
		"lock:*":                 "[0]",
		"pay:*":                  "[0 1]",
		"pay:order:?":            "[0]",
		"product:1":              "[1]",
		"prod":                   "[0]",
		`balance:\`:              "[1]",
		`\`:                      "[0]",
		"":                       "[0]",
		"?":                      "[0 1]",
		"zz[":                    "[0]",
		`b\*lance:`:              "[0]",
		"products:" + `\*` + "?": "[1]",
	} {
		if got := fmt.Sprint(r.PatternDBs([]byte(pattern))); got != want {
			t.Errorf("%q: %s, want %s", pattern, got, want)
		}
	}
	if got := shop(t, 4, 4).PatternDBs([]byte("*")); !slices.Equal(got, []int{4}) {
		t.Errorf("one database: %v", got)
	}
	if got := mustRules(t, 0, 1, cacheRule("")).PatternDBs([]byte("*")); !slices.Equal(got, []int{1}) {
		t.Errorf("everything cached: %v", got)
	}
}

// naive is Match as one would write it first.
func naive(r *Rules, key string) *Rule {
	var best *Rule
	for _, rule := range r.All() {
		if strings.HasPrefix(key, rule.Prefix) && (best == nil || len(rule.Prefix) > len(best.Prefix)) {
			best = rule
		}
	}
	return best
}

// rulesOf makes rules of lines: "l" or "c" and the prefix. Doubled prefixes are left out.
func rulesOf(t testing.TB, text string) *Rules {
	t.Helper()
	seen := map[string]bool{}
	var rules []Rule
	for _, line := range strings.Split(text, "\n") {
		kind, prefix := lockRule, line
		if p, ok := strings.CutPrefix(line, "c"); ok {
			kind, prefix = cacheRule, p
		}
		if !seen[prefix] {
			seen[prefix] = true
			rules = append(rules, kind(prefix))
		}
	}
	return mustRules(t, 0, 1, rules...)
}

func checkMatch(t testing.TB, r *Rules, key string) {
	t.Helper()
	if got, want := r.Match([]byte(key)), naive(r, key); got != want {
		t.Fatalf("Match(%q) = %v, want %v", key, got, want)
	}
}

func TestMatchAtRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	word := func(letters string, most int) string {
		b := make([]byte, rng.IntN(most))
		for i := range b {
			b[i] = letters[rng.IntN(len(letters))]
		}
		return string(b)
	}
	for _, letters := range []string{"ab", "abcdefghijklmnopqrstuvwxyz", "\x00\xff:"} {
		for range 100 {
			var lines []string
			for range rng.IntN(40) {
				lines = append(lines, word("c", 2)+word(letters, 6))
			}
			r := rulesOf(t, strings.Join(lines, "\n"))
			for range 100 {
				checkMatch(t, r, word(letters, 9))
			}
		}
	}
}

func FuzzRules(f *testing.F) {
	f.Add("cproduct:\nlproduct:lock:\nc", "product:1", "prod*")
	f.Add("ca\ncab\nlabc", "abcd", `a\b*`)
	f.Add("c*\n?", "*x", `\*?`)
	f.Fuzz(func(t *testing.T, text, key, pattern string) {
		r := rulesOf(t, text)
		checkMatch(t, r, key)
		for _, rule := range r.All() {
			checkMatch(t, r, rule.Prefix)
			checkMatch(t, r, rule.Prefix+key)
		}
		// No key may be lost: what matches a pattern lives where PatternDBs says. Keys are made of the
		// pattern by giving its wildcards the beginnings of rules; path.Match understands the same
		// patterns as long as no slash, class or non-ASCII character is in play.
		if strings.ContainsAny(pattern+key+text, "/[]") || strings.IndexFunc(pattern+key+text, func(c rune) bool { return c > 126 }) >= 0 {
			return
		}
		dbs := r.PatternDBs([]byte(pattern))
		for _, rule := range r.All() {
			for _, k := range []string{key, rule.Prefix, rule.Prefix + key, strings.ReplaceAll(pattern, "*", rule.Prefix), strings.ReplaceAll(strings.ReplaceAll(pattern, `\`, ""), "*", key)} {
				if ok, err := path.Match(pattern, k); err == nil && ok && !slices.Contains(dbs, r.DBOf([]byte(k), 0)) {
					t.Fatalf("%q matches %q and lives in %d, asked are %v", k, pattern, r.DBOf([]byte(k), 0), dbs)
				}
			}
		}
		// The merged prefixes cover the same keys and do not overlap.
		merged := r.Prefixes()
		for i, p := range merged {
			for j, q := range merged {
				if i != j && strings.HasPrefix(p, q) {
					t.Fatalf("%q overlaps %q", p, q)
				}
			}
		}
		for _, rule := range r.All() {
			if rule.Kind == CacheRule && !slices.ContainsFunc(merged, func(p string) bool { return strings.HasPrefix(rule.Prefix, p) }) {
				t.Fatalf("%q is not covered by %q", rule.Prefix, merged)
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	many := []Rule{cacheRule("product:")}
	for i := range 1999 {
		many = append(many, cacheRule(fmt.Sprintf("app%d:table%d:", i%40, i)))
	}
	for _, c := range []struct {
		name, key string
		rules     *Rules
	}{
		{"5rules", "product:12345", mustRules(b, 0, 1, lockRule("lock:"), cacheRule("product:"), cacheRule("products:"), cacheRule("balance:"), cacheRule("coupon:"))},
		{"2000rules", "app17:table1977:12345", mustRules(b, 0, 1, many...)},
		{"2000rules-none", "session:12345", mustRules(b, 0, 1, many...)},
	} {
		key := []byte(c.key)
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.rules.Match(key)
			}
		})
	}
}

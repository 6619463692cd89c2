package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kind tells lock rules from cache rules.
type Kind uint8

const (
	// LockRule marks keys that are locks: never cached, on connections of their own.
	LockRule Kind = iota + 1
	// CacheRule marks keys whose reads may be answered from the near cache.
	CacheRule
)

// String is "lock" or "cache".
func (k Kind) String() string {
	switch k {
	case LockRule:
		return "lock"
	case CacheRule:
		return "cache"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Rule is one configured prefix.
type Rule struct {
	Kind   Kind
	Prefix string // "" means every key
	ID     int    // position among all rules, from 1; 0 is "no rule" in counters

	// The rest holds for cache rules only.
	TTL      time.Duration // longest stay of an entry; > 0
	MaxReply int           // bytes; larger replies are not kept; > 0
	Negative bool          // keep "no such key" too
	Fenced   bool          // a hit waits for a proof of freshness newer than the request
	// StaleIfError is how old the last proof of freshness may be when the origin cannot be reached and an entry is
	// served all the same; 0: never.
	StaleIfError time.Duration
	Commands     map[string]bool // lower-case names of the reads to keep; nil: all that can be
}

// keeps reports whether replies of c are kept under the cache rule r. MGET
// reads what GET reads, so either name allows it.
func (r *Rule) keeps(c *Command) bool {
	return r.Commands == nil || r.Commands[c.Name] || c.quirk == quirkMGet && r.Commands["get"]
}

// check finds what is wrong with one rule by itself.
func (r *Rule) check() error {
	switch r.Kind {
	case LockRule:
		return nil
	case CacheRule:
	default:
		return fmt.Errorf("rule %q: neither a lock rule nor a cache rule", r.Prefix)
	}
	if r.TTL <= 0 {
		return fmt.Errorf("cache rule %q: ttl must be greater than 0, not %v", r.Prefix, r.TTL)
	}
	if r.MaxReply <= 0 {
		return fmt.Errorf("cache rule %q: max_reply must be greater than 0, not %d", r.Prefix, r.MaxReply)
	}
	names := make([]string, 0, len(r.Commands))
	for name := range r.Commands {
		names = append(names, name)
	}
	slices.Sort(names) // the same mistake gives the same message every time
	for _, name := range names {
		if c := commands[name]; c == nil || !c.Cache {
			return fmt.Errorf("cache rule %q: %q is not a command whose answers can be kept", r.Prefix, name)
		}
	}
	return nil
}

// Rules is the set of all rules and of the two databases they speak of. It
// never changes and is safe for concurrent use.
type Rules struct {
	locksDB, cacheDB int
	all              []*Rule
	root             node
	prefixes         []string
	one              [2][]int // what PatternDBs answers: locksDB alone, cacheDB alone …
	both             []int    // … or both
}

// NewRules checks the rules, numbers them from 1 in their order, and copies
// them. Errors name the rules they speak of.
func NewRules(locksDB, cacheDB int, rules []Rule) (*Rules, error) {
	if locksDB < 0 || cacheDB < 0 {
		return nil, fmt.Errorf("a database has no negative number: locks %d, cache %d", locksDB, cacheDB)
	}
	r := &Rules{
		locksDB: locksDB, cacheDB: cacheDB,
		one:  [2][]int{{locksDB}, {cacheDB}},
		both: []int{locksDB, cacheDB},
	}
	seen := map[string]*Rule{}
	for i := range rules {
		rule := rules[i]
		rule.ID = i + 1
		if err := rule.check(); err != nil {
			return nil, err
		}
		if other := seen[rule.Prefix]; other != nil {
			if other.Kind == rule.Kind {
				return nil, fmt.Errorf("%s rule %q stands twice (rules %d and %d)", rule.Kind, rule.Prefix, other.ID, rule.ID)
			}
			return nil, fmt.Errorf("%s rule %q and %s rule %q have the same prefix (rules %d and %d)",
				other.Kind, other.Prefix, rule.Kind, rule.Prefix, other.ID, rule.ID)
		}
		seen[rule.Prefix] = &rule
		r.all = append(r.all, &rule)
	}
	r.root = newNode("", slices.SortedFunc(slices.Values(r.all), func(a, b *Rule) int { return cmp.Compare(a.Prefix, b.Prefix) }), 0)
	r.prefixes = merge(r.all)
	return r, nil
}

// merge keeps the cache rules' prefixes that do not start with another one.
func merge(rules []*Rule) []string {
	var sorted, kept []string
	for _, rule := range rules {
		if rule.Kind == CacheRule {
			sorted = append(sorted, rule.Prefix)
		}
	}
	slices.Sort(sorted)
	for _, p := range sorted {
		// Sorted, a prefix stands before all that start with it, and nothing else comes between.
		if n := len(kept); n == 0 || !strings.HasPrefix(p, kept[n-1]) {
			kept = append(kept, p)
		}
	}
	return kept
}

// Number gives the rules other ids: id is asked for each, in their order, for one
// from 1 on that no other has. It must be called before anybody else uses the rules.
func (r *Rules) Number(id func(*Rule) int) {
	for _, rule := range r.all {
		rule.ID = id(rule)
	}
}

// ByID returns the rule with an id, nil if there is none.
func (r *Rules) ByID(id int) *Rule {
	if id > 0 && id <= len(r.all) && r.all[id-1].ID == id { // as Number leaves them mostly
		return r.all[id-1]
	}
	for _, rule := range r.all {
		if rule.ID == id {
			return rule
		}
	}
	return nil
}

// LocksDB is the database of the locks and of all keys under no cache rule.
func (r *Rules) LocksDB() int { return r.locksDB }

// CacheDB is the database of the keys under cache rules.
func (r *Rules) CacheDB() int { return r.cacheDB }

// All returns the rules in their order. The caller must not change them.
func (r *Rules) All() []*Rule { return r.all }

// Prefixes returns the cache rules' prefixes, sorted and without those that
// start with another one, as CLIENT TRACKING BCAST demands. {""} means every
// key. The caller must not change the slice.
func (r *Rules) Prefixes() []string { return r.prefixes }

// home is the database that commands without keys go to.
func (r *Rules) home(sessionDB int) int {
	if sessionDB == 0 {
		return r.locksDB
	}
	return sessionDB
}

// place tells the database a key lives in for a session, and the rule that holds for it there, or nil.
func (r *Rules) place(key []byte, sessionDB int) (int, *Rule) {
	if sessionDB == 0 {
		rule := r.Match(key)
		if rule != nil && rule.Kind == CacheRule {
			return r.cacheDB, rule
		}
		return r.locksDB, rule
	}
	if sessionDB != r.locksDB && sessionDB != r.cacheDB {
		return sessionDB, nil
	}
	rule := r.Match(key)
	if rule == nil || rule.Kind == LockRule && sessionDB != r.locksDB || rule.Kind == CacheRule && sessionDB != r.cacheDB {
		return sessionDB, nil
	}
	return sessionDB, rule
}

// DBOf tells the Redis database that a key lives in for a session at sessionDB.
// At 0 it is CacheDB for keys under a cache rule and LocksDB for all others; at
// any other it is sessionDB itself.
func (r *Rules) DBOf(key []byte, sessionDB int) int {
	db, _ := r.place(key, sessionDB)
	return db
}

// OwnPrefix begins the keys that are nearside's own.
const OwnPrefix = "nearside:"

// InView reports whether a key found in Redis database db belongs to what a session at database 0 sees.
func (r *Rules) InView(key []byte, db int) bool {
	own := len(key) >= len(OwnPrefix) && string(key[:len(OwnPrefix)]) == OwnPrefix
	return !own && db == r.DBOf(key, 0)
}

// PatternDBs tells which Redis databases a session at database 0 must ask for
// the keys that match a glob pattern (KEYS, SCAN MATCH): one if all of them
// can only live there, else LocksDB and CacheDB. The caller must not change
// the slice.
func (r *Rules) PatternDBs(pattern []byte) []int {
	literal, whole := literalPrefix(pattern)
	return r.prefixDBs(literal, whole)
}

// prefixDBs tells where the keys that start with literal live; with whole, the key literal itself.
func (r *Rules) prefixDBs(literal []byte, whole bool) []int {
	if r.locksDB == r.cacheDB {
		return r.one[0]
	}
	cached := 0
	rule := r.Match(literal)
	if rule != nil && rule.Kind == CacheRule {
		cached = 1
	}
	if whole {
		return r.one[cached]
	}
	for _, other := range r.all {
		if (other.Kind == CacheRule) != (cached == 1) && strings.HasPrefix(other.Prefix, string(literal)) {
			return r.both
		}
	}
	return r.one[cached]
}

// literalPrefix returns what every key that matches a glob pattern starts
// with, and whether that is the whole key. A backslash takes the next
// character literally; at the end it stands for itself, as in Redis.
func literalPrefix(pattern []byte) (literal []byte, whole bool) {
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '*', '?', '[':
			return literal, false
		case '\\':
			if i+1 < len(pattern) {
				i++
			}
		}
		literal = append(literal, pattern[i])
	}
	return literal, true
}

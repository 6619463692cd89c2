package policy

import (
	"strings"
	"sync"
	"sync/atomic"
)

// Options are what a Policy can be told beside its rules. The zero value refuses
// only what cannot work through nearside.
type Options struct {
	// Deny lists commands to refuse: "name", with all its subcommands, or "name|sub". Case is ignored.
	Deny []string
	// HashFieldTTL says that the origin can let single hash fields expire
	// (Redis 7.4 on): then reads that such an expiry may change are not cached.
	HashFieldTTL bool
}

// Policy decides what happens to commands. It is safe for concurrent use.
type Policy struct {
	rules *Rules
	deny  map[string]bool // lower case
	*knowledge
}

// knowledge is what was found out about the origin and its scripts. It outlives
// the rules (With).
type knowledge struct {
	hashTTL atomic.Bool // Options.HashFieldTTL
	scripts scripts
	words6  atomic.Bool // the origin's errors are in the words of Redis 6

	learning sync.Mutex              // held by who changes the rest
	lessons  atomic.Pointer[lessons] // replaced, never changed
	absent   map[string]bool         // names that the origin has lately said not to have

	server string                           // the process that the forms are of
	forms  atomic.Pointer[map[string]*Form] // replaced, never changed; by Command.Name
}

// New returns the policy of these rules.
func New(r *Rules, opts Options) *Policy {
	p := &Policy{rules: r, deny: denied(opts.Deny), knowledge: &knowledge{absent: map[string]bool{}}}
	p.lessons.Store(&lessons{})
	p.hashTTL.Store(opts.HashFieldTTL)
	return p
}

// With returns a policy of other rules that denies other commands. What p has
// learned, and what both learn from now on, they share.
func (p *Policy) With(r *Rules, deny []string) *Policy {
	return &Policy{rules: r, deny: denied(deny), knowledge: p.knowledge}
}

// denied makes a set of Options.Deny.
func denied(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[strings.ToLower(strings.TrimSpace(name))] = true
	}
	return set
}

// SetHashFieldTTL changes Options.HashFieldTTL, when the origin's version becomes known.
func (p *Policy) SetHashFieldTTL(can bool) { p.hashTTL.Store(can) }

// Rules returns the rules it was made with.
func (p *Policy) Rules() *Rules { return p.rules }

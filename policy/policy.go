package policy

import (
	"bytes"
	"maps"
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

	learning sync.Mutex            // held by Learn
	learned  atomic.Pointer[index] // replaced, never changed; nil: nothing learned

	server string                           // the process that the forms are of
	forms  atomic.Pointer[map[string]*Form] // replaced, never changed; by Command.Name
}

// New returns the policy of these rules.
func New(r *Rules, opts Options) *Policy {
	p := &Policy{rules: r, deny: denied(opts.Deny), knowledge: &knowledge{}}
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

// Learn adds a command that the origin knows and the table does not, as
// COMMAND INFO states it; a subcommand as "container|sub". What stands in the
// table is not changed. A command that may write and whose keys cannot be told
// from these numbers stays treated as unknown, except that its arity is known.
func (p *Policy) Learn(name string, arity int, flags []string, first, last, step int) {
	name = strings.ToLower(name)
	container, sub, isSub := strings.Cut(name, "|")
	parent := commands[container]
	if parent != nil && (!isSub || parent.subs[sub] != nil) {
		return
	}
	c := &Command{Name: name, Arity: arity, First: first, Last: last, Step: step, denial: denial(name)}
	for _, flag := range flags {
		c.Flags |= flagOf(flag)
	}
	if first > 0 {
		c.keys = []keySpec{{write: c.Flags.Has(FlagWrite), first: first, last: last, steps: max(step, 1)}}
	}
	switch {
	case c.Flags.Has(FlagReadonly):
	case c.Flags.Has(FlagMovableKeys):
		c.opaque = true
	case c.Flags.Has(FlagWrite):
		c.opaque = first <= 0
	default:
		c.opaque = c.Flags.Has(FlagModule) // Redis's own commands say when they write, modules may forget to
	}
	if c.Flags.Has(FlagBlocking) {
		c.route, c.Pin = RoutePin, PinBlock
	}
	if parent != nil && parent.route == RouteLocal {
		c.route = RouteLocal
	}

	p.learning.Lock()
	defer p.learning.Unlock()
	next := index{}
	if known := p.learned.Load(); known != nil {
		next = maps.Clone(*known)
	}
	next[name] = c
	p.learned.Store(&next)
}

// lookup finds the command: in the table, else among the learned ones.
func (p *Policy) lookup(args [][]byte) *Command {
	c := Lookup(args)
	if c != nil && (c.subs == nil || len(args) < 2) {
		return c
	}
	known := p.learned.Load()
	if known == nil {
		return c
	}
	if len(args) > 1 {
		if sub := (*known)[subName(args)]; sub != nil {
			return sub
		}
	}
	if c == nil {
		c = (*known)[string(bytes.ToLower(args[0]))]
	}
	return c
}

// subName spells what the first two arguments would be called as a subcommand.
func subName(args [][]byte) string {
	return strings.ToLower(string(args[0]) + "|" + string(args[1]))
}

package proxy

import (
	"fmt"

	"nearside/policy"
)

// A ruleset is everything of the configuration that can change while nearside
// runs, with what is made of it. It never changes itself: a reload (reload.go) puts
// another one in its place, and a request keeps to the one that it was decided under.
//
// Exact in spite of that it is made by the generation, the number of the rules.
// It is a part of the near cache's keys (cacheID), so that an entry and a fetch
// under way belong to the rules under which they were asked for and no others
// find them. So neither a fetch that was begun under the old rules and is stored
// later nor a look-up that comes between the swap and its end needs a check. A
// hit under old rules is right too: the request had been read before they were
// replaced, and whoever writes under the new ones came after that.
//
// What is left is a write that was decided under rules by which its key was not
// cached, and is answered under rules by which it is (slot.begin, slot.settle,
// Proxy.grace):
//
//	session 1: SET k, no rule: no counter is raised; sent
//	reload:    a rule for k
//	session 2: GET k, fetched before the SET, stored
//	session 1: +OK
//	session 1: GET k, a hit: older than its own write
//
// So a slot that is settled under another generation than it was decided under
// outdates everything before its client is answered; one that is begun so counts
// as writing everything; and from before the swap until all that was under way then
// is answered, nothing is a hit or is stored.
//
// Sessions in MULTI or under WATCH keep their rules to the end of it: half a
// transaction must not go to another database.
type ruleset struct {
	gen     uint64 // the same in two rulesets that have the same rules
	cfg     Config
	rules   *policy.Rules
	policy  *policy.Policy
	refills refills
	limits  clientLimits // of one client

	fences        policy.Fence // which ones are configured
	fenceMessages bool
	auditRate     float64 // of hits audited, as the rate of an exponential distribution; 0: off
}

// spareRules is how many rules a process can get to know beside those that it
// started with: rule ids are never used for another rule.
const spareRules = 1024

// newRuleset makes the ruleset of a complete configuration. old is the one that it
// follows, nil for the first.
func (p *Proxy) newRuleset(cfg Config, old *ruleset) (*ruleset, error) {
	set := &ruleset{cfg: cfg, gen: 1}
	rules, err := policy.NewRules(cfg.LocksDB, cfg.CacheDB, cfg.Rules)
	if err != nil {
		return nil, err
	}
	set.rules = rules
	if old == nil {
		p.ids = ruleIDs{known: map[ruleName]int{}, most: len(cfg.Rules) + spareRules}
	}
	if err := p.ids.number(rules); err != nil {
		return nil, err
	}
	if old == nil {
		set.policy = policy.New(rules, policy.Options{HashFieldTTL: true, Deny: cfg.Deny}) // until the origin's version is known
		set.refills = make(refills, cfg.Refills)
	} else {
		set.policy = old.policy.With(rules, cfg.Deny)
		if set.refills = old.refills; cap(set.refills) != cfg.Refills {
			set.refills = make(refills, cfg.Refills) // permits go back to where they are from
		}
		if set.gen = old.gen; !sameRules(old.rules, rules) {
			set.gen++
		}
	}
	for _, f := range cfg.Fence {
		switch f {
		case "locks":
			set.fences |= policy.FenceLock
		case "scripts":
			set.fences |= policy.FenceScript
		case "messages":
			set.fenceMessages = true
		}
	}
	set.limits = clientLimits{
		maxRequest: cfg.MaxRequest, maxOutstanding: cfg.MaxOutstanding, replyBuffer: cfg.ReplyBuffer,
		requestTimeout: cfg.RequestTimeout, writeTimeout: cfg.WriteTimeout, idleTimeout: cfg.IdleTimeout,
	}
	set.auditRate = p.auditRate(cfg.Audit)
	return set, nil
}

// ruleName is what makes a rule the same one in two configurations.
type ruleName struct {
	kind   policy.Kind
	prefix string
}

func nameOf(r *policy.Rule) ruleName { return ruleName{r.Kind, r.Prefix} }

// ruleIDs remembers the ids of all rules there have ever been. A rule that comes back
// gets its id back, and its counters with it. Reloads alone use it, one at a time.
type ruleIDs struct {
	known map[ruleName]int
	most  int // ids, from 1
}

// number gives the rules their ids, or none if there are too few left.
func (i *ruleIDs) number(rules *policy.Rules) error {
	fresh := 0
	for _, r := range rules.All() {
		if i.known[nameOf(r)] == 0 {
			fresh++
		}
	}
	if len(i.known)+fresh > i.most {
		return fmt.Errorf("nearside has known %d different rules since it was started and can know %d: %d new ones need a restart", len(i.known), i.most, fresh)
	}
	rules.Number(func(r *policy.Rule) int {
		id := i.known[nameOf(r)]
		if id == 0 {
			id = len(i.known) + 1
			i.known[nameOf(r)] = id
		}
		return id
	})
	return nil
}

// current is the ruleset in force.
func (p *Proxy) current() *ruleset { return p.set.Load() }

// rules are the rules in force. What a request was decided by is its session's set.
func (p *Proxy) rules() *policy.Rules { return p.current().rules }

// conf is the configuration in force; what cannot change without a restart is in
// p.cfg as well.
func (p *Proxy) conf() *Config { return &p.current().cfg }

// adopt makes the session follow the ruleset in force, unless it is in the middle
// of something that must be of one piece.
func (s *session) adopt() {
	set := s.p.current()
	if set == s.set || s.tx.open || s.watching {
		return
	}
	s.set = set
	s.frames.bound(set.limits.maxRequest, set.cfg.Buffers)
	s.sampler = sampler{} // it may have been off
}

// outdated tells whether the rules are others than those the slot's request was decided by.
func (sl *slot) outdated() bool { return sl.gen != sl.s.p.current().gen }

package policy

// Why says why the answer to a command has no part in the near cache, as far as
// the command and the rules decide that.
type Why uint8

// The reasons. Where several hold, the first of them.
const (
	WhyCached       Why = iota // it has: RouteCache
	WhyLocal                   // RouteLocal
	WhyRefused                 // RouteRefused
	WhyWrite                   // it may change something
	WhyNoRule                  // a key lies under no rule
	WhyLockRule                // a key lies under a lock rule
	WhyOtherDB                 // a key's rule does not hold in the session's database
	WhyNotCacheable            // its answer depends on more than its arguments and one stored value
	WhyHashFieldTTL            // a field of the hash may expire by itself
	WhyNotListed               // the rule's commands do not name it
	Whys                       // their number
)

// Why explains the Decision d that Decide has made for args at sessionDB.
func (p *Policy) Why(d *Decision, sessionDB int, args [][]byte) Why {
	c := d.Cmd
	switch {
	case d.Route == RouteCache:
		return WhyCached
	case d.Route == RouteLocal:
		return WhyLocal
	case d.Route == RouteRefused:
		return WhyRefused
	case c == nil, d.Effect != 0:
		return WhyWrite
	case len(d.Keys) == 0:
		return WhyNotCacheable
	}
	for i := range d.Keys {
		if rule := d.Keys[i].Rule; rule == nil || rule.Kind != CacheRule {
			return p.whyNot(rule, args[d.Keys[i].Pos])
		}
	}
	switch {
	case !c.Cache, len(d.Keys) > 1 && c.quirk != quirkMGet:
		return WhyNotCacheable
	case c.Hash && p.hashTTL.Load():
		return WhyHashFieldTTL
	case !d.Keys[0].Rule.keeps(c), len(d.Keys) > 1 && c.quirk == quirkMGet:
		return WhyNotListed
	}
	return WhyNotCacheable
}

// whyNot says why a key is not under a cache rule; rule is the one that holds.
func (p *Policy) whyNot(rule *Rule, key []byte) Why {
	if rule != nil {
		return WhyLockRule
	}
	if p.rules.Match(key) != nil {
		return WhyOtherDB
	}
	return WhyNoRule
}

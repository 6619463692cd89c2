package proxy

import "nearside/policy"

// bypassOf is the metrics' reason for what policy says of a read, from WhyNoRule on.
var bypassOf = [policy.Whys]bypassReason{
	policy.WhyNoRule:       bypassNoRule,
	policy.WhyLockRule:     bypassLockRule,
	policy.WhyOtherDB:      bypassOtherDB,
	policy.WhyNotCacheable: bypassNotCacheable,
	policy.WhyHashFieldTTL: bypassHashFieldTTL,
	policy.WhyNotListed:    bypassNotListed,
}

// passed collects what a session's commands with keys, all but the cached reads,
// are to count, between two flushes: it is on their path and touches nothing that
// sessions share.
type passed struct {
	reads [policy.Whys]uint32
	any   bool
}

// note looks at the command at hand.
func (c *passed) note(s *session) {
	d := &s.d
	if d.Cmd == nil || s.health {
		return
	}
	if d.Effect == 0 && d.Cmd.Flags.Has(policy.FlagReadonly) {
		c.reads[s.set.policy.Why(d, s.db, s.args)]++
		c.any = true
	}
	if d.Keys[0].Rule == nil && d.Effect&policy.WritesUnnamed == 0 && (s.db == 0 || s.db == s.p.cfg.CacheDB) && unmatchedPick() {
		if key := s.args[d.Keys[0].Pos]; s.set.rules.Match(key) == nil { // there may be one that does not hold here
			s.p.unmatched.sample(key)
		}
	}
}

func (c *passed) flush(s *session) {
	if !c.any {
		return
	}
	for why := policy.WhyNoRule; why < policy.Whys; why++ {
		if n := c.reads[why]; n > 0 {
			s.p.m.bypassed[bypassOf[why]].AddInt64(int64(n))
		}
	}
	c.reads, c.any = [policy.Whys]uint32{}, false
}

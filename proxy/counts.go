package proxy

import (
	"nearside/policy"
	"nearside/proxy/admin"
	"nearside/proxy/l1"
	"nearside/proxy/link"
)

// What a session counts of its reads.

// cacheMeters are those of the cache rules in force, in their order.
func (p *Proxy) cacheMeters() (all []*ruleMeters) {
	for _, r := range p.rules().All() {
		if r.Kind == policy.CacheRule {
			all = append(all, p.m.rule(r.ID))
		}
	}
	return all
}

// bypass counts a read under a cache rule that the near cache had no part in; of
// an MGET the first key's rule counts it.
func (s *session) bypass(reason bypassReason) {
	for i := range s.d.Keys {
		if r := s.d.Keys[i].Rule; r != nil && r.Kind == policy.CacheRule {
			s.p.m.rule(r.ID).bypassed[reason].Inc()
			return
		}
	}
}

// countsOf are a rule's counts as the admin address shows them.
func countsOf(r *ruleMeters) admin.Counts {
	return admin.NewCounts(r.hits.Get(), r.misses.Get(), r.sets.Get(), r.dels.Get())
}

// meterLabels are the names that the near cache, the link and the auditor have for what is counted.
func meterLabels() labels {
	l := labels{auditResults: auditNames[:], sources: []string{sourceOperator, sourceRights, sourceReload}}
	for r := range l1.Misses {
		name := ""
		if r != l1.Hit {
			name = r.String()
		}
		l.misses = append(l.misses, name)
	}
	for _, cause := range link.Causes() {
		l.sources = append(l.sources, cause.String())
	}
	return l
}

package proxy

import (
	"fmt"
	"strings"
	"time"

	"nearside/policy"
)

// infoText is the section that INFO gets: "# Nearside" and its fields.
func (p *Proxy) infoText() string {
	now := clockNow()
	var b strings.Builder
	line := func(name string, value any) { fmt.Fprintf(&b, "%s:%v\r\n", name, value) }
	b.WriteString("# Nearside\r\n")
	line("nearside_version", p.cfg.Version)
	line("nearside_uptime_in_seconds", int64(time.Since(p.begun).Seconds()))
	line("nearside_origin", p.origin.Addr())
	line("nearside_locks_db", p.cfg.LocksDB)
	line("nearside_cache_db", p.cfg.CacheDB)
	line("nearside_connected_clients", p.clients.Load())
	line("nearside_max_clients", p.conf().MaxClients)
	line("nearside_buffer_bytes", p.budget.used.Load())
	line("nearside_buffer_limit", p.budget.max.Load())

	line("link_source", p.link.Source())
	line("link_state", p.link.State())
	if d, ok := p.link.Bound(now); ok {
		line("link_staleness_bound_ms", fmt.Sprintf("%.3f", float64(d)/float64(time.Millisecond)))
	} else {
		line("link_staleness_bound_ms", "unknown")
	}
	line("link_max_staleness_ms", p.conf().MaxStaleness.Milliseconds())
	ls := p.link.Stats()
	line("link_proof_pings", ls.Steps)
	if ls.WhySteps != "" {
		line("link_proof_reason", ls.WhySteps)
	}
	line("link_reconnects", ls.Reconnects)
	line("link_invalidations", ls.Keys+ls.Events+ls.Messages)
	line("link_keys", ls.Keys)
	line("link_events", ls.Events)
	line("link_messages", ls.Messages)
	line("link_flushes", ls.Nulls)
	line("link_silent_commands", ls.Silents)
	if ls.Down != "" && ls.Down != ls.Silent {
		line("link_error", ls.Down)
	}
	if ls.Silent != "" {
		line("link_note", ls.Silent)
	}
	line("link_fences", ls.Fences)

	line("users_sessions", p.users.acting())
	line("users_rights", p.users.state(now))

	cs := p.l1.Stats()
	line("cache_entries", cs.Entries)
	line("cache_bytes", cs.Bytes)
	line("cache_memory", p.conf().Memory)
	line("cache_evictions", cs.Evicted)
	var hits, misses uint64
	for _, r := range p.cacheMeters() {
		hits += r.hits.Get()
		misses += r.misses.Get()
	}
	line("cache_hits", hits)
	line("cache_misses", misses)
	line("cache_hit_rate", fmt.Sprintf("%.2f", percent(hits, hits+misses)))

	os := p.origin.Stats()
	line("origin_connections", os.Shared+os.Pinned+os.Idle)
	line("origin_pinned", os.Pinned)
	line("origin_outstanding", os.Outstanding)
	line("origin_dial_errors", os.DialErrors)
	line("origin_lost_connections", os.Lost)
	return b.String()
}

// rulesText has one line per cache rule, in the manner of INFO's keyspace section.
func (p *Proxy) rulesText() string {
	var b strings.Builder
	b.WriteString("# Rules\r\n")
	for _, r := range p.rules().All() {
		if r.Kind == policy.LockRule {
			fmt.Fprintf(&b, "lock_rule:prefix=%q,db=%d\r\n", r.Prefix, p.cfg.LocksDB)
			continue
		}
		m := countsOf(p.m.rule(r.ID))
		fmt.Fprintf(&b, "cache_rule:prefix=%q,db=%d,ttl=%s,hits=%d,misses=%d,hit_rate=%.2f,sets=%d,dels=%d\r\n",
			r.Prefix, p.cfg.CacheDB, r.TTL, m.Hits, m.Misses, m.HitRate, m.Sets, m.Dels)
	}
	return b.String()
}

func percent(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

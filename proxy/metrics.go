package proxy

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"

	"nearside/policy"
	"nearside/proxy/admin"
	"nearside/proxy/l1"
	"nearside/proxy/link"
)

// bypassReason says why a read under a cache rule had no part in the near cache.
type bypassReason uint8

const (
	bypassDown     bypassReason = iota // the link is down
	bypassStale                        // the proof of freshness is too old
	bypassFence                        // a fence did not pass in time
	bypassOrder                        // it follows a write of the same session on the same connection
	bypassPinned                       // WATCH or CLIENT TRACKING is in force
	bypassUser                         // the user's rights are not proven, or it may not run the fetch
	bypassAudit                        // the auditor has taken the rule out of the cache
	bypassMulti                        // inside MULTI
	bypassTooLarge                     // the request is longer than what is kept
	bypassTooMany                      // an MGET of too many keys

	// By the command and the rules: see policy.Why.
	bypassNoRule
	bypassLockRule
	bypassOtherDB
	bypassNotCacheable
	bypassHashFieldTTL
	bypassNotListed
	bypassReasons
)

var bypassNames = [bypassReasons]string{
	"link_down", "stale", "fence", "order", "pinned", "user", "audit", "multi", "too_large", "too_many_keys",
	"no_rule", "lock_rule", "other_db", "not_cacheable", "hash_field_ttl", "command_not_listed",
}

func (r bypassReason) String() string { return bypassNames[r] }

// Where an invalidation came from, beside the causes that the link knows.
const (
	sourceOperator = "operator"
	sourceRights   = "acl"
	sourceReload   = "reload"
)

// meters are what nearside counts. What each metric means stands in families.
type meters struct {
	set *metrics.Set

	accepted, rejected          *metrics.Counter
	protocolErrors, timedOut    *metrics.Counter
	tlsErrors                   *metrics.Counter
	readErrors, writeErrors     *metrics.Counter
	slowClosed, authFailures    *metrics.Counter
	local, refused, localErrors *metrics.Counter
	originErrors                *metrics.Counter
	fetches, tooLarge           *metrics.Counter
	fenceWaits, syncWaits       *metrics.Counter
	refillWaits                 *metrics.Counter
	auditSamples                *metrics.Counter
	audited                     [auditResults]*metrics.Counter
	misses                      [l1.Misses]*metrics.Counter
	bypassed                    [bypassReasons]*metrics.Counter // from bypassNoRule on
	invalidations               map[string]*metrics.Counter
	published, publishErrors    *metrics.Counter
	reloads, reloadsRefused     *metrics.Counter
	byID                        []atomic.Pointer[ruleMeters] // by rule id, spare ones included; nil for lock rules
}

// ruleMeters count what one cache rule did.
type ruleMeters struct {
	prefix                   string
	hits, misses, sets, dels *metrics.Counter
	negative, coalesced      *metrics.Counter
	evictions, stale         *metrics.Counter
	inconsistent             *metrics.Counter
	bypassed                 [bypassNoRule]*metrics.Counter
}

func (r *ruleMeters) snapshot() admin.Counts {
	return admin.NewCounts(r.hits.Get(), r.misses.Get(), r.sets.Get(), r.dels.Get())
}

// newMeters counts nothing yet; ids is the highest rule id that there will ever be.
func newMeters(ids int) *meters {
	set := metrics.NewSet()
	c := set.NewCounter
	m := &meters{
		set:            set,
		accepted:       c("nearside_clients_accepted_total"),
		rejected:       c("nearside_clients_rejected_total"),
		protocolErrors: c("nearside_protocol_errors_total"),
		tlsErrors:      c("nearside_tls_handshake_errors_total"),
		timedOut:       c("nearside_client_timeouts_total"),
		readErrors:     c("nearside_client_read_errors_total"),
		writeErrors:    c("nearside_client_write_errors_total"),
		slowClosed:     c("nearside_slow_clients_closed_total"),
		authFailures:   c("nearside_auth_failures_total"),
		local:          c("nearside_local_commands_total"),
		refused:        c("nearside_refused_commands_total"),
		localErrors:    c("nearside_error_replies_total"),
		originErrors:   c("nearside_origin_errors_total"),
		fetches:        c("nearside_cache_fetches_total"),
		tooLarge:       c("nearside_cache_too_large_total"),
		fenceWaits:     c("nearside_fence_waits_total"),
		syncWaits:      c("nearside_fenced_reads_waited_total"),
		refillWaits:    c("nearside_refill_waits_total"),
		auditSamples:   c("nearside_audit_samples_total"),
		invalidations:  map[string]*metrics.Counter{},
		reloads:        c(`nearside_reloads_total{result="ok"}`),
		reloadsRefused: c(`nearside_reloads_total{result="refused"}`),
		published:      c("nearside_link_published_total"),
		publishErrors:  c("nearside_link_publish_errors_total"),
	}
	for r := bypassNoRule; r < bypassReasons; r++ {
		m.bypassed[r] = c(fmt.Sprintf("nearside_cache_bypassed_total{reason=%q}", r))
	}
	for r := range auditResults {
		m.audited[r] = c(fmt.Sprintf("nearside_audit_total{result=%q}", r))
	}
	for r := range l1.Misses {
		if r != l1.Hit {
			m.misses[r] = c(fmt.Sprintf("nearside_cache_lookup_misses_total{reason=%q}", r))
		}
	}
	sources := []string{sourceOperator, sourceRights, sourceReload}
	for _, cause := range link.Causes() {
		sources = append(sources, cause.String())
	}
	for _, source := range sources {
		m.invalidations[source] = c(fmt.Sprintf("nearside_invalidations_total{source=%q}", source))
	}
	m.byID = make([]atomic.Pointer[ruleMeters], ids+1)
	return m
}

// follow has meters for the cache rules. Those of rules that are gone stay: a counter
// does not go back.
func (m *meters) follow(rules *policy.Rules, held func(rule int) (entries, bytes int64)) {
	for _, r := range rules.All() {
		if r.Kind != policy.CacheRule || m.byID[r.ID].Load() != nil {
			continue
		}
		c, label := m.set.GetOrCreateCounter, "{prefix="+labelValue(r.Prefix)+"}" // what is no UTF-8 may look alike
		rm := &ruleMeters{
			prefix:    r.Prefix,
			hits:      c("nearside_cache_hits_total" + label),
			negative:  c("nearside_cache_negative_hits_total" + label),
			coalesced: c("nearside_cache_coalesced_total" + label),
			misses:    c("nearside_cache_misses_total" + label),
			sets:      c("nearside_cache_sets_total" + label),
			dels:      c("nearside_cache_dels_total" + label),
			evictions: c("nearside_cache_evictions_total" + label),
			stale:     c("nearside_cache_stale_served_total" + label),

			inconsistent: c("nearside_audit_inconsistent_total" + label),
		}
		for reason := range bypassNoRule {
			rm.bypassed[reason] = c(fmt.Sprintf("nearside_cache_bypassed_total{prefix=%s,reason=%q}", labelValue(r.Prefix), reason))
		}
		id := r.ID
		m.set.GetOrCreateGauge("nearside_cache_entries"+label, func() float64 { entries, _ := held(id); return float64(entries) })
		m.set.GetOrCreateGauge("nearside_cache_bytes"+label, func() float64 { _, bytes := held(id); return float64(bytes) })
		m.byID[r.ID].Store(rm)
	}
}

// gauges adds what is read off the proxy's parts when somebody asks.
func (m *meters) gauges(p *Proxy) {
	g := func(name string, f func() float64) { m.set.NewGauge(name, f) }
	g("nearside_clients", func() float64 { return float64(p.clients.Load()) })
	g("nearside_buffer_bytes", func() float64 { return float64(p.budget.used.Load()) })
	g("nearside_buffer_limit_bytes", func() float64 { return float64(p.budget.max.Load()) })
	g(fmt.Sprintf("nearside_build_info{version=%s,goversion=%q}", labelValue(p.cfg.Version), runtime.Version()), func() float64 { return 1 })
	g("nearside_outstanding_replies", func() float64 { return float64(p.outstandingReplies()) })
	g("nearside_cache_limit_bytes", func() float64 { return float64(p.conf().Memory) })
	g("nearside_audit_rules_out", func() float64 { return float64(p.quarantine.count.Load()) })
	g("nearside_config_last_reload_successful", func() float64 { return one(!p.reload.refused.Load()) })
	g("nearside_link_up", func() float64 {
		if v := p.link.Verdict(clockNow()); v == link.OK || v == link.Fenced {
			return 1
		}
		return 0
	})
	g("nearside_staleness_bound_seconds", func() float64 {
		d, known := p.link.Bound(clockNow())
		if !known {
			return -1
		}
		return d.Seconds()
	})
	g("nearside_max_staleness_seconds", func() float64 { return p.conf().MaxStaleness.Seconds() })
	for _, source := range []string{link.ModeTracking, link.ModeKeyspace, link.ModeNone, link.ModeEmbedded} {
		g(fmt.Sprintf("nearside_link_source{source=%q}", source), func() float64 { return one(p.link.Source() == source) })
	}
	for _, state := range link.States() {
		g(fmt.Sprintf("nearside_link_state{state=%q}", state), func() float64 { return one(p.link.State() == state) })
	}
	g("nearside_link_blind", func() float64 { return one(p.link.Stats().Silent != "") })
	for cause, count := range map[link.Cause]func(link.Stats) uint64{
		link.Tracking: func(s link.Stats) uint64 { return s.Keys },
		link.Keyspace: func(s link.Stats) uint64 { return s.Events },
		link.Message:  func(s link.Stats) uint64 { return s.Messages },
		link.Flush:    func(s link.Stats) uint64 { return s.Nulls },
		link.Silent:   func(s link.Stats) uint64 { return s.Silents },
	} {
		g(fmt.Sprintf("nearside_link_received_total{source=%q}", cause), func() float64 { return float64(count(p.link.Stats())) })
	}
	g("nearside_link_proof_pings", func() float64 { return float64(p.link.Stats().Steps) })
	g("nearside_link_round_trip_seconds", func() float64 { return p.link.Stats().RoundTrip.Seconds() })
	g("nearside_link_reconnects_total", func() float64 { return float64(p.link.Stats().Reconnects) })
	g("nearside_fences_total", func() float64 { return float64(p.link.Stats().Fences) })
	g("nearside_origin_connections", func() float64 {
		s := p.origin.Stats()
		return float64(s.Shared + s.Locks + s.Pinned + s.Idle)
	})
	g("nearside_origin_pinned_connections", func() float64 { return float64(p.origin.Stats().Pinned) })
	g("nearside_origin_outstanding", func() float64 { return float64(p.origin.Stats().Outstanding) })
	g("nearside_origin_dial_errors_total", func() float64 { return float64(p.origin.Stats().DialErrors) })
	g("nearside_origin_lost_connections_total", func() float64 { return float64(p.origin.Stats().Lost) })
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func (m *meters) rule(id int) *ruleMeters { return m.byID[id].Load() }

// all are the meters of all cache rules that there have ever been.
func (m *meters) all() (all []*ruleMeters) {
	for i := range m.byID {
		if rm := m.byID[i].Load(); rm != nil {
			all = append(all, rm)
		}
	}
	return all
}

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

func (m *meters) missed(r l1.Miss) { m.misses[r].Inc() }

func (m *meters) invalidated(source string) { m.invalidations[source].Inc() }

// outstandingReplies is the number of requests whose replies clients wait for.
func (p *Proxy) outstandingReplies() (n int) {
	for _, s := range p.sessionList() {
		s.q.mu.Lock()
		n += s.q.n
		s.q.mu.Unlock()
	}
	return n
}

// ruleCounts collects a session's hits between two flushes, so that the
// counters that all sessions share are touched once per batch.
type ruleCounts struct {
	rule     *policy.Rule
	hits     uint64
	negative uint64  // of hits: "no such key"
	audit    sampler // picks hits for the auditor
}

func (c *ruleCounts) hit(s *session, rule *policy.Rule, e *l1.Entry) {
	if c.rule != rule {
		c.flush(s)
		c.rule = rule
	}
	c.hits++
	if e.Negative() {
		c.negative++
	}
}

func (c *ruleCounts) flush(s *session) {
	if c.hits > 0 {
		if !s.health {
			m := s.p.m.rule(c.rule.ID)
			m.hits.AddInt64(int64(c.hits))
			if c.negative > 0 {
				m.negative.AddInt64(int64(c.negative))
			}
		}
		c.hits, c.negative = 0, 0
	}
}

func (c *ruleCounts) missed(s *session, keys []policy.Key) {
	for i := range keys {
		if r := keys[i].Rule; r != nil && r.Kind == policy.CacheRule && !s.health {
			s.p.m.rule(r.ID).misses.Inc()
		}
	}
}

// wrote counts a write to a key under a cache rule.
func (c *ruleCounts) wrote(s *session, rule *policy.Rule, cmd *policy.Command) {
	if s.health {
		return
	}
	if cmd != nil && (cmd.Name == "del" || cmd.Name == "unlink" || strings.HasPrefix(cmd.Name, "getdel")) {
		s.p.m.rule(rule.ID).dels.Inc()
	} else {
		s.p.m.rule(rule.ID).sets.Inc()
	}
}

// held is what the near cache holds under a rule.
func (p *Proxy) held(rule int) (entries, bytes int64) { return p.l1.Held(rule) }

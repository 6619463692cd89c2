package proxy

import (
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"

	"nearside/policy"
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
	bypassFull                         // the origin's memory is full and it refuses reads inside MULTI
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
	"link_down", "stale", "fence", "order", "pinned", "user", "audit", "origin_full", "multi", "too_large", "too_many_keys",
	"no_rule", "lock_rule", "other_db", "not_cacheable", "hash_field_ttl", "command_not_listed",
}

func (r bypassReason) String() string { return bypassNames[r] }

// meters are what nearside counts. What each metric means stands in families.
type meters struct {
	set     *metrics.Set
	latency latency

	accepted, rejected          *metrics.Counter
	protocolErrors, timedOut    *metrics.Counter
	tlsErrors                   *metrics.Counter
	readErrors, writeErrors     *metrics.Counter
	slowClosed, authFailures    *metrics.Counter
	local, refused, localErrors *metrics.Counter
	private                     *metrics.Counter
	originErrors                *metrics.Counter
	fetches, tooLarge           *metrics.Counter
	fenceWaits, syncWaits       *metrics.Counter
	refillWaits                 *metrics.Counter
	auditSamples                *metrics.Counter
	audited                     []*metrics.Counter // by the verifier's result
	misses                      []*metrics.Counter
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

// labels are the values of labels that other packages give names to.
type labels struct {
	auditResults []string
	misses       []string // by the number of the reason; "" is none
	sources      []string // of invalidations
}

// newMeters counts nothing yet; ids is the highest rule id that there will ever be.
func newMeters(ids int, l labels) *meters {
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
		private:        c("nearside_private_commands_total"),
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
	for _, result := range l.auditResults {
		m.audited = append(m.audited, c(fmt.Sprintf("nearside_audit_total{result=%q}", result)))
	}
	for _, reason := range l.misses {
		var counter *metrics.Counter
		if reason != "" {
			counter = c(fmt.Sprintf("nearside_cache_lookup_misses_total{reason=%q}", reason))
		}
		m.misses = append(m.misses, counter)
	}
	for _, source := range l.sources {
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

// gauge has a value read off by f when somebody asks.
func (m *meters) gauge(name string, f func() float64) { m.set.NewGauge(name, f) }

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

func (m *meters) missed(reason int) { m.misses[reason].Inc() }

func (m *meters) invalidated(source string) { m.invalidations[source].Inc() }

// ruleCounts collects a session's hits between two flushes, so that the
// counters that all sessions share are touched once per batch.
type ruleCounts struct {
	m        *meters
	off      bool // nothing is counted
	rule     *policy.Rule
	hits     uint64
	negative uint64 // of hits: "no such key"
}

func (c *ruleCounts) hit(rule *policy.Rule, negative bool) {
	if c.rule != rule {
		c.flush()
		c.rule = rule
	}
	c.hits++
	if negative {
		c.negative++
	}
}

func (c *ruleCounts) flush() {
	if c.hits > 0 {
		if !c.off {
			m := c.m.rule(c.rule.ID)
			m.hits.AddInt64(int64(c.hits))
			if c.negative > 0 {
				m.negative.AddInt64(int64(c.negative))
			}
		}
		c.hits, c.negative = 0, 0
	}
}

func (c *ruleCounts) missed(keys []policy.Key) {
	for i := range keys {
		if r := keys[i].Rule; r != nil && r.Kind == policy.CacheRule && !c.off {
			c.m.rule(r.ID).misses.Inc()
		}
	}
}

// wrote counts a write to a key under a cache rule.
func (c *ruleCounts) wrote(rule *policy.Rule, cmd *policy.Command) {
	if c.off {
		return
	}
	if cmd != nil && (cmd.Name == "del" || cmd.Name == "unlink" || strings.HasPrefix(cmd.Name, "getdel")) {
		c.m.rule(rule.ID).dels.Inc()
	} else {
		c.m.rule(rule.ID).sets.Inc()
	}
}

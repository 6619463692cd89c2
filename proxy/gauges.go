package proxy

import (
	"fmt"
	"io"
	"runtime"

	"nearside/proxy/link"
)

// WriteMetrics writes all metrics in Prometheus's text form.
func (p *Proxy) WriteMetrics(w io.Writer) { p.m.write(w) }

// gauges adds what is read off the proxy's parts when somebody asks.
func (p *Proxy) gauges() {
	g := p.m.gauge
	g("nearside_log_lines_lost_total", func() float64 {
		if p.cfg.LogLost == nil {
			return 0
		}
		return float64(p.cfg.LogLost())
	})
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

// outstandingReplies is the number of requests whose replies clients wait for.
func (p *Proxy) outstandingReplies() (n int) {
	for _, s := range p.sessionList() {
		s.q.mu.Lock()
		n += s.q.n
		s.q.mu.Unlock()
	}
	return n
}

// held is what the near cache holds under a rule.
func (p *Proxy) held(rule int) (entries, bytes int64) { return p.l1.Held(rule) }

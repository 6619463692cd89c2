package proxy

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"nearside/proxy/admin"
)

// reporter logs what each cache rule did in an interval, and keeps the counts of
// the current window of time and of the last one. Counters only grow: what was
// done in some time is the difference of two looks at them.
type reporter struct {
	p *Proxy

	mu         sync.Mutex
	reported   time.Time               // of the last report
	atReport   map[string]admin.Counts // then, by prefix; a rule that is not there began with nothing
	begun      time.Time               // of the current window: its beginning, or nearside's
	atWindow   map[string]admin.Counts // then
	last       map[string]admin.Counts // what the last window counted; nil: there was none
	lastBegun  time.Time
	lastEnded  time.Time
	interval   time.Duration // of reports; not above 0: none
	windowSize time.Duration
}

func (r *reporter) init(p *Proxy, now time.Time) {
	*r = reporter{p: p, reported: now, begun: now, interval: p.conf().Report, windowSize: p.conf().Window}
	r.atReport = r.counts()
	r.atWindow = r.atReport
}

// counts are the counts of now, by prefix. Rules that a reload has taken away are among
// them: one that comes back has its counters still, and what it had counted before is not
// to be counted again.
func (r *reporter) counts() map[string]admin.Counts {
	rules := r.p.m.all()
	all := make(map[string]admin.Counts, len(rules))
	for _, rule := range rules {
		all[rule.prefix] = countsOf(rule)
	}
	return all
}

// run does what is due, when it is due.
func (r *reporter) run(ctx context.Context) {
	for {
		timer := time.NewTimer(time.Until(r.due(time.Now())))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			r.advance(time.Now())
		}
	}
}

// due is when there is something to do next. It looks once a minute at least,
// since the wall clock may be set.
func (r *reporter) due(now time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := now.Add(time.Minute)
	if end := r.windowEnd(now); end.Before(next) {
		next = end
	}
	if report := r.reported.Add(r.interval); r.interval > 0 && report.Before(next) {
		next = report
	}
	return next
}

// windowEnd is the end of the window that a time lies in.
func (r *reporter) windowEnd(now time.Time) time.Time {
	return now.Truncate(r.windowSize).Add(r.windowSize)
}

// advance reports and begins a new window, as far as that is due.
func (r *reporter) advance(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := r.counts()
	r.roll(now, counts)
	if took := now.Sub(r.reported); r.interval > 0 && took >= r.interval {
		r.report(took, counts)
		r.reported, r.atReport = now, counts
	}
}

// roll begins a new window if the current one is over. A clock that was set back
// leaves it as it is until the time comes again.
func (r *reporter) roll(now time.Time, counts map[string]admin.Counts) {
	start := now.Truncate(r.windowSize)
	if !start.After(r.begun) {
		return
	}
	r.last = make(map[string]admin.Counts, len(counts))
	for prefix, c := range counts {
		r.last[prefix] = c.Less(r.atWindow[prefix])
	}
	r.lastBegun, r.lastEnded = r.begun, start
	r.begun, r.atWindow = start, counts
}

// report logs one line for every rule that was used.
func (r *reporter) report(took time.Duration, counts map[string]admin.Counts) {
	for _, rule := range r.p.cacheMeters() {
		total := counts[rule.prefix]
		c := total.Less(r.atReport[rule.prefix])
		if c == (admin.Counts{}) {
			continue
		}
		r.p.log.Info("cache report", append([]any{"prefix", rule.prefix, "interval", took.Round(time.Second)},
			append(countAttrs(c), slog.Group("since_start", countAttrs(total)...))...)...)
	}
}

func countAttrs(c admin.Counts) []any {
	rate := float64(int64(c.HitRate*100+0.5)) / 100
	return []any{"hit_rate", rate, "hits", c.Hits, "misses", c.Misses, "sets", c.Sets, "dels", c.Dels}
}

// metrics is what each cache rule in force did, by its name.
func (r *reporter) metrics(now time.Time) map[string]admin.RuleMetrics {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := r.counts()
	r.roll(now, counts)
	rules := r.p.cacheMeters()
	prefixes := make([]string, len(rules))
	for i, rule := range rules {
		prefixes[i] = rule.prefix
	}
	names := admin.RuleNames(prefixes)
	all := make(map[string]admin.RuleMetrics, len(rules))
	for i, prefix := range prefixes {
		c := counts[prefix]
		m := admin.RuleMetrics{Counts: c, CurrentHour: &admin.Window{
			Since: r.begun.UTC().Truncate(time.Second), Until: r.windowEnd(r.begun).UTC(), Counts: c.Less(r.atWindow[prefix]),
		}}
		if r.last != nil {
			m.LastHour = &admin.Window{Since: r.lastBegun.UTC().Truncate(time.Second), Until: r.lastEnded.UTC(), Counts: r.last[prefix]}
		}
		all[names[i]] = m
	}
	return all
}

// CacheMetrics is what each cache rule did, by its name.
func (p *Proxy) CacheMetrics() map[string]admin.RuleMetrics { return p.reporter.metrics(time.Now()) }

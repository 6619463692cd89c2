package proxy

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"nearside/policy"
)

// quarantine holds the rules that the auditor has taken out of the cache.
// Their reads pass through until an operator puts them back: the auditor cannot
// know whether the cause is gone.
type quarantine struct {
	mu    sync.Mutex     // of changes
	out   []atomic.Int64 // by rule id, spare ones included: Unix time in nanoseconds when it was taken out; 0: it is in the cache
	count atomic.Int64
}

func (q *quarantine) init(ids int) { q.out = make([]atomic.Int64, ids+1) }

// holds tells whether any of the keys lies under a rule that was taken out.
func (q *quarantine) holds(keys []policy.Key) bool {
	if q.count.Load() == 0 { // as nearly always
		return false
	}
	for i := range keys {
		if r := keys[i].Rule; r != nil && q.out[r.ID].Load() != 0 {
			return true
		}
	}
	return false
}

// since is when a rule was taken out.
func (q *quarantine) since(rule int) (at time.Time, out bool) {
	ns := q.out[rule].Load()
	return time.Unix(0, ns), ns != 0
}

// takeOut ends hits of a rule before it returns, but for those being answered
// just now.
func (p *Proxy) takeOut(rule *policy.Rule) {
	q := &p.quarantine
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.out[rule.ID].CompareAndSwap(0, time.Now().UnixNano()) {
		q.count.Add(1)
	}
	// Afterwards, so that a session which has passed the check finds nothing.
	p.l1.InvalidateRule(rule.ID, fromAudit)
}

// restore puts a rule back; it reports whether it had been taken out.
func (p *Proxy) restore(rule *policy.Rule) bool {
	q := &p.quarantine
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.out[rule.ID].Load() == 0 {
		return false
	}
	// First: a fetch that had passed the check before the rule was taken out may
	// have stored its reply since.
	p.l1.InvalidateRule(rule.ID, fromOperator)
	q.out[rule.ID].Store(0)
	q.count.Add(-1)
	return true
}

// releaseGone forgets of rules that are not configured any more that they were out.
// Whoever takes a rule away and puts it back has looked at it.
func (p *Proxy) releaseGone(rules *policy.Rules) {
	q := &p.quarantine
	q.mu.Lock()
	defer q.mu.Unlock()
	for id := range q.out {
		if q.out[id].Load() != 0 && rules.ByID(id) == nil {
			q.out[id].Store(0)
			q.count.Add(-1)
		}
	}
}

// rulesOut are the rules that are out, in the order of the configuration.
func (p *Proxy) rulesOut() (out []*policy.Rule) {
	for _, r := range p.rules().All() {
		if _, is := p.quarantine.since(r.ID); is {
			out = append(out, r)
		}
	}
	return out
}

// auditNote says in the health check what an operator should do; "" without a cause.
func (p *Proxy) auditNote() string {
	var names []string
	for _, r := range p.rulesOut() {
		names = append(names, fmt.Sprintf("%q", r.Prefix))
	}
	if len(names) == 0 {
		return ""
	}
	return "the auditor has taken rules out of the cache, NEARSIDE AUDIT tells more: " + strings.Join(names, ", ")
}

// auditCommand is NEARSIDE AUDIT [RESTORE prefix].
func (s *session) auditCommand() {
	switch {
	case len(s.args) == 2:
		if s.mayRun("nearside|audit") {
			s.replyRaw(linesReply(s.p.auditLines()))
		}
	case !policy.Is(s.args[2], "restore"):
		s.replyError(errUnknownSub("nearside", string(s.args[2])))
	case len(s.args) != 4:
		s.replyError(errArity("nearside|audit"))
	case s.mayRun("nearside|audit restore"):
		s.restoreRule(string(s.args[3]))
	}
}

func (s *session) restoreRule(prefix string) {
	p := s.p
	if !s.awaitAnswers() {
		return
	}
	for _, r := range p.rules().All() {
		if r.Kind != policy.CacheRule || r.Prefix != prefix {
			continue
		}
		if !p.restore(r) {
			s.replyError(fmt.Sprintf("ERR nearside: the rule %q is not taken out of the cache", prefix))
			return
		}
		p.m.invalidated(sourceOperator)
		p.log.Info("a rule that the auditor had taken out is put back into the cache", "rule", prefix, "client", s.id)
		s.replyString(replyOK)
		return
	}
	s.replyError(fmt.Sprintf("ERR nearside: no cache rule has the prefix %q", prefix))
}

// auditLines is what NEARSIDE AUDIT says.
func (p *Proxy) auditLines() []string {
	var lines []string
	line := func(name string, value any) { lines = append(lines, fmt.Sprintf("%s:%v", name, value)) }
	switch {
	case p.audit.on():
		line("audit", "on")
	case !p.linked:
		line("audit", "off: without a link there is nothing that could be proven")
	default:
		line("audit", "off: one_in is 0")
	}
	line("one_in", p.conf().Audit.OneIn)
	line("per_second", p.conf().Audit.PerSecond)
	m := p.m
	line("samples", m.auditSamples.Get())
	line("compared", m.audited[auditEqual].Get()+m.audited[auditInconsistent].Get())
	for r := range auditResults {
		line(r.String(), m.audited[r].Get())
	}
	line("awaiting_proof", p.audit.pending.Load())
	out := p.rulesOut()
	line("rules_out", len(out))
	for _, r := range out {
		at, _ := p.quarantine.since(r.ID)
		line("rule_out", fmt.Sprintf("prefix=%q,since=%s,found=%d", r.Prefix, at.UTC().Format(time.RFC3339), p.m.rule(r.ID).inconsistent.Get()))
	}
	return lines
}

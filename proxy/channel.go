package proxy

import (
	"context"
	"strings"
	"sync/atomic"

	"nearside/policy"
	"nearside/proxy/l1"
	"nearside/proxy/link"
)

// forgetPattern forgets at least what a pattern matches: entries whose Set
// ristretto has not applied yet cannot be seen, so a pattern forgets whole rules
// rather than miss one key. It does not block.
func (p *Proxy) forgetPattern(pattern []byte, by l1.Source) {
	literal := literalPrefix(pattern)
	switch {
	case len(literal) == len(pattern):
		p.l1.Invalidate(pattern, by)
	case string(pattern) == "*":
		p.l1.InvalidateAll(by)
	default:
		for _, r := range p.rules().All() {
			if r.Kind == policy.CacheRule && (strings.HasPrefix(r.Prefix, literal) || strings.HasPrefix(literal, r.Prefix)) {
				p.l1.InvalidateRule(r.ID, by)
			}
		}
	}
}

// untold tells whether Redis says nothing of what the command does to everything,
// so that other nearsides would find out by their next check only.
func (p *Proxy) untold(cmd *policy.Command) bool {
	switch cmd.Name {
	case "swapdb":
		return p.linked
	case "flushdb", "flushall":
		return p.link.Source() == link.ModeKeyspace
	}
	return false
}

// announcer tells other nearsides to forget everything. Its zero value is ready.
type announcer struct {
	running, due atomic.Bool
}

// announce publishes "*" on the link's channel, soon: the client that caused it
// does not wait, and what comes while one message is under way shares the next.
func (p *Proxy) announce() {
	a := &p.announcer
	a.due.Store(true)
	if p.ctx.Err() != nil || a.running.Swap(true) {
		return
	}
	p.wg.Go(func() {
		for {
			for a.due.Swap(false) {
				p.publishFlush()
			}
			a.running.Store(false)
			// Whoever came between the two lines above has found it running.
			if !a.due.Load() || a.running.Swap(true) {
				return
			}
		}
	})
}

func (p *Proxy) publishFlush() {
	ctx, cancel := context.WithTimeout(p.ctx, factsTimeout)
	defer cancel()
	if err := p.origin.Control().Publish(ctx, link.Channel, "*").Err(); err != nil {
		p.m.publishErrors.Inc()
		p.log.Debug("other nearsides could not be told to forget everything", "error", err)
		return
	}
	p.m.published.Inc()
}

package proxy

import (
	"context"
	"runtime"
	"time"

	"nearside/proxy/internal/loop"
)

// startLoops starts as many loops as leave other work room. Where there are none,
// sessions and origin connections have goroutines.
func (p *Proxy) startLoops() {
	g, err := loop.Start(p.ctx, max(1, runtime.GOMAXPROCS(0)/2))
	if err != nil {
		p.log.Debug("every connection has a goroutine of its own", "err", err)
		return
	}
	p.env.loops = g
	p.origin.UseLoops(g)
}

// closeIdle closes those sessions in the loops' care whose clients have sent nothing
// for idle_timeout; a goroutine of a session's own keeps that deadline itself. Who
// waits for an answer is not idle meanwhile.
func (p *Proxy) closeIdle(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if timeout := p.env.limits().idleTimeout; timeout > 0 {
			p.closeIdleSince(clockNow() - int64(timeout))
		}
	}
}

func (p *Proxy) closeIdleSince(then int64) {
	for _, s := range p.sessionList() {
		switch {
		case s.src == nil || !s.src.Idle() || s.active.Load() >= then:
		case s.busy():
			s.active.Store(clockNow())
		default:
			p.m.timedOut.Inc()
			s.shut()
		}
	}
}

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// Run listens and serves until ctx is done, then lets sessions finish what is
// outstanding. It returns the first error, nil after an ordinary end. Call it once.
func (p *Proxy) Run(ctx context.Context) error {
	defer p.l1.Close()
	defer p.origin.Close()
	if err := p.listen(); err != nil {
		p.closeListeners()
		p.cancel()
		return err
	}
	p.startLoops()
	failed := make(chan error, len(p.listeners)+2)
	for _, ln := range p.listeners {
		p.wg.Go(func() { failed <- p.accept(ln) })
	}
	p.wg.Go(func() { p.relieve() })
	p.wg.Go(func() { p.closeIdle(p.ctx) })
	p.wg.Go(func() { p.keepLearning(p.ctx) })
	linkCtx, stopLink := context.WithCancel(p.ctx)
	defer stopLink()
	p.wg.Go(func() {
		if err := p.link.Run(linkCtx); err != nil {
			failed <- fmt.Errorf("link: %w", err)
		}
	})
	p.wg.Go(func() { p.users.watch(p.ctx) })
	p.wg.Go(func() { p.audit.run(p.ctx) })
	p.wg.Go(func() { p.reporter.run(p.ctx) })
	p.wg.Go(func() { p.touch.run(p.ctx) })
	if !p.cfg.Embedded {
		p.limits.look()
		p.wg.Go(func() { p.limits.run(p.ctx, p) })
	}
	p.wg.Go(func() { p.full.watch(p.ctx, p) })
	p.wg.Go(func() { p.slow.run(p.ctx, p.log) })
	adminCtx, stopAdmin := context.WithCancel(context.Background())
	defer stopAdmin()
	if p.admin != nil {
		p.wg.Go(func() {
			if err := p.admin.Serve(adminCtx); err != nil {
				failed <- err
			}
		})
	}
	close(p.ready)

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	p.draining.Store(true)
	p.closeListeners()
	p.drain()
	stopAdmin()
	p.cancel()
	p.wg.Wait()
	if p.env.loops != nil {
		p.env.loops.Wait()
	}
	return err
}

// listen opens all listeners, or none.
func (p *Proxy) listen() error {
	for _, addr := range p.cfg.Listen {
		ln, err := listenOn(addr)
		if err != nil {
			return err
		}
		p.opened(ln)
	}
	for _, addr := range p.cfg.TLS.Listen {
		ln, err := listenOn(addr)
		if err != nil {
			return err
		}
		p.opened(newTLSListener(ln, p.tls))
	}
	if p.admin != nil {
		return p.admin.Listen()
	}
	return nil
}

func (p *Proxy) opened(ln net.Listener) {
	p.mu.Lock()
	p.listeners = append(p.listeners, ln)
	p.mu.Unlock()
}

func listenOn(addr string) (net.Listener, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
		removeStale(path)
	}
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Minute, Interval: time.Minute, Count: 3}}
	ln, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return ln, nil
}

// removeStale removes the socket file of a process that is gone: one that
// nobody accepts connections on.
func removeStale(path string) {
	if fi, err := os.Lstat(path); err != nil || fi.Mode()&os.ModeSocket == 0 {
		return
	}
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "unix", path)
	if err == nil {
		_ = c.Close() // somebody listens: Listen will say so
		return
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		_ = os.Remove(path) // Listen says what is wrong if it is still there
	}
}

func (p *Proxy) closeListeners() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ln := range p.listeners {
		_ = ln.Close() // closing twice is all that can go wrong
	}
}

// What keeps nearside from accepting a client (no file descriptors left in the
// system, a network that is down) passes and is waited out. It is logged once in a while.
const (
	acceptPause = 50 * time.Millisecond
	acceptSays  = 10 * time.Second
)

// noListener tells whether an error of accept means that it will never work again.
func noListener(err error) bool {
	return errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSOCK)
}

func (p *Proxy) accept(ln net.Listener) error {
	var said time.Time
	for {
		conn, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case noListener(err):
			return fmt.Errorf("accept: %w", err)
		case err != nil:
			if now := time.Now(); now.Sub(said) >= acceptSays {
				p.log.Warn("cannot accept a client", "err", err)
				said = now
			}
			select {
			case <-time.After(acceptPause):
			case <-p.ctx.Done():
				return nil
			}
			continue
		}
		p.admit(conn)
	}
}

// admit starts a session, unless there are too many.
func (p *Proxy) admit(conn net.Conn) {
	p.m.accepted.Inc()
	if p.clients.Add(1) > p.maxClients() {
		p.clients.Add(-1)
		p.m.rejected.Inc()
		// The error is a courtesy: whoever does not take it at once misses it, and
		// so does who would have to shake hands first.
		if _, ok := conn.(*tlsConn); !ok {
			_ = conn.SetWriteDeadline(time.Now().Add(acceptPause))
			_, _ = conn.Write(appendError(nil, errMaxClients))
		}
		_ = conn.Close()
		return
	}
	s := p.newSession(conn)
	if !p.enrol(s) {
		p.clients.Add(-1)
		_ = s.sock.Close()
		return
	}
	s.counted = true
	p.wg.Add(1) // done when it is closed
	go s.serve()
}

// enrol makes a session one of the proxy's, unless that is ending.
func (p *Proxy) enrol(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ending {
		return false
	}
	p.sessions[s] = struct{}{}
	return true
}

// relieve closes the client that holds most whenever all together hold more
// than buffers allows, as Redis does by client-output-buffer-limit.
func (p *Proxy) relieve() {
	defer p.budget.wake()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.over:
		}
		for p.budget.crowded() {
			worst := p.worst()
			if worst == nil {
				break
			}
			p.log.Warn("closing the client that holds most of the buffers", "client", worst.id, "bytes", worst.account.bytes(), "buffers", p.budget.max.Load())
			p.m.slowClosed.Inc()
			worst.shut()
			p.budget.wake() // it may wait itself
			<-worst.ended   // its reader gives back what it holds
		}
		p.budget.wake()
	}
}

// worst is the session that holds most, nil if none holds anything. What a
// session holds weighs the more the longer no request of its was dealt with, so
// that many small hoards do not push out the one client that is at work.
func (p *Proxy) worst() (worst *conn) {
	now, most := clockNow(), 0.0
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.sessions {
		idle := max(time.Duration(now-s.served.Load()), 10*time.Millisecond)
		if weight := float64(s.account.bytes()) * idle.Seconds(); weight > most {
			worst, most = &s.conn, weight
		}
	}
	return worst
}

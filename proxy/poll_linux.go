package proxy

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// pollBatch is how many sessions are learned of at one time.
const pollBatch = 128

// watch is an epoll instance. It is itself watched by Go's network poller, so
// that no thread waits in the kernel for it. The sessions' sockets stay with Go's
// poller too, for when they have goroutines; that costs nothing measurable.
type watch struct {
	file   *os.File
	raw    syscall.RawConn
	events [pollBatch]unix.EpollEvent
	n      int
	look   func(fd uintptr) bool
}

// startPollers starts as many as leave the origins' readers room. Where a poller
// cannot be had, sessions have goroutines.
func (p *Proxy) startPollers() {
	if p.cfg.IdleTimeout > 0 { // deadlines are kept by a session's own goroutine
		return
	}
	for range max(1, runtime.GOMAXPROCS(0)/2) {
		pl, err := newPoller(p)
		if err != nil {
			p.log.Warn("sessions are not polled", "err", err)
			break
		}
		p.pollers = append(p.pollers, pl)
		p.wg.Go(func() { pl.run(0) })
		p.wg.Go(func() {
			<-p.ctx.Done()
			_ = pl.watch.file.Close() // ends run
		})
	}
	if len(p.pollers) > 0 {
		p.wg.Go(p.supervise)
	}
}

func newPoller(p *Proxy) (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that Go's poller takes it
		_ = unix.Close(fd)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	pl := &poller{p: p, members: map[int]*session{}}
	w := &pl.watch
	w.file = os.NewFile(uintptr(fd), "epoll")
	if w.raw, err = w.file.SyscallConn(); err != nil {
		_ = w.file.Close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	tried := false
	w.look = func(fd uintptr) bool {
		w.n, _ = unix.EpollWait(int(fd), w.events[:], 0) // interrupted is nothing found
		if w.n <= 0 && !tried {
			// Before it is worth parking: whoever is ready may have clients send more.
			tried = true
			runtime.Gosched()
			w.n, _ = unix.EpollWait(int(fd), w.events[:], 0)
		}
		tried = w.n <= 0 // woken from the park there is something
		return w.n > 0
	}
	return pl, nil
}

// wait fills ready; false when nearside ends.
func (pl *poller) wait() bool {
	w := &pl.watch
	if err := w.raw.Read(w.look); err != nil {
		return false
	}
	pl.ready, pl.next = pl.ready[:0], 0
	pl.mu.Lock()
	for i := range w.n {
		// A closed connection's number may be another's by now, which then finds nothing to read.
		e := &w.events[i]
		if s := pl.members[int(e.Fd)]; s != nil {
			if e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
				// Before the claim: no further edge will tell that there is an end behind
				// what can be read.
				s.hungUp.Store(true)
			}
			pl.ready = append(pl.ready, s)
		}
	}
	pl.mu.Unlock()
	return true
}

// add makes the session one of the poller's members. From then on it is claimed
// whenever its client has sent something. Edges, not levels: a session that has
// its own goroutine meanwhile is not reported over and over.
func (pl *poller) add(s *session) bool {
	if s.member {
		return true
	}
	failed := true
	err := s.nb.raw.Control(func(fd uintptr) {
		s.fd = int(fd)
		pl.mu.Lock()
		pl.members[s.fd] = s
		pl.mu.Unlock()
		e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(fd)}
		// An error of Control itself means that nearside ends.
		_ = pl.watch.raw.Control(func(ep uintptr) {
			failed = unix.EpollCtl(int(ep), unix.EPOLL_CTL_ADD, int(fd), &e) != nil
		})
	})
	if err != nil || failed {
		pl.forget(s)
		s.poller = nil
		return false
	}
	s.member = true
	return true
}

// forget is called when the session has ended; the kernel has forgotten it with
// its connection.
func (pl *poller) forget(s *session) {
	pl.mu.Lock()
	if pl.members[s.fd] == s {
		delete(pl.members, s.fd)
	}
	pl.mu.Unlock()
}

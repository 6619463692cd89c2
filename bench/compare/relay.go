package main

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// relay carries bytes between clients and a target and delays them by a fixed
// time in each direction: a network that is far away. One thread does it, with
// epoll, since timers of the Go runtime come up to a millisecond late.
//
// Everything that is on its way waits in one queue, which is in order of time
// because the delay is the same for all.
type relay struct {
	delay    int64
	target   unix.Sockaddr
	epoll    int
	listener int
	ends     map[int32]*relayEnd
	queue    []onItsWay
	head     int
	spare    [][]byte
}

// relayEnd is one socket of a pair.
type relayEnd struct {
	fd     int
	peer   *relayEnd
	behind []byte // what the socket has not taken yet
	closed bool   // nothing more comes from it, or can be sent to it
}

type onItsWay struct {
	to *relayEnd
	at int64
	b  []byte // nil: the end of the stream
}

// serveRelay carries until ctx is done.
func serveRelay(ctx context.Context, addr, target string, delay time.Duration) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	to, err := sockaddr(target)
	if err != nil {
		return err
	}
	at, err := sockaddr(addr)
	if err != nil {
		return err
	}
	r := &relay{delay: int64(delay), target: to, ends: map[int32]*relayEnd{}}
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if r.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return err
	}
	_ = unix.SetsockoptInt(r.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := unix.Bind(r.listener, at); err != nil {
		return fmt.Errorf("%s: %w", addr, err)
	}
	if err := unix.Listen(r.listener, 4096); err != nil {
		return err
	}
	if err := r.watch(r.listener, unix.EPOLL_CTL_ADD, unix.EPOLLIN); err != nil {
		return err
	}
	return r.loop(ctx)
}

func sockaddr(addr string) (unix.Sockaddr, error) {
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return nil, err
	}
	sa := &unix.SockaddrInet4{Port: a.Port}
	copy(sa.Addr[:], a.IP.To4())
	return sa, nil
}

func (r *relay) watch(fd, op int, events uint32) error {
	return unix.EpollCtl(r.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (r *relay) loop(ctx context.Context) error {
	events := make([]unix.EpollEvent, 256)
	for ctx.Err() == nil {
		timeout := time.Second
		if r.head < len(r.queue) {
			timeout = time.Duration(r.queue[r.head].at - clock())
		}
		n, err := wait(r.epoll, events, timeout)
		if err != nil {
			return err
		}
		for _, e := range events[:n] {
			if int(e.Fd) == r.listener {
				r.accept()
			} else if end := r.ends[e.Fd]; end != nil {
				r.event(end, e.Events)
			}
		}
		r.deliver()
	}
	return nil
}

func (r *relay) accept() {
	for {
		fd, _, err := unix.Accept4(r.listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			return
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		up, err := connect(r.target)
		if err != nil {
			_ = unix.Close(fd)
			continue
		}
		a, b := &relayEnd{fd: fd}, &relayEnd{fd: up}
		a.peer, b.peer = b, a
		for _, e := range []*relayEnd{a, b} {
			r.ends[int32(e.fd)] = e
			_ = r.watch(e.fd, unix.EPOLL_CTL_ADD, unix.EPOLLIN)
		}
	}
}

func (r *relay) event(e *relayEnd, events uint32) {
	if events&unix.EPOLLOUT != 0 {
		r.send(e, nil)
	}
	if events&^unix.EPOLLOUT == 0 || e.closed {
		return
	}
	b := r.buffer()
	n, errno := rawRead(e.fd, b)
	if errno == unix.EAGAIN || errno == unix.EINTR {
		r.spare = append(r.spare, b)
		return
	}
	at := clock() + r.delay
	if errno != 0 || n <= 0 {
		// The other side learns of it as late as of everything else.
		e.closed = true
		_ = r.watch(e.fd, unix.EPOLL_CTL_DEL, 0)
		r.queue = append(r.queue, onItsWay{to: e.peer, at: at})
		r.spare = append(r.spare, b)
		return
	}
	r.queue = append(r.queue, onItsWay{to: e.peer, at: at, b: b[:n]})
}

// buffer is one that is not in use.
func (r *relay) buffer() []byte {
	if n := len(r.spare); n > 0 {
		b := r.spare[n-1]
		r.spare = r.spare[:n-1]
		return b[:cap(b)]
	}
	return make([]byte, 16<<10)
}

// deliver sends what has travelled long enough.
func (r *relay) deliver() {
	now := clock()
	for r.head < len(r.queue) && r.queue[r.head].at <= now {
		w := r.queue[r.head]
		r.queue[r.head] = onItsWay{}
		r.head++
		if w.b == nil {
			r.drop(w.to)
			continue
		}
		r.send(w.to, w.b)
		r.spare = append(r.spare, w.b)
	}
	if r.head == len(r.queue) {
		r.queue, r.head = r.queue[:0], 0
	} else if r.head > 4096 {
		r.queue = append(r.queue[:0], r.queue[r.head:]...)
		r.head = 0
	}
}

func (r *relay) send(e *relayEnd, b []byte) {
	if e.fd < 0 {
		return
	}
	if len(e.behind) > 0 {
		e.behind = append(e.behind, b...)
		b = e.behind
	}
	for len(b) > 0 {
		n, errno := rawWrite(e.fd, b)
		if errno == unix.EAGAIN {
			break
		}
		if errno != 0 && errno != unix.EINTR {
			e.behind = nil
			return // the reading side will see it
		}
		b = b[max(n, 0):]
	}
	waits := len(e.behind) > 0
	e.behind = append(e.behind[:0], b...)
	if waiting := len(e.behind) > 0; waiting != waits && !e.closed {
		events := uint32(unix.EPOLLIN)
		if waiting {
			events |= unix.EPOLLOUT
		}
		_ = r.watch(e.fd, unix.EPOLL_CTL_MOD, events)
	}
}

// drop ends a pair: nothing in these scenarios closes half of a connection.
func (r *relay) drop(e *relayEnd) {
	for _, x := range []*relayEnd{e, e.peer} {
		if x.fd >= 0 {
			delete(r.ends, int32(x.fd))
			_ = unix.Close(x.fd)
			x.fd, x.closed = -1, true
		}
	}
}

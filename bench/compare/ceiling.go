package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ceiling is a server that does as little as can be done for a request: it counts
// asterisks, answers each with a constant, and never sleeps while clients are there,
// so that nobody has to wake it. What is measured against it is redis-benchmark, and
// the network of the machine: no server at all makes redis-benchmark any faster.
type ceiling struct {
	epoll, listener int
	clients         int
	in, reply, out  []byte
}

func serveCeiling(ctx context.Context, addr string) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return errors.New("not a TCP address")
	}
	file, err := tcp.File() // keeps the descriptor
	if err != nil {
		return err
	}
	defer file.Close()
	_ = ln.Close()
	c := &ceiling{listener: int(file.Fd()), in: make([]byte, 64<<10)}
	c.constant(16)
	if c.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := errors.Join(unix.SetNonblock(c.listener, true), c.watch(c.listener, unix.EPOLLIN)); err != nil {
		return err
	}
	return c.run()
}

func (c *ceiling) constant(n int) { c.reply = bulk(value(n)) }

func (c *ceiling) watch(fd int, events uint32) error {
	return unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (c *ceiling) run() error {
	events := make([]unix.EpollEvent, 128)
	for {
		patience := 0
		if c.clients == 0 {
			patience = -1
		}
		n, err := unix.EpollWait(c.epoll, events, patience)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("epoll_wait", err)
		}
		for i := range max(n, 0) {
			if fd := int(events[i].Fd); fd != c.listener {
				c.serve(fd)
			} else if err := c.accept(); err != nil {
				return err
			}
		}
	}
}

func (c *ceiling) accept() error {
	fd, _, err := unix.Accept4(c.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return nil //nolint:nilerr // the client has gone again
	}
	c.clients++
	return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), c.watch(fd, unix.EPOLLIN|unix.EPOLLET))
}

// serve answers what has come. Requests and replies are short enough to come and go
// whole: nobody reads slowly here.
func (c *ceiling) serve(fd int) {
	n, errno := rawRead(fd, c.in)
	if errno == unix.EAGAIN {
		return
	}
	if errno != 0 || n == 0 {
		_ = unix.Close(fd)
		c.clients--
		return
	}
	c.out = c.out[:0]
	switch b := c.in[:n]; {
	case bytes.Contains(b, []byte("PING")):
		c.out = append(c.out, "+PONG\r\n"...)
	case bytes.Contains(b, []byte("CONSTANT")):
		fields := bytes.Fields(b)
		if size, err := strconv.Atoi(string(fields[len(fields)-1])); err == nil {
			c.constant(size)
		}
		c.out = append(c.out, "+OK\r\n"...)
	default:
		for range bytes.Count(b, []byte{'*'}) {
			c.out = append(c.out, c.reply...)
		}
	}
	if len(c.out) > 0 {
		_, _ = rawWrite(fd, c.out)
	}
}

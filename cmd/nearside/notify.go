package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"syscall"
	"time"

	"nearside/proxy"
)

// supervisor is the service manager that started nearside, if it wants to be
// told how things stand: systemd with Type=notify. The protocol is one datagram
// for each message (sd_notify(3)).
type supervisor struct {
	socket string        // "": there is none
	every  time.Duration // between two signs of life; 0: none are waited for
}

// newSupervisor reads what the service manager has left in the environment.
// The signs of life may be meant for another process: the shell around this one.
func newSupervisor(getenv func(string) string, pid int) supervisor {
	var s supervisor
	if v := getenv("NOTIFY_SOCKET"); v != "" && (v[0] == '/' || v[0] == '@') {
		s.socket = v
	}
	if v := getenv("WATCHDOG_PID"); v != "" && v != strconv.Itoa(pid) {
		return s
	}
	if usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 && s.socket != "" {
		s.every = max(time.Duration(usec)*time.Microsecond/2, time.Millisecond)
	}
	return s
}

// tellWithin bounds what the service manager may take over a message.
const tellWithin = time.Second

// tell sends one message.
func (s supervisor) tell(state string) error {
	if s.socket == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	// One that reads nothing must not hold up the end.
	if err := c.SetWriteDeadline(time.Now().Add(tellWithin)); err != nil {
		return err
	}
	_, err = c.Write([]byte(state))
	return err
}

// say is tell; that it fails is logged.
func (s supervisor) say(log *slog.Logger, state string) {
	if err := s.tell(state); err != nil {
		log.Warn("the service manager cannot be told", "state", state, "err", err)
	}
}

// follow tells that nearside is ready, later that it is stopping, which begins
// when ctx is done, and gives signs of life until ended is closed.
func (s supervisor) follow(ctx context.Context, p *proxy.Proxy, log *slog.Logger, ended <-chan struct{}) {
	say := func(state string) { s.say(log, state) }
	say("READY=1")
	report(ctx, ended, s.every, say, func(ctx context.Context) error { return alive(ctx, p) }, log)
}

// report says STOPPING=1 once, when ctx is done or at the end, and, if every is
// not 0, WATCHDOG=1 as often, but only while alive finds nothing wrong.
func report(ctx context.Context, ended <-chan struct{}, every time.Duration, say func(string), alive func(context.Context) error, log *slog.Logger) {
	var tick <-chan time.Time
	if every > 0 {
		t := time.NewTicker(every)
		defer t.Stop()
		tick = t.C
	}
	stopping := ctx.Done()
	for {
		select {
		case <-ended:
			if stopping != nil { // it ended by itself, or at once
				say("STOPPING=1")
			}
			return
		case <-stopping:
			say("STOPPING=1")
			stopping = nil
		case <-tick:
			look, cancel := context.WithTimeout(context.WithoutCancel(ctx), every/2)
			err := alive(look)
			cancel()
			if err != nil && stopping == nil {
				continue // /healthz ends a little before the process
			}
			if err != nil {
				log.Error("no sign of life is given to the service manager", "err", err)
				continue
			}
			say("WATCHDOG=1")
		}
	}
}

// alive takes the locks that every session takes, without which this would
// not return, and asks for /healthz where there is one. Redis has no part in it:
// nearside started again would not bring it back. Nor do file descriptors that
// have run out: then this proves nothing, and the clients that hold them would be
// cut off.
func alive(ctx context.Context, p *proxy.Proxy) error {
	p.Addrs()
	p.Status()
	admin := p.AdminAddr()
	if admin == nil {
		return nil
	}
	_, err := getHealthz(ctx, admin.String(), "")
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return nil
	}
	return err
}

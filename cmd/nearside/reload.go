package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"nearside/proxy"
)

// reloader reads the configuration again, when SIGHUP comes or POST /-/reload.
type reloader struct {
	o     *options
	log   *slog.Logger
	level *slog.LevelVar
	tell  func(state string) // the service manager

	p *proxy.Proxy

	mu  sync.Mutex
	now *settings // in force
}

// reload puts what the file says now into force, flags and environment overriding
// it as before, or nothing of it. It returns what has changed.
func (r *reloader) reload() ([]proxy.Change, error) {
	if r.o.config == "" {
		return nil, proxy.ErrNothingToReload
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tell("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(monotonic()/1000, 10))
	defer r.tell("READY=1")
	changes, err := r.swap()
	r.p.Reloaded(changes, err)
	return changes, err
}

func (r *reloader) swap() ([]proxy.Change, error) {
	next, err := load(r.o)
	if err != nil {
		return nil, err
	}
	if next.logFormat != r.now.logFormat {
		return nil, next.fail("log.format cannot change without a restart", "log.format")
	}
	changes, err := r.p.Reload(next.cfg)
	if fixed, ok := errors.AsType[*proxy.RestartError](err); ok {
		return nil, next.fail(fixed.Error(), fixed.Keys...)
	}
	if err != nil {
		return nil, err
	}
	if next.logLevel != r.now.logLevel {
		changes = append(changes, proxy.Change{Key: "log.level", Old: r.now.logLevel, New: next.logLevel})
		r.level.Set(levelOf(next.logLevel))
	}
	for _, w := range next.warnings() {
		r.log.Warn("the configuration may not be what was meant", "warning", w)
	}
	limitMemory(next.cfg.Memory, next.cfg.Buffers, os.DirFS("/"), r.log)
	r.now = next
	return changes, nil
}

// onSignal reloads at every SIGHUP until ctx is done. Signals that come while it
// does are one more.
func (r *reloader) onSignal(ctx context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		if _, err := r.reload(); errors.Is(err, proxy.ErrNothingToReload) {
			r.log.Info("SIGHUP changes nothing", "reason", err)
		}
	}
}

// monotonic is the service manager's clock, in nanoseconds.
func monotonic() int64 {
	var ts unix.Timespec
	// The call fails only for an unknown clock or a bad pointer.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

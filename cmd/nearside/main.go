// Command nearside runs a near cache in front of Redis.
//
//	main.go      from start to exit code
//	options.go   flags and environment
//	load.go      the file, and what overrides it
//	keys.go      the table of all keys: kind, default, meaning
//	settings.go  what becomes of them, for keys that are more than a value
//	decode.go    YAML along that table; every error has a position
//	hints.go     what to do about a mistake
//	values.go    one parser for each kind of value
//	check.go     what is wrong between values
//	embedded.go  the Redis for trying it out
//	memory.go    what the process may take
//	health.go    -health: asking the one that runs
//	reload.go    reading the file again
//	notify.go    systemd: ready, reloading, stopping, alive
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"nearside/proxy"
)

// The exit codes.
const (
	exitFine  = 0
	exitError = 1 // the configuration, or it could not start
	exitUsage = 2
)

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, getenv, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitFine
	case err != nil:
		return exitUsage
	}
	if o.version {
		fmt.Fprintln(stdout, versionLine())
		return exitFine
	}
	if o.health {
		answer, err := askHealth(context.Background(), o)
		if err != nil {
			complain(stderr, err)
			return exitError
		}
		fmt.Fprintln(stdout, answer)
		return exitFine
	}

	s, err := load(o)
	if err != nil {
		complain(stderr, err)
		return exitError
	}
	for _, w := range s.warnings() {
		fmt.Fprintln(stderr, w)
	}
	if o.test {
		name := o.config
		if name == "" {
			name = "the built-in sample (" + sampleName + ")"
		}
		fmt.Fprintf(stdout, "%s: configuration is fine\n", name)
		return exitFine
	}

	if err := serve(o, s, stdout, stderr); err != nil {
		complain(stderr, err)
		return exitError
	}
	return exitFine
}

// complain writes one line. A mistake in the configuration begins with its
// place, as compilers do it, so that editors can jump there.
func complain(stderr io.Writer, err error) {
	var ce *configError
	if errors.As(err, &ce) {
		fmt.Fprintln(stderr, err)
		return
	}
	fmt.Fprintf(stderr, "nearside: %s\n", oneLine(err.Error()))
}

// serve runs the proxy until a signal ends it.
func serve(o *options, s *settings, stdout, stderr io.Writer) error {
	ctx, cancel := untilSignal()
	defer cancel()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	cfg := s.cfg
	cfg.Version = buildVersion()
	level := new(slog.LevelVar)
	level.Set(levelOf(s.logLevel))
	cfg.Log = newLogger(stderr, level, s.logFormat)
	super := newSupervisor(os.Getenv, os.Getpid())
	r := &reloader{o: o, log: cfg.Log, level: level, now: s, tell: func(state string) {
		if ctx.Err() == nil { // it must not seem ready again that is stopping
			super.say(cfg.Log, state)
		}
	}}
	cfg.Reload = r.reload
	embedded := o.embedded()
	limitMemory(cfg.Memory, cfg.Buffers, os.DirFS("/"), cfg.Log)
	if embedded {
		stop, err := startEmbedded(&cfg)
		if err != nil {
			return err
		}
		defer stop()
	}
	p, err := proxy.New(cfg)
	if err != nil {
		return err
	}
	r.p = p // before anybody can ask

	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	select {
	case err := <-done:
		return err
	case <-p.Ready():
	}
	if embedded {
		greet(stdout, p.Addrs(), p.AdminAddr(), &cfg)
	}
	ended, told := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(told)
		super.follow(ctx, p, cfg.Log, ended)
	}()
	hung := make(chan struct{})
	go func() {
		defer close(hung)
		r.onSignal(ctx, hangups)
	}()
	err = <-done
	close(ended)
	<-told
	cancel() // Run may have ended by itself
	<-hung
	return err
}

// untilSignal is done at the first SIGINT or SIGTERM; the second ends the
// process at once.
func untilSignal() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(exitError)
	}()
	return ctx, cancel
}

// levelOf is the level of a word that settings has let through.
func levelOf(word string) slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(word)); err != nil {
		l = slog.LevelInfo
	}
	return l
}

func newLogger(w io.Writer, level slog.Leveler, format string) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

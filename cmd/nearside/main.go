// Command nearside runs a near cache in front of Redis.
//
//	main.go      from start to exit code
//	output.go    standard output and error, which nothing waits for
//	options.go   flags and environment
//	load.go      the file, and what overrides it
//	keys.go      the table of all keys: kind, default, meaning
//	settings.go  what becomes of them, for keys that are more than a value
//	decode.go    YAML along that table; every error has a position
//	hostile.go   what is not given to the YAML parser
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
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"nearside/cmd/nearside/internal/early"
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
	if o.version || o.health || o.test {
		early.Terminal()
		if err := answer(o, stdout, stderr); err != nil {
			complain(stderr, err)
			return exitError
		}
		return exitFine
	}
	code, out, errs := exitFine, newOutput(stdout), newOutput(stderr)
	if err := begin(o, out, errs); err != nil {
		complain(errs, err)
		code = exitError
	}
	deadline := time.Now().Add(flushWithin)
	out.flush(deadline)
	errs.flush(deadline)
	return code
}

// answer does what one asks for on a command line and then ends.
func answer(o *options, stdout, stderr io.Writer) error {
	switch {
	case o.version:
		fmt.Fprintln(stdout, versionLine())
		return nil
	case o.health:
		answer, err := askHealth(context.Background(), o)
		if err == nil {
			fmt.Fprintln(stdout, answer)
		}
		return err
	}
	s, err := load(o)
	if err != nil {
		return err
	}
	warn(stderr, s)
	name := o.config
	if name == "" {
		name = "the built-in sample (" + sampleName + ")"
	}
	fmt.Fprintf(stdout, "%s: configuration is fine\n", name)
	return nil
}

// begin loads the configuration and serves.
func begin(o *options, stdout, stderr *output) error {
	s, err := load(o)
	if err != nil {
		return err
	}
	warn(stderr, s)
	return serve(o, s, stdout, stderr)
}

func warn(stderr io.Writer, s *settings) {
	for _, w := range s.warnings() {
		fmt.Fprintln(stderr, w)
	}
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
func serve(o *options, s *settings, stdout, stderr *output) error {
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
	cfg.LogLost = stderr.dropped.Load
	stderr.say(lostLine(s.logFormat))
	adoptLibraries(cfg.Log)
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

// lostLine makes the line that says how many others were lost, in the form of the log.
func lostLine(format string) func(n int) []byte {
	return func(n int) []byte {
		var b bytes.Buffer
		newLogger(&b, slog.LevelWarn, format).Warn("log lines are lost: nobody took them in time", "lines", n)
		return b.Bytes()
	}
}

// adoptLibraries gives what libraries write by themselves to the log: past it
// they would wait for whoever reads standard error.
func adoptLibraries(log *slog.Logger) {
	slog.SetDefault(log) // and package log's
	redis.SetLogger(redisLog{log})
}

// redisLog takes what go-redis has to say. Its errors come to nearside as errors, too.
type redisLog struct{ log *slog.Logger }

func (r redisLog) Printf(ctx context.Context, format string, args ...any) {
	if r.log.Enabled(ctx, slog.LevelDebug) {
		r.log.DebugContext(ctx, "go-redis", "says", fmt.Sprintf(format, args...))
	}
}

func newLogger(w io.Writer, level slog.Leveler, format string) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

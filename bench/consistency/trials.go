package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A trial asks one question of one server, without a nearside: a write was
// acknowledged, then PING was sent on a connection that tracks keys. Is the
// write's invalidation there before the PONG? It is nearside's proof of freshness
// (package link), tried as often as it takes.
//
//	writer:   SET k → +OK                       many of them, others with requests in pipelines,
//	link:     PING …………… PONG: is k told?       and slow commands between
type trial struct {
	Server  string // by name; "" is the one in PATH
	Threads int    // io-threads; 0: the server's default
	Pongs   int    // that make a proof, each PING sent after the PONG before it was read
	Alone   bool   // a PING is sent only when nothing on the link is unanswered

	Writers int
	Fat     int // of these, those whose +OK follows replies that Redis cannot write at once

	Trials   int           // at most
	Failures int           // that are enough; 0: as many as there are
	For      time.Duration // at most
}

// tried is what came of it.
type tried struct {
	trials, failures int
	late             time.Duration // the longest that an invalidation came after its proof
	took             time.Duration
	version          string
}

// trialKeys is the prefix that the link tracks.
const trialKeys = "trial:"

// proving is one write that waits for its proof.
type proving struct {
	n    int // of the writer
	left int // PONGs
	done chan struct{}
}

// trialRun is one run.
type trialRun struct {
	trial
	addr string

	mu      sync.Mutex
	link    net.Conn
	sent    [][]*proving // by PING that is not answered, those whom it is for
	waiting []*proving   // with Alone: for the PING after the one that is under way

	told     []atomic.Int64 // invalidations, by writer
	changed  []chan struct{}
	wrote    []int64
	trials   atomic.Int64
	failures atomic.Int64
	late     atomic.Int64
}

// run tries until one of its bounds is reached.
func (t trial) run(ctx context.Context, dir string) (tried, error) {
	args := []string{"--save", "", "--appendonly", "no"}
	if t.Threads > 0 {
		args = append(args, "--io-threads", strconv.Itoa(t.Threads))
	}
	s, err := newServer(dir, t.Server, args...)
	if err != nil {
		return tried{}, err
	}
	defer s.p.Kill()
	r := &trialRun{trial: t, addr: s.addr, told: make([]atomic.Int64, t.Writers), wrote: make([]int64, t.Writers)}
	for range t.Writers {
		r.changed = append(r.changed, make(chan struct{}, 1))
	}
	began := time.Now()
	err = r.all(ctx)
	got := tried{trials: int(r.trials.Load()), failures: int(r.failures.Load()), late: time.Duration(r.late.Load()), took: time.Since(began)}
	if err == nil {
		got.version, err = serverVersion(s.addr)
	}
	return got, err
}

// all runs everybody; the first to fail ends the others.
func (r *trialRun) all(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	setUp, err := dialRaw(r.addr)
	if err != nil {
		return err
	}
	defer setUp.Close()
	if _, err := setUp.ask("SET", "big", strings.Repeat("x", fatSize)); err != nil {
		return err
	}
	link, err := dialRaw(r.addr)
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"HELLO", "3"},
		{"CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", trialKeys},
		{"SUBSCRIBE", "nearside:invalidate"}, // as nearside's link does
	} {
		if f, err := link.ask(args...); err != nil || f[0] == '-' {
			return fmt.Errorf("%v was answered %q: %w", args, f, err)
		}
	}
	r.link = link
	var wg sync.WaitGroup
	defer wg.Wait()
	start := func(name string, do func(*raw) error) {
		wg.Go(func() {
			c, err := dialRaw(r.addr)
			if err == nil {
				defer c.Close()
				stop := context.AfterFunc(ctx, func() { _ = c.Close() })
				defer stop()
				err = do(c)
			}
			if err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	wg.Go(func() {
		stop := context.AfterFunc(ctx, func() { _ = link.Close() })
		defer stop()
		if err := r.listen(link); ctx.Err() == nil {
			cancel(fmt.Errorf("the link: %w", err))
		}
	})
	for n := range r.Writers {
		start("writer", func(c *raw) error { return r.writer(ctx, c, n, n < r.Fat) })
	}
	for n := range 4 {
		start("pipelined writer", func(c *raw) error { return pipelined(c, n) })
	}
	for range 4 {
		start("slow command", slowly)
	}
	end := time.After(r.For)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-end:
			cancel(nil)
			return nil
		case <-time.After(20 * time.Millisecond):
			if int(r.trials.Load()) >= r.Trials || r.Failures > 0 && int(r.failures.Load()) >= r.Failures {
				cancel(nil)
				return nil
			}
		}
	}
}

// writer writes, and has each write proven.
func (r *trialRun) writer(ctx context.Context, c *raw, n int, fat bool) error {
	key := trialKeys + strconv.Itoa(n)
	p := &proving{n: n, done: make(chan struct{}, 1)}
	rnd := rand.New(rand.NewPCG(uint64(n), 7))
	for i := 0; ; i++ {
		r.wrote[n]++
		var err error
		if fat {
			err = c.fatSet(rnd, key, strconv.Itoa(i))
		} else {
			_, err = c.ask("SET", key, strconv.Itoa(i))
		}
		if err != nil {
			return err
		}
		p.left = r.Pongs
		if err := r.prove(p); err != nil {
			return err
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			return nil
		}
		// It was judged where the PONG was read. The next write waits for this one's invalidation.
		for late := time.Now(); r.told[n].Load() < r.wrote[n]; {
			select {
			case <-r.changed[n]:
				if d := int64(time.Since(late)); d > r.late.Load() {
					r.late.Store(d)
				}
			case <-ctx.Done():
				return nil
			}
		}
	}
}

var pingRequest = []byte("*1\r\n$4\r\nPING\r\n")

// prove sends a PING for p, or has it wait for one.
func (r *trialRun) prove(p *proving) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Alone {
		r.waiting = append(r.waiting, p)
		if len(r.sent) > 0 {
			return nil
		}
		return r.pingWaiting()
	}
	return r.ping([]*proving{p})
}

func (r *trialRun) pingWaiting() error {
	batch := r.waiting
	r.waiting = nil
	return r.ping(batch)
}

func (r *trialRun) ping(batch []*proving) error {
	r.sent = append(r.sent, batch)
	_, err := r.link.Write(pingRequest)
	return err
}

// listen takes what comes on the link, in its order.
func (r *trialRun) listen(c *raw) error {
	for {
		f, err := readFrame(c.in, nil)
		switch {
		case err != nil:
			return err
		case isInvalidation(f):
			r.invalidated(f)
		case string(f) == "+PONG\r\n" || strings.HasPrefix(string(f), "*2\r\n$4\r\npong\r\n"):
			if err := r.ponged(); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%q", f)
		}
	}
}

func (r *trialRun) invalidated(f []byte) {
	for _, key := range strings.Split(string(f), "\r\n") {
		n, err := strconv.Atoi(strings.TrimPrefix(key, trialKeys))
		if err != nil || !strings.HasPrefix(key, trialKeys) {
			continue
		}
		r.told[n].Add(1)
		select {
		case r.changed[n] <- struct{}{}:
		default:
		}
	}
}

func (r *trialRun) ponged() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	batch := r.sent[0]
	r.sent = r.sent[1:]
	var again []*proving
	for _, p := range batch {
		p.left--
		if p.left > 0 {
			again = append(again, p)
			continue
		}
		r.trials.Add(1)
		if r.told[p.n].Load() < r.wrote[p.n] {
			r.failures.Add(1)
		}
		p.done <- struct{}{}
	}
	if r.Alone {
		if r.waiting = append(r.waiting, again...); len(r.waiting) > 0 && len(r.sent) == 0 {
			return r.pingWaiting()
		}
		return nil
	}
	if len(again) > 0 {
		return r.ping(again)
	}
	return nil
}

// pipelined writes in batches.
func pipelined(c *raw, n int) error {
	const deep = 32
	var batch []byte
	for i := range deep {
		batch = appendRequest(batch, "SET", fmt.Sprint(trialKeys, "pipelined:", n, ":", i%4), "x")
	}
	for {
		if _, err := c.Write(batch); err != nil {
			return err
		}
		for range deep {
			if _, err := readFrame(c.in, nil); err != nil {
				return err
			}
		}
	}
}

// slowly keeps the server's main thread busy, for a millisecond or less at a time.
func slowly(c *raw) error {
	r := rand.New(rand.NewPCG(1, 1))
	for {
		if f, err := c.ask("EVAL", "local x = 0 for i = 1, tonumber(ARGV[1]) do x = x + i % 7 end return x", "0", strconv.Itoa(1000+r.IntN(60000))); err != nil || f[0] == '-' {
			return fmt.Errorf("EVAL was answered %q: %w", f, err)
		}
	}
}

// raw is a connection without a library's ideas of when to write and read.
type raw struct {
	*net.TCPConn
	in *bufio.Reader
}

func dialRaw(addr string) (*raw, error) {
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil, errors.New("not a TCP connection")
	}
	return &raw{tcp, bufio.NewReaderSize(tcp, 64<<10)}, nil
}

func (c *raw) ask(args ...string) ([]byte, error) {
	if _, err := c.Write(appendRequest(nil, args...)); err != nil {
		return nil, err
	}
	return readFrame(c.in, nil)
}

// Redis writes 64 KiB or little more at a time, and the rest from a handler of its own.
const (
	fatSize = 60 << 10
	fatGets = 3
)

// fatSet sends a SET while the replies before it are still being written: in the pass of the event loop in which the server reads
// the SET, it may write them to their end, and with them the +OK, before it looks whom to tell.
func (c *raw) fatSet(r *rand.Rand, key, value string) error {
	var gets []byte
	for range fatGets {
		gets = appendRequest(gets, "GET", "big")
	}
	if _, err := c.Write(gets); err != nil {
		return err
	}
	time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond) // until the server has read them, and not much longer
	if _, err := c.Write(appendRequest(nil, "SET", key, value)); err != nil {
		return err
	}
	for range fatGets {
		if f, err := readFrame(c.in, nil); err != nil || len(f) < fatSize {
			return fmt.Errorf("GET was answered with %d bytes: %w", len(f), err)
		}
	}
	f, err := readFrame(c.in, nil)
	if err == nil && string(f) != "+OK\r\n" {
		err = fmt.Errorf("SET was answered %q", f)
	}
	return err
}

func appendRequest(b []byte, args ...string) []byte {
	b = fmt.Appendf(b, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b
}

// serverVersion is what the server calls itself.
func serverVersion(addr string) (string, error) {
	c, err := dialRaw(addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	f, err := c.ask("INFO", "server")
	if err != nil {
		return "", err
	}
	version := ""
	for line := range strings.Lines(string(f)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "redis_version":
			version = "Redis " + value
		case "valkey_version":
			return "Valkey " + value, nil
		}
	}
	return version, nil
}

// How often proofs are tried, by default.
const (
	enoughFailures = 100
	enoughTrials   = 10_000_000
	timesFixed     = 20 // as many trials of nearside's proof as it took to see the old one fail
)

// runTrials tries the proof that nearside had and the one it has, on each server of a list such as "redis7/1,valkey9/4", and prints
// a row of a table for each as soon as it is known.
func runTrials(ctx context.Context, out io.Writer, list string, each time.Duration) error {
	if list == "all" {
		var all []string
		for _, s := range []string{"redis6", "redis7", "redis8", "valkey8", "valkey9"} {
			all = append(all, s+"/1", s+"/2", s+"/4")
		}
		list = strings.Join(all, ",")
	}
	fmt.Fprintln(out, "| server | io-threads | +OK of a write | proof | trials | overtaken | in |")
	fmt.Fprintln(out, "| --- | --- | --- | --- | --- | --- | --- |")
	for _, item := range strings.Split(list, ",") {
		server, number, _ := strings.Cut(item, "/")
		threads, err := strconv.Atoi(number)
		if err != nil {
			return fmt.Errorf("%q is not SERVER/THREADS", item)
		}
		for _, fat := range []int{0, 24} {
			t := trial{Server: server, Threads: threads, Pongs: 1, Writers: 48, Fat: fat, Trials: enoughTrials, Failures: enoughFailures, For: each}
			old, err := t.row(ctx, out)
			if err != nil {
				return err
			}
			t.Alone, t.Pongs = true, provenBy(server, threads)
			t.Trials, t.Failures, t.For = timesFixed*old.trials, 0, 4*each
			if _, err := t.row(ctx, out); err != nil {
				return err
			}
		}
	}
	return nil
}

// provenBy is how many PONGs nearside asks for.
func provenBy(server string, threads int) int {
	switch {
	case threads <= 1, server == "redis6", server == "redis7":
		return 1
	case server == "redis8":
		return 2
	}
	return 3
}

// row runs a trial and prints it.
func (t trial) row(ctx context.Context, out io.Writer) (tried, error) {
	dir, err := os.MkdirTemp("", "trial")
	if err != nil {
		return tried{}, err
	}
	defer os.RemoveAll(dir)
	got, err := t.run(ctx, filepath.Join(dir, "server"))
	if err != nil {
		return got, fmt.Errorf("%s with %d io-threads: %w", t.Server, t.Threads, err)
	}
	way, proof := "at once", "a PING, others under way"
	if t.Fat > 0 {
		way = "half of them behind long replies"
	}
	if t.Alone {
		proof = fmt.Sprintf("%d in sequence, nothing else under way", t.Pongs)
	}
	fmt.Fprintf(out, "| %s | %d | %s | %s | %d | %d | %v |\n", got.version, t.Threads, way, proof, got.trials, got.failures, got.took.Round(time.Second))
	return got, nil
}

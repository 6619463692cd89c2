//go:build linux

package loop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// startOne starts a group of one loop that ends with the test.
func startOne(t *testing.T) *Group {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	g, err := Start(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		ended := make(chan struct{})
		go func() { g.Wait(); close(ended) }()
		within(t, ended, "the loop has ended")
	})
	return g
}

func within(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("not within %v: %s", patience, what)
	}
}

// pair is a connection: one end detached, the other one for the test.
func pair(t *testing.T) (*Socket, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	theirs, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Detach(ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(); _ = theirs.Close() })
	_ = theirs.SetDeadline(time.Now().Add(patience))
	return s, theirs
}

// echo is an owner that sends back what comes.
type echo struct {
	src   *Source
	hook  func(t *Turn, b []byte) // called with what came, before it is sent back
	woken chan struct{}
}

func (e *echo) Ready(t *Turn) {
	for {
		n, err := e.src.TryRead(t.Buffer())
		switch {
		case errors.Is(err, ErrNothing):
			if e.src.Rest() {
				return
			}
		case err != nil:
			e.src.Take()
			_ = e.src.Close()
			close(e.woken)
			return
		default:
			b := bytes.Clone(t.Buffer()[:n])
			if e.hook != nil {
				e.hook(t, b)
			}
			if _, err := e.src.TryWrite(b); err != nil {
				panic(err)
			}
		}
	}
}

func (e *echo) Woken() { close(e.woken) }

func newEcho(t *testing.T, g *Group, hook func(*Turn, []byte)) (*echo, net.Conn) {
	t.Helper()
	s, c := pair(t)
	e := &echo{hook: hook, woken: make(chan struct{})}
	e.src = g.Pick(0).NewSource(s, e)
	if !e.src.Return() {
		t.Fatal("not taken by the loop")
	}
	return e, c
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("sent %q, got %q, %v", text, got, err)
	}
}

func TestEcho(t *testing.T) {
	g := startOne(t)
	var wg sync.WaitGroup
	for range 50 {
		_, c := newEcho(t, g, nil)
		wg.Go(func() {
			for range 200 {
				say(t, c, "hello")
			}
		})
	}
	wg.Wait()
}

// What had come before the loop took the socket is not forgotten. Guard: Again in Return.
func TestReturnLooksAtWhatIsThere(t *testing.T) {
	g := startOne(t)
	for range 200 {
		s, c := pair(t)
		e := &echo{woken: make(chan struct{})}
		e.src = g.Pick(0).NewSource(s, e)
		if _, err := io.WriteString(c, "early"); err != nil {
			t.Fatal(err)
		}
		if !e.src.Return() {
			t.Fatal("not taken")
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
	}
}

// What comes while a goroutine of the owner's has the source is reported when it returns it.
func TestTakeAndReturn(t *testing.T) {
	g := startOne(t)
	seen, goOn := make(chan struct{}), make(chan struct{})

	var first sync.Once
	_, c := newEcho(t, g, func(tn *Turn, _ []byte) {
		first.Do(func() {
			tn.Leave()
			close(seen)
			<-goOn
		})
	})
	if _, err := io.WriteString(c, "one"); err != nil {
		t.Fatal(err)
	}
	within(t, seen, "the owner has the bytes")
	if _, err := io.WriteString(c, "two"); err != nil {
		t.Fatal(err)
	}
	_, other := newEcho(t, g, nil)
	say(t, other, "the loop goes on")
	close(goOn)
	got := make([]byte, 6)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "onetwo" {
		t.Fatalf("%q, %v", got, err)
	}
}

// An owner that waits without a word is found out. Guard: supervise.
func TestSupervisor(t *testing.T) {
	g := startOne(t)
	seen, goOn := make(chan struct{}), make(chan struct{})
	_, c := newEcho(t, g, func(*Turn, []byte) { close(seen); <-goOn })
	if _, err := io.WriteString(c, "stuck"); err != nil {
		t.Fatal(err)
	}
	within(t, seen, "the owner is stuck")
	_, other := newEcho(t, g, nil)
	for range 100 {
		say(t, other, "not me")
	}
	close(goOn)
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	say(t, other, "still")
}

// A source that nobody reads is handed to its owner when it is woken.
func TestWake(t *testing.T) {
	g := startOne(t)
	e, c := newEcho(t, g, nil)
	say(t, c, "x")
	for !e.src.Idle() { // it rests in a moment
		time.Sleep(time.Millisecond)
	}
	_ = e.src.Close()
	e.src.Wake()
	within(t, e.woken, "the owner was told")
	if n := g.Members(); n != 0 {
		t.Errorf("%d members", n)
	}
}

func TestEnd(t *testing.T) {
	g := startOne(t)
	e, c := newEcho(t, g, nil)
	say(t, c, "x")
	_ = c.Close()
	within(t, e.woken, "the owner has seen the end")
}

type letOut chan struct{}

func (f letOut) FlushNow() { close(f) }

func TestDefer(t *testing.T) {
	g := startOne(t)
	f := make(letOut)
	_, c := newEcho(t, g, func(*Turn, []byte) {
		g.Pick(0).Defer(f)
		g.Pick(0).Defer(f) // twice is once
	})
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	within(t, f, "it was let out")
}

// As a net.Conn the socket waits, keeps deadlines that were set before anybody
// waited, and ends those who wait when it is closed.
func TestSocketWaits(t *testing.T) {
	s, c := pair(t)
	if _, err := s.TryRead(make([]byte, 1)); !errors.Is(err, ErrNothing) {
		t.Errorf("TryRead: %v", err)
	}
	if err := s.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read past the deadline: %v", err)
	}
	s.Unwait()
	if err := s.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		b := make([]byte, 10)
		n, err := s.Read(b)
		got <- string(b[:n]) + " " + errText(err)
	}()
	_, _ = io.WriteString(c, "hi")
	if g := <-got; g != "hi " {
		t.Errorf("Read: %q", g)
	}
	go func() {
		_, err := s.Read(make([]byte, 10))
		got <- errText(err)
	}()
	for waiting := false; !waiting; time.Sleep(time.Millisecond) {
		s.mu.RLock()
		waiting = s.waits > 0
		s.mu.RUnlock()
	}
	_ = s.Close()
	if g := <-got; g != net.ErrClosed.Error() {
		t.Errorf("closed meanwhile: %q", g)
	}
	for what, err := range map[string]error{
		"Close": s.Close(), "SetDeadline": s.SetReadDeadline(time.Time{}),
		"TryRead": second(s.TryRead(make([]byte, 1))), "Write": second(s.Write([]byte("x"))), "Read": second(s.Read(make([]byte, 1))),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s on a closed socket: %v", what, err)
		}
	}
}

func second(_ int, err error) error { return err }

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A large Write to one who reads slowly waits for the rest, and leaves Go's poller afterwards.
func TestSocketWritesAll(t *testing.T) {
	s, c := pair(t)
	big := bytes.Repeat([]byte("nearside"), 1<<20)
	got := make(chan []byte, 1)
	go func() {
		b := make([]byte, len(big))
		_, _ = io.ReadFull(c, b)
		got <- b
	}()
	if n, err := s.Write(big); n != len(big) || err != nil {
		t.Fatal(n, err)
	}
	if !bytes.Equal(<-got, big) {
		t.Error("something else came")
	}
	if s.file != nil {
		t.Error("still in Go's poller")
	}
	if err := s.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(big); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past the deadline: %v", err)
	}
}

// deferred tells when it is let out, each time.
type deferred chan struct{}

func (f deferred) FlushNow() { f <- struct{}{} }

// settled waits until another goroutine has taken a turn away and found nothing to do.
func settled(l *Loop, taken uint64) {
	for l.turn.Load() < taken+3 { // taken away, letting out, done with that
		time.Sleep(time.Millisecond)
	}
	time.Sleep(5 * time.Millisecond)
}

// What an owner defers when its turn has been taken away already is let out before
// it waits: the loop's new goroutine may have nothing to do. Guard: writeOut in Leave.
func TestDeferAfterTheTurnIsLost(t *testing.T) {
	g := startOne(t)
	l, f := g.Pick(0), make(deferred)
	answered := make(chan bool, 1)
	_, c := newEcho(t, g, func(tn *Turn, _ []byte) {
		settled(l, tn.n)
		l.Defer(f)
		tn.Leave()
		select {
		case <-f: // as who waits for the answer to what is deferred
			answered <- true
		case <-time.After(patience / 2):
			answered <- false
			<-f
		}
	})
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	if !<-answered {
		t.Error("it was not let out")
	}
}

// restless is an owner whose other side sends again as soon as something was read.
type restless struct {
	src   *Source
	other net.Conn
	turns int
	until func() bool
}

func (r *restless) Ready(t *Turn) {
	if n, _ := r.src.TryRead(t.Buffer()); n > 0 {
		r.turns++
		if !r.until() {
			_, _ = r.other.Write([]byte("again"))
		}
	}
	for !r.src.Rest() { // what has just come is for the next time
	}
}

func (r *restless) Woken() {}

// Urgent sources that never come to an end leave the others their turn. Guard: others in run.
func TestUrgentOnesAreNotAlone(t *testing.T) {
	g := startOne(t)
	held, hold := make(chan struct{}), make(chan struct{})
	_, holder := newEcho(t, g, func(*Turn, []byte) { close(held); <-hold })
	served := make(chan struct{})
	_, other := newEcho(t, g, func(*Turn, []byte) { close(served) })
	const most = 10000
	var urgent []*restless
	for range urgentEvery {
		s, c := pair(t)
		r := &restless{other: c}
		r.src = g.Pick(0).NewSource(s, r)
		r.src.SetUrgent(true)
		r.until = func() bool {
			select {
			case <-served:
				return true
			default:
				return r.turns == most
			}
		}
		if !r.src.Return() {
			t.Fatal("not taken")
		}
		urgent = append(urgent, r)
	}
	_, _ = io.WriteString(holder, "hold")
	within(t, held, "the loop is held")
	for _, r := range urgent {
		_, _ = r.other.Write([]byte("go"))
	}
	_, _ = io.WriteString(other, "me too")
	close(hold)
	within(t, served, "the other one has had its turn")
	_, _ = io.ReadFull(other, make([]byte, len("me too")))
	_, _ = io.ReadFull(holder, make([]byte, len("hold")))
	for _, r := range urgent {
		for !r.src.Idle() {
			time.Sleep(time.Millisecond)
		}
		if r.turns == most {
			t.Errorf("an urgent one came %d times before it", r.turns)
		}
	}
}

// An owner whose source waits for the next round when the loop ends is told: nobody
// else will. Guard: end.
func TestEndOfWhoWaitsForTheNextRound(t *testing.T) {
	for _, lost := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		g, err := Start(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		l := g.Pick(0)
		seen, goOn := make(chan struct{}), make(chan struct{})
		s, c := pair(t)
		o := &late{woken: make(chan struct{}), ready: func(tn *Turn, src *Source) {
			if lost {
				settled(l, tn.n)
			}
			close(seen)
			<-goOn
			src.Again(tn)
		}}
		o.src = l.NewSource(s, o)
		if !o.src.Return() {
			t.Fatal("not taken")
		}
		within(t, seen, "the owner runs")
		_ = c.Close()
		cancel()
		for ended := false; !ended; time.Sleep(time.Millisecond) {
			l.watch.mu.RLock()
			ended = l.watch.ended
			l.watch.mu.RUnlock()
		}
		if lost {
			for ended := false; !ended; time.Sleep(time.Millisecond) {
				l.mu.Lock()
				ended = l.over
				l.mu.Unlock()
			}
		}
		_ = s.Close()
		o.src.Wake() // it runs, and is to notice
		close(goOn)
		within(t, o.woken, "the owner is woken")
		g.Wait()
	}
}

// late is an owner that gives others their turn.
type late struct {
	src   *Source
	ready func(*Turn, *Source)
	woken chan struct{}
}

func (o *late) Ready(t *Turn) { o.ready(t, o.src) }
func (o *late) Woken()        { close(o.woken) }

// Without a descriptor for the duplicate a socket waits all the same.
func TestSocketWaitsWithoutDescriptors(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	s, c := pair(t)
	none := old
	none.Cur = 1 // what is open stays open
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	back := sync.OnceFunc(func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &old) })
	defer back()
	got := make(chan string, 1)
	read := func() {
		b := make([]byte, 10)
		n, err := s.Read(b)
		got <- string(b[:n]) + " " + errText(err)
	}
	go read()
	time.Sleep(2 * spare)
	_, _ = io.WriteString(c, "hi")
	if g := <-got; g != "hi " {
		t.Errorf("Read: %q", g)
	}
	_ = s.SetReadDeadline(time.Now().Add(2 * spare))
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read past the deadline: %v", err)
	}
	big := bytes.Repeat([]byte("nearside"), 1<<20)
	whole := make(chan bool, 1)
	go func() {
		b := make([]byte, len(big))
		_, _ = io.ReadFull(c, b)
		whole <- bytes.Equal(b, big)
	}()
	if n, err := s.Write(big); n != len(big) || err != nil {
		t.Errorf("Write: %d, %v", n, err)
	}
	if !<-whole {
		t.Error("something else came")
	}
	_ = s.SetWriteDeadline(time.Now().Add(2 * spare))
	if _, err := s.Write(big); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write past the deadline: %v", err)
	}
	_ = s.SetReadDeadline(time.Time{})
	go read()
	time.Sleep(2 * spare)
	back()
	_ = s.Close()
	if g := <-got; g != " "+net.ErrClosed.Error() {
		t.Errorf("closed meanwhile: %q", g)
	}
}

package origin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, cfg Config) *Origin {
	t.Helper()
	o, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

var resp2 = Group{Proto: 2}

func sharedConn(t testing.TB, o *Origin, g Group) *Conn {
	t.Helper()
	c, err := o.Shared(ctxT(t), g, 0)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pin(t testing.TB, o *Origin, g Group) *Conn {
	t.Helper()
	c, err := o.Pin(ctxT(t), g)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func ctxT(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func call(t testing.TB, c *Conn, args ...string) string {
	t.Helper()
	b, err := c.Call(ctxT(t), AppendCommand(nil, args...), 1)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return string(b)
}

// recorder is a Sink for n replies.
type recorder struct {
	mu      sync.Mutex
	got     []string
	errs    []error
	flushed int
	left    atomic.Int64
	done    chan struct{}
}

func newRecorder(n int) *recorder {
	r := &recorder{done: make(chan struct{})}
	r.left.Store(int64(n))
	return r
}

// numbered is the i-th Send's sink.
type numbered struct {
	r *recorder
	i int
}

func (s numbered) Reply(b []byte, err error, batch *Batch) {
	s.r.mu.Lock()
	s.r.got = append(s.r.got, fmt.Sprintf("%d:%s", s.i, b))
	s.r.errs = append(s.r.errs, err)
	s.r.mu.Unlock()
	batch.Add(s.r)
	switch s.r.left.Add(-1) {
	case 0:
		close(s.r.done)
	case -1:
		panic("more replies than Sends")
	}
}

func (r *recorder) Flush() { r.mu.Lock(); r.flushed++; r.mu.Unlock() }

func (r *recorder) wait(t testing.TB) {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%d replies missing", r.left.Load())
	}
}

func (r *recorder) wantErrors(t testing.TB, want error) {
	t.Helper()
	r.wait(t)
	for i, err := range r.errs {
		if !errors.Is(err, want) {
			t.Fatalf("sink %d: error %v, want %v", i, err, want)
		}
		if r.got[i] != fmt.Sprintf("%d:", i) {
			t.Fatalf("sink %d called as %q", i, r.got[i])
		}
	}
}

func send(t testing.TB, c *Conn, s Sink, replies int, args ...string) {
	t.Helper()
	if err := c.Send(AppendCommand(nil, args...), replies, s); err != nil {
		t.Fatal(err)
	}
}

// relay is a TCP proxy whose connections can be made to swallow everything.
type relay struct {
	l     net.Listener
	to    string
	mu    sync.Mutex
	conns []*relayed
	wg    sync.WaitGroup
}

type relayed struct {
	a, b net.Conn
	hole atomic.Bool
}

func startRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{l: l, to: to}
	r.wg.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				_ = a.Close()
				continue
			}
			c := &relayed{a: a, b: b}
			r.mu.Lock()
			r.conns = append(r.conns, c)
			r.mu.Unlock()
			r.wg.Go(func() { c.copy(a, b) })
			r.wg.Go(func() { c.copy(b, a) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.mu.Lock()
		for _, c := range r.conns {
			_ = c.a.Close()
			_ = c.b.Close()
		}
		r.mu.Unlock()
		r.wg.Wait()
	})
	return r
}

func (c *relayed) copy(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			_ = to.Close()
			return
		}
		if c.hole.Load() {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			_ = from.Close()
			return
		}
	}
}

// of finds the relayed connection that c uses.
func (r *relay) of(t *testing.T, c *Conn) *relayed {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rc := range r.conns {
		if rc.a.RemoteAddr().String() == c.raw.LocalAddr().String() {
			return rc
		}
	}
	t.Fatal("connection not found in the relay")
	return nil
}

// blocked waits until n clients are blocked at the server.
func blocked(t *testing.T, o *Origin, n int) {
	t.Helper()
	eventually(t, func() bool {
		info, err := o.Control().Info(context.Background(), "clients").Result()
		return err == nil && strings.Contains(info, fmt.Sprintf("blocked_clients:%d\r\n", n))
	})
}

func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("did not come about")
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func fill(n int) string { return string(bytes.Repeat([]byte("x"), n)) }

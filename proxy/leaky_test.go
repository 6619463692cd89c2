package proxy

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"nearside/proxy/internal/redistest"
	"nearside/proxy/origin"
)

// leakyRelay stands between nearside and a Redis and loses what a real network
// never does: single invalidations, out of the middle of the link's stream. The
// link itself is up all the time and its PINGs are answered.
type leakyRelay struct {
	addr string
	ln   net.Listener
	to   string
	wg   sync.WaitGroup

	lose atomic.Pointer[func(key string) bool] // called by the link's one goroutine
	lost atomic.Int64
	kept atomic.Int64

	mu     sync.Mutex
	frozen chan struct{} // nothing more goes to the link until it is closed
	conns  []net.Conn

	holding chan struct{} // gets a token when something is held back, if it has none
}

func newLeakyRelay(t testing.TB, redis *redistest.Server) *leakyRelay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &leakyRelay{addr: ln.Addr().String(), ln: ln, to: redis.Addr, holding: make(chan struct{}, 1)}
	r.losing(func(string) bool { return false })
	r.wg.Go(r.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		r.thaw()
		r.mu.Lock()
		for _, c := range r.conns {
			_ = c.Close()
		}
		r.mu.Unlock()
		r.wg.Wait()
	})
	return r
}

func (r *leakyRelay) url() string { return "redis://" + r.addr }

// losing says which keys' invalidations are lost from now on.
func (r *leakyRelay) losing(f func(key string) bool) { r.lose.Store(&f) }

// freeze holds back all that goes to the link, its PONGs included, until thaw.
func (r *leakyRelay) freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frozen = make(chan struct{})
}

func (r *leakyRelay) thaw() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.frozen != nil {
		close(r.frozen)
		r.frozen = nil
	}
}

func (r *leakyRelay) accept() {
	for {
		client, err := r.ln.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.to)
		if err != nil {
			_ = client.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, client, server)
		r.mu.Unlock()
		link := new(atomic.Bool)
		r.wg.Go(func() { r.requests(client, server, link) })
		r.wg.Go(func() { r.replies(client, server, link) })
	}
}

// requests goes on until one side is gone, and finds out which connection is the link.
func (r *leakyRelay) requests(client, server net.Conn, link *atomic.Bool) {
	defer client.Close()
	defer server.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(buf[:n], []byte("TRACKING")) {
			link.Store(true) // before the answer can come
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (r *leakyRelay) replies(client, server net.Conn, link *atomic.Bool) {
	defer client.Close()
	defer server.Close()
	buf := make([]byte, 64<<10)
	var rest []byte // of a frame of the link's
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		out := buf[:n]
		if link.Load() {
			rest = append(rest, out...)
			if out, rest, err = r.filter(rest); err != nil {
				return
			}
			r.mu.Lock()
			frozen := r.frozen
			r.mu.Unlock()
			if frozen != nil {
				select {
				case r.holding <- struct{}{}:
				default:
				}
				<-frozen
			}
		}
		if _, err := client.Write(out); err != nil {
			return
		}
	}
}

// filter takes whole frames off b and what is to be lost out of them.
func (r *leakyRelay) filter(b []byte) (out, rest []byte, err error) {
	for len(b) > 0 {
		n, err := origin.Next(b)
		if err != nil {
			return nil, nil, err
		}
		if n == 0 {
			break
		}
		out = append(out, r.frame(b[:n])...)
		b = b[n:]
	}
	return out, append([]byte(nil), b...), nil
}

const pushHead = ">2\r\n$10\r\ninvalidate\r\n"

// frame is what of a frame goes on.
func (r *leakyRelay) frame(f []byte) []byte {
	list, isPush := bytes.CutPrefix(f, []byte(pushHead))
	n, keys, ok := origin.Elements(list)
	if !isPush || !ok || n < 0 {
		return f
	}
	left, b := 0, []byte(nil)
	for range n {
		var one []byte
		one, keys = origin.Split(keys)
		key, _, _, _ := origin.Bulk(one)
		if (*r.lose.Load())(string(key)) {
			r.lost.Add(1)
			continue
		}
		r.kept.Add(1)
		left++
		b = append(b, one...)
	}
	if left == 0 {
		return nil
	}
	return append(fmt.Appendf(nil, "%s*%d\r\n", pushHead, left), b...)
}

// The relay is what the tests of the auditor rest on: it loses what it is told
// to and nothing else.
func TestLeakyRelay(t *testing.T) {
	redis := redistest.Start(t)
	r := newLeakyRelay(t, redis)
	r.losing(func(key string) bool { return key == "b" })
	c := redistest.Dial(t, r.addr)
	defer c.Close()
	c.Do("HELLO", "3")
	want(t, c, "OK", "CLIENT", "TRACKING", "ON", "BCAST")
	direct := redistest.Dial(t, redis.Addr)
	defer direct.Close()
	for _, step := range []struct {
		do   []string
		lost int64
		push string
	}{
		{[]string{"SET", "a", "1"}, 0, ">[invalidate [a]]"},
		{[]string{"SET", "b", "1"}, 1, ""},
		{[]string{"MSET", "b", "1", "c", "1"}, 2, ">[invalidate [c]]"},
		{[]string{"FLUSHALL"}, 2, ">[invalidate (nil)]"},
	} {
		want(t, direct, "OK", step.do...)
		if step.push != "" {
			if got := c.Read(); got != step.push {
				t.Errorf("%v pushed %s", step.do, got)
			}
		}
		want(t, c, "PONG", "PING")
		if got := r.lost.Load(); got != step.lost {
			t.Errorf("after %v %d are lost", step.do, got)
		}
	}
	r.freeze()
	c.Send("PING")
	<-r.holding
	r.thaw()
	if got := c.Read(); got != "PONG" {
		t.Errorf("got %s", got)
	}
}

package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

func TestRawReplies(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	for _, tc := range []struct {
		proto int
		args  []string
		want  string
	}{
		{2, []string{"SET", "k", "OK"}, "+OK\r\n"},
		{2, []string{"GET", "k"}, "$2\r\nOK\r\n"},
		{2, []string{"GET", "none"}, "$-1\r\n"},
		{3, []string{"GET", "none"}, "_\r\n"},
		{2, []string{"NOSUCH"}, "-ERR unknown command 'NOSUCH', with args beginning with: \r\n"},
		{2, []string{"HSET", "h", "f", "1"}, ":1\r\n"},
		{2, []string{"HGETALL", "h"}, "*2\r\n$1\r\nf\r\n$1\r\n1\r\n"},
		{3, []string{"HGETALL", "h"}, "%1\r\n$1\r\nf\r\n$1\r\n1\r\n"},
		{3, []string{"DEBUG", "PROTOCOL", "attrib"}, "|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n$39\r\nSome real reply following the attribute\r\n"},
		{3, []string{"DEBUG", "PROTOCOL", "verbatim"}, "=29\r\ntxt:This is a verbatim\nstring\r\n"},
		{3, []string{"DEBUG", "PROTOCOL", "bignum"}, "(1234567999999999999999999999999999999\r\n"},
		{3, []string{"DEBUG", "PROTOCOL", "true"}, "#t\r\n"},
		{3, []string{"DEBUG", "PROTOCOL", "double"}, ",3.141\r\n"},
		{3, []string{"DEBUG", "PROTOCOL", "set"}, "~3\r\n:0\r\n:1\r\n:2\r\n"},
	} {
		c := sharedConn(t, o, Group{Proto: tc.proto})
		if got := call(t, c, tc.args...); got != tc.want {
			t.Errorf("RESP%d %v: %q, want %q", tc.proto, tc.args, got, tc.want)
		}
		if c.RunID() == "" || len(c.RunID()) != 40 {
			t.Errorf("run id %q", c.RunID())
		}
	}
}

func TestSeveralRepliesJoinedAndBatchFlushed(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	c := sharedConn(t, o, Group{Proto: 2, DB: 3})
	r := newRecorder(3)
	req := AppendCommand(nil, "MULTI")
	req = AppendCommand(req, "SET", "a", "1")
	req = AppendCommand(req, "EXEC")
	if err := c.Send(req, 3, numbered{r, 0}); err != nil {
		t.Fatal(err)
	}
	send(t, c, numbered{r, 1}, 1, "GET", "a")
	send(t, c, numbered{r, 2}, 1, "PING")
	c.Flush()
	r.wait(t)
	want := []string{"0:+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n", "1:$1\r\n1\r\n", "2:+PONG\r\n"}
	for i := range want {
		if r.got[i] != want[i] {
			t.Errorf("%q, want %q", r.got[i], want[i])
		}
	}
	eventually(t, func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.flushed >= 1 })
	if r.flushed > 3 || c.Outstanding() != 0 {
		t.Errorf("%d flushes, %d outstanding", r.flushed, c.Outstanding())
	}
	if got := call(t, c, "CLIENT", "INFO"); !strings.Contains(got, " db=3 ") {
		t.Errorf("wrong database: %s", got)
	}
}

func TestRepliesNeverMix(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL(), Connections: 2})
	var wg sync.WaitGroup
	for g := range 100 {
		wg.Go(func() {
			c, err := o.Shared(context.Background(), resp2, uint64(g))
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 30 {
				const deep = 5
				sinks := make([]callSink, deep)
				want := make([]string, deep)
				for j := range deep {
					v := fmt.Sprintf("%d/%d/%d/%s", g, i, j, fill((g*131+i*17+j*7919)%3000))
					if j == 3 && i%10 == 0 {
						v += fill(40_000)
					}
					want[j] = fmt.Sprintf("$%d\r\n%s\r\n", len(v), v)
					sinks[j] = make(callSink, 1)
					if err := c.Send(AppendCommand(nil, "ECHO", v), 1, sinks[j]); err != nil {
						t.Error(err)
						return
					}
				}
				c.Flush()
				for j := range deep {
					if r := <-sinks[j]; r.err != nil || string(r.b) != want[j] {
						t.Errorf("%d/%d/%d: %v, %.40q", g, i, j, r.err, r.b)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	// The heartbeat may have a connection too, where the machine is slow.
	if st := o.Stats(); st.Shared != 2 || st.Dials > 3 || st.Outstanding != 0 || st.BytesIn == 0 || st.BytesOut == 0 {
		t.Errorf("%+v", st)
	}
}

// keeper keeps the slice it was given if it may.
type keeper chan []byte

func (k keeper) Reply(b []byte, err error, _ *Batch) {
	if err != nil {
		b = nil
	} else if len(b) <= TakeSize {
		b = append([]byte(nil), b...)
	}
	k <- b
}

func TestLargeReplies(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	c := sharedConn(t, o, resp2)
	sizes := []int{1, 100, TakeSize - 9, TakeSize - 8, TakeSize - 7, TakeSize, 20_000, 65_000, 66_000, 1 << 20, 50 << 20, 3}
	k := make(keeper, 2*len(sizes))
	for _, n := range sizes {
		v := fill(n)
		call(t, c, "SET", fmt.Sprint("k", n), v)
	}
	for _, n := range sizes {
		send(t, c, k, 1, "GET", fmt.Sprint("k", n))
		send(t, c, k, 1, "ECHO", fmt.Sprint(n))
	}
	c.Flush()
	for _, n := range sizes {
		if b := <-k; string(b) != fmt.Sprintf("$%d\r\n%s\r\n", n, fill(n)) {
			t.Errorf("%d bytes: got %d, %.30q", n, len(b), b)
		}
		if b := <-k; string(b) != fmt.Sprintf("$%d\r\n%d\r\n", len(fmt.Sprint(n)), n) {
			t.Errorf("after %d bytes: %.30q", n, b)
		}
	}
	call(t, c, "EVAL", "for i=1,200000 do redis.call('RPUSH','l',i) end", "0")
	b := call(t, c, "LRANGE", "l", "0", "-1")
	n, rest, ok := Elements([]byte(b))
	if !ok || n != 200000 {
		t.Fatal(n, ok)
	}
	for i := 1; i <= n; i++ {
		var v []byte
		if v, _, rest, ok = Bulk(rest); !ok || string(v) != fmt.Sprint(i) {
			t.Fatalf("element %d: %q", i, v)
		}
	}
}

func TestPushesBetweenReplies(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	c := pin(t, o, Group{Proto: 3})
	pushes := make(chan string, 100)
	c.SetPush(func(f []byte, _ *Batch) { pushes <- string(f) })
	call(t, c, "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "p:")
	// The push for the SET comes between the replies of one Send.
	req := AppendCommand(nil, "SET", "p:1", "a")
	req = AppendCommand(req, "GET", "p:1")
	for range 20 {
		b, err := c.Call(ctxT(t), req, 2)
		if err != nil || string(b) != "+OK\r\n$1\r\na\r\n" {
			t.Fatalf("%q %v", b, err)
		}
		if got := <-pushes; got != ">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\np:1\r\n" {
			t.Fatalf("%q", got)
		}
	}
	call(t, c, "FLUSHDB")
	if got := <-pushes; got != ">2\r\n$10\r\ninvalidate\r\n_\r\n" {
		t.Fatalf("%q", got)
	}

	o.Unpin(c, false)

	link, err := o.Dial(ctxT(t), Group{Proto: 3}, func(f []byte) { pushes <- "link" + string(f) })
	if err != nil {
		t.Fatal(err)
	}
	call(t, link, "CLIENT", "TRACKING", "ON", "BCAST")
	call(t, link, "SET", "k", "v")
	if got := <-pushes; !strings.HasPrefix(got, "link>2\r\n$10\r\ninvalidate") {
		t.Fatalf("%q", got)
	}
	if st := o.Stats(); st.Dialled != 1 {
		t.Errorf("%+v", st)
	}
}

func TestSubscriptions(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	for _, proto := range []int{2, 3} {
		first := map[int]string{2: "*", 3: ">"}[proto]
		c := pin(t, o, Group{Proto: proto})
		pushes := make(chan string, 100)
		c.SetPush(func(f []byte, _ *Batch) { pushes <- string(f) })
		c.SetSubscribed(proto == 2)
		b, err := c.Call(ctxT(t), AppendCommand(nil, "SUBSCRIBE", "a", "b"), -2)
		if want := first + "3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n" + first + "3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"; err != nil || string(b) != want {
			t.Fatalf("%q %v", b, err)
		}
		b, err = c.Call(ctxT(t), AppendCommand(nil, "PSUBSCRIBE", "a*"), -1)
		if err != nil || !strings.HasPrefix(string(b), first+"3\r\n$10\r\npsubscribe") {
			t.Fatalf("%q %v", b, err)
		}
		o.Control().Publish(context.Background(), "a", "hello")
		if got := <-pushes; got != first+"3\r\n$7\r\nmessage\r\n$1\r\na\r\n$5\r\nhello\r\n" {
			t.Fatalf("%q", got)
		}
		if got := <-pushes; got != first+"4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$1\r\na\r\n$5\r\nhello\r\n" {
			t.Fatalf("%q", got)
		}
		b, err = c.Call(ctxT(t), AppendCommand(nil, "PING"), 1)
		if want := map[int]string{2: "*2\r\n$4\r\npong\r\n$0\r\n\r\n", 3: "+PONG\r\n"}[proto]; err != nil || string(b) != want {
			t.Fatalf("%q %v", b, err)
		}
		b, err = c.Call(ctxT(t), AppendCommand(nil, "UNSUBSCRIBE"), -2)
		if err != nil || !strings.HasPrefix(string(b), first+"3\r\n$11\r\nunsubscribe") {
			t.Fatalf("%q %v", b, err)
		}
		o.Unpin(c, false)
	}
}

func TestMonitor(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	c := pin(t, o, resp2)
	lines := make(chan string, 100)
	c.SetPush(func(f []byte, _ *Batch) { lines <- string(f) })
	c.SetMonitor()
	if got := call(t, c, "MONITOR"); got != "+OK\r\n" {
		t.Fatal(got)
	}
	v := fill(100_000)
	o.Control().Set(context.Background(), "k", v, 0)
	for l := range lines {
		if strings.Contains(l, `"set" "k"`) {
			if !strings.Contains(l, v) {
				t.Error("line cut")
			}
			break
		}
	}
	o.Unpin(c, true)
	if c.Err() == nil {
		t.Error("a monitoring connection was kept")
	}
}

func TestBackpressureAndBigRequests(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	c := sharedConn(t, o, resp2)
	const senders, each = 8, 40
	r := newRecorder(senders * each)
	v := fill(200_000)
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for i := range each {
				if err := c.Send(AppendCommand(nil, "SET", "k", v), 1, numbered{r, i}); err != nil {
					t.Error(err)
				}
				if i%10 == 9 {
					c.Flush()
				}
			}
		})
	}
	wg.Wait()
	r.wait(t)
	for i, err := range r.errs {
		if err != nil || !strings.HasSuffix(r.got[i], ":+OK\r\n") {
			t.Fatal(r.got[i], err)
		}
	}
}

func TestCallGivesUpWithContext(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	c := pin(t, o, resp2)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { blocked(t, o, 1); cancel() }()
	if _, err := c.Call(ctx, AppendCommand(nil, "BLPOP", "q", "0"), 1); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if c.Outstanding() != 1 {
		t.Error(c.Outstanding())
	}
	o.Unpin(c, true)
	if c.Err() == nil {
		t.Error("a connection with a reply outstanding was kept")
	}
}

// TrySend waits for nobody. Guard: ErrFull.
func TestTrySend(t *testing.T) {
	nc, theirs := net.Pipe() // takes nothing until somebody reads
	defer theirs.Close()
	o := &Origin{base: time.Now()}
	c := newConn(o, Group{}, shared, "", nc, nc)
	req := make([]byte, maxUnsent)
	if err := c.TrySend(req, 0, nil); err != nil {
		t.Fatal(err)
	}
	written := make(chan struct{})
	go func() { c.Flush(); close(written) }()
	for c.writeSince.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := c.TrySend(req, 0, nil); err != nil {
		t.Fatalf("there is room, and %v", err)
	}
	if err := c.TrySend(req[:1], 0, nil); !errors.Is(err, ErrFull) {
		t.Errorf("no room: %v", err)
	}
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	<-written
	if err := c.TrySend(req[:1], 0, nil); err != nil {
		t.Errorf("there is room again, and %v", err)
	}
	c.fail(ErrLost)
	if err := c.TrySend(req[:1], 0, nil); !errors.Is(err, ErrLost) {
		t.Errorf("broken: %v", err)
	}
}

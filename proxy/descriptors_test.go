package proxy

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// TestShareDescriptors: whatever may be opened is enough for all that is let in, and
// what is configured is only lowered where it must be.
func TestShareDescriptors(t *testing.T) {
	for _, c := range []Config{
		{MaxClients: 10000, MaxPinned: 4096, OriginConnections: 2, Listen: []string{"a"}, Admin: "x"},
		{MaxClients: 10000, MaxPinned: 4096, OriginConnections: 2, Listen: []string{"a"}, Embedded: true},
		{MaxClients: 5, MaxPinned: 1, OriginConnections: 1, Listen: []string{"a", "b"}},
		{MaxClients: 10, MaxPinned: 4096, OriginConnections: 8, Listen: []string{"a"}, Admin: "x"},
		{MaxClients: math.MaxInt32, MaxPinned: math.MaxInt32, OriginConnections: 2, Listen: []string{"a"}},
	} {
		refused := 0
		for limit := int64(0); limit < 1<<33; limit += 1 + limit/3 {
			d, err := shareDescriptors(limit, &c)
			if err != nil {
				refused++
				continue
			}
			each := 1
			if c.Embedded {
				each = 2
			}
			clients := min(c.MaxClients, d.clients)
			used := clients + each*d.conns + d.admin + ownDescriptors + 2*runtime.GOMAXPROCS(0) + len(c.Listen)
			if c.Admin != "" {
				used++
			}
			if int64(used) > limit || clients < 1 || d.pinned < 1 || d.pinned > c.MaxPinned || d.conns < d.pinned+sharedGroups*d.shared || d.shared < 1 || d.shared > c.OriginConnections {
				t.Fatalf("%+v with %d: %+v", c, limit, d)
			}
			if (clients < c.MaxClients || d.pinned < c.MaxPinned) && int64(used) < min(limit, math.MaxInt32)-1 {
				t.Fatalf("%+v with %d: %+v, and %d are left", c, limit, d, limit-int64(used))
			}
		}
		if refused < 2 {
			t.Errorf("%+v: refused %d times", c, refused)
		}
	}
}

// TestFewDescriptors: with 64 of them 200 clients come. Those that are let in work,
// by transactions and subscriptions too, the others hear what Redis says, and the
// link and the admin address go on.
func TestFewDescriptors(t *testing.T) {
	redis := redistest.Start(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	admin := ln.Addr().String()
	ln.Close()
	p := startLimited(t, redis, 64, admin, "")
	get := func(path string) string {
		t.Helper()
		c := http.Client{Timeout: redistest.Timeout, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := c.Get("http://" + admin + path)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d, %v", path, resp.StatusCode, err)
		}
		return string(b)
	}
	var in []*redistest.Client
	refused, begun := 0, time.Now()
	for range 200 {
		c := redistest.Dial(t, p.addr)
		_, _ = io.WriteString(c.Conn, "PING\r\n") // one that is not let in may be closed already
		switch said, err := c.TryRead(); {
		case said == "PONG":
			in = append(in, c)
		case said == "-ERR max number of clients reached", errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			refused++
			c.Close()
		default:
			t.Fatalf("a client hears %q, %v", said, err)
		}
	}
	t.Logf("%v", time.Since(begun))
	t.Logf("%d clients are in, %d were told that there are too many", len(in), refused)
	if len(in) < 10 || refused < 100 {
		t.Errorf("%d clients are in, %d were told that there are too many", len(in), refused)
	}
	// All at once, again and again, with everything that takes a connection.
	var wg sync.WaitGroup
	for i, c := range in {
		wg.Go(func() {
			for round := range 20 {
				key := fmt.Sprintf("product:%d", i)
				for _, step := range [][]string{{"SET", key, "v"}, {"GET", key}, {"HELLO", fmt.Sprint(2 + round%2)}, {"MGET", key, "plain"}, {"DEL", key, "plain"}, {"SET", "lock:x", "y", "NX", "PX", "1"}, {"SELECT", fmt.Sprint(round % 2)}, {"GET", "other"}, {"SELECT", "0"}} {
					if got := c.Do(step...); strings.HasPrefix(got, "-") {
						t.Errorf("%q answers %q", step, got)
					}
				}
				// Few may own a connection at one time; the others hear why.
				if got := c.Do("BLPOP", "none", "0.005"); got != "(nil)" && !strings.Contains(got, "max_pinned") && !strings.Contains(got, "ulimit") {
					t.Errorf("BLPOP answers %q", got)
				}
			}
		})
	}
	for range 20 {
		get("/readyz")
		if !strings.Contains(get("/metrics"), "nearside_link_up 1\n") {
			t.Error("the link is down")
		}
	}
	wg.Wait()
	t.Logf("%v", time.Since(begun))
	// The link is lost and finds descriptors for its next connection.
	for _, c := range in {
		want(t, c, "PONG", "PING")
	}
	redis.Do("CLIENT", "KILL", "TYPE", "normal")
	p.eventually("the link is back", func() bool { return strings.Contains(get("/metrics"), "nearside_link_up 1\n") })
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) > 60 {
		t.Errorf("%d descriptors are open", len(files))
	}
	want(t, in[0], "OK", "SET", "product:1", "v")
	for _, c := range in {
		c.Close()
	}
	_ = p.cmd.Process.Signal(os.Interrupt)
	<-p.ended // and nobody writes the log any more
	if strings.Contains(p.log.String(), "too many open files") {
		t.Errorf("it ran out of descriptors:\n%s", p.log)
	}
	if !strings.Contains(p.log.String(), "too few file descriptors") {
		t.Errorf("it does not say so:\n%s", p.log)
	}
}

// TestTooFewDescriptors: with which nearside could not work it does not start.
func TestTooFewDescriptors(t *testing.T) {
	_, err := shareDescriptors(20, &Config{MaxClients: 1, MaxPinned: 1, OriginConnections: 2, Listen: []string{"a"}})
	if err == nil || !strings.Contains(err.Error(), "ulimit") {
		t.Errorf("got %v", err)
	}
}

// failing is a listener that cannot accept a few times.
type failing struct {
	net.Listener
	mu    sync.Mutex
	errs  []error
	tries []time.Time
}

func (f *failing) Accept() (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tries = append(f.tries, time.Now())
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		return nil, err
	}
	return nil, net.ErrClosed
}

// TestAcceptErrors: what passes is waited out without spinning; a listener that is
// broken is an error.
func TestAcceptErrors(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	passing := []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPROTO, syscall.ECONNABORTED, syscall.ENETDOWN, syscall.EPERM}
	f := &failing{errs: append([]error(nil), passing...)}
	if err := n.accept(f); err != nil {
		t.Errorf("errors that pass: %v", err)
	}
	if len(f.tries) != len(passing)+1 {
		t.Fatalf("%d attempts", len(f.tries))
	}
	for i := range passing {
		if pause := f.tries[i+1].Sub(f.tries[i]); pause < acceptPause {
			t.Errorf("after %v it tries again in %v", passing[i], pause)
		}
	}
	for _, err := range []error{syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK} {
		if got := n.accept(&failing{errs: []error{&net.OpError{Op: "accept", Err: os.NewSyscallError("accept", err)}}}); !errors.Is(got, err) {
			t.Errorf("%v: got %v", err, got)
		}
	}
}

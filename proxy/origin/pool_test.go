package origin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"

	"github.com/alicebob/miniredis/v2"
)

func TestOpenDoesNotDial(t *testing.T) {
	o := open(t, Config{URL: "redis://ann:s3cret@127.0.0.1:1/4"})
	if o.Addr() != "127.0.0.1:1" || o.User() != "ann" || o.Stats().Dials != 0 {
		t.Error(o.Addr(), o.User(), o.Stats())
	}
	if open(t, Config{URL: "redis://127.0.0.1:1"}).User() != "default" {
		t.Error("user")
	}
	if _, err := Open(Config{URL: "redis://ann:s3cret@127.0.0.1:port\x7f/"}); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Error(err)
	}
	if _, err := Open(Config{URL: "http://x"}); err == nil {
		t.Error("scheme taken")
	}
}

func TestUnreachable(t *testing.T) {
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	addr := l.Addr().String()
	_ = l.Close()
	o := open(t, Config{URL: "redis://:s3cret@" + addr})
	start := time.Now()
	_, err := o.Shared(ctxT(t), resp2, 0)
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "s3cret") {
		t.Fatal(err)
	}
	if d := time.Since(start); d > time.Second {
		t.Error(d)
	}
	_, again := o.Shared(ctxT(t), resp2, 0) // within 50 ms: the same one, undialled
	if time.Since(start) < 50*time.Millisecond && (!errors.Is(again, err) || o.Stats().Dials != 1) {
		t.Error(again, o.Stats())
	}
	eventually(t, func() bool { _, _ = o.Shared(ctxT(t), resp2, 0); return o.Stats().Dials >= 3 })
	if d := time.Since(start); d < 150*time.Millisecond {
		t.Errorf("three dials within %v", d)
	}
	if _, err := o.Pin(ctxT(t), resp2); !errors.Is(err, ErrUnreachable) {
		t.Error(err)
	}
	if st := o.Stats(); st.Pinned != 0 || st.DialErrors != st.Dials || o.out != 0 {
		t.Errorf("%+v", st)
	}
}

func TestSharedDialsOnce(t *testing.T) {
	s := redistest.Start(t)
	var ids sync.Map
	o := open(t, Config{URL: s.URL(), Connections: 2, OnConnect: func(id string) { ids.Store(id, true) }})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			c, err := o.Shared(context.Background(), resp2, uint64(i))
			if err != nil {
				t.Error(err)
				return
			}
			if _, ok := ids.Load(c.RunID()); !ok {
				t.Error("used before OnConnect")
			}
		})
	}
	wg.Wait()
	if st := o.Stats(); st.Dials != 2 || st.Shared != 2 {
		t.Errorf("%+v", st)
	}
	if sharedConn(t, o, Group{Proto: 2, Lock: true}) == sharedConn(t, o, resp2) {
		t.Error("locks share")
	}
	if o.Stats().Locks != 1 {
		t.Errorf("%+v", o.Stats())
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := o.Shared(canceled, Group{Proto: 2, DB: 9}, 0); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestRefused(t *testing.T) {
	s := redistest.Start(t, "--requirepass", "pw", "--maxclients", "20", "--databases", "4")
	good := "redis://:pw@" + s.Addr
	for _, tc := range []struct {
		name, url string
		group     Group
		want      string
	}{
		{"wrong password", "redis://:bad@" + s.Addr, resp2, "WRONGPASS "},
		{"wrong password, RESP3", "redis://:bad@" + s.Addr, Group{Proto: 3}, "WRONGPASS "},
		{"no password", s.URL(), resp2, "NOAUTH "},
		{"no password, database", s.URL(), Group{Proto: 3, DB: 2}, "NOAUTH "},
		{"database", good, Group{Proto: 2, DB: 4}, "ERR DB index is out of range"},
		{"client's password", good, Group{Proto: 2, User: "ann", Password: "no"}, "WRONGPASS "},
		{"client's password alone", good, Group{Proto: 3, Password: "no"}, "WRONGPASS "},
	} {
		o := open(t, Config{URL: tc.url})
		_, err := o.Shared(ctxT(t), tc.group, 0)
		var re *RefusedError
		if !errors.As(err, &re) || !strings.HasPrefix(re.Line, tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
		o.Close()
	}

	// nearside has no password, its client does.
	o := open(t, Config{URL: s.URL()})
	c, err := o.Shared(ctxT(t), Group{Proto: 3, DB: 1, User: "default", Password: "pw"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := call(t, c, "GET", "k"); got != "_\r\n" {
		t.Error(got)
	}
	o.Close()

	o = open(t, Config{URL: good})
	var last error
	for range 21 {
		if _, last = o.Pin(ctxT(t), resp2); last != nil {
			break
		}
	}
	var re *RefusedError
	if !errors.As(last, &re) || re.Line != "ERR max number of clients reached" {
		t.Errorf("%v", last)
	}
}

func TestClientUsers(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	call(t, sharedConn(t, o, resp2), "ACL", "SETUSER", "ann", "on", ">pw", "~*", "+get", "+acl|whoami")
	for _, proto := range []int{2, 3} {
		c, err := o.Shared(ctxT(t), Group{Proto: proto, DB: 1, User: "ann", Password: "pw"}, 0) // may neither SELECT nor INFO
		if err != nil {
			t.Fatal(err)
		}
		if got := call(t, c, "ACL", "WHOAMI"); got != "$3\r\nann\r\n" {
			t.Error(got)
		}
		if got := call(t, c, "SET", "k", "v"); !strings.HasPrefix(got, "-NOPERM") {
			t.Error(got)
		}
		if c.RunID() == "" {
			t.Error("no run id")
		}
	}
}

func TestGroupsOfWrongPasswordsAreForgotten(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	sharedConn(t, o, resp2)
	for _, p := range []string{"a", "b", "c"} {
		if _, err := o.Shared(ctxT(t), Group{Proto: 2, User: "ann", Password: p}, 0); err == nil {
			t.Fatal("let in")
		}
	}
	o.mu.Lock()
	o.dropGroups(o.now() + int64(time.Second))
	o.mu.Unlock()
	if n := len(*o.groups.Load()); n != 1 {
		t.Errorf("%d groups", n)
	}
}

func TestUnusedSharedConnectionsOfUsersLeave(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL(), Home: []int{0, 1}})
	call(t, sharedConn(t, o, resp2), "ACL", "SETUSER", "ann", "on", ">pw", "+@all", "~*")
	g := Group{Proto: 2, User: "ann", Password: "pw"}
	c := sharedConn(t, o, g)
	now := o.now()
	o.look(now)
	o.sweep(now + int64(unusedFor) - int64(time.Second))
	if sharedConn(t, o, g) != c {
		t.Fatal("left too early")
	}
	own := sharedConn(t, o, Group{Proto: 3, DB: 1})
	o.sweep(o.now() + int64(unusedFor) + 1)
	if !errors.Is(c.Err(), ErrRetired) || own.Err() != nil {
		t.Fatal(c.Err(), own.Err())
	}
	if err := c.Send(AppendCommand(nil, "PING"), 1, nil); !errors.Is(err, ErrRetired) {
		t.Fatal(err)
	}
	if sharedConn(t, o, g) == c {
		t.Fatal("still handed out")
	}
}

// A connection on which anything is going on is not closed for being unused, and
// whoever is about to use it learns that nothing was sent.
func TestRetire(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	const rounds = 2000
	lost := 0
	for i := range rounds {
		c := sharedConn(t, o, Group{Proto: 2, DB: 3})
		retired := make(chan bool)
		go func() { retired <- c.retire() }()
		b, err := c.Call(ctxT(t), AppendCommand(nil, "INCR", "n"), 1)
		switch gone := <-retired; {
		case err == nil:
			if want := fmt.Sprintf(":%d\r\n", i+1-lost); string(b) != want {
				t.Fatalf("%q, want %q", b, want)
			}
		case errors.Is(err, ErrRetired) && gone:
			lost++
		default:
			t.Fatalf("%v, retired %v", err, gone)
		}
	}
	t.Logf("%d of %d were too late", lost, rounds)
}

// However many groups are asked for, so many connections stay.
func TestManyGroups(t *testing.T) {
	s := redistest.Start(t, "--databases", "2000")
	o := open(t, Config{URL: s.URL(), Home: []int{0}})
	home := sharedConn(t, o, Group{Proto: 2})
	busy := sharedConn(t, o, Group{Proto: 2, DB: 1})
	blocked := newRecorder(1)
	if err := busy.Send(AppendCommand(nil, "BLPOP", "q", "0"), 1, numbered{blocked, 0}); err != nil {
		t.Fatal(err)
	}
	busy.Flush()
	for db := range 1200 {
		sharedConn(t, o, Group{Proto: 2, DB: db})
		if n := o.Stats().Shared; n > manyShared+1 {
			t.Fatalf("%d connections", n)
		}
	}
	now := o.now()
	o.look(now)
	for range 2 {
		o.sweep(o.now() + int64(unusedOfMany) + 1)
	}
	if n := o.Stats().Shared; n > fewShared {
		t.Errorf("%d connections stay", n)
	}
	if n := len(*o.groups.Load()); n > fewShared {
		t.Errorf("%d groups stay", n)
	}
	if home.Err() != nil || busy.Err() != nil {
		t.Error(home.Err(), busy.Err())
	}
	busy.Close(nil)
	blocked.wait(t)
}

func TestUnpin(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL(), MaxPinned: 2})
	a := pin(t, o, resp2)
	pin(t, o, resp2)
	if _, err := o.Pin(ctxT(t), resp2); !errors.Is(err, ErrTooManyPinned) {
		t.Fatal(err)
	}
	o.Unpin(a, true)
	o.Unpin(a, true) // counts once
	if st := o.Stats(); st.Pinned != 1 || st.Idle != 1 || o.out != 1 {
		t.Errorf("%+v", st)
	}
	if b := pin(t, o, Group{Proto: 3}); b == a {
		t.Fatal("wrong group")
	} else {
		o.Unpin(b, false)
	}
	if b := pin(t, o, resp2); b != a {
		t.Fatal("not reused")
	}
	o.Unpin(a, false)
	if a.Err() == nil {
		t.Fatal("dirty one open")
	}
	c := pin(t, o, resp2)
	if c == a {
		t.Fatal("dirty one reused")
	}
	o.Unpin(c, true)
	call(t, pin(t, o, resp2), "PING")

	// One that the server closes while it is idle leaves the pool.
	c = pin2(t, o)
	o.Unpin(c, true)
	call(t, sharedConn(t, o, resp2), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	eventually(t, func() bool { return o.Stats().Idle == 0 })
	<-c.Done()

	o.Unpin(pinFresh(t, o), true)
	o.sweep(o.now() + int64(idleFor) + int64(time.Second))
	eventually(t, func() bool { return o.Stats().Idle == 0 })
}

// pin2 frees all that is out first.
func pin2(t *testing.T, o *Origin) *Conn {
	t.Helper()
	o.mu.Lock()
	all := o.all()
	o.mu.Unlock()
	for _, c := range all {
		o.Unpin(c, false)
	}
	return pin(t, o, resp2)
}

func pinFresh(t *testing.T, o *Origin) *Conn {
	t.Helper()
	return pin2(t, o)
}

func TestIdleAreFew(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	var list []*Conn
	for range maxIdle + 5 {
		list = append(list, pin(t, o, resp2))
	}
	for _, c := range list {
		o.Unpin(c, true)
	}
	if st := o.Stats(); st.Idle != maxIdle {
		t.Errorf("%+v", st)
	}
}

func TestExpect(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	sh, used, idle := sharedConn(t, o, resp2), pin(t, o, resp2), pin(t, o, resp2)
	link, err := o.Dial(ctxT(t), Group{Proto: 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	o.Unpin(idle, true)
	id := sh.RunID()
	o.Expect(id)
	for _, c := range []*Conn{sh, used, idle, link} {
		if c.Err() != nil {
			t.Fatal(c.Err())
		}
	}
	r := newRecorder(1)
	send(t, used, numbered{r, 0}, 1, "BLPOP", "q", "0")
	used.Flush()
	o.Expect("another")
	for _, c := range []*Conn{sh, used, idle} {
		<-c.Done()
	}
	r.wantErrors(t, ErrLost)
	if link.Err() != nil {
		t.Error("the link is not Expect's")
	}
	_, err = o.Shared(ctxT(t), resp2, 0)
	if !errors.Is(err, ErrOtherServer) || !errors.Is(err, ErrUnreachable) {
		t.Error(err)
	}
	if _, err = o.Pin(ctxT(t), resp2); !errors.Is(err, ErrOtherServer) {
		t.Error(err)
	}
	o.Expect(id)
	if _, err = o.Shared(ctxT(t), resp2, 0); err != nil { // at once, without the old error
		t.Error(err)
	}
}

func TestOnConnectMayExpect(t *testing.T) {
	s := redistest.Start(t)
	var o *Origin
	ready := make(chan struct{})
	o = open(t, Config{URL: s.URL(), OnConnect: func(id string) { <-ready; o.Expect(id) }})
	close(ready)
	call(t, sharedConn(t, o, resp2), "PING")
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.sock")
	redistest.Start(t, "--unixsocket", path)
	o := open(t, Config{URL: "unix://" + path})
	call(t, sharedConn(t, o, resp2), "PING")
	if o.Addr() != path {
		t.Error(o.Addr())
	}
}

func TestEmbedded(t *testing.T) {
	m := miniredis.RunT(t)
	o := open(t, Config{URL: "redis://" + m.Addr(), SkipRunID: true})
	for _, proto := range []int{2, 3} {
		c := sharedConn(t, o, Group{Proto: proto, DB: 1})
		if got := call(t, c, "SET", "k", "v"); got != "+OK\r\n" || c.RunID() != "" {
			t.Error(got)
		}
	}
}

func TestCloseEndsEverything(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	c, p := sharedConn(t, o, resp2), pin(t, o, resp2)
	call(t, c, "PING")
	r := newRecorder(2)
	send(t, p, numbered{r, 0}, 1, "BLPOP", "q", "0")
	send(t, p, numbered{r, 1}, 1, "PING")
	p.Flush()
	o.Close()
	r.wantErrors(t, ErrClosed)
	if err := c.Send([]byte("x"), 1, nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := o.Shared(ctxT(t), resp2, 1); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := o.Pin(ctxT(t), resp2); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	o.Unpin(p, true)
	o.Close()
}

package origin

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

const short = 300 * time.Millisecond

func TestKilledServer(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL()})
	c, p := sharedConn(t, o, resp2), pin(t, o, resp2)
	call(t, c, "PING")
	s.Stop() // so that nothing is answered any more
	const n = 300
	r := newRecorder(n)
	for i := range n {
		send(t, c, numbered{r, i}, 1, "PING")
	}
	c.Flush()
	rp := newRecorder(1)
	send(t, p, numbered{rp, 0}, 1, "BLPOP", "q", "0")
	p.Flush()
	start := time.Now()
	s.Kill()
	r.wantErrors(t, ErrLost)
	rp.wantErrors(t, ErrLost)
	if d := time.Since(start); d > time.Second {
		t.Errorf("took %v", d)
	}
	if err := c.Send(AppendCommand(nil, "PING"), 1, numbered{r, 0}); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	if _, err := o.Shared(ctxT(t), resp2, 0); !errors.Is(err, ErrUnreachable) {
		t.Error(err)
	}
	o.Unpin(p, true)
	s.Restart()
	var d *Conn
	eventually(t, func() bool { d, _ = o.Shared(ctxT(t), resp2, 0); return d != nil })
	if got := call(t, d, "PING"); got != "+PONG\r\n" {
		t.Error(got)
	}
	if d.RunID() == c.RunID() {
		t.Error("same run id after a restart")
	}
	if st := o.Stats(); st.Lost != 2 || st.Outstanding != 0 || st.Pinned != 0 {
		t.Errorf("%+v", st)
	}
}

func TestStoppedServer(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL(), Timeout: short})
	c, p := sharedConn(t, o, resp2), pin(t, o, resp2)
	call(t, c, "PING")
	s.Stop()
	r, rp := newRecorder(2), newRecorder(1)
	start := time.Now()
	send(t, c, numbered{r, 0}, 1, "PING")
	send(t, c, numbered{r, 1}, 1, "PING")
	c.Flush()
	send(t, p, numbered{rp, 0}, 1, "BLPOP", "q", "0")
	p.Flush()
	r.wantErrors(t, ErrTimeout)
	d := time.Since(start)
	if d < short || d > short*11/10+short/2 {
		t.Errorf("timed out after %v", d)
	}
	rp.wantErrors(t, ErrTimeout)
	start = time.Now()
	if _, err := o.Shared(ctxT(t), resp2, 0); !errors.Is(err, ErrUnreachable) { // accepted by the kernel, answered by nobody
		t.Error(err)
	}
	if d := time.Since(start); d > 2*short {
		t.Errorf("handshake gave up after %v", d)
	}
	s.Continue()
	var d2 *Conn
	eventually(t, func() bool { d2, _ = o.Shared(ctxT(t), resp2, 0); return d2 != nil })
	call(t, d2, "PING")
	if st := o.Stats(); st.TimedOut != 2 {
		t.Errorf("%+v", st)
	}
}

func TestStuckWrite(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL(), Timeout: short})
	c := sharedConn(t, o, resp2)
	s.Stop()
	var wg sync.WaitGroup
	big := AppendCommand(nil, "SET", "k", fill(4<<20))
	start := time.Now()
	var mu sync.Mutex
	taken := 0
	var sinks []callSink
	for range 8 { // all but one of them wait for room in the buffer
		wg.Go(func() {
			k := make(callSink, 1)
			if err := c.Send(big, 1, k); err == nil {
				mu.Lock()
				taken++
				sinks = append(sinks, k)
				mu.Unlock()
			} else if !errors.Is(err, ErrTimeout) {
				t.Error(err)
			}
			c.Flush()
		})
	}
	wg.Wait()
	if d := time.Since(start); d > 5*short {
		t.Errorf("blocked for %v", d)
	}
	for _, k := range sinks {
		if r := <-k; !errors.Is(r.err, ErrTimeout) {
			t.Error(r.err)
		}
	}
	if taken == 8 {
		t.Error("no backpressure")
	}
}

// A script longer than Timeout: Redis says -BUSY to others from its threshold on.
func TestLongScriptTimesNobodyOut(t *testing.T) {
	s := redistest.Start(t, "--busy-reply-threshold", "50")
	o := open(t, Config{URL: s.URL(), Timeout: short})
	c, other, p := sharedConn(t, o, resp2), sharedConn(t, o, Group{Proto: 3}), pin(t, o, resp2)
	r := newRecorder(1)
	start := time.Now()
	send(t, c, numbered{r, 0}, 1, "EVAL", "local t=redis.call('TIME')[1]*1 while redis.call('TIME')[1]*1<t+2 do end return 7", "0")
	c.Flush()
	rp := newRecorder(1)
	send(t, p, numbered{rp, 0}, 1, "BLPOP", "q", "0")
	p.Flush()
	r.wait(t)
	if r.errs[0] != nil || r.got[0] != "0::7\r\n" {
		t.Fatal(r.got, r.errs)
	}
	if time.Since(start) < 3*short {
		t.Fatal("the script was too short to show anything")
	}
	call(t, other, "PING")
	call(t, other, "RPUSH", "q", "v")
	rp.wait(t)
	if st := o.Stats(); st.TimedOut != 0 || st.Heartbeats == 0 {
		t.Errorf("%+v %v", st, rp.got)
	}
}

// A single command that makes Redis mute for less than Timeout.
func TestMuteForAWhile(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL(), Timeout: 2 * short})
	c := sharedConn(t, o, resp2)
	for range 3 {
		if got := call(t, c, "DEBUG", "SLEEP", "0.45"); got != "+OK\r\n" {
			t.Fatal(got)
		}
	}
	if o.Stats().TimedOut != 0 {
		t.Errorf("%+v", o.Stats())
	}
}

func TestSilentSharedConnection(t *testing.T) {
	s := redistest.Start(t)
	relay := startRelay(t, s.Addr)
	o := open(t, Config{URL: "redis://" + relay.l.Addr().String(), Timeout: short, Connections: 2})
	dead := sharedConn(t, o, resp2)
	live, err := o.Shared(ctxT(t), resp2, 1)
	if err != nil {
		t.Fatal(err)
	}
	waiting := pin(t, o, resp2)
	rw := newRecorder(1)
	send(t, waiting, numbered{rw, 0}, 1, "BLPOP", "q", "0")
	waiting.Flush()
	relay.of(t, dead).hole.Store(true)
	r := newRecorder(1)
	start := time.Now()
	send(t, dead, numbered{r, 0}, 1, "PING")
	dead.Flush()
	r.wantErrors(t, ErrTimeout)
	if d := time.Since(start); d < short || d > 2*short {
		t.Errorf("after %v", d)
	}
	if live.Err() != nil || waiting.Err() != nil {
		t.Error(live.Err(), waiting.Err())
	}
	call(t, live, "RPUSH", "q", "v")
	rw.wait(t)
	if rw.errs[0] != nil {
		t.Error(rw.errs[0])
	}
	call(t, sharedConn(t, o, resp2), "PING")
}

func TestBlockedPinnedIsNotTimedOut(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL(), Timeout: 100 * time.Millisecond})
	p := pin(t, o, resp2)
	if got := call(t, p, "BLPOP", "q", "1"); got != "*-1\r\n" {
		t.Fatal(got)
	}
	if st := o.Stats(); st.TimedOut != 0 || st.Heartbeats == 0 {
		t.Errorf("%+v", st)
	}
	if time.Since(o.LastHeard()) > time.Second {
		t.Error(o.LastHeard())
	}
}

// An idle origin is asked nothing.
func TestNoHeartbeatWithoutNeed(t *testing.T) {
	s := redistest.Start(t)
	o := open(t, Config{URL: s.URL(), Timeout: short})
	c := sharedConn(t, o, resp2)
	call(t, c, "PING")
	for now := o.now(); now < o.now()+int64(10*short); now += int64(short / 10) {
		o.look(now)
	}
	if o.Stats().Heartbeats != 0 {
		t.Error("PING without need")
	}
}

// A reply nobody asked for, and bytes that are none.
func TestGarbage(t *testing.T) {
	for _, garbage := range []string{"+extra\r\n", "nonsense", "$3\r\nabcd\r\n", "*x\r\n"} {
		s := startFake(t, garbage)
		o := open(t, Config{URL: "redis://" + s, SkipRunID: true})
		c := sharedConn(t, o, resp2)
		r := newRecorder(2)
		send(t, c, numbered{r, 0}, 1, "FIRST")
		send(t, c, numbered{r, 1}, 2, "SECOND")
		c.Flush()
		r.wait(t)
		<-c.Done()
		answered := garbage == "+extra\r\n" // the third one is too many
		if r.got[0] != "0:+OK\r\n" || r.errs[0] != nil || !errors.Is(c.Err(), ErrLost) || (r.errs[1] == nil) != answered {
			t.Errorf("%q: %q %v", garbage, r.got, r.errs)
		}
		o.Close()
	}
}

// startFake knows no HELLO, answers +OK to everything else and adds garbage to SECOND's.
func startFake(t *testing.T, garbage string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				var in []byte
				buf := make([]byte, 4096)
				for {
					n, err := nc.Read(buf)
					if err != nil {
						return
					}
					in = append(in, buf[:n]...)
					for {
						req, rest := Split(in)
						if req == nil {
							break
						}
						in = rest
						answer := "+OK\r\n"
						if strings.Contains(strings.ToUpper(string(req)), "HELLO") {
							answer = "-ERR unknown command 'HELLO'\r\n"
						}
						if strings.Contains(string(req), "SECOND") {
							answer += garbage
							if garbage == "+extra\r\n" {
								answer += "+third\r\n"
							}
						}
						_, _ = io.WriteString(nc, answer)
						if garbage != "" && strings.Contains(string(req), "SECOND") {
							_ = nc.(*net.TCPConn).CloseWrite()
						}
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String()
}

// A server that says one line to whoever comes, and hangs up.
func TestTurnedAwayAtTheDoor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(nc, "-DENIED Redis is running in protected mode\r\n")
			_ = nc.Close()
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	for range 20 {
		o := open(t, Config{URL: "redis://:pw@" + l.Addr().String()})
		_, err = o.Pin(context.Background(), Group{Proto: 3, DB: 1})
		var re *RefusedError
		if !errors.As(err, &re) || !strings.HasPrefix(re.Line, "DENIED ") {
			t.Fatal(err)
		}
		o.Close()
	}
}

func TestRESP3IsNotSilentlyRESP2(t *testing.T) {
	addr := startFake(t, "") // go-redis goes on in RESP2
	o := open(t, Config{URL: "redis://" + addr, SkipRunID: true})
	_, err := o.Shared(ctxT(t), Group{Proto: 3}, 0)
	var re *RefusedError
	if !errors.As(err, &re) || !strings.HasPrefix(re.Line, "NOPROTO") {
		t.Fatal(err)
	}
	sharedConn(t, o, resp2)
}

package link

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// An ask is one command that the link wrote and the test has yet to answer.
type ask struct {
	args   string
	answer func([]byte, error)
}

// A fakeConn does nothing by itself: the test is its reading goroutine, and so orders answers and pushes exactly.
type fakeConn struct {
	runID string
	push  func([]byte)
	asks  chan ask
	done  chan struct{}
	lost  sync.Once
	mu    sync.Mutex
	hold  chan struct{} // if not nil, a PING is handed over only when it is closed
	event func(string)
}

func (c *fakeConn) Ask(answer func([]byte, error), args ...string) {
	c.mu.Lock()
	hold := c.hold
	c.mu.Unlock()
	if hold != nil && args[0] == "PING" {
		<-hold
	}
	c.asks <- ask{strings.Join(args, " "), answer}
}

func (c *fakeConn) Queue(answer func([]byte, error), args ...string) { c.Ask(answer, args...) }

func (c *fakeConn) RunID() string         { return c.runID }
func (c *fakeConn) Done() <-chan struct{} { return c.done }
func (c *fakeConn) Close()                { c.event("close"); c.lose() }
func (c *fakeConn) lose()                 { c.lost.Do(func() { close(c.done) }) }

func (c *fakeConn) holdPings(hold chan struct{}) {
	c.mu.Lock()
	c.hold = hold
	c.mu.Unlock()
}

// A dial is the link's attempt to connect; the test says how it ends.
type dial struct {
	conn   *fakeConn
	result chan error
}

type harness struct {
	*testing.T
	l      *Link
	dials  chan dial
	start  time.Time
	cancel context.CancelFunc
	ran    chan error

	mu     sync.Mutex
	events []string
	keys   []string
	causes []Cause // of invalidations of everything
	skew   atomic.Int64
}

const (
	pong      = "+PONG\r\n"
	master    = "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
	slave     = "*5\r\n$5\r\nslave\r\n$1\r\nh\r\n:1\r\n$9\r\nconnected\r\n:0\r\n"
	nullPush  = ">2\r\n$10\r\ninvalidate\r\n_\r\n"
	noPerm    = "-NOPERM this user has no permissions to run the command\r\n"
	tracking  = "CLIENT TRACKING ON BCAST PREFIX a: PREFIX b:"
	staleness = time.Second
)

var redis7 = info("redis_version:7.0.15", "redis_mode:standalone", "gcc_version:12.2.0")

func stats(lines ...string) string {
	text := "# Commandstats\r\n" + strings.Join(lines, "\r\n") + "\r\n"
	return fmt.Sprintf("=%d\r\ntxt:%s\r\n", len(text)+4, text)
}

// info is the reply to INFO of a section.
func info(lines ...string) string {
	text := strings.Join(lines, "\r\n") + "\r\n"
	return fmt.Sprintf("=%d\r\ntxt:%s\r\n", len(text)+4, text)
}

func events(flags string) string {
	return fmt.Sprintf("%%1\r\n$22\r\nnotify-keyspace-events\r\n$%d\r\n%s\r\n", len(flags), flags)
}

// inBubble runs a test with its own time and a link that has not connected yet.
func inBubble(t *testing.T, test func(h *harness), prepare ...func(l *Link)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &harness{T: t, dials: make(chan dial), start: time.Now(), ran: make(chan error, 1)}
		h.l = New(Config{
			Dial:         h.dial,
			Prefixes:     []string{"a:", "b:"},
			MaxStaleness: staleness,
			Now:          h.now,
			Invalidate: func(by Cause, key []byte) {
				h.mu.Lock()
				h.keys = append(h.keys, by.String()+" "+string(key))
				h.mu.Unlock()
			},
			InvalidatePattern: func(by Cause, pattern []byte) { h.event(by.String() + " pattern: " + string(pattern)) },
			InvalidateAll: func(by Cause, reason string) {
				h.mu.Lock()
				h.causes = append(h.causes, by)
				h.mu.Unlock()
				h.event("all: " + reason)
			},
			Up: func(runID string) { h.event("up " + runID + " " + h.l.RunID()) },
		})
		for _, p := range prepare {
			p(h.l)
		}
		ctx, cancel := context.WithCancel(t.Context())
		h.cancel = cancel
		go func() { h.ran <- h.l.Run(ctx) }()
		defer func() {
			h.l.Close()
			if err := <-h.ran; err != nil {
				t.Errorf("Run: %v", err)
			}
			cancel()
		}()
		test(h)
	})
}

func (h *harness) now() int64 { return int64(time.Since(h.start)) + h.skew.Load() }

// event notes what happened and what hits were told at that moment.
func (h *harness) event(what string) {
	v := h.l.Verdict(h.now())
	h.mu.Lock()
	h.events = append(h.events, what+" ["+v.String()+"]")
	h.mu.Unlock()
}

func (h *harness) dial(ctx context.Context, push func([]byte)) (Conn, error) {
	h.event("dial")
	c := &fakeConn{runID: "run1", push: push, asks: make(chan ask, 1000), done: make(chan struct{}), event: h.event}
	d := dial{c, make(chan error)}
	select {
	case h.dials <- d:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case err := <-d.result:
		if err != nil {
			return nil, err
		}
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (h *harness) accept() *fakeConn {
	d := <-h.dials
	d.result <- nil
	return d.conn
}

// next waits for a command; want is it, or how it begins.
func (h *harness) next(c *fakeConn, want string) ask {
	h.Helper()
	a := <-c.asks
	if !strings.HasPrefix(a.args, want) {
		h.Fatalf("the link wrote %q, want %q", a.args, want)
	}
	return a
}

// reply answers and lets everything happen that follows from it.
func (a ask) reply(reply string) {
	a.answer([]byte(reply), nil)
	synctest.Wait()
}

// up connects up to where the first PING is written.
func (h *harness) up() (c *fakeConn, ping ask) {
	h.Helper()
	c = h.accept()
	h.tracked(c)
	h.next(c, "ROLE").reply(master)
	h.next(c, "INFO commandstats").reply(stats("cmdstat_info:calls=5,usec=1"))
	return c, h.next(c, "PING")
}

// tracked acknowledges tracking and the subscription to Channel.
func (h *harness) tracked(c *fakeConn) {
	h.Helper()
	h.next(c, tracking).reply("+OK\r\n")
	h.next(c, "SUBSCRIBE "+Channel).reply(confirmed("subscribe", Channel))
	h.next(c, "INFO server").reply(redis7)
}

func confirmed(kind, channel string) string {
	return fmt.Sprintf(">3\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n:1\r\n", len(kind), kind, len(channel), channel)
}

// serving connects up to where hits are served.
func (h *harness) serving() *fakeConn {
	h.Helper()
	c, ping := h.up()
	ping.reply(pong)
	h.verdict(OK)
	return c
}

func (h *harness) verdict(want Verdict) {
	h.Helper()
	if got := h.l.Verdict(h.now()); got != want {
		h.Fatalf("verdict %v, want %v", got, want)
	}
	if h.l.Fresh(h.now()) != (want == OK) {
		h.Fatalf("Fresh and Verdict disagree at %v", want)
	}
}

func (h *harness) take() []string {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	events := h.events
	h.events = nil
	return events
}

func (h *harness) happened(want ...string) {
	h.Helper()
	if got := h.take(); !slices.Equal(got, want) {
		h.Fatalf("happened:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// idle says that the link has written nothing that is not answered.
func (h *harness) idle(c *fakeConn) {
	h.Helper()
	synctest.Wait()
	if n := len(c.asks); n > 0 {
		h.Fatalf("%d more commands, the first is %q", n, (<-c.asks).args)
	}
}

// answering answers everything as a healthy Redis at that distance would, in order, until stop is called.
func (h *harness) answering(c *fakeConn, roundTrip time.Duration) (stop func()) {
	type due struct {
		ask
		at time.Time
	}
	quit, wire := make(chan struct{}), make(chan due, 1000)
	var both sync.WaitGroup
	both.Go(func() {
		defer close(wire)
		for {
			select {
			case <-quit:
				return
			case a := <-c.asks:
				wire <- due{a, time.Now().Add(roundTrip)}
			}
		}
	})
	both.Go(func() {
		for a := range wire {
			time.Sleep(time.Until(a.at))
			a.answer([]byte(healthy(a.args)), nil)
		}
	})
	return func() { close(quit); both.Wait(); synctest.Wait() }
}

func healthy(args string) string {
	switch args {
	case "PING":
		return pong
	case "ROLE":
		return master
	case "INFO server":
		return redis7
	case "INFO commandstats":
		return stats("cmdstat_info:calls=5,usec=1")
	case "CONFIG GET " + eventsParameter:
		return events("AK")
	case "SUBSCRIBE " + Channel:
		return confirmed("subscribe", Channel)
	}
	return "+OK\r\n"
}

var errLost = errors.New("read: connection reset")

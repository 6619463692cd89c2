package link

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var connecting = []string{
	"all: link up [down]",
	"up run1 run1 [down]",
	"all: link up, connections to other servers closed [down]",
}

func TestOrderOfConnecting(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.accept()
		h.happened("dial [down]")
		a := h.next(c, tracking)
		h.idle(c) // nothing is asked before tracking is acknowledged
		a.reply("+OK\r\n")
		h.next(c, "SUBSCRIBE "+Channel).reply(confirmed("subscribe", Channel))
		h.next(c, "INFO server").reply(redis7)
		h.next(c, "ROLE").reply(master)
		h.happened() // the baseline comes before the invalidation
		h.next(c, "INFO commandstats").reply(stats())
		h.happened(connecting...)
		h.verdict(Down)
		if s := h.l.State(); s != StateConnecting {
			t.Fatalf("state %v", s)
		}
		h.next(c, "PING").reply(pong)
		h.verdict(OK)
		if s := h.l.State(); s != StateUp {
			t.Fatalf("state %v", s)
		}
	})
}

func TestOrderOfReconnecting(t *testing.T) {
	ways := map[string]func(h *harness, c *fakeConn){
		"done":      func(_ *harness, c *fakeConn) { c.lose() },
		"error":     func(h *harness, c *fakeConn) { h.next(c, "PING").answer(nil, errLost) },
		"drop":      func(h *harness, _ *fakeConn) { h.l.Drop("another run id"); h.verdict(Down) },
		"malformed": func(h *harness, c *fakeConn) { c.push([]byte(">2\r\n$3\r\n")); h.verdict(Down) },
	}
	for name, breaks := range ways {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				c := h.serving()
				h.take()
				breaks(h, c)
				h.take()
				h.verdict(Down)
				if id := h.l.RunID(); id != "" {
					t.Fatalf("run id %q while down", id)
				}
				if d, known := h.l.Bound(h.now()); known {
					t.Fatalf("bound %v while down", d)
				}
				d := <-h.dials
				h.happened("dial [down]")
				c.push([]byte(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n")) // what the old one still says is no harm
				d.result <- nil
				h.tracked(d.conn)
				h.next(d.conn, "ROLE").reply(master)
				h.happened()
				h.next(d.conn, "INFO").reply(stats())
				h.happened(connecting...)
				h.next(d.conn, "PING").reply(pong)
				h.verdict(OK)
				if n := h.l.Stats().Reconnects; n != 1 {
					t.Fatalf("%d reconnects", n)
				}
			})
		})
	}
}

// The connection is closed and dialled only when hits are off: every event of a loss says so.
func TestStopsBeforeAnythingElse(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		h.take()
		c.lose()
		h.happened("close [down]")
		h.accept()
		h.happened("dial [down]")
	})
}

// The PING of a lost connection is answered late: its PONG must not bring hits back.
func TestAnswersOfOldConnectionsDoNotCount(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		stop := h.answering(c, 0)
		time.Sleep(staleness/2 - time.Millisecond)
		stop()
		h.l.Raise()
		role := <-c.asks
		if role.args == "PING" { // the two are due at the same time
			h.l.Raise()
			role.reply(pong)
			role = h.next(c, "ROLE") // sent with a PING, since a fence is raised
		}
		info, old := h.next(c, "INFO commandstats"), h.next(c, "PING")
		h.l.Drop("test")
		h.verdict(Down)
		next, ping := h.up()
		h.l.Fence()
		role.reply(master)
		info.reply(stats("cmdstat_info:calls=6,usec=1"))
		old.reply(pong)
		h.verdict(Down)
		ping.reply(pong) // sent before the fence
		h.verdict(Fenced)
		h.next(next, "PING").reply(pong)
		h.verdict(OK)
	})
}

func TestTrackingRefused(t *testing.T) {
	var log strings.Builder
	inBubble(t, func(h *harness) {
		start := time.Now()
		for range 5 {
			c := h.accept()
			h.next(c, tracking).reply("-ERR Prefix 'a' overlaps with an existing prefix 'ab'.\r\n")
			h.verdict(Down)
			h.idle(c)
		}
		d := <-h.dials
		d.result <- errors.New("connection refused")
		<-h.dials
		if got := strings.Count(log.String(), "overlaps"); got != 1 {
			t.Errorf("logged %d times:\n%s", got, &log)
		}
		if !strings.Contains(log.String(), "connection refused") {
			t.Errorf("another reason is not logged:\n%s", &log)
		}
		if took := time.Since(start); took < (50+100+200+400+800+1600)*time.Millisecond/2 || took > 5*time.Second {
			t.Errorf("six attempts took %v", took)
		}
	}, func(l *Link) { l.log = slog.New(slog.NewTextHandler(&log, nil)) })
}

func TestEveryKeyNeedsNoPrefix(t *testing.T) {
	for _, prefixes := range [][]string{{""}, nil, {"a", ""}} {
		if got := strings.Join(trackingCommand(prefixes), " "); got != "CLIENT TRACKING ON BCAST" {
			t.Errorf("%q: %s", prefixes, got)
		}
	}
}

func TestBoundIsFromSendTime(t *testing.T) {
	inBubble(t, func(h *harness) {
		if _, known := h.l.Bound(h.now()); known {
			t.Fatal("a bound before the first PONG")
		}
		c, ping := h.up()
		sent := h.now()
		time.Sleep(50 * time.Millisecond)
		ping.reply(pong)
		if d, known := h.l.Bound(h.now()); !known || int64(d) != h.now()-sent {
			t.Fatalf("bound %v, %v; the PING was sent %v ago", d, known, time.Duration(h.now()-sent))
		}
		if rtt := h.l.Stats().RoundTrip; rtt != 50*time.Millisecond {
			t.Fatalf("round trip %v", rtt)
		}

		second := h.next(c, "PING")
		time.Sleep(staleness - time.Millisecond) // the first proof runs out meanwhile
		h.verdict(Stale)
		second.reply(pong) // late, so it proves what was true a second ago
		h.settleChecks(c)
		h.verdict(OK)
		time.Sleep(2 * time.Millisecond)
		h.verdict(Stale)
		if s := h.l.State(); s != StateBypassed {
			t.Fatalf("state %v", s)
		}
		if h.l.Wait(time.Hour, nil) {
			t.Fatal("Wait is true with a stale proof")
		}
		stop := h.answering(c, 0)
		time.Sleep(150 * time.Millisecond)
		stop()
		h.verdict(OK)
	})
}

// settleChecks answers the checks that were written, and leaves the PINGs.
func (h *harness) settleChecks(c *fakeConn) {
	h.Helper()
	var pings []ask
	for len(c.asks) > 0 {
		a := <-c.asks
		if a.args == "PING" {
			pings = append(pings, a)
			continue
		}
		a.reply(healthy(a.args))
	}
	for _, a := range pings {
		c.asks <- a
	}
}

func TestOnlyPongCounts(t *testing.T) {
	for _, reply := range []string{"-BUSY Redis is busy\r\n", "-LOADING\r\n", "-MASTERDOWN\r\n", "+OK\r\n", "$4\r\nPONG\r\n"} {
		inBubble(t, func(h *harness) {
			c := h.serving()
			first := h.now()
			deadline := time.Now().Add(5 * time.Second) // longer than a half-open link may last: it is not one
			for time.Now().Before(deadline) {
				a := <-c.asks
				if a.args == "PING" {
					a.reply(reply)
				} else {
					a.reply(healthy(a.args))
				}
				if time.Duration(h.now()-first) <= staleness {
					h.verdict(OK)
				} else {
					h.verdict(Stale)
				}
			}
			if d, _ := h.l.Bound(h.now()); d < 5*time.Second-staleness {
				t.Fatalf("%q advanced the proof: bound %v", reply, d)
			}
			synctest.Wait()
			h.settleChecks(c)
			h.next(c, "PING").reply(pong)
			h.verdict(Stale) // the first PONG after a refusal proves nothing
			h.next(c, "PING").reply(pong)
			h.verdict(OK)
			if n := h.l.Stats().Reconnects; n != 0 {
				t.Fatalf("reconnected %d times", n)
			}
		})
	}
}

func TestHalfOpen(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		h.take()
		lost := time.Now()
		time.Sleep(staleness)
		h.verdict(OK)
		time.Sleep(1 * time.Nanosecond)
		h.verdict(Stale)
		<-c.done
		if took := time.Since(lost); took != 3*time.Second {
			t.Errorf("closed after %v", took)
		}
		if n := len(c.asks); n > 40 {
			t.Errorf("%d commands for a link that does not answer", n)
		}
		h.verdict(Down)
		h.serving()
	})
}

// One exchange is under way, however long it takes.
func TestOneExchangeAtATime(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		time.Sleep(time.Minute)
		for range 100 {
			h.l.Fence()
			h.l.Ping()
		}
		ping := h.next(c, "PING")
		h.idle(c)
		ping.reply(pong)
		role, info := h.next(c, "ROLE"), h.next(c, "INFO commandstats")
		ping = h.next(c, "PING") // in one exchange with the check
		h.idle(c)
		role.reply(master)
		info.reply(stats("cmdstat_info:calls=6,usec=1"))
		h.idle(c)
		h.verdict(Stale)
		ping.reply(pong)
		h.verdict(OK)
		h.idle(c)
	}, func(l *Link) { l.terms.Load().patience = time.Hour })
}

// Nothing is answered while the link is set up, or the writer hangs: the same patience, and it gives up.
func TestHalfOpenWhileConnecting(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.accept()
		h.next(c, tracking)
		began := time.Now()
		<-c.done
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("closed after %v", took)
		}
		c, ping := h.up()
		hold := make(chan struct{})
		c.holdPings(hold)
		ping.reply(pong)
		began = time.Now()
		<-c.done
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("closed after %v", took)
		}
		select { // the writer is waited for, so two never share the fences' PINGs
		case <-h.dials:
			t.Error("dialled while the last connection's writer is not done")
		case <-time.After(10 * time.Second):
		}
		close(hold)
		h.serving()
	})
}

func TestCloseWaits(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		hold := make(chan struct{})
		c.holdPings(hold)
		time.Sleep(110 * time.Millisecond) // a PING is being written
		closed := make(chan struct{})
		go func() {
			h.l.Close()
			close(closed)
		}()
		synctest.Wait()
		h.verdict(Down)
		select {
		case <-closed:
			t.Error("Close did not wait")
		default:
		}
		close(hold)
		<-closed
	})
}

func TestSilentCommands(t *testing.T) {
	changes := map[string]struct {
		before, after, silent string
	}{
		"nothing":      {stats("cmdstat_info:calls=5,usec=1"), stats("cmdstat_info:calls=6,usec=2"), ""},
		"as before":    {stats("cmdstat_swapdb:calls=7,usec=1"), stats("cmdstat_swapdb:calls=7,usec=1"), ""},
		"first":        {stats("cmdstat_get:calls=5,usec=1"), stats("cmdstat_get:calls=5,usec=1", "cmdstat_swapdb:calls=1,usec=3,usec_per_call=3.00"), "SWAPDB"},
		"one more":     {stats("cmdstat_swapdb:calls=7,usec=1"), stats("cmdstat_swapdb:calls=8,usec=1"), "SWAPDB"},
		"reset":        {stats("cmdstat_swapdb:calls=7,usec=1"), stats(), "SWAPDB"},
		"reset, RESP2": {"$30\r\ncmdstat_info:calls=50,usec=1\r\n\r\n", "$29\r\ncmdstat_info:calls=1,usec=1\r\n\r\n", "CONFIG RESETSTAT"},
		"hidden reset": {stats("cmdstat_config|resetstat:calls=1,usec=9"), stats("cmdstat_config|resetstat:calls=1,usec=8"), "CONFIG RESETSTAT"},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				c := h.accept()
				h.tracked(c)
				h.next(c, "ROLE").reply(master)
				h.next(c, "INFO").reply(change.before)
				h.take()
				h.pongsUntil(c, "ROLE").reply(master)
				h.next(c, "INFO").reply(change.after)
				var want []string
				if change.silent != "" {
					want = append(want, "all: "+change.silent+" at the origin [ok]")
				}
				h.happened(want...)
				h.pongsUntil(c, "ROLE").reply(master)
				h.next(c, "INFO").reply(change.after)
				h.happened() // once is enough
				h.verdict(OK)
			})
		})
	}
}

// pongsUntil answers PINGs until another command comes.
func (h *harness) pongsUntil(c *fakeConn, want string) ask {
	h.Helper()
	for a := range c.asks {
		if a.args != "PING" {
			if !strings.HasPrefix(a.args, want) {
				h.Fatalf("the link wrote %q, want %q", a.args, want)
			}
			return a
		}
		a.reply(pong)
	}
	return ask{}
}

// PINGs alone do not prove that there was no SWAPDB.
func TestRefusedCheckStopsHits(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		checkedAt := h.now()
		for time.Duration(h.now()-checkedAt) < 2*staleness {
			a := <-c.asks
			if a.args == "PING" {
				a.reply(pong)
			} else {
				a.reply("-BUSY\r\n")
			}
			if time.Duration(h.now()-checkedAt) <= staleness {
				h.verdict(OK)
			} else {
				h.verdict(Stale)
			}
		}
	})
}

// What a check found is invalidated before the check counts, and it counts from when it was sent.
func TestUnansweredCheckStopsHits(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		h.take()
		role := h.pongsUntil(c, "ROLE")
		info := h.next(c, "INFO")
		time.Sleep(3 * staleness / 2)
		h.verdict(Stale)
		role.reply(master)
		info.reply(stats("cmdstat_swapdb:calls=1,usec=1"))
		h.happened("all: SWAPDB at the origin [stale]")
		h.verdict(Stale) // the check was sent 1.5 s ago
		h.pongsUntil(c, "ROLE").reply(master)
		h.next(c, "INFO").reply(stats("cmdstat_swapdb:calls=1,usec=1"))
		h.pongsUntil(c, "ROLE").reply(master)
		h.verdict(OK)
	})
}

func TestChecksNotPermitted(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.accept()
		h.tracked(c)
		h.next(c, "ROLE").reply(master)
		h.next(c, "INFO").reply(noPerm)
		if got := h.l.Stats().Silent; got != "INFO is not permitted: SWAPDB is not noticed" {
			t.Fatalf("explained as %q", got)
		}
		h.pongsUntil(c, "ROLE").reply(noPerm) // taken away later
		for range 30 {
			h.next(c, "PING").reply(pong)
			h.verdict(OK)
		}
		if got := h.l.Stats().Silent; !strings.Contains(got, "INFO is not permitted") || !strings.Contains(got, "ROLE is not permitted") {
			t.Fatalf("explained as %q", got)
		}
	})
}

func TestRoleChanges(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		h.take()
		h.pongsUntil(c, "ROLE").answer([]byte(slave), nil)
		h.verdict(Down) // at once
		info := h.next(c, "INFO")
		info.reply(stats("cmdstat_info:calls=6,usec=1"))
		h.verdict(Down)
		if got := h.take(); !slices.Contains(got, "all: the origin's role changed [down]") || !slices.Contains(got, "close [down]") {
			t.Fatalf("happened: %q", got)
		}
		h.serving()
	})
}

func TestPushes(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		h.take()
		c.push([]byte(">2\r\n$10\r\ninvalidate\r\n*2\r\n$3\r\na:1\r\n$3\r\na:2\r\n"))
		c.push([]byte(">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n"))
		h.happened()
		if !slices.Equal(h.keys, []string{"tracking a:1", "tracking a:2"}) {
			t.Fatalf("keys %q", h.keys)
		}
		c.push([]byte(nullPush))
		h.happened("all: flush at the origin [ok]")
		st := h.l.Stats()
		if st.Pushes != 3 || st.Keys != 2 || st.Nulls != 1 {
			t.Fatalf("%+v", st)
		}
		c.push([]byte("nonsense"))
		if got := h.take(); !slices.Contains(got, "all: malformed push [down]") {
			t.Fatalf("happened: %q", got)
		}
		h.verdict(Down)
	})
}

// A push that comes while the connection is still being dialled finds no session yet.
func TestMalformedPushWhileDialling(t *testing.T) {
	inBubble(t, func(h *harness) {
		d := <-h.dials
		d.conn.push([]byte("nonsense"))
		d.result <- nil
		<-d.conn.done
		h.verdict(Down)
		synctest.Wait()
		if s := h.l.State(); s != StateDown {
			t.Fatalf("state %v", s)
		}
		h.serving()
	})
}

func TestWithoutConnection(t *testing.T) {
	for mode, want := range map[string]struct {
		state State
		known bool
	}{ModeNone: {StateNone, false}, ModeEmbedded: {StateEmbedded, true}} {
		l := New(Config{Mode: mode})
		l.Fence()
		l.Drop("no effect")
		d, known := l.Bound(7)
		if l.Verdict(7) != OK || !l.Fresh(7) || l.Pending() || !l.Wait(0, nil) || d != 0 || known != want.known ||
			l.State() != want.state || l.Source() != mode || l.RunID() != "" {
			t.Errorf("%s: verdict %v, bound %v %v, state %v, source %s", mode, l.Verdict(7), d, known, l.State(), l.Source())
		}
		ended := make(chan error)
		go func() { ended <- l.Run(t.Context()) }()
		l.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	for _, cfg := range []Config{{Mode: "telepathy"}, {}} {
		l := New(cfg)
		if err := l.Run(t.Context()); err == nil {
			t.Errorf("%+v runs", cfg)
		}
		if l.Fresh(0) {
			t.Errorf("%+v serves hits", cfg)
		}
		l.Close()
	}
}

// Ends by its context at every stage; the bubble and goleak find what is left.
func TestEndsAtEveryStage(t *testing.T) {
	stages := map[string]func(h *harness){
		"dialling":   func(*harness) {},
		"waiting":    func(h *harness) { d := <-h.dials; d.result <- errors.New("refused"); synctest.Wait() },
		"connecting": func(h *harness) { h.next(h.accept(), tracking) },
		"up":         func(h *harness) { h.serving() },
	}
	for name, reach := range stages {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				reach(h)
				h.cancel()
				synctest.Wait()
				if err := <-h.ran; err != nil {
					t.Fatal(err)
				}
				h.verdict(Down)
				h.ran <- nil
			})
		})
	}
}

func BenchmarkFresh(b *testing.B) {
	l := New(Config{})
	l.until.Store(always)
	b.ReportAllocs()
	for b.Loop() {
		if !l.Fresh(1) {
			b.Fatal("not fresh")
		}
	}
}

func BenchmarkVerdict(b *testing.B) {
	l := New(Config{})
	l.until.Store(always)
	b.ReportAllocs()
	for b.Loop() {
		if l.Verdict(1) != OK {
			b.Fatal("not fresh")
		}
	}
}

package link

import (
	"testing"
	"testing/synctest"
	"time"
)

// The PING under way may have been answered by Redis before what the fence is raised for. And the next one is written only when
// that is answered: see "The proof".
func TestFenceNeedsLaterPing(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		early := h.next(c, "PING") // under way
		h.l.Fence()
		h.verdict(Fenced)
		if !h.l.Pending() {
			t.Fatal("not pending")
		}
		h.idle(c)
		began := time.Now()
		early.reply(pong)
		h.verdict(Fenced)
		late := h.next(c, "PING")
		if time.Since(began) > 0 {
			t.Fatal("it was a PING by the clock")
		}
		late.reply(pong)
		h.verdict(OK)
		if h.l.Pending() {
			t.Fatal("still pending")
		}
	})
}

// While PING 2 is being written, a fence is raised: it may or may not be on the wire, so it does not count.
func TestFenceWhilePingIsWritten(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		hold := make(chan struct{})
		c.holdPings(hold)
		time.Sleep(110 * time.Millisecond) // the pinger is inside Ask
		h.l.Fence()
		c.holdPings(nil)
		close(hold)
		h.next(c, "PING").reply(pong)
		h.verdict(Fenced)
		h.next(c, "PING").reply(pong)
		h.verdict(OK)
	})
}

func TestOnePingForManyFences(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		for range 1000 {
			h.l.Raise()
		}
		h.l.Ping()
		first := h.next(c, "PING")
		for range 1000 { // while it is under way: one more is for all of them
			h.l.Fence()
			synctest.Wait()
		}
		h.idle(c)
		began := time.Now()
		first.reply(pong)
		h.verdict(Fenced)
		last := h.next(c, "PING")
		h.idle(c)
		if time.Since(began) > 0 {
			t.Fatal("it was a PING by the clock")
		}
		last.reply(pong)
		h.verdict(OK)
		h.idle(c)
		if st := h.l.Stats(); st.Fences != 2000 || st.Pings != 3 || st.Pongs != st.Pings {
			t.Fatalf("%+v", st)
		}
	})
}

// A PING is being written when another one is wanted: whoever wants it does not wait, and nothing is written beside it.
func TestPingWhileOneIsWritten(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		hold := make(chan struct{})
		c.holdPings(hold)
		h.l.Fence() // the pinger draws 2 and is held up
		synctest.Wait()
		c.holdPings(nil)
		h.l.Raise()
		h.l.Ping()
		h.idle(c)
		close(hold)
		h.next(c, "PING").reply(pong)
		h.verdict(Fenced)
		h.next(c, "PING").reply(pong)
		h.verdict(OK)
		h.idle(c)
	})
}

// Ping writes at once, on the caller's goroutine; and nothing if nobody needs it.
func TestPingByTheCaller(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.l.Ping() // no connection yet
		c := h.serving()
		h.l.Ping() // no fence
		h.idle(c)
		h.l.Raise()
		h.idle(c)
		h.verdict(Fenced)
		h.l.Ping()
		if len(c.asks) != 1 { // no goroutine had to run for it
			t.Fatal("nothing was written before Ping returned")
		}
		h.l.Ping() // it is under way
		h.next(c, "PING").reply(pong)
		h.verdict(OK)
		h.idle(c)
	})
}

// While the connection is being made nobody but the pinger may send a PING: its PONG would prove something before changes are
// reported. Guard: session.pings.
func TestPingProvesNothingBeforeTheLinkIsUp(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.accept()
		ask := h.next(c, tracking)
		h.l.Raise()
		h.l.Ping()
		h.idle(c)
		h.verdict(Down)
		ask.reply("+OK\r\n")
		h.next(c, "SUBSCRIBE "+Channel).reply(confirmed("subscribe", Channel))
		h.next(c, "INFO server").reply(redis7)
		h.next(c, "ROLE").reply(master)
		h.next(c, "INFO commandstats").reply(stats("cmdstat_info:calls=5,usec=1"))
		h.next(c, "PING").reply(pong) // drawn after the fence: it passes it
		h.verdict(OK)
	})
}

// wait starts n calls of Wait and returns what they say.
func (h *harness) wait(n int, timeout time.Duration) <-chan bool {
	results := make(chan bool, n)
	for range n {
		go func() { results <- h.l.Wait(timeout, nil) }()
	}
	synctest.Wait()
	return results
}

func (h *harness) waited(results <-chan bool, want bool) {
	h.Helper()
	synctest.Wait()
	if len(results) != cap(results) {
		h.Fatalf("%d of %d still wait", cap(results)-len(results), cap(results))
	}
	for range cap(results) {
		if got := <-results; got != want {
			h.Fatalf("Wait was %v", got)
		}
	}
}

func TestWait(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		h.waited(h.wait(1, 0), true) // nothing to wait for

		h.l.Fence()
		results := h.wait(50, time.Hour)
		ping := h.next(c, "PING")
		if len(results) > 0 {
			t.Fatal("did not wait")
		}
		ping.reply(pong)
		h.waited(results, true)

		h.l.Fence()
		h.next(c, "PING")
		results = h.wait(1, 30*time.Millisecond)
		time.Sleep(30 * time.Millisecond)
		h.waited(results, false)

		results = h.wait(50, time.Hour)
		h.l.Drop("lost")
		h.waited(results, false)
		h.waited(h.wait(1, time.Hour), false) // down

		_, first := h.up()
		first.reply(pong) // sent after the fence, so it passes it
		h.verdict(OK)

		h.l.Fence()
		results = h.wait(1, time.Hour)
		time.Sleep(staleness - 1)
		if len(results) > 0 {
			t.Fatal("did not wait for the proof to run out")
		}
		time.Sleep(2 * time.Nanosecond)
		h.waited(results, false) // bypassed
	})
}

// Fences without end: hits in general never run, but each one that waits does, after at most two round trips.
func TestFencesDoNotStarveWaiters(t *testing.T) {
	inBubble(t, func(h *harness) {
		const rtt = 10 * time.Millisecond
		c := h.serving()
		stop := h.answering(c, rtt)
		quit, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for {
				h.l.Fence()
				select {
				case <-quit:
					return
				case <-time.After(100 * time.Microsecond):
				}
			}
		}()
		time.Sleep(rtt)
		pings := h.l.Stats().Pings
		began := time.Now()
		for range 100 {
			h.verdict(Fenced)
			one := time.Now()
			if !h.l.Wait(time.Second, nil) {
				t.Error("Wait gave up")
				break
			}
			if took := time.Since(one); took > 2*rtt {
				t.Errorf("waited %v", took)
			}
		}
		// One at a time.
		if n, most := h.l.Stats().Pings-pings, uint64(time.Since(began)/rtt)+2; n > most {
			t.Errorf("%d PINGs in %v", n, time.Since(began))
		}
		close(quit)
		<-ended
		stop()
	})
}

// A PING for fences that is refused is not repeated at once, and the next one by the clock passes the fence.
func TestFenceWhileBusy(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		h.l.Fence()
		h.next(c, "PING").reply("-BUSY\r\n")
		h.idle(c)
		h.verdict(Fenced)
		time.Sleep(100 * time.Millisecond)
		h.next(c, "PING").reply(pong)
		h.verdict(Fenced) // the first PONG after a refusal proves nothing
		h.next(c, "PING").reply(pong)
		h.verdict(OK)
	})
}

// Fences raised from many goroutines, and real ones: none is lost between the kick and the look.
func TestFencesConcurrently(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		stop := h.answering(c, 0)
		ended := make(chan bool)
		for range 8 {
			go func() {
				ok := true
				for range 500 {
					h.l.Fence()
					ok = h.l.Wait(50*time.Millisecond, nil) && ok // less than the interval: only a kicked PING is in time
				}
				ended <- ok
			}()
		}
		for range 8 {
			if !<-ended {
				t.Error("a fence was not passed in time")
			}
		}
		stop()
		h.verdict(OK)
	})
}

// The PONG comes while Wait is between its look and its sleep: the clock, which it reads in between, is where it comes in.
func TestWaitLosesNoWakeup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		between := func() {}
		l := New(Config{Now: func() int64 { between(); return 0 }})
		s := &session{l: l, ended: make(chan struct{}), notes: make(chan note), proof: never}
		l.begin(t.Context(), s)
		defer l.end(s, "over")
		s.first = 1
		l.prove(s, l.sent.Add(1))
		l.Fence()
		between = func() {
			between = func() {}
			l.prove(s, l.sent.Add(1))
		}
		began := time.Now()
		if !l.Wait(staleness/2, nil) || time.Since(began) > 0 {
			t.Fatalf("the PONG was missed, Wait took %v", time.Since(began))
		}
	})
}

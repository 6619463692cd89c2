package link

import (
	"testing"
	"testing/synctest"
	"time"
)

// sync starts n calls of Sync and returns what they say.
func (h *harness) sync(n int, timeout time.Duration) <-chan bool {
	results := make(chan bool, n)
	for range n {
		go func() { results <- h.l.Sync(timeout, nil) }()
	}
	synctest.Wait()
	return results
}

// The PING under way when Sync is called may have been answered by Redis before the write that the caller wants to see.
func TestSyncNeedsLaterPing(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		early := h.next(c, "PING") // under way
		results := h.sync(1, time.Hour)
		h.idle(c)
		early.reply(pong)
		if len(results) > 0 {
			t.Fatal("a PING from before the call was enough")
		}
		h.verdict(OK)
		h.next(c, "PING").reply(pong) // at once, no time has passed
		h.waited(results, true)
	})
}

// The same while a PING is being written: nobody can tell whether it is on the wire.
func TestSyncWhilePingIsWritten(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		hold := make(chan struct{})
		c.holdPings(hold)
		time.Sleep(110 * time.Millisecond) // the pinger is inside Ask
		results := h.sync(1, time.Hour)
		c.holdPings(nil)
		close(hold)
		h.next(c, "PING").reply(pong)
		if len(results) > 0 {
			t.Fatal("the PING that was being written was enough")
		}
		h.next(c, "PING").reply(pong)
		h.waited(results, true)
	})
}

func TestOnePingForManySyncs(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		results := h.sync(1, time.Hour)
		first := h.next(c, "PING")
		h.idle(c)
		pings := h.l.Stats().Pings
		more := h.sync(1000, time.Hour) // while it is under way
		h.idle(c)
		first.reply(pong)
		h.waited(results, true)
		second := h.next(c, "PING")
		h.idle(c)
		if len(more) > 0 {
			t.Fatal("the first PING was enough for those that came after it")
		}
		second.reply(pong)
		h.waited(more, true)
		h.idle(c)
		if st := h.l.Stats(); st.Syncs != 1001 || st.Pings != pings+1 {
			t.Fatalf("%+v", st)
		}
	})
}

// Who does not ask for Sync is not held up by it.
func TestSyncHoldsUpNobodyElse(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		results := h.sync(1, time.Hour)
		h.verdict(OK)
		if h.l.Pending() {
			t.Fatal("a fence is pending")
		}
		h.waited(h.wait(1, 0), true)
		h.l.Fence() // a fence raised meanwhile waits for a PING of its own
		h.next(c, "PING").reply(pong)
		h.waited(results, true)
		h.verdict(Fenced)
		h.next(c, "PING").reply(pong)
		h.verdict(OK)
	})
}

func TestSyncGivesUp(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.waited(h.sync(1, time.Hour), false) // not up yet
		c := h.serving()
		results := h.sync(1, 30*time.Millisecond)
		time.Sleep(30 * time.Millisecond)
		h.waited(results, false)

		results = h.sync(50, time.Hour)
		h.l.Drop("lost")
		h.waited(results, false)
		h.waited(h.sync(1, time.Hour), false) // down
		<-c.done

		c, ping := h.up()
		ping.reply(pong)
		results = h.sync(1, time.Hour)
		time.Sleep(staleness - 1)
		if len(results) > 0 {
			t.Fatal("did not wait for the proof to run out")
		}
		time.Sleep(2 * time.Nanosecond)
		h.waited(results, false) // the proof is too old
		h.settleChecks(c)
	})
	if New(Config{Mode: ModeNone}).Sync(time.Hour, nil) || !New(Config{Mode: ModeEmbedded}).Sync(0, nil) {
		t.Error("without a connection only the embedded Redis is in step")
	}
}

// The PING that was asked for on a lost connection is answered late: it proves nothing on the next one.
func TestSyncAcrossConnections(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		results := h.sync(1, time.Hour)
		old := h.next(c, "PING")
		h.l.Drop("test")
		h.waited(results, false)
		old.reply(pong)
		h.verdict(Down)
		h.waited(h.sync(1, time.Hour), false)
	})
}

func TestProven(t *testing.T) {
	inBubble(t, func(h *harness) {
		proven := func(want int64) {
			h.Helper()
			if at, known := h.l.Proven(); !known || at != want {
				h.Fatalf("proven %v, known %v, want %v", time.Duration(at), known, time.Duration(want))
			}
		}
		if _, known := h.l.Proven(); known {
			t.Fatal("known before the first PONG")
		}
		time.Sleep(time.Millisecond)
		c := h.accept()
		h.tracked(c)
		checkSent := h.now()
		role := h.next(c, "ROLE")
		time.Sleep(10 * time.Millisecond)
		role.reply(master)
		h.next(c, "INFO commandstats").reply(stats())
		first := h.now()
		ping := h.next(c, "PING")
		if _, known := h.l.Proven(); known {
			t.Fatal("known before the first PONG")
		}
		time.Sleep(10 * time.Millisecond)
		ping.reply(pong)
		proven(checkSent) // the check is the older one
		if first == checkSent {
			t.Fatal("the test shows nothing")
		}

		h.pongsUntil(c, "ROLE").reply(master)
		checkAt := h.now()
		h.next(c, "INFO commandstats").reply(stats())
		at, _ := h.l.Proven()
		lastPing := h.l.proof.Load()
		proven(min(checkAt, lastPing))
		if at <= checkSent {
			t.Fatal("the check has moved nothing")
		}

		h.l.Drop("lost")
		time.Sleep(time.Minute)
		proven(at) // survives the end of the connection
		h.tracked(h.accept())
		proven(at) // and lasts until there is a new one
	})
	for _, mode := range []string{ModeNone, ModeEmbedded} {
		if _, known := New(Config{Mode: mode}).Proven(); known {
			t.Errorf("%s: known", mode)
		}
	}
}

// A PONG that comes while checks are refused moves the proof but not what is proven; without the right to check the
// PING alone counts.
func TestProvenIsTheOlder(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		was, _ := h.l.Proven()
		for range 12 {
			a := <-c.asks
			if a.args != "PING" {
				a.reply("-BUSY\r\n")
				continue
			}
			a.reply(pong)
		}
		if at, _ := h.l.Proven(); at != was {
			t.Fatalf("proven %v without a check", time.Duration(at-was))
		}
		if h.l.proof.Load() == was {
			t.Fatal("the test shows nothing")
		}
		stop := h.answering(c, 0)
		time.Sleep(staleness / 2)
		stop()
		if at, _ := h.l.Proven(); at <= was {
			t.Fatal("the check has moved nothing")
		}
	})
	inBubble(t, func(h *harness) {
		c := h.accept()
		h.tracked(c)
		h.next(c, "ROLE").reply(noPerm)
		h.next(c, "INFO").reply(noPerm)
		for range 20 {
			h.next(c, "PING").reply(pong)
			if at, known := h.l.Proven(); !known || at != h.l.proof.Load() {
				t.Fatalf("proven %v, %v", at, known)
			}
		}
	})
}

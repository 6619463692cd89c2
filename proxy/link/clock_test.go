package link

import (
	"testing"
	"testing/synctest"
	"time"
)

// The machine was suspended: the clock is far ahead, Go's timers are not. What happened meanwhile is not known, so the first
// look serves nothing, and only an answer from after it, of the PING and of the check, brings hits back.
func TestClockJumpsForward(t *testing.T) {
	for _, mode := range []string{ModeTracking, ModeKeyspace} {
		inBubble(t, func(h *harness) {
			c := h.upIn(mode)
			early := h.next(c, "PING") // sent before the machine fell asleep
			h.skew.Add(int64(8 * time.Hour))
			h.verdict(Stale)
			if d, known := h.l.Bound(h.now()); !known || d < 8*time.Hour {
				t.Errorf("bound %v", d)
			}
			early.reply(pong)
			h.verdict(Stale)
			h.next(c, "PING").reply(pong)
			h.verdict(Stale) // the last check is from before
			h.pongsUntil(c, "ROLE").reply(master)
			if mode == ModeKeyspace {
				h.next(c, getEvents).reply(events("AK"))
			}
			h.next(c, "INFO").reply(stats())
			h.verdict(OK)
		}, inMode(mode))
	}
}

// The clock was set back. Without a bound on both sides the proof would last until the clock has come to it again.
func TestClockJumpsBack(t *testing.T) {
	for _, mode := range []string{ModeTracking, ModeKeyspace} {
		inBubble(t, func(h *harness) {
			time.Sleep(time.Hour)
			c := h.upIn(mode)
			h.skew.Add(-int64(30 * time.Minute))
			h.verdict(Stale)
			if h.l.Wait(0, nil) || h.l.Sync(0, nil) {
				t.Error("may be looked up")
			}
			if s := h.l.State(); s != StateBypassed {
				t.Errorf("state %v", s)
			}
			h.pongsUntil(c, "ROLE").reply(master) // PINGs of the new time
			h.verdict(OK)
			// And the bound is that of the new time.
			time.Sleep(staleness + 1)
			h.verdict(Stale)
			synctest.Wait()
		}, inMode(mode))
	}
}

// A request that came in before the last PONG is not taken for a clock that was set back.
func TestRequestFromBeforeTheProof(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.serving()
		then := h.now()
		stop := h.answering(c, 0)
		time.Sleep(staleness)
		stop()
		if v := h.l.Verdict(then); v != OK {
			t.Fatalf("verdict %v", v)
		}
	})
}

func (h *harness) upIn(mode string) *fakeConn {
	h.Helper()
	if mode == ModeKeyspace {
		return h.keyspaceUp()
	}
	return h.serving()
}

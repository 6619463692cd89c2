package link

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Hits stop before the swap, and no connection is made before it has returned: one that
// is without a prefix would be up while that is still relied on.
func TestChangeHoldsConnections(t *testing.T) {
	inBubble(t, func(h *harness) {
		old := h.serving()
		h.take()
		swapping, swapped := make(chan struct{}), make(chan struct{})
		done := make(chan bool)
		go func() {
			done <- h.l.Change([]string{"a:", "c:"}, 50*time.Millisecond, 2*staleness, func() {
				h.event("swap")
				close(swapping)
				<-swapped
			})
		}()
		<-swapping
		events := h.take()
		slices.Sort(events) // several goroutines at once
		if want := []string{"close [down]", "dial [down]", "swap [down]"}; !slices.Equal(events, want) {
			t.Fatalf("happened: %q, want %q", events, want)
		}
		c := h.accept()
		h.idle(c) // it is dialled and says nothing
		time.Sleep(time.Hour)
		h.idle(c)
		close(swapped)
		if !<-done {
			t.Error("nothing has changed")
		}
		h.next(c, "CLIENT TRACKING ON BCAST PREFIX a: PREFIX c:").reply("+OK\r\n")
		h.next(c, "SUBSCRIBE "+Channel).reply(confirmed("subscribe", Channel))
		h.next(c, "INFO server").reply(redis7)
		h.next(c, "ROLE").reply(master)
		h.next(c, "INFO commandstats").reply(stats("cmdstat_info:calls=5,usec=1"))
		h.verdict(Down)
		stop := h.answering(c, 0)
		defer stop()
		synctest.Wait()
		h.verdict(OK)
		select {
		case <-old.done:
		default:
			t.Error("the old connection is open")
		}
	})
}

// The new interval and bound hold.
func TestChangeOfBound(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.serving()
		h.l.Change([]string{"a:", "b:"}, 10*time.Millisecond, 100*time.Millisecond, func() {})
		c, ping := h.up()
		ping.reply(pong)
		h.verdict(OK)
		time.Sleep(10 * time.Millisecond)
		h.next(c, "PING") // and is not answered
		time.Sleep(91 * time.Millisecond)
		h.verdict(Stale)
	})
}

// Where nothing is different the connection stays, and hits go on.
func TestChangeOfNothing(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.serving()
		h.take()
		if h.l.Change([]string{"a:", "b:"}, 100*time.Millisecond, staleness, func() { h.event("swap") }) {
			t.Error("something has changed")
		}
		h.happened("swap [ok]")
	})
}

// While the origin is away the terms change all the same, and the next connection has them.
func TestChangeWhileDown(t *testing.T) {
	inBubble(t, func(h *harness) {
		d := <-h.dials
		h.l.Change([]string{"c:"}, 0, 0, func() {})
		d.result <- nil // dialled before, begins after
		h.next(d.conn, "CLIENT TRACKING ON BCAST PREFIX c:").reply("+OK\r\n")
		if got := h.l.terms.Load().prefixes; !slices.Equal(got, []string{"c:"}) {
			t.Error(got)
		}
	})
}

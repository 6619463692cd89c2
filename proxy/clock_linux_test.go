package proxy

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const second = int64(time.Second)

// The machine sleeps for an hour: the first look at the clock after that asks the kernel.
func TestClockNoticesSleep(t *testing.T) {
	var none *clockReading
	r := none.after(1000*second, 5*second, 7*second, 5*second)
	if r.ahead != 2*second {
		t.Fatalf("%d ns ahead", r.ahead)
	}
	const soon = 5*second + second/100
	if !r.holds(1000*second+second/100, soon) {
		t.Error("the reading is not trusted although nothing has happened")
	}
	if r.holds(4600*second+second/100, soon) {
		t.Error("the reading is trusted although the machine has slept")
	}
	if r.holds(999*second, soon) {
		t.Error("the reading is trusted although somebody has set the clock")
	}
	if r.holds(1000*second+second, 6*second) {
		t.Error("the reading is trusted for too long")
	}
	slept := r.after(4600*second, soon, 3607*second+second/100, soon)
	if slept.ahead != 3602*second {
		t.Errorf("%d ns ahead after an hour", slept.ahead)
	}
}

// As long as the machine does not sleep the clock does not go back, although what lies
// between two readings is never the same.
func TestClockKeepsItsPace(t *testing.T) {
	var r *clockReading
	r = r.after(0, 100, 1300, 300)
	if r.ahead != 1100 {
		t.Fatalf("%d ns ahead", r.ahead)
	}
	for _, c := range []struct{ from, boot, to, want int64 }{
		{1000, 2110, 1020, 1100}, // between 1,090 and 1,110: as before
		{1000, 2110, 1005, 1107}, // it cannot have been so little
		{1000, 2095, 1030, 1080}, // nor so much
	} {
		if got := r.after(0, c.from, c.boot, c.to).ahead; got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// What clockNow says lies between two readings of the kernel's clock.
func TestClockIsTheKernels(t *testing.T) {
	boot := func() int64 {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			t.Fatal(err)
		}
		return ts.Nano()
	}
	const off = int64(50 * time.Microsecond) // half of what may lie within one reading, and it was interrupted
	last := int64(0)
	for range 100000 {
		before := boot()
		now := clockNow()
		if after := boot(); now < before-off || now > after+off {
			t.Fatalf("%d, the kernel says %d to %d", now, before, after)
		}
		if now < last-off {
			t.Fatalf("the clock went back by %d ns", last-now)
		}
		last = now
	}
}

func BenchmarkClock(b *testing.B) {
	for b.Loop() {
		clockNow()
	}
}

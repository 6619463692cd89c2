package proxy

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// clockNow returns nanoseconds of CLOCK_BOOTTIME, which also runs while the
// machine sleeps: after a resume neither a TTL nor the proof of freshness may
// look younger than it is. Go's own monotonic clock stands still meanwhile.
//
// To ask the kernel is a system call, a tenth of what nearside itself takes for a
// hit. Go's clocks are read without one, and tell when the kernel has to be asked:
// when the machine wakes up, CLOCK_REALTIME is put forward together with
// CLOCK_BOOTTIME (__timekeeping_inject_sleeptime in Linux's timekeeping.c), and
// CLOCK_MONOTONIC is not.
func clockNow() int64 {
	now := time.Now()
	mono := int64(now.Sub(clockBegan))
	if r := clockRead.Load(); r != nil && r.holds(now.UnixNano(), mono) {
		return mono + r.ahead
	}
	return readClock()
}

var (
	clockBegan = time.Now()
	clockRead  atomic.Pointer[clockReading]
)

// clockReading is what CLOCK_BOOTTIME was found to be.
type clockReading struct {
	mono  int64 // the monotonic clock then
	apart int64 // by how much CLOCK_REALTIME was ahead of that
	ahead int64 // by how much CLOCK_BOOTTIME was
}

const (
	// sleptLeast is how far real and monotonic time must have come apart: beyond what
	// lies between the readings of two clocks, mostly, and not worth being noticed.
	sleptLeast = int64(time.Millisecond)
	// readAnew is how long a reading is trusted, should somebody put CLOCK_REALTIME
	// back by just as long as the machine has slept.
	readAnew = int64(100 * time.Millisecond)
)

// holds tells whether the machine has not slept since the reading.
func (r *clockReading) holds(wall, mono int64) bool {
	moved := wall - mono - r.apart
	return -sleptLeast < moved && moved < sleptLeast && mono-r.mono < readAnew
}

// after is the reading that follows r, which may be nil: boot was read between from
// and to. Where r is still true nothing changes, so that the clock never goes back.
func (r *clockReading) after(wall, from, boot, to int64) *clockReading {
	least, most := boot-to, boot-from
	next := &clockReading{mono: to, apart: wall - from, ahead: least + (most-least)/2}
	if r != nil && least <= r.ahead && r.ahead <= most {
		next.ahead = r.ahead
	}
	return next
}

// narrow is how close together the readings should be; the goroutine may be interrupted.
const narrow = int64(5 * time.Microsecond)

func readClock() int64 {
	last := clockRead.Load()
	var next *clockReading
	for range 5 {
		now := time.Now()
		var ts unix.Timespec
		// The call fails only for an unknown clock or a bad pointer.
		_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
		from, to := int64(now.Sub(clockBegan)), int64(time.Since(clockBegan))
		next = last.after(now.UnixNano(), from, ts.Nano(), to)
		if to-from < narrow {
			break
		}
	}
	clockRead.CompareAndSwap(last, next) // else somebody else has just read it
	return next.mono + next.ahead
}

package proxy

import "golang.org/x/sys/unix"

// clockNow returns nanoseconds of CLOCK_BOOTTIME, which also runs while the
// machine sleeps: after a resume neither a TTL nor the proof of freshness may
// look younger than it is. Go's own monotonic clock stands still meanwhile.
func clockNow() int64 {
	var ts unix.Timespec
	// The call fails only for an unknown clock or a bad pointer.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return ts.Nano()
}

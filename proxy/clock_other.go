//go:build !linux

package proxy

import "golang.org/x/sys/unix"

// clockNow returns nanoseconds of CLOCK_MONOTONIC, which on macOS also runs
// while the machine sleeps (mach_continuous_time).
func clockNow() int64 {
	var ts unix.Timespec
	// The call fails only for an unknown clock or a bad pointer.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

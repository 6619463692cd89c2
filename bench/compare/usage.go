package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is the processor time, user and system, that a process has used since
// its start, threads that have ended included. The clock has nanoseconds, where
// /proc/PID/stat counts hundredths of a second.
func cpuTime(pid int) (time.Duration, error) {
	const scheduled = 2 // CPUCLOCK_SCHED: see clock_getcpuclockid(3)
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|scheduled, &ts); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// residentBytes is the memory of a process that is in RAM.
func residentBytes(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, fmt.Errorf("statm of process %d: %q", pid, b)
	}
	pages, err := strconv.ParseInt(string(f[1]), 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// tick is the unit of /proc/stat: USER_HZ is 100 everywhere.
const tick = 10 * time.Millisecond

// processors is the time that all processors together have had nothing to do so
// far, and what the machine's host gave to others.
func processors() (idle, stolen time.Duration) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return parseProcessors(string(line))
}

// parseProcessors reads "cpu user nice system idle iowait irq softirq steal ...".
func parseProcessors(line string) (idle, stolen time.Duration) {
	for i, s := range strings.Fields(line) {
		n, _ := strconv.ParseInt(s, 10, 64)
		switch i {
		case 4, 5:
			idle += time.Duration(n) * tick
		case 8:
			stolen = time.Duration(n) * tick
		}
	}
	return idle, stolen
}

// accounted is the processor time that was idle, or went to the lab and to the
// harness. The rest went to strangers: when that is much, what was measured
// meanwhile is worth little. Busy times would say it more directly, but they are
// sampled by ticks, and whoever sleeps often is missed.
func (l *lab) accounted() time.Duration {
	sum, _ := processors()
	for _, p := range l.peers {
		if p.proc != nil {
			if d, err := cpuTime(p.pid); err == nil {
				sum += d
			}
		}
	}
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} { // children that have ended
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return sum
}

// usage is what a peer, and the Redis behind it, have used so far.
type usage struct{ cpu, originCPU time.Duration }

func (u usage) minus(v usage) usage { return usage{u.cpu - v.cpu, u.originCPU - v.originCPU} }

// usage reads the processor times; of a peer without a process id they are 0.
func (p *peer) usage() (usage, error) {
	var u usage
	var err error
	if p.pid != 0 {
		if u.cpu, err = cpuTime(p.pid); err != nil {
			return u, err
		}
	}
	if p.origin != nil {
		u.originCPU, err = cpuTime(p.origin.pid)
	}
	return u, err
}

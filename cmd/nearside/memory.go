package main

import (
	"io/fs"
	"log/slog"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// What the process takes beyond twice cache.memory and buffers: stacks, sessions
// and what the collector is late with.
const (
	softOthers = 64 * miB  // from here on the collector works harder
	mostOthers = 128 * miB // in the stated bound
)

// limitMemory makes the garbage collector work harder before the process leaves
// its stated bound, 2×memory + buffers + 128 MiB, or what the machine's owner
// allows it. GOMEMLIMIT overrides it.
func limitMemory(memory, buffers int64, root fs.FS, log *slog.Logger) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	allowed, ok := cgroupMemory(root)
	if bound := 2*memory + buffers + mostOthers; ok && allowed < bound {
		log.Warn("the cgroup allows less memory than nearside may need: raise its limit, or lower cache.memory or buffers",
			"memory_max", allowed, "needed", bound)
	}
	debug.SetMemoryLimit(softLimit(memory, buffers, allowed, ok))
}

// softLimit is what the collector aims at, in bytes. A process is killed at
// what its cgroup allows, and not all it takes is under the collector's eyes:
// that leaves it a tenth.
func softLimit(memory, buffers, allowed int64, limited bool) int64 {
	limit := 2*memory + buffers + softOthers
	if limited {
		limit = min(limit, allowed-allowed/10)
	}
	return limit
}

// cgroupMemory is the least memory.max, in bytes, of this process's cgroup (v2)
// and those above it; false if there is none. In a container the files of the
// cgroup lie at the top, whatever its name is outside.
func cgroupMemory(root fs.FS) (limit int64, ok bool) {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, false // not Linux
	}
	for line := range strings.Lines(string(text)) {
		group, v2 := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		if !v2 {
			continue
		}
		for dir := path.Join("sys/fs/cgroup", path.Clean("/"+group)); dir != "sys/fs"; dir = path.Dir(dir) {
			b, err := fs.ReadFile(root, dir+"/memory.max")
			if err != nil {
				continue // the root has none
			}
			n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
			if err == nil && (!ok || n < limit) { // "max" is no number
				limit, ok = n, true
			}
		}
	}
	return limit, ok
}

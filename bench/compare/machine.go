package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine describes what a run was made on, without its name.
func machine() string {
	var u unix.Utsname
	kernel := "?"
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	model := "?"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for in := bufio.NewScanner(f); in.Scan(); {
			if name, value, ok := strings.Cut(in.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	memory := "?"
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib int64
		if _, err := fmt.Sscanf(string(b), "MemTotal: %d kB", &kib); err == nil {
			memory = fmt.Sprintf("%.0f GiB", float64(kib)/(1<<20))
		}
	}
	// The release alone: what follows the version names somebody's build.
	kernel, _, _ = strings.Cut(kernel, "-")
	return fmt.Sprintf("%d processors (%s), %s of memory, Linux %s %s", runtime.NumCPU(), model, memory, kernel, runtime.GOARCH)
}

var versionPattern = regexp.MustCompile(`\d+\.\d+(\.\d+)?`)

// versions asks every program what it is.
func versions(ctx context.Context, bins binaries) string {
	say := func(program string, args ...string) string {
		var out bytes.Buffer
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Stdout, cmd.Stderr = &out, &out
		if cmd.Run() != nil && out.Len() == 0 {
			return "?"
		}
		return strings.TrimSpace(out.String())
	}
	v := func(program string, args ...string) string { return versionPattern.FindString(say(program, args...)) }
	list := []string{}
	for _, b := range bins {
		out, err := exec.CommandContext(ctx, b.path, "-version").Output()
		if err != nil {
			out = []byte("?")
		}
		list = append(list, strings.TrimPrefix(b.name+": ", "nearside: ")+strings.TrimSpace(string(out)))
	}
	list = append(list, "Redis and redis-benchmark "+v("redis-server", "--version"), "nutcracker "+v("nutcracker", "--version"),
		"haproxy "+v("haproxy", "-v"), runtime.Version())
	return strings.Join(list, ", ")
}

package main

import (
	"bytes"
	"log/slog"
	"math"
	"runtime/debug"
	"strings"
	"testing"
	"testing/fstest"
)

func TestCgroupMemory(t *testing.T) {
	const self = "proc/self/cgroup"
	tests := []struct {
		name  string
		files map[string]string
		want  int64
		ok    bool
	}{
		{"no cgroups", nil, 0, false},
		{"a container", map[string]string{self: "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 512 * miB, true},
		{"no limit", map[string]string{self: "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}, 0, false},
		{
			"a service",
			map[string]string{self: "0::/system.slice/nearside.service\n", "sys/fs/cgroup/system.slice/nearside.service/memory.max": "1000\n"},
			1000, true,
		},
		{
			"the slice allows less", map[string]string{
				self: "0::/s.slice/n.service\n", "sys/fs/cgroup/s.slice/memory.max": "900\n", "sys/fs/cgroup/s.slice/n.service/memory.max": "1000\n",
			}, 900, true,
		},
		{
			"the slice allows more", map[string]string{
				self: "0::/s.slice/n.service\n", "sys/fs/cgroup/s.slice/memory.max": "1100\n", "sys/fs/cgroup/s.slice/n.service/memory.max": "1000\n",
			}, 1000, true,
		},
		{
			"version 1 beside it", map[string]string{
				self: "9:name=systemd:/x\n4:memory:/x\n0::/\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1000\n",
			}, 0, false,
		},
		{
			"a name of outside",
			map[string]string{self: "0::/../../outside\n", "sys/fs/cgroup/memory.max": "1000\n", "outside/memory.max": "1\n"},
			1000, true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := fstest.MapFS{}
			for name, text := range tt.files {
				root[name] = &fstest.MapFile{Data: []byte(text)}
			}
			if got, ok := cgroupMemory(root); got != tt.want || ok != tt.ok {
				t.Errorf("%d, %v, want %d, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestSoftLimit(t *testing.T) {
	tests := []struct {
		name    string
		allowed int64
		limited bool
		want    int64
	}{
		{"nobody limits it", 0, false, (2*64 + 128 + 64) * miB},
		{"enough", 512 * miB, true, (2*64 + 128 + 64) * miB},
		{"too little", 200 * miB, true, 180 * miB},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := softLimit(64*miB, 128*miB, tt.allowed, tt.limited); got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
}

func TestLimitMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	const aim = (2*64 + 128 + 64) * miB
	tests := []struct {
		name, env, allowed string
		want               int64
		warned             bool
	}{
		{"the bound fits", "", "402653184", aim, false}, // 384 MiB, of which 90 % are more than the aim
		{"just not", "", "402653183", aim, true},
		{"no limit", "", "max", aim, false},
		{"GOMEMLIMIT", "1GiB", "1000", math.MaxInt64, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("GOMEMLIMIT", tt.env)
			debug.SetMemoryLimit(math.MaxInt64)
			var log bytes.Buffer
			limitMemory(64*miB, 128*miB, fstest.MapFS{
				"proc/self/cgroup":         {Data: []byte("0::/\n")},
				"sys/fs/cgroup/memory.max": {Data: []byte(tt.allowed + "\n")},
			}, slog.New(slog.NewTextHandler(&log, nil)))
			if got := debug.SetMemoryLimit(-1); got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
			if warned := strings.Contains(log.String(), "needed=402653184"); warned != tt.warned {
				t.Errorf("log: %s", &log)
			}
		})
	}
}

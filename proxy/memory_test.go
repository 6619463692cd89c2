package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// hostileCase is what one connection does; the memory is measured while n are at it.
type hostileCase struct {
	name string
	n    int
	send string
	more func(redis *redistest.Server) // behind nearside, or Redis itself
}

var hostileCases = []hostileCase{
	{name: "idle", n: 1000},
	{name: "idle after one PING", n: 1000, send: redistest.Command("PING")},
	{name: "1 MB of an unfinished request", n: 50, send: "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2000000\r\n" + strings.Repeat("x", 1_000_000)},
	{name: "100 × 10 KB replies unread", n: 50, send: strings.Repeat(redistest.Command("GET", "ten"), 100)},
	{name: "100,000 pipelined GETs unread", n: 20, send: strings.Repeat(redistest.Command("GET", "k"), 100_000)},
	{name: "subscriber that reads nothing of 10 MB", n: 4, send: redistest.Command("SUBSCRIBE", "ch"), more: func(redis *redistest.Server) {
		for range 1000 {
			redis.Do("PUBLISH", "ch", strings.Repeat("m", 10_000))
		}
	}},
	{name: "blocked BLPOP", n: 500, send: redistest.Command("BLPOP", "nolist", "0")},
	{name: "MULTI with 1,000 queued commands", n: 100, send: redistest.Command("MULTI") + strings.Repeat(redistest.Command("SET", "key", "value"), 1000)},
	{name: "garbage (answered and closed)", n: 200, send: string(pattern(64 << 10))},
}

// TestConnectionMemory prints a table: the memory of one connection in each hostile
// case, at nearside and at Redis. NEARSIDE_MEMORY=1 runs it.
func TestConnectionMemory(t *testing.T) {
	if os.Getenv("NEARSIDE_MEMORY") == "" {
		t.Skip("set NEARSIDE_MEMORY=1")
	}
	var table strings.Builder
	table.WriteString("| case | nearside | Redis in the same case | the Redis behind nearside |\n| --- | ---: | ---: | ---: |\n")
	for _, c := range hostileCases {
		start := func() (*redistest.Server, string, int) {
			dir, err := os.MkdirTemp("", "ns")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			path := filepath.Join(dir, "s")
			redis := redistest.Start(t, "--unixsocket", path)
			redis.Do("SET", "ten", strings.Repeat("v", 10_000))
			redis.Do("SET", "k", "value")
			_, id, _ := strings.Cut(redis.Do("INFO", "server"), "process_id:")
			id, _, _ = strings.Cut(id, "\r\n")
			pid, err := strconv.Atoi(id)
			if err != nil {
				t.Fatal(err)
			}
			return redis, path, pid
		}
		redis, path, pid := start()
		alone := measure(t, c, path, redis, pid)
		behind, _, behindPid := start()
		p := startProcess(t, behind, "")
		through := measure(t, c, strings.TrimPrefix(p.addr, "unix:"), behind, p.cmd.Process.Pid, behindPid)
		fmt.Fprintf(&table, "| %s | %s | %s | %s |\n", c.name, human(through[0]), human(alone[0]), human(through[1]))
	}
	t.Log("\n" + table.String())
}

func human(n int64) string {
	switch {
	case n < 0:
		n = 0
		fallthrough
	case n < 1<<20:
		return fmt.Sprintf("%.1f KB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.2f MB", float64(n)/1e6)
}

// measure opens the case's connections and returns what each of them costs each process.
func measure(t *testing.T, c hostileCase, path string, redis *redistest.Server, pids ...int) []int64 {
	t.Helper()
	before := make([]int64, len(pids))
	for i, pid := range pids {
		before[i] = settled(t, pid)
	}
	conns := make([]net.Conn, c.n)
	for i := range conns {
		for {
			conn, err := net.Dial("unix", path)
			if err == nil {
				conns[i] = conn
				break
			}
			if !errors.Is(err, syscall.EAGAIN) {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		t.Cleanup(func() { _ = conns[i].Close() })
	}
	crowd(c.n, func(i int) { push(conns[i-1], []byte(c.send)) })
	if c.more != nil {
		deadline := time.Now().Add(redistest.Timeout)
		for redis.Do("PUBSUB", "NUMSUB", "ch") != fmt.Sprint("[ch ", c.n, "]") && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
			if strings.Contains(redis.Do("PUBSUB", "NUMSUB", "ch"), strconv.Itoa(c.n)) {
				break
			}
		}
		c.more(redis)
	}
	each := make([]int64, len(pids))
	for i, pid := range pids {
		each[i] = (settled(t, pid) - before[i]) / int64(c.n)
	}
	return each
}

// settled waits until a process's memory does not change and returns it.
func settled(t *testing.T, pid int) int64 {
	t.Helper()
	last, since := int64(-1), time.Now()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := bytes.Cut(b, []byte("VmRSS:"))
		kb, err := strconv.ParseInt(strings.Fields(string(rest))[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if kb != last {
			last, since = kb, time.Now()
		}
		if time.Since(since) > 400*time.Millisecond {
			break
		}
	}
	return last << 10
}

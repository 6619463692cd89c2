package proxy

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// TestRedisPy runs redis-py, the one of Debian's python3-redis.
func TestRedisPy(t *testing.T) {
	t.Parallel()
	python := ""
	for _, name := range []string{"/usr/bin/python3", "python3"} { // another python3 may come first in the path
		if exec.Command(name, "-c", "import redis").Run() == nil {
			python = name
			break
		}
	}
	if python == "" {
		t.Fatal("this test needs python3 with redis-py; run make deps")
	}
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 75*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "redispy.py")
	cmd.Dir = clientsDir
	cmd.Env = append(os.Environ(), "NEARSIDE_ADDR="+n.addr, "ORIGIN_ADDR="+redis.Addr, "PYTHONDONTWRITEBYTECODE=1")
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if last := lines[len(lines)-1]; err != nil || !scriptSummary.MatchString(last) {
		t.Errorf("redispy.py: %v\n%s", err, out)
	}
}

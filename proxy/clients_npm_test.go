package proxy

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// clientsDir is where the npm clients and their scripts are.
const clientsDir = "testdata/clients"

// npmScripts are run one by one; run-all.js runs the same ones by hand.
var npmScripts = []string{"ioredis5", "ioredis6", "noderedis4", "noderedis5", "cachemanager-yet", "cachemanager-keyv", "locks", "order"}

// TestNPMClients runs real npm clients, the cache service and the lock service
// of an application among them, each against a Redis and a nearside of its own.
func TestNPMClients(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("these tests need node; run make deps: %v", err)
	}
	if _, err := os.Stat(filepath.Join(clientsDir, "node_modules", ".installed")); err != nil {
		t.Fatalf("the npm clients are not installed; run make deps: %v", err)
	}
	for _, script := range npmScripts {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t)
			n := start(t, redis, nil)
			runScript(t, node, script, "MODE=nearside", "NEARSIDE_ADDR="+n.addr, "ORIGIN_ADDR="+redis.Addr)
		})
	}
}

// TestNPMScriptsAreAllRun compares the list here with the one of run-all.js.
func TestNPMScriptsAreAllRun(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(clientsDir, "run-all.js"))
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`(?s)const all = \[(.*?)\]`).FindSubmatch(b)
	if list == nil {
		t.Fatal("run-all.js has no list of scripts")
	}
	got := strings.ReplaceAll(strings.ReplaceAll(string(list[1]), "'", ""), " ", "")
	if want := strings.Join(npmScripts, ","); got != want {
		t.Errorf("run-all.js runs %s, this test %s", got, want)
	}
}

var scriptSummary = regexp.MustCompile(`^([1-9]\d*) passed, 0 failed$`)

// runScript runs one script and makes each of its failed checks an error.
func runScript(t *testing.T, node, script string, env ...string) {
	t.Helper()
	// The script has a deadline of its own, which says more than this one.
	ctx, cancel := context.WithTimeout(t.Context(), 75*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, script+".js")
	cmd.Dir = clientsDir
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	whole := ""
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "not ok "):
			t.Error(line)
		case scriptSummary.MatchString(line):
			whole = line
		}
	}
	switch {
	case err != nil:
		t.Errorf("%s: %v\n%s", script, err, out)
	case whole == "":
		t.Errorf("%s has not run to its end:\n%s", script, out)
	default:
		t.Log(whole)
	}
}

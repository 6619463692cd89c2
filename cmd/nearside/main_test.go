package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is nearside itself, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "nearside")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "nearside")
		build := exec.CommandContext(context.Background(), "go", "build", "-ldflags", "-X main.version=v0.0.0-test", "-o", binary, ".")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// command is nearside with nothing in its environment but what is given.
func command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, binary, args...)
	c.Env = env
	return c
}

// libraryLine is what the metrics library says while it is initialised, before
// main, on machines whose kernel counts no pressure stalls. It cannot be told
// not to.
var libraryLine = regexp.MustCompile(`(?m)^.* INFO: metrics: disable exposing PSI metrics .*\n`)

// outcome runs nearside to its end.
func outcome(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := command(ctx, env, args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), out.String(), libraryLine.ReplaceAllString(errs.String(), "")
}

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "n.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestOutcomes(t *testing.T) {
	good := write(t, "cache:\n  rules: [{prefix: \"a:\"}]\n")
	bad := write(t, "cache:\n  db: x\n")
	none := filepath.Join(t.TempDir(), "none.yaml")
	remote := write(t, "listen: 0.0.0.0:1\ncache:\n  rules: [{prefix: a}]\n")

	busy, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()

	tests := []struct {
		name           string
		env, args      []string
		code           int
		stdout, stderr string // regular expressions for the whole of it
	}{
		{"version", nil, []string{"-version"}, 0, `nearside v0\.0\.0-test \(` + regexp.QuoteMeta(runtime.Version()) + `, .*/.*\)\n`, ``},
		{"fine", nil, []string{"-t", "-config", good}, 0, regexp.QuoteMeta(good) + ": configuration is fine\n", ``},
		{"the sample is fine", nil, []string{"-t"}, 0, `the built-in sample \(configs/nearside\.yaml\): configuration is fine\n`, ``},
		{"wrong", nil, []string{"-t", "-config", bad}, 1, ``, regexp.QuoteMeta(bad) + ":2:7: cache\\.db: \"x\" is not a whole number\n"},
		{"wrong, to be run", nil, []string{"-config", bad}, 1, ``, regexp.QuoteMeta(bad) + ":2:7: .*\n"},
		{"unreadable", nil, []string{"-t", "-config", none}, 1, ``, "nearside: cannot read the configuration " + regexp.QuoteMeta(none) + ": no such file or directory\n"},
		{"warned", nil, []string{"-t", "-config", write(t, "admin: \"\"\n")}, 0, `.*fine\n`, "warning: there are no cache rules.*\n"},
		{"protected", nil, []string{"-t", "-config", remote}, 1, ``, regexp.QuoteMeta(remote) + ":1:9: 0\\.0\\.0\\.0:1 can be reached .*\n"},

		{"environment beats file", []string{"NEARSIDE_LISTEN=127.0.0.1:1"}, []string{"-t", "-config", remote}, 0, `.*fine\n`, ``},
		{"flag beats environment", []string{"NEARSIDE_LISTEN=x"}, []string{"-t", "-listen", "127.0.0.1:1"}, 0, `.*fine\n`, ``},
		{"flag beats environment, wrong", []string{"NEARSIDE_LISTEN=127.0.0.1:1"}, []string{"-t", "-listen", "x"}, 1, ``, `-listen: "x" is not .*\n`},
		{"environment, wrong", []string{"NEARSIDE_REDIS=http://h"}, []string{"-t"}, 1, ``, `NEARSIDE_REDIS: the origin is given as .*\n`},
		{"file by environment", []string{"NEARSIDE_CONFIG=" + bad}, []string{"-t"}, 1, ``, `.*:2:7: .*\n`},
		{"file by flag instead", []string{"NEARSIDE_CONFIG=" + bad}, []string{"-t", "-config", good}, 0, `.*fine\n`, ``},

		{"unknown flag", nil, []string{"-x"}, 2, ``, `flag provided but not defined: -x\n(.|\n)*`},
		{"argument", nil, []string{"start"}, 2, ``, `nearside: unexpected argument "start": a file is given by -config; .*\n`},
		{"no file name", nil, []string{"-config", ""}, 2, ``, `nearside: -config needs a file name\n`},
		{"help", nil, []string{"-h"}, 0, ``, `nearside: a near cache (.|\n)*-listen ADDRESSES(.|\n)*`},

		{"address in use", nil, []string{"-listen", busy.Addr().String(), "-admin", ""}, 1, ``, `(.*level=.*\n)*nearside: .*address already in use.*\n`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := outcome(t, tt.env, tt.args...)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			for _, x := range []struct{ name, got, want string }{{"stdout", stdout, tt.stdout}, {"stderr", stderr, tt.stderr}} {
				if !regexp.MustCompile(`\A(?:` + x.want + `)\z`).MatchString(x.got) {
					t.Errorf("%s: got %q, want %s", x.name, x.got, x.want)
				}
			}
		})
	}
}

// running is a nearside that was started.
type running struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func launch(t *testing.T, args ...string) *running {
	t.Helper()
	return launchWith(t, nil, args...)
}

func launchWith(t *testing.T, env []string, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	r := &running{cmd: command(ctx, env, args...), stderr: &lockedBuffer{}}
	r.cmd.Stderr = r.stderr
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.stdout = bufio.NewReader(out)
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = r.cmd.Wait()
		if t.Failed() {
			t.Logf("stderr:\n%s", r.stderr)
		}
	})
	return r
}

// until reads stdout up to a line with one match, and returns the match.
func (r *running) until(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for {
		line, err := r.stdout.ReadString('\n')
		if m := re.FindStringSubmatch(line); m != nil {
			return m[1]
		}
		if err != nil {
			t.Fatalf("stdout ended (%v) without %s; stderr: %s", err, pattern, r.stderr)
		}
	}
}

// end sends a signal and returns the exit code.
func (r *running) end(t *testing.T, sig os.Signal) int {
	t.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r.stdout); err != nil {
		t.Error(err)
	}
	var ee *exec.ExitError
	if err := r.cmd.Wait(); err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return r.cmd.ProcessState.ExitCode()
}

// talk sends requests and expects exactly the replies.
func talk(t *testing.T, c net.Conn, request, reply string) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(reply))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != reply {
		t.Fatalf("%q: got %q, want %q (%v)", request, got[:n], reply, err)
	}
}

func dial(t *testing.T, network, addr string) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// For trying it out: no Redis, no configuration.
func TestEmbedded(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "n.sock")
	r := launch(t, "-listen", "127.0.0.1:0,unix:"+socket, "-admin", "127.0.0.1:0")
	addr := r.until(t, `clients +(127\.0\.0\.1:\d+)`)
	r.until(t, `(unix:)`+regexp.QuoteMeta(socket))
	admin := r.until(t, `(http://\S+/)`)

	for _, c := range []net.Conn{dial(t, "tcp", addr), dial(t, "unix", socket)} {
		talk(t, c, "PING\r\n", "+PONG\r\n")
		talk(t, c, "*3\r\n$3\r\nSET\r\n$9\r\nproduct:1\r\n$3\r\ntea\r\n", "+OK\r\n")
		talk(t, c, "*2\r\n$3\r\nGET\r\n$9\r\nproduct:1\r\n", "$3\r\ntea\r\n")
	}
	// The TTLs of the embedded Redis run.
	c := dial(t, "tcp", addr)
	talk(t, c, "*5\r\n$3\r\nSET\r\n$9\r\nproduct:2\r\n$1\r\nx\r\n$2\r\nPX\r\n$2\r\n50\r\n", "+OK\r\n")
	time.Sleep(100 * time.Millisecond)
	talk(t, c, "*2\r\n$3\r\nGET\r\n$9\r\nproduct:2\r\n", "$-1\r\n")

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, admin+"readyz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("readyz: %s", resp.Status)
	}
	if code := r.end(t, syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM: exit code %d", code)
	}
}

func TestInterrupt(t *testing.T) {
	r := launch(t, "-listen", "127.0.0.1:0", "-admin", "")
	r.until(t, `clients +(\S+)`)
	if code := r.end(t, os.Interrupt); code != 0 {
		t.Errorf("SIGINT: exit code %d", code)
	}
}

// An origin that is down does not keep nearside from starting; flags name the
// origin and the sample gives the rules.
func TestOriginDown(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "n.sock")
	r := launch(t, "-redis", "redis://127.0.0.1:1", "-listen", "unix:"+socket, "-admin", "")
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it never listened")
		}
		time.Sleep(10 * time.Millisecond)
	}
	c := dial(t, "unix", socket)
	talk(t, c, "PING\r\n", "+PONG\r\n")
	refused := "-ERR nearside: Redis at 127.0.0.1:1 cannot be reached: origin unreachable: 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused\r\n"
	talk(t, c, "SET a b\r\n", refused)
	if code := r.end(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	// The log has one form: no library writes past it.
	for line := range strings.Lines(libraryLine.ReplaceAllString(r.stderr.String(), "")) {
		if !strings.HasPrefix(line, "time=") {
			t.Errorf("in the log: %s", line)
		}
	}
	if out, _ := io.ReadAll(r.stdout); strings.Contains(string(out), "embedded") {
		t.Error("it greets as if it had brought its own Redis")
	}
}

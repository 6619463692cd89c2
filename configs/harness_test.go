package configs_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// nearside is the binary, built once for all tests.
var nearside string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "configs")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		nearside = filepath.Join(dir, "nearside")
		build := exec.CommandContext(context.Background(), "go", "build", "-o", nearside, "../cmd/nearside")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// checker is a program that checks files of its kind. Without it the test is
// skipped, but not where "make packages" has seen to it.
func checker(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("NEARSIDE_CHECKERS") == "required" {
		t.Fatal(err)
	}
	t.Skipf("%s is not installed; make packages installs it", name)
	return ""
}

// output runs a program to its end and returns all that it says.
func output(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(out), err
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// replaced makes a change that must be possible, or what the change was to
// show would not be shown.
func replaced(t *testing.T, text, old, by string) string {
	t.Helper()
	if strings.Count(text, old) != 1 {
		t.Fatalf("%q is there %d times", old, strings.Count(text, old))
	}
	return strings.Replace(text, old, by, 1)
}

// Every configuration is one that nearside takes.
func TestConfigurations(t *testing.T) {
	t.Setenv("NEARSIDE_ADMIN_TOKEN", "the-secret-of-the-sidecar")
	for _, name := range []string{"nearside.yaml", "kubernetes/sidecar/nearside.yaml"} {
		if out, err := output(t, nearside, "-t", "-config", name); err != nil || strings.Contains(out, "warning") {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// metric is what is known of one metric.
type metric struct {
	values map[string]map[string]bool // of each label
}

// use sends some commands, so that there are durations of them.
func use(t *testing.T, addr string) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "SET product:1 x\r\nGET product:1\r\nQUIT\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(answer), "+OK\r\n") {
		t.Fatalf("%q, %v", answer, err)
	}
}

var seriesLine = regexp.MustCompile(`(?m)^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? \S+$`)

// exported is every metric of a nearside that runs with the sample
// configuration and has had something to do.
func exported(t *testing.T) map[string]metric {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, nearside, "-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0")
	c.Env = []string{}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = c.Wait() // killed
	}()
	var page string
	for lines := bufio.NewScanner(out); page == "" && lines.Scan(); {
		if addr, ok := strings.CutPrefix(lines.Text(), "  clients    "); ok {
			use(t, addr)
		}
		page = regexp.MustCompile(`http://\S+/`).FindString(lines.Text())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page+"metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]metric{}
	for _, m := range seriesLine.FindAllStringSubmatch(string(body), -1) {
		if all[m[1]].values == nil {
			all[m[1]] = metric{map[string]map[string]bool{}}
		}
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if all[m[1]].values[l[1]] == nil {
				all[m[1]].values[l[1]] = map[string]bool{}
			}
			all[m[1]].values[l[1]][l[3]] = true
		}
	}
	if len(all["nearside_cache_hits_total"].values["prefix"]) == 0 {
		t.Fatalf("no metrics in %s", body)
	}
	return all
}

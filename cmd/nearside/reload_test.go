package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"nearside/proxy"
)

// Every key of the table, which the reference is made of, is one that a reload
// compares, and the reverse.
func TestReloadKnowsEveryKey(t *testing.T) {
	known := append(proxy.ReloadKeys(), "log.level", "log.format", "cache.ttl") // the last is in the rules
	var found []string
	for _, k := range defaults().keys() {
		if k.kind.each != nil {
			continue // rules
		}
		found = append(found, k.name)
		if !slices.Contains(known, k.name) {
			t.Errorf("a change of %s would not be noticed", k.name)
		}
	}
	for _, name := range known {
		if !slices.Contains(found, name) {
			t.Errorf("%s is not in the table of keys", name)
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// The whole life of a configuration in a real process.
func TestReloadOfProcess(t *testing.T) {
	const token, secret = "the-token-of-this-test", "hunter2"
	dir := t.TempDir()
	admin, tokenFile := freeAddr(t), filepath.Join(dir, "token")
	if err := os.WriteFile(tokenFile, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := fmt.Sprintf("redis: redis://:%s@127.0.0.1:1\nlisten: [127.0.0.1:9]\nadmin: %s\nadmin_token_file: %s\n", secret, admin, tokenFile)
	file := write(t, base)
	change := func(more string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(base+more), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	manager := newManager(t)
	r := launchWith(t, []string{"NOTIFY_SOCKET=" + manager.name}, "-config", file, "-listen", "127.0.0.1:0")
	manager.next("READY=1")
	ask := func(method, path, shown string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+admin+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+shown)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for _, step := range []struct {
		more, shown string
		code        int
		body        string // a regular expression
	}{
		{"", token, 200, "nothing changed\n"},
		{"max_clients: 7\n", token[1:], 401, ".*Bearer TOKEN\n"},
		{"max_clients: 7\nlog: {level: debug}\n", token, 200, "max_clients: 10000 -> 7\nlog.level: info -> debug\n"},
		{"max_clients: 8\nidle_timeout: soon\n", token, 422, regexp.QuoteMeta(file) + `:6:15: idle_timeout: .*\n`},
		{"max_clients: 8\norigin_timeout: 9s\n", token, 422, regexp.QuoteMeta(file) + `:6:17: origin_timeout cannot change without a restart\n`},
		{"max_clients: 8\nlog: {format: json}\n", token, 422, regexp.QuoteMeta(file) + `:6:15: log.format cannot change without a restart\n`},
		{"max_clients: 7\nlog: {level: debug}\n", token, 200, "nothing changed\n"}, // so nothing of the wrong ones has
		{"max_clients: 7\ncache: {rules: [{prefix: \"a:\", ttl: 5s}]}\n", token, 200, `cache.rules\["a:"\]: none -> ttl 5s, .*\nlog.level: debug -> info\n`},
	} {
		change(step.more)
		code, body := ask(http.MethodPost, "/-/reload", step.shown)
		if code != step.code || !regexp.MustCompile("^"+step.body+"$").MatchString(body) {
			t.Errorf("%q: %d %q, want %d %q", step.more, code, body, step.code, step.body)
		}
		if code != 401 {
			manager.next(`RELOADING=1\nMONOTONIC_USEC=[1-9]\d+`)
			manager.next("READY=1")
		}
	}
	if code, _ := ask(http.MethodGet, "/-/reload", token); code != http.StatusMethodNotAllowed {
		t.Errorf("GET answers %d", code)
	}
	if _, body := ask(http.MethodGet, "/metrics", token); !strings.Contains(body, `nearside_reloads_total{result="ok"} 4`) ||
		!strings.Contains(body, `nearside_reloads_total{result="refused"} 3`) || !strings.Contains(body, "nearside_config_last_reload_successful 1") {
		t.Errorf("/metrics counts otherwise:\n%s", strings.Join(regexp.MustCompile(`nearside_(reloads|config)\S* \d+`).FindAllString(body, -1), "\n"))
	}

	change("max_clients: 9\n")
	if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	manager.next(`RELOADING=1\nMONOTONIC_USEC=[1-9]\d+`)
	manager.next("READY=1")

	// -health shows the token, and so hears more.
	health := launch(t, "-health", "-config", file)
	health.until(t, `("origin")`)

	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	manager.next("STOPPING=1")
	if err := r.cmd.Wait(); err != nil {
		t.Error(err)
	}
	log := r.stderr.String()
	for _, want := range []string{
		`level=INFO msg="configuration changed" key=max_clients old=10000 new=7`,
		`key=max_clients old=7 new=9`,
		`level=ERROR msg="the configuration is not reloaded, the old one stays in force" err="` + file + `:6:15: idle_timeout: `,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %s:\n%s", want, log)
		}
	}
	if strings.Contains(log, secret) || strings.Contains(log, token) {
		t.Error("the log tells a secret")
	}
}

// Without a file there is nothing to read again.
func TestReloadOfSample(t *testing.T) {
	r := launch(t, "-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0")
	admin := r.until(t, `http://(\S+)/`)
	resp, err := http.Post("http://"+admin+"/-/reload", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusConflict || !strings.Contains(string(b), "without a configuration file") {
		t.Errorf("%d %s %v", resp.StatusCode, b, err)
	}
}

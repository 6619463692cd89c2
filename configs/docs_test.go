package configs_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// documents are all that a reader is sent to. Each is one link away from the README.
var documents = []string{
	"README.md", "CHANGELOG.md", "configs/CONFIGURATION.md", "configs/OPERATIONS.md", "configs/MIGRATING.md", "proxy/CONSISTENCY.md",
	"proxy/metrics/METRICS.md", "policy/COMMANDS.md", "bench/README.md", "bench/results/README.md",
}

// block is a fenced block of a document.
type block struct{ document, language, text string }

var fenced = regexp.MustCompile("(?m)^```(\\w*)\n((?:[^`].*\n|\n)*)```$")

func blocks(t *testing.T, document string) (all []block) {
	t.Helper()
	for _, m := range fenced.FindAllStringSubmatch(read(t, "../"+document), -1) {
		all = append(all, block{document, m[1], m[2]})
	}
	return all
}

func TestReadmeIsAFrontPage(t *testing.T) {
	readme := read(t, "../README.md")
	if n := strings.Count(readme, "\n"); n > 150 {
		t.Errorf("it has %d lines, 150 at most", n)
	}
	if !strings.Contains(readme, "\n```sh\nmake test\n```\n") {
		t.Error("it does not name the test command")
	}
	for _, d := range documents[1:] {
		if !strings.Contains(readme, "]("+d+")") {
			t.Errorf("no link leads to %s", d)
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

// anchors are the names by which a document's headings can be linked to.
func anchors(text string) (names []string) {
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		kept := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(kept, " ", "-"))
	}
	return names
}

// Every link within the source leads somewhere.
func TestLinks(t *testing.T) {
	for _, d := range documents {
		found := 0
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(read(t, "../"+d), ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			found++
			path, anchor, _ := strings.Cut(m[1], "#")
			target := filepath.Join("..", filepath.Dir(d), path)
			if path == "" {
				target = "../" + d
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: %v", d, m[1], err)
			} else if anchor != "" && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s: %s: no such heading", d, m[1])
			}
		}
		if found == 0 && d != "CHANGELOG.md" {
			t.Errorf("%s: no links found", d)
		}
	}
}

// Every test that a document names exists; one that ends in … is the beginning of some.
func TestNamedTestsExist(t *testing.T) {
	var code strings.Builder
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() && d.Name() == "node_modules" {
			return filepath.SkipDir
		}
		if err == nil && strings.HasSuffix(path, "_test.go") {
			code.WriteString(read(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, d := range documents {
		for _, m := range regexp.MustCompile("`(Test[A-Za-z]+)(…?)`").FindAllStringSubmatch(read(t, "../"+d), -1) {
			found++
			end := "("
			if m[2] != "" {
				end = ""
			}
			if !strings.Contains(code.String(), "func "+m[1]+end) {
				t.Errorf("%s: there is no %s%s", d, m[1], m[2])
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d tests are named", found)
	}
}

// The README's figures are those that were measured.
func TestReadmeFigures(t *testing.T) {
	_, gains, _ := strings.Cut(read(t, "../README.md"), "| | without | with nearside |\n| --- | --- | --- |\n")
	gains, _, _ = strings.Cut(gains, "\n\n")
	results := read(t, "../bench/results/README.md")
	section := func(title string) map[string][]string { // rows by peer, without their spread
		_, text, ok := strings.Cut(results, "\n### "+title)
		if !ok {
			t.Fatalf("bench/results has no table %s", title)
		}
		text, _, _ = strings.Cut(text, "\n### ")
		rows := map[string][]string{}
		for _, line := range regexp.MustCompile(`(?m)^\| (\S+) \| (.*) \|$`).FindAllStringSubmatch(text, -1) {
			for _, cell := range strings.Split(line[2], " | ") {
				value, _, _ := strings.Cut(cell, " ")
				rows[line[1]] = append(rows[line[1]], value)
			}
		}
		return rows
	}
	far, passed := section("Reads of 1,000 keys, zipf 1.0, and 1 % writes, of an origin 500µs away"), section("GET passed through, 50 connections, 16 deep")
	for i, want := range [][2]string{
		{far["direct"][2], far["nearside"][2]},           // p50
		{far["direct"][9], far["nearside"][9]},           // Redis reads %
		{passed["nutcracker"][1], passed["nearside"][1]}, // CPU
	} {
		row := strings.Split(strings.Split(gains, "\n")[i], " | ")
		for j := range want {
			if value, _, _ := strings.Cut(row[j+1], " "); value != want[j] {
				t.Errorf("%s: %s, bench/results has %s", row[0], row[j+1], want[j])
			}
		}
	}
}

// isConfiguration tells a configuration of nearside from other YAML.
func isConfiguration(b block) bool {
	return b.language == "yaml" && !strings.HasPrefix(b.text, "# prometheus.yml") && !strings.HasPrefix(b.text, "# kustomization.yaml")
}

// Every configuration in a document is one that nearside takes, without a warning
// where it is a whole one.
func TestConfigurationsInDocuments(t *testing.T) {
	found := 0
	for _, d := range documents {
		for _, b := range blocks(t, d) {
			if !isConfiguration(b) {
				continue
			}
			found++
			out, err := output(t, nearside, "-t", "-config", write(t, "n.yaml", b.text))
			if err != nil || strings.Contains(out, "warning") && strings.Contains(b.text, "cache:") {
				t.Errorf("%s: %v: %s\n%s", d, err, out, b.text)
			}
		}
	}
	if found < 4 {
		t.Errorf("only %d configurations found", found)
	}
}

// What the blocks of shell commands name is there: make's targets, and files of the source.
func TestCommandsInDocuments(t *testing.T) {
	makefile := read(t, "../Makefile")
	found := 0
	for _, d := range documents {
		for _, b := range blocks(t, d) {
			if b.language != "sh" {
				continue
			}
			for _, m := range regexp.MustCompile(`\bmake ([a-z-]+)`).FindAllStringSubmatch(b.text, -1) {
				found++
				if !strings.Contains(makefile, "\n"+m[1]+": ") {
					t.Errorf("%s: there is no make %s", d, m[1])
				}
			}
			for _, m := range regexp.MustCompile(`\bconfigs/[a-zA-Z./]+`).FindAllString(b.text, -1) {
				if _, err := os.Stat("../" + m); err != nil {
					t.Errorf("%s: %v", d, err)
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d targets found", found)
	}
}

// freePort is an address nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// started runs a program until the test ends, with all that it starts.
func started(t *testing.T, dir string, env []string, name string, args ...string) io.Reader {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Env = dir, append(os.Environ(), env...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = c.Wait() // killed
	})
	return out
}

// needed is a program that comes with make deps.
func needed(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v; make deps installs it", err)
	}
	return path
}

// redisServer starts a Redis and returns its address.
func redisServer(t *testing.T) string {
	t.Helper()
	addr := freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	started(t, t.TempDir(), nil, needed(t, "redis-server"), "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
	answers(t, addr)
	return addr
}

// answers waits until somebody listens.
func answers(t *testing.T, addr string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// get asks for a page that must be there.
func get(t *testing.T, page string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, page, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %d %s %v", page, resp.StatusCode, body, err)
	}
	return string(body)
}

// redisCLI sends a command as redis-cli sends a line, and returns what it shows at a terminal.
func redisCLI(t *testing.T, addr, line string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, needed(t, "redis-cli"), "--no-raw", "-h", host, "-p", port)
	c.Stdin = strings.NewReader(line + "\n")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return string(out)
}

// The first half of the README: make run, and the session to copy.
func TestReadmeSession(t *testing.T) {
	all := blocks(t, "README.md")
	if all[1] != (block{"README.md", "sh", "make run\n"}) || all[2].language != "console" {
		t.Fatalf("%q", all[:3])
	}
	out := bufio.NewScanner(started(t, "..", []string{"MAKEFLAGS="}, "make", "run", "ARGS=-listen 127.0.0.1:0 -admin 127.0.0.1:0"))
	addr := ""
	for addr == "" && out.Scan() {
		if m := regexp.MustCompile(`^ {2}clients +(\S+)$`).FindStringSubmatch(out.Text()); m != nil {
			addr = m[1]
		}
	}
	go func() {
		for out.Scan() { // the rest is not looked at, but must not hold it up
		}
	}()
	if addr == "" {
		t.Fatal("make run says no address")
	}
	const prompt = "127.0.0.1:6380> "
	steps := strings.Split(all[2].text, prompt)
	if steps[0] != "$ redis-cli -p 6380\n" || len(steps) != 7 {
		t.Fatalf("%q", steps)
	}
	// Times differ; that and nothing else.
	times := regexp.MustCompile(`(age_ms|expires_in_ms|_ms_ago):\d+`)
	for _, step := range steps[1:] {
		line, want, _ := strings.Cut(step, "\n")
		got := redisCLI(t, addr, line)
		if times.ReplaceAllString(got, "$1:N") != times.ReplaceAllString(want, "$1:N") {
			t.Errorf("%s answers\n%s\nthe README has\n%s", line, got, want)
		}
	}
}

// The second half: a configuration, and nearside in front of a Redis.
func TestReadmeInFrontOfRedis(t *testing.T) {
	all := blocks(t, "README.md")
	config, commands := all[3], all[4]
	if config.language != "yaml" || commands.language != "sh" {
		t.Fatalf("%q", all)
	}
	redis, clients, admin := redisServer(t), freePort(t), freePort(t)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(nearside, filepath.Join(dir, "bin", "nearside")); err != nil {
		t.Fatal(err)
	}
	text := replaced(t, replaced(t, config.text, "127.0.0.1:6380", clients), "127.0.0.1:6379", redis)
	if err := os.WriteFile(filepath.Join(dir, "my.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(commands.text), "\n")
	if want := []string{"make build", "bin/nearside -t -config my.yaml", "bin/nearside -config my.yaml", "curl http://127.0.0.1:9380/cache/health"}; !slices.Equal(lines, want) {
		t.Fatalf("%q", lines)
	}
	c := exec.CommandContext(t.Context(), "sh", "-c", lines[1])
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil || strings.Contains(string(out), "warning") {
		t.Fatalf("%v: %s", err, out)
	}
	started(t, dir, []string{"NEARSIDE_ADMIN=" + admin}, "sh", "-c", "exec "+lines[2])
	answers(t, admin)
	answers(t, clients)
	if body := get(t, replaced(t, strings.Fields(lines[3])[1], "127.0.0.1:9380", admin)); !strings.Contains(body, `"status":"healthy"`) {
		t.Error(body)
	}
	if got := redisCLI(t, clients, "SET product:1 tea"); got != "OK\n" {
		t.Error(got)
	}
	if got := redisCLI(t, redis, "SELECT 1\nGET product:1"); !strings.Contains(got, `"tea"`) {
		t.Errorf("in database 1 there is %s", got)
	}
	if got := redisCLI(t, clients, "NEARSIDE EXPLAIN lock:a"); !strings.Contains(got, `rule:locks "lock:"`) {
		t.Error(got)
	}
}

// The README's blocks are all that TestReadmeSession and TestReadmeInFrontOfRedis run,
// the picture, and the command that runs them.
func TestEveryReadmeBlockIsRun(t *testing.T) {
	var got []string
	for _, b := range blocks(t, "README.md") {
		got = append(got, b.language)
	}
	if want := []string{"", "sh", "console", "yaml", "sh", "sh"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// The migration guide's steps, at a Redis that has the cache in database 0.
func TestMigration(t *testing.T) {
	var config string
	for _, b := range blocks(t, "configs/MIGRATING.md") {
		config = b.text
	}
	redis, clients, admin := redisServer(t), freePort(t), freePort(t)
	config = replaced(t, replaced(t, config, "127.0.0.1:6381", clients), "127.0.0.1:6380", redis)
	redisCLI(t, redis, `SET product:1 "{\"id\":1}" PX 3600000`) // an instance without nearside has cached it
	started(t, t.TempDir(), []string{"NEARSIDE_ADMIN=" + admin}, nearside, "-config", write(t, "n.yaml", config))
	answers(t, admin)
	answers(t, clients)
	explain := func(key, want string) {
		t.Helper()
		got := ""
		for deadline := time.Now().Add(30 * time.Second); !strings.Contains(got, want); { // the link must come up, an entry be stored
			if time.Now().After(deadline) {
				t.Fatalf("%s: want %s, got\n%s", key, want, got)
			}
			if value := redisCLI(t, clients, "GET product:1"); value != `"{\"id\":1}"`+"\n" {
				t.Fatalf("GET product:1 answers %s", value)
			}
			got = redisCLI(t, clients, "NEARSIDE EXPLAIN "+key)
		}
	}
	explain("product:1", "reason:hit")
	explain("product:1", `rule:cache "product:"`)
	explain("product:1", "redis_db:0")
	for _, key := range []string{"lock:a", "recharge:balance:1", "use:balance:1", "pay:order:1"} {
		explain(key, "a lock is never cached")
	}
	redisCLI(t, clients, "SET balance:1 5 PX 300000")
	if got := redisCLI(t, redis, "GET balance:1"); got != "\"5\"\n" { // the way back
		t.Errorf("an instance without nearside reads %s", got)
	}
	if body := get(t, "http://"+admin+"/cache/metrics"); !regexp.MustCompile(`"product":\{[^}]*"hitRate":`).MatchString(body) {
		t.Error(body)
	}
}

// What an application says about a change that Redis does not report.
func TestPublishedInvalidations(t *testing.T) {
	redis, clients, admin := redisServer(t), freePort(t), freePort(t)
	started(t, t.TempDir(), nil, nearside, "-redis", "redis://"+redis, "-listen", clients, "-admin", admin)
	answers(t, clients)
	_, port, _ := net.SplitHostPort(redis)
	cli := needed(t, "redis-cli")
	sent := 0
	for _, b := range blocks(t, "proxy/CONSISTENCY.md") {
		for line := range strings.Lines(b.text) {
			rest, ok := strings.CutPrefix(line, "redis-cli ")
			if !ok {
				t.Fatalf("not run: %s", line)
			}
			sent++
			for deadline := time.Now().Add(30 * time.Second); ; { // the link must come up
				out, err := output(t, "sh", "-c", cli+" -p "+port+" "+rest)
				if out == "1\n" {
					break
				}
				if err != nil || time.Now().After(deadline) {
					t.Fatalf("%s: %v: %s", line, err, out)
				}
			}
		}
	}
	if sent != 3 {
		t.Errorf("%d messages sent", sent)
	}
	want := `nearside_link_received_total{source="channel"} 3` + "\n"
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(get(t, "http://"+admin+"/metrics"), want); {
		if time.Now().After(deadline) {
			t.Fatalf("/metrics lacks %s", want)
		}
	}
}

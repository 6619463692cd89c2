package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestHostileConfigs: nearside -t on what is no configuration ends soon, by an error
// that says what and where, and in little memory.
func TestHostileConfigs(t *testing.T) {
	dir := t.TempDir()
	r := strings.Repeat
	rules := &strings.Builder{}
	for i := range 30_000 {
		fmt.Fprintf(rules, "    - prefix: \"a%d\"\n", i)
	}
	aliases := "a: &a [x, x, x, x, x, x, x, x, x]\n"
	for c := 'a'; c < 'y'; c++ {
		aliases += fmt.Sprintf("%c: &%c [%s*%c]\n", c+1, c+1, r(fmt.Sprintf("*%c, ", c), 8), c)
	}
	const deep = "nested too deeply: no key has more than 32 levels above it"
	for _, c := range []struct{ name, text, want string }{ // want is a regular expression for what follows the name
		{"30,000 brackets", "listen: " + r("[", 30_000), `:1:40: ` + deep},
		{"closed brackets", "listen: " + r("[", 30_000) + r("]", 30_000), `:1:40: ` + deep},
		{"braces", r("{a: ", 30_000) + r("}", 30_000), `:1:\d+: ` + deep},
		{"brackets and braces by line", r("[{a: \n", 30_000), `:\d+:\d+: ` + deep},
		{"dashes", r("- ", 300_000), `:1:65: ` + deep},
		{"question marks", r("? ", 300_000), `:1:65: ` + deep},
		{"colons", r("a: ", 300_000), `:1:\d+: ` + deep},
		{"indentation", func() string {
			b := &strings.Builder{}
			for i := range 1400 {
				fmt.Fprintf(b, "%sa:\n", r(" ", i))
			}
			return b.String()
		}(), `:33:34: ` + deep},
		{"indented lists", func() string {
			b := &strings.Builder{}
			for i := range 1000 {
				fmt.Fprintf(b, "%s-\n", r(" ", i))
			}
			return b.String()
		}(), `:33:33: ` + deep},
		{"anchors", r("&a ", 300_000), `:1:\d+: anchors, aliases and tags are not supported`},
		{"aliases of aliases", aliases, `:\d+:\d+: anchors, aliases and tags are not supported`},
		{"tags", "a: " + r("!!str ", 150_000), `:1:\d+: anchors, aliases and tags are not supported`},
		{"documents", r("---\n", 250_000), `:1:1: the file is empty`},
		{"comments", r("#\n", 500_000), `:1:1: the file is empty`},
		{"empty lines", r("\n", 1_000_000), `:1:1: the file is empty`},
		{"a long key", r("a", 900_000) + ": 1\n", `:1:1: unknown key "a+…`},
		{"a long value", "admin: " + r("a", 900_000) + "\n", `:1:8: admin: "a+…`},
		{"a long quoted value", "admin: \"" + r(`\"`, 400_000) + "\n", `:1:8: could not find end character of double-quoted text`},
		{"a text block", "admin: |\n" + r(" x\n", 300_000), `:\d+:\d+: admin: .*`},
		{"many keys", r("a: 1\n", 200_000), `:257:2: more than 256 keys beside each other`},
		{"many equal keys", r("admin: \"\"\n", 100_000), `:257:6: more than 256 keys beside each other`},
		{"many keys in braces", "{" + r("a: 1, ", 150_000) + "}", `:1:\d+: more than 256 keys beside each other`},
		{"many keys in a list", "- " + r("a: 1\n  ", 120_000), `:257:4: more than 256 keys beside each other`},
		{"many rules", "cache:\n  rules:\n" + rules.String() + "    - prefix: a1\n", `:30003:15: the cache rule "a1" has the same prefix as the cache rule in line 4`},
		{"too large", r("#", mostConfig+1), `: it is larger than 1MiB`},

		{"NUL", "admin: \"a\x00b\"\n", `:1:10: a control character: write "\\x00" in double quotes`},
		{"NULs", r("\x00", 1000), `:1:1: a control character: write "\\x00" in double quotes`},
		{"escape", "cache:\r\n  rules:\r\n    - prefix: a\x1bb\r\n", `:3:16: a control character: write "\\x1B" in double quotes`},
		{"Latin-1", "cache:\n  rules:\n    - prefix: \"\xe9:\"\n", `:3:16: the byte 0xE9 is not UTF-8`},
		{"a surrogate", "admin: \xed\xa0\x80\n", `:1:8: the byte 0xED is not UTF-8`},
		{"UTF-16", "\xff\xfea\x00:\x00", `:1:1: the file is in UTF-16: write it in UTF-8`},
		{"UTF-16, the other way", "\xfe\xff\x00a\x00:", `:1:1: the file is in UTF-16: write it in UTF-8`},
		{"BOM", "\ufeffadmin: \"\"\ncache: {rules: [{prefix: a}]}\n", ``},
		{"BOM and a mistake", "\ufeffadmin: 1\n", `:1:8: admin: .*`},
		{"BOM inside", "admin: \"\"\n\ufeffcache: 1\n", `:2:1: .*`},
		{"CRLF", "admin: \"\"\r\ncache:\r\n  rules:\r\n    - prefix: \"a:\"\r\n", ``},
		{"CRLF and a mistake", "admin: \"\"\r\ncache:\r\n  db: x\r\n", `:3:7: cache.db: "x" is not a whole number`},
		{"CR", "admin: \"\"\rcache:\r  db: x\r", `:3:7: cache.db: "x" is not a whole number`},
		{"a prefix of control characters", "cache: {rules: [{prefix: \"\\x00\\x1b\"}]}\n", ``},
		{"brackets in quotes", "cache: {rules: [{prefix: \"" + r("[{", 1000) + "\"}]}\n", ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			name := filepath.Join(t.TempDir(), "c")
			if err := os.WriteFile(name, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			judge(t, name, c.want)
		})
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		fifo: `: it is a pipe that nobody writes into`, dir: `: is a directory`,
		"/dev/zero": `: it is larger than 1MiB`, "/dev/urandom": `: it is larger than 1MiB`, "/dev/null": `:1:1: the file is empty`,
	} {
		judge(t, name, want)
	}
}

// judge lets nearside -t look at a file; want is what it says behind the file's name, "" for nothing.
func judge(t *testing.T, name, want string) {
	t.Helper()
	cmd := command(t.Context(), []string{"GOMEMLIMIT=off"}, "-t", "-config", name)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	said := stderr.String()
	var ee *exec.ExitError
	if (err != nil) != (want != "") || err != nil && (!errors.As(err, &ee) || ee.ExitCode() != exitError) {
		t.Errorf("%s: %v, %.300s", name, err, said)
	}
	if want != "" && !regexp.MustCompile(`\A(nearside: cannot read the configuration )?`+regexp.QuoteMeta(name)+want+`\n\z`).MatchString(said) {
		t.Errorf("it says %.300q, want …%s", said, want)
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return
	}
	spent := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if usage.Maxrss > 256<<10 || spent > 10*time.Second {
		t.Errorf("%s: it took %d KiB and %v", name, usage.Maxrss, spent)
	}
}

// TestConfigFromPipe: a shell's <(…) is a pipe, and one that says nothing is an error.
func TestConfigFromPipe(t *testing.T) {
	t.Parallel()
	cmd := command(t.Context(), nil, "-t", "-config", "/dev/fd/3")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cmd.ExtraFiles = []*os.File{r}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if _, err := w.WriteString("admin: \"\"\ncache:\n  rules: "); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // it comes in pieces
	if _, err := w.WriteString("[{prefix: a}]\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, &stderr)
	}

	silent, held, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	cmd = command(t.Context(), nil, "-t", "-config", "/dev/fd/3")
	cmd.ExtraFiles = []*os.File{silent}
	stderr.Reset()
	cmd.Stderr = &stderr
	if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), "nothing has come from it for 5s") {
		t.Errorf("a pipe that says nothing: %v, %s", err, &stderr)
	}
	silent.Close()
}

// TestNamedFiles: files that the configuration names are files, and have an end.
func TestNamedFiles(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{fifo: "it is not a file", "/dev/zero": "it is not a file", t.TempDir(): "is a directory", write(t, strings.Repeat("x", mostConfig+1)): "it is larger than 1MiB"} {
		for key, text := range map[string]string{
			"admin_token_file": "admin_token_file: %s\n",
			"redis_tls.ca":     "redis: rediss://h\nredis_tls: {ca: %s}\n",
			"redis_tls.cert":   "redis: rediss://h\nredis_tls: {key: %[1]s, cert: %[1]s}\n",
			"tls.client_ca":    "tls: {listen: 127.0.0.1:1, client_ca: %s}\n",
		} {
			_, err := check(fmt.Sprintf(text, name))
			if err == nil || !strings.HasSuffix(err.Error(), ": cannot read "+name+": "+want) {
				t.Errorf("%s: %s: got %v", key, name, err)
			}
		}
	}
}

// FuzzConfigRepeated: what is repeated many times costs no more than its length.
func FuzzConfigRepeated(f *testing.F) {
	for _, unit := range []string{"[", "{a: ", "- ", "? ", "a: ", "&a ", "*a ", "!t ", "---\n", "#\n", "\n", "\"", "'", "|\n", ">\n a\n", "\t", "%x\n", "@", "`", "a: &a [*a]\n", "cache:\n", "    - prefix: a\n", ": ", ",", "]", "\\"} {
		f.Add("", unit, "", uint16(2000))
		f.Add("listen: ", unit, "]", uint16(500))
	}
	f.Fuzz(func(t *testing.T, before, unit, after string, times uint16) {
		text := before + strings.Repeat(unit, min(int(times), 1+(64<<10)/max(len(unit), 1))) + after
		if len(text) > 128<<10 {
			return
		}
		var was, is runtime.MemStats
		runtime.ReadMemStats(&was)
		_, err := check(text)
		runtime.ReadMemStats(&is)
		if used := is.TotalAlloc - was.TotalAlloc; used > 64<<20+uint64(len(text))<<10 {
			t.Errorf("%d bytes of %.40q take %d MiB", len(text), unit, used>>20)
		}
		var ce *configError
		if err != nil && (!errors.As(err, &ce) || strings.ContainsAny(err.Error(), "\r\n")) {
			t.Errorf("%T %.200q", err, err)
		}
	})
}

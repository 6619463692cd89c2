package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// cliTimeout bounds one run of redis-cli or redis-benchmark.
const cliTimeout = 60 * time.Second

// tool makes a command of the redis tools that speaks to an address.
func tool(t *testing.T, name, addr string, args ...string) *exec.Cmd {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("this test needs %s; run make deps: %v", name, err)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), cliTimeout)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, append([]string{"-h", host, "-p", port}, args...)...)
	cmd.Env = append(os.Environ(), "REDISCLI_HISTFILE=/dev/null", "REDISCLI_RCFILE=/dev/null")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// cli runs redis-cli to its end and returns what it wrote, and its exit code.
func cli(t *testing.T, addr, stdin string, args ...string) (out string, code int) {
	t.Helper()
	cmd := tool(t, "redis-cli", addr, args...)
	cmd.Stdin = strings.NewReader(stdin)
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() < 0) {
		t.Fatalf("redis-cli %s: %v\n%s", strings.Join(args, " "), err, b)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// running is a redis-cli that goes on until it is ended.
type running struct {
	t     *testing.T
	in    io.WriteCloser
	lines chan string
}

// runCLI starts a redis-cli whose lines are read one by one; the test's end ends it.
func runCLI(t *testing.T, addr string, args ...string) *running {
	t.Helper()
	cmd := tool(t, "redis-cli", addr, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, in: in, lines: make(chan string, 10_000)}
	go func() {
		defer close(r.lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			r.lines <- sc.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range r.lines { // to the end, so that Wait may close the pipe
			continue
		}
		_ = cmd.Wait() // it was killed
	})
	return r
}

func (r *running) send(line string) {
	r.t.Helper()
	if _, err := io.WriteString(r.in, line+"\n"); err != nil {
		r.t.Fatal(err)
	}
}

// expect waits for the next line that skip does not match.
func (r *running) expect(pattern string, skip *regexp.Regexp) {
	r.t.Helper()
	for {
		select {
		case line, ok := <-r.lines:
			if !ok {
				r.t.Fatalf("redis-cli has ended; waiting for %q", pattern)
			}
			if skip != nil && skip.MatchString(line) {
				continue
			}
			if !regexp.MustCompile("^(?:" + pattern + ")$").MatchString(line) {
				r.t.Fatalf("redis-cli says %q, want %q", line, pattern)
			}
			return
		case <-time.After(redistest.Timeout):
			r.t.Fatalf("no line like %q", pattern)
		}
	}
}

// sampleKeys fills both databases and returns what a client at database 0 sees.
func sampleKeys(t *testing.T, n *nearside, redis *redistest.Server) []string {
	t.Helper()
	c := n.dial()
	var keys []string
	for i := range 40 {
		for _, prefix := range []string{"product:", "lock:", "other:"} {
			key := prefix + strconv.Itoa(i)
			want(t, c, "OK", "SET", key, "value")
			keys = append(keys, key)
		}
	}
	want(t, c, "OK", "SET", "product:big", strings.Repeat("x", 5000))
	want(t, c, "3", "RPUSH", "stats:list", "a", "b", "c")
	want(t, c, "2", "HSET", "lock:hash", "a", "1", "b", "2")
	want(t, c, "1", "SADD", "balance:set", "a")
	keys = append(keys, "product:big", "stats:list", "lock:hash", "balance:set")
	// What the view hides: cache keys in the lock database and the other way round.
	redis.DoDB(0, "SET", "product:hidden", strings.Repeat("x", 9000))
	redis.DoDB(1, "SET", "other:hidden", strings.Repeat("x", 9000))
	slices.Sort(keys)
	return keys
}

func sortedLines(out string) []string {
	lines := strings.Fields(out)
	slices.Sort(lines)
	return slices.Compact(lines)
}

// TestRedisCLI is the real redis-cli, command by command.
func TestRedisCLI(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	keys := sampleKeys(t, n, redis)
	only := func(prefix string) (some []string) {
		for _, k := range keys {
			if strings.HasPrefix(k, prefix) {
				some = append(some, k)
			}
		}
		return some
	}
	sameList := func(t *testing.T, got, want []string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%d keys %v,\nwant %d %v", len(got), got, len(want), want)
		}
	}

	t.Run("one command", func(t *testing.T) {
		for _, test := range []struct {
			want string
			code int
			args []string
		}{
			{"OK\n", 0, []string{"SET", "product:cli", "x"}},
			{"x\n", 0, []string{"GET", "product:cli"}},
			{"\"x\"\n", 0, []string{"--no-raw", "GET", "product:cli"}},
			{"(nil)\n", 0, []string{"--no-raw", "GET", "product:none"}},
			{"x\n", 0, []string{"-n", "1", "GET", "product:cli"}},
			{"\n", 0, []string{"-n", "2", "GET", "product:cli"}},
			{"OK\n", 0, []string{"SET", "lock:cli", "t", "NX", "PX", "60000"}},
			{"\n", 0, []string{"-n", "1", "GET", "lock:cli"}},
			{"x\n", 0, []string{"-u", "redis://" + n.addr + "/1", "GET", "product:cli"}},
			{"t\n", 0, []string{"-u", "redis://" + n.addr, "GET", "lock:cli"}},
			{"x\nt\n\n", 0, []string{"MGET", "product:cli", "lock:cli", "other:none"}},
			{"1# \"a\" => \"1\"\n2# \"b\" => \"2\"\n", 0, []string{"-3", "--no-raw", "HGETALL", "lock:hash"}},
			{"(empty hash)\n", 0, []string{"-3", "--no-raw", "HGETALL", "product:none"}},
			{"1) \"a\"\n2) \"1\"\n3) \"b\"\n4) \"2\"\n", 0, []string{"-2", "--no-raw", "HGETALL", "lock:hash"}},
			{"\"a\",\"b\",\"c\"\n", 0, []string{"--csv", "LRANGE", "stats:list", "0", "-1"}},
			{"[\"x\",null]\n", 0, []string{"--json", "MGET", "product:cli", "product:none"}},
			{"1\n2\n3\n", 0, []string{"-r", "3", "-i", "0.001", "INCR", "stats:cli"}},
			{"ERR unknown command 'FOO', with args beginning with: 'bar' \n", 1, []string{"-e", "FOO", "bar"}},
			{"ERR value is not an integer or out of range\n", 1, []string{"-e", "INCR", "product:cli"}},
			{"2\n", 0, []string{"DEL", "product:cli", "lock:cli"}},
		} {
			out, code := cli(t, n.addr, "", test.args...)
			if out != test.want || code != test.code {
				t.Errorf("redis-cli %s: %q, exit %d; want %q, exit %d", strings.Join(test.args, " "), out, code, test.want, test.code)
			}
		}
		out, code := cli(t, n.addr, "from stdin", "-x", "SET", "product:stdin")
		if out != "OK\n" || code != 0 || redis.DoDB(1, "GET", "product:stdin") != "from stdin" {
			t.Errorf("-x: %q, exit %d", out, code)
		}
		redis.DoDB(1, "DEL", "product:stdin", "stats:cli")
	})

	t.Run("scan", func(t *testing.T) {
		out, _ := cli(t, n.addr, "", "--scan")
		sameList(t, sortedLines(out), keys)
		for _, prefix := range []string{"product:", "lock:", "other:", "balance:"} {
			out, _ = cli(t, n.addr, "", "--scan", "--pattern", prefix+"*")
			sameList(t, sortedLines(out), only(prefix))
		}
		out, _ = cli(t, n.addr, "", "--scan", "--pattern", "none:*")
		sameList(t, sortedLines(out), nil)
		out, _ = cli(t, n.addr, "", "--scan", "-3")
		sameList(t, sortedLines(out), keys)
		out, _ = cli(t, n.addr, "", "-n", "1", "--scan", "--pattern", "other:*")
		sameList(t, sortedLines(out), []string{"other:hidden"})
	})

	for _, mode := range []string{"--bigkeys", "--memkeys"} {
		t.Run(mode, func(t *testing.T) {
			out, code := cli(t, n.addr, "", mode)
			if code != 0 {
				t.Fatalf("exit %d\n%s", code, out)
			}
			for _, wanted := range []string{
				fmt.Sprintf("Sampled %d keys in the keyspace!", len(keys)),
				`Biggest string found '"product:big"' has `,
				`Biggest   list found '"stats:list"' has `,
				`Biggest   hash found '"lock:hash"' has `,
				`Biggest    set found '"balance:set"' has `,
				"121 strings with ", "1 lists with ", "1 hashs with ", "1 sets with ", "0 zsets with ",
			} {
				if !strings.Contains(out, wanted) {
					t.Errorf("no %q", wanted)
				}
			}
			if strings.Contains(strings.ToLower(out), "err") || t.Failed() {
				t.Errorf("it says\n%s", out)
			}
		})
	}

	t.Run("--stat", func(t *testing.T) {
		r := runCLI(t, n.addr, "--stat", "-i", "0.05")
		r.expect(`------- data ------ .*`, nil)
		r.expect(`keys       mem      clients .*`, nil)
		size := redis.Do("DBSIZE") // of both databases, as INFO keyspace has them
		cache := redis.DoDB(1, "DBSIZE")
		a, _ := strconv.Atoi(size)
		b, _ := strconv.Atoi(cache)
		for range 5 {
			r.expect(fmt.Sprintf(`%d +[0-9.]+[KM] +\d+ +0 +\d+ \(\+\d+\) +\d+ +`, a+b), nil)
		}
	})

	t.Run("--latency", func(t *testing.T) {
		out, code := cli(t, n.addr, "", "--raw", "-i", "0.2", "--latency")
		f := strings.Fields(out)
		if samples, err := strconv.Atoi(f[len(f)-1]); code != 0 || len(f) != 4 || err != nil || samples < 2 {
			t.Errorf("exit %d: %q", code, out)
		}
		out, code = cli(t, n.addr, "", "--csv", "-i", "0.2", "--latency")
		if code != 0 || !regexp.MustCompile(`^\d+,\d+,[0-9.]+,\d+\n$`).MatchString(out) {
			t.Errorf("exit %d: %q", code, out)
		}
	})

	t.Run("--pipe", func(t *testing.T) {
		var b strings.Builder
		for i := range 1000 {
			prefix := []string{"product:", "lock:", "coupon:", "other:"}[i%4]
			b.WriteString(redistest.Command("SET", prefix+"pipe:"+strconv.Itoa(i), strconv.Itoa(i)))
		}
		b.WriteString(redistest.Command("INCR", "product:big"))
		out, code := cli(t, n.addr, b.String(), "--pipe")
		if code != 1 || !strings.Contains(out, "errors: 1, replies: 1001") || !strings.Contains(out, "ERR value is not an integer") {
			t.Errorf("exit %d: %s", code, out)
		}
		for i, where := range []struct {
			key string
			db  int
		}{{"product:pipe:0", 1}, {"lock:pipe:1", 0}, {"coupon:pipe:2", 1}, {"other:pipe:3", 0}} {
			if got := redis.DoDB(where.db, "GET", where.key); got != strconv.Itoa(i) {
				t.Errorf("%s is %q", where.key, got)
			}
		}
		out, _ = cli(t, n.addr, "", "--scan", "--pattern", "*:pipe:*")
		if got := len(sortedLines(out)); got != 1000 {
			t.Errorf("%d keys", got)
		}
	})

	t.Run("--eval", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "release.lua")
		if err := os.WriteFile(file, []byte(release), 0o600); err != nil {
			t.Fatal(err)
		}
		redis.Do("SET", "lock:eval", "mine")
		for _, step := range []struct{ token, want string }{{"theirs", "0\n"}, {"mine", "1\n"}, {"mine", "0\n"}} {
			if out, _ := cli(t, n.addr, "", "--eval", file, "lock:eval", ",", step.token); out != step.want {
				t.Errorf("the release by %s: %q, want %q", step.token, out, step.want)
			}
		}
	})

	// What makes a replica of redis-cli is refused, clearly and at once.
	for _, args := range [][]string{{"--rdb", filepath.Join(t.TempDir(), "dump")}, {"--replica"}, {"--functions-rdb", filepath.Join(t.TempDir(), "functions")}} {
		t.Run(args[0], func(t *testing.T) {
			begun := time.Now()
			out, code := cli(t, n.addr, "", args...)
			if code == 0 || !strings.Contains(out, "ERR nearside: ") || !strings.Contains(out, "send it to Redis itself") {
				t.Errorf("exit %d: %s", code, out)
			}
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}

	t.Run("-c", func(t *testing.T) {
		if out, code := cli(t, n.addr, "", "-c", "GET", "product:1"); out != "value\n" || code != 0 {
			t.Errorf("exit %d: %q", code, out)
		}
	})
}

// TestRedisCLIInteractive feeds sessions line by line.
func TestRedisCLIInteractive(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)

	// One session, the same at Redis and at nearside.
	session := strings.Join([]string{
		"SET product:1 1", "GET product:1", "SELECT 1", "GET product:1", "SELECT 0",
		"MULTI", "INCR product:1", "SET lock:a t", "GET lock:a", "PING", "CLIENT SETNAME me", "EXEC", "CLIENT GETNAME",
		"MULTI", "SET product:1 never", "DISCARD", "GET product:1",
		"MULTI", "SET product:1", "EXEC", "EXEC", "DISCARD",
		"MULTI", "DISCARD extra", "SET product:1 never", "EXEC", "GET product:1",
		"MULTI", "WATCH", "EXEC", "MULTI", "MULTI", "WATCH product:1", "MULTI extra", "EXEC", "GET product:1",
		"MULTI", "SELECT 99", "INCR lock:n", "EXEC", "GET lock:n", "MULTI", "SELECT 3", "SET k 3", "DISCARD", "GET k",
		"MULTI", "SELECT 3", "SET k 3", "EXEC", "GET k", "SELECT 0", "GET k",
		"WATCH product:1 lock:a", "SET lock:a changed", "MULTI", "GET product:1", "EXEC", "GET lock:a",
		"WATCH product:1", "UNWATCH", "SET product:1 9", "MULTI", "GET product:1", "EXEC",
		`SET "lock:with space" "a\x00b\n"`, `GET "lock:with space"`, "SETRANGE product:1 3 x", "GET product:1",
		"HSET stats:h a 1 b 2", "HGETALL stats:h", "ZADD stats:z 1.5 a", "ZRANGE stats:z 0 -1 WITHSCORES", "TYPE stats:z",
		"FOO bar", "SET a b c", "SELECT 16", "SELECT abc", "AUTH x y", "RESET", "PING",
		"GET lock:none", "BLPOP stats:none 0.01", "LPUSH stats:q 1 2", "BLPOP stats:q 1", "OBJECT ENCODING product:1", "CLIENT NO-EVICT maybe", "",
	}, "\n")
	for _, args := range [][]string{{"--no-raw"}, {"--no-raw", "-3"}, {"--raw"}} {
		c := n.dial()
		want(t, c, "OK", "FLUSHALL")
		through, _ := cli(t, n.addr, session, args...)
		redis.Do("FLUSHALL")
		direct, _ := cli(t, redis.Addr, session, args...)
		got, wanted := strings.Split(through, "\n"), strings.Split(direct, "\n")
		for i := range min(len(got), len(wanted)) {
			if i == 3 && strings.Trim(got[i], `"`) == "1" {
				continue // GET at database 1: the one wanted difference
			}
			if got[i] != wanted[i] {
				t.Errorf("%v, line %d: %q; Redis itself %q", args, i, got[i], wanted[i])
			}
		}
		if len(got) != len(wanted) {
			t.Errorf("%v: %d lines, Redis itself %d\n%s", args, len(got), len(wanted), through)
		}
	}

	t.Run("SUBSCRIBE", func(t *testing.T) {
		r := runCLI(t, n.addr)
		r.send("SUBSCRIBE news weather")
		for _, line := range []string{"subscribe", "news", "1", "subscribe", "weather", "2"} {
			r.expect(line, nil)
		}
		if got := redis.Do("PUBLISH", "news", "hello"); got != "1" {
			t.Errorf("PUBLISH: %s", got)
		}
		c := n.dial()
		want(t, c, "1", "PUBLISH", "weather", "rain")
		for _, line := range []string{"message", "news", "hello", "message", "weather", "rain"} {
			r.expect(line, nil)
		}
	})

	t.Run("MONITOR", func(t *testing.T) {
		r := runCLI(t, n.addr)
		r.send("MONITOR")
		r.expect("OK", nil)
		c := n.dial()
		want(t, c, "OK", "SET", "product:monitor", "x y")
		want(t, c, "OK", "SET", "lock:monitor", "t", "NX")
		// The link's own traffic is seen as well.
		own := regexp.MustCompile(`"(PING|ROLE|INFO|CLIENT|HELLO|SELECT|AUTH|COMMAND|ACL)"`)
		const line = `\d+\.\d+ \[%d 127\.0\.0\.1:\d+\] %s`
		r.expect(fmt.Sprintf(line, 1, `"SET" "product:monitor" "x y"`), own)
		r.expect(fmt.Sprintf(line, 0, `"SET" "lock:monitor" "t" "NX"`), own)
	})
}

// TestMonitorAgain: Redis leaves a second MONITOR unanswered, and RESET ends the first.
func TestMonitorAgain(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.Ping = time.Hour })
	c := n.dial()
	want(t, c, "OK", "MONITOR")
	c.Send("MONITOR")
	c.Send("RESET")
	for line := c.Read(); line != "RESET"; line = c.Read() {
		if !strings.Contains(line, "[") { // what others send meanwhile
			t.Fatalf("between MONITOR and RESET: %q", line)
		}
	}
	want(t, c, "hello", "ECHO", "hello")
}

// TestDirtyTransaction: a DISCARD that Redis refuses leaves the connection in
// MULTI; it must not go to another client that way.
func TestDirtyTransaction(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	for _, refused := range [][]string{{"DISCARD", "x"}, {"MULTI", "x"}, {"WATCH"}, {"RESET", "x"}, {"SET", "lock:a"}} {
		c := n.dial()
		want(t, c, "OK", "MULTI")
		if got := c.Do(refused...); !strings.HasPrefix(got, "-ERR wrong number of arguments") {
			t.Errorf("%s inside MULTI: %q", refused, got)
		}
		want(t, c, "QUEUED", "SET", "lock:a", "never")
		want(t, c, "-EXECABORT Transaction discarded because of previous errors.", "EXEC")
		want(t, c, "(nil)", "GET", "lock:a")
		want(t, c, "-ERR EXEC without MULTI", "EXEC")

		next := n.dial()
		want(t, next, "OK", "WATCH", "lock:a")
		want(t, next, "OK", "MULTI")
		want(t, next, "[]", "EXEC")
		want(t, next, "OK", "MSET", "lock:m", "1", "product:m", "2")
		want(t, next, "[subscribe ch 1]", "SUBSCRIBE", "ch")
	}
}

// TestWatchOutlivesHello: HELLO with another protocol version takes the
// connection with the WATCH away, so EXEC must not run.
func TestWatchOutlivesHello(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	want(t, c, "OK", "WATCH", "balance:1")
	c.Do("HELLO", "3")
	redis.DoDB(1, "SET", "balance:1", "elsewhere")
	want(t, c, "OK", "MULTI")
	c.Do("SET", "balance:1", "lost update")
	if got := c.Do("EXEC"); got != "(nil)" && !strings.HasPrefix(got, "-EXECABORT") {
		t.Errorf("EXEC answered %q", got)
	}
	if got := redis.DoDB(1, "GET", "balance:1"); got != "elsewhere" {
		t.Errorf("the watched key is %q", got)
	}
	want(t, c, "OK", "MULTI")
	want(t, c, "QUEUED", "GET", "balance:1")
	want(t, c, "[elsewhere]", "EXEC")
	// A subscription must not vanish either.
	want(t, c, ">[subscribe ch 1]", "SUBSCRIBE", "ch")
	if got := c.Do("HELLO", "2"); !strings.HasPrefix(got, "-ERR nearside: ") {
		t.Errorf("HELLO 2 while subscribed: %q", got)
	}
	redis.Do("PUBLISH", "ch", "still here")
	if got := c.Read(); got != ">[message ch still here]" {
		t.Errorf("the message: %q", got)
	}
}

var benchmarkLine = regexp.MustCompile(`(?m)^([^:\r\n]+): (?:[0-9.]+|inf) requests per second`)

// TestRedisBenchmark runs redis-benchmark's whole default set.
func TestRedisBenchmark(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	run := func(t *testing.T, addr string, args ...string) []string {
		t.Helper()
		cmd := tool(t, "redis-benchmark", addr, append([]string{"-q"}, args...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out.Bytes())
		}
		text := strings.ReplaceAll(out.String(), "\r", "\n")
		for _, bad := range []string{"Error", "ERR", "WARNING", "WRONGTYPE"} {
			if strings.Contains(text, bad) {
				t.Fatalf("%v:\n%s", args, text)
			}
		}
		var names []string
		for _, m := range benchmarkLine.FindAllStringSubmatch(text, -1) {
			names = append(names, m[1])
		}
		return names
	}
	all := run(t, redis.Addr, "-n", "20", "-c", "2")
	if len(all) < 20 {
		t.Fatalf("redis-benchmark's default set at Redis itself: %q", all)
	}
	redis.Do("FLUSHALL")
	for _, args := range [][]string{{"-P", "1"}, {"-P", "16"}, {"-P", "16", "-3"}, {"-P", "1", "--dbnum", "1"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			if got := run(t, n.addr, append(args, "-n", "2000", "-c", "20")...); !slices.Equal(got, all) {
				t.Errorf("it has run %q,\nat Redis itself %q", got, all)
			}
		})
	}
	// Nothing was lost on the way: 2,000 per run, and INCR in three of them at database 0.
	if got := redis.Do("GET", "counter:__rand_int__"); got != "6000" {
		t.Errorf("the counter is %s", got)
	}
	if got := redis.DoDB(1, "GET", "counter:__rand_int__"); got != "2000" {
		t.Errorf("the counter in database 1 is %s", got)
	}
	// And with keys under a rule: hits, writes and locks at one time.
	for _, args := range [][]string{
		{"-P", "8", "GET", "product:__rand_int__"},
		{"-P", "8", "SET", "product:__rand_int__", "v"},
		{"-P", "1", "SET", "lock:__rand_int__", "t", "NX", "PX", "100"},
		{"-P", "8", "MGET", "product:__rand_int__", "lock:__rand_int__"},
	} {
		run(t, n.addr, append([]string{"-n", "2000", "-c", "20", "-r", "100"}, args...)...)
	}
	if n.hits() == 0 {
		t.Error("no hit")
	}
}

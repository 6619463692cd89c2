package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// builtBinary builds nearside once, as it is shipped: memory is measured without
// the race detector. The package builds no command but may run one.
var builtBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nearside-binary")
	if err != nil {
		return "", err
	}
	binaryDir = dir
	path := filepath.Join(dir, "nearside")
	if out, err := exec.Command("go", "build", "-o", path, "nearside/cmd/nearside").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

var binaryDir string

// process is a nearside of its own.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	addr string // for redistest.Dial
	log  *bytes.Buffer

	ended chan struct{} // closed when it has

	mu    sync.Mutex
	conns []net.Conn // of dial
}

// The bound that design.md states: 2×memory and 256 MiB.
const (
	processMemory = 64 << 20
	processBound  = 2*processMemory + 256<<20
)

// startProcess runs nearside on a unix socket; extra is added to its configuration.
func startProcess(t testing.TB, redis *redistest.Server, extra string) *process {
	t.Helper()
	return startLimited(t, redis, 0, "", extra)
}

// startLimited is startProcess for a process that may open so many files, unless 0,
// with an admin address.
func startLimited(t testing.TB, redis *redistest.Server, files int, admin, extra string) *process {
	t.Helper()
	path, err := builtBinary()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "ns") // t.TempDir is too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &process{t: t, addr: "unix:" + filepath.Join(dir, "s"), log: &bytes.Buffer{}}
	config := filepath.Join(dir, "nearside.yaml")
	text := fmt.Sprintf("listen: [%q]\nadmin: %q\nredis: %s\nlocks:\n  rules:\n    - prefix: \"lock:\"\ncache:\n  memory: 64MiB\n  rules:\n    - prefix: \"product:\"\n      max_reply: 2MiB\n%s", p.addr, admin, redis.URL(), extra)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(path, "-config", config)
	if files > 0 {
		p.cmd = exec.Command("sh", "-c", `ulimit -n "$1" && exec "$2" -config "$3"`, "sh", strconv.Itoa(files), path, config)
	}
	p.cmd.Env = os.Environ()
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	p.ended = make(chan struct{})
	go func() { exited <- p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() {
		for _, c := range p.conns {
			c.Close()
		}
		_ = p.cmd.Process.Signal(os.Interrupt)
		select {
		case err := <-exited:
			if err != nil {
				t.Errorf("nearside ended with %v:\n%.3000s", err, p.log)
			}
		case <-time.After(20 * time.Second):
			_ = p.cmd.Process.Kill()
			t.Errorf("nearside does not end by itself: %v", <-exited)
		}
	})
	p.eventually("nearside listens", func() bool {
		c, err := net.Dial("unix", strings.TrimPrefix(p.addr, "unix:"))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	// Until the link is up nothing is a hit, and Redis has to answer everything.
	c := redistest.Dial(t, p.addr)
	defer c.Close()
	p.eventually("hits are served", func() bool {
		c.Do("GET", "product:none")
		return p.info("cache_hits") > 0
	})
	return p
}

func (p *process) eventually(what string, ok func() bool) {
	p.t.Helper()
	deadline := time.Now().Add(redistest.Timeout)
	for !ok() {
		if time.Now().After(deadline) {
			p.t.Fatalf("never came true: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// memory reads what the process holds now and what it has held at most.
func (p *process) memory() (now, peak int64) {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatalf("%v\n%.3000s", err, p.log)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch {
		case len(f) < 2:
		case f[0] == "VmRSS:":
			now, _ = strconv.ParseInt(f[1], 10, 64)
		case f[0] == "VmHWM:":
			peak, _ = strconv.ParseInt(f[1], 10, 64)
		}
	}
	return now << 10, peak << 10
}

// info reads one figure of INFO's Nearside section.
func (p *process) info(name string) int64 {
	p.t.Helper()
	c := redistest.Dial(p.t, p.addr)
	defer c.Close()
	for line := range strings.Lines(c.Do("INFO", "nearside")) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return n
		}
	}
	p.t.Fatalf("INFO nearside has no %s", name)
	return 0
}

// warm sees to it that keys are hits.
func (p *process) warm(keys ...string) {
	p.t.Helper()
	c := redistest.Dial(p.t, p.addr)
	defer c.Close()
	for _, key := range keys {
		before := p.info("cache_misses")
		p.eventually(key+" is a hit", func() bool {
			c.Do("GET", key)
			now := p.info("cache_misses")
			was := before
			before = now
			return now == was
		})
	}
}

// dial opens a connection that nobody reads.
func (p *process) dial() net.Conn {
	p.t.Helper()
	var c net.Conn
	p.eventually("a place in the listener's queue", func() bool {
		var err error
		if c, err = net.Dial("unix", strings.TrimPrefix(p.addr, "unix:")); err != nil && !errors.Is(err, syscall.EAGAIN) {
			p.t.Fatal(err)
		}
		return err == nil
	})
	p.mu.Lock()
	p.conns = append(p.conns, c)
	p.mu.Unlock()
	return c
}

// hangUp closes what dial has opened and waits until nothing is held for it.
func (p *process) hangUp() {
	p.t.Helper()
	p.mu.Lock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.eventually("all clients are gone and all buffers are given back", func() bool {
		return p.info("nearside_connected_clients") == 1 && p.info("nearside_buffer_bytes") == 0
	})
}

// push writes until all is written or, for a client that does not read, until
// the other side takes no more for a while or closes.
func push(c net.Conn, b []byte) (n int) {
	for len(b) > 0 {
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		m, err := c.Write(b[:min(len(b), 256<<10)])
		n += m
		if b = b[m:]; err != nil && m == 0 {
			return n
		}
	}
	return n
}

// wellBehaved uses the process as an application does until stopped, and
// measures. It fails the test when a request fails or takes too long.
type wellBehaved struct {
	stop    atomic.Bool
	done    chan struct{}
	served  atomic.Int64
	slowest time.Duration
	failed  string
}

const (
	slowestAllowed = 6 * time.Second // two CPUs, the race detector, and an attack that closes 2,700 clients
	largeBody      = 100 << 10
)

func (p *process) wellBehave() *wellBehaved {
	p.t.Helper()
	w := &wellBehaved{done: make(chan struct{})}
	c := redistest.Dial(p.t, p.addr)
	large := strings.Repeat("L", largeBody)
	go func() {
		defer close(w.done)
		defer c.Close()
		for i := 0; !w.stop.Load(); i++ {
			begun := time.Now()
			key, value := "product:well", strconv.Itoa(i)
			if i%16 == 0 { // also needs more than an idle client's buffers
				key, value = "well", large[:len(large)-i%7]
			}
			for _, step := range [][]string{{"SET", key, value}, {"GET", key}} {
				if _, err := io.WriteString(c.Conn, redistest.Command(step...)); err != nil {
					w.failed = err.Error()
					return
				}
				got, err := c.TryRead()
				if err != nil {
					w.failed = fmt.Sprintf("%s: %v", step[0], err)
					return
				}
				if step[0] == "SET" && got != "OK" || step[0] == "GET" && got != value {
					w.failed = fmt.Sprintf("%s %s answered %.100q", step[0], key, got)
					return
				}
			}
			w.slowest = max(w.slowest, time.Since(begun))
			w.served.Add(1)
			time.Sleep(time.Millisecond)
		}
	}()
	return w
}

// further waits until n more rounds were served, or one has failed.
func (w *wellBehaved) further(n int64) {
	for until := w.served.Load() + n; w.served.Load() < until; {
		select {
		case <-w.done:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (w *wellBehaved) end(t testing.TB) {
	t.Helper()
	w.stop.Store(true)
	<-w.done
	if w.failed != "" {
		t.Errorf("a well-behaved client was not served: %s", w.failed)
	}
	if w.served.Load() == 0 || w.slowest > slowestAllowed {
		t.Errorf("a well-behaved client was served %d times, the slowest after %v", w.served.Load(), w.slowest)
	}
}

// attack is a hostile case. run returns when the worst is done; what it opened
// with dial is still open then.
type attack struct {
	name   string
	config string
	run    func(t *testing.T, p *process)
}

// crowd runs f for n clients at a time, so many goroutines as are useful.
func crowd(n int, f func(i int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(n, 32) {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				f(i)
			}
		})
	}
	wg.Wait()
}

// bulk is the head of a SET whose value has n bytes.
func setHead(n int) string { return fmt.Sprintf("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n", n) }

var attacks = []attack{
	{name: "1 GiB announced", run: func(t *testing.T, p *process) {
		t.Helper()
		for range 4 {
			c := redistest.Dial(t, p.addr)
			c.Write(setHead(1 << 30))
			if got := c.Read(); !strings.HasPrefix(got, "-ERR Protocol error") {
				t.Errorf("answered %q", got)
			}
			c.Close()
		}
	}},
	{name: "4 × 60 MB announced, 200 MB sent", run: func(_ *testing.T, p *process) {
		body := bytes.Repeat([]byte("x"), 50<<20)
		conns := dialMany(p, 4)
		crowd(4, func(i int) { push(conns[i-1], []byte(setHead(60<<20))); push(conns[i-1], body) })
	}},
	{name: "10 × 60 MB sent whole", run: func(_ *testing.T, p *process) {
		body := append(append([]byte(setHead(60<<20)), bytes.Repeat([]byte("x"), 60<<20)...), "\r\n"...)
		conns := dialMany(p, 10)
		crowd(10, func(i int) { push(conns[i-1], body) })
	}},
	{name: "10 × GET of a 60 MB key", run: func(_ *testing.T, p *process) {
		key := "product:" + strings.Repeat("k", 60<<20)
		body := []byte(redistest.Command("GET", key))
		conns := dialMany(p, 10)
		crowd(10, func(i int) { push(conns[i-1], body) })
	}},
	{name: "20 × 1,000,000 arguments", run: func(_ *testing.T, p *process) {
		body := []byte("*1000001\r\n$4\r\nMGET\r\n" + strings.Repeat("$1\r\nx\r\n", 1_000_000))
		conns := dialMany(p, 20)
		crowd(20, func(i int) { push(conns[i-1], body) })
	}},
	{name: "20 × EXISTS of 1,500,000 keys in both databases", run: func(_ *testing.T, p *process) {
		body := []byte("*1500000\r\n$6\r\nEXISTS\r\n" + strings.Repeat("$1\r\nx\r\n", 749_999) + strings.Repeat("$9\r\nproduct:x\r\n", 750_000))
		conns := dialMany(p, 20)
		crowd(len(conns), func(i int) { push(conns[i-1], body) })
	}},
	{name: "20 × DEL of 500,000 cached keys", run: func(_ *testing.T, p *process) {
		body := []byte("*500001\r\n$3\r\nDEL\r\n" + strings.Repeat("$9\r\nproduct:x\r\n", 500_000))
		conns := dialMany(p, 20)
		crowd(20, func(i int) { push(conns[i-1], body) })
	}},
	{name: "5,000 × 60 KB unfinished", run: func(_ *testing.T, p *process) {
		conns := dialMany(p, 5000)
		body := append([]byte(setHead(62<<10)), bytes.Repeat([]byte("x"), 60<<10)...)
		crowd(len(conns), func(i int) { push(conns[i-1], body) })
	}},
	{name: "1 reads nothing of 100,000 × 10 KB", run: func(_ *testing.T, p *process) { neverReads(p, 1, 100_000, "ten") }},
	{name: "50 read nothing of 100,000 × 10 KB", run: func(_ *testing.T, p *process) { neverReads(p, 50, 100_000, "ten") }},
	{name: "50 read nothing of 100,000 × 10 KB, hits", run: func(_ *testing.T, p *process) { p.warm("product:ten"); neverReads(p, 50, 100_000, "product:ten") }},
	{name: "10 read nothing of 20 × 5 MB", run: func(_ *testing.T, p *process) { neverReads(p, 10, 20, "five") }},
	{name: "1,000 read nothing of 10 × 1 MB, hits", run: func(_ *testing.T, p *process) { p.warm("product:mega"); neverReads(p, 1000, 10, "product:mega") }},
	{name: "100 read nothing of MGET 200 × 1 MB, hits", run: func(_ *testing.T, p *process) {
		conns := dialMany(p, 100)
		p.warm("product:mega")
		body := []byte(redistest.Command(append([]string{"MGET"}, strings.Fields(strings.Repeat("product:mega ", 200))...)...))
		crowd(len(conns), func(i int) { push(conns[i-1], body) })
	}},
	{name: "500 read nothing of 100 × 20 KB", run: func(_ *testing.T, p *process) { neverReads(p, 500, 100, "twenty") }},
	{name: "2,000 × 1,024 requests, then silence", run: func(_ *testing.T, p *process) {
		conns := dialMany(p, 2000)
		body := []byte(strings.Repeat(redistest.Command("EXISTS", "k"), 1024))
		crowd(len(conns), func(i int) {
			push(conns[i-1], body)
			_ = conns[i-1].SetReadDeadline(time.Now().Add(redistest.Timeout))
			_, _ = io.CopyN(io.Discard, conns[i-1], 4*1024)
		})
	}},
	{name: "10 × MULTI with 50,000 replies of 4 KB", run: func(_ *testing.T, p *process) {
		conns := dialMany(p, 10)
		body := []byte(redistest.Command("CLIENT", "SETNAME", strings.Repeat("n", 4000)) + redistest.Command("MULTI") + strings.Repeat(redistest.Command("CLIENT", "GETNAME"), 50_000))
		crowd(len(conns), func(i int) { push(conns[i-1], body) })
	}},
	{name: "20 × a name of 30 MB", run: func(_ *testing.T, p *process) {
		conns := dialMany(p, 20)
		body := []byte(redistest.Command("CLIENT", "SETNAME", strings.Repeat("n", 30<<20)) + redistest.Command("CLIENT", "LIST"))
		crowd(len(conns), func(i int) { push(conns[i-1], body) })
	}},
	{name: "20 × a channel of 30 MB", run: func(_ *testing.T, p *process) {
		conns := dialMany(p, 20)
		body := []byte(redistest.Command("SUBSCRIBE", strings.Repeat("n", 30<<20)))
		crowd(len(conns), func(i int) { push(conns[i-1], body) })
	}},
	{name: "200 × garbage", run: func(_ *testing.T, p *process) {
		conns := dialMany(p, 200)
		crowd(len(conns), func(i int) { push(conns[i-1], garbage(uint64(i), 256<<10)) })
	}},
}

// garbage is random bytes, half of them of those that mean something.
func garbage(seed uint64, n int) []byte {
	b := make([]byte, n)
	const spice = "*$\r\n0123456789-\"'\\ \x00:+%>GETSET"
	x := seed*2862933555777941757 + 3037000493
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		if v := byte(x >> 56); v&1 == 0 {
			b[i] = spice[int(v>>1)%len(spice)]
		} else {
			b[i] = byte(x >> 40)
		}
	}
	return b
}

func dialMany(p *process, n int) []net.Conn {
	p.t.Helper()
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = p.dial()
	}
	return conns
}

// neverReads lets clients ask for one key many times and read nothing.
func neverReads(p *process, clients, times int, key string) {
	body := []byte(strings.Repeat(redistest.Command("GET", key), times))
	conns := dialMany(p, clients)
	crowd(clients, func(i int) { push(conns[i-1], body) })
}

// TestHostileMemory: whatever clients do, the process stays within its bound and
// serves others meanwhile; when they are gone, no buffer is counted any more.
func TestHostileMemory(t *testing.T) {
	redis := redistest.Start(t)
	for key, size := range map[string]int{"ten": 10_000, "twenty": 20_000, "five": 5_000_000} {
		redis.Do("SET", key, strings.Repeat("v", size))
	}
	redis.DoDB(1, "SET", "product:ten", strings.Repeat("v", 10_000))
	redis.DoDB(1, "SET", "product:mega", strings.Repeat("v", 1_000_000))
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			p := startProcess(t, redis, a.config)
			w := p.wellBehave()
			begun := time.Now()
			a.run(t, p)
			w.further(100)
			now, _ := p.memory()
			took := time.Since(begun)
			w.end(t)
			p.hangUp()
			_, peak := p.memory()
			t.Logf("memory %d MiB, at most %d MiB of %d; %d served meanwhile, the slowest in %v; took %v", now>>20, peak>>20, processBound>>20, w.served.Load(), w.slowest, took)
			if peak > processBound {
				t.Errorf("the process held %d MiB; its bound is %d MiB", peak>>20, processBound>>20)
			}
		})
	}
}

// TestManySilentClients: ten thousand connections that say nothing cost a few
// kilobytes each, nobody else notices, and their memory comes back.
func TestManySilentClients(t *testing.T) {
	clients := 10_000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil && limit.Cur < uint64(clients+200) {
		clients = int(limit.Cur) - 200
		t.Logf("scaled down to %d clients: this process may open %d files", clients, limit.Cur)
	}
	redis := redistest.Start(t)
	p := startProcess(t, redis, "max_clients: 10100\n")
	w := p.wellBehave()
	w.further(20)
	before, _ := p.memory()
	dialMany(p, clients)
	p.eventually("all are connected", func() bool { return p.info("nearside_connected_clients") == int64(clients)+2 })
	now, _ := p.memory()
	w.further(100)
	t.Logf("%d silent clients: %d MiB, %d MiB before, %d bytes each", clients, now>>20, before>>20, (now-before)/int64(clients))
	if now > processBound {
		t.Errorf("the process holds %d MiB", now>>20)
	}
	w.end(t)
	p.hangUp()

	// The same number again and again needs no more each time.
	var held [8]int64
	for i := range held {
		conns := dialMany(p, clients)
		for _, c := range conns {
			_ = push(c, []byte("PING\r\n"))
		}
		for _, c := range conns {
			_ = c.SetReadDeadline(time.Now().Add(redistest.Timeout))
			if _, err := io.ReadFull(c, make([]byte, len(replyPong))); err != nil {
				t.Fatal(err)
			}
		}
		held[i], _ = p.memory()
		p.hangUp()
	}
	t.Logf("after a PING of each, in bytes: %v", held)
	if most := slices.Max(held[:]); most > processBound || held[len(held)-1] > 2*held[0] {
		t.Errorf("the process held, round after round, in bytes: %v", held)
	}
}

// TestSlowRequests: clients that send a request byte by byte are closed after
// request_timeout, however busy they look; a large request that gets on is not.
func TestSlowRequests(t *testing.T) {
	redis := redistest.Start(t)
	p := startProcess(t, redis, "request_timeout: 300ms\n")
	w := p.wellBehave()
	conns := dialMany(p, 500)
	request := redistest.Command("SET", "k", strings.Repeat("x", 10_000))
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	open := len(conns)
	deadline := time.Now().Add(redistest.Timeout)
	for i := 0; open > 0; i++ {
		if time.Now().After(deadline) || i >= len(request) {
			t.Fatalf("%d slow clients are still connected", open)
		}
		for j, c := range conns {
			if c == nil {
				continue
			}
			if _, err := io.WriteString(c, request[i:i+1]); err != nil {
				conns[j] = nil
				open--
			}
		}
		<-ticker.C
	}

	// 20 × 20 KB, each after a third of the timeout: more than a second in all.
	slow := redistest.Dial(t, p.addr)
	slow.Write(setHead(400_000))
	for range 20 {
		<-time.After(60 * time.Millisecond)
		slow.Write(strings.Repeat("x", 20_000))
	}
	slow.Write("\r\n")
	if got := slow.Read(); got != "OK" {
		t.Errorf("a slow upload is answered %q", got)
	}
	slow.Close()
	w.end(t)
	p.hangUp()
}

// TestMaxClients: one too many hears what Redis says; a place that becomes free is given away.
func TestMaxClients(t *testing.T) {
	redis := redistest.Start(t, "--maxclients", "20")
	n := start(t, redis, func(c *Config) { c.MaxClients = 5 })
	var first *redistest.Client
	for range 5 {
		c := n.dial()
		want(t, c, "PONG", "PING")
		if first == nil {
			first = c
		}
	}
	// What Redis says to one too many, once it has so many.
	full := redistest.Start(t, "--maxclients", "1")
	c := redistest.Dial(t, full.Addr)
	defer c.Close()
	want(t, c, "PONG", "PING")
	said := transcript(t, full.Addr, "", false)
	for range 3 {
		if got := transcript(t, n.addr, "", false); got != said || got == "" {
			t.Errorf("one too many hears %q, from Redis %q", got, said)
		}
	}
	if got := n.m.rejected.Get(); got != 3 {
		t.Errorf("%d rejections are counted", got)
	}
	first.Close()
	n.eventually("the place is given away", func() bool {
		c := redistest.Dial(t, n.addr)
		defer c.Close()
		return c.Do("PING") == "PONG"
	})
}

// TestStoppedReader: a client that reads no more is closed after write_timeout,
// whether its replies are hits or not; others notice nothing.
func TestStoppedReader(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("SET", "ten", strings.Repeat("v", 10_000))
	redis.DoDB(1, "SET", "product:ten", strings.Repeat("v", 10_000))
	redis.DoDB(1, "SET", "product:mega", strings.Repeat("v", 1_000_000))
	p := startProcess(t, redis, "write_timeout: 300ms\n")
	w := p.wellBehave()
	p.warm("product:mega", "product:ten")
	for _, key := range []string{"ten", "product:ten", "product:mega"} {
		neverReads(p, 5, 1000, key)
	}
	p.eventually("all that do not read are closed", func() bool { return p.info("nearside_connected_clients") == 2 })
	w.further(50)
	w.end(t)
	p.hangUp()
}

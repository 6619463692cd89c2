package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a child that is ended by its id.
type process struct {
	cmd  *exec.Cmd
	gone chan struct{}
	out  *tailBuffer
}

func startProcess(name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), gone: make(chan struct{}), out: &tailBuffer{}}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// Pdeathsig is sent when the thread that started the child ends.
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
			close(p.gone)
		}
		runtime.UnlockOSThread()
	}()
	return p, <-started
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.gone
}

func (p *process) alive() bool {
	select {
	case <-p.gone:
		return false
	default:
		return true
	}
}

// tailBuffer keeps the last of what a process said.
type tailBuffer struct {
	mu   sync.Mutex
	b    []byte
	race bool
}

func (t *tailBuffer) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if bytes.Contains(b, []byte("DATA RACE")) {
		t.race = true
	}
	if t.b = append(t.b, b...); len(t.b) > 64<<10 && !t.race {
		t.b = append([]byte(nil), t.b[len(t.b)-32<<10:]...)
	}
	return len(b), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

func (t *tailBuffer) raced() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.race
}

func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// redisServer is a redis-server that keeps its port and directory over restarts.
type redisServer struct {
	addr, dir string
	p         *process
}

func newRedis(dir string) (*redisServer, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	addr, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &redisServer{addr: addr, dir: dir}
	err = s.start()
	return s, err
}

func (s *redisServer) start() error {
	_, port, _ := net.SplitHostPort(s.addr)
	var err error
	if s.p, err = startProcess("redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", s.dir, "--save", "",
		"--appendonly", "no", "--dbfilename", "dump.rdb", "--repl-diskless-sync-delay", "0", "--busy-reply-threshold", "100"); err != nil {
		return err
	}
	for range 4000 {
		if ping(s.addr) {
			return nil
		}
		if !s.p.alive() {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("redis-server does not start: %s", s.p.out)
}

func (s *redisServer) forget() { _ = os.Remove(filepath.Join(s.dir, "dump.rdb")) }

func (s *redisServer) signal(sig syscall.Signal) { _ = s.p.cmd.Process.Signal(sig) }

func ping(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.WriteString(c, "PING\r\n")
	b := make([]byte, 5)
	_, err = io.ReadFull(c, b)
	return err == nil && string(b) == "+PONG"
}

// sources is the directory of nearside's own module.
func sources() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// build builds the nearside that is checked.
func build(ctx context.Context, bin string, flags ...string) error {
	args := append([]string{"build", "-o", bin}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/nearside")...)
	cmd.Dir = sources()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nearside cannot be built: %w\n%s", err, out)
	}
	return nil
}

// nearside is one instance and its relay.
type nearside struct {
	name        string
	addr, admin string
	relay       *relay
	p           *process
}

func newNearside(name, bin, dir, redis string, cfg *Config) (*nearside, error) {
	n := &nearside{name: name}
	var err error
	if n.relay, err = newRelay(redis, cfg); err != nil {
		return nil, err
	}
	if n.addr, err = freePort(); err != nil {
		return nil, err
	}
	if n.admin, err = freePort(); err != nil {
		return nil, err
	}
	source, consistency := "tracking", "bounded"
	if cfg.Mode.keyspace() {
		source = "keyspace"
	}
	if cfg.Mode.fenced() {
		consistency = "fenced"
	}
	file := filepath.Join(dir, name+".yaml")
	text := fmt.Sprintf(`
listen: [%s]
admin: %s
redis: redis://%s
locks:
  db: 0
  rules:
    - prefix: "lock:"
cache:
  db: 1
  ttl: 10m
  memory: %dMiB
  max_staleness: %s
  ping: %s
  link: %s
  keyspace_events: set
  audit: {one_in: %d, per_second: 200}
  rules:
    - prefix: "product:"
      consistency: %s
`, n.addr, n.admin, n.relay.addr(), cfg.MemoryMiB, cfg.MaxStaleness, cfg.Ping, source, cfg.AuditOneIn, consistency)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if n.p, err = startProcess(bin, "-config", file); err != nil {
		return nil, err
	}
	for range 2000 {
		if ping(n.addr) {
			return n, nil
		}
		if !n.p.alive() {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, fmt.Errorf("nearside %s does not start: %s", name, n.p.out)
}

// hits asks /cache/metrics.
func (n *nearside) hits(ctx context.Context) (hits, total int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+"/cache/metrics", http.NoBody)
	if err != nil {
		return 0, 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer res.Body.Close()
	var got struct {
		Metrics map[string]struct{ Hits, Misses int64 }
	}
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
		return 0, 0, err
	}
	m, ok := got.Metrics["product"]
	if !ok {
		return 0, 0, errors.New("/cache/metrics does not know the rule")
	}
	return m.Hits, m.Hits + m.Misses, nil
}

// metrics asks /metrics for everything whose name begins in this way.
func (n *nearside) metrics(ctx context.Context, prefix string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	all := map[string]float64{}
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if all[name], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// lastWords is the end of a process's log.
func lastWords(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}

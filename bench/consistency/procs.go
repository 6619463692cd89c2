package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"nearside/bench/internal/proc"
	"nearside/bench/internal/scrape"
)

// redisServer is a redis-server that keeps its port and directory over restarts.
type redisServer struct {
	addr, dir string
	program   string
	args      []string
	p         *proc.Process
}

// newServer starts a server by its name (see serverProgram) in a directory of its own.
func newServer(dir, name string, args ...string) (*redisServer, error) {
	program, err := serverProgram(name)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	addr, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	s := &redisServer{addr: addr, dir: dir, program: program, args: args}
	err = s.start()
	return s, err
}

// serverProgram finds a server: "" or "redis7" is the redis-server in PATH, a name
// without a slash is one of those that "make servers" unpacks, and anything else
// a program's path.
func serverProgram(name string) (string, error) {
	switch {
	case name == "" || name == "redis7":
		return "redis-server", nil
	case strings.ContainsRune(name, filepath.Separator):
		return name, nil
	}
	dir := os.Getenv("NEARSIDE_SERVERS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(cache, "nearside", "servers")
	}
	program := filepath.Join(dir, name, "bin", "redis-server")
	if _, err := os.Stat(program); err != nil {
		return "", fmt.Errorf("%s is not there; run make servers: %w", name, err)
	}
	return program, nil
}

// newRedis starts the server that this run is to have.
func (c *check) newRedis(name string) (*redisServer, error) {
	busy := 100 * time.Millisecond
	if c.cfg.Strong > 0 { // its slow commands are scripts
		busy = 30 * time.Second
	}
	args := []string{
		"--save", "", "--appendonly", "no", "--dbfilename", "dump.rdb", "--repl-diskless-sync-delay", "0",
		"--lua-time-limit", strconv.FormatInt(busy.Milliseconds(), 10), // today's name of it, busy-reply-threshold, is not known to Redis 6
	}
	if c.cfg.Threads > 0 {
		args = append(args, "--io-threads", strconv.Itoa(c.cfg.Threads))
	}
	return newServer(filepath.Join(c.dir, name), c.cfg.Server, args...)
}

func (s *redisServer) start() error {
	_, port, _ := net.SplitHostPort(s.addr)
	var err error
	if s.p, err = proc.Start(s.program, append([]string{"--port", port, "--bind", "127.0.0.1", "--dir", s.dir}, s.args...)...); err != nil {
		return err
	}
	return s.p.Await(s.addr)
}

func (s *redisServer) forget() { _ = os.Remove(filepath.Join(s.dir, "dump.rdb")) }

// nearside is one instance and its relay.
type nearside struct {
	name        string
	addr, admin string
	relay       *relay
	p           *proc.Process
}

func newNearside(name, bin, dir, redis string, cfg *Config) (*nearside, error) {
	n := &nearside{name: name}
	var err error
	if n.relay, err = newRelay(redis, cfg); err != nil {
		return nil, err
	}
	if n.addr, err = proc.FreeAddr(); err != nil {
		return nil, err
	}
	if n.admin, err = proc.FreeAddr(); err != nil {
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
	if n.p, err = proc.Start(bin, "-config", file); err != nil {
		return nil, err
	}
	if err := n.p.Await(n.addr); err != nil {
		return nil, fmt.Errorf("nearside %s does not start: %w", name, err)
	}
	return n, nil
}

// hits asks /cache/metrics.
func (n *nearside) hits(ctx context.Context) (hits, total int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var got struct {
		Metrics map[string]struct{ Hits, Misses int64 }
	}
	if err := scrape.JSON(ctx, n.admin, "/cache/metrics", &got); err != nil {
		return 0, 0, err
	}
	m, ok := got.Metrics["product"]
	if !ok {
		return 0, 0, errors.New("/cache/metrics does not know the rule")
	}
	return m.Hits, m.Hits + m.Misses, nil
}

// metrics asks /metrics.
func (n *nearside) metrics(ctx context.Context) (scrape.Series, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return scrape.Metrics(ctx, n.admin)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"nearside/bench/internal/proc"
	"nearside/bench/internal/scrape"
	"nearside/bench/internal/sources"
)

// peer is one endpoint that load is put on.
type peer struct {
	name   string
	addr   string
	pid    int    // 0: unknown
	origin *peer  // the Redis behind it; nil: it has none, or is one
	admin  string // nearside's HTTP endpoints
	kind   kind
	env    []string // added for the process
	proc   *proc.Process
}

// kind says what a peer can be asked for.
type kind int

const (
	kindRedis kind = iota
	kindProxy      // passes on everything that it knows
	kindFloor      // answers GET with a constant, as the ceiling does
	kindNearside
	kindEmbedded // a client library's own cache
)

func (p *peer) stop() {
	if p.proc != nil {
		p.proc.Kill()
	}
}

// lab is the directory and the processes of one run.
type lab struct {
	dir   string
	peers []*peer
}

func newLab() (*lab, error) {
	dir, err := os.MkdirTemp("", "compare")
	return &lab{dir: dir}, err
}

// close ends everything that the lab has started.
func (l *lab) close() {
	for i := len(l.peers) - 1; i >= 0; i-- {
		l.peers[i].stop()
	}
	os.RemoveAll(l.dir)
}

// start starts a process that will answer at p.addr.
func (l *lab) start(p *peer, program string, args ...string) (*peer, error) {
	child, err := proc.Extras{Env: p.env}.Start(program, args...)
	if err != nil {
		return nil, err
	}
	p.proc, p.pid = child, child.PID()
	l.peers = append(l.peers, p)
	return p, child.Await(p.addr)
}

// release ends peers ahead of the others.
func (l *lab) release(peers ...*peer) {
	for _, p := range peers {
		p.stop()
	}
	l.peers = slices.DeleteFunc(l.peers, func(p *peer) bool { return slices.Contains(peers, p) })
}

// self starts this program again, as what the flag says, at a free address.
func (l *lab) self(p *peer, as string, args ...string) (*peer, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if p.addr, err = proc.FreeAddr(); err != nil {
		return nil, err
	}
	return l.start(p, program, append([]string{as, p.addr}, args...)...)
}

// far starts a relay in front of origin that delays by d each way.
func (l *lab) far(origin *peer, d time.Duration) (*peer, error) {
	return l.self(&peer{name: origin.name + fmt.Sprintf(", %v away", d), kind: kindProxy, origin: origin}, "-relay", "-target", origin.addr, "-delay", d.String())
}

// maxClients leaves room for 10,000 connections, for as many of a case before
// whose end was not seen yet, and for the harness's own.
const maxClients = 20100

// redis starts a redis-server that saves nothing.
func (l *lab) redis(name string) (*peer, error) {
	addr, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	p := &peer{name: name, addr: addr, kind: kindRedis}
	return l.start(p, "redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", l.dir, "--save", "", "--appendonly", "no",
		"--maxclients", strconv.Itoa(maxClients), "--tcp-backlog", "4096")
}

// file writes a configuration into the lab's directory.
func (l *lab) file(name, text string) (string, error) {
	path := filepath.Join(l.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

func (l *lab) nutcracker(origin *peer) (*peer, error) {
	addr, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	stats, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	path, err := l.file("nutcracker.yml", fmt.Sprintf(`bench:
  listen: %s
  redis: true
  hash: fnv1a_64
  distribution: ketama
  auto_eject_hosts: false
  preconnect: true
  tcpkeepalive: true
  server_connections: 1
  servers:
   - %s:1
`, addr, origin.addr))
	if err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(stats)
	p := &peer{name: "nutcracker", addr: addr, origin: origin, kind: kindProxy}
	return l.start(p, "nutcracker", "-c", path, "-a", host, "-s", port, "-o", filepath.Join(l.dir, "nutcracker.log"))
}

func (l *lab) haproxy(origin *peer) (*peer, error) {
	addr, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	path, err := l.file("haproxy.cfg", fmt.Sprintf(`global
  maxconn %d
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  option clitcpka
listen bench
  bind %s
  server redis %s
`, haproxyClients(), addr, origin.addr))
	if err != nil {
		return nil, err
	}
	p := &peer{name: "haproxy", addr: addr, origin: origin, kind: kindProxy}
	return l.start(p, "haproxy", "-db", "-f", path)
}

// redcon starts the floor.
func (l *lab) redcon() (*peer, error) {
	return l.self(&peer{name: "redcon", kind: kindFloor}, "-floor")
}

// ceiling starts the server that does least.
func (l *lab) ceiling() (*peer, error) {
	return l.self(&peer{name: "ceiling", kind: kindFloor}, "-ceiling")
}

// nearside starts one with the sample configuration, only its addresses changed
// and, for what the sample does not allow, the lines in change; with env in its
// environment.
func (l *lab) nearside(name, bin string, origin *peer, change map[string]string, env ...string) (*peer, error) {
	addr, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	admin, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	lines := map[string]string{
		"listen: ": "[" + addr + "]",
		"admin: ":  admin,
		"redis: ":  "redis://" + origin.addr,
	}
	for k, v := range change {
		lines[k] = v
	}
	sample, err := os.ReadFile(filepath.Join(sources.Dir(), "configs", "nearside.yaml"))
	if err != nil {
		return nil, err
	}
	text, err := rewrite(string(sample), lines)
	if err != nil {
		return nil, err
	}
	path, err := l.file("nearside-"+strings.ReplaceAll(name, "/", "_")+".yaml", text)
	if err != nil {
		return nil, err
	}
	p := &peer{name: name, addr: addr, admin: admin, origin: origin, kind: kindNearside, env: env}
	if p, err = l.start(p, bin, "-config", path); err != nil {
		return nil, err
	}
	err = p.awaitLink()
	return p, err
}

// awaitLink waits until hits are allowed: the link is up and has proven itself.
func (p *peer) awaitLink() error {
	end := time.Now().Add(proc.StartLimit)
	for {
		m, err := p.metrics("nearside_link_up")
		if err == nil && m["nearside_link_up"] == 1 {
			return nil
		}
		if err == nil {
			err = errors.New("nearside_link_up is not 1")
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: the link is not up within %v: %w", p.name, proc.StartLimit, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// rewrite replaces the values of the keys, which are given with their indent
// and colon, in a YAML text. Every one must be there.
func rewrite(text string, values map[string]string) (string, error) {
	lines := strings.Split(text, "\n")
	for key, value := range values {
		found := false
		for i, line := range lines {
			if strings.HasPrefix(line, key) {
				lines[i], found = key+value, true
				break
			}
		}
		if !found {
			return "", fmt.Errorf("the sample configuration has no line %q", key)
		}
	}
	return strings.Join(lines, "\n"), nil
}

// external is an endpoint that somebody else runs: "name=addr" or "name=addr,pid".
func external(arg string) (*peer, error) {
	name, rest, ok := strings.Cut(arg, "=")
	addr, pid, _ := strings.Cut(rest, ",")
	if !ok || name == "" || addr == "" {
		return nil, fmt.Errorf("-peer %q: want name=addr,pid", arg)
	}
	p := &peer{name: name, addr: addr, kind: kindProxy}
	if pid != "" {
		n, err := strconv.Atoi(pid)
		if err != nil || n <= 0 {
			return nil, fmt.Errorf("-peer %q: %q is no process id", arg, pid)
		}
		p.pid = n
	}
	if !proc.Answers(addr) {
		return nil, fmt.Errorf("-peer %q: nobody answers PING at %s", arg, addr)
	}
	return p, nil
}

// metrics reads the named series of /metrics; what is not there is missing.
func (p *peer) metrics(names ...string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := scrape.Metrics(ctx, p.admin)
	return s.Sums(names...), err
}

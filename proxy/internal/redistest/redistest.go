// Package redistest starts real redis-server processes for tests and hurts them.
package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Server is a redis-server on a loopback port of its own. It keeps its port over restarts.
type Server struct {
	Addr string // 127.0.0.1:port
	Port string
	t    testing.TB
	dir  string
	path string // of the program
	args []string
	cmd  *exec.Cmd
}

// Start starts a redis-server with nothing in it and further arguments, and
// stops it when the test ends. NEARSIDE_TEST_SERVER names another server.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return StartNamed(t, Name(os.Getenv("NEARSIDE_TEST_SERVER")), args...)
}

func startProgram(t testing.TB, path string, own, args []string) *Server {
	t.Helper()
	s := &Server{t: t, dir: t.TempDir(), path: path, args: append(own, args...)}
	for {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s.Addr = ln.Addr().String()
		_, s.Port, _ = net.SplitHostPort(s.Addr)
		_ = ln.Close()
		if s.start() {
			break
		}
		// Somebody took the port meanwhile.
	}
	t.Cleanup(s.Kill)
	return s
}

// URL is what go-redis and nearside connect to.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Restart starts the server again after Kill, on the same port, with nothing in it.
func (s *Server) Restart() {
	s.t.Helper()
	if !s.start() {
		s.t.Fatalf("redis-server does not start again: %s", s.log())
	}
}

func (s *Server) start() bool {
	s.t.Helper()
	s.cmd = exec.Command(s.path, append([]string{
		"--port", s.Port, "--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--appendonly", "no",
		"--logfile", filepath.Join(s.dir, "log"),
	}, s.args...)...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	exited := make(chan struct{})
	cmd := s.cmd
	go func() { _ = cmd.Wait(); close(exited) }()
	deadline := time.After(20 * time.Second)
	for {
		if s.answers() {
			return true
		}
		select {
		case <-exited:
			return false
		case <-deadline:
			s.t.Fatalf("redis-server does not answer: %s", s.log())
		case <-time.After(5 * time.Millisecond): // there is no event to wait for before it listens
		}
	}
}

func (s *Server) log() string {
	b, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (s *Server) answers() bool {
	c, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.WriteString(c, "PING\r\n")
	b := make([]byte, 1)
	_, err = io.ReadFull(c, b)
	return err == nil && (b[0] == '+' || b[0] == '-')
}

// Kill ends it as kill -9 does. Killing it twice does nothing.
func (s *Server) Kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		for s.running() { // wait4 is the other goroutine's
			time.Sleep(time.Millisecond)
		}
		s.cmd = nil
	}
}

func (s *Server) running() bool { return s.cmd.Process.Signal(syscall.Signal(0)) == nil }

// Stop freezes it as SIGSTOP does; Continue lets it go on.
func (s *Server) Stop() { s.signal(syscall.SIGSTOP) }

// Continue ends what Stop began.
func (s *Server) Continue() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Do runs one command directly at the server, in database 0, and returns the
// reply in redis-cli's raw form (see Client.Do).
func (s *Server) Do(args ...string) string {
	s.t.Helper()
	return s.DoDB(0, args...)
}

// DoDB is Do in another database.
func (s *Server) DoDB(db int, args ...string) string {
	s.t.Helper()
	c := Dial(s.t, s.Addr)
	defer c.Close()
	if db != 0 {
		c.Do("SELECT", strconv.Itoa(db))
	}
	return c.Do(args...)
}

// Calls returns how often the server has run a command, by INFO commandstats.
func (s *Server) Calls(command string) int {
	s.t.Helper()
	for line := range strings.Lines(s.Do("INFO", "commandstats")) {
		if rest, ok := strings.CutPrefix(line, "cmdstat_"+command+":calls="); ok {
			n, _, _ := strings.Cut(rest, ",")
			calls, err := strconv.Atoi(n)
			if err != nil {
				s.t.Fatal(err)
			}
			return calls
		}
	}
	return 0
}

// Client is a connection that speaks RESP and fails the test when it breaks.
type Client struct {
	t    testing.TB
	Conn net.Conn
	r    *bufio.Reader
}

// Timeout bounds every read of a Client.
const Timeout = 20 * time.Second

// Dial connects to a TCP address, or to a socket with "unix:" before its path.
func Dial(t testing.TB, addr string) *Client {
	t.Helper()
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return On(t, c)
}

// On makes a client of a connection.
func On(t testing.TB, c net.Conn) *Client {
	t.Helper()
	return &Client{t: t, Conn: c, r: bufio.NewReader(c)}
}

// Close closes the connection.
func (c *Client) Close() { _ = c.Conn.Close() }

// Command encodes one request.
func Command(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b.String()
}

// Do sends one command and returns its reply in a short form: the text of
// strings and errors (an error with its '-'), "(nil)", numbers as they are,
// arrays as [a b], maps and sets as {a b}, pushes as >[a b].
func (c *Client) Do(args ...string) string {
	c.t.Helper()
	c.Send(args...)
	return c.Read()
}

// Send sends one command without reading its reply.
func (c *Client) Send(args ...string) {
	c.t.Helper()
	c.Write(Command(args...))
}

// Write sends raw bytes.
func (c *Client) Write(raw string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, raw); err != nil {
		c.t.Fatal(err)
	}
}

// Read reads one reply in Do's short form.
func (c *Client) Read() string {
	c.t.Helper()
	s, err := c.TryRead()
	if err != nil {
		c.t.Fatalf("reading a reply: %v", err)
	}
	return s
}

// TryRead is Read with the error instead of a failed test.
func (c *Client) TryRead() (string, error) {
	_ = c.Conn.SetReadDeadline(time.Now().Add(Timeout))
	return c.value()
}

// Raw reads exactly n bytes.
func (c *Client) Raw(n int) string {
	c.t.Helper()
	_ = c.Conn.SetReadDeadline(time.Now().Add(Timeout))
	b := make([]byte, n)
	if _, err := io.ReadFull(c.r, b); err != nil {
		c.t.Fatalf("reading %d bytes: %v", n, err)
	}
	return string(b)
}

// Closed waits until the other side has closed the connection and returns what came before.
func (c *Client) Closed() string {
	c.t.Helper()
	_ = c.Conn.SetReadDeadline(time.Now().Add(Timeout))
	b, err := io.ReadAll(c.r)
	if err != nil {
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			c.t.Fatalf("the connection is still open; read %q", b)
		}
	}
	return string(b)
}

func (c *Client) value() (string, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return line, err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return "", fmt.Errorf("empty line for a reply")
	}
	rest := line[1:]
	switch line[0] {
	case '+', ':', ',', '#', '(':
		return rest, nil
	case '-':
		return line, nil
	case '_':
		return "(nil)", nil
	case '$', '=', '!':
		n, err := strconv.Atoi(rest)
		if err != nil {
			return "", err
		}
		if n < 0 {
			return "(nil)", nil
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, b); err != nil {
			return "", err
		}
		return string(b[:n]), nil
	case '*', '~', '%', '>':
		n, err := strconv.Atoi(rest)
		if err != nil {
			return "", err
		}
		if n < 0 {
			return "(nil)", nil
		}
		if line[0] == '%' {
			n *= 2
		}
		items := make([]string, n)
		for i := range items {
			if items[i], err = c.value(); err != nil {
				return "", err
			}
		}
		list := strings.Join(items, " ")
		switch line[0] {
		case '>':
			return ">[" + list + "]", nil
		case '*':
			return "[" + list + "]", nil
		}
		return "{" + list + "}", nil
	}
	return "", fmt.Errorf("not a reply: %q", line)
}

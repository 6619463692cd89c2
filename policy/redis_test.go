package policy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// realRedis speaks RESP2 to a redis-server of its own.
type realRedis struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

// redisError is an error reply.
type redisError string

func (e redisError) Error() string { return string(e) }

// startRedis starts redis-server on a socket in a temporary directory. It
// fails the test where there is none: these comparisons must not be skipped.
func startRedis(t testing.TB) *realRedis {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("this test compares the table with a real Redis 7.0 and needs redis-server in PATH: %v", err)
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	cmd := exec.Command(path, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
			return &realRedis{t: t, conn: conn, r: bufio.NewReader(conn)}
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("redis-server does not listen: %v", err)
		}
	}
}

// pipeline sends all requests and returns their replies.
func (c *realRedis) pipeline(reqs [][]string) []any {
	c.t.Helper()
	sent := make(chan error, 1)
	go func() {
		w := bufio.NewWriter(c.conn)
		for _, req := range reqs {
			fmt.Fprintf(w, "*%d\r\n", len(req))
			for _, arg := range req {
				fmt.Fprintf(w, "$%d\r\n%s\r\n", len(arg), arg)
			}
		}
		sent <- w.Flush()
	}()
	replies := make([]any, len(reqs))
	for i := range reqs {
		v, err := c.read()
		if err != nil {
			c.t.Fatal(err)
		}
		replies[i] = v
	}
	if err := <-sent; err != nil {
		c.t.Fatal(err)
	}
	return replies
}

func (c *realRedis) do(args ...string) any {
	c.t.Helper()
	return c.pipeline([][]string{args})[0]
}

func (c *realRedis) read() (any, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	kind, line := line[0], strings.TrimRight(line[1:], "\r\n")
	switch kind {
	case '+':
		return line, nil
	case '-':
		return redisError(line), nil
	}
	n, err := strconv.Atoi(line)
	if err != nil {
		return nil, err
	}
	switch {
	case kind == ':':
		return n, nil
	case n < 0:
		return nil, nil
	case kind == '$':
		b := make([]byte, n+2)
		_, err := io.ReadFull(c.r, b)
		return string(b[:n]), err
	case kind == '*':
		list := make([]any, n)
		for i := range list {
			if list[i], err = c.read(); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return nil, errors.New("unknown reply")
}

// split makes a request of a line; "" in it stands for the empty argument.
func split(line string) [][]byte {
	var args [][]byte
	for _, f := range strings.Fields(line) {
		if f == `""` {
			f = ""
		}
		args = append(args, []byte(f))
	}
	return args
}

// bytesOf makes a request of strings.
func bytesOf(args ...string) [][]byte {
	var out [][]byte
	for _, a := range args {
		out = append(out, []byte(a))
	}
	return out
}

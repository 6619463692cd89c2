package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// transcript sends bytes, says that nothing more will come, and returns all
// that is answered until the other side closes.
func transcript(t testing.TB, addr, raw string, pieces bool) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(redistest.Timeout))
	got := make(chan string, 1)
	go func() {
		b, err := io.ReadAll(c)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			b = append(b, "<never closed>"...)
		}
		got <- string(b)
	}()
	// Errors of writing mean that the other side has closed: its right.
	if pieces {
		for i := range len(raw) {
			if _, err := io.WriteString(c, raw[i:i+1]); err != nil {
				break
			}
		}
	} else {
		_, _ = io.WriteString(c, raw)
	}
	if !strings.HasSuffix(raw, quit) {
		_ = c.(*net.TCPConn).CloseWrite()
	}
	return <-got
}

// compare sends the same bytes to Redis and to nearside.
func compare(t testing.TB, redis *redistest.Server, n *nearside, raw string) {
	t.Helper()
	want := transcript(t, redis.Addr, raw, false)
	for _, pieces := range []bool{false, true} {
		if pieces && len(raw) > 200 {
			continue
		}
		if got := transcript(t, n.addr, raw, pieces); got != want {
			t.Errorf("%.300q (in pieces: %v)\n is answered %.600q\nby Redis with %.600q", raw, pieces, got, want)
		}
	}
}

// The answer to still tells that a connection is open.
const (
	still = "*2\r\n$4\r\nECHO\r\n$5\r\nstill\r\n"
	quit  = "*1\r\n$4\r\nQUIT\r\n"
)

// TestHostileBytesAsRedis: for bytes that no client library sends, nearside
// answers and closes, or does not, as a real Redis does.
func TestHostileBytesAsRedis(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	for _, raw := range hostileBytes {
		compare(t, redis, n, raw+still+"\r\n"+still)
	}
	for _, raw := range []string{
		strings.Repeat("a", 70_000),
		strings.Repeat("a", 70_000) + "\r\n",
		"ECHO " + strings.Repeat("a", 60_000) + "\r\n",
		"*" + strings.Repeat("1", 70_000),
		"*1\r\n$" + strings.Repeat("1", 70_000),
		"*1025\r\n" + strings.Repeat("$1\r\nx\r\n", 1025),
		"*20000\r\n$4\r\nMGET\r\n" + strings.Repeat("$1\r\nx\r\n", 19_999),
		strings.Repeat("*0\r\n", 5000) + strings.Repeat("\r\n", 5000),
		strings.Repeat("PING\r\n", 5000) + "*x\r\n",
		strings.Repeat("GET nokey\r\n", 3000) + "*1\r\n$-7\r\n" + strings.Repeat("GET nokey\r\n", 3000),
	} {
		// Redis drops what is unsent when the client closes its side; so QUIT.
		compare(t, redis, n, raw+still+quit)
	}
	t.Run("HTTP", func(t *testing.T) {
		// Redis drops the answers to the lines before; nearside need not.
		const raw = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + still
		if got := transcript(t, redis.Addr, raw, false); got != "" {
			t.Errorf("Redis answers %q", got)
		}
		if got := transcript(t, n.addr, raw, false); strings.Contains(got, "still") {
			t.Errorf("answered %q", got)
		}
	})
	t.Run("nearside's own bounds", func(t *testing.T) {
		for raw, want := range map[string]string{
			"*2147483647\r\n":                                  "-ERR Protocol error: request of more arguments (2147483647) than max_request and buffers allow (1560671)\r\n",
			"*2\r\n$4\r\nECHO\r\n$67108864\r\n":                "-ERR Protocol error: request larger than max_request (67108864 bytes)\r\n",
			"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1073741824\r\nabc": "-ERR Protocol error: invalid bulk length\r\n",
		} {
			if got := transcript(t, n.addr, raw+still, false); got != want {
				t.Errorf("%q is answered %q", raw, got)
			}
		}
	})
	n.eventually("all buffers are given back", func() bool { return n.budget.used.Load() == 0 })
}

// TestHostileBytesUnauthenticated: the same for clients that sent no AUTH.
func TestHostileBytesUnauthenticated(t *testing.T) {
	redis := redistest.Start(t, "--requirepass", "secret")
	n := launch(t, "redis://:secret@"+redis.Addr, func(c *Config) { c.DefaultUser = "none" })
	n.awaitLink()
	for _, raw := range append([]string{
		"*11\r\n", "*10\r\n$4\r\nPING\r\n", "*1\r\n$16384\r\n", "*1\r\n$16385\r\n", "*2\r\n$4\r\nAUTH\r\n$16385\r\n", "AUTH wrong\r\n", "AUTH secret\r\n", "AUTH default secret\r\nGET nokey\r\n",
		"AUTH a b c\r\n", "AUTH\r\n", "HELLO 3\r\n", "HELLO\r\n", "QUIT\r\n", "RESET\r\n", "GET\r\n", "SET a b c d e\r\n",
	}, hostileBytes...) {
		compare(t, redis, n, raw+still)
	}
}

// TestCrash: a bug in one session ends that session and nothing else.
func TestCrash(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	n.admit(panicConn{})
	n.eventually("the session is gone", func() bool { return n.clients.Load() == 0 && len(n.sessionList()) == 0 })
	want(t, n.dial(), "PONG", "PING")
}

type panicConn struct{ net.Conn }

func (panicConn) SetReadDeadline(time.Time) error { return nil }
func (panicConn) Read([]byte) (int, error)        { panic("a bug, as the test wants it") }
func (panicConn) Close() error                    { return nil }

package admin

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// dialTo connects, and sends a beginning.
func dialTo(t *testing.T, s *Server, begin string) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, begin); err != nil {
		t.Fatal(err)
	}
	return c
}

const keepAlive = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

// answered reads one answer.
func answered(t *testing.T, c net.Conn) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d, %v", resp.StatusCode, err)
	}
}

// Whoever reaches the port may hold a bounded number of connections, whatever they do on
// them, and others are answered all the same.
func TestConnections(t *testing.T) {
	const more = 20
	for name, begin := range map[string]string{"that say nothing": "", "that have asked": keepAlive, "in the middle of a request": "GET /"} {
		t.Run(name, func(t *testing.T) {
			s, stop := start(t, &fake{})
			var held []net.Conn
			for range mostConns + more {
				c := dialTo(t, s, begin)
				if begin == keepAlive {
					answered(t, c)
				}
				held = append(held, c)
			}
			// Those that came first have had to go, more or less in their order.
			closed := make(chan bool, mostConns)
			for _, c := range held[:mostConns/2] {
				go func() {
					_, err := c.Read(make([]byte, 1))
					ne, ok := errors.AsType[net.Error](err)
					closed <- err != nil && (!ok || !ne.Timeout())
				}()
			}
			for range more {
				if !<-closed {
					t.Fatal("they are held on to")
				}
			}
			last := held[len(held)-1]
			if begin == keepAlive {
				if _, err := io.WriteString(last, begin); err != nil {
					t.Fatal(err)
				}
				answered(t, last)
			}
			answered(t, dialTo(t, s, keepAlive))
			for _, c := range held {
				c.Close()
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A request under way outlives any number of connections that wait.
func TestConnectionsAtWorkGoLast(t *testing.T) {
	src := &fake{hold: make(chan struct{}), asked: make(chan struct{})}
	s, _ := start(t, src)
	c := dialTo(t, s, "GET /cache/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-src.asked
	for range mostConns + 1 {
		answered(t, dialTo(t, s, keepAlive))
	}
	close(src.hold)
	answered(t, c)
}

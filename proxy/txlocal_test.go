package proxy

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

var changing = regexp.MustCompile(`id\r\n:\d+|id=\d+ addr=\S+ laddr=\S+ fd=\d+ |(age|idle|qbuf|qbuf-free|argv-mem|multi-mem|rbs|rbp|tot-mem)=\d+|[$=]\d+\r\n`)

// What is queued inside MULTI, runs at EXEC and not before, byte for byte as at Redis.
func TestTransactionLeftovers(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	scripts := []string{
		"MULTI; CLIENT SETNAME bob; CLIENT GETNAME; EXEC; CLIENT GETNAME",
		"MULTI; CLIENT SETNAME bob; DISCARD; CLIENT GETNAME",
		"MULTI; CLIENT SETNAME bob; GET; EXEC; CLIENT GETNAME",
		"WATCH product:1; SET product:1 x; MULTI; CLIENT SETNAME bob; EXEC; CLIENT GETNAME",
		"MULTI; CLIENT HELP; EXEC; PING", "MULTI; CLIENT NOSUCH; PING; EXEC", "MULTI; CLIENT SETINFO LIB-NAME x; PING; EXEC",
		"MULTI; CLIENT KILL ID 999999; CLIENT KILL ID x; CLIENT UNBLOCK 99999; SET product:1 a; CLIENT LIST TYPE replica; GET product:1; EXEC",
		"MULTI; HELLO; EXEC", "MULTI; HELLO x; PING; EXEC",
		"MULTI; CLIENT GETREDIR; CLIENT TRACKINGINFO; EXEC",
		"CLIENT TRACKING ON; MULTI; CLIENT GETREDIR; CLIENT TRACKINGINFO; SET product:1 a; EXEC; CLIENT TRACKING OFF",
		"MULTI; SELECT 7; CLIENT GETNAME; SET a b; EXEC; GET a; SELECT 0; GET a",
		"MULTI; SELECT 99999; CLIENT GETNAME; SET a b; EXEC; GET a",
		"MULTI; SUBSCRIBE a; EXEC; PING; UNSUBSCRIBE a; PING", "MULTI; SUBSCRIBE a; SET product:1 x; PSUBSCRIBE b*; SET lock:1 y; EXEC; GET lock:1; UNSUBSCRIBE; PUNSUBSCRIBE; GET lock:1",
		"MULTI; SUBSCRIBE a; DISCARD; GET product:1", "MULTI; SUBSCRIBE; PING; EXEC", "MULTI; SUBSCRIBE a; GET; EXEC; GET x",
		"SUBSCRIBE a; MULTI; PING; EXEC; NOSUCH; GET; GET x; CLIENT GETNAME; UNSUBSCRIBE a; EXEC", "MULTI; UNSUBSCRIBE a; UNSUBSCRIBE; PING; EXEC; GET x",
		"MULTI; SSUBSCRIBE a; SUNSUBSCRIBE a; EXEC; GET x", "MULTI; MONITOR; PING; EXEC; GET x",
		"MULTI; RESET; PING; EXEC", "MULTI; PING; QUIT", "EXEC x; MULTI x; MULTI; EXEC x; EXEC", "MULTI; CLIENT; EXEC", "MULTI; CLIENT GETNAME x; EXEC",
		"MULTI; BLPOP nothing 0; XREAD BLOCK 0 STREAMS nothing $; WAIT 1 0; EXEC", "MULTI; CLIENT UNPAUSE; ECHO x; EXEC", "MULTI; UNWATCH; EXEC",
	}
	for _, proto := range []string{"2", "3"} {
		for _, script := range scripts {
			for _, chunked := range []bool{false, true} {
				t.Run(fmt.Sprint("RESP", proto, " ", chunked, " ", script), func(t *testing.T) {
					var got [2]string
					for i, addr := range []string{redis.Addr, n.addr} {
						redis.Do("FLUSHALL")
						n.awaitFlush()
						c := redistest.Dial(t, addr)
						c.Do("HELLO", proto)
						for _, line := range append(strings.Split(script, "; "), "QUIT") {
							if chunked {
								c.Write(redistest.Command(strings.Fields(line)...))
							} else if _, err := c.Conn.Write([]byte(line + "\r\n")); err != nil {
								break // QUIT came before
							}
						}
						_ = c.Conn.(*net.TCPConn).CloseWrite()
						got[i] = changing.ReplaceAllString(c.Closed(), "")
						c.Close()
					}
					if got[0] != got[1] {
						t.Errorf("Redis    %q\nnearside %q", got[0], got[1])
					}
				})
			}
		}
	}
	t.Log("what is subscribed to inside MULTI is heard")
	for _, proto := range []string{"2", "3"} {
		c := n.tracker(proto)
		c.Write(redistest.Command("MULTI") + redistest.Command("SUBSCRIBE", "news") + redistest.Command("EXEC"))
		for range 3 {
			c.Read()
		}
		want(t, n.dial(), "1", "PUBLISH", "news", "x")
		if got := strings.TrimPrefix(c.Read(), ">"); got != "[message news x]" {
			t.Errorf("got %s", got)
		}
		c.Do("UNSUBSCRIBE")
	}
	n.eventually("no connection stays pinned", func() bool { return n.origin.Stats().Pinned == 0 })
	c := n.dial()
	for _, refused := range [][]string{{"HELLO", "3"}, {"AUTH", "x"}, {"CLIENT", "TRACKING", "ON"}, {"CLIENT", "NO-EVICT", "ON"}, {"SUBSCRIBE", "a", "b"}} {
		want(t, c, "OK", "MULTI")
		if got := c.Do(refused...); !strings.Contains(got, " nearside: ") {
			t.Errorf("%v answered %s", refused, got)
		}
		want(t, c, "-EXECABORT Transaction discarded because of previous errors.", "EXEC")
	}
}

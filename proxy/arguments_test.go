package proxy

import (
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

// TestManyArguments: a request may have as many arguments as the server takes:
// 1,048,576 before Redis 7, more since. One too many closes its own client and
// nobody else's connection.
func TestManyArguments(t *testing.T) {
	head := func(n int, first ...string) string {
		return "*" + itoa(n) + "\r\n" + redistest.Command(first...)[len("*1\r\n"):] // one digit: few words
	}
	const most = 1 << 20
	for _, name := range []redistest.Name{redistest.Redis6, redistest.Debian, redistest.Redis8, redistest.Valkey8, redistest.Valkey9} {
		t.Run(string(name), func(t *testing.T) {
			redis := redistest.StartNamed(t, name)
			n := start(t, redis, nil)
			other := n.dial()
			want(t, other, "OK", "SET", "other", "o")
			requests := map[string]string{
				"at the limit":          head(most, "DEL") + strings.Repeat("$1\r\nx\r\n", most-1),
				"PING at the limit":     head(most, "PING") + strings.Repeat("$1\r\nx\r\n", most-1),
				"too many for anything": "*2147483648\r\n",
				"unfinished":            "*1048577\r\n",
			}
			if name == redistest.Debian || name == redistest.Valkey9 { // Redis 6 resets the connection before it is all sent
				requests["beyond"] = head(most+1, "DEL") + strings.Repeat("$1\r\nx\r\n", most)
				requests["far beyond, of the cache"] = head(most+50_000, "UNLINK") + strings.Repeat("$9\r\nproduct:1\r\n", most+49_999)
				requests["far beyond, of both databases"] = head(most+50_000, "EXISTS", "plain") + strings.Repeat("$9\r\nproduct:1\r\n", most+49_998)
			}
			for what, raw := range requests {
				wait := ""
				if what != "unfinished" {
					wait = still + quit
				}
				a, b := transcript(t, redis.Addr, raw+wait, false), transcript(t, n.addr, raw+wait, false)
				if a != b {
					t.Errorf("%s: the server answers %.200q, nearside %.200q", what, a, b)
				}
				want(t, other, "o", "GET", "other")
			}
			n.eventually("all buffers are given back", func() bool { return n.budget.used.Load() == 0 })
			if lost := n.origin.Stats().Lost; lost != 0 {
				t.Errorf("%d connections to the server were lost", lost)
			}
		})
	}
}

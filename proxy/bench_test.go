package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"

	"nearside/proxy/internal/redistest"
)

// BenchmarkHit is everything that nearside does for one hit but the two system
// calls: framing, parsing, deciding, the proof, the look-up, the reply.
func BenchmarkHit(b *testing.B) {
	n := start(b, redistest.Start(b), nil)
	c := n.dial()
	c.Do("SET", "product:1", "value of sixteen")
	n.warm(c, "GET", "product:1")
	s := n.detached()
	s.requests(b, "GET", "product:1")
	b.StopTimer()
	if s.async {
		b.Fatal("these were no hits")
	}
}

// BenchmarkMGetHit is BenchmarkHit for an MGET of ten keys.
func BenchmarkMGetHit(b *testing.B) {
	n := start(b, redistest.Start(b), nil)
	c := n.dial()
	args := []string{"MGET"}
	for _, d := range "0123456789" {
		c.Do("SET", "product:"+string(d), "value of sixteen")
		args = append(args, "product:"+string(d))
	}
	n.warm(c, args...)
	s := n.detached()
	s.requests(b, args...)
}

// requests has the session answer one request as often as the benchmark wants.
func (s *session) requests(b *testing.B, args ...string) {
	b.Helper()
	request := []byte(redistest.Command(args...))
	b.ReportAllocs()
	for b.Loop() {
		s.now = clockNow()
		kind, size, _ := s.frames.next(request, true)
		if !s.Serve(kind, request[:size]) || len(s.wbuf) == 0 {
			b.Fatal("no reply")
		}
		s.wbuf = s.wbuf[:0]
	}
}

// detached makes a session that nobody reads from.
func (n *nearside) detached() *session {
	ours, theirs := net.Pipe()
	n.t.Cleanup(func() { _ = ours.Close() })
	return n.newSession(theirs)
}

// BenchmarkRoundTrip sends batches over loopback TCP and waits for their replies,
// with one client: hits, and pass-through, one at a time and sixteen deep.
func BenchmarkRoundTrip(b *testing.B) {
	redis := redistest.Start(b)
	n := start(b, redis, nil)
	c := n.dial()
	c.Do("SET", "product:1", "value of sixteen")
	c.Do("SET", "plain", "value of sixteen")
	n.warm(c, "GET", "product:1")
	reply := len("$16\r\nvalue of sixteen\r\n")
	for _, bench := range []struct {
		name, addr, key string
		deep            int
	}{
		{"redis/1", redis.Addr, "plain", 1},
		{"hit/1", n.addr, "product:1", 1},
		{"pass/1", n.addr, "plain", 1},
		{"redis/16", redis.Addr, "plain", 16},
		{"hit/16", n.addr, "product:1", 16},
		{"pass/16", n.addr, "plain", 16},
	} {
		b.Run(bench.name, func(b *testing.B) {
			conn, err := net.Dial("tcp", bench.addr)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			batch := bytes.Repeat([]byte(redistest.Command("GET", bench.key)), bench.deep)
			replies := make([]byte, reply*bench.deep)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := conn.Write(batch); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(conn, replies); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*bench.deep), "ns/request")
		})
	}
}

// BenchmarkLock takes a lock and releases it by the usual script; BenchmarkScript runs one
// that is not known to end, in a lane.
func BenchmarkLock(b *testing.B) {
	const release = "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end"
	benchScript(b, release, redistest.Command("SET", "lock:1", "me", "NX", "PX", "10000"), "+OK\r\n")
}

func BenchmarkScript(b *testing.B) {
	benchScript(b, "local n = 0 for i = 1, 2 do n = n + i end if redis.call('get',KEYS[1]) == ARGV[1] then return 1 end return 1", "", "")
}

func benchScript(b *testing.B, src, before, answer string) {
	redis := redistest.Start(b)
	n := start(b, redis, nil)
	sha := n.dial().Do("SCRIPT", "LOAD", src)
	request := before + redistest.Command("EVALSHA", sha, "1", "lock:1", "me")
	reply := len(answer + ":1\r\n")
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", n.addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		own := []byte(request)
		if before != "" { // each its own lock
			own = bytes.ReplaceAll(own, []byte("lock:1"), fmt.Appendf(nil, "lock:%c", 'A'+conn.LocalAddr().(*net.TCPAddr).Port%26))
		}
		got := make([]byte, reply)
		for pb.Next() {
			if _, err := conn.Write(own); err != nil {
				b.Error(err)
				return
			}
			if before != "" { // another one may have the same: then the answers are longer
				one := make([]byte, 64)
				for replies := 0; replies < 2; {
					k, err := conn.Read(one)
					if err != nil {
						b.Error(err)
						return
					}
					replies += bytes.Count(one[:k], []byte("\r\n"))
				}
				continue
			}
			if _, err := io.ReadFull(conn, got); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"nearside/proxy/internal/redistest"
)

// startTLS runs a proxy with TLS on both sides: client certificates are wanted
// by Redis, and by nearside if withCA says so.
func startTLS(t *testing.T, ca *redistest.CA, withCA bool, change func(*Config)) (n *nearside, redis *redistest.Server, addr string) {
	t.Helper()
	redis, at := redistest.StartTLS(t, ca)
	crt, key, _ := ca.Issue("client-of-redis")
	own, ownKey, _ := ca.Issue("nearside")
	n = launch(t, "rediss://"+at, func(c *Config) {
		c.RedisTLS = RedisTLS{CA: ca.File, Cert: crt, Key: key}
		c.TLS = ClientTLS{Listen: []string{"127.0.0.1:0"}, Cert: own, Key: ownKey}
		if withCA {
			c.TLS.ClientCA = ca.File
		}
		if change != nil {
			change(c)
		}
	})
	n.awaitLink()
	return n, redis, n.Addrs()[1].String()
}

// Everything works by TLS as it does without: hits, large values both ways,
// pipelines, pub/sub, blocked clients.
func TestTLS(t *testing.T) {
	ca := redistest.NewCA(t)
	n, redis, addr := startTLS(t, ca, false, nil)
	c := redistest.DialTLS(t, addr, ca.Client(""))
	want(t, c, "OK", "SET", "product:1", "tea")
	n.warm(c, "GET", "product:1")
	want(t, n.dial(), "tea", "GET", "product:1") // the plain listener is there as well

	for _, size := range []int{1 << 20, 5 << 20} {
		big := strings.Repeat("0123456789abcdef", size/16)
		want(t, c, "OK", "SET", "big", big)
		want(t, c, big, "GET", "big")
		want(t, c, "OK", "SET", "product:big", big)
		for range 3 {
			want(t, c, big, "GET", "product:big")
		}
	}
	const deep = 2000
	c.Write(strings.Repeat(redistest.Command("GET", "product:1")+redistest.Command("INCR", "n"), deep))
	for i := 1; i <= deep; i++ {
		if got := c.Read() + c.Read(); got != fmt.Sprint("tea", i) {
			t.Fatalf("number %d is %s", i, got)
		}
	}

	for _, proto := range []string{"2", "3"} {
		sub := redistest.DialTLS(t, addr, ca.Client(""))
		sub.Do("HELLO", proto)
		sub.Do("SUBSCRIBE", "ch")
		for i := range 100 {
			want(t, c, "1", "PUBLISH", "ch", fmt.Sprint(i))
			if got := sub.Read(); !strings.Contains(got, fmt.Sprintf("message ch %d]", i)) {
				t.Fatalf("RESP%s: %s", proto, got)
			}
		}
		sub.Close()
		n.eventually("the subscription is gone", func() bool { return redis.Do("PUBSUB", "NUMSUB", "ch") == "[ch 0]" })
	}

	gone := redistest.DialTLS(t, addr, ca.Client(""))
	gone.Send("BLPOP", "q", "0")
	n.eventually("it is blocked", func() bool { return strings.Contains(redis.Do("INFO", "clients"), "blocked_clients:1") })
	gone.Close()
	n.eventually("it is not blocked any more", func() bool { return strings.Contains(redis.Do("INFO", "clients"), "blocked_clients:0") })
	want(t, c, "1", "RPUSH", "q", "kept")
	want(t, c, "[q kept]", "BLPOP", "q", "0")

	// A client blocked and answered may go on; QUIT ends with TLS's farewell.
	c.Send("BLPOP", "q", "0")
	n.eventually("it is blocked", func() bool { return strings.Contains(redis.Do("INFO", "clients"), "blocked_clients:1") })
	redis.Do("RPUSH", "q", "x")
	if got := c.Read(); got != "[q x]" {
		t.Error(got)
	}
	want(t, c, "OK", "QUIT")
	if _, err := c.TryRead(); !errors.Is(err, io.EOF) {
		t.Errorf("after QUIT: %v", err)
	}
}

// The tools and libraries that people use.
func TestTLSClients(t *testing.T) {
	ca := redistest.NewCA(t)
	n, _, addr := startTLS(t, ca, true, nil)
	crt, key, _ := ca.Issue("cli")
	if out, code := cli(t, addr, "", "--tls", "--cacert", ca.File, "--cert", crt, "--key", key, "SET", "product:1", "tea"); code != 0 || out != "OK\n" {
		t.Errorf("redis-cli: %d %s", code, out)
	}
	c := goredis.NewClient(&goredis.Options{Addr: addr, TLSConfig: ca.Client("go")})
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), redistest.Timeout)
	defer cancel()
	if got, err := c.Get(ctx, "product:1").Result(); err != nil || got != "tea" {
		t.Errorf("go-redis: %q %v", got, err)
	}
	pipe := c.Pipeline()
	for range 500 {
		pipe.Get(ctx, "product:1")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		t.Errorf("go-redis: %v", err)
	}

	// Who shows no certificate, or another authority's, is turned away.
	other := redistest.NewCA(t)
	stranger := ca.Client("")
	stranger.Certificates = other.Client("stranger").Certificates
	before := n.m.tlsErrors.Get()
	for name, conf := range map[string]*tls.Config{"none": ca.Client(""), "another's": stranger} {
		client, _, err := redistest.TryTLS(t, addr, conf)
		if err == nil { // TLS 1.3: the refusal comes after the client's part is done
			client.Send("PING")
			_, err = client.TryRead()
		}
		if err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", name, err)
		}
	}
	old := ca.Client("old")
	old.MinVersion, old.MaxVersion = tls.VersionTLS11, tls.VersionTLS11
	if _, _, err := redistest.TryTLS(t, addr, old); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.1: %v", err)
	}
	n.eventually("all three are counted", func() bool { return n.m.tlsErrors.Get()-before == 3 })
}

// Who does not speak TLS is not served, and does not stay.
func TestTLSPlaintext(t *testing.T) {
	ca := redistest.NewCA(t)
	n, _, addr := startTLS(t, ca, false, func(c *Config) { c.RequestTimeout = 300 * time.Millisecond })
	c := redistest.Dial(t, addr)
	defer c.Close()
	c.Send("GET", "product:1")
	if got := c.Closed(); strings.ContainsAny(got, "+$-") {
		t.Errorf("answered %q", got)
	}
	silent := redistest.Dial(t, addr)
	defer silent.Close()
	begun := time.Now()
	silent.Closed()
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("a client without a handshake stayed for %s", d)
	}
	n.eventually("nobody is left", func() bool { return n.clients.Load() == 0 })
	// Nor does it hold up the end.
	late := redistest.Dial(t, addr)
	defer late.Close()
	n.eventually("it is accepted", func() bool { return n.clients.Load() == 1 })
	begun = time.Now()
	n.stop()
	if d := time.Since(begun); d > 4*time.Second {
		t.Errorf("ending took %s", d)
	}
}

// Certificates are renewed while nearside runs, on both sides; what is broken
// changes nothing.
func TestTLSRenewal(t *testing.T) {
	ca := redistest.NewCA(t)
	var log lockedBuffer
	n, redis, addr := startTLS(t, ca, false, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	serial := func() int64 {
		c, conn, err := redistest.TryTLS(t, addr, ca.Client(""))
		if err != nil {
			t.Fatal(err)
		}
		want(t, c, "PONG", "PING")
		c.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	logged := func(text string) bool {
		log.mu.Lock()
		defer log.mu.Unlock()
		return strings.Contains(log.b.String(), text)
	}
	first := serial()
	stays := redistest.DialTLS(t, addr, ca.Client(""))
	crt, _, second := ca.Issue("nearside")
	if first == second {
		t.Fatal("nothing is new")
	}
	n.eventually("the new certificate is shown", func() bool { return serial() == second })

	if err := os.WriteFile(crt, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.eventually("the broken one is noticed", func() bool { return serial() == second && logged("the old one stays in use") })
	_, _, third := ca.Issue("nearside")
	n.eventually("the next certificate is shown", func() bool { return serial() == third })
	want(t, stays, "PONG", "PING")

	// Redis accepts the old client certificate no more, only a new authority's.
	other := redistest.NewCA(t)
	newCrt, newKey, _ := other.Issue("client-of-redis")
	redis.Do("CONFIG", "SET", "tls-ca-cert-file", other.File)
	for from, to := range map[string]string{newCrt: n.cfg.RedisTLS.Cert, newKey: n.cfg.RedisTLS.Key} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	redis.Do("CLIENT", "KILL", "TYPE", "normal")
	n.eventually("nearside is let in again", func() bool { return stays.Do("GET", "product:1") == "(nil)" })
	n.awaitLink()
}

// What does not fit is said clearly, to clients too.
func TestTLSWrongCA(t *testing.T) {
	ca, other := redistest.NewCA(t), redistest.NewCA(t)
	_, at := redistest.StartTLS(t, ca, "--tls-auth-clients", "no")
	var log lockedBuffer
	for _, tt := range []struct {
		name string
		tls  RedisTLS
		want string
	}{
		{"wrong CA", RedisTLS{CA: other.File}, "certificate signed by unknown authority"},
		{"the system's", RedisTLS{}, "certificate signed by unknown authority"},
		{"wrong name", RedisTLS{CA: ca.File, ServerName: "other.test"}, "certificate is valid for redis.test, not other.test"},
		{"right name", RedisTLS{CA: ca.File, ServerName: "redis.test"}, ""},
		{"anything", RedisTLS{InsecureSkipVerify: true}, ""},
	} {
		n := launch(t, "rediss://"+at, func(c *Config) {
			c.RedisTLS = tt.tls
			c.Log = slog.New(slog.NewTextHandler(&log, nil))
		})
		got := n.dial().Do("GET", "product:1")
		if tt.want == "" && got != "(nil)" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s", tt.name, got)
		}
		if tt.want == "" {
			n.awaitLink()
		}
		n.stop()
	}

	_, strict := redistest.StartTLS(t, ca)
	n := launch(t, "rediss://"+strict, func(c *Config) {
		c.RedisTLS = RedisTLS{CA: ca.File}
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	if got := n.dial().Do("GET", "product:1"); !strings.Contains(got, "certificate required") {
		t.Errorf("without a client certificate: %s", got)
	}

	own, ownKey, _ := ca.Issue("nearside")
	for name, cfg := range map[string]Config{
		"redis_tls without rediss": {Redis: "redis://" + at, RedisTLS: RedisTLS{CA: ca.File}},
		"no such file":             {Redis: "rediss://" + at, RedisTLS: RedisTLS{CA: ca.File + "x"}},
		"no certificate":           {Redis: "rediss://" + at, TLS: ClientTLS{Listen: []string{"127.0.0.1:0"}}},
		"two certificates":         {Redis: "rediss://" + at, TLS: ClientTLS{Listen: []string{"127.0.0.1:0"}, Cert: own, Key: own}},
		"unprotected":              {Redis: "rediss://" + at, ProtectedMode: true, TLS: ClientTLS{Listen: []string{"0.0.0.0:0"}, Cert: own, Key: ownKey}},
	} {
		cfg.Rules, cfg.CacheDB = sampleRules(), 1
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	p, err := New(Config{Rules: sampleRules(), CacheDB: 1, Redis: "rediss://" + at, ProtectedMode: true, TLS: ClientTLS{Listen: []string{"0.0.0.0:0"}, Cert: own, Key: ownKey, ClientCA: ca.File}})
	if err != nil {
		t.Fatalf("client certificates protect: %v", err)
	}
	p.l1.Close()
	p.origin.Close()
}

// A client that takes nothing delays nobody, and its end does not wait for it.
func TestTLSSlowClient(t *testing.T) {
	ca := redistest.NewCA(t)
	n, _, addr := startTLS(t, ca, false, func(c *Config) { c.WriteTimeout = time.Second })
	c := redistest.DialTLS(t, addr, ca.Client(""))
	want(t, c, "OK", "SET", "big", strings.Repeat("x", 1<<20))
	slow := redistest.DialTLS(t, addr, ca.Client(""))
	slow.Write(strings.Repeat(redistest.Command("GET", "big"), 64))
	n.eventually("it is closed", func() bool {
		want(t, c, "PONG", "PING")
		return n.clients.Load() == 1
	})
}

// BenchmarkTLSHit is a hit over loopback TLS, one at a time.
func BenchmarkTLSHit(b *testing.B) {
	ca := redistest.NewCA(b)
	own, ownKey, _ := ca.Issue("nearside")
	n := start(b, redistest.Start(b), func(c *Config) {
		c.TLS = ClientTLS{Listen: []string{"127.0.0.1:0"}, Cert: own, Key: ownKey}
	})
	c := n.dial()
	c.Do("SET", "product:1", "value of sixteen")
	n.warm(c, "GET", "product:1")
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: redistest.Timeout}, "tcp", n.Addrs()[1].String(), ca.Client(""))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	request, reply := []byte(redistest.Command("GET", "product:1")), make([]byte, len("$16\r\nvalue of sixteen\r\n"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, reply); err != nil {
			b.Fatal(err)
		}
	}
	if !bytes.HasPrefix(reply, []byte("$16")) {
		b.Fatalf("%q", reply)
	}
}

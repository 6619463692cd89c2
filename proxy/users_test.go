package proxy

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// as connects a client that acts as a Redis user, and waits until that user's
// rights are proven.
func (n *nearside) as(user, pass string) *redistest.Client {
	n.t.Helper()
	c := n.dial()
	want(n.t, c, "OK", "AUTH", user, pass)
	n.eventually("rights are proven", func() bool { return n.users.proven(clockNow()) })
	return c
}

// Each user's reads are cached, for that user alone.
func TestUsersAreCachedApart(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~product:*", "+@all")
	redis.Do("ACL", "SETUSER", "eve", "on", ">pw", "~balance:*", "+@all")
	n := start(t, redis, nil)
	own, bob, eve := n.dial(), n.as("bob", "pw"), n.as("eve", "pw")
	want(t, own, "OK", "MSET", "product:1", "tea", "balance:1", "secret")

	n.warm(own, "GET", "product:1")
	n.warm(own, "GET", "balance:1")
	n.warm(bob, "GET", "product:1")
	n.warm(eve, "GET", "balance:1")
	gets := redis.Calls("get")
	for range 10 {
		want(t, bob, "tea", "GET", "product:1")
		want(t, eve, "secret", "GET", "balance:1")
		want(t, own, "secret", "GET", "balance:1")
		for _, denied := range []string{bob.Do("GET", "balance:1"), bob.Do("MGET", "product:1", "balance:1"), eve.Do("GET", "product:1")} {
			if !strings.HasPrefix(denied, "-NOPERM") {
				t.Fatalf("read what it may not: %s", denied)
			}
		}
	}
	// A refused read does not end the caching of what is allowed.
	if more := redis.Calls("get") - gets; more > 0 {
		t.Errorf("%d reads of cached keys went to Redis", more)
	}
	n.warm(bob, "MGET", "product:1", "product:2")

	// A second session of the same user shares its entries, also in RESP3 its own ones.
	before := n.hits()
	want(t, n.as("bob", "pw"), "tea", "GET", "product:1")
	if n.hits() != before+1 {
		t.Error("the user's second session got no hit")
	}
	// Writes of anybody are seen by all.
	want(t, own, "OK", "SET", "product:1", "milk")
	want(t, bob, "milk", "GET", "product:1")
	n.warm(bob, "GET", "product:1")
	want(t, bob, "OK", "SET", "product:1", "rum")
	want(t, own, "rum", "GET", "product:1")
	// After RESET the session is nearside's own user again.
	want(t, bob, "RESET", "RESET")
	want(t, bob, "secret", "GET", "balance:1")
}

// Reads of one user never wait for those of another.
func TestUsersDoNotJoin(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~product:*", "+@all")
	redis.DoDB(1, "SET", "product:1", "tea")
	relay := redistest.NewRelay(t, redis.Addr)
	n := launch(t, relay.URL(), nil)
	n.awaitLink()
	own, bob := n.dial(), n.as("bob", "pw")
	want(t, bob, "(nil)", "GET", "product:x") // the connection is there
	held := relay.HoldRequest("product:1")
	own.Send("GET", "product:1")
	<-held.Arrived
	want(t, bob, "tea", "GET", "product:1")
	held.Release()
	if got := own.Read(); got != "tea" {
		t.Error(got)
	}
}

// What ACL changes take away is not answered from the near cache: at once when
// they pass through nearside, else after the next look at ACL LIST.
func TestRightsChange(t *testing.T) {
	for _, through := range []bool{true, false} {
		t.Run(fmt.Sprintf("through=%t", through), func(t *testing.T) {
			redis := redistest.Start(t)
			redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all")
			redis.Do("ACL", "SETUSER", "carol", "on", ">pw", "~*", "+@all")
			n := start(t, redis, nil)
			own, bob, carol := n.dial(), n.as("bob", "pw"), n.as("carol", "pw")
			admin := func(args ...string) {
				if through {
					own.Do(args...)
				} else {
					redis.Do(args...)
				}
			}
			refused := func(c *redistest.Client, code string) {
				t.Helper()
				deadline := time.Now().Add(rightsBound + time.Second)
				for {
					got := c.Do("GET", "product:1")
					if strings.HasPrefix(got, code) {
						break
					}
					// Redis may be just about to close the user's connections.
					if through && got[0] != '-' || time.Now().After(deadline) {
						t.Fatalf("answered %s, want %s", got, code)
					}
				}
				for range 100 { // and it stays so
					if got := c.Do("GET", "product:1"); !strings.HasPrefix(got, code) {
						t.Fatalf("answered %s after %s", got, code)
					}
				}
			}
			want(t, own, "OK", "SET", "product:1", "tea")

			n.warm(bob, "GET", "product:1")
			admin("ACL", "SETUSER", "bob", "-get")
			refused(bob, "-NOPERM")
			admin("ACL", "SETUSER", "bob", "+get")
			n.warm(bob, "GET", "product:1")
			admin("ACL", "SETUSER", "bob", "resetkeys", "~balance:*")
			refused(bob, "-NOPERM")
			admin("ACL", "SETUSER", "bob", "~*")
			n.warm(bob, "GET", "product:1")

			n.warm(carol, "GET", "product:1")
			admin("ACL", "DELUSER", "carol")
			refused(carol, "-WRONGPASS")
			want(t, n.dial(), "-WRONGPASS invalid username-password pair or user is disabled.", "AUTH", "carol", "pw")
			// Who switches a user off lets its connections be, as Redis does.
			admin("ACL", "SETUSER", "bob", "off")
			want(t, n.dial(), "-WRONGPASS invalid username-password pair or user is disabled.", "AUTH", "bob", "pw")
		})
	}
}

// CONFIG SET requirepass through nearside overtakes everything cached.
func TestRequirePassThrough(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "svc", "on", ">svc", "~*", "&*", "+@all")
	n := launch(t, "redis://svc:svc@"+redis.Addr, nil)
	n.awaitLink()
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "tea")
	n.warm(c, "GET", "product:1")
	gets := redis.Calls("get")
	want(t, c, "OK", "CONFIG", "SET", "requirepass", "pw")
	want(t, c, "tea", "GET", "product:1")
	d := redistest.Dial(t, redis.Addr)
	defer d.Close()
	d.Do("AUTH", "pw")
	if got := d.Do("INFO", "commandstats"); !strings.Contains(got, fmt.Sprintf("cmdstat_get:calls=%d,", gets+1)) {
		t.Errorf("not asked again: %s", got)
	}
	// The default user is another one than nearside's, with its own password.
	want(t, c, "-WRONGPASS invalid username-password pair or user is disabled.", "AUTH", "other")
	want(t, c, "OK", "AUTH", "pw")
	want(t, c, "default", "ACL", "WHOAMI")
}

// A user who may not run what a fetch needs reads all the same, uncached, and
// takes nothing from others; when it may, it is cached for.
func TestUserWithoutFetch(t *testing.T) {
	for _, missing := range []string{"multi", "exec", "pttl"} {
		t.Run(missing, func(t *testing.T) {
			redis := redistest.Start(t)
			redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all", "-"+missing)
			n := start(t, redis, nil)
			own, bob := n.dial(), n.as("bob", "pw")
			want(t, own, "OK", "SET", "product:1", "tea")
			n.warm(own, "GET", "product:1")
			denials := 0
			for i := range 20 {
				want(t, bob, "tea", "GET", "product:1")
				want(t, bob, "[tea]", "MGET", "product:1")
				if i == 0 {
					denials = strings.Count(redis.Do("ACL", "LOG"), "reason")
				}
			}
			if d := strings.Count(redis.Do("ACL", "LOG"), "reason"); d != denials {
				t.Errorf("%d refusals, then %d", denials, d)
			}
			before := n.hits()
			want(t, own, "tea", "GET", "product:1")
			if n.hits() != before+1 {
				t.Error("others lost their entries")
			}
			redis.Do("ACL", "SETUSER", "bob", "+"+missing)
			n.warm(bob, "GET", "product:1")
		})
	}
}

// Without the right to run ACL LIST nothing proves the rights of other users.
func TestNoACLList(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "svc", "on", ">svc", "~*", "&*", "+@all", "-acl|list")
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all")
	n := launch(t, "redis://svc:svc@"+redis.Addr, nil)
	n.awaitLink()
	own, bob := n.dial(), n.dial()
	want(t, bob, "OK", "AUTH", "bob", "pw")
	n.eventually("ACL LIST is refused", func() bool { return n.users.refused.Load() })
	want(t, own, "OK", "SET", "product:1", "tea")
	n.warm(own, "GET", "product:1")
	before := n.hits()
	for range 10 {
		want(t, bob, "tea", "GET", "product:1")
	}
	if n.hits() != before {
		t.Error("a hit without proof")
	}
	if got := bob.Do("NEARSIDE", "EXPLAIN", "product:1"); !strings.Contains(got, "ACL LIST") {
		t.Errorf("EXPLAIN says %s", got)
	}
	want(t, own, "tea", "GET", "product:1")
	if n.hits() != before+1 {
		t.Error("nearside's own user lost its entries")
	}
}

// The proof ends when Redis does not answer, and is asked for only while
// somebody acts as another user.
func TestRightsProof(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all")
	n := start(t, redis, nil)
	own := n.dial()
	want(t, own, "PONG", "PING")
	time.Sleep(1500 * time.Millisecond) // nothing happens: there is no event
	if calls := redis.Calls("acl|list"); calls != 0 {
		t.Errorf("ACL LIST was sent %d times for nobody", calls)
	}
	bob := n.as("bob", "pw")
	redis.Stop()
	defer redis.Continue()
	n.eventually("the proof ends", func() bool { return !n.users.proven(clockNow()) })
	redis.Continue()
	n.eventually("it comes back", func() bool { return n.users.proven(clockNow()) })
	// Coming and going does not make it ask more often.
	calls := redis.Calls("acl|list")
	for range 50 {
		c := n.dial()
		want(t, c, "OK", "AUTH", "bob", "pw")
		c.Close()
	}
	bob.Close()
	for range 50 {
		c := n.dial()
		want(t, c, "OK", "AUTH", "bob", "pw")
		c.Close()
		n.eventually("nobody is left", func() bool { return n.users.acting() == 0 })
	}
	if more := redis.Calls("acl|list") - calls; more > 10 {
		t.Errorf("ACL LIST was sent %d times", more)
	}
	n.eventually("nobody is left", func() bool { return n.users.acting() == 0 })
	n.eventually("the proof ends", func() bool { return !n.users.proven(clockNow()) })
	calls = redis.Calls("acl|list")
	time.Sleep(1500 * time.Millisecond)
	if more := redis.Calls("acl|list") - calls; more > 0 {
		t.Errorf("ACL LIST was sent %d times more for nobody", more)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// No password, right or wrong, can be read anywhere afterwards.
func TestPasswordsStaySecret(t *testing.T) {
	redis := redistest.Start(t, "--requirepass", "OWNSECRET")
	var log lockedBuffer
	n := launch(t, "redis://:OWNSECRET@"+redis.Addr, func(c *Config) {
		c.Admin = "127.0.0.1:0"
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	n.awaitLink()
	c, d := n.dial(), n.dial()
	want(t, c, "OK", "ACL", "SETUSER", "bob", "on", ">BOBSECRET", "~*", "+@all", "-multi")
	want(t, d, "OK", "AUTH", "bob", "BOBSECRET")
	n.eventually("rights are proven", func() bool { return n.users.proven(clockNow()) })
	d.Do("GET", "product:1")
	seen := d.Do("AUTH", "bob", "WRONGSECRET") + d.Do("HELLO", "3", "AUTH", "bob", "WRONGSECRET") + d.Do("AUTH", "WRONGSECRET", "x", "y")
	want(t, c, "1", "ACL", "DELUSER", "bob")
	seen += d.Do("GET", "product:1") + d.Do("SUBSCRIBE", "x")
	seen += c.Do("INFO") + c.Do("NEARSIDE", "STATS") + c.Do("CLIENT", "LIST") + c.Do("NEARSIDE", "EXPLAIN", "product:1")
	for _, path := range []string{"/", "/metrics", "/cache/metrics", "/cache/health", "/healthz", "/readyz"} {
		r, err := http.Get("http://" + n.AdminAddr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		seen += string(b)
	}
	redis.Kill()
	seen += c.Do("GET", "product:2")
	n.stop()
	seen += log.b.String()
	g := n.newSession(nil).group(0, false)
	g.User, g.Password = "bob", "BOBSECRET"
	seen += fmt.Sprintf("%v %+v %#v %s", g, g, g, g)
	for _, secret := range []string{"OWNSECRET", "BOBSECRET", "WRONGSECRET"} {
		if i := strings.Index(seen, secret); i >= 0 {
			t.Errorf("%s is in %q", secret, seen[max(0, i-100):i+20])
		}
	}
}

// Beyond loopback nearside starts only where clients must show who they are.
func TestProtectedMode(t *testing.T) {
	rules := sampleRules()
	for _, tt := range []struct {
		name string
		cfg  Config
		ok   bool
	}{
		{"unprotected", Config{Listen: []string{"0.0.0.0:0"}}, false},
		{"every address", Config{Listen: []string{":0"}}, false},
		{"one of several", Config{Listen: []string{"127.0.0.1:0", "[::]:0"}}, false},
		{"loopback", Config{Listen: []string{"127.0.0.1:0", "[::1]:0", "unix:/x", "localhost:0"}}, true},
		{"with passwords", Config{Listen: []string{"0.0.0.0:0"}, DefaultUser: "none"}, true},
	} {
		tt.cfg.ProtectedMode, tt.cfg.Rules, tt.cfg.CacheDB, tt.cfg.Redis = true, rules, 1, "redis://127.0.0.1:1"
		p, err := New(tt.cfg)
		if err == nil {
			p.l1.Close()
			p.origin.Close()
		}
		if tt.ok != (err == nil) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "protected_mode: false") || !strings.Contains(err.Error(), "default_user: none")) {
			t.Errorf("%s: the error does not help: %v", tt.name, err)
		}
	}
}

// A default user that needs no password protects nothing.
func TestProtectedModeWithoutPassword(t *testing.T) {
	var host string
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			host = ip.IP.String()
		}
	}
	if host == "" {
		t.Skip("this machine has no address but loopback")
	}
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all")
	redis.Do("ACL", "SETUSER", "svc", "on", ">svc", "~*", "&*", "+@all")
	n := launch(t, "redis://svc:svc@"+redis.Addr, func(c *Config) {
		c.Listen, c.ProtectedMode, c.DefaultUser = []string{"0.0.0.0:0"}, true, "none"
	})
	n.awaitLink()
	_, port, _ := net.SplitHostPort(n.addr)
	far := redistest.Dial(t, net.JoinHostPort(host, port))
	defer far.Close()
	want(t, far, "-NOAUTH Authentication required.", "GET", "product:1")
	for _, args := range [][]string{{"AUTH", "x"}, {"AUTH", "default", "x"}, {"HELLO", "3", "AUTH", "default", "x"}} {
		if got := far.Do(args...); !strings.HasPrefix(got, "-DENIED ") {
			t.Errorf("%v answered %s", args, got)
		}
	}
	want(t, far, "-NOAUTH Authentication required.", "GET", "product:1")
	want(t, far, "OK", "AUTH", "bob", "pw")
	want(t, far, "(nil)", "GET", "product:1")
	redis.Do("CONFIG", "SET", "requirepass", "pw")
	want(t, far, "OK", "AUTH", "default", "pw")
	want(t, far, "-WRONGPASS invalid username-password pair or user is disabled.", "AUTH", "default", "x")
}

package proxy

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
	"nearside/proxy/origin"
)

// everyServer runs f on the servers that differ in what they refuse, and how.
func everyServer(t *testing.T, f func(t *testing.T, name redistest.Name), names ...redistest.Name) {
	t.Helper()
	for _, name := range append([]redistest.Name{""}, names...) {
		t.Run("server="+string(name), func(t *testing.T) {
			t.Parallel()
			f(t, name)
		})
	}
}

// bothDatabases puts the same keys into a Redis with one database and, split by the
// rules, into the one behind nearside.
var bothDatabases = []string{"product:1", "product:2", "lock:1", "lock:2", "plain:1"}

func fillBoth(c *redistest.Client) {
	for _, key := range bothDatabases {
		c.Do("SET", key, "value of "+key)
	}
}

// readsAndFrees are the commands by which a full memory is looked at and freed.
var readsAndFrees = [][]string{
	{"GET", "product:1"},
	{"GET", "lock:1"},
	{"MGET", "product:1", "product:2"},
	{"MGET", "product:1", "lock:1", "none:1"},
	{"STRLEN", "product:1"},
	{"EXISTS", "product:1", "lock:1", "lock:9"},
	{"TOUCH", "product:1", "lock:1"},
	{"DBSIZE"},
	{"KEYS", "*"},
	{"TYPE", "product:1"},
	{"PTTL", "product:1"},
	{"GET", "product:none"},
	{"LLEN", "product:1"},
	{"SET", "product:3", "x"},
	{"SET", "lock:3", "x"},
	{"MSET", "product:3", "x", "lock:3", "x"},
	{"DEL", "product:1", "lock:1"},
	{"UNLINK", "product:2", "lock:2", "none:1"},
	{"GET", "product:1"},
	{"MGET", "product:1", "product:2", "lock:1"},
	{"FLUSHDB"},
	{"DBSIZE"},
	{"RANDOMKEY"},
}

// sorted makes answers comparable whose order is nobody's.
func sorted(args []string, reply string) string {
	if args[0] != "KEYS" {
		return reply
	}
	words := strings.Fields(strings.NewReplacer("[", "", "]", "").Replace(reply))
	slices.Sort(words)
	return strings.Join(words, " ")
}

// A Redis whose memory is full refuses whatever stands inside MULTI (before 7.2).
// Reads go on, and what frees memory does.
func TestMemoryFull(t *testing.T) {
	everyServer(t, func(t *testing.T, name redistest.Name) {
		direct, behind := redistest.StartNamed(t, name), redistest.StartNamed(t, name)
		n := start(t, behind, nil)
		d, c := redistest.Dial(t, direct.Addr), n.dial()
		defer d.Close()
		fillBoth(d)
		fillBoth(c)
		for _, s := range []*redistest.Server{direct, behind} {
			s.Do("CONFIG", "SET", "maxmemory-policy", "noeviction")
			s.Do("CONFIG", "SET", "maxmemory", "1")
		}
		for _, args := range readsAndFrees {
			if want, got := sorted(args, d.Do(args...)), sorted(args, c.Do(args...)); got != want {
				t.Errorf("%v answered %s, Redis %s", args, got, want)
			}
		}
		// A hit needs no memory at Redis, and fetches come back with the memory.
		behind.Do("CONFIG", "SET", "maxmemory", "0")
		want(t, c, "OK", "SET", "product:1", "again")
		n.eventually("reads are cached again", func() bool {
			c.Do("GET", "product:1")
			n.settleCache()
			before := n.hits()
			c.Do("GET", "product:1")
			return n.hits() > before
		})
		behind.Do("CONFIG", "SET", "maxmemory", "1")
		before := n.hits()
		want(t, c, "again", "GET", "product:1")
		if n.hits() != before+1 {
			t.Error("no hit while memory is full")
		}
	}, redistest.Redis6, redistest.Redis8)
}

// A refused fetch is sent again before whatever the client sent behind it, where the
// refusal was likely; where it was not, a read with a write behind it may be told, but
// never what is newer than that write.
func TestRefusedFetchKeepsItsPlace(t *testing.T) {
	everyServer(t, func(t *testing.T, name redistest.Name) {
		redis := redistest.StartNamed(t, name)
		n := start(t, redis, nil)
		c := n.dial()
		want(t, c, "(nil)", "GET", "product:0") // the fetch is proven
		for i := range 40 {
			likely := i%2 == 0
			key := fmt.Sprintf("product:%d", i+1)
			redis.Do("CONFIG", "SET", "maxmemory", "0")
			want(t, c, "OK", "SET", key, "before")
			redis.Do("CONFIG", "SET", "maxmemory", "1")
			n.full.until.Store(0)
			n.full.suspect.Store(0)
			if likely {
				n.full.look(n.ctx, n.Proxy)
			}
			c.Write(redistest.Command("GET", key) + redistest.Command("DEL", key) + redistest.Command("GET", key))
			first, second, third := c.Read(), c.Read(), c.Read()
			if told := !likely && strings.HasPrefix(first, "-OOM"); first != "before" && !told || second != "1" || third != "(nil)" {
				t.Fatalf("likely %t: answered %q, %q, %q", likely, first, second, third)
			}
		}
	}, redistest.Redis6)
}

// While a refused fetch is sent again, a write of the same session waits for it.
func TestRefetchHoldsWritesBack(t *testing.T) {
	redis := redistest.Start(t)
	relay := redistest.NewRelay(t, redis.Addr)
	n := launch(t, relay.URL(), nil)
	n.awaitLink()
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "before")
	want(t, c, "(nil)", "GET", "product:0") // the fetch is proven
	redis.Do("CONFIG", "SET", "maxmemory", "1")
	n.full.suspect.Store(0)
	refused := relay.HoldReply("OOM")
	c.Send("GET", "product:1")
	<-refused.Arrived
	again := relay.HoldRequest("product:1")
	refused.Release()
	<-again.Arrived
	c.Send("DEL", "product:1")
	s := n.sessionList()[0]
	n.eventually("the DEL waits", func() bool {
		s.q.mu.Lock()
		defer s.q.mu.Unlock()
		return s.q.waiting
	})
	if got := redis.Calls("del"); got != 0 {
		t.Errorf("%d DELs were sent", got)
	}
	again.Release()
	for _, expected := range []string{"before", "1"} {
		if got := c.Read(); got != expected {
			t.Errorf("answered %s, want %s", got, expected)
		}
	}
}

func TestNearlyFull(t *testing.T) {
	for text, nearly := range map[string]bool{
		"": false, "used_memory:100\r\nmaxmemory:0\r\n": false, "used_memory:79\r\nmaxmemory:100\r\n": false,
		"used_memory:80\r\nmaxmemory:100\r\n": true, "used_memory:1000000\r\nmaxmemory:1\r\n": true, "used_memory_human:1M\r\nmaxmemory:1\r\n": false,
	} {
		if isNearlyFull(text) != nearly {
			t.Errorf("%q: %t", text, !nearly)
		}
	}
}

// What nearside asks for beside the client's command may be renamed away.
func TestRenamedAway(t *testing.T) {
	everyServer(t, func(t *testing.T, name redistest.Name) {
		for _, missing := range []string{"MULTI", "EXEC", "PTTL"} {
			t.Run(missing, func(t *testing.T) {
				t.Parallel()
				direct, behind := redistest.StartNamed(t, name), redistest.StartNamed(t, name, "--rename-command", missing, "")
				n := start(t, behind, nil)
				d, c, other := redistest.Dial(t, direct.Addr), n.dial(), n.dial()
				defer d.Close()
				fillBoth(d)
				fillBoth(c)
				for range 3 {
					for _, args := range readsAndFrees {
						if args[0] == "PTTL" {
							continue
						}
						want, got := sorted(args, d.Do(args...)), sorted(args, c.Do(args...))
						if args[0] == "MSET" && missing != "PTTL" {
							if !strings.HasPrefix(got, "-ERR nearside: MSET of keys in both databases is one transaction") || !strings.Contains(got, strings.ToUpper(missing)) {
								t.Errorf("MSET answered %s", got)
							}
							d.Do("DEL", "product:3", "lock:3")
							d.Do("SET", "product:3", "x")
							d.Do("SET", "lock:3", "x")
							continue
						}
						if args[0] == "RANDOMKEY" || got == want {
							continue
						}
						t.Errorf("%v answered %s, Redis %s", args, got, want)
					}
					if got := other.Do("ECHO", "mine"); got != "mine" { // nobody shares an open transaction
						t.Fatalf("another client was answered %s", got)
					}
					fillBoth(d)
					fillBoth(c)
				}
			})
		}
	}, redistest.Redis6, redistest.Redis8)
}

// A user may lack the right to what nearside asks beside the client's command.
func TestForbiddenAround(t *testing.T) {
	everyServer(t, func(t *testing.T, name redistest.Name) {
		for _, missing := range []string{"multi", "exec", "pttl", "select", "discard"} {
			t.Run(missing, func(t *testing.T) {
				t.Parallel()
				direct, behind := redistest.StartNamed(t, name), redistest.StartNamed(t, name)
				n := start(t, behind, nil)
				d := redistest.Dial(t, direct.Addr)
				defer d.Close()
				own, c := n.dial(), n.dial()
				for _, s := range []*redistest.Server{direct, behind} {
					want(t, redistest.Dial(t, s.Addr), "OK", "ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all", "-"+missing)
				}
				fillBoth(d)
				fillBoth(own)
				want(t, d, "OK", "AUTH", "bob", "pw")
				want(t, c, "OK", "AUTH", "bob", "pw")
				for _, args := range readsAndFrees {
					want, got := sorted(args, d.Do(args...)), sorted(args, c.Do(args...))
					if args[0] == "MSET" && (missing == "multi" || missing == "exec" || missing == "select") {
						if !strings.HasPrefix(got, "-ERR nearside: MSET of keys in both databases is one transaction") || !strings.Contains(got, "'"+missing+"'") {
							t.Errorf("MSET answered %s", got)
						}
						continue
					}
					if got != want {
						t.Errorf("%v answered %s, Redis %s", args, got, want)
					}
				}
				if got := own.Do("ECHO", "mine"); got != "mine" {
					t.Fatalf("another client was answered %s", got)
				}
				want(t, own, "OK", "SET", "lock:1", "x")
				want(t, c, "x", "GET", "lock:1")
			})
		}
	}, redistest.Redis6, redistest.Valkey9)
}

// A command that needs another database than the connection that its session owns is
// never run in the wrong one.
func TestForbiddenSelectInBetween(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all", "-select")
	n := start(t, redis, nil)
	own, c := n.dial(), n.dial()
	fillBoth(own)
	redis.DoDB(0, "SET", "product:1", "of database 0")
	redis.DoDB(0, "RPUSH", "product:list", "of database 0")
	want(t, c, "OK", "AUTH", "bob", "pw")
	const refused = "-ERR nearside: the command's key lies in another database than what the session has under way, and Redis refuses the SELECT between the two: NOPERM this user has no permissions to run the 'select' command"

	want(t, c, "OK", "WATCH", "lock:1")
	want(t, c, "value of product:1", "GET", "product:1")
	want(t, c, "OK", "SET", "product:2", "x")
	want(t, own, "x", "GET", "product:2")
	want(t, c, refused, "BLPOP", "product:list", "0.01")
	want(t, c, refused, "WATCH", "product:1")
	want(t, c, "OK", "UNWATCH")
	want(t, c, refused, "WATCH", "product:1", "lock:1")
	want(t, c, "OK", "UNWATCH")

	want(t, c, "OK", "MULTI")
	want(t, c, "QUEUED", "GET", "lock:1")
	want(t, c, refused, "GET", "product:1")
	want(t, c, "-EXECABORT Transaction discarded because of previous errors.", "EXEC")
	want(t, c, "OK", "MULTI")
	want(t, c, refused, "MGET", "product:1", "lock:1")
	want(t, c, "-EXECABORT Transaction discarded because of previous errors.", "EXEC")
	want(t, c, "OK", "MULTI")
	want(t, c, "QUEUED", "SET", "lock:1", "y")
	want(t, c, "[OK]", "EXEC")
	want(t, c, "value of product:1", "GET", "product:1")
	want(t, c, "y", "GET", "lock:1")

	want(t, c, "OK", "CLIENT", "TRACKING", "ON", "BCAST")
}

// Where Redis is in a state in which it refuses reads or writes, its words are the
// client's, whichever way the command takes.
func TestServerStates(t *testing.T) {
	commands := [][]string{
		{"GET", "product:1"},
		{"MGET", "product:1", "product:2"},
		{"MGET", "product:1", "lock:1"},
		{"DBSIZE"},
		{"KEYS", "*"},
		{"EXISTS", "product:1", "lock:1"},
		{"SET", "product:3", "x"},
		{"DEL", "product:1", "lock:1"},
		{"UNLINK", "product:1", "lock:1"},
		{"MSET", "product:3", "x", "lock:3", "x"},
		{"TOUCH", "product:1", "lock:1"},
		{"MSET", "product:3", "x", "product:4", "y"},
		{"FLUSHDB"},
	}
	for _, state := range []struct {
		name  string
		enter func(s *redistest.Server)
	}{
		{"READONLY", func(s *redistest.Server) { s.Do("REPLICAOF", "127.0.0.1", "1") }},
		{"MASTERDOWN", func(s *redistest.Server) {
			s.Do("CONFIG", "SET", "replica-serve-stale-data", "no")
			s.Do("REPLICAOF", "127.0.0.1", "1")
		}},
		{"NOREPLICAS", func(s *redistest.Server) { s.Do("CONFIG", "SET", "min-replicas-to-write", "1") }},
		{"MISCONF", func(s *redistest.Server) {
			dir := strings.Fields(strings.Trim(s.Do("CONFIG", "GET", "dir"), "[]"))[1]
			if err := os.MkdirAll(filepath.Join(dir, "dump.rdb", "occupied"), 0o700); err != nil {
				t.Fatal(err)
			}
			s.Do("CONFIG", "SET", "save", "3600 1000")
			s.Do("BGSAVE")
			deadline := time.Now().Add(redistest.Timeout)
			for !strings.HasPrefix(s.Do("SET", "probe", "x"), "-MISCONF") {
				if time.Now().After(deadline) {
					t.Fatal("BGSAVE does not fail")
				}
				time.Sleep(time.Millisecond)
			}
			s.Do("CONFIG", "SET", "save", "3600 1000")
		}},
	} {
		t.Run(state.name, func(t *testing.T) {
			everyServer(t, func(t *testing.T, name redistest.Name) {
				direct, behind := redistest.StartNamed(t, name), redistest.StartNamed(t, name)
				n := start(t, behind, nil)
				d, c := redistest.Dial(t, direct.Addr), n.dial()
				defer d.Close()
				fillBoth(d)
				fillBoth(c)
				c.Do("GET", "product:9") // its fetch works
				state.enter(direct)
				state.enter(behind)
				for _, args := range commands {
					want := sorted(args, d.Do(args...))
					n.eventually(fmt.Sprintf("%v is answered %s", args, want), func() bool { // the link may have to come back
						return sorted(args, c.Do(args...)) == want
					})
				}
			}, redistest.Redis6, redistest.Redis8)
		})
	}
}

// What each answer to a fetch means: whether the read is sent again, what is
// remembered, and whether the connection can be used on.
func TestFetchRefusals(t *testing.T) {
	const ok, queued, value = "+OK\r\n", "+QUEUED\r\n", "*2\r\n$1\r\na\r\n:-1\r\n"
	const aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n"
	line := func(s string) string { return "-" + s + "\r\n" }
	for _, tt := range []struct {
		name    string
		replies []string
		again   bool
		full    bool
		denied  bool
		closed  bool
	}{
		{"answered", []string{ok, queued, queued, value}, false, false, false, false},
		{"plain", []string{"$1\r\na\r\n"}, false, false, false, false},
		{"wrong type", []string{ok, queued, queued, "*2\r\n-WRONGTYPE x\r\n:-1\r\n"}, false, false, false, false},
		{"full", []string{ok, line("OOM command not allowed"), line("OOM command not allowed"), aborted}, true, true, false, false},
		{"full at EXEC", []string{ok, queued, queued, line("EXECABORT Transaction discarded because of: OOM command not allowed")}, true, true, false, false},
		{"no MULTI", []string{line("ERR unknown command 'MULTI'"), "$1\r\na\r\n", ":-1\r\n", line("ERR EXEC without MULTI")}, false, false, true, false},
		{"forbidden MULTI", []string{line("NOPERM this user has no permissions to run the 'multi' command"), "$1\r\na\r\n", ":-1\r\n", line("ERR EXEC without MULTI")}, false, false, true, false},
		{"no PTTL", []string{ok, queued, line("ERR unknown command 'PTTL'"), aborted}, true, false, true, false},
		{"PTTL of a key not permitted", []string{ok, queued, line("NOPERM this user has no permissions to access one of the keys used as arguments"), aborted}, true, false, false, false},
		{"no EXEC", []string{ok, queued, queued, line("ERR unknown command 'EXEC'")}, true, false, true, true},
		{"forbidden EXEC", []string{ok, queued, queued, line("EXECABORT Transaction discarded because of: NOPERM User bob has no permissions to run the 'exec' command")}, true, false, true, false},
		{"forbidden EXEC that aborts nothing", []string{ok, queued, queued, line("NOPERM this user has no permissions to run the 'exec' command or its subcommand")}, true, false, true, true},
		{"forbidden read", []string{ok, line("NOPERM this user has no permissions to run the 'get' command"), queued, aborted}, false, false, false, false},
		{"loading", []string{ok, line("LOADING Redis is loading the dataset in memory"), line("LOADING Redis is loading the dataset in memory"), aborted}, false, false, false, false},
		{"busy", []string{ok, line("BUSY Redis is busy running a script."), line("BUSY Redis is busy running a script."), line("EXECABORT Transaction discarded because of: BUSY Redis is busy running a script.")}, false, false, false, false},
		{"busy that aborts nothing", []string{ok, line("BUSY x"), line("BUSY x"), line("BUSY x")}, false, false, false, true},
		{"busy after the read", []string{ok, queued, line("BUSY x"), line("EXECABORT Transaction discarded because of: BUSY x")}, true, false, false, false},
		{"master down", []string{ok, line("MASTERDOWN Link with MASTER is down"), line("MASTERDOWN Link with MASTER is down"), aborted}, false, false, false, false},
		{"something new", []string{line("NEWCODE never heard of"), line("NEWCODE x"), line("NEWCODE x"), line("NEWCODE x")}, false, false, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			redis := redistest.Start(t)
			n := launch(t, redis.URL(), nil)
			c, err := n.origin.Dial(n.ctx, origin.Group{Proto: 2}, nil)
			if err != nil {
				t.Fatal(err)
			}
			user := &aclUser{name: "bob"}
			f := &fetch{user: user, via: c}
			answer, again := f.refused(n.Proxy, []byte(strings.Join(tt.replies, "")))
			if again != tt.again {
				t.Errorf("sent again: %t", again)
			}
			if tt.replies[0] != ok && string(answer) != tt.replies[min(1, len(tt.replies)-1)] { // it has run
				t.Errorf("the answer is %q", answer)
			}
			now := clockNow()
			if full := n.full.lasts(now); full != tt.full {
				t.Errorf("memory is full: %t", full)
			}
			if denied := user.denied.Load() != nil; denied != tt.denied {
				t.Errorf("denied: %t", denied)
			}
			if closed := c.Err() != nil; closed != tt.closed {
				t.Errorf("closed: %t", closed)
			}
		})
	}
}

package proxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
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
	{"GET", "product:1"}, {"GET", "lock:1"}, {"MGET", "product:1", "product:2"}, {"MGET", "product:1", "lock:1", "none:1"},
	{"STRLEN", "product:1"}, {"EXISTS", "product:1", "lock:1", "lock:9"}, {"TOUCH", "product:1", "lock:1"}, {"DBSIZE"},
	{"KEYS", "*"}, {"TYPE", "product:1"}, {"PTTL", "product:1"}, {"GET", "product:none"},
	{"LLEN", "product:1"}, {"SET", "product:3", "x"}, {"SET", "lock:3", "x"}, {"MSET", "product:3", "x", "lock:3", "x"},
	{"DEL", "product:1", "lock:1"}, {"UNLINK", "product:2", "lock:2", "none:1"}, {"GET", "product:1"},
	{"MGET", "product:1", "product:2", "lock:1"}, {"FLUSHDB"}, {"DBSIZE"}, {"RANDOMKEY"},
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

// A refused fetch is sent again before whatever the client sent behind it.
func TestRefusedFetchKeepsItsPlace(t *testing.T) {
	everyServer(t, func(t *testing.T, name redistest.Name) {
		redis := redistest.StartNamed(t, name)
		n := start(t, redis, nil)
		c := n.dial()
		want(t, c, "(nil)", "GET", "product:0") // the fetch is proven
		for i := range 20 {
			key := fmt.Sprintf("product:%d", i+1)
			want(t, c, "OK", "SET", key, "before")
			redis.Do("CONFIG", "SET", "maxmemory", "1")
			n.full.until.Store(0)
			c.Write(redistest.Command("GET", key) + redistest.Command("DEL", key) + redistest.Command("MGET", key) + redistest.Command("DEL", key) + redistest.Command("GET", key))
			got := []string{c.Read(), c.Read(), c.Read(), c.Read(), c.Read()}
			if expected := []string{"before", "1", "[(nil)]", "0", "(nil)"}; !slices.Equal(got, expected) {
				t.Fatalf("answered %q, want %q", got, expected)
			}
			redis.Do("CONFIG", "SET", "maxmemory", "0")
		}
	}, redistest.Redis6)
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

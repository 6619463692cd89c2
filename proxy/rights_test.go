package proxy

import (
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

// What nearside answers itself, and what reaches beyond the client, needs the
// user's right at Redis.
func TestRightsOfLocalCommands(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all", "-client|kill", "-client|list", "-client|pause", "-client|no-evict", "-flushall")
	redis.Do("ACL", "SETUSER", "alice", "on", ">pw", "~*", "&*", "+@all")
	n := start(t, redis, nil)
	bob, alice, other := n.dial(), n.dial(), n.dial()
	want(t, bob, "OK", "AUTH", "bob", "pw")
	want(t, alice, "OK", "AUTH", "alice", "pw")
	want(t, other, "OK", "SET", "product:1", "x")
	id := other.Do("CLIENT", "ID")
	for _, args := range [][]string{
		{"CLIENT", "LIST"}, {"CLIENT", "KILL", "ID", id}, {"CLIENT", "PAUSE", "1"}, {"CLIENT", "UNPAUSE"}, {"CLIENT", "NO-EVICT", "on"}, {"NEARSIDE", "FLUSH"}, {"NEARSIDE", "SLOWLOG", "GET"}, {"NEARSIDE", "SLOWLOG", "RESET"},
	} {
		if got := bob.Do(args...); !strings.HasPrefix(got, "-NOPERM") {
			t.Errorf("%v of bob answered %s", args, got)
		}
		if got := alice.Do(args...); strings.HasPrefix(got, "-NOPERM") {
			t.Errorf("%v of alice answered %s", args, got)
		}
	}
	want(t, bob, "x", "GET", "product:1")
}

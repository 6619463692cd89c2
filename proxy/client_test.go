package proxy

import (
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

// CLIENT speaks of nearside's clients, never of nearside's own connections.
func TestClientCommands(t *testing.T) {
	n := start(t, redistest.Start(t), nil)
	a, b := n.dial(), n.dial()
	id := a.Do("CLIENT", "ID")
	want(t, a, "(nil)", "CLIENT", "GETNAME")
	want(t, a, "OK", "CLIENT", "SETNAME", "alpha")
	want(t, a, "alpha", "CLIENT", "GETNAME")
	want(t, a, "-ERR Client names cannot contain spaces, newlines or special characters.", "CLIENT", "SETNAME", "a b")
	want(t, a, "OK", "SELECT", "7")
	list := b.Do("CLIENT", "LIST")
	if strings.Count(list, "\n") != 2 || !strings.Contains(list, "name=alpha") || !strings.Contains(list, "db=7") {
		t.Errorf("CLIENT LIST is\n%s", list)
	}
	if got := b.Do("CLIENT", "LIST", "ID", id); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "id="+id+" ") {
		t.Errorf("CLIENT LIST ID is\n%s", got)
	}
	if got := a.Do("CLIENT", "INFO"); !strings.Contains(got, "name=alpha") {
		t.Errorf("CLIENT INFO is %s", got)
	}
	want(t, b, "-ERR Unknown client type 'foo'", "CLIENT", "LIST", "TYPE", "foo")
	want(t, b, "-ERR Unknown client type 'foo'", "CLIENT", "KILL", "TYPE", "foo")
	want(t, b, "-ERR No such client", "CLIENT", "KILL", "1.2.3.4:5")
	want(t, b, "0", "CLIENT", "KILL", "ID", "999999")
	want(t, b, "1", "CLIENT", "KILL", "ID", id)
	a.Closed()
	want(t, b, "PONG", "PING")

	b.Write(redistest.Command("CLIENT", "REPLY", "SKIP") + redistest.Command("SET", "x", "1") + redistest.Command("GET", "x"))
	if got := b.Read(); got != "1" {
		t.Errorf("after SKIP: %s", got)
	}
	b.Write(redistest.Command("CLIENT", "REPLY", "OFF") + redistest.Command("SET", "x", "2") + redistest.Command("PING") + redistest.Command("CLIENT", "REPLY", "ON"))
	if got := b.Read(); got != "OK" {
		t.Errorf("after ON: %s", got)
	}
	want(t, b, "2", "GET", "x")
}

func TestHelloAndAuth(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~product:*", "+@all")
	n := start(t, redis, nil)
	c := n.dial()
	for _, args := range [][]string{{"HELLO", "4"}, {"HELLO", "x"}, {"HELLO", "3", "NONSENSE"}, {"AUTH", "bob", "wrong"}, {"AUTH", "x"}, {"AUTH", "a", "b", "c"}, {"HELLO", "3", "AUTH", "bob", "wrong"}} {
		want(t, c, redis.Do(args...), args...)
	}
	if got := c.Do("HELLO", "3", "AUTH", "bob", "pw", "SETNAME", "bobby"); !strings.Contains(got, "proto 3") || !strings.Contains(got, "server redis") {
		t.Fatalf("HELLO answered %s", got)
	}
	want(t, c, "bob", "ACL", "WHOAMI")
	want(t, c, "bobby", "CLIENT", "GETNAME")
	if got := c.Do("GET", "balance:1"); !strings.HasPrefix(got, "-NOPERM") {
		t.Errorf("bob reads what he may not: %s", got)
	}
	// What the default user's reads have cached is not bob's.
	d := n.dial()
	want(t, d, "OK", "SET", "balance:1", "secret")
	n.warm(d, "GET", "balance:1")
	if got := c.Do("GET", "balance:1"); !strings.HasPrefix(got, "-NOPERM") {
		t.Errorf("bob reads from the near cache what he may not: %s", got)
	}
	want(t, c, "RESET", "RESET")
	want(t, c, "secret", "GET", "balance:1")
}

// default_user: none asks for AUTH first, as Redis with requirepass does.
func TestDefaultUserNone(t *testing.T) {
	redis := redistest.Start(t, "--requirepass", "pw")
	n := launch(t, "redis://:pw@"+redis.Addr, func(c *Config) { c.DefaultUser = "none" })
	n.awaitLink()
	c := n.dial()
	for _, args := range [][]string{{"GET", "product:1"}, {"PING"}, {"SET", "lock:a", "x", "NX"}, {"NEARSIDE", "STATS"}, {"CLIENT", "LIST"}} {
		want(t, c, "-NOAUTH Authentication required.", args...)
	}
	want(t, c, "OK", "AUTH", "pw")
	want(t, c, "OK", "SET", "product:1", "x")
	n.warm(c, "GET", "product:1")
	want(t, c, "RESET", "RESET")
	want(t, c, "-NOAUTH Authentication required.", "GET", "product:1")
}

package proxy

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// listFields takes a line of CLIENT LIST apart.
func listFields(line string) map[string]string {
	f := map[string]string{}
	for _, word := range strings.Fields(line) {
		name, value, _ := strings.Cut(word, "=")
		f[name] = value
	}
	return f
}

var fieldNames = regexp.MustCompile(`=[^ \n]*`)

// CLIENT LIST and INFO have Redis's fields in Redis's order, and what they say of
// a client's state is what Redis says.
func TestClientListFields(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	states := [][][]string{
		{},
		{{"HELLO", "3"}},
		{{"CLIENT", "SETNAME", "bob"}, {"SELECT", "7"}},
		{{"MULTI"}},
		{{"MULTI"}, {"PING"}, {"GET", "product:1"}},
		{{"WATCH", "x"}},
		{{"SUBSCRIBE", "a"}},
		{{"HELLO", "3"}, {"SUBSCRIBE", "a"}, {"PSUBSCRIBE", "b"}, {"SSUBSCRIBE", "c"}},
		{{"SUBSCRIBE", "a"}, {"UNSUBSCRIBE", "a"}},
		{{"MONITOR"}},
		{{"HELLO", "3"}, {"CLIENT", "TRACKING", "ON"}},
		{{"HELLO", "3"}, {"CLIENT", "TRACKING", "ON", "BCAST"}},
		{{"HELLO", "3"}, {"CLIENT", "TRACKING", "ON"}, {"CLIENT", "TRACKING", "OFF"}},
		{{"CLIENT", "NO-EVICT", "ON"}},
		{{"CLIENT", "NO-EVICT", "ON"}, {"CLIENT", "NO-EVICT", "OFF"}},
		{{"CONFIG", "GET", "save"}},
		{{"NOSUCHCOMMAND"}},
		{{"SET", "x"}},
		{{"SUBSCRIBE", "a"}, {"RESET"}},
		{{"MULTI"}, {"DISCARD"}},
	}
	for _, commands := range states {
		t.Run(fmt.Sprint(commands), func(t *testing.T) {
			redisC, redisOther := redistest.Dial(t, redis.Addr), redistest.Dial(t, redis.Addr)
			nearC, nearOther := redistest.Dial(t, n.addr), redistest.Dial(t, n.addr)
			for _, c := range []*redistest.Client{redisC, redisOther, nearC, nearOther} {
				t.Cleanup(c.Close)
			}
			prepare := func(c *redistest.Client) string {
				id := c.Do("CLIENT", "ID")
				for _, args := range commands {
					c.Do(args...)
				}
				return id
			}
			redisID, nearID := prepare(redisC), prepare(nearC)
			a := redisOther.Do("CLIENT", "LIST", "ID", redisID)
			b, different := "", ""
			for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
				b = nearOther.Do("CLIENT", "LIST", "ID", nearID)
				different = ""
				for _, name := range []string{"name", "flags", "db", "sub", "psub", "ssub", "multi", "qbuf", "obl", "oll", "omem", "events", "cmd", "user", "redir", "resp"} {
					if x, y := listFields(a)[name], listFields(b)[name]; x != y {
						different += name + ": " + x + ", here " + y + "; "
					}
				}
				if different == "" {
					break // what it did last is shown a moment after its answer
				}
			}
			if different != "" {
				t.Error(different)
			}
			if f := listFields(b); f["id"] != nearID || f["addr"] != nearC.Conn.LocalAddr().String() || f["laddr"] != n.addr {
				t.Errorf("wrong client: %s", b)
			}
			if a, b := fieldNames.ReplaceAllString(a, ""), fieldNames.ReplaceAllString(b, ""); a != b {
				t.Errorf("Redis's fields\n%snearside's\n%s", a, b)
			}
		})
	}
	for _, addr := range []string{redis.Addr, n.addr} {
		c := redistest.Dial(t, addr)
		info := listFields(c.Do("CLIENT", "INFO"))
		if info["qbuf"] != "26" || info["argv-mem"] != "10" || info["cmd"] != "client|info" || info["user"] != "default" {
			t.Errorf("CLIENT INFO of %s: %v", addr, info)
		}
		c.Write("*2\r\n$3\r\nGET")
		other := redistest.Dial(t, addr)
		n.eventually("an unfinished request is shown", func() bool { return listFields(other.Do("CLIENT", "LIST", "ID", info["id"]))["qbuf"] != "0" })
		c.Close()
		other.Close()
	}
	b, other := n.dial(), n.dial()
	id := b.Do("CLIENT", "ID")
	b.Send("BLPOP", "q", "0")
	n.eventually("a blocked client", func() bool { return listFields(other.Do("CLIENT", "LIST", "ID", id))["flags"] == "b" })
}

// The answers to wrong and right CLIENT commands are Redis's.
func TestClientAnswers(t *testing.T) {
	redis, bare := redistest.Start(t), redistest.Start(t) // bare: nearside's link would be a subscriber there
	for _, r := range []*redistest.Server{redis, bare} {
		r.Do("ACL", "SETUSER", "bob", "on", ">pw", "+@all", "~*", "&*")
	}
	n := start(t, redis, nil)
	for _, proto := range []string{"2", "3"} {
		d, c := redistest.Dial(t, bare.Addr), n.tracker(proto)
		d.Do("HELLO", proto)
		for _, line := range []string{
			"", "NOSUCH", "ID x", "INFO x", "GETNAME x", "SETNAME", "SETNAME a b", "SETNAME \x01", "SETNAME abc", "GETNAME", "LIST x", "LIST TYPE", "LIST TYPE x", "LIST TYPE replica",
			"LIST TYPE MASTER", "LIST TYPE normal x", "LIST ID", "LIST ID x", "LIST ID 0", "LIST ID -1 99999", "LIST ID 99999 x", "LIST TYPE pubsub",
			"REPLY", "REPLY x", "REPLY ON", "NO-EVICT", "NO-EVICT x", "NO-EVICT ON", "NO-EVICT off", "NO-TOUCH", "NO-TOUCH on", "SETINFO", "SETINFO lib-name x",
			"KILL", "KILL x", "KILL 1.2.3.4:5", "KILL ID", "KILL ID x", "KILL ID 0", "KILL ID -1", "KILL ID 999999", "KILL ID 999999 TYPE", "KILL ID x TYPE", "KILL TYPE x", "KILL TYPE replica",
			"KILL ADDR 1.2.3.4:5", "KILL LADDR 1.2.3.4:5", "KILL USER nobody", "KILL USER bob", "KILL ID 999999 SKIPME", "KILL ID 999999 SKIPME x", "KILL ID 999999 SKIPME NO", "KILL X Y", "KILL ADDR x LADDR",
			"UNBLOCK", "UNBLOCK x", "PAUSE", "UNPAUSE x", "UNPAUSE", "GETREDIR", "GETREDIR x", "TRACKINGINFO x", "HELP", "HELP x",
		} {
			args := append([]string{"CLIENT"}, strings.Fields(line)...)
			if line == "SETNAME a b" {
				args = []string{"CLIENT", "SETNAME", "a b"}
			}
			if a, b := d.Do(args...), c.Do(args...); a != b {
				t.Errorf("RESP%s %v: Redis answers %s, nearside %s", proto, args, a, b)
			}
		}
		d.Close()
		c.Close()
	}
}

func TestClientKillFilters(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "+@all", "~*", "&*")
	socket := t.TempDir() + "/s"
	n := start(t, redis, func(c *Config) { c.Listen = append(c.Listen, "unix:"+socket) })
	admin := n.dial()
	me := admin.Conn.LocalAddr().String()

	bob, sub, named := n.dial(), n.dial(), n.dial()
	want(t, bob, "OK", "AUTH", "bob", "pw")
	want(t, sub, "[subscribe a 1]", "SUBSCRIBE", "a")
	want(t, named, "PONG", "PING")
	want(t, admin, "0", "CLIENT", "KILL", "USER", "bob", "TYPE", "pubsub")
	want(t, admin, "1", "CLIENT", "KILL", "USER", "bob")
	bob.Closed()
	want(t, admin, "1", "CLIENT", "KILL", "TYPE", "pubsub")
	sub.Closed()
	want(t, admin, "1", "CLIENT", "KILL", "ADDR", named.Conn.LocalAddr().String())
	named.Closed()

	unix := redistest.Dial(t, "unix:"+socket)
	defer unix.Close()
	f := listFields(unix.Do("CLIENT", "INFO"))
	if f["addr"] != socket+":0" || f["laddr"] != socket+":0" || f["flags"] != "U" {
		t.Errorf("a client on a socket is %v", f)
	}
	want(t, admin, "1", "CLIENT", "KILL", "LADDR", socket+":0")
	unix.Closed()

	old := n.dial()
	want(t, old, "PONG", "PING")
	want(t, admin, "OK", "CLIENT", "KILL", old.Conn.LocalAddr().String())
	old.Closed()
	want(t, admin, "0", "CLIENT", "KILL", "ADDR", me)
	want(t, admin, "1", "CLIENT", "KILL", "LADDR", n.addr, "SKIPME", "no")
	admin.Closed()
	admin = n.dial()
	want(t, admin, "OK", "CLIENT", "KILL", admin.Conn.LocalAddr().String())
	admin.Closed()
}

// CLIENT REPLY, byte for byte.
func TestClientReply(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	cmd := redistest.Command
	for _, proto := range []string{"2", "3"} {
		for _, script := range []string{
			cmd("CLIENT", "REPLY", "SKIP") + cmd("PING") + cmd("PING"),
			cmd("CLIENT", "REPLY", "SKIP") + cmd("CLIENT", "REPLY", "SKIP") + cmd("PING", "a") + cmd("PING", "b"),
			cmd("CLIENT", "REPLY", "SKIP") + cmd("CLIENT", "REPLY", "ON") + cmd("PING"),
			cmd("CLIENT", "REPLY", "SKIP") + cmd("CLIENT", "REPLY", "X") + cmd("PING"),
			cmd("CLIENT", "REPLY", "OFF") + cmd("CLIENT", "REPLY", "SKIP") + cmd("PING") + cmd("PING") + cmd("CLIENT", "REPLY", "ON") + cmd("GET", "product:1"),
			cmd("CLIENT", "REPLY", "OFF") + cmd("SUBSCRIBE", "a", "b") + cmd("PSUBSCRIBE", "c") + cmd("UNSUBSCRIBE") + cmd("PUNSUBSCRIBE") + cmd("SET", "product:1", "x") + cmd("CLIENT", "REPLY", "ON"),
			cmd("CLIENT", "REPLY", "SKIP") + cmd("SUBSCRIBE", "a") + cmd("UNSUBSCRIBE", "a") + cmd("PING"),
			cmd("CLIENT", "REPLY", "OFF") + cmd("MULTI") + cmd("SET", "product:1", "x") + cmd("EXEC") + cmd("CLIENT", "REPLY", "ON") + cmd("GET", "product:1"),
			cmd("CLIENT", "REPLY", "OFF") + cmd("SUBSCRIBE") + cmd("NOSUCH") + cmd("GET") + cmd("CLIENT", "REPLY", "ON"),
			cmd("CLIENT", "REPLY", "OFF") + cmd("MGET", "product:1", "lock:1") + cmd("DBSIZE") + cmd("RESET") + cmd("PING"),
		} {
			var got [2]string
			for i, addr := range []string{redis.Addr, n.addr} {
				c := redistest.Dial(t, addr)
				c.Do("HELLO", proto)
				c.Write(script + cmd("QUIT"))
				_ = c.Conn.(*net.TCPConn).CloseWrite()
				got[i] = c.Closed()
			}
			if got[0] != got[1] {
				t.Errorf("RESP%s %q:\nRedis    %q\nnearside %q", proto, script, got[0], got[1])
			}
		}
	}
}

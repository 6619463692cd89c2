package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
	"nearside/proxy/link"
)

// oneWire makes all sessions of one kind share one connection.
func oneWire(c *Config) { c.OriginConnections = 1 }

// anyServer runs a test on each server.
func anyServer(t *testing.T, run func(t *testing.T, name redistest.Name)) {
	t.Helper()
	for _, name := range redistest.All {
		t.Run(name.String(), func(t *testing.T) {
			t.Parallel()
			run(t, name)
		})
	}
}

// TestNamesWithNULNeverReachRedis: no name that Redis could take for another one is
// sent on; other clients of the connection notice nothing.
func TestNamesWithNULNeverReachRedis(t *testing.T) {
	anyServer(t, func(t *testing.T, name redistest.Name) {
		redis := redistest.StartNamed(t, name)
		n := start(t, redis, func(c *Config) { oneWire(c); c.Deny = []string{"set"} })
		bad, good := n.dial(), n.dial()
		good.Do("SETEX", "mine", "1000", "v")
		for i := range 200 {
			tail := fmt.Sprintf("\x00%d", i)
			for _, args := range [][]string{
				{"CLIENT", "REPLY" + tail, "SKIP"},
				{"MULTI" + tail},
				{"SELECT" + tail, "5"},
				{"AUTH" + tail, "x", "y"},
				{"MONITOR" + tail},
				{"SHUTDOWN" + tail, "NOSAVE"},
				{"QUIT" + tail},
				{"SUBSCRIBE" + tail, "c"},
				{"SCRIPT", "DEBUG" + tail, "YES"},
				{"nosuch" + tail},
			} {
				if got := bad.Do(args...); !strings.HasPrefix(got, "-ERR ") || !strings.Contains(strings.ToLower(got), "unknown ") {
					t.Fatalf("%q is answered %q", args, got)
				}
			}
			if got := bad.Do("SET"+tail, "k", "v"); !strings.HasPrefix(got, "-NOPERM nearside: 'set'") {
				t.Fatalf("a denied command with a NUL is answered %q", got)
			}
			want(t, good, "v", "GET", "mine")
			want(t, good, tail, "ECHO", tail)
		}
		want(t, bad, "OK", "MULTI")
		if got := bad.Do("GET\x00", "mine"); !strings.HasPrefix(got, "-ERR unknown command") {
			t.Errorf("inside MULTI: %q", got)
		}
		want(t, bad, "-"+errExecAbort, "EXEC")
		if calls := redis.Calls("monitor") + redis.Calls("multi") + redis.Calls("shutdown"); calls > 1 {
			t.Errorf("%d of them have reached Redis", calls)
		}
		n.eventually("nothing is pinned", func() bool { return n.origin.Stats().Pinned == 0 })
	})
}

// TestOptionWordsWithNULBlockNobody: XREAD "BLOCK\x00" blocks, and blocks its own client only.
func TestOptionWordsWithNULBlockNobody(t *testing.T) {
	anyServer(t, func(t *testing.T, name redistest.Name) {
		redis := redistest.StartNamed(t, name)
		n := start(t, redis, oneWire)
		bad, good := n.dial(), n.dial()
		for i, word := range []string{"BLOCK\x00", "block\x00x", "Block"} {
			bad.Send("XREAD", word, "0", "STREAMS\x00", "stream", "$")
			n.eventually("it blocks at Redis", func() bool { return strings.Contains(redis.Do("INFO", "clients"), "blocked_clients:1") })
			want(t, good, "PONG", "PING")
			want(t, good, "x", "ECHO", "x")
			good.Do("XADD", "stream", "*", "f", "v")
			if got := bad.Read(); !strings.Contains(got, "stream") {
				t.Fatalf("%d: %q", i, got)
			}
		}
		// nearside's own words.
		want(t, bad, "OK", "CLIENT", "REPLY", "ON\x00")
		bad.Send("CLIENT", "REPLY", "SKIP\x00")
		bad.Send("ECHO", "skipped")
		want(t, bad, "seen", "ECHO", "seen")
		if got := bad.Do("INFO", "nearside\x00"); !strings.Contains(got, "# Nearside") {
			t.Errorf("INFO nearside is answered %q", got)
		}
		bad.Do("HELLO", "2", "SETNAME\x00", "me")
		want(t, bad, "me", "CLIENT", "GETNAME")
		if got := bad.Do("CLIENT", "LIST", "TYPE\x00", "NORMAL\x00"); !strings.Contains(got, "name=me") {
			t.Errorf("CLIENT LIST is answered %q", got)
		}
	})
}

// TestHTTPCloses: POST and Host: close the client before anything after them runs, on
// every server, whatever that lists in COMMAND.
func TestHTTPCloses(t *testing.T) {
	anyServer(t, func(t *testing.T, name redistest.Name) {
		redis := redistest.StartNamed(t, name, "--requirepass", "pw")
		n := launch(t, "redis://:pw@"+redis.Addr, oneWire)
		n.awaitLink()
		good := n.dial()
		for _, before := range []string{"", redistest.Command("SELECT", "2"), redistest.Command("MULTI"), redistest.Command("AUTH", "pw"), redistest.Command("WATCH", "k"), redistest.Command("HELLO", "3")} {
			for _, line := range []string{
				"POST / HTTP/1.1\r\n", "post\r\n", "PoSt x\r\n", "Host: localhost:6380\r\n", "HOST:\r\n",
				redistest.Command("POST", "/"), redistest.Command("host:", "x"), redistest.Command("POST\x00", "x"), redistest.Command("Host:\x00y"),
			} {
				c := n.dial()
				c.Write(before + line + redistest.Command("SET", "stolen", "1") + "SET stolen 1\r\n" + redistest.Command("EXEC"))
				if got := c.Closed(); strings.Count(got, "OK") > strings.Count(before, "*") {
					t.Errorf("%q after %q is answered %q", line, before, got)
				}
			}
			want(t, good, "(nil)", "GET", "stolen")
		}
		c := n.dial()
		if got := c.Do("poſt", "x"); !strings.HasPrefix(got, "-ERR unknown command") {
			t.Errorf("poſt is answered %q", got)
		}
	})
}

// TestConnectionState: what a client sets on its connection holds for it, and for nobody else.
func TestConnectionState(t *testing.T) {
	anyServer(t, func(t *testing.T, name redistest.Name) {
		redis := redistest.StartNamed(t, name)
		n := start(t, redis, oneWire)
		direct := redistest.Dial(t, redis.Addr)
		t.Cleanup(direct.Close)
		other := n.dial()
		other.Do("SET", "product:1", "v")
		n.warm(other, "GET", "product:1")
		for _, args := range [][]string{
			{"READONLY"},
			{"READWRITE"},
			{"ASKING"},
			{"READONLY", "x"},
			{"CLIENT", "NO-EVICT", "nonsense"},
			{"CLIENT", "NO-TOUCH", "nonsense"},
			{"CLIENT", "NO-TOUCH"},
			{"CLIENT", "CAPA"},
			{"CLIENT", "SETINFO", "lib-foo", "x"},
			{"CLIENT", "SETINFO", "lib-name"},
			{"CLIENT", "SETINFO", "LIB-NAME", "x y"},
			{"CLIENT", "NOSUCH", "a"},
			{"CLIENT", "CAPA", "redirect"},
			{"CLIENT", "NO-EVICT", "ON"},
			{"CLIENT", "NO-TOUCH", "ON"},
			{"CLIENT", "IMPORT-SOURCE", "ON"},
			{"client", "setinfo", "lib-ver", "1"},
			{"OBJECT", "nosuch", "x"},
			{"NOSUCH", "a", "b"},
			{"CLUSTER", "NOSUCH"},
		} {
			c := n.dial()
			expected := direct.Do(args...)
			got := c.Do(args...)
			if got != expected {
				t.Errorf("%q is answered %q, by Redis %q", args, got, expected)
			}
			sub := strings.ToLower(strings.Join(args[:min(len(args), 2)], " "))
			binds := got == "OK" && (sub == "client capa" || sub == "client no-evict" || sub == "client no-touch" || sub == "client import-source")
			before, pinned := n.hits(), n.bypassed(bypassPinned)
			want(t, c, "v", "GET", "product:1")
			if bound := n.bypassed(bypassPinned) > pinned; bound != binds || binds == (n.hits() > before) {
				t.Errorf("%q, answered %q: the client is bound to a connection: %v", args, got, bound)
			}
			if strings.HasPrefix(strings.ToLower(sub), "client setinfo") && n.origin.Stats().Pinned > 0 {
				t.Errorf("%q takes a connection", args)
			}
			want(t, other, "v", "GET", "product:1")
			if binds { // RESET takes everything back
				c.Do("RESET")
				if name != redistest.Redis6 {
					want(t, c, "v", "GET", "product:1")
				}
			}
			c.Close()
			n.eventually("nothing is pinned", func() bool { return n.origin.Stats().Pinned == 0 })
		}
	})
}

// TestNoTouchHolds: with CLIENT NO-TOUCH ON a client's reads leave a key's age as it was.
func TestNoTouchHolds(t *testing.T) {
	redis := redistest.StartNamed(t, redistest.Redis8)
	n := start(t, redis, oneWire)
	c, other := n.dial(), n.dial()
	want(t, c, "OK", "SET", "k", "v")
	want(t, c, "OK", "CLIENT", "NO-TOUCH", "ON")
	n.eventually("the key is old", func() bool { return redis.Do("OBJECT", "IDLETIME", "k") >= "2" })
	want(t, c, "v", "GET", "k")
	if got := redis.Do("OBJECT", "IDLETIME", "k"); got < "2" {
		t.Errorf("the key was touched: idle for %s s", got)
	}
	want(t, c, "OK", "MULTI")
	want(t, c, "QUEUED", "GET", "k")
	want(t, c, "[v]", "EXEC")
	want(t, c, "v", "GET", "k")
	if got := redis.Do("OBJECT", "IDLETIME", "k"); got < "2" {
		t.Errorf("the key was touched after a transaction: idle for %s s", got)
	}
	if got := other.Do("CLIENT", "LIST"); !strings.Contains(got, "flags=T ") {
		t.Errorf("CLIENT LIST: %s", got)
	}
	want(t, other, "v", "GET", "k")
	if got := redis.Do("OBJECT", "IDLETIME", "k"); got != "0" {
		t.Errorf("another client's read touched nothing: idle for %s s", got)
	}
	want(t, c, "OK", "CLIENT", "NO-TOUCH", "OFF")
	n.eventually("the key is old", func() bool { return redis.Do("OBJECT", "IDLETIME", "k") >= "2" })
	want(t, c, "v", "GET", "k")
	if got := redis.Do("OBJECT", "IDLETIME", "k"); got != "0" {
		t.Errorf("the client is still bound: idle for %s s", got)
	}
	if got := c.Do("HELLO", "3"); strings.HasPrefix(got, "-") {
		t.Errorf("HELLO: %s", got)
	}
	want(t, c, "OK", "CLIENT", "NO-TOUCH", "ON")
	if got := c.Do("HELLO", "2"); !strings.HasPrefix(got, "-ERR nearside: ") {
		t.Errorf("HELLO with state on a connection of another version: %s", got)
	}
	// A loss of that connection ends the client's.
	id := ""
	for line := range strings.Lines(redis.Do("CLIENT", "LIST")) {
		if strings.Contains(line, "flags=T ") {
			id = strings.TrimPrefix(strings.Fields(line)[0], "id=")
		}
	}
	want(t, direct(t, redis), "1", "CLIENT", "KILL", "ID", id)
	c.Closed()
}

func direct(t *testing.T, redis *redistest.Server) *redistest.Client {
	t.Helper()
	c := redistest.Dial(t, redis.Addr)
	t.Cleanup(c.Close)
	return c
}

// TestPrivateConnections: kept for a while, never given to another session, bounded.
func TestPrivateConnections(t *testing.T) {
	redis := redistest.StartNamed(t, redistest.Redis8)
	n := start(t, redis, func(c *Config) { oneWire(c); c.MaxPinned = 4; c.privateIdle = 500 * time.Millisecond })
	c := n.dial()
	want(t, c, "1", "VADD", "vec", "VALUES", "1", "1", "el") // a module's
	dials := n.origin.Stats().Dials
	want(t, c, "1", "VCARD", "vec")
	if st := n.origin.Stats(); st.Pinned != 1 || st.Dials != dials {
		t.Errorf("the connection is not kept: %+v", st)
	}
	// In order with what goes elsewhere, and in a transaction.
	c.Write(redistest.Command("SET", "k", "v") + redistest.Command("VCARD", "vec") + redistest.Command("GET", "k") + redistest.Command("MULTI") +
		redistest.Command("VCARD", "vec") + redistest.Command("EXEC") + redistest.Command("DEL", "k") + redistest.Command("VDIM", "vec") + redistest.Command("GET", "k"))
	for _, expected := range []string{"OK", "1", "v", "OK", "QUEUED", "[1]", "1", "1", "(nil)"} {
		if got := c.Read(); got != expected {
			t.Fatalf("got %s, want %s", got, expected)
		}
	}
	n.eventually("it is let go", func() bool { return n.origin.Stats().Pinned == 0 })
	if idle := n.origin.Stats().Idle; idle != 0 {
		t.Errorf("%d connections wait for another session", idle)
	}
	want(t, c, "1", "VCARD", "vec")
	// A transaction that ran such a command leaves its connection to nobody either.
	tx := n.dial()
	want(t, tx, "OK", "MULTI")
	want(t, tx, "QUEUED", "VCARD", "vec")
	want(t, tx, "[1]", "EXEC")
	tx.Close()
	n.eventually("it is closed", func() bool { return n.origin.Stats().Pinned <= 1 })
	if idle := n.origin.Stats().Idle; idle != 0 {
		t.Errorf("%d connections wait for another session", idle)
	}
	// Where many are out none is kept; where all are, there is an error, and it passes.
	var busy []*redistest.Client
	for range 3 {
		o := n.dial()
		want(t, o, "OK", "MULTI")
		busy = append(busy, o)
	}
	want(t, c, "1", "VCARD", "vec")
	n.eventually("it is not kept", func() bool { return n.origin.Stats().Pinned == 3 })
	o := n.dial()
	want(t, o, "OK", "MULTI")
	if got := c.Do("VCARD", "vec"); !strings.HasPrefix(got, "-ERR nearside: max_pinned (4) ") {
		t.Errorf("beyond the bound: %s", got)
	}
	want(t, busy[0], "OK", "DISCARD")
	want(t, c, "1", "VCARD", "vec")
}

// TestDepartureEndsPrivateWait: a client that goes away while its private command
// blocks is noticed, also when a later command of its waits for that.
func TestDepartureEndsPrivateWait(t *testing.T) {
	redis := redistest.StartNamed(t, redistest.Redis8)
	n := start(t, redis, oneWire)
	for _, behind := range []string{"", redistest.Command("GET", "k"), redistest.Command("GET", "product:1"), redistest.Command("ECHO", "x")} {
		c := n.dial()
		c.Write(redistest.Command("VCARD", "vec") + redistest.Command("WAITAOF", "0", "5", "0") + behind)
		c.Read()
		n.eventually("it blocks at Redis", func() bool { return strings.Contains(redis.Do("INFO", "clients"), "blocked_clients:1") })
		c.Close()
		n.eventually("nobody blocks", func() bool {
			return strings.Contains(redis.Do("INFO", "clients"), "blocked_clients:0") && n.origin.Stats().Pinned == 0
		})
	}
}

// startRenamed starts a server with renamed commands.
func startRenamed(t *testing.T, name redistest.Name, list ...string) *redistest.Server {
	t.Helper()
	var args []string
	for _, r := range list {
		from, to, _ := strings.Cut(r, " ")
		args = append(args, "--rename-command", from, to)
	}
	return redistest.StartNamed(t, name, args...)
}

// TestRenamedCommands: a command is what Redis says it is, whatever its name there.
func TestRenamedCommands(t *testing.T) {
	anyServer(t, func(t *testing.T, name redistest.Name) {
		redis := startRenamed(t, name, "GETSET ", "GET GETSET", "SHUTDOWN fin", "KEYS ", "APPEND KEYS", "MONITOR look", "SUBSTR GET", "XREAD streamsread")
		n := start(t, redis, func(c *Config) { oneWire(c); c.Deny = []string{"append"} })
		c, good := n.dial(), n.dial()
		want(t, c, "OK", "SET", "product:1", "value")
		n.eventually("a hit under the new name", func() bool {
			before := n.hits()
			want(t, c, "value", "GETSET", "product:1")
			n.settleCache()
			return n.hits() > before
		})
		want(t, c, "alu", "GET", "product:1", "1", "3") // SUBSTR
		if got := c.Do("FIN", "NOSAVE"); !strings.HasPrefix(got, "-ERR nearside: SHUTDOWN is refused") {
			t.Errorf("the renamed SHUTDOWN is answered %s", got)
		}
		if got := c.Do("KEYS", "k", "v"); !strings.HasPrefix(got, "-NOPERM nearside: 'append'") { // denied by its real name
			t.Errorf("the renamed APPEND is answered %s", got)
		}
		for _, gone := range [][]string{{"SHUTDOWN"}, {"MONITOR"}, {"XREAD", "BLOCK", "0", "STREAMS", "st", "$"}} {
			if got, expected := c.Do(gone...), redis.Do(gone...); got != expected || !strings.HasPrefix(got, "-ERR unknown command") {
				t.Errorf("%v is answered %s, by Redis %s", gone, got, expected)
			}
		}
		// A renamed one that blocks or sends holds up nobody.
		c.Send("STREAMSREAD", "BLOCK", "0", "STREAMS", "st", "$")
		n.eventually("it blocks at Redis", func() bool { return strings.Contains(redis.Do("INFO", "clients"), "blocked_clients:1") })
		want(t, good, "x", "ECHO", "x")
		good.Do("XADD", "st", "*", "f", "v")
		c.Read()
		m := n.dial()
		want(t, m, "OK", "LOOK")
		want(t, good, "y", "ECHO", "y")
		n.eventually("the monitor sees it", func() bool { return strings.Contains(m.Read(), `"y"`) })
	})
}

// TestRenamedTransactions: MULTI under another name queues nobody else's commands, and
// CLIENT under another name speaks of nearside's clients.
func TestRenamedTransactions(t *testing.T) {
	anyServer(t, func(t *testing.T, name redistest.Name) {
		redis := startRenamed(t, name, "MULTI begin", "EXEC commit", "CLIENT klient")
		n := launch(t, redis.URL(), func(c *Config) { oneWire(c); c.Link = "none" })
		c, good := n.dial(), n.dial()
		want(t, c, "OK", "BEGIN")
		want(t, c, "QUEUED", "SET", "k", "1")
		want(t, good, "(nil)", "GET", "k")
		want(t, good, "alone", "ECHO", "alone")
		want(t, c, "[OK]", "commit")
		want(t, good, "1", "GET", "k")
		want(t, c, "OK", "klient", "SETNAME", "me")
		want(t, c, "me", "Klient", "getname")
		for _, gone := range [][]string{{"CLIENT", "ID"}, {"MULTI"}, {"EXEC"}, {"klient", "nosuch"}} {
			if got, expected := c.Do(gone...), redis.Do(gone...); got != expected || !strings.HasPrefix(strings.ToLower(got), "-err unknown ") {
				t.Errorf("%v is answered %s, by Redis %s", gone, got, expected)
			}
		}
	})
}

// TestAnotherServerIsAskedAnew: what one process has told is forgotten with it.
func TestAnotherServerIsAskedAnew(t *testing.T) {
	redis := redistest.StartNamed(t, redistest.Redis8, "--rename-command", "GET", "fetch", "--rename-command", "APPEND", "get")
	relay := redistest.NewRelay(t, redis.Addr)
	n := launch(t, relay.URL(), oneWire)
	n.awaitLink()
	c := n.dial()
	want(t, c, "2", "GET", "product:1", "ab")
	want(t, c, "ab", "FETCH", "product:1")
	want(t, c, "[-2]", "HPTTL", "product:h", "FIELDS", "1", "f") // learned
	if got := c.Do("HELLO"); !strings.Contains(got, "8.0") {
		t.Fatal(got)
	}
	first := n.current().policy.Server()
	plain := redistest.StartNamed(t, redistest.Debian)
	plain.DoDB(1, "SET", "product:1", "of another")
	relay.Redirect(plain.Addr)
	relay.Cut()
	n.eventually("the other one is met", func() bool {
		id := n.current().policy.Server()
		return id != first && id == n.link.RunID() && n.link.Verdict(clockNow()) == link.OK
	})
	c = n.dial()
	want(t, c, "of another", "GET", "product:1")
	for _, args := range [][]string{{"FETCH", "product:1"}, {"HPTTL", "product:h", "FIELDS", "1", "f"}} {
		if got, expected := c.Do(args...), plain.Do(args...); got != expected || !strings.HasPrefix(got, "-ERR unknown command") {
			t.Errorf("%v is answered %s, by Redis %s", args, got, expected)
		}
	}
}

// TestUnknownWhereNothingCanBeAsked: where nearside may not run COMMAND, what its table
// does not have is its client's alone, and binds the client if Redis accepts it.
func TestUnknownWhereNothingCanBeAsked(t *testing.T) {
	redis := redistest.StartNamed(t, redistest.Redis8)
	redis.Do("ACL", "SETUSER", "near", "on", ">pw", "~*", "&*", "+@all", "-command")
	n := launch(t, "redis://near:pw@"+redis.Addr, oneWire)
	n.awaitLink()
	c, good := n.dial(), n.dial()
	good.Do("SET", "product:1", "v")
	n.warm(good, "GET", "product:1")
	want(t, c, "-ERR unknown command 'NOSUCH', with args beginning with: 'x' ", "NOSUCH", "x")
	before := n.hits()
	want(t, c, "v", "GET", "product:1")
	if n.hits() == before {
		t.Error("a refused command binds the client")
	}
	want(t, c, "OK", "SET", "product:h", "x")
	want(t, c, "1", "DEL", "product:h")
	want(t, c, "1", "HSET", "product:h", "f", "v")
	want(t, c, "[-1]", "HPTTL", "product:h", "FIELDS", "1", "f")
	before, pinned := n.hits(), n.bypassed(bypassPinned)
	want(t, c, "v", "GET", "product:1")
	if n.hits() != before || n.bypassed(bypassPinned) == pinned {
		t.Error("what may have set something does not bind the client")
	}
	want(t, good, "v", "GET", "product:1")
	c.Close()
	n.eventually("nothing is pinned", func() bool { return n.origin.Stats().Pinned == 0 })
}

// TestClusterWords: with a cluster as origin nearside is the only node that its clients
// see, and a master.
func TestClusterWords(t *testing.T) {
	anyServer(t, func(t *testing.T, name redistest.Name) {
		redis := redistest.StartNamed(t, name, "--cluster-enabled", "yes")
		n := launch(t, redis.URL(), func(c *Config) { oneWire(c); c.CacheDB = 0; c.Link = "none" })
		c := n.dial()
		for _, word := range []string{"READONLY", "READWRITE", "ASKING", "readonly"} {
			want(t, c, "OK", word)
			if got := c.Do(word, "x"); !strings.HasPrefix(got, "-ERR wrong number of arguments") {
				t.Errorf("%s x is answered %s", word, got)
			}
		}
		want(t, c, "OK", "MULTI")
		want(t, c, "QUEUED", "READONLY")
		want(t, c, "[OK]", "EXEC")
		if st := n.origin.Stats(); st.Pinned != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// TestMetWhileDecided: a request that was decided before the server process was met on
// whose connection it is to go is decided anew.
func TestMetWhileDecided(t *testing.T) {
	for _, unmeet := range []string{"unmet", "another"} {
		redis := startRenamed(t, redistest.Debian, "APPEND ", "MULTI append", "GET fetch")
		n := launch(t, redis.URL(), func(c *Config) { oneWire(c); c.Link = "none" })
		c, good := n.dial(), n.dial()
		for _, o := range []*redistest.Client{c, good} {
			o.Do("HELLO", "3")
			want(t, o, "OK", "SELECT", "7")
		}
		// From here on as if another process had been met, of which no connection is left.
		n.current().policy.Meet("another", nil)
		n.learning.asked.Store("another")
		n.learning.met.Store(unmeet == "another")
		want(t, c, "OK", "APPEND") // MULTI: with the table's rows it would go on the shared connection
		want(t, good, "x", "ECHO", "x")
		want(t, c, "QUEUED", "SET", "k", "v")
		want(t, good, "(nil)", "FETCH", "k")
		want(t, c, "[OK]", "EXEC")
		want(t, good, "v", "FETCH", "k")
	}
}

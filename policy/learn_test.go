package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// With whom a command may share an origin connection.
const (
	withAll  = "shared"  // known to leave its connection as it was, not to block, and not to have Redis close it
	byItself = "local"   // nearside answers it
	never    = "refused" // it is not sent
	pinning  = "pinned"  // on a connection of the session's own, by code of its own
	whileRun = "private" // on a connection of the session's own, which others may get afterwards
	forGood  = "foreign" // on one that nobody else gets
	binding  = "state"   // … and that the session's later commands use, too
)

// kinds states for each row of the table that is not withAll which kind it is, and
// why. Whoever adds a row must have asked.
var kinds = map[string]string{
	// They wait at Redis.
	"blmove": pinning, "blmpop": pinning, "blpop": pinning, "brpop": pinning, "brpoplpush": pinning, "bzmpop": pinning, "bzpopmax": pinning, "bzpopmin": pinning,
	"xread": pinning, "xreadgroup": pinning, // with BLOCK
	"wait": pinning,
	// They change what their connection is.
	"multi": pinning, "exec": pinning, "discard": pinning, "watch": pinning, "unwatch": pinning,
	"subscribe": pinning, "psubscribe": pinning, "ssubscribe": pinning, "unsubscribe": pinning, "punsubscribe": pinning, "sunsubscribe": pinning,
	"monitor": pinning, "client|tracking": pinning, "client|caching": pinning, "client|trackinginfo": pinning, "client|getredir": pinning,
	"auth": byItself, "hello": byItself, "select": byItself, "reset": byItself, "quit": byItself,
	"client|reply": byItself, "client|setname": byItself, "client|no-evict": binding,
	"asking": byItself, "readonly": byItself, "readwrite": byItself,
	"debug":        forGood, // DEBUG PROTOCOL, DEBUG SLEEP, DEBUG SEGFAULT …
	"sync":         never,
	"psync":        never,
	"replconf":     never,
	"script|debug": never,
	// They speak of clients, which are nearside's.
	"client": byItself, "client|getname": byItself, "client|help": byItself, "client|id": byItself, "client|info": byItself, "client|kill": byItself,
	"client|list": byItself, "client|pause": byItself, "client|unblock": byItself, "client|unpause": byItself,
	"ping": byItself, "info": byItself, "nearside": byItself,
	// They block their connection on some server, or have Redis close it.
	"flushall": whileRun, "flushdb": whileRun, "acl|deluser": whileRun, "acl|load": whileRun,
	"module|load": whileRun, "module|loadex": whileRun, "module|unload": whileRun,
	"cluster|addslots": whileRun, "cluster|addslotsrange": whileRun, "cluster|bumpepoch": whileRun, "cluster|delslots": whileRun, "cluster|delslotsrange": whileRun,
	"cluster|failover": whileRun, "cluster|flushslots": whileRun, "cluster|forget": whileRun, "cluster|meet": whileRun, "cluster|replicate": whileRun,
	"cluster|reset": whileRun, "cluster|saveconfig": whileRun, "cluster|set-config-epoch": whileRun, "cluster|setslot": whileRun,
	// They would change or end the server.
	"shutdown": never, "failover": never, "replicaof": never, "slaveof": never,
}

func kindOf(c *Command) string {
	switch {
	case c.route == RouteRefused:
		return never
	case c.state:
		return binding
	case c.foreign:
		return forGood
	case c.private, c.alone && c.quirk == quirkNone && c.Flags.Has(FlagWrite):
		return whileRun
	case c.route == RouteLocal:
		return byItself
	case c.route == RoutePin:
		return pinning
	}
	return withAll
}

// TestKinds goes over the whole table.
func TestKinds(t *testing.T) {
	shared := 0
	for _, name := range rowNames {
		c := rowOf(name)
		want := kinds[name]
		if want == "" {
			want = withAll
			shared++
		}
		if got := kindOf(c); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
		// What flags say must agree.
		odd := c.Flags&(FlagBlocking|FlagNoAuth|FlagModule) != 0 || c.Flags.Has(FlagPubSub|FlagNoScript)
		if odd && want == withAll {
			t.Errorf("%s is shared, and has the flags %s", name, c.Flags)
		}
	}
	for name := range kinds {
		if rowOf(name) == nil || rowOf(name).Name != name {
			t.Errorf("%s is no row", name)
		}
	}
	if shared < 250 {
		t.Errorf("only %d rows are shared", shared)
	}
}

// A form of a pinned command that is not pinned must not be shared either.
func TestOddFormsOfPinnedCommands(t *testing.T) {
	p := New(shop(t, 0, 1), Options{})
	for _, name := range rowNames {
		c := rowOf(name)
		if c.route != RoutePin {
			continue
		}
		for n := range 6 {
			args := bytesOf(strings.Split(name, "|")...)
			for range n {
				args = append(args, []byte("block"))
			}
			var d Decision
			p.Decide(&d, 0, args)
			if d.Route <= RouteCache && !d.Private && (c.quirk != quirkIfBlock || blocks(args)) {
				t.Errorf("%q is shared", args)
			}
		}
	}
	for line, private := range map[string]bool{
		"XREAD BLOCK 0 STREAMS product:1": true, "XREAD X STREAMS BLOCK 0 STREAMS k 0 0": true, "XREAD STREAMS block 0": false, "XREAD COUNT 1 STREAMS product:1 0": false,
	} {
		var d Decision
		p.Decide(&d, 0, split(line))
		if got := d.Private || d.Route == RoutePin; got != private {
			t.Errorf("%s: private %v", line, got)
		}
	}
}

// What COMMAND INFO says decides whether a command may be shared.
func TestLearnedKinds(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags string
		first int
		want  string
	}{
		{"hgetex", "write,fast", 1, withAll},
		{"hpttl", "readonly,fast", 1, withAll},
		{"msetex", "write,denyoom,movablekeys", 0, withAll},
		{"waitaof", "blocking", 0, forGood},
		{"bzpop", "write,blocking", 1, forGood},
		{"json.get", "readonly,module", 1, forGood},
		{"nokeys", "write,fast", 0, forGood},
		{"keyed", "fast", 1, forGood},
		{"newflag", "readonly,fast,hovering", 1, forGood},
		{"noscr", "readonly,noscript", 1, forGood},
		{"asks", "readonly,asking", 1, forGood},
		{"loads", "readonly,loading,stale", 1, forGood},
		{"readmaybe", "fast", 0, binding},
		{"setsomething", "loading,stale,fast", 0, binding},
		{"administer", "admin,loading,stale", 0, forGood},
		{"client|capa", "noscript,loading,stale", 0, binding},
		{"cluster|syncslots", "admin,stale", 0, forGood},
		{"script|show", "noscript", 0, forGood},
	} {
		p := New(shop(t, 0, 1), Options{})
		p.Learn(c.name, -1, strings.Split(c.flags, ","), c.first, c.first, min(c.first, 1))
		var d Decision
		p.Decide(&d, 0, bytesOf(append(strings.Split(c.name, "|"), "product:1")...))
		got := withAll
		switch {
		case d.MaySet:
			got = binding
		case d.Foreign:
			got = forGood
		case d.Private:
			got = whileRun
		}
		if got != c.want || d.Cmd == nil || d.Cmd.Name != c.name {
			t.Errorf("%s %s is %s, want %s: %+v", c.name, c.flags, got, c.want, d)
		}
	}
}

// What is not known is private, also where the table knows the container.
func TestStrange(t *testing.T) {
	p := New(shop(t, 0, 1), Options{})
	for _, line := range []string{"NOSUCH product:1", "CONFIG NOSUCH a", "CLIENT NOSUCH", "client|kill id 1", "GET|x k", "\u212aeys *"} {
		var d Decision
		p.Decide(&d, 0, split(line))
		if !d.Private || !d.Foreign || !d.MaySet {
			t.Errorf("%s: %+v", line, d)
		}
		name, ok := p.Ask(&d, split(line))
		if strings.Contains(strings.Fields(line)[0], "|") {
			if ok {
				t.Errorf("%s: asks for %q, which is a subcommand's name", line, name)
			}
			continue
		}
		if !ok {
			t.Errorf("%s: asks nothing", line)
			continue
		}
		p.LearnFrom("", Info{Asked: name})
		p.Decide(&d, 0, split(line))
		if d.Route != RouteRefused || !strings.HasPrefix(d.Err, "ERR unknown ") || d.Private {
			t.Errorf("%s, which the origin does not have: %+v", line, d)
		}
		p.Doubt()
		p.Decide(&d, 0, split(line))
		if !d.Private {
			t.Errorf("%s is still thought not to exist", line)
		}
	}
}

// rename-command: a name is what the origin says it is.
func TestRenamed(t *testing.T) {
	p := New(shop(t, 0, 1), Options{Deny: []string{"keys", "hush"}})
	p.Meet("one", []Info{
		{Asked: "get", Name: "set"},
		{Asked: "set", Name: "get"},
		{Asked: "strlen", Name: "shutdown"},
		{Asked: "echo", Name: "client"},
		{Asked: "append", Name: ""},
		{Asked: "incr", Name: "INCR"},
		{Asked: "type", Name: "keys"},
		{Asked: "lcs", Name: "brandnew", Flags: []string{"noscript"}},
	})
	for _, in := range []Info{
		{Asked: "fetch", Name: "get"}, {Asked: "begin", Name: "multi"}, {Asked: "stop", Name: "shutdown"}, {Asked: "conf", Name: "config", Container: true}, {Asked: "hush", Name: "del"},
	} {
		if !p.LearnFrom("one", in) {
			t.Fatal(in)
		}
	}
	for line, want := range map[string]string{
		"GET product:1 v": "pass db1 W", "SET product:1": "cache db1", "STRLEN x": "refused", "ECHO id": "local", "APPEND a b": "refused", "INCR product:1": "pass db1 W", "TYPE *": "refused",
		"FETCH product:1": "cache db1", "begin": "pin db0 tx", "Stop now": "refused", "conf get x": "pass db0", "CONF SET a b": "pass db0 ALL", "hush product:1": "refused", "LCS a b": "pass db0",
	} {
		var d Decision
		p.Decide(&d, 0, split(line))
		if got := spelt(&d); got != want {
			t.Errorf("%s: %s, want %s (%s)", line, got, want, d.Err)
		}
		if strings.HasPrefix(line, "LCS") != d.Private {
			t.Errorf("%s: private %v", line, d.Private)
		}
	}
	if p.LearnFrom("another", Info{Asked: "x", Name: "x"}) {
		t.Error("learned from a server that was not met")
	}
	// Another process: nothing of this is true any more.
	p.Meet("two", nil)
	for line, want := range map[string]string{"GET product:1": "cache db1", "APPEND product:1 b": "pass db1 W", "FETCH product:1": "pass db1 W UNNAMED fence-script"} {
		var d Decision
		p.Decide(&d, 0, split(line))
		if got := spelt(&d); got != want {
			t.Errorf("after another server was met, %s: %s, want %s", line, got, want)
		}
	}
}

// Learning is bounded, and never ends.
func TestLearnsForEver(t *testing.T) {
	p := New(shop(t, 0, 1), Options{})
	for i := range 3 * mostLearned {
		p.Learn(fmt.Sprintf("cmd%d", i), 2, []string{"readonly"}, 1, 1, 1)
		p.LearnFrom("", Info{Asked: fmt.Sprintf("none%d", i)})
		var d Decision
		p.Decide(&d, 0, bytesOf(fmt.Sprintf("CMD%d", i), "product:1"))
		if d.Cmd == nil || d.Private {
			t.Fatalf("the %dth is not learned", i)
		}
		p.Decide(&d, 0, bytesOf(fmt.Sprintf("NONE%d", i)))
		if d.Route != RouteRefused {
			t.Fatalf("the %dth is not known not to exist", i)
		}
	}
	if n := len(p.lessons.Load().learned); n > mostLearned {
		t.Errorf("%d commands are remembered", n)
	}
	if n := len(p.absent); n > mostAbsent {
		t.Errorf("%d names are remembered", n)
	}
}

func TestTableNames(t *testing.T) {
	names := TableNames()
	if slices.Contains(names, "nearside") || slices.Contains(names, "quit") || slices.Contains(names, "client|id") || !slices.Contains(names, "get") || len(names) < 230 {
		t.Error(names)
	}
}

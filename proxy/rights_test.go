package proxy

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
)

// asked are the commands that nearside answers or decides itself, each with the rule
// that takes the right away. state says that the answers may differ beside that.
var asked = []struct {
	rule  string
	args  []string
	state bool
}{
	{"ping", []string{"PING"}, false},
	{"ping", []string{"PING", "x"}, false},
	{"hello", []string{"HELLO"}, true},
	{"hello", []string{"HELLO", "9"}, false},
	{"select", []string{"SELECT", "0"}, false},
	{"select", []string{"SELECT", "1"}, false},
	{"select", []string{"SELECT", "5"}, false},
	{"select", []string{"SELECT", "99"}, false},
	{"select", []string{"SELECT", "abc"}, false},
	{"select", []string{"SELECT", "-1"}, false},
	{"info", []string{"INFO", "nearside"}, true},
	{"info", []string{"INFO"}, true},
	{"exec", []string{"EXEC"}, false},
	{"discard", []string{"DISCARD"}, false},
	{"unwatch", []string{"UNWATCH"}, false},
	{"multi", []string{"MULTI"}, false},
	{"asking", []string{"ASKING"}, false},
	{"readonly", []string{"READONLY"}, false},
	{"readwrite", []string{"READWRITE"}, false},
	{"discard", []string{"DISCARD"}, false},
	{"echo", []string{"ECHO", "x"}, false},
	{"ttl", []string{"TTL", "product:1"}, false},
	{"get", []string{"GET", "product:1"}, false},
	{"mget", []string{"MGET", "product:1"}, false},
	{"client|id", []string{"CLIENT", "ID"}, true},
	{"client|info", []string{"CLIENT", "INFO"}, true},
	{"client|list", []string{"CLIENT", "LIST"}, true},
	{"client|kill", []string{"CLIENT", "KILL", "ID", "1000000"}, false},
	{"client|getname", []string{"CLIENT", "GETNAME"}, false},
	{"client|setname", []string{"CLIENT", "SETNAME", "me"}, false},
	{"client|setname", []string{"CLIENT", "SETNAME", "not me"}, false},
	{"client|setinfo", []string{"CLIENT", "SETINFO", "lib-name", "x"}, false},
	{"client|no-evict", []string{"CLIENT", "NO-EVICT", "off"}, false},
	{"client|no-touch", []string{"CLIENT", "NO-TOUCH", "off"}, false},
	{"client|unblock", []string{"CLIENT", "UNBLOCK", "1000000"}, false},
	{"client|getredir", []string{"CLIENT", "GETREDIR"}, false},
	{"client|trackinginfo", []string{"CLIENT", "TRACKINGINFO"}, false},
	{"client|reply", []string{"CLIENT", "REPLY", "ON"}, false},
	{"client|help", []string{"CLIENT", "HELP"}, true},
	{"client|pause", []string{"CLIENT", "PAUSE", "0"}, false},
	{"client|unpause", []string{"CLIENT", "UNPAUSE"}, false},
	{"client", []string{"CLIENT", "ID"}, true},
	{"client", []string{"CLIENT", "UNPAUSE"}, false},
	{"auth", []string{"AUTH", "bob", "pw"}, false},
	{"reset", []string{"RESET"}, true},
	{"quit", []string{"QUIT"}, false},
}

// Every command that nearside answers itself stands in the table of rights, or needs none.
func TestEveryLocalCommandHasItsRight(t *testing.T) {
	none := map[string]bool{"auth": true, "quit": true, "reset": true, "client": true, "client|help": true, "nearside": true}
	text, err := os.ReadFile("../policy/table.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range regexp.MustCompile(`(?m)^([a-z|-]+) +-?\d+ \S+ +\S+ +(\S*\blocal\b\S*)$`).FindAllStringSubmatch(string(text), -1) {
		name := row[1]
		if _, ok := rights[name]; !ok && !none[name] {
			t.Errorf("%s is answered here without a right", name)
		}
		if none[name] {
			continue
		}
		tested := false
		for _, a := range asked {
			c := policy.Lookup([][]byte{[]byte(a.args[0]), []byte(a.args[min(1, len(a.args)-1)])})
			tested = tested || c != nil && c.Name == name
		}
		if !tested {
			t.Errorf("%s is not tested", name)
		}
	}
}

// What nearside answers or decides itself it refuses as Redis does, to users of Redis
// and to nearside's own.
func TestRightsOfLocalCommands(t *testing.T) {
	everyServer(t, func(t *testing.T, name redistest.Name) {
		direct, behind := redistest.StartNamed(t, name), redistest.StartNamed(t, name)
		n := start(t, behind, nil)
		for _, user := range []string{"bob", "default"} {
			for _, a := range asked {
				if user == "default" && a.rule == "get" { // of nearside's own only what passes through is noticed
					continue
				}
				if name == redistest.Redis6 && len(a.args) == 1 && a.rule == "hello" { // which has another arity there
					continue
				}
				for _, rule := range []string{"+@all", "-" + a.rule} {
					known := true
					for _, s := range []*redistest.Server{direct, behind} {
						s.Do("ACL", "DELUSER", "bob")
						s.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all")
						admin := redistest.Dial(t, s.Addr)
						known = known && admin.Do("ACL", "SETUSER", user, rule) == "OK"
						admin.Close()
					}
					n.users.doubt() // what it would find out within two seconds
					d, c := redistest.Dial(t, direct.Addr), n.dial()
					if user == "bob" {
						for _, x := range []*redistest.Client{d, c} {
							want(t, x, "OK", "AUTH", "bob", "pw")
						}
					}
					want, got := d.Do(a.args...), c.Do(a.args...)
					for _, x := range []*redistest.Client{d, c} {
						x.Close()
					}
					forbidden := isRefusal([]byte(want))
					switch {
					case isRefusal([]byte(got)) != forbidden, forbidden && got != want:
						t.Errorf("%s %s: %v answered %s, Redis %s", user, rule, a.args, got, want)
					case !forbidden && known && !a.state && got != want && !strings.Contains(want, "nknown"):
						t.Errorf("%s %s: %v answered %s, Redis %s", user, rule, a.args, got, want)
					}
					for _, s := range []*redistest.Server{direct, behind} {
						admin := redistest.Dial(t, s.Addr)
						if user == "default" {
							_ = admin.Do("ACL", "SETUSER", "default", "+@all")
						}
						admin.Close()
					}
				}
			}
		}
	}, redistest.Redis6, redistest.Valkey9)
}

// Of SELECT the database counts, as far as Redis has rights to it.
func TestRightsToDatabases(t *testing.T) {
	everyServer(t, func(t *testing.T, name redistest.Name) {
		users := map[string][]string{"one": {"-select", "+select|5"}, "none": {"-select"}, "all": {}}
		if name == redistest.Valkey9 {
			users["some"] = []string{"resetdbs", "db=0,1,5"}
			users["two"] = []string{"resetdbs", "db=0,1"}
		}
		direct, behind := redistest.StartNamed(t, name), redistest.StartNamed(t, name)
		n := start(t, behind, nil)
		behind.DoDB(5, "SET", "x", "secret")
		direct.DoDB(5, "SET", "x", "secret")
		for user, rules := range users {
			for _, s := range []*redistest.Server{direct, behind} {
				if got := s.Do(append([]string{"ACL", "SETUSER", user, "on", ">pw", "~*", "+@all"}, rules...)...); got != "OK" {
					t.Fatal(got)
				}
			}
			d, c := redistest.Dial(t, direct.Addr), n.dial()
			t.Cleanup(d.Close)
			want(t, d, "OK", "AUTH", user, "pw")
			want(t, c, "OK", "AUTH", user, "pw")
			for range 2 {
				for _, args := range [][]string{
					{"SELECT", "5"},
					{"GET", "x"},
					{"SELECT", "4"},
					{"GET", "x"},
					{"SELECT", "05"},
					{"SELECT", "16"},
					{"SELECT", ""},
					{"GET", "x"},
					{"SELECT", "0"},
					{"GET", "x"},
					{"MULTI"},
					{"SELECT", "5"},
					{"GET", "x"},
					{"EXEC"},
					{"GET", "x"},
					{"SELECT", "0"},
				} {
					if want, got := d.Do(args...), c.Do(args...); got != want {
						t.Errorf("%s: %v answered %s, Redis %s", user, args, got, want)
					}
				}
			}
		}
	}, redistest.Redis6, redistest.Valkey9)
}

// Nobody is answered GET from what MGET has cached, nor the reverse, without the right to it.
func TestReadsAreNotShared(t *testing.T) {
	everyServer(t, func(t *testing.T, name redistest.Name) {
		users := map[string][]string{
			"get":   {"+get", "-mget", "~*"},
			"mget":  {"-get", "+mget", "~*"},
			"both":  {"~*"},
			"keys":  {"~product:1", "~product:2"},
			"first": {"-mget", "+mget|product:1", "~*"},
		}
		if name != redistest.Redis6 {
			users["selectors"] = []string{"-get", "-mget", "(~product:1 +mget +get)", "(~product:2 +mget)", "(~product:3 +get)"}
		}
		direct, behind := redistest.StartNamed(t, name), redistest.StartNamed(t, name)
		n := start(t, behind, nil)
		requests := [][]string{
			{"GET", "product:1"},
			{"MGET", "product:1"},
			{"GET", "product:2"},
			{"MGET", "product:2"},
			{"GET", "product:3"},
			{"MGET", "product:3"},
			{"MGET", "product:1", "product:2"},
			{"MGET", "product:2", "product:1"},
			{"MGET", "product:3", "product:1"},
			{"GET", "product:1"},
			{"MGET", "product:1", "product:none"},
			{"GET", "product:none"},
		}
		for user, rules := range users {
			for _, s := range []*redistest.Server{direct, behind} {
				s.DoDB(0, "MSET", "product:1", "a", "product:2", "b", "product:3", "c")
				s.DoDB(1, "MSET", "product:1", "a", "product:2", "b", "product:3", "c")
				args := append([]string{"ACL", "SETUSER", user, "on", ">pw", "+@all"}, rules...)
				if got := s.Do(args...); got != "OK" {
					t.Fatalf("%v: %s", args, got)
				}
			}
			d, c := redistest.Dial(t, direct.Addr), n.as(user, "pw")
			t.Cleanup(d.Close)
			want(t, d, "OK", "AUTH", user, "pw")
			for range 3 {
				for _, args := range requests {
					if want, got := d.Do(args...), c.Do(args...); got != want {
						t.Errorf("%s: %v answered %s, Redis %s", user, args, got, want)
					}
					n.settleCache()
				}
			}
		}
		// Where both are permitted they still share.
		c := n.as("both", "pw")
		n.warm(c, "MGET", "product:1", "product:2")
		before := n.hits()
		want(t, c, "a", "GET", "product:1")
		if n.hits() != before+1 {
			t.Error("GET is not answered from what MGET has cached")
		}
	}, redistest.Redis6, redistest.Valkey9)
}

// The same holds for nearside's own user.
func TestOwnReadsAreNotShared(t *testing.T) {
	for _, missing := range []string{"get", "mget"} {
		redis := redistest.Start(t)
		redis.Do("ACL", "SETUSER", "svc", "on", ">svc", "~*", "&*", "+@all", "-"+missing)
		redis.DoDB(1, "SET", "product:1", "a")
		n := launch(t, "redis://svc:svc@"+redis.Addr, nil)
		n.awaitLink()
		c := n.dial()
		for range 3 {
			for _, name := range []string{"get", "mget"} {
				got := c.Do(name, "product:1")
				if refused := strings.HasPrefix(got, "-NOPERM"); refused != (name == missing) {
					t.Errorf("without %s: %s answered %s", missing, name, got)
				}
				n.settleCache()
			}
		}
	}
}

// NEARSIDE's commands need the right that policy/COMMANDS.md names.
func TestRightsOfNearside(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	for _, tt := range []struct {
		without string
		args    []string
	}{
		{"info", []string{"NEARSIDE", "STATS"}},
		{"info", []string{"NEARSIDE", "EXPLAIN", "product:1"}},
		{"info", []string{"NEARSIDE", "AUDIT"}},
		{"slowlog|get", []string{"NEARSIDE", "SLOWLOG", "GET"}},
		{"slowlog|len", []string{"NEARSIDE", "SLOWLOG", "LEN"}},
		{"slowlog|reset", []string{"NEARSIDE", "SLOWLOG", "RESET"}},
		{"flushall", []string{"NEARSIDE", "FLUSH"}},
		{"flushall", []string{"NEARSIDE", "AUDIT", "RESTORE", "product:"}},
	} {
		redis.Do("ACL", "DELUSER", "bob")
		redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all", "-"+tt.without)
		n.users.doubt()
		refused := "-NOPERM this user has no permissions to run the '" + tt.without + "' command"
		c := n.dial()
		want(t, c, "OK", "AUTH", "bob", "pw")
		want(t, c, refused, tt.args...)
		want(t, c, "OK", "MULTI")
		want(t, c, refused, tt.args...)
		want(t, c, "-EXECABORT Transaction discarded because of previous errors.", "EXEC")
		redis.Do("ACL", "SETUSER", "bob", "+@all")
		n.users.doubt()
		if got := c.Do(tt.args...); strings.HasPrefix(got, "-NOPERM") {
			t.Errorf("%v answered %s", tt.args, got)
		}
	}
	redis.Do("ACL", "SETUSER", "eve", "on", ">pw", "nocommands", "+auth")
	c := n.dial()
	want(t, c, "OK", "AUTH", "eve", "pw")
	if got := c.Do("NEARSIDE", "HELP"); !strings.HasPrefix(got, "[NEARSIDE <subcommand>") {
		t.Errorf("HELP answered %s", got)
	}
}

// A right that is taken away through nearside is gone for what comes next, and one
// that is taken away elsewhere within two seconds; so it is with one that is given.
func TestRightsOfLocalCommandsChange(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all")
	n := start(t, redis, nil)
	c := n.as("bob", "pw")
	const refused = "-NOPERM this user has no permissions to run the 'ping' command"
	for range 20 {
		c.Write(redistest.Command("PING") + redistest.Command("ACL", "SETUSER", "bob", "-ping") + redistest.Command("PING") +
			redistest.Command("ACL", "SETUSER", "bob", "+ping") + redistest.Command("PING"))
		for i, expected := range []string{"PONG", "OK", refused, "OK", "PONG"} {
			if got := c.Read(); got != expected {
				t.Fatalf("answer %d is %s, want %s", i, got, expected)
			}
		}
	}
	// Elsewhere, and asking does not cost a round trip each time.
	pings := redis.Calls("ping")
	for range 100 {
		want(t, c, "PONG", "PING")
	}
	if more := redis.Calls("ping") - pings; more > 60 { // the link's own among them
		t.Errorf("Redis was asked %d times", more)
	}
	redis.Do("ACL", "SETUSER", "bob", "-ping")
	n.eventually("the right is gone", func() bool { return c.Do("PING") == refused })
	redis.Do("ACL", "SETUSER", "bob", "+ping")
	want(t, c, "PONG", "PING")
}

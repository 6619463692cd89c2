package policy

import (
	"strings"
	"testing"
)

// Every family has commands, and those that matter are where one looks for them.
func TestFamilies(t *testing.T) {
	used := [Families]bool{Other: true}
	for _, name := range rowNames {
		c := Lookup(argsOf(name))
		if c == nil {
			t.Fatalf("%s is not in the table", name)
		}
		if c.Family == Other {
			t.Errorf("%s has no family", name)
		}
		used[c.Family] = true
	}
	for f, ok := range used {
		if !ok {
			t.Errorf("no command is of the family %v", Family(f))
		}
	}
	for name, family := range map[string]string{
		"get": "string", "hgetall": "hash", "zadd": "zset", "exec": "transaction", "evalsha": "scripting", "del": "keys",
		"client|list": "connection", "config|set": "server", "xadd": "stream", "subscribe": "pubsub", "geosearch": "geo",
	} {
		if got := FamilyOf(Lookup(argsOf(name))); got.String() != family {
			t.Errorf("%s is of %v, want %s", name, got, family)
		}
	}
	if FamilyOf(nil) != Other {
		t.Error("an unknown command has a family")
	}
}

// argsOf is a request of a command by its name in the table.
func argsOf(name string) (args [][]byte) {
	for word := range strings.SplitSeq(name, "|") {
		args = append(args, []byte(word))
	}
	return args
}

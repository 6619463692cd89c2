package policy

import (
	"slices"
	"strings"
	"testing"
)

// notAsRedisSays are the rows whose keys COMMAND calls written, or not, where we say otherwise.
var notAsRedisSays = map[string]string{
	"xreadgroup": "Redis calls the stream read, but its groups change",
}

func TestTableAgainstRedis(t *testing.T) {
	rows := map[string]*Command{}
	for _, c := range commands {
		rows[c.Name] = c
		for _, sub := range c.subs {
			rows[sub.Name] = sub
		}
	}
	if len(rows) != len(rowNames) {
		t.Errorf("%d commands from %d rows", len(rows), len(rowNames))
	}
	redis := startRedis(t)
	listed := map[string]bool{"nearside": true}
	for _, entry := range redis.do("COMMAND").([]any) {
		compareRow(t, rows, listed, entry.([]any))
	}
	if len(listed) < 360 {
		t.Errorf("the server lists only %d commands", len(listed))
	}
	for name := range rows {
		if !listed[name] {
			t.Errorf("%s: a row for a command that Redis does not have", name)
		}
	}
}

func compareRow(t *testing.T, rows map[string]*Command, listed map[string]bool, entry []any) {
	t.Helper()
	name := entry[0].(string)
	listed[name] = true
	for _, sub := range entry[9].([]any) {
		compareRow(t, rows, listed, sub.([]any))
	}
	c := rows[name]
	if c == nil {
		t.Errorf("%s: no row", name)
		return
	}
	if c.Arity != entry[1].(int) {
		t.Errorf("%s: arity %d, Redis says %d", name, c.Arity, entry[1])
	}
	var flags Flags
	for _, f := range entry[2].([]any) {
		flag := flagOf(f.(string))
		if flag == 0 {
			t.Errorf("%s: Redis has a flag unknown here: %s", name, f)
		}
		flags |= flag
	}
	if flags != c.Flags {
		t.Errorf("%s: flags %v, Redis says %v", name, c.Flags, flags)
	}
	if c.First != entry[3].(int) || c.Last != entry[4].(int) || c.Step != entry[5].(int) {
		t.Errorf("%s: keys %d %d %d, Redis says %v", name, c.First, c.Last, c.Step, entry[3:6])
	}
	if (entry[6] != nil) && len(entry[9].([]any)) != len(c.subs) {
		t.Errorf("%s: %d subcommands, Redis says %d", name, len(c.subs), len(entry[9].([]any)))
	}
}

// TestTableSense checks what the last column must not say.
func TestTableSense(t *testing.T) {
	for _, name := range rowNames {
		c := rowOf(name)
		if c == nil || c.Name != name {
			t.Fatalf("%s is not found by its name", name)
		}
		if c.Cache && !c.Flags.Has(FlagReadonly) {
			t.Errorf("%s is cached and not read-only", name)
		}
		if c.Cache && len(c.keys) != 1 {
			t.Errorf("%s is cached and its keys are not one range", name)
		}
		if c.Hash && !c.Cache {
			t.Errorf("%s: hash without cache", name)
		}
		writes := false
		for _, k := range c.keys {
			writes = writes || k.write
		}
		if c.Flags.Has(FlagReadonly) && (writes || c.writesAll) && name != "pfcount" { // it may keep the count in the key, which a GET shows
			t.Errorf("%s is read-only and writes", name)
		}
		if c.Flags.Has(FlagWrite) && !writes && !c.writesAll {
			t.Errorf("%s writes nothing that its row knows of", name)
		}
		if (c.Pin != PinNone) != (c.route == RoutePin) {
			t.Errorf("%s: pinned without a reason", name)
		}
		if c.Flags.Has(FlagBlocking) && c.Pin != PinBlock {
			t.Errorf("%s blocks and is not pinned", name)
		}
	}
}

func rowOf(name string) *Command {
	container, sub, _ := strings.Cut(name, "|")
	args := bytesOf(strings.ToUpper(container))
	if sub != "" {
		args = append(args, []byte(strings.ToUpper(sub)))
	}
	return Lookup(args)
}

func TestLookup(t *testing.T) {
	for line, want := range map[string]string{
		"get": "get", "GeT k": "get", "client": "client", "CLIENT ID": "client|id", "client nonsense": "client",
		"georadiusbymember_ro": "georadiusbymember_ro", "getx": "", "ge": "", "command": "command", "COMMAND count": "command|count",
		strings.Repeat("x", 100): "", "xgroup CREATE k g $": "xgroup|create", "get id": "get", "NEARSIDE stats": "nearside",
	} {
		got := ""
		if c := Lookup(split(line)); c != nil {
			got = c.Name
		}
		if got != want {
			t.Errorf("Lookup(%q) = %q, want %q", line, got, want)
		}
	}
	if Lookup(nil) != nil || Lookup([][]byte{nil}) != nil || Lookup(bytesOf("g\x05t", "k")) != nil {
		t.Error("something is found by no name")
	}
	if n := testing.AllocsPerRun(100, func() { Lookup(lookupArgs) }); n != 0 {
		t.Errorf("Lookup allocates %v times", n)
	}
}

var lookupArgs = bytesOf("CLIENT", "TRACKINGINFO")

func TestArity(t *testing.T) {
	for _, c := range []struct {
		name string
		n    int
		want bool
	}{{"GET", 2, true}, {"GET", 1, false}, {"GET", 3, false}, {"SET", 3, true}, {"SET", 9, true}, {"SET", 2, false}} {
		if got := rowOf(c.name).ArityOK(c.n); got != c.want {
			t.Errorf("%s with %d: %v", c.name, c.n, got)
		}
	}
	for _, want := range []string{"write,fast", "readonly,blocking,movablekeys"} {
		var f Flags
		for _, name := range strings.Split(want, ",") {
			f |= flagOf(name)
		}
		if f.String() != want {
			t.Errorf("%q is spelt %q", want, f)
		}
	}
	if i := slices.Index(flagNames[:], "module"); FlagModule != 1<<i {
		t.Error("flagNames are not in the order of the constants")
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, line := range []string{"GET k", "get k", "ZREVRANGEBYSCORE k", "CLIENT ID", "nosuchcommand"} {
		args := split(line)
		b.Run(strings.ReplaceAll(line, " ", "_"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Lookup(args)
			}
		})
	}
}

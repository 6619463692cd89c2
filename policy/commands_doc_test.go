package policy

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write COMMANDS.md")

const commandsHead = `# What nearside makes of each command

Every command and subcommand of Redis 7.0. Generated from policy/table.go and policy/differences.txt: ` + "`go test ./policy -run CommandsDoc -update`" + `.

- **cached**: where its key lies under a cache rule, the answer may come from the near cache; else it is passed.
- **passed**: sent to Redis as it is, its answer returned as it is. Shared connections; those that name a key under a lock rule have connections of their own.
- **pinned**: runs on a connection to Redis that belongs to this client for as long as needed.
- **local**: nearside answers it, in Redis's words.
- **split**: a session at database 0 may name keys of both databases; it then runs as one transaction over both.
- **joined**: for a session at database 0 it speaks of both databases as one.
- **refused**: an error says so; send it to Redis itself.

Of a session at database 0, other commands whose keys lie in both databases are answered ` + "`-CROSSDB …`" + `. What each write changes is forgotten by the near cache; "forgets
everything" stands where Redis cannot say what a command changes. Commands that this table does not have (modules, newer Redis) are passed, and every argument counts as a key that
they may write. Inside MULTI, from WATCH on and with CLIENT TRACKING on nothing is answered from the near cache.
`

// refusals says why a command is refused.
var refusals = map[string]string{
	"sync":         "nearside is no replica's master; replicate from Redis itself",
	"psync":        "nearside is no replica's master; replicate from Redis itself",
	"replconf":     "nearside is no replica's master; replicate from Redis itself",
	"replicaof":    "it would change the server that all applications share behind nearside's back",
	"slaveof":      "it would change the server that all applications share behind nearside's back",
	"failover":     "it would change the server that all applications share behind nearside's back",
	"shutdown":     "it would stop the server that all applications share",
	"script|debug": "the debugger would take over a connection that others share",
}

// pins says why a command has a connection of its own.
var pins = map[Pin]string{
	PinTx:       "the transaction and what it watches belong to one connection",
	PinBlock:    "it may wait at Redis; when the client goes away the wait ends there too",
	PinSub:      "Redis sends messages on it",
	PinMonitor:  "Redis sends every command on it",
	PinTracking: "Redis sends this client's invalidations on it",
}

// views says what is joined.
var views = map[string]string{
	"dbsize":    "the sum of both databases: unlike KEYS, SCAN and RANDOMKEY it counts keys that are not in view",
	"flushdb":   "there FLUSHDB of locks.db, then UNLINK of the cache rules' keys in cache.db, in batches: not atomic, and refused inside MULTI, unless `cache.exclusive`",
	"randomkey": "not atomic among many keys that are not in view",
	"scan":      "one database after the other",
}

// notes says what else there is to say.
var notes = map[string]string{
	"wait":  "from 7.2 on a message of nearside's own goes ahead (a user needs +publish &nearside:wait); inside MULTI it counts for the transaction's own connection",
	"debug": "what names a key goes where that lives",
}

// unexplained stands where a refused command has no reason in refusals, which the test reports.
const unexplained = "(no reason given)"

// describe says in words what nearside makes of a command.
func describe(c *Command) string {
	var says []string
	say := func(format string, args ...any) { says = append(says, fmt.Sprintf(format, args...)) }
	switch c.route {
	case RouteRefused:
		why := refusals[c.Name]
		if why == "" {
			return "**refused**: " + unexplained
		}
		return "**refused**: " + why
	case RouteLocal:
		switch c.Name {
		case "client":
			say("**local**; its subcommands speak of nearside's clients")
		case "info":
			say("passed, with a section on nearside added")
		case "auth", "hello":
			say("**local**; Redis verifies user and password")
		default:
			say("**local**")
		}
	case RoutePin:
		if c.quirk == quirkIfBlock {
			say("passed; with BLOCK **pinned**: %s", pins[c.Pin])
		} else {
			say("**pinned**: %s", pins[c.Pin])
		}
	case RouteView:
		say("**joined** at database 0, else passed")
		if why := views[c.Name]; why != "" {
			say("%s", why)
		}
	case RouteSplit:
		switch {
		case c.quirk == quirkMGet:
			say("**cached**, key by key; **split**")
		case c.Cache:
			say("**cached** with one key; **split**")
		default:
			say("passed; **split**")
		}
	default:
		switch {
		case c.Cache && c.quirk == quirkSort:
			say("**cached** without BY and GET")
		case c.Cache:
			say("**cached**")
		default:
			say("passed")
		}
	}
	if why := notes[c.Name]; why != "" {
		say("%s", why)
	}
	if c.Hash {
		say("from Redis 7.4 on passed, since fields of hashes may expire")
	}
	switch c.quirk {
	case quirkSet:
		say("with NX a lock may be acquired: hits wait until earlier changes are known")
	case quirkSetNX:
		say("a lock may be acquired: hits wait until earlier changes are known")
	case quirkEval, quirkEvalSHA:
		say("hits wait afterwards until its changes are known, unless the script is known to write its KEYS only")
	case quirkFCall:
		say("hits wait afterwards until its changes are known")
	case quirkSort:
		if c.Name == "sort" {
			say("BY and GET patterns that reach into the other database are answered CROSSDB")
		}
	case quirkMove, quirkCopy:
		say("to database 0 only of keys that live there")
	}
	switch {
	case c.route == RouteRefused:
	case c.writesAll:
		say("forgets everything")
	case c.Flags.Has(FlagWrite) && len(c.keys) > 0:
		say("a write")
	case c.Name == "pfcount":
		say("counts as a write, since it may keep the count in the key")
	}
	return strings.Join(says, "; ")
}

// commandsDoc is COMMANDS.md.
func commandsDoc(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(commandsHead)
	section := ""
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if f[0] == "#" {
			_, title, _ := strings.Cut(strings.TrimSpace(line), ": ")
			section, _, _ = strings.Cut(title, " (")
			section, _, _ = strings.Cut(section, ";")
			fmt.Fprintf(&b, "\n## %s%s\n\n| command | what nearside makes of it |\n| --- | --- |\n", strings.ToUpper(section[:1]), section[1:])
			continue
		}
		fmt.Fprintf(&b, "| %s | %s |\n", heading(f[0]), describe(rowOf(f[0])))
	}
	b.WriteString("\n## What differs from Redis\n\nBesides the refusals and CROSSDB above, this is all that `TestDifferential` knows of.\n\n| command | what and why |\n| --- | --- |\n")
	text, err := os.ReadFile("differences.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(strings.TrimSpace(line), "\t"); len(f) == 4 && !strings.HasPrefix(f[0], "#") {
			fmt.Fprintf(&b, "| %s | %s |\n", heading(f[0]), f[3])
		}
	}
	return b.String()
}

func heading(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "|", " ")) }

// TestCommandsDoc keeps COMMANDS.md as the table is.
func TestCommandsDoc(t *testing.T) {
	want := commandsDoc(t)
	if strings.Contains(want, unexplained) {
		t.Error("a command is not explained")
	}
	if *update {
		if err := os.WriteFile("COMMANDS.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile("COMMANDS.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Error("COMMANDS.md is not what the table says; run go test ./policy -run CommandsDoc -update")
	}
}

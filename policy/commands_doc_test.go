package policy

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write COMMANDS.md")

const commandsHead = `# What nearside does with each command

Every command and subcommand of Redis 7.0. Generated from policy/table.go and policy/differences.txt: ` + "`go test ./policy -run CommandsDoc -update`" + `.

- **cached**: where its key lies under a cache rule, the answer may come from the near cache; else it is forwarded.
- **forwarded**: sent to Redis as it is, its answer returned as it is. Connections are shared; commands that name a key under a lock rule have connections of their own.
- **pinned**: runs on a connection to Redis that belongs to this client for as long as needed.
- **private**: forwarded, on a connection to Redis that no other client uses meanwhile.
- **local**: nearside answers it, in Redis's words.
- **split**: a session at database 0 may name keys of both databases; nearside then scatters them over both inside one transaction and gathers the answers.
- **joined**: for a session at database 0 it covers both databases as one; nearside gathers the answers.
- **refused**: an error says so; send it to Redis itself.

In a session at database 0, other commands whose keys lie in both databases are answered ` + "`-CROSSDB …`" + `. The near cache forgets what each write changes; "forgets
everything" stands where Redis cannot say what a command changes. A [barrier](../proxy/CONSISTENCY.md#barriers) makes later hits wait until earlier changes are known. Inside MULTI, from WATCH on and with CLIENT TRACKING on nothing is answered from the near cache.

## Commands that this table does not have

Of these (modules, newer servers) nearside asks Redis by COMMAND INFO, once for each process of Redis that it meets:

- A command without a module's flag that reads or writes, has keys, and has no flags but write, readonly, denyoom, fast and movablekeys is **forwarded** on shared connections.
- What Redis does not have is answered with Redis's own error and never sent, and so are names of commands and subcommands that contain a NUL.
- All else is **private**: it runs on a connection to Redis of the client's own, which is kept until the client leaves or has not needed it for a minute, and then closed, never given to another client.
  Such connections count in ` + "`max_pinned`" + `.
- What may set something on its connection that later commands depend on, if Redis did not refuse it, keeps the client's later commands there too, past the near cache, until RESET: subcommands of CLIENT that this
  table does not have, commands that are neither a module's nor an administrator's and have no keys, and everything unknown where nearside's user may not run COMMAND.

Where it is not known which arguments are keys, every argument counts as a key that the command may write. Commands renamed by rename-command are what Redis says they are, whatever they are called, and a name of this table
that Redis gives to another command is that one.

A **split** or **joined** command is one transaction. Where Redis refuses the user MULTI, SELECT or EXEC, or before 7.2 refuses all transactions because its memory is full, it runs as one
command per database, one after the other, and is not atomic: another client may see it half done, and an error in the second database leaves what was done in the first. MSET is
refused instead.

## Rights

What nearside answers itself needs the user's right to that command at Redis, and is refused in Redis's words without it; so do the answers from the near cache. NEARSIDE's
own commands need a right at Redis that is near to what they do:

| command | right |
| --- | --- |
| NEARSIDE HELP | none |
| NEARSIDE STATS, NEARSIDE EXPLAIN, NEARSIDE AUDIT | INFO; the part of STATS that names key prefixes: SCAN |
| NEARSIDE SLOWLOG GET, LEN, RESET | SLOWLOG GET, LEN, RESET |
| NEARSIDE FLUSH, NEARSIDE AUDIT RESTORE | FLUSHALL |
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

// privates says why a row is private, foreign or state.
var privates = map[string]string{
	"debug":           "some of it changes its connection",
	"flushall":        "from Redis 8 on it blocks its connection",
	"acl|deluser":     "Redis closes the user's connections",
	"acl|load":        "Redis closes the connections of users that are gone",
	"module|load":     "it runs a module's code",
	"module|loadex":   "it runs a module's code",
	"module|unload":   "it runs a module's code",
	"client|no-evict": "Redis keeps it for that connection; the client's later commands use it too",
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
		case "client|no-evict":
			say("**private**: %s", privates[c.Name])
		case "readonly", "readwrite", "asking":
			say("**local**: nearside is the only node that the client sees, and a master; Redis is asked once what it answers")
		case "info":
			say("forwarded, with a section on nearside added")
		case "auth", "hello":
			say("**local**; Redis verifies user and password")
		default:
			say("**local**")
		}
	case RoutePin:
		if c.quirk == quirkIfBlock {
			say("forwarded; with BLOCK **pinned**: %s", pins[c.Pin])
		} else {
			say("**pinned**: %s", pins[c.Pin])
		}
	case RouteView:
		if c.private {
			say("**joined** at database 0, else **private**: %s", privates["flushall"])
		} else {
			say("**joined** at database 0, else forwarded")
		}
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
			say("forwarded; **split**")
		}
	default:
		switch {
		case c.Cache && c.quirk == quirkSort:
			say("**cached** without BY and GET")
		case c.Cache:
			say("**cached**")
		case c.private:
			why := privates[c.Name]
			if strings.HasPrefix(c.Name, "cluster|") {
				why = "it changes the cluster, and may wait for others"
			}
			if why == "" {
				why = unexplained
			}
			say("**private**: %s", why)
		default:
			say("forwarded")
		}
	}
	if why := notes[c.Name]; why != "" {
		say("%s", why)
	}
	if c.Hash {
		say("from Redis 7.4 on forwarded, since fields of hashes may expire")
	}
	switch c.quirk {
	case quirkSet:
		say("with NX it may acquire a lock and raises a barrier")
	case quirkSetNX:
		say("it may acquire a lock and raises a barrier")
	case quirkEval, quirkEvalSHA:
		say("it raises a barrier, unless the script is known to write its KEYS only")
	case quirkFCall:
		say("it raises a barrier")
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
			fmt.Fprintf(&b, "\n## %s%s\n\n| command | what nearside does with it |\n| --- | --- |\n", strings.ToUpper(section[:1]), section[1:])
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

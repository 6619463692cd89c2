package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// Pin says why a command needs a connection of its own.
type Pin uint8

// The reasons for pinning.
const (
	PinNone     Pin = iota
	PinTx           // WATCH, UNWATCH, MULTI, EXEC, DISCARD
	PinBlock        // BLPOP …, XREAD BLOCK, WAIT: it may wait at the origin
	PinSub          // SUBSCRIBE … and its counterparts
	PinMonitor      // MONITOR
	PinTracking     // CLIENT TRACKING, CACHING, GETREDIR, TRACKINGINFO
)

// Flags are the flags that COMMAND states for a command.
type Flags uint32

// The flags of Redis 7.0, and FlagModule, which only learned commands have.
const (
	FlagWrite Flags = 1 << iota
	FlagReadonly
	FlagDenyOOM
	FlagAdmin
	FlagPubSub
	FlagNoScript
	FlagBlocking
	FlagLoading
	FlagStale
	FlagSkipMonitor
	FlagSkipSlowlog
	FlagAsking
	FlagFast
	FlagNoAuth
	FlagMovableKeys
	FlagNoMandatoryKeys
	FlagAllowBusy
	FlagNoAsyncLoading
	FlagNoMulti
	FlagModule
)

// flagNames are the names COMMAND uses, in the order of the constants.
var flagNames = [...]string{
	"write", "readonly", "denyoom", "admin", "pubsub", "noscript", "blocking", "loading", "stale", "skip_monitor",
	"skip_slowlog", "asking", "fast", "no_auth", "movablekeys", "no_mandatory_keys", "allow_busy", "no_async_loading",
	"no_multi", "module",
}

// Has reports whether all flags of x are set.
func (f Flags) Has(x Flags) bool { return f&x == x }

// String spells the flags as COMMAND does, joined by commas.
func (f Flags) String() string {
	var names []string
	for i, name := range flagNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// flagOf returns the flag of that name; 0 if there is none.
func flagOf(name string) Flags {
	for i, known := range flagNames {
		if name == known {
			return 1 << i
		}
	}
	return 0
}

// Command is what is known of one command (a subcommand is a command of its own, "client|id").
// It is shared and must not be changed.
type Command struct {
	Name   string // lower case, "container|sub" for subcommands
	Family Family // what it is about
	Arity  int    // as Redis states it: negative means "at least"
	Flags  Flags
	Pin    Pin  // why it needs a connection of its own; XREAD and XREADGROUP only with BLOCK, so see Decision.Route
	Cache  bool // a read whose answer depends on its arguments and one stored value (MGET: one each)
	Hash   bool // its answer may change when a field of a hash expires by itself

	// Key positions as COMMAND states them: of the first key, of the last (negative: counted from the end)
	// and the step between them. All 0 if it names no keys there; FlagMovableKeys says that there may be more.
	First, Last, Step int

	route     Route // RoutePass unless its row says otherwise
	quirk     quirk
	writesAll bool // WritesAll
	private   bool // Decision.Private
	foreign   bool // Decision.Foreign
	state     bool // Decision.MaySet
	container bool // has subcommands, of which the table may know none
	alone     bool // Decision.Alone
	release   bool // as a write of a lock's key it never acquires the lock
	opaque    bool // learned, and what it may change cannot be known: treated as an unknown command
	keys      []keySpec
	sourceAt  int    // quirkSource: where the script's source stands
	refusal   string // RouteRefused: Decision.Err
	denial    string // Decision.Err if the configuration denies it
	subs      index  // of a container
}

// quirk names what decide.go has code of its own for.
type quirk uint8

const (
	quirkNone    quirk = iota
	quirkIfBlock       // pinned only with BLOCK
	quirkSet           // NX acquires
	quirkSetNX         // acquires
	quirkCopy          // DB n
	quirkMove          // to database n
	quirkSort          // BY, GET
	quirkMGet          // cached key by key
	quirkDebug         // POPULATE makes keys
	quirkEval          // a script given by source
	quirkEvalSHA       // a script given by its SHA1
	quirkFCall         // a function: never known
	quirkSource        // carries a script's source without running it as a writer
)

// maxName is longer than every name in the table, MaxName longer than those that
// the origin is asked about.
const (
	maxName = 32
	MaxName = 64
)

// index finds commands by their lower-case names.
type index map[string]*Command

// find ignores case and does not allocate.
func (x index) find(name []byte) *Command {
	var buf [maxName]byte
	if len(name) > maxName {
		return nil
	}
	for i, b := range name {
		if 'A' <= b && b <= 'Z' {
			b |= 0x20
		}
		buf[i] = b
	}
	return x[string(buf[:len(name)])]
}

// commands is the table, read once.
var commands, rowNames = parseTable(table)

// Lookup finds the command that a request names, ignoring case. Subcommands
// are resolved; an unknown one gives its container. nil if the table does not
// know the command. It does not allocate.
func Lookup(args [][]byte) *Command {
	if len(args) == 0 {
		return nil
	}
	c := commands.find(args[0])
	if c != nil && c.subs != nil && len(args) > 1 {
		if sub := c.subs.find(args[1]); sub != nil {
			return sub
		}
	}
	return c
}

// ArityOK reports whether a request of n arguments, the name included, has as many as Redis demands.
func (c *Command) ArityOK(n int) bool {
	if c.Arity < 0 {
		return n >= -c.Arity
	}
	return n == c.Arity
}

// parseTable reads the table. A mistake in it panics: no test survives that.
func parseTable(text string) (index, []string) {
	all, names := index{}, []string{}
	family := Other
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if f[0] == "#" {
			family = familyOf(strings.TrimSuffix(f[1], ":"))
			continue
		}
		if len(f) != 5 {
			panic("policy: a row needs five columns: " + line)
		}
		c := &Command{Name: f[0], Family: family, Arity: number(f[1])}
		for _, name := range words(f[2]) {
			flag := flagOf(name)
			if flag == 0 {
				panic("policy: unknown flag: " + line)
			}
			c.Flags |= flag
		}
		for _, spec := range words(f[3]) {
			c.keys = append(c.keys, parseKeySpec(spec))
		}
		c.First, c.Last, c.Step = positions(c.keys)
		for _, word := range words(f[4]) {
			c.mark(word)
		}
		shown := strings.ToUpper(strings.ReplaceAll(c.Name, "|", " "))
		c.refusal = "ERR nearside: " + shown + " is refused here; send it to Redis itself"
		c.denial = denial(c.Name)

		home, name := all, c.Name
		if container, sub, ok := strings.Cut(c.Name, "|"); ok {
			parent := all[container]
			if parent == nil {
				panic("policy: a subcommand stands before its container: " + line)
			}
			if parent.subs == nil {
				parent.subs, parent.container = index{}, true
			}
			home, name = parent.subs, sub
		}
		if home[name] != nil || len(name) > maxName {
			panic("policy: doubled or too long: " + line)
		}
		home[name] = c
		names = append(names, c.Name)
	}
	return all, names
}

// mark sets what one word of the last column means.
func (c *Command) mark(word string) {
	name, arg, _ := strings.Cut(word, ":")
	switch name {
	case "local":
		c.route = RouteLocal
	case "view":
		c.route = RouteView
	case "split":
		c.route = RouteSplit
	case "refused":
		c.route = RouteRefused
	case "pin":
		c.route = RoutePin
		c.Pin = map[string]Pin{"tx": PinTx, "block": PinBlock, "sub": PinSub, "monitor": PinMonitor, "tracking": PinTracking}[arg]
		if c.Pin == PinNone {
			panic("policy: unknown reason for pinning: " + word)
		}
	case "cache":
		c.Cache = true
	case "hash":
		c.Hash = true
	case "all":
		c.writesAll = true
	case "private":
		c.private = true
	case "foreign":
		c.private, c.foreign = true, true
	case "state":
		c.private, c.foreign, c.state = true, true, true
	case "release":
		c.release = true
	case "alone":
		c.alone = true
	case "source":
		c.quirk, c.sourceAt = quirkSource, number(arg)
	default:
		c.quirk = map[string]quirk{
			"if-block": quirkIfBlock, "set": quirkSet, "setnx": quirkSetNX, "copy": quirkCopy, "move": quirkMove, "sort": quirkSort,
			"mget": quirkMGet, "debug": quirkDebug, "eval": quirkEval, "evalsha": quirkEvalSHA, "fcall": quirkFCall,
		}[name]
		if c.quirk == quirkNone {
			panic("policy: unknown word: " + word)
		}
	}
}

// denial is the answer to a command that the configuration denies.
func denial(name string) string {
	return fmt.Sprintf("NOPERM nearside: '%s' is denied by the configuration", name)
}

func words(column string) []string {
	if column == "-" {
		return nil
	}
	return strings.Split(column, ",")
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic("policy: not a number: " + s)
	}
	return n
}

package policy

import (
	"strconv"
	"strings"
)

// Route is the way one command takes.
type Route uint8

const (
	// RoutePass: stateless; it goes to a shared connection of Decision.DB
	// (the locks' own connections if Decision.Lock).
	RoutePass Route = iota
	// RouteCache: a read whose answer may come from the near cache and is kept
	// there. All keys lie in the cache database under cache rules that keep it.
	RouteCache
	// RouteLocal: the session answers it (PING, HELLO, SELECT, CLIENT …, NEARSIDE …).
	RouteLocal
	// RoutePin: it needs an origin connection that the session owns for a
	// while; Command.Pin says why.
	RoutePin
	// RouteSplit: its keys lie in both databases and it can be taken apart
	// (MGET, EXISTS, DEL, UNLINK, TOUCH, MSET).
	RouteSplit
	// RouteView: it speaks of the whole keyspace of database 0, which is joined
	// of two databases: KEYS, SCAN, RANDOMKEY, DBSIZE, FLUSHDB.
	RouteView
	// RouteRefused: Decision.Err is the answer.
	RouteRefused
)

// Effect says what a command may change.
type Effect uint8

const (
	// WritesKeys: the keys with Key.Write set.
	WritesKeys Effect = 1 << iota
	// WritesAll: more than it names, at worst everything (FLUSHALL, SWAPDB, FUNCTION …).
	WritesAll
	// WritesUnnamed: it may write keys that it does not name, but Redis reports
	// each of them (scripts not known to keep to their KEYS, unknown commands).
	WritesUnnamed
)

// Fence says why hits must wait for a round trip on the link after the reply.
type Fence uint8

const (
	// FenceLock: the command may acquire a lock (SET … NX, SETNX under a lock rule, …).
	FenceLock Fence = 1 << iota
	// FenceScript: a script that is not known to keep to its KEYS, or an unknown command.
	FenceScript
)

// Key is one key of a command.
type Key struct {
	Pos   int   // index in args
	DB    int   // the Redis database it lives in
	Rule  *Rule // the rule it lies under in that database, or nil
	Write bool  // the command may change it
}

// Decision is what policy decides for one command.
type Decision struct {
	Cmd    *Command // nil: not in the table and not learned
	Route  Route
	DB     int    // the Redis database it goes to; meaningless for RouteSplit, RouteView, RouteLocal
	Lock   bool   // a key lies under a lock rule: use the locks' own connections
	Keys   []Key  // reused between calls
	Effect Effect // what it may change
	Fence  Fence
	Alone  bool   // with RoutePass: nobody else's command may be on its connection while it runs
	Err    string // with RouteRefused: the error line without '-' and CRLF
	// AskForm names a command in a form that the table does not know, of which the server has not been asked
	// (LearnForm). Asking and deciding again gives a better decision; this one is safe.
	AskForm string

	// With whom it may share an origin connection: see learn.go.
	Private bool // with nobody: it needs one that the session owns while it runs …
	Foreign bool // … and that no other session may get afterwards
	MaySet  bool // … nor, if Redis accepts it, leave: the session's later commands depend on it
	strange strange
	lessons *lessons // that it was decided by
}

// Decide fills d with what is to happen to the request args of a session at
// database sessionDB. It reuses d.Keys and keeps no reference to args.
func (p *Policy) Decide(d *Decision, sessionDB int, args [][]byte) {
	p.decide(d, sessionDB, args)
	if c := d.Cmd; d.strange != notStrange {
		d.Private, d.Foreign, d.MaySet = true, true, true
	} else if c != nil && (c.private || c.route == RoutePin && d.Route == RoutePass) {
		// A command that can be pinned, in a form that is not: Redis refuses it, but newer servers may not.
		d.Private = c.private || c.quirk != quirkIfBlock || blocks(args)
		d.Foreign = c.foreign
		d.MaySet = c.state || !c.private && d.Private
	}
}

func (p *Policy) decide(d *Decision, sessionDB int, args [][]byte) {
	*d = Decision{Keys: d.Keys[:0], DB: p.rules.home(sessionDB)}
	if len(args) == 0 {
		return
	}
	var c *Command
	c, d.strange, d.lessons = p.lookup(args)
	d.Cmd = c
	if len(p.deny) != 0 && p.denied(d, args) {
		return
	}
	if d.strange != notStrange && p.nobody(d, args) {
		return
	}
	switch {
	case c == nil:
		p.decideUnknown(d, sessionDB, args, 1)
		return
	case c.route == RouteRefused:
		d.refuse(c.refusal)
		if !c.ArityOK(len(args)) {
			d.Err = "ERR wrong number of arguments for '" + c.Name + "' command"
		}
		return
	case c.route == RouteLocal:
		d.Route = RouteLocal
		return
	case !c.ArityOK(len(args)):
		p.decideOdd(d, sessionDB, args)
		return
	case c.container && len(args) > 1: // a subcommand nobody knows
		p.decideUnknown(d, sessionDB, args, 2)
		return
	case c.learned() && p.decideForm(d, sessionDB, args):
		return
	case c.opaque, c.learned() && c.Flags.Has(FlagMovableKeys):
		p.decideOdd(d, sessionDB, args)
		return
	}

	d.Alone = c.alone || c.quirk == quirkEval || c.quirk == quirkEvalSHA // unless it is known to end
	var ok bool
	if d.Keys, ok = AppendKeys(d.Keys, c, args); !ok {
		p.decideOdd(d, sessionDB, args)
		return
	}
	several := p.locate(d, sessionDB, args)
	p.route(d, sessionDB, args, several)
	if d.Route == RouteRefused {
		return
	}
	if c.writesAll {
		d.Effect |= WritesAll
	}
	d.effects(c)
	p.quirks(d, args)
}

// locate fills in the keys' databases and rules, and reports whether they live in more than one database.
func (p *Policy) locate(d *Decision, sessionDB int, args [][]byte) (several bool) {
	for i := range d.Keys {
		k := &d.Keys[i]
		if d.Cmd.quirk == quirkCopy && i == 1 {
			if n, ok := copyDB(args); ok {
				// The copy goes to another database whatever lives there; a session there sees it so.
				k.DB, k.Rule = p.rules.place(args[k.Pos], n)
				d.Lock = d.Lock || k.Rule != nil && k.Rule.Kind == LockRule
				continue
			}
		}
		k.DB, k.Rule = p.rules.place(args[k.Pos], sessionDB)
		d.Lock = d.Lock || k.Rule != nil && k.Rule.Kind == LockRule
		if i == 0 {
			d.DB = k.DB
		}
		several = several || k.DB != d.DB
	}
	return several
}

// route sets d.Route.
func (p *Policy) route(d *Decision, sessionDB int, args [][]byte, several bool) {
	c := d.Cmd
	switch {
	case c.Pin == PinTx:
		d.Route = RoutePin // WATCH may watch keys of both databases
	case several && c.route == RouteSplit:
		d.Route = RouteSplit
	case several:
		d.refuse(crossed(d.Keys, args))
	case c.route == RoutePin && (c.quirk != quirkIfBlock || blocks(args)):
		d.Route = RoutePin
	case c.route == RouteView && sessionDB == 0 && p.rules.locksDB != p.rules.cacheDB:
		d.Route = RouteView
	case c.Cache && p.cacheable(d, args):
		d.Route = RouteCache
	}
	if sessionDB == 0 && c.quirk == quirkSort {
		p.checkPatterns(d, args)
	}
	if sessionDB == 0 && c.quirk == quirkDebug {
		p.placePopulate(d, args)
	}
	if c.quirk == quirkCopy || c.quirk == quirkMove {
		p.checkTarget(d, args)
	}
}

// cacheable reports whether every key lies under a cache rule that keeps this read.
func (p *Policy) cacheable(d *Decision, args [][]byte) bool {
	c := d.Cmd
	if c.Hash && p.hashTTL.Load() || len(d.Keys) != 1 && c.quirk != quirkMGet {
		return false
	}
	if c.quirk == quirkSort && readsPatterns(args) {
		return false
	}
	for i := range d.Keys {
		if rule := d.Keys[i].Rule; rule == nil || rule.Kind != CacheRule || !rule.keeps(c) {
			return false
		}
	}
	return true
}

// effects sets what writing the keys implies.
func (d *Decision) effects(c *Command) {
	for i := range d.Keys {
		k := &d.Keys[i]
		if !k.Write {
			continue
		}
		d.Effect |= WritesKeys
		if k.Rule != nil && k.Rule.Kind == LockRule && !c.release {
			d.Fence |= FenceLock
		}
	}
}

// quirks adds what the arguments of some commands imply.
func (p *Policy) quirks(d *Decision, args [][]byte) {
	var script verdict
	switch d.Cmd.quirk {
	case quirkSet:
		for _, arg := range args[3:] {
			if Is(arg, "nx") {
				d.Fence |= FenceLock // a lock, by rule or not
			}
		}
		return
	case quirkSetNX:
		d.Fence |= FenceLock
		return
	case quirkCopy:
		if len(args) > 3 && hasDB(args) {
			d.Effect |= WritesAll
		}
		return
	case quirkSource:
		p.scripts.source(args[d.Cmd.sourceAt]) // EVALSHA may name it later
		return
	case quirkEval:
		script = p.scripts.source(args[1])
	case quirkEvalSHA:
		script = p.scripts.sha(args[1])
	case quirkFCall:
	default:
		return
	}
	if script.quick {
		d.Alone = false
	}
	if !script.keeps {
		d.Effect |= WritesUnnamed
		d.Fence |= FenceScript
	}
	if script.releases {
		d.Fence &^= FenceLock
	}
}

// decideUnknown treats every argument as a possible key. The one at first chooses the database.
func (p *Policy) decideUnknown(d *Decision, sessionDB int, args [][]byte, first int) {
	if len(args) > first {
		d.DB = p.rules.DBOf(args[first], sessionDB)
	}
	for i := 1; i < len(args); i++ {
		db, rule := p.rules.place(args[i], sessionDB)
		if db != d.DB {
			rule = nil // it runs in d.DB: should this be a key, then one of that database
		}
		if rule != nil && rule.Kind == LockRule {
			d.Lock = true
			d.Fence |= FenceLock
		}
		d.Keys = append(d.Keys, Key{Pos: i, DB: d.DB, Rule: rule, Write: true})
	}
	d.Effect |= WritesKeys | WritesUnnamed
	d.Fence |= FenceScript
}

// refuse makes err the answer, and leaves no effect behind.
func (d *Decision) refuse(err string) {
	d.Route, d.Err, d.Effect, d.Fence = RouteRefused, err, 0, 0
}

// denied applies Options.Deny.
func (p *Policy) denied(d *Decision, args [][]byte) bool {
	said := Word(args[0]) // where it has been renamed both names count
	name := said
	if d.Cmd != nil {
		name = d.Cmd.Name
	}
	container, sub, _ := strings.Cut(name, "|")
	if sub == "" && len(args) > 1 && (d.Cmd == nil || d.Cmd.container) {
		sub = Word(args[1]) // one that neither the table nor the origin has told of
	}
	switch {
	case p.deny[name]:
		if d.Cmd != nil {
			d.refuse(d.Cmd.denial)
			return true
		}
	case p.deny[container]:
		name = container
	case p.deny[said]:
		name = said
	case sub != "" && p.deny[container+"|"+sub]:
		name = container + "|" + sub
	case sub != "" && p.deny[said+"|"+sub]:
		name = said + "|" + sub
	default:
		return false
	}
	d.refuse(denial(printable(name)))
	return true
}

// printable makes a client's bytes fit for an error line.
func printable(s string) string {
	const most = 64
	if len(s) > most {
		s = s[:most] + "..."
	}
	quoted := strconv.QuoteToASCII(s)
	return quoted[1 : len(quoted)-1]
}

// readsPatterns reports whether a SORT reads keys by pattern.
func readsPatterns(args [][]byte) bool {
	for i := 2; i < len(args); i++ {
		if Is(args[i], "by") || Is(args[i], "get") {
			return true
		}
	}
	return false
}

// hasDB reports whether a COPY has the option DB.
func hasDB(args [][]byte) bool {
	for _, arg := range args[3:] {
		if Is(arg, "db") {
			return true
		}
	}
	return false
}

// copyDB returns the number after COPY's option DB; the last one counts.
func copyDB(args [][]byte) (db int, ok bool) {
	for i := 3; i+1 < len(args); i++ {
		if Is(args[i], "db") {
			i++
			db, ok = count(args[i])
		}
	}
	return db, ok
}

package policy

import (
	"bytes"
	"maps"
	"slices"
	"strings"
)

// Known or private
//
// A connection that many sessions share carries only commands that are known not to
// change its state, not to block, and not to have Redis close it. Known are
//
//   - the rows of the table that do not say otherwise (private, foreign, state, pin, local);
//   - what the origin's COMMAND INFO shows to be a plain data command: no module's, one
//     that reads or writes and has keys, and all of whose flags are among write,
//     readonly, denyoom, fast and movablekeys. A flag that is not among these, one
//     that newer servers have invented included, makes it private.
//
// All else is Private: it runs on a connection that the session owns. If what it
// leaves behind there is not known either, the connection is Foreign: it stays the
// session's until that ends or it idles, and is then closed, never given to another
// session. And MaySet says that the session's later data commands must use it too,
// as from WATCH on, if Redis did not refuse the command: CLIENT NO-EVICT and other
// subcommands of CLIENT that the table does not have, commands without keys that are
// neither an administrator's nor a module's, and what the origin tells nothing of.
//
// A name that the origin says not to have is not sent on at all: the answer to it is
// Redis's own error, given here. So what does not exist costs no connection, and
// client libraries may try CLIENT SETINFO on a server that is too old for it.
//
// Names are the origin's: rename-command can give a command another name, even one
// that the table knows. COMMAND INFO's first element says which command a name is,
// and the origin is asked for all names of the table when its process is first met
// (Meet). Everything learned belongs to that process, and is forgotten with it.

// Info is what COMMAND INFO says of a name.
type Info struct {
	Asked string // the name asked for; "container|sub" for a subcommand
	Name  string // of the command; another one if it has been renamed. "": there is none
	Arity int
	Flags []string
	// Key positions: of the first key, of the last, and the step between them.
	First, Last, Step int
	Container         bool // it has subcommands
}

// lessons are what one server process has told.
type lessons struct {
	server  string // its run id
	changed index  // names of the table that are another command there, or none (nobody)
	learned index  // other names; subcommands as "container|sub"
}

// nobody stands for a name of the table that the origin does not have.
var nobody = &Command{}

// strange says which part of a request's name is not known.
type strange uint8

const (
	notStrange    strange = iota
	strangeName           // the command
	strangeSecond         // the container is known, the subcommand is not
)

// Bounds of what is remembered. What is full is emptied: that costs questions only.
const (
	mostLearned = 1024
	mostAbsent  = 1024
)

// exempt are names of the table that are answered whether the origin has them or
// not: our own, and one that Redis 6 has beside its table.
var exempt = map[string]bool{"nearside": true, "quit": true}

// TableNames are the names that Meet wants to hear of.
func TableNames() []string {
	var names []string
	for _, name := range rowNames {
		if !strings.Contains(name, "|") && !exempt[name] {
			names = append(names, name)
		}
	}
	return names
}

// Names are all names of the table, subcommands as "container|sub".
func Names() []string { return slices.Clone(rowNames) }

// Server is the run id of the process whose commands are known.
func (p *Policy) Server() string { return p.lessons.Load().server }

// Meet begins with another server process: all that was learned is forgotten.
// infos is what that one says of the TableNames, nil if it says nothing.
func (p *Policy) Meet(server string, infos []Info) {
	next := &lessons{server: server}
	for i := range infos {
		in := &infos[i]
		name := Word([]byte(in.Asked))
		row := commands[name]
		if row == nil || Word([]byte(in.Name)) == name {
			continue
		}
		if next.changed == nil {
			next.changed = index{}
		}
		if in.Name == "" {
			next.changed[name] = nobody
		} else {
			next.changed[name] = in.command()
		}
	}
	p.learning.Lock()
	defer p.learning.Unlock()
	clear(p.absent)
	p.lessons.Store(next)
}

// Learn is LearnFrom with the server that is known, for a command that has not been renamed.
func (p *Policy) Learn(name string, arity int, flags []string, first, last, step int) {
	p.LearnFrom(p.Server(), Info{Asked: name, Name: name, Arity: arity, Flags: flags, First: first, Last: last, Step: step})
}

// LearnFrom takes what the process with that run id says of a name that is not in
// the table, and reports whether it is of use: whether that process is the one that
// was met last.
func (p *Policy) LearnFrom(server string, in Info) bool {
	name := Word([]byte(in.Asked))
	container, sub, isSub := strings.Cut(name, "|")
	p.learning.Lock()
	defer p.learning.Unlock()
	have := p.lessons.Load()
	if have.server != server {
		return false
	}
	if parent := commands[container]; parent != nil && (!isSub || parent.subs[sub] != nil) {
		return true
	}
	if in.Name == "" {
		if len(p.absent) >= mostAbsent {
			clear(p.absent)
		}
		p.absent[name] = true
		return true
	}
	next := &lessons{server: server, changed: have.changed, learned: index{}}
	if len(have.learned) < mostLearned {
		maps.Copy(next.learned, have.learned)
	}
	next.learned[name] = in.command()
	delete(p.absent, name)
	p.lessons.Store(next)
	return true
}

// Forget forgets what was learned of names that are not in the table: modules come and go.
func (p *Policy) Forget() {
	p.learning.Lock()
	defer p.learning.Unlock()
	if have := p.lessons.Load(); len(have.learned) > 0 {
		p.lessons.Store(&lessons{server: have.server, changed: have.changed})
	}
}

// Doubt forgets which names the origin does not have: a module may have been loaded.
func (p *Policy) Doubt() {
	p.learning.Lock()
	clear(p.absent)
	p.learning.Unlock()
}

// command is the table's row if it is of a renamed command, else a new one. A
// command that may write and whose keys cannot be told from what is known stays
// treated as an unknown one, except that its arity is known.
func (in *Info) command() *Command {
	name := Word([]byte(in.Name))
	container, sub, isSub := strings.Cut(name, "|")
	parent := commands[container]
	if parent != nil {
		if !isSub {
			return parent
		}
		if row := parent.subs[sub]; row != nil {
			return row
		}
	}
	c := &Command{Name: name, Arity: in.Arity, First: in.First, Last: in.Last, Step: in.Step, denial: denial(name), container: in.Container}
	foreign := false
	for _, flag := range in.Flags {
		f := flagOf(flag)
		c.Flags |= f
		foreign = foreign || f == 0
	}
	if in.First > 0 {
		c.keys = []keySpec{{write: c.Flags.Has(FlagWrite), first: in.First, last: in.Last, steps: max(in.Step, 1)}}
	}
	switch {
	case c.Flags.Has(FlagReadonly):
	case c.Flags.Has(FlagMovableKeys):
		c.opaque = true
	case c.Flags.Has(FlagWrite):
		c.opaque = in.First <= 0
	default:
		c.opaque = c.Flags.Has(FlagModule) // Redis's own commands say when they write, modules may forget to
	}
	if c.Flags.Has(FlagBlocking) {
		c.route, c.Pin = RoutePin, PinBlock
	}
	const plain = FlagWrite | FlagReadonly | FlagDenyOOM | FlagFast | FlagMovableKeys
	keyed := in.First > 0 || c.Flags.Has(FlagMovableKeys)
	data := c.Flags&(FlagWrite|FlagReadonly) != 0
	if foreign || c.Flags&^plain != 0 || !keyed || !data {
		c.private, c.foreign = true, true
	}
	ofClient := parent != nil && container == "client"
	if ofClient {
		c.route = RouteLocal
	}
	c.state = ofClient || !isSub && !in.Container && !keyed && !data && c.Flags&(FlagAdmin|FlagModule|FlagBlocking|FlagPubSub) == 0
	return c
}

// lookup finds the command that a request names at the origin, and says what of the
// name is not known.
func (p *Policy) lookup(args [][]byte) (*Command, strange, *lessons) {
	known := p.lessons.Load()
	c := commands.find(args[0])
	switch {
	case c == nil:
		c = known.find(args[0])
	case known.changed != nil:
		if other := known.changed.find(args[0]); other != nil {
			c = other
		}
	}
	if c == nil || c == nobody {
		return nil, strangeName, known
	}
	if !c.container || len(args) < 2 {
		return c, notStrange, known
	}
	if sub := c.subs.find(args[1]); sub != nil {
		return sub, notStrange, known
	}
	if sub := known.findSub(c.Name, args[1]); sub != nil {
		return sub, notStrange, known
	}
	return c, strangeSecond, known
}

// Outdated reports whether the request was decided by what another process told than
// the one that was met last, and that may matter.
func (p *Policy) Outdated(d *Decision, args [][]byte) bool {
	now := p.lessons.Load()
	switch was := d.lessons; {
	case was == now || was == nil || was.server == now.server:
		return false
	case was.changed == nil && now.changed == nil && Lookup(args) == d.Cmd && d.strange == notStrange:
		return false
	}
	return true
}

// find finds a learned command by its name; a name with | is no subcommand's.
func (k *lessons) find(name []byte) *Command {
	if len(k.learned) == 0 || len(name) > MaxName || bytes.IndexByte(name, '|') >= 0 {
		return nil
	}
	var buf [MaxName]byte
	return k.learned[string(foldASCII(buf[:0], name))]
}

func (k *lessons) findSub(container string, sub []byte) *Command {
	if len(k.learned) == 0 || len(container)+1+len(sub) > MaxName {
		return nil
	}
	var buf [MaxName]byte
	b := append(append(buf[:0], container...), '|')
	return k.learned[string(foldASCII(b, sub))]
}

// nobody answers what is known to be no command: a name with a NUL (see word.go),
// and one that the origin does not have.
func (p *Policy) nobody(d *Decision, args [][]byte) bool {
	var buf [MaxName]byte
	switch d.strange {
	case strangeName:
		// What the table has and lookup has not found is nobody.
		if commands.find(args[0]) == nil && !p.isAbsent(buf[:0], args[0]) {
			return false
		}
		d.refuse(p.UnknownCommand(args))
	default:
		name := append(append(buf[:0], d.Cmd.Name...), '|')
		if !p.isAbsent(name, args[1]) {
			return false
		}
		d.Cmd = nil
		d.refuse(p.UnknownSubcommand(args))
	}
	d.strange = notStrange
	return true
}

// isAbsent uses buf, which begins with what comes before the word.
func (p *Policy) isAbsent(buf, word []byte) bool {
	if bytes.IndexByte(word, 0) >= 0 {
		return true
	}
	if len(buf)+len(word) > MaxName {
		return false
	}
	p.learning.Lock()
	defer p.learning.Unlock()
	return p.absent[string(foldASCII(buf, word))]
}

// Ask is the name that the origin should be asked about, as COMMAND INFO takes it,
// before the request d is decided for good. ok is false where nothing can be learned.
func (p *Policy) Ask(d *Decision, args [][]byte) (name string, ok bool) {
	switch d.strange {
	case strangeName:
		name = Word(args[0])
		ok = strings.IndexByte(name, '|') < 0
	case strangeSecond: // Redis 6 tells of no subcommands
		name = d.Cmd.Name + "|" + Word(args[1])
		ok = strings.Count(name, "|") == 1 && !p.words6.Load()
	}
	return name, ok && len(name) <= MaxName
}

// AskSubcommand is how a subcommand that Ask has named is spelt at the origin, where its
// container may have been renamed.
func AskSubcommand(name string, args [][]byte) string {
	if _, sub, isSub := strings.Cut(name, "|"); isSub {
		return Word(args[0]) + "|" + sub
	}
	return name
}

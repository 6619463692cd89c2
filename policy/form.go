package policy

import (
	"maps"
	"strings"
)

// A form is one way of writing a command. The table knows those of Redis 7.0; a
// server has others: newer ones have learned options (ZRANK … WITHSCORE), older ones
// lack some, and there are commands that the table does not have at all (MSETEX). Such a
// request must not be run as if it named no keys, in the database of those that name none.
// So where a request does not fit the table, what the server says of the command counts
// (COMMAND INFO: the arity, and the key specifications), as long as that server answers. Until it
// is known, or where it says nothing of use, the first argument that is plausibly a key
// chooses the database, and a write counts as a write of every argument.

// KeySpec is a key specification as COMMAND INFO states it. Positions count the name as 0.
type KeySpec struct {
	// Where its search begins: at Index, or if Keyword is not "" behind that word, looked for from
	// StartFrom on, backwards if that is negative.
	Index     int
	Keyword   string
	StartFrom int
	// Which keys there are, from there: a range up to LastKey (negative: counted from the end, of the part that
	// Limit says), or with KeyNum as many as the argument KeyNumIdx behind the beginning
	// says, from FirstKey behind it on.
	KeyNum              bool
	LastKey, Limit      int
	KeyNumIdx, FirstKey int
	Step                int
	// What is known of it.
	NotKey     bool // these are no keys: channels, cursors
	ReadOnly   bool // the value is not changed
	Incomplete bool // there may be others
	Unknown    bool // the server cannot say
}

// Form is what a server says of a command: what COMMAND INFO states.
type Form struct {
	Arity int // 0: nothing is known
	Specs []KeySpec
}

// sure reports whether the specifications name all keys.
func (f *Form) sure() bool {
	for i := range f.Specs {
		if s := &f.Specs[i]; s.Unknown || s.Incomplete {
			return false
		}
	}
	return f.Arity != 0
}

func (f *Form) arityOK(n int) bool {
	c := Command{Arity: f.Arity}
	return f.Arity == 0 || c.ArityOK(n)
}

// appendKeys appends the keys that the specifications find in args. It reports false if
// one of them makes no sense: Redis refuses such a request.
func (f *Form) appendKeys(dst []Key, c *Command, args [][]byte) ([]Key, bool) {
	base := len(dst)
	for i := range f.Specs {
		s := &f.Specs[i]
		if s.NotKey || s.Unknown {
			continue
		}
		if !s.sane() {
			return dst[:base], false
		}
		first := s.begin(args)
		if first == 0 {
			continue // the keyword is not among its options
		}
		first, last, ok := s.find(first, args)
		if !ok || first < 1 {
			return dst[:base], false
		}
		for pos := first; pos <= last; pos += max(s.Step, 1) {
			dst = append(dst, Key{Pos: pos, Write: !s.ReadOnly && !c.Flags.Has(FlagReadonly)})
		}
	}
	return dst, true
}

// sane reports whether the numbers are such as a server states.
func (s *KeySpec) sane() bool {
	const most = 1 << 20
	for _, n := range [...]int{s.Index, s.StartFrom, s.LastKey, s.Limit, s.KeyNumIdx, s.FirstKey, s.Step} {
		if n < -most || n > most {
			return false
		}
	}
	return true
}

// begin returns where the search begins, 0 for nowhere.
func (s *KeySpec) begin(args [][]byte) int {
	if s.Keyword == "" {
		return s.Index
	}
	at, step := s.StartFrom, 1
	if at < 0 {
		at, step = at+len(args), -1
	}
	for ; at >= 1 && at < len(args); at += step {
		if Is(args[at], strings.ToLower(s.Keyword)) {
			return at + 1
		}
	}
	return 0
}

// find returns the first and the last key from begin on. No key at all is last before first.
func (s *KeySpec) find(begin int, args [][]byte) (first, last int, ok bool) {
	n := len(args)
	switch {
	case s.KeyNum:
		at := begin + s.KeyNumIdx
		if at < 1 || at >= n {
			return 0, 0, false
		}
		keys, isNumber := count(args[at])
		if !isNumber {
			return 0, 0, false
		}
		first = begin + s.FirstKey
		last = first + (keys-1)*max(s.Step, 1)
		return first, last, last < n
	case s.LastKey >= 0:
		last = begin + s.LastKey
	case s.Limit <= 1:
		last = n + s.LastKey
	default:
		last = begin + (n-begin)/s.Limit + s.LastKey
	}
	return begin, last, begin < n && last < n
}

// Met tells which server process answers: what another one has said of its commands is forgotten.
func (k *knowledge) Met(runID string) {
	k.learning.Lock()
	defer k.learning.Unlock()
	if k.server != runID {
		k.server = runID
		k.forms.Store(nil)
	}
}

// LearnForm remembers what the server says of a command, as Decision.AskForm names it. The zero
// Form is that it says nothing.
func (k *knowledge) LearnForm(name string, f Form) {
	k.learning.Lock()
	defer k.learning.Unlock()
	next := map[string]*Form{}
	if known := k.forms.Load(); known != nil {
		next = maps.Clone(*known)
	}
	next[name] = &f
	k.forms.Store(&next)
}

// form returns what the server has said of a command; nil if it has not been asked.
func (k *knowledge) form(name string) *Form {
	if known := k.forms.Load(); known != nil {
		return (*known)[name]
	}
	return nil
}

// learned reports whether the command is not the table's: its rows all have a refusal.
func (c *Command) learned() bool { return c.refusal == "" }

// decideForm decides a request that does not fit the table, by what the server says. It reports false if
// that is not enough.
func (p *Policy) decideForm(d *Decision, sessionDB int, args [][]byte) bool {
	c := d.Cmd
	f := p.form(c.Name)
	switch {
	case f == nil:
		d.AskForm = c.Name
		return false
	case !f.arityOK(len(args)):
		return true // Redis says so itself
	case !f.sure():
		return false
	}
	var ok bool
	if d.Keys, ok = f.appendKeys(d.Keys, c, args); !ok || len(d.Keys) == 0 && len(c.keys) > 0 && !c.learned() {
		return false // Redis 6 does not know PFDEBUG's key, which is there all the same
	}
	if p.locate(d, sessionDB, args) {
		d.refuse(crossed(d.Keys, args))
		return true
	}
	if c.writesAll {
		d.Effect |= WritesAll
	}
	d.effects(c)
	if c.opaque && c.Flags.Has(FlagModule) {
		// A module need not say what else it writes.
		keys, effect, fence := d.Keys, d.Effect, d.Fence
		p.decideUnknown(d, sessionDB, args, firstPos(keys, 1))
		d.Effect |= effect
		d.Fence |= fence
	}
	d.waits(args)
	return true
}

// decideOdd decides a request that does not fit the table.
func (p *Policy) decideOdd(d *Decision, sessionDB int, args [][]byte) {
	c := d.Cmd
	if p.decideForm(d, sessionDB, args) {
		return
	}
	if c.writesAll {
		d.Effect |= WritesAll
	}
	at := p.plausible(c, args)
	switch {
	case at == 0: // it has no keys
	case c.Flags.Has(FlagReadonly):
		if at < len(args) {
			var rule *Rule
			d.DB, rule = p.rules.place(args[at], sessionDB)
			d.Lock = rule != nil && rule.Kind == LockRule
		}
	default:
		p.decideUnknown(d, sessionDB, args, at)
	}
	d.waits(args)
}

// waits keeps a command that may wait at the origin on a connection of its own, whatever its form.
func (d *Decision) waits(args [][]byte) {
	if d.Route == RoutePass && d.Cmd.Pin == PinBlock && (d.Cmd.quirk != quirkIfBlock || blocks(args)) {
		d.Route = RoutePin
	}
}

// plausible returns the position of the first argument that may be a key of a command, 0
// if it has none at all.
func (p *Policy) plausible(c *Command, args [][]byte) int {
	for i := range c.keys {
		switch s := &c.keys[i]; s.kind {
		case specRange:
			return s.first
		case specNumKeys:
			return s.first + 1
		case specStreams:
			if at := streamsAt(args); at > 0 {
				return at + 1
			}
		}
	}
	sub := 1
	if strings.Contains(c.Name, "|") {
		sub = 2
	}
	switch {
	case !c.learned() && !c.Flags.Has(FlagMovableKeys), c.learned() && !c.opaque && !c.Flags.Has(FlagMovableKeys):
		return 0
	case c.Flags.Has(FlagMovableKeys):
		// Where among its arguments they stand nobody has said: the first that lies under a rule is one.
		for at := sub; at < len(args); at++ {
			if p.rules.Match(args[at]) != nil {
				return at
			}
		}
	}
	return sub
}

// firstPos is the position of the first key, or other if there is none.
func firstPos(keys []Key, other int) int {
	if len(keys) > 0 {
		return keys[0].Pos
	}
	return other
}

package policy

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // it is the name Redis gives a script, not a protection
	"encoding/hex"
	"sync"
)

// verdict is what is known of a script. The zero value is "not known".
type verdict struct {
	keeps    bool // it reads and writes only what KEYS names
	releases bool // and as a write of a lock it only releases or extends it
	quick    bool // it takes no longer than the commands in it: it has an end
}

// What is remembered and looked at is bounded.
const (
	maxScript       = 32 << 10 // bytes; longer sources are not looked at
	maxKnownScripts = 3072     // scripts that keep to their KEYS
	maxOtherScripts = 1024     // others: apart, so that a flood of them does not push out the known ones
)

// scripts remembers verdicts by SHA1. A SHA1 stands for one source, so a
// verdict never becomes wrong, whatever the origin has loaded or forgotten.
type scripts struct {
	mu           sync.RWMutex
	known, other verdicts
}

// verdicts is a bounded map that forgets the oldest.
type verdicts struct {
	m    map[[sha1.Size]byte]verdict
	ring [][sha1.Size]byte
	next int
}

func (v *verdicts) put(sha [sha1.Size]byte, what verdict, most int) {
	if v.m == nil {
		v.m = map[[sha1.Size]byte]verdict{}
	}
	if _, ok := v.m[sha]; ok {
		return
	}
	if len(v.ring) < most {
		v.ring = append(v.ring, sha)
	} else {
		delete(v.m, v.ring[v.next])
		v.ring[v.next] = sha
		v.next = (v.next + 1) % most
	}
	v.m[sha] = what
}

// source gives the verdict on a script's source and remembers it.
func (s *scripts) source(src []byte) verdict {
	if len(src) > maxScript {
		return verdict{}
	}
	sha := sha1.Sum(src) //nolint:gosec // see above
	if v, ok := s.get(sha); ok {
		return v
	}
	v := analyse(src)
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.keeps {
		s.known.put(sha, v, maxKnownScripts)
	} else {
		s.other.put(sha, v, maxOtherScripts)
	}
	return v
}

// sha gives the verdict on a script named by its SHA1 in hexadecimal digits.
func (s *scripts) sha(digits []byte) verdict {
	var sha [sha1.Size]byte
	if len(digits) != 2*sha1.Size {
		return verdict{}
	}
	if _, err := hex.Decode(sha[:], digits); err != nil {
		return verdict{}
	}
	v, _ := s.get(sha)
	return v
}

func (s *scripts) get(sha [sha1.Size]byte) (verdict, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if v, ok := s.known.m[sha]; ok {
		return v, true
	}
	v, ok := s.other.m[sha]
	return v, ok
}

// suspects are names by which a script could get at redis or KEYS in another
// way than by writing their names, or at code that is not in its source.
var suspects = map[string]bool{
	"load": true, "loadstring": true, "loadfile": true, "dofile": true, "require": true, "module": true, "package": true,
	"getfenv": true, "setfenv": true, "_G": true, "_ENV": true, "rawget": true, "rawset": true,
	"getmetatable": true, "setmetatable": true, "newproxy": true, "debug": true, "_VERSION": true,
	"server": true, // Valkey's second name for redis
}

// helpers are the uses of redis that touch no key.
var helpers = map[string]bool{
	"error_reply": true, "status_reply": true, "sha1hex": true, "log": true,
	"LOG_DEBUG": true, "LOG_VERBOSE": true, "LOG_NOTICE": true, "LOG_WARNING": true,
}

// analyse decides whether a script keeps to its KEYS: every command it calls
// is named by a literal and takes its keys from literal KEYS[n], and neither
// redis nor KEYS is used in any other way. What is unclear is not known.
func analyse(src []byte) verdict {
	a := analysis{verdict: verdict{keeps: true, releases: true}, bound: map[string]bool{}}
	lex := lexer{src: src}
	for {
		t := lex.next()
		if t.kind == tokenBad {
			return verdict{}
		}
		a.tokens = append(a.tokens, t)
		if t.kind == tokenEnd {
			break
		}
	}
	for a.at = range a.tokens {
		if name, _ := a.binding(); name != "" {
			a.bound[name] = true
		}
	}
	a.at = 0
	for a.at < len(a.tokens)-1 {
		if !a.step() {
			return verdict{}
		}
	}
	a.quick = a.ends()
	return a.verdict
}

// lengthy are names without which a script runs straight to its end: what loops or
// calls itself, and libraries with functions that take arbitrarily long.
var lengthy = map[string]bool{
	"while": true, "repeat": true, "function": true, "goto": true,
	"string": true, "table": true, "coroutine": true, "xpcall": true, "bit": true, "struct": true, "cjson": true, "cmsgpack": true, "os": true,
}

type analysis struct {
	verdict
	tokens []token // the last is tokenEnd
	at     int
	bound  map[string]bool // variables that hold a key of KEYS, wherever they hold anything
}

// ends reports whether a script that keeps to its KEYS is sure to end soon: its loops are
// over KEYS, none within another, and it has no name of lengthy. Methods of strings
// are such functions too.
func (a *analysis) ends() bool {
	var blocks []bool // that are open: whether they are loops
	inLoop := false
	for a.at = 0; a.at < len(a.tokens); a.at++ {
		switch t := a.peek(0); {
		case t.isSign(':'), t.kind == tokenName && lengthy[string(t.text)]:
			return false
		case t.isName("for"):
			_, n := a.binding()
			if n == 0 || inLoop {
				return false
			}
			blocks, inLoop = append(blocks, true), true
			a.at += n - 1
		case t.isName("if"), t.isName("do"):
			blocks = append(blocks, false)
		case t.isName("end") && len(blocks) > 0:
			last := len(blocks) - 1
			inLoop = inLoop && !blocks[last]
			blocks = blocks[:last]
		}
	}
	return true
}

// peek returns the token n places on, or the end.
func (a *analysis) peek(n int) token {
	return a.tokens[min(a.at+n, len(a.tokens)-1)]
}

// binding recognises the two usual ways to give a key of KEYS a name,
//
//	for i, key in ipairs(KEYS) do
//	local key = KEYS[1]
//
// and returns the name and the number of tokens that this takes; "" if none
// begins here. A bound name may stand nowhere else but as a key of a call. So
// it is never assigned, and what it holds is a key of KEYS, or nothing.
func (a *analysis) binding() (name string, n int) {
	if a.peek(0).isName("for") && a.peek(1).kind == tokenName && a.peek(2).isSign(',') && a.peek(3).kind == tokenName &&
		a.peek(4).isName("in") && (a.peek(5).isName("ipairs") || a.peek(5).isName("pairs")) &&
		a.peek(6).isSign('(') && a.peek(7).isName("KEYS") && a.peek(8).isSign(')') && a.peek(9).isName("do") {
		if bytes.Equal(a.peek(1).text, a.peek(3).text) || reserved(string(a.peek(1).text)) {
			return "", 0
		}
		return string(a.peek(3).text), 10
	}
	if a.peek(0).isName("local") && a.peek(1).kind == tokenName && a.peek(2).isSign('=') && a.element(3) {
		// The next token must begin a statement, or the value is more than the key.
		t := a.peek(7)
		if t.kind == tokenName && !t.isName("and") && !t.isName("or") || t.isSign(';') {
			return string(a.peek(1).text), 7
		}
	}
	return "", 0
}

// element reports whether KEYS[number] stands n places on: four tokens.
func (a *analysis) element(n int) bool {
	index := a.peek(n + 2)
	if !a.peek(n).isName("KEYS") || !a.peek(n+1).isSign('[') || index.kind != tokenNumber || !a.peek(n+3).isSign(']') {
		return false
	}
	_, ok := count(index.text)
	return ok
}

// reserved are names that a binding must not take: they mean something to the analysis.
func reserved(name string) bool {
	return name == "redis" || name == "KEYS" || name == "ipairs" || name == "pairs" || suspects[name]
}

// step takes one token, or a binding, or a call of redis up to its keys. false: not known.
func (a *analysis) step() bool {
	if name, n := a.binding(); n > 0 {
		// "for key, k in ipairs(KEYS)" makes a number of a name bound elsewhere.
		ok := !reserved(name) && (!a.peek(0).isName("for") || !a.bound[string(a.peek(1).text)])
		a.at += n
		return ok
	}
	before, t := token{kind: tokenEnd}, a.peek(0)
	if a.at > 0 {
		before = a.tokens[a.at-1]
	}
	a.at++
	switch {
	case t.kind != tokenName:
		return true
	case suspects[string(t.text)], a.bound[string(t.text)]:
		return false
	case t.isName("ipairs"), t.isName("pairs"):
		return before.isName("in") && a.peek(0).isSign('(') // not given another meaning
	case t.isName("KEYS"):
		return a.value(before)
	case t.isName("redis"):
		return !before.isSign('.') && !before.isSign(':') && a.redis() // x.redis is something else: too odd
	}
	return true
}

// value takes a use of KEYS beside the keys of calls. An assignment to
// KEYS[1], or another name for KEYS, would make a lie of every KEYS[n], so it
// must stand where neither can be: #KEYS, (KEYS[1]…, and KEYS[1]).
func (a *analysis) value(before token) bool {
	if before.isSign('#') {
		return !a.peek(0).isSign('[')
	}
	a.at--
	ok := a.element(0) && (before.isSign('(') && a.peek(4).isSign(',') || a.peek(4).isSign(')'))
	a.at++
	return ok
}

// redis takes what follows the name redis.
func (a *analysis) redis() bool {
	if !a.peek(0).isSign('.') || a.peek(1).kind != tokenName {
		return false
	}
	use := string(a.peek(1).text)
	a.at += 2
	if helpers[use] {
		// Not "redis.log = …": the table is ours to trust only while nobody changes it.
		return !a.peek(0).isSign('=') || a.peek(1).isSign('=')
	}
	if use != "call" && use != "pcall" || !a.peek(0).isSign('(') {
		return false
	}
	a.at++
	return a.call()
}

// call takes the command's name and its key arguments; what follows them is
// taken by step, since it may be any expression.
func (a *analysis) call() bool {
	name := a.peek(0)
	if name.kind != tokenString || bytes.IndexByte(name.text, '\\') >= 0 {
		return false
	}
	a.at++
	c := commands.find(name.text)
	if c == nil {
		return false
	}
	n, ok := scriptKeys(c)
	if !ok {
		return false
	}
	if !c.Flags.Has(FlagReadonly) && !c.Flags.Has(FlagPubSub) && !c.release && len(c.keys) > 0 {
		a.releases = false
	}
	for i := 0; n < 0 || i < n; i++ {
		if n < 0 && a.peek(0).isSign(')') {
			return i > 0
		}
		if !a.key() {
			return false
		}
	}
	if !a.peek(0).isSign(',') && !a.peek(0).isSign(')') {
		return false
	}
	for a.key() { // as values: PUBLISH KEYS[2]
	}
	return true
}

// key takes ", KEYS[n]", or a name bound to a key, and makes sure that the argument ends there.
func (a *analysis) key() bool {
	n := 0
	switch {
	case !a.peek(0).isSign(','):
		return false
	case a.element(1):
		n = 5
	case a.peek(1).kind == tokenName && a.bound[string(a.peek(1).text)]:
		n = 2
	default:
		return false
	}
	if !a.peek(n).isSign(',') && !a.peek(n).isSign(')') {
		return false
	}
	a.at += n
	return true
}

// scriptKeys tells how many of a command's first arguments are its keys, -1
// for all, and whether a script may call it: not if its keys stand anywhere
// else, or if it touches more than them.
func scriptKeys(c *Command) (n int, ok bool) {
	switch c.Name {
	case "publish", "time", "ping", "echo":
		return 0, true // no keys, nothing changed
	}
	switch c.quirk {
	case quirkNone, quirkSet, quirkSetNX, quirkMGet:
	default:
		return 0, false
	}
	if c.writesAll || c.Step != 1 || c.First != 1 || c.Flags.Has(FlagMovableKeys) || c.Flags.Has(FlagNoScript) {
		return 0, false
	}
	for i := range c.keys {
		if c.keys[i].kind != specRange {
			return 0, false
		}
	}
	if c.Last == -1 {
		return -1, true
	}
	return c.Last, c.Last > 0
}

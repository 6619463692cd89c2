package policy

import (
	"slices"
	"strings"
)

// keySpec is one entry of the table's keys column.
type keySpec struct {
	kind        specKind
	write       bool
	first       int // specRange: of the first key; specNumKeys: of the number of keys
	last, steps int // specRange
}

type specKind uint8

const (
	specRange   specKind = iota
	specChannel          // a range of channels: no keys
	specNumKeys          // a number, then so many keys
	specSort             // SORT … STORE key
	specGeo              // GEORADIUS … STORE key, STOREDIST key
	specStreams          // XREAD … STREAMS key … id …
	specMigrate          // MIGRATE … KEYS key …, else the key at 3
	specDebug            // DEBUG OBJECT key and its like
)

// parseKeySpec reads one entry of the keys column.
func parseKeySpec(s string) keySpec {
	switch s {
	case "sort":
		return keySpec{kind: specSort, write: true}
	case "store":
		return keySpec{kind: specGeo, write: true}
	case "streams":
		return keySpec{kind: specStreams}
	case "wstreams":
		return keySpec{kind: specStreams, write: true}
	case "migrate":
		return keySpec{kind: specMigrate, write: true}
	case "debug":
		return keySpec{kind: specDebug}
	}
	spec := keySpec{write: s[0] == 'w', steps: 1}
	switch s[0] {
	case 'r', 'w':
	case 'c':
		spec.kind = specChannel
	default:
		panic("policy: unknown key column: " + s)
	}
	s = s[1:]
	if at, ok := strings.CutPrefix(s, "#"); ok {
		spec.kind, spec.first = specNumKeys, number(at)
		return spec
	}
	s, steps, ok := strings.Cut(s, "/")
	if ok {
		spec.steps = number(steps)
	}
	first, last, ok := strings.Cut(s, "..")
	spec.first = number(first)
	spec.last = spec.first
	if ok {
		spec.last = number(last)
	}
	return spec
}

// positions derives what COMMAND states as first key, last key and step: the
// ranges of fixed positions that follow one another without a gap.
func positions(specs []keySpec) (first, last, step int) {
	for _, s := range specs {
		if s.kind != specRange && s.kind != specChannel {
			continue
		}
		switch {
		case first == 0:
			first, last, step = s.first, s.last, s.steps
		case last >= 0 && s.first == last+1:
			last = s.last
		}
	}
	return first, last, step
}

// AppendKeys appends the keys that a request of command c names, with Pos and
// Write set, in the order of the table's keys column. It reports false, and
// appends nothing, if the arguments make no sense (a number of keys that is
// none, or larger than what follows): Redis refuses such a request itself.
func AppendKeys(dst []Key, c *Command, args [][]byte) ([]Key, bool) {
	base := len(dst)
	for i := range c.keys {
		s := &c.keys[i]
		ok := true
		switch s.kind {
		case specRange:
			dst, ok = s.appendRange(dst, len(args))
		case specChannel:
		case specNumKeys:
			dst, ok = s.appendCounted(dst, args, c.Flags.Has(FlagNoMandatoryKeys))
		case specSort:
			dst = appendSortStore(dst, args)
		case specGeo:
			dst = appendGeoStore(dst, args)
		case specStreams:
			dst, ok = s.appendStreams(dst, args)
		case specMigrate:
			dst = appendMigrate(dst, base, args)
		case specDebug:
			dst = appendDebug(dst, args)
		}
		if !ok {
			return dst[:base], false
		}
	}
	return dst, true
}

func (s *keySpec) appendRange(dst []Key, n int) ([]Key, bool) {
	last := s.last
	if last < 0 {
		last += n
	} else if last >= n {
		return dst, false
	}
	for pos := s.first; pos <= last; pos += s.steps {
		dst = append(dst, Key{Pos: pos, Write: s.write})
	}
	return dst, true
}

func (s *keySpec) appendCounted(dst []Key, args [][]byte, noneOK bool) ([]Key, bool) {
	if s.first >= len(args) {
		return dst, false
	}
	n, ok := count(args[s.first])
	if !ok || n == 0 && !noneOK || n >= len(args)-s.first {
		return dst, false
	}
	for pos := s.first + 1; pos <= s.first+n; pos++ {
		dst = append(dst, Key{Pos: pos, Write: s.write})
	}
	return dst, true
}

// count reads a number as strictly as Redis does: no sign, no leading zeros. At most nine digits.
func count(b []byte) (int, bool) {
	if len(b) == 0 || len(b) > 9 || b[0] == '0' && len(b) > 1 {
		return 0, false
	}
	n := 0
	for _, d := range b {
		if d < '0' || d > '9' {
			return 0, false
		}
		n = n*10 + int(d-'0')
	}
	return n, true
}

// appendSortStore finds the last STORE, stepping over what other options take, as Redis does.
func appendSortStore(dst []Key, args [][]byte) []Key {
	store := 0
	for i := 2; i < len(args); i++ {
		switch {
		case Is(args[i], "limit"):
			i += 2
		case Is(args[i], "by"), Is(args[i], "get"):
			i++
		case Is(args[i], "store") && i+1 < len(args):
			store = i + 1
			i++
		}
	}
	if store > 0 {
		dst = append(dst, Key{Pos: store, Write: true})
	}
	return dst
}

// appendGeoStore takes every STORE and STOREDIST: Redis writes the last one,
// and looks for all of them when it checks a user's rights.
func appendGeoStore(dst []Key, args [][]byte) []Key {
	for i := 5; i+1 < len(args); i++ {
		if Is(args[i], "store") || Is(args[i], "storedist") {
			i++
			dst = append(dst, Key{Pos: i, Write: true})
		}
	}
	return dst
}

// appendStreams takes the first half of what follows STREAMS. Options it does
// not know are stepped over: newer servers have more of them.
func (s *keySpec) appendStreams(dst []Key, args [][]byte) ([]Key, bool) {
	at := streamsAt(args)
	n := len(args) - at - 1
	if at == 0 || n == 0 || n%2 != 0 {
		return dst, false
	}
	for pos := at + 1; pos <= at+n/2; pos++ {
		dst = append(dst, Key{Pos: pos, Write: s.write})
	}
	return dst, true
}

// streamsAt returns the position of STREAMS, or 0.
func streamsAt(args [][]byte) int {
	for i := 1; i < len(args); i++ {
		switch {
		case Is(args[i], "streams"):
			return i
		case Is(args[i], "block"), Is(args[i], "count"):
			i++
		case Is(args[i], "group"):
			i += 2
		}
	}
	return 0
}

// blocks reports whether XREAD or XREADGROUP may be given BLOCK: whether it stands
// anywhere before the last STREAMS. That errs on the safe side, and needs no
// knowledge of how many arguments the options of newer servers take.
func blocks(args [][]byte) bool {
	block := false
	for i := 1; i < len(args); i++ {
		switch {
		case Is(args[i], "block"):
			block = true
		case block && Is(args[i], "streams"):
			return true
		}
	}
	return false
}

// appendMigrate replaces the key at 3, which the row's w3 has appended, by those after KEYS if it is empty.
func appendMigrate(dst []Key, base int, args [][]byte) []Key {
	if len(args) < 4 || len(args[3]) > 0 {
		return dst
	}
	for i := 6; i < len(args); i++ {
		switch {
		case Is(args[i], "auth"):
			i++
		case Is(args[i], "auth2"):
			i += 2
		case Is(args[i], "keys") && i+1 < len(args):
			dst = dst[:base]
			for pos := i + 1; pos < len(args); pos++ {
				dst = append(dst, Key{Pos: pos, Write: true})
			}
			return dst
		}
	}
	return dst
}

// debugKeys are the subcommands of DEBUG that look at one key.
var debugKeys = []string{"object", "sdslen", "listpack", "ziplist", "quicklist", "htstats-key"}

// appendDebug takes the keys that DEBUG looks at, of which COMMAND says nothing.
func appendDebug(dst []Key, args [][]byte) []Key {
	last := 2
	if Is(args[1], "digest-value") {
		last = len(args) - 1
	} else if !slices.ContainsFunc(debugKeys, func(name string) bool { return Is(args[1], name) }) {
		return dst
	}
	for pos := 2; pos <= last && pos < len(args); pos++ {
		dst = append(dst, Key{Pos: pos})
	}
	return dst
}

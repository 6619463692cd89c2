package policy

import (
	"bytes"
	"strings"
)

// Redis reads the words of a request in two ways.
//
// As a C string, by strcasecmp: a NUL ends the word, whatever comes behind it, and
// the case of ASCII letters does not matter. So are compared all option words (NX,
// GET, BLOCK, STREAMS, COUNT, GROUP, STORE, BY, DB, KEYS, AUTH …), the words ON, OFF
// and SKIP, sections of INFO, and the names POST and Host:, which Redis closes the
// client for. Is and Word read them so. A word that nearside took literally, and
// Redis up to a NUL, would be one that nearside overlooks: XREAD "BLOCK\x00" blocks.
//
// With its length: keys, values, numbers (string2ll), patterns, channels.
//
// Names of commands and subcommands lie between: Redis keeps them in a hash table
// that hashes all bytes and then compares by strcasecmp, so MULTI with a NUL and
// anything behind it is MULTI if both fall into one bucket, which one of some 60
// tries does. Nobody means such a name. It is never sent on: the answer is the one
// that Redis gives when the buckets differ (UnknownCommand, UnknownSubcommand), and
// what the configuration denies by the name up to the NUL stays denied.

// Is compares a word of a request, as a C string, with a lower-case word.
func Is(b []byte, lower string) bool {
	if len(b) < len(lower) || len(b) > len(lower) && b[len(lower)] != 0 {
		return false
	}
	for i := range len(lower) {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] { // a NUL as well: lower has none
			return false
		}
	}
	return true
}

// Word is a word of a request as Redis reads it: up to a NUL, in lower case.
func Word(b []byte) string { return string(foldASCII(nil, cString(b))) }

// cString is b up to the first NUL.
func cString(b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}

// foldASCII appends b with its ASCII letters in lower case. Nothing else has a case
// for Redis: to Unicode, KELVIN SIGN is a k.
func foldASCII(dst, b []byte) []byte {
	for _, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	return dst
}

// Closes reports whether Redis closes the client that sends a command of this name,
// before it looks at anything else, since a browser must have been tricked into
// speaking to it. Some servers list these names in COMMAND; they close all the same.
func Closes(name []byte) bool {
	if len(name) < 4 {
		return false
	}
	switch name[0] {
	case 'p', 'P':
		return Is(name, "post")
	case 'h', 'H':
		return Is(name, "host:")
	}
	return false
}

// UnknownCommand is Redis's error for a command that does not exist, in the words
// of the server that was met.
func (p *Policy) UnknownCommand(args [][]byte) string {
	const most = 128
	name, open, end := string(cString(args[0][:min(len(args[0]), most)])), "'", "' "
	if p.words6.Load() {
		name, open, end = string(cString(args[0])), "`", "`, "
	}
	var list strings.Builder
	for _, a := range args[1:] {
		if list.Len() >= most {
			break
		}
		list.WriteString(open)
		list.Write(cString(a[:min(len(a), most-list.Len()+len(open))])) // as printf does
		list.WriteString(end)
	}
	if p.words6.Load() {
		return "ERR unknown command `" + name + "`, with args beginning with: " + list.String()
	}
	return "ERR unknown command '" + name + "', with args beginning with: " + list.String()
}

// UnknownSubcommand is Redis's error for a subcommand that does not exist.
func (p *Policy) UnknownSubcommand(args [][]byte) string {
	container, sub := strings.ToUpper(string(cString(args[0]))), cString(args[1])
	if !p.words6.Load() {
		return "ERR unknown subcommand '" + string(sub[:min(len(sub), 128)]) + "'. Try " + container + " HELP."
	}
	return "ERR Unknown subcommand or wrong number of arguments for '" + string(sub) + "'. Try " + container + " HELP."
}

// Old reports whether the origin is older than Redis 7.0.
func (p *Policy) Old() bool { return p.words6.Load() }

// SetVersion says which version of Redis answers, for the words of its errors.
func (p *Policy) SetVersion(major int) { p.words6.Store(major > 0 && major < 7) }

package policy

import "bytes"

// tokenKind is the kind of a token of Lua 5.1.
type tokenKind uint8

const (
	tokenEnd    tokenKind = iota
	tokenName             // identifiers and keywords
	tokenNumber           //
	tokenString           // text: what stands between the delimiters, escapes as written
	tokenSign             // one character, or dots: ".." joins, and is no access to a field
	tokenBad              // not Lua, or too odd to trust
)

type token struct {
	kind tokenKind
	text []byte // a part of the source
}

// isSign reports whether t is this sign of one character.
func (t token) isSign(c byte) bool { return t.kind == tokenSign && len(t.text) == 1 && t.text[0] == c }

// isName reports whether t is this name.
func (t token) isName(name string) bool { return t.kind == tokenName && string(t.text) == name }

// lexer cuts Lua source into tokens. It knows comments and strings exactly,
// since a mistake there would let code pass for text, and gives tokenBad where
// Lua versions differ.
type lexer struct {
	src []byte
	at  int
}

// next returns the next token; after tokenEnd or tokenBad the same again.
func (l *lexer) next() token {
	if !l.skip() {
		return token{kind: tokenBad}
	}
	if l.at >= len(l.src) {
		return token{kind: tokenEnd}
	}
	start, c := l.at, l.src[l.at]
	switch {
	case nameByte(c) && !digit(c):
		for l.at < len(l.src) && nameByte(l.src[l.at]) {
			l.at++
		}
		return token{tokenName, l.src[start:l.at]}
	case digit(c), c == '.' && l.at+1 < len(l.src) && digit(l.src[l.at+1]):
		l.number()
		return token{tokenNumber, l.src[start:l.at]}
	case c == '"', c == '\'':
		return l.quoted(c)
	case c == '[':
		if level, ok := l.bracket(); ok {
			return l.long(level)
		} else if level > 0 {
			return token{kind: tokenBad} // "[=" without a second bracket
		}
	case bytes.IndexByte([]byte("]{}();:,.+-*/%^#=~<>"), c) < 0:
		return token{kind: tokenBad}
	}
	for l.at++; c == '.' && l.at < len(l.src) && l.src[l.at] == '.'; l.at++ {
	}
	return token{tokenSign, l.src[start:l.at]}
}

// skip steps over blanks and comments; false if a comment does not end.
func (l *lexer) skip() bool {
	if l.at == 0 && bytes.HasPrefix(l.src, []byte("#!")) {
		// Redis takes "#!lua flags=…" away, up to the first line feed.
		n := bytes.IndexByte(l.src, '\n')
		if n < 0 {
			return false
		}
		l.at = n
	}
	for l.at < len(l.src) {
		switch c := l.src[l.at]; {
		case c == ' ', '\t' <= c && c <= '\r':
			l.at++
		case bytes.HasPrefix(l.src[l.at:], []byte("--")):
			l.at += 2
			if level, ok := l.bracket(); ok {
				if l.long(level).kind == tokenBad {
					return false
				}
				continue
			}
			l.line()
		default:
			return true
		}
	}
	return true
}

// line steps to the end of the line; Lua takes a carriage return for one.
func (l *lexer) line() {
	if n := bytes.IndexAny(l.src[l.at:], "\n\r"); n >= 0 {
		l.at += n
	} else {
		l.at = len(l.src)
	}
}

// bracket tells whether a long bracket opens here, and how many "=" it has.
func (l *lexer) bracket() (level int, ok bool) {
	if l.at >= len(l.src) || l.src[l.at] != '[' {
		return 0, false
	}
	i := l.at + 1
	for i < len(l.src) && l.src[i] == '=' {
		i++
	}
	return i - l.at - 1, i < len(l.src) && l.src[i] == '['
}

// long reads a long string or comment that opens here.
func (l *lexer) long(level int) token {
	start := l.at + level + 2
	closing := append(append([]byte{']'}, bytes.Repeat([]byte{'='}, level)...), ']')
	n := bytes.Index(l.src[start:], closing)
	if n < 0 {
		l.at = len(l.src)
		return token{kind: tokenBad}
	}
	text := l.src[start : start+n]
	if level == 0 && bytes.Contains(text, []byte("[[")) {
		return token{kind: tokenBad} // an error or a nested string, as Lua 5.1 was built
	}
	l.at = start + n + len(closing)
	return token{tokenString, text}
}

// quoted reads a string in quotes.
func (l *lexer) quoted(quote byte) token {
	start := l.at + 1
	for i := start; i < len(l.src); i++ {
		switch l.src[i] {
		case quote:
			l.at = i + 1
			return token{tokenString, l.src[start:i]}
		case '\\':
			i++
			if i+1 < len(l.src) && l.src[i] == '\r' && l.src[i+1] == '\n' {
				i++
			}
		case '\n', '\r':
			return token{kind: tokenBad}
		}
	}
	return token{kind: tokenBad}
}

// number reads a numeral as Lua does: digits and dots, an exponent, then all letters and digits that follow.
func (l *lexer) number() {
	for l.at < len(l.src) && (digit(l.src[l.at]) || l.src[l.at] == '.') {
		l.at++
	}
	if l.at+1 < len(l.src) && l.src[l.at]|0x20 == 'e' && (l.src[l.at+1] == '+' || l.src[l.at+1] == '-') {
		l.at += 2
	}
	for l.at < len(l.src) && nameByte(l.src[l.at]) {
		l.at++
	}
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

func nameByte(c byte) bool {
	return digit(c) || c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

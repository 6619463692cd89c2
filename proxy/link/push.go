package link

import (
	"bytes"
	"errors"
)

// push takes one push frame, on the connection's reading goroutine. What an old connection still has to say is taken
// too: to invalidate too much is no harm.
func (s *session) push(frame []byte) {
	l := s.l
	l.count.pushes.Add(1)
	all, err := parsePush(frame, s.invalidate)
	switch {
	case err != nil:
		l.end(s, "the origin pushed what cannot be understood: "+err.Error())
		l.cfg.InvalidateAll("malformed push")
	case all:
		l.count.nulls.Add(1)
		l.cfg.InvalidateAll("flush at the origin")
	}
}

func (s *session) invalidate(key []byte) {
	s.l.count.keys.Add(1)
	s.l.cfg.Invalidate(key)
}

var errPush = errors.New("malformed push frame")

// parsePush calls changed for each key of an invalidation; all says that it was one of everything. Frames of other
// kinds are passed over. After an error, some keys may have been handed over.
//
//	>2\r\n $10\r\ninvalidate\r\n *2\r\n $1\r\na\r\n $1\r\nb\r\n
//	>2\r\n $10\r\ninvalidate\r\n _\r\n
func parsePush(frame []byte, changed func(key []byte)) (all bool, err error) {
	p := parser{rest: frame}
	parts, ok := p.length('>')
	if !ok || parts < 1 {
		return false, errPush
	}
	kind, ok := p.text()
	if !ok {
		return false, errPush
	}
	if string(kind) != "invalidate" {
		return false, nil
	}
	if parts != 2 {
		return false, errPush
	}
	if p.null() {
		return len(p.rest) == 0, p.end()
	}
	keys, ok := p.length('*')
	if !ok {
		return false, errPush
	}
	for range keys {
		key, ok := p.text()
		if !ok {
			return false, errPush
		}
		changed(key)
	}
	return false, p.end()
}

// A parser reads the few RESP3 types that the link meets. Its methods move on only if what they look for is there.
type parser struct{ rest []byte }

func (p *parser) end() error {
	if len(p.rest) > 0 {
		return errPush
	}
	return nil
}

// null reads a null in any of its three forms.
func (p *parser) null() bool {
	for _, form := range [...]string{"_\r\n", "*-1\r\n", "$-1\r\n"} {
		if rest, ok := bytes.CutPrefix(p.rest, []byte(form)); ok {
			p.rest = rest
			return true
		}
	}
	return false
}

// line reads a line of that type.
func (p *parser) line(kind byte) ([]byte, bool) {
	if len(p.rest) == 0 || p.rest[0] != kind {
		return nil, false
	}
	end := bytes.Index(p.rest, []byte("\r\n"))
	if end < 0 {
		return nil, false
	}
	line := p.rest[1:end]
	p.rest = p.rest[end+2:]
	return line, true
}

// length reads a line of that type that is a length. No length can be larger than what follows it.
func (p *parser) length(kind byte) (int, bool) {
	line, ok := p.line(kind)
	if !ok || len(line) == 0 || len(line) > 10 {
		return 0, false
	}
	n := 0
	for _, c := range line {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, n <= len(p.rest)
}

// text reads a bulk, verbatim or simple string.
func (p *parser) text() ([]byte, bool) {
	if len(p.rest) == 0 {
		return nil, false
	}
	kind := p.rest[0]
	if kind == '+' {
		return p.line('+')
	}
	if kind != '$' && kind != '=' {
		return nil, false
	}
	n, ok := p.length(kind)
	if !ok || len(p.rest) < n+2 || p.rest[n] != '\r' || p.rest[n+1] != '\n' {
		return nil, false
	}
	text := p.rest[:n:n]
	p.rest = p.rest[n+2:]
	if kind == '=' { // "txt:" and "mkd:" come before the text
		if n < 4 || text[3] != ':' {
			return nil, false
		}
		text = text[4:]
	}
	return text, true
}

// firstLine is a reply's first line, as it is to be shown.
func firstLine(reply []byte) string {
	line, _, _ := bytes.Cut(reply, []byte("\r\n"))
	return string(line[:min(len(line), 200)])
}

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
	got, err := parsePush(frame, s.changed)
	if err == nil {
		switch got.kind {
		case pushFlush:
			l.count.nulls.Add(1)
			l.cfg.InvalidateAll(Flush, "flush at the origin")
		case pushEvent:
			key, ok := bytes.CutPrefix(got.channel, l.events)
			if !ok {
				err = errPush
				break
			}
			// With the flag m each read of a missing key raises an event. It would outdate the very answer
			// "no such key" that it belongs to.
			if string(got.payload) != "keymiss" {
				l.count.events.Add(1)
				l.cfg.Invalidate(Keyspace, key)
			}
		case pushMessage:
			s.told(got)
		}
	}
	if err != nil {
		l.end(s, "the origin pushed what cannot be understood: "+err.Error())
		l.cfg.InvalidateAll(Gap, "malformed push")
	}
}

func (s *session) changed(key []byte) {
	s.l.count.keys.Add(1)
	s.l.cfg.Invalidate(Tracking, key)
}

// told takes a message of Channel: a key, or a pattern.
func (s *session) told(m pushed) {
	l := s.l
	if string(m.channel) != Channel {
		return
	}
	l.count.messages.Add(1)
	switch {
	case !bytes.HasSuffix(m.payload, []byte("*")):
		l.cfg.Invalidate(Message, m.payload)
	case len(m.payload) > 1 && l.cfg.InvalidatePattern != nil:
		l.cfg.InvalidatePattern(Message, m.payload)
	default:
		l.cfg.InvalidateAll(Message, "told so on "+Channel)
	}
}

var errPush = errors.New("malformed push frame")

// pushKind is what a push frame is to the link.
type pushKind uint8

const (
	pushOther   pushKind = iota // not its business
	pushKeys                    // an invalidation of keys
	pushFlush                   // an invalidation of everything
	pushEvent                   // a message of a channel that a pattern matched
	pushMessage                 // a message of a channel
)

// pushed is a parsed push frame. Its slices are the frame's.
type pushed struct {
	kind             pushKind
	channel, payload []byte
}

// parsePush parses a frame and calls changed for each key of an invalidation. Frames of other kinds are passed over. After an
// error, some keys may have been handed over.
//
//	>2\r\n $10\r\ninvalidate\r\n *2\r\n $1\r\na\r\n $1\r\nb\r\n
//	>2\r\n $10\r\ninvalidate\r\n _\r\n
//	>4\r\n $8\r\npmessage\r\n $16\r\n__keyspace@1__:*\r\n $16\r\n__keyspace@1__:a\r\n $3\r\nset\r\n
//	>3\r\n $7\r\nmessage\r\n $19\r\nnearside:invalidate\r\n $1\r\na\r\n
func parsePush(frame []byte, changed func(key []byte)) (pushed, error) {
	p := parser{rest: frame}
	parts, ok := p.length('>')
	if !ok || parts < 1 {
		return pushed{}, errPush
	}
	kind, ok := p.text()
	if !ok {
		return pushed{}, errPush
	}
	var got pushed
	switch string(kind) {
	case "invalidate":
		if parts != 2 {
			return pushed{}, errPush
		}
		got.kind = p.invalidation(changed)
		ok = got.kind != pushOther
	case "pmessage":
		got.kind = pushEvent
		_, ok = p.text() // the pattern
		ok = ok && parts == 4 && p.message(&got)
	case "message":
		got.kind = pushMessage
		ok = parts == 3 && p.message(&got)
	default:
		return pushed{}, nil
	}
	if !ok || len(p.rest) > 0 {
		return pushed{}, errPush
	}
	return got, nil
}

// A parser reads the few RESP3 types that the link meets. Its methods move on only if what they look for is there.
type parser struct{ rest []byte }

// invalidation reads the keys, or the null that means all of them; pushOther if it is neither.
func (p *parser) invalidation(changed func(key []byte)) pushKind {
	if p.null() {
		return pushFlush
	}
	keys, ok := p.length('*')
	if !ok {
		return pushOther
	}
	for range keys {
		key, ok := p.text()
		if !ok {
			return pushOther
		}
		changed(key)
	}
	return pushKeys
}

// message reads a channel and what was published there.
func (p *parser) message(into *pushed) (ok bool) {
	if into.channel, ok = p.text(); ok {
		into.payload, ok = p.text()
	}
	return ok
}

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

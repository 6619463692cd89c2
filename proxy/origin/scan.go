package origin

import (
	"bytes"
	"errors"
	"math"
	"strconv"
)

// ErrNotRESP is what the scanner answers to bytes that are no reply.
var ErrNotRESP = errors.New("not a RESP reply")

const (
	maxHeader   = 32      // type, number and line end of $, *, … take no more
	maxElements = 1 << 40 // what an aggregate may claim; keeps the sum from overflowing
	maxBulk     = math.MaxInt32 * 64
)

// Scanner finds the end of one reply in a buffer that is still being filled.
// Each byte is looked at once, however many pieces the reply comes in.
//
// A reply is complete when no element is missing. Which aggregate an element
// belongs to does not matter for that, so one counter does what looks like a
// stack: an element takes one away, an aggregate of n takes one away and adds n.
// Nesting costs neither memory nor recursion.
//
// A push may stand inside of a reply: Redis up to 7.0 puts what a transaction
// publishes to its own client, and what it invalidates for it, between the elements
// of EXEC's array, and an MGET that finds an expired key does the same to its own.
// Such a push is no element. The confirmation of a SUBSCRIBE that EXEC has run is
// written as a push too, and is one.
type Scanner struct {
	pos     int   // b[:pos] are whole elements
	missing int64 // elements still to come
	seen    int   // b[pos:seen] holds no line end
	need    int   // the buffer must be at least this long for any progress
	last    bool  // need is where the whole reply ends
	begun   bool
	inside  bool // the reply's own header is behind
	pushes  int  // pushes inside, which are no elements
}

// Next returns the length of the reply that starts at b[0], or 0 if it is
// incomplete. Then call again with more bytes behind the same ones. After a
// complete reply the scanner is ready for the next one.
func (s *Scanner) Next(b []byte) (int, error) {
	if !s.begun {
		*s = Scanner{missing: 1, begun: true}
	}
	if len(b) < s.need {
		return 0, nil
	}
	for s.missing > 0 {
		ok, err := s.element(b)
		if err != nil {
			return 0, err
		}
		if !ok {
			return 0, nil
		}
	}
	s.begun = false
	return s.pos, nil
}

// Need is the length the buffer must reach before Next can get further.
func (s *Scanner) Need() int { return s.need }

// element moves over one element, or over the header of an aggregate.
func (s *Scanner) element(b []byte) (bool, error) {
	if s.pos >= len(b) {
		s.want(s.pos + 1)
		return false, nil
	}
	typ := b[s.pos]
	switch typ {
	case '+', '-', ':', ',', '(', '#', '_':
		from := max(s.seen, s.pos)
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			s.seen = len(b)
			s.want(len(b) + 1)
			return false, nil
		}
		end := from + i + 1
		if end-s.pos < 3 || b[end-2] != '\r' {
			return false, ErrNotRESP
		}
		s.done(end, 0)
		return true, nil
	case '$', '!', '=', '*', '~', '%', '>', '|':
	default:
		return false, ErrNotRESP
	}

	n, head, err := header(b[s.pos:])
	if err != nil {
		return false, err
	}
	if head == 0 {
		s.want(len(b) + 1)
		return false, nil
	}
	end := s.pos + head
	switch typ {
	case '>':
		if s.inside {
			element, known := pushElement(b[end:])
			if !known {
				s.want(len(b) + 1)
				return false, nil
			}
			if !element {
				s.pushes++
				s.done(end, max(n, 0)+1)
				break
			}
		}
		s.done(end, max(n, 0))
	case '*', '~':
		s.done(end, max(n, 0))
	case '%':
		s.done(end, 2*max(n, 0))
	case '|': // describes the element that follows it and is none itself
		s.done(end, 2*max(n, 0)+1)
	default:
		if n < 0 { // null
			s.done(end, 0)
			return true, nil
		}
		if n > maxBulk {
			return false, ErrNotRESP
		}
		end += int(n) + 2
		if len(b) < end {
			s.want(end)
			s.last = s.missing == 1
			return false, nil
		}
		if b[end-2] != '\r' || b[end-1] != '\n' {
			return false, ErrNotRESP
		}
		s.done(end, 0)
	}
	if s.missing > math.MaxInt64/2 {
		return false, ErrNotRESP
	}
	return true, nil
}

// rebase forgets the whole elements: the buffer begins behind them from now on.
func (s *Scanner) rebase() {
	s.need -= s.pos
	s.seen = max(s.seen-s.pos, 0)
	s.pos = 0
}

func (s *Scanner) want(n int)            { s.need, s.last = n, false }
func (s *Scanner) done(end int, n int64) { s.pos = end; s.missing += n - 1; s.inside = true }

// confirming are the pushes that answer SUBSCRIBE and its relatives, as their first
// element is written.
var confirming = [...]string{
	"$9\r\nsubscribe\r\n", "$10\r\npsubscribe\r\n", "$10\r\nssubscribe\r\n",
	"$11\r\nunsubscribe\r\n", "$12\r\npunsubscribe\r\n", "$12\r\nsunsubscribe\r\n",
}

// pushElement tells whether a push inside of a reply is one of its elements. b is
// what follows the push's header; known is false while too little of it is there.
func pushElement(b []byte) (element, known bool) {
	for _, c := range confirming {
		switch {
		case len(b) >= len(c):
			if string(b[:len(c)]) == c {
				return true, true
			}
		case c[:len(b)] == string(b):
			return false, false
		}
	}
	return false, true
}

// withoutPushes takes the pushes that are no elements out of the reply b, in its
// own memory, and returns what is left and copies of them in their order.
func withoutPushes(b []byte) (reply []byte, pushes [][]byte) {
	reply = b[:0]
	for at := 0; at < len(b); {
		end, push := elementEnd(b, at)
		if push {
			pushes = append(pushes, bytes.Clone(b[at:end]))
		} else {
			reply = append(reply, b[at:end]...)
		}
		at = end
	}
	return reply, pushes
}

// elementEnd returns where the element, or the header of an aggregate, ends that
// begins at b[at]; a push that is no element is taken whole. b is a whole reply.
func elementEnd(b []byte, at int) (end int, push bool) {
	if b[at] == '>' && at > 0 {
		_, head, _ := header(b[at:])
		if element, _ := pushElement(b[at+head:]); !element {
			n, _ := Next(b[at:])
			return at + n, true
		}
	}
	s := Scanner{missing: 1, begun: true, pos: at}
	_, _ = s.element(b) // it has been scanned before
	return s.pos, false
}

// header reads a type byte, a number and a line end. head 0: incomplete. The
// only negative number is -1, and "?" (streamed types) is refused: Redis sends none.
func header(b []byte) (n int64, head int, err error) {
	i, neg := 1, false
	if i < len(b) && b[i] == '-' {
		neg = true
		i++
	}
	first := i
	for ; i < len(b) && i < maxHeader; i++ {
		c := b[i]
		if c >= '0' && c <= '9' {
			if n = n*10 + int64(c-'0'); n > maxElements {
				return 0, 0, ErrNotRESP
			}
			continue
		}
		if c != '\r' || i == first {
			return 0, 0, ErrNotRESP
		}
		if i+1 == len(b) {
			return 0, 0, nil
		}
		if b[i+1] != '\n' {
			return 0, 0, ErrNotRESP
		}
		if neg {
			if n != 1 {
				return 0, 0, ErrNotRESP
			}
			n = -1
		}
		return n, i + 2, nil
	}
	if i >= maxHeader {
		return 0, 0, ErrNotRESP
	}
	return 0, 0, nil
}

// Next returns the length of the first reply in b, 0 if it is incomplete.
func Next(b []byte) (int, error) {
	var s Scanner
	return s.Next(b)
}

// Split cuts the first reply off b. first is nil if b holds no whole reply.
func Split(b []byte) (first, rest []byte) {
	n, err := Next(b)
	if err != nil || n == 0 {
		return nil, b
	}
	return b[:n:n], b[n:]
}

// Elements opens an aggregate: n elements (a map counts keys and values) follow
// in rest, each to be cut off with Split. n is -1 for a null array.
func Elements(b []byte) (n int, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, b, false
	}
	switch b[0] {
	case '*', '~', '>', '%':
	default:
		return 0, b, false
	}
	v, head, err := header(b)
	if err != nil || head == 0 {
		return 0, b, false
	}
	if b[0] == '%' && v > 0 {
		v *= 2
	}
	return int(v), b[head:], true
}

// Bulk takes a bulk string (or a RESP3 verbatim string, without its "txt:") off
// b. isNull: a null of any kind was there.
func Bulk(b []byte) (value []byte, isNull bool, rest []byte, ok bool) {
	if len(b) == 0 {
		return nil, false, b, false
	}
	switch b[0] {
	case '$', '=', '*':
		n, head, err := header(b)
		if err != nil || head == 0 {
			return nil, false, b, false
		}
		if n < 0 {
			return nil, true, b[head:], true
		}
		if b[0] == '*' || n > int64(len(b)-head-2) {
			return nil, false, b, false
		}
		end := head + int(n)
		value = b[head:end:end]
		if b[0] == '=' && len(value) >= 4 {
			value = value[4:]
		}
		return value, false, b[end+2:], true
	case '_':
		if bytes.HasPrefix(b, []byte("_\r\n")) {
			return nil, true, b[3:], true
		}
	}
	return nil, false, b, false
}

// Int takes an integer reply off b.
func Int(b []byte) (v int64, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != ':' {
		return 0, b, false
	}
	i := bytes.IndexByte(b, '\n')
	if i < 3 || b[i-1] != '\r' {
		return 0, b, false
	}
	v, err := strconv.ParseInt(string(b[1:i-1]), 10, 64)
	if err != nil {
		return 0, b, false
	}
	return v, b[i+1:], true
}

package origin

import (
	"bytes"
	"errors"
)

// Budget bounds what replies take while they are being received. Its methods are
// called on reading goroutines and must not block.
type Budget interface {
	// Reserve counts n more bytes, or reports false and counts nothing.
	Reserve(n int64) bool
	// Release gives back n bytes that were reserved.
	Release(n int64)
}

// Owner is a Sink that takes a large reply together with what the Budget holds
// for it: reserved bytes, which it must Release sooner or later. For any other
// Sink they are released when its Reply has returned.
type Owner interface {
	Sink
	ReplyOwned(b []byte, reserved int64, batch *Batch)
}

// PartsOwner is an Owner that can take a reply of very many elements in several
// pieces, so that it is never copied to grow: those of parts joined.
type PartsOwner interface {
	Owner
	TakesParts() bool
	ReplyParts(parts [][]byte, reserved int64, batch *Batch)
}

// ErrTooLarge says that the reply did not fit into the Budget. Redis has carried the
// request out; its reply was read and thrown away, and the connection is in order.
var ErrTooLarge = errors.New("the reply is larger than what is left of the budget")

// errLargePush breaks a connection: a message must not get lost silently.
var errLargePush = errors.New("a message does not fit into the budget")

// unlimited is the Budget of those who gave none.
type unlimited struct{}

func (unlimited) Reserve(int64) bool { return true }
func (unlimited) Release(int64)      {}

// skipper moves over the rest of a reply that is not kept. As the Scanner it
// needs neither memory nor recursion, but it forgets each byte at once.
type skipper struct {
	missing int64 // elements still to come; 0: nothing is being skipped
	bulk    int   // bytes of the current bulk string still to come, its line end included
	line    bool  // within a line that is an element
}

// feed tells how many bytes at the start of b are done with. What is left is the
// beginning of a header, of which more must come.
func (s *skipper) feed(b []byte) (n int, err error) {
	for s.missing > 0 {
		switch {
		case s.bulk > 0:
			k := min(s.bulk, len(b)-n)
			n += k
			if s.bulk -= k; s.bulk > 0 {
				return n, nil
			}
			s.missing--
		case s.line:
			i := bytes.IndexByte(b[n:], '\n')
			if i < 0 {
				return len(b), nil
			}
			n += i + 1
			s.line = false
			s.missing--
		case n == len(b):
			return n, nil
		default:
			head, err := s.element(b[n:])
			if err != nil || head == 0 {
				return n, err
			}
			n += head
		}
	}
	return n, nil
}

// element moves over a header.
func (s *skipper) element(b []byte) (head int, err error) {
	switch b[0] {
	case '+', '-', ':', ',', '(', '#', '_':
		s.line = true
		return 1, nil
	case '$', '!', '=', '*', '~', '%', '>', '|':
	default:
		return 0, ErrNotRESP
	}
	n, head, err := header(b)
	if err != nil || head == 0 {
		return 0, err
	}
	switch b[0] {
	case '>': // inside of a reply: see Scanner
		element, known := pushElement(b[head:])
		if !known {
			return 0, nil
		}
		if s.missing += max(n, 0); element {
			s.missing--
		}
	case '*', '~':
		s.missing += max(n, 0) - 1
	case '%':
		s.missing += 2*max(n, 0) - 1
	case '|':
		s.missing += 2 * max(n, 0)
	default:
		if n < 0 {
			s.missing--
			break
		}
		if n > maxBulk {
			return 0, ErrNotRESP
		}
		s.bulk = int(n) + 2
	}
	return head, nil
}

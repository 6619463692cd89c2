package main

import "bytes"

// replies finds the ends of replies in a stream, without keeping them. It holds
// no more than the beginning of one line.
type replies struct {
	pending int    // elements that are missing of the reply that has begun
	skip    int    // bytes of a bulk, and its line end, that are to come
	line    []byte // the beginning of a line whose end was not read yet
	Nulls   int64
	Errors  int64
	First   string // the first error reply
	Broken  bool   // what was read is no RESP2
}

// feed takes the next bytes and returns how many replies end in them.
func (r *replies) feed(b []byte) int {
	done := 0
	for len(b) > 0 {
		if r.skip > 0 {
			n := min(r.skip, len(b))
			r.skip -= n
			b = b[n:]
			if r.skip == 0 {
				done += r.element()
			}
			continue
		}
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			r.line = append(r.line, b...)
			return done
		}
		line := b[:end+1]
		b = b[end+1:]
		if len(r.line) > 0 {
			r.line = append(r.line, line...)
			line = r.line
			r.line = r.line[:0]
		}
		done += r.header(line)
	}
	return done
}

// element counts one element, and returns 1 if it was the last of its reply.
func (r *replies) element() int {
	r.pending--
	if r.pending > 0 {
		return 0
	}
	r.pending = 0
	return 1
}

// header takes one line and returns 1 if it ends a reply.
func (r *replies) header(line []byte) int {
	if len(line) < 3 {
		r.Broken = true
		return 0
	}
	if r.pending == 0 {
		r.pending = 1
	}
	switch line[0] {
	case '+', ':':
		return r.element()
	case '-':
		r.Errors++
		if r.First == "" {
			r.First = string(line[1 : len(line)-2])
		}
		return r.element()
	case '$':
		n := number(line)
		if n < 0 {
			r.Nulls++
			return r.element()
		}
		r.skip = n + 2
	case '*':
		n := number(line)
		if n < 0 {
			r.Nulls++
		}
		if n <= 0 {
			return r.element()
		}
		r.pending += n - 1
	default:
		r.Broken = true
	}
	return 0
}

// number is the integer of a header line.
func number(line []byte) int {
	n, negative := 0, false
	for _, c := range line[1 : len(line)-2] {
		if c == '-' {
			negative = true
			continue
		}
		n = n*10 + int(c-'0')
	}
	if negative {
		return -n
	}
	return n
}

package proxy

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
)

// A framer finds where one request ends in a session's read buffer and says
// how Redis would treat what is wrong with it. It exists because redcon's
// parser, which then slices the request into its arguments, has no bounds,
// checks no number for overflow, starts again from the first byte after every
// read, and is stricter than Redis in two places: it refuses *0 and *-1, and
// it insists on the CRLF behind an argument, which Redis skips unread.
type framer struct {
	maxRequest int64   // bytes of one request
	maxBulk    int64   // bytes of one argument; Redis's proto-max-bulk-len
	maxArgs    int64   // arguments of one request
	limits     *limits // that Redis has beside these; may be nil

	// more tells whether the origin takes more than oldMostArgs arguments; nil is no.
	// One that does not would close the connection that others share.
	more func() bool

	count int // arguments of the last request

	// How far the unfinished request at the start of the buffer was understood.
	pos  int // bytes
	args int // arguments still to come; 0: the header is to come
	bulk int // bytes of the current argument and its CRLF still to come at pos; 0: its header is to come
}

// bound sets what one request may take, in bytes, and so how many arguments it
// may have: they and what is made of them must fit in the buffers of all sessions.
func (f *framer) bound(maxRequest, buffers int64) {
	f.maxRequest, f.maxBulk = maxRequest, min(maxRequest, 512<<20)
	f.maxArgs = max(manyArgs, min(maxRequest/leastArg, buffers/(argBytes+leastArg)))
}

const leastArg = int64(len("$0\r\n\r\n"))

// What next found.
type frameKind uint8

const (
	frameMore   frameKind = iota // unfinished: read on
	frameArray                   // n bytes hold one request in RESP
	frameInline                  // n bytes hold one line
	frameSkip                    // n bytes that Redis ignores
	frameBad                     // a protocol error: answer it, then close
)

// Redis's limits, networking.c: PROTO_INLINE_MAX_SIZE, the arguments of one
// request before Redis 7 and since, and what a client may send before it has
// authenticated.
const (
	oldMostArgs  = 1 << 20
	mostArgs     = math.MaxInt32
	maxLine      = 64 << 10
	unauthedArgs = 10
	unauthedBulk = 16384
)

// next looks at buf, which starts with the first byte of a request. With
// frameBad, problem is the text behind "Protocol error: ".
func (f *framer) next(buf []byte, authed bool) (kind frameKind, n int, problem string) {
	if f.args == 0 {
		if len(buf) == 0 {
			return frameMore, 0, ""
		}
		if buf[0] != '*' {
			return f.inline(buf)
		}
		line, end, problem := f.line(buf, 0, "too big mbulk count string")
		if problem != "" || end == 0 {
			return badOrMore(problem)
		}
		count, ok := parseLength(line)
		switch {
		case !ok || count > mostArgs || count > oldMostArgs && (f.more == nil || !f.more()):
			return frameBad, 0, "invalid multibulk length"
		case count <= 0:
			return frameSkip, end, ""
		case !authed && count > unauthedArgs:
			return frameBad, 0, "unauthenticated multibulk length"
		case count > f.maxArgs:
			return frameBad, 0, fmt.Sprintf("request of more arguments (%d) than max_request and buffers allow (%d)", count, f.maxArgs)
		}
		f.pos, f.args, f.bulk = end, int(count), 0
		f.count = f.args
	}
	for f.args > 0 {
		if f.bulk == 0 {
			if f.pos >= len(buf) {
				return frameMore, 0, ""
			}
			line, end, problem := f.line(buf, f.pos, "too big bulk count string")
			if problem != "" || end == 0 {
				return badOrMore(problem)
			}
			if buf[f.pos] != '$' {
				return frameBad, 0, fmt.Sprintf("expected '$', got '%s'", buf[f.pos:f.pos+1])
			}
			size, ok := parseLength(line)
			switch {
			case !ok || size < 0 || size > f.maxBulk, size >= aloneSize && f.limits != nil && f.limits.tooLong(size):
				return frameBad, 0, "invalid bulk length"
			case !authed && size > unauthedBulk:
				return frameBad, 0, "unauthenticated bulk length"
			case int64(end)+size > f.maxRequest:
				return frameBad, 0, fmt.Sprintf("request larger than max_request (%d bytes)", f.maxRequest)
			}
			f.pos, f.bulk = end, int(size)+2
		}
		if len(buf)-f.pos < f.bulk {
			return frameMore, 0, ""
		}
		f.pos += f.bulk
		crlf(buf[f.pos-2:])
		f.bulk = 0
		f.args--
	}
	n, f.pos = f.pos, 0
	return frameArray, n, ""
}

// want is the number of bytes the unfinished request is known to need at least.
func (f *framer) want() int { return f.pos + f.bulk }

// line returns the text behind the type byte of the header line at pos, and
// where the next line starts; end is 0 while the line is unfinished.
func (f *framer) line(buf []byte, pos int, tooBig string) (line []byte, end int, problem string) {
	i := lineEnd(buf[pos:], '\r')
	if i < 0 {
		if len(buf)-pos > maxLine {
			return nil, 0, tooBig
		}
		return nil, 0, ""
	}
	if pos+i+1 >= len(buf) {
		return nil, 0, ""
	}
	crlf(buf[pos+i:])
	return buf[pos+min(i, 1) : pos+i], pos + i + 2, "" // the line may lack even its type byte
}

// lineEnd finds the end of a line as Redis's strchr does, which sees nothing
// behind a NUL.
func lineEnd(b []byte, c byte) int {
	i := bytes.IndexByte(b, c)
	if i > 0 && bytes.IndexByte(b[:i], 0) >= 0 {
		return -1
	}
	return i
}

// crlf puts the terminator where Redis does not look at it, for redcon's parser does.
func crlf(b []byte) { b[0], b[1] = '\r', '\n' }

func badOrMore(problem string) (frameKind, int, string) {
	if problem != "" {
		return frameBad, 0, problem
	}
	return frameMore, 0, ""
}

func (f *framer) inline(buf []byte) (frameKind, int, string) {
	i := lineEnd(buf, '\n')
	if i < 0 {
		if len(buf) > maxLine {
			return frameBad, 0, "too big inline request"
		}
		return frameMore, 0, ""
	}
	return frameInline, i + 1, ""
}

// parseLength reads a length as Redis's string2ll does: no plus sign, no
// leading zeros, no blanks, within 64 bits.
func parseLength(b []byte) (int64, bool) {
	if len(b) == 1 && b[0] >= '0' && b[0] <= '9' { // the common case
		return int64(b[0] - '0'), true
	}
	digits := b
	if len(b) > 1 && b[0] == '-' {
		digits = b[1:]
	}
	if len(digits) == 0 || len(digits) > 19 || digits[0] < '1' || digits[0] > '9' {
		return 0, false
	}
	if len(digits) > 9 { // near the end of the range: let the library look
		n, err := strconv.ParseInt(string(b), 10, 64)
		return n, err == nil
	}
	var n int64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if len(digits) != len(b) {
		n = -n
	}
	return n, true
}

package origin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

const (
	smallBuffer = TakeSize // what an idle connection holds
	busyBuffer  = 64 << 10 // what one gets whose reads fill the small one
	calmReads   = 64       // reads that would have fitted the small one before it comes back
	maxTrusted  = 1 << 30  // what a bulk header is believed to the full at once
)

// What counts as a reply.
const (
	modeReplies     int32 = iota
	modeSubscribed        // RESP2, subscribed
	modeMonitorNext       // until the next reply
	modeMonitor           // nothing does
)

// reader is the reading goroutine's own. The buffer's parts:
//
//	0 … start   handed out
//	start … at  whole replies of a Send that gets several
//	at … end    a reply of which the rest is to come
type reader struct {
	c       *Conn
	buf     []byte
	start   int
	at, end int
	got     int // replies between start and at
	scan    Scanner
	small   []byte // a small buffer to return to
	full    bool   // the last read filled the buffer
	calm    int
	batch   Batch
}

func (c *Conn) read() {
	r := &reader{c: c, buf: make([]byte, smallBuffer)}
	err := r.run()
	c.fail(err)
	c.o.forget(c)

	c.mu.Lock() // from here on nobody adds to pending
	err = c.err
	c.mu.Unlock()
	for {
		e := c.pending.peek()
		if e == nil {
			break
		}
		c.pending.pop(e).Reply(nil, err, &r.batch)
	}
	r.batch.Flush()
}

func (r *reader) run() error {
	for {
		r.makeRoom()
		n, err := r.c.nc.Read(r.buf[r.end:])
		if n > 0 {
			r.account(n)
			if err := r.replies(); err != nil {
				r.batch.Flush()
				return err
			}
			r.batch.Flush()
		}
		if err != nil {
			return fmt.Errorf("%w: %s", ErrLost, cause(err))
		}
	}
}

func (r *reader) account(n int) {
	o := r.c.o
	now := o.now()
	r.c.heard.Store(now)
	o.heard.Store(now)
	o.bytesIn.Add(int64(n))
	r.full = r.end+n == len(r.buf)
	r.end += n
	if n < smallBuffer {
		r.calm++
	} else {
		r.calm = 0
	}
}

// replies hands out what is whole.
func (r *reader) replies() error {
	for r.at < r.end {
		n, err := r.scan.Next(r.buf[r.at:r.end])
		if err != nil {
			return fmt.Errorf("%w: %s", ErrLost, err)
		}
		if n == 0 {
			return nil
		}
		if err := r.frame(n); err != nil {
			return err
		}
	}
	return nil
}

// frame deals with the n bytes at r.at, which are one reply or push.
func (r *reader) frame(n int) error {
	c := r.c
	f := r.buf[r.at : r.at+n]
	e := c.pending.peek()
	if c.outOfBand(f, e != nil) {
		if push := c.push.Load(); push != nil {
			(*push)(f[:n:n], &r.batch)
		}
		if r.at > r.start { // it stands between replies that belong together
			copy(r.buf[r.at:], r.buf[r.at+n:r.end])
			r.end -= n
		} else {
			r.at += n
			r.start = r.at
		}
		return nil
	}
	if e == nil {
		return fmt.Errorf("%w: a reply nobody asked for: %.64q", ErrLost, f)
	}
	r.at += n
	if r.got++; r.got < e.replies && !(e.orError && r.got == 1 && (f[0] == '-' || f[0] == '!')) {
		return nil
	}
	r.got = 0
	if c.mode.Load() == modeMonitorNext {
		c.mode.Store(modeMonitor)
	}
	b := r.cut()
	c.pending.pop(e).Reply(b, nil, &r.batch)
	return nil
}

// cut returns buf[start:at]. A large reply takes the buffer along, unless most of
// the buffer is something else.
func (r *reader) cut() []byte {
	b := r.buf[r.start:r.at:r.at]
	if len(b) <= TakeSize {
		r.start = r.at
		return b
	}
	if len(b) < cap(r.buf)/2 {
		r.start = r.at
		return append([]byte(nil), b...)
	}
	rest := r.buf[r.at:r.end]
	r.buf = r.take(len(rest))
	copy(r.buf, rest)
	r.start, r.at, r.end = 0, 0, len(rest)
	return b
}

// take gets a buffer that holds n bytes and at least the small one's.
func (r *reader) take(n int) []byte {
	if n < smallBuffer && r.small != nil {
		b := r.small
		r.small = nil
		return b
	}
	return make([]byte, max(n, smallBuffer))
}

// makeRoom sees to it that something can be read and that the buffer fits what
// is known to come.
func (r *reader) makeRoom() {
	held := r.end - r.start
	if held == 0 {
		r.start, r.at, r.end = 0, 0, 0
		switch {
		case len(r.buf) > busyBuffer, len(r.buf) > smallBuffer && r.calm >= calmReads:
			r.buf = r.take(0)
		case r.full && len(r.buf) < busyBuffer:
			r.resize(busyBuffer)
		}
		return
	}
	known := r.at - r.start
	if r.at < r.end {
		known += r.scan.Need()
	}
	known = max(known, held+1)
	switch {
	case known > len(r.buf):
		r.resize(r.target(known))
	case r.full && len(r.buf) < busyBuffer && !r.scan.last:
		r.resize(busyBuffer)
	case r.start > 0 && r.start+known > len(r.buf):
		copy(r.buf, r.buf[r.start:r.end])
		r.at -= r.start
		r.start, r.end = 0, held
	}
}

// target is the new buffer's size: exact when a bulk string that says its length
// is all that is missing; else it doubles, which costs one copy per byte in the mean.
func (r *reader) target(known int) int {
	if r.at < r.end && r.scan.last && known <= maxTrusted {
		if e := r.c.pending.peek(); e == nil || r.got+1 == e.replies {
			return known
		}
	}
	if known > maxTrusted && known > 2*len(r.buf) {
		return max(maxTrusted, 2*len(r.buf))
	}
	return max(known, 2*len(r.buf))
}

func (r *reader) resize(n int) {
	b := make([]byte, n)
	copy(b, r.buf[r.start:r.end])
	if len(r.buf) == smallBuffer {
		r.small = r.buf
	}
	r.at -= r.start
	r.end -= r.start
	r.start = 0
	r.buf = b
}

// outOfBand tells whether a frame is no reply. expected: somebody waits for one.
func (c *Conn) outOfBand(f []byte, expected bool) bool {
	mode := c.mode.Load()
	switch {
	case mode == modeMonitor:
		return true
	case f[0] == '>':
		return !expected || !hasAnyPrefix(f, confirmations)
	case f[0] == '*' && mode == modeSubscribed:
		return hasAnyPrefix(f, messages)
	}
	return false
}

var confirmations = [][]byte{
	[]byte(">3\r\n$9\r\nsubscribe\r\n"),
	[]byte(">3\r\n$10\r\npsubscribe\r\n"),
	[]byte(">3\r\n$10\r\nssubscribe\r\n"),
	[]byte(">3\r\n$11\r\nunsubscribe\r\n"),
	[]byte(">3\r\n$12\r\npunsubscribe\r\n"),
	[]byte(">3\r\n$12\r\nsunsubscribe\r\n"),
}

var messages = [][]byte{
	[]byte("*3\r\n$7\r\nmessage\r\n"),
	[]byte("*4\r\n$8\r\npmessage\r\n"),
	[]byte("*3\r\n$8\r\nsmessage\r\n"),
}

func hasAnyPrefix(f []byte, list [][]byte) bool {
	for _, p := range list {
		if bytes.HasPrefix(f, p) {
			return true
		}
	}
	return false
}

// cause is an I/O error in few words.
func cause(err error) string {
	if errors.Is(err, io.EOF) {
		return "closed by the server"
	}
	return err.Error()
}

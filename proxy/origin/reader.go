package origin

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"nearside/proxy/internal/loop"
)

const (
	smallBuffer = TakeSize // what an idle connection holds
	busyBuffer  = 64 << 10 // what one gets whose reads fill the small one
	calmReads   = 64       // reads that would have fitted the small one before it comes back
	maxTrusted  = 1 << 30  // what a bulk header is believed to the full at once
)

// What counts as a reply.
const (
	modeReplies       int32 = iota
	modeSubscribeNext       // … until the next reply, then modeSubscribed
	modeSubscribed          // RESP2, subscribed
	modeMonitorNext         // … until the next reply, then modeMonitor
	modeMonitor
)

// reader belongs to the reading goroutine, or to the loop. The buffer's parts:
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

	parts         [][]byte // what comes before buf[start:], given away by giveParts
	partsReserved int64
	partial       bool // the reply at hand begins in parts

	reserved int64   // what the budget counts for buf: nothing up to busyBuffer
	skip     skipper // the reply at hand does not fit into the budget
	failed   error   // what the Send at hand is answered instead of its replies
}

// startReading has the connection read: by a loop, where there are loops, or by a
// goroutine of its own.
func (c *Conn) startReading() {
	r := &reader{c: c, buf: make([]byte, smallBuffer)}
	c.o.wg.Add(1) // done at the end
	if s, ok := c.nc.(*loop.Socket); ok {
		c.src = c.o.loops.Pick(c.o.loopNext.Add(1)).NewSource(s, r)
		c.src.SetUrgent(c.group.Lock || c.kind == dialled) // others wait for who holds a lock, and for the link
		if c.src.Return() {
			return
		}
	}
	go func() { r.over(r.run()) }()
}

// mostReads is how often a loop reads from one connection before others have their turn.
const mostReads = 8

// Ready reads what has come, on the loop's goroutine (loop.Owner).
func (r *reader) Ready(t *loop.Turn) {
	src := r.c.src
	for range mostReads {
		more, err := r.step()
		if err != nil {
			src.Take()
			go r.over(err)
			return
		}
		if !more && src.Rest() {
			return
		}
	}
	src.Again(t)
}

// step reads once without waiting, into room that there always is; more says that
// there may be more.
func (r *reader) step() (more bool, err error) {
	room := len(r.buf) - r.end
	n, err := r.c.src.TryRead(r.buf[r.end:])
	switch {
	case errors.Is(err, loop.ErrNothing):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%w: %s", ErrLost, cause(err))
	}
	r.account(n)
	err = r.replies()
	r.batch.Flush()
	if err != nil {
		return false, err
	}
	if err := r.makeRoom(); err != nil { // now: it also gives large buffers back
		return false, fmt.Errorf("%w: %w", ErrLost, err)
	}
	return n == room || r.c.src.HungUp(), nil
}

// Woken is called when the connection has been closed from outside (loop.Owner).
func (r *reader) Woken() { r.over(ErrClosed) }

// over gives the connection up for err, unless it has been already, and tells
// those who wait.
func (r *reader) over(err error) {
	c := r.c
	defer c.o.wg.Done()
	c.o.cfg.Budget.Release(r.reserved + r.partsReserved)
	c.fail(err)
	c.dropUnsent()
	c.o.forget(c)

	c.mu.Lock() // from here on nobody adds to pending
	err = c.err
	c.mu.Unlock()
	r.batch.at = c.o.now()
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
		if err := r.makeRoom(); err != nil {
			return fmt.Errorf("%w: %w", ErrLost, err)
		}
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
	r.batch.at = now
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
		if r.skip.missing > 0 {
			if done, err := r.skipOn(); !done || err != nil {
				return err
			}
			continue
		}
		n, err := r.scan.Next(r.buf[r.at:r.end])
		if err != nil {
			return fmt.Errorf("%w: %w", ErrLost, err)
		}
		if n == 0 {
			return nil
		}
		if err := r.frame(n); err != nil {
			return err
		}
		if r.c.suspect.Load() {
			return ErrClosed // fail has been told why
		}
	}
	return nil
}

// frame deals with the n bytes at r.at, which are one reply or push.
func (r *reader) frame(n int) error {
	c := r.c
	f := r.buf[r.at : r.at+n]
	e := c.pending.peek()
	if !r.partial && c.outOfBand(f, e) {
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
	if r.scan.pushes > 0 && !r.partial {
		return r.frameAround(e, n)
	}
	r.at += n
	return r.count(e, f)
}

// frameAround deals with a reply that has pushes inside. They come after it, as
// newer servers send them.
func (r *reader) frameAround(e *entry, n int) error {
	f, pushes := withoutPushes(r.buf[r.at : r.at+n])
	r.end = r.at + len(f) + copy(r.buf[r.at+len(f):], r.buf[r.at+n:r.end])
	r.at += len(f)
	if err := r.count(e, f); err != nil {
		return err
	}
	if push := r.c.push.Load(); push != nil {
		for _, p := range pushes {
			(*push)(p, &r.batch)
		}
	}
	return nil
}

// count notes a reply that e has waited for; f is at least its first byte. The
// last one of a Send lets all of them go.
func (r *reader) count(e *entry, f []byte) error {
	c := r.c
	r.got++
	r.partial = false
	refused := e.orError && r.got == 1 && (f[0] == '-' || f[0] == '!') // one error in place of all replies
	if r.got < e.replies && !refused {
		if r.failed != nil {
			r.start = r.at
		}
		return nil
	}
	r.got = 0
	switch c.mode.Load() {
	case modeMonitorNext:
		c.mode.Store(modeMonitor)
	case modeSubscribeNext:
		c.mode.CompareAndSwap(modeSubscribeNext, modeSubscribed)
	}
	if err := r.failed; err != nil {
		r.failed = nil
		r.start = r.at
		c.pending.pop(e).Reply(nil, err, &r.batch)
		return nil
	}
	b, reserved := r.cut()
	sink := c.pending.pop(e)
	if len(r.parts) > 0 {
		if len(b) <= TakeSize {
			b = append([]byte(nil), b...)
		}
		parts := r.parts
		parts = append(parts, b)
		reserved += r.partsReserved
		r.parts, r.partsReserved = nil, 0
		sink.(PartsOwner).ReplyParts(parts, reserved, &r.batch) // as giveParts has asked
		return nil
	}
	if reserved == 0 {
		sink.Reply(b, nil, &r.batch)
		return nil
	}
	if owner, ok := sink.(Owner); ok {
		owner.ReplyOwned(b, reserved, &r.batch)
		return nil
	}
	sink.Reply(b, nil, &r.batch)
	c.o.cfg.Budget.Release(reserved)
	return nil
}

// cut returns buf[start:at]. A large reply takes the buffer along, unless most of
// the buffer is something else, and with the buffer what is reserved for it.
func (r *reader) cut() (b []byte, reserved int64) {
	b = r.buf[r.start:r.at:r.at]
	if len(b) <= TakeSize {
		r.start = r.at
		return b, 0
	}
	if len(b) < cap(r.buf)/2 {
		r.start = r.at
		return append([]byte(nil), b...), 0
	}
	rest := r.buf[r.at:r.end]
	reserved, r.reserved = r.reserved, 0
	r.setBuffer(r.take(len(rest)))
	copy(r.buf, rest)
	r.start, r.at, r.end = 0, 0, len(rest)
	return b, reserved
}

// setBuffer puts a buffer in place of one that is no longer held, and counts it. One
// that the budget refuses is small besides what it replaces, and not counted.
func (r *reader) setBuffer(b []byte) {
	budget := r.c.o.cfg.Budget
	budget.Release(r.reserved)
	r.buf, r.reserved = b, 0
	if n := int64(len(b)); n > busyBuffer && budget.Reserve(n) {
		r.reserved = n
	}
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
// is known to come. What does not fit into the budget is skipped from then on.
func (r *reader) makeRoom() error {
	if r.skip.missing > 0 {
		return nil // all but the beginning of a header is gone already
	}
	held := r.end - r.start
	if held == 0 && len(r.parts) == 0 {
		r.start, r.at, r.end = 0, 0, 0
		switch {
		case len(r.buf) > busyBuffer, len(r.buf) > smallBuffer && r.calm >= calmReads:
			r.setBuffer(r.take(0))
		case r.full && len(r.buf) < busyBuffer:
			r.resize(busyBuffer)
		}
		return nil
	}
	known := r.at - r.start
	if r.at < r.end {
		known += r.scan.Need()
	}
	known = max(known, held+1)
	switch {
	case known > len(r.buf):
		if r.giveParts() {
			break
		}
		if !r.resize(r.target(known)) && (known == r.target(known) || !r.resize(known)) {
			return r.beginSkip()
		}
	case r.full && len(r.buf) < busyBuffer && !r.scan.last:
		r.resize(busyBuffer)
	case r.start > 0 && r.start+known > len(r.buf):
		copy(r.buf, r.buf[r.start:r.end])
		r.at -= r.start
		r.start, r.end = 0, held
	}
	return nil
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
	if missing := known - (r.end - r.start); missing > 1<<20 && missing > known/2 {
		return known + max(busyBuffer, known/64) // most of it is this one bulk string: little follows
	}
	return max(known, 2*len(r.buf))
}

// resize gives the buffer another size, if the budget allows.
func (r *reader) resize(n int) bool {
	reserved := int64(0)
	if n > busyBuffer {
		reserved = int64(n)
		if !r.c.o.cfg.Budget.Reserve(reserved) {
			return false
		}
	}
	b := make([]byte, n)
	copy(b, r.buf[r.start:r.end])
	if len(r.buf) == smallBuffer {
		r.small = r.buf
	}
	r.at -= r.start
	r.end -= r.start
	r.start = 0
	r.buf = b
	if r.reserved > 0 {
		r.c.o.cfg.Budget.Release(r.reserved)
	}
	r.reserved = reserved
	return true
}

// partSize is the size of the pieces that a reply of very many elements comes in.
const partSize = 1 << 20

// giveParts puts the whole elements of an unfinished reply aside with their buffer
// and goes on with another one, for who can take them so.
func (r *reader) giveParts() bool {
	pos := r.scan.pos
	if r.at == r.end || r.failed != nil || pos < partSize/2 || r.at+pos-r.start < len(r.buf)/2 {
		return false
	}
	e := r.c.pending.peek()
	if e == nil || !r.partial && r.c.outOfBand(r.buf[r.at:r.end], e) {
		return false
	}
	if o, ok := e.sink.(PartsOwner); !ok || e.orError || !o.TakesParts() {
		return false
	}
	cut := r.at + pos
	rest := r.buf[cut:r.end]
	size := int64(max(partSize, r.scan.need-pos, len(rest)+1))
	if !r.c.o.cfg.Budget.Reserve(size) {
		return false
	}
	r.parts = append(r.parts, r.buf[r.start:cut:cut])
	r.partsReserved += r.reserved
	r.buf, r.reserved = make([]byte, size), size
	r.start, r.at, r.end = 0, 0, copy(r.buf, rest)
	r.scan.rebase()
	r.partial = true
	return true
}

// dropParts forgets what giveParts has put aside.
func (r *reader) dropParts() {
	r.c.o.cfg.Budget.Release(r.partsReserved)
	r.parts, r.partsReserved = nil, 0
}

// beginSkip gives up what has come of the Send's replies; the rest is read and
// forgotten, and the others on this connection do not notice.
func (r *reader) beginSkip() error {
	e := r.c.pending.peek()
	rest := r.buf[r.at:r.end]
	if e == nil || len(rest) > 0 && !r.partial && r.c.outOfBand(rest, e) {
		return errLargePush
	}
	r.failed = ErrTooLarge
	r.dropParts()
	if len(rest) == 0 { // the replies so far are too many
		r.start, r.at, r.end = 0, 0, 0
		return nil
	}
	r.skip = skipper{missing: r.scan.missing}
	rest = rest[r.scan.pos:]
	r.scan = Scanner{}
	n, err := r.skip.feed(rest)
	if err != nil {
		return err
	}
	rest = rest[n:] // a header's beginning at most
	if len(r.buf) > busyBuffer {
		r.setBuffer(make([]byte, busyBuffer))
	}
	r.start, r.at, r.end = 0, 0, copy(r.buf, rest)
	return nil
}

// skipOn skips what has been read; done when the reply has ended.
func (r *reader) skipOn() (done bool, err error) {
	n, err := r.skip.feed(r.buf[r.at:r.end])
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrLost, err)
	}
	r.at += n
	r.start = r.at
	if r.skip.missing > 0 {
		r.end = copy(r.buf, r.buf[r.at:r.end])
		r.start, r.at = 0, 0
		return false, nil
	}
	e := r.c.pending.peek()
	if e == nil {
		return false, fmt.Errorf("%w: a reply nobody asked for", ErrLost)
	}
	return true, r.count(e, []byte{' '})
}

// outOfBand tells whether a frame answers none of the requests that were sent; e
// is the oldest of them that is not answered, or nil. What a frame looks like decides
// only where nothing else can look like that:
//
//   - RESP3 marks pushes. The confirmation of a subscription is written as one and
//     is a reply, of a request that waits for confirmations only.
//   - RESP2 writes a message as an array, like the reply to an MGET. But a connection
//     that is subscribed carries SUBSCRIBE and its relatives only, PING and RESET,
//     whose replies are no such arrays; and no message comes before Redis has
//     answered the SUBSCRIBE, or the EXEC with one.
//   - A monitor's lines are status replies of a form that no other command has.
func (c *Conn) outOfBand(f []byte, e *entry) bool {
	if f[0] == '>' {
		return e == nil || !e.orError || !confirms(f)
	}
	switch c.mode.Load() {
	case modeMonitor:
		return e == nil || isMonitorLine(f)
	case modeSubscribed:
		return e == nil || f[0] == '*' && hasAnyPrefix(f, messages)
	}
	return false
}

// confirms tells whether a push confirms a subscription or its end.
func confirms(f []byte) bool {
	_, head, err := header(f)
	if err != nil || head == 0 {
		return false
	}
	element, _ := pushElement(f[head:])
	return element
}

// isMonitorLine recognises +1700000000.123456 [0 127.0.0.1:1234] "get" "x".
func isMonitorLine(f []byte) bool {
	if f[0] != '+' {
		return false
	}
	seconds, rest, ok := bytes.Cut(f[1:], []byte("."))
	return ok && digits(seconds) && len(rest) > 8 && digits(rest[:6]) && rest[6] == ' ' && rest[7] == '['
}

func digits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
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

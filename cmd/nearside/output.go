package main

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Bounds of what waits to be written to one stream.
const (
	mostLines     = 4096
	mostLineBytes = 1 << 20

	flushWithin = time.Second           // at the end of the process
	retryAfter  = 10 * time.Millisecond // a descriptor that another process has made non-blocking
)

// output is standard output or standard error of a process that serves. Write
// never waits: neither a pipe that nobody reads nor a slow terminal may hold up
// a request, let alone the end of the process. What it is given is written on a
// goroutine of its own, in order, each piece by one call, so that the lines of
// several processes do not mix in one file or pipe.
//
// What does not fit in the queue is lost, and so is what cannot be written. A
// line in its place says how many there were, once something can be written
// again.
type output struct {
	w io.Writer

	mu      sync.Mutex
	lost    func(n int) []byte // the line that says so
	queue   []piece
	lines   int // in the queue
	bytes   int
	writing bool          // the goroutine runs
	idle    chan struct{} // of flush; closed when nothing is left

	dropped atomic.Uint64 // lines, for the metric

	// The goroutine's own.
	failed int  // lines that could not be written since one could be
	torn   bool // the last write ended in the middle of a line
}

// piece is what one Write was given, or the number of those that were lost here.
type piece struct {
	text []byte
	lost int
}

func newOutput(w io.Writer) *output {
	return &output{w: w, lost: func(n int) []byte { return fmt.Appendf(nil, "nearside: %d lines are lost\n", n) }}
}

// say sets how lost lines are told.
func (o *output) say(lost func(n int) []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lost = lost
}

// Write takes one line, or some whole lines, and never fails.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	// Something must fit: a line may be longer than all that may wait.
	if o.lines > 0 && (o.lines >= mostLines || o.bytes+len(b) > mostLineBytes) {
		o.dropped.Add(1)
		if last := &o.queue[len(o.queue)-1]; last.text == nil {
			last.lost++
		} else {
			o.queue = append(o.queue, piece{lost: 1})
		}
		return len(b), nil
	}
	o.queue = append(o.queue, piece{text: append(make([]byte, 0, len(b)), b...)})
	o.lines++
	o.bytes += len(b)
	if !o.writing {
		o.writing = true
		go o.run()
	}
	return len(b), nil
}

// run writes until nothing is left.
func (o *output) run() {
	for {
		o.mu.Lock()
		if len(o.queue) == 0 {
			o.writing = false
			o.queue = nil
			if o.idle != nil {
				close(o.idle)
				o.idle = nil
			}
			o.mu.Unlock()
			return
		}
		p := o.queue[0]
		o.queue[0] = piece{}
		o.queue = o.queue[1:]
		lost := o.lost
		o.mu.Unlock()
		o.put(p, lost)
		if p.text != nil { // it counts until it is written
			o.mu.Lock()
			o.lines--
			o.bytes -= len(p.text)
			o.mu.Unlock()
		}
	}
}

// put writes one piece, and before it how many were lost.
func (o *output) put(p piece, lost func(n int) []byte) {
	if n := o.failed + p.lost; n > 0 {
		o.failed = 0
		if !o.whole(lost(n)) {
			o.failed = n
		}
	}
	if p.text == nil {
		return
	}
	if o.failed > 0 || !o.whole(p.text) {
		o.failed++
		o.dropped.Add(1)
	}
}

// whole writes b; false if that failed. After a line of which a part was
// written it begins a new one.
func (o *output) whole(b []byte) bool {
	if o.torn {
		b = append([]byte{'\n'}, b...)
	}
	for {
		n, err := o.w.Write(b)
		if n > 0 {
			o.torn = n < len(b) && b[n-1] != '\n'
		}
		switch {
		case err == nil:
			return true
		case errors.Is(err, syscall.EAGAIN):
			time.Sleep(retryAfter) // there is no event: Go's poller does not know the descriptor
			b = b[n:]
		default:
			return false
		}
	}
}

// flush waits until everything is written, but not beyond the deadline.
func (o *output) flush(deadline time.Time) {
	o.mu.Lock()
	if !o.writing {
		o.mu.Unlock()
		return
	}
	if o.idle == nil {
		o.idle = make(chan struct{})
	}
	idle := o.idle
	o.mu.Unlock()
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
	}
}

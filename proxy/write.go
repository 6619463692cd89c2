package proxy

import (
	"net"
	"syscall"
	"time"
)

// nonblocking writes to a socket that is in no loop without waiting, so that the reader of an
// origin connection can hand a reply to a client's socket itself: that saves a
// goroutine switch per reply and never lets a slow client hold it up.
type nonblocking struct {
	raw syscall.RawConn
	b   []byte
	n   int
	err error
	fn  func(fd uintptr) bool
}

func (w *nonblocking) init(conn net.Conn) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	w.raw = raw
	w.fn = func(fd uintptr) bool {
		w.n, w.err = syscall.Write(int(fd), w.b)
		return true
	}
}

// try writes what the socket takes at once. One sender at a time.
func (w *nonblocking) try(b []byte) int {
	if w.raw == nil {
		return 0
	}
	w.b = b
	err := w.raw.Write(w.fn)
	w.b = nil
	if err != nil || w.err != nil || w.n < 0 {
		return 0 // the write that follows waits, or says what is wrong
	}
	return w.n
}

// tryWrite writes without waiting; ok tells whether all of b is gone.
func (c *conn) tryWrite(b []byte) (n int, ok bool) {
	if len(b) == 0 {
		return 0, true
	}
	if c.src != nil {
		n, _ = c.src.TryWrite(b) // the write that follows waits, or says what is wrong
	} else {
		n = c.nb.try(b)
	}
	return n, n == len(b)
}

// write writes all of b, waiting for the client at most WriteTimeout at a time
// in which it takes nothing at all. On an error the session is shut.
func (c *conn) write(b []byte) error {
	n, ok := c.tryWrite(b)
	for !ok {
		b = b[n:]
		if err := c.sock.SetWriteDeadline(time.Now().Add(c.env.limits().writeTimeout)); err != nil {
			c.shut()
			return err
		}
		// In pieces, so that the deadline speaks of progress.
		piece := b[:min(len(b), outChunk)]
		var err error
		if n, err = c.sock.Write(piece); err != nil {
			c.env.m.writeErrors.Inc()
			c.shut()
			return err
		}
		ok = n == len(b)
	}
	return nil
}

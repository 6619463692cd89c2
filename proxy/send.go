package proxy

// How what is in a queue's output gets to the client.

// take hands the bytes to send to the one sender; ok is false when there is
// nothing to send or somebody else is sending.
func (q *queue) take() (full [][]byte, out []byte, ok bool) {
	if q.closed || len(q.out) == 0 && len(q.full) == 0 {
		return nil, nil, false
	}
	full, out = q.full, q.out
	q.full, q.out = nil, nil
	return full, out, true
}

// Flush sends what can be sent without waiting (origin.Flusher); if the client
// does not take it at once, a goroutine of its own goes on.
func (c *conn) Flush() { c.send(atOnce) }

// sendOut sends what there is, waiting for a slow client; for the reader.
func (c *conn) sendOut() {
	c.settleTimes()
	c.send(asReader)
}

// sender says how somebody sends.
type sender uint8

const (
	atOnce   sender = iota // without waiting
	asReader               // waiting, as the session's reader, which may have a loop to give up first
	aside                  // waiting, on a goroutine for that
)

// send makes the caller the sender, if there is something to send and nobody
// is sending, until nothing is left.
func (c *conn) send(as sender) {
	q := &c.q
	q.mu.Lock()
	q.times.settle(&c.env.m.latency)
	if q.sending {
		q.mu.Unlock()
		return
	}
	for {
		full, out, ok := q.take()
		if !ok {
			break
		}
		q.sending = true
		q.mu.Unlock()
		if !c.tryAll(&full, &out) {
			if as == atOnce {
				go c.finishSend(full, out)
				return
			}
			if as == asReader {
				c.blocking()
			}
			c.writeAll(full, out)
		}
		q.mu.Lock()
	}
	q.sending = false
	if q.waiting {
		q.cond.Signal()
	}
	q.mu.Unlock()
}

// finishSend goes on sending for somebody who must not wait.
func (c *conn) finishSend(full [][]byte, out []byte) {
	c.writeAll(full, out)
	q := &c.q
	q.mu.Lock()
	q.sending = false
	if q.waiting {
		q.cond.Signal()
	}
	q.mu.Unlock()
	c.send(aside)
}

// tryAll writes without waiting; it leaves what the client did not take.
func (c *conn) tryAll(full *[][]byte, out *[]byte) bool {
	for len(*full) > 0 {
		b := (*full)[0]
		n, ok := c.tryWrite(b)
		c.sent(n)
		if !ok {
			(*full)[0] = b[n:]
			return false
		}
		(*full)[0] = nil // or the array would hold on to it
		*full = (*full)[1:]
		c.env.budget.gone(int64(len(b)))
	}
	n, ok := c.tryWrite(*out)
	c.sent(n)
	if !ok {
		*out = (*out)[n:]
		return false
	}
	c.env.buffers.put(*out)
	*out = nil
	return true
}

func (c *conn) writeAll(full [][]byte, out []byte) {
	for i, b := range full {
		if c.write(b) != nil {
			return
		}
		c.sent(len(b))
		full[i] = nil // or the array would hold on to it
		c.env.budget.gone(int64(len(b)))
	}
	if c.write(out) == nil {
		c.sent(len(out))
		c.env.buffers.put(out)
	}
}

func (c *conn) sent(n int) {
	if n == 0 {
		return
	}
	q := &c.q
	q.mu.Lock()
	if !q.closed { // closing has given everything back
		q.grow(c, -int64(n))
		if q.slowSince != 0 && q.size <= softPushBacklog {
			q.slowSince = 0
		}
	}
	if q.waiting {
		q.cond.Signal()
	}
	q.mu.Unlock()
}

package proxy

import "nearside/proxy/origin"

// keepOut is the size beyond which the reader's own output buffer is given back.
const keepOut = 16 << 10

// output is what the client is owed. While async is false nothing is outstanding and
// the reader writes by itself from wbuf; otherwise everything goes through q.
type output struct {
	q     queue
	async bool
	wbuf  []byte
	times batchTimes // of what the reader has answered itself
}

// reply sends a finished reply, in its place behind the answers still to come.
func (c *conn) reply(b []byte) {
	if c.async {
		c.local(b)
		return
	}
	c.wbuf = append(c.wbuf, b...)
	if len(c.wbuf) > outChunk {
		c.flushReplies()
	}
}

// replyShared is reply for bytes that nobody will ever change. Large ones are
// not copied, so that many slow clients of one hot value hold it once.
func (c *conn) replyShared(b []byte) {
	switch {
	case len(b) <= origin.TakeSize:
		c.reply(b)
	case c.async:
		c.localShared(b)
	case c.flushReplies():
		_ = c.writeHeld(b) // with an error the conn is shut
	}
}

// replyParts sends an array, given its head, whose elements nobody will ever change. No push comes between.
func (c *conn) replyParts(head []byte, elements func(yield func([]byte) bool)) {
	if !c.awaitAnswers() {
		return
	}
	if !c.async {
		c.reply(head)
		for e := range elements {
			c.replyShared(e)
		}
		return
	}
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.emit(c, head, false)
	for e := range elements {
		q.emit(c, e, true)
	}
}

// writeHeld writes for the reader; what the client does not take at once is
// counted while it waits.
func (c *conn) writeHeld(b []byte) error {
	n, ok := c.tryWrite(b)
	if ok {
		return nil
	}
	c.blocking()
	c.charge(int64(len(b)))
	err := c.write(b[n:])
	c.charge(-int64(len(b)))
	c.restart() // what comes next is not late because of this
	return err
}

// flushReplies sends the reader's own output or whatever the queue can send.
func (c *conn) flushReplies() bool {
	if c.async {
		c.sendOut()
		return true
	}
	c.settleTimes()
	if len(c.wbuf) == 0 {
		return true
	}
	err := c.writeHeld(c.wbuf)
	if cap(c.wbuf) > keepOut {
		c.wbuf = nil
	} else {
		c.wbuf = c.wbuf[:0]
	}
	return err == nil
}

// drainOut lets the last replies out before the connection closes: what the
// origin still owes, then what the client has not taken.
func (c *conn) drainOut() {
	if !c.quit && !c.async {
		c.flushReplies()
		return
	}
	if c.left { // nothing is owed to it
		return
	}
	c.awaitAnswers()
	c.flushReplies()
	q := &c.q
	q.mu.Lock()
	for c.async && !q.closed && (q.sending || len(q.out)+len(q.full) > 0) {
		if q.sending {
			q.wait()
			continue
		}
		q.mu.Unlock()
		c.sendOut()
		q.mu.Lock()
	}
	q.mu.Unlock()
}

// settleTimes counts what the reader has answered itself.
func (c *conn) settleTimes() {
	if c.times.used > 0 {
		c.times.settle(&c.env.m.latency, c.env.clock()-c.readAt)
	}
}

package origin

import "context"

// ident is the number by which Redis knows a connection (CLIENT ID).
type ident struct {
	known chan struct{} // closed when n is what it will be
	n     int64
}

// AskID puts the question for the connection's number in front of what its owner
// sends first; nothing is written before Flush. Asking again does nothing. Call it
// before anything that would turn the question into something else (MULTI, MONITOR).
func (c *Conn) AskID() {
	id := &ident{known: make(chan struct{})}
	if !c.ident.CompareAndSwap(nil, id) {
		return
	}
	if c.Post(AppendCommand(nil, "CLIENT", "ID"), 1, id) != nil {
		close(id.known)
	}
}

// ID waits for the number that AskID has asked for; 0 if it is not to be had.
func (c *Conn) ID(ctx context.Context) int64 {
	id := c.ident.Load()
	if id == nil {
		return 0
	}
	c.Flush()
	select {
	case <-id.known:
		return id.n
	case <-ctx.Done():
		return 0
	}
}

// Reply takes the number (Sink). A user without the right to ask has none.
func (id *ident) Reply(b []byte, err error, _ *Batch) {
	if err == nil {
		if n, _, ok := Int(b); ok {
			id.n = n
		}
	}
	close(id.known)
}

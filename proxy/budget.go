package proxy

import (
	"sync"
	"sync/atomic"
)

// budget bounds the bytes that requests and replies of all sessions take.
// Small amounts are counted too, so the sum is what sessions really hold.
type budget struct {
	max  int64
	used atomic.Int64
	over func() // called when used passes max; it must not block

	mu      sync.Mutex
	changed sync.Cond // relieve has closed somebody
}

// add counts n bytes, negative when they are gone.
func (b *budget) add(s *session, n int64) {
	s.held.Add(n)
	if b.used.Add(n) > b.max && n > 0 {
		b.over()
	}
}

// reserve counts n more bytes of a request. If they do not fit, the clients that
// hold most are closed first, and who asks waits for that. It reports false, with
// nothing counted, when the asking session is itself the one that holds most.
func (b *budget) reserve(s *session, n int64) bool {
	b.add(s, n)
	if b.used.Load() <= b.max {
		return true
	}
	if s.p.worst() == s {
		b.add(s, -n)
		return false
	}
	b.over()
	b.mu.Lock()
	for b.used.Load() > b.max && !s.shutOnce.Load() && s.p.ctx.Err() == nil {
		b.changed.Wait()
	}
	b.mu.Unlock()
	if b.used.Load() > b.max {
		b.add(s, -n)
		return false
	}
	return true
}

// wake lets those who wait in reserve look again.
func (b *budget) wake() {
	b.mu.Lock()
	b.changed.Broadcast()
	b.mu.Unlock()
}

// bufferPool keeps output buffers of outChunk bytes and small ones apart from
// the garbage collector's work.
type bufferPool struct{ pool sync.Pool }

// smallOut is the size of a fresh output buffer; most batches of replies fit.
const smallOut = 2 << 10

func (p *bufferPool) get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, smallOut)
}

func (p *bufferPool) put(b []byte) {
	if cap(b) < smallOut/2 || cap(b) > 2*outChunk {
		return
	}
	b = b[:0]
	p.pool.Put(&b)
}

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
}

// add counts n bytes, negative when they are gone.
func (b *budget) add(s *session, n int64) {
	s.held.Add(n)
	if b.used.Add(n) > b.max && n > 0 {
		b.over()
	}
}

// fits tells whether n more bytes are within the budget.
func (b *budget) fits(n int64) bool { return b.used.Load()+n <= b.max }

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

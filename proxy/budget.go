package proxy

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// budget bounds the bytes that requests and replies of all sessions take.
// Small amounts are counted too, so the sum is what sessions really hold.
//
// Large requests on their way to Redis, and replies on their way from it, are
// no session's while they last: they are in transit. A request finds room
// before it is read on, or its session waits. A reply cannot wait, since others
// follow it on its connection: it may take half as much again as max, or is
// skipped and its request answered with an error.
type budget struct {
	max     atomic.Int64
	used    atomic.Int64
	transit atomic.Int64 // of used: in the hands of origin connections
	over    func()       // called when there may be somebody to close; it must not block

	mu      sync.Mutex
	changed sync.Cond    // something was given back
	waiting atomic.Int32 // who waits for that

	garbage    atomic.Int64
	collecting atomic.Bool
}

// account is what one client holds of a budget. Its zero value holds nothing.
type account struct{ held atomic.Int64 }

// bytes is how much that is.
func (a *account) bytes() int64 { return a.held.Load() }

// debtor is the client that an account belongs to, as far as a wait for room concerns it.
type debtor interface {
	holdsMost() bool         // no other client holds more
	blocking()               // it is about to wait
	patience() time.Duration // how long it may wait
	over() bool              // its client is gone, or is to go
}

// newBudget returns a budget of most bytes. over is called when there may be a
// client to close; it must not block.
func newBudget(most int64, over func()) *budget {
	b := &budget{over: over}
	b.max.Store(most)
	b.changed.L = &b.mu
	return b
}

// limit replaces the number of bytes.
func (b *budget) limit(most int64) {
	b.max.Store(most)
	b.wake()
}

// add counts n bytes, negative when they are gone.
func (b *budget) add(a *account, n int64) {
	a.held.Add(n)
	if b.used.Add(n) > b.max.Load() && n > 0 {
		b.over()
	}
}

// crowded tells whether sessions must be closed: they hold too much, or leave
// too little for what is in transit.
func (b *budget) crowded() bool {
	used, most := b.used.Load(), b.max.Load()
	return used > most && (used-b.transit.Load() > most || used > most+most/2)
}

// reserve counts n more bytes of a request. If they do not fit, the clients that
// hold most are closed first, and d waits for that. It reports false, with
// nothing counted, when d is itself the one that holds most.
func (b *budget) reserve(a *account, d debtor, n int64) bool {
	b.add(a, n)
	if b.used.Load() <= b.max.Load() {
		return true
	}
	if a.bytes() > b.max.Load() || b.crowded() && d.holdsMost() {
		b.add(a, -n)
		return false
	}
	d.blocking()
	patience := d.patience()
	deadline := time.Now().Add(patience)
	timer := time.AfterFunc(patience, b.wake)
	defer timer.Stop()
	b.waiting.Add(1)
	defer b.waiting.Add(-1)
	full := func() bool {
		return b.used.Load() > b.max.Load() && !d.over() && time.Now().Before(deadline)
	}
	for full() {
		if b.crowded() {
			b.over()
		}
		b.mu.Lock()
		if full() {
			b.changed.Wait()
		}
		b.mu.Unlock()
	}
	if b.used.Load() > b.max.Load() {
		b.add(a, -n)
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

// alwaysFits is the size of a reply that is never skipped.
const alwaysFits = 512 << 10

// Reserve counts n bytes of a reply that is being received (origin.Budget).
func (b *budget) Reserve(n int64) bool {
	used, transit := b.used.Add(n), b.transit.Add(n)
	if used <= b.max.Load() {
		return true
	}
	if n > alwaysFits && transit > b.max.Load()/2 {
		b.used.Add(-n)
		b.transit.Add(-n)
		return false
	}
	b.over()
	return true
}

// Release gives back what was in transit (origin.Budget).
func (b *budget) Release(n int64) {
	if n == 0 {
		return
	}
	b.transit.Add(-n)
	b.used.Add(-n)
	b.gone(n)
	if b.waiting.Load() > 0 {
		b.wake()
	}
}

// handOver puts n bytes of an account into transit.
func (b *budget) handOver(a *account, n int64) {
	b.transit.Add(n)
	a.held.Add(-n)
}

// handBack puts n bytes in transit on an account.
func (b *budget) handBack(a *account, n int64) {
	a.held.Add(n)
	b.transit.Add(-n)
}

// The garbage collector lets the heap double before it looks, which for buffers of
// this size would be a second copy of each.
const (
	hugeBuffer  = 16 << 20
	muchGarbage = 64 << 20
)

// gone notes that nobody refers to a buffer of n bytes any more.
func (b *budget) gone(n int64) {
	if n < hugeBuffer || b.garbage.Add(n) < muchGarbage || !b.collecting.CompareAndSwap(false, true) {
		return
	}
	b.garbage.Store(0)
	go func() {
		runtime.GC()
		b.collecting.Store(false)
	}()
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

package origin

import "sync/atomic"

// entry is a request that has no reply yet.
type entry struct {
	sink    Sink
	replies int
	orError bool // a first reply that is an error is the only one
}

const chunkSize = 64

type chunk struct {
	entries [chunkSize]entry
	next    *chunk
}

// pending is the queue of unanswered requests. Producers push under the
// connection's lock; the reading goroutine alone pops, without a lock: sent is
// stored after the entry (and the link to its chunk) was written, and read
// before either is read.
type pending struct {
	sent      atomic.Int64
	delivered atomic.Int64
	tail      *chunk // producers'
	head      *chunk // the reader's …
	headAt    int64  // … and the number of its first entry

	// Used chunks: the reader alone puts them there, producers take them under
	// the connection's lock. With one taker at a time a stack has no ABA trouble.
	free  atomic.Pointer[chunk]
	frees atomic.Int32
}

const maxFree = 32

func (p *pending) init() {
	p.tail = &chunk{}
	p.head = p.tail
}

func (p *pending) push(e entry) {
	n := p.sent.Load()
	i := n % chunkSize
	if i == 0 && n > 0 {
		next := p.takeFree()
		p.tail.next = next
		p.tail = next
	}
	p.tail.entries[i] = e
	p.sent.Store(n + 1)
}

// peek returns the oldest entry, nil if there is none.
func (p *pending) peek() *entry {
	n := p.delivered.Load()
	if n == p.sent.Load() {
		return nil
	}
	if n-p.headAt == chunkSize {
		old := p.head
		p.head, p.headAt = old.next, n
		p.putFree(old)
	}
	return &p.head.entries[n-p.headAt]
}

func (p *pending) takeFree() *chunk {
	for {
		c := p.free.Load()
		if c == nil {
			return &chunk{}
		}
		if p.free.CompareAndSwap(c, c.next) {
			p.frees.Add(-1)
			c.next = nil
			return c
		}
	}
}

func (p *pending) putFree(c *chunk) {
	if p.frees.Load() >= maxFree {
		return
	}
	p.frees.Add(1)
	for {
		c.next = p.free.Load()
		if p.free.CompareAndSwap(c.next, c) {
			return
		}
	}
}

// pop takes the entry away that peek has returned.
func (p *pending) pop(e *entry) Sink {
	s := e.sink
	*e = entry{}
	p.delivered.Add(1)
	return s
}

func (p *pending) len() int64 {
	d := p.delivered.Load() // first: sent never falls behind it
	return p.sent.Load() - d
}

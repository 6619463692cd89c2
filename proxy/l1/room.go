package l1

import (
	"math"
	"sync/atomic"
)

// room accounts for every entry from before ristretto is given it until
// ristretto lets go of it. ristretto itself cannot be asked: it does not count
// what is queued, and lets an update exceed its MaxCost.
type room struct {
	maxBytes, maxEntries atomic.Int64 // maxEntries 0: none
	maxQueued            int64

	_              [64]byte
	bytes, entries atomic.Int64
	queued         atomic.Int64 // Sets on their way, a part of entries
	queuedBytes    atomic.Int64 // the same of bytes
	_              [64]byte
}

// bound sets the bounds. What is there already may be more.
func (r *room) bound(bytes, entries int64) {
	r.maxBytes.Store(bytes)
	r.maxEntries.Store(entries)
}

// take reserves room for an entry that is about to be queued.
func (r *room) take(cost int64) (Drop, bool) {
	most := r.maxEntries.Load()
	if most == 0 {
		most = math.MaxInt64
	}
	switch {
	case !addBelow(&r.queued, 1, r.maxQueued):
		return DropQueue, false
	case !addBelow(&r.entries, 1, most):
		r.queued.Add(-1)
		return DropEntries, false
	case !addBelow(&r.bytes, cost, r.maxBytes.Load()):
		r.queued.Add(-1)
		r.entries.Add(-1)
		return DropMemory, false
	}
	r.queuedBytes.Add(cost)
	return 0, true
}

// applied: the entry is no longer queued.
func (r *room) applied(cost int64) {
	r.queuedBytes.Add(-cost)
	r.queued.Add(-1)
}

// give returns an entry's room.
func (r *room) give(cost int64) {
	r.bytes.Add(-cost)
	r.entries.Add(-1)
}

// stuck says that there would be no room for cost even if nothing were queued.
func (r *room) stuck(cost int64) bool {
	return r.bytes.Load()-r.queuedBytes.Load()+cost > r.maxBytes.Load() ||
		r.maxEntries.Load() > 0 && r.entries.Load()-r.queued.Load() >= r.maxEntries.Load()
}

// held is what a rule has of room's bytes and entries.
type held struct{ entries, bytes atomic.Int64 }

func (h *held) add(entries, bytes int64) {
	h.entries.Add(entries)
	h.bytes.Add(bytes)
}

// Held is the part of Stats' Entries and Bytes that a rule's entries are, dead
// ones included.
func (c *Cache) Held(rule int) (entries, bytes int64) {
	h := &c.held[rule]
	return h.entries.Load(), h.bytes.Load()
}

// addBelow never lets the sum be seen above its bound, as Add and a step back would.
func addBelow(sum *atomic.Int64, n, bound int64) bool {
	for {
		old := sum.Load()
		if old+n > bound {
			return false
		}
		if sum.CompareAndSwap(old, old+n) {
			return true
		}
	}
}

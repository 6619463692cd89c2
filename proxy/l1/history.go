package l1

import (
	"sync/atomic"
	"time"
)

// What last happened to a key, for people. It decides nothing: Get does not look
// at it, and what is lost of it in a race is lost.
//
// Beside each counter stands one word of who raised it last, when, and why the
// last fetch was not stored:
//
//	time since New (43 bits, of 16 µs: 4 years) │ source (5) │ drop (4) │ tag (12)
//
// The tag is of the part of the key's hash that does not choose the counter. It tells
// that the word is another key's, but for one in 4,096 of those that share a counter.

// Source says who caused an invalidation. The caller numbers its own from
// FirstSource to LastSource.
type Source uint8

// The sources known here.
const (
	NoSource    Source = iota // nothing that is remembered
	Written                   // a write between BeginWrite and EndWrite, or BeginAll and EndAll
	FirstSource               // the first that is the caller's
	LastSource  Source = 30

	displaced Source = 31 // another key has used the place

	// Echo, added to a source, says that it reports this process's own writes as
	// well. What it reports within echoTime of one is taken for that.
	Echo Source = 1 << 7
)

// echoTime is longer than a report takes that comes behind a write's reply. A
// change that somebody else makes within it is attributed to the write.
const echoTime = 100 * time.Millisecond

// Scope says how much an invalidation has outdated.
type Scope uint8

// The scopes.
const (
	ScopeKey Scope = iota
	ScopeRule
	ScopeAll
)

func (s Scope) String() string { return [...]string{"key", "rule", "everything"}[s] }

// History is what is remembered of one key.
type History struct {
	By    Source // of the last invalidation that took the key along; NoSource: there is none
	Scope Scope
	Ago   time.Duration
	// Displaced: another key, with the same counter, has used the place since. There
	// may have been a later invalidation of this one.
	Displaced bool
	// NotStored: the last fetch of the key left nothing, for the reason Drop.
	NotStored bool
	Drop      Drop
}

const (
	tagBits  = 12
	tagMask  = 1<<tagBits - 1
	dropBits = 4
	dropMask = (1<<dropBits - 1) << tagBits
	sourceAt = tagBits + dropBits
	timeAt   = sourceAt + 5

	tick = 1 << 14 // nanoseconds
)

// history is the words.
type history struct {
	base  time.Time
	keys  *[slots]atomic.Uint64
	rules []atomic.Uint64
	all   atomic.Uint64
}

func (h *history) init(rules int) {
	h.base = time.Now()
	h.keys = new([slots]atomic.Uint64)
	h.rules = make([]atomic.Uint64, rules+1)
}

// word is what is stored of an invalidation now.
func (h *history) word(by Source) uint64 {
	return uint64(time.Since(h.base))/tick<<timeAt | uint64(by&^Echo)<<sourceAt
}

// tagOf is the slot's tag.
func tagOf(slot uint32) uint64 { return uint64(slot) / slots & tagMask }

func sourceOf(word uint64) Source { return Source(word >> sourceAt & (1<<5 - 1)) }

// echoes tells whether an invalidation by by reports the write noted before.
func echoes(old, word uint64, by Source) bool {
	return by&Echo != 0 && sourceOf(old) == Written && word>>timeAt-old>>timeAt < uint64(echoTime/tick)
}

// invalidated notes an invalidation of the slot's key.
func (h *history) invalidated(slot uint32, by Source) {
	w, tag := &h.keys[slot%slots], tagOf(slot)
	word := h.word(by) | tag
	old := w.Load()
	if old&tagMask == tag {
		if echoes(old, word, by) {
			return
		}
		word |= old & dropMask
	}
	w.Store(word)
}

// invalidatedAll notes an invalidation of everything.
func (h *history) invalidatedAll(by Source) {
	if word := h.word(by); !echoes(h.all.Load(), word, by) {
		h.all.Store(word)
	}
}

// notStored notes why a fetch left nothing. Whoever comes between knows better.
func (h *history) notStored(slot uint32, why Drop) {
	w, tag := &h.keys[slot%slots], tagOf(slot)
	old := w.Load()
	word := old &^ (dropMask | tagMask)
	if old != 0 && old&tagMask != tag {
		word = old>>timeAt<<timeAt | uint64(displaced)<<sourceAt
	}
	w.CompareAndSwap(old, word|uint64(why+1)<<tagBits|tag)
}

// storing forgets what notStored has noted.
func (h *history) storing(slot uint32) {
	w := &h.keys[slot%slots]
	if old := w.Load(); old&dropMask != 0 && old&tagMask == tagOf(slot) {
		w.CompareAndSwap(old, old&^dropMask)
	}
}

// NotStored notes, for History, that the reply of a fetch is not kept. It never blocks.
func (c *Cache) NotStored(st Stamp, why Drop) { c.history.notStored(st.slot, why) }

// History tells what last happened to a key under a rule.
func (c *Cache) History(key []byte, rule int) History {
	h := &c.history
	slot := c.Slot(key)
	var got History
	word := h.keys[slot%slots].Load()
	switch {
	case word == 0:
	case word&tagMask != tagOf(slot):
		got.Displaced, word = true, 0
	default:
		if drop := word & dropMask >> tagBits; drop != 0 {
			got.NotStored, got.Drop = true, Drop(drop-1)
		}
		if sourceOf(word) == displaced {
			got.Displaced, word = true, 0
		}
	}
	for scope, other := range [...]uint64{ScopeRule: h.rules[rule].Load(), ScopeAll: h.all.Load()} {
		if sourceOf(word) == NoSource || sourceOf(other) != NoSource && other>>timeAt >= word>>timeAt {
			word, got.Scope = other, Scope(scope)
		}
	}
	if got.By = sourceOf(word); got.By != NoSource {
		got.Ago = time.Since(h.base) - time.Duration(word>>timeAt)*tick
	}
	return got
}

// The methods of stamps that outdate something, with the memory of it. Where it
// is read whether an entry is current, the memory has no part.

// EndWrite ends what one BeginWrite began.
func (c *Cache) EndWrite(slot uint32) {
	c.stamps.EndWrite(slot)
	c.history.invalidated(slot, Written)
}

// EndAll ends what one BeginAll began.
func (c *Cache) EndAll() {
	c.stamps.EndAll()
	c.history.invalidatedAll(Written)
}

// Invalidate overtakes everything noted for the key. It never blocks.
func (c *Cache) Invalidate(key []byte, by Source) { c.InvalidateSlot(c.Slot(key), by) }

// InvalidateSlot is Invalidate for a key whose Slot is known.
func (c *Cache) InvalidateSlot(slot uint32, by Source) {
	c.stamps.InvalidateSlot(slot)
	c.history.invalidated(slot, by)
}

// InvalidateRule overtakes everything noted under one rule.
func (c *Cache) InvalidateRule(rule int, by Source) {
	c.stamps.InvalidateRule(rule)
	c.history.rules[rule].Store(c.history.word(by))
}

// InvalidateAll overtakes everything.
func (c *Cache) InvalidateAll(by Source) {
	c.stamps.InvalidateAll()
	c.history.invalidatedAll(by)
}

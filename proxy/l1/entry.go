package l1

import (
	"bytes"
	"sync/atomic"
)

// Entry is one stored reply. It is immutable, but for its mark.
type Entry struct {
	Reply    []byte // as Redis sent it
	Deadline int64  // clock of the caller, nanoseconds: not served from then on
	Stored   int64  // Fill.Now

	// id's capacity spans the one allocation that holds id, key and reply.
	id             []byte
	word           uint64
	gen            uint64
	ruleGen        uint64
	rule           uint32
	gone           atomic.Bool // ristretto has let go of it (front)
	slot           uint32
	keyAt, keySize uint32 // keySize with negativeBit
	mark           atomic.Uint32
}

// negativeBit says in keySize that Fill.Negative was set: a bool would take the
// struct into the allocator's next size.
const negativeBit = 1 << 31

// overhead is what an entry takes beyond id and reply: this struct (112 bytes),
// its places in ristretto's two maps (85 to 175 bytes, by how full they happen
// to be) and what the allocator rounds up. TestOverhead measures it.
const overhead = 280

// newEntry copies everything: callers reuse their buffers.
func newEntry(f *Fill) *Entry {
	at := bytes.Index(f.ID, f.Key)
	size := len(f.ID) + len(f.Reply)
	if at < 0 {
		size += len(f.Key)
	}
	buf := make([]byte, 0, size)
	buf = append(buf, f.ID...)
	if at < 0 {
		at = len(buf)
		buf = append(buf, f.Key...)
	}
	start := len(buf)
	buf = append(buf, f.Reply...)
	keySize := uint32(len(f.Key))
	if f.Negative {
		keySize |= negativeBit
	}
	return &Entry{
		Reply:    buf[start:size:size],
		Deadline: f.Deadline,
		Stored:   f.Now,
		rule:     uint32(f.Rule),
		id:       buf[:len(f.ID)],
		word:     f.Stamp.word,
		gen:      f.Stamp.gen,
		ruleGen:  f.Stamp.ruleGen,
		slot:     f.Stamp.slot,
		keyAt:    uint32(at),
		keySize:  keySize,
	}
}

// cost is what newEntry's result will be accounted with.
func (f *Fill) cost() int64 {
	n := len(f.ID) + len(f.Reply) + overhead
	if !bytes.Contains(f.ID, f.Key) {
		n += len(f.Key)
	}
	return int64(n)
}

func (e *Entry) cost() int64 { return int64(cap(e.id)) + overhead }

// Rule is Fill.Rule.
func (e *Entry) Rule() int { return int(e.rule) }

// ID is the full cache key. It must not be changed.
func (e *Entry) ID() []byte { return e.id[:len(e.id):len(e.id)] }

// Key is the data key. It must not be changed.
func (e *Entry) Key() []byte {
	end := e.keyAt + e.keySize&^negativeBit
	return e.id[e.keyAt:end:end]
}

// Bytes is what the entry is accounted with.
func (e *Entry) Bytes() int64 { return e.cost() }

func (e *Entry) stamp() Stamp {
	return Stamp{slot: e.slot, rule: e.rule, word: e.word, gen: e.gen, ruleGen: e.ruleGen}
}

// Negative says that there is no such key (Fill.Negative).
func (e *Entry) Negative() bool { return e.keySize&negativeBit != 0 }

// Mark marks the entry, and is true for the first who marks it so. A new entry's
// mark is 0. It costs one load to all others.
func (e *Entry) Mark(mark uint32) (first bool) {
	old := e.mark.Load()
	return old != mark && e.mark.CompareAndSwap(old, mark)
}

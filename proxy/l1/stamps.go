package l1

import (
	"hash/maphash"
	"sync/atomic"
)

const (
	slots = 1 << 18 // counters; 2 MiB

	// A word is version<<24 | writers.
	//
	// The version has 40 bits. A stale entry would count as current again only
	// if its word took exactly 2^40 changes between two looks at it: at ten
	// million changes a second of this one counter, 30 hours in which the
	// deadline, capped by the rule's ttl, has long passed. The writers part
	// overflows at 16.7 million writes of one key under way at once, more than
	// the sessions together may have outstanding.
	version = 1 << 24
	writers = version - 1
)

// padded keeps a counter alone on its cache line.
type padded struct {
	atomic.Uint64
	_ [56]byte
}

// stamps are the counters that decide what is current. They are the only part
// of the package that correctness rests on.
type stamps struct {
	seed  maphash.Seed
	words *[slots]atomic.Uint64
	rules []padded // a version per rule; index 0 is unused

	_         [64]byte
	gen       padded       // one word for everything; read by every look-up, written rarely
	suspended atomic.Int32 // tells Suspended from Writing in a reason code; decides nothing
	_         [60]byte
	changes   [16]padded // invalidations, for Stats; striped since a write's path goes through here
}

func (s *stamps) init(rules int) {
	s.seed = maphash.MakeSeed()
	s.words = new([slots]atomic.Uint64)
	s.rules = make([]padded, rules+1)
	s.gen.Store(version) // so that the zero Stamp is never current
}

// Stamp is the version that an entry carries. The zero Stamp is never current.
type Stamp struct {
	slot, rule         uint32
	word, gen, ruleGen uint64
}

// Slot names the key's counter, which is the one at Slot modulo slots; what of it
// is beyond tells, in history, one key from another. Keys may share a counter:
// then an invalidation of one takes the other with it, never the reverse.
func (s *stamps) Slot(key []byte) uint32 { return uint32(maphash.Bytes(s.seed, key)) }

// Note takes the key's stamp. It must be called before the request whose reply
// is to carry it is sent. It panics on a rule outside 0 to Config.Rules.
func (s *stamps) Note(key []byte, rule int) Stamp {
	slot := s.Slot(key)
	return Stamp{
		slot:    slot,
		rule:    uint32(rule),
		word:    s.words[slot%slots].Load(),
		gen:     s.gen.Load(),
		ruleGen: s.rules[rule].Load(),
	}
}

// Current says that nothing has overtaken the stamp and that the key is not
// being written. A Stamp noted while the key was being written never is.
func (s *stamps) Current(st Stamp) bool {
	return st.word&writers == 0 && st.gen&writers == 0 &&
		s.words[st.slot%slots].Load() == st.word &&
		s.gen.Load() == st.gen &&
		s.rules[st.rule].Load() == st.ruleGen
}

// BeginWrite is called before a write of a key is sent, EndWrite once after its
// outcome is known, or known to stay unknown. In between no hit is answered, no
// reply noted is stored, and no flight is joined. Either end raises the version;
// with the writers in the word, one of the two would do.
func (s *stamps) BeginWrite(slot uint32) {
	s.words[slot%slots].Add(version + 1)
	s.changed(slot)
}

// EndWrite ends what one BeginWrite began.
func (s *stamps) EndWrite(slot uint32) { s.words[slot%slots].Add(version - 1) }

// InvalidateSlot overtakes everything noted for the keys of the counter. It never blocks.
func (s *stamps) InvalidateSlot(slot uint32) {
	s.words[slot%slots].Add(version)
	s.changed(slot)
}

// InvalidateRule overtakes everything noted under one rule.
func (s *stamps) InvalidateRule(rule int) {
	s.rules[rule].Add(1)
	s.changed(0)
}

// InvalidateAll overtakes everything.
func (s *stamps) InvalidateAll() {
	s.gen.Add(version)
	s.changed(0)
}

// BeginAll is BeginWrite for every key at once.
func (s *stamps) BeginAll() {
	s.gen.Add(version + 1)
	s.changed(0)
}

// EndAll ends what one BeginAll began.
func (s *stamps) EndAll() { s.gen.Add(version - 1) }

// Suspend makes everything count as being written until Resume. Unlike BeginAll
// it raises no generation: what was stored before is valid again afterwards.
// What is noted in between is never stored. Calls nest.
func (s *stamps) Suspend() {
	s.suspended.Add(1)
	s.gen.Add(1)
}

// Resume ends what one Suspend began.
func (s *stamps) Resume() {
	s.gen.Add(^uint64(0))
	s.suspended.Add(-1)
}

// stopped says why nothing at all may be served, given a generation with writers.
func (s *stamps) stopped() Miss {
	if s.suspended.Load() > 0 {
		return Suspended
	}
	return Writing
}

func (s *stamps) changed(slot uint32) { s.changes[slot%uint32(len(s.changes))].Add(1) }

func (s *stamps) invalidations() (n uint64) {
	for i := range s.changes {
		n += s.changes[i].Load()
	}
	return n
}

package l1

import (
	"bytes"
	"errors"
	"hash/maphash"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/ristretto/v2"
)

// Config says how large the cache may be.
type Config struct {
	// Memory bounds the bytes of all entries together as accounted (id, reply
	// and overhead), queued Puts included.
	Memory int64
	// MaxEntries bounds their number, queued Puts included; 0: Memory alone decides.
	MaxEntries int64
	// Rules is the highest rule id; they run from 1.
	Rules int
	// Evicted, if set, is called when n entries of a rule were thrown out to
	// make room. It must not block.
	Evicted func(rule, n int)
}

// Cache is a near cache. Its methods may be called by many at once.
type Cache struct {
	store   *ristretto.Cache[uint64, *Entry]
	gates   *[64]gate
	limits  atomic.Pointer[limits]
	marker  *Entry
	evicted func(rule, n int)

	// What is above is only read. stamps and room begin and end with what is
	// only read, or with space.
	stamps
	front    front
	room     room
	held     []held // by rule
	flights  flights
	tally    tally
	history  history
	relieves atomic.Bool
	close    sync.Once
	closing  atomic.Bool
}

// gate keeps Close apart from what uses ristretto, whose Close may panic and
// race with its Get and Set. Everyone takes it with TryRLock, which fails only
// once Close has come: Close locks all gates and never unlocks them.
type gate struct {
	sync.RWMutex
	_ [40]byte
}

const (
	maxQueued = 16 << 10 // ristretto's queue takes 32 Ki: never full, so it never drops a Set
	markerKey = 0        // hash gives no id this one

	// A burst of Puts and updates that grow need room beyond what ristretto
	// fills: this part of Memory, and at least leastHeadRoom where Memory allows.
	headRoom      = 16
	leastHeadRoom = 64 << 10
)

// New starts a cache.
func New(cfg Config) (*Cache, error) {
	switch {
	case cfg.Memory <= 0:
		return nil, errors.New("l1: memory must be greater than 0")
	case cfg.MaxEntries < 0:
		return nil, errors.New("l1: max_entries must not be negative")
	case cfg.Rules < 0:
		return nil, errors.New("l1: the number of rules must not be negative")
	}
	c := &Cache{
		gates:   new([64]gate),
		marker:  new(Entry),
		evicted: cfg.Evicted,
		room:    room{maxQueued: maxQueued},
		held:    make([]held, cfg.Rules+1),
	}
	l := limitsOf(cfg.Memory, cfg.MaxEntries)
	c.limits.Store(l)
	c.room.bound(cfg.Memory, cfg.MaxEntries)
	c.init(cfg.Rules)
	c.history.init(cfg.Rules)
	store, err := ristretto.NewCache(&ristretto.Config[uint64, *Entry]{
		NumCounters:        counters(cfg),
		MaxCost:            l.maxCost,
		BufferItems:        128, // after so many Gets it wakes a worker
		IgnoreInternalCost: true,
		// No conflict hash: two ids with one hash replace each other, and Get
		// compares the whole id. With one, ristretto would drop a Set silently.
		KeyToHash: func(h uint64) (uint64, uint64) { return h, 0 },
		Cost:      c.applied,
		OnEvict:   c.onEvict,
		OnReject:  c.onReject,
		OnExit:    c.onExit,
		// Entries are stored without a TTL of ristretto's: its clock stops while
		// the machine sleeps, it would be read on every Get, and its table of
		// deadlines takes memory per entry. So its cleaner has nothing to do.
		TtlTickerDurationInSec: 1 << 20,
	})
	if err != nil {
		return nil, err
	}
	c.store = store
	return c, nil
}

// counters is the size of ristretto's frequency sketch: ten times the entries
// expected at 512 bytes each, as its documentation advises, rounded down to a
// power of two since it rounds up. It takes 4 bytes for each: 4 to 8 % of
// Memory, 64 KiB to 32 MiB, not accounted.
func counters(cfg Config) int64 {
	entries := cfg.Memory / 512
	if cfg.MaxEntries > 0 {
		entries = min(entries, cfg.MaxEntries)
	}
	n := min(max(entries, 1<<14/10+1)*10, 1<<23)
	return 1 << (bits.Len64(uint64(n)) - 1)
}

// Close ends the cache. Get misses and Put stores nothing from then on.
func (c *Cache) Close() {
	c.close.Do(func() {
		for i := range c.gates {
			c.gates[i].Lock()
		}
		c.closing.Store(true)
		c.store.Close()
		c.room.queued.Store(0)
		c.room.queuedBytes.Store(0)
	})
}

// hash is the key under which ristretto holds an id.
func (c *Cache) hash(id []byte) uint64 { return max(maphash.Bytes(c.seed, id), markerKey+1) }

func (c *Cache) gate(h uint64) *gate { return &c.gates[h%uint64(len(c.gates))] }

// Get looks an entry up. id is the full cache key (database, user, protocol,
// command, arguments), key the data key within. The caller must not change what
// it gets, and may keep it.
func (c *Cache) Get(id, key []byte, rule int, now int64) (*Entry, Miss) {
	return c.get(c.hash(id), id, key, rule, now)
}

func (c *Cache) get(h uint64, id, key []byte, rule int, now int64) (*Entry, Miss) {
	if e := c.front.find(h); e != nil && !c.closing.Load() {
		if e.Rule() == rule && bytes.Equal(e.id, id) && c.judge(e, now) == Hit {
			return e, Hit
		} // else ristretto may have a later one
	}
	g := c.gate(h)
	if !g.TryRLock() {
		return nil, Closed
	}
	e, ok := c.store.Get(h)
	g.RUnlock()
	// ristretto knows the hash only.
	if !ok || e.Rule() != rule || !bytes.Equal(e.id, id) {
		switch {
		case c.gen.Load()&writers != 0:
			return nil, c.stopped()
		case c.words[c.Slot(key)%slots].Load()&writers != 0:
			return nil, Writing
		}
		return nil, Absent
	}
	if miss := c.judge(e, now); miss != Hit {
		return nil, miss
	}
	c.front.put(h, e)
	return e, Hit
}

// judge tells whether an entry is current, and if not, why.
func (c *Cache) judge(e *Entry, now int64) Miss {
	gen, word := c.gen.Load(), c.words[e.slot%slots].Load()
	switch {
	case gen&writers != 0:
		return c.stopped()
	case word != e.word && word&writers != 0:
		return Writing
	case word != e.word, gen != e.gen, c.rules[e.rule].Load() != e.ruleGen:
		return Overtaken
	case now >= e.Deadline:
		return Expired
	}
	return Hit
}

// Stamped is the entry's stamp, for looking again whether it is Current: the
// entries of one MGET are a state that existed if all stamps still are after
// the last was found.
func (c *Cache) Stamped(e *Entry) Stamp { return e.stamp() }

// Fill is a reply to store. Everything is copied.
type Fill struct {
	ID, Key  []byte
	Stamp    Stamp // noted, for Key and Rule, before the request was sent
	Rule     int
	Now      int64
	Deadline int64
	Reply    []byte
	Negative bool // the reply says that there is no such key
}

// Put stores a reply whose stamp is current, and says whether it did. It may
// become visible a little later, or never if the policy prefers other entries.
// It never blocks.
func (c *Cache) Put(f Fill) (stored bool) { return c.put(c.hash(f.ID), &f) }

func (c *Cache) put(h uint64, f *Fill) bool {
	cost := f.cost()
	switch {
	case int(f.Stamp.rule) != f.Rule || f.Stamp.slot != c.Slot(f.Key):
		return c.drop(DropMismatch)
	case !c.Current(f.Stamp):
		// Thrift only: with this stamp it would never be served.
		return c.lose(f, DropOvertaken)
	case f.Deadline <= f.Now:
		return c.lose(f, DropExpired)
	case cost > c.limits.Load().maxEntry:
		return c.lose(f, DropTooBig)
	}
	g := c.gate(h)
	if !g.TryRLock() {
		return c.drop(DropClosed)
	}
	defer g.RUnlock()
	if why, ok := c.room.take(cost); !ok {
		if why != DropQueue && c.room.stuck(cost) {
			c.relieve(h)
		}
		return c.lose(f, why)
	}
	c.history.storing(f.Stamp.slot) // first: ristretto may reject it before Set returns
	c.held[f.Rule].add(1, cost)
	// Cost 0 makes ristretto ask for it when it takes the item from its queue.
	if !c.store.Set(h, newEntry(f), 0) {
		c.room.applied(cost)
		c.room.give(cost)
		c.held[f.Rule].add(-1, -cost)
		return c.lose(f, DropQueue)
	}
	c.tally.puts.Add(1)
	return true
}

func (c *Cache) drop(why Drop) bool {
	c.tally.dropped[why].Add(1)
	return false
}

// lose is drop of a reply whose key is to be remembered for it.
func (c *Cache) lose(f *Fill, why Drop) bool {
	c.history.notStored(f.Stamp.slot, why)
	return c.drop(why)
}

// applied is called by ristretto's one worker when it has taken a Set from its
// queue, and returns the cost for the policy.
//
// That is the cost of what the store holds, not of e, where the two differ. A
// first Set of an id is refused if an older one was queued before it, yet the
// policy takes over its cost; an update is visible at once, so a later one may
// hold the place already. A policy that believes a large entry small would not
// make room for others, ever.
func (c *Cache) applied(e *Entry) int64 {
	if e == c.marker {
		return math.MaxInt64 // always rejected
	}
	c.room.applied(e.cost())
	h := c.hash(e.id)
	if _, ok := c.store.GetTTL(h); ok { // unlike Get it does not count as use
		if held, ok := c.store.Get(h); ok {
			e = held
		}
	}
	return max(e.cost(), c.limits.Load().share)
}

func (c *Cache) onEvict(i *ristretto.Item[*Entry]) {
	// Closing, ristretto reports all it has; and the entry of a victim that was
	// deleted at the same time is nil.
	if e := i.Value; e != nil && e != c.marker && !c.closing.Load() {
		c.countEvicted(e)
	}
}

func (c *Cache) countEvicted(e *Entry) {
	c.tally.evicted.Add(1)
	if c.Current(e.stamp()) { // else it was of no use any more
		c.history.notStored(e.slot, DropEvicted)
	}
	if c.evicted != nil {
		c.evicted(e.Rule(), 1)
	}
}

func (c *Cache) onReject(i *ristretto.Item[*Entry]) {
	if e := i.Value; e != c.marker {
		if e != nil {
			c.history.notStored(e.slot, DropRejected)
		}
		c.drop(DropRejected)
	}
}

// onExit is called for every value once, whichever way it leaves: updated,
// evicted, rejected, deleted, or when closing.
func (c *Cache) onExit(e *Entry) {
	switch e {
	case nil:
	case c.marker:
		c.relieves.Store(false)
	default:
		c.front.drop(c.hash(e.id), e)
		c.room.give(e.cost())
		c.held[e.Rule()].add(-1, -e.cost())
	}
}

// relieve throws one entry out, past the policy, when there would be no room
// even if nothing were queued. ristretto evicts only when it adds a new entry;
// entries that grew by updates can fill Memory to where nothing new gets as far
// as that, and it would stay so for good.
//
// One at a time: Del queues an item that reports nothing, so a marker is queued
// behind it, and the next may start when the marker comes out.
func (c *Cache) relieve(h uint64) {
	if !c.relieves.CompareAndSwap(false, true) {
		return
	}
	victim, ok := c.store.Get(h) // about to be replaced anyway
	if !ok {
		victim = c.worst()
	}
	if victim == nil {
		c.relieves.Store(false)
		return
	}
	c.store.Del(c.hash(victim.id))
	c.countEvicted(victim)
	if !c.store.Set(markerKey, c.marker, 0) {
		c.relieves.Store(false)
	}
}

// worst is a dead one of a few entries, or any.
func (c *Cache) worst() (found *Entry) {
	seen := 0
	c.store.IterValues(func(e *Entry) (stop bool) {
		seen++
		found = e
		return !c.Current(e.stamp()) || seen == 16
	})
	return found
}

// Each calls f for every entry, dead ones included, until it returns false. It
// misses those that are still queued.
func (c *Cache) Each(f func(*Entry) bool) {
	for _, e := range c.all() {
		if !f(e) {
			return
		}
	}
}

// all takes the entries out first, so that Each's f holds no lock of ristretto's.
func (c *Cache) all() (entries []*Entry) {
	g := c.gate(0)
	if !g.TryRLock() {
		return nil
	}
	defer g.RUnlock()
	c.store.IterValues(func(e *Entry) (stop bool) {
		entries = append(entries, e)
		return false
	})
	return entries
}

// Wait returns when every Put made before has been applied. It blocks: for tests.
func (c *Cache) Wait() {
	g := c.gate(0)
	if !g.TryRLock() {
		return
	}
	defer g.RUnlock()
	c.store.Wait()
}

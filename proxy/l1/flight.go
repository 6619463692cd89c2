package l1

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// Waiter is told the reply of a flight it joined.
type Waiter interface {
	// Filled must not block. reply is valid during the call only.
	Filled(reply []byte, err error)
}

// Flight is one request under way on behalf of all who asked for the same.
type Flight struct {
	group   *flights
	shard   *flightShard
	id      string
	stamp   Stamp
	waiters []Waiter // guarded by shard
}

const flightShards = 64

type flights struct {
	shards [flightShards]flightShard

	started, joined atomic.Uint64
	now             atomic.Int64
}

type flightShard struct {
	sync.Mutex
	table map[string]*Flight
	_     [48]byte
}

// Join takes part in the flight for id, or starts one.
//
// A leader must send the request and call Finish exactly once; its own w is not
// called. For everybody else w is called once, by the leader's Finish.
//
// A flight is joined only while its stamp is current: a reply that was
// overtaken may answer those who asked before that and nobody after. The next
// to ask then leads a new flight, which takes the old one's place.
func (c *Cache) Join(id, key []byte, rule int, w Waiter) (f *Flight, leader bool) {
	g := &c.flights
	s := &g.shards[maphash.Bytes(c.seed, id)%flightShards]
	s.Lock()
	defer s.Unlock()
	old := s.table[string(id)]
	if old != nil && c.Current(old.stamp) {
		old.waiters = append(old.waiters, w)
		g.joined.Add(1)
		return old, false
	}
	f = &Flight{group: g, shard: s, id: string(id), stamp: c.Note(key, rule)}
	g.started.Add(1)
	g.now.Add(1)
	if s.table == nil {
		s.table = make(map[string]*Flight)
	}
	s.table[f.id] = f
	return f, true
}

// UnderWay says whether Join would find a flight for id, current or not.
func (c *Cache) UnderWay(id []byte) bool {
	s := &c.flights.shards[maphash.Bytes(c.seed, id)%flightShards]
	s.Lock()
	defer s.Unlock()
	return s.table[string(id)] != nil
}

// Stamp was noted when the flight began: the one to Put its reply with.
func (f *Flight) Stamp() Stamp { return f.stamp }

// Finish hands the reply to all who joined. The leader calls it exactly once.
func (f *Flight) Finish(reply []byte, err error) {
	f.shard.Lock()
	// A flight that took this one's place stays.
	if f.shard.table[f.id] == f {
		delete(f.shard.table, f.id)
	}
	waiters := f.waiters
	f.waiters = nil
	f.shard.Unlock()
	f.group.now.Add(-1)
	for _, w := range waiters {
		w.Filled(reply, err)
	}
}

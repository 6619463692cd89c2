// Package l1 is the near cache: replies of Redis kept in process memory.
//
// Promise: an answer that was overtaken by an invalidation is never served.
//
// # Stamps
//
// ristretto, which holds the entries, applies a Set later and on another
// goroutine. A deleted value can come back. So nothing here rests on deleting:
//
//	           Note                     Put                      Get
//	             │                       │                        │
//	key ── hash ─┤  counter of the key   │  stored only if the    │  a hit only if the
//	             │  version of the rule  │  stamp is current      │  stamp is current
//	             └─ generation           └─ with that stamp       └─ at that moment
//
// A stamp is the three versions as they were before the request was sent. An
// invalidation raises one of them, and with it everything noted before is dead,
// wherever it may be: on its way from Redis, in the queue of ristretto, or stored.
// Dead entries stay until they are evicted or replaced; they take room, never part.
//
// A counter also says how many writes of its keys are under way; while there
// are any, nothing is served, nothing noted is stored and no flight is joined.
//
// # Why Get looks at the stamp
//
//	reader                    link                      ristretto's worker
//	Note, GET sent
//	reply arrives
//	Put: current, queued
//	                          Invalidate
//	                                                    applies the Set
//	Get: found, dead
//
// The look in Put is thrift: it spares the copy and does not put a dead reply
// in the place of a live one. Correctness would be the same without it.
//
// # Why a key counts as being written between BeginWrite and EndWrite
//
//	writer                    reader A                  reader B
//	raise the version
//	                          Note, GET sent
//	                          GET executed: old value
//	SET executed
//	                                                    GET executed: new value
//	                          Put: current, stored
//	                                                    Get: old value, after the new one
//	raise the version
//
// One raise before and one after leave this gap. With the writers in the word
// A's stamp can never be current, and B's Get is no hit while the write runs.
//
// # Why a stamp with writers is never current
//
// Suspend and Resume leave the generation as it was, so that what was stored
// before is good afterwards. What was noted in between would then equal the word
// again during another suspension; it was noted when nobody listened to Redis.
//
// # Why a flight is joined only while its stamp is current
//
//	reader A                  link                      reader B
//	leads, GET sent
//	GET executed: old value
//	                          Invalidate
//	                                                    was told of the change
//	                                                    joins: old value
//	reply arrives
//
// B leads a flight of its own instead. A's reply still goes to those who joined
// before the invalidation: they asked when it was true.
//
// # Hot keys
//
// Most hits of the keys that are asked for most do not go to ristretto: front.go
// remembers where they were found. It holds nothing that ristretto does not hold, and
// decides nothing.
//
// # Room
//
// The bytes of id and reply and 280 more are accounted for every entry, from
// before ristretto is given it until ristretto lets go of it; what would exceed
// Memory or MaxEntries is not stored. ristretto fills fifteen sixteenths, so
// that its queue and entries that grow have room. Its ways out were read in
// v2.4.2, and each ends in one call of OnExit:
//
//	refused by the policy                   OnReject, OnExit
//	first Set behind an older one queued    the same; the older stays
//	thrown out by the policy                OnEvict, OnExit; a nil value if Del came first
//	replaced by an update                   OnExit of the old value, within Set
//	Del                                     OnExit of the value, then of nil from the queue
//	Close                                   OnEvict, OnExit: of the store, and of first Sets queued
//	Set returns false (queue full, closed)  none: Put takes the entry back itself
//
// An update whose item finds the queue full is applied without the policy
// learning its cost, and Del blocks on a full queue. Neither happens: Put counts
// what is queued and stops at half of what the queue takes.
//
// Not accounted, and fixed: 2 MiB of counters and as much of what last happened to
// their keys (history.go: for people, it decides nothing), ristretto's queue of 256 KiB and
// its frequency sketch, 4 to 8 % of Memory up to 32 MiB, and front's 32 KiB.
package l1

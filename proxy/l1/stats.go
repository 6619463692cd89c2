package l1

import "sync/atomic"

// Miss says why Get answered nothing.
type Miss uint8

// The results of Get.
const (
	Hit       Miss = iota
	Absent         // nothing is stored under this id, or under another rule
	Overtaken      // stored, but the key, its rule or everything was invalidated since
	Writing        // the key, or everything, is being written
	Expired        // stored, but its deadline has passed
	Suspended      // between Suspend and Resume
	Closed
	Misses // their number
)

var missNames = [Misses]string{"hit", "absent", "overtaken", "writing", "expired", "suspended", "closed"}

func (m Miss) String() string {
	if m < Misses {
		return missNames[m]
	}
	return "unknown"
}

// Drop says why a reply was not stored.
type Drop uint8

// The reasons that Put has.
const (
	DropOvertaken Drop = iota // its stamp is not current
	DropExpired               // its deadline has passed already
	DropMismatch              // its stamp was noted for another key or rule
	DropTooBig                // an entry may take the head room at most: a sixteenth of Memory
	DropMemory                // Memory is taken
	DropEntries               // MaxEntries are there
	DropQueue                 // too many Puts wait to be applied
	DropRejected              // after Put returned true: ristretto's policy preferred what it has
	DropClosed
	Drops // their number

	// Not of Put, for History alone.
	DropEvicted  // it was stored, and thrown out to make room
	DropMaxReply // NotStored: the caller's own bound
	DropNegative // NotStored: there is no such key, and that is not kept
	DropError    // NotStored: an error is never kept
	losses
)

var dropNames = [losses]string{
	"overtaken", "expired", "mismatch", "too_large", "memory", "entries", "queue", "rejected", "closed",
	DropEvicted: "evicted", DropMaxReply: "too_large", DropNegative: "negative_off", DropError: "error",
}

func (d Drop) String() string {
	if d < losses && dropNames[d] != "" {
		return dropNames[d]
	}
	return "unknown"
}

// Stats are sums since New, apart from those marked "now".
type Stats struct {
	Entries, Bytes     int64 // now, queued Puts included
	Queued             int64 // now: Puts not yet applied
	MaxBytes, MaxCount int64 // the bounds on Bytes and Entries; MaxCount 0: none
	Puts               uint64
	Dropped            [Drops]uint64
	Evicted            uint64
	Flights, Joined    uint64
	InFlight           int64 // now
	Invalidations      uint64
	Generation         uint64 // now
}

// tally holds the sums that have no better place.
type tally struct {
	puts, evicted atomic.Uint64
	dropped       [Drops]atomic.Uint64
}

// Stats takes each number by itself: they may be a few operations apart.
func (c *Cache) Stats() Stats {
	s := Stats{
		Entries:       c.room.entries.Load(),
		Bytes:         c.room.bytes.Load(),
		Queued:        c.room.queued.Load(),
		MaxBytes:      c.room.maxBytes.Load(),
		MaxCount:      c.room.maxEntries.Load(),
		Puts:          c.tally.puts.Load(),
		Evicted:       c.tally.evicted.Load(),
		Flights:       c.flights.started.Load(),
		Joined:        c.flights.joined.Load(),
		InFlight:      c.flights.now.Load(),
		Invalidations: c.invalidations(),
		Generation:    c.gen.Load() / version,
	}
	for i := range s.Dropped {
		s.Dropped[i] = c.tally.dropped[i].Load()
	}
	return s
}

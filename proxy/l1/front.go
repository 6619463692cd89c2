package l1

import (
	"math/rand/v2"
	"sync/atomic"
)

// front remembers which entry was found last, for each of a number of places by
// hash, so that hits of the keys that are asked for most need not go to ristretto:
// a look-up there takes a lock and puts the key into a list, which wakes a worker
// that counts how often each key is used. That was a fifth of the processor time of
// hits that come sixteen deep.
//
// It holds nothing by itself: what ristretto lets go of, front lets go of too.
//
//	Get                                     OnExit
//	finds e in ristretto
//	                                        e.gone is set
//	                                        takes e out of its place: not there
//	puts e into its place
//	looks at e.gone, takes e out again
//
// Either Get sees gone, or OnExit sees the entry in its place. An entry that is
// found here in between is as good as one found in ristretto: its stamp decides.
type front [frontPlaces]atomic.Pointer[Entry]

const (
	frontPlaces = 4096 // 32 KiB

	// One of so many hits goes to ristretto all the same, and counts there as use.
	// Keys that are not in front are counted each time; a key that is asked for
	// more often than all others of its place together loses most of its lead, but
	// not its place among those that are kept.
	frontSample = 8
)

// find returns what was found last under a hash like h.
func (f *front) find(h uint64) *Entry {
	if rand.Uint32()%frontSample == 0 {
		return nil
	}
	return f[h%frontPlaces].Load()
}

// put remembers what was found under h.
func (f *front) put(h uint64, e *Entry) {
	place := &f[h%frontPlaces]
	if place.Load() == e {
		return
	}
	place.Store(e)
	if e.gone.Load() {
		place.CompareAndSwap(e, nil)
	}
}

// drop forgets an entry that ristretto has let go of.
func (f *front) drop(h uint64, e *Entry) {
	e.gone.Store(true)
	f[h%frontPlaces].CompareAndSwap(e, nil)
}

package l1

import "errors"

// limits are what follows from Memory and MaxEntries. They can change while the
// cache is in use (SetLimits).
type limits struct {
	maxCost  int64 // ristretto's
	maxEntry int64 // bytes of the largest entry
	share    int64 // an entry's least cost within ristretto: this is how MaxEntries reaches its policy
}

func limitsOf(memory, entries int64) *limits {
	head := max(memory/headRoom, min(memory/2, leastHeadRoom))
	l := &limits{maxCost: memory - head, maxEntry: head, share: 1}
	if entries > 0 {
		held := max(1, entries-min(max(1, entries/headRoom), maxQueued))
		l.share = (l.maxCost + held - 1) / held
	}
	return l
}

// SetLimits changes Config.Memory and Config.MaxEntries. If either becomes less,
// what is held is thrown out, all of it: ristretto has counted it by the old
// limits. It may block for a while; nobody else does meanwhile. One call at a
// time. The sketch of frequencies keeps the size that it began with.
func (c *Cache) SetLimits(memory, entries int64) error {
	if memory <= 0 || entries < 0 {
		return errors.New("l1: memory must be greater than 0, and max_entries not negative")
	}
	old, had := c.room.maxBytes.Load(), c.room.maxEntries.Load()
	if old == memory && had == entries {
		return nil
	}
	l := limitsOf(memory, entries)
	less := memory < old || l.share > c.limits.Load().share
	c.limits.Store(l)
	c.room.bound(memory, entries)
	g := c.gate(0)
	if !g.TryRLock() { // it is closing
		return nil
	}
	defer g.RUnlock()
	c.store.UpdateMaxCost(l.maxCost)
	if !less {
		return nil
	}
	c.store.Wait() // what is queued is not seen by IterValues
	var held []*Entry
	c.store.IterValues(func(e *Entry) (stop bool) {
		held = append(held, e)
		return false
	})
	for _, e := range held {
		c.store.Del(c.hash(e.id))
	}
	return nil
}

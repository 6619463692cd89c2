package l1

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	byLink  = FirstSource | Echo
	byOther = FirstSource + 1
)

func TestHistory(t *testing.T) {
	c := newCache(t, Config{})
	key := []byte("k")
	says := func(by Source, scope Scope) {
		t.Helper()
		c.history.base = c.history.base.Add(-tick) // what comes next is later
		if h := c.History(key, 1); h.By != by || by != NoSource && h.Scope != scope || h.Ago < 0 || h.Ago > time.Minute || h.Displaced {
			t.Errorf("%+v, want source %d of scope %s", h, by, scope)
		}
	}
	says(NoSource, 0)
	c.Invalidate(key, byLink)
	says(FirstSource, ScopeKey)
	c.InvalidateAll(byOther)
	says(byOther, ScopeAll)
	c.InvalidateRule(1, byOther)
	says(byOther, ScopeRule)
	c.InvalidateRule(2, byLink) // another rule
	says(byOther, ScopeRule)
	slot := c.Slot(key)
	c.BeginWrite(slot)
	c.EndWrite(slot)
	says(Written, ScopeKey)
	c.Invalidate(key, byLink) // the write's echo
	says(Written, ScopeKey)
	c.Invalidate(key, byOther)
	says(byOther, ScopeKey)
	c.BeginAll()
	c.EndAll()
	says(Written, ScopeAll)
	c.InvalidateAll(byLink)
	says(Written, ScopeAll)
}

// An echo that comes late is none.
func TestEchoEnds(t *testing.T) {
	c := newCache(t, Config{})
	key := []byte("k")
	c.EndWrite(c.Slot(key))
	c.history.base = c.history.base.Add(-echoTime)
	c.Invalidate(key, byLink)
	if h := c.History(key, 1); h.By != FirstSource {
		t.Errorf("%+v", h)
	}
}

// Two keys with one counter are told apart, and neither is given the other's past.
func TestHistoryOfSharedCounters(t *testing.T) {
	c := newCache(t, Config{})
	key := []byte("k")
	slot := c.Slot(key)
	other := slot ^ 1<<20 // the same counter, another tag
	c.InvalidateSlot(slot, byOther)
	c.history.notStored(slot, DropError)
	c.InvalidateSlot(other, byLink)
	if h := c.History(key, 1); !h.Displaced || h.NotStored {
		t.Errorf("%+v", h)
	}
	c.NotStored(c.Note(key, 1), DropNegative)
	if h := c.History(key, 1); !h.Displaced || !h.NotStored || h.Drop != DropNegative {
		t.Errorf("%+v", h)
	}
	c.Invalidate(key, byOther)
	if h := c.History(key, 1); h.Displaced || h.By != byOther || h.Drop != DropNegative {
		t.Errorf("%+v", h)
	}
}

// Every way in which a reply is not kept, or not for long.
func TestHistoryOfDrops(t *testing.T) {
	c := newCache(t, Config{Memory: 1 << 20})
	dropped := func(key string, want Drop) {
		t.Helper()
		if h := c.History([]byte(key), 1); !h.NotStored || h.Drop != want {
			t.Errorf("%s: %+v, want %s", key, h, want)
		}
	}
	st := note(c, "over")
	c.Invalidate([]byte("over"), byOther)
	putWith(c, "over", "v", st)
	dropped("over", DropOvertaken)
	putWith(c, "big", strings.Repeat("x", 1<<16), note(c, "big"))
	dropped("big", DropTooBig)
	c.Put(Fill{ID: idOf("late"), Key: []byte("late"), Stamp: note(c, "late"), Rule: 1, Now: now, Deadline: now})
	dropped("late", DropExpired)
	for drop := range losses {
		if drop != Drops && drop.String() == "unknown" {
			t.Errorf("drop %d has no name", drop)
		}
	}
	if uint64(losses)+1 > dropMask>>tagBits || byOther > LastSource || uint64(displaced) > 1<<5-1 {
		t.Error("a word has no room for them all")
	}

	store(t, c, "over", "v") // what is stored ends it
	if h := c.History([]byte("over"), 1); h.NotStored {
		t.Errorf("%+v", h)
	}
	const n = 2_000
	for i := range n {
		key := fmt.Sprint("fill", i)
		putWith(c, key, strings.Repeat("x", 1_000), note(c, key))
		c.Wait()
	}
	reasons := map[Drop]int{}
	for i := range n {
		if h := c.History(fmt.Append(nil, "fill", i), 1); h.NotStored {
			reasons[h.Drop]++
		}
	}
	// A few share a counter.
	if s := c.Stats(); reasons[DropEvicted] < int(s.Evicted)*9/10 || reasons[DropRejected] < int(s.Dropped[DropRejected])*9/10 || s.Evicted == 0 {
		t.Errorf("remembered: %v; counted: %+v", reasons, s)
	}
}

func TestMark(t *testing.T) {
	c := newCache(t, Config{})
	e := store(t, c, "k", "v")
	if e.Mark(0) || !e.Mark(1) || e.Mark(1) || !e.Mark(2) {
		t.Error("marks")
	}
	if n := testing.AllocsPerRun(100, func() { c.Invalidate([]byte("k"), byLink) }); n != 0 {
		t.Errorf("Invalidate allocates %f times", n)
	}
}

package l1

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

const (
	now = int64(1_000)
	far = int64(1) << 62
)

func newCache(t testing.TB, cfg Config) *Cache {
	t.Helper()
	if cfg.Memory == 0 {
		cfg.Memory = 4 << 20
	}
	if cfg.Rules == 0 {
		cfg.Rules = 2
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func idOf(key string) []byte { return []byte("1/default/2/GET " + key) }

func note(c *Cache, key string) Stamp { return c.Note([]byte(key), 1) }

func putWith(c *Cache, key, reply string, st Stamp) bool {
	return c.Put(Fill{ID: idOf(key), Key: []byte(key), Stamp: st, Rule: 1, Now: now, Deadline: far, Reply: []byte(reply)})
}

// store puts and waits until it is visible.
func store(t *testing.T, c *Cache, key, reply string) *Entry {
	t.Helper()
	if !putWith(c, key, reply, note(c, key)) {
		t.Fatalf("Put(%s) stored nothing: %+v", key, c.Stats())
	}
	c.Wait()
	e, miss := get(c, key)
	if miss != Hit || string(e.Reply) != reply {
		t.Fatalf("Get(%s) after Put: %v", key, miss)
	}
	return e
}

func get(c *Cache, key string) (*Entry, Miss) { return c.Get(idOf(key), []byte(key), 1, now) }

func want(t *testing.T, c *Cache, key string, miss Miss) {
	t.Helper()
	if _, got := get(c, key); got != miss {
		t.Errorf("Get(%s): %v, want %v", key, got, miss)
	}
}

func holds(c *Cache, key string) (found bool) {
	c.Each(func(e *Entry) bool {
		found = found || string(e.Key()) == key
		return true
	})
	return found
}

func TestEntryKeepsWhatItWasGiven(t *testing.T) {
	c := newCache(t, Config{})
	for _, key := range []string{"product:1", "not within the id"} {
		id, reply := []byte("1 GET product:1"), []byte("$1\r\nx\r\n")
		f := Fill{ID: id, Key: []byte(key), Stamp: c.Note([]byte(key), 2), Rule: 2, Now: now, Deadline: far, Reply: reply, Negative: true}
		cost := f.cost()
		if !c.Put(f) {
			t.Fatal("not stored")
		}
		reply[0], f.Key[0] = '!', '!'
		c.Wait()
		e, miss := c.Get(id, []byte(key), 2, now)
		if miss != Hit {
			t.Fatal(miss)
		}
		if string(e.Reply) != "$1\r\nx\r\n" || string(e.Key()) != key || !bytes.Equal(e.ID(), id) ||
			e.Rule() != 2 || e.Stored != now || e.Deadline != far || !e.Negative() || e.Bytes() != cost {
			t.Errorf("%+v", e)
		}
		if !c.Current(c.Stamped(e)) {
			t.Error("the stamp of a hit is not current")
		}
		if _, miss := c.Get(id, []byte(key), 1, now); miss != Absent {
			t.Errorf("found under another rule: %v", miss)
		}
	}
}

func TestOvertakenReplyIsNotStored(t *testing.T) {
	c := newCache(t, Config{})
	for name, overtake := range map[string]func(){
		"Invalidate":     func() { c.Invalidate([]byte("k"), FirstSource) },
		"InvalidateSlot": func() { c.InvalidateSlot(c.Slot([]byte("k")), FirstSource) },
		"InvalidateRule": func() { c.InvalidateRule(1, FirstSource) },
		"InvalidateAll":  func() { c.InvalidateAll(FirstSource) },
		"write":          func() { c.BeginWrite(c.Slot([]byte("k"))); c.EndWrite(c.Slot([]byte("k"))) },
		"write of all":   func() { c.BeginAll(); c.EndAll() },
	} {
		st := note(c, "k")
		overtake()
		if c.Current(st) {
			t.Errorf("%s: the stamp is still current", name)
		}
		if putWith(c, "k", name, st) {
			t.Errorf("%s: the reply was stored", name)
		}
		c.Wait()
		want(t, c, "k", Absent)
	}
	if n := c.Stats().Dropped[DropOvertaken]; n != 6 {
		t.Errorf("%d counted as overtaken", n)
	}
}

// The check in Put cannot be the one that counts: the change may come after it.
func TestOvertakenEntryIsNotServed(t *testing.T) {
	c := newCache(t, Config{})
	for name, overtake := range map[string]func(){
		"Invalidate":     func() { c.Invalidate([]byte("k"), FirstSource) },
		"InvalidateRule": func() { c.InvalidateRule(1, FirstSource) },
		"InvalidateAll":  func() { c.InvalidateAll(FirstSource) },
	} {
		e := store(t, c, "k", name)
		overtake()
		want(t, c, "k", Overtaken)
		if c.Current(c.Stamped(e)) {
			t.Errorf("%s: the entry's stamp is still current", name)
		}
	}
	store(t, c, "k", "again")
	c.InvalidateRule(2, FirstSource)
	c.Invalidate([]byte("another"), FirstSource)
	want(t, c, "k", Hit)
}

func TestStampOfNothing(t *testing.T) {
	c := newCache(t, Config{})
	if c.Current(Stamp{}) {
		t.Error("the zero stamp is current")
	}
	for _, f := range []Fill{
		{ID: idOf("a"), Key: []byte("a"), Rule: 1, Stamp: c.Note([]byte("b"), 1)},
		{ID: idOf("a"), Key: []byte("a"), Rule: 1, Stamp: c.Note([]byte("a"), 2)},
	} {
		f.Deadline = far
		if c.Put(f) {
			t.Error("stored with the stamp of another key or rule")
		}
	}
}

// stall makes ristretto's worker stop inside Evicted until release is called,
// so that what is Put meanwhile stays in the queue.
func stall(t *testing.T) (c *Cache, release func()) {
	t.Helper()
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c = newCache(t, Config{MaxEntries: 320, Evicted: func(int, int) {
		once.Do(func() { close(entered); <-leave })
	}})
	for i := range c.limits.Load().maxCost/c.limits.Load().share + 1 { // one more than the policy holds
		c.Wait()
		key := fmt.Sprint("filler", i)
		putWith(c, key, "x", note(c, key))
	}
	<-entered
	return c, func() { close(leave); c.Wait() }
}

func TestLateSetAfterInvalidate(t *testing.T) {
	c, release := stall(t)
	if !putWith(c, "k", "old", note(c, "k")) {
		t.Fatal("not queued")
	}
	if holds(c, "k") {
		t.Fatal("visible already: the worker was not stopped")
	}
	c.Invalidate([]byte("k"), FirstSource)
	release()
	if !holds(c, "k") {
		t.Fatal("never applied: nothing was tested")
	}
	want(t, c, "k", Overtaken)
}

// The newer reply is refused in favour of an older one still queued. Neither
// correctness nor the policy's idea of what is held may suffer.
func TestLateSetBeforeNewer(t *testing.T) {
	c, release := stall(t)
	older := putWith(c, "k", strings.Repeat("old", 5_000), note(c, "k"))
	c.Invalidate([]byte("k"), FirstSource)
	if newer := putWith(c, "k", "new", note(c, "k")); !older || !newer {
		t.Fatal("not queued")
	}
	release()
	want(t, c, "k", Overtaken)
	exact(t, c)
	store(t, c, "k", "newest")
	exact(t, c)
}

func TestWriteInFlight(t *testing.T) {
	c := newCache(t, Config{})
	slot := c.Slot([]byte("k"))
	store(t, c, "k", "old")

	before := note(c, "k")
	c.BeginWrite(slot)
	want(t, c, "k", Writing)
	during := note(c, "k")
	for name, st := range map[string]Stamp{"before": before, "during": during} {
		if c.Current(st) || putWith(c, "k", name, st) {
			t.Errorf("while the write runs, a reply noted %s it was stored", name)
		}
	}
	c.BeginWrite(slot) // a second writer
	c.EndWrite(slot)
	want(t, c, "k", Writing)
	second := note(c, "k")
	c.EndWrite(slot)

	want(t, c, "k", Overtaken)
	for name, st := range map[string]Stamp{"before": before, "during": during, "during the second": second} {
		if c.Current(st) || putWith(c, "k", name, st) {
			t.Errorf("after the write, a reply noted %s it was stored", name)
		}
	}
	store(t, c, "k", "new")
	if _, miss := c.Get(idOf("absent"), []byte("k"), 1, now); miss != Absent {
		t.Error(miss)
	}
	c.BeginWrite(slot)
	if _, miss := c.Get(idOf("absent"), []byte("k"), 1, now); miss != Writing {
		t.Error(miss)
	}
	c.EndWrite(slot)
}

// A stamp noted between Begin and End would be equal to the word again if only
// the number of writers were compared and not judged.
func TestNotedDuringWriteIsNeverCurrent(t *testing.T) {
	c := newCache(t, Config{})
	for name, hold := range map[string]func(){
		"BeginWrite": func() { c.BeginWrite(c.Slot([]byte("k"))) },
		"BeginAll":   c.BeginAll,
		"Suspend":    c.Suspend,
	} {
		hold()
		if c.Current(note(c, "k")) {
			t.Errorf("%s: current", name)
		}
	}
}

func TestSuspend(t *testing.T) {
	c := newCache(t, Config{})
	store(t, c, "k", "v")
	early := note(c, "early")
	c.Suspend()
	c.Suspend()
	want(t, c, "k", Suspended)
	during := note(c, "other")
	if putWith(c, "other", "v", during) {
		t.Error("stored while suspended")
	}
	c.Resume()
	want(t, c, "k", Suspended)
	c.Resume()
	want(t, c, "k", Hit)
	if putWith(c, "other", "v", during) {
		t.Error("a reply noted while suspended was stored afterwards")
	}
	if !putWith(c, "early", "v", early) {
		t.Error("a reply noted before was not stored afterwards")
	}
}

func TestInvalidateWhileSuspended(t *testing.T) {
	c := newCache(t, Config{})
	store(t, c, "k", "v")
	c.Suspend()
	c.Invalidate([]byte("k"), FirstSource)
	c.Resume()
	want(t, c, "k", Overtaken)
	store(t, c, "k", "v")
	c.Suspend()
	c.InvalidateAll(FirstSource)
	c.Resume()
	want(t, c, "k", Overtaken)
}

func TestEverything(t *testing.T) {
	c := newCache(t, Config{Rules: 3})
	fill := func(key string, rule int) {
		c.Put(Fill{ID: idOf(key), Key: []byte(key), Stamp: c.Note([]byte(key), rule), Rule: rule, Deadline: far})
		c.Wait()
	}
	look := func(key string, rule int, miss Miss) {
		t.Helper()
		if _, got := c.Get(idOf(key), []byte(key), rule, now); got != miss {
			t.Errorf("%s: %v, want %v", key, got, miss)
		}
	}
	fill("a", 1)
	fill("b", 3)
	c.InvalidateRule(1, FirstSource)
	look("a", 1, Overtaken)
	look("b", 3, Hit)
	fill("a", 1)
	c.BeginAll()
	look("a", 1, Writing)
	look("none", 1, Writing)
	during := c.Note([]byte("a"), 1)
	c.EndAll()
	look("a", 1, Overtaken)
	look("b", 3, Overtaken)
	if c.Current(during) {
		t.Error("noted during BeginAll, current after EndAll")
	}
	generation := c.Stats().Generation
	fill("a", 1)
	c.InvalidateAll(FirstSource)
	look("a", 1, Overtaken)
	if c.Stats().Generation != generation+1 {
		t.Error("the generation was not raised")
	}
}

func TestDeadline(t *testing.T) {
	c := newCache(t, Config{})
	f := Fill{ID: idOf("k"), Key: []byte("k"), Stamp: note(c, "k"), Rule: 1, Now: 10, Deadline: 20}
	c.Put(f)
	c.Wait()
	for at, miss := range map[int64]Miss{10: Hit, 19: Hit, 20: Expired, 21: Expired} {
		if _, got := c.Get(f.ID, f.Key, 1, at); got != miss {
			t.Errorf("at %d: %v, want %v", at, got, miss)
		}
	}
	f.Now = 20
	if c.Put(f) {
		t.Error("stored after its deadline")
	}
}

func TestTwoIDsOneHash(t *testing.T) {
	c := newCache(t, Config{})
	const h = 7
	put := func(key string) {
		f := Fill{ID: idOf(key), Key: []byte(key), Stamp: note(c, key), Rule: 1, Deadline: far, Reply: []byte(key)}
		if !c.put(h, &f) {
			t.Fatal("not stored")
		}
		c.Wait()
	}
	look := func(key string, miss Miss) {
		t.Helper()
		e, got := c.get(h, idOf(key), []byte(key), 1, now)
		if got != miss || got == Hit && string(e.Reply) != key {
			t.Errorf("%s: %v, want %v", key, got, miss)
		}
	}
	put("a")
	look("a", Hit)
	look("b", Absent)
	put("b")
	look("b", Hit)
	look("a", Absent)
	exact(t, c)
}

type waiter struct {
	reply string
	err   error
	calls int
}

func (w *waiter) Filled(reply []byte, err error) {
	w.reply, w.err = string(reply), err
	w.calls++
}

func TestFlightIsJoined(t *testing.T) {
	c := newCache(t, Config{})
	var a, b, d, other waiter
	join := func(w *waiter) (*Flight, bool) { return c.Join(idOf("k"), []byte("k"), 1, w) }
	f, leader := join(&a)
	if !leader || !c.Current(f.Stamp()) {
		t.Fatal("the first does not lead")
	}
	for _, w := range []*waiter{&b, &d} {
		if g, leader := join(w); leader || g != f {
			t.Fatal("not joined")
		}
	}
	if _, leader := c.Join(idOf("other"), []byte("other"), 1, &other); !leader {
		t.Error("another id joined")
	}
	failed := errors.New("lost")
	f.Finish([]byte("reply"), failed)
	f.Finish([]byte("again"), nil)
	for _, w := range []*waiter{&b, &d} {
		if w.calls != 1 || w.reply != "reply" || !errors.Is(w.err, failed) {
			t.Errorf("%+v", w)
		}
	}
	if a.calls+other.calls != 0 {
		t.Error("a leader was called")
	}
	if _, leader := join(&a); !leader {
		t.Error("a finished flight was joined")
	}
	s := c.Stats()
	if s.Flights != 3 || s.Joined != 2 {
		t.Errorf("%+v", s)
	}
}

func TestOvertakenFlightIsNotJoined(t *testing.T) {
	c := newCache(t, Config{})
	join := func(w *waiter) (*Flight, bool) { return c.Join(idOf("k"), []byte("k"), 1, w) }
	var lead1, early, lead2, late, last waiter
	first, _ := join(&lead1)
	join(&early)
	c.Invalidate([]byte("k"), FirstSource)
	second, leader := join(&lead2)
	if !leader || second == first || c.Current(first.Stamp()) || !c.Current(second.Stamp()) {
		t.Fatal("joined a flight that was overtaken")
	}
	join(&late)
	first.Finish([]byte("old"), nil)
	if early.reply != "old" || late.calls != 0 {
		t.Errorf("early %+v, late %+v", early, late)
	}
	if g, leader := join(&last); leader || g != second {
		t.Error("the end of the old flight removed the new one")
	}
	second.Finish([]byte("new"), nil)
	if early.calls != 1 || late.reply != "new" || last.reply != "new" {
		t.Errorf("early %+v, late %+v, last %+v", early, late, last)
	}
	if n := c.Stats().InFlight; n != 0 {
		t.Errorf("%d in flight", n)
	}
}

func TestNobodyJoinsWhileWriting(t *testing.T) {
	c := newCache(t, Config{})
	slot := c.Slot([]byte("k"))
	var w waiter
	var all []*Flight
	join := func(when string) {
		f, leader := c.Join(idOf("k"), []byte("k"), 1, &w)
		if !leader {
			t.Fatal("joined ", when)
		}
		all = append(all, f)
	}
	join("nothing")
	c.BeginWrite(slot)
	join("during the write")
	join("during the write")
	c.EndWrite(slot)
	join("after the write")
	for _, f := range all {
		f.Finish(nil, nil)
	}
	if w.calls != 0 {
		t.Error("a leader was called")
	}
	for i := range c.flights.shards {
		if len(c.flights.shards[i].table) != 0 {
			t.Error("a flight is left")
		}
	}
}

func TestConfig(t *testing.T) {
	for want, cfg := range map[string]Config{
		"l1: memory must be greater than 0":            {},
		"l1: max_entries must not be negative":         {Memory: 1, MaxEntries: -1},
		"l1: the number of rules must not be negative": {Memory: 1, Rules: -1},
	} {
		if _, err := New(cfg); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for _, memory := range []int64{1, 1000, 1 << 20, 1 << 34} {
		c := newCache(t, Config{Memory: memory, MaxEntries: 3})
		putWith(c, "k", "v", note(c, "k"))
	}
	for m := range Misses + 1 {
		if (m.String() == "unknown") != (m == Misses) {
			t.Error(m)
		}
	}
	for d := range Drops + 1 {
		if (d.String() == "unknown") != (d == Drops) {
			t.Error(d)
		}
	}
}

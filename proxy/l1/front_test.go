package l1

import (
	"fmt"
	"sync"
	"testing"
)

// What ristretto has let go of before Get remembers it, and after. Guards: gone in
// put, and drop.
func TestFrontHoldsNothingThatHasGone(t *testing.T) {
	const h = 7
	var f front
	early, late := &Entry{}, &Entry{}
	f.drop(h, early)
	f.put(h, early)
	if e := f[h].Load(); e != nil {
		t.Error("an entry that had gone already was remembered")
	}
	f.put(h, late)
	f.drop(h, early)
	if e := f[h].Load(); e != late {
		t.Error("another entry's end took this one along")
	}
	f.drop(h, late)
	if e := f[h].Load(); e != nil {
		t.Error("an entry that has gone is still remembered")
	}
}

// While entries come, are replaced and thrown out, and after that, what is found in
// front is held by ristretto too: else it would take memory that nobody accounts for.
func TestFrontFollowsRistretto(t *testing.T) {
	c := newCache(t, Config{Memory: 1 << 20, Rules: 1})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 20000 {
				key := fmt.Appendf(nil, "key:%d", (i*7+w)%5000)
				if _, miss := c.Get(key, key, 1, 0); miss != Hit || i%50 == 0 {
					c.Put(Fill{ID: key, Key: key, Stamp: c.Note(key, 1), Rule: 1, Deadline: far, Reply: make([]byte, 100+i%400)})
				}
				if i%1000 == 0 {
					c.Invalidate(key, Written)
				}
			}
		})
	}
	wg.Wait()
	c.Wait()
	held, remembered := map[*Entry]bool{}, 0
	c.Each(func(e *Entry) bool { held[e] = true; return true })
	for i := range c.front {
		if e := c.front[i].Load(); e != nil {
			remembered++
			if !held[e] {
				t.Fatalf("place %d has an entry that ristretto does not hold", i)
			}
		}
	}
	if remembered == 0 {
		t.Fatal("nothing is remembered")
	}
}

// One of frontSample look-ups goes to ristretto, which learns from it that the key is
// in use. What ristretto makes of it cannot be tested under the race detector, where
// sync.Pool drops at random what ristretto collects there.
func TestFrontLetsUseBeSeen(t *testing.T) {
	const h, n = 7, 10000 * frontSample
	var f front
	f.put(h, &Entry{})
	passed := 0
	for range n {
		if f.find(h) == nil {
			passed++
		}
	}
	if want := n / frontSample; passed < want*9/10 || passed > want*11/10 { // ten standard deviations
		t.Errorf("%d of %d look-ups went on to ristretto, want about %d", passed, n, want)
	}
}

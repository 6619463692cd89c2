package l1

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// origin stands for Redis: a version per key, and the floor under which no
// later look-up may fall.
type origin struct {
	value, floor [16]atomic.Uint64
}

func (o *origin) raise(k int, v uint64) {
	for {
		old := o.floor[k].Load()
		if v <= old || o.floor[k].CompareAndSwap(old, v) {
			return
		}
	}
}

// perhaps lets others run: on few processors turns are long otherwise.
func perhaps(r *rand.Rand) {
	if r.IntN(2) == 0 {
		runtime.Gosched()
	}
}

// model runs readers and writers against each other. answered is told what a
// reader was answered.
func model(t *testing.T, write func(c *Cache, o *origin, r *rand.Rand, k int), answered func(o *origin, k int, v uint64)) {
	t.Helper()
	c := newCache(t, Config{Memory: 1 << 20, MaxEntries: 64})
	var o origin
	var readers, writers sync.WaitGroup
	var done atomic.Bool
	var hits atomic.Int64
	for i := range 4 {
		readers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 2))
			for !done.Load() {
				perhaps(r)
				k := r.IntN(len(o.value))
				key := fmt.Sprint("k", k)
				floor := o.floor[k].Load()
				if e, miss := get(c, key); miss == Hit {
					v := binary.LittleEndian.Uint64(e.Reply)
					if v < floor {
						t.Errorf("%s: %d served after %d", key, v, floor)
						return
					}
					hits.Add(1)
					answered(&o, k, v)
					continue
				}
				st := note(c, key)
				perhaps(r)
				v := o.value[k].Load()
				answered(&o, k, v)
				perhaps(r)
				putWith(c, key, string(binary.LittleEndian.AppendUint64(nil, v)), st)
			}
		})
	}
	for i := range 2 {
		writers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 3))
			for n := range 30_000 {
				perhaps(r)
				if k := r.IntN(len(o.value)); n%4 == 0 {
					write(c, &o, r, k)
				} else if n%64 == 1 {
					c.Wait()
				} else {
					get(c, fmt.Sprint("k", k))
				}
			}
		})
	}
	writers.Wait()
	done.Store(true)
	readers.Wait()
	if hits.Load() == 0 {
		t.Error("no hits: nothing was tested")
	}
	exact(t, c)
}

// Writes made elsewhere: a look-up that starts after an invalidation ended
// never finds anything older.
func TestModelInvalidations(t *testing.T) {
	model(t, func(c *Cache, o *origin, r *rand.Rand, k int) {
		v := o.value[k].Add(1)
		perhaps(r)
		switch r.IntN(20) {
		case 0:
			c.InvalidateAll(FirstSource)
		case 1:
			c.InvalidateRule(1, FirstSource)
		case 2:
			c.Suspend()
			c.Invalidate(fmt.Append(nil, "k", k), FirstSource)
			c.Resume()
		default:
			c.Invalidate(fmt.Append(nil, "k", k), FirstSource)
		}
		o.raise(k, v)
	}, func(*origin, int, uint64) {})
}

// Writes through nearside: what one reader was told, no later one goes back behind.
func TestModelWrites(t *testing.T) {
	model(t, func(c *Cache, o *origin, r *rand.Rand, k int) {
		slot := c.Slot(fmt.Append(nil, "k", k))
		all := r.IntN(20) == 0
		if all {
			c.BeginAll()
		} else {
			c.BeginWrite(slot)
		}
		perhaps(r)
		v := o.value[k].Add(1)
		perhaps(r)
		if all {
			c.EndAll()
		} else {
			c.EndWrite(slot)
		}
		o.raise(k, v)
	}, (*origin).raise)
}

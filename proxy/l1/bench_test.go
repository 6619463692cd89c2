package l1

import (
	"fmt"
	"sync/atomic"
	"testing"
)

const benchKeys = 1 << 12

func benchCache(b *testing.B) (c *Cache, ids, keys [][]byte) {
	c = newCache(b, Config{Memory: 64 << 20})
	for i := range benchKeys {
		key := fmt.Sprintf("product:%06d", i)
		ids, keys = append(ids, idOf(key)), append(keys, []byte(key))
		putWith(c, key, "$5\r\nhello\r\n", note(c, key))
	}
	c.Wait()
	b.ReportAllocs()
	b.ResetTimer()
	return c, ids, keys
}

func BenchmarkGetHit(b *testing.B) {
	b.Run("serial", func(b *testing.B) {
		c, ids, keys := benchCache(b)
		for i := range b.N {
			if _, miss := c.Get(ids[i%benchKeys], keys[i%benchKeys], 1, now); miss != Hit {
				b.Fatal(miss)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		c, ids, keys := benchCache(b)
		var start atomic.Int64
		b.RunParallel(func(pb *testing.PB) {
			for i := int(start.Add(997)); pb.Next(); i++ {
				if _, miss := c.Get(ids[i%benchKeys], keys[i%benchKeys], 1, now); miss != Hit {
					b.Error(miss)
				}
			}
		})
	})
}

func BenchmarkGetMiss(b *testing.B) {
	c, _, keys := benchCache(b)
	for i := range b.N {
		if _, miss := c.Get(keys[i%benchKeys], keys[i%benchKeys], 1, now); miss != Absent {
			b.Fatal(miss)
		}
	}
}

func BenchmarkInvalidate(b *testing.B) {
	c, _, keys := benchCache(b)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			c.Invalidate(keys[i%benchKeys], FirstSource)
		}
	})
}

func BenchmarkPut(b *testing.B) {
	c, ids, keys := benchCache(b)
	for i := range b.N {
		n := i % benchKeys
		c.Put(Fill{ID: ids[n], Key: keys[n], Stamp: c.Note(keys[n], 1), Rule: 1, Deadline: far, Reply: keys[n]})
	}
}

func TestGetAllocatesNothing(t *testing.T) {
	c := newCache(t, Config{})
	store(t, c, "k", "v")
	id, key := idOf("k"), []byte("k")
	if n := testing.AllocsPerRun(1_000, func() { c.Get(id, key, 1, now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

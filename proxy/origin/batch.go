package origin

// Flusher is told once per batch that no reply follows for now.
type Flusher interface {
	// Flush runs on the connection's reading goroutine. It must not block.
	Flush()
}

// Batch collects who got replies out of what one read brought, so that a session
// which got twenty writes to its client once. The zero value is ready. It is not
// for use by several goroutines.
type Batch struct {
	at   int64
	list []Flusher
	set  map[Flusher]struct{} // from manyFlushers on
}

const manyFlushers = 16

// At is when what the replies were cut from was read, on Origin.Now's clock; 0 if
// nothing was.
func (b *Batch) At() int64 { return b.at }

// Add makes f.Flush be called once, when the connection's reader has handed out
// all the replies it had read.
func (b *Batch) Add(f Flusher) {
	if len(b.list) < manyFlushers {
		for i := len(b.list) - 1; i >= 0; i-- {
			if b.list[i] == f {
				return
			}
		}
		b.list = append(b.list, f)
		return
	}
	if len(b.set) == 0 {
		if b.set == nil {
			b.set = make(map[Flusher]struct{}, 4*manyFlushers)
		}
		for _, g := range b.list {
			b.set[g] = struct{}{}
		}
	}
	if _, dup := b.set[f]; !dup {
		b.set[f] = struct{}{}
		b.list = append(b.list, f)
	}
}

// Flush calls every collected Flusher and empties the batch.
func (b *Batch) Flush() {
	for i := 0; i < len(b.list); i++ { // a Flush may Add
		f := b.list[i]
		b.list[i] = nil
		f.Flush()
	}
	b.list = b.list[:0]
	if len(b.set) > 0 {
		clear(b.set)
	}
}

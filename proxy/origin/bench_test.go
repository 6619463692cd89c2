package origin

import (
	"context"
	"runtime"
	"sync"
	"testing"

	"nearside/proxy/internal/redistest"

	"github.com/redis/go-redis/v9"
)

var getRequest = AppendCommand(nil, "GET", "k")

// oneShot is a Sink that allocates nothing.
type oneShot struct{ ch chan struct{} }

func (s *oneShot) Reply([]byte, error, *Batch) { s.ch <- struct{}{} }

// chain sends the next request when it gets a reply.
type chain struct {
	c    *Conn
	left int
	done chan struct{}
}

func (s *chain) Reply(_ []byte, _ error, batch *Batch) {
	s.left--
	if s.left <= 0 {
		close(s.done)
		return
	}
	_ = s.c.Post(getRequest, 1, s)
	batch.Add(s)
}

func (s *chain) Flush() { s.c.Flush() }

func benchOrigin(b *testing.B) (*Origin, *Conn) {
	s := redistest.Start(b)
	o := open(b, Config{URL: s.URL()})
	c := sharedConn(b, o, resp2)
	call(b, c, "SET", "k", fill(64))
	return o, c
}

// One caller, one request at a time.
func BenchmarkConnRoundTrip(b *testing.B) {
	b.Run("origin", func(b *testing.B) {
		_, c := benchOrigin(b)
		s := &oneShot{ch: make(chan struct{}, 1)}
		b.ReportAllocs()
		for b.Loop() {
			_ = c.Send(getRequest, 1, s)
			c.Flush()
			<-s.ch
		}
	})
	// As the proxy works: whoever gets the reply goes on with it on the reading goroutine.
	b.Run("origin-on-reader", func(b *testing.B) {
		_, c := benchOrigin(b)
		s := &chain{c: c, left: b.N, done: make(chan struct{})}
		b.ReportAllocs()
		b.ResetTimer()
		_ = c.Send(getRequest, 1, s)
		c.Flush()
		<-s.done
	})
	b.Run("goredis-pool", func(b *testing.B) {
		o, _ := benchOrigin(b)
		ctx := context.Background()
		b.ReportAllocs()
		for b.Loop() {
			_ = o.Control().Process(ctx, redis.NewRawCmd(ctx, "get", "k"))
		}
	})
	b.Run("goredis-autopipeline", func(b *testing.B) {
		o, _ := benchOrigin(b)
		p := autoPipeline(b, o)
		ctx := context.Background()
		b.ReportAllocs()
		for b.Loop() {
			cmd := redis.NewRawCmd(ctx, "get", "k")
			_ = p.Process(ctx, cmd)
			_, _ = cmd.Result()
		}
	})
}

// 64 callers with 16 requests each.
func BenchmarkConnPipelined(b *testing.B) { benchCallers(b, 16) }

// 64 callers with one request each.
func BenchmarkConnCallers(b *testing.B) { benchCallers(b, 1) }

func benchCallers(b *testing.B, deep int) {
	const callers = 64
	run := func(b *testing.B, caller func(rounds int)) {
		b.ReportAllocs()
		b.ResetTimer()
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() { caller(b.N/(callers*deep) + 1) })
		}
		wg.Wait()
	}
	b.Run("origin", func(b *testing.B) {
		o, _ := benchOrigin(b)
		var n uint64
		var mu sync.Mutex
		run(b, func(rounds int) {
			mu.Lock()
			n++
			c, _ := o.Shared(context.Background(), resp2, n)
			mu.Unlock()
			s := &oneShot{ch: make(chan struct{}, deep)}
			for range rounds {
				for range deep {
					_ = c.Send(getRequest, 1, s)
				}
				c.Flush()
				for range deep {
					<-s.ch
				}
			}
		})
	})
	b.Run("goredis-pool", func(b *testing.B) {
		o, _ := benchOrigin(b)
		ctx := context.Background()
		run(b, func(rounds int) {
			for range rounds * deep {
				_ = o.Control().Process(ctx, redis.NewRawCmd(ctx, "get", "k"))
			}
		})
	})
	b.Run("goredis-pipeline", func(b *testing.B) {
		o, _ := benchOrigin(b)
		ctx := context.Background()
		run(b, func(rounds int) {
			for range rounds {
				p := o.Control().Pipeline()
				for range deep {
					_ = p.Process(ctx, redis.NewRawCmd(ctx, "get", "k"))
				}
				_, _ = p.Exec(ctx)
			}
		})
	})
	b.Run("goredis-autopipeline", func(b *testing.B) {
		o, _ := benchOrigin(b)
		p := autoPipeline(b, o)
		ctx := context.Background()
		run(b, func(rounds int) {
			var wg sync.WaitGroup
			for range deep {
				wg.Go(func() {
					for range rounds {
						cmd := redis.NewRawCmd(ctx, "get", "k")
						_ = p.Process(ctx, cmd)
						_, _ = cmd.Result()
					}
				})
			}
			wg.Wait()
		})
	})
}

func autoPipeline(b *testing.B, o *Origin) *redis.AutoPipeliner {
	c := redis.NewClient(&redis.Options{Addr: o.Addr(), MaxRetries: -1, DisableIdentity: true, PoolSize: 10 * runtime.GOMAXPROCS(0)})
	b.Cleanup(func() { _ = c.Close() })
	p, err := c.AutoPipeline()
	if err != nil {
		b.Fatal(err)
	}
	return p
}

package proxy

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"nearside/proxy/internal/redistest"
)

// rueidisClient connects a rueidis that says which keys it was told to forget.
func rueidisClient(t *testing.T, addr string, change func(*rueidis.ClientOption)) (rueidis.Client, context.Context) {
	t.Helper()
	opt := rueidis.ClientOption{InitAddress: []string{addr}, ForceSingleClient: true}
	if change != nil {
		change(&opt)
	}
	c, err := rueidis.NewClient(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return c, ctx
}

// TestRueidisDoCache is rueidis's client-side cache, which uses CLIENT TRACKING
// with OPTIN: behind nearside it forgets what it must.
func TestRueidisDoCache(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	for _, db := range []int{0, 1} {
		t.Run(fmt.Sprint("DB ", db), func(t *testing.T) {
			c, ctx := rueidisClient(t, n.addr, func(o *rueidis.ClientOption) { o.SelectDB = db })
			other := n.dial()
			other.Do("SELECT", fmt.Sprint(db))
			read := func(key string) (string, bool) {
				r := c.DoCache(ctx, c.B().Get().Key(key).Cache(), time.Minute)
				s, err := r.ToString()
				if err != nil && !rueidis.IsRedisNil(err) {
					t.Fatal(err)
				}
				return s, r.IsCacheHit()
			}
			// One key of each database, so that there is a change of database between them.
			for i, key := range []string{"product:1", "lock:1", "product:1", "other", "balance:2"} {
				home := db
				if db == 0 && (strings.HasPrefix(key, "product:") || strings.HasPrefix(key, "balance:")) {
					home = 1
				}
				for _, way := range []string{"direct", "through", "own"} {
					value := fmt.Sprint(way, i)
					switch way {
					case "direct":
						redis.DoDB(home, "SET", key, value)
					case "through":
						want(t, other, "OK", "SET", key, value)
					case "own":
						if err := c.Do(ctx, c.B().Set().Key(key).Value(value).Build()).Error(); err != nil {
							t.Fatal(err)
						}
					}
					n.eventually(key+" is read as "+value, func() bool { got, _ := read(key); return got == value })
					n.eventually(key+" is kept by rueidis", func() bool { got, hit := read(key); return hit && got == value })
				}
			}
			// Several keys of both databases in one go.
			keys := []string{"product:1", "lock:1", "balance:2", "other"}
			got, err := rueidis.MGetCache(c, ctx, time.Minute, keys)
			if err != nil || len(got) != 4 {
				t.Fatalf("MGetCache: %v, %v", got, err)
			}
			redis.Do("FLUSHALL")
			for _, key := range keys {
				n.eventually(key+" is gone", func() bool { got, _ := read(key); return got == "" })
			}
		})
	}
}

// TestRueidisBCAST is client-side caching by prefix.
func TestRueidisBCAST(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	var mu sync.Mutex
	told := map[string]int{}
	c, ctx := rueidisClient(t, n.addr, func(o *rueidis.ClientOption) {
		o.ClientTrackingOptions = []string{"PREFIX", "product:", "PREFIX", "lock:", "BCAST"}
		o.OnInvalidations = func(list []rueidis.RedisMessage) {
			mu.Lock()
			defer mu.Unlock()
			for _, m := range list {
				key, _ := m.ToString()
				told[key]++
			}
		}
	})
	other := n.dial()
	for i, key := range []string{"product:1", "lock:1", "product:2"} {
		if err := c.DoCache(ctx, c.B().Get().Key(key).Cache(), time.Minute).Error(); !rueidis.IsRedisNil(err) {
			t.Fatal(err)
		}
		want(t, other, "OK", "SET", "other", "not asked for")
		if i%2 == 0 {
			redis.DoDB(1, "SET", key, "x")
		} else {
			want(t, other, "OK", "SET", key, "x")
		}
		n.eventually("the push for "+key, func() bool { mu.Lock(); defer mu.Unlock(); return told[key] > 0 })
		n.eventually("the new value of "+key, func() bool {
			got, _ := c.DoCache(ctx, c.B().Get().Key(key).Cache(), time.Minute).ToString()
			return got == "x"
		})
	}
	mu.Lock()
	defer mu.Unlock()
	if told["other"] != 0 {
		t.Error("an invalidation for a key without the prefix")
	}
}

// TestRueidisBlockingAndPubSub shares one client between all of it.
func TestRueidisBlockingAndPubSub(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	for _, resp2 := range []bool{false, true} {
		t.Run(fmt.Sprint("RESP2 ", resp2), func(t *testing.T) {
			c, ctx := rueidisClient(t, n.addr, func(o *rueidis.ClientOption) { o.AlwaysRESP2, o.DisableCache = resp2, resp2 })
			var all sync.WaitGroup
			all.Go(func() {
				got, err := c.Do(ctx, c.B().Blpop().Key("queue").Timeout(0).Build()).AsStrSlice()
				if err != nil || fmt.Sprint(got) != "[queue element]" {
					t.Errorf("BLPOP: %v, %v", got, err)
				}
			})
			n.eventually("it blocks at Redis", func() bool { return blocked(redis) == 1 })
			if err := c.Do(ctx, c.B().Rpush().Key("queue").Element("element").Build()).Error(); err != nil {
				t.Fatal(err)
			}
			all.Wait()

			subCtx, stop := context.WithCancel(ctx)
			got := make(chan string, 10)
			all.Go(func() {
				_ = c.Receive(subCtx, c.B().Subscribe().Channel("news").Build(), func(m rueidis.PubSubMessage) { got <- m.Message })
			})
			n.eventually("it is subscribed", func() bool { return redis.Do("PUBSUB", "NUMSUB", "news") == "[news 1]" })
			if err := c.Do(ctx, c.B().Publish().Channel("news").Message("through").Build()).Error(); err != nil {
				t.Fatal(err)
			}
			redis.Do("PUBLISH", "news", "direct")
			for _, expected := range []string{"through", "direct"} {
				if m := <-got; m != expected {
					t.Errorf("got %s, want %s", m, expected)
				}
			}
			stop()
			all.Wait()

			// A transaction on a connection of its own.
			err := c.Dedicated(func(d rueidis.DedicatedClient) error {
				if err := d.Do(ctx, d.B().Watch().Key("product:w", "lock:w").Build()).Error(); err != nil {
					return err
				}
				replies := d.DoMulti(ctx, d.B().Multi().Build(), d.B().Set().Key("product:w").Value("1").Build(), d.B().Incr().Key("product:w").Build(),
					d.B().Get().Key("lock:w").Build(), d.B().Exec().Build())
				list, err := replies[4].ToArray()
				if err != nil || len(list) != 3 {
					return fmt.Errorf("EXEC: %v, %w", list, err)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if v, err := c.Do(ctx, c.B().Get().Key("product:w").Build()).ToString(); err != nil || v != "2" {
				t.Errorf("after EXEC: %s, %v", v, err)
			}
		})
	}
}

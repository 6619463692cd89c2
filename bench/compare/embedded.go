package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"

	"nearside/bench/internal/proc"
)

// What a client library's own cache does is the other kind of answer: nothing
// is sent at all for a hit, in the languages that have such a library. It is
// measured in a process of its own, so that its processor time can be told
// from the harness's; that time then includes the caller.

// embeddedOrder asks such a process for one measurement.
type embeddedOrder struct {
	For    time.Duration
	Rate   float64 // operations per second of all callers; 0: closed loop
	Keys   int
	Zipf   bool
	Writes float64 // share of the operations
}

// embeddedAnswer is what it found, in microseconds.
type embeddedAnswer struct {
	Ops            int64
	Elapsed        time.Duration
	P50, P99, P999 float64
	WriteP50       float64
	Error          string
}

const callers = 50

// getSetter is a client with a cache.
type getSetter interface {
	get(ctx context.Context, key string) error
	set(ctx context.Context, key, value string) error
}

type rueidisCache struct{ c rueidis.Client }

func (r rueidisCache) get(ctx context.Context, key string) error {
	_, err := r.c.DoCache(ctx, r.c.B().Get().Key(key).Cache(), time.Hour).ToString()
	return err
}

func (r rueidisCache) set(ctx context.Context, key, value string) error {
	return r.c.Do(ctx, r.c.B().Set().Key(key).Value(value).Build()).Error()
}

type goRedisCache struct{ c *redis.Client }

func (g goRedisCache) get(ctx context.Context, key string) error { return g.c.Get(ctx, key).Err() }

func (g goRedisCache) set(ctx context.Context, key, value string) error {
	return g.c.Set(ctx, key, value, 0).Err()
}

func newGetSetter(kind, addr string) (getSetter, error) {
	switch kind {
	case "rueidis":
		c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, ForceSingleClient: true})
		return rueidisCache{c}, err
	case "go-redis":
		return goRedisCache{redis.NewClient(&redis.Options{
			Addr: addr, PoolSize: callers, ClientSideCacheConfig: &redis.ClientSideCacheConfig{MaxEntries: 10000},
		})}, nil
	}
	return nil, fmt.Errorf("no client library %q", kind)
}

// serveEmbedded is such a process: orders come in, answers go out, one line each.
func serveEmbedded(ctx context.Context, kind, addr string, in io.Reader, out io.Writer) error {
	c, err := newGetSetter(kind, addr)
	if err != nil {
		return err
	}
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o embeddedOrder
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := answers.Encode(obey(ctx, c, o)); err != nil {
			return err
		}
	}
}

// obey lets the callers loose.
func obey(ctx context.Context, c getSetter, o embeddedOrder) embeddedAnswer {
	key := uniform(o.Keys)
	if o.Zipf {
		key = zipf(o.Keys)
	}
	names := make([]string, o.Keys)
	for i := range names {
		names[i] = keyName(hotPrefix, i)
	}
	v := value(defaultSize)
	var (
		mu     sync.Mutex
		answer embeddedAnswer
		wg     sync.WaitGroup
		all    [classes]*hdrhistogram.Histogram
	)
	for i := range all {
		all[i] = hdrhistogram.New(1, longestLatency, 2)
	}
	begin := time.Now()
	for i := range callers {
		wg.Go(func() {
			var own [classes]*hdrhistogram.Histogram
			for i := range own {
				own[i] = hdrhistogram.New(1, longestLatency, 2)
			}
			r := rand.New(rand.NewPCG(uint64(i), 2))
			ops := int64(0)
			var failed error
			for due := begin; failed == nil && time.Since(begin) < o.For; ops++ {
				if o.Rate > 0 {
					// Latencies count from the call: Go's timers are too coarse
					// to count from when it was due.
					due = due.Add(time.Duration(r.ExpFloat64() / o.Rate * callers * 1e9))
					if d := time.Until(due); d > 0 {
						time.Sleep(d)
					}
				}
				k := names[key(r)]
				class := classRead
				at := time.Now()
				if o.Writes > 0 && r.Float64() < o.Writes {
					class = classWrite
					failed = c.set(ctx, k, v)
				} else {
					failed = c.get(ctx, k)
				}
				_ = own[class].RecordValue(max(int64(time.Since(at)), 1))
			}
			mu.Lock()
			defer mu.Unlock()
			answer.Ops += ops
			for i := range all {
				all[i].Merge(own[i])
			}
			if failed != nil {
				answer.Error = failed.Error()
			}
		})
	}
	wg.Wait()
	answer.Elapsed = time.Since(begin)
	at := func(p float64) float64 { return float64(all[classRead].ValueAtPercentile(p)) / 1e3 }
	answer.P50, answer.P99, answer.P999 = at(50), at(99), at(99.9)
	answer.WriteP50 = float64(all[classWrite].ValueAtPercentile(50)) / 1e3
	return answer
}

// embedded is the harness's end of such a process.
type embedded struct {
	*peer
	orders  *json.Encoder
	answers *json.Decoder
}

// startEmbedded starts a client library's cache in front of addr; origin is the
// Redis there.
func (l *lab) startEmbedded(kind, addr string, origin *peer) (*embedded, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	toIn, toOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	fromIn, fromOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	child, err := proc.Extras{In: toIn, Out: fromOut}.Start(self, "-embedded", kind, "-target", addr)
	_ = toIn.Close()
	_ = fromOut.Close()
	if err != nil {
		return nil, err
	}
	p := &peer{name: kind + " (in the process)", addr: addr, origin: origin, kind: kindEmbedded, proc: child, pid: child.PID()}
	l.peers = append(l.peers, p)
	return &embedded{p, json.NewEncoder(toOut), json.NewDecoder(bufio.NewReader(fromIn))}, nil
}

// order has one measurement made.
func (e *embedded) order(ctx context.Context, o embeddedOrder) (sample, embeddedAnswer, error) {
	out := newSample()
	var a embeddedAnswer
	before, err := e.usage()
	if err != nil {
		return out, a, err
	}
	stop := context.AfterFunc(ctx, e.stop)
	defer stop()
	if err := errors.Join(e.orders.Encode(o), e.answers.Decode(&a)); err != nil {
		return out, a, fmt.Errorf("%w: %s", err, &e.proc.Out)
	}
	if a.Error != "" {
		return out, a, errors.New(a.Error)
	}
	after, err := e.usage()
	if err != nil {
		return out, a, err
	}
	after.minus(before).into(&out, e.peer, float64(a.Ops))
	out[fP50], out[fP99], out[fP999] = a.P50, a.P99, a.P999
	if rss, err := residentBytes(e.pid); err == nil {
		out[fRSS] = float64(rss) / (1 << 20)
	}
	return out, a, nil
}

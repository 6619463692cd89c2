package proxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"nearside/proxy/l1"
	"nearside/proxy/origin"
)

// Hits do not touch the origin's LRU and LFU clocks: the keys that nearside shields
// best look unused there, and are evicted first. So keys that are hit are touched,
// each once in an interval at most, as nearside's own user:
//
//	interval n       hit marks the entry with n; the first to do so puts the key on the list
//	interval n+1     the keys of the list are sent, TOUCH by TOUCH, evenly over the interval
//
// A key hit all the time is thus idle for less than two intervals. TOUCH tells
// nothing of a key, so whose entry it was does not matter; a key that is gone is
// passed over by it, and no invalidation follows from it.

const (
	touchAuto   = 30 * time.Second // the interval, where none is configured
	touchLook   = time.Minute      // how often the origin's eviction policy is asked for
	touchBatch  = 128              // keys of one TOUCH
	touchRate   = 10_000           // keys a second
	touchMost   = 100_000          // keys of one interval …
	touchBytes  = 8 << 20          // … and their bytes
	touchPauses = touchBatch * time.Second / touchRate
)

// toucher keeps what is hit in use at the origin.
type toucher struct {
	p *Proxy

	// epoch is the mark of the interval, 0 while nothing is touched: what every hit
	// reads, on a cache line of its own.
	_     [64]byte
	epoch atomic.Uint32
	_     [60]byte

	mu   sync.Mutex
	list touchList
	most int // keys of one interval

	interval time.Duration // 0: off
	asked    chan struct{} // the origin may have another eviction policy
	marks    uint32        // the last epoch
	refused  bool          // that was logged
	spare    touchList     // a list's memory

	touched, dropped *metrics.Counter
}

// touchList is keys in one piece of memory.
type touchList struct {
	bytes []byte
	ends  []int
}

func (l *touchList) add(key []byte) {
	l.bytes = append(l.bytes, key...)
	l.ends = append(l.ends, len(l.bytes))
}

// keys are the keys in their order, each once.
func (l *touchList) keys() [][]byte {
	keys := make([][]byte, len(l.ends))
	at := 0
	for i, end := range l.ends {
		keys[i] = l.bytes[at:end]
		at = end
	}
	// One key may have several entries: of several commands, users, protocols.
	slices.SortFunc(keys, bytes.Compare)
	return slices.CompactFunc(keys, bytes.Equal)
}

func (t *toucher) init(p *Proxy) {
	t.p = p
	t.asked = make(chan struct{}, 1)
	t.touched = p.m.set.NewCounter("nearside_touched_keys_total")
	t.dropped = p.m.set.NewCounter("nearside_touch_dropped_total")
	p.m.set.NewGauge("nearside_touch_interval_seconds", func() float64 {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.interval.Seconds()
	})
}

// hit is on the path of every hit: two loads, but for the first of an interval.
func (t *toucher) hit(e *l1.Entry) {
	if epoch := t.epoch.Load(); epoch != 0 && e.Mark(epoch) {
		t.queue(e)
	}
}

func (t *toucher) queue(e *l1.Entry) {
	if e.Negative() {
		return
	}
	key := e.Key()
	t.mu.Lock()
	fits := len(t.list.ends) < t.most && len(t.list.bytes)+len(key) <= touchBytes
	if fits {
		t.list.add(key)
	}
	t.mu.Unlock()
	if !fits {
		t.dropped.Inc()
	}
}

// look has the origin asked for its eviction policy, soon.
func (t *toucher) look() {
	select {
	case t.asked <- struct{}{}:
	default:
	}
}

// run counts the intervals, and touches.
func (t *toucher) run(ctx context.Context) {
	if t.p.cfg.Touch < 0 {
		return
	}
	if t.p.cfg.Touch > 0 {
		t.set(t.p.cfg.Touch)
	}
	looks := time.NewTicker(touchLook)
	defer looks.Stop()
	ticks := time.NewTicker(cmp.Or(t.p.cfg.Touch, touchAuto))
	defer ticks.Stop()
	tick := ticks.C
	if t.p.cfg.touchTicks != nil {
		tick = t.p.cfg.touchTicks
	}
	t.look()
	var left [][]byte         // of the list that is being sent
	var next <-chan time.Time // when more of it is to be sent
	var pause time.Duration   // from one TOUCH to the next
	for {
		select {
		case <-ctx.Done():
			return
		case <-looks.C:
			t.learn(ctx)
		case <-t.asked:
			t.learn(ctx)
		case <-tick:
			t.dropped.Add(len(left))
			left = t.turn()
			pause = max(t.interval/time.Duration(len(left)/touchBatch+1), touchPauses)
			next = time.After(0)
		case <-next:
			n := min(len(left), touchBatch)
			if n == 0 {
				next = nil
				continue
			}
			t.send(ctx, left[:n])
			left = left[n:]
			next = time.After(pause)
		}
	}
}

// turn begins a new interval and returns the keys that were hit in the last one.
func (t *toucher) turn() [][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.interval == 0 {
		return nil
	}
	list := t.list
	t.list, t.spare = t.spare, list
	t.list.bytes, t.list.ends = t.list.bytes[:0], t.list.ends[:0]
	t.begin()
	return list.keys()
}

// begin makes the next hit of every entry the first of an interval. t.mu is held.
func (t *toucher) begin() {
	t.marks = max(t.marks+1, 1) // 0 is the mark of a new entry
	t.epoch.Store(t.marks)
}

// set changes the interval; 0 switches touching off.
func (t *toucher) set(interval time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if interval == t.interval {
		return
	}
	t.interval = interval
	t.most = int(min(touchMost, interval.Seconds()*touchRate))
	t.list, t.spare = touchList{}, touchList{}
	if interval == 0 {
		t.epoch.Store(0)
	} else {
		t.begin()
	}
}

// learn switches touching on if the origin evicts by LRU or LFU. While it cannot
// be asked everything stays as it is.
func (t *toucher) learn(ctx context.Context) {
	if t.p.cfg.Touch != 0 || t.p.cfg.Embedded {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, factsTimeout)
	defer cancel()
	evicts, err := t.evicts(ctx)
	switch {
	case err != nil:
		t.p.log.Debug("the origin does not tell its eviction policy", "error", err)
	case evicts:
		t.set(touchAuto)
	default:
		t.set(0)
	}
}

// evicts tells whether the origin may evict keys that look unused.
func (t *toucher) evicts(ctx context.Context) (bool, error) {
	var memory, policy string
	text, err := t.p.origin.Control().Info(ctx, "memory").Result()
	for line := range strings.Lines(text) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(line), ":"); name {
		case "maxmemory":
			memory = value
		case "maxmemory_policy":
			policy = value
		}
	}
	if policy == "" { // not permitted, or not Redis itself
		config, configErr := t.p.origin.Control().ConfigGet(ctx, "maxmemory*").Result()
		if configErr != nil {
			return false, errors.Join(err, configErr)
		}
		memory, policy = config["maxmemory"], config["maxmemory-policy"]
	}
	n, err := strconv.ParseUint(memory, 10, 64)
	if err != nil {
		return false, fmt.Errorf("maxmemory: %w", err)
	}
	return n > 0 && (strings.HasSuffix(policy, "-lru") || strings.HasSuffix(policy, "-lfu")), nil
}

// send touches a few keys: with one TOUCH, or one by one if nearside's own user may
// not touch all of them, since the entries of other users are among them.
func (t *toucher) send(ctx context.Context, keys [][]byte) {
	ctx, cancel := context.WithTimeout(ctx, t.p.cfg.OriginTimeout)
	defer cancel()
	touch := []byte("TOUCH")
	per := len(keys) // keys that one reply speaks of
	b, err := t.call(ctx, appendArgs(nil, append([][]byte{touch}, keys...)), 1)
	if noPerm(b) && per > 1 && !bytes.Contains(b, []byte("command")) {
		var req []byte
		for _, key := range keys {
			req = appendArgs(req, [][]byte{touch, key})
		}
		per = 1
		b, err = t.call(ctx, req, len(keys))
	}
	if err != nil { // the link and the sessions say what is wrong
		t.dropped.Add(len(keys))
		return
	}
	for len(b) > 0 {
		var one []byte
		one, b = origin.Split(b)
		if !isError(one) {
			t.touched.Add(per)
			continue
		}
		t.dropped.Add(per)
		if !t.refused {
			t.refused = true
			t.p.log.Warn("the origin does not let nearside touch keys that are hit, so it may evict them as unused", "error", strings.TrimSpace(string(one)))
		}
	}
}

// call asks on a connection that sessions share.
func (t *toucher) call(ctx context.Context, req []byte, replies int) ([]byte, error) {
	c, err := t.p.origin.Shared(ctx, origin.Group{DB: t.p.cfg.CacheDB, Proto: 2}, 0)
	if err != nil {
		return nil, err
	}
	return c.Call(ctx, req, replies)
}

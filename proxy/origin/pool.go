package origin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = time.Second
	maxIdle      = 64  // pinned ones
	maxIdleLanes = 512 // each active session may need one again and again
	idleFor      = 60 * time.Second

	// A shared connection that nobody uses stays for so long; where there are more than
	// fewShared for a shorter time, and where there are manyShared a new one takes the place
	// of the longest unused. So a walk over all databases leaves nothing.
	unusedFor    = 5 * time.Minute
	unusedOfMany = 5 * time.Second
	fewShared    = 64
	manyShared   = 512
)

// slots are the shared connections of one group.
type slots struct {
	group Group
	list  []slot
}

type slot struct {
	cur atomic.Pointer[Conn]

	mu      sync.Mutex
	attempt *attempt // the dial under way
	err     error    // of the last dial, repeated until retryAt
	retryAt int64
	backoff time.Duration
}

type attempt struct {
	done chan struct{}
	c    *Conn
	err  error
}

// Shared returns the n-th (modulo Config.Connections) shared connection of g. It
// is dialled if need be, once for all who want it; after a failed dial its error
// is given to everybody for a while.
func (o *Origin) Shared(ctx context.Context, g Group, n uint64) (*Conn, error) {
	s := (*o.groups.Load())[g]
	if s == nil {
		s = o.addGroup(g)
	}
	sl := &s.list[n%uint64(len(s.list))]
	if c := sl.cur.Load(); c != nil {
		return c, nil
	}
	return o.fillSlot(ctx, g, sl)
}

func (o *Origin) addGroup(g Group) *slots {
	o.mu.Lock()
	defer o.mu.Unlock()
	old := *o.groups.Load()
	if s := old[g]; s != nil {
		return s
	}
	s := &slots{group: g, list: make([]slot, o.cfg.Connections)}
	groups := maps.Clone(old)
	groups[g] = s
	o.groups.Store(&groups)
	return s
}

func (o *Origin) fillSlot(ctx context.Context, g Group, sl *slot) (*Conn, error) {
	sl.mu.Lock()
	if c := sl.cur.Load(); c != nil {
		sl.mu.Unlock()
		return c, nil
	}
	a := sl.attempt
	if a == nil {
		if sl.err != nil && o.now() < sl.retryAt {
			err := sl.err
			sl.mu.Unlock()
			return nil, err
		}
		mine := &attempt{done: make(chan struct{})}
		a, sl.attempt = mine, mine
		sl.mu.Unlock() // start locks Origin.mu, which comes before
		if !o.start(func() { o.try(g, sl, mine) }) {
			o.finish(g, sl, mine, nil, ErrClosed)
		}
	} else {
		sl.mu.Unlock()
	}

	select {
	case <-a.done:
		return a.c, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %s: %w", ErrUnreachable, o.opt.Addr, ctx.Err())
	}
}

// start runs f on a goroutine that Close waits for.
func (o *Origin) start(f func()) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.wg.Go(f)
	return true
}

// try dials for a slot. Those who wait may leave; the connection stays.
func (o *Origin) try(g Group, sl *slot, a *attempt) {
	o.retireLongestUnused(manyShared - 1)
	c, err := o.patiently(o.ctx, func() (*Conn, error) {
		return o.dial(o.ctx, g, shared, func(c *Conn) { c.slot = sl })
	})
	if err != nil && rejected(err) {
		if other := o.sibling(g); other != nil {
			a.c = other // not the slot's own: the next one to come tries again
			o.finish(g, sl, a, nil, err)
			return
		}
	}
	o.finish(g, sl, a, c, err)
}

// retireLongestUnused closes shared connections on which nothing is going on until there are most.
func (o *Origin) retireLongestUnused(most int) {
	var unused []*Conn
	n := 0
	o.mu.Lock()
	for c := range o.conns {
		if c.kind == shared && c.Err() == nil {
			n++
			if c.Outstanding() == 0 && !o.stays(c.group) {
				unused = append(unused, c)
			}
		}
	}
	o.mu.Unlock()
	if n <= most {
		return
	}
	slices.SortFunc(unused, func(a, b *Conn) int { return cmp.Compare(a.heard.Load(), b.heard.Load()) })
	for _, c := range unused {
		if n <= most {
			break
		}
		if c.retire() {
			n--
		}
	}
}

// stays tells whether a group's connections stay if nobody uses them.
func (o *Origin) stays(g Group) bool {
	return g.own() && !g.Reads && !g.Alone && slices.Contains(o.cfg.Home, g.DB)
}

func (o *Origin) finish(g Group, sl *slot, a *attempt, c *Conn, err error) {
	sl.mu.Lock()
	sl.attempt = nil
	sl.err = err
	if err == nil {
		sl.backoff = 0
		sl.cur.Store(c)
		if c.Err() != nil { // broken before it stood there to be taken out
			sl.cur.CompareAndSwap(c, nil)
		}
	} else {
		sl.backoff = min(max(2*sl.backoff, firstBackoff), lastBackoff)
		sl.retryAt = o.now() + int64(sl.backoff)
	}
	sl.mu.Unlock()
	if err != nil && !errors.Is(err, ErrClosed) {
		o.cfg.Log.Debug("origin connection failed", "addr", o.opt.Addr, "db", g.DB, "error", err)
	}
	if a.c == nil {
		a.c, a.err = c, err
	}
	close(a.done)
}

// patience is how long one waits for a pinned connection of somebody else to come
// back before it is said that there are too many: transactions and joined commands
// own theirs for a moment only.
const patience = time.Second

// Pin returns a connection for one owner, who gives it back with Unpin, also when
// it broke.
func (o *Origin) Pin(ctx context.Context, g Group) (*Conn, error) {
	return o.patiently(ctx, func() (*Conn, error) { return o.take(ctx, g, pinned) })
}

// Lane is Pin for who owns the connection for a few requests only, which nobody else's
// must follow: one of them may run long, block the connection at the server, or
// make the server close it.
func (o *Origin) Lane(ctx context.Context, g Group) (*Conn, error) { return o.take(ctx, g, lane) }

// patiently tries until there is room for another connection, but not for long.
func (o *Origin) patiently(ctx context.Context, try func() (*Conn, error)) (*Conn, error) {
	var over <-chan time.Time
	for {
		freed := o.awaitFreed()
		c, err := try()
		if !errors.Is(err, ErrTooManyPinned) && !errors.Is(err, ErrTooManyConns) {
			return c, err
		}
		if freed == nil { // it has become tight in between
			continue
		}
		if over == nil {
			over = time.After(patience)
		}
		select {
		case <-freed:
		case <-over:
			return nil, err
		case <-ctx.Done():
			return nil, err
		}
	}
}

// awaitFreed returns what is closed when a pinned connection has come back. Asked for
// before one looks, it misses none.
func (o *Origin) awaitFreed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.freed == nil && o.tight() {
		o.freed = make(chan struct{})
	}
	return o.freed
}

// tight tells, with mu held, whether a pinned connection may not be had.
func (o *Origin) tight() bool {
	return o.out >= o.cfg.MaxPinned || o.cfg.MaxConns > 0 && len(o.conns)+o.opening >= o.cfg.MaxConns
}

// wakePins lets those who wait for room look again. mu is held.
func (o *Origin) wakePins() {
	if o.freed != nil {
		close(o.freed)
		o.freed = nil
	}
}

// TryLane is Lane for who should not wait: it returns nil if one must be dialled.
func (o *Origin) TryLane(g Group) *Conn {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.out >= o.cfg.MaxPinned {
		return nil
	}
	c := o.takeIdle(g, lane)
	if c != nil {
		o.out++
	}
	return c
}

// takeIdle is called with mu held.
func (o *Origin) takeIdle(g Group, k kind) *Conn {
	for i := len(o.idle) - 1; i >= 0; i-- { // the last used one is the likeliest to live
		c := o.idle[i]
		if c.kind == k && c.group == g && c.Err() == nil {
			o.idle = append(o.idle[:i], o.idle[i+1:]...)
			c.isOut.Store(true)
			return c
		}
	}
	return nil
}

func (o *Origin) take(ctx context.Context, g Group, k kind) (*Conn, error) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return nil, ErrClosed
	}
	if o.out >= o.cfg.MaxPinned {
		o.mu.Unlock()
		return nil, ErrTooManyPinned
	}
	o.out++
	c := o.takeIdle(g, k)
	o.mu.Unlock()
	if c != nil {
		return c, nil
	}

	c, err := o.dial(ctx, g, k, func(c *Conn) { c.isOut.Store(true) })
	if err != nil && rejected(err) {
		if c := o.moveIdle(ctx, g); c != nil {
			return c, nil
		}
	}
	if err != nil {
		o.mu.Lock()
		o.out--
		o.wakePins()
		o.mu.Unlock()
		return nil, err
	}
	return c, nil
}

// Crowded tells whether more than half of the connections are out that may be.
func (o *Origin) Crowded() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.out > o.cfg.MaxPinned/2
}

// Unpin takes a connection of Pin or Lane back. clean says that nothing is left of its
// owner: no outstanding replies, no MULTI, WATCH, subscription or MONITOR, the
// database its Group names. Anything else is closed. A second Unpin does nothing.
func (o *Origin) Unpin(c *Conn, clean bool) {
	if !c.kind.owned() || !c.isOut.CompareAndSwap(true, false) {
		return
	}
	c.MayBlock(false)
	clean = clean && c.Outstanding() == 0 && c.mode.Load() == modeReplies && !c.tainted.Load()
	c.SetPush(nil)

	o.mu.Lock()
	o.out--
	o.wakePins()
	keep := clean && !o.closed && !o.other(c) && c.Err() == nil
	var surplus *Conn
	if keep {
		if _, known := o.conns[c]; known { // else its reader has just ended
			c.watch.idleSince = o.now()
			o.idle = append(o.idle, c)
			surplus = o.takeSurplus(c.kind)
		}
	}
	o.mu.Unlock()
	if surplus != nil {
		surplus.fail(ErrClosed)
	}
	if !keep {
		c.fail(ErrClosed)
	}
}

// takeSurplus takes the longest unused idle connection of a kind out if there are too many.
// mu is held.
func (o *Origin) takeSurplus(k kind) *Conn {
	most, n, oldest := maxIdle, 0, -1
	if k == lane {
		most = maxIdleLanes
	}
	if len(o.idle) <= most {
		return nil
	}
	for i, c := range o.idle {
		if c.kind == k {
			n++
			if oldest < 0 {
				oldest = i
			}
		}
	}
	if n <= most {
		return nil
	}
	c := o.idle[oldest]
	o.idle = append(o.idle[:oldest], o.idle[oldest+1:]...)
	return c
}

// Dial makes a connection outside of all pools, for the link. push gets RESP3
// push frames on the reading goroutine, from the first one on; a frame is valid
// only during the call. OnConnect and Expect do not concern it.
func (o *Origin) Dial(ctx context.Context, g Group, push func(frame []byte)) (*Conn, error) {
	return o.dial(ctx, g, dialled, func(c *Conn) {
		if push != nil {
			c.SetPush(func(f []byte, _ *Batch) { push(f) })
		}
	})
}

// DialBusy makes a connection outside of all pools, also to a server that is busy with
// a script and answers nothing but what ends that.
func (o *Origin) DialBusy(ctx context.Context, g Group) (*Conn, error) {
	return o.dial(ctx, g, heartbeat, nil)
}

// Expect says that only connections to the server process runID may be used from
// now on, and closes the shared and pinned ones (idle or not) to any other. "" lifts
// that. Connections whose server did not tell its run id are spared.
func (o *Origin) Expect(runID string) {
	o.mu.Lock()
	changed := o.expect != runID
	o.expect = runID
	var wrong []*Conn
	for c := range o.conns {
		if c.kind.data() && o.other(c) {
			wrong = append(wrong, c)
		}
	}
	o.mu.Unlock()
	for _, c := range wrong {
		c.fail(fmt.Errorf("%w: %w", ErrLost, errMoved))
	}
	if !changed {
		return
	}
	o.retryNow(func(Group) bool { return true }) // what failed until now may have failed because of the old id
}

var errMoved = errors.New("it led to another server process")

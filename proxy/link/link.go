package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is one connection to the origin that speaks RESP3.
type Conn interface {
	// Ask writes one command. answer is called exactly once, on the connection's reading goroutine and in order with
	// the pushes: what Redis sent before the answer has been handed to push before. err says that the
	// connection is lost. The reply is valid during the call only.
	Ask(answer func(reply []byte, err error), args ...string)
	// Queue is Ask for a command that may wait until the next Ask, to be written together with it.
	Queue(answer func(reply []byte, err error), args ...string)
	RunID() string
	Done() <-chan struct{} // closed when the connection is lost
	Close()                // makes a blocked Ask return
}

// The modes of a link.
const (
	ModeAuto     = "auto"     // tracking or, if the origin refuses it, keyspace
	ModeTracking = "tracking" // CLIENT TRACKING ON BCAST
	ModeKeyspace = "keyspace" // keyspace notifications
	ModeNone     = "none"     // no connection, hits always allowed, the bound is unknown
	ModeEmbedded = "embedded" // no connection, every write passes through nearside: always proven
)

// Channel is where applications and other nearsides say what to forget: a message is a key, or a pattern that ends in '*'.
const Channel = "nearside:invalidate"

// Config describes a link. The callbacks are called without any lock held, by one connection after the other.
type Config struct {
	// Dial connects. push gets the raw RESP3 push frames on the connection's reading goroutine; a frame is valid during
	// the call only. ctx bounds the dialling, not the life of the connection.
	Dial func(ctx context.Context, push func(frame []byte)) (Conn, error)

	// Prefixes whose keys are to be reported; they must not overlap. "" among them, or none at all, means every key.
	Prefixes []string

	Mode string // "" is "auto"

	// DB is the database whose keyspace notifications are listened to.
	DB int

	// SetEvents allows the link to add to notify-keyspace-events what is missing there.
	SetEvents bool

	// Ping is the interval of the PINGs: 0 is 100 ms, and never more than half of MaxStaleness.
	Ping time.Duration

	// MaxStaleness is the oldest proof with which hits are served: 0 is 1 s.
	MaxStaleness time.Duration

	// Now is a clock in nanoseconds that also runs while the machine sleeps.
	Now func() int64

	Invalidate        func(by Cause, key []byte)     // one key changed; key is valid during the call only; must not block
	InvalidatePattern func(by Cause, pattern []byte) // the same for all keys that match; nil: InvalidateAll
	InvalidateAll     func(by Cause, reason string)  // anything may have changed; must not block
	Up                func(runID string)             // changes are reported: connections to another run id are closed here; nil: nothing to do
	// Proven is called after each PONG that counts, on the connection's reading goroutine. It must not block. May be nil.
	Proven func()
	// Lost is called when a connection has ended, hits being off already. It must not block. May be nil.
	Lost func()
	Log  *slog.Logger // nil: silent
}

// A Link tells what changed at the origin and whether hits may be served.
type Link struct {
	// What every hit reads, on a cache line of its own.
	until  atomic.Int64  // hits may be served up to this time; never: the link is down
	need   atomic.Uint64 // the PING whose proof passes every fence that was raised
	passed atomic.Uint64 // the last PING that is proven: so much was known when it was sent
	window atomic.Int64  // until is never more than this ahead
	_      [32]byte

	sent   atomic.Uint64 // the last PING drawn; counts on over all connections
	asked  atomic.Uint64 // the PING whose proof is enough for all in Sync
	proof  atomic.Int64  // when passed was sent; never: not on this connection
	proven atomic.Int64  // what Proven says
	kicked atomic.Bool   // a token is in kick, or about to be
	kick   chan struct{} // the pinger is to look at the fences
	count  counters

	cfg    Config
	log    *slog.Logger
	events []byte                // how the channels of the keys' events begin
	terms  atomic.Pointer[terms] // of the next connection

	mu       sync.Mutex
	cur      *session      // the connection that may speak; nil while there is none
	held     chan struct{} // not nil: no connection may begin until it is closed
	state    State         // StateDown, StateConnecting or StateUp
	runID    string
	role     string
	source   string // ModeTracking or ModeKeyspace: of this connection, or of the last one
	silent   string
	steps    int           // PONGs in sequence that are a proof
	whySteps string        // if more than one, why
	down     string        // why the last session ended, or was not to be had
	fellBack string        // the session's, when the link last came up
	woken    chan struct{} // closed to wake those in Wait; nil: nobody waits
	closed   bool
	cancel   context.CancelFunc // of Run; nil: not running yet
	ended    chan struct{}      // closed when Run has returned
}

const (
	never  = math.MinInt64
	always = math.MaxInt64
)

// New returns a link that is down until Run connects it. Those without a connection allow hits at once.
func New(cfg Config) *Link {
	if cfg.Mode == "" {
		cfg.Mode = ModeAuto
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &Link{
		cfg:    cfg,
		log:    cfg.Log,
		kick:   make(chan struct{}, 1),
		ended:  make(chan struct{}),
		events: []byte(keyspace(cfg.DB)),
		source: ModeTracking,
	}
	t := termsOf(cfg.Prefixes, cfg.Ping, cfg.MaxStaleness)
	l.terms.Store(t)
	l.window.Store(2 * int64(t.maxStaleness))
	if cfg.Mode == ModeKeyspace {
		l.source = ModeKeyspace
	}
	l.until.Store(never)
	l.proof.Store(never)
	l.proven.Store(never)
	if !l.connects() {
		l.until.Store(always)
	}
	return l
}

// connects says whether there is a connection at all. An unknown mode connects, which Run refuses: hits stay off.
func (l *Link) connects() bool {
	return l.cfg.Mode != ModeNone && l.cfg.Mode != ModeEmbedded
}

// Run keeps the link connected until ctx is done or Close is called, and returns nil then. It fails at once
// if the configuration cannot work, or if it was called before.
func (l *Link) Run(ctx context.Context) error {
	if err := l.cfg.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.mu.Lock()
	running, closed := l.cancel != nil, l.closed
	if !running && !closed {
		l.cancel = cancel
	}
	l.mu.Unlock()
	switch {
	case closed:
		return nil
	case running:
		return errors.New("link: Run was called twice")
	}
	defer close(l.ended)
	if !l.connects() {
		<-ctx.Done()
		return nil
	}
	l.keepConnected(ctx)
	return nil
}

func (c *Config) check() error {
	switch c.Mode {
	case ModeNone, ModeEmbedded:
		return nil
	case ModeAuto, ModeTracking, ModeKeyspace:
	default:
		return fmt.Errorf("link: unknown mode %q", c.Mode)
	}
	if c.Dial == nil || c.Now == nil || c.Invalidate == nil || c.InvalidateAll == nil {
		return errors.New("link: Dial, Now, Invalidate and InvalidateAll are needed")
	}
	return nil
}

// Close ends Run and waits for it. It must not be called from a callback.
func (l *Link) Close() {
	l.mu.Lock()
	l.closed = true
	cancel := l.cancel
	l.mu.Unlock()
	if cancel != nil {
		cancel()
		<-l.ended
	}
}

// Fresh says whether hits may be served now: Verdict(now) == OK.
func (l *Link) Fresh(now int64) bool {
	need := l.need.Load() // before passed: both only grow
	return l.within(now, l.until.Load()) && need <= l.passed.Load()
}

// A Verdict says whether a hit may be served, and if not, why.
type Verdict uint8

// The verdicts. The zero value serves nothing.
const (
	Down   Verdict = iota // the link is down, or not yet up again: pass the read through
	Stale                 // the proof is too old: pass the read through
	Fenced                // a fence is pending: Wait, then look up
	OK
)

func (v Verdict) String() string {
	return [...]string{"down", "stale", "fenced", "ok"}[v]
}

// Verdict says whether a hit may be served. The entry is to be looked up after it, never before.
func (l *Link) Verdict(now int64) Verdict {
	need := l.need.Load() // before passed: both only grow
	until := l.until.Load()
	switch {
	case until == never:
		return Down
	case !l.within(now, until):
		return Stale
	case need > l.passed.Load():
		return Fenced
	}
	return OK
}

// within says whether the proof holds at that time. A time long before the proof was sent is of a clock that was set back:
// it would make the proof last for as long as the clock needs to come to it again.
func (l *Link) within(now, until int64) bool {
	return now <= until && (until == always || now >= until-l.window.Load())
}

// Drop stops hits before it returns; the connection is closed and made anew. For when somebody else found
// out that the link cannot be right, as a data connection that met another run id.
func (l *Link) Drop(reason string) {
	l.mu.Lock()
	s := l.cur
	l.mu.Unlock()
	if s != nil {
		l.end(s, reason)
	}
}

// RunID is the run id of the server that the link is connected to, "" while it is down. It is set before Up is called.
func (l *Link) RunID() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.runID
}

// Bound is how stale a hit can be: now − the send time of the last answered PING. It is not known while the link is down and
// with ModeNone; with ModeEmbedded it is 0.
func (l *Link) Bound(now int64) (d time.Duration, known bool) {
	if !l.connects() {
		return 0, l.cfg.Mode == ModeEmbedded
	}
	proof := l.proof.Load()
	if proof == never {
		return 0, false
	}
	return time.Duration(max(now-proof, 0)), true
}

// Proven is the time, on the configured clock, up to which everything that was written is known here: the send time of the last
// answered PING or, if that is older, of the last answered check. It stays when the connection is lost; known is
// false if there never was a proof, and without a connection.
func (l *Link) Proven() (at int64, known bool) {
	at = l.proven.Load()
	return at, at != never
}

// State is what the link is doing.
type State uint8

// The states of a link.
const (
	StateDown       State = iota
	StateConnecting       // dialling, or waiting for the acknowledgement and the first PONG
	StateUp               // hits are served
	StateBypassed         // connected, but the proof is too old
	StateNone             // ModeNone
	StateEmbedded         // ModeEmbedded
)

func (s State) String() string {
	return [...]string{"down", "connecting", "up", "bypassed", "none", "embedded"}[s]
}

// States are all of them.
func States() []State {
	return []State{StateDown, StateConnecting, StateUp, StateBypassed, StateNone, StateEmbedded}
}

// State tells what the link is doing.
func (l *Link) State() State {
	switch l.cfg.Mode {
	case ModeNone:
		return StateNone
	case ModeEmbedded:
		return StateEmbedded
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == StateUp && !l.within(l.cfg.Now(), l.until.Load()) {
		return StateBypassed
	}
	return l.state
}

// Source is the way in which changes are learned: "tracking", "keyspace", "none" or "embedded". While the link is down it is
// the one of the last connection.
func (l *Link) Source() string {
	if !l.connects() {
		return l.cfg.Mode
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.source
}

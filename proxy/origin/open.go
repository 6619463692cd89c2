package origin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"nearside/proxy/internal/loop"
	"nearside/proxy/internal/tlsfiles"
)

// Config says where the origin is and how it is to be used.
type Config struct {
	// URL is redis://, rediss:// or unix://, as go-redis's ParseURL takes it.
	URL string
	// Timeout: outstanding requests fail when the origin has answered nothing at
	// all for so long. Default 5 s.
	Timeout time.Duration
	// DialTimeout bounds the making of the socket. Default min(Timeout, 2 s).
	DialTimeout time.Duration
	// Connections is the number of shared connections per Group. Default 2.
	Connections int
	// MaxPinned bounds the pinned connections that are out at one time. Default 4096.
	MaxPinned int
	// MaxConns bounds the connections of all kinds, those of Dial and the watchdog
	// excepted, which always find room. 0: nothing bounds them.
	MaxConns int
	// Home are the databases whose shared connections, if they are nearside's own user's,
	// stay however long nobody uses them.
	Home []int
	// OnConnect is called with the run id of every new shared or pinned connection
	// before it is used; "" if the server does not tell. It may call Expect. May be nil.
	OnConnect func(runID string)
	// Stalled is called, on a goroutine of its own, when a shared connection turns out to be
	// stalled (see Conn.Stalled), and again when more has been sent there. May be nil.
	Stalled func(*Conn)
	// Log gets what the operator should know. Default: nothing is logged.
	Log *slog.Logger
	// Budget counts the replies that are being received, from 64 KiB on. Default: no bound.
	Budget Budget
	// TLS is for rediss:// only.
	TLS TLS
	// SkipRunID: the server has no INFO server (the embedded one).
	SkipRunID bool
}

// Origin is the Redis behind nearside.
type Origin struct {
	cfg     Config
	opt     *redis.Options    // as parsed; never changed
	tls     *tlsfiles.Watched // nil without TLS
	control *redis.Client
	base    time.Time
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	groups atomic.Pointer[map[Group]*slots] // copied on write, under mu

	mu     sync.Mutex
	closed bool
	expect string
	conns  map[*Conn]struct{}
	idle   []*Conn // clean pinned ones, the longest unused first
	out    int     // pinned ones that are owned or being dialled

	freed   chan struct{} // closed when a pinned connection comes back; nil: nobody waits
	opening int           // connections that Config.MaxConns bounds and that are being dialled

	beat beat

	loops    *loop.Group // nil: every connection has a reading goroutine
	loopNext atomic.Uint64

	heard                        atomic.Int64
	bytesIn, bytesOut            atomic.Int64
	dials, dialErrors            atomic.Int64
	lost, timedOut, heartbeatsNo atomic.Int64
	dialError                    atomic.Pointer[error] // the last one

	login atomic.Pointer[login] // what has let nearside in last
}

// Open parses and starts the watchdog. It does not dial.
func Open(cfg Config) (*Origin, error) {
	opt, err := redis.ParseURL(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("origin URL: %w", withoutURL(err))
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = min(cfg.Timeout, 2*time.Second)
	}
	if cfg.Connections <= 0 {
		cfg.Connections = 2
	}
	if cfg.MaxPinned <= 0 {
		cfg.MaxPinned = 4096
	}
	if cfg.Budget == nil {
		cfg.Budget = unlimited{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Network == "" {
		opt.Network = "tcp"
	}
	opt.DialTimeout = cfg.DialTimeout
	opt.DialerRetries = 1
	opt.MaxRetries = -1
	opt.DisableIdentity = true
	opt.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	opt.ContextTimeoutEnabled = true
	opt.ReadTimeout = cfg.Timeout
	opt.WriteTimeout = cfg.Timeout
	opt.ClientName = ""

	o := &Origin{cfg: cfg, opt: opt, base: time.Now(), conns: map[*Conn]struct{}{}}
	if err := o.watchTLS(); err != nil {
		return nil, err
	}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	o.groups.Store(&map[Group]*slots{})
	o.login.Store(o.configured())
	o.beat.init(o)
	o.control = redis.NewClient(o.controlOptions())
	o.wg.Go(o.watch)
	return o, nil
}

// UseLoops has the shared connections read by loops from now on. Call it before
// there are any; g must last until all connections are closed.
func (o *Origin) UseLoops(g *loop.Group) { o.loops = g }

func (o *Origin) controlOptions() *redis.Options {
	opt := *o.opt
	opt.Protocol = 3
	opt.PoolSize = 8
	opt.PipelinePoolSize = -1
	opt.ReadTimeout = min(o.cfg.Timeout, 2*time.Second)
	opt.WriteTimeout = opt.ReadTimeout
	opt.PoolTimeout = opt.ReadTimeout
	opt.CredentialsProvider = func() (string, string) {
		l := o.login.Load()
		return l.user, l.password
	}
	opt.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		now := opt // with the certificates of this moment
		o.secure(&now)
		return redis.NewDialer(&now)(ctx, network, addr)
	}
	return &opt
}

// withoutURL keeps the password that stands in the URL out of the message.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// Close closes every connection (outstanding sinks get ErrClosed) and waits for
// the goroutines to end. It must not be called from a Sink.
func (o *Origin) Close() {
	o.mu.Lock()
	o.closed = true
	all := o.all()
	o.mu.Unlock()
	o.cancel()
	for _, c := range all {
		c.fail(ErrClosed)
	}
	_ = o.control.Close()
	o.wg.Wait()
}

// all is called with mu held.
func (o *Origin) all() []*Conn {
	all := make([]*Conn, 0, len(o.conns))
	for c := range o.conns {
		all = append(all, c)
	}
	return all
}

// Addr is host:port or the socket's path.
func (o *Origin) Addr() string { return o.opt.Addr }

// User is who nearside itself acts as.
func (o *Origin) User() string {
	if o.opt.Username == "" {
		return "default"
	}
	return o.opt.Username
}

// Control is the client for nearside's own questions: RESP3, short timeouts, no
// retries, the URL's database.
func (o *Origin) Control() *redis.Client { return o.control }

// LastHeard is when the origin last sent anything on a connection of this
// package, the time of Open if it never has. It carries a monotonic reading.
func (o *Origin) LastHeard() time.Time { return o.base.Add(time.Duration(o.heard.Load())) }

// Now is the monotonic time since Open in nanoseconds.
func (o *Origin) Now() int64 { return o.now() }

// now is the monotonic time since Open.
func (o *Origin) now() int64 { return int64(time.Since(o.base)) }

// Stats counts.
type Stats struct {
	// Connections now, by kind. Pinned ones are out, Idle ones wait to be pinned.
	Shared, Locks, Pinned, Idle, Dialled int
	// Outstanding is the number of requests without an answer.
	Outstanding int
	// Since Open.
	Dials, DialErrors, Lost, TimedOut, BytesIn, BytesOut, Heartbeats int64
	// DialError is why the last connection that could not be made was not; nil without one.
	DialError error
}

// Stats takes a look at everything.
func (o *Origin) Stats() Stats {
	s := Stats{
		Dials: o.dials.Load(), DialErrors: o.dialErrors.Load(), Lost: o.lost.Load(), TimedOut: o.timedOut.Load(),
		BytesIn: o.bytesIn.Load(), BytesOut: o.bytesOut.Load(), Heartbeats: o.heartbeatsNo.Load(),
	}
	if err := o.dialError.Load(); err != nil {
		s.DialError = *err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	s.Idle = len(o.idle)
	for c := range o.conns {
		switch {
		case c.kind == heartbeat:
			continue
		case c.kind == dialled, c.kind == bare:
			s.Dialled++
		case c.kind.owned():
			if c.isOut.Load() {
				s.Pinned++
			}
		case c.group.Lock:
			s.Locks++
		default:
			s.Shared++
		}
		s.Outstanding += c.Outstanding()
	}
	return s
}

package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"nearside/policy"
	"nearside/proxy/admin"
	"nearside/proxy/internal/tlsfiles"
	"nearside/proxy/l1"
	"nearside/proxy/link"
	"nearside/proxy/origin"
)

// Proxy is one nearside. Make it with New, run it with Run.
type Proxy struct {
	cfg    Config
	log    *slog.Logger
	begun  time.Time
	set    atomic.Pointer[ruleset] // in force
	ids    ruleIDs
	reload reloading
	mget   *policy.Command
	l1     *l1.Cache
	link   *link.Link
	origin *origin.Origin
	admin  *admin.Server
	tls    *tlsfiles.Watched // nil without TLS for clients
	m      *meters

	timed bool // commands are timed, for their latencies or to find slow ones
	slow  slowlog

	linked bool // Redis reports changes
	users  users

	verifier verifier
	era      atomic.Pointer[serverEra] // another one when another server may answer

	ctx         context.Context // ends with Run
	cancel      context.CancelFunc
	ready       chan struct{}
	budget      *budget
	over        chan struct{}
	descriptors descriptors
	entries     entryPool
	server      atomic.Pointer[serverFacts]
	learning    learning
	databases   sync.Map     // int: databases that the origin has
	missing     atomic.Int64 // the smallest number of one that it has not; 0: not known

	env       environ // of the sessions' conns
	parking   lot     // of reads that wait for a fence
	fencePing fencePing
	outage    outage
	full      full

	audit      auditor
	quarantine quarantine

	announcer announcer

	unmatched unmatched
	reporter  reporter
	touch     toucher
	limits    limits

	pause  pause
	paused atomic.Bool // perhaps: CLIENT PAUSE was given and no UNPAUSE since

	nextID    atomic.Uint64
	clients   atomic.Int64
	mu        sync.Mutex
	listeners []net.Listener
	sessions  map[*session]struct{}
	draining  atomic.Bool
	ending    bool // no more sessions
	wg        sync.WaitGroup
}

// New checks the configuration and puts the parts together; it connects to nothing.
func New(cfg Config) (*Proxy, error) {
	err := cfg.fill()
	if err != nil {
		return nil, err
	}
	mode := cfg.Link
	if cfg.Embedded {
		mode = link.ModeEmbedded
	}
	p := &Proxy{
		cfg: cfg, log: cfg.Log, begun: time.Now(),
		linked:   mode != link.ModeNone && mode != link.ModeEmbedded,
		mget:     policy.Lookup([][]byte{[]byte("mget")}),
		ready:    make(chan struct{}),
		over:     make(chan struct{}, 1),
		sessions: map[*session]struct{}{},
	}
	if p.descriptors, err = shareDescriptors(openFiles(), &cfg); err != nil {
		return nil, err
	}
	p.sayFew(&cfg)
	set, err := p.newRuleset(cfg, nil)
	if err != nil {
		return nil, err
	}
	p.set.Store(set)
	p.m = newMeters(p.ids.most, meterLabels())
	p.m.follow(set.rules, p.held)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.budget = newBudget(cfg.Buffers, func() {
		select {
		case p.over <- struct{}{}:
		default: // it is being looked after
		}
	})
	if p.tls, err = cfg.TLS.watch(cfg.Log); err != nil {
		return nil, err
	}
	if p.l1, err = l1.New(l1.Config{
		Memory: cfg.Memory, MaxEntries: cfg.MaxEntries, Rules: p.ids.most,
		Evicted: func(rule, n int) { p.m.rule(rule).evictions.Add(n) },
	}); err != nil {
		return nil, err
	}
	if p.origin, err = origin.Open(origin.Config{
		URL: cfg.Redis, Timeout: cfg.OriginTimeout, Connections: p.descriptors.shared, MaxPinned: p.descriptors.pinned, MaxConns: p.descriptors.conns,
		Home: []int{cfg.LocksDB, cfg.CacheDB}, OnConnect: p.met, Stalled: p.passStalled, Budget: p.budget, TLS: origin.TLS(cfg.RedisTLS), Log: cfg.Log, SkipRunID: cfg.Embedded,
	}); err != nil {
		p.l1.Close()
		return nil, err
	}
	p.users.init(p)
	p.verifier.init(p)
	p.slow.init(cfg.Slow, p.m.set)
	p.timed = !cfg.NoLatency || p.slow.on()
	p.env = environ{
		ctx: p.ctx, budget: p.budget, m: p.m, slow: &p.slow, latencies: !cfg.NoLatency, timed: p.timed,
		limits: func() *clientLimits { return &p.current().limits }, clock: p.clock, slowClock: clockNow, worst: p.worst, log: cfg.Log,
	}
	p.quarantine.init(p.ids.most)
	p.audit.init(p)
	p.reporter.init(p, time.Now())
	p.touch.init(p)
	p.limits.init()
	p.link = link.New(link.Config{
		Dial: p.dialLink, Prefixes: set.rules.Prefixes(), Mode: mode, Ping: cfg.Ping, MaxStaleness: cfg.MaxStaleness,
		Now: clockNow, Log: cfg.Log.With("origin", p.origin.Addr()),
		DB: cfg.CacheDB, SetEvents: cfg.KeyspaceEvents == "set",
		Invalidate: func(by link.Cause, key []byte) {
			p.l1.Invalidate(key, sourceOf(by))
			p.m.invalidated(by.String())
		},
		InvalidatePattern: func(by link.Cause, pattern []byte) {
			p.forgetPattern(pattern, sourceOf(by))
			p.m.invalidated(by.String())
		},
		InvalidateAll: func(by link.Cause, reason string) {
			p.l1.InvalidateAll(sourceOf(by))
			p.m.invalidated(by.String())
			p.log.Debug("everything cached is forgotten", "reason", reason)
		},
		Up:     p.linkUp,
		Proven: p.unparkPassed,
		Lost:   p.unparkLost,
	})
	p.fencePing.link = p.link
	p.initParking()
	if cfg.Admin != "" {
		if p.admin, err = admin.New(admin.Config{
			Addr: cfg.Admin, Token: cfg.AdminToken, TokenFile: cfg.AdminTokenFile, Log: cfg.Log, MaxConns: p.descriptors.admin,
		}, adminSource{p}); err != nil {
			p.l1.Close()
			p.origin.Close()
			return nil, err
		}
	}
	p.gauges()
	return p, nil
}

// fill puts the defaults in and refuses what cannot work.
func (c *Config) fill() error {
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	size := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	count := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	if len(c.Listen) == 0 && len(c.TLS.Listen) == 0 {
		c.Listen = []string{"127.0.0.1:6380"}
	}
	if c.DefaultUser == "" {
		c.DefaultUser = "origin"
	}
	if c.Link == "" {
		c.Link = link.ModeAuto
	}
	if c.Fence == nil {
		c.Fence = []string{"locks", "scripts", "messages"}
	}
	size(&c.Memory, 64<<20)
	def(&c.MaxStaleness, time.Second)
	def(&c.Slow, time.Second)
	def(&c.Ping, 100*time.Millisecond)
	def(&c.OriginTimeout, 5*time.Second)
	count(&c.OriginConnections, 2)
	count(&c.MaxPinned, 4096)
	count(&c.Refills, 128)
	count(&c.Audit.PerSecond, 20)
	count(&c.MaxClients, 10000)
	size(&c.MaxRequest, 64<<20)
	count(&c.MaxOutstanding, 1024)
	size(&c.ReplyBuffer, 1<<20)
	size(&c.Buffers, 128<<20)
	def(&c.Report, 5*time.Minute)
	def(&c.Window, time.Hour)
	def(&c.RequestTimeout, time.Minute)
	def(&c.WriteTimeout, time.Minute)
	def(&c.Drain, 5*time.Second)
	def(&c.privateIdle, privateIdle)
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Admin != "" && c.AdminToken == "" && c.AdminTokenFile == "" && !Loopback(c.Admin) {
		return fmt.Errorf("the admin address %s can be reached from other machines: that needs an admin token", c.Admin)
	}
	if c.Version == "" {
		c.Version = "unknown"
	}
	if len(c.TLS.Listen) > 0 && (c.TLS.Cert == "" || c.TLS.Key == "") {
		return errors.New("clients can only connect by TLS to a nearside with a certificate and its key")
	}
	// As Redis's protected mode: refuse where a client could act without having
	// shown who it is.
	open := c.Listen
	if c.TLS.ClientCA == "" {
		open = slices.Concat(c.Listen, c.TLS.Listen)
	}
	for _, addr := range open {
		if c.ProtectedMode && c.DefaultUser != "none" && !Loopback(addr) {
			return fmt.Errorf("listen address %s can be reached from other machines, and clients need no password there: set default_user: none, listen on loopback, or set protected_mode: false", addr)
		}
	}
	return nil
}

// Loopback tells whether only this machine reaches an address to listen on.
func Loopback(addr string) bool {
	if strings.HasPrefix(addr, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Ready is closed once all listeners are open.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Addrs are the addresses that clients connect to, once Ready.
func (p *Proxy) Addrs() []net.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	addrs := make([]net.Addr, len(p.listeners))
	for i, ln := range p.listeners {
		addrs[i] = ln.Addr()
	}
	return addrs
}

// AdminAddr is the address of the HTTP endpoints, nil without.
func (p *Proxy) AdminAddr() net.Addr {
	if p.admin == nil {
		return nil
	}
	return p.admin.Addr()
}

// settleCache waits until every reply stored so far can be
// found; for tests and benchmarks, since ristretto stores on a goroutine of its own.
func (p *Proxy) settleCache() { p.l1.Wait() }

// entryPool lends slices for the entries of an MGET.
type entryPool struct{ pool sync.Pool }

// get lends one of length n or more.
func (e *entryPool) get(n int) *[]*l1.Entry {
	if b, ok := e.pool.Get().(*[]*l1.Entry); ok && len(*b) >= n {
		return b
	}
	b := make([]*l1.Entry, max(n, 16))
	return &b
}

func (e *entryPool) put(b *[]*l1.Entry) {
	clear(*b) // or it would hold on to them
	e.pool.Put(b)
}

// sessionList is a snapshot, ordered by id.
func (p *Proxy) sessionList() []*session {
	p.mu.Lock()
	list := make([]*session, 0, len(p.sessions))
	for s := range p.sessions {
		list = append(list, s)
	}
	p.mu.Unlock()
	slices.SortFunc(list, func(a, b *session) int { return int(int64(a.id) - int64(b.id)) })
	return list
}

func (p *Proxy) forget(s *session) {
	p.mu.Lock()
	delete(p.sessions, s)
	p.mu.Unlock()
}

func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

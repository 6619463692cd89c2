package proxy

import (
	"log/slog"
	"time"

	"nearside/policy"
)

// Config is everything a Proxy needs to know. cmd/nearside builds it from
// flags, environment and file; tests build it directly. The zero value of a
// field means its default, given here.
type Config struct {
	// Listen holds the addresses clients connect to: host:port or unix:/path. Default 127.0.0.1:6380.
	Listen []string
	// Admin is the address of the HTTP endpoints; "" switches them off.
	Admin string
	// AdminToken and the first line of AdminTokenFile let in who shows either as a bearer token. Where
	// there is one it is asked for, and beyond loopback there must be one.
	AdminToken, AdminTokenFile string
	// Reload reads the configuration again and calls Proxy.Reload, for POST /-/reload;
	// nil: there is none.
	Reload func() ([]Change, error)
	// Redis is the origin's URL: redis://, rediss:// or unix://.
	Redis string
	// RedisTLS is for an origin behind rediss://.
	RedisTLS RedisTLS
	// TLS is where clients connect by TLS.
	TLS ClientTLS
	// Embedded says that the origin runs inside this process and has no other
	// clients, so that every write passes through nearside and hits need no link.
	Embedded bool
	// ProtectedMode refuses to start on an address beyond loopback on which clients
	// could act without having shown who they are. Default true in files.
	ProtectedMode bool
	// DefaultUser is what a client that sent no AUTH may do: "origin" acts with
	// nearside's own rights (default), "none" is answered NOAUTH.
	DefaultUser string

	// Deny lists commands to refuse beside those that cannot work through nearside:
	// "name", with all its subcommands, or "name|sub".
	Deny []string

	// LocksDB and CacheDB are the two databases. Both may be the same.
	LocksDB, CacheDB int
	// CacheExclusive says that CacheDB holds nothing but the keys of the cache rules, so that
	// FLUSHDB at database 0 may empty it whole. Without it only the rules' keys are unlinked.
	CacheExclusive bool
	// Rules are the lock rules and the cache rules; NewProxy numbers them.
	Rules []policy.Rule

	// Memory bounds the near cache's accounted bytes. Default 64 MiB.
	Memory int64
	// MaxEntries bounds the number of entries; 0: memory alone decides.
	MaxEntries int64
	// MaxStaleness is the longest time a write made elsewhere may stay unseen. Default 1 s.
	MaxStaleness time.Duration
	// Ping is the interval of the freshness proof. Default 100 ms.
	Ping time.Duration
	// Link is how changes are learned of: auto, tracking, keyspace or none. Default auto.
	Link string
	// KeyspaceEvents says what to do about notify-keyspace-events when changes are
	// learned of by them: "check" that it is enough (default), or "set" it.
	KeyspaceEvents string
	// Fence lists after what hits wait for a round trip on the link: locks, scripts, messages.
	// Default all of them; an empty list that is not nil is none.
	Fence []string
	// Refills bounds the fetches for the near cache that are under way at one time, so
	// that after a flush the origin has time for everything else. Default 128.
	Refills int

	// Audit says how many hits are compared with the origin.
	Audit Audit

	// OriginTimeout: commands fail when the origin has answered nothing at all for so long. Default 5 s.
	OriginTimeout time.Duration
	// OriginConnections is the number of shared connections per kind (database, protocol, user, locks). Default 2.
	OriginConnections int
	// MaxPinned bounds the origin connections that sessions own at one time. Default 4096.
	MaxPinned int

	// MaxClients bounds the client connections. Default 10000.
	MaxClients int
	// MaxRequest is the largest request in bytes. Default 64 MiB.
	MaxRequest int64
	// MaxOutstanding is the number of unanswered requests of one session
	// beyond which nearside stops reading from it. Default 1024.
	MaxOutstanding int
	// ReplyBuffer is the number of unsent reply bytes of one session beyond
	// which nearside stops reading from it. Default 1 MiB.
	ReplyBuffer int64
	// Buffers bounds the bytes of requests and replies held for all sessions. Default 128 MiB.
	Buffers int64
	// RequestTimeout closes a client of whose unfinished request neither the rest
	// nor 16 KiB more have come for so long. Default 60 s.
	RequestTimeout time.Duration
	// WriteTimeout bounds the time for which a client takes none of its reply. Default 60 s.
	WriteTimeout time.Duration
	// IdleTimeout closes a client that has sent nothing for so long; 0, the default: never.
	IdleTimeout time.Duration

	// Report is how often each cache rule's counts are logged. Default 5 min; negative: never.
	Report time.Duration
	// Window is the length of the windows of /cache/metrics, which begin at whole
	// multiples of it (UTC). Default 1 h.
	Window time.Duration

	// Touch is how often a key that is answered from the near cache is touched at
	// the origin, so that it does not look unused there. 0, the default: every 30 s
	// if the origin evicts by LRU or LFU; negative: never.
	Touch time.Duration

	// Slow is how long a command may take, from read to sent, before it is logged as
	// slow. Default 1 s; negative: none is.
	Slow time.Duration
	// NoLatency switches the histograms of command durations off.
	NoLatency bool

	// Drain is how long clients have at the end for their last answers. Default 5 s.
	Drain time.Duration

	// Version is what INFO and -version say.
	Version string
	// Log receives what an operator should know. Default slog.Default().
	Log *slog.Logger
	// LogLost counts the lines of the log that were lost, for the metric; nil: none can be.
	LogLost func() uint64

	// For tests: ticks in the place of the toucher's own.
	touchTicks <-chan time.Time
	// Also for tests: how long a session keeps a connection that it does not need.
	privateIdle time.Duration
}

// RedisTLS says whom to trust and who to be at the origin. Files hold PEM, and
// are read again when they change.
type RedisTLS struct {
	// CA: the origin's certificate must come from one of these. Default: the system's.
	CA string
	// Cert and Key are the client certificate, should the origin want one.
	Cert, Key string
	// ServerName is what the origin's certificate must be for. Default: the URL's host.
	ServerName string
	// InsecureSkipVerify accepts any certificate: anybody in between can read and change everything.
	InsecureSkipVerify bool
}

// ClientTLS is where clients connect by TLS 1.2 or later. Files hold PEM, and are
// read again when they change.
type ClientTLS struct {
	// Listen holds the addresses; the default is none.
	Listen []string
	// Cert and Key are nearside's certificate.
	Cert, Key string
	// ClientCA: clients must have a certificate from one of these. "": they need none.
	ClientCA string
}

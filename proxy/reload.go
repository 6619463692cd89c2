package proxy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"nearside/policy"
)

// Another configuration, put into force without a client noticing. Why that is
// exact is said at ruleset.

// A Change is a key of the configuration whose value a reload changes.
type Change struct {
	Key, Old, New string
}

// String is what an operator reads.
func (c Change) String() string { return c.Key + ": " + c.Old + " -> " + c.New }

// A RestartError says which keys are different that cannot change without a restart.
type RestartError struct{ Keys []string }

func (e *RestartError) Error() string {
	return strings.Join(e.Keys, ", ") + " cannot change without a restart"
}

// reloading is what reloads share.
type reloading struct {
	mu      sync.Mutex  // one at a time
	refused atomic.Bool // the last one was
}

// Reloaded counts a reload, and says in the log what it has changed or why it was refused. What
// the caller has changed itself, such as the log's level, is among the changes.
func (p *Proxy) Reloaded(changes []Change, err error) {
	p.reload.refused.Store(err != nil)
	if err != nil {
		p.m.reloadsRefused.Inc()
		p.log.Error("the configuration is not reloaded, the old one stays in force", "err", err)
		return
	}
	p.m.reloads.Inc()
	for _, c := range changes {
		p.log.Info("configuration changed", "key", c.Key, "old", c.Old, "new", c.New)
	}
	p.log.Info("configuration reloaded", "changes", len(changes))
}

// adminSource is what the HTTP endpoints ask.
type adminSource struct{ *Proxy }

// Reload reads the configuration again, as SIGHUP does.
func (r adminSource) Reload() ([]string, error) {
	if r.cfg.Reload == nil {
		return nil, ErrNothingToReload
	}
	changes, err := r.cfg.Reload()
	lines := make([]string, len(changes))
	for i, c := range changes {
		lines[i] = c.String()
	}
	return lines, err
}

// Reload puts another configuration into force, all of it or, with an error,
// nothing: if anything in it is wrong, or is different that cannot change without a
// restart. Log, Version and Embedded of next do not count. It returns what has changed.
func (p *Proxy) Reload(next Config) ([]Change, error) {
	p.reload.mu.Lock()
	defer p.reload.mu.Unlock()
	next.LogLost = p.cfg.LogLost
	next.Log, next.Version, next.Embedded, next.Reload = p.cfg.Log, p.cfg.Version, p.cfg.Embedded, p.cfg.Reload
	next.AdminToken = p.cfg.AdminToken
	if err := next.fill(); err != nil {
		return nil, err
	}
	old := p.current()
	changes, err := differences(&old.cfg, &next)
	if err != nil || len(changes) == 0 {
		return nil, err
	}
	if next.MaxClients != old.cfg.MaxClients {
		p.sayFew(&next)
	}
	set, err := p.newRuleset(next, old)
	if err != nil {
		return nil, err
	}
	p.m.follow(set.rules, p.held)
	p.swap(old, set)
	p.budget.limit(next.Buffers)
	if err := p.l1.SetLimits(next.Memory, next.MaxEntries); err != nil { // fill has looked
		return nil, err
	}
	return changes, nil
}

// swap puts a ruleset in the place of another.
func (p *Proxy) swap(old, set *ruleset) {
	other := old.gen != set.gen
	if other {
		p.l1.Suspend() // until what is under way by the old rules is answered
		defer p.l1.Resume()
	}
	p.link.Change(set.rules.Prefixes(), set.cfg.Ping, set.cfg.MaxStaleness, func() { p.set.Store(set) })
	if !other {
		return
	}
	p.l1.InvalidateAll(fromReload) // nobody finds it any more: it makes room
	p.m.invalidated(sourceReload)
	p.releaseGone(set.rules)
	p.grace()
}

// The writes that are under way at a reload are waited for, within reason: while
// Redis does not answer, hits need not be off for longer than they are anyway.
const (
	graceTime = time.Second
	graceStep = time.Millisecond
)

// grace waits until every write that was under way when it was called is answered.
// Those that block are not waited for: a key that is cached since the reload may
// then be seen as it was until Redis reports the change, as with any write made elsewhere.
func (p *Proxy) grace() {
	type owing struct {
		s      *session
		popped int
		alone  uint64
	}
	var list []owing
	for _, s := range p.sessionList() {
		s.q.mu.Lock()
		o := owing{s, s.q.popped + s.q.n, s.solo.Load()}
		owes := s.q.writes > 0
		s.q.mu.Unlock()
		if owes || o.alone%2 == 1 {
			list = append(list, o)
		}
	}
	deadline := time.Now().Add(graceTime)
	for len(list) > 0 && time.Now().Before(deadline) {
		list = slices.DeleteFunc(list, func(o owing) bool {
			if o.s.blocked.is() {
				return true
			}
			o.s.q.mu.Lock()
			defer o.s.q.mu.Unlock()
			queued := o.s.q.writes > 0 && (o.s.q.closed || o.s.q.popped < o.popped)
			return !queued && (o.alone%2 == 0 || o.s.solo.Load() != o.alone)
		})
		if len(list) > 0 {
			time.Sleep(graceStep)
		}
	}
}

// configKey is a key of the configuration: its name in the file and its value.
type configKey struct {
	name  string
	value func(*Config) any
	fixed bool // it cannot change without a restart
}

// configKeys are all of them but the rules.
var configKeys = []configKey{
	{"listen", func(c *Config) any { return c.Listen }, true},
	{"admin", func(c *Config) any { return c.Admin }, true},
	{"redis", func(c *Config) any { return c.Redis }, true}, // it holds a password, but no value of these is told
	{"redis_tls.ca", func(c *Config) any { return c.RedisTLS.CA }, true},
	{"redis_tls.cert", func(c *Config) any { return c.RedisTLS.Cert }, true},
	{"redis_tls.key", func(c *Config) any { return c.RedisTLS.Key }, true},
	{"redis_tls.server_name", func(c *Config) any { return c.RedisTLS.ServerName }, true},
	{"redis_tls.insecure_skip_verify", func(c *Config) any { return c.RedisTLS.InsecureSkipVerify }, true},
	{"tls.listen", func(c *Config) any { return c.TLS.Listen }, true},
	{"tls.cert", func(c *Config) any { return c.TLS.Cert }, true},
	{"tls.key", func(c *Config) any { return c.TLS.Key }, true},
	{"tls.client_ca", func(c *Config) any { return c.TLS.ClientCA }, true},
	{"admin_token_file", func(c *Config) any { return c.AdminTokenFile }, true}, // what is in it is read again by itself
	{"protected_mode", func(c *Config) any { return c.ProtectedMode }, true},
	{"default_user", func(c *Config) any { return c.DefaultUser }, true},
	{"deny", func(c *Config) any { return c.Deny }, false},
	{"locks.db", func(c *Config) any { return c.LocksDB }, true},
	{"cache.db", func(c *Config) any { return c.CacheDB }, true},
	{"cache.exclusive", func(c *Config) any { return c.CacheExclusive }, true},
	{"cache.memory", func(c *Config) any { return c.Memory }, false},
	{"cache.max_entries", func(c *Config) any { return c.MaxEntries }, false},
	{"cache.max_staleness", func(c *Config) any { return c.MaxStaleness }, false},
	{"cache.ping", func(c *Config) any { return c.Ping }, false},
	{"cache.link", func(c *Config) any { return c.Link }, true},
	{"cache.keyspace_events", func(c *Config) any { return c.KeyspaceEvents }, true},
	{"cache.fence", func(c *Config) any { return c.Fence }, false},
	{"cache.refills", func(c *Config) any { return c.Refills }, false},
	{"cache.audit.one_in", func(c *Config) any { return c.Audit.OneIn }, false},
	{"cache.audit.per_second", func(c *Config) any { return c.Audit.PerSecond }, false},
	{"origin_timeout", func(c *Config) any { return c.OriginTimeout }, true},
	{"origin_connections", func(c *Config) any { return c.OriginConnections }, true},
	{"max_pinned", func(c *Config) any { return c.MaxPinned }, true},
	{"max_clients", func(c *Config) any { return c.MaxClients }, false},
	{"max_request", func(c *Config) any { return c.MaxRequest }, false},
	{"max_outstanding", func(c *Config) any { return c.MaxOutstanding }, false},
	{"reply_buffer", func(c *Config) any { return c.ReplyBuffer }, false},
	{"buffers", func(c *Config) any { return c.Buffers }, false},
	{"request_timeout", func(c *Config) any { return c.RequestTimeout }, false},
	{"write_timeout", func(c *Config) any { return c.WriteTimeout }, false},
	{"idle_timeout", func(c *Config) any { return c.IdleTimeout }, false},
	{"cache.touch", func(c *Config) any { return c.Touch }, true},
	{"report", func(c *Config) any { return c.Report }, true},
	{"window", func(c *Config) any { return c.Window }, true},
	{"slow", func(c *Config) any { return c.Slow }, true},
	{"observe.latency", func(c *Config) any { return !c.NoLatency }, true},
	{"drain", func(c *Config) any { return c.Drain }, false},
}

// ReloadKeys are the names of the keys that a reload looks at, rules apart.
func ReloadKeys() []string {
	names := make([]string, len(configKeys))
	for i, k := range configKeys {
		names[i] = k.name
	}
	return names
}

// NeedsRestart tells whether a key is one that a reload cannot change.
func NeedsRestart(name string) bool {
	return slices.ContainsFunc(configKeys, func(k configKey) bool { return k.name == name && k.fixed })
}

// differences lists what is different in next. It is an error if something is that
// needs a restart.
func differences(old, next *Config) ([]Change, error) {
	var changes []Change
	var fixed []string
	for _, k := range configKeys {
		was, is := k.value(old), k.value(next)
		switch {
		case fmt.Sprint(was) == fmt.Sprint(is):
		case k.fixed:
			fixed = append(fixed, k.name)
		default:
			changes = append(changes, Change{k.name, fmt.Sprint(was), fmt.Sprint(is)})
		}
	}
	if fixed != nil {
		return nil, &RestartError{fixed}
	}
	return append(changes, ruleDifferences(old.Rules, next.Rules)...), nil
}

// ruleDifferences lists the rules that are gone, different or new.
func ruleDifferences(old, next []policy.Rule) (changes []Change) {
	find := func(list []policy.Rule, r *policy.Rule) *policy.Rule {
		for i := range list {
			if nameOf(&list[i]) == nameOf(r) {
				return &list[i]
			}
		}
		return nil
	}
	key := func(r *policy.Rule) string {
		if r.Kind == policy.LockRule {
			return fmt.Sprintf("locks.rules[%q]", r.Prefix)
		}
		return fmt.Sprintf("cache.rules[%q]", r.Prefix)
	}
	for i := range old {
		r := &old[i]
		switch now := find(next, r); {
		case now == nil:
			changes = append(changes, Change{key(r), describeRule(r), "none"})
		case describeRule(r) != describeRule(now):
			changes = append(changes, Change{key(r), describeRule(r), describeRule(now)})
		}
	}
	for i := range next {
		if r := &next[i]; find(old, r) == nil {
			changes = append(changes, Change{key(r), "none", describeRule(r)})
		}
	}
	return changes
}

// describeRule is everything that a rule says beside its name.
func describeRule(r *policy.Rule) string {
	if r.Kind == policy.LockRule {
		return "a lock rule"
	}
	var commands []string
	for name := range r.Commands {
		commands = append(commands, name)
	}
	slices.Sort(commands)
	what := "all"
	if r.Commands != nil {
		what = strings.Join(commands, " ")
	}
	consistency := "bounded"
	if r.Fenced {
		consistency = "fenced"
	}
	return fmt.Sprintf("ttl %s, max_reply %d, negative %t, commands %s, consistency %s, stale_if_error %s",
		r.TTL, r.MaxReply, r.Negative, what, consistency, r.StaleIfError)
}

// sameRules tells whether both decide alike. Their order does not matter.
func sameRules(a, b *policy.Rules) bool {
	if len(a.All()) != len(b.All()) {
		return false
	}
	for _, r := range a.All() {
		if o := b.ByID(r.ID); o == nil || !reflect.DeepEqual(r, o) {
			return false
		}
	}
	return true
}

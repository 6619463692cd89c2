package proxy

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"nearside/proxy/origin"
)

// What nearside answers or decides itself Redis has no say in. So it is asked, for
// the user that the client acts as, nearside's own included, and its refusal is the
// answer, in its own words:
//
//   - Each such command has a form that Redis refuses for its arguments, or that
//     changes nothing, if the user may run it, and with NOPERM if not (rights).
//     Redis asks no right for AUTH, QUIT and RESET.
//   - A refusal is never remembered: whoever is refused asks again each time. That a
//     user may run a command is remembered as long as its rights are proven not to
//     have changed (users.go), and without that proof for rightsBound.
//   - MGET is answered from what GET has cached and the reverse. So what an MGET
//     returned is kept only for a user that may run GET, and an MGET is answered from the
//     near cache only for one that may run MGET. Users whose rights to
//     the two differ by key (selectors, first-argument rules) share nothing: their
//     MGETs go to Redis. No other command is answered from another's entry.
//   - What nearside refuses to everybody (RouteRefused) it refuses before that.
type right struct {
	probe []byte
	how   probing
	other []byte // what is asked instead where a dry run is impossible
}

type probing uint8

const (
	asIs     probing = iota // it changes nothing
	asPinned                // it may change the connection's state
	asQueued                // inside a MULTI that is discarded: there is no harmless form
	asSelect                // the client's own SELECT
)

func probe(args ...string) right { return right{probe: origin.AppendCommand(nil, args...)} }

func pinnedProbe(args ...string) right {
	return right{probe: origin.AppendCommand(nil, args...), how: asPinned}
}

func queuedProbe(other []string, args ...string) right {
	return right{probe: origin.AppendCommand(nil, args...), how: asQueued, other: origin.AppendCommand(nil, other...)}
}

// rights is the one table of the rights that commands need which nearside answers or
// decides itself. policy/COMMANDS.md tells of those of NEARSIDE.
var rights = map[string]right{
	"ping":            probe("PING"),
	"hello":           probe("HELLO", "99"), // NOPROTO
	"info":            probe("INFO", "nearside"),
	"select":          {how: asSelect},
	"exec":            pinnedProbe("EXEC"), // without MULTI
	"discard":         pinnedProbe("DISCARD"),
	"unwatch":         pinnedProbe("UNWATCH"),
	"asking":          pinnedProbe("ASKING"),
	"readonly":        pinnedProbe("READONLY"),
	"readwrite":       pinnedProbe("READWRITE"),
	"client|id":       probe("CLIENT", "ID"),
	"client|info":     probe("CLIENT", "INFO"),
	"client|list":     probe("CLIENT", "LIST", "ID", "x"),
	"client|kill":     probe("CLIENT", "KILL", "ID", "0"),
	"client|getname":  probe("CLIENT", "GETNAME"),
	"client|setname":  probe("CLIENT", "SETNAME", "not a name"),
	"client|setinfo":  probe("CLIENT", "SETINFO", "x", "y"),
	"client|reply":    probe("CLIENT", "REPLY", "x"),
	"client|no-evict": probe("CLIENT", "NO-EVICT", "x"),
	"client|no-touch": probe("CLIENT", "NO-TOUCH", "x"),
	"client|unblock":  probe("CLIENT", "UNBLOCK", "x"),
	"client|getredir": probe("CLIENT", "GETREDIR"),
	"client|pause":    probe("CLIENT", "PAUSE", "x"),
	"client|unpause":  queuedProbe([]string{"CLIENT", "PAUSE", "x"}, "CLIENT", "UNPAUSE"),

	// NEARSIDE's own, by whose right at Redis is nearest. HELP needs none.
	"nearside|stats":         probe("INFO", "nearside"),
	"nearside|explain":       probe("INFO", "nearside"),
	"nearside|audit":         probe("INFO", "nearside"),
	"nearside|keys":          probe("SCAN", "x"), // of NEARSIDE STATS, the part that names keys
	"nearside|slowlog get":   probe("SLOWLOG", "GET", "x"),
	"nearside|slowlog len":   probe("SLOWLOG", "LEN"),
	"nearside|slowlog reset": queuedProbe([]string{"CONFIG", "SET", "nearside", "x"}, "SLOWLOG", "RESET"),
	"nearside|audit restore": probe("FLUSHALL", "x"), // whoever may empty the cache may fill it
	"nearside|flush":         probe("FLUSHALL", "x"),
}

// permits is what a user is known to be permitted.
type permits struct {
	// GET and MGET, at this epoch of rights; the epochs begin with 1.
	get, mget atomic.Uint64
	// byKey says whether the rights to them differ by key.
	byKey atomic.Pointer[keyRights]

	mu    sync.RWMutex
	known map[permit]grant
}

// keyRights is whether the rights to GET and MGET differ by key, as of an epoch.
type keyRights struct {
	epoch  uint64
	differ bool
}

// permit names a command; SELECT's has a database.
type permit struct {
	name string
	db   int
}

// grant is when Redis was asked that granted it.
type grant struct {
	epoch uint64
	asked int64
}

const maxPermits = 1024

// has tells whether the permit is known to hold.
func (g *permits) has(key permit, epoch uint64, proven bool, now int64) bool {
	g.mu.RLock()
	at, ok := g.known[key]
	g.mu.RUnlock()
	return ok && at.epoch == epoch && (proven || now-at.asked < int64(rightsBound))
}

func (g *permits) note(key permit, at grant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.known == nil || len(g.known) >= maxPermits {
		g.known = map[permit]grant{}
	}
	g.known[key] = at
}

// mayRun asks Redis whether the session's user may run a command of rights, and
// answers the client if not.
func (s *session) mayRun(name string) bool {
	line := s.refusal(name)
	if line != nil {
		s.replyRaw(line)
	}
	return line == nil
}

// ownPatience is how long clients that act as nearside's own user wait for Redis to say
// whether they may do what they could always do. A Redis that is away refuses nothing.
const ownPatience = 200 * time.Millisecond

// refusal is what the client is to be answered that may not run a command of
// rights; nil if it may.
func (s *session) refusal(name string) []byte {
	r, ok := rights[name]
	p := s.p
	if !ok || p.cfg.Embedded || s.health || !s.authed || s.monitor { // a monitor would see the question
		return nil
	}
	key := permit{name: name}
	if r.how == asSelect {
		if key.db, ok = parseDB(s.args); !ok {
			key.db = -1 // Redis says what is wrong, each time
		}
	}
	known := &s.acl.permits
	proven := s.acl.number != 0 && p.users.proven(s.now)
	if known.has(key, p.users.epoch.Load(), proven, s.now) {
		return nil
	}
	// Among what is unanswered may be what gives or takes the right.
	if p.users.changing.Load() > 0 && !s.awaitAnswers() {
		return []byte{}
	}
	s.blocking()
	s.flushOrigin()
	at := grant{p.users.epoch.Load(), clockNow()}
	line, err := s.askRight(r)
	switch {
	case err != nil && s.user == "" && (r.how != asSelect || p.isThere(key.db)):
		at.asked += int64(rightsEvery - rightsBound)
	case err != nil:
		p.m.originErrors.Inc()
		return appendError(nil, p.originError(err))
	case isRefusal(line), r.how == asSelect && string(line) != replyOK:
		return line
	}
	if key.db >= 0 {
		known.note(key, at)
	}
	return nil
}

// isRefusal tells whether a line says that the user lacks a right.
func isRefusal(line []byte) bool { return bytes.HasPrefix(cause(line), []byte("NOPERM")) }

// askRight asks Redis in the way that the right says.
func (s *session) askRight(r right) ([]byte, error) {
	p := s.p
	patience := 2 * p.cfg.OriginTimeout
	if s.user == "" {
		patience = min(patience, ownPatience)
	}
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	// Not on the connection that it shares: a write of somebody else may be held back there (stall.go).
	c, err := p.origin.Pin(ctx, s.group(s.homeDB(), false))
	if err != nil {
		return nil, err
	}
	clean := false
	defer func() { p.origin.Unpin(c, clean) }()
	switch r.how {
	case asSelect: // there and back
		b, err := answerIn(ctx, c, appendSelect(appendArgs(nil, s.args), c.Group().DB), 2)
		if err != nil {
			return nil, err
		}
		there, back := origin.Split(b)
		clean = true
		if n, ok := parseDB(s.args); string(there) == replyOK && string(back) != replyOK {
			clean = ok
			c.Reselect(n)
		}
		return there, nil
	case asQueued:
		line, queued, err := dryRun(ctx, c, r.probe)
		clean = err == nil
		if err != nil || queued {
			return line, err
		}
		return answerIn(ctx, c, r.other, 1)
	default:
		b, err := answerIn(ctx, c, r.probe, 1)
		clean = err == nil
		return b, err
	}
}

// answerIn is c.Call; an answer that does not come in time is not waited for.
func answerIn(ctx context.Context, c *origin.Conn, req []byte, replies int) ([]byte, error) {
	b, err := c.Call(ctx, req, replies)
	if err != nil && ctx.Err() != nil {
		err = origin.ErrTimeout
	}
	return b, err
}

// dryRun has Redis say whether it would take a command, without running it. It
// does not where the user may not run MULTI and DISCARD: then queued is false.
func dryRun(ctx context.Context, c *origin.Conn, req []byte) (line []byte, queued bool, err error) {
	b, err := answerIn(ctx, c, []byte(fetchHead), 1)
	if err != nil || string(b) != replyOK {
		return nil, false, err
	}
	b, err = answerIn(ctx, c, append(bytes.Clone(req), "*1\r\n$7\r\nDISCARD\r\n"...), 2)
	if err != nil {
		return nil, false, err
	}
	line, rest := origin.Split(b)
	if string(rest) != replyOK {
		c.Close(errOpen)
	}
	return line, true, nil
}

// isThere tells whether a database is known to exist without asking Redis.
func (p *Proxy) isThere(db int) bool {
	if db == 0 || db == p.cfg.CacheDB || db == p.cfg.LocksDB {
		return true
	}
	_, ok := p.databases.Load(db)
	return ok
}

// mayName tells whether the client may learn what keys there are, in doubt not.
func (s *session) mayName() bool { return s.refusal("nearside|keys") == nil }

// readsByKey tells whether the rights of the session's user to GET and MGET may differ
// by key. Those of users other than nearside's own ACL LIST has told.
func (s *session) readsByKey() bool {
	a, epoch := s.acl, s.p.users.epoch.Load()
	if a.number != 0 {
		return s.p.users.byKey(a.name)
	}
	if k := a.permits.byKey.Load(); k != nil && k.epoch == epoch {
		return k.differ
	}
	if s.p.cfg.Embedded {
		return false
	}
	// A Redis that does not tell has no selectors, or does not let nearside look.
	b, err := s.askRight(probe("ACL", "GETUSER", a.name))
	if err != nil {
		return true
	}
	differ := bytes.Contains(b, []byte("selectors\r\n*")) && !bytes.Contains(b, []byte("selectors\r\n*0\r\n")) || firstArgument(b)
	a.permits.byKey.Store(&keyRights{epoch, differ})
	return differ
}

// firstArgument tells whether a user's rules speak of GET's or MGET's first argument.
func firstArgument(rules []byte) bool {
	return bytes.Contains(rules, []byte("+get|")) || bytes.Contains(rules, []byte("+mget|"))
}

// rulesByKey tells of each user in ACL LIST's answer whether its rights to GET and MGET may differ by key.
func rulesByKey(list []byte) map[string]bool {
	n, rest, ok := origin.Elements(list)
	found := map[string]bool{}
	var one []byte
	for i := 0; ok && i < n; i++ {
		one, rest = origin.Split(rest)
		line, _, _, _ := origin.Bulk(one)
		words := bytes.Split(line, []byte(" ")) // user NAME rule …
		if len(words) < 3 {
			continue
		}
		differ := firstArgument(line)
		for _, word := range words[2:] {
			differ = differ || bytes.HasPrefix(word, []byte("("))
		}
		found[string(words[1])] = differ
	}
	return found
}

// mayRead finds out whether a read may be answered from what another command has
// cached, or be cached for one; known says as of which epoch it has been granted.
func (s *session) mayRead(known *atomic.Uint64, read []byte) bool {
	p := s.p
	epoch := p.users.epoch.Load()
	if known.Load() == epoch {
		return true
	}
	if p.cfg.Embedded {
		known.Store(epoch)
		return true
	}
	if p.users.changing.Load() > 0 && !s.awaitAnswers() {
		return false
	}
	s.blocking()
	s.flushOrigin()
	epoch = p.users.epoch.Load()
	ctx, cancel := context.WithTimeout(p.ctx, 2*p.cfg.OriginTimeout)
	defer cancel()
	c, err := p.origin.Pin(ctx, s.group(s.d.DB, false))
	if err != nil {
		return false
	}
	line, queued, err := dryRun(ctx, c, read)
	p.origin.Unpin(c, err == nil)
	s.tick()
	if err != nil || !queued || string(line) != replyQueued {
		return false
	}
	known.Store(epoch)
	return true
}

// rightOf names the right that a command needs which joins EXEC's array.
func rightOf(args [][]byte, name string) string {
	if name != "nearside" || len(args) < 2 {
		return name
	}
	name += "|" + strings.ToLower(string(args[1]))
	if len(args) > 2 {
		if longer := name + " " + strings.ToLower(string(args[2])); rights[longer].probe != nil {
			return longer
		}
	}
	return name
}

package proxy

import (
	"fmt"
	"time"

	"nearside/policy"
	"nearside/proxy/l1"
	"nearside/proxy/link"
)

// NEARSIDE EXPLAIN goes the way that the command itself would go, in the same
// order, without sending or counting anything, and says where that ends.

// Reason codes beside those of a bypass (bypassNames) and of a miss (l1.Miss).
const (
	reasonLocal   = "local"
	reasonRefused = "refused"
	reasonWrite   = "write"
)

// meanings say what each reason code means, and what one can do about it.
var meanings = map[string]string{
	l1.Hit.String():       "nearside holds the answer and can prove that it is fresh",
	l1.Absent.String():    "nothing is held: the read is fetched and kept; if that goes on, see last_fetch and the rule's ttl and the cache's memory",
	l1.Overtaken.String(): "what is held was outdated by an invalidation: the read is fetched and kept; see last_invalidation for who causes it",
	l1.Writing.String():   "the key, or everything, is being written right now: the read is passed to Redis until the write is answered",
	l1.Expired.String():   "what is held is past its deadline, the key's TTL or the rule's ttl, whichever is less: a longer one makes more hits",
	l1.Suspended.String(): "a script that may write keys it does not name is running: hits go on when it has ended; declare its keys in KEYS",
	l1.Closed.String():    "nearside is shutting down",

	bypassDown.String():   "the link to Redis is down, so nothing proves that hits are fresh: /cache/health and the log say why",
	bypassStale.String():  "the last proof of freshness is older than max_staleness: Redis or the network is slow; look at nearside_link_round_trip_seconds",
	bypassFence.String():  "a fence after a lock, script or message, or of a fenced rule, waits for a PING that is not answered in time; look at nearside_link_round_trip_seconds",
	bypassOrder.String():  "the read follows a write of its own session that is not answered yet, and goes behind it: wait for the answer first",
	bypassPinned.String(): "WATCH or CLIENT TRACKING is in force, so the read goes to Redis on the session's own connection: use another connection for cached reads",
	bypassUser.String():   "this Redis user's reads are not cached: it may not run MULTI, EXEC or PTTL, or ACL LIST has not shown for 2 s that its rights are unchanged",
	bypassAudit.String():  "the auditor has taken the rule out of the cache: NEARSIDE AUDIT tells more, NEARSIDE AUDIT RESTORE puts it back",
	bypassFull.String():   "Redis's memory is full, and it refuses even reads inside MULTI, by which nearside fetches: the read is passed to Redis; free memory or raise maxmemory",
	bypassMulti.String():  "inside MULTI everything is read at Redis, when EXEC runs: read before MULTI what may come from the cache",

	bypassTooLarge.String():     "the request is longer than 64 KiB and its answer is not kept: use shorter keys and arguments",
	bypassTooMany.String():      "an MGET of more than 256 keys is not cached: ask in smaller ones",
	bypassNoRule.String():       "no rule matches the key: add a cache rule for its prefix; if looks_like names a rule, a library has put something in front of the key",
	bypassLockRule.String():     "the key lies under a lock rule, and a lock is never cached: use a cache rule if it is none",
	bypassOtherDB.String():      "the key's rule does not hold in the session's database: SELECT 0 or the database of the cache rules",
	bypassNotCacheable.String(): "the command's answer depends on more than its arguments and one stored value (time, chance, a cursor, several keys): it is never cached",
	bypassHashFieldTTL.String(): "on this Redis (7.4 on) single hash fields can expire, which changes the answer unnoticed: keep such values in strings",
	bypassNotListed.String():    "the rule's commands do not name this one: add it there",

	reasonLocal:   "nearside answers the command itself",
	reasonRefused: "nearside refuses the command",
	reasonWrite:   "the command may write: it goes to Redis, and what is held of its keys is outdated before it is answered",
}

// explain is NEARSIDE EXPLAIN [command] key [arg ...].
func (s *session) explain() {
	if !s.mayRun("nearside|explain") {
		return
	}
	x := explanation{s: s, args: s.args[2:], now: clockNow()}
	if len(x.args) == 1 {
		x.args = [][]byte{[]byte("GET"), x.args[0]}
	}
	d := &x.d
	s.set.policy.Decide(d, s.db, x.args)
	s.decideStrange(d, x.args)
	switch {
	case d.Cmd == nil:
		s.replyError("ERR nearside: EXPLAIN takes one key, or a command with its arguments: unknown command '" + printable(x.args[0]) + "'")
		return
	case d.Route != policy.RouteRefused && !d.Cmd.ArityOK(len(x.args)):
		s.replyError(errArity(d.Cmd.Name))
		return
	}
	x.tell()
	s.replyRaw(linesReply(x.lines))
}

// printable makes a client's bytes fit for an error line.
func printable(b []byte) string {
	const most = 64
	quoted := fmt.Sprintf("%+q", b[:min(len(b), most)])
	return quoted[1 : len(quoted)-1]
}

// explanation is one EXPLAIN at work.
type explanation struct {
	s     *session
	d     policy.Decision
	args  [][]byte
	now   int64
	key   int       // the index in d.Keys of the key that decides
	entry *l1.Entry // of a hit of one key
	lines []string
}

func (x *explanation) line(name string, value any) {
	x.lines = append(x.lines, fmt.Sprintf("%s:%v", name, value))
}

// tell makes the lines.
func (x *explanation) tell() {
	s, d := x.s, &x.d
	reason := x.judge()
	x.line("session_db", s.db)
	switch d.Route {
	case policy.RouteSplit, policy.RouteView:
		x.line("redis_db", fmt.Sprintf("%d,%d", s.p.cfg.LocksDB, s.p.cfg.CacheDB))
	case policy.RouteLocal, policy.RouteRefused:
	default:
		x.line("redis_db", d.DB)
	}
	x.line("command", d.Cmd.Name)
	x.rule()
	x.line("route", x.route(reason))
	cached := "no"
	if reason == l1.Hit.String() {
		cached = "yes"
	}
	x.line("cached", cached)
	x.line("reason", reason)
	meaning := meanings[reason]
	if d.Route == policy.RouteRefused {
		meaning += ": " + d.Err
	}
	x.line("meaning", meaning)
	if len(d.Keys) > 1 {
		x.line("decided_by_key", x.key+1)
	}
	if e := x.entry; e != nil {
		x.line("age_ms", (x.now-e.Stored)/int64(time.Millisecond))
		x.line("expires_in_ms", (e.Deadline-x.now)/int64(time.Millisecond))
		x.line("bytes", len(e.Reply))
		x.line("negative", e.Negative())
	}
	if len(d.Keys) > 0 && s.p.keeps(&d.Keys[x.key]) {
		x.cacheKey(reason)
	}
}

// rule tells of the rule of the key that decides.
func (x *explanation) rule() {
	if len(x.d.Keys) == 0 {
		return
	}
	k := &x.d.Keys[x.key]
	rule := k.Rule
	switch {
	case rule == nil:
		rule = x.s.set.rules.Match(x.args[k.Pos])
		if rule == nil {
			x.line("rule", "none")
			if like := x.s.p.looksLike(string(keyPrefix(x.args[k.Pos]))); like != "" {
				x.line("looks_like", like)
			}
		} else {
			x.line("rule", fmt.Sprintf("%q, not in force in this database", rule.Prefix))
		}
	case rule.Kind == policy.LockRule:
		x.line("rule", fmt.Sprintf("locks %q", rule.Prefix))
	default:
		x.line("rule", fmt.Sprintf("cache %q", rule.Prefix))
		x.line("rule_ttl", rule.TTL)
		if rule.Fenced {
			x.line("consistency", "fenced: a hit waits for a PING on the link sent after the request came in")
		}
	}
}

// route says where the command would go.
func (x *explanation) route(reason string) string {
	d := &x.d
	fetched := reason == l1.Absent.String() || reason == l1.Overtaken.String() || reason == l1.Expired.String()
	switch {
	case reason == l1.Hit.String():
		return "answered from the near cache"
	case d.Route == policy.RouteLocal:
		return "answered by nearside"
	case d.Route == policy.RouteRefused:
		return "refused"
	case fetched:
		return "fetched from Redis for the near cache"
	case d.Route == policy.RoutePin, d.Private, x.s.pinsData():
		return "passed to Redis on a connection of the session's own"
	case d.Route == policy.RouteSplit, d.Route == policy.RouteView:
		return "passed to Redis, to both databases in one transaction"
	case d.Lock:
		return "passed to Redis on the locks' own connections: a lock is never cached"
	}
	return "passed to Redis"
}

// cacheKey tells what is known of a key under a cache rule.
func (x *explanation) cacheKey(reason string) {
	p := x.s.p
	k := &x.d.Keys[x.key]
	if at, out := p.quarantine.since(k.Rule.ID); out {
		x.line("taken_out", at.UTC().Format(time.RFC3339))
	}
	if bound, known := p.link.Bound(x.now); known {
		x.line("staleness_bound_ms", fmt.Sprintf("%.3f", float64(bound)/float64(time.Millisecond)))
	} else {
		x.line("staleness_bound_ms", "unknown")
	}
	if k.Rule.StaleIfError > 0 && (reason == bypassDown.String() || reason == bypassStale.String()) {
		x.line("stale_if_error", k.Rule.StaleIfError)
		x.line("stale_left_ms", p.staleLeft(k.Rule, x.now).Milliseconds())
	}
	h := p.l1.History(x.args[k.Pos], k.Rule.ID)
	switch {
	case h.Displaced:
		x.line("last_invalidation", "unknown: another key has since used its place")
	case h.By == l1.NoSource:
		x.line("last_invalidation", "none since nearside began")
	default:
		x.line("last_invalidation", sourceName(h.By))
		x.line("last_invalidation_of", h.Scope)
		x.line("last_invalidation_ms_ago", h.Ago.Milliseconds())
	}
	if h.NotStored {
		x.line("last_fetch", "not kept: "+h.Drop.String())
	}
}

// judge finds the one reason.
func (x *explanation) judge() string {
	s, d := x.s, &x.d
	p := s.p
	if why := s.set.policy.Why(d, s.db, x.args); why != policy.WhyCached {
		x.key = x.uncached()
		switch why {
		case policy.WhyLocal:
			return reasonLocal
		case policy.WhyRefused:
			return reasonRefused
		case policy.WhyWrite:
			return reasonWrite
		}
		return bypassOf[why].String()
	}
	switch {
	case s.captured != nil:
		return bypassMulti.String()
	case s.pinsData():
		return bypassPinned.String()
	case len(appendArgs(nil, x.args)) > maxCachedRequest:
		return bypassTooLarge.String()
	case p.quarantine.holds(d.Keys):
		return bypassAudit.String()
	case s.async && !s.mayOvertake():
		if c, err := s.wire(d.DB, false); err == nil && s.sameLane(c) {
			return bypassOrder.String()
		}
	}
	if s.acl.denied.Load().holds(p.l1, x.now) || s.acl.number != 0 && !p.users.proven(x.now) {
		return bypassUser.String()
	}
	switch p.link.Verdict(x.now) {
	case link.Down:
		return bypassDown.String()
	case link.Stale:
		return bypassStale.String()
	case link.Fenced:
		if !s.awaitLink(p.link.Wait) {
			return bypassFence.String()
		}
		x.now = s.now
	}
	if len(d.Keys) > maxMany {
		return bypassTooMany.String()
	}
	reason := x.lookUp()
	switch reason {
	case l1.Absent.String(), l1.Overtaken.String(), l1.Expired.String(): // there would be a fetch
		if p.full.lasts(x.now) {
			return bypassFull.String()
		}
	}
	return reason
}

// uncached is the index of the first key under no cache rule, 0 without one.
func (x *explanation) uncached() int {
	for i := range x.d.Keys {
		if r := x.d.Keys[i].Rule; r == nil || r.Kind != policy.CacheRule {
			return i
		}
	}
	return 0
}

// lookUp is the look into the near cache: for MGET key by key, as GET.
func (x *explanation) lookUp() string {
	s, d := x.s, &x.d
	if anyFenced(d.Keys) {
		if !s.awaitLink(s.p.link.Sync) {
			return bypassFence.String()
		}
		x.now = s.now
	}
	many := d.Cmd == s.p.mget
	if many && s.readsByKey() {
		return bypassUser.String()
	}
	for i := range d.Keys {
		k := &d.Keys[i]
		name, args := d.Cmd.Name, x.args[1:]
		if many {
			name, args = "get", x.args[k.Pos:k.Pos+1]
		}
		e, miss := s.p.l1.Get(s.cacheID(d.DB, name, args), x.args[k.Pos], k.Rule.ID, x.now)
		if miss != l1.Hit {
			x.key = i
			return miss.String()
		}
		if x.entry = e; len(d.Keys) > 1 {
			x.entry = nil
		}
	}
	return l1.Hit.String()
}

package proxy

import (
	"fmt"
	"strings"
	"time"

	"github.com/tidwall/redcon"

	"nearside/policy"
	"nearside/proxy/l1"
	"nearside/proxy/link"
)

// nearsideHelp is what NEARSIDE HELP says.
var nearsideHelp = []string{
	"NEARSIDE <subcommand> [<arg> [value] ...]. Subcommands are:",
	"AUDIT",
	"    Say what the comparison of hits with Redis has found, and which rules it has taken out of the cache.",
	"AUDIT RESTORE <prefix>",
	"    Put a rule back into the cache that the comparison has taken out.",
	"EXPLAIN <key>",
	"    Say which rule and database a key belongs to, and whether GET would be answered from the near cache, and why.",
	"FLUSH [<pattern>]",
	"    Forget what the near cache holds: everything, one key, or with a pattern every rule that it touches.",
	"STATS",
	"    Say what the near cache, the link and the connections are doing.",
	"HELP",
	"    Print this help.",
}

// nearside answers the command that is nearside's own.
func (s *session) nearside() {
	if len(s.args) < 2 {
		s.replyError(errArity("nearside"))
		return
	}
	sub := strings.ToLower(string(s.args[1]))
	switch {
	case sub == "help" && len(s.args) == 2:
		s.replyRaw(linesReply(nearsideHelp))
	case sub == "stats" && len(s.args) == 2:
		s.replyRaw(linesReply(strings.Split(strings.TrimSpace(s.p.infoText()+s.p.rulesText()), "\r\n")))
	case sub == "explain" && len(s.args) == 3:
		s.replyRaw(linesReply(s.explain(s.args[2])))
	case sub == "flush" && len(s.args) <= 3:
		if s.mayRun("nearside|" + sub) {
			s.flushCache()
		}
	case sub == "audit":
		s.auditCommand()
	case sub == "help" || sub == "stats" || sub == "explain" || sub == "flush":
		s.replyError(errArity("nearside|" + sub))
	default:
		s.replyError(errUnknownSub("nearside", string(s.args[1])))
	}
}

// linesReply encodes lines for people, as Redis's HELP subcommands do.
func linesReply(lines []string) []byte {
	b := redcon.AppendArray(nil, len(lines))
	for _, line := range lines {
		b = redcon.AppendString(b, line)
	}
	return b
}

// flushCache is NEARSIDE FLUSH [pattern].
func (s *session) flushCache() {
	p := s.p
	if !s.awaitAnswers() {
		return
	}
	pattern := []byte("*")
	if len(s.args) == 3 {
		pattern = s.args[2]
	}
	p.m.invalidated(sourceOperator)
	p.forgetPattern(pattern)
	s.replyString(replyOK)
}

// literalPrefix is what every key that matches a glob pattern begins with.
func literalPrefix(pattern []byte) string {
	if i := strings.IndexAny(string(pattern), `*?[\`); i >= 0 {
		return string(pattern[:i])
	}
	return string(pattern)
}

// explain says what nearside makes of a key.
func (s *session) explain(key []byte) []string {
	p := s.p
	now := clockNow()
	db := p.rules.DBOf(key, s.db)
	rule := p.rules.Match(key)
	var lines []string
	line := func(name string, value any) { lines = append(lines, fmt.Sprintf("%s:%v", name, value)) }
	line("session_db", s.db)
	line("redis_db", db)
	cacheable := false
	switch {
	case rule == nil:
		line("rule", "none")
		line("route", "passed to Redis: no rule matches")
	case rule.Kind == policy.LockRule && db == p.cfg.LocksDB:
		line("rule", fmt.Sprintf("locks %q", rule.Prefix))
		line("route", "passed to Redis on the locks' own connections: a lock is never cached")
	case rule.Kind == policy.CacheRule && db == p.cfg.CacheDB:
		line("rule", fmt.Sprintf("cache %q", rule.Prefix))
		line("rule_ttl", rule.TTL)
		if rule.Fenced {
			line("consistency", "fenced: a hit waits for a PING on the link sent after the request came in")
		}
		cacheable = true
	default:
		line("rule", fmt.Sprintf("%q, not in force in this database", rule.Prefix))
		line("route", "passed to Redis")
	}
	if !cacheable {
		return lines
	}
	at, out := p.quarantine.since(rule.ID)
	switch {
	case !s.acl.mayFetch(p.l1, now):
		line("route", "passed to Redis: this Redis user may not run MULTI, EXEC or PTTL, so nothing is cached for it")
		line("reason", bypassUser)
		return lines
	case s.acl.number != 0 && !p.users.proven(now):
		line("route", "passed to Redis: ACL LIST has not shown for 2 s that this Redis user's rights are unchanged")
		line("reason", bypassUser)
		return lines
	case out:
		line("route", "passed to Redis: the auditor has taken the rule out of the cache")
		line("reason", bypassAudit)
		line("taken_out", at.UTC().Format(time.RFC3339))
		return lines
	case s.pinsData():
		line("route", "passed to Redis on the session's own connection: WATCH or CLIENT TRACKING is in force")
		line("reason", bypassPinned)
		return lines
	}
	bound, known := p.link.Bound(now)
	if known {
		line("staleness_bound_ms", fmt.Sprintf("%.3f", float64(bound)/float64(time.Millisecond)))
	} else {
		line("staleness_bound_ms", "unknown")
	}
	if v := p.link.Verdict(now); v != link.OK && v != link.Fenced {
		line("route", "passed to Redis: the near cache cannot prove that it is fresh")
		line("reason", v)
		if rule.StaleIfError > 0 {
			line("stale_if_error", rule.StaleIfError)
			line("stale_left_ms", p.staleLeft(rule, now).Milliseconds())
		}
		return lines
	}
	e, miss := p.l1.Get(s.cacheID(db, "get", [][]byte{key}), key, rule.ID, now)
	if miss != l1.Hit {
		line("route", "fetched from Redis for the near cache")
		line("reason", miss)
		return lines
	}
	line("route", "answered from the near cache")
	line("reason", "hit")
	line("age_ms", (now-e.Stored)/int64(time.Millisecond))
	line("expires_in_ms", (e.Deadline-now)/int64(time.Millisecond))
	line("bytes", len(e.Reply))
	line("negative", e.Negative)
	return lines
}

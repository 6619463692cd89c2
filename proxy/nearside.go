package proxy

import (
	"strings"

	"github.com/tidwall/redcon"

	"nearside/policy"
)

// nearsideHelp is what NEARSIDE HELP says.
var nearsideHelp = []string{
	"NEARSIDE <subcommand> [<arg> [value] ...]. Subcommands are:",
	"AUDIT",
	"    Say what the comparison of hits with Redis has found, and which rules it has taken out of the cache.",
	"AUDIT RESTORE <prefix>",
	"    Put a rule back into the cache that the comparison has taken out.",
	"EXPLAIN [<command>] <key> [<arg> ...]",
	"    Say which rule and database a command's key belongs to, whether the command would be answered from the near cache, and why. A key alone stands for GET.",
	"FLUSH [<pattern>]",
	"    Forget what the near cache holds: everything, one key, or with a pattern every rule that it touches.",
	"SLOWLOG GET [<count>]",
	"    Return the newest <count> slow commands (default: 10, -1 means all) as Redis's SLOWLOG GET does, and where",
	"    their time went: microseconds in nearside's queue, at Redis, and until the client had taken the reply; the path.",
	"SLOWLOG LEN",
	"    Return how many slow commands are remembered, 128 at most.",
	"SLOWLOG RESET",
	"    Forget them.",
	"STATS",
	"    Say what the near cache, the link and the connections are doing, and which key prefixes no rule matches.",
	"HELP",
	"    Print this help.",
}

// nearside answers the command that is nearside's own.
func (s *session) nearside() {
	if len(s.args) < 2 {
		s.replyError(errArity("nearside"))
		return
	}
	sub := policy.Word(s.args[1])
	switch {
	case sub == "help" && len(s.args) == 2:
		s.replyRaw(linesReply(nearsideHelp))
	case sub == "stats" && len(s.args) == 2:
		if !s.mayRun("nearside|stats") {
			return
		}
		text := s.p.infoText() + s.p.rulesText()
		if s.mayName() {
			text += s.p.unmatchedText()
		}
		s.replyRaw(linesReply(strings.Split(strings.TrimSpace(text), "\r\n")))
	case sub == "explain" && len(s.args) >= 3:
		s.explain()
	case sub == "flush" && len(s.args) <= 3:
		if s.mayRun("nearside|" + sub) {
			s.flushCache()
		}
	case sub == "slowlog" && len(s.args) > 2:
		s.slowlogCommand()
	case sub == "audit":
		s.auditCommand()
	case sub == "help" || sub == "stats" || sub == "explain" || sub == "flush" || sub == "slowlog":
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
	p.forgetPattern(pattern, fromOperator)
	s.replyString(replyOK)
}

// literalPrefix is what every key that matches a glob pattern begins with.
func literalPrefix(pattern []byte) string {
	if i := strings.IndexAny(string(pattern), `*?[\`); i >= 0 {
		return string(pattern[:i])
	}
	return string(pattern)
}

package link

import (
	"bytes"
	"fmt"
	"log/slog"
	"strconv"
)

// silent is what INFO commandstats tells about commands that change keys without a push. CONFIG RESETSTAT could hide
// one, so it counts as one.
type silent struct {
	swapdb int64  // calls
	info   int64  // calls; the link's own are among them, so fewer than before means that the statistics were reset
	reset  string // what is said about CONFIG RESETSTAT, its time included (Redis ≥ 7)
}

func (old silent) changed(now silent) bool {
	return now.swapdb != old.swapdb || now.info < old.info || now.reset != old.reset
}

// parseSilent reads the reply to INFO commandstats.
func parseSilent(reply []byte) (silent, bool) {
	p := parser{rest: reply}
	text, ok := p.text()
	if !ok || len(p.rest) > 0 {
		return silent{}, false
	}
	var s silent
	for line := range bytes.Lines(text) {
		name, stats, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
		switch string(name) {
		case "cmdstat_swapdb":
			s.swapdb, ok = calls(stats)
		case "cmdstat_info":
			s.info, ok = calls(stats)
		case "cmdstat_config|resetstat":
			s.reset = string(stats)
		}
		if !ok {
			return silent{}, false
		}
	}
	return s, true
}

// calls reads N of "calls=N,usec=…".
func calls(stats []byte) (int64, bool) {
	rest, ok := bytes.CutPrefix(stats, []byte("calls="))
	if !ok {
		return 0, false
	}
	digits, _, _ := bytes.Cut(rest, []byte(","))
	n, err := strconv.ParseInt(string(digits), 10, 64)
	return n, err == nil
}

// parseRole reads the first element of the reply to ROLE.
func parseRole(reply []byte) (string, bool) {
	p := parser{rest: reply}
	if n, ok := p.length('*'); !ok || n < 1 {
		return "", false
	}
	role, ok := p.text()
	return string(role), ok && len(role) > 0
}

// denied says that this user may not send the command, or that the server does not have it.
func denied(reply []byte) bool {
	return bytes.HasPrefix(reply, []byte("-NOPERM")) || bytes.HasPrefix(reply, []byte("-ERR unknown command"))
}

// firstCheck notes the role and the baseline of the silent commands.
func (s *session) firstCheck() error {
	l := s.l
	at := l.cfg.Now()
	role, err := s.ask("ROLE")
	if err != nil {
		return err
	}
	info, err := s.ask("INFO", "commandstats")
	if err != nil {
		return err
	}
	var ok bool
	mayRole, mayInfo := !denied(role), !denied(info)
	if s.role, ok = parseRole(role); !ok && mayRole {
		return fmt.Errorf("ROLE was refused: %s", firstLine(role))
	}
	if s.seen, ok = parseSilent(info); !ok && mayInfo {
		return fmt.Errorf("INFO commandstats was refused: %s", firstLine(info))
	}
	l.mu.Lock()
	s.checked = at
	s.mayRole, s.mayInfo = mayRole, mayInfo
	l.explain(s)
	l.mu.Unlock()
	return nil
}

// check asks for the role and the silent commands, unless it still waits for the last answer.
func (s *session) check() {
	l := s.l
	l.mu.Lock()
	mayRole, mayInfo := s.mayRole, s.mayInfo
	l.mu.Unlock()
	if !mayRole && !mayInfo || s.checking.Swap(true) {
		return
	}
	at := l.cfg.Now()
	ok := true // the reading goroutine's
	answer := func(saw func([]byte) bool, last bool) func([]byte, error) {
		return func(reply []byte, err error) {
			if err != nil {
				l.end(s, "connection lost: "+err.Error())
				return
			}
			l.alive(s)
			ok = saw(reply) && ok
			if !last {
				return
			}
			if ok {
				l.noteCheck(s, at)
			}
			s.checking.Store(false)
		}
	}
	if mayRole {
		s.conn.Ask(answer(s.sawRole, !mayInfo), "ROLE")
	}
	if mayInfo {
		s.conn.Ask(answer(s.sawInfo, true), "INFO", "commandstats")
	}
}

// sawRole says whether the role is still what it was, as far as one may know.
func (s *session) sawRole(reply []byte) bool {
	if denied(reply) {
		s.deny(&s.mayRole, "ROLE")
		return true
	}
	role, ok := parseRole(reply)
	if ok && role != s.role {
		s.l.end(s, fmt.Sprintf("the origin's role changed from %s to %s", s.role, role))
		s.l.cfg.InvalidateAll("the origin's role changed")
	}
	return ok && role == s.role
}

// sawInfo says whether the silent commands are accounted for. What they may have changed is invalidated before the check
// counts.
func (s *session) sawInfo(reply []byte) bool {
	if denied(reply) {
		s.deny(&s.mayInfo, "INFO")
		return true
	}
	now, ok := parseSilent(reply)
	if ok && s.seen.changed(now) {
		s.seen = now
		s.l.count.silent.Add(1)
		s.l.cfg.InvalidateAll("SWAPDB at the origin")
	} else if ok {
		s.seen = now
	}
	return ok
}

// deny notes that a command of the check has become forbidden.
func (s *session) deny(may *bool, command string) {
	s.l.mu.Lock()
	*may = false
	s.l.explain(s)
	s.l.mu.Unlock()
	s.say(slog.LevelWarn, "the link may not check any more", slog.String("command", command))
}

// explain says in Stats what the link cannot notice. Called with mu held.
func (l *Link) explain(s *session) {
	switch {
	case s.mayInfo && s.mayRole:
		l.silent = ""
	case s.mayInfo:
		l.silent = "ROLE is not permitted: a demoted master is not noticed"
	case s.mayRole:
		l.silent = "INFO is not permitted: SWAPDB is not noticed"
	default:
		l.silent = "INFO and ROLE are not permitted: SWAPDB and a demoted master are not noticed"
	}
}

// noteCheck takes the check that was sent at that time as answered.
func (l *Link) noteCheck(s *session, at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur != s {
		return
	}
	l.count.checks.Add(1)
	s.checked = at
	l.publish(s)
}

package link

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
)

// What the sources are silent about, by the names that INFO commandstats has: each command that the differential test of
// all writing commands found to change a key without a word.
var (
	// PFDEBUG changes the encoding of a HyperLogLog. DEBUG RELOAD NOSAVE NOFLUSH MERGE loads other data over what is there;
	// statistics do not tell it from other uses of DEBUG.
	silentTracking = []string{"swapdb", "pfdebug", "debug"}

	// PFCOUNT may store the count that it has computed. DEBUG can empty the databases and make keys. A replica empties itself, and so does a
	// master that was one for a while. While CONFIG SET had taken flags away nothing was told at all. The commands of
	// vector sets (Redis 8) raise no events; a module's names are spelled as it does.
	silentKeyspace = append([]string{
		"flushdb", "flushall", "pfcount", "replicaof", "slaveof", "failover", "config|set", "VADD", "VREM", "VSETATTR",
	}, silentTracking...)
)

// silent is what INFO commandstats tells about commands that change keys without a word. CONFIG RESETSTAT could hide
// one, so it counts as one.
type silent struct {
	calls  map[string]int64 // of the commands watched
	info   int64            // calls; the link's own are among them, so fewer than before means that the statistics were reset
	config int64            // calls of CONFIG, whatever the subcommand (Redis 6)
	reset  string           // what is said about CONFIG RESETSTAT, its time included (Redis ≥ 7)
}

// changed names a command that was called between the two, "" if none was.
func (old silent) changed(now silent, watched []string) string {
	for _, name := range watched {
		if now.calls[name] != old.calls[name] {
			return name
		}
	}
	if now.info < old.info || now.reset != old.reset {
		return "config|resetstat"
	}
	return ""
}

// parseSilent reads the reply to INFO commandstats.
func parseSilent(reply []byte) (silent, bool) {
	p := parser{rest: reply}
	text, ok := p.text()
	if !ok || len(p.rest) > 0 {
		return silent{}, false
	}
	s := silent{calls: make(map[string]int64)}
	for line := range bytes.Lines(text) {
		name, stats, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
		name, ok = bytes.CutPrefix(name, []byte("cmdstat_"))
		if !ok {
			continue
		}
		switch string(name) {
		case "info":
			s.info, ok = calls(stats)
		case "config":
			s.config, ok = calls(stats)
		case "config|resetstat":
			s.reset = string(stats)
		default:
			if slices.Contains(silentKeyspace, string(name)) {
				s.calls[string(name)], ok = calls(stats)
			}
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

// byKeyspace says whether changes come as keyspace notifications, which tell less and so need more proof.
func (s *session) byKeyspace() bool { return s.source == ModeKeyspace }

// watched are the commands that the source is silent about.
func (s *session) watched() []string {
	if s.byKeyspace() {
		return silentKeyspace
	}
	return silentTracking
}

// firstCheck notes the role and the baseline of the silent commands.
func (s *session) firstCheck() error {
	l := s.l
	at := l.cfg.Now()
	role, err := s.ask("ROLE")
	if err != nil {
		return err
	}
	if s.byKeyspace() {
		if err := s.readyEvents(); err != nil {
			return err
		}
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
	s.configs = 0
	if s.byKeyspace() {
		switch {
		case !mayInfo:
			return refused(withoutInfo)
		case mayRole && s.role != "master":
			return refused("the origin's role is %s: keyspace notifications do not tell when it takes over other data, so hits stay off", s.role)
		}
	}
	l.mu.Lock()
	s.checked = at
	s.mayRole, s.mayInfo = mayRole, mayInfo
	l.explain(s)
	l.mu.Unlock()
	return nil
}

const withoutInfo = "INFO is not permitted: FLUSHDB and others raise no keyspace notification and would not be noticed, so hits stay off"

// check asks for the role, the events that are raised, the threads and the silent commands. It reports false if there is nothing to
// ask. The caller has the line; if the check is alone its last answer gives that back, else the PING that follows does.
// INFO comes last. What CONFIG SET takes away between the two questions is in the count of CONFIG SET that INFO tells, and
// the next check finds it: the hits of until then lean on the time when this check was sent, which is earlier.
func (s *session) check(alone bool) bool {
	l := s.l
	l.mu.Lock()
	mayRole, mayInfo := s.mayRole, s.mayInfo
	l.mu.Unlock()
	type question struct {
		saw  func([]byte) bool
		args []string
	}
	var all []question
	if mayRole {
		all = append(all, question{s.sawRole, []string{"ROLE"}})
	}
	if s.byKeyspace() {
		all = append(all, question{s.sawEvents, []string{"CONFIG", "GET", eventsParameter}})
	}
	if s.threads.steps > plainSteps && s.threads.may {
		all = append(all, question{func(reply []byte) bool { s.sawThreads(reply); return true }, []string{"CONFIG", "GET", threadsParameter}})
	}
	if mayInfo {
		all = append(all, question{s.sawInfo, []string{"INFO", "commandstats"}})
	}
	if len(all) == 0 {
		return false
	}
	at := l.cfg.Now()
	ok := true // the reading goroutine's
	for i, q := range all {
		ask := s.conn.Queue
		last := i == len(all)-1
		if last && alone {
			ask = s.conn.Ask
		}
		ask(func(reply []byte, err error) {
			if err != nil {
				l.end(s, "connection lost: "+err.Error())
				return
			}
			l.alive(s)
			if len(reply) > 0 && reply[0] == '-' && !denied(reply) { // as -BUSY
				s.doubt = true
			}
			ok = q.saw(reply) && ok
			if !last {
				return
			}
			if ok && (mayRole || mayInfo) {
				l.noteCheck(s, at)
			}
			if alone {
				s.release(true)
			}
		}, q.args...)
	}
	return true
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
		s.l.cfg.InvalidateAll(Gap, "the origin's role changed")
	}
	return ok && role == s.role
}

// sawEvents says whether every change is still told. If not the connection is given up, and the next one sees to it.
func (s *session) sawEvents(reply []byte) bool {
	_, ok := parseEvents(reply)
	if !ok && !denied(reply) { // as -BUSY: the proof runs out if that lasts
		return false
	}
	s.configs++
	if err := judgeEvents(reply); err != nil {
		s.refuse(err.Error())
		return false
	}
	return true
}

// sawInfo says whether the silent commands are accounted for. What they may have changed is invalidated before the check
// counts.
func (s *session) sawInfo(reply []byte) bool {
	if denied(reply) {
		if s.byKeyspace() {
			s.refuse(withoutInfo)
			return false
		}
		s.deny(&s.mayInfo, "INFO")
		return true
	}
	now, ok := parseSilent(reply)
	if !ok {
		return false
	}
	by := s.seen.changed(now, s.watched())
	if by == "" && s.byKeyspace() && now.config != 0 && now.config != s.seen.config+s.configs {
		by = "config" // Redis 6 does not tell CONFIG SET from others
	}
	s.seen, s.configs = now, 0
	if by != "" {
		s.l.count.silent.Add(1)
		s.l.cfg.InvalidateAll(Silent, strings.ToUpper(strings.ReplaceAll(by, "|", " "))+" at the origin")
	}
	return true
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
	var lacks []string
	if !s.mayInfo {
		lacks = append(lacks, "INFO is not permitted: SWAPDB is not noticed")
	}
	if !s.mayRole {
		lacks = append(lacks, "ROLE is not permitted: a demoted master is not noticed")
	}
	if !s.mayHear {
		lacks = append(lacks, "SUBSCRIBE "+Channel+" is not permitted: what is published there is not heard")
	}
	l.silent = strings.Join(lacks, "; ")
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

package link

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Cause says from what an invalidation came.
type Cause uint8

// The causes.
const (
	Tracking Cause = iota // a push of CLIENT TRACKING
	Keyspace              // a keyspace notification
	Message               // a message on Channel
	Flush                 // a push of CLIENT TRACKING that means everything
	Silent                // a check found a command that the source says nothing about
	Gap                   // the link came up, or what it said was not to be trusted
	causes
)

// Causes are all of them.
func Causes() []Cause {
	all := make([]Cause, causes)
	for i := range all {
		all[i] = Cause(i)
	}
	return all
}

func (c Cause) String() string {
	return [...]string{"tracking", "keyspace", "channel", "flush", "silent", "gap"}[c]
}

// A refusal is what keeps hits off although the origin answers, for an operator to read.
type refusal string

func (r refusal) Error() string { return string(r) }

func refused(format string, a ...any) error { return refusal(fmt.Sprintf(format, a...)) }

// refuse ends the session for a reason that an operator can do something about.
func (s *session) refuse(reason string) {
	s.l.mu.Lock()
	if s.l.cur == s {
		s.l.silent = reason
	}
	s.l.mu.Unlock()
	s.l.end(s, reason)
}

// listen has changes reported, in the way that the mode asks for, and subscribes to Channel.
func (s *session) listen() error {
	if err := s.listenToChanges(); err != nil {
		return err
	}
	reply, err := s.ask("SUBSCRIBE", Channel)
	if err != nil {
		return err
	}
	s.l.mu.Lock()
	s.mayHear = confirms(reply, "subscribe")
	s.l.mu.Unlock()
	return nil
}

func (s *session) listenToChanges() error {
	l := s.l
	if l.cfg.Mode == ModeKeyspace {
		return s.listenToKeyspace()
	}
	reply, err := s.ask(trackingCommand(s.terms.prefixes)...)
	if err != nil {
		return err
	}
	if string(reply) == "+OK\r\n" {
		s.source = ModeTracking
		return nil
	}
	why := "CLIENT TRACKING was refused: " + firstLine(reply)
	if l.cfg.Mode == ModeTracking || !lacking(reply) {
		return refusal(why)
	}
	s.fellBack = why + "; "
	return s.listenToKeyspace()
}

// lacking says that this origin does not offer the command to this user, whatever its arguments.
func lacking(reply []byte) bool {
	line := strings.ToLower(firstLine(reply))
	return strings.HasPrefix(line, "-noperm") ||
		strings.HasPrefix(line, "-err unknown command") || strings.HasPrefix(line, "-err unknown subcommand") ||
		strings.HasPrefix(line, "-err") && strings.Contains(line, "not supported")
}

func trackingCommand(prefixes []string) []string {
	args := []string{"CLIENT", "TRACKING", "ON", "BCAST"}
	every := args
	for _, p := range prefixes {
		if p == "" {
			return every
		}
		args = append(args, "PREFIX", p)
	}
	return args
}

// listenToKeyspace subscribes to the events of all keys under the prefixes. In RESP3 they come on the connection that the PINGs
// are answered on, and in order with them: the proof is the same as with tracking.
func (s *session) listenToKeyspace() error {
	s.source = ModeKeyspace
	for _, pattern := range keyspacePatterns(s.l.cfg.DB, s.terms.prefixes) {
		reply, err := s.ask("PSUBSCRIBE", pattern)
		if err != nil {
			return err
		}
		if !confirms(reply, "psubscribe") {
			return refused("PSUBSCRIBE %s was refused: %s", pattern, firstLine(reply))
		}
	}
	return nil
}

// keyspace is how the channels of a database's events begin.
func keyspace(db int) string { return "__keyspace@" + strconv.Itoa(db) + "__:" }

func keyspacePatterns(db int, prefixes []string) []string {
	head := keyspace(db)
	var patterns []string
	for _, p := range prefixes {
		if p == "" {
			return []string{head + "*"}
		}
		patterns = append(patterns, head+escapeGlob.Replace(p)+"*")
	}
	if len(patterns) == 0 {
		patterns = []string{head + "*"}
	}
	return patterns
}

// escapeGlob makes a pattern of Redis that matches the text alone.
var escapeGlob = strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `\`, `\\`)

// confirms says whether a reply is the confirmation of a subscription.
func confirms(reply []byte, kind string) bool {
	p := parser{rest: reply}
	if n, ok := p.length('>'); !ok || n != 3 {
		return false
	}
	got, ok := p.text()
	return ok && bytes.Equal(got, []byte(kind))
}

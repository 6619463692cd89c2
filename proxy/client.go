package proxy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/redcon"
)

// replyMode is what CLIENT REPLY has set.
type replyMode uint8

const (
	replyOn replyMode = iota
	replyOff
	replySkipNext // the next command's reply is skipped
	replySkip     // this command's reply is skipped
)

func (s *session) muted() bool { return s.reply == replyOff || s.reply == replySkip }

// client answers CLIENT and its subcommands about nearside's own clients.
func (s *session) client(raw []byte) {
	args := s.args
	sub := ""
	if len(args) > 1 {
		sub = strings.ToLower(string(args[1]))
	}
	switch sub {
	case "id":
		s.replyRaw(redcon.AppendInt(nil, int64(s.id)))
	case "getname":
		if s.name == "" {
			s.replyRaw(appendNull(nil, s.proto))
		} else {
			s.replyRaw(redcon.AppendBulkString(nil, s.name))
		}
	case "setname":
		if !validName(args[2]) {
			s.replyError(errClientName)
			return
		}
		if len(args[2]) > maxName {
			s.replyError(errLongName)
			return
		}
		s.name = string(args[2])
		s.replyString(replyOK)
	case "setinfo":
		s.setInfo(raw)
	case "info":
		s.publish()
		s.replyRaw(textReply(s.proto, s.describe()+"\n"))
	case "list":
		s.listClients()
	case "reply":
		s.setReply()
	case "no-evict", "no-touch":
		// Output buffers of shared connections are nearside's; its own bounds hold.
		if !foldEqual(args[2], "on") && !foldEqual(args[2], "off") {
			s.replyError(errSyntax)
			return
		}
		s.replyString(replyOK)
	case "kill":
		s.killClients()
	case "help":
		s.forward(raw)
	case "unblock", "pause", "unpause":
		s.replyError("ERR nearside: CLIENT " + strings.ToUpper(sub) + " is not supported through nearside yet; send it to Redis itself")
	default:
		s.forward(raw)
	}
}

// maxName bounds what a client says of itself: CLIENT LIST repeats it to everybody.
const maxName = 4 << 10

// setInfo keeps what a client library says of itself, if the origin is of a
// version that knows CLIENT SETINFO; else the origin's own error is the answer.
func (s *session) setInfo(raw []byte) {
	facts, err := s.p.facts()
	if err != nil {
		s.replyOriginError(err)
		return
	}
	if !facts.atLeast(7, 2) || len(s.args) != 4 {
		s.forward(raw)
		return
	}
	if len(s.args[3]) > maxName {
		s.replyError(errLongName)
		return
	}
	if !validName(s.args[3]) {
		s.replyError("ERR " + strings.ToLower(string(s.args[2])) + " cannot contain spaces, newlines or special characters.")
		return
	}
	switch value := string(s.args[3]); strings.ToLower(string(s.args[2])) {
	case "lib-name":
		s.libName = value
	case "lib-ver":
		s.libVer = value
	default:
		s.forward(raw)
		return
	}
	s.replyString(replyOK)
}

func (s *session) setReply() {
	switch {
	case foldEqual(s.args[2], "on"):
		s.reply = replyOn
		s.replyString(replyOK)
	case foldEqual(s.args[2], "off"):
		s.reply = replyOff
	case foldEqual(s.args[2], "skip"):
		if s.reply == replyOn {
			s.reply = replySkipNext
		}
	default:
		s.replyError(errSyntax)
	}
}

// seen is what other sessions may read of a session.
type seen struct {
	name, user, lib, ver, laddr, addr string
	db, proto                         int
	pubsub                            bool
}

// publish lets other sessions see the current state.
func (s *session) publish() {
	user := s.user
	if user == "" {
		user = s.p.origin.User()
	}
	s.public.Store(&seen{
		name: s.name, user: user, lib: s.libName, ver: s.libVer, db: s.db, proto: s.proto, pubsub: s.subscribed(),
		addr: addrString(s.conn.RemoteAddr()), laddr: addrString(s.conn.LocalAddr()),
	})
}

// describe is the session's line in CLIENT LIST, with Redis's fields.
func (s *session) describe() string {
	v := s.public.Load()
	if v == nil {
		v = &seen{addr: addrString(s.conn.RemoteAddr()), laddr: addrString(s.conn.LocalAddr()), user: s.p.origin.User(), proto: 2}
	}
	cmd := "NULL"
	if c := s.last.Load(); c != nil {
		cmd = c.Name
	}
	idle := (clockNow() - s.active.Load()) / int64(time.Second)
	return fmt.Sprintf("id=%d addr=%s laddr=%s fd=0 name=%s age=%d idle=%d flags=N db=%d sub=0 psub=0 ssub=0 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=%d tot-mem=%d events=r cmd=%s user=%s redir=-1 resp=%d",
		s.id, v.addr, v.laddr, v.name, int(time.Since(s.begun).Seconds()), idle, v.db, s.held.Load(), s.held.Load(), cmd, v.user, v.proto)
}

// listClients is CLIENT LIST [TYPE type | ID id …].
func (s *session) listClients() {
	keep := func(*session) bool { return true }
	if rest := s.args[2:]; len(rest) > 0 {
		switch {
		case foldEqual(rest[0], "type") && len(rest) == 2:
			if keep = s.ofType(rest[1]); keep == nil {
				return
			}
		case foldEqual(rest[0], "id") && len(rest) > 1:
			var ids []uint64
			for _, a := range rest[1:] {
				id, ok := parseLength(a)
				if !ok || id <= 0 {
					s.replyError("ERR Invalid client ID")
					return
				}
				ids = append(ids, uint64(id))
			}
			keep = func(o *session) bool { return slices.Contains(ids, o.id) }
		default:
			s.replyError(errSyntax)
			return
		}
	}
	s.publish()
	var text strings.Builder
	for _, o := range s.p.sessionList() {
		if keep(o) {
			text.WriteString(o.describe())
			text.WriteByte('\n')
		}
	}
	s.replyRaw(textReply(s.proto, text.String()))
}

// ofType is the filter for a client type; nil, with the error answered, for a
// type that does not exist. Replicas and masters are not nearside's clients.
func (s *session) ofType(word []byte) func(*session) bool {
	switch strings.ToLower(string(word)) {
	case "normal":
		return func(o *session) bool { v := o.public.Load(); return v == nil || !v.pubsub }
	case "pubsub":
		return func(o *session) bool { v := o.public.Load(); return v != nil && v.pubsub }
	case "master", "replica", "slave":
		return func(*session) bool { return false }
	}
	s.replyError("ERR Unknown client type '" + string(word) + "'")
	return nil
}

// killClients is CLIENT KILL addr, and CLIENT KILL with the filters ID, ADDR,
// LADDR, USER and SKIPME, of nearside's clients.
func (s *session) killClients() {
	args := s.args[2:]
	if len(args) == 1 { // the old form answers OK or an error
		n := s.kill(func(o *session) bool { return addrString(o.conn.RemoteAddr()) == string(args[0]) }, false)
		if n == 0 {
			s.replyError("ERR No such client")
		} else {
			s.replyString(replyOK)
		}
		return
	}
	if len(args) == 0 || len(args)%2 != 0 {
		s.replyError(errSyntax)
		return
	}
	var filters []func(*session) bool
	skipMe := true
	for i := 0; i < len(args); i += 2 {
		value := string(args[i+1])
		switch {
		case foldEqual(args[i], "id"):
			id, ok := parseLength(args[i+1])
			if !ok || id <= 0 {
				s.replyError("ERR client-id should be greater than 0")
				return
			}
			filters = append(filters, func(o *session) bool { return o.id == uint64(id) })
		case foldEqual(args[i], "addr"):
			filters = append(filters, func(o *session) bool { return addrString(o.conn.RemoteAddr()) == value })
		case foldEqual(args[i], "laddr"):
			filters = append(filters, func(o *session) bool { return addrString(o.conn.LocalAddr()) == value })
		case foldEqual(args[i], "user"):
			filters = append(filters, func(o *session) bool { v := o.public.Load(); return v != nil && v.user == value })
		case foldEqual(args[i], "type"):
			filter := s.ofType(args[i+1])
			if filter == nil {
				return
			}
			filters = append(filters, filter)
		case foldEqual(args[i], "skipme") && (foldEqual(args[i+1], "yes") || foldEqual(args[i+1], "no")):
			skipMe = foldEqual(args[i+1], "yes")
		default:
			s.replyError(errSyntax)
			return
		}
	}
	n := s.kill(func(o *session) bool {
		for _, f := range filters {
			if !f(o) {
				return false
			}
		}
		return true
	}, skipMe)
	s.replyRaw(redcon.AppendInt(nil, int64(n)))
}

func (s *session) kill(match func(*session) bool, skipMe bool) (n int) {
	for _, o := range s.p.sessionList() {
		if !match(o) || o == s && skipMe {
			continue
		}
		n++
		if o == s {
			s.quit = true // after the answer
		} else {
			o.shut()
		}
	}
	return n
}

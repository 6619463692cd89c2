package proxy

import (
	"bytes"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tidwall/redcon"

	"nearside/proxy/origin"
)

// keyView shows a subscriber at database 0 the keyspace notifications of the one
// keyspace that it sees there: of the keys under cache rules from the cache's
// database, of all others from the locks'. Whoever subscribes to a channel or
// pattern with @0__: is subscribed to the same of these databases as well, of
// which it is not told; what comes from there is renamed, and events of keys
// that are not in the view are dropped.
//
// From the first such subscription on nearside confirms all of the session's
// subscriptions itself, since Redis would count the additional ones.
type keyView struct {
	on atomic.Bool

	mu                 sync.Mutex // the session's reader changes, the connection's looks
	channels, patterns map[string]additional
	kept               int // bytes counted for them
}

// additional is a subscription that the client does not know of.
type additional struct {
	name string // what the client has subscribed to
	also bool   // the client has also subscribed to the additional name itself
}

// viewed tells whether a channel or pattern is one of database 0.
func viewed(name string) bool {
	return strings.HasPrefix(name, "__key") && strings.Contains(name, "@0__:")
}

// elsewhere are the names of the databases that the view at 0 is made of.
func (p *Proxy) elsewhere(name string) (list []string) {
	if !viewed(name) {
		return nil
	}
	for _, db := range []int{p.cfg.LocksDB, p.cfg.CacheDB} {
		if db != 0 {
			list = append(list, strings.Replace(name, "@0__:", "@"+itoa(db)+"__:", 1))
		}
	}
	return list
}

// needsView tells whether a subscription command concerns the view.
func (s *session) needsView(un bool, set *names) bool {
	if set == &s.subs.shards {
		return false
	}
	if s.view.on.Load() {
		return true
	}
	if un || s.db != 0 || s.p.cfg.LocksDB == s.p.cfg.CacheDB {
		return false
	}
	for _, a := range s.args[1:] {
		if viewed(string(a)) {
			return true
		}
	}
	return false
}

func (v *keyView) forget(s *session) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.on.Store(false)
	v.channels, v.patterns = nil, nil
	s.keep(-v.kept)
	v.kept = 0
}

// viewPlan is what a subscription command comes to.
type viewPlan struct {
	added map[string]additional // additional names to be noted; with name "" forgotten
	send  [][]byte              // the command for Redis
}

// subscribeViewed is subscribe for a session that has, or will have, a view; set
// is what the command works on.
func (s *session) subscribeViewed(un bool, set *names) {
	v := &s.view
	hidden := &v.channels
	if set == &s.subs.patterns {
		hidden = &v.patterns
	}
	var list []string
	for _, a := range s.args[1:] {
		list = append(list, string(a))
	}
	if un && len(list) == 0 {
		for name := range *set {
			list = append(list, name)
		}
	}
	plan := s.planView(un, list, *set, *hidden)

	// Redis's own confirmation, with the counts that the client expects.
	kind := s.d.Cmd.Name
	count := len(s.subs.channels) + len(s.subs.patterns)
	had := *set
	seen := map[string]bool{}
	var confirm []byte
	for _, name := range list {
		_, has := had[name]
		if now, again := seen[name]; again {
			has = now
		}
		switch {
		case un && has:
			count--
		case !un && !has:
			count++
		}
		seen[name] = !un
		confirm = appendConfirm(confirm, s.proto, kind, []byte(name), count)
	}
	if len(list) == 0 {
		confirm = appendConfirm(confirm, s.proto, kind, nil, count)
	}

	refused := false
	apply := func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if *hidden == nil {
			*hidden = map[string]additional{}
		}
		for name, a := range plan.added {
			if a.name == "" {
				delete(*hidden, name)
			} else {
				(*hidden)[name] = a
			}
		}
		v.on.Store(true)
	}
	sl := s.slot()
	sl.finish = func(_ *slot, b []byte, err error) []byte {
		if err != nil {
			b = appendError(nil, s.p.originError(err))
		}
		if refused = b[0] == '-'; refused {
			return b
		}
		apply() // what comes from now on comes behind the confirmation
		return confirm
	}
	if len(plan.send) == 1 { // nothing changes for Redis; messages on their way come first
		s.sendPinned(sl, -1, []byte("*1\r\n$4\r\nPING\r\n"), -1)
	} else {
		s.sendPinned(sl, -1, appendArgs(nil, plan.send), -(len(plan.send) - 1))
	}
	if !s.awaitAnswers() || refused {
		return
	}
	names := make([][]byte, len(list))
	for i, name := range list {
		names[i] = []byte(name)
	}
	if len(list) > 0 {
		s.subs.keep(s, set.change(un, names))
	}
	more := 0
	for name, a := range plan.added {
		if a.name != "" {
			more += len(name) + nameBytes
		} else {
			more -= len(name) + nameBytes
		}
	}
	v.kept += more
	s.keep(more)
	s.publish()
}

// planView finds what must be said to Redis so that it sends what the client will
// be subscribed to and what the view needs beside that.
func (s *session) planView(un bool, list []string, set names, hidden map[string]additional) viewPlan {
	plan := viewPlan{added: map[string]additional{}, send: [][]byte{s.args[0]}}
	done := map[string]bool{}
	say := func(name string) {
		plan.send = append(plan.send, []byte(name))
	}
	look := func(name string) (additional, bool) {
		if a, ok := plan.added[name]; ok {
			return a, a.name != ""
		}
		a, ok := hidden[name]
		return a, ok
	}
	visible := func(name string) bool {
		if _, ok := done[name]; ok {
			return !un
		}
		_, ok := set[name]
		return ok
	}
	for _, name := range list {
		if visible(name) == !un { // nothing changes
			continue
		}
		done[name] = true
		if a, ok := look(name); ok { // Redis sends it for another one's sake
			a.also = !un
			plan.added[name] = a
		} else {
			say(name)
		}
		if s.db != 0 && !un {
			continue
		}
		for _, other := range s.p.elsewhere(name) {
			_, noted := look(other)
			switch {
			case un && noted:
				plan.added[other] = additional{}
				if !visible(other) {
					say(other)
				}
			case !un && !noted:
				if !visible(other) {
					say(other)
				}
				plan.added[other] = additional{name: name, also: visible(other)}
			}
		}
	}
	return plan
}

func appendConfirm(b []byte, proto int, kind string, name []byte, count int) []byte {
	if proto == 3 {
		b = append(b, ">3\r\n"...)
	} else {
		b = append(b, "*3\r\n"...)
	}
	b = redcon.AppendBulkString(b, kind)
	if name == nil {
		b = appendNull(b, proto)
	} else {
		b = redcon.AppendBulk(b, name)
	}
	return redcon.AppendInt(b, int64(count))
}

// show returns the messages that the client gets for one that Redis has sent: none,
// the same one, one renamed, or two.
func (v *keyView) show(p *Proxy, frame []byte) (first, second []byte) {
	n, rest, ok := origin.Elements(frame)
	if !ok || n < 3 {
		return frame, nil
	}
	kind, _, rest, _ := origin.Bulk(rest)
	var subscribed []byte
	v.mu.Lock()
	hidden := v.channels
	if string(kind) == "pmessage" {
		hidden = v.patterns
	}
	subscribed, _, afterName, _ := origin.Bulk(rest)
	a, additional := hidden[string(subscribed)]
	v.mu.Unlock()
	channel, payload := subscribed, afterName
	switch string(kind) {
	case "message":
	case "pmessage":
		channel, _, payload, _ = origin.Bulk(afterName)
	default:
		return frame, nil
	}
	db, key, ok := keyEvent(channel, payload)
	inView := ok && p.rules().InView(key, db)
	if !additional || a.also {
		if first = frame; ok && db == 0 && viewed(string(subscribed)) && !inView {
			first = nil
		}
	}
	if additional && inView {
		second = append(second, frame[:4]...)
		second = redcon.AppendBulk(second, kind)
		if string(kind) == "pmessage" {
			second = redcon.AppendBulkString(second, a.name)
		}
		second = redcon.AppendBulk(second, bytes.Replace(channel, []byte("@"+itoa(db)+"__:"), []byte("@0__:"), 1))
		second = append(second, payload...)
	}
	return first, second
}

// keyEvent reads a keyspace notification: the database and the key it speaks of.
func keyEvent(channel, payload []byte) (db int, key []byte, ok bool) {
	rest, isSpace := bytes.CutPrefix(channel, []byte("__keyspace@"))
	if !isSpace {
		var isEvent bool
		if rest, isEvent = bytes.CutPrefix(channel, []byte("__keyevent@")); !isEvent {
			return 0, nil, false
		}
	}
	number, rest, found := bytes.Cut(rest, []byte("__:"))
	db, err := strconv.Atoi(string(number))
	if !found || err != nil {
		return 0, nil, false
	}
	if isSpace {
		return db, rest, true
	}
	key, _, _, ok = origin.Bulk(payload)
	return db, key, ok
}

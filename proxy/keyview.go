package proxy

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tidwall/redcon"

	"nearside/proxy/origin"
)

// keyView shows a subscriber at database 0 the keyspace notifications of the one
// keyspace that it sees there. What happens to a key that is in view is an event
// of database 0, whichever database the key lives in; a channel or pattern that
// fits the event's name there shows it by that name. In detail, of a subscription
// that was made at database 0 and whose name fits names of database 0,
//
//   - an event of a key in view comes once, with @0, if the name with @0 fits;
//     else by its own name, if that fits (__keyevent@1__:set beside others is such
//     a pattern, too: it fits no name of database 0 and is shown what Redis sends);
//   - an event of database 0 whose key is not in view does not come: a key under a
//     cache rule that lies there, or any key where locks.db is another database;
//   - every other event comes as it is, if its name fits: whoever asks for
//     __keyevent@*__:expired has asked for all databases, and a key of cache.db
//     under no rule is one of that database.
//
// For that the session is subscribed at Redis to additional patterns, of which
// the client is not told: those that fit, with the number of the other database,
// what the client's pattern fits with @0 and not with that number.
//
// From the first such subscription on nearside confirms all of the session's
// subscriptions itself, since Redis would count the additional ones.
type keyView struct {
	on atomic.Bool

	mu                 sync.Mutex // the session's reader changes, the connection's looks
	channels, patterns viewSet
	kept               int // bytes counted for them
}

// viewSet is the part of the view that channels have, or patterns.
type viewSet struct {
	// shown are the client's subscriptions that the view shows, each with the
	// additional names that it needs.
	shown map[string][]string
	// hidden are the additional names.
	hidden map[string]additional
}

// additional is a subscription that the client does not know of.
type additional struct {
	names []string // what the client has subscribed to and needs it
	also  bool     // the client has also subscribed to the additional name itself
}

// The channels of keyspace notifications, up to the number of the database.
var keyChannels = []string{"__keyspace@", "__keyevent@"}

// What an additional pattern may be beside the prefix of the channel: more or
// longer ones are made up for by one that fits everything.
const (
	mostRests = 4
	longRest  = 1024
)

// viewed tells whether a channel or pattern is one of the view, being asked for at
// database 0, and which additional names it needs.
func (p *Proxy) viewed(name string, pattern bool) (others []string, ok bool) {
	for _, kind := range keyChannels {
		own := kind + "0__:"
		if !pattern {
			if key, found := strings.CutPrefix(name, own); found {
				for _, db := range p.otherDBs() {
					others = append(others, kind+itoa(db)+"__:"+key)
				}
				return others, true
			}
			continue
		}
		rests := globRest(name, own)
		ok = ok || len(rests) > 0
		for _, db := range p.otherDBs() {
			other := kind + itoa(db) + "__:"
			have := globRest(name, other)
			missing := slices.DeleteFunc(slices.Clone(rests), func(i int) bool { return slices.Contains(have, i) })
			switch {
			case len(have) == 1 && have[0] < len(name) && onlyStars(name[have[0]:]): // fits all by itself
			case len(missing) > mostRests, len(missing) > 0 && len(name) > longRest:
				others = append(others, other+"*")
			default:
				for _, i := range missing {
					others = append(others, other+name[i:])
				}
			}
		}
	}
	return others, ok
}

// otherDBs are the databases beside 0 that the view at 0 is made of.
func (p *Proxy) otherDBs() (list []int) {
	for _, db := range []int{p.cfg.LocksDB, p.cfg.CacheDB} {
		if db != 0 {
			list = append(list, db)
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
		if _, ok := s.p.viewed(string(a), set == &s.subs.patterns); ok {
			return true
		}
	}
	return false
}

func (v *keyView) forget(s *session) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.on.Store(false)
	v.channels, v.patterns = viewSet{}, viewSet{}
	s.keep(-v.kept)
	v.kept = 0
}

// viewPlan is what a subscription command comes to.
type viewPlan struct {
	shown  map[string][]string   // to be shown; nil: no more
	hidden map[string]additional // additional names to be noted; without names: forgotten
	send   [][]byte              // the command for Redis
}

// subscribeViewed is subscribe for a session that has, or will have, a view; set
// is what the command works on.
func (s *session) subscribeViewed(un bool, set *names) {
	v := &s.view
	own := &v.channels
	if set == &s.subs.patterns {
		own = &v.patterns
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
	plan := s.planView(un, list, *set, own)

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

	refused, more := false, 0
	apply := func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		more = own.apply(plan)
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
	v.kept += more
	s.keep(more)
	s.publish()
}

// apply puts a plan into force and returns how many bytes more it takes.
func (v *viewSet) apply(plan viewPlan) (more int) {
	if v.shown == nil {
		v.shown, v.hidden = map[string][]string{}, map[string]additional{}
	}
	size := func(name string, refs int) int { return len(name) + nameBytes*(1+refs) }
	for name, others := range plan.shown {
		if had, ok := v.shown[name]; ok {
			more -= size(name, len(had))
		}
		if others == nil {
			delete(v.shown, name)
			continue
		}
		v.shown[name] = others
		more += size(name, len(others))
	}
	for name, a := range plan.hidden {
		if had, ok := v.hidden[name]; ok {
			more -= size(name, len(had.names))
		}
		if len(a.names) == 0 {
			delete(v.hidden, name)
			continue
		}
		v.hidden[name] = a
		more += size(name, len(a.names))
	}
	return more
}

// planView finds what must be said to Redis so that it sends what the client will
// be subscribed to and what the view needs beside that.
func (s *session) planView(un bool, list []string, set names, own *viewSet) viewPlan {
	pattern := own == &s.view.patterns
	plan := viewPlan{shown: map[string][]string{}, hidden: map[string]additional{}, send: [][]byte{s.args[0]}}
	done := map[string]bool{}
	say := func(name string) {
		plan.send = append(plan.send, []byte(name))
	}
	look := func(name string) (a additional, ok bool) {
		if a, ok = plan.hidden[name]; !ok {
			a = own.hidden[name]
		}
		return a, len(a.names) > 0
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
			plan.hidden[name] = a
		} else {
			say(name)
		}
		var others []string
		if un {
			others = own.shown[name]
			plan.shown[name] = nil
		} else if s.db == 0 {
			more, ok := s.p.viewed(name, pattern)
			if ok {
				others = append([]string{}, more...) // not nil
				plan.shown[name] = others
			}
		}
		for _, other := range others {
			a, noted := look(other)
			switch {
			case un:
				a.names = slices.DeleteFunc(slices.Clone(a.names), func(n string) bool { return n == name })
				plan.hidden[other] = a
				if len(a.names) == 0 && !visible(other) {
					say(other)
				}
			default:
				if !noted {
					a.also = visible(other)
					if !a.also {
						say(other)
					}
				}
				a.names = append(slices.Clip(a.names), name)
				plan.hidden[other] = a
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
// the same one, or one for each of its subscriptions that need it, renamed.
func (v *keyView) show(p *Proxy, frame []byte) (list [][]byte) {
	n, rest, ok := origin.Elements(frame)
	if !ok || n < 3 {
		return [][]byte{frame}
	}
	kind, _, rest, _ := origin.Bulk(rest)
	subscribed, _, rest, _ := origin.Bulk(rest)
	m := message{head: frame[:4], kind: kind, channel: subscribed, payload: rest}
	v.mu.Lock()
	defer v.mu.Unlock()
	set := &v.channels
	switch string(kind) {
	case "message":
	case "pmessage":
		set, m.pattern = &v.patterns, true
		m.channel, _, m.payload, _ = origin.Bulk(rest)
	default:
		return [][]byte{frame}
	}
	var key []byte
	if m.db, key, m.event = keyEvent(m.channel, m.payload); m.event {
		m.inView = p.rules().InView(key, m.db)
	}
	a, hidden := set.hidden[string(subscribed)]
	if !hidden || a.also {
		if _, shown := set.shown[string(subscribed)]; !shown || !m.event {
			list = append(list, frame)
		} else if as := m.as(string(subscribed)); as != nil {
			list = append(list, m.named(string(subscribed), as))
		}
	}
	for _, name := range a.names {
		if m.comes(name, string(subscribed), set.shown[name]) {
			if as := m.as(name); as != nil {
				list = append(list, m.named(name, as))
			}
		}
	}
	return list
}

// message is one that Redis has sent.
type message struct {
	head          []byte // of its frame, up to the first element
	kind, channel []byte
	payload       []byte // with what frames it
	pattern       bool   // it came to a pattern
	event         bool   // it is a keyspace notification, of a key in a database
	db            int
	inView        bool
}

// comes tells whether a subscription of the client's is shown the message that came
// to the additional name: not if Redis sends it to the client's own name, too, or
// has sent it to another of the additional names.
func (m *message) comes(name, came string, others []string) bool {
	if !m.pattern {
		return true
	}
	if globMatch(name, m.channel) {
		return false
	}
	for _, other := range others {
		if other == came {
			return true
		}
		if globMatch(other, m.channel) {
			return false
		}
	}
	return false
}

// as is the channel by which a subscription at database 0 is shown the message, nil
// if it is not.
func (m *message) as(name string) []byte {
	fits := func(channel []byte) bool {
		if m.pattern {
			return globMatch(name, channel)
		}
		return name == string(channel)
	}
	if m.inView {
		if at0 := bytes.Replace(m.channel, []byte("@"+itoa(m.db)+"__:"), []byte("@0__:"), 1); fits(at0) {
			return at0
		}
	}
	if m.event && m.db == 0 || !fits(m.channel) {
		return nil
	}
	return m.channel
}

// named is the message with the channel's name, for a subscription.
func (m *message) named(name string, channel []byte) []byte {
	b := append([]byte(nil), m.head...)
	b = redcon.AppendBulk(b, m.kind)
	if m.pattern {
		b = redcon.AppendBulkString(b, name)
	}
	b = redcon.AppendBulk(b, channel)
	return append(b, m.payload...)
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

package proxy

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/tidwall/redcon"

	"nearside/proxy/origin"
)

// A plan takes a command apart that speaks of both databases: one request per
// database, and how their replies become one.
type plan struct {
	parts []part
	merge func(replies [][]byte) []byte
}

type part struct {
	db  int
	req []byte
}

// plan makes the plan for the decided command; ok is false for commands that
// cannot be taken apart: what is wrong with them Redis says.
func (s *session) plan() (plan, bool) {
	switch s.d.Cmd.Name {
	case "mget":
		parts, places := s.byDatabase(1)
		n := len(s.d.Keys)
		return plan{parts, func(r [][]byte) []byte { return mergeValues(r, places, n) }}, true
	case "exists", "del", "unlink", "touch":
		parts, _ := s.byDatabase(1)
		return plan{parts, mergeSum}, true
	case "mset":
		if len(s.args)%2 == 0 { // a value is missing: Redis says so when it runs, and writes nothing
			return plan{[]part{{s.d.Keys[0].DB, appendArgs(nil, s.args)}}, mergeStatus}, true
		}
		parts, _ := s.byDatabase(2)
		return plan{parts, mergeStatus}, true
	case "dbsize":
		return s.everywhere(mergeSum), true
	case "scan":
		return s.scanPlan()
	case "randomkey":
		return s.everywhere(s.mergeRandom), true
	case "flushdb":
		return s.everywhere(mergeStatus), true
	case "keys":
		if len(s.args) != 2 {
			break
		}
		var parts []part
		req := appendArgs(nil, s.args)
		set := s.set // the view of this request, whatever comes meanwhile
		for _, db := range set.rules.PatternDBs(s.args[1]) {
			parts = append(parts, part{db, req})
		}
		return plan{parts, func(r [][]byte) []byte { return set.mergeKeys(parts, r) }}, true
	}
	return plan{}, false
}

// byDatabase groups the command's keys, each with the width-1 arguments behind
// it, by database. places tells each group's positions among all keys.
func (s *session) byDatabase(width int) (parts []part, places [][]int) {
	var dbs []int
	args := map[int][][]byte{}
	at := map[int][]int{}
	for i, k := range s.d.Keys {
		if args[k.DB] == nil {
			dbs = append(dbs, k.DB)
			args[k.DB] = [][]byte{s.args[0]}
		}
		args[k.DB] = append(args[k.DB], s.args[k.Pos:min(k.Pos+width, len(s.args))]...)
		at[k.DB] = append(at[k.DB], i)
	}
	for _, db := range dbs {
		parts = append(parts, part{db, appendArgs(nil, args[db])})
		places = append(places, at[db])
	}
	return parts, places
}

// everywhere sends the command to both databases.
func (s *session) everywhere(merge func([][]byte) []byte) plan {
	req := appendArgs(nil, s.args)
	return plan{[]part{{s.p.cfg.LocksDB, req}, {s.p.cfg.CacheDB, req}}, merge}
}

// firstError returns the first error among replies.
func firstError(replies [][]byte) []byte {
	for _, r := range replies {
		if isError(r) {
			return r
		}
	}
	return nil
}

func mergeSum(replies [][]byte) []byte {
	if e := firstError(replies); e != nil {
		return e
	}
	var sum int64
	for _, r := range replies {
		n, _, _ := origin.Int(r)
		sum += n
	}
	return redcon.AppendInt(nil, sum)
}

func mergeStatus(replies [][]byte) []byte {
	if e := firstError(replies); e != nil {
		return e
	}
	return replies[0]
}

func mergeValues(replies [][]byte, places [][]int, n int) []byte {
	if e := firstError(replies); e != nil {
		return e
	}
	values := make([][]byte, n)
	for i, r := range replies {
		_, rest, _ := origin.Elements(r)
		for _, place := range places[i] {
			values[place], rest = origin.Split(rest)
		}
	}
	out := redcon.AppendArray(nil, n)
	for _, v := range values {
		out = append(out, v...)
	}
	return out
}

// mergeKeys joins lists of keys, leaving out what the view at database 0 does
// not show of each database.
func (set *ruleset) mergeKeys(parts []part, replies [][]byte) []byte {
	if e := firstError(replies); e != nil {
		return e
	}
	var keys []byte
	count := 0
	for i, r := range replies {
		n, b := set.inView(r, parts[i].db)
		keys = append(keys, b...)
		count += n
	}
	return append(redcon.AppendArray(make([]byte, 0, len(keys)+16), count), keys...)
}

// inView filters an array of keys found in a database by the view at 0.
func (set *ruleset) inView(array []byte, db int) (n int, elements []byte) {
	total, rest, _ := origin.Elements(array)
	var one []byte
	for range total {
		one, rest = origin.Split(rest)
		if key, _, _, ok := origin.Bulk(one); ok && set.rules.InView(key, db) {
			elements = append(elements, one...)
			n++
		}
	}
	return n, elements
}

// joined runs a command that speaks of both databases: as one transaction on
// a connection of its own, so that it is atomic as it is on one database.
func (s *session) joined(raw []byte) {
	if d := &s.d; !d.Cmd.ArityOK(len(s.args)) { // Redis answers that itself
		d.DB = s.p.cfg.LocksDB
		s.forward(raw)
		return
	}
	if !s.awaitAnswers() {
		return
	}
	if s.d.Cmd.Name == "randomkey" {
		s.randomKey(raw)
		return
	}
	plan, ok := s.plan()
	if !ok {
		s.d.DB = s.p.cfg.LocksDB
		s.forward(raw)
		return
	}
	sl := s.slot()
	s.effects(sl)
	if s.d.Effect == 0 {
		s.observe(sl)
	}
	sl.beginAlone()
	replies, err := s.runPlan(plan)
	var b []byte
	if err != nil {
		b = appendError(nil, s.p.originError(err))
	} else {
		b = plan.merge(replies)
	}
	sl.settleAlone(b, err)
	s.replyRaw(b)
}

// runPlan sends a plan's requests and returns a reply for each.
func (s *session) runPlan(pl plan) ([][]byte, error) {
	if len(pl.parts) == 1 {
		b, err := s.call(pl.parts[0].db, pl.parts[0].req)
		return [][]byte{b}, err
	}
	c, err := s.planConn(pl.parts[0].db)
	if err != nil {
		return nil, err
	}
	own := s.pin != nil && c == s.pin.conn
	var lead int
	var req []byte
	if own {
		req, lead = s.lead(nil, -1)
	}
	req = append(req, fetchHead...)
	for _, part := range pl.parts {
		req = append(appendSelect(req, part.db), part.req...)
	}
	req = append(req, fetchTail...)
	n := 2 * len(pl.parts)
	b, err := s.p.callOwned(c, req, lead+n+2)
	if err != nil {
		if !own {
			s.p.origin.Unpin(c, false)
		}
		return nil, err
	}
	b = b[lastReply(b, lead):]
	executed := b[lastReply(b, n+1)] == '*'
	switch last := pl.parts[len(pl.parts)-1].db; {
	case own && executed:
		s.pin.db = last
	case own:
		s.pin.db = -1 // in doubt: select before the next command
	case executed: // else a refused MULTI leaves the database in doubt
		c.Reselect(last)
	}
	if !own {
		s.p.origin.Unpin(c, executed)
	}
	replies := make([][]byte, len(pl.parts))
	one, rest := origin.Split(b)
	failed := one
	if string(one) == replyOK {
		failed = nil
		for range n {
			one, rest = origin.Split(rest)
			if failed == nil && one[0] == '-' {
				failed = one
			}
		}
	}
	count, rest, ok := origin.Elements(rest)
	if failed != nil || !ok || count != n {
		if failed == nil {
			failed = rest
		}
		for i := range replies {
			replies[i] = failed
		}
		return replies, nil
	}
	for i := range replies {
		_, rest = origin.Split(rest)
		replies[i], rest = origin.Split(rest)
	}
	return replies, nil
}

// planConn returns the connection for a plan: while the client has CLIENT
// TRACKING on its own, where Redis sees what it reads. An EXEC there would end a WATCH.
func (s *session) planConn(db int) (*origin.Conn, error) {
	if s.track && !s.watch {
		if err := s.acquire(db); err != nil {
			return nil, err
		}
		return s.pin.conn, nil
	}
	s.blocking()
	return s.p.origin.Pin(s.p.ctx, s.group(db, false))
}

// lastReply is where the reply begins that n others precede.
func lastReply(b []byte, n int) int {
	rest := b
	for range n {
		_, rest = origin.Split(rest)
	}
	return len(b) - len(rest)
}

// call sends a request on the session's shared connection and waits for its reply.
func (s *session) call(db int, req []byte) ([]byte, error) {
	c, err := s.wire(db, false)
	if err != nil {
		return nil, err
	}
	s.blocking()
	b, err := c.Call(s.p.ctx, req, 1)
	for range retiredTries {
		if !errors.Is(err, origin.ErrRetired) {
			break
		}
		if c, err = s.p.origin.Shared(s.p.ctx, c.Group(), s.id); err == nil {
			b, err = c.Call(s.p.ctx, req, 1)
		}
	}
	return b, err
}

// scanPlan walks one database after the other. A cursor of the client is twice
// the cursor of Redis, plus one in the locks' database: it stays below 2^53, which
// node-redis needs, as long as a database has fewer than 2^52 buckets. The
// cursor says which database it is of, since a reload may change in the middle of a walk which
// ones the pattern has keys in. If its own has none any more the walk begins with the
// other: keys may come twice, as with any SCAN, but none is missed. ok is false
// for what is no cursor: Redis has the words for it.
func (s *session) scanPlan() (_ plan, ok bool) {
	cursor, err := strconv.ParseUint(string(s.args[1]), 10, 64)
	if err != nil {
		return plan{}, false
	}
	set := s.set
	dbs := [2]int{s.p.cfg.CacheDB, s.p.cfg.LocksDB} // by the cursor's last bit
	first, last := 0, 1
	if pattern := matchOption(s.args[2:]); pattern != nil {
		if only := set.rules.PatternDBs(pattern); len(only) == 1 {
			first = slices.Index(dbs[:], only[0])
			last = first
		}
	}
	phase := int(cursor & 1)
	if cursor == 0 || phase < first || phase > last {
		cursor, phase = 0, first
	}
	args := slices.Clone(s.args)
	args[1] = strconv.AppendUint(nil, cursor>>1, 10)
	merge := func(r [][]byte) []byte { return set.scanned(r[0], dbs[phase], phase, phase < last) }
	return plan{parts: []part{{dbs[phase], appendArgs(nil, args)}}, merge: merge}, true
}

// scanned turns a database's reply to SCAN into the view's.
func (set *ruleset) scanned(b []byte, db, phase int, another bool) []byte {
	n, rest, ok := origin.Elements(b)
	if !ok || n != 2 { // an error
		return b
	}
	first, rest := origin.Split(rest)
	value, _, _, _ := origin.Bulk(first)
	next, _ := strconv.ParseUint(string(value), 10, 64)
	switch {
	case next != 0:
		next = next<<1 | uint64(phase)
	case another:
		next = 1 // the other one's beginning
	}
	count, keys := set.inView(rest, db)
	out := redcon.AppendArray(nil, 2)
	out = redcon.AppendBulkString(out, strconv.FormatUint(next, 10))
	out = redcon.AppendArray(out, count)
	return append(out, keys...)
}

// mergeRandom draws one of two databases' random keys, for a RANDOMKEY inside
// MULTI, where the databases' sizes cannot be asked first.
func (s *session) mergeRandom(replies [][]byte) []byte {
	if e := firstError(replies); e != nil {
		return e
	}
	dbs := []int{s.p.cfg.LocksDB, s.p.cfg.CacheDB}
	first := rand.IntN(len(dbs))
	for _, i := range []int{first, 1 - first} {
		if key, null, _, ok := origin.Bulk(replies[i]); ok && !null && s.set.rules.InView(key, dbs[i]) {
			return replies[i]
		}
	}
	return appendNull(nil, s.proto)
}

// matchOption returns SCAN's pattern, or nil.
func matchOption(opts [][]byte) (pattern []byte) {
	for i := 0; i+1 < len(opts); i++ {
		if foldEqual(opts[i], "match") {
			pattern = opts[i+1]
			i++
		}
	}
	return pattern
}

// randomTries bounds the search for a random key that the view shows.
const randomTries = 32

// randomKey asks a database that is drawn by its size.
func (s *session) randomKey(raw []byte) {
	p := s.p
	sizes, err := s.runPlan(s.sizes())
	if err != nil {
		s.replyOriginError(err)
		return
	}
	if e := firstError(sizes); e != nil {
		s.replyRaw(e)
		return
	}
	locks, _, _ := origin.Int(sizes[0])
	cache, _, _ := origin.Int(sizes[1])
	for range randomTries {
		db := p.cfg.LocksDB
		if locks+cache > 0 && rand.Int64N(locks+cache) >= locks {
			db = p.cfg.CacheDB
		}
		b, err := s.call(db, raw)
		if err != nil {
			s.replyOriginError(err)
			return
		}
		key, null, _, ok := origin.Bulk(b)
		if !ok {
			s.replyRaw(b)
			return
		}
		if !null && s.set.rules.InView(key, db) {
			s.replyRaw(bytes.Clone(b))
			return
		}
	}
	s.replyRaw(appendNull(nil, s.proto))
}

func (s *session) sizes() plan {
	req := []byte("*1\r\n$6\r\nDBSIZE\r\n")
	return plan{parts: []part{{s.p.cfg.LocksDB, req}, {s.p.cfg.CacheDB, req}}}
}

package proxy

import (
	"bytes"
	"errors"
	"slices"
	"strconv"

	"github.com/tidwall/redcon"

	"nearside/policy"
	"nearside/proxy/origin"
)

// A plan takes a command apart that speaks of both databases: one request per
// database, and how their replies become one.
type plan struct {
	parts []part
	merge func(replies [][]byte) []byte
	whole string // the command's name if it must be one transaction or not run at all
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
		return plan{parts: parts, merge: func(r [][]byte) []byte { return mergeValues(r, places, n) }}, true
	case "exists", "del", "unlink", "touch":
		parts, _ := s.byDatabase(1)
		return plan{parts: parts, merge: mergeSum}, true
	case "mset":
		if len(s.args)%2 == 0 { // a value is missing: Redis says so when it runs, and writes nothing
			return plan{parts: []part{{s.d.Keys[0].DB, appendArgs(nil, s.args)}}, merge: mergeStatus}, true
		}
		parts, _ := s.byDatabase(2)
		return plan{parts, mergeStatus, "mset"}, true
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
		return plan{parts: parts, merge: func(r [][]byte) []byte { return set.mergeKeys(parts, r) }}, true
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
	return plan{parts: []part{{s.p.cfg.LocksDB, req}, {s.p.cfg.CacheDB, req}}, merge: merge}
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
	switch {
	case s.d.Cmd.Name == "randomkey":
		s.randomKey(raw)
		return
	case s.d.Cmd.Name == "flushdb" && !s.p.cfg.CacheExclusive:
		s.flushView(raw)
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

// planConn returns the connection for a plan: while the client has CLIENT
// TRACKING on its own, where Redis sees what it reads. An EXEC there would end a WATCH.
func (s *session) planConn(db int) (*origin.Conn, error) {
	if (s.track || s.settled) && !s.watching {
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
	cursor, ok := parseCursor(s.args[1])
	if !ok {
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
	phase := int(cursor.value & 1)
	if cursor.value == 0 || phase < first || phase > last {
		cursor.value, phase = 0, first
	}
	args := slices.Clone(s.args)
	args[1] = cursor.half()
	merge := func(r [][]byte) []byte { return set.scanned(r[0], dbs[phase], phase, phase < last) }
	return plan{parts: []part{{dbs[phase], appendArgs(nil, args)}}, merge: merge}, true
}

// A scanCursor is the client's cursor of a SCAN, as C's strtoul reads it: white space and a sign
// may stand before the digits, a NUL ends them, and nothing at all is 0. Which of
// these a server takes depends on its version (7 takes "" and no white space, 8 the other way
// round), so a cursor is passed on spelt as the client spelt it, and that server decides.
type scanCursor struct {
	value uint64
	text  []byte // as it came
	from  int    // where its digits are
	to    int
	minus bool
}

// parseCursor reads a cursor; ok is false for what no server takes for one.
func parseCursor(b []byte) (c scanCursor, ok bool) {
	c.text = b
	end := bytes.IndexByte(b, 0)
	if end < 0 {
		end = len(b)
	}
	i := 0
	for i < end && (b[i] == ' ' || '\t' <= b[i] && b[i] <= '\r') {
		i++
	}
	if i < end && (b[i] == '+' || b[i] == '-') {
		c.minus = b[i] == '-'
		i++
	}
	c.from, c.to = i, end
	if end == 0 {
		return c, true
	}
	for ; i < end; i++ {
		if b[i] < '0' || b[i] > '9' {
			return c, false
		}
	}
	var err error
	if c.value, err = strconv.ParseUint(string(b[c.from:c.to]), 10, 64); err != nil {
		return c, false
	}
	if c.minus {
		c.value = -c.value
	}
	return c, true
}

// half spells the cursor for Redis, which has half the client's. A negative one is none that
// a client was ever given: whatever the server makes of it.
func (c *scanCursor) half() []byte {
	if c.from == c.to || c.minus && c.value != 0 {
		return c.text
	}
	b := strconv.AppendUint(slices.Clone(c.text[:c.from]), c.value>>1, 10)
	return append(b, c.text[c.to:]...)
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

// matchOption returns SCAN's pattern, or nil. Options come in pairs. What follows one
// that is unknown is not looked at: Redis refuses it, or is newer and knows better.
func matchOption(opts [][]byte) (pattern []byte) {
	for i := 0; i+1 < len(opts); i += 2 {
		switch {
		case policy.Is(opts[i], "match"):
			pattern = opts[i+1]
		case policy.Is(opts[i], "count"), policy.Is(opts[i], "type"):
		default:
			return nil
		}
	}
	return pattern
}

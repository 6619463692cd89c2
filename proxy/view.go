package proxy

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"nearside/policy"
	"nearside/proxy/origin"
)

// What of the view at database 0 (policy.Rules.InView) takes more than one request per
// database: FLUSHDB, and a RANDOMKEY among many keys that are not in view.
//
// A walk over a database is nearside's own, on a shared connection of nearside's own
// user: the client needs the right to its own command and no other. It begins
// when Redis has granted the client that command. Each step is one SCAN of
// walkCount buckets and at most one UNLINK of what it found, so that Redis serves
// others between any two, and holds nothing here but the session that asked.

// walkCount is the COUNT of a walk's SCANs.
const walkCount = 512

// A walk goes once through the keys of one database that match a pattern.
type walk struct {
	p       *Proxy
	db      int
	cursor  string // "" at the end
	pattern []byte // nil: all
}

// next returns the keys of the next step.
func (w *walk) next() (keys [][]byte, err error) {
	args := [][]byte{[]byte("SCAN"), []byte(w.cursor), []byte("COUNT"), []byte(strconv.Itoa(walkCount))}
	if w.pattern != nil {
		args = append(args, []byte("MATCH"), w.pattern)
	}
	b, err := w.p.ask(w.db, args)
	if err != nil {
		return nil, err
	}
	if isError(b) {
		return nil, &origin.RefusedError{Line: errorText(b)}
	}
	_, rest, _ := origin.Elements(b)
	one, rest := origin.Split(rest)
	cursor, _, _, ok := origin.Bulk(one)
	n, rest, isArray := origin.Elements(rest)
	if !ok || !isArray {
		return nil, fmt.Errorf("%w: SCAN answered %.80q", origin.ErrUnreachable, b)
	}
	if w.cursor = string(cursor); w.cursor == "0" {
		w.cursor = ""
	}
	for range n {
		one, rest = origin.Split(rest)
		if key, null, _, ok := origin.Bulk(one); ok && !null {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// ask sends a request of nearside's own to a database, and waits for the answer.
func (p *Proxy) ask(db int, args [][]byte) ([]byte, error) {
	c, err := p.origin.Shared(p.ctx, origin.Group{DB: db, Proto: 2}, 0)
	if err != nil {
		return nil, err
	}
	return c.Call(p.ctx, appendArgs(nil, args), 1)
}

// errorText is an error reply without its frame.
func errorText(b []byte) string { return strings.TrimRight(string(b[1:]), "\r\n") }

// prefixPattern returns the glob pattern of all keys that start like one of the prefixes
// at least, nil if those have nothing in common.
func prefixPattern(prefixes []string) []byte {
	if len(prefixes) == 0 {
		return nil
	}
	common := prefixes[0]
	for _, p := range prefixes[1:] {
		n := 0
		for n < len(common) && n < len(p) && common[n] == p[n] {
			n++
		}
		common = common[:n]
	}
	if common == "" {
		return nil
	}
	var b []byte
	for i := range len(common) {
		switch c := common[i]; c {
		case '*', '?', '[', ']', '\\', '^', '-':
			b = append(b, '\\', c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '*')
}

// errFlushQueued refuses what EXEC cannot do.
const errFlushQueued = "ERR nearside: FLUSHDB at database 0 unlinks the cache rules' keys in batches, which is not possible inside MULTI; " +
	"send it outside, or set cache.exclusive"

// flushView is FLUSHDB at database 0 where the cache's database may hold others' keys:
// FLUSHDB of the locks' database, by the client itself, and if Redis grants it that,
// UNLINK of the cache rules' keys. It is not atomic: a key that is written
// meanwhile may stay or go. Until the end everything counts as being written, so
// nobody is answered from the near cache what is about to go. A client that
// leaves meanwhile does not stop it.
func (s *session) flushView(raw []byte) {
	s.blocking()
	if b, err := s.mayFlushCache(); err != nil {
		s.replyOriginError(err)
		return
	} else if b != nil {
		s.replyRaw(b)
		return
	}
	sl := s.slot()
	s.effects(sl)
	sl.beginAlone()
	b, err := s.callHome(s.p.cfg.LocksDB, raw)
	if err == nil && !isError(b) {
		b = bytes.Clone(b)
		n, stopped := s.unlinkView(s.syncFlush())
		if stopped != nil {
			s.p.m.originErrors.Inc()
			b = appendError(nil, s.flushStopped(n, stopped))
		}
	}
	if err != nil {
		b = appendError(nil, s.p.originError(err))
	}
	sl.settleAlone(b, err)
	s.replyRaw(b)
}

// mayFlushCache asks Redis whether a client's own user may FLUSHDB the cache's database,
// since a user may be kept to some databases. nil says yes, else it is the answer.
func (s *session) mayFlushCache() ([]byte, error) {
	if s.user == "" {
		return nil, nil
	}
	b, err := s.call(s.p.cfg.CacheDB, probeFlushDB)
	if err != nil || bytes.HasPrefix(b, []byte("-ERR syntax")) {
		return nil, err
	}
	return bytes.Clone(b), nil
}

// probeFlushDB is refused for its argument if the user may run FLUSHDB.
var probeFlushDB = origin.AppendCommand(nil, "FLUSHDB", "nearside")

// syncFlush tells whether the client asked for SYNC.
func (s *session) syncFlush() bool { return len(s.args) == 2 && policy.Is(s.args[1], "sync") }

// callHome is call, on the session's own connection where Redis tracks what the client does.
func (s *session) callHome(db int, raw []byte) ([]byte, error) {
	if !s.track || s.watching {
		return s.call(db, raw)
	}
	if err := s.acquire(db); err != nil {
		return nil, err
	}
	if !s.awaitAnswers() {
		return nil, origin.ErrLost
	}
	req, n := s.lead(nil, db)
	b, err := s.p.callOwned(s.pin.conn, append(req, raw...), n+1)
	if err != nil {
		return nil, err
	}
	for range n {
		one, rest := origin.Split(b)
		if isError(one) { // the command ran elsewhere, or not as the client asked
			s.pin.db = -1
			return one, nil
		}
		b = rest
	}
	return b, nil
}

// unlinkView unlinks the view's keys of the cache's database, and tells how many.
func (s *session) unlinkView(sync bool) (n int64, err error) {
	p, rules := s.p, s.set.rules
	if len(rules.Prefixes()) == 0 {
		return 0, nil
	}
	verb := []byte("UNLINK")
	if sync {
		verb = []byte("DEL")
	}
	w := walk{p: p, db: p.cfg.CacheDB, cursor: "0", pattern: prefixPattern(rules.Prefixes())}
	for w.cursor != "" {
		keys, err := w.next()
		if err != nil {
			return n, err
		}
		args := make([][]byte, 1, len(keys)+1)
		args[0] = verb
		for _, key := range keys {
			if rules.InView(key, w.db) {
				args = append(args, key)
			}
		}
		if len(args) == 1 {
			continue
		}
		b, err := p.ask(w.db, args)
		if err != nil {
			return n, err
		}
		if isError(b) {
			return n, &origin.RefusedError{Line: errorText(b)}
		}
		gone, _, _ := origin.Int(b)
		n += gone
	}
	return n, nil
}

// flushStopped is the answer to a FLUSHDB that came half way: it keeps Redis's code,
// by which clients know what to do.
func (s *session) flushStopped(n int64, err error) string {
	code, why, ok := strings.Cut(s.p.originError(err), " ")
	if !ok {
		code, why = "ERR", code
	}
	return fmt.Sprintf("%s nearside: FLUSHDB has emptied database %d, but of the cache rules' keys in database %d it has unlinked only %d; send it again (%s)",
		code, s.p.cfg.LocksDB, s.p.cfg.CacheDB, n, strings.TrimPrefix(why, "nearside: "))
}

// randomTries bounds the draws for a random key that the view shows, before it is looked for.
const randomTries = 16

// randomKey draws a database by its size and asks that one, until the key is in
// view: so each key of the view is as likely as any other. Where most keys are not in
// view it looks for one.
func (s *session) randomKey(raw []byte) {
	s.blocking()
	dbs := [2]int{s.p.cfg.LocksDB, s.p.cfg.CacheDB}
	sizes, err := s.p.sizes(dbs)
	for range randomTries {
		if err != nil {
			s.replyOriginError(err)
			return
		}
		i := drawn(sizes)
		var b []byte
		if b, err = s.call(dbs[i], raw); err != nil {
			continue
		}
		key, null, _, ok := origin.Bulk(b)
		switch {
		case !ok || !null && s.set.rules.InView(key, dbs[i]):
			s.replyRaw(bytes.Clone(b))
			return
		case null && sizes[1-i] == 0:
			s.replyRaw(appendNull(nil, s.proto))
			return
		case null:
			sizes[i] = 0
		}
	}
	if err == nil {
		var b []byte
		if b, err = s.someKey(); err == nil {
			s.replyRaw(b)
			return
		}
	}
	s.replyOriginError(err)
}

// drawn returns 0 or 1, by the two weights.
func drawn(weights [2]int64) int {
	sum := weights[0] + weights[1]
	if sum > 0 && rand.Int64N(sum) >= weights[0] {
		return 1
	}
	return 0
}

// sizes asks how many keys two databases have.
func (p *Proxy) sizes(dbs [2]int) (sizes [2]int64, err error) {
	for i, db := range dbs {
		b, err := p.ask(db, [][]byte{[]byte("DBSIZE")})
		if err != nil {
			return sizes, err
		}
		// Where nearside may not ask, both are as likely.
		if sizes[i], _, _ = origin.Int(b); isError(b) {
			return [2]int64{1, 1}, nil
		}
	}
	return sizes, nil
}

// someKey walks until it meets a key of the view, and returns it as the answer to RANDOMKEY. The
// walk begins somewhere, as every number is a cursor, and goes round.
func (s *session) someKey() ([]byte, error) {
	p := s.p
	walks := [2]walk{{p: p, db: p.cfg.LocksDB}, {p: p, db: p.cfg.CacheDB, pattern: prefixPattern(s.set.rules.Prefixes())}}
	for _, begin := range []string{strconv.Itoa(int(rand.Int32())), "0"} {
		for _, i := range rand.Perm(len(walks)) {
			w := &walks[i]
			for w.cursor = begin; w.cursor != ""; {
				keys, err := w.next()
				if err != nil {
					return nil, err
				}
				for _, k := range rand.Perm(len(keys)) {
					if s.set.rules.InView(keys[k], w.db) {
						return appendArgs(nil, [][]byte{keys[k]})[len("*1\r\n"):], nil
					}
				}
			}
		}
	}
	return appendNull(nil, s.proto), nil
}

// mergeRandom draws one of two databases' random keys, for a RANDOMKEY inside
// MULTI. It runs on the session's goroutine once EXEC is answered (execLocals), and looks
// for a key if neither is in view.
func (s *session) mergeRandom(replies [][]byte) []byte {
	if e := firstError(replies); e != nil {
		return e
	}
	s.blocking()
	dbs := [2]int{s.p.cfg.LocksDB, s.p.cfg.CacheDB}
	sizes, err := s.p.sizes(dbs)
	first := drawn(sizes)
	seen := false
	for _, i := range []int{first, 1 - first} {
		key, null, _, ok := origin.Bulk(replies[i])
		if ok && !null && s.set.rules.InView(key, dbs[i]) {
			return replies[i]
		}
		seen = seen || ok && !null
	}
	if err == nil && seen {
		var b []byte
		if b, err = s.someKey(); err == nil {
			return b
		}
	}
	if err != nil {
		return appendError(nil, s.p.originError(err))
	}
	return appendNull(nil, s.proto)
}

package proxy

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"time"

	"github.com/tidwall/redcon"

	"nearside/policy"
	"nearside/proxy/l1"
	"nearside/proxy/link"
	"nearside/proxy/origin"
)

// cached answers a read from the near cache, or fetches its reply for it.
func (s *session) cached(raw []byte) {
	p := s.p
	if s.waited {
		s.tick()
		s.waited = false
	}
	if len(raw) > maxCachedRequest {
		s.bypass(bypassTooLarge)
		s.readThrough(raw)
		return
	}
	if p.quarantine.holds(s.d.Keys) {
		s.bypass(bypassAudit)
		s.readThrough(raw)
		return
	}
	if s.async && !s.mayOvertake() {
		// Behind one of the session's own writes: on the same connection it
		// follows it, elsewhere it waits for the answer.
		if c, err := s.wire(s.d.DB, false); err == nil && s.sameLane(c) {
			s.bypass(bypassOrder)
			s.readThrough(raw)
			return
		}
		if !s.awaitAnswers() {
			return
		}
	}
	if s.acl.denied.Load().holds(p.l1, s.now) || s.acl.number != 0 && p.users.refused.Load() {
		// Nothing older of this user's can follow: entries are made anew when that ends.
		s.bypass(bypassUser)
		s.counts.missed(s.d.Keys)
		s.forward(raw)
		return
	}
	if s.acl.number != 0 && !p.users.proven(s.now) {
		s.bypass(bypassUser)
		s.readThrough(raw)
		return
	}
	if v := s.fresh(); s.parks() {
		return
	} else if v != link.OK {
		if v == link.Fenced || !s.readOrStale(raw) {
			s.readThrough(raw)
		}
		return
	}
	if len(s.d.Keys) == 1 && s.d.Cmd != p.mget {
		s.cachedOne(raw)
	} else {
		s.cachedMany(raw)
	}
}

// maxCachedRequest is the size beyond which a request's reply is not kept: a fetch
// holds several copies of the request, and the entry one for as long as it lives.
const maxCachedRequest = 64 << 10

// readThrough reads at the origin and keeps nothing.
func (s *session) readThrough(raw []byte) {
	s.counts.missed(s.d.Keys)
	c, err := s.wire(s.d.DB, false)
	if err != nil {
		s.replyOriginError(err)
		return
	}
	if !s.follow(c) {
		return
	}
	sl := s.slot()
	s.observe(sl)
	sl.movable(&s.d, raw)
	s.submit(sl, c, raw, 1)
}

// observe prepares the slot of a read that the near cache has no part in.
func (s *session) observe(sl *slot) {
	sl.seen = true
	for i := range s.d.Keys {
		sl.writes = append(sl.writes, s.p.l1.Slot(s.args[s.d.Keys[i].Pos]))
	}
}

// cacheID builds the near cache's key for a command: database, protocol, generation
// of the rules, user, name and arguments. What one user may read another one never
// sees, and what was fetched by other rules nobody does.
func (s *session) cacheID(db int, name string, args [][]byte) []byte {
	b := s.id1[:0]
	b = append(b, byte(db), byte(db>>8), byte(s.proto))
	b = binary.AppendUvarint(b, s.set.gen)
	b = binary.AppendUvarint(b, s.acl.number)
	b = append(b, name...)
	b = append(b, 0)
	for _, a := range args {
		b = binary.AppendUvarint(b, uint64(len(a)))
		b = append(b, a...)
	}
	s.id1 = b
	return b
}

// cachedOne is a read of one key.
func (s *session) cachedOne(raw []byte) {
	p, d := s.p, &s.d
	k := &d.Keys[0]
	key := s.args[k.Pos]
	id := s.cacheID(d.DB, d.Cmd.Name, s.args[1:])
	e, miss := p.l1.Get(id, key, k.Rule.ID, s.now)
	if k.Rule.Fenced && !s.synced && (miss == l1.Hit || p.l1.UnderWay(id)) {
		if !s.sync() {
			s.readThrough(raw)
			return
		}
		e, miss = p.l1.Get(id, key, k.Rule.ID, s.now)
	}
	if miss == l1.Hit {
		s.path = pathHit
		s.counts.hit(k.Rule, e.Negative())
		s.sampler.hit(&p.audit, e)
		p.touch.hit(e)
		s.replyShared(e.Reply)
		return
	}
	if !s.fetches(raw, key, miss) {
		return
	}
	s.counts.missed(d.Keys)

	c, err := s.wire(d.DB, false)
	if err != nil {
		s.replyOriginError(err)
		return
	}
	sl := s.slot()
	sl.overtaken = true
	sl.via = c
	s.push(&sl.pending, c) // first: a flight that is joined may be answered at once
	s.sentInLane()
	flight, leader := p.l1.Join(id, key, k.Rule.ID, sl)
	if !leader {
		// The fetch may be on another session's connection; until it is
		// answered only cacheable reads of this session go on.
		s.apart()
		p.m.rule(k.Rule.ID).coalesced.Inc()
		return
	}
	f := &fetch{flight: flight, sent: s.now, rule: k.Rule, user: s.acl, via: c}
	buf := make([]byte, 0, len(id)+len(key)+len(raw))
	buf = append(append(append(buf, id...), key...), raw...)
	f.id, f.key, f.plain = buf[:len(id)], buf[len(id):len(id)+len(key)], buf[len(id)+len(key):]
	sl.fetch, sl.finish = f, finishFetch
	f.permit = s.awaitRefill()
	s.scratch = appendFetch(s.scratch[:0], raw, s.args[k.Pos:k.Pos+1])
	p.m.fetches.Inc()
	s.fetchMovable(sl)
	s.transmit(sl, c, s.scratch, fetchReplies(1))
	s.mayComeAgain()
}

// A fetch asks for the value and its keys' remaining lives in one atomic step,
// so that the deadline belongs to the value.
const (
	fetchHead = "*1\r\n$5\r\nMULTI\r\n"
	fetchTail = "*1\r\n$4\r\nEXEC\r\n"
)

func appendFetch(b, raw []byte, keys [][]byte) []byte {
	b = append(b, fetchHead...)
	b = append(b, raw...)
	for _, key := range keys {
		b = append(b, "*2\r\n$4\r\nPTTL\r\n"...)
		b = redcon.AppendBulk(b, key)
	}
	return append(b, fetchTail...)
}

// fetchReplies is the number of replies to a fetch of n keys: MULTI, the read, n PTTLs, EXEC.
func fetchReplies(n int) int { return n + 3 }

// finishFetch stores the reply of a fetch and hands it to all who joined it.
func finishFetch(sl *slot, b []byte, err error) []byte {
	s, f := sl.s, sl.fetch
	f.permit.done()
	var reply []byte
	if err == nil {
		var lives []int64
		if reply, lives = fetched(b, 1); lives != nil {
			f.worked()
			s.p.store(f.id, f.key, f.flight.Stamp(), f.rule, f.sent, lives[0], reply)
		}
	}
	if err != nil || isError(reply) {
		s.p.l1.NotStored(f.flight.Stamp(), l1.DropError)
	}
	f.flight.Finish(reply, err)
	if err != nil {
		return appendError(nil, s.p.originError(err))
	}
	return reply
}

// worked notes that the user may run fetches.
func (f *fetch) worked() {
	if !f.user.fetches.Load() {
		f.user.fetches.Store(true)
	}
}

// store keeps a fetched reply unless something has overtaken it. life is the
// key's PTTL.
func (p *Proxy) store(id, key []byte, st l1.Stamp, rule *policy.Rule, sent, life int64, reply []byte) {
	if len(reply) > rule.MaxReply {
		p.m.tooLarge.Inc()
		p.l1.NotStored(st, l1.DropMaxReply)
		return
	}
	stay := int64(rule.TTL)
	negative := false
	switch {
	case life >= 0:
		stay = min(stay, life*int64(time.Millisecond))
	case life == -2:
		negative = true
		if !rule.Negative {
			p.l1.NotStored(st, l1.DropNegative)
			return
		}
	}
	p.l1.Put(l1.Fill{ID: id, Key: key, Stamp: st, Rule: rule.ID, Now: sent, Deadline: sent + stay, Reply: reply, Negative: negative})
}

// fetched takes a fetch's replies apart: the read's own reply and each key's
// PTTL. lives is nil when the reply is an error, which is never kept, or when
// b is a plain read's reply.
func fetched(b []byte, keys int) (reply []byte, lives []int64) {
	first, rest := origin.Split(b)
	if string(first) != replyOK || len(rest) == 0 {
		// MULTI was refused: LOADING, BUSY, NOAUTH … The read would be as well.
		return first, nil
	}
	for i := range keys + 1 {
		first, rest = origin.Split(rest)
		if i == 0 && string(first) != replyQueued {
			return first, nil // the read's own error
		}
	}
	n, rest, ok := origin.Elements(rest)
	if !ok || n != keys+1 { // EXEC itself failed
		return rest, nil
	}
	reply, rest = origin.Split(rest)
	if isError(reply) {
		return reply, nil
	}
	lives = make([]int64, 0, 1)
	for range keys {
		first, rest = origin.Split(rest)
		life, _, ok := origin.Int(first)
		if !ok {
			return reply, nil
		}
		lives = append(lives, life)
	}
	return reply, lives
}

func noPerm(line []byte) bool {
	return bytes.HasPrefix(line, []byte("-NOPERM")) ||
		bytes.HasPrefix(line, []byte("-EXECABORT")) && bytes.Contains(line, []byte("NOPERM"))
}

// cachedMany is an MGET: only if every key is a hit, and all stamps still hold
// after the last one was looked up, is it answered here; half old and half new
// never happens.
func (s *session) cachedMany(raw []byte) {
	p, d := s.p, &s.d
	if len(d.Keys) > maxMany {
		s.bypass(bypassTooMany)
		s.counts.missed(d.Keys)
		s.forward(raw)
		return
	}
	if s.readsByKey() {
		s.bypass(bypassUser)
		s.readThrough(raw)
		return
	}
	if !s.synced && anyFenced(d.Keys) && !s.sync() {
		s.readThrough(raw)
		return
	}
	if !s.mayRead(&s.acl.permits.mget, raw) {
		s.fetchMany(raw, l1.Absent)
		return
	}
	lent := p.entries.get(len(d.Keys))
	defer p.entries.put(lent)
	found := (*lent)[:0]
	for i := range d.Keys {
		k := &d.Keys[i]
		key := s.args[k.Pos]
		e, miss := p.l1.Get(s.cacheID(d.DB, "get", s.args[k.Pos:k.Pos+1]), key, k.Rule.ID, s.now)
		if miss != l1.Hit {
			s.fetchMany(raw, miss)
			return
		}
		found = append(found, e)
	}
	for _, e := range found {
		if !p.l1.Current(p.l1.Stamped(e)) {
			s.fetchMany(raw, l1.Overtaken)
			return
		}
	}
	s.path = pathHit
	b := redcon.AppendArray(s.scratch[:0], len(found))
	total := 0
	for i, e := range found {
		total += len(e.Reply)
		s.counts.hit(d.Keys[i].Rule, e.Negative())
		s.sampler.hit(&p.audit, e)
		p.touch.hit(e)
	}
	if total > outChunk {
		s.replyHits(b, found)
		return
	}
	for _, e := range found {
		b = append(b, e.Reply...)
	}
	s.scratch = b
	s.replyRaw(b)
}

// replyHits sends an array of hits that is too large to be put together first:
// a short request may ask for one large value many times.
func (s *session) replyHits(head []byte, found []*l1.Entry) {
	if s.muted() {
		return
	}
	s.replyParts(head, func(yield func([]byte) bool) {
		for _, e := range found {
			if !yield(e.Reply) {
				return
			}
		}
	})
}

// maxMany is the number of keys beyond which an MGET is not cached: each key
// costs a PTTL in the fetch.
const maxMany = 256

// fetchMany sends an MGET whole and keeps each value that it returns.
func (s *session) fetchMany(raw []byte, miss l1.Miss) {
	p, d := s.p, &s.d
	if !s.fetches(raw, s.args[d.Keys[0].Pos], miss) {
		return
	}
	s.counts.missed(d.Keys)
	c, err := s.wire(d.DB, false)
	if err != nil {
		s.replyOriginError(err)
		return
	}
	s.mayRead(&s.acl.permits.get, redcon.AppendBulk([]byte("*2\r\n$3\r\nGET\r\n"), s.args[d.Keys[0].Pos]))
	f := &fetch{sent: s.now, many: make([]manyKey, len(d.Keys)), plain: bytes.Clone(raw), user: s.acl, via: c}
	keys := make([][]byte, len(d.Keys))
	for i := range d.Keys {
		k := &d.Keys[i]
		key := bytes.Clone(s.args[k.Pos])
		keys[i] = key
		f.many[i] = manyKey{
			id:    bytes.Clone(s.cacheID(d.DB, "get", [][]byte{key})),
			key:   key,
			rule:  k.Rule,
			stamp: p.l1.Note(key, k.Rule.ID),
		}
	}
	// Behind the stamps: a change of rights that this does not see outdates them.
	f.keeps = s.acl.permits.get.Load() == p.users.epoch.Load()
	sl := s.slot()
	sl.overtaken = true
	sl.fetch, sl.finish = f, finishMany
	f.permit = s.awaitRefill()
	s.scratch = appendFetch(s.scratch[:0], raw, keys)
	p.m.fetches.Inc()
	s.fetchMovable(sl)
	s.submit(sl, c, s.scratch, fetchReplies(len(keys)))
	s.mayComeAgain()
}

// finishMany keeps the values of an MGET. A null means "no such key" only if
// the key has no PTTL either; else the key holds another type, which GET would
// answer with an error.
func finishMany(sl *slot, b []byte, err error) []byte {
	s, f := sl.s, sl.fetch
	f.permit.done()
	if err != nil {
		return appendError(nil, s.p.originError(err))
	}
	reply, lives := fetched(b, len(f.many))
	if lives == nil {
		return reply
	}
	f.worked()
	if !f.keeps {
		return reply
	}
	_, rest, ok := origin.Elements(reply)
	for i := 0; ok && i < len(f.many); i++ {
		var value []byte
		value, rest = origin.Split(rest)
		if _, null, _, _ := origin.Bulk(value); null && lives[i] != -2 {
			continue
		}
		k := &f.many[i]
		s.p.store(k.id, k.key, k.stamp, k.rule, f.sent, lives[i], value)
	}
	return reply
}

// itoa is for the cold paths that build requests.
func itoa(n int) string { return strconv.Itoa(n) }

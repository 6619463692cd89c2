package proxy

import (
	"bytes"
	"sync/atomic"
	"time"

	"github.com/tidwall/redcon"

	"nearside/policy"
	"nearside/proxy/l1"
)

// What a rule with stale_if_error gets while the origin cannot be reached.
//
// The link has no proof any more, so no hit is served: the read goes to the
// origin. Only when that fails is an entry served all the same, and only one of
// which nothing is known against: its stamps are current, its deadline has not
// passed, and the last proof of freshness is not older than the rule allows. So
// the answer was right at the time of that proof, and a client never reads
// anything older than its own last write, whose outcome may even be unknown.

// outage remembers that the origin fails, so that not every read has to wait
// for that to show again.
type outage struct {
	failed atomic.Int64 // the proxy's clock at the last failure or attempt; 0: none
}

// attemptEvery is how often one read asks the origin during an outage.
const attemptEvery = time.Second

// lasting tells whether the origin failed so lately that asking again is of no
// use. Once in attemptEvery it says no to one read, which then finds out.
func (o *outage) lasting(now int64) bool {
	at := o.failed.Load()
	if at == 0 {
		return false
	}
	return now-at < int64(attemptEvery) || !o.failed.CompareAndSwap(at, now)
}

func (o *outage) note(failed bool) {
	switch {
	case failed:
		o.failed.Store(clockNow())
	case o.failed.Load() != 0:
		o.failed.Store(0)
	}
}

// readOrStale reads at the origin and, should that fail, answers from the near
// cache as stale_if_error allows. It reports false when the rules do not allow
// it or nothing fit to be served is held: then nothing has been done.
func (s *session) readOrStale(raw []byte) bool {
	for i := range s.d.Keys {
		if s.d.Keys[i].Rule.StaleIfError == 0 {
			return false
		}
	}
	// The rights of other users cannot be proven either.
	if s.acl.number != 0 || s.captured != nil || len(s.d.Keys) > maxMany {
		return false
	}
	held := s.heldEntries()
	if held == nil {
		return false
	}
	st := &staleRead{entries: held, many: s.d.Cmd == s.p.mget}
	if s.p.outage.lasting(s.now) {
		if b := st.answer(s.p, s.now); b != nil {
			s.replyRaw(b)
			return true
		}
	}
	s.counts.missed(s.d.Keys)
	c, err := s.wire(s.d.DB, false)
	if err != nil {
		s.p.outage.note(true)
		if b := st.answer(s.p, clockNow()); b != nil {
			s.replyRaw(b)
		} else {
			s.replyOriginError(err)
		}
		return true
	}
	if !s.follow(c) {
		return true
	}
	sl := s.slot()
	sl.stale, sl.finish = st, finishStale
	s.observe(sl)
	sl.movable(&s.d, raw)
	s.submit(sl, c, raw, 1)
	return true
}

// heldEntries returns what the near cache holds for every key of the read, nil if
// anything is missing or known to be out of date.
func (s *session) heldEntries() []*l1.Entry {
	p, d := s.p, &s.d
	many := d.Cmd == p.mget
	if !many && len(d.Keys) != 1 || many && s.acl.permits.mget.Load() != s.p.users.epoch.Load() {
		return nil
	}
	held := make([]*l1.Entry, 0, len(d.Keys))
	for i := range d.Keys {
		k := &d.Keys[i]
		name, args := d.Cmd.Name, s.args[1:]
		if many {
			name, args = "get", s.args[k.Pos:k.Pos+1]
		}
		e, miss := p.l1.Get(s.cacheID(d.DB, name, args), s.args[k.Pos], k.Rule.ID, s.now)
		if miss != l1.Hit {
			return nil
		}
		held = append(held, e)
	}
	return held
}

// staleRead is what a read may be answered with if the origin fails.
type staleRead struct {
	entries []*l1.Entry
	many    bool // an MGET
}

// answer is the reply, nil if an entry must not be served any more.
func (st *staleRead) answer(p *Proxy, now int64) []byte {
	proven, known := p.link.Proven()
	if !known {
		return nil
	}
	size := 16
	for _, e := range st.entries {
		rule := p.rules().ByID(e.Rule())
		if rule == nil || now-proven > int64(rule.StaleIfError) || now >= e.Deadline {
			return nil
		}
		size += len(e.Reply)
	}
	// Last: what is found out while this is looked at makes it no older than the question.
	for _, e := range st.entries {
		if !p.l1.Current(p.l1.Stamped(e)) {
			return nil
		}
	}
	b := make([]byte, 0, size)
	if st.many {
		b = redcon.AppendArray(b, len(st.entries))
	}
	for _, e := range st.entries {
		b = append(b, e.Reply...)
		p.m.rule(e.Rule()).stale.Inc()
	}
	return b
}

// finishStale answers from the near cache if the origin could not be asked.
func finishStale(sl *slot, b []byte, err error) []byte {
	p := sl.s.p
	failed := err != nil || cannotAnswer(b)
	p.outage.note(failed)
	if failed {
		// The key counts as read past the near cache only if it was: see slot.settle.
		if stale := sl.stale.answer(p, clockNow()); stale != nil {
			sl.writes = sl.writes[:0]
			return stale
		}
	}
	if err != nil {
		return appendError(nil, p.originError(err))
	}
	return b
}

// cannotAnswer tells whether the reply says that the origin cannot answer any read now.
func cannotAnswer(b []byte) bool {
	for _, code := range [...]string{"-LOADING ", "-BUSY ", "-MASTERDOWN "} {
		if bytes.HasPrefix(b, []byte(code)) {
			return true
		}
	}
	return false
}

// staleLeft is for how long stale_if_error still allows the rule's entries to be
// served without a proof.
func (p *Proxy) staleLeft(rule *policy.Rule, now int64) time.Duration {
	proven, known := p.link.Proven()
	if !known || rule.StaleIfError == 0 {
		return 0
	}
	return max(rule.StaleIfError-time.Duration(now-proven), 0)
}

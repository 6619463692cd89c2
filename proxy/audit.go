package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/tidwall/redcon"

	"nearside/proxy/l1"
	"nearside/proxy/origin"
)

// The auditor compares some of the hits with the origin, all the time. What a
// hit rests on, that Redis reports every change and that nearside takes notice,
// is tested, but nothing else would tell if it did not hold in production.
//
// A difference alone says nothing: the key may have been changed after the hit.
// It is a finding if the answer at the origin came at a time up to which
// everything written is known here (link.Proven), while nothing is known against
// the entry: its stamp is still current, and its deadline has not passed. So no
// write can explain the difference. This rests on no timing: as long as the proof
// is missing the difference stays a suspicion.
//
//	session    hit, served from e ─┐
//	auditor                        └─ read ──────── answer differs ─ … proven ≥ answer: e current? finding
//	link           PING ───── PONG            PING ─────── (changes) ─ PONG
//
// Expiry is no exception. A deadline is the time a read was sent plus PTTL, so
// Redis expires the key after it and not before; and if a master's clock was
// put forward, the auditor's own read deletes the key and has that reported.

// Audit says how many hits are compared with the origin.
type Audit struct {
	// OneIn: every hit is audited with a probability of 1 in OneIn. 0, the default: none is. 10000 in files.
	OneIn int64
	// PerSecond bounds the reads that the auditor sends. Default 20.
	PerSecond int
}

// auditResult says what became of a sample.
type auditResult uint8

const (
	auditEqual        auditResult = iota // the origin gave the same answer
	auditInconsistent                    // a finding
	auditOvertaken                       // the key has changed since the hit: nothing can be said
	auditExpired                         // the entry's deadline has passed since the hit
	auditInconclusive                    // the origin could not be asked, or answered an error
	auditDropped                         // beyond PerSecond, or too many at one time
	auditResults

	auditDiffers // not a result yet: the proof is missing
)

var auditNames = [auditResults]string{"equal", "inconsistent", "overtaken", "expired", "inconclusive", "dropped"}

func (r auditResult) String() string { return auditNames[r] }

// Each bounds the entries that the auditor holds beyond what the near cache accounts.
const (
	maxSamples  = 32 // not looked at yet
	maxAsked    = 32 // the origin's answer is missing
	maxSuspects = 32 // the proof is missing
)

// auditor is a goroutine; what is not marked otherwise belongs to it.
type auditor struct {
	p       *Proxy
	samples chan *l1.Entry // from sessions
	answers chan *question // from reading goroutines of origin connections

	asked    int
	suspects []*question
	pending  atomic.Int64 // len(suspects), for others

	next int64 // proxy clock from which on PerSecond allows the next read
}

func (a *auditor) init(p *Proxy) {
	a.p = p
	a.samples = make(chan *l1.Entry, maxSamples)
	a.answers = make(chan *question, maxAsked)
}

// auditRate is the share of hits audited, as the rate of an exponential
// distribution. Without a link nothing is promised that could be found broken.
func (p *Proxy) auditRate(cfg Audit) float64 {
	if !p.linked || cfg.OneIn == 0 {
		return 0
	}
	return -math.Log1p(-1 / float64(cfg.OneIn)) // +Inf for every hit
}

// on tells whether hits are audited.
func (a *auditor) on() bool { return a.p.current().auditRate > 0 }

// sampler is a session's part: it lets hits pass and picks some.
type sampler struct {
	skip  int64 // hits that pass before the next is picked
	begun bool
}

// hit is on the path of every hit: it touches nothing that sessions share.
func (c *sampler) hit(a *auditor, e *l1.Entry) {
	if c.skip > 0 {
		c.skip--
		return
	}
	c.pick(a, e)
}

func (c *sampler) pick(a *auditor, e *l1.Entry) {
	if !c.begun {
		c.begun = true
		if c.skip = a.gap(); c.skip > 0 {
			c.skip--
			return
		}
	}
	a.offer(e)
	c.skip = a.gap()
}

// gap draws the number of hits between two that are picked. Each hit has the
// same chance, whatever the pattern in which keys are read and however short a
// session is.
func (a *auditor) gap() int64 {
	if !a.on() {
		return math.MaxInt64
	}
	return int64(min(rand.ExpFloat64()/a.p.current().auditRate, 1<<62))
}

// offer hands a sample over; it never blocks.
func (a *auditor) offer(e *l1.Entry) {
	a.p.m.auditSamples.Inc()
	select {
	case a.samples <- e:
	default:
		a.count(auditDropped)
	}
}

func (a *auditor) count(r auditResult) { a.p.m.audited[r].Inc() }

// run audits until ctx is done.
func (a *auditor) run(ctx context.Context) {
	if !a.p.linked {
		return
	}
	// A proof comes with every PONG; there is no hurry to take notice.
	tick := time.NewTicker(a.p.cfg.Ping)
	defer tick.Stop()
	for {
		samples, proof := a.samples, tick.C
		if a.asked == maxAsked {
			samples = nil
		}
		if len(a.suspects) == 0 {
			proof = nil
		}
		select {
		case <-ctx.Done():
			return
		case e := <-samples:
			a.ask(ctx, e)
		case q := <-a.answers:
			a.asked--
			a.answered(q)
		case <-proof:
			a.judge()
		}
	}
}

// ask sends a sample's read to the origin, with nearside's own rights: what a
// user may read is the same for everybody.
func (a *auditor) ask(ctx context.Context, e *l1.Entry) {
	now := clockNow()
	if r, over := a.settled(e, now); over {
		a.count(r)
		return
	}
	if !a.allowed(now) {
		a.count(auditDropped)
		return
	}
	q := &question{e: e, answers: a.answers}
	req, proto, ok := q.request()
	if !ok {
		a.count(auditInconclusive)
		return
	}
	c, err := a.p.origin.Shared(ctx, origin.Group{DB: a.p.cfg.CacheDB, Proto: proto, Alone: a.p.limits.narrow.Load()}, 0)
	if err == nil {
		err = c.Send(req, 1, q)
	}
	if err != nil {
		a.count(auditInconclusive)
		return
	}
	c.Flush()
	a.asked++
}

// allowed counts one read against PerSecond, which it spreads evenly: what all
// came in one moment would say little about the rest of the second.
func (a *auditor) allowed(now int64) bool {
	a.next = max(a.next, now-int64(auditBurst))
	if a.next > now {
		return false
	}
	a.next += int64(time.Second) / int64(a.p.conf().Audit.PerSecond)
	return true
}

// auditBurst is the time whose reads may be made up for at once.
const auditBurst = 100 * time.Millisecond

// settled tells whether an entry has been overtaken or has expired, so that
// nothing can be said about it any more.
func (a *auditor) settled(e *l1.Entry, now int64) (r auditResult, over bool) {
	switch {
	case !a.p.l1.Current(a.p.l1.Stamped(e)):
		return auditOvertaken, true
	case now+(now-e.Stored)/driftOneIn >= e.Deadline:
		return auditExpired, true
	}
	return 0, false
}

// driftOneIn: the origin's clock may be slewed against this one by 500 ppm, and
// this one by as much. It matters where Redis expires without reporting, as a
// replica and CLIENT PAUSE do.
const driftOneIn = 1000

// answered looks at what the origin said.
func (a *auditor) answered(q *question) {
	r := q.result
	if r == auditDiffers {
		var over bool
		if r, over = a.settled(q.e, clockNow()); !over {
			if len(a.suspects) < maxSuspects {
				a.suspects = append(a.suspects, q)
				a.pending.Store(int64(len(a.suspects)))
				return
			}
			r = auditDropped
		}
	}
	a.count(r)
}

// judge decides the suspicions that can be decided.
func (a *auditor) judge() {
	// The proof before the stamps: whatever it speaks of was taken notice of
	// before it was published.
	proven, known := a.p.link.Proven()
	left := a.suspects[:0]
	for _, q := range a.suspects {
		r, over := a.settled(q.e, clockNow())
		switch {
		case over:
			a.count(r)
		case known && proven >= q.at:
			a.count(auditInconsistent)
			a.found(q)
		default:
			left = append(left, q)
		}
	}
	clear(a.suspects[len(left):])
	a.suspects = left
	a.pending.Store(int64(len(left)))
}

// found reports a finding and takes the rule out of the cache: where one
// change went unnoticed, others may have.
func (a *auditor) found(q *question) {
	p, e := a.p, q.e
	rule := p.rules().ByID(e.Rule())
	if rule == nil { // it is gone, and all its entries with it
		return
	}
	p.m.rule(rule.ID).inconsistent.Inc()
	p.takeOut(rule)
	p.log.Error("the near cache answered what Redis does not confirm; the rule is taken out of the cache until NEARSIDE AUDIT RESTORE",
		"rule", rule.Prefix, "command", q.name, "age", time.Duration(q.at-e.Stored), "link", p.link.Source(), "key_hash", keyHash(e.Key()))
}

// keyHash names a key in the log without telling it: the first 8 bytes of its
// SHA-256. Who suspects a key can compare.
func keyHash(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// question is one read of the auditor's; it takes the origin's answer (origin.Sink).
type question struct {
	e       *l1.Entry
	name    string // of the command
	answers chan<- *question

	// What the reading goroutine of the origin's connection found.
	result auditResult
	at     int64 // proxy clock when the answer was there
}

// Reply compares at once, so that no answer is held. It does not block: the
// channel has room for all that may be asked at one time.
func (q *question) Reply(b []byte, err error, _ *origin.Batch) {
	q.at = clockNow()
	switch {
	case err != nil:
		q.result = auditInconclusive
	case repliesAgree(q.name, q.e.Reply, b):
		q.result = auditEqual
	case isError(b) && !bytes.HasPrefix(b, []byte("-WRONGTYPE ")):
		q.result = auditInconclusive
	default: // of another type means changed as well: errors are never kept
		q.result = auditDiffers
	}
	q.answers <- q
}

// request rebuilds the read from the near cache's key (see cacheID).
func (q *question) request() (req []byte, proto int, ok bool) {
	id := q.e.ID()
	if len(id) < 5 {
		return nil, 0, false
	}
	// The first two bytes are the database, cut short; there is but one with entries.
	proto = int(id[2])
	_, gen := binary.Uvarint(id[3:]) // of the rules
	if gen <= 0 {
		return nil, 0, false
	}
	_, user := binary.Uvarint(id[3+gen:])
	if user <= 0 {
		return nil, 0, false
	}
	name, rest, found := bytes.Cut(id[3+gen+user:], []byte{0})
	if !found {
		return nil, 0, false
	}
	q.name = string(name)
	command, _, _ := bytes.Cut(name, []byte("|")) // a subcommand is among the arguments
	args := [][]byte{command}
	for len(rest) > 0 {
		size, n := binary.Uvarint(rest)
		if n <= 0 || size > uint64(len(rest)-n) {
			return nil, 0, false
		}
		end := n + int(size)
		args = append(args, rest[n:end])
		rest = rest[end:]
	}
	req = make([]byte, 0, len(id)+16*len(args))
	req = redcon.AppendArray(req, len(args))
	for _, arg := range args {
		req = redcon.AppendBulk(req, arg)
	}
	return req, proto, true
}

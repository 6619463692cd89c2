package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"nearside/proxy/l1"
	"nearside/proxy/origin"
)

// A client sends one command; nearside may ask Redis for more to answer it: MULTI,
// PTTL and EXEC around a read, MULTI and SELECT where a command speaks of both
// databases. An error that only these meet is never the client's:
//
//	what the error says                         a read under a cache rule        a command over both databases
//	------------------------------------------  -------------------------------  -----------------------------------
//	NOPERM of, unknown: MULTI, PTTL, EXEC,      sent again as the plain read;    one command per database, not
//	SELECT, or whatever else nobody foresaw     plainly from then on (deniedFor) atomic (runApart); MSET is refused
//	OOM: memory is full, and Redis before 7.2   the same, for fullFor            the same, for fullFor
//	refuses whatever stands inside MULTI
//	LOADING, BUSY, MASTERDOWN, NOAUTH, and      Redis's own answer to the        Redis's own answer to the command:
//	NOPERM of the command itself or of its key  read: passed on                  passed on; so are READONLY, MISCONF,
//	                                                                             NOREPLICAS, which only writes meet
//
// What is sent again has not been executed: inside MULTI nothing runs before EXEC.
// EXEC itself may be what is refused. Some servers then leave the transaction
// open, in which they queue whatever comes next: such a connection is closed before
// anything that came after is taken for an answer (Conn.Distrust), and a user's first
// fetch, by which that would show, runs on a connection of its own (proveFetch).

const (
	// fullFor is how long a refusal for want of memory is remembered: meanwhile reads
	// are passed on plainly, and hits go on.
	fullFor = time.Second
	// suspectFor is how long another one is likely after it.
	suspectFor = time.Minute
	// fullLook is how often the origin is asked how full it is, and nearlyFull from
	// how many per cent of maxmemory on a refusal is likely.
	fullLook   = 10 * time.Second
	nearlyFull = 80
)

// full remembers that the origin refuses transactions for want of memory. Times
// are those of the proxy's clock.
type full struct {
	until   atomic.Int64
	suspect atomic.Int64 // until then
}

func (f *full) note() {
	now := clockNow()
	f.until.Store(now + int64(fullFor))
	f.suspect.Store(now + int64(suspectFor))
}

func (f *full) lasts(now int64) bool { return now < f.until.Load() }

func (f *full) suspected(now int64) bool { return now < f.suspect.Load() }

// watch asks the origin how full it is, again and again.
func (f *full) watch(ctx context.Context, p *Proxy) {
	tick := time.NewTicker(fullLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.look(ctx, p)
		}
	}
}

// look asks the origin how full it is, where that matters.
func (f *full) look(ctx context.Context, p *Proxy) {
	if facts := p.server.Load(); facts == nil || facts.atLeast7(2) || p.cfg.Embedded {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, factsTimeout)
	defer cancel()
	text, err := p.origin.Control().Info(ctx, "memory").Result()
	if err == nil && isNearlyFull(text) {
		f.suspect.Store(max(f.suspect.Load(), clockNow()+int64(suspectFor)))
	}
}

// isNearlyFull understands INFO memory.
func isNearlyFull(text string) bool {
	var used, most uint64
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		n, err := strconv.ParseUint(value, 10, 64)
		switch {
		case err != nil:
		case name == "used_memory":
			used = n
		case name == "maxmemory":
			most = n
		}
	}
	return most > 0 && used >= most-most/100*(100-nearlyFull)
}

// refusal is what an error line says of a part of nearside's own.
type refusal uint8

const (
	refusedNow    refusal = iota // by the server's state, which passes
	refusedKey                   // the key is the user's to read, or not, by another command
	refusedFull                  // memory is full
	refusedAlways                // as long as rights and server stay
)

// refusalOf understands an error reply. EXEC's may carry another one.
func refusalOf(line []byte) refusal {
	text := cause(line)
	code, _, _ := bytes.Cut(text, []byte(" "))
	switch string(code) {
	case "OOM":
		return refusedFull
	case "NOPERM":
		if bytes.Contains(text, []byte("command")) {
			return refusedAlways
		}
		return refusedKey
	case "LOADING", "BUSY", "MASTERDOWN", "NOAUTH", "READONLY", "MISCONF", "NOREPLICAS", "TRYAGAIN", "CLUSTERDOWN", "EXECABORT":
		return refusedNow
	}
	return refusedAlways
}

const abortCause = "EXECABORT Transaction discarded because of: "

// cause is an error reply without its '-' and line end, and without EXEC's words
// around what it was refused for.
func cause(line []byte) []byte {
	line = bytes.TrimSuffix(line, []byte("\r\n"))
	return bytes.TrimPrefix(bytes.TrimPrefix(line, []byte("-")), []byte(abortCause))
}

// leftOpen tells whether a transaction goes on after this reply to EXEC or DISCARD:
// no error ends it but EXECABORT, and that there is none.
func leftOpen(reply []byte) bool {
	return len(reply) > 0 && reply[0] == '-' && !bytes.HasPrefix(reply, []byte("-EXECABORT")) && !bytes.Contains(reply, []byte("without MULTI"))
}

// errOpen closes a connection that a refused EXEC or DISCARD has left inside MULTI.
var errOpen = fmt.Errorf("%w: Redis refused to end a transaction", origin.ErrLost)

// ownWords tells whether an error inside MULTI is what the command would get alone.
func ownWords(line []byte) bool {
	text := cause(line)
	for _, begin := range [...]string{"NOPERM", "LOADING", "BUSY", "MASTERDOWN", "NOAUTH", "ERR wrong number", "ERR unknown"} {
		if bytes.HasPrefix(text, []byte(begin)) {
			return true
		}
	}
	return false
}

// refused tells whether a fetch was refused for what is nearside's part of it, and
// the read has to be sent again as the client sent it. It remembers why, and returns
// the answer as far as there is one.
func (f *fetch) refused(p *Proxy, b []byte) (answer []byte, again bool) {
	line, rest := origin.Split(b)
	if len(rest) == 0 {
		return b, false // the answer to a plain read
	}
	if string(line) != replyOK {
		// What came behind it did not stand in a transaction: the read has run as it was sent.
		p.blame(f.user, line)
		read, _ := origin.Split(rest)
		return read, false
	}
	var first []byte // error; the read's own if ofRead
	ofRead := false
	for i := 0; len(rest) > 0; i++ {
		line, rest = origin.Split(rest)
		if len(rest) > 0 && first == nil && string(line) != replyQueued {
			first, ofRead = line, i == 0
		}
	}
	// line is EXEC's.
	if line[0] != '-' {
		return b, false
	}
	if leftOpen(line) {
		f.via.Distrust(errOpen)
	}
	if first == nil {
		first = line
	}
	if ofRead && ownWords(first) {
		return first, false
	}
	p.blame(f.user, first)
	return first, true
}

// A read that is sent again must still come before whatever its client sent behind
// it. While a refusal is likely, nothing but cacheable reads follows a fetch that
// is not answered (mayComeAgain). Where one comes out of the blue, nothing else is sent
// from then on until the read has been answered (hold); if something has been sent
// already, the read is answered the refusal, which is the only case in which a
// client gets to see it: a value of after its own write would be wrong.

// mayComeAgain is called behind a fetch.
func (s *session) mayComeAgain() {
	if s.p.full.suspected(s.now) {
		s.apart()
	}
}

// blame remembers why nearside's part of a request was refused.
func (p *Proxy) blame(user *aclUser, line []byte) {
	switch refusalOf(line) {
	case refusedFull:
		p.full.note()
	case refusedAlways:
		p.users.deny(user, line)
	}
}

// refetch sends a refused fetch again as the plain read that the client sent.
func (s *session) refetch(sl *slot) {
	f := sl.fetch
	var b []byte
	c, err := s.p.origin.Shared(s.p.ctx, f.via.Group(), s.id)
	for try := 0; err == nil; try++ {
		if b, err = c.Call(s.p.ctx, f.plain, 1); !errors.Is(err, origin.ErrRetired) || try == retiredTries {
			break
		}
		c, err = s.p.origin.Shared(s.p.ctx, f.via.Group(), s.id)
	}
	b = sl.finish(sl, b, err)
	fenced := sl.settle(b, err)
	s.unhold()
	s.answer(&sl.pending, b, false, s.p.clock())
	s.letOut(nil, fenced)
}

// fetches counts a miss and tells whether the read is to be fetched, after finding
// out whether its user may run fetches at all; else it has passed the read on.
func (s *session) fetches(raw, key []byte, miss l1.Miss) bool {
	p := s.p
	if p.full.lasts(s.now) {
		s.bypass(bypassFull)
		s.readThrough(raw)
		return false
	}
	p.m.missed(int(miss))
	if s.acl.fetches.Load() {
		return true
	}
	s.blocking()
	s.flushOrigin()
	s.acl.prove(func() { s.proveFetch(key) })
	s.tick()
	switch {
	case s.acl.fetches.Load():
		return true
	case p.full.lasts(s.now):
		s.readThrough(raw)
	default: // nothing is kept for this user that could be older than the answer
		s.counts.missed(s.d.Keys)
		s.forward(raw)
	}
	return false
}

// proveFetch runs what a fetch consists of beside the read on a connection of its own.
func (s *session) proveFetch(key []byte) {
	p, user := s.p, s.acl
	if user.fetches.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, 2*p.cfg.OriginTimeout)
	defer cancel()
	c, err := p.origin.Pin(ctx, s.group(s.d.DB, false))
	if err != nil { // the read will say so
		return
	}
	b, err := p.callOwned(c, appendFetch(nil, nil, [][]byte{key}), fetchReplies(0))
	if err != nil {
		p.origin.Unpin(c, false)
		return
	}
	multi, rest := origin.Split(b)
	pttl, exec := origin.Split(rest)
	p.origin.Unpin(c, string(multi) != replyOK || !leftOpen(exec))
	switch {
	case string(multi) != replyOK:
		p.blame(user, multi)
	case exec[0] == '*':
		user.fetches.Store(true)
	case string(pttl) != replyQueued:
		p.blame(user, pttl)
	default:
		p.blame(user, exec)
	}
}

// prove runs f once for all who come while it runs.
func (u *aclUser) prove(f func()) {
	u.mu.Lock()
	if done := u.proving; done != nil {
		u.mu.Unlock()
		<-done
		return
	}
	done := make(chan struct{})
	u.proving = done
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		u.proving = nil
		u.mu.Unlock()
		close(done)
	}()
	f()
}

// denial says that Redis refuses a user something, as long as nothing has changed.
type denial struct {
	stamp l1.Stamp
	until int64
}

func (p *Proxy) newDenial() *denial { return &denial{p.l1.Note(nil, 0), clockNow() + int64(deniedFor)} }

// holds tells whether asking again is of no use yet.
func (d *denial) holds(c *l1.Cache, now int64) bool {
	return d != nil && now < d.until && c.Current(d.stamp)
}

// errSelectRefused is what a command is answered that needs another database than the
// connection's, by a user that may not SELECT.
func errSelectRefused(line []byte) string {
	return "ERR nearside: the command's key lies in another database than what the session has under way, and Redis refuses the SELECT between the two: " + string(cause(line))
}

// errApart is what is answered where a command over both databases must be atomic
// and cannot be.
func errApart(name string, line []byte) string {
	return "ERR nearside: " + strings.ToUpper(name) + " of keys in both databases is one transaction of MULTI, SELECT and EXEC, which Redis refuses: " + string(cause(line))
}

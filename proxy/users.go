package proxy

import (
	"context"
	"crypto/sha256"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"nearside/proxy/origin"
)

// What a Redis user may read can change at Redis, and no link reports it. So hits
// of users other than nearside's own need a second proof: what ACL LIST answers is
// compared every second, and a change outdates everything that is cached. Changes
// through nearside outdate it by themselves (policy.WritesAll). Nearside's own user
// needs no such proof: clients that act as it use connections that Redis has let
// in before.
const (
	rightsEvery   = time.Second
	rightsBound   = 2 * time.Second  // how old the proof may be
	rightsPause   = 10 * time.Second // before a server is asked again that refused ACL LIST
	rightsTimeout = time.Second      // of one question
	deniedFor     = 30 * time.Second // how long a user's refused fetch is remembered at most
	maxUsers      = 10000            // remembered without a session
)

// aclUser is a Redis user that sessions act as.
type aclUser struct {
	name     string
	number   uint64                 // in the near cache's keys; 0 is nearside's own user
	sessions int                    // under users.mu
	denied   atomic.Pointer[denial] // the fetch
	split    atomic.Pointer[denial] // the transaction over both databases
	told     atomic.Bool            // that nothing is cached for it
	fetches  atomic.Bool            // it may run the fetch: one has worked

	permits permits

	mu      sync.Mutex
	proving chan struct{} // it is being found out whether it may
}

// users are those that sessions act as, and the proof of their rights.
type users struct {
	p   *Proxy
	own aclUser

	proof   atomic.Int64 // when the last good answer was asked for
	refused atomic.Bool  // nearside may not ask

	// epoch is another one whenever rights may have changed.
	epoch    atomic.Uint64
	changing atomic.Int64 // commands under way that may change them

	mu       sync.Mutex
	byName   map[string]*aclUser
	last     uint64
	sessions int // of all users but nearside's own
	doubts   int
	wake     chan struct{}

	// Of the goroutine that asks.
	conn *origin.Conn
	list *[sha256.Size]byte // of the last good answer

	apart atomic.Pointer[map[string]bool] // whether the rights of a user to GET and MGET may differ by key
}

const noProof = math.MinInt64 / 2

func (u *users) init(p *Proxy) {
	u.p = p
	u.own.name = p.origin.User()
	u.byName = map[string]*aclUser{}
	u.wake = make(chan struct{}, 1)
	u.proof.Store(noProof)
	u.epoch.Store(1)
	u.apart.Store(&map[string]bool{})
}

// byKey tells whether the rights of a user to GET and MGET may differ by key, which
// those of a user may that is too new to be known.
func (u *users) byKey(name string) bool {
	differ, known := (*u.apart.Load())[name]
	return differ || !known
}

// proven tells whether the rights of users other than nearside's own are known
// not to have changed.
func (u *users) proven(now int64) bool { return now-u.proof.Load() < int64(rightsBound) }

// become makes the session act as another user; "" is nearside's own.
func (s *session) become(user, pass string) {
	s.p.users.leave(s.acl)
	s.user, s.pass, s.acl = user, pass, s.p.users.enter(user)
}

func (u *users) enter(name string) *aclUser {
	if name == "" {
		return &u.own
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	a := u.byName[name]
	if a == nil {
		if len(u.byName) >= maxUsers {
			for n, o := range u.byName {
				if o.sessions == 0 {
					delete(u.byName, n)
				}
			}
		}
		u.last++ // never used twice: entries of a forgotten user are never found again
		a = &aclUser{name: name, number: u.last}
		u.byName[name] = a
	}
	a.sessions++
	u.sessions++
	if u.sessions == 1 {
		u.rouse()
	}
	return a
}

func (u *users) leave(a *aclUser) {
	if a == &u.own {
		return
	}
	u.mu.Lock()
	a.sessions--
	u.sessions--
	u.mu.Unlock()
}

func (u *users) acting() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sessions
}

func (u *users) rouse() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// doubt takes the proof back: another server may answer now.
func (u *users) doubt() {
	u.p.era.Store(new(serverEra))
	u.epoch.Add(1)
	u.mu.Lock()
	u.doubts++
	u.proof.Store(noProof)
	u.own.fetches.Store(false)
	for _, a := range u.byName {
		a.fetches.Store(false)
	}
	u.mu.Unlock()
	u.rouse()
}

// deny remembers that a user may not run the fetch, for which Redis had this line.
func (u *users) deny(a *aclUser, line []byte) {
	a.fetches.Store(false)
	a.denied.Store(u.p.newDenial())
	if !a.told.Swap(true) {
		u.p.log.Warn("nothing is cached for a Redis user that may not run MULTI, EXEC or PTTL", "user", a.name, "error", string(cause(line)))
	}
}

// watch asks while somebody acts as another user than nearside's own.
func (u *users) watch(ctx context.Context) {
	defer u.hangUp()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var next time.Time
	doubts := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.wake:
		case <-timer.C:
		}
		u.mu.Lock()
		nobody, doubted := u.sessions == 0, u.doubts != doubts
		doubts = u.doubts
		u.mu.Unlock()
		if nobody {
			u.hangUp()
			continue
		}
		// However often clients come and go, Redis is not asked more often.
		if wait := time.Until(next); wait > 0 && !doubted {
			timer.Reset(wait)
			continue
		}
		wait := u.ask(ctx, doubts)
		next = time.Now().Add(wait)
		timer.Reset(wait)
	}
}

func (u *users) hangUp() {
	if u.conn != nil {
		u.conn.Close(nil)
		u.conn = nil
	}
}

// ask renews the proof, unless there is a new doubt meanwhile, and returns when to
// ask again. The connection is its own, since it is known which server process
// that leads to.
func (u *users) ask(ctx context.Context, doubts int) time.Duration {
	p := u.p
	ctx, cancel := context.WithTimeout(ctx, rightsTimeout)
	defer cancel()
	if u.conn == nil || u.conn.Err() != nil {
		c, err := p.origin.Dial(ctx, origin.Group{Proto: 2}, nil)
		if err != nil {
			return rightsEvery
		}
		u.conn = c
	}
	asked := clockNow()
	b, err := u.conn.Call(ctx, origin.AppendCommand(nil, "ACL", "LIST"), 1)
	if err != nil {
		u.hangUp() // its answer may still come
		return rightsEvery
	}
	if have := p.link.RunID(); p.linked && have != "" && u.conn.RunID() != "" && have != u.conn.RunID() {
		u.hangUp()
		return rightsEvery
	}
	if b[0] != '*' {
		if line := strings.TrimSpace(string(b)); strings.HasPrefix(line, "-NOPERM") || strings.HasPrefix(line, "-ERR unknown") {
			if !u.refused.Swap(true) {
				p.log.Warn("reads of Redis users other than nearside's own are not cached: nearside's own user may not run ACL LIST", "user", u.own.name)
			}
			return rightsPause
		}
		return rightsEvery
	}
	list := sha256.Sum256(b) // it holds hashes of passwords: nothing else is kept
	regained := u.refused.Swap(false)
	if u.list == nil || *u.list != list {
		byKey := rulesByKey(b)
		u.apart.Store(&byKey)
	}
	if regained || u.list != nil && *u.list != list {
		u.epoch.Add(1)
		p.l1.InvalidateAll(fromRights)
		p.m.invalidated(sourceRights)
	}
	u.list = &list
	u.mu.Lock()
	if u.doubts == doubts {
		u.proof.Store(asked)
	}
	u.mu.Unlock()
	return rightsEvery
}

// state is for people.
func (u *users) state(now int64) string {
	switch {
	case u.proven(now):
		return "proven"
	case u.refused.Load():
		return "refused"
	case u.acting() == 0:
		return "idle"
	}
	return "unproven"
}

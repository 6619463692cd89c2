package proxy

import (
	"math"
	"sync"
	"time"

	"nearside/policy"
)

// pause is CLIENT PAUSE, for nearside's own clients: until it ends, new commands
// of all sessions wait here, unread by Redis. Redis is never told of it.
type pause struct {
	mu    sync.Mutex
	until int64 // on the proxy's clock
	all   bool  // not only what may write
}

// extend begins a pause, or makes one that is in force longer or wider, as Redis does.
func (p *pause) extend(until int64, all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until <= clockNow() {
		p.until, p.all = 0, false
	}
	p.until = max(p.until, until)
	p.all = p.all || all
}

func (p *pause) end() {
	p.mu.Lock()
	p.until, p.all = 0, false
	p.mu.Unlock()
}

// left tells for how long a command is held back.
func (p *pause) left(writes bool) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.all && !writes {
		return 0
	}
	return time.Duration(max(0, p.until-clockNow()))
}

// mayReplicate is what CLIENT PAUSE WRITE holds back beside the writes: Redis's
// flag of that name, which COMMAND does not show.
var mayReplicate = map[string]bool{"eval": true, "evalsha": true, "fcall": true, "pfcount": true, "publish": true, "spublish": true}

func mayWrite(c *policy.Command) bool {
	return c != nil && (c.Flags.Has(policy.FlagWrite) || mayReplicate[c.Name])
}

// setPause is CLIENT PAUSE milliseconds [WRITE|ALL].
func (s *session) setPause() {
	all := true
	switch {
	case len(s.args) > 4:
		s.replyError(errSubSyntax(s.args))
		return
	case len(s.args) < 4 || policy.Is(s.args[3], "all"):
	case policy.Is(s.args[3], "write"):
		all = false
	default:
		s.replyError("ERR CLIENT PAUSE mode must be WRITE or ALL")
		return
	}
	switch ms, ok := parseLength(s.args[2]); {
	case !ok:
		s.replyError("ERR timeout is not an integer or out of range")
	case ms < 0:
		s.replyError("ERR timeout is negative")
	default:
		if ms > 0 {
			now := clockNow()
			s.p.pause.extend(now+min(ms, (math.MaxInt64-now)/int64(time.Millisecond))*int64(time.Millisecond), all)
			s.p.paused.Store(true)
		}
		s.replyString(replyOK)
	}
}

// unpause is CLIENT UNPAUSE.
func (s *session) unpause() {
	s.p.pause.end()
	s.p.paused.Store(false)
	for _, o := range s.p.sessionList() {
		if o.pausing.Load() {
			o.postOnly(nil)
		}
	}
	s.replyString(replyOK)
}

// awaitPause holds the decided command back while nearside's clients are paused.
// It watches the client meanwhile, and reports false when the session is to end.
func (s *session) awaitPause() bool {
	c := s.d.Cmd
	switch {
	case c == nil || !c.ArityOK(len(s.args)): // an error, which Redis answers at once
		return true
	case s.monitor || s.health: // Redis takes a monitor for a replica, which is never paused
		return true
	}
	writes := mayWrite(c) || c.Name == "exec" && s.tx.mayWrite
	if s.p.pause.left(writes) == 0 {
		return true
	}
	s.blocking()
	s.flushOrigin()
	s.flushReplies()
	s.pausing.Store(true)
	defer s.pausing.Store(false)
	how := s.watch(false, func() (time.Duration, bool) {
		left := s.p.pause.left(writes)
		return min(left, time.Hour), left == 0
	})
	if how != watchedOut || s.shutOnce.Load() {
		s.leave() // what was held back is not carried out
		return false
	}
	return true
}

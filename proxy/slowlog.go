package proxy

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/tidwall/redcon"

	"nearside/policy"
)

// slowlog remembers the commands that took longer than Config.Slow, from when they
// were read to when the client had taken the reply, and lets them be logged.
// Whoever adds one, an origin's reader perhaps, never waits: the log is written by
// a goroutine of its own, and what it cannot keep up with is only counted.
type slowlog struct {
	threshold int64 // ns; below 0: off
	counted   [paths]*metrics.Counter
	lines     chan *slowEntry
	unlogged  atomic.Int64 // not even in lines

	mu   sync.Mutex
	ring [slowEntries]*slowEntry
	have int
	next int64 // id of the next entry
}

const (
	slowEntries = 128 // remembered; Redis's slowlog-max-len by default
	slowLines   = 10  // most lines in a slowPeriod
	slowPeriod  = time.Second
	slowDefault = 10 // entries that GET answers
)

// slowEntry is one slow command. Redis has the fields up to name.
type slowEntry struct {
	id         int64
	at         time.Time // when it was found to be slow
	took       time.Duration
	args       []string
	addr, name string

	queue  time.Duration // from read to sent, and from the answer until earlier replies were out
	origin time.Duration // from sent to answered
	client time.Duration // until the client had taken the reply
	path   path

	command, prefix string
	session         uint64
}

func (l *slowlog) init(p *Proxy) {
	l.threshold = int64(p.cfg.Slow)
	l.lines = make(chan *slowEntry, slowEntries)
	for w := range paths {
		l.counted[w] = p.m.set.NewCounter(fmt.Sprintf("nearside_slow_commands_total{path=%q}", w))
	}
}

func (l *slowlog) on() bool { return l.threshold >= 0 }

// add remembers a command of s whose reply the client had taken at now, or will never take.
func (l *slowlog) add(s *session, o *slowOp, now int64) {
	e := &slowEntry{
		at: time.Now(), args: o.shape.list(o.cmd), name: s.seen().name, path: o.path, command: commandName(o.cmd), session: s.id,
		queue:  time.Duration(max(o.sent-o.read, 0) + max(o.out-o.answered, 0)),
		origin: time.Duration(max(o.answered-o.sent, 0)),
		client: time.Duration(max(now-o.out, 0)),
	}
	e.took = e.queue + e.origin + e.client
	e.addr, _ = s.addrs()
	if o.rule != nil {
		e.prefix = o.rule.Prefix
	}
	l.counted[o.path].Inc()
	l.mu.Lock()
	e.id = l.next
	l.ring[l.next%slowEntries] = e
	l.next++
	l.have = min(l.have+1, slowEntries)
	l.mu.Unlock()
	select {
	case l.lines <- e:
	default:
		l.unlogged.Add(1)
	}
}

// latest are the newest n entries, the newest first; all if n is negative.
func (l *slowlog) latest(n int64) []*slowEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n < 0 || n > int64(l.have) {
		n = int64(l.have)
	}
	list := make([]*slowEntry, 0, n)
	for i := range n {
		list = append(list, l.ring[(l.next-1-i)%slowEntries])
	}
	return list
}

func (l *slowlog) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.have
}

// reset forgets all entries; ids go on.
func (l *slowlog) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.ring[:])
	l.have = 0
}

// run writes the log until ctx is done.
func (l *slowlog) run(ctx context.Context, p *Proxy) {
	period := time.NewTicker(slowPeriod)
	defer period.Stop()
	written, left := 0, int64(0)
	rest := func() {
		if left += l.unlogged.Swap(0); left > 0 {
			p.log.Warn("more slow commands than are logged", "left_out", left)
		}
		written, left = 0, 0
	}
	for {
		select {
		case e := <-l.lines:
			if written == slowLines {
				left++
				continue
			}
			written++
			p.log.Warn("slow command", "command", e.command, "prefix", e.prefix, "path", e.path, "client", e.session,
				"took", e.took, "queue", e.queue, "origin", e.origin, "taking", e.client)
		case <-period.C:
			rest()
		case <-ctx.Done():
			left += int64(len(l.lines))
			rest()
			return
		}
	}
}

// slowlogCommand is NEARSIDE SLOWLOG GET [count] | LEN | RESET, with Redis's replies.
// An entry has four elements more than Redis's: the microseconds in the queue, at
// the origin and until the client had taken the reply, and the path.
func (s *session) slowlogCommand() {
	l := &s.p.slow
	sub, rest := s.args[2], s.args[3:]
	switch {
	case policy.Is(sub, "len") && len(rest) == 0:
		s.replyRaw(redcon.AppendInt(nil, int64(l.len())))
	case policy.Is(sub, "reset") && len(rest) == 0:
		if s.mayRun("nearside|slowlog") {
			l.reset()
			s.replyString(replyOK)
		}
	case policy.Is(sub, "get") && len(rest) <= 1:
		n := int64(slowDefault)
		if len(rest) == 1 {
			var ok bool
			if n, ok = parseLength(rest[0]); !ok || n < -1 {
				s.replyError("ERR count should be greater than or equal to -1")
				return
			}
		}
		if s.mayRun("nearside|slowlog") {
			s.replyRaw(appendSlow(nil, l.latest(n)))
		}
	case policy.Is(sub, "len"), policy.Is(sub, "reset"), policy.Is(sub, "get"):
		s.replyError(errArity("nearside|slowlog"))
	default:
		s.replyError(errUnknownSub("nearside", string(sub)))
	}
}

func appendSlow(b []byte, list []*slowEntry) []byte {
	b = redcon.AppendArray(b, len(list))
	for _, e := range list {
		b = redcon.AppendArray(b, 10)
		b = redcon.AppendInt(b, e.id)
		b = redcon.AppendInt(b, e.at.Unix())
		b = redcon.AppendInt(b, e.took.Microseconds())
		b = redcon.AppendArray(b, len(e.args))
		for _, a := range e.args {
			b = redcon.AppendBulkString(b, a)
		}
		b = redcon.AppendBulkString(b, e.addr)
		b = redcon.AppendBulkString(b, e.name)
		for _, d := range []time.Duration{e.queue, e.origin, e.client} {
			b = redcon.AppendInt(b, d.Microseconds())
		}
		b = redcon.AppendBulkString(b, e.path.String())
	}
	return b
}

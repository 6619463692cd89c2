package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// slowlog remembers the commands that took longer than Config.Slow, from when they
// were read to when the reply was put into the client's output, and lets them be logged.
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
	path   path

	command, prefix string
	session         uint64
}

func (l *slowlog) init(threshold time.Duration, set *metrics.Set) {
	l.threshold = int64(threshold)
	l.lines = make(chan *slowEntry, slowEntries)
	for w := range paths {
		l.counted[w] = set.NewCounter(fmt.Sprintf("nearside_slow_commands_total{path=%q}", w))
	}
}

func (l *slowlog) on() bool { return l.threshold >= 0 }

// slowClient is who sent a slow command.
type slowClient struct {
	id         uint64
	addr, name string
}

// add remembers a command whose reply was put into the output at out.
func (l *slowlog) add(o *op, out int64, who slowClient) {
	e := &slowEntry{
		at: time.Now(), args: o.shape.list(o.cmd), addr: who.addr, name: who.name, path: o.path, command: commandName(o.cmd), session: who.id,
		queue:  time.Duration(max(o.sent-o.read, 0) + max(out-o.answered, 0)),
		origin: time.Duration(max(o.answered-o.sent, 0)),
	}
	e.took = e.queue + e.origin
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
func (l *slowlog) run(ctx context.Context, log *slog.Logger) {
	period := time.NewTicker(slowPeriod)
	defer period.Stop()
	written, left := 0, int64(0)
	rest := func() {
		if left += l.unlogged.Swap(0); left > 0 {
			log.Warn("more slow commands than are logged", "left_out", left)
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
			log.Warn("slow command", "command", e.command, "prefix", e.prefix, "path", e.path, "client", e.session,
				"took", e.took, "queue", e.queue, "origin", e.origin)
		case <-period.C:
			rest()
		case <-ctx.Done():
			left += int64(len(l.lines))
			rest()
			return
		}
	}
}

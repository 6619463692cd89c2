package link

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"
)

// A session is one connection's life. Three goroutines meet in it: Run's, which ends it; drive's, which writes to the
// connection; and the connection's own, which reads. Once drive sends PINGs, those who raise fences do so too.
type session struct {
	l     *Link
	conn  Conn
	terms *terms
	ended chan struct{} // closed by Link.end
	notes chan note     // what the reading goroutine wants to have logged

	line     atomic.Bool // somebody has the right to write, until that is answered
	pings    atomic.Bool // set before the first PING is drawn
	checkDue atomic.Bool

	// Belong to drive until the first PING is drawn, then to whoever has the line.
	threads threading
	doubt   bool            // a PING was refused, and none has been answered since
	first   uint64          // PING of this connection
	sentAt  [maxSteps]int64 // when the last PINGs were sent, by number

	// Set before the first check is written.
	source   string // ModeTracking or ModeKeyspace
	fellBack string // why it is not ModeTracking although that would be better; "" or ending in "; "

	// Belong to drive until the first check is written, then to the reading goroutine.
	role    string
	seen    silent
	configs int64  // CONFIG commands of this link since seen
	refusal string // what PING was answered with, "" while it is PONG

	// Guarded by Link.mu.
	over      bool
	reason    string
	watchdog  *time.Timer
	proof     int64 // send time of the last PING that was answered with PONG
	checked   int64 // send time of the last check that was answered
	mayRole   bool
	mayInfo   bool
	mayHear   bool // Channel is subscribed to
	wasServed bool
}

type note struct {
	level slog.Level
	msg   string
	attrs []slog.Attr
}

const (
	minPause = 50 * time.Millisecond
	maxPause = 2 * time.Second
)

// keepConnected has one session after the other, with pauses that grow as long as none lasts.
func (l *Link) keepConnected(ctx context.Context) {
	pause := minPause
	told := make(map[string]bool)
	for {
		began := time.Now()
		served, err := l.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if served {
			clear(told)
		}
		text := err.Error()
		if text == changedTerms {
			l.log.InfoContext(ctx, "the link connects anew, hits are off meanwhile", slog.String("reason", text))
			pause = minPause
			continue
		}
		l.mu.Lock()
		l.down = text
		l.mu.Unlock()
		// Bounded, since errors name ports and would be new each time.
		if !told[text] && len(told) < 16 {
			told[text] = true
			l.log.LogAttrs(ctx, slog.LevelWarn, "link down, hits are off", slog.String("reason", text))
		}
		if served && time.Since(began) > maxPause {
			pause = minPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
		pause = min(2*pause, maxPause)
	}
}

// connect has one session, and says whether hits were served in it and why it ended.
func (l *Link) connect(ctx context.Context) (served bool, err error) {
	s := &session{l: l, ended: make(chan struct{}), notes: make(chan note, 8), proof: never, terms: l.terms.Load()}
	l.setState(StateConnecting)
	dialCtx, cancel := context.WithTimeout(ctx, l.terms.Load().patience)
	s.conn, err = l.cfg.Dial(dialCtx, s.push)
	cancel()
	if err != nil {
		l.setState(StateDown)
		return false, err
	}
	l.begin(ctx, s)
	driven := make(chan struct{})
	go func() {
		defer close(driven)
		s.drive()
	}()
	s.attend(ctx)
	s.conn.Close()
	<-driven
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.wasServed, errors.New(s.reason)
}

// attend returns when the session is over. Hits are off by then, and nothing has been closed or dialled yet.
func (s *session) attend(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			s.l.end(s, "closing")
			return
		case <-s.conn.Done():
			s.l.end(s, "connection lost")
			return
		case <-s.ended:
			return
		case n := <-s.notes:
			s.l.log.LogAttrs(ctx, n.level, n.msg, n.attrs...) //nolint:sloglint // the constants stand where the notes are made
		}
	}
}

// say has something logged by another goroutine than the reading one.
func (s *session) say(level slog.Level, msg string, attrs ...slog.Attr) {
	select {
	case s.notes <- note{level, msg, attrs}:
	default:
	}
}

func (l *Link) setState(state State) {
	l.mu.Lock()
	l.state = state
	l.mu.Unlock()
}

// end stops hits, before anything else happens, and then has the connection closed. From here on nothing that the connection
// says can make hits possible again.
func (l *Link) end(s *session, reason string) {
	if l.stop(s, reason) && l.cfg.Lost != nil {
		l.cfg.Lost()
	}
}

// stop is end without telling anybody; it says whether hits were possible before.
func (l *Link) stop(s *session, reason string) (lost bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.over {
		return false
	}
	s.over, s.reason = true, reason
	if l.cur == s {
		lost = true
		l.cur = nil
		l.until.Store(never)
		l.proof.Store(never)
		l.state, l.runID = StateDown, ""
		s.watchdog.Stop()
		l.wakeAll()
	}
	close(s.ended)
	return lost
}

// alive notes that the connection answered something. Any answer will do: a Redis that says -BUSY is not gone, and connecting
// again would not make it any less busy.
func (l *Link) alive(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur == s {
		s.watchdog.Reset(s.terms.patience)
	}
}

// drive does the writing, from the first command to the last PING.
func (s *session) drive() {
	if err := s.setUp(); err != nil {
		if _, ok := errors.AsType[refusal](err); ok {
			s.refuse(s.fellBack + err.Error()) // either may be what is to be put right
		} else {
			s.l.end(s, err.Error())
		}
		return
	}
	s.keepPinging()
}

// setUp brings the link to where only a PONG is missing. For the order see the package's documentation.
func (s *session) setUp() error {
	l := s.l
	if err := s.listen(); err != nil {
		return err
	}
	if err := s.learnThreads(); err != nil {
		return err
	}
	if err := s.firstCheck(); err != nil {
		return err
	}
	runID := s.conn.RunID()
	l.mu.Lock()
	if l.cur != s {
		l.mu.Unlock()
		return errEnded
	}
	l.runID, l.role, l.source = runID, s.role, s.source
	told := l.fellBack
	l.fellBack = s.fellBack
	l.mu.Unlock()
	if s.fellBack != "" && s.fellBack != told {
		s.say(slog.LevelWarn, "changes are learned of by keyspace notifications", slog.String("reason", strings.TrimSuffix(s.fellBack, "; ")))
	}
	l.count.connects.Add(1)
	l.cfg.InvalidateAll(Gap, "link up")
	if l.cfg.Up != nil {
		l.cfg.Up(runID)
	}
	l.cfg.InvalidateAll(Gap, "link up, connections to other servers closed")
	return nil
}

var errEnded = errors.New("the connection was given up")

// ask is Ask for drive, which has nothing else to do than to wait.
func (s *session) ask(args ...string) ([]byte, error) {
	type result struct {
		reply []byte
		err   error
	}
	answered := make(chan result, 1)
	s.conn.Ask(func(reply []byte, err error) {
		s.l.alive(s)
		answered <- result{append([]byte(nil), reply...), err}
	}, args...)
	select {
	case r := <-answered:
		return r.reply, r.err
	case <-s.ended:
		return nil, errEnded
	}
}

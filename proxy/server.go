package proxy

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"nearside/proxy/link"
	"nearside/proxy/origin"
)

// The link and the origin's other connections must speak of one server.

// met looks at the run id of every new data connection.
func (p *Proxy) met(runID string) {
	if runID != "" {
		p.current().policy.Met(runID)
	}
	p.meet(runID) // before the connection is used
	if p.server.Load() == nil && p.ctx.Err() == nil {
		p.wg.Go(func() { _, _ = p.facts() }) // whoever needs them asks again
	}
	if !p.linked || runID == "" {
		return
	}
	if have := p.link.RunID(); have != "" && have != runID {
		// Requests go on to where the address leads now; the link follows.
		p.origin.Expect("")
		p.link.Drop("another server answers at the origin's address")
		p.l1.InvalidateAll(sourceOf(link.Gap))
		p.users.doubt()
	}
}

// linkUp is told that changes are reported again, before hits are allowed.
func (p *Proxy) linkUp(runID string) {
	p.origin.Expect(runID)
	p.current().policy.Met(runID)
	p.server.Store(nil)
	p.learning.forgetProcess()
	p.users.doubt()
	p.databases.Clear()
	p.missing.Store(0)
	p.touch.look()
	p.limits.look()
	// Without the server's version hash reads are simply not cached yet.
	p.wg.Go(func() {
		_, _ = p.facts()
		p.full.look(p.ctx, p)
	})
}

// linkConn adapts an origin connection to what the link needs.
type linkConn struct{ *origin.Conn }

func (p *Proxy) dialLink(ctx context.Context, push func(frame []byte)) (link.Conn, error) {
	c, err := p.origin.Dial(ctx, origin.Group{DB: p.cfg.CacheDB, Proto: 3}, push)
	if err != nil {
		return nil, err
	}
	return linkConn{c}, nil
}

func (c linkConn) Close() { c.Conn.Close(nil) }

func (c linkConn) Ask(answer func(reply []byte, err error), args ...string) {
	c.Queue(answer, args...)
	c.Flush()
}

func (c linkConn) Queue(answer func(reply []byte, err error), args ...string) {
	replies := 1
	if args[0] == "SUBSCRIBE" || args[0] == "PSUBSCRIBE" {
		replies = -1 // a confirmation, which is written as a push, or an error
	}
	if err := c.Post(origin.AppendCommand(nil, args...), replies, answerFunc(answer)); err != nil {
		answer(nil, err)
	}
}

type answerFunc func(reply []byte, err error)

func (f answerFunc) Reply(b []byte, err error, _ *origin.Batch) { f(b, err) }

// serverFacts is what the origin said of itself.
type serverFacts struct {
	version, mode, role string
	major, minor        int
}

// atLeast7 tells whether it is version 7.minor or later.
func (f *serverFacts) atLeast7(minor int) bool {
	return f.major > 7 || f.major == 7 && f.minor >= minor
}

// manyArgs tells whether the origin is known to take more than oldMostArgs arguments.
func (p *Proxy) manyArgs() bool {
	f := p.server.Load()
	return f != nil && f.atLeast7(0)
}

// refusesMonitors tells whether the origin refuses a monitor's commands on keys.
func (p *Proxy) refusesMonitors() bool {
	f := p.server.Load()
	return f != nil && f.major >= 7
}

// factsTimeout bounds the question for them.
const factsTimeout = 2 * time.Second

// facts returns what the origin says of itself, asking if nobody has.
func (p *Proxy) facts() (*serverFacts, error) {
	if f := p.server.Load(); f != nil {
		return f, nil
	}
	ctx, cancel := context.WithTimeout(p.ctx, factsTimeout)
	defer cancel()
	reply, err := p.origin.Control().Do(ctx, "HELLO", 3).Result()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", origin.ErrUnreachable, err)
	}
	hello, _ := reply.(map[any]any)
	text := func(name string) string { s, _ := hello[name].(string); return s }
	f := &serverFacts{version: text("version"), mode: text("mode"), role: text("role")}
	parts := strings.SplitN(f.version, ".", 3)
	if len(parts) > 1 {
		// What is not a number stays 0: an old version.
		f.major, _ = strconv.Atoi(parts[0])
		f.minor, _ = strconv.Atoi(parts[1])
	}
	p.current().policy.SetHashFieldTTL(f.atLeast7(4))
	p.current().policy.SetVersion(f.major)
	p.server.Store(f)
	return f, nil
}

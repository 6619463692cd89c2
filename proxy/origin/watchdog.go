package origin

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"time"
)

// watched is what the watchdog remembers of a connection from tick to tick. It
// ages requests by watching the queue's head instead of stamping each of them: a
// head that has not moved since a tick is at least that old. The error, one tick,
// is on the patient side.
type watched struct {
	head      int64 // number of the oldest unanswered request (-1: none) …
	headSince int64 // … and since when it is known to be that
	idleSince int64 // of an idle pinned connection
	sent      int64 // number of requests …
	sentSince int64 // … and since when it is known to be that
	told      int64 // number of requests when Config.Stalled was told last
	blockedAt int64 // when the server said last that it holds the connection's client back …
	doneAt    int64 // … and when, that it has answered the client all that it has asked
}

// stallAge is the silence after which a shared connection is suspected to be stalled.
const stallAge = 50 * time.Millisecond

// watch looks after all connections forty times per Timeout, and twice per stallAge.
func (o *Origin) watch() {
	tick := max(min(o.cfg.Timeout/40, stallAge/2), time.Millisecond)
	t := time.NewTicker(tick)
	defer t.Stop()
	var swept int64
	for {
		select {
		case <-o.ctx.Done():
			return
		case <-t.C:
		}
		o.look(o.now())
		if now := o.now(); now-swept >= int64(time.Second) {
			swept = now
			o.sweep(now)
		}
	}
}

// look applies the rules on silence.
//
// (a) Requests have waited for Timeout and a tenth, and for so long not one byte
// came on any connection, the heartbeat's included: the origin is gone. The tenth
// is there because Redis itself, busy with a script, is mute for 5 s before it
// says -BUSY.
//
// (b) A shared connection has been silent for Timeout with a request on it, and a
// PING sent after that request was answered with PONG elsewhere: this connection is
// dead, unless the server, asked by CLIENT LIST, says that it holds it back. A busy
// Redis does not say PONG. The link has pings of its own. A pinned connection is dead only
// if the server, asked so, says that it has nothing to do for it, and never if a
// BLPOP or the like waits there.
//
// (c) A write has not got on for Timeout and a tenth.
//
// (d) The same as (b), but for stallAge only: the connection is stalled until it
// answers again. Nothing is given up.
func (o *Origin) look(now int64) {
	timeout := int64(o.cfg.Timeout)
	patient := int64(grace(o.cfg.Timeout))
	mute := now - o.heard.Load()
	var dead, stalled []*Conn
	ping, suspicion := false, false
	asked, ponged := o.beat.pong()

	o.mu.Lock()
	for c := range o.conns {
		if c.kind == heartbeat {
			continue
		}
		w := &c.watch
		head, sent := c.pending.delivered.Load(), c.pending.sent.Load()
		if head == sent {
			w.head = -1 // what comes next is new, whatever its number
			c.stalled.Store(false)
		} else if w.head != head {
			w.head, w.headSince = head, o.now() // read after head: never before the Send
			c.stalled.Store(false)
		}
		if w.sent != sent {
			w.sent, w.sentSince = sent, now
		}
		since := c.writeSince.Load()
		if since != 0 && now-since >= patient {
			dead = append(dead, c)
			continue
		}
		if head == sent {
			continue
		}
		age := now - w.headSince
		silent := now - max(c.heard.Load(), c.bigWrite.Load())
		if age >= patient && mute >= patient {
			dead = append(dead, c)
			continue
		}
		if age >= timeout/10 && mute >= timeout/10 {
			ping = true
		}
		if c.kind.owned() && !c.mayBlock.Load() && age >= timeout/2 && silent >= timeout/2 {
			ping = true
			if age >= timeout && silent >= timeout && w.doneAt >= w.headSince+timeout/2 && mute < timeout/2 {
				dead = append(dead, c)
			}
		}
		if c.kind != shared || since != 0 || age < int64(stallAge) || silent < int64(stallAge) {
			continue
		}
		switch {
		case asked < w.headSince:
			suspicion = true
		case c.stalled.Load():
			if w.told != sent { // somebody may have found it not stalled before, and sent something after
				w.told = sent
				stalled = append(stalled, c)
			}
		case now-ponged >= int64(stallAge/2): // an answer sent before the PONG has had time to come
			c.stalled.Store(true)
			w.told = sent
			stalled = append(stalled, c)
		}
		if age >= timeout/2 && silent >= timeout/2 {
			ping = true // asks about those that are stalled, too
			if asked >= w.headSince && age >= timeout && silent >= timeout && now-ponged >= timeout/10 && now-w.blockedAt >= timeout {
				dead = append(dead, c)
			}
		}
	}
	o.mu.Unlock()

	for _, c := range stalled {
		o.cfg.Log.Debug("origin connection stalled", "addr", o.opt.Addr, "db", c.group.DB, "outstanding", c.Outstanding())
		if o.cfg.Stalled != nil {
			o.start(func() { o.cfg.Stalled(c) })
		}
	}

	for _, c := range dead {
		o.cfg.Log.Warn("origin connection timed out", "addr", o.opt.Addr, "db", c.group.DB, "outstanding", c.Outstanding())
		c.fail(fmt.Errorf("%w: nothing heard for %s", ErrTimeout, o.cfg.Timeout))
	}
	switch {
	case ping:
		o.beat.ping(now, timeout/10)
	case suspicion:
		o.beat.ping(now, int64(stallAge))
	}
}

// sweep takes away what nobody uses.
func (o *Origin) sweep(now int64) {
	var old []*Conn
	o.mu.Lock()
	keep := o.idle[:0]
	for _, c := range o.idle {
		if now-c.watch.idleSince >= int64(idleFor) {
			old = append(old, c)
		} else {
			keep = append(keep, c)
		}
	}
	clear(o.idle[len(keep):])
	o.idle = keep
	var unused []*Conn
	few := 0
	for c := range o.conns {
		if c.kind == shared {
			few++
		}
	}
	patience := unusedFor
	if few > fewShared {
		patience = unusedOfMany
	}
	for c := range o.conns {
		if c.kind == shared && !o.stays(c.group) && c.Outstanding() == 0 && now-c.watch.sentSince >= int64(patience) {
			unused = append(unused, c)
		}
	}
	o.dropGroups(now)
	o.mu.Unlock()
	for _, c := range old {
		c.fail(ErrClosed)
	}
	for _, c := range unused {
		c.retire()
	}
}

// dropGroups forgets groups that have no connection, so that guessing passwords, or
// walking over databases, does not fill the memory. mu is held.
func (o *Origin) dropGroups(now int64) {
	old := *o.groups.Load()
	var groups map[Group]*slots
	for g, s := range old {
		if o.stays(g) || !s.empty(now) {
			continue
		}
		if groups == nil {
			groups = maps.Clone(old)
		}
		delete(groups, g)
	}
	if groups != nil {
		o.groups.Store(&groups)
	}
}

func (s *slots) empty(now int64) bool {
	for i := range s.list {
		sl := &s.list[i]
		sl.mu.Lock()
		used := sl.cur.Load() != nil || sl.attempt != nil || (sl.err != nil && now < sl.retryAt)
		sl.mu.Unlock()
		if used {
			return false
		}
	}
	return true
}

// beat is the heartbeat: PINGs on a connection of its own, sent only while
// something is overdue. Whatever comes back counts as heard; PONG tells more.
type beat struct {
	o      *Origin
	group  Group
	busy   atomic.Bool
	c      *Conn // used by one ping at a time
	last   int64 // when the last ping was started; the watchdog's
	asked  atomic.Int64
	ponged atomic.Int64
}

func (b *beat) init(o *Origin) {
	b.o = o
	b.group = Group{Proto: 2}
	b.asked.Store(-1)
}

// pong says when the last PING was sent that was answered with PONG, and when the PONG came.
func (b *beat) pong() (asked, at int64) {
	asked = b.asked.Load() // stored last, read first
	return asked, b.ponged.Load()
}

func (b *beat) ping(now, pause int64) {
	if now-b.last < pause || !b.busy.CompareAndSwap(false, true) {
		return
	}
	b.last = now
	if !b.o.start(b.run) {
		b.busy.Store(false)
	}
}

func (b *beat) run() {
	defer b.busy.Store(false)
	o := b.o
	ctx, cancel := context.WithTimeout(o.ctx, grace(o.cfg.Timeout))
	defer cancel()
	if b.c == nil || b.c.Err() != nil {
		c, err := o.dial(ctx, b.group, heartbeat, nil)
		if err != nil {
			return
		}
		b.c = c
	}
	o.heartbeatsNo.Add(1)
	asked := o.now()
	reply, err := b.c.Call(ctx, AppendCommand(nil, "PING"), 1)
	if err != nil {
		b.c.Close(nil)
		return
	}
	if string(reply) == "+PONG\r\n" {
		b.askAboutStalled(ctx)
		b.ponged.Store(o.now())
		b.asked.Store(asked)
	}
}

// askAboutStalled asks the server whether it holds back those who have waited for long.
// Where that is not known (Redis 6.0 has neither CLIENT LIST ID nor CLIENT PAUSE WRITE)
// or not permitted, they count as not held back.
func (b *beat) askAboutStalled(ctx context.Context) {
	o := b.o
	byNumber := map[string]*Conn{}
	ask := []string{"CLIENT", "LIST", "ID"}
	now := o.now()
	o.mu.Lock()
	for c := range o.conns {
		waits := c.stalled.Load() || c.kind.owned() && !c.mayBlock.Load() && c.Outstanding() > 0 && c.watch.head >= 0
		if waits && c.number != "" && now-c.watch.headSince >= int64(o.cfg.Timeout)/2 {
			byNumber[c.number] = c
			ask = append(ask, c.number)
		}
	}
	o.mu.Unlock()
	if len(byNumber) == 0 {
		return
	}
	reply, err := b.c.Call(ctx, AppendCommand(nil, ask...), 1)
	if err != nil {
		return
	}
	text, _, _, _ := Bulk(reply)
	for line := range strings.Lines(string(text)) {
		fields := map[string]string{}
		for field := range strings.FieldsSeq(line) {
			name, value, _ := strings.Cut(field, "=")
			fields[name] = value
		}
		c := byNumber[fields["id"]]
		if c == nil {
			continue
		}
		o.mu.Lock()
		switch {
		case strings.Contains(fields["flags"], "b"):
			c.watch.blockedAt = now
		case fields["qbuf"] == "0" && fields["oll"] == "0" && fields["obl"] == "0":
			c.watch.doneAt = now
		}
		o.mu.Unlock()
	}
}

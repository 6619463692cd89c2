package proxy

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"nearside/policy"
	"nearside/proxy/origin"
)

// What the origin's commands are (policy/learn.go says what that is for). Each server
// process is asked for all names of policy's table when the first connection to it
// has been made, before that is used; for other names when a client sends one.
type learning struct {
	mu      sync.Mutex   // one process is asked at a time
	asked   atomic.Value // string: the run id of the process that has answered or will not
	refused atomic.Bool  // nearside's own user may not ask
	told    atomic.Bool  // … which was logged
	foreign atomic.Int64 // connections that sessions have made foreign
	met     atomic.Bool  // one has answered or will not
	fixed   sync.Map     // string: []byte, what READONLY and its like are answered
}

// How often it is forgotten which names do not exist, since a module may have been
// loaded, and what has been said of modules' commands and of nearside's rights. A
// process that could not answer is asked again as often as the first.
const (
	learnEvery  = time.Second
	forgetEvery = time.Minute
)

// keepLearning does that until ctx ends, and lets connections of sessions go that
// these have not needed for a while.
func (p *Proxy) keepLearning(ctx context.Context) {
	tick, minute := time.NewTicker(learnEvery), time.NewTicker(forgetEvery)
	defer tick.Stop()
	defer minute.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-minute.C:
			p.learning.refused.Store(false)
			p.current().policy.Forget()
			continue
		case <-tick.C:
		}
		p.current().policy.Doubt()
		if id := p.link.RunID(); p.linked && id != "" {
			p.meet(id)
		}
		if p.learning.foreign.Load() > 0 {
			p.dropPrivates()
		}
	}
}

// meet asks a server process for its commands, unless that was done. What cannot be
// asked now is asked again by and by; until then the table is believed.
func (p *Proxy) meet(runID string) {
	l := &p.learning
	if asked, ok := l.asked.Load().(string); ok && asked == runID {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if asked, ok := l.asked.Load().(string); ok && asked == runID {
		return
	}
	l.fixed.Clear()
	ctx, cancel := context.WithTimeout(p.ctx, factsTimeout)
	defer cancel()
	c, err := p.origin.Dial(ctx, origin.Group{Proto: 2}, nil)
	if err != nil {
		return
	}
	defer c.Close(errSessionGone)
	if c.RunID() != runID {
		return // the address moves: whoever meets the other one asks that
	}
	pol := p.current().policy
	infos, ok, again := p.commandInfo(ctx, c, policy.TableNames())
	if again {
		return
	}
	if runID == "" && ok { // it may be replaced unnoticed by one that has them
		has := infos[:0]
		for _, in := range infos {
			if in.Name != "" {
				has = append(has, in)
			}
		}
		infos = has
	}
	pol.Meet(runID, infos)
	l.asked.Store(runID)
	l.met.Store(true)
}

// meetFirst makes a connection, if there has been none yet: nothing is to be decided
// before the first process has been asked, if it can be.
func (p *Proxy) meetFirst() {
	_, _ = p.origin.Shared(p.ctx, origin.Group{DB: p.cfg.LocksDB, Proto: 2}, 0) // an error is the request's to meet
}

// errMoved says that a request was decided by what another server process told of its
// commands. Nothing of it has been sent: it is decided anew, once (session.moved).
var errMoved = &origin.RefusedError{Line: "ERR nearside: another Redis answers since the request came, with other commands; send it again"}

// forgetProcess has the next process met, which does not say who it is, asked too.
func (l *learning) forgetProcess() { l.asked.CompareAndSwap("", unmet) }

// unmet is no run id.
const unmet = "-"

// learn asks the origin about what is not known of the decided request's name, and
// tells whether deciding it again is of use.
func (p *Proxy) learn(d *policy.Decision, args [][]byte) bool {
	if _, err := p.facts(); err != nil {
		return false // it depends on the version what can be asked
	}
	pol := p.current().policy
	name, ok := pol.Ask(d, args)
	if !ok || p.learning.refused.Load() {
		return false
	}
	ctx, cancel := context.WithTimeout(p.ctx, factsTimeout)
	defer cancel()
	c, err := p.origin.Shared(ctx, origin.Group{DB: p.cfg.LocksDB, Proto: 2}, 0)
	if err != nil {
		return false
	}
	infos, ok, _ := p.commandInfo(ctx, c, []string{policy.AskSubcommand(name, args)})
	if !ok {
		return false
	}
	infos[0].Asked = name
	return pol.LearnFrom(c.RunID(), infos[0])
}

// commandInfo is COMMAND INFO. again says that the origin could not answer now.
func (p *Proxy) commandInfo(ctx context.Context, c *origin.Conn, names []string) (infos []policy.Info, ok, again bool) {
	b, err := c.Call(ctx, origin.AppendCommand(nil, append([]string{"COMMAND", "INFO"}, names...)...), 1)
	if err != nil {
		return nil, false, true
	}
	if isError(b) {
		if cannotAnswer(b) {
			return nil, false, true
		}
		p.learning.refused.Store(noPerm(b))
		if noPerm(b) && !p.learning.told.Swap(true) {
			p.log.Warn("nearside's own user may not run COMMAND INFO: every command that nearside's table does not have takes a connection of its client's own; grant +command|info", "user", p.origin.User())
		}
		return nil, false, false
	}
	p.learning.refused.Store(false)
	n, rest, ok := origin.Elements(b)
	if !ok || n != len(names) {
		return nil, false, false
	}
	infos = make([]policy.Info, n)
	for i := range infos {
		var row []byte
		row, rest = origin.Split(rest)
		infos[i] = parseInfo(names[i], row)
	}
	return infos, true, false
}

// parseInfo reads one element of COMMAND INFO's reply, in RESP2.
func parseInfo(asked string, row []byte) policy.Info {
	in := policy.Info{Asked: asked}
	n, rest, ok := origin.Elements(row)
	if !ok || n < 6 {
		return in
	}
	var field []byte
	for i := range n {
		field, rest = origin.Split(rest)
		number := func() int { v, _, _ := origin.Int(field); return int(v) }
		switch i {
		case 0:
			name, _, _, _ := origin.Bulk(field)
			in.Name = string(name)
		case 1:
			in.Arity = number()
		case 2:
			count, flags, _ := origin.Elements(field)
			for range max(count, 0) {
				var flag []byte
				flag, flags = origin.Split(flags)
				in.Flags = append(in.Flags, strings.Trim(string(flag), "+\r\n"))
			}
		case 3:
			in.First = number()
		case 4:
			in.Last = number()
		case 5:
			in.Step = number()
		case 9:
			count, _, _ := origin.Elements(field)
			in.Container = count > 0
		}
	}
	return in
}

// fixedReply is what the origin answers to a command that concerns its connection
// alone and has no effect on a master: it is asked once, on a connection for that.
func (p *Proxy) fixedReply(name string, args [][]byte) ([]byte, error) {
	if v, ok := p.learning.fixed.Load(name); ok {
		b, _ := v.([]byte) // nothing else is stored
		return b, nil
	}
	ctx, cancel := context.WithTimeout(p.ctx, factsTimeout)
	defer cancel()
	c, err := p.origin.Dial(ctx, origin.Group{Proto: 2}, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close(errSessionGone)
	b, err := c.Call(ctx, appendArgs(nil, args), 1)
	if err != nil {
		return nil, err
	}
	b = append([]byte(nil), b...)
	if !cannotAnswer(b) && c.RunID() == p.current().policy.Server() {
		p.learning.fixed.Store(name, b)
	}
	return b, nil
}

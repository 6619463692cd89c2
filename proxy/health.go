package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	"nearside/policy"
	"nearside/proxy/admin"
	"nearside/proxy/link"
	"nearside/proxy/origin"
)

// healthLife is the TTL of the self test's key, should its DEL never come.
const healthLife = 10 * time.Second

// Health performs the self test: a set, get and delete of a key of its own, by
// a session like any client's.
func (p *Proxy) Health(ctx context.Context) admin.Health {
	var h admin.Health
	if err := p.selfTest(ctx); err != nil {
		h.Error = err.Error()
	}
	st := p.Status()
	h.Link = &st.Link
	if st := p.link.Stats(); st.Silent != "" {
		h.Notes = append(h.Notes, st.Silent)
	}
	if note := p.auditNote(); note != "" {
		h.Notes = append(h.Notes, note)
	}
	if v := p.link.Verdict(clockNow()); v != link.OK && v != link.Fenced {
		note := "reads are passed through to Redis: the link is " + v.String()
		if st.Link.Error != "" && !slices.Contains(h.Notes, st.Link.Error) {
			note += ": " + st.Link.Error
		}
		h.Notes = append(h.Notes, note)
	}
	return h
}

// selfTest talks to a session of its own over a pipe.
func (p *Proxy) selfTest(ctx context.Context) error {
	ours, theirs := net.Pipe()
	s := p.newSession(theirs)
	s.health, s.authed, s.counts.off = true, true, true
	if !p.enrol(s) {
		_ = ours.Close()
		return errors.New("shutting down")
	}
	go s.serve()
	defer func() {
		_ = ours.Close() // ends the session
		<-s.ended
	}()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(2 * p.cfg.OriginTimeout)
	}
	if err := ours.SetDeadline(deadline); err != nil {
		return err
	}
	key := p.healthKey()
	value := strconv.FormatInt(time.Now().UnixNano(), 36)
	for _, step := range []struct {
		args []string
		want string
	}{
		{[]string{"SET", key, value, "PX", strconv.FormatInt(healthLife.Milliseconds(), 10)}, replyOK},
		{[]string{"GET", key}, fmt.Sprintf("$%d\r\n%s\r\n", len(value), value)},
		{[]string{"DEL", key}, ":1\r\n"},
		{[]string{"GET", key}, "$-1\r\n"},
	} {
		got, err := ask(ours, step.args)
		if err != nil {
			return fmt.Errorf("%s: %w", step.args[0], err)
		}
		if got != step.want {
			return fmt.Errorf("%s answered %q", step.args[0], got)
		}
	}
	return nil
}

// ask sends one command and reads its one reply.
func ask(c net.Conn, args []string) (string, error) {
	if _, err := c.Write(origin.AppendCommand(nil, args...)); err != nil {
		return "", err
	}
	var got []byte
	buf := make([]byte, 512)
	for {
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		if size, scanErr := origin.Next(got); scanErr != nil {
			return "", scanErr
		} else if size > 0 {
			return string(got[:size]), nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return "", err
		}
	}
}

// healthKey lies under the first cache rule, if there is one, so that the test
// goes the way of the cache.
func (p *Proxy) healthKey() string {
	prefix := ""
	for _, r := range p.rules().All() {
		if r.Kind == policy.CacheRule {
			prefix = r.Prefix
			break
		}
	}
	return prefix + "nearside:health:" + strconv.FormatUint(p.nextID.Add(1), 10) + ":" + strconv.FormatInt(p.begun.UnixNano(), 36)
}

// Status is the state of the moment.
func (p *Proxy) Status() admin.Status {
	now := clockNow()
	st := admin.Status{Ready: p.ctx.Err() == nil, Draining: p.draining.Load()}
	st.Origin.Address = p.origin.Addr()
	os := p.origin.Stats()
	st.Origin.Up = os.Shared+os.Locks+os.Dialled > 0
	switch {
	case st.Origin.Up:
	case os.DialError != nil:
		st.Origin.Error = os.DialError.Error()
	case p.linked:
		st.Origin.Error = "no connection"
	}
	v := p.link.Verdict(now)
	st.Link.Source, st.Link.State = p.link.Source(), p.link.State().String()
	st.Link.Up = v == link.OK || v == link.Fenced
	ls := p.link.Stats()
	st.Link.Error, st.Link.Proof, st.Link.ProofWhy = ls.Down, ls.Steps, ls.WhySteps
	if d, ok := p.link.Bound(now); ok {
		st.Link.Staleness = d
		st.Link.Bound = p.conf().MaxStaleness
	}
	return st
}

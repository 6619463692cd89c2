package origin

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// A password may change while nearside runs. Redis lets connections be that have
// logged in before; for new ones nearside uses what its own user was let in with last:
// what the configuration says, until a client has logged in as that user with
// something newer (Learn). What is refused makes way for the other: a Redis that is
// restarted may have its old password back.

// login is what nearside itself logs in with. It is never printed.
type login struct{ user, password string }

func (o *Origin) configured() *login { return &login{o.opt.Username, o.opt.Password} }

// Learn is told a password with which Redis has just let nearside's own user in.
func (o *Origin) Learn(password string) {
	l := &login{o.opt.Username, password}
	if *o.login.Load() == *l {
		return
	}
	o.login.Store(l)
	o.retryNow(Group.own)
}

// retryNow lets groups dial again at once that have failed before.
func (o *Origin) retryNow(which func(Group) bool) {
	for g, s := range *o.groups.Load() {
		if !which(g) {
			continue
		}
		for i := range s.list {
			sl := &s.list[i]
			sl.mu.Lock()
			sl.err, sl.backoff = nil, 0
			sl.mu.Unlock()
		}
	}
}

// enter is handshake with what nearside logs in with.
func (o *Origin) enter(ctx context.Context, opt *redis.Options, g Group, k kind) (*Conn, error) {
	last := o.login.Load()
	c, err := o.enterAs(ctx, opt, last, g, k)
	other := o.configured()
	if *other == *last || !outdated(err) {
		return c, err
	}
	c, err = o.enterAs(ctx, opt, other, g, k)
	if k != heartbeat && !outdated(err) && (err == nil || isRefused(err)) {
		o.login.CompareAndSwap(last, other)
	}
	return c, err
}

func (o *Origin) enterAs(ctx context.Context, opt *redis.Options, l *login, g Group, k kind) (*Conn, error) {
	as := *opt
	as.Username, as.Password = l.user, l.password
	return o.handshake(ctx, &as, g, k, !g.own())
}

// outdated tells whether the server did not take nearside's credentials.
func outdated(err error) bool {
	re, refused := errors.AsType[*RefusedError](err)
	return refused && !re.client && (strings.HasPrefix(re.Line, "NOAUTH") || strings.HasPrefix(re.Line, "WRONGPASS") ||
		strings.HasPrefix(re.Line, "ERR invalid password") || strings.HasPrefix(re.Line, "ERR AUTH"))
}

// DialBare makes a connection outside of all pools on which nobody has logged in.
func (o *Origin) DialBare(ctx context.Context) (*Conn, error) {
	return o.dial(ctx, Group{Proto: 2}, bare, nil)
}

// rejected tells whether the server lets neither nearside nor the group's user in any
// more. Connections that are in stay so, and do for what they can be had for.
func rejected(err error) bool {
	re, refused := errors.AsType[*RefusedError](err)
	return refused && (strings.HasPrefix(re.Line, "NOAUTH") || strings.HasPrefix(re.Line, "WRONGPASS"))
}

// moveIdle takes an idle connection of g's user in another database to g's, nil if
// there is none. The caller has counted it as out.
func (o *Origin) moveIdle(ctx context.Context, g Group) *Conn {
	o.mu.Lock()
	var c *Conn
	for i := len(o.idle) - 1; i >= 0 && c == nil; i-- {
		as := o.idle[i].group
		as.DB = g.DB
		if as == g && o.idle[i].Err() == nil {
			c = o.idle[i]
			o.idle = append(o.idle[:i], o.idle[i+1:]...)
			c.isOut.Store(true)
		}
	}
	o.mu.Unlock()
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.cfg.Timeout)
	defer cancel()
	b, err := c.Call(ctx, AppendCommand(nil, "SELECT", strconv.Itoa(g.DB)), 1)
	if err != nil || string(b) != "+OK\r\n" {
		c.fail(ErrClosed) // where it is, is not known
		return nil
	}
	c.group.DB = g.DB
	return c
}

// sibling is the shared connection of g's user to g's database that serves locks where
// g does not, or does not where g does.
func (o *Origin) sibling(g Group) *Conn {
	g.Lock = !g.Lock
	s := (*o.groups.Load())[g]
	if s == nil {
		return nil
	}
	for i := range s.list {
		if c := s.list[i].cur.Load(); c != nil {
			return c
		}
	}
	return nil
}

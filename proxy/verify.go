package proxy

import (
	"context"
	"time"

	"nearside/policy"
	"nearside/proxy/origin"
)

// Redis decides every AUTH; nothing is remembered that could decide one. It does so
// on a few connections that serve nothing else, one AUTH at a time on each: such a
// connection acts as whoever has logged in last, which matters to nobody. They are
// closed when nobody has logged in for a while, and when the link finds another
// server at the origin's address, whose passwords are others.
const (
	verifyConns = 4
	verifyIdle  = 10 * time.Second
)

// verifier has Redis decide about credentials.
type verifier struct {
	p     *Proxy
	idle  chan verifying // verifyConns of them
	timer *time.Timer
}

// verifying is one of its connections; nil: it is to be dialled.
type verifying struct {
	conn   *origin.Conn
	server *serverEra
}

// serverEra stands for the time from one look at which server answers to the next.
type serverEra struct{ _ byte }

func (v *verifier) init(p *Proxy) {
	v.p = p
	v.idle = make(chan verifying, verifyConns)
	for range verifyConns {
		v.idle <- verifying{}
	}
	v.timer = time.AfterFunc(verifyIdle, v.rest)
	p.era.Store(new(serverEra))
}

// ask sends an AUTH and returns Redis's reply. A connection that Redis has closed
// meanwhile (a user that it acted as was deleted) is made anew, once.
func (v *verifier) ask(req []byte) ([]byte, error) {
	p := v.p
	ctx, cancel := context.WithTimeout(p.ctx, 2*p.cfg.OriginTimeout)
	defer cancel()
	var c verifying
	select {
	case c = <-v.idle:
	case <-ctx.Done():
		return nil, origin.ErrTimeout
	}
	defer func() {
		v.timer.Reset(verifyIdle)
		v.idle <- c
	}()
	for {
		era := p.era.Load()
		used := c.conn != nil && c.conn.Err() == nil && c.server == era
		if !used {
			c.close()
			conn, err := p.origin.DialBare(ctx)
			if err != nil {
				return nil, err
			}
			c = verifying{conn, era}
		}
		b, err := c.conn.Call(ctx, req, 1)
		if err == nil {
			return b, nil
		}
		c.close()
		if !used {
			return nil, err
		}
	}
}

func (c *verifying) close() {
	if c.conn != nil {
		c.conn.Close(errSessionGone)
		*c = verifying{}
	}
}

// rest closes the connections that nobody uses.
func (v *verifier) rest() {
	for range verifyConns {
		select {
		case c := <-v.idle:
			c.close()
			v.idle <- c
		default:
		}
	}
}

// learns has the origin told of the password that the command at hand gives to
// nearside's own user, if Redis accepts it.
func (s *session) learns(sl *slot) {
	own := s.p.origin.User()
	password := ""
	switch args := s.args; s.d.Cmd.Name {
	case "config|set":
		for i := 2; i+1 < len(args); i += 2 {
			if own == "default" && policy.Is(args[i], "requirepass") {
				password = string(args[i+1])
			}
		}
	case "acl|setuser":
		if len(args) < 3 || string(args[2]) != own {
			return
		}
		for _, rule := range args[3:] {
			if len(rule) > 0 && rule[0] == '>' {
				password = string(rule[1:])
			}
		}
	}
	if password == "" {
		return
	}
	sl.finish = func(_ *slot, b []byte, err error) []byte {
		if err != nil {
			return appendError(nil, s.p.originError(err))
		}
		if string(b) == replyOK {
			s.p.origin.Learn(password)
		}
		return b
	}
}

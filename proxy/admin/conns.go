package admin

import (
	"container/list"
	"net"
	"net/http"
	"sync"
)

// mostConns is the default bound of the connections. Each takes a file descriptor, which clients and
// Redis need, and whoever reaches the port can hold one for minutes without a token.
const mostConns = 256

// conns closes connections when there are too many: the one that has been waiting
// for a request longest or, if none is, the one that has been at its request longest.
// So whoever asks now is answered, an orchestrator's probe above all.
type conns struct {
	most          int
	mu            sync.Mutex
	waiting, busy list.List // of net.Conn; the front has been there longest
	at            map[net.Conn]*place
}

// place is where a connection stands.
type place struct {
	in *list.List
	e  *list.Element
}

// changed is http.Server's ConnState.
func (s *conns) changed(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.at[c]
	switch state {
	case http.StateNew:
		if s.at == nil {
			s.at = map[net.Conn]*place{}
		}
		s.at[c] = &place{&s.waiting, s.waiting.PushBack(c)}
		if len(s.at) > s.most {
			s.closeOne(c)
		}
	case http.StateIdle:
		p.move(&s.waiting)
	case http.StateActive:
		p.move(&s.busy)
	case http.StateClosed, http.StateHijacked:
		s.forget(c)
	}
}

// move puts a connection at the end of a list; nil is one that closeOne has closed.
func (p *place) move(to *list.List) {
	if p == nil {
		return
	}
	c := p.in.Remove(p.e)
	p.in, p.e = to, to.PushBack(c)
}

// closeOne closes a connection, but not the one that has just come.
func (s *conns) closeOne(come net.Conn) {
	e := s.waiting.Front()
	if e.Value == come {
		e = s.busy.Front()
	}
	c, _ := e.Value.(net.Conn)
	s.forget(c)
	_ = c.Close() // whoever reads from it or writes to it hears of it
}

func (s *conns) forget(c net.Conn) {
	if p := s.at[c]; p != nil {
		p.in.Remove(p.e)
		delete(s.at, c)
	}
}

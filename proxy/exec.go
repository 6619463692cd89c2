package proxy

import (
	"bytes"
	"errors"

	"github.com/tidwall/redcon"

	"nearside/proxy/origin"
)

// exec ends the transaction.
func (s *session) exec(raw []byte) {
	t := s.tx
	switch {
	case t.lost:
		s.endTransaction()
		s.db = t.before
		s.replyError(errExecLost)
		return
	case t.dirty:
		answer := s.refusal("exec")
		if answer == nil {
			answer = appendError(nil, errExecAbort)
		}
		// Redis does not know of the refusal: drop what it has queued.
		sl := s.slot()
		c := s.pin.conn
		sl.finish = func(_ *slot, b []byte, err error) []byte {
			if err != nil {
				return appendError(nil, errExecLost)
			}
			distrustOpen(c, b)
			return answer
		}
		s.endTransaction()
		s.rollback(&t)
		s.sendPinned(sl, -1, []byte("*1\r\n$7\r\nDISCARD\r\n"), 1)
		return
	}
	if len(t.subs) > 0 {
		if !s.awaitAnswers() { // none of them must be taken for what begins the subscription
			return
		}
		s.watchPin()
		s.pin.conn.KeepFromReuse()
		if s.proto == 2 {
			s.pin.conn.SetSubscribed(true)
		}
	}
	if t.locals {
		s.execLocals(raw, &t)
		return
	}
	sl := s.slot()
	sl.writes, sl.all, sl.fence = t.writes, t.all, t.fence
	after := s.pin.db
	failed := false
	c := s.pin.conn
	var array []byte // the subscriptions' part of it is looked at
	sl.finish = func(_ *slot, b []byte, err error) []byte {
		if err != nil {
			failed = !errors.Is(err, origin.ErrTooLarge) // that one was executed
			return appendError(nil, s.p.originError(err))
		}
		n, _, ok := origin.Elements(b)
		if !ok || n < 0 { // aborted: nil or EXECABORT
			failed = true
			distrustOpen(c, b)
			return b
		}
		if t.items != nil {
			b = assemble(b, t.items)
		}
		if len(t.subs) > 0 {
			array = bytes.Clone(b)
		}
		return b
	}
	s.endTransaction()
	s.sendPinned(sl, -1, raw, 1)
	if t.items == nil && after == t.db && s.db == t.before && len(t.subs) == 0 {
		return
	}
	// Which database is selected now, here and there, depends on the outcome.
	if !s.awaitAnswers() {
		return
	}
	if failed {
		s.rollback(&t)
	}
	s.applySubs(&t, !failed, array)
}

// execLocals is EXEC of a transaction with commands of nearside's own: they run
// once Redis has executed the others, and not if it has not.
func (s *session) execLocals(raw []byte, t *transaction) {
	if !s.awaitAnswers() {
		return
	}
	sl := s.slot()
	sl.writes, sl.all, sl.fence = t.writes, t.all, t.fence
	s.endTransaction()
	sl.beginAlone()
	b, err := s.pin.conn.Call(s.p.ctx, raw, 1)
	sl.settleAlone(b, err)
	executed := errors.Is(err, origin.ErrTooLarge)
	if err != nil {
		b = appendError(nil, s.p.originError(err))
	} else if n, _, ok := origin.Elements(b); ok && n >= 0 {
		executed = true
		s.runLocals(t)
		b = assemble(b, t.items)
	} else {
		distrustOpen(s.pin.conn, b)
	}
	if !executed {
		s.rollback(t)
	}
	s.replyRaw(b)
	if err != nil {
		b = nil
	}
	s.applySubs(t, executed, b)
}

// rollback returns to the databases that were selected before MULTI.
func (s *session) rollback(t *transaction) {
	s.db = t.before
	if s.pin != nil {
		s.pin.db = t.db
	}
}

func (s *session) endTransaction() {
	s.keep(-s.tx.kept)
	s.tx = transaction{}
	s.watching = false
}

func (s *session) discard(raw []byte) {
	t := s.tx
	if !t.lost {
		if line := s.refusal("discard"); line != nil { // the transaction stays open
			s.abortLater(string(cause(line)), true)
			return
		}
	}
	s.endTransaction()
	s.rollback(&t)
	if t.lost {
		s.replyString(replyOK)
		return
	}
	sl := s.slot()
	c := s.pin.conn
	sl.finish = func(_ *slot, b []byte, err error) []byte {
		if err != nil {
			return appendError(nil, s.p.originError(err))
		}
		distrustOpen(c, b)
		return b
	}
	s.sendPinned(sl, -1, raw, 1)
}

// distrustOpen closes a connection on which Redis has refused to end a transaction:
// it must never be anybody else's. reply is that to EXEC or DISCARD.
func distrustOpen(c *origin.Conn, reply []byte) {
	if leftOpen(reply) {
		c.Distrust(errOpen)
	}
}

// assemble builds the array that the client expects from the one that EXEC
// returned.
func assemble(b []byte, items []txItem) []byte {
	_, rest, _ := origin.Elements(b)
	out := redcon.AppendArray(make([]byte, 0, len(b)), len(items))
	var one []byte
	for i := range items {
		it := &items[i]
		for range it.inserted {
			_, rest = origin.Split(rest)
		}
		switch {
		case it.own != nil:
			out = append(out, it.own...)
		case it.parts > 0:
			replies := make([][]byte, 0, it.parts)
			for range it.parts {
				one, rest = origin.Split(rest)
				replies = append(replies, bytes.Clone(one))
			}
			out = append(out, it.merge(replies)...)
		default:
			one, rest = origin.Split(rest)
			out = append(out, one...)
		}
	}
	return out
}

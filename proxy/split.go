package proxy

import (
	"bytes"

	"nearside/proxy/origin"
)

// runPlan sends a plan's requests and returns a reply for each: as one transaction
// over both databases, or, where Redis refuses that to the user or for want of
// memory, one after the other, each on a connection to its database. What must be
// atomic is refused then.
func (s *session) runPlan(pl plan) ([][]byte, error) {
	if len(pl.parts) == 1 {
		b, err := s.call(pl.parts[0].db, pl.parts[0].req)
		return [][]byte{b}, err
	}
	if pl.whole != "" || !s.p.full.lasts(s.now) && !s.acl.split.Load().holds(s.p.l1, s.now) {
		replies, refused, err := s.runTogether(pl)
		switch {
		case err != nil || refused == nil:
			return replies, err
		case pl.whole != "" && refusalOf(refused) == refusedFull: // it needs memory, too
			return answerAll(pl, refused), nil
		case pl.whole != "":
			return answerAll(pl, appendError(nil, errApart(pl.whole, refused))), nil
		}
	}
	return s.runApart(pl)
}

// answerAll makes one line the reply to every request of a plan.
func answerAll(pl plan, line []byte) [][]byte {
	replies := make([][]byte, len(pl.parts))
	for i := range replies {
		replies[i] = line
	}
	return replies
}

// runTogether runs a plan as one transaction, on a connection of its own. refused is
// the error if Redis does not take it for what is nearside's part of it; nothing
// has been executed then.
//
// Redis has to accept the MULTI before anything is sent that stands in it: behind a
// refused one the commands would run, in whatever database is selected.
func (s *session) runTogether(pl plan) (replies [][]byte, refused []byte, err error) {
	c, err := s.planConn(pl.parts[0].db)
	if err != nil {
		return nil, nil, err
	}
	own := s.pin != nil && c == s.pin.conn
	clean := false
	if !own {
		defer func() { s.p.origin.Unpin(c, clean) }()
	}
	var lead int
	var req []byte
	if own {
		req, lead = s.lead(nil, -1)
	}
	b, err := s.p.callOwned(c, append(req, fetchHead...), lead+1)
	if err != nil {
		return nil, nil, err
	}
	if b = b[lastReply(b, lead):]; string(b) != replyOK {
		clean = true
		if refusalOf(b) == refusedNow { // the command itself would be refused
			return answerAll(pl, b), nil, nil
		}
		return nil, s.refuseSplit(b), nil
	}
	req = req[:0]
	for _, part := range pl.parts {
		req = append(appendSelect(req, part.db), part.req...)
	}
	n := 2 * len(pl.parts)
	if b, err = s.p.callOwned(c, append(req, fetchTail...), n+1); err != nil {
		return nil, nil, err
	}
	exec := b[lastReply(b, n):]
	if exec[0] != '-' {
		clean = true
		last := pl.parts[len(pl.parts)-1].db
		if own {
			s.pin.db = last
		} else {
			c.Reselect(last)
		}
		return s.takeApart(pl, exec), nil, nil
	}
	clean = !leftOpen(exec)
	if own && !clean {
		c.Close(errOpen)
	}
	line, ofCommand := queueError(b, exec)
	switch r := refusalOf(line); {
	case ofCommand && r != refusedFull, r == refusedNow:
		return answerAll(pl, appendError(nil, string(cause(line)))), nil, nil
	default:
		return nil, s.refuseSplit(line), nil
	}
}

// queueError finds why a transaction of SELECTs and commands was refused, and whether
// that was said of a command.
func queueError(b, exec []byte) (line []byte, ofCommand bool) {
	for i := 0; len(b) > len(exec); i++ {
		if line, b = origin.Split(b); line[0] == '-' {
			return line, i%2 == 1
		}
	}
	return exec, false
}

// refuseSplit remembers that Redis refuses the transaction over both databases.
func (s *session) refuseSplit(line []byte) []byte {
	if refusalOf(line) == refusedFull {
		s.p.full.note()
	} else {
		s.acl.split.Store(s.p.newDenial())
	}
	return bytes.Clone(line)
}

// takeApart finds the plan's replies among those that EXEC returned.
func (s *session) takeApart(pl plan, exec []byte) [][]byte {
	count, rest, ok := origin.Elements(exec)
	if !ok || count != 2*len(pl.parts) {
		return answerAll(pl, exec)
	}
	replies := make([][]byte, len(pl.parts))
	for i := range replies {
		_, rest = origin.Split(rest) // the SELECT's
		replies[i], rest = origin.Split(rest)
	}
	return replies
}

// runApart runs a plan's requests one after the other. While the client has CLIENT
// TRACKING on they run where Redis sees what it reads.
func (s *session) runApart(pl plan) ([][]byte, error) {
	replies := make([][]byte, len(pl.parts))
	for i, part := range pl.parts {
		var err error
		if s.track && !s.watching {
			replies[i], err = s.callSelected(part)
		} else {
			replies[i], err = s.call(part.db, part.req)
		}
		if err != nil {
			return nil, err
		}
		if isError(replies[i]) { // it is the answer to the whole, and should be all that happens
			return answerAll(pl, replies[i]), nil
		}
	}
	return replies, nil
}

// callSelected sends a plan's part on the pinned connection, behind a SELECT that Redis has accepted.
func (s *session) callSelected(part part) ([]byte, error) {
	if err := s.acquire(part.db); err != nil {
		return nil, err
	}
	line, err := s.trySelect(part.db)
	if err != nil || line != nil {
		return line, err
	}
	return s.callPinned(part.db, part.req)
}

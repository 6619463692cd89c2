package origin

import (
	"errors"
	"fmt"
)

// What can go wrong. Errors returned and handed to sinks wrap one of these (or
// are a *RefusedError); compare with errors.Is. No text contains credentials.
var (
	// ErrUnreachable: no connection could be made, so nothing was sent.
	ErrUnreachable = errors.New("origin unreachable")
	// ErrOtherServer: what answered is not the server that Expect named. It is
	// also an ErrUnreachable.
	ErrOtherServer = fmt.Errorf("%w: another server answered", ErrUnreachable)
	// ErrLost: the connection broke after the request was handed to it. Whether
	// Redis carried it out is unknown.
	ErrLost = errors.New("origin connection lost")
	// ErrTimeout: the origin answered nothing for Config.Timeout. Whether Redis
	// carried the request out is unknown.
	ErrTimeout = errors.New("origin timed out")
	// ErrTooManyPinned: Config.MaxPinned connections are out.
	ErrTooManyPinned = errors.New("too many pinned origin connections")
	// ErrTooManyConns: Config.MaxConns connections are open, none of them idle.
	ErrTooManyConns = errors.New("too many origin connections")
	// ErrFull: too much waits to be written; see TrySend.
	ErrFull = errors.New("too much is unsent on the origin connection")
	// ErrRetired: the shared connection had long been unused and was closed; nothing was
	// sent. Ask Shared for another one.
	ErrRetired = errors.New("unused origin connection closed")
	// ErrClosed: Origin.Close or Conn.Close(nil) was called.
	ErrClosed = errors.New("origin connection closed")
)

// RefusedError is the server's own refusal of a connection: wrong credentials,
// too many clients, a database that does not exist, a dataset being loaded.
type RefusedError struct {
	// Line is the error as the server wrote it, without the leading '-' and the
	// line end: "WRONGPASS invalid username-password pair or user is disabled."
	Line string

	client bool // nearside itself was let in, the group's user was not
}

func (e *RefusedError) Error() string { return e.Line }

//go:build !linux

package loop

import (
	"errors"
	"net"
)

// Here every connection has a goroutine.

// ErrNothing says that nothing has come, or that nothing more can be sent now.
var ErrNothing = errors.New("loop: the socket would block")

// Socket does not exist on this platform.
type Socket struct{ net.Conn }

// Detach fails.
func Detach(net.Conn) (*Socket, error) { return nil, errors.ErrUnsupported }

// TryRead is never called.
func (s *Socket) TryRead([]byte) (int, error) { return 0, errors.ErrUnsupported }

// TryWrite is never called.
func (s *Socket) TryWrite([]byte) (int, error) { return 0, errors.ErrUnsupported }

// Unwait is never called.
func (s *Socket) Unwait() {}

type watch struct{}

func (w *watch) open() error       { return errors.ErrUnsupported }
func (w *watch) close()            {}
func (w *watch) release()          {}
func (w *watch) interrupt()        {}
func (w *watch) remove(int, bool)  {}
func (l *Loop) lookUrgent()        {}
func (l *Loop) move(*Source, bool) {}
func (l *Loop) wait() bool         { return false }
func (l *Loop) add(*Source) bool   { return false }

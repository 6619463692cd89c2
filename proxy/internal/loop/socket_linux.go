package loop

import (
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket is a stream socket outside of Go's network poller. As a net.Conn it
// waits, by way of that poller; TryRead and TryWrite never do. All methods may be
// called from any goroutine.
type Socket struct {
	local, remote net.Addr

	mu      sync.RWMutex // held for reading around system calls, so that Close waits for them
	fd      int
	closed  bool
	closing func()   // called before the number is given back
	file    *os.File // a duplicate in Go's poller, while somebody waits or has waited
	waits   int      // goroutines that use file
	rd, wd  time.Time
}

// ErrNothing says that nothing has come, or that nothing more can be sent now.
var ErrNothing = errors.New("loop: the socket would block")

// Detach takes the socket out of a connection, which is closed.
func Detach(c net.Conn) (*Socket, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &Socket{local: c.LocalAddr(), remote: c.RemoteAddr()}
	var dupErr error
	if err := raw.Control(func(fd uintptr) {
		s.fd, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, os.NewSyscallError("dup", dupErr)
	}
	_ = c.Close() // the duplicate keeps the connection
	return s, nil
}

// use calls f with the descriptor, which is not closed meanwhile; false if it was already.
func (s *Socket) use(f func(fd int) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed && f(s.fd)
}

// TryRead reads what is there. io.EOF is the end, ErrNothing says that nothing
// has come. The system call is made without telling Go's scheduler, since it does not wait.
func (s *Socket) TryRead(b []byte) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	for {
		n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch {
		case e == 0 && n == 0 && len(b) > 0:
			return 0, io.EOF
		case e == 0:
			return int(n), nil
		case e == unix.EAGAIN:
			return 0, ErrNothing
		case e != unix.EINTR:
			return 0, os.NewSyscallError("read", e)
		}
	}
}

// TryWrite writes what the socket takes; with ErrNothing that is not all.
func (s *Socket) TryWrite(b []byte) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	done := 0
	for {
		switch {
		case s.closed:
			return done, net.ErrClosed
		case done == len(b):
			return done, nil
		}
		n, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b[done:]))), uintptr(len(b)-done))
		switch {
		case e == 0:
			done += int(n)
		case e == unix.EAGAIN:
			return done, ErrNothing
		case e != unix.EINTR:
			return done, os.NewSyscallError("write", e)
		}
	}
}

// wait hands out the duplicate in Go's poller.
func (s *Socket) wait() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	if s.file == nil {
		fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("dup", err)
		}
		f := os.NewFile(uintptr(fd), "socket")
		err = errors.Join(f.SetReadDeadline(s.rd), f.SetWriteDeadline(s.wd))
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		s.file = f
	}
	s.waits++
	return s.file, nil
}

func (s *Socket) waited() {
	s.mu.Lock()
	s.waits--
	s.mu.Unlock()
}

// Unwait takes the socket out of Go's poller again, unless somebody waits at this moment.
func (s *Socket) Unwait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil && s.waits == 0 && !s.closed {
		_ = s.file.Close() // the descriptor itself is still there
		s.file = nil
	}
}

// spare is how often a socket is tried for which there is no descriptor left to wait with.
const spare = 5 * time.Millisecond

// waitSpare is wait where a lack of descriptors is waited out, which ends no
// connection: meanwhile it tries, until that reports an end, or the deadline is over.
func (s *Socket) waitSpare(deadline *time.Time, try func() (ended bool)) (*os.File, error) {
	for {
		f, err := s.wait()
		if !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) {
			return f, err
		}
		if try() {
			return nil, nil
		}
		s.mu.RLock()
		overdue := !deadline.IsZero() && !deadline.After(time.Now())
		s.mu.RUnlock()
		if overdue {
			return nil, os.ErrDeadlineExceeded
		}
		time.Sleep(spare)
	}
}

// Read waits until something has come.
func (s *Socket) Read(b []byte) (int, error) {
	var tried int
	var tryErr error
	f, err := s.waitSpare(&s.rd, func() bool {
		tried, tryErr = s.TryRead(b)
		return !errors.Is(tryErr, ErrNothing)
	})
	if f == nil {
		return tried, cmp.Or(err, tryErr)
	}
	defer s.waited()
	n, err := f.Read(b)
	return n, plain(err)
}

// Write waits until everything is sent.
func (s *Socket) Write(b []byte) (int, error) {
	s.mu.RLock()
	overdue := !s.wd.IsZero() && !s.wd.After(time.Now())
	s.mu.RUnlock()
	done := 0
	if !overdue {
		n, err := s.TryWrite(b)
		if !errors.Is(err, ErrNothing) {
			return n, err
		}
		done = n
	}
	var tryErr error
	f, err := s.waitSpare(&s.wd, func() bool {
		n, err := s.TryWrite(b[done:])
		done, tryErr = done+n, err
		return !errors.Is(err, ErrNothing)
	})
	if f == nil {
		return done, cmp.Or(err, tryErr)
	}
	n, err := f.Write(b[done:])
	s.waited()
	s.Unwait()
	return done + n, plain(err)
}

// plain is the error without the name that os gives the file.
func plain(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	if errors.Is(err, os.ErrClosed) {
		return net.ErrClosed
	}
	return err
}

// CloseWrite tells the other end that nothing more comes.
func (s *Socket) CloseWrite() error {
	err := net.ErrClosed
	s.use(func(fd int) bool {
		err = os.NewSyscallError("shutdown", unix.Shutdown(fd, unix.SHUT_WR))
		return true
	})
	return err
}

// Close ends everything that waits.
func (s *Socket) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.closed = true
	if s.closing != nil {
		s.closing()
	}
	err := unix.Close(s.fd)
	f := s.file
	s.mu.Unlock()
	if f != nil {
		err = errors.Join(err, f.Close())
	}
	return err
}

// LocalAddr is this end's address.
func (s *Socket) LocalAddr() net.Addr { return s.local }

// RemoteAddr is the other end's address.
func (s *Socket) RemoteAddr() net.Addr { return s.remote }

// SetDeadline is both of the following.
func (s *Socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline ends Read at t. TryRead does not look at it.
func (s *Socket) SetReadDeadline(t time.Time) error {
	return s.deadline(&s.rd, t, (*os.File).SetReadDeadline)
}

// SetWriteDeadline ends Write at t. TryWrite does not look at it.
func (s *Socket) SetWriteDeadline(t time.Time) error {
	return s.deadline(&s.wd, t, (*os.File).SetWriteDeadline)
}

func (s *Socket) deadline(where *time.Time, t time.Time, set func(*os.File, time.Time) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	*where = t
	if s.file != nil {
		return set(s.file, t)
	}
	return nil
}

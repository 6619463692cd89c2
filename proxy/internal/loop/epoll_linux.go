package loop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// atOnce is how many sources are learned of at one time.
const atOnce = 128

// watch is an epoll instance. A loop waits in the kernel itself, and not by way of
// Go's poller, which would have to wake a goroutine for it.
type watch struct {
	events [atOnce]unix.EpollEvent

	mu    sync.RWMutex // held for reading around system calls other than the wait
	ep    int
	up    int // the urgent ones' epoll instance, which is a member of ep
	bell  int // an eventfd that interrupts the wait
	ended bool
}

func (w *watch) open() error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, bell, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(bell)})
	}
	up := -1
	if err == nil {
		up, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	}
	if err == nil {
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, up, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(up)})
	}
	if err != nil {
		for _, fd := range []int{ep, bell, up} {
			_ = unix.Close(fd) // -1 is refused
		}
		return fmt.Errorf("epoll: %w", err)
	}
	w.ep, w.up, w.bell = ep, up, bell
	return nil
}

var one = binary.NativeEndian.AppendUint64(nil, 1)

// interrupt ends the wait that is under way, or else the next one.
func (w *watch) interrupt() {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if !w.ended {
		// It fails only if it has been rung 2^64-2 times since it was last reset: never.
		_, _ = unix.Write(w.bell, one)
	}
}

// close ends the loop. The descriptors are closed by the loop itself, which may
// be waiting on them.
func (w *watch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.ended = true
		_, _ = unix.Write(w.bell, one)
	}
}

// release gives the descriptors back; for the loop itself, or before there is one.
func (w *watch) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	for _, fd := range []int{w.ep, w.up, w.bell} {
		_ = unix.Close(fd)
	}
}

// wait fills ready; false when the loop is to end.
func (l *Loop) wait() bool {
	w := &l.watch
	l.ready, l.next = l.ready[:0], 0
	l.mu.Lock()
	patience := -1
	if len(l.late) > 0 {
		patience = 0
	}
	l.mu.Unlock()
	n, err := unix.EpollWait(w.ep, w.events[:], patience)
	w.mu.RLock()
	ended := w.ended
	w.mu.RUnlock()
	if ended || err != nil && !errors.Is(err, unix.EINTR) { // no other error is possible
		w.release()
		l.end()
		return false
	}
	urgent := false
	for i := range n {
		urgent = urgent || w.events[i].Fd == int32(w.up)
	}
	l.mu.Lock()
	l.ready = l.found(l.ready, n)
	l.ready = append(l.ready, l.late...)
	clear(l.late)
	l.late = l.late[:0]
	l.mu.Unlock()
	if urgent {
		l.lookUrgent()
	}
	return true
}

// found adds the sources of n events to a list. mu is held.
func (l *Loop) found(list []*Source, n int) []*Source {
	for i := range n {
		// A closed socket's number may be another's by now, which then finds nothing to read.
		e := &l.watch.events[i]
		if s := l.members[int(e.Fd)]; s != nil {
			if e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLPRI) != 0 {
				s.hungUp.Store(true) // before the claim
			}
			list = append(list, s)
		}
	}
	return list
}

// lookUrgent puts those urgent sources that are ready before everything else.
func (l *Loop) lookUrgent() {
	if l.nextUp < len(l.first) {
		return // there still are some
	}
	n, err := unix.EpollWait(l.watch.up, l.watch.events[:], 0)
	if err != nil || n == 0 { // interrupted: the next look finds them
		return
	}
	l.mu.Lock()
	l.first, l.nextUp = l.found(l.first[:0], n), 0
	l.mu.Unlock()
}

// add makes a source one of the loop's. From then on it is claimed whenever it
// has received something. Edges, not levels: a source that is taken is not
// reported over and over.
func (l *Loop) add(s *Source) bool {
	w := &l.watch
	return s.use(func(fd int) bool { // the socket's lock comes before the watch's
		w.mu.RLock()
		defer w.mu.RUnlock()
		if w.ended {
			return false
		}
		l.mu.Lock()
		l.members[fd] = s
		l.mu.Unlock()
		s.closing = func() { l.forget(fd, s.urgent) }
		ep := w.ep
		if s.urgent {
			ep = w.up
			l.urgent.Add(1)
		}
		if unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, events(fd)) != nil {
			if s.urgent {
				l.urgent.Add(-1)
			}
			l.mu.Lock()
			delete(l.members, fd)
			l.mu.Unlock()
			s.closing = nil
			return false
		}
		return true
	})
}

func events(fd int) *unix.EpollEvent {
	return &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLPRI | edge, Fd: int32(fd)}
}

// move puts a member among the urgent ones, or among the others again. What is there
// to be read is reported once more.
func (l *Loop) move(s *Source, urgent bool) {
	w := &l.watch
	s.use(func(fd int) bool {
		w.mu.RLock()
		defer w.mu.RUnlock()
		if w.ended {
			return false
		}
		from, to, more := w.ep, w.up, int32(1)
		if !urgent {
			from, to, more = w.up, w.ep, -1
		}
		if unix.EpollCtl(to, unix.EPOLL_CTL_ADD, fd, events(fd)) != nil {
			return false // it stays where it is
		}
		_ = unix.EpollCtl(from, unix.EPOLL_CTL_DEL, fd, nil) // it cannot fail for a member
		s.urgent = urgent
		l.urgent.Add(more)
		return true
	})
}

// edge is EPOLLET, which is negative as the package has it.
const edge = 1 << 31

// remove is needed because the socket's description may live on in a duplicate.
func (w *watch) remove(fd int, urgent bool) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if !w.ended {
		ep := w.ep
		if urgent {
			ep = w.up
		}
		_ = unix.EpollCtl(ep, unix.EPOLL_CTL_DEL, fd, nil) // it cannot fail for a member
	}
}

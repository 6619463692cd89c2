//go:build linux

package loop

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// wild is an echo that does whatever an owner may do, in any order.
type wild struct {
	t    *testing.T
	src  *Source
	busy atomic.Int32
	over chan struct{}
}

func (w *wild) enter() {
	if w.busy.Add(1) != 1 {
		w.t.Error("two goroutines hold the source")
	}
}

func (w *wild) leave() { w.busy.Add(-1) }

func (w *wild) Ready(t *Turn) {
	w.enter()
	for range 4 {
		more, err := w.step(t)
		if err != nil || rand.IntN(10) == 0 {
			w.src.Take()
			w.leave()
			go w.alone(err)
			return
		}
		if more {
			continue
		}
		w.leave() // after Rest it may be another's
		if w.src.Rest() {
			return
		}
		w.enter()
	}
	w.leave()
	w.src.Again(t)
}

func (w *wild) step(t *Turn) (more bool, err error) {
	buf := t.Buffer()[:64]
	n, err := w.src.TryRead(buf)
	switch {
	case errors.Is(err, ErrNothing):
		return false, nil
	case err != nil:
		return false, err
	}
	switch rand.IntN(40) {
	case 0:
		t.Leave()
		time.Sleep(time.Millisecond)
	case 1:
		time.Sleep(3 * superviseEvery / time.Duration(1+rand.IntN(3)))
	case 2, 3, 4, 5:
		w.src.SetUrgent(rand.IntN(2) == 0)
	}
	_, err = w.src.Write(buf[:n])
	return n == len(buf) || w.src.HungUp(), err
}

func (w *wild) Woken() { w.alone(nil) }

// alone reads on a goroutine of its own for a while.
func (w *wild) alone(err error) {
	w.enter()
	buf := make([]byte, 64)
	for range 1 + rand.IntN(3) {
		if err != nil {
			break
		}
		_ = w.src.SetReadDeadline(time.Now().Add(time.Millisecond))
		var n int
		if n, err = w.src.Read(buf); errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		} else if err == nil {
			_, err = w.src.Write(buf[:n])
		}
	}
	w.leave()
	if err == nil {
		w.src.Unwait()
		if w.src.Return() {
			return
		}
	}
	_ = w.src.Close()
	close(w.over)
}

// Owners do everything that they may, are woken and closed at any moment, and the
// numbers of their sockets are used again at once. Nobody hangs, nothing is mixed up,
// and nothing is left.
func TestAnyOrder(t *testing.T) {
	g := startOne(t)
	until := time.Now().Add(time.Second)
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			for time.Now().Before(until) {
				anyOrder(t, g)
			}
		})
	}
	clients.Wait()
	if n, urgent := g.Members(), g.Pick(0).urgent.Load(); n != 0 || urgent != 0 {
		t.Errorf("%d members, %d urgent ones", n, urgent)
	}
}

func anyOrder(t *testing.T, g *Group) {
	t.Helper()
	ours, theirs, err := connected()
	if err != nil {
		t.Error(err)
		return
	}
	defer theirs.Close()
	s, err := Detach(ours)
	if err != nil {
		t.Error(err)
		return
	}
	w := &wild{t: t, over: make(chan struct{})}
	w.src = g.Pick(0).NewSource(s, w)
	w.src.SetUrgent(rand.IntN(2) == 0)
	if !w.src.Return() {
		t.Error("not taken")
		return
	}
	var waker sync.WaitGroup
	defer waker.Wait()
	kill := rand.IntN(3) == 0
	waker.Go(func() {
		for range 20 {
			w.src.Wake()
			time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond)
		}
		if kill {
			_ = w.src.Close()
			w.src.Wake()
		}
	})
	_ = theirs.SetDeadline(time.Now().Add(patience))
	for range 20 {
		out := make([]byte, 1+rand.IntN(300))
		for i := range out {
			out[i] = byte(rand.IntN(256))
		}
		in := make([]byte, len(out))
		_, _ = theirs.Write(out)
		if _, err := io.ReadFull(theirs, in); err != nil {
			if !kill || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%v; state %d", err, w.src.state.Load())
			}
			break
		}
		if !bytes.Equal(in, out) {
			t.Error("something else came back")
		}
	}
	if rand.IntN(2) == 0 {
		_ = theirs.(*net.TCPConn).SetLinger(0)
	}
	_ = theirs.Close()
	select {
	case <-w.over:
	case <-time.After(patience):
		t.Errorf("the end was not noticed; state %d", w.src.state.Load())
	}
}

// connected is both ends of a connection.
func connected() (ours, theirs net.Conn, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	if theirs, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		return nil, nil, err
	}
	ours, err = ln.Accept()
	return ours, theirs, err
}

package proxy

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
	"nearside/proxy/origin"
)

// bareSession is a session without a reader, on a socket whose other end is returned.
func bareSession(t *testing.T, change func(*Config)) (*session, net.Conn) {
	t.Helper()
	cfg := Config{Redis: "redis://127.0.0.1:1", Rules: sampleRules(), CacheDB: 1, MaxOutstanding: 64, ReplyBuffer: 64 << 10}
	if change != nil {
		change(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	_ = client.SetDeadline(time.Now().Add(redistest.Timeout))
	s := p.newSession(conn)
	t.Cleanup(func() {
		client.Close()
		s.shut()
		p.cancel()
		p.origin.Close()
		p.l1.Close()
		if used := p.budget.used.Load(); used != 0 {
			t.Errorf("%d bytes of the budget are never given back", used)
		}
	})
	return s, client
}

// numbered makes the i-th reply of a test.
func numbered(i, size int) []byte {
	body := strconv.Itoa(i) + ":"
	for len(body) < size {
		body += body
	}
	return fmt.Appendf(nil, "$%d\r\n%s\r\n", len(body), body)
}

// TestQueueOrder: whatever order answers come in, from however many goroutines,
// mixed with local replies and pushes, the client gets every reply once, in the
// order of the requests, and every push whole.
func TestQueueOrder(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(strconv.Itoa(int(seed)), func(t *testing.T) { queueOrder(t, seed) })
	}
}

func queueOrder(t *testing.T, seed uint64) {
	t.Helper()
	s, client := bareSession(t, nil)
	const requests, answerers = 3000, 4
	r := rand.New(rand.NewPCG(seed, 1))
	type job struct {
		sl *slot
		b  []byte
	}
	var wg sync.WaitGroup
	queues := make([]chan job, answerers)
	for a := range queues {
		queues[a] = make(chan job, 64)
		r := rand.New(rand.NewPCG(seed, uint64(a)+10))
		wg.Go(func() {
			var held []job
			var batch origin.Batch
			give := func() {
				for len(held) > 0 { // in any order
					i := r.IntN(len(held))
					j := held[i]
					held = append(held[:i], held[i+1:]...)
					if r.IntN(3) > 0 {
						j.sl.Reply(j.b, nil, &batch)
					} else {
						batch.Flush()
						j.sl.Reply(j.b, nil, nil)
					}
				}
				batch.Flush()
			}
			for j := range queues[a] {
				held = append(held, j)
				if len(queues[a]) == 0 || len(held) >= 1+r.IntN(20) {
					give()
				}
			}
			give()
		})
	}
	var pushes, stop atomic.Int64
	push := func() bool {
		n := pushes.Add(1)
		return s.pushOut(fmt.Appendf(nil, ">2\r\n$1\r\np\r\n:%d\r\n", n))
	}
	wg.Go(func() {
		for stop.Load() == 0 && pushes.Load() < 5000 {
			if !push() {
				t.Error("push refused")
				return
			}
			s.Flush()
		}
	})

	got := make(chan error, 1)
	go func() { got <- readNumbered(client, requests, seed) }()
	s.becomeAsync()
	for i := range requests {
		if !s.awaitRoom() {
			t.Fatal("closed")
		}
		size := r.IntN(64)
		switch r.IntN(40) {
		case 0:
			size = origin.TakeSize + 1 + r.IntN(100_000)
		case 1:
			size = 8000 + r.IntN(8000)
		}
		switch kind := r.IntN(10); {
		case kind < 3:
			s.replyRaw(numbered(i, size))
		case kind == 3:
			s.replyRaw(numbered(i, size))
			s.flushReplies()
		default:
			sl := s.slot()
			sl.overtaken = r.IntN(2) == 0
			s.push(&sl.pending, nil)
			queues[r.IntN(answerers)] <- job{sl, numbered(i, size)}
		}
		switch r.IntN(300) {
		case 0:
			if !s.awaitAnswers() {
				t.Fatal("closed")
			}
		case 1:
			s.flushReplies()
		}
	}
	stop.Store(1)
	for _, q := range queues {
		close(q)
	}
	if !s.awaitAnswers() {
		t.Fatal("closed")
	}
	wg.Wait()
	s.flushReplies()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	if s.q.n != 0 || s.q.unanswered != 0 || s.q.writes != 0 || s.q.head != nil {
		t.Errorf("left in the queue: %d slots, %d unanswered, %d writes", s.q.n, s.q.unanswered, s.q.writes)
	}
}

// readNumbered reads replies 0 … n-1 and any pushes between them, not always eagerly.
func readNumbered(c net.Conn, n int, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 99))
	buf := make([]byte, 64<<10)
	var rest []byte
	next := 0
	for next < n {
		size := 1 + r.IntN(len(buf))
		got, err := c.Read(buf[:size])
		if err != nil {
			return fmt.Errorf("after %d replies: %w", next, err)
		}
		rest = append(rest, buf[:got]...)
		for {
			size, err := origin.Next(rest)
			if err != nil {
				return fmt.Errorf("after %d replies: %w", next, err)
			}
			if size == 0 {
				break
			}
			frame := rest[:size]
			rest = rest[size:]
			if frame[0] == '>' {
				continue
			}
			value, _, _, _ := origin.Bulk(frame)
			if head := strconv.Itoa(next) + ":"; !bytes.HasPrefix(value, []byte(head)) || !bytes.Equal(frame, numbered(next, len(head)*(len(value)/len(head)))) && len(value) == len(head) {
				return fmt.Errorf("reply %.40q in the place of %d", frame, next)
			}
			next++
		}
	}
	return nil
}

// TestQueueBounds: a session stops reading when MaxOutstanding requests are
// unanswered or ReplyBuffer bytes are unsent, and goes on when that is over.
func TestQueueBounds(t *testing.T) {
	t.Run("outstanding", func(t *testing.T) {
		s, client := bareSession(t, nil)
		go func() { _, _ = io.Copy(io.Discard, client) }()
		var slots []*slot
		for range 64 {
			if !s.awaitRoom() {
				t.Fatal("closed")
			}
			sl := s.slot()
			s.push(&sl.pending, nil)
			slots = append(slots, sl)
		}
		goesOn := make(chan bool, 1)
		go func() { goesOn <- s.awaitRoom() }()
		for i, sl := range slots {
			if i < 32 {
				awaitWaiting(t, s)
				select {
				case <-goesOn:
					t.Fatalf("it goes on with %d unanswered", 64-i)
				default:
				}
			}
			sl.Reply([]byte("+OK\r\n"), nil, nil)
		}
		if !<-goesOn {
			t.Fatal("closed")
		}
	})
	t.Run("unsent", func(t *testing.T) {
		s, client := bareSession(t, nil)
		s.becomeAsync()
		total := 0
		for {
			s.q.mu.Lock()
			full := s.q.size > s.p.cfg.ReplyBuffer
			s.q.mu.Unlock()
			if full {
				break
			}
			if !s.awaitRoom() {
				t.Fatal("closed")
			}
			b := numbered(0, 1000)
			total += len(b)
			s.replyRaw(b)
			s.Flush() // as an origin's reader: never waits
			if total > 64<<20 {
				t.Fatal("64 MiB went somewhere that the client has not read")
			}
		}
		if used := s.p.budget.used.Load(); used <= s.p.cfg.ReplyBuffer || used > s.p.cfg.ReplyBuffer+2000 {
			t.Errorf("the budget counts %d bytes", used)
		}
		goesOn := make(chan bool, 1)
		go func() { goesOn <- s.awaitRoom() }()
		awaitWaiting(t, s)
		if _, err := io.CopyN(io.Discard, client, int64(total)); err != nil {
			t.Fatal(err)
		}
		if !<-goesOn {
			t.Fatal("closed")
		}
	})
	t.Run("closed", func(t *testing.T) {
		s, _ := bareSession(t, nil)
		for range 64 {
			s.push(&s.slot().pending, nil)
		}
		goesOn := make(chan bool, 1)
		go func() { goesOn <- s.awaitRoom() }()
		awaitWaiting(t, s)
		s.shut()
		if <-goesOn {
			t.Error("it goes on after the end")
		}
	})
}

// awaitWaiting waits until the session's reader waits for room or answers.
func awaitWaiting(t *testing.T, s *session) {
	t.Helper()
	deadline := time.Now().Add(redistest.Timeout)
	for {
		s.q.mu.Lock()
		waiting := s.q.waiting
		s.q.mu.Unlock()
		if waiting {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the reader never waits")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestQueueClosed: what comes after the end of a session is counted nowhere.
func TestQueueClosed(t *testing.T) {
	s, _ := bareSession(t, nil)
	first, second, third := s.slot(), s.slot(), s.slot()
	s.replyRaw(numbered(0, 100)) // the reader's own, not sent yet
	s.push(&first.pending, nil)
	s.push(&second.pending, nil)
	second.Reply(numbered(2, 1000), nil, nil)
	s.shut()
	s.push(&third.pending, nil)
	first.Reply(numbered(1, 1000), nil, nil)
	third.Reply(numbered(3, 100_000), nil, nil)
	s.replyRaw(numbered(4, 100))
	s.pushOut([]byte("+x\r\n"))
	s.Flush()
	if used := s.p.budget.used.Load(); used != 0 || s.account.bytes() != 0 {
		t.Errorf("%d bytes are counted after the end, %d of them the session's", used, s.account.bytes())
	}

	// The reader finds out late: it has something of its own to say first.
	late, _ := bareSession(t, nil)
	late.replyRaw(numbered(0, 100))
	late.shut()
	late.push(&late.slot().pending, nil)
	if used := late.p.budget.used.Load(); used != 0 {
		t.Errorf("%d bytes are counted after the end", used)
	}
}

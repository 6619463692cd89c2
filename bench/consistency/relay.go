package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// scope says which of a relay's connections a fault is for.
type scope int32

const (
	nobody scope = iota
	onlyLink
	everyone
)

func (s scope) holds(link bool) bool { return s == everyone || s == onlyLink && link }

func (s scope) String() string { return [...]string{"nobody", "link", "all"}[s] }

// sabotage is what a relay does to make a nearside wrong.
type sabotage struct {
	DropPush  int           // one of so many invalidation pushes is swallowed; 0: none
	DelayPush time.Duration // pushes arrive so much later than what follows them
	AddPTTL   time.Duration // what the PTTL of a fetch is exaggerated by
	Thief     bool          // somebody deletes locks and counts in ledgers (not the relay's doing)
}

// relay stands between a nearside and Redis.
type relay struct {
	ln     net.Listener
	target string
	sab    sabotage

	refuse    atomic.Int32 // scope: new connections are closed, as soon as they are recognised
	blackhole atomic.Int32 // scope: nothing gets through, nothing is closed
	delay     atomic.Int64 // nanoseconds that everything is held in each direction

	pushes  atomic.Int64 // invalidations seen
	dropped atomic.Int64
	links   atomic.Int64 // connections recognised as links

	mu    sync.Mutex
	pairs map[*pair]struct{}
}

// pair is one connection through the relay.
type pair struct {
	r        *relay
	down, up *net.TCPConn // towards nearside, towards Redis
	link     atomic.Bool
	seen     int // bytes searched for CLIENT TRACKING
	tail     []byte
	write    sync.Mutex // of down
}

func newRelay(target string, sab sabotage) (*relay, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{ln: ln, target: target, sab: sab, pairs: map[*pair]struct{}{}}
	go r.accept()
	return r, nil
}

func (r *relay) addr() string { return r.ln.Addr().String() }

func (r *relay) accept() {
	for {
		c, err := r.ln.Accept()
		if err != nil {
			return
		}
		go r.serve(c.(*net.TCPConn))
	}
}

func (r *relay) serve(down *net.TCPConn) {
	if scope(r.refuse.Load()) == everyone {
		_ = down.Close()
		return
	}
	c, err := net.DialTimeout("tcp", r.target, time.Second)
	if err != nil {
		_ = down.Close()
		return
	}
	p := &pair{r: r, down: down, up: c.(*net.TCPConn)}
	r.mu.Lock()
	r.pairs[p] = struct{}{}
	r.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(p.requests)
	wg.Go(p.replies)
	wg.Wait()
	p.close()
	r.mu.Lock()
	delete(r.pairs, p)
	r.mu.Unlock()
}

func (p *pair) close() {
	_ = p.down.Close()
	_ = p.up.Close()
}

// requests carries what nearside sends.
func (p *pair) requests() {
	out := newHolder(func(b []byte) error { _, err := p.up.Write(b); return err }, p.up.CloseWrite)
	defer out.end()
	b := make([]byte, 64<<10)
	for {
		n, err := p.down.Read(b)
		if n > 0 {
			p.recognise(b[:n])
			if scope(p.r.refuse.Load()).holds(p.link.Load()) {
				p.close()
				return
			}
			if !p.pass() {
				return
			}
			out.send(bytes.Clone(b[:n]), time.Duration(p.r.delay.Load()))
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				p.close()
			}
			return
		}
	}
}

var tracking = []byte("TRACKING\r\n")

// recognise finds CLIENT TRACKING in the first bytes of a connection.
func (p *pair) recognise(b []byte) {
	if p.link.Load() || p.seen > 4096 {
		return
	}
	p.seen += len(b)
	p.tail = append(p.tail, bytes.ToUpper(b)...)
	if bytes.Contains(p.tail, tracking) {
		p.link.Store(true)
		p.r.links.Add(1)
		p.tail = nil
	}
}

// pass waits while the connection is in a black hole. It reports false when it
// has been closed there.
func (p *pair) pass() bool {
	for scope(p.r.blackhole.Load()).holds(p.link.Load()) {
		time.Sleep(2 * time.Millisecond)
		p.r.mu.Lock()
		_, ok := p.r.pairs[p]
		p.r.mu.Unlock()
		if !ok {
			return false
		}
	}
	return true
}

// replies carries what Redis sends, frame by frame if something is to be done to them.
func (p *pair) replies() {
	out := newHolder(p.toClient, p.down.CloseWrite)
	defer out.end()
	late := newHolder(p.toClient, nil)
	defer late.end()
	in := bufio.NewReaderSize(p.up, 64<<10)
	raw := p.r.sab == sabotage{Thief: p.r.sab.Thief}
	b := make([]byte, 64<<10)
	for {
		var f []byte
		var err error
		if raw {
			var n int
			n, err = in.Read(b)
			f = bytes.Clone(b[:n])
		} else {
			f, err = readFrame(in, nil)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				p.close()
			}
			return
		}
		if !p.pass() {
			return
		}
		delay := time.Duration(p.r.delay.Load())
		if !raw && isInvalidation(f) {
			n := p.r.pushes.Add(1)
			if d := p.r.sab.DropPush; d > 0 && n%int64(d) == 0 {
				p.r.dropped.Add(1)
				continue
			}
			if p.r.sab.DelayPush > 0 {
				late.send(f, p.r.sab.DelayPush)
				continue
			}
		}
		if p.r.sab.AddPTTL > 0 {
			f = exaggerate(f, p.r.sab.AddPTTL)
		}
		out.send(f, delay)
	}
}

func (p *pair) toClient(b []byte) error {
	p.write.Lock()
	defer p.write.Unlock()
	_, err := p.down.Write(b)
	return err
}

// holder sends chunks in order, each not before its time.
type holder struct {
	c    chan held
	done chan struct{}
}

type held struct {
	b  []byte
	at time.Time
}

func newHolder(write func([]byte) error, finish func() error) *holder {
	h := &holder{c: make(chan held, 4096), done: make(chan struct{})}
	go func() {
		defer close(h.done)
		broken := false
		for x := range h.c {
			if d := time.Until(x.at); d > 0 && !broken {
				time.Sleep(d)
			}
			if !broken && write(x.b) != nil {
				broken = true
			}
		}
		if finish != nil {
			_ = finish()
		}
	}()
	return h
}

func (h *holder) send(b []byte, delay time.Duration) { h.c <- held{b, time.Now().Add(delay)} }

func (h *holder) end() {
	close(h.c)
	<-h.done
}

// cut closes connections, as a firewall that sends RST does.
func (r *relay) cut(s scope) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.pairs {
		if s.holds(p.link.Load()) {
			_ = p.down.SetLinger(0)
			p.close()
		}
	}
}

// halfClose ends one direction only: nearside reads the end of the stream, and
// what it writes still arrives.
func (r *relay) halfClose(s scope) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.pairs {
		if s.holds(p.link.Load()) {
			_ = p.down.CloseWrite()
		}
	}
}

func (r *relay) close() {
	_ = r.ln.Close()
	r.blackhole.Store(0)
	r.cut(everyone)
}

// readFrame appends one whole RESP frame to b.
func readFrame(in *bufio.Reader, b []byte) ([]byte, error) {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return b, err
	}
	b = append(b, line...)
	if len(line) < 3 {
		return b, fmt.Errorf("not RESP: %q", line)
	}
	switch line[0] {
	case '+', '-', ':', '_', '#', ',', '(':
		return b, nil
	case '$', '=', '!', '*', '>', '~', '%', '|':
	default:
		return b, fmt.Errorf("not RESP: %q", line)
	}
	n, err := strconv.Atoi(string(line[1 : len(line)-2]))
	if err != nil {
		return b, err
	}
	switch line[0] {
	case '$', '=', '!':
		if n < 0 {
			return b, nil
		}
		at := len(b)
		b = append(b, make([]byte, n+2)...)
		_, err = io.ReadFull(in, b[at:])
		return b, err
	case '%', '|':
		n *= 2
	}
	for range n {
		if b, err = readFrame(in, b); err != nil {
			return b, err
		}
	}
	return b, nil
}

func isInvalidation(f []byte) bool {
	return bytes.HasPrefix(f, []byte(">2\r\n$10\r\ninvalidate\r\n"))
}

// exaggerate adds to the PTTL at the end of a fetch's EXEC reply.
func exaggerate(f []byte, by time.Duration) []byte {
	if !bytes.HasPrefix(f, []byte("*2\r\n")) {
		return f
	}
	at := bytes.LastIndex(f[:len(f)-2], []byte("\r\n:"))
	if at < 0 {
		return f
	}
	n, err := strconv.ParseInt(string(f[at+3:len(f)-2]), 10, 64)
	if err != nil || n <= 0 {
		return f
	}
	return fmt.Appendf(f[:at:at], "\r\n:%d\r\n", n+by.Milliseconds())
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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
	onlyData
	everyone
)

func (s scope) holds(link bool) bool {
	return s == everyone || s == onlyLink && link || s == onlyData && !link
}

// sabotage is what a relay does to make a nearside wrong.
type sabotage struct {
	DropPush  int           // one of so many invalidation pushes is swallowed; 0: none
	DelayPush time.Duration // pushes arrive so much later than what follows them
	AddPTTL   time.Duration // what the PTTL of a fetch is exaggerated by
	Thief     bool          // somebody deletes locks and counts in ledgers (not the relay's doing)
	Count     bool          // no sabotage: invalidations are counted
}

// looks tells whether the relay must look into what it carries.
func (s sabotage) looks() bool { return s.DropPush > 0 || s.DelayPush > 0 || s.AddPTTL > 0 || s.Count }

// relay stands between a nearside and Redis.
type relay struct {
	ln     net.Listener
	target atomic.Pointer[string]
	sab    sabotage
	lag    time.Duration // that what Redis says on the link is always held

	refuse    atomic.Int32 // scope: new connections are closed, as soon as they are recognised
	blackhole atomic.Int32 // scope: nothing gets through, nothing is closed
	delay     atomic.Int64 // nanoseconds that everything is held in each direction
	jitter    atomic.Int64 // nanoseconds: each connection is held by a share of this that changes all the time
	narrow    atomic.Bool  // the kernel is to hold little for connections from now on

	catch atomic.Pointer[catch]

	pushes  atomic.Int64 // invalidations seen
	keys    atomic.Int64 // in them
	dropped atomic.Int64
	links   atomic.Int64 // connections recognised as links
	reached atomic.Int64 // data connections that have been answered since target was set

	mu    sync.Mutex
	pairs map[*pair]struct{}
}

// catch holds what Redis says on the connection that has carried a word, from then on.
type catch struct {
	word    []byte
	holds   chan struct{} // closed when there is something to hold
	release chan struct{} // to be closed when it may go on
}

// pair is one connection through the relay.
type pair struct {
	r        *relay
	down, up *net.TCPConn // towards nearside, towards Redis
	to       *string      // where up leads
	link     atomic.Bool
	caught   atomic.Pointer[catch]
	said     bool // something has come from Redis
	seen     int  // bytes searched for what only a link says
	tail     []byte
	write    sync.Mutex // of down
}

func newRelay(target string, cfg *Config) (*relay, error) {
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{ln: ln, sab: cfg.Sabotage, lag: cfg.LinkLag, pairs: map[*pair]struct{}{}}
	r.jitter.Store(int64(cfg.Jitter))
	r.redirect(target)
	go r.accept()
	return r, nil
}

func (r *relay) addr() string { return r.ln.Addr().String() }

// redirect has new connections lead to another server.
func (r *relay) redirect(target string) {
	r.target.Store(&target)
	r.reached.Store(0)
}

// hold is for how long something is held now.
func (p *pair) hold() time.Duration {
	d := time.Duration(p.r.delay.Load())
	if j := p.r.jitter.Load(); j > 0 {
		d += time.Duration(rand.Int64N(j))
	}
	return d
}

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
	to := r.target.Load()
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", *to)
	if err != nil {
		_ = down.Close()
		return
	}
	p := &pair{r: r, to: to, down: down, up: c.(*net.TCPConn)}
	if r.narrow.Load() {
		_ = p.up.SetReadBuffer(4 << 10)
	}
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
			// A connection that is not recognised yet may become a link.
			if s := scope(p.r.refuse.Load()); s == everyone || s == onlyLink && p.link.Load() || s == onlyData && !p.link.Load() && p.seen > 512 {
				p.close()
				return
			}
			if !p.pass() {
				return
			}
			if c := p.r.catch.Load(); c != nil && bytes.Contains(b[:n], c.word) && p.r.catch.CompareAndSwap(c, nil) {
				p.caught.Store(c)
			}
			out.send(bytes.Clone(b[:n]), p.hold())
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				p.close()
			}
			return
		}
	}
}

// Only a link says one of these, in the order of the modes.
var ofLinks = [][]byte{[]byte("TRACKING\r\n"), []byte("PSUBSCRIBE\r\n"), []byte("NOTIFY-KEYSPACE-EVENTS\r\n")}

// recognise looks for what makes a link in the first bytes of a connection.
func (p *pair) recognise(b []byte) {
	if p.link.Load() || p.seen > 4096 {
		return
	}
	p.seen += len(b)
	p.tail = append(p.tail, bytes.ToUpper(b)...)
	for _, words := range ofLinks {
		if bytes.Contains(p.tail, words) {
			p.link.Store(true)
			p.r.links.Add(1)
			p.tail = nil
			return
		}
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
	raw := !p.r.sab.looks()
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
		if c := p.caught.Swap(nil); c != nil {
			close(c.holds)
			<-c.release
		}
		delay := p.hold()
		if p.link.Load() {
			delay += p.r.lag
		}
		if !p.said && !p.link.Load() && p.to == p.r.target.Load() {
			p.said = true
			p.r.reached.Add(1)
		}
		if !raw && isInvalidation(f) {
			n := p.r.pushes.Add(1)
			p.r.keys.Add(invalidated(f))
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

// linkAddrs are the addresses from which the links come, for Redis.
func (r *relay) linkAddrs() (addrs []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.pairs {
		if p.link.Load() {
			addrs = append(addrs, p.up.LocalAddr().String())
		}
	}
	return addrs
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

// invalidated is the number of keys in an invalidation.
func invalidated(f []byte) int64 {
	rest := f[len(">2\r\n$10\r\ninvalidate\r\n"):]
	if rest[0] != '*' {
		return 0 // null: everything
	}
	n, _ := strconv.ParseInt(string(rest[1:bytes.IndexByte(rest, '\r')]), 10, 64)
	return n
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

package redistest

import (
	"bytes"
	"net"
	"sync"
	"testing"
)

// Relay stands between nearside and a Redis and holds bytes back at a moment
// of the test's choosing. Everything else flows.
type Relay struct {
	Addr string
	t    testing.TB
	to   string
	ln   net.Listener

	mu    sync.Mutex
	conns map[int]*relayed
	next  int
	holds []*Held // not matched yet
	all   []*Held // to be released at the end, whatever the test forgot
	log   []Event
	deaf  bool
	wg    sync.WaitGroup
}

// Event is one chunk of bytes that passed.
type Event struct {
	Conn    int  // number of the connection, from 1
	Request bool // towards Redis
	Bytes   string
}

// Held is a place where bytes are held back.
type Held struct {
	// Arrived is closed when the bytes are there and wait.
	Arrived chan struct{}
	release chan struct{}
	once    sync.Once
	request bool
	match   []byte
}

// Release lets the bytes go on.
func (h *Held) Release() { h.once.Do(func() { close(h.release) }) }

type relayed struct {
	client, server net.Conn
}

// NewRelay starts a relay in front of a server.
func NewRelay(t testing.TB, to string) *Relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{Addr: ln.Addr().String(), t: t, to: to, ln: ln, conns: map[int]*relayed{}}
	r.wg.Go(r.accept)
	t.Cleanup(r.close)
	return r
}

// URL is what nearside connects to.
func (r *Relay) URL() string { return "redis://" + r.Addr }

func (r *Relay) close() {
	_ = r.ln.Close()
	r.mu.Lock()
	for _, h := range r.all {
		h.Release()
	}
	r.holds, r.all = nil, nil
	r.mu.Unlock()
	r.Cut()
	r.wg.Wait()
}

func (r *Relay) accept() {
	for {
		client, err := r.ln.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		deaf, to := r.deaf, r.to
		r.mu.Unlock()
		if deaf {
			_ = client.Close()
			continue
		}
		server, err := net.Dial("tcp", to)
		if err != nil {
			_ = client.Close()
			continue
		}
		r.mu.Lock()
		r.next++
		id := r.next
		r.conns[id] = &relayed{client, server}
		r.mu.Unlock()
		r.wg.Go(func() { r.pipe(id, client, server, true) })
		r.wg.Go(func() { r.pipe(id, server, client, false) })
	}
}

func (r *Relay) pipe(id int, from, to net.Conn, request bool) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 256<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		var wait *Held
		for i, h := range r.holds {
			if h.request == request && bytes.Contains(buf[:n], h.match) {
				wait = h
				r.holds = append(r.holds[:i:i], r.holds[i+1:]...)
				break
			}
		}
		r.mu.Unlock()
		if wait != nil {
			close(wait.Arrived)
			<-wait.release
		}
		r.mu.Lock()
		r.log = append(r.log, Event{id, request, string(buf[:n])})
		r.mu.Unlock()
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// HoldRequest holds back the next bytes towards Redis that contain match, and
// what follows them on their connection.
func (r *Relay) HoldRequest(match string) *Held { return r.hold(match, true) }

// HoldReply holds back the next bytes from Redis that contain match.
func (r *Relay) HoldReply(match string) *Held { return r.hold(match, false) }

func (r *Relay) hold(match string, request bool) *Held {
	h := &Held{Arrived: make(chan struct{}), release: make(chan struct{}), request: request, match: []byte(match)}
	r.mu.Lock()
	r.holds = append(r.holds, h)
	r.all = append(r.all, h)
	r.mu.Unlock()
	return h
}

// Log returns what has passed so far.
func (r *Relay) Log() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Event(nil), r.log...)
}

// Find returns the position in the log of the first bytes with match, and
// their connection; -1 if they have not passed.
func (r *Relay) Find(match string, request bool) (at, conn int) {
	for i, e := range r.Log() {
		if e.Request == request && bytes.Contains([]byte(e.Bytes), []byte(match)) {
			return i, e.Conn
		}
	}
	return -1, 0
}

// Cut breaks all connections; CutConn breaks one.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, c := range r.conns {
		_ = c.client.Close()
		_ = c.server.Close()
		delete(r.conns, id)
	}
}

// CutConn breaks the connection with that number.
func (r *Relay) CutConn(id int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.conns[id]; c != nil {
		_ = c.client.Close()
		_ = c.server.Close()
		delete(r.conns, id)
	}
}

// Refuse makes the relay close every new connection at once, or stops that.
func (r *Relay) Refuse(on bool) {
	r.mu.Lock()
	r.deaf = on
	r.mu.Unlock()
}

// CutAllBut breaks all connections but one.
func (r *Relay) CutAllBut(id int) {
	r.mu.Lock()
	keep := r.conns[id]
	delete(r.conns, id)
	r.mu.Unlock()
	r.Cut()
	r.mu.Lock()
	r.conns[id] = keep
	r.mu.Unlock()
}

// Redirect sends new connections to another server.
func (r *Relay) Redirect(to string) {
	r.mu.Lock()
	r.to = to
	r.mu.Unlock()
}

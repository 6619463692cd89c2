package origin

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"nearside/proxy/internal/loop"
)

// What the client library would print, past nearside's own log and its format, is
// in the errors that it returns.
func init() { logging.Disable() }

// Group names connections that are interchangeable.
type Group struct {
	DB    int
	Proto int  // 2 or 3
	Lock  bool // the locks' own
	Reads bool // for what Redis holds back on no account, while a shared connection is stalled
	Alone bool // shared by what should have a Lane and found no room for one
	// User and Password as the client gave them. User "" with a Password is the
	// AUTH of one argument. Both "": nearside's own credentials.
	User, Password string
}

// String leaves the password out, wherever a Group is printed.
func (g Group) String() string {
	return fmt.Sprintf("db %d, RESP%d, lock %t, user %q", g.DB, g.Proto, g.Lock, g.User)
}

// GoString is String.
func (g Group) GoString() string { return g.String() }

func (g Group) own() bool { return g.User == "" && g.Password == "" }

// dial makes a connection for g, checks who answered, and starts its reader.
func (o *Origin) dial(ctx context.Context, g Group, k kind, prepare func(*Conn)) (*Conn, error) {
	if o.cfg.MaxConns > 0 && k != dialled && k != heartbeat {
		if err := o.makeRoom(); err != nil {
			return nil, err
		}
		defer o.opened()
	}
	o.dials.Add(1)
	c, err := o.connect(ctx, g, k)
	if err == nil {
		if k.data() {
			if o.cfg.OnConnect != nil {
				o.cfg.OnConnect(c.runID)
			}
		}
		if prepare != nil {
			prepare(c)
		}
		if err = o.register(c); err == nil {
			return c, nil
		}
		_ = c.raw.Close()
	}
	o.dialErrors.Add(1)
	o.dialError.Store(&err)
	return nil, err
}

// makeRoom finds room for one more connection in Config.MaxConns, at the cost of idle
// ones. opened is called when it is one of the origin's, or could not be made.
func (o *Origin) makeRoom() error {
	o.mu.Lock()
	if len(o.conns)+o.opening < o.cfg.MaxConns {
		o.opening++
		o.mu.Unlock()
		return nil
	}
	var surplus []*Conn
	n := o.opening + 1
	for c := range o.conns {
		if c.kind != dialled && c.kind != heartbeat && c.Err() == nil {
			n++
		}
	}
	for ; n > o.cfg.MaxConns && len(o.idle) > 0; n-- {
		surplus = append(surplus, o.idle[0])
		o.idle = append(o.idle[:0], o.idle[1:]...)
	}
	room := n <= o.cfg.MaxConns
	if room {
		o.opening++
	}
	o.mu.Unlock()
	for _, c := range surplus {
		c.fail(ErrClosed)
	}
	if !room {
		return ErrTooManyConns
	}
	return nil
}

func (o *Origin) opened() {
	o.mu.Lock()
	o.opening--
	o.mu.Unlock()
}

// register makes c one of the origin's connections and starts its reader.
func (o *Origin) register(c *Conn) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return ErrClosed
	}
	if c.kind.data() && o.other(c) {
		return fmt.Errorf("%w: run id %s instead of %s", ErrOtherServer, c.runID, o.expect)
	}
	o.conns[c] = struct{}{}
	c.startReading()
	return nil
}

// other is called with mu held.
func (o *Origin) other(c *Conn) bool {
	return o.expect != "" && c.runID != "" && c.runID != o.expect
}

// forget is the end of register, called by the reader when its connection is broken.
func (o *Origin) forget(c *Conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.conns, c)
	for i, d := range o.idle {
		if d == c {
			o.idle = append(o.idle[:i], o.idle[i+1:]...)
			return
		}
	}
}

// connect logs in as nearside itself, asks for the run id and only then becomes
// the group's user: that one may lack the right to SELECT or INFO, and needs
// neither on a connection of Redis's own. Where nearside itself is not let in, the
// client's credentials have to do for everything.
func (o *Origin) connect(ctx context.Context, g Group, k kind) (*Conn, error) {
	if err := o.ctx.Err(); err != nil {
		return nil, ErrClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(o.ctx, cancel)()

	opt := *o.opt
	o.secure(&opt)
	if k == bare {
		opt.Username, opt.Password = "", ""
		return o.handshake(ctx, &opt, g, k, false)
	}
	c, err := o.enter(ctx, &opt, g, k)
	if re, refused := errors.AsType[*RefusedError](err); refused && !re.client && re.login() && g.Password != "" {
		opt.Username, opt.Password = g.User, g.Password
		if d, err2 := o.handshake(ctx, &opt, g, k, false); err2 == nil || isRefused(err2) {
			c, err = d, err2
		}
	}
	return c, err
}

// login tells whether the server turned nearside itself away.
func (e *RefusedError) login() bool {
	return strings.HasPrefix(e.Line, "NOAUTH") || strings.HasPrefix(e.Line, "WRONGPASS") ||
		strings.HasPrefix(e.Line, "NOPERM") || strings.HasPrefix(e.Line, "ERR invalid password")
}

func isRefused(err error) bool {
	_, ok := errors.AsType[*RefusedError](err)
	return ok
}

// handshake dials and lets go-redis speak until the connection is ready for g.
func (o *Origin) handshake(ctx context.Context, opt *redis.Options, g Group, k kind, auth bool) (*Conn, error) {
	nc, err := redis.NewDialer(opt)(ctx, opt.Network, opt.Addr)
	if err != nil {
		return nil, o.unreachable(err)
	}
	raw := nc
	if t, ok := nc.(*tls.Conn); ok {
		raw = t.NetConn()
	}
	tuneSocket(raw, o.cfg.Timeout)
	t := &tap{Conn: nc, o: o}

	opt.Protocol = g.Proto
	opt.DB = g.DB
	opt.ReadTimeout = grace(o.cfg.Timeout)
	opt.WriteTimeout = opt.ReadTimeout
	opt.PoolSize = 2 // with 1, a failed handshake would make go-redis dial again behind our back
	opt.PipelinePoolSize = -1
	opt.ReadBufferSize = 4 << 10
	opt.WriteBufferSize = 4 << 10
	opt.Dialer = t.dialer
	client := redis.NewClient(opt)
	rc := client.Conn()

	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	runID, err := o.introduce(ctx, rc, g, k, auth)
	if err == nil {
		err = t.ready(g.Proto)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		err = o.handshakeError(t, err)
	}
	t.detach()
	_ = rc.Close()
	_ = client.Close()
	if err == nil {
		err = nc.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	if o.loops != nil && (k == shared || k == lane || k == dialled) && nc == raw {
		if s, err := loop.Detach(nc); err == nil {
			nc, raw = s, s
		}
	}
	c := newConn(o, g, k, runID, nc, raw)
	c.number = t.number()
	return c, nil
}

// introduce sends the first command, before which go-redis logs in, and becomes
// the group's user if auth says so.
func (o *Origin) introduce(ctx context.Context, rc *redis.Conn, g Group, k kind, auth bool) (runID string, err error) {
	args := []any{"info", "server"}
	if o.cfg.SkipRunID || k == heartbeat || k == bare {
		args = []any{"ping"}
	}
	pipe := rc.Pipeline()
	cmd := redis.NewRawCmd(ctx, args...)
	_ = pipe.Process(ctx, cmd)
	if (k == shared || k == dialled) && !o.cfg.SkipRunID {
		// maxmemory-clients must not hit whoever shares a connection for what another one
		// has asked. Where that is not known or not permitted it stays as it is.
		_ = pipe.Process(ctx, redis.NewRawCmd(ctx, "client", "no-evict", "on"))
	}
	_, err = pipe.Exec(ctx)
	b := cmd.Val()
	if cmd.Err() != nil || len(b) > 0 { // it has a result of its own
		err = cmd.Err()
	} else if err == nil {
		err = errors.New("no answer")
	}
	if err != nil {
		return "", err
	}
	if b[0] == '-' && k != heartbeat { // to the heartbeat any answer is one
		line := errorLine(b)
		if k == bare && !strings.HasPrefix(line, "ERR") && !strings.HasPrefix(line, "DENIED") {
			return "", nil // not logged in, or busy: neither keeps anybody from logging in
		}
		if !strings.HasPrefix(line, "NOPERM") && !strings.HasPrefix(line, "ERR unknown command") {
			return "", &RefusedError{Line: line}
		}
	}
	if i := bytes.Index(b, []byte("run_id:")); i >= 0 {
		id, _, _ := bytes.Cut(b[i+len("run_id:"):], []byte("\r\n"))
		runID = string(id)
	}
	if !auth {
		return runID, nil
	}
	if g.User == "" {
		err = rc.Auth(ctx, g.Password).Err()
	} else {
		err = rc.AuthACL(ctx, g.User, g.Password).Err()
	}
	if re, ok := errors.AsType[redis.Error](err); ok {
		err = &RefusedError{Line: re.Error(), client: true}
	}
	return runID, err
}

func errorLine(b []byte) string {
	line, _, _ := bytes.Cut(b[1:], []byte("\r\n"))
	return string(line)
}

// handshakeError finds what the server said among what went wrong.
func (o *Origin) handshakeError(t *tap, err error) error {
	if isRefused(err) {
		return err
	}
	if re, ok := errors.AsType[redis.Error](err); ok && !errors.Is(err, redis.Nil) {
		return &RefusedError{Line: re.Error()}
	}
	// Too many clients, protected mode: one line, sent before anything was asked,
	// and the connection closed. go-redis takes it for the answer to HELLO.
	line, alert := t.farewell()
	switch {
	case line != "":
		return &RefusedError{Line: line}
	case alert != nil: // it says more than that the connection broke
		return o.unreachable(alert)
	}
	return o.unreachable(err)
}

func (o *Origin) unreachable(err error) error {
	return fmt.Errorf("%w: %s: %w", ErrUnreachable, o.opt.Addr, err)
}

// grace adds the tenth that a Redis needs which is mute for as long as its
// busy-reply-threshold, 5 s as nearside's own timeout.
func grace(d time.Duration) time.Duration { return d + d/10 }

// tap stands between the socket and go-redis during the handshake.
type tap struct {
	net.Conn
	o *Origin

	mu       sync.Mutex
	used     bool
	gone     bool
	asked    frames
	answered frames
	first    []byte // of what came, enough for one error line
}

var errDetached = errors.New("connection taken over")

// dialer hands the one connection out, once.
func (t *tap) dialer(context.Context, string, string) (net.Conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.used {
		return nil, errDetached
	}
	t.used = true
	return t, nil
}

func (t *tap) Read(b []byte) (int, error) {
	if t.detached() {
		return 0, errDetached
	}
	n, err := t.Conn.Read(b)
	if n > 0 {
		t.o.heard.Store(t.o.now())
		t.o.bytesIn.Add(int64(n))
		t.mu.Lock()
		t.answered.add(b[:n])
		if len(t.first) < 512 {
			t.first = append(t.first, b[:n]...)
		}
		t.mu.Unlock()
	}
	return n, err
}

func (t *tap) Write(b []byte) (int, error) {
	if t.detached() {
		return 0, errDetached
	}
	t.mu.Lock()
	t.asked.add(b)
	t.mu.Unlock()
	n, err := t.Conn.Write(b)
	t.o.bytesOut.Add(int64(n))
	return n, err
}

func (t *tap) SetDeadline(d time.Time) error      { return t.deadline(t.Conn.SetDeadline, d) }
func (t *tap) SetReadDeadline(d time.Time) error  { return t.deadline(t.Conn.SetReadDeadline, d) }
func (t *tap) SetWriteDeadline(d time.Time) error { return t.deadline(t.Conn.SetWriteDeadline, d) }

func (t *tap) deadline(set func(time.Time) error, d time.Time) error {
	if t.detached() {
		return errDetached
	}
	return set(d)
}

// Close leaves the socket alone: it is not go-redis's to close.
func (t *tap) Close() error { return nil }

func (t *tap) detached() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.gone
}

func (t *tap) detach() {
	t.mu.Lock()
	t.gone = true
	t.mu.Unlock()
}

// ready proves that every request was answered and no byte is left over, and that
// the protocol is the wanted one: go-redis goes on in RESP2 when HELLO 3 fails.
func (t *tap) ready(proto int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asked.n != t.answered.n || !t.asked.whole() || !t.answered.whole() {
		return errors.New("bytes left over after the handshake")
	}
	if proto == 3 && (len(t.first) == 0 || t.first[0] != '%') {
		return &RefusedError{Line: "NOPROTO unsupported protocol version"}
	}
	return nil
}

// number finds the connection's number in the server's answer to HELLO, "" if it is not there.
func (t *tap) number() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, rest, _ := bytes.Cut(t.first, []byte("$2\r\nid\r\n:"))
	n, _, _ := bytes.Cut(rest, []byte("\r\n"))
	if !digits(n) {
		return ""
	}
	return string(n)
}

// farewell is the error line of a server that closed without listening, or TLS's
// alert: in TLS 1.3 a client certificate is refused when the client is ready.
func (t *tap) farewell() (line string, alert error) {
	t.mu.Lock()
	b := t.first
	t.mu.Unlock()
	if len(b) == 0 {
		// The write failed before anything was read; the line may still be there.
		buf := make([]byte, 512)
		_ = t.Conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		n, err := t.Conn.Read(buf)
		b = buf[:n]
		if oe, ok := errors.AsType[*net.OpError](err); ok && oe.Op == "remote error" {
			return "", err
		}
	}
	if len(b) < 2 || b[0] != '-' {
		return "", nil
	}
	line = errorLine(b)
	for _, normal := range []string{"ERR unknown command", "NOAUTH", "NOPROTO", "WRONGPASS"} {
		if strings.HasPrefix(line, normal) { // HELLO's own answer, after which the connection broke
			return "", nil
		}
	}
	return line, nil
}

// frames counts RESP frames in a stream that comes in pieces.
type frames struct {
	n    int
	rest []byte
	bad  bool
}

func (f *frames) add(b []byte) {
	f.rest = append(f.rest, b...)
	for len(f.rest) > 0 {
		n, err := Next(f.rest)
		if err != nil {
			f.bad = true
		}
		if n == 0 {
			return
		}
		f.n++
		f.rest = f.rest[n:]
	}
}

func (f *frames) whole() bool { return !f.bad && len(f.rest) == 0 }

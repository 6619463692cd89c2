package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// generator puts load on one endpoint from one thread of its own, with epoll:
// a goroutine for each connection would cost more than the peers themselves.
//
// With a rate it is open: operations are due at times that are drawn in
// advance (a Poisson process), whatever the endpoint does, and the latency of
// each counts from when it was due. What is due while all connections are busy
// waits, and its waiting counts too: there is no coordinated omission. Without
// a rate it is closed: every connection begins its next operation when the
// last is done.
type generator struct {
	work   workload
	conns  []genConn
	active int
	epoll  int
	rng    *source
	in     []byte
}

type genConn struct {
	fd     int
	class  int
	step   int
	left   int   // replies that the step still wants
	due    int64 // when the operation was to begin, by clock()
	out    []byte
	sent   int // bytes of out that the socket has taken
	parser replies
}

// load is what one run of a generator is to do.
type load struct {
	Rate float64       // operations per second; 0: closed
	For  time.Duration // of sending
}

// result is what one run of a generator found.
type result struct {
	Started, Done int64 // operations
	Requests      int64 // answered
	Elapsed       time.Duration
	Latency       [classes]*hdrhistogram.Histogram // nanoseconds
	// Late is how long after its time an operation was begun although a
	// connection was free: the generator's own part in the latencies.
	Late          *hdrhistogram.Histogram
	Nulls, Errors int64
	First         string // the first error reply
}

// PerSecond is the rate of answered requests.
func (r *result) PerSecond() float64 { return float64(r.Requests) / r.Elapsed.Seconds() }

// micros is a percentile of the reads' latency, in microseconds.
func (r *result) micros(percentile float64) float64 {
	return r.classMicros(classRead, percentile)
}

func (r *result) classMicros(class int, percentile float64) float64 {
	return float64(r.Latency[class].ValueAtPercentile(percentile)) / 1e3
}

const (
	longestLatency = int64(time.Minute)
	readSize       = 256 << 10
	drainLimit     = 10 * time.Second // until the last answers must be there
)

// errOverload: the endpoint cannot do what an open load asks for.
var errOverload = errors.New("too much load")

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, longestLatency, 3) }

// newGenerator opens conns connections, of which the first active are used;
// 0: all. The seed decides what is asked for and when.
func newGenerator(addr string, conns, active int, work workload, seed uint64) (*generator, error) {
	g := &generator{work: work, active: active, rng: rand.New(rand.NewPCG(seed, 1)), in: make([]byte, readSize), epoll: -1}
	if active == 0 || active > conns {
		g.active = conns
	}
	var err error
	if g.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	sa, err := sockaddr(addr)
	if err != nil {
		g.close()
		return nil, err
	}
	g.conns = make([]genConn, 0, conns)
	for i := range conns {
		fd, err := connect(sa)
		if err != nil {
			g.close()
			return nil, fmt.Errorf("connection %d to %s: %w", i+1, addr, err)
		}
		g.conns = append(g.conns, genConn{fd: fd})
		if err := unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
			g.close()
			return nil, err
		}
	}
	return g, nil
}

func connect(sa unix.Sockaddr) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := errors.Join(unix.Connect(fd, sa), unix.SetNonblock(fd, true), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (g *generator) close() {
	for i := range g.conns {
		_ = unix.Close(g.conns[i].fd)
	}
	if g.epoll >= 0 {
		_ = unix.Close(g.epoll)
	}
}

// clock is monotonic, in nanoseconds from some beginning.
func clock() int64 { return int64(time.Since(began)) }

var began = time.Now()

// passage is one run of a generator, on the calling goroutine, which gets a thread
// of its own. It ends early when ctx is done.
type passage struct {
	g     *generator
	l     load
	res   *result
	stop  atomic.Bool
	start int64
	end   int64   // of sending
	next  float64 // when the next operation is due
	queue []int64 // due, and not begun; queue[head:] counts
	head  int
	free  []int32 // connections without an operation, used in turn
	first int
	busy  int
	err   error
}

// run puts the load on and waits for the last answers.
func (g *generator) run(ctx context.Context, l load) (*result, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Sleeps end when they should, not up to 50 µs later.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	r := &passage{g: g, l: l, res: &result{Late: newHistogram()}, free: make([]int32, 0, 2*g.active)}
	for i := range r.res.Latency {
		r.res.Latency[i] = newHistogram()
	}
	for i := range g.active {
		r.free = append(r.free, int32(i))
	}
	defer context.AfterFunc(ctx, func() { r.stop.Store(true) })()
	r.start = clock()
	r.end = r.start + int64(l.For)
	r.next = float64(r.start)
	r.loop()
	r.res.Elapsed = time.Duration(clock() - r.start)
	for i := range g.conns {
		p := &g.conns[i].parser
		r.res.Nulls += p.Nulls
		r.res.Errors += p.Errors
		if r.res.First == "" {
			r.res.First = p.First
		}
		p.Nulls, p.Errors, p.First = 0, 0, ""
	}
	if r.err == nil {
		r.err = ctx.Err()
	}
	return r.res, r.err
}

func (r *passage) loop() {
	events := make([]unix.EpollEvent, 512)
	for r.err == nil {
		now := clock()
		sending := now < r.end && !r.stop.Load()
		switch {
		case sending:
			r.begin(now)
		case r.busy == 0 && (r.pending() == 0 || r.stop.Load()):
			return
		default:
			r.fill(now)
		}
		if now > r.end+int64(drainLimit) {
			r.err = fmt.Errorf("%w: %d operations are unanswered %v after the last was due", errOverload, r.busy+r.pending(), drainLimit)
			return
		}
		timeout := drainLimit
		if sending {
			timeout = time.Duration(r.end - now)
			if r.l.Rate > 0 {
				timeout = time.Duration(int64(r.next) - clock())
			}
		}
		n, err := wait(r.g.epoll, events, timeout)
		if err != nil {
			r.err = err
			return
		}
		for i := range events[:n] {
			r.event(&events[i])
		}
	}
}

func (r *passage) pending() int { return len(r.queue) - r.head }

// begin starts what is due by now.
func (r *passage) begin(now int64) {
	if r.l.Rate == 0 {
		for len(r.free) > r.first {
			r.operate(clock())
		}
		return
	}
	for int64(r.next) <= now {
		r.queue = append(r.queue, int64(r.next))
		r.next += r.g.rng.ExpFloat64() / r.l.Rate * 1e9
	}
	r.fill(now)
}

// fill gives what is due to the connections that are free.
func (r *passage) fill(now int64) {
	for r.head < len(r.queue) && r.first < len(r.free) {
		due := r.queue[r.head]
		r.head++
		_ = r.res.Late.RecordValue(max(now-due, 1))
		r.operate(due)
	}
	if r.head == len(r.queue) {
		r.queue, r.head = r.queue[:0], 0
	}
}

// operate begins an operation on the next free connection.
func (r *passage) operate(due int64) {
	i := r.free[r.first]
	r.first++
	if r.first == len(r.free) {
		r.free, r.first = r.free[:0], 0
	} else if r.first > 4*r.g.active {
		r.free = append(r.free[:0], r.free[r.first:]...)
		r.first = 0
	}
	c := &r.g.conns[i]
	c.due, c.step, c.class = due, 0, classRead
	if r.g.work.class != nil {
		c.class = r.g.work.class(r.g.rng)
	}
	r.busy++
	r.res.Started++
	r.step(c, int(i))
}

// step sends the requests of the operation's next step.
func (r *passage) step(c *genConn, i int) {
	w := &r.g.work
	c.out, c.sent = c.out[:0], 0
	c.left = w.depth()
	for range c.left {
		c.out = w.request(c.out, r.g.rng, c.class, i, c.step)
	}
	r.write(c, i)
}

func (r *passage) write(c *genConn, i int) {
	for c.sent < len(c.out) {
		n, errno := rawWrite(c.fd, c.out[c.sent:])
		if errno == unix.EAGAIN {
			r.watch(c, i, unix.EPOLLIN|unix.EPOLLOUT)
			return
		}
		if errno != 0 && errno != unix.EINTR {
			r.err = fmt.Errorf("write: %w", errno)
			return
		}
		c.sent += max(n, 0)
	}
}

func (r *passage) watch(c *genConn, i int, events uint32) {
	if err := unix.EpollCtl(r.g.epoll, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: events, Fd: int32(i)}); err != nil {
		r.err = err
	}
}

func (r *passage) event(e *unix.EpollEvent) {
	i := int(e.Fd)
	c := &r.g.conns[i]
	if e.Events&unix.EPOLLOUT != 0 {
		r.watch(c, i, unix.EPOLLIN)
		r.write(c, i)
	}
	if e.Events&^unix.EPOLLOUT == 0 {
		return
	}
	n, errno := rawRead(c.fd, r.g.in)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return
	case errno != 0:
		r.err = fmt.Errorf("read: %w", errno)
		return
	case n == 0:
		r.err = errors.New("the peer has closed a connection")
		return
	}
	done := c.parser.feed(r.g.in[:n])
	if c.parser.Broken || done > c.left {
		r.err = fmt.Errorf("not the replies that were asked for: %.200q", r.g.in[:n])
		return
	}
	if done == 0 {
		return
	}
	r.res.Requests += int64(done)
	if c.left -= done; c.left > 0 {
		return
	}
	c.step++
	if c.step < r.g.work.stepCount() {
		r.step(c, i)
		return
	}
	now := clock()
	_ = r.res.Latency[c.class].RecordValue(min(max(now-c.due, 1), longestLatency))
	r.res.Done++
	r.busy--
	r.free = append(r.free, int32(i))
	switch {
	case r.l.Rate == 0:
		if now < r.end && !r.stop.Load() {
			r.operate(now)
		}
	case r.pending() > 0 && !r.stop.Load():
		// It waited for a connection, not for the generator: that is no lateness.
		due := r.queue[r.head]
		r.head++
		r.operate(due)
	}
}

// The calls below neither block nor allocate, so the scheduler need not know.

func rawWrite(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), errno
}

func rawRead(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), errno
}

// wait is epoll_pwait2, which takes nanoseconds (Linux 5.11 or later).
func wait(epoll int, events []unix.EpollEvent, timeout time.Duration) (int, error) {
	if timeout <= 0 {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
		return waited(n, errno)
	}
	ts := unix.NsecToTimespec(int64(timeout))
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	return waited(n, errno)
}

func waited(n uintptr, errno unix.Errno) (int, error) {
	if errno == unix.EINTR {
		return 0, nil
	}
	if errno != 0 {
		return 0, fmt.Errorf("epoll: %w", errno)
	}
	return int(n), nil
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// gate is a stream whose reader a test holds: each write waits for a permit,
// which is the error that the write meets.
type gate struct {
	permits chan error
	asked   chan struct{} // one for each write that has begun
	mu      sync.Mutex
	got     []string
}

func newGate() *gate { return &gate{permits: make(chan error), asked: make(chan struct{}, 1<<16)} }

func (g *gate) Write(b []byte) (int, error) {
	g.asked <- struct{}{}
	if err := <-g.permits; err != nil {
		return 0, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.got = append(g.got, string(b))
	return len(b), nil
}

func (g *gate) lines() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.got...)
}

// flushed ends a test: everything that waits is written.
func flushed(o *output) { o.flush(time.Now().Add(10 * time.Second)) }

// TestOutputLoses: what does not fit is lost and counted where it would have
// been; everything else comes in order.
func TestOutputLoses(t *testing.T) {
	g := newGate()
	o := newOutput(g)
	o.say(func(n int) []byte { return fmt.Appendf(nil, "%d lost\n", n) })
	fmt.Fprintln(o, "first")
	<-g.asked // it is being written and counts until it is
	for i := 1; i < mostLines+3; i++ {
		fmt.Fprintln(o, i)
	}
	if n := o.dropped.Load(); n != 3 {
		t.Errorf("%d lines are counted as lost, want 3", n)
	}
	g.permits <- nil // "first", so that one line fits
	<-g.asked
	for o.waiting() == mostLines {
		time.Sleep(time.Millisecond) // the goroutine takes the line off after its write
	}
	fmt.Fprintln(o, "behind the gap")
	fmt.Fprintln(o, "lost again")
	close(g.permits)
	flushed(o)
	var want []string
	want = append(want, "first\n")
	for i := 1; i < mostLines; i++ {
		want = append(want, strconv.Itoa(i)+"\n")
	}
	want = append(want, "3 lost\n", "behind the gap\n", "1 lost\n")
	if got := g.lines(); strings.Join(got, "") != strings.Join(want, "") {
		t.Errorf("%d lines, want %d; the last: %q", len(got), len(want), got[max(0, len(got)-5):])
	}
}

func (o *output) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lines
}

// TestOutputBytes: few large lines are bounded, too, and one line always fits.
func TestOutputBytes(t *testing.T) {
	g := newGate()
	o := newOutput(g)
	huge := strings.Repeat("x", 2*mostLineBytes) + "\n"
	fmt.Fprint(o, huge)
	fmt.Fprint(o, "y\n")
	if n := o.dropped.Load(); n != 1 {
		t.Errorf("%d lines are lost, want 1", n)
	}
	close(g.permits)
	flushed(o)
	if got := g.lines(); len(got) != 2 || got[0] != huge || got[1] != "nearside: 1 lines are lost\n" {
		t.Errorf("%d lines", len(got))
	}
}

// TestOutputFails: a stream that takes nothing (a full disk, a closed pipe) costs
// lines, which are counted, and is told of when it works again.
func TestOutputFails(t *testing.T) {
	g := newGate()
	o := newOutput(g)
	for i := range 3 {
		fmt.Fprintln(o, i)
	}
	g.permits <- syscall.ENOSPC // 0
	g.permits <- syscall.ENOSPC // that one is lost; 1 is not tried
	g.permits <- nil            // that two are lost
	close(g.permits)
	flushed(o)
	if got := strings.Join(g.lines(), ""); got != "nearside: 2 lines are lost\n2\n" {
		t.Errorf("got %q", got)
	}
	if n := o.dropped.Load(); n != 2 {
		t.Errorf("%d lines are counted as lost, want 2", n)
	}
}

// torn takes a part of each write that it fails.
type torn struct {
	b    bytes.Buffer
	errs []error
}

func (w *torn) Write(b []byte) (int, error) {
	if len(w.errs) == 0 {
		return w.b.Write(b)
	}
	err := w.errs[0]
	w.errs = w.errs[1:]
	n, _ := w.b.Write(b[:len(b)/2])
	return n, err
}

// TestOutputTorn: a line that was cut short does not run into the next one, and
// a descriptor that says "not now" gets the rest of the same line.
func TestOutputTorn(t *testing.T) {
	w := &torn{errs: []error{syscall.ENOSPC}}
	o := newOutput(w)
	fmt.Fprintln(o, "abcdefg")
	flushed(o)
	fmt.Fprintln(o, "next")
	flushed(o)
	if got := w.b.String(); got != "abcd\nnearside: 1 lines are lost\nnext\n" {
		t.Errorf("got %q", got)
	}
	w = &torn{errs: []error{syscall.EAGAIN, syscall.EAGAIN, syscall.EAGAIN}}
	o = newOutput(w)
	fmt.Fprintln(o, "abcdefg")
	fmt.Fprintln(o, "next")
	flushed(o)
	if got := w.b.String(); got != "abcdefg\nnext\n" {
		t.Errorf("got %q", got)
	}
}

// TestOutputRandom: whatever fails and whoever writes, each writer's lines come
// whole and in its order, and what is missing is what was counted and told.
func TestOutputRandom(t *testing.T) {
	const writers, each = 4, 5000
	g := newGate()
	go func() {
		r := rand.New(rand.NewPCG(1, 2))
		for range g.asked {
			var err error
			if r.IntN(20) == 0 {
				err = syscall.ENOSPC
			}
			g.permits <- err
		}
	}()
	o := newOutput(g)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				fmt.Fprintf(o, "%d %d\n", w, i)
			}
		})
	}
	wg.Wait()
	for failing := true; failing; { // until the last loss is told
		fmt.Fprintln(o, "0 "+strconv.Itoa(each))
		flushed(o)
		failing = o.failing()
	}
	told, came, last := 0, 0, [writers]int{-1, -1, -1, -1}
	for _, line := range g.lines() {
		var a, b int
		if _, err := fmt.Sscanf(line, "nearside: %d lines are lost\n", &a); err == nil {
			told += a
			continue
		}
		if _, err := fmt.Sscanf(line, "%d %d\n", &a, &b); err != nil || a >= writers || b < last[a] || b == last[a] && b != each {
			t.Fatalf("%q comes behind %v", line, last)
		}
		last[a] = b
		came++
	}
	if lost := int(o.dropped.Load()); told != lost || came+lost < writers*each || lost == 0 {
		t.Errorf("%d came, %d are told to be lost, %d are counted", came, told, lost)
	}
}

// failing tells whether lines are lost that nobody was told of. Nothing is being written.
func (o *output) failing() bool { return o.failed > 0 }

// served is a nearside that a test talks to by a socket, with standard error and
// output of the test's choice.
type served struct {
	t      *testing.T
	cmd    *exec.Cmd
	socket string
	admin  string
	exited chan error
}

// serveWith starts nearside in front of no Redis; more is appended to its
// configuration.
func serveWith(t *testing.T, stdout, stderr *os.File, more string) *served {
	t.Helper()
	dir, err := os.MkdirTemp("", "ns") // t.TempDir is too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &served{t: t, socket: filepath.Join(dir, "s"), admin: ln.Addr().String(), exited: make(chan error, 1)}
	ln.Close()
	config := write(t, fmt.Sprintf("listen: unix:%s\nadmin: %s\nredis: redis://127.0.0.1:1\ncache:\n  rules: [{prefix: \"a:\"}]\n%s", v.socket, v.admin, more))
	v.cmd = command(t.Context(), nil, "-config", config)
	v.cmd.Stdout, v.cmd.Stderr = stdout, stderr
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { v.exited <- v.cmd.Wait() }()
	v.eventually("it listens", func() bool {
		c, err := net.Dial("unix", v.socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return v
}

func (v *served) eventually(what string, ok func() bool) {
	v.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		select {
		case err := <-v.exited:
			v.t.Fatalf("nearside has ended (%v) and never: %s", err, what)
		default:
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("never came true: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// chatter makes nearside log n lines, and sees a client served after each.
func (v *served) chatter(n int) {
	v.t.Helper()
	c := dial(v.t, "unix", v.socket)
	for range n {
		browser := dial(v.t, "unix", v.socket)
		if _, err := io.WriteString(browser, "POST / HTTP/1.1\r\n"); err != nil {
			v.t.Fatal(err)
		}
		if _, err := io.ReadAll(browser); err != nil { // until it is closed, and that is logged before
			v.t.Fatal(err)
		}
		browser.Close()
		talk(v.t, c, "PING\r\n", "+PONG\r\n")
	}
}

func (v *served) lostLines() int {
	v.t.Helper()
	resp, err := http.Get("http://" + v.admin + "/metrics")
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^nearside_log_lines_lost_total (\d+)$`).FindSubmatch(text)
	if m == nil {
		v.t.Fatal("no metric says how many lines were lost")
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

// end sends SIGTERM, after which nearside must end by itself and in time.
func (v *served) end() {
	v.t.Helper()
	begun := time.Now()
	if err := v.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		v.t.Fatal(err)
	}
	select {
	case err := <-v.exited:
		if err != nil {
			v.t.Errorf("nearside ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		v.t.Fatal("nearside does not end")
	}
	if took := time.Since(begun); took > flushWithin+8*time.Second { // drain: 5s
		v.t.Errorf("it took %v to end", took)
	}
}

// pipe is one with room for few lines.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// TestReaderGone: whoever reads the log ends, at any time, and nearside goes on.
func TestReaderGone(t *testing.T) {
	for _, when := range []string{"before the start", "later"} {
		for _, stdoutToo := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stdout too %v", when, stdoutToo), func(t *testing.T) {
				t.Parallel()
				r, w := pipe(t)
				if when == "before the start" {
					r.Close()
				}
				stdout := (*os.File)(nil)
				if stdoutToo {
					stdout = w
				}
				v := serveWith(t, stdout, w, "")
				if when == "later" {
					b := make([]byte, 1)
					if _, err := r.Read(b); err != nil { // it has begun to log
						t.Fatal(err)
					}
					r.Close()
				}
				v.chatter(20)
				if n := v.lostLines(); n < 20 {
					t.Errorf("%d lines are counted as lost", n)
				}
				v.end()
			})
		}
	}
}

// TestReaderStalled: whoever reads the log stops reading. Clients go on, SIGTERM
// ends nearside in time, and once somebody reads again it gets whole lines and is
// told how many there were beside them.
func TestReaderStalled(t *testing.T) {
	for _, full := range []bool{true, false} {
		t.Run(fmt.Sprint("full from the start ", full), func(t *testing.T) {
			t.Parallel()
			r, w := pipe(t)
			if full {
				if _, err := w.Write(bytes.Repeat([]byte("#"), 4095)); err != nil {
					t.Fatal(err)
				}
				if _, err := w.WriteString("\n"); err != nil {
					t.Fatal(err)
				}
			}
			v := serveWith(t, w, w, "")
			v.chatter(mostLines + 500)
			lost := v.lostLines()
			if lost < 100 {
				t.Fatalf("%d lines are counted as lost", lost)
			}
			if !full {
				w.Close()
				var text bytes.Buffer
				read := make(chan error, 1)
				go func() { _, err := io.Copy(&text, r); read <- err }()
				v.chatter(10)
				lost = v.lostLines()
				v.end()
				if err := <-read; err != nil {
					t.Fatal(err)
				}
				told, lines := 0, 0
				for line := range strings.Lines(libraryLine.ReplaceAllString(text.String(), "")) {
					lines++
					if !strings.HasPrefix(line, "time=") || !strings.HasSuffix(line, "\n") {
						t.Errorf("not a line of the log: %q", line)
					}
					if m := regexp.MustCompile(`log lines are lost.* lines=(\d+)`).FindStringSubmatch(line); m != nil {
						n, _ := strconv.Atoi(m[1])
						told += n
					}
				}
				if told < lost || lines < mostLines { // more may have been lost since it was asked
					t.Errorf("%d lines came, %d are told to be lost, %d were counted", lines, told, lost)
				}
				return
			}
			v.end()
		})
	}
}

// TestFatalErrorsAreSeen: what keeps nearside from starting reaches a terminal or
// a pipe, and a stalled one does not keep it from ending.
func TestFatalErrorsAreSeen(t *testing.T) {
	bad := write(t, "cache:\n  db: x\n")
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for _, args := range [][]string{
		{"-config", bad},
		{"-redis", "redis://127.0.0.1:1", "-listen", busy.Addr().String(), "-admin", ""},
	} {
		code, _, stderr := outcome(t, nil, args...)
		if last := stderr[strings.LastIndexByte(strings.TrimSpace(stderr), '\n')+1:]; code != 1 || !strings.Contains(last, "is not a whole number") && !strings.Contains(last, "address already in use") {
			t.Errorf("%v: exit code %d, %q", args, code, stderr)
		}
		r, w := pipe(t)
		if _, err := w.Write(bytes.Repeat([]byte("#"), 4096)); err != nil {
			t.Fatal(err)
		}
		cmd := command(t.Context(), nil, args...)
		cmd.Stderr = w
		begun := time.Now()
		var ee *exec.ExitError
		if err := cmd.Run(); !errors.As(err, &ee) || ee.ExitCode() != 1 {
			t.Errorf("%v with a stalled reader: %v", args, err)
		}
		if took := time.Since(begun); took > flushWithin+5*time.Second {
			t.Errorf("%v with a stalled reader took %v", args, took)
		}
		r.Close()
	}
}

// TestCommandLineEndsWithItsReader: nearside -t | head ends as every command does.
func TestCommandLineEndsWithItsReader(t *testing.T) {
	r, w := pipe(t)
	r.Close()
	cmd := command(t.Context(), nil, "-t")
	cmd.Stdout = w
	var ee *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &ee) || ee.Sys().(syscall.WaitStatus).Signal() != syscall.SIGPIPE {
		t.Errorf("ended with %v, want SIGPIPE", err)
	}
}

// TestLogInAFile: many lines at once stand whole in a file.
func TestLogInAFile(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v := serveWith(t, f, f, "log: {format: json}\n")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { v.chatter(50) })
	}
	wg.Wait()
	v.end()
	text, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	browsers := 0
	for line := range strings.Lines(libraryLine.ReplaceAllString(string(text), "")) {
		if !strings.HasPrefix(line, "{") || !strings.HasSuffix(line, "}\n") {
			t.Errorf("not a line of the log: %q", line)
		}
		if strings.Contains(line, "speaks HTTP") {
			browsers++
		}
	}
	if browsers != 200 {
		t.Errorf("%d of 200 lines are in the file", browsers)
	}
}

package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// Random sequences of what changes the state of a connection: transactions,
// subscriptions, monitors, tracking, protocol versions, muted replies, waits, with
// values that look like messages, ended in every way that a client has. What can be
// compared with Redis is; and whatever was done, nothing of it stays.
//
// make sequences SECONDS=600 runs it for longer, NEARSIDE_DIFF_SEED repeats a run.

// sequenceWords are the commands; those that come twice are likelier.
var sequenceWords = []string{
	"MULTI", "MULTI", "MULTI", "EXEC", "EXEC", "EXEC", "DISCARD", "WATCH k", "WATCH product:k lock:k", "UNWATCH", "EXEC x", "MULTI x",
	"SUBSCRIBE c", "SUBSCRIBE c", "SUBSCRIBE c d", "PSUBSCRIBE c*", "PSUBSCRIBE c* d*", "SSUBSCRIBE s", "SUBSCRIBE",
	"UNSUBSCRIBE", "UNSUBSCRIBE c", "PUNSUBSCRIBE", "PUNSUBSCRIBE c*", "SUNSUBSCRIBE", "SUNSUBSCRIBE s", "UNSUBSCRIBE never",
	"PUBLISH c x", "PUBLISH c x", "SPUBLISH s x", "PUBLISH d message",
	"MONITOR", "RESET", "RESET", "HELLO 2", "HELLO 3", "HELLO 3", "HELLO", "HELLO 4", "QUIT",
	"CLIENT TRACKING ON", "CLIENT TRACKING ON", "CLIENT TRACKING OFF", "CLIENT TRACKING ON BCAST", "CLIENT TRACKING ON OPTIN", "CLIENT TRACKING ON OPTOUT NOLOOP",
	"CLIENT TRACKING ON REDIRECT 99999999", "CLIENT TRACKING ON BCAST PREFIX a PREFIX b", "CLIENT TRACKING on x", "CLIENT CACHING YES", "CLIENT CACHING NO", "CLIENT GETREDIR", "CLIENT TRACKINGINFO",
	"CLIENT REPLY OFF", "CLIENT REPLY ON", "CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "CLIENT SETNAME x", "CLIENT GETNAME",
	"BLPOP q 0.01", "BLPOP l 0", "BRPOP product:q 0.01", "BLMOVE l q LEFT RIGHT 0.01", "BZPOPMIN z 0.01", "XREAD BLOCK 10 STREAMS st $", "XREAD STREAMS st 0", "WAIT 0 10", "BLPOP q x",
	"GET m", "GET m", "GET product:m", "MGET m x y", "MGET product:m x product:y", "GET p", "ECHO message", "ECHO x", "LRANGE lm 0 -1", "LRANGE product:lm 0 -1",
	"SET k v", "SET product:k v", "SET lock:k v NX", "DEL k product:k lock:k", "INCR n", "RPUSH l a", "GET", "NOSUCH x", "SELECT 5", "SELECT 0", "SELECT x",
	"PING", "PING x", "PING x y", "TYPE m", "SETRANGE n 0 x",
	`EVAL "return {'message','c','x'}" 0`, `EVAL "return redis.call('PUBLISH','c','y')" 0`, `EVAL "return redis.call('GET',KEYS[1])" 1 m`, `EVAL "for i=1,2 do end return {ok='1 [x'}" 0`,
}

// sequenceSetup is what there is before each sequence.
var sequenceSetup = []string{
	"FLUSHALL", "SET m message", "SET product:m message", "SET p pmessage", "RPUSH lm message c x", "RPUSH product:lm message c x", "RPUSH l a b c d", "XADD st 1-1 f v",
}

func sequenceArgs(line string) []string {
	args := diffQuoted.FindAllString(line, -1)
	for i, a := range args {
		if a[0] == '"' {
			args[i] = a[1 : len(a)-1]
		}
	}
	return args
}

var diffQuoted = regexp.MustCompile(`"[^"]*"|\S+`)

func sequenceBytes(lines []string) (raw string) {
	for _, l := range lines {
		raw += redistest.Command(sequenceArgs(l)...)
	}
	return raw
}

// sequencePatience is how long a connection may stay open that has sent QUIT.
const sequencePatience = 5 * time.Second

// play sends lines, in one piece or one by one, each when all before it has been
// answered for a moment, and returns what is answered until the other side closes.
func play(addr string, lines []string, slowly bool) (got string, err error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(sequencePatience))
	done := make(chan struct{})
	var b []byte
	var readErr error
	go func() {
		b, readErr = io.ReadAll(c)
		close(done)
	}()
	if slowly {
		for _, l := range lines {
			if _, err := io.WriteString(c, sequenceBytes([]string{l})); err != nil {
				break // it has closed, as it may
			}
			time.Sleep(time.Millisecond)
		}
	} else {
		_, _ = io.WriteString(c, sequenceBytes(lines))
	}
	<-done
	if errors.Is(readErr, os.ErrDeadlineExceeded) {
		return string(b), errors.New("the connection stays open")
	}
	return string(b), nil
}

// frames takes a stream apart: the replies, and the pushes, wherever they stand. A
// monitor's lines are left out.
type frames struct {
	b               []byte
	replies, pushes []string
	bad             string
}

func takeApart(stream string) *frames {
	f := &frames{b: []byte(stream)}
	for len(f.b) > 0 && f.bad == "" {
		text, push := f.one(true)
		switch {
		case push:
			f.pushes = append(f.pushes, text)
		case monitorLine.MatchString(text):
		case text != "":
			f.replies = append(f.replies, text)
		}
	}
	return f
}

var monitorLine = regexp.MustCompile(`^\+\d+\.\d{6} \[`)

// one takes one frame off; push tells whether it is one that answers nothing.
func (f *frames) one(top bool) (text string, push bool) {
	line, rest, ok := bytes.Cut(f.b, []byte("\r\n"))
	if !ok || len(line) == 0 {
		f.bad = fmt.Sprintf("ends in %q", f.b)
		f.b = nil
		return "", false
	}
	f.b = rest
	n, _ := strconv.Atoi(string(line[1:]))
	switch line[0] {
	case '$', '=':
		if n < 0 {
			return "nil", false
		}
		if len(f.b) < n+2 {
			f.bad = "a string is cut"
			f.b = nil
			return "", false
		}
		text = strconv.Quote(string(f.b[:n]))
		f.b = f.b[n+2:]
		return text, false
	case '*', '~', '%', '>':
		if line[0] == '%' {
			n *= 2
		}
		var items []string
		for len(items) < n && f.bad == "" {
			item, push := f.one(false)
			if push {
				f.pushes = append(f.pushes, item)
				continue
			}
			items = append(items, item)
		}
		if i := slices.Index(items, `"id"`); i >= 0 && i+1 < len(items) && slices.Contains(items, `"proto"`) {
			return "HELLO", false // what is said of the server and of the client differs
		}
		text = string(line[:1]) + "[" + strings.Join(items, " ") + "]"
		return text, line[0] == '>' && (len(items) == 0 || !strings.HasSuffix(items[0], `subscribe"`))
	}
	return string(line), false
}

// sequences is a run of them.
type sequences struct {
	t        *testing.T
	rnd      *rand.Rand
	redis    *redistest.Server // compared with
	origin   *redistest.Server // behind n
	n        *nearside
	tolerant bool // answers are not compared: nearside's own texts are 7.0's
	compared int
	refused  int
}

func (q *sequences) lines(n int) (lines []string) {
	for range n {
		lines = append(lines, sequenceWords[q.rnd.IntN(len(sequenceWords))])
	}
	if q.rnd.IntN(2) == 0 {
		lines = append([]string{"HELLO 3"}, lines...)
	}
	return lines
}

// differ plays lines at both and tells how they are answered differently; "" if they are not.
func (q *sequences) differ(lines []string, slowly bool) string {
	lines = append(slices.Clone(lines), "QUIT")
	var got [2]string
	for i, addr := range []string{q.redis.Addr, q.n.addr} {
		c := redistest.Dial(q.t, addr)
		for _, l := range sequenceSetup {
			c.Send(sequenceArgs(l)...)
		}
		for range sequenceSetup {
			c.Read()
		}
		c.Close()
		var err error
		if got[i], err = play(addr, lines, slowly); err != nil && i == 0 {
			return "" // CLIENT REPLY OFF keeps some versions from closing
		} else if err != nil {
			return fmt.Sprintf("%v; it answered %q", err, got[i])
		}
	}
	// What is muted inside MULTI Redis itself answers with half an array, and what nearside
	// refuses on a monitor's connection cannot be seen if it is muted.
	if text := strings.Join(lines, "\n"); q.tolerant || strings.Contains(text, "CLIENT REPLY") && (strings.Contains(text, "MULTI") || strings.Contains(text, "MONITOR")) {
		return takeApart(got[1]).bad
	}
	want, have := takeApart(got[0]), takeApart(got[1])
	if at := slices.IndexFunc(have.replies, func(r string) bool { return strings.Contains(r, "-ERR nearside: ") }); at >= 0 {
		q.refused++ // from there on all is different
		have.replies, want.replies = have.replies[:at], want.replies[:min(at, len(want.replies))]
		have.pushes, want.pushes = nil, nil
	} else if slices.ContainsFunc(lines, func(l string) bool { return l == "MONITOR" || strings.Contains(l, "BCAST") }) { // their pushes come when they come
		have.pushes, want.pushes = nil, nil
	}
	q.compared++
	if have.bad != "" || !slices.Equal(want.replies, have.replies) || !slices.Equal(want.pushes, have.pushes) {
		return fmt.Sprintf("nearside answers %s\n  pushes %s %s\nRedis answers    %s\n  pushes %s", have.replies, have.pushes, have.bad, want.replies, want.pushes)
	}
	return ""
}

// smaller leaves out what is not needed for a difference.
func (q *sequences) smaller(lines []string, slowly bool) []string {
	for i := 0; i < len(lines); {
		without := slices.Delete(slices.Clone(lines), i, i+1)
		if q.differ(without, slowly) != "" {
			lines = without
		} else {
			i++
		}
	}
	return lines
}

// together plays sequences of several clients at the same time, which see each other
// and end in all sorts of ways.
func (q *sequences) together() {
	var wg sync.WaitGroup
	var ids []string
	var mu sync.Mutex
	for range 2 + q.rnd.IntN(6) {
		lines := q.lines(2 + q.rnd.IntN(20))
		for range 2 {
			lines = slices.Insert(lines, q.rnd.IntN(len(lines)), []string{"BLPOP never 0", "CLIENT TRACKING ON REDIRECT id", "SUBSCRIBE __redis__:invalidate", "XREAD BLOCK 0 STREAMS st $", "WAIT 1 0", "SUBSCRIBE __keyspace@0__:k", "CLIENT KILL ID id", "CLIENT UNBLOCK id"}[q.rnd.IntN(8)])
		}
		how, read := q.rnd.IntN(4), q.rnd.IntN(3) > 0
		rnd := rand.New(rand.NewPCG(q.rnd.Uint64(), 0))
		wg.Go(func() {
			c, err := net.Dial("tcp", q.n.addr)
			if err != nil {
				q.t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(sequencePatience))
			own := make([]byte, 64)
			_, _ = io.WriteString(c, "CLIENT ID\r\n")
			if k, _ := c.Read(own); k > 3 {
				mu.Lock()
				ids = append(ids, strings.Trim(string(own[:k]), ":\r\n"))
				mu.Unlock()
			}
			if read {
				go func() { _, _ = io.Copy(io.Discard, c) }()
			}
			for _, l := range lines {
				mu.Lock()
				if len(ids) > 0 {
					l = strings.Replace(l, " id", " "+ids[rnd.IntN(len(ids))], 1)
				}
				mu.Unlock()
				if _, err := io.WriteString(c, sequenceBytes([]string{l})); err != nil {
					return
				}
				if rnd.IntN(3) == 0 {
					time.Sleep(time.Duration(rnd.IntN(2000)) * time.Microsecond)
				}
			}
			switch how {
			case 0: // in the middle of a request
				_, _ = io.WriteString(c, "*2\r\n$3\r\nGET\r\n$5")
			case 1:
				_ = c.(*net.TCPConn).CloseWrite()
				time.Sleep(time.Millisecond)
			case 2:
				_ = c.(*net.TCPConn).SetLinger(0) // RST
			}
		})
	}
	wg.Wait()
}

// nothing checks that all that was there for sequences is gone.
func (q *sequences) nothing(witnesses int) {
	n := q.n
	n.t = q.t
	n.eventually("nothing is left", func() bool {
		st := n.origin.Stats()
		return n.clients.Load() == int64(witnesses) && len(n.sessionList()) == witnesses && st.Pinned == 0 && n.budget.used.Load() == 0 && n.budget.transit.Load() == 0
	})
	list := ""
	defer func() {
		if list != "" {
			q.t.Log(list)
		}
	}()
	n.eventually("no connection at Redis is in a state of anybody's", func() bool {
		list = q.origin.Do("CLIENT", "LIST")
		states := 0
		for line := range strings.Lines(list) {
			_, flags, _ := strings.Cut(line, " flags=")
			flags, _, _ = strings.Cut(flags, " ")
			if strings.ContainsAny(flags, "OPxbtd") {
				states++
			}
			if strings.Contains(line, " watch=") && !strings.Contains(line, " watch=0 ") {
				return false
			}
		}
		if states == 1 { // the link's: it tracks
			list = ""
		}
		return list == ""
	})
}

func TestSequences(t *testing.T) {
	length := 4 * time.Second
	if s := os.Getenv("NEARSIDE_SEQUENCES_SECONDS"); s != "" {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		length = time.Duration(n * float64(time.Second))
	}
	rnd := diffSeed(t)
	for _, name := range redistest.All {
		t.Run(name.String(), func(t *testing.T) {
			q := &sequences{t: t, rnd: rnd, tolerant: name != redistest.Debian, redis: redistest.StartNamed(t, name), origin: redistest.StartNamed(t, name)}
			q.n = start(t, q.origin, func(c *Config) { c.MaxPinned = 64 })
			var witnesses [4]*redistest.Client
			for i := range witnesses { // on each shared connection, of the locks too
				witnesses[i] = q.n.dial()
			}
			witness := func(i int) {
				for k, w := range witnesses {
					v := fmt.Sprint(i, "-", k)
					w.Write(redistest.Command("ECHO", v) + redistest.Command("SET", "lock:w"+v, v, "NX", "PX", "100000") + redistest.Command("GET", "lock:w"+v) + redistest.Command("ECHO", v+"!"))
					for _, expected := range []string{v, "OK", v, v + "!"} {
						if got := w.Read(); got != expected {
							t.Fatalf("a client on a shared connection got %q instead of %q", got, expected)
						}
					}
				}
			}
			witness(-1)
			q.nothing(len(witnesses))
			descriptors, goroutines := openDescriptors(t), runtime.NumGoroutine()
			i, failures := 0, 0
			for begun := time.Now(); time.Since(begun) < length/time.Duration(len(redistest.All)) && failures < 5; i++ {
				if i%8 == 7 {
					q.together()
					witness(i)
					q.nothing(len(witnesses))
					continue
				}
				lines, slowly := q.lines(1+rnd.IntN(14)), rnd.IntN(4) == 0
				if problem := q.differ(lines, slowly); problem != "" {
					if q.differ(lines, slowly) == "" { // of two clocks, perhaps
						continue
					}
					failures++
					few := q.smaller(lines, slowly)
					t.Errorf("slowly %v, made smaller: %q\n%s\n(of %q)", slowly, few, q.differ(few, slowly), lines)
				}
			}
			witness(i)
			q.nothing(len(witnesses))
			q.n.eventually("descriptors are few", func() bool { return openDescriptors(t) <= descriptors+80 }) // idle ones for the next who needs one
			q.n.eventually("goroutines are few", func() bool { return runtime.NumGoroutine() <= goroutines+100 })
			t.Logf("%d rounds, %d sequences compared, %d of them up to a refusal", i, q.compared, q.refused)
		})
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("there is no /proc/self/fd to count descriptors with")
	}
	return len(list)
}

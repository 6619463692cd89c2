package origin

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

// Pushes inside of a reply are no elements of it, wherever they stand and in
// whatever pieces the reply comes; confirmations are.
func TestPushesInside(t *testing.T) {
	const (
		message = ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n"
		invalid = ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
		confirm = ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
		nothing = ">2\r\n$10\r\ninvalidate\r\n_\r\n"
		odd     = ">3\r\n$9\r\nsubscribed\r\n" // not a confirmation, if it existed
	)
	for _, parts := range [][]string{
		{"*2\r\n", "!" + message, ":1\r\n", "+OK\r\n"},
		{"*2\r\n", ":1\r\n", "!" + message, "!" + invalid, "+OK\r\n"},
		{"*2\r\n", confirm, "!" + message, "$1\r\nx\r\n"},
		{"*1\r\n", "*2\r\n", "_\r\n", "!" + nothing, "_\r\n"},
		{"%1\r\n", "+a\r\n", "!" + message, "*1\r\n", confirm},
		{"*3\r\n", "*0\r\n", "!" + message, confirm, "!" + invalid, ">3\r\n$12\r\npunsubscribe\r\n_\r\n:0\r\n"},
	} {
		var whole, clean strings.Builder
		var pushes []string
		for _, p := range parts {
			if push, ok := strings.CutPrefix(p, "!"); ok {
				pushes = append(pushes, push)
				p = push
			} else {
				clean.WriteString(p)
			}
			whole.WriteString(p)
		}
		b := []byte(whole.String())
		for step := 1; step <= len(b); step++ {
			var s Scanner
			n := 0
			for at := 0; n == 0 && at < len(b); {
				at = min(at+step, len(b))
				var err error
				if n, err = s.Next(append(b[:at:at], "+more\r\n"[:0]...)); err != nil {
					t.Fatalf("%q: %v", b, err)
				}
				if n > 0 && at < n {
					t.Fatalf("%q: whole at %d of %d", b, at, n)
				}
			}
			if n != len(b) || s.pushes != len(pushes) {
				t.Errorf("%q by %d: %d of %d bytes, %d pushes", b, step, n, len(b), s.pushes)
			}
			k := skipper{missing: 1}
			for at, fed := 0, 0; fed < len(b); {
				at = min(at+step, len(b))
				m, err := k.feed(b[fed:at])
				if err != nil {
					t.Fatalf("%q: %v", b, err)
				}
				if fed += m; k.missing == 0 && fed != len(b) || at == len(b) && k.missing != 0 {
					t.Fatalf("%q by %d: skipped %d, %d elements missing", b, step, fed, k.missing)
				}
			}
		}
		reply, got := withoutPushes(bytes.Clone(b))
		if string(reply) != clean.String() || len(got) != len(pushes) {
			t.Errorf("%q: left %q, %q taken out", b, reply, got)
			continue
		}
		for i := range got {
			if string(got[i]) != pushes[i] {
				t.Errorf("%q: %q taken out", b, got[i])
			}
		}
	}
	if _, known := pushElement([]byte(odd[len(">3\r\n") : len(">3\r\n")+8])); known {
		t.Error("the beginning of a word says nothing")
	}
}

// What a server up to 7.0 puts into EXEC's array comes behind the reply, and the
// next reply is the next request's; on newer servers as well.
func TestPushesInsideExec(t *testing.T) {
	for _, name := range redistest.All {
		t.Run(name.String(), func(t *testing.T) {
			t.Parallel()
			s := redistest.StartNamed(t, name)
			o := open(t, Config{URL: s.URL()})
			c := pin(t, o, Group{Proto: 3})
			pushes := make(chan string, 10)
			c.SetPush(func(f []byte, _ *Batch) { pushes <- string(f) })
			ask := func(want string, replies int, args ...string) {
				t.Helper()
				b, err := c.Call(ctxT(t), AppendCommand(nil, args...), replies)
				if err != nil || string(b) != want {
					t.Fatalf("%s: %q %v, want %q", args, b, err, want)
				}
			}
			ask(">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n", -1, "SUBSCRIBE", "c")
			ask("+OK\r\n", 1, "CLIENT", "TRACKING", "ON")
			ask("_\r\n", 1, "GET", "k")
			ask("+OK\r\n", 1, "MULTI")
			ask("+QUEUED\r\n", 1, "PUBLISH", "c", "x")
			ask("+QUEUED\r\n", 1, "SET", "k", "v")
			ask("+QUEUED\r\n", 1, "UNSUBSCRIBE", "c")
			ask("+QUEUED\r\n", 1, "GET", "k")
			ask("*4\r\n:1\r\n+OK\r\n>3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n$1\r\nv\r\n", 1, "EXEC")
			ask("$5\r\nstill\r\n", 1, "ECHO", "still")
			for range 2 {
				select {
				case got := <-pushes:
					if !strings.Contains(got, "message") && !strings.Contains(got, "invalidate") {
						t.Errorf("pushed %q", got)
					}
				case <-ctxT(t).Done():
					t.Fatal(context.DeadlineExceeded)
				}
			}
			o.Unpin(c, false)
		})
	}
}

package origin

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

var whole = []string{
	"+OK\r\n", "-ERR x\r\n", ":1\r\n", ":-5\r\n", "$0\r\n\r\n", "$-1\r\n", "$3\r\na\r\n\r\n", "*0\r\n", "*-1\r\n",
	"*2\r\n:1\r\n*1\r\n$1\r\nx\r\n", "_\r\n", ",1.5\r\n", ",inf\r\n", "#t\r\n", "(123\r\n", "!5\r\nERR x\r\n", "=7\r\ntxt:abc\r\n",
	"%1\r\n+a\r\n:1\r\n", "~2\r\n:1\r\n:2\r\n", ">2\r\n+a\r\n_\r\n", "|1\r\n+k\r\n+v\r\n:1\r\n", "*2\r\n|1\r\n+k\r\n*1\r\n:1\r\n:1\r\n:2\r\n",
	"%0\r\n", ">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", "+\r\n", strings.Repeat("*1\r\n", 5000) + ":1\r\n",
}

func TestNext(t *testing.T) {
	for _, r := range whole {
		for _, tail := range []string{"", "+more\r\n", "x"} {
			if n, err := Next([]byte(r + tail)); n != len(r) || err != nil {
				t.Errorf("%.40q + %q: %d, %v", r, tail, n, err)
			}
		}
		for i := range len(r) {
			if n, err := Next([]byte(r[:i])); n != 0 || err != nil {
				t.Errorf("%.40q: %d, %v", r[:i], n, err)
			}
			if len(r) > 1000 && i > 100 {
				break
			}
		}
	}
	for _, r := range []string{"x", "\r\n", "$?\r\n", "*?\r\n", "$-2\r\n", "$a\r\n", "$1\r\nabc", "$\r\n", "*1x", "+a\n", "\n", "$99999999999999999999\r\n", "$1\rx", "*-\r\n"} {
		if n, err := Next([]byte(r)); n != 0 || err == nil {
			t.Errorf("%q: %d, %v", r, n, err)
		}
	}
}

// Rescanning would take minutes here.
func TestScanIsIncremental(t *testing.T) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", 1_000_000)
	for i := range 1_000_000 {
		fmt.Fprintf(&b, ":%d\r\n", i)
	}
	line := "+" + strings.Repeat("y", 8<<20) + "\r\n"
	for _, all := range [][]byte{b.Bytes(), []byte(line)} {
		var s Scanner
		for i := 512; ; i += 512 {
			n, err := s.Next(all[:min(i, len(all))])
			if err != nil {
				t.Fatal(err)
			}
			if n > 0 {
				if n != len(all) {
					t.Fatal(n)
				}
				break
			}
		}
	}
}

func TestHelpers(t *testing.T) {
	b := []byte("*4\r\n$1\r\na\r\n$-1\r\n=5\r\ntxt:b\r\n:42\r\n+OK\r\n")
	n, rest, ok := Elements(b)
	if n != 4 || !ok {
		t.Fatal(n, ok)
	}
	v, null, rest, ok := Bulk(rest)
	if string(v) != "a" || null || !ok {
		t.Error(v, null, ok)
	}
	v, null, rest, ok = Bulk(rest)
	if v != nil || !null || !ok {
		t.Error(v, null, ok)
	}
	v, _, rest, ok = Bulk(rest)
	if string(v) != "b" || !ok {
		t.Error(v, ok)
	}
	i, rest, ok := Int(rest)
	if i != 42 || !ok {
		t.Error(i, ok)
	}
	first, rest := Split(rest)
	if string(first) != "+OK\r\n" || len(rest) != 0 {
		t.Error(first, rest)
	}
	if n, _, ok := Elements([]byte("%2\r\n")); n != 4 || !ok {
		t.Error(n, ok)
	}
	if n, _, ok := Elements([]byte("*-1\r\n")); n != -1 || !ok {
		t.Error(n, ok)
	}
	if _, null, _, ok := Bulk([]byte("_\r\n")); !null || !ok {
		t.Error("null")
	}
	for _, bad := range []string{"", "$5\r\nabc", "*1\r\n:1\r\n", "+OK\r\n", "$3\r\nabc", "_"} {
		if _, _, _, ok := Bulk([]byte(bad)); ok {
			t.Errorf("%q taken", bad)
		}
	}
	for _, bad := range []string{"", ":\r\n", ":1", ":x\r\n", "+1\r\n"} {
		if _, _, ok := Int([]byte(bad)); ok {
			t.Errorf("%q taken", bad)
		}
	}
	if got := string(AppendCommand(nil, "SET", "", "ab")); got != "*3\r\n$3\r\nSET\r\n$0\r\n\r\n$2\r\nab\r\n" {
		t.Error(got)
	}
}

type flushes int

func (f *flushes) Flush() { *f++ }

func TestBatchFlushesOnce(t *testing.T) {
	var b Batch
	for _, n := range []int{3, 500, 3} {
		fs := make([]flushes, n)
		for range 3 {
			for i := range fs {
				b.Add(&fs[i])
			}
		}
		b.Flush()
		for i, f := range fs {
			if f != 1 {
				t.Fatalf("%d of %d: flushed %d times", i, n, f)
			}
		}
	}
}

func FuzzNext(f *testing.F) {
	for _, r := range whole {
		if len(r) > 100 {
			continue // minimizing it takes all the time
		}
		f.Add([]byte(r+"+x\r\n"), byte(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, step byte) {
		n, err := Next(b)
		if n < 0 || n > len(b) || (err != nil && n != 0) {
			t.Fatal(n, err)
		}
		var s Scanner
		for i := 0; ; i += int(step) + 1 {
			i = min(i, len(b))
			cn, cerr := s.Next(b[:i])
			if cn > 0 || cerr != nil {
				if cn != n || (cerr == nil) != (err == nil) {
					t.Fatalf("in pieces %d, %v; whole %d, %v", cn, cerr, n, err)
				}
				break
			}
			if s.Need() <= i && i > 0 {
				t.Fatalf("needs %d of %d", s.Need(), i)
			}
			if i == len(b) {
				if n != 0 || err != nil {
					t.Fatalf("incomplete in pieces; whole %d, %v", n, err)
				}
				break
			}
		}
		Split(b)
		Elements(b)
		Bulk(b)
		Int(b)
	})
}

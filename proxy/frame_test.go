package proxy

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/redcon"
)

// found is one thing that a framer saw in a stream.
type found struct {
	kind    frameKind
	raw     string
	problem string
}

// testFramer has small bounds, so that short inputs reach them.
func testFramer() framer { return framer{maxRequest: 512, maxBulk: 400, maxArgs: 20} }

// frameStream lets a framer see data in pieces that end at cuts, as a session
// would, and returns what it saw until it asked for more than there is.
func frameStream(t testing.TB, data []byte, cuts []int, authed bool) (all []found) {
	t.Helper()
	f := testFramer()
	buf := []byte{}
	for _, end := range append(slices.Clone(cuts), len(data)) {
		if have := len(buf); end > have {
			buf = append(buf, data[have:end]...)
		}
	}
	// The stream again, now only as far as each cut.
	whole, at := buf, 0
	for _, end := range append(slices.Clone(cuts), len(data)) {
		for {
			window := whole[at:max(at, end)]
			kind, n, problem := f.next(window, authed)
			if kind == frameMore {
				if n != 0 || problem != "" {
					t.Fatalf("more, with n=%d and problem %q", n, problem)
				}
				if want := f.want(); want < 0 || want > 2*int(f.maxRequest)+maxLine {
					t.Fatalf("want is %d", want)
				}
				break
			}
			if kind == frameBad {
				if problem == "" || n != 0 {
					t.Fatalf("bad, with n=%d and problem %q", n, problem)
				}
				return append(all, found{kind: kind, problem: problem})
			}
			if n <= 0 || n > len(window) || problem != "" {
				t.Fatalf("kind %d with n=%d of %d, problem %q", kind, n, len(window), problem)
			}
			raw := window[:n]
			if kind == frameArray {
				complete, args, _, left, err := redcon.ReadNextCommand(raw, nil)
				if err != nil || !complete || len(left) != 0 || len(args) == 0 {
					t.Fatalf("redcon does not agree about %q: %v, complete %v, %d args, %d bytes left", raw, err, complete, len(args), len(left))
				}
			}
			all = append(all, found{kind: kind, raw: string(raw)})
			at += n
		}
	}
	return all
}

// frameModel is what Redis's networking.c does, written as there.
func frameModel(data string, authed bool) (all []found) {
	f := testFramer()
	bad := func(problem string) []found { return append(all, found{kind: frameBad, problem: problem}) }
	// strchr ends at a NUL.
	strchr := func(s string, c byte) int {
		i := strings.IndexByte(s, c)
		if j := strings.IndexByte(s, 0); j >= 0 && j < i {
			return -1
		}
		return i
	}
	for data != "" {
		if data[0] != '*' {
			i := strchr(data, '\n')
			if i < 0 {
				return all
			}
			all = append(all, found{kind: frameInline, raw: data[:i+1]})
			data = data[i+1:]
			continue
		}
		i := strchr(data, '\r')
		if i < 0 || i+2 > len(data) {
			return all
		}
		count, ok := parseLength([]byte(data[1:i]))
		pos := i + 2
		switch {
		case !ok || count > 1<<20: // the framer is not told that the origin takes more
			return bad("invalid multibulk length")
		case count > unauthedArgs && !authed:
			return bad("unauthenticated multibulk length")
		case count > f.maxArgs:
			return bad(fmt.Sprintf("request of more arguments (%d) than max_request and buffers allow (%d)", count, f.maxArgs))
		case count <= 0:
			all = append(all, found{kind: frameSkip, raw: data[:i] + "\r\n"})
			data = data[pos:]
			continue
		}
		raw := data[:i] + "\r\n"
		for range count {
			rest := data[pos:]
			i := strchr(rest, '\r')
			if i < 0 || i+2 > len(rest) {
				return all
			}
			if rest[0] != '$' {
				return bad("expected '$', got '" + rest[:1] + "'")
			}
			size, ok := parseLength([]byte(rest[1:i]))
			switch {
			case !ok || size < 0 || size > f.maxBulk:
				return bad("invalid bulk length")
			case size > unauthedBulk && !authed:
				return bad("unauthenticated bulk length")
			case int64(pos+i+2)+size > f.maxRequest:
				return bad("request larger than max_request (512 bytes)")
			}
			if len(rest) < i+2+int(size)+2 {
				return all
			}
			raw += rest[:i] + "\r\n" + rest[i+2:i+2+int(size)] + "\r\n"
			pos += i + 2 + int(size) + 2
		}
		all = append(all, found{kind: frameArray, raw: raw})
		data = data[pos:]
	}
	return all
}

// hostileBytes are streams that break parsers. They are also the seeds of the
// fuzz test and are sent to nearside and to a real Redis.
var hostileBytes = []string{
	"*0\r\n", "*-1\r\n", "*-0\r\n", "*00\r\n", "*01\r\n$4\r\nPING\r\n", "*+1\r\n$4\r\nPING\r\n", "* 1\r\n$4\r\nPING\r\n", "*1 \r\n$4\r\nPING\r\n",
	"*\r\n", "**\r\n", "*-\r\n", "*1x\r\n", "*0x1\r\n", "*1.0\r\n", "*-9223372036854775808\r\n", "*-9223372036854775809\r\n",
	"*9223372036854775807\r\n", "*9223372036854775808\r\n", "*99999999999999999999999\r\n", "*2147483648\r\n", "*4294967297\r\n$4\r\nPING\r\n",
	"*1\r\n$-1\r\n", "*1\r\n$-0\r\n", "*1\r\n$\r\n", "*1\r\n$+4\r\nPING\r\n", "*1\r\n$04\r\nPING\r\n", "*1\r\n$4 \r\nPING\r\n", "*1\r\n$ 4\r\nPING\r\n",
	"*1\r\n$9223372036854775807\r\n", "*1\r\n$18446744073709551620\r\nPING\r\n", "*1\r\n$536870913\r\n", "*1\r\n$1073741824\r\n", "*1\r\n$x\r\n",
	"*1\r\n\r\n", "*1\r\n\r\n$4\r\nPING\r\n", "*1\r\nPING\r\n", "*1\r\n:4\r\n", "*1\r\n*1\r\n", "*1\r\n\n\r\n", "*1\r\n\xff\r\n", "*1\r\n'\r\n", "*1\r\n%s%n\r\n",
	"*1\r\n$4\r\nPINGxx", "*1\r\n$4\r\nPING\n\n", "*1\r\r$4\r\rPING\r\r", "*1\rX$4\rYPINGZZ", "*1\n$4\nPING\n", "*3\n", "*3\n\r\n", "*1\r\n$4\n\r\nPING\r\n",
	"*1\r\n$3\r\nPING\r\n", "*1\r\n$5\r\nPING\r\n", "*1\r\n$0\r\n\r\n", "*2\r\n$0\r\n\r\n$0\r\n\r\n", "*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", "*1\r\n$1\r\n\x00\r\n", "*1\r\n$2\r\n\r\n\r\n",
	"*2\r\n$4\r\nECHO\r\n$3\r\n\x00\r\n\r\n", "*2\r\n$4\r\necho\r\n$2\r\n\xff\xfe\r\n", "$4\r\nPING\r\n", ":1\r\n", "+PING\r\n", "-ERR\r\n", ">1\r\n$4\r\nPING\r\n", "%1\r\n",
	"\r\n", "\n", "\n\n\n", "\r", "\r\r\n", " \r\n", "\t\v\f\n", "PING\n", "PING\r\n", "  PING  \r\n", "PING\rPING\r\n", "ping\r\nping\r\n", "PING\x00\r\n", "\x00PING\r\n", "\x00\r\n", "\x00\x00\x00\x00", "PI\x00NG\r\n", "*1\x00\r\n", "*1\r\n$4\x00\r\nPING\r\n", "*1\r\n\x00\r\n",
	"ECHO \"a\r\n", "ECHO 'a\r\n", "ECHO \"a\"b\r\n", "ECHO a\"b\r\n", "ECHO \"\r\n", "\"\r\n", "''\r\n", "\"\" x\r\n", "ECHO '\\'\r\n", "ECHO \"\\\"\r\n", "ECHO \"\\x\"\r\n",
	"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", "Host: x\r\n", "post\r\n", "*1\r\n$5\r\nhost:\r\n", "*2\r\n$4\r\nPOST\r\n$1\r\n/\r\n",
	"\xff\xf4\xff\xfd\x06", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", "nosuch\r\n", "nosuch \"a b\" c\r\n", "*1\r\n$6\r\nnosuch\r\n", "*2\r\n$6\r\nnosuch\r\n$3\r\na\r\n\r\n", "GET\r\n", "*1\r\n$3\r\nGET\r\n", "SET a\r\n",
	"PING\r\nECHO a\r\n*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$1\r\nb\r\n*x\r\nPING\r\n", "*2\r\n$4\r\nECHO\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n*1\r\n$-5\r\nPING\r\n", "SET k v\r\nGET k\r\nECHO \"\r\nPING\r\n", "GET nokey\r\n*0\r\n*-1\r\n\r\nGET nokey\r\n*1\r\nx\r\n",
	"QUIT\r\nPING\r\n", "*1\r\n$4\r\nQUIT\r\n*x\r\n", "GET nokey\r\nQUIT\r\nGET nokey\r\n",
	"PING a b\r\n", "PING a\r\n", "ECHO\r\n", "ECHO a b\r\n", "SELECT\r\n", "SELECT x\r\n", "SELECT -1\r\n", "SELECT 99999999999\r\n", "SELECT 16\r\n", "SELECT 01\r\n",
	"EXEC\r\n", "DISCARD\r\n", "MULTI\r\nMULTI\r\nEXEC\r\n", "MULTI\r\nnosuch\r\nEXEC\r\n", "MULTI\r\nPING\r\n*x\r\n",
}

func TestFrame(t *testing.T) {
	for _, data := range hostileBytes {
		for _, authed := range []bool{true, false} {
			checkFrames(t, []byte(data), authed)
		}
	}
}

// checkFrames holds a framer against the model, whole and cut at every byte.
func checkFrames(t testing.TB, data []byte, authed bool) {
	t.Helper()
	whole := frameStream(t, data, nil, authed)
	if want := frameModel(string(data), authed); !slices.Equal(whole, want) {
		t.Fatalf("%q is framed as\n%+v\nwant\n%+v", data, whole, want)
	}
	each := make([]int, len(data))
	for i := range each {
		each[i] = i + 1
	}
	if got := frameStream(t, data, each, authed); !slices.Equal(got, whole) {
		t.Fatalf("%q in single bytes is framed as\n%+v\nwhole as\n%+v", data, got, whole)
	}
}

func TestFrameLines(t *testing.T) {
	long := strings.Repeat("a", maxLine)
	for _, c := range []struct {
		data    string
		kind    frameKind
		problem string
	}{
		{long, frameMore, ""},
		{long + "a", frameBad, "too big inline request"},
		{"*" + long, frameBad, "too big mbulk count string"},
		{"*1\r\n$" + long, frameBad, "too big bulk count string"},
		{long[:maxLine-1] + "\n", frameInline, ""},
	} {
		f := testFramer()
		kind, _, problem := f.next([]byte(c.data), true)
		if kind != c.kind || problem != c.problem {
			t.Errorf("%.10q… (%d bytes): kind %d, %q; want %d, %q", c.data, len(c.data), kind, problem, c.kind, c.problem)
		}
	}
}

// TestFrameArguments: what a server takes is not refused by its count, and
// what does not fit in memory is refused before it is read.
func TestFrameArguments(t *testing.T) {
	yes, no := func() bool { return true }, func() bool { return false }
	const own = "request of more arguments (%d) than max_request and buffers allow (%d)"
	for _, c := range []struct {
		maxRequest, buffers int64
		more                func() bool
		count               string
		problem             string
	}{
		{64 << 20, 128 << 20, nil, "1048576", ""},
		{64 << 20, 128 << 20, nil, "1048577", "invalid multibulk length"},
		{64 << 20, 128 << 20, no, "1048577", "invalid multibulk length"},
		{64 << 20, 128 << 20, yes, "1048577", ""},
		{64 << 20, 128 << 20, yes, "1560671", ""},
		{64 << 20, 128 << 20, yes, "1560672", fmt.Sprintf(own, 1560672, 1560671)},
		{64 << 20, 128 << 20, yes, "2147483647", fmt.Sprintf(own, 2147483647, 1560671)},
		{64 << 20, 128 << 20, yes, "2147483648", "invalid multibulk length"},
		{64 << 20, 128 << 20, yes, "9223372036854775808", "invalid multibulk length"},
		{1 << 20, 1 << 30, yes, "174762", ""},
		{1 << 20, 1 << 30, yes, "174763", fmt.Sprintf(own, 174763, 174762)},
		{1024, 1 << 20, yes, "1024", ""},
		{1024, 1 << 20, yes, "1025", fmt.Sprintf(own, 1025, 1024)},
	} {
		f := framer{more: c.more}
		f.bound(c.maxRequest, c.buffers)
		kind, _, problem := f.next([]byte("*"+c.count+"\r\n"), true)
		if problem != c.problem || (kind == frameMore) != (c.problem == "") {
			t.Errorf("%+v: kind %d, %q", c, kind, problem)
		}
	}
}

// A request of a million arguments is understood once, not once per read.
func TestFrameIsLinear(t *testing.T) {
	const args = 100_000
	data := fmt.Appendf(nil, "*%d\r\n", args)
	data = append(data, bytes.Repeat([]byte("$1\r\nx\r\n"), args)...)
	f := framer{maxRequest: 64 << 20, maxBulk: 64 << 20, maxArgs: args}
	for end := 0; end < len(data)-1; end += 1 + len(data)/2000 {
		before := f.pos
		if kind, _, problem := f.next(data[:end], true); kind != frameMore {
			t.Fatalf("at %d: kind %d, %q", end, kind, problem)
		}
		if f.pos < before {
			t.Fatalf("at %d it went back from %d to %d", end, before, f.pos)
		}
	}
	if kind, n, _ := f.next(data, true); kind != frameArray || n != len(data) {
		t.Fatalf("kind %d, n %d of %d", kind, n, len(data))
	}
}

func TestParseLength(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "-1": -1, "9": 9, "10": 10, "999999999": 999999999, "1000000000": 1000000000, "-999999999": -999999999,
		"9223372036854775807": 1<<63 - 1, "-9223372036854775808": -1 << 63,
	} {
		if n, ok := parseLength([]byte(text)); !ok || n != want {
			t.Errorf("%q is %d, %v", text, n, ok)
		}
	}
	for _, text := range []string{"", "-", "+1", "01", "00", "-0", "-01", " 1", "1 ", "1\n", "1a", "a", "0x1", "1_0", "1e3", "9223372036854775808", "-9223372036854775809", "99999999999999999999", "1000000000_", "--1", "\x00", "１"} {
		if n, ok := parseLength([]byte(text)); ok {
			t.Errorf("%q is taken for %d", text, n)
		}
	}
}

// FuzzFrame: any bytes in any pieces give what the model gives for the whole.
func FuzzFrame(f *testing.F) {
	for i, data := range hostileBytes {
		f.Add([]byte(data), []byte{byte(i), byte(i / 3), 1}, i%2 == 0)
	}
	f.Add([]byte(strings.Join(hostileBytes[:3], "")+"*2\r\n$4\r\nECHO\r\n$3\r\nabc\r\nPING\r\n"), []byte{3, 2, 5}, true)
	f.Fuzz(func(t *testing.T, data, pieces []byte, authed bool) {
		if len(data) > maxLine/2 {
			return // "too big" depends on how much came at once, as in Redis
		}
		checkFrames(t, data, authed)
		var cuts []int
		at := 0
		for _, n := range pieces {
			if at += int(n); at < len(data) {
				cuts = append(cuts, at)
			}
		}
		if got, whole := frameStream(t, data, cuts, authed), frameStream(t, data, nil, authed); !slices.Equal(got, whole) {
			t.Fatalf("%q cut at %v is framed as\n%+v\nwhole as\n%+v", data, cuts, got, whole)
		}
	})
}

package proxy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

// inlineLines are the second halves of lines whose arguments Redis tells in its answer.
var inlineLines = []string{
	``, ` `, `a`, `a b`, "a\tb", "a\vb\fc", `  a   b  `, `a"b"c`, `a'b'c`, `"a b"`, `'a b'`, `""`, `''`, `"" ''`, `"a""b"`, `"a"b`, `'a'b`, `'a'"b"`, `"a" 'b'`,
	`"\n\r\t\b\a"`, `"\\"`, `"\""`, `"\'"`, `"\q"`, `"\x41"`, `"\x4"`, `"\x4g"`, `"\xgg"`, `"\x"`, `"\xFf\x00"`, `"\x0a"`, `"\X41"`, `"\`, `"\"`, `"\x4`, `"\x41`,
	`'\n'`, `'\''`, `'\\'`, `'\'`, `'\x41'`, `'a\`, `'`, `"`, `a"`, `a'`, `\n`, `\x41`, `a\ b`, `\"a`, `\'a`, `a\`, "\xff\xfe", `"` + "\xff" + `"`, "a\rb", "\"a\rb\"", `"a'b"`, `'a"b'`,
	`a "b c" 'd e' "f\x20g"`, strings.Repeat("x ", 2000), strings.Repeat(`"`, 7), strings.Repeat(`'`, 8), "$1", "*1", `{"a": "b"}`, `'{"a": "b"}'`,
}

// randomLine is made of what matters to the splitter.
func randomLine(r *rand.Rand) string {
	parts := []string{"a", "b", " ", " ", "\t", `"`, `"`, `'`, `'`, `\`, `\\`, `\"`, `\'`, `\x41`, `\x4`, `\n`, "é", "\xff", "\r", "x"}
	var b strings.Builder
	for range r.IntN(12) {
		b.WriteString(parts[r.IntN(len(parts))])
	}
	return b.String()
}

// TestInlineAsRedis lets a real Redis say how it splits, and nearside's session
// what it makes of the same line.
func TestInlineAsRedis(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	const tell = `eval "return ARGV" 0 `
	lines := inlineLines
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		lines = append(lines, randomLine(r))
	}
	var together strings.Builder // all that end no connection, in one pipeline
	alone := 0
	for _, line := range lines {
		if _, ok := splitInline([]byte(tell + line)); ok {
			together.WriteString(tell + line + "\r\n")
			together.WriteString(line + "\r\n") // and as a command by itself
			continue
		}
		alone++
		if alone <= 150 {
			compare(t, redis, n, tell+line+"\r\n")
		}
	}
	compare(t, redis, n, together.String())
}

func TestSplitInline(t *testing.T) {
	for line, want := range map[string][]string{
		``:                  {},
		` a  b `:            {"a", "b"},
		`"a b" 'c d'`:       {"a b", "c d"},
		`"\x41\n\q" '\x\''`: {"A\nq", `\x'`},
		`""`:                {""},
		`a"b c"`:            {"ab c"},
	} {
		args, ok := splitInline([]byte(line))
		if !ok || len(args) != len(want) {
			t.Errorf("%s is split into %q, %v", line, args, ok)
			continue
		}
		for i := range args {
			if string(args[i]) != want[i] {
				t.Errorf("%s is split into %q, want %q", line, args, want)
			}
		}
	}
	for _, line := range []string{`"`, `'`, `"a`, `"a"b`, `'a'b`, `"\"`, `a "b`} {
		if args, ok := splitInline([]byte(line)); ok {
			t.Errorf("%s is split into %q", line, args)
		}
	}
}

// quoteInline writes an argument as Redis's sdscatrepr does.
func quoteInline(arg string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(arg) {
		switch c := arg[i]; {
		case c == '\\' || c == '"':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c >= ' ' && c <= '~':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// FuzzInline: no line makes it panic, no argument is longer than the line, and
// what was quoted comes back.
func FuzzInline(f *testing.F) {
	for _, line := range inlineLines {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		args, ok := splitInline([]byte(line))
		total := 0
		for _, a := range args {
			total += len(a)
		}
		if total > len(line) || !ok && args != nil {
			t.Fatalf("%q is split into %q, %v", line, args, ok)
		}
		quoted := quoteInline(line) + "  " + quoteInline(line+"'") + " x"
		args, ok = splitInline([]byte(quoted))
		if !ok || len(args) != 3 || string(args[0]) != line || string(args[1]) != line+"'" {
			t.Fatalf("%s is split into %q, %v", quoted, args, ok)
		}
	})
}

package proxy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"nearside/policy"
)

// sameNumbers are commands whose other arguments are deadlines and ages: varied, they would make the clock matter.
var sameNumbers = []string{
	"set", "getex", "setex", "psetex", "expire", "pexpire", "expireat", "pexpireat", "xclaim", "xautoclaim", "xpending", "xadd",
}

// notAtRandom are further commands that are left out: their answers depend on the hash seed, or they take long on what others have left.
var notAtRandom = []string{"dump", "sscan", "hscan", "zscan", "lcs", "object|idletime", "memory|usage"}

// spice are arguments that some command or other finds interesting.
var spice = []string{
	"", "0", "1", "2", "-1", "-2", "10", "3.5", "x", "a", "b", "f", "(1", "[a", "+", "-", "+inf", "-inf", "nan", "nx", "XX", "withscores", "count", "LIMIT",
	"rev", "byscore", "9223372036854775807", "-9223372036854775808", "9223372036854775808", " 1", "1 ", "01", "\x00\xff\r\n", "match", "get", "ch",
	"incr", "store", "%", "*", "left", "right", "min", "MAX",
}

// randomLines makes requests of the script's: other keys, and now and then other arguments.
type randomLines struct {
	rnd   *rand.Rand
	pool  []diffLine
	names []string // of keys
	d     policy.Decision
}

func newRandomLines(blocks []diffBlock, rnd *rand.Rand) *randomLines {
	g := &randomLines{rnd: rnd}
	names := map[string]bool{}
	for _, b := range blocks {
		for i := range b.lines {
			l := &b.lines[i]
			name, ok := mutable(l)
			relative := slices.Contains(l.words, "GT") || slices.Contains(l.words, "LT") // of two deadlines, set at different moments
			if !ok || slices.Contains(notAtRandom, name) || relative && strings.Contains(name, "expire") {
				continue
			}
			g.pool = append(g.pool, *l)
			for _, w := range l.words {
				if strings.HasPrefix(w, "%") {
					names[w[1:]] = true
				}
			}
		}
	}
	g.names = slices.Sorted(maps.Keys(names))
	return g
}

// line makes one request. ok is false for one that cannot be compared inside a transaction.
func (g *randomLines) line(p *policy.Policy, db int, inTx bool) (l diffLine, ok bool) {
	from := &g.pool[g.rnd.IntN(len(g.pool))]
	prefix := diffPrefixes[g.rnd.IntN(len(diffPrefixes))]
	mixed := g.rnd.IntN(4) == 0
	fixed := slices.Contains(sameNumbers, strings.ToLower(from.words[0]))
	var words []string
	for i, w := range from.words {
		if key, isKey := strings.CutPrefix(w, "%"); isKey {
			if mixed {
				prefix = diffPrefixes[g.rnd.IntN(len(diffPrefixes))]
			}
			if g.rnd.IntN(10) < 2 {
				key = g.names[g.rnd.IntN(len(g.names))]
			}
			words = append(words, plainWord(prefix+key))
			continue
		}
		if i > 0 && !fixed {
			switch g.rnd.IntN(40) {
			case 0: // left out
				continue
			case 1:
				words = append(words, plainWord(spice[g.rnd.IntN(len(spice))]))
			case 2, 3:
				w = plainWord(spice[g.rnd.IntN(len(spice))])
			}
		}
		words = append(words, w)
	}
	l = diffLine{words: words, replies: 1}
	args := l.expand("", db)
	l.text = fmt.Sprintf("%.200q", args)
	b := make([][]byte, len(args))
	for i := range args {
		b[i] = []byte(args[i])
	}
	p.Decide(&g.d, db, b)
	l.cross = g.d.Route == policy.RouteRefused && strings.HasPrefix(g.d.Err, "CROSSDB")
	// EXEC's array is compared exactly.
	clock := g.d.Cmd != nil && slices.Contains([]string{"ttl", "pttl", "expiretime", "pexpiretime"}, g.d.Cmd.Name)
	return l, !inTx || !l.cross && !clock
}

// block makes a block of about n requests, some of them in transactions.
func (g *randomLines) block(p *policy.Policy, db, n int) (b diffBlock) {
	b.name = "random"
	word := func(w string) { b.lines = append(b.lines, diffLine{text: w, words: []string{w}, replies: 1}) }
	left := 0 // of the transaction
	for len(b.lines) < n {
		if left == 0 && g.rnd.IntN(25) == 0 {
			word("MULTI")
			left = 1 + g.rnd.IntN(8)
		}
		l, ok := g.line(p, db, left > 0)
		if !ok {
			continue
		}
		b.lines = append(b.lines, l)
		if left > 0 {
			left--
			if left == 0 {
				word([]string{"EXEC", "EXEC", "EXEC", "DISCARD"}[g.rnd.IntN(4)])
			}
		}
	}
	if left > 0 {
		word("EXEC")
	}
	return b
}

// TestDifferentialRandom runs random requests, made of the script's, for NEARSIDE_DIFF_SECONDS (make diff).
func TestDifferentialRandom(t *testing.T) {
	length := 2 * time.Second
	if s := os.Getenv("NEARSIDE_DIFF_SECONDS"); s != "" {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		length = time.Duration(n * float64(time.Second))
	}
	direct, origin, n := diffPair(t)
	r := newDiffRun(t, direct, origin, n, readDifferences(t))
	r.rnd = diffSeed(t)
	g := newRandomLines(diffScript(t), r.rnd)
	blocks := 0
	for begun := time.Now(); time.Since(begun) < length && r.failures < maxDiffFailures; blocks++ {
		r.db = []int{0, 0, 1, 7}[r.rnd.IntN(4)]
		r.resp = []string{"2", "3"}[r.rnd.IntN(2)]
		r.pipelined = r.rnd.IntN(5) > 0
		b := g.block(n.current().policy, r.db, 20+r.rnd.IntN(600))
		r.block(&b, "")
	}
	t.Logf("%d requests in %d blocks, %d differences; %d lines to vary", r.requests, blocks, r.failures, len(g.pool))
}

package proxy

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

// globWord makes a random pattern or text of few letters, so that they meet.
func globWord(r *rand.Rand, letters string, most int) string {
	b := make([]byte, r.IntN(most+1))
	for i := range b {
		b[i] = letters[r.IntN(len(letters))]
	}
	return string(b)
}

// TestGlobAsRedis: a key fits a pattern here if KEYS finds it.
func TestGlobAsRedis(t *testing.T) {
	for _, name := range []redistest.Name{redistest.Redis6, redistest.Debian, redistest.Redis8, redistest.Valkey9} {
		t.Run(string(name), func(t *testing.T) {
			redis := redistest.StartNamed(t, name)
			c := redistest.Dial(t, redis.Addr)
			defer c.Close()
			r := rand.New(rand.NewPCG(3, 4))
			var keys []string
			for range 300 {
				key := globWord(r, "abc-]^\\*[?", 6)
				if key != "" && !slices.Contains(keys, key) {
					keys = append(keys, key)
					c.Do("SET", key, "v")
				}
			}
			for range 3000 {
				pattern := globWord(r, "aabcc**??[[]]^-\\", 9)
				reply := c.Do("KEYS", pattern)
				want := strings.Fields(reply[1 : len(reply)-1])
				var got []string
				for _, key := range keys {
					if globMatch(pattern, key) {
						got = append(got, key)
					}
				}
				slices.Sort(want)
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Fatalf("%q fits %q, at the server %q", pattern, got, want)
				}
			}
		})
	}
}

// TestGlobRest: what is left of a pattern behind a prefix fits exactly what may
// follow the prefix.
func TestGlobRest(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	fitting := 0
	for range 200_000 {
		pattern := globWord(r, "aab***?[]^-\\", 9)
		prefix, text := globWord(r, "ab", 4), globWord(r, "abb", 5)
		rests := globRest(pattern, prefix)
		want := globMatch(pattern, prefix+text)
		got := slices.ContainsFunc(rests, func(i int) bool { return globMatch(pattern[i:], text) })
		if got != want {
			t.Fatalf("%q, %q, %q: fits %v, the rests %v say %v", pattern, prefix, text, want, rests, got)
		}
		if want {
			fitting++
		}
	}
	if fitting < 1000 {
		t.Errorf("only %d fit: this shows nothing", fitting)
	}
}

// A pattern that takes other servers for ever takes little here.
func TestGlobIsBounded(t *testing.T) {
	pattern := strings.Repeat("*a", 2000) + "b"
	if globMatch(pattern, strings.Repeat("a", 20_000)) {
		t.Error("it fits")
	}
	if rests := globRest(pattern, "__keyspace@0__:"); len(rests) > 20 {
		t.Errorf("%d rests", len(rests))
	}
}

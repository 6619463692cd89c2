package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// shown spells keys as "w1 r2".
func shown(keys []Key) string {
	var out []string
	for _, k := range keys {
		kind := "r"
		if k.Write {
			kind = "w"
		}
		out = append(out, fmt.Sprint(kind, k.Pos))
	}
	return strings.Join(out, " ")
}

func TestAppendKeys(t *testing.T) {
	for _, c := range []struct{ request, want string }{
		{"GET k", "r1"},
		{"SET k v", "w1"},
		{"MSET a 1 b 2", "w1 w3"},
		{"DEL a b c", "w1 w2 w3"},
		{"BLPOP a b 0", "w1 w2"},
		{"BITOP AND d a b", "w2 r3 r4"},
		{"SINTERSTORE d a b", "w1 r2 r3"},
		{"PFMERGE d", "w1"},
		{"COPY a b", "r1 w2"},
		{"RENAME a b", "w1 w2"},
		{"LMOVE a b LEFT LEFT", "w1 w2"},
		{"LCS a b", "r1 r2"},
		{"GETEX a", "w1"},
		{"GETDEL a", "w1"},
		{"EVAL s 2 a b c", "w3 w4"},
		{"EVAL s 0", ""},
		{"EVAL s 0 a", ""},
		{"EVAL s -1 a", "!"},
		{"EVAL s x a", "!"},
		{"EVAL s 3 a b", "!"},
		{"EVAL s 99999999999999999999 a b", "!"},
		{"EVAL s 01 a b", "!"},
		{"EVAL_RO s 1 a", "r3"},
		{"FCALL f 1 a", "w3"},
		{"FCALL_RO f 1 a", "r3"},
		{"ZUNIONSTORE d 2 a b WEIGHTS 1 2", "w1 r3 r4"},
		{"ZUNIONSTORE d 0 a", "!"},
		{"SINTERCARD 2 a b LIMIT 1", "r2 r3"},
		{"LMPOP 2 a b LEFT", "w2 w3"},
		{"BLMPOP 0 2 a b LEFT", "w3 w4"},
		{"ZMPOP 1 a MIN", "w2"},
		{"SORT k BY w_* LIMIT 0 1 GET # STORE d", "r1 w10"},
		{"SORT k BY store GET store", "r1"},
		{"SORT k STORE a STORE b", "r1 w5"},
		{"SORT_RO k", "r1"},
		{"XREAD COUNT 1 BLOCK 0 STREAMS a b 0 0", "r6 r7"},
		{"XREAD STREAMS a b 0", "!"},
		{"XREAD a b c", "!"},
		{"XREADGROUP GROUP streams c STREAMS a >", "w5"},
		{"XGROUP CREATE k g $", "w2"},
		{"XINFO STREAM k", "r2"},
		{"OBJECT ENCODING k", "r2"},
		{"MEMORY USAGE k", "r2"},
		{"MIGRATE h 1 k 0 100", "w3"},
		{`MIGRATE h 1 "" 0 100 COPY AUTH keys KEYS a b`, "w10 w11"},
		{"GEORADIUS k 0 0 1 m STORE a STOREDIST b", "r1 w7 w9"},
		{"GEORADIUSBYMEMBER k m 1 m STORE a", "r1 w6"},
		{"GEOSEARCHSTORE d s FROMMEMBER m BYRADIUS 1 m", "w1 r2"},
		{"SPUBLISH ch m", ""},
		{"WATCH a b", "r1 r2"},
		{"RESTORE k 0 x", "w1"},
	} {
		args := split(c.request)
		keys, ok := AppendKeys(nil, Lookup(args), args)
		got := shown(keys)
		if !ok {
			got += "!"
		}
		if got != c.want {
			t.Errorf("%s: keys %q, want %q", c.request, got, c.want)
		}
	}
	// What stands in dst stays, also where no keys are found.
	args := split("EVAL s x")
	if keys, ok := AppendKeys(make([]Key, 2, 9), Lookup(args), args); ok || len(keys) != 2 {
		t.Errorf("dst is not kept: %v %v", keys, ok)
	}
}

// geoTails are ways to end a GEORADIUS.
var geoTails = [][]string{
	{},
	{"STORE", "d"},
	{"storedist", "d"},
	{"COUNT", "1", "StoreDist", "d", "ASC"},
	{"STORE", "d", "STOREDIST", "e"},
	{"STOREDIST", "d", "STORE", "e", "WITHCOORD"},
	{"STORE", "STOREDIST"},
	{"STORE"},
	{"WITHDIST", "STOREDIST"},
}

// streamHeads are ways to begin an XREAD.
var streamHeads = map[string][]string{
	"xread":      {"XREAD", "XREAD COUNT 5", "xread block 100 count 2"},
	"xreadgroup": {"XREADGROUP GROUP g c", "XREADGROUP GROUP g c COUNT 5", "xreadgroup group g c noack block 100"},
}

// TestKeysAgainstRedis asks COMMAND GETKEYSANDFLAGS about requests of every
// command with keys, and about arguments thrown together at random.
func TestKeysAgainstRedis(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	vocabulary := strings.Fields("0 1 2 3 -1 k kk store STOREDIST by get limit streams STREAMS block count group noack keys auth auth2 copy weights m x 10 *")
	var reqs [][]string
	for _, name := range rowNames {
		c := rowOf(name)
		if len(c.keys) == 0 {
			continue
		}
		head := strings.Split(name, "|")
		least := max(c.Arity, -c.Arity)
		rounds := 4
		for _, k := range c.keys {
			if k.kind != specRange {
				rounds = 600
			}
		}
		for round := range rounds {
			req := slices.Clone(head)
			n := least
			if c.Arity < 0 {
				n += round % 8
			}
			for len(req) < n {
				switch {
				case strings.HasPrefix(name, "georadius"): // Redis's own search is lost in nonsense here
					req = append(req, fmt.Sprint("a", len(req)))
					if len(req) == n {
						req = append(req, geoTails[round%len(geoTails)]...)
					}
				case rounds > 4:
					req = append(req, vocabulary[rng.IntN(len(vocabulary))])
				default:
					req = append(req, fmt.Sprint("a", len(req)))
				}
			}
			if strings.HasPrefix(name, "xread") { // nor does it look whether keys and ids are as many
				req = append(strings.Fields(streamHeads[name][round%3]), "STREAMS")
				for i := range 2 * (round%5 + 1) {
					req = append(req, vocabulary[(round+i*7)%len(vocabulary)])
				}
			}
			if name == "migrate" && round%2 == 0 {
				req[3] = ""
			}
			reqs = append(reqs, req)
		}
	}
	asked := make([][]string, len(reqs))
	for i, req := range reqs {
		asked[i] = append([]string{"COMMAND", "GETKEYSANDFLAGS"}, req...)
	}
	compared, refused := 0, 0
	for i, reply := range startRedis(t).pipeline(asked) {
		args := bytesOf(reqs[i]...)
		c := Lookup(args)
		keys, ok := AppendKeys(nil, c, args)
		if _, isErr := reply.(redisError); isErr {
			refused++ // no keys or nonsense: what we make of it does not matter
			continue
		}
		compared++
		var ours, theirs []string
		for _, k := range keys {
			ours = append(ours, fmt.Sprint(string(args[k.Pos]), " ", k.Write))
		}
		for _, entry := range reply.([]any) {
			e := entry.([]any)
			write := false
			for _, f := range e[1].([]any) {
				write = write || f == "RW" || f == "OW" || f == "RM"
			}
			if c.Name == "bitfield" {
				write = true // Redis looks whether there is a SET or INCRBY
			}
			if notAsRedisSays[c.Name] != "" {
				write = !write
			}
			theirs = append(theirs, fmt.Sprint(e[0], " ", write))
		}
		slices.Sort(ours)
		slices.Sort(theirs)
		if c.Name == "sort" && strings.Contains(strings.ToLower(strings.Join(reqs[i], " ")), "store store") {
			continue // running it, Redis takes the first of them for the option and the second for the key, as we do
		}
		if !ok && len(theirs) > 0 || !slices.Equal(ours, theirs) {
			t.Errorf("%q: keys %q (%v), Redis says %q", reqs[i], ours, ok, theirs)
		}
	}
	t.Logf("%d requests compared, %d refused by Redis", compared, refused)
	if compared < 1000 {
		t.Errorf("only %d requests compared", compared)
	}
}

func FuzzKeys(f *testing.F) {
	for _, s := range []string{
		"EVAL s 2 a b", "ZUNIONSTORE d 999999999 a", "XREAD STREAMS", "SORT k STORE", "MIGRATE h p k", "MSET a", "BLPOP a",
		"GEORADIUS k 1 1 1 STORE", "COPY a b DB 99999999999", "XREADGROUP GROUP", "LMPOP 4294967297 a",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := bytesOf(strings.Split(line, " ")...)
		c := Lookup(args)
		if c == nil {
			return
		}
		keys, ok := AppendKeys(nil, c, args)
		if !ok && len(keys) != 0 {
			t.Fatal("keys of nonsense")
		}
		seen := map[int]bool{}
		for _, k := range keys {
			if k.Pos < 1 || k.Pos >= len(args) || seen[k.Pos] {
				t.Fatalf("position %d of %d, or twice", k.Pos, len(args))
			}
			seen[k.Pos] = true
		}
	})
}

package policy

import (
	"fmt"
	"strings"
	"testing"
)

// positionsOf spells where a form finds keys.
func positionsOf(f *Form, args [][]byte) string {
	keys, ok := f.appendKeys(nil, &Command{Flags: FlagWrite}, args)
	if !ok {
		return "none"
	}
	var b strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&b, "%d", k.Pos)
		if k.Write {
			b.WriteByte('w')
		}
		b.WriteByte(' ')
	}
	return strings.TrimSpace(b.String())
}

func TestKeySpecs(t *testing.T) {
	rangeOf := func(index, last, step, limit int) KeySpec {
		return KeySpec{Index: index, LastKey: last, Step: step, Limit: limit}
	}
	keyNum := func(index, at, first, step int) KeySpec {
		return KeySpec{Index: index, KeyNum: true, KeyNumIdx: at, FirstKey: first, Step: step}
	}
	for _, c := range []struct {
		specs []KeySpec
		line  string
		want  string
	}{
		{[]KeySpec{rangeOf(1, 0, 1, 0)}, "c a b c", "1w"},
		{[]KeySpec{rangeOf(1, -1, 1, 0)}, "c a b c", "1w 2w 3w"},
		{[]KeySpec{rangeOf(1, -1, 2, 0)}, "c a b c d", "1w 3w"},
		{[]KeySpec{rangeOf(1, -2, 1, 0)}, "c a b c", "1w 2w"},
		{[]KeySpec{rangeOf(1, 3, 1, 0)}, "c a b", "none"},
		{[]KeySpec{rangeOf(4, 0, 1, 0)}, "c a b", "none"},
		{[]KeySpec{rangeOf(1, -1, 1, 2)}, "c a b c d", "1w 2w"},
		{[]KeySpec{keyNum(1, 0, 1, 2)}, "msetex 2 a x b y EX 1", "2w 4w"},
		{[]KeySpec{keyNum(1, 0, 1, 2)}, "msetex 2 a x", "none"},
		{[]KeySpec{keyNum(1, 0, 1, 1)}, "c 0 a", ""},
		{[]KeySpec{keyNum(1, 0, 1, 1)}, "c -1 a", "none"},
		{[]KeySpec{keyNum(1, 0, 1, 1)}, "c 99999999999 a", "none"},
		{[]KeySpec{keyNum(1, 0, 1, 1)}, "c 999999999 a", "none"},
		{[]KeySpec{keyNum(2, 0, 1, 1)}, "c", "none"},
		{[]KeySpec{{Keyword: "STREAMS", StartFrom: 1, LastKey: -1, Step: 1, Limit: 2, ReadOnly: true}}, "x count 1 streams a b 0 0", "4 5"},
		{[]KeySpec{{Keyword: "STREAMS", StartFrom: 1, LastKey: -1, Step: 1, Limit: 2}}, "x a b", ""},
		{[]KeySpec{{Keyword: "KEYS", StartFrom: -2, LastKey: -1, Step: 1}}, "m keys a keys b c", "4w 5w"},
		{[]KeySpec{{Keyword: "KEYS", StartFrom: -9, LastKey: -1, Step: 1}}, "m keys a", ""},
		{[]KeySpec{{Index: 1, NotKey: true, Step: 1}, rangeOf(2, 0, 1, 0)}, "c cursor a", "2w"},
		{[]KeySpec{{Index: -3, Step: 1}}, "c a b", "none"},
	} {
		f := &Form{Arity: -1, Specs: c.specs}
		if got := positionsOf(f, split(c.line)); got != c.want {
			t.Errorf("%+v in %q: %q, want %q", c.specs, c.line, got, c.want)
		}
	}
}

// FuzzKeySpecs: whatever a server says, keys are arguments.
func FuzzKeySpecs(f *testing.F) {
	f.Add(1, 0, 1, 2, true, "KEYS", 1, "c 2 a b")
	f.Add(-1, 3, -1, -2, false, "", 0, "c keys a")
	f.Fuzz(func(t *testing.T, index, last, step, limit int, keyNum bool, keyword string, from int, line string) {
		args := split(line)
		if len(args) == 0 {
			return
		}
		form := &Form{Arity: -1, Specs: []KeySpec{{
			Index: index, Keyword: keyword, StartFrom: from, KeyNum: keyNum, LastKey: last, Limit: limit, KeyNumIdx: last, FirstKey: limit, Step: step,
		}}}
		keys, _ := form.appendKeys(nil, &Command{}, args)
		for _, k := range keys {
			if k.Pos < 1 || k.Pos >= len(args) {
				t.Fatalf("%+v in %q: a key at %d", form.Specs[0], args, k.Pos)
			}
		}
	})
}

// TestDecideForms: what the server says decides where the table does not fit, and until then the decision is safe.
func TestDecideForms(t *testing.T) {
	p := New(shop(t, 0, 1), Options{})
	p.Met("one")
	p.Learn("msetex", -4, []string{"write", "denyoom", "movablekeys"}, 0, 0, 0)
	p.Learn("clusterscan", -2, []string{"readonly"}, 1, 1, 1)
	p.Learn("stralgo", -2, []string{"readonly", "movablekeys"}, 0, 0, 0)
	p.Learn("mod.set", -2, []string{"write", "module"}, 1, 1, 1)
	one := []KeySpec{{Index: 1, Step: 1}}
	read := []KeySpec{{Index: 1, Step: 1, ReadOnly: true}}
	for _, c := range []struct{ line, ask, unknown, form, decided string }{
		{"ZRANK product:z m WITHSCORE", "zrank", "pass db1", "read -3", "pass db1"},
		{"ZRANK lock:z m WITHSCORE", "zrank", "pass db0 lock", "read -3", "pass db0 lock"},
		{"ZRANK product:z m WITHSCORE", "zrank", "pass db1", "read 3", "pass db0"},
		{"XTRIM product:x", "xtrim", "pass db1 W UNNAMED fence-script", "one -2", "pass db1 W"},
		{"LPOP product:l 1 2", "", "pass db1 W", "", ""},
		{"BLMOVE product:a product:b LEFT RIGHT", "blmove", "pin db1 block W UNNAMED fence-script", "", ""},
		{"MSETEX 2 product:1 a product:2 b", "msetex", "pass db1 W UNNAMED fence-script", "num -4", "pass db1 W"},
		{"MSETEX 2 product:1 a lock:2 b", "msetex", "pass db1 W UNNAMED fence-script", "num -4", "refused lock"},
		{"MSETEX x product:1 a", "msetex", "pass db1 W UNNAMED fence-script", "num -4", "pass db1 W UNNAMED fence-script"},
		{"CLUSTERSCAN product:1", "clusterscan", "pass db1", "cursor -2", "pass db0"},
		{"STRALGO LCS KEYS product:1 product:2", "stralgo", "pass db1", "unknown -2", "pass db1"},
		{"MOD.SET product:1 lock:2", "mod.set", "pass db1 W", "one -2", "pass db1 W"},
		{"DEBUG OBJECT product:1", "", "pass db1 ALL", "", ""},
		{"DEBUG digest-value product:1 lock:1", "", "refused lock", "", ""},
		{"DEBUG POPULATE 3 product 5", "", "pass db1 ALL", "", ""},
		{"DEBUG POPULATE 3", "", "pass db0 ALL", "", ""},
		{"DEBUG SLEEP 0", "", "pass db0 ALL", "", ""},
	} {
		p.Met(c.line + c.form) // another server: nothing is known
		var d Decision
		p.Decide(&d, 0, split(c.line))
		if got := spelt(&d); got != c.unknown || d.AskForm != c.ask {
			t.Errorf("%s: %s, asks for %q; want %s and %q", c.line, got, d.AskForm, c.unknown, c.ask)
		}
		if c.form == "" {
			continue
		}
		kind, arity, _ := strings.Cut(c.form, " ")
		f := Form{Specs: map[string][]KeySpec{
			"one": one, "read": read, "num": {{Index: 1, KeyNum: true, FirstKey: 1, Step: 2}}, "cursor": {{Index: 1, NotKey: true, Step: 1}}, "unknown": {{Unknown: true}},
		}[kind]}
		if _, err := fmt.Sscan(arity, &f.Arity); err != nil {
			t.Fatal(err)
		}
		p.LearnForm(c.ask, f)
		p.Decide(&d, 0, split(c.line))
		if got := spelt(&d); got != c.decided || d.AskForm != "" {
			t.Errorf("%s, known: %s, asks for %q; want %s", c.line, got, d.AskForm, c.decided)
		}
		p.Met(c.line + c.form)
		p.Decide(&d, 0, split(c.line))
		if got := spelt(&d); got != c.decided {
			t.Errorf("%s, the same server again: %s", c.line, got)
		}
	}
}

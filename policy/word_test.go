package policy

import (
	"strings"
	"testing"
)

func TestIs(t *testing.T) {
	for _, c := range []struct {
		b, lower string
		want     bool
	}{
		{"block", "block", true},
		{"BLOCK", "block", true},
		{"block\x00", "block", true},
		{"BlocK\x00anything", "block", true},
		{"\x00", "", true},
		{"", "", true},
		{"bloc", "block", false},
		{"blocks", "block", false},
		{"bloc\x00k", "block", false},
		{"\x00block", "block", false},
		{"", "nx", false},
		{"x", "", false},
		{"b\x0cock", "block", false},
		{"[", "{", false},
		{"\u212ail", "kil", false},
		{"host\x1a", "host:", false},
	} {
		if got := Is([]byte(c.b), c.lower); got != c.want {
			t.Errorf("Is(%q, %q) = %v", c.b, c.lower, got)
		}
		if c.want && Word([]byte(c.b)) != c.lower {
			t.Errorf("Word(%q) = %q", c.b, Word([]byte(c.b)))
		}
	}
}

func TestCloses(t *testing.T) {
	for name, want := range map[string]bool{
		"post": true, "POST": true, "Host:": true, "POST\x00": true, "host:\x00x": true,
		"pos": false, "poſt": false, "posts": false, "host": false, "host:x": false, "": false, "p": false, "put": false,
	} {
		if got := Closes([]byte(name)); got != want {
			t.Errorf("Closes(%q) = %v", name, got)
		}
	}
}

// optionWords are all words of commands' options that change a decision, each in a
// request whose decision changes if the word is not seen.
var optionWords = []struct{ with, without, word string }{
	{"SET other v NX", "SET other v XX", "NX"},
	{"SET product:1 v PX 5 NX", "SET product:1 v PX 5 XX", "NX"},
	{"XREAD BLOCK 0 STREAMS product:1 0", "XREAD COUNT 1 STREAMS product:1 0", "BLOCK"},
	{"XREAD COUNT 1 BLOCK 0 STREAMS product:1 0", "XREAD COUNT 1 COUNT 1 STREAMS product:1 0", "BLOCK"},
	{"XREADGROUP GROUP g c BLOCK 0 STREAMS product:1 >", "XREADGROUP GROUP g c NOACK STREAMS product:1 >", "BLOCK"},
	{"XREAD STREAMS product:1 0", "XREAD NOSUCH product:1 0", "STREAMS"},
	{"XREAD COUNT STREAMS STREAMS product:1 0", "XREAD X STREAMS STREAMS product:1 0", "COUNT"},
	{"XREADGROUP GROUP STREAMS c STREAMS product:1 >", "XREADGROUP X STREAMS c STREAMS product:1 >", "GROUP"},
	{"SORT products:1 STORE products:2", "SORT products:1 ASC ASC", "STORE"},
	{"SORT products:1 BY w_*", "SORT products:1 ASC ASC", "BY"},
	{"SORT products:1 GET w_*", "SORT products:1 ASC ASC", "GET"},
	{"SORT products:1 LIMIT STORE products:2", "SORT products:1 ASC STORE products:2", "LIMIT"},
	{"SORT_RO products:1 GET products:w_*", "SORT_RO products:1 ASC ASC", "GET"},
	{"GEORADIUS product:1 1 1 1 m STORE product:2", "GEORADIUS product:1 1 1 1 m COUNT 2", "STORE"},
	{"GEORADIUS product:1 1 1 1 m STOREDIST product:2", "GEORADIUS product:1 1 1 1 m COUNT 2", "STOREDIST"},
	{"COPY a b DB 3", "COPY a b X 3", "DB"},
	{"MIGRATE h 1 \"\" 0 5 KEYS product:1 product:2", "MIGRATE h 1 \"\" 0 5 X product:1 product:2", "KEYS"},
	{"MIGRATE h 1 \"\" 0 5 AUTH KEYS KEYS product:1", "MIGRATE h 1 \"\" 0 5 X KEYS KEYS product:1", "AUTH"},
	{"MIGRATE h 1 \"\" 0 5 AUTH2 u KEYS KEYS product:1", "MIGRATE h 1 \"\" 0 5 X u KEYS KEYS product:1", "AUTH2"},
}

// Option words are C strings: what comes behind a NUL changes nothing.
func TestOptionWordsAreCStrings(t *testing.T) {
	p := New(shop(t, 0, 1), Options{})
	decided := func(line, from, to string) string {
		args := split(line)
		for i := range args {
			if i > 0 && strings.EqualFold(string(args[i]), from) {
				args[i] = []byte(to)
			}
		}
		var d Decision
		p.Decide(&d, 0, args)
		s := spelt(&d)
		for _, k := range d.Keys {
			s += " key" + string(rune('0'+k.Pos))
		}
		return s
	}
	for _, c := range optionWords {
		want := decided(c.with, "", "")
		if other := decided(c.without, "", ""); other == want && c.word != "LIMIT" {
			t.Errorf("%s is decided as %s: %s", c.with, c.without, want)
		}
		for _, form := range []string{strings.ToLower(c.word), c.word + "\x00", c.word + "\x007", strings.ToLower(c.word) + "\x00\x00" + c.word} {
			if got := decided(c.with, c.word, form); got != want {
				t.Errorf("%s with %q: %s, want %s", c.with, form, got, want)
			}
		}
		for _, form := range []string{"\x00" + c.word, c.word[:1] + "\x00" + c.word[1:]} {
			if got := decided(c.with, c.word, form); got == want && c.word != "LIMIT" && c.word != "COUNT" && c.word != "AUTH" && c.word != "AUTH2" && c.word != "GROUP" {
				t.Errorf("%s with %q is decided as with %s", c.with, form, c.word)
			}
		}
	}
}

// A name with a NUL is no command's, whatever it begins with, and is refused in
// Redis's words; what is denied by the name up to the NUL stays denied.
func TestNamesWithNUL(t *testing.T) {
	p := New(shop(t, 0, 1), Options{Deny: []string{"set", "config|set", "ft.search"}})
	p.Learn("hgetex", -5, []string{"write", "fast"}, 1, 1, 1)
	for _, name := range rowNames {
		container, sub, isSub := strings.Cut(name, "|")
		args := bytesOf(container+"\x00n", "a", "b")
		want := "ERR unknown command '" + container + "', with args beginning with: 'a' 'b' "
		if isSub {
			args = bytesOf(container, sub+"\x00n", "a")
			want = "ERR unknown subcommand '" + sub + "'. Try " + strings.ToUpper(container) + " HELP."
		}
		if name == "set" || name == "config|set" {
			want = "NOPERM nearside: '" + name + "' is denied by the configuration"
		}
		var d Decision
		p.Decide(&d, 0, args)
		if d.Route != RouteRefused || d.Err != want || d.Effect != 0 || d.Fence != 0 {
			t.Errorf("%q: %s %q, want %q", args, routeNames[d.Route], d.Err, want)
		}
	}
	for _, line := range []string{"hgetex\x00 k", "ft.search\x00 i", "\x00", "nosuch\x00x y"} {
		var d Decision
		p.Decide(&d, 0, split(line))
		if d.Route != RouteRefused {
			t.Errorf("%q: %s", line, routeNames[d.Route])
		}
	}
}

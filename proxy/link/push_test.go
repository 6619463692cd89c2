package link

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

func TestParsePush(t *testing.T) {
	const inv = ">2\r\n$10\r\ninvalidate\r\n"
	tests := []struct {
		frame string
		keys  []string
		all   bool
		bad   bool
	}{
		{frame: inv + "*1\r\n$1\r\nk\r\n", keys: []string{"k"}},
		{frame: inv + "*2\r\n$0\r\n\r\n$4\r\na\r\nb\r\n", keys: []string{"", "a\r\nb"}},
		{frame: inv + "*0\r\n"},
		{frame: inv + "_\r\n", all: true},
		{frame: inv + "*-1\r\n", all: true},
		{frame: inv + "$-1\r\n", all: true},
		{frame: ">2\r\n+invalidate\r\n_\r\n", all: true},
		{frame: ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n"},
		{frame: ">2\r\n$7\r\nmessage\r\n$1\r\nc\r\n", bad: true},
		{frame: ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nm\r\n", bad: true},
		{frame: ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n:1\r\n", bad: true},
		{frame: ">4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nc\r\n$1\r\nm\r\n"},
		{frame: ">3\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nc\r\n", bad: true},
		{frame: ">4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nc\r\n$1\r\nm\r\nx", bad: true},
		{frame: ">1\r\n$22\r\ntracking-redir-broken\r\n", bad: true},
		{frame: ">1\r\n$21\r\ntracking-redir-broken\r\n"},
		{frame: "", bad: true},
		{frame: ">0\r\n", bad: true},
		{frame: "+OK\r\n", bad: true},
		{frame: inv, bad: true},
		{frame: ">1\r\n$10\r\ninvalidate\r\n", bad: true},
		{frame: ">3\r\n$10\r\ninvalidate\r\n_\r\n_\r\n", bad: true},
		{frame: inv + "_\r\n_\r\n", bad: true},
		{frame: inv + "*1\r\n:1\r\n", bad: true},
		{frame: inv + "*2\r\n$1\r\nk\r\n", keys: []string{"k"}, bad: true},
		{frame: inv + "*1\r\n$1\r\nkk\r\n", bad: true},
		{frame: inv + "*1\r\n$1\r\nk\r\nx", keys: []string{"k"}, bad: true},
		{frame: inv + "*-2\r\n", bad: true},
		{frame: inv + "*1\r\n$99999999999999999999\r\nk\r\n", bad: true},
		{frame: inv + "*9999999999\r\n$1\r\nk\r\n", bad: true},
		{frame: inv + "$1\r\nk\r\n", bad: true},
	}
	for _, test := range tests {
		var keys []string
		got, err := parsePush([]byte(test.frame), func(key []byte) { keys = append(keys, string(key)) })
		if all := got.kind == pushFlush; all != test.all || (err != nil) != test.bad || !slices.Equal(keys, test.keys) {
			t.Errorf("%q: keys %q, %+v, %v", test.frame, keys, got, err)
		}
	}
}

func FuzzPush(f *testing.F) {
	f.Add([]byte(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"))
	f.Add([]byte(nullPush))
	f.Add([]byte("a\x00b\r\n\x00c"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = parsePush(data, func([]byte) {})
		_, _ = parseSilent(data)
		_, _ = parseEvents(data)
		_, _ = parseReplaced(data)
		_, _ = parseRole(data)

		want := bytes.Split(data, []byte{0})
		frame := fmt.Appendf(nil, ">2\r\n$10\r\ninvalidate\r\n*%d\r\n", len(want))
		for _, key := range want {
			frame = fmt.Appendf(frame, "$%d\r\n%s\r\n", len(key), key)
		}
		var got [][]byte
		parsed, err := parsePush(frame, func(key []byte) { got = append(got, bytes.Clone(key)) })
		if parsed.kind != pushKeys || err != nil || !slices.EqualFunc(got, want, bytes.Equal) {
			t.Fatalf("%q: keys %q, %+v, %v", frame, got, parsed, err)
		}
		for cut := range min(len(frame), 64) { // a frame that lacks its end is noticed
			if _, err := parsePush(frame[:len(frame)-1-cut], func([]byte) {}); err == nil {
				t.Fatalf("%q passes without its last %d bytes", frame, cut+1)
			}
		}
	})
}

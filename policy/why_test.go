package policy

import (
	"strings"
	"testing"
)

func TestWhy(t *testing.T) {
	r, err := NewRules(0, 1, []Rule{
		{Kind: LockRule, Prefix: "lock:"},
		{Kind: CacheRule, Prefix: "product:", TTL: 1, MaxReply: 1},
		{Kind: CacheRule, Prefix: "gets:", TTL: 1, MaxReply: 1, Commands: map[string]bool{"get": true}},
		{Kind: CacheRule, Prefix: "lens:", TTL: 1, MaxReply: 1, Commands: map[string]bool{"strlen": true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		db      int
		command string
		want    Why
	}{
		{0, "get product:1", WhyCached},
		{1, "get product:1", WhyCached},
		{0, "mget product:1 gets:1", WhyCached},
		{0, "mget product:1 lens:1", WhyNotListed},
		{0, "mget lens:1", WhyNotListed},
		{0, "strlen gets:1", WhyNotListed},
		{0, "hgetall product:1", WhyHashFieldTTL},
		{0, "hgetall other", WhyNoRule},
		{0, "get other", WhyNoRule},
		{0, "mget product:1 other", WhyNoRule},
		{0, "mget product:1 lock:1", WhyLockRule},
		{0, "get lock:1", WhyLockRule},
		{1, "get lock:1", WhyOtherDB},
		{2, "get product:1", WhyOtherDB},
		{2, "get other", WhyNoRule},
		{0, "ttl product:1", WhyNotCacheable},
		{0, "sinter product:1 product:2", WhyNotCacheable},
		{0, "sort_ro product:1 by nosort", WhyNotCacheable},
		{0, "exists product:1 product:2", WhyNotCacheable},
		{0, "dbsize", WhyNotCacheable},
		{0, "set product:1 v", WhyWrite},
		{0, "flushall", WhyWrite},
		{0, "nosuch product:1", WhyWrite},
		{0, "ping", WhyLocal},
		{0, "shutdown", WhyRefused},
		{0, "rename product:1 other", WhyRefused},
	} {
		p := New(r, Options{HashFieldTTL: true})
		var args [][]byte
		for _, a := range strings.Fields(test.command) {
			args = append(args, []byte(a))
		}
		var d Decision
		p.Decide(&d, test.db, args)
		if got := p.Why(&d, test.db, args); got != test.want {
			t.Errorf("%s at %d: %d, want %d", test.command, test.db, got, test.want)
		}
	}
}

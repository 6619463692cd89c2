package proxy

import (
	"fmt"
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

func TestKeyPrefix(t *testing.T) {
	for key, want := range map[string]string{
		"":                                    "",
		"plain":                               "",
		"user:7":                              "user:",
		"user:anna":                           "user:",
		"myapp:product:1:stock":               "myapp:product:",
		"keyv::keyv:product:1":                "keyv::keyv:product:",
		"a:b:c:d:e:f":                         "a:b:c:d:",
		"7:user":                              "",
		"session:4f2a:data":                   "session:",
		":x":                                  ":",
		"u:" + strings.Repeat("x", 25) + ":a": "u:",
		strings.Repeat("x", 24) + ":a":        strings.Repeat("x", 24) + ":",
	} {
		if got := keyPrefix([]byte(key)); string(got) != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
}

// The table stays bounded, and what is really frequent stays in it.
func TestUnmatchedIsBounded(t *testing.T) {
	var u unmatched
	for i := range 20_000 {
		u.count(fmt.Appendf(nil, "rare%d:", i))
		if i%5 == 0 {
			u.count([]byte("busy:"))
		}
	}
	list, samples := u.busiest()
	if len(u.prefixes) > unmatchedMost || len(list) != unmatchedShown || samples != 24_000 {
		t.Errorf("%d prefixes, %d shown, %d samples", len(u.prefixes), len(list), samples)
	}
	if got := list[0]; got.prefix != "busy:" || got.count < 4000 || got.count-got.over > 4000 {
		t.Errorf("the busiest is %+v", got)
	}
	u.halve()
	if half := u.prefixes["busy:"]; half == nil || half.count != list[0].count/2 || u.samples != 12_000 {
		t.Errorf("halved: %+v of %d", half, u.samples)
	}
	key := []byte("busy:")
	if allocs := testing.AllocsPerRun(100, func() { u.sample(key) }); allocs != 0 {
		t.Errorf("%f allocations", allocs)
	}
	u.mu.Lock()
	u.sample(key) // must not wait
	u.mu.Unlock()
}

func TestUnmatchedPrefixesAreNamed(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	const each = 2000
	var pipeline strings.Builder
	for i := range each {
		for _, key := range []string{"myapp:product:%d", "user:%d", "user:%d", "lock:%d", "product:%d", "secret%d"} {
			pipeline.WriteString(redistest.Command("GET", fmt.Sprintf(key, i)))
		}
	}
	go c.Write(pipeline.String())
	for range 6 * each {
		c.Read()
	}
	list, samples := n.unmatched.busiest()
	if samples < 4*each/unmatchedEvery/2 || samples > 4*each/unmatchedEvery*2 {
		t.Errorf("%d samples of %d keys", samples, 4*each)
	}
	if len(list) != 3 || list[0].prefix != "user:" {
		t.Errorf("prefixes: %v", list)
	}
	stats := strings.ReplaceAll(c.Do("NEARSIDE", "STATS"), `\"`, `"`)
	for _, part := range []string{`unmatched:prefix="user:",share=`, `unmatched:prefix="(no prefix)",share=`, ",looks_like=product:"} {
		if !strings.Contains(stats, part) {
			t.Errorf("STATS lacks %s: %s", part, stats)
		}
	}
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all", "-scan")
	bob := n.dial()
	want(t, bob, "OK", "AUTH", "bob", "pw")
	if got := bob.Do("NEARSIDE", "STATS"); strings.Contains(got, "user:") || !strings.Contains(got, "cache_rule:") {
		t.Errorf("who may not SCAN is told %s", got)
	}
	for _, part := range []string{`"product:"`, `"lock:"`} {
		if strings.Contains(stats, "unmatched:prefix="+part) {
			t.Errorf("STATS names %s, which has a rule", part)
		}
	}
	if strings.Contains(stats, "secret1") {
		t.Error("STATS shows a key")
	}
	for prefix, want := range map[string]string{"myapp:product:": "product:", "product:": "", "byproduct:": "", "x::products:": "products:", "user:": ""} {
		if got := n.looksLike(prefix); got != want {
			t.Errorf("%s looks like %q, want %q", prefix, got, want)
		}
	}
}

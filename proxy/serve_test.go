package proxy

import (
	"strconv"
	"testing"

	"nearside/proxy/internal/redistest"
)

// release is the script that everybody's lock library uses.
const release = `if redis.call("get",KEYS[1]) == ARGV[1] then return redis.call("del",KEYS[1]) else return 0 end`

func TestPlacement(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "x")
	want(t, c, "OK", "SET", "lock:a", "t", "NX", "PX", "5000")
	if got := redis.DoDB(1, "GET", "product:1"); got != "x" {
		t.Errorf("database 1 has %q", got)
	}
	if got := redis.DoDB(0, "GET", "lock:a"); got != "t" {
		t.Errorf("database 0 has %q", got)
	}
	want(t, c, "(nil)", "SET", "lock:a", "other", "NX", "PX", "5000")
	want(t, c, "0", "EVAL", release, "1", "lock:a", "wrong")
	const sha = "e9f69f2beb755be68b5e456ee2ce9aadfbc4ebf4"
	want(t, c, "1", "EVAL", release, "1", "lock:a", "t")
	want(t, c, "OK", "SET", "lock:a", "t2", "NX")
	want(t, c, redis.Do("EVALSHA", "ffffffffffffffffffffffffffffffffffffffff", "1", "lock:a", "t2"), "EVALSHA", "ffffffffffffffffffffffffffffffffffffffff", "1", "lock:a", "t2")
	loaded := c.Do("SCRIPT", "LOAD", release)
	if loaded != sha {
		t.Logf("the script's SHA is %s", loaded)
	}
	want(t, c, "1", "EVALSHA", loaded, "1", "lock:a", "t2")

	// The same with a cache client that selects database 1.
	cache := n.dial()
	want(t, cache, "OK", "SELECT", "1")
	want(t, cache, "x", "GET", "product:1")
	want(t, cache, "OK", "SET", "product:2", "y")
	want(t, c, "y", "GET", "product:2")
	want(t, cache, "(nil)", "GET", "lock:a")
}

func TestHitsDoNotReachRedis(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	const keys = 1000
	for i := range keys {
		want(t, c, "OK", "SET", "product:"+strconv.Itoa(i), "value of "+strconv.Itoa(i))
	}
	n.eventually("every key is a hit", func() bool {
		before := n.hits()
		for i := range keys {
			want(t, c, "value of "+strconv.Itoa(i), "GET", "product:"+strconv.Itoa(i))
		}
		n.settleCache()
		return n.hits() == before+keys
	})
	before := redis.Calls("get")
	for range 100_000 / keys {
		for i := range keys {
			c.Send("GET", "product:"+strconv.Itoa(i))
		}
		for i := range keys {
			if got, want := c.Read(), "value of "+strconv.Itoa(i); got != want {
				t.Fatalf("%q instead of %q", got, want)
			}
		}
	}
	if after := redis.Calls("get"); after != before {
		t.Errorf("100,000 hits raised cmdstat_get by %d", after-before)
	}
}

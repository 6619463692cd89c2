package proxy

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// A write made elsewhere is seen within milliseconds while the link is healthy.
func TestExternalWriteIsSeen(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c, direct := n.dial(), redistest.Dial(t, redis.Addr)
	defer direct.Close()
	want(t, direct, "OK", "SELECT", "1")
	const writes = 500
	var delays []time.Duration
	for i := range writes {
		value := strconv.Itoa(i)
		want(t, direct, "OK", "SET", "product:1", value)
		begin := time.Now()
		for c.Do("GET", "product:1") != value {
			if time.Since(begin) > n.cfg.MaxStaleness {
				t.Fatalf("write %d is not seen within max_staleness", i)
			}
		}
		delays = append(delays, time.Since(begin))
		if i%2 == 0 {
			n.settleCache()
			c.Do("GET", "product:1")
		}
	}
	slices.Sort(delays)
	p50, p99, last := delays[writes/2], delays[writes*99/100], delays[writes-1]
	t.Logf("external write to visible: p50 %s, p99 %s, max %s", p50, p99, last)
	if p99 > 50*time.Millisecond {
		t.Errorf("p99 is %s", p99)
	}
}

// A write through nearside is seen at once by everybody on it.
func TestOwnWriteIsSeenAtOnce(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	writer := n.dial()
	readers := []*redistest.Client{n.dial(), n.dial(), n.dial(), writer}
	for i := range 500 {
		value := strconv.Itoa(i)
		want(t, writer, "OK", "SET", "product:1", value)
		for _, r := range readers {
			want(t, r, value, "GET", "product:1")
		}
		want(t, writer, "1", "HSET", "stats:h", "f"+value, value)
		for _, r := range readers {
			want(t, r, strconv.Itoa(i+1), "HLEN", "stats:h")
		}
	}
	if n.hits() == 0 {
		t.Error("there was no hit at all")
	}
}

// A value is never answered after Redis itself would answer nil.
func TestTTL(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	const life, slack = 300 * time.Millisecond, 2 * time.Millisecond
	hits := uint64(0)
	for range 5 {
		sent := time.Now()
		want(t, c, "OK", "SET", "product:1", "v", "PX", strconv.Itoa(int(life.Milliseconds())))
		acknowledged := time.Now()
		before := n.hits()
		for {
			asked := time.Now()
			got := c.Do("GET", "product:1")
			if got == "v" && asked.Sub(acknowledged) > life+slack {
				t.Fatalf("answered %s after its end", asked.Sub(acknowledged)-life)
			}
			if got == "(nil)" {
				if time.Since(sent) < life {
					t.Fatalf("gone %s before its end", life-time.Since(sent))
				}
				break
			}
		}
		hits += n.hits() - before
	}
	if hits < 100 {
		t.Errorf("only %d hits: the near cache was hardly asked", hits)
	}
}

// Deadlines and the proof of freshness must run while the machine sleeps.
func TestClockRunsLikeBoottime(t *testing.T) {
	up, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Skip("no /proc/uptime on this platform to compare with")
	}
	var seconds float64
	if _, err := fmt.Sscan(string(up), &seconds); err != nil {
		t.Fatal(err)
	}
	if d := float64(clockNow())/1e9 - seconds; d < -1 || d > 1 {
		t.Errorf("the clock is %f s off CLOCK_BOOTTIME", d)
	}
}

// The reads that can be cached are; what they must agree with is Redis itself.
func TestEveryReadIsCached(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	for _, args := range [][]string{
		{"SET", "product:s", "hello"},
		{"HSET", "product:h", "a", "1", "b", "2"},
		{"RPUSH", "product:l", "x", "y", "z"},
		{"SADD", "product:set", "m"},
		{"ZADD", "product:z", "1", "one", "2", "two"},
		{"GEOADD", "product:g", "13.36", "38.11", "p", "15.08", "37.5", "c"},
		{"XADD", "product:x", "1-1", "f", "v"},
		{"SETBIT", "product:b", "7", "1"},
	} {
		c.Do(args...)
	}
	for _, args := range [][]string{
		{"GET", "product:s"},
		{"STRLEN", "product:s"},
		{"GETRANGE", "product:s", "1", "2"},
		{"EXISTS", "product:s"},
		{"TYPE", "product:h"},
		{"HGET", "product:h", "a"},
		{"HMGET", "product:h", "a", "none"},
		{"HGETALL", "product:h"},
		{"HLEN", "product:h"},
		{"HEXISTS", "product:h", "a"},
		{"LRANGE", "product:l", "0", "-1"},
		{"LINDEX", "product:l", "0"},
		{"LLEN", "product:l"},
		{"LPOS", "product:l", "y"},
		{"SMEMBERS", "product:set"},
		{"SISMEMBER", "product:set", "m"},
		{"SCARD", "product:set"},
		{"ZRANGE", "product:z", "0", "-1", "WITHSCORES"},
		{"ZSCORE", "product:z", "one"},
		{"ZRANGEBYSCORE", "product:z", "1", "2"},
		{"ZCARD", "product:z"},
		{"ZRANK", "product:z", "two"},
		{"GEOPOS", "product:g", "p"},
		{"GEODIST", "product:g", "p", "c"},
		{"GEOSEARCH", "product:g", "FROMMEMBER", "p", "BYRADIUS", "200", "km"},
		{"XRANGE", "product:x", "-", "+"},
		{"XLEN", "product:x"},
		{"GETBIT", "product:b", "7"},
		{"BITCOUNT", "product:b"},
		{"BITPOS", "product:b", "1"},
		{"GET", "product:none"},
		{"HGETALL", "product:none"},
		{"EXISTS", "product:none"},
		{"MGET", "product:s", "product:none"},
	} {
		for _, proto := range []string{"2", "3"} {
			c.Do("HELLO", proto)
			direct := redistest.Dial(t, redis.Addr)
			direct.Do("HELLO", proto)
			direct.Do("SELECT", "1")
			expected := direct.Do(args...)
			direct.Close()
			if got := n.warm(c, args...); got != expected {
				t.Errorf("%v in RESP%s is %q from the near cache, %q at Redis", args, proto, got, expected)
			}
		}
	}
	// Errors are not kept.
	for range 3 {
		calls := redis.Calls("hget")
		want(t, c, "-WRONGTYPE Operation against a key holding the wrong kind of value", "HGET", "product:s", "f")
		if redis.Calls("hget") == calls {
			t.Error("an error came from the near cache")
		}
	}
	want(t, c, "[(nil) hello]", "MGET", "product:h", "product:s")
	want(t, c, "-WRONGTYPE Operation against a key holding the wrong kind of value", "GET", "product:h")
}

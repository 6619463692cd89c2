package proxy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

// list takes the elements out of an array in redistest's short form.
func list(array string) []string {
	items := strings.Fields(strings.Trim(array, "[]{}"))
	slices.Sort(items)
	return items
}

func TestOneKeyspace(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	for _, proto := range []string{"2", "3"} {
		t.Run("RESP"+proto, func(t *testing.T) {
			redis.Do("FLUSHALL")
			c := n.dial()
			c.Do("HELLO", proto)
			want(t, c, "OK", "MSET", "product:1", "a", "lock:1", "b", "plain", "c", "stats:1", "d")
			if got := redis.DoDB(1, "DBSIZE"); got != "2" {
				t.Errorf("the cache database has %s keys", got)
			}
			want(t, c, "[b a (nil) c d]", "MGET", "lock:1", "product:1", "none", "plain", "stats:1")
			want(t, c, "3", "EXISTS", "product:1", "lock:1", "none", "plain")
			want(t, c, "2", "TOUCH", "product:1", "lock:1")
			want(t, c, "4", "DBSIZE")
			// What the view at 0 does not show of either database.
			redis.DoDB(0, "SET", "product:hidden", "in the locks' database")
			redis.DoDB(1, "SET", "lock:hidden", "in the cache's")
			redis.DoDB(1, "SET", "hidden", "in the cache's")
			all := []string{"lock:1", "plain", "product:1", "stats:1"}
			if got := list(c.Do("KEYS", "*")); !slices.Equal(got, all) {
				t.Errorf("KEYS * is %v", got)
			}
			want(t, c, "[product:1]", "KEYS", "product:*")
			want(t, c, "[lock:1]", "KEYS", "lock:*")
			if got := scan(t, c); !slices.Equal(got, all) {
				t.Errorf("SCAN found %v", got)
			}
			if got := scan(t, c, "MATCH", "p*", "COUNT", "1"); !slices.Equal(got, []string{"plain", "product:1"}) {
				t.Errorf("SCAN MATCH p* found %v", got)
			}
			for range 20 {
				if got := c.Do("RANDOMKEY"); !slices.Contains(all, got) {
					t.Errorf("RANDOMKEY is %s", got)
				}
			}
			if got := c.Do("RENAME", "product:1", "lock:2"); !strings.HasPrefix(got, "-CROSSDB") {
				t.Errorf("RENAME across databases: %s", got)
			}
			if got := c.Do("EVAL", "return 1", "2", "product:1", "lock:1"); !strings.HasPrefix(got, "-CROSSDB") {
				t.Errorf("EVAL across databases: %s", got)
			}
			want(t, c, "2", "DEL", "product:1", "lock:1", "none")
			want(t, c, "1", "UNLINK", "plain")
			want(t, c, "[d (nil)]", "MGET", "stats:1", "plain")
			want(t, c, "OK", "FLUSHDB")
			want(t, c, "[]", "KEYS", "*")
			want(t, c, "2", "DBSIZE") // the cache's database has others' keys
			if got := list(redis.DoDB(1, "KEYS", "*")); !slices.Equal(got, []string{"hidden", "lock:hidden"}) {
				t.Errorf("the cache's database has %v", got)
			}
		})
	}
}

// scan walks the whole keyspace.
func scan(t *testing.T, c *redistest.Client, options ...string) (keys []string) {
	t.Helper()
	cursor := "0"
	for range 10_000 {
		reply := c.Do(append([]string{"SCAN", cursor}, options...)...)
		head, rest, _ := strings.Cut(strings.TrimPrefix(reply, "["), " ")
		keys = append(keys, list(strings.TrimSuffix(rest, "]"))...)
		n, err := strconv.ParseUint(head, 10, 64)
		if err != nil {
			t.Fatalf("SCAN answered %s", reply)
		}
		if n >= 1<<53 {
			t.Fatalf("cursor %d is beyond what JavaScript counts exactly", n)
		}
		if cursor = head; cursor == "0" {
			slices.Sort(keys)
			return slices.Compact(keys)
		}
	}
	t.Fatal("SCAN does not end")
	return nil
}

func TestScanReturnsEveryKey(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	var all []string
	for i := range 3000 {
		key := fmt.Sprintf("product:%d", i)
		if i%3 == 0 {
			key = fmt.Sprintf("lock:%d", i)
		}
		all = append(all, key)
		c.Send("SET", key, "v")
	}
	for range all {
		c.Read()
	}
	slices.Sort(all)
	if got := scan(t, c, "COUNT", "7"); !slices.Equal(got, all) {
		t.Errorf("SCAN found %d of %d keys", len(got), len(all))
	}
}

// Every database beyond 0 is what it is at Redis.
func TestSelect(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	for _, args := range [][]string{{"SELECT", "16"}, {"SELECT", "-1"}, {"SELECT", "x"}, {"SELECT"}, {"SELECT", "1", "2"}, {"SELECT", "99999999999"}} {
		want(t, c, redis.Do(args...), args...)
	}
	want(t, c, "OK", "SELECT", "7")
	want(t, c, "OK", "SET", "product:1", "seven")
	if got := redis.DoDB(7, "GET", "product:1"); got != "seven" {
		t.Errorf("database 7 has %q", got)
	}
	want(t, c, "seven", "GET", "product:1")
	redis.DoDB(7, "SET", "product:1", "changed")
	want(t, c, "changed", "GET", "product:1")
	want(t, c, "[product:1]", "KEYS", "*")
	want(t, c, "OK", "SELECT", "0")
	want(t, c, "(nil)", "GET", "product:1")
}

// cache.db may be locks.db: then there is nothing to join or split.
func TestOneDatabase(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.CacheDB = 0 })
	c := n.dial()
	want(t, c, "OK", "MSET", "product:1", "a", "lock:1", "b")
	if got := redis.DoDB(0, "GET", "product:1"); got != "a" {
		t.Errorf("database 0 has %q", got)
	}
	if got := n.warm(c, "GET", "product:1"); got != "a" {
		t.Errorf("GET answered %q", got)
	}
	want(t, c, "OK", "RENAME", "product:1", "lock:2")
	want(t, c, "(nil)", "GET", "product:1")
	want(t, c, "2", "DBSIZE")
	if got := list(c.Do("KEYS", "*")); !slices.Equal(got, []string{"lock:1", "lock:2"}) {
		t.Errorf("KEYS * is %v", got)
	}
}

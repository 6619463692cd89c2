package proxy

import (
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

const library = "#!lua name=lib\n" +
	"redis.register_function('put', function(keys, args) return redis.call('set', args[1], args[2]) end)\n" +
	"redis.register_function{function_name='peek', callback=function(keys, args) return redis.call('get', keys[1]) end, flags={'no-writes'}}\n"

func TestScriptsAndFunctions(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "x")
	want(t, c, "x", "EVAL_RO", "return redis.call('get', KEYS[1])", "1", "product:1")
	if got := c.Do("EVAL_RO", "return redis.call('set', KEYS[1], 'y')", "1", "product:1"); !strings.HasPrefix(got, "-ERR") {
		t.Errorf("EVAL_RO wrote: %s", got)
	}
	sha := c.Do("SCRIPT", "LOAD", "return redis.call('get', KEYS[1])")
	want(t, c, "[1 0]", "SCRIPT", "EXISTS", sha, strings.Repeat("f", 40))
	want(t, c, "x", "EVALSHA", sha, "1", "product:1")
	want(t, c, "x", "EVALSHA_RO", sha, "1", "product:1")
	want(t, c, "OK", "SCRIPT", "FLUSH")
	want(t, c, "-NOSCRIPT No matching script. Please use EVAL.", "EVALSHA", sha, "1", "product:1")
	if got := c.Do("SCRIPT", "DEBUG", "YES"); !strings.HasPrefix(got, "-") {
		t.Errorf("SCRIPT DEBUG answered %s", got)
	}

	want(t, c, "lib", "FUNCTION", "LOAD", library)
	want(t, c, "x", "FCALL", "peek", "1", "product:1")
	want(t, c, "x", "FCALL_RO", "peek", "1", "product:1")
	if got := c.Do("FUNCTION", "LIST"); !strings.Contains(got, "library_name lib") {
		t.Errorf("FUNCTION LIST answered %s", got)
	}
	dump := c.Do("FUNCTION", "DUMP")
	want(t, c, "OK", "FUNCTION", "FLUSH")
	want(t, c, "-ERR Function not found", "FCALL", "peek", "1", "product:1")
	want(t, c, "OK", "FUNCTION", "RESTORE", dump)
	want(t, c, "x", "FCALL", "peek", "1", "product:1")
	want(t, c, "OK", "FUNCTION", "DELETE", "lib")
}

// A function that writes a key it does not name, with the invalidation held
// back. Guards: the suspension while it runs and the fence after it.
func TestFunctionWritesUndeclaredKey(t *testing.T) {
	_, relay, n := heldBack(t, nil)
	c := n.dial()
	want(t, c, "lib", "FUNCTION", "LOAD", library)
	want(t, c, "OK", "SELECT", "1")
	want(t, c, "OK", "SET", "product:1", "old")
	n.warm(c, "GET", "product:1")
	held := relay.HoldReply("invalidate")
	want(t, c, "OK", "FCALL", "put", "0", "product:1", "new")
	<-held.Arrived
	want(t, c, "new", "GET", "product:1")
	held.Release()
}

// The usual lock scripts are known by what they do: releasing and extending
// need no fence, acquiring by script does, and so does a script that could do anything.
func TestWhichScriptsRaiseFences(t *testing.T) {
	n := start(t, redistest.Start(t), nil)
	c := n.dial()
	acquire := `if redis.call("exists", KEYS[1]) == 1 then return 0 end redis.call("set", KEYS[1], ARGV[1], "PX", ARGV[2]) return 1`
	extend := "if redis.call('GET', KEYS[1]) == ARGV[1] then\n  -- still ours\n  return redis.call('PEXPIRE', KEYS[1], ARGV[2])\nend\nreturn 0"
	for _, step := range []struct {
		fence bool
		args  []string
	}{
		{true, []string{"SET", "lock:a", "me", "NX", "PX", "5000"}},
		{false, []string{"SET", "lock:a", "other", "NX", "PX", "5000"}}, // refused: nothing was learned
		{false, []string{"EVAL", extend, "1", "lock:a", "me", "9000"}},
		{false, []string{"EVAL", release, "1", "lock:a", "me"}},
		{true, []string{"EVAL", acquire, "1", "lock:a", "me", "5000"}},
		{true, []string{"EVAL", acquire, "1", "lock:a", "other", "5000"}}, // what its 0 means is its own matter
		{false, []string{"EVAL", "return redis.call('incr', KEYS[1])", "1", "product:n"}},
		{true, []string{"EVAL", "return redis.call('incr', ARGV[1])", "0", "counter"}},
		{true, []string{"EVAL", "local r = redis return r.call('get', KEYS[1])", "1", "product:n"}},
		{false, []string{"GET", "product:n"}},
		{false, []string{"DEL", "lock:a"}},
	} {
		before := n.link.Stats().Fences
		if got := c.Do(step.args...); strings.HasPrefix(got, "-") {
			t.Fatalf("%v answered %s", step.args, got)
		}
		if raised := n.link.Stats().Fences > before; raised != step.fence {
			t.Errorf("%q raised a fence: %t", step.args, raised)
		}
	}
}

// Without a link nothing tells what a script writes beside its KEYS: it flushes.
func TestWithoutLink(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.Link = "none" })
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "old")
	n.warm(c, "GET", "product:1")
	redis.DoDB(1, "SET", "product:1", "made elsewhere")
	want(t, c, "old", "GET", "product:1") // the bound is the rule's ttl
	want(t, c, "OK", "SET", "product:1", "through")
	want(t, c, "through", "GET", "product:1")
	n.warm(c, "GET", "product:1")
	want(t, c, "OK", "SELECT", "1")
	want(t, c, "OK", "EVAL", "return redis.call('set', 'product:1', 'new')", "0")
	want(t, c, "new", "GET", "product:1")
	if got := strings.Join(list(c.Do("NEARSIDE", "EXPLAIN", "product:1")), " "); !strings.Contains(got, "staleness_bound_ms:unknown") {
		t.Errorf("EXPLAIN: %s", got)
	}
}

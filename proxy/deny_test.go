package proxy

import (
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

// TestDenyScripts: where every command that runs a script is denied, no script and
// no function runs by any of the ways that servers have; where they are not, what
// deny names runs in them, which nearside warns of (cmd/nearside).
func TestDenyScripts(t *testing.T) {
	for _, name := range []redistest.Name{redistest.Redis6, redistest.Debian, redistest.Redis8, redistest.Valkey9} {
		t.Run(string(name), func(t *testing.T) {
			redis := redistest.StartNamed(t, name)
			// What cmd/nearside makes of deny: [flushall, scripts].
			denied := []string{"flushall", "eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"}
			n := start(t, redis, func(c *Config) { c.Deny = denied })
			redis.Do("FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', function() return redis.call('flushall') end)")
			sha := redis.Do("SCRIPT", "LOAD", "return redis.call('flushall')")
			// Whatever the server lists as a scripting command and runs something is denied.
			for _, command := range list(redis.Do("COMMAND", "LIST", "FILTERBY", "ACLCAT", "scripting")) {
				if container, _, _ := strings.Cut(command, "|"); container == "script" || container == "function" || strings.HasPrefix(command, "-ERR") || name == redistest.Redis6 {
					continue
				}
				found := false
				for _, d := range denied {
					found = found || d == command
				}
				if !found {
					t.Errorf("%s runs scripts and is not denied", command)
				}
			}
			c := n.dial()
			want(t, c, "OK", "SET", "k", "v")
			for _, args := range [][]string{
				{"FLUSHALL"},
				{"EVAL", "return redis.call('flushall')", "0"},
				{"EVALSHA", sha, "0"},
				{"eval_ro", "return redis.call('flushall')", "0"},
				{"EVALSHA_RO", sha, "0"},
				{"FCALL", "f", "0"},
				{"FCALL_RO", "f", "0"},
			} {
				for _, multi := range []bool{false, true} {
					if multi {
						want(t, c, "OK", "MULTI")
					}
					if got := c.Do(args...); !strings.HasPrefix(got, "-NOPERM nearside: ") {
						t.Errorf("%v answers %s", args, got)
					}
					if multi {
						if got := c.Do("EXEC"); !strings.HasPrefix(got, "-EXECABORT") {
							t.Errorf("EXEC behind %v answers %s", args, got)
						}
					}
					want(t, c, "v", "GET", "k")
				}
			}
			open := start(t, redis, func(c *Config) { c.Deny = []string{"flushall"} })
			c = open.dial()
			want(t, c, "OK", "EVAL", "return redis.call('flushall')", "0")
			want(t, c, "(nil)", "GET", "k")
		})
	}
}

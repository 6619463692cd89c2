package policy

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

const release = `if redis.call("get",KEYS[1]) == ARGV[1] then return redis.call("del",KEYS[1]) else return 0 end`

// The lock scripts of the usual libraries, as they send them.
var lockScripts = map[string]string{
	"release": release,
	"extend":  `if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("pexpire", KEYS[1], ARGV[2]) else return 0 end`,
	"redsync delete": `
	local val = redis.call("GET", KEYS[1])
	if val == ARGV[1] then
		return redis.call("DEL", KEYS[1])
	elseif val == false then
		return -1
	else
		return 0
	end
`,
	"redis-py release": `
        local token = redis.call('get', KEYS[1])
        if not token or token ~= ARGV[1] then
            return 0
        end
        redis.call('del', KEYS[1])
        return 1
    `,
	"redis-py extend": `
        local token = redis.call('get', KEYS[1])
        if not token or token ~= ARGV[1] then
            return 0
        end
        local expiration = redis.call('pttl', KEYS[1])
        if not expiration then
            expiration = 0
        end
        if expiration < 0 then
            return 0
        end

        local newttl = ARGV[2]
        if ARGV[3] == "0" then
            newttl = ARGV[2] + expiration
        end
        redis.call('pexpire', KEYS[1], newttl)
        return 1
    `,
	"redis-py reacquire": `
        local token = redis.call('get', KEYS[1])
        if not token or token ~= ARGV[1] then
            return 0
        end
        redis.call('pexpire', KEYS[1], ARGV[2])
        return 1
    `,
	"node-redlock 4": `if redis.call("get", KEYS[1]) == ARGV[1] then return redis.pcall("del", KEYS[1]) else return 0 end`,
	"node-redlock 5 release": `
  local count = 0
  for i, key in ipairs(KEYS) do
    -- Only remove entries for *this* lock value.
    if redis.call("get", key) == ARGV[1] then
      redis.pcall("del", key)
      count = count + 1
    end
  end

  -- Return the number of entries removed.
  return count
`,
	"node-redlock 5 extend": `
  -- Return 0 if an entry exists with a *different* lock value.
  for i, key in ipairs(KEYS) do
    if redis.call("get", key) ~= ARGV[1] then
      return 0
    end
  end

  -- Update the entry for each provided key.
  for i, key in ipairs(KEYS) do
    redis.call("pexpire", key, ARGV[2])
  end

  -- Return the number of entries updated.
  return #KEYS
`,
	"comments":   "--[[ redis.call('set', 'x', 1) ]] -- KEYS\n--[==[ ]] ]==] return redis.call([[get]], KEYS[1]) -- redis",
	"publish":    `redis.call('del', KEYS[1]); redis.call('publish', KEYS[2], ARGV[1]); return 1`,
	"local name": "local key = KEYS[1]\nlocal t = redis.call('ttl', key)\nif t > 0 then redis.call('unlink', key) end return t",
	"shebang":    "#!lua flags=no-writes\nreturn redis.call('get', KEYS[1])",
}

var keepingScripts = map[string]string{
	"redsync touch or set": `if redis.call("GET", KEYS[1]) == ARGV[1] then
		return redis.call("PEXPIRE", KEYS[1], ARGV[2])
	elseif redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2], "NX") then
		return 1
	else
		return 0
	end`,
	"node-redlock 5 acquire": `
  for i, key in ipairs(KEYS) do
    if redis.call("exists", key) == 1 then
      return 0
    end
  end
  for i, key in ipairs(KEYS) do
    redis.call("set", key, ARGV[1], "PX", ARGV[2])
  end
  return #KEYS`,
	"counter":   `local n = redis.call('incr', KEYS[1]) if n == 1 then redis.call('expire', KEYS[1], ARGV[1]) end return n`,
	"redisson":  `if (redis.call('hexists', KEYS[1], ARGV[3]) == 0) then return nil;end; local counter = redis.call('hincrby', KEYS[1], ARGV[3], -1); if (counter > 0) then redis.call('pexpire', KEYS[1], ARGV[2]); return 0; else redis.call('del', KEYS[1]); redis.call('publish', KEYS[2], ARGV[1]); return 1; end; return nil;`,
	"two keys":  `return redis.call('rename', KEYS[1], KEYS[2])`,
	"many keys": `return redis.call('sunionstore', KEYS[1], KEYS[2], KEYS[3])`,
	"nested":    `return redis.call('set', KEYS[1], redis.call('get', KEYS[2]) .. 'x')`,
	"helpers":   `redis.log(redis.LOG_NOTICE, 'x') redis.call('incr', KEYS[1]) return redis.status_reply('OK ' .. redis.sha1hex('a'))`,
}

var unknownScripts = map[string]string{
	"other key":            `return redis.call('set', 'x', 1)`,
	"argument as key":      `return redis.call('set', ARGV[1], 1)`,
	"index":                `return redis.call('set', KEYS[i], 1)`,
	"key expression":       `return redis.call('set', KEYS[1] .. 'x', 1)`,
	"second key":           `return redis.call('rename', KEYS[1], 'x')`,
	"missing key":          `return redis.call('rename', KEYS[1])`,
	"unpack":               `return redis.call('del', KEYS[1], unpack(ARGV))`,
	"command name":         `return redis.call(ARGV[1], KEYS[1])`,
	"built name":           `return redis.call('g'..'et', KEYS[1])`,
	"escaped name":         `return redis.call('\103et', KEYS[1])`,
	"alias":                `local r = redis r.call('set', 'x', 1)`,
	"alias of call":        `local c = redis.call c('set', 'x', 1)`,
	"pcall":                `pcall(redis.call, 'set', 'x', 1)`,
	"index of redis":       `redis['call']('set', 'x', 1)`,
	"no parentheses":       `redis.call 'flushall'`,
	"loadstring":           `loadstring("red" .. "is.call('set','x',1)")()`,
	"globals":              `_G['red' .. 'is'].call('set', 'x', 1)`,
	"getfenv":              `getfenv()['red' .. 'is'].call('set', 'x', 1)`,
	"valkey":               `server.call('set', 'x', 1)`,
	"changed KEYS":         `KEYS[1] = 'x' redis.call('set', KEYS[1], 1)`,
	"changed in a list":    `local a KEYS[1], a = 'x', 1 redis.call('set', KEYS[1], 1)`,
	"changed later":        `local a a, KEYS[1], a = 1, 'x', 2 redis.call('set', KEYS[1], 1)`,
	"other KEYS":           `local KEYS = {'x'} redis.call('set', KEYS[1], 1)`,
	"parameter KEYS":       `local function f(KEYS) return redis.call('set', KEYS[1], 1) end return f({'x'})`,
	"name of KEYS":         `local k = KEYS k[1] = 'x' redis.call('set', KEYS[1], 1)`,
	"insert":               `table.insert(KEYS, 1, 'x') redis.call('set', KEYS[1], 1)`,
	"changed name":         "local key = KEYS[1]\nkey = 'x' redis.call('set', key, 1)",
	"longer name":          "local key = KEYS[1] .. 'x' redis.call('set', key, 1)",
	"called name":          "local key = KEYS[1] (x) redis.call('set', key, 1)",
	"and name":             "local key = KEYS[1] and 'x' redis.call('set', key, 1)",
	"shadowed name":        "local key = KEYS[1] local function f(key) redis.call('set', key, 1) end f('x')",
	"loop over more":       "for i, key in ipairs(ARGV) do redis.call('set', key, 1) end",
	"other ipairs":         "local ipairs = function() return next, {'x'} end for i, key in ipairs(KEYS) do redis.call('set', key, 1) end",
	"number as name":       "for key, k in ipairs(KEYS) do redis.call('set', key, 1) end for i, key in ipairs(KEYS) do redis.call('set', key, 1) end",
	"bound redis":          "for i, redis in ipairs(KEYS) do end",
	"changed inside":       `redis.call('get', (function() KEYS[1] = 'x' end)()) redis.call('get', KEYS[1])`,
	"changed in argument":  `redis.call('set', KEYS[2], (function() KEYS[1], a = 'x', 1 end)())`,
	"select":               `redis.call('select', 3) redis.call('set', KEYS[1], 1)`,
	"flush":                `redis.call('flushall')`,
	"move":                 `redis.call('move', KEYS[1], 3)`,
	"copy":                 `redis.call('copy', KEYS[1], KEYS[2], 'DB', 3)`,
	"sort":                 `redis.call('sort', KEYS[1], 'STORE', 'x')`,
	"georadius":            `redis.call('georadius', KEYS[1], 0, 0, 1, 'm', 'STORE', 'x')`,
	"eval":                 `redis.call('eval', 'x', 0)`,
	"unknown command":      `redis.call('nosuch', KEYS[1])`,
	"set_repl":             `redis.set_repl(redis.REPL_NONE)`,
	"code after a comment": "--\rredis.call('set', 'x', 1)",
	"shebang with return":  "#!lua\r--[[\nredis.call('set', 'x', 1) --]]",
	"nested long string":   "x = [[ [[ ]] redis.call('set', 'x', 1) --]]",
	"unfinished string":    "x = 'a\nredis.call('set', KEYS[1], 1)",
	"unfinished comment":   "--[[ return 1",
	"high bytes":           "r\xe9dis.call('set', 'x', 1)",
	"field KEYS":           `local t = {KEYS = 1} return t.KEYS`,
	"bytecode":             "\x1bLua",
}

func TestAnalyse(t *testing.T) {
	for _, c := range []struct {
		scripts map[string]string
		want    verdict
	}{
		{lockScripts, verdict{keeps: true, releases: true}},
		{keepingScripts, verdict{keeps: true}},
		{unknownScripts, verdict{}},
	} {
		for name, src := range c.scripts {
			got := analyse([]byte(src))
			got.quick = false // TestScriptsEnd
			if got != c.want {
				t.Errorf("%s: %+v, want %+v", name, got, c.want)
			}
		}
	}
}

// A script that may take arbitrarily long is not run where others would wait behind it;
// the usual scripts for locks are.
func TestScriptsEnd(t *testing.T) {
	for name, src := range lockScripts {
		if !analyse([]byte(src)).quick {
			t.Errorf("%s may take long", name)
		}
	}
	for _, src := range unknownScripts {
		if analyse([]byte(src)).quick {
			t.Errorf("known to end: %s", src)
		}
	}
	for _, src := range []string{
		"while true do end", "repeat until false", "for i = 1, 1e12 do end", "for i, k in ipairs(ARGV) do end",
		"local function f() return f() end return f()", "return (function() end)()",
		"for _, k in ipairs(KEYS) do for _, l in ipairs(KEYS) do redis.call('get', k) end end",
		"return string.rep('x', 1e9)", "return string['rep']('x', 1e9)", "return ('x'):rep(1e9)", "return ARGV[1]:find('a-a-a-b')",
		"for _, k in ipairs(KEYS) do if k then end for _, l in ipairs(KEYS) do redis.call('get', k) end end",
		"table.sort(ARGV)", "return cjson.decode(ARGV[1])", "coroutine.wrap(f)()", "xpcall(error, error)",
		"WHILE = 1 while WHILE do end", "--[[ ]] while true do end", "goto x",
	} {
		if analyse([]byte(src)).quick {
			t.Errorf("known to end: %s", src)
		}
	}
	for _, src := range []string{
		"return 1", "-- while\nreturn 'function'", "for _, k in ipairs(KEYS) do redis.call('del', k) end return 1",
		"return tonumber(redis.call('get', KEYS[1])) + math.floor(ARGV[1])",
	} {
		if !analyse([]byte(src)).quick {
			t.Errorf("may take long: %s", src)
		}
	}
}

// TestAlone: what may run long, or block its client at the server, has nobody behind it.
func TestAlone(t *testing.T) {
	rules, err := NewRules(0, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := New(rules, Options{})
	for line, want := range map[string]bool{
		"eval while(true)do(end) 0": true, "evalsha 0123456789012345678901234567890123456789 0": true,
		"eval_ro return(1) 0": true, "evalsha_ro x 0": true, "fcall f 0": true, "fcall_ro f 0": true,
		"eval return(1) x": true, // whatever Redis makes of it
		"flushall":         true, "flushdb async": true,
		"eval return(1) 0": false, "get k": false, "set k v": false, "script kill": false, "function kill": false, "script load x": false,
	} {
		var args [][]byte
		for _, w := range strings.Fields(line) {
			args = append(args, []byte(w))
		}
		var d Decision
		p.Decide(&d, 3, args)
		if d.Alone != want {
			t.Errorf("%s: alone %v", line, d.Alone)
		}
	}
}

func TestScriptsAreRememberedInBounds(t *testing.T) {
	var s scripts
	sum := sha1.Sum([]byte(release))
	digits := []byte(strings.ToUpper(hex.EncodeToString(sum[:])))
	if s.sha(digits).keeps {
		t.Error("known before it was seen")
	}
	s.source([]byte(release))
	if !s.sha(digits).releases {
		t.Error("not remembered")
	}
	for i := range 2 * maxOtherScripts {
		s.source(fmt.Appendf(nil, "return redis.call('get', 'x%d')", i))
	}
	if !s.sha(digits).keeps {
		t.Error("pushed out by unknown scripts")
	}
	for i := range 2 * maxKnownScripts {
		s.source(fmt.Appendf(nil, "return %d", i))
	}
	if n := len(s.known.m) + len(s.other.m); n != maxKnownScripts+maxOtherScripts || n > 4096 {
		t.Errorf("%d scripts remembered", n)
	}
	if s.sha(digits).keeps {
		t.Error("the oldest is not forgotten")
	}
	if s.sha([]byte("zz")).keeps || s.sha([]byte(strings.Repeat("z", 40))).keeps {
		t.Error("known by nonsense")
	}
	if s.source([]byte("return 1 --" + strings.Repeat("x", maxScript))).keeps {
		t.Error("a script longer than maxScript was looked at")
	}
}

func FuzzScript(f *testing.F) {
	for _, scripts := range []map[string]string{lockScripts, keepingScripts, unknownScripts} {
		for _, src := range scripts {
			f.Add([]byte(src))
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		lex := lexer{src: src}
		for n := 0; ; n++ {
			at := lex.at
			tok := lex.next()
			if tok.kind == tokenEnd || tok.kind == tokenBad {
				break
			}
			if lex.at <= at || lex.at > len(src) || n > len(src) {
				t.Fatal("the lexer does not move on")
			}
		}
		v := analyse(src)
		if v.releases && !v.keeps {
			t.Fatal("releases without keeping")
		}
		if !v.keeps {
			return
		}
		// Put before a script that keeps to its KEYS, a comment changes nothing; put behind it, a
		// write of another key must be noticed, unless it falls into a comment that a line end closes.
		if !strings.HasPrefix(string(src), "#!") && !analyse(append([]byte("--[=[ redis ]=] "), src...)).keeps {
			t.Fatal("a comment matters")
		}
		if analyse(append(append([]byte{}, src...), "\nredis.call('set', 'x', 1)"...)).keeps {
			t.Fatal("a write of another key passes")
		}
	})
}

func BenchmarkAnalyse(b *testing.B) {
	b.ReportAllocs()
	src := []byte(release)
	for b.Loop() {
		analyse(src)
	}
}

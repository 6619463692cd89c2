package main

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"nearside/configs"
	"nearside/policy"
)

// check parses and checks a configuration as nearside would.
func check(text string, overrides ...override) (*settings, error) {
	s, err := parse("f.yaml", []byte(text))
	if err != nil {
		return nil, err
	}
	for _, o := range overrides {
		if err := s.override(o); err != nil {
			return nil, err
		}
	}
	err = s.check()
	return s, err
}

func TestErrors(t *testing.T) {
	tests := []struct{ name, text, err string }{
		// What is not a configuration at all.
		{"empty", "", `f.yaml:1:1: the file is empty`},
		{"only comments", "# nothing\n", `f.yaml:1:1: the file is empty`},
		{"a word", "hello\n", `f.yaml:1:1: expected keys and values, such as "redis: redis://127.0.0.1:6379"`},
		{"a list", "- a\n", `f.yaml:1:1: expected keys and values, such as "redis: redis://127.0.0.1:6379"`},
		{"not YAML", "listen: [127.0.0.1:1\n", `f.yaml:1:9: sequence end token ']' not found`},
		{"a tab", "cache:\n\tdb: 1\n", `f.yaml:2:1: a tab: indent with spaces`},
		{"prefix without quotes", "cache:\n  rules:\n    - prefix: a:\n", `f.yaml:3:15: mapping value is not allowed in this context: quote what has a colon in it, as in prefix: "product:", and indent as the lines around it`},
		{"two documents", "admin: \"\"\n---\nadmin: \"\"\n", `f.yaml:3:1: a second document begins here; one file holds one configuration`},

		// Keys.
		{"unknown key", "lisen: 127.0.0.1:1\n", `f.yaml:1:1: unknown key "lisen": is listen meant?`},
		{"unknown key below", "cache:\n  memroy: 1GiB\n", `f.yaml:2:3: unknown key "memroy" in cache: is memory meant?`},
		{"unknown key of a rule", "cache:\n  rules:\n    - prefix: a\n      tll: 1s\n", `f.yaml:4:7: unknown key "tll" in cache.rules[0]: is ttl meant?`},
		{"cache key of a lock rule", "locks:\n  rules:\n    - prefix: a\n      ttl: 1s\n", `f.yaml:4:7: unknown key "ttl" in locks.rules[0]: one of prefix`},
		{"a number as key", "log:\n  1: 2\n", `f.yaml:2:3: unknown key "1" in log: one of format, level`},
		{"merge key", "log:\n  <<: {level: info}\n", `f.yaml:2:3: unknown key "<<" in log: one of format, level`},
		{"doubled key", "admin: \"\"\nredis: redis://h\nadmin: \"\"\n", `f.yaml:3:1: "admin" is given twice, first in line 1`},
		{"doubled key below", "cache:\n  db: 1\n  db: 1\n", `f.yaml:3:3: "db" is given twice, first in line 2`},
		{"no value", "cache:\nadmin: \"\"\n", `f.yaml:1:1: "cache" has no value`},
		{"no rules", "cache:\n  rules:\n", `f.yaml:2:3: "rules" has no value`},

		// Types.
		{"scalar for mapping", "cache: yes\n", `f.yaml:1:8: cache must have keys and values: audit, db, exclusive, fence, keyspace_events, link, max_entries, max_staleness, memory, ping, refills, rules, touch, ttl`},
		{"list for mapping", "cache: [1]\n", `f.yaml:1:8: cache must have keys and values: audit, db, exclusive, fence, keyspace_events, link, max_entries, max_staleness, memory, ping, refills, rules, touch, ttl`},
		{"mapping for list", "cache:\n  rules:\n    prefix: a\n", `f.yaml:3:5: cache.rules must be a list: begin each element with "- "`},
		{"mapping for scalar", "cache:\n  db:\n    x: 1\n", `f.yaml:3:5: cache.db: must be a single value`},
		{"list for scalar", "redis: [a]\n", `f.yaml:1:8: redis: must be a single value`},
		{"null in a list", "listen: [~]\n", `f.yaml:1:10: listen[0]: "~" is not an address: expected host:port or unix:/path`},
		{"scalar for rule", "cache:\n  rules: [product]\n", `f.yaml:2:11: cache.rules[0] must have keys and values: commands, consistency, max_reply, negative, prefix, stale_if_error, ttl`},
		{"number for prefix", "cache:\n  rules:\n    - prefix: 123\n", `f.yaml:3:15: cache.rules[0].prefix: must be text: write "123" in quotes`},
		{"anchor", "admin: &a \"\"\n", `f.yaml:1:8: admin: anchors, aliases and tags are not supported`},

		// Values.
		{"bad duration", "cache:\n  ttl: soon\n", `f.yaml:2:8: cache.ttl: "soon" is not a duration, such as 250ms, 60s or 1h30m`},
		{"duration without unit", "cache:\n  ttl: 60\n", `f.yaml:2:8: cache.ttl: 60 has no unit: write 60s or 60ms`},
		{"no ttl", "cache:\n  ttl: 0s\n", `f.yaml:2:8: cache.ttl: 0s is too short: at least 1ms`},
		{"too soon slow", "slow: 500ns\n", `f.yaml:1:7: slow: 500ns is too short: at least 1us`},
		{"slow without unit", "slow: 1\n", `f.yaml:1:7: slow: 1 has no unit: write 1s or 1ms`},
		{"negative ttl", "cache:\n  rules:\n    - prefix: a\n      ttl: -1s\n", `f.yaml:4:12: cache.rules[0].ttl: -1s is too short: at least 1ms`},
		{"bad size", "cache:\n  memory: lots\n", `f.yaml:2:11: cache.memory: "lots" is not a size, such as 64MiB, 512KB or 1048576`},
		{"negative size", "cache:\n  memory: -1\n", `f.yaml:2:11: cache.memory: "-1" is not a size, such as 64MiB, 512KB or 1048576`},
		{"small memory", "cache:\n  memory: 1MB\n", `f.yaml:2:11: cache.memory: 1MB is too small: at least 1MiB`},
		{"huge memory", "cache:\n  memory: 20000000TiB\n", `f.yaml:2:11: cache.memory: "20000000TiB" is not a size, such as 64MiB, 512KB or 1048576`},
		{"large memory", "cache:\n  memory: 2TiB\n", `f.yaml:2:11: cache.memory: 2TiB is too large: at most 1TiB`},
		{"large request", "max_request: 513MiB\n", `f.yaml:1:14: max_request: 513MiB is too large: at most 512MiB`},
		{"negative db", "locks:\n  db: -1\n", `f.yaml:2:7: locks.db: -1 is too small: at least 0`},
		{"db is no number", "cache:\n  db: one\n", `f.yaml:2:7: cache.db: "one" is not a whole number`},
		{"db is too large", "cache:\n  db: 99999999999999999999\n", `f.yaml:2:7: cache.db: 99999999999999999999 is out of range: 0 to 2147483647`},
		{"no connections", "origin_connections: 0\n", `f.yaml:1:21: origin_connections: 0 is out of range: 1 to 1024`},
		{"unknown link", "cache:\n  link: push\n", `f.yaml:2:9: cache.link: unknown word "push": one of auto, tracking, keyspace, none`},
		{"unknown events", "cache:\n  keyspace_events: \"off\"\n", `f.yaml:2:20: cache.keyspace_events: unknown word "off": one of check, set`},
		{"bad touch", "cache:\n  touch: often\n", `f.yaml:2:10: cache.touch: "often" is neither auto nor off nor a duration of at least 1s`},
		{"short touch", "cache:\n  touch: 10ms\n", `f.yaml:2:10: cache.touch: "10ms" is neither auto nor off nor a duration of at least 1s`},
		{"short window", "window: 0\n", `f.yaml:1:9: window: 0 is too short: at least 1ms`},
		{"unknown fence", "cache:\n  fence: [locks, moon]\n", `f.yaml:2:18: cache.fence[1]: unknown word "moon": one of locks, scripts, messages`},
		{"deny an unknown command", "deny: [DEBUG, shutdwon]\n", `f.yaml:1:15: deny[1]: unknown command SHUTDWON`},
		{"deny an unknown subcommand", "deny:\n  - \"config|sit\"\n", `f.yaml:2:5: deny[0]: unknown command CONFIG|SIT`},
		{"deny a subcommand of what has none", "deny: [\"get|x\"]\n", `f.yaml:1:8: deny[0]: unknown command GET|X`},
		{"deny half a subcommand", "deny: [\"config|\"]\n", `f.yaml:1:8: deny[0]: unknown command CONFIG|`},
		{"deny twice", "deny: [keys, KEYS]\n", `f.yaml:1:14: deny[1]: KEYS is given twice`},
		{"deny scripts twice", "deny: [eval, scripts]\n", `f.yaml:1:14: deny[1]: scripts is given twice`},
		{"deny no list", "deny: keys\n", `f.yaml:1:7: deny must be a list: write [keys]`},
		{"unknown user", "default_user: root\n", `f.yaml:1:15: default_user: unknown word "root": one of origin, none`},
		{"neither true nor false", "protected_mode: no\n", `f.yaml:1:17: protected_mode: "no" is neither true nor false`},
		{"unknown level", "log:\n  level: loud\n", `f.yaml:2:10: log.level: unknown word "loud": one of debug, info, warn, error`},

		// Addresses.
		{"no listener", "listen: []\n", `f.yaml:1:9: listen names no address: nobody could connect`},
		{"no port", "listen: localhost\n", `f.yaml:1:9: listen[0]: "localhost" is not an address: expected host:port or unix:/path`},
		{"bad port", "listen: [127.0.0.1:1, 127.0.0.1:70000]\n", `f.yaml:1:23: listen[1]: "127.0.0.1:70000" is not an address: the port is a number from 0 to 65535`},
		{"no path", "listen: \"unix:\"\n", `f.yaml:1:9: listen[0]: unix: needs a path, as in unix:/run/nearside.sock`},
		{"long path", "listen: unix:/" + strings.Repeat("x", 107) + "\n", `f.yaml:1:9: listen[0]: the path of the socket is too long: 108 bytes, at most 107`},
		{"the same address", "listen: [127.0.0.1:1, 127.0.0.1:1]\n", `f.yaml:1:23: 127.0.0.1:1 is given twice`},
		{"admin on the same address", "listen: 127.0.0.1:1\nadmin: 127.0.0.1:1\n", `f.yaml:2:8: admin and listen name the same address, 127.0.0.1:1`},
		{"bad admin", "admin: 9380\n", `f.yaml:1:8: admin: "9380" is not an address: expected host:port`},
		{"admin by unix socket", "admin: unix:/x\n", `f.yaml:1:8: admin: "unix:/x" is not an address: the port is a number from 0 to 65535`},
		{"beyond loopback", "listen: [127.0.0.1:1, 0.0.0.0:2]\n", `f.yaml:1:23: 0.0.0.0:2 can be reached from other machines, and everybody there may do what nearside may: that needs default_user: none, so that clients must authenticate, or protected_mode: false`},
		{"admin beyond loopback", "admin: \":9380\"\n", `f.yaml:1:8: the admin address :9380 can be reached from other machines: that needs admin_token_file, or the environment's NEARSIDE_ADMIN_TOKEN`},

		// The origin. No error shows the URL.
		{"no scheme", "redis: 127.0.0.1:6379\n", `f.yaml:1:8: redis: this is not a URL: expected redis://[user:password@]host:port; special characters in a password are written as %XX`},
		{"other scheme", "redis: http://h\n", `f.yaml:1:8: redis: the origin is given as redis://host:port, rediss://host:port or unix:///path`},
		{"sentinel", "redis: redis+sentinel://h:1/main\n", `f.yaml:1:8: redis: redis+sentinel:// is not supported by this version: expected redis://, rediss:// or unix://`},
		{"no host", "redis: redis://\n", `f.yaml:1:8: redis: the URL names no host: expected redis://host:port`},
		{"no socket", "redis: unix://\n", `f.yaml:1:8: redis: the URL names no socket: expected unix:///path`},
		{"a database", "redis: redis://h:1/2\n", `f.yaml:1:8: redis: the URL names a database: locks.db and cache.db choose the databases`},
		{"bad port of the origin", "redis: redis://h:66379\n", `f.yaml:1:8: redis: the URL's port is a number from 1 to 65535`},
		{"bad parameter", "redis: rediss://h?skip_verify=maybe\n", `f.yaml:1:8: redis: the URL's skip_verify is true or false`},
		{"slash in a password", "redis: redis://u:sec/ret@h:1\n", `f.yaml:1:8: redis: this is not a URL: expected redis://[user:password@]host:port; special characters in a password are written as %XX`},
		{"at sign and slash in a password", "redis: redis://u:s@c/ret@h:1\n", `f.yaml:1:8: redis: this is not a URL: expected redis://[user:password@]host:port; special characters in a password are written as %XX`},
		{"a parameter", "redis: redis://h:1?max_retries=3\n", `f.yaml:1:8: redis: the URL has a parameter other than skip_verify; a question mark in a password is written as %3F`},
		{"a question mark in the password", "redis: redis://u:12?secret@h:1\n", `f.yaml:1:8: redis: the URL has a parameter other than skip_verify; a question mark in a password is written as %3F`},
		{"bad port with password", "redis: redis://u:secret@h:port\n", `f.yaml:1:8: redis: this is not a URL: expected redis://[user:password@]host:port; special characters in a password are written as %XX`},

		// Rules.
		{"no prefix", "cache:\n  rules:\n    - ttl: 1s\n", `f.yaml:3:7: cache.rules[0]: prefix is missing; the prefix "" means every key`},
		{"doubled prefix", "cache:\n  rules:\n    - prefix: a\n    - prefix: b\n    - prefix: a\n", `f.yaml:5:15: the cache rule "a" has the same prefix as the cache rule in line 3`},
		{"lock and cache", "locks:\n  rules:\n    - prefix: a\ncache:\n  rules:\n    - prefix: a\n", `f.yaml:6:15: the cache rule "a" has the same prefix as the lock rule in line 3`},
		{"cache and lock", "cache:\n  rules:\n    - prefix: a\nlocks:\n  rules:\n    - prefix: a\n", `f.yaml:6:15: the lock rule "a" has the same prefix as the cache rule in line 3`},
		{"reply larger than the cache takes", "cache:\n  rules:\n    - prefix: a\n      max_reply: 9MiB\n  memory: 64MiB\n", `f.yaml:4:18: max_reply (9MiB) is more than an eighth of cache.memory (64MiB)`},
		{"no reply", "cache:\n  rules:\n    - prefix: a\n      max_reply: 0\n", `f.yaml:4:18: cache.rules[0].max_reply: 0 is too small: at least 1 bytes`},
		{"unknown command", "cache:\n  rules:\n    - prefix: a\n      commands: [GET, GTE]\n", `f.yaml:4:23: cache.rules[0].commands[1]: unknown command GTE`},
		{"commands no list", "cache:\n  rules:\n    - prefix: a\n      commands: get\n", `f.yaml:4:17: cache.rules[0].commands must be a list: write [get]`},
		{"address that is a mapping", "tls: {listen: [{a: 1}]}\n", `f.yaml:1:16: tls.listen[0]: must be a single value`},
		{"a write", "cache:\n  rules:\n    - prefix: a\n      commands: [SET]\n", `f.yaml:4:18: cache.rules[0].commands[0]: answers to SET cannot be kept`},
		{"command twice", "cache:\n  rules:\n    - prefix: a\n      commands: [get, GET]\n", `f.yaml:4:23: cache.rules[0].commands[1]: GET is given twice`},
		{"no command", "cache:\n  rules:\n    - prefix: a\n      commands: []\n", `f.yaml:4:17: cache.rules[0].commands: the list is empty: leave it out to keep every read`},

		// Between values.
		{"slow ping", "cache:\n  ping: 2s\n  max_staleness: 1s\n", `f.yaml:2:9: cache.ping (2s) must be shorter than cache.max_staleness (1s)`},
		{"short bound", "cache:\n  max_staleness: 100ms\n", `f.yaml:2:18: cache.ping (100ms) must be shorter than cache.max_staleness (100ms)`},
		{"request above budget", "buffers: 32MiB\n", `f.yaml:1:10: max_request (64MiB) is more than buffers (32MiB), the budget of all sessions`},
		{"reply above budget", "reply_buffer: 256MiB\n", `f.yaml:1:15: reply_buffer (256MiB) is more than buffers (128MiB), the budget of all sessions`},
	}
	s := compiled(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := check(tt.text)
			if err == nil || err.Error() != tt.err {
				t.Errorf("got  %v\nwant %s", err, tt.err)
			}
			if beyond := beyondSchema.MatchString(tt.name + ": " + tt.err); (validate(s, []byte(tt.text)) == nil) != beyond {
				t.Errorf("an editor sees it: %t, want %t", beyond, !beyond)
			}
		})
	}
}

func TestValues(t *testing.T) {
	tests := []struct {
		name, text string
		get        func(*settings) any
		want       any
	}{
		{"one listener", "listen: 127.0.0.1:1\n", func(s *settings) any { return s.cfg.Listen }, []string{"127.0.0.1:1"}},
		{"listeners", "listen: [\"[::1]:1\", unix:/run/n.sock]\n", func(s *settings) any { return s.cfg.Listen }, []string{"[::1]:1", "unix:/run/n.sock"}},
		{"everywhere", "protected_mode: false\nlisten: \":1\"\n", func(s *settings) any { return s.cfg.Listen }, []string{":1"}},
		{"everywhere, with passwords", "default_user: none\nlisten: \":1\"\n", func(s *settings) any { return s.cfg.Listen }, []string{":1"}},
		{"no admin", "admin: \"\"\n", func(s *settings) any { return s.cfg.Admin }, ""},
		{"KiB", "cache:\n  memory: 2048KiB\n", func(s *settings) any { return s.cfg.Memory }, int64(2 << 20)},
		{"MiB", "cache:\n  memory: 1.5 MiB\n", func(s *settings) any { return s.cfg.Memory }, int64(3 << 19)},
		{"MB", "cache:\n  memory: 2MB\n", func(s *settings) any { return s.cfg.Memory }, int64(2_000_000)},
		{"GiB", "cache:\n  memory: 1GiB\n", func(s *settings) any { return s.cfg.Memory }, int64(1 << 30)},
		{"bytes", "cache:\n  memory: 1048576\n", func(s *settings) any { return s.cfg.Memory }, int64(1 << 20)},
		{"no fence", "cache:\n  fence: []\n", func(s *settings) any { return s.cfg.Fence }, []string{}},
		{"one fence", "cache:\n  fence: [locks]\n", func(s *settings) any { return s.cfg.Fence }, []string{"locks"}},
		{"deny", "deny: [debug, \"Config|SET\"]\n", func(s *settings) any { return s.cfg.Deny }, []string{"debug", "config|set"}},
		{"deny scripts", "deny: [flushall, Scripts]\n", func(s *settings) any { return s.cfg.Deny }, []string{"flushall", "eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"}},
		{"deny nothing", "deny: []\n", func(s *settings) any { return len(s.cfg.Deny) }, 0},
		{"idle never", "idle_timeout: 0\n", func(s *settings) any { return s.cfg.IdleTimeout }, time.Duration(0)},
		{"report", "report: 90s\n", func(s *settings) any { return s.cfg.Report }, 90 * time.Second},
		{"report never", "report: 0\n", func(s *settings) any { return s.cfg.Report }, time.Duration(never)},
		{"window", "window: 24h\n", func(s *settings) any { return s.cfg.Window }, 24 * time.Hour},
		{"touch by itself", "cache:\n  touch: auto\n", func(s *settings) any { return s.cfg.Touch }, time.Duration(0)},
		{"touch never", "cache:\n  touch: \"off\"\n", func(s *settings) any { return s.cfg.Touch }, time.Duration(never)},
		{"touch", "cache:\n  touch: 10s\n", func(s *settings) any { return s.cfg.Touch }, 10 * time.Second},
		{"slow", "slow: 500us\n", func(s *settings) any { return s.cfg.Slow }, 500 * time.Microsecond},
		{"never slow", "slow: 0\n", func(s *settings) any { return s.cfg.Slow }, time.Duration(never)},
		{"no latency", "observe:\n  latency: false\n", func(s *settings) any { return s.cfg.NoLatency }, true},
		{"latency", "observe:\n  latency: true\n", func(s *settings) any { return s.cfg.NoLatency }, false},
		{"password", "redis: rediss://u:p%40ss@h:1/0\n", func(s *settings) any { return s.cfg.Redis }, "rediss://u:p%40ss@h:1/0"},
		{"socket", "redis: unix:///run/redis.sock\n", func(s *settings) any { return s.cfg.Redis }, "unix:///run/redis.sock"},
		{"CRLF", "admin: \"\"\r\ncache:\r\n  db: 7\r\n", func(s *settings) any { return s.cfg.CacheDB }, 7},
		{
			"rule defaults", "cache:\n  ttl: 5s\n  memory: 4MiB\n  rules: [{prefix: \"\"}]\n", func(s *settings) any { return s.cfg.Rules },
			[]policy.Rule{{Kind: policy.CacheRule, ID: 1, TTL: 5 * time.Second, MaxReply: 512 << 10, Negative: true}},
		},
		{
			"rules", "cache:\n  rules:\n    - prefix: a\n      ttl: 1h\n      max_reply: 8KiB\n      negative: false\n      commands: [GET, hGetAll]\nlocks:\n  rules: [{prefix: \"a:lock\"}]\n",
			func(s *settings) any { return s.cfg.Rules },
			[]policy.Rule{
				{Kind: policy.CacheRule, Prefix: "a", ID: 1, TTL: time.Hour, MaxReply: 8 << 10, Commands: map[string]bool{"get": true, "hgetall": true}},
				{Kind: policy.LockRule, Prefix: "a:lock", ID: 2},
			},
		},
	}
	editor := compiled(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := check(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if got := tt.get(s); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %#v\nwant %#v", got, tt.want)
			}
			if err := validate(editor, []byte(tt.text)); err != nil {
				t.Errorf("an editor complains: %v", err)
			}
		})
	}
}

// The sample says what the defaults are, except where it shows something.
func TestSample(t *testing.T) {
	s, err := load(&options{})
	if err != nil {
		t.Fatal(err)
	}
	want := defaults().cfg
	want.MaxEntries = 10000
	if len(s.cfg.Rules) != 9 {
		t.Errorf("%d rules", len(s.cfg.Rules))
	}
	got := s.cfg
	got.Rules = nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if w := s.warnings(); len(w) > 0 {
		t.Errorf("the sample is warned about: %q", w)
	}
}

// What the sample shows in comments can be taken as it stands, but for its files.
func TestSampleComments(t *testing.T) {
	shown := 0
	for line := range strings.Lines(string(configs.Sample)) {
		text, ok := strings.CutPrefix(line, "# ")
		if !ok || !regexp.MustCompile(`^[a-z_]+: `).MatchString(text) {
			continue
		}
		shown++
		if _, err := parse("f.yaml", []byte(text)); err != nil && !strings.Contains(err.Error(), ": cannot read ") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if shown != 3 {
		t.Errorf("%d keys in comments, want redis_tls, tls and default_user", shown)
	}
}

// The parser takes an address in a list inside braces for a key and a value.
func TestAddressesInsideBraces(t *testing.T) {
	s := defaults()
	d := &decoder{file: "f.yaml", at: s.at}
	err := d.decode([]byte("tls: {listen: [127.0.0.1:1, \"[::1]:2\", unix:/x, localhost:3]}\n"), fieldsOf(s.keys()))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.cfg.TLS.Listen, " "); got != "127.0.0.1:1 [::1]:2 unix:/x localhost:3" {
		t.Error(got)
	}
}

// Every YAML file in configs is right.
func TestConfigs(t *testing.T) {
	files, err := filepath.Glob("../../configs/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if _, err := load(&options{config: f}); err != nil {
			t.Error(err)
		}
	}
}

func TestOverrides(t *testing.T) {
	s, err := check("listen: 127.0.0.1:1\nadmin: 127.0.0.1:2\nredis: redis://h\n",
		override{"listen", "127.0.0.1:3, unix:/x", "-listen"},
		override{"admin", "", "-admin"},
		override{"redis", "redis://other", "NEARSIDE_REDIS"})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.cfg.Listen, " ") + "|" + s.cfg.Admin + "|" + s.cfg.Redis; got != "127.0.0.1:3 unix:/x||redis://other" {
		t.Error(got)
	}

	for _, tt := range []struct {
		o   override
		err string
	}{
		{override{"listen", "127.0.0.1:1,x", "-listen"}, `-listen: "x" is not an address: expected host:port or unix:/path`},
		{override{"listen", "", "-listen"}, `-listen: "" is not an address: expected host:port or unix:/path`},
		{override{"listen", "0.0.0.0:1", "NEARSIDE_LISTEN"}, `NEARSIDE_LISTEN: 0.0.0.0:1 can be reached from other machines, and everybody there may do what nearside may: that needs default_user: none, so that clients must authenticate, or protected_mode: false`},
		{override{"admin", "0.0.0.0:1", "-admin"}, `-admin: the admin address 0.0.0.0:1 can be reached from other machines: that needs admin_token_file, or the environment's NEARSIDE_ADMIN_TOKEN`},
		{override{"redis", "", "-redis"}, `-redis: the origin is given as redis://host:port, rediss://host:port or unix:///path`},
	} {
		if _, err := check("admin: 127.0.0.1:2\n", tt.o); err == nil || err.Error() != tt.err {
			t.Errorf("got  %v\nwant %s", err, tt.err)
		}
	}
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, make([]byte, mostConfig+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		dir + "/none.yaml": "no such file or directory",
		dir:                "is a directory",
		large:              "it is larger than 1MiB",
	} {
		_, err := load(&options{config: name})
		if want := "cannot read the configuration " + name + ": " + want; err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestWarnings(t *testing.T) {
	for text, want := range map[string]string{
		"admin: \"\"\n":                                "warning: there are no cache rules: every read goes to Redis",
		"cache:\n  rules: [{prefix: \"a:*\"}]\n":       `f.yaml:2:20: warning: a prefix is not a pattern: the cache rule "a:*" matches only keys that hold the asterisk itself`,
		"cache:\n  link: none\n  rules: [{prefix: a}]": "f.yaml:2:9: warning: without a link nothing bounds staleness but each rule's ttl",
		"cache:\n  rules: [{prefix: a}]\n":             "",

		"deny: [flushall, debug, eval]\ncache:\n  rules: [{prefix: a}]\n": "f.yaml:1:7: warning: scripts and functions can still call flushall: add scripts to the list, or take the right away from the user at Redis (not denied: eval_ro, evalsha, evalsha_ro, fcall, fcall_ro)",
		"deny: [flushall, scripts]\ncache:\n  rules: [{prefix: a}]\n":     "",
		"deny: [debug, eval, monitor]\ncache:\n  rules: [{prefix: a}]\n":  "", // scripts cannot call these
	} {
		s, err := check(text)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := strings.Join(s.warnings(), "\n"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// Whatever a file holds: no crash, an error has a position and one line, and
// what is accepted keeps its bounds.
func FuzzConfig(f *testing.F) {
	files, err := filepath.Glob("../../configs/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("listen: [127.0.0.1:1\ncache: {ttl: 1s, ttl: 2s}\n"))
	f.Add([]byte("a: &a [*a, *a]\n<<: *a\n---\n? x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := check(string(data))
		if err != nil {
			var ce *configError
			if !errors.As(err, &ce) || strings.ContainsAny(err.Error(), "\r\n") {
				t.Fatalf("%T %q", err, err)
			}
			return
		}
		c := s.cfg
		if len(c.Listen)+len(c.TLS.Listen) == 0 || c.Memory < leastMemory || c.Ping >= c.MaxStaleness || c.LocksDB < 0 || c.CacheDB < 0 {
			t.Fatalf("%+v", c)
		}
		seen := map[string]bool{}
		for i, r := range c.Rules {
			if seen[r.Prefix] || r.ID != i+1 || r.Kind == policy.CacheRule && (r.TTL <= 0 || r.MaxReply <= 0) {
				t.Fatalf("%+v", r)
			}
			seen[r.Prefix] = true
		}
	})
}

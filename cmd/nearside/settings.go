package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"nearside/policy"
	"nearside/proxy"
)

const (
	miB = 1 << 20
	tiB = 1 << 40

	leastMemory = miB
	mostRequest = 512 * miB // Redis's own bound of one string

	defaultMaxReply = miB
)

// settings is a configuration on its way to a proxy.Config.
type settings struct {
	cfg       proxy.Config
	cacheTTL  time.Duration // of rules that name none
	rules     []*rule
	logLevel  string
	logFormat string
	at        map[string]place // where each value was given, by its dotted path
}

// rule is one rule and what its file said of it.
type rule struct {
	policy.Rule
	path     string // cache.rules[2]
	maxReply int64  // 0: not given
}

func defaults() *settings {
	return &settings{
		cfg: proxy.Config{
			Listen:            []string{"127.0.0.1:6380"},
			Admin:             "127.0.0.1:9380",
			Redis:             "redis://127.0.0.1:6379",
			ProtectedMode:     true,
			DefaultUser:       "origin",
			LocksDB:           0,
			CacheDB:           1,
			Memory:            64 * miB,
			MaxStaleness:      time.Second,
			Ping:              100 * time.Millisecond,
			Link:              "auto",
			KeyspaceEvents:    "check",
			Fence:             fenceWords,
			Refills:           128,
			Audit:             proxy.Audit{OneIn: 10000, PerSecond: 20},
			OriginTimeout:     5 * time.Second,
			OriginConnections: 2,
			MaxPinned:         4096,
			MaxClients:        10000,
			MaxRequest:        64 * miB,
			MaxOutstanding:    1024,
			ReplyBuffer:       miB,
			Buffers:           128 * miB,
			RequestTimeout:    time.Minute,
			WriteTimeout:      time.Minute,
			Report:            5 * time.Minute,
			Window:            time.Hour,
			Slow:              time.Second,
			Drain:             5 * time.Second,
		},
		cacheTTL:  time.Minute,
		logLevel:  "info",
		logFormat: "text",
		at:        map[string]place{},
	}
}

var fenceWords = []string{"locks", "scripts", "messages"}

// keys is the table of everything that a file may say.
func (s *settings) keys() fields {
	c := &s.cfg
	return fields{
		"listen":           addresses(&c.Listen),
		"admin":            text(adminAddress(&c.Admin)),
		"admin_token_file": text(readable(&c.AdminTokenFile)),
		"redis":            text(redisURL(&c.Redis)),
		"redis_tls": mapping(fields{
			"ca":                   text(readable(&c.RedisTLS.CA)),
			"cert":                 text(readable(&c.RedisTLS.Cert)),
			"key":                  text(readable(&c.RedisTLS.Key)),
			"server_name":          text(name(&c.RedisTLS.ServerName)),
			"insecure_skip_verify": scalar(boolean(&c.RedisTLS.InsecureSkipVerify)),
		}),
		"tls": mapping(fields{
			"listen":    addresses(&c.TLS.Listen),
			"cert":      text(readable(&c.TLS.Cert)),
			"key":       text(readable(&c.TLS.Key)),
			"client_ca": text(readable(&c.TLS.ClientCA)),
		}),
		"protected_mode": scalar(boolean(&c.ProtectedMode)),
		"default_user":   scalar(word(&c.DefaultUser, "origin", "none")),
		"deny":           s.deny(),

		"locks": mapping(fields{
			"db":    scalar(number(&c.LocksDB, 0, math.MaxInt32)),
			"rules": list(s.lockRule),
		}),
		"cache": mapping(fields{
			"db":              scalar(number(&c.CacheDB, 0, math.MaxInt32)),
			"ttl":             scalar(duration(&s.cacheTTL, false)),
			"memory":          scalar(size(&c.Memory, leastMemory, tiB)),
			"max_entries":     scalar(number(&c.MaxEntries, 0, math.MaxInt64)),
			"max_staleness":   scalar(duration(&c.MaxStaleness, false)),
			"ping":            scalar(duration(&c.Ping, false)),
			"link":            scalar(s.link),
			"keyspace_events": scalar(word(&c.KeyspaceEvents, "check", "set")),
			"fence":           s.fence(),
			"refills":         scalar(number(&c.Refills, 1, math.MaxInt32)),
			"touch":           scalar(touch(&c.Touch)),
			"audit": mapping(fields{
				"one_in":     scalar(number(&c.Audit.OneIn, 0, math.MaxInt64)),
				"per_second": scalar(number(&c.Audit.PerSecond, 1, math.MaxInt32)),
			}),
			"rules": list(s.cacheRule),
		}),

		"origin_timeout":     scalar(duration(&c.OriginTimeout, false)),
		"origin_connections": scalar(number(&c.OriginConnections, 1, 1024)),
		"max_pinned":         scalar(number(&c.MaxPinned, 1, math.MaxInt32)),

		"max_clients":     scalar(number(&c.MaxClients, 1, math.MaxInt32)),
		"max_request":     scalar(size(&c.MaxRequest, 1024, mostRequest)),
		"max_outstanding": scalar(number(&c.MaxOutstanding, 1, math.MaxInt32)),
		"reply_buffer":    scalar(size(&c.ReplyBuffer, 1024, tiB)),
		"buffers":         scalar(size(&c.Buffers, miB, tiB)),
		"request_timeout": scalar(duration(&c.RequestTimeout, false)),
		"write_timeout":   scalar(duration(&c.WriteTimeout, false)),
		"idle_timeout":    scalar(duration(&c.IdleTimeout, true)),

		"report": scalar(orNever(&c.Report)),
		"window": scalar(duration(&c.Window, false)),
		"slow":   scalar(s.slow),
		"observe": mapping(fields{
			"latency": scalar(s.latency),
		}),
		"drain": scalar(duration(&c.Drain, false)),

		"log": mapping(fields{
			"level":  scalar(word(&s.logLevel, "debug", "info", "warn", "error")),
			"format": scalar(word(&s.logFormat, "text", "json")),
		}),
	}
}

func addresses(dst *[]string) setter {
	var got []string
	each := listOrOne(text(listenAddress(func(a string) { got = append(got, a) })))
	return func(d *decoder, n ast.Node, path string) error {
		if err := each(d, n, path); err != nil {
			return err
		}
		*dst = got
		return nil
	}
}

func (s *settings) link(v string) error {
	return word(&s.cfg.Link, "auto", "tracking", "keyspace", "none")(v)
}

// never is what a duration is that switches something off.
const never = -1

// orNever parses a duration; 0 is never.
func orNever(dst *time.Duration) func(string) error {
	parse := duration(dst, true)
	return func(v string) error {
		err := parse(v)
		if err == nil && *dst == 0 {
			*dst = never
		}
		return err
	}
}

// touch parses auto, off or an interval.
func touch(dst *time.Duration) func(string) error {
	return func(v string) error {
		switch v {
		case "auto":
			*dst = 0
		case "off":
			*dst = never
		default:
			if duration(dst, false)(v) != nil || *dst < time.Second {
				return fmt.Errorf("%q is neither auto nor off nor a duration of at least 1s", v)
			}
		}
		return nil
	}
}

// slow is how long a command may take; microseconds make sense here, and 0 switches it off.
func (s *settings) slow(v string) error {
	switch d, err := time.ParseDuration(v); {
	case err != nil:
		return duration(&s.cfg.Slow, true)(v) // says what is wrong with it
	case d == 0:
		s.cfg.Slow = never
	case d < time.Microsecond:
		return fmt.Errorf("%s is too short: at least 1us", v)
	default:
		s.cfg.Slow = d
	}
	return nil
}

func (s *settings) latency(v string) error {
	var on bool
	err := boolean(&on)(v)
	s.cfg.NoLatency = !on
	return err
}

func (s *settings) fence() setter {
	got := []string{} // an empty list is no fence at all
	return func(d *decoder, n ast.Node, path string) error {
		err := list(scalar(func(v string) error {
			var w string
			if err := word(&w, fenceWords...)(v); err != nil {
				return err
			}
			got = append(got, w)
			return nil
		}))(d, n, path)
		s.cfg.Fence = got
		return err
	}
}

// allScripts stands in deny for scriptRunners, the commands that run a script or a function.
const allScripts = "scripts"

var scriptRunners = []string{"eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"}

// commandNamed finds "name" or "name|sub".
func commandNamed(name string) *policy.Command {
	container, sub, isSub := strings.Cut(name, "|")
	args := [][]byte{[]byte(container)}
	if isSub {
		args = append(args, []byte(sub))
	}
	if c := policy.Lookup(args); c != nil && c.Name == name {
		return c
	}
	return nil
}

func (s *settings) deny() setter {
	return func(d *decoder, n ast.Node, path string) error {
		var got []string
		err := list(scalar(func(v string) error {
			name := strings.ToLower(v)
			names := []string{name}
			if name == allScripts {
				names = scriptRunners
			} else if commandNamed(name) == nil {
				return fmt.Errorf("unknown command %s", strings.ToUpper(v))
			}
			for _, name := range names {
				if slices.Contains(got, name) {
					return fmt.Errorf("%s is given twice", v)
				}
			}
			got = append(got, names...)
			return nil
		}))(d, n, path)
		s.cfg.Deny = got
		return err
	}
}

func (s *settings) lockRule(d *decoder, n ast.Node, path string) error {
	r := &rule{Rule: policy.Rule{Kind: policy.LockRule}, path: path}
	s.rules = append(s.rules, r)
	return r.decode(d, n, fields{"prefix": text(r.prefix)})
}

func (s *settings) cacheRule(d *decoder, n ast.Node, path string) error {
	r := &rule{Rule: policy.Rule{Kind: policy.CacheRule, Negative: true}, path: path}
	s.rules = append(s.rules, r)
	return r.decode(d, n, fields{
		"prefix":         text(r.prefix),
		"ttl":            scalar(duration(&r.TTL, false)),
		"max_reply":      scalar(size(&r.maxReply, 1, math.MaxInt32)),
		"negative":       scalar(boolean(&r.Negative)),
		"commands":       r.commands(),
		"consistency":    scalar(r.consistency),
		"stale_if_error": scalar(duration(&r.StaleIfError, true)),
	})
}

func (r *rule) decode(d *decoder, n ast.Node, keys fields) error {
	if err := mapping(keys)(d, n, r.path); err != nil {
		return err
	}
	if _, ok := d.at[r.path+".prefix"]; !ok {
		return errors.New(`prefix is missing; the prefix "" means every key`)
	}
	return nil
}

func (r *rule) prefix(v string) error {
	r.Prefix = v
	return nil
}

func (r *rule) consistency(v string) error {
	var w string
	err := word(&w, "bounded", "fenced")(v)
	r.Fenced = w == "fenced"
	return err
}

func (r *rule) commands() setter {
	return func(d *decoder, n ast.Node, path string) error {
		r.Commands = map[string]bool{}
		err := list(scalar(func(v string) error {
			name := strings.ToLower(v)
			if err := keepable(name); err != nil {
				return err
			}
			if r.Commands[name] {
				return fmt.Errorf("%s is given twice", v)
			}
			r.Commands[name] = true
			return nil
		}))(d, n, path)
		if err == nil && len(r.Commands) == 0 {
			return errors.New("the list is empty: leave it out to keep every read")
		}
		return err
	}
}

// keepable says why no reply of a command can be kept. A read that newer
// versions of Redis have is not known here and is not kept either.
func keepable(name string) error {
	c := policy.Lookup([][]byte{[]byte(name)})
	switch {
	case c == nil:
		return fmt.Errorf("unknown command %s", strings.ToUpper(name))
	case !c.Cache:
		return fmt.Errorf("answers to %s cannot be kept", strings.ToUpper(name))
	}
	return nil
}

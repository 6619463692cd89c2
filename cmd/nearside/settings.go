package main

import (
	"errors"
	"fmt"
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
	s := &settings{at: map[string]place{}}
	apply(s.keys())
	return s
}

var fenceWords = []string{"locks", "scripts", "messages"}

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
	return r.decode(d, n, r.lockKeys())
}

func (s *settings) cacheRule(d *decoder, n ast.Node, path string) error {
	r := &rule{Rule: policy.Rule{Kind: policy.CacheRule}, path: path}
	s.rules = append(s.rules, r)
	apply(r.cacheKeys())
	return r.decode(d, n, r.cacheKeys())
}

func (r *rule) decode(d *decoder, n ast.Node, keys []key) error {
	if err := mapping(fieldsOf(keys))(d, n, r.path); err != nil {
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

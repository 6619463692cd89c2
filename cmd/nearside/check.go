package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"nearside/policy"
	"nearside/proxy"
)

// check finds what is wrong between values that are each right by themselves,
// and completes the rules.
func (s *settings) check() error {
	for _, check := range []func() error{s.checkAddresses, s.checkTLS, s.checkTimes, s.checkSizes, s.checkRules} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// fail is an error at the first of the paths that was given; the others have
// their defaults, which the reason names.
func (s *settings) fail(reason string, paths ...string) error {
	for _, p := range paths {
		if at, ok := s.at[p]; ok {
			return &configError{at, reason}
		}
	}
	return &configError{place{source: "defaults"}, reason}
}

func (s *settings) checkAddresses() error {
	c := &s.cfg
	if len(c.Listen) == 0 && len(c.TLS.Listen) == 0 {
		return s.fail("listen names no address: nobody could connect", "listen")
	}
	if err := s.checkListeners(c.Listen, "listen", nil, false); err != nil {
		return err
	}
	if err := s.checkListeners(c.TLS.Listen, "tls.listen", c.Listen, c.TLS.ClientCA != ""); err != nil {
		return err
	}
	if c.Admin == "" {
		return nil
	}
	for _, l := range []struct {
		path string
		list []string
	}{{"listen", c.Listen}, {"tls.listen", c.TLS.Listen}} {
		if slices.Contains(l.list, c.Admin) && !anyPort(c.Admin) {
			return s.fail(fmt.Sprintf("admin and %s name the same address, %s", l.path, c.Admin), "admin", l.path)
		}
	}
	return s.checkToken()
}

// checkToken: whoever can reach the admin address from elsewhere must show a token.
func (s *settings) checkToken() error {
	c := &s.cfg
	if c.AdminTokenFile != "" {
		if _, err := proxy.ReadToken(c.AdminTokenFile); err != nil {
			return s.fail(err.Error(), "admin_token_file")
		}
	}
	if c.AdminToken != "" {
		if err := proxy.CheckToken(c.AdminToken); err != nil {
			return s.fail(err.Error(), tokenVariable)
		}
	}
	if c.AdminTokenFile == "" && c.AdminToken == "" && !proxy.Loopback(c.Admin) {
		return s.fail(fmt.Sprintf("the admin address %s can be reached from other machines: that needs admin_token_file, or the environment's %s", c.Admin, tokenVariable), "admin")
	}
	return nil
}

// checkListeners looks at one list of addresses; taken are those of another one,
// and identified says that clients there show who they are.
func (s *settings) checkListeners(list []string, key string, taken []string, identified bool) error {
	for i, a := range list {
		path := key + "[" + strconv.Itoa(i) + "]"
		if (slices.Contains(list[:i], a) || slices.Contains(taken, a)) && !anyPort(a) {
			return s.fail(fmt.Sprintf("%s is given twice", a), path, key)
		}
		// As Redis's protected mode: a password would do.
		if s.cfg.ProtectedMode && s.cfg.DefaultUser != "none" && !identified && !proxy.Loopback(a) {
			return s.fail(fmt.Sprintf("%s can be reached from other machines, and everybody there may do what nearside may: that needs default_user: none, so that clients must authenticate, or protected_mode: false", a), path, key)
		}
	}
	return nil
}

// checkTLS: what belongs together must be there and fit.
func (s *settings) checkTLS() error {
	c := &s.cfg
	if _, given := s.at["redis_tls"]; given && !strings.HasPrefix(c.Redis, "rediss://") {
		return s.fail("redis_tls is of no use without a URL that begins with rediss://", "redis_tls")
	}
	if err := s.checkPair("redis_tls", c.RedisTLS.Cert, c.RedisTLS.Key); err != nil {
		return err
	}
	if err := s.checkCA("redis_tls.ca", c.RedisTLS.CA); err != nil {
		return err
	}
	if _, given := s.at["tls"]; !given {
		return nil
	}
	if len(c.TLS.Listen) == 0 {
		return s.fail("tls.listen names no address: nobody could connect by TLS", "tls.listen", "tls")
	}
	if c.TLS.Cert == "" {
		return s.fail("tls needs cert and key", "tls.key", "tls")
	}
	if err := s.checkPair("tls", c.TLS.Cert, c.TLS.Key); err != nil {
		return err
	}
	return s.checkCA("tls.client_ca", c.TLS.ClientCA)
}

func (s *settings) checkPair(key, cert, own string) error {
	if (cert == "") != (own == "") {
		return s.fail(key+".cert and "+key+".key need each other", key+".cert", key+".key")
	}
	if cert == "" {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(cert, own); err != nil {
		return s.fail(fmt.Sprintf("%s and %s: %s", cert, own, oneLine(err.Error())), key+".cert")
	}
	return nil
}

func (s *settings) checkCA(key, file string) error {
	if file == "" {
		return nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return s.fail(fmt.Sprintf("cannot read %s: %s", file, cause(err)), key)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(b) {
		return s.fail(file+" holds no certificate in PEM form", key)
	}
	return nil
}

// checkTimes: a proof that is asked for less often than it must be renewed
// would never hold.
func (s *settings) checkTimes() error {
	if s.cfg.Ping < s.cfg.MaxStaleness {
		return nil
	}
	return s.fail(fmt.Sprintf("cache.ping (%s) must be shorter than cache.max_staleness (%s)", s.cfg.Ping, s.cfg.MaxStaleness),
		"cache.ping", "cache.max_staleness")
}

func (s *settings) checkSizes() error {
	c := &s.cfg
	if c.MaxRequest > c.Buffers {
		return s.fail(fmt.Sprintf("max_request (%s) is more than buffers (%s), the budget of all sessions", sizeText(c.MaxRequest), sizeText(c.Buffers)),
			"max_request", "buffers")
	}
	if c.ReplyBuffer > c.Buffers {
		return s.fail(fmt.Sprintf("reply_buffer (%s) is more than buffers (%s), the budget of all sessions", sizeText(c.ReplyBuffer), sizeText(c.Buffers)),
			"reply_buffer", "buffers")
	}
	return nil
}

func (s *settings) checkRules() error {
	byPrefix := map[string]*rule{}
	for _, r := range s.inFileOrder() {
		at := s.at[r.path+".prefix"]
		if first := byPrefix[r.Prefix]; first != nil {
			return &configError{at, fmt.Sprintf("the %s rule %q has the same prefix as the %s rule in line %d",
				r.Kind, r.Prefix, first.Kind, s.at[first.path+".prefix"].line)}
		}
		byPrefix[r.Prefix] = r
		if r.Kind == policy.CacheRule {
			if err := s.complete(r); err != nil {
				return err
			}
		}
	}
	for i, r := range s.rules {
		r.ID = i + 1
		s.cfg.Rules = append(s.cfg.Rules, r.Rule)
	}
	return nil
}

// inFileOrder: locks and cache may stand in either order, and the later rule
// is the one that is too many.
func (s *settings) inFileOrder() []*rule {
	line := func(r *rule) place { return s.at[r.path+".prefix"] }
	return slices.SortedStableFunc(slices.Values(s.rules), func(a, b *rule) int {
		return (line(a).line-line(b).line)*1_000_000 + line(a).col - line(b).col
	})
}

// complete fills in what a cache rule does not say. No reply may take more
// than an eighth of the cache: it would drive out everything else.
func (s *settings) complete(r *rule) error {
	if r.TTL == 0 {
		r.TTL = s.cacheTTL
	}
	if r.Fenced && s.cfg.Link == "none" {
		return s.fail("consistency: fenced needs a link: without one nothing tells what was written elsewhere", r.path+".consistency")
	}
	most := s.cfg.Memory / 8
	if r.maxReply > most {
		return s.fail(fmt.Sprintf("max_reply (%s) is more than an eighth of cache.memory (%s)", sizeText(r.maxReply), sizeText(s.cfg.Memory)),
			r.path+".max_reply")
	}
	if r.maxReply == 0 {
		r.maxReply = min(defaultMaxReply, most)
	}
	r.MaxReply = int(r.maxReply)
	return nil
}

// warnings are about what is allowed and yet probably not meant.
func (s *settings) warnings() []string {
	var out []string
	caches := 0
	for _, r := range s.inFileOrder() {
		if r.Kind == policy.CacheRule {
			caches++
		}
		if n := len(r.Prefix); n > 0 && r.Prefix[n-1] == '*' {
			out = append(out, fmt.Sprintf("%s: warning: a prefix is not a pattern: the %s rule %q matches only keys that hold the asterisk itself",
				s.at[r.path+".prefix"], r.Kind, r.Prefix))
		}
	}
	if caches == 0 {
		out = append(out, "warning: there are no cache rules: every read goes to Redis")
	}
	if w := s.deniedToScripts(); w != "" {
		out = append(out, w)
	}
	if s.cfg.Link == "none" {
		out = append(out, fmt.Sprintf("%s: warning: without a link nothing bounds staleness but each rule's ttl", s.at["cache.link"]))
	}
	return out
}

// deniedToScripts warns of commands that deny names and scripts may call: Redis runs
// those, and what they call does not pass through nearside.
func (s *settings) deniedToScripts() string {
	var callable, runners []string
	for _, name := range s.cfg.Deny {
		if c := commandNamed(name); c != nil && !c.Flags.Has(policy.FlagNoScript) && !slices.Contains(scriptRunners, name) {
			callable = append(callable, name)
		}
	}
	for _, name := range scriptRunners {
		if !slices.Contains(s.cfg.Deny, name) {
			runners = append(runners, name)
		}
	}
	if len(callable) == 0 || len(runners) == 0 {
		return ""
	}
	return fmt.Sprintf("%s: warning: scripts and functions can still call %s: add scripts to the list, or take the right away from the user at Redis (not denied: %s)",
		s.at["deny"], strings.Join(callable, ", "), strings.Join(runners, ", "))
}

// anyPort: the kernel chooses the port, so two such addresses do not collide.
func anyPort(addr string) bool { return len(addr) > 2 && addr[len(addr)-2:] == ":0" }

package proxy

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
	"nearside/proxy/l1"
)

// tally is counted without the detour over the metrics' text.
func (n *nearside) tally() map[string]int {
	got := map[string]int{l1.Hit.String(): int(n.hits())}
	for miss, c := range n.m.misses {
		if c != nil {
			got[l1.Miss(miss).String()] = int(c.Get())
		}
	}
	for reason := range bypassReasons {
		got[reason.String()] = int(n.bypassed(reason))
	}
	return got
}

// foretold is how many random requests TestExplainForetells makes.
const foretold = 500

// What EXPLAIN says is what then happens, whatever the command: of the counters of hits, misses
// and bypasses that of its reason moves and no other. And it neither asks Redis nor counts.
func TestExplainForetells(t *testing.T) {
	redis := redistest.Start(t)
	gets := cacheRule("plain.", time.Hour)
	gets.Commands = map[string]bool{"get": true, "mget": true}
	n := start(t, redis, func(c *Config) { c.MaxStaleness, c.Rules = time.Minute, append(sampleRules(), gets) })
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all", "-pttl")
	sessions := map[string]*redistest.Client{}
	for name, before := range map[string][]string{
		"at 0": nil, "at 1": {"SELECT 1"}, "at 2": {"SELECT 2"}, "RESP3": {"HELLO 3"},
		"watching": {"WATCH some"}, "tracking": {"HELLO 3", "CLIENT TRACKING ON OPTIN"}, "bob": {"AUTH bob pw"},
	} {
		sessions[name] = n.dial()
		for _, command := range before {
			sessions[name].Do(strings.Fields(command)...)
		}
	}
	rnd := diffSeed(t)
	g := newRandomLines(diffScript(t), rnd)
	dbs := map[string]int{"at 1": 1, "at 2": 2}
	names := []string{"at 0", "at 0", "at 0", "at 1", "at 2", "RESP3", "watching", "tracking", "bob"}
	asked := func() (calls int) {
		for line := range strings.Lines(redis.Do("INFO", "commandstats")) {
			name, rest, _ := strings.Cut(line, ":")
			switch strings.TrimPrefix(name, "cmdstat_") {
			case "ping", "info", "config|get", "acl|list", "acl|getuser", "command|info": // the link's, the limits', the rights', and what an unknown name is
			case "hello", "auth", "select": // of the connections for that
			default:
				count, _, _ := strings.Cut(strings.TrimPrefix(rest, "calls="), ",")
				one, _ := strconv.Atoi(count)
				calls += one
			}
		}
		return calls
	}
	met := map[string]int{}
	var name string
	var l diffLine
	for range foretold {
		if name == "" || rnd.IntN(3) > 0 { // else once more, which may be a hit
			name = names[rnd.IntN(len(names))]
			l, _ = g.line(n.current().policy, dbs[name], false)
		}
		c, db := sessions[name], dbs[name]
		args := l.expand("", db)
		if len(args) > 2 && rnd.IntN(50) == 0 {
			args[1] += strings.Repeat("x", maxCachedRequest)
		}
		n.settleCache()
		if !n.link.Sync(redistest.Timeout, nil) { // what Redis has to tell of the last command
			t.Fatal("the link is down")
		}
		before := n.tally()
		calls := asked()
		reason := explained(c, "reason", args...)
		if len(args) == 1 {
			reason = "" // that was a key
		}
		if now := asked(); now != calls {
			t.Errorf("%s: EXPLAIN %s asked Redis %d times", name, l.text, now-calls)
		}
		for other, count := range n.tally() {
			if count != before[other] {
				t.Errorf("%s: EXPLAIN %s is counted as %s", name, l.text, other)
			}
		}
		c.Send(args...)
		if reply := c.Read(); reason == "" || reason[0] == '-' || strings.Contains(reply, "wrong number of arguments") {
			continue
		}
		met[reason]++
		var d policy.Decision
		b := make([][]byte, len(args))
		for i := range args {
			b[i] = []byte(args[i])
		}
		n.current().policy.Decide(&d, db, b)
		counts := len(d.Keys) > 0 && d.Cmd.Flags.Has(policy.FlagReadonly) // GEORADIUS and SORT can write
		switch reason {
		case reasonLocal, reasonRefused, reasonWrite:
			counts = false
		}
		if counts {
			deadline := time.Now().Add(2 * time.Second)
			for n.tally()[reason] == before[reason] && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond)
			}
			if n.tally()[reason] == before[reason] {
				t.Errorf("%s: %s is not counted as %s", name, l.text, reason)
			}
		}
		for other, count := range n.tally() {
			if (other != reason || !counts) && count != before[other] {
				t.Errorf("%s: %s: EXPLAIN says %s; counted as %s", name, l.text, reason, other)
			}
		}
	}
	t.Logf("%v", met)
}

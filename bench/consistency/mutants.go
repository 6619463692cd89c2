package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"nearside/bench/internal/sources"
)

// A mutant is a nearside with a part of its reasoning taken out. It is built
// from patched copies (go build -overlay), so nothing in nearside is there for it.
type mutant struct {
	name  string
	edits []edit
	setup func(*Config) // conditions, all of them honest, under which it shows soon
	want  []string      // the kinds of violations by which it may be found
}

// edit replaces a text that stands in the file once.
type edit struct {
	file     string // from nearside's own directory
	old, new string
}

// evenly uses all keys alike, which leaves time for a stale one to be noticed
// before it is written again.
func evenly(keys int) func(*Config) {
	return func(cfg *Config) { cfg.Keys, cfg.Skew, cfg.Linear = keys, 1, 0 }
}

// rarely is for what happens seldom: many writes at Redis itself that somebody
// waits for.
func rarely(cfg *Config) {
	evenly(800)(cfg)
	cfg.Probers, cfg.ProbePause = 8, 0
}

// strongOn is many strong reads of a busy server.
func strongOn(server string, threads int) func(*Config) {
	return func(cfg *Config) {
		cfg.Mode, cfg.Strong, cfg.Server, cfg.Threads = Fenced, 20_000, server, threads
		cfg.Duration = 2 * time.Minute
	}
}

// raceWide makes the windows wide that the stamps close: news comes late, and so
// does any one reply. All writes go through one nearside.
func raceWide(cfg *Config) {
	cfg.LinkLag, cfg.Jitter = 40*time.Millisecond, 4*time.Millisecond
	cfg.Duration, cfg.Linear = 0, 20*time.Second
}

const (
	fileStamps = "proxy/l1/stamps.go"
	fileCache  = "proxy/l1/cache.go"
	fileFlight = "proxy/l1/flight.go"
	filePush   = "proxy/link/push.go"
	fileLink   = "proxy/link/link.go"
	fileSetUp  = "proxy/link/connect.go"
)

var mutants = []mutant{
	{
		name:  "loses one invalidation in a thousand",
		edits: []edit{{filePush, "s.l.cfg.Invalidate(Tracking, key)", "if s.l.count.keys.Load()%1000 != 0 {\n\t\ts.l.cfg.Invalidate(Tracking, key)\n\t}"}},
		setup: rarely, want: []string{kindBound, kindConvergence},
	},
	{
		name: "keeps and serves overtaken replies",
		edits: []edit{
			{fileCache, "case !c.Current(f.Stamp):", "case false:"},
			{fileCache, "case word != e.word, gen != e.gen, c.rules[e.rule].Load() != e.ruleGen:", "case false:"},
		},
		setup: evenly(160), want: []string{kindBound, kindOwnWrite, kindConvergence},
	},
	{
		name:  "ignores deadlines",
		edits: []edit{{fileCache, "case now >= e.Deadline:", "case now >= e.Deadline && e.Deadline < 0:"}},
		setup: evenly(160), want: []string{kindTTL},
	},
	{
		name: "does not flush when it reconnects",
		edits: []edit{
			{fileSetUp, `l.cfg.InvalidateAll(Gap, "link up")`, ""},
			{fileSetUp, `l.cfg.InvalidateAll(Gap, "link up, connections to other servers closed")`, ""},
		},
		setup: func(cfg *Config) {
			// Little is to be read while the link is down: it is forgotten anyway. And
			// the link waits the longer with a new attempt the sooner it is lost again.
			evenly(400)(cfg)
			cfg.ReadPause = time.Millisecond
			cfg.Warm, cfg.Between = 2500*time.Millisecond, 2500*time.Millisecond
			cfg.Faults, cfg.Only = true, []string{"cut link"}
		},
		want: []string{kindBound, kindConvergence},
	},
	{
		name:  "ignores fences",
		edits: []edit{{fileLink, "case need > l.passed.Load():", "case false && need > l.passed.Load():"}},
		setup: func(cfg *Config) {
			evenly(160)(cfg)
			cfg.LinkLag, cfg.Contenders = 20*time.Millisecond, 4
		},
		want: []string{kindGuarded, kindOwnWrite, kindMonotonic},
	},
	{
		name:  "takes what it holds for new enough under a fenced rule",
		edits: []edit{{"proxy/fresh.go", "s.synced = s.awaitLink(s.p.link.Sync)", "s.synced = true"}},
		setup: func(cfg *Config) {
			evenly(160)(cfg)
			cfg.Mode, cfg.LinkLag = Fenced, 5*time.Millisecond
		},
		want: []string{kindFenced, kindBound},
	},
	{
		name: "takes one PONG for a proof on io-threads, and does not wait for it with the next PING",
		edits: []edit{
			{"proxy/link/threads.go", "\tif t.on {\n\t\treturn t.steps\n\t}\n\treturn plainSteps", "\treturn plainSteps"},
			{"proxy/link/ping.go", "if !s.line.CompareAndSwap(false, true) {", "if false {"},
		},
		setup: strongOn("redis8", 4),
		want:  []string{kindFenced},
	},
	{
		name: "outdates a key before a write and not while it runs or after it",
		edits: []edit{
			{fileStamps, "func (s *stamps) BeginWrite(slot uint32) {\n\ts.words[slot%slots].Add(version + 1)", "func (s *stamps) BeginWrite(slot uint32) {\n\ts.words[slot%slots].Add(version)"},
			{fileStamps, "{ s.words[slot%slots].Add(version - 1) }", "{}"},
		},
		setup: raceWide, want: []string{kindLinear},
	},
	{
		name:  "has flights joined that were overtaken",
		edits: []edit{{fileFlight, "if old != nil && c.Current(old.stamp) {", "if old != nil {"}},
		setup: raceWide, want: []string{kindLinear},
	},
}

// patch writes the mutant's copies into dir, and the file that go build -overlay wants.
func (m *mutant) patch(dir string) (overlay string, err error) {
	texts := map[string]string{}
	for _, e := range m.edits {
		path := filepath.Join(sources.Dir(), filepath.FromSlash(e.file))
		text, ok := texts[path]
		if !ok {
			b, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return "", fmt.Errorf("mutant %q: %q stands in %s %d times, not once: nearside has changed, and so must the mutant", m.name, e.old, e.file, n)
		}
		texts[path] = strings.Replace(text, e.old, e.new, 1)
	}
	replace := map[string]string{}
	for path, text := range texts {
		at := filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[path] = at
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, b, 0o600)
}

// build builds the mutant.
func (m *mutant) build(ctx context.Context, dir string) (bin string, err error) {
	overlay, err := m.patch(dir)
	if err != nil {
		return "", err
	}
	bin = filepath.Join(dir, "nearside")
	return bin, sources.Build(ctx, bin, "-overlay", overlay)
}

// config is what the mutant is to be checked with.
func (m *mutant) config(bin string) Config {
	cfg := Defaults()
	cfg.Binary, cfg.StopEarly, cfg.Faults = bin, true, false
	cfg.AuditOneIn = 0 // it would take the rule out of the cache, and with it the chance for a second sign
	cfg.Warm, cfg.Duration = 0, time.Minute
	m.setup(&cfg)
	return cfg
}

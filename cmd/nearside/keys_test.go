package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/jsonschema-go/jsonschema"

	"nearside/configs"
	"nearside/proxy"
)

var update = flag.Bool("update", false, "write what is generated below configs")

const (
	referenceFile    = "../../configs/CONFIGURATION.md"
	schemaFile       = "../../configs/nearside.schema.json"
	genBegin, genEnd = "<!-- generated from cmd/nearside/keys.go: go test ./cmd/nearside -run Generated -update -->\n", "<!-- end of what is generated -->\n"
)

// schemaOf is the JSON Schema of a mapping with these keys.
func schemaOf(keys []key) schema {
	alone, words, below := nested(keys)
	properties := schema{}
	for _, k := range alone {
		properties[k.name] = k.schema()
	}
	for _, w := range words {
		properties[w] = schemaOf(below[w])
	}
	return schema{"type": "object", "additionalProperties": false, "properties": properties}
}

func (k *key) schema() schema {
	out := schema{"description": plain(k.what)}
	for name, v := range k.kind.schema {
		out[name] = v
	}
	if k.kind.each != nil {
		rule := schemaOf(k.kind.each)
		rule["required"] = []string{"prefix"}
		out["type"], out["items"] = "array", rule
	}
	if k.def != "" {
		var v any
		if err := yaml.Unmarshal([]byte(k.def), &v); err != nil {
			panic(err)
		}
		out["default"] = v
	}
	return out
}

// plain is a line of Markdown without its marks, for an editor.
func plain(line string) string {
	line = regexp.MustCompile(`\[([^\]]+)\]\([^)]+\)`).ReplaceAllString(line, "$1")
	return strings.NewReplacer("`", "", `\|`, "|").Replace(line)
}

// schemaText is configs/nearside.schema.json.
func schemaText(t *testing.T) []byte {
	t.Helper()
	s := schemaOf(defaults().keys())
	s["$schema"] = "http://json-schema.org/draft-07/schema#" // the one that editors know best
	s["title"] = "The configuration of nearside"
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(s); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// referenceText is the generated part of configs/CONFIGURATION.md.
func referenceText() string {
	var b strings.Builder
	row := func(name string, k *key) {
		def := k.none
		if k.def != "" {
			def = "`" + k.def + "`"
		}
		reload := ""
		if !reloads(name) {
			reload = "restart"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", name, k.kind.value, def, reload, k.what)
	}
	for _, sec := range defaults().sections() {
		fmt.Fprintf(&b, "\n### %s\n\n| key | value | default | reload | what |\n| --- | --- | --- | --- | --- |\n", sec.title)
		for _, k := range sec.keys {
			row(k.name, &k)
			for _, sub := range k.kind.each {
				row(k.name+"[]."+sub.name, &sub)
			}
		}
	}
	return b.String() + "\n"
}

// reloads tells whether a reload puts another value of the key into force.
func reloads(name string) bool {
	return name != "log.format" && !proxy.NeedsRestart(name)
}

// TestGenerated keeps the reference and the schema as the table of keys is.
func TestGenerated(t *testing.T) {
	reference, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(reference), genBegin)
	_, after, closed := strings.Cut(rest, genEnd)
	if !ok || !closed {
		t.Fatalf("%s has no place for the table", referenceFile)
	}
	for name, want := range map[string][]byte{
		schemaFile:    schemaText(t),
		referenceFile: []byte(before + genBegin + referenceText() + genEnd + after),
	} {
		if *update {
			if err := os.WriteFile(name, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, want) {
			t.Errorf("%s is not what the table of keys says; run go test ./cmd/nearside -run Generated -update", name)
		}
	}
}

// Each row says what there is to say, once.
func TestKeysSayEverything(t *testing.T) {
	seen := map[string]bool{}
	say := func(name string, k *key) {
		if seen[name] {
			t.Errorf("%s is there twice", name)
		}
		seen[name] = true
		if k.what == "" || k.kind.set == nil || k.kind.value == "" || k.kind.schema == nil == (k.kind.each == nil) {
			t.Errorf("%s does not say everything", name)
		}
		if k.def != "" && k.none != "" {
			t.Errorf("%s has two defaults", name)
		}
	}
	for _, k := range defaults().keys() {
		say(k.name, &k)
		if k.def == "" && k.none == "" {
			t.Errorf("%s has no default", k.name)
		}
		for _, sub := range k.kind.each {
			say(k.name+"[]."+sub.name, &sub)
			if sub.def == "" && sub.none == "" && sub.name != "prefix" {
				t.Errorf("%s[].%s has no default", k.name, sub.name)
			}
		}
	}
}

// A default here is the one that package proxy has for those who build a
// Config themselves: to a proxy without any, reloading these changes nothing.
func TestDefaultsAreTheProxys(t *testing.T) {
	want := defaults().cfg
	p, err := proxy.New(proxy.Config{
		// What the zero value of a Config means, and a file says otherwise.
		Admin: want.Admin, Redis: want.Redis, ProtectedMode: true, CacheDB: 1, KeyspaceEvents: "check",
		Audit: proxy.Audit{OneIn: want.Audit.OneIn},
	})
	if err != nil {
		t.Fatal(err)
	}
	if changes, err := p.Reload(want); err != nil || changes != nil {
		t.Errorf("%v %v", changes, err)
	}
}

func compiled(t testing.TB) *jsonschema.Resolved {
	t.Helper()
	b, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	s := new(jsonschema.Schema)
	if err := json.Unmarshal(b, s); err != nil {
		t.Fatal(err)
	}
	r, err := s.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// validate asks the schema as an editor does. What is no YAML is an error too.
func validate(schema *jsonschema.Resolved, text []byte) error {
	b, err := yaml.YAMLToJSON(text)
	if err != nil {
		return err
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	return schema.Validate(v)
}

// beyondSchema are the mistakes, by name and error, that a schema cannot see: what depends on other values or
// on the table of commands, what is a bound of a value with a unit, and fine print of YAML,
// addresses and URLs.
var beyondSchema = regexp.MustCompile(`a second document|unknown key "<<"|anchors|` +
	`(0s|500ns) is too short|1MB is too small|"20000000TiB" is not a size|iB is too large|"10ms" is neither|` +
	`unknown command [^|]*(\|[^|]+)?$|(KEYS|GET|scripts) is given twice$|cannot be kept|` +
	`names no address|70000" is not an address|the path of the socket|name the same address|can be reached|the URL('s| names a| has)|password: .*: this is not a URL|` +
	`has the same prefix|is more than|must be shorter`)

// Every sample, and every block of the documents that shows a configuration, is
// right to an editor.
func TestSchemaTakesSamples(t *testing.T) {
	s := compiled(t)
	files := []string{"../../configs/nearside.yaml", "../../configs/kubernetes/sidecar/nearside.yaml"}
	texts := map[string][]byte{"the built-in sample": configs.Sample}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = b
	}
	for _, name := range []string{"../../README.md", referenceFile, "../../configs/MIGRATING.md"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range regexp.MustCompile("(?m)^```yaml\n((?:[^`].*\n|\n)*)```$").FindAllSubmatch(b, -1) {
			texts[fmt.Sprintf("%s, block %d", name, i+1)] = m[1]
		}
	}
	if len(texts) != 7 {
		t.Errorf("%d configurations found", len(texts))
	}
	for name, text := range texts {
		if err := validate(s, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Nobody forgets a new sample: what lies in configs and nearside would take is among them.
	all, err := filepath.Glob("../../configs/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	below, err := filepath.Glob("../../configs/*/*/nearside.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(all, below...) {
		if !slices.Contains(files, name) {
			t.Errorf("%s is not checked", name)
		}
	}
}

package configs_test

import (
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

var (
	matcher  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)(=~|!~|!=|=)"([^"]*)"`)
	grouping = regexp.MustCompile(`\b(by|without|on|ignoring)\s*\(([^)]*)\)`)
	window   = regexp.MustCompile(`\[[^\]]*\]`)
	selector = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{([^}]*)\})?(\s*\()?`)
	numbers  = regexp.MustCompile(`\b\d[0-9.e]*\b`)
)

// Labels that Prometheus gives to everything it scrapes.
var scraped = []string{"job", "instance"}

var operators = []string{"and", "or", "unless", "bool", "offset"}

// unknown lists what an expression names and nearside does not have: metrics,
// their labels, and values of labels that are asked for by "=".
func unknown(known map[string]metric, expr string) (wrong []string) {
	var groups []string
	for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
		for name := range strings.SplitSeq(g[2], ",") {
			groups = append(groups, strings.TrimSpace(name))
		}
	}
	text := grouping.ReplaceAllString(window.ReplaceAllString(expr, ""), "")
	labels := slices.Clone(scraped)
	metrics := 0
	for _, s := range selector.FindAllStringSubmatch(numbers.ReplaceAllString(text, ""), -1) {
		name := s[1]
		if s[3] != "" || slices.Contains(operators, name) {
			continue // a function; promtool knows them
		}
		if name == "up" { // Prometheus's own
			metrics++
			continue
		}
		m, ok := known[name]
		if !ok {
			wrong = append(wrong, name)
			continue
		}
		metrics++
		for label := range m.values {
			labels = append(labels, label)
		}
		for _, l := range matcher.FindAllStringSubmatch(s[2], -1) {
			switch {
			case slices.Contains(scraped, l[1]):
			case m.values[l[1]] == nil:
				wrong = append(wrong, fmt.Sprintf("%s{%s}", name, l[1]))
			case l[2] == "=" && !m.values[l[1]][l[3]]:
				wrong = append(wrong, fmt.Sprintf("%s{%s=%q}", name, l[1], l[3]))
			}
		}
	}
	if metrics == 0 && len(wrong) == 0 {
		return []string{"it names no metric"}
	}
	for _, g := range groups {
		if !slices.Contains(labels, g) {
			wrong = append(wrong, "label "+g)
		}
	}
	return wrong
}

func TestUnknown(t *testing.T) {
	known := map[string]metric{
		"a_total": {map[string]map[string]bool{"reason": {"x": true}}},
		"b":       {map[string]map[string]bool{}},
	}
	tests := []struct{ expr, want string }{
		{`sum by (reason) (rate(a_total{reason="x", job=~"$job"}[5m])) / b > 0.8`, ""},
		{`2 * b + 128 * 1024 and 1e3 < b or b`, ""},
		{`rate(a[$__rate_interval]) / b`, "a"},
		{`sum(c) + d{reason="x"}`, "c, d"},
		{`a_total{reason="y"}`, `a_total{reason="y"}`},
		{`a_total{reason=~"y"}`, ""},
		{`b{reason="x"}`, "b{reason}"},
		{`sum by (prefix, instance) (b)`, "label prefix"},
		{`1 > 0`, "it names no metric"},
	}
	for _, tt := range tests {
		if got := strings.Join(unknown(known, tt.expr), ", "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.expr, got, tt.want)
		}
	}
}

// needProcess skips where the process metrics, which some expressions need,
// are not to be had.
func needProcess(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("process metrics come from /proc")
	}
}

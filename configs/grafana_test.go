package configs_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

const dashboardFile = "grafana/nearside.json"

type dashboard struct {
	Title         string `json:"title"`
	UID           string `json:"uid"`
	SchemaVersion int    `json:"schemaVersion"`
	Templating    struct {
		List []struct {
			Name       string `json:"name"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type panel struct {
	ID         int            `json:"id"`
	Type       string         `json:"type"`
	Title      string         `json:"title"`
	Datasource map[string]any `json:"datasource"`
	GridPos    struct {
		X, Y, W, H int
	} `json:"gridPos"`
	Targets []struct {
		RefID        string         `json:"refId"`
		Expr         string         `json:"expr"`
		LegendFormat string         `json:"legendFormat"`
		Datasource   map[string]any `json:"datasource"`
	} `json:"targets"`
}

func load(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	if d.Title == "" || d.UID == "" || d.SchemaVersion == 0 || len(d.Panels) == 0 {
		t.Fatalf("this is no dashboard: %+v", d)
	}
	return d
}

var (
	legendLabel = regexp.MustCompile(`\{\{(\w+)\}\}`)
	variable    = regexp.MustCompile(`\$\{?(\w+)`)
)

func TestDashboardKnowsItsMetrics(t *testing.T) {
	needProcess(t)
	known, d := exported(t), load(t)
	labels := map[string]bool{"job": true, "instance": true}
	for _, m := range known {
		for l := range m.values {
			labels[l] = true
		}
	}
	variables := map[string]bool{"__rate_interval": true, "__range": true}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
		if m := regexp.MustCompile(`^label_values\((.*), \w+\)$`).FindStringSubmatch(v.Definition); m != nil {
			if w := unknown(known, m[1]); w != nil {
				t.Errorf("%s: unknown: %v", v.Name, w)
			}
		}
	}
	for _, p := range d.Panels {
		for _, x := range p.Targets {
			if w := unknown(known, x.Expr); w != nil {
				t.Errorf("%s: unknown: %s", p.Title, strings.Join(w, ", "))
			}
			for _, m := range legendLabel.FindAllStringSubmatch(x.LegendFormat, -1) {
				if !labels[m[1]] {
					t.Errorf("%s: no series has the label %s", p.Title, m[1])
				}
			}
			for _, m := range variable.FindAllStringSubmatch(x.Expr+fmt.Sprint(x.Datasource), -1) {
				if !variables[m[1]] {
					t.Errorf("%s: there is no variable %s", p.Title, m[1])
				}
			}
		}
	}
}

// What Grafana would draw over each other, or not at all.
func TestDashboardLayout(t *testing.T) {
	ids, taken := map[int]string{}, map[[2]int]string{}
	for _, p := range load(t).Panels {
		if other, ok := ids[p.ID]; ok {
			t.Errorf("%s and %s have the same id", p.Title, other)
		}
		ids[p.ID] = p.Title
		if g := p.GridPos; g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("%s: %+v", p.Title, g)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok {
					t.Fatalf("%s lies over %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		refs := map[string]bool{}
		for _, x := range p.Targets {
			if refs[x.RefID] || x.RefID == "" {
				t.Errorf("%s: refId %q", p.Title, x.RefID)
			}
			refs[x.RefID] = true
		}
		if len(refs) == 0 || p.Datasource["uid"] != "${datasource}" {
			t.Errorf("%s asks nothing, or somebody else: %v", p.Title, p.Datasource)
		}
	}
}

// promtool reads the expressions as those of rules.
func TestDashboardExpressions(t *testing.T) {
	promtool := checker(t, "promtool")
	var b strings.Builder
	b.WriteString("groups:\n  - name: panels\n    rules:\n")
	n := 0
	add := func(expr string) {
		n++
		fmt.Fprintf(&b, "      - {record: 'panel:%d', expr: %q}\n", n, strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h").Replace(expr))
	}
	for _, p := range load(t).Panels {
		for _, x := range p.Targets {
			add(x.Expr)
		}
	}
	if out, err := output(t, promtool, "check", "rules", write(t, "panels.yaml", b.String())); err != nil || !strings.Contains(out, fmt.Sprintf("%d rules found", n)) {
		t.Error(out)
	}
	add("sum(rate(nearside_clients[$__rate_interval])")
	if out, err := output(t, promtool, "check", "rules", write(t, "panels.yaml", b.String())); err == nil {
		t.Errorf("a parenthesis that is missing is not missed: %s", out)
	}
}

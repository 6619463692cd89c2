package configs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

const (
	rulesFile = "prometheus/nearside.rules.yaml"
	rulesTest = "prometheus/nearside.rules_test.yaml"
)

type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func alerts(t *testing.T) []alert {
	t.Helper()
	var f struct {
		Groups []struct {
			Name  string  `yaml:"name"`
			Rules []alert `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.UnmarshalWithOptions([]byte(read(t, rulesFile)), &f, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	var all []alert
	for _, g := range f.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("there are no alerts")
	}
	return all
}

func TestAlertsKnowTheirMetrics(t *testing.T) {
	needProcess(t)
	known := exported(t)
	for _, a := range alerts(t) {
		if w := unknown(known, a.Expr); w != nil {
			t.Errorf("%s: unknown: %s", a.Alert, strings.Join(w, ", "))
		}
		if a.Labels["severity"] == "" || a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s: it does not say how bad it is, what it is or what to do", a.Alert)
		}
	}
}

// The README tells of each.
func TestAlertsAreDocumented(t *testing.T) {
	readme := read(t, "../README.md")
	for _, a := range alerts(t) {
		if !strings.Contains(readme, "`"+a.Alert+"`") {
			t.Errorf("%s is not in the README", a.Alert)
		}
	}
}

// What the README shows is a configuration of Prometheus that finds the rules.
func TestPrometheusConfiguration(t *testing.T) {
	promtool := checker(t, "promtool")
	_, text, ok := strings.Cut(read(t, "../README.md"), "```yaml\n# prometheus.yml\n")
	if !ok {
		t.Fatal("the README does not show one")
	}
	text, _, _ = strings.Cut(text, "```")
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	for name, text := range map[string]string{
		token:                                "0123456789abcdef",
		filepath.Join(dir, "prometheus.yml"): replaced(t, text, "/etc/prometheus/nearside_token", token),
		filepath.Join(dir, "nearside.rules.yaml"): read(t, rulesFile),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := output(t, promtool, "check", "config", filepath.Join(dir, "prometheus.yml")); err != nil || !strings.Contains(out, "1 rule files found") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestAlertsFire(t *testing.T) {
	promtool := checker(t, "promtool")
	if out, err := output(t, promtool, "check", "rules", rulesFile); err != nil {
		t.Fatal(out)
	}
	if out, err := output(t, promtool, "test", "rules", rulesTest); err != nil {
		t.Fatal(out)
	}
	// Each of them is tested: an alert that is gone is missed.
	rules, test := read(t, rulesFile), read(t, rulesTest)
	for _, a := range alerts(t) {
		dir := t.TempDir()
		for name, text := range map[string]string{
			rulesFile: replaced(t, rules, "alert: "+a.Alert+"\n", "alert: Another\n"),
			rulesTest: test,
		} {
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := output(t, promtool, "test", "rules", filepath.Join(dir, filepath.Base(rulesTest))); err == nil {
			t.Errorf("nobody misses %s: %s", a.Alert, out)
		}
	}
}

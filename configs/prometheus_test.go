package configs_test

import (
	"os"
	"path/filepath"
	"regexp"
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

const metricsDocument = "proxy/metrics/METRICS.md"

// The document tells of each, and of no other.
func TestAlertsAreDocumented(t *testing.T) {
	text := read(t, "../"+metricsDocument)
	known := map[string]bool{}
	for _, a := range alerts(t) {
		known[a.Alert] = true
		if !strings.Contains(text, "\n| `"+a.Alert+"` | ") {
			t.Errorf("%s has no row in %s", a.Alert, metricsDocument)
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(Nearside[A-Za-z]+)` ").FindAllStringSubmatch(text, -1) {
		if !known[m[1]] {
			t.Errorf("%s tells of %s, which does not exist", metricsDocument, m[1])
		}
	}
}

// What the document shows are configurations of Prometheus that find the rules.
func TestPrometheusConfiguration(t *testing.T) {
	promtool := checker(t, "promtool")
	shown := 0
	for _, b := range blocks(t, metricsDocument) {
		if strings.HasPrefix(b.text, "# prometheus.yml") {
			shown++
			// Debian's promtool knows nothing of Kubernetes; all else is checked.
			checkPrometheus(t, promtool, strings.Replace(b.text, "kubernetes_sd_configs: [{role: pod}]", "static_configs: [{targets: [here]}]", 1))
		}
	}
	if shown != 2 {
		t.Errorf("%d configurations are shown, want that of any machine and that of Kubernetes", shown)
	}
}

func checkPrometheus(t *testing.T, promtool, text string) {
	t.Helper()
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

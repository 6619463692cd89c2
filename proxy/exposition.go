package proxy

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/VictoriaMetrics/metrics"
)

// write writes everything in Prometheus's text form: the families in the
// order of their names, each with what it means and its series.
//
// The library can say of what type its metrics are, by a switch for the whole
// process, but not what they mean, and takes a counter that is read off
// elsewhere for a gauge. So its own words are dropped and families' put in.
func (m *meters) write(w io.Writer) {
	var text bytes.Buffer
	m.set.WritePrometheus(&text)
	m.latency.write(&text)
	metrics.WriteProcessMetrics(&text)
	writeFamilies(w, text.String())
}

// writeFamilies groups series by family and says what each is.
func writeFamilies(w io.Writer, text string) {
	type group struct {
		*family
		series []string
	}
	groups := map[string]*group{}
	var sorted []*group
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		name := line[:max(0, strings.IndexAny(line, "{ "))]
		if name == "" || line[0] == '#' {
			continue
		}
		if better, ok := renamed[name]; ok {
			line, name = better+line[len(name):], better
		}
		f := familyOf(name)
		g := groups[f.name]
		if g == nil {
			g = &group{family: f}
			groups[f.name] = g
			sorted = append(sorted, g)
		}
		g.series = append(g.series, line)
	}
	slices.SortFunc(sorted, func(a, b *group) int { return cmp.Compare(a.name, b.name) })
	out := bufio.NewWriter(w)
	for _, g := range sorted {
		fmt.Fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", g.name, g.help, g.name, g.kind)
		for _, line := range g.series {
			fmt.Fprintln(out, line)
		}
	}
	_ = out.Flush() // whoever asked is gone
}

// familyOf finds the family of a series by its name. A newer version of the library,
// or another system, may have some that the table lacks.
func familyOf(name string) *family {
	if f := familyByName[name]; f != nil {
		return f
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			if f := familyByName[base]; f != nil && (f.kind == histogramKind || f.kind == summaryKind) {
				return f
			}
		}
	}
	kind := gauge
	if strings.HasSuffix(name, "_total") {
		kind = counter
	}
	return &family{name, kind, "As the metrics library has it."}
}

// labelValue quotes a value as Prometheus's text form wants it, which knows
// fewer escapes than Go. Bytes that are no UTF-8 are written out.
func labelValue(v string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i, r := range v {
		switch {
		case r == '\\' || r == '"':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n' || r == '\r' || r == 0:
			b.WriteString(map[rune]string{'\n': `\n`, '\r': `\\r`, 0: `\\0`}[r])
		case r == 0xFFFD && !strings.HasPrefix(v[i:], "\uFFFD"):
			b.WriteString(`\\x`)
			b.WriteByte("0123456789abcdef"[v[i]>>4])
			b.WriteByte("0123456789abcdef"[v[i]&15])
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

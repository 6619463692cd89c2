package main

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"text/tabwriter"
)

// columns are the figures that any case of the row has.
func (r *row) columns() []figure {
	var columns []figure
	for f := range figures {
		for _, s := range r.got {
			if s.measured(f) {
				columns = append(columns, f)
				break
			}
		}
	}
	return columns
}

// text is the row for a terminal.
func (r *row) text() string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	columns := r.columns()
	fmt.Fprint(w, "  ")
	for _, f := range columns {
		fmt.Fprintf(w, "\t%s", f)
	}
	fmt.Fprintln(w)
	for _, c := range r.cases {
		fmt.Fprintf(w, "  %s", c.name)
		for _, f := range columns {
			fmt.Fprintf(w, "\t%s", over(r.got[c.name].of(f)).short())
		}
		if err := r.failed[c.name]; err != nil {
			fmt.Fprintf(w, "\t%v", err)
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
	return b.String()
}

// markdown is the row for the report.
func (r *row) markdown() string {
	var b strings.Builder
	columns := r.columns()
	fmt.Fprintf(&b, "### %s\n\n", r.title)
	if r.repeat != "" {
		fmt.Fprintf(&b, "`%s`\n\n", r.repeat)
	}
	b.WriteString("| |")
	for _, f := range columns {
		fmt.Fprintf(&b, " %s |", f)
	}
	b.WriteString("\n|" + strings.Repeat(" --- |", len(columns)+1) + "\n")
	for _, c := range r.cases {
		fmt.Fprintf(&b, "| %s |", c.name)
		for _, f := range columns {
			fmt.Fprintf(&b, " %s |", over(r.got[c.name].of(f)).short())
		}
		b.WriteString("\n")
	}
	for _, c := range r.cases {
		if err := r.failed[c.name]; err != nil {
			fmt.Fprintf(&b, "\n%s: %v.\n", c.name, err)
		}
	}
	return b.String()
}

// short is the median with half the distance of the extremes in percent, or
// with the extremes themselves where that says more.
func (s spread) short() string {
	switch {
	case math.IsNaN(s.Mid):
		return "-"
	case s.Min == s.Max:
		return digits3(s.Mid)
	case s.Max-s.Min > 2*s.Mid:
		return fmt.Sprintf("%s (%s to %s)", digits3(s.Mid), digits3(s.Min), digits3(s.Max))
	default:
		return fmt.Sprintf("%s ±%.0f%%", digits3(s.Mid), 50*(s.Max-s.Min)/s.Mid)
	}
}

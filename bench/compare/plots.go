package main

import (
	"fmt"
	"image/color"
	"math"
	"path/filepath"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// colourOf gives every peer the same colour in all pictures, from those that can
// be told apart by people who see fewer of them; other cases take what is left.
func colourOf(name string, i int) color.Color {
	known := map[string]color.RGBA{
		"redis": {0x88, 0x88, 0x88, 0xff}, "nutcracker": {0x22, 0x99, 0x66, 0xff}, "haproxy": {0x77, 0x44, 0x99, 0xff},
		"redcon": {0x66, 0xaa, 0xdd, 0xff}, "nearside": {0xee, 0x77, 0x22, 0xff}, "direct": {0x88, 0x88, 0x88, 0xff},
	}
	if c, ok := known[name]; ok {
		return c
	}
	others := []color.RGBA{{0x33, 0x66, 0xaa, 0xff}, {0xbb, 0x33, 0x44, 0xff}, {0xcc, 0xaa, 0x33, 0xff}, {0x44, 0x44, 0x44, 0xff}}
	return others[i%len(others)]
}

// chart is one picture of the report.
type chart struct{ file, title string }

// charts draws what the rows allow, and names what it has drawn.
func (b *bench) charts(dir string) ([]chart, error) {
	var drawn []chart
	add := func(c chart, p *plot.Plot, err error) error {
		if err != nil || p == nil {
			return err
		}
		p.Title.Text = c.title
		p.BackgroundColor = color.White
		if err := p.Save(18*vg.Centimeter, 10*vg.Centimeter, filepath.Join(dir, c.file)); err != nil {
			return err
		}
		drawn = append(drawn, c)
		return nil
	}
	for _, c := range []struct {
		chart
		figure figure
		label  string
		rows   []string
	}{
		{chart{"throughput-1.svg", "Throughput, 50 connections, 1 deep"}, fRate, "requests per second", []string{"hit1", "pass1", "set1"}},
		{chart{"throughput-16.svg", "Throughput, 50 connections, 16 deep"}, fRate, "requests per second", []string{"hit16", "pass16", "set16"}},
		{chart{"cpu-1.svg", "Processor time of the peer itself, 1 deep"}, fCPU, "µs per request", []string{"hit1", "pass1", "set1"}},
		{chart{"cpu-16.svg", "Processor time of the peer itself, 16 deep"}, fCPU, "µs per request", []string{"hit16", "pass16", "set16"}},
		{chart{"connections.svg", "Throughput by connections (hit1: 50)"}, fRate, "requests per second", []string{"conns1", "hit1", "conns1000", "conns10000"}},
		{chart{"pipelines.svg", "Processor time by depth of the pipeline"}, fCPU, "µs per request", []string{"hit1", "hit16", "hit128"}},
		{chart{"values.svg", "Processor time by size of the value in bytes (hit1: 16)"}, fCPU, "µs per request", []string{"hit1", "value340", "value10240"}},
	} {
		p, err := b.bars(c.figure, c.label, c.rows)
		if err := add(c.chart, p, err); err != nil {
			return drawn, err
		}
	}
	for _, r := range b.rows {
		if len(r.curve) < 2 {
			continue
		}
		p, err := r.percentiles()
		if err := add(chart{"latency-" + r.name + ".svg", "Latency: " + r.name}, p, err); err != nil {
			return drawn, err
		}
	}
	return drawn, nil
}

// bars draws a figure of several rows, one group of bars each, if at least two
// of them were measured.
func (b *bench) bars(f figure, label string, rowNames []string) (*plot.Plot, error) {
	var rows []*row
	var cases []string
	for _, name := range rowNames {
		r := b.row(name)
		if r == nil {
			continue
		}
		rows = append(rows, r)
		for _, c := range r.cases {
			if r.got[c.name].measured(f) && !slices.Contains(cases, c.name) {
				cases = append(cases, c.name)
			}
		}
	}
	if len(rows) < 2 || len(cases) == 0 {
		return nil, nil
	}
	p := plot.New()
	p.Y.Label.Text = label
	p.Y.Min = 0
	p.Legend.Top = true
	width := vg.Points(220 / float64(len(rows)*len(cases)+1))
	for i, name := range cases {
		v := make(plotter.Values, len(rows))
		for j, r := range rows {
			if v[j] = over(r.got[name].of(f)).Mid; math.IsNaN(v[j]) {
				v[j] = 0
			}
		}
		bar, err := plotter.NewBarChart(v, width)
		if err != nil {
			return nil, err
		}
		bar.LineStyle.Width = 0
		bar.Color = colourOf(name, i)
		bar.Offset = width * vg.Length(float64(i)-float64(len(cases)-1)/2)
		p.Add(bar)
		p.Legend.Add(name, bar)
	}
	var labels []string
	for _, r := range rows {
		labels = append(labels, r.name)
	}
	p.NominalX(labels...)
	p.Y.Max *= 1.35 // room for the legend
	return p, nil
}

// percentiles draws the latencies of all rounds of a row: every tenfold step to
// the right has a tenth of the operations beyond it.
func (r *row) percentiles() (*plot.Plot, error) {
	p := plot.New()
	p.X.Label.Text = "percentile"
	p.Y.Label.Text = "µs"
	p.Y.Scale = plot.LogScale{}
	p.Y.Tick.Marker = plot.TickerFunc(logTicks)
	p.X.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "0"}, {Value: 1, Label: "90"}, {Value: 2, Label: "99"}, {Value: 3, Label: "99.9"}, {Value: 4, Label: "99.99"}}
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	for i, c := range r.cases {
		res := r.curve[c.name]
		if res == nil {
			continue
		}
		line, err := plotter.NewLine(curve(res.Latency[classRead]))
		if err != nil {
			return nil, err
		}
		line.Color = colourOf(c.name, i)
		line.Width = vg.Points(1.5)
		p.Add(line)
		p.Legend.Add(c.name, line)
	}
	p.X.Max += 0.1 // room for the last label
	return p, nil
}

// logTicks labels 1, 2 and 5 of every power of ten.
func logTicks(least, most float64) []plot.Tick {
	var ticks []plot.Tick
	for power := math.Pow(10, math.Floor(math.Log10(least))); power <= most; power *= 10 {
		for _, n := range []float64{1, 2, 5} {
			if v := n * power; v >= least && v <= most {
				ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprintf("%g", v)})
			}
		}
	}
	return ticks
}

// curve takes points up to where a percentile still stands on ten operations.
func curve(h *hdrhistogram.Histogram) plotter.XYs {
	last := min(math.Log10(float64(max(h.TotalCount(), 20))/10), 4)
	var xy plotter.XYs
	for x := 0.0; x <= last; x += 0.05 {
		y := float64(h.ValueAtPercentile(100*(1-math.Pow(10, -x)))) / 1e3
		xy = append(xy, plotter.XY{X: x, Y: max(y, 0.01)})
	}
	return xy
}

func (c chart) markdown() string { return fmt.Sprintf("![%s](%s)\n", c.title, c.file) }

package main

import (
	"bufio"
	"io"
	"slices"
	"strconv"
	"strings"
)

// parseMetrics adds up the named series, over their labels, of a Prometheus
// text. Without names it returns all.
func parseMetrics(r io.Reader, names ...string) (map[string]float64, error) {
	m := map[string]float64{}
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		line := in.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		name, _, _ := strings.Cut(line[:at], "{")
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, err
		}
		m[name] += v
	}
	return m, in.Err()
}

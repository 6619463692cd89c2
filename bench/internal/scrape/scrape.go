// Package scrape asks a nearside's admin address what it says of itself.
package scrape

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Series are values by name and labels, just as Prometheus's text has them.
type Series map[string]float64

// Metrics reads /metrics.
func Metrics(ctx context.Context, admin string) (Series, error) {
	var s Series
	err := get(ctx, admin, "/metrics", func(r io.Reader) (err error) { s, err = parse(r); return err })
	return s, err
}

// JSON reads the answer at path into v.
func JSON(ctx context.Context, admin, path string, v any) error {
	return get(ctx, admin, path, func(r io.Reader) error { return json.NewDecoder(r).Decode(v) })
}

func get(ctx context.Context, admin, path string, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+path, http.NoBody)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return read(res.Body)
}

func parse(r io.Reader) (Series, error) {
	s := Series{}
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		line := in.Text()
		at := strings.LastIndexByte(line, ' ') // labels may hold some, too
		if at < 0 || line[0] == '#' {
			continue
		}
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, err
		}
		s[line[:at]] = v
	}
	return s, in.Err()
}

// Sums adds up the named series, each over its labels. What is not there is missing.
func (s Series) Sums(names ...string) map[string]float64 {
	sums := map[string]float64{}
	for series, v := range s {
		if name, _, _ := strings.Cut(series, "{"); slices.Contains(names, name) {
			sums[name] += v
		}
	}
	return sums
}

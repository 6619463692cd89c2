package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// quickRow is one row of -quick.
type quickRow struct {
	name  string
	load  closedLoad
	peers []string // beside every nearside
}

const quickKeys = 1000

var quickRows = func() []quickRow {
	hit := []string{"GET", hotPrefix + "__rand_int__"}
	pass := []string{"GET", coldPrefix + "__rand_int__"}
	return []quickRow{
		{"pass1", closedLoad{50, 1, quickKeys, pass, 0}, []string{"redis", "nutcracker"}},
		{"hit1", closedLoad{50, 1, quickKeys, hit, 0}, []string{"redis", "redcon"}},
		{"hit16", closedLoad{50, 16, quickKeys, hit, 0}, []string{"redis", "redcon"}},
		{"pass16", closedLoad{50, 16, quickKeys, pass, 0}, []string{"redis", "nutcracker"}},
	}
}()

func pickQuick(names string) ([]quickRow, error) {
	var rows []quickRow
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(quickRows, func(r quickRow) bool { return r.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-quick %q: there are pass1, hit1, hit16, pass16", name)
		}
		rows = append(rows, quickRows[i])
	}
	return rows, nil
}

// quick compares the nearside binaries, given as name and path, with the peers
// of the rows.
func quick(ctx context.Context, out io.Writer, rows []quickRow, binaries []binary, rounds int, slice time.Duration) (map[string]map[string]series, error) {
	l, err := newLab()
	if err != nil {
		return nil, err
	}
	defer l.close()
	peers, err := quickPeers(l, rows, binaries)
	if err != nil {
		return nil, err
	}
	results := map[string]map[string]series{}
	counts := map[string]int{}
	for _, row := range rows {
		results[row.name] = map[string]series{}
		for _, p := range of(peers, row.peers) {
			n, err := calibrate(ctx, row.load, p, slice)
			if err != nil {
				return nil, fmt.Errorf("%s at %s: %w", row.name, p.name, err)
			}
			counts[row.name+p.name] = n
		}
	}
	for round := range rounds {
		for _, row := range rows {
			for _, p := range rotate(of(peers, row.peers), round) {
				s, err := measureClosed(ctx, row.load, p, counts[row.name+p.name])
				if err != nil {
					return nil, fmt.Errorf("%s at %s: %w", row.name, p.name, err)
				}
				results[row.name][p.name] = append(results[row.name][p.name], s)
			}
		}
	}
	for _, row := range rows {
		printQuick(out, row, of(peers, row.peers), results[row.name])
	}
	return results, nil
}

// quickPeers starts and fills what the rows need.
func quickPeers(l *lab, rows []quickRow, binaries []binary) ([]*peer, error) {
	redis, err := l.redis("redis")
	if err != nil {
		return nil, err
	}
	peers := []*peer{redis}
	needs := func(name string) bool {
		return slices.ContainsFunc(rows, func(r quickRow) bool { return slices.Contains(r.peers, name) })
	}
	for _, prefix := range []string{hotPrefix, coldPrefix} {
		if err := redis.seed(prefix, quickKeys, defaultSize); err != nil {
			return nil, err
		}
	}
	if needs("nutcracker") {
		p, err := l.nutcracker(redis)
		if err != nil {
			return nil, err
		}
		peers = append(peers, p)
	}
	if needs("redcon") {
		p, err := l.redcon()
		if err != nil {
			return nil, err
		}
		if err := p.seed(hotPrefix, 1, defaultSize); err != nil {
			return nil, err
		}
		peers = append(peers, p)
	}
	for _, b := range binaries {
		// Each has a Redis of its own, so that none pays for another's link.
		origin, err := l.redis("redis of " + b.name)
		if err != nil {
			return nil, err
		}
		p, err := l.nearside(b.name, b.path, origin, nil)
		if err != nil {
			return nil, err
		}
		for _, prefix := range []string{coldPrefix, hotPrefix} {
			if err := p.seed(prefix, quickKeys, defaultSize); err != nil {
				return nil, err
			}
		}
		peers = append(peers, p)
	}
	return peers, nil
}

// defaultSize of a value, in bytes: small, so that what is measured is the
// work for a request and not copying.
const defaultSize = 16

// of picks the named peers, and every nearside.
func of(peers []*peer, names []string) []*peer {
	var picked []*peer
	for _, p := range peers {
		if p.kind == kindNearside || slices.Contains(names, p.name) {
			picked = append(picked, p)
		}
	}
	return picked
}

func printQuick(out io.Writer, row quickRow, peers []*peer, got map[string]series) {
	fmt.Fprintf(out, "\n%s: %s\n", row.name, row.load.shell())
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "peer\trequests/s\tCPU µs/request\tRedis behind it µs")
	for _, p := range peers {
		s := got[p.name]
		origin := "-"
		if p.origin != nil {
			origin = over(s.of(fOriginCPU)).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.name, over(s.of(fRate)), over(s.of(fCPU)), origin)
	}
	for _, p := range peers {
		if p.kind != kindNearside {
			continue
		}
		for _, q := range peers {
			if q == p {
				continue
			}
			fmt.Fprintf(w, "%s / %s\t%s\t%s\t\n", p.name, q.name, ratio(got[p.name].of(fRate), got[q.name].of(fRate)), ratio(got[p.name].of(fCPU), got[q.name].of(fCPU)))
		}
	}
	_ = w.Flush()
}

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// scenario is a group of rows that share what they are measured on.
type scenario struct {
	name  string
	about string
	quick bool // part of "make bench", for the verdict or because it is quick
	run   func(ctx context.Context, b *bench) error
}

var scenarios = []scenario{
	{"hit", "hits at 50 connections, 1 and 16 deep", true, runHits},
	{"pass", "GET passed through, 1 and 16 deep", true, runPass},
	{"one", "one connection", true, runOne},
	{"set", "SET passed through", true, runSets},
	{"batch", "MGET of 10, HGETALL of 20 fields", true, runBatch},
	{"locks", "the lock cycle, alone and while the cache is saturated", true, runLocks},
	{"fences", "500 lock acquisitions per second beside hits", true, runFences},
	{"far", "an origin 0.5 ms away, 1 % writes", true, runFar},
	{"storm", "20,000 writes per second made elsewhere", true, runStorm},
	{"active", "10,000 connections with 1,000 active", true, runActive},
	{"keys", "1,000 and 1,000,000 keys", true, runKeys},
	{"observe", "what metrics, slow log, audit and touching cost", true, runObserve},
	{"memory", "of an entry, of a connection", true, runMemory},
	{"deep", "128 deep", false, runDeep},
	{"values", "340 B, 10 KB, 1 MB", false, runValues},
	{"connections", "1, 1,000 and 10,000 connections", false, runConnections},
	{"far-all", "0.25 and 0.5 ms away, 1 and 10 % writes", false, runFarAll},
	{"keys-all", "100,000 keys too", false, runKeysAll},
	{"flush", "FLUSHDB every second", false, runFlush},
	{"cold", "a cold start", false, runCold},
}

// pickScenarios by name; "" is the default subset, "all" every one.
func pickScenarios(list string) ([]scenario, error) {
	if list == "" {
		return slices.DeleteFunc(slices.Clone(scenarios), func(s scenario) bool { return !s.quick }), nil
	}
	if list == "all" {
		// What another scenario contains need not be run twice.
		return slices.DeleteFunc(slices.Clone(scenarios), func(s scenario) bool { return s.name == "far" || s.name == "keys" }), nil
	}
	var picked []scenario
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no scenario %q; there are %s", name, scenarioNames())
		}
		picked = append(picked, scenarios[i])
	}
	return picked, nil
}

func scenarioNames() string {
	var s []string
	for _, x := range scenarios {
		s = append(s, x.name)
	}
	return strings.Join(s, ", ")
}

package main

import (
	"fmt"
	"os"
	"testing"
)

// TestStrongReads wants no stale strong read where replies overtake invalidations: on servers with io-threads, and on one without,
// whose acknowledgements leave behind long replies.
func TestStrongReads(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	for _, on := range []struct {
		server  string
		threads int
	}{{"redis7", 1}, {"redis8", 4}, {"valkey8", 4}, {"valkey9", 2}, {"valkey9", 4}} {
		t.Run(fmt.Sprint(on.server, "/", on.threads), func(t *testing.T) {
			if _, err := serverProgram(on.server); err != nil && os.Getenv("NEARSIDE_SERVERS_REQUIRED") == "" {
				t.Skip(err)
			}
			cfg := Defaults()
			strongOn(on.server, on.threads)(&cfg)
			rep := runCheck(t, cfg)
			if n := rep.Violations(); n != 0 {
				t.Errorf("%d violations", n)
			}
			if rep.Hits[0] < 2000 {
				t.Errorf("%d hits: too few to tell anything", rep.Hits[0])
			}
		})
	}
}

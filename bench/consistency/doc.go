// Command consistency checks what nearside promises about staleness while it
// hurts everything around it.
//
// It builds nearside, starts a real redis-server and two nearsides, A and B, as
// processes, with a relay of its own between each nearside and Redis. Writers
// through A, through B and directly at Redis give every key growing versions;
// readers through both compare what they get with what they may get (model.go).
// Faults come in cycles (faults.go), each followed by a quiet moment in which
// every key must be the same everywhere. A separate phase has all writers on A
// and checks each key's history with porcupine (linear.go). Contenders for
// locks count their acquisitions at Redis (locks.go).
//
// The relay can also break nearside deliberately: swallow invalidations, let
// them arrive after the PONGs that vouch for them, or lie about PTTLs. Each of
// these must be found; a checker that cannot fail proves nothing.
//
//	go run ./consistency -cycles 100 -seed 7        the program, from bench
//	go run ./consistency -drop-push 1000 -faults=false -keys 800 -skew 1 -stop-early
//	go test -count=1 ./...                          each fault once, then each sabotage
//
// Without -count=1 go test may answer from its cache: it does not know that the
// nearside it builds has changed.
//
// What it cannot see: writes of unknown outcome. A key that has had one is
// given up, and only compared after quiet.
package main

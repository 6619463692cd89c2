// Command consistency checks what nearside promises about staleness while it
// hurts everything around it.
//
// It builds nearside, starts a real redis-server and two nearsides, A and B, as
// processes, with a relay of its own between each nearside and Redis (relay.go).
//
//	writers through A, through B, directly ──┐           every kind of write, growing versions    ways.go, writes.go
//	readers through A, through B ────────────┼── Redis   what they get, what they may get         readers.go, model.go
//	contenders for locks, all three ways ────┘           ledgers of acquisitions, guarded values  locks.go
//
// Faults come in cycles (faults.go, servers.go), each followed by a quiet moment
// in which every key must be the same everywhere (quiet.go). A separate phase
// has porcupine judge each key's history (linear.go). nearside's own auditor
// compares one hit in ten all the time and must find nothing.
//
// What is checked depends on the mode. With bounded rules: nothing older than
// what was written through the same nearside, than what the same client has seen
// by the same command, or than the bound; one nearside's clients see each key
// linearizably. With fenced rules: nothing older than what was acknowledged or
// seen by anybody anywhere before the question. Always: no value after its end,
// no value that never was, no half of a hash or of a pair written through A.
//
// A checker that cannot fail proves nothing. Broken nearsides are built from
// patched copies of the sources (mutants.go), and the relay can break an honest one:
// swallow invalidations, let them arrive after the PONGs that vouch for them, lie
// about PTTLs. Each must be found.
//
//	go run ./consistency -cycles 100 -seed 7                   from bench
//	go run ./consistency -mode fenced -only "cut link"         one fault
//	go run ./consistency -soak 1000                            groups side by side, all modes
//	go run ./consistency -scale all                            latencies, storms, a million TTLs (scale.go, lives.go)
//	go run ./consistency -drop-push 1000 -faults=false -keys 800 -skew 1 -stop-early
//	go run ./consistency -strong 1000000 -duration 1h -server redis8 -io-threads 4   strong reads alone, of a busy server (strong.go)
//	go run ./consistency -trials all                           the proof of freshness itself, without nearside (trials.go)
//	go test -count=1 ./consistency                             fifty cycles, then each mutant and each sabotage
//
// Without -count=1 go test may answer from its cache: it does not know that the
// nearside it builds has changed.
//
// Another Redis or Valkey than the one in PATH is named by -server; "make servers" unpacks them. With io-threads, and behind long replies,
// an acknowledgement leaves before the invalidations of its write. That shows only while the server is busy: -strong and -trials
// have writers in batches and slow commands beside what they look at.
//
// What it cannot see: writes of unknown outcome. A key that has had one is
// given up, and only compared after quiet. What befell all keys at once (a
// restart, SWAPDB, another server) is one version of each, and nobody writes
// while it happens.
package main

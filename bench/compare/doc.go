// Command compare measures nearside against what one would take instead: Redis
// itself, nutcracker and haproxy in front of it, a bare redcon server (the floor
// of nearside's design), the least that a server can do (the ceiling of what the
// load can show), and the caches of client libraries.
//
//	make bench                                      the default scenarios, the targets, bench/results
//	make bench ARGS=-all                            all scenarios
//	make bench ARGS='-run hit,locks -rounds 9'      some, printed only (-out DIR for a report)
//	make bench ARGS='-peer name=127.0.0.1:7000,4711'  another endpoint and its process beside the others
//	make bench-check                                CPU per request against the recorded ratios
//	go run ./compare -quick hit1,pass16 -nearside old=/tmp/a -nearside new=/tmp/b
//
// It starts everything itself, on free loopback ports, and ends it:
//
//	                     ┌─ redis-benchmark   closed loop: throughput, CPU per request
//	scenarios ── bench ──┼─ generator         open loop, one thread, epoll: latencies
//	  rows, cases        └─ embedded          a client library's cache, a process of its own
//	                          │
//	lab ── peers: redis, nutcracker, haproxy, redcon (floor), ceiling, nearside ══ Redis
//	                                                     relay: a slow network
//
// What keeps figures honest:
//
//   - A row asks one question and its cases are measured in turn, round by round,
//     in an order that rotates. Ratios are taken within a round, then the median.
//   - Every nearside has a Redis of its own, so that nobody else pays for its link.
//   - Latencies count from when a request was due, not from when it could be sent.
//     How late the generator was itself, and how much of the processors went to
//     strangers, stand beside them.
//   - A case with missing keys, error replies or replies that do not fit the
//     requests has no figures, and the run fails in the end.
package main

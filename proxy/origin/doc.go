// Package origin holds the connections to the Redis behind nearside.
//
// Promise: replies never mix, a dirty connection is never reused, and nothing
// is sent twice.
//
//	session ── Send ──▶ write buffer ── Flush ──▶ socket ──▶ Redis
//	        └─ entry ─▶ pending queue                          │
//	Sink.Reply ◀── reader: one goroutine, one scanner ◀── socket ◀┘
//
// # Why go-redis makes the connections but does not carry the requests
//
// go-redis parses the URL, dials, speaks TLS, authenticates and selects: all
// that is easily got wrong. Its client is also nearside's own: Control. After
// the handshake the byte stream is taken over, because a proxy needs four
// things that no client of go-redis gives:
//
//   - Replies one by one. A pipeline hands its replies out when the last one is
//     there; one session's slow command would delay the others' answers.
//   - The bytes as they came. A Cmd cannot tell +OK from $2 OK; a RawCmd can, but
//     pushes and what MONITOR prints come in no raw form.
//   - Many requests of many sessions outstanding on one connection, in order,
//     without a batch to wait for. AutoPipeline, which comes closest, was
//     measured at 143 µs p50 on one connection where nutcracker takes 71, and at
//     0.95 times nutcracker's throughput 16 deep, where 1.2 is wanted.
//   - A word on what was sent: ErrLost says that the outcome is unknown.
//
// So every Conn is made by a client of its own on a socket this package dialled
// and remembers. go-redis reads from it through a tap (dial.go) that counts
// requests and replies: when both numbers are equal and no byte is left over,
// go-redis has nothing buffered and the socket can change hands. Then the client
// is closed behind the tap, which frees its buffers (64 KiB per connection) and
// leaves the socket open.
//
// # Who runs where
//
// One goroutine per Conn reads; shared connections without TLS are read by a loop
// instead, where there are loops (internal/loop), which reads them as it reads
// clients. Whoever reads alone calls sinks, with replies as well as with the error a
// connection dies of, so "in order, exactly once" needs no lock. Writing is done by whoever calls Flush; one watchdog per Origin finds
// what has gone silent.
package origin

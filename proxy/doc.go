// Package proxy is nearside itself: the sessions of its clients, and how the
// parts below it work together.
//
//	                      ┌──────────── proxy ────────────┐
//	client ══ session ── policy.Decide ──┬─ local.go      PING HELLO SELECT AUTH INFO, client.go, nearside.go
//	          reads,     │               ├─ cached.go ─── L1 ── miss ── fetch: MULTI, read, PTTL, EXEC
//	          answers    │               ├─ dispatch.go   forward: everything stateless; locks on connections of their own
//	          in order   │               ├─ joined.go     what speaks of both databases: one transaction
//	          (queue.go) │               └─ pin.go        MULTI/WATCH (tx.go, exec.go), blocking, pubsub.go, MONITOR, tracking.go
//	                     │                       ║
//	Redis ══ link ── invalidations ── stamps   origin connections ══ Redis
//
// A session reads on while earlier requests are unanswered. Its replies leave
// in the order of its requests whatever order the answers come in: every
// request has a slot in the session's queue, and the reading goroutine of an
// origin connection puts the answer there and, if it can be sent at once,
// writes it to the client's socket itself. It never waits for a client: what
// the socket does not take goes on on a goroutine of its own.
//
// The commands of a session take effect in the order of its requests, too. What
// is sent on one origin connection does so by itself; before anything is sent
// on another one, all that is outstanding must be answered (follow, acquire).
// Only reads that the near cache has a part in may overtake each other.
//
// Nobody's command waits behind another session's that may run long, block its
// connection or cost it: such a command has a connection to itself (lane.go). Where Redis
// holds a client back all the same, by CLIENT PAUSE, reads go past it (stall.go). What a
// session waits for, and what ends that, stands in poll.go.
//
// Where design and code differ from what one would expect:
//
//   - redcon parses requests and encodes replies, and no more: its server has
//     no bounds, no deadlines, no backpressure and one answer at a time. What
//     bounds a request before redcon sees it is in frame.go.
//   - A session's reader writes its replies while nothing is
//     outstanding, which is the whole path of a hit: one read, one write.
//   - A session that waits for its client has no goroutine where there is
//     epoll: a loop (internal/loop, poll.go) runs those that have received
//     something, one after the other, lets out together what they asked of the
//     origin, and reads the shared origin connections too.
//   - A cacheable read that was passed to Redis nevertheless (behind a write of
//     its own session, under WATCH, while the link is in doubt) invalidates its
//     key when answered: the client has seen Redis's own state, and an older
//     entry must not follow it.
//   - Scripts that may write keys they do not name suspend all hits while they
//     run and raise a fence; they do not flush, since Redis reports each of
//     those keys. Without a link they flush.
//   - TTL and PTTL are passed to Redis: it knows, and they are rarely asked.
//   - What a Redis user may read is proven by ACL LIST (users.go), but not for
//     nearside's own user, whose connections clients without AUTH share. The right to
//     what nearside answers itself Redis is asked for, of every user (rights.go).
//   - An error that only nearside's own MULTI, SELECT, PTTL or EXEC meets is not the
//     client's: refusal.go says what happens instead.
//   - Redis decides each AUTH (verify.go). Nearside's own password follows what Redis
//     has let its user in with last (origin/login.go).
//   - WAIT and WAITAOF are led by a message on their connection, since Redis waits for
//     what that connection has written and the writes went elsewhere (wait.go).
//   - FLUSHDB at database 0 deletes what is in view, in steps (view.go).
//   - Hits do not touch Redis's LRU and LFU clocks; touch.go does that, by and by.
//   - CLIENT PAUSE holds commands back in the session, before they are sent anywhere.
//   - How long commands take (op.go, latency.go, slowlog.go) is measured by one
//     reading of the clock per batch, of the client's requests or of the origin's
//     answers, and by one more after whatever the session has waited for.
//   - What a reload can change is one value that is replaced whole (ruleset.go); how
//     nearside ends is said in drain.go.
//   - Hash reads are cached only on servers where fields cannot expire (before 7.4).
package proxy

// Package link is the connection on which Redis reports what changed.
//
// Its promise: a gap ends in a flush, and freshness is a number.
//
//	            Run ── session ── drive ──┬── CLIENT TRACKING or PSUBSCRIBE   connect.go, source.go
//	             │                        ├── CONFIG GET, for what is raised  events.go
//	             │  (one connection)      ├── PING, at every interval         ping.go
//	             │                        ├── PING, for the fences            fence.go
//	             │                        └── ROLE, CONFIG GET, INFO          check.go
//	             │ stops serving, closes, reconnects
//	Redis ── the connection's reading goroutine ──┬── push ── Invalidate      push.go
//	                                              └── PONG ── the proof       ping.go
//	every hit ── Verdict: three atomic loads                                  link.go
//
// # Ask first, look up second
//
// A hit asks Verdict and only then compares the entry's stamps. The other way round:
//
//	hit:    the entry's stamps are current
//	reader: a push invalidates the key; a PONG renews the proof, or passes the fence
//	hit:    Verdict says OK, and the old value is served although the link knew
//
// # The order of a reconnect
//
// Stop serving; dial; the source acknowledged; baseline of the silent commands; everything invalidated; Up (data
// connections to another server are closed); everything invalidated again; a PING answered; serve. Each step is
// where it is for a reason.
//
// Stopping comes first. If hits went on while the link reconnects:
//
//	link:   the connection breaks
//	other:  writes k; Redis has nobody to tell
//	link:   tracking acknowledged, PONG: the proof is new
//	hit:    serves the old k, with a proof of milliseconds
//	link:   everything invalidated, too late
//
// Everything is invalidated after tracking is acknowledged, not before:
//
//	link:   everything invalidated
//	miss:   notes its stamps, reads k, stores it
//	other:  writes k; Redis has nobody to tell
//	link:   tracking acknowledged
//	hit:    serves the old k until its TTL
//
// For the same reason the baseline of the silent commands is taken before: a SWAPDB between the invalidation and a
// later baseline would be part of the baseline, and never be noticed.
//
// And once more after Up. A data connection may still lead to another server, such as a master that was replaced:
//
//	link:   everything invalidated
//	miss:   notes its stamps, reads k from the old master, stores it
//	link:   Up closes the connections to the old master
//	hit:    serves what the old master said
//
// The run id that RunID returns is set before Up is called. So a new data connection that is first registered and
// then compared with RunID is either seen by Up, or sees the run id itself.
//
// # The proof
//
// Redis sends the invalidations of every acknowledged write before the PONG of a later PING, and one goroutine
// reads both in that order. So once a PONG is read, everything written before its PING was *sent* is known here. The
// send time is the proof, not the time of the answer: a PONG that was under way for two seconds proves what was true
// two seconds ago. It is taken before the bytes are handed over. Only PONG counts: a busy Redis answers -BUSY.
//
// What Redis is silent about (check.go has the lists) is found by comparing INFO commandstats, with the same rule: the send
// time of the last answered check must not be older than MaxStaleness either, or hits stop. Fences do not cover it.
//
// The proof holds on both sides of the clock: a time long before the proof was sent is of a clock that was set back, and
// serves nothing until a PING of the new time has been answered.
//
// # Three sources
//
// CLIENT TRACKING pushes invalidations. Keyspace notifications come as messages; in RESP3 both are pushes on the connection
// that the PINGs are answered on, in order with them, so one proof is for both. In mode auto tracking is asked for first, at each
// connection, and the other one is taken where the origin does not have the command or does not permit it. Beside either,
// what is published on Channel is taken in the same order.
//
// Keyspace notifications prove less, so more is asked before hits are allowed, and again in each check:
//
//   - notify-keyspace-events must say that every kind of change raises an event. If it does not the connection is given up: the
//     next one finds it as it is then, or sets it, and ends in a flush as every reconnect does.
//   - Off and on again between two checks is seen in the calls of CONFIG SET, and forgets everything. Redis 6 counts all of
//     CONFIG together: there the link takes off its own and has to take every other one for a CONFIG SET.
//   - A replica that copies its master's data anew tells nobody, so the origin must be a master.
//   - Without the right to ask one of this nothing is proven, and hits stay off. Tracking needs none of it: without INFO only
//     SWAPDB goes unnoticed, which Stats says.
//
// The check asks CONFIG GET before INFO. What is taken away in between is in INFO's count or found by the next check, and until
// then hits lean on the time when this check was sent, which is before it was taken away:
//
//	link:   sends the check
//	Redis:  CONFIG GET: enough
//	other:  CONFIG SET, takes the flags away; writes k; nobody is told
//	Redis:  INFO: one CONFIG SET more
//	link:   forgets everything; the check counts, from when it was sent
//	miss:   reads k, stores it
//	other:  writes k; nobody is told
//	link:   the next check, at most MaxStaleness after the first was sent: not enough, hits end; or none is answered, hits end
//
// An event means that its key changed, whatever its name, except keymiss (flag m): a look-up found nothing. It would outdate the answer
// that it belongs to, and no missing key could be cached.
//
// # Fences
//
// PINGs are numbered when they are drawn, before their send time and before they are written. Fence needs the PING after the
// last one drawn; whatever PING is being written while the fence is raised does not count:
//
//	pinger: draws 7
//	fence:  the last drawn is 7, so 8 is needed
//	pinger: writes 7      (or wrote it long ago: nobody can tell)
//	reader: PONG of 7 does not pass the fence, the PONG of 8 will
//
// A fence's PING is written by whoever raised it, once the client has been answered (Raise, then Ping), or by the pinger
// (Fence). Up to maxFencing are under way, so that a fence seldom waits for another one's answer first.
//
// Hits wait while any fence is pending, so with fences raised all the time they would wait for ever. Wait does not: it
// is true once the fences raised before the call have passed, and then this one request may be looked up in the L1. That
// is enough because whoever learned something raised the fence before it learned it: the proxy calls Fence before it
// hands the reply or the message to the client. A request that depends on what was learned comes after that, so its
// Wait includes the fence; a fence raised later belongs to something this request cannot know yet.
//
// # What never happens
//
// The reading goroutine never blocks: it bumps counters, holds a mutex for a few assignments and leaves the logging to
// others. It may write a PING, which finds room in the socket's buffer: no more than maxInflight + maxFencing of them, and one
// check, are ever unanswered, some 1.5 KB. No callback runs under a lock. Nothing that an old connection says renews the proof, passes a fence or makes
// hits possible again.
package link

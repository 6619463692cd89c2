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
// connections to another server are closed); everything invalidated again; freshness proven once; serve. Each step is
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
// Redis sends the invalidations of every acknowledged write before the PONG of a PING, if the PING comes late enough: it is the rest
// of this section that says when. One goroutine reads both in that order. So once that PONG is read, everything written
// before the PING was *sent* is known here. The send time is the proof, not the time of the answer: a PONG that was under way
// for two seconds proves what was true two seconds ago. It is taken before the bytes are handed over. Only PONG counts: a busy
// Redis answers -BUSY.
//
// What Redis is silent about (check.go has the lists) is found by comparing INFO commandstats, with the same rule: the send
// time of the last answered check must not be older than MaxStaleness either, or hits stop. Fences do not cover it.
//
// The proof holds on both sides of the clock: a time long before the proof was sent is of a clock that was set back, and
// serves nothing until a PING of the new time has been answered.
//
// Invalidations of broadcast tracking are not written when a key changes. They are collected, and put into the link's output once
// in each pass of the server's event loop, shortly before it sleeps ("told" below). A reply is put there when its command is executed. So
// what counts is in which passes the write and the PING are executed, and an acknowledgement can leave before its pass is over.
//
// One PING is written at a time, and only when nothing else on the link is unanswered (session.line). Else, on every server, with one
// thread as well:
//
//	link:    PING a is under way
//	server:  a pass begins; a writer and the link have something to read
//	server:  executes SET k. The writer has a handler for its output, since an earlier reply was too long to be written at once:
//	         the handler writes the rest, and +OK
//	writer:  reads +OK
//	link:    a fence is raised; PING b
//	server:  reads the link, which was due because of a, and finds b as well: PONG, PONG
//	server:  told: k
//	link:    PONG of b: the fence has passed; a hit serves the old k
//
// A connection is read once in a pass at most, and only if it had something to read when the pass began. With nothing under way the
// link is not due in the pass that has acknowledged the write, and PING b is read in a later one, when k has been told.
//
// With io-threads that is not enough. Redis 8 hands a reply to its threads at once, and versions after 8.0 execute clients' commands
// at the end of a pass, too, after they have told; tracking connections stay on the main thread:
//
//	server:  told; executes SET k; a thread writes +OK
//	link:    a fence is raised; PING b
//	server:  the next pass begins, and reads the link: PONG
//	server:  told: k, behind the PONG in the link's output
//
// The PONG of b is written, at the earliest, in the pass in which b is read. So a PING that is sent after that was read is executed
// in a later pass: two in sequence are a proof.
//
// Valkey 8 and 9 have threads read and write for the link as well, and execute what was read twice in a pass, before they tell and
// after. What a thread is to read is handed out earlier, so it may find what came since; and the poll is a thread's job too, which
// may report as readable what another thread is just reading, so "nothing under way" does not keep the link from being due:
//
//	server:  a pass: the link is handed to a thread, which is late
//	server:  told; executes what was read meanwhile: SET k; a thread writes +OK
//	link:    a fence is raised; PING 1
//	server:  the late thread reads PING 1; still at the end of that pass: PONG 1, written at once
//	link:    PING 2
//	server:  the next pass: the link is read; before it tells: PONG 2, written at once
//	server:  told: k
//	link:    PONG 2, and then k
//
// Between two times that it tells the link is read twice at most, at the end of one pass and the beginning of the next. Of three
// PINGs, each sent after the PONG before it was read, the third is executed later than that: three in sequence are a proof.
//
// A script or a module that runs for long serves connections from within: acknowledgements are written then, nothing is told, and the
// link may be read again when it has ended, in the same pass. That it was read from within shows, since PING and checks are refused (-BUSY).
// So the first PONG after a refusal proves nothing, whatever the server. (A module that yields without answering clients is not covered.)
//
// How many it takes is asked (threads.go): INFO server says what the origin is, CONFIG GET io-threads whether threads are on, at each
// connection and in each check. Valkey 9 changes that while it runs, so there the question goes with each PING, in one write, for
// as long as the answer is 1. That takes up to a fifth of the strong hits; three PINGs take a half and more:
//
//	other:   CONFIG SET io-threads 4
//	server:  executes SET k; a thread writes +OK
//	link:    a fence is raised; CONFIG GET, PING
//	link:    "4": this PONG and the next are not enough
//
// Asked in the checks alone, every fence until the next one would be passed too early. Where the answer is not permitted or not
// understood threads are taken to be on; with versions before 8 it is not asked, since their threads do no more than read and write for the
// main thread, which waits for them.
//
// Measured by bench/consistency -trials, on two cores that others used as well, with slow commands and writers in batches: how often the
// PONG came before the invalidation of a write that was acknowledged before its PING. "One PONG" is with other PINGs under way, the
// proof is as above; "behind" is with half of the acknowledgements behind long replies. All runs: bench/results/proof.md.
//
//	                          one PONG                           the proof
//	              io-threads  at once          behind            at once         behind
//	Redis 6.0.16       1      0 of 361,995     100 of 29,004     0 of 1,192,733  0 of 421,850
//	Redis 7.0.15       1      0 of 165,592      14 of  2,500     0 of    77,953  0 of  50,015
//	Redis 7.0.15       4      0 of  14,544      24 of  9,344     0 of    50,997  0 of  38,204
//	Redis 8.0.2        1      0 of 179,366     106 of 57,289     0 of   884,724  0 of 151,950
//	Redis 8.0.2        4    100 of     935     106 of  3,977     0 of    18,729  0 of   7,784
//	Valkey 8.1.1       1      0 of  61,798      12 of  2,726     0 of   137,745  0 of  25,283
//	Valkey 8.1.1       4     56 of   5,599      16 of  2,297     0 of     4,889  0 of   4,489
//	Valkey 9.1.2       1      0 of   6,267       0 of 20,277     0 of   116,427  0 of 105,643
//	Valkey 9.1.2       2     15 of   2,087      50 of 31,781     0 of    17,792  0 of  97,288
//
// A strong hit takes as long as before with one thread, within what the machine varies by, and for a single client 1.7 of it with Redis 8's
// io-threads and 1.9 with Valkey 9's.
//
// A marker that comes as an invalidation itself would do with one round trip on all of them: a write to a key of nearside's own, under
// a prefix that sorts behind all others, since the prefixes of one time are told in order. It needs the right to write, goes into the AOF
// and to all replicas ten times a second and with each fence, wakes everybody else who tracks all keys, and fails when Redis is full, read-only,
// short of replicas or paused: hits would then be off when they are needed most. PUBLISH to a channel of one's own is as early as a PONG.
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
// PINGs are numbered when they are drawn, before their send time and before they are written. A PING is proven when it is the first
// of a sequence that is a proof. Fence needs the PING after the last one drawn; whatever PING is being written while the fence
// is raised does not count:
//
//	pinger: draws 7
//	fence:  the last drawn is 7, so 8 is needed
//	pinger: writes 7      (or wrote it long ago: nobody can tell)
//	reader: the proof of 7 does not pass the fence, the proof of 8 will
//
// How many PONGs that takes is not the fence's business, and may change before it has passed. The number of a PING whose answer proves
// nothing is given to the next one.
//
// A fence's first PING is written by whoever raised it, once the client has been answered (Raise, then Ping), or by the pinger
// (Fence), and the others by the reader. If the line is taken the reader writes it when that is answered: one fence waits for two round
// trips at most where one PONG is a proof, and whoever comes meanwhile waits together with it.
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
// others. It may write a PING or a check, which finds room in the socket's buffer: no more than one of either is ever unanswered,
// some 200 bytes. No callback runs under a lock. Nothing that an old connection says renews the proof, passes a fence or makes
// hits possible again.
package link

// Package loop reads from sockets the way C proxies do: one goroutine asks the
// kernel which of many sockets have received something and deals with those, one
// after the other, without ever waiting for one of them.
//
// A goroutine for each connection costs a read in vain, a park and a wake for each
// request, and what many sessions ask of one origin connection at the same time is
// written there piece by piece. In one run with 50 clients that do not pipeline, a
// server that answers a constant took 6.3 µs of CPU per request so, and with
// goroutines on Go's own network poller 9.5.
//
//	epoll ── Loop ── Ready ──┬── Source.Rest: nobody reads; the loop looks again
//	                         ├── Turn.Leave: another goroutine becomes the loop,
//	                         │   this one stays with the owner and may wait
//	                         └── Source.Take: a goroutine of the owner's own reads
//	                             (Socket is a net.Conn), until it gives back by Rest
//
// For that to be worth it the sockets must leave Go's poller, which else is woken
// by each packet as well; so Detach takes the file descriptor out of a net.Conn. A
// Socket that somebody waits on nevertheless goes back there until Unwait.
//
// Who forgets to Leave before it waits is found out by a supervisor within 20 ms,
// which then has another goroutine go on with the other sources.
//
//	loop.go          turns, the supervisor, what is let out at the end of a round
//	source.go        who reads from a socket
//	epoll_linux.go   which sockets are ready
//	socket_linux.go  the socket itself
//	other.go         platforms without epoll: no loops
package loop

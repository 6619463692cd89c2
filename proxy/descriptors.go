package proxy

import (
	"fmt"
	"math"
	"runtime"
	"syscall"
)

// descriptors is how the file descriptors that the process may open are shared
// out. Whoever runs nearside with few of them (ulimit -n, LimitNOFILE=) gets fewer
// clients than max_clients, as at Redis, and fewer pinned connections than
// max_pinned, both in the same proportion. What nearside needs itself is kept
// aside: the link, the shared connections to Redis, the loops and the admin
// address work when there are as many clients as may be.
type descriptors struct {
	limit   int64
	clients int // most at one time, whatever max_clients says
	pinned  int // most connections to Redis that sessions own
	conns   int // most connections to Redis of all kinds
	shared  int // of each kind that is shared; one where there is little room
	admin   int // most connections to the admin address
}

// What the process needs beside clients and connections to Redis: the standard
// ones and those of Go's runtime, the link and its successor, the watchdog's and
// go-redis's connections, a client that is told that there are too many, a
// connection that is being closed, a file that is read.
const ownDescriptors = 24

// sharedGroups is how many kinds of shared connections there usually are: two
// databases and the locks' own, in two versions of the protocol.
const sharedGroups = 6

// shareDescriptors shares out limit descriptors, or says how many it takes at least.
func shareDescriptors(limit int64, c *Config) (descriptors, error) {
	limit = min(limit, math.MaxInt32)
	d := descriptors{limit: limit}
	own := int64(ownDescriptors + 2*runtime.GOMAXPROCS(0) + len(c.Listen) + len(c.TLS.Listen))
	if c.Admin != "" {
		d.admin = int(min(max(limit/16, 4), 256))
		own += 1 + int64(d.admin)
	}
	each := int64(1) // for a connection to Redis
	if c.Embedded {
		each = 2 // its other end
	}
	d.shared = c.OriginConnections
	shared := int64(sharedGroups * d.shared)
	left := limit - own - each*shared
	clients, pinned := int64(c.MaxClients), int64(c.MaxPinned)
	wanted := clients + each*pinned
	if left < wanted && d.shared > 1 {
		left += each * int64(sharedGroups*(d.shared-1))
		d.shared, shared = 1, sharedGroups
	}
	switch {
	case left < 1+each:
		return d, fmt.Errorf("the process may open %d files, and nearside needs %d at least: raise ulimit -n (LimitNOFILE= in systemd)", limit, own+each*shared+1+each)
	case left < wanted:
		pinned = max(left*pinned/wanted, 1)
		clients = left - each*pinned
	default: // max_clients may be raised while nearside runs
		clients = left - each*pinned
	}
	d.clients, d.pinned, d.conns = int(clients), int(pinned), int(shared+pinned)
	return d, nil
}

// openFiles is how many files the process may open. Go has raised the soft limit to
// the hard one before main.
func openFiles() int64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return math.MaxInt32
	}
	return int64(limit.Cur)
}

// maxClients is how many clients may be connected.
func (p *Proxy) maxClients() int64 {
	return int64(min(p.conf().MaxClients, p.descriptors.clients))
}

// sayFew logs that max_clients or max_pinned is more than there is room for.
func (p *Proxy) sayFew(c *Config) {
	d := &p.descriptors
	if c.MaxClients <= d.clients && c.MaxPinned <= d.pinned {
		return
	}
	p.log.Warn("too few file descriptors: max_clients and max_pinned are lowered; raise ulimit -n (LimitNOFILE= in systemd)",
		"open_files", d.limit, "max_clients", min(c.MaxClients, d.clients), "max_pinned", min(c.MaxPinned, d.pinned))
}

//go:build !linux

package origin

import (
	"net"
	"time"
)

// tuneSocket lets the kernel find peers that vanished without a word.
func tuneSocket(nc net.Conn, _ time.Duration) { tuneKeepAlive(nc) }

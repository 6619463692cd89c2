package origin

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tuneSocket lets the kernel find peers that vanished without a word: unanswered
// data after timeout (TCP_USER_TIMEOUT), silence by keepalive probes.
func tuneSocket(nc net.Conn, timeout time.Duration) {
	tuneKeepAlive(nc)
	sc, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return
	}
	ms := int(max(grace(timeout), time.Second).Milliseconds())
	_ = rc.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ms)
	})
}

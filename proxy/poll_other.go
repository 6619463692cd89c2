//go:build !linux

package proxy

// Without epoll every session has a goroutine.
type watch struct{}

func (*Proxy) startPollers() {}

func (*poller) wait() bool { return false }

func (*poller) add(*session) bool { return false }

func (*poller) forget(*session) {}

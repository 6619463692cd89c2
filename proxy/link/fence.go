package link

import (
	"sync/atomic"
	"time"
)

// Fence makes hits wait, from now on, until a PING that was sent after this call is proven: see "The proof". One PING serves all
// the fences that were raised before it. It is the pinger's goroutine that sends it: who can do better raises the fence
// by Raise and calls Ping.
func (l *Link) Fence() {
	if l.connects() {
		l.Raise()
		l.kickPinger()
	}
}

// Raise is Fence for a caller that calls Ping soon afterwards.
func (l *Link) Raise() {
	if l.connects() {
		l.count.fences.Add(1)
		raiseTo(&l.need, l.sent.Load()+1)
	}
}

// Ping sends the PING that a fence waits for, if none that would do has been sent yet, on the caller's goroutine: to wake
// the pinger takes about as long as Redis takes to answer. It does not wait for the answer.
func (l *Link) Ping() {
	l.mu.Lock()
	s := l.cur
	l.mu.Unlock()
	// Before it pings, the connection's first PING is still to be drawn, which passes every fence.
	if s != nil && s.pings.Load() {
		s.write(true)
	}
}

// raiseTo makes v at least n.
func raiseTo(v *atomic.Uint64, n uint64) {
	for old := v.Load(); old < n; old = v.Load() {
		if v.CompareAndSwap(old, n) {
			return
		}
	}
}

// Sync is true when a PING that was sent after the call is proven: what is looked up then is as new as a read at the
// origin sent at the time of the call would be, since every write acknowledged before it is known here. One PING serves all
// that wait; unlike Fence it holds nobody else up. It is false, and the read is to be passed through, when the link is down,
// the proof too old, the timeout over, or closed closed; and always with ModeNone.
func (l *Link) Sync(timeout time.Duration, closed <-chan struct{}) bool {
	if !l.connects() {
		return l.cfg.Mode == ModeEmbedded
	}
	l.count.syncs.Add(1)
	need := l.sent.Load() + 1
	raiseTo(&l.asked, need)
	l.kickPinger() // a caller's goroutine that has to wait anyway is no faster at it: measured
	return l.waitFor(need, timeout, closed)
}

// wanted is the PING that somebody waits for.
func (l *Link) wanted() uint64 { return max(l.need.Load(), l.asked.Load()) }

// Pending says whether a fence is raised and not passed.
func (l *Link) Pending() bool {
	need := l.need.Load()
	return need > l.passed.Load()
}

// Wait is true when the fences raised before the call have passed: what is looked up now may be served, even if
// other fences have been raised since. It is false, and the read is to be passed through, when the link is down, the
// proof too old, the timeout over, or closed closed.
func (l *Link) Wait(timeout time.Duration, closed <-chan struct{}) bool {
	if !l.connects() {
		return true
	}
	return l.waitFor(l.need.Load(), timeout, closed)
}

// Raised is the number of the PING that the fences raised so far wait for: they have passed when Passed has come to it.
func (l *Link) Raised() uint64 { return l.need.Load() }

// Passed is the number of the last PING that is proven.
func (l *Link) Passed() uint64 { return l.passed.Load() }

// waitFor waits for the PONG of PING need, until closed.
func (l *Link) waitFor(need uint64, timeout time.Duration, closed <-chan struct{}) bool {
	start := time.Now()
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	for {
		// Before looking, so that whatever changes after the look closes it.
		woken := l.wake()
		passed := need <= l.passed.Load()
		now, until := l.cfg.Now(), l.until.Load()
		switch {
		case !l.within(now, until):
			return false
		case passed:
			return true
		}
		left := timeout - time.Since(start)
		if left <= 0 {
			return false
		}
		left = min(left, time.Duration(until-now)+1)
		if timer == nil {
			timer = time.NewTimer(left)
		} else {
			timer.Reset(left)
		}
		select {
		case <-woken:
		case <-timer.C:
		case <-closed:
			return false
		}
	}
}

// wake returns what is closed at the next PONG, or when the link is lost.
func (l *Link) wake() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.woken == nil {
		l.woken = make(chan struct{})
	}
	return l.woken
}

// wakeAll is called with mu held.
func (l *Link) wakeAll() {
	if l.woken != nil {
		close(l.woken)
		l.woken = nil
	}
}

// kickPinger has the pinger look at the fences. Whoever finds kicked set may go: the pinger unsets it before it looks. And who
// sets it finds room in the channel, since the pinger takes the token before it unsets.
func (l *Link) kickPinger() {
	if !l.kicked.Load() && !l.kicked.Swap(true) {
		l.kick <- struct{}{}
	}
}

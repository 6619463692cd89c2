package main

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Where a command goes.
const (
	direct = iota // to Redis itself
	viaA
	viaB
	world // something that befell Redis: a restart, an eviction
)

var viaNames = [...]string{"direct", "A", "B", "world"}

// Kinds of violations.
const (
	kindPhantom     = "phantom"         // a value that was never written, or long ago
	kindOwnWrite    = "read-your-write" // older than a write that this nearside has answered
	kindMonotonic   = "monotonic"       // older than what this client has seen by the same command
	kindBound       = "bound"           // overwritten longer ago than max_staleness
	kindFenced      = "fenced"          // overwritten, or seen newer by anybody, before the question, under a fenced rule
	kindTTL         = "ttl"             // after its end
	kindTorn        = "torn"            // half old, half new
	kindConvergence = "convergence"     // stale after quiet
	kindLost        = "lost"            // Redis does not hold what was acknowledged
	kindReply       = "reply"           // an answer that Redis cannot have given
	kindRecovery    = "recovery"        // no answer long after the fault
	kindLock        = "lock"            // two holders, or a ledger that does not agree
	kindGuarded     = "guarded"         // a lock's new holder read what was before the old one's write
	kindLinear      = "linearizability"
	kindRace        = "race"  // the race detector spoke up, or nearside ended
	kindAudit       = "audit" // nearside's own auditor has found something
	kindCount       = "count" // counters that do not agree
)

// kindsOfKeys are the types of Redis in use.
const (
	aString = iota
	aHash   // fields a and b, always equal, and n, a number
	aList
	aCounter
	kindsOfKeys
)

var letters = [kindsOfKeys]string{"s", "h", "l", "c"}

// version is one state of a key. A key's writers take turns, so its versions
// have one order, whatever way they took.
type version struct {
	payload string
	absent  bool
	call    time.Duration // before the write was sent
	ack     time.Duration // after it was answered; never, as long as it is not
	lo, hi  time.Duration // the end of its life lies between; 0: none
	via     int
	how     string
	silent  bool // Redis tells nobody, so that even fenced reads learn of it within the bound only
}

const never = time.Duration(1) << 62

// certain tells whether a version stays until somebody overwrites it.
func (v *version) certain() bool { return v.hi == 0 && v.ack != never }

func (v *version) expired(at time.Duration) bool { return v.lo != 0 && at >= v.lo }

// head is a hash's field a.
func (v *version) head() string {
	a, _, _ := strings.Cut(v.payload, "#")
	return a
}

// key is one key and its history.
type key struct {
	name  string
	kind  int
	mixed bool // MGETs ask for it too

	turn sync.Mutex // one writer at a time

	mu      sync.Mutex
	base    int // number of versions forgotten
	vs      []version
	acked   [2 + 1]int // the newest version answered through each nearside
	seen    int        // the oldest version that anybody can still read, all reads being fenced
	retired bool       // a write has an unknown outcome: nothing is known of it any more
}

func newKey(name string, kind int, now time.Duration) *key {
	return &key{name: name, kind: kind, vs: []version{{absent: true, call: now, ack: now, how: "born"}}}
}

// last is the newest version. Only for the one whose turn it is.
func (k *key) last() version {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.vs[len(k.vs)-1]
}

// begin notes a write that is about to be sent, and returns its number.
func (k *key) begin(v version) int {
	v.ack = never
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.vs) > 4096 {
		k.base += 2048
		k.vs = append([]version(nil), k.vs[2048:]...)
	}
	// Redis says nothing of the removal of what is not there: it does not bring the news of a silent change before.
	if was := &k.vs[len(k.vs)-1]; was.silent && was.absent && v.absent {
		v.silent = true
	}
	k.vs = append(k.vs, v)
	return k.base + len(k.vs) - 1
}

// end notes its answer.
func (k *key) end(n int, now, px time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v := &k.vs[n-k.base]
	v.ack = now
	if px > 0 {
		v.hi = now + px
	}
	if v.via == viaA || v.via == viaB {
		k.acked[v.via] = n
	}
}

// undo forgets the newest write, which was certainly not executed.
func (k *key) undo() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.vs = k.vs[:len(k.vs)-1]
}

// stays notes, before end, that the newest write has taken the key's life away.
func (k *key) stays() {
	k.mu.Lock()
	defer k.mu.Unlock()
	v := &k.vs[len(k.vs)-1]
	v.lo, v.hi = 0, 0
}

func (k *key) retire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.retired = true
}

// view is what a reader must not fall behind, noted before it asks.
type view struct {
	own  int // written through its nearside
	seen int // seen by anybody; counts where all reads are fenced
}

func (k *key) look(via int) view {
	k.mu.Lock()
	defer k.mu.Unlock()
	if via == direct {
		return view{seen: k.seen}
	}
	return view{own: k.acked[via], seen: k.seen}
}

// saw notes what a fenced read has shown.
func (k *key) saw(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen = max(k.seen, n)
}

// part is how much of a value a command tells.
type part int

const (
	whole part = iota
	front      // its first bytes
	field      // a hash's field a
	size       // its length
	being      // that there is one
)

// observation is what a reader got.
type observation struct {
	payload  string
	part     part
	size     int
	absent   bool
	from, to time.Duration
	via      int
	cmd      string
	who      string
}

func (o *observation) matches(v *version) bool {
	switch {
	case o.absent:
		return v.absent || v.expired(o.to)
	case v.absent:
		return false
	}
	switch o.part {
	case front:
		return v.payload[:min(headLen, len(v.payload))] == o.payload
	case field:
		return v.head() == o.payload
	case size:
		return len(v.payload) == o.size
	case being:
		return true
	}
	return v.payload == o.payload
}

// limits are the promises in numbers.
type limits struct {
	bound  time.Duration // max_staleness and slack
	ttl    time.Duration // how long after a value's end it may be answered
	fenced bool          // what was acknowledged or seen before the question counts at once
}

// due is the newest version that must be known to a reader that asks at that time.
func (k *key) due(from time.Duration, lim limits) int {
	for i := len(k.vs) - 1; i >= 0; i-- {
		v := &k.vs[i]
		if v.ack < from-lim.bound || lim.fenced && !v.silent && v.ack < from {
			return k.base + i
		}
	}
	return 0
}

// verdict is what an observation amounts to.
type verdict struct {
	kind  string // "" if it is right
	trace string
	seen  int           // the oldest version that it can have been
	stale time.Duration // how long before the read the newest version that it can have been was overwritten
}

// judge compares an observation with the history. floor is what the client has
// seen before.
func (k *key) judge(o *observation, w view, floor int, lim limits) verdict {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.retired {
		return verdict{seen: floor}
	}
	due := k.due(o.from, lim)
	least := max(due, w.own, floor, k.base)
	if lim.fenced {
		least = max(least, w.seen)
	}
	found, newest := -1, -1
	for i := len(k.vs) - 1; i >= least-k.base; i-- {
		v := &k.vs[i]
		if o.matches(v) && (o.absent || v.hi == 0 || o.from <= v.hi+lim.ttl) {
			found = k.base + i
			if newest < 0 {
				newest = found
			}
		}
	}
	if found >= 0 {
		d := verdict{seen: found}
		if k.vs[found-k.base].silent { // one answer may know of it and the next one not
			d.seen = floor
		}
		if next := newest - k.base + 1; next < len(k.vs) && k.vs[next].ack < o.from {
			d.stale = o.from - k.vs[next].ack
		}
		return d
	}
	got, late := -1, false
	for i := len(k.vs) - 1; i >= 0 && got < 0; i-- {
		if o.matches(&k.vs[i]) {
			got = k.base + i
			late = k.vs[i].hi != 0 && o.from > k.vs[i].hi+lim.ttl
		}
	}
	d := verdict{seen: floor}
	bound := k.due(o.from, limits{bound: lim.bound})
	switch {
	case got < 0:
		d.kind = kindPhantom
	case late && got >= least && !o.absent:
		d.kind = kindTTL
	case got < bound:
		d.kind = kindBound
	case got < w.own:
		d.kind = kindOwnWrite
	case got < floor:
		d.kind = kindMonotonic
	default:
		d.kind = kindFenced
	}
	d.trace = k.trace(o, got, fmt.Sprintf("at least %d was due (bound %d, written through it %d, seen before by this client %d, fenced %d, seen by anybody %d)",
		least, bound, w.own, floor, due, w.seen))
	return d
}

// trace tells an observation and the history around it.
func (k *key) trace(o *observation, got int, why string) string {
	var b strings.Builder
	answer := show(o.payload, o.absent)
	switch {
	case o.absent:
	case o.part == size:
		answer = fmt.Sprint(o.size)
	case o.part == being:
		answer = "that it is there"
	}
	fmt.Fprintf(&b, "%s %s by %s at %v..%v got %s, version %d; %s\n", o.cmd, k.name, o.who, o.from, o.to, answer, got, why)
	from := max(0, len(k.vs)-10)
	if got >= 0 {
		from = max(0, min(from, got-k.base-1))
	}
	for i := from; i < min(len(k.vs), from+24); i++ {
		v := &k.vs[i]
		ack := v.ack.String()
		if v.ack == never {
			ack = "?"
		}
		fmt.Fprintf(&b, "    %d: %s via %s %v..%s %s", k.base+i, v.how, viaNames[v.via], v.call, ack, show(v.payload, v.absent))
		if v.hi != 0 {
			fmt.Fprintf(&b, " until %v..%v", v.lo, v.hi)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func show(payload string, absent bool) string {
	if absent {
		return "nothing"
	}
	if len(payload) > 40 {
		return fmt.Sprintf("%q…(%d)", payload[:40], len(payload))
	}
	return fmt.Sprintf("%q", payload)
}

// pick is what a slot holds: its key changes when one is retired.
type pick = atomic.Pointer[key]

package proxy

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"nearside/policy"
)

// The prefixes of keys that no rule matches, so that NEARSIDE STATS can name the
// busiest: libraries put prefixes of their own in front of keys, and then a rule
// that looks right never matches.

const (
	unmatchedEvery = 16      // one of so many keys is looked at, on average
	unmatchedMost  = 256     // prefixes counted at one time
	unmatchedHalve = 1 << 20 // samples after which the past counts half
	unmatchedShown = 10

	prefixParts = 4  // of a prefix at most
	partBytes   = 24 // a longer part is taken for a name of one thing, not of a kind
)

// unmatched counts prefixes in bounded memory by space-saving: a new one takes the
// place of the rarest and its count, so a count is too high by at most that. Its
// zero value is ready.
type unmatched struct {
	mu       sync.Mutex
	prefixes map[string]*prefixCount
	samples  uint64
}

type prefixCount struct {
	prefix      string
	count, over uint64 // count is too high by over at most
}

// sample counts a key. Whoever finds another session at it does without.
func (u *unmatched) sample(key []byte) {
	if u.mu.TryLock() {
		u.count(keyPrefix(key))
		u.mu.Unlock()
	}
}

// unmatchedPick tells whether a key is to be sampled: at random, since pipelines
// repeat themselves, and each for itself, since a session may have one command only.
func unmatchedPick() bool { return rand.Uint32N(unmatchedEvery) == 0 }

func (u *unmatched) count(prefix []byte) {
	u.samples++
	if c := u.prefixes[string(prefix)]; c != nil {
		c.count++
	} else {
		u.add(string(prefix))
	}
	if u.samples >= unmatchedHalve {
		u.halve()
	}
}

func (u *unmatched) add(prefix string) {
	if u.prefixes == nil {
		u.prefixes = make(map[string]*prefixCount)
	}
	c := &prefixCount{prefix: prefix, count: 1}
	if len(u.prefixes) >= unmatchedMost {
		var rarest *prefixCount
		for _, o := range u.prefixes {
			if rarest == nil || o.count < rarest.count {
				rarest = o
			}
		}
		delete(u.prefixes, rarest.prefix)
		c.count, c.over = rarest.count+1, rarest.count
	}
	u.prefixes[prefix] = c
}

// halve makes the table forget by and by.
func (u *unmatched) halve() {
	u.samples /= 2
	for prefix, c := range u.prefixes {
		c.count, c.over = c.count/2, c.over/2
		if c.count == 0 {
			delete(u.prefixes, prefix)
		}
	}
}

// busiest are the prefixes that are certainly among the most frequent, with their
// share of all samples in percent.
func (u *unmatched) busiest() (list []prefixCount, samples uint64) {
	u.mu.Lock()
	for _, c := range u.prefixes {
		list = append(list, *c)
	}
	samples = u.samples
	u.mu.Unlock()
	slices.SortFunc(list, func(a, b prefixCount) int {
		return cmp.Or(cmp.Compare(b.count-b.over, a.count-a.over), cmp.Compare(a.prefix, b.prefix))
	})
	return list[:min(len(list), unmatchedShown)], samples
}

// keyPrefix is what keys of one kind begin with, and no name of a single thing: up
// to the colon before the first part that has a digit or is long, and never the
// last part. It is empty if there is no such colon.
func keyPrefix(key []byte) []byte {
	end := 0
	for range prefixParts {
		size := bytes.IndexByte(key[end:], ':')
		if size < 0 || size > partBytes || bytes.ContainsAny(key[end:end+size], "0123456789") {
			break
		}
		end += size + 1
	}
	return key[:end]
}

// unmatchedText is the part of NEARSIDE STATS about keys without a rule.
func (p *Proxy) unmatchedText() string {
	list, samples := p.unmatched.busiest()
	var b strings.Builder
	b.WriteString("# Unmatched\r\n")
	fmt.Fprintf(&b, "unmatched_samples:%d\r\n", samples)
	for _, c := range list {
		name := "(no prefix)"
		if c.prefix != "" {
			name = c.prefix
		}
		fmt.Fprintf(&b, "unmatched:prefix=%q,share=%.2f", name, percent(c.count-c.over, samples))
		if rule := p.looksLike(c.prefix); rule != "" {
			fmt.Fprintf(&b, ",looks_like=%s", rule)
		}
		b.WriteString("\r\n")
	}
	return b.String()
}

// looksLike is the rule's prefix that a key's prefix ends with, at the beginning
// of a word: "myapp:product:" and "keyv::product:" look like "product:".
func (p *Proxy) looksLike(prefix string) (found string) {
	for _, r := range p.rules().All() {
		head, ok := strings.CutSuffix(prefix, r.Prefix)
		if r.Kind == policy.CacheRule && ok && len(r.Prefix) > len(found) && head != "" && !alphanumeric(head[len(head)-1]) {
			found = r.Prefix
		}
	}
	return found
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' || c >= 0x80
}

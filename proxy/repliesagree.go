package proxy

import (
	"bytes"
	"hash/maphash"

	"nearside/proxy/origin"
)

// tableOrder holds the cached reads whose replies Redis gives in the order of a hash
// table, which rehashing changes without a write. The number is how many
// elements belong together.
var tableOrder = map[string]int{"hgetall": 2, "hkeys": 1, "hvals": 1, "smembers": 1}

// repliesAgree tells whether two replies to the same read say the same.
func repliesAgree(name string, a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	n := tableOrder[name]
	return n > 0 && len(a) == len(b) && sameElements(a, b, n)
}

var elementSeed = maphash.MakeSeed()

// sameElements compares aggregates as multisets of groups of n elements, by a sum
// of their hashes, which takes neither memory nor sorting. Chance makes it err
// once in 2^64, and then to the side of equal.
func sameElements(a, b []byte, n int) bool {
	x, countX, okX := sumElements(a, n)
	y, countY, okY := sumElements(b, n)
	return okX && okY && a[0] == b[0] && countX == countY && x == y
}

func sumElements(b []byte, n int) (sum uint64, count int, ok bool) {
	count, rest, ok := origin.Elements(b)
	if !ok || count < 0 || count%n != 0 {
		return 0, 0, false
	}
	for range count / n {
		size := 0
		for range n {
			one, _ := origin.Split(rest[size:])
			if one == nil {
				return 0, 0, false
			}
			size += len(one)
		}
		sum += maphash.Bytes(elementSeed, rest[:size])
		rest = rest[size:]
	}
	return sum, count, len(rest) == 0
}

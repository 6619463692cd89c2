package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strconv"
)

// Classes of operations, which have latencies of their own.
const (
	classRead = iota
	classWrite
	classes
)

// workload says what operations consist of: steps that are sent one after the
// other, each when the one before is answered, of Pipeline requests each.
type workload struct {
	steps    int // 0 is 1
	pipeline int // requests per step; 0 is 1
	// class decides what the next operation is; nil: a read.
	class func(r *source) int
	// request appends one request. conn is the number of the connection.
	request func(b []byte, r *source, class, conn, step int) []byte
}

func (w *workload) stepCount() int { return max(w.steps, 1) }
func (w *workload) depth() int     { return max(w.pipeline, 1) }

// appendKey appends the bulk string of a key's name, as keyName makes it.
func appendKey(b []byte, prefix string, i int) []byte {
	b = append(b, '$')
	b = strconv.AppendInt(b, int64(len(prefix)+digits), 10)
	b = append(b, "\r\n"...)
	b = append(b, prefix...)
	at := len(b)
	b = append(b, "000000000000\r\n"...)
	for j := at + digits - 1; i > 0; j-- {
		b[j] = byte('0' + i%10)
		i /= 10
	}
	return b
}

// chooser picks keys.
type chooser func(r *source) int

func uniform(n int) chooser { return func(r *source) int { return r.IntN(n) } }

// zipf picks key i with a probability proportional to 1/(i+1), which is what is
// said of real caches. The standard library's takes only powers above 1 of it.
func zipf(n int) chooser {
	cumulative := make([]float64, n)
	sum := 0.0
	for i := range cumulative {
		sum += 1 / float64(i+1)
		cumulative[i] = sum
	}
	return func(r *source) int {
		return min(sort.SearchFloat64s(cumulative, r.Float64()*sum), n-1)
	}
}

// gets reads one key a request.
func gets(prefix string, key chooser, pipeline int) workload {
	return workload{pipeline: pipeline, request: func(b []byte, r *source, _, _, _ int) []byte {
		b = append(b, "*2\r\n$3\r\nGET\r\n"...)
		return appendKey(b, prefix, key(r))
	}}
}

// sets writes one key a request.
func sets(prefix string, key chooser, pipeline, size int) workload {
	tail := bulk(value(size))
	return workload{
		pipeline: pipeline,
		class:    func(*source) int { return classWrite },
		request: func(b []byte, r *source, _, _, _ int) []byte {
			b = append(b, "*3\r\n$3\r\nSET\r\n"...)
			return append(appendKey(b, prefix, key(r)), tail...)
		},
	}
}

// mix reads, and writes in the given share of operations.
func mix(prefix string, key chooser, writes float64, size int) workload {
	tail := bulk(value(size))
	return workload{
		class: func(r *source) int {
			if r.Float64() < writes {
				return classWrite
			}
			return classRead
		},
		request: func(b []byte, r *source, class, _, _ int) []byte {
			if class == classRead {
				b = append(b, "*2\r\n$3\r\nGET\r\n"...)
				return appendKey(b, prefix, key(r))
			}
			b = append(b, "*3\r\n$3\r\nSET\r\n"...)
			return append(appendKey(b, prefix, key(r)), tail...)
		},
	}
}

// multiGets reads n keys with one MGET.
func multiGets(prefix string, key chooser, n int) workload {
	head := fmt.Sprintf("*%d\r\n$4\r\nMGET\r\n", n+1)
	return workload{request: func(b []byte, r *source, _, _, _ int) []byte {
		b = append(b, head...)
		for range n {
			b = appendKey(b, prefix, key(r))
		}
		return b
	}}
}

// hashes reads one whole hash a request.
func hashes(prefix string, key chooser) workload {
	return workload{request: func(b []byte, r *source, _, _, _ int) []byte {
		b = append(b, "*2\r\n$7\r\nHGETALL\r\n"...)
		return appendKey(b, prefix, key(r))
	}}
}

// pings asks for nothing but a round trip.
func pings() workload {
	return workload{request: func(b []byte, _ *source, _, _, _ int) []byte {
		return append(b, "*1\r\n$4\r\nPING\r\n"...)
	}}
}

// releaseScript is what lock libraries release with.
const releaseScript = "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end"

// locks acquires and releases a lock of the connection's own: SET NX PX, then
// the release script. The locks are numbered from first on.
func locks(first int) workload {
	return workload{steps: 2, request: func(b []byte, _ *source, _, conn, step int) []byte {
		const prefix, token = "lock:", "$8\r\nsomebody\r\n"
		if step == 0 {
			b = append(b, "*6\r\n$3\r\nSET\r\n"...)
			b = appendKey(b, prefix, first+conn)
			return append(b, token+"$2\r\nNX\r\n$2\r\nPX\r\n$5\r\n30000\r\n"...)
		}
		b = append(b, lockEval...)
		b = appendKey(b, prefix, first+conn)
		return append(b, token...)
	}}
}

var lockEval = slices.Concat([]byte("*5\r\n$4\r\nEVAL\r\n"), bulk(releaseScript), bulk("1"))

func bulk(s string) []byte { return fmt.Appendf(nil, "$%d\r\n%s\r\n", len(s), s) }

// source is where chance comes from.
type source = rand.Rand

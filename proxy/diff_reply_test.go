package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"nearside/policy"
)

// readReply reads the bytes of exactly one reply or push.
func readReply(r *bufio.Reader) ([]byte, error) {
	var raw []byte
	for left := 1; left > 0; left-- {
		line, err := r.ReadBytes('\n')
		raw = append(raw, line...)
		if err != nil {
			return raw, err
		}
		n := -1
		switch line[0] {
		case '$', '=', '!', '*', '~', '>', '%', '|':
			if n, err = strconv.Atoi(strings.TrimSpace(string(line[1:]))); err != nil {
				return raw, fmt.Errorf("no length: %q", line)
			}
		case '+', '-', ':', ',', '#', '(', '_':
		default:
			return raw, fmt.Errorf("not a reply: %.100q", line)
		}
		if n < 0 {
			continue
		}
		switch line[0] {
		case '$', '=', '!':
			at := len(raw)
			raw = slices.Grow(raw, n+2)[:at+n+2]
			if _, err := io.ReadFull(r, raw[at:]); err != nil {
				return raw, err
			}
		case '%':
			left += 2 * n
		case '|': // stands in front of a reply
			left += 2*n + 1
		default:
			left += n
		}
	}
	return raw, nil
}

// node is a reply taken apart.
type node struct {
	kind byte
	text string
	kids []node
}

func parseNode(r *bufio.Reader) node {
	line, _ := r.ReadString('\n')
	if line == "" {
		return node{}
	}
	v := node{kind: line[0], text: strings.TrimRight(line[1:], "\r\n")}
	n, _ := strconv.Atoi(v.text)
	switch v.kind {
	case '$', '=', '!':
		if n < 0 {
			return node{kind: '_'}
		}
		b := make([]byte, n+2)
		_, _ = io.ReadFull(r, b)
		v.text = string(b[:n])
	case '*', '~', '>', '%', '|':
		if n < 0 {
			return node{kind: '_'}
		}
		if v.kind == '%' || v.kind == '|' {
			n *= 2
		}
		v.text = ""
		for range n {
			v.kids = append(v.kids, parseNode(r))
		}
	}
	return v
}

func nodeOf(raw []byte) node { return parseNode(bufio.NewReader(bytes.NewReader(raw))) }

// String spells the whole reply, unambiguously.
func (v node) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%c%q", v.kind, v.text)
	for _, k := range v.kids {
		b.WriteString("(" + k.String() + ")")
	}
	return b.String()
}

// A likeness turns a reply into what of it must be the same; nil: every byte.
type likeness func(v node) string

// kind: the type alone.
func kind(v node) string { return string(v.kind) }

// shape: the types of everything in it.
func shape(v node) string {
	var b strings.Builder
	b.WriteByte(v.kind)
	for _, k := range v.kids {
		b.WriteString("(" + shape(k) + ")")
	}
	return b.String()
}

// unordered: everything, in any order; the pairs of maps stay together.
func unordered(v node) string {
	var parts []string
	step := 1
	if v.kind == '%' {
		step = 2
	}
	for i := 0; i+step <= len(v.kids); i += step {
		part := unordered(v.kids[i])
		if step == 2 {
			part += "=>" + unordered(v.kids[i+1])
		}
		parts = append(parts, part)
	}
	slices.Sort(parts)
	return fmt.Sprintf("%c%q(%s)", v.kind, v.text, strings.Join(parts, ")("))
}

// inside: its elements in their order, in these nothing is ordered.
func inside(v node) string {
	s := fmt.Sprintf("%c%q", v.kind, v.text)
	for _, k := range v.kids {
		s += "(" + unordered(k) + ")"
	}
	return s
}

// length: its type, and how many bytes or elements.
func length(v node) string { return fmt.Sprintf("%c %d %d", v.kind, len(v.text), len(v.kids)) }

// pairsOf: a flat list of names and values, in any order, as SCAN and its like and HGETALL in RESP2 have them.
func pairsOf(v node) string {
	if v.kind != '*' || len(v.kids)%2 != 0 {
		return unordered(v)
	}
	return unordered(node{kind: '%', kids: v.kids})
}

// scanned: the cursor, and whatever follows in any order.
func scanned(v node) string {
	if len(v.kids) == 2 {
		return v.kids[0].String() + unordered(v.kids[1])
	}
	return v.String()
}

// times: everything but what a clock says: milliseconds since 1970, "idle", and the third of XPENDING's four.
func times(v node) string {
	var mask func(v node) node
	mask = func(v node) node {
		out := node{kind: v.kind, text: v.text}
		pending := len(v.kids) == 4 && v.kids[0].kind == '$' && v.kids[1].kind == '$' && v.kids[2].kind == ':' && v.kids[3].kind == ':'
		for i, k := range v.kids {
			if k.kind == ':' && (len(k.text) == 13 || i > 0 && v.kids[i-1].text == "idle" || pending && i == 2) {
				k.text = "time"
			}
			out.kids = append(out.kids, mask(k))
		}
		return out
	}
	return mask(v).String()
}

// without masks the values of some names in a flat list or a map.
func without(names ...string) likeness {
	return func(v node) string {
		v.kids = slices.Clone(v.kids)
		for i := 1; i < len(v.kids); i += 2 {
			if slices.Contains(names, v.kids[i-1].text) {
				v.kids[i] = node{kind: v.kids[i].kind}
			}
		}
		return v.String()
	}
}

// volatile are lines of INFO that one server has and another may lack.
var volatile = regexp.MustCompile(`^(cmdstat_|errorstat_|latency_percentiles|db\d|allocator|rdb_last_load|module|aof_|nearside|slave)`)

// fields: the names of a text's lines or fields.
func fields(v node) string {
	text, _, _ := strings.Cut(strings.TrimPrefix(v.text, "txt:"), "# Nearside")
	var names []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, _, ok := strings.Cut(line, ":"); ok && !strings.Contains(name, " ") { // INFO
			names = append(names, name)
			continue
		}
		for _, word := range strings.Fields(line) { // CLIENT LIST, or the head of a section
			name, _, _ := strings.Cut(word, "=")
			names = append(names, name)
		}
	}
	names = slices.DeleteFunc(names, volatile.MatchString)
	slices.Sort(names)
	return string(v.kind) + strings.Join(slices.Compact(names), " ")
}

// likenesses are the commands that two servers, or two moments, answer differently; all else is compared byte for byte.
// Errors always are.
var likenesses = map[string]likeness{
	// random
	"randomkey": shape, "srandmember": shape, "hrandfield": shape, "zrandmember": shape, "spop": shape, "acl|genpass": length,
	// the clock
	"time": shape, "lastsave": shape, "object|idletime": shape, "xpending": times, "xinfo|consumers": times, "xinfo|stream": times,
	// the order of a hash table, which has a random seed
	"keys": unordered, "smembers": unordered, "sunion": unordered, "sinter": unordered, "sdiff": unordered, "hkeys": unordered, "hvals": unordered,
	"hgetall": pairsOf, "sscan": scanned, "hscan": scanned, "zscan": scanned, "exec": inside, "command": unordered, "command|list": unordered,
	"command|info": unordered, "command|docs": unordered, "function|list": unordered, "pubsub|channels": unordered, "acl|cat": unordered,
	"config|get": unordered, "eval": inside,
	// the process, its address and its connections
	"info": fields, "client|list": fields, "client|info": fields, "client|id": shape, "hello": without("id"), "role": kind, "scan": kind,
	"memory|usage": shape, "memory|doctor": kind, "memory|malloc-stats": kind, "memory|stats": kind, "memory|purge": kind, "latency|doctor": kind,
	"latency|graph": kind, "latency|histogram": kind, "latency|history": kind, "latency|latest": kind, "latency|reset": kind,
	"slowlog|get": kind, "slowlog|len": kind, "acl|log": kind, "lolwut": kind,
}

// anything goes where one server may still be busy with what the other has finished.
var anything = map[string]bool{"bgsave": true, "bgrewriteaof": true, "save": true}

// likenessOf finds how the replies of a request are compared.
func likenessOf(args []string) likeness {
	b := make([][]byte, len(args))
	for i, a := range args {
		b[i] = []byte(a)
	}
	c := policy.Lookup(b)
	if c == nil {
		return nil
	}
	switch {
	case c.Name == "xadd" && slices.Contains(args, "*"):
		return length
	case c.Name == "config|get" && (args[2] == "port" || args[2] == "dir"):
		return shape
	case c.Name == "debug" && !strings.EqualFold(args[1], "protocol") && !strings.EqualFold(args[1], "error"):
		return kind
	}
	return likenesses[c.Name]
}

// sameReply compares two replies to a request.
func sameReply(args []string, a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if len(args) == 0 || len(a) == 0 || len(b) == 0 {
		return false
	}
	switch name := strings.ToLower(args[0]); name {
	case "ttl", "pttl":
		return near(a, b, map[string]int{"ttl": 1, "pttl": 2000}[name])
	case "expiretime", "pexpiretime": // of a deadline that was set relative to now
		return near(a, b, map[string]int{"expiretime": 1, "pexpiretime": 2000}[name])
	}
	if anything[strings.ToLower(args[0])] {
		return true
	}
	like := likenessOf(args)
	if like == nil || a[0] == '-' || b[0] == '-' {
		return false
	}
	x, y := nodeOf(a), nodeOf(b)
	return like(x) == like(y)
}

// near compares two numbers, neither of which says that there is no deadline.
func near(a, b []byte, within int) bool {
	x, errX := strconv.Atoi(strings.TrimSpace(string(a[1:])))
	y, errY := strconv.Atoi(strings.TrimSpace(string(b[1:])))
	return a[0] == ':' && b[0] == ':' && errX == nil && errY == nil && x >= 0 && y >= 0 && max(x-y, y-x) <= within
}

package main

import (
	"fmt"
	"strings"
)

// Prefixes of the keys that load is put on. The first lies under a rule of the
// sample configuration, the second under none.
const (
	hotPrefix  = "product:"
	coldPrefix = "plain:"
)

// digits is how redis-benchmark writes __rand_int__.
const digits = 12

func keyName(prefix string, i int) string { return fmt.Sprintf("%s%0*d", prefix, digits, i) }

// value is n bytes that do not compress to nothing in anybody's parser.
func value(n int) string {
	const text = "0123456789abcdefghijklmnopqrstuvwxyz"
	return strings.Repeat(text, n/len(text)+1)[:n]
}

// seed writes n keys of size bytes through the peer, and where there is a near
// cache reads them until they are in it.
func (p *peer) seed(prefix string, n, size int) error {
	if p.kind == kindFloor {
		return p.constant(size)
	}
	c, err := dial(p.addr)
	if err != nil {
		return err
	}
	defer c.close()
	v := value(size)
	for i := range n {
		if err := c.send("SET", keyName(prefix, i), v); err != nil {
			return err
		}
	}
	if err := c.wait(); err != nil {
		return err
	}
	if p.kind == kindNearside && strings.HasPrefix(prefix, hotPrefix) {
		return p.warm(c, n, func(i int) []string { return []string{"GET", keyName(prefix, i)} })
	}
	return nil
}

// seedHashes writes n hashes of the given number of fields.
func (p *peer) seedHashes(prefix string, n, fields int) error {
	c, err := dial(p.addr)
	if err != nil {
		return err
	}
	defer c.close()
	for i := range n {
		args := []string{"HSET", keyName(prefix, i)}
		for f := range fields {
			args = append(args, fmt.Sprintf("field%02d", f), value(defaultSize))
		}
		if err := c.send(args...); err != nil {
			return err
		}
	}
	if err := c.wait(); err != nil {
		return err
	}
	if p.kind == kindNearside {
		return p.warm(c, n, func(i int) []string { return []string{"HGETALL", keyName(prefix, i)} })
	}
	return nil
}

// warm reads all keys until hardly any read misses: what a write or an
// invalidation overtook is fetched again.
func (p *peer) warm(c *client, n int, read func(i int) []string) error {
	last := -1.0
	for round := 0; ; round++ {
		before, err := p.metrics(mMisses)
		if err != nil {
			return err
		}
		for i := range n {
			if err := c.send(read(i)...); err != nil {
				return err
			}
		}
		if err := c.wait(); err != nil {
			return err
		}
		after, err := p.metrics(mMisses)
		if err != nil {
			return err
		}
		missed := after[mMisses] - before[mMisses]
		if missed <= float64(n)/10000 || round >= 20 || (round >= 5 && missed == last) {
			return nil
		}
		last = missed
	}
}

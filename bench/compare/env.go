package main

import (
	"fmt"
	"slices"
)

// Keys and values of the standard rows.
const (
	hotKeys    = 1000
	hashKeys   = 1000
	hashFields = 20

	hashPrefix = hotPrefix + "h:"
)

// sizes are the other sizes of values, with how many keys have one: a million
// bytes a thousand times would not fit into the sample configuration's memory.
var sizes = []struct {
	size, keys int
	name       string
	rate       float64 // of the open loop
}{
	{340, 1000, "340 B", 20000},
	{10 << 10, 1000, "10 KB", 10000},
	{1000000, 8, "1 MB", 200},
}

func sizePrefix(size int) string { return fmt.Sprintf("%ss%d:", hotPrefix, size) }

// peers gives the named standard peers, started and filled when they are first
// asked for, and the external ones.
func (b *bench) peers(names ...string) ([]*peer, error) {
	var all []*peer
	for _, name := range names {
		if name == "nearside" {
			for _, bin := range b.binaries {
				p, err := b.peer(bin.name)
				if err != nil {
					return nil, err
				}
				all = append(all, p)
			}
			continue
		}
		p, err := b.peer(name)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// peer gives one of them.
func (b *bench) peer(name string) (*peer, error) {
	if p := b.known[name]; p != nil {
		return p, nil
	}
	p, err := b.startPeer(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if b.known == nil {
		b.known = map[string]*peer{}
	}
	b.known[name] = p
	return p, nil
}

func (b *bench) startPeer(name string) (*peer, error) {
	switch name {
	case "redis":
		p, err := b.lab.redis(name)
		if err != nil {
			return nil, err
		}
		err = p.fill()
		return p, err
	case "redcon":
		return b.lab.redcon()
	case "ceiling":
		return b.lab.ceiling()
	case "nutcracker", "haproxy":
		origin, err := b.peer("redis")
		if err != nil {
			return nil, err
		}
		if name == "haproxy" {
			return b.lab.haproxy(origin)
		}
		return b.lab.nutcracker(origin)
	}
	for _, bin := range b.binaries {
		if bin.name == name {
			_, p, err := b.pair(name, bin, nil)
			if err != nil {
				return nil, err
			}
			err = p.fill()
			return p, err
		}
	}
	for _, p := range b.external {
		if p.name == name {
			err := p.fill()
			return p, err
		}
	}
	return nil, fmt.Errorf("no such peer")
}

// pair starts a nearside and a Redis of its own.
func (b *bench) pair(name string, bin binary, change map[string]string, env ...string) (origin, near *peer, err error) {
	if origin, err = b.lab.redis("redis of " + name); err != nil {
		return nil, nil, err
	}
	near, err = b.lab.nearside(name, bin.path, origin, change, env...)
	return origin, near, err
}

// first is the nearside that scenarios use which compare nothing with others.
func (b *bench) first() (*peer, error) { return b.peer(b.binaries[0].name) }

// fill writes and warms everything that the standard rows read.
func (p *peer) fill() error {
	if err := p.seed(coldPrefix, hotKeys, defaultSize); err != nil {
		return err
	}
	for _, s := range sizes {
		if err := p.seed(sizePrefix(s.size), s.keys, s.size); err != nil {
			return err
		}
	}
	if err := p.seedHashes(hashPrefix, hashKeys, hashFields); err != nil {
		return err
	}
	return p.seed(hotPrefix, hotKeys, defaultSize)
}

// outsiders are the names of the external peers.
func (b *bench) outsiders() []string {
	var names []string
	for _, p := range b.external {
		names = append(names, p.name)
	}
	return names
}

// big is what a nearside needs for more keys than the sample configuration allows.
var big = map[string]string{"  memory: ": "1GiB", "  max_entries: ": "0"}

const bigNote = "memory 1GiB, max_entries 0"

// names joins lists of names.
func names(lists ...[]string) []string { return slices.Concat(lists...) }

package proxy

import (
	"encoding/binary"
	"fmt"
	"strings"

	"nearside/policy"
)

// op is what is remembered of a command until its reply is in the output, to tell how
// long it took. Times are those of Proxy.clock.
type op struct {
	cmd   *policy.Command // nil: unknown
	rule  *policy.Rule    // of its first key, or nil
	path  path
	timed bool // not nearside's own
	waits bool // by design: never slow
	shape argShape

	read     int64 // the batch of requests that it came with was read
	sent     int64 // it was given to a connection of the origin
	answered int64 // the reply was read
}

// argShape is what is kept of a command's arguments: keys, or their beginnings, and
// the sizes of all others, whose bytes nobody may see in a log.
type argShape struct {
	argc  uint32 // all of them, the name included
	kept  uint8
	bytes [62]byte
}

const (
	keptKey   = 40 // bytes of a key that are kept
	shapeHead = 5  // most bytes of a size: arguments are below 512 MiB
)

// note keeps the arguments of a command.
func (h *argShape) note(cmd *policy.Command, args [][]byte, keys []policy.Key) {
	*h = argShape{argc: uint32(len(args))}
	if !namesKeys(cmd) {
		keys = nil // they are guessed
	}
	at, key := 0, 0
	for i := words(cmd); i < len(args) && at+shapeHead <= len(h.bytes); i++ {
		for key < len(keys) && keys[key].Pos < i {
			key++
		}
		size := uint64(len(args[i])) << 1
		if key == len(keys) || keys[key].Pos != i {
			at += binary.PutUvarint(h.bytes[at:], size)
		} else {
			at += binary.PutUvarint(h.bytes[at:], size|1)
			at += copy(h.bytes[at:], args[i][:min(len(args[i]), keptKey)])
		}
		h.kept++
	}
}

// namesKeys tells whether it is known which arguments of a command are keys. Of
// what policy does not know it takes every argument for one.
func namesKeys(cmd *policy.Command) bool {
	return policy.FamilyOf(cmd) != policy.Other && (cmd.First > 0 || cmd.Flags.Has(policy.FlagMovableKeys))
}

// words is how many arguments the command's name takes.
func words(cmd *policy.Command) int {
	if cmd != nil && strings.IndexByte(cmd.Name, '|') >= 0 {
		return 2
	}
	return 1
}

// list are the arguments as a slow log shows them.
func (h *argShape) list(cmd *policy.Command) []string {
	list := strings.Split(commandName(cmd), "|")
	b := h.bytes[:]
	for range h.kept {
		size, n := binary.Uvarint(b)
		b = b[n:]
		if size&1 == 0 {
			list = append(list, fmt.Sprintf("(%d bytes)", size>>1))
			continue
		}
		have := min(int(size>>1), keptKey, len(b))
		key := string(b[:have])
		if more := int(size>>1) - have; more > 0 {
			key += fmt.Sprintf("... (%d more bytes)", more)
		}
		list = append(list, key)
		b = b[have:]
	}
	if more := int(h.argc) - words(cmd) - int(h.kept); more > 0 {
		list = append(list, fmt.Sprintf("... (%d more arguments)", more))
	}
	return list
}

// commandName is what a command is called in a log: never by the client's own
// words, which may be anything.
func commandName(cmd *policy.Command) string {
	if cmd == nil {
		return "unknown"
	}
	return cmd.Name
}

package main

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/tidwall/redcon"
)

// floor is a bare redcon server that answers GET with a constant: what nearside
// would cost if it did nothing. CONSTANT n says of how many bytes.
func floor(addr string) error {
	constant := bytes.Repeat([]byte{'x'}, 16)
	return redcon.ListenAndServe(addr, func(c redcon.Conn, cmd redcon.Command) {
		switch strings.ToLower(string(cmd.Args[0])) {
		case "get":
			c.WriteBulk(constant)
		case "ping":
			c.WriteString("PONG")
		case "constant":
			if n, err := strconv.Atoi(string(cmd.Args[len(cmd.Args)-1])); err == nil {
				// The harness asks for it while nobody else is connected.
				constant = bytes.Repeat([]byte{'x'}, n)
			}
			c.WriteString("OK")
		case "set", "select":
			c.WriteString("OK")
		default:
			c.WriteError("ERR not part of the floor")
		}
	}, nil, nil)
}

package main

import (
	"fmt"
	"io"
	"net"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"

	"nearside/proxy"
)

// startEmbedded starts a Redis inside this process, for trying nearside out,
// on a loopback port of its own.
func startEmbedded(cfg *proxy.Config) (stop func(), err error) {
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		return nil, fmt.Errorf("the embedded Redis did not start: %w", err)
	}
	m.ClockTTL(true) // or TTLs would stand still
	// miniredis answers COMMAND DOCS with the list of all commands, at which an
	// interactive redis-cli aborts; by an error it goes on with COMMAND.
	m.Server().SetPreHook(func(c *server.Peer, cmd string, args ...string) bool {
		if cmd != "COMMAND" || len(args) == 0 {
			return false
		}
		c.WriteError("ERR unknown subcommand '" + args[0] + "'. Try COMMAND HELP.")
		return true
	})
	cfg.Redis = "redis://" + m.Addr()
	cfg.Embedded = true
	return m.Close, nil
}

// greet tells a newcomer how to talk to nearside.
func greet(w io.Writer, clients []net.Addr, admin net.Addr, cfg *proxy.Config) {
	fmt.Fprintf(w, "nearside is ready, in front of an embedded Redis that forgets everything at the end.\n\n")
	for _, a := range clients {
		if host, port, err := net.SplitHostPort(a.String()); err == nil && a.Network() != "unix" {
			fmt.Fprintf(w, "  clients    %s\n", a)
			fmt.Fprintf(w, "  try        redis-cli -h %s -p %s SET product:1 tea\n", host, port)
			fmt.Fprintf(w, "             redis-cli -h %s -p %s GET product:1\n", host, port)
			fmt.Fprintf(w, "             redis-cli -h %s -p %s NEARSIDE HELP\n", host, port)
			continue
		}
		fmt.Fprintf(w, "  clients    unix:%s\n", a)
		fmt.Fprintf(w, "  try        redis-cli -s %s SET product:1 tea\n", a)
	}
	if admin != nil {
		fmt.Fprintf(w, "  look       http://%s/\n", admin)
	}
	fmt.Fprintf(w, "  rules      %d, from the sample %s\n", len(cfg.Rules), sampleName)
	fmt.Fprintf(w, "\nYour own Redis: nearside -redis redis://HOST:PORT, or nearside -config FILE. Ctrl-C ends it.\n")
}

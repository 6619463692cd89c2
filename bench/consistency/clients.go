package main

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// clientTimeout is longer than Redis is ever frozen.
const clientTimeout = 3 * time.Second

func newClient(addr string, proto, db int) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: addr, Protocol: proto, DB: db, PoolSize: 1, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
		DialTimeout: time.Second, ReadTimeout: clientTimeout, WriteTimeout: clientTimeout, PoolTimeout: 2 * clientTimeout,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// client is one connection of a worker's own.
type client struct {
	*redis.Client
	via  int
	name string
}

func (c *client) Close() { _ = c.Client.Close() }

func closeAll(list []*client) {
	for _, c := range list {
		c.Close()
	}
}

func (c *check) client(via, proto, db int, name string) *client {
	return &client{newClient(c.addr(via), proto, db), via, fmt.Sprintf("%s via %s (RESP%d, db %d)", name, viaNames[via], proto, db)}
}

func (c *check) addr(via int) string {
	if via == direct {
		return c.redis.addr
	}
	return c.near[via-1].addr
}

// unsent tells whether an error means that a command cannot have been executed.
func unsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// payload makes a value that was never written before. Its first bytes tell it from all others.
func (c *check) payload(r *rand.Rand) string {
	return fmt.Sprintf("%0*d", headLen, c.seq.Add(1)) + strings.Repeat("·", 1+r.IntN(24))
}

const headLen = 12

// slot chooses a key, some of them much more often than others: only a key
// that nobody writes for a while can be stale for long.
func (c *check) slot(r *rand.Rand) int {
	return int(math.Pow(r.Float64(), c.cfg.Skew) * float64(len(c.slots)))
}

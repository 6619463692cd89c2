package main

import (
	"context"
	"fmt"
	"time"
)

// A busy server's event loop has long passes in which much happens at once: only then does an acknowledgement leave long enough
// before the invalidations that a PONG can be between them.

// keepBusy keeps the server's main thread busy, for a millisecond or less at a time.
func (c *check) keepBusy(ctx context.Context, n int) {
	cl := c.client(direct, 3, 0, fmt.Sprintf("slow %d", n))
	defer cl.Close()
	const script = "local x = 0 for i = 1, tonumber(ARGV[1]) do x = x + i % 7 end return x"
	for i := 0; ctx.Err() == nil; i++ {
		if err := cl.Eval(ctx, script, nil, 1000+i*7919%60000).Err(); err != nil {
			pause(ctx, 10*time.Millisecond)
		}
	}
}

// pipelined writes keys that nobody reads, many in one batch.
func (c *check) pipelined(ctx context.Context, n int) {
	cl := c.client(direct, 3, 1, fmt.Sprintf("pipelined writer %d", n))
	defer cl.Close()
	for ctx.Err() == nil {
		p := cl.Pipeline()
		for i := range 32 {
			p.Set(ctx, fmt.Sprintf("product:pipelined:%d:%d", n, i%4), "x", time.Minute)
		}
		if _, err := p.Exec(ctx); err != nil {
			pause(ctx, 10*time.Millisecond)
		}
	}
}

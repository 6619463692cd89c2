package proxy

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"nearside/policy"
)

// Redis closes a connection that asks or is told too much, with everything that is
// outstanding there:
//
//   - An argument larger than proto-max-bulk-len. nearside answers that as Redis does,
//     if it knows the number, and sends what is large in a lane, if not.
//   - Replies that exceed client-output-buffer-limit normal: without a limit, unless
//     somebody has set one. If so, all commands go in lanes whose replies may be of any
//     size: one session's may cost itself the connection, as at Redis.
//   - maxmemory-clients: shared connections are exempt (origin sends CLIENT NO-EVICT).

// limitsEvery is how often Redis is asked for them.
const limitsEvery = 10 * time.Second

type limits struct {
	bulk   atomic.Int64 // proto-max-bulk-len; 0: not known
	narrow atomic.Bool  // there is a limit for replies
	asked  chan struct{}
}

func (l *limits) init() { l.asked = make(chan struct{}, 1) }

// look has Redis asked soon.
func (l *limits) look() {
	select {
	case l.asked <- struct{}{}:
	default:
	}
}

// run asks Redis until ctx ends.
func (l *limits) run(ctx context.Context, p *Proxy) {
	ticks := time.NewTicker(limitsEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		case <-l.asked:
		}
		l.learn(ctx, p)
	}
}

// learn asks. What is not told stays as it was known: nothing, or that of before.
func (l *limits) learn(ctx context.Context, p *Proxy) {
	ask := func(name string) string {
		ctx, cancel := context.WithTimeout(ctx, factsTimeout)
		defer cancel()
		got, err := p.origin.Control().ConfigGet(ctx, name).Result()
		if err != nil {
			return ""
		}
		return got[name]
	}
	if n, err := strconv.ParseInt(ask("proto-max-bulk-len"), 10, 64); err == nil {
		l.bulk.Store(n)
	}
	if classes := ask("client-output-buffer-limit"); classes != "" {
		if narrow := limited(classes); narrow != l.narrow.Swap(narrow) && narrow {
			p.log.Warn("Redis limits the replies of a client (client-output-buffer-limit normal): commands whose replies may be large do not share connections, which costs time")
		}
	}
}

// limited reads client-output-buffer-limit: "normal 0 0 0 slave 268435456 …".
func limited(classes string) bool {
	f := strings.Fields(classes)
	for i := 0; i+3 < len(f); i += 4 {
		if f[i] == "normal" {
			return f[i+1] != "0" || f[i+2] != "0"
		}
	}
	return false
}

// tooLong tells whether Redis refuses an argument of that size.
func (l *limits) tooLong(size int64) bool {
	most := l.bulk.Load()
	return most > 0 && size > most
}

// smallReply tells whether a command's reply is small, whatever it is asked: a number,
// or a word.
func smallReply(c *policy.Command, args [][]byte) bool {
	if c == nil {
		return false
	}
	if c.Name == "set" {
		for _, a := range args[min(3, len(args)):] {
			if policy.Is(a, "get") {
				return false
			}
		}
		return true
	}
	return smallReplies[c.Name]
}

var smallReplies = func() map[string]bool {
	m := map[string]bool{}
	for _, name := range strings.Fields(`
		append decr decrby incr incrby incrbyfloat mset msetnx psetex setex setnx setrange strlen
		bitcount bitop bitpos getbit setbit pfadd pfcount pfmerge
		linsert llen lpush lpushx lrem lset ltrim rpush rpushx
		hdel hexists hincrby hincrbyfloat hlen hmset hset hsetnx hstrlen
		sadd scard sdiffstore sintercard sinterstore sismember smove srem sunionstore
		zadd zcard zcount zdiffstore zincrby zintercard zinterstore zlexcount zrangestore zrank zrem zremrangebylex zremrangebyrank zremrangebyscore zrevrank zscore zunionstore
		geoadd geodist geosearchstore xack xadd xdel xlen xtrim
		copy del exists expire expireat expiretime move persist pexpire pexpireat pexpiretime pttl rename renamenx restore touch ttl type unlink
		publish spublish ping dbsize lastsave time`) {
		m[name] = true
	}
	return m
}()

package proxy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// A client learns, in one of the ways that a fence is for and in no other, that
// something was written elsewhere, while the news of it to its own nearside is
// held back on the link. With the fence it never reads the older value. Without
// it it does: that shows that the fence is what helps, and that the bound alone,
// which is far away here, is not meant for this.
func TestLearnedOnAnotherWay(t *testing.T) {
	type client = redistest.Client
	ways := []struct {
		name, fence string
		prepare     func(t *testing.T, writer, sub *client)
		tell        func(t *testing.T, writer *client)      // after the write
		learn       func(t *testing.T, reader, sub *client) // before the read
	}{
		{
			name: "lock", fence: "locks",
			prepare: func(t *testing.T, writer, _ *client) {
				t.Helper()
				want(t, writer, "OK", "SET", "recharge:balance:7", "a", "NX", "PX", "60000")
			},
			tell: func(t *testing.T, writer *client) {
				t.Helper()
				want(t, writer, "1", "EVAL", release, "1", "recharge:balance:7", "a")
			},
			learn: func(t *testing.T, reader, _ *client) {
				t.Helper()
				want(t, reader, "OK", "SET", "recharge:balance:7", "b", "NX", "PX", "60000")
			},
		},
		{
			name: "script", fence: "scripts",
			tell: func(t *testing.T, writer *client) {
				t.Helper()
				want(t, writer, "OK", "SET", "flag", "written")
			},
			learn: func(t *testing.T, reader, _ *client) {
				t.Helper()
				want(t, reader, "written", "EVAL", "return redis.call(ARGV[1], KEYS[1])", "1", "flag", "get")
			},
		},
		{
			name: "message", fence: "messages",
			prepare: func(t *testing.T, _, sub *client) {
				t.Helper()
				want(t, sub, "[subscribe changed 1]", "SUBSCRIBE", "changed")
			},
			tell: func(t *testing.T, writer *client) {
				t.Helper()
				want(t, writer, "1", "PUBLISH", "changed", "balance:7")
			},
			learn: func(t *testing.T, _, sub *client) {
				t.Helper()
				if got := sub.Read(); got != "[message changed balance:7]" {
					t.Fatalf("the subscriber got %s", got)
				}
			},
		},
	}
	words := []string{"locks", "scripts", "messages"}
	for _, way := range ways {
		for _, writes := range []string{"through another nearside", "directly"} {
			for _, fenced := range []bool{true, false} {
				name := strings.Join([]string{way.name, writes, map[bool]string{true: "fenced", false: "not fenced"}[fenced]}, "/")
				t.Run(name, func(t *testing.T) {
					bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
						relay, b, _ := onRelay(t, redis, linked(source, maxStaleness(time.Minute), func(c *Config) {
							c.Fence = words
							if !fenced {
								c.Fence = slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == way.fence })
							}
						}))
						writer := redistest.Dial(t, redis.Addr)
						if writes == "directly" {
							defer writer.Close()
						} else {
							writer.Close()
							writer = start(t, redis, linked(source)).dial()
						}
						direct := writes == "directly"
						write := func(value string) {
							if direct {
								want(t, writer, "OK", "SELECT", "1")
							}
							want(t, writer, "OK", "SET", "balance:7", value)
							if direct {
								want(t, writer, "OK", "SELECT", "0")
							}
						}
						reader, sub := b.dial(), b.dial()
						write("old")
						b.eventually("the old value is there", func() bool { return reader.Do("GET", "balance:7") == "old" })
						b.warm(reader, "GET", "balance:7")
						if way.prepare != nil {
							way.prepare(t, writer, sub)
						}

						held := relay.HoldReply(told[source])
						write("new")
						<-held.Arrived
						want(t, reader, "old", "GET", "balance:7") // nothing has been learned yet
						way.tell(t, writer)
						way.learn(t, reader, sub)
						expected := "old"
						if fenced {
							expected = "new"
						}
						want(t, reader, expected, "GET", "balance:7")
						held.Release()
						b.eventually("the link tells in the end", func() bool { return reader.Do("GET", "balance:7") == "new" })
					})
				})
			}
		}
	}
}

// A pending fence holds up every session, not only the one whose client learned
// something: it may have told the others.
func TestFenceHoldsForAllSessions(t *testing.T) {
	bySource(t, func(t *testing.T, redis *redistest.Server, source string) {
		relay, n, _ := onRelay(t, redis, linked(source, maxStaleness(time.Minute)))
		learner, reader := n.dial(), n.dial()
		redis.DoDB(1, "SET", "balance:7", "old")
		n.eventually("the old value is there", func() bool { return reader.Do("GET", "balance:7") == "old" })
		n.warm(reader, "GET", "balance:7")
		held := relay.HoldReply(told[source])
		redis.DoDB(1, "SET", "balance:7", "new")
		<-held.Arrived
		want(t, learner, "OK", "SET", "lock:a", "mine", "NX")
		want(t, reader, "new", "GET", "balance:7")
		held.Release()
	})
}

package proxy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
)

// TestKeyspaceEvents: a subscriber at database 0 of a nearside gets, byte for byte,
// what one at a Redis gets that has all keys in database 0.
func TestKeyspaceEvents(t *testing.T) {
	direct := redistest.Start(t, "--notify-keyspace-events", "KEA")
	behind := redistest.Start(t, "--notify-keyspace-events", "KEA")
	n := start(t, behind, nil)
	for proto := 2; proto <= 3; proto++ {
		for _, subscribe := range [][]string{
			{"SUBSCRIBE", "__keyspace@0__:product:1"},
			{"SUBSCRIBE", "__keyspace@0__:plain", "other", "__keyspace@0__:product:1", "other"},
			{"SUBSCRIBE", "__keyevent@0__:set", "__keyevent@0__:del"},
			{"PSUBSCRIBE", "__keyspace@0__:*"},
			{"PSUBSCRIBE", "__key*@0__:*"},
			{"PSUBSCRIBE", "__keyevent@0__:*", "__keyspace@0__:product:*", "x*"},
		} {
			t.Run(fmt.Sprint(proto, subscribe), func(t *testing.T) {
				var got [2]string
				for i, addr := range []string{direct.Addr, n.addr} {
					sub, w := redistest.Dial(t, addr), redistest.Dial(t, addr)
					sub.Do("HELLO", fmt.Sprint(proto))
					read := newRaw(sub)
					sub.Send(subscribe...)
					sub.Send("SUBSCRIBE", "end", "end2")
					sub.Send("PSUBSCRIBE", "e?d")
					read.until("e?d\r\n:") // all is confirmed: what follows must not be missed
					for _, key := range []string{"product:1", "plain", "lock:1", "product:", "balance:2"} {
						w.Do("SET", key, "v")
						w.Do("DEL", key)
					}
					w.Do("PUBLISH", "other", "hello")
					sub.Send("UNSUBSCRIBE", "end2", "never", "__keyspace@0__:product:1")
					read.until("__keyspace@0__:product:1\r\n:")
					w.Do("SET", "product:1", "v")
					w.Do("SET", "product:2", "v")
					w.Do("DEL", "product:1", "product:2")
					w.Do("PUBLISH", "end", "x")
					got[i] = read.until("x\r\n$3\r\nend", "e?d\r\n$3\r\nend\r\n$1\r\nx\r\n")
					sub.Close()
					w.Close()
				}
				if got[0] != got[1] {
					t.Errorf("Redis sends\n%q\nnearside\n%q", got[0], got[1])
				}
			})
		}
	}
}

// raw collects what comes on a connection.
type raw struct {
	c    *redistest.Client
	all  strings.Builder
	seen int
}

func newRaw(c *redistest.Client) *raw { return &raw{c: c} }

// until reads on until the last of the texts has come since the last call, and what
// follows it on its line; it returns everything since the beginning.
func (r *raw) until(texts ...string) string {
	text := texts[len(texts)-1]
	for {
		if i := strings.Index(r.all.String()[r.seen:], text); i >= 0 && strings.HasSuffix(r.all.String(), "\n") {
			r.seen = r.all.Len()
			return r.all.String()
		}
		r.all.WriteString(r.c.Raw(1))
	}
}

// TestKeyspaceEventsView: what is not in the view is not shown, and what the client
// subscribes to by its own name is.
func TestKeyspaceEventsView(t *testing.T) {
	redis := redistest.Start(t, "--notify-keyspace-events", "KEA")
	n := start(t, redis, nil)
	sub := n.dial()
	sub.Do("HELLO", "3")
	sub.Send("PSUBSCRIBE", "__keyspace@0__:*")
	sub.Send("SUBSCRIBE", "__keyspace@1__:product:1", "__keyspace@0__:product:1")
	read := newRaw(sub)
	read.until("@0__:product:1\r\n:3")
	redis.DoDB(0, "SET", "product:1", "not in the view")
	redis.DoDB(1, "SET", "plain", "not in the view")
	redis.DoDB(1, "SET", "product:1", "in the view")
	sub.Send("UNSUBSCRIBE", "__keyspace@1__:product:1")
	read.until("@1__:product:1\r\n:2")
	redis.DoDB(1, "SET", "product:1", "again")
	sub.Send("UNSUBSCRIBE")
	read.until("@0__:product:1\r\n:1")
	sub.Send("UNSUBSCRIBE")
	sub.Send("PUNSUBSCRIBE")
	read.until("__keyspace@0__:*\r\n:0")
	redis.DoDB(1, "SET", "product:1", "nobody listens")
	sub.Send("ECHO", "end")
	got := strings.ReplaceAll(read.until("end\r\n"), "\r\n", " ")
	space := ">4 $8 pmessage $16 __keyspace@0__:* $24 __keyspace@0__:product:1 $3 set "
	message := func(db string) string {
		return ">3 $7 message $24 __keyspace@" + db + "__:product:1 $3 set "
	}
	confirm := func(kind, name string, count int) string {
		return fmt.Sprintf(">3 $%d %s $%d %s :%d ", len(kind), kind, len(name), name, count)
	}
	first := message("1") + message("0") + space
	want := confirm("psubscribe", "__keyspace@0__:*", 1) + confirm("subscribe", "__keyspace@1__:product:1", 2) + confirm("subscribe", "__keyspace@0__:product:1", 3) +
		first + confirm("unsubscribe", "__keyspace@1__:product:1", 2) + message("0") + space +
		confirm("unsubscribe", "__keyspace@0__:product:1", 1) + ">3 $11 unsubscribe _ :1 " + confirm("punsubscribe", "__keyspace@0__:*", 0) + "$3 end "
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	n.eventually("nothing is counted any more", func() bool { return n.budget.used.Load() == 0 })
}

// TestKeyspaceEventsElsewhere: at another database, and where there is nothing to
// join, names mean what they mean to Redis.
func TestKeyspaceEventsElsewhere(t *testing.T) {
	redis := redistest.Start(t, "--notify-keyspace-events", "KEA")
	n := start(t, redis, nil)
	same := start(t, redis, func(c *Config) { c.CacheDB = 0 })
	for _, c := range []*redistest.Client{n.dial(), same.dial()} {
		c.Do("SELECT", "1")
		c.Do("SUBSCRIBE", "__keyspace@0__:product:1")
		redis.DoDB(1, "SET", "product:1", "v")
		redis.DoDB(0, "SET", "product:1", "v")
		if got := c.Read(); !strings.Contains(got, "__keyspace@0__:product:1") {
			t.Errorf("got %q", got)
		}
		c.Send("PING")
		if got := c.Read(); !strings.Contains(got, "pong") {
			t.Errorf("got %q", got)
		}
	}
	// Where neither part of the view is database 0.
	moved := start(t, redis, func(c *Config) {
		c.LocksDB, c.CacheDB = 2, 3
		c.Rules = append([]policy.Rule(nil), sampleRules()...)
	})
	c := moved.dial()
	c.Do("PSUBSCRIBE", "__keyspace@0__:*")
	for db := range 4 {
		redis.DoDB(db, "SET", "product:moved", "v")
		redis.DoDB(db, "SET", "plain:moved", "v")
	}
	for _, key := range []string{"plain:moved", "product:moved"} {
		if got := c.Read(); !strings.Contains(got, "__keyspace@0__:"+key) {
			t.Errorf("got %q", got)
		}
	}
}

// TestKeyspaceEventsWildcard: patterns over the number of the database show what is
// in view as database 0's, once, and everything else as it is.
func TestKeyspaceEventsWildcard(t *testing.T) {
	redis := redistest.Start(t, "--notify-keyspace-events", "KEA")
	n := start(t, redis, nil)
	for _, c := range []struct {
		patterns string
		want     []string
	}{
		{"__keyevent@*__:expired", []string{"@0 product:1", "@0 plain", "@1 unrelated", "@2 product:1"}}, // Spring's default
		{"__keyevent@*", []string{"@0 product:1", "@0 plain", "@1 unrelated", "@2 product:1"}},
		{"__keyevent@0__:expired", []string{"@0 product:1", "@0 plain"}},
		{"__keyevent@1__:expired", []string{"@1 product:1", "@1 unrelated"}},
		{"__keyevent@[01]__:expired", []string{"@0 product:1", "@0 plain", "@1 unrelated"}},
		{"__keyevent@[1-9]__:expired", []string{"@1 product:1", "@1 unrelated", "@2 product:1"}},
		{"__keyevent@[02]__:expired", []string{"@0 product:1", "@0 plain", "@2 product:1"}},
		{"__keyevent@?__:exp*", []string{"@0 product:1", "@0 plain", "@1 unrelated", "@2 product:1"}},
		{"*expired", []string{"@0 product:1", "@0 plain", "@1 unrelated", "@2 product:1"}},
		{"__keyevent@*__:expired __keyevent@0__:expired", []string{"@0 product:1", "@0 product:1", "@0 plain", "@0 plain", "@1 unrelated", "@2 product:1"}},
	} {
		for proto := 2; proto <= 3; proto++ {
			t.Run(fmt.Sprint(proto, c.patterns), func(t *testing.T) {
				sub := n.dial()
				sub.Do("HELLO", fmt.Sprint(proto))
				read := newRaw(sub)
				sub.Send(append([]string{"PSUBSCRIBE"}, strings.Fields(c.patterns)...)...)
				sub.Send("SUBSCRIBE", "end")
				read.until("end\r\n:")
				begin := read.all.Len()
				for _, e := range []string{"0 plain", "0 product:1", "1 product:1", "1 unrelated", "2 product:1"} {
					db, key, _ := strings.Cut(e, " ")
					redis.DoDB(int(db[0]-'0'), "SET", key, "v", "PX", "1")
					n.eventually("the key is gone", func() bool { return redis.DoDB(int(db[0]-'0'), "EXISTS", key) == "0" })
				}
				redis.Do("PUBLISH", "end", "x")
				var got []string
				for _, m := range regexp.MustCompile(`__keyevent(@\d)__:expired\r\n\$\d+\r\n([a-z:1]+)\r\n`).FindAllStringSubmatch(read.until("end\r\n$1\r\nx\r\n")[begin:], -1) {
					got = append(got, m[1]+" "+m[2])
				}
				slices.Sort(got)
				slices.Sort(c.want)
				if !slices.Equal(got, c.want) {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		}
	}
}

// viewPieces are what TestKeyspaceEventsRandom makes patterns of.
var viewPieces = []string{
	"__key", "space", "event", "*", "*", "?", "@", "@0__:", "@1__:", "@*__:", "@[01]__:", "@[0-9]__:", "@[^1]__:", "@2__:", "@?__:", "__:", "product:", "product:*",
	"plain", "set", "s?t", "[ps]*", "1", "0", "\\*", "\\p", "[", "__keyspace@0__:", "__keyevent@0__:", "__keyspace@*__:", "__keyevent@*__:", "__keyspace@1__:", "__key*@0__:", "__key*",
}

var viewStarts = []string{"*", "__key*", "__keyspace@*__:", "__keyevent@*__:", "__key*@0__:", "__key*@[01]__:", "__key*@?__:", "__keyspace@0__:", "__keyevent@[12]__:", "__key*0*"}

// TestKeyspaceEventsRandom: whatever a client at database 0 subscribes to, and takes
// back, it is sent what keyView's doc says, and nothing else.
func TestKeyspaceEventsRandom(t *testing.T) {
	redis := redistest.Start(t, "--notify-keyspace-events", "KEA")
	for _, layout := range []struct{ locks, cache int }{{0, 1}, {2, 0}, {2, 1}} {
		t.Run(fmt.Sprint(layout), func(t *testing.T) {
			n := start(t, redis, func(c *Config) { c.LocksDB, c.CacheDB = layout.locks, layout.cache })
			r := rand.New(rand.NewPCG(11, uint64(layout.cache)))
			dbs := make([]*redistest.Client, 3)
			for db := range dbs {
				dbs[db] = redistest.Dial(t, redis.Addr)
				t.Cleanup(dbs[db].Close)
				dbs[db].Do("SELECT", fmt.Sprint(db))
			}
			keys := []string{"product:1", "plain", "p", "lock:s", "product:@1__:x"}
			events := 0
			for round := range 400 {
				sub := n.dial()
				proto := 2 + round%2
				sub.Do("HELLO", fmt.Sprint(proto))
				read := newRaw(sub)
				patterns, channels := map[string]bool{}, map[string]bool{}
				for range 1 + r.IntN(8) {
					pattern := ""
					if r.IntN(3) > 0 {
						pattern = viewStarts[r.IntN(len(viewStarts))]
					}
					for range 1 + r.IntN(3) {
						pattern += viewPieces[r.IntN(len(viewPieces))]
					}
					channel := fmt.Sprintf("__keyspace@%d__:%s", r.IntN(3), keys[r.IntN(len(keys))])
					switch r.IntN(6) {
					case 0:
						sub.Send("SUBSCRIBE", channel)
						channels[channel] = true
					case 1:
						for had := range patterns {
							sub.Send("PUNSUBSCRIBE", had, "never")
							delete(patterns, had)
							break
						}
					case 2:
						for had := range channels {
							sub.Send("UNSUBSCRIBE", had)
							delete(channels, had)
							break
						}
					default:
						sub.Send("PSUBSCRIBE", pattern, pattern)
						patterns[pattern] = true
					}
				}
				delete(channels, "end")
				sub.Send("SUBSCRIBE", "end")
				read.until("$3\r\nend\r\n:")
				begin := read.all.Len()
				var want []string
				for range 12 {
					db, key := r.IntN(3), keys[r.IntN(len(keys))]
					dbs[db].Do("SET", key, "v")
					inView := n.rules().InView([]byte(key), db)
					for _, e := range [][2]string{{"__keyspace@%d__:" + key, "set"}, {"__keyevent@%d__:set", key}} {
						own, at0 := fmt.Sprintf(e[0], db), fmt.Sprintf(e[0], 0)
						for p := range patterns {
							if inView && globMatch(p, at0) {
								want = append(want, "pmessage "+p+" "+at0+" "+e[1])
							} else if globMatch(p, own) && db != 0 {
								want = append(want, "pmessage "+p+" "+own+" "+e[1])
							}
						}
						if inView && channels[at0] {
							want = append(want, "message "+at0+" "+e[1])
						}
						if db != 0 && channels[own] {
							want = append(want, "message "+own+" "+e[1])
						}
					}
				}
				redis.Do("PUBLISH", "end", "x")
				text := read.until("$3\r\nend\r\n$1\r\nx\r\n")[begin:]
				var got []string
				for _, m := range viewMessage.FindAllStringSubmatch(text, -1) {
					words := strings.Split(strings.Trim(m[1], "\r\n"), "\r\n")
					for i := range len(words) / 2 {
						words[i] = words[2*i+1]
					}
					line := strings.Join(words[:len(words)/2], " ")
					if strings.Contains(line, "__:") { // "*" takes the end, too
						got = append(got, line)
					}
				}
				events += len(want)
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Fatalf("patterns %q, channels %q: got\n%s\nwant\n%s", slices.Collect(maps.Keys(patterns)), slices.Collect(maps.Keys(channels)), strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				sub.Close()
			}
			if events < 500 {
				t.Errorf("only %d messages: this shows little", events)
			}
			n.eventually("nothing is counted any more", func() bool { return n.budget.used.Load() == 0 })
		})
	}
}

var viewMessage = regexp.MustCompile(`(?s)(?:\*|>)[34]\r\n((?:\$\d+\r\n[^\r]*\r\n){3,4})`)

// TestSlowSubscriberSoftLimit: who is more than 8 MiB behind for a minute is closed,
// who catches up in time is not.
func TestSlowSubscriberSoftLimit(t *testing.T) {
	redis := redistest.Start(t)
	n := launch(t, redis.URL(), nil)
	n.awaitLink()
	late := make(chan int64, 1) // nanoseconds to come, kept in a channel of one
	late <- 0
	n.env.slowClock = func() int64 { d := <-late; late <- d; return clockNow() + d }
	pass := func(d time.Duration) { late <- <-late + int64(d) }

	slow, catching := n.dial(), n.dial()
	for _, c := range []*redistest.Client{slow, catching} {
		_ = c.Conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		c.Do("SUBSCRIBE", "ch")
	}
	body := strings.Repeat("m", 1<<20)
	w := n.dial()
	for range 20 { // what the sockets hold is not counted
		want(t, w, "2", "PUBLISH", "ch", body)
	}
	n.eventually("both are behind", func() bool {
		behind := 0
		for _, s := range n.sessionList() {
			if s.account.bytes() > softPushBacklog {
				behind++
			}
		}
		return behind == 2
	})
	pass(30 * time.Second)
	want(t, w, "2", "PUBLISH", "ch", "x")
	for range 21 {
		catching.Read()
	}
	n.eventually("one has caught up", func() bool { return n.budget.used.Load() < 2*softPushBacklog+20<<20 && len(n.sessionList()) >= 3 })
	pass(31 * time.Second)
	w.Do("PUBLISH", "ch", "y")
	n.eventually("the slow one is closed", func() bool { return n.m.slowClosed.Get() == 1 })
	if got := catching.Read(); !strings.Contains(got, "y") {
		t.Errorf("got %.100q", got)
	}
	n.eventually("Redis has one subscriber", func() bool { return w.Do("PUBLISH", "ch", "z") == "1" })
}

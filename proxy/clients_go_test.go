package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-redsync/redsync/v4"
	redsyncredis "github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
)

// goRedis is a go-redis client under test: what it is connected to, and how.
type goRedis struct {
	*redis.Client
	t      *testing.T
	origin *redistest.Server
	n      *nearside
	db     int // of its connections
}

func (c goRedis) goContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// dbOf is where the origin must have a key that the client has written.
func (c goRedis) dbOf(key string) int {
	for _, r := range sampleRules() {
		if c.db == 0 && r.Kind == policy.CacheRule && strings.HasPrefix(key, r.Prefix) {
			return 1
		}
	}
	return c.db
}

// there reads a key at the origin, and makes sure that no other database has it.
func (c goRedis) there(t *testing.T, key string) string {
	t.Helper()
	home := c.dbOf(key)
	for db := range 2 {
		if db != home && c.origin.DoDB(db, "EXISTS", key) != "0" {
			t.Errorf("%s must be in database %d alone; it is in %d", key, home, db)
		}
	}
	return c.origin.DoDB(home, "GET", key)
}

// TestGoRedis is go-redis as applications use it, with both protocol versions,
// without SELECT and with.
func TestGoRedis(t *testing.T) {
	tests := []struct {
		name string
		run  func(goRedis)
	}{
		{"pool", testGoPool},
		{"pipeline", testGoPipeline},
		{"TxPipeline", testGoTxPipeline},
		{"WATCH loop", testGoWatch},
		{"Scan", testGoScan},
		{"Subscribe", testGoSubscribe},
		{"BLPop", testGoBLPop},
		{"Script", testGoScript},
		{"deadline", testGoDeadline},
	}
	for _, proto := range []int{2, 3} {
		for _, db := range []int{0, 1} {
			t.Run(fmt.Sprintf("RESP%d DB %d", proto, db), func(t *testing.T) {
				t.Parallel()
				origin := redistest.Start(t)
				n := start(t, origin, nil)
				for _, test := range tests {
					t.Run(test.name, func(t *testing.T) {
						client := redis.NewClient(&redis.Options{
							Addr: n.addr, Protocol: proto, DB: db, PoolSize: 8, MaxRetries: -1, ContextTimeoutEnabled: true,
							OnConnect: func(ctx context.Context, c *redis.Conn) error {
								// The client's own state must be its own.
								return c.ClientSetName(ctx, "go-redis").Err()
							},
						})
						t.Cleanup(func() {
							if err := client.Close(); err != nil {
								t.Error(err)
							}
						})
						origin.Do("FLUSHALL")
						n.awaitFlush()
						test.run(goRedis{client, t, origin, n, db})
					})
				}
			})
		}
	}
}

// awaitFlush waits until what was done at the origin before is known here.
func (n *nearside) awaitFlush() {
	n.t.Helper()
	n.link.Fence()
	if !n.link.Wait(redistest.Timeout, nil) {
		n.t.Fatal("the link does not answer")
	}
}

// blocked is the number of connections that wait at the origin.
func blocked(s *redistest.Server) int {
	n, _ := strconv.Atoi(infoField(s.Do("INFO", "clients"), "blocked_clients"))
	return n
}

// infoField returns one field of INFO's reply.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// mustBe fails the test unless a value is the expected one.
func mustBe[T comparable](t *testing.T, what string, got T, err error, want T) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if got != want {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
}

func testGoPool(c goRedis) {
	t := c.t
	ctx := c.goContext(t)
	name, err := c.ClientGetName(ctx).Result()
	mustBe(t, "CLIENT GETNAME", name, err, "go-redis")

	// More callers than connections; each reads what it wrote.
	var all sync.WaitGroup
	for w := range 24 {
		all.Go(func() {
			for i := range 50 {
				for _, key := range []string{"product:" + strconv.Itoa(w), "lock:" + strconv.Itoa(w), "other:" + strconv.Itoa(w)} {
					value := fmt.Sprintf("%s=%d", key, i)
					if err := c.Set(ctx, key, value, time.Minute).Err(); err != nil {
						t.Errorf("SET %s: %v", key, err)
						return
					}
					if got, err := c.Get(ctx, key).Result(); err != nil || got != value {
						t.Errorf("GET %s: %q, %v; want %q", key, got, err, value)
						return
					}
				}
			}
		})
	}
	all.Wait()
	for _, key := range []string{"product:7", "lock:7", "other:7"} {
		if got := c.there(t, key); got != key+"=49" {
			t.Errorf("the origin has %s = %q", key, got)
		}
	}
	if _, err := c.Get(ctx, "product:none").Result(); !errors.Is(err, redis.Nil) {
		t.Errorf("GET of a missing key: %v, want redis.Nil", err)
	}
	hash := map[string]string{"name": "shoe", "price": "100"}
	added, err := c.HSet(ctx, "product:hash", hash).Result()
	mustBe(t, "HSET", added, err, 2)
	before := c.n.hits()
	c.n.eventually("HGETALL is a hit", func() bool {
		got, err := c.HGetAll(ctx, "product:hash").Result()
		if err != nil || fmt.Sprint(got) != fmt.Sprint(hash) {
			t.Fatalf("HGETALL: %v, %v", got, err)
		}
		c.n.settleCache()
		return c.n.hits() > before
	})
}

func testGoPipeline(c goRedis) {
	t := c.t
	ctx := c.goContext(t)
	const pairs = 500
	var got []*redis.StringCmd
	cmds, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range pairs {
			p.Set(ctx, "product:p", i, 0)
			got = append(got, p.Get(ctx, "product:p"))
			p.Set(ctx, "lock:p", i, time.Minute)
			got = append(got, p.Get(ctx, "lock:p"), p.Get(ctx, "product:p"))
		}
		return nil
	})
	mustBe(t, "replies", len(cmds), err, 5*pairs)
	for i, cmd := range got {
		value, err := cmd.Result()
		mustBe(t, fmt.Sprint("GET number ", i), value, err, strconv.Itoa(i/3))
	}

	// An error stays at its place and harms nothing behind it.
	cmds, err = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, "coupon:a", "text", 0)
		p.Incr(ctx, "coupon:a")
		p.Get(ctx, "coupon:a")
		p.LPush(ctx, "coupon:a", "x")
		p.Get(ctx, "coupon:none")
		p.MGet(ctx, "coupon:a", "lock:none", "coupon:none")
		p.Del(ctx, "coupon:a", "lock:p")
		p.Exists(ctx, "coupon:a", "lock:p", "product:p")
		return nil
	})
	if err == nil || err.Error() != "ERR value is not an integer or out of range" {
		t.Errorf("the pipeline's error is %v", err)
	}
	want := []string{
		"set coupon:a text: OK",
		"incr coupon:a: ERR value is not an integer or out of range",
		"get coupon:a: text",
		"lpush coupon:a x: WRONGTYPE Operation against a key holding the wrong kind of value",
		"get coupon:none: redis: nil",
		"mget coupon:a lock:none coupon:none: [text <nil> <nil>]",
		"del coupon:a lock:p: 2",
		"exists coupon:a lock:p product:p: 1",
	}
	for i, cmd := range cmds {
		if cmd.String() != want[i] {
			t.Errorf("reply %d: %s\n   want: %s", i, cmd, want[i])
		}
	}
}

func testGoTxPipeline(c goRedis) {
	t := c.t
	ctx := c.goContext(t)
	if _, err := c.Get(ctx, "product:tx").Result(); !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	for i := range 20 {
		cmds, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, "product:tx", i, 0)
			p.Incr(ctx, "product:tx")
			p.Set(ctx, "lock:tx", i, time.Minute)
			p.Get(ctx, "product:tx")
			p.MGet(ctx, "lock:tx", "product:tx")
			return nil
		})
		mustBe(t, "EXEC", len(cmds), err, 5)
		value, err := cmds[3].(*redis.StringCmd).Result()
		mustBe(t, "GET inside", value, err, strconv.Itoa(i+1))
		mustBe(t, "MGET inside", cmds[4].String(), nil, fmt.Sprintf("mget lock:tx product:tx: [%d %d]", i, i+1))
		value, err = c.Get(ctx, "product:tx").Result()
		mustBe(t, "GET after", value, err, strconv.Itoa(i+1))
	}
	mustBe(t, "the origin's product:tx", c.there(t, "product:tx"), nil, "20")
	mustBe(t, "the origin's lock:tx", c.there(t, "lock:tx"), nil, "19")

	// A command that cannot be queued aborts the whole.
	_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, "product:tx", "never", 0)
		p.Do(ctx, "GET")
		return nil
	})
	if err == nil || !strings.HasPrefix(err.Error(), "ERR wrong number of arguments") && !strings.HasPrefix(err.Error(), "EXECABORT") {
		t.Errorf("a transaction with a bad command: %v", err)
	}
	value, err := c.Get(ctx, "product:tx").Result()
	mustBe(t, "GET after the abort", value, err, "20")
}

// testGoWatch is optimistic locking under contention, on keys of one database
// and of the other: WATCH, GET, MULTI, SET, EXEC, and again if somebody was faster.
func testGoWatch(c goRedis) {
	t := c.t
	ctx := c.goContext(t)
	const workers, each = 8, 25
	var lost atomic.Int64
	for _, key := range []string{"balance:shared", "lock:shared"} {
		var all sync.WaitGroup
		for range workers {
			all.Go(func() {
				for range each {
					for {
						err := c.Watch(ctx, func(tx *redis.Tx) error {
							n, err := tx.Get(ctx, key).Int()
							if err != nil && !errors.Is(err, redis.Nil) {
								return err
							}
							_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
								p.Set(ctx, key, n+1, 0)
								return nil
							})
							return err
						}, key)
						if err == nil {
							break
						}
						if !errors.Is(err, redis.TxFailedErr) {
							t.Errorf("%s: %v", key, err)
							return
						}
						lost.Add(1)
					}
					// What others see meanwhile comes from the near cache, and never goes back.
					if _, err := c.Get(ctx, key).Int(); err != nil {
						t.Errorf("GET %s: %v", key, err)
						return
					}
				}
			})
		}
		all.Wait()
		got, err := c.Get(ctx, key).Int()
		mustBe(t, key, got, err, workers*each)
		mustBe(t, key+" at the origin", c.there(t, key), nil, strconv.Itoa(workers*each))
	}
	if lost.Load() == 0 {
		t.Error("no EXEC was ever refused: the test has shown nothing")
	}

	// A write made past nearside, after WATCH, aborts as well; and UNWATCH forgets.
	err := c.Watch(ctx, func(tx *redis.Tx) error {
		c.origin.DoDB(c.dbOf("balance:shared"), "SET", "balance:shared", "elsewhere")
		_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, "balance:shared", "lost update", 0)
			return nil
		})
		return err
	}, "lock:shared", "balance:shared")
	if !errors.Is(err, redis.TxFailedErr) {
		t.Errorf("EXEC after a write at the origin: %v", err)
	}
	mustBe(t, "balance:shared at the origin", c.there(t, "balance:shared"), nil, "elsewhere")
	err = c.Watch(ctx, func(tx *redis.Tx) error {
		c.origin.DoDB(c.dbOf("balance:shared"), "SET", "balance:shared", "again")
		if err := tx.Unwatch(ctx).Err(); err != nil {
			return err
		}
		_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, "balance:shared", "won", 0)
			return nil
		})
		return err
	}, "balance:shared")
	mustBe(t, "EXEC after UNWATCH", 0, err, 0)
	mustBe(t, "balance:shared at the origin", c.there(t, "balance:shared"), nil, "won")
}

func testGoScan(c goRedis) {
	t := c.t
	ctx := c.goContext(t)
	want := map[string][]string{}
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range 300 {
			for _, prefix := range []string{"product:", "lock:", "free:"} {
				key := prefix + strconv.Itoa(i)
				p.Set(ctx, key, "v", 0)
				want[prefix+"*"] = append(want[prefix+"*"], key)
				want["*"] = append(want["*"], key)
				if strings.HasSuffix(key, "7") {
					want["*7"] = append(want["*7"], key)
				}
			}
		}
		return nil
	})
	mustBe(t, "SET", 0, err, 0)
	// Keys that the view at database 0 hides.
	c.origin.DoDB(0, "SET", "product:hidden", "v")
	c.origin.DoDB(1, "SET", "free:hidden", "v")
	if c.db == 1 {
		want["*"] = append(want["*"], "free:hidden")
		want["free:*"] = append(want["free:*"], "free:hidden")
	}
	want["nothing:*"] = nil
	for pattern, keys := range want {
		for _, count := range []int64{0, 7, 5000} {
			seen := map[string]bool{}
			it := c.Scan(ctx, 0, pattern, count).Iterator()
			for it.Next(ctx) {
				seen[it.Val()] = true
			}
			sameKeys(t, fmt.Sprintf("SCAN MATCH %s COUNT %d", pattern, count), seen, it.Err(), keys)
		}
		list, err := c.Keys(ctx, pattern).Result()
		seen := map[string]bool{}
		for _, k := range list {
			seen[k] = true
		}
		mustBe(t, "KEYS "+pattern, len(list), err, len(seen))
		sameKeys(t, "KEYS "+pattern, seen, err, keys)
	}
	size, err := c.DBSize(ctx).Result()
	if least := int64(len(want["*"])); err != nil || size < least {
		t.Errorf("DBSIZE: %d, %v; want at least %d", size, err, least)
	}
	members := 0
	for i := range 1000 {
		c.SAdd(ctx, "stats:set", i)
	}
	it := c.SScan(ctx, "stats:set", 0, "", 50).Iterator()
	for it.Next(ctx) {
		members++
	}
	if it.Err() != nil || members < 1000 {
		t.Errorf("SSCAN: %d, %v", members, it.Err())
	}
}

func sameKeys(t *testing.T, what string, seen map[string]bool, err error, want []string) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	for _, k := range want {
		if !seen[k] {
			t.Errorf("%s does not find %s", what, k)
			return
		}
		delete(seen, k)
	}
	for k := range seen {
		t.Errorf("%s finds %s", what, k)
		return
	}
}

func testGoSubscribe(c goRedis) {
	t := c.t
	ctx := c.goContext(t)
	sub := c.Subscribe(ctx, "news", "weather")
	t.Cleanup(func() { _ = sub.Close() }) // closed twice if all is well
	expect := func(want string) {
		t.Helper()
		m, err := sub.ReceiveTimeout(ctx, 10*time.Second)
		if err != nil {
			t.Fatalf("waiting for %q: %v", want, err)
		}
		got := ""
		switch m := m.(type) {
		case *redis.Subscription:
			got = fmt.Sprint(m.Kind, " ", m.Channel, " ", m.Count)
		case *redis.Message:
			got = fmt.Sprint(m.Pattern, "|", m.Channel, "|", m.Payload)
		case *redis.Pong:
			got = "pong " + m.Payload
		}
		if got != want {
			t.Fatalf("received %q, want %q", got, want)
		}
	}
	expect("subscribe news 1")
	expect("subscribe weather 2")
	if err := sub.PSubscribe(ctx, "n*"); err != nil {
		t.Fatal(err)
	}
	expect("psubscribe n* 3")
	receivers, err := c.Publish(ctx, "news", "first").Result()
	mustBe(t, "PUBLISH", receivers, err, 2)
	expect("|news|first")
	expect("n*|news|first")
	mustBe(t, "PUBLISH at the origin", c.origin.Do("PUBLISH", "weather", "sun\r\n"), nil, "1")
	expect("|weather|sun\r\n")
	if err := sub.Ping(ctx, "hello"); err != nil {
		t.Fatal(err)
	}
	expect("pong hello")
	if err := sub.Unsubscribe(ctx, "news"); err != nil {
		t.Fatal(err)
	}
	expect("unsubscribe news 2")
	if err := sub.PUnsubscribe(ctx); err != nil {
		t.Fatal(err)
	}
	expect("punsubscribe n* 1")
	receivers, err = c.Publish(ctx, "news", "nobody").Result()
	mustBe(t, "PUBLISH to nobody", receivers, err, 0)

	// Many messages come whole and in order.
	const many = 2000
	var publish sync.WaitGroup
	publish.Go(func() {
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range many {
				p.Publish(ctx, "weather", strconv.Itoa(i))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	for i := range many {
		expect("|weather|" + strconv.Itoa(i))
	}
	publish.Wait()
	if err := sub.Close(); err != nil {
		t.Error(err)
	}
	c.n.eventually("Redis has heard that the subscriber left", func() bool {
		return c.origin.Do("PUBSUB", "NUMSUB", "weather") == "[weather 0]"
	})
}

// testGoBLPop lets several clients wait; each element goes to exactly one.
func testGoBLPop(c goRedis) {
	t := c.t
	ctx := c.goContext(t)
	for _, key := range []string{"stats:queue", "queue"} {
		const waiters = 6
		got := make(chan string, waiters)
		for range waiters {
			go func() {
				v, err := c.BLPop(ctx, 20*time.Second, key).Result()
				if err != nil {
					v = []string{err.Error()}
				}
				got <- strings.Join(v, " ")
			}()
		}
		c.n.eventually("all of them wait", func() bool { return blocked(c.origin) == waiters })
		// They hold nobody up.
		value, err := c.Set(ctx, "product:meanwhile", "x", 0).Result()
		mustBe(t, "SET meanwhile", value, err, "OK")
		var want []string
		for i := range waiters {
			want = append(want, key+" "+strconv.Itoa(i))
			if i%2 == 0 {
				err = c.RPush(ctx, key, i).Err()
			} else if reply := c.origin.DoDB(c.dbOf(key), "RPUSH", key, strconv.Itoa(i)); reply[0] == '-' {
				err = errors.New(reply)
			}
			mustBe(t, "RPUSH", 0, err, 0)
		}
		var all []string
		for range waiters {
			all = append(all, <-got)
		}
		slices.Sort(all)
		mustBe(t, "what came", fmt.Sprint(all), nil, fmt.Sprint(want))
		left, err := c.LLen(ctx, key).Result()
		mustBe(t, "LLEN", left, err, 0)

		begun := time.Now()
		if _, err := c.BLPop(ctx, time.Second, key).Result(); !errors.Is(err, redis.Nil) {
			t.Errorf("BLPOP that times out: %v", err)
		}
		if took := time.Since(begun); took < 900*time.Millisecond || took > 5*time.Second {
			t.Errorf("a timeout of 1 s took %v", took)
		}
	}
}

func testGoScript(c goRedis) {
	t := c.t
	ctx := c.goContext(t)
	for _, key := range []string{"lock:s", "balance:s"} {
		script := redis.NewScript("-- " + t.Name() + key + "\n" + `local n = redis.call("incrby", KEYS[1], ARGV[1]); return {n, "of", KEYS[1]}`)
		exists, err := script.Exists(ctx, c).Result()
		mustBe(t, "SCRIPT EXISTS", fmt.Sprint(exists), err, "[false]")
		if err := script.EvalSha(ctx, c, []string{key}, 1).Err(); !redis.HasErrorPrefix(err, "NOSCRIPT") {
			t.Fatalf("EVALSHA of an unknown script: %v", err)
		}
		for i := 1; i <= 5; i++ { // EVALSHA, NOSCRIPT, EVAL; then EVALSHA
			got, err := script.Run(ctx, c, []string{key}, 10).Result()
			mustBe(t, "the script", fmt.Sprint(got), err, fmt.Sprintf("[%d of %s]", 10*i, key))
			value, err := c.Get(ctx, key).Int()
			mustBe(t, "GET behind the script", value, err, 10*i)
		}
		mustBe(t, "at the origin", c.there(t, key), nil, "50")
	}
	// The usual release.
	unlock := redis.NewScript(release)
	won, err := c.SetNX(ctx, "lock:r", "mine", time.Minute).Result()
	mustBe(t, "SETNX", won, err, true)
	n, err := unlock.Run(ctx, c, []string{"lock:r"}, "theirs").Int()
	mustBe(t, "release by another", n, err, 0)
	n, err = unlock.Run(ctx, c, []string{"lock:r"}, "mine").Int()
	mustBe(t, "release", n, err, 1)
	// In a pipeline, behind other commands.
	cmds, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, "product:s", "2", 0)
		p.SetNX(ctx, "lock:r", "mine", time.Minute)
		unlock.Eval(ctx, p, []string{"lock:r"}, "mine")
		p.Get(ctx, "lock:r")
		return nil
	})
	if !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	mustBe(t, "release in a pipeline", fmt.Sprint(cmds[2].(*redis.Cmd).Val()), nil, "1")
	// A failing script is told in Redis's own words.
	err = redis.NewScript(`return redis.error_reply("OUT of stock")`).Run(ctx, c, []string{"product:s"}).Err()
	if err == nil || err.Error() != "OUT of stock" {
		t.Errorf("a script's own error: %v", err)
	}
	if c.db == 0 {
		err = redis.NewScript(`return redis.call("get", KEYS[1])`).Run(ctx, c, []string{"product:s", "lock:r"}).Err()
		if !redis.HasErrorPrefix(err, "CROSSDB") {
			t.Errorf("a script over both databases: %v", err)
		}
	}
}

// testGoDeadline lets calls run out of time: go-redis closes the connection, and
// nothing that it still owed may answer somebody else's request.
func testGoDeadline(c goRedis) {
	t := c.t
	ctx := c.goContext(t)
	for i := range 20 {
		short, cancel := context.WithTimeout(ctx, 2*time.Millisecond)
		err := c.BLPop(short, 0, "stats:never").Err()
		cancel()
		if err == nil {
			t.Fatal("BLPOP has returned something")
		}
		key := "product:" + strconv.Itoa(i)
		if err := c.Set(ctx, key, i, 0).Err(); err != nil {
			t.Fatal(err)
		}
		got, err := c.Get(ctx, key).Int()
		mustBe(t, key, got, err, i)
	}
	c.n.eventually("nobody waits at the origin for a client that is gone", func() bool {
		return blocked(c.origin) == 0
	})
}

// TestRedsync is mutual exclusion by redsync: a counter that is read from the
// near cache, raised and written back under the lock loses no update.
func TestRedsync(t *testing.T) {
	for _, proto := range []int{2, 3} {
		t.Run(fmt.Sprintf("RESP%d", proto), func(t *testing.T) {
			t.Parallel()
			origin := redistest.Start(t)
			n := start(t, origin, nil)
			client := redis.NewClient(&redis.Options{Addr: n.addr, Protocol: proto, PoolSize: 30, ContextTimeoutEnabled: true})
			t.Cleanup(func() {
				if err := client.Close(); err != nil {
					t.Error(err)
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			locks := redsync.New(redsyncredis.NewPool(client))

			const contenders, each = 20, 3
			var inside, worst atomic.Int64
			var all sync.WaitGroup
			for w := range contenders {
				all.Go(func() {
					for range each {
						m := locks.NewMutex("lock:counter", redsync.WithExpiry(20*time.Second),
							redsync.WithTries(100_000), redsync.WithRetryDelay(2*time.Millisecond))
						if err := m.LockContext(ctx); err != nil {
							t.Errorf("contender %d: Lock: %v", w, err)
							return
						}
						worst.Store(max(worst.Load(), inside.Add(1)))
						err := raiseCounter(ctx, client, m, "stats:counter")
						inside.Add(-1)
						if err != nil {
							t.Errorf("contender %d: %v", w, err)
						}
						if ok, err := m.UnlockContext(ctx); err != nil || !ok {
							t.Errorf("contender %d: Unlock: %v, %v", w, ok, err)
						}
					}
				})
			}
			all.Wait()
			if worst.Load() != 1 {
				t.Errorf("%d contenders held the lock at one time", worst.Load())
			}
			if got := origin.DoDB(1, "GET", "stats:counter"); got != strconv.Itoa(contenders*each) {
				t.Errorf("the counter is %s after %d increments", got, contenders*each)
			}
			if got := origin.Do("EXISTS", "lock:counter"); got != "0" {
				t.Error("the lock is still there")
			}

			// Extend, Valid, and what a second holder is told.
			m := locks.NewMutex("lock:extend", redsync.WithExpiry(5*time.Second), redsync.WithTries(1))
			if err := m.LockContext(ctx); err != nil {
				t.Fatal(err)
			}
			if got := origin.Do("GET", "lock:extend"); got != m.Value() {
				t.Errorf("the origin's lock has %q, redsync %q", got, m.Value())
			}
			origin.Do("PEXPIRE", "lock:extend", "1000")
			if ok, err := m.ExtendContext(ctx); err != nil || !ok {
				t.Errorf("Extend: %v, %v", ok, err)
			}
			if left, _ := strconv.Atoi(origin.Do("PTTL", "lock:extend")); left <= 1000 || left > 5000 {
				t.Errorf("after Extend the lock lives for %d ms", left)
			}
			second := locks.NewMutex("lock:extend", redsync.WithTries(1))
			var taken *redsync.ErrTaken
			if err := second.TryLockContext(ctx); !errors.As(err, &taken) {
				t.Errorf("a second holder is told %v", err)
			}
			if ok, err := second.UnlockContext(ctx); ok || err == nil {
				t.Errorf("somebody else's Unlock: %v, %v", ok, err)
			}
			if ok, err := m.UnlockContext(ctx); err != nil || !ok {
				t.Errorf("Unlock: %v, %v", ok, err)
			}
			if ok, err := m.ExtendContext(ctx); ok || err == nil {
				t.Errorf("Extend after Unlock: %v, %v", ok, err)
			}
			if ok, err := m.UnlockContext(ctx); ok || err == nil {
				t.Errorf("Unlock twice: %v, %v", ok, err)
			}
			if err := second.TryLockContext(ctx); err != nil {
				t.Errorf("the lock is not free: %v", err)
			}
		})
	}
}

// raiseCounter is what the lock is held for. Its read may be a hit.
func raiseCounter(ctx context.Context, client *redis.Client, m *redsync.Mutex, key string) error {
	n, err := client.Get(ctx, key).Int()
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	if ok, err := m.ExtendContext(ctx); err != nil || !ok {
		return fmt.Errorf("Extend: %v, %w", ok, err)
	}
	return client.Set(ctx, key, n+1, 0).Err()
}

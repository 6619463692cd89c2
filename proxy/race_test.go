package proxy

import (
	"strconv"
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
	"nearside/proxy/link"
)

// The tests of this file order two sides of a race by holding bytes back
// between nearside and Redis. Each says which guard it fails without.

// held starts a Redis and a nearside behind a relay.
func heldBack(t *testing.T, change func(*Config)) (*redistest.Server, *redistest.Relay, *nearside) {
	t.Helper()
	redis := redistest.Start(t)
	relay := redistest.NewRelay(t, redis.Addr)
	n := launch(t, relay.URL(), change)
	n.awaitLink()
	return redis, relay, n
}

// invalidated waits until the near cache has been told of a change of a key.
func (n *nearside) invalidatedBy(change func()) {
	n.t.Helper()
	before := n.link.Stats().Keys
	change()
	n.eventually("the invalidation has arrived", func() bool { return n.link.Stats().Keys > before })
}

// waits tells whether some session's reader waits for answers.
func (n *nearside) waits() bool {
	for _, s := range n.sessionList() {
		s.q.mu.Lock()
		w := s.q.waiting
		s.q.mu.Unlock()
		if w {
			return true
		}
	}
	return false
}

// A write and a script on other connections' databases, in one pipeline: the
// script must not run before the write. Guard: follow.
func TestOrderWriteThenScript(t *testing.T) {
	_, relay, n := heldBack(t, nil)
	c := n.dial()
	want(t, c, "OK", "SET", "lock:a", "mine", "NX")
	held := relay.HoldRequest("SET\r\n$9\r\nproduct:1")
	c.Write(redistest.Command("SET", "product:1", "2") + redistest.Command("EVAL", release, "1", "lock:a", "mine"))
	<-held.Arrived
	n.eventually("the session waits before the script", n.waits)
	if at, _ := relay.Find("EVAL", true); at >= 0 {
		t.Error("the script went to Redis while the write was held back")
	}
	held.Release()
	if a, b := c.Read(), c.Read(); a != "OK" || b != "1" {
		t.Errorf("answered %s, %s", a, b)
	}
	set, _ := relay.Find("SET\r\n$9\r\nproduct:1", true)
	eval, _ := relay.Find("EVAL", true)
	if set > eval {
		t.Error("the script came first")
	}
}

// A lock acquisition and a cached read in one pipeline: the read must not be
// looked up before the lock is held. Guard: mayOvertake.
func TestOrderLockThenHit(t *testing.T) {
	redis, relay, n := heldBack(t, func(c *Config) { c.Fence = []string{} })
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "old")
	n.warm(c, "GET", "product:1")
	held := relay.HoldRequest("lock:a")
	c.Write(redistest.Command("SET", "lock:a", "t", "NX", "PX", "5000") + redistest.Command("GET", "product:1"))
	<-held.Arrived
	n.eventually("the session waits before the read", n.waits)
	n.invalidatedBy(func() { redis.DoDB(1, "SET", "product:1", "new") })
	held.Release()
	if a, b := c.Read(), c.Read(); a != "OK" || b != "new" {
		t.Errorf("the holder of the lock read %s, %s", a, b)
	}
}

// From WATCH on reads go to Redis on the watching connection. Guard: pinsData.
func TestOrderWatchThenGet(t *testing.T) {
	redis, relay, n := heldBack(t, nil)
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "old")
	n.warm(c, "GET", "product:1")
	gets := redis.Calls("get")
	held := relay.HoldRequest("WATCH")
	c.Write(redistest.Command("WATCH", "product:1") + redistest.Command("GET", "product:1"))
	<-held.Arrived
	held.Release()
	if a, b := c.Read(), c.Read(); a != "OK" || b != "old" {
		t.Errorf("WATCH, GET answered %s, %s", a, b)
	}
	if got := redis.Calls("get"); got != gets+1 {
		t.Errorf("GET after WATCH did not reach Redis: %d calls", got-gets)
	}
	redis.DoDB(1, "SET", "product:1", "new")
	want(t, c, "OK", "MULTI")
	want(t, c, "QUEUED", "SET", "product:1", "mine")
	want(t, c, "(nil)", "EXEC")
	want(t, c, "new", "GET", "product:1")
}

// The new holder of a lock never reads what the old one overwrote through
// another nearside, even while the invalidation is still on its way. Guard: the
// fence after a lock acquisition.
func TestLockHandedOverBetweenTwoNearsides(t *testing.T) {
	redis, relay, b := heldBack(t, nil)
	a := start(t, redis, nil)
	oldHolder, newHolder := a.dial(), b.dial()
	want(t, oldHolder, "OK", "SET", "balance:7", "100")
	b.warm(newHolder, "GET", "balance:7")
	want(t, oldHolder, "OK", "SET", "recharge:balance:7", "a", "NX", "PX", "10000")

	held := relay.HoldReply("invalidate")
	want(t, oldHolder, "OK", "SET", "balance:7", "150")
	<-held.Arrived
	want(t, oldHolder, "1", "EVAL", release, "1", "recharge:balance:7", "a")
	// The new holder learns by the lock that the old one has finished.
	want(t, newHolder, "OK", "SET", "recharge:balance:7", "b", "NX", "PX", "10000")
	want(t, newHolder, "150", "GET", "balance:7")
	held.Release()
}

// A client that gets a message may rely on what was written before it was
// published. Guard: the fence in outOfBand.
func TestMessageThenRead(t *testing.T) {
	for _, proto := range []string{"2", "3"} {
		t.Run("RESP"+proto, func(t *testing.T) {
			redis, relay, n := heldBack(t, nil)
			c, sub := n.dial(), n.dial()
			sub.Do("HELLO", proto)
			want(t, c, "OK", "SET", "stats:day", "1")
			n.warm(c, "GET", "stats:day")
			sub.Do("SUBSCRIBE", "changed")
			held := relay.HoldReply("invalidate")
			redis.DoDB(1, "SET", "stats:day", "2")
			<-held.Arrived
			redis.Do("PUBLISH", "changed", "stats:day")
			if got := sub.Read(); !strings.Contains(got, "message changed stats:day") {
				t.Fatalf("got %s", got)
			}
			want(t, c, "2", "GET", "stats:day")
			held.Release()
		})
	}
}

// A script that writes a key it does not name. Guards: the suspension while it
// runs and the fence after it.
func TestScriptWritesUndeclaredKey(t *testing.T) {
	_, relay, n := heldBack(t, nil)
	c := n.dial()
	want(t, c, "OK", "SELECT", "1")
	want(t, c, "OK", "SET", "product:1", "old")
	n.warm(c, "GET", "product:1")
	held := relay.HoldReply("invalidate")
	want(t, c, "OK", "EVAL", "return redis.call('set', 'product:1', 'new')", "0")
	<-held.Arrived
	want(t, c, "new", "GET", "product:1")
	held.Release()
}

// A reply that was overtaken by an invalidation answers those who asked before
// and nobody after. Guard: Put stores only under a current stamp.
func TestReplyOvertakenByInvalidation(t *testing.T) {
	redis, relay, n := heldBack(t, nil)
	redis.DoDB(1, "SET", "product:1", "overtaken")
	first, second := n.dial(), n.dial()
	held := relay.HoldReply("overtaken")
	first.Send("GET", "product:1")
	<-held.Arrived
	n.invalidatedBy(func() { redis.DoDB(1, "SET", "product:1", "new") })
	held.Release()
	if got := first.Read(); got != "overtaken" {
		t.Errorf("the first client got %q", got)
	}
	n.settleCache()
	want(t, second, "new", "GET", "product:1")
	want(t, first, "new", "GET", "product:1")
}

// While the reply is on its way others join the fetch; after an invalidation
// they do not. Guard: Join checks the stamp.
func TestOvertakenFetchIsNotJoined(t *testing.T) {
	redis, relay, n := heldBack(t, nil)
	redis.DoDB(1, "SET", "product:1", "overtaken")
	first, joiner, late := n.dial(), n.dial(), n.dial()
	held := relay.HoldReply("overtaken")
	first.Send("GET", "product:1")
	<-held.Arrived
	joiner.Send("GET", "product:1")
	n.eventually("the second client has joined", func() bool { return n.l1.Stats().Joined == 1 })
	n.invalidatedBy(func() { redis.DoDB(1, "SET", "product:1", "new") })
	late.Send("GET", "product:1")
	n.eventually("the third client asks by itself", func() bool { return n.m.fetches.Get() == 2 })
	held.Release()
	if a, b, c := first.Read(), joiner.Read(), late.Read(); a != "overtaken" || b != "overtaken" || c != "new" {
		t.Errorf("got %s, %s, %s", a, b, c)
	}
}

// A read that is sent after the first bump of a write and runs before the write
// must not be kept: it would be served after somebody has seen the new value.
// Guard: a key counts as being written between BeginWrite and EndWrite.
func TestWriteInFlight(t *testing.T) {
	redis, relay, n := heldBack(t, func(c *Config) { c.OriginConnections = 3 })
	redis.DoDB(1, "SET", "product:1", "old")
	// Sessions are spread over the shared connections by their numbers.
	writer, reader, other := n.dial(), n.dial(), n.dial()
	for _, c := range []*redistest.Client{writer, reader, other} {
		want(t, c, "PONG", "PING")
	}
	request := relay.HoldRequest("SET\r\n$9\r\nproduct:1")
	writer.Send("SET", "product:1", "new")
	<-request.Arrived // begun, and not yet at Redis
	want(t, reader, "old", "GET", "product:1")
	n.settleCache()

	push := relay.HoldReply("invalidate") // only nearside's own knowledge counts here
	reply := relay.HoldReply("+OK")
	request.Release()
	<-reply.Arrived // Redis has run it, the writer does not know yet
	<-push.Arrived
	want(t, reader, "new", "GET", "product:1")
	want(t, other, "new", "GET", "product:1")
	reply.Release()
	if got := writer.Read(); got != "OK" {
		t.Errorf("SET answered %q", got)
	}
	want(t, other, "new", "GET", "product:1")
	push.Release()
}

// The link breaks and something changes in the gap. Guards: hits stop first,
// and the generation is raised before they start again.
func TestLinkReconnects(t *testing.T) {
	redis, relay, n := heldBack(t, nil)
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "old")
	n.warm(c, "GET", "product:1")
	_, linkConn := relay.Find("TRACKING", true)
	held := relay.HoldRequest("TRACKING") // of the reconnect
	relay.CutConn(linkConn)
	<-held.Arrived
	if v := n.link.Verdict(clockNow()); v != link.Down {
		t.Errorf("the verdict without tracking is %s", v)
	}
	want(t, c, "old", "GET", "product:1")
	redis.DoDB(1, "SET", "product:1", "new")
	want(t, c, "new", "GET", "product:1")
	held.Release()
	n.awaitLink()
	want(t, c, "new", "GET", "product:1")
}

// A FLUSHDB of any database comes as a null payload and means everything.
func TestFlushOfAnotherDatabase(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "v")
	n.warm(c, "GET", "product:1")
	generation := n.l1.Stats().Generation
	redis.DoDB(5, "FLUSHDB")
	n.eventually("the generation is raised", func() bool { return n.l1.Stats().Generation > generation })
	redis.DoDB(1, "FLUSHDB")
	n.eventually("the value is gone", func() bool { return c.Do("GET", "product:1") == "(nil)" })
}

// A SWAPDB pushes nothing; the check on the link finds it.
func TestSwapDB(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "v")
	n.warm(c, "GET", "product:1")
	redis.Do("SWAPDB", "1", "7")
	n.eventually("the swapped database is seen", func() bool { return c.Do("GET", "product:1") == "(nil)" })
}

// Another server behind the same address: the data connections meet it before
// the link has noticed. Guard: run ids are compared.
func TestAnotherServerAnswers(t *testing.T) {
	old := redistest.Start(t)
	other := redistest.Start(t)
	relay := redistest.NewRelay(t, old.Addr)
	n := launch(t, relay.URL(), nil)
	n.awaitLink()
	c := n.dial()
	want(t, c, "OK", "SET", "product:1", "old")
	n.warm(c, "GET", "product:1")
	other.DoDB(1, "SET", "product:1", "of the other server")

	relay.Redirect(other.Addr)
	_, linkConn := relay.Find("TRACKING", true)
	relay.CutAllBut(linkConn)
	reconnects := n.link.Stats().Reconnects
	n.eventually("a data connection has met the other server", func() bool {
		c.Do("SET", "other", strconv.Itoa(1))
		return n.link.Stats().Reconnects > reconnects
	})
	n.awaitLink()
	want(t, c, "of the other server", "GET", "product:1")
}

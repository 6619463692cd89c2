package link

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	getThreads = "CONFIG GET " + threadsParameter
	change     = ">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\na:1\r\n"
)

func threads(n string) string {
	return fmt.Sprintf("%%1\r\n$10\r\nio-threads\r\n$%d\r\n%s\r\n", len(n), n)
}

func valkey(version string) string {
	return info("redis_version:7.2.4", "server_name:valkey", "valkey_version:"+version, "server_mode:standalone", "gcc_version:14.2.0")
}

func redisInfo(version string) string {
	return info("redis_version:"+version, "redis_mode:standalone", "gcc_version:14.2.0")
}

// upWith connects to a server that answers so, up to where the first PING is to be written.
func (h *harness) upWith(infoServer, configGet string) *fakeConn {
	h.Helper()
	c := h.accept()
	h.next(c, tracking).reply("+OK\r\n")
	h.next(c, "SUBSCRIBE "+Channel).reply(confirmed("subscribe", Channel))
	h.next(c, "INFO server").reply(infoServer)
	if configGet != "" {
		h.next(c, getThreads).reply(configGet)
	}
	h.next(c, "ROLE").reply(master)
	h.next(c, "INFO commandstats").reply(stats("cmdstat_info:calls=5,usec=1"))
	return c
}

// overtaken is a server whose first PONGs are written before the invalidation of a write that was acknowledged before
// all of their PINGs. A PING that comes with the question for the threads is answered so as well.
func (h *harness) overtaken(c *fakeConn, pongs int, configGet string, before func(pong int)) {
	h.Helper()
	for i := range pongs {
		if i == pongs-1 {
			c.push([]byte(change))
		}
		if configGet != "" {
			h.next(c, getThreads).reply(configGet)
		}
		ping := h.next(c, "PING")
		h.idle(c) // the next one is written only when this one is answered
		before(i)
		ping.reply(pong)
	}
}

// A server, and how many PONGs are a proof there.
var proofs = map[string]struct {
	info, config string
	steps        int
	each         string // what the question that comes with each PING is answered; "": there is none
}{
	"Redis 6":                          {redisInfo("6.0.16"), "", 1, ""},
	"Redis 7.2.4":                      {redisInfo("7.2.4"), "", 1, ""},
	"Redis 8, 1 thread":                {redisInfo("8.0.2"), threads("1"), 1, ""},
	"Redis 9, 1 thread":                {redisInfo("9.0.0"), threads("1"), 1, threads("1")},
	"Redis 8":                          {redisInfo("8.0.2"), threads("4"), 2, ""},
	"Redis 8, not permitted":           {redisInfo("8.0.2"), noPerm, 2, ""},
	"Redis 12":                         {redisInfo("12.0.0"), threads("4"), 2, ""},
	"Valkey 7.2":                       {valkey("7.2.5"), "", 1, ""},
	"Valkey 8, 1 thread":               {valkey("8.1.1"), threads("1"), 1, ""},
	"Valkey 9, 1 thread":               {valkey("9.1.2"), threads("1"), 1, threads("1")},
	"Valkey 8":                         {valkey("8.1.1"), threads("2"), 3, ""},
	"Valkey 9":                         {valkey("9.1.2"), threads("4"), 3, ""},
	"Valkey 9, not permitted":          {valkey("9.1.2"), noPerm, 3, ""},
	"Valkey 9, CONFIG renamed":         {valkey("9.1.2"), "-ERR unknown command 'CONFIG', with args beginning with: 'GET' \r\n", 3, ""},
	"Valkey 9, no such parameter":      {valkey("9.1.2"), "%0\r\n", 3, ""},
	"a fork":                           {info("redis_version:7.4.0", "fastis_version:2.0.0"), threads("4"), 3, ""},
	"a fork of one thread":             {info("redis_version:7.4.0", "fastis_version:2.0.0"), threads("1"), 1, threads("1")},
	"a fork by name":                   {info("redis_version:7.2.4", "server_name:fastis"), "%0\r\n", 3, ""},
	"who knows":                        {info("version:1"), threads("4"), 3, ""},
	"an answer that is not one":        {"+OK\r\n", threads("4"), 3, ""},
	"Redis 8, CONFIG GET is not heard": {redisInfo("8.0.2"), "-LOADING\r\n", 2, ""},
}

// The first proof of a connection, a fence, a Sync and the periodic proof: with one PONG too few nothing is served that the
// invalidation, which comes behind it, will outdate.
func TestPongsOvertakeInvalidations(t *testing.T) {
	for name, server := range proofs {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				c := h.upWith(server.info, server.config)
				h.overtaken(c, server.steps, server.each, func(int) { h.verdict(Down) })
				h.verdict(OK)
				h.idle(c)
				if st := h.l.Stats(); st.Steps != server.steps || (st.WhySteps == "") != (server.steps == 1) {
					t.Errorf("Stats say %d: %q", st.Steps, st.WhySteps)
				}

				h.l.Fence()
				waiting := h.wait(3, time.Hour)
				h.overtaken(c, server.steps, server.each, func(int) {
					h.verdict(Fenced)
					if len(waiting) > 0 {
						t.Fatal("Wait has ended")
					}
				})
				h.verdict(OK)
				h.waited(waiting, true)
				h.idle(c)

				syncing := h.sync(1, time.Hour)
				h.overtaken(c, server.steps, server.each, func(int) {
					if len(syncing) > 0 {
						t.Fatal("Sync has ended")
					}
				})
				h.waited(syncing, true)
				h.idle(c)

				time.Sleep(100 * time.Millisecond) // the next interval; the proof is from when its first PING was sent
				was, sent := h.l.proof.Load(), h.now()
				h.overtaken(c, server.steps, server.each, func(int) {
					if h.l.proof.Load() != was {
						t.Fatal("the proof is renewed")
					}
					time.Sleep(10 * time.Millisecond)
				})
				if got := h.l.proof.Load(); got != sent {
					t.Errorf("proven what was known %v after the first PING was sent", time.Duration(got-sent))
				}
			})
		})
	}
}

// A fence that is raised in the middle of a sequence needs a whole one of its own, and no PING more than that.
func TestFenceWithinASequence(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.upWith(valkey("9.1.2"), threads("4"))
		h.overtaken(c, 3, "", func(int) {})
		h.l.Fence()
		h.next(c, "PING").reply(pong)
		second := h.next(c, "PING")
		h.l.Fence()
		first := h.wait(1, 0) // both fences are raised
		h.waited(first, false)
		second.reply(pong)
		h.verdict(Fenced)
		h.next(c, "PING").reply(pong) // the first fence's third, the second one's first
		h.verdict(Fenced)
		h.next(c, "PING").reply(pong)
		h.verdict(Fenced)
		h.next(c, "PING").reply(pong)
		h.verdict(OK)
		h.idle(c)
	})
}

// Threads are switched on while the server runs. The question is asked with each PING, so the first proof after that is
// already one of the longer ones.
func TestThreadsSwitchedOn(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.upWith(valkey("9.1.2"), threads("1"))
		h.overtaken(c, 1, threads("1"), func(int) {})
		h.verdict(OK)
		// Somebody sets 4, a write is acknowledged and not told.
		h.l.Fence()
		config, ping := h.next(c, getThreads), h.next(c, "PING")
		config.reply(threads("4"))
		ping.reply(pong)
		h.verdict(Fenced)
		h.next(c, "PING").reply(pong) // the question need not be asked any more
		h.verdict(Fenced)
		c.push([]byte(change))
		h.next(c, "PING").reply(pong)
		h.verdict(OK)
		if st := h.l.Stats(); st.Steps != 3 || !strings.Contains(st.WhySteps, "io-threads is 4") {
			t.Errorf("Stats say %d: %q", st.Steps, st.WhySteps)
		}
	})
}

// The right to ask is taken away while threads are off: nobody knows any more.
func TestThreadsUnknownFromNowOn(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.upWith(redisInfo("9.0.0"), threads("1"))
		h.overtaken(c, 1, threads("1"), func(int) {})
		h.l.Fence()
		config, ping := h.next(c, getThreads), h.next(c, "PING")
		config.reply(noPerm)
		ping.reply(pong)
		h.verdict(Fenced)
		h.next(c, "PING").reply(pong)
		h.verdict(OK)
		h.next(c, "PING") // without the question
		if st := h.l.Stats(); st.Steps != 2 || !strings.Contains(st.WhySteps, "not permitted") {
			t.Errorf("Stats say %d: %q", st.Steps, st.WhySteps)
		}
	})
}

// Threads are switched off. Writes of before may be acknowledged and not told, so one PONG is enough only after one more of the
// longer proofs.
func TestThreadsSwitchedOff(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.upWith(valkey("9.1.2"), threads("4"))
		h.overtaken(c, 3, "", func(int) {})
		for a := range c.asks {
			if a.args == "ROLE" {
				a.reply(master)
				break
			}
			a.reply(pong)
		}
		h.next(c, getThreads).reply(threads("1"))
		info := h.next(c, "INFO commandstats")
		h.l.Fence()
		info.reply(stats("cmdstat_info:calls=6,usec=1"))
		n := 0
		for ; h.l.Pending(); n++ {
			h.next(c, "PING").reply(pong)
		}
		if n < 3 || n > 4 { // the check and the interval are due at the same time: a PING may have been written with the check
			t.Errorf("%d PONGs were enough", n)
		}
		h.verdict(OK)
		for len(c.asks) > 0 { // what the interval had asked for meanwhile
			(<-c.asks).reply(pong)
		}
		if st := h.l.Stats(); st.Steps != 1 || st.WhySteps != "" {
			t.Errorf("Stats say %d: %q", st.Steps, st.WhySteps)
		}
		h.l.Fence()
		h.next(c, getThreads).reply(threads("1"))
		h.next(c, "PING").reply(pong)
		h.verdict(OK)
	})
}

// A fence of an earlier connection, or of the time between two, waits for a whole proof of the new one.
func TestFenceRaisedBeforeTheConnection(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.serving() // Redis 7
		h.l.Fence()
		h.l.Drop("test")
		h.l.Fence()
		c := h.upWith(valkey("8.1.1"), threads("4"))
		for range 3 {
			h.verdict(Down)
			h.next(c, "PING").reply(pong)
		}
		h.verdict(OK)
	})
}

// While a script keeps the server busy it serves its connections from within the script, and writes replies without the
// invalidations that belong to them. That it does shows: something on the link is answered -BUSY. What comes next may have been read
// before the invalidations are written.
func TestRefusalVoidsTheNextPong(t *testing.T) {
	refusals := map[string]func(h *harness, c *fakeConn){
		"a PING": func(h *harness, c *fakeConn) {
			h.l.Fence()
			h.next(c, "PING").reply("-BUSY\r\n")
			h.verdict(Fenced)
			h.l.Fence()
		},
		"a check": func(h *harness, c *fakeConn) {
			h.pongsUntil(c, "ROLE").reply("-BUSY\r\n")
			info := h.next(c, "INFO commandstats")
			h.l.Fence()
			info.reply("-BUSY\r\n")
		},
	}
	for name, refuse := range refusals {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				c := h.serving()
				refuse(h, c)
				h.next(c, "PING").reply(pong)
				h.verdict(Fenced)
				c.push([]byte(change))
				h.next(c, "PING").reply(pong)
				h.verdict(OK)
			})
		})
	}
}

// INFO is not permitted: HELLO needs no right, but Valkey may say there that it is Redis 7.2.4.
func TestServerByHello(t *testing.T) {
	hello := func(server, version string) string {
		return fmt.Sprintf("%%7\r\n$6\r\nserver\r\n$%d\r\n%s\r\n$7\r\nversion\r\n$%d\r\n%s\r\n$5\r\nproto\r\n:3\r\n", len(server), server, len(version), version)
	}
	for reply, want := range map[string]uint64{
		hello("redis", "7.0.15"):   1,
		hello("redis", "7.2.4"):    3,
		hello("redis", "8.0.2"):    2,
		hello("valkey", "8.1.1"):   3,
		hello("valkey", "7.2.5"):   1,
		hello("fastis", "1.0"):     3,
		"-ERR unknown command\r\n": 3,
		"%1\r\n$6\r\nserver\r\n$9": 3,
	} {
		var got threading
		got.threadsOf(serverByHello([]byte(reply)))
		if got.steps != want {
			t.Errorf("%q: %d (%s), want %d", reply, got.steps, got.server, want)
		}
	}
	inBubble(t, func(h *harness) {
		c := h.accept()
		h.next(c, tracking).reply("+OK\r\n")
		h.next(c, "SUBSCRIBE "+Channel).reply(confirmed("subscribe", Channel))
		h.next(c, "INFO server").reply(noPerm)
		h.next(c, "HELLO 3").reply(hello("redis", "8.0.2"))
		h.next(c, getThreads).reply(noPerm)
		h.next(c, "ROLE").reply(master)
		h.next(c, "INFO commandstats").reply(noPerm)
		h.next(c, "PING").reply(pong)
		h.verdict(Down)
		h.next(c, "PING").reply(pong)
		h.verdict(OK)
	})
}

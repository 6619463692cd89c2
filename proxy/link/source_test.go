package link

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

func inMode(mode string) func(*Link) {
	return func(l *Link) {
		l.cfg.Mode = mode
		if mode == ModeKeyspace {
			l.source = ModeKeyspace
		}
	}
}

func maySet(l *Link) { l.cfg.SetEvents = true }

const (
	getEvents = "CONFIG GET " + eventsParameter
	refusal1  = "-ERR unknown command 'CLIENT', with args beginning with: 'TRACKING' \r\n"
)

// subscribed acknowledges the patterns and Channel.
func (h *harness) subscribed(c *fakeConn) {
	h.Helper()
	for _, prefix := range h.l.terms.Load().prefixes {
		pattern := "__keyspace@0__:" + prefix + "*"
		h.next(c, "PSUBSCRIBE "+pattern).reply(confirmed("psubscribe", pattern))
	}
	h.next(c, "SUBSCRIBE "+Channel).reply(confirmed("subscribe", Channel))
}

// keyspaceUp connects up to where hits are served.
func (h *harness) keyspaceUp() *fakeConn {
	h.Helper()
	c := h.accept()
	h.subscribed(c)
	h.keyspaceChecked(c)
	return c
}

func (h *harness) keyspaceChecked(c *fakeConn) {
	h.Helper()
	h.next(c, "ROLE").reply(master)
	h.next(c, getEvents).reply(events("AK"))
	h.next(c, "INFO commandstats").reply(stats())
	h.verdict(Down)
	h.next(c, "PING").reply(pong)
	h.verdict(OK)
}

func TestKeyspaceOrderOfConnecting(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.accept()
		h.take()
		h.subscribed(c)
		h.next(c, "ROLE").reply(master)
		h.next(c, getEvents).reply(events("AK"))
		h.happened() // the baseline comes before the invalidation
		h.next(c, "INFO commandstats").reply(stats())
		h.happened(connecting...)
		h.next(c, "PING").reply(pong)
		h.verdict(OK)
		if s := h.l.Source(); s != ModeKeyspace {
			t.Fatalf("source %q", s)
		}
		c.push([]byte(">4\r\n$8\r\npmessage\r\n$17\r\n__keyspace@0__:a*\r\n$18\r\n__keyspace@0__:a:1\r\n$3\r\nset\r\n"))
		if !slices.Equal(h.keys, []string{"keyspace a:1"}) {
			t.Fatalf("keys %q", h.keys)
		}
		if st := h.l.Stats(); st.Events != 1 || st.Keys != 0 || st.Silent != "" {
			t.Fatalf("%+v", st)
		}
		// A look-up that found nothing is no change.
		c.push([]byte(">4\r\n$8\r\npmessage\r\n$17\r\n__keyspace@0__:a*\r\n$18\r\n__keyspace@0__:a:2\r\n$7\r\nkeymiss\r\n"))
		if n := h.l.Stats().Events; n != 1 || len(h.keys) != 1 {
			t.Fatalf("%d events, keys %q", n, h.keys)
		}
		// An event of another database cannot be: something is not as it was understood.
		c.push([]byte(">4\r\n$8\r\npmessage\r\n$17\r\n__keyspace@0__:a*\r\n$18\r\n__keyspace@3__:a:1\r\n$3\r\nset\r\n"))
		h.verdict(Down)
	}, inMode(ModeKeyspace))
}

func TestFallsBackToKeyspace(t *testing.T) {
	answers := map[string]bool{
		refusal1: true,
		"-ERR unknown subcommand 'TRACKING'. Try CLIENT HELP.\r\n":                                 true,
		"-ERR Unknown subcommand or wrong number of arguments for 'TRACKING'. Try CLIENT HELP\r\n": true,
		"-NOPERM this user has no permissions to run the 'client|tracking' command\r\n":            true,
		"-ERR Client tracking is not supported here\r\n":                                           true,
		"-ERR Prefix 'a' overlaps with an existing prefix 'ab'.\r\n":                               false,
		"-BUSY Redis is busy running a script.\r\n":                                                false,
		"-LOADING Redis is loading the dataset in memory\r\n":                                      false,
		"-ERR max number of clients reached\r\n":                                                   false,
	}
	for answer, falls := range answers {
		for _, mode := range []string{ModeAuto, ModeTracking} {
			inBubble(t, func(h *harness) {
				c := h.accept()
				h.next(c, tracking).reply(answer)
				if !falls || mode == ModeTracking {
					<-c.done
					if got := h.l.Stats().Silent; !strings.Contains(got, firstLine([]byte(answer))) {
						t.Errorf("%q, %s: explained as %q", answer, mode, got)
					}
					h.next(h.accept(), tracking) // and tries the same again
					return
				}
				h.subscribed(c)
				h.keyspaceChecked(c)
				if got := h.l.Source(); got != ModeKeyspace {
					t.Errorf("source %q", got)
				}
				// The better source is asked for first at each connection.
				c.lose()
				h.serving()
				if got := h.l.Source(); got != ModeTracking {
					t.Errorf("source %q", got)
				}
			}, inMode(mode))
		}
	}
}

func TestKeyspacePatterns(t *testing.T) {
	tests := []struct {
		db       int
		prefixes []string
		want     []string
	}{
		{1, []string{"a:", "b:"}, []string{"__keyspace@1__:a:*", "__keyspace@1__:b:*"}},
		{0, nil, []string{"__keyspace@0__:*"}},
		{12, []string{"a", ""}, []string{"__keyspace@12__:*"}},
		{1, []string{`*?[]\`, "\x00\xff^-"}, []string{`__keyspace@1__:\*\?\[\]\\*`, "__keyspace@1__:\x00\xff^-*"}},
	}
	for _, test := range tests {
		if got := keyspacePatterns(test.db, test.prefixes); !slices.Equal(got, test.want) {
			t.Errorf("%q: %q, want %q", test.prefixes, got, test.want)
		}
	}
}

func TestEnoughEvents(t *testing.T) {
	tests := []struct {
		flags, with string
		enough      bool
	}{
		{"", "KA", false},
		{"K", "KA", false},
		{"A", "KA", false},
		{"AE", "KAE", false},
		{"AK", "KA", true},
		{"AKE", "KAE", true},
		{"Kg$lshztxe", "KA", true},
		{"Kg$lshztxed", "KA", true},
		{"Kg$lshztx", "KA", false},
		{"KEg$lshztemnd", "KAEmn", false},
		{"AKEmn", "KAEmn", true},
	}
	for _, test := range tests {
		if got := enoughEvents(test.flags); got != test.enough {
			t.Errorf("%q: enough is %v", test.flags, got)
		}
		if got := withEvents(test.flags); got != test.with || !enoughEvents(got) {
			t.Errorf("%q becomes %q, want %q", test.flags, got, test.with)
		}
	}
	for _, kind := range allEvents { // each one is needed
		if flags := strings.ReplaceAll("K"+allEvents, string(kind), ""); enoughEvents(flags) {
			t.Errorf("%q is enough", flags)
		}
	}
}

// What keeps hits off is in the log once, in Stats, and gone when it is put right.
func TestKeyspaceRefused(t *testing.T) {
	ask := func(want, reply string) func(h *harness, c *fakeConn) {
		return func(h *harness, c *fakeConn) { h.next(c, want).reply(reply) }
	}
	both := func(h *harness, c *fakeConn) { h.subscribed(c) }
	role, on := ask("ROLE", master), ask(getEvents, events("AK"))
	tests := map[string]struct {
		steps []func(h *harness, c *fakeConn)
		want  string
	}{
		"not enough":      {[]func(*harness, *fakeConn){both, role, ask(getEvents, events("Ex"))}, `notify-keyspace-events is "Ex", which is not enough, so hits stay off: CONFIG SET notify-keyspace-events KAE, or cache.keyspace_events: set`},
		"none":            {[]func(*harness, *fakeConn){both, role, ask(getEvents, events(""))}, `CONFIG SET notify-keyspace-events KA,`},
		"no CONFIG":       {[]func(*harness, *fakeConn){both, role, ask(getEvents, noPerm)}, "CONFIG GET is not permitted"},
		"CONFIG renamed":  {[]func(*harness, *fakeConn){both, role, ask(getEvents, "-ERR unknown command 'CONFIG'\r\n")}, "CONFIG GET is not permitted"},
		"CONFIG is odd":   {[]func(*harness, *fakeConn){both, role, ask(getEvents, "%0\r\n")}, "CONFIG GET notify-keyspace-events was answered"},
		"no INFO":         {[]func(*harness, *fakeConn){both, role, on, ask("INFO", noPerm)}, "INFO is not permitted: FLUSHDB"},
		"a replica":       {[]func(*harness, *fakeConn){both, ask("ROLE", slave), on, ask("INFO", stats())}, "the origin's role is slave"},
		"no subscription": {[]func(*harness, *fakeConn){ask("PSUBSCRIBE", noPerm)}, "PSUBSCRIBE __keyspace@0__:a:* was refused: -NOPERM"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			inBubble(t, func(h *harness) {
				for range 3 {
					c := h.accept()
					for _, step := range test.steps {
						step(h, c)
					}
					<-c.done
					h.verdict(Down)
				}
				if got := h.l.Stats().Silent; !strings.Contains(got, test.want) {
					t.Errorf("explained as %q", got)
				}
				h.keyspaceUp()
				if got := h.l.Stats().Silent; got != "" {
					t.Errorf("explained as %q when all is well", got)
				}
				if n := strings.Count(log.String(), "hits are off"); n != 1 {
					t.Errorf("logged %d times:\n%s", n, &log)
				}
			}, inMode(ModeKeyspace), func(l *Link) { l.log = slog.New(slog.NewTextHandler(&log, nil)) })
		})
	}
}

// With both refused either may be what is to be put right, so both are told.
func TestBothSourcesRefused(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.accept()
		h.next(c, tracking).reply(noPerm)
		h.subscribed(c)
		h.next(c, "ROLE").reply(master)
		h.next(c, getEvents).reply(events(""))
		<-c.done
		got := h.l.Stats().Silent
		if !strings.Contains(got, "CLIENT TRACKING was refused: -NOPERM") || !strings.Contains(got, "CONFIG SET notify-keyspace-events KA") {
			t.Fatalf("explained as %q", got)
		}
	})
}

func TestSetsEvents(t *testing.T) {
	exec := func(replaced string) string { return "*2\r\n" + events(replaced) + "+OK\r\n" }
	set := func(h *harness, c *fakeConn, want, replaced string) {
		h.Helper()
		h.next(c, "MULTI").reply("+OK\r\n")
		h.next(c, getEvents).reply("+QUEUED\r\n")
		h.next(c, "CONFIG SET "+eventsParameter+" "+want).reply("+QUEUED\r\n")
		h.next(c, "EXEC").reply(exec(replaced))
	}
	up := func(h *harness, flags string) *fakeConn {
		h.Helper()
		c := h.accept()
		h.subscribed(c)
		h.next(c, "ROLE").reply(master)
		h.next(c, getEvents).reply(events(flags))
		return c
	}
	inBubble(t, func(h *harness) {
		c := up(h, "Ex")
		set(h, c, "KAE", "Exm")  // somebody has added m meanwhile: it was replaced, so it is set again
		set(h, c, "KAEm", "AKE") // and nothing else got lost
		h.next(c, "INFO commandstats").reply(stats())
		h.next(c, "PING").reply(pong)
		h.verdict(OK)

		// Taken away later: the next connection sets it again, behind a flush.
		h.pongsUntil(c, "ROLE").reply(master)
		h.next(c, getEvents).reply(events("E"))
		h.verdict(Down)
		c = up(h, "E")
		set(h, c, "KAE", "E")
		h.take()
		h.next(c, "INFO commandstats").reply(stats())
		h.happened(connecting...)
		h.next(c, "PING").reply(pong)
		h.verdict(OK)
	}, inMode(ModeKeyspace), maySet)
	for _, refusedAt := range []string{"MULTI", "CONFIG GET", "CONFIG SET", "EXEC"} {
		inBubble(t, func(h *harness) {
			c := up(h, "")
			for _, step := range []string{"MULTI", "CONFIG GET", "CONFIG SET", "EXEC"} {
				if step == refusedAt {
					h.next(c, step).reply(noPerm)
					break
				}
				h.next(c, step).reply("+QUEUED\r\n")
			}
			<-c.done
			if got := h.l.Stats().Silent; !strings.Contains(got, "may not set notify-keyspace-events to KA") {
				t.Errorf("%s: explained as %q", refusedAt, got)
			}
		}, inMode(ModeKeyspace), maySet)
	}
	inBubble(t, func(h *harness) { // somebody who never stops
		c := up(h, "")
		set(h, c, "KA", "m")
		set(h, c, "KAm", "n")
		set(h, c, "KAmn", "E")
		<-c.done
		if got := h.l.Stats().Silent; !strings.Contains(got, "keeps changing") {
			t.Errorf("explained as %q", got)
		}
	}, inMode(ModeKeyspace), maySet)
}

// While nobody is told of changes hits end at once when the check sees it, and at MaxStaleness in any case.
func TestKeyspaceChecks(t *testing.T) {
	inBubble(t, func(h *harness) { // flags taken away
		c := h.keyspaceUp()
		h.pongsUntil(c, "ROLE").reply(master)
		h.next(c, getEvents).reply(events("K"))
		h.verdict(Down)
		if got := h.l.Stats().Silent; !strings.Contains(got, `"K", which is not enough`) {
			t.Errorf("explained as %q", got)
		}
	}, inMode(ModeKeyspace))
	inBubble(t, func(h *harness) { // a right taken away
		c := h.keyspaceUp()
		h.pongsUntil(c, "ROLE").reply(master)
		h.next(c, getEvents).reply(events("AK"))
		h.next(c, "INFO").reply(noPerm)
		h.verdict(Down)
		<-c.done
	}, inMode(ModeKeyspace))
	inBubble(t, func(h *harness) { // not answered
		c := h.keyspaceUp()
		checkedAt := h.now()
		for time.Duration(h.now()-checkedAt) < 2*staleness {
			if a := <-c.asks; a.args == "PING" {
				a.reply(pong)
			} else {
				a.reply("-BUSY\r\n")
			}
			if time.Duration(h.now()-checkedAt) <= staleness {
				h.verdict(OK)
			} else {
				h.verdict(Stale)
			}
		}
	}, inMode(ModeKeyspace))
}

func TestKeyspaceSilentCommands(t *testing.T) {
	tests := map[string]struct{ before, after, want string }{
		"nothing":            {stats("cmdstat_flushdb:calls=2,usec=1"), stats("cmdstat_flushdb:calls=2,usec=1", "cmdstat_set:calls=9,usec=1"), ""},
		"off and on":         {stats("cmdstat_config|set:calls=2,usec=1"), stats("cmdstat_config|set:calls=4,usec=1"), "CONFIG SET"},
		"own, Redis 7":       {stats("cmdstat_config|get:calls=2,usec=1"), stats("cmdstat_config|get:calls=90,usec=1"), ""},
		"own, Redis 6":       {stats("cmdstat_config:calls=2,usec=1"), stats("cmdstat_config:calls=3,usec=1"), ""},
		"another's, Redis 6": {stats("cmdstat_config:calls=2,usec=1"), stats("cmdstat_config:calls=4,usec=1"), "CONFIG"},
	}
	for _, name := range silentKeyspace {
		line := "cmdstat_" + name + ":calls=1,usec=1"
		tests[name] = struct{ before, after, want string }{stats(), stats(line), strings.ToUpper(strings.ReplaceAll(name, "|", " "))}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				c := h.accept()
				h.subscribed(c)
				h.next(c, "ROLE").reply(master)
				h.next(c, getEvents).reply(events("AK"))
				h.next(c, "INFO").reply(test.before)
				h.take()
				h.pongsUntil(c, "ROLE").reply(master)
				h.next(c, getEvents).reply(events("AK"))
				h.next(c, "INFO").reply(test.after)
				var want []string
				if test.want != "" {
					want = append(want, "all: "+test.want+" at the origin [ok]")
					if last := h.causes[len(h.causes)-1]; last != Silent {
						t.Errorf("cause %v", last)
					}
				}
				h.happened(want...)
				h.verdict(OK)
			}, inMode(ModeKeyspace))
		})
	}
}

// A check that was refused counts nothing, and the commands of CONFIG before and after it are still told apart.
func TestConfigCallsAcrossRefusedCheck(t *testing.T) {
	inBubble(t, func(h *harness) {
		c := h.accept()
		h.subscribed(c)
		h.next(c, "ROLE").reply(master)
		h.next(c, getEvents).reply(events("AK"))
		h.next(c, "INFO").reply(stats("cmdstat_config:calls=1,usec=1"))
		h.pongsUntil(c, "ROLE").reply("-BUSY\r\n")
		h.next(c, getEvents).reply("-BUSY\r\n")
		h.next(c, "INFO").reply("-BUSY\r\n")
		h.pongsUntil(c, "ROLE").reply(master)
		h.next(c, getEvents).reply(events("AK"))
		h.next(c, "INFO").reply("-BUSY\r\n")
		h.take()
		h.pongsUntil(c, "ROLE").reply(master)
		h.next(c, getEvents).reply(events("AK"))
		h.next(c, "INFO").reply(stats("cmdstat_config:calls=3,usec=1"))
		h.happened() // the link's own two
	}, inMode(ModeKeyspace))
}

func TestChannel(t *testing.T) {
	message := func(channel, text string) []byte {
		return []byte(strings.ReplaceAll(strings.ReplaceAll(">3\r\n$7\r\nmessage\r\n+C\r\n=T", "C", channel), "=T", "+"+text+"\r\n"))
	}
	inBubble(t, func(h *harness) {
		c := h.serving()
		h.take()
		c.push(message(Channel, "a:1"))
		c.push(message(Channel, ""))
		c.push(message("another", "a:2"))
		if !slices.Equal(h.keys, []string{"channel a:1", "channel "}) {
			t.Fatalf("keys %q", h.keys)
		}
		c.push(message(Channel, "a:*"))
		c.push(message(Channel, "*"))
		h.happened("channel pattern: a:* [ok]", "all: told so on nearside:invalidate [ok]")
		if n := h.l.Stats().Messages; n != 4 {
			t.Fatalf("%d messages", n)
		}
	})
	inBubble(t, func(h *harness) { // not permitted: noted, and the link comes up
		c := h.accept()
		h.next(c, tracking).reply("+OK\r\n")
		h.next(c, "SUBSCRIBE "+Channel).reply("-NOPERM this user has no permissions to access one of the channels used as arguments\r\n")
		h.next(c, "INFO server").reply(redis7)
		h.next(c, "ROLE").reply(master)
		h.next(c, "INFO").reply(stats())
		h.next(c, "PING").reply(pong)
		h.verdict(OK)
		if got := h.l.Stats().Silent; got != "SUBSCRIBE nearside:invalidate is not permitted: what is published there is not heard" {
			t.Fatalf("explained as %q", got)
		}
	})
}

// Every stage of connecting may be the last one.
func TestKeyspaceLostWhileConnecting(t *testing.T) {
	stages := []string{"PSUBSCRIBE", "PSUBSCRIBE", "SUBSCRIBE", "ROLE", getEvents, "MULTI", "CONFIG GET", "CONFIG SET", "EXEC"}
	replies := []string{confirmed("psubscribe", "p"), confirmed("psubscribe", "p"), confirmed("subscribe", Channel), master, events(""), "+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n"}
	for stage := range stages {
		inBubble(t, func(h *harness) {
			c := h.accept()
			for i := range stage {
				h.next(c, stages[i]).reply(replies[i])
			}
			h.next(c, stages[stage]).answer(nil, errors.New("connection reset"))
			<-c.done
			h.verdict(Down)
			if got := h.l.Stats().Silent; got != "" {
				t.Errorf("at %s: %q is no refusal", stages[stage], got)
			}
			h.keyspaceUp()
		}, inMode(ModeKeyspace), maySet)
	}
}

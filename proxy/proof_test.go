package proxy

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
	"nearside/proxy/link"
)

// Which proof is in use is asked of the origin, and said in NEARSIDE STATS, /metrics and /cache/health.
func TestProofByServer(t *testing.T) {
	for _, test := range []struct {
		server  redistest.Name
		threads int
		rights  string // of nearside's user; "": all
		pings   int
		why     string
	}{
		{redistest.Debian, 1, "", 1, ""},
		{redistest.Debian, 4, "", 1, ""},
		{redistest.Redis6, 4, "", 1, ""},
		{redistest.Debian, 1, "-config -info", 1, ""},
		{redistest.Redis8, 1, "", 1, ""},
		{redistest.Redis8, 4, "", 2, "Redis 8.0.2, io-threads is 4"},
		{redistest.Redis8, 1, "-config", 2, "Redis 8.0.2, and CONFIG GET is not permitted: io-threads may be on"},
		{redistest.Redis8, 1, "-config -info", 2, "Redis 8.0.2, and CONFIG GET is not permitted: io-threads may be on"},
		{redistest.Valkey8, 1, "", 1, ""},
		{redistest.Valkey8, 2, "", 3, "Valkey 8.1.1, io-threads is 2"},
		{redistest.Valkey9, 1, "", 1, ""},
		{redistest.Valkey9, 4, "", 3, "Valkey 9.1.2, io-threads is 4"},
		{redistest.Valkey9, 1, "-config", 3, "Valkey 9.1.2, and CONFIG GET is not permitted: io-threads may be on"},
	} {
		t.Run(fmt.Sprint(test.server, "/", test.threads, test.rights), func(t *testing.T) {
			t.Parallel()
			redis := redistest.StartNamed(t, test.server, "--io-threads", strconv.Itoa(test.threads))
			url := redis.URL()
			if test.rights != "" {
				url = "redis://near:secret@" + redis.Addr
				if got := redis.Do(append([]string{"ACL", "SETUSER", "near", "on", ">secret", "~*", "&*", "+@all"}, strings.Fields(test.rights)...)...); got != "OK" {
					t.Fatalf("ACL SETUSER answered %s", got)
				}
			}
			n := launch(t, url, linked(link.ModeTracking))
			n.awaitLink()
			if st := n.Status(); st.Link.Proof != test.pings || st.Link.ProofWhy != test.why {
				t.Errorf("the status says %d: %q, want %d: %q", st.Link.Proof, st.Link.ProofWhy, test.pings, test.why)
			}
			said := fmt.Sprintf(" link_proof_pings:%d ", test.pings)
			if test.why != "" {
				said += "link_proof_reason:" + test.why + " "
			}
			if got := strings.Join(strings.Fields(n.infoText()), " ") + " "; !strings.Contains(got, said) {
				t.Errorf("NEARSIDE STATS lacks %q:\n%s", said, got)
			}
			var metrics strings.Builder
			n.WriteMetrics(&metrics)
			if want := fmt.Sprintf("\nnearside_link_proof_pings %d\n", test.pings); !strings.Contains(metrics.String(), want) {
				t.Errorf("the metrics lack %q", want)
			}
			if !n.link.Sync(redistest.Timeout, nil) {
				t.Error("Sync gave up")
			}
		})
	}
}

// Keyspace notifications are in order with all replies, whatever the server.
func TestProofByKeyspaceNotifications(t *testing.T) {
	redis := redistest.StartNamed(t, redistest.Valkey9, "--io-threads", "4", "--notify-keyspace-events", "KA")
	n := start(t, redis, linked(link.ModeKeyspace))
	n.awaitLink()
	if got := n.link.Stats().Steps; got != 1 {
		t.Errorf("%d PINGs", got)
	}
}

// Valkey 9 changes io-threads while it runs. The next proof knows, not the next check; back at one thread, the checks do.
func TestThreadsChangeWhileRunning(t *testing.T) {
	redis := redistest.StartNamed(t, redistest.Valkey9)
	n := start(t, redis, linked(link.ModeTracking))
	n.awaitLink()
	set := func(threads string) {
		if got := redis.Do("CONFIG", "SET", "io-threads", threads); got != "OK" {
			t.Fatalf("CONFIG SET answered %s", got)
		}
	}
	for range 3 {
		set("4")
		if !n.link.Sync(redistest.Timeout, nil) {
			t.Fatal("Sync gave up")
		}
		if got := n.link.Stats().Steps; got != 3 {
			t.Errorf("%d PINGs are a proof although there are 4 threads", got)
		}
		set("1")
		n.eventually("one PING is enough again", func() bool { return n.link.Stats().Steps == 1 })
	}
}

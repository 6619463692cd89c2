package proxy

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"nearside/proxy/internal/redistest"
)

// replySteps are what a client may send around CLIENT REPLY. No reply may tell
// which of the two servers gave it.
var replySteps = []string{
	"CLIENT REPLY ON", "CLIENT REPLY OFF", "CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "client reply skip", "CLIENT REPLY", "CLIENT REPLY MAYBE", "CLIENT REPLY ON OFF",
	"RESET", "RESET", "RESET x", "HELLO 2", "HELLO 3", "HELLO 4",
	"MULTI", "EXEC", "DISCARD", "WATCH k", "UNWATCH",
	"GET k", "GET product:1", "MGET k product:1", "SET k v", "DEL k", "PING", "PING x", "ECHO e", "GET", "NOSUCHCOMMAND", "LPUSH k x",
	"SELECT 0", "SELECT 1", "SELECT x", "CLIENT SETNAME n", "CLIENT GETNAME", "AUTH wrong",
	"SUBSCRIBE ch", "UNSUBSCRIBE ch", "UNSUBSCRIBE", "PSUBSCRIBE p*", "PUNSUBSCRIBE", "PUBLISH ch m", "PUBLISH other m",
	"BLPOP nolist 0.01", "EVAL 'return 1' 0", "CONFIG GET databases",
	"CLIENT TRACKING OFF", "CLIENT CACHING YES",
	"*0", "",
}

// replyEnd makes everything that is still to come visible: replies on, and a
// word; where a subscription of RESP2 is left, RESET ends it.
const replyEnd = "DISCARD\r\nUNSUBSCRIBE\r\nPUNSUBSCRIBE\r\nRESET\r\nCLIENT REPLY ON\r\nECHO end\r\n" + quit

// TestClientReplyAsRedis: whether a reply comes is what it is at the server, in
// whatever order CLIENT REPLY, RESET, HELLO, MULTI and subscriptions come, and
// in one chunk or line by line.
func TestClientReplyAsRedis(t *testing.T) {
	for _, name := range []redistest.Name{redistest.Redis6, redistest.Debian, redistest.Redis8, redistest.Valkey8, redistest.Valkey9} {
		t.Run(string(name), func(t *testing.T) {
			t.Parallel()
			direct, behind := redistest.StartNamed(t, name), redistest.StartNamed(t, name)
			n := start(t, behind, nil)
			steps := replySteps
			end := replyEnd
			drop := func(what string) {
				steps = slices.DeleteFunc(slices.Clone(steps), func(s string) bool { return what == s || what != "" && strings.Contains(s, what) })
			}
			switch name {
			case redistest.Redis6:
				// It has no RESET, which nearside answers behind it, too, confirms no
				// subscription while replies are off, which nearside does, and answers
				// what was blocked whatever was skipped.
				for _, what := range []string{"RESET", "SUBSCRIBE", "BLPOP"} {
					drop(what)
				}
				_, rest, _ := strings.Cut(end, "CLIENT")
				end = "DISCARD\r\nCLIENT" + rest
			case redistest.Redis8: // an empty command is no command there
				drop("*0")
				drop("")
			}
			compareReplies := func(list []string) {
				t.Helper()
				list = inMulti(list, name)
				raw := strings.Join(list, "\r\n") + "\r\n" + end
				a, b := transcript(t, direct.Addr, raw, false), transcript(t, n.addr, raw, false)
				a, b = ownErrors(a), ownErrors(b)
				if a != b {
					t.Errorf("%q\nthe server answers\n%q\nnearside\n%q", list, a, b)
				}
			}
			for i, a := range steps { // every pair; of the other servers some
				for j, b := range steps {
					if name != redistest.Debian && (i+j)%5 != 0 {
						continue
					}
					mode := "SKIP"
					if (i+j)%3 == 0 {
						mode = "OFF"
					}
					compareReplies([]string{"CLIENT REPLY " + mode, a, b, "PING z"})
				}
				if t.Failed() {
					t.FailNow()
				}
			}
			r := rand.New(rand.NewPCG(7, uint64(len(name))))
			for range 300 {
				list := make([]string, 1+r.IntN(14))
				for i := range list {
					list[i] = steps[r.IntN(len(steps))]
					if r.IntN(3) == 0 {
						list[i] = steps[r.IntN(9)]
					}
				}
				compareReplies(list)
				if t.Failed() {
					t.FailNow()
				}
			}
		})
	}
}

// inMulti drops what nearside refuses inside MULTI, where the server queues it,
// and the other way round.
func inMulti(list []string, name redistest.Name) (kept []string) {
	multi := false
	for _, step := range list {
		switch word, _, _ := strings.Cut(step, " "); {
		case step == "MULTI":
			multi = true
		case step == "EXEC", step == "DISCARD", step == "RESET":
			multi = false
		case multi && (word == "HELLO" || word == "AUTH" || strings.HasSuffix(word, "SUBSCRIBE") || strings.HasPrefix(step, "CLIENT TRACKING") || strings.HasPrefix(step, "CLIENT CACHING")):
			continue
		case multi && strings.HasPrefix(strings.ToUpper(step), "CLIENT REPLY") && (name == redistest.Valkey9 || name == redistest.Redis6):
			continue // the one refuses it there, the other sends a part of EXEC's array
		}
		kept = append(kept, step)
	}
	return kept
}

// ownErrors leaves of each error its first word, since the words that follow
// differ between versions of the server, and takes out what HELLO says of the
// client and the server.
func ownErrors(s string) string {
	return helloOwn.ReplaceAllString(errorLine.ReplaceAllString(s, "$1"), "$1*")
}

var (
	errorLine = regexp.MustCompile(`(?m)^(-[A-Z]+) [^\r\n]*`)
	helloOwn  = regexp.MustCompile(`(\r\n(?:server|id)\r\n)(?::\d+|\$\d+\r\n\w+)|(modules\r\n)(?:\*1(?s:.*?)args\r\n)?\*0\r\n`)
)

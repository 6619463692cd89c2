package proxy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
)

// decided is what a session at database 0 would do with a request, once it has asked what can be asked.
func (n *nearside) decided(args []string) *policy.Decision {
	n.t.Helper()
	s := &session{p: n.Proxy, authed: true, acl: &n.users.own}
	s.adopt()
	for _, a := range args {
		s.args = append(s.args, []byte(a))
	}
	s.decide()
	return &s.d
}

// readLine reads a line of a reply, without its end.
func readLine(c *redistest.Client) string {
	var b strings.Builder
	for !strings.HasSuffix(b.String(), "\r\n") {
		b.WriteString(c.Raw(1))
	}
	return strings.TrimSuffix(b.String(), "\r\n")
}

// commandArities is every command that a server has, subcommands apart, with its arity.
func commandArities(t *testing.T, redis *redistest.Server) map[string]int {
	t.Helper()
	c := redistest.Dial(t, redis.Addr)
	defer c.Close()
	c.Send("COMMAND")
	names := map[string]int{}
	number := func() int {
		line := readLine(c)
		n, err := strconv.Atoi(line[1:])
		if err != nil {
			t.Fatalf("COMMAND says %q", line)
		}
		return n
	}
	var skip, entry func()
	skip = func() {
		switch line := readLine(c); line[0] {
		case '$':
			readLine(c)
		case '*':
			n, _ := strconv.Atoi(line[1:])
			for range n {
				skip()
			}
		}
	}
	entry = func() {
		n := number()
		readLine(c)
		name := strings.ToLower(readLine(c))
		names[name] = number()
		for i := 2; i < n; i++ {
			if i == 9 {
				for range number() {
					entry()
				}
				continue
			}
			skip()
		}
	}
	for range number() {
		entry()
	}
	return names
}

// notKeys are commands whose arguments COMMAND GETKEYS may name although they are no keys.
var notKeys = []string{"spublish", "ssubscribe", "sunsubscribe", "clusterscan"}

// TestEveryCommandsKeys: for every command of every server and any arguments that the server finds keys in,
// nearside finds these keys, and sends the command where they live.
func TestEveryCommandsKeys(t *testing.T) {
	for _, server := range redistest.All {
		t.Run(server.String(), func(t *testing.T) {
			t.Parallel()
			redis := redistest.StartNamed(t, server)
			n := start(t, redis, nil)
			direct := redistest.Dial(t, redis.Addr)
			defer direct.Close()
			tried, found := 0, map[string]bool{}
			for name, arity := range commandArities(t, redis) {
				if slices.Contains(notKeys, name) {
					continue
				}
				var asked strings.Builder
				all := candidates(name, arity)
				for _, args := range all {
					asked.WriteString(redistest.Command(append([]string{"COMMAND", "GETKEYS"}, args...)...))
				}
				direct.Write(asked.String())
				for _, args := range all {
					tried++
					reply := direct.Read()
					if strings.HasPrefix(reply, "-") || reply == "[]" {
						continue
					}
					found[name] = true
					checkKeys(t, n, args, list(reply))
				}
			}
			t.Logf("%d requests, keys in those of %d commands", tried, len(found))
			if len(found) < 120 {
				t.Errorf("the server finds keys of %d commands only", len(found))
			}
			for _, name := range []string{"zrank", "sort", "migrate", "xread", "eval", "zunionstore", "georadius", "mset"} {
				if !found[name] {
					t.Errorf("no request of %s names a key", name)
				}
			}
		})
	}
}

// candidates are requests of a command, some of which make sense: from its arity up to some more arguments.
func candidates(name string, arity int) (all [][]string) {
	words := strings.Split(name, "|")
	rnd := rand.New(rand.NewPCG(1, uint64(len(name))))
	fill := func(size int, pick func(i int) string) {
		args := slices.Clone(words)
		for i := len(args); i < size; i++ {
			args = append(args, pick(i))
		}
		all = append(all, args)
	}
	key := func(i int) string { return fmt.Sprint("product:", i) }
	options := []string{
		"STORE", "STREAMS", "KEYS", "LIMIT", "COUNT", "GROUP", "BLOCK", "WITHSCORES", "WITHSCORE", "NX", "BY", "GET", "STOREDIST", "MATCH", "EX", "MAXLEN",
		"LCS", "AGGREGATE", "WEIGHTS", "AUTH", "AUTH2", "CLAIM", "REPLACE", "DB",
	}
	least := max(arity, -arity)
	for size := least; size <= least+4 && (arity < 0 || size == least); size++ {
		fill(size, key)
		for at := len(words); at < size && at < len(words)+3; at++ { // a number of keys stands there
			for count := 1; count <= 3; count++ {
				fill(size, func(i int) string {
					if i == at {
						return strconv.Itoa(count)
					}
					return key(i)
				})
			}
		}
		for at := len(words); at < size-2; at++ { // a word behind which keys stand
			for _, word := range []string{"STREAMS", "STORE", "KEYS"} {
				fill(size, func(i int) string {
					switch {
					case i == at:
						return word
					case i == 3 && word == "KEYS":
						return ""
					}
					return key(i)
				})
			}
		}
		for range 30 {
			fill(size, func(i int) string {
				switch rnd.IntN(5) {
				case 0:
					return options[rnd.IntN(len(options))]
				case 1:
					return strconv.Itoa(rnd.IntN(4))
				}
				return key(i)
			})
		}
	}
	return all
}

// checkKeys compares with the keys that the server finds.
func checkKeys(t *testing.T, n *nearside, args, keys []string) {
	t.Helper()
	d := n.decided(args)
	if d.Route == policy.RouteRefused || d.Route == policy.RouteLocal { // it is not sent
		return
	}
	var have []string
	for _, k := range d.Keys {
		have = append(have, args[k.Pos])
	}
	var homes []int
	for _, key := range keys {
		home := n.rules().DBOf([]byte(key), 0)
		homes = append(homes, home)
		// A read that is in an odd form need only be sent where its keys live.
		onlyRead := d.Effect == 0 && d.Cmd != nil && d.Cmd.Flags.Has(policy.FlagReadonly) && d.DB == home
		if key != "" && !slices.Contains(have, key) && !onlyRead {
			t.Errorf("%q: the server finds %q, nearside %q, and sends it to database %d", args, keys, have, d.DB)
			return
		}
	}
	if d.Route != policy.RouteSplit && d.Route != policy.RouteView && !slices.Contains(homes, d.DB) {
		t.Errorf("%q: its keys %q live in the databases %v, and it goes to %d", args, keys, homes, d.DB)
	}
}

// TestOddForms: what the table does not know of a command the server behind says, over TCP.
func TestOddForms(t *testing.T) {
	for _, server := range redistest.All {
		t.Run(server.String(), func(t *testing.T) {
			t.Parallel()
			redis := redistest.StartNamed(t, server)
			n := start(t, redis, nil)
			c := n.dial()
			d := redistest.Dial(t, redis.Addr) // in the cache's database, where all these keys live
			defer d.Close()
			d.Do("SELECT", "1")
			for _, fill := range [][]string{{"ZADD", "product:z", "1", "a", "2", "b"}, {"SET", "product:1", "v"}, {"SET", "product:2", "w"}, {"HSET", "product:h", "f", "v"}, {"RPUSH", "product:l", "1", "2"}} {
				if got := d.Do(fill...); strings.HasPrefix(got, "-") {
					t.Fatal(got)
				}
			}
			for _, line := range []string{
				"ZRANK product:z b WITHSCORE", "ZREVRANK product:z b WITHSCORE", "zrank product:z nosuch withscore", "ZRANK product:z b NOSUCH", "ZRANK product:z b WITHSCORE x", "ZRANK product:z",
				"DEBUG SDSLEN product:1", "DEBUG DIGEST-VALUE product:1 product:2", "DEBUG LISTPACK product:1", "DEBUG ZIPLIST product:h", "DEBUG QUICKLIST product:l", "debug htstats-key product:h",
				"STRALGO LCS KEYS product:1 product:2", "LCS product:1 product:2", "HGETEX product:h FIELDS 1 f", "HTTL product:h FIELDS 1 f",
				"GET", "GET a b", "SET product:1", "ZUNION x product:z", "LMPOP x product:l LEFT", "XREAD STREAMS product:x", "EVAL return x product:1", "PFDEBUG GETREG product:1 x", "MSETEX x product:1 v",
				"MSETEX 2 product:1 new product:2 new", "MSETEX 1 product:1 newer XX EX 100", "CLUSTERSCAN 0",
			} {
				args := strings.Fields(line)
				if got, direct := c.Do(args...), d.Do(args...); got != direct {
					t.Errorf("%s: %s, Redis says %s", line, got, direct)
				}
			}
			// An address in memory is the same for the same key only.
			object := func(reply string) string { a, _, _ := strings.Cut(reply, "refcount"); return a }
			if got, direct := c.Do("debug", "object", "product:1"), d.Do("DEBUG", "OBJECT", "product:1"); strings.HasPrefix(got, "-") || object(got) != object(direct) {
				t.Errorf("DEBUG OBJECT: %s, Redis says %s", got, direct)
			}
			if got := c.Do("DEBUG", "DIGEST-VALUE", "product:1", "plain"); !strings.HasPrefix(got, "-CROSSDB") {
				t.Errorf("DEBUG DIGEST-VALUE of both databases: %s", got)
			}
			want(t, c, "OK", "DEBUG", "POPULATE", "3", "product")
			if got := redis.DoDB(1, "EXISTS", "product:0"); got != "1" {
				t.Error("DEBUG POPULATE made keys that nobody sees")
			}
			if server == redistest.Valkey9 {
				if got := c.Do("MSETEX", "2", "product:1", "v", "lock:1", "v"); !strings.HasPrefix(got, "-CROSSDB") {
					t.Errorf("MSETEX of both databases: %s", got)
				}
				n.warm(c, "GET", "product:1")
				want(t, c, "1", "MSETEX", "1", "product:1", "newest")
				want(t, c, "newest", "GET", "product:1")
			}
			// In a transaction, too.
			want(t, c, "OK", "MULTI")
			want(t, c, "QUEUED", "DEBUG", "SDSLEN", "product:1")
			if got := c.Do("EXEC"); !strings.Contains(got, "val_sds_len") {
				t.Errorf("EXEC answered %s", got)
			}
		})
	}
}

// TestDebugKeys: whatever subcommand of DEBUG speaks of a key by its own help is known.
func TestDebugKeys(t *testing.T) {
	for _, server := range redistest.All {
		t.Run(server.String(), func(t *testing.T) {
			t.Parallel()
			redis := redistest.StartNamed(t, server)
			n := start(t, redis, nil)
			c := redistest.Dial(t, redis.Addr)
			defer c.Close()
			c.Send("DEBUG", "HELP")
			found := 0
			lines, _ := strconv.Atoi(readLine(c)[1:])
			for range lines {
				line := readLine(c)
				if strings.HasPrefix(line, "$") {
					line = readLine(c)
				}
				name, rest, _ := strings.Cut(strings.TrimPrefix(line, "+"), " ")
				if name == "" || !strings.HasPrefix(rest, "<key") || strings.HasPrefix(name, "MALLCTL") {
					continue
				}
				found++
				if d := n.decided([]string{"DEBUG", name, "product:1"}); d.DB != 1 {
					t.Errorf("DEBUG %s product:1 goes to database %d: %s", name, d.DB, line)
				}
			}
			if found < 4 {
				t.Errorf("only %d subcommands speak of keys", found)
			}
		})
	}
}

// TestFormsOfAnotherServer: what one server says of its commands is not believed of the next.
func TestFormsOfAnotherServer(t *testing.T) {
	t.Parallel()
	older, newer := redistest.Start(t), redistest.StartNamed(t, redistest.Valkey9)
	relay := redistest.NewRelay(t, older.Addr)
	n := launch(t, relay.URL(), nil)
	n.awaitLink()
	c := n.dial()
	for _, s := range []*redistest.Server{older, newer} {
		s.DoDB(1, "ZADD", "product:z", "1", "a")
	}
	want(t, c, "-ERR wrong number of arguments for 'zrank' command", "ZRANK", "product:z", "a", "WITHSCORE")
	relay.Redirect(newer.Addr)
	relay.Cut()
	n.eventually("the newer one answers", func() bool { return c.Do("ZRANK", "product:z", "a", "WITHSCORE") == "[0 1]" })
	relay.Redirect(older.Addr)
	relay.Cut()
	n.eventually("the older one answers", func() bool { return strings.Contains(c.Do("ZRANK", "product:z", "a", "WITHSCORE"), "wrong number") })
}

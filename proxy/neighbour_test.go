package proxy

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
)

// neighbourRenames are the names that the server of this test has given to commands.
var neighbourRenames = []string{"MONITOR peep", "SHUTDOWN fin", "XREAD sread", "WATCH guard", "BLPOP bpop", "LOLWUT ", "SUBSTR MONITOR", "BRPOP SUBSTR", "PFDEBUG hearken", "SCRIPT parchment"}

// sparedOfAttack are commands with a lawful effect on other clients or on the server:
// the victims would notice them at Redis as well.
var sparedOfAttack = []string{
	"flushall", "flushdb", "swapdb", "debug", "migrate", "client|kill", "client|pause", "client|unblock", "acl|deluser", "acl|load", "config|set", "config|rewrite",
	"module|load", "module|loadex", "module|unload", "script|flush", "function|flush", "pfselftest", "save", "bgsave", "bgrewriteaof", "acl|setuser",
}

// newerNames are of servers after 7.0, of modules, and of servers to come.
var newerNames = []string{
	"CLIENT CAPA redirect", "CLIENT NO-TOUCH ON", "CLIENT NO-TOUCH OFF", "CLIENT IMPORT-SOURCE ON", "CLIENT SETINFO lib-name x", "CLIENT SETINFO lib-foo x", "CLIENT MAINT_NOTIFICATIONS on",
	"CLIENT TRACKING on bcast", "WAITAOF 0 0 1", "WAITAOF 1 1 20", "HGETEX evil:h EX 5 FIELDS 1 f", "HPEXPIRE evil:h 5 FIELDS 1 f", "MSETEX 1 evil:k v EX 5", "DELIFEQ evil:k v", "CLUSTERSCAN 0",
	"VADD evil:v VALUES 1 1 e", "VSIM evil:v ELE e", "COMMANDLOG GET 1 slow", "COMMANDLOG HELP", "SCRIPT SHOW x", "CLUSTER SYNCSLOTS x", "CLUSTER SLOT-STATS x", "CLUSTER MYSHARDID", "JSON.GET evil:j",
	"FT.SEARCH i q", "XACKDEL evil:s g KEEPREF IDS 1 1-1", "READONLY", "READWRITE", "ASKING", "CLIENT NO-EVICT ON", "CLIENT NO-EVICT off", "MULTI x", "EXEC x", "SUBSCRIBE", "MONITOR x",
}

// words that mean something to some command.
var attackWords = []string{
	"ON", "OFF", "SKIP", "YES", "NO", "BLOCK", "STREAMS", "COUNT", "GROUP", "STORE", "BY", "GET", "DB", "KEYS", "AUTH", "NX", "XX", "EX", "REDIRECT", "BCAST", "REPLY", "SYNC", "ASYNC", "REPLACE",
	"0", "1", "2", "3", "5", "-1", "0.01", "1000", "x", "$", ">", "*", "0-0", "evil:a", "evil:s", "product:evil", "lock:evil", "eve", "pw", "default", "channel", "return 1", "return redis.call('get',KEYS[1])", "", "f", "g", "MATCH",
}

// attacker makes requests that somebody would send to harm others.
type attacker struct {
	rnd    *rand.Rand
	counts map[string]int
	rows   []string // of the table, "container|sub"
}

func (a *attacker) pick(list []string) string { return list[a.rnd.IntN(len(list))] }

func (a *attacker) words(n int) (list []string) {
	for range n {
		w := a.pick(attackWords)
		switch a.rnd.IntN(12) {
		case 0:
			w = strings.ToLower(w)
		case 1, 2:
			w += "\x00" + a.tail()
		}
		list = append(list, w)
	}
	return list
}

func (a *attacker) tail() string { return strconv.Itoa(a.rnd.IntN(100)) }

// name is a command of the table, as one or two words, with as many arguments as it may have.
func (a *attacker) name() (name []string, args int) {
	row := a.pick(a.rows)
	name = strings.Split(row, "|")
	c := policy.Lookup([][]byte{[]byte(name[0]), []byte(name[len(name)-1])})
	args = a.rnd.IntN(4)
	if c != nil {
		least := c.Arity
		if least < 0 {
			least = -least
		}
		args = max(least-len(name), 0) + a.rnd.IntN(3)*a.rnd.IntN(2)
	}
	return name, args
}

// hurtful are requests that make Redis treat its connection otherwise, if it takes them for what they are without their NUL.
var hurtful = []string{
	"CLIENT REPLY SKIP", "CLIENT REPLY OFF", "CLIENT REPLY ON", "MULTI", "EXEC", "DISCARD", "SELECT 5", "AUTH eve pw", "HELLO 3", "HELLO 2", "RESET", "QUIT", "SUBSCRIBE channel", "PSUBSCRIBE *",
	"XREAD BLOCK 100 STREAMS evil:s $", "BLPOP evil:l 0.05", "WATCH evil:a", "CLIENT TRACKING ON", "SCRIPT DEBUG YES", "ASKING", "READONLY", "CLIENT NO-EVICT ON", "WAIT 1 20", "REPLCONF listening-port 1", "CLIENT SETNAME evil", "POST x", "Host: x",
	"PEEP", "GUARD evil:a", "BPOP evil:l 0.05", "SREAD BLOCK 50 STREAMS evil:s $", "FIN NOSAVE", "MONITOR evil:a 0 1", "SUBSTR evil:l 0.05", "parchment debug YES", "parchment nosuch",
}

// request makes one, with its kind.
func (a *attacker) request() (kind string, args []string) {
	switch a.rnd.IntN(10) {
	case 0, 1:
		name, n := a.name()
		return "table", append(name, a.words(n)...)
	case 2:
		name, n := a.name()
		name[a.rnd.IntN(len(name))] += "\x00" + a.tail()
		return "table, NUL in the name", append(name, a.words(n)...)
	case 3, 4:
		args = strings.Fields(a.pick(hurtful))
		at := 0
		if strings.EqualFold(args[0], "client") || strings.EqualFold(args[0], "script") {
			at = 1
		}
		args[at] += "\x00" + a.tail()
		return "hurtful, NUL in the name", args
	case 5:
		args = strings.Fields(a.pick(hurtful))
		if i := 1 + a.rnd.IntN(len(args)); i < len(args) {
			args[i] += "\x00" + a.tail()
			return "hurtful, NUL in a word", args
		}
		return "hurtful", args
	case 6:
		name, n := a.name()
		i := a.rnd.IntN(len(name))
		w := []byte(name[i])
		switch a.rnd.IntN(4) {
		case 0:
			w[a.rnd.IntN(len(w))] ^= byte(1 << a.rnd.IntN(8))
		case 1:
			w = append(w, byte(a.rnd.IntN(256)))
		case 2:
			w = []byte(strings.NewReplacer("k", "\u212a", "s", "\u017f").Replace(name[i]))
		default:
			w = append(w, '|', byte('a'+a.rnd.IntN(26)))
		}
		name[i] = string(w)
		if slices.ContainsFunc(sparedOfAttack, func(x string) bool {
			return strings.EqualFold(strings.ReplaceAll(x, "|", " "), cutWord(strings.Join(name, " ")))
		}) {
			return "spared", nil
		}
		return "mutated name", append(name, a.words(n)...)
	case 7:
		return "newer", strings.Fields(a.pick(newerNames))
	case 8:
		name := make([]byte, 1+a.rnd.IntN(10))
		for i := range name {
			name[i] = byte('a' + a.rnd.IntN(26))
		}
		return "unknown", append([]string{string(name)}, a.words(a.rnd.IntN(4))...)
	}
	name, n := a.name()
	renamed, _, _ := strings.Cut(a.pick(neighbourRenames), " ")
	if a.rnd.IntN(2) == 0 {
		_, to, _ := strings.Cut(a.pick(neighbourRenames), " ")
		renamed = to
	}
	if renamed == "" {
		renamed = name[0]
		if slices.Contains(sparedOfAttack, renamed) || len(name) > 1 {
			return "spared", nil
		}
	}
	return "renamed", append([]string{renamed}, a.words(n)...)
}

func cutWord(s string) string {
	s, _, _ = strings.Cut(s, "\x00")
	return s
}

// attack is one session of requests. What is answered does not matter.
func (a *attacker) attack(addr string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer c.Close()
	a.counts["sessions"]++
	if a.rnd.IntN(2) == 0 {
		_, _ = io.WriteString(c, redistest.Command("HELLO", "3"))
	}
	buf := make([]byte, 64<<10)
	for range 1 + a.rnd.IntN(6) {
		var batch strings.Builder
		for range 1 + a.rnd.IntN(6) {
			kind, args := a.request()
			if args == nil {
				continue
			}
			a.counts[kind]++
			if a.rnd.IntN(10) == 0 && !slices.ContainsFunc(args, func(w string) bool { return w == "" || strings.ContainsAny(w, " \r\n\"'\x00") }) {
				batch.WriteString(strings.Join(args, " ") + "\r\n")
			} else {
				batch.WriteString(redistest.Command(args...))
			}
		}
		if _, err := io.WriteString(c, batch.String()); err != nil {
			return
		}
		for range 2 {
			_ = c.SetReadDeadline(time.Now().Add(time.Duration(1+a.rnd.IntN(40)) * 100 * time.Microsecond))
			if n, err := c.Read(buf); n == 0 && err != nil && !os.IsTimeout(err) {
				return
			}
		}
	}
}

// victim uses the same connections as the attackers, and checks each of its replies.
type victim struct {
	name    string
	c       *redistest.Client
	rnd     *rand.Rand
	resp3   bool
	n       int // sequence
	ctr     int
	values  map[string]string
	checked int
}

// step sends some requests at once and checks their replies.
func (v *victim) step() error {
	var batch strings.Builder
	var asked [][]string
	var expected []string
	ask := func(want string, args ...string) {
		batch.WriteString(redistest.Command(args...))
		asked, expected = append(asked, args), append(expected, want)
	}
	for range 1 + v.rnd.IntN(8) {
		v.n++
		key := fmt.Sprintf("own:%s:%d", v.name, v.rnd.IntN(5))
		value := fmt.Sprintf("%s-%d", v.name, v.n)
		switch v.rnd.IntN(9) {
		case 0, 1:
			ask(value, "ECHO", value)
		case 2:
			v.values[key] = value
			ask("OK", "SET", key, value)
		case 3, 4:
			want, ok := v.values[key]
			if !ok {
				want = "(nil)"
			}
			ask(want, "GET", key)
		case 5:
			v.ctr++
			ask(strconv.Itoa(v.ctr), "INCR", "own:"+v.name+":ctr")
		case 6:
			ask("default", "ACL", "WHOAMI")
		case 7:
			if v.resp3 { // the protocol version is seen by the type
				ask("{f "+v.name+"}", "HGETALL", "own:"+v.name+":h")
			} else {
				ask("[f "+v.name+"]", "HGETALL", "own:"+v.name+":h")
			}
		case 8:
			ask("PONG", "PING")
		}
	}
	if _, err := io.WriteString(v.c.Conn, batch.String()); err != nil {
		return err
	}
	for i, want := range expected {
		got, err := v.c.TryRead()
		if err != nil {
			return fmt.Errorf("%s: %q is not answered: %w", v.name, asked[i], err)
		}
		if got != want {
			return fmt.Errorf("%s: %q is answered %q, want %q", v.name, asked[i], got, want)
		}
		v.checked++
	}
	return nil
}

// TestNeighbours: whatever one client sends, the others on the same connection to Redis
// get their own replies, in their database, as their user, in their protocol version. It
// runs some seconds with the same seeds; make hostile runs it longer with others.
func TestNeighbours(t *testing.T) {
	seeds, each := []uint64{1, 2, 3}, 1500*time.Millisecond
	if s := os.Getenv("NEARSIDE_HOSTILE_SECONDS"); s != "" {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds, each = []uint64{uint64(time.Now().UnixNano())}, time.Duration(n*float64(time.Second))
	}
	if s := os.Getenv("NEARSIDE_HOSTILE_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{n}
	}
	redis := startRenamed(t, redistest.Name(os.Getenv("NEARSIDE_TEST_SERVER")), neighbourRenames...)
	redis.Do("ACL", "SETUSER", "eve", "on", ">pw", "~evil:*", "&*", "+@all")
	n := start(t, redis, func(c *Config) { oneWire(c); c.MaxPinned = 64 })
	for _, seed := range seeds {
		neighbours(t, redis, n, seed, each)
		if t.Failed() {
			t.Logf("NEARSIDE_HOSTILE_SEED=%d", seed)
			return
		}
	}
}

func neighbours(t *testing.T, redis *redistest.Server, n *nearside, seed uint64, length time.Duration) {
	t.Helper()
	begun := time.Now()
	var stop atomic.Bool
	var wg sync.WaitGroup
	var attackers []*attacker
	for i := range 2 {
		a := &attacker{rnd: rand.New(rand.NewPCG(seed, uint64(i))), counts: map[string]int{}, rows: attackRows()}
		attackers = append(attackers, a)
		wg.Go(func() {
			for !stop.Load() {
				a.attack(n.addr)
			}
		})
	}
	var victims []*victim
	for i := range 4 {
		v := &victim{
			name: fmt.Sprintf("v%d-%d", seed, i), c: n.dial(), resp3: i >= 2,
			rnd: rand.New(rand.NewPCG(seed, uint64(100+i))), values: map[string]string{},
		}
		if v.resp3 {
			v.c.Do("HELLO", "3")
		}
		want(t, v.c, "1", "HSET", "own:"+v.name+":h", "f", v.name)
		victims = append(victims, v)
		wg.Go(func() {
			for !stop.Load() {
				if err := v.step(); err != nil {
					if !stop.Swap(true) {
						t.Errorf("after %v: %v", time.Since(begun), err)
					}
				}
			}
		})
	}
	mostPinned := 0
	for time.Since(begun) < length && !stop.Load() {
		time.Sleep(20 * time.Millisecond)
		mostPinned = max(mostPinned, n.origin.Stats().Pinned)
	}
	stop.Store(true)
	wg.Wait()
	checked, counts := 0, map[string]int{}
	for _, v := range victims {
		checked += v.checked
	}
	for _, a := range attackers {
		for kind, n := range a.counts {
			counts[kind] += n
		}
	}
	var list []string
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		list = append(list, fmt.Sprintf("%s: %d", kind, counts[kind]))
	}
	t.Logf("seed %d, %v: %d replies checked; %d commands on private connections, at most %d pinned at once; %s",
		seed, time.Since(begun).Round(time.Millisecond), checked, n.m.private.Get(), mostPinned, strings.Join(list, ", "))
	if t.Failed() {
		return
	}
	for _, v := range victims { // in the database that they think
		for key, value := range v.values {
			if got := redis.Do("GET", key); got != value {
				t.Errorf("%s holds %q at Redis, want %q", key, got, value)
			}
		}
		v.c.Close()
	}
	left := func() bool {
		return n.origin.Stats().Pinned > 0 || len(n.sessionList()) > 0 || n.learning.foreign.Load() != 0
	}
	for begun := time.Now(); left() && time.Since(begun) < redistest.Timeout; {
		time.Sleep(10 * time.Millisecond)
	}
	if left() {
		t.Errorf("not everything is given back: %d sessions, %+v, %d foreign connections\n%s\n%s", len(n.sessionList()), n.origin.Stats(), n.learning.foreign.Load(),
			n.dial().Do("CLIENT", "LIST"), redis.Do("CLIENT", "LIST"))
	}
	if checked < 1000 || counts["newer"] == 0 || counts["hurtful, NUL in the name"] == 0 || n.m.private.Get() == 0 {
		t.Error("that was not much of an attack")
	}
}

// attackRows are the table's rows but those that are spared.
func attackRows() (rows []string) {
	for _, name := range policy.Names() {
		if !slices.Contains(sparedOfAttack, name) {
			rows = append(rows, name)
		}
	}
	return rows
}

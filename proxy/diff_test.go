package proxy

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"nearside/policy"
	"nearside/proxy/internal/redistest"
)

// The differential test: the same bytes go to a Redis and to a nearside in
// front of another, the replies are compared byte by byte (diff_reply_test.go
// has what cannot be), and after each block the data of both.
//
// The script is in testdata/diff. "--- name" begins a block, which starts on new
// connections and without data. A line below it may say
//
//	once        it does not depend on where its keys live: run it under one prefix, not under all
//	single      one request at a time only
//	server      it does not depend on the database: once per protocol version and way of sending
//	rare        it takes long: in one pass of each kind only
//	resp3       with this protocol version only
//
// A line is one request, its arguments quoted as in Go where needed:
//
//	%a          the key a under the prefix: a cache rule's, a lock rule's, or none
//	=1000       so many bytes
//	1..600      so many arguments
//	@db         the session's database
//
// and before it may stand
//
//	!2          it has so many replies
//	2>          send it on a second connection
//	<           (alone) one more reply is read
//	?cross      refused with CROSSDB by a session at database 0
//	?refused    refused by nearside: not sent to Redis
//	?differs    not sent to Redis; what nearside answers stands in policy/differences.txt
//
// What is known to differ, and why, stands in policy/differences.txt, from
// where it gets into policy/COMMANDS.md.

const diffDir = "testdata/diff"

// prefixes under which the keys of the script live.
var diffPrefixes = []string{"product:", "lock:", "plain."}

// diffLine is one line of the script.
type diffLine struct {
	text    string   // as it stands there
	words   []string // %a and the like not yet replaced
	replies int
	second  bool // on the second connection
	more    bool // read one more reply
	cross   bool
	refused bool
	differs bool
}

type diffBlock struct {
	name         string
	once, single bool
	rare         bool
	server       bool
	resp         string // "": both
	lines        []diffLine
}

// diffWords splits a line.
func diffWords(t testing.TB, line string) (words []string) {
	t.Helper()
	for rest := strings.TrimSpace(line); rest != ""; rest = strings.TrimLeft(rest, " ") {
		if rest[0] != '"' {
			word, after, _ := strings.Cut(rest, " ")
			words, rest = append(words, word), after
			continue
		}
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		word, _ := strconv.Unquote(quoted)
		words, rest = append(words, "\x00"+word), rest[len(quoted):]
	}
	return words
}

// plainWord marks a word that is not replaced.
func plainWord(s string) string { return "\x00" + s }

var countedWord = regexp.MustCompile(`^=\d+$`)

// expand makes the request of a line.
func (l *diffLine) expand(prefix string, db int) (args []string) {
	for _, w := range l.words {
		switch {
		case countedWord.MatchString(w):
			n, _ := strconv.Atoi(w[1:])
			args = append(args, strings.Repeat("v", n))
			continue
		case strings.HasPrefix(w, "1.."):
			n, _ := strconv.Atoi(w[3:])
			for i := range n {
				args = append(args, strconv.Itoa(i+1))
			}
			continue
		case strings.HasPrefix(w, "\x00"):
			w = w[1:]
		case strings.HasPrefix(w, "%"):
			w = prefix + w[1:]
		case w == "@db":
			w = strconv.Itoa(db)
		}
		args = append(args, w)
	}
	return args
}

func diffScript(t testing.TB) (blocks []diffBlock) {
	t.Helper()
	files, _ := filepath.Glob(diffDir + "/*.txt")
	if len(files) == 0 {
		t.Fatal("no script")
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		options := false
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if name, ok := strings.CutPrefix(line, "--- "); ok {
				blocks = append(blocks, diffBlock{name: name})
				options = true
				continue
			}
			if line == "" || line[0] == '#' {
				continue
			}
			b := &blocks[len(blocks)-1]
			if options && line == strings.ToLower(line) && !strings.HasPrefix(line, "\"") && !strings.ContainsAny(line, "%!<") {
				for _, word := range strings.Fields(line) {
					switch word {
					case "once":
						b.once = true
					case "single":
						b.single = true
					case "rare":
						b.rare = true
					case "server":
						b.server = true
					case "resp3":
						b.resp = "3"
					default:
						t.Fatalf("%s: unknown option %s", file, word)
					}
				}
				continue
			}
			options = false
			b.lines = append(b.lines, parseDiffLine(t, line))
		}
	}
	return blocks
}

func parseDiffLine(t testing.TB, line string) diffLine {
	t.Helper()
	l := diffLine{text: line, replies: 1}
	rest := line
	if line == "<" {
		l.more = true
		return l
	}
	if after, ok := strings.CutPrefix(rest, "2> "); ok {
		l.second, rest = true, after
	}
	switch word, after, _ := strings.Cut(rest, " "); word {
	case "?cross":
		l.cross, rest = true, after
	case "?refused":
		l.refused, rest = true, after
	case "?differs":
		l.differs, rest = true, after
	}
	if word, after, _ := strings.Cut(rest, " "); word[0] == '!' {
		l.replies, _ = strconv.Atoi(word[1:])
		rest = after
	}
	l.words = diffWords(t, rest)
	return l
}

// difference is one row of policy/differences.txt.
type difference struct {
	command string // as in the table
	request *regexp.Regexp
	reply   *regexp.Regexp
	reason  string
	used    bool
}

func readDifferences(t testing.TB) (all []*difference) {
	t.Helper()
	text, err := os.ReadFile("../policy/differences.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 4 {
			t.Fatalf("four columns, please: %q", line)
		}
		all = append(all, &difference{command: f[0], request: regexp.MustCompile("(?is)" + f[1]), reply: regexp.MustCompile("(?s)" + f[2]), reason: f[3]})
	}
	return all
}

// diffRun is one pass: a database, a protocol version, one by one or not.
type diffRun struct {
	t           *testing.T
	direct, nea string // addresses
	rules       *policy.Rules
	known       []*difference
	admin       [2]*peer
	db          int
	resp        string
	pipelined   bool
	rnd         *rand.Rand
	requests    int
	failures    int
}

// String names the pass.
func (r *diffRun) String() string {
	how := "one by one"
	if r.pipelined {
		how = "pipelined"
	}
	return fmt.Sprintf("database %d, RESP%s, %s", r.db, r.resp, how)
}

// peer is one connection.
type peer struct {
	net.Conn
	r *bufio.Reader
}

func (r *diffRun) dial(addr string) *peer {
	r.t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(redistest.Timeout))
	p := &peer{c, bufio.NewReaderSize(c, 64<<10)}
	var hello string
	n := 2
	if r.resp == "3" {
		hello, n = redistest.Command("HELLO", "3"), 3
	}
	_, _ = io.WriteString(c, hello+redistest.Command("SELECT", strconv.Itoa(r.db))+redistest.Command("FLUSHALL", "ASYNC"))
	for range n {
		if b, err := readReply(p.r); err != nil || b[0] == '-' {
			r.t.Fatalf("%s: a new connection: %q, %v", r, b, err)
		}
	}
	return p
}

// ask sends requests and returns what they are answered with.
func (p *peer) ask(t testing.TB, reqs ...[]string) (replies []node) {
	t.Helper()
	for _, args := range reqs {
		_, _ = io.WriteString(p, redistest.Command(args...))
	}
	for range reqs {
		raw, err := readReply(p.r)
		if err != nil {
			t.Fatal(err)
		}
		replies = append(replies, nodeOf(raw))
	}
	return replies
}

// pair is a connection to Redis and one to nearside that are told the same.
type pair [2]*peer

func (r *diffRun) pair() pair { return pair{r.dial(r.direct), r.dial(r.nea)} }

func (p *pair) close() {
	for _, c := range p {
		if c != nil {
			c.Close()
		}
	}
}

// maxDiffFailures is how many differences are told per pass.
const maxDiffFailures = 25

func (r *diffRun) fail(block, line, format string, args ...any) {
	r.t.Helper()
	r.failures++
	if r.failures <= maxDiffFailures {
		r.t.Errorf("%s; %s: %.300s\n%s", r, block, line, fmt.Sprintf(format, args...))
	}
}

// block runs a block under a prefix.
func (r *diffRun) block(b *diffBlock, prefix string) {
	if b.rare && (r.db != 0 || r.resp == "3" != r.pipelined) || b.single && r.pipelined || b.resp != "" && b.resp != r.resp {
		return
	}
	name := b.name + " under " + prefix
	first := r.pair()
	defer first.close()
	var second pair
	defer second.close()
	var reqs [][]string
	for i := range b.lines {
		reqs = append(reqs, b.lines[i].expand(prefix, r.db))
	}
	if r.pipelined {
		r.pipeline(&first, b, reqs, name)
	} else {
		for i := range b.lines {
			on := &first
			if b.lines[i].second {
				if second[0] == nil {
					second = r.pairKeepingData()
				}
				on = &second
			}
			if !r.one(on, &b.lines[i], reqs[i], name) {
				return
			}
		}
		r.last(&first, name)
	}
	r.sameData(name)
}

// pairKeepingData is a pair that has not flushed.
func (r *diffRun) pairKeepingData() pair {
	var p pair
	for i, addr := range []string{r.direct, r.nea} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			r.t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(redistest.Timeout))
		p[i] = &peer{c, bufio.NewReader(c)}
		_, _ = io.WriteString(c, redistest.Command("SELECT", strconv.Itoa(r.db)))
		_, _ = readReply(p[i].r)
	}
	return p
}

// only tells whether a request is sent to nearside alone, since it is refused there.
func (r *diffRun) only(l *diffLine) bool { return l.refused || l.differs || l.cross && r.db == 0 }

// one sends one request and compares its replies. false: it makes no sense to go on.
func (r *diffRun) one(p *pair, l *diffLine, args []string, block string) bool {
	r.requests++
	if !l.more {
		raw := redistest.Command(args...)
		if !r.only(l) {
			_, _ = io.WriteString(p[0], raw)
		}
		_, _ = io.WriteString(p[1], raw)
	}
	for range l.replies {
		if !r.compareOne(p, l, args, block) {
			return false
		}
	}
	return true
}

func (r *diffRun) compareOne(p *pair, l *diffLine, args []string, block string) bool {
	r.t.Helper()
	var want []byte
	var errWant error
	if !r.only(l) {
		want, errWant = readReply(p[0].r)
	}
	got, errGot := readReply(p[1].r)
	var ne net.Error
	switch {
	case errors.As(errGot, &ne) && ne.Timeout():
		r.fail(block, l.text, "nearside does not answer (%q), Redis says %.600q", got, want)
		return false
	case errors.As(errWant, &ne) && ne.Timeout():
		r.fail(block, l.text, "Redis does not answer (%q), nearside says %.600q", want, got)
		return false
	case errGot != nil && errWant != nil: // both have closed
		return true
	case errGot != nil || errWant != nil:
		r.fail(block, l.text, "nearside %.600q (%v)\nRedis    %.600q (%v)", got, errGot, want, errWant)
		return false
	case r.only(l):
		if l.cross && !bytes.HasPrefix(got, []byte("-CROSSDB ")) || l.refused && !bytes.HasPrefix(got, []byte("-ERR nearside: ")) || l.differs && !r.explained(args, got) {
			r.fail(block, l.text, "is answered %.300q", got)
		}
	case !sameReply(args, want, got) && !r.explained(args, got):
		r.fail(block, l.text, "nearside %.600q\nRedis    %.600q", got, want)
	}
	return true
}

// explained finds the row that says why a reply differs.
func (r *diffRun) explained(args []string, got []byte) bool {
	b := make([][]byte, len(args))
	for i, a := range args {
		b[i] = []byte(a)
	}
	name := strings.ToLower(args[0])
	if c := policy.Lookup(b); c != nil {
		name = c.Name
	}
	for _, d := range r.known {
		if d.command == name && d.request.MatchString(strings.Join(args[min(1, len(args)):], " ")) && d.reply.Match(got) {
			d.used = true
			return true
		}
	}
	return false
}

// pipeline sends all requests in pieces that end anywhere, and compares the replies as they come.
func (r *diffRun) pipeline(p *pair, b *diffBlock, reqs [][]string, block string) {
	var raw [2]strings.Builder
	for i, args := range reqs {
		s := redistest.Command(args...)
		if !r.only(&b.lines[i]) {
			raw[0].WriteString(s)
		}
		raw[1].WriteString(s)
	}
	pieces := rand.New(rand.NewPCG(r.rnd.Uint64(), 0))
	sent := make(chan struct{}, 2)
	go func() {
		_, _ = io.WriteString(p[0], raw[0].String())
		sent <- struct{}{}
	}()
	go func() {
		for rest := raw[1].String(); rest != ""; {
			most := []int{3, 60, 1000, 40_000}[pieces.IntN(4)]
			n := min(len(rest), 1+pieces.IntN(most))
			if _, err := io.WriteString(p[1], rest[:n]); err != nil {
				break
			}
			rest = rest[n:]
		}
		sent <- struct{}{}
	}()
	defer func() {
		p.close() // unblocks a writer nobody reads from
		<-sent
		<-sent
	}()
	for i := range b.lines {
		r.requests++
		for range b.lines[i].replies {
			if !r.compareOne(p, &b.lines[i], reqs[i], block) {
				return
			}
		}
	}
	r.last(p, block)
}

// last makes sure that nothing but the answer to one more request comes, or that both are closed.
func (r *diffRun) last(p *pair, block string) {
	args := []string{"PING", "the last one"}
	for _, c := range p {
		if c == nil {
			return
		}
		_, _ = io.WriteString(c, redistest.Command(args...))
	}
	r.compareOne(p, &diffLine{text: "(after the end)"}, args, block)
}

// sameData compares all keys of both servers.
func (r *diffRun) sameData(block string) {
	r.t.Helper()
	want := r.data(0, func(_ int, _ string) (int, bool) { return 0, false })
	got := r.data(1, func(db int, key string) (int, bool) {
		if r.db != 0 || db > 1 {
			return 0, false
		}
		// What a session at database 0 left: a key under a cache rule in 1, others in 0.
		if !r.rules.InView([]byte(key), db) {
			r.fail(block, key, "lies in database %d, where it does not belong", db)
		}
		return 0, true
	})
	keys := slices.Collect(maps.Keys(want))
	for k := range got {
		if _, ok := want[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if !sameState(want[k], got[k]) {
			r.fail(block, "the data afterwards", "%q is %q behind nearside, %q at Redis", k, got[k], want[k])
		}
	}
}

// sameState compares what data tells of a key; deadlines are not quite the same.
func sameState(a, b string) bool {
	if a == b {
		return true
	}
	x, ttlX, _ := strings.Cut(a, " ttl=")
	y, ttlY, _ := strings.Cut(b, " ttl=")
	return x == y && near([]byte(":"+ttlX), []byte(":"+ttlY), 3000)
}

// data is every key of a server with its type, encoding, value and deadline. move tells the database that a key is shown under.
func (r *diffRun) data(server int, move func(db int, key string) (int, bool)) map[string]string {
	r.t.Helper()
	c := r.admin[server]
	_ = c.SetDeadline(time.Now().Add(redistest.Timeout))
	all := map[string]string{}
	used := c.ask(r.t, []string{"INFO", "keyspace"})[0].text
	for db := range 16 {
		if !strings.Contains(used, fmt.Sprintf("\ndb%d:", db)) {
			continue
		}
		keys := c.ask(r.t, []string{"SELECT", strconv.Itoa(db)}, []string{"KEYS", "*"})[1].kids
		var reqs [][]string
		for _, k := range keys { // the digest leaves out the groups of streams
			reqs = append(reqs, []string{"TYPE", k.text}, []string{"OBJECT", "ENCODING", k.text}, []string{"DEBUG", "DIGEST-VALUE", k.text},
				[]string{"XINFO", "GROUPS", k.text}, []string{"PTTL", k.text})
		}
		replies := c.ask(r.t, reqs...)
		for i, k := range keys {
			at := db
			if to, ok := move(db, k.text); ok {
				at = to
			}
			all[fmt.Sprintf("%d %s", at, k.text)] = fmt.Sprintf("%v ttl=%s", replies[5*i:5*i+4], replies[5*i+4].text)
		}
	}
	return all
}

// arityBlock has every command with one argument too few, and with one too many.
func arityBlock(commands []serverCommand) diffBlock {
	b := diffBlock{name: "wrong arity", once: true}
	for _, c := range commands {
		names := strings.Split(strings.ToUpper(c.name), "|")
		add := func(n int) {
			if n < len(names) {
				return
			}
			words := slices.Clone(names)
			for len(words) < n {
				words = append(words, plainWord("x"))
			}
			b.lines = append(b.lines, diffLine{text: strings.Join(words, " "), words: words, replies: 1})
		}
		add(max(c.arity, -c.arity) - 1)
		if c.arity > 0 {
			add(c.arity + 1)
		}
	}
	for _, c := range commands { // and with subcommands that do not exist
		if container, _, ok := strings.Cut(c.name, "|"); ok {
			b.lines = append(b.lines, diffLine{text: container, words: []string{container, "nosuch", "x"}, replies: 1})
		}
	}
	return b
}

// fixtures are a key of each type.
var fixtures = []string{
	"DEL %none %string %list %hash %set %zset %stream", "SET %string v", "RPUSH %list a b", "HSET %hash f v", "SADD %set 1 2", "ZADD %zset 1 a 2 b", "XADD %stream 1-1 f v",
}

// typeBlock has every line that names keys, one per command, on a key of each type.
func typeBlock(t testing.TB, blocks []diffBlock) diffBlock {
	t.Helper()
	b := diffBlock{name: "wrong types"}
	done := map[string]bool{}
	for _, script := range blocks {
		for _, l := range script.lines {
			name, ok := mutable(&l)
			if !ok || done[name] {
				continue
			}
			done[name] = true
			for _, kind := range []string{"%string", "%list", "%hash", "%set", "%zset", "%stream", "%none"} {
				words := slices.Clone(l.words)
				for i, w := range words {
					if strings.HasPrefix(w, "%") && !strings.Contains(w, "*") {
						words[i] = kind
					}
				}
				for _, f := range fixtures {
					b.lines = append(b.lines, parseDiffLine(t, f))
				}
				b.lines = append(b.lines, diffLine{text: strings.Join(words, " "), words: words, replies: 1})
			}
		}
	}
	return b
}

// immutable are commands that do not stay what they are when their arguments change: they would wait, draw, or speak of the server.
var immutable = map[string]bool{
	"spop": true, "keys": true, "scan": true, "randomkey": true, "dbsize": true, "flushdb": true, "flushall": true, "swapdb": true, "migrate": true,
	"restore": true, "restore-asking": true, "move": true, "copy": true, "eval": true, "eval_ro": true, "evalsha": true, "evalsha_ro": true,
	"fcall": true, "fcall_ro": true, "script": true, "function": true, "xread": true, "xreadgroup": true, "sort": true, "sort_ro": true,
	"srandmember": true, "hrandfield": true, "zrandmember": true, "lolwut": true, "time": true,
}

// mutable tells whether a line has a key of the prefix and may be varied.
func mutable(l *diffLine) (name string, ok bool) {
	if l.cross || l.refused || l.differs || l.second || l.more || l.replies != 1 || len(l.words) < 2 {
		return "", false
	}
	b := make([][]byte, len(l.words))
	for i, w := range l.words {
		b[i] = []byte(strings.TrimPrefix(w, "\x00"))
	}
	c := policy.Lookup(b)
	if c == nil || !c.ArityOK(len(b)) || c.First == 0 && !c.Flags.Has(policy.FlagMovableKeys) {
		return "", false
	}
	container, _, _ := strings.Cut(c.Name, "|")
	const never = policy.FlagAdmin | policy.FlagPubSub | policy.FlagBlocking
	if c.Flags&never != 0 || c.Pin != policy.PinNone || immutable[container] || slices.Contains(l.words, "*") {
		return "", false
	}
	return c.Name, true
}

// serverCommand is one command as the server lists it.
type serverCommand struct {
	name  string
	arity int
}

// listCommands asks a server for its commands.
func listCommands(t testing.TB, c *peer) (all []serverCommand) {
	t.Helper()
	var walk func(v node)
	walk = func(v node) {
		arity, _ := strconv.Atoi(v.kids[1].text)
		all = append(all, serverCommand{v.kids[0].text, arity})
		for _, sub := range v.kids[9].kids {
			walk(sub)
		}
	}
	for _, v := range c.ask(t, []string{"COMMAND"})[0].kids {
		walk(v)
	}
	slices.SortFunc(all, func(a, b serverCommand) int { return cmp.Compare(a.name, b.name) })
	return all
}

// covered fails for commands that the script never gives as many arguments as they want.
func covered(t *testing.T, commands []serverCommand, blocks []diffBlock) {
	t.Helper()
	lines := map[string]int{}
	for _, b := range blocks {
		for _, l := range b.lines {
			var args [][]byte
			for _, w := range l.words {
				args = append(args, []byte(strings.TrimPrefix(w, "\x00")))
			}
			if c := policy.Lookup(args); c != nil && c.ArityOK(len(args)) {
				lines[c.Name]++
			}
		}
	}
	for _, c := range commands {
		if lines[c.name] == 0 && !isContainer(commands, c.name) {
			t.Errorf("the script does not have %s", c.name)
		}
	}
	t.Logf("%d commands and subcommands of the server", len(commands))
}

func isContainer(commands []serverCommand, name string) bool {
	return slices.ContainsFunc(commands, func(c serverCommand) bool { return strings.HasPrefix(c.name, name+"|") })
}

// diffPair starts both sides.
func diffPair(t *testing.T) (direct, origin *redistest.Server, n *nearside) {
	t.Helper()
	// Timeouts of blocked clients are looked at hz times a second.
	direct = redistest.Start(t, "--hz", "200")
	origin = redistest.Start(t, "--hz", "200")
	return direct, origin, start(t, origin, nil)
}

func newDiffRun(t *testing.T, direct, origin *redistest.Server, n *nearside, known []*difference) *diffRun {
	t.Helper()
	r := &diffRun{t: t, direct: direct.Addr, nea: n.addr, rules: n.rules(), known: known}
	for i, addr := range []string{direct.Addr, origin.Addr} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		r.admin[i] = &peer{c, bufio.NewReader(c)}
	}
	return r
}

// diffSeed is random, and logged.
func diffSeed(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("NEARSIDE_DIFF_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("NEARSIDE_DIFF_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// TestDifferential runs the script, and what is made of it.
func TestDifferential(t *testing.T) {
	direct, origin, n := diffPair(t)
	known := readDifferences(t)
	r := newDiffRun(t, direct, origin, n, known)
	r.rnd = diffSeed(t)
	blocks := diffScript(t)
	commands := listCommands(t, r.admin[0])
	covered(t, commands, blocks)
	arity, types := arityBlock(commands), typeBlock(t, blocks)
	total := 0
	for i, db := range []int{0, 1, 7} {
		for j, resp := range []string{"2", "3"} {
			for _, pipelined := range []bool{false, true} {
				r.db, r.resp, r.pipelined, r.failures = db, resp, pipelined, 0
				begun, before := time.Now(), r.requests
				for k := range blocks {
					b := &blocks[k]
					for p, prefix := range diffPrefixes {
						if b.server && i != (j+k)%3 {
							continue
						}
						if p == (i+j+k)%len(diffPrefixes) || pipelined && !b.once {
							r.block(b, prefix)
						}
					}
				}
				if pipelined == (resp == "3") {
					r.block(&arity, diffPrefixes[0])
				}
				if pipelined && (i+j)%2 == 0 {
					r.block(&types, diffPrefixes[(i+j)%len(diffPrefixes)])
				}
				t.Logf("%s: %d requests in %v", r, r.requests-before, time.Since(begun).Round(time.Millisecond))
				total += r.failures
			}
		}
	}
	t.Logf("%d requests, %d differences", r.requests, total)
	for _, d := range known {
		if !d.used {
			t.Errorf("policy/differences.txt explains what does not happen: %s, %s", d.command, d.request)
		}
	}
}

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// key is one key of the configuration: the row from which it is decoded, gets its
// default, and is told of in configs/CONFIGURATION.md and configs/nearside.schema.json.
type key struct {
	name string // dotted, as in cache.audit.one_in
	kind kind
	def  string // its default, written as in a file
	none string // stands for the default of a key that has no such value
	what string // its meaning, in one line of Markdown
}

// kind is a kind of value: how it is decoded, and what a reader and an editor are told of it.
type kind struct {
	set    setter
	value  string // for the reference: what may be written
	schema schema // for editors
	each   []key  // in the place of a schema: it is a list of mappings with these keys
}

// schema is a JSON Schema (draft 7, which editors know best).
type schema map[string]any

// section is a group of keys under a heading of the reference.
type section struct {
	title string
	keys  []key
}

// sections are all keys there are, in the order of the reference.
func (s *settings) sections() []section {
	c := &s.cfg
	return []section{
		{"Addresses", []key{
			{"listen", addressesKind(&c.Listen), "[127.0.0.1:6380]", "", "where clients connect"},
			{"admin", textKind(adminAddress(&c.Admin), "host:port, or `\"\"` for none", `^([^ /@]*:[0-9]+)?$`), "127.0.0.1:9380", "", "the HTTP endpoints; an address that other machines reach needs a [token](OPERATIONS.md#admin-authentication)"},
			{"admin_token_file", fileKind(&c.AdminTokenFile), "", "none", "file whose first line, 16 bytes or more, is that token; read again for every request"},
			{"redis", textKind(redisURL(&c.Redis), "URL", `^(rediss?://|unix:///).`), "redis://127.0.0.1:6379", "", "the origin: `redis://[user:password@]host:port`, `rediss://…` or `unix:///path`"},
		}},
		{"TLS", []key{
			{"redis_tls.ca", fileKind(&c.RedisTLS.CA), "", "the system's", "for `rediss://`: PEM file of the authorities that Redis's certificate must come from"},
			{"redis_tls.cert", fileKind(&c.RedisTLS.Cert), "", "none", "the client certificate, if Redis wants one"},
			{"redis_tls.key", fileKind(&c.RedisTLS.Key), "", "none", "its key"},
			{"redis_tls.server_name", textKind(name(&c.RedisTLS.ServerName), "host name", `^[^ /:@]+$`), "", "the URL's host", "the name that Redis's certificate must be for"},
			{"redis_tls.insecure_skip_verify", boolKind(&c.RedisTLS.InsecureSkipVerify), "false", "", "accept any certificate: a machine in between can read and change everything"},
			{"tls.listen", addressesKind(&c.TLS.Listen), "", "none", "where clients connect by TLS (1.2 or later); with `listen: []` there is no other way in"},
			{"tls.cert", fileKind(&c.TLS.Cert), "", "none", "nearside's certificate; needed with `tls.listen`"},
			{"tls.key", fileKind(&c.TLS.Key), "", "none", "its key"},
			{"tls.client_ca", fileKind(&c.TLS.ClientCA), "", "none", "PEM file of authorities: clients must show a certificate from one of them"},
		}},
		{"Who may do what", []key{
			{"protected_mode", boolKind(&c.ProtectedMode), "true", "", "refuse to start on an address that other machines reach, unless clients must show there who they are: `default_user: none`, or `tls.client_ca`"},
			{"default_user", wordKind(&c.DefaultUser, "origin", "none"), "origin", "", "what a client may do that sent no AUTH: `origin`, what nearside may; `none`, nothing (NOAUTH)"},
			{"deny", denyKind(s.deny()), "[]", "", "commands to refuse: `debug`, with all its subcommands, or `\"config\\|set\"`; `scripts` is whatever runs a script or function, which could call what is denied"},
		}},
		{"Locks", []key{
			{"locks.db", numberKind(&c.LocksDB, 0, math.MaxInt32), "0", "", "the database of all keys that are under no cache rule"},
			{"locks.rules", rulesKind(s.lockRule, new(rule).lockKeys()), "", "none", "keys that are never cached, on connections to Redis of their own"},
		}},
		{"The near cache", []key{
			{"cache.db", numberKind(&c.CacheDB, 0, math.MaxInt32), "1", "", "the database of the keys under cache rules"},
			{"cache.exclusive", boolKind(&c.CacheExclusive), "false", "", "`cache.db` holds nothing but these keys: FLUSHDB at database 0 empties it whole, atomically with `locks.db`, and works inside MULTI. Otherwise it unlinks the rules' keys only, in batches"},
			{"cache.ttl", durationKind(&s.cacheTTL, false), "60s", "", "longest stay of an entry where its rule says nothing"},
			{"cache.memory", sizeKind(&c.Memory, leastMemory, tiB), "64MiB", "", "bytes that all entries may take"},
			{"cache.max_entries", numberKind(&c.MaxEntries, 0, math.MaxInt64), "0", "", "number of entries; 0: memory alone decides"},
			{"cache.max_staleness", durationKind(&c.MaxStaleness, false), "1s", "", "longest time a write made elsewhere may stay unseen; past it hits stop"},
			{"cache.ping", durationKind(&c.Ping, false), "100ms", "", "interval of the proof of freshness; shorter than `cache.max_staleness`"},
			{"cache.link", kind{scalar(s.link), "`auto`, `tracking`, `keyspace` or `none`", words("auto", "tracking", "keyspace", "none"), nil}, "auto", "", "the [source of invalidations](../proxy/CONSISTENCY.md#invalidation-sources)"},
			{"cache.keyspace_events", wordKind(&c.KeyspaceEvents, "check", "set"), "check", "", "with keyspace notifications: `check` that `notify-keyspace-events` is enough, or `set` what is missing"},
			{"cache.fence", kind{s.fence(), "list of `locks`, `scripts`, `messages`", schema{"type": "array", "items": words(fenceWords...)}, nil}, "[locks, scripts, messages]", "", "what raises a [barrier](../proxy/CONSISTENCY.md#barriers): hits after it wait for one round trip on the link"},
			{"cache.audit.one_in", numberKind(&c.Audit.OneIn, 0, math.MaxInt64), "10000", "", "the [verifier](../proxy/CONSISTENCY.md#the-verifier) compares one of so many hits with Redis; 0: none"},
			{"cache.audit.per_second", numberKind(&c.Audit.PerSecond, 1, math.MaxInt32), "20", "", "most reads that the verifier sends in a second"},
			{"cache.refills", numberKind(&c.Refills, 1, math.MaxInt32), "128", "", "most fills (reads sent to Redis to be kept) in flight at one time"},
			{"cache.touch", touchKind(touch(&c.Touch)), "auto", "", "how often a key that is hit is touched at Redis, which otherwise takes it for unused: `auto` is 30s where Redis evicts by LRU or LFU (and `maxmemory` is not 0), else never"},
			{"cache.rules", rulesKind(s.cacheRule, new(rule).cacheKeys()), "", "none", "keys whose reads may be answered from the near cache"},
		}},
		{"Redis", []key{
			{"origin_timeout", durationKind(&c.OriginTimeout, false), "5s", "", "commands fail when Redis has answered nothing at all for so long"},
			{"origin_connections", numberKind(&c.OriginConnections, 1, 1024), "2", "", "shared connections per kind (database, protocol, user, locks)"},
			{"max_pinned", numberKind(&c.MaxPinned, 1, math.MaxInt32), "4096", "", "connections that belong to one client each: for transactions, blocking commands and subscriptions"},
		}},
		{"Clients", []key{
			{"max_clients", numberKind(&c.MaxClients, 1, math.MaxInt32), "10000", "", "client connections"},
			{"max_request", sizeKind(&c.MaxRequest, 1024, mostRequest), "64MiB", "", "bytes of one request; at most `buffers`"},
			{"max_outstanding", numberKind(&c.MaxOutstanding, 1, math.MaxInt32), "1024", "", "unanswered requests of one client before nearside stops reading from it"},
			{"reply_buffer", sizeKind(&c.ReplyBuffer, 1024, tiB), "1MiB", "", "unsent reply bytes of one client before nearside stops reading from it; at most `buffers`"},
			{"buffers", sizeKind(&c.Buffers, miB, tiB), "128MiB", "", "bytes of requests and replies of all clients; beyond, the client that holds most is closed, and a reply that cannot fit is answered with an error"},
			{"request_timeout", durationKind(&c.RequestTimeout, false), "60s", "", "a request that has begun must be finished, or be 16 KiB further, within this time"},
			{"write_timeout", durationKind(&c.WriteTimeout, false), "60s", "", "a client must take some of its reply within this time"},
			{"idle_timeout", durationKind(&c.IdleTimeout, true), "0", "", "close clients that send nothing for so long and wait for no answer, to a second; 0: never"},
			{"drain", durationKind(&c.Drain, false), "5s", "", "how long clients have for their last answers at [shutdown](OPERATIONS.md#shutdown)"},
		}},
		{"Observability", []key{
			{"report", kind{scalar(orNever(&c.Report)), durationText, durationSchema(true), nil}, "5m", "", "how often the log gets a line for each cache rule in use; 0: never"},
			{"window", durationKind(&c.Window, false), "1h", "", "length of the windows in `/cache/metrics`, which begin at its whole multiples (UTC)"},
			{"slow", kind{scalar(s.slow), durationText, durationSchema(true), nil}, "1s", "", "commands that take longer, from read to sent, are logged and listed by [NEARSIDE SLOWLOG](../proxy/metrics/METRICS.md#slow-commands); microseconds too (`500us`); 0: none"},
			{"observe.latency", kind{scalar(s.latency), "`true` or `false`", schema{"type": "boolean"}, nil}, "true", "", "count how long commands take (`nearside_command_duration_seconds`)"},
			{"log.level", wordKind(&s.logLevel, "debug", "info", "warn", "error"), "info", "", "the least important lines that are logged"},
			{"log.format", wordKind(&s.logFormat, "text", "json"), "text", "", "how they are written, to stderr"},
		}},
	}
}

// lockKeys are the keys of a lock rule.
func (r *rule) lockKeys() []key {
	return []key{{"prefix", textKind(r.prefix, "text", ""), "", "", "the keys that the rule is for; the longest prefix wins, `\"\"` is every key"}}
}

// cacheKeys are the keys of a cache rule.
func (r *rule) cacheKeys() []key {
	return []key{
		{"prefix", textKind(r.prefix, "text", ""), "", "", "the keys that the rule is for; the longest prefix wins, `\"\"` is every key"},
		{"ttl", durationKind(&r.TTL, false), "", "`cache.ttl`", "longest stay of an entry; a shorter TTL in Redis holds"},
		{"max_reply", sizeKind(&r.maxReply, 1, math.MaxInt32), "", "1MiB, at most memory/8", "largest reply kept"},
		{"negative", boolKind(&r.Negative), "true", "", "also keep \"no such key\""},
		{"commands", kind{r.commands(), "list of commands", withLeast(listSchema(schema{"type": "string"}), 1), nil}, "", "all that can be", "which reads to keep"},
		{"consistency", kind{scalar(r.consistency), "`bounded` or `fenced`", words("bounded", "fenced"), nil}, "bounded", "", "`fenced`: every hit waits for a [proof of freshness](../proxy/CONSISTENCY.md#the-proof-of-freshness) that began after the request came in, so that it also sees every write made elsewhere before"},
		{"stale_if_error", durationKind(&r.StaleIfError, true), "0", "", "while Redis cannot be reached (or answers LOADING, BUSY or MASTERDOWN), serve what was right at the last proof of freshness, if that is no older than this; 0: never"},
	}
}

// keys are the keys of all sections.
func (s *settings) keys() (all []key) {
	for _, sec := range s.sections() {
		all = append(all, sec.keys...)
	}
	return all
}

// nested takes the first word off the names: the keys that stand alone, and those
// that stand below a word, in order.
func nested(keys []key) (alone []key, words []string, below map[string][]key) {
	below = map[string][]key{}
	for _, k := range keys {
		head, rest, deep := strings.Cut(k.name, ".")
		if !deep {
			alone = append(alone, k)
			continue
		}
		if below[head] == nil {
			words = append(words, head)
		}
		k.name = rest
		below[head] = append(below[head], k)
	}
	return alone, words, below
}

// fieldsOf is what the decoder asks for.
func fieldsOf(keys []key) fields {
	f := fields{}
	alone, words, below := nested(keys)
	for _, k := range alone {
		f[k.name] = k.kind.set
	}
	for _, w := range words {
		f[w] = mapping(fieldsOf(below[w]))
	}
	return f
}

// apply gives every key its default, by the way that a file's value takes.
func apply(keys []key) {
	for _, k := range keys {
		if k.def == "" {
			continue
		}
		d := &decoder{file: "the default of " + k.name, at: map[string]place{}}
		if err := d.set(node(k.def), k.name, k.kind.set); err != nil {
			panic(err) // the table is wrong: no test passes
		}
	}
}

// node is a value as the YAML parser has it.
func node(text string) ast.Node {
	f, err := parser.ParseBytes([]byte(text), 0)
	if err != nil {
		panic(err) // as above
	}
	return f.Docs[0].Body
}

// The kinds of values.

const durationText = "duration"

func durationKind(dst *time.Duration, zero bool) kind {
	return kind{scalar(duration(dst, zero)), durationText, durationSchema(zero), nil}
}

func durationSchema(zero bool) schema {
	s := schema{"type": "string", "pattern": `^\+?(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`}
	if zero {
		return schema{"anyOf": []any{s, schema{"const": 0}}}
	}
	return s
}

func sizeKind(dst *int64, least, most int64) kind {
	text := "size"
	if most != tiB && most != math.MaxInt32 {
		text += ", at most " + sizeText(most)
	}
	return kind{scalar(size(dst, least, most)), text, schema{"anyOf": []any{
		schema{"type": "string", "pattern": `^[0-9][0-9.,]* ?([kKmMgGtT][iI]?)?[bB]?$`},
		schema{"type": "integer", "minimum": least, "maximum": most},
	}}, nil}
}

func numberKind[T int | int64](dst *T, least, most int64) kind {
	s := schema{"type": "integer", "minimum": least}
	text := strconv.FormatInt(least, 10) + " or more"
	if most != math.MaxInt64 && most != math.MaxInt32 {
		text = fmt.Sprintf("%d to %d", least, most)
	}
	if most != math.MaxInt64 { // a float would round it up
		s["maximum"] = most
	}
	return kind{scalar(number(dst, least, most)), text, s, nil}
}

func boolKind(dst *bool) kind {
	return kind{scalar(boolean(dst)), "`true` or `false`", schema{"type": "boolean"}, nil}
}

func wordKind(dst *string, known ...string) kind {
	last := len(known) - 1
	text := "`" + strings.Join(known[:last], "`, `") + "` or `" + known[last] + "`"
	return kind{scalar(word(dst, known...)), text, words(known...), nil}
}

func words(known ...string) schema { return schema{"enum": known} }

func textKind(parse func(string) error, value, pattern string) kind {
	s := schema{"type": "string"}
	if pattern != "" {
		s["pattern"] = pattern
	}
	return kind{text(parse), value, s, nil}
}

func fileKind(dst *string) kind {
	return kind{text(readable(dst)), "file", schema{"type": "string", "minLength": 1}, nil}
}

func addressesKind(dst *[]string) kind {
	one := schema{"type": "string", "pattern": `^(unix:.+|[^ /@]*:[0-9]+)$`}
	return kind{addresses(dst), "list of host:port or unix:/path", schema{"anyOf": []any{one, listSchema(one)}}, nil}
}

func denyKind(set setter) kind {
	return kind{set, "list of commands", listSchema(schema{"type": "string", "pattern": `^[A-Za-z][^|]*(\|.+)?$`}), nil}
}

func touchKind(parse func(string) error) kind {
	return kind{
		scalar(parse), "`auto`, `off` or duration of at least 1s",
		schema{"anyOf": []any{words("auto", "off"), durationSchema(false)}},
		nil,
	}
}

func rulesKind(add setter, each []key) kind {
	return kind{list(add), "list of rules", nil, each}
}

func listSchema(of schema) schema {
	return schema{"type": "array", "items": of, "uniqueItems": true}
}

func withLeast(s schema, n int) schema {
	s["minItems"] = n
	return s
}

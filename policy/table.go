package policy

// table is the one table of commands: every command and subcommand of Redis
// 7.0, and NEARSIDE. Each fact about a command stands here and nowhere else.
// TestTableAgainstRedis compares it with what a real server says of itself.
//
// A row is: name, arity, flags, keys, and what nearside makes of it. "-" means
// none; "# family: title" begins a family of commands. Arity and flags are spelt
// as COMMAND spells them; a negative arity means "at least".
//
// keys, joined by commas, positions counted from the command's name at 0:
//
//	r1         the argument at 1 is a key that is read
//	w1         … that may be written
//	c1         … a shard channel, which COMMAND calls a key and we do not
//	r2..-1     from 2 to the last argument; r1..2 from 1 to 2; w1..-1/2 every second one
//	r#2        the argument at 2 is the number of keys that follow it
//	sort       STORE key: written
//	store      STORE key, STOREDIST key: written
//	streams    the first half of what follows STREAMS: read; wstreams: written
//	debug      what DEBUG OBJECT and its like look at: read
//	migrate    KEYS key …, when the argument at 3 is empty: written
//
// The last column, joined by commas; "-" is a command that is passed on:
//
//	local, view, split, refused, pin:REASON   the Route, see there
//	cache      its answer depends on nothing but its arguments and one stored value
//	hash       … and may change when a hash field expires by itself
//	all        it may change more than it names: WritesAll
//	private    on some server it may block, or have Redis close its connection: Decision.Private
//	foreign    … or leave its connection in another state: Decision.Foreign
//	state      … for later commands to depend on: Decision.MaySet
//	release    as a write of a lock's key it never acquires the lock
//	alone      it may run long or block its client: Decision.Alone
//	if-block   pinned only if BLOCK is among its options
//	set setnx copy move sort debug mget eval evalsha fcall source:N   have code of their own in decide.go
const table = `
# string: strings
append                         3 write,denyoom,fast                           w1          -
decr                           2 write,denyoom,fast                           w1          -
decrby                         3 write,denyoom,fast                           w1          -
get                            2 readonly,fast                                r1          cache
getdel                         2 write,fast                                   w1          -
getex                         -2 write,fast                                   w1          -
getrange                       4 readonly                                     r1          cache
getset                         3 write,denyoom,fast                           w1          -
incr                           2 write,denyoom,fast                           w1          -
incrby                         3 write,denyoom,fast                           w1          -
incrbyfloat                    3 write,denyoom,fast                           w1          -
lcs                           -3 readonly                                     r1..2       -
mget                          -2 readonly,fast                                r1..-1      split,cache,mget
mset                          -3 write,denyoom                                w1..-1/2    split
msetnx                        -3 write,denyoom                                w1..-1/2    -
psetex                         4 write,denyoom                                w1          -
set                           -3 write,denyoom                                w1          set
setex                          4 write,denyoom                                w1          -
setnx                          3 write,denyoom,fast                           w1          setnx
setrange                       4 write,denyoom                                w1          -
strlen                         2 readonly,fast                                r1          cache
substr                         4 readonly                                     r1          cache

# bitmap: bitmaps
bitcount                      -2 readonly                                     r1          cache
bitfield                      -2 write,denyoom                                w1          -
bitfield_ro                   -2 readonly,fast                                r1          cache
bitop                         -4 write,denyoom                                w2,r3..-1   -
bitpos                        -3 readonly                                     r1          cache
getbit                         3 readonly,fast                                r1          cache
setbit                         4 write,denyoom                                w1          -

# hyperloglog: HyperLogLogs
pfadd                         -2 write,denyoom,fast                           w1          -
pfcount                       -2 readonly                                     w1..-1      -
pfdebug                        3 write,denyoom,admin                          w2          -
pfmerge                       -2 write,denyoom                                w1,r2..-1   -
pfselftest                     1 admin                                        -           -

# list: lists
blmove                         6 write,denyoom,noscript,blocking              w1,w2       pin:block
blmpop                        -5 write,blocking,movablekeys                   w#2         pin:block
blpop                         -3 write,noscript,blocking                      w1..-2      pin:block
brpop                         -3 write,noscript,blocking                      w1..-2      pin:block
brpoplpush                     4 write,denyoom,noscript,blocking              w1,w2       pin:block
lindex                         3 readonly                                     r1          cache
linsert                        5 write,denyoom                                w1          -
llen                           2 readonly,fast                                r1          cache
lmove                          5 write,denyoom                                w1,w2       -
lmpop                         -4 write,movablekeys                            w#1         -
lpop                          -2 write,fast                                   w1          -
lpos                          -3 readonly                                     r1          cache
lpush                         -3 write,denyoom,fast                           w1          -
lpushx                        -3 write,denyoom,fast                           w1          -
lrange                         4 readonly                                     r1          cache
lrem                           4 write                                        w1          -
lset                           4 write,denyoom                                w1          -
ltrim                          4 write                                        w1          -
rpop                          -2 write,fast                                   w1          -
rpoplpush                      3 write,denyoom                                w1,w2       -
rpush                         -3 write,denyoom,fast                           w1          -
rpushx                        -3 write,denyoom,fast                           w1          -

# hash: hashes
hdel                          -3 write,fast                                   w1          -
hexists                        3 readonly,fast                                r1          cache,hash
hget                           3 readonly,fast                                r1          cache,hash
hgetall                        2 readonly                                     r1          cache,hash
hincrby                        4 write,denyoom,fast                           w1          -
hincrbyfloat                   4 write,denyoom,fast                           w1          -
hkeys                          2 readonly                                     r1          cache,hash
hlen                           2 readonly,fast                                r1          cache,hash
hmget                         -3 readonly,fast                                r1          cache,hash
hmset                         -4 write,denyoom,fast                           w1          -
hrandfield                    -2 readonly                                     r1          -
hscan                         -3 readonly                                     r1          -
hset                          -4 write,denyoom,fast                           w1          -
hsetnx                         4 write,denyoom,fast                           w1          -
hstrlen                        3 readonly,fast                                r1          cache,hash
hvals                          2 readonly                                     r1          cache,hash

# set: sets
sadd                          -3 write,denyoom,fast                           w1          -
scard                          2 readonly,fast                                r1          cache
sdiff                         -2 readonly                                     r1..-1      -
sdiffstore                    -3 write,denyoom                                w1,r2..-1   -
sinter                        -2 readonly                                     r1..-1      -
sintercard                    -3 readonly,movablekeys                         r#1         -
sinterstore                   -3 write,denyoom                                w1,r2..-1   -
sismember                      3 readonly,fast                                r1          cache
smembers                       2 readonly                                     r1          cache
smismember                    -3 readonly,fast                                r1          cache
smove                          4 write,fast                                   w1,w2       -
spop                          -2 write,fast                                   w1          -
srandmember                   -2 readonly                                     r1          -
srem                          -3 write,fast                                   w1          -
sscan                         -3 readonly                                     r1          -
sunion                        -2 readonly                                     r1..-1      -
sunionstore                   -3 write,denyoom                                w1,r2..-1   -

# zset: sorted sets
bzmpop                        -5 write,blocking,movablekeys                   w#2         pin:block
bzpopmax                      -3 write,noscript,blocking,fast                 w1..-2      pin:block
bzpopmin                      -3 write,noscript,blocking,fast                 w1..-2      pin:block
zadd                          -4 write,denyoom,fast                           w1          -
zcard                          2 readonly,fast                                r1          cache
zcount                         4 readonly,fast                                r1          cache
zdiff                         -3 readonly,movablekeys                         r#1         -
zdiffstore                    -4 write,denyoom,movablekeys                    w1,r#2      -
zincrby                        4 write,denyoom,fast                           w1          -
zinter                        -3 readonly,movablekeys                         r#1         -
zintercard                    -3 readonly,movablekeys                         r#1         -
zinterstore                   -4 write,denyoom,movablekeys                    w1,r#2      -
zlexcount                      4 readonly,fast                                r1          cache
zmpop                         -4 write,movablekeys                            w#1         -
zmscore                       -3 readonly,fast                                r1          cache
zpopmax                       -2 write,fast                                   w1          -
zpopmin                       -2 write,fast                                   w1          -
zrandmember                   -2 readonly                                     r1          -
zrange                        -4 readonly                                     r1          cache
zrangebylex                   -4 readonly                                     r1          cache
zrangebyscore                 -4 readonly                                     r1          cache
zrangestore                   -5 write,denyoom                                w1,r2       -
zrank                          3 readonly,fast                                r1          cache
zrem                          -3 write,fast                                   w1          -
zremrangebylex                 4 write                                        w1          -
zremrangebyrank                4 write                                        w1          -
zremrangebyscore               4 write                                        w1          -
zrevrange                     -4 readonly                                     r1          cache
zrevrangebylex                -4 readonly                                     r1          cache
zrevrangebyscore              -4 readonly                                     r1          cache
zrevrank                       3 readonly,fast                                r1          cache
zscan                         -3 readonly                                     r1          -
zscore                         3 readonly,fast                                r1          cache
zunion                        -3 readonly,movablekeys                         r#1         -
zunionstore                   -4 write,denyoom,movablekeys                    w1,r#2      -

# geo: geo
geoadd                        -5 write,denyoom                                w1          -
geodist                       -4 readonly                                     r1          cache
geohash                       -2 readonly                                     r1          cache
geopos                        -2 readonly                                     r1          cache
georadius                     -6 write,denyoom,movablekeys                    r1,store    -
georadius_ro                  -6 readonly                                     r1          cache
georadiusbymember             -5 write,denyoom,movablekeys                    r1,store    -
georadiusbymember_ro          -5 readonly                                     r1          cache
geosearch                     -7 readonly                                     r1          cache
geosearchstore                -8 write,denyoom                                w1,r2       -

# stream: streams
xack                          -4 write,fast                                   w1          -
xadd                          -5 write,denyoom,fast                           w1          -
xautoclaim                    -6 write,fast                                   w1          -
xclaim                        -6 write,fast                                   w1          -
xdel                          -3 write,fast                                   w1          -
xgroup                        -2 -                                            -           -
xgroup|create                 -5 write,denyoom                                w2          -
xgroup|createconsumer          5 write,denyoom                                w2          -
xgroup|delconsumer             5 write                                        w2          -
xgroup|destroy                 4 write                                        w2          -
xgroup|help                    2 loading,stale                                -           -
xgroup|setid                  -5 write                                        w2          -
xinfo                         -2 -                                            -           -
xinfo|consumers                4 readonly                                     r2          -
xinfo|groups                   3 readonly                                     r2          -
xinfo|help                     2 loading,stale                                -           -
xinfo|stream                  -3 readonly                                     r2          -
xlen                           2 readonly,fast                                r1          cache
xpending                      -3 readonly                                     r1          -
xrange                        -4 readonly                                     r1          cache
xread                         -4 readonly,blocking,movablekeys                streams     pin:block,if-block
xreadgroup                    -7 write,blocking,movablekeys                   wstreams    pin:block,if-block
xrevrange                     -4 readonly                                     r1          cache
xsetid                        -3 write,denyoom,fast                           w1          -
xtrim                         -4 write                                        w1          -

# keys: keys of any type
copy                          -3 write,denyoom                                r1,w2       copy
del                           -2 write                                        w1..-1      split,release
dump                           2 readonly                                     r1          -
exists                        -2 readonly,fast                                r1..-1      split,cache,hash
expire                        -3 write,fast                                   w1          release
expireat                      -3 write,fast                                   w1          release
expiretime                     2 readonly,fast                                r1          cache,hash
keys                           2 readonly                                     -           view
migrate                       -6 write,movablekeys                            w3,migrate  -
move                           3 write,fast                                   w1          all,move
object                        -2 -                                            -           -
object|encoding                3 readonly                                     r2          -
object|freq                    3 readonly                                     r2          -
object|help                    2 loading,stale                                -           -
object|idletime                3 readonly                                     r2          -
object|refcount                3 readonly                                     r2          -
persist                        2 write,fast                                   w1          release
pexpire                       -3 write,fast                                   w1          release
pexpireat                     -3 write,fast                                   w1          release
pexpiretime                    2 readonly,fast                                r1          cache,hash
pttl                           2 readonly,fast                                r1          -
randomkey                      1 readonly                                     -           view
rename                         3 write                                        w1,w2       -
renamenx                       3 write,fast                                   w1,w2       -
restore                       -4 write,denyoom                                w1          -
scan                          -2 readonly                                     -           view
sort                          -2 write,denyoom,movablekeys                    r1,sort     sort
sort_ro                       -2 readonly,movablekeys                         r1          cache,sort
touch                         -2 readonly,fast                                r1..-1      split
ttl                            2 readonly,fast                                r1          -
type                           2 readonly,fast                                r1          cache,hash
unlink                        -2 write,fast                                   w1..-1      split,release
wait                           3 noscript                                     -           pin:block

# transaction: transactions
discard                        1 noscript,loading,stale,fast,allow_busy       -           pin:tx
exec                           1 noscript,loading,stale,skip_slowlog          -           pin:tx
multi                          1 noscript,loading,stale,fast,allow_busy       -           pin:tx
unwatch                        1 noscript,loading,stale,fast,allow_busy       -           pin:tx
watch                         -2 noscript,loading,stale,fast,allow_busy       r1..-1      pin:tx

# scripting: scripts and functions (SCRIPT DEBUG would put a shared connection into the debugger)
eval                          -3 noscript,stale,skip_monitor,no_mandatory_keys,movablekeys w#2         eval
eval_ro                       -3 readonly,noscript,stale,skip_monitor,no_mandatory_keys,movablekeys r#2         source:1,alone
evalsha                       -3 noscript,stale,skip_monitor,no_mandatory_keys,movablekeys w#2         evalsha
evalsha_ro                    -3 readonly,noscript,stale,skip_monitor,no_mandatory_keys,movablekeys r#2         alone
fcall                         -3 noscript,stale,skip_monitor,no_mandatory_keys,movablekeys w#2         fcall,alone
fcall_ro                      -3 readonly,noscript,stale,skip_monitor,no_mandatory_keys,movablekeys r#2         alone
function                      -2 -                                            -           -
function|delete                3 write,noscript                               -           all
function|dump                  2 noscript                                     -           -
function|flush                -2 write,noscript                               -           all
function|help                  2 loading,stale                                -           -
function|kill                  2 noscript,allow_busy                          -           -
function|list                 -2 noscript                                     -           -
function|load                 -3 write,denyoom,noscript                       -           all
function|restore              -3 write,denyoom,noscript                       -           all
function|stats                 2 noscript,allow_busy                          -           -
script                        -2 -                                            -           -
script|debug                   3 noscript                                     -           refused
script|exists                 -3 noscript                                     -           -
script|flush                  -2 noscript                                     -           -
script|help                    2 loading,stale                                -           -
script|kill                    2 noscript,allow_busy                          -           -
script|load                    3 noscript,stale                               -           source:2

# pubsub: publish and subscribe
psubscribe                    -2 pubsub,noscript,loading,stale                -           pin:sub
publish                        3 pubsub,loading,stale,fast                    -           -
pubsub                        -2 -                                            -           -
pubsub|channels               -2 pubsub,loading,stale                         -           -
pubsub|help                    2 loading,stale                                -           -
pubsub|numpat                  2 pubsub,loading,stale                         -           -
pubsub|numsub                 -2 pubsub,loading,stale                         -           -
pubsub|shardchannels          -2 pubsub,loading,stale                         -           -
pubsub|shardnumsub            -2 pubsub,loading,stale                         -           -
punsubscribe                  -1 pubsub,noscript,loading,stale                -           pin:sub
spublish                       3 pubsub,loading,stale,fast                    c1          -
ssubscribe                    -2 pubsub,noscript,loading,stale                c1..-1      pin:sub
subscribe                     -2 pubsub,noscript,loading,stale                -           pin:sub
sunsubscribe                  -1 pubsub,noscript,loading,stale                c1..-1      pin:sub
unsubscribe                   -1 pubsub,noscript,loading,stale                -           pin:sub

# connection: connections; "nearside" is our own
auth                          -2 noscript,loading,stale,fast,no_auth,allow_busy -           local
client                        -2 -                                            -           local
client|caching                 3 noscript,loading,stale                       -           pin:tracking
client|getname                 2 noscript,loading,stale                       -           local
client|getredir                2 noscript,loading,stale                       -           pin:tracking
client|help                    2 loading,stale                                -           local
client|id                      2 noscript,loading,stale                       -           local
client|info                    2 noscript,loading,stale                       -           local
client|kill                   -3 admin,noscript,loading,stale                 -           local
client|list                   -2 admin,noscript,loading,stale                 -           local
client|no-evict                3 admin,noscript,loading,stale                 -           local,state
client|pause                  -3 admin,noscript,loading,stale                 -           local
client|reply                   3 noscript,loading,stale                       -           local
client|setname                 3 noscript,loading,stale                       -           local
client|tracking               -3 noscript,loading,stale                       -           pin:tracking
client|trackinginfo            2 noscript,loading,stale                       -           pin:tracking
client|unblock                -3 admin,noscript,loading,stale                 -           local
client|unpause                 2 admin,noscript,loading,stale                 -           local
echo                           2 loading,stale,fast                           -           -
hello                         -1 noscript,loading,stale,fast,no_auth,allow_busy -           local
ping                          -1 fast                                         -           local
quit                          -1 noscript,loading,stale,fast,no_auth,allow_busy -           local
reset                          1 noscript,loading,stale,fast,no_auth,allow_busy -           local
select                         2 loading,stale,fast                           -           local
nearside                      -1 noscript,loading,stale                       -           local

# server: server
acl                           -2 -                                            -           -
acl|cat                       -2 noscript,loading,stale                       -           -
acl|deluser                   -3 admin,noscript,loading,stale                 -           all,private
acl|dryrun                    -4 admin,noscript,loading,stale                 -           -
acl|genpass                   -2 noscript,loading,stale                       -           -
acl|getuser                    3 admin,noscript,loading,stale                 -           -
acl|help                       2 loading,stale                                -           -
acl|list                       2 admin,noscript,loading,stale                 -           -
acl|load                       2 admin,noscript,loading,stale                 -           all,private
acl|log                       -2 admin,noscript,loading,stale                 -           -
acl|save                       2 admin,noscript,loading,stale                 -           -
acl|setuser                   -3 admin,noscript,loading,stale                 -           all
acl|users                      2 admin,noscript,loading,stale                 -           -
acl|whoami                     2 noscript,loading,stale                       -           -
bgrewriteaof                   1 admin,noscript,no_async_loading              -           -
bgsave                        -1 admin,noscript,no_async_loading              -           -
command                       -1 loading,stale                                -           -
command|count                  2 loading,stale                                -           -
command|docs                  -2 loading,stale                                -           -
command|getkeys               -4 loading,stale                                -           -
command|getkeysandflags       -4 loading,stale                                -           -
command|help                   2 loading,stale                                -           -
command|info                  -2 loading,stale                                -           -
command|list                  -2 loading,stale                                -           -
config                        -2 -                                            -           -
config|get                    -3 admin,noscript,loading,stale                 -           -
config|help                    2 loading,stale                                -           -
config|resetstat               2 admin,noscript,loading,stale                 -           -
config|rewrite                 2 admin,noscript,loading,stale                 -           -
config|set                    -4 admin,noscript,loading,stale                 -           all
dbsize                         1 readonly,fast                                -           view
debug                         -2 admin,noscript,loading,stale                 debug       all,debug,foreign
failover                      -1 admin,noscript,stale                         -           refused,all
flushall                      -1 write                                        -           all,alone
flushdb                       -1 write                                        -           view,all,alone
info                          -1 loading,stale                                -           local
lastsave                       1 loading,stale,fast                           -           -
latency                       -2 -                                            -           -
latency|doctor                 2 admin,noscript,loading,stale                 -           -
latency|graph                  3 admin,noscript,loading,stale                 -           -
latency|help                   2 loading,stale                                -           -
latency|histogram             -2 admin,noscript,loading,stale                 -           -
latency|history                3 admin,noscript,loading,stale                 -           -
latency|latest                 2 admin,noscript,loading,stale                 -           -
latency|reset                 -2 admin,noscript,loading,stale                 -           -
lolwut                        -1 readonly,fast                                -           -
memory                        -2 -                                            -           -
memory|doctor                  2 -                                            -           -
memory|help                    2 loading,stale                                -           -
memory|malloc-stats            2 -                                            -           -
memory|purge                   2 -                                            -           -
memory|stats                   2 -                                            -           -
memory|usage                  -3 readonly                                     r2          -
module                        -2 -                                            -           -
module|help                    2 loading,stale                                -           -
module|list                    2 admin,noscript                               -           -
module|load                   -3 admin,noscript,no_async_loading              -           all,private
module|loadex                 -3 admin,noscript,no_async_loading              -           all,private
module|unload                  3 admin,noscript,no_async_loading              -           all,private
monitor                        1 admin,noscript,loading,stale                 -           pin:monitor
psync                         -3 admin,noscript,no_async_loading,no_multi     -           refused
replconf                      -1 admin,noscript,loading,stale,allow_busy      -           refused
replicaof                      3 admin,noscript,stale,no_async_loading        -           refused,all
restore-asking                -4 write,denyoom,asking                         w1          -
role                           1 noscript,loading,stale,fast                  -           -
save                           1 admin,noscript,no_async_loading,no_multi     -           -
shutdown                      -1 admin,noscript,loading,stale,no_multi,allow_busy -           refused
slaveof                        3 admin,noscript,stale,no_async_loading        -           refused,all
slowlog                       -2 -                                            -           -
slowlog|get                   -2 admin,loading,stale                          -           -
slowlog|help                   2 loading,stale                                -           -
slowlog|len                    2 admin,loading,stale                          -           -
slowlog|reset                  2 admin,loading,stale                          -           -
swapdb                         3 write,fast                                   -           all
sync                           1 admin,noscript,no_async_loading,no_multi     -           refused
time                           1 loading,stale,fast                           -           -

# cluster: cluster
asking                         1 fast                                         -           local
cluster                       -2 -                                            -           -
cluster|addslots              -3 admin,stale,no_async_loading                 -           private
cluster|addslotsrange         -4 admin,stale,no_async_loading                 -           private
cluster|bumpepoch              2 admin,stale,no_async_loading                 -           private
cluster|count-failure-reports  3 admin,stale                                  -           -
cluster|countkeysinslot        3 stale                                        -           -
cluster|delslots              -3 admin,stale,no_async_loading                 -           private
cluster|delslotsrange         -4 admin,stale,no_async_loading                 -           private
cluster|failover              -2 admin,stale,no_async_loading                 -           all,private
cluster|flushslots             2 admin,stale,no_async_loading                 -           all,private
cluster|forget                 3 admin,stale,no_async_loading                 -           private
cluster|getkeysinslot          4 stale                                        -           -
cluster|help                   2 loading,stale                                -           -
cluster|info                   2 stale                                        -           -
cluster|keyslot                3 stale                                        -           -
cluster|links                  2 stale                                        -           -
cluster|meet                  -4 admin,stale,no_async_loading                 -           private
cluster|myid                   2 stale                                        -           -
cluster|nodes                  2 stale                                        -           -
cluster|replicas               3 admin,stale                                  -           -
cluster|replicate              3 admin,stale,no_async_loading                 -           all,private
cluster|reset                 -2 admin,noscript,stale                         -           all,private
cluster|saveconfig             2 admin,stale,no_async_loading                 -           private
cluster|set-config-epoch       3 admin,stale,no_async_loading                 -           private
cluster|setslot               -4 admin,stale,no_async_loading                 -           private
cluster|shards                 2 stale                                        -           -
cluster|slaves                 3 admin,stale                                  -           -
cluster|slots                  2 stale                                        -           -
readonly                       1 loading,stale,fast                           -           local
readwrite                      1 loading,stale,fast                           -           local
`

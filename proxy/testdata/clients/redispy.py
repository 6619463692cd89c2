"""redis-py (Debian's python3-redis) through nearside, as applications use it.

Run by TestRedisPy with NEARSIDE_ADDR and ORIGIN_ADDR; prints one line per
failed check and a summary.
"""

import faulthandler
import os
import sys
import threading
import time

import redis

passed, failed = 0, 0


faulthandler.dump_traceback_later(60, exit=True)  # say where it hangs


def check(what, got, want):
    global passed, failed
    if got == want:
        passed += 1
    else:
        failed += 1
        print(f"not ok {what}: {got!r}, want {want!r}")


def raises(what, kind, call):
    global passed, failed
    try:
        got = call()
    except kind:
        passed += 1
    except Exception as err:
        failed += 1
        print(f"not ok {what}: {type(err).__name__}: {err}, want {kind.__name__}")
    else:
        failed += 1
        print(f"not ok {what}: {got!r}, want {kind.__name__}")


def connect(addr, **options):
    host, port = addr.rsplit(":", 1)
    return redis.Redis(host=host, port=int(port), socket_timeout=20, **options)


def main():
    near, origin = os.environ["NEARSIDE_ADDR"], os.environ["ORIGIN_ADDR"]
    r = connect(near, decode_responses=True)
    there = [connect(origin, db=db, decode_responses=True) for db in (0, 1)]

    # Connecting, and the plain commands.
    check("PING", r.ping(), True)
    check("SET", r.set("product:1", "tea", ex=60), True)
    for _ in range(3):
        check("GET", r.get("product:1"), "tea")
    check("where it is", [o.get("product:1") for o in there], [None, "tea"])
    check("GET of nothing", r.get("product:none"), None)
    check("HSET", r.hset("product:h", mapping={"a": 1, "b": "two"}), 2)
    check("HGETALL", r.hgetall("product:h"), {"a": "1", "b": "two"})
    check("MGET", r.mget("product:1", "lock:x", "product:none"), ["tea", None, None])
    check("binary", connect(near).set(b"product:\x00\xff", b"\r\n\x00"), True)
    check("binary back", connect(near).get(b"product:\x00\xff"), b"\r\n\x00")
    check("SCAN", sorted(r.scan_iter(match="product:[1h]")), ["product:1", "product:h"])
    check("INFO", r.info()["redis_version"], there[0].info()["redis_version"])
    check("CLIENT SETNAME", r.client_setname("py") and r.client_getname(), "py")
    check("CLIENT LIST", [c["name"] for c in r.client_list() if c["id"] == str(r.client_id())], ["py"])
    check("CLIENT INFO", r.client_info()["cmd"], "client|info")
    raises("WRONGTYPE", redis.ResponseError, lambda: r.lpush("product:1", "x"))

    # Pipelines are MULTI and EXEC.
    with r.pipeline() as p:
        p.set("product:p", 1).incr("product:p").set("lock:p", "x", nx=True, px=5000).get("lock:p").mget("product:p", "lock:p").delete("product:p", "lock:p")
        check("a transaction of both databases", p.execute(), [True, 2, True, "x", ["2", "x"], 2])
    with r.pipeline(transaction=False) as p:
        for i in range(100):
            p.set("product:p", i).get("product:p")
        check("a plain pipeline", p.execute(), [v for i in range(100) for v in (True, str(i))])
    with r.pipeline() as p:
        p.set("product:p", "text").incr("product:p").get("product:p")
        got = p.execute(raise_on_error=False)
        check("an error inside", [got[0], type(got[1]), got[2]], [True, redis.ResponseError, "text"])
    with r.pipeline() as p:
        p.watch("product:w", "lock:w")
        there[1].set("product:w", "faster")
        p.multi()
        p.set("product:w", "mine")
        raises("WATCH", redis.WatchError, p.execute)
    check("transaction()", r.transaction(lambda p: (p.multi(), p.set("product:w", "again")), "product:w"), [True])

    # Locks: SET NX PX, and scripts by EVALSHA that release and extend.
    lock = r.lock("lock:py", timeout=10, blocking=False)
    other = r.lock("lock:py", timeout=10, blocking=False)
    check("acquire", lock.acquire(), True)
    check("only one", other.acquire(), False)
    check("owned", lock.owned(), True)
    check("extend", lock.extend(20), True)
    check("reacquire", lock.reacquire(), True)
    check("the lock's database", [o.exists("lock:py") for o in there], [1, 0])
    raises("releasing what is not held", redis.exceptions.LockError, other.release)
    lock.release()
    check("released", other.acquire(), True)
    other.release()
    counted = []

    def work(k):
        mine = connect(near)
        for _ in range(5):
            with mine.lock("lock:many", timeout=10, blocking_timeout=20, sleep=0.001):
                n = int(mine.get("balance:many") or 0)
                mine.set("balance:many", n + 1)
        counted.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check("all workers have ended", len(counted), 6)
    check("what the lock guards", r.get("balance:many"), "30")
    script = r.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
    check("a script", [script(keys=["balance:s"], args=[5]), script(keys=["balance:s"], args=[5]), r.get("balance:s")], [5, 10, "10"])

    # Messages.
    sub = r.pubsub()
    sub.subscribe("news")
    sub.psubscribe("n*")
    got = [sub.get_message(timeout=20) for _ in range(2)]
    check("subscribed", [m["type"] for m in got], ["subscribe", "psubscribe"])
    check("PUBLISH", r.publish("news", "hello"), 2)
    got = [sub.get_message(timeout=20) for _ in range(2)]
    check("messages", [(m["type"], m["data"]) for m in got], [("message", "hello"), ("pmessage", "hello")])
    check("at Redis", there[0].publish("news", "direct"), 2)
    got = [sub.get_message(timeout=20) for _ in range(2)]
    check("messages from Redis", [m["data"] for m in got], ["direct", "direct"])
    sub.ping()
    check("PING while subscribed", sub.get_message(timeout=20)["type"], "pong")
    sub.unsubscribe()
    sub.punsubscribe()
    got = [sub.get_message(timeout=20) for _ in range(2)]
    check("unsubscribed", [m["type"] for m in got], ["unsubscribe", "punsubscribe"])
    sub.close()

    # SELECT, by option and by command.
    one, seven = connect(near, db=1, decode_responses=True), connect(near, db=7, decode_responses=True)
    check("database 1", one.get("product:1"), "tea")
    check("database 7", [seven.set("product:1", "seven"), seven.get("product:1")], [True, "seven"])
    check("database 0 has its own", r.get("product:1"), "tea")
    single = connect(near, single_connection_client=True, decode_responses=True)
    check("SELECT", [single.execute_command("SELECT", 7), single.get("product:1")], [True, "seven"])
    raises("SELECT of nothing", redis.ResponseError, lambda: connect(near, db=999).ping())

    # Blocking.
    check("BLPOP that ends", r.blpop("queue", timeout=0.05), None)
    pusher = threading.Thread(target=lambda: there[0].rpush("queue", "element"))
    pusher.start()
    check("BLPOP", r.blpop(["queue", "lock:queue"], timeout=20), ("queue", "element"))
    pusher.join()
    blocked = []
    waiter = connect(near, single_connection_client=True)
    number = waiter.client_id()
    t = threading.Thread(target=lambda: blocked.append(waiter.blpop("queue", timeout=20)))
    t.start()
    deadline = time.time() + 20
    while not r.client_unblock(number) and time.time() < deadline:
        pass
    t.join()
    check("CLIENT UNBLOCK", blocked, [None])

    # MONITOR.
    with r.monitor() as m:
        there[0].echo("seen")
        while "seen" not in m.next_command()["command"]:
            pass
        check("MONITOR", True, True)

    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()

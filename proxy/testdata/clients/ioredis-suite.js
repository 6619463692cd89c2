// The checks that ioredis 5 and ioredis 6 share. Everything must hold on Redis itself and through nearside.
'use strict';

const { NEARSIDE, ADDR, run, key, dbOf, sleep, assert, check, until, rejects, track, origin, there, onlyIn, nowhere } = require('./lib');

const RELEASE = 'if redis.call("get",KEYS[1]) == ARGV[1] then return redis.call("del",KEYS[1]) else return 0 end';

let suites = 0;

module.exports = async function suite(Redis, label, options) {
  const db = options.db || 0;
  const n = ++suites; // keys of one suite never meet those of another
  const k = (prefix, name) => key(prefix, `${n}:${name}`);
  const is = (name, fn) => check(`${label}: ${name}`, fn);
  const connect = (more = {}) => {
    const c = new Redis({ ...ADDR, ...options, ...more });
    return track(c, label, async () => {
      if (c.status !== 'end') await c.quit();
    });
  };

  const c = connect();
  const other = connect();

  await is('connect, ready check with INFO', async () => {
    await until(5000, 'ready', () => c.status === 'ready' && other.status === 'ready');
    const info = await c.info();
    assert.match(info, /^redis_version:\d/m);
    assert.match(info, /^loading:0\r?$/m);
    assert.equal(await c.ping(), 'PONG');
    assert.equal(await c.echo('안녕'), '안녕');
  });

  await is('SET NX PX, GET, PTTL', async () => {
    const lock = k('lock:', 'nx');
    assert.equal(await c.set(lock, 'a', 'PX', 5000, 'NX'), 'OK');
    assert.equal(await other.set(lock, 'b', 'PX', 5000, 'NX'), null);
    assert.equal(await other.get(lock), 'a');
    const left = await c.pttl(lock);
    assert.ok(left > 0 && left <= 5000, `pttl ${left}`);
    await onlyIn(lock, db);
    assert.equal(await c.del(lock), 1);
    assert.equal(await other.set(lock, 'b', 'PX', 5000, 'NX'), 'OK');
    assert.equal(await c.get(lock), 'b');
  });

  await is('GET of a cached key: miss, hit, and its place at the origin', async () => {
    const p = k('product:', 'get');
    assert.equal(await c.get(p), null);
    assert.equal(await c.get(p), null);
    assert.equal(await c.set(p, '값', 'EX', 60), 'OK');
    for (let i = 0; i < 5; i++) assert.equal(await c.get(p), '값');
    assert.equal(await other.get(p), '값');
    await onlyIn(p, db);
    const ttl = await c.ttl(p);
    assert.ok(ttl > 55 && ttl <= 60, `ttl ${ttl}`);
    assert.equal(await c.strlen(p), 3);
    assert.equal(await c.type(p), 'string');
  });

  await is('a write is read at once, by its writer and by others', async () => {
    const p = k('product:', 'own');
    for (let i = 0; i < 200; i++) {
      await c.set(p, i);
      assert.equal(await c.get(p), String(i));
      assert.equal(await other.get(p), String(i));
    }
  });

  await is('a write made at the origin is seen within max_staleness', async () => {
    const p = k('product:', 'elsewhere');
    for (let i = 0; i < 20; i++) {
      await c.get(p);
      await there(p, db).set(p, `w${i}`);
      await until(1000, 'the new value', async () => (await c.get(p)) === `w${i}`);
    }
    await there(p, db).del(p);
    await until(1000, 'the deletion', async () => (await c.get(p)) === null);
  });

  await is('a value never outlives its TTL', async () => {
    const p = k('product:', 'ttl');
    await c.set(p, 'x', 'PX', 300);
    const set = performance.now();
    assert.equal(await c.get(p), 'x');
    assert.equal(await other.get(p), 'x');
    await sleep(310 - (performance.now() - set));
    assert.equal(await c.get(p), null);
    assert.equal(await other.exists(p), 0);
  });

  await is('MSET, MGET, EXISTS, DEL over both databases', async () => {
    const keys = [k('product:', 'm1'), k('lock:', 'm2'), k('other:', 'm3'), k('balance:', 'm4')];
    assert.equal(await c.mset(...keys.flatMap((x, i) => [x, `v${i}`])), 'OK');
    for (const x of keys) await onlyIn(x, db);
    for (let i = 0; i < 3; i++) assert.deepEqual(await c.mget(...keys, k('product:', 'none')), ['v0', 'v1', 'v2', 'v3', null]);
    assert.deepEqual(await c.mget(keys[0], keys[3]), ['v0', 'v3']);
    assert.deepEqual(await c.mget(keys[0], keys[3], keys[0]), ['v0', 'v3', 'v0']);
    assert.equal(await c.exists(...keys), 4);
    assert.equal(await c.unlink(keys[0], keys[1]), 2);
    assert.equal(await c.del(...keys), 2);
    assert.deepEqual(await c.mget(...keys), [null, null, null, null]);
    for (const x of keys) await nowhere(x);
  });

  await is('pipeline: replies in order, an error at its place', async () => {
    const p = k('product:', 'pipe');
    const lock = k('lock:', 'pipe');
    const replies = await c.pipeline()
      .set(p, 'a').get(p).incr(p).set(lock, 't', 'PX', 5000, 'NX').get(p).append(p, 'b').get(p).get(lock)
      .eval(RELEASE, 1, lock, 't').get(lock).mget(p, lock).exec();
    assert.deepEqual(replies.map(([err, v]) => (err ? err.message : v)), [
      'OK', 'a', 'ERR value is not an integer or out of range', 'OK', 'a', 2, 'ab', 't', 1, null, ['ab', null],
    ]);
  });

  await is('multi().exec() over both databases', async () => {
    const p = k('product:', 'multi');
    const lock = k('lock:', 'multi');
    await c.get(p);
    const replies = await c.multi().set(p, '1').incr(p).get(p).set(lock, 't', 'PX', 5000).get(lock).mget(p, lock).ping().exec();
    assert.deepEqual(replies, [[null, 'OK'], [null, 2], [null, '2'], [null, 'OK'], [null, 't'], [null, ['2', 't']], [null, 'PONG']]);
    assert.equal(await c.get(p), '2');
    assert.equal(await other.get(p), '2');
    await onlyIn(p, db);
    await onlyIn(lock, db);
    const failing = await c.multi().lpush(p, 'x').get(p).exec();
    assert.match(failing[0][0].message, /^WRONGTYPE /);
    assert.deepEqual(failing[1], [null, '2']);
  });

  await is('multi without pipeline, DISCARD, EXECABORT', async () => {
    const p = k('product:', 'multi2');
    const m = connect();
    assert.equal(await m.multi({ pipeline: false }), 'OK');
    assert.equal(await m.set(p, '1'), 'QUEUED');
    assert.equal(await m.get(p), 'QUEUED');
    assert.equal(await other.get(p), null);
    assert.deepEqual(await m.exec(), [[null, 'OK'], [null, '1']]);
    await m.multi({ pipeline: false });
    await m.set(p, '2');
    assert.equal(await m.discard(), 'OK');
    assert.equal(await m.get(p), '1');
    await m.multi({ pipeline: false });
    await rejects(m.call('get'), /^ERR wrong number of arguments for 'get' command/);
    await rejects(m.exec(), /^EXECABORT/);
    assert.equal(await m.get(p), '1');
    await m.quit();
  });

  await is('WATCH', async () => {
    const p = k('balance:', 'watch');
    const w = connect();
    await c.set(p, '1');
    await c.get(p);
    await w.watch(p);
    assert.equal(await w.get(p), '1');
    assert.deepEqual(await w.multi().set(p, '2').exec(), [[null, 'OK']]);
    await w.watch(p);
    assert.equal(await w.get(p), '2');
    await other.set(p, '3');
    assert.equal(await w.multi().set(p, '4').exec(), null);
    assert.equal(await w.get(p), '3');
    await w.quit();
  });

  await is('EVAL', async () => {
    const lock = k('lock:', 'eval');
    await c.set(lock, 't', 'PX', 5000, 'NX');
    assert.equal(await c.eval(RELEASE, 1, lock, 'someone else'), 0);
    assert.equal(await c.get(lock), 't');
    assert.equal(await c.eval(RELEASE, 1, lock, 't'), 1);
    assert.equal(await c.get(lock), null);
    assert.deepEqual(await c.eval('return {1, "two", false, {3}}', 0), [1, 'two', null, [3]]);
    await rejects(c.eval('return redis.error_reply("MINE no")', 0), /^MINE no/);
    const p = k('product:', 'eval');
    await c.set(p, 'old');
    await c.get(p);
    assert.equal(await c.eval('return redis.call("set", KEYS[1], ARGV[1])', 1, p, 'new'), 'OK');
    assert.equal(await c.get(p), 'new');
    assert.equal(await other.get(p), 'new');
    const both = c.eval('redis.call("set", KEYS[1], "x"); return redis.call("set", KEYS[2], "x")', 2, k('product:', 'both'), k('lock:', 'both'));
    if (NEARSIDE && db === 0) await rejects(both, /^CROSSDB /);
    else assert.equal(await both, 'OK');
  });

  await is('EVALSHA by defineCommand, NOSCRIPT, SCRIPT LOAD', async () => {
    const lock = k('lock:', 'sha');
    const d = connect();
    // ioredis sends EVAL the first time on a connection, EVALSHA from then on, and EVAL again when it is told NOSCRIPT.
    d.defineCommand('release', { numberOfKeys: 1, lua: `${RELEASE} -- ${run} ${n}` });
    await d.set(lock, 't', 'PX', 5000, 'NX');
    assert.equal(await d.release(lock, 'x'), 0);
    assert.equal(await d.release(lock, 't'), 1);
    assert.equal(await d.release(lock, 't'), 0);
    await d.set(lock, 'u');
    assert.deepEqual(await d.pipeline().release(lock, 'x').release(lock, 'u').get(lock).exec(), [[null, 0], [null, 1], [null, null]]);
    await origin(0).script('FLUSH');
    await d.set(lock, 'w');
    assert.equal(await d.release(lock, 'x'), 0);
    assert.equal(await d.release(lock, 'w'), 1);
    const sha = await d.script('LOAD', `return redis.call("get", KEYS[1]) -- ${run} ${n}`);
    assert.deepEqual(await d.script('EXISTS', sha, 'f'.repeat(40)), [1, 0]);
    await d.set(lock, 'v');
    assert.equal(await other.evalsha(sha, 1, lock), 'v');
    await rejects(d.evalsha('f'.repeat(40), 1, lock), /^NOSCRIPT No matching script/);
    await d.quit();
  });

  await is('SCAN stream and KEYS', async () => {
    const names = [];
    const fill = c.pipeline();
    for (let i = 0; i < 250; i++) names.push(k('product:', `scan:${i}`));
    for (let i = 0; i < 250; i++) names.push(k('lock:', `scan:${i}`));
    for (const x of names) fill.set(x, 'x', 'EX', 60);
    await fill.exec();
    const scan = async (match) => {
      const found = new Set();
      for await (const page of c.scanStream({ match, count: 50 })) for (const x of page) found.add(x);
      return [...found].sort();
    };
    names.sort();
    const under = (p) => names.filter((x) => x.startsWith(p));
    assert.deepEqual(await scan(`*${run}:${n}:scan:*`), names);
    assert.deepEqual(await scan(`product:${run}:${n}:scan:*`), under('product:'));
    assert.deepEqual(await scan(`lock:${run}:${n}:scan:*`), under('lock:'));
    assert.deepEqual((await c.keys(`*${run}:${n}:scan:*`)).sort(), names);
    assert.deepEqual((await c.keys(`product:${run}:${n}:scan:*`)).sort(), under('product:'));
    assert.deepEqual((await c.keys(`lock:${run}:${n}:scan:1?`)).sort(), under('lock:').filter((x) => /:1\d$/.test(x)));
    assert.deepEqual(await c.keys(`nothing:${run}:*`), []);
    assert.ok((await c.dbsize()) >= names.length);
  });

  await is('subscribe, psubscribe, publish', async () => {
    const channel = k('channel:', 'a');
    const sub = connect();
    const got = [];
    sub.on('message', (ch, m) => got.push([ch, m]));
    sub.on('pmessage', (p, ch, m) => got.push([p, ch, m]));
    assert.equal(await sub.subscribe(channel), 1);
    assert.equal(await sub.psubscribe(`${channel}:*`), 2);
    assert.equal(await c.publish(channel, '하나'), 1);
    assert.equal(await c.publish(`${channel}:x`, 'two'), 1);
    assert.equal(await origin(0).publish(channel, 'three'), 1);
    await until(2000, 'three messages', () => got.length === 3);
    assert.deepEqual(got, [[channel, '하나'], [`${channel}:*`, `${channel}:x`, 'two'], [channel, 'three']]);
    assert.deepEqual(await c.pubsub('NUMSUB', channel), [channel, 1]);
    assert.equal(await sub.unsubscribe(channel), 1);
    assert.equal(await sub.punsubscribe(`${channel}:*`), 0);
    assert.equal(await c.publish(channel, 'nobody'), 0);
    assert.equal(await sub.get(k('product:', 'after')), null); // out of subscriber mode again
    await sub.quit();
  });

  await is('binary keys and values', async () => {
    const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    const bin = Buffer.concat([Buffer.from(k('product:', 'bin')), all]);
    const crlf = Buffer.concat([Buffer.from(k('lock:', 'bin')), Buffer.from('\r\n$3\r\n\0')]);
    assert.equal(await c.set(bin, all), 'OK');
    assert.equal(await c.set(crlf, all), 'OK');
    for (let i = 0; i < 3; i++) assert.deepEqual(await c.getBuffer(bin), all);
    assert.deepEqual(await c.mgetBuffer(bin, crlf, bin), [all, all, all]);
    assert.deepEqual(await there(bin.toString('latin1'), db).getBuffer(bin), all);
    assert.equal(await c.del(bin, crlf), 2);
    assert.equal(await c.getBuffer(bin), null);
    const big = Buffer.alloc(1 << 20, 'ab');
    await c.set(bin, big);
    for (let i = 0; i < 3; i++) assert.ok((await c.getBuffer(bin)).equals(big));
    await c.set(bin, '');
    assert.equal(await c.get(bin), '');
    await c.del(bin);
  });

  await is('BLPOP: timeout, and woken by another client', async () => {
    for (const q of [k('queue:', 'q'), k('stats:', 'q')]) {
      const b = connect();
      const start = performance.now();
      assert.equal(await b.blpop(q, 0.2), null);
      const took = performance.now() - start;
      assert.ok(took >= 180 && took < 2000, `timeout of 200 ms took ${took} ms`);
      const waiting = b.blpop(q, 5);
      const behind = b.get(k('product:', 'behind')); // waits behind the BLPOP
      await sleep(50);
      assert.deepEqual(await c.lrange(q, 0, -1), []);
      assert.equal(await c.rpush(q, 'job'), 1);
      assert.deepEqual(await waiting, [q, 'job']);
      assert.equal(await behind, null);
      assert.deepEqual(await c.lrange(q, 0, -1), []);
      await b.quit();
    }
  });

  await is('hashes, lists, sets, sorted sets under a cache rule', async () => {
    const h = k('product:', 'hash');
    const l = k('product:', 'list');
    const s = k('product:', 'set');
    const z = k('product:', 'zset');
    await c.hset(h, { name: '사과', price: '100' });
    await c.rpush(l, 'a', 'b', 'c');
    await c.sadd(s, 'x');
    await c.zadd(z, 1, 'one', 2.5, 'two');
    for (let i = 0; i < 3; i++) {
      assert.deepEqual({ ...(await c.hgetall(h)) }, { name: '사과', price: '100' });
      assert.equal(await c.hget(h, 'price'), '100');
      assert.deepEqual(await c.hmget(h, 'name', 'none'), ['사과', null]);
      assert.deepEqual(await c.lrange(l, 0, -1), ['a', 'b', 'c']);
      assert.deepEqual(await c.smembers(s), ['x']);
      assert.deepEqual(await c.zrange(z, 0, -1, 'WITHSCORES'), ['one', '1', 'two', '2.5']);
      assert.equal(await c.zscore(z, 'two'), '2.5');
    }
    assert.equal(await c.hincrby(h, 'price', 5), 105);
    assert.equal(await other.hget(h, 'price'), '105');
    assert.deepEqual({ ...(await other.hgetall(h)) }, { name: '사과', price: '105' });
    await rejects(c.get(h), /^WRONGTYPE /);
    await rejects(c.get(h), /^WRONGTYPE /);
  });

  await is('error texts are those of Redis', async () => {
    const p = k('product:', 'err');
    await c.set(p, 'x');
    const calls = [['get'], ['nosuchcommand', 'a', 'b'], ['incr', p], ['lpush', p, 'a'], ['set', p, 'x', 'NOPE'], ['select', '999'],
      ['expire', p, 'soon'], ['client', 'nosuch'], ['eval', 'return', 'x'], ['set', p, 'x', 'PX', '0']];
    for (const call of calls) {
      const want = await there(p, db).call(...call).then((v) => v, (e) => e.message);
      const got = await c.call(...call).then((v) => v, (e) => e.message);
      assert.equal(got, want, call.join(' '));
    }
  });

  await is('SELECT in mid-session', async () => {
    const s = connect();
    const x = k('product:', 'sel');
    await s.set(x, 'home');
    assert.equal(await s.get(x), 'home');
    assert.equal(await s.select(3), 'OK');
    assert.equal(await s.get(x), null);
    await s.set(x, 'three');
    assert.equal(await s.get(x), 'three');
    assert.equal(await origin(3).get(x), 'three');
    assert.equal(await s.select(1), 'OK');
    assert.equal(await s.get(x), dbOf(x, db) === 1 ? 'home' : null);
    assert.equal(await s.select(db), 'OK');
    assert.equal(await s.get(x), 'home');
    await s.quit();
  });

  await is('CLIENT SETNAME, GETNAME, ID; connectionName', async () => {
    const s = connect({ connectionName: `name-${run}` });
    assert.equal(await s.client('GETNAME'), `name-${run}`);
    assert.equal(await s.client('SETNAME', 'b'), 'OK');
    assert.equal(await s.client('GETNAME'), 'b');
    assert.notEqual(await s.client('ID'), await c.client('ID'));
    await s.quit();
  });

  await is('auto pipelining', async () => {
    const a = connect({ enableAutoPipelining: true });
    const jobs = [];
    for (let i = 0; i < 500; i++) {
      const x = k(i % 2 ? 'coupon:' : 'lock:', `auto:${i}`);
      jobs.push(a.set(x, i, 'EX', 60).then(() => a.get(x)));
    }
    const replies = await Promise.all(jobs);
    replies.forEach((v, i) => assert.equal(v, String(i)));
    await a.quit();
  });

  await is('QUIT', async () => {
    assert.equal(await other.quit(), 'OK');
    await until(1000, 'the end', () => other.status === 'end');
    assert.equal(await c.ping(), 'PONG');
    assert.equal(await c.quit(), 'OK');
    await until(1000, 'the end', () => c.status === 'end');
  });
};

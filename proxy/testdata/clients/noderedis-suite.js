// The checks that node-redis 4 and 5 share. `v` is the major version; where the two differ, it is said here.
'use strict';

const { ADDR, run, key, dbOf, sleep, assert, check, until, rejects, track, origin, there, onlyIn, nowhere } = require('./lib');

const RELEASE = 'if redis.call("get",KEYS[1]) == ARGV[1] then return redis.call("del",KEYS[1]) else return 0 end';

let suites = 0;

module.exports = async function suite(redis, v, label, options) {
  const db = options.database || 0;
  const n = ++suites;
  const k = (prefix, name) => key(prefix, `${n}:${name}`);
  const is = (name, fn) => check(`${label}: ${name}`, fn);
  const mine = (client) => track(client, label, async () => {
    if (client.isOpen) await (v === 4 ? client.disconnect() : client.destroy());
  });
  const connect = async (more = {}) => {
    const c = mine(redis.createClient({ socket: { ...ADDR }, ...options, ...more }));
    await c.connect();
    return c;
  };
  // node-redis 5 calls QUIT deprecated, and has close() instead.
  const quit = (client) => (v === 4 ? client.quit() : client.close());

  let c;
  let other;
  const connected = await is('connect', async () => {
    c = await connect();
    other = await connect();
    assert.ok(c.isReady && other.isReady);
    assert.equal(await c.ping(), 'PONG');
    assert.match(await c.info(), /^redis_version:\d/m);
  });
  if (!connected) return;

  await is('SET PX, GET, DEL, PTTL, EXISTS', async () => {
    const p = k('product:', 'a');
    assert.equal(await c.get(p), null);
    assert.equal(await c.set(p, '값', { PX: 60_000 }), 'OK');
    for (let i = 0; i < 3; i++) assert.equal(await c.get(p), '값');
    assert.equal(await other.get(p), '값');
    await onlyIn(p, db);
    const left = await c.pTTL(p);
    assert.ok(left > 50_000 && left <= 60_000, `pttl ${left}`);
    assert.equal(await c.exists(p), 1);
    assert.equal(await c.exists([p, k('lock:', 'none')]), 1);
    assert.equal(await c.del(p), 1);
    assert.equal(await c.get(p), null);
    assert.equal(await other.get(p), null);
    assert.equal(await c.pTTL(p), -2);
    await c.set(p, 'x');
    assert.equal(await c.pTTL(p), -1);
    assert.equal(await c.set(p, 'x', { PX: 300 }), 'OK');
    const set = performance.now();
    assert.equal(await c.get(p), 'x');
    await sleep(310 - (performance.now() - set));
    assert.equal(await c.get(p), null);
  });

  await is('SET NX PX on a lock', async () => {
    const lock = k('lock:', 'nx');
    assert.equal(await c.set(lock, 'a', { PX: 5000, NX: true }), 'OK');
    assert.equal(await other.set(lock, 'b', { PX: 5000, NX: true }), null);
    assert.equal(await other.get(lock), 'a');
    await onlyIn(lock, db);
  });

  await is('a write is read at once; one made at the origin within max_staleness', async () => {
    const p = k('product:', 'own');
    for (let i = 0; i < 200; i++) {
      await c.set(p, String(i));
      assert.equal(await c.get(p), String(i));
      assert.equal(await other.get(p), String(i));
    }
    for (let i = 0; i < 20; i++) {
      await there(p, db).set(p, `w${i}`);
      await until(1000, 'the new value', async () => (await c.get(p)) === `w${i}`);
    }
  });

  await is('MSET, MGET, DEL over both databases', async () => {
    const keys = [k('product:', 'm1'), k('lock:', 'm2'), k('balance:', 'm3')];
    assert.equal(await c.mSet(keys.map((x, i) => [x, `v${i}`])), 'OK');
    for (const x of keys) await onlyIn(x, db);
    for (let i = 0; i < 3; i++) assert.deepEqual(await c.mGet([...keys, k('coupon:', 'none')]), ['v0', 'v1', 'v2', null]);
    assert.equal(await c.del(keys), 3);
    assert.deepEqual(await c.mGet(keys), [null, null, null]);
    for (const x of keys) await nowhere(x);
  });

  await is('one tick is one chunk: replies in order', async () => {
    const p = k('product:', 'tick');
    const lock = k('lock:', 'tick');
    const replies = await Promise.all([
      c.set(p, '1'), c.get(p), c.incr(p), c.get(p), c.set(lock, 't', { NX: true, PX: 5000 }), c.get(lock), c.get(p),
      c.eval(RELEASE, { keys: [lock], arguments: ['t'] }), c.get(lock), c.mGet([p, lock]),
    ]);
    assert.deepEqual(replies, ['OK', '1', 2, '2', 'OK', 't', '2', 1, null, ['2', null]]);
  });

  await is('multi over both databases', async () => {
    const p = k('product:', 'multi');
    const lock = k('lock:', 'multi');
    await c.get(p);
    assert.deepEqual(await c.multi().set(p, '1').incr(p).get(p).set(lock, 't').mGet([p, lock]).exec(), ['OK', 2, '2', 'OK', ['2', 't']]);
    assert.equal(await c.get(p), '2');
    assert.equal(await other.get(p), '2');
    await onlyIn(p, db);
    await onlyIn(lock, db);
    assert.deepEqual(await c.multi().exec(), []);
    assert.deepEqual(await c.multi().get(p).get(lock).execAsPipeline(), ['2', 't']);
    await assert.rejects(c.multi().set(p, 'x').addCommand(['GET']).exec(), /EXECABORT|wrong number of arguments/);
    assert.equal(await c.get(p), '2');
  });

  await is('WATCH', async () => {
    const p = k('balance:', 'watch');
    await c.set(p, '1');
    await c.get(p);
    const attempt = async (w, disturb) => {
      await w.watch(p);
      const old = await w.get(p);
      if (disturb) await other.set(p, disturb);
      return w.multi().set(p, String(Number(old) + 1)).exec();
    };
    // Version 4 runs it on a connection of its own, version 5 on this one.
    const isolated = (disturb) => (v === 4 ? c.executeIsolated((w) => attempt(w, disturb)) : attempt(c, disturb));
    assert.deepEqual(await isolated(), ['OK']);
    assert.equal(await c.get(p), '2');
    await assert.rejects(isolated('7'), (err) => err instanceof redis.WatchError);
    assert.equal(await c.get(p), '7');
  });

  await is('SCAN iterator and KEYS', async () => {
    const names = [];
    for (let i = 0; i < 250; i++) names.push(k('product:', `scan:${i}`), k('lock:', `scan:${i}`));
    await Promise.all(names.map((x) => c.set(x, 'x', { PX: 60_000 })));
    names.sort();
    const scan = async (MATCH, more) => {
      const found = new Set();
      // Version 4 yields keys, version 5 arrays of keys.
      for await (const page of c.scanIterator({ MATCH, COUNT: 50, ...more })) for (const x of [page].flat()) found.add(x);
      return [...found].sort();
    };
    const under = (p) => names.filter((x) => x.startsWith(p));
    assert.deepEqual(await scan(`*${run}:${n}:scan:*`), names);
    assert.deepEqual(await scan(`product:${run}:${n}:scan:*`), under('product:'));
    assert.deepEqual(await scan(`product:${run}:${n}:scan:*`, { TYPE: 'string' }), under('product:'));
    assert.deepEqual(await scan(`product:${run}:${n}:scan:*`, { TYPE: 'hash' }), []);
    assert.deepEqual((await c.keys(`*${run}:${n}:scan:*`)).sort(), names);
    assert.deepEqual((await c.keys(`product:${run}:${n}:scan:*`)).sort(), under('product:'));
    assert.deepEqual((await c.keys(`lock:${run}:${n}:scan:*`)).sort(), under('lock:'));
  });

  await is('HSET, HGETALL', async () => {
    const h = k('product:', 'hash');
    assert.deepEqual({ ...(await c.hGetAll(h)) }, {});
    assert.equal(await c.hSet(h, { name: '사과', price: '100' }), 2);
    for (let i = 0; i < 3; i++) {
      assert.deepEqual({ ...(await c.hGetAll(h)) }, { name: '사과', price: '100' });
      assert.equal(await c.hGet(h, 'name'), '사과');
    }
    assert.equal(await c.hIncrBy(h, 'price', 5), 105);
    assert.deepEqual({ ...(await other.hGetAll(h)) }, { name: '사과', price: '105' });
    await rejects(c.get(h), /^WRONGTYPE /);
  });

  await is('sorted sets, sets and scores under a cache rule', async () => {
    const z = k('stats:', 'zset');
    const s = k('stats:', 'set');
    await c.zAdd(z, [{ value: 'one', score: 1 }, { value: 'two', score: 2.5 }]);
    await c.sAdd(s, ['x']);
    for (let i = 0; i < 3; i++) {
      assert.deepEqual((await c.zRangeWithScores(z, 0, -1)).map((m) => ({ ...m })), [{ value: 'one', score: 1 }, { value: 'two', score: 2.5 }]);
      assert.equal(await c.zScore(z, 'two'), 2.5);
      assert.equal(await c.zScore(z, 'none'), null);
      assert.deepEqual(await c.sMembers(s), ['x']);
      assert.equal(Boolean(await c.sIsMember(s, 'x')), true);
    }
  });

  await is('EVAL, and EVALSHA by defineScript', async () => {
    const lock = k('lock:', 'eval');
    await c.set(lock, 't', { PX: 5000, NX: true });
    assert.equal(await c.eval(RELEASE, { keys: [lock], arguments: ['x'] }), 0);
    assert.equal(await c.eval(RELEASE, { keys: [lock], arguments: ['t'] }), 1);
    assert.equal(await c.get(lock), null);
    await rejects(c.eval('return redis.error_reply("MINE no")'), /^MINE no/);
    const shared = { NUMBER_OF_KEYS: 1, SCRIPT: `${RELEASE} -- ${run} ${n}` };
    const release = v === 4
      ? redis.defineScript({ ...shared, transformArguments: (l, t) => [l, t], transformReply: (r) => r })
      : redis.defineScript({ ...shared, parseCommand: (parser, l, t) => { parser.pushKey(l); parser.push(t); }, transformReply: (r) => r });
    const s = await connect({ scripts: { release } });
    await c.set(lock, 't');
    assert.equal(await s.release(lock, 'x'), 0);
    assert.equal(await s.release(lock, 't'), 1);
    assert.equal(await c.get(lock), null);
    await quit(s);
  });

  await is('subscribe on a duplicate', async () => {
    const channel = k('channel:', 'a');
    const sub = mine(c.duplicate());
    await sub.connect();
    const got = [];
    await sub.subscribe(channel, (m, ch) => got.push([ch, m]));
    await sub.pSubscribe(`${channel}:*`, (m, ch) => got.push([ch, m]));
    assert.equal(await c.publish(channel, '하나'), 1);
    assert.equal(await c.publish(`${channel}:x`, 'two'), 1);
    assert.equal(await origin(0).publish(channel, 'three'), 1);
    await until(2000, 'three messages', () => got.length === 3);
    assert.deepEqual(got, [[channel, '하나'], [`${channel}:x`, 'two'], [channel, 'three']]);
    await sub.unsubscribe(channel);
    await sub.pUnsubscribe(`${channel}:*`);
    assert.equal(await c.publish(channel, 'nobody'), 0);
    assert.equal(await sub.get(k('product:', 'none')), null);
    await quit(sub);
  });

  await is('BLPOP on a connection of its own', async () => {
    for (const q of [k('queue:', 'q'), k('stats:', 'q')]) {
      let b = c;
      let pop;
      if (v === 4) {
        pop = (timeout) => c.blPop(redis.commandOptions({ isolated: true }), q, timeout);
      } else {
        b = mine(c.duplicate());
        await b.connect();
        pop = (timeout) => b.blPop(q, timeout);
      }
      const start = performance.now();
      assert.equal(await pop(0.2), null);
      const took = performance.now() - start;
      assert.ok(took >= 180 && took < 2000, `timeout of 200 ms took ${took} ms`);
      const waiting = pop(5);
      await sleep(50);
      assert.equal(await c.ping(), 'PONG'); // the other connection is not held up
      assert.equal(await c.rPush(q, 'job'), 1);
      assert.deepEqual({ ...(await waiting) }, { key: q, element: 'job' });
      assert.equal(await c.lLen(q), 0);
      if (b !== c) await quit(b);
    }
  });

  await is('Buffers', async () => {
    const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    const p = k('product:', 'bin');
    await c.set(p, all);
    const raw = () => (v === 4
      ? c.get(redis.commandOptions({ returnBuffers: true }), p)
      : c.withTypeMapping({ [redis.RESP_TYPES.BLOB_STRING]: Buffer }).get(p));
    for (let i = 0; i < 3; i++) assert.deepEqual(await raw(), all);
  });

  await is('SELECT 5 and FLUSHDB there', async () => {
    const five = await connect();
    const p = k('product:', 'five');
    await c.set(p, 'home');
    assert.equal(await c.get(p), 'home');
    await five.select(5);
    await five.set(p, 'five');
    assert.equal(await five.get(p), 'five');
    assert.equal(await origin(5).get(p), 'five');
    assert.equal(await five.flushDb(), 'OK');
    assert.equal(await five.get(p), null);
    assert.equal(await five.dbSize(), 0);
    assert.equal(await c.get(p), 'home');
    assert.equal(await there(p, db).get(p), 'home');
    await five.select(1);
    assert.equal(await five.get(p), dbOf(p, db) === 1 ? 'home' : null);
    await quit(five);
  });

  await is('end', async () => {
    await quit(other);
    assert.equal(other.isOpen, false);
    assert.equal(await c.ping(), 'PONG');
    await quit(c);
  });
};

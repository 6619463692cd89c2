// Order: what is sent in one go takes effect, and is answered, in that order, whatever connections it takes behind nearside.
'use strict';

const net = require('node:net');
const IORedis = require('ioredis5');
const { ADDR, ORIGIN, run, key, assert, check, dbOf, nowhere, onlyIn, origin, there, track, main } = require('./lib');
const { RELEASE } = require('./seed');

const COUNT = 10_000;

// random is a small seeded generator, so that a failure can be run again: SEED=… node order.js
const seed = Number(process.env.SEED) || Math.floor(Math.random() * 2 ** 31);
function random(state) {
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

const encode = (args) => `*${args.length}\r\n${args.map((a) => `$${Buffer.byteLength(String(a))}\r\n${a}\r\n`).join('')}`;

// end returns where the reply that starts at i ends, or -1 when it is not complete.
function end(buf, i) {
  const nl = buf.indexOf('\r\n', i);
  if (nl < 0) return -1;
  const n = Number(buf.toString('latin1', i + 1, nl));
  const type = String.fromCharCode(buf[i]);
  let at = nl + 2;
  if ('$=!'.includes(type)) return n < 0 ? at : at + n + 2 <= buf.length ? at + n + 2 : -1;
  if ('*~%>'.includes(type)) {
    for (let left = n * (type === '%' ? 2 : 1); left > 0; left--) {
      at = end(buf, at);
      if (at < 0) return -1;
    }
  }
  return at;
}

// raw writes all commands at once and returns one Buffer of bytes for each reply.
function raw(addr, commands) {
  return new Promise((resolve, reject) => {
    const replies = [];
    let rest = Buffer.alloc(0);
    const socket = net.connect(addr);
    socket.on('error', reject);
    socket.on('close', () => reject(new Error(`closed after ${replies.length} of ${commands.length} replies`)));
    socket.on('data', (chunk) => {
      rest = rest.length ? Buffer.concat([rest, chunk]) : chunk;
      let at = 0;
      for (let next; at < rest.length && (next = end(rest, at)) > 0; at = next) replies.push(rest.subarray(at, next));
      rest = rest.subarray(at);
      if (replies.length < commands.length) return;
      socket.destroy();
      resolve(replies);
    });
    socket.write(commands.map(encode).join(''));
  });
}

// A list of commands as any client might send them, over keys of both databases.
function mixed(name, count, pick) {
  const strings = ['product:', 'lock:', 'balance:', 'pay:order:', 'other:', 'coupon:'].flatMap((p) => [0, 1, 2].map((i) => `${p}${name}:s${i}`));
  const others = ['stats:', 'lock:'].map((p) => `${p}${name}:`);
  const string = () => strings[pick(strings.length)];
  const other = (kind) => others[pick(others.length)] + kind;
  const kinds = [
    (i) => [['SET', string(), `v${i}`]],
    (i) => [['SET', string(), `n${i}`, 'NX', 'PX', '60000']],
    (i) => [['SET', string(), i, 'PX', '60000']],
    () => [['GET', string()]], () => [['GET', string()]], () => [['GET', string()]], () => [['GET', string()]],
    () => [['MGET', string(), string(), string()]],
    () => [['MGET', strings[pick(3)], strings[pick(3)]]],
    (i) => [['MSET', string(), `a${i}`, string(), `b${i}`]],
    () => [['DEL', string()]],
    () => [['DEL', string(), string(), string()]],
    () => [['EXISTS', string(), string()]],
    () => [['INCR', string()]],
    () => [['APPEND', string(), '.']],
    () => [['STRLEN', string()]],
    (i) => [['GETSET', string(), `g${i}`]],
    () => [['TYPE', string()]],
    (i) => [['EVAL', RELEASE, '1', string(), `n${i - 1 - pick(5)}`]],
    () => [['EVAL', 'return redis.call("get", KEYS[1])', '1', string()]],
    (i) => [['HSET', other('h'), `f${pick(5)}`, i]],
    () => [['HGETALL', other('h')]],
    () => [['HGET', other('h'), `f${pick(6)}`]],
    (i) => [['RPUSH', other('l'), i]],
    () => [['LRANGE', other('l'), '-3', '-1']],
    () => [['LPOP', other('l')]],
    () => [['ZADD', other('z'), pick(100) / 4, `m${pick(5)}`]],
    () => [['ZRANGE', other('z'), '0', '-1', 'WITHSCORES']],
    () => [['ZSCORE', other('z'), `m${pick(6)}`]],
    () => [['SADD', other('i'), pick(20)]],
    () => [['SMEMBERS', other('i')]],
    () => [['GET', other('h')]], // WRONGTYPE
    () => [['GET']],
    () => [['NOSUCHCOMMAND', string()]],
    (i) => [['ECHO', `e${i}`]],
    () => [['PING']],
    () => [['SELECT', '0']],
    (i) => [['MULTI'], ['SET', string(), `t${i}`], ['GET', string()], ['INCR', string()], ['DEL', string(), string()], ['EXEC']],
    () => [['MULTI'], ['GET', string()], ['DISCARD']],
    (i) => [['MULTI'], ['SET', string(), `e${i}`], ['GET'], ['EXEC']], // EXECABORT
    (i) => { const x = string(); return [['WATCH', x], ['GET', x], ['MULTI'], ['SET', x, `w${i}`], ['EXEC']]; },
  ];
  const commands = [];
  while (commands.length < count) commands.push(...kinds[pick(kinds.length)](commands.length));
  return commands;
}

main(async () => {
  const c = track(new IORedis({ ...ADDR }), 'ioredis 5', () => c.disconnect());

  await check('SET product:1 2 and EVAL on a lock in one pipeline', async () => {
    const p = key('product:', '1');
    const lock = key('lock:', 'a');
    const other = track(new IORedis({ ...ADDR }), 'ioredis 5', () => other.disconnect());
    for (let i = 0; i < 200; i++) {
      await c.set(lock, 't', 'PX', 5000, 'NX');
      const replies = await c.pipeline().set(p, i).eval(RELEASE, 1, lock, 't').get(p).get(lock).exec();
      assert.deepEqual(replies, [[null, 'OK'], [null, 1], [null, String(i)], [null, null]]);
    }
    // Whoever sees the lock gone sees the product written.
    const reader = track(new IORedis({ ...ADDR }), 'ioredis 5', () => reader.disconnect());
    for (let i = 0; i < 100; i++) {
      await c.set(lock, 't', 'PX', 5000, 'NX');
      for (const r of [other, reader]) await r.get(p);
      const sent = c.pipeline().set(p, `x${i}`).eval(RELEASE, 1, lock, 't').exec();
      while ((await other.set(lock, 'o', 'PX', 5000, 'NX')) !== 'OK');
      for (const r of [reader, other]) assert.equal(await r.get(p), `x${i}`);
      assert.deepEqual(await sent, [[null, 'OK'], [null, 1]]);
      await other.del(lock);
    }
    await onlyIn(p, 0);
    await nowhere(lock);
  });

  await check('SET lock NX, then GET product:1, in one chunk', async () => {
    const p = key('product:', '2');
    const lock = key('lock:', 'b');
    for (let i = 0; i < 200; i++) {
      await c.set(p, i);
      await c.get(p);
      const got = await Promise.all([c.set(lock, i, 'PX', 5000, 'NX'), c.get(p), c.get(lock), c.incr(p), c.get(p), c.del(lock), c.mget(p, lock)]);
      assert.deepEqual(got, ['OK', String(i), String(i), i + 1, String(i + 1), 1, [String(i + 1), null]]);
    }
  });

  await check(`${COUNT} mixed commands in one ioredis pipeline, each reply as foretold`, async () => {
    const pick = random(seed);
    const keys = ['product:', 'lock:', 'balance:', 'use:balance:', 'queue:'].flatMap((p) => [0, 1, 2, 3].map((i) => key(p, `model:${i}`)));
    const model = new Map();
    const get = (k) => model.get(k) ?? null;
    const pipeline = c.pipeline();
    const want = [];
    for (let i = 0; i < COUNT; i++) {
      const k = keys[pick(keys.length)];
      const j = keys[pick(keys.length)];
      switch (pick(9)) {
        case 0: pipeline.set(k, i); model.set(k, String(i)); want.push('OK'); break;
        case 1: pipeline.set(k, i, 'PX', 60_000, 'NX'); want.push(model.has(k) ? null : 'OK'); if (!model.has(k)) model.set(k, String(i)); break;
        case 2: pipeline.del(k); want.push(model.delete(k) ? 1 : 0); break;
        case 3: pipeline.mget(k, j, k); want.push([get(k), get(j), get(k)]); break;
        case 4: pipeline.incr(k); model.set(k, String(Number(get(k)) + 1)); want.push(Number(get(k))); break;
        case 5: { const mine = pick(2) ? get(k) ?? 'none' : 'none'; pipeline.eval(RELEASE, 1, k, mine); want.push(mine === get(k) && model.delete(k) ? 1 : 0); break; }
        case 6: pipeline.exists(k, j); want.push(Number(model.has(k)) + Number(model.has(j))); break;
        default: pipeline.get(k); want.push(get(k));
      }
    }
    const replies = await pipeline.exec();
    assert.equal(replies.length, COUNT);
    replies.forEach(([err, v], i) => {
      const is = JSON.stringify(err ? err.message : v);
      if (is !== JSON.stringify(want[i])) throw new Error(`reply ${i} is ${is}, must be ${JSON.stringify(want[i])}; SEED=${seed}`);
    });
    for (const k of keys) assert.equal(await there(k).get(k), get(k), `${k} in db ${dbOf(k)} at the end, SEED=${seed}`);
  });

  // The same commands here and at the origin, under names of equal length: the same bytes must come back, reply by reply.
  for (const protocol of [2, 3]) {
    await check(`${COUNT} mixed commands on a bare socket, RESP${protocol}: the same bytes as Redis`, async () => {
      const names = [`${run}:a${protocol}`, `${run}:b${protocol}`];
      const [here, real] = names.map((name) => [['HELLO', protocol], ...mixed(name, COUNT, random(seed))]);
      const got = await raw(ADDR, here);
      const want = await raw(ORIGIN, real);
      assert.equal(got.length, want.length);
      for (let i = 1; i < got.length; i++) { // the reply to HELLO holds the connection's id
        const is = got[i].toString();
        const must = want[i].toString().replaceAll(names[1], names[0]);
        if (is !== must) throw new Error(`reply ${i} to ${JSON.stringify(here[i])} is ${JSON.stringify(is)}, must be ${JSON.stringify(must)}; SEED=${seed}`);
      }
      // And the same data is left behind, each key in its database.
      const keys = new Set(real.flat().filter((a) => String(a).includes(names[1])));
      for (const k of keys) {
        const mine = k.replaceAll(names[1], names[0]);
        const [is, must] = [await there(mine).dumpBuffer(mine), await origin(0).dumpBuffer(k)];
        if (String(is) !== String(must)) throw new Error(`${mine} in db ${dbOf(mine)} is ${JSON.stringify(String(is))}, must be ${JSON.stringify(String(must))}; SEED=${seed}`);
      }
    });
  }
});

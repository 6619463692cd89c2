'use strict';

const { main, ADDR, assert, check, key, origin, there, track, until } = require('./lib');
const suite = require('./noderedis-suite');
const redis = require('redis5');

main(async () => {
  await suite(redis, 5, 'node-redis 5, RESP2', {});
  await suite(redis, 5, 'node-redis 5, RESP2, database 1', { database: 1 });
  await suite(redis, 5, 'node-redis 5, RESP3', { RESP: 3 });
  await suite(redis, 5, 'node-redis 5, RESP3, database 1', { RESP: 3, database: 1 });

  // Its own cache: CLIENT TRACKING on this connection, invalidations as pushes.
  for (const database of [0, 1]) {
    await check(`node-redis 5, RESP3, database ${database}: client-side cache`, async () => {
      const c = redis.createClient({ socket: { ...ADDR }, database, RESP: 3, clientSideCache: { ttl: 0, maxEntries: 0, evictPolicy: 'LRU' } });
      track(c, 'client-side cache', () => c.isOpen && c.destroy());
      await c.connect();
      const w = redis.createClient({ socket: { ...ADDR }, database });
      track(w, 'writer', () => w.isOpen && w.destroy());
      await w.connect();
      for (const k of [key('product:', `csc${database}`), key('lock:', `csc${database}`)]) {
        assert.equal(await c.get(k), null);
        for (let i = 0; i < 10; i++) {
          await w.set(k, `a${i}`);
          await until(1000, 'a write through the same address', async () => (await c.get(k)) === `a${i}`);
          await there(k, database).set(k, `b${i}`);
          await until(1000, 'a write at the origin', async () => (await c.get(k)) === `b${i}`);
        }
        assert.equal(await w.del(k), 1);
        await until(1000, 'the deletion', async () => (await c.get(k)) === null);
      }
      await w.close();
      await c.close();
    });
  }

  await check('node-redis 5: pool', async () => {
    const pool = redis.createClientPool({ socket: { ...ADDR } }, { minimum: 2, maximum: 8 });
    track(pool, 'pool', () => pool.isOpen && pool.destroy());
    await pool.connect();
    const p = key('stats:', 'pool');
    await Promise.all(Array.from({ length: 200 }, () => pool.incr(p)));
    assert.equal(await pool.get(p), '200');
    const job = key('queue:', 'pool');
    const [popped] = await Promise.all([pool.blPop(job, 5), pool.rPush(job, 'x')]);
    assert.equal(popped.element, 'x');
    assert.deepEqual(await pool.multi().set(p, '1').get(p).exec(), ['OK', '1']);
    assert.equal(await origin(0).exists(job), 0);
    await pool.close();
  });
});

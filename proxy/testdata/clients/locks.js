// The seed's lock service on ioredis 5, the redlock package, and the seed's whole flow: lock, change, del, release, read fresh.
'use strict';

const IORedis = require('ioredis5');
const Redlock = require('redlock');
const { caching } = require('cache-manager');
const { redisStore } = require('cache-manager-redis-yet');
const { NEARSIDE, CACHE_DB, ADDR, run, key, sleep, assert, check, origin, onlyIn, nowhere, there, track, main } = require('./lib');
const { RELEASE, RedisCacheService, RedisLockService, BalanceService } = require('./seed');

const LOCK_RULES = ['lock:', 'recharge:balance:', 'use:balance:', 'pay:order:'];

const connect = (options = {}) => {
  const c = new IORedis({ ...ADDR, ...options });
  return track(c, 'ioredis 5', () => c.disconnect());
};

// The second, fourth … cache client says SELECT 1, the others never say SELECT. Through nearside both see the same cache.
let cacheClients = 0;
const cacheDb = () => (NEARSIDE && ++cacheClients % 2 === 0 ? CACHE_DB : 0);

async function openCache() {
  const database = cacheDb();
  const store = await redisStore({ socket: { ...ADDR }, ...(database && { database }) });
  track(store.client, 'cache', () => store.client.isOpen && store.client.disconnect());
  return new RedisCacheService(await caching(store), { keys: (p) => store.keys(p), ttl: (k) => store.ttl(k) });
}

main(async () => {
  const c = connect();
  const locks = new RedisLockService(c);
  const others = new RedisLockService(connect());

  await check('tryAcquireLock, releaseLock under every lock rule, in db 0', async () => {
    for (const prefix of LOCK_RULES) {
      const lock = key(prefix, '7');
      const mine = locks.generateLockValue('op', 7);
      const theirs = others.generateLockValue('op', 7);
      assert.equal(await locks.tryAcquireLock(lock, mine, { ttlSeconds: 10 }), true);
      await onlyIn(lock, 0);
      assert.equal(await origin(0).get(lock), mine);
      assert.equal(await origin(1).get(lock), null);
      const left = await origin(0).pttl(lock);
      assert.ok(left > 9000 && left <= 10_000, `pttl ${left}`);
      assert.equal(await others.tryAcquireLock(lock, theirs, { retryAttempts: 2, retryDelayMs: 5 }), false);
      assert.equal(await others.releaseLock(lock, theirs), false);
      assert.equal(await origin(0).get(lock), mine);
      assert.equal(await locks.releaseLock(lock, mine), true);
      await nowhere(lock);
      assert.equal(await locks.releaseLock(lock, mine), false);
      assert.equal(await others.tryAcquireLock(lock, theirs), true);
      assert.equal(await others.releaseLock(lock, theirs), true);
    }
  });

  await check('retries: the lock comes free while one waits', async () => {
    const lock = key('pay:order:', 'retry');
    assert.equal(await locks.tryAcquireLock(lock, 'a'), true);
    const waiting = others.tryAcquireLock(lock, 'b', { retryAttempts: 100, retryDelayMs: 10 });
    await sleep(100);
    assert.equal(await locks.releaseLock(lock, 'a'), true);
    assert.equal(await waiting, true);
    assert.equal(await c.get(lock), 'b');
  });

  await check('extend: by the owner alone', async () => {
    const lock = key('lock:', 'extend');
    assert.equal(await locks.tryAcquireLock(lock, 'a', { ttlMs: 1000 }), true);
    assert.equal(await others.extendLock(lock, 'b', 60_000), false);
    assert.ok((await origin(0).pttl(lock)) <= 1000);
    assert.equal(await locks.extendLock(lock, 'a', 60_000), true);
    assert.ok((await origin(0).pttl(lock)) > 50_000);
    assert.ok((await c.pttl(lock)) > 50_000);
    assert.equal(await locks.releaseLock(lock, 'a'), true);
    assert.equal(await locks.extendLock(lock, 'a', 60_000), false);
  });

  await check('an expired lock is free, and its late release harms nobody', async () => {
    const lock = key('use:balance:', 'expire');
    assert.equal(await locks.tryAcquireLock(lock, 'a', { ttlMs: 200 }), true);
    assert.equal(await c.get(lock), 'a');
    assert.equal(await others.tryAcquireLock(lock, 'b', { retryAttempts: 100, retryDelayMs: 10 }), true);
    assert.equal(await locks.releaseLock(lock, 'a'), false);
    assert.equal(await c.get(lock), 'b');
    assert.equal(await origin(0).get(lock), 'b');
  });

  await check('a lock freed or taken at the origin is seen at once', async () => {
    const lock = key('lock:', 'elsewhere');
    for (let i = 0; i < 50; i++) {
      assert.equal(await locks.tryAcquireLock(lock, 'a', { retryAttempts: 0 }), true);
      assert.equal(await c.get(lock), 'a');
      await origin(0).del(lock);
      assert.equal(await c.get(lock), null);
      await origin(0).set(lock, 'x');
      assert.equal(await c.get(lock), 'x');
      assert.equal(await locks.tryAcquireLock(lock, 'a', { retryAttempts: 0 }), false);
      await origin(0).del(lock);
    }
  });

  await check('20 contenders: mutual exclusion, and the holder reads what the last one wrote', async () => {
    const lock = key('lock:', 'contended');
    const counter = key('balance:', 'contended'); // read, changed and written back under the lock: a stale read loses an update
    const ledger = key('ledger:', 'contended'); // one INCR for each acquisition
    const fence = key('lock:', 'contended:fence');
    const rounds = 5;
    let inside = 0;
    const seen = [];
    await Promise.all(Array.from({ length: 20 }, async (_, id) => {
      const service = new RedisLockService(connect());
      const data = connect({ db: cacheDb() });
      for (let i = 0; i < rounds; i++) {
        const value = service.generateLockValue('contend', id);
        assert.equal(await service.tryAcquireLock(lock, value, { retryAttempts: 5000, retryDelayMs: 1 + (id % 5) }), true);
        assert.equal(++inside, 1, 'two holders at once');
        const turn = await service.redis.incr(ledger);
        assert.equal(await service.redis.incr(fence), turn);
        const old = Number(await data.get(counter));
        seen.push([turn, old]);
        await sleep(Math.random() * 2);
        await data.set(counter, old + 1, 'PX', 60_000);
        assert.equal(await data.get(counter), String(old + 1));
        assert.equal(inside, 1, 'two holders at once');
        inside--;
        assert.equal(await service.releaseLock(lock, value), true);
      }
    }));
    assert.equal(seen.length, 20 * rounds);
    seen.forEach(([turn, old], i) => assert.deepEqual([turn, old], [i + 1, i], 'turn and what was read in it'));
    assert.equal(await origin(0).get(ledger), String(20 * rounds));
    assert.equal(await there(counter).get(counter), String(20 * rounds));
    await nowhere(lock);
  });

  await check('handed over in one chunk: DEL balance, release; the next holder never reads the old balance', async () => {
    const lock = key('recharge:balance:', 'handed');
    const balance = key('balance:', 'handed');
    const next = connect();
    const nextLocks = new RedisLockService(next);
    const reader = connect();
    for (let i = 0; i < 100; i++) {
      assert.equal(await locks.tryAcquireLock(lock, `a${i}`, { retryAttempts: 0 }), true);
      await c.set(balance, `old ${i}`);
      for (const r of [next, reader]) assert.equal(await r.get(balance), `old ${i}`);
      const taken = nextLocks.tryAcquireLock(lock, `b${i}`, { retryAttempts: 5000, retryDelayMs: 0 }).then(async (got) => {
        assert.equal(got, true);
        return [await reader.get(balance), await next.get(balance)];
      });
      const replies = await c.pipeline().del(balance).eval(RELEASE, 1, lock, `a${i}`).exec();
      assert.deepEqual(replies, [[null, 1], [null, 1]]);
      assert.deepEqual(await taken, [null, null]);
      assert.equal(await nextLocks.releaseLock(lock, `b${i}`), true);
    }
  });

  await check('redlock: acquire, extend, unlock, in db 0', async () => {
    const redlock = new Redlock([c], { retryCount: 0 });
    const patient = new Redlock([others.redis], { retryCount: 200, retryDelay: 5, retryJitter: 5 });
    const resource = key('lock:', 'redlock');
    let lock = await redlock.lock(resource, 5000);
    await onlyIn(resource, 0);
    assert.equal(await origin(0).get(resource), lock.value);
    await assert.rejects(redlock.lock(resource, 5000), (err) => err instanceof Redlock.LockError);
    lock = await lock.extend(60_000);
    assert.ok((await origin(0).pttl(resource)) > 50_000);
    const waiting = patient.lock(resource, 5000);
    await sleep(30);
    await lock.unlock();
    const second = await waiting;
    await assert.rejects(lock.unlock(), (err) => err instanceof Redlock.LockError);
    assert.equal(await c.get(resource), second.value);
    await second.unlock();
    await nowhere(resource);

    const two = [key('lock:', 'redlock:x'), key('pay:order:', 'redlock:y')];
    const both = await redlock.lock(two, 5000);
    for (const x of two) await onlyIn(x, 0);
    await assert.rejects(redlock.lock(two[1], 5000), (err) => err instanceof Redlock.LockError);
    await both.unlock();
    for (const x of two) await nowhere(x);
  });

  await check('redlock: 20 contenders', async () => {
    const resource = key('lock:', 'redlock:contended');
    const ledger = key('ledger:', 'redlock');
    let inside = 0;
    let turns = 0;
    await Promise.all(Array.from({ length: 20 }, async () => {
      const client = connect();
      const redlock = new Redlock([client], { retryCount: 5000, retryDelay: 3, retryJitter: 3 });
      for (let i = 0; i < 3; i++) {
        const lock = await redlock.lock(resource, 10_000);
        assert.equal(++inside, 1, 'two holders at once');
        assert.equal(await client.incr(ledger), ++turns);
        await sleep(Math.random() * 2);
        inside--;
        await lock.unlock();
      }
    }));
    assert.equal(await origin(0).get(ledger), '60');
    await nowhere(resource);
  });

  await check("the seed's flow: recharge:balance:7, del balance:7, release; another client reads it fresh", async () => {
    const user = `${run}:7`;
    const database = new Map([[user, 1000]]);
    const shop = () => openCache().then((cache) => new BalanceService(database, cache, new RedisLockService(connect())));
    const here = await shop();
    const reader = await shop();
    const third = await shop();
    for (let i = 1; i <= 30; i++) {
      // Everybody has it cached …
      for (const s of [here, reader, third]) {
        for (let j = 0; j < 2; j++) assert.deepEqual(await s.getBalance(user), { userId: user, amount: database.get(user) });
      }
      // … one changes it …
      const amount = i % 3 ? await here.rechargeBalance(user, 100) : await here.useBalance(user, 50);
      assert.equal(database.get(user), amount);
      await nowhere(`recharge:balance:${user}`);
      // … and nobody reads the old one.
      for (const s of [reader, third, here]) assert.deepEqual(await s.getBalance(user), { userId: user, amount });
    }
    await onlyIn(`balance:${user}`, 0);
    assert.equal(database.get(user), 1000 + 20 * 100 - 10 * 50);
  });

  await check("the seed's flow: 20 recharges at once, none lost", async () => {
    const user = `${run}:8`;
    const database = new Map([[user, 0]]);
    const shops = await Promise.all(Array.from({ length: 4 }, async () =>
      new BalanceService(database, await openCache(), new RedisLockService(connect()))));
    await Promise.all(shops.map((s) => s.getBalance(user)));
    await Promise.all(Array.from({ length: 20 }, (_, i) => shops[i % 4].rechargeBalance(user, 10)));
    assert.equal(database.get(user), 200);
    for (const s of shops) assert.deepEqual(await s.getBalance(user), { userId: user, amount: 200 });
    await nowhere(`recharge:balance:${user}`);
  });
});

// The seed's cache service on a cache-manager, whichever it is. open() connects and returns { service, cache, close, raw }.
'use strict';

const { run, key, sleep, assert, check, until, there, onlyIn, nowhere } = require('./lib');

let suites = 0;

module.exports = async function suite(label, session, open) {
  const n = ++suites;
  const k = (prefix, name) => key(prefix, `${n}:${name}`);
  const is = (name, fn) => check(`${label}: ${name}`, fn);

  let a;
  let b;
  const connected = await is('connect', async () => {
    a = await open();
    b = await open();
  });
  if (!connected) return;
  const { service } = a;
  const second = b.service;

  await is('get, set with TTL, ttl, has', async () => {
    const p = k('product:', '1');
    const product = { id: 1, name: '사과', options: [{ size: 'L', stock: 3 }] };
    assert.ok(!(await service.get(p)));
    assert.equal(await service.has(p), false);
    await service.set(p, product, 60 * 60 * 1000);
    for (let i = 0; i < 5; i++) assert.deepEqual(await service.get(p), product);
    assert.deepEqual(await second.get(p), product);
    assert.equal(await service.has(p), true);
    for (let i = 0; i < 3; i++) {
      const left = await service.ttl(p);
      assert.ok(left > 3_590_000 && left <= 3_600_000, `ttl ${left}`);
    }
    await onlyIn(p, session);
    const left = await there(p, session).pttl(p);
    assert.ok(left > 3_590_000 && left <= 3_600_000, `pttl at the origin ${left}`);
    assert.match(await there(p, session).get(p), /사과/);
  });

  await is('set over a cached value', async () => {
    const p = k('product:', 'over');
    for (let i = 1; i <= 50; i++) {
      await service.set(p, { i }, 60_000);
      assert.deepEqual(await service.get(p), { i });
      assert.deepEqual(await second.get(p), { i });
    }
  });

  await is('a value ends with its TTL', async () => {
    const p = k('coupon:', 'short');
    await service.set(p, 'x', 300);
    const set = performance.now();
    assert.equal(await service.get(p), 'x');
    assert.equal(await second.get(p), 'x');
    await sleep(310 - (performance.now() - set));
    assert.ok(!(await service.get(p)));
    assert.equal(await second.has(p), false);
  });

  await is('del', async () => {
    const p = k('balance:', '7');
    for (let i = 1; i <= 20; i++) {
      await service.set(p, { amount: i }, 300_000);
      assert.deepEqual(await service.get(p), { amount: i });
      assert.deepEqual(await second.get(p), { amount: i });
      await service.del(p);
      assert.ok(!(await service.get(p)), 'served after del');
      assert.ok(!(await second.get(p)), 'served to another client after del');
    }
    assert.equal(await second.has(p), false);
    await nowhere(p);
  });

  for (const method of ['delPattern', 'delPatternByScan']) {
    await is(`${method}`, async () => {
      const group = k('products:', `${method}:top-selling`);
      const keys = Array.from({ length: 120 }, (_, i) => `${group}:${i}`);
      const stays = k('products:', `${method}:new`);
      await Promise.all([...keys, stays].map((x) => service.set(x, [x], 600_000)));
      for (const x of [...keys, stays]) {
        assert.deepEqual(await service.get(x), [x]);
        assert.deepEqual(await second.get(x), [x]);
      }
      await onlyIn(keys[0], session);
      assert.equal(await service[method](`${group}:*`), keys.length);
      for (const x of keys) {
        assert.ok(!(await service.get(x)), 'served after delPattern');
        assert.ok(!(await second.get(x)), 'served to another client after delPattern');
      }
      await nowhere(keys[0]);
      await nowhere(keys[119]);
      assert.deepEqual(await service.get(stays), [stays]);
      assert.equal(await service[method](`${group}:*`), 0);
    });
  }

  await is('a pattern over several rules, and keys under no rule', async () => {
    const keys = [k('stats:', 'p'), k('coupon:', 'p'), k('health:', 'p')];
    for (const x of keys) {
      await service.set(x, 'ok', 60_000);
      assert.equal(await service.get(x), 'ok');
      await onlyIn(x, session);
    }
    assert.equal(await service.delPattern(`*${run}:${n}:p`), 3);
    for (const x of keys) {
      assert.ok(!(await service.get(x)));
      await nowhere(x);
    }
  });

  await is('a change at the origin is seen', async () => {
    const p = k('product:', 'elsewhere');
    await service.set(p, 'here', 60_000);
    assert.equal(await service.get(p), 'here');
    await there(p, session).del(p);
    await until(1000, 'the deletion', async () => !(await service.has(p)));
    assert.equal(await second.has(p), false);
  });

  await is('mset, mget, mdel', async () => {
    const keys = [k('product:', 'm1'), k('product:', 'm2'), k('balance:', 'm3')];
    await a.mset(keys.map((x, i) => [x, { i }]), 60_000);
    const plain = (list) => list.map((x) => x ?? null);
    for (let i = 0; i < 3; i++) assert.deepEqual(plain(await a.mget([...keys, k('stats:', 'none')])), [{ i: 0 }, { i: 1 }, { i: 2 }, null]);
    for (const x of keys) await onlyIn(x, session);
    await a.mdel(keys);
    assert.deepEqual(plain(await a.mget(keys)), [null, null, null]);
    assert.deepEqual(plain(await b.mget(keys)), [null, null, null]);
    for (const x of keys) await nowhere(x);
  });

  await is('wrap', async () => {
    const p = k('stats:', 'wrap');
    let loads = 0;
    const load = () => a.cache.wrap(p, async () => ({ load: ++loads }), 60_000);
    assert.deepEqual(await load(), { load: 1 });
    for (let i = 0; i < 5; i++) assert.deepEqual(await load(), { load: 1 });
    await second.del(p);
    assert.deepEqual(await load(), { load: 2 });
  });

  await is('health check of the seed', async () => {
    const p = k('health:', 'test');
    await service.set(p, 'ok', 1000);
    assert.equal(await service.get(p), 'ok');
    await service.del(p);
    assert.ok(!(await service.get(p)));
  });

  if (a.more) await a.more(is, k, session);

  await is('disconnect', async () => {
    await a.close();
    await b.close();
  });
};

// cache-manager 7 with keyv and @keyv/redis (node-redis 5).
'use strict';

const { createCache } = require('cache-manager7');
const { Keyv } = require('keyv');
const { createKeyv, default: KeyvRedis } = require('@keyv/redis');
const { main, ADDR, assert, nowhere, onlyIn, track } = require('./lib');
const { RedisCacheService } = require('./seed');
const suite = require('./cachemanager-suite');

const open = (options) => async () => {
  // createKeyv without a namespace: `product:1` is the key in Redis too.
  const keyv = createKeyv({ socket: { ...ADDR }, ...options }, { throwOnConnectError: true, throwOnErrors: true });
  const client = await keyv.store.getClient();
  track(client, '@keyv/redis', () => client.isOpen && client.destroy());
  const cache = createCache({ stores: [keyv], ttl: 60_000 });
  async function* scan(pattern) {
    for await (const page of client.scanIterator({ MATCH: pattern, COUNT: 100 })) yield* page;
  }
  const service = new RedisCacheService(cache, {
    keys: (pattern) => client.keys(pattern),
    scan,
    ttl: async (k) => (await cache.ttl(k)) - Date.now(), // cache-manager 7 answers a point in time, read from the value
  });
  return {
    service,
    cache,
    close: () => cache.disconnect(),
    mset: (pairs, ttl) => cache.mset(pairs.map(([k, value]) => ({ key: k, value, ttl }))),
    mget: (keys) => cache.mget(keys),
    mdel: (keys) => cache.mdel(keys),
    more: (is, k, session) => namespaced(is, k, session, options),
  };
};

// A namespace, as the adapter's own way of clearing by prefix: SCAN and UNLINK.
async function namespaced(is, k, session, options) {
  await is('namespace, iterator, clear', async () => {
    const namespace = k('product:', 'ns');
    const store = new KeyvRedis({ socket: { ...ADDR }, ...options }, { namespace, keyPrefixSeparator: ':' });
    const keyv = new Keyv({ store, namespace, useKeyPrefix: false });
    const client = await store.getClient();
    track(client, '@keyv/redis', () => client.isOpen && client.destroy());
    const names = Array.from({ length: 50 }, (_, i) => `n${i}`);
    await Promise.all(names.map((x) => keyv.set(x, `v ${x}`, 60_000)));
    await onlyIn(`${namespace}:n0`, session);
    assert.deepEqual(await keyv.getMany(['n0', 'n1', 'none']), ['v n0', 'v n1', undefined]);
    const seen = [];
    for await (const [x] of keyv.iterator(namespace)) seen.push(x);
    assert.equal(new Set(seen).size, names.length);
    assert.equal(await keyv.has('n3'), true);
    assert.equal(await keyv.delete('n3'), true);
    assert.equal(await keyv.has('n3'), false);
    await keyv.clear();
    for (const x of names) assert.equal(await keyv.get(x), undefined);
    await nowhere(`${namespace}:n0`);
    await keyv.disconnect();
  });
}

main(async () => {
  await suite('keyv, SELECT 1', 1, open({ database: 1 }));
  await suite('keyv, no SELECT', 0, open({}));
  await suite('keyv, RESP3, SELECT 1', 1, open({ database: 1, RESP: 3 }));
  await suite('keyv, RESP3, no SELECT', 0, open({ RESP: 3 }));
});

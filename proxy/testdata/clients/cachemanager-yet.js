// cache-manager 5 with cache-manager-redis-yet (node-redis 4), as in the seed document.
'use strict';

const { caching } = require('cache-manager');
const { redisStore } = require('cache-manager-redis-yet');
const { main, ADDR, track } = require('./lib');
const { RedisCacheService } = require('./seed');
const suite = require('./cachemanager-suite');

// The seed's own options. `db` is none of node-redis's (that is `database`): it is ignored, and no SELECT is sent.
const seedOptions = {
  socket: { ...ADDR, password: undefined },
  db: 1,
  ttl: 60 * 1000,
  max: 10000,
  enableReadyCheck: true,
  lazyConnect: false,
  retryStrategy: (times) => (times > 3 ? null : Math.min(times * 100, 1000)),
};

const open = (options) => async () => {
  const store = await redisStore(options);
  const { client } = store;
  track(client, 'cache-manager-redis-yet', () => client.isOpen && client.disconnect());
  const cache = await caching(store);
  const service = new RedisCacheService(cache, {
    keys: (pattern) => cache.store.keys(pattern),
    scan: (pattern) => client.scanIterator({ MATCH: pattern, COUNT: 100 }),
    ttl: (key) => cache.store.ttl(key),
  });
  return {
    service,
    cache,
    close: () => client.quit(),
    mset: (pairs, ttl) => store.mset(pairs, ttl), // MULTI, SET …, EXEC
    mget: (keys) => store.mget(...keys),
    mdel: (keys) => store.mdel(...keys),
  };
};

main(async () => {
  await suite('redis-yet, SELECT 1', 1, open({ socket: { ...ADDR }, database: 1, ttl: 60_000 }));
  await suite('redis-yet, no SELECT', 0, open({ socket: { ...ADDR }, ttl: 60_000 }));
  await suite("redis-yet, the seed's options", 0, open(seedOptions));
});

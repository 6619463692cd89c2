'use strict';

const { main, ADDR, assert, check, key, until, track } = require('./lib');
const suite = require('./ioredis-suite');
const Redis = require('ioredis6');

main(async () => {
  await suite(Redis, 'ioredis 6, RESP3', { protocol: 3 });
  await suite(Redis, 'ioredis 6, RESP3, db 1', { protocol: 3, db: 1 });
  await suite(Redis, 'ioredis 6, RESP2', { protocol: 2 });

  await check('ioredis 6, RESP3: commands on a subscribed connection', async () => {
    const c = new Redis({ ...ADDR, protocol: 3 });
    track(c, 'ioredis 6', () => c.disconnect());
    const got = [];
    c.on('message', (ch, m) => got.push(m));
    const channel = key('channel:', 'resp3');
    const p = key('product:', 'resp3');
    await c.subscribe(channel);
    assert.equal(await c.set(p, '1'), 'OK');
    assert.equal(await c.get(p), '1');
    assert.equal(await c.publish(channel, 'self'), 1);
    await until(2000, 'the message', () => got.length === 1);
    assert.deepEqual(got, ['self']);
    assert.equal(await c.get(p), '1');
    await c.unsubscribe(channel);
    assert.equal(await c.quit(), 'OK');
  });
});

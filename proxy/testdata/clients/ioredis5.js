'use strict';

const { main } = require('./lib');
const suite = require('./ioredis-suite');
const Redis = require('ioredis5');

main(async () => {
  await suite(Redis, 'ioredis 5', {});
  await suite(Redis, 'ioredis 5, db 1', { db: 1 });
});

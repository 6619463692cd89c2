'use strict';

const { main } = require('./lib');
const suite = require('./noderedis-suite');
const redis = require('redis');

main(async () => {
  await suite(redis, 4, 'node-redis 4', {});
  await suite(redis, 4, 'node-redis 4, database 1', { database: 1 });
});

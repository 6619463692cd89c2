// The shop of the seed document: its cache service, its lock service, and a balance service that uses both.
'use strict';

const { randomUUID } = require('node:crypto');
const { sleep } = require('./lib');

const RELEASE = 'if redis.call("get",KEYS[1]) == ARGV[1] then return redis.call("del",KEYS[1]) else return 0 end';
const EXTEND = 'if redis.call("get",KEYS[1]) == ARGV[1] then return redis.call("pexpire",KEYS[1],ARGV[2]) else return 0 end';

class RedisCacheService {
  // store is what differs between cache-manager 5 and 7: keys(pattern), scan(pattern) and ttl(key) in milliseconds.
  constructor(cacheManager, store) {
    this.cacheManager = cacheManager;
    this.store = store;
  }

  async get(key) {
    return this.cacheManager.get(key);
  }

  async set(key, value, ttlMs) {
    await this.cacheManager.set(key, value, ttlMs);
  }

  async del(key) {
    await this.cacheManager.del(key);
  }

  async delPattern(pattern) {
    const keys = await this.store.keys(pattern);
    await Promise.all(keys.map((key) => this.cacheManager.del(key)));
    return keys.length;
  }

  async delPatternByScan(pattern) {
    const keys = new Set();
    for await (const key of this.store.scan(pattern)) keys.add(key);
    await Promise.all([...keys].map((key) => this.cacheManager.del(key)));
    return keys.size;
  }

  async has(key) {
    const value = await this.cacheManager.get(key);
    return value !== null && value !== undefined;
  }

  async ttl(key) {
    return this.store.ttl(key);
  }
}

class RedisLockService {
  constructor(redis) {
    this.redis = redis;
  }

  generateLockValue(operation, userId) {
    return `${operation}:${userId}:${randomUUID()}`;
  }

  async tryAcquireLock(key, value, { ttlMs, ttlSeconds = 10, retryAttempts = 3, retryDelayMs = 100 } = {}) {
    for (let attempt = 0; ; attempt++) {
      if ((await this.redis.set(key, value, 'PX', ttlMs || ttlSeconds * 1000, 'NX')) === 'OK') return true;
      if (attempt >= retryAttempts) return false;
      await sleep(retryDelayMs);
    }
  }

  async releaseLock(key, value) {
    return (await this.redis.eval(RELEASE, 1, key, value)) === 1;
  }

  async extendLock(key, value, ttlMs) {
    return (await this.redis.eval(EXTEND, 1, key, value, ttlMs)) === 1;
  }
}

class BalanceService {
  // database is a Map that stands for the shop's SQL database.
  constructor(database, cacheService, lockService) {
    this.database = database;
    this.cacheService = cacheService;
    this.lockService = lockService;
  }

  async getBalance(userId) {
    const cacheKey = `balance:${userId}`;
    const cached = await this.cacheService.get(cacheKey);
    if (cached) return cached;
    const balance = { userId, amount: this.database.get(userId) };
    await this.cacheService.set(cacheKey, balance, 5 * 60 * 1000);
    return balance;
  }

  rechargeBalance(userId, amount) {
    return this.change('recharge', userId, amount);
  }

  useBalance(userId, amount) {
    return this.change('use', userId, -amount);
  }

  async change(operation, userId, amount) {
    const lockKey = `${operation}:balance:${userId}`;
    const lockValue = this.lockService.generateLockValue(operation, userId);
    const acquired = await this.lockService.tryAcquireLock(lockKey, lockValue, { ttlSeconds: 10, retryAttempts: 500, retryDelayMs: 5 });
    if (!acquired) throw new Error(`${lockKey} is busy`);
    try {
      const old = this.database.get(userId);
      await sleep(1); // a transaction that is not atomic: the lock must make it so
      this.database.set(userId, old + amount);
      await this.cacheService.del(`balance:${userId}`);
      return old + amount;
    } finally {
      await this.lockService.releaseLock(lockKey, lockValue);
    }
  }
}

module.exports = { RELEASE, EXTEND, RedisCacheService, RedisLockService, BalanceService };

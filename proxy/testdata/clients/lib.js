// What the scripts share: addresses, one line per check, a deadline, connections that are all closed, keys that are all removed.
'use strict';

const assert = require('node:assert/strict');
const IORedis = require('ioredis5');

const MODE = process.env.MODE || 'plain';
if (!['plain', 'nearside'].includes(MODE)) throw new Error(`MODE=${MODE}: plain or nearside`);
if (!process.env.NEARSIDE_ADDR) throw new Error('NEARSIDE_ADDR=host:port is missing');
if (MODE === 'nearside' && !process.env.ORIGIN_ADDR) throw new Error('ORIGIN_ADDR=host:port is missing');

const NEARSIDE = MODE === 'nearside';
const ADDR = parse(process.env.NEARSIDE_ADDR);
const ORIGIN = parse(process.env.ORIGIN_ADDR || process.env.NEARSIDE_ADDR);

const DEADLINE = 60_000; // of the whole script
const CHECK = 10_000; // of one check
const CACHE_RULES = ['product:', 'products:', 'balance:', 'coupon:', 'stats:'];
const CACHE_DB = 1;
const DBS = [0, 1, 3, 5]; // every database a script writes to

const run = `t${Date.now().toString(36)}${Math.random().toString(36).slice(2, 7)}`;

function parse(addr) {
  const i = addr.lastIndexOf(':');
  return { host: addr.slice(0, i).replace(/^\[|\]$/g, ''), port: Number(addr.slice(i + 1)) };
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// key('product:', 'a') is under the rule and belongs to this run alone.
const key = (prefix, name) => `${prefix}${run}:${name}`;

// dbOf says in which database of the origin a key must lie that a session at `session` has written.
function dbOf(k, session = 0) {
  if (NEARSIDE && session === 0 && CACHE_RULES.some((p) => k.startsWith(p))) return CACHE_DB;
  return session;
}

// ---- checks -------------------------------------------------------------

let passed = 0;
let failed = 0;
let finished = false;

function ok(name) {
  passed++;
  console.log(`ok ${name}`);
}

function notOk(name, err) {
  failed++;
  const reason = String((err && err.message) || err).split('\n').map((s) => s.trim()).filter(Boolean).join(' | ');
  console.log(`not ok ${name}: ${reason.slice(0, 400)}`);
  if (process.env.TRACE && err && err.stack) console.log(err.stack);
}

function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} after ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function check(name, fn) {
  try {
    await within(CHECK, 'no answer', Promise.resolve().then(fn));
    ok(name);
    return true;
  } catch (err) {
    notOk(name, err);
    return false;
  }
}

// until polls fn until it returns true, at most ms long, and returns how long that took.
async function until(ms, what, fn) {
  const start = performance.now();
  for (;;) {
    if (await fn()) return performance.now() - start;
    if (performance.now() - start > ms) throw new Error(`${what}: not within ${ms} ms`);
    await sleep(1);
  }
}

// rejects returns the message of the error that the promise must end in.
async function rejects(promise, pattern) {
  let value;
  try {
    value = await promise;
  } catch (err) {
    assert.match(err.message, pattern);
    return err.message;
  }
  throw new Error(`expected an error like ${pattern}, got ${JSON.stringify(value)}`);
}

// ---- connections --------------------------------------------------------

const closers = [];
const troubles = new Set(); // error and close events that no check asked for

// track remembers how to close a client, and listens for what must not happen to it.
function track(client, name, close) {
  client.on('error', (err) => troubles.add(`${name}: error event: ${err.message}`));
  client.on('reconnecting', () => troubles.add(`${name}: reconnecting: its connection was closed`));
  closers.push(close);
  return client;
}

const origins = new Map();

// origin is a connection to one database of the real Redis, past nearside.
function origin(db) {
  if (!origins.has(db)) {
    const c = new IORedis({ ...ORIGIN, db, maxRetriesPerRequest: 3 });
    origins.set(db, track(c, `origin ${db}`, () => c.disconnect()));
  }
  return origins.get(db);
}

// there reads a key where it must lie.
const there = (k, session = 0) => origin(dbOf(k, session));

// onlyIn asserts that a key exists in its database and in none of the others.
async function onlyIn(k, session = 0) {
  const want = dbOf(k, session);
  for (const db of DBS) {
    const is = await origin(db).exists(k);
    if (is !== (db === want ? 1 : 0)) throw new Error(`${k} must lie in db ${want} alone; it is ${is ? '' : 'not '}in db ${db}`);
  }
}

async function nowhere(k) {
  for (const db of DBS) if (await origin(db).exists(k)) throw new Error(`${k} must be gone; it is in db ${db}`);
}

async function clean() {
  for (const db of DBS) {
    let cursor = '0';
    do {
      const [next, keys] = await origin(db).scanBuffer(cursor, 'MATCH', `*${run}*`, 'COUNT', 1000);
      if (keys.length) await origin(db).unlink(...keys);
      cursor = String(next);
    } while (cursor !== '0');
  }
}

// ---- the frame of a script ----------------------------------------------

function summary() {
  if (finished) return;
  finished = true;
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed ? 1 : 0;
}

function giveUp(name, err) {
  notOk(name, err);
  summary();
  process.exit(1);
}

function main(body) {
  setTimeout(() => giveUp('deadline', new Error(`not done after ${DEADLINE / 1000} s`)), DEADLINE).unref();
  process.on('unhandledRejection', (err) => notOk('no unhandled rejection', err));
  process.on('uncaughtException', (err) => notOk('no uncaught exception', err));
  (async () => {
    try {
      await origin(0).ping();
    } catch (err) {
      return giveUp('the origin answers', err);
    }
    try {
      await body();
    } catch (err) {
      notOk('script runs to its end', err);
    }
    await check('no error event, no closed connection', () => assert.equal([...troubles].join('; '), ''));
    await check('clean up', clean);
    await check('close', async () => {
      for (const close of closers.reverse()) await close();
    });
    // An open socket keeps the process alive; this timer does not.
    setTimeout(() => giveUp('every connection is closed', new Error('something still holds the process')), 3000).unref();
    process.once('beforeExit', () => {
      ok('every connection is closed');
      summary();
    });
  })();
}

module.exports = {
  MODE, NEARSIDE, ADDR, ORIGIN, CACHE_DB, run, key, dbOf, sleep, assert,
  check, until, rejects, track, origin, there, onlyIn, nowhere, main,
};

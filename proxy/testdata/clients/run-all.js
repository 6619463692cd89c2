// Every script in turn, or those named: node run-all.js [script …]
'use strict';

const { spawnSync } = require('node:child_process');
const path = require('node:path');

const all = ['ioredis5', 'ioredis6', 'noderedis4', 'noderedis5', 'cachemanager-yet', 'cachemanager-keyv', 'locks', 'order'];
const wanted = process.argv.slice(2).map((s) => s.replace(/\.js$/, ''));

let passed = 0;
const failed = [];
for (const script of wanted.length ? wanted : all) {
  console.log(`# ${script}`);
  const { status, error } = spawnSync(process.execPath, [path.join(__dirname, `${script}.js`)], { stdio: 'inherit', timeout: 75_000 });
  if (status === 0) passed++;
  else failed.push(error ? `${script} (${error.code})` : script);
}
console.log(`${passed} scripts passed, ${failed.length} failed${failed.length ? `: ${failed.join(', ')}` : ''}`);
process.exitCode = failed.length ? 1 : 0;

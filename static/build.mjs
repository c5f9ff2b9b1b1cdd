// Minifies js/telemetry.js to js/telemetry.min.js, which the server sends. With --check it fails if the two do not belong
// together. In both cases it fails if the result is too large.
import { readFile, writeFile } from 'node:fs/promises';
import { gzipSync } from 'node:zlib';
import { transform } from 'esbuild';

const SOURCE = new URL('js/telemetry.js', import.meta.url);
const RESULT = new URL('js/telemetry.min.js', import.meta.url);
const MAX_GZIP_BYTES = 5 * 1024;

const { code } = await transform(await readFile(SOURCE, 'utf8'), { minify: true, target: 'es2020', charset: 'utf8' });
const bytes = gzipSync(code, { level: 9 }).length;
console.log(`static/js/telemetry.min.js: ${code.length} bytes, ${bytes} with gzip; allowed are ${MAX_GZIP_BYTES}`);
if (bytes > MAX_GZIP_BYTES) {
  console.error('The client is too large.');
  process.exitCode = 1;
} else if (!process.argv.includes('--check')) {
  await writeFile(RESULT, code);
} else if ((await readFile(RESULT, 'utf8')) !== code) {
  console.error('static/js/telemetry.min.js was not made from static/js/telemetry.js: run `make client`.');
  process.exitCode = 1;
}

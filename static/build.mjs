// Minifies the client, `js/telemetry*.js`, to the files `js/telemetry*.min.js`, which the server sends. With --check it fails
// if the two do not belong together. In both cases it fails if the client is too large.
import { readFile, writeFile } from 'node:fs/promises';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { minify } from 'terser';

/** Most bytes of the first file with gzip: each visitor loads it. */
const MAX_GZIP_BYTES = 5 * 1024;
const YEAR = 2020;

/** A script of the client, minified by terser: its result is smaller than that of esbuild. */
async function minified(name, isModule) {
  const source = await readFile(new URL(`js/${name}.js`, import.meta.url), 'utf8');
  const compress = { ecma: YEAR, passes: 2, keep_fargs: false };
  const { code } = await minify(source, { ecma: YEAR, module: isModule, compress });
  return code;
}

/** The parts of `web-vitals` that are used, as a module of its own. */
async function vitals() {
  const { outputFiles } = await build({
    minify: true,
    target: `es${YEAR}`,
    stdin: {
      contents: "export { onCLS, onFCP, onINP, onLCP, onTTFB } from 'web-vitals';",
      resolveDir: import.meta.dirname,
    },
    bundle: true,
    format: 'esm',
    legalComments: 'none',
    banner: { js: '/* web-vitals, Apache-2.0, see its LICENSE */' },
    write: false,
  });
  return outputFiles[0].text;
}

const results = {
  telemetry: await minified('telemetry', false),
  'telemetry-web': await minified('telemetry-web', true),
  'telemetry-vitals': await vitals(),
};
for (const [name, code] of Object.entries(results)) {
  const result = new URL(`js/${name}.min.js`, import.meta.url);
  const bytes = gzipSync(code, { level: 9 }).length;
  const limit = name === 'telemetry' ? MAX_GZIP_BYTES : Number.POSITIVE_INFINITY;
  console.log(`static/js/${name}.min.js: ${code.length} bytes, ${bytes} with gzip`);
  if (bytes > limit) {
    console.error(`The client is too large; allowed are ${limit} bytes with gzip.`);
    process.exitCode = 1;
  } else if (!process.argv.includes('--check')) {
    await writeFile(result, code);
  } else if ((await readFile(result, 'utf8')) !== code) {
    console.error(`static/js/${name}.min.js is not what its source makes: run \`make client\`.`);
    process.exitCode = 1;
  }
}

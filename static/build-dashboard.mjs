// Makes dist/, which is part of the binary: the page, its style, its script, and of Apache ECharts the parts that are used.
// The charts are files of their own, so that the numbers are there before them, and so are the views that few open first;
// what two files need is in shared.js, or for the charts in charts-core.js. The page of the HTTP API is Swagger UI.
import { cp, mkdir, readFile, rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const options = {
  bundle: true,
  format: 'esm',
  minify: true,
  target: 'es2022',
  charset: 'utf8',
  legalComments: 'none',
  logLevel: 'warning',
};
/** Bytes with gzip that a first visit may cost. */
const LIMITS = {
  'dashboard.js': 28 << 10,
  'shared.js': 36 << 10,
  'more.js': 20 << 10,
  'charts.js': 60 << 10,
  'charts-core.js': 148 << 10,
  'more-charts.js': 32 << 10,
  'dashboard.css': 10 << 10,
  'docs.js': 460 << 10,
  'docs.css': 28 << 10,
};

await rm(here('dist'), { recursive: true, force: true });
await mkdir(here('dist'));
await Promise.all([
  build({
    ...options,
    entryPoints: { dashboard: here('js/dashboard/main.js'), more: here('js/dashboard/views/more.js') },
    outdir: here('dist'),
    splitting: true,
    chunkNames: 'shared',
    external: ['./charts.js'],
    banner: { js: '/* Icons: Lucide, ISC License, see its LICENSE */' },
  }),
  build({
    ...options,
    entryPoints: [here('js/dashboard/charts.js'), here('js/dashboard/more-charts.js')],
    outdir: here('dist'),
    splitting: true,
    chunkNames: 'charts-core',
    banner: { js: '/* Apache ECharts and ZRender: Apache-2.0 and BSD-3-Clause, see their NOTICE */' },
  }),
  build({ ...options, entryPoints: [here('css/dashboard.css')], outfile: here('dist/dashboard.css') }),
  build({
    ...options,
    entryPoints: [here('js/docs.js')],
    outfile: here('dist/docs.js'),
    banner: { js: '/* Swagger UI: Apache-2.0, see its NOTICE and the licences of its parts */' },
  }),
  build({
    ...options,
    entryPoints: ['swagger-ui-dist/swagger-ui.css'],
    absWorkingDir: here('.'),
    outfile: here('dist/docs.css'),
  }),
  cp(here('docs.html'), here('dist/docs.html')),
  cp(here('icon.svg'), here('dist/icon.svg')),
]);
for (const [name, limit] of Object.entries(LIMITS)) {
  const bytes = gzipSync(await readFile(here(`dist/${name}`)), { level: 9 }).length;
  console.log(`static/dist/${name}: ${bytes} bytes with gzip; allowed are ${limit}`);
  if (bytes > limit) {
    console.error(`static/dist/${name} is too large.`);
    process.exitCode = 1;
  }
}
// The page comes last: while it is missing, `make` knows that the rest is not whole.
if (!process.exitCode) await cp(here('index.html'), here('dist/index.html'));

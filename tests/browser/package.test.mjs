// The npm package of the client: made, installed into a small project, type-checked, built by a bundler, and used.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { folderFor, openBrowser, sharedWorld, visit } from './harness.mjs';

const run = promisify(execFile);
const STATIC = path.join(import.meta.dirname, '../../static');
const TSC = path.join(import.meta.dirname, 'node_modules/.bin/tsc');

const app = (endpoint) => `import { flush, init, optIn, optOut, page, setUserId, track } from 'echopilot-client';

init({ endpoint: '${endpoint}', visitors: 'session', webErrors: true, webVitals: 'off' });
setUserId('ann');
track('action', 'imported', { n: 1 });
page('by hand');
const sent: Promise<void> = flush();
window.EchoPilot satisfies object | undefined;
export { optIn, optOut, sent };

// @ts-expect-error: no such type of event
if (!sent) track('tap', 'x');
// @ts-expect-error: no such setting
if (!sent) init({ visitors: 'daily' });
`;
const TYPES = { strict: true, noEmit: true, target: 'ES2022', lib: ['ES2022', 'DOM'], types: [] };

test('a project that installs the package has its types, builds it, and sends its events', async (t) => {
  const [browser, { server, site, eventsOf, stop }] = await Promise.all([openBrowser(), sharedWorld()]);
  t.after(async () => {
    await browser.close();
    await stop();
  });
  const folder = await folderFor(t);
  const project = path.join(folder, 'project');
  await mkdir(project);
  await run('node', [path.join(STATIC, 'build-package.mjs'), path.join(folder, 'package')]);
  const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', folder, path.join(folder, 'package')]);
  const [{ filename, files, version }] = Object.values(JSON.parse(stdout));
  const names = files.map((file) => file.path);
  for (const name of ['index.js', 'index.d.ts', 'client.js', 'telemetry.js', 'telemetry.d.ts', 'LICENSE', 'README.md'])
    assert.ok(names.includes(name), `${name} is not among ${names}`);
  const cargo = await readFile(path.join(STATIC, '../Cargo.toml'), 'utf8');
  assert.ok(cargo.includes(`\nversion = "${version}"`));

  await writeFile(path.join(project, 'package.json'), '{"type":"module"}');
  await run('npm', ['install', '--offline', '--no-audit', '--no-fund', path.join(folder, filename)], { cwd: project });
  await writeFile(path.join(project, 'app.ts'), app(`${server.url}/api/analytics/event`));
  for (const options of [
    { module: 'ESNext', moduleResolution: 'bundler' },
    { module: 'NodeNext', moduleResolution: 'NodeNext' },
  ]) {
    const config = { compilerOptions: { ...TYPES, ...options }, files: ['app.ts'] };
    await writeFile(path.join(project, 'tsconfig.json'), JSON.stringify(config));
    await run(TSC, ['-p', project]).catch((error) => assert.fail(error.stdout));
  }

  const { build } = createRequire(path.join(STATIC, 'x.js'))('esbuild');
  const outdir = path.join(project, 'built');
  await build({
    entryPoints: [path.join(project, 'app.ts')],
    outdir,
    bundle: true,
    splitting: true,
    format: 'esm',
    logLevel: 'silent',
  });
  const headers = { 'Content-Type': 'text/javascript' };
  for (const name of await readdir(outdir))
    site.pages.set(`/built/${name}`, { body: await readFile(path.join(outdir, name)), headers });
  const context = await browser.newContext();
  const requests = [];
  context.on('request', (request) => requests.push(request.url()));
  const page = await visit(context, site.page('/app', '<script type="module" src="/built/app.js"></script>'));
  const events = await eventsOf('/app', 3, page);
  assert.deepEqual(
    events.map(({ feature, user_id: user }) => [feature, user]),
    [
      ['imported', 'ann'],
      ['by hand', 'ann'],
      ['app', 'ann'],
    ],
  );
  const hasLoadedWeb = requests.some((url) => /\/built\/telemetry-web-\w+\.js$/.test(url));
  assert.ok(hasLoadedWeb, String(requests));
  assert.ok(
    !requests.some((url) => url.includes('vitals') || url.startsWith(`${server.url}/static`)),
    String(requests),
  );

  // Frameworks import it on a server, too; and the file for a tag is that of the server.
  const code = `import { track, flush } from 'echopilot-client'; track('action', 'x'); await flush();
    console.log(import.meta.resolve('echopilot-client/script'));`;
  const rendered = await run('node', ['--input-type=module', '--eval', code], { cwd: project });
  const script = await readFile(new URL(rendered.stdout.trim()), 'utf8');
  assert.ok(script === (await (await fetch(`${server.url}/static/js/telemetry.js`)).text()), 'that of the server');
});

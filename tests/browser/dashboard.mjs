// Opens the dashboard in a browser, and reads the numbers on the screen.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { cp, mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import axe from 'axe-core';
import { KEY, PATIENCE_MS, PROGRAM, Server } from './harness.mjs';

/** A folder with files to serve instead of those in the binary, for quick changes of the dashboard. */
const STATIC = process.env.ECHOPILOT_TEST_STATIC;

/** The files that are served from there. */
const OWN_FILES = /\/static\/(dashboard|shared|more|more-charts|charts|charts-core|icon)\.[a-z]+$/;

/** The file from there for an address; null without such a folder, and for other addresses. */
export async function ownFile(url) {
  if (!STATIC || !OWN_FILES.test(url)) return null;
  const name = path.basename(new URL(url).pathname);
  const type = { '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' }[path.extname(name)];
  return { body: await readFile(path.join(STATIC, name)), contentType: type };
}

export const VIEWS = [
  'overview',
  'trends',
  'web',
  'explorer',
  'lifecycle',
  'stickiness',
  'funnel',
  'retention',
  'paths',
  'experiments',
  'reports',
  'live',
  'engine',
];

/** Runs a command of the program in a folder. */
export const command = (folder, ...given) =>
  promisify(execFile)(PROGRAM, [...given, '--data-dir', folder], { env: { PATH: process.env.PATH } });

/** The synthetic histories that this program made today: each is made once for all files of tests. */
const HISTORIES = fileURLToPath(new URL('node_modules/.cache/histories', import.meta.url));

/** Fills a folder with a synthetic history of some days, which is the same each time except for its dates. */
export async function fill(folder, days) {
  const size = ['--events', '20000', '--days', `${days}`, '--users', '400', '--features', '14', '--seed', '7'];
  const { mtimeMs, size: bytes } = await stat(PROGRAM);
  const today = new Date().toISOString().slice(0, 10);
  const digest = createHash('sha256')
    .update(JSON.stringify([mtimeMs, bytes, size]))
    .digest('hex');
  const history = path.join(HISTORIES, `${today}-${digest.slice(0, 16)}`);
  if (!existsSync(history)) {
    const making = `${history}.${process.pid}`;
    await mkdir(making, { recursive: true });
    for (const name of await readdir(HISTORIES))
      if (!name.startsWith(today)) await rm(path.join(HISTORIES, name), { recursive: true, force: true });
    await command(making, 'demo', ...size);
    // Another file of tests may have been faster.
    await rename(making, history).catch(() => rm(making, { recursive: true }));
  }
  await cp(history, folder, { recursive: true });
}

/** Starts a server over a synthetic history. */
export const demoServer = (settings) => Server.start({ settings, prepare: (folder) => fill(folder, 70) });

/** Sends events, at most a hundred. */
export async function post(server, events) {
  const response = await fetch(`${server.url}/api/analytics/event`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ events }),
  });
  assert.equal(response.status, 200, await response.text());
}

/** Sends a query as a program would. */
export async function ask(server, question, base = '/api/analytics') {
  const response = await fetch(`${server.url}${base}/query`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'X-Dash-Key': KEY },
    body: JSON.stringify(question),
  });
  const answer = await response.json();
  assert.equal(response.status, 200, answer.message);
  return answer;
}

export async function getJson(server, place) {
  const response = await fetch(server.url + place, { headers: { 'X-Dash-Key': KEY } });
  assert.equal(response.status, 200);
  return response.json();
}

/** A row without nesting, in the order of the columns. */
export const flat = (row) =>
  Object.values(row).flatMap((value) => (value && typeof value === 'object' ? flat(value) : [value]));

/**
 * A browser context with the key, unless `key` is null. Errors and warnings of its pages are in `complaints`. Charts do not
 * move unless asked to: each would be drawn twenty times.
 */
export async function visitor(browser, { key = KEY, ...options } = {}) {
  const context = await browser.newContext({
    viewport: { width: 1366, height: 800 },
    reducedMotion: 'reduce',
    ...options,
  });
  context.complaints = [];
  context.setDefaultTimeout(PATIENCE_MS);
  if (key)
    await context.addInitScript(
      (value) => location.protocol.startsWith('http') && sessionStorage.setItem('echopilot.key', value),
      key,
    );
  await context.addInitScript(() => {
    window.violations = [];
    document.addEventListener('securitypolicyviolation', ({ violatedDirective, sample }) =>
      window.violations.push(`${violatedDirective}: ${sample}`),
    );
  });
  if (STATIC) await context.route(OWN_FILES, async (route) => route.fulfill(await ownFile(route.request().url())));
  context.on('page', (page) => {
    page.on('pageerror', (error) => context.complaints.push(error.stack ?? error.message));
    page.on('dialog', (dialog) => {
      context.complaints.push(`a dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
  });
  return context;
}

/** A visitor of one test, which fails at the end if there were complaints. */
export async function enterAs(t, browser, options) {
  const context = await visitor(browser, options);
  t.after(async () => {
    assert.deepEqual(context.complaints, []);
    await context.close();
  });
  return context;
}

/** A server of one test. */
export async function serve(t, options) {
  const server = await Server.start(options);
  t.after(() => server.stop());
  return server;
}

/** Returns the address of a view. */
export const address = (server, view, given = {}, base = '/') => {
  const search = new URLSearchParams(
    Object.entries(given).map(([name, value]) => [
      name,
      typeof value === 'object' ? JSON.stringify(value) : String(value),
    ]),
  );
  return `${server.url}${base}#/${view}${search.size ? `?${search}` : ''}`;
};

/** Waits until every panel has a result. */
export async function settled(page) {
  await page.waitForFunction(() => {
    const panels = [...document.querySelectorAll('[data-panel]')];
    return (
      panels.length > 0 &&
      panels.every(
        (panel) =>
          ['ready', 'empty', 'error'].includes(panel.dataset.state) &&
          !panel.hasAttribute('aria-busy') &&
          (!panel.querySelector('.canvas') || panel.querySelector('canvas')),
      )
    );
  });
  return page;
}

/**
 * Compares a page with the server, and once more after a reload if they differ: with time, an hour ends, and an event of
 * an earlier period comes to the hours that are compared with those of a running one.
 */
export async function compared(page, comparison) {
  try {
    return await comparison();
  } catch (error) {
    if (!(error instanceof assert.AssertionError)) throw error;
    await page.reload();
    await settled(page);
    return comparison();
  }
}

export async function open(context, server, view, given, base) {
  const page = await context.newPage();
  await page.goto(address(server, view, given, base));
  return settled(page);
}

/** Goes to another view in a page that is open: only the part after # changes. */
export async function show(page, server, view, given, base) {
  await page.goto(address(server, view, given, base));
  await page.locator(`[data-view="${view}"][aria-current]`).waitFor();
  return settled(page);
}

export const panel = (page, name) => page.locator(`[data-panel="${name}"]`);

/** Returns the request that a panel shows. */
export async function requestOf(page, name) {
  await panel(page, name).locator('[data-tool="request"]').click();
  const dialog = page.locator('dialog[open]');
  const json = dialog.locator('[data-request="json"]');
  const question = (await json.count()) ? JSON.parse(await json.textContent()) : null;
  const curl = await dialog.locator('[data-request="curl"]').textContent();
  await dialog.getByRole('button', { name: 'Close' }).click();
  return { question, curl };
}

/** Reads the numbers of a panel's table, row by row, with null for other cells. The panel then shows its chart again. */
export async function tableOf(page, name) {
  const toggle = panel(page, name).locator('[data-tool="table"]');
  await toggle.click();
  const rows = await panel(page, name)
    .locator('tbody tr')
    .evaluateAll((found) =>
      found.map((row) =>
        [...row.children].map((cell) =>
          cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value),
        ),
      ),
    );
  await toggle.click();
  return rows;
}

/** The numbers that a table should show for the rows of a result, with null for other cells. */
export function assertTable(shown, rows, what) {
  assert.equal(shown.length, Math.min(rows.length, 500), `rows of ${what}`);
  rows.slice(0, 500).forEach((row, place) => {
    const expected = flat(row);
    const numbers = (cells) => cells.filter((cell) => typeof cell === 'number');
    assert.deepEqual(numbers(shown[place]), numbers(expected), `row ${place} of ${what}`);
  });
}

/** The rules of axe that depend on the colours. */
const OF_COLOURS = ['color-contrast', 'link-in-text-block'];

/** Fails if the page violates a rule of axe, or one of these rules. */
export async function assertAccessible(page, what, rules = null) {
  if (!(await page.evaluate(() => 'axe' in window))) await page.evaluate(axe.source);
  const found = await page.evaluate(
    (runOnly) => window.axe.run(document, { resultTypes: ['violations'], ...(runOnly && { runOnly }) }),
    rules,
  );
  const violations = found.violations.map(
    ({ id, nodes }) =>
      `${id}: ${nodes
        .slice(0, 3)
        .map((node) => `${node.target} ${node.any.map((one) => one.message)}`)
        .join(' | ')}`,
  );
  assert.deepEqual(violations, [], what);
}

/** The same in light colours and in dark ones, which differ in the rules about colours alone. */
export async function assertAccessibleInBoth(page, what) {
  for (const [colorScheme, rules] of [
    ['dark', OF_COLOURS],
    ['light', null],
  ]) {
    // Without transitions: colours between two are none of the page.
    await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
    await page.locator(`html[data-theme="${colorScheme}"]`).waitFor();
    await assertAccessible(page, `${what}, ${colorScheme}`, rules);
  }
}

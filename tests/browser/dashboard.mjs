// Opens the dashboard in a browser, and reads the numbers on the screen.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import axe from 'axe-core';
import { KEY, PATIENCE_MS, PROGRAM, Server } from './harness.mjs';

/** A folder with files to serve instead of those in the binary, for quick changes of the dashboard. */
const STATIC = process.env.ECHOPILOT_TEST_STATIC;

export const VIEWS = [
  'overview',
  'lifecycle',
  'stickiness',
  'funnel',
  'retention',
  'paths',
  'experiments',
  'live',
  'engine',
];

/** Runs a command of the program in a folder. */
export const command = (folder, ...given) =>
  promisify(execFile)(PROGRAM, [...given, '--data-dir', folder], { env: { PATH: process.env.PATH } });

/** Starts a server over a synthetic history, which is the same each time except for its dates. */
export const demoServer = (settings) =>
  Server.start({
    settings,
    prepare: (folder) =>
      command(folder, 'demo', '--events', '20000', '--days', '70', '--users', '400', '--features', '14', '--seed', '7'),
  });

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

/** A browser context with the key, unless `key` is null. Errors and warnings of its pages are in `complaints`. */
export async function visitor(browser, { key = KEY, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1366, height: 800 }, ...options });
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
  if (STATIC) {
    await context.route(/\/static\/(dashboard|charts|icon)\.[a-z]+$/, async (route) => {
      const name = path.basename(new URL(route.request().url()).pathname);
      const type = { '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' }[path.extname(name)];
      await route.fulfill({ body: await readFile(path.join(STATIC, name)), contentType: type });
    });
  }
  context.on('page', (page) => {
    page.on('pageerror', (error) => context.complaints.push(error.stack ?? error.message));
    page.on('dialog', (dialog) => {
      context.complaints.push(`a dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
  });
  return context;
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

export async function open(context, server, view, given, base) {
  const page = await context.newPage();
  await page.goto(address(server, view, given, base));
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

/** Fails if the page violates a rule of axe. */
export async function assertAccessible(page, what) {
  if (!(await page.evaluate(() => 'axe' in window))) await page.evaluate(axe.source);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  const violations = found.violations.map(
    ({ id, nodes }) =>
      `${id}: ${nodes
        .slice(0, 3)
        .map((node) => `${node.target} ${node.any.map((one) => one.message)}`)
        .join(' | ')}`,
  );
  assert.deepEqual(violations, [], what);
}

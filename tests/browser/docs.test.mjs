// The page of the HTTP API, in a real browser against the real server.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { visitor } from './dashboard.mjs';
import { KEY, openBrowser, Server } from './harness.mjs';

/** Opens the page, and waits for its operations. */
async function open(context, url) {
  const page = await context.newPage();
  await page.goto(url);
  await page.waitForSelector('.opblock');
  return page;
}

/** Sends the request of an operation by its buttons; returns the status and the body on the page. */
async function execute(page, id) {
  const operation = page.locator(`#operations-${id}`);
  await operation.locator('.opblock-summary-control').click();
  await operation.locator('.try-out__btn').click();
  await operation.locator('.execute').click();
  const live = operation.locator('.live-responses-table');
  const status = await live.locator('.response-col_status').last().innerText();
  return { status: status.trim(), body: await live.locator('.response-col_description pre').first().innerText() };
}

test('the page shows all operations and sends requests, under its policy and any base path', async (t) => {
  const browser = await openBrowser();
  t.after(() => browser.close());
  const server = await Server.start({ settings: { ECHOPILOT_BASE_PATH: '/analytics' } });
  t.after(() => server.stop());
  const context = await visitor(browser, { key: null });
  const requested = [];
  context.on('request', (request) => requested.push(request.url()));
  // The address has the base path.
  const page = await open(context, `${server.url}/docs/`);
  assert.equal(page.url(), `${server.url}/docs`);
  const { paths } = await (await fetch(`${server.url}/openapi.json`)).json();
  const documented = Object.values(paths).flatMap((item) => Object.keys(item));
  assert.equal(await page.locator('.opblock').count(), documented.length);

  const live = await execute(page, 'operation-health_live');
  assert.match(live.status, /^200/);
  assert.match(live.body, /"ok": true/);
  const without = await execute(page, 'queries-cohorts');
  assert.match(without.status, /^401/);
  await page.locator('.auth-wrapper .authorize').first().click();
  const field = page.locator('#api_key_value');
  await field.fill(KEY);
  await page.locator('.auth-container', { has: field }).locator('button.authorize').click();
  await page.locator('.btn-done').first().click();
  await page.locator('#operations-queries-cohorts .execute').click();
  await page.waitForFunction(() =>
    document.querySelector('#operations-queries-cohorts .live-responses-table')?.innerText.includes('"cohorts": []'),
  );

  assert.deepEqual(await page.evaluate(() => window.violations), []);
  assert.deepEqual(context.complaints, []);
  for (const url of requested) assert.ok(/^(data|blob):/.test(url) || url.startsWith(server.url), url);
  const { headers } = await fetch(`${server.url}/docs`);
  assert.ok(!/unsafe/.test(headers.get('content-security-policy')));
});

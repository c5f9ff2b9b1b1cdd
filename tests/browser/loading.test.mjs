// How the dashboard is loaded: few requests, few bytes, the first numbers before slow queries, and charts by part.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { address, demoServer, enterAs, getJson, open, panel, settled } from './dashboard.mjs';
import { openBrowser } from './harness.mjs';

/** Limits of a first visit: requests for files and of the API, and bytes as they are transferred. */
const REQUESTS = 12;
const BYTES = 300_000;

let browser;
let server;
before(async () => {
  [browser, server] = await Promise.all([openBrowser(), demoServer()]);
});
after(async () => {
  await browser.close();
  await server.stop();
});

const enter = (t, options) => enterAs(t, browser, options);

/** Files of a folder are sent without compression. */
const skip = Boolean(process.env.ECHOPILOT_TEST_STATIC);
test('a first visit needs few requests and few bytes', { skip }, async (t) => {
  const context = await enter(t);
  const page = await context.newPage();
  const network = await context.newCDPSession(page);
  await network.send('Network.enable');
  const requests = new Map();
  network.on('Network.requestWillBeSent', ({ requestId, request }) => {
    if (request.url.startsWith('http')) requests.set(requestId, { url: request.url, bytes: 0 });
  });
  network.on('Network.loadingFinished', ({ requestId, encodedDataLength }) => {
    const request = requests.get(requestId);
    if (request) request.bytes = encodedDataLength;
  });
  await page.goto(address(server, 'overview'));
  await settled(page);
  await page.waitForLoadState('networkidle');
  const all = [...requests.values()];
  const bytes = all.reduce((sum, request) => sum + request.bytes, 0);
  const list = all.map((request) => `${new URL(request.url).pathname} ${request.bytes}`).join(', ');
  t.diagnostic(`${all.length} requests, ${bytes} bytes: ${list}`);
  assert.ok(
    all.every((request) => request.bytes > 0),
    list,
  );
  assert.ok(all.length <= REQUESTS, list);
  assert.ok(bytes <= BYTES, list);
  assert.ok(!list.includes('more'), 'what other views need is not loaded');
});

test('the first numbers are shown before the slow queries have a result', async (t) => {
  const context = await enter(t);
  const page = await context.newPage();
  let release;
  const released = new Promise((resolve) => {
    release = resolve;
  });
  const sent = [];
  await page.route('**/api/analytics/quer*', async (route) => {
    const { queries, metric } = route.request().postDataJSON();
    const metrics = queries?.map((query) => query.metric) ?? [metric];
    sent.push(metrics);
    if (metrics.includes('feature_usage')) await released;
    await route.continue();
  });
  await page.goto(address(server, 'overview', { days: 20 }));
  const mau = page.locator('[data-card="mau"] [data-value]');
  await mau.waitFor();
  await panel(page, 'active-users').locator('canvas').waitFor();
  assert.equal(
    Number(await mau.getAttribute('data-value')),
    (await getJson(server, '/api/analytics/usage?days=20')).mau,
  );
  assert.equal(await panel(page, 'features').getAttribute('data-state'), 'loading');
  release();
  await settled(page);
  assert.equal(await panel(page, 'features').getAttribute('data-state'), 'ready');
  assert.deepEqual(sent[0].toSorted(), ['active_users', 'trends', 'trends']);
  assert.deepEqual(sent[1].toSorted(), ['event_types', 'feature_usage', 'trends']);
});

test('the query that fails does not affect the others of its request', async (t) => {
  const context = await enter(t);
  const page = await context.newPage();
  await page.route('**/api/analytics/queries', async (route) => {
    const { queries } = route.request().postDataJSON();
    const response = await route.fetch();
    const answer = await response.json();
    const place = queries.findIndex((query) => query.metric === 'active_users');
    if (place >= 0) answer.answers[place] = { ok: false, error: 'busy', message: 'all permits are in use' };
    await route.fulfill({ response, json: answer });
  });
  await page.goto(address(server, 'overview'));
  await settled(page);
  const state = (name) => panel(page, name).getAttribute('data-state');
  assert.deepEqual(await Promise.all(['active-users', 'trend', 'features', 'event-types'].map(state)), [
    'error',
    'ready',
    'ready',
    'ready',
  ]);
  assert.match(await panel(page, 'active-users').locator('[role="alert"]').textContent(), /all permits are in use/);
  // A single panel is asked again alone.
  await page.unroute('**/api/analytics/queries');
  await panel(page, 'active-users').getByRole('button', { name: 'Try again' }).click();
  await panel(page, 'active-users').locator('canvas').waitFor();
});

test('other kinds of charts are loaded by the first view that draws them', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'overview');
  const loaded = [];
  page.on('request', (request) => loaded.push(new URL(request.url()).pathname));
  await page.locator('[data-view="stickiness"]').click();
  await panel(page, 'stickiness').waitFor();
  await settled(page);
  assert.ok(!loaded.includes('/static/more-charts.js'));
  for (const view of ['retention', 'paths']) {
    await page.locator(`[data-view="${view}"]`).click();
    await panel(page, view).waitFor();
    await settled(page);
    assert.ok((await page.locator('canvas').count()) > 0, view);
  }
  assert.equal(loaded.filter((path) => path === '/static/more-charts.js').length, 1);
});

test('the features and the bars of the overview open what they count', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'overview');
  const first = panel(page, 'features').locator('li').first();
  const name = await first.locator('.name').textContent();
  const events = await first.getAttribute('data-feature-events');
  // The bar, not only the name.
  await first.scrollIntoViewIfNeeded();
  const bar = await first.locator('.rank-bar').boundingBox();
  await page.mouse.click(bar.x + bar.width / 2, bar.y + bar.height / 2);
  await page.waitForURL(/filter=/);
  await settled(page);
  assert.deepEqual(await page.locator('.chip').allTextContents(), [`feature is ${name}`]);
  const total = () => page.locator('[data-card="events"] [data-value]').getAttribute('data-value');
  assert.equal(await total(), events);
  const rows = await page.evaluate(() => document.querySelector('[data-panel="event-types"]').panel.last.rows);
  const actions = rows.find((row) => row.event_type === 'action').events;
  // The events of the second of three types: left of the middle, above the names.
  const canvas = panel(page, 'event-types').locator('canvas');
  await canvas.scrollIntoViewIfNeeded();
  const chart = await canvas.boundingBox();
  await page.mouse.click(chart.x + chart.width / 2 - 20, chart.y + chart.height - 60);
  await page.waitForURL(/event_type/);
  await settled(page);
  assert.equal(Number(await total()), actions);
  assert.deepEqual(JSON.parse(new URLSearchParams(page.url().split('?')[1]).get('filter')), {
    feature: name,
    event_type: 'action',
  });
  await page.goBack();
  await page.goBack();
  await page.locator('.chip').first().waitFor({ state: 'detached' });
  await settled(page);
});

// The dashboard in Firefox, by WebDriver BiDi: every view shows the numbers of the API, and its controls work.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import puppeteer from 'puppeteer-core';
import { ask, assertTable, demoServer, getJson, ownFile, post } from './dashboard.mjs';
import { KEY, LAUNCH_MS, PATIENCE_MS, until } from './harness.mjs';

const FIREFOX = process.env.FIREFOX ?? '/usr/bin/firefox-esr';

let browser;
let server;
before(async () => {
  [browser, server] = await Promise.all([
    puppeteer.launch({ browser: 'firefox', executablePath: FIREFOX, headless: true, timeout: LAUNCH_MS }),
    demoServer(),
  ]);
});
after(async () => {
  await browser.close();
  await server.stop();
});

/** Opens the dashboard with its key in a new tab. */
async function enter(t) {
  const page = await browser.newPage();
  const complaints = [];
  page.setDefaultTimeout(PATIENCE_MS);
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  await page.setViewport({ width: 1280, height: 900 });
  if (process.env.ECHOPILOT_TEST_STATIC) {
    await page.setRequestInterception(true);
    page.on('request', async (request) => {
      const file = await ownFile(request.url());
      if (file) request.respond(file);
      else request.continue();
    });
  }
  await page.goto(`${server.url}/`);
  await page.waitForSelector('#key');
  await page.type('#key', KEY);
  await page.keyboard.press('Enter');
  await settled(page, 'Overview');
  t.after(async () => {
    await page.close();
    assert.deepEqual(complaints, []);
  });
  return page;
}

/** Waits until a view is shown, and every panel of it has a result. */
const settled = (page, title) =>
  page.waitForFunction(
    (wanted) => {
      const panels = [...document.querySelectorAll('[data-panel]')];
      const isDone = (panel) =>
        ['ready', 'empty', 'error'].includes(panel.dataset.state) &&
        !panel.hasAttribute('aria-busy') &&
        (!panel.querySelector('.canvas') || panel.querySelector('canvas'));
      return document.querySelector('h1')?.textContent === wanted && panels.length > 0 && panels.every(isDone);
    },
    {},
    title,
  );

async function show(page, title, view, given = {}) {
  const search = new URLSearchParams(Object.entries(given).map(([name, value]) => [name, JSON.stringify(value)]));
  const hash = `#/${view}?${search}`;
  await page.evaluate((next) => {
    location.hash = next;
  }, hash);
  await settled(page, title);
}

/** Returns the request that a panel shows, and the numbers of its table, by its buttons. */
const readPanel = (page, name) =>
  page.evaluate((panelName) => {
    const panel = document.querySelector(`[data-panel="${panelName}"]`);
    panel.querySelector('[data-tool="request"]').click();
    const dialog = document.querySelector('dialog[open]');
    const question = JSON.parse(dialog.querySelector('[data-request="json"]').textContent);
    dialog.close();
    panel.querySelector('[data-tool="table"]').click();
    const rows = [...panel.querySelectorAll('tbody tr')].map((row) =>
      [...row.children].map((cell) =>
        cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value),
      ),
    );
    panel.querySelector('[data-tool="table"]').click();
    return { question, rows };
  }, name);

const STEPS = [{ feature: 'dashboard' }, { feature: 'reports' }, { event_type: 'conversion' }];
const VIEWS = [
  ['Overview', 'overview', { days: 30 }, ['active-users', 'event-types']],
  ['Lifecycle', 'lifecycle', { days: 28 }, ['lifecycle']],
  ['Stickiness', 'stickiness', { days: 14, filter: { event_type: 'action' } }, ['stickiness']],
  ['Funnel', 'funnel', { q: { steps: STEPS } }, ['funnel']],
  ['Retention', 'retention', { days: 56 }, ['retention']],
  ['Paths', 'paths', { days: 30 }, ['paths']],
  [
    'Experiments',
    'experiments',
    {
      days: 60,
      q: { exposure: { event_type: 'page_view' }, variant: 'plan', goal: { event_type: 'conversion' } },
    },
    ['experiment'],
  ],
];

test('every view shows the numbers of the API in Firefox', async (t) => {
  const page = await enter(t);
  for (const [title, view, given, panels] of VIEWS) {
    await show(page, title, view, given);
    for (const name of panels) {
      const { question, rows } = await readPanel(page, name);
      const answer = await ask(server, question);
      assert.ok(answer.rows.length > 0);
      assertTable(rows, answer.rows, `${view}: ${name}`);
    }
    await until(`the charts of ${view}`, () =>
      page.evaluate(() =>
        [...document.querySelectorAll('canvas')].every((canvas) =>
          canvas
            .getContext('2d')
            .getImageData(0, 0, canvas.width, canvas.height)
            .data.some((byte) => byte > 0),
        ),
      ),
    );
  }
  await show(page, 'Overview', 'overview', { days: 14 });
  const { total_events: events, mau } = await getJson(server, '/api/analytics/usage?days=14');
  const value = (card) => page.$eval(`[data-card="${card}"] [data-value]`, (one) => Number(one.dataset.value));
  assert.deepEqual([await value('events'), await value('mau')], [events, mau]);
  await show(page, 'Engine', 'engine');
  const { store } = await getJson(server, '/api/analytics/status');
  assert.equal(
    await page.$eval('[data-card="events"]', (one) => Number(one.dataset.value)),
    store.sealed_events + store.log_events,
  );
});

test('a filter, a period and live events work in Firefox', async (t) => {
  const page = await enter(t);
  await show(page, 'Stickiness', 'stickiness');
  await page.click('[data-pick="filter"]');
  await page.waitForSelector('[aria-label="Condition 1: value"]', { visible: true });
  await page.type('[aria-label="Condition 1: value"]', 'reports');
  await page.keyboard.press('Enter');
  await page.type('[aria-label="Condition 1: value"]', 'in, box');
  await page.click('.popover:popover-open .button.primary');
  await page.waitForFunction(() => location.hash.includes('reports'));
  await settled(page, 'Stickiness');
  assert.deepEqual(await page.$$eval('.picker > .chip', (found) => found.map((chip) => chip.textContent)), [
    'feature is reports or in, box',
  ]);
  await page.click('[data-pick="days"]');
  await page.waitForSelector('.popover:popover-open .presets', { visible: true });
  await page.click('.popover:popover-open .presets .preset');
  await page.waitForFunction(() => location.hash.includes('days=7'));
  await settled(page, 'Stickiness');
  const { question, rows } = await readPanel(page, 'stickiness');
  assert.deepEqual(question.filter, { feature: ['reports', 'in, box'] });
  assertTable(rows, (await ask(server, question)).rows, 'filtered');
  await show(page, 'Live', 'live');
  await page.waitForSelector('[data-live="on"]');
  await post(server, [{ event_type: 'action', user_id: 'u', feature: 'from <b>Firefox</b>' }]);
  await until('the event', () =>
    page.$$eval('.live-table .name', (found) => found.some((one) => one.textContent === 'from <b>Firefox</b>')),
  );
});

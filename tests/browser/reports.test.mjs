// Reports: saving, boards, share links, annotations and alerts.
import assert from 'node:assert/strict';
import http from 'node:http';
import { after, before, beforeEach, test } from 'node:test';
import {
  assertAccessible,
  assertAccessibleInBoth,
  demoServer,
  enterAs,
  getJson,
  open,
  panel,
  requestOf,
  settled,
  tableOf,
} from './dashboard.mjs';
import { KEY, openBrowser } from './harness.mjs';

let browser;
let server;
before(async () => {
  [browser, server] = await Promise.all([openBrowser(), demoServer({ ECHOPILOT_WEBHOOK_ALLOW: '127.0.0.1' })]);
});
after(async () => {
  await browser.close();
  await server.stop();
});

const call = async (method, path, body) => {
  const response = await fetch(`${server.url}/api/analytics/${path}`, {
    method,
    headers: { 'Content-Type': 'application/json', 'X-Dash-Key': KEY },
    body: body && JSON.stringify(body),
  });
  const answer = await response.json();
  assert.equal(response.status, 200, answer.message);
  return answer;
};
const stored = async () => (await getJson(server, '/api/analytics/reports')).reports;

beforeEach(async () => {
  const all = await stored();
  for (const { id } of all.toSorted((a) => (a.kind === 'board' ? -1 : 1))) await call('DELETE', `reports/${id}`);
  for (const { id } of (await getJson(server, '/api/analytics/annotations')).annotations)
    await call('DELETE', `annotations/${id}`);
});

const enter = (t, options) => enterAs(t, browser, options);

const Q = { grain: 'week' };

async function saveReport(page, name, { board } = {}) {
  await page.locator('[data-action="save"]').click();
  const dialog = page.getByRole('dialog', { name: 'Save this view' });
  await dialog.getByLabel('Name').fill(name);
  if (board) await dialog.getByLabel('Put on a board').selectOption({ label: board });
  await dialog.getByRole('button', { name: 'Save' }).click();
  await dialog.waitFor({ state: 'detached' });
}

test('a view is saved with its state and its exact queries, opened, replaced and restored', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'lifecycle', {
    days: 21,
    tz: 'Asia/Tokyo',
    filter: { feature: ['inbox', 'search'] },
    q: Q,
  });
  const { question } = await requestOf(page, 'lifecycle');
  const rows = await tableOf(page, 'lifecycle');
  await saveReport(page, 'Plan: active users');
  const [report] = await stored();
  assert.deepEqual(
    [report.id, report.kind, report.view, report.version],
    ['plan-active-users', 'report', 'lifecycle', 1],
  );
  assert.deepEqual(report.queries, [question]);
  const list = await open(context, server, 'reports');
  await list.getByRole('link', { name: 'Plan: active users' }).click();
  const shown = list.locator('[data-panel="plan-active-users-lifecycle"][data-state="ready"]');
  await shown.waitFor();
  await settled(list);
  assert.deepEqual(await tableOf(list, 'plan-active-users-lifecycle'), rows);
  await list.locator('[data-action="open"]').click();
  await list.locator('[data-panel="lifecycle"]').waitFor();
  await settled(list);
  assert.deepEqual((await requestOf(list, 'lifecycle')).question, question);
  // Under the same name it replaces the report, and the earlier version can be restored.
  await list.getByRole('button', { name: 'Month' }).click();
  await list.waitForURL(/month/);
  await settled(list);
  await saveReport(list, 'Plan: active users');
  const [changed] = await stored();
  assert.deepEqual([changed.version, changed.queries[0].grain], [2, 'month']);
  const opened = await open(context, server, 'reports', { q: { id: 'plan-active-users' } });
  await opened.getByRole('button', { name: 'Earlier versions' }).click();
  await opened.getByRole('button', { name: 'Restore version 1' }).click();
  await opened.getByText('Version 3').waitFor();
  assert.deepEqual((await stored())[0].queries, [question]);
});

test('reports are duplicated, renamed and deleted', async (t) => {
  const context = await enter(t);
  await saveReport(await open(context, server, 'stickiness'), 'How often');
  const page = await open(context, server, 'reports');
  await page.getByRole('button', { name: 'Duplicate How often' }).click();
  await page.locator('[data-saved="how-often-copy"]').waitFor();
  await page.getByRole('link', { name: 'How often (copy)' }).click();
  await page.getByRole('button', { name: 'Rename' }).click();
  await page.getByRole('dialog').getByLabel('Name').fill('Another');
  await page.getByRole('dialog').getByLabel('Description').fill('Why');
  await page.getByRole('dialog').getByRole('button', { name: 'Save' }).click();
  await page.getByText('Version 2').waitFor();
  const copy = (await stored()).find(({ id }) => id === 'how-often-copy');
  assert.deepEqual([copy.name, copy.description], ['Another', 'Why']);
  await settled(page);
  await page.locator('.report-actions').getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await page.locator('[data-panel="saved"][data-state="ready"]').waitFor();
  assert.deepEqual(
    (await stored()).map(({ id }) => id),
    ['how-often'],
  );
});

test('a board shows several reports, which can be ordered and taken off', async (t) => {
  const context = await enter(t);
  await saveReport(await open(context, server, 'lifecycle', { q: Q }), 'First');
  const page = await open(context, server, 'reports');
  await page.getByRole('button', { name: 'New board' }).click();
  await page.getByRole('dialog').getByLabel('Name').fill('Monday');
  await page.getByRole('dialog').getByRole('button', { name: 'Create' }).click();
  await page.getByLabel('Add a report').selectOption('first');
  await page.locator('[data-report="first"] [data-state="ready"]').waitFor();
  await saveReport(await open(context, server, 'stickiness', { days: 30 }), 'Second', { board: 'Monday' });
  const items = async () => (await stored()).find(({ id }) => id === 'monday').items;
  assert.deepEqual(await items(), ['first', 'second']);
  const board = await open(context, server, 'reports', { q: { id: 'monday' } });
  await board.locator('[data-report="second"] [data-state="ready"]').first().waitFor();
  await settled(board);
  const order = () => board.locator('[data-report]').evaluateAll((found) => found.map((one) => one.dataset.report));
  assert.deepEqual(await order(), ['first', 'second']);
  assert.equal(await board.locator('[data-report] .segments').count(), 0, 'a board changes no report');
  await assertAccessible(board, 'board');
  await board.getByRole('button', { name: 'Move Second up' }).click();
  await board.locator('[data-report="second"]:first-child').waitFor();
  assert.deepEqual(await items(), ['second', 'first']);
  await board.getByRole('button', { name: 'Take First off the board' }).click();
  await board.locator('[data-report="first"]').waitFor({ state: 'detached' });
  assert.deepEqual(await items(), ['second']);
});

test('a share link opens without the key, shows only its report, and can be revoked', async (t) => {
  const context = await enter(t);
  const view = await open(context, server, 'lifecycle', { days: 14, q: Q });
  const rows = await tableOf(view, 'lifecycle');
  await saveReport(view, 'For the board');
  const page = await open(context, server, 'reports', { q: { id: 'for-the-board' } });
  await page.locator('[data-action="share"]').click();
  const dialog = page.getByRole('dialog', { name: 'Share For the board' });
  await dialog.getByLabel('Days until it expires').fill('7');
  await dialog.getByLabel('Origins whose pages may embed it').fill('https://wiki.example.com');
  await dialog.getByRole('button', { name: 'Create a link' }).click();
  const link = await dialog.locator('[data-link-text="link"]').textContent();
  assert.match(await dialog.locator('[data-link-text="embed"]').textContent(), /^<iframe src="http/);
  await dialog.locator('[data-link]').waitFor();
  await assertAccessible(page, 'share');
  const visitorContext = await enter(t, { key: null });
  const guest = await visitorContext.newPage();
  const requests = [];
  guest.on('request', (request) => requests.push(request));
  guest.on('response', (response) => assert.ok(response.status() < 400, `${response.status()} ${response.url()}`));
  await guest.goto(link);
  await guest.locator('[data-panel="for-the-board-lifecycle"][data-state="ready"]').waitFor();
  await settled(guest);
  assert.deepEqual(await tableOf(guest, 'for-the-board-lifecycle'), rows);
  assert.equal(
    await guest.locator('nav:visible, [data-action], .segments, dialog').count(),
    0,
    'nothing can be changed',
  );
  for (const request of requests)
    assert.ok(!request.url().includes(link.split('token=')[1].slice(0, 20)), request.url());
  await assertAccessible(guest, 'shared report');
  assert.deepEqual(await guest.evaluate(() => window.violations), []);
  await dialog.getByRole('button', { name: 'Revoke' }).click();
  await dialog.getByText('There is no valid link').waitFor();
  const late = await visitorContext.newPage();
  await late.goto(link);
  await late.getByText('This link is not valid').waitFor();
  assert.equal(await late.locator('dialog, [data-panel]').count(), 0);
});

test('a shared overview shows all of its panels', async (t) => {
  const context = await enter(t);
  const { last_day: last } = await getJson(server, '/api/analytics/status');
  for (const given of [
    { days: 28 },
    { from: last, to: last, q: Q },
    { period: 'last_week', filter: { feature: 'inbox' } },
  ]) {
    const view = await open(context, server, 'overview', given);
    const names = ['active-users', 'trend', 'features', 'event-types'];
    const rows = await Promise.all(names.map((name) => rowsOf(view, name)));
    await saveReport(view, 'The overview');
    const { link } = await call('POST', 'reports/the-overview/links', { expires_in_days: 1 });
    const guest = await (await enter(t, { key: null })).newPage();
    guest.on('response', (response) => assert.ok(response.status() < 400, `${response.status()} ${response.url()}`));
    await guest.goto(`${server.url}${link.path}`);
    await guest.locator('[data-panel="the-overview-features"]').waitFor();
    await settled(guest);
    const states = await guest
      .locator('[data-panel]')
      .evaluateAll((found) => found.map((one) => `${one.dataset.panel} ${one.dataset.state}`));
    assert.deepEqual(
      states,
      ['usage', ...names].map((name) => `the-overview-${name} ready`),
      JSON.stringify(given),
    );
    assert.equal(await guest.locator('[data-panel] a').count(), 0, 'nothing leads out of the report');
    assert.deepEqual(await Promise.all(names.map((name) => rowsOf(guest, `the-overview-${name}`))), rows);
    assert.deepEqual(await guest.evaluate(() => window.violations), []);
    await view.close();
    await guest.close();
  }
});

/** The rows of a panel; of a day that is not over without what the passing time changes. */
const rowsOf = (page, name) =>
  page.evaluate(
    (panelName) =>
      document
        .querySelector(`[data-panel="${panelName}"]`)
        .panel.last.rows.map(({ previous: _, change: __, ...row }) => row),
    name,
  );

test('a shared board shows its reports and the annotations', async (t) => {
  const context = await enter(t);
  await saveReport(await open(context, server, 'lifecycle', { q: Q }), 'One');
  await saveReport(await open(context, server, 'stickiness'), 'Two');
  const today = new Date().toISOString().slice(0, 10);
  await call('PUT', 'annotations/a', { date: today, text: 'Release <b>2</b>' });
  await call('PUT', 'reports/both', { kind: 'board', name: 'Both', items: ['two', 'one'] });
  const { link } = await call('POST', 'reports/both/links', { expires_in_days: 1 });
  const guest = await (await enter(t, { key: null })).newPage();
  await guest.goto(`${server.url}${link.path}`);
  for (const name of ['one-lifecycle', 'two-stickiness'])
    await guest.locator(`[data-panel="${name}"][data-state="ready"]`).waitFor();
  await settled(guest);
  assert.deepEqual(await guest.locator('h2').allInnerTexts(), [
    'Two',
    'Days active',
    'Daily / 30-day users',
    'One',
    'Lifecycle',
  ]);
  assert.deepEqual(await guest.locator('[data-annotation] bdi').allInnerTexts(), [
    'Release <b>2</b>',
    'Release <b>2</b>',
  ]);
});

test('an annotation is in every chart over time', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'reports', { q: { tab: 'notes' } });
  await page.getByRole('button', { name: 'New annotation' }).click();
  const dialog = page.getByRole('dialog', { name: 'New annotation' });
  const { last_day: last } = await getJson(server, '/api/analytics/status');
  const text = '<img src=x onerror="window.ran=1"> 2.0';
  await dialog.getByLabel('What happened').fill(text);
  await dialog.getByLabel('Day', { exact: true }).fill(last);
  await dialog.getByRole('button', { name: 'Save' }).click();
  await page.locator('[data-annotation]').waitFor();
  await assertAccessible(page, 'annotations');
  for (const [view, name] of [
    ['overview', 'active-users'],
    ['lifecycle', 'lifecycle'],
    ['trends', 'trends'],
    ['web', 'web-visits'],
  ]) {
    const shown = await open(context, server, view);
    const note = panel(shown, name).locator('[data-annotation]');
    await note.waitFor();
    assert.ok((await note.innerText()).includes(text), view);
    const at = await shown.evaluate((panelName) => {
      const { option, rows } = document.querySelector(`[data-panel="${panelName}"]`).panel.last;
      const look = { series: [1, 2, 3, 4, 5, 6, 7, 8].map(String), heat: [] };
      const { xAxis, series } = option(look);
      const lines = series.flatMap(({ markLine }) => markLine?.data ?? []);
      return lines.map((line) => (xAxis.data ?? rows.map(({ period }) => period))[line.xAxis]);
    }, name);
    assert.deepEqual(at, [last], view);
    await shown.close();
  }
  await page.getByRole('button', { name: /^Change/ }).click();
  await page.getByRole('dialog').getByLabel('What happened').fill('Other');
  await page.getByRole('dialog').getByRole('button', { name: 'Save' }).click();
  await page.locator('[data-annotation]', { hasText: 'Other' }).waitFor();
  assert.equal((await getJson(server, '/api/analytics/annotations')).annotations.length, 1);
  await page.getByRole('button', { name: 'Delete Other' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await page.locator('[data-panel="annotations"][data-state="empty"]').waitFor();
  assert.equal(await page.evaluate(() => window.ran), undefined);
});

test('an alert is created, tested and deleted, and a digest too', async (t) => {
  const received = [];
  const hook = http.createServer(async (request, response) => {
    received.push(JSON.parse(Buffer.concat(await request.toArray()).toString()));
    response.end();
  });
  await new Promise((resolve) => {
    hook.listen(0, '127.0.0.1', resolve);
  });
  t.after(() => hook.close());
  const context = await enter(t);
  const page = await open(context, server, 'reports', { q: { tab: 'alerts' } });
  const name = '<img src=x onerror="window.ran=1"> few users';
  await page.getByRole('button', { name: 'New alert' }).click();
  const dialog = page.getByRole('dialog', { name: 'New alert' });
  await dialog.getByLabel('Name').fill(name);
  await dialog.getByLabel('Number').selectOption({ label: 'Users of a day' });
  await dialog.getByLabel('Condition', { exact: true }).selectOption({ label: 'falls by at least, in %' });
  await dialog.getByLabel('Limit').fill('25');
  await dialog.getByLabel('Send to').fill('ftp://nowhere');
  await assertAccessible(page, 'new alert');
  await dialog.getByRole('button', { name: 'Create' }).click();
  await dialog.getByRole('alert').filter({ hasText: 'to[0]' }).waitFor();
  await dialog.getByLabel('Send to').fill(`http://127.0.0.1:${hook.address().port}/hook`);
  await dialog.getByRole('button', { name: 'Create' }).click();
  const item = page.locator('[data-alert]');
  await item.waitFor();
  const { alerts } = await getJson(server, '/api/analytics/alerts');
  assert.deepEqual(alerts[0].when, { changes_by: -0.25, against: '7 days before' });
  assert.deepEqual(alerts[0].query, { metric: 'active_users', days: 1 });
  await page.getByRole('button', { name: `Test ${name}` }).click();
  await page.getByText(/^Sent: the number is \d+/).waitFor();
  assert.equal(received.length, 1);
  assert.ok(JSON.stringify(received[0]).includes('few users'));
  await settled(page);
  await page.getByRole('button', { name: 'Weekly digest' }).click();
  await page.getByRole('dialog').getByLabel('Send to').fill(`http://127.0.0.1:${hook.address().port}/digest`);
  await page.getByRole('dialog').getByRole('button', { name: 'Create' }).click();
  await page.locator('[data-alert="weekly-digest"]').waitFor();
  for (const label of [`Delete ${name}`, 'Delete Weekly digest']) {
    await page.getByRole('button', { name: label }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await page.getByRole('dialog').waitFor({ state: 'detached' });
  }
  await page.locator('[data-panel="number-alerts"][data-state="empty"]').waitFor();
  assert.equal(await page.evaluate(() => window.ran), undefined);
});

test('reports are accessible', async (t) => {
  const context = await enter(t);
  await saveReport(
    await open(context, server, 'lifecycle'),
    '<img src=x onerror="window.ran=1"> \u202egnp.exe'.padEnd(190, 'x'),
  );
  const [{ id }] = await stored();
  for (const q of [{}, { id }, { tab: 'notes' }, { tab: 'alerts' }]) {
    const page = await open(context, server, 'reports', { q });
    if (q.id) await page.locator(`[data-panel="${id}-lifecycle"][data-state="ready"]`).waitFor();
    for (const width of [390, 1024, 1440]) {
      await page.setViewportSize({ width, height: 900 });
      await assertAccessibleInBoth(page, `${JSON.stringify(q)} at ${width}`);
      const over = await page.evaluate(
        () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
      );
      assert.equal(over, 0, `${JSON.stringify(q)} at ${width}`);
    }
    assert.equal(await page.evaluate(() => window.ran), undefined);
    assert.ok(!/\u202e/u.test(await page.evaluate(() => document.body.innerText)));
    await page.close();
  }
});

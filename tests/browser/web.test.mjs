// The view of a site: visits, sources, pages and devices are those of the API, and what is missing says what to send.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import {
  ask,
  assertAccessible,
  assertAccessibleInBoth,
  demoServer,
  enterAs,
  open,
  panel,
  post,
  requestOf,
  settled,
  tableOf,
} from './dashboard.mjs';
import { openBrowser, Server } from './harness.mjs';

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

const sum = (rows, name) => rows.reduce((all, row) => all + row[name], 0);

for (const given of [{ days: 60 }, { days: 20, tz: 'Europe/Berlin', filter: { 'metadata.platform': 'web' } }]) {
  test(`visits, bounces and lists are those of the API: ${JSON.stringify(given)}`, async (t) => {
    const context = await enter(t);
    const page = await open(context, server, 'web', given);
    const card = async (name) =>
      Number(await page.locator(`[data-card="${name}"] [data-value]`).getAttribute('data-value'));
    const numbers = await requestOf(page, 'web-numbers');
    assert.deepEqual(numbers.question.filter, given.filter);
    const { totals } = await ask(server, numbers.question);
    const total = (series) => totals.find((one) => one.series === series);
    assert.equal(await card('users'), total('A').value);
    assert.equal(await card('views'), total('B').value);
    const visits = await requestOf(page, 'web-visits');
    const answer = await ask(server, visits.question);
    const [all] = answer.totals;
    assert.equal(await card('sessions'), all.sessions);
    assert.equal(sum(answer.rows, 'sessions'), all.sessions, 'a visit is counted once');
    assert.equal(await card('bounce'), all.bounces / all.sessions);
    assert.equal(await card('duration'), all.seconds.median);
    for (const name of ['sources', 'campaigns', 'entries', 'exits', 'devices', 'countries']) {
      const { question } = await requestOf(page, name);
      assert.equal(question.breakdown_of, name === 'exits' ? 'last' : undefined);
      const list = await ask(server, question);
      const expected = list.totals.map(({ sessions }) => sessions).filter(Boolean);
      const shown = await panel(page, name)
        .locator('tbody tr')
        .evaluateAll((found) => found.map((row) => Number(row.querySelector('[data-value]').dataset.value)));
      const descending = (numbers) => [...numbers].sort((a, b) => b - a);
      const isMissing = list.totals.every(({ kind, sessions }) => kind === 'missing' || !sessions);
      assert.deepEqual(descending(shown), isMissing ? [] : descending(expected), name);
      assert.equal(sum(list.totals, 'sessions'), all.sessions, `${name}: every visit is in one group`);
    }
    const pages = await ask(server, (await requestOf(page, 'pages')).question);
    const shown = (await tableOf(page, 'pages')).map((cells) => cells.filter((cell) => typeof cell === 'number')[0]);
    assert.deepEqual(
      shown.sort((a, b) => b - a),
      pages.totals
        .filter(({ series, value }) => series === 'A' && value > 0)
        .map(({ value }) => value)
        .sort((a, b) => b - a),
    );
    assert.deepEqual(await page.evaluate(() => window.violations), []);
  });
}

test('a list can be grouped by another property, which the address holds', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'web', { days: 60 });
  await panel(page, 'campaigns').getByRole('button', { name: 'Medium' }).click();
  await page.waitForURL(/utm_medium/);
  await settled(page);
  assert.equal((await requestOf(page, 'campaigns')).question.breakdown, 'metadata.utm_medium');
});

test('what is missing says what to send', async (t) => {
  const own = await Server.start();
  t.after(() => own.stop());
  await post(own, [
    { event_type: 'page_view', user_id: 'u', feature: 'home' },
    { event_type: 'page_view', feature: 'home' },
  ]);
  const context = await enter(t);
  const page = await open(context, own, 'web', { days: 2 });
  for (const [name, key] of [
    ['sources', 'referrer'],
    ['campaigns', 'utm_source'],
    ['devices', 'platform'],
    ['countries', 'country'],
  ]) {
    const text = await panel(page, name).innerText();
    assert.match(text, new RegExp(`No event has ${key}`));
    assert.match(text, new RegExp(`EchoPilot.track\\('page_view'.*${key}`, 's'));
  }
  assert.match(await panel(page, 'entries').innerText(), /home/);
  await assertAccessible(page, 'what is missing');
});

test('hostile names of pages and sources run no script and break no layout', async (t) => {
  const own = await Server.start();
  t.after(() => own.stop());
  const names = ['<img src=x onerror="window.ran=1">', '__proto__', '\u202egnp.exe', 'x'.repeat(200)];
  await post(
    own,
    names.map((name, place) => ({
      event_type: 'page_view',
      user_id: `u${place}`,
      feature: name,
      metadata: { referrer: name, utm_source: name, platform: name, country: name },
    })),
  );
  const context = await enter(t);
  const page = await open(context, own, 'web', { days: 2 });
  for (const name of ['sources', 'campaigns', 'pages', 'entries', 'devices', 'countries'])
    assert.equal(await panel(page, name).locator('tbody tr').count(), names.length, name);
  assert.equal(await page.evaluate(() => window.ran), undefined);
  assert.equal(await page.locator('[onerror], body script').count(), 0);
  assert.ok(!/\u202e/u.test(await page.evaluate(() => document.body.innerText)));
  for (const width of [390, 1024]) {
    await page.setViewportSize({ width, height: 800 });
    assert.equal(
      await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth),
      0,
    );
  }
});

test('the view of a site is accessible', async (t) => {
  const page = await open(await enter(t), server, 'web', { days: 60 });
  for (const width of [390, 1024, 1440]) {
    await page.setViewportSize({ width, height: 900 });
    await assertAccessibleInBoth(page, `at ${width}`);
  }
});

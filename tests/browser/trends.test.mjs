// The view of trends: its numbers are those of the API, and its builder makes the query.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import {
  ask,
  assertAccessibleInBoth,
  assertTable,
  compared,
  demoServer,
  enterAs,
  open,
  panel,
  post,
  requestOf,
  settled,
  tableOf,
} from './dashboard.mjs';
import { KEY, openBrowser, Server, until } from './harness.mjs';

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

const USERS = [{ measure: 'users', filter: { event_type: 'action' } }];

for (const [given, expected] of [
  [{}, { series: [{ measure: 'events' }], grain: 'day' }],
  [{ days: 2 }, { grain: 'hour' }],
  [{ q: { series: USERS, grain: 'week', compare: 'previous' } }, { series: USERS, compare: 'previous' }],
  [
    { days: 14, q: { series: USERS, breakdown: 'metadata.plan', limit: 5, type: 'stacked' } },
    { breakdown: 'metadata.plan', limit: 5 },
  ],
  [
    {
      tz: 'Asia/Tokyo',
      filter: { 'metadata.platform': 'web' },
      q: { series: [{ measure: 'events' }, { measure: 'users' }], formula: 'A / B', type: 'bar', rolling: 7 },
    },
    { formula: 'A / B', rolling: 7 },
  ],
]) {
  test(`trends show the result of the API: ${JSON.stringify(given)}`, async (t) => {
    const context = await enter(t);
    const page = await open(context, server, 'trends', given);
    const { question } = await requestOf(page, 'trends');
    for (const [name, value] of Object.entries(expected)) assert.deepEqual(question[name], value, name);
    assert.equal(question.days, given.days ?? 30);
    assert.deepEqual(question.filter, given.filter);
    await compared(page, async () => {
      const { rows } = await ask(server, question);
      assert.ok(rows.length > 0);
      assertTable(await tableOf(page, 'trends'), rows, 'trends');
    });
    assert.deepEqual(await page.evaluate(() => window.violations), []);
  });
}

test('numbers and totals are those of the window, not sums of its periods', async (t) => {
  const context = await enter(t);
  const q = { series: [{ measure: 'users' }], breakdown: 'metadata.plan', compare: 'previous' };
  const page = await open(context, server, 'trends', { q: { ...q, type: 'number' } });
  const { question } = await requestOf(page, 'trends');
  const shown = (name) =>
    page
      .locator(`[data-line] [${name}]`)
      .evaluateAll((found, key) => found.map((one) => Number(one.getAttribute(key))), name);
  const { totals, rows } = await compared(page, async () => {
    const answer = await ask(server, question);
    assert.deepEqual(
      await shown('data-value'),
      answer.totals.map(({ value }) => value),
    );
    assert.deepEqual(
      await shown('data-delta'),
      answer.totals.filter(({ previous }) => previous).map(({ value, previous }) => value / previous - 1),
    );
    return answer;
  });
  const sum = rows.filter((row) => row.breakdown === totals[0].breakdown).reduce((all, { value }) => all + value, 0);
  assert.ok(totals[0].value < sum, 'users of several days are counted once');
  await page.getByLabel('Kind of chart').selectOption('table');
  await settled(page);
  await compared(page, async () => {
    const cells = await panel(page, 'trends')
      .locator('tbody tr')
      .evaluateAll((found) =>
        found.map((row) => [...row.querySelectorAll('[data-value]')].map((one) => Number(one.dataset.value))),
      );
    const answer = await ask(server, question);
    assert.deepEqual(
      cells.map(([value, previous]) => [value, previous]),
      answer.totals.map(({ value, previous }) => [value, previous]),
    );
  });
});

/** The series of the chart on the screen, without its colours. */
const drawn = (page) =>
  page.evaluate(() => {
    const look = { series: [1, 2, 3, 4, 5, 6, 7, 8].map(String), heat: [] };
    return document
      .querySelector('[data-panel="trends"]')
      .panel.last.option(look)
      .series.map(({ data, type, lineStyle, stack, name }) => ({
        name,
        type,
        stack,
        dashes: lineStyle?.type,
        data: data.map((point) => point?.value ?? point),
        pale: data.filter((point) => point?.itemStyle?.opacity).length,
      }));
  });

test('what is not over is dashed or pale, and the comparison is a line of its own', async (t) => {
  const context = await enter(t);
  const q = { compare: 'previous', grain: 'week' };
  const page = await open(context, server, 'trends', { days: 30, q });
  const { question } = await requestOf(page, 'trends');
  const answer = await compared(page, async () => {
    const asked = await ask(server, question);
    const { rows } = asked;
    const lines = await drawn(page);
    const cut = rows.flatMap((row, place) => (row.partial ? [place] : []));
    assert.ok(cut.length > 0);
    for (const place of cut) assert.equal(lines[0].data[place], null, 'the solid line ends before it');
    for (const place of cut)
      assert.ok(
        lines.some(({ dashes, data }) => dashes && data[place] === rows[place].value),
        `period ${place} is dashed`,
      );
    assert.deepEqual(
      lines.at(-1).data,
      rows.map(({ previous }) => previous),
    );
    return asked;
  });
  const notes = await panel(page, 'trends').locator('.notes').innerText();
  assert.match(notes, /Compared with .*dotted/);
  assert.match(notes, /Incomplete and dashed: Week of/);
  assert.ok(answer.compared.from < answer.rows[0].period);
  // A tip names the period, that it is not over, and the number before.
  const canvas = await page.locator('[data-panel="trends"] canvas').first().boundingBox();
  await page.mouse.move(canvas.x + canvas.width - 60, canvas.y + canvas.height / 2);
  await page.locator('.tip-body').waitFor();
  const tip = await page.locator('.tip-body').innerText();
  assert.match(tip, /Week of .*Not over|The window begins/s);
  const bars = await open(context, server, 'trends', { days: 30, q: { ...q, type: 'bar' } });
  const [now, before] = await drawn(bars);
  assert.equal(now.pale, answer.rows.filter((row) => row.partial).length);
  assert.deepEqual([now.type, before.type], ['bar', 'bar']);
});

test('series are built with the pickers, and the address holds them', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'trends');
  const group = page.getByRole('group', { name: 'Series A' });
  await page.getByLabel('Series A: measure').selectOption('users');
  await settled(page);
  await group.getByLabel('Series A: event type').selectOption('action');
  await settled(page);
  await page.getByRole('button', { name: 'Add a series' }).click();
  await settled(page);
  await page.getByLabel('Formula').fill('A / B');
  await page.getByLabel('Formula').press('Enter');
  await page.waitForURL(/formula/);
  await settled(page);
  await page.getByLabel('Compare with').selectOption('previous');
  await settled(page);
  await page.getByLabel('Kind of chart').selectOption('bar');
  await settled(page);
  const { question } = await requestOf(page, 'trends');
  assert.deepEqual(question, {
    metric: 'trends',
    series: [{ measure: 'users', filter: { event_type: 'action' } }, { measure: 'events' }],
    grain: 'day',
    compare: 'previous',
    formula: 'A / B',
    days: 30,
  });
  const other = await context.newPage();
  await other.goto(page.url());
  await settled(other);
  assert.deepEqual((await requestOf(other, 'trends')).question, question);
  await other.close();
  await page.goBack();
  const kind = page.getByLabel('Kind of chart');
  await until('going back', async () => (await kind.inputValue()) === 'line');
  await settled(page);
  await page.getByRole('button', { name: 'Remove series B' }).click();
  await settled(page);
  // The formula names a series that is gone: the server says which.
  assert.match(await panel(page, 'trends').innerText(), /This query is not possible[\s\S]*B/);
});

test('sessions are a measure, by group too, and are those of the metric of sessions', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'trends');
  await page.getByLabel('Series A: measure').selectOption('sessions');
  await page.waitForURL(/sessions/);
  await settled(page);
  const { rows } = await ask(server, (await requestOf(page, 'trends')).question);
  assertTable(await tableOf(page, 'trends'), rows, 'trends');
  const sessions = await ask(server, { metric: 'sessions', grain: 'day' });
  assert.deepEqual(
    rows.map(({ period, value }) => [period, value]),
    sessions.rows.map((row) => [row.period, row.sessions]),
  );
  await page.getByLabel('Breakdown').selectOption('feature');
  await page.waitForURL(/breakdown/);
  await page.getByLabel('Kind of chart').selectOption('stacked');
  await page.waitForURL(/stacked/);
  await settled(page);
  assert.equal(await page.locator('[data-note="stack"]').count(), 0, 'a session is in one group');
});

test('a number of the metadata is summed, and the key is suggested', async (t) => {
  const own = await Server.start();
  t.after(() => own.stop());
  await post(
    own,
    [1.5, 2, 4].map((amount, place) => ({
      event_type: 'conversion',
      user_id: `u${place}`,
      feature: 'buy',
      metadata: { amount, plan: 'pro' },
    })),
  );
  const context = await enter(t);
  const page = await open(context, own, 'trends', { days: 1 });
  await page.getByLabel('Series A: measure').selectOption('sum');
  await settled(page);
  assert.match(await panel(page, 'trends').innerText(), /Choose a number/);
  const input = page.getByLabel('Series A: number in the metadata');
  await input.focus();
  const list = page.locator(`datalist[id="${await input.getAttribute('list')}"] option`);
  await list.first().waitFor({ state: 'attached' });
  assert.deepEqual(await list.evaluateAll((found) => found.map((one) => one.value)), ['metadata.amount']);
  await input.fill('metadata.amount');
  await input.press('Enter');
  await page.waitForURL(/metadata.amount/);
  await settled(page);
  await page.getByLabel('Kind of chart').selectOption('number');
  await settled(page);
  assert.equal(await page.locator('[data-line] [data-value]').getAttribute('data-value'), '7.5');
});

const HOSTILE = ['<img src=x onerror="window.ran=1">', '__proto__', '\u202egnp.exe', '{a|b}', 'x'.repeat(200), ''];

test('hostile groups run no script, stay apart, and break no layout', async (t) => {
  const own = await Server.start();
  t.after(() => own.stop());
  await post(
    own,
    HOSTILE.map((name, place) => ({ event_type: 'action', user_id: `u${place}`, feature: 'f', metadata: { name } })),
  );
  const context = await enter(t);
  for (const type of ['line', 'bar', 'stacked', 'number', 'table']) {
    const page = await open(context, own, 'trends', {
      days: 2,
      q: { type, breakdown: 'metadata.name', series: [{ measure: 'events', name: HOSTILE[0] }] },
    });
    const canvas = page.locator('[data-panel="trends"] canvas').first();
    if (await canvas.count()) {
      const box = await canvas.boundingBox();
      await page.mouse.move(box.x + box.width * 0.7, box.y + box.height * 0.6);
      await page.locator('.tip-body').waitFor();
      assert.ok((await page.locator('.tip-body dt').allInnerTexts()).includes('(empty)'));
    }
    assert.equal(await page.evaluate(() => window.ran), undefined, type);
    assert.equal(await page.locator('[onerror], body script').count(), 0, type);
    for (const width of [390, 1024]) {
      await page.setViewportSize({ width, height: 800 });
      const over = await page.evaluate(
        () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
      );
      assert.equal(over, 0, `${type} at ${width}`);
    }
    assert.deepEqual(await page.evaluate(() => window.violations), []);
    await page.close();
  }
  const damaged = await open(context, own, 'trends', {
    q: { series: 'x', grain: HOSTILE[0], type: 7, breakdown: { a: 1 }, limit: 'x', rolling: -1, formula: HOSTILE[0] },
  });
  assert.equal(await panel(damaged, 'trends').getAttribute('data-state'), 'error');
});

test('trends are accessible', async (t) => {
  const page = await open(await enter(t), server, 'trends', {
    q: { compare: 'previous', breakdown: 'metadata.plan', series: [{ measure: 'users' }, { measure: 'events' }] },
  });
  for (const width of [390, 1024, 1440]) {
    await page.setViewportSize({ width, height: 900 });
    await assertAccessibleInBoth(page, `chart at ${width}`);
  }
  await panel(page, 'trends').locator('[data-tool="table"]').click();
  await assertAccessibleInBoth(page, 'table');
  await page.getByLabel('Kind of chart').selectOption('number');
  await settled(page);
  await assertAccessibleInBoth(page, 'numbers');
});

test('types and features of the tracking plan are offered before their first event', async (t) => {
  const own = await Server.start();
  t.after(() => own.stop());
  const type = '<b>refund</b>';
  const response = await fetch(`${own.url}/api/analytics/plan`, {
    method: 'PUT',
    headers: { 'Content-Type': 'application/json', 'X-Dash-Key': KEY },
    body: JSON.stringify({
      event_types: [{ name: type }, { name: 'signup' }],
      conversions: [{ name: 'purchase' }],
      features: [{ name: 'wishlist' }],
    }),
  });
  assert.equal(response.status, 200, await response.text());
  await post(own, [{ event_type: 'action', user_id: 'u', feature: 'f' }]);
  const context = await enter(t);
  for (const [view, label] of [
    ['trends', 'Series A: event type'],
    ['funnel', 'Step 2: event type'],
    ['retention', 'Start: event type'],
    ['experiments', 'Goal: event type'],
  ]) {
    const page = await open(context, own, view, view === 'funnel' ? { q: { steps: [{ feature: 'f' }, {}] } } : {});
    const options = page.getByLabel(label).locator('option');
    await page.waitForFunction(
      (name) => [...document.querySelectorAll('option')].some((option) => option.value === name),
      type,
    );
    assert.deepEqual(
      await options.evaluateAll((found) => found.map((option) => option.value)),
      ['', 'page_view', 'action', 'conversion', type, 'signup'],
      view,
    );
    await page.close();
  }
  await post(own, [{ event_type: type, user_id: 'u', feature: 'f' }]);
  const page = await open(context, own, 'trends');
  await page.locator('option', { hasText: 'refund' }).first().waitFor({ state: 'attached' });
  await page.getByLabel('Series A: event type').selectOption(type);
  await page.waitForURL(/refund/);
  await settled(page);
  const { question } = await requestOf(page, 'trends');
  assert.deepEqual(question.series[0].filter, { event_type: type });
  const { rows, totals } = await ask(own, question);
  assert.equal(totals[0].value, 1);
  assertTable(await tableOf(page, 'trends'), rows, 'trends');
  // Features of the plan, those of conversions first, in steps and in filters.
  await page.getByLabel('Series A: feature').focus();
  await page.waitForFunction(() => document.querySelector('#known-features option[value="purchase"]'));
  await page.locator('[data-pick="filter"]').click();
  await page.getByLabel('Condition 1: value').fill('wish');
  await page.locator('.popover datalist option[value="wishlist"]').waitFor({ state: 'attached' });
  await page.getByLabel('Condition 1: property').selectOption('event_type');
  await page.getByLabel('Condition 1: value').fill('sign');
  await page.locator('.popover datalist option[value="signup"]').waitFor({ state: 'attached' });
  assert.equal(await page.locator('b').count(), 0);
});

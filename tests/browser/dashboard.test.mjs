// The dashboard: the numbers on the screen are those of the API, in every view.
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, test } from 'node:test';
import {
  address,
  ask,
  assertTable,
  command,
  demoServer,
  enterAs,
  getJson,
  open,
  panel,
  post,
  requestOf,
  settled,
  show,
  tableOf,
} from './dashboard.mjs';
import { KEY, openBrowser, Server } from './harness.mjs';

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

const EXPERIMENT = {
  exposure: { event_type: 'page_view' },
  variant: 'plan',
  goal: { event_type: 'conversion' },
  control: 'pro',
};

/** The views, their panels with a query, and the requests. */
const QUESTIONS = [
  ['overview', {}, ['active-users', 'event-types']],
  ['overview', { days: 14, tz: 'Asia/Tokyo', filter: { 'metadata.platform': 'web' } }, ['active-users', 'event-types']],
  ['overview', { days: 60, q: { grain: 'week' } }, ['active-users']],
  ['lifecycle', { days: 30 }, ['lifecycle']],
  ['lifecycle', { days: 60, q: { grain: 'month' }, filter: { event_type: 'action' } }, ['lifecycle']],
  ['stickiness', { days: 21 }, ['stickiness']],
  [
    'funnel',
    {
      q: {
        steps: [{ feature: 'dashboard' }, { event_type: 'action', feature: 'reports' }, { event_type: 'conversion' }],
        within: '3d',
      },
    },
    ['funnel'],
  ],
  [
    'funnel',
    { q: { steps: [{ feature: 'dashboard' }, { feature: 'reports' }], order: 'any', breakdown: 'metadata.plan' } },
    ['funnel'],
  ],
  [
    'funnel',
    {
      q: {
        steps: [{ feature: 'dashboard' }, { feature: 'reports' }],
        exclude: [{ filter: { feature: 'inbox' }, between: [1, 2] }],
      },
    },
    ['funnel'],
  ],
  ['retention', { days: 56 }, ['retention']],
  [
    'retention',
    { days: 14, q: { cohort: 'recurring', returning: 'on_or_after', start: { event_type: 'action' } } },
    ['retention'],
  ],
  ['paths', {}, ['paths']],
  ['paths', { q: { by: 'session', depth: 3, limit: 5, start: { feature: 'inbox' } } }, ['paths']],
  ['experiments', { days: 60, q: EXPERIMENT }, ['experiment']],
];

for (const [view, given, panels] of QUESTIONS) {
  test(`${view} shows the result of the API: ${JSON.stringify(given)}`, async (t) => {
    const context = await enter(t);
    const page = await open(context, server, view, given);
    for (const name of panels) {
      const { question, curl } = await requestOf(page, name);
      assert.equal(question.days, given.days ?? 30);
      assert.deepEqual(question.filter, given.filter);
      for (const [field, value] of Object.entries(given.q ?? {})) assert.deepEqual(question[field], value, field);
      assert.ok(!curl.includes(KEY) && curl.includes('$ECHOPILOT_DASH_KEY'), 'the key is never shown');
      const { rows } = await ask(server, question);
      assert.ok(rows.length > 0);
      assertTable(await tableOf(page, name), rows, name);
    }
    assert.deepEqual(await page.evaluate(() => window.violations), []);
  });
}

test('the cards show the usage of the window, and compare its days that are over with the same days before', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'overview', { days: 14 });
  const usage = (days, end) => getJson(server, `/api/analytics/usage?days=${days}${end ? `&end=${end}` : ''}`);
  const now = await usage(14);
  const today = now.window.to;
  // Today is not over, so neither today nor the day two weeks ago is compared.
  const [closed, then] = [await usage(13, day(today, -1)), await usage(13, day(today, -15))];
  const card = (name) => page.locator(`[data-card="${name}"]`);
  const delta = (name) => card(name).locator('[data-delta]').getAttribute('data-delta').then(Number);
  for (const [name, key] of [
    ['dau', 'dau'],
    ['wau', 'wau'],
    ['mau', 'mau'],
    ['events', 'total_events'],
  ]) {
    assert.equal(Number(await card(name).locator('[data-value]').getAttribute('data-value')), now[key], name);
    if (name !== 'wau') assert.equal(await delta(name), closed[key] / then[key] - 1, name);
  }
  // One complete week, or two, against as many before.
  const weekly = { metric: 'trends', series: [{ measure: 'users' }], grain: 'week', compare: 'previous', days: 14 };
  const weeks = (await ask(server, weekly)).rows.filter((row) => !row.partial);
  const before = await Promise.all(
    weeks.map(async ({ previous_period: first }) => {
      const { rows } = await ask(server, { metric: 'active_users', grain: 'week', days: 7, end: day(first, 6) });
      assert.deepEqual([rows.length, rows[0].partial], [1, false], first);
      return rows[0].users;
    }),
  );
  const sum = (values) => values.reduce((users, value) => users + value, 0);
  assert.ok(weeks.length > 0);
  assert.equal(await delta('wau'), sum(weeks.map((row) => row.value)) / sum(before) - 1);
  assert.match(await card('events').locator('.delta').innerText(), /^(▲ \+|▼ -)\d+\.\d%/);
  assert.match(
    await panel(page, 'usage').locator('[data-note="compared"]').textContent(),
    /days that are not over are left out/,
  );
  const days = (await ask(server, { metric: 'active_users', days: 14 })).rows;
  assert.equal(
    Number(await card('stickiness').locator('[data-value]').getAttribute('data-value')),
    days.at(-2).stickiness,
  );
  const { question } = await requestOf(page, 'usage');
  const { totals } = await ask(server, question);
  assert.deepEqual(
    totals.map((total) => total.value),
    [now.total_events, now.mau],
  );
});

test('events and users are shown with those of the period before', async (t) => {
  const context = await enter(t);
  const { last_day: last } = await getJson(server, '/api/analytics/status');
  for (const grain of ['day', 'week']) {
    const given = { days: 28, end: last, q: { grain } };
    const page = await open(context, server, 'overview', given);
    const { question } = await requestOf(page, 'trend');
    assert.deepEqual([question.metric, question.grain, question.compare], ['trends', grain, 'previous']);
    const { rows, compared } = await ask(server, question);
    assert.ok(rows.some((row) => row.previous > 0));
    assertTable(await tableOf(page, 'trend'), rows, grain);
    const note = await panel(page, 'trend').locator('[data-note="compared"]').textContent();
    assert.ok(note.includes(String(Number(compared.from.slice(8)))), note);
    // A line for each series, and a dotted one for what was before.
    const dotted = await page.evaluate(() => {
      const { option } = document.querySelector('[data-panel="trend"]').panel.last;
      const { series } = option({ series: [1, 2, 3, 4, 5, 6, 7, 8].map(String) });
      return series.filter(({ name }) => name.endsWith('before')).map(({ data }) => data);
    });
    assert.deepEqual(
      dotted,
      ['A', 'B'].map((letter) => rows.filter((row) => row.series === letter).map((row) => row.previous)),
    );
    await page.close();
  }
});

test('a day that is not over is compared with the same hours of the day before', async (t) => {
  const context = await enter(t);
  const own = await Server.start();
  t.after(() => own.stop());
  const today = new Date().toISOString().slice(0, 10);
  const event = (ts, user) => ({ event_type: 'action', user_id: user, feature: 'f', ts });
  await post(own, [
    event(`${day(today, -3)}T12:00:00Z`, 'ann'),
    ...['ann', 'bob'].map((user) => event(`${day(today, -1)}T00:00:00Z`, user)),
    ...['cem', 'dan', 'eve', 'fay'].map((user) => event(`${day(today, -1)}T23:59:59Z`, user)),
    ...['ann', 'bob', 'cem'].map((user) => event(`${today}T00:00:00Z`, user)),
  ]);
  const page = await open(context, own, 'overview', { days: 1 });
  const delta = (name) => page.locator(`[data-card="${name}"] [data-delta]`).getAttribute('data-delta').then(Number);
  for (const name of ['dau', 'mau', 'events']) assert.equal(await delta(name), 0.5, name);
  assert.match(await panel(page, 'usage').locator('[data-note="compared"]').textContent(), /only with the same hours/);
  assert.equal(await panel(page, 'features').locator('.delta').textContent(), '+50.0%');
  assert.deepEqual(
    (await tableOf(page, 'trend')).map((row) => row.filter((cell) => typeof cell === 'number')),
    [
      [3, 2],
      [3, 2],
    ],
  );
});

test('a window of days that are over is compared in full', async (t) => {
  const context = await enter(t);
  const { last_day: last } = await getJson(server, '/api/analytics/status');
  const page = await open(context, server, 'overview', { days: 21, end: last });
  const [now, then] = [
    await getJson(server, `/api/analytics/usage?days=21&end=${last}`),
    await getJson(server, `/api/analytics/usage?days=21&end=${day(last, -21)}`),
  ];
  for (const [name, key] of [
    ['dau', 'dau'],
    ['mau', 'mau'],
    ['events', 'total_events'],
  ]) {
    assert.equal(
      Number(await page.locator(`[data-card="${name}"] [data-delta]`).getAttribute('data-delta')),
      now[key] / then[key] - 1,
      name,
    );
  }
  assert.equal(await panel(page, 'usage').locator('[data-note="compared"]').count(), 0);
});

test('nothing is compared with days before the first event, nor with a day that is not over', async (t) => {
  const context = await enter(t);
  const { first_day: first, last_day: last } = await getJson(server, '/api/analytics/status');
  // The store is 70 days old: of the 40 days before these 40, it has seen 30.
  for (const [given, says] of [
    [{ days: 40, end: last }, /the first event is of/],
    [{ days: 35, end: last }, /the first event is of/],
    [{ days: 40, end: last, filter: { event_type: 'action' } }, /the first event is of/],
  ]) {
    const page = await open(context, server, 'overview', given);
    assert.equal(await page.locator('[data-delta], .rank .delta:not(:empty)').count(), 0, JSON.stringify(given));
    assert.match(await panel(page, 'usage').locator('[data-note="no-comparison"]').textContent(), says);
    await page.close();
  }
  const whole = await open(context, server, 'overview', { days: 34, end: day(first, 68) });
  assert.equal(await whole.locator('.card [data-delta]').count(), 4, 'from the day after the first event on');
});

test('incomplete periods are drawn as such, and are not part of trends', async (t) => {
  const context = await enter(t);
  const { last_day: last } = await getJson(server, '/api/analytics/status');
  // Ends with a Thursday: the window begins inside a week and ends inside one.
  const thursday = day(last, -(new Date(`${last}T00:00:00Z`).getUTCDay() + 3) % 7);
  const given = { days: 30, end: thursday, q: { grain: 'week' } };
  const page = await open(context, server, 'overview', given);
  const { rows } = await ask(server, { metric: 'active_users', grain: 'week', days: 30, end: thursday });
  assert.deepEqual(
    rows.map((row) => row.partial),
    [true, false, false, false, true],
  );
  const note = await panel(page, 'active-users').locator('[data-note="cut"]').textContent();
  assert.equal(note.match(/Week of/g).length, 2);
  assertTable(await tableOf(page, 'active-users'), rows, 'active users');
  const chart = panel(page, 'active-users').locator('canvas');
  const box = await chart.boundingBox();
  await page.mouse.move(box.x + 60, box.y + box.height / 2);
  await page.getByText(/The window begins on/).waitFor();
  await page.mouse.move(box.x + box.width - 90, box.y + box.height / 2);
  await page.getByText(/The window ends on/).waitFor();
  for (const [view, name] of [
    ['lifecycle', 'lifecycle'],
    ['retention', 'retention'],
    ['stickiness', 'stickiness'],
  ]) {
    const other = await open(context, server, view, given);
    assert.equal(
      (await panel(other, name).locator('[data-note="cut"]').textContent()).match(/Week of/g).length,
      2,
      view,
    );
    await other.close();
  }
  // Gained per lost is of the complete weeks.
  const lifecycle = await open(context, server, 'lifecycle', given);
  const whole = (await ask(server, { metric: 'lifecycle', grain: 'week', days: 30, end: thursday })).rows.filter(
    (row) => !row.partial,
  );
  const sum = (name) => whole.reduce((total, row) => total + row[name], 0);
  assert.equal(
    Number(await lifecycle.locator('[data-fact="ratio"]').getAttribute('data-value')),
    (sum('new') + sum('resurrecting')) / -sum('dormant'),
  );
});

test('with a cohort or a filter the cards count only matching events', async (t) => {
  const context = await enter(t);
  const filter = { feature: 'reports' };
  const page = await open(context, server, 'overview', { days: 14, filter });
  const sticky = await ask(server, { metric: 'stickiness', days: 14, filter });
  const types = await ask(server, { metric: 'event_types', days: 14, filter });
  const value = (name) => page.locator(`[data-card="${name}"] [data-value]`).getAttribute('data-value').then(Number);
  assert.equal(await value('mau'), sticky.rows[0].cumulative);
  assert.equal(
    await value('events'),
    types.rows.reduce((sum, row) => sum + row.events, 0),
  );
  const days = (await ask(server, { metric: 'active_users', days: 14, filter })).rows
    .map((row) => row.dau)
    .filter(Boolean);
  assert.equal(await value('dau'), days.reduce((a, b) => a + b) / days.length);
});

test('top features have their events, users and change', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'overview', { days: 20 });
  const { rows, window } = await ask(server, { metric: 'feature_usage', days: 20, limit: 10 });
  const eventsOf = async (end) =>
    new Map(
      (await ask(server, { metric: 'feature_usage', days: 19, end })).rows.map((row) => [row.feature, row.events]),
    );
  const [closed, then] = [await eventsOf(day(window.to, -1)), await eventsOf(day(window.to, -21))];
  const shown = await panel(page, 'features')
    .locator('li')
    .evaluateAll((found) =>
      found.map((line) => [
        line.querySelector('.name').textContent,
        Number(line.dataset.featureEvents),
        line.querySelectorAll('svg').length,
      ]),
    );
  assert.deepEqual(
    shown,
    rows.map((row) => [row.feature, row.events, 1]),
  );
  const table = await tableOf(page, 'features');
  assertTable(
    table,
    rows.map((row) => ({ ...row, change: closed.get(row.feature) / then.get(row.feature) - 1 })),
    'features',
  );
});

test('every panel downloads its rows as the CSV of the server, and its chart as PNG', async (t) => {
  const context = await enter(t, { acceptDownloads: true });
  const saved = async (page, name, tool) => {
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      panel(page, name).locator(`[data-tool="${tool}"]`).click(),
    ]);
    return [download.suggestedFilename(), await readFile(await download.path())];
  };
  const seen = new Set();
  for (const [view, given, panels] of QUESTIONS) {
    if (seen.has(view)) continue;
    seen.add(view);
    const page = await open(context, server, view, given);
    for (const name of panels) {
      const { question } = await requestOf(page, name);
      const response = await fetch(`${server.url}/api/analytics/query`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', Accept: 'text/csv; variant=spreadsheet', 'X-Dash-Key': KEY },
        body: JSON.stringify(question),
      });
      const [csvName, csv] = await saved(page, name, 'csv');
      assert.deepEqual(csv, Buffer.from(await response.arrayBuffer()), name);
      assert.equal(csv.toString().charCodeAt(0), 0xfeff, name);
      assert.match(
        csvName,
        /^echopilot-[a-z-]+-\d{4}-\d{2}-\d{2}-\d{4}-\d{2}-\d{2}-UTC.*-\d{4}-\d{2}-\d{2}T\d{4}Z\.csv$/,
      );
      const [pngName, png] = await saved(page, name, 'png');
      assert.match(pngName, /\.png$/);
      assert.deepEqual([...png.subarray(0, 8)], [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
      assert.ok(png.length > 5_000, `${name}: ${png.length} bytes`);
    }
    await page.close();
  }
  for (const [view, name] of [
    ['live', 'live-rate'],
    ['engine', 'rate'],
    ['overview', 'features'],
  ]) {
    const page = await open(context, server, view);
    const [, png] = await saved(page, name, 'png');
    assert.equal(png.subarray(1, 4).toString(), 'PNG', name);
    const [, csv] = await saved(page, name, 'csv');
    assert.ok(csv.toString().includes('events'), name);
    await page.close();
  }
});

test('the choices at the top are in the address, and another browser shows them from it', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'overview');
  await page.locator('[data-pick="days"]').click();
  await page.getByRole('button', { name: 'Last 90 days' }).click();
  await settled(page);
  await page.locator('[data-pick="days"]').click();
  await page.getByLabel('Number of days').fill('10');
  await page.getByLabel('Up to').fill('2026-01-01');
  await page.getByRole('button', { name: 'Show', exact: true }).click();
  await page.waitForURL(/days=10&end=2026-01-01/);
  await page.locator('[data-pick="days"]').click();
  await page.getByRole('button', { name: 'Last 7 days' }).click();
  await page.locator('[data-pick="zone"]').click();
  await page.getByLabel('Days begin at midnight of').selectOption('Europe/Berlin');
  await page.locator('[data-pick="filter"]').click();
  await page.getByLabel('Condition 1: value').fill('reports');
  await page.getByLabel('Condition 1: value').press('Enter');
  await page.getByLabel('Condition 1: value').fill('inbox');
  await page.getByRole('button', { name: 'Apply' }).click();
  await settled(page);
  const chips = page.locator('.chip');
  assert.deepEqual(await chips.allTextContents(), ['feature is reports or inbox']);
  const question = { metric: 'active_users', days: 7, tz: 'Europe/Berlin', filter: { feature: ['reports', 'inbox'] } };
  const { rows } = await ask(server, question);
  assertTable(await tableOf(page, 'active-users'), rows, 'active users');
  const shared = page.url();
  assert.ok(!shared.includes(KEY));
  const other = await settled(
    await (await enter(t)).newPage().then(async (fresh) => {
      await fresh.goto(shared);
      return fresh;
    }),
  );
  assertTable(await tableOf(other, 'active-users'), rows, 'active users of the other');
  // The page follows its address a moment later.
  await page.goBack();
  await chips.waitFor({ state: 'detached' });
  await settled(page);
  await page.goForward();
  await chips.waitFor();
  await settled(page);
  await chips.getByRole('button').click();
  await settled(page);
  await page.waitForURL((url) => !url.href.includes('filter'));
});

test('a value with a comma or blanks at its ends survives opening and applying a filter', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'engine');
  for (const [place, filter] of [
    { 'metadata.title': 'Hello, world' },
    { feature: ' reports ' },
    { feature: ['a, b', ' c', 'd '] },
    { 'metadata.note': '' },
    { 'metadata.lines': 'one\ntwo' },
    { 'metadata.seats': 5 },
    { 'metadata.beta': [true, 'true', 1.5] },
    { url: { prefix: ' /docs, ' } },
    { 'metadata.seats': { min: 0, max: 1.5 } },
    { 'metadata.a': { exists: false }, 'metadata.b': { exists: true } },
    { event_type: ['action', 'conversion'] },
    { event_type: { prefix: 'a' }, feature: '"quoted", twice' },
    { feature: { prefix: '' } },
    { feature: { contains: 'x, y' }, 'metadata.p': { not: ['a', ' b'] } },
    { feature: { all: [{ prefix: 'a' }, { suffix: 'z', ignore_case: true }, { not: { contains: 'x' } }] } },
    { url: { matches: '^/a|b$' }, user_id: { not: 'u1' }, 'metadata.n': { all: [{ above: 1 }, { below: 2.5 }] } },
    { event_type: 'action', any: [{ feature: 'a' }, { feature: 'b', 'metadata.p': { exists: false } }] },
    { any: [{ any: [{ url: 'x' }] }, { not: { url: 'y' } }], not: { feature: ['a', 'b'] } },
    { feature: { min: 1, above: 2 }, url: { not: { prefix: 'x' } } },
  ].entries()) {
    // Another view each time, which is shown once the filter is.
    await show(page, server, ['stickiness', 'lifecycle'][place % 2], { filter });
    const before = page.url();
    await page.locator('[data-pick="filter"]').click();
    await page.getByRole('button', { name: 'Apply' }).click();
    await page.locator('.popover:popover-open').waitFor({ state: 'detached' });
    assert.equal(page.url(), before, JSON.stringify(filter));
  }
  await show(page, server, 'retention');
  await page.locator('[data-pick="filter"]').click();
  await page.getByLabel('Condition 1: value').fill(' Hello, world ');
  await page.getByRole('button', { name: 'Apply' }).click();
  await settled(page);
  assert.deepEqual(await page.locator('.chip').allTextContents(), ['feature is “ Hello, world ”']);
  assert.deepEqual(JSON.parse(new URLSearchParams(page.url().split('?')[1]).get('filter')), {
    feature: ' Hello, world ',
  });
});

test('an invalid filter is not dropped: the editor shows the problem', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'stickiness');
  await page.locator('[data-pick="filter"]').click();
  const apply = () => page.getByRole('button', { name: 'Apply' }).click();
  const problems = () => page.locator('.condition [role="alert"]').allTextContents();
  await page.getByRole('button', { name: 'Add a condition' }).click();
  await page.getByLabel('Condition 2: property').selectOption('metadata');
  await apply();
  assert.deepEqual(await problems(), ['Enter the key of the metadata.'], 'the offered row is not a condition');
  await page.getByLabel('Condition 2: key of the metadata').fill('plan');
  await apply();
  assert.deepEqual(await problems(), ['Enter a value, or remove the condition.']);
  await page.getByLabel('Condition 2: test').selectOption('range');
  await apply();
  assert.match((await problems())[0], /minimum or a maximum/);
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute('aria-label')), 'Condition 2: property');
  assert.ok(!page.url().includes('filter'), 'nothing was applied');
  await page.getByLabel('Condition 2: property').selectOption('feature');
  await page.getByLabel('Condition 2: test').selectOption('prefix');
  await page.getByLabel('Condition 2: value').fill('rep');
  await page.getByLabel('Condition 1: value').fill('reports');
  await apply();
  await settled(page);
  // Several conditions on one property all hold; each has a chip of its own.
  assert.deepEqual(await page.locator('.chip').allTextContents(), ['feature is reports', 'feature begins with rep']);
  assert.deepEqual(JSON.parse(new URLSearchParams(page.url().split('?')[1]).get('filter')), {
    feature: { all: ['reports', { prefix: 'rep' }] },
  });
  await page.getByRole('button', { name: 'Remove the condition feature is reports' }).click();
  await settled(page);
  assert.deepEqual(JSON.parse(new URLSearchParams(page.url().split('?')[1]).get('filter')), {
    feature: { prefix: 'rep' },
  });
});

test('a step keeps conditions that its editor cannot show', async (t) => {
  const context = await enter(t);
  const steps = [
    { feature: ['reports', 'a, b '], 'metadata.plan': ' pro, ', 'metadata.seats': 5 },
    { feature: 'inbox' },
  ];
  const page = await open(context, server, 'funnel', { q: { steps } });
  const shown = async () => (await requestOf(page, 'funnel')).question.steps;
  assert.deepEqual(await shown(), steps);
  await page.getByLabel('Step 1: event type').selectOption('action');
  await settled(page);
  assert.deepEqual(await shown(), [{ ...steps[0], event_type: 'action' }, steps[1]]);
  // The key of the other condition, which the editor does not show.
  await page.getByLabel('Step 1: key of the metadata').fill('seats');
  await page.getByLabel('Step 1: key of the metadata').blur();
  await page.getByText('There is already a condition on metadata.seats').waitFor();
  assert.deepEqual(await shown(), [{ ...steps[0], event_type: 'action' }, steps[1]]);
  // A condition needs both its key and its value.
  await page.getByLabel('Step 2: metadata').click();
  await page.getByLabel('Step 2: value of the metadata').fill(' x, y ');
  await page.getByLabel('Step 2: key of the metadata').fill('title');
  await page.getByLabel('Step 2: key of the metadata').blur();
  await settled(page);
  await page.waitForURL(/title/);
  await settled(page);
  assert.deepEqual((await shown())[1], { feature: 'inbox', 'metadata.title': ' x, y ' });
});

test('a cohort is created, chosen and deleted', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'stickiness');
  await page.locator('[data-pick="cohort"]').click();
  await page.getByText('New cohort').click();
  await page.getByLabel('Name').fill('reporters');
  await page.getByLabel('Condition 1: value').fill('reports');
  await page.getByLabel('Events', { exact: true }).fill('3');
  await page.locator('.popover').getByRole('button', { name: 'Save' }).click();
  await page.waitForURL(/cohort=reporters/);
  await settled(page);
  const { cohorts } = await getJson(server, '/api/analytics/cohorts');
  assert.deepEqual(cohorts, [{ name: 'reporters', did: { filter: { feature: 'reports' }, at_least: 3 } }]);
  const { rows } = await ask(server, { metric: 'stickiness', days: 30, filter: { cohort: 'reporters' } });
  assertTable(await tableOf(page, 'stickiness'), rows, 'stickiness');
  await page.locator('[data-pick="cohort"]').click();
  await page.getByRole('button', { name: 'Delete the cohort reporters' }).click();
  assert.equal((await getJson(server, '/api/analytics/cohorts')).cohorts.length, 1, 'it asks first');
  await page.getByRole('button', { name: 'Really delete the cohort reporters' }).click();
  await page.waitForURL((url) => !url.href.includes('cohort'));
  assert.deepEqual((await getJson(server, '/api/analytics/cohorts')).cohorts, []);
});

test('a funnel is built step by step', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'funnel');
  // The funnel begins with the two most used features.
  await page.waitForURL(/steps/);
  await settled(page);
  const {
    rows: [first, second, third],
  } = await ask(server, { metric: 'feature_usage', days: 90, limit: 3 });
  assert.equal(await page.getByLabel('Step 1: feature').inputValue(), first.feature);
  await page.getByLabel('Step 2: feature').focus();
  await page.waitForFunction(
    (name) => [...document.querySelectorAll('#known-features option')].some((option) => option.value === name),
    third.feature,
  );
  await page.getByRole('button', { name: 'Add a step' }).click();
  await page.getByText('One more step').waitFor();
  const change = async (act) => {
    await act();
    await settled(page);
  };
  await change(async () => {
    await page.getByLabel('Step 3: feature').fill(third.feature);
    await page.getByLabel('Step 3: feature').blur();
  });
  await change(() => page.getByLabel('Step 3: event type').selectOption('action'));
  await change(async () => {
    await page.getByLabel('Conversion window', { exact: true }).fill('5');
    await page.getByLabel('Conversion window', { exact: true }).blur();
  });
  await change(() => page.getByLabel('Order').selectOption('strict'));
  await change(() => page.getByRole('button', { name: 'Move step 3 up' }).click());
  await change(async () => {
    await page.getByLabel('Excluded feature').fill('calendar');
    await page.getByLabel('Excluded feature').blur();
  });
  const { question } = await requestOf(page, 'funnel');
  assert.deepEqual(question, {
    metric: 'funnel',
    steps: [{ feature: first.feature }, { event_type: 'action', feature: third.feature }, { feature: second.feature }],
    within: '5d',
    order: 'strict',
    exclude: [{ filter: { feature: 'calendar' } }],
    days: 30,
  });
  const { rows, exclusion_rule: rule } = await ask(server, question);
  assert.ok((await panel(page, 'funnel').locator('[data-note="exclusion"]').textContent()).includes(rule));
  assertTable(await tableOf(page, 'funnel'), rows, 'funnel');
  assert.equal(
    Number(await page.locator('[data-fact="conversion"]').getAttribute('data-value')),
    rows[2].conversion_from_first,
  );
  const users = await page
    .locator('[data-step]')
    .evaluateAll((steps) => steps.map((step) => Number(step.dataset.users)));
  assert.deepEqual(
    users,
    rows.map((row) => row.users),
  );
  await change(() => page.getByLabel('Breakdown').selectOption('event_type'));
  const broken = await requestOf(page, 'funnel');
  assert.equal(broken.question.breakdown, 'event_type');
  assertTable(await tableOf(page, 'funnel'), (await ask(server, broken.question)).rows, 'funnel with breakdown');
});

test('lifecycle, experiments and the engine show the figures of their tables', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'lifecycle', { days: 28, q: { grain: 'week' } });
  const { rows } = await ask(server, { metric: 'lifecycle', grain: 'week', days: 28 });
  const whole = rows.filter((row) => !row.partial);
  for (const name of ['new', 'returning', 'resurrecting', 'dormant']) {
    assert.equal(
      Number(await page.locator(`[data-fact="${name}"]`).getAttribute('data-value')),
      whole.reduce((sum, row) => sum + row[name], 0) / whole.length,
      name,
    );
  }
  const trial = await open(context, server, 'experiments', { days: 60, q: EXPERIMENT });
  const arms = (await ask(server, { metric: 'experiment', ...EXPERIMENT, days: 60 })).rows.filter(
    (row) => !row.variant.startsWith('__'),
  );
  const shown = await trial
    .locator('[data-variant]')
    .evaluateAll((found) => found.map((arm) => [arm.dataset.variant, Number(arm.dataset.rate)]));
  assert.deepEqual(
    shown,
    arms.map((arm) => [arm.variant, arm.rate]),
  );
  const shares = arms.map((arm) => `${arm.variant}: ${arm.exposed}`).join(', ');
  const weights = Object.fromEntries(arms.map((arm) => [arm.variant, arm.exposed]));
  const shared = await open(context, server, 'experiments', { days: 60, q: { ...EXPERIMENT, shares } });
  const { rows: weighted } = await ask(server, { metric: 'experiment', ...EXPERIMENT, weights, days: 60 });
  assert.equal(weighted.at(-1).p_value, 1);
  assertTable(await tableOf(shared, 'experiment'), weighted, 'experiment with shares');
  const engine = await open(context, server, 'engine');
  const status = await getJson(server, '/api/analytics/status');
  const value = (name) => engine.locator(`[data-card="${name}"]`).getAttribute('data-value').then(Number);
  assert.equal(await value('events'), status.store.sealed_events + status.store.log_events);
  assert.equal(
    await value('bytes'),
    status.store.sealed_bytes +
      status.store.state_bytes +
      status.store.column_bytes +
      status.store.event_id_bytes +
      status.store.log_bytes,
  );
  assert.equal(await value('waiting'), status.waiting.events);
  // One that compares the load of the machine may be active.
  const quiet = status.alerts.filter(({ state }) => state === 'ok').length;
  assert.equal(await engine.locator('.alerts').getAttribute('data-quiet'), String(quiet));
  assert.match(await panel(engine, 'alerts').innerText(), new RegExp(`${quiet} alerts are quiet`));
});

test('the engine view shows the alerts that fire, the urgent ones first', async (t) => {
  const context = await enter(t);
  // As another process left them. What is unknown after a start stays as it was.
  const since = Math.floor(Date.now() / 1_000) - 3_600;
  const active = [
    { name: 'EchopilotDiskSoonFull', since, is_firing: false, value: -1 },
    { name: 'EchopilotSilent', since, is_firing: true, value: 0 },
    { name: 'EchopilotSegmentsDamaged', since, is_firing: true, value: 2 },
  ];
  const troubled = await Server.start({
    prepare: async (folder) => {
      await command(folder, 'demo', '--events', '200', '--days', '3');
      await writeFile(path.join(folder, 'engine_alerts.json'), JSON.stringify({ active, slots: [] }));
    },
  });
  t.after(() => troubled.stop());
  const page = await open(context, troubled, 'engine');
  const shown = await page
    .locator('[data-alert]')
    .evaluateAll((found) => found.map((alert) => [alert.dataset.alert, alert.dataset.state, alert.className]));
  assert.deepEqual(shown, [
    ['EchopilotSegmentsDamaged', 'firing', 'alert bad'],
    ['EchopilotSilent', 'firing', 'alert warn'],
    ['EchopilotDiskSoonFull', 'pending', 'alert soft'],
  ]);
  assert.equal(await page.locator('.alerts').getAttribute('data-quiet'), '7');
  const text = await panel(page, 'alerts').innerText();
  assert.match(text, /Segments are damaged/);
  assert.match(text, /does not fire yet/);
  await panel(page, 'alerts').locator('[data-tool="table"]').click();
  assert.equal(await panel(page, 'alerts').locator('tbody tr').count(), 10);
  // The server takes events nevertheless.
  const ready = await (await fetch(`${troubled.url}/health/ready`)).json();
  assert.deepEqual([ready.ok, ready.warnings.length], [true, 2]);
});

test('a click on a heading sorts the table', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'overview');
  const features = panel(page, 'features');
  await features.locator('[data-tool="table"]').click();
  const names = () => features.locator('tbody th').allTextContents();
  const byEvents = await names();
  await features.getByRole('button', { name: 'Feature', exact: true }).click();
  assert.deepEqual(
    await names(),
    [...byEvents].sort((a, b) => a.localeCompare(b)),
  );
  await features.getByRole('button', { name: 'Events', exact: true }).click();
  assert.deepEqual(await names(), byEvents);
  assert.equal(await features.locator('[aria-sort="descending"]').count(), 1);
});

test('the colours follow the system, or the choice of the user', async (t) => {
  const context = await enter(t, { colorScheme: 'dark', reducedMotion: 'no-preference' });
  const page = await open(context, server, 'overview');
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await ground();
  await page.getByRole('button', { name: 'Colours: auto' }).click();
  assert.notEqual(await ground(), dark);
  await page.emulateMedia({ colorScheme: 'light' });
  await page.getByRole('button', { name: 'Colours: light' }).click();
  assert.equal(await ground(), dark);
  assert.equal(await page.getByRole('button', { name: 'Colours: dark' }).innerText(), 'Dark', 'the choice is visible');
  await page.reload();
  await settled(page);
  assert.equal(await ground(), dark, 'it is kept');
});

test('an unknown or damaged address shows the overview or an error', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'nonsense', { days: 'many', filter: 'not json', q: '[1]' });
  assert.equal(await page.locator('h1').textContent(), 'Overview');
  const wrong = await open(context, server, 'lifecycle', { tz: 'Mars/Base' });
  assert.match(await panel(wrong, 'lifecycle').locator('[role="alert"]').textContent(), /Mars\/Base/);
  const none = await open(context, server, 'lifecycle', { end: '2020-01-01', filter: { feature: 'nothing' } });
  assert.equal(await panel(none, 'lifecycle').getAttribute('data-state'), 'empty');
  assert.ok(address(server, 'lifecycle').endsWith('#/lifecycle'));
});

function day(text, days) {
  const moved = new Date(`${text}T00:00:00Z`);
  moved.setUTCDate(moved.getUTCDate() + days);
  return moved.toISOString().slice(0, 10);
}

// The dashboard in everyday use: the choice of days and of a zone, filters, what leaves the page, and its finish.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import {
  address,
  ask,
  assertAccessible,
  assertAccessibleInBoth,
  assertTable,
  demoServer,
  enterAs,
  getJson,
  open,
  panel,
  post,
  requestOf,
  serve,
  settled,
  show,
  tableOf,
  VIEWS,
} from './dashboard.mjs';
import { KEY, openBrowser, until } from './harness.mjs';

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

const focused = (page) =>
  page.evaluate(() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent);

test('the first and the last day are chosen, and the focus stays with the choice', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'stickiness');
  const { last_day: last } = await getJson(server, '/api/analytics/status');
  await page.locator('[data-pick="days"]').click();
  await page.getByLabel('First day').fill(day(last, -9));
  await page.getByLabel('Last day', { exact: true }).fill(last);
  await page.getByRole('button', { name: 'Show these days' }).click();
  await page.waitForURL(/from=/);
  await settled(page);
  assert.match(await focused(page), /^Days: /);
  const { question } = await requestOf(page, 'stickiness');
  assert.deepEqual(question, { metric: 'stickiness', grain: 'day', from: day(last, -9), to: last });
  const { rows } = await ask(server, { metric: 'stickiness', days: 10, end: last });
  assertTable(await tableOf(page, 'stickiness'), rows, 'ten days');
  // The overview compares with the ten days before.
  await page.locator('[data-view="overview"]').click();
  await settled(page);
  const [now, then] = [
    await getJson(server, `/api/analytics/usage?days=10&end=${last}`),
    await getJson(server, `/api/analytics/usage?days=10&end=${day(last, -10)}`),
  ];
  const events = page.locator('[data-card="events"]');
  assert.equal(Number(await events.locator('[data-value]').getAttribute('data-value')), now.total_events);
  assert.equal(
    Number(await events.locator('[data-delta]').getAttribute('data-delta')),
    now.total_events / then.total_events - 1,
  );
  const { question: asked } = await requestOf(page, 'usage');
  assert.deepEqual([asked.metric, asked.from, asked.to], ['trends', day(last, -9), last]);
  await page.locator('[data-pick="days"]').click();
  await page.getByRole('button', { name: 'Last 7 days' }).click();
  await settled(page);
  await page.waitForURL((url) => !url.href.includes('from='));
  // Too many days are an error of the server, which says what is allowed.
  const wrong = await open(context, server, 'stickiness', { days: 400 });
  assert.match(await panel(wrong, 'stickiness').locator('[role="alert"]').textContent(), /400.*365/);
});

test('calendar periods are those of the server, and are compared with the periods before', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'stickiness');
  for (const [name, title] of [
    ['this_month', 'This month'],
    ['last_week', 'Last week'],
    ['yesterday', 'Yesterday'],
  ]) {
    await page.locator('[data-pick="days"]').click();
    await page.getByRole('button', { name: title, exact: true }).click();
    await page.waitForURL(new RegExp(`period=${name}`));
    await settled(page);
    const { question } = await requestOf(page, 'stickiness');
    assert.deepEqual(question, { metric: 'stickiness', grain: 'day', period: name });
    const { rows, window } = await ask(server, question);
    if (name === 'last_week') assert.equal(window.days, 7);
    assertTable(await tableOf(page, 'stickiness'), rows, name);
  }
  const weekly = await open(context, server, 'overview', { period: 'last_week' });
  const now = await getJson(server, '/api/analytics/usage?period=last_week');
  const then = await getJson(server, `/api/analytics/usage?days=7&end=${day(now.window.from, -1)}`);
  const card = weekly.locator('[data-card="mau"]');
  assert.equal(Number(await card.locator('[data-value]').getAttribute('data-value')), now.mau);
  assert.equal(Number(await card.locator('[data-delta]').getAttribute('data-delta')), now.mau / then.mau - 1);
});

test('values and keys are suggested, the most used first', async (t) => {
  const own = await serve(t);
  await post(
    own,
    Array.from({ length: 12 }, (_, n) => ({
      event_type: 'action',
      user_id: `u${n}`,
      feature: 'f',
      metadata: { seats: n % 4 === 0 ? 5 : 70, '<b>plan</b>': 'pro' },
    })),
  );
  const context = await enter(t);
  const page = await open(context, own, 'stickiness', { days: 2 });
  await page.locator('[data-pick="filter"]').click();
  await page.getByLabel('Condition 1: property').selectOption('metadata');
  const offered = (name) =>
    page.getByLabel(name).evaluate((one) => [...one.list.options].map((o) => [o.value, o.label]));
  const key = 'Condition 1: key of the metadata';
  await page.getByLabel(key).focus();
  await until('the keys', async () => (await offered(key)).length > 0);
  assert.deepEqual((await offered(key)).map(([name]) => name).sort(), ['metadata.<b>plan</b>', 'metadata.seats']);
  await page.getByLabel(key).fill('seats');
  const value = 'Condition 1: value';
  await page.getByLabel(value).focus();
  await until('the values', async () => (await offered(value)).length > 0);
  assert.deepEqual(await offered(value), [
    ['70', '9 events'],
    ['5', '3 events'],
  ]);
  // As a browser enters a suggestion.
  await page.getByLabel(value).evaluate((one) => {
    one.value = '70';
    one.dispatchEvent(new InputEvent('input', { inputType: 'insertReplacementText' }));
  });
  assert.deepEqual(await page.locator('.value-chip').allTextContents(), ['70']);
  await page.getByRole('button', { name: 'Apply' }).click();
  await page.waitForURL(/filter=/);
  await settled(page);
  assert.deepEqual((await requestOf(page, 'stickiness')).question.filter, { 'metadata.seats': '70' });
  assert.deepEqual((await tableOf(page, 'stickiness'))[0].slice(0, 2), [1, 9]);
});

test('the chosen zone is remembered, and is part of what is shared', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'stickiness');
  await page.locator('[data-pick="zone"]').click();
  await page.getByLabel('Days begin at midnight of').selectOption('Asia/Tokyo');
  await page.waitForURL(/tz=Asia%2FTokyo/);
  const later = await context.newPage();
  await later.goto(`${server.url}/`);
  await settled(later);
  assert.match(later.url(), /tz=Asia%2FTokyo/);
  const link = await context.newPage();
  await link.goto(address(server, 'stickiness', { days: 7 }));
  await settled(link);
  assert.match(await link.locator('[data-pick="zone"]').textContent(), /UTC/, 'a link has the zone of its author');
  await link.locator('[data-view="live"]').click();
  await link.locator('[data-live="on"]').waitFor();
  assert.equal(await link.locator('[data-pick]').count(), 1, 'of live events the zone alone is chosen');
  await link.locator('[data-pick="zone"]').click();
  await link.getByLabel('Days begin at midnight of').selectOption('UTC');
  const last = await context.newPage();
  await last.goto(`${server.url}/`);
  await settled(last);
  assert.ok(!last.url().includes('tz='), last.url());
});

test('conditions of every kind are entered, and none is lost', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'stickiness');
  await page.locator('[data-pick="filter"]').click();
  const row =
    (n, of = 'Condition') =>
    (name) =>
      page.getByLabel(`${of} ${n}: ${name}`, { exact: true });
  const add = () => page.getByRole('button', { name: 'Add a condition', exact: true }).click();
  const first = row(1);
  // Enter makes a chip, the last value needs none; a comma is part of the value.
  await first('value').fill('reports');
  await page.keyboard.press('Enter');
  await first('value').fill('a, b');
  await page.keyboard.press('Enter');
  await first('value').fill('inbox');
  await page.keyboard.press('Enter');
  await page.keyboard.press('Backspace');
  await first('value').fill('calendar');
  await page.getByRole('button', { name: 'Condition 1: remove a, b' }).click();
  const texts = [
    ['feature', 'isnt', 'search', { not: 'search' }],
    ['url', 'contains', '/docs', { contains: '/docs' }],
    ['url', 'lacks', 'old', { not: { contains: 'old' } }],
    ['url', 'suffix', '.html', { suffix: '.html' }],
    ['user_id', 'matches', '^u[0-9]+$', { matches: '^u[0-9]+$' }],
  ];
  for (const [place, [property, kind, text]] of texts.entries()) {
    await add();
    const at = row(place + 2);
    await at('property').selectOption(property);
    await at('test').selectOption(kind);
    await at('value').fill(text);
  }
  await page.getByLabel('Ignore case').first().check();
  for (const [place, [kind, key]] of [
    ['above', 'n'],
    ['missing', 'm'],
  ].entries()) {
    await add();
    const at = row(place + 7);
    await at('property').selectOption('metadata');
    await at('key of the metadata').fill(key);
    await at('test').selectOption(kind);
    if (kind === 'above') await at('number').fill('2.5');
  }
  await page.getByRole('button', { name: 'Add alternatives' }).click();
  await row('1, condition 1', 'Alternative')('value').fill('home');
  await page.getByRole('button', { name: 'Apply' }).click();
  assert.deepEqual(await page.locator('.condition [role="alert"]').allTextContents(), [
    'Enter a value, or remove the condition.',
  ]);
  await row('2, condition 1', 'Alternative')('property').selectOption('event_type');
  await row('2, condition 1', 'Alternative')('value').fill('conversion');
  await assertAccessible(page, 'the filter');
  await page.getByRole('button', { name: 'Apply' }).click();
  await page.waitForURL(/filter=/);
  const filter = {
    feature: { all: [['reports', 'calendar'], { not: 'search' }] },
    url: { all: [{ contains: '/docs', ignore_case: true }, { not: { contains: 'old' } }, { suffix: '.html' }] },
    user_id: { matches: '^u[0-9]+$' },
    'metadata.n': { above: 2.5 },
    'metadata.m': { exists: false },
    any: [{ feature: 'home' }, { event_type: 'conversion' }],
  };
  assert.deepEqual(JSON.parse(new URLSearchParams(page.url().split('?')[1]).get('filter')), filter);
  await settled(page);
  assert.equal(await panel(page, 'stickiness').getAttribute('data-state'), 'empty', 'the server takes all of them');
  assert.deepEqual(await page.locator('.picker > .chip').allTextContents(), [
    'feature is reports or calendar',
    'feature is not search',
    'url contains /docs',
    'url does not contain old',
    'url ends with .html',
    'user id matches ^u[0-9]+$',
    'n is more than 2.5',
    'm is not set',
    '(feature is home, or else event type is conversion)',
  ]);
  await page.getByRole('button', { name: 'Remove the condition feature is not search' }).click();
  await page.waitForURL((url) => !url.href.includes('search'));
  assert.deepEqual(JSON.parse(new URLSearchParams(page.url().split('?')[1]).get('filter')), {
    ...filter,
    feature: ['reports', 'calendar'],
  });
});

test('a cohort has the days of the view, or days of its own', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'stickiness', { days: 7 });
  await page.locator('[data-pick="cohort"]').click();
  await page.getByText('New cohort').click();
  await page.getByLabel('Name').fill('of a month');
  await page.getByLabel('Condition 1: value').fill('reports');
  await page.getByLabel('Of which days').selectOption('30');
  await page.locator('.popover').getByRole('button', { name: 'Save' }).click();
  await page.waitForURL(/cohort=/);
  await settled(page);
  const { cohorts } = await getJson(server, '/api/analytics/cohorts');
  assert.deepEqual(
    cohorts.map(({ did, window }) => [did, window]),
    [[{ filter: { feature: 'reports' }, at_least: 1 }, { days: 30 }]],
  );
  const { rows } = await ask(server, { metric: 'stickiness', days: 7, filter: { cohort: 'of a month' } });
  assertTable(await tableOf(page, 'stickiness'), rows, 'stickiness');
  await page.locator('[data-pick="cohort"]').click();
  await page.getByText('feature is reports, 1× or more, of the last 30 days').waitFor();
  await assertAccessible(page, 'the cohorts');
});

test('a step takes any condition', async (t) => {
  const context = await enter(t);
  const steps = [{ feature: 'dashboard' }, { feature: 'reports' }];
  const page = await open(context, server, 'funnel', { q: { steps } });
  await page.getByRole('button', { name: 'Step 2: all conditions' }).click();
  const dialog = page.getByRole('dialog', { name: 'Step 2' });
  await assertAccessible(page, 'the conditions of a step');
  await dialog.getByRole('button', { name: 'Add a condition', exact: true }).click();
  await dialog.getByLabel('Condition 2: property').selectOption('metadata');
  await dialog.getByLabel('Condition 2: key of the metadata').fill('plan');
  await dialog.getByLabel('Condition 2: value').fill('pro');
  await page.keyboard.press('Enter');
  await dialog.getByLabel('Condition 2: value').fill('team');
  await dialog.getByRole('button', { name: 'Apply' }).click();
  await page.waitForURL(/team/);
  await settled(page);
  const { question } = await requestOf(page, 'funnel');
  assert.deepEqual(question.steps, [steps[0], { feature: 'reports', 'metadata.plan': ['pro', 'team'] }]);
  assertTable(await tableOf(page, 'funnel'), (await ask(server, question)).rows, 'funnel');
  assert.deepEqual(await page.locator('.step-list .name').allTextContents(), [
    'dashboard',
    'reports, plan is pro or team',
  ]);
});

test('files and prints say what they are of', async (t) => {
  const context = await enter(t, { acceptDownloads: true, colorScheme: 'dark' });
  const steps = [{ feature: 'dashboard' }, { event_type: 'action', feature: 'reports' }];
  const page = await open(context, server, 'funnel', { q: { steps }, filter: { 'metadata.plan': 'pro' } });
  // What the picture writes, which is drawn on a canvas.
  await page.evaluate(() => {
    window.written = [];
    const original = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function fillText(text, ...place) {
      window.written.push(text);
      return original.call(this, text, ...place);
    };
  });
  const saved = async (tool) => {
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      panel(page, 'funnel').locator(`[data-tool="${tool}"]`).click(),
    ]);
    return download;
  };
  const { ts, window: days } = await ask(server, { metric: 'event_types' });
  const name =
    /^echopilot-funnel-(\S{10})-(\S{10})-UTC-Filter-plan-is-pro-Steps-1.-dashboard-2.-reports-action-Within-14d.*-\d{4}-\d\d-\d\dT\d{4}Z\.(png|csv)$/;
  const png = await saved('png');
  const [, from, to] = png.suggestedFilename().match(name) ?? assert.fail(png.suggestedFilename());
  assert.deepEqual([from, to], [days.from, days.to]);
  const lines = await page.evaluate(() => window.written);
  for (const line of [
    /^Conversion$/,
    /, UTC \(the last day is not over\)$/,
    /^Filter: plan is pro$/,
    new RegExp(`^computed ${ts.slice(0, 10)} \\d\\d:\\d\\d UTC$`),
    /^Steps: 1\. dashboard → 2\. reports \(action\)$/,
    /^Within 14d, in this order$/,
  ])
    assert.ok(
      lines.some((text) => line.test(text)),
      `${line} in ${lines.join(' | ')}`,
    );
  assert.match((await saved('csv')).suggestedFilename(), name);
  // A print is ink on white, and has what the bar says on the screen.
  await page.emulateMedia({ media: 'print', colorScheme: 'dark' });
  await page.evaluate(() => dispatchEvent(new Event('beforeprint')));
  assert.match(await page.locator('.about').innerText(), /Filter: plan is pro\ncomputed /);
  assert.ok(await page.locator('.bar').isHidden());
  const look = await page.evaluate(() => {
    const { backgroundColor, color } = getComputedStyle(document.body);
    return [backgroundColor, color, document.querySelector('.canvas').clientWidth <= 700];
  });
  assert.deepEqual(look, ['rgb(255, 255, 255)', 'rgb(0, 0, 0)', true]);
  await page.evaluate(() => dispatchEvent(new Event('afterprint')));
  await page.emulateMedia({ media: 'screen' });
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), 'dark');
});

test('the events of the window are exported in each format', async (t) => {
  const context = await enter(t, { acceptDownloads: true });
  const { last_day: last } = await getJson(server, '/api/analytics/status');
  const from = day(last, -2);
  const page = await open(context, server, 'stickiness', { from, to: last, filter: { event_type: 'action' } });
  const names = new Map();
  const asked = new URLSearchParams({ from, to: last, filter: '{"event_type":"action"}' });
  for (const [format, title] of [
    ['parquet', 'Parquet'],
    ['csv', 'CSV'],
    ['csv-spreadsheet', 'CSV for a spreadsheet'],
    ['ndjson', 'NDJSON'],
  ]) {
    await page.locator('[data-action="export"]').click();
    await page.getByText('Only those that meet the filter: event type is action.').waitFor();
    if (format === 'csv') await assertAccessible(page, 'the export');
    await page.getByLabel(title, { exact: true }).check();
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('button', { name: 'Download', exact: true }).click(),
    ]);
    const response = await fetch(`${server.url}/api/analytics/export?${asked}&format=${format}`, {
      headers: { 'X-Dash-Key': KEY },
    });
    const file = await readFile(await download.path());
    assert.ok(file.length > 1_000);
    assert.deepEqual(file, Buffer.from(await response.arrayBuffer()), format);
    names.set(format, download.suggestedFilename().replace(/\d{4}-\d\d-\d\dT\d{4}Z/, 'TIME'));
    await page.locator('dialog').waitFor({ state: 'detached' });
  }
  assert.deepEqual(
    [...names.values()],
    ['parquet', 'csv', 'csv', 'ndjson'].map(
      (end) => `echopilot-events-${from}-${last}-UTC-event-type-is-action-TIME.${end}`,
    ),
  );
});

test('the file of the top features has the change that the table shows', async (t) => {
  const context = await enter(t, { acceptDownloads: true });
  const page = await open(context, server, 'overview', { days: 20 });
  const [download] = await Promise.all([
    page.waitForEvent('download'),
    panel(page, 'features').locator('[data-tool="csv"]').click(),
  ]);
  const [head, first] = (await readFile(await download.path(), 'utf8')).split('\r\n');
  assert.deepEqual(head.slice(1).split(','), ['feature', 'events', 'users', 'change']);
  const [row] = await tableOf(page, 'features');
  assert.deepEqual(first.split(',').slice(1).map(Number), row.slice(1));
});

test('a funnel by groups has the numbers of each group below the chart', async (t) => {
  const context = await enter(t);
  const q = { steps: [{ event_type: 'action' }, { event_type: 'conversion' }], breakdown: 'metadata.plan' };
  const page = await open(context, server, 'funnel', { q });
  const { question } = await requestOf(page, 'funnel');
  const { rows } = await ask(server, question);
  const shown = await page
    .locator('.groups tbody tr')
    .evaluateAll((found) => found.map((row) => [...row.children].slice(0, 3).map((cell) => cell.textContent)));
  const groups = [...new Set(rows.map((row) => row.breakdown))];
  assert.deepEqual(
    shown,
    groups.map((group) => [
      group ?? '(none)',
      ...rows.filter((row) => row.breakdown === group).map((row) => row.users.toLocaleString('en')),
    ]),
  );
  assert.deepEqual(await page.locator('.groups thead th').allTextContents(), [
    'Group',
    '1. any action',
    '2. any conversion',
    'Conversion',
    'Median time',
  ]);
});

test('long names stay within the page, and the common paths have their share', async (t) => {
  const own = await serve(t);
  const long = 'x'.repeat(200);
  await post(
    own,
    ['a', long, 'b', `${long.slice(1)}y`].map((feature, place) => ({
      event_type: 'action',
      user_id: 'u',
      feature,
      ts: new Date(Date.now() - (10 - place) * 60_000).toISOString(),
    })),
  );
  const context = await enter(t, { viewport: { width: 390, height: 800 } });
  const page = await open(context, own, 'paths', { days: 2 });
  assert.equal(
    await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth),
    0,
  );
  const parts = await page
    .locator('.path-part')
    .evaluateAll((found) => found.map((part) => [part.clientWidth, part.parentElement.clientWidth]));
  assert.equal(parts.length, 4);
  for (const [width, room] of parts) assert.ok(width <= room, `${width} of ${room}`);
  assert.equal(await page.locator('.rank-share').textContent(), '100.0%');
});

test('a live view says by its colour whether it is connected, and draws many events', async (t) => {
  const own = await serve(t);
  const context = await enter(t);
  const page = await open(context, own, 'live', { tz: 'Asia/Tokyo' });
  await page.locator('[data-live="on"]').waitFor();
  const dot = () => page.locator('.live-status .dot').evaluate((one) => getComputedStyle(one).backgroundColor);
  const on = await dot();
  const events = Array.from({ length: 100 }, (_, n) => ({ event_type: 'action', user_id: `u${n}`, feature: 'f' }));
  // A message of the stream has at most a hundred.
  for (let n = 1; n <= 4; n += 1) {
    await post(own, events);
    await until('the events', async () => (await page.locator(`[data-accepted="${n}00"]`).count()) === 1);
  }
  await until('the newest', async () => (await page.locator('.live-table tbody tr').count()) === 200);
  const times = await page.locator('.live-table .time').allTextContents();
  assert.deepEqual([...times].sort().reverse(), times, 'newest first');
  await own.down();
  await page.locator('[data-live="off"]').waitFor();
  const off = await dot();
  assert.notEqual(on, off);
  const [red, green] = off.match(/\d+/g).map(Number);
  assert.ok(red > green, `disconnected is ${off}`);
  const [less, more] = on.match(/\d+/g).map(Number);
  assert.ok(more > less, `connected is ${on}`);
  await own.again();
});

test('a new store shows the first steps until they are done or closed', async (t) => {
  const own = await serve(t);
  await post(own, [{ event_type: 'page_view', feature: 'home' }]);
  const context = await enter(t, { timezoneId: 'Europe/Berlin' });
  const page = await open(context, own, 'overview');
  const done = () =>
    page
      .locator('[data-start]')
      .evaluateAll((found) =>
        Object.fromEntries(found.map((step) => [step.dataset.start, step.dataset.done === 'true'])),
      );
  await page.getByText('First steps: 1 of 5 done').waitFor();
  await page.locator('[data-start="user"] summary').click();
  await page.locator('[data-start="user"]').getByText('EchoPilot.setUserId').waitFor();
  await page.locator('[data-start="zone"] summary').click();
  await page.getByText('echopilot serve --zones Europe/Berlin').waitFor();
  await assertAccessible(page, 'the first steps');
  await page.locator('[data-start="retention"] summary').click();
  await page.getByRole('button', { name: 'It is decided' }).click();
  await post(own, [{ event_type: 'conversion', feature: 'signup', user_id: 'u' }]);
  await page.reload();
  await settled(page);
  await page.getByText('First steps: 4 of 5 done').waitFor();
  assert.deepEqual(await done(), { event: true, user: true, conversion: true, zone: false, retention: true });
  await page.getByRole('button', { name: 'Close the first steps' }).click();
  await page.reload();
  await settled(page);
  assert.equal(await page.locator('[data-start]').count(), 0);
  // An old store has none.
  const old = await open(context, server, 'overview');
  assert.equal(await old.locator('[data-start]').count(), 0);
});

test('a view of a day that is not over is asked again each minute, and says as of when', async (t) => {
  const own = await serve(t);
  const event = { event_type: 'page_view', feature: 'home', user_id: 'u' };
  await post(own, [event]);
  const context = await enter(t);
  const page = await context.newPage();
  await page.clock.install();
  await page.goto(address(own, 'overview', { days: 7 }));
  await settled(page);
  const events = page.locator('[data-card="events"] [data-value]');
  assert.equal(await events.getAttribute('data-value'), '1');
  assert.match(await page.locator('[data-as-of]').textContent(), /^as of \d\d:\d\d$/);
  await post(own, [event, event]);
  await page.clock.fastForward(61_000);
  await page.locator('[data-card="events"] [data-value="3"]').waitFor();
  // Days that are over stay as they are.
  const past = await context.newPage();
  const requests = [];
  await past.clock.install();
  await past.goto(address(own, 'overview', { days: 7, end: day(new Date().toISOString().slice(0, 10), -1) }));
  await settled(past);
  past.on('request', (request) => requests.push(request.url()));
  await past.clock.fastForward(61_000);
  await past.evaluate(() => new Promise(requestAnimationFrame));
  assert.deepEqual(requests, []);
});

test('the field for the key stays, however often Escape is pressed', async (t) => {
  const context = await enter(t, { key: null });
  const page = await context.newPage();
  await page.goto(address(server, 'overview'));
  const field = page.getByLabel('Dashboard key');
  await field.waitFor();
  for (let n = 0; n < 4; n += 1) await page.keyboard.press('Escape');
  await field.fill(KEY);
  await page.keyboard.press('Enter');
  await settled(page);
});

test('the focus is never lost, and numbers that change are announced', async (t) => {
  const context = await enter(t, { viewport: { width: 390, height: 800 } });
  const page = await open(context, server, 'retention', { days: 90 });
  await page.locator('h1').click();
  await page.keyboard.press('/');
  await page.getByLabel('Condition 1: property').waitFor();
  await page.keyboard.press('Escape');
  assert.match(await focused(page), /^Filter: /);
  await page.locator('[data-pick="days"]').click();
  await page.getByRole('button', { name: 'Last 180 days' }).click();
  await settled(page);
  assert.match(await focused(page), /^Days: /);
  await page.waitForFunction(() => document.getElementById('announcer').textContent.startsWith('Retention: '));
  // A chart that is wider than the screen is scrolled with the keyboard.
  const scroller = panel(page, 'retention').locator('.scroll-x');
  await scroller.focus();
  assert.match(await focused(page), /^Retention, can be scrolled/);
  await page.keyboard.press('ArrowRight');
  await until('scrolling', () => scroller.evaluate((one) => one.scrollLeft > 0));
  // Going through a list of choices is one step of the history.
  const steps = await page.evaluate(() => history.length);
  await page.locator('.fold > summary').click();
  const users = page.getByLabel('Counted as back');
  await users.focus();
  for (const choice of ['on_or_after', 'on', 'on_or_after']) await users.selectOption(choice);
  await page.waitForURL(/on_or_after/);
  assert.equal(await page.evaluate(() => history.length), steps + 1);
});

const OWN = {
  funnel: { q: { steps: [{ feature: 'dashboard' }, { feature: 'reports' }], breakdown: 'metadata.plan' } },
  experiments: {
    days: 60,
    q: { exposure: { event_type: 'page_view' }, variant: 'plan', goal: { event_type: 'conversion' } },
  },
  retention: { days: 60 },
};

for (const [width, height] of [
  [390, 844],
  [1024, 768],
  [1440, 900],
]) {
  test(`every view is accessible, and the page hardly moves while it loads, at ${width}`, async (t) => {
    const views = await open(await enter(t, { viewport: { width, height } }), server, 'engine');
    for (const view of VIEWS) {
      await show(views, server, view, OWN[view]);
      await assertAccessibleInBoth(views, view);
    }
    const context = await enter(t, { viewport: { width, height }, reducedMotion: 'no-preference' });
    await context.addInitScript(() => {
      window.shift = 0;
      new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
      }).observe({ type: 'layout-shift', buffered: true });
    });
    // On a phone every view: there it shifts most.
    for (const view of width === 390 ? VIEWS : ['overview']) {
      const page = await open(context, server, view, OWN[view]);
      const shift = await page.evaluate(() => window.shift);
      t.diagnostic(`layout shift of ${view}: ${shift.toFixed(3)}`);
      assert.ok(shift < 0.1, `${view} shifts by ${shift}`);
      await page.close();
    }
  });
}

function day(text, days) {
  const moved = new Date(`${text}T00:00:00Z`);
  moved.setUTCDate(moved.getUTCDate() + days);
  return moved.toISOString().slice(0, 10);
}

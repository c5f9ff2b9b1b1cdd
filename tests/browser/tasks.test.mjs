// The everyday tasks of people, each from an open overview, with the number of steps that it takes: clicks, choices and
// typed values. All of them share a server and a browser.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import {
  address,
  ask,
  assertTable,
  compared,
  fill,
  flat,
  getJson,
  open,
  panel,
  post,
  requestOf,
  settled,
  tableOf,
  visitor,
} from './dashboard.mjs';
import { KEY, openBrowser, Server } from './harness.mjs';

let browser;
let context;
let server;
before(async () => {
  // Two quarters, so that one can be compared with the other.
  [browser, server] = await Promise.all([openBrowser(), Server.start({ prepare: (folder) => fill(folder, 200) })]);
  context = await visitor(browser);
  const view = { event_type: 'page_view', feature: 'pricing', url: '/pricing' };
  await post(server, [
    ...['en', 'en', 'de'].map((language, n) => ({
      ...view,
      user_id: `reader ${n}`,
      metadata: { utm_source: 'letter', browser: 'Firefox', os: 'Linux', language, country: 'DE' },
    })),
    ...Array.from({ length: 3 }, () => ({ ...view, user_id: 'leaves' })),
  ]);
});
after(async () => {
  await browser.close();
  await server.stop();
});

/** A user of the dashboard, who counts the steps. */
class Actor {
  steps = 0;

  constructor(page) {
    this.page = page;
  }

  async click(target, options) {
    this.steps += 1;
    await (typeof target === 'string' ? this.page.locator(target) : target).click(options);
  }

  async button(name, within = this.page) {
    await this.click(within.getByRole('button', { name, exact: true }));
  }

  /** Opens a view from the list of views. */
  async view(name) {
    await this.click(`[data-view="${name}"]`);
    await this.page.locator(`[data-view="${name}"][aria-current]`).waitFor();
    await settled(this.page);
  }

  async choose(label, value) {
    this.steps += 1;
    await this.page.getByLabel(label, { exact: true }).selectOption(value);
  }

  async type(label, value) {
    this.steps += 1;
    await this.page.getByLabel(label, { exact: true }).fill(value);
  }

  async press(key) {
    this.steps += 1;
    await this.page.keyboard.press(key);
  }

  /** Goes to a control with Tab, whose presses are not counted, as a hand that moves to a mouse is not. */
  async tabTo(name) {
    const isThere = () =>
      this.page.evaluate((wanted) => {
        const { activeElement: element } = document;
        const label = element.getAttribute('aria-label') ?? element.textContent;
        return label.startsWith(wanted);
      }, name);
    for (let tabs = 0; tabs < 80; tabs += 1) {
      if (await isThere()) return;
      await this.page.keyboard.press('Tab');
    }
    assert.fail(`${name} is not reached with Tab`);
  }
}

/** A task, and the most steps that it may take. */
function task(name, most, work) {
  test(`${name}: at most ${most} steps`, async () => {
    const page = await open(context, server, 'overview');
    const actor = new Actor(page);
    await work(page, actor);
    assert.deepEqual(context.complaints, []);
    assert.ok(actor.steps <= most, `${actor.steps} steps`);
    await page.close();
  });
}

const shows = (page, name, question) =>
  compared(page, async () => {
    const shown = (await requestOf(page, name)).question;
    for (const [field, value] of Object.entries(question)) assert.deepEqual(shown[field], value, field);
    const answer = await ask(server, shown);
    assertTable(await tableOf(page, name), answer.rows, name);
    return answer;
  });

/** The numbers of the cells of rows. */
const numbersOf = (rows) => rows.map((cells) => cells.filter((cell) => typeof cell === 'number'));

/** The number that an element of the page shows. */
const numberOf = async (page, selector) => Number(await page.locator(selector).getAttribute('data-value'));

/** The file that an act downloads. */
async function downloaded(page, act) {
  const [download] = await Promise.all([page.waitForEvent('download'), act()]);
  return { name: download.suggestedFilename(), bytes: await readFile(await download.path()) };
}

/** A response of the server, as it is. */
async function raw(place, options = {}) {
  const response = await fetch(`${server.url}/api/analytics/${place}`, {
    ...options,
    headers: { 'X-Dash-Key': KEY, ...options.headers },
  });
  assert.equal(response.status, 200);
  return Buffer.from(await response.arrayBuffer());
}

task('see the features that grew most', 2, async (page, actor) => {
  await actor.click(panel(page, 'features').locator('[data-tool="table"]'));
  await actor.click(panel(page, 'features').getByRole('button', { name: 'Change', exact: true }));
  const changes = await panel(page, 'features')
    .locator('tbody td:last-child')
    .evaluateAll((found) => found.map((cell) => Number(cell.dataset.value)));
  assert.deepEqual(
    [...changes].sort((a, b) => b - a),
    changes,
  );
  const { rows } = await ask(server, { metric: 'feature_usage', days: 30, limit: changes.length });
  const events = await panel(page, 'features')
    .locator('tbody tr')
    .evaluateAll((found) =>
      found.map((row) => [
        row.firstChild.textContent,
        Number([...row.children].find((cell) => cell.dataset.value).dataset.value),
      ]),
    );
  const byName = (pairs) => [...pairs].sort(([a], [b]) => (a < b ? -1 : 1));
  assert.deepEqual(byName(events), byName(rows.map((row) => [row.feature, row.events])));
});

task('build a funnel of four steps by plan, and share it', 14, async (page, actor) => {
  await actor.click('[data-view="funnel"]');
  await page.waitForURL(/steps/);
  await settled(page);
  for (const [step, type] of [
    [3, 'action'],
    [4, 'conversion'],
  ]) {
    await actor.button('Add a step');
    await page.waitForURL(/%7B%7D/);
    await actor.choose(`Step ${step}: event type`, type);
    await page.waitForURL(new RegExp(type));
    await settled(page);
  }
  await actor.choose('Breakdown', 'metadata');
  await actor.type('Key of the metadata to break down by', 'plan');
  await page.keyboard.press('Enter');
  await page.waitForURL(/metadata\.plan/);
  await settled(page);
  const { rows } = await shows(page, 'funnel', { breakdown: 'metadata.plan' });
  assert.ok(rows.length > 4 && rows.length % 4 === 0);
  await actor.button('Save');
  await actor.type('Name', 'Funnel by plan');
  await actor.button('Save', page.getByRole('dialog'));
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  await actor.view('reports');
  await actor.button('Share Funnel by plan');
  await actor.button('Create a link');
  const link = await page.locator('[data-link-text="link"]').textContent();
  const guests = await visitor(browser, { key: null });
  const guest = await guests.newPage();
  await guest.goto(link);
  await guest.locator('[data-panel="funnel-by-plan-funnel"][data-state="ready"]').waitFor();
  assert.deepEqual(numbersOf(await tableOf(guest, 'funnel-by-plan-funnel')), numbersOf(rows.map(flat)));
  await guests.close();
});

task('see the weekly retention of users who began on the web', 7, async (page, actor) => {
  await actor.click('[data-view="retention"]');
  await settled(page);
  await actor.button('Week');
  await settled(page);
  await actor.button('Start: all conditions');
  await actor.choose('Condition 1: property', 'metadata');
  await actor.type('Condition 1: key of the metadata', 'platform');
  await page.locator('datalist option[value="metadata.platform"]').waitFor({ state: 'attached' });
  await actor.type('Condition 1: value', 'web');
  await page.locator('datalist option[value="web"]').waitFor({ state: 'attached' });
  await actor.button('Apply');
  await page.waitForURL(/platform/);
  await settled(page);
  await shows(page, 'retention', { grain: 'week', start: { 'metadata.platform': 'web' } });
});

task('count only events with a number above a limit', 6, async (page, actor) => {
  await actor.click('[data-pick="filter"]');
  await actor.choose('Condition 1: property', 'metadata');
  await actor.type('Condition 1: key of the metadata', 'seats');
  await actor.choose('Condition 1: test', 'above');
  await actor.type('Condition 1: number', '10');
  await actor.button('Apply');
  await page.waitForURL(/above/);
  await settled(page);
  assert.equal(await panel(page, 'event-types').locator('[role="alert"]').count(), 0);
  assert.deepEqual((await requestOf(page, 'event-types')).question.filter, { 'metadata.seats': { above: 10 } });
});

task('leave out a feature', 5, async (page, actor) => {
  await actor.click('[data-pick="filter"]');
  await actor.choose('Condition 1: test', 'isnt');
  await actor.type('Condition 1: value', 'dashboard');
  await actor.button('Apply');
  await page.waitForURL(/not/);
  await settled(page);
  await shows(page, 'event-types', { filter: { feature: { not: 'dashboard' } } });
});

task('compare this quarter with the last one', 4, async (page, actor) => {
  await actor.click('[data-pick="days"]');
  await actor.button('This quarter');
  await page.waitForURL(/period=this_quarter/);
  await settled(page);
  const { total_events: events } = await getJson(server, '/api/analytics/usage?period=this_quarter');
  assert.equal(await numberOf(page, '[data-card="events"] [data-value]'), events);
  const delta = page.locator('[data-card="events"] [data-delta]');
  const change = (await delta.count()) && Number(await delta.getAttribute('data-delta'));
  await actor.view('trends');
  await actor.choose('Compare with', 'previous');
  await page.waitForURL(/previous/);
  await settled(page);
  const answer = await shows(page, 'trends', { period: 'this_quarter', compare: 'previous' });
  const { rows } = answer;
  assert.equal(answer.compared.from.slice(8), '01', 'the quarter before begins with a month');
  // The hours of the running day are compared with a day whose events have expired, for most quarters.
  const isUnknown = rows.some((row) => row.partial && row.previous === null);
  assert.equal(await page.locator('[data-note="running"]').count(), isUnknown ? 1 : 0);
  const over = rows.filter((row) => !row.partial);
  const pairs = over.filter((row) => row.previous !== null);
  assert.ok(pairs.length >= over.length - 2, 'a quarter is at most two days longer than the one before');
  if (!over.length || pairs.length < over.length) return;
  const between = (from, to) => getJson(server, `/api/analytics/usage?from=${from}&to=${to}`);
  const last = over.at(-1);
  const [now, then] = await Promise.all([
    between(over[0].period, last.period),
    between(over[0].previous_period, last.previous_period),
  ]);
  const sum = (name) => over.reduce((all, row) => all + row[name], 0);
  assert.deepEqual([sum('value'), sum('previous')], [now.total_events, then.total_events]);
  assert.equal(change, now.total_events / then.total_events - 1);
});

task('download the events of the last 90 days as Parquet', 4, async (page, actor) => {
  await actor.click('[data-pick="days"]');
  await actor.button('Last 90 days');
  await page.waitForURL(/days=90/);
  await settled(page);
  await actor.button('Export events');
  const file = await downloaded(page, () => actor.button('Download'));
  assert.match(file.name, /^echopilot-events-.*\.parquet$/);
  assert.equal(file.bytes.subarray(0, 4).toString(), 'PAR1');
  assert.equal(file.bytes.length, (await raw('export?days=90&format=parquet')).length);
});

task('see who is active right now', 1, async (page, actor) => {
  const view = { event_type: 'page_view', feature: 'now', url: '/now' };
  await post(server, [{ ...view, user_id: 'one' }, { ...view, user_id: 'one' }, { ...view, user_id: 'two' }, view]);
  await actor.view('live');
  // The other events of this test may be of these minutes, or not any more.
  const { rows, ts } = await ask(server, { metric: 'events', days: 2, limit: 1000 });
  const recent = rows.filter((row) => Date.parse(ts) - Date.parse(row.ts) < 5 * 60_000);
  const users = new Set(recent.map((row) => row.user_id).filter(Boolean));
  assert.ok(users.has('one') && users.has('two'));
  assert.equal(await numberOf(page, '[data-fact="now-users"]'), users.size);
  const cells = page.locator('[data-page="now"] [data-value]');
  assert.deepEqual(await cells.evaluateAll((found) => found.map((cell) => cell.dataset.value)), ['4', '2']);
});

task('define a cohort of heavy users, and use it', 6, async (page, actor) => {
  await actor.click('[data-pick="cohort"]');
  await actor.click(page.getByText('New cohort'));
  await actor.type('Name', 'heavy');
  await actor.type('Events', '20');
  await actor.click(page.locator('.popover').getByRole('button', { name: 'Save' }));
  await page.waitForURL(/cohort=heavy/);
  await settled(page);
  await shows(page, 'event-types', { filter: { cohort: 'heavy' } });
});

task('save a view as a report', 3, async (page, actor) => {
  await actor.view('lifecycle');
  const { question } = await requestOf(page, 'lifecycle');
  await actor.button('Save');
  await actor.button('Save', page.getByRole('dialog'));
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  const { reports } = await getJson(server, '/api/analytics/reports');
  assert.deepEqual(reports.find(({ id }) => id === 'lifecycle').queries, [question]);
});

task('read the history of a user', 2, async (page, actor) => {
  await actor.view('explorer');
  const link = page.locator('.event-table a').first();
  const user = await link.innerText();
  await actor.click(link);
  await page.locator('[data-panel="user-events"][data-state="ready"]').waitFor();
  const stored = (await raw(`users/${encodeURIComponent(user)}/events`)).toString().trim().split('\n');
  assert.equal(await numberOf(page, '[data-fact="events"]'), stored.length);
  assert.equal(await page.locator('.event-table tbody tr').count(), Math.min(stored.length, 500));
});

task('erase a user', 7, async (page, actor) => {
  await actor.view('explorer');
  await actor.button('A user');
  await actor.type('User id', 'leaves');
  await actor.button('Show');
  await page.locator('[data-panel="user"][data-state="ready"]').waitFor();
  await actor.button('Erase this user…');
  await actor.type('Type “leaves” to confirm', 'leaves');
  await actor.button('Erase', page.getByRole('dialog'));
  const receipt = page.locator('[data-receipt]');
  await receipt.waitFor();
  assert.match(await receipt.innerText(), /\b3\b/);
  assert.equal((await raw('users/leaves/events')).toString().trim(), '');
});

task('see which events were rejected, and why', 2, async (page, actor) => {
  const refused = await fetch(`${server.url}/api/analytics/event`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ events: [{ event_type: 'tap', feature: 'f' }] }),
  });
  assert.equal(refused.status, 400);
  await actor.view('explorer');
  await actor.button('Rejected');
  await page.locator('[data-panel="rejections"][data-state="ready"]').waitFor();
  const { rejections } = await getJson(server, '/api/analytics/quarantine');
  const [[code, events]] = Object.entries(rejections.by_code);
  assert.equal(await numberOf(page, `[data-fact="${code}"]`), events);
  const text = await panel(page, 'rejections').innerText();
  assert.ok(text.includes('tap') && text.includes(rejections.recent[0].message), text);
});

task('see the days of a zone, now and at the next visit', 2, async (page, actor) => {
  await actor.click('[data-pick="zone"]');
  await actor.choose('Days begin at midnight of', 'America/New_York');
  await page.waitForURL(/New_York/);
  await settled(page);
  await shows(page, 'active-users', { tz: 'America/New_York' });
  const next = await open(context, server, 'overview');
  assert.equal((await requestOf(next, 'active-users')).question.tz, 'America/New_York');
  await next.evaluate(() => localStorage.clear());
  await next.close();
});

task('see today by hour', 3, async (page, actor) => {
  await actor.view('trends');
  await actor.click('[data-pick="days"]');
  await actor.button('Today');
  await page.waitForURL(/period=today/);
  await settled(page);
  const { rows } = await shows(page, 'trends', { period: 'today', grain: 'hour' });
  assert.equal(rows.length, 24);
});

task('note a release, and see it in a chart', 6, async (page, actor) => {
  await actor.view('reports');
  await actor.button('Annotations');
  await actor.button('New annotation');
  await actor.type('What happened', 'Release 2');
  await actor.button('Save', page.getByRole('dialog'));
  await page.locator('[data-annotation]').waitFor();
  await actor.view('overview');
  await panel(page, 'active-users').getByText('Release 2').waitFor();
  const { annotations } = await getJson(server, '/api/analytics/annotations');
  assert.deepEqual(
    annotations.map(({ text }) => text),
    ['Release 2'],
  );
});

/** The numbers of a list of the web view, and those of the API. */
async function listIs(page, name, property) {
  const { question } = await requestOf(page, name);
  assert.equal(question.breakdown, property);
  const { totals } = await ask(server, question);
  const expected = totals.map((total) => total.sessions ?? (total.series === 'A' ? total.value : 0)).filter(Boolean);
  const shown = await panel(page, name)
    .locator('tbody tr')
    .evaluateAll((rows) => rows.map((row) => Number(row.querySelector('[data-value]').dataset.value)));
  const descending = (numbers) => [...numbers].sort((a, b) => b - a);
  assert.deepEqual(descending(shown), descending(expected), name);
  return totals;
}

task('see the pages that are viewed most', 1, async (page, actor) => {
  await actor.view('web');
  await listIs(page, 'pages', 'feature');
});

task('see where visits come from, and with what', 5, async (page, actor) => {
  await actor.view('web');
  await listIs(page, 'sources', 'metadata.referrer');
  await listIs(page, 'countries', 'metadata.country');
  for (const [name, choice, property] of [
    ['campaigns', 'Campaign', 'metadata.utm_campaign'],
    ['devices', 'Browser', 'metadata.browser'],
    ['countries', 'Language', 'metadata.language'],
  ]) {
    await actor.button(choice, panel(page, name));
    await page.waitForURL(new RegExp(property));
    await settled(page);
    const totals = await listIs(page, name, property);
    assert.ok(
      totals.some(({ kind, sessions }) => kind === 'value' && sessions > 0),
      name,
    );
  }
});

task('sum the revenue, and see its 90th percentile', 4, async (page, actor) => {
  await actor.view('trends');
  await actor.choose('Series A: measure', 'sum');
  await page.getByText('Choose a number').waitFor();
  await actor.type('Series A: number in the metadata', 'amount');
  await page.keyboard.press('Enter');
  for (const measure of ['sum', 'p90']) {
    if (measure !== 'sum') await actor.choose('Series A: measure', measure);
    await page.waitForURL(new RegExp(`${measure}.*metadata.amount`));
    await settled(page);
    const { totals } = await shows(page, 'trends', { series: [{ measure, of: 'metadata.amount' }] });
    assert.ok(totals[0].value > 0);
  }
});

task('save a chart as a picture', 1, async (page, actor) => {
  const png = panel(page, 'active-users').locator('[data-tool="png"]');
  const file = await downloaded(page, () => actor.click(png));
  assert.match(file.name, /\.png$/);
  assert.deepEqual([...file.bytes.subarray(1, 4)].map((code) => String.fromCharCode(code)).join(''), 'PNG');
});

task('save numbers for a spreadsheet', 1, async (page, actor) => {
  const { question } = await requestOf(page, 'active-users');
  const csv = panel(page, 'active-users').locator('[data-tool="csv"]');
  const file = await downloaded(page, () => actor.click(csv));
  assert.match(file.name, /\.csv$/);
  const expected = await raw('query', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Accept: 'text/csv; variant=spreadsheet' },
    body: JSON.stringify(question),
  });
  assert.equal(file.bytes.toString(), expected.toString());
});

task('choose days, a filter and a table with the keyboard alone', 7, async (page, actor) => {
  await actor.tabTo('Days: ');
  await actor.press('Enter');
  // The focus follows a moment later.
  await page.locator('.popover:focus-within').waitFor();
  await actor.tabTo('Last 7 days');
  await actor.press('Enter');
  await page.waitForURL(/days=7/);
  await settled(page);
  await actor.press('/');
  await page.locator('.popover:focus-within').waitFor();
  await actor.tabTo('Condition 1: value');
  await page.keyboard.type('dashboard');
  actor.steps += 1;
  await actor.press('Enter');
  await actor.tabTo('Apply');
  await actor.press('Enter');
  await page.waitForURL(/filter/);
  await settled(page);
  await actor.tabTo('Show the table: Events by type');
  await actor.press('Enter');
  const shown = panel(page, 'event-types').locator('tbody tr');
  const { rows } = await ask(server, { metric: 'event_types', days: 7, filter: { feature: 'dashboard' } });
  assert.equal(await shown.count(), rows.length);
  assert.match(
    await page.evaluate(() => document.activeElement.getAttribute('aria-label')),
    /^Show the chart/,
    'the focus stays at the button',
  );
});

task('hear new numbers once, and the name of each control', 3, async (page, actor) => {
  await actor.view('retention');
  const nameless = await page.locator('button, a[href], input, select, [role="img"], table').evaluateAll((found) =>
    found
      .filter((one) => one.checkVisibility())
      .filter((one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.length || one.caption))
      .map((one) => one.outerHTML),
  );
  assert.deepEqual(nameless, []);
  await page.evaluate(() => {
    window.heard = [];
    const announcer = document.getElementById('announcer');
    new MutationObserver(() => window.heard.push(announcer.textContent)).observe(announcer, { childList: true });
  });
  await actor.click('[data-pick="days"]');
  await actor.button('Last 90 days');
  await page.waitForURL(/days=90/);
  await settled(page);
  const { rows } = await ask(server, (await requestOf(page, 'retention')).question);
  const average = rows.find(({ cohort }) => cohort === 'average').cells[1];
  const share = average.toLocaleString('en', { style: 'percent', minimumFractionDigits: 1, maximumFractionDigits: 1 });
  await page.waitForFunction(() => window.heard.length > 0);
  const heard = await page.evaluate(() => window.heard);
  assert.equal(heard.length, 1);
  assert.ok(heard[0].startsWith('Retention: ') && heard[0].includes(`Week 1: ${share}`), heard[0]);
});

task('print a view with what it is of', 1, async (page, actor) => {
  await page.goto(address(server, 'lifecycle', { filter: { 'metadata.plan': 'pro' } }));
  await settled(page);
  await page.evaluate(() => {
    addEventListener('beforeprint', () => {
      window.printed = document.querySelector('.about').textContent;
    });
  });
  actor.steps += 1;
  const pdf = await page.pdf();
  assert.equal(pdf.subarray(0, 4).toString(), '%PDF');
  assert.match(await page.evaluate(() => window.printed), /UTC.*\nFilter: plan is pro\ncomputed /);
});

task('go back to a view, its form and its table', 3, async (page, actor) => {
  await page.goto(address(server, 'retention', { days: 60, q: { returning: 'on_or_after' } }));
  await settled(page);
  await actor.click(panel(page, 'retention').locator('[data-tool="table"]'));
  const shown = await panel(page, 'retention').locator('tbody').innerText();
  await actor.view('paths');
  actor.steps += 1;
  await page.goBack();
  await panel(page, 'retention').waitFor();
  await settled(page);
  assert.equal(await page.getByLabel('Counted as back').inputValue(), 'on_or_after');
  assert.equal(await panel(page, 'retention').locator('tbody').innerText(), shown);
});

task('open a view in a second tab without the key again', 1, async (_, actor) => {
  const own = await visitor(browser, { key: null });
  const page = await own.newPage();
  await page.goto(address(server, 'overview'));
  await page.getByLabel('Dashboard key').fill(KEY);
  await page.keyboard.press('Enter');
  await settled(page);
  // A page that no link opened gets nothing.
  const other = await own.newPage();
  await other.goto(address(server, 'overview'));
  await other.getByLabel('Dashboard key').waitFor();
  const [second] = await Promise.all([
    own.waitForEvent('page'),
    page.locator('[data-view="lifecycle"]').click({ modifiers: ['ControlOrMeta'] }),
  ]);
  actor.steps += 1;
  await panel(second, 'lifecycle').waitFor();
  await settled(second);
  assert.equal(await second.getByLabel('Dashboard key').count(), 0);
  const { rows } = await ask(server, (await requestOf(second, 'lifecycle')).question);
  assertTable(await tableOf(second, 'lifecycle'), rows, 'lifecycle');
  assert.deepEqual(own.complaints, []);
  await own.close();
});

task('look up a number on a phone', 3, async (page, actor) => {
  await page.setViewportSize({ width: 390, height: 844 });
  await actor.view('retention');
  await actor.click('[data-pick="days"]');
  await actor.button('Last 90 days');
  await page.waitForURL(/days=90/);
  await settled(page);
  const { clientWidth, scrollWidth } = await page.evaluate(() => document.documentElement);
  assert.equal(scrollWidth, clientWidth, 'everything is within the width of the screen');
  await shows(page, 'retention', { days: 90 });
});

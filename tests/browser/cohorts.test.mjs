// Cohorts where people choose them: from a step, a cell, a property or a list, negated and combined, with any name.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import {
  ask,
  assertAccessible,
  assertTable,
  demoServer,
  enterAs,
  getJson,
  open,
  panel,
  requestOf,
  settled,
  tableOf,
} from './dashboard.mjs';
import { openBrowser } from './harness.mjs';

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

const cohortOf = async (name) =>
  (await getJson(server, '/api/analytics/cohorts')).cohorts.find((cohort) => cohort.name === name);

/** The users with an event in a window. */
async function usersOf(filter, window) {
  const { totals } = await ask(server, { metric: 'trends', series: [{ measure: 'users' }], filter, ...window });
  return totals[0].value;
}

/** Saves the cohort of the open dialog, and returns its name. */
async function saveIn(page, name) {
  const dialog = page.getByRole('dialog', { name: 'Save users as a cohort' });
  if (name) await dialog.getByLabel('Name').fill(name);
  const saved = await dialog.getByLabel('Name').inputValue();
  await dialog.getByRole('button', { name: 'Save' }).click();
  await dialog.locator('[data-action="their-events"]').waitFor();
  return saved;
}

const STEPS = [{ feature: 'dashboard' }, { event_type: 'action' }, { event_type: 'conversion' }];
const PRO = { 'metadata.plan': 'pro' };

for (const [what, given] of [
  ['', {}],
  [', of a view with a filter and an exclusion', { filter: PRO, exclude: [{ filter: { feature: 'search' } }] }],
  [', in any order', { order: 'any', filter: { feature: { not: 'settings' } } }],
]) {
  test(`the users who stopped at a step are a cohort${what}`, async (t) => {
    const context = await enter(t);
    const { filter, ...own } = given;
    const page = await open(context, server, 'funnel', { days: 40, filter, q: { steps: STEPS, ...own } });
    const { question } = await requestOf(page, 'funnel');
    const { rows, window } = await ask(server, question);
    assert.ok(rows[2].drop_off > 0 && rows[2].users > 0);
    const step = panel(page, 'funnel').locator('[data-step="3"]');
    await step.getByRole('button', { name: 'who stopped before step 3' }).click();
    const lost = await saveIn(page, `lost${what}`);
    const fixed = { from: window.from, to: window.to };
    assert.equal(await usersOf({ cohort: lost }, fixed), rows[2].drop_off);
    assert.deepEqual((await cohortOf(lost)).window, fixed, 'the users stay the same when the days change');
    await page.locator('[data-action="use-here"]').click();
    await page.waitForURL(/cohort=lost/);
    await settled(page);
    assert.deepEqual((await requestOf(page, 'funnel')).question.filter, { ...filter, cohort: lost });
    // The page follows its address a moment later.
    const chosen = page.locator('[data-pick="cohort"]').filter({ hasText: 'lost' });
    await chosen.waitFor();
    await page.goBack();
    await chosen.waitFor({ state: 'detached' });
    await settled(page);
    await panel(page, 'funnel').locator('[data-step="2"]').getByRole('button', { name: 'who reached step 2' }).click();
    const reached = await saveIn(page, `reached${what}`);
    assert.equal(await usersOf({ cohort: reached }, fixed), rows[1].users);
    assert.equal(await usersOf({ cohort: [reached, { not: lost }] }, fixed), rows[2].users);
  });
}

test('a click into the chart of a funnel saves the users of the bar', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'funnel', { q: { steps: STEPS } });
  const { rows } = await ask(server, (await requestOf(page, 'funnel')).question);
  await page.evaluate(() => document.querySelector('.canvas').scrollIntoView({ block: 'center' }));
  const box = await panel(page, 'funnel').locator('canvas').boundingBox();
  // At the foot of the first bar.
  await page.mouse.click(box.x + box.width * 0.2, box.y + box.height * 0.7);
  const dialog = page.getByRole('dialog', { name: 'Save users as a cohort' });
  await dialog.waitFor();
  assert.match(await dialog.innerText(), new RegExp(`${rows[0].users} users reached step 1`));
  await assertAccessible(page, 'the dialog');
});

test('the users of a cell of a retention are a cohort', async (t) => {
  const context = await enter(t);
  const q = { grain: 'week', start: { event_type: 'action' } };
  const page = await open(context, server, 'retention', { days: 56, filter: PRO, q });
  const { rows, window } = await ask(server, (await requestOf(page, 'retention')).question);
  const row = rows.find(
    ({ cohort, size, cells }) => cohort !== 'average' && size > 4 && cells[2] > 0 && cells[2] < size,
  );
  const fixed = { from: window.from, to: window.to };
  await page.getByText('Save the users of a cell as a cohort').click();
  const form = panel(page, 'retention').locator('.of-cell');
  await form.getByLabel('Users of').selectOption(row.cohort);
  await form.getByLabel('Back after, in weeks').selectOption('2');
  await form.getByRole('button', { name: 'Save' }).click();
  const back = await saveIn(page, 'back in week 2');
  assert.equal(await usersOf({ cohort: back }, fixed), row.cells[2]);
  await page.keyboard.press('Escape');
  await form.getByLabel('Who').selectOption('away');
  await form.getByRole('button', { name: 'Save' }).click();
  const away = await saveIn(page);
  assert.equal(await usersOf({ cohort: away }, fixed), row.size - row.cells[2]);
  await page.keyboard.press('Escape');
  // A cell of the picture: somewhere in the row of the first cohort, below that of the averages.
  const canvas = panel(page, 'retention').locator('.canvas');
  await canvas.scrollIntoViewIfNeeded();
  const box = await canvas.boundingBox();
  const [first] = rows.filter(({ cohort }) => cohort !== 'average');
  await page.mouse.click(box.x + box.width * 0.4, box.y + 30 + ((box.height - 64) / rows.length) * 1.5);
  const words = await page.getByRole('dialog', { name: 'Save users as a cohort' }).locator('bdi').innerText();
  const [, users, place] =
    words.match(/^(\d+) users? of Week of .* who came back in week (\d+)\.$/) ?? assert.fail(words);
  assert.equal(Number(users), first.cells[place]);
});

/** Opens the choice of cohorts. */
async function choice(page) {
  await page.locator('[data-pick="cohort"]').click();
  return page.locator('.popover:popover-open');
}

/** Opens the form for a new cohort, and gives it a name. */
async function newCohort(page, name) {
  const popover = await choice(page);
  await popover.getByText('New cohort').click();
  await popover.getByLabel('Name').fill(name);
  return popover;
}

const HOSTILE = [
  '<img src=x onerror="window.ran=1">',
  '["a"]',
  '{"not":"b"}',
  '\u202egnp.exe',
  'a/b?c#d%2F & ,',
  '__proto__',
];

test('cohorts by a property and by a list are negated and combined in every view, whatever their names', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'stickiness', { days: 60 });
  const { rows: events } = await ask(server, { metric: 'events', days: 60, limit: 400 });
  const ids = [...new Set(events.map((row) => row.user_id).filter(Boolean))].slice(0, 25);
  const [pro, listed] = HOSTILE;
  const properties = await newCohort(page, pro);
  await properties.getByLabel('Users who').selectOption('last');
  await properties.getByLabel('Condition 1: property').selectOption('metadata');
  await properties.getByLabel('Condition 1: key of the metadata').fill('plan');
  await properties.getByLabel('Condition 1: value').fill('pro');
  await properties.getByLabel('Of which days').selectOption('30');
  await assertAccessible(page, 'a cohort by a property');
  await properties.getByRole('button', { name: 'Save' }).click();
  await page.waitForURL(/cohort=/);
  await settled(page);
  assert.deepEqual(await cohortOf(pro), {
    name: pro,
    last: { property: 'metadata.plan', is: 'pro' },
    window: { days: 30 },
  });
  const list = await newCohort(page, listed);
  await list.getByLabel('Users who').selectOption('users');
  await list.getByLabel('User ids').fill(` ${ids.join(' \r\n\n')}\n${ids[0]}\n`);
  await assertAccessible(page, 'a cohort by a list');
  await list.getByRole('button', { name: 'Save' }).click();
  await page.waitForURL((url) => url.href.includes(encodeURIComponent(listed)));
  await settled(page);
  assert.deepEqual((await cohortOf(listed)).users, ids);
  // One, the other not; then both.
  const cohort = () => requestOf(page, 'stickiness').then(({ question }) => question.filter.cohort);
  assert.equal(await cohort(), listed);
  await (await choice(page)).getByRole('button', { name: `not ${pro}`, exact: true }).click();
  await page.waitForURL(/cohorts=/);
  await settled(page);
  assert.deepEqual(await cohort(), [listed, { not: pro }]);
  for (const view of [
    'overview',
    'trends',
    'web',
    'explorer',
    'lifecycle',
    'funnel',
    'retention',
    'paths',
    'experiments',
  ]) {
    await page.locator(`[data-view="${view}"]`).click();
    await page.locator(`[data-view="${view}"][aria-current]`).waitFor();
    await settled(page);
    assert.equal(await page.locator('[data-panel] [role="alert"]').count(), 0, view);
    assert.equal(await page.locator('.chip').count(), 2, view);
  }
  await page.locator('[data-view="stickiness"]').click();
  await page.reload();
  await settled(page);
  assert.deepEqual(await cohort(), [listed, { not: pro }], 'the address has them');
  const { rows } = await ask(server, { metric: 'stickiness', days: 60, filter: { cohort: [listed, { not: pro }] } });
  assertTable(await tableOf(page, 'stickiness'), rows, 'stickiness');
  const both = await usersOf({ cohort: [listed, pro] }, { days: 60 });
  const only = await usersOf({ cohort: [listed, { not: pro }] }, { days: 60 });
  assert.equal(both + only, ids.length);
  await (await choice(page)).getByRole('button', { name: `and ${pro}`, exact: true }).click();
  await page.waitForURL((url) => !/not/.test(decodeURIComponent(url.hash)));
  await settled(page);
  assert.deepEqual(await cohort(), [listed, pro]);
  await page.getByRole('button', { name: `Remove the cohort condition ${pro}` }).click();
  await page.waitForURL(/cohort=/);
  assert.equal(await cohort(), listed);
  assert.equal(await page.evaluate(() => window.ran), undefined);
  assert.deepEqual(await page.evaluate(() => window.violations), []);
});

test('a cohort of any name is chosen, excluded, replaced only when asked for, and deleted', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'stickiness');
  const save = async (name) => {
    const popover = await newCohort(page, name);
    await popover.getByLabel('Condition 1: value').fill('reports');
    await popover.getByRole('button', { name: 'Save' }).click();
    return popover;
  };
  const question = async () => (await requestOf(page, 'stickiness')).question.filter?.cohort;
  const names = HOSTILE.slice(2);
  for (const name of names) {
    await save(name);
    await page.waitForURL((url) => new URLSearchParams(url.hash.split('?')[1]).get('cohort') === name);
    await settled(page);
    assert.equal(await question(), name);
    const shown = name.replace('\u202e', '⟨U+202E⟩');
    await (await choice(page)).getByRole('button', { name: `not ${shown}`, exact: true }).click();
    await page.waitForURL(/cohorts=/);
    await settled(page);
    assert.deepEqual(await question(), { not: name });
    if (name === names[0]) {
      await page.reload();
      await settled(page);
      assert.deepEqual(await question(), { not: name }, 'the address has it');
      const again = await save(name);
      await again.getByText('already. Save again to replace it').waitFor();
      await page.keyboard.press('Escape');
    }
    const popover = await choice(page);
    await popover.getByRole('button', { name: `Delete the cohort ${shown}`, exact: true }).click();
    await popover.getByRole('button', { name: `Really delete the cohort ${shown}`, exact: true }).click();
    await page.waitForURL((url) => !url.href.includes('cohort'));
    await settled(page);
    assert.equal(await cohortOf(name), undefined);
  }
  assert.equal(await page.evaluate(() => window.ran), undefined);
  const damaged = await open(context, server, 'stickiness', { cohorts: '[1,{"not":2},null', cohort: '' });
  assert.equal((await requestOf(damaged, 'stickiness')).question.filter, undefined);
});

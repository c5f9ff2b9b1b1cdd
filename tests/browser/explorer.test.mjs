// The explorer: single events, the page of a user with access and erasure, and rejected events.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import {
  ask,
  assertAccessible,
  assertAccessibleInBoth,
  demoServer,
  enterAs,
  getJson,
  open,
  panel,
  post,
  requestOf,
  serve,
  settled,
} from './dashboard.mjs';
import { KEY, openBrowser } from './harness.mjs';

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

const ids = (page) => page.locator('.event-table tbody tr').evaluateAll((rows) => rows.map((row) => row.dataset.event));

test('events are listed newest first, and more are loaded with the cursor', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'explorer', { days: 60, filter: { event_type: 'action' } });
  const { question } = await requestOf(page, 'events');
  const first = await ask(server, question);
  assert.deepEqual(question.filter, { event_type: 'action' });
  assert.ok(first.next, 'there are more events than one page holds');
  assert.deepEqual(
    await ids(page),
    first.rows.map(({ event_id: id }) => id),
  );
  await page.getByRole('button', { name: 'Load more' }).click();
  await page.locator('[data-listed="100"]').waitFor();
  const second = await ask(server, { ...question, before: first.next });
  const both = [...first.rows, ...second.rows];
  assert.deepEqual(
    await ids(page),
    both.map(({ event_id: id }) => id),
  );
  const times = both.map(({ ts }) => Date.parse(ts));
  assert.deepEqual(
    times,
    [...times].sort((a, b) => b - a),
  );
  const row = page.locator('.event-table tbody tr').first();
  await row.locator('summary').click();
  const opened = await row.locator('dl').innerText();
  for (const [key, value] of Object.entries(first.rows[0].metadata))
    assert.ok(opened.includes(key) && opened.includes(value));
  assert.ok(opened.includes(first.rows[0].event_id));
});

test('the columns of the list are chosen, also keys of the metadata, and the table has the metadata as JSON', async (t) => {
  const context = await enter(t);
  const page = await open(context, server, 'explorer', { days: 60, filter: { event_type: 'conversion' } });
  const { rows } = await ask(server, (await requestOf(page, 'events')).question);
  const titles = () => page.locator('.event-table thead th').allInnerTexts();
  const boxes = page.locator('.columns');
  await boxes.locator('summary').click();
  for (const title of ['URL', 'Metadata']) {
    await boxes.getByLabel(title, { exact: true }).uncheck();
    await page.waitForFunction(
      (gone) => ![...document.querySelectorAll('.event-table thead th')].some((one) => one.textContent === gone),
      title,
    );
    await settled(page);
  }
  await boxes.getByLabel('Key of the metadata as a column').fill('amount');
  await page.keyboard.press('Enter');
  await page.locator('.event-table thead th', { hasText: 'amount' }).waitFor();
  await settled(page);
  assert.deepEqual(await titles(), ['Time', 'Type', 'Feature', 'User', 'amount']);
  await assertAccessible(page, 'the choice of columns');
  await page.reload();
  await settled(page);
  assert.deepEqual(await titles(), ['Time', 'Type', 'Feature', 'User', 'amount'], 'the address has them');
  assert.deepEqual(
    await page.locator('.event-table tbody td:last-child').allInnerTexts(),
    rows.map(({ metadata }) => String(metadata.amount)),
  );
  await panel(page, 'events').locator('[data-tool="table"]').click();
  const table = panel(page, 'events').locator('table');
  const headings = await table.locator('thead th').allInnerTexts();
  assert.equal(headings.filter((heading) => /metadata/i.test(heading)).length, 1, headings.join(', '));
  const place = headings.indexOf('Metadata');
  const texts = await table.locator(`tbody tr > :nth-child(${place + 1})`).allInnerTexts();
  assert.deepEqual(
    texts.map((text) => JSON.parse(text)),
    rows.map(({ metadata }) => metadata),
  );
});

test('a user has a page with everything stored of them', async (t) => {
  const context = await enter(t, { acceptDownloads: true });
  const page = await open(context, server, 'explorer', { days: 60 });
  const link = page.locator('.event-table a').first();
  const user = await link.innerText();
  await link.click();
  await page.locator('[data-panel="user"][data-state="ready"]').waitFor();
  await settled(page);
  const stored = await fetch(`${server.url}/api/analytics/users/${encodeURIComponent(user)}/events`, {
    headers: { 'X-Dash-Key': KEY },
  });
  const text = await stored.text();
  const events = text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  const times = events.map(({ ts }) => ts).sort((a, b) => Date.parse(a) - Date.parse(b));
  const fact = (name) => page.locator(`[data-fact="${name}"]`).getAttribute('data-value');
  assert.equal(await fact('events'), String(events.length));
  assert.equal(await fact('first'), times[0]);
  assert.equal(await fact('last'), times.at(-1));
  assert.equal((await ids(page)).length, Math.min(events.length, 500));
  const saving = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Download everything stored' }).click();
  assert.equal(await readFile(await (await saving).path(), 'utf8'), text);
  await page.getByRole('link', { name: 'Their events in these days' }).click();
  await page.waitForURL((url) => decodeURIComponent(url.hash).includes('"user_id"'));
  await settled(page);
  const { question } = await requestOf(page, 'events');
  assert.deepEqual(question.filter, { user_id: user });
  const { rows } = await ask(server, question);
  assert.deepEqual(
    await ids(page),
    rows.map(({ event_id: id }) => id),
  );
  await page.goBack();
  await panel(page, 'user').waitFor();
  await settled(page);
  await page.getByRole('link', { name: 'All events' }).click();
  await panel(page, 'events').waitFor();
  await settled(page);
  assert.equal((await requestOf(page, 'events')).question.filter, undefined);
  await page.goBack();
  await panel(page, 'user').waitFor();
  await settled(page);
  await page.getByLabel('User id').fill('nobody');
  await page.getByLabel('User id').press('Enter');
  await page.locator('[data-panel="user"][data-state="empty"]').waitFor();
  assert.match(await panel(page, 'user').innerText(), /No stored event has this user id/);
});

test('erasing needs the id typed, and shows the receipt', async (t) => {
  const own = await serve(t);
  const event = { event_type: 'action', feature: 'f' };
  await post(own, [
    { ...event, user_id: 'leaves' },
    { ...event, user_id: 'leaves' },
    ...Array.from({ length: 40 }, (_, n) => ({ ...event, user_id: `stays ${n}` })),
  ]);
  const context = await enter(t);
  const page = await open(context, own, 'explorer', { q: { tab: 'user', user: 'leaves' } });
  await page.getByRole('button', { name: 'Erase this user' }).click();
  const dialog = page.getByRole('dialog', { name: 'Erase a user' });
  const input = dialog.getByLabel('to confirm');
  await assertAccessible(page, 'erasure');
  await input.fill('leave');
  await dialog.getByRole('button', { name: 'Erase' }).click();
  await dialog.getByText('Type leaves to confirm').waitFor();
  assert.equal(await own.count(), 42, 'nothing is erased');
  await input.fill('leaves');
  await dialog.getByRole('button', { name: 'Erase' }).click();
  const receipt = page.locator('[data-receipt]');
  await receipt.waitFor();
  assert.match(await receipt.innerText(), /\b2\b/);
  await assertAccessible(page, 'receipt');
  assert.equal(await own.count(), 40);
  await page.getByRole('dialog').locator('.button.primary').click();
  await page.locator('[data-panel="user"][data-state="empty"]').waitFor();
});

const HOSTILE = ['<img src=x onerror="window.ran=1">', '\u202egnp.exe', '__proto__', 'a/b?c#d%2F', 'x'.repeat(200)];

test('hostile events and ids run no script, and their pages open', async (t) => {
  const own = await serve(t);
  await post(
    own,
    HOSTILE.map((name) => ({
      event_type: 'action',
      user_id: name,
      feature: name,
      url: name,
      metadata: { [name]: name },
    })),
  );
  const context = await enter(t);
  for (const user of HOSTILE) {
    const page = await open(context, own, 'explorer', { days: 2 });
    const link = page.locator('.event-table a', { hasText: user.startsWith('\u202e') ? 'gnp.exe' : user }).first();
    await link.click();
    await page.locator('[data-panel="user"][data-state="ready"]').waitFor();
    await settled(page);
    assert.equal(await page.locator('[data-fact="events"]').getAttribute('data-value'), '1', user);
    await page.locator('.event-table summary').first().click();
    assert.equal(await page.evaluate(() => window.ran), undefined, user);
    assert.equal(await page.locator('[onerror], body script').count(), 0, user);
    assert.ok(!/\u202e/u.test(await page.evaluate(() => document.body.innerText)));
    await page.setViewportSize({ width: 390, height: 800 });
    const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(over, 0, user);
    assert.deepEqual(await page.evaluate(() => window.violations), []);
    await page.close();
  }
});

test('rejected events are counted with their reasons', async (t) => {
  const own = await serve(t);
  const response = await fetch(`${own.url}/api/analytics/event`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({
      events: [
        { event_type: 7, feature: '<img src=x onerror="window.ran=1">' },
        { event_type: 'action', user_id: 'u', feature: 'f' },
      ],
    }),
  });
  assert.equal((await response.json()).rejected, 1);
  const context = await enter(t);
  const page = await open(context, own, 'explorer', { q: { tab: 'rejected' } });
  const { count, rejections } = await getJson(own, '/api/analytics/quarantine?limit=50');
  const codes = Object.entries(rejections.by_code);
  assert.ok(codes.length > 0);
  for (const [code, events] of codes)
    assert.equal(await page.locator(`[data-fact="${code}"]`).getAttribute('data-value'), String(events));
  assert.ok((await panel(page, 'rejections').innerText()).includes(rejections.recent[0].message));
  assert.equal(count, 0);
  assert.match(await panel(page, 'quarantine').innerText(), /Nothing is in quarantine/);
  assert.equal(await page.evaluate(() => window.ran), undefined);
});

test('events in quarantine are listed with the reason, and replayed once the plan is corrected', async (t) => {
  const own = await serve(t);
  const setPlan = async (type) => {
    const response = await fetch(`${own.url}/api/analytics/plan`, {
      method: 'PUT',
      headers: { 'Content-Type': 'application/json', 'X-Dash-Key': KEY },
      body: JSON.stringify({
        conversions: [
          {
            name: 'purchase',
            mode: 'quarantine',
            metadata: { properties: { amount: { type } }, required: ['amount'] },
          },
        ],
      }),
    });
    assert.equal(response.status, 200, await response.text());
  };
  await setPlan('number');
  await post(own, [
    { event_type: 'action', user_id: 'u', feature: 'f' },
    { event_type: 'conversion', user_id: 'u', feature: 'purchase', metadata: { amount: HOSTILE[0] } },
  ]);
  const context = await enter(t);
  const page = await open(context, own, 'explorer', { q: { tab: 'rejected' } });
  const row = panel(page, 'quarantine').locator('tbody tr');
  assert.equal(await row.count(), 1);
  const { events } = await getJson(own, '/api/analytics/quarantine?limit=50');
  const text = await row.innerText();
  assert.ok(text.includes(events[0].reason) && text.includes(HOSTILE[0]), text);
  await assertAccessible(page, 'quarantine');
  assert.equal(await page.evaluate(() => window.ran), undefined);
  await page.getByRole('button', { name: 'Replay' }).click();
  await page.getByText('kept: 1').waitFor();
  assert.equal(await row.count(), 1, 'it does not follow the plan yet');
  await setPlan('string');
  await page.getByRole('button', { name: 'Replay' }).click();
  await page.locator('[data-panel="quarantine"][data-state="empty"]').waitFor();
  assert.equal(await own.count(), 2);
});

test('the explorer is accessible', async (t) => {
  const context = await enter(t);
  for (const q of [{}, { tab: 'user', user: 'user_1' }, { tab: 'rejected' }]) {
    const page = await open(context, server, 'explorer', { days: 60, q });
    for (const width of [390, 1024, 1440]) {
      await page.setViewportSize({ width, height: 900 });
      await assertAccessibleInBoth(page, `${q.tab} at ${width}`);
    }
    await page.close();
  }
});

// Visitors without a user, and the campaign that brought them: what the client and the server know, and what they do not.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { enterAs, open, panel } from './dashboard.mjs';
import { openBrowser, sharedWorld, tag, until, visit } from './harness.mjs';

let browser;
let world;
before(async () => {
  [browser, world] = await Promise.all([openBrowser(), sharedWorld()]);
});
after(async () => {
  await browser.close();
  await world.stop();
});

async function visitor(t, options = {}) {
  const context = await browser.newContext(options);
  t.after(() => context.close());
  return context;
}

const act = (page, feature) => page.evaluate((name) => EchoPilot.track('action', name), feature);
const users = (events) => events.map(({ user_id: user }) => user);
const kept = (page) =>
  page.evaluate(() => ({
    ...Object.fromEntries(Object.entries(localStorage)),
    ...Object.fromEntries(Object.entries(sessionStorage)),
  }));
const ID = /^visitor-[0-9a-f]{32}$/;
const QUIET = 'data-page-views="off"';

for (const [mode, key] of [
  ['session', 'echopilot_session'],
  ['persistent', 'echopilot_visitor'],
]) {
  test(`a ${mode} visitor has a random id, and a user's id comes first`, async (t) => {
    const { site, eventsOf } = world;
    const at = `/${mode}/`;
    const context = await visitor(t);
    const page = await visit(context, site.page(at, tag(`data-visitors="${mode}"`)));
    await page.goto(site.page(`${at}next`, tag(`data-visitors="${mode}"`)));
    const other = await visit(context, site.url + at);
    await eventsOf(at, 3, page, other);
    await page.evaluate(() => EchoPilot.setUserId('ann'));
    await act(page, 'logged in');
    await page.evaluate(() => EchoPilot.setUserId(null));
    await act(page, 'logged out');
    const [first, second, elsewhere, ann, again] = users(await eventsOf(at, 5, page));
    assert.match(first, ID);
    assert.deepEqual([second, ann, again], [first, 'ann', first]);
    assert.match(elsewhere, ID);
    assert.equal(elsewhere === first, mode === 'persistent', 'another tab');
    assert.deepEqual(await kept(page), { [key]: first });
    const stranger = await visit(await visitor(t), site.url + at);
    const all = users(await eventsOf(at, 6, stranger));
    assert.equal(new Set(all).size, mode === 'persistent' ? 3 : 4);
  });
}

test('opting out deletes the id in every tab, and opting in makes a new one', async (t) => {
  const { site, eventsOf } = world;
  const url = site.page('/out/', tag(`${QUIET} data-visitors="session"`));
  const context = await visitor(t);
  const [page, other] = [await visit(context, url), await visit(context, url)];
  for (const tab of [page, other]) await act(tab, 'before');
  const before = users(await eventsOf('/out/', 2, page, other));
  await page.evaluate(() => EchoPilot.optOut());
  for (const tab of [page, other]) {
    await until('the opt-out', async () => !('echopilot_session' in (await kept(tab))));
    await act(tab, 'opted out');
  }
  await page.evaluate(() => EchoPilot.optIn());
  await act(page, 'after');
  const all = users(await eventsOf('/out/', 3, page, other));
  assert.match(all[2], ID);
  assert.ok(!before.includes(all[2]));
});

for (const [name, define] of [
  ['Global Privacy Control', () => Object.defineProperty(navigator, 'globalPrivacyControl', { value: true })],
  ['Do Not Track', () => Object.defineProperty(navigator, 'doNotTrack', { value: '1' })],
]) {
  test(`with ${name} a visitor gets no id, and an earlier one is deleted`, async (t) => {
    const { site, eventsOf } = world;
    const at = `/${name.length}/`;
    const context = await visitor(t);
    const url = site.page(at, tag('data-visitors="persistent"'));
    const page = await visit(context, url);
    await eventsOf(at, 1, page);
    assert.match((await kept(page)).echopilot_visitor, ID);
    await context.addInitScript(define);
    await page.goto(url);
    const [, silent] = users(await eventsOf(at, 2, page));
    assert.equal(silent, null);
    assert.deepEqual(await kept(page), {});
  });
}

test('a setting that changes deletes the id of the other, and without storage the id is that of the page', async (t) => {
  const { site, eventsOf } = world;
  const context = await visitor(t);
  const page = await visit(context, site.page('/change/', tag('data-visitors="persistent"')));
  await eventsOf('/change/', 1, page);
  await page.goto(site.page('/change/off', tag('data-visitors="off"')));
  const [, off] = users(await eventsOf('/change/', 2, page));
  assert.equal(off, null);
  assert.deepEqual(await kept(page), {});
  await context.addInitScript(() => {
    Object.defineProperty(window, 'sessionStorage', {
      get() {
        throw new DOMException('no', 'SecurityError');
      },
    });
  });
  await page.goto(site.page('/change/none', tag('data-visitors="session"')));
  await act(page, 'again');
  const [, , first, second] = users(await eventsOf('/change/', 4, page));
  assert.match(first, ID);
  assert.equal(second, first);
});

const DEVICES = {
  desktop: { viewport: { width: 1280, height: 800 } },
  tablet: { viewport: { width: 820, height: 1180 }, hasTouch: true, isMobile: true },
  mobile: { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true },
};

for (const [device, options] of Object.entries(DEVICES)) {
  test(`the first page view of a visit has its campaign, on a ${device}`, async (t) => {
    const { site, eventsOf } = world;
    const at = `/landing-${device}/`;
    const context = await visitor(t, { locale: 'de-AT', ...options, screen: options.viewport });
    const query = `?utm_source=news%20letter&utm_campaign=${'x'.repeat(300)}&utm_id=7&ref=partner&gclid=secret&utm_term=&email=secret`;
    site.page(at, `<meta name="viewport" content="width=device-width">${tag()}<a href="${at}second">next</a>`);
    site.page(`${at}second`);
    site.page(`${at}from`, `<a href="${site.url}${at}${query}">go</a>`);
    const page = await context.newPage();
    const elsewhere = site.url.replace('127.0.0.1', 'localhost');
    await page.goto(`${elsewhere}${at}from`);
    await page.click('a');
    await page.waitForFunction(() => window.EchoPilot?.track);
    await page.evaluate(() => history.pushState(null, '', '?utm_source=other'));
    await eventsOf(at, 2, page);
    await page.click('a');
    await page.waitForURL('**/second');
    const [first, pushed, second] = (await eventsOf(at, 3, page)).map(({ metadata: { bot, ...rest } }) => rest);
    assert.deepEqual(first, {
      referrer: elsewhere,
      language: 'de-AT',
      device,
      viewport: { desktop: 'large', tablet: 'medium', mobile: 'small' }[device],
      utm_source: 'news letter',
      utm_campaign: 'x'.repeat(200),
      utm_id: '7',
      ref: 'partner',
    });
    assert.deepEqual([pushed, second], [{}, {}]);
    assert.ok(!JSON.stringify(await eventsOf(at, 3)).includes('secret'));
  });
}

test('campaigns can be switched off', async (t) => {
  const { site, eventsOf } = world;
  const url = site.page('/plain/', tag('data-campaigns="off"'));
  const page = await visit(await visitor(t), `${url}?utm_source=x`);
  const [event] = await eventsOf('/plain/', 1, page);
  assert.deepEqual(Object.keys(event.metadata), ['bot']);
});

test('daily visitors of the server are counted without any id in the browser', async (t) => {
  const daily = await sharedWorld({ ECHOPILOT_VISITORS: 'daily' });
  t.after(() => daily.stop());
  const url = daily.site.page('/');
  for (const [place, userAgent] of ['One/1.0', 'Two/1.0', 'One/1.0'].entries()) {
    const context = await visitor(t, { userAgent });
    const page = await visit(context, url);
    await act(page, 'act');
    await daily.eventsOf('/', 2 * place + 2, page);
    assert.deepEqual(await kept(page), {});
  }
  const ids = users(await daily.eventsOf('/', 6));
  assert.ok(
    ids.every((id) => /^~[\w-]{16}$/.test(id)),
    ids,
  );
  assert.deepEqual(
    ids.map((id) => ids.indexOf(id)),
    [0, 0, 2, 2, 0, 0],
  );
  const { dau, mau, visitors } = await daily.server.usage();
  assert.deepEqual([dau, mau, visitors], [2, 2, 'daily']);
  // The dashboard says so where users of several days are counted.
  const overview = await open(await enterAs(t, browser), daily.server, 'overview');
  assert.match(await panel(overview, 'usage').locator('[data-note="daily-visitors"]').textContent(), /new each day/);
  const oneDay = await open(await enterAs(t, browser), daily.server, 'overview', { days: 1 });
  assert.equal(await panel(oneDay, 'usage').locator('[data-note="daily-visitors"]').count(), 0);
  const signal = await visitor(t, { extraHTTPHeaders: { 'Sec-GPC': '1' } });
  const page = await visit(signal, url);
  assert.equal(users(await daily.eventsOf('/', 7, page))[6], null);
});

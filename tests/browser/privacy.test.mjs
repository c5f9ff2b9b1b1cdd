// Privacy: visitors are anonymous until the page sets a user, and are not counted if they opt out.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { act, openBrowser, stored, tag, until, visit, world } from './harness.mjs';

let browser;
before(async () => {
  browser = await openBrowser();
});
after(() => browser.close());

/** Everything that the browser stores about a visitor. */
const remembered = (page) =>
  page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
const NOTHING = '[{},{},""]';

/** Waits until a tab reads `value`: the browser tells its other tabs of a change some time after it was made. */
const sees = (tab, key, value) =>
  tab.waitForFunction(([name, expected]) => localStorage.getItem(name) === expected, [key, value]);

test('a visitor is anonymous, and nothing is stored about them', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/'));
  await act(page, 3);
  await server.counts(4, page);
  assert.equal((await server.usage()).mau, 0);
  assert.equal(await remembered(page), NOTHING);
  assert.deepEqual(await stored(page), []);
  assert.deepEqual(await context.cookies(), []);
});

test('opting out deletes the events that a page left as it ended', async (t) => {
  const { site, context } = await world(t, browser);
  site.page('/without', '');
  const page = await visit(context, site.page('/', tag('data-page-views="off"')));
  await page.evaluate(() => {
    addEventListener('pagehide', () => EchoPilot.track('action', 'last'));
  });
  await page.goto(`${site.url}/without`);
  assert.match(await remembered(page), /last/);
  await page.goto(site.page('/out', `<script>window.EchoPilot = { q: [['optOut']] };</script>${tag()}`));
  assert.equal(await remembered(page), '[{"echopilot_opt_out":"1"},{},""]');
});

test('a user stays the same on later pages, until a page changes it', async (t) => {
  const { server, site, context } = await world(t, browser);
  // The page view comes after the calls of the page's own scripts.
  site.page('/', `${tag()}<script>EchoPilot.setUserId('user_12345')</script>`);
  site.page('/later');
  let page = await visit(context, site.url);
  await server.counts(1, page);
  await page.goto(`${site.url}/later`);
  await server.counts(2, page);
  await page.evaluate(() => EchoPilot.setUserId(null));
  await act(page, 1);
  await server.counts(3, page);
  assert.equal(await remembered(page), NOTHING);
  await page.close();
  page = await visit(context, `${site.url}/later`);
  await server.counts(4, page);
  assert.deepEqual(
    (await server.events()).map(({ user_id: user }) => user),
    ['user_12345', 'user_12345', null, null],
  );
});

test('the page can set the user by the tag of the script', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/', tag('data-user-id="u7"')));
  await server.counts(1, page);
  await page.goto(site.page('/', tag('data-user-id=""')));
  await server.counts(2, page);
  assert.deepEqual(
    (await server.events()).map(({ user_id: user }) => user),
    ['u7', null],
  );
});

for (const [signal, define] of [
  ['Global Privacy Control', () => Object.defineProperty(navigator, 'globalPrivacyControl', { value: true })],
  ['Do Not Track', () => Object.defineProperty(navigator, 'doNotTrack', { value: '1' })],
]) {
  test(`${signal}: events without a user, and no id is kept`, async (t) => {
    const { server, site, context } = await world(t, browser);
    const before = await visit(context, site.page('/', tag('data-user-id="u"')));
    await server.counts(1, before);
    assert.ok((await remembered(before)).includes('"u"'));
    await before.close();
    await context.addInitScript(define);
    const page = await visit(context, site.page('/later'));
    await server.counts(2, page);
    assert.equal(await remembered(page), NOTHING, 'the id that was stored before is deleted');
    await page.evaluate(() => EchoPilot.setUserId('u'));
    await act(page, 3);
    await server.counts(5, page);
    assert.deepEqual(
      (await server.events()).map(({ user_id: user }) => user),
      ['u', null, null, null, null],
    );
    assert.equal(await remembered(page), NOTHING);
  });

  test(`${signal}: not counted at all if the page chooses that`, async (t) => {
    const { server, site, context } = await world(t, browser);
    const seen = await visit(context, site.page('/', tag('data-gpc="off"')));
    await server.counts(1, seen);
    await seen.close();
    await context.addInitScript(define);
    const page = await visit(context, site.url);
    await act(page, 3);
    await page.evaluate(() => EchoPilot.flush());
    assert.deepEqual(await stored(page), []);
    await page.close({ runBeforeUnload: true });
    await server.counts(1);
    assert.equal(site.batches.length, 1);
  });
}

test('a visitor who opts out is deleted and not counted, here and in other tabs, until they opt in', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/', tag('data-page-views="off"'));
  const page = await visit(context, site.url);
  const other = await visit(context, site.url);
  await page.evaluate(() => EchoPilot.setUserId('u'));
  site.intercept = ({ response }) => {
    response.destroy();
  };
  await act(page, 5);
  await until('storing', async () => (await stored(page)).length === 5);
  await page.evaluate(() => EchoPilot.optOut());
  assert.deepEqual(await stored(page), [], 'unsent events are deleted');
  assert.ok(!(await remembered(page)).includes('"u"'));
  site.intercept = null;
  await sees(other, 'echopilot_opt_out', '1');
  for (const tab of [page, other]) {
    await tab.evaluate(() => EchoPilot.setUserId('u'));
    await act(tab, 5);
    await tab.evaluate(() => EchoPilot.flush());
    assert.deepEqual(await stored(tab), []);
  }
  assert.ok(!(await remembered(page)).includes('"u"'));
  const later = await visit(context, site.url);
  await act(later, 5);
  await later.close({ runBeforeUnload: true });
  assert.equal(await server.count(), 0);
  await page.evaluate(() => EchoPilot.optIn());
  await act(page, 2);
  await server.counts(2, page, other);
});

test('a user that one tab sets applies in all tabs', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/', tag('data-page-views="off"'));
  // The tag of this one names the user when it is loaded, and not again.
  const page = await visit(context, site.page('/named', tag('data-page-views="off" data-user-id="ann"')));
  const other = await visit(context, site.url);
  let sent = 0;
  const users = async (feature) => {
    for (const tab of [page, other]) await tab.evaluate((name) => EchoPilot.track('action', name), feature);
    sent += 2;
    await server.counts(sent, page, other);
    return (await server.events()).filter((event) => event.feature === feature).map((event) => event.user_id);
  };
  assert.deepEqual(await users('logged in'), ['ann', 'ann']);
  await other.evaluate(() => EchoPilot.setUserId(null));
  await sees(page, 'echopilot_user', null);
  assert.deepEqual(await users('logged out'), [null, null]);
  await other.evaluate(() => EchoPilot.setUserId('bob'));
  await sees(page, 'echopilot_user', 'bob');
  assert.deepEqual(await users('another user'), ['bob', 'bob']);
  await page.evaluate(() => EchoPilot.setUserId('ann'));
  await sees(other, 'echopilot_user', 'ann');
  assert.deepEqual(await users('the first again'), ['ann', 'ann']);
});

for (const where of ['in storage', 'in memory'])
  test(`opting out in one tab deletes the events of another tab  ${where}, and opts in for both`, async (t) => {
    const { server, site, context } = await world(t, browser);
    const isInMemory = where === 'in memory';
    if (isInMemory)
      await context.addInitScript(() => {
        IDBFactory.prototype.open = () => {
          throw new DOMException('no', 'SecurityError');
        };
      });
    site.page('/', tag('data-page-views="off"'));
    const [page, other] = [await visit(context, site.url), await visit(context, site.url)];
    site.intercept = ({ response }) => {
      response.destroy();
    };
    await other.evaluate(() => EchoPilot.setUserId('u'));
    await act(other, 3, 'before');
    if (isInMemory) await until('a failure', () => site.batches.length > 0);
    else await until('storing', async () => (await stored(other)).length === 3);
    // The client's own listener was added before this one.
    await other.evaluate(() => {
      window.told = new Promise((resolve) => {
        addEventListener('storage', ({ key }) => key === 'echopilot_opt_out' && resolve());
      });
    });
    await page.evaluate(() => EchoPilot.optOut());
    await other.evaluate(() => window.told);
    await act(other, 3, 'opted out');
    await page.evaluate(() => EchoPilot.optIn());
    await sees(other, 'echopilot_opt_out', null);
    site.intercept = null;
    await act(other, 1, 'after');
    await server.counts(1, other, page);
    assert.deepEqual(
      (await server.events()).map(({ feature, user_id: user }) => [feature, user]),
      [['after', null]],
    );
  });

test('a user that cannot be stored applies to the page, until another tab changes it', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/', tag('data-page-views="off"'));
  const [page, other] = [await visit(context, site.url), await visit(context, site.url)];
  await page.evaluate(() => {
    Storage.prototype.setItem = () => {
      throw new DOMException('full', 'QuotaExceededError');
    };
    EchoPilot.setUserId('ann');
    EchoPilot.track('action', 'full');
  });
  await server.counts(1, page);
  await other.evaluate(() => EchoPilot.setUserId('bob'));
  await sees(page, 'echopilot_user', 'bob');
  await until('the news', async () => {
    await page.evaluate(() => EchoPilot.track('action', 'later'));
    await page.evaluate(() => EchoPilot.flush());
    return (await server.events()).at(-1).user_id === 'bob';
  });
  assert.equal((await server.events())[0].user_id, 'ann');
});

test('opting out applies to the page if storage throws', async (t) => {
  const { server, site, context } = await world(t, browser);
  await context.addInitScript(() => {
    Object.defineProperty(window, 'localStorage', {
      get() {
        throw new DOMException('no', 'SecurityError');
      },
    });
  });
  const page = await visit(context, site.page('/', tag('data-page-views="off"')));
  await page.evaluate(() => EchoPilot.optOut());
  await act(page, 3);
  await page.evaluate(() => EchoPilot.optIn());
  await act(page, 2);
  await server.counts(2, page);
});

test('events of bots are marked, those of people are not', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/');
  await visit(context, site.url);
  await server.counts(1);
  const person = await browser.newContext({
    userAgent: 'Mozilla/5.0 (X11; Linux x86_64) Chrome/156.0.0.0 Safari/537.36',
  });
  t.after(() => person.close());
  await person.addInitScript(() => Object.defineProperty(navigator, 'webdriver', { value: false }));
  await visit(person, site.url);
  await server.counts(2);
  const crawler = await browser.newContext({ userAgent: 'Examplebot/1.0' });
  t.after(() => crawler.close());
  await crawler.addInitScript(() => Object.defineProperty(navigator, 'webdriver', { value: false }));
  await visit(crawler, site.url);
  await server.counts(3);
  assert.deepEqual(
    (await server.events()).map(({ metadata }) => metadata.bot),
    [true, undefined, true],
  );
});

test('no cookie is sent', async (t) => {
  const { server, site, context } = await world(t, browser);
  await context.addCookies([{ name: 'session', value: 'secret', url: site.url }]);
  const page = await visit(context, site.page('/'));
  await act(page, 1);
  await server.counts(2, page);
  assert.ok(site.batches.length > 0 && site.batches.every(({ headers }) => headers.cookie === undefined));
});

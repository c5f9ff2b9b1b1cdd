// Privacy: unknown until the page says who it is, and not at all for those who do not want it.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { act, openBrowser, stored, tag, until, visit, world } from './harness.mjs';

let browser;
before(async () => {
  browser = await openBrowser();
});
after(() => browser.close());

/** All that the browser remembers of a visitor. */
const remembered = (page) =>
  page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
const NOTHING = '[{},{},""]';

test('a visitor is anonymous, and nothing is remembered of them', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/'));
  await act(page, 3);
  await server.counts(4, page);
  assert.equal((await server.usage()).mau, 0);
  assert.equal(await remembered(page), NOTHING);
  assert.deepEqual(await stored(page), []);
  assert.deepEqual(await context.cookies(), []);
});

test('who opts out takes along what a page left as it ended', async (t) => {
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

test('a user is one on later pages too, until the page says otherwise', async (t) => {
  const { server, site, context } = await world(t, browser);
  // The view comes after what the page's own scripts say.
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

test("the page can say who it is by the script's tag", async (t) => {
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
    assert.equal(await remembered(page), NOTHING, 'what was kept before is gone');
    await page.evaluate(() => EchoPilot.setUserId('u'));
    await act(page, 3);
    await server.counts(5, page);
    assert.deepEqual(
      (await server.events()).map(({ user_id: user }) => user),
      ['u', null, null, null, null],
    );
    assert.equal(await remembered(page), NOTHING);
  });

  test(`${signal}: not counted at all where the page says so`, async (t) => {
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

test('who opts out is forgotten and not counted, here and in other tabs, until they opt in', async (t) => {
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
  assert.deepEqual(await stored(page), [], 'what was not sent is gone');
  assert.ok(!(await remembered(page)).includes('"u"'));
  site.intercept = null;
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

test('what one tab says of the user holds in all tabs', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/', tag('data-page-views="off"'));
  // The tag of this one names the user when it is loaded, and not again.
  const page = await visit(context, site.page('/named', tag('data-page-views="off" data-user-id="ann"')));
  const other = await visit(context, site.url);
  const users = async (feature) => {
    for (const tab of [page, other]) await tab.evaluate((name) => EchoPilot.track('action', name), feature);
    await server.counts((users.acts = (users.acts ?? 0) + 2), page, other);
    return (await server.events()).filter((event) => event.feature === feature).map((event) => event.user_id);
  };
  assert.deepEqual(await users('logged in'), ['ann', 'ann']);
  await other.evaluate(() => EchoPilot.setUserId(null));
  assert.deepEqual(await users('logged out'), [null, null]);
  await other.evaluate(() => EchoPilot.setUserId('bob'));
  assert.deepEqual(await users('another user'), ['bob', 'bob']);
  await page.evaluate(() => EchoPilot.setUserId('ann'));
  assert.deepEqual(await users('the first again'), ['ann', 'ann']);
});

for (const where of ['in storage', 'in memory'])
  test(`who opts out in one tab takes along what another tab has ${where}, and opts in for both`, async (t) => {
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
    site.intercept = null;
    await act(other, 1, 'after');
    await server.counts(1, other, page);
    assert.deepEqual(
      (await server.events()).map(({ feature, user_id: user }) => [feature, user]),
      [['after', null]],
    );
  });

test('a user that cannot be written holds for the page, until another tab says otherwise', async (t) => {
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
  await page.waitForFunction(() => localStorage.getItem('echopilot_user') === 'bob');
  await until('the news', async () => {
    await page.evaluate(() => EchoPilot.track('action', 'later'));
    await page.evaluate(() => EchoPilot.flush());
    return (await server.events()).at(-1).user_id === 'bob';
  });
  assert.equal((await server.events())[0].user_id, 'ann');
});

test('opting out holds for the page where storage throws', async (t) => {
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

test('a machine is marked, a person is not', async (t) => {
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

test('no cookie goes along', async (t) => {
  const { server, site, context } = await world(t, browser);
  await context.addCookies([{ name: 'session', value: 'secret', url: site.url }]);
  const page = await visit(context, site.page('/'));
  await act(page, 1);
  await server.counts(2, page);
  assert.ok(site.batches.length > 0 && site.batches.every(({ headers }) => headers.cookie === undefined));
});

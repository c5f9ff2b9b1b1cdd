// Page views: one each time a visitor sees a page.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { act, folderFor, openBrowser, openWithoutControl, stored, tag, until, visit, world } from './harness.mjs';

let browser;
before(async () => {
  browser = await openBrowser();
});
after(() => browser.close());

/** Runs a browser without remote control during a test. */
async function unwatched(t, url) {
  const folder = await folderFor(t);
  const close = openWithoutControl(folder, url);
  // In this order: the folder goes last.
  t.after(close);
  return close;
}

test('a view has the path as its feature and url, and the site of the referrer', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/shop/shoes/'));
  await server.counts(1, page);
  site.page('/', '<a href="/shop/shoes/?q=secret#part">go</a>');
  await page.goto(site.url.replace('127.0.0.1', 'localhost'));
  await page.evaluate((url) => {
    document.querySelector('a').href = url;
  }, `${site.url}/shop/shoes/?q=secret#part`);
  await page.click('a');
  await server.counts(2);
  site.page('/', tag());
  await page.goto(site.url);
  await server.counts(3);
  const [typed, linked, root] = await server.events();
  assert.deepEqual([typed.event_type, typed.feature, typed.url], ['page_view', 'shop/shoes', '/shop/shoes/']);
  assert.equal(typed.metadata.referrer, undefined);
  assert.deepEqual(
    [linked.url, linked.metadata.referrer],
    ['/shop/shoes/', site.url.replace('127.0.0.1', 'localhost')],
  );
  assert.equal(root.feature, '/');
  assert.ok(!JSON.stringify(await server.events()).includes('secret'));
});

test('a path in another script is decoded, and cut between characters', async (t) => {
  const { server, site, context } = await world(t, browser);
  // 22 characters of three bytes in UTF-8 fill 200 characters of escapes: five pages that differ in the 23rd.
  const five = ['一', '二', '三', '四', '五'].map((last) => `${'日'.repeat(23)}${last}`);
  const places = {
    ...Object.fromEntries(five.map((name) => [`/${encodeURIComponent(name)}/`, name])),
    '/Stra%C3%9Fe/%d0%b4%D0%BE%D0%BC': 'Straße/дом',
    '/%F0%9F%98%80%20a+b': '😀 a+b',
    // Escapes that would change the path or form another escape stay, and so does invalid UTF-8.
    '/a%2Fb%3Fc%23d': 'a%2Fb%3Fc%23d',
    '/100%25/%2541': '100%/%2541',
    '/%E9t%E9/%41%FF%ED%A0%80/%C3%41%E2%82/%4/%': '%E9t%E9/A%FF%ED%A0%80/%C3A%E2%82/%4/%',
    '/%00%1F%7f': '%00%1F%7f',
    // The 200th character is one of two units, an escape of three, or the last.
    [`/${'a'.repeat(199)}%F0%9F%98%80tail`]: `${'a'.repeat(199)}😀`,
    [`/${'b'.repeat(198)}%2Ftail`]: 'b'.repeat(198),
    [`/${'c'.repeat(197)}%2Ftail`]: `${'c'.repeat(197)}%2F`,
    [`/${'d'.repeat(199)}%`]: `${'d'.repeat(199)}%`,
  };
  const page = await visit(context, site.page('/', tag('data-page-views="off"')));
  await page.evaluate(
    (all) =>
      all.forEach((place) => {
        history.pushState({}, '', place);
        EchoPilot.page();
      }),
    Object.keys(places),
  );
  await server.counts(Object.keys(places).length, page);
  assert.deepEqual(await server.features('page_view'), Object.values(places));
  const [first] = await server.events();
  assert.equal(first.url, `/${five[0]}/`);
});

test('a route after # is decoded too, and a feature of the page is cut between characters', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/%C3%BC', tag('data-hash')));
  await page.evaluate(
    () =>
      new Promise((resolve) => {
        addEventListener('hashchange', resolve, { once: true });
        location.hash = '#/größe';
      }),
  );
  await page.evaluate(() => EchoPilot.track('action', '😀'.repeat(201)));
  await server.counts(3, page);
  assert.deepEqual(
    (await server.events()).map(({ feature }) => feature),
    ['ü', 'ü#/größe', '😀'.repeat(200)],
  );
});

test('going back through the back/forward cache is one more view', async (t) => {
  const { server, site } = await world(t);
  site.page('/b', `${tag()}<script>addEventListener('load', () => setTimeout(() => history.back()));</script>`);
  site.page(
    '/a',
    `${tag()}<script>
    EchoPilot.track('action', 'before');
    addEventListener('pageshow', async ({ persisted }) => {
      if (persisted) EchoPilot.track('action', 'after');
      await fetch('/report?persisted=' + persisted);
      // The browser does not keep a page with a transaction under way; that one is sent from it is the next test's matter.
      if (!persisted) EchoPilot.flush().then(() => { location.href = '/b'; });
    });</script>`,
  );
  await unwatched(t, `${site.url}/a`);
  await until('going back', () => site.reports.length === 2);
  assert.deepEqual(site.reports, ['persisted=false', 'persisted=true'], 'the browser kept the page');
  await server.counts(5);
  assert.deepEqual(await server.features('page_view'), ['a', 'b', 'a']);
  assert.deepEqual(await server.features('action'), ['before', 'after']);
});

test('a page that sends while it ends still goes into the back/forward cache', async (t) => {
  const { server, site } = await world(t);
  let began;
  const sending = new Promise((resolve) => {
    began = resolve;
  });
  site.cue = sending;
  site.intercept = async ({ pass }) => {
    began();
    await until('the other page', () => site.reports.includes('b'));
    return pass();
  };
  site.page('/b', `${tag()}<script>fetch('/report?b').then(() => setTimeout(() => history.back(), 0));</script>`);
  site.page(
    '/a',
    `${tag()}<script>
    fetch('/cue').then(() => { location.href = '/b'; });
    addEventListener('pageshow', ({ persisted }) => persisted && fetch('/report?persisted'));</script>`,
  );
  await unwatched(t, `${site.url}/a`);
  await until('going back', () => site.reports.includes('persisted'));
  await server.counts(3);
  assert.deepEqual(await server.features('page_view'), ['a', 'b', 'a']);
});

test('a prerendered page is a view when it is activated, and not before', async (t) => {
  const { server, site } = await world(t);
  let go;
  site.cue = new Promise((resolve) => {
    go = resolve;
  });
  const prepared = `${tag()}<script>
    EchoPilot.track('action', 'early');
    fetch('/report?' + location.pathname + ' prerendering=' + document.prerendering);</script>`;
  site.page('/second', prepared);
  site.page('/never', prepared);
  site.page(
    '/first',
    `${tag()}
    <script type="speculationrules">
      {"prerender":[{"source":"list","urls":["/second","/never"],"eagerness":"immediate"}]}</script>
    <script>fetch('/cue').then(() => { location.href = '/second'; });</script>`,
  );
  await unwatched(t, `${site.url}/first`);
  await until('both prerendered pages', () => site.reports.length === 2);
  assert.deepEqual([...site.reports].sort(), ['/never prerendering=true', '/second prerendering=true']);
  await server.counts(1);
  assert.deepEqual(await server.features('page_view'), ['first']);
  go();
  await server.counts(3);
  assert.deepEqual((await server.features('page_view')).sort(), ['first', 'second']);
  assert.deepEqual(await server.features('action'), ['early']);
  assert.equal(site.reports.length, 2, 'the prerendered page was used, not loaded again');
});

test('a page opened in the background is a view when it is first shown', async (t) => {
  const { server, site, context } = await world(t, browser);
  await context.addInitScript(() => {
    window.state = 'hidden';
    Object.defineProperty(document, 'visibilityState', { get: () => window.state });
  });
  const page = await visit(context, site.page('/'));
  await act(page, 1);
  await server.counts(1, page);
  assert.deepEqual(await server.features('page_view'), []);
  await page.evaluate(() => {
    window.state = 'visible';
    document.dispatchEvent(new Event('visibilitychange'));
    document.dispatchEvent(new Event('visibilitychange'));
  });
  await server.counts(2, page);
});

for (const api of ['the Navigation API', 'history alone']) {
  const app = async (t, attributes) => {
    const everything = await world(t, browser);
    if (api === 'history alone') {
      await everything.context.addInitScript(() => Object.defineProperty(window, 'navigation', { value: undefined }));
    }
    const page = await visit(everything.context, everything.site.page('/', tag(attributes)));
    return { ...everything, page };
  };

  test(`single-page apps by ${api}: a view for each new path or query, also when going back`, async (t) => {
    const { server, page } = await app(t);
    await page.evaluate(async () => {
      const popped = () =>
        new Promise((resolve) => {
          addEventListener('popstate', () => setTimeout(resolve), { once: true });
        });
      history.pushState({}, '', '/one');
      history.pushState({}, '', '/one');
      history.pushState({}, '', '/one#part');
      history.pushState({}, '', '/two?a=1');
      history.pushState({}, '', '/two?a=2');
      location.hash = 'other';
      let back = popped();
      history.go(-2);
      await back;
      back = popped();
      history.forward();
      await back;
    });
    await server.counts(6, page);
    assert.deepEqual(await server.features('page_view'), ['/', 'one', 'two', 'two', 'two', 'two']);
  });

  test(`replaceState by ${api} is not a view`, async (t) => {
    const { server, page } = await app(t);
    await page.evaluate(() => {
      history.replaceState({}, '', '/one');
      history.replaceState({}, '', '/two?x');
      history.pushState({}, '', '/two?x');
      history.pushState({}, '', '/three');
    });
    await server.counts(2, page);
    assert.deepEqual(await server.features('page_view'), ['/', 'three']);
  });

  test(`replaceState by ${api} is a view if the page chooses that`, async (t) => {
    const { server, page } = await app(t, 'data-replace-state="on"');
    await page.evaluate(() => {
      history.replaceState({}, '', '/one');
      history.replaceState({}, '', '/one');
    });
    await server.counts(2, page);
  });

  test(`routes behind # by ${api} are views if the page chooses that`, async (t) => {
    const { server, page } = await app(t, 'data-hash');
    await page.evaluate(
      () =>
        new Promise((resolve) => {
          addEventListener('hashchange', resolve, { once: true });
          location.hash = '#/cart';
        }),
    );
    await server.counts(2, page);
    assert.deepEqual(await server.features('page_view'), ['/', '#/cart']);
    assert.equal((await server.events()).at(-1).url, '/#/cart');
  });
}

test('a navigation that a framework intercepts is one view', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(
    context,
    site.page(
      '/',
      `${tag()}<a href="/next" data-track="link">go</a><script>
    navigation.addEventListener('navigate', (event) => event.intercept({ handler: async () => {} }));</script>`,
    ),
  );
  await page.click('a');
  await server.counts(3, page);
  assert.deepEqual(await server.features('page_view'), ['/', 'next']);
});

test('the script twice in one page counts once', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/', `${tag()}${tag('async')}<button data-track="b">b</button>`));
  await page.addScriptTag({ url: '/static/js/telemetry.js' });
  await page.click('button');
  await page.evaluate(() => history.pushState({}, '', '/next'));
  await server.counts(3, page);
});

test('automatic views can be switched off', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/', tag('data-page-views="off"')));
  await page.evaluate(() => {
    history.pushState({}, '', '/next');
    EchoPilot.page();
    EchoPilot.page('by hand');
  });
  await server.counts(2, page);
  assert.deepEqual(await server.features('page_view'), ['next', 'by hand']);
  assert.deepEqual(await stored(page), []);
});

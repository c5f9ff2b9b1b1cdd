// Embedding: plain script, module, other origin, strict policies, block lists; and guarantees for the page.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { naming, snippet } from '../../static/js/dashboard/snippet.js';
import { act, openBrowser, tag, until, visit, world } from './harness.mjs';

let browser;
before(async () => {
  browser = await openBrowser();
});
after(() => browser.close());

/** Opens a page and counts its view and one action; the console must stay empty. */
async function works(t, html, headers = {}) {
  const everything = await world(t, browser);
  const { server, site, context } = everything;
  const said = [];
  context.on('console', (message) => said.push(message.text()));
  context.on('weberror', (error) => said.push(String(error.error())));
  const policy = typeof headers === 'function' ? headers(server.url) : headers;
  const page = await visit(context, site.page('/', html(server.url), policy));
  await act(page, 1);
  await server.counts(2, page);
  assert.deepEqual(said, []);
  return { ...everything, page };
}

test('the example of the documentation works unchanged', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/pricing');
  const page = await visit(
    context,
    site.page(
      '/dashboard',
      `${tag()}
    <script>EchoPilot.track('action', 'button_click', { button_id: 'submit-btn', form_name: 'contact' });</script>
    <button data-track="submit_form" data-action="click">Submit</button>
    <a href="/pricing" data-track="pricing_page" data-action="navigate">View Pricing</a>`,
    ),
  );
  await page.evaluate(() => EchoPilot.setUserId('user_12345'));
  await page.click('button');
  await page.click('a');
  await server.counts(5);
  const usage = await server.usage();
  assert.deepEqual(usage.feature_usage, { button_click: 1, dashboard: 1, pricing: 1, pricing_page: 1, submit_form: 1 });
  assert.deepEqual(usage.funnel_steps, { page_view: 2, action: 3, conversion: 0 });
  assert.equal(usage.mau, 1);
});

test('a plain script from another origin', (t) => works(t, (server) => tag('', server)));
test('a plain script, loaded late', (t) => works(t, () => tag('async')));
test('a deferred script', (t) => works(t, () => tag('defer')));
test('a module from another origin', (t) => works(t, (server) => tag('type="module"', server)));
test("a module's own settings", async (t) => {
  const { server } = await works(t, (url) => tag('type="module" data-user-id="m"', url));
  assert.equal((await server.usage()).mau, 1);
});
test('an import in a module of the page', (t) =>
  works(
    t,
    (server) => `<script type="module">
  import '${server}/static/js/telemetry.js';
  EchoPilot.setUserId('u');</script>`,
  ));
test('a page with a cross-origin embedder policy', (t) =>
  works(t, (server) => tag('', server), {
    'Cross-Origin-Embedder-Policy': 'require-corp',
    'Cross-Origin-Opener-Policy': 'same-origin',
  }));
test('a strict policy, own origin', (t) =>
  works(t, () => tag(), {
    'Content-Security-Policy': `default-src 'none'; script-src 'self'; connect-src 'self';
    require-trusted-types-for 'script'; trusted-types 'none'`.replaceAll('\n', ' '),
  }));
test('a strict policy, other origin', (t) =>
  works(
    t,
    (server) => tag('', server),
    (server) => ({
      'Content-Security-Policy': `default-src 'none'; script-src ${server}; connect-src ${server};
    require-trusted-types-for 'script'`.replaceAll('\n', ' '),
    }),
  ));
test('a strict policy with a nonce', (t) =>
  works(
    t,
    (server) => tag('nonce="n"', server),
    (server) => ({
      'Content-Security-Policy': `default-src 'none'; script-src 'nonce-n' 'strict-dynamic'; connect-src ${server}`,
    }),
  ));

test('a policy that forbids sending does not break the page', async (t) => {
  const { server, site, context } = await world(t, browser);
  const errors = [];
  context.on('weberror', (error) => errors.push(String(error.error())));
  const page = await visit(context, site.page('/', tag(), { 'Content-Security-Policy': "connect-src 'none'" }));
  await act(page, 3);
  await page.evaluate(() => EchoPilot.flush());
  await page.close({ runBeforeUnload: true });
  site.page('/', tag());
  await server.counts(5, await visit(context, site.url));
  assert.deepEqual(errors, []);
});

test('calls made before the script is loaded are kept', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(
    context,
    site.page(
      '/',
      `<script>
    window.EchoPilot ||= { q: [] };
    EchoPilot.q.push(['setUserId', 'early'], ['track', 'action', 'first', { n: 1 }]);</script>${tag('async')}`,
    ),
  );
  await server.counts(2, page);
  const { mau, feature_usage: usage } = await server.usage();
  assert.deepEqual([mau, usage], [1, { '/': 1, first: 1 }]);
});

/** A page with the snippet, whose handlers use every method, promises included. */
const HANDLERS = `${snippet('/static/js/telemetry.js')}<script>
  const { track, q } = EchoPilot;
  ${naming}
  const done = [];
  const handler = async () => {
    EchoPilot.track('conversion', 'signup', { plan: 'team' });
    track('action', 'kept reference');
    EchoPilot.page('by hand');
    EchoPilot.init({ clicks: 'off' });
    EchoPilot.q.push(['track', 'action', 'pushed']);
    q.push(['track', 'action', 'kept list']);
    await EchoPilot.flush();
    EchoPilot.flush().then(() => done.push('paid'));
    done.push('went on');
  };</script><button onclick="handler()">Sign up</button>`;

test('with the snippet, a blocked script breaks no handler of the page', async (t) => {
  const { server, site, context } = await world(t, browser);
  const errors = [];
  context.on('weberror', (error) => errors.push(String(error.error())));
  await context.route('**/telemetry.js', (route) => route.abort('blockedbyclient'));
  const page = await context.newPage();
  await page.goto(site.page('/', HANDLERS));
  await page.click('button');
  await page.waitForFunction(() => done.length === 2);
  assert.deepEqual(await page.evaluate(() => EchoPilot.q[0]), ['setUserId', 'user_12345']);
  await page.evaluate(() => Promise.all([EchoPilot.optOut(), EchoPilot.optIn()]));
  assert.deepEqual(errors, []);
  assert.equal(await server.count(), 0);
});

test('with the snippet, a late script makes all earlier calls, and later ones by the stubs', async (t) => {
  const { server, site, context } = await world(t, browser);
  const errors = [];
  context.on('weberror', (error) => errors.push(String(error.error())));
  let come;
  const late = new Promise((resolve) => {
    come = resolve;
  });
  await context.route('**/telemetry.js', async (route) => {
    await late;
    await route.continue();
  });
  const page = await context.newPage();
  await page.goto(site.page('/shop', HANDLERS), { waitUntil: 'commit' });
  await page.click('button');
  await page.waitForFunction(() => done.length === 2);
  come();
  await page.waitForFunction(() => !Array.isArray(EchoPilot.q));
  await server.counts(6, page);
  await page.click('button');
  await server.counts(11, page);
  assert.deepEqual(errors, []);
  const { feature_usage: usage, mau } = await server.usage();
  assert.deepEqual(
    [usage, mau],
    [{ 'by hand': 2, 'kept list': 2, 'kept reference': 2, pushed: 2, signup: 2, shop: 1 }, 1],
  );
});

test('the snippet after the script, or twice, has no effect', async (t) => {
  const { server, site, context } = await world(t, browser);
  const twice = snippet('/static/js/telemetry.js');
  const page = await visit(context, site.page('/', `${tag()}${twice}${twice}`));
  await page.waitForLoadState();
  await act(page, 2);
  await server.counts(3, page);
});

test('no argument throws into the page', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await context.newPage();
  const errors = [];
  context.on('weberror', (error) => errors.push(String(error.error())));
  await page.goto(
    site.page(
      '/',
      `<script>window.EchoPilot = { q: [null, 'track', ['nothing'], ['track', 'action', 'early']] };</script>${tag()}`,
    ),
  );
  await until('the client', () => page.evaluate(() => typeof EchoPilot.track === 'function'));
  await page.evaluate(() => {
    const hostile = {
      toString() {
        throw new Error('not a string');
      },
    };
    EchoPilot.setUserId(hostile);
    EchoPilot.page(hostile);
    EchoPilot.track('action', hostile);
    EchoPilot.init(null);
    EchoPilot.q.push(null, ['track', 'action', 'late']);
  });
  await server.counts(3, page);
  assert.deepEqual(errors, []);
});

/** Metadata of a page, and the stored form. */
const GIVEN = {
  text: ["'some string'", { value: 'some string' }],
  empty: ["''", { value: '' }],
  number: ['42.5', { value: 42.5 }],
  no: ['false', { value: false }],
  list: ["['a', { b: 1 }]", { value: ['a', { b: 1 }] }],
  date: ["new Date('2026-01-02T03:04:05Z')", { value: '2026-01-02T03:04:05.000Z' }],
  url: ["new URL('https://example.com/a')", { value: 'https://example.com/a' }],
  boxed: ["new String('boxed')", { value: 'boxed' }],
  nothing: ['null', {}],
  missing: ['undefined', {}],
  'not a number': ['NaN', {}],
  function: ['() => 1', {}],
  symbol: ["Symbol('s')", {}],
  map: ["new Map([['a', 1]])", {}],
  big: ['10n', {}],
  cyclic: ['(() => { const a = {}; a.a = a; return a; })()', {}],
  hostile: ["({ get a() { throw new Error('no'); } })", {}],
  instance: ['new (class { constructor() { this.plan = "pro"; } })()', { plan: 'pro' }],
  'own form': ['({ secret: 1, toJSON: () => ({ shown: 2 }) })', { shown: 2 }],
  bare: ["Object.assign(Object.create(null), { plan: 'pro' })", { plan: 'pro' }],
  plain: [
    "({ plan: 'pro', since: new Date(0), list: [1], none: null, skipped: undefined })",
    { plan: 'pro', since: '1970-01-01T00:00:00.000Z', list: [1], none: null },
  ],
  'long string': ["'x'.repeat(50000)", { cut: true }],
  'long in an object': [
    "({ plan: 'pro', body: '\u00e9'.repeat(9000), more: 'y'.repeat(9000) })",
    { plan: 'pro', more: 'y'.repeat(9000), cut: true },
  ],
};

test('metadata that is not an object never costs the event: it becomes the value, or is left out', async (t) => {
  const { server, site } = await world(t);
  const userAgent = { userAgent: 'Mozilla/5.0 (X11; Linux x86_64) Chrome/156.0.0.0 Safari/537.36' };
  const person = await browser.newContext(userAgent);
  t.after(() => person.close());
  await person.addInitScript(() => Object.defineProperty(navigator, 'webdriver', { value: false }));
  const page = await visit(person, site.page('/', tag('data-page-views="off"')));
  for (const [name, [code]] of Object.entries(GIVEN)) {
    await page.evaluate(`EchoPilot.track('action', ${JSON.stringify(name)}, ${code})`);
  }
  await server.counts(Object.keys(GIVEN).length, page);
  const stored = Object.fromEntries((await server.events()).map(({ feature, metadata }) => [feature, metadata ?? {}]));
  assert.deepEqual(stored, Object.fromEntries(Object.entries(GIVEN).map(([name, [, expected]]) => [name, expected])));
});

test('with the rules of a block list, the alternative path works', async (t) => {
  const { server, site, context } = await world(t, browser);
  for (const rule of [
    'api/analytics/**',
    'analytics/event**',
    'telemetry*',
    'track*',
    'collect*',
    'stats*',
    'events*',
  ]) {
    await context.route(`**/${rule}`, (route) => route.abort('blockedbyclient'));
  }
  const blocked = await context.newPage();
  await blocked.goto(site.page('/'));
  assert.equal(await blocked.evaluate(() => typeof window.EchoPilot), 'undefined');
  for (const [n, from] of ['', server.url].entries()) {
    site.page('/', `<script src="${from}/echo.js"></script>`);
    const page = await visit(context, site.url);
    await act(page, 9);
    await server.counts(10 * (n + 1), page);
  }
  assert.ok(site.batches.length > 0 && site.batches.every(({ pathname }) => pathname === '/echo'));
});

test('settings by call: another endpoint', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(
    context,
    site.page(
      '/',
      `${tag()}<script>
    EchoPilot.init({ endpoint: '/echo', userId: 'u', pageViews: false });</script>`,
    ),
  );
  await act(page, 2);
  await server.counts(2, page);
  assert.ok(site.batches.every(({ pathname }) => pathname === '/echo'));
  assert.equal((await server.usage()).mau, 1);
});

test('settings by the tag: another endpoint', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/', tag(`data-endpoint="${server.url}/echo"`)));
  await act(page, 2);
  await server.counts(3, page);
  assert.equal(site.batches.length, 0);
});

for (const hours of [2, -2]) {
  test(`a clock that is ${hours} hours off: times are correct to the second`, async (t) => {
    const { server, site, context } = await world(t, browser);
    await context.addInitScript(
      (off) => {
        const Real = Date;
        window.Date = class extends Real {
          constructor(...values) {
            super(...(values.length ? values : [Real.now() + off]));
          }

          static now() {
            return Real.now() + off;
          }
        };
      },
      hours * 3600 * 1000,
    );
    const page = await visit(context, site.page('/'));
    const before = Date.now();
    await act(page, 5);
    const after = Date.now();
    await server.counts(6, page);
    for (const { feature, ts } of await server.events()) {
      const at = Date.parse(ts);
      if (feature === 'act') assert.ok(at > before - 1_000 && at < after + 1_000, `${ts} is ${at - before} ms off`);
    }
  });
}

test('flush resolves when everything has arrived', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/', tag('data-page-views="off"')));
  await page.evaluate(() => {
    for (let n = 0; n < 250; n += 1) EchoPilot.track('conversion', 'paid');
    return EchoPilot.flush();
  });
  assert.equal(await server.count(), 250);
});

test('ids are version 7, distinct, and sort in the order of creation', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/', tag('data-page-views="off"')));
  await act(page, 6_000);
  await server.counts(6_000, page);
  const sent = site.batches.flatMap(({ events }) => events);
  const version7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
  assert.ok(sent.every(({ event_id: id }) => version7.test(id)));
  const ids = sent.sort((a, b) => a.metadata.n - b.metadata.n).map(({ event_id: id }) => id);
  assert.deepEqual(ids, [...ids].sort());
  assert.equal(new Set(ids).size, 6_000);
  const made = Number.parseInt(ids[0].replace('-', '').slice(0, 12), 16);
  assert.ok(Math.abs(made - Date.parse(sent[0].ts)) < 1_000);
});

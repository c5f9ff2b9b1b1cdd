// What the second file of the client records, each only if its attribute asks for it.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { snippet } from '../../static/js/dashboard/snippet.js';
import { openBrowser, sharedWorld, tag, until, visit } from './harness.mjs';

let browser;
let world;
let context;
before(async () => {
  [browser, world] = await Promise.all([openBrowser(), sharedWorld()]);
  context = await browser.newContext();
  await context.route('https://**', (route) => route.fulfill({ body: 'elsewhere' }));
});
after(async () => {
  await browser.close();
  await world.stop();
});

const QUIET = 'data-page-views="off"';

/** Opens a page and waits for the second file. */
async function open(place, attributes, html, options) {
  const { site } = world;
  const loaded = context.waitForEvent('response', (response) => response.url().endsWith('/telemetry-web.js'));
  const page = await visit(context, site.page(place, `${tag(attributes)}${html}`, options));
  assert.equal((await loaded).status(), 200);
  // Its module runs before the load event of a page that is not loaded yet; else soon.
  await page.evaluate(() => import('/static/js/telemetry-web.js'));
  return page;
}

const told = (events) =>
  events.map(({ feature, metadata: { bot, ...rest } }) => [feature, ...Object.values(rest)].join(' '));
const close = (page) => page.close({ runBeforeUnload: true });

test('links to other sites and files are counted by their place, and once', async () => {
  const { site, eventsOf } = world;
  const page = await open(
    '/links/',
    `${QUIET} data-web-outbound data-web-downloads="on"`,
    `<a id="out" href="https://other.example/a/b?email=x@example.com#part"><b>out</b></a>
    <a id="named" href="https://other.example/" data-track="partner">named</a>
    <a id="own" href="/links/">own</a><a id="mail" href="mailto:a@example.com">mail</a>
    <a id="file" href="/files/report.pdf?token=secret">file</a>
    <a id="elsewhere" href="https://other.example/setup.exe">file elsewhere</a>
    <a id="attribute" href="/links/" download>saved</a>
    <svg width="20" height="20"><a id="drawn" href="https://svg.example/"><rect width="20" height="20"/></a></svg>
    <p id="plain">no link</p>
    <script>addEventListener('click', (event) => event.preventDefault());</script>`,
  );
  for (const id of ['out', 'named', 'own', 'mail', 'file', 'elsewhere', 'attribute', 'drawn', 'plain'])
    await page.click(`#${id}`);
  await page.click('#out', { button: 'middle' });
  await page.click('#out', { button: 'right' });
  const events = await eventsOf('/links/', 7, page);
  assert.deepEqual(told(events), [
    'outbound_link https://other.example/a/b',
    'partner click',
    'download /files/report.pdf',
    'download https://other.example/setup.exe',
    'download /links/',
    'outbound_link https://svg.example/',
    'outbound_link https://other.example/a/b',
  ]);
  assert.ok(!/secret|@/.test(JSON.stringify(events)));
  assert.ok(events.every(({ event_type: type }) => type === 'action'));
  assert.ok(site.batches.length > 0);
});

test('forms without a name are counted by their own, also in shadow trees, and what they contain is not read', async () => {
  const { eventsOf } = world;
  const page = await open(
    '/forms/',
    `${QUIET} data-web-forms`,
    `<form name="signin"><input name="name" value="secret"><input name="id" required><button>go</button></form>
    <form id="search"><input></form><form data-track="named"><button id="named">go</button></form>
    <form><button id="bare">go</button></form><div id="host"></div>
    <script>addEventListener('submit', (event) => event.preventDefault());
      const root = document.querySelector('#host').attachShadow({ mode: 'open' });
      root.innerHTML = '<form id="inside" action="javascript:void 0"><input></form>';
      root.firstChild.addEventListener('submit', (event) => event.preventDefault());</script>`,
  );
  await page.click('form[name=signin] button');
  await page.fill('input[required]', 'secret');
  await page.keyboard.press('Enter');
  await page.focus('#search input');
  await page.keyboard.press('Enter');
  await page.click('#named');
  await page.click('#bare');
  await page.focus('#host input');
  await page.keyboard.press('Enter');
  const events = await eventsOf('/forms/', 5, page);
  assert.deepEqual(told(events), ['signin submit', 'search submit', 'named submit', 'form submit', 'inside submit']);
  assert.ok(!JSON.stringify(events).includes('secret'));
});

test('a page that does not exist is counted with the page that links to it', async () => {
  const { site, eventsOf } = world;
  const page = await context.newPage();
  await page.goto(site.page('/from', '<a href="/missing/page">go</a>'));
  await context.route('**/missing/page', (route) =>
    route.fulfill({ status: 404, contentType: 'text/html', body: tag('data-web-not-found') }),
  );
  await page.click('a');
  await page.waitForFunction(() => window.EchoPilot?.track);
  const events = await eventsOf('/missing/', 2, page);
  assert.deepEqual(
    events.map(({ event_type: type, feature, metadata: { from } }) => [type, feature, from]),
    [
      ['page_view', 'missing/page', undefined],
      ['action', 'not_found', '/from'],
    ],
  );
  const found = await open('/found/', 'data-web-not-found', '');
  await found.waitForLoadState();
  await eventsOf('/found/', 1, found);
});

test('scroll depth counts each quarter once in a page view, and not on a short page', async () => {
  const { eventsOf } = world;
  const page = await open('/scroll/', `${QUIET} data-web-scroll`, '<div style="height: 4000px"></div>');
  const scroll = (share) =>
    page.evaluate((part) => {
      const { scrollHeight } = document.documentElement;
      scrollTo(0, part * scrollHeight - innerHeight);
      return new Promise(requestAnimationFrame);
    }, share);
  for (const share of [0.6, 0.3, 0.6, 1]) await scroll(share);
  await page.evaluate(() => history.pushState(null, '', '/scroll/next'));
  await scroll(0.3);
  const events = await eventsOf('/scroll/', 5, page);
  assert.deepEqual(
    events.map(({ url, metadata }) => [url, metadata.percent]),
    [
      ['/scroll/', 25],
      ['/scroll/', 50],
      ['/scroll/', 75],
      ['/scroll/', 100],
      ['/scroll/next', 25],
    ],
  );
  const short = await open('/short/', `${QUIET} data-web-scroll`, '<p>short</p>');
  await short.evaluate(() => dispatchEvent(new Event('scroll')));
  await short.evaluate(() => EchoPilot.track('action', 'last'));
  await eventsOf('/short/', 1, short);
});

test('engagement is the time in which a page is visible, by page, and long pauses are cut', async () => {
  const { eventsOf } = world;
  // Time passes only when the test says so.
  await context.addInitScript(() => {
    let passed = 0;
    const real = performance.now.bind(performance);
    performance.now = () => real() + passed;
    window.pass = (seconds) => {
      passed += 1000 * seconds;
      dispatchEvent(new Event('pointermove'));
    };
    window.show = (state) => {
      Object.defineProperty(document, 'visibilityState', { value: state, configurable: true });
      document.dispatchEvent(new Event('visibilitychange', { bubbles: true }));
    };
  });
  const page = await open('/read/', `${QUIET} data-web-engagement`, '');
  await page.evaluate(() => {
    pass(20);
    pass(20);
    history.pushState(null, '', '/read/second');
    pass(30);
    // Hidden for an hour, and then a pause of an hour.
    show('hidden');
    pass(3600);
    show('visible');
    pass(3600);
  });
  await close(page);
  const events = await eventsOf('/read/', 3);
  const seconds = events.map(({ url, metadata }) => [url, metadata.seconds]);
  const expected = [
    ['/read/', 40],
    ['/read/second', 30],
    ['/read/second', 60],
  ];
  assert.deepEqual(
    seconds.map(([url]) => url),
    expected.map(([url]) => url),
  );
  seconds.forEach(([, found], place) =>
    assert.ok(Math.abs(found - expected[place][1]) <= 5, `${found} seconds, not ${expected[place][1]}`),
  );
});

test('uncaught errors are counted by message and place, each once in a page view', async () => {
  const { eventsOf } = world;
  const page = await open(
    '/errors/',
    `${QUIET} data-web-errors`,
    `<button onclick="throw new TypeError('not https://a.example/x?token=secret here')">x</button>`,
  );
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.message));
  await page.click('button');
  await page.click('button');
  await page.evaluate(() => {
    setTimeout(() => Promise.reject(new Error('rejected')));
    setTimeout(() => Promise.reject('a string'));
    setTimeout(() => Promise.reject());
  });
  await until('all errors', () => errors.length === 5);
  const events = await eventsOf('/errors/', 4, page);
  assert.deepEqual(
    events.map(({ feature, metadata }) => [feature, metadata.message]),
    ['Uncaught TypeError: not https://a.example/x here', 'rejected', 'a string', 'undefined'].map((text) => [
      'error',
      text,
    ]),
  );
  assert.match(events[0].metadata.place, /^\/errors\/:\d+:\d+$/);
  await page.evaluate(() => {
    for (let n = 0; n < 50; n += 1) setTimeout(() => Promise.reject(new Error(`number ${n}`)));
  });
  await until('more errors', () => errors.length === 55);
  await eventsOf('/errors/', 10, page);
});

test('Web Vitals come from a third file, when the page is hidden at the latest', async () => {
  const page = await open('/vitals/', `${QUIET} data-web-vitals`, '<h1>Vitals</h1><button>x</button>');
  await page.evaluate(() => import('/static/js/telemetry-vitals.js'));
  await page.click('button');
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100))));
  await page.goto(world.site.page('/elsewhere', ''));
  const { server } = world;
  let vitals = new Map();
  await until('four of them, and of the fifth at most one', async () => {
    const events = (await server.events()).filter(({ url }) => url === '/vitals/');
    assert.ok(events.every(({ feature, event_type: type }) => feature === 'web_vital' && type === 'action'));
    vitals = new Map(events.map(({ metadata }) => [metadata.metric, metadata]));
    assert.equal(vitals.size, events.length, 'each once');
    return ['TTFB', 'FCP', 'LCP', 'CLS'].every((name) => vitals.has(name));
  });
  for (const { value, rating } of vitals.values()) {
    assert.ok(value >= 0, value);
    assert.match(rating, /^(good|needs-improvement|poor)$/);
  }
});

test('nothing is loaded or recorded that no attribute asks for', async () => {
  const { site, eventsOf } = world;
  const requests = [];
  const page = await context.newPage();
  page.on('request', (request) => requests.push(new URL(request.url()).pathname));
  await page.goto(
    site.page(
      '/nothing/',
      `${tag(`${QUIET} data-web-errors="off" data-webpack="x"`)}<a href="https://other.example/a.pdf">x</a>
      <form name="f"><button>go</button></form>
      <script>addEventListener('click', (event) => event.preventDefault());</script>`,
    ),
  );
  await page.click('a');
  await page.evaluate(() => EchoPilot.track('action', 'only'));
  await eventsOf('/nothing/', 1, page);
  assert.ok(!requests.some((path) => path.includes('telemetry-')), requests);
});

for (const [place, scripts] of [`'nonce-n'`, `'nonce-n' 'strict-dynamic'`, 'SERVER'].entries())
  test(`a call asks for more as an attribute does, and a policy with ${scripts} allows it`, async () => {
    const { server, site, eventsOf } = world;
    const at = `/policy-${place}/`;
    const policy = `default-src 'none'; script-src ${scripts.replace('SERVER', server.url)}; connect-src ${server.url};
      require-trusted-types-for 'script'; trusted-types 'none'`.replaceAll('\n', ' ');
    const html = tag(`${QUIET} nonce="n"`, server.url);
    const page = await visit(context, site.page(at, html, { 'Content-Security-Policy': policy }));
    const loaded = page.waitForResponse((response) => response.url().endsWith('/telemetry-web.js'));
    await page.evaluate(() => EchoPilot.init({ webErrors: true }));
    assert.equal((await loaded).status(), 200);
    await until('an error', async () => {
      await page.evaluate(() => {
        setTimeout(() => {
          throw new Error('allowed');
        });
      });
      await page.evaluate(() => EchoPilot.flush());
      return (await server.events()).some(({ url }) => url === at);
    });
    const [event] = await eventsOf(at, 1, page);
    assert.equal(event.metadata.message, 'Uncaught Error: allowed');
  });

test('from the neutral path no file has another name', async () => {
  const { server, site } = world;
  const page = await context.newPage();
  const requests = [];
  page.on('request', (request) => requests.push(request.url()));
  const html = `<script src="${server.url}/echo.js" ${QUIET} data-web-vitals data-web-errors></script>`;
  await page.goto(site.page('/neutral/', html));
  await until('all files', () => requests.includes(`${server.url}/echo-vitals.js`));
  assert.ok(requests.includes(`${server.url}/echo-web.js`));
  assert.ok(!requests.some((url) => url.includes('telemetry')), String(requests));
});

test('with the snippet, settings made before the script has loaded apply, and a blocked script leaves nothing', async () => {
  const { site, eventsOf } = world;
  const html = `${snippet('/static/js/telemetry.js')}<script>
    EchoPilot.init({ visitors: 'session', webErrors: 'on', campaigns: true });
    EchoPilot.track('action', 'early');</script>`;
  site.page('/late/', html);
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.message));
  await page.route('**/telemetry.js', (route) => route.abort('blockedbyclient'));
  await page.goto(`${site.url}/late/?utm_source=news`);
  await page.evaluate(() => Promise.all([EchoPilot.flush(), EchoPilot.optIn()]));
  assert.deepEqual(await page.evaluate(() => [sessionStorage.length, EchoPilot.q.length]), [0, 4]);
  await page.unroute('**/telemetry.js');
  let come;
  const late = new Promise((resolve) => {
    come = resolve;
  });
  await page.route('**/telemetry.js', async (route) => {
    await late;
    await route.continue();
  });
  await page.goto(`${site.url}/late/?utm_source=news`, { waitUntil: 'commit' });
  await page.waitForFunction(() => window.EchoPilot?.q.length === 2);
  const loaded = page.waitForResponse((response) => response.url().endsWith('/telemetry-web.js'));
  come();
  await loaded;
  await page.evaluate(() => import('/static/js/telemetry-web.js'));
  const events = await eventsOf('/late/', 2, page);
  const of = (feature) => events.find((event) => event.feature === feature);
  assert.match(of('early').user_id, /^visitor-/);
  assert.equal(of('late').user_id, of('early').user_id);
  assert.equal(of('late').metadata.utm_source, 'news');
  assert.deepEqual(errors, []);
});

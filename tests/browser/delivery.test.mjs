// Whatever fails in between, no event is lost and none counts twice.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { act, folderFor, openBrowser, openProfile, Site, stored, tag, until, visit, world } from './harness.mjs';

let browser;
before(async () => {
  browser = await openBrowser();
});
after(() => browser.close());

test('ten thousand events in a loop are all counted, in order, in batches within the limits of the server', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/'));
  await act(page, 10_000);
  await server.counts(10_001, page);
  assert.ok(site.batches.every(({ events, bytes }) => events.length <= 100 && bytes <= 30_200));
  const sent = site.batches.flatMap(({ events }) => events).filter(({ feature }) => feature === 'act');
  const numbers = sent.map(({ metadata }) => metadata.n);
  assert.deepEqual(
    numbers,
    [...numbers].sort((a, b) => a - b),
  );
  assert.equal(numbers.length, 10_000, 'nothing was sent twice');
  assert.deepEqual(await stored(page), []);
});

test('a steady series of events is sent after five seconds, and after one second without an event', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/', tag('data-page-views="off"')));
  // On a busy machine the page may stand still for a second, after which events are sent.
  const { made, pauses, began, ended } = await page.evaluate(
    () =>
      new Promise((resolve) => {
        const start = performance.now();
        const startedAt = Date.now();
        let last = start;
        let count = 0;
        let still = 0;
        const timer = setInterval(() => {
          EchoPilot.track('action', 'tick');
          count += 1;
          const now = performance.now();
          if (now - last > 800) still += 1;
          last = now;
          if (now - start < 13_000) return;
          clearInterval(timer);
          resolve({ made: count, pauses: still, began: startedAt, ended: Date.now() });
        }, 400);
      }),
  );
  await server.counts(made, page);
  const times = site.batches.map(({ at }) => performance.timeOrigin + at);
  const [first, second] = times.map((time) => time - began);
  assert.ok((pauses > 0 || first > 4_500) && first < 9_000, `the first after ${first} ms`);
  assert.ok(second < ended - began, `the second while events still came, not after ${second} ms`);
  const quiet = times.at(-1) - ended;
  assert.ok(quiet > 900 && quiet < 10_000, `the last after ${quiet} ms without an event`);
  // What was recorded while a slow request ran is sent at once after it.
  const series = times.filter((time, n) => !n || time - times[n - 1] > 2_500);
  assert.ok(series.length <= 4 + pauses, `${series.length} series of batches, ${pauses} pauses`);
});

test('a quick series is one batch', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/'));
  await server.counts(1, page);
  const before = site.batches.length;
  await page.evaluate(
    () =>
      new Promise((resolve) => {
        let count = 0;
        const timer = setInterval(() => {
          EchoPilot.track('action', 'act');
          count += 1;
          if (count < 5) return;
          clearInterval(timer);
          resolve();
        }, 20);
      }),
  );
  await server.counts(6, page);
  assert.equal(site.batches.length - before, 1);
});

test('offline events arrive when the network is back', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/'));
  await server.counts(1, page);
  await context.setOffline(true);
  await act(page, 40);
  await page.evaluate(() => EchoPilot.flush());
  await act(page, 59);
  assert.equal(await server.count(), 1);
  await until('storing', async () => (await stored(page)).length === 99);
  await context.setOffline(false);
  await server.counts(100, page);
});

test('offline events outlive the page', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/');
  const page = await visit(context, site.url);
  await server.counts(1, page);
  await context.setOffline(true);
  await act(page, 30);
  await until('storing', async () => (await stored(page)).length === 30);
  await page.close();
  assert.equal(await server.count(), 1);
  await context.setOffline(false);
  await server.counts(32, await visit(context, site.url));
});

test('while the server is unreachable the newest hundred events are kept, with the number of lost ones', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/'));
  await server.counts(1, page);
  await server.down();
  await act(page, 250);
  await until('the cut', async () => {
    await page.evaluate(() => EchoPilot.flush());
    return (await stored(page)).length === 100;
  });
  await act(page, 20);
  await until('the second cut', async () => {
    const records = await stored(page);
    return records.length === 100 && JSON.parse(records.at(-1).json).metadata.n === 19;
  });
  await server.again();
  await server.counts(101, page);
  const [, first, ...others] = await server.events();
  assert.equal(first.metadata.n, 170);
  assert.equal(first.metadata.dropped_before, 170);
  assert.ok(others.every(({ metadata }) => metadata.dropped_before === undefined));
});

test('events that two tabs drop at once are counted once', async (t) => {
  const { server, site, context } = await world(t, browser);
  const pages = [await visit(context, site.page('/')), await visit(context, site.url)];
  await server.counts(2, ...pages);
  await server.down();
  const rounds = (page) =>
    page.evaluate(async () => {
      for (let round = 0; round < 60; round += 1) {
        const attempt = EchoPilot.flush();
        for (let n = 0; n < 5; n += 1) EchoPilot.track('action', 'act');
        await new Promise((resolve) => {
          setTimeout(resolve, Math.random() * 10);
        });
        for (let n = 0; n < 5; n += 1) EchoPilot.track('action', 'act');
        await attempt;
      }
    });
  await Promise.all(pages.map(rounds));
  const lost = async () => {
    const records = await stored(pages[0]);
    const missing = records.map(({ json }) => JSON.parse(json).metadata.dropped_before || 0);
    return [records.length, ...missing.filter(Boolean)];
  };
  await until('the last cut', async () => {
    for (const page of pages) await page.evaluate(() => EchoPilot.flush());
    return (await lost())[0] === 100;
  });
  assert.deepEqual(await lost(), [100, 1_100]);
});

test('the server goes down and comes up: each event counts once', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/'));
  await act(page, 20);
  await server.counts(21, page);
  await server.down();
  await act(page, 60);
  await until('a failed attempt', () => site.batches.length > 1);
  await server.again();
  await server.counts(81, page);
});

test('the server stores events and dies before it responds: each event counts once', async (t) => {
  const { server, site, context } = await world(t, browser);
  let stolen = 0;
  site.intercept = async ({ response, pass }) => {
    const answer = await pass();
    stolen += 1;
    if (stolen > 3) return answer;
    response.destroy();
    return null;
  };
  const page = await visit(context, site.page('/'));
  await act(page, 90);
  await until('the response at last', async () => stolen > 3 && (await stored(page)).length === 0);
  await server.counts(91, page);
});

test('a tab is killed in the middle of a batch, before and after the server has it', async (t) => {
  const { server, site, context } = await world(t, browser);
  let total = 0;
  for (const isPassedOn of [true, false]) {
    const page = await visit(context, site.page('/'));
    await server.counts(total + 1, page);
    const held = new Promise((resolve) => {
      site.intercept = async ({ pass }) => {
        if (isPassedOn) await pass();
        resolve();
        return new Promise(() => {});
      };
    });
    await act(page, 70);
    await held;
    await act(page, 20);
    await until('storing', async () => (await stored(page)).length === 90);
    const crashed = page.waitForEvent('crash');
    const session = await context.newCDPSession(page);
    session.send('Page.crash').catch(() => {});
    await crashed;
    await page.close();
    assert.equal(await server.count(), total + (isPassedOn ? 71 : 1));
    site.intercept = null;
    const next = await visit(context, site.url);
    total += 92;
    await server.counts(total, next);
    await next.close();
  }
});

test('the browser is killed: its next start sends the remaining events', async (t) => {
  const { server, site } = await world(t);
  const folder = await folderFor(t);
  site.page('/');
  const first = await openProfile(folder);
  t.after(() => first.close());
  site.intercept = () => new Promise(() => {});
  const page = await visit(first, site.url);
  await act(page, 80);
  await until('storing', async () => (await stored(page)).length === 81);
  const session = await first.browser().newBrowserCDPSession();
  const gone = new Promise((resolve) => {
    first.on('close', resolve);
  });
  session.send('Browser.crash').catch(() => {});
  await gone;
  site.intercept = null;
  const second = await openProfile(folder);
  t.after(() => second.close());
  await server.counts(82, await visit(second, site.url));
});

test('five tabs of one site count each event once and send one after the other', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/', tag('data-page-views="off"'));
  let open = 0;
  let most = 0;
  site.intercept = async ({ pass }) => {
    open += 1;
    most = Math.max(most, open);
    const answer = await pass();
    open -= 1;
    return answer;
  };
  const pages = [];
  for (let n = 0; n < 5; n += 1) pages.push(await visit(context, site.url));
  await Promise.all(pages.map((page) => act(page, 20)));
  await server.counts(100, ...pages);
  assert.equal(most, 1, 'one tab sent at a time');
  const ids = site.batches.flatMap(({ events }) => events.map(({ event_id }) => event_id));
  assert.equal(new Set(ids).size, ids.length, 'no event was sent twice');
});

test('two tabs, one of which is closed at once', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/');
  const [left, right] = [await visit(context, site.url), await visit(context, site.url)];
  await Promise.all([act(left, 50), act(right, 50)]);
  await left.close();
  await server.counts(102, right);
});

test('a page that navigates at once after a click', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/next');
  site.page(
    '/',
    `${tag()}<a id="plain" href="/next" data-track="plain">go</a>
    <button id="code" data-track="code">go</button><script>
    document.getElementById('code').addEventListener('click', () => { location.href = '/next'; });</script>`,
  );
  for (let n = 0; n < 5; n += 1) {
    for (const id of ['plain', 'code']) {
      const page = await visit(context, site.url);
      await page.click(`#${id}`);
      await page.waitForURL('**/next');
      await page.close();
    }
  }
  await server.counts(30);
  const { feature_usage: usage } = await server.usage();
  assert.deepEqual(usage, { '/': 10, next: 10, code: 5, plain: 5 });
});

for (const [how, end] of [
  ['closed', (page) => page.close({ runBeforeUnload: true })],
  ['left', (page) => page.goto('about:blank')],
]) {
  test(`a page of another origin that is ${how} at once delivers, without a preflight request`, async (t) => {
    const { server, site, context } = await world(t, browser);
    const front = await Site.start(server);
    t.after(() => front.stop());
    const page = await visit(context, site.page('/', tag('', front.url)));
    await server.counts(1, page);
    await act(page, 10);
    await end(page);
    await server.counts(11);
    assert.ok(!front.methods.includes('OPTIONS'), front.methods.join());
  });
}

test('three times 30 KB created while the page ends: events beyond the budget wait for the next page', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/next', tag('data-page-views="off"'));
  const page = await visit(context, site.page('/', tag('data-page-views="off"')));
  await page.evaluate(() => {
    addEventListener(
      'pagehide',
      () => {
        for (let n = 0; n < 90; n += 1) EchoPilot.track('action', 'large', { n, text: 'x'.repeat(800) });
      },
      true,
    );
  });
  await page.goto(`${site.url}/next`);
  await server.counts(90, page);
  assert.ok(site.batches.every(({ bytes }) => bytes <= 30_200));
});

test('a page that ends while the server is down and IndexedDB hangs leaves its events to the next page', async (t) => {
  const { server, site, context } = await world(t, browser);
  await context.addInitScript(() => {
    if (location.pathname === '/')
      Object.defineProperty(window, 'indexedDB', {
        get() {
          throw new DOMException('no', 'UnknownError');
        },
      });
  });
  site.page('/next', tag('data-page-views="off"'));
  const page = await visit(context, site.page('/', tag('data-page-views="off"')));
  await server.down();
  await act(page, 60);
  await until('a failed attempt', () => site.batches.length > 0);
  await page.goto(`${site.url}/next`);
  await server.again();
  await server.counts(60, page);
  assert.deepEqual(await page.evaluate(() => Object.keys(localStorage)), []);
});

test('three times 30 KB at once, and the page ends: events beyond the budget wait for the next page', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/next', tag('data-page-views="off"'));
  const page = await visit(context, site.page('/', tag('data-page-views="off"')));
  await page.evaluate(() => {
    for (let n = 0; n < 90; n += 1) EchoPilot.track('action', 'large', { n, text: 'x'.repeat(800) });
  });
  await page.goto(`${site.url}/next`);
  await server.counts(90, page);
  assert.ok(site.batches.every(({ bytes }) => bytes <= 30_200));
});

test('three times 30 KB at once, while another script has used up the budget of requests that outlive the page', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/elsewhere');
  const page = await visit(context, site.page('/', tag('data-page-views="off"')));
  let letGo;
  const held = new Promise((resolve) => {
    letGo = resolve;
  });
  const own = site.answer.bind(site);
  site.answer = async (request, response) => {
    if (!request.url.startsWith('/other')) return own(request, response);
    await held;
    response.destroy();
  };
  await page.evaluate(() => {
    fetch('/other', { method: 'POST', body: 'x'.repeat(60_000), keepalive: true }).catch(() => {});
    for (let n = 0; n < 90; n += 1) EchoPilot.track('action', 'large', { text: 'x'.repeat(800) });
  });
  await until('attempts', async () => {
    await page.evaluate(() => EchoPilot.flush());
    return (await stored(page)).length > 0;
  });
  letGo();
  await server.counts(90, page);
});

test('events are sent by fetch if the browser rejects the beacon', async (t) => {
  const { server, site, context } = await world(t, browser);
  await context.addInitScript(() => {
    navigator.sendBeacon = () => false;
  });
  const page = await visit(context, site.page('/'));
  await act(page, 30);
  await page.close({ runBeforeUnload: true });
  await server.counts(31);
});

/** A page without further automatic events: its view is counted, and its clock is stopped. */
async function stillPage(server, context, url) {
  const page = await context.newPage();
  await page.clock.install();
  await page.goto(url);
  await page.clock.pauseAt(Date.now() + 120_000);
  await server.counts(1, page);
  return page;
}

test('the next page sends a lost beacon again, after its lease', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await stillPage(server, context, site.page('/'));
  // No response, and the connection stays open: after a reset the browser itself may send the request again.
  site.intercept = () => {};
  const before = site.batches.length;
  await act(page, 10);
  await until('storing', async () => (await stored(page)).length === 10);
  await page.goto(site.page('/without', ''));
  await until('the beacon', () => site.batches.length > before);
  await until('the leases', async () => (await stored(page)).every((record) => record.until > 0));
  site.intercept = null;
  await page.goto(site.url);
  // Events that may have arrived are not sent again at once.
  await server.counts(2, page);
  await page.clock.fastForward(61_000);
  await server.counts(12, page);
});

test('a hidden page sends at once and learns that the events arrived', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await stillPage(server, context, site.page('/'));
  await act(page, 10);
  await page.evaluate(() => {
    Object.defineProperty(document, 'visibilityState', { get: () => 'hidden' });
    document.dispatchEvent(new Event('visibilitychange'));
  });
  await until('arrival', async () => (await server.count()) === 11);
  await until('an empty store', async () => (await stored(page)).length === 0);
});

test('a closed database connection is opened again', async (t) => {
  const { server, site, context } = await world(t, browser);
  await context.addInitScript(() => {
    window.opened = [];
    const { open } = IDBFactory.prototype;
    IDBFactory.prototype.open = function remember(...values) {
      const request = open.apply(this, values);
      request.addEventListener('success', () => window.opened.push(request.result));
      return request;
    };
  });
  const page = await visit(context, site.page('/'));
  await server.counts(1, page);
  site.intercept = ({ response }) => {
    response.destroy();
  };
  await page.evaluate(() => {
    window.opened.forEach((database) => database.close());
  });
  await act(page, 15);
  await until('storing', async () => (await stored(page)).length === 15);
  site.intercept = null;
  await server.counts(16, page);
});

test('storage throws: events are sent from memory', async (t) => {
  const { server, site, context } = await world(t, browser);
  await context.addInitScript(() => {
    for (const name of ['indexedDB', 'localStorage', 'sessionStorage']) {
      Object.defineProperty(window, name, {
        get() {
          throw new DOMException('no', 'SecurityError');
        },
      });
    }
    LockManager.prototype.request = () => Promise.reject(new DOMException('no', 'SecurityError'));
  });
  const page = await visit(context, site.page('/'));
  await page.evaluate(() => EchoPilot.setUserId('u'));
  await act(page, 350);
  await server.counts(351, page);
  await server.down();
  await act(page, 50);
  await until('a failed attempt', () => site.batches.length > 4);
  await server.again();
  await server.counts(401, page);
});

test('a frame without an origin, as in previews and mail readers', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/frame', `${tag('', server.url)}<script>EchoPilot.track('action', 'inside')</script>`);
  const page = await context.newPage();
  await page.goto(site.page('/', '<iframe sandbox="allow-scripts" src="/frame"></iframe>'));
  await server.counts(2);
});

test('storage hangs: events are sent from memory', async (t) => {
  const { server, site, context } = await world(t, browser);
  await context.addInitScript(() => {
    IDBFactory.prototype.open = () => ({});
  });
  const page = await visit(context, site.page('/'));
  await act(page, 5);
  await server.counts(6);
});

test('Retry-After of a 429 from another origin is respected', async (t) => {
  const { server, site, context } = await world(t, browser);
  const front = await Site.start(server);
  t.after(() => front.stop());
  let refusals = 0;
  front.intercept = async ({ pass }) => {
    const answer = await pass();
    refusals += 1;
    if (refusals > 1) return answer;
    // With the headers by which the server lets other origins read a response.
    return { status: 429, headers: { ...answer.headers, 'retry-after': '3', 'content-length': '2' }, body: '{}' };
  };
  const page = await visit(context, site.page('/', tag('', front.url)));
  await act(page, 20);
  await until('the rejection', () => refusals === 1);
  const isAnswered = () => performance.getEntriesByType('resource').some(({ name }) => name.endsWith('/event'));
  await until('its arrival', () => page.evaluate(isAnswered));
  for (let n = 0; n < 3; n += 1) {
    await act(page, 1);
    await page.evaluate(() => EchoPilot.flush());
    await page.evaluate(() => dispatchEvent(new Event('online')));
  }
  await server.counts(24, page);
  const [first, second] = front.batches;
  assert.ok(second.at - first.at >= 2_950, `the second came after ${second.at - first.at} ms`);
});

test('pauses after failures are random and grow', async (t) => {
  const { server, site, context } = await world(t, browser);
  await context.addInitScript(() => {
    Math.random = () => 0.99;
  });
  site.intercept = ({ response }) => {
    response.destroy();
  };
  const page = await visit(context, site.page('/'));
  await until('four attempts', () => site.batches.length >= 4);
  const pauses = site.batches.slice(1).map(({ at }, n) => at - site.batches[n].at);
  [1_000, 2_000, 4_000].forEach((limit, n) => {
    assert.ok(pauses[n] > 0.9 * limit && pauses[n] < limit + 10_000, `pause ${n}: ${pauses[n]} ms`);
  });
  site.intercept = null;
  await server.counts(1, page);
});

test('a batch that is too large for a proxy is halved, and one event that is still too large delays no other', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.intercept = ({ pass, body }) => (body.length > 3_000 ? { status: 413, headers: {}, body: 'too large' } : pass());
  const page = await visit(context, site.page('/', tag('data-page-views="off"')));
  await act(page, 50);
  await page.evaluate(() => EchoPilot.track('action', 'huge', { text: 'x'.repeat(4_000) }));
  await act(page, 49);
  await server.counts(99, page);
  assert.deepEqual(await stored(page), []);
});

test('a response of another server is not taken as an acknowledgement', async (t) => {
  const { server, site, context } = await world(t, browser);
  let answers = 0;
  site.intercept = ({ pass }) => {
    answers += 1;
    const status = { 1: 200, 2: 403, 3: 404 }[answers];
    return status ? { status, headers: { 'Content-Type': 'text/html' }, body: '<h1>Log in</h1>' } : pass();
  };
  const page = await visit(context, site.page('/'));
  await act(page, 10);
  await server.counts(11, page);
  assert.ok(answers > 3);
});

test('a rejected event is reported in the console and delays no other', async (t) => {
  const { server, site, context } = await world(t, browser);
  const page = await visit(context, site.page('/', tag('data-page-views="off"')));
  const warnings = [];
  page.on('console', (message) => warnings.push(message.text()));
  await page.evaluate(() => {
    EchoPilot.track('tap', 'x');
    const circle = {};
    circle.circle = circle;
    EchoPilot.track('action', 'circle', circle);
    EchoPilot.track('action', 'x'.repeat(300), { big: 10n });
    EchoPilot.track('action', '\ud800 half', null);
    EchoPilot.track('conversion');
    // No argument of a page may throw.
    EchoPilot.track(Symbol('x'), Object.create(null));
    EchoPilot.track('action', Object.create(null));
    EchoPilot.track('action', 'text', 'text');
  });
  await server.counts(5, page);
  await page.evaluate(() => {
    EchoPilot.track('tap', 'x');
    return EchoPilot.flush();
  });
  assert.deepEqual(await stored(page), []);
  assert.ok(warnings.filter((text) => text.includes('rejected')).length === 2, warnings.join('\n'));
  await server.counts(5, page);
});

test('an event older than a week, which the server might count again, is dropped', async (t) => {
  const { server, site, context } = await world(t, browser);
  site.page('/', tag('data-page-views="off"'));
  const page = await context.newPage();
  await page.addInitScript(() => {
    const { now } = Date;
    Date.now = () => now() - 8 * 24 * 3600 * 1000;
    // Offline to its end: a request of a closing page may wait in the browser until the network is back.
    navigator.sendBeacon = () => false;
    window.fetch = () => Promise.reject(new TypeError('offline'));
  });
  await page.goto(site.url);
  await context.setOffline(true);
  await act(page, 3);
  await until('storing', async () => (await stored(page)).length === 3);
  await page.close();
  await context.setOffline(false);
  const next = await visit(context, site.url);
  await act(next, 2);
  await server.counts(2, next);
  assert.deepEqual(await stored(next), []);
});

// The clients of other products, unmodified, lose nothing and count nothing twice, whatever fails in between.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, before, test } from 'node:test';
import RudderStack from '@rudderstack/rudder-sdk-node';
import { Analytics as Segment } from '@segment/analytics-node';
import { PostHog } from 'posthog-node';
import { forward, KEY, openBrowser, PATIENCE_MS, Server, until } from './harness.mjs';

const PYTHON = process.env.ECHOPILOT_TEST_PYTHON ?? path.resolve('../../.venv/bin/python');
const EVENTS = 100;
const EVENTS_A_BATCH = 10;
const file = createRequire(import.meta.url).resolve;

/**
 * Between a client and the server: it responds with other statuses to some requests with events, and kills the server
 * after another, whose response the client does not see. Its own pages have the scripts of clients.
 */
class Faults {
  static async start(t, { statuses = [], killAt = 0, settings = {} } = {}) {
    const faults = new Faults();
    faults.server = await Server.start({ settings });
    Object.assign(faults, { statuses, killAt, pages: new Map(), batches: 0, reached: [] });
    faults.http = http.createServer((request, response) => {
      faults.answer(request, response).catch(() => response.destroy());
    });
    await new Promise((resolve) => {
      faults.http.listen(0, '127.0.0.1', resolve);
    });
    faults.url = `http://127.0.0.1:${faults.http.address().port}`;
    t.after(async () => {
      faults.http.closeAllConnections();
      await new Promise((resolve) => {
        faults.http.close(resolve);
      });
      await faults.server.stop();
    });
    return faults;
  }

  async answer(request, response) {
    const body = await buffer(request);
    const page = this.pages.get(new URL(request.url, this.url).pathname);
    if (page) {
      response.writeHead(200, { 'Content-Type': page.type }).end(page.body);
      return;
    }
    const isBatch = request.method === 'POST' && !/\/(flags|decide)/.test(request.url);
    if (isBatch) this.batches += 1;
    const number = this.batches;
    if (isBatch && this.statuses[number]) {
      this.reached.push(this.statuses[number]);
      // As the server does: a page of another origin may read the status.
      const { origin } = request.headers;
      const headers = { 'Retry-After': '1', ...(origin && { 'Access-Control-Allow-Origin': origin }) };
      response.writeHead(this.statuses[number], headers).end('{}');
      return;
    }
    await this.restarted;
    const answer = await forward(this.server, request, body);
    if (isBatch && number === this.killAt) {
      this.reached.push('killed');
      this.restarted = this.server.down().then(() => this.server.again());
      response.destroy();
      return;
    }
    response.writeHead(answer.status, answer.headers).end(answer.body);
  }

  /** The stored events with this feature, or of this type: those in the log, and sealed ones. */
  async stored(name = 'act') {
    const { restarted } = this;
    await restarted;
    const headers = { 'X-Dash-Key': KEY };
    const url = `${this.server.url}/api/analytics/export?days=2&format=ndjson`;
    const response = await fetch(url, { headers }).catch(() => null);
    const text = await response?.text().catch(() => null);
    if (typeof text !== 'string') {
      assert.notEqual(this.restarted, restarted, 'only a server that is killed breaks off');
      return [];
    }
    assert.equal(response.status, 200, text);
    const lines = text.split('\n').filter(Boolean);
    const events = lines.map((line) => JSON.parse(line));
    return events.filter(({ feature, event_type }) => feature === name || event_type === name);
  }

  /** Waits until each of the events is stored, and checks that none is stored twice. */
  async counts(users = 1) {
    let found = [];
    await until(`${EVENTS} events`, async () => {
      found = await this.stored();
      return found.length >= EVENTS;
    }).catch((error) => assert.fail(`${error.message}: ${found.length}, after ${this.reached}`));
    assert.equal(found.length, EVENTS);
    assert.deepEqual(
      found.map(({ metadata }) => metadata.n).sort((a, b) => a - b),
      Array.from({ length: EVENTS }, (_, n) => n),
    );
    assert.equal(new Set(found.map(({ user_id }) => user_id)).size, users);
  }
}

/** The faults that every client survives: an overload, a limit, and a crash after the events were stored. */
const ALL = { statuses: { 2: 503, 4: 429 }, killAt: 6 };

const each = (send) => {
  for (let n = 0; n < EVENTS; n += 1) send(n);
};

/** Runs a client in Python, to its end. */
async function python(script, ...parameters) {
  const child = spawn(PYTHON, ['-c', script, ...parameters], { stdio: ['ignore', 'inherit', 'pipe'] });
  const errors = [];
  child.stderr.on('data', (text) => errors.push(text));
  const code = await new Promise((resolve) => {
    child.on('exit', resolve);
  });
  assert.equal(code, 0, Buffer.concat(errors).toString());
}

const SERVERS = {
  'Segment for Node': async (url) => {
    const client = new Segment({ writeKey: 'site', host: url, flushAt: EVENTS_A_BATCH, flushInterval: 100 });
    each((n) => client.track({ userId: 'u', event: 'act', properties: { n } }));
    await client.closeAndFlush({ timeout: PATIENCE_MS });
  },
  'RudderStack for Node': async (url) => {
    const client = new RudderStack('site', { dataPlaneUrl: url, flushAt: EVENTS_A_BATCH, flushInterval: 100 });
    each((n) => client.track({ userId: 'u', event: 'act', properties: { n } }));
    await client.flush();
  },
  'PostHog for Node': async (url) => {
    const client = new PostHog('site', {
      host: url,
      flushAt: EVENTS_A_BATCH,
      flushInterval: 100,
      maxBatchSize: EVENTS_A_BATCH,
      fetchRetryDelay: 300,
    });
    each((n) => client.capture({ distinctId: 'u', event: 'act', properties: { n } }));
    await client.shutdown(PATIENCE_MS);
  },
  'PostHog for Python': (url) =>
    python(
      `import sys
from posthog import Posthog
client = Posthog('site', host=sys.argv[1], flush_at=${EVENTS_A_BATCH}, flush_interval=0.1, gzip=True)
for n in range(${EVENTS}):
    client.capture('act', distinct_id='u', properties={'n': n})
client.shutdown()`,
      url,
    ),
  'Segment for Python': (url) =>
    python(
      `import sys
from segment.analytics.client import Client
client = Client('site', host=sys.argv[1], upload_size=${EVENTS_A_BATCH}, upload_interval=0.1, gzip=True)
for n in range(${EVENTS}):
    client.track('u', 'act', {'n': n})
client.shutdown()`,
      url,
    ),
};

test('clients on servers: each of a hundred events is stored once', { concurrency: true }, async (t) => {
  await Promise.all(
    Object.entries(SERVERS).map(([name, send]) =>
      t.test(name, async (t) => {
        const faults = await Faults.start(t, ALL);
        await send(faults.url);
        await faults.counts();
        assert.deepEqual(faults.reached, [503, 429, 'killed']);
      }),
    ),
  );
});

let browser;
before(async () => {
  browser = await openBrowser();
});
after(() => browser.close());

/** A page with the script of a client, on another origin than the server. */
async function visit(t, faults, script, html) {
  const site = await Faults.start(t);
  site.pages.set('/client.js', { type: 'text/javascript', body: await readFile(file(script)) });
  const body = `<!doctype html><title>Page</title><script src="/client.js"></script><script>${html(faults.url)}</script>`;
  site.pages.set('/', { type: 'text/html', body });
  const context = await browser.newContext();
  t.after(() => context.close());
  const page = await context.newPage();
  await page.goto(`${site.url}/?utm_source=letter`);
  return page;
}

test('posthog-js: a hundred events of a page that closes are stored once', async (t) => {
  const faults = await Faults.start(t, { statuses: { 2: 503 }, killAt: 3 });
  const page = await visit(
    t,
    faults,
    'posthog-js/dist/array.full.js',
    // It sends nothing from a headless browser otherwise.
    (url) => `posthog.init('site', { api_host: '${url}', opt_out_useragent_filter: true, request_queue_config:
      { flush_interval_ms: 250 } });`,
  );
  const capture = (from, to) =>
    page.evaluate(
      ([from, to]) => {
        for (let n = from; n < to; n += 1) posthog.capture('act', { n });
      },
      [from, to],
    );
  for (let n = 0; n < 90; n += 30) {
    const { batches } = faults;
    await capture(n, n + 30);
    await until('a batch', () => faults.batches > batches);
  }
  await until('the faults', () => faults.reached.length === 2);
  await until('what was sent again', async () => (await faults.stored()).length === 90);
  await capture(90, EVENTS);
  await page.close({ runBeforeUnload: false });
  await faults.counts();
  const [view] = await faults.stored('page_view');
  assert.equal(view.feature, '/');
  assert.equal(view.metadata.utm_source, 'letter');
});

test('analytics.js of Segment: a hundred events of a page that closes are stored once', async (t) => {
  const faults = await Faults.start(t, { statuses: { 1: 503, 2: 429 }, killAt: 3 });
  const page = await visit(t, faults, '@segment/analytics-next/dist/umd/index.js', (url) => {
    const { host } = new URL(url);
    const options = `{ integrations: { 'Segment.io': { apiHost: '${host}/v1', protocol: 'http',
      deliveryStrategy: { strategy: 'batching', config: { size: 20, timeout: 2000 } } } } }`;
    return `window.client = AnalyticsNext.AnalyticsBrowser.load({ writeKey: 'site', cdnURL: '${url}' }, ${options});
      client.page();`;
  });
  const track = (from, to) =>
    page.evaluate(
      ([from, to]) => {
        const numbers = Array.from({ length: to - from }, (_, n) => from + n);
        return Promise.all(numbers.map((n) => client.track('act', { n }))).then(() => null);
      },
      [from, to],
    );
  await track(0, 90);
  await until('what was sent', async () => (await faults.stored()).length >= 90);
  await track(90, EVENTS);
  await page.close({ runBeforeUnload: false });
  await faults.counts();
  assert.deepEqual(faults.reached, [503, 429, 'killed']);
});

test('posthog-js: a visit with a sign-up and a purchase is one user, whatever happens to the store', async (t) => {
  const faults = await Faults.start(t);
  const page = await visit(
    t,
    faults,
    'posthog-js/dist/array.full.js',
    (url) => `posthog.init('site', { api_host: '${url}', opt_out_useragent_filter: true, request_queue_config:
      { flush_interval_ms: 250 } });`,
  );
  await page.evaluate(() => {
    posthog.capture('sign-up');
    posthog.identify('user-1');
    posthog.capture('purchase');
  });
  await until('the purchase', async () => (await faults.stored('purchase')).length === 1);
  const { server } = faults;
  const headers = { 'X-Dash-Key': KEY, 'Content-Type': 'application/json' };
  const ask = async (method, target, body) => {
    const response = await fetch(`${server.url}/api/analytics/${target}`, { method, headers, body });
    const answer = await response.json();
    assert.ok(response.ok, JSON.stringify(answer));
    return answer;
  };
  const job = async (kind) => {
    const { id } = await ask('POST', kind);
    await until(kind, async () => (await ask('GET', `jobs/${id}`)).state === 'done');
  };
  const isOneUser = async (stage) => {
    const usage = await server.usage();
    assert.equal(usage.mau, 1, stage);
    assert.equal(usage.dau, 1, stage);
    const steps = [{ event_type: 'page_view' }, { feature: 'sign-up' }, { feature: 'purchase' }];
    const { rows } = await ask('POST', 'query', JSON.stringify({ metric: 'funnel', steps, days: 2 }));
    assert.deepEqual(
      rows.map(({ users }) => users),
      [1, 1, 1],
      stage,
    );
  };
  await isOneUser('in the log');
  await job('seal');
  await isOneUser('sealed and compacted');
  await server.down();
  await server.again();
  await isOneUser('after a crash');
  await job('rebuild');
  await isOneUser('rebuilt');
  const { links } = await ask('GET', 'links');
  assert.equal(links.length, 1);
  assert.equal(links[0].user_id, 'user-1');
});

// Starts the real server, a site whose pages use the client, and a real browser that visits them.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import http from 'node:http';
import { homedir, tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { buffer } from 'node:stream/consumers';
import { chromium } from 'playwright-core';

const TARGET = process.env.CARGO_TARGET_DIR ?? path.join(homedir(), '.cache/echopilot-target');
export const PROGRAM = path.join(TARGET, 'release/echopilot');
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
export const KEY = 'a-key-for-the-tests';
/** Longest wait for anything that should happen soon, in ms. */
export const PATIENCE_MS = Number(process.env.ECHOPILOT_TEST_PATIENCE ?? 60_000);

/** A file to serve instead of the script in the binary, for quick changes of the client; the other minified files are in its folder. */
const SCRIPT_FILE = process.env.ECHOPILOT_TEST_SCRIPT;

/** Waits until `look` returns a truthy value, and returns that. */
export async function until(what, look) {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    assert.ok(performance.now() < deadline, `${what} did not happen in time`);
    await sleep(20);
  }
}

const sleep = (ms) =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });

/**
 * Waits, before the first test of a file, while its tests could still run when the day ends in UTC, or when the daily
 * rollup begins at 03:15: a test, its server and its pages would not mean the same day. The first minute of a day is
 * too short for some events.
 */
const dayLasts = (async () => {
  for (;;) {
    const minute = Math.floor(Date.now() / 60_000) % 1_440;
    const isNear = minute < 1 || (minute >= 180 && minute < 196) || minute >= 1_425;
    if (!isNear) return;
    await sleep(1_000);
  }
})();

let nextPort = 0;

/**
 * A port for a server that may be started again: below those that the system gives to connections, of which one could
 * take it meanwhile.
 */
async function freePort() {
  for (;;) {
    const port = 10_000 + ((process.pid * 50 + nextPort) % 10_000);
    nextPort += 1;
    const probe = http.createServer();
    const isFree = await new Promise((resolve) => {
      probe.once('error', () => resolve(false));
      probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
    });
    if (isFree) return port;
  }
}

async function temporaryFolder() {
  return mkdtemp(path.join(tmpdir(), 'echopilot-browser-'));
}

/** The server in its own folder. */
export class Server {
  /** `prepare` fills the folder first; `settings` are environment variables. */
  static async start({ prepare, settings } = {}) {
    await dayLasts;
    const server = new Server();
    server.settings = settings;
    server.folder = await temporaryFolder();
    await prepare?.(server.folder);
    await server.up(`127.0.0.1:${await freePort()}`);
    return server;
  }

  async up(listen) {
    const { PATH } = process.env;
    this.process = spawn(PROGRAM, ['serve', '--data-dir', this.folder, '--listen', listen], {
      env: { PATH, ECHOPILOT_DASH_KEY: KEY, ...this.settings },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.ended = new Promise((resolve, reject) => {
      this.process.on('exit', resolve);
      this.process.on('error', reject);
    });
    const lines = createInterface({ input: this.process.stderr });
    this.url = await new Promise((resolve, reject) => {
      this.ended.then(() => reject(new Error('the server ended before it was ready')), reject);
      lines.on('line', (line) => {
        const url = line.match(/http:\/\/\S+/);
        if (url) resolve(url[0]);
      });
    });
  }

  /** Ends it as a crash would. */
  async down() {
    this.process.kill('SIGKILL');
    await this.ended;
  }

  /** Starts it again, with the same address and folder. */
  async again() {
    await this.up(new URL(this.url).host);
  }

  async usage() {
    const response = await fetch(`${this.url}/api/analytics/usage?days=2`, { headers: { 'X-Dash-Key': KEY } });
    assert.equal(response.status, 200);
    return response.json();
  }

  async count() {
    return (await this.usage()).total_events;
  }

  /** The stored events, in the order of their timestamps. */
  async events() {
    const log = await readFile(path.join(this.folder, 'analytics_events.ndjson'), 'utf8');
    // What follows the last line feed is still being written.
    const events = log
      .split('\n')
      .slice(0, -1)
      .filter((line) => line.trim())
      .map((line) => JSON.parse(line));
    return events.sort((a, b) => Date.parse(a.ts) - Date.parse(b.ts));
  }

  /** The features of the events of a type, in the order of their timestamps. */
  async features(type) {
    return (await this.events()).filter((event) => event.event_type === type).map((event) => event.feature);
  }

  /** Waits until all events are counted, lets the pages send the rest, and counts again. */
  async counts(acts, ...pages) {
    let count;
    await until('the count', async () => {
      count = await this.count();
      return count >= acts;
    }).catch((error) => assert.fail(`${error.message}: ${count} of ${acts} events`));
    for (const page of pages) await page.evaluate(() => EchoPilot.flush());
    assert.equal(await this.count(), acts);
  }

  async stop() {
    await this.down();
    await rm(this.folder, { recursive: true });
  }
}

/**
 * A site with its own pages, which forwards all other requests to the server, as a proxy in front of both would.
 * `intercept` may handle an ingest request: its argument has the request, the body, and `pass`, which forwards it.
 */
export class Site {
  static async start(server) {
    const site = new Site();
    Object.assign(site, {
      server,
      pages: new Map(),
      intercept: null,
      batches: [],
      methods: [],
      reports: [],
    });
    site.http = http.createServer((request, response) => {
      site.answer(request, response).catch(() => response.destroy());
    });
    await new Promise((resolve) => {
      site.http.listen(0, '127.0.0.1', resolve);
    });
    site.url = `http://127.0.0.1:${site.http.address().port}`;
    return site;
  }

  /** Adds a page; without `html` it has only the script. Returns its URL. */
  page(place, html = tag(), headers = {}) {
    const body = `<!doctype html><title>${place}</title>\n${html}`;
    this.pages.set(place, { body, headers: { 'Content-Type': 'text/html', ...headers } });
    return this.url + place;
  }

  async answer(request, response) {
    const body = await buffer(request);
    const { pathname, search } = new URL(request.url, this.url);
    const page = this.pages.get(pathname);
    if (page) {
      response.writeHead(200, { 'Cache-Control': 'no-cache', ...page.headers }).end(page.body);
      return;
    }
    if (pathname === '/favicon.ico') {
      response.writeHead(204).end();
      return;
    }
    // For pages without remote control: they report here, and wait here for their cue.
    if (pathname === '/report') {
      this.reports.push(decodeURIComponent(search.slice(1)));
      response.end();
      return;
    }
    if (pathname === '/cue') {
      await this.cue;
      response.end();
      return;
    }
    const script = SCRIPT_FILE && pathname.match(/^\/static\/js\/telemetry(-\w+)?\.js$/);
    if (script) {
      const headers = { 'Content-Type': 'text/javascript', 'Access-Control-Allow-Origin': '*' };
      const beside = `${path.dirname(SCRIPT_FILE)}/telemetry${script[1]}.min.js`;
      response.writeHead(200, headers).end(await readFile(script[1] ? beside : SCRIPT_FILE));
      return;
    }
    const pass = () => forward(this.server, request, body);
    const isBatch = request.method === 'POST';
    this.methods.push(request.method);
    if (isBatch) {
      const { headers } = request;
      this.batches.push({ at: performance.now(), headers, pathname, bytes: body.length, ...JSON.parse(body) });
    }
    const answer = isBatch && this.intercept ? await this.intercept({ request, response, body, pass }) : await pass();
    if (!answer) return;
    response.writeHead(answer.status, answer.headers).end(answer.body);
  }

  async stop() {
    this.http.closeAllConnections();
    await new Promise((resolve) => {
      this.http.close(resolve);
    });
  }
}

/** Forwards a request to the server, and returns the response with its body. */
export function forward(server, { method, url, headers }, body) {
  return new Promise((resolve, reject) => {
    const onward = http.request(server.url + url, { method, headers, agent: false }, (answer) => {
      const { statusCode: status, headers } = answer;
      buffer(answer).then((body) => resolve({ status, headers, body }), reject);
    });
    onward.on('error', reject);
    onward.end(body);
  });
}

/** The tag of the script. */
export const tag = (attributes = '', from = '') =>
  `<script src="${from}/static/js/telemetry.js" ${attributes}></script>`;

/** Longest start of a browser, in ms. */
export const LAUNCH_MS = 4 * PATIENCE_MS;

/** A browser whose pages wait as long as the tests do. */
function patient(browser) {
  const { newContext } = browser;
  browser.newContext = async (options) => {
    const context = await newContext.call(browser, options);
    context.setDefaultTimeout(PATIENCE_MS);
    return context;
  };
  return browser;
}

/** Starts a browser for one file of tests. */
export async function openBrowser() {
  return patient(await chromium.launch({ executablePath: CHROMIUM, args: FLAGS, timeout: LAUNCH_MS }));
}

/** Starts a browser with its own profile folder, so that it can be killed and started again. */
export async function openProfile(folder) {
  const options = { executablePath: CHROMIUM, args: FLAGS, timeout: LAUNCH_MS };
  const context = await chromium.launchPersistentContext(folder, options);
  context.setDefaultTimeout(PATIENCE_MS);
  return context;
}

/** Starts a browser without remote control, which disables some features. Its pages run by themselves. */
export function openWithoutControl(folder, url) {
  const browser = spawn(CHROMIUM, [...FLAGS, `--user-data-dir=${folder}`, url], { stdio: 'ignore', detached: true });
  const ended = new Promise((resolve) => {
    browser.on('exit', resolve);
  });
  return async () => {
    process.kill(-browser.pid, 'SIGKILL');
    await ended;
  };
}

/** Sets up a test and its end: `async (t) => { const { server, site, context } = await world(t, browser) }`. */
export async function world(t, browser, options = {}) {
  const server = await Server.start();
  const site = await Site.start(server);
  const context = browser && (await browser.newContext(options));
  t.after(async () => {
    await context?.close();
    await site.stop();
    await server.stop();
  });
  return { server, site, context };
}

/** Starts a server and a site that all tests of a file share, each with pages below its own path. */
export async function sharedWorld(settings) {
  const server = await Server.start({ settings });
  const site = await Site.start(server);
  /** The events of the pages below a path, in their order, once there are so many; no more may follow. */
  const eventsOf = async (prefix, count, ...pages) => {
    for (const page of pages) await page.evaluate(() => EchoPilot.flush());
    let events = [];
    await until(`${count} events of ${prefix}`, async () => {
      events = (await server.events()).filter(({ url }) => url.startsWith(prefix));
      return events.length >= count;
    }).catch((error) => assert.fail(`${error.message}: ${JSON.stringify(events)}`));
    assert.equal(events.length, count, JSON.stringify(events));
    return events;
  };
  const stop = async () => {
    await site.stop();
    await server.stop();
  };
  return { server, site, eventsOf, stop };
}

/** Makes a folder that is removed after the test. */
export async function folderFor(t) {
  const folder = await temporaryFolder();
  t.after(() => rm(folder, { recursive: true, force: true, maxRetries: 10 }));
  return folder;
}

/** Opens the page at `url`, and waits for the client in it. */
export async function visit(context, url) {
  const page = await context.newPage();
  await page.goto(url);
  await page.waitForFunction(() => window.EchoPilot?.track);
  return page;
}

/** Records `count` actions in a loop. */
export const act = (page, count, feature = 'act') =>
  page.evaluate(
    ([times, name]) => {
      for (let n = 0; n < times; n += 1) EchoPilot.track('action', name, { n });
    },
    [count, feature],
  );

/** Reads the records in the browser's store, of this site and its default endpoint. */
export const stored = (page) =>
  page.evaluate(async () => {
    const databases = await indexedDB.databases();
    const all = await Promise.all(
      databases.map(
        ({ name }) =>
          new Promise((resolve, reject) => {
            const request = indexedDB.open(name);
            request.onerror = reject;
            request.onsuccess = () => {
              const records = request.result.transaction('events').objectStore('events').getAll();
              records.onsuccess = () => resolve(records.result);
              request.result.close();
            };
          }),
      ),
    );
    return all.flat();
  });

// Pages of other origins send events without our client, in every way of a browser, with credentials and without.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openBrowser, Server, Site, until } from './harness.mjs';

let browser;
before(async () => {
  browser = await openBrowser();
});
after(() => browser.close());

/** Starts a server and a page of another origin. */
async function apart(t, settings) {
  const server = await Server.start({ settings });
  const site = await Site.start(server);
  const context = await browser.newContext();
  t.after(async () => {
    await context.close();
    await site.stop();
    await server.stop();
  });
  const page = await context.newPage();
  await page.goto(site.page('/', '<p>a page</p>'));
  return { server, site, page };
}

/** The ways in which a page can send a body. Each returns the status, if the page can read it. */
const WAYS = {
  'a beacon of JSON': (url, body) => navigator.sendBeacon(url, new Blob([body], { type: 'application/json' })) && 200,
  'a beacon of a string': (url, body) => navigator.sendBeacon(url, body) && 200,
  'a beacon of a form type': (url, body) =>
    navigator.sendBeacon(url, new URLSearchParams({ x: 1 })) &&
    navigator.sendBeacon(url, new Blob([body], { type: 'application/x-www-form-urlencoded' })) &&
    200,
  'fetch with credentials': async (url, body) =>
    (
      await fetch(url, {
        method: 'POST',
        body,
        credentials: 'include',
        headers: { 'Content-Type': 'application/json' },
      })
    ).status,
  'fetch without credentials': async (url, body) =>
    (
      await fetch(url, {
        method: 'POST',
        body,
        credentials: 'omit',
        headers: { 'Content-Type': 'application/json' },
      })
    ).status,
  'fetch with custom headers': async (url, body) =>
    (
      await fetch(url, {
        method: 'POST',
        body,
        credentials: 'include',
        headers: { 'X-Request-Id': '1', Authorization: 'Bearer x' },
      })
    ).status,
  'fetch that outlives the page': async (url, body) =>
    (
      await fetch(url, {
        method: 'POST',
        body,
        credentials: 'include',
        keepalive: true,
        headers: { 'Content-Type': 'application/json' },
      })
    ).status,
  'XHR with credentials': (url, body) =>
    new Promise((resolve) => {
      const request = new XMLHttpRequest();
      request.open('POST', url);
      request.withCredentials = true;
      request.setRequestHeader('Content-Type', 'application/json');
      request.onloadend = () => resolve(request.status);
      request.send(body);
    }),
};
const BODY = JSON.stringify({ events: [{ event_type: 'action', feature: 'apart' }] });

for (const [name, way] of Object.entries(WAYS)) {
  test(`${name} from another origin is stored`, async (t) => {
    const { server, page } = await apart(t);
    const send = `(${way})(${JSON.stringify(`${server.url}/api/analytics/event`)}, ${JSON.stringify(BODY)})`;
    assert.equal(await page.evaluate(send), 200);
    await until('the event', async () => (await server.count()) === 1);
  });
}

test('only pages of the listed origins send events', async (t) => {
  const { server, site, page } = await apart(t, { ECHOPILOT_ORIGINS: 'https://shop.example' });
  const send = (url) =>
    page.evaluate(`(${WAYS['fetch with credentials']})(
    ${JSON.stringify(`${url}/api/analytics/event`)}, ${JSON.stringify(BODY)})`);
  await assert.rejects(send(server.url));
  assert.equal(await server.count(), 0);
  const listed = await Server.start({ settings: { ECHOPILOT_ORIGINS: site.url } });
  t.after(() => listed.stop());
  assert.equal(await send(listed.url), 200);
  assert.equal(await listed.count(), 1);
});

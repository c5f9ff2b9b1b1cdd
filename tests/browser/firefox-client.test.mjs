// The client in Firefox, by WebDriver BiDi: clicks, visitors, campaigns and the second file.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import puppeteer from 'puppeteer-core';
import { SCENES } from './acts.mjs';
import { LAUNCH_MS, PATIENCE_MS, sharedWorld, tag } from './harness.mjs';

const FIREFOX = process.env.FIREFOX ?? '/usr/bin/firefox-esr';

let browser;
let world;
before(async () => {
  [browser, world] = await Promise.all([
    puppeteer.launch({ browser: 'firefox', executablePath: FIREFOX, headless: true, timeout: LAUNCH_MS }),
    sharedWorld(),
  ]);
});
after(async () => {
  await browser.close();
  await world.stop();
});

async function visit(t, url) {
  const page = await browser.newPage();
  t.after(() => page.close());
  page.setDefaultTimeout(PATIENCE_MS);
  await page.goto(url);
  await page.waitForFunction(() => window.EchoPilot?.track);
  return page;
}

for (const [place, { title, html, perform, expected }] of SCENES.entries()) {
  test(`${title}, in Firefox`, async (t) => {
    const at = `/scene-${place}/`;
    const { site, eventsOf } = world;
    const page = await visit(t, site.page(at, `${tag('data-page-views="off"')}${html(site, at)}`));
    await perform(page);
    const acts = (await eventsOf(at, expected.length, page)).map(
      ({ feature, metadata }) => `${feature} ${metadata.action}`,
    );
    assert.deepEqual(acts, expected);
  });
}

test('a visitor keeps the id, and the first page view has the campaign, in Firefox', async (t) => {
  const { site, eventsOf } = world;
  const url = site.page('/visit/', tag('data-visitors="persistent"'));
  const page = await visit(t, `${url}?utm_source=news&secret=1`);
  await page.evaluate(() => history.pushState(null, '', '/visit/next'));
  await page.evaluate(() => EchoPilot.track('action', 'act'));
  const [first, next, act] = await eventsOf('/visit/', 3, page);
  assert.match(first.user_id, /^visitor-[0-9a-f]{32}$/);
  assert.deepEqual([next.user_id, act.user_id], [first.user_id, first.user_id]);
  const { utm_source: source, device, viewport, language, secret } = first.metadata;
  assert.deepEqual([source, device, secret, next.metadata.device], ['news', 'desktop', undefined, undefined]);
  assert.ok(viewport && language);
});

test('links, forms, scroll depth, engagement and errors are recorded in Firefox', async (t) => {
  const { site, eventsOf } = world;
  const page = await visit(
    t,
    site.page(
      '/web/',
      `${tag('data-page-views="off" data-web-outbound data-web-forms data-web-scroll data-web-errors data-web-engagement')}
      <a href="https://other.example/a?b">x</a><form id="search"><input></form><div style="height: 5000px"></div>
      <script>for (const type of ['click', 'submit']) addEventListener(type, (event) => event.preventDefault());</script>`,
    ),
  );
  await page.evaluate(() => import('/static/js/telemetry-web.js'));
  await page.click('a');
  await page.focus('input');
  await page.keyboard.press('Enter');
  await page.evaluate(async () => {
    scrollTo(0, 1000);
    await new Promise((done) => {
      addEventListener('scroll', () => setTimeout(done), { once: true });
    });
    setTimeout(() => {
      throw new Error('wrong');
    });
    // As after a minute of reading.
    const real = performance.now.bind(performance);
    performance.now = () => real() + 50000;
    dispatchEvent(new Event('pointermove'));
    await new Promise((done) => {
      setTimeout(done, 50);
    });
    history.pushState(null, '', '/web/next');
    dispatchEvent(new Event('pointermove'));
  });
  const events = await eventsOf('/web/', 5, page);
  assert.deepEqual(
    events.map(({ feature, metadata }) => [feature, metadata.place ?? metadata.percent ?? metadata.action]),
    [
      ['outbound_link', 'https://other.example/a'],
      ['search', 'submit'],
      ['scroll', 25],
      ['error', events[3].metadata.place],
      ['engagement', undefined],
    ],
  );
  assert.equal(events[3].metadata.message, 'Error: wrong');
  assert.ok(events[4].metadata.seconds >= 50 && events[4].url === '/web/');
});

// Clicks: one event for each action, and no effect that the visitor notices.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { SCENES } from './acts.mjs';
import { openBrowser, sharedWorld, tag, until, visit, world } from './harness.mjs';

let browser;
let shared;
before(async () => {
  [browser, shared] = await Promise.all([openBrowser(), sharedWorld()]);
});
after(async () => {
  await browser.close();
  await shared.stop();
});

for (const [place, { title, html, perform, expected }] of SCENES.entries()) {
  test(title, async (t) => {
    const context = await browser.newContext();
    t.after(() => context.close());
    const at = `/scene-${place}/`;
    const page = await visit(context, shared.site.page(at, `${tag('data-page-views="off"')}${html(shared.site, at)}`));
    await perform(page);
    const acts = (await shared.eventsOf(at, expected.length, page)).map(
      ({ feature, metadata }) => `${feature} ${metadata.action}`,
    );
    assert.deepEqual(acts, expected);
  });
}

/** Opens a page with this body. `acted` waits for actions, written as `feature action`. */
async function clickable(t, body) {
  const { server, site, context } = await world(t, browser);
  site.page('/next', '<p>next</p>');
  const page = await visit(context, site.page('/', `${tag('data-page-views="off"')}${body}`));
  const acted = async (...acts) => {
    await server.counts(acts.length, ...((await page.evaluate(() => Boolean(window.EchoPilot))) ? [page] : []));
    const events = await server.events();
    assert.deepEqual(
      events.map(({ feature, metadata }) => `${feature} ${metadata.action}`),
      acts,
    );
    assert.ok(events.every(({ event_type: type }) => type === 'action'));
  };
  return { server, site, context, page, acted };
}

test('the names come from data-track and data-action of the nearest element that has one', async (t) => {
  const { page, acted } = await clickable(
    t,
    `
    <button id="plain" data-track="save">x</button>
    <button id="named" data-track="pricing" data-action="navigate"><b><i id="deep">x</i></b></button>
    <div data-track="card"><button id="inner" data-track="buy">x</button>
      <button id="share" data-action="share">x</button><p id="paragraph">x</p></div>
    <button id="bare" data-action="close">x</button>
    <button id="empty" data-track="">x</button><button id="none">x</button>`,
  );
  for (const id of ['plain', 'deep', 'inner', 'share', 'paragraph', 'bare', 'empty', 'none'])
    await page.click(`#${id}`);
  await acted('save click', 'pricing navigate', 'buy click', 'card share', 'card click', 'close close');
});

test('a click on a child of a link navigates and is one event', async (t) => {
  const { server, site, page } = await clickable(
    t,
    `<a href="/next" data-track="link"><svg width="20" height="20">
    <rect id="child" width="20" height="20"/></svg></a>`,
  );
  await page.click('#child');
  await page.waitForURL('**/next');
  await server.counts(1);
  assert.equal(site.batches.length, 1);
});

test('a middle click and a click with Control open a new tab, and are one event each', async (t) => {
  const { context, page, acted } = await clickable(t, '<a href="/next" data-track="link"><span>x</span></a>');
  for (const how of [{ button: 'middle' }, { modifiers: ['Control'] }]) {
    const opened = context.waitForEvent('page');
    await page.click('span', how);
    const tab = await opened;
    await tab.waitForURL('**/next');
  }
  assert.equal(new URL(page.url()).pathname, '/', 'the page itself stays');
  await acted('link click', 'link click');
});

test('a click with the right button is not counted', async (t) => {
  const { page, acted } = await clickable(
    t,
    '<a href="/next" data-track="link">x</a><button data-track="b">x</button>',
  );
  await page.click('a', { button: 'right' });
  await page.click('button', { button: 'right' });
  await page.click('button');
  await acted('b click');
});

test('a page that stops or prevents its clicks does not hide them', async (t) => {
  const { page, acted } = await clickable(
    t,
    `<a href="/next" data-track="link">x</a><script>
    document.querySelector('a').addEventListener('click', (event) => {
      event.preventDefault();
      event.stopImmediatePropagation();
    });</script>`,
  );
  await page.click('a');
  assert.equal(new URL(page.url()).pathname, '/');
  await acted('link click');
});

test('nothing is ever prevented', async (t) => {
  const { page, acted } = await clickable(
    t,
    `<label data-track="box"><input type="checkbox" id="box"> x</label>
    <button data-track="b">x</button>`,
  );
  const prevented = await page.evaluate(() => {
    window.prevented = 0;
    for (const type of ['click', 'auxclick', 'submit']) {
      addEventListener(type, (event) => {
        window.prevented += event.defaultPrevented;
      });
    }
    document.querySelector('button').click();
    return window.prevented;
  });
  await page.click('label');
  assert.equal(await page.isChecked('#box'), true);
  assert.equal(prevented, 0);
  await acted('b click', 'box click');
});

test('clicks on later elements, in shadow trees and by keyboard are counted', async (t) => {
  const { page, acted } = await clickable(t, '<div id="host" data-track="host"></div>');
  await page.evaluate(() => {
    document.body.insertAdjacentHTML('beforeend', '<button id="later" data-track="later">x</button>');
    const inside = '<button id="shadow" data-track="shadow"><b>x</b></button><p>paragraph</p>';
    document.getElementById('host').attachShadow({ mode: 'open' }).innerHTML = inside;
  });
  await page.click('#later');
  await page.click('#shadow b');
  await page.click('#host p');
  await page.focus('#later');
  await page.keyboard.press('Enter');
  await acted('later click', 'shadow click', 'host click', 'later click');
});

test('a label counts once, whether its control is inside or elsewhere', async (t) => {
  const { page, acted } = await clickable(
    t,
    `
    <div data-track="outer"><label id="inside"><b>x</b><input type="radio"></label></div>
    <label id="elsewhere" for="far" data-track="label">x</label><input id="far" type="checkbox">`,
  );
  await page.click('#inside b');
  await page.click('#elsewhere');
  await acted('outer click', 'label click');
});

test('a form counts when it is submitted, and its input is never read', async (t) => {
  const { server, page } = await clickable(
    t,
    `
    <form data-track="signup" action="/next"><input name="email" data-track="field"><p>paragraph</p>
      <button>Sign up</button></form>`,
  );
  await page.click('p');
  await page.fill('input', 'someone@example.com');
  await page.click('input');
  await page.click('button');
  await page.waitForURL('**/next?email=*');
  await until('the count', async () => (await server.count()) >= 2);
  const events = await server.events();
  const acts = events.map(({ feature, metadata }) => `${feature} ${metadata.action}`);
  assert.deepEqual(acts, ['field click', 'signup submit']);
  assert.ok(!JSON.stringify(events).includes('example.com'));
});

test('automatic clicks can be switched off', async (t) => {
  const { server, site, context } = await world(t, browser);
  const script = tag('data-clicks="off" data-page-views="off"');
  const page = await visit(context, site.page('/', `${script}<button data-track="b">x</button>`));
  await page.click('button');
  await page.evaluate(() => EchoPilot.track('conversion', 'by hand'));
  await server.counts(1, page);
});

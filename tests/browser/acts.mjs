// What a site developer expects of automatic clicks, as scenes that each browser plays: a page, what its visitor does, and
// the actions that are counted, as `feature action`.
import { tag } from './harness.mjs';

/** Clicks where an element is, whether or not it takes clicks. */
async function press(page, selector) {
  const [x, y] = await page.evaluate((wanted) => {
    const { left, top, width, height } = document.querySelector(wanted).getBoundingClientRect();
    return [left + width / 2, top + height / 2];
  }, selector);
  await page.mouse.click(x, y);
}

/** Puts the focus on an element, of the page or of a shadow tree, and presses keys. */
async function type(page, path, ...keys) {
  await page.evaluate((selectors) => {
    let root = document;
    let found;
    for (const selector of selectors) {
      found = root.querySelector(selector);
      root = found.shadowRoot;
    }
    found.focus();
  }, path);
  for (const key of keys) await page.keyboard.press(key);
}

/** Its forms stay on the page. */
const STAY = '<script>addEventListener("submit", (event) => event.preventDefault());</script>';

export const SCENES = [
  {
    title: 'a sign-in by Enter or Space is one act, and two names are two',
    html: () => `${STAY}
      <form id="one" data-track="sign_in"><input><input id="password" type="password">
        <button data-track="sign_in">Sign in</button></form>
      <form id="bare" data-track="search"><input></form>
      <form id="two" data-track="sign_up"><input><button data-track="sign_up_button">Sign up</button></form>
      <form id="invalid" data-track="order"><input required><button data-track="order">Order</button></form>`,
    perform: async (page) => {
      await type(page, ['#password'], 'Enter');
      await type(page, ['#one button'], ' ');
      await type(page, ['#one button'], 'Enter');
      await type(page, ['#bare input'], 'Enter');
      await type(page, ['#two input'], 'Enter');
      await type(page, ['#invalid button'], ' ');
    },
    expected: [
      'sign_in click',
      'sign_in click',
      'sign_in click',
      'search submit',
      'sign_up_button click',
      'sign_up submit',
      'order click',
    ],
  },
  {
    title: 'keys count where they act: on links, boxes and summaries, and not on paragraphs',
    html: () => `<a href="#a" data-track="link">a</a><input type="checkbox" data-track="box">
      <details data-track="more"><summary>more</summary></details><p tabindex="0" data-track="paragraph">p</p>
      <div id="own" role="button" tabindex="0" data-track="own">own</div>
      <script>document.querySelector('#own').onkeydown = ({ target }) => target.click();</script>`,
    perform: async (page) => {
      await type(page, ['a'], 'Enter', ' ');
      await type(page, ['input'], ' ', 'Enter');
      await type(page, ['summary'], 'Enter');
      await type(page, ['p'], 'Enter', ' ');
      await type(page, ['#own'], 'Enter');
    },
    expected: ['link click', 'box click', 'more click', 'own click'],
  },
  {
    title: 'forms and buttons in open shadow trees count, and in a closed one its host',
    html: () => `<div id="outer"></div><div id="closed" data-track="widget"></div><script>
      const root = document.querySelector('#outer').attachShadow({ mode: 'open' });
      root.innerHTML = '<form data-track="outer_form"><input></form><div id="inner"></div>';
      const inner = root.querySelector('#inner').attachShadow({ mode: 'open' });
      inner.innerHTML = '<form data-track="inner_form"><input><button data-track="inner_form">go</button></form>';
      for (const one of [root, inner]) one.addEventListener('submit', (event) => event.preventDefault());
      const closed = document.querySelector('#closed').attachShadow({ mode: 'closed' });
      closed.innerHTML = '<button data-track="hidden">x</button>';</script>`,
    perform: async (page) => {
      await type(page, ['#outer', 'input'], 'Enter', 'Enter');
      await type(page, ['#outer', '#inner', 'input'], 'Enter');
      await type(page, ['#outer', '#inner', 'button'], ' ');
      await press(page, '#closed');
    },
    expected: ['outer_form submit', 'outer_form submit', 'inner_form click', 'inner_form click', 'widget click'],
  },
  {
    title: 'an element that prevents the default or stops the event counts',
    html: () => `<a href="/away" data-track="link">a</a><form data-track="form"><button>go</button></form>
      <label data-track="label">x<input type="checkbox"></label><script>
      for (const type of ['click', 'submit'])
        for (const element of document.querySelectorAll('a, form, label'))
          element.addEventListener(type, (event) => {
            if (type === 'submit' || element.localName !== 'form') event.preventDefault();
            event.stopImmediatePropagation();
          });</script>`,
    perform: async (page) => {
      for (const selector of ['a', 'button', 'input']) await press(page, selector);
    },
    expected: ['link click', 'form submit', 'label click'],
  },
  {
    title: 'a disabled control does not count, nor does what is inside or around it',
    html: () => `<style>button, a { display: inline-block; padding: 9px }</style><div data-track="card">
      <button id="plain" disabled data-track="plain">x</button>
      <button id="child" disabled data-track="child"><b>x</b></button>
      <fieldset disabled><button id="field" data-track="field"><i>x</i></button></fieldset>
      <a id="aria" href="#x" aria-disabled="true" data-track="aria"><u>x</u></a>
      <button id="bare" disabled>x</button>
      <fieldset disabled><a id="link" href="#y" data-track="link">y</a><a id="other" href="#z">z</a></fieldset>
      <button id="on" data-track="on" aria-disabled="false">x</button></div>`,
    perform: async (page) => {
      for (const selector of [
        '#plain',
        '#child',
        '#child b',
        '#field',
        '#field i',
        '#aria',
        '#aria u',
        '#bare',
        '#link',
        '#other',
        '#on',
      ])
        await press(page, selector);
    },
    expected: ['link click', 'card click', 'on click'],
  },
  {
    title: 'a click in a frame counts in its own page, if that has the script, and never in the page around',
    html: (site, at) => {
      const button = (name) =>
        `<body style="margin:0"><button data-track="${name}" style="width:90px;height:40px">x</button>`;
      site.page(`${at}with`, `${tag('data-page-views="off"')}${button('inside')}`);
      site.page(`${at}without`, button('unseen'));
      return `<div data-track="around">${['with', 'without']
        .map((name) => `<iframe id="${name}" src="${at}${name}" style="border:0;width:90px;height:40px"></iframe>`)
        .join('')}</div>`;
    },
    perform: async (page) => {
      await page.evaluate(() =>
        Promise.all(
          [...document.querySelectorAll('iframe')].map(async (frame) => {
            while (frame.contentDocument?.readyState !== 'complete')
              await new Promise((done) => {
                setTimeout(done, 20);
              });
          }),
        ),
      );
      await press(page, '#with');
      await press(page, '#without');
      await page.evaluate(() => document.querySelector('#with').contentWindow.EchoPilot.flush());
    },
    expected: ['inside click'],
  },
];

// The dashboard: the frame around the views, and the routing from an address to a view.
import { isDemo, query, ROOT, setKey } from './api.js';
import { featureList } from './conditions.js';
import { fill, h, icon } from './dom.js';
import { range } from './format.js';
import { NO_EVENTS, NOTHING, Panel, unnamed } from './panel.js';
import { picker } from './picker.js';
import { isAll, read, scope, setReportingZones, write } from './state.js';
import { engine } from './views/engine.js';
import { experiments } from './views/experiments.js';
import { funnel } from './views/funnel.js';
import { lifecycle } from './views/lifecycle.js';
import { live } from './views/live.js';
import { overview } from './views/overview.js';
import { paths } from './views/paths.js';
import { retention } from './views/retention.js';
import { stickiness } from './views/stickiness.js';
import { askKey, empty, enter } from './welcome.js';

// No string becomes HTML. The chart library clears elements with an empty string, which alone is allowed.
window.trustedTypes?.createPolicy('default', {
  createHTML: (text) => (text === '' ? '' : null),
  createScript: () => null,
  createScriptURL: () => null,
});

const VIEWS = { overview, lifecycle, stickiness, funnel, retention, paths, experiments, live, engine };
const NAMES = {
  overview: 'Overview',
  lifecycle: 'Lifecycle',
  stickiness: 'Stickiness',
  funnel: 'Funnel',
  retention: 'Retention',
  paths: 'Paths',
  experiments: 'Experiments',
  live: 'Live',
  engine: 'Engine',
};
/** Views of the current state, without a window. */
const NOW = new Set(['live', 'engine']);
/** Longest time in ms that charts wait for the numbers of the first panel. */
const HOLD_MS = 400;
const THEME = 'echopilot.theme';
const THEMES = ['auto', 'light', 'dark'];
const dark = matchMedia('(prefers-color-scheme: dark)');

let running = new AbortController();
let shown = { view: null, panels: new Map() };
let state = read();
let status = null;

const main = h('main', { id: 'main', tabindex: '-1' });
const bar = h('section', { class: 'bar', 'aria-label': 'Days, zone, filter and cohort' });
const nav = h('nav', { 'aria-label': 'Views' });

function theme(next) {
  let now = next;
  try {
    if (next) localStorage.setItem(THEME, next);
    now ??= localStorage.getItem(THEME);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
  now = THEMES.includes(now) ? now : 'auto';
  const { dataset } = document.documentElement;
  dataset.choice = now;
  dataset.theme = now === 'auto' ? (dark.matches ? 'dark' : 'light') : now;
  return now;
}

function frame() {
  const themeButton = h('button', {
    type: 'button',
    class: 'tool',
    onclick: () => {
      const now = document.documentElement.dataset.choice;
      label(theme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]));
      redraw();
    },
  });
  const label = (now) => {
    themeButton.title = `Colours: ${now}`;
    themeButton.setAttribute('aria-label', `Colours: ${now}`);
    fill(themeButton, icon('theme'));
  };
  label(theme());
  const leave = h(
    'button',
    {
      type: 'button',
      class: 'tool',
      title: 'Forget the key',
      'aria-label': 'Forget the key',
      onclick: () => {
        setKey(null);
        location.reload();
      },
    },
    icon('key'),
  );
  fill(
    document.body,
    h(
      'a',
      {
        class: 'skip',
        href: '#main',
        onclick: (event) => {
          event.preventDefault();
          main.focus();
        },
      },
      'Skip to the content',
    ),
    h(
      'header',
      { class: 'side' },
      h(
        'a',
        { class: 'brand', href: '#/overview' },
        h('img', { src: `${ROOT}static/icon.svg`, alt: '', width: 28, height: 28 }),
        h('span', {}, 'EchoPilot', h('small', { text: 'Analytics' })),
      ),
      nav,
      h('div', { class: 'side-end' }, themeButton, leave),
    ),
    h(
      'div',
      { class: 'page' },
      isDemo &&
        h(
          'aside',
          { class: 'banner', 'aria-label': 'Demo' },
          'Demo with a synthetic history. ',
          h('a', { href: ROOT, text: 'Back to your data' }),
        ),
      bar,
      main,
    ),
    h('div', { id: 'announcer', class: 'unseen', 'aria-live': 'polite' }),
    featureList(),
  );
  dark.addEventListener('change', () => {
    theme();
    redraw();
  });
}

function redraw() {
  for (const panel of shown.panels.values()) panel.redraw();
}

/** Goes to another state: changes the address and shows it. */
function go(patch, how = 'push') {
  state = { ...state, ...patch };
  history[how === 'replace' ? 'replaceState' : 'pushState'](null, '', write(state));
  render();
}

function navigation() {
  fill(
    nav,
    Object.entries(NAMES).map(([view, name]) =>
      h(
        'a',
        {
          href: write({ ...state, view, own: {} }),
          'aria-current': view === state.view ? 'page' : null,
          'data-view': view,
        },
        icon(view),
        h('span', { text: name }),
      ),
    ),
  );
  nav.querySelector('[aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' });
}

/** Remembers the focused element; returns a function that focuses its successor after the page is rebuilt. */
function focusMark() {
  const element = document.activeElement;
  if (!element || element === document.body || element === main) return null;
  const name = (one) =>
    one.getAttribute('aria-label') ?? one.closest('.field')?.querySelector('label')?.textContent ?? one.textContent;
  const [tag, text] = [element.tagName, name(element)];
  return () =>
    [...document.querySelectorAll(tag)].find((other) => name(other) === text)?.focus({ preventScroll: true });
}

function render() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  if (!VIEWS[state.view]) state = { ...state, view: 'overview', own: {} };
  const focus = focusMark();
  document.title = `${NAMES[state.view]} · EchoPilot Analytics${isDemo ? ' (demo)' : ''}`;
  navigation();
  const isSame = shown.view === state.view;
  const before = isSame ? shown.panels : new Map();
  const panels = new Map();
  const span = h('p', { class: 'span' });
  // The history of the demo ends with the day before it was generated.
  const asked = isDemo && !state.end ? { ...state, end: status?.last_day ?? null } : state;
  let counted;
  // The reason why a panel is empty: no events, or, for one about users, none with a user.
  const why = async (isAboutUsers, empty, own) => {
    counted ??= query({ metric: 'event_types', ...scope(asked) }, own);
    const { rows } = await counted;
    const events = rows.reduce((sum, row) => sum + row.events, 0);
    if (events === 0) return { ...empty, text: isAll(asked) ? NO_EVENTS : NOTHING };
    return isAboutUsers && rows.every((row) => row.users === 0) ? unnamed(events) : empty;
  };
  const context = {
    state: asked,
    scope: scope(asked),
    signal,
    firstDay: status?.first_day ?? null,
    own: (own, how) => go({ own }, how),
    panel: (options) => {
      const panel = new Panel({ ...options, why: (own, empty) => why(options.isAboutUsers, empty, own) });
      const old = before.get(options.name);
      // The old result stays, greyed out, until the new one arrives.
      if (old) Object.assign(panel, { last: old.last, shown: old.shown });
      if (old?.last) panel.show();
      panel.onanswer = ({ window }) =>
        fill(
          span,
          h('span', { text: range(window.from, window.to) }),
          window.partial &&
            h(
              'span',
              { class: 'running', 'data-note': 'partial' },
              icon('clock'),
              'the last day is not over, its numbers still grow',
            ),
        );
      panels.set(options.name, panel);
      return panel;
    },
  };
  if (isEmptyStore() && !NOW.has(state.view)) {
    shown = { view: null, panels };
    fill(bar);
    fill(
      main,
      empty(signal, () => {
        status = null;
        start();
      }),
    );
    return;
  }
  const view = VIEWS[state.view](context);
  fill(bar, NOW.has(state.view) ? null : picker(state, go));
  fill(
    main,
    h('div', { class: 'head' }, h('h1', { text: view.title }), h('p', { class: 'lead', text: view.lead }), span),
    view.element,
  );
  shown = { view: state.view, panels };
  if (!isSame) scrollTo(0, 0);
  focus?.();
  // Drawing blocks the page: the numbers of the first panel come before the charts of the others, unless they take long.
  const [first, ...others] = view.panels;
  const after = Promise.race([
    first?.load(signal),
    new Promise((resolve) => {
      setTimeout(resolve, HOLD_MS);
    }),
  ]);
  for (const panel of others) {
    panel.after = after;
    panel.load(signal);
  }
  view.start?.(signal);
}

const isEmptyStore = () => status && status.store.log_events === 0 && status.store.sealed_events === 0;

async function start() {
  try {
    status = await enter();
  } catch (error) {
    if (isDemo && error.status === 404) {
      location.replace(ROOT + location.hash);
      return;
    }
    fill(
      main,
      h(
        'div',
        { class: 'message bad', role: 'alert' },
        icon('alert'),
        h(
          'div',
          {},
          h('strong', { text: 'No response' }),
          h('p', { text: error.message }),
          h('button', { type: 'button', class: 'button', onclick: start }, icon('refresh'), 'Try again'),
        ),
      ),
    );
    return;
  }
  setReportingZones(status.zones);
  state = read();
  render();
}

let asking = false;
document.addEventListener('key-rejected', async () => {
  if (asking || document.querySelector('.key-dialog')) return;
  asking = true;
  setKey(null);
  await askKey('The key of this tab is no longer valid.');
  asking = false;
  start();
});
addEventListener('popstate', () => {
  state = read();
  if (status) render();
});
addEventListener('keydown', (event) => {
  if (event.key === '/' && !event.target.closest('input, select, textarea, dialog')) {
    event.preventDefault();
    document.querySelector('[data-pick="filter"]')?.click();
  }
});

frame();
start();

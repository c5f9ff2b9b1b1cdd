// The dashboard: the frame around the views, and the routing from an address to a view.
import { hasKey, isDemo, query, ROOT, recordQueries, setKey } from './api.js';
import { loadAnnotations } from './components/annotations.js';
import { cohortWords, describeFilter, featureList } from './conditions.js';
import { announce, fill, h, icon, logo, plain } from './dom.js';
import { addDays, clock, dayIn, range } from './format.js';
import { NO_EVENTS, NOTHING, Panel, unnamed } from './panel.js';
import { picker } from './picker.js';
import { isAll, read, resolved, scope, setReportingZones, write } from './state.js';
import { handOver, takeOver } from './tabs.js';
import { ABOUT, FRAME, LANGUAGE } from './texts.js';
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
/** Views that are loaded when the first of them is opened. */
const LATER = new Set(['trends', 'web', 'explorer', 'reports']);
const NAMES = FRAME.views;
/** Views of the current state, without a window. */
const NOW = new Set(['reports', 'live', 'engine']);
/** Views that cannot be saved as a report. */
const NOT_SAVED = new Set(['reports', 'live', 'engine']);
/** Longest time in ms that charts wait for the numbers of the first panel. */
const HOLD_MS = 400;
/** Changes within this time in ms are one step of the history: arrow keys go through a list of choices. */
const STEP_MS = 1_000;
/** Time in ms after which a view whose last day is not over is asked again. */
const AGAIN_MS = 60_000;
const THEME = 'echopilot.theme';
const THEMES = ['auto', 'light', 'dark'];
const THEME_ICONS = { auto: 'theme', light: 'sun', dark: 'moon' };
const dark = matchMedia('(prefers-color-scheme: dark)');

let running = new AbortController();
let shown = { view: null, panels: new Map() };
/** By the name of a panel: its table, or its chart. A view that is opened again shows what it did. */
const lastShown = new Map();
/** True for the page of a share link. */
let isShared = false;
let state = read();
let status = null;

const main = h('main', { id: 'main', tabindex: '-1' });
const bar = h('section', { class: 'bar', 'aria-label': FRAME.bar });
const nav = h('nav', { 'aria-label': FRAME.nav });

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
  document.documentElement.lang = LANGUAGE;
  const themeButton = h('button', {
    type: 'button',
    class: 'tool theme',
    onclick: () => {
      const now = document.documentElement.dataset.choice;
      label(theme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]));
      redraw();
    },
  });
  const label = (now) => {
    themeButton.title = FRAME.colours[now];
    themeButton.setAttribute('aria-label', FRAME.colours[now]);
    fill(themeButton, icon(THEME_ICONS[now]), h('span', { text: FRAME.themes[now] }));
  };
  label(theme());
  const leave = h(
    'button',
    {
      type: 'button',
      class: 'tool',
      title: FRAME.leave,
      'aria-label': FRAME.leave,
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
      FRAME.skip,
    ),
    h(
      'header',
      { class: 'side' },
      h(
        'a',
        { class: 'brand', href: '#/overview' },
        logo(28),
        h('span', {}, FRAME.brand[0], h('small', { text: FRAME.brand[1] })),
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
          { class: 'banner', 'aria-label': FRAME.demo },
          FRAME.isDemo,
          h('a', { href: ROOT, text: FRAME.back }),
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

let changed = { at: -Infinity };

/** Goes to another state: changes the address and shows it. */
function go(patch, how = 'push') {
  const view = state.view;
  state = resolved({ ...state, ...patch });
  const { activeElement: element } = document;
  const name = element?.tagName === 'SELECT' ? nameOf(element) : null;
  const isStep = name && name === changed.name && view === changed.view && performance.now() - changed.at < STEP_MS;
  changed = { name, view, at: performance.now() };
  history[how === 'replace' || isStep ? 'replaceState' : 'pushState'](null, '', write(state));
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
  const { pick } = element.dataset;
  if (pick) return () => bar.querySelector(`[data-pick="${pick}"]`)?.focus({ preventScroll: true });
  const [tag, text] = [element.tagName, nameOf(element)];
  return () =>
    [...document.querySelectorAll(tag)].find((other) => nameOf(other) === text)?.focus({ preventScroll: true });
}

/** The name of a control. */
const nameOf = (element) =>
  element.getAttribute('aria-label') ??
  element.closest('.field')?.querySelector('label')?.textContent ??
  element.textContent;

/** The days of a view, the time of its numbers, and whether the last day is over. */
const spanOf = ({ from, to, partial }, time) => [
  h('span', { text: range(from, to) }),
  time && h('span', { class: 'running', 'data-as-of': time }, FRAME.asOf(time)),
  partial && h('span', { class: 'running', 'data-note': 'partial' }, icon('clock'), FRAME.running),
];

/** The same before the first result, so that nothing moves when it comes. */
function expectedSpan({ days, end, tz }) {
  try {
    const today = dayIn(tz, Date.now());
    const to = end ?? today;
    return spanOf({ from: addDays(to, 1 - days), to, partial: to >= today }, clock(Date.now(), tz).slice(0, 5));
  } catch {
    // A day or a zone that does not exist: the server says so.
    return [];
  }
}

/** Describes a view: its days and zone, the filter and the cohort, and when it was computed. */
const aboutOf = ({ filter, cohort }, { window, ts }) => [
  `${range(window.from, window.to)}, ${window.tz}${window.partial ? ` (${ABOUT.partial})` : ''}`,
  ...(Object.keys(filter).length ? [ABOUT.filter(plain(describeFilter(filter)))] : []),
  ...(cohort ? [ABOUT.cohort(plain(cohortWords(cohort)))] : []),
  ABOUT.computed(momentOf(ts)),
];

const momentOf = (ts) => FRAME.moment(...ts.slice(0, 16).split('T'));

/**
 * The context of a view: its state, and a function that makes panels. `prefix` tells the panels of a saved report from
 * those of others.
 */
function contextOf(of, signal, { before = new Map(), panels, onanswer, prefix = '' }) {
  // The history of the demo ends with the day before it was generated.
  const asked = isDemo && !of.end ? { ...of, end: status?.last_day ?? null } : of;
  let counted;
  // The reason why a panel is empty: no events, or, for one about users, none with a user.
  const why = async (isAboutUsers, empty, own) => {
    if (isShared) return empty;
    counted ??= query({ metric: 'event_types', ...scope(asked) }, own);
    const { rows } = await counted;
    const events = rows.reduce((sum, row) => sum + row.events, 0);
    if (events === 0) return { ...empty, text: isAll(asked) ? NO_EVENTS : NOTHING };
    return isAboutUsers && rows.every((row) => row.users === 0) ? unnamed(events) : empty;
  };
  return {
    state: asked,
    scope: scope(asked),
    signal,
    firstDay: status?.first_day ?? null,
    panel: (options) => {
      const name = prefix + options.name;
      const panel = new Panel({
        ...options,
        name,
        why: (own, empty) => why(options.isAboutUsers, empty, own),
      });
      const old = before.get(name);
      panel.shown = lastShown.get(name) ?? panel.shown;
      // The old result stays, greyed out, until the new one arrives.
      if (old) Object.assign(panel, { last: old.last, shown: old.shown });
      if (old?.last) panel.show();
      panel.about = (answer) => aboutOf(asked, answer);
      if (onanswer) panel.onanswer = (answer) => onanswer(answer, asked);
      panels.set(name, panel);
      return panel;
    },
    // A saved report, read-only: its settings are those that were saved.
    embed: (report, saved) => {
      if (!saved || NOT_SAVED.has(saved.view) || !Object.hasOwn(VIEWS, saved.view)) return null;
      const inner = contextOf(saved, signal, { panels, prefix: `${report.id}-` });
      const panel = (options) => inner.panel({ ...options, controls: undefined });
      return VIEWS[saved.view]({ ...inner, panel, own: () => {}, isEmbedded: true });
    },
  };
}

/** The choices above a view: of live events the zone alone. */
const choices = () =>
  NOW.has(state.view) && state.view !== 'live' ? null : picker(state, go, { isZoneOnly: NOW.has(state.view) });

/** Loads the other views. */
async function more() {
  const found = await import('./views/more.js');
  Object.assign(VIEWS, found.MORE);
  return found;
}

function render() {
  if (LATER.has(state.view) && !Object.hasOwn(VIEWS, state.view)) {
    more().then(render, () => noResponse({ message: FRAME.notLoaded }));
    return;
  }
  running.abort();
  running = new AbortController();
  const { signal } = running;
  if (!Object.hasOwn(VIEWS, state.view)) state = { ...state, view: 'overview', own: {} };
  const focus = focusMark();
  document.title = FRAME.title(NAMES[state.view], isDemo);
  navigation();
  for (const [name, panel] of shown.panels) lastShown.set(name, panel.shown);
  const isSame = shown.view === state.view;
  const before = isSame ? shown.panels : new Map();
  const panels = new Map();
  const span = h('p', { class: 'span' }, NOW.has(state.view) ? [] : expectedSpan(state));
  // For prints: the page has this in its bar.
  const about = h('p', { class: 'about' });
  let isRunning = false;
  recordQueries();
  const onanswer = (answer, asked) => {
    fill(about, aboutOf(asked, answer).join('\n'));
    isRunning = answer.window.partial;
    fill(span, spanOf(answer.window, answer.ts && clock(answer.ts, asked.tz).slice(0, 5)));
  };
  const context = {
    ...contextOf(state, signal, { before, panels, onanswer }),
    own: (own, how) => go({ own }, how),
    go,
    href: (patch) => write({ ...state, ...patch }),
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
  fill(bar, choices());
  fill(
    main,
    h(
      'div',
      { class: 'head' },
      h('h1', { text: view.title }),
      h('p', { class: 'lead', text: view.lead }),
      span,
      saveButton(),
    ),
    about,
    view.element,
  );
  shown = { view: state.view, panels };
  if (!isSame) scrollTo(0, 0);
  focus?.();
  // Drawing blocks the page: the numbers of the first panel come before the charts of the others, unless they take long.
  const [first, ...others] = view.panels;
  const loading = first?.load(signal);
  const after = Promise.race([
    loading,
    new Promise((resolve) => {
      setTimeout(resolve, HOLD_MS);
    }),
  ]);
  for (const panel of others) {
    panel.after = after;
    panel.load(signal);
  }
  if (isSame)
    loading?.then(() => !signal.aborted && first.last?.answer && announce(FRAME.spoken(view.title, first.spoken())));
  const again = setInterval(() => {
    // A part that is in use is not replaced.
    const isUsed = document.activeElement?.closest('.scroll, .popover, dialog, form, .form-panel');
    if (!isRunning || document.hidden || isUsed || NOW.has(state.view)) return;
    for (const panel of view.panels) panel.load(signal, { isQuiet: true });
  }, AGAIN_MS);
  signal.addEventListener('abort', () => clearInterval(again));
  view.start?.(signal);
}

/** The button that saves the view as a report. The demo saves nothing. */
function saveButton() {
  const { view } = state;
  return (
    !NOT_SAVED.has(view) &&
    !isDemo &&
    h(
      'button',
      {
        type: 'button',
        class: 'button',
        'data-action': 'save',
        onclick: () => more().then(({ askSave }) => askSave(state, NAMES[view])),
      },
      icon('reports'),
      FRAME.save,
    )
  );
}

/** The token of the address, if it is that of a share link. */
function sharedToken() {
  const [path, search = ''] = location.hash.replace(/^#\/?/, '').split('?');
  return path === 'shared' ? (new URLSearchParams(search).get('token') ?? '') : null;
}

/** The page of a share link. */
async function showShared(token) {
  isShared = true;
  running.abort();
  running = new AbortController();
  const panels = new Map();
  shown = { view: 'shared', panels };
  const { shared } = await more();
  shared(main, token, () => contextOf(read('#/overview'), running.signal, { panels }));
}

const isEmptyStore = () => status && status.store.log_events === 0 && status.store.sealed_events === 0;

/** Says that the server did not respond. */
function noResponse({ message }) {
  fill(
    main,
    h(
      'div',
      { class: 'message bad', role: 'alert' },
      icon('alert'),
      h(
        'div',
        {},
        h('strong', { text: FRAME.noResponse }),
        h('p', { text: message }),
        h('button', { type: 'button', class: 'button', onclick: start }, icon('refresh'), FRAME.again),
      ),
    ),
  );
}

async function start() {
  const token = sharedToken();
  if (token !== null) {
    showShared(token);
    return;
  }
  try {
    const { late } = hasKey() ? {} : await takeOver();
    status = await enter(late);
  } catch (error) {
    if (isDemo && error.status === 404) {
      location.replace(ROOT + location.hash);
      return;
    }
    noResponse(error);
    return;
  }
  setReportingZones(status.zones, status.raw_from);
  state = read();
  // The zone of the last visit is part of the address, which may be given to others.
  if (!location.hash.includes('?') && write(state).includes('tz=')) history.replaceState(null, '', write(state));
  render();
  if (await loadAnnotations()) redraw();
}

/** Shows the frame of the view before the first result, so that nothing moves when it comes. */
function outline() {
  navigation();
  fill(bar, choices());
  fill(main, h('div', { class: 'head' }, h('h1', { text: NAMES[state.view] ?? NAMES.overview })));
}

let asking = false;
document.addEventListener('key-rejected', async () => {
  if (asking || document.querySelector('.key-dialog')) return;
  asking = true;
  setKey(null);
  await askKey(FRAME.keyRejected);
  asking = false;
  start();
});
addEventListener('popstate', () => {
  if (isShared || sharedToken() !== null) {
    location.reload();
    return;
  }
  state = read();
  if (status) render();
});
addEventListener('beforeprint', () => {
  document.documentElement.dataset.theme = 'light';
  document.body.classList.add('printing');
  for (const panel of shown.panels.values()) panel.drawForPrint();
});
addEventListener('afterprint', () => {
  document.body.classList.remove('printing');
  theme();
  redraw();
});
addEventListener('keydown', (event) => {
  if (event.key === '/' && !event.target.closest('input, select, textarea, dialog')) {
    event.preventDefault();
    const pick = document.querySelector('[data-pick="filter"]');
    // Closing it gives the focus back to where it was.
    pick?.focus();
    pick?.click();
  }
});

frame();
handOver();
if (hasKey() && sharedToken() === null) outline();
start();

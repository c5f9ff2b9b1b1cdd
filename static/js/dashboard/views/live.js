// Live: events as they are accepted, read from a stream.
import { isDemo, listen } from '../api.js';
import { activeNow, MINUTES } from '../components/now.js';
import { userLink } from '../components/user.js';
import { h, icon, named, plain } from '../dom.js';
import { average, brief, clock, count } from '../format.js';
import { tip } from '../panel.js';
import { EVENTS, LIVE } from '../texts.js';

/** Limits of the events in the list and of the seconds in the chart. */
const MOST = 200;
const SECONDS = 120;
const AGAIN_MS = 2_000;
/** Time in ms after which it is asked again who is active. */
const NOW_MS = 10_000;
/** Shortest time in ms between two drawings of the list. */
const DRAW_MS = 250;

export function live(context) {
  const { state, panel } = context;
  const events = [];
  const seconds = new Map();
  const started = Math.floor(Date.now() / 1000);
  let paused = false;
  let connected = false;
  let accepted = 0;
  let drawing = null;
  const rows = new Map();
  const status = h(
    'p',
    { class: 'live-status', 'data-live': 'connecting' },
    h('i', { class: 'dot' }),
    h('span', { text: LIVE.connecting }),
  );
  const say = (kind, text) => {
    status.dataset.live = kind;
    status.lastChild.textContent = text;
  };
  const pause = h(
    'button',
    {
      type: 'button',
      class: 'button',
      'aria-pressed': 'false',
      onclick: () => {
        paused = !paused;
        pause.setAttribute('aria-pressed', String(paused));
        pause.replaceChildren(icon(paused ? 'play' : 'pause'), paused ? LIVE.resume : LIVE.pause);
        if (!paused) show(true);
      },
    },
    icon('pause'),
    LIVE.pause,
  );
  const now = activeNow(panel);
  const rate = panel({
    title: LIVE.rate,
    name: 'live-rate',
    height: 130,
    help: LIVE.rateHelp,
    ask: async () => rateOf(seconds, started, state.tz),
  });
  const list = panel({
    title: LIVE.list,
    name: 'live',
    height: 420,
    tall: true,
    controls: [status, pause],
    ask: async () => listOf(events, () => table),
  });
  const body = h('tbody');
  const table = tableOf(body);
  const draw = () => {
    drawing = null;
    if (paused) return;
    list.last = listOf(events, () => table);
    // Only rows that are new are made: thousands may come in a second.
    const isNew = (event) => !rows.has(event);
    const place = events.findIndex((event) => !isNew(event));
    const newest = events.slice(0, place < 0 ? events.length : place);
    body.prepend(...newest.map((event) => rowOf(event, state, rows)));
    const kept = new Set(events);
    for (const [event, row] of rows) {
      if (kept.has(event)) continue;
      row.remove();
      rows.delete(event);
    }
    const isShown = table.isConnected && events.length > 0 && list.shown === 'chart';
    if (!isShown) list.show();
  };
  // A first event is shown at once, a stream of them a few times a second.
  const show = (isNow) => {
    if (isNow) {
      clearTimeout(drawing);
      draw();
    } else drawing ??= setTimeout(draw, DRAW_MS);
  };
  const run = async (signal) => {
    if (isDemo) {
      say('off', LIVE.demo);
      return;
    }
    while (!signal.aborted) {
      try {
        await listen('live', signal, (name, { accepted: more, events: newest }) => {
          if (!connected) say('on', LIVE.connected);
          connected = true;
          if (name === 'before') {
            events.splice(0, events.length, ...newest.filter(isRecent).reverse());
          } else {
            accepted += more;
            const now = Math.floor(Date.now() / 1000);
            seconds.set(now, (seconds.get(now) ?? 0) + more);
            events.unshift(...newest.reverse());
          }
          events.length = Math.min(events.length, MOST);
          status.dataset.accepted = accepted;
          show();
        });
      } catch (error) {
        if (signal.aborted || error.status === 401) return;
        say('off', LIVE.again(error.message ?? LIVE.ended));
      }
      connected = false;
      if (!signal.aborted)
        await new Promise((resolve) => {
          setTimeout(resolve, AGAIN_MS);
        });
    }
  };
  const start = (signal) => {
    run(signal);
    const tick = setInterval(() => {
      if (paused || document.hidden) return;
      rate.last = rateOf(seconds, started, state.tz);
      rate.show();
    }, 1_000);
    const again = setInterval(() => {
      if (!paused && !document.hidden && !isDemo) now.load(signal, { isQuiet: true });
    }, NOW_MS);
    signal.addEventListener('abort', () => {
      clearInterval(tick);
      clearInterval(again);
    });
  };
  return {
    title: LIVE.title,
    lead: LIVE.lead,
    element: h('div', { class: 'grid' }, now.element, rate.element, list.element),
    panels: [now, rate, list],
    start,
  };
}

const isRecent = (event) => Date.parse(event.received_at) > Date.now() - MINUTES * 60_000;

function rateOf(seconds, started, tz) {
  const now = Math.floor(Date.now() / 1000);
  const rows = Array.from({ length: SECONDS }, (_, place) => now - SECONDS + 1 + place).map((second) => ({
    second: clock(second * 1000, tz),
    events: seconds.get(second) ?? 0,
  }));
  const minute = rows.slice(-60).reduce((sum, row) => sum + row.events, 0);
  const watched = Math.min(60, now - started + 1);
  return {
    rows,
    request: { path: 'live', stream: true },
    label: LIVE.rateLabel(minute),
    above: h(
      'div',
      { class: 'figures' },
      h(
        'div',
        { class: 'fact', 'data-fact': 'minute', 'data-value': minute },
        h('span', { text: LIVE.minute }),
        h('strong', { text: count(minute) }),
      ),
      h('div', { class: 'fact' }, h('span', { text: LIVE.second }), h('strong', { text: average(minute / watched) })),
    ),
    option: (look) => ({
      animation: false,
      grid: { top: 8, bottom: 4 },
      tooltip: {
        trigger: 'axis',
        axisPointer: { type: 'shadow' },
        formatter: ([{ dataIndex }]) =>
          tip(`${rows[dataIndex].second}, ${tz}`, [[LIVE.events, count(rows[dataIndex].events)]]),
      },
      xAxis: { type: 'category', data: rows.map((row) => row.second), axisLabel: { interval: 29 } },
      yAxis: { type: 'value', minInterval: 1, splitNumber: 2, axisLabel: { formatter: brief } },
      series: [
        {
          type: 'bar',
          data: rows.map((row) => row.events),
          barCategoryGap: '15%',
          itemStyle: { color: look.series[0], borderRadius: [2, 2, 0, 0] },
        },
      ],
    }),
  };
}

/** The colours of the types. */
const TYPES = { page_view: 1, action: 3, conversion: 2 };

function listOf(events, element) {
  const all = events.map(({ received_at, ts, event_type, user_id, feature, url, metadata }) => ({
    received_at,
    ts,
    event_type,
    feature,
    user_id,
    url,
    metadata: JSON.stringify(metadata),
  }));
  return {
    rows: all,
    request: { path: 'live', stream: true },
    isEmpty: events.length === 0,
    empty: LIVE.empty,
    element,
  };
}

const tableOf = (body) =>
  h(
    'div',
    { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': LIVE.list },
    h(
      'table',
      { class: 'live-table' },
      h('caption', { class: 'unseen', text: LIVE.caption }),
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          LIVE.columns.map((text) => h('th', { scope: 'col', text })),
        ),
      ),
      body,
    ),
  );

/** Makes the row of an event, and keeps it in `rows`. */
function rowOf(event, state, rows) {
  const [type, colour] = Object.hasOwn(TYPES, event.event_type)
    ? [EVENTS.types[event.event_type], TYPES[event.event_type]]
    : [plain(event.event_type), 8];
  const row = h(
    'tr',
    {},
    h('td', { class: 'time', text: clock(event.received_at, state.tz) }),
    h('td', {}, h('span', { class: `tag tone-${colour}`, text: type })),
    h('td', {}, event.feature === null ? '–' : named(event.feature)),
    h(
      'td',
      {},
      event.user_id === null ? h('span', { class: 'hint', text: EVENTS.anonymous }) : userLink(state, event.user_id),
    ),
    h('td', {}, event.url === null ? '–' : named(event.url)),
    h('td', { class: 'metadata' }, h('bdi', { text: metadataText(event.metadata) })),
  );
  rows.set(event, row);
  return row;
}

/** Metadata as pairs. Numbers keep their notation only in the stored event. */
const metadataText = (metadata) =>
  Object.entries(metadata ?? {})
    .map(([key, value]) => `${plain(key)}: ${plain(typeof value === 'string' ? value : JSON.stringify(value))}`)
    .join(', ') || '–';

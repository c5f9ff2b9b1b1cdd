// Live: events as they are accepted, read from a stream.
import { isDemo, listen } from '../api.js';
import { h, icon, named, plain } from '../dom.js';
import { average, brief, clock, count } from '../format.js';
import { tip } from '../panel.js';
import { csv } from '../table.js';

/** Limits of the events in the list and of the seconds in the chart. */
const MOST = 200;
const SECONDS = 120;
const MINUTES = 5;
const AGAIN_MS = 2_000;

export function live(context) {
  const { state, panel } = context;
  const events = [];
  const seconds = new Map();
  const started = Math.floor(Date.now() / 1000);
  let paused = false;
  let connected = false;
  let accepted = 0;
  const status = h(
    'p',
    { class: 'live-status', 'data-live': 'connecting' },
    h('i', { class: 'dot' }),
    h('span', { text: 'Connecting…' }),
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
        pause.replaceChildren(icon(paused ? 'play' : 'pause'), paused ? 'Resume' : 'Pause');
        if (!paused) show();
      },
    },
    icon('pause'),
    'Pause',
  );
  const rate = panel({
    title: 'Accepted events',
    name: 'live-rate',
    height: 130,
    help: 'Each second of the last two minutes',
    ask: async () => rateOf(seconds, started),
  });
  const list = panel({
    title: 'The newest events',
    name: 'live',
    height: 420,
    tall: true,
    controls: [status, pause],
    ask: async () => listOf(events, state.tz),
  });
  const show = () => {
    if (paused) return;
    list.last = listOf(events, state.tz);
    list.show();
  };
  const run = async (signal) => {
    if (isDemo) {
      say('off', 'The demo receives no events.');
      return;
    }
    while (!signal.aborted) {
      try {
        await listen('live', signal, (name, { accepted: more, events: newest }) => {
          if (!connected) say('on', 'Connected: events appear as they are accepted');
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
        say('off', `${error.message ?? 'The connection ended.'} Trying again…`);
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
      rate.last = rateOf(seconds, started);
      rate.show();
    }, 1_000);
    signal.addEventListener('abort', () => clearInterval(tick));
  };
  return {
    title: 'Live',
    lead: 'What is happening now. Days, filter and cohort do not apply here.',
    element: h('div', { class: 'grid' }, rate.element, list.element),
    panels: [rate, list],
    start,
  };
}

const isRecent = (event) => Date.parse(event.received_at) > Date.now() - MINUTES * 60_000;

function rateOf(seconds, started) {
  const now = Math.floor(Date.now() / 1000);
  const rows = Array.from({ length: SECONDS }, (_, place) => now - SECONDS + 1 + place).map((second) => ({
    second: new Date(second * 1000).toISOString().slice(11, 19),
    events: seconds.get(second) ?? 0,
  }));
  const minute = rows.slice(-60).reduce((sum, row) => sum + row.events, 0);
  const watched = Math.min(60, now - started + 1);
  return {
    rows,
    request: { path: 'live', stream: true },
    label: `${minute} events in the last minute.`,
    above: h(
      'div',
      { class: 'figures' },
      h(
        'div',
        { class: 'fact', 'data-fact': 'minute', 'data-value': minute },
        h('span', { text: 'Last minute' }),
        h('strong', { text: count(minute) }),
      ),
      h('div', { class: 'fact' }, h('span', { text: 'Per second' }), h('strong', { text: average(minute / watched) })),
    ),
    option: (look) => ({
      animation: false,
      grid: { top: 8, bottom: 4 },
      tooltip: {
        trigger: 'axis',
        axisPointer: { type: 'shadow' },
        formatter: ([{ dataIndex }]) =>
          tip(`${rows[dataIndex].second} UTC`, [['Events', count(rows[dataIndex].events)]]),
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

const TYPES = { page_view: ['Page view', 1], action: ['Action', 3], conversion: ['Conversion', 2] };

function listOf(events, tz) {
  const rows = events.map(({ received_at, ts, event_type, user_id, feature, url, metadata }) => ({
    received_at,
    ts,
    event_type,
    feature,
    user_id,
    url,
    metadata: JSON.stringify(metadata),
  }));
  return {
    rows,
    request: { path: 'live', stream: true },
    isEmpty: events.length === 0,
    csv,
    empty: { title: 'Waiting for events', text: 'None were accepted in the last minutes.' },
    element: () =>
      h(
        'div',
        { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'The newest events' },
        h(
          'table',
          { class: 'live-table' },
          h('caption', { class: 'unseen', text: 'The newest events, newest first' }),
          h(
            'thead',
            {},
            h(
              'tr',
              {},
              ['Accepted', 'Type', 'Feature', 'User', 'URL', 'Metadata'].map((text) => h('th', { scope: 'col', text })),
            ),
          ),
          h(
            'tbody',
            {},
            events.map((event) => {
              const [type, colour] = TYPES[event.event_type] ?? [event.event_type, 8];
              return h(
                'tr',
                {},
                h('td', { class: 'time', text: clock(event.received_at, tz) }),
                h('td', {}, h('span', { class: `tag tone-${colour}`, text: type })),
                h('td', {}, event.feature === null ? '–' : named(event.feature)),
                h(
                  'td',
                  {},
                  event.user_id === null ? h('span', { class: 'hint', text: 'anonymous' }) : named(event.user_id),
                ),
                h('td', {}, event.url === null ? '–' : named(event.url)),
                h('td', { class: 'metadata' }, h('bdi', { text: metadataText(event.metadata) })),
              );
            }),
          ),
        ),
      ),
  };
}

/** Metadata as pairs. Numbers keep their notation only in the stored event. */
const metadataText = (metadata) =>
  Object.entries(metadata ?? {})
    .map(([key, value]) => `${plain(key)}: ${plain(typeof value === 'string' ? value : JSON.stringify(value))}`)
    .join(', ') || '–';

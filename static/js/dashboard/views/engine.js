// Engine: are events accepted, does an alert fire, how far behind are the lake and the rollups, and how much is stored?
import { get } from '../api.js';
import { h, icon } from '../dom.js';
import { brief, bytes, clock, count, dayIn, duration, longDay, number, shortDay } from '../format.js';
import { tip } from '../panel.js';

const EVERY_MS = 5_000;

export function engine(context) {
  const { state, panel } = context;
  const overview = panel({
    title: 'State of the engine',
    name: 'status',
    height: 260,
    ask: (signal) => askStatus(state.tz, signal),
  });
  const alerts = panel({
    title: 'Alerts',
    name: 'alerts',
    height: 100,
    help: 'Evaluated by the server once a minute, as the rules for Prometheus',
    ask: (signal) => askAlerts(state.tz, signal),
  });
  const rate = panel({
    title: 'Accepted per minute',
    name: 'rate',
    height: 260,
    help: 'Each of the last 60 minutes',
    ask: askRate,
  });
  const start = (signal) => {
    const tick = setInterval(() => {
      // A table that has the focus is not replaced.
      if (!document.hidden && !document.activeElement?.closest('.scroll')) {
        overview.load(signal);
        alerts.load(signal);
        rate.load(signal);
      }
    }, EVERY_MS);
    signal.addEventListener('abort', () => clearInterval(tick));
  };
  return {
    title: 'Engine',
    lead: 'Are events accepted, and how far behind are the lake and the rollups?',
    element: h('div', { class: 'grid' }, overview.element, alerts.element, rate.element),
    panels: [overview, alerts, rate],
    start,
  };
}

/** A reporting zone and the days that are counted in advance. */
const zoneText = ({ zone, complete, covered_from: from }) => {
  if (!complete) return `${zone} (being counted)`;
  return from ? `${zone} (from ${from})` : zone;
};

async function askStatus(tz, signal) {
  const status = await get('status', signal);
  const { accepted, waiting, store, rollup } = status;
  const onDisk = store.sealed_bytes + store.state_bytes + store.column_bytes + store.event_id_bytes + store.log_bytes;
  const isBehind = rollup.last_day !== null && rollup.last_day < rollup.due_day;
  const cards = [
    [
      'writable',
      'Events',
      status.writable ? 'accepted' : 'rejected',
      status.writable ? 'The disk is writable' : 'The disk is not writable: see /health/ready',
      status.writable ? 'good' : 'bad',
    ],
    [
      'last_minute',
      'Last minute',
      count(accepted.last_minute),
      `${count(accepted.since_start)} since the start`,
      null,
      accepted.last_minute,
    ],
    [
      'waiting',
      'Waiting to be sealed',
      count(waiting.events),
      waiting.since
        ? `The oldest since ${clock(waiting.since, tz)}, ${duration(waiting.seconds)}`
        : 'The lake is up to date',
      null,
      waiting.events,
    ],
    [
      'rollup',
      'Last rollup',
      rollup.last_day ? shortDay(rollup.last_day) : 'none yet',
      isBehind ? `${longDay(rollup.due_day)} is due` : 'Nothing is due',
      isBehind ? 'warn' : 'good',
    ],
    [
      'events',
      'Stored events',
      brief(store.sealed_events + store.log_events),
      `${count(store.sealed_events + store.log_events)} in ${count(store.segments)} segments and the log`,
      null,
      store.sealed_events + store.log_events,
    ],
    [
      'bytes',
      'On disk',
      bytes(onDisk),
      store.sealed_events
        ? `${(store.sealed_bytes / store.sealed_events).toFixed(1)} bytes an event in the lake`
        : 'log, lake, daily states, columns and event ids',
      null,
      onDisk,
    ],
  ];
  const rows = [
    ['Version', status.version],
    ['Open since', status.opened_at],
    ['Events accepted', status.writable],
    ['Accepted in the last minute', accepted.last_minute],
    ['Accepted since the start', accepted.since_start],
    ['Events waiting to be sealed', waiting.events],
    ['Waiting since', waiting.since],
    ['Events in segments', store.sealed_events],
    ['Segments', store.segments],
    ['Bytes of segments', store.sealed_bytes],
    ['Daily states', store.states],
    ['Bytes of daily states', store.state_bytes],
    ['Bytes of columns', store.column_bytes],
    ['Event ids of the last 7 days, in segments', store.event_ids],
    ['Bytes of event ids', store.event_id_bytes],
    ['Bytes of the open log', store.log_bytes],
    ['First day', status.first_day],
    ['Newest day', status.last_day],
    ['All events kept from', status.raw_from ?? 'the first day'],
    ['Daily states kept from', status.states_from ?? 'the first day'],
    ['Reporting zones', status.zones.map(zoneText).join('; ')],
    ['Last rollup', rollup.last_day],
    ['Rollup due', rollup.due_day],
    ['Live subscribers', status.watchers],
  ].map(([what, value]) => ({ what, value: typeof value === 'number' ? number(value) : value }));
  return {
    rows,
    request: { path: 'status' },
    element: () =>
      h(
        'div',
        { class: 'cards six' },
        cards.map(([name, title, value, hint, tone, exact]) =>
          h(
            'div',
            { class: `card${tone ? ` ${tone}` : ''}`, 'data-card': name, 'data-value': exact },
            h('h3', { text: title }),
            h('strong', { class: 'figure-number', text: value }),
            h('p', { class: 'hint', text: hint }),
          ),
        ),
      ),
  };
}

/** The alerts that are active, the urgent ones first, and how many are quiet. */
async function askAlerts(tz, signal) {
  const { alerts } = await get('status', signal);
  const rows = alerts.map(({ name, condition, state, severity, since, value }) => ({
    alert: name,
    condition,
    state: STATES[state],
    severity,
    since: since ?? null,
    current: value ?? null,
  }));
  const order = ({ state, severity }) => (state === 'firing' ? 0 : 2) + (severity === 'page' ? 0 : 1);
  const active = alerts.filter(({ state }) => state !== 'ok').sort((a, b) => order(a) - order(b));
  const quiet = alerts.length - active.length;
  return {
    rows,
    request: { path: 'status' },
    element: () =>
      h(
        'div',
        { class: 'alerts', 'data-quiet': quiet },
        active.map((alert) => alertElement(alert, tz)),
        h(
          'p',
          { class: 'hint' },
          quiet === alerts.length ? `All ${quiet} alerts are quiet.` : `The other ${quiet} alerts are quiet.`,
        ),
      ),
  };
}

const STATES = { ok: 'quiet', pending: 'pending', firing: 'fires' };

function alertElement({ name, condition, action, state, severity, since }, tz) {
  const urgent = severity === 'page' ? 'bad' : 'warn';
  const start = `${shortDay(dayIn(tz, since))}, ${clock(since, tz)}`;
  const time = state === 'firing' ? `Since ${start}.` : `Since ${start}, and does not fire yet.`;
  return h(
    'div',
    { class: `alert ${state === 'firing' ? urgent : 'soft'}`, 'data-alert': name, 'data-state': state },
    icon(state === 'firing' ? 'alert' : 'clock'),
    h(
      'div',
      {},
      h('strong', { text: sentence(condition) }),
      h('p', { text: `${time} ${sentence(action)}.` }),
      h('p', { class: 'hint', text: name }),
    ),
  );
}

const sentence = (text) => text.replace(/^[a-z]/, (letter) => letter.toUpperCase());

async function askRate(signal) {
  const status = await get('status', signal);
  const { per_minute: minutes } = status.accepted;
  const rows = minutes.map((events, place) => ({ 'minutes ago': minutes.length - 1 - place, events }));
  return {
    rows,
    request: { path: 'status' },
    label: `${minutes.at(-1)} in the last minute, at most ${Math.max(...minutes)}.`,
    option: (look) => ({
      animation: false,
      grid: { top: 12 },
      tooltip: {
        trigger: 'axis',
        axisPointer: { type: 'shadow' },
        formatter: ([{ dataIndex }]) =>
          tip(ago(rows[dataIndex]['minutes ago']), [['Events', count(rows[dataIndex].events)]]),
      },
      xAxis: {
        type: 'category',
        data: rows.map((row) => row['minutes ago']),
        axisLabel: {
          interval: (place) => (minutes.length - 1 - place) % 10 === 0,
          formatter: (place) => (place === '0' ? 'now' : `-${place} min`),
        },
      },
      yAxis: { type: 'value', minInterval: 1, axisLabel: { formatter: brief } },
      series: [
        {
          type: 'bar',
          data: minutes,
          barCategoryGap: '20%',
          itemStyle: { color: look.series[0], borderRadius: [2, 2, 0, 0] },
        },
      ],
    }),
  };
}

const ago = (minutes) => (minutes === 0 ? 'The last minute' : `${minutes} minutes ago`);

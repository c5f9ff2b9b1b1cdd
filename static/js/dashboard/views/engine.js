// Engine: are events accepted, does an alert fire, how far behind are the lake and the rollups, and how much is stored?
import { get } from '../api.js';
import { h, icon } from '../dom.js';
import { brief, bytes, clock, count, dayIn, duration, longDay, number, shortDay } from '../format.js';
import { tip } from '../panel.js';
import { ENGINE } from '../texts.js';

const EVERY_MS = 5_000;

export function engine(context) {
  const { state, panel } = context;
  const overview = panel({
    title: ENGINE.status,
    name: 'status',
    height: 260,
    ask: (signal) => askStatus(state.tz, signal),
  });
  const alerts = panel({
    title: ENGINE.alerts,
    name: 'alerts',
    height: 100,
    help: ENGINE.alertsHelp,
    ask: (signal) => askAlerts(state.tz, signal),
  });
  const rate = panel({
    title: ENGINE.rate,
    name: 'rate',
    height: 260,
    help: ENGINE.rateHelp,
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
    title: ENGINE.title,
    lead: ENGINE.lead,
    element: h('div', { class: 'grid' }, overview.element, alerts.element, rate.element),
    panels: [overview, alerts, rate],
    start,
  };
}

/** A reporting zone and the days that are counted in advance. */
const zoneText = ({ zone, complete, covered_from: from }) => {
  if (!complete) return ENGINE.counting(zone);
  return from ? ENGINE.from(zone, from) : zone;
};

async function askStatus(tz, signal) {
  const status = await get('status', signal);
  const { accepted, waiting, store, rollup } = status;
  const onDisk = store.sealed_bytes + store.state_bytes + store.column_bytes + store.event_id_bytes + store.log_bytes;
  const isBehind = rollup.last_day !== null && rollup.last_day < rollup.due_day;
  const cards = [
    [
      'writable',
      status.writable ? ENGINE.accepted : ENGINE.rejected,
      status.writable ? ENGINE.writable : ENGINE.notWritable,
      status.writable ? 'good' : 'bad',
    ],
    [
      'last_minute',
      count(accepted.last_minute),
      ENGINE.sinceStart(count(accepted.since_start)),
      null,
      accepted.last_minute,
    ],
    [
      'waiting',
      count(waiting.events),
      waiting.since ? ENGINE.oldest(clock(waiting.since, tz), duration(waiting.seconds)) : ENGINE.upToDate,
      null,
      waiting.events,
    ],
    [
      'rollup',
      rollup.last_day ? shortDay(rollup.last_day) : ENGINE.noRollup,
      isBehind ? ENGINE.due(longDay(rollup.due_day)) : ENGINE.nothingDue,
      isBehind ? 'warn' : 'good',
    ],
    [
      'events',
      brief(store.sealed_events + store.log_events),
      ENGINE.segments(count(store.sealed_events + store.log_events), count(store.segments)),
      null,
      store.sealed_events + store.log_events,
    ],
    [
      'bytes',
      bytes(onDisk),
      store.sealed_events ? ENGINE.bytesOfEvent((store.sealed_bytes / store.sealed_events).toFixed(1)) : ENGINE.stored,
      null,
      onDisk,
    ],
  ];
  const texts = ENGINE.rows;
  const rows = [
    [texts.version, status.version],
    [texts.opened, status.opened_at],
    [texts.writable, status.writable],
    [texts.minute, accepted.last_minute],
    [texts.start, accepted.since_start],
    [texts.waiting, waiting.events],
    [texts.since, waiting.since],
    [texts.sealed, store.sealed_events],
    [texts.segments, store.segments],
    [texts.segmentBytes, store.sealed_bytes],
    [texts.states, store.states],
    [texts.stateBytes, store.state_bytes],
    [texts.columnBytes, store.column_bytes],
    [texts.ids, store.event_ids],
    [texts.idBytes, store.event_id_bytes],
    [texts.logBytes, store.log_bytes],
    [texts.first, status.first_day],
    [texts.newest, status.last_day],
    [texts.events, status.raw_from ?? ENGINE.firstDay],
    [texts.statesFrom, status.states_from ?? ENGINE.firstDay],
    [texts.zones, status.zones.map(zoneText).join('; ')],
    [texts.rollup, rollup.last_day],
    [texts.due, rollup.due_day],
    [texts.live, status.watchers],
  ].map(([what, value]) => ({ what, value: typeof value === 'number' ? number(value) : value }));
  return {
    rows,
    request: { path: 'status' },
    element: () =>
      h(
        'div',
        { class: 'cards six' },
        cards.map(([name, value, hint, tone, exact]) =>
          h(
            'div',
            { class: `card${tone ? ` ${tone}` : ''}`, 'data-card': name, 'data-value': exact },
            h('h3', { text: ENGINE.cards[name] }),
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
    state: ENGINE.states[state],
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
        h('p', { class: 'hint' }, quiet === alerts.length ? ENGINE.allQuiet(quiet) : ENGINE.othersQuiet(quiet)),
      ),
  };
}

function alertElement({ name, condition, action, state, severity, since }, tz) {
  const urgent = severity === 'page' ? 'bad' : 'warn';
  const start = `${shortDay(dayIn(tz, since))}, ${clock(since, tz)}`;
  const time = state === 'firing' ? ENGINE.since(start) : ENGINE.pending(start);
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
  const rows = minutes.map((events, place) => ({ minutes_ago: minutes.length - 1 - place, events }));
  return {
    rows,
    request: { path: 'status' },
    label: ENGINE.rateLabel(minutes.at(-1), Math.max(...minutes)),
    option: (look) => ({
      animation: false,
      grid: { top: 12 },
      tooltip: {
        trigger: 'axis',
        axisPointer: { type: 'shadow' },
        formatter: ([{ dataIndex }]) =>
          tip(ago(rows[dataIndex].minutes_ago), [[ENGINE.events, count(rows[dataIndex].events)]]),
      },
      xAxis: {
        type: 'category',
        data: rows.map((row) => row.minutes_ago),
        axisLabel: {
          interval: (place) => (minutes.length - 1 - place) % 10 === 0,
          formatter: (place) => (place === '0' ? ENGINE.now : ENGINE.minutes(place)),
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

const ago = (minutes) => (minutes === 0 ? ENGINE.lastMinute : ENGINE.ago(minutes));

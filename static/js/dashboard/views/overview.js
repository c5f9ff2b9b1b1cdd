// Overview: active users, their events, and the change against the days before.
import { query, usage, usagePath } from '../api.js';
import { closedDays, isSeen, relative, wholeWeeks } from '../compare.js';
import { h, named, segments, short, svg } from '../dom.js';
import { addDays, average, brief, change, count, percent, period, range } from '../format.js';
import { cutNotes, cutText, marks, tip, unnamedTitle } from '../panel.js';
import { naming } from '../snippet.js';
import { grainFor, isAll, isCounted } from '../state.js';

/** Limit of the points of a trend. */
const PARTS = 10;
const WEEK = 7;
const TOP = 10;
/** Limit of the features of other days, among which the shown ones are searched. */
const WIDE = 1_000;

export function overview(context) {
  const { state, scope, panel } = context;
  const numbers = panel({
    title: 'Active users',
    name: 'usage',
    height: 132,
    help: 'Changes are relative to the same number of days before',
    ask: (signal) => askNumbers(context, signal),
  });
  numbers.element.classList.add('cards-panel');
  const grain = state.own.grain ?? grainFor(state.days, 366);
  const overTime = panel({
    title: 'Active users over time',
    name: 'active-users',
    height: 320,
    tall: true,
    controls: segments(
      'Length of a period',
      [
        ['day', 'Day'],
        ['week', 'Week'],
        ['month', 'Month'],
      ],
      grain,
      (next) => context.own({ grain: next }),
    ),
    isAboutUsers: true,
    ask: (signal) => askOverTime(scope, grain, signal),
  });
  const features = panel({
    title: 'Top features',
    name: 'features',
    height: 380,
    help: 'Events, their trend over the days that are over, and the change',
    ask: (signal) => askFeatures(context, signal),
  });
  const types = panel({
    title: 'Events by type',
    name: 'event-types',
    height: 440,
    ask: (signal) => askTypes(scope, signal),
  });
  return {
    title: 'Overview',
    lead: 'Who uses the product, and what they do.',
    element: h('div', { class: 'grid overview' }, numbers.element, overTime.element, features.element, types.element),
    panels: [numbers, overTime, features, types],
  };
}

/** True if no event of a result has expired: only then it can be compared. */
const isKnown = ({ answer }) => answer.covered_from <= answer.window.from;
const asked = (scope, { days, end }) => ({ ...scope, days, end });
const days = ({ from, end }) => range(from, end);

async function askNumbers(context, signal) {
  const { state, scope } = context;
  const all = isAll(state);
  const read = all
    ? ({ days: length, end }) => usage({ ...state, days: length, end }, signal).then(fromUsage)
    : (part) => fromQueries(part, signal);
  const [now, daily] = await Promise.all([read(scope), query({ metric: 'active_users', ...scope }, signal)]);
  const { window, ts } = now.answer;
  const span = closedDays(window, ts);
  const [compared, weekly] = await Promise.all([
    compareDays(context, read, now, span),
    compareWeeks(context, span, signal),
  ]);
  const closed = daily.rows.filter((row) => !row.partial);
  const last = closed.at(-1);
  const trend = (name) => closed.map((row) => row[name]);
  const { pair } = compared;
  const of = (name) =>
    pair && { now: pair.now[name], before: pair.before[name], text: `${days(span.now)} against ${days(span.before)}` };
  const cards = [
    {
      name: 'dau',
      title: 'Daily active users',
      hint: 'Average per day with data',
      value: now.dau,
      compared: of('dau'),
      write: average,
      trend: trend('dau'),
    },
    {
      name: 'wau',
      title: 'Weekly active users',
      hint: `Average per week with data${now.hasCutWeeks ? ', incomplete ones included' : ''}`,
      value: now.wau,
      compared: pair && weekly,
      write: average,
      trend: trend('wau'),
    },
    {
      name: 'mau',
      title: `Users in ${state.days} ${state.days === 1 ? 'day' : 'days'}`,
      hint: 'Distinct users of the window (MAU)',
      value: now.mau,
      compared: of('mau'),
      write: count,
      trend: trend('mau'),
    },
    {
      name: 'events',
      title: 'Events',
      hint: 'All accepted events',
      value: now.events,
      compared: of('events'),
      write: count,
    },
    {
      name: 'stickiness',
      title: 'Stickiness',
      hint: last ? `Daily / 30-day users, ${period(last.period)}` : 'Daily / 30-day users',
      value: last?.stickiness,
      write: percent,
      trend: trend('stickiness'),
      fixed: true,
    },
  ];
  const request = all ? { path: usagePath(state) } : { path: 'query', body: { metric: 'active_users', ...scope } };
  const notes = [];
  if (now.events > 0 && now.mau === 0)
    notes.push([
      'warn',
      `${unnamedTitle(now.events)}: users are counted only where events have a user_id. Call ${naming.replace(/;.*/, '')} in your pages.`,
      'unnamed',
    ]);
  if (!pair) notes.push(['soft', `No comparison: ${compared.because}.`, 'no-comparison']);
  else if (!span.isWhole)
    notes.push([
      'soft',
      `Changes compare ${days(span.now)} with ${days(span.before)}: days that are not over are left out.`,
      'compared',
    ]);
  return {
    answer: now.answer,
    request: all ? request : undefined,
    isEmpty: now.events === 0,
    notes,
    rows: cards
      .filter((card) => !card.fixed)
      .map((card) => ({
        number: card.title,
        value: card.value,
        compared: card.compared?.now ?? null,
        before: card.compared?.before ?? null,
        change: card.compared ? relative(card.compared.now, card.compared.before) : null,
      })),
    element: () => h('div', { class: 'cards' }, cards.map(card)),
  };
}

/** The numbers of the days that are over, and of the same days before; or `because`, the reason why there are none. */
async function compareDays({ state, scope, firstDay }, read, now, span) {
  if (!span) return { because: 'no day of the window is over' };
  if (!isSeen(span.before, firstDay, state.tz))
    return { because: `the first event is of ${range(firstDay, firstDay)}, so the days before it cannot be compared` };
  const [closed, before] = await Promise.all([
    span.isWhole ? now : read(asked(scope, span.now)),
    read(asked(scope, span.before)),
  ]);
  if (!isKnown(before)) return { because: 'events of the days before have expired' };
  return before.events > 0 ? { pair: { now: closed, before } } : { because: 'nothing happened in the days before' };
}

/** Users per week: the average of the complete weeks of the window, and of as many weeks before. */
async function compareWeeks({ state, scope, firstDay }, span, signal) {
  const weeks = span && wholeWeeks(span.now);
  if (!weeks || !isSeen(weeks.before, firstDay, state.tz)) return null;
  const read = async (part) => {
    const answer = await query({ metric: 'active_users', grain: 'week', ...asked(scope, part) }, signal);
    return { answer, users: answer.rows.reduce((sum, row) => sum + row.users, 0) / weeks.weeks };
  };
  const [now, before] = await Promise.all([read(weeks.now), read(weeks.before)]);
  if (!isKnown(before) || before.users === 0) return null;
  return {
    now: now.users,
    before: before.users,
    text: `${weeks.weeks} complete ${weeks.weeks === 1 ? 'week' : 'weeks'}, ${days(weeks.now)} against ${days(weeks.before)}`,
  };
}

const fromUsage = (answer) => ({
  answer,
  dau: answer.dau,
  wau: answer.wau,
  mau: answer.mau,
  events: answer.total_events,
  hasCutWeeks: answer.partial_weeks.length > 0,
});

/** The same numbers with a filter or a cohort, by other metrics. Days and weeks without users count as without data. */
async function fromQueries(scope, signal) {
  const ask = (request) => query({ ...request, ...scope }, signal);
  const [daily, weeks, sticky, types] = await Promise.all([
    ask({ metric: 'active_users' }),
    ask({ metric: 'active_users', grain: 'week' }),
    ask({ metric: 'stickiness' }),
    ask({ metric: 'event_types' }),
  ]);
  const mean = (values) => {
    const some = values.filter((value) => value > 0);
    return some.length ? some.reduce((a, b) => a + b, 0) / some.length : 0;
  };
  return {
    answer: types,
    dau: mean(daily.rows.map((row) => row.dau)),
    wau: mean(weeks.rows.map((row) => row.users)),
    mau: sticky.rows[0]?.cumulative ?? 0,
    events: types.rows.reduce((sum, row) => sum + row.events, 0),
    hasCutWeeks: weeks.rows.some((row) => row.partial),
  };
}

function card({ name, title, hint, value, compared, write, trend }) {
  const difference = compared ? relative(compared.now, compared.before) : null;
  const direction = difference > 0.0005 ? 'up' : difference < -0.0005 ? 'down' : 'flat';
  return h(
    'div',
    { class: 'card', 'data-card': name },
    h('h3', { text: title }),
    h(
      'div',
      { class: 'card-row' },
      h('strong', { class: 'figure-number', 'data-value': value, text: write(value) }),
      difference !== null &&
        h(
          'span',
          {
            class: `delta ${direction}`,
            'data-delta': difference,
            title: `${write(compared.now)} against ${write(compared.before)}: ${compared.text}`,
          },
          h('span', { 'aria-hidden': 'true', text: { up: '▲ ', down: '▼ ', flat: '' }[direction] }),
          change(difference),
          h('span', { class: 'unseen', text: ' against the days before' }),
        ),
    ),
    h('p', { class: 'hint', text: hint }),
    trend?.length > 1 && spark(trend),
  );
}

/** Draws a line without axes. */
export function spark(values, className = 'spark') {
  const [width, height] = [120, 28];
  const top = Math.max(...values, 1e-9);
  const at = values.map((value, place) => [
    (place / Math.max(values.length - 1, 1)) * width,
    height - 2 - (value / top) * (height - 4),
  ]);
  const line = at.map(([x, y], place) => `${place ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');
  return svg(
    'svg',
    { viewBox: `0 0 ${width} ${height}`, class: className, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    svg('path', { class: 'spark-area', d: `${line}L${width} ${height}L0 ${height}Z` }),
    svg('path', { class: 'spark-line', d: line }),
  );
}

const LINES = [
  ['mau', '30 days'],
  ['wau', '7 days'],
  ['dau', 'Daily'],
];

async function askOverTime(scope, grain, signal) {
  const body = { metric: 'active_users', grain, ...scope };
  const answer = await query(body, signal);
  const { rows } = answer;
  const lines = grain === 'day' ? LINES : [['users', grain === 'week' ? 'Users of the week' : 'Users of the month']];
  const last = rows.at(-1);
  return {
    answer,
    rows,
    request: { path: 'query', body },
    isEmpty: !rows.some((row) => lines.some(([name]) => row[name] > 0)),
    notes: cutNotes(rows, grain, 'dashed'),
    label: `${rows.length} periods, from ${rows[0]?.period} to ${last?.period}; at the end ${lines.map(([name, title]) => `${title}: ${last?.[name]}`).join(', ')}. ${rows.filter((row) => row.partial).length} of them are incomplete.`,
    option: (look) => ({
      legend: lines.length > 1 ? { data: lines.map(([, title]) => title).reverse() } : undefined,
      grid: { top: lines.length > 1 ? 40 : 16, right: 16 },
      tooltip: {
        trigger: 'axis',
        formatter: (points) => {
          const row = rows[points[0].dataIndex];
          return tip(
            period(row.period, grain),
            [...lines].reverse().map(([name, title]) => [title, count(row[name]), colourOf(look, name)]),
            [
              row.stickiness !== undefined && `Stickiness ${percent(row.stickiness)}`,
              cutText(row.period, answer, row.partial),
            ]
              .filter(Boolean)
              .join(' · '),
          );
        },
      },
      xAxis: {
        type: 'category',
        boundaryGap: false,
        data: rows.map((row) => row.period),
        axisLabel: { formatter: (day) => period(day, grain === 'month' ? grain : 'day') },
      },
      yAxis: { type: 'value', minInterval: 1, axisLabel: { formatter: brief } },
      series: lines.flatMap(([name, title], place) => {
        const colour = colourOf(look, name);
        const isDaily = name === 'dau' || name === 'users';
        const style = { type: 'line', name: title, symbolSize: 5, itemStyle: { color: colour } };
        const { complete, cut } = completeAndCut(rows);
        const pick = ([from, to]) => rows.map((row, at) => (at >= from && at <= to ? row[name] : null));
        return [
          {
            ...style,
            data: pick(complete),
            showSymbol: complete[1] - complete[0] < 2,
            lineStyle: { width: isDaily ? 2.2 : 1.8, color: colour },
            areaStyle: isDaily ? { color: colour, opacity: 0.1 } : undefined,
            ...(place === 0 ? marks(rows, answer, look) : {}),
          },
          // Incomplete periods are not part of the line: they are dashed, with hollow points.
          ...cut.map((part) => ({
            ...style,
            data: pick(part),
            showSymbol: true,
            symbol: 'emptyCircle',
            symbolSize: (_, { dataIndex }) => (rows[dataIndex].partial ? 6 : 0),
            lineStyle: { width: 1.8, color: colour, type: [4, 4] },
          })),
        ];
      }),
    }),
  };
}

/** Ranges of the complete rows, and of the incomplete ones before and after, each up to the adjacent complete row. */
function completeAndCut(rows) {
  const first = rows.findIndex((row) => !row.partial);
  const last = rows.findLastIndex((row) => !row.partial);
  if (first < 0) return { complete: [0, -1], cut: [[0, rows.length - 1]] };
  return {
    complete: [first, last],
    cut: [
      [0, first],
      [last, rows.length - 1],
    ].filter(([from, to]) => from < to),
  };
}

const colourOf = (look, name) => look.series[{ dau: 0, users: 0, wau: 1, mau: 2 }[name] ?? 0];

async function askFeatures({ state, scope, firstDay }, signal) {
  const body = { metric: 'feature_usage', limit: TOP, ...scope };
  const answer = await query(body, signal);
  const { rows, window } = answer;
  const span = closedDays(window, answer.ts);
  const wide = (part) => query({ ...asked(body, part), limit: WIDE }, signal);
  const isComparable = span && isSeen(span.before, firstDay, state.tz) && rows.length > 0;
  const [closed, before] = isComparable
    ? await Promise.all([span.isWhole ? answer : wide(span.now), wide(span.before)])
    : [];
  const comparable = isComparable && isKnown({ answer: before }) && before.rows.length > 0;
  const eventsOf = (found) => new Map(found.rows.map((row) => [row.feature, row.events]));
  const [later, earlier] = comparable ? [eventsOf(closed), eventsOf(before)] : [];
  const isCheap = isAll(state) && isCounted(state.tz) && rows.length > 0;
  const trends = isCheap && span ? await trendsOf(scope, span.now, signal) : [];
  const most = Math.max(...rows.map((row) => row.events), 1);
  const found = rows.map((row) => ({
    ...row,
    change: comparable ? relative(later.get(row.feature) ?? 0, earlier.get(row.feature) ?? 0) : null,
  }));
  const line = (row) => {
    const fill = h('i', { class: 'meter' });
    fill.style.width = `${(row.events / most) * 100}%`;
    const isNew = comparable && !earlier.has(row.feature);
    return h(
      'li',
      { 'data-feature-events': row.events },
      h('div', { class: 'rank-name' }, named(row.feature), h('small', { text: `${count(row.users)} users` })),
      h('div', { class: 'rank-bar' }, fill),
      trends.length > 1 ? spark(trends.map((part) => part.get(row.feature) ?? 0)) : h('span'),
      h('strong', { class: 'rank-number', text: count(row.events) }),
      row.change === null
        ? h('span', { class: 'delta flat', text: isNew ? 'new' : '' })
        : h('span', {
            class: `delta ${row.change > 0 ? 'up' : row.change < 0 ? 'down' : 'flat'}`,
            text: change(row.change),
          }),
    );
  };
  return {
    answer,
    rows: found,
    request: { path: 'query', body },
    isEmpty: rows.length === 0,
    element: () => h('ol', { class: `rank${trends.length > 1 ? ' with-trend' : ''}` }, found.map(line)),
    height: 380,
    picture: (look) => ({
      grid: { left: 8, right: 60 },
      xAxis: { type: 'value', axisLabel: { formatter: brief } },
      yAxis: {
        type: 'category',
        inverse: true,
        data: rows.map((_, place) => place),
        axisLabel: { formatter: (place) => short(rows[place].feature) },
      },
      series: [
        {
          type: 'bar',
          data: rows.map((row) => row.events),
          itemStyle: { color: look.series[0], borderRadius: [0, 3, 3, 0] },
          label: { show: true, position: 'right', color: look.ink, formatter: ({ value }) => count(value) },
        },
      ],
    }),
  };
}

/** Events of the features in equal parts of a span. The parts read each day once, so that ten cost as much as one. */
async function trendsOf(scope, { days: all, end }, signal) {
  // Complete weeks, or days: other parts would go up and down with the weekends.
  const length = all < 2 * WEEK ? 1 : WEEK * Math.ceil(all / (WEEK * PARTS));
  const parts = Math.floor(all / length);
  const ends = Array.from({ length: parts }, (_, part) => addDays(end, -length * (parts - 1 - part)));
  const answers = await Promise.all(
    ends.map((last) => query({ ...scope, metric: 'feature_usage', limit: WIDE, days: length, end: last }, signal)),
  );
  return answers.map(({ rows }) => new Map(rows.map((row) => [row.feature, row.events])));
}

const TYPE_NAMES = { page_view: 'Page views', action: 'Actions', conversion: 'Conversions' };

async function askTypes(scope, signal) {
  const body = { metric: 'event_types', ...scope };
  const answer = await query(body, signal);
  const { rows } = answer;
  const total = rows.reduce((sum, row) => sum + row.events, 0);
  return {
    answer,
    rows,
    request: { path: 'query', body },
    isEmpty: total === 0,
    label: rows.map((row) => `${TYPE_NAMES[row.event_type]}: ${row.events} events, ${row.users} users`).join('; '),
    option: (look) => ({
      legend: { data: ['Events', 'Users'] },
      grid: { top: 44, right: 12 },
      tooltip: {
        trigger: 'axis',
        axisPointer: { type: 'shadow' },
        formatter: ([{ dataIndex }]) => {
          const row = rows[dataIndex];
          return tip(TYPE_NAMES[row.event_type], [
            ['Events', count(row.events), look.series[0]],
            ['Users', count(row.users), look.series[3]],
            ['Share of events', percent(row.events / total)],
          ]);
        },
      },
      xAxis: {
        type: 'category',
        data: rows.map((row) => TYPE_NAMES[row.event_type]),
        axisLabel: { interval: 0, color: look.ink },
      },
      yAxis: { type: 'value', axisLabel: { formatter: brief } },
      series: [
        ['Events', 'events', 0],
        ['Users', 'users', 3],
      ].map(([name, key, colour]) => ({
        name,
        type: 'bar',
        barMaxWidth: 46,
        barGap: '12%',
        data: rows.map((row) => row[key]),
        itemStyle: { color: look.series[colour], borderRadius: [4, 4, 0, 0] },
        label: { show: true, position: 'top', color: look.muted, fontSize: 11, formatter: ({ value }) => brief(value) },
      })),
    }),
  };
}

// Overview: how many people use the product, what they do, and whether that is more than before.
import { query, usage, usagePath } from '../api.js';
import { h, named, segments, short, svg } from '../dom.js';
import { addDays, average, brief, change, count, percent, period, range } from '../format.js';
import { marks, tip } from '../panel.js';
import { grainFor, isAll } from '../state.js';

/** Parts of the window that a trend is made of. */
const PARTS = 10;
const TOP = 10;

export function overview(context) {
  const { state, scope, panel } = context;
  const numbers = panel({ title: 'Active users', name: 'usage', height: 132, help: 'Compared with as many days before', ask: (signal) => askNumbers(state, scope, signal) });
  numbers.element.classList.add('cards-panel');
  const grain = state.own.grain ?? grainFor(state.days, 366);
  const overTime = panel({
    title: 'Active users over time', name: 'active-users', height: 320, tall: true,
    controls: segments('Length of a period', [['day', 'Day'], ['week', 'Week'], ['month', 'Month']], grain, (next) => context.own({ grain: next })),
    ask: (signal) => askOverTime(scope, grain, signal),
  });
  const features = panel({ title: 'Top features', name: 'features', height: 380, help: 'Events, their trend over the window, and the change', ask: (signal) => askFeatures(state, scope, signal) });
  const types = panel({ title: 'Events by type', name: 'event-types', height: 440, ask: (signal) => askTypes(scope, signal) });
  return { title: 'Overview', lead: 'Who uses the product, and what they do.', element: h('div', { class: 'grid overview' }, numbers.element, overTime.element, features.element, types.element), panels: [numbers, overTime, features, types] };
}

/** The question over the same number of days before. */
const before = (scope, window) => ({ ...scope, end: addDays(window.from, -1) });
const relative = (now, then) => (then ? now / then - 1 : null);
/** The window before says something only if it is known in full, and if anything happened in it. */
const isKnown = (answer) => answer.covered_from <= answer.window.from;

async function askNumbers(state, scope, signal) {
  const all = isAll(state);
  const read = all ? (asked) => usage({ ...state, end: asked.end }, signal).then(fromUsage) : (asked) => fromQueries(asked, signal);
  const [now, days] = await Promise.all([read(scope), query({ metric: 'active_users', ...scope }, signal)]);
  const then = await read(before(scope, now.answer.window));
  const comparable = isKnown(then.answer) && then.events > 0;
  const closed = days.rows.filter((row) => !row.partial);
  const last = closed.at(-1);
  const cards = [
    { name: 'dau', title: 'Daily active users', hint: 'Average per day with data', now: now.dau, then: then.dau, write: average, trend: days.rows.map((row) => row.dau) },
    { name: 'wau', title: 'Weekly active users', hint: 'Average per week with data', now: now.wau, then: then.wau, write: average, trend: days.rows.map((row) => row.wau) },
    { name: 'mau', title: `Users in ${state.days} ${state.days === 1 ? 'day' : 'days'}`, hint: 'Distinct users of the window (MAU)', now: now.mau, then: then.mau, write: count, trend: days.rows.map((row) => row.mau) },
    { name: 'events', title: 'Events', hint: 'Everything that was accepted', now: now.events, then: then.events, write: count },
    { name: 'stickiness', title: 'Stickiness', hint: last ? `Daily / 30-day users, ${period(last.period)}` : 'Daily / 30-day users', now: last?.stickiness, then: null, write: percent, trend: closed.map((row) => row.stickiness), fixed: true },
  ];
  const request = all ? { path: usagePath(state) } : { path: 'query', body: { metric: 'active_users', ...scope } };
  return {
    answer: now.answer, request: all ? request : undefined, isEmpty: now.events === 0,
    rows: cards.filter((card) => !card.fixed).map((card) => ({ number: card.title, now: card.now, before: comparable ? card.then : null, change: comparable ? relative(card.now, card.then) : null })),
    notes: comparable ? [] : [['soft', then.events > 0 ? 'No comparison: the days before are not known in full any more.' : 'No comparison: nothing happened in the days before.', 'no-comparison']],
    element: () => h('div', { class: 'cards' }, cards.map((one) => card(one, comparable, then.answer.window))),
  };
}

const fromUsage = (answer) => ({ answer, dau: answer.dau, wau: answer.wau, mau: answer.mau, events: answer.total_events });

/** With a filter or a cohort the same numbers from the metrics that know them; days and weeks without users count as without data. */
async function fromQueries(scope, signal) {
  const ask = (question) => query({ ...question, ...scope }, signal);
  const [days, weeks, sticky, types] = await Promise.all([
    ask({ metric: 'active_users' }), ask({ metric: 'active_users', grain: 'week' }), ask({ metric: 'stickiness' }), ask({ metric: 'event_types' }),
  ]);
  const mean = (values) => {
    const some = values.filter((value) => value > 0);
    return some.length ? some.reduce((a, b) => a + b, 0) / some.length : 0;
  };
  return {
    answer: types, dau: mean(days.rows.map((row) => row.dau)), wau: mean(weeks.rows.map((row) => row.users)), mau: sticky.rows[0]?.cumulative ?? 0,
    events: types.rows.reduce((sum, row) => sum + row.events, 0),
  };
}

function card({ name, title, hint, now, then, write, trend }, comparable, window) {
  const difference = comparable ? relative(now, then) : null;
  const direction = difference > 0.0005 ? 'up' : difference < -0.0005 ? 'down' : 'flat';
  return h('div', { class: 'card', 'data-card': name },
    h('h3', { text: title }),
    h('div', { class: 'card-row' }, h('strong', { class: 'figure-number', 'data-value': now, text: write(now) }), difference !== null && h('span', {
      class: `delta ${direction}`, 'data-delta': difference, title: `${write(then)} in ${range(window.from, window.to)}`,
    }, h('span', { 'aria-hidden': 'true', text: { up: '▲ ', down: '▼ ', flat: '' }[direction] }), change(difference), h('span', { class: 'unseen', text: ' against the window before' }))),
    h('p', { class: 'hint', text: hint }),
    trend?.length > 1 && spark(trend));
}

/** A line without axes. */
export function spark(values, className = 'spark') {
  const [width, height] = [120, 28];
  const top = Math.max(...values, 1e-9);
  const at = values.map((value, place) => [(place / Math.max(values.length - 1, 1)) * width, height - 2 - (value / top) * (height - 4)]);
  const line = at.map(([x, y], place) => `${place ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');
  return svg('svg', { viewBox: `0 0 ${width} ${height}`, class: className, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    svg('path', { class: 'spark-area', d: `${line}L${width} ${height}L0 ${height}Z` }), svg('path', { class: 'spark-line', d: line }));
}

const LINES = [['mau', '30 days'], ['wau', '7 days'], ['dau', 'Daily']];

async function askOverTime(scope, grain, signal) {
  const body = { metric: 'active_users', grain, ...scope };
  const answer = await query(body, signal);
  const { rows } = answer;
  const lines = grain === 'day' ? LINES : [['users', grain === 'week' ? 'Users of the week' : 'Users of the month']];
  const last = rows.at(-1);
  return {
    answer, rows, request: { path: 'query', body }, isEmpty: !rows.some((row) => lines.some(([name]) => row[name] > 0)),
    label: `${rows.length} periods, from ${rows[0]?.period} to ${last?.period}; at the end ${lines.map(([name, title]) => `${title}: ${last?.[name]}`).join(', ')}.`,
    option: (look) => ({
      legend: lines.length > 1 ? { data: lines.map(([, title]) => title).reverse() } : undefined,
      grid: { top: lines.length > 1 ? 40 : 16, right: 16 },
      tooltip: { trigger: 'axis', formatter: (points) => {
        const row = rows[points[0].dataIndex];
        return tip(period(row.period, grain), [...lines].reverse().map(([name, title]) => [title, count(row[name]), colourOf(look, lines, name)]), [row.stickiness !== undefined && `Stickiness ${percent(row.stickiness)}`, row.partial && 'Not over'].filter(Boolean).join(' · '));
      } },
      xAxis: { type: 'category', boundaryGap: false, data: rows.map((row) => row.period), axisLabel: { formatter: (day) => period(day, grain === 'month' ? grain : 'day') } },
      yAxis: { type: 'value', minInterval: 1, axisLabel: { formatter: brief } },
      series: lines.flatMap(([name, title], place) => {
        const colour = colourOf(look, lines, name);
        const cut = rows.findIndex((row) => row.partial);
        const solid = rows.map((row, at) => (cut < 0 || at < cut ? row[name] : null));
        const open = rows.map((row, at) => (cut >= 0 && at >= cut - 1 ? row[name] : null));
        const isDaily = name === 'dau' || name === 'users';
        const style = { type: 'line', showSymbol: rows.length < 3, symbolSize: 5, itemStyle: { color: colour } };
        return [
          { ...style, name: title, data: solid, lineStyle: { width: isDaily ? 2.2 : 1.8, color: colour }, areaStyle: isDaily ? { color: colour, opacity: 0.1 } : undefined, ...(place === 0 ? marks(rows, answer, look) : {}) },
          ...(cut < 0 ? [] : [{ ...style, name: title, data: open, lineStyle: { width: 1.8, color: colour, type: [4, 4] }, showSymbol: rows.length - cut === 1 && cut === 0 }]),
        ];
      }),
    }),
  };
}

const colourOf = (look, lines, name) => look.series[{ dau: 0, users: 0, wau: 1, mau: 2 }[name] ?? 0];

async function askFeatures(state, scope, signal) {
  const body = { metric: 'feature_usage', limit: TOP, ...scope };
  const answer = await query(body, signal);
  const { rows, window } = answer;
  const then = await query({ ...body, limit: 1000, ...before(scope, window) }, signal);
  const comparable = isKnown(then) && then.rows.length > 0;
  const earlier = new Map(then.rows.map((row) => [row.feature, row.events]));
  const isCheap = isAll(state) && state.tz === 'UTC' && rows.length > 0;
  const trends = isCheap ? await trendsOf(scope, window, signal) : [];
  const most = Math.max(...rows.map((row) => row.events), 1);
  const found = rows.map((row) => ({ ...row, change: comparable ? relative(row.events, earlier.get(row.feature) ?? 0) : null }));
  const line = (row) => {
    const fill = h('i', { class: 'meter' });
    fill.style.width = `${(row.events / most) * 100}%`;
    const isNew = comparable && !earlier.has(row.feature);
    return h('li', { 'data-feature-events': row.events },
      h('div', { class: 'rank-name' }, named(row.feature), h('small', { text: `${count(row.users)} users` })),
      h('div', { class: 'rank-bar' }, fill),
      trends.length > 1 ? spark(trends.map((part) => part.get(row.feature) ?? 0)) : h('span'),
      h('strong', { class: 'rank-number', text: count(row.events) }),
      row.change === null ? h('span', { class: 'delta flat', text: isNew ? 'new' : '' }) : h('span', { class: `delta ${row.change > 0 ? 'up' : row.change < 0 ? 'down' : 'flat'}`, text: change(row.change) }));
  };
  return {
    answer, rows: found, request: { path: 'query', body }, isEmpty: rows.length === 0,
    element: () => h('ol', { class: `rank${trends.length > 1 ? ' with-trend' : ''}` }, found.map(line)),
    height: 380,
    picture: (look) => ({
      grid: { left: 8, right: 60 }, xAxis: { type: 'value', axisLabel: { formatter: brief } }, yAxis: { type: 'category', inverse: true, data: rows.map((_, place) => place), axisLabel: { formatter: (place) => short(rows[place].feature) } },
      series: [{ type: 'bar', data: rows.map((row) => row.events), itemStyle: { color: look.series[0], borderRadius: [0, 3, 3, 0] }, label: { show: true, position: 'right', color: look.ink, formatter: ({ value }) => count(value) } }],
    }),
  };
}

/** Events of the features in equal parts of the window. The parts read each day once, so that ten cost as much as one. */
async function trendsOf(scope, window, signal) {
  const parts = Math.min(PARTS, window.days);
  const length = Math.floor(window.days / parts);
  const ends = Array.from({ length: parts }, (_, part) => addDays(window.to, -length * (parts - 1 - part)));
  const answers = await Promise.all(ends.map((end) => query({ ...scope, metric: 'feature_usage', limit: 1000, days: length, end }, signal)));
  return answers.map(({ rows }) => new Map(rows.map((row) => [row.feature, row.events])));
}

const TYPE_NAMES = { page_view: 'Page views', action: 'Actions', conversion: 'Conversions' };

async function askTypes(scope, signal) {
  const body = { metric: 'event_types', ...scope };
  const answer = await query(body, signal);
  const { rows } = answer;
  const total = rows.reduce((sum, row) => sum + row.events, 0);
  return {
    answer, rows, request: { path: 'query', body }, isEmpty: total === 0,
    label: rows.map((row) => `${TYPE_NAMES[row.event_type]}: ${row.events} events, ${row.users} users`).join('; '),
    option: (look) => ({
      legend: { data: ['Events', 'Users'] }, grid: { top: 44, right: 12 },
      tooltip: { trigger: 'axis', axisPointer: { type: 'shadow' }, formatter: ([{ dataIndex }]) => {
        const row = rows[dataIndex];
        return tip(TYPE_NAMES[row.event_type], [['Events', count(row.events), look.series[0]], ['Users', count(row.users), look.series[3]], ['Share of events', percent(row.events / total)]]);
      } },
      xAxis: { type: 'category', data: rows.map((row) => TYPE_NAMES[row.event_type]), axisLabel: { interval: 0, color: look.ink } },
      yAxis: { type: 'value', axisLabel: { formatter: brief } },
      series: [['Events', 'events', 0], ['Users', 'users', 3]].map(([name, key, colour]) => ({
        name, type: 'bar', barMaxWidth: 46, barGap: '12%', data: rows.map((row) => row[key]), itemStyle: { color: look.series[colour], borderRadius: [4, 4, 0, 0] },
        label: { show: true, position: 'top', color: look.muted, fontSize: 11, formatter: ({ value }) => brief(value) },
      })),
    }),
  };
}

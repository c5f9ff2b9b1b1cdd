// Overview: users and events of the window, over time and against the days before. Its numbers are those of `trends` and a
// few other metrics, in two requests: the quick queries are in the first one. All queries depend on the state alone, so that
// a saved report has all of them.
import { isDemo, query } from '../api.js';
import { isStart, isYoung, showStart } from '../checklist.js';
import { closedDays, isSeen, parts, relative } from '../compare.js';
import { card } from '../components/card.js';
import { chart, completeAndCut, linesOf, notesOf } from '../components/series.js';
import { h, named, plain, segments, short, svg } from '../dom.js';
import { addDays, average, brief, change, count, dayIn, percent, period, range } from '../format.js';
import { cardsOutline, cutNotes, cutText, known, marks, tip, unnamedTitle } from '../panel.js';
import { naming } from '../snippet.js';
import { grainFor, isAll } from '../state.js';
import { GRAIN, OVERVIEW, PANEL } from '../texts.js';

/** Limit of the listed features. */
const TOP = 10;
/** Days from the first to the last day of a week. */
const LAST_OF_WEEK = 6;
/** The queries that the first numbers need, and the others. */
const FIRST = { group: 'first' };
const REST = { group: 'rest' };
/** Queries about days of this date: a saved report does not have them. */
const DATED = { group: 'dated', isRecorded: false };

export function overview(context) {
  const { state, scope, panel } = context;
  const start = h('section', { class: 'panel tall', 'aria-label': OVERVIEW.start, hidden: true });
  const numbers = panel({
    title: OVERVIEW.usage.title,
    name: 'usage',
    height: 132,
    outline: cardsOutline,
    help: OVERVIEW.usage.help,
    ask: (signal) => askNumbers(context, signal),
  });
  numbers.element.classList.add('cards-panel');
  const grain = state.own.grain ?? grainFor(state.days, 366);
  const overTime = panel({
    title: OVERVIEW.overTime.title,
    name: 'active-users',
    height: 320,
    tall: true,
    controls: segments(GRAIN.label, GRAIN.options, grain, (next) => context.own({ grain: next })),
    isAboutUsers: true,
    ask: (signal) => askOverTime(scope, grain, signal),
  });
  const trend = panel({
    title: OVERVIEW.trend.title,
    name: 'trend',
    height: 260,
    tall: true,
    help: OVERVIEW.trend.help,
    ask: (signal) => askTrend(scope, grain, signal),
  });
  const features = panel({
    title: OVERVIEW.features.title,
    name: 'features',
    height: 460,
    help: OVERVIEW.features.help,
    ask: (signal) => askFeatures(context, signal),
  });
  const types = panel({
    title: OVERVIEW.types.title,
    name: 'event-types',
    height: 400,
    ask: (signal) => askTypes(context, signal),
  });
  // A saved report has no first steps; its panels have other names.
  const isPage = numbers.name === 'usage' && !isDemo && isAll(state);
  if (isPage && isStart(context.firstDay, dayIn('UTC', Date.now()))) {
    const found = {};
    context.onFound = (more) => {
      Object.assign(found, more);
      if ('users' in found && 'conversions' in found) showStart(start, found);
    };
  }
  return {
    title: OVERVIEW.title,
    lead: OVERVIEW.lead,
    element: h(
      'div',
      { class: 'grid overview' },
      start,
      numbers.element,
      overTime.element,
      trend.element,
      features.element,
      types.element,
    ),
    panels: [numbers, overTime, trend, features, types],
  };
}

/** Events and users over time, and of the days before. */
const eventsAndUsers = (scope, grain) => ({
  metric: 'trends',
  series: [{ measure: 'events' }, { measure: 'users' }],
  grain,
  compare: 'previous',
  ...scope,
});
const activeUsers = (scope, grain) => ({ metric: 'active_users', grain, ...scope });

/** The series of a result as pairs of rows, one for each period: its events, and its users. */
function pairsOf({ rows }) {
  const [events, users] = ['A', 'B'].map((letter) => rows.filter(({ series }) => series === letter));
  return events.map((row, place) => [row, users[place]]);
}

/** The average of the users of a period over the periods with events; `key` is `value`, or `previous` for those before. */
function usersPerPeriod(pairs, key) {
  const some = pairs.filter(([events]) => events[key] > 0);
  return some.length ? some.reduce((sum, [, users]) => sum + users[key], 0) / some.length : 0;
}

/** The numbers of a result of `trends` by day: those of its window, or with `previous` those of the days before. */
function figuresOf(answer, key = 'value') {
  const [events, users] = answer.totals;
  return { dau: usersPerPeriod(pairsOf(answer), key), mau: users[key], events: events[key] };
}

async function askNumbers(context, signal) {
  const { scope } = context;
  const texts = OVERVIEW.usage;
  const body = eventsAndUsers(scope, 'day');
  const [byDay, byWeek, active] = await Promise.all(
    [body, eventsAndUsers(scope, 'week'), activeUsers(scope, 'day')].map((one) => query(one, signal, FIRST)),
  );
  const { window } = byDay;
  const now = figuresOf(byDay);
  const weeks = pairsOf(byWeek);
  context.onFound?.({ users: now.mau });
  const compared = await compareDays(context, byDay, now, signal);
  const { pair } = compared;
  const of = (name) => pair && { now: pair.now[name], before: pair.before[name], text: compared.text };
  const closed = active.rows.filter((row) => !row.partial);
  const last = closed.at(-1);
  const trend = (name) => closed.map((row) => row[name]);
  const cards = [
    { name: 'dau', value: now.dau, compared: of('dau'), write: average, trend: trend('dau') },
    {
      name: 'wau',
      hint: texts.cards.wau.hint(weeks.some(([events]) => events.partial && events.value > 0)),
      value: usersPerPeriod(weeks, 'value'),
      compared: pair && compareWeeks(context, weeks),
      write: average,
      trend: trend('wau'),
    },
    {
      name: 'mau',
      title: texts.cards.mau.title(window.days),
      value: now.mau,
      compared: of('mau'),
      write: count,
      trend: trend('mau'),
    },
    { name: 'events', value: now.events, compared: of('events'), write: count },
    {
      name: 'stickiness',
      hint: texts.cards.stickiness.hint(last && period(last.period)),
      value: last?.stickiness,
      write: percent,
      trend: trend('stickiness'),
      fixed: true,
    },
  ].map((one) => ({ ...texts.cards[one.name], ...one }));
  const notes = [];
  const call = naming.replace(/;.*/, '');
  if (now.events > 0 && now.mau === 0) notes.push(['warn', texts.unnamed(unnamedTitle(now.events), call), 'unnamed']);
  const anonymous = await askAnonymous(context, now, signal);
  if (anonymous > 0) notes.push(['soft', texts.someUnnamed(count(anonymous), count(now.events), call), 'some-unnamed']);
  if (byDay.visitors === 'daily' && window.days > 1) notes.push(['soft', texts.daily, 'daily-visitors']);
  if (now.events > 0) {
    if (!pair) notes.push(['soft', texts.notCompared(compared.because), 'no-comparison']);
    else if (compared.note) notes.push(['soft', compared.note, 'compared']);
  }
  return {
    answer: byDay,
    request: { path: 'query', body },
    isEmpty: now.events === 0,
    notes,
    isOwnCsv: true,
    rows: cards
      .filter((card) => !card.fixed)
      .map((card) => ({
        number: card.title,
        value: card.value,
        compared: card.compared?.now ?? null,
        before: card.compared?.before ?? null,
        change: card.compared ? relative(card.compared.now, card.compared.before) : null,
      })),
    element: () => h('div', { class: 'cards' }, cards.map(usageCard)),
  };
}

/** The number of events without a user: of a store that is young, where it is quick to count and often a mistake. */
async function askAnonymous({ scope, firstDay, isEmbedded }, now, signal) {
  if (isEmbedded || now.mau === 0 || !isYoung(firstDay, dayIn('UTC', Date.now()))) return 0;
  const series = [{ measure: 'events', filter: { user_id: { exists: false } } }];
  try {
    const answer = await query({ metric: 'trends', series, ...scope }, signal, DATED);
    return answer.totals[0].value;
  } catch (error) {
    // A read key may not filter by user.
    if (signal.aborted || error.status === 0) throw error;
    return 0;
  }
}

/**
 * The numbers of the window and of the days before, of a running day only those of the same hours; or `because`, the reason
 * why there are none.
 */
async function compareDays(context, byDay, now, signal) {
  const { state, firstDay } = context;
  const { because, text } = OVERVIEW.usage;
  const { window, compared } = byDay;
  if (!isSeen(compared, firstDay, state.tz)) return { because: because.first(range(firstDay, firstDay)) };
  if (!compared.known_from || compared.known_from > compared.from) return { because: because.expired };
  const before = figuresOf(byDay, 'previous');
  // The hours of a day are known from its events, which expire before its numbers.
  if (before.events === null || isIdle(byDay)) {
    const closed = await compareClosed(context, byDay, signal);
    if (closed.pair || before.events === null) return closed;
  }
  if (before.events === 0) return { because: because.nothing };
  const spans = [range(window.from, window.to), range(compared.from, compared.to)];
  return {
    pair: { now, before },
    text: text(...spans),
    note: window.partial && OVERVIEW.usage.sameHours(...spans),
  };
}

/** True if nothing has happened on the day that is not over, as in a store that is filled at night. */
const isIdle = ({ window, rows }) => window.partial && rows.every((row) => !row.partial || row.value === 0);

/** The same for the days that are over. */
async function compareClosed({ state, scope }, { window, ts }, signal) {
  const { because, text, closed } = OVERVIEW.usage;
  const span = closedDays(window, ts, state.period);
  if (!span) return { because: because.running };
  const { period: _, from: __, to: ___, days: ____, end: _____, ...rest } = scope;
  const read = ({ days, end }) => query({ ...eventsAndUsers(rest, 'day'), compare: null, days, end }, signal, DATED);
  try {
    const [now, before] = await Promise.all([read(span.now), read(span.before)]);
    if (before.covered_from > before.window.from) return { because: because.expired };
    const pair = { now: figuresOf(now), before: figuresOf(before) };
    if (pair.before.events === 0) return { because: because.nothing };
    const spans = [span.now, span.before].map(({ from, end }) => range(from, end));
    return { pair, text: text(...spans), note: closed(...spans) };
  } catch (error) {
    // A share link has only the queries of its report.
    if (signal.aborted || error.status === 0) throw error;
    return { because: because.expired };
  }
}

/** Users per week: the average of the complete weeks of the window, and of as many before. */
function compareWeeks({ state, firstDay }, weeks) {
  const whole = weeks.filter(
    ([events, users]) =>
      !events.partial && users.previous !== null && isSeen({ from: events.previous_period }, firstDay, state.tz),
  );
  const mean = (key) => whole.reduce((sum, [, users]) => sum + users[key], 0) / whole.length;
  if (!whole.length || !mean('previous')) return null;
  const [[first], [last]] = [whole[0], whole.at(-1)];
  const weeksOf = (key) => range(first[key], addDays(last[key], LAST_OF_WEEK));
  return {
    now: mean('value'),
    before: mean('previous'),
    text: OVERVIEW.usage.weeks(whole.length, weeksOf('period'), weeksOf('previous_period')),
  };
}

function usageCard({ compared, write, trend, ...figure }) {
  return card({
    ...figure,
    text: write(figure.value),
    difference: compared ? relative(compared.now, compared.before) : null,
    explained: compared && OVERVIEW.usage.difference(write(compared.now), write(compared.before), compared.text),
    spoken: OVERVIEW.usage.before,
    picture: trend?.length > 1 && spark(trend),
  });
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

const LINES = ['mau', 'wau', 'dau'].map((name) => [name, OVERVIEW.overTime.lines[name]]);

async function askOverTime(scope, grain, signal) {
  const body = activeUsers(scope, grain);
  const answer = await query(body, signal, FIRST);
  const texts = OVERVIEW.overTime;
  const { rows } = answer;
  const lines = grain === 'day' ? LINES : [['users', texts.lines[grain] ?? texts.lines.week]];
  const last = rows.at(-1);
  return {
    answer,
    rows,
    request: { path: 'query', body },
    isEmpty: !rows.some((row) => lines.some(([name]) => row[name] > 0)),
    notes: cutNotes(rows, grain, PANEL.drawn.dashed),
    label: texts.label({
      periods: rows.length,
      from: rows[0]?.period,
      to: last?.period,
      last: lines.map(([name, title]) => `${title}: ${last?.[name]}`).join(', '),
      incomplete: rows.filter((row) => row.partial).length,
    }),
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
              row.stickiness !== undefined && texts.stickiness(percent(row.stickiness)),
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
        // What has expired is a gap, not a zero.
        const isKnownRow = known(answer);
        const pick = ([from, to]) =>
          rows.map((row, at) => (at >= from && at <= to && isKnownRow(row) ? row[name] : null));
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

const colourOf = (look, name) => look.series[{ dau: 0, users: 0, wau: 1, mau: 2 }[name] ?? 0];

async function askTrend(scope, grain, signal) {
  const body = eventsAndUsers(scope, grain);
  const answer = await query(body, signal, FIRST);
  const own = { ...body, type: 'line' };
  // Of a new store nothing is known before; the numbers above say so.
  const isCompared = answer.rows.some(({ previous }) => previous !== null);
  const shown = isCompared ? answer : { ...answer, compared: undefined };
  const lines = linesOf(shown, own);
  return {
    answer,
    rows: answer.rows.map(({ breakdown: _, kind: __, ...row }) => row),
    request: { path: 'query', body },
    isEmpty: !answer.rows.some(({ value, previous }) => value || previous),
    notes: notesOf(shown, own),
    label: OVERVIEW.trend.label(lines.map(({ name, total }) => `${name}: ${count(total)}`).join(', ')),
    option: (look) => chart(look, { lines, answer: shown, grain, type: 'line' }),
  };
}

/** The filter with the condition that a property has a value. */
export function narrowed(filter, property, value) {
  const given = filter[property];
  const isObject = given !== null && typeof given === 'object' && !Array.isArray(given);
  return { ...filter, [property]: isObject ? { all: [...(given.all ?? [given]), value] } : value };
}

async function askFeatures(context, signal) {
  const { state, scope, firstDay, href } = context;
  const body = { metric: 'feature_usage', limit: TOP, ...scope };
  const overTime = { metric: 'trends', breakdown: 'feature', limit: TOP, compare: 'previous', ...scope };
  const [answer, trends] = await Promise.all([
    query(body, signal, REST),
    // The list is there also where this is not.
    query(overTime, signal, REST).catch((error) => {
      if (signal.aborted) throw error;
    }),
  ]);
  const { rows } = answer;
  const { of, isComparable } = changesOf(trends, (days) => isSeen(days, firstDay, state.tz));
  const most = Math.max(...rows.map((row) => row.events), 1);
  const found = rows.map((row) => ({ ...row, change: of.get(row.feature)?.change ?? null }));
  const hasTrends = [...of.values()].some(({ trend }) => trend.length > 1);
  const line = (row) => {
    const fill = h('i', { class: 'meter' });
    fill.style.width = `${(row.events / most) * 100}%`;
    const { trend = [], before } = of.get(row.feature) ?? {};
    const name = named(row.feature);
    return h(
      'li',
      { 'data-feature-events': row.events },
      h(
        'div',
        { class: 'rank-name' },
        href
          ? h('a', { class: 'rank-link', href: href({ filter: narrowed(state.filter, 'feature', row.feature) }) }, name)
          : name,
        h('small', { text: OVERVIEW.features.users(count(row.users)) }),
      ),
      h('div', { class: 'rank-bar' }, fill),
      trend.length > 1 ? spark(trend) : h('span'),
      h('strong', { class: 'rank-number', text: count(row.events) }),
      row.change === null
        ? h('span', { class: 'delta flat', text: isComparable && before === 0 ? OVERVIEW.features.isNew : '' })
        : h('span', {
            class: `delta ${row.change > 0 ? 'up' : row.change < 0 ? 'down' : 'flat'}`,
            text: change(row.change),
          }),
    );
  };
  return {
    answer,
    rows: found,
    // The server's file has no change.
    isOwnCsv: true,
    request: { path: 'query', body },
    isEmpty: rows.length === 0,
    element: () => h('ol', { class: `rank${hasTrends ? ' with-trend' : ''}` }, found.map(line)),
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

/**
 * From events by day and feature, for each feature: its `change` against the days `before`, of a running day only the same
 * hours, and its `trend` over the days that are over.
 */
function changesOf(trends, isSeenDays) {
  const of = new Map();
  if (!trends) return { of, isComparable: false };
  const { rows, totals, window, compared, covered_from: from } = trends;
  const isKnown = compared.known_from && compared.known_from <= compared.from && isSeenDays(compared);
  const isComparable = isKnown && rows.some(({ previous }) => previous > 0);
  const days = Map.groupBy(
    rows.filter((row) => row.kind === 'value' && !row.partial),
    (row) => row.breakdown,
  );
  for (const { breakdown, kind, value, previous } of totals) {
    if (kind !== 'value') continue;
    const closed = days.get(breakdown) ?? [];
    const sum = (key) => closed.reduce((all, row) => all + row[key], 0);
    const isOfClosed = previous === null || isIdle(trends);
    const [now, before] = isOfClosed ? [sum('value'), sum('previous')] : [value, previous];
    of.set(breakdown, {
      before,
      change: isComparable ? relative(now, before) : null,
      trend: from <= window.from ? parts(closed.map((row) => row.value)) : [],
    });
  }
  return { of, isComparable };
}

const typeTitle = (type) => OVERVIEW.types.names[type] ?? plain(type);

async function askTypes(context, signal) {
  const { state, scope, go } = context;
  const texts = OVERVIEW.types;
  const body = { metric: 'event_types', ...scope };
  const answer = await query(body, signal, REST);
  const { rows } = answer;
  const total = rows.reduce((sum, row) => sum + row.events, 0);
  context.onFound?.({ conversions: rows.find((row) => row.event_type === 'conversion')?.events ?? 0 });
  return {
    answer,
    rows,
    request: { path: 'query', body },
    isEmpty: total === 0,
    label: rows.map((row) => texts.label(typeTitle(row.event_type), row.events, row.users)).join('; '),
    onclick:
      go && (({ dataIndex }) => go({ filter: narrowed(state.filter, 'event_type', rows[dataIndex].event_type) })),
    option: (look) => ({
      legend: { data: ['events', 'users'], formatter: (name) => texts.legend[name] },
      grid: { top: 44, right: 12 },
      tooltip: {
        trigger: 'axis',
        axisPointer: { type: 'shadow' },
        formatter: ([{ dataIndex }]) => {
          const row = rows[dataIndex];
          return tip(typeTitle(row.event_type), [
            [texts.events, count(row.events), look.series[0]],
            [texts.users, count(row.users), look.series[3]],
            [texts.share, percent(row.events / total)],
          ]);
        },
      },
      xAxis: {
        type: 'category',
        data: rows.map((row) => short(typeTitle(row.event_type), 18)),
        axisLabel: { interval: 0, color: look.ink },
      },
      // Events are many times more than users, which would be invisible on the same axis.
      yAxis: [
        { type: 'value', minInterval: 1, axisLabel: { formatter: brief } },
        { type: 'value', minInterval: 1, axisLabel: { formatter: brief }, splitLine: { show: false } },
      ],
      series: [
        ['events', 0],
        ['users', 3],
      ].map(([name, colour], axis) => ({
        name,
        yAxisIndex: axis,
        type: 'bar',
        barMaxWidth: 46,
        barGap: '12%',
        data: rows.map((row) => row[name]),
        itemStyle: { color: look.series[colour], borderRadius: [4, 4, 0, 0] },
        label: { show: true, position: 'top', color: look.muted, fontSize: 11, formatter: ({ value }) => brief(value) },
      })),
    }),
  };
}

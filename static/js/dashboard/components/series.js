// Lines, bars and numbers of rows by series, period and group: the metric `trends`.

import { relative } from '../compare.js';
import { describeFilter } from '../conditions.js';
import { h, named, plain, short } from '../dom.js';
import { brief, change, isDay, longDay, period, range, shortDay } from '../format.js';
import { marks, tip } from '../panel.js';
import { written } from '../table.js';
import { PANEL, SERIES, TRENDS } from '../texts.js';

/** Measures with a title; `of` marks those of a number in the metadata, and `adds` those whose groups add up. */
export const MEASURES = new Map(
  Object.entries({
    events: { adds: true },
    users: {},
    events_per_user: {},
    sessions: { adds: true },
    sum: { of: true, adds: true },
    mean: { of: true },
    median: { of: true },
    min: { of: true },
    max: { of: true },
    p90: { of: true },
    p95: { of: true },
    p99: { of: true },
  }).map(([name, kind]) => [name, { ...kind, title: SERIES.measures[name] }]),
);
const WHOLE = new Set(['events', 'users', 'sessions']);
/** Groups in a tip, the greatest first. */
const IN_TIP = 12;
/** A series with values this many times smaller than those of another has its own axis. */
const AXIS_RATIO = 20;

export const letterOf = (place) => String.fromCharCode(65 + place);

/** A series in words. */
export function seriesName({ name, measure, of, filter }) {
  if (name) return plain(name);
  const { title } = MEASURES.get(measure) ?? { title: measure };
  const what = of ? SERIES.of(title, of.replace(/^metadata\./, '')) : title;
  return plain(Object.keys(filter ?? {}).length ? SERIES.filtered(what, describeFilter(filter)) : what);
}

/** The name of a group of a breakdown. */
export function groupName({ kind, breakdown }) {
  if (kind === 'missing') return SERIES.missing;
  if (kind === 'rest') return SERIES.rest;
  return breakdown === '' ? SERIES.empty : plain(typeof breakdown === 'object' ? JSON.stringify(breakdown) : breakdown);
}

/** Formats a period: its first day, or for an hour also the time in the zone. */
export function periodName(text, grain) {
  if (isDay(text)) return grain === 'day' ? longDay(text) : period(text, grain);
  return `${shortDay(text.slice(0, 10))}, ${text.slice(11, 16)}`;
}

/** The same for an axis. */
const tick = (text, grain) =>
  isDay(text)
    ? period(text, grain === 'month' ? grain : 'day')
    : `${text.slice(11, 16)}\n${shortDay(text.slice(0, 10))}`;

export const write = (value) => written('value', value);

/** The lines of a result: one for each series, or for each group of a breakdown. */
export function linesOf({ rows, totals }, { series, breakdown, formula }) {
  const key = (row) => JSON.stringify([row.series, row.kind, row.breakdown]);
  const found = new Map();
  for (const row of rows) {
    if (!found.has(key(row))) found.set(key(row), []);
    found.get(key(row)).push(row);
  }
  const total = new Map(totals.map((row) => [key(row), row]));
  return [...found].map(([id, ofLine], place) => {
    const [first] = ofLine;
    const given = series[first.series.charCodeAt(0) - 65];
    const title = first.series === 'formula' ? plain(formula) : seriesName(given ?? { measure: first.series });
    const group = breakdown ? groupName(first) : null;
    const isOnly = new Set(rows.map((row) => row.series)).size === 1;
    return {
      // The chart library uses names as keys, so they are not names from events.
      id: `line ${place}`,
      letter: first.series,
      name: group === null ? title : isOnly ? group : `${title} · ${group}`,
      group,
      kind: first.kind,
      measure: first.series === 'formula' ? 'formula' : given?.measure,
      rows: ofLine,
      total: total.get(id)?.value ?? null,
      previous: total.get(id)?.previous ?? null,
    };
  });
}

/** Ranges of the complete rows, and of the incomplete ones before and after, each up to the adjacent complete row. */
export function completeAndCut(rows) {
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

/** The letters of the series that are drawn on the right axis, because they would be invisible on the left one. */
function rightAxis(lines) {
  const most = new Map();
  for (const { letter, rows } of lines) {
    const top = rows.reduce((greatest, { value }) => Math.max(greatest, Math.abs(value ?? 0)), 0);
    most.set(letter, Math.max(most.get(letter) ?? 0, top));
  }
  const top = Math.max(...most.values());
  return new Set([...most].filter(([, value]) => value > 0 && value * AXIS_RATIO < top).map(([letter]) => letter));
}

const colourOf = (look, line, place) =>
  line.kind === 'rest' || line.kind === 'missing' ? look.series[7] : look.series[place % 7];

/** The chart of lines over time, as `type`: `line`, `bar` or `stacked`. */
export function chart(look, { lines, answer, grain, type }) {
  const periods = lines[0].rows.map((row) => row.period);
  const right = type === 'stacked' ? new Set() : rightAxis(lines);
  const isWhole = (isRight) =>
    lines.every((line) => right.has(line.letter) !== isRight || WHOLE.has(line.measure)) ? 1 : undefined;
  const hasBefore = answer.compared && type !== 'stacked';
  const label = new Map(
    lines.map((line) => [line.id, `${short(line.name, 34)}${right.has(line.letter) ? SERIES.right : ''}`]),
  );
  const axis = (isRight) => ({
    type: 'value',
    minInterval: isWhole(isRight),
    axisLabel: { formatter: brief },
    splitLine: isRight ? { show: false } : undefined,
  });
  const draw = type === 'line' ? asLine : asBar;
  return {
    legend: {
      data: lines.map(({ id }) => id),
      formatter: (id) => label.get(id),
      show: lines.length > 1 || lines[0].group !== null,
    },
    grid: { top: lines.length > 1 || lines[0].group !== null ? 44 : 16, right: 16 },
    tooltip: {
      trigger: 'axis',
      axisPointer: { type: type === 'line' ? 'line' : 'shadow' },
      formatter: (points) => tipOf(look, { lines, answer, grain, hasBefore }, points[0].dataIndex),
    },
    xAxis: {
      type: 'category',
      boundaryGap: type !== 'line',
      data: periods,
      axisLabel: { formatter: (text) => tick(text, grain) },
    },
    yAxis: right.size ? [axis(false), axis(true)] : axis(false),
    series: lines.flatMap((line, place) => {
      const colour = colourOf(look, line, place);
      const style = { name: line.id, yAxisIndex: right.has(line.letter) ? 1 : 0, itemStyle: { color: colour } };
      const drawn = draw(line, { style, colour, type, hasBefore, isFirst: place === 0 });
      if (place === 0) Object.assign(drawn[0], marks(line.rows, answer, look));
      return drawn;
    }),
  };
}

function asLine({ rows, id }, { style, colour, hasBefore, isFirst }) {
  const { complete, cut } = completeAndCut(rows);
  const pick = ([from, to]) => rows.map((row, at) => (at >= from && at <= to ? row.value : null));
  const base = { ...style, type: 'line', symbolSize: 5 };
  const isAlone = (at) => rows[at - 1]?.value == null && rows[at + 1]?.value == null;
  return [
    {
      ...base,
      data: pick(complete),
      showSymbol: true,
      symbolSize: (_, { dataIndex }) => (isAlone(dataIndex) ? 5 : 0),
      lineStyle: { width: 2, color: colour },
      areaStyle: isFirst ? { color: colour, opacity: 0.07 } : undefined,
    },
    // Incomplete periods are not part of the line: they are dashed, with hollow points.
    ...cut.map((part) => ({
      ...base,
      data: pick(part),
      showSymbol: true,
      symbol: 'emptyCircle',
      symbolSize: (_, { dataIndex }) => (rows[dataIndex].partial ? 6 : 0),
      lineStyle: { width: 1.8, color: colour, type: [4, 4] },
    })),
    ...(hasBefore
      ? [
          {
            ...base,
            name: `${id} before`,
            data: rows.map((row) => row.previous),
            showSymbol: false,
            silent: true,
            lineStyle: { width: 1.4, color: colour, type: [2, 4], opacity: 0.75 },
          },
        ]
      : []),
  ];
}

function asBar({ rows, letter, id }, { style, colour, type, hasBefore }) {
  const base = {
    ...style,
    type: 'bar',
    barCategoryGap: '24%',
    barMaxWidth: 56,
    ...(type === 'stacked' && { stack: letter }),
  };
  return [
    {
      ...base,
      data: rows.map((row) => ({
        value: row.value,
        itemStyle: row.partial
          ? { color: colour, opacity: 0.45, borderColor: colour, borderType: 'dashed', borderWidth: 1 }
          : undefined,
      })),
    },
    ...(hasBefore
      ? [
          {
            ...base,
            name: `${id} before`,
            silent: true,
            data: rows.map((row) => row.previous),
            itemStyle: { color: colour, opacity: 0.22 },
          },
        ]
      : []),
  ];
}

function tipOf(look, { lines, answer, grain, hasBefore }, at) {
  const isBefore = Boolean(answer.compared);
  const pairs = lines
    .map((line, place) => ({ line, row: line.rows[at], colour: colourOf(look, line, place) }))
    .sort((a, b) => (b.row?.value ?? -Infinity) - (a.row?.value ?? -Infinity));
  const { period: first, previous_period: before, partial } = pairs[0]?.row ?? {};
  const foot = [
    pairs.length > IN_TIP && SERIES.more(pairs.length - IN_TIP),
    isBefore && before && SERIES.before(periodName(before, grain), hasBefore),
    partial && incomplete(first, answer),
  ];
  return tip(
    periodName(first, grain),
    pairs
      .slice(0, IN_TIP)
      .map(({ line, row, colour }) => [
        line.name,
        isBefore ? `${write(row?.value)} (${write(row?.previous)})` : write(row?.value),
        colour,
      ]),
    foot.filter(Boolean).join(' · '),
  );
}

/** The reason why a period is incomplete. */
function incomplete(first, { window }) {
  if (isDay(first) && first < window.from) return PANEL.begins(shortDay(window.from));
  return window.partial ? PANEL.notOver : PANEL.ends(shortDay(window.to));
}

/** The totals of the window as large numbers, with the change against the window before. */
export function numbers(lines, { compared, window }) {
  return h(
    'div',
    { class: 'cards' },
    lines.map((line) => {
      const difference =
        compared && line.total !== null && line.previous !== null ? relative(line.total, line.previous) : null;
      const direction = difference > 0.0005 ? 'up' : difference < -0.0005 ? 'down' : 'flat';
      return h(
        'div',
        { class: 'card', 'data-line': line.id },
        h('h3', {}, named(line.name)),
        h(
          'div',
          { class: 'card-row' },
          h('strong', { class: 'figure-number', 'data-value': line.total, text: write(line.total) }),
          difference !== null &&
            h(
              'span',
              { class: `delta ${direction}`, 'data-delta': difference },
              h('span', { 'aria-hidden': 'true', text: { up: '▲ ', down: '▼ ', flat: '' }[direction] }),
              change(difference),
            ),
        ),
        h('p', {
          class: 'hint',
          text: compared
            ? line.previous === null
              ? SERIES.unknown
              : SERIES.was(write(line.previous))
            : range(window.from, window.to),
        }),
      );
    }),
  );
}

/** The totals as the rows of a table. */
export const totalRows = (lines, { compared }) =>
  lines.map(({ name, total, previous }) => ({
    name,
    value: total,
    ...(compared && {
      previous,
      change: total !== null && previous !== null ? relative(total, previous) : null,
    }),
  }));

/** Notes about the comparison and the incomplete periods. */
export function notesOf({ compared, rows, window }, { grain, type, series = [] }) {
  const notes = [];
  if (compared) {
    const { from, to, known_from: known } = compared;
    notes.push(['soft', SERIES.compared(range(from, to), type === 'line'), 'compared']);
    if (known && known > from)
      notes.push([
        'warn',
        known > to ? SERIES.notKnown(longDay(known.slice(0, 10))) : SERIES.partly(longDay(known.slice(0, 10))),
        'known',
      ]);
  }
  // Its counts are never null but for this reason: their hours come from events.
  const running = grain !== 'hour' && window.partial && rows.findLast((row) => row.partial && row.previous === null);
  const isCount = running && ['events', 'users'].includes(series[running.series.charCodeAt(0) - 65]?.measure);
  if (compared && isCount && !(compared.known_from > compared.from)) notes.push(['soft', TRENDS.running, 'running']);
  const cut = [...new Set(rows.filter((row) => row.partial).map((row) => row.period))];
  if (cut.length && grain !== 'hour' && type !== 'number' && type !== 'table')
    notes.push([
      'soft',
      PANEL.cut(
        type === 'line' ? PANEL.drawn.dashed : PANEL.drawn.pale,
        cut.map((first) => period(first, grain)).join(', '),
      ),
      'cut',
    ]);
  return notes;
}

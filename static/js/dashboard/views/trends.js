// Trends: the numbers of any event over time, by group, and against the window before.
import { query } from '../api.js';
import {
  chart,
  letterOf,
  linesOf,
  MEASURES,
  notesOf,
  numbers,
  seriesName,
  totalRows,
  write,
} from '../components/series.js';
import { breakdownEditor, eventEditor } from '../conditions.js';
import { field, h, icon, plain, segments, select } from '../dom.js';
import { form } from '../panel.js';
import { grainFor } from '../state.js';
import { table } from '../table.js';
import { TRENDS } from '../texts.js';
import { suggestingInput } from '../values.js';

/** Limit of the series of a query. */
const MOST_SERIES = 10;
/** Days up to which hours are readable. */
const HOURS = 3;

const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);

/** The settings of the view, from an address that may hold anything. */
function settings({ own, days }) {
  const given = (Array.isArray(own.series) ? own.series : []).filter(isObject).slice(0, MOST_SERIES);
  const series = (given.length ? given : [{}]).map(({ name, measure, of, filter }) => ({
    ...(name && { name: String(name) }),
    measure: MEASURES.has(measure) ? measure : 'events',
    ...(of && { of: String(of) }),
    filter: isObject(filter) ? filter : {},
  }));
  const known = (options, value, otherwise) => (options.some(([option]) => option === value) ? value : otherwise);
  const small = days <= HOURS ? 'hour' : grainFor(days, 120);
  return {
    series,
    grain: known(TRENDS.grains, own.grain, small),
    type: known(TRENDS.types, own.type, 'line'),
    compare: known(TRENDS.comparisons, own.compare, ''),
    breakdown: own.breakdown ? String(own.breakdown) : null,
    limit: Number.isInteger(own.limit) ? own.limit : null,
    rolling: Number.isInteger(own.rolling) ? own.rolling : null,
    formula: own.formula ? String(own.formula) : '',
  };
}

const question = (scope, own) => ({
  metric: 'trends',
  series: own.series.map(({ filter, ...series }) => ({ ...series, ...(Object.keys(filter).length && { filter }) })),
  grain: own.grain,
  ...(own.breakdown && { breakdown: own.breakdown, ...(own.limit && { limit: own.limit }) }),
  ...(own.compare && { compare: own.compare }),
  ...(own.rolling && { rolling: own.rolling }),
  ...(own.formula && { formula: own.formula }),
  ...scope,
});

export function trends(context) {
  const { state, scope, panel } = context;
  const own = settings(state);
  const set = (patch) =>
    context.own(Object.fromEntries(Object.entries({ ...state.own, ...patch }).filter(([, value]) => value)));
  const shown = panel({
    title: TRENDS.title,
    name: 'trends',
    height: 400,
    tall: true,
    isAboutUsers: own.series.every(({ measure }) => !['events', 'sum'].includes(measure)),
    controls: [
      select(TRENDS.types, own.type, (type) => set({ type }), { 'aria-label': TRENDS.type }),
      segments(TRENDS.grain, TRENDS.grains, own.grain, (grain) => set({ grain })),
    ],
    ask: (signal) => ask(scope, own, signal),
  });
  return {
    title: TRENDS.title,
    lead: TRENDS.lead,
    element: h('div', { class: 'grid builder' }, builder(own, set), shown.element),
    panels: [shown],
  };
}

function builder(own, set) {
  const { series } = own;
  const replace = (place, patch) => {
    const next = series.map((one, at) => (at === place ? clean({ ...one, ...patch }) : one));
    set({ series: next });
  };
  const summary = series.length === 1 ? seriesName(series[0]) : TRENDS.count(series.length);
  return form(
    TRENDS.series,
    summary,
    h(
      'ol',
      { class: 'steps' },
      series.map((one, place) => seriesEditor(one, place, series, replace, set)),
    ),
    series.length < MOST_SERIES &&
      h(
        'button',
        {
          type: 'button',
          class: 'link',
          onclick: () => set({ series: [...series, { measure: 'events', filter: {} }] }),
        },
        icon('plus'),
        TRENDS.add,
      ),
    h(
      'div',
      { class: 'fields' },
      breakdownEditor(own.breakdown, (breakdown) => set({ breakdown })),
      own.breakdown &&
        field(
          TRENDS.groups,
          select(TRENDS.limits, own.limit ?? '', (limit) => set({ limit: Number(limit) })),
          TRENDS.groupsHint,
        ),
      field(
        TRENDS.compare,
        select(TRENDS.comparisons, own.compare, (compare) => set({ compare })),
      ),
      field(
        TRENDS.rolling,
        h('input', {
          type: 'number',
          min: 2,
          max: 90,
          value: own.rolling ?? '',
          placeholder: TRENDS.notRolling,
          onchange: ({ target }) => set({ rolling: Number(target.value) }),
        }),
        TRENDS.rollingHint,
      ),
      field(
        TRENDS.formula,
        h('input', {
          type: 'text',
          value: own.formula,
          placeholder: TRENDS.formulaExample,
          autocomplete: 'off',
          spellcheck: 'false',
          onchange: ({ target }) => set({ formula: target.value.trim() }),
        }),
        TRENDS.formulaHint,
      ),
    ),
  );
}

const clean = ({ name, measure, of, filter }) => ({
  ...(name && { name }),
  measure,
  ...(of && MEASURES.get(measure).of && { of }),
  filter,
});

function seriesEditor(one, place, series, replace, set) {
  const letter = letterOf(place);
  const label = TRENDS.one(letter);
  const isOfNumber = MEASURES.get(one.measure).of;
  const choose = (key) => replace(place, { of: key && `metadata.${key.replace(/^metadata\./, '')}` });
  const number = suggestingInput({
    property: () => 'metadata',
    accepts: ({ kind }) => kind === 'number' || kind === 'mixed',
    value: one.of?.replace(/^metadata\./, '') ?? '',
    'aria-label': TRENDS.of(label, TRENDS.number),
    placeholder: TRENDS.number,
    maxlength: 200,
    onchange: ({ target }) => choose(target.value.trim()),
  });
  return h(
    'li',
    { class: 'step' },
    h('span', { class: 'step-number', text: letter }),
    h(
      'div',
      { class: 'event-editor' },
      select(
        [...MEASURES].map(([measure, { title }]) => [measure, title]),
        one.measure,
        (measure) => replace(place, { measure }),
        { 'aria-label': TRENDS.of(label, TRENDS.measure) },
      ),
      isOfNumber && [number.input, number.list],
      eventEditor(label, one.filter, (filter) => replace(place, { filter })),
      h('input', {
        type: 'text',
        value: one.name ?? '',
        maxlength: 100,
        autocomplete: 'off',
        placeholder: TRENDS.optional,
        'aria-label': TRENDS.of(label, TRENDS.name),
        onchange: ({ target }) => replace(place, { name: target.value.trim() }),
      }),
    ),
    h(
      'div',
      { class: 'step-tools' },
      series.length < MOST_SERIES &&
        h(
          'button',
          {
            type: 'button',
            class: 'tool',
            'aria-label': TRENDS.duplicate(letter),
            onclick: () => set({ series: series.toSpliced(place + 1, 0, one) }),
          },
          icon('copy'),
        ),
      series.length > 1 &&
        h(
          'button',
          {
            type: 'button',
            class: 'tool',
            'aria-label': TRENDS.remove(letter),
            onclick: () => set({ series: series.toSpliced(place, 1) }),
          },
          icon('close'),
        ),
    ),
  );
}

async function ask(scope, own, signal) {
  const unset = own.series.findIndex(({ measure, of }) => MEASURES.get(measure).of && !of);
  if (unset >= 0)
    return {
      isEmpty: true,
      empty: {
        title: TRENDS.choose,
        text: TRENDS.chooseHint(MEASURES.get(own.series[unset].measure).title, letterOf(unset)),
      },
    };
  const body = question(scope, own);
  const answer = await query(body, signal);
  const { rows } = answer;
  const lines = linesOf(answer, own);
  const { type, grain } = own;
  const found = {
    answer,
    rows: rows.map(({ breakdown, kind, previous, previous_period: before, ...row }) => ({
      ...row,
      ...(own.breakdown && { breakdown, kind }),
      ...(own.compare && { previous, previous_period: before }),
    })),
    request: { path: 'query', body },
    isEmpty: !rows.some(({ value, previous }) => value || previous),
    notes: [...notesOf(answer, own), ...stackNotes(own)],
    label: lines
      .slice(0, 8)
      .map(({ name, total }) => TRENDS.total(plain(name), write(total)))
      .join(', '),
  };
  if (type === 'number') return { ...found, element: () => numbers(lines, answer) };
  if (type === 'table') return { ...found, element: () => table(totalRows(lines, answer), TRENDS.totals) };
  return { ...found, option: (look) => chart(look, { lines, answer, grain, type }) };
}

/** Stacked groups of distinct users are more than all users. */
const stackNotes = ({ type, breakdown, series }) =>
  type === 'stacked' && breakdown && series.some(({ measure }) => !MEASURES.get(measure).adds)
    ? [['warn', TRENDS.stack, 'stack']]
    : [];

// Funnel: how many users complete a sequence of steps, how fast, and in which groups.
import { query } from '../api.js';
import { breakdownEditor, describeFilter, eventEditor, featureInput, knownFeatures } from '../conditions.js';
import { field, h, icon, named, plain, segments, select, short } from '../dom.js';
import { count, duration, percent } from '../format.js';
import { form, tip } from '../panel.js';

const UNITS = [
  ['m', 'minutes'],
  ['h', 'hours'],
  ['d', 'days'],
  ['w', 'weeks'],
];
const ORDERS = [
  ['ordered', 'In this order'],
  ['strict', 'In this order, nothing between'],
  ['any', 'In any order'],
];
const MOST_STEPS = 20;
/** Limit of the drawn groups; the table has all. */
const MOST_GROUPS = 6;

export function funnel(context) {
  const { state, scope, panel } = context;
  const own = { steps: null, within: '14d', order: 'ordered', exclude: [], breakdown: null, ...state.own };
  const steps = own.steps ?? [];
  const set = (patch) => context.own({ ...state.own, ...patch });
  const isReady = steps.length >= 2 && steps.every((step) => Object.keys(step).length > 0);
  const chart = panel({
    title: 'Conversion',
    name: 'funnel',
    isAboutUsers: true,
    height: 380,
    tall: true,
    controls: own.breakdown
      ? null
      : segments(
          'Times',
          [
            ['first', 'From step 1'],
            ['previous', 'From the previous step'],
          ],
          own.times ?? 'first',
          (times) => set({ times }),
        ),
    ask: (signal) => (isReady ? ask(scope, own, signal) : suggest(context, own, signal)),
  });
  return {
    title: 'Funnel',
    lead: 'How far do people get, and where do they stop?',
    element: h('div', { class: 'grid builder' }, builder(own, steps, set), chart.element),
    panels: [chart],
  };
}

/** Suggests steps if there are none: the two most used features, or event types, which every store has. */
async function suggest(context, own) {
  if (own.steps?.length) {
    return {
      rows: [],
      isEmpty: true,
      empty: {
        title: 'One more step',
        text: 'A funnel has at least two steps. Each is an event type, a feature, or both.',
      },
    };
  }
  const features = (await knownFeatures()).slice(0, 2);
  context.own(
    {
      ...context.state.own,
      steps:
        features.length === 2
          ? features.map((feature) => ({ feature }))
          : [{ event_type: 'page_view' }, { event_type: 'conversion' }],
    },
    'replace',
  );
  return { rows: [], isEmpty: true, empty: { title: 'Choosing steps', text: 'One moment.' } };
}

function builder(own, steps, set) {
  const change = (place, step) => set({ steps: steps.map((old, at) => (at === place ? step : old)) });
  const move = (place, to) => {
    const next = [...steps];
    next.splice(to, 0, ...next.splice(place, 1));
    set({ steps: next });
  };
  const row = (step, place) =>
    h(
      'li',
      { class: 'step' },
      h('span', { class: 'step-number', 'aria-hidden': 'true', text: place + 1 }),
      eventEditor(`Step ${place + 1}`, step, (next) => change(place, next)),
      h(
        'div',
        { class: 'step-tools' },
        h(
          'button',
          {
            type: 'button',
            class: 'tool',
            'aria-label': `Move step ${place + 1} up`,
            disabled: place === 0,
            onclick: () => move(place, place - 1),
          },
          icon('up'),
        ),
        h(
          'button',
          {
            type: 'button',
            class: 'tool',
            'aria-label': `Move step ${place + 1} down`,
            disabled: place === steps.length - 1,
            onclick: () => move(place, place + 1),
          },
          icon('down'),
        ),
        h(
          'button',
          {
            type: 'button',
            class: 'tool',
            'aria-label': `Remove step ${place + 1}`,
            disabled: steps.length <= 2,
            onclick: () => set({ steps: steps.filter((_, at) => at !== place) }),
          },
          icon('close'),
        ),
      ),
    );
  const [, length = '14', unit = 'd'] = /^(\d+)([smhdw])$/.exec(own.within) ?? [];
  const within = h('input', {
    type: 'number',
    min: 1,
    value: length,
    required: true,
    'aria-label': 'Conversion window',
    onchange: (event) => event.target.value && set({ within: `${event.target.value}${unit}` }),
  });
  const exclusion = own.exclude[0];
  const last = steps.length;
  const between = exclusion?.between ?? [1, last];
  const place = (at) =>
    select(
      steps.map((_, step) => [step + 1, `step ${step + 1}`]),
      between[at],
      (value) => {
        const next = at === 0 ? [Number(value), between[1]] : [between[0], Number(value)];
        if (next[0] < next[1]) set({ exclude: [{ ...exclusion, between: next }] });
      },
      { 'aria-label': at === 0 ? 'Exclusion begins after' : 'Exclusion ends before', disabled: own.order === 'any' },
    );
  return form(
    'Steps',
    `${steps.length} steps within ${length} ${UNITS.find(([short]) => short === unit)?.[1] ?? 'seconds'}`,
    h('ol', { class: 'steps' }, steps.map(row)),
    h(
      'button',
      {
        type: 'button',
        class: 'link',
        disabled: steps.length >= MOST_STEPS,
        onclick: () => set({ steps: [...steps, {}] }),
      },
      icon('plus'),
      'Add a step',
    ),
    h(
      'div',
      { class: 'fields' },
      h(
        'div',
        { class: 'field' },
        h('span', { class: 'label', text: 'Within' }),
        h(
          'div',
          { class: 'pair' },
          within,
          select(UNITS, unit, (next) => set({ within: `${length}${next}` }), {
            'aria-label': 'Unit of the conversion window',
          }),
        ),
      ),
      field(
        'Order',
        select(ORDERS, own.order, (order) =>
          set({ order, exclude: order === 'any' ? own.exclude.map(({ filter }) => ({ filter })) : own.exclude }),
        ),
      ),
      breakdownEditor(own.breakdown, (breakdown) => set({ breakdown })),
      h(
        'div',
        { class: 'field' },
        h('span', { class: 'label', text: 'Not if this happens between' }),
        featureInput(
          exclusion?.filter.feature,
          (feature) => set({ exclude: feature ? [{ ...exclusion, filter: { feature } }] : [] }),
          { 'aria-label': 'Excluded feature', placeholder: 'no exclusion' },
        ),
        exclusion && h('div', { class: 'pair' }, place(0), h('span', { 'aria-hidden': 'true', text: 'and' }), place(1)),
      ),
    ),
  );
}

async function ask(scope, own, signal) {
  const body = {
    metric: 'funnel',
    steps: own.steps,
    within: own.within,
    ...(own.order !== 'ordered' && { order: own.order }),
    ...(own.exclude.length && { exclude: own.exclude }),
    ...(own.breakdown && { breakdown: own.breakdown }),
    ...scope,
  };
  const answer = await query(body, signal);
  const { rows } = answer;
  const titles = own.steps.map((step) => plain(describeFilter(step).replace(/^feature is /, '')));
  const groups = own.breakdown ? [...new Set(rows.map((row) => row.breakdown))] : [undefined];
  const of = (group) => rows.filter((row) => row.breakdown === group || !own.breakdown);
  const groupName = (group) => (group === null ? '(none)' : group === '__other__' ? 'all others' : plain(group));
  const total = own.breakdown ? null : rows;
  const drawn = groups.slice(0, MOST_GROUPS);
  const ends = own.breakdown ? null : rows.at(-1);
  // On a narrow screen the list below has the names.
  const isNarrow = innerWidth < 620 && !own.breakdown;
  const times = own.times === 'previous' ? 'seconds_from_previous' : 'seconds_from_first';
  return {
    answer,
    rows,
    request: { path: 'query', body },
    isEmpty: !rows.some((row) => row.users > 0),
    empty: { title: 'No user entered', text: 'No known user did step 1 in these days. Anonymous events do not count.' },
    notes: answer.exclusion_rule ? [['soft', `Exclusion: ${answer.exclusion_rule}.`, 'exclusion']] : [],
    label: total
      ? total
          .map(
            (row, place) =>
              `Step ${row.step}, ${titles[place]}: ${row.users} users, ${percent(row.conversion_from_first)}`,
          )
          .join('. ')
      : `${groups.length} groups.`,
    above:
      ends &&
      h(
        'div',
        { class: 'figures' },
        fact('conversion', 'Conversion', percent(ends.conversion_from_first), ends.conversion_from_first),
        fact('entered', 'Entered', count(rows[0].users), rows[0].users),
        fact('completed', 'Completed', count(ends.users), ends.users),
        fact('median', 'Median time', duration(ends.seconds_from_first.median), ends.seconds_from_first.median),
        fact('p90', '90% within', duration(ends.seconds_from_first.p90), ends.seconds_from_first.p90),
      ),
    below: total && stepList(total, titles, times),
    height: own.breakdown ? 400 : 300,
    minWidth: own.steps.length * (isNarrow ? 56 : 100),
    option: (look) => ({
      legend: own.breakdown ? { data: drawn.map(groupName) } : undefined,
      grid: { top: own.breakdown ? 44 : 24 },
      tooltip: {
        trigger: 'item',
        formatter: ({ seriesIndex, dataIndex }) => {
          const group = drawn[own.breakdown ? seriesIndex : 0];
          const row = of(group)[dataIndex];
          return tip(`${row.step}. ${titles[dataIndex]}${own.breakdown ? ` · ${groupName(group)}` : ''}`, [
            ['Users', count(row.users)],
            ['Of step 1', percent(row.conversion_from_first)],
            ['Of the previous step', percent(row.conversion_from_previous)],
            ['Lost', count(row.drop_off)],
            ['Median from step 1', duration(row.seconds_from_first.median)],
            ['90% within', duration(row.seconds_from_first.p90)],
          ]);
        },
      },
      xAxis: {
        type: 'category',
        data: titles.map((_, place) => place),
        axisLabel: {
          interval: 0,
          hideOverlap: false,
          color: look.ink,
          width: 94,
          overflow: 'truncate',
          formatter: (place) => (isNarrow ? Number(place) + 1 : `${Number(place) + 1}. ${short(titles[place], 22)}`),
        },
      },
      yAxis: { type: 'value', min: 0, max: 1, interval: 0.25, axisLabel: { formatter: (share) => percent(share, 0) } },
      series: own.breakdown
        ? drawn.map((group, place) => ({
            name: groupName(group),
            type: 'bar',
            barMaxWidth: 36,
            itemStyle: { color: look.series[place], borderRadius: [4, 4, 0, 0] },
            data: of(group).map((row) => row.conversion_from_first),
            label: {
              show: drawn.length * own.steps.length <= 16,
              position: 'top',
              fontSize: 10,
              color: look.muted,
              formatter: ({ value }) => percent(value, 0),
            },
          }))
        : [
            {
              type: 'bar',
              stack: 'all',
              barCategoryGap: '28%',
              barMaxWidth: 150,
              itemStyle: { color: look.series[0], borderRadius: [4, 4, 0, 0] },
              data: rows.map((row) => row.conversion_from_first),
              label: {
                show: true,
                position: 'insideTop',
                color: look.accentInk,
                fontWeight: 600,
                lineHeight: 17,
                distance: 8,
                formatter: ({ dataIndex, value }) =>
                  value > 0.14 ? `${percent(value, isNarrow ? 0 : 1)}\n${count(rows[dataIndex].users)}` : '',
              },
            },
            {
              type: 'bar',
              stack: 'all',
              barMaxWidth: 150,
              itemStyle: {
                color: look.soft,
                borderRadius: [4, 4, 0, 0],
                decal: {
                  symbol: 'rect',
                  dashArrayX: [1, 0],
                  dashArrayY: [2, 5],
                  rotation: -Math.PI / 4,
                  color: look.line,
                },
              },
              data: rows.map((row) => 1 - row.conversion_from_first),
              label: {
                show: true,
                position: 'insideBottom',
                color: look.ink,
                formatter: ({ dataIndex }) => {
                  const row = rows[dataIndex];
                  return row.conversion_from_first <= 0.14
                    ? `${percent(row.conversion_from_first)} · ${count(row.users)}`
                    : '';
                },
              },
            },
          ],
      aria: { enabled: true, decal: { show: false } },
    }),
  };
}

const fact = (name, title, value, number) =>
  h(
    'div',
    { class: 'fact', 'data-fact': name, 'data-value': number },
    h('span', { text: title }),
    h('strong', { text: value }),
  );

/** The loss and the time of each step. */
function stepList(rows, titles, times) {
  return h(
    'ol',
    { class: 'step-list' },
    rows.map((row, place) =>
      h(
        'li',
        { 'data-step': row.step, 'data-users': row.users },
        h('div', { class: 'step-name' }, h('span', { class: 'step-number', text: row.step }), named(titles[place])),
        h('strong', { text: `${count(row.users)} users` }),
        row.step === 1
          ? h('span', { class: 'hint', text: 'entered' })
          : h('span', {
              class: row.drop_off ? 'lost' : 'hint',
              text: `${count(row.drop_off)} lost (${percent(1 - row.conversion_from_previous)})`,
            }),
        h('span', {
          class: 'hint',
          text:
            row.step === 1
              ? ''
              : `median ${duration(row[times].median)}, mean ${duration(row[times].mean)}, 90% within ${duration(row[times].p90)}`,
        }),
      ),
    ),
  );
}

// Funnel: how many users complete a sequence of steps, how fast, and in which groups.
import { isDemo, query } from '../api.js';
import { askCohort } from '../cohorts.js';
import { bothHold, breakdownEditor, eventEditor, featureInput, knownFeatures, stepName } from '../conditions.js';
import { field, h, icon, named, plain, segments, select, short } from '../dom.js';
import { count, counted, duration, percent } from '../format.js';
import { form, tip } from '../panel.js';
import { ABOUT, COHORT, FUNNEL } from '../texts.js';

const MOST_STEPS = 20;
/** Limit of the drawn groups; the table has all. */
const MOST_GROUPS = 6;

export function funnel(context) {
  const { state, panel } = context;
  const own = { steps: null, within: '14d', order: 'ordered', exclude: [], breakdown: null, ...state.own };
  const steps = own.steps ?? [];
  const set = (patch) => context.own({ ...state.own, ...patch });
  const isReady = steps.length >= 2 && steps.every((step) => Object.keys(step).length > 0);
  const chart = panel({
    title: FUNNEL.conversion,
    name: 'funnel',
    isAboutUsers: true,
    height: 380,
    tall: true,
    controls: own.breakdown
      ? null
      : segments(FUNNEL.times, FUNNEL.fromWhere, own.times ?? 'first', (times) => set({ times })),
    ask: (signal) => (isReady ? ask(context, own, signal) : suggest(context, own, signal)),
  });
  return {
    title: FUNNEL.title,
    lead: FUNNEL.lead,
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
      empty: FUNNEL.oneMore,
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
  return { rows: [], isEmpty: true, empty: FUNNEL.choosing };
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
      eventEditor(FUNNEL.step(place + 1), step, (next) => change(place, next)),
      h(
        'div',
        { class: 'step-tools' },
        h(
          'button',
          {
            type: 'button',
            class: 'tool',
            'aria-label': FUNNEL.up(place + 1),
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
            'aria-label': FUNNEL.down(place + 1),
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
            'aria-label': FUNNEL.remove(place + 1),
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
    'aria-label': FUNNEL.window,
    onchange: (event) => event.target.value && set({ within: `${event.target.value}${unit}` }),
  });
  const exclusion = own.exclude[0];
  const last = steps.length;
  const between = exclusion?.between ?? [1, last];
  const place = (at) =>
    select(
      steps.map((_, step) => [step + 1, FUNNEL.place(step + 1)]),
      between[at],
      (value) => {
        const next = at === 0 ? [Number(value), between[1]] : [between[0], Number(value)];
        if (next[0] < next[1]) set({ exclude: [{ ...exclusion, between: next }] });
      },
      { 'aria-label': at === 0 ? FUNNEL.after : FUNNEL.before, disabled: own.order === 'any' },
    );
  return form(
    FUNNEL.steps,
    FUNNEL.summary(steps.length, length, FUNNEL.units.find(([short]) => short === unit)?.[1] ?? FUNNEL.seconds),
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
      FUNNEL.add,
    ),
    h(
      'div',
      { class: 'fields' },
      h(
        'div',
        { class: 'field' },
        h('span', { class: 'label', text: FUNNEL.within }),
        h(
          'div',
          { class: 'pair' },
          within,
          select(FUNNEL.units, unit, (next) => set({ within: `${length}${next}` }), {
            'aria-label': FUNNEL.unit,
          }),
        ),
      ),
      field(
        FUNNEL.order,
        select(FUNNEL.orders, own.order, (order) =>
          set({ order, exclude: order === 'any' ? own.exclude.map(({ filter }) => ({ filter })) : own.exclude }),
        ),
      ),
      breakdownEditor(own.breakdown, (breakdown) => set({ breakdown })),
      h(
        'div',
        { class: 'field' },
        h('span', { class: 'label', text: FUNNEL.exclusion }),
        featureInput(
          exclusion?.filter.feature,
          (feature) => set({ exclude: feature ? [{ ...exclusion, filter: { feature } }] : [] }),
          { 'aria-label': FUNNEL.excluded, placeholder: FUNNEL.noExclusion },
        ),
        exclusion &&
          h('div', { class: 'pair' }, place(0), h('span', { 'aria-hidden': 'true', text: FUNNEL.and }), place(1)),
      ),
    ),
  );
}

/** The funnel of a cohort with the users of the view, which takes only events of its filter; `null` if there is none. */
function funnelOfView({ filter }, { steps, within, order, exclude }) {
  // Between two steps of a strict funnel there may be no event of the filter alone.
  if (order === 'strict' && Object.keys(filter).length) return null;
  const all = steps.map((step) => bothHold(step, filter));
  const excluded = exclude.map((one) => ({ ...one, filter: bothHold(one.filter, filter) }));
  if (all.includes(null) || excluded.some((one) => one.filter === null)) return null;
  return {
    steps: all,
    within,
    ...(order !== 'ordered' && { order }),
    ...(excluded.length && { exclude: excluded }),
  };
}

/** A function that saves the users who reached a step, or who stopped before it; `null` where nothing can be saved. */
function cohortSaver(context, own, titles, window) {
  const funnel = !isDemo && !context.isEmbedded && funnelOfView(context.state, own);
  if (!funnel) return null;
  const { from, to } = window;
  return ({ step, users, isLost }) => {
    const name = titles[step - 1];
    askCohort(context.state, {
      name: short(isLost ? COHORT.lostName(name) : COHORT.reachedName(name), 100),
      words: (isLost ? COHORT.lostWords : COHORT.reachedWords)(counted(users, 'user'), step, name),
      definition: { step: { funnel, reached: isLost ? step - 1 : step, ...(isLost && { not_reached: step }) } },
      window: { from, to },
    });
  };
}

async function ask(context, own, signal) {
  const { scope } = context;
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
  const titles = own.steps.map((step) => plain(stepName(step)));
  const groups = own.breakdown ? [...new Set(rows.map((row) => row.breakdown))] : [undefined];
  const of = (group) => rows.filter((row) => row.breakdown === group || !own.breakdown);
  const groupName = (group) => (group === null ? FUNNEL.none : group === '__other__' ? FUNNEL.others : plain(group));
  const total = own.breakdown ? null : rows;
  const drawn = groups.slice(0, MOST_GROUPS);
  const ends = own.breakdown ? null : rows.at(-1);
  // On a narrow screen the list below has the names.
  const isNarrow = innerWidth < 620 && !own.breakdown;
  const save = own.breakdown ? null : cohortSaver(context, own, titles, answer.window);
  const times = own.times === 'previous' ? 'seconds_from_previous' : 'seconds_from_first';
  return {
    answer,
    rows,
    request: { path: 'query', body },
    about: [
      ABOUT.steps(titles.map((title, place) => `${place + 1}. ${title}`).join(' → ')),
      FUNNEL.about(own.within, FUNNEL.orders.find(([order]) => order === own.order)?.[1].toLowerCase() ?? own.order),
    ],
    isEmpty: !rows.some((row) => row.users > 0),
    empty: FUNNEL.noUser,
    notes: answer.exclusion_rule ? [['soft', FUNNEL.rule(answer.exclusion_rule), 'exclusion']] : [],
    label: total
      ? total
          .map((row, place) => FUNNEL.label(row.step, titles[place], row.users, percent(row.conversion_from_first)))
          .join('. ')
      : FUNNEL.groupsLabel(groups.length),
    above:
      ends &&
      h(
        'div',
        { class: 'figures' },
        fact('conversion', FUNNEL.conversion, percent(ends.conversion_from_first), ends.conversion_from_first),
        fact('entered', FUNNEL.entered, count(rows[0].users), rows[0].users),
        fact('completed', FUNNEL.completed, count(ends.users), ends.users),
        fact('median', FUNNEL.median, duration(ends.seconds_from_first.median), ends.seconds_from_first.median),
        fact('p90', FUNNEL.p90, duration(ends.seconds_from_first.p90), ends.seconds_from_first.p90),
      ),
    below: total ? stepList(total, titles, times, save) : groupTable(groups, of, groupName, titles),
    height: own.breakdown ? 400 : 300,
    minWidth: own.steps.length * (isNarrow ? 56 : 100),
    // The upper part of a bar are those who stopped before the step.
    onclick:
      save &&
      (({ seriesIndex, dataIndex }) => {
        const row = rows[dataIndex];
        const isLost = seriesIndex > 0 && row.step > 1;
        save({ step: row.step, users: isLost ? row.drop_off : row.users, isLost });
      }),
    option: (look) => ({
      legend: own.breakdown ? { data: drawn.map(groupName), formatter: (name) => short(name, 24) } : undefined,
      grid: { top: own.breakdown ? 44 : 24 },
      tooltip: {
        trigger: 'item',
        formatter: ({ seriesIndex, dataIndex }) => {
          const group = drawn[own.breakdown ? seriesIndex : 0];
          const row = of(group)[dataIndex];
          return tip(`${row.step}. ${titles[dataIndex]}${own.breakdown ? ` · ${groupName(group)}` : ''}`, [
            [FUNNEL.users, count(row.users)],
            [FUNNEL.ofFirst, percent(row.conversion_from_first)],
            [FUNNEL.ofPrevious, percent(row.conversion_from_previous)],
            [FUNNEL.lost, count(row.drop_off)],
            [FUNNEL.medianFromFirst, duration(row.seconds_from_first.median)],
            [FUNNEL.p90, duration(row.seconds_from_first.p90)],
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
          lineHeight: 14,
          overflow: 'break',
          formatter: (place) => (isNarrow ? Number(place) + 1 : `${Number(place) + 1}. ${short(titles[place], 34)}`),
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

/** The numbers of the groups of a breakdown. */
function groupTable(groups, of, groupName, titles) {
  const heading = (text, isNumber) => h('th', { scope: 'col', class: isNumber ? 'number' : null }, text);
  const cell = (text) => h('td', { class: 'number' }, text);
  return h(
    'div',
    { class: 'scroll groups', tabindex: '0', role: 'region', 'aria-label': FUNNEL.groups },
    h(
      'table',
      {},
      h('caption', { class: 'unseen', text: FUNNEL.groupsCaption }),
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          heading(FUNNEL.group),
          titles.map((title, place) => heading(`${place + 1}. ${short(title, 24)}`, true)),
          heading(FUNNEL.conversion, true),
          heading(FUNNEL.median, true),
        ),
      ),
      h(
        'tbody',
        {},
        groups.map((group) => {
          const rows = of(group);
          const last = rows.at(-1);
          return h(
            'tr',
            { 'data-group': groupName(group) },
            h('th', { scope: 'row' }, named(groupName(group))),
            rows.map((row) => cell(count(row.users))),
            cell(percent(last.conversion_from_first)),
            cell(duration(last.seconds_from_first.median)),
          );
        }),
      ),
    ),
  );
}

/** The loss and the time of each step; `save` saves users as a cohort. */
function stepList(rows, titles, times, save) {
  const saving = (element, label, given) =>
    save && given.users > 0
      ? h('button', { type: 'button', class: 'figure-link', 'aria-label': label, onclick: () => save(given) }, element)
      : element;
  const lost = (row) => FUNNEL.lostHere(count(row.drop_off), percent(1 - row.conversion_from_previous));
  return h(
    'ol',
    { class: 'step-list' },
    rows.map((row, place) =>
      h(
        'li',
        { 'data-step': row.step, 'data-users': row.users },
        h('div', { class: 'step-name' }, h('span', { class: 'step-number', text: row.step }), named(titles[place])),
        saving(
          h('strong', { text: counted(row.users, 'user') }),
          COHORT.reachedUsers(counted(row.users, 'user'), row.step),
          { step: row.step, users: row.users, isLost: false },
        ),
        row.step === 1
          ? h('span', { class: 'hint', text: FUNNEL.enteredHere })
          : saving(
              h('span', { class: row.drop_off ? 'lost' : 'hint', text: lost(row) }),
              COHORT.lostUsers(lost(row), row.step),
              { step: row.step, users: row.drop_off, isLost: true },
            ),
        h('span', {
          class: 'hint',
          text:
            row.step === 1
              ? ''
              : FUNNEL.timesHere(duration(row[times].median), duration(row[times].mean), duration(row[times].p90)),
        }),
      ),
    ),
  );
}

// Paths: the features that users go to next.
import { query } from '../api.js';
import { eventEditor, stepName } from '../conditions.js';
import { field, h, named, plain, select, short } from '../dom.js';
import { count, counted, percent } from '../format.js';
import { form, tip } from '../panel.js';
import { PATHS } from '../texts.js';

export function paths(context) {
  const { state, scope, panel } = context;
  const own = { by: 'session', depth: 5, limit: 15, start: {}, ...state.own };
  const set = (patch) => context.own({ ...state.own, ...patch });
  const flow = panel({
    title: PATHS.title,
    name: 'paths',
    isAboutUsers: true,
    height: 480,
    tall: true,
    help: PATHS.help,
    ask: (signal) => ask(scope, own, set, signal),
  });
  const whole = panel({
    title: PATHS.whole,
    name: 'whole-paths',
    isAboutUsers: true,
    height: 300,
    ask: async (signal) => askWhole(await query(question(scope, own), signal), own),
  });
  const choices = form(
    PATHS.selection,
    PATHS.summary(own.depth, own.by),
    h(
      'div',
      { class: 'fields wide' },
      field(
        PATHS.of,
        select(PATHS.by, own.by, (by) => set({ by })),
        own.by === 'session' ? PATHS.session : null,
      ),
      field(
        PATHS.depth,
        select(
          [2, 3, 4, 5, 6, 7, 8, 9, 10].map((depth) => [depth, depth]),
          own.depth,
          (depth) => set({ depth: Number(depth) }),
        ),
      ),
      field(
        PATHS.limit,
        select(
          [5, 10, 15, 25, 50].map((limit) => [limit, PATHS.mostUsed(limit)]),
          own.limit,
          (limit) => set({ limit: Number(limit) }),
        ),
      ),
      h(
        'div',
        { class: 'field' },
        h('span', { class: 'label', text: PATHS.begins }),
        eventEditor(PATHS.start, own.start, (start) => set({ start })),
      ),
    ),
  );
  return {
    title: PATHS.title,
    lead: PATHS.lead,
    element: h('div', { class: 'grid' }, choices, flow.element, whole.element),
    panels: [flow, whole],
  };
}

const aboutOf = ({ by, start }) => [
  PATHS.about(by),
  ...(Object.keys(start).length ? [PATHS.aboutStart(plain(stepName(start)))] : []),
];

const question = (scope, own) => ({
  metric: 'paths',
  depth: own.depth,
  limit: own.limit,
  ...(own.by !== 'user' && { by: own.by }),
  ...(Object.keys(own.start).length && { start: own.start }),
  ...scope,
});

async function ask(scope, own, set, signal) {
  const body = question(scope, own);
  const answer = await query(body, signal);
  const { rows } = answer;
  const key = own.by === 'session' ? 'sessions' : 'users';
  const order = new Map();
  const total = new Map();
  for (const row of rows) {
    for (const name of [row.from, row.to]) total.set(name, (total.get(name) ?? 0) + row[key]);
  }
  const byUse = [...total].sort((a, b) => b[1] - a[1]);
  for (const [place, [name]] of byUse.entries()) order.set(name, place);
  const node = (step, name) => `${step}\u0000${name}`;
  const depths = Math.max(...rows.map((row) => row.step), 1) + 1;
  const nodes = new Map();
  for (const { step, from, to } of rows) {
    nodes.set(node(step, from), [step, from]);
    nodes.set(node(step + 1, to), [step + 1, to]);
  }
  const most = Math.max(
    ...Array.from({ length: depths }, (_, depth) => [...nodes.values()].filter(([step]) => step === depth + 1).length),
    1,
  );
  return {
    answer,
    rows,
    request: { path: 'query', body },
    about: aboutOf(own),
    isEmpty: rows.length === 0,
    empty: PATHS.empty,
    notes: [['soft', PATHS.drawn(own.limit), 'limit']],
    label: PATHS.label(
      rows.length,
      rows[0] && PATHS.first(plain(rows[0].from), plain(rows[0].to), rows[0][key], PATHS[key].toLowerCase()),
    ),
    height: Math.max(360, Math.min(most * 44, 900)),
    minWidth: depths * 150,
    onclick: ({ dataType, data }) => dataType === 'node' && set({ start: { feature: data.feature } }),
    option: (look) => ({
      grid: null,
      tooltip: {
        trigger: 'item',
        formatter: ({ dataType, data, value }) =>
          dataType === 'node'
            ? tip(
                plain(data.feature),
                [[PATHS.atStep(data.step), counted(value, PATHS.one[key.slice(0, -1)]), data.itemStyle.color]],
                PATHS.click,
              )
            : tip(`${plain(data.from)} → ${plain(data.to)}`, [
                [PATHS[key], count(data.value)],
                [PATHS.step, `${data.step} → ${data.step + 1}`],
              ]),
      },
      series: [
        {
          type: 'sankey',
          left: 4,
          right: 110,
          top: 8,
          bottom: 8,
          nodeWidth: 12,
          nodeGap: 12,
          draggable: false,
          layoutIterations: 48,
          emphasis: { focus: 'adjacency' },
          label: {
            color: look.ink,
            fontSize: 11,
            width: 100,
            overflow: 'truncate',
            textBorderColor: look.card,
            textBorderWidth: 2,
            formatter: ({ data }) => short(data.feature, 18),
          },
          lineStyle: { color: 'source', opacity: 0.28, curveness: 0.5 },
          data: [...nodes].map(([name, [step, feature]]) => ({
            name,
            feature,
            step,
            depth: step - 1,
            // The most used features have a colour of their own, all others the last one.
            itemStyle: { color: look.series[Math.min(order.get(feature), look.series.length - 1)], borderWidth: 0 },
          })),
          links: rows.map((row) => ({
            source: node(row.step, row.from),
            target: node(row.step + 1, row.to),
            value: row[key],
            from: row.from,
            to: row.to,
            step: row.step,
          })),
        },
      ],
    }),
  };
}

function askWhole(answer, own) {
  const found = answer.paths;
  const most = Math.max(...found.map((path) => path.users), 1);
  const total = found.reduce((sum, path) => sum + path.users, 0);
  return {
    answer: { ts: answer.ts, window: answer.window, covered_from: answer.window.from },
    about: aboutOf(own),
    isEmpty: found.length === 0,
    rows: found.map(({ path, users }) => ({
      users,
      ...Object.fromEntries(
        Array.from({ length: own.depth }, (_, place) => [PATHS.feature(place + 1), path[place] ?? null]),
      ),
    })),
    element: () =>
      h(
        'ol',
        { class: 'rank path-rank' },
        found.slice(0, 12).map(({ path, users }) => {
          const fill = h('i', { class: 'meter' });
          fill.style.width = `${(users / most) * 100}%`;
          return h(
            'li',
            {},
            h(
              'div',
              { class: 'path' },
              path.map((feature, place) => [
                place > 0 && h('span', { class: 'path-arrow', 'aria-hidden': 'true', text: '→' }),
                named(feature, 'path-part'),
              ]),
            ),
            h('div', { class: 'rank-bar' }, fill),
            h('strong', { class: 'rank-number', text: count(users) }),
            h('span', { class: 'rank-share hint', text: percent(users / total) }),
          );
        }),
      ),
  };
}

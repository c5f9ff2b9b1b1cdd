// Lifecycle: new, returning and resurrecting users of each period, and those who became dormant.
import { query } from '../api.js';
import { h, segments } from '../dom.js';
import { average, brief, count, period } from '../format.js';
import { cutNotes, cutText, marks, tip } from '../panel.js';
import { grainFor } from '../state.js';

const PARTS = [
  ['returning', 'Returning', 0, 'Active now and in the period before'],
  ['resurrecting', 'Resurrecting', 4, 'Active now, not in the period before, but earlier'],
  ['new', 'New', 2, 'First event ever'],
  ['dormant', 'Dormant', 7, 'Active in the period before, not now'],
];

export function lifecycle(context) {
  const { state, scope, panel } = context;
  const grain = state.own.grain ?? grainFor(state.days, 45);
  const bars = panel({
    title: 'Lifecycle',
    name: 'lifecycle',
    isAboutUsers: true,
    height: 420,
    tall: true,
    help: 'New + returning + resurrecting are the active users; dormant ones are below the line',
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
    ask: (signal) => ask(scope, grain, signal),
  });
  return {
    title: 'Lifecycle',
    lead: 'Is the product gaining people, or only replacing those it loses?',
    element: h('div', { class: 'grid' }, bars.element),
    panels: [bars],
  };
}

async function ask(scope, grain, signal) {
  const body = { metric: 'lifecycle', grain, ...scope };
  const answer = await query(body, signal);
  const { rows } = answer;
  const sum = (name, from = rows) => from.reduce((total, row) => total + row[name], 0);
  const closed = rows.filter((row) => !row.partial);
  const lost = -sum('dormant', closed);
  const won = sum('new', closed) + sum('resurrecting', closed);
  const figures = [
    ...PARTS.map(([name, title, colour, hint]) => ({
      name,
      title,
      value: count(Math.abs(sum(name))),
      number: sum(name),
      colour,
      hint,
    })),
    {
      name: 'ratio',
      title: 'Gained per lost',
      value: lost ? average(won / lost) : '–',
      number: lost ? won / lost : null,
      hint: '(New + resurrecting) / dormant, complete periods',
    },
  ];
  return {
    answer,
    rows,
    request: { path: 'query', body },
    notes: cutNotes(rows, grain, 'pale'),
    isEmpty: rows.every((row) => PARTS.every(([name]) => row[name] === 0)),
    label: figures.map(({ title, value }) => `${title}: ${value}`).join(', '),
    above: h(
      'div',
      { class: 'figures' },
      figures.map(({ name, title, value, number, colour, hint }) =>
        h(
          'div',
          {
            class: `fact${colour === undefined ? '' : ` tone-${colour + 1}`}`,
            'data-fact': name,
            'data-value': number,
            title: hint,
          },
          h('span', { text: title }),
          h('strong', { text: value }),
        ),
      ),
    ),
    option: (look) => chart(look, {}),
    // The figures above the chart are its legend; a picture has none.
    picture: (look) => chart(look, { legend: { data: PARTS.map(([, title]) => title) }, grid: { top: 44 } }),
  };

  function chart(look, extra) {
    return {
      ...extra,
      tooltip: {
        trigger: 'axis',
        axisPointer: { type: 'shadow' },
        formatter: ([{ dataIndex }]) => {
          const row = rows[dataIndex];
          return tip(
            period(row.period, grain),
            [
              ...PARTS.map(([name, title, colour]) => [title, count(row[name]), look.series[colour]]),
              ['Active users', count(row.new + row.returning + row.resurrecting)],
            ],
            cutText(row.period, answer, row.partial),
          );
        },
      },
      xAxis: {
        type: 'category',
        data: rows.map((row) => row.period),
        axisLabel: { formatter: (day) => period(day, grain === 'month' ? grain : 'day') },
        axisLine: { onZero: true },
      },
      yAxis: { type: 'value', axisLabel: { formatter: brief } },
      series: PARTS.map(([name, title, colour], place) => ({
        name: title,
        type: 'bar',
        stack: 'all',
        barCategoryGap: '22%',
        barMaxWidth: 56,
        itemStyle: { color: look.series[colour] },
        data: rows.map((row) => ({
          value: row[name],
          itemStyle: row.partial
            ? { opacity: 0.45, borderColor: look.series[colour], borderType: 'dashed', borderWidth: 1 }
            : undefined,
        })),
        ...(place === 0 ? marks(rows, answer, look) : {}),
      })),
    };
  }
}

// Lifecycle: new, returning and resurrecting users of each period, and those who became dormant.
import { query } from '../api.js';
import { h, segments } from '../dom.js';
import { average, brief, count, period } from '../format.js';
import { cutNotes, cutText, known, marks, tip } from '../panel.js';
import { grainFor } from '../state.js';
import { GRAIN, LIFECYCLE } from '../texts.js';

const PARTS = [
  ['returning', 0],
  ['resurrecting', 4],
  ['new', 2],
  ['dormant', 7],
].map(([name, colour]) => [name, LIFECYCLE.parts[name][0], colour, LIFECYCLE.parts[name][1]]);

export function lifecycle(context) {
  const { state, scope, panel } = context;
  const grain = state.own.grain ?? grainFor(state.days, 45);
  const bars = panel({
    title: LIFECYCLE.title,
    name: 'lifecycle',
    isAboutUsers: true,
    height: 420,
    tall: true,
    help: LIFECYCLE.help,
    controls: segments(GRAIN.label, GRAIN.options, grain, (next) => context.own({ grain: next })),
    ask: (signal) => ask(scope, grain, signal),
  });
  return {
    title: LIFECYCLE.title,
    lead: LIFECYCLE.lead,
    element: h('div', { class: 'grid' }, bars.element),
    panels: [bars],
  };
}

async function ask(scope, grain, signal) {
  const body = { metric: 'lifecycle', grain, ...scope };
  const answer = await query(body, signal);
  const { rows } = answer;
  // A user can be in several periods, so a sum over them is not a number of people. Expired and incomplete ones are left out.
  const isKnown = known(answer);
  const closed = rows.filter((row) => !row.partial && isKnown(row));
  const sum = (name) => closed.reduce((total, row) => total + row[name], 0);
  const lost = -sum('dormant');
  const won = sum('new') + sum('resurrecting');
  const figures = [
    ...PARTS.map(([name, title, colour, hint]) => {
      const mean = closed.length ? sum(name) / closed.length : null;
      return {
        name,
        title: LIFECYCLE.per(title, grain),
        value: average(mean === null ? null : Math.abs(mean)),
        number: mean,
        colour,
        hint: LIFECYCLE.mean(hint, grain),
      };
    }),
    {
      name: 'ratio',
      title: LIFECYCLE.ratio,
      value: lost ? average(won / lost) : '–',
      number: lost ? won / lost : null,
      hint: LIFECYCLE.ratioHint,
    },
  ];
  return {
    answer,
    rows,
    request: { path: 'query', body },
    notes: cutNotes(rows, grain, LIFECYCLE.drawn),
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
              [LIFECYCLE.active, count(row.new + row.returning + row.resurrecting)],
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
      yAxis: { type: 'value', minInterval: 1, axisLabel: { formatter: brief } },
      series: PARTS.map(([name, title, colour], place) => ({
        name: title,
        type: 'bar',
        stack: 'all',
        barCategoryGap: '22%',
        barMaxWidth: 56,
        itemStyle: { color: look.series[colour] },
        data: rows.map((row) => ({
          value: isKnown(row) ? row[name] : null,
          itemStyle: row.partial
            ? { opacity: 0.45, borderColor: look.series[colour], borderType: 'dashed', borderWidth: 1 }
            : undefined,
        })),
        ...(place === 0 ? marks(rows, answer, look) : {}),
      })),
    };
  }
}

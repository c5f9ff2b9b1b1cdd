// Retention: of the users of a period, the number that came back in later ones.
import { query } from '../api.js';
import { eventEditor } from '../conditions.js';
import { field, h, segments, select } from '../dom.js';
import { count, percent, period } from '../format.js';
import { cutNotes, cutText, form, tip } from '../panel.js';

export function retention(context) {
  const { state, scope, panel } = context;
  const own = {
    grain: state.days <= 21 ? 'day' : state.days <= 182 ? 'week' : 'month',
    cohort: 'first',
    returning: 'on',
    show: 'percent',
    start: {},
    return: {},
    ...state.own,
  };
  const set = (patch) => context.own({ ...state.own, ...patch });
  const triangle = panel({
    title: 'Retention',
    name: 'retention',
    isAboutUsers: true,
    height: 420,
    tall: true,
    controls: [
      segments(
        'Numbers',
        [
          ['percent', 'Percent'],
          ['absolute', 'Users'],
        ],
        own.show,
        (show) => set({ show }),
      ),
      segments(
        'Length of a period',
        [
          ['day', 'Day'],
          ['week', 'Week'],
          ['month', 'Month'],
        ],
        own.grain,
        (grain) => set({ grain }),
      ),
    ],
    ask: (signal) => ask(scope, own, signal),
  });
  const choices = form(
    'Who comes back',
    'from what to what',
    h(
      'div',
      { class: 'fields wide' },
      field(
        'Users',
        select(
          [
            ['first', 'by their first period'],
            ['ever', 'by the first ever'],
            ['recurring', 'in each of their periods'],
          ],
          own.ever ? 'ever' : own.cohort,
          (choice) =>
            set({ cohort: choice === 'recurring' ? 'recurring' : 'first', ever: choice === 'ever' || undefined }),
        ),
      ),
      field(
        'Counted as back',
        select(
          [
            ['on', 'in that period'],
            ['on_or_after', 'in that period or later'],
          ],
          own.returning,
          (returning) => set({ returning }),
        ),
      ),
      h(
        'div',
        { class: 'field' },
        h('span', { class: 'label', text: 'Began with' }),
        eventEditor('Start', own.start, (start) => set({ start })),
      ),
      h(
        'div',
        { class: 'field' },
        h('span', { class: 'label', text: 'Came back with' }),
        eventEditor('Return', own.return, (back) => set({ return: back })),
      ),
    ),
  );
  return {
    title: 'Retention',
    lead: 'Do people come back?',
    element: h('div', { class: 'grid' }, choices, triangle.element),
    panels: [triangle],
  };
}

async function ask(scope, own, signal) {
  const body = {
    metric: 'retention',
    grain: own.grain,
    ...(own.cohort !== 'first' && { cohort: own.cohort }),
    ...(own.ever && { ever: true }),
    ...(own.returning !== 'on' && { returning: own.returning }),
    ...(Object.keys(own.start).length && { start: own.start }),
    ...(Object.keys(own.return).length && { return: own.return }),
    ...scope,
  };
  const answer = await query(body, signal);
  const { rows } = answer;
  const cohorts = rows.filter((row) => row.cohort !== 'average');
  const average = rows.find((row) => row.cohort === 'average');
  const width = average?.cells.length ?? 0;
  const unit = { day: 'Day', week: 'Week', month: 'Month' }[own.grain];
  const shareOf = (row, value) => (row.cohort === 'average' ? value : value / row.size);
  const shown = [average, ...cohorts].filter(Boolean);
  const cells = shown.flatMap((row, y) =>
    row.cells.flatMap((value, x) =>
      value === null || row.size === 0 ? [] : [{ x, y, row, value, share: shareOf(row, value) }],
    ),
  );
  // An incomplete cohort has other users than a complete one: it does not set the scale.
  const top = Math.max(...cells.filter((cell) => cell.x > 0 && !cell.row.partial).map((cell) => cell.share), 0.01);
  const text = ({ row, value, share }) => {
    if (own.show === 'percent') return percent(share, share > 0 && share < 0.1 ? 1 : 0);
    return row.cohort === 'average' ? percent(value, 0) : count(value);
  };
  const cellWidth = 46;
  return {
    answer,
    rows,
    request: { path: 'query', body },
    isEmpty: !cohorts.some((row) => row.size > 0),
    label: `${cohorts.length} cohorts. On average ${average?.cells
      .slice(1, 5)
      .map((share, place) => `${unit} ${place + 1}: ${share === null ? 'not over' : percent(share)}`)
      .join(', ')}.`,
    notes: [
      ['soft', 'Empty cells are not over yet; averages exclude them.', 'cells'],
      ...cutNotes(rows, own.grain, 'without a colour'),
    ],
    height: Math.max(180, 34 + shown.length * (shown.length > 24 ? 24 : 32)),
    minWidth: Math.min(150 + width * cellWidth, 4_000),
    option: (look) => ({
      grid: { left: 8, right: 8, top: 30, bottom: 4 },
      tooltip: {
        trigger: 'item',
        formatter: ({ data: { cell } }) =>
          tip(
            cell.row.cohort === 'average' ? 'All cohorts, weighted by size' : period(cell.row.cohort, own.grain),
            [
              [`${unit} ${cell.x}`, percent(cell.share)],
              ...(cell.row.cohort === 'average' ? [] : [['Users', `${count(cell.value)} of ${count(cell.row.size)}`]]),
            ],
            cutText(cell.row.cohort, answer, cell.row.partial),
          ),
      },
      xAxis: {
        type: 'category',
        position: 'top',
        data: Array.from({ length: width }, (_, place) => place),
        axisLine: { show: false },
        axisLabel: { formatter: (place) => (Number(place) === 0 ? `${unit} 0` : place), color: look.muted },
        splitLine: { show: false },
      },
      yAxis: {
        type: 'category',
        inverse: true,
        data: shown.map((_, place) => place),
        axisLine: { show: false },
        axisLabel: {
          interval: 0,
          hideOverlap: false,
          color: look.ink,
          formatter: (place) => {
            const row = shown[place];
            const name = row.cohort === 'average' ? 'Average of' : period(row.cohort, own.grain);
            return `{${row.partial ? 'cut' : 'name'}|${name}}{size|${count(row.size)}}`;
          },
          rich: {
            name: { color: look.ink, fontSize: 11 },
            cut: { color: look.muted, fontSize: 11 },
            size: { color: look.muted, fontSize: 11, width: 48, align: 'right' },
          },
        },
        splitLine: { show: false },
      },
      visualMap: { show: false, type: 'continuous', dimension: 2, min: 0, max: top, inRange: { color: look.heat } },
      series: [
        {
          type: 'heatmap',
          progressive: 0,
          itemStyle: { borderColor: look.card, borderWidth: 2, borderRadius: 4 },
          emphasis: { itemStyle: { borderColor: look.ink, borderWidth: 1 } },
          data: cells.map((cell) => ({
            value: [cell.x, cell.y, Math.min(cell.share, top)],
            cell,
            itemStyle: cell.row.partial
              ? { color: look.card, borderColor: look.line, borderType: 'dashed', borderWidth: 1 }
              : cell.x === 0
                ? { color: look.soft }
                : undefined,
            label: {
              show: true,
              fontSize: 11,
              fontWeight: cell.row.cohort === 'average' ? 600 : 400,
              color: cell.x === 0 || cell.row.partial ? look.ink : cell.share / top > 0.66 ? look.onHeat : look.ink,
              formatter: () => text(cell),
            },
          })),
        },
      ],
    }),
  };
}

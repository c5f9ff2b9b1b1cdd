// Retention: of the users of a period, the number that came back in later ones.
import { isDemo, query } from '../api.js';
import { askCohort } from '../cohorts.js';
import { bothHold, eventEditor, stepName } from '../conditions.js';
import { inkOn, mixed } from '../contrast.js';
import { field, h, plain, segments, select } from '../dom.js';
import { count, counted, percent, period } from '../format.js';
import { cutNotes, cutText, form, tip } from '../panel.js';
import { COHORT, RETENTION } from '../texts.js';

export function retention(context) {
  const { state, panel } = context;
  const own = {
    grain: state.days <= 21 ? 'day' : state.days <= 182 ? 'week' : 'month',
    cohort: 'first',
    returning: 'on',
    show: 'percent',
    scale: 'view',
    start: {},
    return: {},
    ...state.own,
  };
  const set = (patch) => context.own({ ...state.own, ...patch });
  const triangle = panel({
    title: RETENTION.title,
    name: 'retention',
    isAboutUsers: true,
    height: 420,
    tall: true,
    controls: [
      segments(RETENTION.numbers, RETENTION.shown, own.show, (show) => set({ show })),
      segments(RETENTION.scale, RETENTION.scales, own.scale, (scale) => set({ scale })),
      segments(RETENTION.grain, Object.entries(RETENTION.units), own.grain, (grain) => set({ grain })),
    ],
    ask: (signal) => ask(context, own, signal),
  });
  const choices = form(
    RETENTION.form,
    RETENTION.summary,
    h(
      'div',
      { class: 'fields wide' },
      field(
        RETENTION.users,
        select(RETENTION.cohorts, own.ever ? 'ever' : own.cohort, (choice) =>
          set({ cohort: choice === 'recurring' ? 'recurring' : 'first', ever: choice === 'ever' || undefined }),
        ),
      ),
      field(
        RETENTION.counted,
        select(RETENTION.returning, own.returning, (returning) => set({ returning })),
      ),
      h(
        'div',
        { class: 'field' },
        h('span', { class: 'label', text: RETENTION.began }),
        eventEditor(RETENTION.start, own.start, (start) => set({ start })),
      ),
      h(
        'div',
        { class: 'field' },
        h('span', { class: 'label', text: RETENTION.back }),
        eventEditor(RETENTION.return, own.return, (back) => set({ return: back })),
      ),
    ),
  );
  return {
    title: RETENTION.title,
    lead: RETENTION.lead,
    element: h('div', { class: 'grid' }, choices, triangle.element),
    panels: [triangle],
  };
}

/** A function that saves the users of a cell as a cohort; `null` where nothing can be saved. */
function cohortSaver(context, own, window) {
  const { filter } = context.state;
  const [start, back] = [own.start, own.return].map((one) => bothHold(one, filter));
  if (isDemo || context.isEmbedded || start === null || back === null) return null;
  const { from, to } = window;
  const retention = {
    grain: own.grain,
    ...(own.cohort !== 'first' && { cohort: own.cohort }),
    ...(own.ever && { ever: true }),
    ...(own.returning !== 'on' && { returning: own.returning }),
    ...(Object.keys(start).length && { start }),
    ...(Object.keys(back).length && { return: back }),
  };
  return (row, place, isBack) => {
    const users = isBack ? row.cells[place] : row.size - row.cells[place];
    const name = period(row.cohort, own.grain);
    const unit = COHORT.units[own.grain];
    askCohort(context.state, {
      name: COHORT.cell(name, unit, place, isBack),
      words: COHORT.cellWords(counted(users, 'user'), name, unit, place, isBack),
      definition: { cell: { retention, cohort: row.cohort, period: place, ...(!isBack && { returned: false }) } },
      window: { from, to },
      isFixed: true,
    });
  };
}

/** A form that saves the users of a cell, for the keyboard too. */
function cellForm(cohorts, grain, save) {
  const rows = cohorts.filter((row) => row.size > 0 && row.cells.some((value, place) => place > 0 && value !== null));
  if (!rows.length) return null;
  const chosen = { row: rows[0], place: 1, isBack: true };
  const places = h('div', { class: 'field' });
  const showPlaces = () => {
    const known = chosen.row.cells.flatMap((value, place) => (place > 0 && value !== null ? [place] : []));
    if (!known.includes(chosen.place)) [chosen.place] = known;
    places.replaceChildren(
      field(
        COHORT.cellPeriod(COHORT.units[grain]),
        select(
          known.map((place) => [place, String(place)]),
          chosen.place,
          (place) => {
            chosen.place = Number(place);
          },
        ),
      ),
    );
  };
  showPlaces();
  return h(
    'details',
    { class: 'more of-cell' },
    h('summary', {}, COHORT.ofCell),
    h(
      'form',
      {
        class: 'fields',
        onsubmit: (event) => {
          event.preventDefault();
          save(chosen.row, chosen.place, chosen.isBack);
        },
      },
      field(
        COHORT.cellCohort,
        select(
          rows.map((row) => [row.cohort, period(row.cohort, grain)]),
          chosen.row.cohort,
          (cohort) => {
            chosen.row = rows.find((row) => row.cohort === cohort);
            showPlaces();
          },
        ),
      ),
      places,
      field(
        COHORT.cellBack,
        select(COHORT.cellKinds, 'back', (kind) => {
          chosen.isBack = kind === 'back';
        }),
      ),
      h('button', { class: 'button' }, COHORT.save),
    ),
  );
}

async function ask(context, own, signal) {
  const { scope } = context;
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
  const unit = RETENTION.units[own.grain];
  const shareOf = (row, value) => (row.cohort === 'average' ? value : value / row.size);
  const shown = [average, ...cohorts].filter(Boolean);
  const cells = shown.flatMap((row, y) =>
    row.cells.flatMap((value, x) =>
      value === null || row.size === 0 ? [] : [{ x, y, row, value, share: shareOf(row, value) }],
    ),
  );
  // An incomplete cohort has other users than a complete one: it does not set the scale.
  const greatest = Math.max(...cells.filter((cell) => cell.x > 0 && !cell.row.partial).map((cell) => cell.share), 0.01);
  const top = own.scale === 'whole' ? 1 : greatest;
  const text = ({ row, value, share }) => {
    if (own.show === 'percent') return percent(share, share > 0 && share < 0.1 ? 1 : 0);
    return row.cohort === 'average' ? percent(value, 0) : count(value);
  };
  const cellWidth = 46;
  const save = cohortSaver(context, own, answer.window);
  return {
    answer,
    rows,
    request: { path: 'query', body },
    about: [
      ...(Object.keys(own.start).length ? [RETENTION.beganWith(plain(stepName(own.start)))] : []),
      ...(Object.keys(own.return).length ? [RETENTION.backWith(plain(stepName(own.return)))] : []),
    ],
    isEmpty: !cohorts.some((row) => row.size > 0),
    label: RETENTION.label(
      cohorts.length,
      average?.cells
        .slice(1, 5)
        .map((share, place) => `${unit} ${place + 1}: ${share === null ? RETENTION.notOver : percent(share)}`)
        .join(', '),
    ),
    notes: [['soft', RETENTION.empty, 'cells'], ...cutNotes(rows, own.grain, RETENTION.cut)],
    height: Math.max(200, 64 + shown.length * (shown.length > 24 ? 24 : 32)),
    minWidth: Math.min(150 + width * cellWidth, 4_000),
    below: save && cellForm(cohorts, own.grain, save),
    onclick: save && (({ data }) => data.cell.row.cohort !== 'average' && save(data.cell.row, data.cell.x, true)),
    option: (look) => ({
      grid: { left: 8, right: 8, top: 30, bottom: 34 },
      tooltip: {
        trigger: 'item',
        formatter: ({ data: { cell } }) =>
          tip(
            cell.row.cohort === 'average' ? RETENTION.average : period(cell.row.cohort, own.grain),
            [
              [`${unit} ${cell.x}`, percent(cell.share)],
              ...(cell.row.cohort === 'average'
                ? []
                : [[RETENTION.users, RETENTION.part(count(cell.value), count(cell.row.size))]]),
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
            const name = row.cohort === 'average' ? RETENTION.all : period(row.cohort, own.grain);
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
      visualMap: {
        type: 'continuous',
        dimension: 2,
        min: 0,
        max: top,
        inRange: { color: look.heat },
        orient: 'horizontal',
        right: 8,
        bottom: 0,
        itemWidth: 10,
        itemHeight: 110,
        text: [percent(top, 0), '0%'],
        textStyle: { color: look.muted, fontSize: 11 },
        hoverLink: false,
      },
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
              color:
                cell.x === 0 || cell.row.partial
                  ? look.ink
                  : inkOn(mixed(look.heat, cell.share / top), [look.ink, look.onHeat]),
              formatter: () => text(cell),
            },
          })),
        },
      ],
    }),
  };
}

// Stickiness: the number of days on which users are active, and the share of a month's users on each day.
import { query } from '../api.js';
import { h, segments } from '../dom.js';
import { brief, count, percent, period } from '../format.js';
import { cutNotes, marks, tip } from '../panel.js';
import { GRAIN, STICKINESS } from '../texts.js';

export function stickiness(context) {
  const { state, scope, panel } = context;
  const grain = state.own.grain ?? 'day';
  const histogram = panel({
    title: STICKINESS.histogram,
    name: 'stickiness',
    isAboutUsers: true,
    height: 340,
    tall: true,
    help: STICKINESS.histogramHelp,
    controls: segments(GRAIN.label, GRAIN.options, grain, (next) => context.own({ grain: next })),
    ask: (signal) => askHistogram(scope, grain, signal),
  });
  const ratio = panel({
    title: STICKINESS.ratio,
    name: 'stickiness-ratio',
    isAboutUsers: true,
    height: 260,
    help: STICKINESS.ratioHelp,
    ask: (signal) => askRatio(scope, signal),
  });
  return {
    title: STICKINESS.title,
    lead: STICKINESS.lead,
    element: h('div', { class: 'grid' }, histogram.element, ratio.element),
    panels: [histogram, ratio],
  };
}

async function askHistogram(scope, grain, signal) {
  const body = { metric: 'stickiness', grain, ...scope };
  const answer = await query(body, signal);
  const { rows } = answer;
  const all = rows[0]?.cumulative ?? 0;
  const once = rows[0]?.users ?? 0;
  return {
    answer,
    rows,
    request: { path: 'query', body },
    isEmpty: all === 0,
    notes: cutNotes(
      answer.partial_periods.map((first) => ({ period: first, partial: true })),
      grain,
      STICKINESS.counted,
    ),
    label: STICKINESS.label(all, once, grain),
    option: (look) => ({
      legend: { data: [STICKINESS.exactly, STICKINESS.atLeast] },
      grid: { top: 44 },
      tooltip: {
        trigger: 'axis',
        axisPointer: { type: 'shadow' },
        formatter: ([{ dataIndex }]) => {
          const row = rows[dataIndex];
          return tip(STICKINESS.periods(row.periods, grain), [
            [STICKINESS.exactly, `${count(row.users)} · ${percent(row.users / all)}`, look.series[0]],
            [STICKINESS.atLeast, `${count(row.cumulative)} · ${percent(row.cumulative / all)}`, look.series[1]],
          ]);
        },
      },
      xAxis: {
        type: 'category',
        data: rows.map((row) => row.periods),
        axisLabel: { formatter: (n) => (n === '1' ? STICKINESS.periods(1, grain) : n) },
      },
      yAxis: [
        { type: 'value', minInterval: 1, axisLabel: { formatter: brief } },
        {
          type: 'value',
          min: 0,
          max: 1,
          splitLine: { show: false },
          axisLabel: { formatter: (share) => percent(share, 0) },
        },
      ],
      series: [
        {
          name: STICKINESS.exactly,
          type: 'bar',
          data: rows.map((row) => row.users),
          barMaxWidth: 44,
          itemStyle: { color: look.series[0], borderRadius: [3, 3, 0, 0] },
        },
        {
          name: STICKINESS.atLeast,
          type: 'line',
          yAxisIndex: 1,
          showSymbol: rows.length < 3,
          data: rows.map((row) => row.cumulative / (all || 1)),
          lineStyle: { color: look.series[1], width: 2 },
          itemStyle: { color: look.series[1] },
        },
      ],
    }),
  };
}

async function askRatio(scope, signal) {
  const body = { metric: 'active_users', ...scope };
  const answer = await query(body, signal);
  const rows = answer.rows.map(({ period: day, dau, mau, stickiness: ratio, partial }) => ({
    period: day,
    dau,
    mau,
    stickiness: ratio,
    partial,
  }));
  const closed = rows.filter((row) => !row.partial && row.mau > 0);
  const mean = closed.reduce((sum, row) => sum + row.stickiness, 0) / (closed.length || 1);
  return {
    answer,
    rows,
    request: { path: 'query', body },
    isEmpty: rows.every((row) => row.mau === 0),
    label: closed.length ? STICKINESS.average(percent(mean)) : STICKINESS.none,
    option: (look) => ({
      grid: { top: 20 },
      tooltip: {
        trigger: 'axis',
        formatter: ([{ dataIndex }]) => {
          const row = rows[dataIndex];
          return tip(
            period(row.period),
            [
              [STICKINESS.title, percent(row.stickiness), look.series[0]],
              [STICKINESS.daily, count(row.dau)],
              [STICKINESS.monthly, count(row.mau)],
            ],
            row.partial && STICKINESS.running,
          );
        },
      },
      xAxis: {
        type: 'category',
        boundaryGap: false,
        data: rows.map((row) => row.period),
        axisLabel: { formatter: (day) => period(day) },
      },
      yAxis: { type: 'value', axisLabel: { formatter: (share) => percent(share, 0) } },
      series: [
        {
          type: 'line',
          showSymbol: rows.length < 3,
          data: rows.map((row) => (row.partial ? null : row.stickiness)),
          lineStyle: { width: 2, color: look.series[0] },
          itemStyle: { color: look.series[0] },
          areaStyle: { color: look.series[0], opacity: 0.1 },
          ...(closed.length && {
            markLine: {
              silent: true,
              symbol: 'none',
              lineStyle: { color: look.muted, type: 'dashed' },
              label: { formatter: STICKINESS.mean(percent(mean)), color: look.muted, position: 'insideStartTop' },
              data: [{ yAxis: mean }],
            },
          }),
          ...marks(rows, answer, look),
        },
      ],
    }),
  };
}

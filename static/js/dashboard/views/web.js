// Web: where visits come from, where they begin and end, with what, and how long they last.
import { query } from '../api.js';
import { relative } from '../compare.js';
import { card } from '../components/card.js';
import { chart, groupName, notesOf } from '../components/series.js';
import { h, named, segments } from '../dom.js';
import { count, duration, percent } from '../format.js';
import { cardsOutline } from '../panel.js';
import { naming } from '../snippet.js';
import { grainFor } from '../state.js';
import { WEB } from '../texts.js';

/** Groups of a list. */
const TOP = 10;
const VIEWS = { event_type: 'page_view' };

/** The lists: what each groups by, where several can be chosen, and an example of what to send if there is nothing. */
const LISTS = [
  { name: 'sources', by: ['metadata.referrer'], example: { referrer: 'https://example.com' } },
  {
    name: 'campaigns',
    by: ['metadata.utm_source', 'metadata.utm_medium', 'metadata.utm_campaign'],
    example: { utm_source: 'newsletter', utm_medium: 'email', utm_campaign: 'spring' },
  },
  { name: 'pages', by: ['feature'], isOfViews: true },
  { name: 'entries', by: ['feature'] },
  { name: 'exits', by: ['feature'], isLast: true },
  {
    name: 'devices',
    by: ['metadata.platform', 'metadata.browser', 'metadata.os', 'metadata.device'],
    example: { platform: 'web', browser: 'firefox', os: 'linux' },
  },
  { name: 'countries', by: ['metadata.country', 'metadata.language'], example: { country: 'DE', language: 'de' } },
];

export function web(context) {
  const { state, scope, panel } = context;
  const grain = state.own.grain ?? grainFor(state.days, 120);
  const numbers = panel({
    title: WEB.numbers,
    name: 'web-numbers',
    height: 132,
    outline: cardsOutline,
    help: WEB.numbersHelp,
    ask: (signal) => askNumbers(scope, signal),
  });
  numbers.element.classList.add('cards-panel');
  const overTime = panel({
    title: WEB.overTime,
    name: 'web-visits',
    height: 300,
    tall: true,
    isAboutUsers: true,
    controls: segments(WEB.grain, WEB.grains, grain, (next) => context.own({ ...state.own, grain: next })),
    ask: (signal) => askOverTime(scope, grain, signal),
  });
  const lists = LISTS.map((list) => {
    const by = list.by.includes(state.own[list.name]) ? state.own[list.name] : list.by[0];
    const { title, help } = WEB.lists[list.name];
    return panel({
      title,
      name: list.name,
      height: 300,
      help,
      controls:
        list.by.length > 1 &&
        segments(
          WEB.by(title),
          list.by.map((property) => [property, WEB.properties[property]]),
          by,
          (next) => context.own({ ...state.own, [list.name]: next }),
        ),
      ask: (signal) => (list.isOfViews ? askPages : askVisits)(scope, list, by, signal),
    });
  });
  return {
    title: WEB.title,
    lead: WEB.lead,
    element: h(
      'div',
      { class: 'grid web' },
      [numbers, overTime, ...lists].map(({ element }) => element),
    ),
    panels: [numbers, overTime, ...lists],
  };
}

/** The total of a group with its share of bounces. */
const rated = (total) => ({ ...total, bounce_rate: total.sessions ? total.bounces / total.sessions : null });

async function askNumbers(scope, signal) {
  const body = {
    metric: 'trends',
    series: [{ measure: 'users' }, { measure: 'events', filter: VIEWS }],
    grain: 'month',
    compare: 'previous',
    ...scope,
  };
  const [answer, visits] = await Promise.all([
    query(body, signal),
    query({ metric: 'sessions', grain: 'month', ...scope }, signal),
  ]);
  const of = (letter) => answer.totals.find(({ series }) => series === letter) ?? {};
  const all = rated(visits.totals[0]);
  const [users, views] = ['A', 'B'].map(of);
  const cards = [
    ['users', count(users.value), users],
    ['sessions', count(all.sessions), { value: all.sessions }],
    ['views', count(views.value), views],
    ['bounce', percent(all.bounce_rate), { value: all.bounce_rate }],
    ['duration', duration(all.seconds.median), { value: all.seconds.median }],
  ].map(([name, ...figures]) => [name, ...WEB.cards[name], ...figures]);
  const notes = notesOf({ ...answer, rows: [] }, { grain: 'month', type: 'number' });
  if (!all.sessions && views.value > 0)
    notes.push(['warn', WEB.unnamed(count(views.value), naming.replace(/;.*/, '')), 'unnamed']);
  return {
    answer,
    request: { path: 'query', body },
    isEmpty: !views.value && !all.sessions && !users.value,
    notes,
    rows: cards.map(([, title, , , { value, previous }]) => ({
      number: title,
      value: value ?? null,
      before: previous ?? null,
      change: changeOf({ value, previous }),
    })),
    element: () =>
      h(
        'div',
        { class: 'cards' },
        cards.map(([name, title, hint, text, total]) =>
          card({ name, title, hint, text, value: total.value, difference: changeOf(total) }),
        ),
      ),
  };
}

const changeOf = ({ value, previous }) =>
  typeof value === 'number' && typeof previous === 'number' ? relative(value, previous) : null;

async function askOverTime(scope, grain, signal) {
  const body = { metric: 'sessions', grain, ...scope };
  const answer = await query(body, signal);
  const line = (place, name, measure) => ({
    id: `line ${place}`,
    letter: 'A',
    name,
    group: null,
    measure,
    rows: answer.rows.map((row) => ({ period: row.period, partial: row.partial, value: row[measure] })),
  });
  const lines = [line(0, WEB.visits, 'sessions'), line(1, WEB.visitors, 'users')];
  const type = 'line';
  return {
    answer,
    rows: answer.rows,
    request: { path: 'query', body },
    isEmpty: answer.rows.every(({ sessions }) => sessions === 0),
    notes: notesOf(answer, { grain, type }),
    label: WEB.label(count(answer.totals[0].sessions)),
    option: (look) => chart(look, { lines, answer, grain, type }),
  };
}

/** Visits by a property of their first event, or of their last one. */
async function askVisits(scope, { name, isLast, example }, by, signal) {
  const body = {
    metric: 'sessions',
    grain: 'month',
    breakdown: by,
    ...(isLast && { breakdown_of: 'last' }),
    limit: TOP,
    ...scope,
  };
  const answer = await query(body, signal);
  const found = answer.totals
    .filter(({ sessions }) => sessions > 0)
    .map((total) => ({ ...rated(total), median: total.seconds.median }));
  return listOf(found, {
    answer,
    body,
    title: WEB.properties[by],
    send: WEB.lists[name].send,
    example,
    main: 'sessions',
    columns: [
      ['sessions', WEB.visits, count],
      ['bounce_rate', WEB.bounce, percent],
      ['median', WEB.duration, duration],
    ],
  });
}

/** Page views by feature. */
async function askPages(scope, _, by, signal) {
  const body = {
    metric: 'trends',
    series: [
      { measure: 'events', filter: VIEWS },
      { measure: 'users', filter: VIEWS },
    ],
    grain: 'month',
    breakdown: by,
    limit: TOP,
    ...scope,
  };
  const answer = await query(body, signal);
  const users = new Map(
    answer.totals
      .filter(({ series }) => series === 'B')
      .map(({ kind, breakdown, value }) => [JSON.stringify([kind, breakdown]), value]),
  );
  const found = answer.totals
    .filter(({ series, value }) => series === 'A' && value > 0)
    .map(({ kind, breakdown, value }) => ({
      kind,
      breakdown,
      views: value,
      users: users.get(JSON.stringify([kind, breakdown])) ?? null,
    }));
  return listOf(found, {
    answer,
    body,
    title: WEB.properties[by],
    main: 'views',
    columns: [
      ['views', WEB.views, count],
      ['users', WEB.visitors, count],
    ],
  });
}

/** A list of groups with bars. Without a real group it says what to send. */
function listOf(found, { answer, body, title, send, example, main, columns }) {
  const most = Math.max(...found.map((group) => group[main]), 1);
  const isMissing = found.length > 0 && found.every(({ kind }) => kind === 'missing');
  const last = { value: 0, rest: 1, missing: 2 };
  found.sort((a, b) => (last[a.kind] ?? 0) - (last[b.kind] ?? 0) || b[main] - a[main]);
  return {
    answer: isMissing ? undefined : answer,
    request: { path: 'query', body },
    rows: found.map(({ seconds: _, ...group }) => group),
    isEmpty: found.length === 0 || isMissing,
    empty: isMissing
      ? {
          title: WEB.missing(body.breakdown.replace(/^metadata\./, '')),
          text: send ?? WEB.withoutFeature,
          code: example && `EchoPilot.track('page_view', 'pricing', ${JSON.stringify(example)});`,
        }
      : undefined,
    element: () =>
      h(
        'table',
        { class: 'rank-table' },
        h(
          'thead',
          {},
          h(
            'tr',
            {},
            h('th', { scope: 'col', text: title }),
            columns.map(([, text]) => h('th', { scope: 'col', class: 'number', text })),
          ),
        ),
        h(
          'tbody',
          {},
          found.map((group) => {
            const meter = h('i', { class: 'meter' });
            meter.style.width = `${(group[main] / most) * 100}%`;
            return h(
              'tr',
              { 'data-kind': group.kind },
              h(
                'th',
                { scope: 'row' },
                group.kind === 'value' ? named(groupName(group)) : h('span', { class: 'hint', text: groupName(group) }),
                h('span', { class: 'rank-bar', 'aria-hidden': 'true' }, meter),
              ),
              columns.map(([name, , write]) =>
                h('td', { class: 'number', 'data-value': group[name], text: write(group[name]) }),
              ),
            );
          }),
        ),
      ),
  };
}

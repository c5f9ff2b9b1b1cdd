// Who is active right now: the users and the pages of the newest minutes.
import { query } from '../api.js';
import { h, named } from '../dom.js';
import { count } from '../format.js';
import { NOW } from '../texts.js';

/** Length of "now" in minutes. */
export const MINUTES = 5;
/** Events of a request, which is its limit, and most events that are read. */
const PAGE = 1_000;
const MOST = 5_000;
/** Time in ms by which an event may be ahead of the server. */
const AHEAD_MS = 60_000;
/** Pages in the list. */
const TOP = 10;

/** Reads the events of the last minutes, newest first: `{answer, events, isAll}`. */
async function newest(body, signal) {
  const events = [];
  let answer;
  let since;
  do {
    answer = await query({ ...body, ...(answer && { before: answer.next }) }, signal);
    since ??= Date.parse(answer.ts) - MINUTES * 60_000;
    events.push(...answer.rows);
  } while (answer.next && Date.parse(events.at(-1).ts) >= since && events.length < MOST);
  // The time of a response is in whole seconds. A clock that is far ahead sends events that are not of now.
  const until = Date.parse(answer.ts) + AHEAD_MS;
  const recent = events.filter(({ ts }) => Date.parse(ts) >= since && Date.parse(ts) <= until);
  return { recent, isAll: !answer.next || Date.parse(events.at(-1).ts) < since };
}

/** The pages with their views and users, the most viewed first. */
function pagesOf(events) {
  const pages = new Map();
  for (const { event_type: type, feature, user_id: user } of events) {
    if (type !== 'page_view' || feature === null || feature === undefined) continue;
    if (!pages.has(feature)) pages.set(feature, { views: 0, users: new Set() });
    const page = pages.get(feature);
    page.views += 1;
    if (user !== null && user !== undefined) page.users.add(user);
  }
  return [...pages]
    .map(([page, { views, users }]) => ({ page, views, users: users.size }))
    .sort((a, b) => b.views - a.views);
}

/** The panel of who is active. */
export const activeNow = (panel) =>
  panel({
    title: NOW.title,
    name: 'live-now',
    height: 170,
    help: NOW.help(MINUTES),
    ask: async (signal) => {
      // Yesterday too: a few minutes after midnight.
      const body = { metric: 'events', days: 2, limit: PAGE };
      const { recent, isAll } = await newest(body, signal);
      const known = recent.filter(({ user_id: user }) => user !== null && user !== undefined);
      const users = new Set(known.map(({ user_id: user }) => user)).size;
      const pages = pagesOf(recent);
      return {
        rows: pages,
        request: { path: 'query', body },
        label: NOW.label(users),
        notes: isAll ? [] : [['warn', NOW.limited(count(recent.length)), 'now-limit']],
        element: () => [
          h(
            'div',
            { class: 'figures' },
            fact('users', NOW.users, users, isAll),
            fact('events', NOW.events, recent.length, isAll),
            fact('anonymous', NOW.anonymous, recent.length - known.length, isAll),
          ),
          pageTable(pages.slice(0, TOP)),
        ],
      };
    },
  });

const fact = (name, title, value, isAll) =>
  h(
    'div',
    { class: 'fact', 'data-fact': `now-${name}`, 'data-value': value },
    h('span', { text: title }),
    h('strong', { text: isAll ? count(value) : NOW.orMore(count(value)) }),
  );

function pageTable(pages) {
  if (!pages.length) return h('p', { class: 'hint', text: NOW.none });
  const heading = (text, isNumber) => h('th', { scope: 'col', class: isNumber ? 'number' : null, text });
  return h(
    'div',
    { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': NOW.pages },
    h(
      'table',
      {},
      h('caption', { class: 'unseen', text: NOW.caption }),
      h('thead', {}, h('tr', {}, heading(NOW.page), heading(NOW.views, true), heading(NOW.users, true))),
      h(
        'tbody',
        {},
        pages.map(({ page, views, users }) =>
          h(
            'tr',
            { 'data-page': page },
            h('th', { scope: 'row' }, named(page)),
            h('td', { class: 'number', 'data-value': views, text: count(views) }),
            h('td', { class: 'number', 'data-value': users, text: count(users) }),
          ),
        ),
      ),
    ),
  );
}

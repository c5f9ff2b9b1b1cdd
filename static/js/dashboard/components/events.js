// A table of single events.
import { h, named, plain } from '../dom.js';
import { EVENTS } from '../texts.js';
import { moment } from './moment.js';
import { userLink } from './user.js';

const COLOURS = { page_view: 1, action: 3, conversion: 2 };
/** Pairs of the metadata in a row; the others are shown when it is opened. */
const IN_ROW = 4;

const there = (value) => value !== null && value !== undefined;
const text = (value) => plain(typeof value === 'string' ? value : JSON.stringify(value));

/** The metadata as pairs, with everything else that is known of the event. */
function details({ metadata, event_id: id, received_at: received }, tz) {
  const pairs = Object.entries(metadata ?? {});
  const all = [
    ...pairs.map(([key, value]) => [plain(key), text(value)]),
    ...(there(id) ? [[EVENTS.id, text(id)]] : []),
    ...(there(received) ? [[EVENTS.received, moment(received, tz)]] : []),
  ];
  if (!all.length) return '–';
  const first = pairs.slice(0, IN_ROW).map(([key, value]) => `${plain(key)}: ${text(value)}`);
  return h(
    'details',
    { class: 'event-details' },
    h(
      'summary',
      {},
      h('bdi', { text: first.length ? first.join(', ') : EVENTS.noMetadata }),
      pairs.length > IN_ROW && EVENTS.more(pairs.length - IN_ROW),
    ),
    h(
      'dl',
      {},
      all.map(([key, value]) =>
        h('div', {}, h('dt', {}, h('bdi', { text: key })), h('dd', {}, h('bdi', { text: value }))),
      ),
    ),
  );
}

/** The value of a key of the metadata; of a path, where no such key exists. */
function atPath(metadata, path) {
  if (metadata === null || typeof metadata !== 'object') return undefined;
  if (Object.hasOwn(metadata, path)) return metadata[path];
  const at = path.indexOf('.');
  if (at < 0) return undefined;
  const head = path.slice(0, at);
  return Object.hasOwn(metadata, head) ? atPath(metadata[head], path.slice(at + 1)) : undefined;
}

const cellOf = (value) => h('td', {}, there(value) ? named(text(value)) : '–');

function typeCell({ event_type: type }) {
  const isBasic = Object.hasOwn(COLOURS, type);
  const name = isBasic ? EVENTS.types[type] : there(type) ? text(type) : '–';
  return h('td', {}, h('span', { class: `tag tone-${isBasic ? COLOURS[type] : 8}` }, h('bdi', { text: name })));
}

const userCell = ({ user_id: user }, state) =>
  h('td', {}, there(user) ? userLink(state, String(user)) : h('span', { class: 'hint', text: EVENTS.anonymous }));

/** The columns of events by property: the title, and the cell. */
const COLUMNS = new Map([
  ['ts', [EVENTS.columns.ts, ({ ts }, { tz }) => h('td', { class: 'time', text: there(ts) ? moment(ts, tz) : '–' })]],
  ['event_type', [EVENTS.columns.event_type, typeCell]],
  ['feature', [EVENTS.columns.feature, ({ feature }) => cellOf(feature)]],
  ['user_id', [EVENTS.columns.user_id, userCell]],
  ['url', [EVENTS.columns.url, ({ url }) => cellOf(url)]],
  ['metadata', [EVENTS.columns.metadata, (event, { tz }) => h('td', { class: 'metadata' }, details(event, tz))]],
]);

/** The columns that are shown unless others are chosen: `[property, title]`. */
export const STANDARD = [...COLUMNS].map(([property, [title]]) => [property, title]);

const METADATA = 'metadata.';

/** True for the property of a column. */
export const isColumn = (property) =>
  typeof property === 'string' && (COLUMNS.has(property) || (property.startsWith(METADATA) && property !== METADATA));

/** A column as its title and its cell. */
const columnOf = (property) =>
  COLUMNS.get(property) ?? [
    plain(property.slice(METADATA.length)),
    ({ metadata }) => cellOf(atPath(metadata, property.slice(METADATA.length))),
  ];

/** Makes a table of events, with the chosen properties; `columns` are more cells in front, `[title, cell(event)]`. */
export function eventTable(events, { state, caption, isOfUser = false, columns = [], chosen }) {
  const properties = (chosen ?? [...COLUMNS.keys()]).filter((property) => !(isOfUser && property === 'user_id'));
  const shown = properties.map(columnOf);
  return h(
    'div',
    { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption },
    h(
      'table',
      { class: 'event-table' },
      h('caption', { class: 'unseen', text: caption }),
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          [...columns, ...shown].map(([title]) => h('th', { scope: 'col' }, h('bdi', { text: title }))),
        ),
      ),
      h(
        'tbody',
        {},
        events.map((event) =>
          h(
            'tr',
            { 'data-event': event.event_id },
            columns.map(([, of]) => h('td', { class: 'wraps' }, of(event))),
            shown.map(([, cell]) => cell(event, state)),
          ),
        ),
      ),
    ),
  );
}

/** The rows of a table of all values: the metadata is one column of JSON. */
export const jsonRows = (events) =>
  events.map(({ metadata, ...event }) => ({
    ...event,
    metadata: there(metadata) ? JSON.stringify(metadata) : null,
  }));

// Explorer: single events, the history of a user, and events that were rejected.
import { change, get, getStream, isDemo, query } from '../api.js';
import { openDialog, workForm } from '../components/dialog.js';
import { eventTable, isColumn, jsonRows, STANDARD } from '../components/events.js';
import { moment } from '../components/moment.js';
import { download, field, h, icon, named, plain, segments, toast } from '../dom.js';
import { brief, count } from '../format.js';
import { write } from '../state.js';
import { csv, flat, table } from '../table.js';
import { EXPLORER } from '../texts.js';
import { suggestingInput } from '../values.js';

/** Events of a page, and most events in the list. */
const PAGE = 50;
const MOST = 2_000;
/** Most columns of the list. */
const MOST_COLUMNS = 20;
/** Events of a user that are listed; the download has all. */
const OF_USER = 500;
/** Other ids of a user that are listed. */
const MOST_IDS = 20;
/** Longest id that has to be typed to erase its user. */
const TYPED = 40;

export function explorer(context) {
  const { own } = context.state;
  const tab = EXPLORER.tabs.some(([name]) => name === own.tab) ? own.tab : 'events';
  const tabs = segments(EXPLORER.tab, EXPLORER.tabs, tab, (next) => context.own({ ...own, tab: next }));
  const { panels, before = [] } = { events, user, rejected }[tab](context);
  return {
    title: EXPLORER.title,
    lead: EXPLORER.lead,
    element: h(
      'div',
      { class: 'grid' },
      h('div', { class: 'row tabs' }, tabs),
      before,
      panels.map(({ element }) => element),
    ),
    panels,
  };
}

/** A button below a list that loads its next page. */
function moreButton(load) {
  const button = h(
    'button',
    {
      type: 'button',
      class: 'button more-events',
      onclick: async () => {
        button.disabled = true;
        await load().catch((error) => {
          if (error.name !== 'AbortError') toast(error.message);
          button.disabled = false;
        });
      },
    },
    icon('down'),
    EXPLORER.more,
  );
  return button;
}

/** True while the choice of columns is open. */
let isChoosing = false;

/** The choice of the columns of the table. */
function columnChoice(chosen, set) {
  const box = ([property, title]) =>
    h(
      'label',
      { class: 'check' },
      h('input', {
        type: 'checkbox',
        checked: chosen.includes(property),
        onchange: ({ target }) => {
          const others = chosen.filter((one) => one !== property);
          const names = STANDARD.map(([name]) => name);
          const next = target.checked ? [...others, property] : others;
          // Those of the event in their order, then the keys of the metadata.
          set([...names.filter((name) => next.includes(name)), ...next.filter((name) => !names.includes(name))]);
        },
      }),
      h('bdi', { text: title }),
    );
  const own = chosen.filter((property) => property.startsWith('metadata.'));
  const add = (key) => {
    const property = `metadata.${String(key).replace(/^metadata\./, '')}`;
    if (isColumn(property) && !chosen.includes(property)) set([...chosen, property]);
  };
  const { input, list } = suggestingInput({
    property: () => 'metadata',
    choose: add,
    'aria-label': EXPLORER.keyColumn,
    placeholder: EXPLORER.key,
    maxlength: 200,
    onkeydown: (event) => {
      if (event.key !== 'Enter' || event.isComposing || input.value.trim() === '') return;
      event.preventDefault();
      add(input.value.trim());
    },
  });
  const details = h(
    'details',
    {
      class: 'more columns',
      open: isChoosing,
      ontoggle: () => {
        isChoosing = details.open;
      },
    },
    h('summary', {}, EXPLORER.columns),
    h(
      'div',
      { class: 'options' },
      [...STANDARD, ...own.map((property) => [property, plain(property.slice('metadata.'.length))])].map(box),
      h('div', { class: 'pair' }, input, list),
    ),
  );
  return details;
}

function events(context) {
  const { state, scope, panel } = context;
  const rows = [];
  const given = Array.isArray(state.own.columns) ? state.own.columns.filter(isColumn).slice(0, MOST_COLUMNS) : [];
  const chosen = given.length ? given : STANDARD.map(([property]) => property);
  const choice = columnChoice(chosen, (columns) => context.own({ ...state.own, columns }));
  const body = { metric: 'events', limit: PAGE, ...scope };
  let running;
  const list = panel({
    title: EXPLORER.events,
    name: 'events',
    height: 480,
    tall: true,
    help: EXPLORER.eventsHelp,
    ask: async (signal) => {
      running = signal;
      // Pages that were loaded stay when the view is asked again.
      if (rows.length > PAGE) return list.last;
      const answer = await query(body, signal);
      rows.splice(0, rows.length, ...answer.rows);
      return shown(answer);
    },
  });
  const shown = (answer) => ({
    answer,
    rows: jsonRows(rows),
    request: { path: 'query', body },
    isEmpty: rows.length === 0,
    label: EXPLORER.label(rows.length),
    element: () => [
      choice,
      eventTable(rows, { state, caption: EXPLORER.eventsCaption, chosen }),
      h(
        'div',
        { class: 'row more-row' },
        h('p', {
          class: 'hint',
          'data-listed': rows.length,
          text: (answer.next ? EXPLORER.newest : EXPLORER.allOfDays)(count(rows.length)),
        }),
        answer.next &&
          (rows.length < MOST
            ? moreButton(async () => {
                const next = await query({ ...body, before: answer.next }, running);
                rows.push(...next.rows);
                list.last = shown(next);
                list.show();
              })
            : h('p', { class: 'hint', text: EXPLORER.older })),
      ),
    ],
  });
  return { panels: [list] };
}

/** Reads the history of a user: how many events, the first and the last of them, and the newest ones. */
async function historyOf(id, signal) {
  const response = await getStream(`users/${encodeURIComponent(id)}/events`, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const found = { events: 0, first: null, last: null, types: new Map(), ids: new Set(), newest: [] };
  const newestFirst = () => found.newest.sort((a, b) => Date.parse(b.ts) - Date.parse(a.ts));
  const take = (line) => {
    if (!line.trim()) return;
    const event = JSON.parse(line);
    found.events += 1;
    const at = Date.parse(event.ts);
    if (found.first === null || at < Date.parse(found.first)) found.first = event.ts;
    if (found.last === null || at > Date.parse(found.last)) found.last = event.ts;
    found.types.set(event.event_type, (found.types.get(event.event_type) ?? 0) + 1);
    if (event.user_id) found.ids.add(String(event.user_id));
    found.newest.push(event);
    if (found.newest.length > 4 * OF_USER) newestFirst().length = OF_USER;
  };
  let text = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (text + value).split('\n');
    text = lines.pop();
    lines.forEach(take);
  }
  take(text);
  found.newest = newestFirst().slice(0, OF_USER);
  return found;
}

function user(context) {
  const { state, panel } = context;
  const id = typeof state.own.user === 'string' ? state.own.user : '';
  const input = h('input', {
    type: 'text',
    value: id,
    maxlength: 256,
    required: true,
    autocomplete: 'off',
    spellcheck: 'false',
    placeholder: EXPLORER.example,
  });
  const search = h(
    'form',
    {
      class: 'panel find-user',
      'aria-label': EXPLORER.find,
      onsubmit: (event) => {
        event.preventDefault();
        context.own({ tab: 'user', user: input.value });
      },
    },
    field(EXPLORER.userId, input, EXPLORER.userIdHint),
    h('button', { class: 'button primary' }, EXPLORER.show),
  );
  if (!id) return { panels: [], before: [search] };
  let reading;
  const read = (signal) => {
    reading ??= historyOf(id, signal);
    return reading;
  };
  const request = { path: `users/${encodeURIComponent(id)}/events` };
  const facts = panel({
    title: EXPLORER.user,
    name: 'user',
    height: 130,
    ask: async (signal) => {
      const found = await read(signal);
      return {
        isEmpty: found.events === 0,
        empty: EXPLORER.noUser,
        request,
        rows: [{ user: id, first_seen: found.first, last_seen: found.last, events: found.events }],
        element: () => userFacts(id, found, state),
      };
    },
  });
  const list = panel({
    title: EXPLORER.history,
    name: 'user-events',
    height: 420,
    tall: true,
    help: EXPLORER.historyHelp,
    ask: async (signal) => {
      const found = await read(signal);
      return {
        isEmpty: found.events === 0,
        empty: EXPLORER.noUser,
        request,
        rows: jsonRows(found.newest),
        notes:
          found.events > found.newest.length
            ? [['soft', EXPLORER.limited(count(found.newest.length), count(found.events)), 'limit']]
            : [],
        element: () => eventTable(found.newest, { state, caption: EXPLORER.historyCaption, isOfUser: true }),
      };
    },
  });
  return { panels: [facts, list], before: [search] };
}

/** Links from the page of a user: back to all events, and to views of their events alone. */
function userLinks(id, state) {
  const filter = { ...state.filter, user_id: id };
  const link = (symbol, text, patch) =>
    h('a', { class: 'button', href: write({ ...state, ...patch }) }, icon(symbol), text);
  return [
    link('filter', EXPLORER.theirEvents, { own: {}, filter }),
    link('trends', EXPLORER.theirTrends, { view: 'trends', own: {}, filter }),
    link('explorer', EXPLORER.allEvents, { own: {} }),
  ];
}

function userFacts(id, found, state) {
  const { tz } = state;
  // Ids that were linked to the user are in their events as they were sent.
  const others = [...found.ids].filter((other) => other !== id);
  const fact = (name, title, value, exact) =>
    h(
      'div',
      { class: 'fact', 'data-fact': name, 'data-value': exact },
      h('span', { text: title }),
      h('strong', {}, value),
    );
  return [
    h('p', { class: 'user-name' }, named(id)),
    others.length > 0 &&
      h(
        'p',
        { class: 'hint', 'data-aliases': others.length },
        EXPLORER.otherIds,
        ' ',
        others.slice(0, MOST_IDS).map((other, place) => [place > 0 && ', ', named(other)]),
        others.length > MOST_IDS && EXPLORER.moreIds(count(others.length - MOST_IDS)),
        '.',
      ),
    h(
      'div',
      { class: 'figures' },
      fact('first', EXPLORER.first, moment(found.first, tz), found.first),
      fact('last', EXPLORER.last, moment(found.last, tz), found.last),
      fact('events', EXPLORER.events, count(found.events), found.events),
      [...found.types].map(([type, events]) =>
        fact(`type-${type}`, plain(type).replaceAll('_', ' '), brief(events), events),
      ),
    ),
    h('div', { class: 'row' }, userLinks(id, state)),
    h(
      'div',
      { class: 'row' },
      h(
        'button',
        { type: 'button', class: 'button', 'data-action': 'access', onclick: (event) => save(id, event.target) },
        icon('download'),
        EXPLORER.access,
      ),
      !isDemo &&
        h(
          'button',
          { type: 'button', class: 'button danger', 'data-action': 'erase', onclick: () => askErasure(id) },
          icon('remove'),
          EXPLORER.erase,
        ),
    ),
  ];
}

async function save(id, button) {
  button.disabled = true;
  try {
    const response = await getStream(`users/${encodeURIComponent(id)}/events`);
    download('echopilot-user.ndjson', await response.blob());
  } catch (error) {
    toast(error.message);
  }
  button.disabled = false;
}

/** Asks for the id, or for a word if the id cannot be typed, and erases the user. */
function askErasure(id) {
  const word = plain(id) === id && id.trim() === id && id.length <= TYPED ? id : 'erase';
  const input = h('input', { type: 'text', required: true, autocomplete: 'off', spellcheck: 'false' });
  const events = h('input', { type: 'number', min: 0 });
  const large = h('div', { hidden: true }, field(EXPLORER.eventsToErase, events, EXPLORER.whyAsked));
  openDialog(EXPLORER.eraseTitle, (close) => [
    h('p', {}, EXPLORER.removes, ' ', named(id), ' ', EXPLORER.fromWhere),
    workForm(
      {
        action: EXPLORER.eraseAction,
        isDangerous: true,
        work: async () => {
          if (input.value !== word) throw new Error(EXPLORER.wrongWord(word));
          const confirm = events.value ? `?confirm=${events.value}` : '';
          try {
            return await change('DELETE', `users/${encodeURIComponent(id)}${confirm}`);
          } catch (error) {
            large.hidden = !/confirm/.test(error.code);
            throw error;
          }
        },
        done: (receipt) => {
          close();
          showReceipt(id, receipt);
        },
      },
      field(EXPLORER.confirm(word), input),
      large,
    ),
  ]);
}

function showReceipt(id, receipt) {
  openDialog(EXPLORER.receipt, (close) => [
    h('p', {}, named(id), ' ', EXPLORER.erased),
    h(
      'dl',
      { class: 'receipt', 'data-receipt': '' },
      flat(receipt).map(([name, value]) =>
        h('div', {}, h('dt', { text: name.replaceAll('_', ' ') }), h('dd', {}, h('bdi', { text: plain(value) }))),
      ),
    ),
    h(
      'div',
      { class: 'row' },
      h(
        'button',
        {
          type: 'button',
          class: 'button',
          onclick: () =>
            download(
              'echopilot-erasure.json',
              new Blob([JSON.stringify(receipt, null, 2)], { type: 'application/json' }),
            ),
        },
        icon('download'),
        EXPLORER.saveReceipt,
      ),
      h('button', { type: 'button', class: 'button primary', onclick: close }, EXPLORER.close),
    ),
  ]).addEventListener('close', () => dispatchEvent(new PopStateEvent('popstate')));
}

/** A quarantined event as an event, as far as it is one. */
const asEvent = ({ event, ...rest }) => ({
  ...(event && typeof event === 'object' ? event : { metadata: { event } }),
  ...rest,
});

function rejected({ state, panel }) {
  const held = [];
  let running;
  const path = `quarantine?limit=${PAGE}`;
  let asked;
  const read = (signal) => {
    asked ??= get(path, signal);
    return asked;
  };
  const list = panel({
    title: EXPLORER.quarantine,
    name: 'quarantine',
    height: 300,
    tall: true,
    help: EXPLORER.quarantineHelp,
    controls: !isDemo && [
      h(
        'button',
        {
          type: 'button',
          class: 'button',
          'data-action': 'replay',
          onclick: async ({ target }) => {
            target.disabled = true;
            try {
              const answer = await change('POST', 'quarantine/replay', {});
              toast(
                flat(answer)
                  .filter(([name]) => name !== 'ok')
                  .map(([name, value]) => `${name.replaceAll('_', ' ')}: ${value}`)
                  .join(', '),
              );
              asked = null;
              await Promise.all([list.load(running), counts.load(running)]);
            } catch (error) {
              toast(error.message);
            }
            target.disabled = false;
          },
        },
        icon('refresh'),
        EXPLORER.replay,
      ),
    ],
    ask: async (signal) => {
      running = signal;
      const answer = await read(signal);
      held.splice(0, held.length, ...answer.events);
      return shown(answer);
    },
  });
  const shown = (answer) => ({
    rows: held.map(({ event, ...rest }) => ({ ...rest, event: JSON.stringify(event) })),
    request: { path },
    isEmpty: held.length === 0,
    empty: EXPLORER.noQuarantine,
    csv,
    label: EXPLORER.label(answer.count),
    element: () => [
      eventTable(held.map(asEvent), {
        state,
        caption: EXPLORER.quarantineCaption,
        columns: [[EXPLORER.reason, ({ reason, code }) => h('bdi', { title: plain(code), text: plain(reason) })]],
      }),
      h(
        'div',
        { class: 'row more-row' },
        h('p', {
          class: 'hint',
          'data-listed': held.length,
          text: EXPLORER.listed(count(held.length), count(answer.count)),
        }),
        answer.next &&
          held.length < MOST &&
          moreButton(async () => {
            const next = await get(`${path}&before=${encodeURIComponent(answer.next)}`, running);
            held.push(...next.events);
            list.last = shown(next);
            list.show();
          }),
      ),
    ],
  });
  const counts = panel({
    title: EXPLORER.rejected,
    name: 'rejections',
    height: 200,
    help: EXPLORER.rejectedHelp,
    ask: async (signal) => {
      const { rejections } = await read(signal);
      const codes = Object.entries(rejections.by_code);
      return {
        rows: rejections.recent,
        request: { path },
        isEmpty: codes.length === 0 && rejections.recent.length === 0,
        empty: EXPLORER.noRejected,
        above: h(
          'div',
          { class: 'figures' },
          codes.map(([code, events]) =>
            h(
              'div',
              { class: 'fact', 'data-fact': code, 'data-value': events },
              h('span', { text: plain(code) }),
              h('strong', { text: count(events) }),
            ),
          ),
        ),
        element: () =>
          table(
            rejections.recent.map(({ received_at, code, message }) => ({
              received: moment(received_at, state.tz),
              code,
              message,
            })),
            EXPLORER.rejectedCaption,
          ),
      };
    },
  });
  return { panels: [list, counts] };
}

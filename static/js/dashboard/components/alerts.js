// Alerts on numbers and the weekly digest: a list with their state, and forms.
import { change, get, isDemo } from '../api.js';
import { conditionEditor } from '../conditions.js';
import { field, h, icon, plain, select, toast } from '../dom.js';
import { isDay, longDay, number } from '../format.js';
import { ALERTS } from '../texts.js';
import { confirmRemoval, openDialog, workForm } from './dialog.js';
import { moment } from './moment.js';
import { idFor, textArea } from './saved.js';

/** The numbers of the form: the query, and the value in its result. */
const NUMBERS = new Map([
  ['events', [{ metric: 'trends', days: 1, series: [{ measure: 'events' }] }, 'A']],
  ['users', [{ metric: 'active_users', days: 1 }, 'rows[-1].dau']],
  ['week', [{ metric: 'active_users', days: 7 }, 'rows[-1].wau']],
]);

/** A condition as the server takes it. */
const whenOf = (condition, limit) =>
  ({
    below: () => ({ below: limit }),
    above: () => ({ above: limit }),
    falls: () => ({ changes_by: -limit / 100, against: '7 days before' }),
    rises: () => ({ changes_by: limit / 100, against: '7 days before' }),
  })[condition]();

/** The same in words. */
function whenText(when) {
  if (!when) return '';
  const { below, above, changes_by: by, against } = when;
  if (below !== undefined) return ALERTS.below(number(below));
  if (above !== undefined) return ALERTS.above(number(above));
  return ALERTS.changes(number(by * 100), against);
}

export function alertPanels({ panel, signal, state }) {
  const reload = () => list.load(signal);
  const list = panel({
    title: ALERTS.title,
    name: 'number-alerts',
    height: 160,
    help: ALERTS.help,
    controls:
      !isDemo &&
      [
        [ALERTS.newAlert, askAlert],
        [ALERTS.digest, askDigest],
      ].map(([text, askFor]) =>
        h('button', { type: 'button', class: 'button', onclick: () => askFor(reload, state) }, icon('plus'), text),
      ),
    ask: async (running) => {
      const { alerts } = await get('alerts', running);
      return {
        rows: alerts.map(({ name, value, when, to, state: now = {} }) => ({
          alert: name,
          value,
          condition: whenText(when),
          to: to.join(', '),
          state: now.firing ? ALERTS.fires : ALERTS.quiet,
          since: now.since ?? null,
          current: now.value ?? null,
          error: now.last_error ?? null,
        })),
        request: { path: 'alerts' },
        isEmpty: alerts.length === 0,
        empty: ALERTS.empty,
        element: () =>
          h(
            'ul',
            { class: 'saved-list' },
            alerts.map((one) => alertItem(one, state.tz, reload)),
          ),
      };
    },
  });
  return { panels: [list] };
}

function alertItem(alert, tz, reload) {
  const { id, name, value, when, to, digest, state: now = {} } = alert;
  const label = plain(name);
  const tool = (symbol, text, onclick) =>
    h('button', { type: 'button', class: 'tool', title: text, 'aria-label': text, onclick }, icon(symbol));
  return h(
    'li',
    { 'data-alert': id, 'data-state': now.firing ? 'firing' : 'ok' },
    h(
      'div',
      { class: 'saved-name' },
      h(
        'div',
        { class: 'row' },
        h('bdi', { text: label }),
        h('span', { class: `tag ${now.firing ? 'bad' : 'good'}`, text: now.firing ? ALERTS.fires : ALERTS.quiet }),
      ),
      h(
        'p',
        { class: 'hint' },
        h('bdi', { text: digest ? ALERTS.digestOf(digest) : plain(`${value} ${whenText(when)}`) }),
      ),
      h('small', {}, h('bdi', { text: plain(to.join(', ')) })),
      h('small', {
        text: [
          now.value !== null && now.value !== undefined && ALERTS.now(number(now.value)),
          now.since && ALERTS.since(isDay(now.since) ? longDay(now.since) : moment(now.since, tz)),
        ]
          .filter(Boolean)
          .join(', '),
      }),
      now.last_error && h('p', { class: 'note bad' }, icon('alert'), plain(now.last_error)),
    ),
    !isDemo &&
      h(
        'div',
        { class: 'row' },
        tool('bell', ALERTS.test(label), () =>
          change('POST', `alerts/${id}/test`, {}).then(
            ({ messages, value: found }) => {
              const lost = messages.find(({ error }) => error);
              toast(lost ? plain(lost.error) : ALERTS.sent(typeof found === 'number' ? number(found) : null));
              reload();
            },
            (error) => toast(error.message),
          ),
        ),
        tool('remove', ALERTS.deleteOf(label), () =>
          confirmRemoval(
            ALERTS.deleteOf(label),
            ALERTS.deleteHint,
            ALERTS.delete,
            () => change('DELETE', `alerts/${id}`),
            reload,
          ),
        ),
      ),
  );
}

/** Destinations, one a line. */
function destinations() {
  const to = textArea('');
  to.required = true;
  to.placeholder = 'https://hooks.example.com/…\nmailto:team@example.com';
  return {
    element: field(ALERTS.to, to, ALERTS.toHint),
    value: () => to.value.split(/\s+/).filter(Boolean),
  };
}

/** Creates an alert or digest under an id of its own. */
async function create(alert) {
  const { alerts } = await get('alerts');
  return change('PUT', `alerts/${idFor(alert.name, alerts)}`, alert);
}

function askDigest(reload, { tz }) {
  const name = h('input', { type: 'text', required: true, maxlength: 200, value: ALERTS.digest });
  const to = destinations();
  openDialog(ALERTS.digest, (close) => [
    h('p', { class: 'hint', text: ALERTS.digestHint(tz) }),
    workForm(
      {
        action: ALERTS.create,
        work: () => create({ name: name.value.trim(), digest: 'weekly', ...(tz !== 'UTC' && { tz }), to: to.value() }),
        done: () => {
          close();
          reload();
        },
      },
      field(ALERTS.name, name),
      to.element,
    ),
  ]);
}

function askAlert(reload, { tz }) {
  const name = h('input', { type: 'text', required: true, maxlength: 200 });
  const limit = h('input', { type: 'number', step: 'any', required: true });
  const days = h('input', { type: 'number', min: 1, max: 30, value: 1, required: true });
  const to = destinations();
  const editor = conditionEditor({});
  const chosen = { what: 'events', condition: 'below' };
  openDialog(
    ALERTS.newAlert,
    (close) =>
      workForm(
        {
          action: ALERTS.create,
          work: async () => {
            const filter = editor.value();
            if (!filter) throw new Error(ALERTS.incomplete);
            const [query, value] = NUMBERS.get(chosen.what);
            return create({
              name: name.value.trim(),
              query: { ...query, ...(tz !== 'UTC' && { tz }), ...(Object.keys(filter).length && { filter }) },
              value,
              when: whenOf(chosen.condition, Number(limit.value)),
              for: Number(days.value),
              to: to.value(),
            });
          },
          done: () => {
            close();
            reload();
          },
        },
        field(ALERTS.name, name),
        field(
          ALERTS.number,
          select(
            [...NUMBERS.keys()].map((key) => [key, ALERTS.numbers[key]]),
            chosen.what,
            (what) => {
              chosen.what = what;
            },
          ),
        ),
        h('details', { class: 'more' }, h('summary', {}, ALERTS.some), editor.element),
        field(
          ALERTS.condition,
          select(ALERTS.conditions, chosen.condition, (condition) => {
            chosen.condition = condition;
          }),
          ALERTS.conditionHint,
        ),
        field(ALERTS.limit, limit),
        field(ALERTS.days, days),
        to.element,
      ),
    { wide: true },
  );
}

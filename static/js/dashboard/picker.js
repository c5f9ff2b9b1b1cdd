// The bar above every view: days, zone, filter and cohort.

import { get, isDemo, removeCohort, saveCohort } from './api.js';
import { conditionEditor, describe, describeFilter } from './conditions.js';
import { field, fill, h, icon, id, named, plain, select } from './dom.js';
import { range } from './format.js';
import { reportingZones } from './state.js';

const PRESETS = [
  [7, '7 days'],
  [30, '30 days'],
  [90, '90 days'],
  [180, '180 days'],
  [365, '1 year'],
];

/** A button that opens something below it. */
function popover(label, { symbol, name, active, content, onopen }) {
  const panel = h('div', { class: 'popover', popover: 'auto', id: id('popover'), role: 'dialog', 'aria-label': name });
  const button = h(
    'button',
    {
      type: 'button',
      class: `pick${active ? ' active' : ''}`,
      popovertarget: panel.id,
      'aria-haspopup': 'dialog',
      'data-pick': name.toLowerCase(),
    },
    icon(symbol),
    h('span', { class: 'unseen', text: `${name}: ` }),
    h('span', { class: 'pick-text' }, label),
    icon('down'),
  );
  panel.addEventListener('beforetoggle', (event) => {
    if (event.newState !== 'open') return;
    fill(
      panel,
      content(() => panel.hidePopover()),
    );
    onopen?.();
  });
  panel.addEventListener('toggle', (event) => {
    if (event.newState !== 'open') return;
    const place = button.getBoundingClientRect();
    const width = panel.offsetWidth;
    panel.style.top = `${Math.min(place.bottom + 6, innerHeight - 80)}px`;
    panel.style.left = `${Math.max(8, Math.min(place.left, innerWidth - width - 8))}px`;
    panel.style.maxHeight = `${innerHeight - place.bottom - 24}px`;
    panel.querySelector('input, select, button')?.focus();
  });
  return h('div', { class: 'pick-box' }, button, panel);
}

/** The bar for a state; `change` is called with the changed parts. */
export function picker(state, change, known) {
  const { days, end, tz, filter, cohort } = state;
  const preset = !end && PRESETS.find(([length]) => length === days);
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const rangePick = popover(
    preset ? `Last ${preset[1]}` : `${days} ${days === 1 ? 'day' : 'days'}${end ? ` to ${end}` : ''}`,
    {
      symbol: 'calendar',
      name: 'Days',
      content: (close) => {
        const length = h('input', { type: 'number', min: 1, max: 365, value: days, required: true });
        const last = h('input', { type: 'date', value: end ?? '', max: '9999-12-31' });
        return [
          h(
            'div',
            { class: 'presets' },
            PRESETS.map(([count, text]) =>
              h(
                'button',
                {
                  type: 'button',
                  class: 'preset',
                  'aria-pressed': String(Boolean(preset) && count === days),
                  onclick: () => {
                    close();
                    change({ days: count, end: null });
                  },
                },
                `Last ${text}`,
              ),
            ),
          ),
          h(
            'form',
            {
              class: 'form',
              onsubmit: (event) => {
                event.preventDefault();
                close();
                change({ days: Number(length.value), end: last.value || null });
              },
            },
            field('Number of days', length, '1 to 365'),
            field('Last day', last, 'Empty: today'),
            h('button', { class: 'button primary' }, 'Show'),
          ),
        ];
      },
    },
  );
  const reporting = reportingZones();
  const zones = [...new Set([...reporting, 'UTC', own, tz, ...Intl.supportedValuesOf('timeZone')])];
  const zonePick = popover(tz.replaceAll('_', ' '), {
    symbol: 'globe',
    name: 'Zone',
    active: tz !== reporting[0],
    content: (close) =>
      h(
        'div',
        { class: 'form' },
        field(
          'Days begin at midnight of',
          select(
            zones.map((zone) => [zone, zone === own && zone !== 'UTC' ? `${zone} (yours)` : zone]),
            tz,
            (zone) => {
              close();
              change({ tz: zone });
            },
          ),
          `${[...new Set([...reporting, 'UTC'])].join(', ')}: the fastest, counted in advance.`,
        ),
      ),
  });
  const conditions = Object.entries(filter);
  const filterPick = popover(
    conditions.length ? `${conditions.length} ${conditions.length === 1 ? 'condition' : 'conditions'}` : 'All events',
    {
      symbol: 'filter',
      name: 'Filter',
      active: conditions.length > 0,
      content: (close) => {
        const editor = conditionEditor(filter);
        return h(
          'form',
          {
            class: 'form',
            onsubmit: (event) => {
              event.preventDefault();
              const next = editor.value();
              if (!next) return;
              close();
              change({ filter: next });
            },
          },
          h('p', { class: 'hint', text: 'Only events that meet all conditions are counted.' }),
          editor.element,
          h(
            'div',
            { class: 'row' },
            h('button', { class: 'button primary' }, 'Apply'),
            conditions.length > 0 &&
              h(
                'button',
                {
                  type: 'button',
                  class: 'button',
                  onclick: () => {
                    close();
                    change({ filter: {} });
                  },
                },
                'Remove all',
              ),
          ),
        );
      },
    },
  );
  const cohortPick = popover(cohort ? named(cohort) : 'All users', {
    symbol: 'users',
    name: 'Cohort',
    active: Boolean(cohort),
    content: (close) =>
      cohorts(cohort, (name) => {
        close();
        change({ cohort: name });
      }),
  });
  const chips = conditions.map(([property, test]) =>
    h(
      'span',
      { class: 'chip' },
      h('bdi', { text: plain(describe(property, test)) }),
      h(
        'button',
        {
          type: 'button',
          'aria-label': `Remove the condition ${plain(describe(property, test))}`,
          onclick: () => {
            const { [property]: _, ...rest } = filter;
            change({ filter: rest });
          },
        },
        icon('close'),
      ),
    ),
  );
  return h(
    'div',
    { class: 'picker' },
    rangePick,
    zonePick,
    filterPick,
    cohortPick,
    chips,
    known && h('span', { class: 'known' }, known),
  );
}

export const shownRange = (window) => window && `${range(window.from, window.to)}`;

function cohorts(chosen, choose) {
  const list = h('div', { class: 'presets' }, h('p', { class: 'hint', text: 'Loading…' }));
  const problem = h('p', { class: 'note bad', role: 'alert', hidden: true });
  const show = (found) =>
    fill(
      list,
      h(
        'button',
        { type: 'button', class: 'preset', 'aria-pressed': String(!chosen), onclick: () => choose(null) },
        'All users',
      ),
      found.map((cohort) =>
        h(
          'div',
          { class: 'row' },
          h(
            'button',
            {
              type: 'button',
              class: 'preset',
              'aria-pressed': String(cohort.name === chosen),
              onclick: () => choose(cohort.name),
            },
            named(cohort.name),
            h(
              'small',
              {},
              h('bdi', {
                text: plain(
                  cohort.did
                    ? `${describeFilter(cohort.did.filter)}, ${cohort.did.at_least}× or more`
                    : `${cohort.users.length} users`,
                ),
              }),
            ),
          ),
          !isDemo &&
            h(
              'button',
              {
                type: 'button',
                class: 'tool',
                'aria-label': `Delete the cohort ${plain(cohort.name)}`,
                onclick: () =>
                  removeCohort(cohort.name).then((answer) => {
                    if (cohort.name === chosen) choose(null);
                    else show(answer.cohorts);
                  }, failed),
              },
              icon('close'),
            ),
        ),
      ),
      !found.length && h('p', { class: 'hint', text: 'No cohorts yet.' }),
    );
  const failed = (error) => {
    problem.hidden = false;
    problem.textContent = error.message;
  };
  get('cohorts').then((answer) => show(answer.cohorts), failed);
  const name = h('input', { type: 'text', maxlength: 100, required: true, placeholder: 'for example buyers' });
  const times = h('input', { type: 'number', min: 1, value: 1, required: true });
  const editor = conditionEditor({});
  return [
    list,
    problem,
    !isDemo &&
      h(
        'details',
        { class: 'more' },
        h('summary', {}, 'New cohort'),
        h(
          'form',
          {
            class: 'form',
            onsubmit: (event) => {
              event.preventDefault();
              const wanted = editor.value();
              if (wanted)
                saveCohort({ name: name.value, did: { filter: wanted, at_least: Number(times.value) } }).then(
                  () => choose(name.value),
                  failed,
                );
            },
          },
          field('Name', name),
          h('p', {
            class: 'hint',
            text: 'Users with at least this number of events in the selected days that meet all conditions:',
          }),
          editor.element,
          field('Events', times),
          h('button', { class: 'button primary' }, 'Save'),
        ),
      ),
  ];
}

// The bar above every view: days, zone, filter and cohort.

import { isDemo } from './api.js';
import { cohortChoice } from './cohorts.js';
import { cohortWords, conditionEditor, describeFilter, singly } from './conditions.js';
import { field, fill, h, icon, id, named, plain, select } from './dom.js';
import { exportButton } from './export.js';
import { addDays, counted, dayIn, isDay, range, shortDay } from './format.js';
import {
  between,
  calendar,
  cohortsOf,
  joinedCohorts,
  keptFrom,
  lastDays,
  rememberZone,
  reportingZones,
  safeZone,
  scope,
  windowOf,
} from './state.js';
import { COHORT, FILTER, PICKER, WINDOW } from './texts.js';
import { PERIODS } from './window.js';

/** A button that opens something below it. */
function popover(label, { symbol, pick, active, content, onopen }) {
  const name = PICKER[pick];
  const panel = h('div', { class: 'popover', popover: 'auto', id: id('popover'), role: 'dialog', 'aria-label': name });
  const button = h(
    'button',
    {
      type: 'button',
      class: `pick${active ? ' active' : ''}`,
      popovertarget: panel.id,
      'aria-haspopup': 'dialog',
      'data-pick': pick,
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

/** The days of a state in words. */
function daysText({ days, end, period, from, to }) {
  if (period) return WINDOW.periods[period];
  if (from) return to && isDay(from) && isDay(to) ? range(from, to) : `${from} – ${to ?? ''}`;
  const preset = !end && WINDOW.presets.find(([length]) => length === days);
  return preset ? WINDOW.last(preset[1]) : PICKER.length(counted(days, 'day'), end);
}

/** The choice of days: the last ones, a calendar period, or the days between two. */
function daysChoice(state, choose) {
  const { days, end, period, from, to } = state;
  const isLast = !period && !from;
  const choice = (text, isChosen, patch) =>
    h(
      'button',
      { type: 'button', class: 'preset', 'aria-pressed': String(isChosen), onclick: () => choose(patch) },
      text,
    );
  const date = (value, props) => h('input', { type: 'date', value: value ?? '', max: '9999-12-31', ...props });
  const length = h('input', { type: 'number', min: 1, max: 365, value: days, required: true });
  const last = date(isLast ? end : null);
  const shownEnd = end && isDay(end) ? end : dayIn('UTC', Date.now());
  const first = date(from ?? addDays(shownEnd, 1 - Math.min(Math.max(days, 1), 365)), { required: true });
  const until = date(to ?? shownEnd, { required: true });
  const submit = (patch) => (event) => {
    event.preventDefault();
    choose(patch());
  };
  return [
    h(
      'div',
      { class: 'presets two' },
      h(
        'div',
        {},
        WINDOW.presets.map(([count, text]) =>
          choice(WINDOW.last(text), isLast && !end && count === days, lastDays(count)),
        ),
      ),
      h(
        'div',
        { class: 'periods' },
        PERIODS.map((name) => choice(WINDOW.periods[name], name === period, calendar(name))),
      ),
    ),
    h(
      'form',
      {
        class: 'form',
        onsubmit: submit(() => between(...[first.value, until.value].sort())),
      },
      h('div', { class: 'pair' }, field(WINDOW.from, first), field(WINDOW.to, until)),
      h('button', { class: 'button primary' }, WINDOW.show),
    ),
    h(
      'form',
      { class: 'form', onsubmit: submit(() => lastDays(Number(length.value), last.value || null)) },
      h(
        'div',
        { class: 'pair top' },
        field(WINDOW.days, length, PICKER.lengths),
        field(WINDOW.end, last, WINDOW.endHint),
      ),
      h('button', { class: 'button' }, WINDOW.showDays),
    ),
  ];
}

/** The bar for a state, of which live events have the zone only; `change` is called with the changed parts. */
export function picker(state, change, { isZoneOnly } = {}) {
  const { tz, filter } = state;
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const rangePick = popover(daysText(state), {
    symbol: 'calendar',
    pick: 'days',
    content: (close) =>
      daysChoice(state, (patch) => {
        close();
        change(patch);
      }),
  });
  const reporting = reportingZones();
  const zones = [...new Set([...reporting, 'UTC', own, tz, ...Intl.supportedValuesOf('timeZone')])];
  const zonePick = popover(tz.replaceAll('_', ' '), {
    symbol: 'globe',
    pick: 'zone',
    active: tz !== reporting[0],
    content: (close) =>
      h(
        'div',
        { class: 'form' },
        field(
          WINDOW.zone,
          select(
            zones.map((zone) => [zone, zone === own && zone !== 'UTC' ? WINDOW.yours(zone) : zone]),
            tz,
            (zone) => {
              close();
              rememberZone(zone);
              change({ tz: zone });
            },
          ),
          WINDOW.counted([...new Set([...reporting, 'UTC'])].join(', ')),
        ),
        keptFrom() && h('p', { class: 'hint', text: WINDOW.others(shortDay(keptFrom())) }),
      ),
  });
  if (isZoneOnly) return h('div', { class: 'picker' }, zonePick);
  const conditions = singly(filter);
  const filterPick = popover(conditions.length ? PICKER.conditions(conditions.length) : PICKER.all, {
    symbol: 'filter',
    pick: 'filter',
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
        h('p', { class: 'hint', text: FILTER.hint }),
        editor.element,
        h(
          'div',
          { class: 'row' },
          h('button', { class: 'button primary' }, FILTER.apply),
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
              FILTER.removeAll,
            ),
        ),
      );
    },
  });
  const cohorts = cohortsOf(state);
  const setCohorts = (list) => change({ cohort: joinedCohorts(list) });
  const cohortPick = popover(cohorts.length ? named(cohortWords(cohorts)) : COHORT.all, {
    symbol: 'users',
    pick: 'cohort',
    active: cohorts.length > 0,
    content: (close) =>
      cohortChoice(cohorts, daysOf(state), (list) => {
        close();
        setCohorts(list);
      }),
  });
  const chip = (words, label, onclick) =>
    h(
      'span',
      { class: 'chip' },
      h('bdi', { text: plain(words), title: plain(words) }),
      h('button', { type: 'button', 'aria-label': label, onclick }, icon('close')),
    );
  const chips = conditions.map(([words, rest]) =>
    chip(words, PICKER.drop(plain(words)), () => change({ filter: rest })),
  );
  // One cohort is in its button.
  const several = cohorts.length > 1 ? cohorts : [];
  chips.push(
    ...several.map((one, place) => {
      const words = cohortWords(one);
      return chip(words, COHORT.drop(plain(words)), () => setCohorts(cohorts.toSpliced(place, 1)));
    }),
  );
  return h('div', { class: 'picker' }, rangePick, zonePick, filterPick, cohortPick, chips, !isDemo && exported(state));
}

/** The first and last day of a state. */
function daysOf({ days, end, tz }) {
  const to = end && isDay(end) ? end : dayIn(safeZone(tz), Date.now());
  return { from: addDays(to, 1 - Math.min(Math.max(days, 1), 365)), to };
}

/** The button that exports the events of the days. */
function exported(state) {
  const { tz } = state;
  const window = { ...windowOf(state), ...(tz !== 'UTC' && { tz }) };
  const { filter } = scope(state);
  return exportButton({ ...daysOf(state), zone: tz, window, filter, words: filter && describeFilter(filter) });
}

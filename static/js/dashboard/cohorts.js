// Cohorts: the list to choose from, the form for a new one, and the dialog that saves users of a chart as one.
import { get, isDemo, removeCohort, saveCohort } from './api.js';
import { openDialog, workForm } from './components/dialog.js';
import { cohortWords, conditionEditor, describe, describeFilter, stepName } from './conditions.js';
import { field, fill, h, icon, named, plain, select } from './dom.js';
import { counted, period, range } from './format.js';
import { cohortsOf, joinedCohorts, write } from './state.js';
import { COHORT } from './texts.js';

const isOf = (name) => (one) => one === name;
const isNot = (name) => (one) => one?.not === name;
const without = (chosen, name) => chosen.filter((one) => one !== name && one?.not !== name);

/** The window of a cohort in words. */
function windowWords({ days, from, to, period: name }) {
  if (from) return COHORT.ofDays(to ? range(from, to) : `${from} –`);
  if (name) return COHORT.ofPeriod(name.replaceAll('_', ' '));
  return days ? COHORT.of(days) : '';
}

/** The definition of a cohort in words; a key that may only read gets no list of users. */
function definitionWords({ did, step, cell, last, users, window }) {
  const words = () => {
    if (did) return COHORT.did(describeFilter(did.filter), did.at_least ?? 1);
    if (users) return counted(users.length, 'user');
    if (last) return COHORT.last(describe(last.property, last.is));
    if (step) {
      const { steps } = step.funnel;
      const names = [step.reached, step.not_reached].map((place) => place && stepName(steps[place - 1] ?? {}));
      return COHORT.step(...names);
    }
    if (cell) {
      const { grain = 'week' } = cell.retention;
      return COHORT.cell(period(cell.cohort, grain), COHORT.units[grain], cell.period, cell.returned !== false);
    }
    return COHORT.hidden;
  };
  return [words(), window && windowWords(window)].filter(Boolean).join(', ');
}

/** A choice of the window of a cohort; `fixed` is that of the numbers on the screen. */
function windowChoice(fixed, isFixed) {
  const options = [...COHORT.windows, ['fixed', COHORT.fixed(range(fixed.from, fixed.to))]];
  let chosen = isFixed ? 'fixed' : '';
  const element = field(
    COHORT.window,
    select(options, chosen, (value) => {
      chosen = value;
    }),
  );
  const value = () => {
    if (!chosen) return {};
    return { window: chosen === 'fixed' ? fixed : { days: Number(chosen) } };
  };
  return { element, value };
}

/**
 * The cohorts to choose from, and the form for a new one. `chosen` are the conditions of the state, `choose(list)` gets the
 * new ones, and `days` are the first and last day of the state.
 */
export function cohortChoice(chosen, days, choose) {
  const list = h('div', { class: 'presets' }, h('p', { class: 'hint', text: COHORT.loading }));
  const problem = h('p', { class: 'note bad', role: 'alert', hidden: true });
  const known = new Set();
  const failed = (error) => {
    problem.hidden = false;
    problem.textContent = error.message;
  };
  const show = (found) => {
    known.clear();
    for (const { name } of found) known.add(name);
    fill(
      list,
      h(
        'button',
        { type: 'button', class: 'preset', 'aria-pressed': String(!chosen.length), onclick: () => choose([]) },
        COHORT.all,
      ),
      found.map((cohort) => row(cohort, chosen, choose, { show, failed })),
      !found.length && h('p', { class: 'hint', text: COHORT.none }),
    );
  };
  get('cohorts').then((answer) => show(answer.cohorts), failed);
  return [
    list,
    problem,
    !isDemo &&
      h(
        'details',
        { class: 'more' },
        h('summary', {}, COHORT.new),
        newCohort(days, { known, failed, saved: (name) => choose([name]) }),
      ),
  ];
}

function row(cohort, chosen, choose, { show, failed }) {
  const { name } = cohort;
  const text = plain(name);
  const isExcluded = chosen.some(isNot(name));
  const isIncluded = chosen.some(isOf(name));
  const others = without(chosen, name);
  const small = (word, label, isPressed, next) =>
    h(
      'button',
      {
        type: 'button',
        class: 'tool word',
        'aria-label': label,
        'aria-pressed': String(isPressed),
        onclick: () => choose(next),
      },
      word,
    );
  return h(
    'div',
    { class: 'row' },
    h(
      'button',
      { type: 'button', class: 'preset', 'aria-pressed': String(isIncluded), onclick: () => choose([name]) },
      named(name),
      h('small', {}, h('bdi', { text: plain(definitionWords(cohort)) })),
    ),
    others.length > 0 && small(COHORT.and, COHORT.andUsers(text), isIncluded, isIncluded ? others : [...others, name]),
    small(COHORT.not, COHORT.notUsers(text), isExcluded, isExcluded ? others : [...others, { not: name }]),
    !isDemo &&
      removeButton(cohort, { done: (left) => (chosen.length > others.length ? choose(others) : show(left)), failed }),
  );
}

function removeButton({ name }, { done, failed }) {
  return h(
    'button',
    {
      type: 'button',
      class: 'tool',
      'aria-label': COHORT.remove(plain(name)),
      // The first press asks, the second deletes.
      onclick: ({ currentTarget: button }) => {
        if (button.dataset.asks) {
          removeCohort(name).then((answer) => done(answer.cohorts), failed);
          return;
        }
        button.dataset.asks = 'true';
        button.classList.add('asks');
        button.setAttribute('aria-label', COHORT.reallyRemove(plain(name)));
        fill(button, COHORT.delete);
      },
    },
    icon('close'),
  );
}

/** The controls of a kind of cohort; `value()` returns its definition, or throws what is missing. */
const KINDS = {
  did: (days) => {
    const editor = conditionEditor({});
    const times = h('input', { type: 'number', min: 1, value: 1, required: true });
    const window = windowChoice(days);
    return {
      elements: [
        h('p', { class: 'hint', text: COHORT.hint }),
        editor.element,
        field(COHORT.events, times),
        window.element,
      ],
      value: () => {
        const filter = editor.value();
        return filter && { did: { filter, at_least: Number(times.value) }, ...window.value() };
      },
    };
  },
  last: (days) => {
    const editor = conditionEditor({});
    const window = windowChoice(days);
    return {
      elements: [h('p', { class: 'hint', text: COHORT.lastHint }), editor.element, window.element],
      value: () => {
        const filter = editor.value();
        if (!filter) return null;
        const all = Object.entries(filter);
        if (all.length !== 1 || ['any', 'not'].includes(all[0][0])) throw new Error(COHORT.oneCondition);
        return { last: { property: all[0][0], is: all[0][1] }, ...window.value() };
      },
    };
  },
  users: () => {
    const text = h('textarea', { rows: 6, required: true, spellcheck: 'false', autocomplete: 'off' });
    return {
      elements: [field(COHORT.ids, text, COHORT.idsHint)],
      value: () => {
        const users = [...new Set(text.value.split('\n').map((line) => line.trim()))].filter(Boolean);
        if (!users.length) throw new Error(COHORT.noIds);
        return { users };
      },
    };
  },
};

/** Throws once if a cohort has that name already; the second time it is replaced. */
function nameCheck() {
  let asked = null;
  return (name, known) => {
    if (!known.has(name) || asked === name) return;
    asked = name;
    throw new Error(COHORT.exists(plain(name)));
  };
}

function newCohort(days, { known, failed, saved }) {
  const name = h('input', { type: 'text', maxlength: 100, required: true, placeholder: COHORT.example });
  const check = nameCheck();
  const part = h('div', { class: 'form' });
  let kind;
  const show = (next) => {
    kind = KINDS[next](days);
    fill(part, kind.elements);
  };
  show('did');
  return h(
    'form',
    {
      class: 'form',
      onsubmit: (event) => {
        event.preventDefault();
        try {
          const definition = kind.value();
          if (!definition) return;
          check(name.value, known);
          saveCohort({ name: name.value, ...definition }).then(() => saved(name.value), failed);
        } catch (error) {
          failed(error);
        }
      },
    },
    field(COHORT.name, name),
    field(COHORT.who, select(COHORT.kinds, 'did', show)),
    part,
    h('button', { class: 'button primary' }, COHORT.save),
  );
}

/**
 * Asks for a name, and saves users of a chart as a cohort. `words` says who they are, `definition` is that of the cohort
 * without name and window, `window` has the first and last day of the chart; with `isFixed` it has to be this one.
 */
export function askCohort(state, { name: suggested, words, definition, window, isFixed }) {
  const name = h('input', { type: 'text', maxlength: 100, required: true, value: suggested });
  const days = windowChoice(window, true);
  const check = nameCheck();
  const body = h('div', { class: 'form' });
  const limits = cohortsOf(state);
  openDialog(COHORT.title, (close) => {
    fill(
      body,
      h('p', {}, h('bdi', { text: plain(words) })),
      limits.length > 0 && h('p', { class: 'note soft' }, icon('users'), COHORT.unlimited(plain(cohortWords(limits)))),
      workForm(
        {
          action: COHORT.save,
          work: async () => {
            const { cohorts } = await get('cohorts');
            check(name.value, new Set(cohorts.map((one) => one.name)));
            await saveCohort({ name: name.value, ...definition, ...(isFixed ? { window } : days.value()) });
          },
          done: () => fill(body, savedWords(state, [...limits, name.value], close)),
        },
        field(COHORT.name, name),
        isFixed ? h('p', { class: 'hint', text: COHORT.ofDays(range(window.from, window.to)) }) : days.element,
      ),
    );
    return body;
  });
}

/** The next steps with a cohort that was saved. */
function savedWords(state, chosen, close) {
  const cohort = joinedCohorts(chosen);
  const to = (patch, text, action) =>
    h(
      'a',
      { class: 'button', 'data-action': action, href: write({ ...state, cohort, ...patch }), onclick: close },
      text,
    );
  return [
    h('p', { role: 'status' }, COHORT.saved, ' ', named(chosen.at(-1))),
    h(
      'div',
      { class: 'row' },
      to({ view: 'explorer', own: {} }, COHORT.theirEvents, 'their-events'),
      to({ view: 'trends', own: {} }, COHORT.theirTrends, 'their-trends'),
      to({}, COHORT.here, 'use-here'),
    ),
  ];
}

// Editors of filters: conditions on the properties of events, with the known features to choose from.

import { query } from './api.js';
import { declaredFeatures, eventTypes, moreTypes } from './declared.js';
import { field, fill, h, icon, id, plain, select, toast } from './dom.js';
import { EVENT, FILTER } from './texts.js';
import { shown, suggestingInput, valuePicker } from './values.js';

/** Limit of the suggested features. */
const OFFERED = 500;

let features = null;

/** The features of the last quarter, most used first; fetched once. */
export function knownFeatures() {
  features ??= query({ metric: 'feature_usage', days: 90, limit: OFFERED }).then(
    ({ rows }) => rows.map(({ feature }) => feature),
    () => {
      features = null;
      return [];
    },
  );
  return features;
}

const listId = 'known-features';

/** The list of suggestions of the inputs; it is filled when the first input is used. */
export function featureList() {
  return h('datalist', { id: listId });
}

async function offer() {
  const list = document.getElementById(listId);
  if (!list || list.dataset.filled) return;
  list.dataset.filled = 'true';
  const [known, declared] = await Promise.all([knownFeatures(), declaredFeatures()]);
  fill(
    list,
    [...new Set([...known, ...declared])].map((feature) => h('option', { value: feature })),
  );
}

/** A text input that suggests features. */
export function featureInput(value, onchange, props = {}) {
  return h('input', {
    type: 'text',
    value: value ?? '',
    list: listId,
    maxlength: 200,
    autocomplete: 'off',
    spellcheck: 'false',
    placeholder: EVENT.anyFeature,
    ...props,
    onfocus: offer,
    onchange: (event) => onchange(event.target.value),
  });
}

/** The event types of every store, with their names. */
const EVENT_TYPES = [['', FILTER.any], ...Object.entries(FILTER.types)];

const typeName = (type) => (Object.hasOwn(FILTER.types, type) ? FILTER.types[type] : String(type));

const METADATA = 'metadata.';
/** The keys of a filter whose values are filters. */
const ANY = 'any';
const NOT = 'not';
const COHORT = 'cohort';
/** The tests that search in strings, and can ignore case. */
const SEARCHES = ['contains', 'prefix', 'suffix', 'matches'];

const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);
const isScalar = (value) => value !== null && typeof value !== 'object';
const isValues = (test) => (Array.isArray(test) ? test.length > 0 && test.every(isScalar) : isScalar(test));

/** The kind of a test; `other` if the editor has no controls for it. */
function kindOf(test) {
  if (isValues(test)) return 'is';
  if (!isObject(test)) return 'other';
  const names = Object.keys(test).filter((name) => name !== 'ignore_case');
  const [name] = names;
  if (names.length === 1) {
    if (SEARCHES.includes(name) && typeof test[name] === 'string') return name;
    if ('ignore_case' in test) return 'other';
    if (name === 'exists') return test.exists ? 'there' : 'missing';
    if (name === 'above' || name === 'below') return name;
    if (name === 'not') {
      if (isValues(test.not)) return 'isnt';
      return kindOf(test.not) === 'contains' ? 'lacks' : 'other';
    }
  }
  const isRange = names.length > 0 && names.every((limit) => ['min', 'max'].includes(limit));
  return isRange && !('ignore_case' in test) ? 'range' : 'other';
}

/** The single tests of a property: those of a list under `all`, or the only one. */
const testsOf = (test) =>
  isObject(test) && Object.keys(test).length === 1 && Array.isArray(test.all) && test.all.length > 1
    ? test.all.flatMap(testsOf)
    : [test];

const joined = (tests) => (tests.length === 1 ? tests[0] : { all: tests });

const nameOfProperty = (property) =>
  property.startsWith(METADATA) ? property.slice(METADATA.length) : property.replace('_', ' ');

/** A test in words. */
function wordsOf(property, test) {
  const { says } = FILTER;
  const write = (value) => shown(property === 'event_type' && typeof value === 'string' ? typeName(value) : value);
  const words = {
    is: () => says.is([test].flat().map(write)),
    isnt: () => says.isnt([test.not].flat().map(write)),
    lacks: () => says.lacks(shown(test.not.contains)),
    range: () => says.range(test.min, test.max),
    above: () => says.above(test.above),
    below: () => says.below(test.below),
    there: () => says.there,
    missing: () => says.missing,
    other: () => shown(test),
  };
  const kind = kindOf(test);
  return SEARCHES.includes(kind) ? says[kind](shown(test[kind])) : words[kind]();
}

/** Cohorts in words: the name of each, or `{not: name}`. */
export const cohortWords = (cohorts) =>
  [cohorts]
    .flat()
    .map((one) => (typeof one === 'string' ? one : FILTER.says.notIn(shown(one?.not))))
    .join(FILTER.says.and);

/** A condition in words. */
export function describe(property, test) {
  const { says } = FILTER;
  const group = (filter) => (isObject(filter) ? describeFilter(filter) : shown(filter));
  if (property === ANY && Array.isArray(test)) return `(${test.map(group).join(says.orElse)})`;
  if (property === NOT && isObject(test)) return says.not(group(test));
  if (property === COHORT) return says.cohort(cohortWords(test));
  return testsOf(test)
    .map((one) => `${nameOfProperty(property)} ${wordsOf(property, one)}`)
    .join(says.and);
}

/** A filter in words. */
export function describeFilter(filter) {
  const all = Object.entries(filter);
  return all.length ? all.map(([property, test]) => describe(property, test)).join(FILTER.says.and) : FILTER.any;
}

/** A step in few words: `reports (action), plan is pro`. */
export function stepName(filter) {
  const { event_type: type, feature, ...rest } = filter;
  const isText = (value) => value === undefined || typeof value === 'string';
  if (!isText(type) || !isText(feature) || (!type && !feature)) return describeFilter(filter);
  const name = feature ? `${shown(feature)}${type ? ` (${typeName(type)})` : ''}` : EVENT.any(typeName(type));
  return [name, ...Object.entries(rest).map(([property, test]) => describe(property, test))].join(', ');
}

/** The conditions of a filter one by one: `[words, filter without it]`. */
export function singly(filter) {
  return Object.entries(filter).flatMap(([property, test]) => {
    const { [property]: _, ...rest } = filter;
    const tests = property === ANY || property === NOT ? [test] : testsOf(test);
    return tests.map((one, place) => [
      describe(property, one),
      tests.length === 1 ? rest : { ...filter, [property]: joined(tests.filter((_, at) => at !== place)) },
    ]);
  });
}

/** The filter of events that meet both filters; `null` if it cannot be written. */
export function bothHold(one, other) {
  const isApart = Object.keys(other).every((property) => !(property in one));
  if (isApart) return { ...one, ...other };
  if (!(ANY in one)) return { ...one, [ANY]: [other] };
  return NOT in one ? null : { ...one, [NOT]: { [NOT]: other } };
}

/** A row of the editor for a test of a property. Without a change it stays what it was. */
function rowOf(property, test) {
  const isMetadata = property.startsWith(METADATA);
  const kind = kindOf(test);
  const inner = kind === 'isnt' || kind === 'lacks' ? test.not : test;
  return {
    property: isMetadata ? 'metadata' : property,
    key: isMetadata ? property.slice(METADATA.length) : '',
    test: kind,
    values: kind === 'is' || kind === 'isnt' ? [inner].flat() : [],
    text: SEARCHES.includes(kind) ? test[kind] : kind === 'lacks' ? inner.contains : undefined,
    ignoreCase: isObject(inner) && inner.ignore_case === true,
    min: test?.min ?? '',
    max: test?.max ?? '',
    limit: test?.above ?? test?.below ?? '',
    other: kind === 'other' ? test : null,
  };
}

const fresh = () => ({ ...rowOf('feature', { exists: true }), test: 'is' });
const rowsOf = (filter) =>
  Object.entries(filter).flatMap(([property, test]) => testsOf(test).map((one) => rowOf(property, one)));
/** True for a filter whose conditions all are on properties, which alternatives are in the editor. */
const isFlat = (filter) => isObject(filter) && !(ANY in filter) && !(NOT in filter);

const nameOf = ({ property, key }) => (property === 'metadata' ? `${METADATA}${key}` : property);

/** A condition for the server: `test`, or the `problem` with it. */
function checked({ property, key, test, picker, text, ignoreCase, min, max, limit, other }) {
  const { problems } = FILTER;
  if (property === 'metadata' && !key) return { problem: problems.key };
  if (test === 'other') return { test: other };
  if (test === 'there' || test === 'missing') return { test: { exists: test === 'there' } };
  if (SEARCHES.includes(test) || test === 'lacks') {
    if (text === undefined) return { problem: problems.text };
    const search = { [test === 'lacks' ? 'contains' : test]: text, ...(ignoreCase && { ignore_case: true }) };
    return { test: test === 'lacks' ? { not: search } : search };
  }
  if (test === 'above' || test === 'below')
    return limit === '' ? { problem: problems.limit } : { test: { [test]: Number(limit) } };
  if (test === 'range') {
    const limits = {};
    if (min !== '') limits.min = Number(min);
    if (max !== '') limits.max = Number(max);
    if (!Object.keys(limits).length) return { problem: problems.limits };
    return limits.min > limits.max ? { problem: problems.order } : { test: limits };
  }
  const entered = picker.values();
  if (!entered.length) return { problem: problems.value };
  const values = entered.length === 1 ? entered[0] : entered;
  return { test: test === 'isnt' ? { not: values } : values };
}

/** The filter of some rows; `null` if one has a problem, which the row then has too. */
function filterOf(rows) {
  const found = new Map();
  for (const row of rows) {
    delete row.problem;
    const { test, problem } = checked(row);
    const name = nameOf(row);
    if (problem) row.problem = problem;
    else found.set(name, [...(found.get(name) ?? []), test]);
  }
  if (rows.some((row) => row.problem)) return null;
  return Object.fromEntries([...found].map(([name, tests]) => [name, joined(tests)]));
}

const link = (text, label, onclick) =>
  h('button', { type: 'button', class: 'link', 'aria-label': label, onclick }, icon('plus'), text);

/**
 * Editor of a filter: conditions that all must hold, and alternatives of which at least one must. `value()` returns the
 * filter, or `null` if a condition has a problem, which is then shown. What the editor has no controls for is kept.
 */
export function conditionEditor(filter) {
  const { [ANY]: any, [NOT]: not, ...flat } = filter;
  const isEditable = Array.isArray(any) && any.length > 0 && any.every(isFlat);
  const kept = { ...(any !== undefined && !isEditable && { [ANY]: any }), ...(not !== undefined && { [NOT]: not }) };
  const rows = rowsOf(flat);
  const alternatives = isEditable ? any.map(rowsOf) : [];
  // The row that is offered is not a condition until the user changes it.
  const offered = Object.keys(filter).length ? null : fresh();
  if (offered) rows.push(offered);
  const isUntouched = (row) =>
    row === offered &&
    row.picker.values().length === 0 &&
    ['property', 'key', 'test'].every((name) => row[name] === fresh()[name]);
  const element = h('div', { class: 'conditions' });
  const list = (of, label, onempty) =>
    of.map((row, place) =>
      editRow(row, label(place + 1), show, () => {
        of.splice(place, 1);
        if (!of.length) onempty?.();
        show();
      }),
    );
  const show = (focus) => {
    for (const row of [...rows, ...alternatives.flat()]) keep(row);
    fill(
      element,
      list(rows, FILTER.condition),
      Object.entries(kept).map(([property, test]) =>
        h(
          'div',
          { class: 'condition' },
          h('bdi', { text: plain(describe(property, test)) }),
          h(
            'button',
            {
              type: 'button',
              class: 'tool',
              'aria-label': FILTER.remove(plain(describe(property, test))),
              onclick: () => {
                delete kept[property];
                show();
              },
            },
            icon('close'),
          ),
        ),
      ),
      link(FILTER.add, null, () => {
        rows.push(fresh());
        show(`[aria-label="${FILTER.of(FILTER.condition(rows.length), 'property')}"]`);
      }),
      alternatives.length > 0 &&
        h(
          'fieldset',
          { class: 'alternatives' },
          h('legend', { text: FILTER.anyTitle }),
          alternatives.map((alternative, place) => [
            place > 0 && h('span', { class: 'hint', text: FILTER.or }),
            list(
              alternative,
              (at) => FILTER.alternative(place + 1, at),
              () => alternatives.splice(place, 1),
            ),
            link(FILTER.and, FILTER.andAlso(place + 1), () => {
              alternative.push(fresh());
              show();
            }),
          ]),
          link(FILTER.addAlternative, null, () => {
            alternatives.push([fresh()]);
            show();
          }),
        ),
      !alternatives.length &&
        !(ANY in kept) &&
        link(FILTER.addAny, null, () => {
          alternatives.push([fresh()], [fresh()]);
          show();
        }),
    );
    if (focus) element.querySelector(focus)?.focus();
  };
  show();
  const value = () => {
    const all = filterOf(rows.filter((row) => !isUntouched(row)));
    const each = alternatives.map(filterOf);
    const isWrong = all === null || each.includes(null);
    if (isWrong || element.querySelector('.condition .note')) show('.condition:has(.note) :is(input, select)');
    return isWrong ? null : { ...all, ...(each.length && { [ANY]: each }), ...kept };
  };
  return { element, value };
}

/** Values to suggest where the server suggests none, and those of the plan. */
const KNOWN = { feature: knownFeatures };
const DECLARED = { event_type: eventTypes, feature: declaredFeatures };

/** Keeps what was picked in a row before it is drawn again. */
function keep(row) {
  if (row.picker) row.values = row.picker.values();
}

function editRow(row, label, show, remove) {
  const set = (name, redraw) => (value) => {
    row[name] = value;
    if (redraw) show();
  };
  const input = (name, props = {}) =>
    h('input', {
      type: 'text',
      value: row[name] ?? '',
      autocomplete: 'off',
      spellcheck: 'false',
      ...props,
      oninput: ({ target }) => set(name)(target.value),
    });
  const property = () => nameOf(row);
  row.picker = valuePicker({
    label,
    property,
    values: row.values,
    placeholder: FILTER.value,
    another: FILTER.another,
    otherwise: KNOWN[row.property],
    also: DECLARED[row.property],
    ...(row.property === 'event_type' && { name: typeName }),
  });
  const number = (name, word) =>
    input(name, { type: 'number', step: 'any', 'aria-label': FILTER.of(label, word), placeholder: word });
  const search = () => {
    const { input: text, list } = suggestingInput({
      property,
      otherwise: KNOWN[row.property],
      also: DECLARED[row.property],
      choose: set('text'),
      value: row.text ?? '',
      'aria-label': FILTER.of(label, 'value'),
      placeholder: FILTER.tests[row.test],
      oninput: ({ target }) => set('text')(target.value === '' ? undefined : target.value),
    });
    return h(
      'div',
      { class: 'of-value' },
      text,
      list,
      h(
        'label',
        { class: 'check' },
        h('input', {
          type: 'checkbox',
          checked: row.ignoreCase,
          onchange: ({ target }) => set('ignoreCase')(target.checked),
        }),
        FILTER.ignoreCase,
      ),
    );
  };
  const value = () => {
    if (row.test === 'there' || row.test === 'missing') return null;
    if (row.test === 'other') return h('code', { text: plain(JSON.stringify(row.other)) });
    if (row.test === 'range')
      return h('div', { class: 'of-value' }, number('min', FILTER.least), number('max', FILTER.greatest));
    if (row.test === 'above' || row.test === 'below')
      return h('div', { class: 'of-value' }, number('limit', FILTER.limit));
    return SEARCHES.includes(row.test) || row.test === 'lacks' ? search() : row.picker.element;
  };
  const keyInput = () => {
    const { input: key, list } = suggestingInput({
      property: () => 'metadata',
      choose: (chosen) => {
        row.key = String(chosen).replace(/^metadata\./, '');
        key.value = row.key;
      },
      value: row.key,
      'aria-label': FILTER.of(label, FILTER.keyOf),
      placeholder: FILTER.key,
      oninput: ({ target }) => set('key')(target.value.replace(/^metadata\./, '')),
    });
    return [key, list];
  };
  const properties = Object.entries(FILTER.properties);
  const { other, ...known } = FILTER.tests;
  return h(
    'div',
    { class: 'condition', role: 'group', 'aria-label': label },
    select(
      row.property in FILTER.properties ? properties : [...properties, [row.property, row.property]],
      row.property,
      set('property', true),
      { 'aria-label': FILTER.of(label, 'property') },
    ),
    row.property === 'metadata' && keyInput(),
    select(Object.entries(row.other === null ? known : { ...known, other }), row.test, set('test', true), {
      'aria-label': FILTER.of(label, 'test'),
    }),
    value(),
    h(
      'button',
      { type: 'button', class: 'tool', 'aria-label': FILTER.remove(label.toLowerCase()), onclick: remove },
      icon('close'),
    ),
    row.problem && h('p', { class: 'note bad', role: 'alert' }, icon('alert'), row.problem),
  );
}

/** Opens the editor of a filter in a dialog; `onchange` gets the changed filter. */
export function editFilter(title, filter, onchange) {
  const editor = conditionEditor(filter);
  const dialog = h(
    'dialog',
    { class: 'dialog', 'aria-label': title, onclose: () => dialog.remove() },
    h(
      'header',
      {},
      h('h2', { text: title }),
      h(
        'button',
        { type: 'button', class: 'tool', 'aria-label': FILTER.close, onclick: () => dialog.close() },
        icon('close'),
      ),
    ),
    h(
      'form',
      {
        class: 'form',
        onsubmit: (event) => {
          event.preventDefault();
          const next = editor.value();
          if (!next) return;
          dialog.close();
          onchange(next);
        },
      },
      editor.element,
      h('div', { class: 'row' }, h('button', { class: 'button primary' }, FILTER.apply)),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}

/** An editor of a step, a start or a goal: event type, feature, and one condition on the metadata. */
export function eventEditor(label, filter, onchange) {
  const metadata = Object.entries(filter).find(([property]) => property.startsWith('metadata.'));
  const now = {
    event_type: filter.event_type ?? '',
    feature: filter.feature ?? '',
    key: metadata?.[0].slice(9) ?? '',
    value: metadata?.[1] ?? '',
  };
  // Conditions that these three controls cannot show are kept.
  const rest = Object.fromEntries(
    Object.entries(filter).filter(([property]) => !['event_type', 'feature', metadata?.[0]].includes(property)),
  );
  const set = (name) => (value) => {
    now[name] = value;
    // A condition needs both its key and its value.
    if ((name === 'key' && now.value === '') || (name === 'value' && !now.key)) return;
    if (`metadata.${now.key}` in rest) {
      toast(EVENT.taken(`metadata.${now.key}`));
      return;
    }
    // In the same order, so that the same condition on the metadata is shown again.
    const said = [
      ['event_type', now.event_type],
      ['feature', now.feature],
      [`metadata.${now.key}`, now.key && now.value],
    ];
    const next = Object.fromEntries(
      Object.entries(filter).map(([property, test]) => [property === metadata?.[0] ? said[2][0] : property, test]),
    );
    for (const [property, test] of said) {
      if (test === '') delete next[property];
      else next[property] = test;
    }
    onchange(next);
  };
  const [keyId, valueId] = [id('key'), id('value')];
  const hasMetadata = Boolean(metadata);
  const details = h(
    'details',
    { class: 'more', open: hasMetadata },
    h('summary', { 'aria-label': FILTER.of(label, EVENT.metadata) }, hasMetadata ? EVENT.metadata : EVENT.moreMetadata),
    h(
      'div',
      { class: 'pair' },
      h('input', {
        id: keyId,
        type: 'text',
        value: now.key,
        placeholder: FILTER.key,
        'aria-label': FILTER.of(label, FILTER.keyOf),
        onchange: (event) => set('key')(event.target.value),
      }),
      h('span', { 'aria-hidden': 'true', text: EVENT.is }),
      h('input', {
        id: valueId,
        type: 'text',
        value: typeof now.value === 'object' ? '' : String(now.value),
        placeholder: typeof now.value === 'object' ? plain(describe(metadata[0], now.value)) : FILTER.value,
        'aria-label': FILTER.of(label, EVENT.valueOf),
        onchange: (event) => set('value')(event.target.value),
      }),
    ),
  );
  // A list, or another test, is kept until the user types something else.
  const isText = typeof now.feature !== 'object';
  const types = EVENT_TYPES.some(([type]) => type === now.event_type)
    ? EVENT_TYPES
    : [
        ...EVENT_TYPES,
        [
          String(now.event_type),
          plain(typeof now.event_type === 'string' ? now.event_type : describe('event_type', now.event_type)),
        ],
      ];
  const type = select(types, now.event_type, set('event_type'), { 'aria-label': FILTER.of(label, EVENT.type) });
  moreTypes().then((more) => {
    const isNew = (name) => ![...type.options].some(({ value }) => value === name);
    type.append(...more.filter(isNew).map((name) => h('option', { value: name }, plain(name))));
  });
  return h(
    'div',
    { class: 'event-editor', role: 'group', 'aria-label': label },
    type,
    featureInput(isText ? now.feature : '', set('feature'), {
      'aria-label': FILTER.of(label, EVENT.feature),
      ...(!isText && { placeholder: plain(describe('feature', now.feature)) }),
    }),
    details,
    h(
      'button',
      {
        type: 'button',
        class: 'link',
        'aria-label': FILTER.of(label, EVENT.allConditions),
        onclick: () => editFilter(label, filter, onchange),
      },
      EVENT.all,
    ),
  );
}

/** An editor of the property to break down by. */
export function breakdownEditor(value, onchange) {
  const isMetadata = value?.startsWith('metadata.');
  const key = h('input', {
    type: 'text',
    value: isMetadata ? value.slice(9) : '',
    placeholder: FILTER.key,
    'aria-label': EVENT.breakdownKey,
    onchange: (event) => event.target.value && onchange(`metadata.${event.target.value}`),
  });
  key.hidden = !isMetadata;
  const choice = select(EVENT.breakdowns, isMetadata ? 'metadata' : (value ?? ''), (next) => {
    key.hidden = next !== 'metadata';
    if (next === 'metadata') key.focus();
    else onchange(next || null);
  });
  const shown = field(EVENT.breakdown, choice);
  shown.append(key);
  return shown;
}

// Editors of filters: conditions on the properties of events, with the known features to choose from.

import { query } from './api.js';
import { field, fill, h, icon, id, plain, select, toast } from './dom.js';

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
  fill(
    list,
    (await knownFeatures()).map((feature) => h('option', { value: feature })),
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
    placeholder: 'any feature',
    ...props,
    onfocus: offer,
    onchange: (event) => onchange(event.target.value),
  });
}

export const EVENT_TYPES = [
  ['', 'any event'],
  ['page_view', 'page view'],
  ['action', 'action'],
  ['conversion', 'conversion'],
];

/** A value for display, in quotes if its ends would not be visible. */
const shown = (value) =>
  typeof value === 'string' && (value === '' || value !== value.trim())
    ? `“${value}”`
    : typeof value === 'object'
      ? JSON.stringify(value)
      : String(value);

/** The kind of a test; `other` if the editor has no controls for it. */
function kindOf(test) {
  if (Array.isArray(test)) return test.every((value) => typeof value !== 'object') ? 'is' : 'other';
  if (test === null || typeof test !== 'object') return 'is';
  const names = Object.keys(test);
  if (names.length === 1 && names[0] === 'prefix') return 'prefix';
  if (names.length === 1 && names[0] === 'exists') return test.exists ? 'there' : 'missing';
  return names.length > 0 && names.every((name) => ['min', 'max'].includes(name)) ? 'range' : 'other';
}

/** A condition in words. */
export function describe(property, test) {
  const name = property.startsWith('metadata.') ? property.slice(9) : property.replace('_', ' ');
  return `${name} ${{
    is: () => `is ${[test].flat().map(shown).join(' or ')}`,
    prefix: () => `begins with ${shown(test.prefix)}`,
    there: () => 'exists',
    missing: () => 'is missing',
    range: () => `is ${test.min ?? '…'} to ${test.max ?? '…'}`,
    other: () => shown(test),
  }[kindOf(test)]()}`;
}

/** A filter in words. */
export function describeFilter(filter) {
  const all = Object.entries(filter);
  return all.length ? all.map(([property, test]) => describe(property, test)).join(' and ') : 'any event';
}

const PROPERTIES = [
  ['event_type', 'Event type'],
  ['feature', 'Feature'],
  ['url', 'URL'],
  ['metadata', 'Metadata…'],
];
const TESTS = [
  ['is', 'is one of'],
  ['prefix', 'begins with'],
  ['range', 'is between'],
  ['there', 'exists'],
  ['missing', 'is missing'],
];

/** A value to edit. Without a change it stays what it was: a number, or a string that an input cannot hold. */
const entry = (value) => ({ text: String(value), value });
const typed = (text) => ({ text, value: text });
const blank = () => ({ text: '', value: undefined });

function parts(property, test) {
  const isMetadata = property.startsWith('metadata.');
  const kind = kindOf(test);
  return {
    property: isMetadata ? 'metadata' : property,
    key: isMetadata ? property.slice(9) : '',
    test: kind,
    values: kind === 'is' ? [test].flat().map(entry) : [blank()],
    prefix: kind === 'prefix' ? entry(test.prefix) : blank(),
    min: test?.min ?? '',
    max: test?.max ?? '',
    other: kind === 'other' ? test : null,
  };
}

const fresh = () => ({ ...parts('feature', ''), values: [blank()] });

const nameOf = ({ property, key }) => (property === 'metadata' ? `metadata.${key}` : property);

/** A condition for the server: `test`, or the `problem` with it. */
function checked({ property, key, test, values, prefix, min, max, other }) {
  if (property === 'metadata' && !key) return { problem: 'Enter the key of the metadata.' };
  if (test === 'other') return { test: other };
  if (test === 'there' || test === 'missing') return { test: { exists: test === 'there' } };
  if (test === 'prefix')
    return prefix.value === undefined ? { problem: 'Enter the beginning.' } : { test: { prefix: prefix.value } };
  if (test === 'range') {
    const limits = {};
    if (min !== '') limits.min = Number(min);
    if (max !== '') limits.max = Number(max);
    if (!Object.keys(limits).length) return { problem: 'Enter a minimum or a maximum.' };
    return limits.min > limits.max ? { problem: 'The minimum is greater than the maximum.' } : { test: limits };
  }
  const entered = values.filter(({ value }) => value !== undefined).map(({ value }) => value);
  if (!entered.length) return { problem: 'Enter a value, or remove the condition.' };
  return { test: entered.length === 1 ? entered[0] : entered };
}

/** Rows that edit a filter. `value()` returns the filter, or `null` if a row has a problem, which the row then shows. */
export function conditionEditor(filter) {
  const rows = Object.entries(filter).map(([property, test]) => parts(property, test));
  // The row that is offered is not a condition until the user changes it.
  const offered = rows.length ? null : fresh();
  if (offered) rows.push(offered);
  const isUntouched = (row) => row === offered && JSON.stringify(row) === JSON.stringify(fresh());
  const element = h('div', { class: 'conditions' });
  const show = (focus) => {
    fill(
      element,
      rows.map((row, place) =>
        editRow(row, `Condition ${place + 1}`, show, () => {
          rows.splice(place, 1);
          show();
        }),
      ),
      h(
        'button',
        {
          type: 'button',
          class: 'link',
          onclick: () => {
            rows.push(fresh());
            show();
          },
        },
        icon('plus'),
        'Add a condition',
      ),
    );
    if (focus) element.querySelector(focus)?.focus();
  };
  show();
  const value = () => {
    const found = new Map();
    for (const row of rows) {
      delete row.problem;
      if (isUntouched(row)) continue;
      const { test, problem } = checked(row);
      const name = nameOf(row);
      if (problem) row.problem = problem;
      else if (found.has(name))
        row.problem = `There is already a condition on ${name}. Combine the two: a property can have only one.`;
      else found.set(name, test);
    }
    const isWrong = rows.some((row) => row.problem);
    if (isWrong || element.querySelector('.condition .note')) show('.condition:has(.note) :is(input, select)');
    return isWrong ? null : Object.fromEntries(found);
  };
  return { element, value };
}

function editRow(row, label, show, remove) {
  const set = (name, redraw) => (value) => {
    row[name] = value;
    if (redraw) show();
  };
  const text = (name, props = {}) =>
    h('input', {
      type: 'text',
      value: row[name],
      autocomplete: 'off',
      spellcheck: 'false',
      ...props,
      oninput: (event) => set(name)(event.target.value),
    });
  const one = (held, change, props) => {
    const input = {
      value: held.text,
      ...props,
      oninput: ({ target }) => change(target.value === '' ? blank() : typed(target.value)),
    };
    return row.property === 'feature'
      ? featureInput(held.text, () => {}, input)
      : h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', ...input });
  };
  const values = () => [
    row.values.map((held, place) => {
      const name = `${label}: value${place ? ` ${place + 1}` : ''}`;
      const change = (next) => {
        row.values[place] = next;
      };
      if (row.property === 'event_type') {
        const known = EVENT_TYPES.some(([type]) => type === held.text)
          ? EVENT_TYPES
          : [...EVENT_TYPES, [held.text, held.text]];
        return select(
          known.map(([type, title]) => [type, type ? title : 'choose…']),
          held.text,
          (type) => change(type ? typed(type) : blank()),
          { 'aria-label': name },
        );
      }
      return one(held, change, { 'aria-label': name, placeholder: place ? 'or this value' : 'value' });
    }),
    h(
      'button',
      {
        type: 'button',
        class: 'link',
        'aria-label': `${label}: or another value`,
        onclick: () => {
          row.values.push(blank());
          show(`[aria-label="${label}: value ${row.values.length}"]`);
        },
      },
      icon('plus'),
      'or',
    ),
  ];
  const value = () => {
    if (row.test === 'there' || row.test === 'missing') return null;
    if (row.test === 'other') return h('code', { text: plain(JSON.stringify(row.other)) });
    if (row.test === 'range')
      return ['least', 'greatest'].map((word, place) =>
        text(place ? 'max' : 'min', {
          type: 'number',
          step: 'any',
          'aria-label': `${label}: ${word}`,
          placeholder: word,
        }),
      );
    if (row.test === 'prefix')
      return one(
        row.prefix,
        (next) => {
          row.prefix = next;
        },
        { 'aria-label': `${label}: value`, placeholder: 'begins with' },
      );
    return values();
  };
  const properties = PROPERTIES.some(([name]) => name === row.property)
    ? PROPERTIES
    : [...PROPERTIES, [row.property, row.property]];
  return h(
    'div',
    { class: 'condition', role: 'group', 'aria-label': label },
    select(properties, row.property, set('property', true), { 'aria-label': `${label}: property` }),
    row.property === 'metadata' && text('key', { 'aria-label': `${label}: key of the metadata`, placeholder: 'key' }),
    select(row.other === null ? TESTS : [...TESTS, ['other', 'unchanged']], row.test, set('test', true), {
      'aria-label': `${label}: test`,
    }),
    value(),
    h(
      'button',
      { type: 'button', class: 'tool', 'aria-label': `Remove ${label.toLowerCase()}`, onclick: remove },
      icon('close'),
    ),
    row.problem && h('p', { class: 'note bad', role: 'alert' }, icon('alert'), row.problem),
  );
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
      toast(`There is already a condition on metadata.${now.key}: nothing was changed.`);
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
    h('summary', { 'aria-label': `${label}: metadata` }, hasMetadata ? 'metadata' : '+ metadata'),
    h(
      'div',
      { class: 'pair' },
      h('input', {
        id: keyId,
        type: 'text',
        value: now.key,
        placeholder: 'key',
        'aria-label': `${label}: key of the metadata`,
        onchange: (event) => set('key')(event.target.value),
      }),
      h('span', { 'aria-hidden': 'true', text: 'is' }),
      h('input', {
        id: valueId,
        type: 'text',
        value: typeof now.value === 'object' ? '' : String(now.value),
        placeholder: typeof now.value === 'object' ? plain(describe(metadata[0], now.value)) : 'value',
        'aria-label': `${label}: value of the metadata`,
        onchange: (event) => set('value')(event.target.value),
      }),
    ),
  );
  // A list, or another test, is kept until the user types something else.
  const isText = typeof now.feature !== 'object';
  const types = EVENT_TYPES.some(([type]) => type === now.event_type)
    ? EVENT_TYPES
    : [...EVENT_TYPES, [String(now.event_type), plain(describe('event_type', now.event_type))]];
  return h(
    'div',
    { class: 'event-editor', role: 'group', 'aria-label': label },
    select(types, now.event_type, set('event_type'), { 'aria-label': `${label}: event type` }),
    featureInput(isText ? now.feature : '', set('feature'), {
      'aria-label': `${label}: feature`,
      ...(!isText && { placeholder: plain(describe('feature', now.feature)) }),
    }),
    details,
  );
}

/** An editor of the property to break down by. */
export function breakdownEditor(value, onchange) {
  const isMetadata = value?.startsWith('metadata.');
  const key = h('input', {
    type: 'text',
    value: isMetadata ? value.slice(9) : '',
    placeholder: 'key',
    'aria-label': 'Key of the metadata to break down by',
    onchange: (event) => event.target.value && onchange(`metadata.${event.target.value}`),
  });
  key.hidden = !isMetadata;
  const choice = select(
    [
      ['', 'No breakdown'],
      ['event_type', 'Event type'],
      ['feature', 'Feature'],
      ['url', 'URL'],
      ['metadata', 'Metadata…'],
    ],
    isMetadata ? 'metadata' : (value ?? ''),
    (next) => {
      key.hidden = next !== 'metadata';
      if (next === 'metadata') key.focus();
      else onchange(next || null);
    },
  );
  const shown = field('Breakdown', choice);
  shown.append(key);
  return shown;
}

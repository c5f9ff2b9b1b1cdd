// Editors of filters: conditions on the properties of events, with the features that there are to choose from.
import { field, fill, h, icon, id, select } from './dom.js';
import { query } from './api.js';

/** Features that are offered while one types. */
const OFFERED = 500;

let features = null;

/** The features of the last quarter, most used first; asked for once. */
export function knownFeatures() {
  features ??= query({ metric: 'feature_usage', days: 90, limit: OFFERED })
    .then(({ rows }) => rows.map(({ feature }) => feature), () => {
      features = null;
      return [];
    });
  return features;
}

const listId = 'known-features';

/** The list that inputs offer; it is filled when the first of them is used. */
export function featureList() {
  return h('datalist', { id: listId });
}

async function offer() {
  const list = document.getElementById(listId);
  if (!list || list.dataset.filled) return;
  list.dataset.filled = 'true';
  fill(list, (await knownFeatures()).map((feature) => h('option', { value: feature })));
}

/** A text input that offers features. */
export function featureInput(value, onchange, props = {}) {
  return h('input', {
    type: 'text', value: value ?? '', list: listId, maxlength: 200, autocomplete: 'off', spellcheck: 'false', placeholder: 'any feature', ...props,
    onfocus: offer, onchange: (event) => onchange(event.target.value),
  });
}

export const EVENT_TYPES = [['', 'any event'], ['page_view', 'page view'], ['action', 'action'], ['conversion', 'conversion']];

/** A condition as people read it. */
export function describe(property, test) {
  const name = property.startsWith('metadata.') ? property.slice(9) : property.replace('_', ' ');
  if (Array.isArray(test)) return `${name} is ${test.join(' or ')}`;
  if (test && typeof test === 'object') {
    if ('prefix' in test) return `${name} begins with ${test.prefix}`;
    if ('exists' in test) return `${name} is ${test.exists ? 'there' : 'missing'}`;
    return `${name} is ${test.min ?? '…'} to ${test.max ?? '…'}`;
  }
  return `${name} is ${test}`;
}

/** A filter as people read it. */
export function describeFilter(filter) {
  const all = Object.entries(filter);
  return all.length ? all.map(([property, test]) => describe(property, test)).join(' and ') : 'any event';
}

const PROPERTIES = [['event_type', 'Event type'], ['feature', 'Feature'], ['url', 'URL'], ['metadata', 'Metadata…']];
const TESTS = [['is', 'is one of'], ['prefix', 'begins with'], ['range', 'is between'], ['there', 'is there'], ['missing', 'is missing']];

function parts(property, test) {
  const isMetadata = property.startsWith('metadata.');
  const found = { property: isMetadata ? 'metadata' : property, key: isMetadata ? property.slice(9) : '', test: 'is', value: '', min: '', max: '' };
  if (Array.isArray(test)) found.value = test.join(', ');
  else if (test && typeof test === 'object') {
    if ('prefix' in test) Object.assign(found, { test: 'prefix', value: test.prefix });
    else if ('exists' in test) found.test = test.exists ? 'there' : 'missing';
    else Object.assign(found, { test: 'range', min: test.min ?? '', max: test.max ?? '' });
  } else found.value = test ?? '';
  return found;
}

function whole({ property, key, test, value, min, max }) {
  const name = property === 'metadata' ? `metadata.${key}` : property;
  if (property === 'metadata' && !key) return null;
  if (test === 'there' || test === 'missing') return [name, { exists: test === 'there' }];
  if (test === 'prefix') return value ? [name, { prefix: value }] : null;
  if (test === 'range') {
    const limits = {};
    if (min !== '') limits.min = Number(min);
    if (max !== '') limits.max = Number(max);
    return Object.keys(limits).length ? [name, limits] : null;
  }
  const values = String(value).split(',').map((one) => one.trim()).filter(Boolean);
  if (!values.length) return null;
  return [name, values.length === 1 ? values[0] : values];
}

/** Rows to edit a filter with; `value()` is the filter as it stands. */
export function conditionEditor(filter) {
  const rows = Object.entries(filter).map(([property, test]) => parts(property, test));
  if (!rows.length) rows.push(parts('feature', ''));
  const element = h('div', { class: 'conditions' });
  const show = () => fill(element, rows.map((row, place) => editRow(row, `Condition ${place + 1}`, show, () => {
    rows.splice(place, 1);
    show();
  })), h('button', { type: 'button', class: 'link', onclick: () => {
    rows.push(parts('feature', ''));
    show();
  } }, icon('plus'), 'Add a condition'));
  show();
  return { element, value: () => Object.fromEntries(rows.map(whole).filter(Boolean)) };
}

function editRow(row, label, show, remove) {
  const set = (name, redraw) => (value) => {
    row[name] = value;
    if (redraw) show();
  };
  const text = (name, props = {}) => h('input', { type: 'text', value: row[name], autocomplete: 'off', spellcheck: 'false', ...props, oninput: (event) => set(name)(event.target.value) });
  const value = () => {
    if (row.test === 'there' || row.test === 'missing') return null;
    if (row.test === 'range') return [text('min', { type: 'number', 'aria-label': `${label}: least`, placeholder: 'least' }), text('max', { type: 'number', 'aria-label': `${label}: greatest`, placeholder: 'greatest' })];
    if (row.property === 'event_type' && row.test === 'is') return select(EVENT_TYPES.map(([type, name]) => [type, type ? name : 'choose…']), row.value, set('value'), { 'aria-label': `${label}: event type` });
    if (row.property === 'feature') return featureInput(row.value, set('value'), { 'aria-label': `${label}: value`, placeholder: 'values, comma separated', oninput: (event) => set('value')(event.target.value) });
    return text('value', { 'aria-label': `${label}: value`, placeholder: 'values, comma separated' });
  };
  return h('div', { class: 'condition', role: 'group', 'aria-label': label },
    select(PROPERTIES, row.property, set('property', true), { 'aria-label': `${label}: property` }),
    row.property === 'metadata' && text('key', { 'aria-label': `${label}: key of the metadata`, placeholder: 'key' }),
    select(TESTS, row.test, set('test', true), { 'aria-label': `${label}: test` }),
    value(),
    h('button', { type: 'button', class: 'tool', 'aria-label': `Remove ${label.toLowerCase()}`, onclick: remove }, icon('close')));
}

/** A step, a start, a goal: event type, feature, and one condition on the metadata. */
export function eventEditor(label, filter, onchange) {
  const metadata = Object.entries(filter).find(([property]) => property.startsWith('metadata.'));
  const now = { event_type: filter.event_type ?? '', feature: filter.feature ?? '', key: metadata?.[0].slice(9) ?? '', value: metadata?.[1] ?? '' };
  // What these three controls cannot show is kept as it is.
  const rest = Object.fromEntries(Object.entries(filter).filter(([property]) => !['event_type', 'feature', metadata?.[0]].includes(property)));
  const set = (name) => (value) => {
    now[name] = value;
    const next = { ...rest };
    if (now.event_type) next.event_type = now.event_type;
    if (now.feature) next.feature = now.feature;
    if (now.key && now.value !== '') next[`metadata.${now.key}`] = now.value;
    if (name === 'key' && !now.value) return;
    onchange(next);
  };
  const [keyId, valueId] = [id('key'), id('value')];
  const hasMetadata = Boolean(metadata);
  const details = h('details', { class: 'more', open: hasMetadata }, h('summary', { 'aria-label': `${label}: metadata` }, hasMetadata ? 'metadata' : '+ metadata'),
    h('div', { class: 'pair' },
      h('input', { id: keyId, type: 'text', value: now.key, placeholder: 'key', 'aria-label': `${label}: key of the metadata`, onchange: (event) => set('key')(event.target.value) }),
      h('span', { 'aria-hidden': 'true', text: 'is' }),
      h('input', { id: valueId, type: 'text', value: typeof now.value === 'object' ? '' : String(now.value), placeholder: 'value', 'aria-label': `${label}: value of the metadata`, onchange: (event) => set('value')(event.target.value) })));
  const shown = Array.isArray(now.feature) ? now.feature.join(', ') : typeof now.feature === 'object' ? '' : now.feature;
  return h('div', { class: 'event-editor', role: 'group', 'aria-label': label },
    select(EVENT_TYPES, now.event_type, set('event_type'), { 'aria-label': `${label}: event type` }),
    featureInput(shown, set('feature'), { 'aria-label': `${label}: feature` }),
    details);
}

/** What groups are made by. */
export function breakdownEditor(value, onchange) {
  const isMetadata = value?.startsWith('metadata.');
  const key = h('input', { type: 'text', value: isMetadata ? value.slice(9) : '', placeholder: 'key', 'aria-label': 'Key of the metadata to break down by', onchange: (event) => event.target.value && onchange(`metadata.${event.target.value}`) });
  key.hidden = !isMetadata;
  const choice = select([['', 'No breakdown'], ['event_type', 'Event type'], ['feature', 'Feature'], ['url', 'URL'], ['metadata', 'Metadata…']], isMetadata ? 'metadata' : value ?? '', (next) => {
    key.hidden = next !== 'metadata';
    if (next === 'metadata') key.focus();
    else onchange(next || null);
  });
  const shown = field('Breakdown', choice);
  shown.append(key);
  return shown;
}

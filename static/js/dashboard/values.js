// A picker of values: chips for the chosen ones, and an input that suggests the most used values of a property.
import { get } from './api.js';
import { fill, h, icon, id, plain } from './dom.js';
import { counted } from './format.js';

/** Pause in typing after which suggestions are fetched, in ms. */
const PAUSE_MS = 150;
/** Results that are kept. */
const MOST = 200;

const known = new Map();

/**
 * The most used values of a property whose beginning, or else any part, is `prefix`: `{value, events}`. Of `metadata`, its
 * keys. None if they cannot be had.
 */
export function suggestions(property, prefix = '') {
  const path = `values?${new URLSearchParams({ property, ...(prefix && { prefix }) })}`;
  if (!known.has(path)) {
    if (known.size >= MOST) known.clear();
    known.set(
      path,
      get(path).then(
        ({ values }) => values,
        () => {
          known.delete(path);
          return [];
        },
      ),
    );
  }
  return known.get(path);
}

/**
 * An input with suggestions. `choose(value)` gets each suggestion that is chosen, as the value that it is; `otherwise`
 * are suggestions where the server has none, and `also` are names that come after its own. Only suggestions that
 * `accepts` are shown.
 */
export function suggestingInput({ property, choose, otherwise, also, accepts = () => true, ...props }) {
  const list = h('datalist', { id: id('suggested') });
  let offered = [];
  let timer;
  let asked = 0;
  const offer = async () => {
    asked += 1;
    const mine = asked;
    let found = (await suggestions(property(), input.value)).filter(accepts);
    if (!found.length && otherwise) found = (await otherwise()).map((value) => ({ value }));
    if (also) {
      const part = input.value.toLowerCase();
      const isNew = (name) => name.toLowerCase().includes(part) && !found.some(({ value }) => value === name);
      found = [...found, ...(await also()).filter(isNew).map((value) => ({ value }))];
    }
    if (mine !== asked) return;
    offered = found;
    fill(
      list,
      found.map(({ value, events }) =>
        h('option', { value: String(value), label: events === undefined ? null : counted(events, 'event') }),
      ),
    );
  };
  const input = h('input', {
    type: 'text',
    list: list.id,
    autocomplete: 'off',
    spellcheck: 'false',
    ...props,
    onfocus: offer,
    oninput: (event) => {
      props.oninput?.(event);
      // Of a list the browser replaces the content; typing inserts into it.
      const isChosen = !event.inputType || event.inputType === 'insertReplacementText';
      const found = isChosen && offered.find(({ value }) => String(value) === input.value);
      if (found) choose?.(found.value);
      clearTimeout(timer);
      timer = setTimeout(offer, PAUSE_MS);
    },
  });
  return { input, list };
}

/** A value for display, in quotes if its ends would not be visible. */
export const shown = (value) =>
  typeof value === 'string' && (value === '' || value !== value.trim())
    ? `“${value}”`
    : typeof value === 'object'
      ? JSON.stringify(value)
      : String(value);

/**
 * A picker of values of the property `property()`. Enter and a chosen suggestion make a chip; what is still in the
 * input is a value too. `values()` returns the values: a number that was given or suggested stays a number.
 */
export function valuePicker({ label, property, values: given, placeholder, another, otherwise, also, name = shown }) {
  const values = [...given];
  const chips = h('span', { class: 'value-chips' });
  const add = (value) => {
    if (!values.includes(value)) values.push(value);
    input.value = '';
    show();
  };
  const remove = (place) => {
    values.splice(place, 1);
    show();
    input.focus();
  };
  const { input, list } = suggestingInput({
    property,
    otherwise,
    also,
    choose: add,
    'aria-label': `${label}: value`,
    onkeydown: (event) => {
      if (event.key === 'Enter' && input.value !== '' && !event.isComposing) {
        event.preventDefault();
        add(input.value);
      } else if (event.key === 'Backspace' && input.value === '' && values.length) remove(values.length - 1);
    },
  });
  const show = () => {
    input.placeholder = values.length ? another : placeholder;
    fill(
      chips,
      values.map((value, place) =>
        h(
          'span',
          { class: 'chip value-chip' },
          h('bdi', { text: plain(name(value)) }),
          h(
            'button',
            { type: 'button', 'aria-label': `${label}: remove ${plain(name(value))}`, onclick: () => remove(place) },
            icon('close'),
          ),
        ),
      ),
    );
  };
  show();
  return {
    element: h('div', { class: 'value-picker' }, chips, input, list),
    values: () => (input.value === '' || values.includes(input.value) ? [...values] : [...values, input.value]),
  };
}

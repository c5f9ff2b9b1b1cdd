// Builds elements without HTML: every string becomes a text node, so that names from events are never parsed.
import { ICONS } from './icons.js';

const SVG = 'http://www.w3.org/2000/svg';

/** Makes an element. `props` are attributes, `on…` are listeners, and `text` is its text content. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'text') element.textContent = value;
    else if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (['value', 'checked', 'disabled', 'selected', 'open', 'indeterminate'].includes(name))
      element[name] = value;
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Makes an SVG element. */
export function svg(tag, props = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** An icon, hidden from screen readers: the control around it has a label. */
export function icon(name) {
  return svg(
    'svg',
    { viewBox: '0 0 24 24', class: 'icon', 'aria-hidden': 'true', focusable: 'false' },
    ...ICONS[name].map(([tag, attributes]) => svg(tag, attributes)),
  );
}

/** The picture of `icon.svg`, which is one request less than the file. */
export function logo(size) {
  const arcs = [
    'M8.5 21.5a10.6 10.6 0 0 1 0-11',
    'M23.5 10.5a10.6 10.6 0 0 1 0 11',
    'M12.4 18.9a5.6 5.6 0 0 1 0-5.8',
    'M19.6 13.1a5.6 5.6 0 0 1 0 5.8',
  ];
  return svg(
    'svg',
    { viewBox: '0 0 32 32', width: size, height: size, 'aria-hidden': 'true', focusable: 'false' },
    svg('rect', { width: 32, height: 32, rx: 8, fill: '#3257d6' }),
    ...arcs.map((d) =>
      svg('path', { d, fill: 'none', stroke: '#fff', 'stroke-linecap': 'round', 'stroke-width': 2.6 }),
    ),
    svg('circle', { cx: 16, cy: 16, r: 1.9, fill: '#fff' }),
  );
}

/** Characters that are invisible, or that reverse the direction of those that follow. */
const UNSEEN =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it finds
  // biome-ignore lint/suspicious/noMisleadingCharacterClass: each is one character of its own
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/gu;

/** A name from an event, with its invisible characters made visible. */
export function plain(name) {
  return String(name).replace(
    UNSEEN,
    (character) => `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}⟩`,
  );
}

/** The same, cut to fit a chart. */
export function short(name, length = 28) {
  const characters = [...plain(name)];
  return characters.length <= length ? characters.join('') : `${characters.slice(0, length - 1).join('')}…`;
}

/** A name from an event, as an element with its own text direction. */
export function named(name, className = 'name') {
  return h('bdi', { class: className, title: plain(name) }, plain(name));
}

/** Replaces all children of an element. */
export const fill = (parent, ...children) => parent.replaceChildren(...children.flat(Infinity).filter(Boolean));

let ids = 0;
/** An id that no other element has. */
export function id(prefix) {
  ids += 1;
  return `${prefix}-${ids}`;
}

/** A labelled control. */
export function field(label, control, hint) {
  control.id ||= id('field');
  return h(
    'div',
    { class: 'field' },
    h('label', { for: control.id, text: label }),
    control,
    hint && h('small', { text: hint }),
  );
}

/** A list to choose from: `[value, label]` pairs. */
export function select(options, value, onchange, props = {}) {
  return h(
    'select',
    { ...props, onchange: (event) => onchange(event.target.value) },
    options.map(([option, label]) => h('option', { value: option, selected: String(option) === String(value) }, label)),
  );
}

/** A group of buttons, one of which is pressed. */
export function segments(label, options, value, onchange) {
  const buttons = options.map(([option, text]) =>
    h(
      'button',
      {
        type: 'button',
        'aria-pressed': String(option === value),
        onclick: () => onchange(option),
      },
      text,
    ),
  );
  return h('div', { class: 'segments', role: 'group', 'aria-label': label }, buttons);
}

/** Offers bytes as a file. */
export function download(name, blob) {
  const url = URL.createObjectURL(blob);
  const link = h('a', { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Announces a message to screen readers. */
export function announce(text) {
  const region = document.getElementById('announcer');
  if (region) region.textContent = text;
}

/** Shows a message for a moment. */
export function toast(text) {
  const note = h('div', { class: 'toast', role: 'status', text });
  document.body.append(note);
  setTimeout(() => note.remove(), 3_000);
}

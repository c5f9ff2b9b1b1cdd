// Builds elements without HTML: every string becomes a text node, so that names from events are never parsed.

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

const ICONS = {
  overview: 'M4 13h6V4H4zm0 7h6v-4H4zm10 0h6v-9h-6zm0-16v4h6V4z',
  lifecycle: 'M4 12a8 8 0 0 1 13.7-5.6L20 8.500M20 4v4.500h-4.500M20 12a8 8 0 0 1-13.7 5.6L4 15.500M4 20v-4.500h4.500',
  stickiness: 'M5 20V10m5 10V4m5 16v-7m5 7V8',
  funnel: 'M4 5h16l-6 8v6l-4-2v-4z',
  retention: 'M4 4h4v4H4zm6 0h4v4h-4zm6 0h4v4h-4zM4 10h4v4H4zm6 0h4v4h-4zM4 16h4v4H4z',
  paths: 'M4 6h4c5 0 4 12 9 12h3M4 18h4c2.500 0 3.500-3 4.500-6S14.500 6 17 6h3',
  experiments: 'M9 4h6M10 4v6l-5 8a1.500 1.500 0 0 0 1.300 2h11.400a1.500 1.500 0 0 0 1.300-2l-5-8V4M8 15h8',
  live: 'M12 12m-2 0a2 2 0 1 0 4 0 2 2 0 1 0-4 0M7.800 16.200a6 6 0 0 1 0-8.400m8.400 0a6 6 0 0 1 0 8.400M5 19a10 10 0 0 1 0-14m14 0a10 10 0 0 1 0 14',
  engine:
    'M4 7c0-1.700 3.600-3 8-3s8 1.300 8 3-3.600 3-8 3-8-1.300-8-3zm0 0v10c0 1.700 3.600 3 8 3s8-1.300 8-3V7M4 12c0 1.700 3.600 3 8 3s8-1.300 8-3',
  chart: 'M4 20V4m0 16h16M8 16l4-5 3 3 5-7',
  table: 'M4 5h16v14H4zm0 5h16M4 14.500h16M10 5v14',
  download: 'M12 4v11m0 0 4-4m-4 4-4-4M5 20h14',
  image: 'M4 5h16v14H4zm0 11 5-5 4 4 3-3 4 4M15 9h.010',
  code: 'm8 8-4 4 4 4m8-8 4 4-4 4M14 5l-4 14',
  copy: 'M9 9h11v11H9zM5 15H4V4h11v1',
  close: 'M6 6l12 12M18 6 6 18',
  plus: 'M12 5v14M5 12h14',
  up: 'm6 14 6-6 6 6',
  down: 'm6 10 6 6 6-6',
  filter: 'M4 6h16M7 12h10m-7 6h4',
  calendar: 'M5 6h14v14H5zm0 4h14M9 3v4m6-4v4',
  globe: 'M12 12m-8 0a8 8 0 1 0 16 0 8 8 0 1 0-16 0M4 12h16M12 4c3 2.500 3 13.500 0 16-3-2.500-3-13.500 0-16',
  users:
    'M9 11a3.500 3.500 0 1 0 0-7 3.500 3.500 0 0 0 0 7zm-6 9c0-3.500 2.500-6 6-6s6 2.500 6 6m1-9.500a3 3 0 0 0 0-6M17 14c2.500.500 4 2.800 4 6',
  key: 'M8 16m-4 0a4 4 0 1 0 8 0 4 4 0 1 0-8 0m7-3 8-8m-3 3 2.500 2.500M14 10l2 2',
  theme: 'M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16',
  pause: 'M8 5v14m8-14v14',
  play: 'M7 5v14l12-7z',
  alert: 'M12 4 2.500 20h19zM12 10v4m0 3v.010',
  clock: 'M12 12m-8 0a8 8 0 1 0 16 0 8 8 0 1 0-16 0M12 7v5l3 2',
  check: 'm5 12 5 5 9-10',
  refresh: 'M20 11a8 8 0 1 0-2.300 6.300M20 5v6h-6',
};

/** An icon, hidden from screen readers: the control around it has a label. */
export function icon(name) {
  return svg(
    'svg',
    { viewBox: '0 0 24 24', class: 'icon', 'aria-hidden': 'true', focusable: 'false' },
    svg('path', { d: ICONS[name] }),
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

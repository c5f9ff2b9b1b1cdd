// The table of every chart: all values of the result, which can be sorted.
import { h, plain } from './dom.js';
import { average, bytes, change, count, duration, isDay, longDay, number, percent } from './format.js';
import { TABLE } from './texts.js';

/** Rows that are shown; the CSV has all. */
const MOST = 500;

const SHARES = new Set([
  'stickiness',
  'conversion_from_first',
  'conversion_from_previous',
  'rate',
  'lift',
  'interval.low',
  'interval.high',
  'chance_to_win',
]);

/** A row without nesting, as in the CSV. */
export function flat(row, prefix = '') {
  return Object.entries(row).flatMap(([name, value]) => {
    if (Array.isArray(value)) return value.map((cell, place) => [`${prefix}${name.replace(/s$/, '')}_${place}`, cell]);
    if (value && typeof value === 'object') return flat(value, `${prefix}${name}.`);
    return [[prefix + name, value]];
  });
}

/** Formats a value of a column. */
export function written(name, value) {
  if (value === null || value === undefined) return name === 'breakdown' || name === 'feature' ? TABLE.none : '–';
  if (typeof value === 'boolean') return value ? TABLE.yes : TABLE.no;
  if (typeof value === 'number') {
    if (name === 'change') return change(value);
    if (SHARES.has(name)) return percent(value);
    if (name.startsWith('seconds')) return duration(value);
    if (name.endsWith('bytes')) return bytes(value);
    if (name === 'p_value') return value < 0.0001 ? '< 0.0001' : value.toFixed(4);
    return Number.isInteger(value) ? count(value) : value < 1 ? number(value) : average(value);
  }
  if ((name === 'period' || name === 'cohort') && isDay(value)) return longDay(value);
  return plain(value);
}

/** Makes a table of rows. */
export function table(rows, caption) {
  const flatRows = rows.map((row) => new Map(flat(row)));
  const names = [...new Set(flatRows.flatMap((row) => [...row.keys()]))];
  const isNumber = (name) => flatRows.some((row) => typeof row.get(name) === 'number');
  const body = h('tbody');
  let sorted = null;
  const show = (list) =>
    body.replaceChildren(
      ...list.slice(0, MOST).map((row) =>
        h(
          'tr',
          {},
          names.map((name, place) => {
            const value = row.get(name);
            const text = written(name, value);
            const props = {
              class: isNumber(name) ? 'number' : null,
              'data-value': typeof value === 'number' ? value : null,
            };
            return place === 0
              ? h('th', { scope: 'row', ...props }, h('bdi', {}, text))
              : h('td', props, h('bdi', {}, text));
          }),
        ),
      ),
    );
  const sort = (name, heading) => {
    const descending = sorted?.name === name ? !sorted.descending : isNumber(name);
    sorted = { name, descending };
    const missing = descending ? -Infinity : Infinity;
    const order = (a, b) => {
      const [x, y] = [a.get(name) ?? missing, b.get(name) ?? missing];
      const way = typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y));
      return descending ? -way : way;
    };
    show([...flatRows].sort(order));
    for (const other of heading.parentElement.children) other.removeAttribute('aria-sort');
    heading.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
  };
  const headings = names.map((name) => {
    const words = name.replace(/^cell_(\d+)$/, (_, place) => `+${place}`).replaceAll('_', ' ');
    const text = Object.hasOwn(TABLE.columns, name) ? TABLE.columns[name] : plain(words);
    const heading = h('th', { scope: 'col', class: isNumber(name) ? 'number' : null });
    heading.append(h('button', { type: 'button', class: 'sort', onclick: () => sort(name, heading) }, text));
    return heading;
  });
  show(flatRows);
  const left = flatRows.length - MOST;
  return h(
    'div',
    { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption },
    h('table', {}, h('caption', { class: 'unseen', text: caption }), h('thead', {}, h('tr', {}, headings)), body),
    left > 0 && h('p', { class: 'hint', text: TABLE.more(count(left)) }),
  );
}

/**
 * Rows as CSV for a spreadsheet, for results that the server gives only as JSON. It has a byte-order mark, no string is
 * taken for a formula, and an empty string differs from null.
 */
export function csv(rows) {
  const flatRows = rows.map((row) => new Map(flat(row)));
  const names = [...new Set(flatRows.flatMap((row) => [...row.keys()]))];
  const cell = (value) => {
    let text =
      value === null || value === undefined ? '' : typeof value === 'object' ? JSON.stringify(value) : String(value);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: a formula may begin with one
    if (typeof value === 'string' && /^[=+\-@\u0000-\u001f]/.test(text)) text = `'${text}`;
    return value === '' || /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [names, ...flatRows.map((row) => names.map((name) => row.get(name)))].map((line) =>
    line.map(cell).join(','),
  );
  return new Blob([`\uFEFF${lines.join('\r\n')}\r\n`], { type: 'text/csv' });
}

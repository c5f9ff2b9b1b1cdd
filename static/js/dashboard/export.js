// The export of the events of a window as a file.
import { openExport } from './api.js';
import { announce, download, fill, h, icon, plain } from './dom.js';
import { bytes, range } from './format.js';
import { fileName } from './panel.js';
import { EXPORT } from './texts.js';

/** Bytes of the parts in which a file is kept while it comes; the browser may move each to its disk. */
const PART = 4 << 20;
const TYPES = { parquet: 'application/vnd.apache.parquet', ndjson: 'application/x-ndjson' };
const ENDINGS = { parquet: 'parquet', ndjson: 'ndjson' };

/** Reads a response as a file; `progress` gets the number of bytes so far. */
async function received(response, type, progress) {
  const parts = [];
  let chunks = [];
  let [waiting, size] = [0, 0];
  const keep = () => {
    parts.push(new Blob(chunks));
    chunks = [];
    waiting = 0;
  };
  const reader = response.body.getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    chunks.push(value);
    waiting += value.length;
    size += value.length;
    if (waiting >= PART) keep();
    progress(size);
  }
  keep();
  return new Blob(parts, { type });
}

/** The button that exports the events from a day to another; `window` and `filter` are as in a request, `words` in words. */
export function exportButton({ from, to, zone, window, filter, words }) {
  const open = () => {
    let format = EXPORT.formats[0][0];
    const running = new AbortController();
    const status = h('p', { class: 'hint', role: 'status' });
    const problem = h('p', { class: 'note bad', role: 'alert', hidden: true });
    const button = h('button', { class: 'button primary' }, icon('download'), EXPORT.start);
    const start = async (event) => {
      event.preventDefault();
      button.disabled = true;
      problem.hidden = true;
      try {
        const response = await openExport(
          { ...window, ...(filter && { filter: JSON.stringify(filter) }) },
          format,
          running.signal,
        );
        const file = await received(response, TYPES[format] ?? 'text/csv', (size) =>
          fill(status, EXPORT.running(bytes(size))),
        );
        const now = new Date().toISOString();
        download(fileName(['echopilot-events', `${from}-${to}`, zone, words], now, ENDINGS[format] ?? 'csv'), file);
        announce(EXPORT.done);
        dialog.close();
      } catch (error) {
        if (error.name === 'AbortError') return;
        problem.hidden = false;
        problem.textContent = error.message;
        fill(status);
      } finally {
        button.disabled = false;
      }
    };
    const dialog = h(
      'dialog',
      {
        class: 'dialog',
        'aria-label': EXPORT.title,
        onclose: () => {
          running.abort();
          dialog.remove();
        },
      },
      h(
        'header',
        {},
        h('h2', { text: EXPORT.title }),
        h(
          'button',
          { type: 'button', class: 'tool', 'aria-label': EXPORT.cancel, onclick: () => dialog.close() },
          icon('close'),
        ),
      ),
      h('p', { text: EXPORT.text(range(from, to), zone) }),
      words && h('p', {}, h('bdi', { text: plain(EXPORT.filtered(words)) })),
      h(
        'form',
        { class: 'form', onsubmit: start },
        h(
          'fieldset',
          { class: 'options' },
          h('legend', { text: EXPORT.format }),
          EXPORT.formats.map(([name, text]) =>
            h(
              'label',
              { class: 'check' },
              h('input', {
                type: 'radio',
                name: 'format',
                value: name,
                checked: name === format,
                onchange: () => {
                  format = name;
                },
              }),
              text,
            ),
          ),
        ),
        problem,
        h('div', { class: 'row' }, button, status),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  };
  return h(
    'button',
    { type: 'button', class: 'pick', 'data-action': 'export', onclick: open },
    icon('download'),
    EXPORT.button,
  );
}

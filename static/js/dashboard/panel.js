// A panel: one query, its chart, its table, and its downloads: CSV, PNG and the request.

import { address, command, queryCsv } from './api.js';
import { announce, download, fill, h, icon, toast } from './dom.js';
import { count, period, range, shortDay } from './format.js';
import { naming } from './snippet.js';
import { csv, table } from './table.js';

let started;
/** The chart library: loaded with the page, but started with the first chart, because starting it blocks the page. */
const charts = () => {
  started ??= import('./charts.js');
  return started;
};

/**
 * `ask(signal)` returns `{answer, rows, request: {path, body}, option(look), label, isEmpty, empty, notes, above}`: the
 * rows of the table, the option of the chart or `element` in its place, and `label` for screen readers.
 */
export class Panel {
  constructor({ title, help, name, height = 300, controls, ask, tall, why }) {
    Object.assign(this, { title, name, height, ask, why, shown: 'chart', last: null });
    this.body = h('div', { class: 'panel-body' });
    this.notes = h('div', { class: 'notes' });
    this.tools = h('div', { class: 'tools' });
    const heading = h('h2', { text: title });
    this.element = h(
      'section',
      { class: `panel${tall ? ' tall' : ''}`, 'aria-label': title, 'data-panel': name },
      h(
        'header',
        {},
        h('div', { class: 'panel-title' }, heading, help && h('p', { class: 'hint', text: help })),
        controls && h('div', { class: 'controls' }, controls),
        this.tools,
      ),
      this.notes,
      this.body,
    );
    this.element.panel = this;
  }

  /** Runs the query, and shows its result. */
  async load(signal) {
    this.signal = signal;
    this.element.setAttribute('aria-busy', 'true');
    this.element.dataset.state = 'loading';
    if (!this.last) this.put(this.skeleton());
    else this.body.classList.add('stale');
    try {
      const found = await this.ask(signal);
      if (found.isEmpty && found.answer) found.empty = await this.why?.(signal, found.empty);
      if (signal.aborted) return;
      this.last = found;
      this.show();
    } catch (error) {
      if (signal.aborted || error.name === 'AbortError') return;
      this.fail(error);
    } finally {
      if (!signal.aborted) {
        this.element.removeAttribute('aria-busy');
        this.body.classList.remove('stale');
      }
    }
  }

  put(...children) {
    const old = [...this.body.querySelectorAll('.canvas')];
    fill(this.body, ...children);
    if (old.length) charts().then(({ dispose }) => old.forEach(dispose));
  }

  skeleton() {
    const box = h(
      'div',
      { class: 'skeleton', role: 'status' },
      h('span', { class: 'unseen', text: `${this.title}: loading` }),
      h('i'),
      h('i'),
      h('i'),
      h('i'),
      h('i'),
      h('i'),
    );
    box.style.height = `${this.height}px`;
    return box;
  }

  fail(error) {
    this.element.dataset.state = 'error';
    this.last = null;
    fill(this.tools);
    fill(this.notes);
    const isInput = error.status === 400;
    this.put(
      h(
        'div',
        { class: 'message bad', role: 'alert' },
        icon('alert'),
        h(
          'div',
          {},
          h('strong', { text: isInput ? 'This query is not possible' : 'No result' }),
          h('p', { text: error.message ?? String(error) }),
          !isInput &&
            h(
              'button',
              { type: 'button', class: 'button', onclick: () => this.load(this.signal) },
              icon('refresh'),
              'Try again',
            ),
        ),
      ),
    );
  }

  /** Shows the last result, and restores the focus. */
  show() {
    const tool = this.tools.contains(document.activeElement) ? document.activeElement.dataset.tool : null;
    const scrolled = this.body.querySelector('.scroll');
    const hadFocus = scrolled !== null && scrolled === document.activeElement;
    const top = scrolled?.scrollTop;
    this.showLast();
    if (tool) this.tools.querySelector(`[data-tool="${tool}"]`)?.focus();
    const region = this.body.querySelector('.scroll');
    if (region && top) region.scrollTop = top;
    if (hadFocus) region?.focus({ preventScroll: true });
  }

  showLast() {
    const { last } = this;
    fill(this.notes, notesOf(last));
    fill(this.tools, this.toolButtons());
    if (last.answer) this.onanswer?.(last.answer);
    if (last.isEmpty) {
      this.element.dataset.state = 'empty';
      this.put(
        h(
          'div',
          { class: 'message' },
          icon('filter'),
          h(
            'div',
            {},
            h('strong', { text: last.empty?.title ?? 'Nothing in this window' }),
            h('p', { text: last.empty?.text ?? NOTHING }),
            last.empty?.code && h('pre', { tabindex: '0', text: last.empty.code }),
          ),
        ),
      );
      return;
    }
    this.element.dataset.state = 'ready';
    if (this.shown === 'table') this.put(table(last.rows, `${this.title}, as a table`));
    else if (last.element) this.put(last.above, last.element());
    else this.showChart();
  }

  async showChart() {
    const { last } = this;
    const label = `${this.title}. ${last.label ?? ''} The table has all numbers.`;
    // An existing chart is updated in place: it moves, and does not flicker.
    if (!this.chart?.canvas.isConnected) {
      const canvas = h('div', { class: 'canvas', 'aria-hidden': 'true' });
      const figure = h('div', { class: 'figure', role: 'img' }, canvas);
      this.chart = { canvas, figure, above: h('div'), below: h('div') };
      this.put(this.chart.above, h('div', { class: 'scroll-x' }, figure), this.chart.below);
    }
    const { canvas, figure, above, below } = this.chart;
    fill(above, last.above);
    fill(below, last.below);
    figure.setAttribute('aria-label', label);
    canvas.style.height = `${last.height ?? this.height}px`;
    canvas.style.minWidth = last.minWidth ? `${last.minWidth}px` : '';
    await this.after;
    const { draw } = await charts();
    if (this.last !== last || !canvas.isConnected) return;
    draw(canvas, last.option, last.onclick);
    this.element.dataset.drawn = 'true';
  }

  /** Draws again, in the current colours. */
  redraw() {
    if (this.last && this.element.dataset.state === 'ready') this.show();
  }

  toolButtons() {
    const { last } = this;
    const tool = (name, label, onclick, props = {}) =>
      h(
        'button',
        { type: 'button', class: 'tool', title: label, 'aria-label': `${label}: ${this.title}`, onclick, ...props },
        icon(name),
      );
    const isTable = this.shown === 'table';
    const other = isTable ? ['chart', 'Show the chart'] : ['table', 'Show the table'];
    return [
      !last.isEmpty &&
        tool(
          other[0],
          other[1],
          () => {
            this.shown = isTable ? 'chart' : 'table';
            this.show();
            this.tools.querySelector('button').focus();
          },
          { 'data-tool': 'table' },
        ),
      !last.isEmpty && tool('download', 'Download CSV', () => this.saveCsv(), { 'data-tool': 'csv' }),
      !last.isEmpty &&
        (last.option || last.picture) &&
        tool('image', 'Download PNG', () => this.savePicture(), { 'data-tool': 'png' }),
      last.request &&
        tool('code', 'Show the request', () => showRequest(this.title, last.request), { 'data-tool': 'request' }),
    ];
  }

  fileName(end) {
    const { window } = this.last.answer ?? {};
    return `echopilot-${this.name}${window ? `-${window.from}-${window.to}` : ''}.${end}`;
  }

  async saveCsv() {
    try {
      const { request, rows } = this.last;
      const body = request?.body ? await queryCsv(request.body) : csv(rows);
      download(this.fileName('csv'), body);
      announce('CSV saved');
    } catch (error) {
      toast(error.message);
    }
  }

  async savePicture() {
    const { picture } = await charts();
    const { window } = this.last.answer ?? {};
    const note = window ? `${range(window.from, window.to)}, ${window.tz}` : '';
    const blob = await picture(this.last.picture ?? this.last.option, {
      title: this.title,
      note,
      width: Math.max(this.last.minWidth ?? 0, 960),
      height: this.last.height ?? this.height,
    });
    download(this.fileName('png'), blob);
    announce('PNG saved');
  }
}

/** The default message of an empty panel. */
export const NOTHING = 'No event of these days meets the filter. Choose more days, or remove a condition.';
export const NO_EVENTS = 'No event happened in these days. Choose more days.';

export const unnamedTitle = (events) =>
  events === 1 ? 'The only event has no user' : `None of the ${count(events)} events has a user`;

/** The message of a panel about users if events happened, and none has a user. */
export const unnamed = (events) => ({
  title: unnamedTitle(events),
  code: naming,
  text: 'This panel counts users, and events without a user_id are anonymous. Set the user in your pages, or send a user_id with each event:',
});

/** The reason why a period is incomplete; `null` if it is complete. */
export function cutText(first, { window }, isCut) {
  if (!isCut) return null;
  if (first < window.from) return `The window begins on ${shortDay(window.from)}`;
  return window.partial ? 'Not over' : `The window ends on ${shortDay(window.to)}`;
}

/** A note that lists the incomplete weeks or months; `drawn` describes their look. An incomplete day is noted elsewhere. */
export function cutNotes(rows, grain, drawn) {
  const cut = rows
    .filter((row) => row.partial && grain !== 'day')
    .map((row) => period(row.period ?? row.cohort, grain));
  return cut.length ? [['soft', `Incomplete and ${drawn}: ${cut.join(', ')}.`, 'cut']] : [];
}

/** The notes of a result, about expired days and incomplete periods. */
function notesOf({ answer, notes = [] }) {
  const found = [...notes];
  const { window, covered_from: covered } = answer ?? {};
  if (window && covered > window.from) {
    found.unshift([
      'warn',
      covered > window.to
        ? 'The events of these days have expired.'
        : `Events before ${shortDay(covered)} have expired and are not in these numbers.`,
      'covered',
    ]);
  }
  return found.map(([kind, text, name]) =>
    h('p', { class: `note ${kind}`, 'data-note': name }, icon(kind === 'soft' ? 'clock' : 'alert'), text),
  );
}

/** Shows a request and buttons that copy it. */
export function showRequest(title, request) {
  const body = request.body && JSON.stringify(request.body, null, 2);
  const copy = (text, label) =>
    h(
      'button',
      {
        type: 'button',
        class: 'button',
        onclick: async () => {
          await navigator.clipboard.writeText(text).then(
            () => toast('Copied'),
            () => toast('The browser does not allow copying; select the text.'),
          );
        },
      },
      icon('copy'),
      label,
    );
  const asCommand = command(request);
  const dialog = h(
    'dialog',
    { class: 'dialog wide', 'aria-label': `Request of ${title}`, onclose: () => dialog.remove() },
    h(
      'header',
      {},
      h('h2', { text: `Request: ${title}` }),
      h(
        'button',
        { type: 'button', class: 'tool', 'aria-label': 'Close', onclick: () => dialog.close() },
        icon('close'),
      ),
    ),
    h(
      'p',
      { class: 'hint' },
      `${body ? 'POST' : 'GET'} `,
      h('code', { text: address(request.path) }),
      ' with your key in the header X-Dash-Key. Accept text/csv, an Arrow stream or Parquet give the same rows in those formats.',
    ),
    body && [h('pre', { tabindex: '0', 'data-request': 'json', text: body }), copy(body, 'Copy JSON')],
    h('pre', { tabindex: '0', 'data-request': 'curl', text: asCommand }),
    copy(asCommand, 'Copy as curl'),
  );
  document.body.append(dialog);
  dialog.showModal();
}

/** Summary of a form that still has to be filled in; it is then open. */
export const NOT_SET = 'not set';

/** By the title of a form: true if the user opened it, false if the user closed it. */
const opened = new Map();

/** The settings of a view, folded on a small screen. */
export function form(title, summary, ...content) {
  const open = opened.get(title) ?? (matchMedia('(min-width: 901px)').matches || summary === NOT_SET);
  const details = h(
    'details',
    { class: 'fold', open, ontoggle: () => opened.set(title, details.open) },
    h('summary', {}, h('h2', { text: title }), h('span', { class: 'hint', text: summary }), icon('down')),
    content,
  );
  return h('section', { class: 'panel form-panel', 'aria-label': title }, details);
}

/** The rows of a tooltip: a heading and pairs. */
export function tip(heading, pairs, foot) {
  return h(
    'div',
    { class: 'tip-body' },
    h('strong', { text: heading }),
    h(
      'dl',
      {},
      pairs.map(([name, value, colour]) => {
        const swatch = h('i', { class: 'swatch' });
        if (colour) swatch.style.background = colour;
        return h('div', {}, h('dt', {}, colour && swatch, h('bdi', { text: name })), h('dd', { text: value }));
      }),
    ),
    foot && h('p', { text: foot }),
  );
}

/** Marks behind a chart for days that have expired. */
export function marks(rows, answer, look) {
  const areas = [];
  const { window, covered_from: covered } = answer;
  const place = rows.findIndex(({ period }) => period >= covered);
  if (covered > window.from && place !== 0)
    areas.push([
      { xAxis: 0, itemStyle: { color: look.warn, opacity: 0.08 } },
      { xAxis: place < 0 ? rows.length - 1 : place },
    ]);
  return areas.length ? { markArea: { silent: true, animation: false, data: areas } } : {};
}

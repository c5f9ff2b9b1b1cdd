// A panel: one query, its chart, its table, and its downloads: CSV, PNG and the request.

import { address, command, queryCsv } from './api.js';
import { annotationList, annotationMarks } from './components/annotations.js';
import { announce, download, fill, h, icon, toast } from './dom.js';
import { count, period, shortDay } from './format.js';
import { naming } from './snippet.js';
import { csv, table } from './table.js';
import { PANEL } from './texts.js';

let started;
/** The chart library: loaded with the page, but started with the first chart, because starting it blocks the page. */
const charts = () => {
  started ??= import('./charts.js').then((library) => {
    loaded = library;
    return library;
  });
  return started;
};
/** The library once it is there, for prints, which do not wait. */
let loaded;

/**
 * `ask(signal)` returns `{answer, rows, request: {path, body}, option(look), label, isEmpty, empty, notes, above}`: the
 * rows of the table, the option of the chart or `element` in its place, and `label` for screen readers.
 */
export class Panel {
  constructor({ title, help, name, height = 300, controls, ask, tall, why, outline }) {
    Object.assign(this, { title, name, height, ask, why, outline, shown: 'chart', last: null });
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

  /** Runs the query, and shows its result. If it is quiet, the last result stays as it is until then, and if that fails. */
  async load(signal, { isQuiet = false } = {}) {
    this.signal = signal;
    if (isQuiet && this.last) {
      await this.renew(signal);
      return;
    }
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

  async renew(signal) {
    try {
      const found = await this.ask(signal);
      if (signal.aborted || found.isEmpty) return;
      this.last = found;
      this.show();
    } catch {
      // The next request may succeed.
    }
  }

  /** The result in words, for screen readers. */
  spoken() {
    const { last } = this;
    if (!last) return PANEL.none;
    return last.isEmpty ? (last.empty?.title ?? PANEL.nothing) : (last.label ?? PANEL.updated);
  }

  put(...children) {
    const old = [...this.body.querySelectorAll('.canvas')];
    fill(this.body, ...children);
    if (old.length) charts().then(({ dispose }) => old.forEach(dispose));
  }

  skeleton() {
    const label = h('span', { class: 'unseen', text: PANEL.loading(this.title) });
    if (this.outline) return h('div', { role: 'status' }, label, this.outline());
    const box = h('div', { class: 'skeleton', role: 'status' }, label, h('i'), h('i'), h('i'), h('i'), h('i'), h('i'));
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
          h('strong', { text: isInput ? PANEL.impossible : PANEL.noResult }),
          h('p', { text: error.message ?? String(error) }),
          !isInput &&
            h(
              'button',
              { type: 'button', class: 'button', onclick: () => this.load(this.signal) },
              icon('refresh'),
              PANEL.again,
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
          icon('info'),
          h(
            'div',
            {},
            h('strong', { text: last.empty?.title ?? PANEL.empty }),
            h('p', { text: last.empty?.text ?? NOTHING }),
            last.empty?.code && h('pre', { tabindex: '0', text: last.empty.code }),
          ),
        ),
      );
      return;
    }
    this.element.dataset.state = 'ready';
    if (this.shown === 'table') this.put(table(last.rows, PANEL.table(this.title)));
    else if (last.element) this.put(last.above, last.element());
    else this.showChart();
  }

  async showChart() {
    const { last } = this;
    const label = PANEL.chart(this.title, last.label ?? '');
    // An existing chart is updated in place: it moves, and does not flicker.
    if (!this.chart?.canvas.isConnected) {
      const canvas = h('div', { class: 'canvas', 'aria-hidden': 'true' });
      const figure = h('div', { class: 'figure', role: 'img' }, canvas);
      this.chart = { canvas, figure, above: h('div'), below: h('div') };
      const scroller = h('div', { class: 'scroll-x', role: 'group', 'aria-label': PANEL.scrolled(this.title) }, figure);
      // What can be scrolled is reached with the keyboard.
      new ResizeObserver(() => {
        if (scroller.scrollWidth > scroller.clientWidth) scroller.tabIndex = 0;
        else scroller.removeAttribute('tabindex');
      }).observe(canvas);
      this.put(this.chart.above, scroller, this.chart.below);
    }
    const { canvas, figure, above, below } = this.chart;
    fill(above, last.above);
    const isOverTime = last.answer?.window && last.rows?.[0]?.period !== undefined;
    fill(below, last.below, isOverTime && annotationList(last.answer.window));
    figure.setAttribute('aria-label', label);
    canvas.style.height = `${last.height ?? this.height}px`;
    canvas.style.minWidth = last.minWidth ? `${last.minWidth}px` : '';
    await this.after;
    const { draw, prepare } = await charts();
    await prepare(last.option);
    if (this.last !== last || !canvas.isConnected) return;
    draw(canvas, last.option, last.onclick);
    this.element.dataset.drawn = 'true';
  }

  /** Draws again, in the current colours. */
  redraw() {
    if (this.last && this.element.dataset.state === 'ready') this.show();
  }

  /** Draws the chart for the width and the colours of a print. */
  drawForPrint() {
    const { last, chart } = this;
    if (!loaded || !last?.option || !chart?.canvas.isConnected) return;
    chart.canvas.style.minWidth = '';
    loaded.draw(chart.canvas, last.option, last.onclick, true);
  }

  toolButtons() {
    const { last } = this;
    const tool = (name, label, onclick, props = {}) =>
      h(
        'button',
        { type: 'button', class: 'tool', title: label, 'aria-label': PANEL.tool(label, this.title), onclick, ...props },
        icon(name),
      );
    const isTable = this.shown === 'table';
    const other = isTable ? ['chart', PANEL.showChart] : ['table', PANEL.showTable];
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
      !last.isEmpty && tool('download', PANEL.csv, () => this.saveCsv(), { 'data-tool': 'csv' }),
      !last.isEmpty &&
        (last.option || last.picture) &&
        tool('image', PANEL.png, () => this.savePicture(), { 'data-tool': 'png' }),
      last.request &&
        tool('code', PANEL.request, () => showRequest(this.title, last.request), { 'data-tool': 'request' }),
    ];
  }

  /** Describes the result: the days and the zone, the filter, the cohort and the steps, and when it was computed. */
  described() {
    const { answer, about } = this.last;
    return [...(answer?.ts && this.about ? this.about(answer) : []), ...(about ?? [])];
  }

  fileName(end) {
    const { window, ts } = this.last.answer ?? {};
    const [, ...more] = this.described();
    const words = more.filter((line) => !ts || !line.includes(ts.slice(0, 10)));
    return fileName(
      [`echopilot-${this.name}`, window && `${window.from}-${window.to}`, window?.tz.replaceAll('/', '-'), ...words],
      ts,
      end,
    );
  }

  async saveCsv() {
    try {
      const { request, rows, isOwnCsv } = this.last;
      const body = request?.body && !isOwnCsv ? await queryCsv(request.body) : csv(rows);
      download(this.fileName('csv'), body);
      announce(PANEL.csvSaved);
    } catch (error) {
      toast(error.message);
    }
  }

  async savePicture() {
    const { picture, prepare } = await charts();
    const option = this.last.picture ?? this.last.option;
    await prepare(option);
    const blob = await picture(option, {
      title: this.title,
      lines: this.described(),
      width: Math.max(this.last.minWidth ?? 0, 960),
      height: this.last.height ?? this.height,
    });
    download(this.fileName('png'), blob);
    announce(PANEL.pngSaved);
  }
}

/** Five cards before their numbers, as high as they will be. */
export const cardsOutline = () =>
  h(
    'div',
    { class: 'cards' },
    [...'12345'].map(() => h('div', { class: 'card' })),
  );

/** Longest name of a file before its ending, in characters. */
const LONGEST = 160;

/** The name of a file from parts with any characters, with the time at which its content was computed. */
export function fileName(parts, ts, end) {
  const words = parts
    .filter(Boolean)
    .join('-')
    .replace(/[^\p{L}\p{N}_.]+/gu, '-')
    .replace(/^[-.]+|[-.]+$/g, '');
  const time = ts ? `-${ts.slice(0, 16).replaceAll(':', '')}Z` : '';
  return `${[...words].slice(0, LONGEST - time.length).join('')}${time}.${end}`;
}

/** The rows of a result whose period is known: its events have not expired. */
export const known = ({ window, covered_from: covered }) =>
  covered > window.from ? ({ period: first }) => first >= covered : () => true;

/** The default message of an empty panel. */
export const NOTHING = PANEL.noMatch;
export const NO_EVENTS = PANEL.noEvents;

export const unnamedTitle = (events) => (events === 1 ? PANEL.oneUnnamed : PANEL.unnamed(count(events)));

/** The message of a panel about users if events happened, and none has a user. */
export const unnamed = (events) => ({
  title: unnamedTitle(events),
  code: naming,
  text: PANEL.unnamedText,
});

/** The reason why a period is incomplete; `null` if it is complete. */
export function cutText(first, { window }, isCut) {
  if (!isCut) return null;
  if (first < window.from) return PANEL.begins(shortDay(window.from));
  return window.partial ? PANEL.notOver : PANEL.ends(shortDay(window.to));
}

/** A note that lists the incomplete weeks or months; `drawn` describes their look. An incomplete day is noted elsewhere. */
export function cutNotes(rows, grain, drawn) {
  const cut = rows
    .filter((row) => row.partial && grain !== 'day')
    .map((row) => period(row.period ?? row.cohort, grain));
  return cut.length ? [['soft', PANEL.cut(drawn, cut.join(', ')), 'cut']] : [];
}

/** The notes of a result, about expired days and incomplete periods. */
function notesOf({ answer, notes = [] }) {
  const found = [...notes];
  const { window, covered_from: covered } = answer ?? {};
  if (window && covered > window.from) {
    found.unshift(['warn', covered > window.to ? PANEL.allExpired : PANEL.expired(shortDay(covered)), 'covered']);
  }
  return found.map(([kind, text, name]) =>
    h('p', { class: `note ${kind}`, 'data-note': name }, icon(kind === 'soft' ? 'info' : 'alert'), text),
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
            () => toast(PANEL.copied),
            () => toast(PANEL.notCopied),
          );
        },
      },
      icon('copy'),
      label,
    );
  const asCommand = command(request);
  const dialog = h(
    'dialog',
    { class: 'dialog wide', 'aria-label': PANEL.requestOf(title), onclose: () => dialog.remove() },
    h(
      'header',
      {},
      h('h2', { text: PANEL.requestTitle(title) }),
      h(
        'button',
        { type: 'button', class: 'tool', 'aria-label': PANEL.close, onclick: () => dialog.close() },
        icon('close'),
      ),
    ),
    h(
      'p',
      { class: 'hint' },
      `${body ? 'POST' : 'GET'} `,
      h('code', { text: address(request.path) }),
      PANEL.requestHint,
    ),
    body && [h('pre', { tabindex: '0', 'data-request': 'json', text: body }), copy(body, PANEL.copyJson)],
    h('pre', { tabindex: '0', 'data-request': 'curl', text: asCommand }),
    copy(asCommand, PANEL.copyCurl),
  );
  document.body.append(dialog);
  dialog.showModal();
}

/** Summary of a form that still has to be filled in; it is then open. */
export const NOT_SET = PANEL.notSet;

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

/** Marks behind a chart over time: days that have expired, and annotations. */
export function marks(rows, answer, look) {
  const { window, covered_from: covered } = answer;
  const { lines, areas } = annotationMarks(rows, window, look);
  const place = rows.findIndex(({ period }) => period >= covered);
  if (covered > window.from && place !== 0)
    areas.push([
      { xAxis: 0, itemStyle: { color: look.warn, opacity: 0.08 } },
      { xAxis: place < 0 ? rows.length - 1 : place },
    ]);
  const quiet = { silent: true, animation: false };
  return {
    ...(areas.length && { markArea: { ...quiet, data: areas } }),
    ...(lines.length && { markLine: { ...quiet, symbol: 'none', data: lines } }),
  };
}

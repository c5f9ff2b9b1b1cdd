// Reports: saved views and boards, annotations, and alerts.
import { change, get, isDemo, ROOT } from '../api.js';
import { alertPanels } from '../components/alerts.js';
import { setAnnotations } from '../components/annotations.js';
import { confirmRemoval, openDialog, workForm } from '../components/dialog.js';
import { moment } from '../components/moment.js';
import {
  allReports,
  askShare,
  contentOf,
  idFor,
  MOST_ITEMS,
  putReport,
  removeReport,
  stateOf,
  textArea,
} from '../components/saved.js';
import { download, field, fill, h, icon, named, plain, segments, select, toast } from '../dom.js';
import { range } from '../format.js';
import { write } from '../state.js';
import { REPORTS } from '../texts.js';

export function reports(context) {
  const { own } = context.state;
  const tab = REPORTS.tabs.some(([name]) => name === own.tab) ? own.tab : 'saved';
  const isOpen = tab === 'saved' && typeof own.id === 'string';
  const { panels, below } = isOpen ? opened(context, own.id) : { saved, notes, alerts: alertPanels }[tab](context);
  return {
    title: REPORTS.title,
    lead: REPORTS.lead,
    element: h(
      'div',
      { class: 'grid' },
      h(
        'div',
        { class: 'row tabs' },
        segments(REPORTS.shown, REPORTS.tabs, isOpen ? null : tab, (next) =>
          context.own(next === 'saved' ? {} : { tab: next }),
        ),
      ),
      panels.map(({ element }) => element),
      below,
    ),
    panels,
  };
}

const tool = (symbol, label, onclick, props) =>
  h('button', { type: 'button', class: 'tool', title: label, 'aria-label': label, onclick, ...props }, icon(symbol));

const failed = (error) => toast(error.message);

function saved(context) {
  const { panel, state, signal } = context;
  const reload = () => list.load(signal);
  const list = panel({
    title: REPORTS.list,
    name: 'saved',
    height: 200,
    help: REPORTS.help,
    controls: !isDemo && [
      h(
        'button',
        { type: 'button', class: 'button', onclick: () => askBoard(context) },
        icon('plus'),
        REPORTS.newBoard,
      ),
      h('button', { type: 'button', class: 'button', onclick: exportAll }, icon('download'), REPORTS.export),
      importButton(reload),
    ],
    ask: async (running) => {
      const found = await allReports(running);
      return {
        rows: found.map(({ name, kind, view, description, version, updated_at, updated_by }) => ({
          report: name,
          kind,
          view: view ?? null,
          description,
          version,
          updated: updated_at,
          by: updated_by,
        })),
        request: { path: 'reports' },
        isEmpty: found.length === 0,
        empty: REPORTS.empty,
        element: () =>
          ['board', 'report'].map((kind) => {
            const some = found.filter((one) => one.kind === kind);
            return (
              some.length > 0 &&
              h(
                'section',
                { class: 'saved-list' },
                h('h3', { text: kind === 'board' ? REPORTS.boards : REPORTS.reports }),
                h(
                  'ul',
                  {},
                  some.map((one) => savedItem(one, found, { state, reload })),
                ),
              )
            );
          }),
      };
    },
  });
  return { panels: [list] };
}

function savedItem(report, all, { state, reload }) {
  const name = plain(report.name);
  const detail = report.kind === 'board' ? REPORTS.items(report.items?.length ?? 0) : plain(report.view ?? '');
  return h(
    'li',
    { 'data-saved': report.id },
    h(
      'div',
      { class: 'saved-name' },
      h('a', { href: write({ ...state, view: 'reports', own: { id: report.id } }) }, named(report.name)),
      report.description && h('p', { class: 'hint' }, h('bdi', { text: plain(report.description) })),
      h('small', { text: REPORTS.detail(detail, moment(report.updated_at, state.tz)) }),
    ),
    !isDemo &&
      h(
        'div',
        { class: 'row' },
        tool('copy', REPORTS.duplicateOf(name), () => duplicate(report, all).then(reload, failed)),
        tool('link', REPORTS.shareOf(name), () => askShare(report, ROOT)),
        tool('remove', REPORTS.deleteOf(name), () => askRemoval(report, reload)),
      ),
  );
}

const duplicate = (report, all) => {
  const name = REPORTS.copyOf(report.name).slice(0, 200);
  return putReport({ ...contentOf(report), name, id: idFor(name, all), version: 0 });
};

const askRemoval = (report, done) =>
  confirmRemoval(
    REPORTS.deleteOf(plain(report.name)),
    report.kind === 'board' ? REPORTS.deleteBoard : REPORTS.deleteReport,
    REPORTS.delete,
    () => removeReport(report.id),
    done,
  );

async function exportAll() {
  try {
    const [{ reports: found }, { annotations }] = await Promise.all([get('reports'), get('annotations')]);
    const text = JSON.stringify({ reports: found, annotations }, null, 2);
    download('echopilot-reports.json', new Blob([text], { type: 'application/json' }));
  } catch (error) {
    failed(error);
  }
}

function importButton(reload) {
  const input = h('input', {
    type: 'file',
    accept: '.json,application/json',
    hidden: true,
    'aria-label': REPORTS.file,
    onchange: async () => {
      try {
        const answer = await change('POST', 'reports', JSON.parse(await input.files[0].text()));
        toast(REPORTS.imported(answer.reports, answer.annotations));
        reload();
      } catch (error) {
        failed(error);
      }
      input.value = '';
    },
  });
  return [input, h('button', { type: 'button', class: 'button', onclick: () => input.click() }, REPORTS.import)];
}

function askBoard(context) {
  const name = h('input', { type: 'text', required: true, maxlength: 200 });
  const description = textArea('');
  openDialog(REPORTS.newBoard, (close) =>
    workForm(
      {
        action: REPORTS.create,
        work: async () =>
          putReport({
            kind: 'board',
            id: idFor(name.value, await allReports()),
            name: name.value.trim(),
            description: description.value,
            items: [],
            version: 0,
          }),
        done: ({ id }) => {
          close();
          context.own({ id });
        },
      },
      field(REPORTS.name, name),
      field(REPORTS.description, description),
    ),
  );
}

/** A report or a board. Its panels are below the panel with its name. */
function opened(context, id) {
  const { panel, signal, state } = context;
  const below = h('div', { class: 'grid board' });
  const reload = () => head.load(signal);
  const head = panel({
    title: REPORTS.report,
    name: 'report',
    height: 80,
    ask: async (running) => {
      const all = await allReports(running);
      const report = all.find((one) => one.id === id);
      if (!report) {
        fill(below);
        return {
          isEmpty: true,
          empty: REPORTS.unknown,
        };
      }
      if (report.kind === 'board') showBoard(context, report, all, below, reload);
      else showReports([report], context, below);
      return {
        rows: [contentOf(report)].map(({ name, description, kind }) => ({ report: name, kind, description })),
        request: { path: `reports/${id}` },
        element: () => reportHead(context, report, all, reload, state),
      };
    },
  });
  return { panels: [head], below };
}

function reportHead(context, report, all, reload, state) {
  const saved = report.kind === 'report' && stateOf(report);
  const button = (symbol, text, onclick, props) =>
    h('button', { type: 'button', class: 'button', onclick, ...props }, icon(symbol), text);
  return [
    h('h3', { class: 'report-name' }, named(report.name)),
    report.description && h('p', {}, h('bdi', { text: plain(report.description) })),
    h('p', {
      class: 'hint',
      text: REPORTS.version(
        report.version,
        moment(report.updated_at, state.tz),
        report.updated_by && plain(report.updated_by),
      ),
    }),
    h(
      'div',
      { class: 'row report-actions' },
      saved && h('a', { class: 'button', href: write(saved), 'data-action': 'open' }, icon('chart'), REPORTS.open),
      !isDemo && [
        button('edit', REPORTS.rename, () => askRename(report, reload)),
        button('copy', REPORTS.duplicate, () => duplicate(report, all).then(({ id }) => context.own({ id }), failed)),
        button('link', REPORTS.share, () => askShare(report, ROOT), { 'data-action': 'share' }),
        report.version > 1 && button('clock', REPORTS.earlier, () => askHistory(report, state, reload)),
        button('remove', REPORTS.delete, () => askRemoval(report, () => context.own({}))),
      ],
    ),
  ];
}

function askRename(report, reload) {
  const name = h('input', { type: 'text', required: true, maxlength: 200, value: report.name });
  const description = textArea(report.description);
  openDialog(REPORTS.renameTitle, (close) =>
    workForm(
      {
        action: REPORTS.save,
        work: () =>
          putReport({
            ...contentOf(report),
            id: report.id,
            name: name.value.trim(),
            description: description.value,
            version: report.version,
          }),
        done: () => {
          close();
          reload();
        },
      },
      field(REPORTS.name, name),
      field(REPORTS.description, description),
    ),
  );
}

function askHistory(report, state, reload) {
  const list = h('ul', { class: 'links' }, h('li', { class: 'hint', text: REPORTS.loading }));
  openDialog(REPORTS.earlierOf(plain(report.name)), (close) => {
    get(`reports/${report.id}/history`).then(
      ({ history }) =>
        fill(
          list,
          history.map((old) =>
            h(
              'li',
              { class: 'row' },
              h('span', {}, REPORTS.old(old.version, moment(old.updated_at, state.tz)), named(old.name)),
              h(
                'button',
                {
                  type: 'button',
                  class: 'button',
                  'aria-label': REPORTS.restoreVersion(old.version),
                  onclick: () =>
                    putReport({ ...contentOf(old), id: report.id, version: report.version }).then(() => {
                      close();
                      reload();
                    }, failed),
                },
                REPORTS.restore,
              ),
            ),
          ),
        ),
      (error) => fill(list, h('li', { class: 'note bad', text: error.message })),
    );
    return list;
  });
}

/** Shows reports one below the other; `toolsOf(report, place)` are the buttons of each. */
export function showReports(found, context, below, toolsOf) {
  const drawn = found.map((report) => ({ report, view: context.embed(report, stateOf(report)) }));
  fill(
    below,
    drawn.map(({ report, view }, place) =>
      h(
        'section',
        { class: 'board-item', 'data-report': report.id, 'aria-label': plain(report.name) },
        toolsOf &&
          h(
            'header',
            {},
            h(
              'div',
              {},
              h('h2', {}, named(report.name)),
              report.description && h('p', { class: 'hint' }, h('bdi', { text: plain(report.description) })),
            ),
            h('div', { class: 'row' }, toolsOf(report, place)),
          ),
        view
          ? h(
              'div',
              { class: 'grid' },
              view.panels.map(({ element }) => element),
            )
          : h('p', { class: 'note warn' }, icon('alert'), REPORTS.notShown),
      ),
    ),
  );
  // A board of many charts asks only for those that come near the screen.
  const near = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        for (const one of target.views) one.load(context.signal);
      }
    },
    { rootMargin: '1500px' },
  );
  for (const element of below.children) {
    element.views = drawn.find(({ report }) => report.id === element.dataset.report)?.view?.panels ?? [];
    near.observe(element);
  }
  context.signal.addEventListener('abort', () => near.disconnect());
}

function showBoard(context, board, all, below, reload) {
  const items = (board.items ?? []).map((id) => all.find((one) => one.id === id)).filter(Boolean);
  const put = (next) =>
    putReport({ ...contentOf(board), id: board.id, items: next, version: board.version }).then(reload, failed);
  const ids = items.map(({ id }) => id);
  const move = (place, to) => put(ids.toSpliced(place, 1).toSpliced(to, 0, ids[place]));
  showReports(items, context, below, (report, place) => {
    const name = plain(report.name);
    const saved = stateOf(report);
    return [
      saved &&
        h(
          'a',
          { class: 'tool', href: write(saved), title: REPORTS.openOf(name), 'aria-label': REPORTS.openOf(name) },
          icon('chart'),
        ),
      !isDemo && [
        tool('up', REPORTS.up(name), () => move(place, place - 1), { disabled: place === 0 }),
        tool('down', REPORTS.down(name), () => move(place, place + 1), { disabled: place === ids.length - 1 }),
        tool('close', REPORTS.takeOff(name), () => put(ids.toSpliced(place, 1))),
      ],
    ];
  });
  const others = all.filter((one) => one.kind === 'report' && !ids.includes(one.id));
  if (isDemo) return;
  below.append(
    h(
      'div',
      { class: 'panel add-report' },
      ids.length >= MOST_ITEMS
        ? h('p', { class: 'hint', text: REPORTS.full(MOST_ITEMS) })
        : others.length
          ? field(
              REPORTS.add,
              select(
                [['', REPORTS.choose], ...others.map((one) => [one.id, plain(one.name)])],
                '',
                (id) => id && put([...ids, id]),
              ),
            )
          : h('p', {
              class: 'hint',
              text: ids.length ? REPORTS.allOn : REPORTS.noReports,
            }),
    ),
  );
}

function notes({ panel, signal }) {
  const show = ({ annotations }) => {
    setAnnotations(annotations);
    list.load(signal);
  };
  const edit = (one) => {
    const date = h('input', {
      type: 'date',
      required: true,
      value: one?.date ?? new Date().toISOString().slice(0, 10),
    });
    const to = h('input', { type: 'date', value: one?.to ?? '' });
    const text = h('input', { type: 'text', required: true, maxlength: 200, value: one?.text ?? '' });
    openDialog(one ? REPORTS.change : REPORTS.newNote, (close) =>
      workForm(
        {
          action: REPORTS.save,
          work: () =>
            change('PUT', `annotations/${one?.id ?? `note-${Date.now().toString(36)}`}`, {
              date: date.value,
              ...(to.value && { to: to.value }),
              text: text.value.trim(),
            }),
          done: (answer) => {
            close();
            show(answer);
          },
        },
        field(REPORTS.what, text, REPORTS.whatHint),
        field(REPORTS.day, date),
        field(REPORTS.lastDay, to, REPORTS.lastDayHint),
      ),
    );
  };
  const list = panel({
    title: REPORTS.notes,
    name: 'annotations',
    height: 160,
    help: REPORTS.notesHelp,
    controls:
      !isDemo && h('button', { type: 'button', class: 'button', onclick: () => edit() }, icon('plus'), REPORTS.newNote),
    ask: async (running) => {
      const { annotations } = await get('annotations', running);
      setAnnotations(annotations);
      return {
        rows: annotations.map(({ date, to, text }) => ({ date, to: to ?? null, text })),
        request: { path: 'annotations' },
        isEmpty: annotations.length === 0,
        empty: REPORTS.noNotes,
        element: () =>
          h(
            'ul',
            { class: 'saved-list' },
            annotations.toReversed().map((one) =>
              h(
                'li',
                { 'data-annotation': one.id },
                h(
                  'div',
                  { class: 'saved-name' },
                  h('bdi', { text: plain(one.text) }),
                  h('small', { text: range(one.date, one.to ?? one.date) }),
                ),
                !isDemo &&
                  h(
                    'div',
                    { class: 'row' },
                    tool('edit', REPORTS.changeOf(plain(one.text)), () => edit(one)),
                    tool('remove', REPORTS.deleteOf(plain(one.text)), () =>
                      confirmRemoval(
                        REPORTS.deleteNote,
                        plain(one.text),
                        REPORTS.delete,
                        () => change('DELETE', `annotations/${one.id}`),
                        show,
                      ),
                    ),
                  ),
              ),
            ),
          ),
      };
    },
  });
  return { panels: [list] };
}

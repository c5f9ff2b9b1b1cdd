// Saved reports and boards: their requests, their state, and the dialogs that save and share them.
import { change, get, recordedQueries } from '../api.js';
import { field, fill, h, icon, plain, select, toast } from '../dom.js';
import { longDay } from '../format.js';
import { read, write } from '../state.js';
import { SAVED } from '../texts.js';
import { openDialog, workForm } from './dialog.js';

/** Limits of the server. */
const MOST_QUERIES = 20;
export const MOST_ITEMS = 50;

export const allReports = async (signal) => (await get('reports', signal)).reports;
export const putReport = async ({ id, ...report }) => (await change('PUT', `reports/${id}`, report)).report;
export const removeReport = (id) => change('DELETE', `reports/${id}`);

/** The content of a stored report, as it is sent. */
export const contentOf = ({ kind, name, description, view, state, queries, items }) =>
  kind === 'board'
    ? { kind, name, description, items: items ?? [] }
    : { kind, name, description, view, state, queries };

/** An id from a name, which no other report has. */
export function idFor(name, reports) {
  const base =
    name
      .normalize('NFKD')
      .toLowerCase()
      .replace(/[^a-z0-9]+/g, '-')
      .replace(/^-|-$/g, '')
      .slice(0, 56) || 'report';
  const taken = new Set(reports.map(({ id }) => id));
  let id = base;
  for (let place = 2; taken.has(id); place += 1) id = `${base}-${place}`;
  return id;
}

/** The state of the page that a report was saved with; `null` if this page cannot show it. */
export function stateOf({ view, state: saved }) {
  try {
    // Written and read again, as an address would be: the state may come from another version.
    return read(write({ ...read(`#/${view}`), ...saved, view }));
  } catch {
    return null;
  }
}

export const textArea = (value) => h('textarea', { rows: 3, maxlength: 2_000, value });

/** Saves the view that is shown. */
export function askSave({ view, ...state }, title) {
  const name = h('input', { type: 'text', required: true, maxlength: 200, value: title });
  const description = textArea('');
  const boards = h('div');
  const note = h('p', { class: 'hint', role: 'status' });
  let reports = [];
  let board = '';
  const same = () => reports.find((one) => one.kind === 'report' && one.name === name.value.trim());
  const check = () => {
    note.textContent = same() ? SAVED.exists : '';
  };
  name.addEventListener('input', check);
  openDialog(SAVED.title, (close) =>
    workForm(
      {
        action: SAVED.save,
        work: async () => {
          const queries = recordedQueries();
          if (queries.length > MOST_QUERIES) throw new Error(SAVED.tooMany(queries.length, MOST_QUERIES));
          reports = await allReports();
          const old = same();
          const report = await putReport({
            id: old?.id ?? idFor(name.value, reports),
            kind: 'report',
            name: name.value.trim(),
            description: description.value || (old?.description ?? ''),
            view,
            state,
            queries,
            version: old?.version ?? 0,
          });
          const on = reports.find(({ id }) => id === board);
          if (on && !on.items?.includes(report.id))
            await putReport({
              ...contentOf(on),
              id: on.id,
              items: [...(on.items ?? []), report.id],
              version: on.version,
            });
          return report;
        },
        done: (report) => {
          close();
          toast(SAVED.done(plain(report.name)));
        },
      },
      field(SAVED.name, name),
      field(SAVED.description, description),
      boards,
      note,
    ),
  );
  allReports().then(
    (found) => {
      reports = found;
      check();
      const all = found.filter(({ kind }) => kind === 'board');
      if (all.length)
        fill(
          boards,
          field(
            SAVED.board,
            select([['', SAVED.noBoard], ...all.map((one) => [one.id, plain(one.name)])], '', (id) => {
              board = id;
            }),
          ),
        );
    },
    () => {},
  );
}

const copy = (text) =>
  navigator.clipboard.writeText(text).then(
    () => toast(SAVED.copied),
    () => toast(SAVED.notCopied),
  );

/** Share links of a report or board: makes them, shows the new one once, and revokes them. */
export function askShare({ id, name }, root) {
  const days = h('input', { type: 'number', min: 1, max: 365, value: 30, required: true });
  const origins = textArea('');
  origins.placeholder = 'https://wiki.example.com';
  const made = h('div', { 'aria-live': 'polite' });
  const list = h('ul', { class: 'links' });
  const path = `reports/${id}/links`;
  const show = ({ links }) =>
    fill(
      list,
      links.map((link) =>
        h(
          'li',
          { class: 'row', 'data-link': link.id },
          h(
            'span',
            {},
            SAVED.until(longDay(link.expires_at.slice(0, 10))),
            h('small', { text: link.origins.length ? SAVED.embeddedBy(link.origins.join(', ')) : '' }),
          ),
          h(
            'button',
            {
              type: 'button',
              class: 'button',
              'aria-label': SAVED.revokeLink(link.id),
              onclick: () =>
                change('DELETE', `${path}/${link.id}`).then(
                  (answer) => {
                    show(answer);
                    toast(SAVED.revoked);
                  },
                  (error) => toast(error.message),
                ),
            },
            SAVED.revoke,
          ),
        ),
      ),
      !links.length && h('li', { class: 'hint', text: SAVED.noLinks }),
    );
  const reload = () => get(path).then(show, (error) => fill(list, h('li', { class: 'note bad', text: error.message })));
  const textOf = (label, text, name_) =>
    h(
      'div',
      { class: 'field' },
      h('span', { class: 'label', text: label }),
      h('pre', { tabindex: '0', 'data-link-text': name_, text }),
      h('button', { type: 'button', class: 'button', onclick: () => copy(text) }, icon('copy'), SAVED.copy(label)),
    );
  const dialog = openDialog(
    SAVED.share(plain(name)),
    () => [
      h('p', {
        class: 'hint',
        text: SAVED.shareHint,
      }),
      workForm(
        {
          action: SAVED.create,
          work: () =>
            change('POST', path, {
              expires_in_days: Number(days.value),
              origins: origins.value.split(/\s+/).filter(Boolean),
            }),
          done: ({ link }) => {
            const address = `${location.origin}${root}${link.path.replace(/^\//, '')}`;
            fill(
              made,
              h('p', { class: 'note warn' }, icon('alert'), SAVED.once),
              textOf(SAVED.link, address, 'link'),
              link.origins.length > 0 &&
                textOf(
                  SAVED.embed,
                  `<iframe src="${address}" width="100%" height="600" title="${SAVED.frame}"></iframe>`,
                  'embed',
                ),
            );
            reload();
          },
        },
        field(SAVED.days, days, SAVED.daysHint),
        field(SAVED.origins, origins, SAVED.originsHint),
      ),
      made,
      h('h3', { text: SAVED.links }),
      list,
    ],
    { wide: true },
  );
  reload();
  return dialog;
}

// Dialogs with a title, and confirmations.
import { fill, h, icon, plain } from '../dom.js';
import { PANEL } from '../texts.js';

/** Opens a dialog; `content(close)` returns its elements. */
export function openDialog(title, content, { wide = false } = {}) {
  const dialog = h(
    'dialog',
    { class: `dialog${wide ? ' wide' : ''}`, 'aria-label': title, onclose: () => dialog.remove() },
    h(
      'header',
      {},
      h('h2', { text: title }),
      h(
        'button',
        { type: 'button', class: 'tool', 'aria-label': PANEL.close, onclick: () => dialog.close() },
        icon('close'),
      ),
    ),
  );
  dialog.append(...[content(() => dialog.close())].flat(Infinity).filter(Boolean));
  document.body.append(dialog);
  dialog.showModal();
  dialog.querySelector('input, textarea, select, .button')?.focus();
  return dialog;
}

/**
 * A form that works while its request runs, and shows its error. `work()` does the request; the form is then done and
 * `done(result)` is called.
 */
export function workForm({ action, isDangerous, work, done }, ...fields) {
  const problem = h('p', { class: 'note bad', role: 'alert', hidden: true });
  const button = h('button', { class: `button ${isDangerous ? 'danger' : 'primary'}` }, action);
  return h(
    'form',
    {
      class: 'form',
      onsubmit: async (event) => {
        event.preventDefault();
        button.disabled = true;
        problem.hidden = true;
        try {
          done(await work());
        } catch (error) {
          problem.hidden = false;
          fill(problem, plain(error.message));
        } finally {
          button.disabled = false;
        }
      },
    },
    fields,
    problem,
    h('div', { class: 'row' }, button),
  );
}

/** Asks before something is removed. */
export const confirmRemoval = (title, text, action, work, done) =>
  openDialog(title, (close) => [
    h('p', { text }),
    workForm({
      action,
      isDangerous: true,
      work,
      done: (result) => {
        close();
        done(result);
      },
    }),
  ]);

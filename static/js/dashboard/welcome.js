// The screens before the first query: the key, and an empty store.
import { get, hasKey, isDemo, listen, makeDemo, ROOT, setKey } from './api.js';
import { fill, h, icon, logo, toast } from './dom.js';
import { naming, snippet as tag } from './snippet.js';
import { FRAME, WELCOME } from './texts.js';

/** Asks for the key until the server accepts it, or until `late` resolves to one, which another tab has. */
export function askKey(message, late) {
  return new Promise((resolve) => {
    const problem = h('p', { class: 'note bad', role: 'alert', hidden: !message }, message ?? '');
    const input = h('input', {
      type: 'password',
      id: 'key',
      name: 'key',
      autocomplete: 'off',
      required: true,
      spellcheck: 'false',
      'aria-describedby': 'key-hint',
    });
    const button = h('button', { class: 'button primary' }, WELCOME.open);
    let isAccepted = false;
    const accept = (status) => {
      isAccepted = true;
      dialog.close();
      dialog.remove();
      resolve(status);
    };
    const dialog = h(
      'dialog',
      {
        class: 'dialog key-dialog',
        'aria-labelledby': 'key-title',
        oncancel: (event) => event.preventDefault(),
        // A browser closes it with the second Escape, whatever the page says.
        onclose: () => {
          if (isAccepted) return;
          dialog.showModal();
          input.focus();
        },
      },
      h(
        'form',
        {
          class: 'form',
          onsubmit: async (event) => {
            event.preventDefault();
            button.disabled = true;
            setKey(input.value.trim());
            try {
              accept(await get('status'));
            } catch (error) {
              // The folder of the demo may not exist yet, although the key is right.
              if (error.status === 404 && isDemo) {
                accept(null);
                return;
              }
              setKey(null);
              problem.hidden = false;
              problem.textContent = error.status === 401 ? WELCOME.wrongKey : error.message;
              input.select();
            } finally {
              button.disabled = false;
            }
          },
        },
        logo(44),
        h('h1', { id: 'key-title', text: WELCOME.title }),
        h(
          'div',
          { class: 'field' },
          h('label', { for: 'key', text: WELCOME.key }),
          input,
          h(
            'small',
            { id: 'key-hint' },
            WELCOME.keyHint[0],
            h('code', { text: 'dash_key' }),
            WELCOME.keyHint[1],
            h('code', { text: 'ECHOPILOT_DASH_KEY' }),
            WELCOME.keyHint[2],
          ),
        ),
        problem,
        button,
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
    late
      ?.then(async (key) => {
        if (isAccepted) return;
        setKey(key);
        accept(await get('status'));
      })
      .catch(() => setKey(null));
  });
}

/** Fetches the status of the store; asks for the key first if there is none. */
export async function enter(late) {
  if (!hasKey()) return askKey(undefined, late);
  try {
    return await get('status');
  } catch (error) {
    if (error.status === 401) return askKey(FRAME.keyRejected);
    throw error;
  }
}

const event = () =>
  `curl '${location.origin}${ROOT}api/analytics/event' \\\n  -H 'Content-Type: application/json' \\\n  -d '{"events":[{"event_type":"page_view","user_id":"user123","feature":"dashboard"}]}'`;

/** The page of an empty store: how to send the first event, and a demo. Calls `first` when an event arrives. */
export function empty(signal, first) {
  const status = h(
    'p',
    { class: 'live-status', 'data-live': 'on', role: 'status' },
    h('i', { class: 'dot' }),
    h('span', { text: WELCOME.waiting }),
  );
  const snippet = (text) =>
    h(
      'div',
      { class: 'snippet' },
      h('pre', { tabindex: '0', text }),
      h(
        'button',
        {
          type: 'button',
          class: 'button',
          onclick: () =>
            navigator.clipboard.writeText(text).then(
              () => toast(WELCOME.copied),
              () => toast(WELCOME.notCopied),
            ),
        },
        icon('copy'),
        WELCOME.copy,
      ),
    );
  const demo = h(
    'button',
    {
      type: 'button',
      class: 'button',
      'data-action': 'demo',
      onclick: async () => {
        demo.disabled = true;
        fill(demo, WELCOME.generating);
        try {
          await makeDemo();
          location.assign(`${ROOT}demo/${location.hash}`);
        } catch (error) {
          toast(error.message);
          demo.disabled = false;
          fill(demo, WELCOME.demo);
        }
      },
    },
    WELCOME.demo,
  );
  listen('live', signal, (_, { accepted }) => {
    if (accepted > 0) first();
  }).catch(() => {});
  return h(
    'div',
    { class: 'welcome' },
    h('h1', { text: WELCOME.none }),
    status,
    h(
      'section',
      { class: 'panel' },
      h('h2', { text: WELCOME.page }),
      h('p', {
        class: 'hint',
        text: WELCOME.pageHint,
      }),
      snippet(tag(`${location.origin}${ROOT}static/js/telemetry.js`)),
      h('p', { class: 'hint', text: WELCOME.users }),
      snippet(naming),
    ),
    h(
      'section',
      { class: 'panel' },
      h('h2', { text: WELCOME.terminal }),
      h('p', { class: 'hint', text: WELCOME.terminalHint }),
      snippet(event()),
    ),
    h(
      'section',
      { class: 'panel' },
      h('h2', { text: WELCOME.tryDemo }),
      h('p', {
        class: 'hint',
        text: WELCOME.demoHint,
      }),
      demo,
    ),
  );
}

// The screens before the first query: the key, and an empty store.
import { get, hasKey, isDemo, listen, makeDemo, ROOT, setKey } from './api.js';
import { fill, h, icon, toast } from './dom.js';
import { naming, snippet as tag } from './snippet.js';

/** Asks for the key until the server accepts it. */
export function askKey(message) {
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
    const button = h('button', { class: 'button primary' }, 'Open the dashboard');
    const dialog = h(
      'dialog',
      { class: 'dialog key-dialog', 'aria-labelledby': 'key-title', oncancel: (event) => event.preventDefault() },
      h(
        'form',
        {
          class: 'form',
          onsubmit: async (event) => {
            event.preventDefault();
            button.disabled = true;
            setKey(input.value.trim());
            try {
              const status = await get('status');
              dialog.close();
              dialog.remove();
              resolve(status);
            } catch (error) {
              // The folder of the demo may not exist yet, although the key is right.
              if (error.status === 404 && isDemo) {
                dialog.close();
                dialog.remove();
                resolve(null);
                return;
              }
              setKey(null);
              problem.hidden = false;
              problem.textContent = error.status === 401 ? 'This key is not valid.' : error.message;
              input.select();
            } finally {
              button.disabled = false;
            }
          },
        },
        h('img', { src: `${ROOT}static/icon.svg`, alt: '', width: 44, height: 44 }),
        h('h1', { id: 'key-title', text: 'EchoPilot Analytics' }),
        h(
          'div',
          { class: 'field' },
          h('label', { for: 'key', text: 'Dashboard key' }),
          input,
          h(
            'small',
            { id: 'key-hint' },
            'It is in the file ',
            h('code', { text: 'dash_key' }),
            ' of the data folder, or the value of ',
            h('code', { text: 'ECHOPILOT_DASH_KEY' }),
            '. It is kept until this tab is closed.',
          ),
        ),
        problem,
        button,
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
}

/** Fetches the status of the store; asks for the key first if there is none. */
export async function enter() {
  if (!hasKey()) return askKey();
  try {
    return await get('status');
  } catch (error) {
    if (error.status === 401) return askKey('The key of this tab is no longer valid.');
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
    h('span', { text: 'Waiting for the first event…' }),
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
              () => toast('Copied'),
              () => toast('Select the text to copy it.'),
            ),
        },
        icon('copy'),
        'Copy',
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
        fill(demo, 'Generating a history…');
        try {
          await makeDemo();
          location.assign(`${ROOT}demo/${location.hash}`);
        } catch (error) {
          toast(error.message);
          demo.disabled = false;
          fill(demo, 'Open the demo');
        }
      },
    },
    'Open the demo',
  );
  listen('live', signal, (_, { accepted }) => {
    if (accepted > 0) first();
  }).catch(() => {});
  return h(
    'div',
    { class: 'welcome' },
    h('h1', { text: 'No events yet' }),
    status,
    h(
      'section',
      { class: 'panel' },
      h('h2', { text: 'From a page' }),
      h('p', {
        class: 'hint',
        text: 'Put this into the head of your pages. It counts page views, and clicks on elements with data-track.',
      }),
      snippet(tag(`${location.origin}${ROOT}static/js/telemetry.js`)),
      h('p', { class: 'hint', text: 'Users are counted only if the page sets the user:' }),
      snippet(naming),
    ),
    h(
      'section',
      { class: 'panel' },
      h('h2', { text: 'From a terminal' }),
      h('p', { class: 'hint', text: 'Events need no key. The response confirms that the event is on disk.' }),
      snippet(event()),
    ),
    h(
      'section',
      { class: 'panel' },
      h('h2', { text: 'Or try the demo first' }),
      h('p', {
        class: 'hint',
        text: 'Four months of synthetic history in a separate folder. It never mixes with your events.',
      }),
      demo,
    ),
  );
}

// The way to the server. The key is in the header and in this tab's storage for the session, and nowhere else.

const KEY = 'echopilot.key';
/** Questions at once; the server answers four, and a browser opens six connections, one of which may be live. */
const AT_ONCE = 4;

/** Where the server is mounted, with a slash at the end. This script lies in `static/` below it, whatever path a proxy puts before. */
export const ROOT = new URL('..', import.meta.url).pathname;
export const isDemo = location.pathname.startsWith(`${ROOT}demo/`);
const BASE = `${ROOT}${isDemo ? 'demo/' : ''}api/analytics`;

let key = null;
try {
  key = sessionStorage.getItem(KEY);
} catch {
  // A browser that stores nothing keeps the key until the page is closed.
}

export const hasKey = () => Boolean(key);

export function setKey(value) {
  key = value;
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // As above.
  }
}

/** A refusal, or the lack of an answer. */
export class Failure extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

let running = 0;
const waiting = [];

async function turn(signal) {
  if (running >= AT_ONCE) {
    await new Promise((resolve) => {
      waiting.push(resolve);
    });
  }
  running += 1;
  if (signal?.aborted) {
    done();
    throw signal.reason;
  }
}

function done() {
  running -= 1;
  waiting.shift()?.();
}

async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path, {
      ...options,
      cache: 'no-store',
      credentials: 'omit',
      headers: { ...options.headers, 'X-Dash-Key': key ?? '' },
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Failure(0, 'no_answer', 'The server does not answer. Is it running?');
  }
  if (response.ok) return response;
  const refusal = await response.json().catch(() => ({}));
  if (response.status === 401) document.dispatchEvent(new CustomEvent('key-refused'));
  throw new Failure(
    response.status,
    refusal.error ?? 'failed',
    refusal.message ?? `The server answered ${response.status}.`,
  );
}

async function inTurn(signal, work) {
  await turn(signal);
  try {
    return await work();
  } finally {
    done();
  }
}

/** A question to `/query`. */
export function query(question, signal) {
  return inTurn(signal, async () => (await post('query', question, signal)).json());
}

/** The same as a CSV file for a spreadsheet. */
export async function queryCsv(question) {
  return (await post('query', question, undefined, 'text/csv; variant=spreadsheet')).blob();
}

const post = (path, body, signal, accept = 'application/json') =>
  send(`${BASE}/${path}`, {
    method: 'POST',
    signal,
    body: JSON.stringify(body),
    headers: { 'Content-Type': 'application/json', Accept: accept },
  });

/** The answer to a GET. */
export const get = (path, signal) => inTurn(signal, async () => (await send(`${BASE}/${path}`, { signal })).json());

export const usage = ({ days, end, tz }, signal) => get(usagePath({ days, end, tz }), signal);

export function usagePath({ days, end, tz }) {
  const asked = new URLSearchParams({ days });
  if (end) asked.set('end', end);
  if (tz && tz !== 'UTC') asked.set('tz', tz);
  return `usage?${asked}`;
}

export const saveCohort = async (cohort) => (await post('cohorts', cohort)).json();
export const removeCohort = async (name) =>
  (await send(`${BASE}/cohorts/${encodeURIComponent(name)}`, { method: 'DELETE' })).json();
export const makeDemo = async () => (await send(`${ROOT}api/analytics/demo`, { method: 'POST' })).json();

/** The request as a command line; the key stays a variable. */
export function command({ path, body, stream }) {
  const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;
  const start = `curl ${stream ? '-N ' : ''}${quoted(`${location.origin}${BASE}/${path}`)} \\\n  -H "X-Dash-Key: $ECHOPILOT_DASH_KEY"`;
  return body ? `${start} \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(JSON.stringify(body))}` : start;
}

export const address = (path) => `${BASE}/${path}`;

/** Reads a stream of server-sent events; `EventSource` could not send the key. Ends with the stream. */
export async function listen(path, signal, onmessage) {
  const response = await send(`${BASE}/${path}`, { signal, headers: { Accept: 'text/event-stream' } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { value, done: ended } = await reader.read();
    if (ended) return;
    text += value;
    const messages = text.split('\n\n');
    text = messages.pop();
    for (const message of messages) {
      const fields = message.split('\n').filter((line) => line && !line.startsWith(':'));
      if (!fields.length) continue;
      const of = (name) =>
        fields
          .filter((line) => line.startsWith(`${name}: `))
          .map((line) => line.slice(name.length + 2))
          .join('\n');
      onmessage(of('event'), JSON.parse(of('data')));
    }
  }
}

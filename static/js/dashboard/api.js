// Requests to the server. The key is only in the header and in this tab's session storage.

const KEY = 'echopilot.key';
/** Requests at a time: the server runs four queries, and a browser opens six connections, one of them for live events. */
const AT_ONCE = 4;

/** Path of the server, with a slash at the end. This script is in `static/` below it, whatever prefix a proxy adds. */
export const ROOT = new URL('..', import.meta.url).pathname;
export const isDemo = location.pathname.startsWith(`${ROOT}demo/`);
const BASE = `${ROOT}${isDemo ? 'demo/' : ''}api/analytics`;

let key = null;
try {
  key = sessionStorage.getItem(KEY);
} catch {
  // Without storage the key is kept until the page is closed.
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

/** An error response, or no response. */
export class Failure extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

let running = 0;
const waiting = [];

async function acquire(signal) {
  if (running >= AT_ONCE) {
    await new Promise((resolve) => {
      waiting.push(resolve);
    });
  }
  running += 1;
  if (signal?.aborted) {
    release();
    throw signal.reason;
  }
}

function release() {
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
    throw new Failure(0, 'no_response', 'The server does not respond. Is it running?');
  }
  if (response.ok) return response;
  const error = await response.json().catch(() => ({}));
  if (response.status === 401) document.dispatchEvent(new CustomEvent('key-rejected'));
  throw new Failure(
    response.status,
    error.error ?? 'failed',
    error.message ?? `The server responded with status ${response.status}.`,
  );
}

async function limited(signal, work) {
  await acquire(signal);
  try {
    return await work();
  } finally {
    release();
  }
}

/** Sends a request to `/query`. */
export function query(request, signal) {
  return limited(signal, async () => (await post('query', request, signal)).json());
}

/** The same, as a CSV file for a spreadsheet. */
export async function queryCsv(request) {
  return (await post('query', request, undefined, 'text/csv; variant=spreadsheet')).blob();
}

const post = (path, body, signal, accept = 'application/json') =>
  send(`${BASE}/${path}`, {
    method: 'POST',
    signal,
    body: JSON.stringify(body),
    headers: { 'Content-Type': 'application/json', Accept: accept },
  });

/** Sends a GET request. */
export const get = (path, signal) => limited(signal, async () => (await send(`${BASE}/${path}`, { signal })).json());

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

/** Reads a stream of server-sent events to its end. `EventSource` cannot send the key. */
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

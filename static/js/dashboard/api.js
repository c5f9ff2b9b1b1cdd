// Requests to the server. The key is only in the header and in this tab's session storage.
import { FAILURE } from './texts.js';

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
export const heldKey = () => key;

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

/** The token of a share link, in place of the key. */
let token = null;

/** True for the page of a share link. */
export const hasToken = () => token !== null;

export function setToken(value) {
  token = value;
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
      headers: { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : { 'X-Dash-Key': key ?? '' }) },
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Failure(0, 'no_response', FAILURE.noResponse);
  }
  if (response.ok) return response;
  const error = await response.json().catch(() => ({}));
  if (response.status === 401 && !token) document.dispatchEvent(new CustomEvent('key-rejected'));
  throw new Failure(response.status, error.error ?? 'failed', error.message ?? FAILURE.status(response.status));
}

async function limited(signal, work) {
  await acquire(signal);
  try {
    return await work();
  } finally {
    release();
  }
}

/** The queries since `recordQueries`, as JSON. */
let recorded = new Set();

/** Begins a new record of queries. */
export function recordQueries() {
  recorded = new Set();
}

/** The different queries of the record. */
export const recordedQueries = () => [...recorded].map((text) => JSON.parse(text));

/**
 * Sends a query. Those of one `group` that are asked at the same time are one request, which has each of them once. A
 * query that is asked only for some days, and not with the view each time, is not recorded.
 */
export function query(request, signal, { group, isRecorded = true } = {}) {
  if (isRecorded) recorded.add(JSON.stringify(request));
  if (group) return grouped(request, signal, group);
  return limited(signal, async () => (await post('query', request, signal)).json());
}

/** Limit of the queries of a request. */
const MOST_QUERIES = 20;
/** Errors of the server itself; the others are of the query. */
const SERVER_ERRORS = new Set(['busy', 'clock', 'damaged', 'disk_full', 'internal', 'log_stopped']);

/** By signal and name, the queries that are sent when all panels have asked. */
const groups = new WeakMap();

async function grouped(request, signal, name) {
  if (!groups.has(signal)) groups.set(signal, new Map());
  const ofSignal = groups.get(signal);
  if (!ofSignal.has(name)) {
    const texts = [];
    const answers = Promise.resolve().then(() => {
      if (ofSignal.get(name)?.texts === texts) ofSignal.delete(name);
      return limited(signal, () => several(texts, signal));
    });
    ofSignal.set(name, { texts, answers });
  }
  const { texts, answers } = ofSignal.get(name);
  const text = JSON.stringify(request);
  if (!texts.includes(text)) texts.push(text);
  const place = texts.indexOf(text);
  if (texts.length === MOST_QUERIES) ofSignal.delete(name);
  const answer = (await answers)[place];
  if (answer.ok) return answer;
  throw new Failure(SERVER_ERRORS.has(answer.error) ? 503 : 400, answer.error, answer.message);
}

/** The results of queries; each may be the body of an error. */
async function several(texts, signal) {
  const queries = texts.map((text) => JSON.parse(text));
  if (queries.length === 1) return [await (await post('query', queries[0], signal)).json()];
  return (await (await post('queries', { queries }, signal)).json()).answers;
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

/** Sends a request of another method, with a body if there is one, and returns the response as JSON. */
export const change = async (method, path, body) =>
  (
    await send(`${BASE}/${path}`, {
      method,
      ...(body !== undefined && { body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } }),
    })
  ).json();

/** Sends a GET request, and returns the response as it comes. */
export const getStream = (path, signal) => send(`${BASE}/${path}`, { signal });

/** Starts the export of the events of a window, as in a request; the response is the file. */
export const openExport = (window, format, signal) =>
  send(`${BASE}/export?${new URLSearchParams({ ...window, format })}`, { signal });

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

/*
 * EchoPilot's client: sends the actions of a page's visitors to the server as events, each exactly once.
 *
 * An event is stored in the browser when it is created and deleted when the server has acknowledged it. In between any page
 * of this origin may send it any number of times, because it keeps its id and the server counts an id once. Whatever fails
 * (request, page, browser, network, server), nothing is lost and nothing is counted twice.
 *
 * It never throws into the page, never prevents an action of the visitor, never reads input, and keeps no id of a visitor
 * unless the page sets one or asks for it. The server sends `telemetry.min.js`, which `make client` makes from this file.
 */
(() => {
  'use strict';

  // The server replaces these with its alternative paths when this file is requested under its alternative name.
  const SCRIPT_PATH = '/static/js/telemetry.js';
  const INGEST_PATH = '/api/analytics/event';

  // Pause after an event before it is sent, and the longest wait while events keep coming.
  const DEBOUNCE_MS = 1000;
  const MAX_WAIT_MS = 5000;
  // A batch: within the server's limits, and small enough for a request that outlives its page.
  const MAX_BATCH_EVENTS = 100;
  const MAX_BATCH_BYTES = 30000;
  // Bytes in requests that outlive the page. Browsers allow 64 KiB, which all scripts of the page share.
  const MAX_KEEPALIVE_BYTES = 48000;
  // Limit and age of the events that are kept while the server is unreachable. An id is counted once within 7 days.
  const MAX_RETRY_EVENTS = 100;
  const MAX_AGE_MS = 7 * 24 * 3600 * 1000;
  // Pauses after failures: random, up to twice as long each time, up to a maximum. The server may request longer ones.
  const BACKOFF_MS = 1000;
  const MAX_BACKOFF_MS = 60000;
  const MAX_RETRY_AFTER_MS = 300000;
  const REQUEST_TIMEOUT_MS = 30000;
  // Events sent while their page ended get no response. Other pages wait for this time and then send them again.
  const LEASE_MS = 60000;
  // Storage that takes longer is no longer used: events then stay in memory.
  const STORAGE_TIMEOUT_MS = 2000;
  // Attempts to get the lock before this tab sends without it: a tab that the browser has frozen never releases it.
  const MAX_LOCK_ATTEMPTS = 30;
  const MAX_FEATURE_LENGTH = 200;
  const MAX_URL_LENGTH = 2048;
  // The server's limit for the metadata of an event, less what is added here.
  const MAX_METADATA_BYTES = 16000;

  // Escapes of one character: ASCII without control characters, and without a percent sign that would form another escape; or
  // two to four bytes.
  const ESCAPES =
    /%(?:[3-6][\da-f]|2[0-46-9a-f]|7[\da-e]|25(?![\da-f]{2})|[cd][\da-f]%[89ab][\da-f]|(?:e[\da-f]|f[\da-f]%[89ab][\da-f])(?:%[89ab][\da-f]){2})/gi;

  const USER_KEY = 'echopilot_user';
  const OPT_OUT_KEY = 'echopilot_opt_out';
  // The random id of a visitor, by the setting: in the storage of the tab, or in that of the browser.
  const VISITOR_KEYS = { session: 'echopilot_session', persistent: 'echopilot_visitor' };

  const stub = window.EchoPilot;
  // A second copy of this script in a page would count everything twice. The queue of a stub is an array, ours is not.
  if (stub && !Array.isArray(stub.q)) return;

  const warn = (...what) => console.warn('EchoPilot:', ...what);
  const now = () => performance.now();

  // Settings: attributes of the script's tag, or `init`.

  // A module does not know its own URL, but its stack trace does.
  const ownUrl = () => (new Error().stack.match(/https?:\/\/\S+?(?=:\d+:\d+)/) || [''])[0];
  const source = (document.currentScript || {}).src || ownUrl();
  const script = document.currentScript || [...document.scripts].find((other) => other.src && other.src === source);
  const base = source.includes(SCRIPT_PATH) ? source.split(SCRIPT_PATH)[0] : '';
  const settings = {
    endpoint: base + INGEST_PATH,
    campaigns: 'on',
    pageViews: 'on',
    clicks: 'on',
    hash: 'off',
    replaceState: 'off',
    gpc: 'anonymous',
  };
  const isOn = (name) => !/^(off|false|no|0)$/i.test(settings[name]);

  function init(options) {
    const { endpoint } = settings;
    Object.assign(settings, options);
    if (settings.endpoint !== endpoint) {
      // Each endpoint has its own store.
      database = null;
      queue.forEach((record) => {
        record.stored = NOT_STORED;
      });
      saveSoon();
    }
    if ('userId' in settings) setUserId(settings.userId);
    delete settings.userId;
    // A second file has the rest, such as `webErrors`. Every policy that allows this script allows to import it, also one
    // with trusted types.
    if (Object.keys(settings).some((name) => /^web[A-Z]/.test(name) && isOn(name))) {
      import(`${base}${SCRIPT_PATH.slice(0, -3)}-web.js`).then((file) => file.default(settings, track, path), warn);
    }
  }

  // Privacy: visitors that are not counted, and those that stay anonymous.

  const signal = navigator.globalPrivacyControl || navigator.doNotTrack === '1';
  const isBot = navigator.webdriver || /bot|crawl|spider|headless/i.test(navigator.userAgent) || window.Cypress;
  // Values that could not be written to the shared storage; they apply to this page only.
  const unwritten = new Map();
  const storageOf = (key) => (key === VISITOR_KEYS.session ? sessionStorage : localStorage);
  if (signal) {
    remember(USER_KEY, null);
    forgetVisitor();
  }

  // Read each time: another tab may have changed it.
  function recall(key) {
    try {
      return unwritten.has(key) ? unwritten.get(key) : storageOf(key).getItem(key);
    } catch {
      return null;
    }
  }

  function remember(key, value) {
    try {
      unwritten.delete(key);
      if (value) storageOf(key).setItem(key, value);
      else storageOf(key).removeItem(key);
    } catch {
      unwritten.set(key, value);
    }
  }

  const isSilent = () => recall(OPT_OUT_KEY) || (signal && !isOn('gpc'));

  function setUserId(id) {
    remember(USER_KEY, signal || isSilent() || id == null ? null : String(id));
  }

  function forgetVisitor(kept) {
    Object.values(VISITOR_KEYS).forEach((key) => key === kept || remember(key, null));
  }

  // The id of a visitor without a user, made by the first event. With another setting an earlier one is deleted.
  function visitorId() {
    const key = VISITOR_KEYS[settings.visitors];
    forgetVisitor(key);
    if (key && !recall(key)) remember(key, `visitor-${randomHex(16)}`);
    return key && recall(key);
  }

  // A value of another tab is newer than one that this page could not write. An opt-out there applies here too.
  function changedElsewhere({ key }) {
    unwritten.delete(key);
    if (isSilent()) silence();
  }

  function silence() {
    queue.clear();
    forgetVisitor();
  }

  function optOut() {
    remember(OPT_OUT_KEY, '1');
    setUserId(null);
    silence();
    leftKeys().forEach((key) => remember(key, null));
    return transact('readwrite', (events) => events.clear()).catch(() => {});
  }

  function optIn() {
    remember(OPT_OUT_KEY, null);
  }

  // Events.

  // This page's unacknowledged events, by id, in the order of creation.
  const queue = new Map();
  let isEnding = false;
  let lastMs = 0;
  let sameMs = 0;
  let waitingSince = 0;
  let waitingEvents = 0;
  let waitingBytes = 0;

  // A UUIDv7 (RFC 9562, 5.7) with a counter: ids sort in the order of creation.
  function makeId() {
    const ms = Math.max(Date.now(), lastMs);
    sameMs = ms > lastMs ? 0 : sameMs + 1;
    // The counter has 12 bits; the next millisecond is borrowed when they are used up.
    lastMs = ms + (sameMs >> 12);
    sameMs &= 4095;
    // The first digit after the counter is the variant.
    return `${idTime(lastMs)}-7${hex(sameMs, 3)}-a${randomHex(8).replace(/^.(...)/, '$1-')}`;
  }

  const randomHex = (bytes) => [...crypto.getRandomValues(new Uint8Array(bytes))].map((byte) => hex(byte, 2)).join('');
  const hex = (number, digits) => number.toString(16).padStart(digits, '0');
  const idTime = (ms) => hex(ms, 12).replace(/^.{8}/, '$&-');
  const byteLength = (text) => new TextEncoder().encode(text).length;

  // The first characters of a string. An escape at the end is kept whole or removed.
  function cut(text, length) {
    const kept = [...text.slice(0, 2 * length)].slice(0, length).join('');
    const end = kept.search(/%[\da-f]?$/i);
    return end >= 0 && /^%[\da-f]{2}/i.test(text.slice(end)) ? kept.slice(0, end) : kept;
  }

  // Metadata is an object. Any other value, such as a string or a date, becomes its `value`.
  function readMetadata(given) {
    let read = {};
    try {
      // `undefined`, a function and a symbol have no JSON.
      const value = JSON.parse(JSON.stringify(given) || null);
      if (value !== null) read = typeof value === 'object' && !Array.isArray(value) ? value : { value };
      const sizes = Object.keys(read).map((key) => [byteLength(JSON.stringify([key, read[key]])), key]);
      let size = 0;
      // The largest values are left out, as the server does.
      sizes
        .sort(([a], [b]) => a - b)
        .forEach(([bytes, key]) => {
          size += bytes;
          if (size <= MAX_METADATA_BYTES) return;
          warn('metadata was cut:', key);
          delete read[key];
          read.cut = true;
        });
    } catch (error) {
      warn('metadata was left out:', error);
    }
    if (isBot) read.bot = true;
    return read;
  }

  function track(type, feature, metadata, of = path()) {
    if (isSilent()) return;
    const event = {
      event_type: type,
      user_id: signal ? undefined : recall(USER_KEY) || visitorId(),
      feature: feature == null ? undefined : cut(String(feature), MAX_FEATURE_LENGTH),
      ts: new Date().toISOString(),
      url: cut(of, MAX_URL_LENGTH),
      event_id: makeId(),
      metadata: readMetadata(metadata),
    };
    const json = JSON.stringify(event);
    const bytes = byteLength(json);
    const record = { id: event.event_id, json, until: 0, stored: NOT_STORED };
    queue.set(record.id, record);
    // Created by a handler of the page's end that runs after ours, as one does that was added later.
    if (isEnding) {
      if (!failures && beaconBytes + bytes <= MAX_KEEPALIVE_BYTES && sendBeacon(bodyOf([record]))) {
        beaconBytes += bytes;
        record.until = Date.now() + LEASE_MS;
      }
      writeLeft([record]);
    }
    saveSoon();
    waitingSince = waitingSince || now();
    waitingEvents += 1;
    waitingBytes += bytes;
    const isFull = waitingEvents >= MAX_BATCH_EVENTS || waitingBytes >= MAX_BATCH_BYTES;
    wake(isFull ? now() : Math.min(now() + DEBOUNCE_MS, waitingSince + MAX_WAIT_MS));
  }

  // The store: a record for each unacknowledged event, of all pages of this origin. `until` is the end of its lease.

  const NOT_STORED = 0;
  const STORING = 1;
  const STORED = 2;
  let database = null;
  let isStorageBroken = false;
  let isSaving = false;
  let saved = Promise.resolve();
  let cutting = null;
  let cutAgain = null;
  // Ids that were acknowledged but could not be deleted from the store.
  const acknowledged = new Set();

  function openDatabase() {
    return new Promise((resolve, reject) => {
      const request = indexedDB.open(`echopilot ${settings.endpoint}`, 1);
      request.onupgradeneeded = () => {
        request.result.createObjectStore('events', { keyPath: 'id' }).createIndex('until', 'until');
      };
      request.onerror = reject;
      request.onsuccess = () => {
        const opened = request.result;
        opened.onversionchange = () => opened.close();
        resolve(opened);
      };
    });
  }

  // Runs a transaction. The connection may be closed, as happens in long-lived tabs: it is reopened once.
  async function transact(mode, work, isLast) {
    if (isStorageBroken) throw new Error('no storage');
    try {
      return await new Promise((resolve, reject) => {
        setTimeout(reject, STORAGE_TIMEOUT_MS);
        database = database || openDatabase();
        database
          .then((opened) => {
            const transaction = opened.transaction('events', mode);
            const request = work(transaction.objectStore('events'));
            transaction.oncomplete = () => resolve(request && request.result);
            transaction.onerror = transaction.onabort = reject;
            // Without this the end of the page could roll it back.
            if (transaction.commit) transaction.commit();
          })
          .catch(reject);
      });
    } catch (error) {
      database = null;
      if (!isLast) return transact(mode, work, true);
      isStorageBroken = true;
      throw error;
    }
  }

  const put = (records, gone = []) =>
    transact('readwrite', (events) => {
      gone.forEach(({ id }) => events.delete(id));
      records.forEach(({ id, json, until }) => events.put({ id, json, until }));
    });

  function saveSoon() {
    if (isSaving) return;
    isSaving = true;
    saved = Promise.resolve().then(save);
  }

  async function save() {
    isSaving = false;
    const records = [...queue.values()].filter((record) => record.stored === NOT_STORED);
    // A prerendered page may never be shown: nothing of it is stored.
    if (!records.length || document.prerendering || isSilent()) return;
    records.forEach((record) => {
      record.stored = STORING;
    });
    const state = await put(records).then(
      () => STORED,
      () => NOT_STORED,
    );
    records.forEach((record) => {
      record.stored = state;
    });
    if (failures > 1) await trim();
  }

  // A page that ends cannot wait for the store. Events that may not be in it are written to the synchronous storage, and
  // the next page moves them to the store.

  const leftPrefix = () => `echopilot ${settings.endpoint} `;

  function leftKeys() {
    try {
      return Object.keys(localStorage).filter((key) => key.startsWith(leftPrefix()));
    } catch {
      return [];
    }
  }

  function readLeft([, text]) {
    try {
      return JSON.parse(text) || [];
    } catch {
      return [];
    }
  }

  function writeLeft(records) {
    if (records.length) remember(leftPrefix() + records[0].id, JSON.stringify(records));
  }

  async function moveLeft() {
    const left = leftKeys().map((key) => [key, recall(key)]);
    left.flatMap(readLeft).forEach((record) => {
      if (!queue.has(record.id)) queue.set(record.id, { ...record, stored: NOT_STORED });
    });
    if (left.length) saveSoon();
    await saved;
    // A page that came back may have written again meanwhile.
    for (const [key, text] of left) if (recall(key) === text) remember(key, null);
  }

  // Deletes records and stores `changed` ones, in one transaction.
  function forget(records, changed = []) {
    records.forEach(({ id }) => queue.delete(id));
    return put(changed, records).then(
      () =>
        changed.forEach((record) => {
          record.stored = STORED;
        }),
      () => records.forEach(({ id }) => acknowledged.add(id)),
    );
  }

  // Events of all pages that wait to be sent, oldest first: all, or `limit` of the stored ones.
  async function waiting(limit) {
    const time = Date.now();
    const isFree = ({ id, until }) => until <= time && !inFlight.has(id) && !acknowledged.has(id);
    let stored = [];
    let isInMemoryAlone = () => true;
    try {
      const free = IDBKeyRange.upperBound(time);
      stored = await transact('readonly', (events) => events.index('until').getAll(free, limit));
      isInMemoryAlone = (record) => record.stored !== STORED;
      if (stored.length !== limit) {
        // An event that this page stored, and that is no longer there, was sent by another tab.
        const ids = new Set(stored.map(({ id }) => id));
        queue.forEach((record, id) => isInMemoryAlone(record) || !isFree(record) || ids.has(id) || queue.delete(id));
      }
    } catch {
      // Only the copies in memory are left.
    }
    const all = [...stored, ...[...queue.values()].filter(isInMemoryAlone)];
    const byId = new Map(all.map((record) => [record.id, record]));
    return [...byId.values()].filter(isFree).sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  // Keeps the newest events; the oldest of them gets the number of lost ones.
  async function cutOldest() {
    const all = await waiting();
    const lost = all.splice(0, all.length - MAX_RETRY_EVENTS);
    if (!lost.length || isSilent()) return;
    const event = JSON.parse(all[0].json);
    const lostBefore = ({ metadata }) => (metadata && metadata.dropped_before) || 0;
    event.metadata = {
      ...event.metadata,
      dropped_before: lost.reduce((sum, { json }) => sum + 1 + lostBefore(JSON.parse(json)), lostBefore(event)),
    };
    const first = { ...all[0], json: JSON.stringify(event), stored: NOT_STORED };
    queue.set(first.id, first);
    await forget(lost, [first]);
  }

  // One page cuts at a time, for all pages: two would count lost events twice.
  function trim() {
    if (cutting) {
      cutAgain =
        cutAgain ||
        cutting.then(() => {
          cutAgain = null;
          return trim();
        });
      return cutAgain;
    }
    const lock = `echopilot cut ${settings.endpoint}`;
    const cut = navigator.locks
      ? navigator.locks.request(lock, { ifAvailable: true }, (held) => held && cutOldest()).catch(cutOldest)
      : cutOldest();
    cutting = cut
      .catch(() => {})
      .finally(() => {
        cutting = null;
      });
    return cutting;
  }

  // Sending.

  const inFlight = new Map();
  let inFlightBytes = 0;
  let beaconBytes = 0;
  let batchLimit = MAX_BATCH_EVENTS;
  let failures = 0;
  let retryAt = 0;
  let toldToWaitUntil = 0;
  let lockAttempts = 0;
  let running = null;
  let timer;
  let release;
  let left;

  function wake(at) {
    clearTimeout(timer);
    timer = setTimeout(() => (running ? running.then(() => wake(0)) : flush()), Math.max(at, retryAt) - now());
  }

  function flush() {
    if (running) return running.then(flush);
    running = locked(drain).finally(() => {
      running = null;
    });
    return running;
  }

  // One tab sends at a time. Without locks two may send the same event, which the server counts once.
  function locked(work) {
    if (!navigator.locks) return work();
    return navigator.locks
      .request(`echopilot ${settings.endpoint}`, { ifAvailable: true }, (lock) => {
        lockAttempts = lock ? 0 : lockAttempts + 1;
        if (!lock && lockAttempts <= MAX_LOCK_ATTEMPTS) return wake(now() + DEBOUNCE_MS);
        // A page that is left must release the lock, or the browser cannot keep it in the back-forward cache.
        return Promise.race([work(), left]);
      })
      .catch(work);
  }

  async function drain() {
    waitingSince = waitingEvents = waitingBytes = 0;
    if (isSilent() || document.prerendering) return;
    await moveLeft();
    while (!isSilent() && now() >= toldToWaitUntil) {
      const all = await waiting(MAX_BATCH_EVENTS);
      const tooOld = all.filter(({ id }) => id < idTime(Date.now() - MAX_AGE_MS));
      if (tooOld.length) await forget(tooOld);
      else if (!all.length || !(await deliver(firstBatch(all)))) return;
    }
  }

  function firstBatch(records) {
    let bytes = 0;
    return records.filter(({ json }, index) => {
      bytes += byteLength(json) + 1;
      return !index || (index < batchLimit && bytes <= MAX_BATCH_BYTES);
    });
  }

  const bodyOf = (records) => `{"sent_at":"${new Date().toISOString()}","events":[${records.map(({ json }) => json)}]}`;

  // Sends a batch; returns true to go on with the next one.
  async function deliver(records) {
    const body = bodyOf(records);
    const bytes = byteLength(body);
    const keepalive = inFlightBytes + bytes <= MAX_KEEPALIVE_BYTES;
    const abort = new AbortController();
    const timeout = setTimeout(() => abort.abort(), REQUEST_TIMEOUT_MS);
    if (keepalive) inFlightBytes += bytes;
    records.forEach((record) => inFlight.set(record.id, keepalive && record));
    let status = 0;
    let result = {};
    let retryAfter = null;
    try {
      // As plain text, because for other types a browser sends a preflight request to another site first.
      const response = await fetch(settings.endpoint, {
        method: 'POST',
        body,
        keepalive,
        credentials: 'omit',
        signal: abort.signal,
      });
      status = response.status;
      retryAfter = response.headers.get('Retry-After');
      result = await response.json();
    } catch {
      // No response, or not one of the server: the page of a proxy, the log-in of a public network.
    }
    clearTimeout(timeout);
    if (keepalive) inFlightBytes -= bytes;
    records.forEach(({ id }) => inFlight.delete(id));

    const isTooLarge = status === 413;
    // A final result of the server for these events. Other failures may be temporary: a missing path, a proxy, an overload.
    const isFinal = typeof result.ok === 'boolean' && /^(200|400|401|403|415|422)$/.test(status);
    if (isTooLarge && records.length > 1) {
      batchLimit = records.length >> 1;
    } else if (isTooLarge || isFinal) {
      failures = retryAt = 0;
      if (!result.ok || result.rejected) warn('was rejected:', result);
      await forget(records);
    } else {
      failures += 1;
      // Seconds, or a date.
      const told = retryAfter * 1000 || Date.parse(retryAfter) - Date.now();
      const pause = Math.max(0, Math.min(told || 0, MAX_RETRY_AFTER_MS));
      toldToWaitUntil = now() + pause;
      retryAt = toldToWaitUntil + Math.random() * Math.min(BACKOFF_MS * 2 ** (failures - 1), MAX_BACKOFF_MS);
      wake(retryAt);
      // One failure may be a restart; after two the server counts as unreachable.
      if (failures > 1) await trim();
      return false;
    }
    return true;
  }

  // The page is hidden or ends, perhaps for good. Events that fit are sent at once; the rest is in the store.
  function leave({ type }) {
    const isEnd = type === 'pagehide';
    if (isEnd) begin();
    if (isSilent() || document.prerendering) return;
    const leased = [...inFlight.values()].filter((record) => isEnd && record);
    const time = Date.now();
    let rest = [...queue.values()].filter(({ id, until }) => until <= time && !inFlight.get(id));
    while (rest.length && now() >= toldToWaitUntil) {
      const batch = firstBatch(rest);
      const body = bodyOf(batch);
      const bytes = byteLength(body);
      if (inFlightBytes + beaconBytes + bytes > MAX_KEEPALIVE_BYTES) break;
      if (isEnd && sendBeacon(body)) {
        beaconBytes += bytes;
        leased.push(...batch);
      } else {
        // If the page lives on, only this way it learns that the events arrived.
        deliver(batch);
      }
      rest = rest.slice(batch.length);
    }
    // If the server is unreachable, the next page need not wait.
    if (leased.length && !failures && navigator.onLine) {
      leased.forEach((record) => {
        record.until = time + LEASE_MS;
      });
      put(leased).catch(() => {});
    }
    if (isEnd) {
      isEnding = true;
      writeLeft([...queue.values()].filter(({ stored }) => stored !== STORED));
      release();
    }
  }

  function sendBeacon(body) {
    try {
      return navigator.sendBeacon(settings.endpoint, body);
    } catch {
      return false;
    }
  }

  // Page views.

  let hasBegun = false;
  let hasLanded = false;
  let lastPlace;

  // The path, decoded. Escapes that are not UTF-8, and those of characters with a meaning in a path, stay.
  const path = () =>
    (location.pathname + (isOn('hash') ? location.hash : '')).replace(ESCAPES, (code) => {
      try {
        return decodeURI(code);
      } catch {
        return code;
      }
    });
  const place = () => path() + location.search;

  function page(feature) {
    lastPlace = place();
    track('page_view', feature || path().replace(/^\/+|\/+$/g, '') || '/', landing());
  }

  // Where a visit comes from and what it is made with, for its first page view. Of the query string only the campaign.
  function landing() {
    const referrer = document.referrer.split('/', 3).join('/') || undefined;
    if (hasLanded || !isOn('campaigns') || referrer === location.origin) return {};
    hasLanded = true;
    const found = {
      referrer,
      language: navigator.language,
      device: matchMedia('(pointer:coarse)').matches
        ? Math.min(screen.width, screen.height) < 640
          ? 'mobile'
          : 'tablet'
        : 'desktop',
      viewport: innerWidth < 640 ? 'small' : innerWidth < 1024 ? 'medium' : 'large',
    };
    new URLSearchParams(location.search).forEach((value, key) => {
      if (value && /^(utm_\w+|ref)$/.test(key)) found[key] = cut(value, MAX_FEATURE_LENGTH);
    });
    return found;
  }

  // The first page view: when the page is visible, and its own scripts had the chance to set the user.
  function begin() {
    // A prerendered page is hidden too.
    if (hasBegun || document.visibilityState === 'hidden') return;
    hasBegun = true;
    lastPlace = place();
    if (isOn('pageViews')) page();
  }

  function moved(type) {
    const from = lastPlace;
    lastPlace = place();
    if (hasBegun && isOn('pageViews') && from !== lastPlace && (type !== 'replace' || isOn('replaceState'))) page();
  }

  function followHistory() {
    if (window.navigation) {
      navigation.addEventListener('currententrychange', ({ navigationType: type }) => type && moved(type));
      return;
    }
    ['push', 'replace'].forEach((type) => {
      const name = `${type}State`;
      const original = history[name];
      history[name] = function wrapped(...values) {
        const result = original.apply(this, values);
        moved(type);
        return result;
      };
    });
    addEventListener('popstate', moved);
  }

  // The elements and the name of the last act.
  let last = [];
  const isNamed = ({ dataset }) => dataset.track || dataset.action;
  // The browser reports no click on a disabled control, but it may report one on an element inside. A disabled fieldset also
  // has links, which work.
  const isDisabled = (element) => element.matches(':disabled:not(fieldset),[aria-disabled=true]');

  // Clicks and submitted forms: one event for each, named after the nearest element with a name.
  function act(event) {
    const { type, target, button, submitter } = event;
    const nodes = event.composedPath();
    // A submission is not seen outside of the form's shadow tree. It follows a focus or click inside.
    nodes.forEach((node) => node.nodeType > 9 && node.addEventListener('submit', act, true));
    // Of the other mouse buttons only the middle one opens a link.
    if (!isOn('clicks') || type === 'focusin' || (type === 'auxclick' && button !== 1)) return;
    const elements = nodes.filter((node) => node.dataset);
    // A click on a label is followed by one on the control inside it.
    if (elements.some((node) => node.control && node.contains(node.control) && !elements.includes(node.control)))
      return;
    const named = elements.find((element) => isNamed(element) || isDisabled(element));
    // A form counts when it is submitted, not at each click in it.
    if (!named || isDisabled(named) || (type === 'submit' ? named !== target : named.tagName === 'FORM')) return;
    const { action } = named.dataset;
    const outer = elements.slice(elements.indexOf(named)).find(({ dataset }) => dataset.track);
    const feature = (outer || named).dataset.track || action;
    // The click on a button and the submission that it causes are one act, unless they have two names.
    if (last.includes(submitter) && last.includes(feature)) return;
    last = [...elements, feature];
    track('action', feature, { action: action || (type === 'submit' ? type : 'click') });
  }

  const enter = () => {
    left = new Promise((resolve) => {
      release = resolve;
    });
  };

  enter();
  if (script) init(script.dataset);
  followHistory();
  ['focusin', 'click', 'auxclick', 'submit'].forEach((type) => addEventListener(type, act, true));
  addEventListener('storage', changedElsewhere);
  addEventListener('pagehide', leave);
  addEventListener('pageshow', ({ persisted }) => {
    if (!persisted) return;
    changedElsewhere({});
    enter();
    isEnding = false;
    beaconBytes = 0;
    if (isOn('pageViews')) page();
    setTimeout(flush, LEASE_MS);
  });
  addEventListener('online', () => {
    retryAt = toldToWaitUntil;
    flush();
  });
  document.addEventListener('visibilitychange', (event) => {
    if (document.visibilityState === 'hidden') leave(event);
    else begin();
  });
  document.addEventListener('prerenderingchange', () => {
    saveSoon();
    begin();
    flush();
  });
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', begin);
  else setTimeout(begin);

  const calls = { track, page, setUserId, init, flush, optOut, optIn };
  // Never throws, whatever the arguments are.
  const make = (call) => {
    try {
      const [name, ...values] = call;
      return calls[name](...values);
    } catch (error) {
      warn('was left out:', call, error);
    }
  };
  const api = { q: { push: (...waiting) => waiting.forEach(make) } };
  Object.keys(calls).forEach((name) => {
    api[name] = (...values) => make([name, ...values]);
  });
  window.EchoPilot = api;
  if (stub) {
    stub.q.forEach(make);
    // For code that kept the queue.
    stub.q.push = api.q.push;
  }
  // Sends the events of earlier pages: at once, again when the last page has certainly ended, and after the lease of the
  // events that it sent as it ended.
  flush();
  wake(now() + DEBOUNCE_MS);
  setTimeout(flush, LEASE_MS);
})();

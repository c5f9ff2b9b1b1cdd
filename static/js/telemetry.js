/*
 * EchoPilot's client: what visitors of a page do, as events at the server, each exactly once.
 *
 * An event is stored in the browser when it is made and forgotten when the server has answered it. Between the two it may
 * be sent as often as needed, by any page of this origin, because its id is made once and the server counts an id once.
 * So whatever ends in the middle (request, page, browser, network, server), nothing is lost and nothing is counted twice.
 *
 * It never throws into the page, never prevents an action of the visitor, never reads what is typed, and keeps no id of a
 * visitor until the page gives one. The server takes comments and indentation away before it sends this file: whole lines
 * of comment only, and no text that runs over several lines.
 */
(() => {
  'use strict';

  // The server writes its neutral paths here when this file is asked for under its neutral name.
  const SCRIPT_PATH = '/static/js/telemetry.js';
  const INGEST_PATH = '/api/analytics/event';

  // Quiet after an event before it is sent, and the longest wait while events keep coming.
  const DEBOUNCE_MS = 1000;
  const MAX_WAIT_MS = 5000;
  // A batch: what the server takes, and little enough for a request that outlives its page.
  const MAX_BATCH_EVENTS = 100;
  const MAX_BATCH_BYTES = 30000;
  // Bytes on their way that outlive the page. Browsers allow 64 KiB, which all scripts of the page share.
  const MAX_KEEPALIVE_BYTES = 48000;
  // Events kept while the server cannot be reached; and for how long: an id counts once within 7 days.
  const MAX_RETRY_EVENTS = 100;
  const MAX_AGE_MS = 7 * 24 * 3600 * 1000;
  // Pauses after failures: random, up to twice as long each time, up to the cap. The server may ask for more.
  const BACKOFF_MS = 1000;
  const MAX_BACKOFF_MS = 60000;
  const MAX_RETRY_AFTER_MS = 300000;
  const REQUEST_TIMEOUT_MS = 30000;
  // What was sent while its page ended has no answer. Other pages leave it alone for so long, then send it again.
  const LEASE_MS = 60000;
  // Storage that does not answer in time is given up: its events stay in memory.
  const STORAGE_TIMEOUT_MS = 2000;
  // Turns that another tab may keep from this one: a tab that the browser has frozen would keep them for ever.
  const MAX_TURNS_MISSED = 30;
  const MAX_FEATURE_LENGTH = 200;
  const MAX_URL_LENGTH = 2048;
  // What the server takes of an event's metadata, less what is added here.
  const MAX_METADATA_BYTES = 16000;

  // The escapes of one character: of ASCII without controls, and without a percent sign before what would then be an escape;
  // or of two to four bytes.
  const ESCAPES =
    /%(?:[3-6][\da-f]|2[0-46-9a-f]|7[\da-e]|25(?![\da-f]{2})|[cd][\da-f]%[89ab][\da-f]|(?:e[\da-f]|f[\da-f]%[89ab][\da-f])(?:%[89ab][\da-f]){2})/gi;

  const USER_KEY = 'echopilot_user';
  const OPT_OUT_KEY = 'echopilot_opt_out';

  const stub = window.EchoPilot;
  // A second copy of this script in one page would count everything twice. The list of a stub is an array, ours is not.
  if (stub && !Array.isArray(stub.q)) return;

  const warn = (...what) => console.warn('EchoPilot:', ...what);
  const now = () => performance.now();

  // Settings: attributes of the script's tag, or `init`.

  // A module is not told which script it is; its stack is.
  const ownUrl = () => (new Error().stack.match(/https?:\/\/\S+?(?=:\d+:\d+)/) || [''])[0];
  const source = (document.currentScript || {}).src || ownUrl();
  const script = document.currentScript || [...document.scripts].find((other) => other.src && other.src === source);
  const settings = {
    endpoint: (source.includes(SCRIPT_PATH) ? source.split(SCRIPT_PATH)[0] : '') + INGEST_PATH,
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
      // Each has a store of its own.
      database = null;
      queue.forEach((record) => {
        record.stored = NOT_STORED;
      });
      saveSoon();
    }
    if ('userId' in settings) setUserId(settings.userId);
    delete settings.userId;
  }

  // Privacy: who must not be counted, and who must stay unknown.

  const signal = navigator.globalPrivacyControl || (navigator.doNotTrack || window.doNotTrack) === '1';
  const isBot =
    navigator.webdriver ||
    /bot|crawl|spider|headless/i.test(navigator.userAgent) ||
    window.Cypress ||
    window._phantom ||
    window.__nightmare;
  // What could not be written where all tabs read it, and holds in this page alone.
  const unwritten = new Map();
  if (signal) remember(USER_KEY, null);

  // Read each time: another tab may have changed it.
  function recall(key) {
    try {
      return unwritten.has(key) ? unwritten.get(key) : localStorage.getItem(key);
    } catch {
      return null;
    }
  }

  function remember(key, value) {
    try {
      unwritten.delete(key);
      if (value) localStorage.setItem(key, value);
      else localStorage.removeItem(key);
    } catch {
      unwritten.set(key, value);
    }
  }

  const isSilent = () => recall(OPT_OUT_KEY) || (signal && !isOn('gpc'));

  function setUserId(id) {
    remember(USER_KEY, signal || isSilent() || id == null || id === '' ? null : String(id));
  }

  // What another tab says is newer than what this page could not write, and who opts out there is forgotten here.
  function changedElsewhere({ key }) {
    unwritten.delete(key);
    if (isSilent()) queue.clear();
  }

  function optOut() {
    remember(OPT_OUT_KEY, '1');
    setUserId(null);
    queue.clear();
    leftKeys().forEach((key) => remember(key, null));
    return transact('readwrite', (events) => events.clear()).catch(() => {});
  }

  function optIn() {
    remember(OPT_OUT_KEY, null);
  }

  // Events.

  // This page's events that were not answered, by id, in the order they were made.
  const queue = new Map();
  let isEnding = false;
  let lastMs = 0;
  let sameMs = 0;
  let waitingSince = 0;
  let waitingEvents = 0;
  let waitingBytes = 0;

  // A UUIDv7 (RFC 9562, 5.7) with a counter: ids sort in the order they were made.
  function makeId() {
    const ms = Math.max(Date.now(), lastMs);
    sameMs = ms > lastMs ? 0 : sameMs + 1;
    // The counter has 12 bits; the next millisecond is borrowed when they are used up.
    lastMs = ms + (sameMs >> 12);
    sameMs &= 4095;
    const random = crypto.getRandomValues(new Uint8Array(8));
    random[0] = 128 | (random[0] & 63);
    const tail = [...random].map((byte) => hex(byte, 2)).join('');
    return `${idTime(lastMs)}-7${hex(sameMs, 3)}-${tail.slice(0, 4)}-${tail.slice(4)}`;
  }

  const hex = (number, digits) => number.toString(16).padStart(digits, '0');
  const idTime = (ms) => hex(ms, 12).replace(/^.{8}/, '$&-');
  const byteLength = (text) => new TextEncoder().encode(text).length;

  // The first characters of a text. An escape that stayed in a path is not cut through.
  function cut(text, length) {
    const kept = [...text.slice(0, 2 * length)].slice(0, length).join('');
    const escape = kept.search(/%[\da-f]?$/i);
    return escape >= 0 && /^%[\da-f]{2}/i.test(text.slice(escape)) ? kept.slice(0, escape) : kept;
  }

  // Metadata is an object. Another value, also one that writes itself as such (a date), is its `value`.
  function readMetadata(given) {
    let read = {};
    try {
      // Nothing, a function and a symbol have no JSON.
      const value = JSON.parse(JSON.stringify(given) || null);
      if (value !== null) read = typeof value === 'object' && !Array.isArray(value) ? value : { value };
      const sizes = Object.keys(read).map((key) => [byteLength(JSON.stringify([key, read[key]])), key]);
      let size = sizes.reduce((sum, [bytes]) => sum + bytes, 0);
      if (size > MAX_METADATA_BYTES) warn('metadata was cut: it has', size, 'bytes');
      // The largest go first, as they would at the server.
      for (const [bytes, key] of sizes.sort(([a], [b]) => b - a)) {
        if (size <= MAX_METADATA_BYTES) break;
        size -= bytes;
        delete read[key];
        read.cut = true;
      }
    } catch (error) {
      warn('metadata that is no JSON was left out:', error);
    }
    return isBot ? { ...read, bot: true } : read;
  }

  function track(type, feature, metadata) {
    if (isSilent()) return;
    const event = {
      event_type: type,
      user_id: (!signal && recall(USER_KEY)) || undefined,
      feature: feature == null ? undefined : cut(String(feature), MAX_FEATURE_LENGTH),
      ts: new Date().toISOString(),
      url: cut(path(), MAX_URL_LENGTH),
      event_id: makeId(),
      metadata: readMetadata(metadata),
    };
    const json = JSON.stringify(event);
    const bytes = byteLength(json);
    const record = { id: event.event_id, json, until: 0, stored: NOT_STORED };
    queue.set(record.id, record);
    // Made by the page's own handler of its end, after ours.
    if (isEnding) leaveBehind([record]);
    saveSoon();
    waitingSince = waitingSince || now();
    waitingEvents += 1;
    waitingBytes += bytes;
    const isFull = waitingEvents >= MAX_BATCH_EVENTS || waitingBytes >= MAX_BATCH_BYTES;
    wake(isFull ? now() : Math.min(now() + DEBOUNCE_MS, waitingSince + MAX_WAIT_MS));
  }

  // The store: a record for each event that was not answered, of all pages of this origin. `until` is the end of its lease.

  const NOT_STORED = 0;
  const STORING = 1;
  const STORED = 2;
  let database = null;
  let isStorageBroken = false;
  let isSaving = false;
  let saved = Promise.resolve();
  let cutting = null;
  let cutAgain = null;
  // What was answered but could not be taken from the store.
  const answered = new Set();

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

  // One transaction. A handle may have died since it was opened, as happens in long-lived tabs: it is opened anew once.
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
            // Without this the end of the page could undo it.
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
    // A page that is only prepared may never be seen: nothing of it is kept.
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

  // The store cannot be waited for while a page ends. What it may not have taken is written where that needs no waiting; the
  // next page puts it into the store.

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

  function leaveBehind(records) {
    if (records.length) remember(leftPrefix() + records[0].id, JSON.stringify(records));
  }

  async function takeUp() {
    const left = leftKeys().map((key) => [key, recall(key)]);
    left.flatMap(readLeft).forEach((record) => {
      if (!queue.has(record.id)) queue.set(record.id, { ...record, stored: NOT_STORED });
    });
    if (left.length) saveSoon();
    await saved;
    // A page that came back may have written anew meanwhile.
    left.forEach(([key, text]) => recall(key) === text && remember(key, null));
  }

  // Some go, and what is `changed` stays as it is now, in one step.
  function forget(records, changed = []) {
    records.forEach(({ id }) => queue.delete(id));
    return put(changed, records).then(
      () =>
        changed.forEach((record) => {
          record.stored = STORED;
        }),
      () => records.forEach(({ id }) => answered.add(id)),
    );
  }

  // What waits to be sent, of all pages, oldest first: all of it, or `limit` of what is stored.
  async function waiting(limit) {
    const time = Date.now();
    const isFree = ({ id, until }) => until <= time && !inFlight.has(id) && !answered.has(id);
    let stored = [];
    let isInMemoryAlone = () => true;
    try {
      const free = IDBKeyRange.upperBound(time);
      stored = await transact('readonly', (events) => events.index('until').getAll(free, limit));
      isInMemoryAlone = (record) => record.stored !== STORED;
      if (stored.length !== limit) {
        // This page stored it and it is gone: another tab has sent it.
        const ids = new Set(stored.map(({ id }) => id));
        queue.forEach((record, id) => isInMemoryAlone(record) || !isFree(record) || ids.has(id) || queue.delete(id));
      }
    } catch {
      // The copies in memory are all there is.
    }
    const all = [...stored, ...[...queue.values()].filter(isInMemoryAlone)];
    const records = new Map(all.map((record) => [record.id, record]));
    return [...records.values()].filter(isFree).sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  // Keeps the newest; the oldest of them says how many were lost before it.
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

  // One cut at a time, of all pages: two would count twice what both take out. What another page cuts it cuts for all.
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
  let turnsMissed = 0;
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
    running = inTurn(drain).finally(() => {
      running = null;
    });
    return running;
  }

  // One tab at a time. Where that is not to be had, two may send the same event, which the server counts once.
  function inTurn(work) {
    if (!navigator.locks) return work();
    return navigator.locks
      .request(`echopilot ${settings.endpoint}`, { ifAvailable: true }, (lock) => {
        turnsMissed = lock ? 0 : turnsMissed + 1;
        if (!lock && turnsMissed <= MAX_TURNS_MISSED) return wake(now() + DEBOUNCE_MS);
        // A page that is left must not hold the turn, or the browser could not keep it for a way back.
        return Promise.race([work(), left]);
      })
      .catch(work);
  }

  async function drain() {
    waitingSince = waitingEvents = waitingBytes = 0;
    if (isSilent() || document.prerendering) return;
    await takeUp();
    while (!isSilent() && now() >= toldToWaitUntil) {
      const all = await waiting(MAX_BATCH_EVENTS);
      const tooOld = all.filter(({ id }) => id < idTime(Date.now() - MAX_AGE_MS));
      if (tooOld.length) await forget(tooOld);
      else if (!all.length || !(await deliver(firstBatch(all)))) return;
    }
  }

  function firstBatch(records) {
    let bytes = 0;
    const end = records.findIndex(({ json }, index) => {
      bytes += byteLength(json) + 1;
      return index && (index >= batchLimit || bytes > MAX_BATCH_BYTES);
    });
    return end < 0 ? records : records.slice(0, end);
  }

  const bodyOf = (records) => {
    const events = records.map(({ json }) => json).join();
    return `{"sent_at":"${new Date().toISOString()}","events":[${events}]}`;
  };

  // Sends a batch and says whether to go on with the next.
  async function deliver(records) {
    const body = bodyOf(records);
    const bytes = byteLength(body);
    const keepalive = inFlightBytes + bytes <= MAX_KEEPALIVE_BYTES;
    const abort = new AbortController();
    const timeout = setTimeout(() => abort.abort(), REQUEST_TIMEOUT_MS);
    if (keepalive) inFlightBytes += bytes;
    records.forEach((record) => inFlight.set(record.id, keepalive && record));
    let status = 0;
    let answer = {};
    let retryAfter = null;
    try {
      // As text, because a browser asks another site's leave first for anything else.
      const { signal: stop } = abort;
      const response = await fetch(settings.endpoint, {
        method: 'POST',
        body,
        keepalive,
        credentials: 'omit',
        signal: stop,
      });
      status = response.status;
      retryAfter = response.headers.get('Retry-After');
      answer = await response.json();
    } catch {
      // No answer, or not the server's own: a proxy's page, the log-in of a public network.
    }
    clearTimeout(timeout);
    if (keepalive) inFlightBytes -= bytes;
    records.forEach(({ id }) => inFlight.delete(id));

    const isTooLarge = status === 413;
    // The server's own word on these events. Anything else may pass: a path that is not there yet, a proxy, an overload.
    const isJudged = typeof answer.ok === 'boolean' && /^(200|400|401|403|415|422)$/.test(status);
    if (isTooLarge && records.length > 1) {
      batchLimit = records.length >> 1;
    } else if (isTooLarge || isJudged) {
      failures = retryAt = 0;
      if (!answer.ok || answer.rejected) warn('the server refused', answer);
      await forget(records);
    } else {
      failures += 1;
      // Seconds, or a date.
      const told = isNaN(retryAfter) ? Date.parse(retryAfter) - Date.now() : retryAfter * 1000;
      const pause = Math.max(0, Math.min(told || 0, MAX_RETRY_AFTER_MS));
      toldToWaitUntil = now() + pause;
      retryAt = toldToWaitUntil + Math.random() * Math.min(BACKOFF_MS * 2 ** (failures - 1), MAX_BACKOFF_MS);
      wake(retryAt);
      // One failure may be a restart; after two the server cannot be reached.
      if (failures > 1) await trim();
      return false;
    }
    return true;
  }

  // The page is hidden or ends, perhaps for good. What fits is sent at once; the rest is in the store.
  function leave({ type }) {
    const isEnd = type === 'pagehide';
    if (isEnd) begin();
    if (isSilent() || document.prerendering) return;
    const leased = isEnd ? [...inFlight.values()].filter(Boolean) : [];
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
        // The only way to learn that it arrived, if the page lives on.
        deliver(batch);
      }
      rest = rest.slice(batch.length);
    }
    // Where nothing arrives, the next page need not wait.
    if (leased.length && !failures && navigator.onLine) {
      leased.forEach((record) => {
        record.until = time + LEASE_MS;
      });
      put(leased).catch(() => {});
    }
    if (isEnd) {
      isEnding = true;
      leaveBehind([...queue.values()].filter(({ stored }) => stored !== STORED));
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
  let lastPlace;

  // A path as people read it. Escapes that are no UTF-8, and those of characters that mean something in a path, stay.
  const path = () =>
    (location.pathname + (isOn('hash') ? location.hash : '')).replace(ESCAPES, (escape) => {
      try {
        return decodeURI(escape);
      } catch {
        return escape;
      }
    });
  const place = () => path() + location.search;

  function page(feature) {
    lastPlace = place();
    const origin = (document.referrer.match(/^https?:\/\/[^/]+/) || '')[0];
    const metadata = origin && origin !== location.origin ? { referrer: origin } : {};
    track('page_view', feature || path().replace(/^\/+|\/+$/g, '') || '/', metadata);
  }

  // The first view: when the page is seen, and when its own scripts have had the chance to say who sees it.
  function begin() {
    // A prepared page is hidden too.
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

  function watchHistory() {
    if (window.navigation) {
      navigation.addEventListener('currententrychange', ({ navigationType: type }) => type && moved(type));
      return;
    }
    const wrap = (name, type) => {
      const original = history[name];
      history[name] = function wrapped(...values) {
        const result = original.apply(this, values);
        moved(type);
        return result;
      };
    };
    wrap('pushState', 'push');
    wrap('replaceState', 'replace');
    addEventListener('popstate', () => moved('traverse'));
  }

  // Clicks and sent forms: one event for an act, named by the nearest element that has a name.
  function act(event) {
    const { type, target, button } = event;
    // Of the other buttons only the middle one opens a link.
    if (!isOn('clicks') || (type === 'auxclick' && button !== 1)) return;
    const elements = event.composedPath().filter((node) => node.dataset);
    const label = elements.find((node) => node.control);
    // A click on a label is followed by one on the control inside it.
    if (label && label.contains(label.control) && !elements.includes(label.control)) return;
    const named = elements.findIndex(({ dataset }) => dataset.track || dataset.action);
    const isForm = elements[named] && elements[named].tagName === 'FORM';
    // A form counts when it is sent, not at each click in it.
    if (named < 0 || (type === 'submit' ? elements[named] !== target : isForm)) return;
    const { track: name, action } = elements[named].dataset;
    const outer = elements.slice(named).find(({ dataset }) => dataset.track);
    const feature = name || (outer ? outer.dataset.track : action);
    track('action', feature, { action: action || (type === 'submit' ? type : 'click') });
  }

  const enter = () => {
    left = new Promise((resolve) => {
      release = resolve;
    });
  };

  enter();
  if (script) init(script.dataset);
  watchHistory();
  ['click', 'auxclick', 'submit'].forEach((type) => addEventListener(type, act, true));
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
  // Whatever the page gives, nothing is thrown into it.
  const make = (call) => {
    try {
      const [name, ...values] = call;
      return calls[name](...values);
    } catch (error) {
      warn('a call was left out:', call, error);
    }
  };
  const api = { q: { push: (...waiting) => waiting.forEach(make) } };
  Object.keys(calls).forEach((name) => {
    api[name] = (...values) => make([name, ...values]);
  });
  window.EchoPilot = api;
  if (stub) {
    stub.q.forEach(make);
    // For code that kept the list.
    stub.q.push = api.q.push;
  }
  // What earlier pages left: at once, again when the last one has surely ended, and when the lease is over of what it sent
  // as it ended.
  flush();
  wake(now() + DEBOUNCE_MS);
  setTimeout(flush, LEASE_MS);
})();

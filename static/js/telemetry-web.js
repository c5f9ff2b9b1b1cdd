/*
 * The second file of EchoPilot's client, an ES module that `telemetry.js` imports when one of its settings is on: links that
 * leave the site, downloads, forms, pages that do not exist, scroll depth, engagement time, Web Vitals and uncaught errors.
 * Each is off unless the page asks for it.
 *
 * As the client, it never throws into the page, never prevents an action of the visitor, and never reads input. Of a URL it
 * sends the path, and of another site also the origin. The server sends `telemetry-web.min.js`, which `make client` makes.
 */

// Parts of the page that were seen, in percent; each counts once in a page view.
const DEPTHS = [25, 50, 75, 100];
// A longer pause without any action of the visitor counts as this long.
const MAX_PAUSE_MS = 60000;
// Errors of a page view: more would be one error that repeats itself.
const MAX_ERRORS = 10;
const MAX_TEXT_LENGTH = 300;
const DOWNLOADS =
  /\.(7z|apk|avi|bz2|csv|dmg|docx?|epub|exe|gz|iso|jar|key|m4a|mov|mp3|mp4|mpe?g|msi|numbers|od[pst]|ogg|pages|pdf|pkg|pptx?|rar|rpm|rtf|t[gx]z|tar|txt|wav|webm|wmv|xlsx?|xz|zip|zst)$/i;
// What a visitor does on a page that is being read.
const ACTIVITY = ['pointermove', 'pointerdown', 'keydown', 'scroll', 'touchmove', 'wheel'];

const now = () => performance.now();
const short = (string) => String(string).slice(0, MAX_TEXT_LENGTH);
/** A message in which URLs have neither query nor fragment. */
const withoutQueries = (message) => String(message).replace(/(\w:\/\/[^\s?#'")]*)[?#][^\s'")]*/g, '$1');

/** A URL without query and fragment; one of this site without its origin. */
function placeOf(url) {
  const { origin, pathname, protocol } = new URL(url, location.href);
  return short(origin === location.origin || !/^http/.test(protocol) ? pathname : origin + pathname);
}

let hasBegun = false;

/**
 * Begins to record what the settings ask for. `track` is that of the client, with the path as a fourth argument, and `path`
 * returns the path as the client sends it. Further calls have no effect: what is recorded follows the settings.
 */
export default function begin(settings, track, path) {
  if (hasBegun) return;
  hasBegun = true;
  const isOn = (name) => name in settings && !/^(off|false|no|0)$/i.test(settings[name]);
  const act = (feature, metadata, of) => track('action', feature, metadata, of);
  const safely =
    (work) =>
    (...values) => {
      try {
        work(...values);
      } catch {
        // A page may have replaced anything that is used here.
      }
    };
  const listen = (types, work, options) => {
    for (const type of types) addEventListener(type, safely(work), { capture: true, passive: true, ...options });
  };
  /** True if the client counts this element, or one around it, by its name. */
  const isNamed = (elements) => isOn('clicks') && elements.some(({ dataset }) => dataset.track || dataset.action);

  // Links.

  listen(['click', 'auxclick'], (event) => {
    if (event.type === 'auxclick' && event.button !== 1) return;
    const elements = event.composedPath().filter((node) => node.dataset);
    const link = elements.find((element) => /^a(rea)?$/.test(element.localName) && element.href);
    // A link with a name is counted by it.
    if (!link || isNamed(elements)) return;
    const url = new URL(link.href.baseVal ?? link.href, document.baseURI);
    if (!/^http/.test(url.protocol)) return;
    if (isOn('webDownloads') && (link.hasAttribute('download') || DOWNLOADS.test(url.pathname)))
      act('download', { place: placeOf(url) });
    else if (isOn('webOutbound') && url.host !== location.host) act('outbound_link', { place: placeOf(url) });
  });

  // Forms.

  const submitted = safely((event) => {
    const form = event.target;
    if (!isOn('webForms') || isNamed([form])) return;
    // An input may hide the properties of its form.
    const get = (name) => form.getAttribute(name);
    const { track: name, action } = form.dataset;
    act(short(name || action || get('name') || get('id') || 'form'), { action: 'submit' });
  });
  addEventListener('submit', submitted, true);
  // A submission is not seen outside of the form's shadow tree. It follows a focus or click inside.
  listen(['focusin', 'click'], (event) => {
    for (const node of event.composedPath()) if (node.nodeType > 9) node.addEventListener('submit', submitted, true);
  });

  // The page view, which ends with the page, when it is hidden, and when another one is shown in its place.

  let at = path();
  let depth = 0;
  let engagedMs = 0;
  // Not a number while the page is hidden.
  let seenAt = document.visibilityState === 'hidden' ? Number.NaN : now();
  let errors = new Set();

  /** Adds the time since the visitor was last seen. */
  function seen() {
    if (Number.isNaN(seenAt)) return;
    engagedMs += Math.min(now() - seenAt, MAX_PAUSE_MS);
    seenAt = now();
  }

  function report() {
    const seconds = Math.round(engagedMs / 1000);
    if (isOn('webEngagement') && seconds) act('engagement', { seconds }, at);
    if (seconds) engagedMs = 0;
  }

  function follow() {
    if (at === path()) return;
    report();
    at = path();
    depth = engagedMs = 0;
    errors = new Set();
  }

  listen(ACTIVITY, () => {
    seen();
    follow();
  });
  listen(['visibilitychange', 'pagehide', 'pageshow'], ({ type }) => {
    const isShown = type !== 'pagehide' && document.visibilityState !== 'hidden';
    if (isShown) {
      seenAt = now();
    } else {
      seen();
      seenAt = Number.NaN;
      report();
    }
  });
  if (window.navigation)
    navigation.addEventListener(
      'currententrychange',
      safely(() => {
        seen();
        follow();
      }),
    );

  listen(['scroll'], () => {
    const { scrollHeight } = document.scrollingElement;
    const percent = (100 * (scrollY + innerHeight + 1)) / scrollHeight;
    if (!isOn('webScroll') || scrollHeight <= innerHeight) return;
    while (percent >= DEPTHS[depth]) {
      act('scroll', { percent: DEPTHS[depth] }, at);
      depth += 1;
    }
  });

  // Errors.

  function failed(message, place) {
    const text = short(withoutQueries(message));
    const key = `${text} ${place}`;
    if (!isOn('webErrors') || errors.has(key) || errors.size >= MAX_ERRORS) return;
    errors.add(key);
    act('error', { message: text, place });
  }
  const placeIn = (file, line, column) => (file ? `${placeOf(file)}:${line}:${column}` : undefined);
  addEventListener(
    'error',
    safely(({ message, filename, lineno, colno }) => failed(message, placeIn(filename, lineno, colno))),
  );
  addEventListener(
    'unhandledrejection',
    safely(({ reason }) => {
      const [, file, line, column] = /(\w+:\/\/[^\s)]+?):(\d+):(\d+)/.exec(reason?.stack) ?? [];
      failed(reason?.message ?? reason, placeIn(file, line, column));
    }),
  );

  // A page that does not exist, as its own response says.

  const missed = safely(() => {
    const [{ responseStatus } = {}] = performance.getEntriesByType('navigation');
    if (!isOn('webNotFound') || responseStatus !== 404) return;
    // The page with the wrong link.
    act('not_found', document.referrer ? { from: placeOf(document.referrer) } : {});
  });
  // After the page view.
  if (document.readyState === 'complete') missed();
  else addEventListener('load', missed);

  // Web Vitals.

  if (isOn('webVitals'))
    import('./telemetry-vitals.js').then(
      (vitals) => {
        const place = path();
        const round = (value) => Math.round(value * 1000) / 1000;
        for (const on of Object.values(vitals))
          on(({ name, value, rating }) => act('web_vital', { metric: name, value: round(value), rating }, place));
      },
      () => {},
    );
}

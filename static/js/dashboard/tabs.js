// The key for a view that the user opens in another tab. Each tab keeps the key for itself; a tab hands it to another one
// of this page only for a moment after the user opened one of its links there: with Ctrl, the middle button or the menu.
import { heldKey, ROOT, setKey } from './api.js';

const NAME = `echopilot.key ${ROOT}`;
const ASK = 'ask';
/** Time in ms after such a click in which another tab may ask: it has to load first, perhaps in the background. */
const OPEN_MS = 15_000;
/** Longest time in ms that a new tab waits for the key before it asks the user. */
const WAIT_MS = 250;

const hasChannel = 'BroadcastChannel' in window;

/** Hands the key to tabs that are opened from this one. */
export function handOver() {
  if (!hasChannel) return;
  let until = -Infinity;
  const allow = ({ target, type, ctrlKey, metaKey, shiftKey }) => {
    const opens = type !== 'click' || ctrlKey || metaKey || shiftKey;
    if (opens && target.closest?.('a[href^="#"]')) until = performance.now() + OPEN_MS;
  };
  for (const type of ['click', 'auxclick', 'contextmenu']) addEventListener(type, allow);
  const channel = new BroadcastChannel(NAME);
  channel.onmessage = ({ data }) => {
    if (data === ASK && heldKey() && performance.now() < until) channel.postMessage({ key: heldKey() });
  };
}

/**
 * Takes the key from the tab whose link opened this one, if there is one. Returns after a moment; what it returns resolves
 * to a key that comes later.
 */
export async function takeOver() {
  if (!hasChannel) return { late: new Promise(() => {}) };
  const channel = new BroadcastChannel(NAME);
  const key = new Promise((resolve) => {
    channel.onmessage = ({ data }) => {
      if (typeof data?.key !== 'string') return;
      channel.close();
      resolve(data.key);
    };
  });
  channel.postMessage(ASK);
  const pause = new Promise((resolve) => {
    setTimeout(resolve, WAIT_MS);
  });
  await Promise.race([key.then(setKey), pause]);
  return { late: key };
}

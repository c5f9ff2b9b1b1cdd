// What may be compared with what: equal spans, of days that are over, that the store has seen from their beginning.
import { addDays, dayIn, daysBetween, isDay } from './format.js';

/** Days of an ISO week. */
const WEEK = 7;

/**
 * The days of a window that are over at the instant `ts`, and the same days of the window before: a day that goes on has no
 * equal there. `null` if none is over.
 */
export function closedDays({ from, to, days, tz }, ts) {
  const yesterday = addDays(dayIn(tz, ts), -1);
  const last = to < yesterday ? to : yesterday;
  const closed = daysBetween(from, last) + 1;
  if (closed < 1) return null;
  return { isWhole: closed === days, now: span(last, closed), then: span(addDays(last, -days), closed) };
}

/** The whole ISO weeks within some days, and as many before them. `null` if there is none. */
export function wholeWeeks({ from, end }) {
  const monday = addDays(from, (WEEK - weekday(from)) % WEEK);
  const weeks = Math.floor((daysBetween(monday, end) + 1) / WEEK);
  if (weeks < 1) return null;
  const days = weeks * WEEK;
  return { weeks, now: span(addDays(monday, days - 1), days), then: span(addDays(monday, -1), days) };
}

/** Days since Monday. */
const weekday = (day) => (new Date(`${day}T00:00:00Z`).getUTCDay() + WEEK - 1) % WEEK;

const span = (end, days) => ({ from: addDays(end, 1 - days), end, days });

/**
 * The first day that the store has seen from its beginning: the one after that of the first event, which may have come at any
 * hour of it. That is a day of UTC; where another zone has its days, one more is sure to be whole.
 */
function firstWholeDay(firstDay, tz) {
  return firstDay && isDay(firstDay) ? addDays(firstDay, tz === 'UTC' ? 1 : 2) : null;
}

/** Whether the store has seen all of the days before: nothing grew against days before the first event. */
export function isSeen(then, firstDay, tz) {
  const first = firstWholeDay(firstDay, tz);
  return first === null || then.from >= first;
}

/** How much more it is than before. */
export const relative = (now, then) => (then ? now / then - 1 : null);

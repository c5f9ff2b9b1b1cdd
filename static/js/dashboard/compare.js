// Spans that can be compared: of equal length, of days that are over, and not older than the store.
import { addDays, dayIn, daysBetween, isDay } from './format.js';

/** Days of an ISO week. */
const WEEK = 7;

/**
 * The days of a window that are over at the time `ts`, and the same days of the window before. A day that is not over has
 * no counterpart there. `null` if none is over.
 */
export function closedDays({ from, to, days, tz }, ts) {
  const yesterday = addDays(dayIn(tz, ts), -1);
  const last = [to, yesterday].sort()[0];
  const closed = daysBetween(from, last) + 1;
  if (closed < 1) return null;
  return { isWhole: closed === days, now: span(last, closed), before: span(addDays(last, -days), closed) };
}

/** The whole ISO weeks within some days, and as many before them. `null` if there is none. */
export function wholeWeeks({ from, end }) {
  const monday = addDays(from, (WEEK - weekday(from)) % WEEK);
  const weeks = Math.floor((daysBetween(monday, end) + 1) / WEEK);
  if (weeks < 1) return null;
  const days = weeks * WEEK;
  return { weeks, now: span(addDays(monday, days - 1), days), before: span(addDays(monday, -1), days) };
}

/** Days since Monday. */
const weekday = (day) => (new Date(`${day}T00:00:00Z`).getUTCDay() + WEEK - 1) % WEEK;

const span = (end, days) => ({ from: addDays(end, 1 - days), end, days });

/**
 * The first day that is complete in the store: the day after the first event, which may be from any hour of its day. That is
 * a day of UTC; in another zone only the next day is complete for certain.
 */
function firstWholeDay(firstDay, tz) {
  return firstDay && isDay(firstDay) ? addDays(firstDay, tz === 'UTC' ? 1 : 2) : null;
}

/** True if the store has all of the days before. Nothing is compared with days before the first event. */
export function isSeen(before, firstDay, tz) {
  const first = firstWholeDay(firstDay, tz);
  return first === null || before.from >= first;
}

/** The relative change; `null` if there was nothing before. */
export const relative = (now, before) => (before ? now / before - 1 : null);

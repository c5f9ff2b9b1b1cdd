// Spans that can be compared: of equal length, of days that are over, and not older than the store.
import { addDays, dayIn, daysBetween, isDay } from './format.js';
import { periodBefore } from './window.js';

/** Days of a week. */
const WEEK = 7;
/** Limit of the parts of a trend. */
const PARTS = 10;

/**
 * The days of a window that are over at the time `ts`, and the same days of the window before. A day that is not over has
 * no counterpart there. The window before a calendar period is the calendar period before: the whole of it, or as many of
 * its days as are over of this one. `null` if none is over.
 */
export function closedDays({ from, to, days, tz }, ts, period = null) {
  const yesterday = addDays(dayIn(tz, ts), -1);
  const last = [to, yesterday].sort()[0];
  const closed = daysBetween(from, last) + 1;
  if (closed < 1) return null;
  const whole = period && periodBefore(period, from);
  if (whole) {
    const end = whole.isWhole ? whole.to : [whole.to, addDays(whole.from, closed - 1)].sort()[0];
    const before = span(end, daysBetween(whole.from, end) + 1);
    return { isWhole: closed === days, now: span(last, closed), before };
  }
  return { isWhole: closed === days, now: span(last, closed), before: span(addDays(last, -days), closed) };
}

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

/**
 * The sums of values by day in equal parts, of which the last ends with the last day. The parts are complete weeks, or days:
 * others would go up and down with the weekends.
 */
export function parts(values) {
  const { length } = values;
  const days = length < 2 * WEEK ? 1 : WEEK * Math.ceil(length / (WEEK * PARTS));
  const first = length % days;
  return Array.from({ length: Math.floor(length / days) }, (_, part) =>
    values.slice(first + part * days, first + (part + 1) * days).reduce((sum, value) => sum + value, 0),
  );
}

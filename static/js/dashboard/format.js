// Formats numbers, days and times, in the one language of the page.
import { GRAIN, LANGUAGE } from './texts.js';

const whole = new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 1 });
const exact = new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 6 });
const compact = new Intl.NumberFormat(LANGUAGE, { notation: 'compact', maximumSignificantDigits: 3 });
const day = new Intl.DateTimeFormat(LANGUAGE, { day: 'numeric', month: 'short', timeZone: 'UTC' });
const dayAndYear = new Intl.DateTimeFormat(LANGUAGE, {
  day: 'numeric',
  month: 'short',
  year: 'numeric',
  timeZone: 'UTC',
});
const weekday = new Intl.DateTimeFormat(LANGUAGE, {
  weekday: 'short',
  day: 'numeric',
  month: 'short',
  year: 'numeric',
  timeZone: 'UTC',
});
const month = new Intl.DateTimeFormat(LANGUAGE, { month: 'short', year: 'numeric', timeZone: 'UTC' });

export const NONE = '–';
const there = (value) => value !== null && value !== undefined && !Number.isNaN(value);

export const count = (value) => (there(value) ? whole.format(value) : NONE);
/** A mean: with a tenth where that matters. */
export const average = (value) => (there(value) ? (Math.abs(value) < 100 ? tenth : whole).format(value) : NONE);
/** A number of things: `1 user`, `2 users`. */
export const counted = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;
export const number = (value) => (there(value) ? exact.format(value) : NONE);
export const brief = (value) => (there(value) ? compact.format(value) : NONE);

const shares = (digits, options) =>
  new Intl.NumberFormat(LANGUAGE, {
    style: 'percent',
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
    ...options,
  });
const percents = [shares(0), shares(1), shares(2)];
const changes = shares(1, { signDisplay: 'exceptZero' });

/** A fraction as percent, with enough digits to tell small ones apart. */
export const percent = (share, digits = 1) => (there(share) ? percents[digits].format(share) : NONE);

/** A change as percent, with its sign. */
export const change = (share) => (there(share) ? changes.format(share) : NONE);

const date = (text) => new Date(`${text}T00:00:00Z`);
export const isDay = (text) => /^\d{4}-\d{2}-\d{2}$/.test(text);
export const shortDay = (text) => day.format(date(text));
export const longDay = (text) => weekday.format(date(text));

/** The first day of a period as its name. */
export function period(text, grain = 'day') {
  if (!isDay(text)) return text;
  if (grain === 'month') return month.format(date(text));
  return grain === 'week' ? GRAIN.weekOf(shortDay(text)) : shortDay(text);
}

/** Both ends of a range of days. */
export function range(from, to) {
  if (from === to) return dayAndYear.format(date(from));
  const isOneYear = from.slice(0, 4) === to.slice(0, 4);
  return `${(isOneYear ? day : dayAndYear).format(date(from))} – ${dayAndYear.format(date(to))}`;
}

export function addDays(text, days) {
  const moved = date(text);
  moved.setUTCDate(moved.getUTCDate() + days);
  return moved.toISOString().slice(0, 10);
}

/** The day of a timestamp in a zone. */
export function dayIn(tz, ts) {
  const parts = new Intl.DateTimeFormat(LANGUAGE, {
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    timeZone: tz,
  }).formatToParts(new Date(ts));
  const of = (type) => parts.find((part) => part.type === type).value;
  return `${of('year')}-${of('month')}-${of('day')}`;
}

export const daysBetween = (from, to) => Math.round((date(to) - date(from)) / 86_400_000);

/** A duration, in the unit that suits it. */
export function duration(seconds) {
  if (!there(seconds)) return NONE;
  if (seconds < 60) return `${tenth.format(seconds)} s`;
  if (seconds < 3_600) return `${tenth.format(seconds / 60)} min`;
  if (seconds < 2 * 86_400) return `${tenth.format(seconds / 3_600)} h`;
  return `${tenth.format(seconds / 86_400)} d`;
}

export function bytes(value) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let place = 0;
  let rest = value;
  while (rest >= 1_000 && place < units.length - 1) {
    rest /= 1_000;
    place += 1;
  }
  return `${place ? tenth.format(rest) : rest} ${units[place]}`;
}

/** A time of day in a zone. */
export function clock(ts, tz) {
  return new Intl.DateTimeFormat('en-GB', {
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
    timeZone: tz,
  }).format(new Date(ts));
}

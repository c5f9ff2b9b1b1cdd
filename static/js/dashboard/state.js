// The state of the page as the fragment of the URL. It can be shared, and it never leaves the browser, so that filters and
// names of features do not end up in the logs of servers.
import { dayIn, daysBetween, isDay } from './format.js';
import { isPeriod, periodDays } from './window.js';

const DAYS = 30;
/** Where the browser keeps the zone that was chosen last. */
const ZONE = 'echopilot.zone';

/** The reporting zones of the server, `{zone, complete}`. The first is that of an address that names none. */
let reporting = [{ zone: 'UTC', complete: true }];

/** The day from which events are kept, which other zones are computed from; `null` if none has expired. */
let eventsFrom = null;

/** Sets the reporting zones, and the day from which events are kept, from the status of the server. */
export function setReportingZones(zones, from = null) {
  if (zones?.length) reporting = zones;
  eventsFrom = from;
}

export const keptFrom = () => eventsFrom;

/** The names of the reporting zones; the first is the default. */
export const reportingZones = () => reporting.map(({ zone }) => zone);

const defaultZone = () => reporting[0].zone;

/** The zone that was chosen last in this browser, or the first reporting zone. */
export function rememberedZone() {
  try {
    return localStorage.getItem(ZONE) ?? defaultZone();
  } catch {
    return defaultZone();
  }
}

export function rememberZone(tz) {
  try {
    if (tz === defaultZone()) localStorage.removeItem(ZONE);
    else localStorage.setItem(ZONE, tz);
  } catch {
    // Without storage it is chosen again at the next visit.
  }
}

/**
 * Reads the state from an address, with defaults for what is missing. A number of days out of range stays: the server
 * says what is allowed. An address without any choice has the zone of the last visit.
 */
export function read(hash = location.hash) {
  const [path, search = ''] = hash.replace(/^#\/?/, '').split('?');
  const given = new URLSearchParams(search);
  const days = Number(given.get('days') ?? DAYS);
  return resolved({
    view: path || 'overview',
    days: Number.isInteger(days) ? days : DAYS,
    end: given.get('end') || null,
    period: isPeriod(given.get('period')) ? given.get('period') : null,
    from: given.get('from') || null,
    to: given.get('to') || null,
    tz: given.get('tz') || (search ? defaultZone() : rememberedZone()),
    filter: object(given.get('filter')),
    cohort: cohorts(given.get('cohorts')) ?? (given.get('cohort') || null),
    own: object(given.get('q')),
  });
}

/** The patch for the last days, up to a day. */
export const lastDays = (days, end = null) => ({ days, end, period: null, from: null, to: null });
/** The patch for a calendar period. */
export const calendar = (period) => ({ period, from: null, to: null });
/** The patch for the days between two, both included. */
export const between = (from, to) => ({ period: null, from, to });

/** A state whose `days` and `end` are those of its period, or of its first and last day. */
export function resolved(state) {
  const { period, from, to, tz } = state;
  if (period) {
    const days = periodDays(period, dayIn(safeZone(tz), Date.now()));
    return { ...state, from: null, to: null, days: daysBetween(days.from, days.to) + 1, end: days.to };
  }
  if (from && to && isDay(from) && isDay(to)) return { ...state, days: daysBetween(from, to) + 1, end: to };
  return from ? { ...state, from, to, end: to } : state;
}

/** The zone, or UTC for one that the browser does not know. */
export function safeZone(tz) {
  try {
    Intl.DateTimeFormat(undefined, { timeZone: tz });
    return tz;
  } catch {
    return 'UTC';
  }
}

function object(text) {
  try {
    const value = JSON.parse(text ?? '{}');
    return value && typeof value === 'object' && !Array.isArray(value) ? value : {};
  } catch {
    return {};
  }
}

/** Several cohorts, or a negated one, of an address. */
function cohorts(text) {
  const { cohorts: list } = object(`{"cohorts":${text ?? '[]'}}`);
  const isName = (name) => typeof name === 'string' && name !== '';
  const found = Array.isArray(list) ? list.filter((one) => isName(one) || isName(one?.not)) : [];
  return joinedCohorts(found.map((one) => (isName(one) ? one : { not: one.not })));
}

/** The cohorts of a state, which all hold: the name of each, or `{not: name}`. */
export const cohortsOf = ({ cohort }) => (cohort ? [cohort].flat() : []);

/** The same as the cohort of a state, or of a request. */
export const joinedCohorts = (list) => (list.length > 1 ? list : (list[0] ?? null));

/** The address of a state. */
export function write(state) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(windowOf(state))) {
    if (name !== 'days' || value !== DAYS) given.set(name, value);
  }
  // A link opens with this zone also where another one is remembered.
  if (state.tz !== defaultZone() || rememberedZone() !== defaultZone()) given.set('tz', state.tz);
  if (Object.keys(state.filter).length) given.set('filter', JSON.stringify(state.filter));
  if (typeof state.cohort === 'string') given.set('cohort', state.cohort);
  else if (state.cohort) given.set('cohorts', JSON.stringify(cohortsOf(state)));
  if (Object.keys(state.own).length) given.set('q', JSON.stringify(state.own));
  const search = given.toString();
  return `#/${state.view}${search ? `?${search}` : ''}`;
}

/** The window as in a request: a calendar period, the first and last day, or a number of days. */
export function windowOf({ period, from, to, days, end }) {
  if (period) return { period };
  if (from) return { from, ...(to && { to }) };
  return { days, ...(end && { end }) };
}

/** The window and the conditions, the common part of every query. */
export function scope(state) {
  const { tz, filter, cohort } = state;
  const request = windowOf(state);
  if (tz !== 'UTC') request.tz = tz;
  const conditions = cohort ? { ...filter, cohort } : filter;
  if (Object.keys(conditions).length) request.filter = conditions;
  return request;
}

/** True without a filter and a cohort. */
export const isAll = ({ filter, cohort }) => !cohort && Object.keys(filter).length === 0;

/** The length of a period that gives a readable number of periods. */
export function grainFor(days, most = 62) {
  if (days <= most) return 'day';
  return days <= most * 7 ? 'week' : 'month';
}

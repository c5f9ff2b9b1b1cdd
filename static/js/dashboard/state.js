// The state of the page as the fragment of the URL. It can be shared, and it never leaves the browser, so that filters and
// names of features do not end up in the logs of servers.

const DAYS = 30;

/** The reporting zones of the server, `{zone, complete}`. The first is that of an address that names none. */
let reporting = [{ zone: 'UTC', complete: true }];

/** Sets the reporting zones, from the status of the server. */
export function setReportingZones(zones) {
  if (zones?.length) reporting = zones;
}

/** The names of the reporting zones; the first is the default. */
export const reportingZones = () => reporting.map(({ zone }) => zone);

const defaultZone = () => reporting[0].zone;

/** True for a zone whose days are counted in advance. */
export const isCounted = (tz) => tz === 'UTC' || reporting.some(({ zone, complete }) => zone === tz && complete);

/** Reads the state from an address, with defaults for what is missing. */
export function read(hash = location.hash) {
  const [path, search = ''] = hash.replace(/^#\/?/, '').split('?');
  const given = new URLSearchParams(search);
  const days = Number(given.get('days') ?? DAYS);
  return {
    view: path || 'overview',
    days: Number.isInteger(days) && days >= 1 && days <= 365 ? days : DAYS,
    end: given.get('end') || null,
    tz: given.get('tz') || defaultZone(),
    filter: object(given.get('filter')),
    cohort: given.get('cohort') || null,
    own: object(given.get('q')),
  };
}

function object(text) {
  try {
    const value = JSON.parse(text ?? '{}');
    return value && typeof value === 'object' && !Array.isArray(value) ? value : {};
  } catch {
    return {};
  }
}

/** The address of a state. */
export function write(state) {
  const given = new URLSearchParams();
  if (state.days !== DAYS) given.set('days', state.days);
  if (state.end) given.set('end', state.end);
  if (state.tz !== defaultZone()) given.set('tz', state.tz);
  if (Object.keys(state.filter).length) given.set('filter', JSON.stringify(state.filter));
  if (state.cohort) given.set('cohort', state.cohort);
  if (Object.keys(state.own).length) given.set('q', JSON.stringify(state.own));
  const search = given.toString();
  return `#/${state.view}${search ? `?${search}` : ''}`;
}

/** The window and the conditions, the common part of every query. */
export function scope({ days, end, tz, filter, cohort }) {
  const request = { days };
  if (end) request.end = end;
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

// What is shown, as the part of the URL behind the #: it can be shared, and it never leaves the browser, so that neither
// filters nor names of features end in the logs of servers on the way.

const DAYS = 30;

/** The state of an address; whatever it does not say has its default. */
export function read(hash = location.hash) {
  const [path, search = ''] = hash.replace(/^#\/?/, '').split('?');
  const given = new URLSearchParams(search);
  const days = Number(given.get('days') ?? DAYS);
  return {
    view: path || 'overview',
    days: Number.isInteger(days) && days >= 1 && days <= 365 ? days : DAYS,
    end: given.get('end') || null,
    tz: given.get('tz') || 'UTC',
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
  if (state.tz !== 'UTC') given.set('tz', state.tz);
  if (Object.keys(state.filter).length) given.set('filter', JSON.stringify(state.filter));
  if (state.cohort) given.set('cohort', state.cohort);
  if (Object.keys(state.own).length) given.set('q', JSON.stringify(state.own));
  const search = given.toString();
  return `#/${state.view}${search ? `?${search}` : ''}`;
}

/** The window and the conditions, as every question has them. */
export function scope({ days, end, tz, filter, cohort }) {
  const question = { days };
  if (end) question.end = end;
  if (tz !== 'UTC') question.tz = tz;
  const conditions = cohort ? { ...filter, cohort } : filter;
  if (Object.keys(conditions).length) question.filter = conditions;
  return question;
}

/** Whether the question is about all events of all users. */
export const isAll = ({ filter, cohort }) => !cohort && Object.keys(filter).length === 0;

/** Length of a period that makes a readable number of them. */
export function grainFor(days, most = 62) {
  if (days <= most) return 'day';
  return days <= most * 7 ? 'week' : 'month';
}

// Calendar periods: the days of a named period, and the period before it.
import { addDays } from './format.js';

const DAYS_OF_WEEK = 7;

/** The named periods, in the order of the choice. */
export const PERIODS = [
  'today',
  'yesterday',
  'this_week',
  'last_week',
  'this_month',
  'last_month',
  'this_quarter',
  'last_quarter',
  'this_year',
  'last_year',
];

export const isPeriod = (name) => PERIODS.includes(name);

const [YEAR, MONTH] = [4, 7];

/** The first day of the day, week, month, quarter or year of a day. */
function firstOf(unit, day) {
  const month = Number(day.slice(YEAR + 1, MONTH));
  const of = (number) => `${day.slice(0, YEAR)}-${String(number).padStart(2, '0')}-01`;
  const starts = {
    day: () => day,
    week: () => addDays(day, -((new Date(`${day}T00:00:00Z`).getUTCDay() + DAYS_OF_WEEK - 1) % DAYS_OF_WEEK)),
    month: () => of(month),
    quarter: () => of(month - ((month - 1) % 3)),
    year: () => of(1),
  };
  return starts[unit]();
}

const partsOf = (period) => {
  if (period === 'today') return ['this', 'day'];
  return period === 'yesterday' ? ['last', 'day'] : period.split('_');
};

/** The days of a period on the day `today`: the ones with `this` end with it, the ones with `last` are complete. */
export function periodDays(period, today) {
  const [which, unit] = partsOf(period);
  const first = firstOf(unit, today);
  if (which === 'this') return { from: first, to: today };
  const to = addDays(first, -1);
  return { from: firstOf(unit, to), to };
}

/** The whole period before the one that begins with `from`, and whether the period itself is complete. */
export function periodBefore(period, from) {
  const [which, unit] = partsOf(period);
  const to = addDays(from, -1);
  return { from: firstOf(unit, to), to, isWhole: which === 'last' };
}

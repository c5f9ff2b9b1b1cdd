// Formats a point in time.
import { plain } from '../dom.js';
import { clock, dayIn, shortDay } from '../format.js';

/** The day and time in a zone. */
export const moment = (ts, tz) =>
  Number.isNaN(Date.parse(ts)) ? plain(ts) : `${shortDay(dayIn(tz, ts))}, ${clock(ts, tz)}`;

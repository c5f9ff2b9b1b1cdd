// The spans of days that the dashboard compares, tested without a browser.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { closedDays, isSeen, relative, wholeWeeks } from '../../static/js/dashboard/compare.js';
import { addDays, change, dayIn, percent } from '../../static/js/dashboard/format.js';

/** A window of UTC that ends with a day. */
const window = (to, days, tz = 'UTC') => ({ from: addDays(to, 1 - days), to, days, tz });

test('a day that is not over is left out, and so is its counterpart', () => {
  const { isWhole, now, before } = closedDays(window('2026-11-26', 7), '2026-11-26T01:30:00Z');
  assert.equal(isWhole, false);
  assert.deepEqual(now, { from: '2026-11-20', end: '2026-11-25', days: 6 });
  // The same days of the week before, and not the six before these six.
  assert.deepEqual(before, { from: '2026-11-13', end: '2026-11-18', days: 6 });
});

test('a window that is over is compared with as many days before it', () => {
  const { isWhole, now, before } = closedDays(window('2026-11-25', 30), '2026-11-26T00:00:00Z');
  assert.ok(isWhole);
  assert.deepEqual(now, { from: '2026-10-27', end: '2026-11-25', days: 30 });
  assert.deepEqual(before, { from: '2026-09-27', end: '2026-10-26', days: 30 });
});

test('the current day depends on the zone, also if the window ends in the future', () => {
  const instant = '2026-11-26T01:30:00Z';
  assert.equal(dayIn('America/New_York', instant), '2026-11-25');
  assert.equal(dayIn('Pacific/Auckland', instant), '2026-11-26');
  assert.equal(closedDays(window('2026-11-25', 7), instant).isWhole, true);
  assert.equal(closedDays(window('2026-11-25', 7, 'America/New_York'), instant).now.end, '2026-11-24');
  assert.deepEqual(closedDays(window('2026-12-01', 10), instant).now, {
    from: '2026-11-22',
    end: '2026-11-25',
    days: 4,
  });
  assert.deepEqual(closedDays(window('2026-12-01', 10), instant).before, {
    from: '2026-11-12',
    end: '2026-11-15',
    days: 4,
  });
  assert.equal(closedDays(window('2026-11-26', 1), instant), null);
  assert.equal(closedDays(window('2026-12-31', 10), instant), null);
});

test('weekly users are of complete weeks, as many before as now, on whatever day the window ends', () => {
  for (let n = 0; n < 28; n += 1) {
    const end = addDays('2026-11-25', -n);
    for (const days of [7, 8, 13, 14, 30, 90]) {
      const found = wholeWeeks({ from: addDays(end, 1 - days), end });
      if (!found) {
        assert.ok(days < 13, 'thirteen days contain a complete week');
        continue;
      }
      const { weeks, now, before } = found;
      for (const span of [now, before]) {
        assert.equal(new Date(`${span.from}T00:00:00Z`).getUTCDay(), 1, 'from a Monday');
        assert.equal(span.days, weeks * 7);
        assert.equal(addDays(span.from, span.days - 1), span.end);
      }
      assert.equal(addDays(before.end, 1), now.from);
      assert.ok(now.from >= addDays(end, 1 - days) && now.end <= end);
      assert.ok(weeks === Math.floor(days / 7) || weeks === Math.floor(days / 7) - 1);
    }
  }
});

test('the day of the first event and the days before are not compared', () => {
  const before = (from) => ({ from });
  assert.equal(isSeen(before('2026-04-19'), '2026-04-20', 'UTC'), false);
  assert.equal(isSeen(before('2026-04-20'), '2026-04-20', 'UTC'), false, 'the first event may have come at any hour');
  assert.equal(isSeen(before('2026-04-21'), '2026-04-20', 'UTC'), true);
  assert.equal(isSeen(before('2026-04-21'), '2026-04-20', 'Asia/Tokyo'), false);
  assert.equal(isSeen(before('2026-04-22'), '2026-04-20', 'Asia/Tokyo'), true);
});

test('percentages and signs are written as in English', () => {
  assert.deepEqual(
    [0.139, 0, 1, 0.0004, 15.878, null, undefined, NaN].map((share) => percent(share)),
    ['13.9%', '0.0%', '100.0%', '0.0%', '1,587.8%', '–', '–', '–'],
  );
  assert.deepEqual([0.139, -0.146, 0, -0.00001, 5.878, null].map(change), [
    '+13.9%',
    '-14.6%',
    '0.0%',
    '0.0%',
    '+587.8%',
    '–',
  ]);
  assert.equal(percent(0.5, 0), '50%');
  assert.equal(relative(3, 0), null);
});

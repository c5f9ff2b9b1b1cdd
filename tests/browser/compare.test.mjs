// The spans of days that the dashboard compares, tested without a browser.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { closedDays, isSeen, parts, relative } from '../../static/js/dashboard/compare.js';
import { contrast, inkOn, mixed, READABLE } from '../../static/js/dashboard/contrast.js';
import { addDays, average, brief, change, counted, dayIn, percent, range } from '../../static/js/dashboard/format.js';
import { PERIODS, periodDays } from '../../static/js/dashboard/window.js';

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

test('a trend has equal parts, which are days or complete weeks up to the last day', () => {
  const days = (count) => Array.from({ length: count }, (_, day) => day + 1);
  const sum = (from, to) => ((from + to) * (to - from + 1)) / 2;
  assert.deepEqual(parts([]), []);
  assert.deepEqual(parts(days(13)), days(13));
  assert.deepEqual(parts(days(16)), [sum(3, 9), sum(10, 16)]);
  assert.deepEqual(parts(days(30)), [sum(3, 9), sum(10, 16), sum(17, 23), sum(24, 30)]);
  // At most ten of them: a year has parts of six weeks.
  assert.equal(parts(days(365)).length, 8);
  assert.equal(parts(days(365)).at(-1), sum(365 - 41, 365));
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

test('calendar periods begin on the first day of the week, month, quarter and year', () => {
  const days = (period, today) => Object.values(periodDays(period, today)).join(' ');
  const found = Object.fromEntries(PERIODS.map((period) => [period, days(period, '2026-11-26')]));
  assert.deepEqual(found, {
    today: '2026-11-26 2026-11-26',
    yesterday: '2026-11-25 2026-11-25',
    this_week: '2026-11-23 2026-11-26',
    last_week: '2026-11-16 2026-11-22',
    this_month: '2026-11-01 2026-11-26',
    last_month: '2026-10-01 2026-10-31',
    this_quarter: '2026-10-01 2026-11-26',
    last_quarter: '2026-07-01 2026-09-30',
    this_year: '2026-01-01 2026-11-26',
    last_year: '2025-01-01 2025-12-31',
  });
  assert.equal(days('last_quarter', '2026-01-01'), '2025-10-01 2025-12-31');
  assert.equal(days('last_month', '2024-03-31'), '2024-02-01 2024-02-29');
  assert.equal(days('this_week', '2026-11-29'), '2026-11-23 2026-11-29', 'a Sunday ends its week');
  assert.equal(days('last_week', '2026-01-01'), '2025-12-22 2025-12-28');
});

test('a calendar period is compared with the one before, as far as it is over', () => {
  const compared = (period, instant) => {
    const { from, to } = periodDays(period, instant.slice(0, 10));
    const days = 1 + Math.round((Date.parse(to) - Date.parse(from)) / 86_400_000);
    return closedDays({ from, to, days, tz: 'UTC' }, instant, period);
  };
  // Eleven months are over, and November is compared with October by days.
  assert.deepEqual(compared('this_month', '2026-11-11T08:00:00Z').before, {
    from: '2026-10-01',
    end: '2026-10-10',
    days: 10,
  });
  assert.deepEqual(compared('last_month', '2026-11-11T08:00:00Z').before, {
    from: '2026-09-01',
    end: '2026-09-30',
    days: 30,
  });
  // February has no 30 days.
  assert.deepEqual(compared('this_month', '2026-03-31T08:00:00Z').before, {
    from: '2026-02-01',
    end: '2026-02-28',
    days: 28,
  });
  assert.equal(compared('today', '2026-11-11T08:00:00Z'), null);
  assert.deepEqual(compared('this_quarter', '2026-10-02T08:00:00Z').before, {
    from: '2026-07-01',
    end: '2026-07-01',
    days: 1,
  });
});

test('numbers in words', () => {
  assert.deepEqual([counted(1, 'user'), counted(2, 'user'), counted(0, 'user')], ['1 user', '2 users', '0 users']);
  assert.equal(range('2025-11-27', '2026-11-26'), 'Nov 27, 2025 – Nov 26, 2026');
  assert.equal(range('2026-11-01', '2026-11-26'), 'Nov 1 – Nov 26, 2026');
  assert.deepEqual([brief(1_006_722), brief(12_345), brief(999)], ['1.01M', '12.3K', '999']);
  assert.deepEqual([average(1_193.6), average(12.34)], ['1,194', '12.3']);
});

test('the numbers of a heat map are readable on each of its colours', async () => {
  const css = await readFile(new URL('../../static/css/dashboard.css', import.meta.url), 'utf8');
  const themes = [css.split(':root[data-theme="dark"]')[0], css.split(':root[data-theme="dark"] {')[1]];
  for (const text of themes) {
    const of = (name) => text.match(new RegExp(`--${name}: (#[0-9a-f]+);`))[1];
    const heat = [0, 1, 2, 3, 4].map((place) => of(`heat-${place}`));
    const inks = [of('ink'), of('on-heat')];
    for (let share = 0; share <= 100; share += 1) {
      const ground = mixed(heat, share / 100);
      const found = contrast(ground, inkOn(ground, inks));
      assert.ok(found >= READABLE, `${ground} at ${share} %: ${found}`);
    }
    assert.equal(mixed(heat, 0.25), heat[1]);
  }
  assert.equal(contrast('#fff', '#000000'), 21);
});

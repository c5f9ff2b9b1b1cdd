//! The spans of time that trends count in: the periods of the window and of the window that it is
//! compared with, and the pieces between their ends, of which each span is made.

use std::collections::BTreeSet;
use std::ops::Range;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, Offset, TimeDelta, TimeZone};
use chrono::{Timelike, Utc};
use chrono_tz::Tz;
use serde_json::{Value, json};

use super::TrendGrain;
use crate::daily::Day;
use crate::window::{self, Compare, Grain, Period, Window};

/// The clock changes of all zones are at full quarters of an hour.
const QUARTER_US: i64 = 15 * 60 * 1_000_000;
/// The shortest day of a zone has so many hours.
const LEAST_HOURS: u64 = 23;

/// The spans of a query.
#[derive(Debug)]
pub struct Timeline {
    /// The periods of the window, in order.
    pub slots: Vec<Slot>,
    /// The window.
    pub total_us: Range<i64>,
    /// The window that it is compared with.
    pub compared: Option<Compared>,
    /// Where spans begin and end, in µs, ascending. Pieces are what lies between two of them.
    pub bounds: Vec<i64>,
    /// True for each piece that is part of a span.
    pub wanted: Vec<bool>,
}

/// A period of the window.
#[derive(Debug, PartialEq)]
pub struct Slot {
    /// Its name in responses.
    pub name: String,
    /// Its span, with the periods before it if these roll.
    pub us: Range<i64>,
    /// True if the window or the present cuts it.
    pub is_partial: bool,
    /// The earlier period that it is compared with.
    pub previous: Option<Previous>,
}

/// The period that another is compared with.
#[derive(Debug, PartialEq)]
pub struct Previous {
    /// Its name in responses.
    pub name: String,
    /// Its span: of a period that is compared with a running one only its first part.
    pub us: Range<i64>,
    /// The first day that is counted in it.
    pub first_day: NaiveDate,
    /// The day that is counted only until some time, if one is.
    pub cut_day: Option<NaiveDate>,
}

/// The window that another is compared with.
#[derive(Debug, PartialEq)]
pub struct Compared {
    /// First day.
    pub from: NaiveDate,
    /// Last day.
    pub to: NaiveDate,
    /// Its span, until the present has its place in it.
    pub us: Range<i64>,
    /// The day that is counted only until some time, if one is.
    pub cut_day: Option<NaiveDate>,
}

impl Compared {
    /// The note of the response about it, with the day from which on its events are known.
    pub fn note(&self, known_from: Option<NaiveDate>) -> Value {
        json!({"from": self.from, "to": self.to, "known_from": known_from})
    }
}

/// A period with its name.
#[derive(Debug, Clone)]
struct Named {
    name: String,
    /// Its part in the window.
    us: Range<i64>,
    /// All of its days.
    period: Period,
}

impl Timeline {
    /// The spans of a window at the time `now`.
    pub fn new(
        window: &Window,
        grain: TrendGrain,
        compare: Option<Compare>,
        rolling: usize,
        now: DateTime<Utc>,
    ) -> Self {
        let tz = window.tz();
        let days = window.first_day()..=window.last_day();
        let (before, periods) = periods_of(*days.start(), *days.end(), grain, rolling, tz);
        let rolled = |list: &[Named], at: usize| {
            let first = list.get((before + at + 1).saturating_sub(rolling));
            let last = list.get(before + at);
            let start = first.or(last).map_or(0, |period| period.us.start);
            start..last.map_or(start, |period| period.us.end)
        };
        let now_us = now.timestamp_micros();
        let mut compared = compare.map(|compare| {
            let (from, to) = compared_days(window, grain, compare);
            let us = window::day_us(from, tz).start..window::day_us(to, tz).end;
            let compared = Compared {
                from,
                to,
                us,
                cut_day: None,
            };
            (compared, periods_of(from, to, grain, rolling, tz).1)
        });
        let mut slots = Vec::new();
        for (at, period) in periods.iter().skip(before).enumerate() {
            let is_running = period.us.start <= now_us && now_us < period.us.end;
            let is_to_come = now_us < period.us.start;
            let is_partial = match grain.calendar() {
                None => now_us < period.us.end,
                Some(_) => window.cuts(&period.period, now),
            };
            let previous = compared.as_mut().and_then(|(compared, earlier)| {
                let other = earlier.get(before + at)?;
                if is_to_come {
                    compared.us.end = compared.us.end.min(other.us.start);
                    return None;
                }
                let mut us = rolled(earlier, at);
                let mut cut_day = None;
                if is_running {
                    let cut = same_time(period, other, grain, now, tz);
                    if cut < us.end {
                        us.end = cut.max(us.start);
                        compared.us.end = us.end;
                        cut_day = Some(day_at(us.end, tz));
                        compared.cut_day = cut_day;
                    }
                }
                Some(Previous {
                    name: other.name.clone(),
                    first_day: day_at(us.start, tz),
                    us,
                    cut_day,
                })
            });
            slots.push(Slot {
                name: period.name.clone(),
                us: rolled(&periods, at),
                is_partial,
                previous,
            });
        }
        Self {
            total_us: window.range_us(),
            compared: compared.map(|(compared, _)| compared),
            bounds: Vec::new(),
            wanted: Vec::new(),
            slots,
        }
        .with_pieces()
    }

    fn with_pieces(mut self) -> Self {
        let spans: Vec<Range<i64>> = self.spans().cloned().collect();
        let ends = spans.iter().flat_map(|span| [span.start, span.end]);
        self.bounds = ends.collect::<BTreeSet<_>>().into_iter().collect();
        self.wanted = vec![false; self.bounds.len().saturating_sub(1)];
        for span in &spans {
            let pieces = self.pieces(span);
            for is_wanted in self.wanted.get_mut(pieces).unwrap_or_default() {
                *is_wanted = true;
            }
        }
        self
    }

    fn spans(&self) -> impl Iterator<Item = &Range<i64>> {
        let slots = self.slots.iter().flat_map(|slot| {
            let previous = slot.previous.as_ref().map(|previous| &previous.us);
            [Some(&slot.us), previous].into_iter().flatten()
        });
        let compared = self.compared.as_ref().map(|compared| &compared.us);
        let all = slots.chain([&self.total_us]).chain(compared);
        all.filter(|span| span.start < span.end)
    }

    /// The pieces of a span.
    pub fn pieces(&self, span: &Range<i64>) -> Range<usize> {
        let at = |us: i64| self.bounds.partition_point(|bound| *bound < us);
        let start = at(span.start).min(self.wanted.len());
        start..at(span.end).clamp(start, self.wanted.len())
    }
}

/// The pieces that are wanted, with their spans.
pub fn wanted_pieces<'a>(
    bounds: &'a [i64],
    wanted: &'a [bool],
) -> impl Iterator<Item = (usize, Range<i64>)> + 'a {
    let spans = bounds.iter().zip(bounds.iter().skip(1));
    let spans = spans.map(|(start, end)| *start..*end).enumerate();
    spans.filter(|(at, _)| wanted.get(*at) == Some(&true))
}

/// The whole days of a zone that a span is made of, if it is.
pub fn whole_days(us: &Range<i64>, tz: Tz) -> Option<Range<Day>> {
    let (first, last) = (day_at(us.start, tz), day_at(us.end - 1, tz));
    let start = window::day_us(first, tz).start;
    let end = window::day_us(last, tz).end;
    ((start..end) == *us).then(|| first.to_epoch_days()..last.to_epoch_days() + 1)
}

/// The days of a zone that some spans lie in, as ranges without a gap.
pub fn days_of(spans: impl Iterator<Item = Range<i64>>, tz: Tz) -> Vec<Range<Day>> {
    let mut days: Vec<Range<Day>> = Vec::new();
    for us in spans {
        let start = day_at(us.start, tz).to_epoch_days();
        let end = day_at(us.end - 1, tz).to_epoch_days() + 1;
        match days.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => days.push(start..end),
        }
    }
    days
}

/// The day of a zone in which a time lies.
fn day_at(us: i64, tz: Tz) -> NaiveDate {
    let utc = DateTime::from_timestamp_micros(us).unwrap_or_default();
    utc.with_timezone(&tz).date_naive()
}

/// The periods of some days, with the `rolling - 1` periods before them, and how many these are.
fn periods_of(
    first: NaiveDate,
    last: NaiveDate,
    grain: TrendGrain,
    rolling: usize,
    tz: Tz,
) -> (usize, Vec<Named>) {
    let before = rolling.saturating_sub(1);
    let back = before as u64;
    let from = match grain {
        TrendGrain::Hour => first - Days::new(back.div_ceil(LEAST_HOURS)),
        TrendGrain::Day => first - Days::new(back),
        TrendGrain::Week if before > 0 => {
            Grain::Week.period_of(first).first_day - Days::new(7 * back)
        }
        TrendGrain::Month if before > 0 => {
            Grain::Month.period_of(first).first_day - Months::new(before as u32)
        }
        TrendGrain::Week | TrendGrain::Month => first,
    };
    let start = window::day_us(first, tz).start;
    let mut all = match grain.calendar() {
        Some(grain) => calendar_periods(from, last, grain, tz),
        None => hours(from, last, tz),
    };
    // The period in which the window begins is complete if those before it are counted too.
    let at = all.partition_point(|period| period.us.end <= start);
    let surplus = at.saturating_sub(before);
    all.drain(..surplus);
    (at - surplus, all)
}

fn calendar_periods(first: NaiveDate, last: NaiveDate, grain: Grain, tz: Tz) -> Vec<Named> {
    let mut periods = Vec::new();
    let mut day = first;
    while day <= last {
        let period = grain.period_of(day);
        let start = window::day_us(day, tz).start;
        let end = window::day_us(period.last_day.min(last), tz).end;
        periods.push(Named {
            name: period.first_day.to_string(),
            us: start..end,
            period,
        });
        day = period.last_day + Days::new(1);
    }
    periods
}

/// The hours of some days. An hour that is repeated when the clock is put back is two, with
/// different offsets from UTC.
fn hours(first: NaiveDate, last: NaiveDate, tz: Tz) -> Vec<Named> {
    let range = window::day_us(first, tz).start..window::day_us(last, tz).end;
    let mut periods: Vec<Named> = Vec::new();
    let mut known = None;
    let mut us = range.start;
    while us < range.end {
        let local = DateTime::from_timestamp_micros(us).unwrap_or_default();
        let local = local.with_timezone(&tz);
        let offset = local.offset().fix();
        let day = local.date_naive();
        let hour = (day, local.hour(), offset);
        if known == Some(hour) {
            if let Some(period) = periods.last_mut() {
                period.us.end = us + QUARTER_US;
            }
        } else {
            known = Some(hour);
            periods.push(Named {
                name: format!("{day}T{:02}:00:00{offset}", local.hour()),
                us: us..us + QUARTER_US,
                period: Grain::Day.period_of(day),
            });
        }
        us += QUARTER_US;
    }
    periods
}

/// The time of a period at which as much of it is over as of a running one at `now`: at the same
/// time of the clock, for the same number of days.
fn same_time(period: &Named, other: &Named, grain: TrendGrain, now: DateTime<Utc>, tz: Tz) -> i64 {
    if grain.calendar().is_none() {
        let since = now.timestamp_micros() - period.us.start;
        return other.us.start.saturating_add(since).min(other.us.end);
    }
    let local = now.with_timezone(&tz).naive_local();
    let days = local.date() - period.period.first_day;
    let mut same = (other.period.first_day + days).and_time(local.time());
    // A time that the clock skips is the next one that exists.
    let found = (0..=2 * 24 * 4).find_map(|_| {
        let found = tz.from_local_datetime(&same).earliest();
        same += TimeDelta::minutes(15);
        found
    });
    let same = found.map_or(other.us.end, |same| {
        same.with_timezone(&Utc).timestamp_micros()
    });
    same.clamp(other.us.start, other.us.end)
}

/// The days that some days are compared with.
///
/// Of days and hours: those of [`Window::compared`]. Weeks and months are compared with whole weeks
/// and months, so that each one is compared with one of equal span: those days are as many whole
/// weeks or months earlier as it takes to lie before, or a year earlier.
fn compared_days(window: &Window, grain: TrendGrain, compare: Compare) -> (NaiveDate, NaiveDate) {
    let (first, last) = (window.first_day(), window.last_day());
    let days = (last - first).num_days().unsigned_abs() + 1;
    match (grain, compare) {
        (TrendGrain::Hour | TrendGrain::Day, compare) => {
            let earlier = window.compared(compare);
            (earlier.first_day(), earlier.last_day())
        }
        (TrendGrain::Week, compare) => {
            const WEEKS_OF_A_YEAR: u64 = 52;
            let weeks = match compare {
                Compare::Previous => days.div_ceil(7),
                Compare::Year => WEEKS_OF_A_YEAR.max(days.div_ceil(7)),
            };
            (first - Days::new(7 * weeks), last - Days::new(7 * weeks))
        }
        (TrendGrain::Month, compare) => {
            let months = match compare {
                Compare::Previous => {
                    let is_after = |months: &u32| month_before(last, *months) < first;
                    (1..=12).find(is_after).unwrap_or(12)
                }
                Compare::Year => 12,
            };
            (first - Months::new(months), month_before(last, months))
        }
    }
}

/// The same day some months earlier; the last day of a month if it is the last day of one.
fn month_before(day: NaiveDate, months: u32) -> NaiveDate {
    let earlier = day - Months::new(months);
    if (day + Days::new(1)).day() == 1 {
        Grain::Month.period_of(earlier).last_day
    } else {
        earlier
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::frame::time;
    use crate::window::{NamedPeriod, WindowRequest};

    fn day(string: &str) -> NaiveDate {
        string.parse().expect("the test names a day")
    }

    fn window(tz: &str, from: &str, to: &str) -> Window {
        let request = WindowRequest {
            from: Some(day(from)),
            to: Some(day(to)),
            tz: Some(tz.into()),
            ..WindowRequest::default()
        };
        request
            .resolve(DateTime::UNIX_EPOCH)
            .expect("the test names a window")
    }

    fn timeline(
        window: &Window,
        grain: TrendGrain,
        compare: Option<Compare>,
        now: &str,
    ) -> Timeline {
        Timeline::new(window, grain, compare, 1, time(now))
    }

    #[test]
    fn a_repeated_hour_is_two_and_a_skipped_one_none() {
        let hours = |day: &str| -> Vec<String> {
            let window = window("Europe/Berlin", day, day);
            let slots = timeline(&window, TrendGrain::Hour, None, "2038-01-01 00:00").slots;
            slots.into_iter().map(|slot| slot.name).collect()
        };
        let autumn = hours("2024-10-27");
        assert_eq!(autumn.len(), 25);
        let of_autumn = ["02:00:00+02:00", "02:00:00+01:00", "03:00:00+01:00"];
        let found = autumn.iter().skip(2).take(3);
        let expected = of_autumn.map(|hour| format!("2024-10-27T{hour}"));
        assert_eq!(found.cloned().collect::<Vec<_>>(), expected);
        let spring = hours("2024-03-31");
        assert_eq!(spring.len(), 23);
        assert!(!spring.iter().any(|hour| hour.contains("T02")));
    }

    #[test]
    fn pieces_cover_each_span_once() {
        let window = window("UTC", "2024-03-01", "2024-03-07");
        let timeline = Timeline::new(
            &window,
            TrendGrain::Day,
            Some(Compare::Previous),
            7,
            time("2024-03-07 10:30"),
        );
        for slot in &timeline.slots {
            let mut end = slot.us.start;
            for (at, us) in wanted_pieces(&timeline.bounds, &timeline.wanted) {
                if timeline.pieces(&slot.us).contains(&at) {
                    assert_eq!(us.start, end);
                    end = us.end;
                }
            }
            assert_eq!(end, slot.us.end, "{slot:?}");
        }
        // Seven days that end with the first: they begin with February 24th.
        let first = timeline.slots.first().expect("a period");
        assert_eq!(first.us.start, time("2024-02-24 00:00").timestamp_micros());
    }

    #[test]
    fn a_running_period_is_compared_with_the_same_hours() {
        let at = |string: &str| time(string).timestamp_micros();
        let week = window("UTC", "2024-03-04", "2024-03-10");
        let last = |grain, now: &str| {
            let mut timeline = timeline(&week, grain, Some(Compare::Previous), now);
            let is_known = |slot: &Slot| slot.previous.is_some();
            let place = timeline.slots.iter().rposition(is_known);
            let slot = timeline.slots.swap_remove(place.expect("a period"));
            (slot.previous.expect("an earlier one"), timeline.compared)
        };
        for grain in [TrendGrain::Day, TrendGrain::Week] {
            let (previous, compared) = last(grain, "2024-03-07 10:30");
            assert_eq!(previous.us.end, at("2024-02-29 10:30"), "{grain:?}");
            assert_eq!(previous.cut_day, Some(day("2024-02-29")));
            let compared = compared.expect("a window");
            assert_eq!(compared.us, at("2024-02-26 00:00")..at("2024-02-29 10:30"));
        }
        let (previous, _) = last(TrendGrain::Day, "2024-03-20 10:30");
        assert_eq!(
            (previous.us.end, previous.cut_day),
            (at("2024-03-04 00:00"), None)
        );
        // On a day of 25 hours the clock decides, not the hours since midnight.
        let berlin = window("Europe/Berlin", "2024-10-27", "2024-10-27");
        let now = "2024-10-27 11:00";
        let timeline = timeline(&berlin, TrendGrain::Day, Some(Compare::Previous), now);
        let previous = timeline
            .slots
            .first()
            .and_then(|slot| slot.previous.as_ref());
        let end = previous.expect("an earlier day").us.end;
        // 12:00 in winter, and 12:00 in summer the day before.
        assert_eq!(end, at("2024-10-26 10:00"));
    }

    #[test]
    fn days_of_a_calendar_month_are_compared_with_the_month_before() {
        let request = WindowRequest {
            period: Some(NamedPeriod::LastMonth),
            ..WindowRequest::default()
        };
        let now = "2024-04-10 10:30";
        let march = request.resolve(time(now)).expect("a month");
        let timeline = timeline(&march, TrendGrain::Day, Some(Compare::Previous), now);
        let compared = timeline.compared.expect("a window");
        assert_eq!(
            (compared.from, compared.to),
            (day("2024-02-01"), day("2024-02-29"))
        );
        // March 29th has February 29th, and the days after it have none.
        let known = timeline.slots.iter().map(|slot| slot.previous.is_some());
        let expected = (1..=31).map(|of_march| of_march <= 29);
        assert!(known.eq(expected));
    }

    #[test]
    fn weeks_and_months_are_compared_with_those_of_equal_span() {
        let days = |from, to, grain, compare| {
            let (from, to) = compared_days(&window("UTC", from, to), grain, compare);
            format!("{from} {to}")
        };
        let (previous, year) = (Compare::Previous, Compare::Year);
        for (from, to, grain, compare, expected) in [
            (
                "2024-03-02",
                "2024-03-04",
                TrendGrain::Day,
                previous,
                "2024-02-28 2024-03-01",
            ),
            (
                "2024-02-29",
                "2024-03-01",
                TrendGrain::Hour,
                year,
                "2023-02-28 2023-03-01",
            ),
            // Saturday to Monday: a week earlier, and 52 weeks.
            (
                "2024-03-02",
                "2024-03-04",
                TrendGrain::Week,
                previous,
                "2024-02-24 2024-02-26",
            ),
            (
                "2024-03-02",
                "2024-03-04",
                TrendGrain::Week,
                year,
                "2023-03-04 2023-03-06",
            ),
            (
                "2024-03-01",
                "2024-03-31",
                TrendGrain::Month,
                previous,
                "2024-02-01 2024-02-29",
            ),
            (
                "2024-03-01",
                "2024-03-30",
                TrendGrain::Month,
                previous,
                "2024-02-01 2024-02-29",
            ),
            (
                "2024-01-15",
                "2024-03-10",
                TrendGrain::Month,
                previous,
                "2023-11-15 2024-01-10",
            ),
            (
                "2024-02-01",
                "2024-02-29",
                TrendGrain::Month,
                year,
                "2023-02-01 2023-02-28",
            ),
        ] {
            assert_eq!(days(from, to, grain, compare), expected, "{from} {to}");
        }
    }
}

//! Windows of whole days in a reporting time zone.
//!
//! A window of N days is the N calendar days that end with its last day, both included, and half-open in
//! time: `[start of the first day, start of the day after the last)`. Nothing here reads a clock.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The longest window, in days.
pub const MAX_DAYS: u16 = 365;
/// The window of a request that names none, in days.
pub const DEFAULT_DAYS: u16 = 30;
/// Microseconds of an hour.
pub const HOUR_US: i64 = 3_600 * 1_000_000;
/// Microseconds of a day of UTC.
pub const DAY_US: i64 = 24 * HOUR_US;

/// A number of whole days that ends with a given day of a reporting zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    last_day: NaiveDate,
    days: u16,
    tz: Tz,
}

/// The part of a request that names a window; absent fields have the documented defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WindowRequest {
    /// Length in days, 1 to 365; 30 if absent.
    pub days: Option<i64>,
    /// Last day; today in the zone if absent.
    pub end: Option<NaiveDate>,
    /// IANA zone name; UTC if absent.
    pub tz: Option<String>,
}

impl WindowRequest {
    /// Resolves the request at the instant `now`.
    ///
    /// # Errors
    /// `bad_days` for a length outside 1 to 365, `bad_tz` for an unknown zone, `bad_end` for a day outside
    /// the years 1971 to 9998.
    pub fn resolve(&self, now: DateTime<Utc>) -> Result<Window> {
        let days = self.days.unwrap_or(i64::from(DEFAULT_DAYS));
        let days = u16::try_from(days)
            .ok()
            .filter(|days| (1..=MAX_DAYS).contains(days))
            .ok_or_else(|| {
                Error::bad_input(
                    "bad_days",
                    format!("days is {days}; allowed is 1 to {MAX_DAYS}"),
                )
            })?;
        let tz = match &self.tz {
            None => Tz::UTC,
            Some(name) => name.parse().map_err(|_| {
                let name: String = name.chars().take(64).collect();
                Error::bad_input(
                    "bad_tz",
                    format!("tz is {name:?}; allowed is an IANA zone such as Europe/Berlin"),
                )
            })?,
        };
        let last_day = self
            .end
            .unwrap_or_else(|| now.with_timezone(&tz).date_naive());
        if !(first_allowed()..=last_allowed()).contains(&last_day) {
            return Err(Error::bad_input(
                "bad_end",
                format!("end is {last_day}; allowed is a day of the years 1971 to 9998"),
            ));
        }
        Ok(Window { last_day, days, tz })
    }
}

fn first_allowed() -> NaiveDate {
    NaiveDate::from_ymd_opt(1971, 1, 1).unwrap_or(NaiveDate::MIN)
}

fn last_allowed() -> NaiveDate {
    NaiveDate::from_ymd_opt(9998, 12, 31).unwrap_or(NaiveDate::MAX)
}

/// Parses a day written `YYYY-MM-DD`, the only form the interface knows.
///
/// # Errors
/// The text itself, in a sentence that says what is allowed.
pub fn parse_day(text: &str) -> Result<NaiveDate, String> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .ok()
        .filter(|_| text.len() == 10)
        .ok_or_else(|| {
            let text: String = text.chars().take(64).collect();
            format!("{text:?} is not a day; allowed is YYYY-MM-DD")
        })
}

impl Window {
    /// `days` days of UTC that end with `last_day`.
    pub fn utc(last_day: NaiveDate, days: u16) -> Self {
        Self {
            last_day,
            days,
            tz: Tz::UTC,
        }
    }

    /// Length in days, 1 to 365.
    pub fn days(&self) -> u16 {
        self.days
    }

    /// The reporting zone in which a day begins and ends.
    pub fn tz(&self) -> Tz {
        self.tz
    }

    /// First day, included.
    pub fn first_day(&self) -> NaiveDate {
        self.last_day - Days::new(u64::from(self.days) - 1)
    }

    /// Last day, included.
    pub fn last_day(&self) -> NaiveDate {
        self.last_day
    }

    /// The window as half-open range of microseconds since 1970, UTC.
    pub fn range_us(&self) -> std::ops::Range<i64> {
        start_of_day(self.first_day(), self.tz).timestamp_micros()
            ..start_of_day(self.last_day + Days::new(1), self.tz).timestamp_micros()
    }

    /// First day of the window that lies wholly at or after the start of `day` in UTC; the day after the window, if none
    /// does.
    pub fn first_whole_day_from(&self, day: NaiveDate) -> NaiveDate {
        let from = day.and_time(chrono::NaiveTime::MIN).and_utc();
        let after = self.last_day + Days::new(1);
        self.first_day()
            .iter_days()
            .take(usize::from(self.days))
            .find(|day| start_of_day(*day, self.tz) >= from)
            .unwrap_or(after)
    }

    /// The days as a half-open range of days since 1970-01-01.
    pub fn days_in_epoch(&self) -> std::ops::Range<i32> {
        self.first_day().to_epoch_days()..self.last_day.to_epoch_days() + 1
    }

    /// Whether the window reaches into a day that is not over at `now`.
    pub fn is_partial(&self, now: DateTime<Utc>) -> bool {
        self.range_us().end > now.timestamp_micros()
    }

    /// The calendar periods that the window touches, in order. The first may begin before it, the last end after it.
    pub fn periods(&self, grain: Grain) -> Vec<Period> {
        let mut periods = Vec::new();
        let mut period = grain.period_of(self.first_day());
        while period.first_day <= self.last_day {
            let next = grain.period_of(period.last_day + Days::new(1));
            periods.push(std::mem::replace(&mut period, next));
        }
        periods
    }

    /// Whether the numbers of a period are not those of all of it: the window begins or ends inside it, or it is not over at
    /// `now`.
    pub fn cuts(&self, period: &Period, now: DateTime<Utc>) -> bool {
        period.first_day < self.first_day()
            || period.last_day > self.last_day
            || self.is_running(period.last_day, now)
    }

    /// First days of the periods that the window or the present cuts, in order.
    pub fn cut_periods(&self, grain: Grain, now: DateTime<Utc>) -> Vec<NaiveDate> {
        let periods = self.periods(grain).into_iter();
        let cut = periods.filter(|period| self.cuts(period, now));
        cut.map(|period| period.first_day).collect()
    }

    /// The window with another first day.
    pub fn starting(&self, first_day: NaiveDate) -> Self {
        let days = (self.last_day - first_day).num_days() + 1;
        Self {
            // More days than a window of a request may have, and less than there are days of the calendar.
            days: u16::try_from(days).unwrap_or(u16::MAX),
            ..*self
        }
    }

    /// Whether a day of the zone is not over at `now`.
    pub fn is_running(&self, day: NaiveDate, now: DateTime<Utc>) -> bool {
        start_of_day(day + Days::new(1), self.tz) > now
    }

    /// The window as it is written into every answer.
    pub fn describe(&self, now: DateTime<Utc>) -> WindowFacts {
        WindowFacts {
            from: self.first_day(),
            to: self.last_day,
            days: self.days,
            tz: self.tz.name(),
            partial: self.is_partial(now),
        }
    }
}

/// The length of a calendar period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grain {
    /// A calendar day.
    #[default]
    Day,
    /// An ISO week, from Monday.
    Week,
    /// A calendar month.
    Month,
}

/// A calendar period of a reporting zone: its days, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// First day, included.
    pub first_day: NaiveDate,
    /// Last day, included.
    pub last_day: NaiveDate,
}

impl Grain {
    /// The period that a day lies in.
    pub fn period_of(self, day: NaiveDate) -> Period {
        let (first_day, last_day) = match self {
            Self::Day => (day, day),
            Self::Week => {
                let monday = day - Days::new(u64::from(day.weekday().num_days_from_monday()));
                (monday, monday + Days::new(6))
            }
            Self::Month => {
                let first = day - Days::new(u64::from(day.day0()));
                (first, first + Months::new(1) - Days::new(1))
            }
        };
        Period {
            first_day,
            last_day,
        }
    }
}

/// The window of an answer: first and last day, both included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WindowFacts {
    /// First day, included.
    pub from: NaiveDate,
    /// Last day, included.
    pub to: NaiveDate,
    /// Length in days.
    pub days: u16,
    /// IANA name of the reporting zone.
    pub tz: &'static str,
    /// True while the last day is not over: its numbers will still grow.
    pub partial: bool,
}

/// The first instant of a calendar day in a zone.
///
/// Midnight may not exist (a clock put forward at 00:00) or exist twice; then the day begins with the first
/// instant that the zone calls by that date or, for a date the zone skipped, by a later one.
fn start_of_day(day: NaiveDate, tz: Tz) -> DateTime<Utc> {
    /// Offsets of all zones are whole minutes today; transitions lie on quarters of an hour.
    const STEP: TimeDelta = TimeDelta::minutes(15);
    /// Pacific/Apia skipped a whole day in 2011: the longest gap there is.
    const STEPS: usize = 2 * 24 * 4;
    let mut local = day.and_time(chrono::NaiveTime::MIN);
    for _ in 0..STEPS {
        if let Some(instant) = tz.from_local_datetime(&local).earliest() {
            return instant.with_timezone(&Utc);
        }
        local += STEP;
    }
    day.and_time(chrono::NaiveTime::MIN).and_utc()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        parse_day(text).expect("the test names a day")
    }

    fn window(tz: &str, end: &str, days: i64) -> Window {
        WindowRequest {
            days: Some(days),
            end: Some(day(end)),
            tz: Some(tz.into()),
        }
        .resolve(DateTime::UNIX_EPOCH)
        .expect("the test names a window")
    }

    #[test]
    fn a_day_of_23_or_25_hours_is_one_day() {
        for (end, hours) in [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)] {
            let range = window("Europe/Berlin", end, 1).range_us();
            assert_eq!((range.end - range.start) / HOUR_US, hours, "{end}");
        }
    }

    #[test]
    fn a_midnight_that_does_not_exist_begins_later() {
        // Beirut puts its clocks forward at 00:00; Apia had no 2011-12-30 at all.
        let beirut = window("Asia/Beirut", "2022-03-27", 1).range_us();
        assert_eq!((beirut.end - beirut.start) / HOUR_US, 23);
        let apia = window("Pacific/Apia", "2011-12-30", 1).range_us();
        assert_eq!(apia.end, apia.start);
    }

    #[test]
    fn a_window_counts_both_its_ends() {
        let window = window("UTC", "2024-03-01", 2);
        assert_eq!(window.first_day(), day("2024-02-29"));
        assert_eq!(window.range_us().end - window.range_us().start, 2 * DAY_US);
    }

    #[test]
    fn a_wrong_window_names_field_value_and_limit() {
        for (request, code, says) in [
            (
                request(Some(0), None),
                "bad_days",
                "days is 0; allowed is 1 to 365",
            ),
            (request(Some(366), None), "bad_days", "366"),
            (request(Some(-1), None), "bad_days", "-1"),
            (request(None, Some("Mars/Base")), "bad_tz", "Mars/Base"),
        ] {
            match request.resolve(DateTime::UNIX_EPOCH + TimeDelta::days(9000)) {
                Err(Error::BadInput {
                    code: found,
                    message,
                }) => {
                    assert_eq!(found, code);
                    assert!(message.contains(says), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn request(days: Option<i64>, tz: Option<&str>) -> WindowRequest {
        WindowRequest {
            days,
            end: None,
            tz: tz.map(Into::into),
        }
    }

    /// The first days of the cut periods of a window, at an instant.
    fn cut(window: &Window, grain: Grain, now: &str) -> Vec<String> {
        let now = now.parse().expect("the test names an instant");
        let cut = window.cut_periods(grain, now).into_iter();
        cut.map(|day| day.to_string()).collect()
    }

    #[test]
    fn a_period_is_cut_by_the_start_the_end_or_the_present() {
        // 2024-03-01 is a Friday, 2024-03-31 a Sunday.
        let march = window("UTC", "2024-03-31", 31);
        let after = "2024-04-01T00:00:00Z";
        assert_eq!(cut(&march, Grain::Day, after), [""; 0]);
        assert_eq!(cut(&march, Grain::Week, after), ["2024-02-26"]);
        assert_eq!(cut(&march, Grain::Month, after), [""; 0]);
        // A microsecond earlier the last day, week and month are not over.
        let before = "2024-03-31T23:59:59.999999Z";
        assert_eq!(cut(&march, Grain::Day, before), ["2024-03-31"]);
        let weeks = ["2024-02-26", "2024-03-25"];
        assert_eq!(cut(&march, Grain::Week, before), weeks);
        assert_eq!(cut(&march, Grain::Month, before), ["2024-03-01"]);
        // A window inside one period; one that begins with a Monday and ends with a Saturday.
        let inside = window("UTC", "2024-03-14", 3);
        assert_eq!(cut(&inside, Grain::Week, after), ["2024-03-11"]);
        assert_eq!(cut(&inside, Grain::Month, after), ["2024-03-01"]);
        let saturday = window("UTC", "2024-03-16", 13);
        assert_eq!(cut(&saturday, Grain::Week, after), ["2024-03-11"]);
        // Every period that has not ended, where the window ends in the future.
        let future = window("UTC", "2024-04-07", 14);
        let days = cut(&future, Grain::Day, "2024-04-06T12:00:00Z");
        assert_eq!(days, ["2024-04-06", "2024-04-07"]);
        assert_eq!(cut(&future, Grain::Week, after), ["2024-04-01"]);
    }

    #[test]
    fn the_present_is_that_of_the_reporting_zone() {
        // Sunday is over in Auckland and Berlin, and goes on in UTC and New York.
        let now = "2024-03-31T23:00:00Z";
        for (tz, days, weeks) in [
            ("Pacific/Auckland", &[][..], &[][..]),
            ("Europe/Berlin", &[], &[]),
            ("UTC", &["2024-03-31"], &["2024-03-25"]),
            ("America/New_York", &["2024-03-31"], &["2024-03-25"]),
        ] {
            let week = window(tz, "2024-03-31", 7);
            assert_eq!(cut(&week, Grain::Day, now), days, "{tz}");
            assert_eq!(cut(&week, Grain::Week, now), weeks, "{tz}");
        }
    }
}

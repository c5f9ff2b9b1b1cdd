//! Windows of whole days in a reporting time zone.
//!
//! A window of N days is the N calendar days that end with its last day, both included, and
//! half-open in time: `[start of the first day, start of the day after the last)`. A window can be
//! named as a calendar period ([`NamedPeriod`]), and has an earlier window with which it is
//! compared ([`Window::compared`]). Nothing here reads a clock.

use chrono::{
    DateTime, Datelike, Days, Months, NaiveDate, SecondsFormat, TimeDelta, TimeZone, Utc,
};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::error::{Error, ErrorCode, Result, shown};

/// The longest window, in days.
pub const MAX_DAYS: u16 = 365;
/// The window of a request that names none, in days.
pub const DEFAULT_DAYS: u16 = 30;
/// Microseconds of an hour.
pub const HOUR_US: i64 = 3_600 * 1_000_000;
/// Microseconds of a UTC day.
pub const DAY_US: i64 = 24 * HOUR_US;

/// A time to the second as RFC 3339, as responses, files and messages have it.
pub fn utc_string(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A number of calendar days of a reporting zone, up to and including a given day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    last_day: NaiveDate,
    days: u16,
    tz: Tz,
    /// The period that it was named by.
    calendar: Option<NamedPeriod>,
}

/// The part of a request that names a window: `days` and `end`, `from` and `to`, or `period`.
/// Absent fields have the documented defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WindowRequest {
    /// Length in days, 1 to 365; 30 if absent.
    #[param(minimum = 1, maximum = 365)]
    pub days: Option<i64>,
    /// Last day; today in the zone if absent.
    pub end: Option<NaiveDate>,
    /// First day, included; instead of `days`.
    pub from: Option<NaiveDate>,
    /// Last day, included, with `from`; today in the zone if absent.
    pub to: Option<NaiveDate>,
    /// A calendar period of the zone, instead of the other fields of the window.
    #[param(inline)]
    pub period: Option<NamedPeriod>,
    /// IANA zone name; UTC if absent.
    #[param(format = "iana-time-zone")]
    pub tz: Option<String>,
}

impl WindowRequest {
    /// Resolves the request at the time `now`.
    ///
    /// # Errors
    /// `bad_days` for a length outside 1 to 365, `bad_tz` for an unknown zone, `bad_end` for a last
    /// day outside the years 1971 to 9998, and `bad_window` for fields that contradict each other
    /// and for a period of more than 365 days.
    pub fn resolve(&self, now: DateTime<Utc>) -> Result<Window> {
        self.check_fields()?;
        let tz = match &self.tz {
            None => Tz::UTC,
            Some(name) => name.parse().map_err(|_| {
                let name = shown(name);
                Error::bad_input(
                    ErrorCode::BadTz,
                    format!("tz is {name:?}; allowed is an IANA zone such as Europe/Berlin"),
                )
            })?,
        };
        let today = || now.with_timezone(&tz).date_naive();
        if let Some(period) = self.period {
            return period.window(today(), tz);
        }
        let (name, last_day) = match (self.end, self.to) {
            (Some(end), _) => ("end", end),
            (None, to) => ("to", to.unwrap_or_else(today)),
        };
        if !(first_allowed()..=last_allowed()).contains(&last_day) {
            return Err(Error::bad_input(
                ErrorCode::BadEnd,
                format!("{name} is {last_day}; allowed is a day of the years 1971 to 9998"),
            ));
        }
        let days = match self.from {
            Some(from) => (last_day - from).num_days() + 1,
            None => self.days.unwrap_or(i64::from(DEFAULT_DAYS)),
        };
        let allowed = u16::try_from(days).ok();
        let allowed = allowed.filter(|days| (1..=MAX_DAYS).contains(days));
        let days = allowed.ok_or_else(|| match self.from {
            Some(from) => Error::bad_input(
                ErrorCode::BadWindow,
                format!("from {from} to {last_day} are {days} days; allowed is 1 to {MAX_DAYS}"),
            ),
            None => Error::bad_input(
                ErrorCode::BadDays,
                format!("days is {days}; allowed is 1 to {MAX_DAYS}"),
            ),
        })?;
        Ok(Window {
            last_day,
            days,
            tz,
            calendar: None,
        })
    }

    /// Checks that the fields do not contradict each other.
    fn check_fields(&self) -> Result<()> {
        let fields = [
            ("days", self.days.is_some()),
            ("end", self.end.is_some()),
            ("from", self.from.is_some()),
            ("to", self.to.is_some()),
            ("period", self.period.is_some()),
        ];
        let is_counted = self.days.is_some() || self.end.is_some();
        let is_bounded = self.from.is_some() || self.to.is_some();
        let is_mixed =
            is_counted && is_bounded || self.period.is_some() && (is_counted || is_bounded);
        let has_no_start = self.to.is_some() && self.from.is_none();
        if !is_mixed && !has_no_start {
            return Ok(());
        }
        let given: Vec<&str> = fields
            .iter()
            .filter_map(|(name, is_given)| is_given.then_some(*name))
            .collect();
        Err(Error::bad_input(
            ErrorCode::BadWindow,
            format!(
                "the window has {}; allowed is days and end, from and to, or period",
                given.join(", ")
            ),
        ))
    }
}

fn first_allowed() -> NaiveDate {
    NaiveDate::from_ymd_opt(1971, 1, 1).unwrap_or(NaiveDate::MIN)
}

fn last_allowed() -> NaiveDate {
    NaiveDate::from_ymd_opt(9998, 12, 31).unwrap_or(NaiveDate::MAX)
}

/// Parses a day written `YYYY-MM-DD`, the only format that requests may use.
///
/// # Errors
/// A sentence with the value and the allowed format.
pub fn parse_day(string: &str) -> Result<NaiveDate, String> {
    NaiveDate::parse_from_str(string, "%Y-%m-%d")
        .ok()
        .filter(|_| string.len() == 10)
        .ok_or_else(|| format!("{:?} is not a day; allowed is YYYY-MM-DD", shown(string)))
}

/// Parses a day of a request, as [`parse_day`].
///
/// # Errors
/// An error with this code that names the field, the value and what is allowed.
pub fn named_day(field: &str, code: ErrorCode, string: &str) -> Result<NaiveDate> {
    parse_day(string).map_err(|message| Error::bad_input(code, format!("{field}: {message}")))
}

impl Window {
    /// The `days` UTC days up to and including `last_day`.
    pub fn utc(last_day: NaiveDate, days: u16) -> Self {
        Self {
            last_day,
            days,
            tz: Tz::UTC,
            calendar: None,
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

    /// The window as a half-open range of microseconds since 1970, UTC.
    pub fn range_us(&self) -> std::ops::Range<i64> {
        start_of_day(self.first_day(), self.tz).timestamp_micros()
            ..start_of_day(self.last_day + Days::new(1), self.tz).timestamp_micros()
    }

    /// The days as a half-open range of days since 1970-01-01.
    pub fn days_in_epoch(&self) -> std::ops::Range<i32> {
        self.first_day().to_epoch_days()..self.last_day.to_epoch_days() + 1
    }

    /// True if the window includes a day that is not over at `now`.
    pub fn is_partial(&self, now: DateTime<Utc>) -> bool {
        self.range_us().end > now.timestamp_micros()
    }

    /// The calendar periods that overlap the window, in order. The first may begin before the
    /// window, and the last may end after it.
    pub fn periods(&self, grain: Grain) -> Vec<Period> {
        let mut periods = Vec::new();
        let mut period = grain.period_of(self.first_day());
        while period.first_day <= self.last_day {
            let next = grain.period_of(period.last_day + Days::new(1));
            periods.push(std::mem::replace(&mut period, next));
        }
        periods
    }

    /// True if the counts of a period are not those of the complete period: the window begins or
    /// ends inside it, or the period is not over at `now`.
    pub fn cuts(&self, period: &Period, now: DateTime<Utc>) -> bool {
        period.first_day < self.first_day()
            || period.last_day > self.last_day
            || self.is_running(period.last_day, now)
    }

    /// First days of the periods that are incomplete as [`Window::cuts`] says, in order.
    pub fn cut_periods(&self, grain: Grain, now: DateTime<Utc>) -> Vec<NaiveDate> {
        let periods = self.periods(grain).into_iter();
        let cut = periods.filter(|period| self.cuts(period, now));
        cut.map(|period| period.first_day).collect()
    }

    /// The window of other days of the same zone, both included.
    pub fn of_days(&self, first_day: NaiveDate, last_day: NaiveDate) -> Self {
        Self { last_day, ..*self }.starting(first_day)
    }

    /// The window with another first day.
    pub fn starting(&self, first_day: NaiveDate) -> Self {
        let days = (self.last_day - first_day).num_days() + 1;
        Self {
            // `u16::MAX` is more days than a request may ask for, and fewer than the calendar has.
            days: u16::try_from(days).unwrap_or(u16::MAX),
            calendar: None,
            ..*self
        }
    }

    /// The earlier window that this one is compared with.
    ///
    /// `previous`: as many days, up to the day before the first one; for a calendar period the
    /// calendar period before. `year`: the same days a year earlier, as many of them; for a week
    /// the one 52 weeks earlier. Of the period before one that is not over (`this_…`, `today`),
    /// only as many days as the window has, so that equal spans are compared.
    pub fn compared(&self, with: Compare) -> Self {
        let first = self.first_day();
        let unit = self.calendar.map(NamedPeriod::unit);
        let first_day = match (with, unit) {
            (Compare::Previous, None) => first - Days::new(u64::from(self.days)),
            (Compare::Previous, Some(unit)) => unit.period_of(first - Days::new(1)).first_day,
            (Compare::Year, Some(Unit::Week)) => first - Days::new(WEEKS_OF_A_YEAR * 7),
            (Compare::Year, _) => first - Months::new(12),
        };
        let same_days = first_day + Days::new(u64::from(self.days) - 1);
        let last_day = match (self.calendar, unit) {
            (Some(period), Some(unit)) => {
                let end = unit.period_of(first_day).last_day;
                if period.is_over() {
                    end
                } else {
                    end.min(same_days)
                }
            }
            _ => same_days,
        };
        Self { last_day, ..*self }.starting(first_day)
    }

    /// True if a day of the zone is not over at `now`.
    pub fn is_running(&self, day: NaiveDate, now: DateTime<Utc>) -> bool {
        start_of_day(day + Days::new(1), self.tz) > now
    }

    /// The window as every response reports it.
    pub fn describe(&self, now: DateTime<Utc>) -> WindowMeta {
        WindowMeta {
            from: self.first_day(),
            to: self.last_day,
            days: self.days,
            tz: self.tz.name(),
            partial: self.is_partial(now),
        }
    }
}

/// Weeks between a week and the one that it is compared with a year earlier: whole ones, so that
/// weekdays are compared with the same weekdays.
const WEEKS_OF_A_YEAR: u64 = 52;

/// The earlier window that a window is compared with, see [`Window::compared`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// The equal span, or the calendar period, before.
    Previous,
    /// The same days a year earlier.
    Year,
}

/// A calendar period of the reporting zone that is named by its distance from today. The ones with
/// `this` begin with the first day of the period and end today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NamedPeriod {
    /// Today.
    Today,
    /// The day before.
    Yesterday,
    /// The ISO week, from Monday until today.
    ThisWeek,
    /// The ISO week before, all of it.
    LastWeek,
    /// The month until today.
    ThisMonth,
    /// The month before, all of it.
    LastMonth,
    /// The quarter until today; quarters begin in January, April, July and October.
    ThisQuarter,
    /// The quarter before, all of it.
    LastQuarter,
    /// The year until today.
    ThisYear,
    /// The year before, all of it.
    LastYear,
}

impl NamedPeriod {
    /// All of them, from short to long.
    pub const ALL: [Self; 10] = [
        Self::Today,
        Self::Yesterday,
        Self::ThisWeek,
        Self::LastWeek,
        Self::ThisMonth,
        Self::LastMonth,
        Self::ThisQuarter,
        Self::LastQuarter,
        Self::ThisYear,
        Self::LastYear,
    ];

    /// Its name in requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Today => "today",
            Self::Yesterday => "yesterday",
            Self::ThisWeek => "this_week",
            Self::LastWeek => "last_week",
            Self::ThisMonth => "this_month",
            Self::LastMonth => "last_month",
            Self::ThisQuarter => "this_quarter",
            Self::LastQuarter => "last_quarter",
            Self::ThisYear => "this_year",
            Self::LastYear => "last_year",
        }
    }

    fn unit(self) -> Unit {
        match self {
            Self::Today | Self::Yesterday => Unit::Day,
            Self::ThisWeek | Self::LastWeek => Unit::Week,
            Self::ThisMonth | Self::LastMonth => Unit::Month,
            Self::ThisQuarter | Self::LastQuarter => Unit::Quarter,
            Self::ThisYear | Self::LastYear => Unit::Year,
        }
    }

    /// True if it ended before today.
    fn is_over(self) -> bool {
        match self {
            Self::Yesterday
            | Self::LastWeek
            | Self::LastMonth
            | Self::LastQuarter
            | Self::LastYear => true,
            Self::Today | Self::ThisWeek | Self::ThisMonth | Self::ThisQuarter | Self::ThisYear => {
                false
            }
        }
    }

    /// Its days as a window.
    fn window(self, today: NaiveDate, tz: Tz) -> Result<Window> {
        let current = self.unit().period_of(today);
        let (first_day, last_day) = if self.is_over() {
            let before = self.unit().period_of(current.first_day - Days::new(1));
            (before.first_day, before.last_day)
        } else {
            (current.first_day, today)
        };
        let days = (last_day - first_day).num_days() + 1;
        let allowed = u16::try_from(days).ok().filter(|days| *days <= MAX_DAYS);
        let days = allowed.ok_or_else(|| {
            let name = self.name();
            Error::bad_input(
                ErrorCode::BadWindow,
                format!(
                    "period {name} is {first_day} to {last_day}, {days} days; allowed are \
                     {MAX_DAYS}: use from and to for a part of it"
                ),
            )
        })?;
        Ok(Window {
            last_day,
            days,
            tz,
            calendar: Some(self),
        })
    }
}

/// Parses a named period of a request.
///
/// # Errors
/// A sentence with the value and the allowed names.
pub fn parse_period(string: &str) -> Result<NamedPeriod, String> {
    let found = NamedPeriod::ALL
        .into_iter()
        .find(|period| period.name() == string);
    found.ok_or_else(|| {
        let allowed = NamedPeriod::ALL.map(NamedPeriod::name).join(", ");
        format!("period is {:?}; allowed are {allowed}", shown(string))
    })
}

/// The kind of calendar period that a window can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

impl Unit {
    /// The period that contains a day.
    fn period_of(self, day: NaiveDate) -> Period {
        let months = |first_month0: u32, months: u32| {
            let first_of_month = day - Days::new(u64::from(day.day0()));
            let first_day = first_of_month - Months::new(day.month0() - first_month0);
            Period {
                first_day,
                last_day: first_day + Months::new(months) - Days::new(1),
            }
        };
        match self {
            Self::Day => Grain::Day.period_of(day),
            Self::Week => Grain::Week.period_of(day),
            Self::Month => Grain::Month.period_of(day),
            Self::Quarter => months(day.month0() / 3 * 3, 3),
            Self::Year => months(0, 12),
        }
    }
}

/// The length of a calendar period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// The period that contains a day.
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

/// The window of a response: first and last day, both included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct WindowMeta {
    /// First day, included.
    pub from: NaiveDate,
    /// Last day, included.
    pub to: NaiveDate,
    /// Length in days.
    pub days: u16,
    /// IANA name of the reporting zone.
    pub tz: &'static str,
    /// True while the last day is not over: its counts can still grow.
    pub partial: bool,
}

/// The first day of a zone that begins at or after the start of a UTC day.
pub fn first_day_from(utc_day: NaiveDate, tz: Tz) -> NaiveDate {
    let from = utc_day.and_time(chrono::NaiveTime::MIN).and_utc();
    let mut day = utc_day - Days::new(1);
    while start_of_day(day, tz) < from {
        day = day + Days::new(1);
    }
    day
}

/// A day of a zone as a half-open range of microseconds since 1970, UTC.
pub fn day_us(day: NaiveDate, tz: Tz) -> std::ops::Range<i64> {
    let start_us = |day| start_of_day(day, tz).timestamp_micros();
    start_us(day)..start_us(day + Days::new(1))
}

/// The days of UTC that a day of a zone overlaps, as days since 1970-01-01.
pub fn utc_days_of(day: NaiveDate, tz: Tz) -> std::ops::Range<i32> {
    let start = start_of_day(day, tz);
    let last = start_of_day(day + Days::new(1), tz) - TimeDelta::microseconds(1);
    start.date_naive().to_epoch_days()..last.date_naive().to_epoch_days() + 1
}

/// The time at which a calendar day begins in a zone.
///
/// Midnight may not exist (a clock put forward at 00:00) or exist twice; then the day begins with
/// its first moment that exists or, for a date that the zone skipped, with that of a later date.
fn start_of_day(day: NaiveDate, tz: Tz) -> DateTime<Utc> {
    /// The clock changes of all zones are at full quarters of an hour.
    const STEP: TimeDelta = TimeDelta::minutes(15);
    /// The longest gap is a skipped day, such as that of Pacific/Apia in 2011.
    const STEPS: usize = 2 * 24 * 4;
    let mut local = day.and_time(chrono::NaiveTime::MIN);
    for _ in 0..STEPS {
        if let Some(start) = tz.from_local_datetime(&local).earliest() {
            return start.with_timezone(&Utc);
        }
        local += STEP;
    }
    day.and_time(chrono::NaiveTime::MIN).and_utc()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(string: &str) -> NaiveDate {
        parse_day(string).expect("the test names a day")
    }

    fn window(tz: &str, end: &str, days: i64) -> Window {
        WindowRequest {
            days: Some(days),
            end: Some(day(end)),
            tz: Some(tz.into()),
            ..WindowRequest::default()
        }
        .resolve(DateTime::UNIX_EPOCH)
        .expect("the test names a window")
    }

    #[test]
    fn a_day_has_four_two_and_two_digits() {
        assert!(parse_day("2026-11-05").is_ok());
        for wrong in ["", "2026-11-5", "2026-11-31", "26-11-05", "2026-11-05 "] {
            assert!(parse_day(wrong).is_err(), "{wrong:?}");
        }
        let long = parse_day(&"ä".repeat(1_000)).map_err(|message| message.chars().count());
        assert!(long.is_err_and(|length| length < 110), "values are cut");
    }

    #[test]
    fn a_request_without_fields_is_30_days_of_utc_until_today() {
        let now = day("2026-11-26").and_time(chrono::NaiveTime::MIN).and_utc();
        let window = WindowRequest::default().resolve(now).expect("defaults");
        assert_eq!(window, Window::utc(day("2026-11-26"), 30));
        let west = WindowRequest {
            tz: Some("America/New_York".into()),
            ..WindowRequest::default()
        };
        let west = west.resolve(now).expect("a zone");
        assert_eq!(west.last_day(), day("2026-11-25"), "today in the zone");
        for end in ["1970-12-31", "9999-01-01"] {
            let request = WindowRequest {
                end: Some(day(end)),
                ..WindowRequest::default()
            };
            let found = request.resolve(now);
            assert!(
                matches!(
                    found,
                    Err(Error::BadInput {
                        code: ErrorCode::BadEnd,
                        ..
                    })
                ),
                "{end}"
            );
        }
    }

    #[test]
    fn the_first_day_of_a_zone_begins_after_the_start_of_a_utc_day() {
        let from = day("2026-11-25");
        for (tz, first) in [
            (Tz::UTC, "2026-11-25"),
            // Begins at 05:00 UTC, and the day before at 23:00 UTC of the day before that.
            (Tz::America__New_York, "2026-11-25"),
            (Tz::Europe__Berlin, "2026-11-26"),
            (Tz::Pacific__Kiritimati, "2026-11-26"),
        ] {
            assert_eq!(first_day_from(from, tz), day(first), "{tz}");
        }
    }

    #[test]
    fn a_day_of_a_zone_overlaps_the_days_of_utc_that_it_begins_and_ends_in() {
        let first = day("2026-11-25").to_epoch_days();
        for (tz, days) in [
            (Tz::UTC, first..first + 1),
            (Tz::Africa__Abidjan, first..first + 1),
            (Tz::America__New_York, first..first + 2),
            (Tz::Asia__Kathmandu, first - 1..first + 1),
        ] {
            assert_eq!(utc_days_of(day("2026-11-25"), tz), days, "{tz}");
        }
        // 23 and 25 hours, and a day that the zone skipped.
        let berlin = |date| utc_days_of(day(date), Tz::Europe__Berlin).len();
        assert_eq!((berlin("2026-03-29"), berlin("2026-10-25")), (2, 2));
        let apia = day_us(day("2011-12-30"), Tz::Pacific__Apia);
        assert_eq!(apia.start, apia.end);
    }

    #[test]
    fn periods_are_those_of_the_calendar() {
        // 2024-02-29 is a Thursday.
        for (grain, first, last) in [
            (Grain::Day, "2024-02-29", "2024-02-29"),
            (Grain::Week, "2024-02-26", "2024-03-03"),
            (Grain::Month, "2024-02-01", "2024-02-29"),
        ] {
            let period = grain.period_of(day("2024-02-29"));
            assert_eq!((period.first_day, period.last_day), (day(first), day(last)));
        }
        let window = window("UTC", "2024-03-01", 2).starting(day("2024-01-31"));
        assert_eq!((window.days(), window.last_day()), (31, day("2024-03-01")));
        let months = window.periods(Grain::Month);
        let months: Vec<NaiveDate> = months.iter().map(|month| month.first_day).collect();
        assert_eq!(months, ["2024-01-01", "2024-02-01", "2024-03-01"].map(day));
    }

    #[test]
    fn a_day_of_23_or_25_hours_is_one_day() {
        for (end, hours) in [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)] {
            let range = window("Europe/Berlin", end, 1).range_us();
            assert_eq!((range.end - range.start) / HOUR_US, hours, "{end}");
        }
    }

    #[test]
    fn a_day_without_a_midnight_begins_later() {
        // Beirut puts its clocks forward at 00:00; Apia had no 2011-12-30 at all.
        let beirut = window("Asia/Beirut", "2022-03-27", 1).range_us();
        assert_eq!((beirut.end - beirut.start) / HOUR_US, 23);
        let apia = window("Pacific/Apia", "2011-12-30", 1).range_us();
        assert_eq!(apia.end, apia.start);
    }

    #[test]
    fn a_window_includes_its_first_and_last_day() {
        let window = window("UTC", "2024-03-01", 2);
        assert_eq!(window.first_day(), day("2024-02-29"));
        assert_eq!(window.range_us().end - window.range_us().start, 2 * DAY_US);
    }

    #[test]
    fn errors_of_a_window_name_field_value_and_limit() {
        for (request, code, says) in [
            (
                request(Some(0), None),
                ErrorCode::BadDays,
                "days is 0; allowed is 1 to 365",
            ),
            (request(Some(366), None), ErrorCode::BadDays, "366"),
            (request(Some(-1), None), ErrorCode::BadDays, "-1"),
            (
                request(None, Some("Mars/Base")),
                ErrorCode::BadTz,
                "Mars/Base",
            ),
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
            tz: tz.map(Into::into),
            ..WindowRequest::default()
        }
    }

    #[test]
    fn from_and_to_are_the_first_and_the_last_day() {
        let request = |from: Option<&str>, to: Option<&str>| WindowRequest {
            from: from.map(day),
            to: to.map(day),
            ..WindowRequest::default()
        };
        let now = "2024-03-03T12:00:00Z".parse().expect("a time");
        for (from, to, days) in [
            ("2024-02-28", Some("2024-03-01"), 3),
            ("2024-03-01", Some("2024-03-01"), 1),
            ("2024-03-01", None, 3),
            ("2023-03-05", None, 365),
        ] {
            let window = request(Some(from), to).resolve(now).expect(from);
            assert_eq!((window.first_day(), window.days()), (day(from), days));
        }
        let both = |days, end| WindowRequest {
            days,
            end,
            ..request(Some("2024-03-01"), Some("2024-03-02"))
        };
        for (wrong, says) in [
            (request(None, Some("2024-03-01")), "the window has to;"),
            (both(Some(2), None), "days, from, to"),
            (both(None, Some(day("2024-03-02"))), "end, from, to"),
            (request(Some("2024-03-02"), Some("2024-03-01")), "0 days"),
            (request(Some("2023-03-04"), None), "366 days"),
        ] {
            match wrong.resolve(now) {
                Err(Error::BadInput { code, message }) => {
                    assert_eq!(code, ErrorCode::BadWindow);
                    assert!(message.contains(says), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_named_period_is_one_of_the_calendar_of_the_zone() {
        // A Saturday in UTC, and a Sunday in Auckland, where the month has begun.
        let now = "2024-03-30T18:00:00Z".parse().expect("a time");
        let request = |period, tz: &str| WindowRequest {
            period: Some(period),
            tz: Some(tz.into()),
            ..WindowRequest::default()
        };
        for (period, from, to, previous, year) in [
            (
                NamedPeriod::Today,
                "03-30",
                "03-30",
                "2024-03-29 1",
                "2023-03-30 1",
            ),
            (
                NamedPeriod::Yesterday,
                "03-29",
                "03-29",
                "2024-03-28 1",
                "2023-03-29 1",
            ),
            // Monday to Saturday, compared with the same weekdays.
            (
                NamedPeriod::ThisWeek,
                "03-25",
                "03-30",
                "2024-03-18 6",
                "2023-03-27 6",
            ),
            (
                NamedPeriod::LastWeek,
                "03-18",
                "03-24",
                "2024-03-11 7",
                "2023-03-20 7",
            ),
            // February has only 29 days for the 30 of March.
            (
                NamedPeriod::ThisMonth,
                "03-01",
                "03-30",
                "2024-02-01 29",
                "2023-03-01 30",
            ),
            (
                NamedPeriod::LastMonth,
                "02-01",
                "02-29",
                "2024-01-01 31",
                "2023-02-01 28",
            ),
            (
                NamedPeriod::ThisQuarter,
                "01-01",
                "03-30",
                "2023-10-01 90",
                "2023-01-01 90",
            ),
            (
                NamedPeriod::ThisYear,
                "01-01",
                "03-30",
                "2023-01-01 90",
                "2023-01-01 90",
            ),
        ] {
            let window = request(period, "UTC").resolve(now).expect("a window");
            let days = [from, to].map(|of_year| day(&format!("2024-{of_year}")));
            assert_eq!([window.first_day(), window.last_day()], days, "{period:?}");
            let compared = [Compare::Previous, Compare::Year].map(|with| {
                let earlier = window.compared(with);
                format!("{} {}", earlier.first_day(), earlier.days())
            });
            assert_eq!(compared, [previous, year], "{period:?}");
            assert_eq!(parse_period(period.name()), Ok(period));
        }
        let of = |period, tz| request(period, tz).resolve(now).expect("a window");
        let quarter = of(NamedPeriod::LastQuarter, "UTC");
        assert_eq!(
            (quarter.first_day(), quarter.days()),
            (day("2023-10-01"), 92)
        );
        let before = quarter.compared(Compare::Previous);
        assert_eq!((before.first_day(), before.days()), (day("2023-07-01"), 92));
        let last_year = of(NamedPeriod::LastYear, "UTC");
        assert_eq!(
            (last_year.first_day(), last_year.days()),
            (day("2023-01-01"), 365)
        );
        let today = of(NamedPeriod::Today, "Pacific/Auckland");
        assert_eq!(today.last_day(), day("2024-03-31"));
        assert!(today.compared(Compare::Year).tz() == today.tz());
    }

    #[test]
    fn a_window_of_days_is_compared_with_as_many_days_before() {
        let march = window("UTC", "2024-03-30", 30);
        for (with, from, to) in [
            (Compare::Previous, "2024-01-31", "2024-02-29"),
            (Compare::Year, "2023-03-01", "2023-03-30"),
        ] {
            let earlier = march.compared(with);
            assert_eq!(
                (earlier.first_day(), earlier.last_day()),
                (day(from), day(to))
            );
        }
        // The days before those of the comparison are again the ones before, not a calendar period.
        let month = WindowRequest {
            period: Some(NamedPeriod::LastMonth),
            ..WindowRequest::default()
        };
        let now = "2024-03-30T18:00:00Z".parse().expect("a time");
        let month = month.resolve(now).expect("a window");
        let january = month.compared(Compare::Previous);
        assert_eq!(
            january.compared(Compare::Previous).first_day(),
            day("2023-12-01")
        );
    }

    #[test]
    fn a_period_is_known_alone_and_at_most_365_days() {
        let leap = "2024-12-31T12:00:00Z".parse().expect("a time");
        let after = "2025-01-01T12:00:00Z".parse().expect("a time");
        let request = |period| WindowRequest {
            period: Some(period),
            ..WindowRequest::default()
        };
        let mixed = WindowRequest {
            days: Some(3),
            ..request(NamedPeriod::Today)
        };
        for (request, now, says) in [
            (mixed, leap, "days, period; allowed"),
            (request(NamedPeriod::ThisYear), leap, "2024-12-31, 366 days"),
            (request(NamedPeriod::LastYear), after, "366 days"),
        ] {
            match request.resolve(now) {
                Err(Error::BadInput { code, message }) => {
                    assert_eq!(code, ErrorCode::BadWindow);
                    assert!(message.contains(says), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
        let wrong = parse_period("last_decade").expect_err("unknown");
        assert!(
            wrong.contains("last_decade") && wrong.contains("last_quarter"),
            "{wrong}"
        );
    }

    /// The first days of the incomplete periods of a window at the time `now`.
    fn cut(window: &Window, grain: Grain, now: &str) -> Vec<String> {
        let now = now.parse().expect("the test names a time");
        let cut = window.cut_periods(grain, now).into_iter();
        cut.map(|day| day.to_string()).collect()
    }

    #[test]
    fn a_period_is_incomplete_by_the_start_or_end_of_the_window_or_the_time() {
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
    fn a_day_ends_when_it_ends_in_the_reporting_zone() {
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

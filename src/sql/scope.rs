//! The events of a query: those of its window that meet its filter, with their day and period in
//! the reporting zone. Every SQL begins with it, as `scoped`.
//!
//! Periods are numbered: `period_num` is 0 in the first period of the window and 7 more in each
//! later one, whatever their length. It is negative before the window. Weeks need no division then.
//! Of an hour it is the time of its start, in µs.

use std::ops::RangeInclusive;

use chrono::{DateTime, Days, NaiveDate, Offset, TimeZone, Utc};
use chrono_tz::Tz;

use super::{Value, Writer, condition, not_portable};
use crate::error::Result;
use crate::metrics::filter::Filter;
use crate::metrics::trends::TrendGrain;
use crate::window::{self, DAY_US, Grain, HOUR_US, Window};

/// The distance of the numbers of two periods: that of two weeks in days.
pub const STEP: i64 = 7;
/// The clock changes of all zones are at full quarters of an hour.
const QUARTER_US: i64 = 15 * 60 * 1_000_000;
/// Days before the window in which clock changes are known: those of two months and more. The day
/// of an earlier event matters only where more days are read.
const DAYS_BEFORE: u64 = 70;

/// The days before the window that a SQL reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// None.
    None,
    /// So many.
    Days(u64),
    /// All of them. An event before the first period is in one of a negative number.
    All,
    /// All of them. An event before the window is in a period of a negative number, also if the
    /// first period begins before the window.
    AllApart,
}

/// First and last UTC day that are read; no first day if all are.
pub type ReadDays = (Option<NaiveDate>, NaiveDate);

/// The days of two reads together.
pub fn all_days(one: ReadDays, other: ReadDays) -> ReadDays {
    (
        one.0.zip(other.0).map(|(a, b)| a.min(b)),
        one.1.max(other.1),
    )
}

/// The columns and events of `scoped`.
#[derive(Clone)]
pub struct Scope {
    /// The start of the names of its parameters and expressions.
    pub prefix: String,
    /// Columns of the view that the SQL reads, next to the user and the time.
    pub columns: Vec<&'static str>,
    /// Computed columns: their names and expressions over the columns of the view.
    pub computed: Vec<(String, String)>,
    /// The length of a period, if the SQL reads `period_num`.
    pub grain: Option<TrendGrain>,
    /// Further conditions on events.
    pub conditions: Vec<String>,
    /// The time from which on no event is read, if that is before the end of the window.
    pub end_us: Option<i64>,
    /// The days before the window.
    pub before: Before,
    /// The days that are read.
    pub days: ReadDays,
}

impl Scope {
    /// The events of a window alone.
    pub fn new(window: &Window, columns: &[&'static str]) -> Self {
        Self {
            prefix: String::new(),
            columns: columns.to_vec(),
            computed: Vec::new(),
            grain: None,
            conditions: Vec::new(),
            end_us: None,
            before: Before::None,
            days: (Some(window.first_day()), window.last_day()),
        }
    }

    /// Adds a computed column.
    pub fn compute(&mut self, name: impl Into<String>, expression: String) {
        self.computed.push((name.into(), expression));
    }

    /// The conditions of its days, times and filter, and those of its own.
    ///
    /// # Errors
    /// `not_portable` for a filter.
    pub fn where_clause(
        &mut self,
        filter: &Filter,
        window: &Window,
        writer: &mut Writer,
    ) -> Result<String> {
        let first = match self.before {
            Before::None => Some(window.first_day()),
            Before::Days(days) => Some(window.first_day() - Days::new(days)),
            Before::All | Before::AllApart => None,
        };
        let tz = window.tz();
        let utc = |day: NaiveDate| window::utc_days_of(day, tz);
        let last_day = NaiveDate::from_epoch_days(utc(window.last_day()).end - 1);
        let first_day = first.and_then(|day| NaiveDate::from_epoch_days(utc(day).start));
        self.days = (first_day, last_day.unwrap_or(window.last_day()));
        let name = |name: &str| format!("{}{name}", self.prefix);
        let last = writer.bind(&name("last_day"), Value::Date(self.days.1));
        let mut conditions = vec![match first_day {
            Some(first) => {
                let first = writer.bind(&name("first_day"), Value::Date(first));
                format!("day between {first} and {last}")
            }
            None => format!("day <= {last}"),
        }];
        if let Some(first) = first.filter(|_| tz != Tz::UTC) {
            let start = writer.number(&name("start_us"), window::day_us(first, tz).start);
            conditions.push(format!("ts_us >= {start}"));
        }
        let end = window.range_us().end;
        let end = self.end_us.map_or(end, |cut| cut.min(end));
        if tz != Tz::UTC || self.end_us.is_some() {
            conditions.push(format!("ts_us < {}", writer.number(&name("end_us"), end)));
        }
        conditions.extend(condition::of_filter(filter, writer)?);
        conditions.extend(self.conditions.iter().cloned());
        Ok(conditions.join("\n  and "))
    }

    /// The common table expressions up to `scoped`.
    ///
    /// # Errors
    /// `not_portable` for a filter, for a zone whose clock repeats a midnight, or for hours that
    /// a change of the clock cuts.
    pub fn write(
        &mut self,
        filter: &Filter,
        window: &Window,
        writer: &mut Writer,
    ) -> Result<Vec<(String, String)>> {
        let tz = window.tz();
        let conditions = self.where_clause(filter, window, writer)?;
        let from = format!("from events\nwhere {conditions}");
        let mut columns = vec!["user_id".to_owned(), "ts_us".to_owned()];
        columns.extend(self.columns.iter().map(|&name| name.to_owned()));
        let computed = self.computed.iter();
        let mut known = columns.clone();
        known.extend(computed.clone().map(|(name, _)| name.clone()));
        columns.extend(computed.map(|(name, of)| format!("{of} as {name}")));
        let mut expressions = Vec::new();
        let named = |name: &str| format!("{}{name}", self.prefix);
        let (source, day, monday) = if tz == Tz::UTC {
            (None, "day_num", "week_num")
        } else {
            let before = match self.before {
                Before::Days(days) => days.max(DAYS_BEFORE),
                _ => DAYS_BEFORE,
            };
            let changes = clock_changes(window, before)?;
            let offset = offset_case(&changes);
            columns.extend([
                "day_num as utc_num".into(),
                "week_num as utc_week".into(),
                format!("ts_us + {offset} as local_us"),
            ]);
            expressions.push((named("zoned"), select(&columns, &from)));
            if self.grain == Some(TrendGrain::Hour) {
                known.push("local_us".into());
                check_hours(&changes, tz)?;
            }
            columns.clone_from(&known);
            columns.extend(["utc_week".into(), local_day()]);
            let from = format!("from {}", named("zoned"));
            expressions.push((named("local"), select(&columns, &from)));
            columns.clone_from(&known);
            columns.push("local_num".into());
            columns.push(local_monday());
            let from = format!("from {}", named("local"));
            expressions.push((named("dated"), select(&columns, &from)));
            columns = known;
            (Some(named("dated")), "local_num", "local_week")
        };
        columns.push(match day {
            "day_num" => day.to_owned(),
            local => format!("{local} as day_num"),
        });
        if let Some(grain) = self.grain {
            let period = self.period(grain, window, (day, monday), writer);
            columns.push(format!("{period} as period_num"));
        }
        let from = source.map_or(from, |source| format!("from {source}"));
        expressions.push((named("scoped"), select(&columns, &from)));
        Ok(expressions)
    }

    /// The number of the period of an event.
    fn period(
        &self,
        grain: TrendGrain,
        window: &Window,
        (day, monday): (&str, &str),
        writer: &mut Writer,
    ) -> String {
        let num = |day: NaiveDate| i64::from(day.to_epoch_days());
        let first = num(window.first_day());
        let name = |name: &str| format!("{}{name}", self.prefix);
        let period = match grain.calendar() {
            None if window.tz() == Tz::UTC => format!("ts_us - mod(ts_us, {HOUR_US})"),
            None => format!("ts_us - mod(local_us, {HOUR_US})"),
            Some(Grain::Day) => {
                let first = writer.number(&name("from_num"), first);
                format!("7 * ({day} - {first})")
            }
            Some(Grain::Week) => {
                let first = num(Grain::Week.period_of(window.first_day()).first_day);
                format!("{monday} - {}", writer.number(&name("from_week"), first))
            }
            Some(Grain::Month) => self.month(window, day),
        };
        match self.before {
            Before::AllApart => {
                let first = writer.number(&name("from_num"), first);
                format!("case when {day} < {first} then -7 else {period} end")
            }
            _ => period,
        }
    }

    /// The number of the month of a day: of each month of the window, of those before it that are
    /// read, at least one, and of all time before these.
    fn month(&self, window: &Window, day: &str) -> String {
        let mut starts: Vec<NaiveDate> = Vec::new();
        let mut start = Grain::Month.period_of(window.first_day()).first_day;
        let earliest = match self.before {
            Before::Days(days) => window.first_day() - Days::new(days),
            _ => start,
        };
        loop {
            start = Grain::Month.period_of(start - Days::new(1)).first_day;
            starts.push(start);
            if start <= earliest {
                break;
            }
        }
        starts.reverse();
        let mut place = -STEP * (starts.len() as i64 + 1);
        let periods = window.periods(Grain::Month).into_iter();
        starts.extend(periods.map(|period| period.first_day));
        let mut cases = String::from("case");
        for start in starts {
            cases += &format!(" when {day} < {} then {place}", start.to_epoch_days());
            place += STEP;
        }
        format!("{cases} else {place} end")
    }
}

/// Checks that every hour begins at a full hour of the clock, whose change would cut it else.
fn check_hours(changes: &[(i64, i64)], tz: Tz) -> Result<()> {
    let is_full = |(at, offset): &(i64, i64)| (at + offset).rem_euclid(HOUR_US) == 0;
    let mut later = changes.iter().skip(1);
    match later.all(is_full) {
        true => Ok(()),
        false => Err(not_portable(&format!(
            "grain \"hour\" in tz {tz}: its clock changes within an hour"
        ))),
    }
}

/// Numbers of the periods of a window, and that of the last one.
pub fn last_period(window: &Window, grain: Grain) -> i64 {
    let periods = window.periods(grain).len() as i64;
    STEP * (periods - 1)
}

fn select(columns: &[String], from: &str) -> String {
    format!("select\n  {}\n{from}", columns.join(",\n  "))
}

/// The day of the local time: that of UTC, or one of its neighbours.
fn local_day() -> String {
    format!(
        "case when local_us < {DAY_US} * utc_num then utc_num - 1 when local_us >= {DAY_US} * (utc_num + 1) then utc_num + 1 \
         else utc_num end as local_num"
    )
}

/// The Monday of the local day.
fn local_monday() -> String {
    "case when local_num < utc_week then utc_week - 7 when local_num > utc_week + 6 then utc_week + 7 else utc_week end as \
     local_week"
        .into()
}

/// The offsets from UTC of a zone in some time, each with the time from which on it holds, in µs.
fn clock_changes(window: &Window, days_before: u64) -> Result<Vec<(i64, i64)>> {
    let tz = window.tz();
    let first = window.first_day() - Days::new(days_before);
    let days = first..=window.last_day();
    let span = window::day_us(first, tz).start..window::day_us(window.last_day(), tz).end;
    let mut changes: Vec<(i64, i64)> = Vec::new();
    let mut at = span.start;
    while at < span.end {
        let offset = offset_us(at, tz);
        if changes.last().is_none_or(|(_, last)| *last != offset) {
            changes.push((at, offset));
        }
        at += QUARTER_US;
    }
    check_days(&days, &changes, tz)?;
    Ok(changes)
}

/// Checks that the date of the local time is the day of the zone: it is not where a clock that is
/// put back shows the end of a day again.
fn check_days(days: &RangeInclusive<NaiveDate>, changes: &[(i64, i64)], tz: Tz) -> Result<()> {
    let date = |at: i64| {
        let change = changes.iter().rev().find(|(from, _)| *from <= at);
        let (_, offset) = change.or(changes.first()).copied().unwrap_or_default();
        (at + offset).div_euclid(DAY_US)
    };
    let mut day = *days.start();
    while day <= *days.end() {
        let us = window::day_us(day, tz);
        let num = i64::from(day.to_epoch_days());
        let is_same = |at: i64| date(at) == num;
        let mut inside = changes
            .iter()
            .map(|(from, _)| *from)
            .filter(|at| us.contains(at));
        let is_whole = us.is_empty()
            || (is_same(us.start)
                && is_same(us.end - 1)
                && inside.all(|at| is_same(at) && is_same((at - 1).max(us.start))));
        if !is_whole {
            return Err(not_portable(&format!(
                "tz {tz}: on {day} its clock shows the end of a day twice"
            )));
        }
        day = day + Days::new(1);
    }
    Ok(())
}

fn offset_us(at: i64, tz: Tz) -> i64 {
    let time = DateTime::<Utc>::from_timestamp_micros(at).unwrap_or_default();
    let offset = tz.offset_from_utc_datetime(&time.naive_utc()).fix();
    i64::from(offset.local_minus_utc()) * 1_000_000
}

fn offset_case(changes: &[(i64, i64)]) -> String {
    let Some(((_, first), later)) = changes.split_first() else {
        return "0".into();
    };
    let mut offset = *first;
    let mut cases = String::new();
    for (from, next) in later {
        cases += &format!(" when ts_us < {from} then {offset}");
        offset = *next;
    }
    match cases.as_str() {
        "" => offset.to_string(),
        cases => format!("case{cases} else {offset} end"),
    }
}

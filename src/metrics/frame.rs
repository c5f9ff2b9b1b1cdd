//! Events in a frame as the data of a metric, for unit tests.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, NaiveDate, Utc};
use polars::prelude::*;
use roaring::RoaringBitmap;
use serde_json::{Value, json};

use super::active_days::ActiveDays;
use super::budget::{Budget, QueryMemory};
use super::counts::{Counts, Key};
use super::filter::{Filter, Property};
use super::query::Query;
use super::source::{
    Columns, DayEvents, DayReader, DaySink, Kept, Plan, Scan, Sink, Source, Wanted, Work,
};
use super::{scan, usage};
use crate::columns::{ANONYMOUS, InMemory, List, Projection, Table, Writer};
use crate::daily::{Activities, Day, day_of};
use crate::dictionary::Dictionaries;
use crate::error::{Error, Result};
use crate::schema;
use crate::window::{DAY_US, Window};

/// The events of a test: time, type, user and feature, where an empty string is null.
pub type Row<'a> = (&'a str, &'a str, &'a str, &'a str);

/// Users and features that begin with it get no code, as if they were beyond the limits of their
/// day.
const NO_CODE: char = '?';

/// Memory of a query whose test says nothing else.
const BUDGET_BYTES: u64 = 1 << 30;

/// Events in a frame.
pub struct FrameSource {
    events: DataFrame,
    /// Rows of a batch.
    pub batch_rows: usize,
    window: Window,
    filter: Filter,
    /// The users that the query is limited to.
    pub cohort: Option<RoaringBitmap>,
    names: Dictionaries,
    /// True if metrics read events from tables where they can.
    pub has_tables: bool,
    budget: Budget,
    /// Checks for cancellation that succeed before one fails.
    pub checks_left: AtomicUsize,
}

/// A time of a test, such as `2024-03-01 10:00`.
pub fn time(string: &str) -> DateTime<Utc> {
    let string = format!("{}:00Z", string.replace(' ', "T"));
    string.parse().expect("the test names a time")
}

impl FrameSource {
    /// The events of a window of UTC, each with metadata (an empty string is null).
    pub fn with_metadata(last_day: &str, days: u16, rows: &[(Row<'_>, &str)]) -> Self {
        let names = Dictionaries::new().expect("a dictionary");
        let column = |name: &'static str, value: &dyn Fn(&(Row<'_>, &str)) -> Option<String>| {
            Column::new(name.into(), rows.iter().map(value).collect::<Vec<_>>())
        };
        let present = |string: &str| (!string.is_empty()).then(|| string.to_owned());
        let times = rows.iter().map(|row| time(row.0.0).timestamp_micros());
        let events = DataFrame::new(
            rows.len(),
            vec![
                schema::timestamps(schema::TS, times.collect()),
                column(schema::EVENT_TYPE, &|row| present(row.0.1)),
                column(schema::USER_ID, &|row| present(row.0.2)),
                column(schema::FEATURE, &|row| present(row.0.3)),
                column(schema::METADATA, &|row| present(row.1)),
                column(schema::URL, &|_| None),
                column(schema::EVENT_ID, &|_| None),
                schema::timestamps(
                    schema::RECEIVED_AT,
                    rows.iter()
                        .map(|row| time(row.0.0).timestamp_micros())
                        .collect(),
                ),
            ],
        );
        for (row, _) in rows {
            let has_code = |string: &str| !string.is_empty() && !string.starts_with(NO_CODE);
            if has_code(row.2) {
                names.users.number(row.2).expect("a code");
            }
            if has_code(row.3) {
                names.features.number(row.3).expect("a code");
            }
        }
        let last_day: NaiveDate = last_day.parse().expect("the test names a day");
        Self {
            events: events.expect("columns of equal height"),
            batch_rows: usize::MAX,
            window: Window::utc(last_day, days),
            filter: Filter::default(),
            cohort: None,
            names,
            has_tables: false,
            budget: QueryMemory::new(BUDGET_BYTES).budget(),
            checks_left: AtomicUsize::new(usize::MAX),
        }
    }

    /// The events of a window of UTC.
    pub fn new(last_day: &str, days: u16, rows: &[Row<'_>]) -> Self {
        let rows: Vec<_> = rows.iter().map(|&row| (row, "")).collect();
        Self::with_metadata(last_day, days, &rows)
    }

    /// The result of a query, whose filter applies, at a time: the same from events and from
    /// tables.
    pub fn query(&mut self, query: Value, now: &str) -> Result<super::Answer> {
        let parsed = Query::parse(query.to_string().as_bytes())?;
        let Query { metric, filter, .. } = parsed;
        self.filter = filter;
        self.has_tables = false;
        let answer = metric.run(self, time(now))?;
        self.has_tables = true;
        let from_tables = metric.run(self, time(now))?;
        let json = |answer: &super::Answer| json!([answer.rows, answer.notes]);
        assert_eq!(json(&from_tables), json(&answer), "{query}");
        Ok(answer)
    }

    /// Tables of the days in a range of which every user has a code, and the days.
    fn tables(&self, days: &Range<Day>, wanted: &Projection) -> Result<(Vec<Table>, Vec<Day>)> {
        let user = self
            .names
            .users
            .numbers(col(schema::USER_ID), Some(ANONYMOUS));
        let events = self.events.clone().lazy();
        let is_anonymous = col(schema::USER_ID).is_null().alias("anonymous");
        let day = (col(schema::TS).to_physical() / lit(DAY_US)).cast(DataType::Int32);
        let events = events.with_columns([is_anonymous, day.alias("day"), user]);
        let order = [col(schema::USER_ID), col(schema::TS)];
        let options = SortMultipleOptions::default().with_maintain_order(true);
        let events = events.sort_by_exprs(order, options).collect()?;
        let (mut tables, mut found) = (Vec::new(), Vec::new());
        let of_events = events.column("day")?.i32()?;
        let all: std::collections::BTreeSet<Day> = of_events.iter().flatten().collect();
        for day in all.into_iter().filter(|day| days.contains(day)) {
            let events = events.filter(&of_events.equal(day))?;
            let users = events.column(schema::USER_ID)?.u32()?;
            let anonymous = events.column("anonymous")?.bool()?;
            let coded: Vec<_> = users.iter().zip(anonymous.iter()).collect();
            if coded.contains(&(Some(ANONYMOUS), Some(false))) {
                continue;
            }
            let users: Vec<u32> = coded
                .iter()
                .map(|(user, _)| user.unwrap_or(ANONYMOUS))
                .collect();
            let times = events.column(schema::TS)?.to_physical_repr();
            let since = |ts: Option<i64>| (ts.unwrap_or(0) - i64::from(day) * DAY_US) as u64;
            let times: Vec<u64> = times.i64()?.iter().map(since).collect();
            let mut writer = Writer::new(&users, &times, usize::MAX);
            let string = |name: &str| events.column(name).and_then(|column| column.str());
            writer.add_names(string(schema::EVENT_TYPE)?, string(schema::FEATURE)?);
            writer.add_details(0, string(schema::METADATA)?, string(schema::URL)?);
            let content = InMemory(writer.finish(0).expect("a file"));
            let list = List::read(&content, 0, day).expect("a list");
            let Some(list) = list.filter(|list| list.blocks(wanted).is_some()) else {
                continue;
            };
            tables.push(Table::new(Box::new(content), list));
            found.push(day);
        }
        Ok((tables, found))
    }

    /// The rows of the result of a query as JSON, long after the window.
    pub fn rows(&mut self, query: Value) -> Value {
        let answer = self.query(query, "2038-01-01 00:00").expect("a result");
        json!(answer.rows)
    }

    /// Limits the memory of the next queries.
    pub fn limit_memory(&mut self, bytes: u64) {
        self.budget = QueryMemory::new(bytes).budget();
    }

    /// The code of a user.
    pub fn user(&self, id: &str) -> u32 {
        self.names.users.find(id).expect("a user of the test")
    }

    fn is_in(days: &Range<Day>) -> Expr {
        let us = |day: Day| lit(i64::from(day).saturating_mul(DAY_US));
        let ts = || col(schema::TS).to_physical();
        ts().gt_eq(us(days.start)).and(ts().lt(us(days.end)))
    }
}

/// The events of a day of a test, in parts of as many rows as its batches.
struct FrameDay<'a> {
    source: &'a FrameSource,
    range_us: Range<i64>,
}

impl DayEvents for FrameDay<'_> {
    fn parts(&self) -> usize {
        self.source.events.height().div_ceil(self.source.batch_rows)
    }

    fn collect(&self, part: usize, plan: &Plan<'_>) -> Result<DataFrame> {
        self.source.check_cancelled()?;
        let rows = self.source.batch_rows;
        let events = self.source.events.slice((part * rows) as i64, rows);
        let ts = || col(schema::TS).to_physical();
        let events = events
            .lazy()
            .filter(ts().gt_eq(lit(self.range_us.start)))
            .filter(ts().lt(lit(self.range_us.end)))
            .with_columns([col(schema::USER_ID).alias(schema::USER)])
            .filter(self.source.filter.expr())
            .select(lake_columns());
        // A part of the log is in its order, and one of the lake is sorted by user.
        let order = [col(schema::USER_ID), ts()];
        let options = SortMultipleOptions::default().with_maintain_order(true);
        Ok(plan(events.sort_by_exprs(order, options)).collect()?)
    }
}

fn lake_columns() -> Vec<Expr> {
    let lake = schema::lake();
    lake.iter_names().cloned().map(col).collect()
}

impl Source for FrameSource {
    fn window(&self) -> &Window {
        &self.window
    }

    fn filter(&self) -> &Filter {
        &self.filter
    }

    fn cohort(&self) -> Option<&RoaringBitmap> {
        self.cohort.as_ref()
    }

    fn names(&self) -> &Dictionaries {
        &self.names
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn active_days(&self, days: Range<Day>, also: &Filter) -> Result<ActiveDays> {
        let mut found = scan::active_days(self, days, also)?;
        if let Some(cohort) = &self.cohort {
            found.keep(cohort);
        }
        Ok(found)
    }

    fn counts(&self, key: Key<'_>) -> Result<Counts> {
        scan::counts(self, key)
    }

    fn day_counts(
        &self,
        _: Range<Day>,
        _: &Filter,
        _: Option<&Property>,
        _: Wanted,
        _: &mut DaySink<'_>,
    ) -> Result<bool> {
        Ok(false)
    }

    fn known_from(&self, _: Kept) -> Option<NaiveDate> {
        let times = self.events.column(schema::TS).ok()?.to_physical_repr();
        let first = times.i64().ok()?.min()?;
        NaiveDate::from_epoch_days(day_of(first))
    }

    fn activities(&self) -> Result<Activities> {
        usage::scan(self)
    }

    fn for_each_batch(
        &self,
        scan: &Scan,
        plan: &Plan<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Vec<Table>> {
        let filter = self.filter.and(&scan.also);
        let seen = filter.of_seen();
        let (tables, days) = match &scan.tables {
            Some(tables) if self.has_tables => {
                self.tables(&scan.days, &tables.projection(&filter))?
            }
            _ => Default::default(),
        };
        let in_tables = days.into_iter().map(|day| Self::is_in(&(day..day + 1)));
        let in_tables = in_tables.reduce(Expr::or).unwrap_or(lit(false));
        let mut start = 0;
        while start < self.events.height() {
            self.check_cancelled()?;
            let rows = self.events.slice(start as i64, self.batch_rows);
            start += rows.height();
            let events = rows
                .lazy()
                .with_columns([col(schema::USER_ID).alias(schema::USER)])
                .filter(Self::is_in(&scan.days))
                .filter(in_tables.clone().not())
                .filter(seen.expr());
            let events = match scan.columns {
                Columns::Codes => events.select(self.names.counted()),
                _ => {
                    let user = self.names.users.numbers(col(schema::USER_ID), None);
                    events.with_columns([user])
                }
            };
            sink(&plan(events).collect()?)?;
        }
        Ok(tables)
    }

    fn each_day_backwards(&self, range_us: Range<i64>, read: &mut DayReader<'_>) -> Result<()> {
        let mut end_us = range_us.end;
        while end_us > range_us.start {
            let start_us = ((end_us - 1).div_euclid(DAY_US) * DAY_US).max(range_us.start);
            let day = FrameDay {
                source: self,
                range_us: start_us..end_us,
            };
            if read(&day)?.is_break() {
                break;
            }
            end_us = start_us;
        }
        Ok(())
    }

    fn apply(&self, frames: Vec<DataFrame>, plan: &Plan<'_>) -> Result<DataFrame> {
        let frames: Vec<LazyFrame> = frames.into_iter().map(IntoLazy::lazy).collect();
        Ok(plan(concat(frames, UnionArgs::default())?).collect()?)
    }

    fn cores(&self) -> usize {
        1
    }

    fn in_parallel(&self, ranges: Vec<Range<u32>>, work: &Work<'_>) -> Result<()> {
        ranges.into_iter().try_for_each(work)
    }

    fn check_cancelled(&self) -> Result<()> {
        let order = Ordering::Relaxed;
        self.checks_left
            .fetch_update(order, order, |left| left.checked_sub(1))
            .map(drop)
            .map_err(|_| Error::Cancelled("the query was cancelled"))
    }
}

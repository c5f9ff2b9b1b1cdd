//! The interface between a metric and the data.
//!
//! Two implementations: the engine's over the store, from daily states where these are enough and
//! else from events, and the one of the unit tests over a frame of events (`frame.rs`).

use std::ops::{ControlFlow, Range};

use chrono::NaiveDate;
use polars::prelude::*;
use roaring::RoaringBitmap;

use super::active_days::ActiveDays;
use super::budget::Budget;
use super::counts::{Count, Counts, Key};
use super::filter::{Filter, Property};
use crate::columns::{ANONYMOUS, Projection, Table};
use crate::daily::{Activities, Day};
use crate::dictionary::Dictionaries;
use crate::error::Result;
use crate::window::Window;

/// A plan over the events of one batch.
pub type Plan<'a> = dyn Fn(LazyFrame) -> LazyFrame + Sync + 'a;
/// The receiver of what a plan returned for each batch.
pub type Sink<'a> = dyn FnMut(&DataFrame) -> Result<()> + 'a;
/// The reader of a day, which tells whether to go on.
pub type DayReader<'a> = dyn FnMut(&dyn DayEvents) -> Result<ControlFlow<()>> + 'a;
/// Events and users of a day by value.
pub type DayCounts = Vec<(Option<String>, Count)>;
/// The receiver of the counts of a day.
pub type DaySink<'a> = dyn FnMut(Day, DayCounts) -> Result<()> + 'a;
/// Work on one range of user codes.
pub type Work<'a> = dyn Fn(Range<u32>) -> Result<()> + Sync + 'a;

/// The data of one query: events of its window that meet its filter.
pub trait Source: Sync {
    /// The window of the query.
    fn window(&self) -> &Window;

    /// The filter of the query. Every method applies it already.
    fn filter(&self) -> &Filter;

    /// The users that the query is limited to; `None` is all, anonymous events included. With the
    /// code [`ANONYMOUS`] in it, anonymous events are included too.
    /// [`Source::for_each_batch`] does not apply it, all other methods do.
    fn cohort(&self) -> Option<&RoaringBitmap>;

    /// Strings of event types, users and features for their codes, and codes for strings.
    fn names(&self) -> &Dictionaries;

    /// The memory that the query may hold.
    fn budget(&self) -> &Budget;

    /// Users by day of the zone, of events that meet `also` too. Days may lie before the window.
    ///
    /// # Errors
    /// If stored data is damaged or the query is cancelled.
    fn active_days(&self, days: Range<Day>, also: &Filter) -> Result<ActiveDays>;

    /// Events and users of the window by key.
    ///
    /// # Errors
    /// If stored data is damaged or the query is cancelled.
    fn counts(&self, key: Key<'_>) -> Result<Counts>;

    /// Calls `sink` with the events and users of each of some days of the zone, in order, that meet
    /// `also` too, by the value of `by`. False where daily states do not know them: then it may
    /// have been called for some days. Days may lie before the window.
    ///
    /// # Errors
    /// If stored data is damaged or the query is cancelled, and the first error of `sink`.
    fn day_counts(
        &self,
        days: Range<Day>,
        also: &Filter,
        by: Option<&Property>,
        wanted: Wanted,
        sink: &mut DaySink<'_>,
    ) -> Result<bool>;

    /// The first day of the zone from which on all events are known: that of the first event ever,
    /// unless what is kept begins later. None if there is no event.
    fn known_from(&self, kept: Kept) -> Option<NaiveDate>;

    /// Totals of each day of the window, for a query without filter and cohort.
    ///
    /// # Errors
    /// If stored data is damaged or the query is cancelled.
    fn activities(&self) -> Result<Activities>;

    /// Executes `plan` for each batch of events, and calls `sink` with the results in the order of
    /// the batches. A user's events of one day are in the order of the log.
    ///
    /// Returns the tables with the events that `scan` reads from tables, which are in no batch, by
    /// day; their filter is left to the caller. Events of one user and timestamp in tables are
    /// before those in batches, unless any order is enough.
    ///
    /// # Errors
    /// If stored data is damaged or the query is cancelled, and the first error of `sink`.
    fn for_each_batch(
        &self,
        scan: &Scan,
        plan: &Plan<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Vec<Table>>;

    /// Calls `read` with each day of UTC that has events of a time range, in µs, the newest first,
    /// until it breaks. Every acknowledged event is on one of them.
    ///
    /// # Errors
    /// If stored data is damaged or the query is cancelled, and the first error of `read`.
    fn each_day_backwards(&self, range_us: Range<i64>, read: &mut DayReader<'_>) -> Result<()>;

    /// Executes `plan` on the rows of some frames with the column of users.
    ///
    /// # Errors
    /// If the plan fails or the query is cancelled.
    fn apply(&self, frames: Vec<DataFrame>, plan: &Plan<'_>) -> Result<DataFrame>;

    /// Number of ranges that [`Source::in_parallel`] works on at once.
    fn cores(&self) -> usize;

    /// Calls `work` with each range on all cores.
    ///
    /// # Errors
    /// The first error of `work`.
    fn in_parallel(&self, ranges: Vec<Range<u32>>, work: &Work<'_>) -> Result<()>;

    /// Checks whether the query is to continue. Loops over users, events or groups call it through
    /// [`CancelChecks`].
    ///
    /// # Errors
    /// `busy` if the query is cancelled.
    fn check_cancelled(&self) -> Result<()>;

    /// True if a user is one that the query is limited to.
    fn includes_user(&self, user: u32) -> bool {
        self.cohort().is_none_or(|cohort| cohort.contains(user))
    }

    /// The same for the user of an event, where `None` is anonymous: in no cohort, and so in the
    /// negation of each.
    fn includes(&self, user: Option<u32>) -> bool {
        match user {
            Some(user) => self.includes_user(user),
            None => self.includes_user(ANONYMOUS),
        }
    }
}

/// The events of a day that meet the filter of the query and are of its cohort, in parts, in the
/// order of the log.
pub trait DayEvents {
    /// Number of parts. The events of one user and timestamp in a part are in the order of the log,
    /// and before those in the parts after it.
    fn parts(&self) -> usize;

    /// Executes `plan` on the events of a part, with the columns of [`crate::schema::lake`].
    ///
    /// # Errors
    /// If stored data is damaged or the query is cancelled.
    fn collect(&self, part: usize, plan: &Plan<'_>) -> Result<DataFrame>;
}

/// The counts of a day that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Events; the users are empty.
    Events,
    /// Events and users.
    Users,
}

/// Data that is kept for a time of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Daily states.
    States,
    /// Events.
    Events,
}

/// The events that a metric reads.
#[derive(Debug, Clone)]
pub struct Scan {
    /// Days of the zone.
    pub days: Range<Day>,
    /// A filter that events meet in addition to that of the query.
    pub also: Filter,
    /// Their columns.
    pub columns: Columns,
    /// The events that are read from tables; `None` if none are.
    pub tables: Option<TableScan>,
}

/// The events that a metric reads from tables.
#[derive(Debug, Clone)]
pub struct TableScan {
    /// The properties that it needs, in addition to those of the filter.
    pub properties: Vec<Property>,
    /// The times that it needs.
    pub times: TableTimes,
}

/// The times that a metric reads from tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableTimes {
    /// None.
    Unread,
    /// Times.
    Read,
    /// Times, and events of one user and timestamp in the order of the log.
    InOrder,
}

impl Scan {
    /// The events of the window.
    pub fn of_window(source: &dyn Source, columns: Columns) -> Self {
        Self {
            days: source.window().days_in_epoch(),
            also: Filter::default(),
            columns,
            tables: None,
        }
    }

    /// The same, read from tables where these have the properties.
    pub fn with_tables(
        mut self,
        properties: impl IntoIterator<Item = Property>,
        times: TableTimes,
    ) -> Self {
        self.tables = Some(TableScan {
            properties: properties.into_iter().collect(),
            times,
        });
        self
    }
}

impl TableScan {
    /// The columns that it needs, with those of a filter.
    pub fn projection(&self, filter: &Filter) -> Projection {
        let properties = self.properties.iter().chain(filter.properties());
        Projection {
            columns: properties.map(Property::column_name).collect(),
            times: self.times != TableTimes::Unread,
        }
    }
}

/// Column projection of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// Those of [`crate::schema::COUNTED`]: users as codes, null if anonymous or without a code;
    /// event types and features as strings.
    Counted,
    /// Metadata, URL and the ids of users as strings ([`crate::schema::USER`]) as well.
    Details,
    /// Those of [`crate::schema::COUNTED`] as codes, as [`Dictionaries::counted`]: a user or
    /// feature without a code is the *rest*. For a scan without filter.
    Codes,
}

impl Columns {
    /// With metadata and URL, or without.
    pub fn with_details(details: bool) -> Self {
        if details {
            Self::Details
        } else {
            Self::Counted
        }
    }
}

/// Checks for cancellation inside a loop of short steps.
pub struct CancelChecks<'a> {
    source: &'a dyn Source,
    steps: u32,
}

/// Steps between two checks: some milliseconds even where a step inserts into a map that no cache
/// holds.
const STEPS_PER_CHECK: u32 = 4_096;

impl<'a> CancelChecks<'a> {
    /// Checks of a loop that begins now.
    pub fn new(source: &'a dyn Source) -> Self {
        Self { source, steps: 0 }
    }

    /// To be called in each step of the loop.
    ///
    /// # Errors
    /// `busy` if the query is cancelled.
    pub fn step(&mut self) -> Result<()> {
        self.steps += 1;
        if self.steps < STEPS_PER_CHECK {
            return Ok(());
        }
        self.steps = 0;
        self.source.check_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use serde_json::{Value, json};

    use crate::error::{Error, ErrorCode};
    use crate::metrics::NAMES;
    use crate::metrics::frame::{FrameSource, Row};
    use crate::metrics::usage::Usage;

    const EVENTS: usize = 20_000;
    const USERS: usize = 5_000;

    /// Events of a month, each with a value of its own in the metadata.
    fn source() -> FrameSource {
        let strings: Vec<[String; 4]> = (0..EVENTS)
            .map(|i| {
                [
                    format!("2024-03-{:02} {:02}:{:02}", i % 30 + 1, i / 60 % 24, i % 60),
                    format!("u{}", i % USERS),
                    format!("f{}", i % 40),
                    format!("{{\"v\":\"{i}\"}}"),
                ]
            })
            .collect();
        let rows: Vec<(Row<'_>, &str)> = strings
            .iter()
            .map(|[time, user, feature, metadata]| {
                let row = (time.as_str(), "action", user.as_str(), feature.as_str());
                (row, metadata.as_str())
            })
            .collect();
        FrameSource::with_metadata("2024-03-30", 30, &rows)
    }

    /// A query of each metric, with the least number of checks for cancellation that its loops
    /// need.
    fn queries() -> Vec<(Value, usize)> {
        let steps = json!([{"feature":"f0"},{"feature":["f1","f2"]}]);
        vec![
            (json!({"metric":"active_users"}), 100),
            (
                json!({"metric":"feature_usage","breakdown":"metadata.v"}),
                20,
            ),
            (json!({"metric":"event_types"}), 2),
            (
                json!({"metric":"trends","breakdown":"metadata.v","series":[{},{"measure":"users"}]}),
                20,
            ),
            (json!({"metric":"sessions","breakdown":"metadata.v"}), 20),
            (json!({"metric":"lifecycle"}), 30),
            (json!({"metric":"stickiness"}), 30),
            (
                json!({"metric":"funnel","steps":steps,"breakdown":"metadata.v"}),
                300,
            ),
            (json!({"metric":"retention"}), 90),
            (json!({"metric":"paths","by":"session"}), USERS),
            (
                json!({"metric":"experiment","exposure":{},"variant":"v","goal":{"feature":"f1"}}),
                1,
            ),
            (json!({"metric":"events"}), 2),
        ]
    }

    /// Runs a query with a cancellation at each of several checks.
    fn check_cancellation(
        source: &mut FrameSource,
        least: usize,
        run: &mut dyn FnMut(&mut FrameSource) -> Result<(), Error>,
        name: &str,
    ) {
        source.checks_left.store(usize::MAX, Ordering::Relaxed);
        run(source).expect("not cancelled");
        let checks = usize::MAX - source.checks_left.load(Ordering::Relaxed);
        assert!(checks >= least, "{name} has {checks} checks");
        let some = (0..checks).step_by(checks.div_ceil(8));
        for checks_left in some.chain([checks - 1]) {
            source.checks_left.store(checks_left, Ordering::Relaxed);
            let result = run(source);
            assert!(
                matches!(result, Err(Error::Cancelled(_))),
                "{name} at {checks_left} of {checks}"
            );
        }
    }

    #[test]
    fn every_metric_ends_at_the_check_that_finds_it_cancelled() {
        let mut source = source();
        let queries = queries();
        let names: Vec<&Value> = queries.iter().map(|(query, _)| &query["metric"]).collect();
        assert_eq!(names, NAMES);
        for (query, least) in &queries {
            let mut run = |source: &mut FrameSource| {
                source.query(query.clone(), "2038-01-01 00:00").map(drop)
            };
            check_cancellation(&mut source, *least, &mut run, &query.to_string());
        }
    }

    /// The code of an error in the input.
    fn code(error: &Error) -> ErrorCode {
        match error {
            Error::BadInput { code, .. } => *code,
            other => panic!("{other}"),
        }
    }

    /// With any budget a query has the result that it has without a limit, or none.
    #[test]
    fn little_memory_changes_no_result() {
        let mut source = source();
        source.batch_rows = 3_000;
        for (query, _) in queries() {
            source.limit_memory(u64::MAX);
            let expected = source.query(query.clone(), "2038-01-01 00:00");
            let expected = expected.expect("not limited");
            let mut results = Vec::new();
            for bytes in (16..28).map(|power| 1_u64 << power) {
                source.limit_memory(bytes);
                let result = source.query(query.clone(), "2038-01-01 00:00");
                match &result {
                    Ok(answer) => assert_eq!(answer, &expected, "{query} in {bytes}"),
                    Err(error) => assert_eq!(code(error), ErrorCode::TooManyGroups, "{query}"),
                }
                results.push(result.is_ok());
            }
            assert!(results.is_sorted(), "{query}: {results:?}");
            assert_eq!(results.last(), Some(&true), "{query}");
            if query.to_string().contains("metadata.v") {
                assert_eq!(results.first(), Some(&false), "{query}");
            }
        }
    }

    #[test]
    fn more_variants_than_an_experiment_has_are_rejected() {
        let query = json!({"metric":"experiment","exposure":{"feature":"f0"},"variant":"v",
                           "goal":{"feature":"f1"}});
        // 500 users with an exposure each, and then ten times as many.
        for (users, expected) in [(500_usize, None), (5_000, Some(ErrorCode::TooManyGroups))] {
            let strings: Vec<(String, String)> = (0..users)
                .map(|i| (format!("u{i}"), format!("{{\"v\":\"{i}\"}}")))
                .collect();
            let rows: Vec<(Row<'_>, &str)> = strings
                .iter()
                .map(|(user, metadata)| {
                    let row = ("2024-03-01 10:00", "action", user.as_str(), "f0");
                    (row, metadata.as_str())
                })
                .collect();
            let mut source = FrameSource::with_metadata("2024-03-01", 1, &rows);
            let result = source.query(query.clone(), "2038-01-01 00:00");
            assert_eq!(result.err().as_ref().map(code), expected);
        }
    }

    #[test]
    fn usage_ends_at_the_check_that_finds_it_cancelled() {
        let mut source = source();
        let mut run = |source: &mut FrameSource| Usage { features: 10 }.run(source).map(drop);
        check_cancellation(&mut source, 30, &mut run, "usage");
    }
}

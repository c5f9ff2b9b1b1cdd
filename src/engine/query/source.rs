//! The data of a query over the store.
//!
//! Daily states know who was active, who used a feature and who had an event of a type, on each day
//! of UTC and of the reporting zones (`states.rs`). Another zone, any other filter, and every query
//! about the order of events need the events. These are read in batches, so that memory is bounded
//! by users and not by events.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use chrono::{Days, NaiveDate};
use chrono_tz::Tz;
use polars::prelude::*;
use roaring::RoaringBitmap;

use super::Cancel;
use super::states::{AggregateFilter, States};
use crate::columns::{ANONYMOUS, Table};
use crate::daily::{Activities, Day, day_of};
use crate::dictionary::Dictionaries;
use crate::engine::Engine;
use crate::error::Result;
use crate::metrics::active_days::ActiveDays;
use crate::metrics::budget::Budget;
use crate::metrics::counts::{Counts, Key};
use crate::metrics::filter::{Filter, Property, pattern};
use crate::metrics::source::{
    Columns, DayEvents, DayReader, DaySink, Kept, Plan, Scan, Sink, Source, TableTimes, Wanted,
    Work,
};
use crate::metrics::{scan, usage};
use crate::monitoring::QuerySource;
use crate::schema;
use crate::store::{self, LogOrder, SystemEvents, Tables, pipeline};
use crate::window::{self, Window};

/// The data of one query.
pub(in crate::engine) struct StoreSource<'a> {
    pub(super) engine: &'a Engine,
    pub(super) window: Window,
    pub(super) cancel: &'a Cancel,
    /// The filter of events.
    pub(super) filter: Filter,
    /// The users that the query is limited to.
    pub(super) cohort: Option<RoaringBitmap>,
    budget: Budget,
    /// Set when events are read, which are kept for less time than states.
    read_events: AtomicBool,
    /// The last of the [`QuerySource`]s that were read.
    read: AtomicU8,
    /// The day from which on the history of users is known, if not all of it is.
    history_from: OnceLock<NaiveDate>,
}

impl<'a> StoreSource<'a> {
    /// All events of a window.
    pub(in crate::engine) fn new(engine: &'a Engine, window: Window, cancel: &'a Cancel) -> Self {
        Self {
            engine,
            window,
            cancel,
            filter: Filter::default(),
            cohort: None,
            budget: engine.query_memory.budget(),
            read_events: AtomicBool::new(false),
            read: AtomicU8::new(QuerySource::States as u8),
            history_from: OnceLock::new(),
        }
    }

    /// First day of the window that is known completely, with `days_before` days before it, from
    /// what was read so far.
    pub(in crate::engine) fn covered_from(&self, days_before: u16) -> NaiveDate {
        let store = &self.engine.store;
        let (expiry, tz) = (store.expiry(), self.window.tz());
        let kept_from = if self.read_events.load(Ordering::Relaxed) {
            expiry.raw_from.map(|day| window::first_day_from(day, tz))
        } else {
            expiry.states_from.max(store.first_complete_day(tz))
        };
        kept_from.map_or(self.window.first_day(), |day| {
            let day = day + Days::new(u64::from(days_before));
            let after = self.window.last_day() + Days::new(1);
            day.clamp(self.window.first_day(), after)
        })
    }

    /// `daily` if users of more than one day of UTC are counted, with `days_before` days before the
    /// window, and some of them are daily visitors: they count once a day.
    ///
    /// # Errors
    /// If states are damaged.
    pub(in crate::engine) fn visitors(&self, days_before: u16) -> Result<Option<&'static str>> {
        let store = &self.engine.store;
        let users = &store.names().users;
        let range_us = self.window.range_us();
        let first = day_of(range_us.start).saturating_sub(Day::from(days_before));
        let days = first..day_of(range_us.end - 1) + 1;
        if days.len() < 2 || !users.has_visitors() {
            return Ok(None);
        }
        let active = store.activities(Tz::UTC, days)?;
        let of_weeks = active.weeks.values().map(|week| &week.whole);
        let of_days = active.days.values().flatten().map(AsRef::as_ref);
        let mut all = of_weeks.chain(of_days);
        let has_visitors = all.any(|activity| users.has_visitors_among(&activity.users));
        Ok(has_visitors.then_some("daily"))
    }

    /// The data that was read so far.
    pub(in crate::engine) fn read(&self) -> QuerySource {
        match self.read.load(Ordering::Relaxed) {
            read if read == QuerySource::Lake as u8 => QuerySource::Lake,
            read if read == QuerySource::Columns as u8 => QuerySource::Columns,
            _ => QuerySource::States,
        }
    }

    /// The day from which on it is known whether a user was seen before, if that is not always
    /// known.
    pub(super) fn history_from(&self) -> Option<NaiveDate> {
        self.history_from.get().copied()
    }

    /// Executes a plan over events, which ends when the query is cancelled.
    ///
    /// # Errors
    /// If it fails or is cancelled.
    pub(in crate::engine) fn collect(&self, events: LazyFrame) -> Result<DataFrame> {
        collect(cancellable(events, self.cancel), self.cancel)
    }

    /// The events, with the columns of [`schema::lake`], that meet the filter and are of the
    /// cohort.
    pub(in crate::engine) fn limited(&self, mut events: LazyFrame) -> LazyFrame {
        if let Some(cohort) = self.cohort.clone() {
            let codes = self
                .engine
                .store
                .names()
                .users
                .numbers(col(schema::USER_ID), None);
            let is_included = codes.map(
                move |column| {
                    let codes = column.u32()?.iter();
                    let is_included: BooleanChunked = codes
                        .map(|code| cohort.contains(code.unwrap_or(ANONYMOUS)))
                        .collect();
                    Ok(is_included.with_name(column.name().clone()).into_column())
                },
                |_, field| Ok(Field::new(field.name().clone(), DataType::Boolean)),
            );
            events = events.filter(is_included);
        }
        self.filter.of_lake(events)
    }

    fn states(&self) -> States<'_> {
        States {
            store: &self.engine.store,
            tz: self.window.tz(),
            cancel: self.cancel,
            budget: &self.budget,
        }
    }

    /// True if daily states are enough for a range of days of the zone of the query.
    fn has_states(&self, days: &Range<Day>) -> bool {
        self.engine.store.has_states(self.window.tz(), days)
    }

    /// Adds users of the days of UTC before one, from which events or the states of the zone were
    /// read, where states know them: as days of UTC, which is exact enough for whether a user was
    /// seen before. Where they do not, the response has `history_from`.
    fn add_history_before(
        &self,
        utc_day: NaiveDate,
        filter: &Filter,
        found: &mut ActiveDays,
    ) -> Result<()> {
        let end = utc_day
            .to_epoch_days()
            .min(self.window.days_in_epoch().start);
        let states = States {
            tz: Tz::UTC,
            ..self.states()
        };
        let is_known = match AggregateFilter::of(filter) {
            Some(known) => states.add_users(&(Day::MIN..end), &known, found)?,
            None => false,
        };
        if !is_known {
            self.history_from.get_or_init(|| utc_day);
        }
        Ok(())
    }
}

/// The events of a day of the store.
struct StoreDay<'a> {
    source: &'a StoreSource<'a>,
    events: store::DayOfEvents,
}

impl DayEvents for StoreDay<'_> {
    fn parts(&self) -> usize {
        self.events.parts()
    }

    fn collect(&self, part: usize, plan: &Plan<'_>) -> Result<DataFrame> {
        let cancel = self.source.cancel;
        cancel.check()?;
        let events = cancellable(self.events.part(part)?, cancel);
        collect(plan(self.source.limited(events)), cancel)
    }
}

/// The filter to read events by, and whether `system` events are among them.
fn seen(filter: Filter) -> (Filter, SystemEvents) {
    match filter.names_system() {
        true => (filter.of_seen(), SystemEvents::Included),
        false => (filter, SystemEvents::Hidden),
    }
}

/// The rows, with a check for cancellation in each piece that Polars works on.
fn cancellable(rows: LazyFrame, cancel: &Cancel) -> LazyFrame {
    let cancel = cancel.clone();
    let checked = col(schema::USER_ID).map(
        move |column| match cancel.check() {
            Ok(()) => Ok(column),
            Err(error) => Err(PolarsError::ComputeError(error.to_string().into())),
        },
        |_, field| Ok(field.clone()),
    );
    rows.with_columns([checked])
}

/// Executes a plan on the streaming engine.
fn collect(plan: LazyFrame, cancel: &Cancel) -> Result<DataFrame> {
    let collected = plan.collect_with_engine(polars::prelude::Engine::Streaming);
    // A cancelled query fails inside the engine.
    cancel.check()?;
    let collected = collected.map_err(|error| match pattern::too_slow(&error) {
        Some(too_slow) => too_slow,
        None => error.into(),
    });
    Ok(collected?.unwrap_single())
}

impl Source for StoreSource<'_> {
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
        self.engine.store.names()
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn active_days(&self, days: Range<Day>, also: &Filter) -> Result<ActiveDays> {
        let filter = self.filter.and(also);
        let known = AggregateFilter::of(&filter).filter(|_| self.has_states(&days));
        let mut found = ActiveDays::default();
        let is_known = match known {
            Some(known) => self.states().add_users(&days, &known, &mut found)?,
            None => false,
        };
        if !is_known {
            found = scan::active_days(self, days.clone(), also)?;
        }
        if days.start == Day::MIN {
            let from = if is_known {
                self.engine.store.states_begin(self.window.tz())
            } else {
                self.engine.store.expiry().raw_from
            };
            if let Some(from) = from {
                self.add_history_before(from, &filter, &mut found)?;
            }
        }
        if let Some(cohort) = &self.cohort {
            found.keep(cohort);
        }
        Ok(found)
    }

    fn counts(&self, key: Key<'_>) -> Result<Counts> {
        let states_are_enough = self.filter.is_empty()
            && self.cohort.is_none()
            && self.has_states(&self.window.days_in_epoch());
        match key {
            Key::EventType if states_are_enough => self
                .states()
                .event_type_counts(&self.window.days_in_epoch()),
            Key::EventType => scan::counts(self, key),
            Key::Feature {
                most,
                breakdown: None,
            } if states_are_enough => self
                .states()
                .feature_counts(self.window.days_in_epoch(), most),
            Key::Feature { .. } => {
                self.engine.load_features(&self.window)?;
                scan::counts(self, key)
            }
        }
    }

    fn day_counts(
        &self,
        days: Range<Day>,
        also: &Filter,
        by: Option<&Property>,
        wanted: Wanted,
        sink: &mut DaySink<'_>,
    ) -> Result<bool> {
        let filter = self.filter.and(also);
        let known = AggregateFilter::of(&filter)
            .filter(|known| known.knows_groups(by))
            .filter(|_| self.cohort.is_none() && self.has_states(&days));
        match known {
            Some(known) => self.states().day_counts(&days, &known, by, wanted, sink),
            None => Ok(false),
        }
    }

    fn known_from(&self, kept: Kept) -> Option<NaiveDate> {
        let (store, tz) = (&self.engine.store, self.window.tz());
        let expiry = store.expiry();
        let of_zone = |day| window::first_day_from(day, tz);
        let kept_from = match kept {
            Kept::States => expiry.states_from.max(store.first_complete_day(tz)),
            Kept::Events => expiry.raw_from.map(of_zone),
        };
        let noon = store.first_day()?.and_hms_opt(12, 0, 0)?.and_utc();
        Some(noon.with_timezone(&tz).date_naive()).max(kept_from)
    }

    fn activities(&self) -> Result<Activities> {
        debug_assert!(self.filter.is_empty() && self.cohort.is_none());
        let days = self.window.days_in_epoch();
        if self.has_states(&days) {
            return self.engine.store.activities(self.window.tz(), days);
        }
        self.engine.load_features(&self.window)?;
        usage::scan(self)
    }

    fn for_each_batch(
        &self,
        scan: &Scan,
        plan: &Plan<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Vec<Table>> {
        if scan.days.end > self.window.days_in_epoch().start {
            self.read_events.store(true, Ordering::Relaxed);
        }
        let day_us = |day| {
            let day = NaiveDate::from_epoch_days(day)?;
            Some(window::day_us(day, self.window.tz()))
        };
        let start_us = day_us(scan.days.start).map_or(i64::MIN, |us| us.start);
        let end_us = day_us(scan.days.end - 1).map_or(i64::MAX, |us| us.end);
        let range_us = start_us..end_us;
        let (filter, system) = seen(self.filter.and(&scan.also));
        let columns = match scan.columns {
            _ if filter.needs_details() => store::Columns::All,
            Columns::Details => store::Columns::All,
            Columns::Counted => store::Columns::Counted,
            Columns::Codes => store::Columns::Codes,
        };
        let projection = scan
            .tables
            .as_ref()
            .map(|tables| tables.projection(&filter));
        let order = match &scan.tables {
            Some(tables) if tables.times == TableTimes::InOrder => LogOrder::Kept,
            _ => LogOrder::Free,
        };
        let check = || self.cancel.check();
        let tables = projection.as_ref().map(|projection| Tables {
            projection,
            order,
            check: &check,
        });
        let store = &self.engine.store;
        let (tables, batches) =
            store.tables_and_batches(range_us, columns, system, tables.as_ref())?;
        let read = if batches.iter().any(store::Batch::reads_segments) {
            QuerySource::Lake
        } else {
            QuerySource::Columns
        };
        self.read.fetch_max(read as u8, Ordering::Relaxed);
        let mut batches = batches.into_iter();
        let condition = (!filter.is_empty()).then(|| filter.expr());
        pipeline::ordered(
            || Ok(batches.next()),
            |batch| {
                self.cancel.check()?;
                let events = cancellable(batch.events()?, self.cancel);
                let events = match &condition {
                    None => events,
                    Some(condition) => events.filter(condition.clone()),
                };
                collect(plan(events), self.cancel)
            },
            |result| sink(&result?),
        )?;
        Ok(tables)
    }

    fn each_day_backwards(&self, range_us: Range<i64>, read: &mut DayReader<'_>) -> Result<()> {
        self.read_events.store(true, Ordering::Relaxed);
        let (_, system) = seen(self.filter.clone());
        for events in self.engine.store.days_backwards(range_us, system)? {
            self.cancel.check()?;
            let read_from = match events.reads_segments() {
                true => QuerySource::Lake,
                false => QuerySource::Columns,
            };
            self.read.fetch_max(read_from as u8, Ordering::Relaxed);
            let day = StoreDay {
                source: self,
                events,
            };
            if read(&day)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, frames: Vec<DataFrame>, plan: &Plan<'_>) -> Result<DataFrame> {
        let frames: Vec<LazyFrame> = frames.into_iter().map(IntoLazy::lazy).collect();
        let rows = concat(frames, UnionArgs::default())?;
        collect(plan(cancellable(rows, self.cancel)), self.cancel)
    }

    fn cores(&self) -> usize {
        pipeline::cores()
    }

    fn in_parallel(&self, ranges: Vec<Range<u32>>, work: &Work<'_>) -> Result<()> {
        let mut ranges = ranges.into_iter();
        pipeline::ordered(|| Ok(ranges.next()), work, |result| result)
    }

    fn check_cancelled(&self) -> Result<()> {
        self.cancel.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_plan_ends_when_the_query_is_cancelled_while_it_runs() {
        let cancel = Cancel::default();
        let users = Column::new(schema::USER_ID.into(), (0..100_u32).collect::<Vec<_>>());
        let users = DataFrame::new(100, vec![users]).expect("a frame");
        let found = collect(cancellable(users.clone().lazy(), &cancel), &cancel);
        assert_eq!(found.expect("not cancelled"), users);
        // The plan cancels the query itself, before the rows reach the check.
        let canceller = cancel.clone();
        let rows = users.lazy().with_columns([col(schema::USER_ID).map(
            move |column| {
                canceller.cancel();
                Ok(column)
            },
            |_, field| Ok(field.clone()),
        )]);
        let checked = cancellable(rows, &cancel);
        let plan = checked.clone().collect();
        assert!(plan.is_err(), "the check is not in the plan");
        assert!(matches!(
            collect(checked, &cancel),
            Err(Error::Cancelled(_))
        ));
    }
}

//! Funnels: how many users get how far through a list of steps, how fast, and by which property.
//!
//! A user enters with an event of step 1 in the window and reaches a step by the [best
//! attempt](attempt): over all entries the greatest level, then the earliest completion, then the
//! latest step 1. All events lie in the window and at most `within` after step 1, inclusive. Events
//! of one timestamp are ordered by step, then by their position in the log; one event fills one
//! step, so that a step named twice needs two events. An excluded event spoils the attempts it lies
//! in; a user whose best unspoiled attempt is shorter counts up to there. Anonymous events fill no
//! step, duplicates are not read, late events count when they happened.
//!
//! Of each step: users who reached it, their share of those of step 1 and of the step before, how
//! many were lost since that one, and mean, median and 90th percentile (interpolated) of the
//! seconds from step 1 and from the step before. With a breakdown, users are counted by the
//! property of the first event of their attempt; a missing one is a group of its own, and beyond
//! the greatest 25 groups the others are `__other__`. Definitions: `docs/metrics.md`, "Funnels".

pub mod attempt;
mod matching;
pub mod steps;
mod tally;

use std::ops::Range;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use polars::prelude::*;
use roaring::RoaringBitmap;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::coded::{FilterBits, column_of};
use super::filter::{Filter, Property};
use super::local_dictionary::LocalDictionary;
use super::partition::{self, Collect};
use super::sequence::{Sequences, Timed};
use super::source::{CancelChecks, Columns, Scan, Source, TableTimes};
use super::{Answer, Measure};
use crate::columns::{ANONYMOUS, Rows, Table};
use crate::error::{Result, shown};
use crate::schema;
use crate::window::DAY_US;
use attempt::{Attempt, Between, Order, Rules, StepEvent};
use steps::{MAX_EXCLUSIONS, MAX_STEPS, StepMask};
pub use tally::quantile;
use tally::{Attempts, Tally};

/// Conversion window of a query that names none, in µs.
const DEFAULT_WITHIN_US: i64 = 14 * DAY_US;
/// The bit of events that meet the filter of the query; the lower ones are steps and exclusions.
const MET: StepMask = 1 << (StepMask::BITS - 1);
/// Values of a table from which on it costs less to find out which of them matter than to keep all.
const MANY_VALUES: usize = 4_096;
/// The note of every funnel with exclusions.
const EXCLUSION_RULE: &str = "an excluded event spoils the attempts it lies in; a user counts up to the best unspoiled attempt";

const STEPS: &str = "steps";
const GROUP: &str = "group";

/// The parameters.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Funnel {
    /// The filter of each step, 2 to 20.
    #[serde(deserialize_with = "steps")]
    #[schema(min_items = 2, max_items = 20)]
    pub steps: Vec<Filter>,
    /// The conversion window: how long after step 1 the others count, inclusive.
    #[serde(default)]
    #[schema(value_type = String, pattern = "^[0-9]+[smhdw]$")]
    pub within: Within,
    /// The order of the steps.
    #[serde(default)]
    pub order: Order,
    /// Events that spoil an attempt.
    #[serde(default)]
    #[schema(max_items = 10)]
    pub exclude: Vec<Exclusion>,
    /// The property of the first event that users are counted by.
    #[serde(default)]
    pub breakdown: Option<Property>,
}

/// An event that spoils attempts.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Exclusion {
    /// The filter of the event.
    pub filter: Filter,
    /// The steps between which it counts, from 1; the first and the last if absent.
    #[serde(default)]
    pub between: Option<[usize; 2]>,
}

/// A conversion window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Within {
    /// Its length in µs.
    pub us: i64,
}

impl Default for Within {
    fn default() -> Self {
        Self {
            us: DEFAULT_WITHIN_US,
        }
    }
}

impl TryFrom<String> for Within {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let unit_us = match text.chars().last() {
            Some('s') => 1_000_000,
            Some('m') => 60 * 1_000_000,
            Some('h') => 3_600 * 1_000_000,
            Some('d') => DAY_US,
            Some('w') => 7 * DAY_US,
            _ => 0,
        };
        text.get(..text.len().saturating_sub(1))
            .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|number| number.parse::<i64>().ok()?.checked_mul(unit_us))
            .filter(|us| (1..=366 * DAY_US).contains(us))
            .map(|us| Self { us })
            .ok_or_else(|| {
                let text = shown(&text);
                format!(
                    "{text:?} is not a duration; allowed is a number with s, m, h, d or w, up to \"366d\""
                )
            })
    }
}

fn steps<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Filter>, D::Error> {
    let steps = Vec::<Filter>::deserialize(deserializer)?;
    match steps.len() {
        2..=MAX_STEPS => Ok(steps),
        found => Err(serde::de::Error::custom(format!(
            "{found} steps; allowed are 2 to {MAX_STEPS}"
        ))),
    }
}

impl Measure for Funnel {
    fn check(&self) -> Result<(), String> {
        if self.exclude.len() > MAX_EXCLUSIONS {
            let found = self.exclude.len();
            return Err(format!(
                "exclude has {found} entries; allowed are {MAX_EXCLUSIONS}"
            ));
        }
        let last = self.steps.len();
        for Exclusion { between, .. } in &self.exclude {
            let Some([from, to]) = *between else { continue };
            if from < 1 || to > last || from >= to {
                return Err(format!(
                    "exclude.between is [{from},{to}]; allowed are two steps in order, of 1 to {last}"
                ));
            }
            if self.order == Order::Any && (from, to) != (1, last) {
                return Err(format!(
                    "exclude.between is [{from},{to}]; in any order only [1,{last}] is allowed"
                ));
            }
        }
        Ok(())
    }

    fn days_before(&self) -> u16 {
        0
    }

    fn filters_mut(&mut self) -> Vec<&mut Filter> {
        let excluded = self.exclude.iter_mut();
        let excluded = excluded.map(|exclusion| &mut exclusion.filter);
        self.steps.iter_mut().chain(excluded).collect()
    }

    fn run(&self, source: &dyn Source, _now: DateTime<Utc>) -> Result<Answer> {
        let tally = Mutex::new((Tally::default(), source.budget().charge()));
        let groups = self.for_each_best(
            source,
            GroupBy::Breakdown,
            Attempts::default,
            |attempt, found| found.add(&attempt),
            |found| {
                let (tally, charge) = &mut *tally.lock();
                tally.push(found);
                charge.set(tally.bytes())
            },
        )?;
        let breakdown = self.breakdown.as_ref().map(|_| &groups);
        let (tally, _charge) = tally.into_inner();
        let answer = Answer::from(tally.table(self.steps.len(), breakdown, source)?);
        Ok(if self.exclude.is_empty() {
            answer
        } else {
            answer.with_note("exclusion_rule", json!(EXCLUSION_RULE))
        })
    }
}

impl Funnel {
    /// True if columns are needed that are not among [`schema::COUNTED`].
    fn needs_details(&self) -> bool {
        self.filters().any(Filter::needs_details)
            || self.breakdown.as_ref().is_some_and(Property::is_detail)
    }

    /// The filters of the steps and then of the exclusions.
    pub fn filters(&self) -> impl Iterator<Item = &Filter> + Clone {
        let excluded = self.exclude.iter().map(|exclusion| &exclusion.filter);
        self.steps.iter().chain(excluded)
    }

    /// The filters of the steps and of the exclusions, each with its bit.
    fn masks(&self) -> impl Iterator<Item = (&Filter, StepMask)> {
        let bits = (0..self.steps.len()).chain(MAX_STEPS..);
        self.filters().zip(bits.map(|bit| 1 << bit))
    }

    /// The rules of an attempt.
    fn rules(&self) -> Rules {
        let all = [1, self.steps.len()];
        let exclusions = self.exclude.iter().map(|exclusion| {
            let [from, to] = exclusion.between.unwrap_or(all);
            Between { from, to }
        });
        Rules {
            steps: self.steps.len(),
            within_us: self.within.us,
            order: self.order,
            exclusions: exclusions.collect(),
        }
    }

    /// The users whose best attempt reached so many steps.
    ///
    /// # Errors
    /// If stored data is damaged or the query is cancelled, and `too_many_groups` if the users do
    /// not fit into its memory.
    pub fn users(&self, source: &dyn Source, reached: &Range<usize>) -> Result<RoaringBitmap> {
        let all = Mutex::new((Vec::new(), source.budget().charge()));
        self.for_each_best(
            source,
            GroupBy::User,
            Vec::new,
            |attempt, found| {
                if reached.contains(&attempt.times_us.len()) {
                    found.push(attempt.group);
                }
            },
            |found| {
                let (all, charge) = &mut *all.lock();
                all.extend::<Vec<u32>>(found);
                charge.set((all.capacity() * size_of::<u32>()) as u64)
            },
        )?;
        Ok(crate::daily::set(all.into_inner().0))
    }

    /// Calls `visit` with the best attempt of each user who entered, and `merge` with what was
    /// found in each range of users. Returns the groups of the attempts.
    fn for_each_best<F>(
        &self,
        source: &dyn Source,
        group_by: GroupBy,
        new: impl Fn() -> F + Sync,
        visit: impl Fn(Attempt, &mut F) + Sync,
        merge: impl Fn(F) -> Result<()> + Sync,
    ) -> Result<LocalDictionary> {
        let properties = self.filters().flat_map(Filter::properties);
        let properties = properties.chain(&self.breakdown).cloned();
        let scan = Scan {
            // The funnel of a cohort has no query, whose filter would see them.
            also: Filter::of_all_seen(self.filters()),
            ..Scan::of_window(source, Columns::with_details(self.needs_details()))
        };
        let scan = scan.with_tables(properties, TableTimes::InOrder);
        let rules = self.rules();
        let mut events = StepEvents {
            funnel: self,
            filter: source.filter(),
            group_by,
            events: Sequences::default(),
            groups: LocalDictionary::default(),
        };
        let input = partition::Input {
            source,
            scan: &scan,
            plan: &|events| self.plan(events),
            max_items: partition::max_items::<StepEvent>(source.budget()),
        };
        partition::for_each_user(
            &input,
            &mut events,
            || (new(), CancelChecks::new(source)),
            |_, of_user, (found, checks)| {
                if let Some(attempt) = rules.best(of_user, &mut || checks.step())? {
                    visit(attempt, found);
                }
                Ok(())
            },
            |(found, _)| merge(found),
        )?;
        Ok(events.groups)
    }

    /// User, `ts`, step bitmask and group, in the order of the events.
    fn plan(&self, events: LazyFrame) -> LazyFrame {
        let steps = self
            .masks()
            .map(|(filter, mask)| filter.expr().cast(DataType::UInt32) * lit(mask));
        let steps = steps.reduce(|all, more| all + more).unwrap_or(lit(0_u32));
        let mut columns = vec![
            col(schema::USER_ID),
            col(schema::TS).to_physical(),
            steps.alias(STEPS),
        ];
        if let Some(property) = &self.breakdown {
            let value = property.expr().cast(DataType::String);
            columns.push(match (self.order, self.steps.first()) {
                // Only step 1 can be the first event of an attempt: other values are not kept.
                (Order::Ordered | Order::Strict, Some(first)) => {
                    ternary_expr(first.expr(), value, lit(NULL)).alias(GROUP)
                }
                _ => value.alias(GROUP),
            });
        }
        let mut events = events.filter(col(schema::USER_ID).is_not_null());
        if self.order != Order::Strict {
            // As a condition on stored columns, it is applied while they are read.
            events = events.filter(Filter::any(self.filters()));
        }
        events.select(columns)
    }
}

/// The groups of step events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GroupBy {
    /// The values of the breakdown, if there is one.
    Breakdown,
    /// The user, whose attempt is then known by its group.
    User,
}

/// The step events of users.
struct StepEvents<'a> {
    funnel: &'a Funnel,
    /// The filter of the query.
    filter: &'a Filter,
    group_by: GroupBy,
    events: Sequences<StepEvent>,
    groups: LocalDictionary,
}

impl StepEvents<'_> {
    /// True for each value of a column that belongs to an event which may be the first of an
    /// attempt: the others are not kept.
    fn first_values(
        &self,
        table: &Table,
        bits: &FilterBits,
        column: usize,
        values: usize,
    ) -> Result<Vec<bool>> {
        let columns: Vec<usize> = bits.columns.iter().copied().chain([column]).collect();
        let slice = table.slice(&Rows::Of(0..ANONYMOUS), &columns, false)?;
        let first: StepMask = match self.funnel.order {
            Order::Ordered | Order::Strict => 1,
            Order::Any => (1 << self.funnel.steps.len()) - 1,
        };
        let mut is_first = vec![false; values];
        let mut met = bits.of_rows(&slice);
        if let Some(codes) = slice.codes(bits.columns.len()) {
            codes.zip(&mut met, |met, code| {
                let value = code.checked_sub(1).and_then(|at| is_first.get_mut(at));
                if let Some(value) = value.filter(|_| *met & MET != 0 && *met & first != 0) {
                    *value = true;
                }
            });
        }
        Ok(is_first)
    }
}

/// The columns of a table for step events.
struct StepColumns {
    bits: FilterBits,
    /// The column of the breakdown, and the group of each code.
    group: Option<(usize, Vec<u32>)>,
}

impl Collect for StepEvents<'_> {
    type Item = StepEvent;
    type Columns = StepColumns;

    fn open(&mut self, table: &Table) -> Result<StepColumns> {
        let filters = self.funnel.masks().chain([(self.filter, MET)]);
        let bits = FilterBits::new(table, filters)?;
        let Some(breakdown) = &self.funnel.breakdown else {
            return Ok(StepColumns { bits, group: None });
        };
        let column = column_of(table, breakdown)?;
        let values = table.values(column)?;
        let null = self.groups.code(None);
        let mut groups = vec![null];
        if values.len() < MANY_VALUES {
            for value in &values {
                groups.push(self.groups.code(breakdown.string_of(value).as_deref()));
            }
        } else {
            let is_first = self.first_values(table, &bits, column, values.len())?;
            for (value, is_first) in values.iter().zip(is_first) {
                let group = is_first.then(|| breakdown.string_of(value));
                groups.push(group.map_or(null, |group| self.groups.code(group.as_deref())));
            }
        }
        Ok(StepColumns {
            bits,
            group: Some((column, groups)),
        })
    }

    fn read_table(
        &self,
        table: &Table,
        StepColumns { bits, group }: &StepColumns,
        users: Range<u32>,
        includes: &dyn Fn(u32) -> bool,
        into: &mut Sequences<StepEvent>,
    ) -> Result<()> {
        let columns = bits.columns.iter().copied();
        let columns: Vec<usize> = columns.chain(group.as_ref().map(|group| group.0)).collect();
        let slice = table.slice(&Rows::Of(users), &columns, true)?;
        let met = bits.of_rows(&slice);
        let is_any = self.funnel.order == Order::Strict;
        let is_step = |met: u32| met & MET != 0 && (is_any || met != MET);
        let count = met.iter().filter(|&&met| is_step(met)).count();
        let groups = slice.codes(bits.columns.len()).zip(group.as_ref());
        let group_of = |row: usize| {
            let (codes, (_, groups)) = groups?;
            groups.get(codes.code(row)).copied()
        };
        let users = slice.runs().filter(|(user, _)| includes(*user));
        let rows = users.flat_map(|(user, rows)| rows.map(move |row| (user, row)));
        let items = rows.filter_map(|(user, row)| {
            let met = met.get(row).copied().filter(|&met| is_step(met))?;
            let event = StepEvent {
                ts_us: slice.ts_us(row),
                steps: met & !MET,
                group: match self.group_by {
                    GroupBy::Breakdown => group_of(row).unwrap_or(0),
                    GroupBy::User => user,
                },
            };
            Some((user, event))
        });
        into.extend(count, items);
        Ok(())
    }

    fn read(&mut self, frame: &DataFrame, includes: &dyn Fn(u32) -> bool) -> Result<()> {
        let users = frame.column(schema::USER_ID)?.u32()?;
        let times = frame.column(schema::TS)?.i64()?;
        let steps = frame.column(STEPS)?.u32()?;
        let mut names = match frame.column(GROUP) {
            Ok(column) => Some(column.str()?.iter()),
            Err(_) => None,
        };
        let rows = users.iter().zip(times.iter()).zip(steps.iter());
        let Self {
            events,
            groups,
            group_by,
            ..
        } = self;
        let items = rows.filter_map(|((user, ts_us), steps)| {
            let name = names.as_mut().map(|names| names.next().flatten());
            let user = user.filter(|&user| includes(user))?;
            let event = StepEvent {
                ts_us: ts_us?,
                steps: steps?,
                group: match group_by {
                    GroupBy::Breakdown => name.map_or(0, |name| groups.code(name)),
                    GroupBy::User => user,
                },
            };
            Some((user, event))
        });
        events.extend(frame.height(), items);
        Ok(())
    }

    fn sequences(&mut self) -> &mut Sequences<StepEvent> {
        &mut self.events
    }

    fn string_bytes(&self) -> u64 {
        self.groups.bytes()
    }

    fn column_bytes(StepColumns { bits, group }: &StepColumns) -> u64 {
        let groups = group.as_ref().map_or(0, |(_, groups)| groups.len());
        bits.bytes() + (groups * size_of::<u32>()) as u64
    }
}

impl Timed for StepEvent {
    fn ts_us(&self) -> i64 {
        self.ts_us
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::metrics::frame::FrameSource;

    /// Steps `cart` and `pay` within an hour, over events with the metadata `v`.
    fn rows(parameters: &[(&str, Value)]) -> Vec<Value> {
        let at = |time: &'static str, user, feature, v| ((time, "action", user, feature), v);
        let mut source = FrameSource::with_metadata(
            "2024-03-01",
            1,
            &[
                at("2024-03-01 10:00", "ann", "cart", r#"{"v":"web"}"#),
                at("2024-03-01 10:30", "ann", "pay", ""),
                at("2024-03-01 10:00", "bob", "cart", r#"{"v":"web"}"#),
                at("2024-03-01 10:20", "bob", "help", ""),
                at("2024-03-01 10:40", "bob", "pay", ""),
                // Too late.
                at("2024-03-01 10:00", "cyd", "cart", r#"{"v":"app"}"#),
                at("2024-03-01 11:01", "cyd", "pay", ""),
                at("2024-03-01 10:00", "", "cart", ""),
            ],
        );
        source.batch_rows = 3;
        let steps = json!([{"feature":"cart"},{"feature":"pay"}]);
        let mut query = json!({"metric":"funnel","steps":steps,"within":"1h"});
        let fields = query.as_object_mut().expect("an object");
        fields.extend(
            parameters
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone())),
        );
        let rows = source.rows(query);
        rows.as_array().expect("rows").clone()
    }

    #[test]
    fn steps_are_counted_with_times() {
        let rows = rows(&[]);
        let users: Vec<&Value> = rows.iter().map(|row| &row["users"]).collect();
        assert_eq!(users, [&json!(3), &json!(2)]);
        assert_eq!(rows[1]["drop_off"], 1);
        assert_eq!(rows[1]["conversion_from_first"], json!(2.0 / 3.0));
        let times = json!({"mean":2_100,"median":2_100,"p90":2_340});
        assert_eq!(rows[1]["seconds_from_previous"], times);
        assert_eq!(rows[0]["seconds_from_first"]["mean"], Value::Null);
    }

    #[test]
    fn an_excluded_event_spoils_the_attempt() {
        let rows = rows(&[("exclude", json!([{"filter":{"feature":"help"}}]))]);
        assert_eq!(
            (&rows[0]["users"], &rows[1]["users"]),
            (&json!(3), &json!(1))
        );
    }

    #[test]
    fn a_breakdown_is_of_the_first_event_of_the_attempt() {
        let rows = rows(&[("breakdown", json!("metadata.v"))]);
        let rows: Vec<String> = rows
            .iter()
            .map(|row| format!("{} {} {}", row["breakdown"], row["step"], row["users"]))
            .collect();
        let expected = [
            r#""web" 1 2"#,
            r#""web" 2 2"#,
            r#""app" 1 1"#,
            r#""app" 2 0"#,
        ];
        assert_eq!(rows, expected);
    }
}

//! Funnels: how many users get how far through some steps, how fast, and by which property.
//!
//! A user enters with an event of step 1 in the window and reaches a step by its [best attempt](attempt): over all entries
//! the greatest level, then the earliest completion, then the latest step 1. All events used lie in the window and at most
//! `within` after step 1, that instant included. Events of one instant are ordered by step, then by their place in the log; one event
//! fills one step, so that a step named twice needs two events. An excluded event spoils the attempts it lies in; a
//! user whose best unspoiled attempt is shorter counts up to there. Anonymous events are nobody's, duplicates are not in
//! the frame, late events count when they happened.
//!
//! Of each step: users who reached it, their share of those of step 1 and of the step before, how many were lost since that
//! one, and mean, median and 90th percentile (interpolated) of the seconds from step 1 and from the step before. With a
//! breakdown, users are counted by the property of the first event of their attempt; a missing one is a group of its
//! own, and beyond the greatest 25 groups the rest is `__other__`. Definitions: `docs/metrics.md`, "Funnels".

pub mod attempt;
mod matching;
pub mod steps;

use std::collections::HashMap;
use std::ops::Range;

use polars::prelude::*;
use serde::Deserialize;

use super::filter::{Filter, Property};
use super::sequence::{Sequences, Timed};
use super::table::Table;
use super::values::Names;
use crate::error::Result;
use crate::schema;
use crate::window::DAY_US;
use attempt::{Act, Attempt, Between, Order, Rules};
use steps::{MAX_EXCLUSIONS, MAX_STEPS};

/// Groups of a breakdown that are named.
pub const MAX_GROUPS: usize = 25;
/// The name of all other groups.
pub const OTHER: &str = "__other__";
/// How long an attempt may take unless the question says otherwise, in µs.
const DEFAULT_WITHIN_US: i64 = 14 * DAY_US;

const MARKS: &str = "marks";
const GROUP: &str = "group";

/// The question.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Funnel {
    /// What each step is, 2 to 20.
    #[serde(deserialize_with = "steps")]
    pub steps: Vec<Filter>,
    /// How long after step 1 the others count, included.
    #[serde(default)]
    pub within: Within,
    /// How they follow each other.
    #[serde(default)]
    pub order: Order,
    /// What spoils an attempt.
    #[serde(default)]
    pub exclude: Vec<Exclusion>,
    /// The property of the first event that users are counted by.
    #[serde(default)]
    pub breakdown: Option<Property>,
}

/// An event that spoils attempts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exclusion {
    /// Which events.
    pub filter: Filter,
    /// Between which steps, counted from 1; all of them if absent.
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
                let text: String = text.chars().take(64).collect();
                format!(
                    "{text:?} is no time; allowed is a number with s, m, h, d or w, up to \"366d\""
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

impl Funnel {
    /// Checks what the fields do not say alone.
    ///
    /// # Errors
    /// A sentence that names the field, the value and what is allowed.
    pub fn check(&self) -> Result<(), String> {
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
                    "exclude.between is [{from},{to}]; in any order only [1,{last}] has a meaning"
                ));
            }
        }
        Ok(())
    }

    /// Whether columns are needed that are not among [`schema::COUNTED`].
    pub fn needs_details(&self) -> bool {
        self.filters().any(Filter::needs_details)
            || self.breakdown.as_ref().is_some_and(Property::is_detail)
    }

    /// The features whose uses are all that is needed, if it is so. The order of uses at one instant does not matter then:
    /// those that differ fill different steps.
    pub fn features(&self) -> Option<Vec<String>> {
        match (self.order, &self.breakdown) {
            (Order::Ordered | Order::Any, None) => Filter::only_features(self.filters()),
            _ => None,
        }
    }

    /// What steps and then exclusions look for.
    fn filters(&self) -> impl Iterator<Item = &Filter> + Clone {
        let excluded = self.exclude.iter().map(|exclusion| &exclusion.filter);
        self.steps.iter().chain(excluded)
    }

    /// The rules of an attempt.
    pub fn rules(&self) -> Rules {
        let whole = [1, self.steps.len()];
        let exclusions = self.exclude.iter().map(|exclusion| {
            let [from, to] = exclusion.between.unwrap_or(whole);
            Between { from, to }
        });
        Rules {
            steps: self.steps.len(),
            within_us: self.within.us,
            order: self.order,
            exclusions: exclusions.collect(),
        }
    }

    /// The acts in events whose users are numbers: user, `ts`, marks and group, in the order of the events.
    pub fn acts(&self, events: LazyFrame) -> LazyFrame {
        let bits = (0..self.steps.len()).chain(MAX_STEPS..);
        let marks = self
            .filters()
            .zip(bits)
            .map(|(filter, bit)| filter.expr().cast(DataType::UInt32) * lit(1_u32 << bit));
        let marks = marks.reduce(|all, more| all + more).unwrap_or(lit(0_u32));
        let mut columns = vec![
            col(schema::USER_ID),
            col(schema::TS).to_physical(),
            marks.alias(MARKS),
        ];
        if let Some(property) = &self.breakdown {
            columns.push(property.expr().cast(DataType::String).alias(GROUP));
        }
        let mut events = events.filter(col(schema::USER_ID).is_not_null());
        if self.order != Order::Strict {
            // Said as a condition on the stored columns, it is applied while they are read.
            events = events.filter(Filter::any(self.filters()));
        }
        events.select(columns)
    }
}

/// The acts of all users.
#[derive(Debug, Default)]
pub struct Acts {
    acts: Sequences<Act>,
    groups: Names,
}

impl Acts {
    /// Adds those of a frame that [`Funnel::acts`] gave, of users whose number `keep` wants.
    ///
    /// # Errors
    /// If the frame lacks a column.
    pub fn read(&mut self, frame: &DataFrame, keep: impl Fn(u32) -> bool) -> Result<()> {
        let users = frame.column(schema::USER_ID)?.u32()?;
        let instants = frame.column(schema::TS)?.i64()?;
        let marks = frame.column(MARKS)?.u32()?;
        let mut names = match frame.column(GROUP) {
            Ok(column) => Some(column.str()?.iter()),
            Err(_) => None,
        };
        let rows = users.iter().zip(instants.iter()).zip(marks.iter());
        let Self { acts, groups } = self;
        let done = rows.filter_map(|((user, ts_us), marks)| {
            let name = names.as_mut().map(|names| names.next().flatten());
            let user = user.filter(|&user| keep(user))?;
            let act = Act {
                ts_us: ts_us?,
                marks: marks?,
                group: name.map_or(0, |name| groups.number(name)),
            };
            Some((user, act))
        });
        acts.extend(frame.height(), done);
        Ok(())
    }

    /// The acts themselves.
    pub fn sequences(&mut self) -> &mut Sequences<Act> {
        &mut self.acts
    }

    /// The best attempts of a range of users.
    pub fn tally(&self, users: Range<u32>, rules: &Rules) -> Tally {
        let mut tally = Tally::default();
        self.acts.for_each(users, |of_user| {
            if let Some(attempt) = rules.best(of_user) {
                tally.add(&attempt, self.groups.name(attempt.group));
            }
        });
        tally
    }
}

/// What the attempts of all users come to.
#[derive(Debug, Default)]
pub struct Tally {
    groups: HashMap<Option<String>, GroupTally>,
}

/// Of one group: for each step the times of those who reached it, in µs.
#[derive(Debug, Clone, Default)]
struct GroupTally {
    from_first_us: Vec<Vec<i64>>,
    from_previous_us: Vec<Vec<i64>>,
}

impl Tally {
    fn add(&mut self, attempt: &Attempt, group: Option<&str>) {
        let group = group.map(str::to_owned);
        self.groups.entry(group).or_default().add(&attempt.times_us);
    }

    /// Adds the attempts of other users.
    pub fn merge(&mut self, other: Self) {
        for (name, group) in other.groups {
            self.groups.entry(name).or_default().merge(group);
        }
    }
}

impl GroupTally {
    fn add(&mut self, times_us: &[i64]) {
        let Some(&first) = times_us.first() else {
            return;
        };
        let levels = self.from_first_us.len().max(times_us.len());
        self.from_first_us.resize(levels, Vec::new());
        self.from_previous_us.resize(levels, Vec::new());
        let mut previous = first;
        let times = self
            .from_first_us
            .iter_mut()
            .zip(&mut self.from_previous_us);
        for ((from_first, from_previous), &time) in times.zip(times_us) {
            from_first.push(time - first);
            from_previous.push(time - previous);
            previous = time;
        }
    }

    fn merge(&mut self, other: Self) {
        let levels = self.from_first_us.len().max(other.from_first_us.len());
        self.from_first_us.resize(levels, Vec::new());
        self.from_previous_us.resize(levels, Vec::new());
        for (mine, theirs) in self.from_first_us.iter_mut().zip(other.from_first_us) {
            mine.extend(theirs);
        }
        for (mine, theirs) in self.from_previous_us.iter_mut().zip(other.from_previous_us) {
            mine.extend(theirs);
        }
    }

    fn users(&self, step: usize) -> u64 {
        self.from_first_us.get(step).map_or(0, Vec::len) as u64
    }
}

impl Timed for Act {
    fn ts_us(&self) -> i64 {
        self.ts_us
    }
}

impl Funnel {
    /// The answer.
    pub fn answer(&self, tally: Tally) -> Table {
        let mut groups: Vec<(Option<String>, GroupTally)> = tally.groups.into_iter().collect();
        groups.sort_by(|(a, many), (b, more)| more.users(0).cmp(&many.users(0)).then(a.cmp(b)));
        if groups.len() > MAX_GROUPS {
            let rest = groups.split_off(MAX_GROUPS);
            let mut other = GroupTally::default();
            rest.into_iter().for_each(|(_, group)| other.merge(group));
            groups.push((Some(OTHER.into()), other));
        }
        if groups.is_empty() && self.breakdown.is_none() {
            groups.push((None, GroupTally::default()));
        }
        let mut rows = Rows::default();
        for (name, mut group) in groups {
            for step in 0..self.steps.len() {
                rows.push(name.clone(), step, &mut group);
            }
        }
        rows.table(self.breakdown.is_some())
    }
}

/// The answer, row by row.
#[derive(Default)]
struct Rows {
    groups: Vec<Option<String>>,
    steps: Vec<u64>,
    users: Vec<u64>,
    of_first: Vec<f64>,
    of_previous: Vec<f64>,
    drop_off: Vec<u64>,
    from_first: Times,
    from_previous: Times,
}

/// Times that a step took, in seconds.
#[derive(Default)]
struct Times {
    mean: Vec<Option<f64>>,
    median: Vec<Option<f64>>,
    p90: Vec<Option<f64>>,
}

impl Rows {
    fn push(&mut self, name: Option<String>, step: usize, group: &mut GroupTally) {
        let (first, users) = (group.users(0), group.users(step));
        let previous = step
            .checked_sub(1)
            .map_or(users, |before| group.users(before));
        self.groups.push(name);
        self.steps.push(step as u64 + 1);
        self.users.push(users);
        self.of_first.push(share(users, first));
        self.of_previous.push(share(users, previous));
        self.drop_off.push(previous - users);
        // The first step takes no time.
        let times = |times: &mut Times, of: &mut Vec<Vec<i64>>| match of.get_mut(step) {
            Some(of_step) if step > 0 => times.push(of_step),
            _ => times.push(&mut []),
        };
        times(&mut self.from_first, &mut group.from_first_us);
        times(&mut self.from_previous, &mut group.from_previous_us);
    }

    fn table(self, with_groups: bool) -> Table {
        let table = match with_groups {
            true => Table::default().with("breakdown", self.groups),
            false => Table::default(),
        };
        let table = table
            .with("step", self.steps)
            .with("users", self.users)
            .with("conversion_from_first", self.of_first)
            .with("conversion_from_previous", self.of_previous)
            .with("drop_off", self.drop_off);
        let table = self.from_first.columns(table, "seconds_from_first");
        self.from_previous.columns(table, "seconds_from_previous")
    }
}

impl Times {
    fn push(&mut self, times_us: &mut [i64]) {
        times_us.sort_unstable();
        let sum: i128 = times_us.iter().map(|&us| i128::from(us)).sum();
        let mean = (!times_us.is_empty()).then(|| sum as f64 / times_us.len() as f64 / 1e6);
        self.mean.push(mean);
        self.median.push(quantile(times_us, 0.5));
        self.p90.push(quantile(times_us, 0.9));
    }

    fn columns(self, table: Table, group: &'static str) -> Table {
        table
            .with_in(group, "mean", self.mean)
            .with_in(group, "median", self.median)
            .with_in(group, "p90", self.p90)
    }
}

/// A quantile of sorted times, interpolated between its neighbours, in seconds.
fn quantile(sorted_us: &[i64], share: f64) -> Option<f64> {
    let place = share * sorted_us.len().checked_sub(1)? as f64;
    let below = *sorted_us.get(place.floor() as usize)? as f64;
    let above = *sorted_us.get(place.ceil() as usize)? as f64;
    Some((below + (above - below) * place.fract()) / 1e6)
}

fn share(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        whole => part as f64 / whole as f64,
    }
}

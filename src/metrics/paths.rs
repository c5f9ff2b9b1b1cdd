//! Paths: which features follow each other.
//!
//! A path is the sequence of features of a user, or of a session, with immediate repeats folded to one; events without a
//! feature are not in it. A session ends when the user's next event, of any kind, comes more than 30 minutes later. With
//! `start` a path begins at the first event that meets it. Step k is the transition from the k-th feature to the next one,
//! of the first `depth` features.
//!
//! Of each transition: distinct users and, by session, sessions. The most used transitions of each step first, ties by
//! name, at most `limit` of them. Whole paths to the given length are counted beside them. Events of one instant are in the
//! order of the log. Anonymous events are nobody's. Definitions: `docs/metrics.md`, "Paths and experiments".

use std::collections::{BTreeSet, HashMap, HashSet};

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::filter::Filter;
use super::sequence::{Sequences, Timed};
use super::table::Table;
use super::values::Names;
use crate::error::Result;
use crate::schema;

/// Inactivity that ends a session, in µs: 30 minutes, as everywhere in the field.
const SESSION_GAP_US: i64 = 30 * 60 * 1_000_000;
/// Longest path, in features.
const MAX_DEPTH: usize = 20;
/// Most rows of a step.
const MAX_LIMIT: usize = 1_000;

const START: &str = "start";

/// The question.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// What a path is of.
    pub by: By,
    /// Features of a path, 2 to 20.
    pub depth: usize,
    /// Where a path begins; with the first feature if absent.
    pub start: Option<Filter>,
    /// Rows of each step, and whole paths.
    pub limit: usize,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            by: By::User,
            depth: 5,
            start: None,
            limit: 100,
        }
    }
}

/// What a path is of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// All that a user did.
    #[default]
    User,
    /// What a user did without a pause.
    Session,
}

/// A visit of a feature, or a sign of life.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    ts_us: i64,
    feature: Option<u32>,
    is_start: bool,
}

impl Timed for Visit {
    fn ts_us(&self) -> i64 {
        self.ts_us
    }
}

/// The visits of all users.
#[derive(Debug, Default)]
pub struct Visits {
    visits: Sequences<Visit>,
    features: Names,
}

/// A whole path and who took it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WholePath {
    /// Its features.
    pub path: Vec<String>,
    /// Distinct users.
    pub users: u64,
}

/// What the visits of all users come to.
#[derive(Debug, Default)]
pub struct Transitions {
    counts: HashMap<(usize, u32, u32), Count>,
    whole: HashMap<Vec<u32>, u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    users: u64,
    sessions: u64,
}

impl Paths {
    /// Checks what the fields do not say alone.
    ///
    /// # Errors
    /// A sentence that names the field, the value and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        if !(2..=MAX_DEPTH).contains(&self.depth) {
            return Err(format!(
                "depth is {}; allowed is 2 to {MAX_DEPTH}",
                self.depth
            ));
        }
        if !(1..=MAX_LIMIT).contains(&self.limit) {
            return Err(format!(
                "limit is {}; allowed is 1 to {MAX_LIMIT}",
                self.limit
            ));
        }
        Ok(())
    }

    /// The visits in events whose users are numbers: user, `ts`, feature and whether a path begins, in the order of the
    /// events.
    pub fn visits(&self, events: LazyFrame) -> LazyFrame {
        let start = self.start.as_ref().map_or(lit(true), Filter::expr);
        let known = col(schema::USER_ID).is_not_null();
        let matters = match self.by {
            By::User => known.and(col(schema::FEATURE).is_not_null().or(start.clone())),
            By::Session => known,
        };
        events.filter(matters).select([
            col(schema::USER_ID),
            col(schema::TS).to_physical(),
            col(schema::FEATURE).cast(DataType::String),
            start.alias(START),
        ])
    }

    fn add_user(&self, visits: &[Visit], into: &mut Transitions) {
        let mut taken = HashSet::new();
        let mut whole = BTreeSet::new();
        for session in
            visits.chunk_by(|a, b| self.by == By::User || b.ts_us - a.ts_us <= SESSION_GAP_US)
        {
            let mut path: Vec<u32> = Vec::with_capacity(self.depth);
            let begun = session.iter().skip_while(|visit| !visit.is_start);
            for feature in begun.filter_map(|visit| visit.feature) {
                if path.last() != Some(&feature) {
                    path.push(feature);
                }
                if path.len() == self.depth {
                    break;
                }
            }
            for (step, pair) in (1..).zip(path.windows(2)) {
                if let [from, to] = *pair {
                    let count = into.counts.entry((step, from, to)).or_default();
                    count.sessions += 1;
                    if taken.insert((step, from, to)) {
                        count.users += 1;
                    }
                }
            }
            if !path.is_empty() {
                whole.insert(path);
            }
        }
        for path in whole {
            *into.whole.entry(path).or_default() += 1;
        }
    }

    /// Adds the paths of some users, and forgets their visits.
    pub fn count(&self, visits: &mut Visits, into: &mut Transitions) {
        let visits = std::mem::take(&mut visits.visits);
        visits.for_each(0..u32::MAX, |of_user| self.add_user(of_user, into));
    }

    /// The answer: transitions, and whole paths.
    pub fn answer(&self, visits: &Visits, found: Transitions) -> (Table, Vec<WholePath>) {
        let name = |feature: u32| visits.features.name(feature).unwrap_or_default();
        let mut rows: Vec<(usize, Count, &str, &str)> = found
            .counts
            .into_iter()
            .map(|((step, from, to), count)| (step, count, name(from), name(to)))
            .collect();
        rows.sort_by(|a, b| (a.0, b.1.users, a.2, a.3).cmp(&(b.0, a.1.users, b.2, b.3)));
        let mut of_step = 0;
        let mut step = 0;
        rows.retain(|row| {
            of_step = if row.0 == step { of_step + 1 } else { 1 };
            step = row.0;
            of_step <= self.limit
        });
        let names = |end: fn(&(usize, Count, &str, &str)) -> String| -> Vec<String> {
            rows.iter().map(end).collect()
        };
        let table = Table::default()
            .with(
                "step",
                rows.iter().map(|row| row.0 as u64).collect::<Vec<_>>(),
            )
            .with("from", names(|row| row.2.to_owned()))
            .with("to", names(|row| row.3.to_owned()))
            .with(
                "users",
                rows.iter().map(|row| row.1.users).collect::<Vec<_>>(),
            );
        let table = match self.by {
            By::User => table,
            By::Session => {
                let sessions: Vec<u64> = rows.iter().map(|row| row.1.sessions).collect();
                table.with("sessions", sessions)
            }
        };
        let mut whole: Vec<WholePath> = found
            .whole
            .into_iter()
            .map(|(path, users)| WholePath {
                path: path
                    .into_iter()
                    .map(|feature| name(feature).to_owned())
                    .collect(),
                users,
            })
            .collect();
        whole.sort_by(|a, b| b.users.cmp(&a.users).then_with(|| a.path.cmp(&b.path)));
        whole.truncate(self.limit);
        (table, whole)
    }
}

impl Visits {
    /// The visits themselves.
    pub fn sequences(&mut self) -> &mut Sequences<Visit> {
        &mut self.visits
    }

    /// Adds those of a frame that [`Paths::visits`] gave, of users whose number `keep` wants.
    ///
    /// # Errors
    /// If the frame lacks a column.
    pub fn read(&mut self, frame: &DataFrame, keep: impl Fn(u32) -> bool) -> Result<()> {
        let users = frame.column(schema::USER_ID)?.u32()?;
        let instants = frame.column(schema::TS)?.i64()?;
        let features = frame.column(schema::FEATURE)?.str()?;
        let starts = frame.column(START)?.bool()?;
        let keys = users.iter().zip(instants.iter());
        let rows = keys.zip(features.iter().zip(starts.iter()));
        let Self {
            visits,
            features: names,
        } = self;
        let done = rows.filter_map(|((user, ts_us), (feature, is_start))| {
            let user = user.filter(|&user| keep(user))?;
            let visit = Visit {
                ts_us: ts_us?,
                feature: feature.map(|feature| names.number(Some(feature))),
                is_start: is_start.unwrap_or(false),
            };
            Some((user, visit))
        });
        visits.extend(frame.height(), done);
        Ok(())
    }
}

//! Paths: transitions from one feature to the next.
//!
//! A path is the sequence of features of a user, or of a session, with immediate repeats folded to
//! one; events without a feature are not in it. A session ends when the user's next event, of any
//! kind, comes more than 30 minutes later. With `start` a path begins at the first event that meets
//! it. Step k is the transition from the k-th feature to the next one, of the first `depth`
//! features.
//!
//! Of each transition: distinct users and, by session, sessions. The most used transitions of each
//! step first, ties by name, at most `limit` of them. The note `paths` counts complete paths of the
//! given length. Events of one timestamp are in the order of the log. Anonymous events are in no
//! path. Definitions: `docs/metrics.md`, "Paths and experiments".

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::budget::Charge;
use super::filter::{Filter, Property};
use super::local_dictionary::LocalDictionary;
use super::sharded::ShardedMap;
use super::source::{CancelChecks, Source};
use super::table::Table;
use super::visits::{NO_VALUE, Visit, Visits, Which, is_one_session};
use super::{Answer, Measure, check_limit, top};
use crate::error::Result;

/// Longest path, in features.
const MAX_DEPTH: usize = 20;
/// Most rows of a step.
const MAX_LIMIT: usize = 1_000;

/// The parameters.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// Events that make up one path.
    #[schema(default = "user")]
    pub by: By,
    /// Most features of a path, 2 to 20.
    #[schema(minimum = 2, maximum = 20)]
    pub depth: usize,
    /// The event at which a path begins; the first one if absent.
    #[schema(default = json!(null))]
    pub start: Option<Filter>,
    /// Most rows of each step, and most complete paths.
    #[schema(minimum = 1, maximum = 1_000)]
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

/// Events that make up one path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// All events of a user.
    #[default]
    User,
    /// The events of a session.
    Session,
}

/// A complete path and its users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct CompletePath {
    path: Vec<String>,
    users: u64,
}

/// Transitions and complete paths of all users, features as codes of values of visits.
#[derive(Debug, Default)]
struct Transitions {
    counts: ShardedMap<(u8, u32, u32), Count>,
    complete: ShardedMap<Box<[u32]>, u64>,
    /// Bytes of the complete paths outside of their table.
    path_bytes: u64,
    /// Sessions since the memory was charged.
    uncharged: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    users: u32,
    sessions: u64,
}

/// The transitions of the users of a range, or of all.
struct OfRange<'a> {
    found: Transitions,
    checks: CancelChecks<'a>,
    charge: Charge<'a>,
}

/// Bytes of an entry of the sets of one user: a transition or a path, with what their tables leave
/// free.
const OWN_ENTRY_BYTES: usize = 96;
/// Sessions after which the memory is charged again: a megabyte of transitions and paths at most.
const SESSIONS_PER_CHARGE: u32 = 1_024;
/// The same for the transitions and paths of other users.
const ENTRIES_PER_CHARGE: u32 = 16_384;

impl Measure for Paths {
    fn check(&self) -> Result<(), String> {
        if !(2..=MAX_DEPTH).contains(&self.depth) {
            return Err(format!(
                "depth is {}; allowed is 2 to {MAX_DEPTH}",
                self.depth
            ));
        }
        check_limit(self.limit, MAX_LIMIT)
    }

    fn filters_mut(&mut self) -> Vec<&mut Filter> {
        self.start.iter_mut().collect()
    }

    fn days_before(&self) -> u16 {
        0
    }

    fn run(&self, source: &dyn Source, _now: DateTime<Utc>) -> Result<Answer> {
        let visits = Visits {
            days: source.window().days_in_epoch(),
            property: Some(&Property::Feature),
            filters: self.start.iter().collect(),
            which: match self.by {
                By::User => Which::MetOrValued,
                // Those without a feature keep a session alive.
                By::Session => Which::All,
            },
        };
        let new = || OfRange {
            found: Transitions::default(),
            checks: CancelChecks::new(source),
            charge: source.budget().charge(),
        };
        let all = Mutex::new(new());
        let features = visits.for_each_user(
            source,
            new,
            |_, visits, of_range| self.add_user(visits, of_range),
            |of_range| all.lock().merge(of_range.found),
        )?;
        let OfRange { found, charge, .. } = all.into_inner();
        // The memory of the transitions is charged with that of the rows.
        drop(charge);
        self.answer(&features, found, source)
    }
}

impl Paths {
    fn add_user(
        &self,
        visits: &[Visit],
        OfRange {
            found: into,
            checks,
            charge,
        }: &mut OfRange<'_>,
    ) -> Result<()> {
        let mut taken = HashSet::new();
        let mut complete: BTreeSet<Vec<u32>> = BTreeSet::new();
        let is_one_path =
            |a: &Visit, b: &Visit| self.by == By::User || is_one_session(a.ts_us, b.ts_us);
        for session in visits.chunk_by(is_one_path) {
            checks.step()?;
            into.uncharged += 1;
            if into.uncharged >= SESSIONS_PER_CHARGE {
                into.uncharged = 0;
                let own = (taken.len() + complete.len()) * OWN_ENTRY_BYTES;
                charge.set(into.bytes() + own as u64)?;
            }
            let mut path: Vec<u32> = Vec::with_capacity(self.depth);
            let is_before = |visit: &&Visit| self.start.is_some() && visit.met == 0;
            let features = session
                .iter()
                .skip_while(is_before)
                .map(|visit| visit.value);
            for feature in features.filter(|&feature| feature != NO_VALUE) {
                if path.last() != Some(&feature) {
                    path.push(feature);
                }
                if path.len() == self.depth {
                    break;
                }
            }
            for (step, pair) in (1_u8..).zip(path.windows(2)) {
                if let [from, to] = *pair {
                    let count = into.counts.entry((step, from, to)).or_default();
                    count.sessions += 1;
                    if taken.insert((step, from, to)) {
                        count.users += 1;
                    }
                }
            }
            if !path.is_empty() {
                complete.insert(path);
            }
        }
        for path in complete {
            checks.step()?;
            into.add_complete(path.into(), 1);
        }
        Ok(())
    }

    fn answer(
        &self,
        features: &LocalDictionary,
        found: Transitions,
        source: &dyn Source,
    ) -> Result<Answer> {
        let mut checks = CancelChecks::new(source);
        let name = |feature: u32| features.string(feature).unwrap_or_default();
        let mut charge = source.budget().charge();
        // The transitions are listed by step, while the table of the paths is still there.
        let held = features.bytes() + found.bytes();
        charge.set(held + (found.counts.len() * size_of::<(u32, u32, Count)>()) as u64)?;
        let mut of_step: BTreeMap<u8, Vec<(u32, u32, Count)>> = BTreeMap::new();
        for ((step, from, to), count) in found.counts {
            checks.step()?;
            of_step.entry(step).or_default().push((from, to, count));
        }
        let (mut steps, mut from_names, mut to_names) = (Vec::new(), Vec::new(), Vec::new());
        let (mut users, mut sessions) = (Vec::new(), Vec::new());
        for (step, transitions) in of_step {
            let most_used_first = |a: &(u32, u32, Count), b: &(u32, u32, Count)| {
                let names = |&(from, to, _): &(u32, u32, Count)| (name(from), name(to));
                let by_users = b.2.users.cmp(&a.2.users);
                by_users.then_with(|| names(a).cmp(&names(b)))
            };
            let transitions = transitions.into_iter();
            for (from, to, count) in
                top::first_by(transitions, self.limit, most_used_first, &mut checks)?
            {
                steps.push(u64::from(step));
                from_names.push(name(from).to_owned());
                to_names.push(name(to).to_owned());
                users.push(u64::from(count.users));
                sessions.push(count.sessions);
            }
        }
        let table = Table::default()
            .with("step", steps)
            .with("from", from_names)
            .with("to", to_names)
            .with("users", users);
        let table = match self.by {
            By::User => table,
            By::Session => table.with("sessions", sessions),
        };
        let most_used_first = |(a, many): &(Box<[u32]>, u64), (b, more): &(Box<[u32]>, u64)| {
            let by_name = || compare_paths(a, b, name);
            more.cmp(many).then_with(by_name)
        };
        let complete = found.complete.into_iter();
        let complete = top::first_by(complete, self.limit, most_used_first, &mut checks)?;
        let complete = complete.into_iter().map(|(path, users)| CompletePath {
            path: path.iter().map(|&code| name(code).to_owned()).collect(),
            users,
        });
        let complete: Vec<CompletePath> = complete.collect();
        Ok(Answer::from(table).with_note("paths", json!(complete)))
    }
}

impl Transitions {
    fn add_complete(&mut self, path: Box<[u32]>, users: u64) {
        let bytes = size_of_val(&*path) as u64;
        let known = self.complete.entry(path).or_insert_with(|| {
            self.path_bytes += bytes;
            0
        });
        *known += users;
    }

    /// Bytes in memory.
    fn bytes(&self) -> u64 {
        self.counts.bytes() + self.complete.bytes() + self.path_bytes
    }
}

/// The order of two paths by the names of their features.
fn compare_paths<'a>(a: &[u32], b: &[u32], name: impl Fn(u32) -> &'a str) -> Ordering {
    let names_of_b = b.iter().map(|&feature| name(feature));
    a.iter().map(|&feature| name(feature)).cmp(names_of_b)
}

impl OfRange<'_> {
    /// Merges the transitions of other users.
    ///
    /// # Errors
    /// If the query is cancelled, or its memory is not enough.
    fn merge(&mut self, others: Transitions) -> Result<()> {
        for (transition, count) in others.counts {
            self.step()?;
            let of_all = self.found.counts.entry(transition).or_default();
            of_all.users += count.users;
            of_all.sessions += count.sessions;
        }
        for (path, users) in others.complete {
            self.step()?;
            self.found.add_complete(path, users);
        }
        self.charge.set(self.found.bytes())
    }

    /// To be called for each transition and path that is added.
    fn step(&mut self) -> Result<()> {
        self.checks.step()?;
        self.found.uncharged += 1;
        if self.found.uncharged >= ENTRIES_PER_CHARGE {
            self.found.uncharged = 0;
            self.charge.set(self.found.bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::metrics::frame::{FrameSource, Row};

    const EVENTS: [Row<'_>; 9] = [
        ("2024-03-01 10:00", "action", "ann", "home"),
        ("2024-03-01 10:01", "action", "ann", "home"),
        ("2024-03-01 10:20", "action", "ann", ""),
        ("2024-03-01 10:50", "action", "ann", "cart"),
        // 31 minutes later.
        ("2024-03-01 11:21", "action", "ann", "docs"),
        // At one timestamp, in the order of the log.
        ("2024-03-01 10:00", "action", "bob", "home"),
        ("2024-03-01 10:00", "action", "bob", "cart"),
        ("2024-03-01 10:00", "action", "", "home"),
        ("2024-03-01 10:00", "action", "", "cart"),
    ];

    /// The transitions as step, from, to and users.
    fn transitions(parameters: &[(&str, Value)]) -> (Vec<String>, Value) {
        let mut query = json!({"metric":"paths"});
        let fields = query.as_object_mut().expect("an object");
        fields.extend(
            parameters
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone())),
        );
        let mut source = FrameSource::new("2024-03-01", 1, &EVENTS);
        source.batch_rows = 2;
        let answer = source.query(query, "2038-01-01 00:00").expect("a result");
        let rows = json!(answer.rows);
        let rows = rows.as_array().expect("rows").iter().map(|row| {
            let text = |name: &str| row[name].as_str().expect("a name").to_owned();
            format!(
                "{} {} {} {}",
                row["step"],
                text("from"),
                text("to"),
                row["users"]
            )
        });
        (rows.collect(), answer.notes["paths"].clone())
    }

    #[test]
    fn repeats_are_folded_and_ties_keep_the_order_of_the_log() {
        let (rows, paths) = transitions(&[]);
        assert_eq!(rows, ["1 home cart 2", "2 cart docs 1"]);
        let expected = json!([
            {"path":["home","cart"],"users":1},
            {"path":["home","cart","docs"],"users":1},
        ]);
        assert_eq!(paths, expected);
    }

    #[test]
    fn a_session_ends_after_30_minutes_without_any_event() {
        let (rows, paths) = transitions(&[("by", json!("session"))]);
        assert_eq!(rows, ["1 home cart 2"]);
        let expected = json!([
            {"path":["home","cart"],"users":2},
            {"path":["docs"],"users":1},
        ]);
        assert_eq!(paths, expected);
    }

    #[test]
    fn a_path_begins_at_the_start_and_ends_at_the_depth() {
        let start = ("start", json!({"feature":"cart"}));
        assert_eq!(transitions(&[start]).0, ["1 cart docs 1"]);
        let (rows, paths) = transitions(&[("depth", json!(2)), ("limit", json!(1))]);
        assert_eq!(rows, ["1 home cart 2"]);
        assert_eq!(paths, json!([{"path":["home","cart"],"users":2}]));
    }
}

//! A server that takes no events and runs queries on a table to which others publish (`serve
//! --read-from TABLE`). Its data folder is a copy of the table: each day of the table becomes a day
//! of the store, with each event once, its states and its columns.
//!
//! A day is replaced as a whole, so that a query sees it as it was at one version of the table.
//! Days that are older than events are kept are left to expiry: their states outlive their files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use chrono::{DateTime, Days, NaiveDate, Utc};
use parking_lot::Mutex;
use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;

use super::Engine;
use super::export::is_bucket;
use crate::backoff::Backoff;
use crate::digest::Digester;
use crate::error::{Error, ErrorCode, Result};
use crate::export::delta::action::Add;
use crate::export::delta::log::Snapshot;
use crate::export::delta::shared;
use crate::export::destination::{Destination, Readers};
use crate::export::layout::EVENTS_DIR;
use crate::monitoring::TableGauges;
use crate::store::{DayPart, JoinedDay, read_day};
use crate::window::utc_string;

/// The folder of copies of files of a bucket, among the unfinished files of the store.
const COPIES: &str = "table-copies";

/// The table that a server reads, and how often it looks for a new version.
#[derive(Debug, Clone)]
pub struct ReadTarget {
    /// A folder, or the address of a bucket or a part of it.
    pub from: String,
    /// Time between two looks.
    pub every: Duration,
}

/// The reading of a table, in the status of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct TableReadStatus {
    /// The place of the table.
    pub from: String,
    /// The version that queries see; absent before the first since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Time at which this was known to be the newest version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_at: Option<String>,
    /// Seconds since then; since the start before the first.
    pub lag_seconds: u64,
    /// Days of the table whose newest events queries do not see yet.
    pub waiting_days: usize,
    /// Failures in a row.
    pub failures: u32,
    /// The last of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// The table that a server reads.
#[derive(Default)]
pub(super) struct Follower {
    target: OnceLock<Target>,
    work: Mutex<Work>,
    state: Mutex<State>,
}

struct Target {
    from: Destination,
    every: Duration,
    since: Instant,
}

/// Held while the table is read.
#[derive(Default)]
struct Work {
    snapshot: Option<Snapshot>,
    /// The files that a day of the store is made of, as far as this process made it.
    files: BTreeMap<NaiveDate, BTreeSet<String>>,
    backoff: Backoff,
    /// When the table was last read.
    looked: Option<Instant>,
}

#[derive(Default)]
struct State {
    /// When the version was known to be the newest.
    read: Option<Instant>,
    status: TableReadStatus,
}

impl Engine {
    /// Begins to read a table. Nothing is read yet.
    ///
    /// # Errors
    /// `bad_target` for an address that cannot be used, and `not_empty` if the data folder has
    /// events of its own.
    pub fn read_from(&self, target: &ReadTarget) -> Result<()> {
        if self.store.has_own_events() {
            let message = format!(
                "{} has events that are not from a table; use another data folder for --read-from",
                self.store.folder().path().display()
            );
            return Err(Error::bad_input(ErrorCode::NotEmpty, message));
        }
        let temp = self.store.folder().temp(COPIES)?;
        let from = Destination::open(&target.from, temp, Readers::ByUmask)?;
        if is_bucket(&target.from) {
            from.clear_temp()?;
        }
        self.follower.state.lock().status.from = from.shown("").trim_end_matches('/').to_owned();
        self.follower.target.get_or_init(|| Target {
            from,
            every: target.every,
            since: Instant::now(),
        });
        Ok(())
    }

    /// Checks that the server takes events and changes of them.
    ///
    /// # Errors
    /// [`Error::QueryNode`] if it reads a table, or the data folder is a copy of one.
    pub fn check_takes_events(&self) -> Result<()> {
        match self.follower.target.get().is_some() || self.store.is_copy() {
            false => Ok(()),
            true => Err(Error::QueryNode),
        }
    }

    /// Reads what is new in the table, if it is time. Called every second.
    ///
    /// # Errors
    /// If the table or a file of it cannot be read; days that were read before stay, and it is
    /// tried again after a pause.
    pub fn follow_table(&self, now: DateTime<Utc>) -> Result<()> {
        let (Some(target), Some(mut work)) =
            (self.follower.target.get(), self.follower.work.try_lock())
        else {
            return Ok(());
        };
        let is_time = work
            .looked
            .is_none_or(|looked| looked.elapsed() >= target.every);
        if !is_time || work.backoff.is_waiting(Instant::now(), || false) {
            return Ok(());
        }
        work.looked = Some(Instant::now());
        let done = self.read_table(target, &mut work, now);
        let mut state = self.follower.state.lock();
        match &done {
            Ok(()) => {
                work.backoff.succeed();
                state.status.failures = 0;
                state.status.last_error = None;
            }
            Err(error) => {
                // The files that are known may have been deleted.
                work.snapshot = None;
                work.backoff.fail(Instant::now());
                state.status.failures = state.status.failures.saturating_add(1);
                state.status.last_error = Some(error.to_string());
            }
        }
        done
    }

    fn read_table(&self, target: &Target, work: &mut Work, now: DateTime<Utc>) -> Result<()> {
        let began = Instant::now();
        let from = &target.from;
        let mut snapshot = match work.snapshot.take() {
            Some(mut known) => {
                known.follow(from, EVENTS_DIR)?;
                known
            }
            None => Snapshot::read(from, EVENTS_DIR)?,
        };
        shared::check_readable(from, &snapshot)?;
        if snapshot.version.is_none() && self.store.is_copy() {
            let message = format!(
                "there is no table at {}; queries see what was read before",
                from.shown(EVENTS_DIR)
            );
            return Err(Error::bad_input(ErrorCode::BadTarget, message));
        }
        let today = self.store.trusted(now)?.date_naive();
        let kept_from = today - Days::new(self.config.raw_retention_days.into());
        let due = due_days(&self.store.followed_days(), &snapshot, kept_from);
        let mut waiting = due.len();
        self.follower.state.lock().status.waiting_days = waiting;
        let mut has_lost_files = false;
        // The newest first: they are asked for most.
        for (day, files) in due.into_iter().rev() {
            has_lost_files |= self.read_day(target, work, day, &files)?;
            waiting -= 1;
            self.follower.state.lock().status.waiting_days = waiting;
        }
        if has_lost_files {
            // Users may have been erased.
            self.store.forget_unused_ids()?;
        }
        snapshot.forget_removed();
        let version = snapshot.version;
        work.snapshot = Some(snapshot);
        let mut state = self.follower.state.lock();
        let status = &mut state.status;
        if status.version != version {
            info!(
                version,
                "Queries see version {} of the table",
                version.unwrap_or_default()
            );
        }
        status.version = version;
        status.read_at = Some(utc_string(Utc::now()));
        state.read = Some(began);
        Ok(())
    }

    /// Makes a day of the store that of the table. True if not only files were added to it.
    fn read_day(
        &self,
        target: &Target,
        work: &mut Work,
        day: NaiveDate,
        files: &[Add],
    ) -> Result<bool> {
        let names: BTreeSet<String> = files.iter().map(|add| add.path.clone()).collect();
        let known = work.files.remove(&day).unwrap_or_default();
        // Only files were added: the others are in the day already.
        let is_more = !known.is_empty() && known.is_subset(&names);
        let mut frames = match is_more {
            true => self.store.sealed_events(day)?,
            false => Vec::new(),
        };
        for add in files {
            if !(is_more && known.contains(&add.path)) {
                let copy = shared::copy(&target.from, add)?;
                frames.push(read_day(copy.path(), day, DayPart::ALL)?);
            }
        }
        let joined = JoinedDay::of(frames)?;
        self.store.replace_day(day, &joined, digest(files))?;
        work.files.insert(day, names);
        Ok(!is_more)
    }

    /// The state of the reading; none if the server takes events.
    pub(super) fn read_status(&self) -> Option<TableReadStatus> {
        let target = self.follower.target.get()?;
        let state = self.follower.state.lock();
        let since = state.read.unwrap_or(target.since);
        Some(TableReadStatus {
            lag_seconds: since.elapsed().as_secs(),
            ..state.status.clone()
        })
    }

    /// The same as gauges.
    pub(super) fn read_gauges(&self) -> Option<TableGauges> {
        let status = self.read_status()?;
        Some(TableGauges {
            version: status.version,
            lag: status.lag_seconds,
            failures: status.failures,
        })
    }
}

/// The days that differ from those of the table, with their files there. `known` are the days of
/// the store with the digests of their files; days before `kept_from` are left to expiry.
fn due_days(
    known: &BTreeMap<NaiveDate, String>,
    snapshot: &Snapshot,
    kept_from: NaiveDate,
) -> BTreeMap<NaiveDate, Vec<Add>> {
    let mut days: BTreeMap<NaiveDate, Vec<Add>> = shared::days_of(snapshot);
    for &day in known.keys() {
        days.entry(day).or_default();
    }
    days.retain(|day, files| {
        let is_kept = match files.is_empty() {
            // All its events were erased, or a server whose clock is ahead let it expire.
            true => *day > kept_from,
            false => *day >= kept_from,
        };
        is_kept && known.get(day) != Some(&digest(files))
    });
    days
}

/// A digest of the names of files, which are never used twice; empty without any.
fn digest(files: &[Add]) -> String {
    if files.is_empty() {
        return String::new();
    }
    let mut names: Vec<&str> = files.iter().map(|add| add.path.as_str()).collect();
    names.sort_unstable();
    Digester::fixed().digest(&names.join("\n")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(day: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 11, day).expect("a date")
    }

    fn file(of: u32, number: u32) -> Add {
        let path = format!(
            "dt={}/a-{number:08}-0000-0-0123456789abcdef.parquet",
            day(of)
        );
        let json = serde_json::json!({"path": path, "partitionValues": {}, "size": 1,
            "modificationTime": 1, "dataChange": true});
        serde_json::from_value(json).expect("a file")
    }

    #[test]
    fn days_with_other_files_are_read_again_and_expired_ones_are_left() {
        let files = [
            file(9, 1),
            file(10, 1),
            file(12, 1),
            file(12, 2),
            file(13, 1),
        ];
        let mut snapshot = Snapshot::default();
        for add in files {
            snapshot.live.insert(add.path.clone(), add);
        }
        let known: BTreeMap<NaiveDate, String> = [
            // Expired in the table and here; in the table; erased; one file more; as it is.
            (day(8), "8".into()),
            (day(10), digest(&[file(10, 9)])),
            (day(11), "11".into()),
            (day(12), digest(&[file(12, 1)])),
            (day(13), digest(&[file(13, 1)])),
        ]
        .into();
        let due = due_days(&known, &snapshot, day(10));
        let due: Vec<(NaiveDate, usize)> = due
            .into_iter()
            .map(|(day, files)| (day, files.len()))
            .collect();
        assert_eq!(due, [(day(10), 1), (day(11), 0), (day(12), 2)]);
        let due = due_days(&known, &snapshot, day(11));
        assert_eq!(due.into_keys().collect::<Vec<_>>(), [day(12)]);
    }
}

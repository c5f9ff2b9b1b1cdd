//! The lake as open tables: `echopilot export --for delta`, and what it shares with a server that
//! publishes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::export::{check_target, is_bucket};
use super::{Engine, ExportAnswer, ExportRequest};
use crate::error::{Error, ErrorCode, Result};
use crate::export::delta::table::Outcome;
use crate::export::delta::{Published, Source, Tables};
use crate::export::destination::{Destination, Readers};
use crate::export::lake::Exported;
use crate::export::rollups::Rollups;
use crate::progress::Progress;
use crate::rollup;
use crate::store::folder::Access;
use crate::store::{Compactions, SealedVersion};

/// The folder of files on their way to a bucket, among the unfinished files of the store.
const EXPORT_TEMP: &str = "table";
/// Interval at which an export looks whether a job has ended, or the time of a deletion has come.
const POLL: Duration = Duration::from_millis(100);
/// Time for which a publication waits for a compaction that runs.
const COMPACTION_PATIENCE: Duration = Duration::from_secs(10 * 60);

/// A table after an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableAnswer {
    /// Its name, and its folder in the destination.
    pub name: &'static str,
    /// Its version.
    pub version: Option<u64>,
    /// Files added.
    pub added: usize,
    /// Files removed from the table; they are deleted later.
    pub removed: usize,
}

impl Engine {
    /// Opens a destination for tables, whose credentials are checked.
    pub(super) fn open_tables(&self, to: &str, temp: &str) -> Result<Destination> {
        let folder = self.store.folder();
        if folder.access() == Access::ReadOnly {
            let message = "a table has sealed events only, and this data folder is read-only: its last events cannot be \
                           sealed";
            return Err(Error::bad_input(ErrorCode::BadTarget, message));
        }
        if !is_bucket(to) && check_target(to.as_ref(), folder.path())? {
            let message = format!("{to} is in the data folder; choose another folder for tables");
            return Err(Error::bad_input(ErrorCode::BadTarget, message));
        }
        let temp = match is_bucket(to) {
            true => folder.temp(temp)?,
            false => PathBuf::new(),
        };
        let to = Destination::open(to, temp, Readers::ByUmask)?;
        to.check_credentials()?;
        Ok(to)
    }

    /// Publishes what is sealed, once: `echopilot export --for delta`. If rows were erased, it
    /// waits until the files that had them are deleted.
    pub(super) fn export_tables(
        &self,
        request: &ExportRequest,
        now: DateTime<Utc>,
        progress: &Progress,
    ) -> Result<ExportAnswer> {
        if request.window.is_some() || request.since.is_some() {
            let message = "a table has all events; leave out the days and --since";
            return Err(Error::bad_input(ErrorCode::BadTarget, message));
        }
        if self.publishes_to(&request.to) {
            let message = "the server publishes to this place and keeps its tables up to date";
            return Err(Error::bad_input(ErrorCode::BadTarget, message));
        }
        let to = self.open_tables(&request.to, EXPORT_TEMP)?;
        let one = self.exports.lock();
        self.correct_rollups(now);
        self.store.seal()?;
        let version = self.wait_settled(progress)?;
        let rows = version.segments.iter().map(|segment| segment.rows());
        progress.set_total(rows.sum());
        let mark = self.store.folder().mark();
        let mark = mark.ok_or(Error::Busy("the data folder has no id"))?;
        let mut tables = Tables::new(mark);
        let place = place_of(&request.to);
        let published = self.publish_tables(&mut tables, &to, &version, &place, &mut |rows| {
            progress.add(rows);
            progress.check()
        });
        // Also after a failure, which may have filled the disk.
        let cleared = to.clear_temp();
        let published = published?;
        cleared?;
        tables.tidy(&to, now_ms())?;
        drop(one);
        let erased_go_at = published
            .iter()
            .filter_map(|(_, table)| table.erased_go_at)
            .max();
        while erased_go_at.is_some_and(|at| at > now_ms()) {
            progress.check()?;
            std::thread::sleep(POLL);
        }
        tables.tidy(&to, now_ms())?;
        progress.commit()?;
        Ok(answer(&published, version.segments.len()))
    }

    /// The version after the jobs that run.
    fn wait_settled(&self, progress: &Progress) -> Result<SealedVersion> {
        let began = Instant::now();
        loop {
            progress.check()?;
            if let Some(version) = self.store.settled_version(compactions(began.elapsed()))? {
                return Ok(version);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Publishes a version.
    ///
    /// # Errors
    /// As [`Tables::publish`].
    pub(super) fn publish_tables(
        &self,
        tables: &mut Tables,
        to: &Destination,
        version: &SealedVersion,
        place: &str,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Published> {
        let rollups = Rollups::read(&rollup::read(self.store.folder())?)?;
        let rollups = rollups.with_links(self.store.links_table(version)?);
        let source = Source {
            version,
            small: rollups.tables(),
        };
        tables.publish(to, &source, place, now_ms(), progress)
    }
}

/// Treatment of a compaction that runs, after this time.
pub(super) fn compactions(waited: Duration) -> Compactions {
    match waited < COMPACTION_PATIENCE {
        true => Compactions::Wait,
        false => Compactions::Ignore,
    }
}

/// The address of a destination for statements of other programs, which have another working
/// directory.
pub(super) fn place_of(to: &str) -> String {
    let absolute = || std::path::absolute(Path::new(to)).ok();
    let place = match is_bucket(to) {
        true => to.to_owned(),
        false => absolute().map_or(to.to_owned(), |path| path.display().to_string()),
    };
    place.trim_end_matches('/').to_owned()
}

fn answer(published: &Published, segments: usize) -> ExportAnswer {
    let tables = published.iter().map(|(name, table)| TableAnswer {
        name,
        version: table.version,
        added: table.added,
        removed: table.removed,
    });
    let default = Outcome::default();
    let events = published.first().map_or(&default, |(_, events)| events);
    ExportAnswer {
        ok: true,
        exported: Exported {
            files: events.added,
            unchanged: segments.saturating_sub(events.added),
            events: events.rows,
            bytes: events.bytes,
            ..Exported::default()
        },
        rollups: 0,
        tables: tables.collect(),
    }
}

/// The time, in ms since 1970.
pub(super) fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
}

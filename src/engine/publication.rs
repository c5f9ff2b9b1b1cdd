//! The tables that a server keeps up to date (`serve --publish`).
//!
//! It publishes on a thread of its own, which no ingest waits for: a destination that is slow
//! or gone only makes the tables older.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};
use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;

use super::Engine;
use super::tables::{compactions, now_ms, place_of};
use crate::backoff::Backoff;
use crate::error::Result;
use crate::export::delta::Tables;
use crate::export::delta::shared::SharedTable;
use crate::export::delta::table::Outcome;
use crate::export::destination::Destination;
use crate::monitoring::TableGauges;
use crate::rollup;
use crate::store::Compactions;
use crate::window::utc_string;

/// The folder of files on their way to a bucket, among the unfinished files of the store.
const SERVER_TEMP: &str = "publish";
/// Time for which the response to an erasure waits for its publication.
const RECEIPT_PATIENCE: Duration = Duration::from_secs(10);

/// Where and how often a server publishes.
#[derive(Debug, Clone)]
pub struct PublishTarget {
    /// A folder, or the address of a bucket or a part of it.
    pub to: String,
    /// Least time between two publications.
    pub every: Duration,
    /// The table of several servers that it publishes to; none for a table of its own.
    pub shared: Option<SharedTarget>,
}

/// Publication to a table of several servers.
#[derive(Debug, Clone)]
pub struct SharedTarget {
    /// Its id there.
    pub server: String,
    /// Time without a new file after which the files of a day that is over are joined.
    pub join_after: Duration,
}

/// The publication of a server, in its status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PublicationStatus {
    /// The destination.
    pub to: String,
    /// The id of this server, in a table of several servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The servers that have not applied an erasure yet, in a table of several servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub erasing: Vec<String>,
    /// The version of the table of events; absent before the first publication since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Time of the last publication that succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_at: Option<String>,
    /// The tables have everything that is sealed.
    pub up_to_date: bool,
    /// Seconds for which they have not had it; 0 if they have it.
    pub lag_seconds: u64,
    /// Failures in a row.
    pub failures: u32,
    /// The last of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Erased events in the published tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PublishedErasure {
    /// The destination.
    pub to: String,
    /// The version of the table of events from which on no reader sees them; absent if it was not
    /// published yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Time at which the replaced files are deleted; absent if none had events of the users, or if
    /// it was not published yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files_deleted_at: Option<String>,
    /// The servers of the table that have not erased them yet: each does so with its next
    /// publication. Absent for a table of one server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub erasing: Vec<String>,
    /// The reason that it was not published yet. It is tried again until it succeeds; the files are
    /// deleted within a minute after that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

/// The tables that a server keeps up to date.
#[derive(Default)]
pub(super) struct Publication {
    target: OnceLock<Target>,
    work: Mutex<Work>,
    state: Mutex<State>,
    /// A publication has ended.
    ended: Condvar,
    /// Records of erasures that requests apply here.
    erased_here: Mutex<BTreeSet<String>>,
}

/// A record of an erasure that a request applies here, as long as this exists.
pub(super) struct ErasedHere<'a> {
    publication: &'a Publication,
    id: String,
}

impl Drop for ErasedHere<'_> {
    fn drop(&mut self) {
        self.publication.erased_here.lock().remove(&self.id);
    }
}

struct Target {
    to: Destination,
    /// The address for statements.
    place: String,
    every: Duration,
    shared: Option<SharedTarget>,
}

/// Held while a publication runs.
#[derive(Default)]
struct Work {
    tables: Option<Tables>,
    shared: Option<SharedWork>,
    backoff: Backoff,
    /// When the last publication began.
    began: Option<Instant>,
}

/// The table of several servers.
pub(super) struct SharedWork {
    /// The table.
    pub table: SharedTable,
    /// The users whom other servers erased before this process began are erased here.
    pub knows_erased: bool,
}

/// Identifies what is published: the segments, and length and time of the rollup log.
pub(super) type StoreState = (u64, Option<(u64, SystemTime)>);

/// A publication that succeeded.
pub(super) struct Done {
    /// The store that is published.
    pub store: StoreState,
    /// The table of events.
    pub events: Outcome,
    /// Files that were added to all tables.
    pub added: usize,
    /// Erasures that are published.
    pub erasures: Option<u64>,
    /// Servers of the table that have not applied an erasure.
    pub erasing: Vec<String>,
}

#[derive(Default)]
struct State {
    /// Erasures that have ended.
    erasures: u64,
    /// Those of them that are published.
    published_erasures: u64,
    /// The store that is published.
    published: Option<StoreState>,
    /// Time since which something sealed is not published.
    behind_since: Option<Instant>,
    /// Time at which the files of the last erasure are deleted, in ms since 1970.
    erased_go_at: Option<i64>,
    failures: u32,
    status: PublicationStatus,
}

impl Work {
    /// Deletes the files whose time has come.
    fn delete_due(&mut self, to: &Destination) -> Result<()> {
        let is_due = |at: Option<i64>| at.is_some_and(|at| at <= now_ms());
        if let Some(tables) = self
            .tables
            .as_mut()
            .filter(|tables| is_due(tables.next_deletion()))
        {
            tables.tidy(to, now_ms())?;
            info!("Deleted files that had left the tables");
        }
        if let Some(shared) = self
            .shared
            .as_mut()
            .filter(|shared| is_due(shared.table.next_deletion()))
        {
            shared.table.tidy(to, now_ms())?;
            info!("Deleted files that had left the tables");
        }
        Ok(())
    }
}

impl Engine {
    /// Begins to publish. The destination is not read yet.
    ///
    /// # Errors
    /// `bad_target` for a destination that cannot be used.
    pub fn publish_to(&self, target: &PublishTarget) -> Result<()> {
        self.check_takes_events()?;
        let to = self.open_tables(&target.to, SERVER_TEMP)?;
        to.clear_temp()?;
        let place = place_of(&target.to);
        let server = target.shared.as_ref().map(|shared| shared.server.clone());
        if let Some(server) = &server {
            self.store.share_table(server, &place)?;
        }
        let status = &mut self.publication.state.lock().status;
        status.to = to.shown("").trim_end_matches('/').to_owned();
        status.server = server;
        self.publication.target.get_or_init(|| Target {
            place,
            to,
            every: target.every,
            shared: target.shared.clone(),
        });
        Ok(())
    }

    /// Publishes if that is due, and deletes the files whose time has come. Called every second.
    ///
    /// # Errors
    /// As [`Tables::publish`] and [`Tables::tidy`]; it is tried again after a pause.
    pub fn run_publication(&self) -> Result<()> {
        let publication = &self.publication;
        let (Some(target), Some(mut work)) =
            (publication.target.get(), publication.work.try_lock())
        else {
            return Ok(());
        };
        let state = self.store_state();
        let (is_changed, erasures) = {
            let mut known = publication.state.lock();
            let is_changed = known.published.as_ref() != Some(&state);
            known.behind_since =
                is_changed.then(|| known.behind_since.unwrap_or_else(Instant::now));
            let erasures = known.erasures > known.published_erasures;
            (is_changed, erasures.then_some(known.erasures))
        };
        let now = Instant::now();
        if work.backoff.is_waiting(now, || false) {
            return Ok(());
        }
        let is_time = work
            .began
            .is_none_or(|began| began.elapsed() >= target.every);
        // Other servers of a table may have recorded an erasure, or left a day to be joined.
        let is_changed = is_changed || target.shared.is_some();
        let is_due = erasures.is_some() || is_changed && is_time;
        let done = match (is_due, &target.shared) {
            (true, None) => self.publish_now(target, &mut work, state, erasures),
            (true, Some(shared)) => {
                work.began = Some(Instant::now());
                let work = work.shared.get_or_insert_with(|| {
                    let mark = self.store.folder().mark();
                    let store = mark.map_or("", |mark| &mark.store);
                    SharedWork {
                        table: SharedTable::new(&shared.server, store),
                        knows_erased: false,
                    }
                });
                self.publish_shared(&target.to, shared, work, state, erasures)
            }
            (false, _) => work.delete_due(&target.to),
        };
        let mut known = publication.state.lock();
        match &done {
            Ok(()) => {
                work.backoff.succeed();
                known.failures = 0;
                known.status.last_error = None;
            }
            Err(error) => {
                work.backoff.fail(Instant::now());
                known.failures = known.failures.saturating_add(1);
                known.status.last_error = Some(error.to_string());
            }
        }
        drop(known);
        publication.ended.notify_all();
        done
    }

    fn publish_now(
        &self,
        target: &Target,
        work: &mut Work,
        state: StoreState,
        erasures: Option<u64>,
    ) -> Result<()> {
        let behind = self.publication.state.lock().behind_since;
        let behind = behind.map_or(Duration::ZERO, |since| since.elapsed());
        let compactions = match erasures {
            Some(_) => Compactions::Ignore,
            None => compactions(behind),
        };
        let Some(version) = self.store.settled_version(compactions)? else {
            return Ok(());
        };
        work.began = Some(Instant::now());
        let Some(mark) = self.store.folder().mark() else {
            return Ok(());
        };
        let tables = work.tables.get_or_insert_with(|| Tables::new(mark));
        let published =
            self.publish_tables(tables, &target.to, &version, &target.place, &mut |_| Ok(()))?;
        let erased_go_at = published.iter().filter_map(|(_, table)| table.erased_go_at);
        let erased_go_at = erased_go_at.max();
        self.note_publication(Done {
            store: (version.fingerprint(), state.1),
            added: published.iter().map(|(_, table)| table.added).sum(),
            events: Outcome {
                erased_go_at,
                ..published.into_iter().next().unwrap_or_default().1
            },
            erasures,
            erasing: Vec::new(),
        });
        tables.tidy(&target.to, now_ms())
    }

    /// Notes a publication that succeeded.
    pub(super) fn note_publication(&self, done: Done) {
        let mut known = self.publication.state.lock();
        let before = known.status.version;
        // What was sealed meanwhile is found by the next comparison.
        known.published = Some(done.store);
        known.behind_since = None;
        if let Some(erasures) = done.erasures {
            known.published_erasures = erasures;
        }
        // An erasure may have been published before it was known to have ended.
        let is_over = known.erased_go_at.is_none_or(|at| at <= now_ms());
        if done.events.erased_go_at.is_some() || is_over {
            known.erased_go_at = done.events.erased_go_at;
        }
        known.status.version = done.events.version;
        known.status.erasing = done.erasing;
        known.status.published_at = Some(utc_string(Utc::now()));
        let (version, added) = (known.status.version.unwrap_or_default(), done.added);
        drop(known);
        if before != Some(version) {
            info!(
                version,
                files = added,
                "Published version {version} of the tables, with {added} new files"
            );
        }
    }

    /// Identifies what would be published.
    fn store_state(&self) -> StoreState {
        let path = self.store.folder().path().join(rollup::FILE_NAME);
        let rollups = std::fs::metadata(path).ok();
        let rollups = rollups.and_then(|found| Some((found.len(), found.modified().ok()?)));
        (self.store.sealed_fingerprint(), rollups)
    }

    /// Notes that a request applies the record of an erasure.
    pub(super) fn erased_here(&self, id: &str) -> ErasedHere<'_> {
        self.publication.erased_here.lock().insert(id.to_owned());
        ErasedHere {
            publication: &self.publication,
            id: id.to_owned(),
        }
    }

    /// True while a request applies the record of an erasure.
    pub(super) fn is_erasing(&self, id: &str) -> bool {
        self.publication.erased_here.lock().contains(id)
    }

    /// Requests the publication of an erasure that has ended, and waits some seconds for it. `None`
    /// if nothing is published.
    pub(super) fn publish_erasure(&self) -> Option<PublishedErasure> {
        let publication = &self.publication;
        publication.target.get()?;
        let until = Instant::now() + RECEIPT_PATIENCE;
        let mut known = publication.state.lock();
        known.erasures += 1;
        let mine = known.erasures;
        let failures = known.failures;
        while known.published_erasures < mine && known.failures <= failures {
            if publication.ended.wait_until(&mut known, until).timed_out() {
                break;
            }
        }
        let mut answer = PublishedErasure {
            to: known.status.to.clone(),
            version: None,
            files_deleted_at: None,
            erasing: Vec::new(),
            waiting: None,
        };
        if known.published_erasures >= mine {
            answer.version = known.status.version;
            answer.files_deleted_at = known.erased_go_at.map(shown_ms);
            answer.erasing.clone_from(&known.status.erasing);
        } else {
            let error = known.status.last_error.clone();
            answer.waiting = Some(error.unwrap_or_else(|| "it is being published".into()));
        }
        Some(answer)
    }

    /// Requests the publication of an erasure that has ended.
    pub(super) fn request_publication(&self) {
        if self.publication.target.get().is_some() {
            self.publication.state.lock().erasures += 1;
        }
    }

    /// The place of the table of several servers that this one publishes to.
    pub(super) fn shared_target(&self) -> Option<&Destination> {
        let target = self.publication.target.get()?;
        target.shared.as_ref().map(|_| &target.to)
    }

    /// True if the server keeps the tables at this destination up to date.
    pub(super) fn publishes_to(&self, to: &str) -> bool {
        let target = self.publication.target.get();
        target.is_some_and(|target| target.place == place_of(to))
    }

    /// The state of the publication; none if nothing is published.
    pub(super) fn publication_status(&self) -> Option<PublicationStatus> {
        self.publication.target.get()?;
        let state = self.store_state();
        let known = self.publication.state.lock();
        Some(PublicationStatus {
            up_to_date: known.published.as_ref() == Some(&state),
            lag_seconds: known
                .behind_since
                .map_or(0, |since| since.elapsed().as_secs()),
            failures: known.failures,
            ..known.status.clone()
        })
    }

    /// The same as gauges.
    pub(super) fn table_gauges(&self) -> Option<TableGauges> {
        let Some(status) = self.publication_status() else {
            return self.read_gauges();
        };
        Some(TableGauges {
            version: status.version,
            lag: status.lag_seconds,
            failures: status.failures,
        })
    }
}

/// The next second: the files are deleted by then.
fn shown_ms(ms: i64) -> String {
    utc_string(DateTime::from_timestamp_millis(ms + 1_999).unwrap_or_default())
}

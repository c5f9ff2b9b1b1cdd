//! Everything that touches the data folder: the event log, the segments of the lake, and what is kept in
//! memory to answer from them.
//!
//! An event goes `Draft` → `writer` (group commit) → event log on disk → `tail` in memory → reply. A seal
//! moves events from log and tail to segments. A query sees segments and tail as one lazy frame.

mod dedup;
mod draft;
mod event_log;
pub mod folder;
mod manifest;
pub mod pipeline;
mod recovery;
pub mod scan;
mod seal;
mod segment;
mod tail;
mod verify;
mod view;
mod writer;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use polars::prelude::*;
use serde::Serialize;
use tracing::{error, info, warn};

use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::schema;
use dedup::{KeyMaker, RecentIds};
use event_log::EventLog;
use folder::Folder;
use manifest::Manifest;
use seal::RotatedLog;
use segment::Segment;
use tail::{Names, Tail};
use view::{SharedView, View};
use writer::{Writer, WriterHandle};

pub use draft::{Draft, DraftMaker};
pub use event_log::FILE_NAME as EVENT_LOG_FILE;
pub use recovery::{QUARANTINE_FILE, Recovered};
pub use segment::LAKE_DIR;
pub use verify::{Verified, verify};
pub use writer::{Reply, Stored};

/// The open store. Dropping it commits what is queued and frees the folder.
pub struct Store {
    // Fields are dropped in order: the writer ends before the folder is free.
    writer: WriterHandle,
    view: SharedView,
    maker: DraftMaker,
    manifest: Mutex<Manifest>,
    folder: Folder,
    recovered: Recovered,
}

/// How much the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StoreSize {
    /// Events in the log, not yet sealed.
    pub log_events: usize,
    /// Bytes of the open log.
    pub log_bytes: u64,
    /// Events in segments.
    pub sealed_events: u64,
    /// Live segments.
    pub segments: usize,
}

/// What a seal did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sealed {
    /// Events that moved from the log to segments.
    pub events: u64,
    /// Segments written.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Store {
    /// Opens the data folder, reads the log back and starts the writer. `holder` says to others who we are.
    ///
    /// # Errors
    /// [`Error::Held`] if another process has the folder, [`Error::Damaged`] if the manifest is.
    pub fn open(config: &StoreConfig, holder: &str, now: DateTime<Utc>) -> Result<Self> {
        let folder = Folder::take(&config.data_dir, holder)?;
        let manifest = Manifest::load(folder.path())?;
        check_lake(folder.path(), &manifest)?;
        let maker = DraftMaker {
            names: Names::new()?,
            keys: KeyMaker::new(),
        };
        let segments: Vec<Arc<Segment>> = manifest
            .segments
            .iter()
            .map(|facts| Arc::new(Segment::new(folder.path(), facts.clone())))
            .collect();
        let mut recent = recent_ids(&segments, maker.keys, now)?;
        let mut tail = Tail::new(maker.names.clone());
        let mut recovered = Recovered::default();
        for path in logs_to_read(&folder, &manifest)? {
            let found = recovery::recover(
                &path,
                &folder.path().join(QUARANTINE_FILE),
                &maker,
                now,
                |draft| {
                    draft.rows.iter().try_for_each(|row| {
                        if let Some(key) = row.key {
                            recent.insert(key, row.received_at_us);
                        }
                        tail.push(row)
                    })
                },
            )?;
            report_recovery(&path, found);
            recovered.events += found.events;
            recovered.torn_bytes += found.torn_bytes;
            recovered.damaged += found.damaged;
        }
        let log = EventLog::open(&folder.path().join(EVENT_LOG_FILE), config.durability)?;
        let view = SharedView::new(View {
            segments,
            tail,
            log_bytes: log.length(),
        });
        let writer = WriterHandle::start(Writer {
            log,
            recent,
            view: view.clone(),
        })?;
        Ok(Self {
            writer,
            view,
            maker,
            manifest: Mutex::new(manifest),
            folder,
            recovered,
        })
    }

    /// What makes drafts for this store.
    pub fn draft_maker(&self) -> DraftMaker {
        self.maker.clone()
    }

    /// Queues events; the reply comes when they are durable and visible.
    ///
    /// # Errors
    /// [`Error::Busy`] if too much is queued, [`Error::Poisoned`] after a failed write.
    pub fn append(&self, draft: Draft) -> Result<Reply> {
        self.writer.append(draft)
    }

    /// Whether events can be accepted. After a write that found no room it looks for room itself, because a server
    /// that gets no events for not being ready would never find out.
    ///
    /// # Errors
    /// [`Error::Poisoned`] after a failed write, [`Error::DiskFull`] without room, [`Error::Busy`] while the disk
    /// does not answer.
    pub fn check_writable(&self) -> Result<()> {
        match self.writer.check_health() {
            Err(Error::DiskFull) if self.writer.may_probe() && self.folder.has_room() => {
                self.writer.has_room();
                Ok(())
            }
            health => health,
        }
    }

    /// The events of a time range, in µs, with the columns of [`schema::COUNTED`]. All that were answered
    /// before are in it.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment that is needed is.
    pub fn scan(&self, range_us: Range<i64>) -> Result<LazyFrame> {
        self.view.scan(range_us)
    }

    /// The `ts` of the oldest event, in µs.
    pub fn first_ts_us(&self) -> Option<i64> {
        let view = self.view.lock();
        let sealed = view
            .segments
            .iter()
            .map(|segment| segment.facts.first_ts_us);
        sealed.chain(view.tail.first_ts_us()).min()
    }

    /// How much the store holds now.
    pub fn size(&self) -> StoreSize {
        let view = self.view.lock();
        StoreSize {
            log_events: view.tail.len(),
            log_bytes: view.log_bytes,
            sealed_events: view.segments.iter().map(|segment| segment.facts.rows).sum(),
            segments: view.segments.len(),
        }
    }

    /// What reading the log back found at the start.
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// The data folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Turns the log into segments. Ingest and queries go on meanwhile.
    ///
    /// # Errors
    /// If a file cannot be written; then the events stay where they were and the next seal tries again.
    pub fn seal(&self) -> Result<Sealed> {
        let mut manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = manifest.clone();
        // A log that segments cover may still be there if it could not be removed.
        remove_covered(&self.folder, &manifest)?;
        let waiting = RotatedLog::list(self.folder.path())?;
        let last = waiting
            .last()
            .map_or(manifest.sealed_through, |log| log.number);
        let aside = RotatedLog::prepare(self.folder.path(), last + 1)?;
        let mark = self.writer.rotate(aside)?;
        let logs = RotatedLog::list(self.folder.path())?;
        let mut written = Vec::new();
        for log in &logs {
            written.extend(log.write_segments(&self.folder)?);
            next.sealed_through = log.number;
        }
        let sealed = Sealed {
            events: written.iter().map(|facts| facts.rows).sum(),
            segments: written.len(),
            bytes: written.iter().map(|facts| facts.bytes).sum(),
        };
        // The events were counted twice on independent ways: from memory and from the files.
        if sealed.events != mark.rows as u64 {
            return Err(Error::Damaged {
                file: self.folder.path().join(LAKE_DIR),
                message: format!(
                    "{} events were written of {}; nothing is sealed",
                    sealed.events, mark.rows
                ),
            });
        }
        next.segments.extend(written.iter().cloned());
        next.commit(&self.folder)?;
        let mut view = self.view.lock();
        view.tail.drop_sealed(mark);
        view.segments.extend(
            written
                .into_iter()
                .map(|facts| Arc::new(Segment::new(self.folder.path(), facts))),
        );
        drop(view);
        *manifest = next;
        if let Err(error) = remove_covered(&self.folder, &manifest) {
            warn!("A sealed log is still there and will be removed later: {error}");
        }
        info!(
            events = sealed.events,
            segments = sealed.segments,
            "Sealed {} events into {} segments",
            sealed.events,
            sealed.segments
        );
        Ok(sealed)
    }
}

/// Refuses a lake without its manifest, as after a restore that forgot it: its events would be invisible, and the
/// next seal would write over its files.
fn check_lake(folder: &Path, manifest: &Manifest) -> Result<()> {
    if *manifest != Manifest::default() {
        return Ok(());
    }
    let waiting = RotatedLog::list(folder)?;
    for name in segment::names(folder)? {
        // An unfinished seal leaves files that nobody sees; the log they were made from is still there.
        if !waiting.iter().any(|log| log.names(&name)) {
            return Err(Error::Damaged {
                file: folder.join(LAKE_DIR),
                message: format!(
                    "{name} is there, and {} is not; restore it",
                    manifest::FILE_NAME
                ),
            });
        }
    }
    Ok(())
}

/// The logs that hold events no segment has, oldest first.
fn logs_to_read(folder: &Folder, manifest: &Manifest) -> Result<Vec<PathBuf>> {
    remove_covered(folder, manifest)?;
    let waiting = RotatedLog::list(folder.path())?;
    Ok(waiting
        .into_iter()
        .map(|log| log.path)
        .chain([folder.path().join(EVENT_LOG_FILE)])
        .collect())
}

/// Removes the logs whose events are all in segments.
fn remove_covered(folder: &Folder, manifest: &Manifest) -> Result<()> {
    RotatedLog::list(folder.path())?
        .iter()
        .filter(|log| log.number <= manifest.sealed_through)
        .try_for_each(|log| folder::remove(&log.path))
}

fn report_recovery(path: &Path, found: Recovered) {
    let file = path.file_name().unwrap_or_default().display();
    if found.torn_bytes > 0 {
        warn!(
            torn_bytes = found.torn_bytes,
            "Cut a torn write off the end of {file}"
        );
    }
    if found.damaged > 0 {
        warn!(
            damaged = found.damaged,
            "Set {} damaged pieces of {file} aside in {QUARANTINE_FILE}", found.damaged
        );
    }
}

/// The event ids in the segments that a new event may still repeat. A damaged segment does not stop the
/// start; its ids are unknown, so that a re-send of them would count again.
fn recent_ids(segments: &[Arc<Segment>], keys: KeyMaker, now: DateTime<Utc>) -> Result<RecentIds> {
    let mut recent = RecentIds::new();
    let since_us = now.timestamp_micros() - dedup::WINDOW_US;
    let mut needed = Vec::new();
    for segment in segments {
        if segment.facts.last_received_at_us < since_us {
            continue;
        }
        match segment.verify_once() {
            Ok(()) => needed.push(segment.clone()),
            Err(error) => {
                error!("{error}; its event ids are not known, and answers that need it fail")
            }
        }
    }
    if needed.is_empty() {
        return Ok(recent);
    }
    let ids = segment::scan(&needed)?
        .select([
            col(schema::EVENT_ID),
            col(schema::RECEIVED_AT).cast(DataType::Int64),
        ])
        .filter(
            col(schema::EVENT_ID)
                .is_not_null()
                .and(col(schema::RECEIVED_AT).gt_eq(lit(since_us))),
        )
        .collect_with_engine(Engine::Streaming)?
        .unwrap_single();
    let received = ids.column(schema::RECEIVED_AT)?.i64()?;
    for (id, received_at_us) in ids
        .column(schema::EVENT_ID)?
        .str()?
        .iter()
        .zip(received.iter())
    {
        if let (Some(id), Some(received_at_us)) = (id, received_at_us) {
            recent.insert(keys.key(id), received_at_us);
        }
    }
    Ok(recent)
}

impl From<PolarsError> for Error {
    fn from(error: PolarsError) -> Self {
        Self::Query(Box::new(error))
    }
}

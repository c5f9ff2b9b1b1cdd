//! Event ids of sealed events: each seal and load writes those of its events to files, joins files
//! that have become many, and drops the days that are too old to matter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use polars::prelude::*;
use tracing::{error, info, warn};

use super::CompactionScope;
use crate::daily::{Day, day_of};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::schema;
use crate::store::Store;
use crate::store::clock::TrustedClock;
use crate::store::files::event_ids::{self, Entry, EventIdsMeta, IdFile};
use crate::store::files::folder::{Access, Folder};
use crate::store::files::segment::{self, Segment};
use crate::store::ingest::batch::BatchBuilder;
use crate::store::ingest::dedup::{Origin, RecentIds, WINDOW_US};
use crate::store::version::{Transaction, VersionControl};

/// Files of similar size that become one: an id is rewritten a few times, and a new id is compared
/// with few filters.
const FAN_IN: usize = 8;
/// An older file joins younger ones if it has at most this many times their ids.
const SIMILAR_FACTOR: u64 = 4;
/// Most ids of a file that a seal writes: 64 MB, which delay it little.
const FULL_IDS: u64 = 4 << 20;
/// Most ids of a file: 1 GB.
const MAX_IDS: u64 = 64 << 20;
/// Rows of the segments whose ids are read at once to make files again.
const ROWS_AT_ONCE: u64 = 4 << 20;

/// The number of files, given with the oldest first, that become one with new ids: the youngest,
/// once they are [`FAN_IN`] of similar size; then the next ones, if these are as many of the size
/// that this gives.
fn joined(of_day: &[u64], new: u64) -> usize {
    let mut count = 0;
    let mut total = new;
    loop {
        let mut sum = total;
        let similar = of_day.iter().rev().skip(count).take_while(|&&ids| {
            sum += ids;
            ids <= total * SIMILAR_FACTOR && sum <= FULL_IDS
        });
        let more: Vec<u64> = similar.copied().collect();
        if more.len() + 1 < FAN_IN {
            return count;
        }
        count += more.len();
        total += more.iter().sum::<u64>();
    }
}

/// The files of a day that is over, given with the oldest first, that become one.
fn joined_when_over(of_day: &[Arc<IdFile>]) -> &[Arc<IdFile>] {
    let mut sum = 0;
    let fit = of_day.iter().take_while(|file| {
        sum += file.meta.ids;
        sum <= MAX_IDS
    });
    match fit.count() {
        ..2 => &[],
        fit => of_day.get(..fit).unwrap_or_default(),
    }
}

/// The time, in µs, since which received ids matter. By the time of the log: the clock alone does
/// not make an id old.
fn since_us(clock: &TrustedClock) -> i64 {
    let newest_us = clock.newest_us().unwrap_or(i64::MAX);
    newest_us.min(clock.ids_until().load(Ordering::Relaxed)) - WINDOW_US
}

fn is_recent(file: &IdFile, since_us: i64) -> bool {
    file.meta.last_received_at_us >= since_us
}

fn without(files: &[Arc<IdFile>], removed: &[Arc<IdFile>]) -> Vec<Arc<IdFile>> {
    let is_removed = |file: &&Arc<IdFile>| removed.iter().any(|other| Arc::ptr_eq(file, other));
    let files = files.iter().filter(|file| !is_removed(file));
    files.cloned().collect()
}

fn of_day(files: &[Arc<IdFile>], day: Day) -> Vec<Arc<IdFile>> {
    let files = files.iter().filter(|file| file.day() == day);
    files.cloned().collect()
}

/// Reads the ids of the recent events of a store that is opened. A folder that is read only takes
/// no events and needs none.
///
/// # Errors
/// If files have to be made again, and cannot be.
pub fn open_event_ids(
    versions: &VersionControl,
    folder: &Folder,
    maker: &BatchBuilder,
    clock: &TrustedClock,
) -> Result<RecentIds> {
    let newest_us = clock.newest_us().unwrap_or(i64::MAX);
    let sealed = match folder.access() {
        Access::ReadOnly => Vec::new(),
        Access::ReadWrite => sealed_ids(versions, folder, maker, clock)?,
    };
    Ok(RecentIds::new(sealed, newest_us, clock.ids_until()))
}

fn sealed_ids(
    versions: &VersionControl,
    folder: &Folder,
    maker: &BatchBuilder,
    clock: &TrustedClock,
) -> Result<Vec<Arc<IdFile>>> {
    if let Some(meta) = &versions.version().event_ids {
        match event_ids::open_all(folder.path(), &meta.files) {
            Err(error @ Error::Damaged { .. }) => {
                warn!("{error}; the files of event ids are made again");
            }
            opened => return opened,
        }
    }
    let mut transaction = versions.begin(folder)?;
    let files = make(&mut transaction, maker, clock)?;
    if !files.is_empty() || transaction.base().event_ids.is_some() {
        transaction.commit(|_| {})?.removed?;
    }
    Ok(files)
}

/// Makes all files again from the segments. A damaged segment does not prevent it; its ids are
/// unknown, so that a re-send of them counts again.
fn make(
    transaction: &mut Transaction<'_>,
    maker: &BatchBuilder,
    clock: &TrustedClock,
) -> Result<Vec<Arc<IdFile>>> {
    let since_us = since_us(clock);
    let newest_us = clock.newest_us().unwrap_or(i64::MAX);
    let mut needed = Vec::new();
    for segment in &transaction.base().segments {
        if segment.meta.last_received_at_us < since_us {
            continue;
        }
        match segment.verified() {
            Ok(_) => needed.push(segment.clone()),
            Err(error @ Error::Damaged { .. }) => {
                error!("{error}; its event ids are not known, and queries that need it fail");
            }
            Err(error) => return Err(error),
        }
    }
    let mut files = Vec::new();
    let mut rows = 0;
    let mut same_group = |segment: &Arc<Segment>| {
        let before = rows / ROWS_AT_ONCE;
        rows += segment.meta.rows;
        rows / ROWS_AT_ONCE == before
    };
    for group in needed.chunk_by(|_, next| same_group(next)) {
        transaction.next.sequence += 1;
        let ids = ids_of(group, maker, since_us)?;
        let ids = ids.map(|(key, received_at_us)| (key, received_at_us.min(newest_us)));
        for (day, entries) in event_ids::by_day(ids) {
            files.push(transaction.write_event_ids(day, &entries, &[])?);
        }
    }
    set_live(transaction, maker, &files);
    Ok(files)
}

/// The ids of the events of some segments that were received since a time, in µs, each with the
/// time of receipt.
fn ids_of(
    segments: &[Arc<Segment>],
    maker: &BatchBuilder,
    since_us: i64,
) -> Result<impl Iterator<Item = (Digest, i64)>> {
    let events = segment::scan(segments)?
        .select([
            col(schema::EVENT_ID),
            col(schema::EVENT_TYPE),
            col(schema::USER_ID),
            col(schema::RECEIVED_AT).cast(DataType::Int64),
        ])
        .filter(
            col(schema::EVENT_ID)
                .is_not_null()
                .and(col(schema::RECEIVED_AT).gt_eq(lit(since_us))),
        )
        .collect_with_engine(Engine::Streaming)?
        .unwrap_single();
    let received = events.column(schema::RECEIVED_AT)?.i64()?;
    let types = events.column(schema::EVENT_TYPE)?.str()?;
    let users = events.column(schema::USER_ID)?.str()?;
    let ids = events.column(schema::EVENT_ID)?.str()?;
    let rows = ids.iter().zip(types.iter()).zip(users.iter());
    let found: Vec<(Digest, i64)> = rows
        .zip(received.iter())
        .filter_map(|(((id, event_type), user), received_at_us)| {
            Some((maker.key_of(id?, event_type?, user), received_at_us?))
        })
        .collect();
    Ok(found.into_iter())
}

fn set_live(transaction: &mut Transaction<'_>, maker: &BatchBuilder, files: &[Arc<IdFile>]) {
    transaction.next.event_ids = Some(EventIdsMeta {
        seed: maker.keys.seed(),
        files: files.iter().map(|file| file.meta.clone()).collect(),
    });
}

impl Store {
    /// Adds ids, by the day on which they were received, to the files of the next version. Returns
    /// the files that are live once it is committed. During a load old ones stay: it may bring
    /// events that were received long ago, and others of the same time.
    pub(super) fn add_event_ids(
        &self,
        transaction: &mut Transaction<'_>,
        new: BTreeMap<Day, Vec<Entry>>,
        origin: Origin,
    ) -> Result<Vec<Arc<IdFile>>> {
        let mut files = self.ingest.recent.lock().sealed().to_vec();
        if origin == Origin::Log {
            let since_us = since_us(&self.ingest.clock);
            files.retain(|file| is_recent(file, since_us));
        }
        for (day, entries) in new {
            let of_day = of_day(&files, day);
            let counts: Vec<u64> = of_day.iter().map(|file| file.meta.ids).collect();
            let kept = of_day.len() - joined(&counts, entries.len() as u64);
            let mut joined = of_day.get(kept..).unwrap_or_default();
            let written = match transaction.write_event_ids(day, &entries, joined) {
                // It is made again in the background.
                Err(Error::Damaged { .. }) => {
                    joined = &[];
                    transaction.write_event_ids(day, &entries, &[])
                }
                written => written,
            }?;
            files = without(&files, joined);
            files.push(written);
        }
        set_live(transaction, &self.ingest.maker, &files);
        Ok(files)
    }

    /// Drops the files of event ids that are too old to matter, makes damaged ones again and, in a
    /// full compaction, joins those of days that are over.
    pub(super) fn tidy_event_ids(&self, now_us: i64, scope: CompactionScope) -> Result<()> {
        let since_us = since_us(&self.ingest.clock);
        let files = self.ingest.recent.lock().sealed().to_vec();
        if files.iter().any(|file| file.is_damaged()) {
            let mut transaction = self.begin()?;
            let files = make(&mut transaction, &self.ingest.maker, &self.ingest.clock)?;
            self.commit_event_ids(transaction, files)?;
            info!("The files of event ids were made again");
            return Ok(());
        }
        if !files.iter().all(|file| is_recent(file, since_us)) {
            let mut transaction = self.begin()?;
            let mut files = self.ingest.recent.lock().sealed().to_vec();
            files.retain(|file| is_recent(file, since_us));
            set_live(&mut transaction, &self.ingest.maker, &files);
            self.commit_event_ids(transaction, files)?;
        }
        if scope == CompactionScope::Urgent {
            return Ok(());
        }
        let days: BTreeSet<Day> = files.iter().map(|file| file.day()).collect();
        for day in days.range(..day_of(now_us)) {
            let mut transaction = self.begin()?;
            let files = self.ingest.recent.lock().sealed().to_vec();
            let of_day = of_day(&files, *day);
            let joined = joined_when_over(&of_day);
            if joined.is_empty() {
                continue;
            }
            transaction.next.sequence += 1;
            let written = transaction.write_event_ids(*day, &[], joined)?;
            let mut files = without(&files, joined);
            files.push(written);
            set_live(&mut transaction, &self.ingest.maker, &files);
            self.commit_event_ids(transaction, files)?;
        }
        Ok(())
    }

    fn commit_event_ids(
        &self,
        transaction: Transaction<'_>,
        files: Vec<Arc<IdFile>>,
    ) -> Result<()> {
        let committed = transaction.commit(|_| {})?;
        let old = self.ingest.recent.lock().replace_sealed(files);
        drop(old);
        committed.removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of the files after some seals of the same size.
    fn sizes(seals: usize, ids: u64) -> Vec<u64> {
        let mut files = Vec::new();
        for _ in 0..seals {
            let kept = files.len() - joined(&files, ids);
            let total = ids + files.drain(kept..).sum::<u64>();
            files.push(total);
        }
        files
    }

    #[test]
    fn files_of_similar_size_become_one_in_levels() {
        assert_eq!(sizes(7, 1), [1; 7]);
        assert_eq!(sizes(8, 1), [8]);
        assert_eq!(sizes(15, 1), [8, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(sizes(64, 1), [64]);
        assert_eq!(sizes(73, 1), [64, 8, 1]);
        // A full file stays; there are few of any size.
        assert_eq!(sizes(8, FULL_IDS / 8), [FULL_IDS]);
        assert_eq!(sizes(9, FULL_IDS / 8), [FULL_IDS, FULL_IDS / 8]);
        let day = sizes(144, 100_000);
        assert_eq!(day.iter().sum::<u64>(), 14_400_000);
        assert!(day.len() <= 20, "{day:?}");
        // A file that is much larger waits for others of its size.
        assert_eq!(joined(&[1_000, 1, 1, 1, 1, 1, 1, 1], 1), 7);
        assert_eq!(joined(&[], 1), 0);
    }
}

//! Seal: the event log becomes segments. At every time each event is visible exactly once.
//!
//! 1. The log gets a second name, under a number, and the writer goes on with an empty one. 2. The
//!    oldest rotated log is written as segments, which are not live yet. 3. The manifest names the
//!    segments and the number: that is the commit. 4. The log is removed. A crash before 3 leaves
//!    the log, which is read back and sealed again; a crash after 3 leaves a log that the manifest
//!    says is covered, which is removed. Each log is a commit of its own, the oldest first, so that
//!    a server that is killed again and again makes progress.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{Days, NaiveDate};
use chrono_tz::Tz;
use polars::prelude::*;
use serde::Serialize;
use tracing::{error, info, warn};

use crate::backoff::Backoff;
use crate::daily::{DailyState, Day, Place, Slices, date, day_of};
use crate::error::{Error, Result};
use crate::links::Statement;
use crate::store::files::event_ids::{self, Entry};
use crate::store::files::folder::Folder;
use crate::store::files::rotation::{LogId, RotatedLog};
use crate::store::files::rows::LakeRows;
use crate::store::files::segment::{self, SegmentMeta, Sorted};
use crate::store::files::states::ZoneDay;
use crate::store::files::{dictionary, recovery};
use crate::store::ingest::dedup::Origin;
use crate::store::ingest::event_log::{self, NextLog};
use crate::store::version::tail::{Chunk, SealMark};
use crate::store::version::{Transaction, Version};
use crate::store::{Store, pipeline};
use crate::window;

/// A log of this many bytes is sealed: about a hundred thousand events, which keep a query and a
/// start quick. Freeing a large log stalls commits while the file system releases its blocks: 20 ms
/// for 128 MB where it discards them.
const SEAL_BYTES: u64 = 32 << 20;
/// A log of this many bytes is sealed at normal priority: seals do not keep up. Also the free space
/// that compaction and indexing leave for the segments of a full log.
pub const LATE_BYTES: u64 = 512 << 20;
/// Events are sealed when the oldest waits this long: how far the lake is behind for other
/// programs.
const SEAL_AGE: Duration = Duration::from_secs(10 * 60);
/// Events that a start found in the open log are sealed after this time: soon, because a server
/// that is killed often would never seal them, and not while the first requests after the start
/// wait.
const FOUND_AGE: Duration = Duration::from_secs(10);
/// Additional free space after a seal that found the disk full, with which the next one is tried:
/// what a few events take.
const HEALED_BYTES: u64 = 64 << 10;
/// Bytes of lines that become one segment of each day; a core that works on them uses twice as much
/// memory.
const PART_BYTES: u64 = 16 << 20;

/// Urgency of a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealUrgency {
    /// It is time.
    Due,
    /// Events come in faster than they are sealed.
    Late,
}

/// Events that wait to be sealed.
#[derive(Debug, Clone, Copy, Default)]
struct Backlog {
    /// Bytes of the open log and of the rotated ones.
    bytes: u64,
    /// Rotated logs.
    logs: usize,
    /// Age of the oldest event in the open log.
    age: Option<Duration>,
    /// Time since a start that found events.
    found_age: Option<Duration>,
}

/// The urgency to seal a backlog.
fn urgency(backlog: Backlog) -> Option<SealUrgency> {
    let is_old = |age: Option<Duration>, limit| age.is_some_and(|age| age >= limit);
    let is_due = backlog.bytes >= SEAL_BYTES
        || backlog.logs > 0
        || is_old(backlog.age, SEAL_AGE)
        || is_old(backlog.found_age, FOUND_AGE);
    if backlog.bytes >= LATE_BYTES {
        Some(SealUrgency::Late)
    } else {
        (is_due && backlog.bytes > 0).then_some(SealUrgency::Due)
    }
}

/// Result of a seal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sealed {
    /// Events that moved from the log to segments.
    pub events: u64,
    /// Segments written.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Sealed {
    fn of(segments: &[SegmentMeta]) -> Self {
        Self {
            events: segments.iter().map(|meta| meta.rows).sum(),
            segments: segments.len(),
            bytes: segments.iter().map(|meta| meta.bytes).sum(),
        }
    }

    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.segments += other.segments;
        self.bytes += other.bytes;
    }
}

/// A seal rotates the open log at most once, or it would never end while events come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotation {
    /// It is still to be done.
    Due,
    /// It was done.
    Done,
}

/// Written segments that are not live yet, and the daily states of their events.
#[derive(Default)]
pub struct Sealing {
    pub segments: Vec<SegmentMeta>,
    pub states: Slices,
    /// The event ids, by the day on which they were received.
    pub ids: BTreeMap<Day, Vec<Entry>>,
    /// The statements of the events about ids, in the order of the log.
    pub statements: Vec<Statement>,
}

/// The part of the tail whose events are sealed.
pub(super) struct SealedLog {
    /// The log.
    id: LogId,
    mark: SealMark,
}

impl Store {
    /// Forgets that seals failed.
    #[cfg(test)]
    pub(in crate::store) fn forget_failed_seals(&self) {
        self.jobs.failed_seals.lock().succeed();
    }

    /// The urgency to seal, by the size and age of the open log and of the rotated ones. After a
    /// seal that failed there is none for a while.
    pub fn seal_urgency(&self) -> Option<SealUrgency> {
        let backlog = {
            let published = self.versions.published();
            Backlog {
                bytes: published.log_bytes + published.waiting.bytes(),
                logs: published.waiting.logs(),
                age: published.log_since.map(|since| since.elapsed()),
                found_age: published.waiting.found.map(|since| since.elapsed()),
            }
        };
        urgency(backlog).filter(|_| !self.jobs.failed_seals.lock().is_waiting(&self.folder))
    }

    /// Turns the logs into segments, the rotated ones and then the open one, each by a commit of
    /// its own. Ingest and queries go on meanwhile. Earlier failures do not delay it.
    ///
    /// # Errors
    /// If a file cannot be written; then the events stay where they were and the next seal tries
    /// again.
    pub fn seal(&self) -> Result<Sealed> {
        let started = Instant::now();
        let sealed = self.try_seal();
        self.refresh_links_table();
        match &sealed {
            Ok(sealed) => {
                self.jobs.failed_seals.lock().succeed();
                if sealed.events > 0 {
                    self.monitoring.seal.observe_time(started.elapsed());
                }
            }
            Err(error) => {
                self.jobs.failed_seals.lock().fail(&self.folder, error);
                // It is due again after a while, also if no more events come.
                let mut published = self.versions.published();
                published.log_since.get_or_insert_with(Instant::now);
            }
        }
        sealed
    }

    fn try_seal(&self) -> Result<Sealed> {
        self.ingest.writer.check()?;
        let mut sealed = Sealed::default();
        let mut rotation = Rotation::Due;
        loop {
            // Between two logs there is no transaction, so that other jobs wait for one log at
            // most.
            let transaction = self.begin()?;
            let Some(log) = self.next_log(transaction.base(), &mut rotation)? else {
                return Ok(sealed);
            };
            sealed.add(self.seal_log(transaction, &log)?);
        }
    }

    /// The oldest log that waits to be sealed. If there is none, the open one is rotated, once.
    fn next_log(&self, version: &Version, rotation: &mut Rotation) -> Result<Option<RotatedLog>> {
        let root = self.folder.path();
        // A log that segments cover may still be there if it could not be removed.
        RotatedLog::remove_through(root, version.sealed_through)?;
        RotatedLog::undo_rotation(root)?;
        if let Some(oldest) = RotatedLog::list(root)?.into_iter().next() {
            return Ok(Some(oldest));
        }
        let is_empty = self.versions.published().log_bytes == 0;
        if is_empty || std::mem::replace(rotation, Rotation::Done) == Rotation::Done {
            return Ok(None);
        }
        let aside = RotatedLog::prepare(root, version.sequence + 1)?;
        let next_log = NextLog::prepare(root, &aside)?;
        self.ingest.writer.rotate(next_log).inspect_err(|_| {
            // The second name may be that of a file of another program, which took the place of the
            // log.
            let _ = RotatedLog::undo_rotation(root);
        })?;
        event_log::sync_rotation(root)?;
        Ok(RotatedLog::list(root)?.into_iter().next())
    }

    fn seal_log(&self, mut transaction: Transaction<'_>, log: &RotatedLog) -> Result<Sealed> {
        let id = log.id()?;
        let chunks = self.versions.published().tail.of_log(id)?;
        // The names of its segments sort behind those that are live. Its own number is not enough
        // if a load, a compaction or an erasure has used greater ones since its rotation.
        let number = if log.number > transaction.base().sequence {
            log.number
        } else {
            transaction.reserve_numbers(1)?
        };
        transaction.prepare_segments(number);
        let next = &mut transaction.next;
        next.sealed_through = log.number;
        next.new_users = self.ingest.admission.new_users_of(id, next.new_users);
        let ids = self.ingest.recent.lock().of_log(id);
        let sealing = std::thread::scope(|scope| {
            let states = scope.spawn(|| states_of(&chunks));
            let segments = log.write_segments(&self.folder, number);
            let states = states
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok::<_, Error>(Sealing {
                segments: segments?,
                states: states?,
                ids: event_ids::by_day(ids.iter().flat_map(|ids| ids.iter())),
                statements: Vec::new(),
            })
        });
        let statements = chunks.iter().flat_map(|chunk| &chunk.statements);
        let statements = statements.copied().collect();
        let log = SealedLog {
            id,
            mark: SealMark::of(&chunks),
        };
        drop(chunks);
        let sealing = Sealing {
            statements,
            ..sealing?
        };
        let sealed = self.commit_segments(transaction, sealing, Some(log))?;
        self.ingest.admission.forget_log(id);
        Ok(sealed)
    }

    /// Commits new segments, with the dictionary, the daily states and the ids of their events. If
    /// they are those of a log, they leave the tail in the same step.
    ///
    /// # Errors
    /// If a file cannot be written, or the counts of memory and segments differ.
    pub(super) fn commit_segments(
        &self,
        mut transaction: Transaction<'_>,
        sealing: Sealing,
        log: Option<SealedLog>,
    ) -> Result<Sealed> {
        let Sealing {
            segments,
            states: slices,
            ids,
            statements,
        } = sealing;
        let sealed = Sealed::of(&segments);
        let states = slices.of_utc();
        check_pair(self.folder.path(), &states, &segments)?;
        let origin = log.as_ref().map_or(Origin::Load, |_| Origin::Log);
        let linked = self.add_links(&mut transaction, &statements, origin)?;
        let until = states.values().filter_map(DailyState::greatest_user).max();
        let until = until.max(linked.max());
        transaction.next.dictionary = dictionary::extend(
            &self.folder,
            transaction.base().dictionary,
            &self.names().users,
            &self.ingest.maker.gate.ended(),
            until.map_or(0, |user| user + 1),
        )?;
        let returned = self.restore_ids(&states, &linked, &mut transaction.next.dictionary)?;
        let states = states.into_iter();
        let mut states: Vec<_> = states
            .map(|(day, state)| (ZoneDay::utc(day), state))
            .collect();
        for zone in &transaction.base().zones {
            states.extend(self.of_zone(&slices, zone.tz, |utc_day| zone.includes(utc_day)));
        }
        drop(slices);
        self.add_to_states(&mut transaction, states)?;
        transaction.add_segments(segments);
        let ids = self.add_event_ids(&mut transaction, ids, origin)?;
        let next = &mut transaction.next;
        // Before any clock can be wrong about expiry, there is a day to compare it with.
        self.ingest.clock.save(&mut next.clock, &mut next.expiry);
        let mut in_memory = None;
        let log_id = log.as_ref().map(|log| log.id);
        let committed = transaction.commit(|published| {
            if let Some(log) = log {
                in_memory = Some(published.tail.take_sealed(log.mark));
                published.waiting.sealed();
            }
        })?;
        let old_ids = self.ingest.recent.lock().seal(log_id, ids);
        // Freed when the writer need not wait for it.
        drop((in_memory, old_ids));
        self.note_restored(&returned);
        if let Err(error) = committed.removed {
            warn!("A file that was replaced is still there and will be removed later: {error}");
        }
        if sealed.events > 0 {
            info!(
                events = sealed.events,
                segments = sealed.segments,
                "Sealed {} events into {} segments",
                sealed.events,
                sealed.segments
            );
        }
        Ok(sealed)
    }

    /// The states of the days of a reporting zone, of events whose day of UTC is included.
    pub(super) fn of_zone(
        &self,
        slices: &Slices,
        tz: Tz,
        is_included: impl Fn(Day) -> bool,
    ) -> Vec<(ZoneDay, DailyState)> {
        let Some(zone) = Place::of(tz, self.versions.zones()) else {
            return Vec::new();
        };
        let states = slices.of_zone(zone, is_included).into_iter();
        states
            .map(|(day, state)| (ZoneDay { tz, day }, state))
            .collect()
    }

    /// Merges the states of more events into those of their days.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub(super) fn add_to_states(
        &self,
        transaction: &mut Transaction<'_>,
        states: Vec<(ZoneDay, DailyState)>,
    ) -> Result<()> {
        let mut states = states.into_iter();
        let mut lost: Vec<ZoneDay> = Vec::new();
        transaction.write_states(self.names(), |version| {
            let Some((day, mut state)) = states.next() else {
                return Ok(None);
            };
            match self.known_state(version, day)? {
                KnownState::Nothing => {}
                KnownState::State(known) => state.merge(&known),
                KnownState::Lost => lost.push(day),
            }
            Ok(Some((day, state)))
        })?;
        for day in lost {
            let covered_from = match transaction.next.zone_mut(day.tz) {
                None => &mut transaction.next.expiry.states_from,
                Some(zone) => &mut zone.covered_from,
            };
            let next_day: Option<NaiveDate> = Some(day.date() + Days::new(1));
            *covered_from = next_day.max(*covered_from);
        }
        Ok(())
    }

    /// The state of a day before more is added. A damaged one is made again from the day's
    /// segments; without them only the days after it are known in full.
    fn known_state(&self, version: &Version, day: ZoneDay) -> Result<KnownState> {
        let Some(file) = version.state(day) else {
            return Ok(KnownState::Nothing);
        };
        let error = match file.state(self.names()) {
            Ok(state) => return Ok(KnownState::State(state)),
            Err(error @ (Error::Damaged { .. } | Error::Io { .. })) => error,
            Err(error) => return Err(error),
        };
        if has_events_of(version, day) {
            warn!("{error}; it is made again from its segments");
            return self.day_state(version, day, &[]).map(KnownState::State);
        }
        error!("{error}; its events have expired, and only later days are known in full now");
        Ok(KnownState::Lost)
    }
}

/// The state of a day before more is added.
enum KnownState {
    /// There is none.
    Nothing,
    /// It is known.
    State(DailyState),
    /// It was damaged, and its events have expired.
    Lost,
}

/// True if no event of a day of a zone has expired.
pub(super) fn has_events_of(version: &Version, day: ZoneDay) -> bool {
    let first = date(window::utc_days_of(day.date(), day.tz).start);
    let raw_from = version.expiry.raw_from;
    raw_from.is_none_or(|raw_from| first >= raw_from)
}

impl RotatedLog {
    /// Writes the log's events as segments under a number, a part of the log on each core. They are
    /// not live before they are committed.
    fn write_segments(&self, folder: &Folder, number: u64) -> Result<Vec<SegmentMeta>> {
        let mut parts = (0_u32..).zip(recovery::parts(&self.path, PART_BYTES)?);
        let mut meta = Vec::new();
        pipeline::ordered(
            || Ok(parts.next()),
            |(place, part)| {
                // With zeros, so that the order of names is that of the log.
                let name = format!("{number:08}-{place:04}");
                segment::write_days(folder, &name, &Sorted::new(self.read(part)?)?)
            },
            |written: Result<Vec<SegmentMeta>>| {
                meta.extend(written?);
                Ok(())
            },
        )?;
        Ok(meta)
    }

    /// The events of a part of the log.
    fn read(&self, part: Range<u64>) -> Result<DataFrame> {
        let mut rows = LakeRows::for_lines((part.end - part.start) as usize);
        let scan = recovery::scan_part(&self.path, part, |event| {
            rows.push(event);
            Ok(())
        })?;
        // Damage that was found when the log was read back is blank now, so this is new.
        match scan.damage.first() {
            None => rows.finish(),
            Some(damage) => Err(Error::Damaged {
                file: self.path.clone(),
                message: format!(
                    "at byte {}: {}; restart to quarantine it",
                    damage.offset,
                    damage.reason.reason()
                ),
            }),
        }
    }
}

/// Seals that failed since one succeeded.
#[derive(Debug, Default)]
pub struct FailedSeals {
    backoff: Backoff,
    /// Free bytes after one that found the disk full.
    free_bytes: Option<u64>,
}

impl FailedSeals {
    /// Notes a failure.
    pub fn fail(&mut self, folder: &Folder, error: &Error) {
        self.backoff.fail(Instant::now());
        self.free_bytes = match error {
            Error::DiskFull => folder.free_bytes(),
            _ => None,
        };
    }

    /// Notes a success.
    pub fn succeed(&mut self) {
        *self = Self::default();
    }

    /// True if it is too early for another scheduled seal.
    pub fn is_waiting(&self, folder: &Folder) -> bool {
        self.backoff.is_waiting(Instant::now(), || {
            let free = self.free_bytes.zip(folder.free_bytes());
            free.is_some_and(|(then, now)| now >= then + HEALED_BYTES)
        })
    }
}

/// Merges the daily states of some chunks.
///
/// # Errors
/// If the engine cannot compute them.
fn states_of(chunks: &[Arc<Chunk>]) -> Result<Slices> {
    let mut merged = Slices::default();
    let mut chunks = chunks.iter();
    pipeline::ordered(
        || Ok(chunks.next()),
        |chunk| chunk.slices(),
        |slices| {
            merged.merge(slices?);
            Ok(())
        },
    )?;
    Ok(merged)
}

/// Compares the events of each day as counted from memory and from the files, two independent ways.
///
/// # Errors
/// [`Error::Damaged`], with the first day that differs.
fn check_pair(
    root: &Path,
    states: &BTreeMap<Day, DailyState>,
    written: &[SegmentMeta],
) -> Result<()> {
    let in_memory: BTreeMap<Day, u64> = states
        .iter()
        .map(|(&day, state)| (day, state.activity.stored_events()))
        .collect();
    let mut in_files: BTreeMap<Day, u64> = BTreeMap::new();
    for meta in written {
        *in_files.entry(day_of(meta.first_ts_us)).or_default() += meta.rows;
    }
    if in_memory == in_files {
        return Ok(());
    }
    let days = in_memory.keys().chain(in_files.keys());
    let differs = |day: &&Day| in_memory.get(*day) != in_files.get(*day);
    let day = days.copied().find(|day| differs(&day)).unwrap_or_default();
    Err(Error::Damaged {
        file: root.join(segment::LAKE_DIR),
        message: format!(
            "{} events of {} were written of {}; nothing is sealed",
            in_files.get(&day).copied().unwrap_or(0),
            date(day),
            in_memory.get(&day).copied().unwrap_or(0)
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_age_make_a_seal_due() {
        let empty = Backlog::default();
        let some = Backlog { bytes: 1, ..empty };
        assert_eq!(urgency(empty), None);
        assert_eq!(urgency(some), None, "it may wait some minutes");
        let age = |age: Duration| Some(age);
        let second = Duration::from_secs(1);
        for (backlog, expected) in [
            (
                Backlog {
                    bytes: SEAL_BYTES,
                    ..empty
                },
                Some(SealUrgency::Due),
            ),
            (
                Backlog {
                    bytes: LATE_BYTES,
                    ..empty
                },
                Some(SealUrgency::Late),
            ),
            (Backlog { logs: 1, ..some }, Some(SealUrgency::Due)),
            (
                Backlog {
                    age: age(SEAL_AGE),
                    ..some
                },
                Some(SealUrgency::Due),
            ),
            (
                Backlog {
                    age: age(SEAL_AGE - second),
                    ..some
                },
                None,
            ),
            (
                Backlog {
                    found_age: age(FOUND_AGE),
                    ..some
                },
                Some(SealUrgency::Due),
            ),
            (
                Backlog {
                    found_age: age(FOUND_AGE - second),
                    ..some
                },
                None,
            ),
            (
                Backlog {
                    age: age(SEAL_AGE),
                    ..empty
                },
                None,
            ),
        ] {
            assert_eq!(urgency(backlog), expected, "{backlog:?}");
        }
    }
}

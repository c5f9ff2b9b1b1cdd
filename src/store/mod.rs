//! Everything that touches the data folder: the event log, the segments of the lake, and what is kept in
//! memory to answer from them.
//!
//! An event goes `Draft` → `writer` (group commit) → event log on disk → `admission`, which gives names their numbers → `tail` in
//! memory → reply. `clock` says when it came, `identity` whether the log is still the one under its name. A seal moves events
//! from log and tail to segments. Events that are imported become segments at once (`load`). A query reads a snapshot
//! of segments and tail, in batches or as one lazy frame. `ownership` and `shape` tell our files from those of others, `files`
//! changes files durably, and `output` writes every Parquet file.

mod access;
mod admission;
mod clock;
mod compaction;
mod dedup;
mod dictionary;
mod draft;
mod erased;
mod erasure;
mod event_log;
mod exchange;
mod expiry;
mod expiry_of_ids;
pub mod files;
pub mod folder;
mod identity;
mod live;
mod load;
mod log_kind;
mod manifest;
mod output;
mod ownership;
pub mod pipeline;
mod postings;
mod pseudonym;
mod quarantine;
mod rate;
mod rebuild;
mod recovery;
mod rotation;
mod row;
mod rows;
pub mod scan;
mod seal;
mod segment;
mod shape;
mod snapshot;
mod states;
mod tail;
mod verify;
mod view;
mod writer;

use std::collections::{BTreeMap, HashSet};

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Days, NaiveDate, Utc};
use polars::prelude::*;
use roaring::RoaringBitmap;
use serde::Serialize;
use tracing::{error, info, warn};

use crate::config::StoreConfig;
use crate::daily::{Activities, DailyState, Day, date, day_of};
use crate::digest::Digester;
use crate::error::{Error, Result};
use crate::names::Names;
use crate::schema;
use admission::Admission;
use clock::TrustedClock;
use compaction::{Compacted, Retired, Staged};
use dedup::{RecentIds, SharedIds};
use erased::Gate;
use event_log::{EventLog, NextLog};
use exchange::Replaced;
use folder::{Access, Folder, Purpose};
use live::Live;
use manifest::Manifest;
use rebuild::StateOf;
use rotation::{RotatedLog, WaitingLogs};
use row::Row;
use seal::{FailedSeals, Rotation, Sealing};
use segment::{Segment, SegmentFacts};
use states::StateFile;
use tail::{LogPart, SealMark, Tail};
use view::{SharedView, View};
use writer::{Writer, WriterHandle};

pub use admission::{NameUse, RestCounts};
pub use clock::Received;
pub use compaction::Effort;
pub use draft::{Draft, DraftMaker};
pub use erasure::{Erased, ErasureLimit};
pub use expiry::{Clock, Expired, ExpiryFacts, Retention};
pub use identity::is_displaced;
pub use live::{Commit, Watch};
pub use load::Part;
pub use ownership::{FOLDERS, MARK_FILE, Mark};
pub use rate::Accepted;
pub use rebuild::Rebuilt;
pub use recovery::Recovered;
pub use rows::write_lines;
pub use segment::LAKE_DIR;
pub use shape::EVENT_LOG_FILE;
pub use snapshot::{PartFacts, SealedDay, rewrite, rewrite_without};
pub use verify::{Verified, verify};
pub use view::{Batch, Columns, DayParts};
pub use writer::{Reply, Stored};

/// A log of so many bytes is sealed: about a hundred thousand events, which keep a query and a start quick. A commit waits while
/// the file system gives the room of a sealed log back: 20 ms for 128 MB where it discards the blocks.
const SEAL_BYTES: u64 = 32 << 20;
/// A log of so many bytes should have been sealed long ago.
const LATE_BYTES: u64 = 512 << 20;
/// Events that may wait to be sealed: some hundred MB of memory. More come only when seals fail again and again.
const MAX_TAIL_EVENTS: usize = 16 << 20;
/// Events are sealed when the oldest waits so long: how far behind the lake is for other programs.
const SEAL_AGE: Duration = Duration::from_secs(10 * 60);
/// What a start found waiting in the open log is sealed so long after it: soon, because a server that is killed often would
/// never seal it, and not while the first requests after the start wait.
const FOUND_AGE: Duration = Duration::from_secs(10);
/// Segments whose ids are read back at once: enough to keep all cores busy.
const SEGMENTS_AT_ONCE: usize = 256;

/// The open store. Dropping it commits what is queued and frees the folder.
pub struct Store {
    // Fields are dropped in order: the writer ends before the folder is free.
    writer: WriterHandle,
    view: SharedView,
    live: Arc<Live>,
    maker: DraftMaker,
    recent: SharedIds,
    admission: Admission,
    manifest: Mutex<Manifest>,
    retired: Mutex<Retired>,
    /// Why the sealed part is not changed any more.
    stopped: OnceLock<String>,
    /// Who is erased.
    gate: Gate,
    /// Held by whoever erases.
    erasing: Mutex<()>,
    /// How many wait to erase.
    erasures_waiting: AtomicUsize,
    /// Place of the segment that was scrubbed last.
    scrubbed: Mutex<usize>,
    failed_seals: Mutex<FailedSeals>,
    /// Events that may wait to be sealed.
    max_tail_events: usize,
    folder: Folder,
    recovered: Recovered,
    clock: TrustedClock,
    /// Users whose lines in the dictionary are gone since the start, because nothing of theirs was left.
    expired_ids: Mutex<expiry_of_ids::ExpiredIds>,
    /// The last erasure that was asked to be confirmed.
    offered: Mutex<Option<erasure::Offer>>,
}

/// How much the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StoreSize {
    /// Events in the log, not yet sealed.
    pub log_events: usize,
    /// Bytes of the open log.
    pub log_bytes: u64,
    /// Logs that were rotated and wait to be sealed.
    pub waiting_logs: usize,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Events in segments.
    pub sealed_events: u64,
    /// Live segments.
    pub segments: usize,
    /// Their bytes.
    pub sealed_bytes: u64,
    /// Days that have a state.
    pub states: usize,
    /// Bytes of the states.
    pub state_bytes: u64,
    /// Bytes of the postings.
    pub postings_bytes: u64,
}

/// How urgent a seal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealUrgency {
    /// It is time.
    Due,
    /// Events come in faster than they were sealed.
    Late,
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

impl Sealed {
    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.segments += other.segments;
        self.bytes += other.bytes;
    }
}

impl Store {
    /// Opens the data folder, reads the log back and starts the writer. `holder` says to others who we are.
    ///
    /// # Errors
    /// [`Error::Held`] if another process has the folder, [`Error::Damaged`] if the manifest or the dictionary is.
    pub fn open(config: &StoreConfig, holder: &str, now: DateTime<Utc>) -> Result<Self> {
        Self::open_for(config, holder, Purpose::Change, now)
    }

    /// The same, for a purpose: a folder that cannot be written is read as it is if nothing is to be changed.
    ///
    /// # Errors
    /// As [`Store::open`] and [`Folder::open`].
    pub fn open_for(
        config: &StoreConfig,
        holder: &str,
        purpose: Purpose,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let pseudonyms = pseudonym::check_and_load(config)?;
        let folder = Folder::open(&config.data_dir, holder, purpose)?;
        let is_writable = folder.access() == Access::ReadWrite;
        let mut manifest = Manifest::load(folder.path())?;
        pseudonym::check(&manifest, pseudonyms.as_ref(), folder.path())?;
        if is_writable {
            RotatedLog::finish_rotation(folder.path(), manifest.sequence)?;
            compaction::finish(&folder, &manifest)?;
            remove_leftovers(&folder, &manifest)?;
        }
        let names = Names::new()?;
        dictionary::load(folder.path(), manifest.dictionary, &names.users)?;
        if is_writable {
            dictionary::remove_others(&folder, manifest.dictionary)?;
        }
        let gate = erasure::gate(&folder, &manifest, &names)?;
        let maker = DraftMaker {
            names: names.clone(),
            keys: Digester::new(),
            gate: gate.clone(),
            pseudonyms,
        };
        let segments = live_segments(&folder, &manifest);
        if let Some(rebuilt) =
            rebuild::missing(&folder, &manifest, &segments, &names, config.names.features)?
        {
            rebuilt.commit(&folder)?;
            manifest = rebuilt;
            states::remove(&folder, Vec::new(), &manifest.states)?;
        }
        if let Some(pseudonyms) = &maker.pseudonyms
            && manifest.user_key.is_none()
            && is_writable
        {
            // Before the first event that is stored under one.
            manifest.user_key = Some(pseudonyms.fingerprint());
            manifest.commit(&folder)?;
        }
        let received = segments
            .iter()
            .map(|segment| segment.facts.last_received_at_us);
        let clock = TrustedClock::new(manifest.clock, manifest.expiry, received.max());
        let mut recent = recent_ids(&segments, &maker, &clock)?;
        let states = live_states(&folder, &manifest);
        let admission = Admission::new(&maker, config.names, manifest.new_users);
        let named = |day: Day| {
            let state = states.get(&day);
            state.map_or_else(RoaringBitmap::new, |state| state.named_features(&names))
        };
        let mut tail = Tail::new(names.clone());
        let mut recovered = Recovered::default();
        for path in recovery::logs_to_read(&folder, &manifest)? {
            let file = Arc::new(files::open(&path)?);
            let found = recovery::recover(&folder, &path, &maker, now, |draft, bytes| {
                clock.note(draft.rows.iter().map(|row| row.received_at_us));
                let mut admitted = admission.lock();
                let rows: Vec<Row> = draft
                    .rows
                    .iter()
                    .map(|row| {
                        if let Some(key) = row.key {
                            recent.insert(key, row.received_at_us);
                        }
                        let mut rest = RestCounts::default();
                        admission.admit(&mut admitted, row, &draft, &named, &mut rest)
                    })
                    .collect();
                let file = file.clone();
                tail.append(&rows, LogPart { file, bytes })
            })?;
            tail.end_log()?;
            admission.end_log(event_log::id_of(&file)?);
            found.report(&path, folder.access());
            recovered.events += found.events;
            recovered.torn_bytes += found.torn_bytes;
            recovered.damaged += found.damaged;
        }
        let log_path = folder.path().join(EVENT_LOG_FILE);
        let log = match folder.access() {
            Access::ReadWrite => EventLog::open(&log_path, config.durability)?,
            Access::ReadOnly => EventLog::open_to_read(&log_path)?,
        };
        let view = SharedView::new(View {
            segments,
            states,
            expiry: manifest.expiry,
            log_bytes: log.length(),
            log_since: (tail.len() > 0).then(Instant::now),
            waiting: WaitingLogs::found(folder.path(), tail.len() > 0)?,
            tail,
            gate: gate.clone(),
        });
        let live = Arc::new(Live::default());
        let recent = SharedIds::new(recent);
        let writer = WriterHandle::start(Writer {
            log,
            recent: recent.clone(),
            admission: admission.clone(),
            gate: gate.clone(),
            view: view.clone(),
            live: live.clone(),
        })?;
        Ok(Self {
            writer,
            view,
            live,
            maker,
            recent,
            admission,
            manifest: Mutex::new(manifest),
            retired: Mutex::default(),
            stopped: OnceLock::new(),
            gate,
            erasing: Mutex::new(()),
            erasures_waiting: AtomicUsize::new(0),
            scrubbed: Mutex::new(0),
            failed_seals: Mutex::default(),
            max_tail_events: MAX_TAIL_EVENTS,
            folder,
            recovered,
            clock,
            expired_ids: Mutex::default(),
            offered: Mutex::default(),
        })
    }

    /// What makes drafts for this store.
    pub fn draft_maker(&self) -> DraftMaker {
        self.maker.clone()
    }

    /// The ids under which a user may be stored: the clear one, and the pseudonym if there are such.
    pub fn stored_ids(&self, user: &str) -> Vec<String> {
        let pseudonym = self.maker.pseudonyms.as_ref().map(|all| all.of(user));
        let mut ids = vec![user.to_owned()];
        ids.extend(pseudonym.filter(|pseudonym| pseudonym != user));
        ids
    }

    /// The same of a user who is asked for by a person.
    ///
    /// # Errors
    /// `user_key_needed` if nobody has this id, and there are pseudonyms whose key was not given: of an earlier version, or of
    /// an import.
    pub fn ids_of(&self, user: &str) -> Result<Vec<String>> {
        let users = &self.names().users;
        let is_answered = self.maker.pseudonyms.is_some()
            || pseudonym::is_pseudonym(user)
            || users.find(user).is_some();
        let mut texts = (0..users.len() as u32).filter_map(|number| users.text(number));
        if !is_answered && texts.any(pseudonym::is_pseudonym) {
            return Err(Error::bad_input(
                "user_key_needed",
                "nobody is stored under this id, and other users are stored under keyed hashes: give the file of the key with \
                 --user-key-file, or ask by the hash",
            ));
        }
        Ok(self.stored_ids(user))
    }

    /// The names of users and features.
    pub fn names(&self) -> &Names {
        &self.maker.names
    }

    /// Queues events; the reply comes when they are durable and visible.
    ///
    /// # Errors
    /// [`Error::Busy`] if too much is queued, [`Error::Poisoned`] after a failed write.
    pub fn append(&self, draft: Draft) -> Result<Reply> {
        self.clock
            .note(draft.rows.iter().map(|row| row.received_at_us));
        self.writer.append(draft)
    }

    /// How far the limits of names are used.
    pub fn name_use(&self) -> NameUse {
        self.admission.usage()
    }

    /// Whether events can be accepted. After a write that found no room it looks for room itself, because a server
    /// that gets no events for not being ready would never find out.
    ///
    /// # Errors
    /// [`Error::Poisoned`] after a failed write, [`Error::DiskFull`] without room, [`Error::Busy`] while the disk
    /// does not answer.
    pub fn check_writable(&self) -> Result<()> {
        if self.view.lock().tail.len() > self.max_tail_events {
            return Err(Error::Busy("too many events wait to be sealed"));
        }
        match self.writer.check_health() {
            Err(Error::DiskFull) if self.writer.may_probe() && self.folder.has_room() => {
                self.writer.has_room();
                Ok(())
            }
            health => health,
        }
    }

    /// Checks that log and folder are where they were; if not, nothing more is accepted. To be called each second.
    pub fn check_in_place(&self) {
        self.writer.check_in_place();
        if let Err(Error::Poisoned(reason)) = self.folder.check_in_place() {
            self.writer.stop(&reason);
        }
    }

    /// The time of receipt of events that come in when the clock says `now`: never before that of the newest event.
    ///
    /// # Errors
    /// [`Error::Clock`] while the clock cannot be believed.
    pub fn receive(&self, now: DateTime<Utc>) -> Result<Received> {
        self.clock.receive(now)
    }

    /// The time that is believed when the clock says `now`.
    ///
    /// # Errors
    /// [`Error::Clock`] while the clock cannot be believed.
    pub fn believed(&self, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
        self.clock.believed(now)
    }

    /// The last believed day when the clock says `now`: days before it are over, whatever the clock is.
    pub fn believed_day(&self, now: DateTime<Utc>) -> NaiveDate {
        self.clock.believed_day(now)
    }

    /// The newest `received_at`, if there is an event.
    pub fn newest_received_at(&self) -> Option<DateTime<Utc>> {
        let newest_us = self.clock.newest_us()?;
        DateTime::from_timestamp_micros(newest_us)
    }

    /// Believes a clock that a person has confirmed, durably. If it is behind the newest event, `received_at` goes on from
    /// it nevertheless.
    ///
    /// # Errors
    /// [`Error::Clock`] if no clock can be right that says so, and if the manifest cannot be written.
    pub fn confirm_clock(&self, now: DateTime<Utc>) -> Result<()> {
        if self.clock.check_confirmation(now)? {
            // The log is read back in the order of time; its events are of the time before.
            self.seal()?;
            self.recent.lock().set_back(now.timestamp_micros());
        }
        let mut manifest = self.lock_manifest()?;
        self.clock.confirm(now);
        let mut next = manifest.clone();
        self.clock.save(&mut next.clock, &mut next.expiry);
        if next != *manifest {
            self.commit(&manifest, &next)?;
            self.view.lock().expiry = next.expiry;
            *manifest = next;
        }
        info!("The clock was confirmed");
        Ok(())
    }

    /// The events of a time range, in µs, with the columns of [`schema::COUNTED`] as numbers, see [`Names::counted`]. All
    /// that were answered before are in it.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment that is needed is.
    pub fn scan(&self, range_us: Range<i64>) -> Result<LazyFrame> {
        self.view.scan(range_us, self.names())
    }

    /// The same events in parts, see [`Columns`]: users are their numbers, other texts are texts; each user's events of a
    /// day are in the order of the log. All that were answered before are in one of them.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment that is needed, or the log, is.
    pub fn batches(&self, range_us: Range<i64>, columns: Columns<'_>) -> Result<Vec<Batch>> {
        self.view.batches(range_us, columns, self.names())
    }

    /// The events of a time range, in µs, with the columns of [`schema::lake`], in parts of one segment or so, by day. All that
    /// were answered before are in one of them.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment that is needed, or the log, is.
    pub fn whole(
        &self,
        range_us: Range<i64>,
    ) -> Result<impl Iterator<Item = Result<LazyFrame>> + use<>> {
        self.view.whole_range(range_us)
    }

    /// What each day of a range left behind that has events. All that was answered before is in it.
    ///
    /// # Errors
    /// If the engine cannot count the events that are not sealed.
    pub fn days(&self, days: &Range<Day>) -> Result<Vec<DayParts>> {
        self.view.days(days)
    }

    /// The revision of each day of a range that has events: a text that is another one when they are. No file is read.
    ///
    /// # Errors
    /// If the engine cannot count the events that are not sealed.
    pub fn revisions(&self, days: &Range<Day>) -> Result<BTreeMap<Day, String>> {
        self.view.revisions(days)
    }

    /// What happened in a range of days, without reading events. All that was answered before is in it.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a state that is needed is.
    pub fn activities(&self, days: Range<Day>) -> Result<Activities> {
        self.view.activities(days, self.names())
    }

    /// The day of the oldest event that is known.
    pub fn first_day(&self) -> Option<NaiveDate> {
        let view = self.view.lock();
        let sealed = view.states.keys().next().copied();
        let unsealed = view.tail.first_ts_us().map(day_of);
        sealed.into_iter().chain(unsealed).min().map(date)
    }

    /// The day of the newest event.
    pub fn last_day(&self) -> Option<NaiveDate> {
        let view = self.view.lock();
        let sealed = view.states.keys().next_back().copied();
        let unsealed = view.tail.last_ts_us().map(day_of);
        sealed.into_iter().chain(unsealed).max().map(date)
    }

    /// What expired so far.
    pub fn expiry(&self) -> ExpiryFacts {
        self.view.lock().expiry
    }

    /// How much the store holds now.
    pub fn size(&self) -> StoreSize {
        let postings_bytes = postings::bytes(&self.folder);
        let view = self.view.lock();
        StoreSize {
            log_events: view.tail.len(),
            log_bytes: view.log_bytes,
            waiting_logs: view.waiting.logs(),
            waiting_bytes: view.waiting.bytes(),
            sealed_events: view.segments.iter().map(|segment| segment.facts.rows).sum(),
            segments: view.segments.len(),
            sealed_bytes: view
                .segments
                .iter()
                .map(|segment| segment.facts.bytes)
                .sum(),
            states: view.states.len(),
            state_bytes: view.states.values().map(|state| state.facts.bytes).sum(),
            postings_bytes,
        }
    }

    /// How long the oldest event waits to be sealed.
    pub fn seal_lag(&self) -> Option<Duration> {
        let view = self.view.lock();
        let since = view.waiting.since.or(view.log_since);
        let since = since.filter(|_| view.tail.len() > 0);
        since.map(|since| since.elapsed())
    }

    /// How many events were accepted.
    pub fn accepted(&self) -> Accepted {
        self.writer.accepted()
    }

    /// Watches the events that are accepted from now on, and what of the open log came just before.
    ///
    /// # Errors
    /// [`Error::Busy`] if too many watch or the server stops, and if the log cannot be read.
    pub fn watch(&self) -> Result<(Commit, Watch)> {
        let (log, watch) = {
            // No event is accepted between the two.
            let view = self.view.lock();
            (view.tail.log_end(), self.live.watch()?)
        };
        let before = match log {
            Some((file, end)) => live::newest_of_log(&file, end)?,
            None => Commit::default(),
        };
        Ok((before, watch))
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        self.live.watchers()
    }

    /// Tells all who watch that nothing more comes.
    pub fn end_watches(&self) {
        self.live.end();
    }

    /// What reading the log back found at the start.
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// The data folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The manifest, to be changed.
    ///
    /// # Errors
    /// If a commit failed so that nobody knows which manifest a power cut would leave.
    fn lock_manifest(&self) -> Result<MutexGuard<'_, Manifest>> {
        self.folder.check_in_place()?;
        // A panic while it was locked left it whole: it is replaced in one step, after the commit.
        let manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        match self.stopped.get() {
            Some(reason) => Err(Error::Poisoned(reason.clone())),
            None => Ok(manifest),
        }
    }

    /// Commits `next` in the place of `current`. If the new manifest has its name and may not be durable, the sealed part
    /// is not changed again until a restart reads what is there.
    fn commit(&self, current: &Manifest, next: &Manifest) -> Result<()> {
        next.commit(&self.folder).inspect_err(|error| {
            let on_disk = Manifest::load(self.folder.path());
            if !on_disk.is_ok_and(|on_disk| on_disk == *current) {
                error!("Nothing is sealed, compacted or expired until a restart: {error}");
                self.stopped.get_or_init(|| error.to_string());
                return;
            }
            self.remove_other_states(current);
        })
    }

    /// Commits numbers for the names of new files, so that a start knows what an end in between left. Returns the first.
    fn reserve_numbers(&self, manifest: &mut Manifest, count: u64) -> Result<u64> {
        // The segments of a log that waits will have the log's number.
        let waiting = RotatedLog::list(self.folder.path())?;
        let last = waiting.last().map_or(0, |log| log.number);
        let first = manifest.sequence.max(last) + 1;
        let mut next = manifest.clone();
        next.sequence = first + count - 1;
        self.commit(manifest, &next)?;
        *manifest = next;
        Ok(first)
    }

    /// Puts the prepared folder of a day into the lake and commits `next`, which names its files; if that fails, the day is
    /// as it was.
    fn commit_day(&self, staged: &Staged, current: &Manifest, next: &Manifest) -> Result<()> {
        if let Err(error) = staged.exchange() {
            staged.remove()?;
            return Err(error);
        }
        if let Err(error) = self.commit(current, next) {
            if self.stopped.get().is_none() {
                staged.exchange()?;
                staged.remove()?;
            }
            return Err(error);
        }
        Ok(())
    }

    fn lock_retired(&self) -> MutexGuard<'_, Retired> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so much waits to be sealed, or for so long, that it is time to seal: in the open log and in those that were
    /// rotated. After a seal that failed it is not time for a while.
    pub fn seal_urgency(&self) -> Option<SealUrgency> {
        let (urgency, log_bytes) = {
            let view = self.view.lock();
            let bytes = view.log_bytes + view.waiting.bytes();
            let is_old = |since: Option<Instant>, age| since.is_some_and(|at| at.elapsed() >= age);
            let is_due = bytes >= SEAL_BYTES
                || view.waiting.logs() > 0
                || is_old(view.log_since, SEAL_AGE)
                || is_old(view.waiting.found, FOUND_AGE);
            let urgency = match bytes >= LATE_BYTES {
                true => Some(SealUrgency::Late),
                false => is_due.then_some(SealUrgency::Due),
            };
            (urgency, bytes)
        };
        urgency.filter(|_| log_bytes > 0 && !self.lock_failed_seals().is_waiting(&self.folder))
    }

    /// Turns the logs into segments, those that wait and then the open one, each by a commit of its own. Ingest and queries go
    /// on meanwhile. It is not held back by seals that failed before.
    ///
    /// # Errors
    /// If a file cannot be written; then the events stay where they were and the next seal tries again.
    pub fn seal(&self) -> Result<Sealed> {
        let sealed = self.try_seal();
        match &sealed {
            Ok(_) => self.lock_failed_seals().succeed(),
            Err(error) => {
                self.lock_failed_seals().fail(&self.folder, error);
                // It is due again after a while, also if no more events come.
                let mut view = self.view.lock();
                view.log_since.get_or_insert_with(Instant::now);
            }
        }
        sealed
    }

    fn try_seal(&self) -> Result<Sealed> {
        self.writer.check()?;
        let mut sealed = Sealed::default();
        let mut rotation = Rotation::Due;
        loop {
            // The lock is free between two logs, so that other jobs wait for one at most.
            let mut manifest = self.lock_manifest()?;
            let Some(log) = self.next_log(&manifest, &mut rotation)? else {
                return Ok(sealed);
            };
            sealed.add(self.seal_log(&mut manifest, &log)?);
        }
    }

    /// The oldest log that waits to be sealed. If there is none, the open one is rotated, once.
    fn next_log(&self, manifest: &Manifest, rotation: &mut Rotation) -> Result<Option<RotatedLog>> {
        let root = self.folder.path();
        // A log that segments cover may still be there if it could not be removed.
        remove_covered(&self.folder, manifest)?;
        RotatedLog::undo_rotation(root)?;
        if let Some(oldest) = RotatedLog::list(root)?.into_iter().next() {
            return Ok(Some(oldest));
        }
        let is_empty = self.view.lock().log_bytes == 0;
        if is_empty || std::mem::replace(rotation, Rotation::Done) == Rotation::Done {
            return Ok(None);
        }
        let aside = RotatedLog::prepare(root, manifest.sequence + 1)?;
        let next_log = NextLog::prepare(root, &aside)?;
        self.writer.rotate(next_log).inspect_err(|_| {
            // The second name may be that of a file of another program, which took the place of the log.
            let _ = RotatedLog::undo_rotation(root);
        })?;
        event_log::sync_rotation(root)?;
        Ok(RotatedLog::list(root)?.into_iter().next())
    }

    fn seal_log(&self, manifest: &mut Manifest, log: &RotatedLog) -> Result<Sealed> {
        let id = log.id()?;
        let chunks = self.view.lock().tail.of_log(id)?;
        // The names of its segments sort behind those that are live. Its own number is not enough if a load, a compaction or an
        // erasure has used greater ones since its rotation.
        let number = match log.number > manifest.sequence {
            true => log.number,
            false => self.reserve_numbers(manifest, 1)?,
        };
        let mut next = manifest.clone();
        next.sealed_through = log.number;
        next.sequence = number;
        next.new_users = self.admission.new_users_of(id, next.new_users);
        let sealing = std::thread::scope(|scope| {
            let left = scope.spawn(|| seal::left_behind(&chunks));
            let segments = log.write_segments(&self.folder, number);
            let left = left
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok::<_, Error>(Sealing {
                segments: segments?,
                left: left?,
            })
        });
        let mark = Some(SealMark::of(&chunks));
        drop(chunks);
        sealing
            .and_then(|sealing| self.commit_segments(manifest, next, sealing, mark))
            .inspect(|_| self.admission.forget_log(id))
            .inspect_err(|_| self.remove_uncommitted(manifest, number))
    }

    /// Removes what a seal or load that failed left in the lake and among the states: it may have failed for lack of room.
    fn remove_uncommitted(&self, manifest: &Manifest, number: u64) {
        if self.stopped.get().is_some() {
            // Nobody knows which manifest a restart will find.
            return;
        }
        if let Err(error) = segment::remove_uncommitted(&self.folder, number, &manifest.segments) {
            warn!(
                "Files that are not live are still there, and the next start removes them: {error}"
            );
        }
        self.remove_other_states(manifest);
    }

    /// Removes the states of a commit that failed.
    fn remove_other_states(&self, manifest: &Manifest) {
        if let Err(error) = states::remove(&self.folder, Vec::new(), &manifest.states) {
            warn!(
                "Files that are not live are still there, and the next start removes them: {error}"
            );
        }
    }

    fn lock_failed_seals(&self) -> MutexGuard<'_, FailedSeals> {
        self.failed_seals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits segments that nobody sees yet, with the dictionary and the daily states that their events lead to. With a mark,
    /// they hold the events of the tail up to it, which leaves memory in the same step.
    ///
    /// # Errors
    /// If a file cannot be written, or the events were counted otherwise in memory than in the segments.
    fn commit_segments(
        &self,
        manifest: &mut Manifest,
        mut next: Manifest,
        sealing: Sealing,
        mark: Option<SealMark>,
    ) -> Result<Sealed> {
        let Sealing {
            segments: written,
            left,
        } = sealing;
        let sealed = Sealed {
            events: written.iter().map(|facts| facts.rows).sum(),
            segments: written.len(),
            bytes: written.iter().map(|facts| facts.bytes).sum(),
        };
        seal::check_pair(self.folder.path(), &left, &written)?;
        let until = left.values().filter_map(DailyState::greatest_user).max();
        next.dictionary = dictionary::extend(
            &self.folder,
            manifest.dictionary,
            &self.names().users,
            &self.gate.ended(),
            until.map_or(0, |user| user + 1),
        )?;
        let returned = self.restore_ids(&left, &mut next.dictionary)?;
        let mut left = left.into_iter();
        let states = states::write(&self.folder, next.sequence, self.names(), || {
            let Some((day, mut state)) = left.next() else {
                return Ok(None);
            };
            if let Some(known) = self.known_state(day, &mut next.expiry)? {
                state.merge(&known);
            }
            Ok(Some((day, state)))
        })?;
        next.replace_states(states);
        // Before any clock can be wrong about what expires, there is a day to compare it with.
        self.clock.save(&mut next.clock, &mut next.expiry);
        next.segments.extend(written.iter().cloned());
        self.commit(manifest, &next)?;
        let segments = written
            .into_iter()
            .map(|facts| Arc::new(Segment::new(self.folder.path(), facts)));
        let states = live_states(&self.folder, &next);
        let mut view = self.view.lock();
        view.expiry = next.expiry;
        let in_memory = mark.map(|mark| view.tail.take_sealed(mark));
        if in_memory.is_some() {
            view.waiting.sealed();
        }
        view.segments.extend(segments);
        let replaced = view.set_states(states);
        drop(view);
        // Freed when the writer need not wait for it.
        drop(in_memory);
        let removed = states::remove(&self.folder, replaced, &next.states)
            .and_then(|()| remove_covered(&self.folder, &next))
            .and_then(|()| self.have_returned(&returned, next.dictionary));
        *manifest = next;
        if let Err(error) = removed {
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

    /// What is known of a day before more is added. A damaged state is made anew from the day's segments; without them
    /// only the days after it are known in full.
    fn known_state(&self, day: Day, expiry: &mut ExpiryFacts) -> Result<Option<DailyState>> {
        let (file, segments): (_, Vec<Arc<Segment>>) = {
            let view = self.view.lock();
            let segments = view.segments.iter().filter(|segment| segment.day() == day);
            (view.states.get(&day).cloned(), segments.cloned().collect())
        };
        let Some(file) = file else {
            return Ok(None);
        };
        let error = match file.state(self.names()) {
            Ok(state) => return Ok(Some(state)),
            Err(error @ (Error::Damaged { .. } | Error::Io { .. })) => error,
            Err(error) => return Err(error),
        };
        let date = date(day);
        if expiry.raw_from.is_none_or(|raw_from| date >= raw_from) {
            warn!("{error}; it is made anew from its segments");
            return self.state_of(&segments, day, &[]).map(Some);
        }
        error!("{error}; its events have expired, and only later days are known in full now");
        expiry.states_from = expiry.states_from.max(Some(date + Days::new(1)));
        Ok(None)
    }

    /// The state of a day from its segments, without the events of some users.
    fn state_of(
        &self,
        segments: &[Arc<Segment>],
        day: Day,
        without: &[&str],
    ) -> Result<DailyState> {
        let names = self.names();
        let named = self.view.named_features(day, names);
        let state = StateOf {
            segments,
            day,
            names,
            named,
            max_features: self.admission.limits().features,
            without,
        };
        state.compute()
    }

    /// Makes one segment of many small ones, where there are, and writes postings of those that stay. Ingest and queries go on
    /// meanwhile.
    ///
    /// # Errors
    /// If a file cannot be written or a segment is damaged; then its day stays as it is.
    pub fn compact(&self, now: DateTime<Utc>, effort: Effort) -> Result<()> {
        if !self.lock_retired().begin()? {
            return Ok(());
        }
        let mut failed = None;
        let now_us = now.timestamp_micros();
        let misordered = compaction::misordered_days(&self.lock_manifest()?.segments);
        for day in misordered {
            if let Err(error) = self.rename_in_order(day) {
                failed = failed.or(Some(error));
            }
        }
        let days = compaction::due_days(&self.lock_manifest()?.segments, now_us, effort);
        for day in days {
            // The lock is free between two days, so that a seal waits for one at most.
            // A damaged segment costs its own day.
            loop {
                match self.compact_day(day, now, effort) {
                    // A day may have more to do: several runs, and segments of an earlier format.
                    Ok(Compacted::Some) => {}
                    Ok(Compacted::Nothing) => break,
                    Err(error) => {
                        failed = failed.or(Some(error));
                        break;
                    }
                }
                // Of a lake of an earlier format every day is written again: what was replaced must not fill the disk.
                self.lock_retired().begin()?;
            }
        }
        if let Err(error) = self.index(now_us) {
            failed = failed.or(Some(error));
        }
        match failed {
            None => Ok(()),
            Some(error) => {
                self.lock_retired().pause();
                Err(error)
            }
        }
    }

    fn compact_day(&self, day: Day, now: DateTime<Utc>, effort: Effort) -> Result<Compacted> {
        // An erasure knows its segments by their names; they are joined another time.
        let Some(_no_erasure) = self.unless_erasing() else {
            return Ok(Compacted::Nothing);
        };
        let mut manifest = self.lock_manifest()?;
        let of_day = compaction::by_day(&manifest.segments).remove(&day);
        let of_day = of_day.unwrap_or_default();
        let Some(run) = compaction::plan(&of_day, now.timestamp_micros(), effort) else {
            return Ok(Compacted::Nothing);
        };
        if !compaction::is_clean(&self.folder, day, &of_day)? {
            // What a failed seal left, a file of somebody else, or a damaged segment that was set aside.
            return Ok(Compacted::Nothing);
        }
        // One alone is only written in another format: what a full log becomes goes first.
        if run.len() == 1 && !self.folder.has_room_beside(LATE_BYTES) {
            return Ok(Compacted::Nothing);
        }
        let inputs: HashSet<&str> = of_day
            .get(run)
            .unwrap_or_default()
            .iter()
            .map(|facts| facts.path.as_str())
            .collect();
        let mut segments = self.view.lock().segments.clone();
        segments.retain(|segment| inputs.contains(segment.facts.path.as_str()));
        let replaced = segments.len();
        let number = manifest.sequence + 1;
        let (temp, merged) = compaction::merge(&self.folder, day, number, &segments)?;
        let new = [(temp, merged.clone())];
        let taken = std::iter::once(Some(merged)).chain(std::iter::repeat(None));
        let pairs: Vec<Replaced> = segments.into_iter().zip(taken).collect();
        let staged = self.replace_in_day(&mut manifest, day, number, &new, &pairs)?;
        self.lock_retired().push(staged);
        info!(replaced, "Compacted {replaced} segments of {}", date(day));
        Ok(Compacted::Some)
    }

    /// Writes the postings of days that are over and have nothing to compact, where they are missing, and removes those of
    /// segments that are gone.
    fn index(&self, now_us: i64) -> Result<()> {
        self.remove_other_postings()?;
        let waiting = compaction::due_days(&self.lock_manifest()?.segments, now_us, Effort::Full);
        let segments = self.view.lock().segments.clone();
        let is_due = |segment: &&Arc<Segment>| {
            let day = segment.day();
            day < day_of(now_us) && !waiting.contains(&day) && !postings::path_of(segment).exists()
        };
        let mut indexed = Ok(());
        for segment in segments.iter().filter(is_due) {
            // What a full log becomes goes first.
            if !self.folder.has_room_beside(LATE_BYTES) {
                break;
            }
            match self.index_segment(segment) {
                // It has been said already.
                Ok(()) | Err(Error::Damaged { .. }) => {}
                error => indexed = indexed.and(error),
            }
        }
        indexed
    }

    fn index_segment(&self, segment: &Arc<Segment>) -> Result<()> {
        // What is erased must not come back.
        let Some(_no_erasure) = self.unless_erasing() else {
            return Ok(());
        };
        let is_live = |manifest: &Manifest| manifest.segments.contains(&segment.facts);
        if !is_live(&*self.lock_manifest()?) {
            return Ok(());
        }
        let temp = postings::write(&self.folder, segment, self.names())?;
        files::or_remove(&temp, || {
            // It may have expired meanwhile.
            let manifest = self.lock_manifest()?;
            match is_live(&manifest) {
                true => postings::publish(&self.folder, &temp, segment),
                false => files::remove(&temp),
            }
        })
    }

    fn remove_other_postings(&self) -> Result<()> {
        let manifest = self.lock_manifest()?;
        postings::remove_others(&self.folder, &manifest.segments)
    }

    /// Waits for its turn to erase.
    fn lock_erasing(&self) -> MutexGuard<'_, ()> {
        self.erasures_waiting.fetch_add(1, Ordering::Relaxed);
        let guard = self.erasing.lock().unwrap_or_else(PoisonError::into_inner);
        self.erasures_waiting.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// Keeps erasures out, unless one is going on or waits: these have precedence.
    fn unless_erasing(&self) -> Option<MutexGuard<'_, ()>> {
        if self.erasures_waiting.load(Ordering::Relaxed) > 0 {
            return None;
        }
        match self.erasing.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Makes the daily states of all days anew from their segments, which gives identical bytes. Days whose events
    /// expired keep theirs.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment is.
    pub fn rebuild(&self) -> Result<Rebuilt> {
        let mut manifest = self.lock_manifest()?;
        let segments = self.view.lock().segments.clone();
        let (next, rebuilt) = rebuild::all(
            &self.folder,
            &manifest,
            &segments,
            self.names(),
            &self.gate.ended(),
            self.admission.limits().features,
        )
        .inspect_err(|_| self.remove_other_states(&manifest))?;
        if rebuilt.changed > 0 {
            self.commit(&manifest, &next)?;
            let live = live_states(&self.folder, &next);
            let replaced = self.view.lock().set_states(live);
            *manifest = next;
            states::remove(&self.folder, replaced, &manifest.states)?;
        }
        Ok(rebuilt)
    }

    /// Removes what is older than it may be kept on the day `today`.
    ///
    /// # Errors
    /// `clock_jump` if the clock cannot be believed, and if a file cannot be written or removed.
    pub fn expire(&self, today: NaiveDate, retention: Retention, clock: Clock) -> Result<Expired> {
        let mut manifest = self.lock_manifest()?;
        let mut next = manifest.clone();
        if clock == Clock::Confirmed {
            self.clock.confirm_day(today);
        }
        let as_of = self
            .clock
            .day_of_expiry(today)
            .map_err(|last_on| expiry::clock_jump(today, last_on))?;
        let horizon = expiry::horizon(as_of, retention);
        let day = |facts: &SegmentFacts| date(day_of(facts.first_ts_us));
        next.segments.retain(|facts| day(facts) >= horizon.raw_from);
        next.states.retain(|facts| facts.day >= horizon.states_from);
        let segments = manifest.segments.len() - next.segments.len();
        let states = manifest.states.len() - next.states.len();
        if segments > 0 {
            next.expiry.raw_from = next.expiry.raw_from.max(Some(horizon.raw_from));
        }
        if states > 0 {
            next.expiry.states_from = next.expiry.states_from.max(Some(horizon.states_from));
        }
        self.clock.save(&mut next.clock, &mut next.expiry);
        // How new the newest event is, is written with the next events.
        let is_same_day = next.expiry == manifest.expiry
            && clock::doubted(next.clock) == clock::doubted(manifest.clock);
        let was_never_sealed = manifest.sequence == 0;
        let mut expired = Expired {
            segments,
            events: manifest.rows() - next.rows(),
            states,
            users: 0,
            as_of,
            raw_from: next.expiry.raw_from,
            states_from: next.expiry.states_from,
        };
        if was_never_sealed || is_same_day && segments + states == 0 {
            drop(manifest);
            expired.users = self.forget_expired_ids(states)?;
            return Ok(expired);
        }
        self.commit(&manifest, &next)?;
        let mut view = self.view.lock();
        let gone: Vec<Arc<Segment>>;
        (gone, view.segments) = std::mem::take(&mut view.segments)
            .into_iter()
            .partition(|segment| date(segment.day()) < horizon.raw_from);
        let replaced = view.set_states(live_states(&self.folder, &next));
        view.expiry = next.expiry;
        drop(view);
        *manifest = next;
        segment::remove_days(&self.folder, &gone)?;
        states::remove(&self.folder, replaced, &manifest.states)?;
        postings::remove_others(&self.folder, &manifest.segments)?;
        drop(manifest);
        expired.users = self.forget_expired_ids(states)?;
        if expired.segments + expired.states > 0 {
            info!(
                events = expired.events,
                segments = expired.segments,
                states = expired.states,
                "Expired {} events and {} daily states",
                expired.events,
                expired.states
            );
        }
        Ok(expired)
    }

    /// Verifies the next segments and states in turn, about as many bytes as given, so that damage is found before they
    /// are needed.
    ///
    /// # Errors
    /// [`Error::Damaged`] for the first that is; the scrub goes on behind it.
    pub fn scrub(&self, bytes: u64) -> Result<()> {
        // While it is held no file is taken away.
        let _unchanged = self.lock_manifest()?;
        let (segments, states): (Vec<_>, Vec<_>) = {
            let view = self.view.lock();
            (
                view.segments.clone(),
                view.states.values().cloned().collect(),
            )
        };
        let files = segments.len() + states.len();
        let mut next = self.scrubbed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut read = 0;
        for _ in 0..files {
            *next = (*next + 1) % files;
            if let Some(segment) = segments.get(*next) {
                segment.scrub()?;
                read += segment.facts.bytes;
            } else if let Some(state) = states.get(*next - segments.len()) {
                state.verified_bytes()?;
                read += state.facts.bytes;
            }
            if read >= bytes {
                break;
            }
        }
        Ok(())
    }
}

fn live_segments(folder: &Folder, manifest: &Manifest) -> Vec<Arc<Segment>> {
    let segments = manifest.segments.iter();
    segments
        .map(|facts| Arc::new(Segment::new(folder.path(), facts.clone())))
        .collect()
}

/// The files of the live segments.
fn live_paths(folder: &Folder, manifest: &Manifest) -> HashSet<PathBuf> {
    let segments = manifest.segments.iter();
    segments
        .map(|facts| folder.path().join(&facts.path))
        .collect()
}

fn live_states(folder: &Folder, manifest: &Manifest) -> BTreeMap<Day, Arc<StateFile>> {
    let states = manifest.states.iter();
    states
        .map(|facts| {
            let file = StateFile::new(folder.path(), facts.clone());
            (facts.day.to_epoch_days(), Arc::new(file))
        })
        .collect()
}

/// Removes what an interrupted seal, compaction or expiry left in the lake and among the states. Refuses a lake that
/// is newer than its manifest, as after a restore that forgot the manifest: its events would be invisible.
fn remove_leftovers(folder: &Folder, manifest: &Manifest) -> Result<()> {
    let waiting = RotatedLog::list(folder.path())?;
    let live = live_paths(folder, manifest);
    for path in segment::files(folder.path())? {
        if live.contains(&path) {
            continue;
        }
        let Some(number) = segment::number_of(&path) else {
            continue;
        };
        // The log of an unfinished seal is still there, and will be sealed again.
        if number > manifest.sequence && !waiting.iter().any(|log| log.number == number) {
            return Err(Error::Damaged {
                file: folder.path().join(shape::MANIFEST_FILE),
                message: format!(
                    "{} is not in it and is newer; restore the manifest that belongs to it",
                    path.display()
                ),
            });
        }
        files::remove(&path)?;
    }
    segment::remove_empty_days(folder.path(), &live)?;
    remove_covered(folder, manifest)?;
    postings::remove_others(folder, &manifest.segments)?;
    states::remove(folder, Vec::new(), &manifest.states)
}

/// Removes the logs whose events are all in segments.
fn remove_covered(folder: &Folder, manifest: &Manifest) -> Result<()> {
    RotatedLog::list(folder.path())?
        .iter()
        .filter(|log| log.number <= manifest.sealed_through)
        .try_for_each(|log| files::remove(&log.path))
}

/// The event ids in the segments that a new event may still repeat. A damaged segment does not stop the
/// start; its ids are unknown, so that a re-send of them would count again.
fn recent_ids(
    segments: &[Arc<Segment>],
    maker: &DraftMaker,
    clock: &TrustedClock,
) -> Result<RecentIds> {
    let until_us = clock.ids_until();
    let newest_us = clock.newest_us().unwrap_or(i64::MAX);
    // By the time of the log: the clock alone makes no id old.
    let since_us = newest_us.min(until_us.load(Ordering::Relaxed)) - dedup::WINDOW_US;
    let mut recent = RecentIds::new(until_us);
    let mut needed = Vec::new();
    for segment in segments {
        if segment.facts.last_received_at_us < since_us {
            continue;
        }
        match segment.verified() {
            Ok(_) => needed.push(segment.clone()),
            Err(error @ Error::Damaged { .. }) => {
                error!("{error}; its event ids are not known, and answers that need it fail");
            }
            Err(error) => return Err(error),
        }
    }
    // Some at a time: no more files are mapped than are being read.
    for needed in needed.chunks(SEGMENTS_AT_ONCE) {
        add_recent_ids(&mut recent, needed, maker, since_us, newest_us)?;
    }
    Ok(recent)
}

/// Adds the ids of events that were received since an instant, in µs.
fn add_recent_ids(
    recent: &mut RecentIds,
    segments: &[Arc<Segment>],
    maker: &DraftMaker,
    since_us: i64,
    newest_us: i64,
) -> Result<()> {
    let ids = segment::scan(segments)?
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
    let received = ids.column(schema::RECEIVED_AT)?.i64()?;
    let types = ids.column(schema::EVENT_TYPE)?.str()?;
    let users = ids.column(schema::USER_ID)?.str()?;
    let ids = ids.column(schema::EVENT_ID)?.str()?;
    let stored = ids.iter().zip(types.iter()).zip(users.iter());
    for (((id, event_type), user), received_at_us) in stored.zip(received.iter()) {
        if let (Some(id), Some(event_type), Some(received_at_us)) = (id, event_type, received_at_us)
        {
            let key = maker.key_of(id, event_type, user);
            recent.insert(key, received_at_us.min(newest_us));
        }
    }
    Ok(())
}

impl From<PolarsError> for Error {
    fn from(error: PolarsError) -> Self {
        Self::query(error)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Durability, NameLimits};
    use crate::event::{Event, EventType};

    fn store(dir: &Path) -> Result<Store> {
        let config = StoreConfig {
            data_dir: dir.to_owned(),
            durability: Durability::Os,
            raw_retention_days: 90,
            rollup_retention_days: 365,
            rollup_at: chrono::NaiveTime::MIN,
            user_key_file: None,
            names: NameLimits::default(),
            limit_erasure_percent: 5,
        };
        Store::open(&config, "the test", Utc::now())
    }

    /// An event whose line has so many bytes and some more.
    fn draft(store: &Store, bytes: usize) -> Result<Draft> {
        let mut draft = Draft::default();
        let event = Event {
            ts_us: 1_000_000_000_000_000,
            event_type: EventType::Action,
            user_id: Some("a user".into()),
            feature: None,
            metadata: format!(r#"{{"padding":"{}"}}"#, "p".repeat(bytes)).into(),
            url: None,
            event_id: None,
            received_at_us: 1_000_000_000_000_000,
        };
        store.draft_maker().push(&mut draft, &event);
        Ok(draft)
    }

    fn append(store: &Store) -> Result<()> {
        let reply = store.append(draft(store, 0)?)?.blocking_recv();
        reply.expect("a reply").map(drop)
    }

    /// Appends while no commit ends, until that is refused. Returns how many events were taken, and why the next was not.
    fn fill(store: &Store, bytes: usize, most: usize) -> Result<(usize, &'static str)> {
        // A commit waits for the view.
        let _held = store.view.lock();
        for taken in 0..most {
            match store.append(draft(store, bytes)?) {
                Ok(_) => {}
                Err(Error::Busy(reason)) => return Ok((taken, reason)),
                Err(error) => return Err(error),
            }
        }
        Ok((most, "nothing was refused"))
    }

    /// Waits until all that was taken is stored.
    fn stored(store: Store) -> usize {
        let view = store.view.clone();
        drop(store);
        view.lock().tail.len()
    }

    #[test]
    fn while_the_disk_does_not_answer_so_many_requests_wait_and_no_more() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = store(dir.path())?;
        let (taken, reason) = fill(&store, 2_000, 20_000)?;
        assert_eq!(reason, "too many requests wait for the disk");
        // Those that the writer took into its group, of up to 4 MB, are not in the queue any more.
        assert!((4_096..4_096 + 2_200).contains(&taken), "{taken}");
        assert_eq!(stored(store), taken);
        Ok(())
    }

    #[test]
    fn while_the_disk_does_not_answer_so_many_bytes_wait_and_no_more() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = store(dir.path())?;
        let (taken, reason) = fill(&store, 1 << 20, 200)?;
        assert_eq!(reason, "too many events wait for the disk");
        assert_eq!(taken, 64, "64 MB, the last of which passes the limit");
        assert_eq!(stored(store), taken);
        Ok(())
    }

    #[test]
    fn no_more_events_are_taken_when_too_many_wait_and_a_seal_makes_room() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut store = store(dir.path())?;
        assert_eq!(store.max_tail_events, 16 << 20);
        store.max_tail_events = 2;
        for _ in 0..3 {
            store.check_writable()?;
            append(&store)?;
        }
        let refused = store.check_writable();
        assert!(matches!(refused, Err(Error::Busy(_))), "{refused:?}");
        assert_eq!(store.seal()?.events, 3);
        store.check_writable()
    }

    #[test]
    fn what_waits_in_rotated_logs_is_urgent_and_a_seal_that_failed_is_not() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = store(dir.path())?;
        assert_eq!(store.seal_urgency(), None);
        append(&store)?;
        assert_eq!(store.seal_urgency(), None, "it may wait some minutes");
        // Where the lake should be is a file.
        let lake = dir.path().join(LAKE_DIR);
        std::fs::write(&lake, "").expect("a writable folder");
        assert!(store.seal().is_err());
        let size = store.size();
        assert_eq!((size.waiting_logs, size.log_events), (1, 1));
        assert_eq!(store.seal_urgency(), None, "it failed just now");
        // A seal that a person asks for is tried, and rotates no second log.
        append(&store)?;
        assert!(store.seal().is_err());
        assert_eq!(store.size().waiting_logs, 1);
        *store.lock_failed_seals() = FailedSeals::default();
        assert_eq!(store.seal_urgency(), Some(SealUrgency::Due));
        std::fs::remove_file(&lake).expect("a writable folder");
        let sealed = store.seal()?;
        assert_eq!((sealed.events, sealed.segments), (2, 2), "by two commits");
        assert_eq!(store.size().waiting_logs, 0);
        assert_eq!(store.seal_urgency(), None);
        Ok(())
    }
}

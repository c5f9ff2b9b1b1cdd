//! Held events: those that a tracking plan quarantines, and what is understood of malformed
//! messages. They are durable before they are acknowledged, in a file of their own, and no query
//! reads them.
//!
//! Each has an event id, its own or a random one, so that it is stored once when it is replayed: an
//! event that is in the event log leaves the file, at the latest at the next start. Not to be
//! confused with the quarantine of damaged pieces of logs.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use chrono::{DateTime, Utc};
use tokio::sync::oneshot;

use super::Store;
use super::files::folder::{Access, Folder};
use super::files::held_file::{self, HeldEvent, HeldFile, HoldReason};
use super::ingest::batch::BatchBuilder;
use super::ingest::dedup::RecentIds;
use super::lock::{Ordered, Rank};
use crate::config::Durability;
use crate::digest::{Digest, DigestSet};
use crate::error::{Error, Result};
use crate::event::{self, Event, EventCode, identity};

/// Most bytes of held events: a day of a busy site whose plan is wrong. They are read into memory
/// as a whole.
pub const MAX_HELD_BYTES: u64 = 64 << 20;
/// Most bytes at which a malformed message is held: the rest is for events of the tracking plan.
const MAX_BYTES_MALFORMED: u64 = MAX_HELD_BYTES / 2;
/// Capacity of the queue, in requests.
const QUEUE_REQUESTS: usize = 1_024;
/// Bytes that are made durable together.
const GROUP_BYTES: usize = 4 << 20;
/// Random bytes of the id of an event that has none.
const ID_BYTES: usize = 16;
/// Prefix of these ids.
const ID_PREFIX: &str = "held-";

/// Events to hold, of one request.
#[derive(Default)]
pub struct HeldBatch {
    lines: Vec<u8>,
    rows: Vec<HeldRow>,
}

struct HeldRow {
    line_end: usize,
    key: Digest,
    ts_us: i64,
    /// Its user, and the ids that an identity call names.
    ids: Vec<String>,
    is_malformed: bool,
}

/// The outcome of adding an event to those that are to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It is in the batch.
    Added,
    /// It is stored already.
    Stored,
    /// It is held already.
    Held,
    /// Its user is erased, or one whom an identity call names.
    Erased,
    /// There are too many held events.
    Full,
}

/// Outcome of a batch of held events. Malformed messages are not counted: they are rejected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldCounts {
    /// Events that are held and durable.
    pub held: usize,
    /// Events that were held before.
    pub duplicates: usize,
    /// Events of users who were erased meanwhile.
    pub erased: usize,
}

/// The reply to a batch, once it is durable.
pub type HeldReply = oneshot::Receiver<Result<HeldCounts>>;

/// The decision of a rewrite about a held event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// It stays.
    AsIs,
    /// It stays, for another reason of the tracking plan.
    Because(EventCode, String),
    /// It is removed.
    No,
}

/// Number and size of the held events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldSize {
    /// Events.
    pub events: u64,
    /// Those of them that are malformed messages.
    pub malformed: u64,
    /// Bytes of their lines.
    pub bytes: u64,
}

/// The held events of a store.
pub(super) struct HeldEvents {
    shared: Arc<Shared>,
    /// Started by the first event.
    writer: Ordered<Option<HeldWriter>>,
}

struct HeldWriter {
    queue: SyncSender<Waiting>,
    thread: JoinHandle<()>,
}

struct Waiting {
    batch: HeldBatch,
    reply: oneshot::Sender<Result<HeldCounts>>,
}

struct Shared {
    maker: BatchBuilder,
    file: Ordered<HeldFile>,
    /// Those of the held events, and of those that are being written.
    keys: Ordered<DigestSet>,
    events: AtomicU64,
    /// Those that a tracking plan quarantines.
    of_plan: AtomicU64,
    bytes: AtomicU64,
    queued_bytes: AtomicU64,
}

impl HeldEvents {
    /// Opens the held events. Those that are in the event log too, because a replay was
    /// interrupted, are removed.
    pub fn open(
        folder: &Folder,
        maker: &BatchBuilder,
        recent: &RecentIds,
        durability: Durability,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let held = Self {
            shared: Arc::new(Shared {
                maker: maker.clone(),
                file: Ordered::new(Rank::Held, HeldFile::open(folder, durability, now)?),
                keys: Ordered::new(Rank::Leaf, DigestSet::default()),
                events: AtomicU64::new(0),
                of_plan: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                queued_bytes: AtomicU64::new(0),
            }),
            writer: Ordered::new(Rank::Leaf, None),
        };
        let is_writable = folder.access() == Access::ReadWrite;
        held.rewrite(folder, |_, key| {
            match is_writable && recent.contains(key, i64::MIN) {
                true => Keep::No,
                false => Keep::AsIs,
            }
        })?;
        Ok(held)
    }

    /// Number and size.
    pub fn size(&self) -> HeldSize {
        let events = self.shared.events.load(Ordering::Relaxed);
        let of_plan = self.shared.of_plan.load(Ordering::Relaxed);
        HeldSize {
            events,
            malformed: events.saturating_sub(of_plan),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
        }
    }

    /// True if the event with this key is held, or about to be.
    pub fn has(&self, key: Digest) -> bool {
        self.shared.keys.lock().contains(&key)
    }

    /// True if so many more bytes may be held for a reason.
    fn has_space(&self, bytes: usize, reason: &HoldReason<'_>) -> bool {
        let most = match reason.is_malformed {
            true => MAX_BYTES_MALFORMED,
            false => MAX_HELD_BYTES,
        };
        let held = self.shared.bytes.load(Ordering::Relaxed);
        let queued = self.shared.queued_bytes.load(Ordering::Relaxed);
        held + queued + bytes as u64 <= most
    }

    /// Queues a batch; the reply comes when it is durable.
    ///
    /// # Errors
    /// [`Error::Busy`] if too much is queued, and if the writer cannot be started.
    pub fn append(&self, batch: HeldBatch) -> Result<HeldReply> {
        let mut writer = self.writer.lock();
        let running = match &*writer {
            Some(running) => running,
            None => writer.insert(HeldWriter::start(self.shared.clone())?),
        };
        let bytes = batch.lines.len() as u64;
        let (sender, reply) = oneshot::channel();
        let waiting = Waiting {
            batch,
            reply: sender,
        };
        self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        running.queue.try_send(waiting).map_err(|error| {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => Error::Busy("too many requests wait for the disk"),
                TrySendError::Disconnected(_) => {
                    Error::Poisoned("the writer of the quarantine has stopped".into())
                }
            }
        })?;
        Ok(reply)
    }

    /// All lines.
    pub fn lines(&self) -> Result<Vec<u8>> {
        self.shared.file.lock().lines()
    }

    /// Decides for each held event whether it stays. Returns the number of those that are removed.
    pub fn rewrite(
        &self,
        folder: &Folder,
        mut keep: impl FnMut(&HeldEvent<'_>, Digest) -> Keep,
    ) -> Result<usize> {
        let shared = &self.shared;
        let mut file = shared.file.lock();
        let lines = file.lines()?;
        let mut kept = Vec::with_capacity(lines.len());
        let (mut keys, mut removed_keys) = (DigestSet::default(), Vec::new());
        let (mut is_changed, mut of_plan) = (false, 0);
        for line in event::lines(&lines) {
            let Some(held) = held_file::read(line) else {
                // In a folder that cannot be changed.
                continue;
            };
            let Some(key) = shared.maker.key(&held.event) else {
                continue;
            };
            match keep(&held, key) {
                Keep::AsIs => kept.extend_from_slice(line),
                Keep::Because(code, text) => {
                    let reason = HoldReason::of_plan(code, &text);
                    is_changed |= reason != held.reason;
                    held_file::write(&reason, &held.event, &mut kept);
                }
                Keep::No => {
                    is_changed = true;
                    removed_keys.push(key);
                    continue;
                }
            }
            of_plan += u64::from(!held.reason.is_malformed);
            keys.insert(key);
        }
        if is_changed {
            file.replace(folder, &kept)?;
        }
        let removed = removed_keys.len();
        shared.events.store(keys.len() as u64, Ordering::Relaxed);
        shared.of_plan.store(of_plan, Ordering::Relaxed);
        shared.bytes.store(file.length(), Ordering::Relaxed);
        let mut known = shared.keys.lock();
        for key in removed_keys {
            known.remove(&key);
        }
        known.extend(keys);
        Ok(removed)
    }

    /// Removes the events of these users, and the identity calls that name one. Returns how many.
    pub fn remove_users(&self, folder: &Folder, users: &[&str]) -> Result<usize> {
        let users: HashSet<&str> = users.iter().copied().collect();
        self.rewrite(folder, |held, _| {
            match ids_of(&held.event).any(|id| users.contains(&*id)) {
                true => Keep::No,
                false => Keep::AsIs,
            }
        })
    }
}

impl Drop for HeldEvents {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.lock().take() {
            drop(writer.queue);
            // It panicked; what it did not write was not acknowledged.
            let _ = writer.thread.join();
        }
    }
}

impl HeldWriter {
    fn start(shared: Arc<Shared>) -> Result<Self> {
        let (queue, commands) = sync_channel(QUEUE_REQUESTS);
        let thread = std::thread::Builder::new()
            .name("held-events".into())
            .spawn(move || run(&shared, &commands))
            .map_err(Error::system("start the writer of the quarantine"))?;
        Ok(Self { queue, thread })
    }
}

/// Writes what is queued, in groups: the next one gathers while one is synced.
fn run(shared: &Shared, commands: &Receiver<Waiting>) {
    while let Ok(first) = commands.recv() {
        let mut bytes = first.batch.lines.len();
        let mut group = vec![first];
        while bytes < GROUP_BYTES {
            let Ok(next) = commands.try_recv() else {
                break;
            };
            bytes += next.batch.lines.len();
            group.push(next);
        }
        shared.commit(group);
        shared
            .queued_bytes
            .fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

impl Shared {
    fn commit(&self, group: Vec<Waiting>) {
        let mut file = self.file.lock();
        let mut lines = Vec::new();
        let mut added = Vec::new();
        let counts: Vec<HeldCounts> = group
            .iter()
            .map(|waiting| self.take_new(&waiting.batch, &mut lines, &mut added))
            .collect();
        let appended = match lines.is_empty() {
            true => Ok(()),
            false => file.append(&lines),
        };
        if appended.is_ok() {
            let of_plan: usize = counts.iter().map(|counts| counts.held).sum();
            self.of_plan.fetch_add(of_plan as u64, Ordering::Relaxed);
            self.events.fetch_add(added.len() as u64, Ordering::Relaxed);
            self.bytes.store(file.length(), Ordering::Relaxed);
        } else {
            let mut keys = self.keys.lock();
            for key in &added {
                keys.remove(key);
            }
        }
        drop(file);
        for (waiting, counts) in group.into_iter().zip(counts) {
            let reply = match &appended {
                Ok(()) => Ok(counts),
                Err(Error::DiskFull) => Err(Error::DiskFull),
                Err(Error::Poisoned(reason)) => Err(Error::Poisoned(reason.clone())),
                Err(error) => Err(Error::Poisoned(error.to_string())),
            };
            // The receiver may have been dropped. The events stay.
            let _ = waiting.reply.send(reply);
        }
    }

    /// Appends the new events of a batch to the group.
    fn take_new(
        &self,
        batch: &HeldBatch,
        lines: &mut Vec<u8>,
        added: &mut Vec<Digest>,
    ) -> HeldCounts {
        let mut counts = HeldCounts::default();
        let mut line_start = 0;
        for row in &batch.rows {
            let line = batch.lines.get(line_start..row.line_end);
            line_start = row.line_end;
            let mut ids = row.ids.iter();
            // Users may have been erased since the batch was built; an erasure that begins now
            // waits for the file.
            let space = MAX_BYTES_MALFORMED.saturating_sub(self.bytes.load(Ordering::Relaxed));
            let count = if ids.any(|id| self.maker.gate.is_erased(id, row.ts_us)) {
                &mut counts.erased
            } else if row.is_malformed && (lines.len() + line.map_or(0, <[u8]>::len)) as u64 > space
            {
                continue;
            } else if self.keys.lock().insert(row.key) {
                lines.extend_from_slice(line.unwrap_or_default());
                added.push(row.key);
                &mut counts.held
            } else {
                &mut counts.duplicates
            };
            *count += usize::from(!row.is_malformed);
        }
        counts
    }
}

impl HeldBatch {
    /// Bytes of the events.
    pub fn bytes(&self) -> usize {
        self.lines.len()
    }

    /// True if it has no events.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Store {
    /// Adds an event to those that are to be held, for a reason.
    pub fn hold(&self, batch: &mut HeldBatch, event: &Event<'_>, reason: &HoldReason<'_>) -> Hold {
        let maker = &self.ingest.maker;
        // The time of a malformed message says nothing.
        let ts_us = match reason.is_malformed {
            true => i64::MIN,
            false => event.ts_us,
        };
        let is_erased = |user: &str| maker.is_erased(user, ts_us);
        if reason.is_malformed && event.user_id.as_deref().is_some_and(is_erased) {
            return Hold::Erased;
        }
        let Some(event) = maker.unless_erased(event) else {
            return Hold::Erased;
        };
        let mut event = event.into_owned();
        if event.event_id.is_none() {
            event.event_id = Some(Cow::Owned(new_id()));
        }
        let Some(key) = maker.key(&event) else {
            return Hold::Full;
        };
        if self.ingest.recent.lock().contains(key, i64::MIN) {
            return Hold::Stored;
        }
        if self.held.has(key) {
            return Hold::Held;
        }
        let start = batch.lines.len();
        held_file::write(reason, &event, &mut batch.lines);
        if !self.held.has_space(batch.lines.len(), reason) {
            batch.lines.truncate(start);
            return Hold::Full;
        }
        batch.rows.push(HeldRow {
            line_end: batch.lines.len(),
            key,
            ts_us,
            ids: ids_of(&event).map(Cow::into_owned).collect(),
            is_malformed: reason.is_malformed,
        });
        Hold::Added
    }

    /// Queues events to be held; the reply comes when they are durable.
    ///
    /// # Errors
    /// [`Error::Busy`] if too much is queued.
    pub fn append_held(&self, batch: HeldBatch) -> Result<HeldReply> {
        self.folder.check_writable()?;
        self.held.append(batch)
    }

    /// True if the event is held: it is stored when it is replayed.
    pub fn is_held(&self, event: &Event<'_>) -> bool {
        // A malformed message is never replayed.
        if self.held.shared.of_plan.load(Ordering::Relaxed) == 0 || event.event_id.is_none() {
            return false;
        }
        let key = self.ingest.maker.key(event);
        key.is_some_and(|key| self.held.has(key))
    }

    /// Number and size of the held events.
    pub fn held_size(&self) -> HeldSize {
        self.held.size()
    }

    /// The lines of all held events, the oldest first; see [`read_held`].
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn held_lines(&self) -> Result<Vec<u8>> {
        self.held.lines()
    }

    /// Decides for each held event whether it stays. Returns the number of those that are removed.
    ///
    /// # Errors
    /// If the file cannot be replaced.
    pub fn rewrite_held(&self, mut keep: impl FnMut(&HeldEvent<'_>) -> Keep) -> Result<usize> {
        self.held.rewrite(&self.folder, |held, _| keep(held))
    }
}

/// Parses the line of a held event.
pub fn read_held(line: &[u8]) -> Option<HeldEvent<'_>> {
    held_file::read(line)
}

/// The id of the user of an event, and the ids that an identity call names.
fn ids_of<'a>(event: &'a Event<'_>) -> impl Iterator<Item = Cow<'a, str>> {
    let user = event.user_id.as_deref().map(Cow::Borrowed);
    user.into_iter().chain(identity::other_ids(event))
}

/// A random id for an event that has none.
fn new_id() -> String {
    let mut id = [0_u8; ID_BYTES];
    // Without random bytes of the system the time tells events apart.
    if getrandom::fill(&mut id).is_err() {
        id = Utc::now()
            .timestamp_nanos_opt()
            .map_or(i128::MAX, i128::from)
            .to_le_bytes();
    }
    format!("{ID_PREFIX}{}", hex::encode(id))
}

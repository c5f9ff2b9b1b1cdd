//! The one writer: takes drafts from all requests, commits them in groups, and answers after the sync.
//!
//! While one group is being synced the next one gathers, so that a busy server needs few syncs and an idle
//! one answers at once; no timer is involved.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use roaring::RoaringBitmap;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::admission::{Admission, RestCounts};
use super::dedup::{RecentIds, SharedIds};
use super::draft::{Draft, DraftRow};
use super::erased::ErasedUsers;
use super::event_log::{EventLog, NextLog};
use super::identity;
use super::live::Live;
use super::lock::{Held, Ordered, Rank};
use super::rate::{Accepted, Rate};
use super::recovery::GROUP_BYTES;
use super::row::Row;
use super::tail::LogPart;
use super::version::VersionControl;
use crate::error::{Error, Result};

/// Requests that may wait. Each holds a client's connection, of which there are about as many.
const QUEUE_REQUESTS: usize = 4_096;
/// Bytes that may wait: a few seconds of a slow disk.
const QUEUE_BYTES: usize = 64 << 20;
/// A commit that takes longer is a disk that hangs; a slow one needs a tenth of it.
const LONG_COMMIT: Duration = Duration::from_secs(5);
/// Least time between two looks for room on a full disk.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// Least time between two lines of the trace about commits.
const TRACE_INTERVAL: Duration = Duration::from_secs(1);

/// What became of a draft.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Events stored now and durable.
    pub logged: usize,
    /// Events that were stored before, by their id.
    pub duplicates: usize,
    /// Events of users who were erased.
    pub erased: usize,
    /// Of the events stored now, those whose name is beyond a limit.
    pub rest: RestCounts,
}

/// The answer to a draft, once its group is durable.
pub type Reply = oneshot::Receiver<Result<Stored>>;

enum Command {
    Append {
        draft: Draft,
        reply: oneshot::Sender<Result<Stored>>,
    },
    Rotate {
        next: NextLog,
        reply: oneshot::Sender<Result<()>>,
    },
    /// Look whether the log is still under its name.
    CheckInPlace,
}

/// The way to the writer; ends it when dropped, after everything queued is committed.
pub struct WriterHandle {
    queue: Option<SyncSender<Command>>,
    status: Arc<Status>,
    thread: Option<JoinHandle<()>>,
}

/// What the writer says of itself, for whoever wants to add events.
struct Status {
    queued_bytes: AtomicUsize,
    /// Events that were accepted.
    rate: Rate,
    /// Why nothing is written any more.
    poison: OnceLock<String>,
    /// Whether the last write found no room.
    is_full: AtomicBool,
    /// When room was last looked for.
    probed: Ordered<Option<Instant>>,
    /// When the commit began that is under way.
    committing_since: Ordered<Option<Instant>>,
}

impl Status {
    fn new(now: Instant) -> Self {
        Self {
            queued_bytes: AtomicUsize::new(0),
            rate: Rate::new(now),
            poison: OnceLock::new(),
            is_full: AtomicBool::new(false),
            probed: Ordered::new(Rank::Leaf, None),
            committing_since: Ordered::new(Rank::Leaf, None),
        }
    }

    fn set_committing(&self, since: Option<Instant>) {
        *self.committing_since.lock() = since;
    }

    fn commit_age(&self) -> Duration {
        let since = *self.committing_since.lock();
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

pub(super) struct Writer {
    pub gate: ErasedUsers,
    pub log: EventLog,
    pub recent: SharedIds,
    pub admission: Admission,
    pub versions: Arc<VersionControl>,
    pub live: Arc<Live>,
}

impl WriterHandle {
    pub(super) fn start(writer: Writer) -> Result<Self> {
        let (queue, commands) = sync_channel(QUEUE_REQUESTS);
        let status = Arc::new(Status::new(Instant::now()));
        let running = Running {
            writer,
            commands,
            status: status.clone(),
            lines: Vec::new(),
            trace: Trace::default(),
        };
        let thread = std::thread::Builder::new()
            .name("event-log".into())
            .spawn(move || {
                let status = running.status.clone();
                // After a panic nothing is known of the log's end; health must say that nothing is written.
                if catch_unwind(AssertUnwindSafe(|| running.run())).is_err() {
                    status.poison.get_or_init(|| "the writer panicked".into());
                }
            })
            .map_err(Error::io("start the writer of", "the event log".as_ref()))?;
        Ok(Self {
            queue: Some(queue),
            status,
            thread: Some(thread),
        })
    }

    /// Queues a draft.
    ///
    /// # Errors
    /// [`Error::Busy`] if too much is queued, [`Error::Poisoned`] after a failed write.
    pub fn append(&self, draft: Draft) -> Result<Reply> {
        self.check()?;
        let bytes = draft.lines.len();
        if self.status.queued_bytes.load(Ordering::Relaxed) > QUEUE_BYTES {
            return Err(Error::Busy("too many events wait for the disk"));
        }
        self.status.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        match self.queue()?.try_send(Command::Append { draft, reply }) {
            Ok(()) => Ok(answer),
            Err(error) => {
                self.status.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                Err(match error {
                    TrySendError::Full(_) => Error::Busy("too many requests wait for the disk"),
                    TrySendError::Disconnected(_) => stopped(),
                })
            }
        }
    }

    /// Goes on with the next log.
    ///
    /// # Errors
    /// [`Error::DiskFull`] if there is no room for the names; then nothing has changed.
    pub(super) fn rotate(&self, next: NextLog) -> Result<()> {
        self.check()?;
        let (reply, answer) = oneshot::channel();
        self.queue()?
            .send(Command::Rotate { next, reply })
            .map_err(|_| stopped())?;
        answer.blocking_recv().map_err(|_| stopped())?
    }

    /// Has the writer look whether the log is still under its name, between two commits and never within a rotation. If it has
    /// more to do, it looks anyway.
    pub(super) fn check_in_place(&self) {
        if let Ok(queue) = self.queue() {
            let _ = queue.try_send(Command::CheckInPlace);
        }
    }

    /// Ends all writing, for a reason that the writer cannot see.
    pub(super) fn stop(&self, reason: &str) {
        stop(&self.status, reason.into());
    }

    /// Whether events can be accepted.
    ///
    /// # Errors
    /// [`Error::Poisoned`] after a failed write.
    pub fn check(&self) -> Result<()> {
        match self.status.poison.get() {
            Some(reason) => Err(Error::Poisoned(reason.clone())),
            None => Ok(()),
        }
    }

    /// How the writer does, for health: [`WriterHandle::check`], and whether the disk answers and has room.
    ///
    /// # Errors
    /// [`Error::Busy`] while a commit takes long, [`Error::DiskFull`] after a write that found no room.
    pub(super) fn check_health(&self) -> Result<()> {
        self.check()?;
        if self.status.commit_age() > LONG_COMMIT {
            return Err(Error::Busy("the disk does not answer"));
        }
        match self.status.is_full.load(Ordering::Relaxed) {
            true => Err(Error::DiskFull),
            false => Ok(()),
        }
    }

    /// Whether it is time to look for room again.
    pub(super) fn may_probe(&self) -> bool {
        let mut probed = self.status.probed.lock();
        let may = probed.is_none_or(|probed| probed.elapsed() >= PROBE_INTERVAL);
        if may {
            *probed = Some(Instant::now());
        }
        may
    }

    /// How many events were accepted.
    pub(super) fn accepted(&self) -> Accepted {
        self.status.rate.accepted(Instant::now())
    }

    /// Notes that there is room again.
    pub(super) fn has_room(&self) {
        self.status.is_full.store(false, Ordering::Relaxed);
    }

    fn queue(&self) -> Result<&SyncSender<Command>> {
        self.queue.as_ref().ok_or_else(stopped)
    }
}

impl Drop for WriterHandle {
    fn drop(&mut self) {
        self.queue.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the writer was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// The answer of a writer that is no longer there.
fn stopped() -> Error {
    Error::Poisoned("the writer has stopped".into())
}

struct Running {
    writer: Writer,
    commands: Receiver<Command>,
    status: Arc<Status>,
    /// The lines of one group; kept for its capacity.
    lines: Vec<u8>,
    trace: Trace,
}

struct Waiting {
    draft: Draft,
    reply: oneshot::Sender<Result<Stored>>,
}

impl Running {
    fn run(mut self) {
        let _rank = Held::enter(Rank::WriterThread);
        let mut next = None;
        while let Some(command) = next.take().or_else(|| self.commands.recv().ok()) {
            match command {
                Command::Append { draft, reply } => {
                    next = self.commit_group(Waiting { draft, reply });
                }
                Command::Rotate { next, reply } => {
                    let rotated = self.rotate(next);
                    // Whoever asked may be gone.
                    let _ = reply.send(rotated);
                }
                Command::CheckInPlace => {
                    // Said once.
                    let _ = self.check_in_place();
                }
            }
        }
        self.trace.flush();
    }

    /// Commits what is queued together with `first`. Returns a command that is for later.
    fn commit_group(&mut self, first: Waiting) -> Option<Command> {
        let mut bytes = first.draft.lines.len();
        let mut group = vec![first];
        let mut later = None;
        while bytes < GROUP_BYTES && later.is_none() {
            match self.commands.try_recv() {
                // A write is at most one group, which is what a power cut can tear.
                Ok(Command::Append { draft, reply }) if bytes + draft.lines.len() > GROUP_BYTES => {
                    later = Some(Command::Append { draft, reply });
                }
                Ok(Command::Append { draft, reply }) => {
                    bytes += draft.lines.len();
                    group.push(Waiting { draft, reply });
                }
                Ok(other) => later = Some(other),
                Err(_) => break,
            }
        }
        self.commit(group);
        self.status.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        later
    }

    fn commit(&mut self, group: Vec<Waiting>) {
        if let Some(reason) = self.status.poison.get() {
            for waiting in group {
                // Whoever asked may be gone.
                let _ = waiting.reply.send(Err(Error::Poisoned(reason.clone())));
            }
            return;
        }
        let started = Instant::now();
        self.status.set_committing(Some(started));
        self.lines.clear();
        let mut kept = Vec::new();
        // Of users who were erased since the draft was made.
        let erased = self.writer.gate.numbers();
        let mut stored: Vec<Stored> = group
            .iter()
            .zip(0..)
            .map(|(waiting, place)| {
                take_new(
                    &mut self.writer.recent.lock(),
                    &erased,
                    &self.writer.admission,
                    (place, &waiting.draft),
                    &mut self.lines,
                    &mut kept,
                )
            })
            .collect();
        let outcome = self.write_and_publish(&group, &kept, &mut stored);
        self.status.set_committing(None);
        if !kept.is_empty() {
            let is_full = matches!(outcome, Err(Error::DiskFull));
            self.status.is_full.store(is_full, Ordering::Relaxed);
        }
        if outcome.is_ok() {
            self.status.rate.count(kept.len(), Instant::now());
            self.trace
                .count(group.len(), kept.len(), self.lines.len(), started.elapsed());
        }
        for (waiting, stored) in group.into_iter().zip(stored) {
            let answer = match &outcome {
                Ok(()) => Ok(stored),
                Err(Error::DiskFull) => Err(Error::DiskFull),
                Err(Error::Poisoned(reason)) => Err(Error::Poisoned(reason.clone())),
                Err(error) => Err(Error::Poisoned(error.to_string())),
            };
            // Whoever asked may be gone; the event stays, and its id makes a re-send a duplicate.
            let _ = waiting.reply.send(answer);
        }
    }

    /// Makes the gathered lines durable, then visible.
    fn write_and_publish(
        &mut self,
        group: &[Waiting],
        kept: &[Kept],
        stored: &mut [Stored],
    ) -> Result<()> {
        if kept.is_empty() {
            return Ok(());
        }
        match self.writer.log.append(&self.lines) {
            Ok(()) => {}
            Err(Error::DiskFull) => {
                let mut recent = self.writer.recent.lock();
                for key in kept.iter().filter_map(|kept| kept.row.key) {
                    recent.remove(key);
                }
                warn!(
                    rows = kept.len(),
                    "No space left for the event log; refused a group of events"
                );
                return Err(Error::DiskFull);
            }
            Err(error) => return Err(self.stop(error)),
        }
        // What lies in a file that no start reads back is not answered as stored.
        self.check_in_place()?;
        let rows = self.admit(group, kept, stored);
        let mut view = self.writer.versions.published();
        let end = self.writer.log.length();
        let part = LogPart {
            file: self.writer.log.reader().clone(),
            bytes: end - self.lines.len() as u64..end,
        };
        let published = view.tail.append(&rows, part);
        view.log_bytes = end;
        view.log_since.get_or_insert_with(Instant::now);
        // Under the lock, so that whoever begins to watch sees an event in the log or here, and not in both.
        self.writer.live.show(kept.len(), &self.lines);
        drop(view);
        published.map_err(|error| self.stop(error))
    }

    /// Gives names their numbers, now that their events are stored.
    fn admit(&self, group: &[Waiting], kept: &[Kept], stored: &mut [Stored]) -> Vec<Row> {
        let Writer {
            admission,
            versions,
            ..
        } = &self.writer;
        let named = |day| versions.version().named_features(day, admission.names());
        let mut admitted = admission.lock();
        let rows = kept.iter().filter_map(|kept| {
            let draft = &group.get(kept.draft)?.draft;
            let rest = &mut stored.get_mut(kept.draft)?.rest;
            Some(admission.admit(&mut admitted, &kept.row, draft, &named, rest))
        });
        rows.collect()
    }

    fn rotate(&mut self, next: NextLog) -> Result<()> {
        if let Some(reason) = self.status.poison.get() {
            return Err(Error::Poisoned(reason.clone()));
        }
        self.check_in_place()?;
        let rotated = self.writer.log.id()?;
        match self.writer.log.rotate(next) {
            // It goes on with the log that it has.
            Err(Error::DiskFull) => return Err(Error::DiskFull),
            rotated => rotated.map_err(|error| self.stop(error))?,
        }
        self.check_in_place()?;
        self.writer.admission.end_log(rotated);
        let mut view = self.writer.versions.published();
        let (bytes, since) = (std::mem::take(&mut view.log_bytes), view.log_since.take());
        view.waiting.rotated(bytes, since);
        view.tail.end_log()
    }

    /// Ends all writing if the log is not under its name any more.
    fn check_in_place(&self) -> Result<()> {
        if let Some(reason) = self.status.poison.get() {
            return Err(Error::Poisoned(reason.clone()));
        }
        let checked = self.writer.log.check_in_place();
        checked.map_err(|error| self.stop(error))
    }

    /// Ends all writing until a restart reads the log back.
    fn stop(&self, error: Error) -> Error {
        let reason = match error {
            Error::Poisoned(reason) => reason,
            other => other.to_string(),
        };
        stop(&self.status, reason)
    }
}

/// Ends all writing until a restart; said once.
fn stop(status: &Status, reason: String) -> Error {
    let mut is_first = false;
    let reason = status.poison.get_or_init(|| {
        is_first = true;
        reason
    });
    if is_first && identity::is_displaced(reason) {
        error!(
            reason,
            "The event log stopped: {reason}. Nothing more is accepted"
        );
    } else if is_first {
        error!(
            "The event log stopped: {reason}. Nothing more is accepted; restart the server to recover it"
        );
    }
    Error::Poisoned(reason.clone())
}

/// An event of a group that is about to be stored.
struct Kept {
    /// Place of its draft in the group.
    draft: usize,
    row: DraftRow,
}

/// Adds the draft's new events to the group; those whose id was seen are left out.
fn take_new(
    recent: &mut RecentIds,
    erased: &RoaringBitmap,
    admission: &Admission,
    (place, draft): (usize, &Draft),
    lines: &mut Vec<u8>,
    kept: &mut Vec<Kept>,
) -> Stored {
    let mut stored = Stored::default();
    let mut line_start = 0;
    for row in &draft.rows {
        let line = draft
            .lines
            .get(line_start..row.line_end)
            .unwrap_or_default();
        line_start = row.line_end;
        let user = admission.find_user(row, &draft.unnamed);
        if user.is_some_and(|user| erased.contains(user)) {
            stored.erased += 1;
            continue;
        }
        if row
            .key
            .is_some_and(|key| !recent.insert(key, row.received_at_us))
        {
            stored.duplicates += 1;
        } else {
            lines.extend_from_slice(line);
            kept.push(Kept {
                draft: place,
                row: *row,
            });
            stored.logged += 1;
        }
    }
    stored
}

/// Sums commits up for the trace, so that a busy server writes a line a second and not one a request.
#[derive(Default)]
struct Trace {
    groups: usize,
    requests: usize,
    events: usize,
    bytes: usize,
    slowest: Duration,
    written: Option<Instant>,
}

impl Trace {
    fn count(&mut self, requests: usize, events: usize, bytes: usize, took: Duration) {
        self.groups += 1;
        self.requests += requests;
        self.events += events;
        self.bytes += bytes;
        self.slowest = self.slowest.max(took);
        if self
            .written
            .is_none_or(|written| written.elapsed() >= TRACE_INTERVAL)
        {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.groups > 0 {
            info!(
                groups = self.groups,
                requests = self.requests,
                events = self.events,
                bytes = self.bytes,
                slowest_ms = self.slowest.as_millis() as u64,
                "Committed {} events of {} requests",
                self.events,
                self.requests
            );
        }
        *self = Self {
            written: Some(Instant::now()),
            ..Self::default()
        };
    }
}

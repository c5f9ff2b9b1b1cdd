//! The writer thread: takes write batches from all requests, commits them in groups, and replies
//! after the sync.
//!
//! While one group is being synced the next one accumulates, so that a busy server needs few syncs
//! and an idle one replies immediately; there is no timer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::admission::{Admission, RestCounts};
use super::batch::{BatchRow, Name, WriteBatch};
use super::dedup::{Origin, RecentIds, SharedIds};
use super::event_log::{EventLog, NextLog};
use super::live::Live;
use super::rate::{Accepted, Rate};
use crate::dictionary::SYSTEM_TYPE;
use crate::error::{Error, Result};
use crate::event;
use crate::event::identity::other_ids;
use crate::monitoring::Monitoring;
use crate::store::erased::ErasedUsers;
use crate::store::files::identity;
use crate::store::files::recovery::GROUP_BYTES;
use crate::store::lock::{Held, Ordered, Rank};
use crate::store::version::VersionControl;
use crate::store::version::row::Row;
use crate::store::version::tail::LogPart;

/// Capacity of the queue, in requests. Each keeps a connection of a client open, of which there are
/// about as many.
const QUEUE_REQUESTS: usize = 4_096;
/// Capacity of the queue, in bytes of lines: a few seconds of a slow disk.
const QUEUE_BYTES: usize = 64 << 20;
/// If a commit takes longer, the disk hangs; a slow disk needs a tenth of it.
const LONG_COMMIT: Duration = Duration::from_secs(5);
/// Least time between two probes for free space on a full disk.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// Least time between two traces about commits.
const TRACE_INTERVAL: Duration = Duration::from_secs(1);

/// Outcome of a write batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Events that are stored and durable.
    pub logged: usize,
    /// Events that had been stored before, by their id.
    pub duplicates: usize,
    /// Events of erased users, and identity calls that name one.
    pub erased: usize,
    /// Stored events with a name beyond a limit.
    pub rest: RestCounts,
}

/// The reply to a write batch, once its group is durable.
pub type Reply = oneshot::Receiver<Result<Stored>>;

enum Command {
    Append {
        batch: WriteBatch,
        reply: oneshot::Sender<Result<Stored>>,
    },
    Rotate {
        next: NextLog,
        reply: oneshot::Sender<Result<()>>,
    },
    /// Check that the log still has its name.
    CheckInPlace,
}

/// Handle to the writer thread. Dropping it commits the queue and joins the thread.
pub struct WriterHandle {
    queue: Option<SyncSender<Command>>,
    status: Arc<Status>,
    thread: Option<JoinHandle<()>>,
}

/// Status of the writer, shared with its handle.
struct Status {
    queued_bytes: AtomicUsize,
    /// Accepted events.
    rate: Rate,
    /// The reason why nothing is written any more.
    poison: OnceLock<String>,
    /// True if the last write failed for lack of space.
    is_full: AtomicBool,
    /// Time of the last probe for free space.
    probed: Ordered<Option<Instant>>,
    /// Start of the commit in progress.
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

/// The parts of the store that the writer thread works on.
pub(in crate::store) struct Writer {
    pub gate: ErasedUsers,
    pub log: EventLog,
    pub recent: SharedIds,
    pub admission: Admission,
    pub versions: Arc<VersionControl>,
    pub live: Arc<Live>,
    pub monitoring: Arc<Monitoring>,
}

impl WriterHandle {
    pub(in crate::store) fn start(writer: Writer) -> Result<Self> {
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
                // After a panic the end of the log is unknown, so nothing more may be written, and
                // the health check must fail.
                if catch_unwind(AssertUnwindSafe(|| running.run())).is_err() {
                    status.poison.get_or_init(|| "the writer panicked".into());
                }
            })
            .map_err(Error::system("start the writer of the event log"))?;
        Ok(Self {
            queue: Some(queue),
            status,
            thread: Some(thread),
        })
    }

    /// Queues a write batch.
    ///
    /// # Errors
    /// [`Error::Busy`] if too much is queued, [`Error::Poisoned`] after a failed write.
    pub fn append(&self, batch: WriteBatch) -> Result<Reply> {
        self.check()?;
        let bytes = batch.lines.len();
        if self.status.queued_bytes.load(Ordering::Relaxed) > QUEUE_BYTES {
            return Err(Error::Busy("too many events wait for the disk"));
        }
        self.status.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        let append = Command::Append {
            batch,
            reply: sender,
        };
        match self.queue()?.try_send(append) {
            Ok(()) => Ok(reply),
            Err(error) => {
                self.status.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                Err(match error {
                    TrySendError::Full(_) => Error::Busy("too many requests wait for the disk"),
                    TrySendError::Disconnected(_) => stopped(),
                })
            }
        }
    }

    /// Continues with the next log, and waits until the writer has done so.
    ///
    /// # Errors
    /// [`Error::DiskFull`] if there is no space for the names; then nothing has changed.
    pub(in crate::store) fn rotate(&self, next: NextLog) -> Result<()> {
        self.check()?;
        let (sender, reply) = oneshot::channel();
        let rotate = Command::Rotate {
            next,
            reply: sender,
        };
        self.queue()?.send(rotate).map_err(|_| stopped())?;
        reply.blocking_recv().map_err(|_| stopped())?
    }

    /// Lets the writer check that the log still has its name, between two commits and never during
    /// a rotation. With a full queue this does nothing, because each commit checks it too.
    pub(in crate::store) fn check_in_place(&self) {
        if let Ok(queue) = self.queue() {
            let _ = queue.try_send(Command::CheckInPlace);
        }
    }

    /// Stops all writing, for a reason that the writer itself cannot find out.
    pub(in crate::store) fn stop(&self, reason: &str) {
        stop(&self.status, reason.into());
    }

    /// Checks that events can be accepted.
    ///
    /// # Errors
    /// [`Error::Poisoned`] after a failed write.
    pub fn check(&self) -> Result<()> {
        match self.status.poison.get() {
            Some(reason) => Err(Error::Poisoned(reason.clone())),
            None => Ok(()),
        }
    }

    /// Health of the writer: [`WriterHandle::check`], and that the disk responds and has free
    /// space.
    ///
    /// # Errors
    /// [`Error::Busy`] while a commit takes long, [`Error::DiskFull`] after a write without space.
    pub(in crate::store) fn check_health(&self) -> Result<()> {
        self.check()?;
        if self.status.commit_age() > LONG_COMMIT {
            return Err(Error::Busy("the disk does not respond"));
        }
        if self.status.is_full.load(Ordering::Relaxed) {
            return Err(Error::DiskFull);
        }
        Ok(())
    }

    /// True if it is time to probe for free space again.
    pub(in crate::store) fn may_probe(&self) -> bool {
        let mut probed = self.status.probed.lock();
        let may = probed.is_none_or(|probed| probed.elapsed() >= PROBE_INTERVAL);
        if may {
            *probed = Some(Instant::now());
        }
        may
    }

    /// Numbers of accepted events.
    pub(in crate::store) fn accepted(&self) -> Accepted {
        self.status.rate.accepted(Instant::now())
    }

    /// Records that there is free space again.
    pub(in crate::store) fn has_space(&self) {
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
            // A panic of the writer was traced when it happened.
            let _ = thread.join();
        }
    }
}

/// The error if the writer thread has ended.
fn stopped() -> Error {
    Error::Poisoned("the writer has stopped".into())
}

/// State of the writer thread.
struct Running {
    writer: Writer,
    commands: Receiver<Command>,
    status: Arc<Status>,
    /// The lines of the current group; reused for its capacity.
    lines: Vec<u8>,
    trace: Trace,
}

/// A write batch whose request is waiting for the reply.
struct Waiting {
    batch: WriteBatch,
    reply: oneshot::Sender<Result<Stored>>,
}

impl Running {
    /// Executes commands until the handle is dropped.
    fn run(mut self) {
        let _rank = Held::enter(Rank::WriterThread);
        let mut next = None;
        while let Some(command) = next.take().or_else(|| self.commands.recv().ok()) {
            match command {
                Command::Append { batch, reply } => {
                    next = self.commit_group(Waiting { batch, reply });
                }
                Command::Rotate { next, reply } => {
                    let rotated = self.rotate(next);
                    // The receiver may have been dropped.
                    let _ = reply.send(rotated);
                }
                Command::CheckInPlace => {
                    // A failure stops all writing and is traced there.
                    let _ = self.check_in_place();
                }
            }
        }
        self.trace.flush();
    }

    /// Commits `first` together with the batches that are queued. Returns a command that has to
    /// come after the group.
    fn commit_group(&mut self, first: Waiting) -> Option<Command> {
        let mut bytes = first.batch.lines.len();
        let mut group = vec![first];
        let mut later = None;
        while bytes < GROUP_BYTES && later.is_none() {
            match self.commands.try_recv() {
                // The limit also bounds what a power cut can tear.
                Ok(Command::Append { batch, reply }) if bytes + batch.lines.len() > GROUP_BYTES => {
                    later = Some(Command::Append { batch, reply });
                }
                Ok(Command::Append { batch, reply }) => {
                    bytes += batch.lines.len();
                    group.push(Waiting { batch, reply });
                }
                Ok(other) => later = Some(other),
                Err(_) => break,
            }
        }
        self.commit(group);
        self.status.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        later
    }

    /// Commits a group and replies to its requests.
    fn commit(&mut self, group: Vec<Waiting>) {
        if let Some(reason) = self.status.poison.get() {
            for waiting in group {
                // The receiver may have been dropped.
                let _ = waiting.reply.send(Err(Error::Poisoned(reason.clone())));
            }
            return;
        }
        let started = Instant::now();
        self.status.set_committing(Some(started));
        self.lines.clear();
        let mut kept = Vec::new();
        // Users may have been erased since the batch was built.
        let erased = &self.writer.gate;
        let mut stored: Vec<Stored> = group
            .iter()
            .zip(0..)
            .map(|(waiting, index)| {
                take_new(
                    &mut self.writer.recent.lock(),
                    erased,
                    &self.writer.admission,
                    (index, &waiting.batch),
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
            let reply = match &outcome {
                Ok(()) => Ok(stored),
                Err(Error::DiskFull) => Err(Error::DiskFull),
                Err(Error::Poisoned(reason)) => Err(Error::Poisoned(reason.clone())),
                Err(error) => Err(Error::Poisoned(error.to_string())),
            };
            // The receiver may have been dropped. The events stay, and their ids make a re-send a
            // duplicate.
            let _ = waiting.reply.send(reply);
        }
    }

    /// Makes the lines of a group durable, and then visible.
    fn write_and_publish(
        &mut self,
        group: &[Waiting],
        kept: &[Kept],
        stored: &mut [Stored],
    ) -> Result<()> {
        if kept.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let appended = self.writer.log.append(&self.lines);
        self.writer.monitoring.sync.observe_time(started.elapsed());
        match appended {
            Ok(()) => {}
            Err(Error::DiskFull) => {
                let mut recent = self.writer.recent.lock();
                for key in kept.iter().filter_map(|kept| kept.row.key) {
                    recent.remove(key, Origin::Log);
                }
                warn!(
                    rows = kept.len(),
                    "No space left for the event log; a group of events was rejected"
                );
                return Err(Error::DiskFull);
            }
            Err(error) => return Err(self.stop(error)),
        }
        // Events in a file that no start reads must not be acknowledged.
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
        // Under the lock, so that a new subscriber gets an event either from the log or here, and
        // not twice.
        self.writer.live.show(kept.len(), &self.lines);
        drop(view);
        published.map_err(|error| self.stop(error))
    }

    /// Assigns codes to new names, now that their events are stored.
    fn admit(&self, group: &[Waiting], kept: &[Kept], stored: &mut [Stored]) -> Vec<Row> {
        let Writer {
            admission,
            versions,
            ..
        } = &self.writer;
        let named = |day| versions.version().named_features(day, admission.names());
        let mut admitted = admission.lock();
        let rows = kept.iter().filter_map(|kept| {
            let batch = &group.get(kept.batch)?.batch;
            let rest = &mut stored.get_mut(kept.batch)?.rest;
            Some(admission.admit(&mut admitted, &kept.row, batch, &named, rest))
        });
        rows.collect()
    }

    /// Continues with the next log.
    fn rotate(&mut self, next: NextLog) -> Result<()> {
        if let Some(reason) = self.status.poison.get() {
            return Err(Error::Poisoned(reason.clone()));
        }
        self.check_in_place()?;
        let rotated = self.writer.log.id()?;
        match self.writer.log.rotate(next) {
            // Nothing has changed: the writer continues with the same log.
            Err(Error::DiskFull) => return Err(Error::DiskFull),
            rotated => rotated.map_err(|error| self.stop(error))?,
        }
        self.check_in_place()?;
        self.writer.recent.lock().end_log(rotated);
        self.writer.admission.end_log(rotated);
        let mut view = self.writer.versions.published();
        let (bytes, since) = (std::mem::take(&mut view.log_bytes), view.log_since.take());
        view.waiting.rotated(bytes, since);
        view.tail.end_log()
    }

    /// Stops all writing if the log does not have its name any more.
    fn check_in_place(&self) -> Result<()> {
        if let Some(reason) = self.status.poison.get() {
            return Err(Error::Poisoned(reason.clone()));
        }
        let checked = self.writer.log.check_in_place();
        checked.map_err(|error| self.stop(error))
    }

    /// Stops all writing until a restart recovers the log.
    fn stop(&self, error: Error) -> Error {
        let reason = match error {
            Error::Poisoned(reason) => reason,
            other => other.to_string(),
        };
        stop(&self.status, reason)
    }
}

/// Stops all writing until a restart. Traces and keeps the first reason.
fn stop(status: &Status, reason: String) -> Error {
    let mut is_first = false;
    let reason = status.poison.get_or_init(|| {
        is_first = true;
        reason
    });
    if is_first && identity::is_displaced(reason) {
        error!("The event log stopped: {reason}. Nothing more is accepted");
    } else if is_first {
        error!(
            "The event log stopped: {reason}. Nothing more is accepted; restart the server to recover it"
        );
    }
    Error::Poisoned(reason.clone())
}

/// An event of a group that is about to be stored.
struct Kept {
    /// Index of its batch in the group.
    batch: usize,
    row: BatchRow,
}

/// Appends the new events of a batch to the group, without those of erased users, identity calls
/// that name one, and duplicates.
fn take_new(
    recent: &mut RecentIds,
    erased: &ErasedUsers,
    admission: &Admission,
    (index, batch): (usize, &WriteBatch),
    lines: &mut Vec<u8>,
    kept: &mut Vec<Kept>,
) -> Stored {
    let mut stored = Stored::default();
    let mut line_start = 0;
    for row in &batch.rows {
        let line = batch
            .lines
            .get(line_start..row.line_end)
            .unwrap_or_default();
        line_start = row.line_end;
        if erased.reaches(row.ts_us) && is_about_erased(row, batch, line, erased, admission) {
            stored.erased += 1;
            continue;
        }
        if row
            .key
            .is_some_and(|key| !recent.insert(key, row.received_at_us, Origin::Log))
        {
            stored.duplicates += 1;
        } else {
            lines.extend_from_slice(line);
            kept.push(Kept {
                batch: index,
                row: *row,
            });
            stored.logged += 1;
        }
    }
    stored
}

/// True if the user of an event was erased since the batch was built, or one whom the line of an
/// identity call names.
fn is_about_erased(
    row: &BatchRow,
    batch: &WriteBatch,
    line: &[u8],
    erased: &ErasedUsers,
    admission: &Admission,
) -> bool {
    let is_erased = |id: &str| erased.is_erased(id, row.ts_us);
    let is_user_erased = match row.user {
        None => false,
        Some(Name::Known(code)) => erased.is_erased_code(code, row.ts_us, admission.users()),
        Some(user) => is_erased(user.string(&batch.unnamed)),
    };
    let names_erased = || {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        event::read_line(line).is_ok_and(|event| other_ids(&event).any(|id| is_erased(&id)))
    };
    is_user_erased || (row.event_type == SYSTEM_TYPE && names_erased())
}

/// Sums up commits, so that a busy server traces them once a second and not once a request.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicI64;

    use super::*;
    use crate::config::NameLimits;
    use crate::dictionary::Dictionaries;
    use crate::digest::Digester;
    use crate::event::{Event, EventType};
    use crate::store::ingest::batch::BatchBuilder;
    use crate::store::version::NewUsers;

    fn event(user: &'static str, id: Option<&'static str>) -> Event<'static> {
        Event {
            ts_us: 1_761_040_800_000_000,
            event_type: EventType::Action,
            user_id: Some(user.into()),
            feature: None,
            metadata: "{}".into(),
            url: None,
            event_id: id.map(Into::into),
            received_at_us: 1_761_040_800_000_000,
        }
    }

    fn batch(maker: &BatchBuilder, events: &[Event<'_>]) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for event in events {
            maker.push(&mut batch, event);
        }
        batch
    }

    #[test]
    fn a_group_has_each_new_event_of_users_who_are_not_erased() -> Result<()> {
        let maker = BatchBuilder {
            names: Dictionaries::new()?,
            keys: Digester::new(),
            gate: ErasedUsers::default(),
            pseudonyms: None,
        };
        maker.names.users.number("gone")?;
        let call = |alias: &str| Event {
            event_type: EventType::System,
            feature: Some("$create_alias".into()),
            // Only the last one can become an alias.
            metadata: format!(r#"{{"alias":"{alias}","previous_id":"other"}}"#).into(),
            ..event("a", None)
        };
        let admission = Admission::new(&maker, NameLimits::default(), NewUsers::default());
        let until_us = Arc::new(AtomicI64::new(i64::MAX));
        let mut recent = RecentIds::new(Vec::new(), i64::MAX, until_us);
        let batches = [
            batch(
                &maker,
                &[
                    event("a", Some("1")),
                    event("a", Some("1")),
                    event("gone", Some("2")),
                    event("a", None),
                    call("gone"),
                    call("b"),
                ],
            ),
            batch(&maker, &[event("a", Some("1")), event("b", Some("1"))]),
        ];
        let pending = BTreeSet::from(["gone".to_owned()]);
        maker.gate.set(Vec::new(), &pending, &maker.names.users)?;
        let (mut lines, mut kept) = (Vec::new(), Vec::new());
        let stored = batches.iter().enumerate().map(|batch| {
            take_new(
                &mut recent,
                &maker.gate,
                &admission,
                batch,
                &mut lines,
                &mut kept,
            )
        });
        let stored: Vec<Stored> = stored.collect();
        let expected = |logged, duplicates, erased| Stored {
            logged,
            duplicates,
            erased,
            rest: RestCounts::default(),
        };
        assert_eq!(stored, [expected(3, 1, 2), expected(1, 1, 0)]);
        let of_batch: Vec<usize> = kept.iter().map(|kept| kept.batch).collect();
        assert_eq!(of_batch, [0, 0, 0, 1]);
        // The lines of the group are those of the kept events, in order.
        let alone = [
            event("a", Some("1")),
            event("a", None),
            call("b"),
            event("b", Some("1")),
        ];
        assert_eq!(lines, batch(&maker, &alone).lines);
        Ok(())
    }

    #[test]
    fn the_first_reason_for_a_stop_is_kept() {
        let status = Status::new(Instant::now());
        for reason in ["sync: failed", "write: failed"] {
            let error = stop(&status, reason.into());
            assert!(matches!(error, Error::Poisoned(reason) if reason == "sync: failed"));
        }
    }

    #[test]
    fn commits_are_summed_up_until_they_are_traced() {
        let mut trace = Trace::default();
        // The first is traced at once.
        trace.count(1, 2, 30, Duration::from_millis(4));
        assert!(trace.groups == 0 && trace.written.is_some());
        trace.written = Some(Instant::now() + 60 * TRACE_INTERVAL);
        trace.count(1, 2, 30, Duration::from_millis(4));
        trace.count(2, 3, 40, Duration::from_millis(1));
        let sums = (trace.groups, trace.requests, trace.events, trace.bytes);
        assert_eq!(sums, (2, 3, 5, 70));
        assert_eq!(trace.slowest, Duration::from_millis(4));
        // A second later they are traced with the next one.
        trace.written = Instant::now().checked_sub(TRACE_INTERVAL);
        trace.count(1, 1, 1, Duration::ZERO);
        assert_eq!(trace.groups, 0);
    }

    #[test]
    fn the_age_of_a_commit_counts_while_it_is_in_progress() {
        let status = Status::new(Instant::now());
        assert_eq!(status.commit_age(), Duration::ZERO);
        status.set_committing(Instant::now().checked_sub(LONG_COMMIT));
        assert!(status.commit_age() >= LONG_COMMIT);
        status.set_committing(None);
        assert_eq!(status.commit_age(), Duration::ZERO);
    }
}

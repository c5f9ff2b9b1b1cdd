//! The way of an event into the store: accepted, durable, visible.

pub(in crate::store) mod admission;
pub(in crate::store) mod batch;
pub(in crate::store) mod dedup;
pub(in crate::store) mod event_log;
pub(in crate::store) mod live;
pub(in crate::store) mod pseudonym;
pub(in crate::store) mod rate;
pub(in crate::store) mod statements;
pub(in crate::store) mod writer;

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};

use super::Store;
use super::clock::{Received, TrustedClock};
use super::lock::Ordered;
use crate::error::{Error, Result};
use admission::{Admission, NameUse};
use batch::{BatchBuilder, WriteBatch};
use dedup::SharedIds;
use live::{Commit, Live, Subscription};
use rate::Accepted;
use statements::RecentStatements;
use writer::{Reply, WriterHandle};

/// Events that may wait to be sealed: some hundred MB of memory. More wait only when seals fail
/// again and again.
pub(super) const MAX_TAIL_EVENTS: usize = 16 << 20;

/// The parts of a store that take events in.
pub(super) struct Ingest {
    pub writer: WriterHandle,
    pub live: Arc<Live>,
    pub maker: BatchBuilder,
    pub recent: SharedIds,
    pub statements: Arc<Ordered<RecentStatements>>,
    pub admission: Admission,
    pub clock: TrustedClock,
    /// Events that may wait to be sealed.
    pub max_tail_events: usize,
}

impl Store {
    /// Makes write batches for this store.
    pub fn batch_builder(&self) -> BatchBuilder {
        self.ingest.maker.clone()
    }

    /// Queues events; the reply comes when they are durable and visible.
    ///
    /// # Errors
    /// [`Error::Busy`] if too much is queued, [`Error::Poisoned`] after a failed write.
    pub fn append(&self, batch: WriteBatch) -> Result<Reply> {
        let received = batch.rows.iter().map(|row| row.received_at_us);
        self.ingest.clock.note(received);
        self.ingest.writer.append(batch)
    }

    /// Usage of the daily limits of names.
    pub fn name_use(&self) -> NameUse {
        self.ingest.admission.usage()
    }

    /// Checks that events can be accepted. After a write that found the disk full it probes for
    /// free space itself, because a server that gets no events for not being ready would never find
    /// out.
    ///
    /// # Errors
    /// [`Error::Poisoned`] after a failed write, [`Error::DiskFull`] on a full disk,
    /// [`Error::Busy`] while the disk does not respond or too many events wait to be sealed.
    pub fn check_writable(&self) -> Result<()> {
        let writer = &self.ingest.writer;
        match self.check_accepting() {
            Err(Error::DiskFull) if writer.may_probe() && self.folder.has_space() => {
                writer.has_space();
                Ok(())
            }
            accepting => accepting,
        }
    }

    /// Checks the same without file access: a disk that was full counts as full.
    ///
    /// # Errors
    /// As [`Store::check_writable`].
    pub fn check_accepting(&self) -> Result<()> {
        if self.versions.published().tail.len() > self.ingest.max_tail_events {
            return Err(Error::Busy("too many events wait to be sealed"));
        }
        self.ingest.writer.check_health()
    }

    /// Checks that log and folder are where they were; if not, nothing more is accepted. Called
    /// each second.
    pub fn check_in_place(&self) {
        self.ingest.writer.check_in_place();
        if let Err(Error::Poisoned(reason)) = self.folder.check_in_place() {
            self.ingest.writer.stop(&reason);
        }
    }

    /// The time of receipt of events that come in when the clock says `now`: never before that of
    /// the newest event.
    ///
    /// # Errors
    /// [`Error::Clock`] while the clock cannot be trusted.
    pub fn receive(&self, now: DateTime<Utc>) -> Result<Received> {
        self.ingest.clock.receive(now)
    }

    /// The time that is trusted when the clock says `now`.
    ///
    /// # Errors
    /// [`Error::Clock`] while the clock cannot be trusted.
    pub fn trusted(&self, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
        self.ingest.clock.trusted(now)
    }

    /// True if events are accepted when the clock says `now`.
    pub fn is_clock_trusted(&self, now: DateTime<Utc>) -> bool {
        self.ingest.clock.is_trusted(now)
    }

    /// The last trusted day when the clock says `now`: days before it are over, whatever the clock
    /// is.
    pub fn last_trusted_day(&self, now: DateTime<Utc>) -> NaiveDate {
        self.ingest.clock.last_trusted_day(now)
    }

    /// The newest `received_at`, if there is an event.
    pub fn newest_received_at(&self) -> Option<DateTime<Utc>> {
        let newest_us = self.ingest.clock.newest_us()?;
        DateTime::from_timestamp_micros(newest_us)
    }

    /// Believes a clock that an operator has confirmed, durably. If it is behind the newest event,
    /// `received_at` goes on from it nevertheless.
    ///
    /// # Errors
    /// [`Error::Clock`] if the clock cannot be right, and if the manifest cannot be written.
    pub fn confirm_clock(&self, now: DateTime<Utc>) -> Result<()> {
        let clock = &self.ingest.clock;
        if clock.check_confirmation(now)? {
            // The log is read back in the order of time; its events are of the time before.
            self.seal()?;
            self.ingest.recent.lock().set_back(now.timestamp_micros());
        }
        let mut transaction = self.begin()?;
        clock.confirm(now);
        let next = &mut transaction.next;
        clock.save(&mut next.clock, &mut next.expiry);
        let base = transaction.base();
        let is_same =
            (base.clock, base.expiry) == (transaction.next.clock, transaction.next.expiry);
        if !is_same {
            transaction.commit(|_| {})?.removed?;
        }
        tracing::info!("The clock was confirmed");
        Ok(())
    }

    /// Counts of accepted events.
    pub fn accepted(&self) -> Accepted {
        self.ingest.writer.accepted()
    }

    /// Subscribes to the events that are accepted from now on. Also returns the newest ones of the
    /// open log.
    ///
    /// # Errors
    /// [`Error::Busy`] with too many subscribers or if the server stops, and if the log cannot be
    /// read.
    pub fn subscribe(&self) -> Result<(Commit, Subscription)> {
        let (log, watch) = {
            // No event is accepted between the two.
            let published = self.versions.published();
            (published.tail.log_end(), self.ingest.live.subscribe()?)
        };
        let before = match log {
            Some((file, end)) => live::newest_of_log(&file, end)?,
            None => Commit::default(),
        };
        Ok((before, watch))
    }

    /// Number of subscribers.
    pub fn subscribers(&self) -> usize {
        self.ingest.live.subscribers()
    }

    /// Ends all subscriptions.
    pub fn end_subscriptions(&self) {
        self.ingest.live.end();
    }
}

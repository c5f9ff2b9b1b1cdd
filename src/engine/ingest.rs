//! Ingest: validates events, queues them for the log, and responds once they are on disk.

use chrono::{DateTime, Utc};

use super::{Engine, IngestAnswer};
use crate::error::{Error, Result};
use crate::event::{self, Event, MAX_AHEAD_US, Outcome, RawEvent, Rejection};
use crate::store::{Received, Reply, RestCounts, WriteBatch};

/// A batch that is queued for the log.
pub struct PendingIngest {
    reply: Option<Reply>,
    answer: IngestAnswer,
}

impl Engine {
    /// Validates the events of a request body, received at `now`, and queues the accepted ones.
    ///
    /// # Errors
    /// If the body is not a batch, or nothing can be stored now.
    pub fn ingest(&self, body: &[u8], now: DateTime<Utc>) -> Result<PendingIngest> {
        // Before any event is kept.
        self.store.check_writable()?;
        self.ingest_batch(event::read_batch(body)?, now)
    }

    /// Validates the events of a batch, received at `now`, and queues the accepted ones.
    ///
    /// # Errors
    /// If nothing can be stored now.
    pub fn ingest_batch(
        &self,
        batch: event::Batch<'_>,
        now: DateTime<Utc>,
    ) -> Result<PendingIngest> {
        let received = self.store.receive(now)?;
        // While two server times are plausible, a client that agrees with one of them is not
        // corrected.
        let clock_skew_us = [received.at_us, received.latest_us]
            .map(|us| batch.clock_skew_us(us))
            .into_iter()
            .min_by_key(|skew_us| skew_us.saturating_abs())
            .unwrap_or(0);
        if let Some(difference_us) = batch.clock_difference_us(received.at_us) {
            let seconds = difference_us.unsigned_abs() as f64 / 1e6;
            self.monitoring().skew.observe(seconds);
        }
        let maker = self.store.batch_builder();
        let mut write_batch = WriteBatch::default();
        let mut answer = IngestAnswer {
            ok: true,
            logged: 0,
            duplicates: 0,
            ignored: 0,
            rejected: 0,
            errors: Vec::new(),
            notes: Vec::new(),
            rest: RestCounts::default(),
        };
        for (index, raw) in batch.events.into_iter().enumerate() {
            match validate(raw, received, clock_skew_us) {
                Outcome::Accepted(event, notes) => {
                    maker.push(&mut write_batch, &event);
                    let notes = notes.into_iter().map(|(code, message)| Rejection {
                        index,
                        code,
                        message,
                    });
                    answer.notes.extend(notes);
                }
                Outcome::TooOld => answer.ignored += 1,
                Outcome::Rejected(code, message) => answer.errors.push(Rejection {
                    index,
                    code,
                    message,
                }),
            }
        }
        answer.ignored += write_batch.erased;
        answer.rejected = answer.errors.len();
        answer.ok = answer.rejected == 0 || !write_batch.is_empty() || answer.ignored > 0;
        let reply = if write_batch.is_empty() {
            None
        } else {
            Some(self.store.append(write_batch)?)
        };
        Ok(PendingIngest { reply, answer })
    }
}

impl PendingIngest {
    /// The response, once the accepted events are durable and visible.
    ///
    /// # Errors
    /// If they could not be stored; then none of them was.
    pub async fn answer(self) -> Result<IngestAnswer> {
        let mut answer = self.answer;
        if let Some(reply) = self.reply {
            let stored = reply
                .await
                .map_err(|_| Error::Poisoned("the writer has stopped".into()))??;
            answer.logged = stored.logged;
            answer.duplicates = stored.duplicates;
            answer.ignored += stored.erased;
            answer.rest = stored.rest;
        }
        Ok(answer)
    }
}

/// Validates an event. While two server times are plausible, a time of the event up to the later
/// one is accepted.
fn validate(raw: RawEvent<'_>, received: Received, clock_skew_us: i64) -> Outcome<'_> {
    let limit_us = received.at_us.saturating_add(MAX_AHEAD_US);
    let is_ahead = |ts_us: i64| ts_us.saturating_add(clock_skew_us) > limit_us;
    let by_us = if raw.ts_us().is_some_and(is_ahead) {
        received.latest_us
    } else {
        received.at_us
    };
    match raw.validate(by_us, clock_skew_us) {
        Outcome::Accepted(event, notes) => {
            let event = Event {
                received_at_us: received.at_us,
                ..event
            };
            Outcome::Accepted(event, notes)
        }
        other => other,
    }
}

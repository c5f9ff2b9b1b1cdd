//! Ingest: validates events, also by the tracking plan, queues them for the log or the quarantine,
//! and responds once they are on disk.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use tracing::warn;

use super::{Engine, IngestAnswer};
use crate::config::Mapping;
use crate::daily::day_of;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::event::identity::{Identity, call_after, identity_of};
use crate::event::{
    self, DeclaredTypes, Event, EventCode, MAX_AHEAD_US, Note, Outcome, RawEvent, Rejection,
};
use crate::placement::{Placement, place};
use crate::plan::CheckedPlan;
use crate::sdk::{self, Mapped};
use crate::store::{
    BatchBuilder, Call, Calls, HeldBatch, HeldCounts, HeldReply, HoldReason, Received, Reply,
    RestCounts, Statements, WriteBatch,
};
use crate::visitors::Visitor;

/// A batch that is queued for the log.
pub struct PendingIngest {
    reply: Option<Reply>,
    held: Option<HeldReply>,
    malformed: Option<HeldReply>,
    answer: IngestAnswer,
    statements: Option<Statements>,
}

/// The events of a batch that are to be queued.
struct Incoming<'a> {
    engine: &'a Engine,
    plan: &'a CheckedPlan,
    maker: BatchBuilder,
    write_batch: WriteBatch,
    held_batch: HeldBatch,
    malformed_batch: HeldBatch,
    answer: IngestAnswer,
    /// Made by the first event that says something of ids.
    statements: Option<Statements>,
}

impl Engine {
    /// Validates the events of a request body, received at `now`, and queues the accepted ones.
    ///
    /// # Errors
    /// If the body is not a batch, or nothing can be stored now.
    pub fn ingest(&self, body: &[u8], now: DateTime<Utc>) -> Result<PendingIngest> {
        // Before any event is kept.
        self.check_takes_events()?;
        self.store.check_writable()?;
        self.ingest_batch(event::read_batch(body)?, None, now)
    }

    /// Validates the events of a batch, received at `now`, and queues the accepted ones. Those
    /// without a user are of the visitor, if there is one.
    ///
    /// # Errors
    /// If nothing can be stored now.
    pub fn ingest_batch(
        &self,
        batch: event::Batch<'_>,
        visitor: Option<Visitor>,
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
        let plan = self.checked_plan();
        let events = batch.events.into_iter();
        let outcomes = events.map(|raw| validate(raw, plan.types(), received, clock_skew_us));
        self.ingest_outcomes(&plan, visitor, received, outcomes.map(Mapped::from))
    }

    /// Maps the messages of a client of another product, received at `now`, and queues the events
    /// among them; those without a user are of the visitor, if there is one. Each message that
    /// becomes no event is reported to `note_dropped`, with its index and the reason. Events with
    /// two ids of their user are followed by identity calls that say what is new.
    ///
    /// # Errors
    /// If nothing can be stored now.
    pub fn ingest_mapped(
        &self,
        call: Option<&str>,
        batch: &sdk::Batch<'_>,
        mapping: &Mapping,
        visitor: Option<Visitor>,
        now: DateTime<Utc>,
        mut note_dropped: impl FnMut(usize, &str),
    ) -> Result<PendingIngest> {
        let received = self.store.receive(now)?;
        let plan = self.checked_plan();
        let context = sdk::Context {
            is_conversion: &|name| mapping.has_conversion(name) || plan.is_conversion(name),
            traits: mapping.sdk_traits,
        };
        let received_with_batch = sdk::Received {
            at_us: received.at_us,
            latest_us: received.latest_us,
            corrects_clock: true,
            sent_at: batch.sent_at,
        };
        let messages = batch.messages.iter().enumerate();
        let outcomes = messages.map(|(index, message)| {
            let mapped = sdk::map(batch.product, message, call, &context, received_with_batch);
            match &mapped.outcome {
                Outcome::Accepted(..) => {}
                Outcome::TooOld => note_dropped(index, "older than 365 days"),
                Outcome::Rejected(_, message) => note_dropped(index, message),
            }
            mapped
        });
        self.ingest_outcomes(&plan, visitor, received, outcomes)
    }

    /// Queues the valid events of a batch; those without a user are of the visitor.
    fn ingest_outcomes<'a>(
        &self,
        plan: &CheckedPlan,
        mut visitor: Option<Visitor>,
        received: Received,
        outcomes: impl Iterator<Item = Mapped<'a>>,
    ) -> Result<PendingIngest> {
        let mut incoming = Incoming::new(self, plan);
        let mut calls = Calls::default();
        for (index, mapped) in outcomes.enumerate() {
            let alias = mapped.alias;
            match mapped.outcome {
                Outcome::Accepted(mut event, notes) => {
                    self.name_visitor(&mut event, visitor.as_mut());
                    plan.group_path(&mut event);
                    incoming.take(index, &event, notes);
                    if let Some(alias) = alias
                        && let Some(key) = incoming.add_statement(&event, &alias)
                    {
                        let event = call_after(event, &alias);
                        calls.add(Call { key, index, event });
                    }
                }
                Outcome::TooOld => incoming.answer.ignored += 1,
                Outcome::Rejected(code, message) => {
                    if let Some((event, reason)) = mapped.understood {
                        incoming.hold_malformed(&event, code, &reason);
                    }
                    incoming.reject(index, code, message);
                }
            }
        }
        for Call { index, event, .. } in calls {
            incoming.take(index, &event, Vec::new());
        }
        let Incoming {
            write_batch,
            held_batch,
            malformed_batch,
            mut answer,
            statements,
            ..
        } = incoming;
        answer.ignored += write_batch.erased;
        answer.rejected = answer.errors.len();
        if answer.rejected > 0 {
            self.note_rejections(received.at_us, &answer.errors);
        }
        answer.ok = answer.rejected == 0
            || !write_batch.is_empty()
            || !held_batch.is_empty()
            || answer.ignored + answer.duplicates + answer.quarantined > 0;
        // Queued first: what cannot be held is not stored either.
        let held = if held_batch.is_empty() {
            None
        } else {
            Some(self.store.append_held(held_batch)?)
        };
        let reply = if write_batch.is_empty() {
            None
        } else {
            Some(self.store.append(write_batch)?)
        };
        let malformed = if malformed_batch.is_empty() {
            None
        } else {
            note_not_held(self.store.append_held(malformed_batch))
        };
        Ok(PendingIngest {
            reply,
            held,
            malformed,
            answer,
            statements,
        })
    }
}

impl<'a> Incoming<'a> {
    fn new(engine: &'a Engine, plan: &'a CheckedPlan) -> Self {
        Self {
            engine,
            plan,
            maker: engine.store.batch_builder(),
            write_batch: WriteBatch::default(),
            held_batch: HeldBatch::default(),
            malformed_batch: HeldBatch::default(),
            answer: IngestAnswer {
                ok: true,
                logged: 0,
                duplicates: 0,
                ignored: 0,
                rejected: 0,
                quarantined: 0,
                errors: Vec::new(),
                notes: Vec::new(),
                rest: RestCounts::default(),
            },
            statements: None,
        }
    }

    /// Takes an event to where the plan says.
    fn take(&mut self, index: usize, event: &Event<'_>, mut notes: Vec<Note>) {
        let store = &self.engine.store;
        match place(store, self.plan, event, &mut self.held_batch, &mut notes) {
            Placement::Store => self.store(event),
            Placement::Hold => {}
            Placement::Quarantined => self.answer.quarantined += 1,
            Placement::Duplicate => self.answer.duplicates += 1,
            Placement::Ignored => self.answer.ignored += 1,
            Placement::Rejected(message) => {
                return self.reject(index, EventCode::QuarantineFull, message);
            }
        }
        let notes = notes.into_iter().map(|(code, message)| Rejection {
            index,
            code,
            message,
        });
        self.answer.notes.extend(notes);
    }

    /// Holds what is understood of a malformed message: its client will not send it again. It is
    /// rejected, whether or not it can be held.
    fn hold_malformed(&mut self, event: &Event<'_>, code: EventCode, reason: &str) {
        let reason = HoldReason::malformed(code, reason);
        let store = &self.engine.store;
        store.hold(&mut self.malformed_batch, event, &reason);
    }

    /// Adds an event to the write batch.
    fn store(&mut self, event: &Event<'_>) {
        self.maker.push(&mut self.write_batch, event);
        if let Identity::Alias(alias) = identity_of(event) {
            self.add_statement(event, &alias);
        }
    }

    /// Adds the statement that an id is an alias of the user of an event. Returns its digest if it
    /// is new.
    fn add_statement(&mut self, event: &Event<'_>, alias: &str) -> Option<Digest> {
        let user = event.user_id.as_deref()?;
        let store = &self.engine.store;
        let statements = self.statements.get_or_insert_with(|| store.statements());
        statements.add(&self.maker, user, alias, event.ts_us)
    }

    fn reject(&mut self, index: usize, code: EventCode, message: String) {
        self.answer.errors.push(Rejection {
            index,
            code,
            message,
        });
    }
}

impl Engine {
    /// Gives an event without a user the id of the visitor on its day.
    fn name_visitor(&self, event: &mut Event<'_>, visitor: Option<&mut Visitor>) {
        if event.user_id.is_none()
            && let Some(visitor) = visitor
        {
            let id = visitor.id_on(day_of(event.ts_us), day_of(event.received_at_us));
            event.user_id = id.map(Cow::Owned);
            let named = u64::from(event.user_id.is_some());
            let counter = &self.monitoring().visitor_events;
            counter.fetch_add(named, Ordering::Relaxed);
        }
    }
}

impl PendingIngest {
    /// The response, once the accepted events are durable and visible.
    ///
    /// # Errors
    /// If they could not be stored; then none of them was.
    pub async fn answer(self) -> Result<IngestAnswer> {
        let mut answer = self.answer;
        if let Some(held) = self.held {
            let held = counts_of(held).await?;
            answer.quarantined += held.held + held.duplicates;
            answer.ignored += held.erased;
        }
        if let Some(reply) = self.reply {
            let stored = reply
                .await
                .map_err(|_| Error::Poisoned("the writer has stopped".into()))??;
            answer.logged = stored.logged;
            answer.duplicates += stored.duplicates;
            answer.ignored += stored.erased;
            answer.rest = stored.rest;
        }
        if let Some(malformed) = self.malformed {
            note_not_held(counts_of(malformed).await);
        }
        if let Some(statements) = self.statements {
            statements.keep();
        }
        Ok(answer)
    }
}

/// The counts of a batch of held events, once it is durable.
async fn counts_of(held: HeldReply) -> Result<HeldCounts> {
    let stopped = |_| Error::Poisoned("the writer of the quarantine has stopped".into());
    held.await.map_err(stopped)?
}

/// Traces why malformed messages are not held: the other events of their request do not depend on
/// it.
fn note_not_held<T>(held: Result<T>) -> Option<T> {
    held.inspect_err(|error| warn!("Malformed messages are not kept: {error}"))
        .ok()
}

/// Validates an event. While two server times are plausible, a time of the event up to the later
/// one is accepted.
fn validate<'a>(
    raw: RawEvent<'a>,
    types: &'a DeclaredTypes,
    received: Received,
    clock_skew_us: i64,
) -> Outcome<'a> {
    let limit_us = received.at_us.saturating_add(MAX_AHEAD_US);
    let is_ahead = |ts_us: i64| ts_us.saturating_add(clock_skew_us) > limit_us;
    let by_us = if raw.ts_us().is_some_and(is_ahead) {
        received.latest_us
    } else {
        received.at_us
    };
    match raw.validate_among(types, by_us, clock_skew_us) {
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

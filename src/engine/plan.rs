//! The tracking plan in use, and the events that it quarantines.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use polars::prelude::col;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::rejections::{RejectionsAnswer, rfc3339};
use super::{Cancel, Engine, check_limit};
use crate::error::{Error, Result};
use crate::event::{self, Event, EventCode, EventType, MAX_AGE_US};
use crate::plan::{CheckedPlan, Observed, Plan, Verdict};
use crate::schema;
use crate::store::{HeldEvent, Keep, MAX_HELD_BYTES, WriteBatch, read_held};
use crate::window::WindowRequest;

/// Most events that a plan is inferred from: some seconds.
const MAX_INFERRED_EVENTS: u32 = 2_000_000;
/// Days for which malformed messages are kept: they help to find a faulty client, and make space
/// for those of others.
const MALFORMED_DAYS: u64 = 7;
/// Most bytes of lines that a replay stores at once.
const REPLAY_BYTES: usize = 1 << 20;

/// The tracking plan.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PlanAnswer {
    /// Always true.
    pub ok: bool,
    /// The plan; empty if there is none.
    pub plan: Plan,
}

/// A request for quarantined events.
#[derive(Debug, Clone, Copy, Default)]
pub struct QuarantineRequest {
    /// Most events; `None` for the default.
    pub limit: Option<usize>,
    /// Only events before this one: the `next` of the response before.
    pub before: Option<usize>,
}

impl QuarantineRequest {
    /// Most events of a response.
    pub const MAX_LIMIT: usize = 1_000;
    const LIMIT: usize = 100;
}

/// Quarantined events and recent rejections.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct QuarantineAnswer {
    /// Always true.
    pub ok: bool,
    /// The quarantined events, the newest first.
    pub events: Vec<HeldAnswer>,
    /// `before` of the request for the events before these; null at the end.
    pub next: Option<usize>,
    /// Number of all quarantined events.
    pub count: u64,
    /// Events that were rejected since the start.
    pub rejections: RejectionsAnswer,
}

/// A quarantined event.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HeldAnswer {
    /// When it was received.
    pub received_at: String,
    /// The part of it that does not follow the tracking plan, or is malformed.
    pub reason: String,
    /// The code of the reason.
    pub code: EventCode,
    /// True if a client of another product sent a message that is not an event. It is not replayed.
    pub malformed: bool,
    /// The event, or what is understood of the message.
    #[schema(value_type = Object)]
    pub event: Map<String, Value>,
}

/// Result of a replay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReplayAnswer {
    /// Always true.
    pub ok: bool,
    /// Events that are stored now.
    pub replayed: usize,
    /// Events that had been stored before, by their id.
    pub duplicates: usize,
    /// Events that were removed, because they are older than any window or their user was erased.
    pub ignored: usize,
    /// Events that stay in the quarantine.
    pub kept: usize,
}

/// Size of the quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct QuarantineStatus {
    /// Quarantined events.
    pub events: u64,
    /// Those of them that are malformed messages of clients of other products.
    pub malformed: u64,
    /// The bytes of all.
    pub bytes: u64,
    /// Bytes at which further events are rejected with `quarantine_full`.
    pub max_bytes: u64,
}

/// The outcome of a quarantined event in a replay.
enum Fate {
    Store,
    Keep(EventCode, String),
    TooOld,
}

impl Engine {
    /// The plan that events are validated by now.
    pub(super) fn checked_plan(&self) -> Arc<CheckedPlan> {
        self.plan.read().clone()
    }

    /// The tracking plan.
    pub fn plan(&self) -> PlanAnswer {
        PlanAnswer {
            ok: true,
            plan: self.checked_plan().plan().clone(),
        }
    }

    /// Replaces the tracking plan, for all events that come in from now on.
    ///
    /// # Errors
    /// `bad_plan` if it is wrong, and if it cannot be written; then the old one is in use.
    pub fn set_plan(&self, plan: Plan) -> Result<PlanAnswer> {
        let plan = CheckedPlan::new(plan)?;
        let _one = self.changing_plan.lock();
        plan.plan().save(self.store.folder())?;
        *self.plan.write() = Arc::new(plan);
        Ok(self.plan())
    }

    /// A plan of the events of a window, at most two million, with what the plan in use
    /// declares. It is not in use.
    ///
    /// # Errors
    /// If the window is wrong, stored data is damaged, or it is cancelled.
    pub fn infer_plan(
        &self,
        request: &WindowRequest,
        now: DateTime<Utc>,
        cancel: &Cancel,
    ) -> Result<PlanAnswer> {
        let window = request.resolve(now)?;
        let mut observed = Observed::default();
        let mut left = MAX_INFERRED_EVENTS;
        for part in self.store.whole(window.range_us())? {
            cancel.check()?;
            let names = [schema::EVENT_TYPE, schema::FEATURE, schema::METADATA];
            let events = part?.select(names.map(col)).limit(left).collect()?;
            let strings = |name| Ok::<_, Error>(events.column(name)?.str()?.iter());
            let [types, features, metadata] = names.map(strings);
            for ((event_type, feature), metadata) in types?.zip(features?).zip(metadata?) {
                let metadata = metadata.unwrap_or_default();
                observed.add(event_type.unwrap_or_default(), feature, metadata);
            }
            left = left.saturating_sub(events.height() as u32);
            if left == 0 {
                break;
            }
        }
        Ok(PlanAnswer {
            ok: true,
            plan: observed.plan(self.checked_plan().plan()),
        })
    }

    /// Size of the quarantine.
    pub fn quarantine_status(&self) -> QuarantineStatus {
        let size = self.store.held_size();
        QuarantineStatus {
            events: size.events,
            malformed: size.malformed,
            bytes: size.bytes,
            max_bytes: MAX_HELD_BYTES,
        }
    }

    /// Quarantined events, the newest first, and recent rejections.
    ///
    /// # Errors
    /// `bad_limit`, and if the quarantine cannot be read.
    pub fn quarantine(&self, request: QuarantineRequest) -> Result<QuarantineAnswer> {
        let limit = request.limit.unwrap_or(QuarantineRequest::LIMIT);
        check_limit(limit, QuarantineRequest::MAX_LIMIT)?;
        let lines = self.store.held_lines()?;
        let all: Vec<&[u8]> = event::lines(&lines).collect();
        let end = request.before.unwrap_or(all.len()).min(all.len());
        let start = end.saturating_sub(limit);
        let page = all.get(start..end).unwrap_or_default();
        let events = page.iter().rev().filter_map(|line| read_held(line));
        Ok(QuarantineAnswer {
            ok: true,
            events: events.map(HeldAnswer::from).collect(),
            next: (start > 0).then_some(start),
            count: self.store.held_size().events,
            rejections: self.rejections(),
        })
    }

    /// Stores the quarantined events that follow the plan now. Each is stored once, also if the
    /// process ends in between: it has an id, and what is stored leaves the quarantine at the
    /// latest at the next start.
    ///
    /// # Errors
    /// If nothing can be stored now; the events that were stored before have left the quarantine.
    pub fn replay_quarantine(&self, now: DateTime<Utc>) -> Result<ReplayAnswer> {
        self.check_takes_events()?;
        self.store.check_writable()?;
        let _one = self.changing_plan.lock();
        let plan = self.checked_plan();
        let received = self.store.receive(now)?;
        let mut answer = ReplayAnswer {
            ok: true,
            ..ReplayAnswer::default()
        };
        let lines = self.store.held_lines()?;
        let mut fates: HashMap<String, Option<(EventCode, String)>> = HashMap::new();
        let maker = self.store.batch_builder();
        let mut batch = WriteBatch::default();
        let mut stored = Ok(());
        let mut waiting: Vec<String> = Vec::new();
        for held in event::lines(&lines).filter_map(read_held) {
            if held.reason.is_malformed {
                answer.kept += 1;
                continue;
            }
            let identity = identity(&held.event);
            let mut event = held.event;
            plan.group_path(&mut event);
            match fate(&plan, &event, received.at_us) {
                Fate::TooOld => {
                    answer.ignored += 1;
                    fates.insert(identity, None);
                }
                Fate::Keep(code, reason) => {
                    answer.kept += 1;
                    fates.insert(identity, Some((code, reason)));
                }
                Fate::Store => {
                    event.received_at_us = received.at_us;
                    maker.push(&mut batch, &event);
                    waiting.push(identity);
                }
            }
            if batch.bytes() >= REPLAY_BYTES {
                stored = self.store_replayed(std::mem::take(&mut batch), &mut answer);
                if stored.is_err() {
                    break;
                }
                fates.extend(waiting.drain(..).map(|identity| (identity, None)));
            }
        }
        if stored.is_ok() {
            stored = self.store_replayed(batch, &mut answer);
            if stored.is_ok() {
                fates.extend(waiting.drain(..).map(|identity| (identity, None)));
            }
        }
        self.store
            .rewrite_held(|held| match fates.remove(&identity(&held.event)) {
                Some(None) => Keep::No,
                Some(Some((code, reason))) => Keep::Because(code, reason),
                // It is malformed, or came in meanwhile.
                None => Keep::AsIs,
            })?;
        stored.map(|()| answer)
    }

    /// Stores a part of a replay, and waits until it is durable.
    fn store_replayed(&self, batch: WriteBatch, answer: &mut ReplayAnswer) -> Result<()> {
        answer.ignored += batch.erased;
        if batch.is_empty() {
            return Ok(());
        }
        let reply = self.store.append(batch)?.blocking_recv();
        let stored = reply.map_err(|_| Error::Poisoned("the writer has stopped".into()))??;
        answer.replayed += stored.logged;
        answer.duplicates += stored.duplicates;
        answer.ignored += stored.erased;
        Ok(())
    }

    /// Removes quarantined events that were received before a day, as those of the log expire, and
    /// malformed messages that were received too many days before today.
    pub(super) fn expire_held(&self, first_kept: NaiveDate, today: NaiveDate) -> Result<usize> {
        if self.store.held_size().events == 0 {
            return Ok(0);
        }
        let start_us = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc().timestamp_micros();
        let malformed = first_kept.max(today - Days::new(MALFORMED_DAYS));
        let (first_us, first_malformed_us) = (start_us(first_kept), start_us(malformed));
        self.store.rewrite_held(|held| {
            let first_us = match held.reason.is_malformed {
                true => first_malformed_us,
                false => first_us,
            };
            match held.event.received_at_us < first_us {
                true => Keep::No,
                false => Keep::AsIs,
            }
        })
    }
}

/// The outcome of a quarantined event with this plan.
fn fate(plan: &CheckedPlan, event: &Event<'_>, now_us: i64) -> Fate {
    if event.ts_us < now_us - MAX_AGE_US {
        return Fate::TooOld;
    }
    if let EventType::Declared(name) = event.event_type
        && !plan.types().has(name)
    {
        let message = format!("event_type is {name:?}, which the plan does not declare any more");
        return Fate::Keep(EventCode::BadEventType, message);
    }
    match plan.validate(event) {
        Verdict::Quarantines(code, message) => Fate::Keep(code, message),
        Verdict::Passes | Verdict::Warns(..) => Fate::Store,
    }
}

/// Tells a quarantined event from all others: they have ids.
fn identity(event: &Event<'_>) -> String {
    let parts = [
        event.event_type.name(),
        event.user_id.as_deref().unwrap_or_default(),
        event.event_id.as_deref().unwrap_or_default(),
    ];
    // No string of an event contains a NUL.
    parts.join("\0")
}

impl From<HeldEvent<'_>> for HeldAnswer {
    fn from(held: HeldEvent<'_>) -> Self {
        let mut line = Vec::new();
        event::write_line(&held.event, &mut line);
        // It is the line of an object.
        let mut event: Map<String, Value> = serde_json::from_slice(&line).unwrap_or_default();
        event.remove("crc32c");
        event.remove("received_at");
        Self {
            received_at: rfc3339(held.event.received_at_us),
            reason: held.reason.text.into_owned(),
            code: held.reason.code,
            malformed: held.reason.is_malformed,
            event,
        }
    }
}

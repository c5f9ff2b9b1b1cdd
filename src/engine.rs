//! The operations that HTTP, command line and scheduler share, and the only place where the store meets the
//! metrics. Time comes in as an argument.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use polars::prelude::{DataFrame, LazyFrame, OptFlags};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use tracing::info;

use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::event::{self, EventType, Refusal, Verdict};
use crate::metrics::usage;
use crate::rollup::{self, RollupLine, RollupLog};
use crate::schema;
use crate::store::{Draft, Reply, Sealed, Store, StoreSize, Verified};
use crate::window::{DAY_US, Window, WindowFacts, WindowRequest};

/// The open engine.
pub struct Engine {
    store: Store,
    config: StoreConfig,
    rollup_log: Mutex<()>,
}

/// The answer to a batch of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IngestAnswer {
    /// Whether the batch was well formed and not every event was refused.
    pub ok: bool,
    /// Events stored now and durable.
    pub logged: usize,
    /// Events stored before, known by their id.
    pub duplicates: usize,
    /// Events older than any window.
    pub ignored: usize,
    /// Events refused.
    pub rejected: usize,
    /// Why, for each refused event.
    pub errors: Vec<Refusal>,
}

/// A batch that waits for the disk.
pub struct PendingIngest {
    reply: Option<Reply>,
    answer: IngestAnswer,
}

/// The numbers of usage, in the user's shape.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UsageNumbers {
    /// Average distinct users per day with data.
    pub dau: f64,
    /// Average distinct users per ISO week with data.
    pub wau: f64,
    /// Distinct users of the window.
    pub mau: u64,
    /// Events per feature, most used first, ties by name.
    #[serde(serialize_with = "in_order")]
    pub feature_usage: Vec<(String, u64)>,
    /// Events per type, in funnel order.
    #[serde(serialize_with = "in_order")]
    pub funnel_steps: Vec<(String, u64)>,
    /// Events of the window.
    pub total_events: u64,
}

/// The answer to the question of usage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UsageAnswer {
    /// Always true.
    pub ok: bool,
    /// When it was computed.
    pub ts: String,
    /// Length of the window in days.
    pub period_days: u16,
    /// The numbers.
    #[serde(flatten)]
    pub numbers: UsageNumbers,
    /// Days with data.
    pub unique_days: u64,
    /// ISO weeks with data.
    pub unique_weeks: u64,
    /// The window.
    pub window: WindowFacts,
    /// First day of the window that is still known in full.
    pub covered_from: NaiveDate,
    /// Sum over days of the day's distinct users; `dau` is this divided by `unique_days`.
    pub users_per_day: u64,
    /// Sum over weeks of the week's distinct users; `wau` is this divided by `unique_weeks`.
    pub users_per_week: u64,
}

/// What a rollup did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RollupAnswer {
    /// Always true.
    pub ok: bool,
    /// Days that got a line now, in order.
    pub days: Vec<NaiveDate>,
}

/// Which days a rollup is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollupScope {
    /// Every day that is due: what the scheduler does.
    Due,
    /// Every closed day: what a person who asks for it gets.
    Closed,
    /// One closed day.
    Day(NaiveDate),
}

impl Engine {
    /// Opens the data folder. `holder` says to others who we are.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(config: &StoreConfig, holder: &str, now: DateTime<Utc>) -> Result<Self> {
        Ok(Self {
            store: Store::open(config, holder, now)?,
            config: config.clone(),
            rollup_log: Mutex::new(()),
        })
    }

    /// The store, for what needs no metric.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Judges the events of a request body, received at `now`, and queues the accepted ones.
    ///
    /// # Errors
    /// If the body is no batch, or nothing can be stored now.
    pub fn ingest(&self, body: &[u8], now: DateTime<Utc>) -> Result<PendingIngest> {
        let batch = event::read_batch(body)?;
        let received_at_us = now.timestamp_micros();
        let clock_skew_us = batch.clock_skew_us(received_at_us);
        let maker = self.store.draft_maker();
        let mut draft = Draft::default();
        let mut answer = IngestAnswer {
            ok: true,
            logged: 0,
            duplicates: 0,
            ignored: 0,
            rejected: 0,
            errors: Vec::new(),
        };
        for (index, raw) in batch.events.into_iter().enumerate() {
            match raw.judge(received_at_us, clock_skew_us) {
                Verdict::Accepted(event) => maker.push(&mut draft, &event)?,
                Verdict::TooOld => answer.ignored += 1,
                Verdict::Refused(code, message) => answer.errors.push(Refusal {
                    index,
                    code,
                    message,
                }),
            }
        }
        answer.rejected = answer.errors.len();
        answer.ok = answer.rejected == 0 || !draft.is_empty() || answer.ignored > 0;
        let reply = match draft.is_empty() {
            true => None,
            false => Some(self.store.append(draft)?),
        };
        Ok(PendingIngest { reply, answer })
    }

    /// Usage of a window.
    ///
    /// # Errors
    /// If the window is wrong or a segment that is needed is damaged.
    pub fn usage(&self, request: &WindowRequest, now: DateTime<Utc>) -> Result<UsageAnswer> {
        let window = request.resolve(now)?;
        let counted = self.count_usage(&window)?;
        Ok(UsageAnswer {
            ok: true,
            ts: now.to_rfc3339_opts(SecondsFormat::Secs, true),
            period_days: window.days(),
            unique_days: counted.days,
            unique_weeks: counted.weeks,
            window: window.describe(now),
            covered_from: window.first_day(),
            users_per_day: counted.user_days,
            users_per_week: counted.user_weeks,
            numbers: counted.numbers(),
        })
    }

    /// Writes the rollups that are missing. A day that has one is left as it is.
    ///
    /// # Errors
    /// `bad_day` for a day that is not over, and if a file cannot be read or written.
    pub fn rollup(&self, scope: RollupScope, now: DateTime<Utc>) -> Result<RollupAnswer> {
        // One at a time: two would both find the same days missing.
        let _one = self
            .rollup_log
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let folder = self.store.folder();
        let mut log = RollupLog::load(folder)?;
        let closed = rollup::last_closed_day(now);
        let keep_days = self.config.rollup_retention_days;
        let until = |last| rollup::missing_days(self.first_day(), last, keep_days, &log.done);
        let days = match scope {
            RollupScope::Due => until(rollup::last_due_day(now, self.config.rollup_at)),
            RollupScope::Closed => until(closed),
            RollupScope::Day(day) if day > closed => {
                return Err(Error::bad_input(
                    "bad_day",
                    format!("day is {day}; allowed is a day that is over, up to {closed}"),
                ));
            }
            RollupScope::Day(day) if log.done.contains(&day) => Vec::new(),
            RollupScope::Day(day) => vec![day],
        };
        let mut lines = Vec::with_capacity(days.len());
        for &day in &days {
            let counted = self.count_usage(&Window::utc(day, rollup::PERIOD_DAYS))?;
            lines.push(RollupLine::new(
                day,
                self.config.rollup_at,
                counted.numbers(),
            ));
        }
        if !lines.is_empty() {
            log.append(folder, &lines)?;
            info!(days = lines.len(), "Rolled up {} days", lines.len());
        }
        Ok(RollupAnswer { ok: true, days })
    }

    /// Turns the event log into segments now.
    ///
    /// # Errors
    /// As [`Store::seal`].
    pub fn seal(&self) -> Result<Sealed> {
        self.store.seal()
    }

    /// Checks every checksum and invariant of what is on disk.
    ///
    /// # Errors
    /// As [`Store::verify`].
    pub fn verify(&self) -> Result<Verified> {
        self.store.verify()
    }

    /// How much the store holds.
    pub fn size(&self) -> StoreSize {
        self.store.size()
    }

    fn first_day(&self) -> Option<NaiveDate> {
        let day_start_us = self.store.first_ts_us()?.div_euclid(DAY_US) * DAY_US;
        DateTime::from_timestamp_micros(day_start_us).map(|start| start.date_naive())
    }

    fn count_usage(&self, window: &Window) -> Result<UsageCounts> {
        let events = self.store.scan(window.range_us())?;
        UsageCounts::collect(usage::usage(events, window.tz()))
    }
}

impl PendingIngest {
    /// The answer, once the accepted events are durable and visible.
    ///
    /// # Errors
    /// If they could not be stored; then none of them is.
    pub async fn answer(self) -> Result<IngestAnswer> {
        let mut answer = self.answer;
        if let Some(reply) = self.reply {
            let stored = reply
                .await
                .map_err(|_| Error::Poisoned("the writer has stopped".into()))??;
            answer.logged = stored.logged;
            answer.duplicates = stored.duplicates;
        }
        Ok(answer)
    }
}

/// What usage counts, before anything is divided.
struct UsageCounts {
    events: u64,
    days: u64,
    weeks: u64,
    users: u64,
    user_days: u64,
    user_weeks: u64,
    features: Vec<(String, u64)>,
    event_types: Vec<(String, u64)>,
}

impl UsageCounts {
    /// Executes the plans together on the streaming engine.
    fn collect(frames: usage::Usage) -> Result<Self> {
        let plans = [
            frames.totals,
            frames.weekly,
            frames.features,
            frames.event_types,
        ];
        let optimizations = OptFlags::default();
        let plans = plans.into_iter().map(|frame| frame.logical_plan).collect();
        let frames = LazyFrame::collect_all_with_engine(
            plans,
            polars::prelude::Engine::Streaming,
            optimizations,
        )?;
        let [totals, weekly, features, event_types] = frames.as_slice() else {
            return Err(Error::Query(
                "four plans gave another number of frames".into(),
            ));
        };
        Ok(Self {
            events: number(totals, usage::EVENTS)?,
            days: number(totals, usage::DAYS)?,
            weeks: number(totals, usage::WEEKS)?,
            users: number(totals, usage::USERS)?,
            user_days: number(totals, usage::USER_DAYS)?,
            user_weeks: number(weekly, usage::USER_WEEKS)?,
            features: named_numbers(features, schema::FEATURE, usage::EVENTS)?,
            event_types: named_numbers(event_types, schema::EVENT_TYPE, usage::EVENTS)?,
        })
    }

    fn numbers(self) -> UsageNumbers {
        let funnel_steps = EventType::ALL.map(|step| {
            let found = self
                .event_types
                .iter()
                .find(|(name, _)| name == step.name());
            (
                step.name().to_owned(),
                found.map_or(0, |(_, events)| *events),
            )
        });
        UsageNumbers {
            dau: average(self.user_days, self.days),
            wau: average(self.user_weeks, self.weeks),
            mau: self.users,
            feature_usage: self.features,
            funnel_steps: funnel_steps.into(),
            total_events: self.events,
        }
    }
}

/// An average over no days is zero: an empty window is all zeros, never null.
fn average(sum: u64, count: u64) -> f64 {
    match count {
        0 => 0.0,
        count => sum as f64 / count as f64,
    }
}

/// The number in the only row of a frame.
fn number(frame: &DataFrame, column: &str) -> Result<u64> {
    let value = frame.column(column)?.i64()?.get(0).unwrap_or(0);
    Ok(value.unsigned_abs())
}

fn named_numbers(frame: &DataFrame, names: &str, numbers: &str) -> Result<Vec<(String, u64)>> {
    let names = frame.column(names)?.str()?;
    let numbers = frame.column(numbers)?.i64()?;
    Ok(names
        .iter()
        .zip(numbers.iter())
        .filter_map(|(name, number)| Some((name?.to_owned(), number?.unsigned_abs())))
        .collect())
}

/// A JSON object whose keys stay in the order of the list.
fn in_order<S: Serializer>(pairs: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(pairs.len()))?;
    for (name, number) in pairs {
        map.serialize_entry(name, number)?;
    }
    map.end()
}

//! The operations that HTTP, command line and scheduler share, and the only place where the store meets the
//! metrics. Time comes in as an argument.

mod demo_folder;
mod export;
mod query;
mod rollup;
mod status;

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Days, NaiveDate, SecondsFormat, Utc};
use chrono_tz::Tz;
use polars::prelude::{DataFrame, LazyFrame, OptFlags};
use serde::Serialize;
use tracing::{error, warn};

pub use demo_folder::{DemoAnswer, DemoFolder};
pub use export::{ExportAnswer, ExportRequest, verify};
pub use query::Cancel;
pub use rollup::{RollupAnswer, RollupScope};
pub use status::{LimitStatus, StatusAnswer};

use crate::cohorts::Cohorts;
use crate::config::StoreConfig;
use crate::demo::{self, Demo};
use crate::error::{Error, Result};
use crate::event::{self, Event, MAX_AHEAD_US, RawEvent, Refusal, Verdict};
use crate::import::{self, Imported, Progress, Source};
use crate::metrics::cohort::Cohort;
use crate::metrics::query::Query;
use crate::metrics::usage::{MAX_FEATURES, UsageCounts, UsageNumbers, usage};
use crate::rollup::RollupLog;

use crate::store::folder::Purpose;
use crate::store::{
    Clock, Draft, Effort, Erased, ErasureLimit, Expired, Rebuilt, Received, Reply, RestCounts,
    Retention, SealUrgency, Sealed, Store, StoreSize, is_displaced,
};
use crate::window::{self, Grain, Window, WindowFacts, WindowRequest};

/// Bytes that are verified each time: a large lake in some hours, without the disk
/// noticing.
const SCRUB_BYTES: u64 = 32 << 20;

/// Room that an event of the synthetic history takes, in the log and in segments, before the log is removed.
const DEMO_EVENT_BYTES: u64 = 400;

/// Users that are erased by one request.
const MAX_ERASED_USERS: usize = 10_000;

/// The open engine.
pub struct Engine {
    store: Store,
    config: StoreConfig,
    rollup_log: Mutex<()>,
    cohorts: Mutex<()>,
    last_rollup: status::LastRollup,
    opened_at: DateTime<Utc>,
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
    /// Events older than any window, and those of erased users.
    pub ignored: usize,
    /// Events refused.
    pub rejected: usize,
    /// Why, for each refused event.
    pub errors: Vec<Refusal>,
    /// What was cut or left out of events that were not refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Refusal>,
    /// Events stored now whose name is beyond a daily limit: they are counted under *rest*.
    #[serde(skip_serializing_if = "RestCounts::is_empty")]
    pub rest: RestCounts,
}

/// A batch that waits for the disk.
pub struct PendingIngest {
    reply: Option<Reply>,
    answer: IngestAnswer,
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
    /// Days of the window that are not over.
    pub partial_days: Vec<NaiveDate>,
    /// Mondays of the ISO weeks that the window or the present cuts; `wau` counts the part of them that lies in the window.
    pub partial_weeks: Vec<NaiveDate>,
    /// First day of the window that is still known in full.
    pub covered_from: NaiveDate,
    /// Sum over days of the day's distinct users; `dau` is this divided by `unique_days`.
    pub users_per_day: u64,
    /// Sum over weeks of the week's distinct users; `wau` is this divided by `unique_weeks`.
    pub users_per_week: u64,
}

/// What an expiry removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExpireAnswer {
    /// Always true.
    pub ok: bool,
    /// Of the store.
    #[serde(flatten)]
    pub expired: Expired,
    /// Lines of the rollup log.
    pub rollup_lines: usize,
}

/// The receipt of an erasure: what was found and removed where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EraseAnswer {
    /// Always true: all of it is gone.
    pub ok: bool,
    /// When it was asked for.
    pub asked_at: String,
    /// In the store.
    #[serde(flatten)]
    pub erased: Erased,
    /// Cohorts that named one of them.
    pub cohorts: usize,
    /// Exports in the data folder that were brought up to date.
    pub exports: usize,
}

/// The answer to a confirmation of the clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClockAnswer {
    /// Always true: events are accepted by this clock.
    pub ok: bool,
    /// What the clock says.
    pub clock: String,
}

/// The cohorts there are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CohortsAnswer {
    /// Always true.
    pub ok: bool,
    /// By name.
    pub cohorts: Cohorts,
}

impl From<Cohorts> for CohortsAnswer {
    fn from(cohorts: Cohorts) -> Self {
        Self { ok: true, cohorts }
    }
}

impl Engine {
    /// Opens the data folder. `holder` says to others who we are.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(config: &StoreConfig, holder: &str, now: DateTime<Utc>) -> Result<Self> {
        Self::open_for(config, holder, Purpose::Change, now)
    }

    /// The same, for a purpose.
    ///
    /// # Errors
    /// As [`Store::open_for`].
    pub fn open_for(
        config: &StoreConfig,
        holder: &str,
        purpose: Purpose,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let store = Store::open_for(config, holder, purpose, now)?;
        if let Err(error) = Cohorts::upgrade(store.folder()) {
            warn!("The cohorts cannot be used: {error}");
        }
        Ok(Self {
            store,
            config: config.clone(),
            rollup_log: Mutex::new(()),
            cohorts: Mutex::new(()),
            last_rollup: status::LastRollup::default(),
            opened_at: now,
        })
    }

    /// The settings it was opened with.
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// The store, for what needs no metric.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether events can be accepted when the clock says `now`.
    ///
    /// # Errors
    /// As [`Store::check_writable`] and [`Store::believed`].
    pub fn check_ready(&self, now: DateTime<Utc>) -> Result<()> {
        self.store.check_writable()?;
        self.store.believed(now).map(drop)
    }

    /// Believes the clock, which a person says is right, although it is far from where it was.
    ///
    /// # Errors
    /// `bad_date` if the person says another day, and as [`Store::confirm_clock`].
    pub fn confirm_clock(&self, date: NaiveDate, now: DateTime<Utc>) -> Result<ClockAnswer> {
        let today = now.date_naive();
        if date != today {
            let message = format!("the confirmed date is {date}; the clock says {today}");
            return Err(Error::bad_input("bad_date", message));
        }
        self.store.confirm_clock(now)?;
        Ok(ClockAnswer {
            ok: true,
            clock: now.to_rfc3339_opts(SecondsFormat::Secs, true),
        })
    }

    /// Judges the events of a request body, received at `now`, and queues the accepted ones.
    ///
    /// # Errors
    /// If the body is no batch, or nothing can be stored now.
    pub fn ingest(&self, body: &[u8], now: DateTime<Utc>) -> Result<PendingIngest> {
        // Before anything is kept of the events.
        self.store.check_writable()?;
        self.ingest_batch(event::read_batch(body)?, now)
    }

    /// Judges the events of a batch, received at `now`, and queues the accepted ones.
    ///
    /// # Errors
    /// If nothing can be stored now.
    pub fn ingest_batch(
        &self,
        batch: event::Batch<'_>,
        now: DateTime<Utc>,
    ) -> Result<PendingIngest> {
        let received = self.store.receive(now)?;
        // While it is open which of two times is right, a client that agrees with one of them is not corrected.
        let clock_skew_us = [received.at_us, received.latest_us]
            .map(|us| batch.clock_skew_us(us))
            .into_iter()
            .min_by_key(|skew_us| skew_us.saturating_abs())
            .unwrap_or(0);
        let maker = self.store.draft_maker();
        let mut draft = Draft::default();
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
            match judge(raw, received, clock_skew_us) {
                Verdict::Accepted(event, notes) => {
                    maker.push(&mut draft, &event);
                    let notes = notes.into_iter().map(|(code, message)| Refusal {
                        index,
                        code,
                        message,
                    });
                    answer.notes.extend(notes);
                }
                Verdict::TooOld => answer.ignored += 1,
                Verdict::Refused(code, message) => answer.errors.push(Refusal {
                    index,
                    code,
                    message,
                }),
            }
        }
        answer.ignored += draft.erased;
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
        self.usage_of(request, MAX_FEATURES, now)
    }

    /// Usage of a window, with the `features` most used features.
    ///
    /// # Errors
    /// `bad_limit` if these are none or too many, and as [`Engine::usage`].
    pub fn usage_of(
        &self,
        request: &WindowRequest,
        features: usize,
        now: DateTime<Utc>,
    ) -> Result<UsageAnswer> {
        if !(1..=MAX_FEATURES).contains(&features) {
            return Err(Error::bad_input(
                "bad_limit",
                format!("limit is {features}; allowed is 1 to {MAX_FEATURES}"),
            ));
        }
        let window = request.resolve(now)?;
        let counted = self.count_usage(&window, features)?;
        Ok(UsageAnswer {
            ok: true,
            ts: now.to_rfc3339_opts(SecondsFormat::Secs, true),
            period_days: window.days(),
            unique_days: counted.days,
            unique_weeks: counted.weeks,
            window: window.describe(now),
            partial_days: window.cut_periods(Grain::Day, now),
            partial_weeks: window.cut_periods(Grain::Week, now),
            covered_from: self.covered_from(&window),
            users_per_day: counted.user_days,
            users_per_week: counted.user_weeks,
            numbers: counted.numbers(),
        })
    }

    /// Reads and keeps what the first questions after a start would wait for: the weeks of a year, and the days of a month.
    ///
    /// # Errors
    /// If a segment or state that is needed is damaged.
    pub fn warm_up(&self, now: DateTime<Utc>) -> Result<()> {
        let year = WindowRequest {
            days: Some(i64::from(window::MAX_DAYS)),
            ..WindowRequest::default()
        };
        self.usage(&year, now)?;
        let month = Query::parse(br#"{"metric":"active_users"}"#)?;
        self.query(&month, now, &Cancel::default()).map(drop)
    }

    /// The cohorts that were named, by name.
    ///
    /// # Errors
    /// As [`Cohorts::load`].
    pub fn cohorts(&self) -> Result<Cohorts> {
        Cohorts::load(self.store.folder())
    }

    /// Keeps a cohort, in the place of one of that name.
    ///
    /// # Errors
    /// `bad_cohort` if it is wrong or there are too many, and if it cannot be written.
    pub fn set_cohort(&self, cohort: Cohort) -> Result<Cohorts> {
        cohort
            .check()
            .map_err(|message| Error::bad_input("bad_cohort", message))?;
        self.change_cohorts(|cohorts| cohorts.set(cohort))
    }

    /// Forgets a cohort.
    ///
    /// # Errors
    /// `unknown_cohort` if there is none of that name, and if it cannot be written.
    pub fn remove_cohort(&self, name: &str) -> Result<Cohorts> {
        self.change_cohorts(|cohorts| cohorts.remove(name))
    }

    /// Everything that is stored of a user, as NDJSON, which `sink` gets in pieces.
    ///
    /// # Errors
    /// As [`Store::ids_of`] and [`Store::user_events`].
    pub fn user_events(&self, user: &str, sink: impl FnMut(Vec<u8>) -> Result<()>) -> Result<()> {
        self.store.user_events(&self.store.ids_of(user)?, sink)
    }

    /// Erases users. When this returns, nothing of theirs is in the data folder, and no event of theirs comes in any more. If
    /// that is a large share of all events, `confirmed` is their number.
    ///
    /// # Errors
    /// `bad_users` if it is nobody or are too many, as [`Store::ids_of`] and [`Store::check_erasure`], with nothing changed;
    /// and as [`Store::erase`]; then it goes on in the background.
    pub fn erase(
        &self,
        users: &[String],
        confirmed: Option<u64>,
        now: DateTime<Utc>,
    ) -> Result<EraseAnswer> {
        if users.is_empty() || users.len() > MAX_ERASED_USERS || users.iter().any(String::is_empty)
        {
            return Err(Error::bad_input(
                "bad_users",
                format!(
                    "{} ids; allowed are 1 to {MAX_ERASED_USERS}, none of them empty",
                    users.len()
                ),
            ));
        }
        let ids: Vec<Vec<String>> = users
            .iter()
            .map(|user| self.store.ids_of(user))
            .collect::<Result<_>>()?;
        let ids = ids.concat();
        let limit = ErasureLimit {
            percent: self.config.limit_erasure_percent,
            confirmed,
        };
        self.store.check_erasure(&ids, limit)?;
        // So that it is known what each line was made from, and the erasure is seen.
        self.correct_rollups(now);
        let mut cohorts = 0;
        self.change_cohorts(|all| {
            cohorts = all.forget(&ids);
            Ok(())
        })?;
        let mut exports = 0;
        let mut erased = self.store.erase(&ids, |ids| {
            exports = self.refresh_exports(ids)?;
            Ok(())
        })?;
        self.correct_rollups(now);
        erased.users = users.len();
        Ok(EraseAnswer {
            ok: true,
            asked_at: now.to_rfc3339_opts(SecondsFormat::Secs, true),
            erased,
            cohorts,
            exports,
        })
    }

    /// Ends erasures that were interrupted.
    ///
    /// # Errors
    /// As [`Store::erase`].
    pub fn finish_erasures(&self) -> Result<()> {
        let ended = self
            .store
            .finish_erasures(|ids| self.refresh_exports(ids).map(drop));
        ended.map(drop)
    }

    fn lock_rollup_log(&self) -> MutexGuard<'_, ()> {
        self.rollup_log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn change_cohorts(&self, change: impl FnOnce(&mut Cohorts) -> Result<()>) -> Result<Cohorts> {
        // One at a time: of two, the second would undo the first.
        let _one = self.cohorts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cohorts = self.cohorts()?;
        change(&mut cohorts)?;
        cohorts.save(self.store.folder())?;
        Ok(cohorts)
    }

    /// Stores all events of the sources.
    ///
    /// # Errors
    /// As [`import::import`].
    pub fn import(
        &self,
        sources: &[Source],
        rebase_to: Option<NaiveDate>,
        now: DateTime<Utc>,
        progress: &Progress,
    ) -> Result<Imported> {
        import::import(&self.store, sources, rebase_to, now, progress)
    }

    /// Fills an empty store with a made-up history; `made` is called with the number of events so far.
    ///
    /// # Errors
    /// `not_empty` if there are events, and as [`demo::fill`].
    pub fn fill_demo(&self, demo: Demo, made: impl Fn(u64)) -> Result<u64> {
        let size = self.size();
        if size.log_events > 0 || size.sealed_events > 0 {
            return Err(Error::bad_input(
                "not_empty",
                format!(
                    "{} holds events already; choose an empty folder with --data-dir",
                    self.store.folder().path().display()
                ),
            ));
        }
        // Half a history could not be completed later.
        let needed = demo.events.saturating_mul(DEMO_EVENT_BYTES);
        match self.store.folder().free_bytes() {
            Some(free) if free < needed => Err(Error::DiskFull),
            _ => demo::fill(&self.store, demo, made),
        }
    }

    /// Turns the event log into segments now, and tidies them.
    ///
    /// # Errors
    /// As [`Store::seal`] and [`Engine::compact`].
    pub fn seal(&self, now: DateTime<Utc>) -> Result<Sealed> {
        let sealed = self.store.seal()?;
        self.compact(now, Effort::Full)?;
        Ok(sealed)
    }

    /// Joins small segments, and writes what finds the uses of a feature in those that stay.
    ///
    /// # Errors
    /// As [`Store::compact`].
    pub fn compact(&self, now: DateTime<Utc>, effort: Effort) -> Result<()> {
        self.store.compact(now, effort)
    }

    /// Verifies some of what is sealed, each time the next.
    ///
    /// # Errors
    /// As [`Store::scrub`].
    pub fn scrub(&self) -> Result<()> {
        self.store.scrub(SCRUB_BYTES)
    }

    /// Makes all daily states anew from the segments.
    ///
    /// # Errors
    /// As [`Store::rebuild`].
    pub fn rebuild(&self) -> Result<Rebuilt> {
        self.store.rebuild()
    }

    /// Removes events, daily states and rollup lines that are older than they may be kept.
    ///
    /// # Errors
    /// `clock_jump` if the clock cannot be believed, and if a file cannot be written.
    pub fn expire(&self, today: NaiveDate, clock: Clock) -> Result<ExpireAnswer> {
        let retention = Retention {
            raw_days: self.config.raw_retention_days,
            state_days: self.config.rollup_retention_days,
        };
        let expired = self.store.expire(today, retention, clock)?;
        let _one = self.lock_rollup_log();
        let first_kept = expired.as_of - Days::new(u64::from(self.config.rollup_retention_days));
        // Where nothing was ever sealed, no clock was seen that this one could be compared with.
        let rollup_lines = match self.store.expiry().looked_on {
            None => 0,
            Some(_) => RollupLog::load(self.store.folder())?
                .remove_before(self.store.folder(), first_kept)?,
        };
        Ok(ExpireAnswer {
            ok: true,
            expired,
            rollup_lines,
        })
    }

    /// Seals what is in the log, as the last thing before a clean stop: the next start has nothing to read back. If that
    /// fails, the log is read back.
    pub fn close(&self) {
        if self.size().log_events > 0
            && let Err(error) = self.store.seal()
        {
            match &error {
                Error::Poisoned(reason) if is_displaced(reason) => error!(
                    "{} events are in no segment, and their log is not under its name; the next start finds them only if it \
                     is put back there before",
                    self.size().log_events
                ),
                _ => warn!("The log stays as it is and is read back at the next start: {error}"),
            }
        }
    }

    /// Whether it is time to seal.
    pub fn seal_urgency(&self) -> Option<SealUrgency> {
        self.store.seal_urgency()
    }

    /// How much the store holds.
    pub fn size(&self) -> StoreSize {
        self.store.size()
    }

    /// First day of the window that is known in full: days of UTC by their states, those of a zone by their events.
    fn covered_from(&self, window: &Window) -> NaiveDate {
        let expiry = self.store.expiry();
        let kept_from = match window.tz() {
            Tz::UTC => expiry.states_from,
            _ => expiry.raw_from,
        };
        kept_from.map_or(window.first_day(), |day| window.first_whole_day_from(day))
    }

    /// Makes the features that days of a window name known by number: those of a day are once its state was read.
    fn name_features(&self, window: &Window) -> Result<()> {
        let days = window.days_in_epoch();
        // Days of a zone reach into the days of UTC before and after.
        let days = days.start - 1..days.end + 1;
        self.store.activities(days).map(drop)
    }

    fn count_usage(&self, window: &Window, features: usize) -> Result<UsageCounts> {
        if window.tz() == Tz::UTC {
            let first = window.first_day().to_epoch_days();
            let days = first..window.last_day().to_epoch_days() + 1;
            let activities = self.store.activities(days)?;
            let names = self.store.names();
            return Ok(UsageCounts::of_days(&activities, names, features));
        }
        self.name_features(window)?;
        let events = self.store.scan(window.range_us())?;
        let counted = execute(usage(events, window.tz()).plans())?;
        UsageCounts::read(&counted, self.store.names(), features)
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
            answer.ignored += stored.erased;
            answer.rest = stored.rest;
        }
        Ok(answer)
    }
}

/// Judges an event. One whose own time is the clock's is accepted while it is open whether the clock is right.
fn judge(raw: RawEvent<'_>, received: Received, clock_skew_us: i64) -> Verdict<'_> {
    let limit_us = received.at_us.saturating_add(MAX_AHEAD_US);
    let is_ahead = |ts_us: i64| ts_us.saturating_add(clock_skew_us) > limit_us;
    let by_us = match raw.ts_us().is_some_and(is_ahead) {
        true => received.latest_us,
        false => received.at_us,
    };
    match raw.judge(by_us, clock_skew_us) {
        Verdict::Accepted(event, notes) => {
            let event = Event {
                received_at_us: received.at_us,
                ..event
            };
            Verdict::Accepted(event, notes)
        }
        other => other,
    }
}

/// Executes plans together on the streaming engine: what they share is computed once.
fn execute(plans: Vec<LazyFrame>) -> Result<Vec<DataFrame>> {
    let plans = plans.into_iter().map(|frame| frame.logical_plan).collect();
    let engine = polars::prelude::Engine::Streaming;
    Ok(LazyFrame::collect_all_with_engine(
        plans,
        engine,
        OptFlags::default(),
    )?)
}

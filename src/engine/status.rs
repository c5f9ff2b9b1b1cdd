//! The state of the engine: what a person on call looks at first.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;

use super::Engine;
use crate::error::Result;
use crate::rollup::{self, RollupLog};
use crate::store::{Accepted, StoreSize};

/// The answer to the question of the engine's state.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatusAnswer {
    /// Always true.
    pub ok: bool,
    /// When it was asked.
    pub ts: String,
    /// Version of the program.
    pub version: &'static str,
    /// Since when the engine is open.
    pub opened_at: String,
    /// Whether events can be accepted.
    pub writable: bool,
    /// How many were accepted.
    pub accepted: Accepted,
    /// Those that wait to be sealed.
    pub waiting: Waiting,
    /// How much the store holds.
    pub store: StoreSize,
    /// The day of the oldest event that is known.
    pub first_day: Option<NaiveDate>,
    /// The day of the newest event.
    pub last_day: Option<NaiveDate>,
    /// First day whose events are all kept; absent while none expired.
    pub raw_from: Option<NaiveDate>,
    /// First day whose daily state is kept; absent while none expired.
    pub states_from: Option<NaiveDate>,
    /// The last day that is believed of the clock: what expires is judged by it.
    pub looked_on: Option<NaiveDate>,
    /// The daily rollup.
    pub rollup: RollupStatus,
    /// Who watches the live events.
    pub watchers: usize,
    /// Every limit, how much of it is used, and how often it was reached.
    pub limits: Vec<LimitStatus>,
    /// Requests with a wrong dashboard key since the start.
    pub wrong_keys: u64,
}

/// A limit as the status shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LimitStatus {
    /// What is limited.
    pub name: &'static str,
    /// How much is allowed; 0 is no limit.
    pub limit: u64,
    /// How much is used; of a limit for each client by the one that uses most.
    pub used: u64,
    /// How often it was reached since the start.
    pub reached: u64,
}

/// Events that are in the log and in no segment yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// How many.
    pub events: usize,
    /// Since when the oldest waits.
    pub since: Option<String>,
    /// The same in seconds.
    pub seconds: u64,
}

/// How far the daily rollup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RollupStatus {
    /// The last day that was rolled up.
    pub last_day: Option<NaiveDate>,
    /// The last day that is due.
    pub due_day: NaiveDate,
}

/// The last day in the rollup log, read again only when the file has changed.
#[derive(Default)]
pub(super) struct LastRollup(Mutex<Option<(FileVersion, Option<NaiveDate>)>>);

type FileVersion = Option<(u64, SystemTime)>;

impl Engine {
    /// The state of the engine.
    ///
    /// # Errors
    /// If the rollup log cannot be read.
    pub fn status(&self, now: DateTime<Utc>) -> Result<StatusAnswer> {
        let store = self.store();
        let size = store.size();
        let lag = store.seal_lag();
        let since = lag.and_then(|lag| Some(now - TimeDelta::from_std(lag).ok()?));
        let expiry = store.expiry();
        Ok(StatusAnswer {
            ok: true,
            ts: seconds(now),
            version: env!("CARGO_PKG_VERSION"),
            opened_at: seconds(self.opened_at),
            writable: self.check_ready(now).is_ok(),
            accepted: store.accepted(),
            waiting: Waiting {
                events: size.log_events,
                since: since.map(seconds),
                seconds: lag.map_or(0, |lag| lag.as_secs()),
            },
            store: size,
            first_day: store.first_day(),
            last_day: store.last_day(),
            raw_from: expiry.raw_from,
            states_from: expiry.states_from,
            looked_on: expiry.looked_on,
            rollup: RollupStatus {
                last_day: self.last_rollup_day()?,
                due_day: rollup::last_due_day(now, self.config.rollup_at),
            },
            watchers: store.watchers(),
            limits: self.name_limits(),
            wrong_keys: 0,
        })
    }

    /// The limits of names, each with the events beyond it as how often it was reached.
    fn name_limits(&self) -> Vec<LimitStatus> {
        let used = self.store().name_use();
        let limits = self.config.names;
        let limit = |name, limit: u32, used, reached| LimitStatus {
            name,
            limit: limit.into(),
            used,
            reached,
        };
        vec![
            limit(
                "features_a_day",
                limits.features,
                used.features,
                used.rest.features,
            ),
            limit(
                "new_users_a_day",
                limits.new_users,
                used.new_users.into(),
                used.rest.users,
            ),
            limit(
                "metadata_keys_a_day",
                limits.metadata_keys,
                used.metadata_keys,
                used.rest.metadata_keys,
            ),
        ]
    }

    fn last_rollup_day(&self) -> Result<Option<NaiveDate>> {
        let folder = self.store().folder();
        let file = folder.path().join(rollup::FILE_NAME);
        let version = std::fs::metadata(file)
            .ok()
            .and_then(|file| Some((file.len(), file.modified().ok()?)));
        let mut last = self
            .last_rollup
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((known, day)) = *last
            && known == version
        {
            return Ok(day);
        }
        let day = RollupLog::load(folder)?.last_day();
        *last = Some((version, day));
        Ok(day)
    }
}

fn seconds(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
